//! What is passed on: to the admin objects of servers, nodes and the registry, and to objects that clients serve over their connections.
//!
//! Whatever is asked of `<instance>-RegistryServerAdminRouter/ID` is asked of the server, as it is. These objects are there for whoever has
//! an administrator's session over the same connection, and for nobody else. Objects that a client serves are of a category of its
//! session's; whoever calls them, as servers do whose log is followed, reaches them through the registry.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::face::Grid;
use super::facets;
use crate::ice::net::{Answer, Call, Connection, Incoming, InvokeError, Responder, Served};
use crate::ice::{Encoding, Identity, Missing, Proxy};
use crate::model::{ServerId, ServerState};

/// The admin objects of servers. The categories begin with the instance, and a hyphen.
pub(super) const SERVERS: &str = "RegistryServerAdminRouter";

/// Those of nodes.
pub(super) const NODES: &str = "RegistryNodeAdminRouter";

/// Those of registries.
pub(super) const REGISTRIES: &str = "RegistryReplicaAdminRouter";

/// How long a client may take to answer what is passed on to it.
const ANSWER: Duration = Duration::from_secs(60);

/// Answers a call to an object whose category is the instance, a hyphen, and this.
pub(super) fn dispatch(
    grid: &Arc<Grid>,
    router: &str,
    incoming: &Incoming<'_>,
    responder: Responder<'_>,
) -> Served {
    if !matches!(router, SERVERS | NODES | REGISTRIES) {
        return match grid.sessions.callback(router) {
            Some(connection) => call_back(connection, incoming, responder),
            None => responder.missing(Missing::Object),
        };
    }
    let Some(session) = grid.sessions.of_admin(incoming.connection) else {
        return responder.missing(Missing::Object);
    };
    match router {
        NODES => facets::of_node(grid, session, incoming, responder),
        REGISTRIES => facets::of_registry(grid, session, incoming, responder),
        _ => match server(grid, incoming.target().name) {
            Some(to) => pass_on(grid, to, incoming, responder),
            None => responder.missing(Missing::Object),
        },
    }
}

/// Passes a call on to a server, and the answer back.
fn pass_on(grid: &Grid, to: Proxy, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
    let mut call = incoming.to_call();
    let asked = call.clone();
    call.identity = to.identity.clone();
    let client = grid.client.clone();
    responder.later(async move { passed(asked, client.invoke(&to, &call, None).await) })
}

/// Passes a call on to the client of a session, and the answer back.
fn call_back(connection: Connection, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
    let call = incoming.to_call();
    if responder.is_wanted() {
        return responder.later(async move {
            passed(call.clone(), connection.invoke(&call, Some(ANSWER)).await)
        });
    }
    responder.later(async move {
        // Nobody hears what is answered to a call that wants no answer.
        let _ = connection.oneway(&call).await;
        Answer::done(Encoding::V11, |_| {})
    })
}

/// Makes the answer to the call that was passed on from what became of it.
fn passed(asked: Call, answer: Result<Answer, InvokeError>) -> Answer {
    let missing = |what, asked: Call| Answer::Missing {
        what,
        identity: asked.identity,
        facet: asked.facet,
        operation: asked.operation,
    };
    match answer {
        Ok(Answer::Missing { what, .. }) => missing(what, asked),
        Ok(answer) => answer,
        Err(error @ (InvokeError::TooLarge { .. } | InvokeError::Timeout)) => {
            Answer::Unknown(5, format!("Ice::TimeoutException: {error}"))
        }
        Err(error) => {
            debug!(object = ?asked.identity, %error, "what is passed on is not answered");
            // Whoever should have answered ends, or has just ended.
            missing(Missing::Object, asked)
        }
    }
}

/// Returns the admin object of a server that runs. Its facets are those of the process object that it has registered.
fn server(grid: &Grid, server: &str) -> Option<Proxy> {
    let id: ServerId = server.parse().ok()?;
    let registry = grid.handle.registry();
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

/// Returns the category of the objects that stand for servers, nodes or registries.
pub(super) fn category(grid: &Grid, router: &str) -> String {
    format!("{}-{router}", grid.settings.instance)
}

/// Returns the object that stands for a server, a node or a registry.
pub(super) fn proxy(grid: &Grid, router: &str, name: &str) -> Proxy {
    grid.at_client(Identity {
        name: name.to_owned(),
        category: category(grid, router),
    })
}
