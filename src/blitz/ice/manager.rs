//! `BlitzManager`: sessions for those who were verified.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::{debug, info};

use super::Door;
use super::answer::{done, failed, params, proxy, results, thrown};
use super::peers::{context, was_passed};
use super::session;
use super::tickets::Grant;
use super::types::{CannotCreateSessionException, WrappedCreateSessionException};
use crate::blitz::service::{Blitz, store_refusal};
use crate::ice::net::{Answer, Call, Incoming, Responder, Servant, Served};
use crate::ice::{Encode as _, Missing, Mode, Proxy};
use crate::ipc::message::blitz::{Create, Reply, Session};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{Secret, SessionId};

/// The longest UUID of a client, in bytes. It becomes a part of identities.
const MAX_CLIENT: usize = 64;

/// How long a router may take to be told of a session.
const TOLD: Duration = Duration::from_secs(5);

/// What is said while there is no Blitz behind the door.
pub(super) const TURNS: &str = "the Blitz is opening its database; try again";

/// What is said to whoever has no ticket.
const UNVERIFIED: &str = "no Blitz has verified this user and this client within the last minute";

/// What is said when the Blitz does not answer that was to make the session.
const WENT: &str = "the Blitz where the session belongs has gone; try again";

/// After how many milliseconds OMERO's clients are to try again what may succeed then; they log in anew.
const AGAIN: i64 = 1000;

/// The session manager.
pub(super) struct Manager(pub(super) Weak<Door>);

impl Servant for Manager {
    fn types(&self) -> &[&str] {
        &["::Glacier2::SessionManager"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        if incoming.target().operation != "create" {
            return responder.missing(Missing::Operation);
        }
        let (door, call) = (self.0.clone(), incoming.to_call());
        responder.later(async move {
            match door.upgrade() {
                Some(door) => door.create(&call).await,
                None => failed("the Blitz has stopped"),
            }
        })
    }
}

/// Returns the UUID by which a client calls itself, if it is one that can be used.
pub(super) fn client_of(call: &Call) -> Option<&str> {
    let client = context(call, "omero.client.uuid")?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_good = !client.is_empty() && client.len() <= MAX_CLIENT && client.chars().all(is_plain);
    is_good.then_some(client)
}

/// Returns whether a service logs in for itself.
pub(super) fn is_internal(blitz: &Blitz, call: &Call) -> bool {
    let agent = context(call, "omero.agent").unwrap_or_default();
    blitz.settings().is_internal("", agent)
}

impl Door {
    async fn create(self: &Arc<Self>, call: &Call) -> Answer {
        let (user, control) = match params::<(String, Option<Proxy>)>(call) {
            Ok(params) => params,
            Err(malformed) => return malformed,
        };
        let Some(client) = client_of(call) else {
            let reason = "omero.client.uuid is not in the context, or cannot be used";
            return wrapped(call, reason, -1);
        };
        let Some(blitz) = self.blitz().await else {
            return wrapped(call, TURNS, AGAIN);
        };
        let ticket = self.tickets().take(&user, client, blitz.clock.now().mono);
        let Some(grant) = ticket else {
            return self.create_elsewhere(call).await;
        };
        let (client, agent) = (client.to_owned(), context(call, "omero.agent"));
        let created = match grant {
            Grant::User(row) => open(&blitz, call, row).await,
            Grant::Session(uuid) => join(&blitz, uuid).await,
            Grant::Elsewhere(_) if was_passed(call) => return failed(UNVERIFIED),
            Grant::Elsewhere(adapter) => {
                let answer = self.pass_to(&adapter, call).await;
                return answer.unwrap_or_else(|| wrapped(call, WENT, AGAIN));
            }
        };
        let session = match created {
            Ok(session) => session,
            // It was verified here a moment ago: the next login goes where sessions belong by now.
            Err(refusal) if refusal.kind == RefusalKind::Unavailable => {
                return wrapped(call, &refusal.message, AGAIN);
            }
            Err(refusal) => return cannot(call, &refusal.message),
        };
        let uuid = session.uuid;
        let identity = self.seat(uuid, &client);
        // It may have ended before it had an object; nobody will tell of that again.
        if blitz.with_sessions(|sessions, now| sessions.view(uuid, now).is_none()) {
            self.forget(uuid);
            return cannot(call, "the session has ended at once");
        }
        info!(server = %self.server, session = %uuid, user = ?session.user, ?agent, "a session through Ice");
        if let Some(control) = control
            && let Err(reason) = self.widen(&control, &client, uuid).await
        {
            debug!(session = %uuid, ?reason, "the router was not told what the client may reach");
        }
        let proxy = Proxy {
            encoding: call.encoding,
            ..self.proxy(identity)
        };
        done(call, |writer| Some(proxy).encode(writer))
    }

    /// Has another Blitz make the session: the one that has verified whose it will be.
    async fn create_elsewhere(&self, call: &Call) -> Answer {
        if was_passed(call) {
            return failed(UNVERIFIED);
        }
        let elsewhere = self.pass_on(call).await;
        elsewhere.unwrap_or_else(|| cannot(call, UNVERIFIED))
    }

    /// Has the router let the client reach what belongs to its session.
    async fn widen(&self, control: &Proxy, client: &str, uuid: SessionId) -> Result<(), String> {
        let registry = self.registry();
        let asking = async {
            let call = Call::new(control, "categories", Mode::Normal);
            let answer = registry.call(control, &call, None).await;
            let set = proxy(&answer.map_err(|error| error.to_string())?)?;
            let call = Call::new(&set, "add", Mode::Idempotent).with(|writer| {
                vec![session::category(client), uuid.reveal()].encode(writer);
            });
            let answer = registry.call(&set, &call, None).await;
            results::<()>(&answer.map_err(|error| error.to_string())?)
        };
        match tokio::time::timeout(TOLD, asking).await {
            Ok(told) => told,
            Err(_) => Err("no answer".to_owned()),
        }
    }
}

/// Opens a session for a user whose password was right a moment ago, and still is.
async fn open(
    blitz: &Arc<Blitz>,
    call: &Call,
    row: crate::store::UserRow,
) -> Result<Session, Refusal> {
    let now = blitz.store.user(&row.name).await.map_err(store_refusal)?;
    let Some(user) = now.filter(|now| now.id == row.id && now.hash == row.hash) else {
        return Err(Refusal::new(
            RefusalKind::Refused,
            "the user's password has changed; log in again",
        ));
    };
    let text = |name: &str| context(call, name).unwrap_or_default().to_owned();
    let create = Create {
        user: user.name.clone(),
        password: Secret::new(String::new()),
        agent: text("omero.agent"),
        ip: text("omero.ip"),
        time_to_idle_ms: None,
        time_to_live_ms: None,
        token: None,
        group: text("omero.group"),
        event: String::new(),
    };
    blitz.require_lease()?;
    session_of(blitz.clone().create_for(user, create).await?)
}

async fn join(blitz: &Arc<Blitz>, uuid: SessionId) -> Result<Session, Refusal> {
    blitz.require_lease()?;
    session_of(blitz.clone().join(uuid).await?)
}

fn session_of(reply: Reply) -> Result<Session, Refusal> {
    match reply {
        Reply::Session(session) => Ok(session),
        _ => Err(Refusal::new(
            RefusalKind::Failed,
            "the Blitz answers what it should not",
        )),
    }
}

fn cannot(call: &Call, reason: &str) -> Answer {
    let reason = reason.to_owned();
    thrown(call, &CannotCreateSessionException { reason })
}

/// Says in OMERO's way that there will be no session; `back_off` is when to try again, in milliseconds, or −1.
fn wrapped(call: &Call, reason: &str, back_off: i64) -> Answer {
    let exception = WrappedCreateSessionException {
        base: CannotCreateSessionException {
            reason: reason.to_owned(),
        },
        concurrency: back_off >= 0,
        back_off,
        kind: "ApiUsageException".to_owned(),
    };
    thrown(call, &exception)
}
