//! The store as an administrator handles it, and a grid whose store is a PostgreSQL.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Grid, PostgresServer, application, blitz, kill, node};
use nix::sys::signal::Signal;

fn grid_of_two() -> Grid {
    Grid::new(&application(&[
        node("a", &[blitz("Blitz-0")]),
        node("b", &[blitz("Blitz-1")]),
    ]))
}

/// Two Blitzes whose sessions are in a database, with leases of two seconds.
fn on_postgres(server: &PostgresServer, database: &str) -> Grid {
    let url = server.database(database);
    let with = |id: &str| {
        blitz(id)
            .property("omero.grid.store", &url)
            .property("omero.grid.store.lease", "2")
            .property("omero.grid.resume.grace", "1")
    };
    let grid = Grid::new(&application(&[
        node("a", &[with("Blitz-0")]),
        node("b", &[with("Blitz-1")]),
    ]));
    grid.write("url", &url);
    grid
}

/// Joins a session and returns where it is.
fn owner(grid: &Grid, session: &str) -> String {
    let joined = grid.json(&format!("session join {session}"));
    joined["server"].as_str().unwrap().to_owned()
}

#[test]
fn a_copy_is_made_under_load_and_its_users_come_back_elsewhere() {
    let grid = grid_of_two();
    grid.run("store check").exits(3);
    grid.start();
    grid.write("pw", "secret");
    grid.run("user add ann --password-file pw").ok();
    grid.session();
    let made = grid.json("store backup copy.db");
    assert!(made["bytes"].as_u64().unwrap() > 0);
    let mode = std::fs::metadata(grid.path("copy.db"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    grid.run("store backup copy.db")
        .exits(6)
        .says(&["copy.db is there already", "--force"]);
    grid.run("store backup copy.db --force").ok();
    let checked = grid.json("store check");
    assert_eq!(
        (&checked["ok"], &checked["users"]),
        (&true.into(), &2.into())
    );
    let open: u64 = checked["open"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(open, 1);

    let other = grid_of_two();
    other.run("store init").ok();
    let copy = grid.path("copy.db").display().to_string();
    // Both have a root of their own, with a password of its own.
    other.run(&format!("store import {copy}")).exits(6).says(&[
        "user root",
        "--replace",
        "nothing was imported",
    ]);
    assert_eq!(other.json("store check")["users"], 1);
    other.run(&format!("store import {copy} --replace")).ok();
    other.start();
    other.write("pw", "secret");
    other
        .run("session create --user ann --password-file pw")
        .ok();
}

#[test]
fn a_database_that_can_only_be_read_is_not_read_without_its_log() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: needs root, to be somebody who may not write");
        return;
    }
    let grid = grid_of_two();
    grid.run("store init").ok();
    let as_nobody = |grid: &Grid| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_omero-grid"));
        command.args(["--dir", grid.dir().to_str().unwrap(), "store", "check"]);
        command
    };
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_omero-grid"));
    let reachable = program
        .ancestors()
        .skip(1)
        .filter(|dir| !dir.as_os_str().is_empty())
        .all(|dir| std::fs::metadata(dir).unwrap().permissions().mode() & 0o001 != 0);
    if !reachable {
        println!("skipped: nobody else may run the program where it is built");
        return;
    }
    for dir in [grid.dir().to_owned(), grid.path("var")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let parent = grid.dir().parent().unwrap();
    std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let db = grid.path("var/grid.db");
    for side in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{side}", db.display()));
    }
    std::fs::set_permissions(&db, std::fs::Permissions::from_mode(0o644)).unwrap();
    grid.finish(&mut as_nobody(&grid), "").ok();
    std::fs::write(format!("{}-wal", db.display()), vec![0; 64]).unwrap();
    grid.finish(&mut as_nobody(&grid), "")
        .exits(6)
        .says(&["grid.db-wal", "store backup"]);
}

#[test]
fn a_grid_on_postgresql_needs_its_tables_and_says_so() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let grid = on_postgres(&server, "grid");
    grid.run("start grid.xml")
        .exits(1)
        .says(&["omero-grid store init", "omero_grid"]);
    let made = grid.json("store --store @url init");
    assert_eq!((&made["made"], &made["root"]), (&true.into(), &true.into()));
    grid.start();
    assert!(!grid.path("var/grid.db").exists());
    let session = grid.session();
    let checked = grid.json("store --store @url check");
    assert_eq!(checked["users"], 1);
    grid.run("store --store @url backup copy.db")
        .exits(6)
        .says(&["pg_dump"]);
    grid.run(&format!("session join {session}")).ok();
}

#[test]
fn sessions_survive_their_blitz_and_their_database() {
    let Some(mut server) = PostgresServer::start() else {
        return;
    };
    let grid = on_postgres(&server, "grid");
    grid.run("store --store @url init").ok();
    grid.start();
    let session = grid.session();
    let owner = owner(&grid, &session);

    // The Blitz is killed: its sessions are there again with it.
    let pid = grid.pid(&owner);
    grid.kill9(pid);
    grid.wait_successor(&owner, pid);
    grid.run(&format!("session join {session}")).ok();

    // The database is gone: sessions go on while the lease lasts, then nothing is answered that somebody else might answer.
    server.crash();
    grid.wait_server(&owner, "to take no new sessions", |server| {
        server["blitz"]["accepting"] == "no"
    });
    assert!(
        grid.status()["nodes"].is_array(),
        "status needs no database"
    );
    server.run();
    grid.wait_server(&owner, "to accept sessions again", |server| {
        server["blitz"]["accepting"] == "yes"
    });
    grid.run(&format!("session join {session}")).ok();
    grid.session();
}

#[test]
fn a_blitz_past_its_lease_answers_for_no_session() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let grid = on_postgres(&server, "grid");
    grid.run("store --store @url init").ok();
    grid.start();
    let session = grid.session();
    let owner = owner(&grid, &session);
    let other = if owner == "Blitz-0" {
        "Blitz-1"
    } else {
        "Blitz-0"
    };
    // It stands still for longer than its lease, and somebody else takes its session, as a Blitz on another machine would.
    let pid = grid.pid(&owner);
    kill(pid, Signal::SIGSTOP);
    let lapsed =
        format!("SELECT 1 FROM omero_grid.server WHERE id = '{owner}' AND lease_until < now()");
    grid.wait("the lease to end", || {
        (!server.query("grid", &lapsed).is_empty()).then_some(())
    });
    server.query(
        "grid",
        &format!(
            "UPDATE omero_grid.session SET server = '{other}',
                 epoch = (SELECT epoch FROM omero_grid.server WHERE id = '{other}') WHERE uuid = '{session}'"
        ),
    );
    kill(pid, Signal::SIGCONT);
    // It goes on, finds that the lease is over, and drops what it has lost before it answers for anything.
    let joined = grid.wait("the session to be joined where it is", || {
        grid.run(&format!("--format json session join {session}"))
            .json_if_ok()
    });
    assert_eq!(joined["server"], other);
    grid.wait("the sessions to be where their rows say", || {
        let listed = grid.json("session list --reveal");
        let mine: Vec<_> = listed
            .as_array()?
            .iter()
            .filter(|s| s["uuid"] == session)
            .collect();
        (mine.len() == 1 && mine[0]["server"] == other).then_some(())
    });
    assert_eq!(grid.pid(&owner), pid, "the process was not replaced");
}

#[test]
fn a_database_that_hangs_costs_no_session_and_doubles_none() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let grid = on_postgres(&server, "grid");
    grid.run("store --store @url init").ok();
    grid.start();
    let before = grid.session();
    let owner = owner(&grid, &before);
    grid.write("pw", &grid.root_password());
    server.hang();
    std::thread::scope(|scope| {
        // Asked for while nothing answers: it waits, or says that it took too long.
        let asked = scope.spawn(|| grid.run("session create --user root --password-file pw"));
        grid.wait_server(&owner, "to take no new sessions", |server| {
            server["blitz"]["accepting"] == "no"
        });
        server.go_on();
        let asked = asked.join().unwrap();
        assert!([0, 1, 5, 6].contains(&asked.status), "{}", asked.stderr);
        let opened = usize::from(asked.status == 0);
        for id in ["Blitz-0", "Blitz-1"] {
            grid.wait_server(id, "to accept sessions again", |server| {
                server["blitz"]["accepting"] == "yes"
            });
        }
        // What was not acknowledged may be there, once.
        let rows =
            "SELECT token, count(*) FROM omero_grid.session WHERE closed_ms IS NULL GROUP BY token";
        let rows = server.query("grid", rows);
        assert!((1 + opened..=2).contains(&rows.len()), "{rows:?}");
        assert!(rows.iter().all(|row| row[1] == "1"), "{rows:?}");
        grid.wait("the grid to list what the rows say", || {
            (grid.sessions().len() == rows.len()).then_some(())
        });
    });
    grid.run(&format!("session join {before}")).ok();
}

#[test]
fn omeros_own_users_log_in_with_the_passwords_that_they_have() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    server.database("omero");
    // As much of OMERO's schema as concerns passwords. The hash is salted with the number 52.
    server.query(
        "omero",
        "CREATE TABLE experimenter (id bigint PRIMARY KEY, omename varchar(255) UNIQUE);
         CREATE TABLE password (experimenter_id bigint PRIMARY KEY, hash varchar(255));
         CREATE TABLE experimentergroup (id bigint PRIMARY KEY, name varchar(255));
         CREATE TABLE groupexperimentermap (parent bigint, child bigint);
         INSERT INTO experimenter VALUES (52, 'ann');
         INSERT INTO password VALUES (52, 'xMAbSJvRSWH9oi23IZEX8g==');
         INSERT INTO experimentergroup VALUES (0, 'system'), (1, 'user');
         INSERT INTO groupexperimentermap VALUES (1, 52);",
    );
    let blitz = [
        ("omero.grid.store", "omero.db"),
        ("omero.grid.users", "omero"),
        ("omero.db.host", server.socket().to_str().unwrap()),
        ("omero.db.name", "omero"),
        ("omero.db.user", "postgres"),
        ("omero.db.pass", "of no interest"),
    ]
    .into_iter()
    .fold(blitz("Blitz-0"), |blitz, (name, value)| {
        blitz.property(name, value)
    });
    let grid = Grid::new(&application(&[node("a", &[blitz])]));
    grid.write("url", &server.url("omero", "postgres"));
    grid.run("store --store @url init").ok();
    grid.start();
    grid.write("pw", "p\u{e4}ssword");
    grid.write("wrong", "password");
    let created = grid.json("session create --user ann --password-file pw");
    assert_eq!(created["user"], "ann");
    grid.run("session create --user ann --password-file wrong")
        .exits(6);
    grid.run("user add bob --password-file pw")
        .exits(6)
        .says(&["omero.grid.users"]);
    let kept = server.query("omero", "SELECT hash FROM password");
    assert_eq!(kept, [["xMAbSJvRSWH9oi23IZEX8g=="]], "only read");
    let secret = std::process::Command::new("grep")
        .args(["-rl", "of no interest"])
        .arg(grid.path("var/log"))
        .output()
        .unwrap();
    assert!(secret.stdout.is_empty(), "a password is in a log");
}
