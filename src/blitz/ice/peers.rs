//! The other Blitzes of the replica group: where a session belongs, and who answers for what this Blitz cannot.

use std::time::Duration;

use tracing::{debug, info};

use super::answer::results;
use super::registry::Registry;
use super::settings::Settings;
use crate::ice::net::{Answer, Call};
use crate::ice::{Encode as _, Mode, Proxy, Reference};
use crate::ipc::message::blitz::PLACEMENT;

/// Marks what has been passed on already.
const PASSED: &str = "omero_grid.passed";

/// How long one of the others may take: longer than a wrong password is delayed.
const LIMIT: Duration = Duration::from_secs(20);

/// How long the registry may take to say who they are.
const ASKED: Duration = Duration::from_secs(5);

/// How long it may take to say where a session belongs: somebody who takes it may have to be waited for.
const PLACED: Duration = Duration::from_secs(60);

/// How many of the others are asked at most.
const MAX: usize = 64;

/// Where a new session belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// Here; also where nobody can say.
    Here,
    /// To the Blitz with this adapter.
    To(String),
    /// Nobody takes it, for this reason.
    Nowhere(String),
}

/// Returns what a call was given along by a name.
pub(super) fn context<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    let mut pairs = call.context.iter();
    let found = pairs.find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

/// Returns whether another Blitz has passed this call on, so that it goes no further.
pub(super) fn was_passed(call: &Call) -> bool {
    context(call, PASSED).is_some()
}

/// Asks the master, by way of the registry, where a session of this user belongs that somebody wants who came here; with `stays` only
/// whether it may be opened here.
pub(super) async fn belongs(
    settings: &Settings,
    registry: &Registry,
    call: &Call,
    user: &str,
    stays: bool,
) -> Belongs {
    if settings.group.is_empty() {
        return Belongs::Here;
    }
    let text = |name: &str| context(call, name).unwrap_or_default();
    let wanted = (
        settings.adapter.as_str(),
        user,
        text("omero.group"),
        text("omero.agent"),
        text("omero.ip"),
    );
    let object = registry.object(PLACEMENT.0, PLACEMENT.1);
    let asked = Call::new(&object, "place", Mode::Nonmutating)
        .with(|writer| (wanted, stays).encode(writer));
    let answer = match registry.call(&object, &asked, Some(PLACED)).await {
        Ok(answer) => answer,
        Err(error) => {
            info!(%error, "cannot ask where a session belongs; it may stay");
            return Belongs::Here;
        }
    };
    match (results::<String>(&answer), answer) {
        (Ok(adapter), _) if adapter == settings.adapter => Belongs::Here,
        (Ok(adapter), _) => Belongs::To(adapter),
        (Err(_), Answer::Unknown(7, reason)) => Belongs::Nowhere(reason),
        // A registry of another kind.
        (Err(reason), _) => {
            debug!(?reason, "the registry does not say where sessions belong");
            Belongs::Here
        }
    }
}

/// Passes a call on to the same object at another adapter of the group. Nothing where that cannot answer for it.
pub(super) async fn pass_to(
    adapter: &str,
    settings: &Settings,
    registry: &Registry,
    call: &Call,
) -> Option<Answer> {
    let other = Proxy {
        encoding: call.encoding,
        ..Proxy::new(
            call.identity.clone(),
            Reference::Indirect(adapter.to_owned()),
        )
    };
    pass(&other, registry, &marked(settings, call)).await
}

/// Asks the others one after the other, and returns the first answer of one that can answer for it.
pub(super) async fn pass_on(
    settings: &Settings,
    registry: &Registry,
    call: &Call,
) -> Option<Answer> {
    let others = match others(settings, registry, call).await {
        Ok(others) => others,
        Err(reason) => {
            info!(?reason, "cannot find the other Blitzes of the group");
            return None;
        }
    };
    let call = marked(settings, call);
    for other in others {
        if let Some(answer) = pass(&other, registry, &call).await {
            return Some(answer);
        }
    }
    None
}

fn marked(settings: &Settings, call: &Call) -> Call {
    let mut call = call.clone();
    call.context
        .push((PASSED.to_owned(), settings.adapter.clone()));
    call
}

async fn pass(other: &Proxy, registry: &Registry, call: &Call) -> Option<Answer> {
    match registry.call(other, call, Some(LIMIT)).await {
        Ok(answer @ (Answer::Done { .. } | Answer::Exception { .. })) => {
            debug!(operation = ?call.operation, reference = ?other.reference, "another Blitz has answered");
            Some(answer)
        }
        Ok(Answer::Missing { .. } | Answer::Unknown(..)) => None,
        Err(error) => {
            debug!(%error, reference = ?other.reference, "another Blitz does not answer");
            None
        }
    }
}

/// Returns the same object at the other adapters of the group.
async fn others(
    settings: &Settings,
    registry: &Registry,
    call: &Call,
) -> Result<Vec<Proxy>, String> {
    if settings.group.is_empty() {
        return Ok(Vec::new());
    }
    let of_group = Proxy {
        encoding: call.encoding,
        ..Proxy::new(
            call.identity.clone(),
            Reference::Indirect(settings.group.clone()),
        )
    };
    let query = registry.object("Query", &registry.locator.identity.category);
    let asked = Call::new(&query, "findAllReplicas", Mode::Idempotent)
        .with(|writer| Some(of_group).encode(writer));
    let answer = registry.call(&query, &asked, Some(ASKED)).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let all = results::<Vec<Option<Proxy>>>(&answer)?;
    let own = Reference::Indirect(settings.adapter.clone());
    let others = all.into_iter().flatten().filter(|p| p.reference != own);
    Ok(others.take(MAX).collect())
}
