//! `IceGrid/LocatorRegistry`: where servers say that they listen, and how they can be asked to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{debug, info};

use super::face::Grid;
use super::operation::{Outcome, Raised, later, now, params};
use super::types::{
    AdapterAlreadyActiveException, AdapterNotFoundException, ServerNotFoundException,
};
use crate::ice::net::{Connection, Incoming, Responder, Servant, Served};
use crate::ice::{Missing, Proxy};
use crate::ipc::RefusalKind;
use crate::ipc::message::node::{Registered, Registration};
use crate::model::ServerId;
use crate::sys::tcp::{self, Owner};

/// Of how many connections it is remembered whose they are.
const REMEMBERED: usize = 4096;

/// A process that there is none of: what comes from a process that has ended is nobody's.
const NOBODY: u32 = 0;

/// The registrations.
pub(super) struct LocatorRegistry {
    grid: Arc<Grid>,
    /// The processes at the other ends of connections, where that is known.
    owners: Arc<Mutex<HashMap<u64, Option<u32>>>>,
}

impl LocatorRegistry {
    pub(super) fn new(grid: Arc<Grid>) -> Self {
        Self {
            grid,
            owners: Arc::default(),
        }
    }
}

impl Servant for LocatorRegistry {
    fn types(&self) -> &[&str] {
        &["::Ice::LocatorRegistry"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let asked: Outcome<(String, Option<String>, Option<Proxy>, bool)> =
            match incoming.target().operation {
                "setAdapterDirectProxy" => params::<(String, Option<Proxy>)>(incoming)
                    .map(|(id, proxy)| (id, None, proxy, false)),
                "setReplicatedAdapterDirectProxy" => {
                    params::<(String, String, Option<Proxy>)>(incoming)
                        .map(|(id, group, proxy)| (id, Some(group), proxy, false))
                }
                "setServerProcessProxy" => params::<(String, Option<Proxy>)>(incoming)
                    .map(|(id, proxy)| (id, None, proxy, true)),
                _ => return responder.missing(Missing::Operation),
            };
        let (id, group, proxy, process) = match asked {
            Ok(asked) => asked,
            Err(raised) => return now::<()>(responder, Err(raised)),
        };
        let (grid, owners) = (self.grid.clone(), self.owners.clone());
        let connection = incoming.connection.clone();
        later(responder, async move {
            match process {
                true => set_process(&grid, &id, proxy, &connection, &owners).await,
                false => {
                    let group = group.unwrap_or_default();
                    set_adapter(&grid, &id, &group, proxy, &connection, &owners).await
                }
            }
        })
    }
}

type Owners = Mutex<HashMap<u64, Option<u32>>>;

/// Returns the process at the other end of a connection, if that can be known.
async fn from(
    grid: &Grid,
    server: &ServerId,
    connection: &Connection,
    owners: &Owners,
) -> Option<u32> {
    let known = |owners: &Owners| {
        let owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.get(&connection.id()).copied()
    };
    if let Some(owner) = known(owners) {
        return owner;
    }
    let (peer, local) = (connection.peer(), connection.local());
    let first = grid.handle.report(server).and_then(|report| report.pid);
    // The whole of `/proc` may have to be looked through.
    let looked = tokio::task::spawn_blocking(move || tcp::owner(peer, local, first)).await;
    let owner = match looked {
        Ok(Owner::Process(pid)) => Some(pid),
        Ok(Owner::Gone) => Some(NOBODY),
        Ok(Owner::Unknown) | Err(_) => None,
    };
    let mut owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
    if owners.len() >= REMEMBERED {
        owners.clear();
    }
    // One that has ended by now may have been somebody's.
    if owner != Some(NOBODY) {
        owners.insert(connection.id(), owner);
    }
    owner
}

async fn set_adapter(
    grid: &Grid,
    id: &str,
    group: &str,
    proxy: Option<Proxy>,
    connection: &Connection,
    owners: &Owners,
) -> Outcome<()> {
    if id.is_empty() {
        return Ok(());
    }
    let known = grid.handle.registry().adapter(id).cloned();
    let not_found = || Raised::from(AdapterNotFoundException {});
    let Some(server) = known.as_ref().and_then(|known| known.server.clone()) else {
        return set_dynamic(grid, id, group, proxy, known.is_some()).await;
    };
    // A group that is wrong makes the adapter another one, as with IceGrid.
    if known.is_some_and(|known| !group.is_empty() && known.group != group) {
        return Err(not_found());
    }
    let from = from(grid, &server, connection, owners).await;
    let what = Registration::Adapter {
        adapter: id.to_owned(),
        proxy: proxy.map(|proxy| proxy.to_string()),
    };
    match grid.handle.register(&server, what, from).await {
        Ok(Registered::Taken) => Ok(()),
        Ok(Registered::Stale) => {
            info!(%server, adapter = ?id, pid = from, "a process that is not the server's registers its adapter; it is not heard");
            Ok(())
        }
        Ok(Registered::AlreadyActive) => Err(AdapterAlreadyActiveException {}.into()),
        Ok(Registered::NoSuchAdapter) => Err(not_found()),
        Err(refusal) => {
            debug!(%server, adapter = ?id, %refusal, "an adapter is not registered");
            Err(not_found())
        }
    }
}

/// Registers an adapter that is not deployed.
async fn set_dynamic(
    grid: &Grid,
    id: &str,
    group: &str,
    proxy: Option<Proxy>,
    known: bool,
) -> Outcome<()> {
    let is_group = {
        let registry = grid.handle.registry();
        let is_group = registry.group(id).is_some();
        // The members of a group that is deployed are those that are deployed.
        let deployed = registry.group(group).is_some_and(|group| {
            let mut members = group.members.iter().filter_map(|id| registry.adapter(id));
            members.any(|adapter| adapter.server.is_some())
        });
        is_group || (!group.is_empty() && deployed)
    };
    if !grid.settings.dynamic || is_group {
        return Err(AdapterNotFoundException {}.into());
    }
    let listens = proxy.as_ref().map(|proxy| (proxy, group));
    if listens.is_none() && !known {
        return Ok(());
    }
    match grid.handle.set_adapter(id, listens).await {
        Ok(()) => Ok(()),
        Err(refusal) => Err(Raised::Failed(refusal.to_string())),
    }
}

async fn set_process(
    grid: &Grid,
    id: &str,
    proxy: Option<Proxy>,
    connection: &Connection,
    owners: &Owners,
) -> Outcome<()> {
    let not_found = || Raised::from(ServerNotFoundException {});
    let server: ServerId = id.parse().map_err(|_| not_found())?;
    if grid.handle.registry().server(&server).is_none() {
        return Err(not_found());
    }
    let from = from(grid, &server, connection, owners).await;
    let what = Registration::Process {
        proxy: proxy.map(|proxy| proxy.to_string()),
    };
    match grid.handle.register(&server, what, from).await {
        Ok(Registered::Taken | Registered::AlreadyActive) => Ok(()),
        Ok(Registered::Stale | Registered::NoSuchAdapter) => {
            info!(%server, pid = from, "a process that is not the server's registers itself; it is not heard");
            Ok(())
        }
        Err(refusal) if refusal.kind == RefusalKind::NotFound => Err(not_found()),
        Err(refusal) => Err(Raised::Failed(refusal.to_string())),
    }
}
