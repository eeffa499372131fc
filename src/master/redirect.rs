//! When the redirect of `configRedirector` moves, and where to. Pure.
//!
//! The redirect is one durable value for the whole grid (DESIGN.md §7). The first Blitz to accept sets it where it is unset. What an
//! administrator did to its Blitz — drained, stopped, disabled (though it runs on), removed — moves it at once. A crash moves it only once it has not
//! accepted for [`patience`], so that a restart moves nothing; new sessions wait meanwhile. It moves to a Blitz that accepts, and to one
//! that only reads only where none that writes accepts. Where nobody accepts it stays.

use std::time::Duration;

use crate::model::ServerId;

/// The shortest time for which a Blitz that went by itself is waited for.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// A Blitz as far as the redirect goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: ServerId,
    pub(crate) accepts: bool,
    pub(crate) read_only: bool,
    /// What an administrator did to it, so that it takes no sessions: `was drained`, `was stopped`, …
    pub(crate) put_away: Option<&'static str>,
    /// Since when it has not accepted, in the time of `now`.
    pub(crate) absent_since: Option<Duration>,
    /// How long its last start-up took.
    pub(crate) startup: Option<Duration>,
}

/// What becomes of the redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stays; it has to be looked at again at this time even if nothing happens.
    Keep(Option<Duration>),
    /// It moves, for this reason.
    Move(Option<ServerId>, String),
}

/// Returns how long a Blitz that went by itself is waited for: three of its start-ups, at least ten seconds.
pub(crate) fn patience(startup: Option<Duration>) -> Duration {
    LEAST_PATIENCE.max(startup.unwrap_or_default() * 3)
}

/// Decides what becomes of the redirect. `blitzes` are all that are deployed; `now` is any clock that does not step.
pub(crate) fn next(redirect: Option<&ServerId>, blitzes: &[Seen], now: Duration) -> Next {
    let best = blitzes
        .iter()
        .filter(|seen| seen.accepts && seen.put_away.is_none())
        .min_by_key(|seen| (seen.read_only, &seen.id));
    let Some(redirect) = redirect else {
        return match best {
            Some(best) => Next::Move(
                Some(best.id.clone()),
                format!("{} is the first to accept sessions", best.id),
            ),
            None => Next::Keep(None),
        };
    };
    let Some(seen) = blitzes.iter().find(|seen| seen.id == *redirect) else {
        let best = best.map(|best| best.id.clone());
        return Next::Move(best, format!("{redirect} is no longer deployed"));
    };
    let (reason, due) = match (seen.put_away, seen.absent_since) {
        (Some(what), _) => (format!("{redirect} {what}"), now),
        (None, Some(since)) if !seen.accepts => {
            let absent = now.saturating_sub(since).as_secs();
            let reason = format!("{redirect} has not accepted sessions for {absent} s");
            (reason, since + patience(seen.startup))
        }
        (None, _) => return Next::Keep(None),
    };
    match best {
        _ if now < due => Next::Keep(Some(due)),
        Some(best) => Next::Move(Some(best.id.clone()), reason),
        None => Next::Keep(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(n: usize, accepts: bool) -> Seen {
        Seen {
            id: format!("Blitz-{n}").parse().unwrap(),
            accepts,
            read_only: false,
            put_away: None,
            absent_since: (!accepts).then_some(Duration::ZERO),
            startup: None,
        }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_to_accept_sets_it() {
        assert_eq!(next(None, &[seen(0, false)], secs(99)), Next::Keep(None));
        let Next::Move(to, reason) = next(None, &[seen(0, false), seen(1, true)], secs(0)) else {
            panic!("it stays unset");
        };
        assert_eq!(to, Some(seen(1, true).id));
        assert_eq!(reason, "Blitz-1 is the first to accept sessions");
    }

    #[test]
    fn a_crash_moves_it_only_after_a_while_and_a_drain_at_once() {
        let zero = seen(0, false).id;
        let blitzes = [seen(0, false), seen(1, true)];
        assert_eq!(
            next(Some(&zero), &blitzes, secs(9)),
            Next::Keep(Some(secs(10)))
        );
        let moved = Next::Move(
            Some(blitzes[1].id.clone()),
            "Blitz-0 has not accepted sessions for 10 s".to_owned(),
        );
        assert_eq!(next(Some(&zero), &blitzes, secs(10)), moved);

        let slow = Seen {
            startup: Some(secs(60)),
            ..seen(0, false)
        };
        let blitzes = [slow, seen(1, true)];
        assert_eq!(
            next(Some(&zero), &blitzes, secs(10)),
            Next::Keep(Some(secs(180)))
        );

        let drained = Seen {
            put_away: Some("was drained"),
            ..seen(0, true)
        };
        let moved = next(Some(&zero), &[drained.clone(), seen(1, true)], secs(0));
        assert_eq!(
            moved,
            Next::Move(Some(seen(1, true).id), "Blitz-0 was drained".to_owned())
        );
        assert_eq!(next(Some(&zero), &[drained], secs(0)), Next::Keep(None));
    }

    #[test]
    fn what_is_no_longer_deployed_loses_it() {
        let gone = seen(9, false).id;
        assert!(matches!(
            next(Some(&gone), &[seen(0, false)], secs(0)),
            Next::Move(None, _)
        ));
    }

    prop_compose! {
        fn any_seen(n: usize)(
            accepts in any::<bool>(),
            read_only in any::<bool>(),
            put_away in prop::option::of(Just("was stopped")),
            since in 0..100_u64,
            startup in prop::option::of(0..30_u64),
        ) -> Seen {
            Seen {
                read_only,
                put_away,
                absent_since: (!accepts).then_some(secs(since)),
                startup: startup.map(secs),
                ..seen(n, accepts)
            }
        }
    }

    proptest! {
        /// It moves only to who accepts, never from who accepts and was not put away, and not to a reader beside a writer.
        #[test]
        fn it_is_sticky_and_moves_only_for_the_better(
            blitzes in (0..6_usize).prop_flat_map(|n| (0..n).map(any_seen).collect::<Vec<_>>()),
            redirect in prop::option::of(0..6_usize),
            now in 100..200_u64,
        ) {
            let redirect = redirect.map(|n| seen(n, true).id);
            let fit = |seen: &Seen| seen.accepts && seen.put_away.is_none();
            let held = blitzes.iter().find(|seen| Some(&seen.id) == redirect.as_ref());
            match next(redirect.as_ref(), &blitzes, secs(now)) {
                Next::Move(to, _) => {
                    prop_assert!(!held.is_some_and(fit));
                    prop_assert_ne!(&to, &redirect);
                    match blitzes.iter().find(|seen| Some(&seen.id) == to.as_ref()) {
                        Some(to) => {
                            prop_assert!(fit(to));
                            prop_assert!(!to.read_only || !blitzes.iter().any(|s| fit(s) && !s.read_only));
                        }
                        None => prop_assert!(held.is_none() && !blitzes.iter().any(fit)),
                    }
                }
                Next::Keep(again) => {
                    prop_assert!(again.is_none_or(|at| at > secs(now)));
                    // It settles: who was put away does not keep it beside one that accepts.
                    let away = held.is_some_and(|seen| seen.put_away.is_some());
                    prop_assert!(!(away || redirect.is_none()) || !blitzes.iter().any(fit));
                }
            }
        }
    }
}
