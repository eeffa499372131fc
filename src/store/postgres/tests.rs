use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::store::SessionRow;
use crate::store::suite::{Place, TESTS, one, session};
use crate::store::{Reason, StoreChoice};

#[path = "../../../tests/it/harness/postgres.rs"]
mod server;
use server::PostgresServer;

/// A database with tables and user root.
struct Database<'s> {
    server: &'s PostgresServer,
    name: String,
    opened: AtomicU32,
}

const GRID: &str = "g";

impl<'s> Database<'s> {
    fn new(server: &'s PostgresServer, name: &str) -> Self {
        server.database(name);
        let this = Self {
            server,
            name: name.to_owned(),
            opened: AtomicU32::new(0),
        };
        let choice = this.choice("postgres");
        assert!(Postgres::init(&choice, None, "init").unwrap());
        assert!(
            !Postgres::init(&choice, None, "init").unwrap(),
            "once is enough"
        );
        let mut store = this.connect(GRID);
        assert!(store.add_root(1, || Ok("hash".to_owned())).unwrap());
        assert!(!store.add_root(1, || unreachable!()).unwrap());
        this
    }

    fn choice(&self, user: &str) -> Box<PostgresChoice> {
        let url = self.server.url(&self.name, user);
        match StoreChoice::typed(&url).unwrap() {
            StoreChoice::Postgres(choice) => choice,
            StoreChoice::Embedded => panic!("{url}"),
        }
    }

    fn connect(&self, grid: &str) -> Postgres {
        let n = self.opened.fetch_add(1, Ordering::Relaxed);
        Postgres::open(&self.choice("postgres"), grid, &format!("test {n}")).unwrap()
    }

    fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.server.query(&self.name, sql)
    }
}

impl Place for Database<'_> {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.connect(GRID))
    }

    fn set_living(&self, servers: &[&str]) {
        let list = servers.join("', '");
        self.query(&format!(
            "UPDATE omero_grid.server SET lease_until =
                 CASE WHEN id IN ('{list}') THEN now() + interval '1 hour' ELSE now() - interval '1 hour' END"
        ));
    }
}

#[test]
fn does_what_every_store_has_to_do() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    for (n, (name, test)) in TESTS.into_iter().enumerate() {
        println!("{name}");
        test(&Database::new(&server, &format!("suite_{n}")));
    }
}

#[test]
fn what_postgresql_makes_different() {
    let Some(mut server) = PostgresServer::start() else {
        return;
    };
    no_tables_are_made_unasked(&server);
    grids_on_one_database_do_not_see_each_other(&Database::new(&server, "grids"));
    a_lease_ends_by_the_databases_clock_and_by_a_restart_of_its_server(&Database::new(
        &server, "lease",
    ));
    a_restored_dump_brings_no_lease(&Database::new(&server, "dumped"));
    a_renewal_waits_for_a_take_over_that_is_under_way(&Database::new(&server, "wait"));
    two_that_take_each_others_sessions_do_not_stand_in_each_others_way(&Database::new(
        &server, "cross",
    ));
    the_users_are_omeros_where_that_is_wanted(&Database::new(&server, "users"));
    a_role_of_its_own_needs_no_right_to_make_tables(&Database::new(&server, "roles"));
    text_that_no_database_takes_harms_nobody(&Database::new(&server, "texts"));
    a_commit_whose_answer_is_lost_is_looked_up(&Database::new(&server, "lost"));
    the_connection_comes_back_by_itself(&mut server);
}

fn no_tables_are_made_unasked(server: &PostgresServer) {
    let url = server.database("empty");
    let StoreChoice::Postgres(choice) = StoreChoice::typed(&url).unwrap() else {
        panic!("{url}");
    };
    let error = Postgres::open(&choice, GRID, "p").err().unwrap();
    assert!(matches!(error, StoreError::NoSchema { .. }), "{error}");
    assert!(error.to_string().contains("store init"), "{error}");
    assert_eq!(
        server
            .query(
                "empty",
                "SELECT 1 FROM pg_namespace WHERE nspname = 'omero_grid'"
            )
            .len(),
        0
    );
    Postgres::init(&choice, None, "p").unwrap();
    server.query("empty", "UPDATE omero_grid.meta SET version = 99");
    let error = Postgres::open(&choice, GRID, "p").err().unwrap();
    assert!(
        matches!(error, StoreError::NewerSchema { found: 99, .. }),
        "{error}"
    );
}

fn grids_on_one_database_do_not_see_each_other(place: &Database<'_>) {
    let (mut one_, mut other) = (place.connect("one"), place.connect("other"));
    let owner = one_.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(Some("token"));
    assert_eq!(
        one(&mut one_, &owner, Write::open(row.clone())),
        Outcome::Done
    );
    let same = other.adopt("Blitz-0", "b").unwrap();
    assert_eq!(same.sessions, []);
    assert_eq!(same.owner, owner, "the same name, and still somebody else");
    let uuid = row.uuid;
    for write in [
        Write::Join { uuid, at_ms: 2 },
        Write::Take { uuid },
        Write::Close {
            uuid,
            at_ms: 2,
            reason: Reason::Closed,
        },
    ] {
        assert_eq!(
            one(&mut other, &owner, write.clone()),
            Outcome::Lost,
            "{write:?}"
        );
    }
    assert_eq!(other.session(uuid).unwrap(), None);
    assert_eq!(other.by_token("token").unwrap(), None);
    assert_eq!(
        one(&mut other, &owner, Write::open(session(Some("token")))),
        Outcome::Done
    );
    assert_eq!(one_.owned(&owner).unwrap(), [uuid]);
}

fn a_lease_ends_by_the_databases_clock_and_by_a_restart_of_its_server(place: &Database<'_>) {
    let (mut first, mut second) = (place.connect(GRID), place.connect(GRID));
    let zero = first.adopt("Blitz-0", "a").unwrap().owner;
    let other = second.adopt("Blitz-1", "b").unwrap().owner;
    let row = session(None);
    let uuid = row.uuid;
    one(&mut first, &zero, Write::open(row));
    assert!(matches!(
        one(&mut second, &other, Write::Take { uuid }),
        Outcome::Held { .. }
    ));
    place.query("UPDATE omero_grid.server SET lease_until = now() - interval '1 second' WHERE id = 'Blitz-0'");
    let held = Renewed {
        held: true,
        doubt: false,
    };
    assert_eq!(first.renew(&zero).unwrap(), held);
    assert!(matches!(
        one(&mut second, &other, Write::Take { uuid }),
        Outcome::Held { .. }
    ));
    // Who stops in good order holds nothing any more.
    assert_eq!(
        one(&mut first, &zero, Write::Stopped { at_ms: 1 }),
        Outcome::Done
    );
    assert!(matches!(
        one(&mut second, &other, Write::Take { uuid }),
        Outcome::Taken { .. }
    ));
    second.adopt("Blitz-0", "c").unwrap();
    assert!(!first.renew(&zero).unwrap().held, "a later life has begun");
}

fn a_restored_dump_brings_no_lease(place: &Database<'_>) {
    let mut store = place.connect(GRID);
    let zero = store.adopt("Blitz-0", "a").unwrap().owner;
    let now = crate::store::sqlite::now_ms();
    let row = SessionRow {
        started_ms: now,
        last_access_ms: now,
        ..session(None)
    };
    let uuid = row.uuid;
    one(&mut store, &zero, Write::open(row));
    place.set_living(&["Blitz-0"]);
    place
        .server
        .dump_drop_and_restore(&place.name, "omero_grid");
    assert!(
        !store.renew(&zero).unwrap().held,
        "the running server has lost its place"
    );
    let other = store.adopt("Blitz-1", "b").unwrap().owner;
    assert!(matches!(
        one(&mut store, &other, Write::Take { uuid }),
        Outcome::Taken { .. }
    ));
}

fn a_renewal_waits_for_a_take_over_that_is_under_way(place: &Database<'_>) {
    let mut store = place.connect(GRID);
    let zero = store.adopt("Blitz-0", "a").unwrap().owner;
    let row = session(None);
    let uuid = row.uuid;
    one(&mut store, &zero, Write::open(row));
    place.set_living(&[]);
    // Somebody else's take-over, by hand, so that it can be held half way.
    let half = "BEGIN; SELECT id FROM omero_grid.server WHERE id = 'Blitz-0' FOR UPDATE;
        UPDATE omero_grid.session SET server = 'Blitz-1', epoch = 1; SELECT pg_sleep(0.3); COMMIT";
    let owned = std::thread::scope(|scope| {
        let begun = scope.spawn(|| place.query(half));
        let waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()";
        while place.query(waiting).is_empty() && !begun.is_finished() {
            std::thread::yield_now();
        }
        assert!(store.renew(&zero).unwrap().held);
        store.owned(&zero).unwrap()
    });
    assert!(
        !owned.contains(&uuid),
        "what was taken before the renewal is seen after it"
    );
}

fn two_that_take_each_others_sessions_do_not_stand_in_each_others_way(place: &Database<'_>) {
    let mut setup = place.connect(GRID);
    let zero = setup.adopt("Blitz-0", "a").unwrap().owner;
    let first = setup.adopt("Blitz-1", "a").unwrap().owner;
    let mut mine = Vec::new();
    for owner in [&zero, &first] {
        let rows: Vec<_> = (0..40).map(|_| session(None)).collect();
        mine.push(rows.iter().map(|row| row.uuid).collect::<Vec<_>>());
        let opens: Vec<_> = rows.into_iter().map(Write::open).collect();
        setup.write(owner, &opens).unwrap();
    }
    place.set_living(&[]);
    let take = |owner: Owner, uuids: Vec<SessionId>| {
        let mut store = place.connect(GRID);
        for uuid in uuids {
            let outcome = one(&mut store, &owner, Write::Take { uuid });
            assert!(matches!(outcome, Outcome::Taken { .. }), "{outcome:?}");
        }
    };
    let (theirs, ours) = (mine.pop().unwrap(), mine.pop().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| take(zero.clone(), theirs));
        scope.spawn(|| take(first.clone(), ours));
    });
    assert_eq!(setup.owned(&zero).unwrap().len(), 40);
    assert_eq!(setup.owned(&first).unwrap().len(), 40);
}

fn the_users_are_omeros_where_that_is_wanted(place: &Database<'_>) {
    place.query(
        "CREATE TABLE experimenter (id bigint PRIMARY KEY, omename varchar(255) UNIQUE);
         CREATE TABLE password (experimenter_id bigint PRIMARY KEY, hash varchar(255));
         CREATE TABLE experimentergroup (id bigint PRIMARY KEY, name varchar(255));
         CREATE TABLE groupexperimentermap (parent bigint, child bigint);
         INSERT INTO experimenter VALUES (0, 'root'), (52, 'ann'), (53, 'gone'), (54, 'ldap');
         INSERT INTO password VALUES (0, 'kYMkc9SyhupHyJP1Cl2Alg=='), (52, 'xMAbSJvRSWH9oi23IZEX8g=='), (53, 'LSjpGNDDKH/7iZyIwB8OTA==');
         INSERT INTO experimentergroup VALUES (0, 'system'), (1, 'user');
         INSERT INTO groupexperimentermap VALUES (0, 0), (1, 0), (1, 52), (1, 54);",
    );
    let mut choice = place.choice("postgres");
    choice.omero_users = Some(choice.server.clone());
    let mut store = Postgres::open(&choice, GRID, "users").unwrap();
    let user = |store: &mut Postgres, name: &str| {
        let user = store.user(name).unwrap()?;
        Some((user.id, user.hash.is_some(), user.admin))
    };
    assert_eq!(user(&mut store, "root"), Some((0, true, true)));
    assert_eq!(user(&mut store, "ann"), Some((52, true, false)));
    assert_eq!(
        user(&mut store, "gone"),
        Some((53, false, false)),
        "no member of group user"
    );
    assert_eq!(
        user(&mut store, "ldap"),
        Some((54, false, false)),
        "has no password here"
    );
    assert_eq!(user(&mut store, "Ann"), None);
    assert_eq!(store.users().unwrap().len(), 4);
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let add = Write::AddUser {
        name: "bob".to_owned(),
        hash: "h".to_owned(),
        admin: false,
        at_ms: 1,
    };
    assert_eq!(one(&mut store, &owner, add), Outcome::ForeignUsers);
    assert!(!store.add_root(1, || unreachable!()).unwrap());
    let ann = SessionRow {
        user_id: 52,
        user: "ann".to_owned(),
        ..session(None)
    };
    assert_eq!(
        one(&mut store, &owner, Write::open(ann.clone())),
        Outcome::Done
    );
    assert_eq!(store.session(ann.uuid).unwrap().unwrap().row, ann);
}

fn a_role_of_its_own_needs_no_right_to_make_tables(place: &Database<'_>) {
    place.query("CREATE ROLE grid LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC");
    let error = Postgres::open(&place.choice("grid"), GRID, "p")
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
    Postgres::init(&place.choice("postgres"), Some("grid"), "p").unwrap();
    let mut store = Postgres::open(&place.choice("grid"), GRID, "p").unwrap();
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    assert_eq!(
        one(&mut store, &owner, Write::open(session(None))),
        Outcome::Done
    );
    assert_eq!(store.counts().unwrap().open, [("Blitz-0".to_owned(), 1)]);
}

fn text_that_no_database_takes_harms_nobody(place: &Database<'_>) {
    let mut store = place.connect(GRID);
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let odd = SessionRow {
        agent: "a\0b".to_owned(),
        group: "\0".to_owned(),
        ..session(Some("t\0"))
    };
    let uuid = odd.uuid;
    let outcomes = store
        .write(&owner, &[Write::open(odd), Write::open(session(None))])
        .unwrap();
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done]);
    assert_eq!(
        store.session(uuid).unwrap().unwrap().row.agent,
        "a\u{fffd}b"
    );
    assert_eq!(store.user("ro\0ot").unwrap(), None);
}

fn a_commit_whose_answer_is_lost_is_looked_up(place: &Database<'_>) {
    let mut store = place.connect(GRID);
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    // The server ends the connection while it commits: before the commit counts, as a deferred trigger does, ...
    place.query(
        "CREATE TABLE omero_grid.once (n int); INSERT INTO omero_grid.once VALUES (1);
         CREATE FUNCTION omero_grid.hang_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('omero_grid.commits') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END IF;
             RETURN NULL; END $$;
         CREATE SEQUENCE omero_grid.commits;
         CREATE CONSTRAINT TRIGGER hang_up AFTER INSERT ON omero_grid.session DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION omero_grid.hang_up();",
    );
    let row = session(Some("t"));
    assert_eq!(
        one(&mut store, &owner, Write::open(row.clone())),
        Outcome::Done
    );
    assert_eq!(
        store.owned(&owner).unwrap(),
        [row.uuid],
        "tried again, and once only"
    );
    // ... or after it, which is looked up by the number of the transaction.
    let scope = Scope {
        grid: GRID,
        owner: &owner,
        batch: store.batch,
        omero_users: false,
    };
    let committed = |store: &mut Postgres, scope: &Scope<'_>| {
        store
            .link
            .run(async |on| scope.is_committed(on).await)
            .unwrap()
    };
    assert!(committed(&mut store, &scope));
    let next = Scope {
        batch: store.batch + 1,
        ..scope
    };
    assert!(!committed(&mut store, &next));
}

fn the_connection_comes_back_by_itself(server: &mut PostgresServer) {
    let (mut store, owner, row, choice) = {
        let place = Database::new(server, "back");
        let mut store = place.connect(GRID);
        let owner = store.adopt("Blitz-0", "a").unwrap().owner;
        let row = session(None);
        one(&mut store, &owner, Write::open(row.clone()));
        (store, owner, row, place.choice("postgres"))
    };
    let access = Write::Access {
        uuid: row.uuid,
        at_ms: 5000,
    };
    server.crash();
    let error = store
        .write(&owner, std::slice::from_ref(&access))
        .unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    let error = Postgres::open(&choice, GRID, "p").err().unwrap();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    server.run();
    let begun = std::time::Instant::now();
    while let Err(error) = store.renew(&owner) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
        std::thread::yield_now();
    }
    assert_eq!(one(&mut store, &owner, access), Outcome::Done);
    // A connection that was lost between two calls is not even noticed.
    server.query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'omero-grid%'");
    assert_eq!(one(&mut store, &owner, Write::Probe), Outcome::Done);
}
