//! What follows when Blitzes are drained, and when they are restarted one after another. Pure.
//!
//! A drain ends only by what the Blitz itself says: that it takes no new sessions and that no session of a user is left. Until its
//! deadline nothing else ends a session. It is durable, and so is how far it has come; whoever is the master goes on from there.

use super::desired::{Drain, Rollout};
use crate::ipc::message::client::Then;
use crate::model::{Accepting, ServerId};

/// How soon sessions that could not be closed at the deadline are tried again, in milliseconds.
const AGAIN_MS: u64 = 2000;

/// A Blitz as far as its drain goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// It is still deployed.
    pub(crate) deployed: bool,
    /// Its node tells of it, so that what is said here is known.
    pub(crate) known: bool,
    /// It has a process.
    pub(crate) runs: bool,
    /// It has none, and is not to have one: nothing brings it back by itself.
    pub(crate) stays_down: bool,
    /// When that was started, milliseconds since 1970.
    pub(crate) started_ms: Option<u64>,
    /// What it says of new sessions, while it answers.
    pub(crate) accepting: Option<Accepting>,
    /// It does not run, or not properly, and that is a failure.
    pub(crate) failed: bool,
    /// It is no built-in Blitz: it has no sessions that could be waited for.
    pub(crate) plain: bool,
    /// It is active.
    pub(crate) active: bool,
}

/// What to do about a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until something happens or this time, milliseconds since 1970, has come.
    Wait(Option<u64>),
    /// Close the sessions that are left.
    Close,
    /// Stop it; the drain is over with that.
    Stop,
    /// Restart it, and keep the drain until it is back.
    Restart,
    /// The drain is over.
    Over,
}

/// Decides what to do about a drain.
pub(crate) fn next(drain: &Drain, seen: Seen, now_ms: u64) -> Step {
    if !seen.deployed {
        return Step::Over;
    }
    if let Some(restarted) = drain.restarted_ms {
        let back = seen.started_ms.is_some_and(|at| at >= restarted);
        return match seen.accepting {
            Some(Accepting::Yes | Accepting::Draining | Accepting::Drained) if back => Step::Over,
            // The command may have been lost with the master that gave it.
            _ if seen.known && seen.runs && !back => Step::Restart,
            _ => Step::Wait(None),
        };
    }
    // The sessions of one that crashed come back with it. One that does not come back has until the deadline to do so.
    let late = drain.until_ms.is_some_and(|until| until <= now_ms);
    let gone = seen.stays_down || (seen.known && !seen.runs && late);
    let drained = seen.accepting == Some(Accepting::Drained);
    match drain.then {
        Then::Stop if drained || gone => return Step::Stop,
        Then::Restart if drained || gone => return Step::Restart,
        Then::Nothing if drained || gone => return Step::Wait(None),
        Then::Nothing | Then::Stop | Then::Restart => {}
    }
    match drain.until_ms {
        Some(until) if until <= now_ms && seen.accepting == Some(Accepting::Draining) => {
            Step::Close
        }
        Some(until) if until <= now_ms => Step::Wait(Some(now_ms + AGAIN_MS)),
        until => Step::Wait(until),
    }
}

/// Returns whether a Blitz that the grid's stop waits for is done.
pub(crate) fn is_done(seen: Seen) -> bool {
    !seen.deployed || seen.stays_down || seen.accepting == Some(Accepting::Drained)
}

/// What to do about restarting servers one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing until something happens.
    Wait,
    /// This one's turn has come.
    Begin(ServerId),
    /// The one whose turn it is has no sessions and is to be restarted now.
    Restart(ServerId),
    /// This one need not be restarted: it does not run.
    Skip(ServerId),
    /// The one whose turn it was is back.
    Done,
    /// Something is wrong; nothing further is restarted.
    Fail(String),
    /// Every one is back.
    Finished,
}

/// Decides how restarting servers one after another goes on. `drains` tells whether a Blitz is drained by command.
pub(crate) fn turn(
    rollout: &Rollout,
    see: impl Fn(&ServerId) -> Seen,
    drains: impl Fn(&ServerId) -> bool,
) -> Turn {
    if rollout.failed.is_some() {
        return Turn::Wait;
    }
    let Some((current, since)) = &rollout.current else {
        return match rollout.waiting.first() {
            None => Turn::Finished,
            Some(next) => match see(next) {
                Seen {
                    deployed: false, ..
                } => Turn::Skip(next.clone()),
                // Nothing is known yet: a master that has just begun.
                Seen { known: false, .. } => Turn::Wait,
                Seen { runs: false, .. } => Turn::Skip(next.clone()),
                _ => Turn::Begin(next.clone()),
            },
        };
    };
    let seen = see(current);
    let renewed = seen.started_ms.is_some_and(|at| at >= *since);
    if seen.plain && seen.deployed && !seen.failed {
        return match seen {
            Seen { active: true, .. } if renewed => Turn::Done,
            Seen { known: false, .. } => Turn::Wait,
            // The command may have been lost with the master that gave it.
            Seen { runs: true, .. } if !renewed => Turn::Restart(current.clone()),
            Seen {
                stays_down: true, ..
            } => Turn::Fail(format!("{current} was stopped")),
            _ => Turn::Wait,
        };
    }
    match (drains(current), seen) {
        (
            false,
            Seen {
                deployed: false, ..
            },
        ) => Turn::Done,
        (_, Seen { failed: true, .. }) => Turn::Fail(format!("{current} does not come back")),
        (true, _) => Turn::Wait,
        (
            false,
            Seen {
                accepting: Some(Accepting::Yes),
                ..
            },
        ) if renewed => Turn::Done,
        (false, _) if renewed => Turn::Wait,
        (false, Seen { known: false, .. }) => Turn::Wait,
        (false, Seen { runs: true, .. }) => {
            Turn::Fail(format!("{current} was undrained before it was restarted"))
        }
        (false, _) => Turn::Fail(format!("{current} was stopped")),
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
