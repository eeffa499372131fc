//! `ClusterNode/UUID`: by what OMERO's own Blitzes ask whether this one lives.

use tracing::info;

use crate::ice::net::{Incoming, Responder, Servant, Served};
use crate::ice::{Encode as _, Missing};
use crate::model::ServerId;

/// This Blitz, as the others see it.
pub(super) struct Node {
    pub(super) server: ServerId,
    pub(super) uuid: String,
}

impl Servant for Node {
    fn types(&self) -> &[&str] {
        &["::omero::grid::ClusterNode"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "getNodeUuid" => responder.done(|writer| self.uuid.encode(writer)),
            // The master knows better who is down, and moves the redirect.
            "down" => match incoming.request.params.decode::<&str>() {
                Ok(uuid) => {
                    info!(server = %self.server, ?uuid, "told that another Blitz is down");
                    responder.done(|_| {})
                }
                Err(error) => responder.malformed(&error),
            },
            _ => responder.missing(Missing::Operation),
        }
    }
}
