//! Relays to the admin objects of servers: whatever is asked of `<instance>-RegistryServerAdminRouter/ID` is asked of the server, as it is.

use std::sync::Arc;

use tracing::debug;

use super::face::Grid;
use crate::ice::net::{Answer, Incoming, InvokeError, Responder, Served};
use crate::ice::{Identity, Missing, Proxy};
use crate::model::{ServerId, ServerState};

/// Passes on what is asked of servers.
pub(super) struct Relay {
    grid: Arc<Grid>,
    category: String,
}

impl Relay {
    pub(super) fn new(grid: Arc<Grid>) -> Self {
        let category = category(&grid);
        Self { grid, category }
    }

    /// Returns whether objects of this category are those of servers.
    pub(super) fn is_for(&self, category: &str) -> bool {
        category == self.category
    }

    /// Passes a call on, and the answer back.
    pub(super) fn forward(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let target = incoming.target();
        let Some(to) = self.object(target.name) else {
            return responder.missing(Missing::Object);
        };
        let mut call = incoming.to_call();
        let asked = (
            std::mem::replace(&mut call.identity, to.identity.clone()),
            call.facet.clone(),
            call.operation.clone(),
        );
        let client = self.grid.client.clone();
        responder.later(async move {
            match client.invoke(&to, &call, None).await {
                Ok(Answer::Missing { what, .. }) => {
                    let (identity, facet, operation) = asked;
                    Answer::Missing {
                        what,
                        identity,
                        facet,
                        operation,
                    }
                }
                Ok(answer) => answer,
                Err(error) => {
                    debug!(server = ?asked.0.name, %error, "a server does not answer what is passed on to it");
                    let (identity, facet, operation) = asked;
                    match error {
                        InvokeError::TooLarge { .. } | InvokeError::Timeout => {
                            Answer::Unknown(5, format!("Ice::TimeoutException: {error}"))
                        }
                        // It ends, or has just ended.
                        _ => Answer::Missing {
                            what: Missing::Object,
                            identity,
                            facet,
                            operation,
                        },
                    }
                }
            }
        })
    }

    /// Returns the admin object of a server that runs. Its facets are those of the process object that it has registered.
    fn object(&self, server: &str) -> Option<Proxy> {
        let id: ServerId = server.parse().ok()?;
        let registry = self.grid.handle.registry();
        let host = registry.server(&id)?;
        match host.state {
            ServerState::Active | ServerState::Deactivating | ServerState::Activating => {
                host.process.clone()
            }
            ServerState::Inactive
            | ServerState::ActivationTimedOut
            | ServerState::Destroying
            | ServerState::Destroyed => None,
        }
    }
}

/// Returns the category of the objects that stand for servers.
pub(super) fn category(grid: &Grid) -> String {
    format!("{}-RegistryServerAdminRouter", grid.settings.instance)
}

/// Returns the object that stands for a server.
pub(super) fn proxy(grid: &Grid, server: &str) -> Proxy {
    grid.at_client(Identity {
        name: server.to_owned(),
        category: category(grid),
    })
}
