//! What this Blitz cannot answer for, and another Blitz of its replica group may.

use std::time::Duration;

use tracing::{debug, info};

use super::answer::results;
use super::settings::Settings;
use crate::ice::net::{Answer, Call, Client};
use crate::ice::{Encode as _, Identity, Mode, Proxy, Reference};

/// Marks what has been passed on already.
const PASSED: &str = "omero_grid.passed";

/// How long one of the others may take: longer than a wrong password is delayed.
const LIMIT: Duration = Duration::from_secs(20);

/// How long the registry may take to say who they are.
const ASKED: Duration = Duration::from_secs(5);

/// How many of the others are asked at most.
const MAX: usize = 64;

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

/// Asks the others one after the other, and returns the first answer of one that can answer for it.
pub(super) async fn pass_on(settings: &Settings, client: &Client, call: &Call) -> Option<Answer> {
    let others = match others(settings, client, call).await {
        Ok(others) => others,
        Err(reason) => {
            info!(?reason, "cannot find the other Blitzes of the group");
            return None;
        }
    };
    let mut call = call.clone();
    call.context
        .push((PASSED.to_owned(), settings.adapter.clone()));
    for other in others {
        match client.invoke(&other, &call, Some(LIMIT)).await {
            Ok(answer @ (Answer::Done { .. } | Answer::Exception { .. })) => {
                debug!(operation = ?call.operation, reference = ?other.reference, "another Blitz has answered");
                return Some(answer);
            }
            Ok(Answer::Missing { .. } | Answer::Unknown(..)) => {}
            Err(error) => {
                debug!(%error, reference = ?other.reference, "another Blitz does not answer")
            }
        }
    }
    None
}

/// Returns the same object at the other adapters of the group.
async fn others(settings: &Settings, client: &Client, call: &Call) -> Result<Vec<Proxy>, String> {
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
    let query = Proxy {
        identity: Identity {
            name: "Query".to_owned(),
            category: settings.locator.identity.category.clone(),
        },
        ..settings.locator.clone()
    };
    let asked = Call::new(&query, "findAllReplicas", Mode::Idempotent)
        .with(|writer| Some(of_group).encode(writer));
    let answer = client.invoke(&query, &asked, Some(ASKED)).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let all = results::<Vec<Option<Proxy>>>(&answer)?;
    let own = Reference::Indirect(settings.adapter.clone());
    let others = all.into_iter().flatten().filter(|p| p.reference != own);
    Ok(others.take(MAX).collect())
}
