//! The admin objects of nodes and of the registry: facets `Process`, `Properties` and `Logger`, as those of Ice's programs are.

use std::sync::Arc;

use tracing::info;

use super::admin;
use super::face::Grid;
use super::logger::LoggerAdmin;
use super::operation::{Outcome, Raised, later, now, params};
use super::session::{Open, REPLICA};
use super::types::Texts;
use crate::ice::Missing;
use crate::ice::net::{Incoming, Responder, Servant, Served, serve};
use crate::ipc::message::client::NodeStatus;

/// Whose they are.
#[derive(Clone)]
enum Whose {
    Node(Box<NodeStatus>),
    Registry,
}

/// Answers a call to the admin object of a node that is up.
pub(super) fn of_node(
    grid: &Arc<Grid>,
    session: Arc<Open>,
    incoming: &Incoming<'_>,
    responder: Responder<'_>,
) -> Served {
    match admin::up(grid, incoming.target().name) {
        Ok(node) => answer(
            grid,
            session,
            Whose::Node(Box::new(node)),
            incoming,
            responder,
        ),
        Err(_) => responder.missing(Missing::Object),
    }
}

/// Answers a call to the admin object of the registry.
pub(super) fn of_registry(
    grid: &Arc<Grid>,
    session: Arc<Open>,
    incoming: &Incoming<'_>,
    responder: Responder<'_>,
) -> Served {
    match incoming.target().name {
        REPLICA => answer(grid, session, Whose::Registry, incoming, responder),
        _ => responder.missing(Missing::Object),
    }
}

fn answer(
    grid: &Arc<Grid>,
    session: Arc<Open>,
    whose: Whose,
    incoming: &Incoming<'_>,
    responder: Responder<'_>,
) -> Served {
    let grid = grid.clone();
    match incoming.target().facet {
        "Process" => serve(&Process { grid, whose }, incoming, responder),
        "Properties" => serve(&Properties { grid, whose }, incoming, responder),
        "Logger" => {
            let paths = grid.handle.paths();
            let path = match &whose {
                Whose::Node(node) => paths.node_log(&node.name),
                Whose::Registry => paths.master_log(),
            };
            let servant = LoggerAdmin {
                grid,
                session,
                path,
            };
            serve(&servant, incoming, responder)
        }
        // IceGrid's routers say of a facet that is not there that the object is not.
        _ => responder.missing(Missing::Object),
    }
}

/// `Ice::Process`.
struct Process {
    grid: Arc<Grid>,
    whose: Whose,
}

impl Servant for Process {
    fn types(&self) -> &[&str] {
        &["::Ice::Process"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "shutdown" => {
                let (grid, whose) = (self.grid.clone(), self.whose.clone());
                later(responder, async move {
                    match whose {
                        Whose::Node(node) => admin::shut_down(&grid, node.name.as_str()).await,
                        Whose::Registry => admin::stop_grid(&grid).await,
                    }
                })
            }
            // What these processes print is their log.
            "writeMessage" => now(
                responder,
                params::<(&str, i32)>(incoming).map(|(message, _)| match &self.whose {
                    Whose::Node(node) => {
                        info!(node = %node.name, ?message, "an administrator says")
                    }
                    Whose::Registry => info!(?message, "an administrator says"),
                }),
            ),
            _ => responder.missing(Missing::Operation),
        }
    }
}

/// `Ice::PropertiesAdmin`.
struct Properties {
    grid: Arc<Grid>,
    whose: Whose,
}

impl Properties {
    fn all(&self) -> Texts {
        let mut all = self.grid.settings.properties.clone();
        if let Whose::Node(node) = &self.whose {
            let data = self.grid.handle.paths().node(&node.name);
            all.insert("IceGrid.Node.Name".to_owned(), node.name.to_string());
            all.insert("IceGrid.Node.Data".to_owned(), data.display().to_string());
        }
        all
    }
}

impl Servant for Properties {
    fn types(&self) -> &[&str] {
        &["::Ice::PropertiesAdmin"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "getProperty" => now(
                responder,
                params::<&str>(incoming).map(|name| self.all().remove(name).unwrap_or_default()),
            ),
            "getPropertiesForPrefix" => now(
                responder,
                params::<&str>(incoming).map(|prefix| {
                    let mut all = self.all();
                    all.retain(|name, _| name.starts_with(prefix));
                    all
                }),
            ),
            "setProperties" => {
                let outcome: Outcome<()> = params::<Texts>(incoming).and_then(|new| {
                    match new.is_empty() {
                        true => Ok(()),
                        // Nothing looks at them again before the next start.
                        false => Err(Raised::Failed(
                            "properties of the registry and of nodes are set with 'omero-grid config set', and taken at the next start"
                                .to_owned(),
                        )),
                    }
                });
                now(responder, outcome)
            }
            _ => responder.missing(Missing::Operation),
        }
    }
}
