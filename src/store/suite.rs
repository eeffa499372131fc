//! What every store has to do: the same tests for each.

use super::sqlite::now_ms;
use super::{Opened, Outcome, Owner, ROOT, Reason, SessionRow, Store, StoreHandle, Write};
use crate::model::SessionId;

/// A store that several may open, with user root and nothing else.
pub(super) trait Place: Send + Sync {
    /// Opens it once more.
    fn open(&self) -> Box<dyn Store>;

    /// From now on these servers hold their leases, and no others; before, everybody does.
    fn set_living(&self, servers: &[&str]);
}

/// A test and its name.
type Test = (&'static str, fn(&dyn Place));

/// Every test, each for a place of its own.
pub(super) const TESTS: [Test; 12] = [
    (
        "sessions_are_there_for_the_next_life_of_their_server_only",
        sessions_are_there_for_the_next_life_of_their_server_only,
    ),
    ("an_older_life_may_not_write", an_older_life_may_not_write),
    ("the_last_who_leaves_closes", the_last_who_leaves_closes),
    (
        "a_token_opens_one_session_and_does_not_hinder_the_rest_of_the_batch",
        a_token_opens_one_session_and_does_not_hinder_the_rest_of_the_batch,
    ),
    (
        "users_are_added_once_and_begin_after_omeros_own",
        users_are_added_once_and_begin_after_omeros_own,
    ),
    (
        "several_busy_servers_all_get_their_turn",
        several_busy_servers_all_get_their_turn,
    ),
    (
        "everybody_who_waits_is_answered_by_what_was_asked",
        everybody_who_waits_is_answered_by_what_was_asked,
    ),
    (
        "a_session_is_taken_only_from_a_server_that_does_not_live",
        a_session_is_taken_only_from_a_server_that_does_not_live,
    ),
    (
        "a_session_is_given_only_to_a_server_that_lives",
        a_session_is_given_only_to_a_server_that_lives,
    ),
    (
        "a_life_is_shortened_and_never_lengthened",
        a_life_is_shortened_and_never_lengthened,
    ),
    (
        "a_user_has_so_many_sessions_over_all_servers_and_services_do_not_count",
        a_user_has_so_many_sessions_over_all_servers_and_services_do_not_count,
    ),
    (
        "what_nobody_comes_back_for_is_ended_by_whoever_starts",
        what_nobody_comes_back_for_is_ended_by_whoever_starts,
    ),
];

pub(super) fn session(token: Option<&str>) -> SessionRow {
    SessionRow {
        uuid: SessionId::random(),
        user_id: 0,
        user: ROOT.to_owned(),
        agent: "test".to_owned(),
        ip: "127.0.0.1".to_owned(),
        started_ms: 1000,
        last_access_ms: 1000,
        time_to_idle_ms: 600_000,
        time_to_live_ms: 0,
        references: 1,
        token: token.map(str::to_owned),
        event: "User".to_owned(),
        group: String::new(),
    }
}

pub(super) fn one(store: &mut dyn Store, owner: &Owner, write: Write) -> Outcome {
    store.write(owner, &[write]).unwrap().remove(0)
}

fn sessions_are_there_for_the_next_life_of_their_server_only(place: &dyn Place) {
    let row = session(Some("t"));
    let first = {
        let mut store = place.open();
        let first = store.adopt("Blitz-0", "a").unwrap();
        assert_eq!(first.sessions, []);
        assert_eq!(
            one(&mut *store, &first.owner, Write::open(row.clone())),
            Outcome::Done
        );
        assert_eq!(
            one(&mut *store, &first.owner, Write::Stopped { at_ms: 5000 }),
            Outcome::Done
        );
        first.owner
    };
    let mut store = place.open();
    // Else it would end what it finds to have timed out long ago.
    place.set_living(&["Blitz-0"]);
    assert_eq!(store.adopt("Blitz-1", "b").unwrap().sessions, []);
    let second = store.adopt("Blitz-0", "c").unwrap();
    assert_eq!(second.sessions, vec![row.clone()]);
    assert_eq!(second.stopped_ms, Some(5000));
    assert_eq!(second.owner.epoch, first.epoch + 1);
    let third = store.adopt("Blitz-0", "d").unwrap();
    assert_eq!(
        third.stopped_ms, None,
        "the second life did not stop in good order"
    );
}

fn an_older_life_may_not_write(place: &dyn Place) {
    let mut store = place.open();
    let old = store.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(None);
    one(&mut *store, &old, Write::open(row.clone()));
    let new = store.adopt("Blitz-0", "b").unwrap().owner;
    let uuid = row.uuid;
    let reason = Reason::Closed;
    for (write, outcome) in [
        (Write::open(session(None)), Outcome::Superseded),
        (Write::Join { uuid, at_ms: 2 }, Outcome::Lost),
        (Write::Leave { uuid, at_ms: 2 }, Outcome::Lost),
        (
            Write::Close {
                uuid,
                at_ms: 2,
                reason,
            },
            Outcome::Lost,
        ),
        (Write::Access { uuid, at_ms: 2 }, Outcome::Lost),
        (Write::Stopped { at_ms: 2 }, Outcome::Superseded),
        (Write::Probe, Outcome::Superseded),
    ] {
        assert_eq!(one(&mut *store, &old, write.clone()), outcome, "{write:?}");
    }
    assert_eq!(
        one(&mut *store, &new, Write::Join { uuid, at_ms: 2 }),
        Outcome::References(2)
    );
    assert_eq!(store.adopt("Blitz-0", "c").unwrap().sessions.len(), 1);
}

fn the_last_who_leaves_closes(place: &dyn Place) {
    let mut store = place.open();
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(None);
    let uuid = row.uuid;
    let outcomes = store
        .write(
            &owner,
            &[
                Write::open(row),
                Write::Join { uuid, at_ms: 2000 },
                Write::Leave { uuid, at_ms: 3000 },
                Write::Leave { uuid, at_ms: 4000 },
                Write::Leave { uuid, at_ms: 5000 },
            ],
        )
        .unwrap();
    assert_eq!(
        outcomes,
        [
            Outcome::Done,
            Outcome::References(2),
            Outcome::References(1),
            Outcome::References(0),
            Outcome::Lost
        ]
    );
    let found = store.session(uuid).unwrap().unwrap();
    assert_eq!(
        (found.ended, found.server.as_str()),
        (Some(Reason::Left), "Blitz-0")
    );
    assert_eq!(found.row.last_access_ms, 2000);
    assert_eq!(store.session(SessionId::random()).unwrap(), None);
}

fn a_token_opens_one_session_and_does_not_hinder_the_rest_of_the_batch(place: &dyn Place) {
    let mut store = place.open();
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let (first, again, other) = (session(Some("t")), session(Some("t")), session(None));
    let outcomes = store
        .write(
            &owner,
            &[
                Write::open(first.clone()),
                Write::open(again),
                Write::open(other),
            ],
        )
        .unwrap();
    let Outcome::TokenUsed(found) = &outcomes[1] else {
        panic!("{outcomes:?}");
    };
    assert_eq!((found.row.uuid, found.ended), (first.uuid, None));
    assert_eq!(outcomes[2], Outcome::Done);
    assert_eq!(store.adopt("Blitz-0", "b").unwrap().sessions.len(), 2);
}

fn users_are_added_once_and_begin_after_omeros_own(place: &dyn Place) {
    let mut store = place.open();
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let add = |name: &str| Write::AddUser {
        name: name.to_owned(),
        hash: "h".to_owned(),
        admin: false,
        at_ms: 1,
    };
    assert_eq!(one(&mut *store, &owner, add("ann")), Outcome::Done);
    assert_eq!(one(&mut *store, &owner, add("ann")), Outcome::UserExists);
    assert_eq!(one(&mut *store, &owner, add("Ann")), Outcome::Done);
    let ids: Vec<u64> = store.users().unwrap().iter().map(|u| u.id).collect();
    assert_eq!(ids, [0, 2, 3]);
    let set = |name: &str| Write::SetHash {
        name: name.to_owned(),
        hash: "new".to_owned(),
        at_ms: 2,
    };
    assert_eq!(one(&mut *store, &owner, set("ann")), Outcome::Done);
    assert_eq!(one(&mut *store, &owner, set("nobody")), Outcome::NoUser);
    assert_eq!(
        store.user("ann").unwrap().unwrap().hash.as_deref(),
        Some("new")
    );
}

fn several_busy_servers_all_get_their_turn(place: &dyn Place) {
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                let mut store = place.open();
                let owner = store.adopt(&format!("Blitz-{n}"), "p").unwrap().owner;
                for _ in 0..200 {
                    // None waits for so long that it is told that the store is busy.
                    let outcome = one(&mut *store, &owner, Write::open(session(None)));
                    assert_eq!(outcome, Outcome::Done);
                }
            });
        }
    });
    let mut store = place.open();
    for n in 0..4 {
        let adopted = store.adopt(&format!("Blitz-{n}"), "q").unwrap();
        assert_eq!(adopted.sessions.len(), 200);
    }
}

fn everybody_who_waits_is_answered_by_what_was_asked(place: &dyn Place) {
    let store = place.open();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Opened { store, thread, .. } = StoreHandle::open(|| Ok(store), "Blitz-0", "a")
            .await
            .unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200_u32 {
            let handle = store.clone();
            tasks.spawn(async move {
                let row = session(None);
                let uuid = row.uuid;
                let mut writes = vec![Write::open(row)];
                writes.extend((0..n % 3).map(|_| Write::Join { uuid, at_ms: 2 }));
                let outcomes = handle.write(writes).await.unwrap();
                let expected: Vec<Outcome> = std::iter::once(Outcome::Done)
                    .chain((0..n % 3).map(|k| Outcome::References(k + 2)))
                    .collect();
                assert_eq!(outcomes, expected);
                let found = handle.session(uuid).await.unwrap().unwrap();
                assert_eq!(found.row.references, n % 3 + 1);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(store.owned().await.unwrap().len(), 200);
        drop(store);
        thread.join().unwrap();
    });
}

fn a_session_is_taken_only_from_a_server_that_does_not_live(place: &dyn Place) {
    let mut first = place.open();
    let zero = first.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(Some("t"));
    let uuid = row.uuid;
    assert_eq!(
        one(&mut *first, &zero, Write::open(row.clone())),
        Outcome::Done
    );

    let mut held = place.open();
    let one_ = held.adopt("Blitz-1", "b").unwrap().owner;
    assert!(
        matches!(one(&mut *held, &one_, Write::Take { uuid }), Outcome::Held { server, .. } if server == "Blitz-0")
    );
    let mut gone = place.open();
    place.set_living(&["Blitz-1"]);
    assert!(
        matches!(one(&mut *gone, &one_, Write::Take { uuid }), Outcome::Taken { from, row } if from == "Blitz-0" && row.uuid == uuid)
    );
    // Its own by now: to take it again finds nothing to do.
    assert!(
        matches!(one(&mut *held, &one_, Write::Take { uuid }), Outcome::Taken { from, .. } if from == "Blitz-1")
    );
    // Whoever had it has lost it, and its next life does not have it.
    let access = Write::Access { uuid, at_ms: 2000 };
    assert_eq!(one(&mut *first, &zero, access.clone()), Outcome::Lost);
    assert_eq!(first.adopt("Blitz-0", "c").unwrap().sessions, []);
    assert_eq!(one(&mut *held, &one_, access), Outcome::Done);
    // A life that is over takes nothing.
    let later = gone.adopt("Blitz-1", "d").unwrap();
    assert_eq!(later.sessions.len(), 1);
    assert_eq!(
        one(&mut *gone, &one_, Write::Take { uuid }),
        Outcome::Superseded
    );
    let close = Write::Close {
        uuid,
        at_ms: 3000,
        reason: Reason::Closed,
    };
    assert_eq!(one(&mut *gone, &later.owner, close), Outcome::Done);
    assert_eq!(
        one(&mut *gone, &later.owner, Write::Take { uuid }),
        Outcome::Lost
    );
}

fn a_session_is_given_only_to_a_server_that_lives(place: &dyn Place) {
    let mut store = place.open();
    let zero = store.adopt("Blitz-0", "a").unwrap().owner;
    let first = store.adopt("Blitz-1", "b").unwrap().owner;
    store.adopt("Blitz-2", "c").unwrap();
    place.set_living(&["Blitz-0", "Blitz-1"]);
    let row = session(None);
    let uuid = row.uuid;
    one(&mut *store, &zero, Write::open(row));
    let give = |to: &str| Write::Give {
        uuid,
        to: to.to_owned(),
        at_ms: 5000,
    };
    assert_eq!(one(&mut *store, &zero, give("Blitz-2")), Outcome::NoHolder);
    assert_eq!(one(&mut *store, &first, give("Blitz-1")), Outcome::Lost);
    assert_eq!(one(&mut *store, &zero, give("Blitz-1")), Outcome::Done);
    assert_eq!(one(&mut *store, &zero, give("Blitz-1")), Outcome::Lost);
    // With the epoch of the receiver, so that its writes reach it at once.
    let access = Write::Access { uuid, at_ms: 6000 };
    assert_eq!(one(&mut *store, &first, access), Outcome::Done);
    let found = store.session(uuid).unwrap().unwrap();
    assert_eq!(
        (found.server.as_str(), found.row.last_access_ms),
        ("Blitz-1", 6000)
    );
}

fn a_life_is_shortened_and_never_lengthened(place: &dyn Place) {
    let mut store = place.open();
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(None);
    let uuid = row.uuid;
    one(&mut *store, &owner, Write::open(row));
    let mut shorten = |at_ms: u64, live_ms: u64| {
        let write = Write::Shorten {
            uuid,
            at_ms,
            live_ms,
        };
        one(&mut *store, &owner, write)
    };
    // It began at 1000 and had no limit.
    assert_eq!(shorten(5000, 10_000), Outcome::TimeToLive(14_000));
    assert_eq!(shorten(5000, 50_000), Outcome::TimeToLive(14_000));
    assert_eq!(shorten(6000, 1000), Outcome::TimeToLive(6000));
    assert_eq!(shorten(0, 0), Outcome::TimeToLive(1), "0 would be no limit");
}

fn a_user_has_so_many_sessions_over_all_servers_and_services_do_not_count(place: &dyn Place) {
    let mut store = place.open();
    let owners = ["Blitz-0", "Blitz-1"].map(|id| store.adopt(id, "p").unwrap().owner);
    let mut open = |server: usize, event: &str, token: Option<&str>| {
        let row = SessionRow {
            event: event.to_owned(),
            ..session(token)
        };
        let write = Write::Open {
            row,
            max_user: Some(2),
        };
        one(&mut *store, &owners[server], write)
    };
    assert_eq!(open(0, "Internal", None), Outcome::Done);
    assert_eq!(open(0, "User", Some("first")), Outcome::Done);
    assert_eq!(open(1, "User", None), Outcome::Done);
    let full = Outcome::UserFull {
        open: 2,
        next_end_ms: Some(601_000),
    };
    assert_eq!(open(1, "User", None), full);
    // To ask again for what was opened is no further session.
    assert!(matches!(
        open(1, "User", Some("first")),
        Outcome::TokenUsed(_)
    ));
}

fn what_nobody_comes_back_for_is_ended_by_whoever_starts(place: &dyn Place) {
    let mut store = place.open();
    let now = now_ms();
    let with = |store: &mut dyn Store, server: &str, last_access_ms: u64, ttl: u64| {
        let owner = store.adopt(server, "p").unwrap().owner;
        let row = SessionRow {
            started_ms: last_access_ms,
            last_access_ms,
            time_to_live_ms: ttl,
            ..session(None)
        };
        let uuid = row.uuid;
        one(store, &owner, Write::open(row));
        uuid
    };
    let living = with(&mut *store, "Blitz-0", 1000, 1000);
    let long_gone = with(&mut *store, "Blitz-1", 1000, 0);
    let lived = with(&mut *store, "Blitz-2", now - 5000, 1000);
    let away = with(&mut *store, "Blitz-3", now - 700_000, 0);
    place.set_living(&["Blitz-0"]);
    store.adopt("Blitz-4", "p").unwrap();
    let mut ended = |uuid| store.session(uuid).unwrap().unwrap().ended;
    assert_eq!(ended(living), None, "its own matter");
    assert_eq!(ended(long_gone), Some(Reason::Idle));
    assert_eq!(ended(lived), Some(Reason::Lived));
    assert_eq!(
        ended(away),
        None,
        "it may come back yet: downtime is not idle time"
    );
}
