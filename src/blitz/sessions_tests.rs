use std::collections::HashMap as Map;

use proptest::prelude::*;

use super::*;

const START: Now = Now {
    mono: Duration::from_secs(1_000_000),
    wall_ms: 1_700_000_000_000,
};

fn later(ms: u64) -> Now {
    Now {
        mono: START.mono + Duration::from_millis(ms),
        wall_ms: START.wall_ms + ms,
    }
}

fn id(n: u32) -> SessionId {
    SessionId::parse(&format!("{n:08x}-0000-4000-8000-000000000000")).unwrap()
}

fn row(n: u32, idle_ms: u64, live_ms: u64) -> SessionRow {
    SessionRow {
        uuid: id(n),
        user_id: 2,
        user: "ann".to_owned(),
        agent: "a".to_owned(),
        ip: "i".to_owned(),
        started_ms: START.wall_ms,
        last_access_ms: START.wall_ms,
        time_to_idle_ms: idle_ms,
        time_to_live_ms: live_ms,
        references: 1,
        token: None,
        event: "User".to_owned(),
        group: String::new(),
    }
}

fn reason(result: Result<message::Session, Absent>) -> Option<Reason> {
    match result {
        Err(Absent::TimedOut(ended)) => Some(ended.reason),
        _ => None,
    }
}

#[test]
fn an_access_keeps_a_session_and_silence_ends_it() {
    let mut sessions = Sessions::default();
    assert!(sessions.insert(row(1, 1000, 0), false, Duration::ZERO, START));
    assert!(sessions.access(id(1), later(999)).is_ok());
    assert_eq!(sessions.expire(later(1500)), []);
    assert_eq!(sessions.next_expiry(), Some(later(1999).mono));
    let ended = sessions.expire(later(1999)).remove(0);
    assert_eq!(
        (ended.reason, ended.limit),
        (Reason::Idle, Duration::from_secs(1))
    );
    assert_eq!(sessions.access(id(1), later(2000)), Err(Absent::Unknown));
    assert_eq!((sessions.len(), sessions.next_expiry()), (0, None));
}

#[test]
fn a_session_that_has_timed_out_never_answers_even_if_nobody_has_looked() {
    let mut sessions = Sessions::default();
    sessions.insert(row(1, 1000, 0), false, Duration::ZERO, START);
    sessions.insert(row(2, 0, 5000), false, Duration::ZERO, START);
    assert_eq!(
        reason(sessions.access(id(1), later(1000))),
        Some(Reason::Idle)
    );
    assert!(sessions.access(id(2), later(4999)).is_ok());
    assert_eq!(
        reason(sessions.access(id(2), later(5000))),
        Some(Reason::Lived)
    );
    assert_eq!(sessions.next_expiry(), None, "no entry is left behind");
}

#[test]
fn life_goes_by_the_wall_clock_and_idleness_does_not() {
    let mut sessions = Sessions::default();
    sessions.insert(row(1, 1000, 5000), false, Duration::ZERO, START);
    let set = |wall: i64| Now {
        mono: later(10).mono,
        wall_ms: START.wall_ms.wrapping_add_signed(wall),
    };
    assert!(sessions.access(id(1), set(-3_600_000)).is_ok());
    assert_eq!(
        reason(sessions.access(id(1), set(3_600_000))),
        Some(Reason::Lived)
    );
}

#[test]
fn without_limits_there_is_no_timer() {
    let mut sessions = Sessions::default();
    sessions.insert(row(1, 0, 0), false, Duration::ZERO, START);
    assert_eq!(sessions.next_expiry(), None);
    assert!(sessions.access(id(1), later(u64::from(u32::MAX))).is_ok());
}

#[test]
fn idle_time_before_a_restart_counts_and_downtime_does_not() {
    let mut sessions = Sessions::default();
    let row = row(1, 1000, 0);
    let idle = idle_before(&row, START.wall_ms + 600);
    assert_eq!(idle_before(&row, START.wall_ms - 5), Duration::ZERO);
    sessions.insert(row, false, idle, later(3_600_000));
    assert_eq!(sessions.next_expiry(), Some(later(3_600_400).mono));
    assert_eq!(sessions.expire(later(3_600_399)), []);
    assert_eq!(sessions.expire(later(3_600_400)).len(), 1);
}

#[test]
fn accesses_are_handed_out_once_and_can_be_put_back() {
    let mut sessions = Sessions::default();
    sessions.insert(row(1, 0, 0), false, Duration::ZERO, START);
    sessions.insert(row(2, 0, 0), false, Duration::ZERO, START);
    assert!(!sessions.has_accessed());
    sessions.access(id(1), later(700)).unwrap();
    let taken = sessions.take_accessed(later(1000));
    assert_eq!(taken, [(id(1), START.wall_ms + 700)]);
    assert!(!sessions.has_accessed());
    sessions.put_back_accessed([id(1), id(9)]);
    assert_eq!(
        sessions.take_accessed(later(2000)),
        [(id(1), START.wall_ms + 700)]
    );
}

#[test]
fn a_prefix_names_what_begins_so() {
    let mut sessions = Sessions::default();
    for n in [0x0a00_0001, 0x0a00_0002, 0x0b00_0000] {
        sessions.insert(row(n, 0, 0), false, Duration::ZERO, START);
    }
    assert_eq!(sessions.with_prefix("0A"), Some((id(0x0a00_0001), 2)));
    assert_eq!(sessions.with_prefix("0b"), Some((id(0x0b00_0000), 1)));
    assert_eq!(
        sessions.with_prefix("0a000002-"),
        Some((id(0x0a00_0002), 1))
    );
    for none in ["0c", "ff", "x", "0a-", "ü", &"0".repeat(99)] {
        assert_eq!(sessions.with_prefix(none), None, "{none}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert { n: u32, idle: u64, live: u64 },
    Access(u32),
    Join(u32),
    Leave(u32),
    Remove(u32),
    Expire,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..6_u32;
    prop_oneof![
        (n.clone(), 0..4_u64, 0..4_u64).prop_map(|(n, i, l)| Step::Insert {
            n,
            idle: i * 100,
            live: l * 250
        }),
        n.clone().prop_map(Step::Access),
        n.clone().prop_map(Step::Join),
        n.clone().prop_map(Step::Leave),
        n.prop_map(Step::Remove),
        Just(Step::Expire),
        (1..200_u64).prop_map(Step::Wait),
    ]
}

/// What the model knows of a session: idle limit, life limit, start, last access, references.
type Known = (u64, u64, u64, u64, u32);

fn dead((idle, live, start, access, _): &Known, now: u64) -> bool {
    (*live > 0 && now - start >= *live) || (*idle > 0 && now - access >= *idle)
}

proptest! {
    #[test]
    fn behaves_as_a_plain_table(steps in prop::collection::vec(step(), 1..80)) {
        let mut sessions = Sessions::default();
        let mut model: Map<u32, Known> = Map::new();
        let mut now = 0_u64;
        for step in steps {
            match step {
                Step::Insert { n, idle, live } => {
                    let mut new = row(n, idle, live);
                    new.started_ms += now;
                    let fresh = sessions.insert(new, false, Duration::ZERO, later(now));
                    prop_assert_eq!(fresh, !model.contains_key(&n), "never two of one uuid");
                    model.entry(n).or_insert((idle, live, now, now, 1));
                }
                Step::Access(n) => {
                    let result = sessions.access(id(n), later(now));
                    match model.get_mut(&n) {
                        None => prop_assert_eq!(result, Err(Absent::Unknown)),
                        Some(known) if dead(known, now) => {
                            prop_assert!(matches!(result, Err(Absent::TimedOut(_))));
                            model.remove(&n);
                        }
                        Some(known) => {
                            known.3 = now;
                            prop_assert_eq!(result.unwrap().references, known.4);
                        }
                    }
                }
                Step::Join(n) => {
                    sessions.joined(id(n));
                    if let Some(known) = model.get_mut(&n) {
                        known.4 += 1;
                    }
                }
                Step::Leave(n) => {
                    sessions.left(id(n));
                    if let Some(known) = model.get_mut(&n) {
                        known.4 = known.4.saturating_sub(1);
                    }
                }
                Step::Remove(n) => {
                    let removed = sessions.remove(id(n), Reason::Closed).is_some();
                    prop_assert_eq!(removed, model.remove(&n).is_some());
                }
                Step::Expire => {
                    let ended: BTreeSet<_> =
                        sessions.expire(later(now)).into_iter().map(|e| e.uuid).collect();
                    let expected: BTreeSet<_> =
                        model.iter().filter(|(_, k)| dead(k, now)).map(|(n, _)| id(*n)).collect();
                    prop_assert_eq!(ended, expected);
                    model.retain(|_, known| !dead(known, now));
                    prop_assert!(sessions.next_expiry().is_none_or(|at| at > later(now).mono), "no timer in the past");
                }
                Step::Wait(ms) => now += ms,
            }
            prop_assert_eq!(sessions.len(), model.len());
            let mortal = model.values().filter(|k| k.0 > 0 || k.1 > 0).count();
            prop_assert_eq!(sessions.queue.len(), mortal, "one entry for each that can time out");
            // Whoever sleeps until the next look is never late.
            let first = model.values().filter_map(|k| {
                let idle = (k.0 > 0).then(|| k.3 + k.0);
                let live = (k.1 > 0).then(|| k.2 + k.1);
                idle.into_iter().chain(live).min()
            }).min();
            if let Some(first) = first {
                prop_assert!(sessions.next_expiry().unwrap() <= later(first).mono);
            }
        }
    }
}
