//! `BlitzVerifier`: checks passwords, and the UUIDs of sessions that are to be joined.

use std::sync::Weak;

use super::Door;
use super::answer::{done, failed, params, results};
use super::manager::{client_of, is_internal};
use super::peers::{Belongs, was_passed};
use super::tickets::Grant;
use crate::ice::net::{Answer, Call, Incoming, Responder, Servant, Served};
use crate::ice::{Encode as _, Missing};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{Secret, SessionId};

/// The verifier.
pub(super) struct Verifier(pub(super) Weak<Door>);

impl Servant for Verifier {
    fn types(&self) -> &[&str] {
        &["::Glacier2::PermissionsVerifier"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        if incoming.target().operation != "checkPermissions" {
            return responder.missing(Missing::Operation);
        }
        let (door, call) = (self.0.clone(), incoming.to_call());
        responder.later(async move {
            match door.upgrade() {
                Some(door) => door.check_permissions(&call).await,
                None => failed("the Blitz has stopped"),
            }
        })
    }
}

/// What became of a check.
enum Checked {
    Right,
    Wrong(String),
    /// Another Blitz may know.
    NotHere(String),
}

impl Door {
    async fn check_permissions(&self, call: &Call) -> Answer {
        let (user, password) = match params::<(String, String)>(call) {
            Ok((user, password)) => (user, Secret::new(password)),
            Err(malformed) => return malformed,
        };
        let say = |reason: &str, right: bool| done(call, |writer| (reason, right).encode(writer));
        // A session is joined where it is. Whether a call was passed on is only what it says of itself: a route holds all the same.
        let passed = was_passed(call);
        let mut belongs = match joined(&user, &password) {
            Some(_) => Belongs::Here,
            None => self.belongs(call, &user, passed).await,
        };
        if let Belongs::To(adapter) = &belongs {
            if let Some(answer) = self.pass_to(adapter, call).await {
                let verified = results::<(String, bool)>(&answer);
                if verified.is_ok_and(|(_, right)| right) {
                    self.grant(call, &user, Grant::Elsewhere(adapter.clone()))
                        .await;
                }
                return answer;
            }
            // It has gone meanwhile, or takes none any more.
            belongs = self.belongs(call, &user, true).await;
        }
        match belongs {
            Belongs::Nowhere(reason) if passed => return failed(reason),
            Belongs::Nowhere(reason) => return say(&reason, false),
            Belongs::Here | Belongs::To(_) => {}
        }
        match self.check(call, &user, &password).await {
            Checked::Right => say("", true),
            Checked::Wrong(reason) => say(&reason, false),
            Checked::NotHere(reason) if was_passed(call) => failed(reason),
            Checked::NotHere(reason) => {
                let elsewhere = self.pass_on(call).await;
                elsewhere.unwrap_or_else(|| say(&reason, false))
            }
        }
    }

    async fn check(&self, call: &Call, user: &str, password: &Secret) -> Checked {
        let Some(blitz) = self.blitz().await else {
            return Checked::NotHere(super::manager::TURNS.to_owned());
        };
        let not_here = |refusal: Refusal| Checked::NotHere(refusal.message);
        if let Err(refusal) = blitz.require_lease() {
            return not_here(refusal);
        }
        let grant = match joined(user, password) {
            Some(uuid) => match blitz.access(uuid).await {
                Ok(_) => Grant::Session(uuid),
                Err(refusal) => return not_here(refusal),
            },
            None => {
                // Whoever can have no session here is better known where they can.
                if let Err(refusal) = blitz.admit(is_internal(&blitz, call)) {
                    return not_here(refusal);
                }
                if let Some(failing) = blitz.failing() {
                    return Checked::NotHere(failing);
                }
                match blitz.login.verify(&blitz.tasks, user, password).await {
                    Ok(row) => Grant::User(row),
                    Err(refusal) => {
                        return match refusal.kind {
                            RefusalKind::Unavailable | RefusalKind::Failed => not_here(refusal),
                            _ => Checked::Wrong(refusal.message),
                        };
                    }
                }
            }
        };
        self.grant(call, user, grant).await;
        Checked::Right
    }

    /// Leaves a ticket for this user and this client.
    async fn grant(&self, call: &Call, user: &str, grant: Grant) {
        // Without a client there will be no session either.
        if let (Some(client), Some(blitz)) = (client_of(call), self.blitz().await) {
            let now = blitz.clock.now().mono;
            self.tickets().put(user, client, grant, now);
        }
    }
}

/// Returns the session that is to be joined by who knows its UUID: it is user and password.
fn joined(user: &str, password: &Secret) -> Option<SessionId> {
    SessionId::parse(user).filter(|_| user == password.reveal())
}
