use std::collections::BTreeSet;
use std::sync::Mutex;

use super::super::suite::{self, Place, TESTS, one};
use super::super::{ROOT, Reason, bootstrap};
use super::*;

/// A main store and kept sessions in a directory of their own.
struct Both {
    dir: tempfile::TempDir,
    living: Arc<Mutex<Option<BTreeSet<String>>>>,
}

impl Both {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        bootstrap(&dir.path().join("grid.db"), &dir.path().join("password")).unwrap();
        Self {
            dir,
            living: Arc::default(),
        }
    }

    fn leases(&self) -> impl Fn(&str) -> bool + Send + Sync + 'static {
        let living = self.living.clone();
        move |server: &str| {
            let living = living.lock().unwrap();
            living.as_ref().is_none_or(|living| living.contains(server))
        }
    }

    fn open(&self, reads_only: bool) -> Layered {
        let path = self.dir.path().join("grid.db");
        let main = if reads_only {
            Sqlite::read_only(&path).unwrap()
        } else {
            Sqlite::open(&path).unwrap().with_leases(self.leases())
        };
        let kept = self.dir.path().join("grid/sessions.db");
        Layered::new(Box::new(main), reads_only, &kept, self.leases())
    }

    /// Begins a life of a server.
    fn life(&self, server: &str, reads_only: bool) -> (Layered, Adopted) {
        let mut store = self.open(reads_only);
        let adopted = store.adopt(server, "test").unwrap();
        (store, adopted)
    }
}

impl Place for Both {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.open(false))
    }

    fn set_living(&self, servers: &[&str]) {
        let living = servers.iter().map(|server| (*server).to_owned()).collect();
        *self.living.lock().unwrap() = Some(living);
    }
}

/// Returns a session that was used just now.
fn session(token: Option<&str>) -> SessionRow {
    SessionRow {
        started_ms: now_ms(),
        last_access_ms: now_ms(),
        ..suite::session(token)
    }
}

fn ids(adopted: &Adopted) -> BTreeSet<SessionId> {
    adopted.sessions.iter().map(|row| row.uuid).collect()
}

#[test]
fn one_that_may_write_is_a_store_like_any_other() {
    for (name, test) in TESTS {
        println!("{name}");
        test(&Both::new());
        let kept = Both::new();
        // Also once somebody has kept a session.
        kept.life("Blitz-9", true);
        test(&kept);
    }
}

#[test]
fn sessions_go_along_when_a_blitz_may_no_longer_write_and_come_home() {
    let place = Both::new();
    let (mut store, adopted) = place.life("Blitz-0", false);
    let (stays, ends) = (session(Some("a")), session(None));
    for row in [&stays, &ends] {
        let opened = one(&mut store, &adopted.owner, Write::open(row.clone()));
        assert_eq!(opened, Outcome::Done);
    }
    drop(store);

    let (mut store, adopted) = place.life("Blitz-0", true);
    assert_eq!(ids(&adopted), BTreeSet::from([stays.uuid, ends.uuid]));
    let own = session(Some("b"));
    let owner = &adopted.owner;
    assert_eq!(
        one(&mut store, owner, Write::open(own.clone())),
        Outcome::Done
    );
    let again = one(&mut store, owner, Write::open(session(Some("b"))));
    assert!(matches!(again, Outcome::TokenUsed(found) if found.row.uuid == own.uuid));
    assert_eq!(store.by_token("a").unwrap().unwrap().row.uuid, stays.uuid);
    let joined = Write::Join {
        uuid: stays.uuid,
        at_ms: now_ms(),
    };
    assert_eq!(one(&mut store, owner, joined), Outcome::References(2));
    let close = Write::Close {
        uuid: ends.uuid,
        at_ms: now_ms(),
        reason: Reason::Closed,
    };
    assert_eq!(one(&mut store, owner, close), Outcome::Done);
    let add = Write::AddUser {
        name: "ada".to_owned(),
        hash: String::new(),
        admin: false,
        at_ms: 0,
    };
    assert_eq!(one(&mut store, owner, add), Outcome::ReadOnly);
    drop(store);

    // Killed, and back: what ended stays ended although the main store does not know it.
    let (store, adopted) = place.life("Blitz-0", true);
    assert_eq!(ids(&adopted), BTreeSet::from([stays.uuid, own.uuid]));
    drop(store);

    let (mut store, adopted) = place.life("Blitz-0", false);
    assert_eq!(ids(&adopted), BTreeSet::from([stays.uuid, own.uuid]));
    let home = adopted.sessions.iter().find(|row| row.uuid == stays.uuid);
    assert_eq!(home.unwrap().references, 2);
    let ended = store.session(ends.uuid).unwrap().unwrap();
    assert_eq!(ended.ended, Some(Reason::Closed));
    let mut main = Sqlite::open(&place.dir.path().join("grid.db")).unwrap();
    let there = main.left_open("Blitz-0", &[]).unwrap().sessions;
    assert_eq!(there.len(), 2, "everything is home");
    assert_eq!(there[0].user, ROOT);
    drop(store);
    // Coming home twice changes nothing.
    let (_, adopted) = place.life("Blitz-0", false);
    assert_eq!(adopted.sessions.len(), 2);
}

#[test]
fn a_copy_whose_original_was_taken_by_another_is_dropped() {
    let place = Both::new();
    let (mut store, adopted) = place.life("Blitz-0", false);
    let row = session(None);
    one(&mut store, &adopted.owner, Write::open(row.clone()));
    drop(store);
    let (store, adopted) = place.life("Blitz-0", true);
    assert_eq!(adopted.sessions.len(), 1);
    drop(store);
    place.set_living(&["Blitz-1"]);
    let (mut other, life) = place.life("Blitz-1", false);
    let taken = one(&mut other, &life.owner, Write::Take { uuid: row.uuid });
    assert!(matches!(taken, Outcome::Taken { from, .. } if from == "Blitz-0"));
    for reads_only in [true, false] {
        let (mut store, adopted) = place.life("Blitz-0", reads_only);
        assert_eq!(adopted.sessions, [], "reads only: {reads_only}");
        let found = store.session(row.uuid).unwrap();
        let open = found.filter(|found| found.ended.is_none());
        assert!(open.is_none_or(|found| found.server == "Blitz-1"));
    }
}

#[test]
fn a_kept_session_is_taken_from_a_server_that_does_not_live_by_one_only() {
    let place = Both::new();
    let (mut store, adopted) = place.life("Blitz-0", true);
    let row = session(Some("t"));
    one(&mut store, &adopted.owner, Write::open(row.clone()));
    let take = Write::Take { uuid: row.uuid };
    let (mut writes, life) = place.life("Blitz-1", false);
    let held = one(&mut writes, &life.owner, take.clone());
    assert!(matches!(held, Outcome::Held { server, .. } if server == "Blitz-0"));
    let (mut reads, second) = place.life("Blitz-2", true);
    let held = one(&mut reads, &second.owner, take.clone());
    assert!(matches!(held, Outcome::Held { .. }));

    place.set_living(&["Blitz-1", "Blitz-2"]);
    let taken = one(&mut writes, &life.owner, take.clone());
    assert!(matches!(taken, Outcome::Taken { from, .. } if from == "Blitz-0"));
    assert_eq!(one(&mut reads, &second.owner, take), Outcome::Lost);
    for store in [&mut writes, &mut reads] {
        let found = store.session(row.uuid).unwrap().unwrap();
        assert!(found.ended.is_some() || found.server == "Blitz-1");
    }
    let (_, adopted) = place.life("Blitz-0", true);
    assert_eq!(adopted.sessions, []);
}

#[test]
fn sessions_are_given_from_layer_to_layer() {
    let place = Both::new();
    let (mut writes, home) = place.life("Blitz-0", false);
    // It has been one that writes before.
    drop(place.life("Blitz-1", false));
    let (mut reads, away) = place.life("Blitz-1", true);
    let row = session(None);
    one(&mut writes, &home.owner, Write::open(row.clone()));
    let give = |to: &str| Write::Give {
        uuid: row.uuid,
        to: to.to_owned(),
        at_ms: now_ms(),
    };
    let take = Write::Take { uuid: row.uuid };
    assert_eq!(
        one(&mut writes, &home.owner, give("Blitz-1")),
        Outcome::Done
    );
    let taken = one(&mut reads, &away.owner, take.clone());
    assert!(matches!(taken, Outcome::Taken { .. }), "{taken:?}");
    // The main store, which the reader cannot write, would name it for ever.
    let back = one(&mut reads, &away.owner, give("Blitz-0"));
    assert_eq!(back, Outcome::ReadOnly);

    let own = session(None);
    one(&mut reads, &away.owner, Write::open(own.clone()));
    let give = Write::Give {
        uuid: own.uuid,
        to: "Blitz-0".to_owned(),
        at_ms: now_ms(),
    };
    assert_eq!(one(&mut reads, &away.owner, give), Outcome::Done);
    let taken = one(&mut writes, &home.owner, Write::Take { uuid: own.uuid });
    assert!(matches!(taken, Outcome::Taken { .. }), "{taken:?}");
    let found = writes.session(own.uuid).unwrap().unwrap();
    assert_eq!((found.server.as_str(), found.ended), ("Blitz-0", None));
}
