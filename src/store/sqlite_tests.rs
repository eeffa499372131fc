use super::*;
use crate::store::{ROOT, StoreHandle};

fn made(dir: &Path) -> Sqlite {
    let mut store = Sqlite::create(&dir.join("grid.db")).unwrap();
    store.add_root(1, || Ok("hash".to_owned())).unwrap();
    store
}

fn session(token: Option<&str>) -> SessionRow {
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

fn one(store: &mut Sqlite, owner: &Owner, write: Write) -> Outcome {
    store.write(owner, &[write]).unwrap().remove(0)
}

#[test]
fn sessions_are_there_for_the_next_life_of_their_server_only() {
    let temp = tempfile::tempdir().unwrap();
    let row = session(Some("t"));
    let first = {
        let mut store = made(temp.path());
        let first = store.adopt("Blitz-0", "a").unwrap();
        assert_eq!(first.sessions, []);
        assert_eq!(
            one(&mut store, &first.owner, Write::open(row.clone())),
            Outcome::Done
        );
        assert_eq!(
            one(&mut store, &first.owner, Write::Stopped { at_ms: 5000 }),
            Outcome::Done
        );
        first.owner
    };
    let mut store = Sqlite::open(&temp.path().join("grid.db")).unwrap();
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

#[test]
fn an_older_life_may_not_write() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
    let old = store.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(None);
    one(&mut store, &old, Write::open(row.clone()));
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
        assert_eq!(one(&mut store, &old, write.clone()), outcome, "{write:?}");
    }
    assert_eq!(
        one(&mut store, &new, Write::Join { uuid, at_ms: 2 }),
        Outcome::References(2)
    );
    assert_eq!(store.adopt("Blitz-0", "c").unwrap().sessions.len(), 1);
}

#[test]
fn the_last_who_leaves_closes() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
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

#[test]
fn a_token_opens_one_session_and_does_not_hinder_the_rest_of_the_batch() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
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

#[test]
fn users_are_added_once_and_begin_after_omeros_own() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let add = |name: &str| Write::AddUser {
        name: name.to_owned(),
        hash: "h".to_owned(),
        admin: false,
        at_ms: 1,
    };
    assert_eq!(one(&mut store, &owner, add("ann")), Outcome::Done);
    assert_eq!(one(&mut store, &owner, add("ann")), Outcome::UserExists);
    assert_eq!(one(&mut store, &owner, add("Ann")), Outcome::Done);
    let ids: Vec<u64> = store.users().unwrap().iter().map(|u| u.id).collect();
    assert_eq!(ids, [0, 2, 3]);
    let set = |name: &str| Write::SetHash {
        name: name.to_owned(),
        hash: "new".to_owned(),
        at_ms: 2,
    };
    assert_eq!(one(&mut store, &owner, set("ann")), Outcome::Done);
    assert_eq!(one(&mut store, &owner, set("nobody")), Outcome::NoUser);
    assert_eq!(
        store.user("ann").unwrap().unwrap().hash.as_deref(),
        Some("new")
    );
}

#[test]
fn refuses_what_is_no_database_and_keeps_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("grid.db");
    for bytes in [
        &b"no database at all, but long enough to look like one\n".repeat(100)[..],
        b"x",
    ] {
        fs::write(&path, bytes).unwrap();
        for result in [Sqlite::open(&path), Sqlite::create(&path)] {
            let error = result.err().unwrap();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn refuses_a_damaged_store_and_keeps_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("grid.db");
    {
        let mut store = made(temp.path());
        let owner = store.adopt("Blitz-0", "a").unwrap().owner;
        let rows: Vec<Write> = (0..500).map(|_| Write::open(session(None))).collect();
        store.write(&owner, &rows).unwrap();
    }
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 6000].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let error = Sqlite::create(&path).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(fs::read(&path).unwrap() == bytes, "the file was changed");
}

#[test]
fn refuses_another_programs_database_a_newer_one_and_none() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("grid.db");
    assert!(matches!(
        Sqlite::open(&path).err().unwrap(),
        StoreError::Missing { .. }
    ));
    assert!(!path.exists());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(other);
    assert!(matches!(
        Sqlite::create(&path).err().unwrap(),
        StoreError::Foreign { .. }
    ));
    fs::remove_file(&path).unwrap();
    drop(made(temp.path()));
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(newer);
    let error = Sqlite::open(&path).err().unwrap();
    assert!(
        matches!(error, StoreError::Newer { found: 99, .. }),
        "{error}"
    );
    assert!(matches!(
        Sqlite::open(temp.path()).err().unwrap(),
        StoreError::File { .. }
    ));
}

#[test]
fn a_full_file_system_refuses_the_batch_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    // As many pages as there are: the next one meets the same error as on a full file system.
    let pages: i64 = store
        .connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    let limit = |store: &Sqlite, pages: i64| {
        store
            .connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    };
    limit(&store, pages);
    let many: Vec<Write> = (0..1000).map(|_| Write::open(session(None))).collect();
    let error = store.write(&owner, &many).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    limit(&store, 1_000_000);
    assert_eq!(
        store.adopt("Blitz-0", "b").unwrap().sessions,
        [],
        "all or nothing"
    );
}

#[test]
fn several_busy_servers_all_get_their_turn() {
    let temp = tempfile::tempdir().unwrap();
    drop(made(temp.path()));
    let path = temp.path().join("grid.db");
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut store = Sqlite::open(&path).unwrap();
                let owner = store.adopt(&format!("Blitz-{n}"), "p").unwrap().owner;
                let mut longest = Duration::ZERO;
                for _ in 0..200 {
                    let start = std::time::Instant::now();
                    one(&mut store, &owner, Write::open(session(None)));
                    longest = longest.max(start.elapsed());
                }
                longest
            })
        })
        .collect();
    for thread in threads {
        let longest = thread.join().unwrap();
        println!("longest wait {longest:?}");
        assert!(longest < BUSY, "{longest:?}");
    }
    let mut store = Sqlite::open(&path).unwrap();
    for n in 0..4 {
        let adopted = store.adopt(&format!("Blitz-{n}"), "q").unwrap();
        assert_eq!(adopted.sessions.len(), 200);
    }
}

#[tokio::test]
async fn everybody_who_waits_is_answered_by_what_was_asked() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let (handle, thread) = StoreHandle::spawn(store, owner).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200_u32 {
        let handle = handle.clone();
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
    drop(handle);
    thread.join().unwrap();
}

/// A store in which the named servers hold their leases.
fn with_living(dir: &Path, living: &'static [&'static str]) -> Sqlite {
    Sqlite::open(&dir.join("grid.db"))
        .unwrap()
        .with_leases(move |server| living.contains(&server))
}

#[test]
fn a_session_is_taken_only_from_a_server_that_does_not_live() {
    let temp = tempfile::tempdir().unwrap();
    let mut first = made(temp.path());
    let zero = first.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(Some("t"));
    let uuid = row.uuid;
    assert_eq!(
        one(&mut first, &zero, Write::open(row.clone())),
        Outcome::Done
    );

    let mut held = with_living(temp.path(), &["Blitz-0", "Blitz-1"]);
    let one_ = held.adopt("Blitz-1", "b").unwrap().owner;
    assert!(
        matches!(one(&mut held, &one_, Write::Take { uuid }), Outcome::Held { server, .. } if server == "Blitz-0")
    );
    let mut gone = with_living(temp.path(), &["Blitz-1"]);
    assert!(
        matches!(one(&mut gone, &one_, Write::Take { uuid }), Outcome::Taken { from, row } if from == "Blitz-0" && row.uuid == uuid)
    );
    // Its own by now: to take it again finds nothing to do.
    assert!(
        matches!(one(&mut held, &one_, Write::Take { uuid }), Outcome::Taken { from, .. } if from == "Blitz-1")
    );
    // Whoever had it has lost it, and its next life does not have it.
    let access = Write::Access { uuid, at_ms: 2000 };
    assert_eq!(one(&mut first, &zero, access.clone()), Outcome::Lost);
    assert_eq!(first.adopt("Blitz-0", "c").unwrap().sessions, []);
    assert_eq!(one(&mut held, &one_, access), Outcome::Done);
    // A life that is over takes nothing.
    let later = gone.adopt("Blitz-1", "d").unwrap();
    assert_eq!(later.sessions.len(), 1);
    assert_eq!(
        one(&mut gone, &one_, Write::Take { uuid }),
        Outcome::Superseded
    );
    let close = Write::Close {
        uuid,
        at_ms: 3000,
        reason: Reason::Closed,
    };
    assert_eq!(one(&mut gone, &later.owner, close), Outcome::Done);
    assert_eq!(
        one(&mut gone, &later.owner, Write::Take { uuid }),
        Outcome::Lost
    );
}

#[test]
fn a_session_is_given_only_to_a_server_that_lives() {
    let temp = tempfile::tempdir().unwrap();
    drop(made(temp.path()));
    let mut store = with_living(temp.path(), &["Blitz-0", "Blitz-1"]);
    let zero = store.adopt("Blitz-0", "a").unwrap().owner;
    let first = store.adopt("Blitz-1", "b").unwrap().owner;
    store.adopt("Blitz-2", "c").unwrap();
    let row = session(None);
    let uuid = row.uuid;
    one(&mut store, &zero, Write::open(row));
    let give = |to: &str| Write::Give {
        uuid,
        to: to.to_owned(),
        at_ms: 5000,
    };
    assert_eq!(one(&mut store, &zero, give("Blitz-2")), Outcome::NoHolder);
    assert_eq!(one(&mut store, &first, give("Blitz-1")), Outcome::Lost);
    assert_eq!(one(&mut store, &zero, give("Blitz-1")), Outcome::Done);
    assert_eq!(one(&mut store, &zero, give("Blitz-1")), Outcome::Lost);
    // With the epoch of the receiver, so that its writes reach it at once.
    let access = Write::Access { uuid, at_ms: 6000 };
    assert_eq!(one(&mut store, &first, access), Outcome::Done);
    let found = store.session(uuid).unwrap().unwrap();
    assert_eq!(
        (found.server.as_str(), found.row.last_access_ms),
        ("Blitz-1", 6000)
    );
}

#[test]
fn a_life_is_shortened_and_never_lengthened() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(None);
    let uuid = row.uuid;
    one(&mut store, &owner, Write::open(row));
    let mut shorten = |at_ms: u64, live_ms: u64| {
        let write = Write::Shorten {
            uuid,
            at_ms,
            live_ms,
        };
        one(&mut store, &owner, write)
    };
    // It began at 1000 and had no limit.
    assert_eq!(shorten(5000, 10_000), Outcome::TimeToLive(14_000));
    assert_eq!(shorten(5000, 50_000), Outcome::TimeToLive(14_000));
    assert_eq!(shorten(6000, 1000), Outcome::TimeToLive(6000));
    assert_eq!(shorten(0, 0), Outcome::TimeToLive(1), "0 would be no limit");
}

#[test]
fn a_user_has_so_many_sessions_over_all_servers_and_services_do_not_count() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
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
        one(&mut store, &owners[server], write)
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

#[test]
fn what_nobody_comes_back_for_is_ended_by_whoever_starts() {
    let temp = tempfile::tempdir().unwrap();
    drop(made(temp.path()));
    let mut store = with_living(temp.path(), &["Blitz-0"]);
    let now = now_ms();
    let with = |store: &mut Sqlite, server: &str, last_access_ms: u64, ttl: u64| {
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
    let living = with(&mut store, "Blitz-0", 1000, 1000);
    let long_gone = with(&mut store, "Blitz-1", 1000, 0);
    let lived = with(&mut store, "Blitz-2", now - 5000, 1000);
    let away = with(&mut store, "Blitz-3", now - 700_000, 0);
    store.adopt("Blitz-4", "p").unwrap();
    let ended = |uuid| {
        store_ended(
            &mut Sqlite::open(&temp.path().join("grid.db")).unwrap(),
            uuid,
        )
    };
    assert_eq!(ended(living), None, "its own matter");
    assert_eq!(ended(long_gone), Some(Reason::Idle));
    assert_eq!(ended(lived), Some(Reason::Lived));
    assert_eq!(
        ended(away),
        None,
        "it may come back yet: downtime is not idle time"
    );
}

fn store_ended(store: &mut Sqlite, uuid: SessionId) -> Option<Reason> {
    store.session(uuid).unwrap().unwrap().ended
}
