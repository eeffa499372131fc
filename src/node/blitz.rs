//! The node's connections to its built-in Blitzes: what they say of themselves and of their sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::Context;
use crate::ipc::message::blitz::{BlitzLink, Event, Reply, Request};
use crate::ipc::{Address, CallError, Client, Hello, Role};
use crate::model::{ServerId, SessionId};
use crate::sys::watch::appearance;
use crate::telemetry::chain;

/// The pause before a lost connection is made again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// How many ids a Blitz is asked for at once.
const PAGE: u32 = 1000;

/// How many messages about sessions a slow reader may be behind before it has to begin anew.
const BACKLOG: usize = 256;

/// What happened to the sessions of a Blitz.
#[derive(Debug, Clone)]
pub(crate) enum Sessions {
    /// They have to be asked for anew.
    Anew(ServerId),
    /// Some were opened.
    Opened(ServerId, Vec<SessionId>),
    /// Some ended.
    Closed(ServerId, Vec<SessionId>),
}

/// The Blitzes that are connected, and what they tell.
pub(crate) struct Blitzes {
    clients: Mutex<BTreeMap<ServerId, Client<BlitzLink>>>,
    sessions: broadcast::Sender<Sessions>,
    /// Those that are to take no new sessions.
    draining: watch::Sender<BTreeSet<ServerId>>,
    /// What each may be told of its properties while it runs.
    properties: watch::Sender<BTreeMap<ServerId, Properties>>,
}

/// The properties that a running Blitz is told.
type Properties = BTreeMap<String, String>;

impl Blitzes {
    /// Makes an empty list.
    pub(crate) fn new() -> Self {
        Self {
            clients: Mutex::default(),
            sessions: broadcast::Sender::new(BACKLOG),
            draining: watch::Sender::default(),
            properties: watch::Sender::default(),
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, BTreeMap<ServerId, Client<BlitzLink>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection to a Blitz, if there is one.
    pub(crate) fn client(&self, id: &ServerId) -> Option<Client<BlitzLink>> {
        self.clients().get(id).cloned()
    }

    /// Says which Blitzes are to take no new sessions; those that are connected are told at once.
    pub(crate) fn drain(&self, ids: BTreeSet<ServerId>) {
        self.draining.send_if_modified(|draining| {
            let differs = *draining != ids;
            *draining = ids;
            differs
        });
    }

    /// Says what the Blitzes may be told of their properties; those that are connected are told at once.
    pub(crate) fn configure(&self, properties: BTreeMap<ServerId, Properties>) {
        self.properties.send_if_modified(|known| {
            let differs = *known != properties;
            *known = properties;
            differs
        });
    }

    /// Returns the ids of those that are connected.
    pub(crate) fn ids(&self) -> Vec<ServerId> {
        self.clients().keys().cloned().collect()
    }

    /// Returns what tells of sessions from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Sessions> {
        self.sessions.subscribe()
    }

    fn tell(&self, sessions: Sessions) {
        // Without a master nobody listens.
        let _ = self.sessions.send(sessions);
    }
}

/// Hands all open sessions of a Blitz to `page`, page by page. Returns false if they could not all be had; then
/// [`Sessions::Anew`] follows when the Blitz is there again.
pub(crate) async fn all_sessions<F, R>(client: &Client<BlitzLink>, mut page: F) -> bool
where
    F: FnMut(Vec<SessionId>) -> R,
    R: Future<Output = bool>,
{
    let mut after = None;
    loop {
        let request = Request::Ids { after, limit: PAGE };
        match client.call(&request).await {
            Ok(Reply::Ids { ids, more }) => {
                let last = ids.last().copied();
                if !page(ids).await {
                    return false;
                }
                // A page that does not advance would be asked for for ever.
                if !more || last <= after {
                    return true;
                }
                after = last;
            }
            Ok(other) => {
                warn!(?other, "a Blitz answered something else");
                return false;
            }
            Err(error) => {
                debug!(error = %chain(&error), "cannot ask a Blitz for its sessions");
                return false;
            }
        }
    }
}

/// Keeps a connection to a Blitz for as long as its process runs.
#[derive(Debug)]
pub(crate) struct Connection {
    task: JoinHandle<()>,
    // Only held: dropped with the connection.
    _gone: Gone,
}

/// Takes a Blitz off the list when its process is gone.
struct Gone(Arc<Context>, ServerId);

impl std::fmt::Debug for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gone").field(&self.1).finish()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.blitzes.clients().remove(&self.1);
        self.0.board.put_blitz(&self.1, None);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Begins to connect to the Blitz.
    pub(crate) fn open(context: &Arc<Context>, id: &ServerId) -> Self {
        let task = tokio::spawn(keep(context.clone(), id.clone()));
        Self {
            task,
            _gone: Gone(context.clone(), id.clone()),
        }
    }
}

async fn keep(context: Arc<Context>, id: ServerId) {
    let path = context.run.socket(Address::Blitz(&id));
    let me = Hello::new(Role::Node, context.name.as_str());
    let mut pause = PAUSES.0;
    loop {
        if let Err(error) = appearance(&path).await {
            warn!(server = %id, %error, "cannot wait for the socket of a Blitz");
        }
        match Client::<BlitzLink>::connect(&path, &me).await {
            Ok((client, peer, events)) if peer.name == id.as_str() => {
                info!(server = %id, pid = peer.pid, "connected to a Blitz");
                pause = PAUSES.0;
                context.blitzes.clients().insert(id.clone(), client.clone());
                context.blitzes.tell(Sessions::Anew(id.clone()));
                // Cancel safe: what is heard ends with the connection.
                tokio::select! {
                    () = hear(&context, &id, events) => {}
                    () = tell(&context, &id, &client) => {}
                    () = tell_properties(&context, &id, &client) => {}
                }
                context.blitzes.clients().remove(&id);
                context.board.put_blitz(&id, None);
                warn!(server = %id, delay_ms = pause.as_millis() as u64, "lost the connection to a Blitz");
            }
            Ok((_, peer, _)) => warn!(server = %id, ?peer, "another Blitz answers in its place"),
            Err(error) => debug!(server = %id, error = %chain(&error), "cannot connect to a Blitz"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Tells a Blitz whether to take new sessions, at first and whenever that changes; ends with the connection.
async fn tell(context: &Context, id: &ServerId, client: &Client<BlitzLink>) {
    let mut ids = context.blitzes.draining.subscribe();
    let mut told = None;
    loop {
        let draining = ids.borrow_and_update().contains(id);
        if told != Some(draining) {
            match client.call(&Request::Drain { draining }).await {
                Ok(_) => told = Some(draining),
                Err(CallError::Refused(refusal)) => {
                    warn!(server = %id, %refusal, "a Blitz does not want to hear whether to take sessions");
                    told = Some(draining);
                }
                Err(error) => {
                    debug!(server = %id, error = %chain(&error), "lost a Blitz that was told whether to take sessions");
                    // Its events end too.
                    return std::future::pending().await;
                }
            }
        }
        if ids.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Tells a Blitz those properties that may change while it runs, at first and whenever they change; ends with the connection.
async fn tell_properties(context: &Context, id: &ServerId, client: &Client<BlitzLink>) {
    let mut all = context.blitzes.properties.subscribe();
    let mut told = None;
    loop {
        let properties = all.borrow_and_update().get(id).cloned();
        if told != properties
            && let Some(properties) = properties
        {
            let request = Request::Configure {
                properties: properties.clone(),
            };
            match client.call(&request).await {
                Ok(_) => {}
                Err(CallError::Refused(refusal)) => {
                    warn!(server = %id, %refusal, "a Blitz does not take its changed properties");
                }
                // Its events end too.
                Err(_) => return std::future::pending().await,
            }
            told = Some(properties);
        }
        if all.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn hear(context: &Context, id: &ServerId, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Status(status) => context.board.put_blitz(id, Some(status)),
            Event::Opened { ids } => context.blitzes.tell(Sessions::Opened(id.clone(), ids)),
            Event::Closed { ids } => context.blitzes.tell(Sessions::Closed(id.clone(), ids)),
            Event::Resync => context.blitzes.tell(Sessions::Anew(id.clone())),
        }
    }
}
