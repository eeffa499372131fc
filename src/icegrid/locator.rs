//! `IceGrid/Locator`, `IceGrid/Query` and `Ice/LocatorFinder`: where objects and adapters are.

use std::sync::Arc;

use super::face::Grid;
use super::locate::Found;
use super::operation::{Outcome, Raised, later, now, params};
use super::types::{AdapterNotFoundException, LoadSample, ObjectNotFoundException};
use crate::ice::net::{Incoming, Responder, Servant, Served};
use crate::ice::{Encoding, Identity, Missing, Proxy, Reference};

/// The locator.
pub(super) struct Locator(pub(super) Arc<Grid>);

impl Servant for Locator {
    fn types(&self) -> &[&str] {
        &["::IceGrid::Locator", "::Ice::Locator"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let grid = &self.0;
        match incoming.target().operation {
            "findAdapterById" => find_adapter(grid, incoming, responder),
            "findObjectById" => {
                let found = params::<Identity>(incoming).and_then(|identity| {
                    let found = grid.object(&identity);
                    found
                        .map(Some)
                        .ok_or_else(|| ObjectNotFoundException {}.into())
                });
                now(responder, found)
            }
            "getRegistry" => now(responder, Ok(Some(grid.locator_registry()))),
            "getLocalRegistry" => now(responder, Ok(Some(grid.own("Registry")))),
            "getLocalQuery" => now(responder, Ok(Some(grid.own("Query")))),
            _ => responder.missing(Missing::Operation),
        }
    }
}

fn find_adapter(grid: &Arc<Grid>, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
    let id = match params::<&str>(incoming) {
        Ok(id) => id,
        Err(raised) => return now::<()>(responder, Err(raised)),
    };
    let encoding = responder.encoding();
    // Where the load of nodes counts and is not known, it is asked for first.
    if grid.loads_are_fresh_for(id) {
        match grid.find(id, encoding) {
            Found::Nothing => {
                return now::<()>(responder, Err(AdapterNotFoundException {}.into()));
            }
            Found::Known { proxy, startable } if proxy.is_some() || startable.is_empty() => {
                grid.start_behind(&startable);
                return now(responder, Ok(proxy));
            }
            Found::Known { .. } => {}
        }
    }
    let (grid, id) = (grid.clone(), id.to_owned());
    later(responder, async move {
        wait_for_adapter(&grid, &id, encoding).await
    })
}

/// Finds an adapter; where nobody listens and somebody can be started who will, does so and waits.
async fn wait_for_adapter(
    grid: &Arc<Grid>,
    id: &str,
    encoding: Encoding,
) -> Outcome<Option<Proxy>> {
    grid.refresh_loads(id).await;
    match grid.find(id, encoding) {
        Found::Nothing => Err(AdapterNotFoundException {}.into()),
        Found::Known { proxy, startable } if proxy.is_some() || startable.is_empty() => {
            grid.start_behind(&startable);
            Ok(proxy)
        }
        Found::Known { startable, .. } => {
            grid.start_for(id, &startable).await;
            match grid.find(id, encoding) {
                Found::Known { proxy, .. } => Ok(proxy),
                Found::Nothing => Err(AdapterNotFoundException {}.into()),
            }
        }
    }
}

/// The queries.
pub(super) struct Query(pub(super) Arc<Grid>);

impl Servant for Query {
    fn types(&self) -> &[&str] {
        &["::IceGrid::Query"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let grid = &self.0;
        match incoming.target().operation {
            "findObjectById" => {
                let found = params::<Identity>(incoming).map(|identity| grid.object(&identity));
                now(responder, found)
            }
            "findObjectByType" => {
                let found = params::<&str>(incoming).map(|of| {
                    let mut all = grid.objects_by_type(of);
                    match all.len() {
                        0 => None,
                        count => Some(all.swap_remove(rand::random_range(0..count))),
                    }
                });
                now(responder, found)
            }
            "findAllObjectsByType" => {
                let found = params::<&str>(incoming).map(|of| {
                    let all = grid.objects_by_type(of);
                    all.into_iter().map(Some).collect::<Vec<_>>()
                });
                now(responder, found)
            }
            "findObjectByTypeOnLeastLoadedNode" => match params::<(String, LoadSample)>(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok((of, sample)) => {
                    let grid = grid.clone();
                    later(responder, async move {
                        Ok::<_, Raised>(grid.object_on_least_loaded(&of, sample).await)
                    })
                }
            },
            "findAllReplicas" => {
                let found = params::<Option<Proxy>>(incoming).map(|proxy| replicas(grid, proxy));
                now(responder, found)
            }
            _ => responder.missing(Missing::Operation),
        }
    }
}

/// Returns an object of a replica group once for each of its adapters. Which group that is, is what a proxy says, or what is known of its
/// identity.
fn replicas(grid: &Grid, proxy: Option<Proxy>) -> Vec<Option<Proxy>> {
    let proxy = match proxy {
        Some(proxy) if matches!(proxy.reference, Reference::Indirect(_)) => Some(proxy),
        Some(proxy) => grid.object(&proxy.identity),
        None => None,
    };
    let Some(proxy) = proxy else {
        return Vec::new();
    };
    let Reference::Indirect(id) = &proxy.reference else {
        return Vec::new();
    };
    let registry = grid.handle.registry();
    let members = registry.group(id).map(|group| group.members.clone());
    members
        .unwrap_or_default()
        .into_iter()
        .map(|adapter| {
            Some(Proxy {
                reference: Reference::Indirect(adapter),
                ..proxy.clone()
            })
        })
        .collect()
}

/// Says where the locator is to those who know only where it listens.
pub(super) struct Finder(pub(super) Arc<Grid>);

impl Servant for Finder {
    fn types(&self) -> &[&str] {
        &["::Ice::LocatorFinder"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "getLocator" => now(responder, Ok(Some(self.0.own("Locator")))),
            _ => responder.missing(Missing::Operation),
        }
    }
}
