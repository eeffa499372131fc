use proptest::prelude::*;

use super::*;

fn id(n: usize) -> ServerId {
    format!("Blitz-{n}").parse().unwrap()
}

fn drain(then: Then, until_ms: Option<u64>) -> Drain {
    Drain {
        since_ms: 0,
        until_ms,
        then,
        for_stop: false,
        restarted_ms: None,
    }
}

fn seen(accepting: Accepting) -> Seen {
    Seen {
        deployed: true,
        known: true,
        runs: true,
        stays_down: false,
        started_ms: Some(1),
        accepting: Some(accepting),
        failed: false,
        plain: false,
        active: false,
    }
}

const GONE: Seen = Seen {
    deployed: true,
    known: true,
    runs: false,
    stays_down: true,
    started_ms: None,
    accepting: None,
    failed: false,
    plain: false,
    active: false,
};

#[test]
fn what_follows_waits_until_the_blitz_says_that_it_is_drained() {
    for (then, step) in [
        (Then::Nothing, Step::Wait(None)),
        (Then::Stop, Step::Stop),
        (Then::Restart, Step::Restart),
    ] {
        let drain = drain(then, None);
        for accepting in [Accepting::Yes, Accepting::Draining, Accepting::No] {
            assert_eq!(next(&drain, seen(accepting), 99), Step::Wait(None));
        }
        assert_eq!(next(&drain, seen(Accepting::Drained), 99), step);
        assert_eq!(next(&drain, GONE, 99), step);
        let crashed = Seen {
            stays_down: false,
            ..GONE
        };
        let unknown = Seen {
            known: false,
            ..crashed
        };
        for seen in [crashed, unknown] {
            assert_eq!(next(&drain, seen, 99), Step::Wait(None), "it may come back");
        }
        let late = Drain {
            until_ms: Some(99),
            ..drain
        };
        assert_eq!(next(&late, crashed, 99), step);
    }
}

#[test]
fn sessions_are_closed_at_the_deadline_and_not_before() {
    let drain = drain(Then::Nothing, Some(50));
    let draining = seen(Accepting::Draining);
    assert_eq!(next(&drain, draining, 49), Step::Wait(Some(50)));
    assert_eq!(next(&drain, draining, 50), Step::Close);
    assert_eq!(next(&drain, seen(Accepting::Drained), 50), Step::Wait(None));
}

#[test]
fn a_restart_is_over_when_another_process_answers() {
    let drain = Drain {
        restarted_ms: Some(10),
        ..drain(Then::Restart, None)
    };
    let old = seen(Accepting::Drained);
    assert_eq!(next(&drain, old, 99), Step::Restart, "the command was lost");
    assert_eq!(next(&drain, GONE, 99), Step::Wait(None));
    let new = |accepting| Seen {
        started_ms: Some(11),
        accepting,
        ..old
    };
    assert_eq!(next(&drain, new(None), 99), Step::Wait(None));
    assert_eq!(next(&drain, new(Some(Accepting::No)), 99), Step::Wait(None));
    assert_eq!(next(&drain, new(Some(Accepting::Drained)), 99), Step::Over);
}

prop_compose! {
    fn any_seen()(
        deployed in any::<bool>(),
        known in any::<bool>(),
        runs in any::<bool>(),
        started_ms in prop::option::of(0..40_u64),
        accepting in prop::option::of(prop::sample::select(vec![
            Accepting::Yes, Accepting::Draining, Accepting::Drained, Accepting::No,
        ])),
        failed in any::<bool>(),
    ) -> Seen {
        // Nobody answers without a process.
        Seen { stays_down: known && !runs && failed, deployed, known, runs, started_ms, accepting: accepting.filter(|_| known && runs), failed, plain: false, active: false }
    }
}

prop_compose! {
    fn any_drain()(
        then in prop::sample::select(vec![Then::Nothing, Then::Stop, Then::Restart]),
        until_ms in prop::option::of(0..40_u64),
        restarted_ms in prop::option::of(0..40_u64),
    ) -> Drain {
        Drain { restarted_ms: restarted_ms.filter(|_| then == Then::Restart), ..drain(then, until_ms) }
    }
}

#[test]
fn what_has_no_sessions_is_restarted_when_its_turn_has_come() {
    let plain = Seen {
        accepting: None,
        plain: true,
        active: true,
        ..seen(Accepting::Yes)
    };
    let mut rollout = Rollout {
        waiting: vec![id(1)],
        ..Rollout::default()
    };
    assert_eq!(turn(&rollout, |_| plain, |_| false), Turn::Begin(id(1)));
    (rollout.waiting, rollout.current) = (Vec::new(), Some((id(1), 5)));
    assert_eq!(turn(&rollout, |_| plain, |_| false), Turn::Restart(id(1)));
    let [down, begun, back] = [
        (false, None, false),
        (true, Some(6), false),
        (true, Some(6), true),
    ]
    .map(|(runs, started_ms, active)| Seen {
        runs,
        started_ms,
        active,
        ..plain
    });
    for (seen, expected) in [
        (down, Turn::Wait),
        (begun, Turn::Wait),
        (back, Turn::Done),
        (
            Seen {
                stays_down: true,
                ..down
            },
            Turn::Fail("Blitz-1 was stopped".to_owned()),
        ),
        (
            Seen {
                failed: true,
                ..down
            },
            Turn::Fail("Blitz-1 does not come back".to_owned()),
        ),
        (Seen::default(), Turn::Done),
    ] {
        assert_eq!(turn(&rollout, |_| seen, |_| false), expected, "{seen:?}");
    }
}

proptest! {
    /// Nothing ends a session of a Blitz that drains but the deadline that was given.
    #[test]
    fn no_session_ends_before_its_time(drain in any_drain(), seen in any_seen(), now in 0..40_u64) {
        let step = next(&drain, seen, now);
        let has_sessions = seen.deployed && seen.accepting == Some(Accepting::Draining);
        if has_sessions && drain.restarted_ms.is_none() {
            prop_assert!(!matches!(step, Step::Stop | Step::Restart));
            prop_assert!(step != Step::Close || drain.until_ms.is_some_and(|until| until <= now));
        }
    }

    /// A drained Blitz that is to be stopped always ends stopped: the step is to stop it, and nothing else comes before.
    #[test]
    fn a_drained_blitz_ends_stopped(until_ms in prop::option::of(0..40_u64), now in 0..40_u64) {
        prop_assert_eq!(next(&drain(Then::Stop, until_ms), seen(Accepting::Drained), now), Step::Stop);
    }

    /// Whoever waits for a time waits for one to come.
    #[test]
    fn no_step_waits_for_the_past(drain in any_drain(), seen in any_seen(), now in 0..40_u64) {
        if let Step::Wait(Some(until)) = next(&drain, seen, now) {
            prop_assert!(until > now);
        }
    }

    /// Blitzes of which each behaves, in any order of events: all are restarted once, one at a time, none with a session.
    #[test]
    fn a_rolling_restart_takes_one_at_a_time(count in 1..5_usize, choices in prop::collection::vec(0..4_u8, 0..400)) {
        #[derive(Clone)]
        struct Blitz { sessions: u32, started: u64, drain: Option<Drain>, down: bool }
        let mut blitzes = vec![Blitz { sessions: 2, started: 1, drain: None, down: false }; count];
        let mut rollout = Rollout { waiting: (0..count).map(id).collect(), ..Rollout::default() };
        let mut finished = false;
        let see = |b: &Blitz| Seen {
            started_ms: (!b.down).then_some(b.started),
            runs: !b.down,
            accepting: match (&b.drain, b.sessions, b.down) {
                (_, _, true) => None,
                (None, ..) => Some(Accepting::Yes),
                (Some(_), 0, _) => Some(Accepting::Drained),
                (Some(_), ..) => Some(Accepting::Draining),
            },
            ..seen(Accepting::Yes)
        };
        let number = |id: &ServerId| id.as_str()[6..].parse::<usize>().unwrap();
        // Whatever chance does, time goes on in the end.
        let steady = std::iter::repeat_n([2_u8, 3], 40 * count).flatten();
        for (now, choice) in (10..).zip(choices.into_iter().chain(steady)) {
            match choice {
                // A session ends; where one is over, a Blitz that was restarted comes back.
                0 | 2 => for b in &mut blitzes {
                    if b.down { (b.down, b.started) = (false, now); break; }
                    if b.sessions > 0 { b.sessions -= 1; break; }
                },
                1 => for b in &mut blitzes { if b.drain.is_none() && !b.down { b.sessions += 1; break; } },
                _ => {
                    for b in &mut blitzes {
                        let Some(drain) = b.drain.clone() else { continue };
                        match next(&drain, see(b), now) {
                            Step::Restart => {
                                prop_assert_eq!(b.sessions, 0);
                                b.drain = Some(Drain { restarted_ms: Some(now), ..drain });
                                b.down = true;
                            }
                            Step::Over => b.drain = None,
                            step => prop_assert!(matches!(step, Step::Wait(_)), "{:?}", step),
                        }
                    }
                    match turn(&rollout, |id| see(&blitzes[number(id)]), |id| blitzes[number(id)].drain.is_some()) {
                        Turn::Wait => {}
                        Turn::Begin(begun) => {
                            prop_assert!(blitzes.iter().all(|b| b.drain.is_none() && !b.down));
                            rollout.waiting.retain(|waiting| *waiting != begun);
                            rollout.current = Some((begun.clone(), now));
                            blitzes[number(&begun)].drain = Some(drain(Then::Restart, None));
                        }
                        Turn::Done => rollout.done.extend(rollout.current.take().map(|(id, _)| id)),
                        Turn::Finished => finished = true,
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
        }
        prop_assert!(finished);
        prop_assert_eq!(rollout.done, (0..count).map(id).collect::<Vec<_>>());
        prop_assert!(blitzes.iter().all(|b| b.started >= 10));
    }
}

#[test]
fn a_blitz_that_does_not_come_back_stops_the_rolling_restart() {
    let rollout = Rollout {
        current: Some((id(0), 10)),
        waiting: vec![id(1)],
        ..Rollout::default()
    };
    let failed = Seen {
        failed: true,
        ..GONE
    };
    assert!(matches!(
        turn(&rollout, |_| failed, |_| true),
        Turn::Fail(_)
    ));
    let undrained = seen(Accepting::Yes);
    assert!(matches!(
        turn(&rollout, |_| undrained, |_| false),
        Turn::Fail(_)
    ));
    let stands = Rollout {
        failed: Some("so".to_owned()),
        ..rollout
    };
    assert_eq!(turn(&stands, |_| undrained, |_| false), Turn::Wait);
}
