//! `session-CLIENT/UUID`: the session of a client, so far as a Glacier2 router and a login need it (`omero.md` §2.6).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tracing::debug;

use super::Door;
use super::answer::{done, failed, gone};
use crate::ice::net::{Answer, Call, Incoming, Responder, Servant, Served};
use crate::ice::{Encode as _, Missing};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::SessionId;

/// Returns the category of what belongs to a client.
pub(super) fn category(client: &str) -> String {
    format!("session-{client}")
}

/// The session of one client.
pub(super) struct Object(Arc<Seat>);

struct Seat {
    door: Weak<Door>,
    uuid: SessionId,
    /// Whether the session ends with the last client that leaves.
    closes: AtomicBool,
}

impl Object {
    pub(super) fn new(door: Weak<Door>, uuid: SessionId) -> Self {
        Self(Arc::new(Seat {
            door,
            uuid,
            closes: AtomicBool::new(true),
        }))
    }
}

#[derive(Clone, Copy)]
enum Asked {
    Destroy,
    KeepAlive,
    KeepAllAlive,
}

impl Servant for Object {
    fn types(&self) -> &[&str] {
        &["::omero::api::ServiceFactory", "::Glacier2::Session"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let closes = &self.0.closes;
        let asked = match incoming.target().operation {
            "closeOnDestroy" => {
                closes.store(true, Ordering::Relaxed);
                return responder.done(|_| {});
            }
            "detachOnDestroy" => {
                closes.store(false, Ordering::Relaxed);
                return responder.done(|_| {});
            }
            // Nothing is called back yet.
            "setCallback" => return responder.done(|_| {}),
            "destroy" => Asked::Destroy,
            "keepAlive" => Asked::KeepAlive,
            "keepAllAlive" => Asked::KeepAllAlive,
            _ => return responder.missing(Missing::Operation),
        };
        let (seat, call) = (self.0.clone(), incoming.to_call());
        responder.later(async move {
            let Some(door) = seat.door.upgrade() else {
                return failed("the Blitz has stopped");
            };
            match asked {
                Asked::Destroy => seat.destroy(&door, &call).await,
                Asked::KeepAlive => match seat.access(&door).await {
                    Ok(()) => done(&call, |writer| true.encode(writer)),
                    Err(refusal) => seat.refuse(&door, &call, refusal),
                },
                Asked::KeepAllAlive => match seat.access(&door).await {
                    // Which services are meant is a bit each; there are none yet.
                    Ok(()) => done(&call, |writer| 0_i64.encode(writer)),
                    Err(refusal) => seat.refuse(&door, &call, refusal),
                },
            }
        })
    }
}

fn turns() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, super::manager::TURNS)
}

impl Seat {
    async fn access(&self, door: &Door) -> Result<(), Refusal> {
        let blitz = door.blitz().await.ok_or_else(turns)?;
        blitz.require_lease()?;
        blitz.access(self.uuid).await.map(drop)
    }

    /// Has the client leave the session. The last one takes the session along, unless it asked to leave it behind.
    async fn destroy(&self, door: &Door, call: &Call) -> Answer {
        // Whoever comes second has left already.
        if !door.leave(self.uuid, &call.identity) {
            return gone(call);
        }
        match self.detach(door).await {
            Ok(()) => done(call, |_| {}),
            Err(refusal) => {
                debug!(session = %self.uuid, %refusal, "a client left a session that was not there");
                self.refuse(door, call, refusal)
            }
        }
    }

    async fn detach(&self, door: &Door) -> Result<(), Refusal> {
        let blitz = door.blitz().await.ok_or_else(turns)?;
        blitz.require_lease()?;
        let session = blitz.access(self.uuid).await?;
        if session.references > 1 || self.closes.load(Ordering::Relaxed) {
            blitz.detach(self.uuid).await?;
        }
        Ok(())
    }

    fn refuse(&self, door: &Door, call: &Call, refusal: Refusal) -> Answer {
        match refusal.kind {
            RefusalKind::NotFound => {
                door.forget(self.uuid);
                gone(call)
            }
            _ => failed(refusal.message),
        }
    }
}
