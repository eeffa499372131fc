//! The Blitz among Ice servers: its adapter, and what Glacier2 routers find there.
//!
//! This module owns the adapter, the objects in it, and who has shown a password lately. Sessions are the Blitz's own: it is asked as by any
//! other client. The adapter lives as long as the process, so that what clients hold stays true when the database turns; proxies that are
//! given out name this process and never the group. Nobody has a session for having reached the port: whoever may have one was verified
//! within the last minute (`tickets`), by the Blitz where the session belongs (`peers`).

mod admin;
mod answer;
mod manager;
mod peers;
mod registration;
mod registry;
mod ring;
mod session;
mod settings;
mod tickets;
mod types;
mod verifier;

pub use settings::IceError;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use self::admin::Admin;
use self::peers::Belongs;
use self::registration::Registered;
use self::registry::Registry;
use self::session::Object;
use self::settings::Settings;
use self::tickets::Tickets;
use super::service::Blitz;
use crate::ice::net::{Adapter, Answer, Call, Servants};
use crate::ice::{Endpoint, Identity, Proxy, Reference};
use crate::ipc::message::blitz::Event;
use crate::model::{ServerId, SessionId};

/// How long a call waits for a Blitz whose database turns.
const TURNING: Duration = Duration::from_secs(10);

/// What the objects of the adapter have in common.
pub(super) struct Door {
    server: ServerId,
    settings: Settings,
    /// Where this process listens.
    endpoints: Vec<Endpoint>,
    servants: Arc<Servants>,
    /// The properties that the process has begun with.
    properties: BTreeMap<String, String>,
    registry: watch::Sender<Arc<Registry>>,
    /// The Blitz of this life; `None` between two.
    blitz: watch::Sender<Option<Weak<Blitz>>>,
    /// Becomes true when there will be none any more.
    ended: watch::Sender<bool>,
    tickets: Mutex<Tickets>,
    /// The objects of the sessions that are open here, one for each client, and how often that client is in it.
    open: Mutex<HashMap<SessionId, HashMap<Identity, u32>>>,
}

/// The adapter, and what is behind it.
pub(super) struct Face {
    adapter: Adapter,
    admin: Option<Admin>,
    door: Arc<Door>,
}

impl Face {
    /// Listens, if the properties say where; answers nothing yet. `uuid` is OMERO's node UUID, `stop` is what ends the Blitz.
    pub(super) async fn open(
        server: &ServerId,
        uuid: &str,
        properties: &BTreeMap<String, String>,
        stop: watch::Sender<bool>,
    ) -> Result<Option<Self>, IceError> {
        let Some(settings) = Settings::of(properties)? else {
            return Ok(None);
        };
        let servants = Arc::new(Servants::new());
        let net = settings.net.clone();
        let adapter = Adapter::bind(&settings.endpoints, net, servants.clone())
            .await
            .map_err(IceError::Bind)?;
        let door = Arc::new(Door {
            server: server.clone(),
            endpoints: adapter.endpoints().to_vec(),
            properties: properties.clone(),
            registry: watch::Sender::new(Arc::new(Registry::new(&settings))),
            settings,
            servants,
            blitz: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            tickets: Mutex::default(),
            open: Mutex::default(),
        });
        let add = |name: &str, category: &str, servant| {
            let identity = Identity {
                name: name.to_owned(),
                category: category.to_owned(),
            };
            door.servants.add(&identity, "", servant);
        };
        // The objects are in the door, which must not be kept by them.
        let me = Arc::downgrade(&door);
        let admin = Admin::open(&door.settings, me.clone(), server, stop).await?;
        add(
            "BlitzVerifier",
            "",
            Arc::new(verifier::Verifier(me.clone())),
        );
        add("BlitzManager", "", Arc::new(manager::Manager(me)));
        let node = ring::Node {
            server: server.clone(),
            uuid: uuid.to_owned(),
        };
        add(uuid, "ClusterNode", Arc::new(node));
        Ok(Some(Self {
            adapter,
            admin,
            door,
        }))
    }

    /// Returns what the lives of the Blitz are told to.
    pub(super) fn door(&self) -> Arc<Door> {
        self.door.clone()
    }

    /// Serves, and is in the registry as soon as that answers, until `stop` becomes true.
    pub(super) async fn serve(self, stop: watch::Receiver<bool>) {
        let Self {
            adapter,
            admin,
            door,
        } = self;
        let endpoints: Vec<String> = door.endpoints.iter().map(ToString::to_string).collect();
        info!(server = %door.server, ?endpoints, "serves Ice");
        let registered = Registered {
            server: &door.server,
            settings: &door.settings,
            at: adapter.proxy(Identity::new("dummy")),
            process: admin.as_ref().map(|admin| admin.process.clone()),
        };
        let registered = registration::keep(&registered, door.registry.subscribe(), stop.clone());
        let administrated = async {
            if let Some(admin) = admin {
                admin.adapter.serve(stop.clone()).await;
            }
        };
        let ended = async {
            // An error means that the sender is gone: stop too.
            let _ = stop.clone().wait_for(|stop| *stop).await;
            door.ended.send_replace(true);
        };
        let served = adapter.serve(stop.clone());
        tokio::join!(registered, ended, administrated, served);
        let registry = door.registry();
        registry.client.close().await;
    }
}

impl Door {
    /// Answers for a life of the Blitz until `ending` becomes true; forgets the objects of sessions that end.
    pub(super) async fn attend(
        self: Arc<Self>,
        blitz: Arc<Blitz>,
        mut ending: watch::Receiver<bool>,
    ) {
        let mut events = blitz.hub.listen(|| None);
        let mut settings = blitz.settings_changes();
        self.keep_only_open(&blitz);
        self.blitz.send_replace(Some(Arc::downgrade(&blitz)));
        loop {
            let event = tokio::select! {
                // Cancel safe: `wait_for` only reads, and an event stays in the channel.
                _ = ending.wait_for(|ending| *ending) => break,
                Some(event) = events.recv() => event,
                Ok(()) = settings.changed() => {
                    let all = settings.borrow_and_update().clone();
                    self.follow(&all.all);
                    continue;
                }
                else => break,
            };
            match event {
                Event::Closed { ids } => ids.into_iter().for_each(|id| self.forget(id)),
                Event::Resync => self.keep_only_open(&blitz),
                Event::Opened { .. } | Event::Status(_) => {}
            }
        }
        self.blitz.send_replace(None);
    }

    /// Goes to another registry, where the properties say so.
    fn follow(&self, properties: &BTreeMap<String, String>) {
        match Settings::of(properties) {
            Ok(Some(now)) if now.locator != self.registry().locator => {
                info!(server = %self.server, locator = %now.locator, "the registry listens elsewhere");
                self.registry.send_replace(Arc::new(Registry::new(&now)));
            }
            Ok(_) => {}
            Err(error) => {
                let error = crate::telemetry::chain(&error);
                warn!(server = %self.server, %error, "cannot follow the registry");
            }
        }
    }

    fn registry(&self) -> Arc<Registry> {
        self.registry.borrow().clone()
    }

    /// Returns the properties as they are now.
    fn properties(&self) -> BTreeMap<String, String> {
        let blitz = self.blitz.borrow().as_ref().and_then(Weak::upgrade);
        match blitz {
            Some(blitz) => blitz.settings().all.clone(),
            None => self.properties.clone(),
        }
    }

    /// Says where a new session of this user belongs, who has come here; with `stays` only whether it may be opened here.
    async fn belongs(&self, call: &Call, user: &str, stays: bool) -> Belongs {
        peers::belongs(&self.settings, &self.registry(), call, user, stays).await
    }

    /// Passes a call on to the Blitz with this adapter.
    async fn pass_to(&self, adapter: &str, call: &Call) -> Option<Answer> {
        peers::pass_to(adapter, &self.settings, &self.registry(), call).await
    }

    /// Passes a call on to whichever other Blitz can answer for it.
    async fn pass_on(&self, call: &Call) -> Option<Answer> {
        peers::pass_on(&self.settings, &self.registry(), call).await
    }

    /// Returns the Blitz; waits for a moment if its database turns.
    async fn blitz(&self) -> Option<Arc<Blitz>> {
        let now = self.blitz.borrow().clone();
        if let Some(blitz) = now {
            return blitz.upgrade();
        }
        let (mut blitz, mut ended) = (self.blitz.subscribe(), self.ended.subscribe());
        tokio::select! {
            // Cancel safe: sleeping loses nothing, and `wait_for` only reads.
            found = blitz.wait_for(Option::is_some) => found.ok()?.as_ref()?.upgrade(),
            _ = ended.wait_for(|ended| *ended) => None,
            () = tokio::time::sleep(TURNING) => None,
        }
    }

    /// Returns a proxy to an object of this process.
    fn proxy(&self, identity: Identity) -> Proxy {
        Proxy::new(identity, Reference::Direct(self.endpoints.clone()))
    }

    /// Makes the object of a client's session. A client that comes again before its lost connection is noticed has the same object.
    fn seat(self: &Arc<Self>, uuid: SessionId, client: &str) -> Identity {
        let identity = Identity {
            name: uuid.reveal(),
            category: session::category(client),
        };
        let mut open = self.open();
        let times = open
            .entry(uuid)
            .or_default()
            .entry(identity.clone())
            .or_default();
        if *times == 0 {
            let object = Object::new(Arc::downgrade(self), uuid);
            self.servants.add(&identity, "", Arc::new(object));
        }
        *times += 1;
        identity
    }

    /// Has a client leave, and takes its object away if it was in it once only; false if it was not in it.
    fn leave(&self, uuid: SessionId, identity: &Identity) -> bool {
        let mut open = self.open();
        let Some(of_session) = open.get_mut(&uuid) else {
            return false;
        };
        let Some(times) = of_session.get_mut(identity) else {
            return false;
        };
        *times -= 1;
        if *times == 0 {
            of_session.remove(identity);
            self.servants.remove(identity, "");
        }
        if of_session.is_empty() {
            open.remove(&uuid);
        }
        true
    }

    /// Takes away the objects of a session that has ended.
    fn forget(&self, uuid: SessionId) {
        let mut open = self.open();
        for identity in open.remove(&uuid).unwrap_or_default().into_keys() {
            self.servants.remove(&identity, "");
        }
    }

    fn keep_only_open(&self, blitz: &Blitz) {
        let known: Vec<SessionId> = self.open().keys().copied().collect();
        for uuid in known {
            let is_open = blitz.with_sessions(|sessions, now| sessions.view(uuid, now).is_some());
            if !is_open {
                self.forget(uuid);
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SessionId, HashMap<Identity, u32>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
