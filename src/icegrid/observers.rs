//! Observers: how everything is, and from then on what changes.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::face::Grid;
use crate::ice::net::Connection;
use crate::ice::{Identity, Proxy};

/// Where an observer is.
pub(super) enum To {
    /// At the other end of this connection.
    Over(Connection, Identity),
    /// Where this proxy says.
    Proxy(Box<Proxy>),
}

impl To {
    pub(super) fn identity(&self) -> &Identity {
        match self {
            Self::Over(_, identity) => identity,
            Self::Proxy(proxy) => &proxy.identity,
        }
    }
}

/// Returns the number of the present state of applications.
pub(super) fn serial(_: &Grid) -> i32 {
    0
}

/// Tells observers until they can be told no more. Says when they know how everything is.
pub(super) async fn observe(_: Arc<Grid>, _: [Option<To>; 5], ready: oneshot::Sender<()>) {
    let _ = ready.send(());
}
