//! Sessions with the registry: of administrators, and of clients that allocate objects.
//!
//! A session ends by `destroy`, or with its connection, which is closed when nothing has been heard over it for the time-out. With it end its objects, its lock, and what it has allocated.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::info;
use uuid::Uuid;

use super::allocation::{self, Allocations, Want};
use super::face::Grid;
use super::files;
use super::logger;
use super::observers;
use super::operation::{Raised, later, now, params};
use super::types::{AccessDeniedException, ObserverAlreadyRegisteredException};
use crate::ice::net::{
    Acm, Connection, Heartbeat, IdleClose, Incoming, Responder, Servant, Served,
};
use crate::ice::{Identity, Missing, Proxy};

/// How many sessions may be open at once.
const SESSIONS_MAX: usize = 1000;

/// How many objects a session may have: itself, its administration, and files that it reads.
const OBJECTS_MAX: usize = 100;

/// The name of the one registry there is.
pub(super) const REPLICA: &str = "Master";

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Administration.
    Admin,
    /// Allocating objects.
    Client,
}

/// The sessions that are open, and what they hold.
#[derive(Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Arc<Open>>>,
    /// Whose update is under way: the session, and its user.
    lock: Mutex<Option<(String, String)>>,
    pub(super) allocations: Allocations,
    /// Who ends sessions whose time is over.
    watching: Mutex<JoinSet<()>>,
}

/// A session that is open.
pub(super) struct Open {
    id: String,
    kind: Kind,
    pub(super) user: String,
    /// The objects that end with it.
    objects: Mutex<Vec<Identity>>,
    /// Ends it.
    end: mpsc::Sender<()>,
    observed: Mutex<Option<Vec<Identity>>>,
    connection: Connection,
    /// What comes after the instance in the category of the objects that its client serves. Servers hear it, so it is not the session's id,
    /// which is for nobody else.
    callback: String,
    pub(super) loggers: logger::Attached,
    /// How many milliseconds it waits for objects that it allocates.
    patience: AtomicI32,
}

impl Open {
    /// Forgets an object that has ended before the session.
    pub(super) fn forget(&self, identity: &Identity) {
        self.objects().retain(|known| known != identity);
    }

    /// Ends what is reached through it, and releases what it has.
    fn forget_everything(&self, grid: &Arc<Grid>) {
        grid.sessions.open().remove(&self.id);
        for identity in self.objects().drain(..) {
            grid.servants.remove_all(&identity);
        }
        if self.kind == Kind::Client {
            allocation::end(grid, &self.id);
        }
    }

    /// Has something done for as long as the session is open.
    pub(super) fn during(
        &self,
        grid: &Grid,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let ends = self.end.clone();
        let watching = &grid.sessions.watching;
        let mut watching = watching.lock().unwrap_or_else(PoisonError::into_inner);
        while watching.try_join_next().is_some() {}
        watching.spawn(async move {
            // Cancel safe: what is done for a session that has ended need not be done to its end.
            tokio::select! {
                () = work => {}
                () = ends.closed() => {}
            }
        })
    }

    fn objects(&self) -> MutexGuard<'_, Vec<Identity>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether no more sessions are opened.
    pub(super) fn are_too_many(&self) -> bool {
        self.open().len() >= SESSIONS_MAX
    }

    /// Returns an administrator's session that is open over a connection.
    pub(super) fn of_admin(&self, connection: &Connection) -> Option<Arc<Open>> {
        let open = self.open();
        let mut all = open.values();
        all.find(|open| open.kind == Kind::Admin && open.connection.id() == connection.id())
            .cloned()
    }

    /// Returns the connection over which objects of a category are reached that the client of a session serves.
    pub(super) fn callback(&self, category: &str) -> Option<Connection> {
        let open = self.open();
        let mut all = open.values();
        all.find(|open| open.callback == category)
            .map(|open| open.connection.clone())
    }

    /// Returns the user of the update that is under way, unless it is this session's.
    pub(super) fn locked_by_other(&self, session: &str) -> Option<String> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (owner, user) = lock.as_ref()?;
        (owner != session).then(|| user.clone())
    }

    /// Ends the tasks that watch sessions.
    pub(super) fn end_all(&self) {
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.abort_all();
        drop(watching);
        self.open().clear();
    }
}

/// Opens a session and returns its proxy.
pub(super) fn open(grid: &Arc<Grid>, kind: Kind, user: String, connection: &Connection) -> Proxy {
    // Nothing heard for the time-out closes the connection, and that ends the session. Heartbeats are heard, too.
    connection.set_acm(Acm {
        timeout: grid.settings.session_timeout,
        close: IdleClose::Forceful,
        heartbeat: Heartbeat::OnDispatch,
    });
    let id = Uuid::new_v4().to_string();
    let (end, ending) = mpsc::channel(1);
    let session = Arc::new(Open {
        id: id.clone(),
        kind,
        user: user.clone(),
        objects: Mutex::default(),
        end,
        observed: Mutex::default(),
        connection: connection.clone(),
        callback: Uuid::new_v4().to_string(),
        loggers: logger::Attached::default(),
        patience: AtomicI32::new(-1),
    });
    let identity = grid.settings.identity(&id);
    grid.servants.add(
        &identity,
        "",
        Arc::new(Session {
            grid: grid.clone(),
            session: session.clone(),
        }),
    );
    session.objects().push(identity.clone());
    if kind == Kind::Admin {
        let identity = grid.settings.identity(&admin_name(&id));
        grid.servants
            .add(&identity, "", grid.admin(user, id.clone()));
        session.objects().push(identity);
    }
    if kind == Kind::Client {
        grid.sessions.allocations.begin(&id);
    }
    grid.sessions.open().insert(id, session.clone());
    let watch = watch_over(grid.clone(), session, connection.clone(), ending);
    let mut watching = grid
        .sessions
        .watching
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    while watching.try_join_next().is_some() {}
    watching.spawn(watch);
    grid.at_client(identity)
}

/// The name of a session's administration: as little to be guessed as the session's.
fn admin_name(session: &str) -> String {
    format!("{session}-admin")
}

/// Ends a session when it is time.
async fn watch_over(
    grid: Arc<Grid>,
    session: Arc<Open>,
    connection: Connection,
    mut ending: mpsc::Receiver<()>,
) {
    // Cancel safe: both only wait.
    let why = tokio::select! {
        _ = ending.recv() => "destroyed",
        _ = connection.closed() => "its connection has ended",
    };
    session.forget_everything(&grid);
    {
        let mut lock = grid
            .sessions
            .lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lock.take_if(|(owner, _)| *owner == session.id);
    }
    info!(user = ?session.user, why, "a session with the registry has ended");
}

/// The servant of a session.
struct Session {
    grid: Arc<Grid>,
    session: Arc<Open>,
}

impl Servant for Session {
    fn types(&self) -> &[&str] {
        match self.session.kind {
            Kind::Admin => &["::IceGrid::AdminSession", "::Glacier2::Session"],
            Kind::Client => &["::IceGrid::Session", "::Glacier2::Session"],
        }
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let (grid, session) = (&self.grid, &self.session);
        match (session.kind, incoming.target().operation) {
            (_, "keepAlive") => now(responder, Ok(())),
            (_, "destroy") => {
                // It is gone when this is answered, with all that it has.
                session.forget_everything(grid);
                // Full means that it ends already.
                let _ = session.end.try_send(());
                now(responder, Ok(()))
            }
            (Kind::Admin, operation) => self.admin(operation, incoming, responder),
            (Kind::Client, operation) => self.client(operation, incoming, responder),
        }
    }
}

impl Session {
    fn admin(&self, operation: &str, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let (grid, session) = (&self.grid, &self.session);
        match operation {
            "getAdmin" => {
                let identity = grid.settings.identity(&admin_name(&session.id));
                now(responder, Ok(Some(grid.at_client(identity))))
            }
            "getReplicaName" => now(responder, Ok(REPLICA.to_owned())),
            "getAdminCallbackTemplate" => {
                let identity = Identity {
                    name: "pick-a-name".to_owned(),
                    category: format!("{}-{}", grid.settings.instance, session.callback),
                };
                now(responder, Ok(Some(grid.at_server(identity))))
            }
            "setObserversByIdentity" => {
                type Five = (Identity, Identity, Identity, Identity, Identity);
                let asked = params::<Five>(incoming);
                match asked {
                    Err(raised) => now::<()>(responder, Err(raised)),
                    Ok((a, b, c, d, e)) => {
                        let over = incoming.connection.clone();
                        let all = [a, b, c, d, e].map(|identity| {
                            (!identity.is_nil())
                                .then(|| observers::To::Over(over.clone(), identity))
                        });
                        self.observe(all, responder)
                    }
                }
            }
            "setObservers" => {
                type P = Option<Proxy>;
                match params::<(P, P, P, P, P)>(incoming) {
                    Err(raised) => now::<()>(responder, Err(raised)),
                    Ok((a, b, c, d, e)) => {
                        let all = [a, b, c, d, e]
                            .map(|proxy| proxy.map(|proxy| observers::To::Proxy(Box::new(proxy))));
                        self.observe(all, responder)
                    }
                }
            }
            "startUpdate" => {
                let other = {
                    let mut lock = grid
                        .sessions
                        .lock
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    // Whoever has it already may take it again.
                    let (owner, user) =
                        lock.get_or_insert_with(|| (session.id.clone(), session.user.clone()));
                    (*owner != session.id).then(|| user.clone())
                };
                let grid = grid.clone();
                later(responder, async move {
                    match other {
                        Some(user) => Err(access_denied(&user)),
                        None => Ok(observers::serial(&grid).await),
                    }
                })
            }
            "finishUpdate" => {
                let mut lock = grid
                    .sessions
                    .lock
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let finished = match lock.take_if(|(owner, _)| *owner == session.id) {
                    Some(_) => Ok(()),
                    None => {
                        let user = lock.as_ref().map(|(_, user)| user.as_str());
                        Err(access_denied(user.unwrap_or_default()))
                    }
                };
                now(responder, finished)
            }
            "openServerLog" | "openServerStdErr" | "openServerStdOut" | "openNodeStdErr"
            | "openNodeStdOut" | "openRegistryStdErr" | "openRegistryStdOut" => {
                let opened = match session.objects().len() < OBJECTS_MAX {
                    true => files::open(grid, operation, incoming),
                    false => Err(files::unavailable("too many files are open")),
                };
                let (grid, session) = (grid.clone(), session.clone());
                match opened {
                    Err(raised) => now::<()>(responder, Err(raised)),
                    Ok(asked) => later(responder, async move {
                        let iterator = files::find(&grid, asked).await?;
                        let identity = grid.settings.identity(&Uuid::new_v4().to_string());
                        grid.servants.add(
                            &identity,
                            "",
                            Arc::new(files::FileIterator::new(
                                &grid,
                                &session,
                                identity.clone(),
                                iterator,
                            )),
                        );
                        session.objects().push(identity.clone());
                        Ok(Some(grid.at_client(identity)))
                    }),
                }
            }
            _ => responder.missing(Missing::Operation),
        }
    }

    /// Tells observers how everything is, and from then on what changes; answers when they know how it is.
    fn observe(&self, all: [Option<observers::To>; 5], responder: Responder<'_>) -> Served {
        let (grid, session) = (self.grid.clone(), self.session.clone());
        let (ready, told) = tokio::sync::oneshot::channel();
        let ids: Vec<Identity> = all
            .iter()
            .flatten()
            .map(|to| to.identity().clone())
            .collect();
        {
            let mut observed = session
                .observed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = observed.as_ref().and_then(|known| known.first()) {
                let already = ObserverAlreadyRegisteredException { id: known.clone() };
                return now::<()>(responder, Err(already.into()));
            }
            *observed = Some(ids);
        }
        session.during(&grid, observers::observe(grid.clone(), all, ready));
        later(responder, async move {
            // One that cannot be told is dropped, and is no failure of this call.
            let _ = told.await;
            Ok(())
        })
    }

    fn client(&self, operation: &str, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let (grid, session) = (&self.grid, &self.session);
        let want = match operation {
            "allocateObjectById" => params::<Identity>(incoming).map(Want::Object),
            "allocateObjectByType" => params::<String>(incoming).map(Want::OfType),
            "releaseObject" => {
                let released = params::<Identity>(incoming)
                    .and_then(|id| allocation::release(grid, &session.id, id));
                return now(responder, released);
            }
            "setAllocationTimeout" => {
                let set = params::<i32>(incoming).map(|milliseconds| {
                    session.patience.store(milliseconds, Ordering::Relaxed);
                });
                return now(responder, set);
            }
            _ => return responder.missing(Missing::Operation),
        };
        let (grid, session) = (grid.clone(), session.clone());
        match want {
            Err(raised) => now::<()>(responder, Err(raised)),
            Ok(want) => later(responder, async move {
                let patience = session.patience.load(Ordering::Relaxed);
                // Below zero is for ever.
                let limit = u64::try_from(patience).ok().map(Duration::from_millis);
                allocation::allocate(&grid, &session.id, want, limit).await
            }),
        }
    }
}

fn access_denied(user: &str) -> Raised {
    AccessDeniedException {
        lock_user_id: user.to_owned(),
    }
    .into()
}
