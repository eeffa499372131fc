//! Servers that only read: by a property, because a probe was refused, and what goes on all the same (DESIGN.md §8).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Grid, PostgresServer, ReadOnly, Server, application, blitz, kill, node};
use nix::sys::signal::Signal;

const DB: &str = "omero.cluster.read_only.db";
const REPO: &str = "omero.cluster.read_only.repo";

fn with_data(id: &str) -> Server {
    blitz(id).property("omero.data.dir", "data")
}

fn grid_of(servers: &[Server]) -> Grid {
    Grid::new(&application(&[node("n", servers)]))
}

fn read_only(server: &Value) -> (bool, bool) {
    let state = &server["blitz"]["read_only"];
    (state["db"] == true, state["repo"] == true)
}

#[track_caller]
fn wait_read_only(grid: &Grid, id: &str, expected: (bool, bool)) -> Value {
    grid.wait_server(id, &format!("to be read-only {expected:?}"), |server| {
        server["state"] == "active" && server["blitz"].is_object() && read_only(server) == expected
    })
}

fn reason(server: &Value, what: &str) -> String {
    let reason = &server["blitz"]["read_only_reason"][what];
    reason.as_str().unwrap_or_default().to_owned()
}

fn session_on(grid: &Grid, id: &str) -> String {
    let words = format!("session create --user root --password-file var/root-password --via {id}");
    grid.run(&words).ok().stdout.trim().to_owned()
}

#[test]
fn what_a_property_makes_read_only_says_so_and_refuses_at_the_server() {
    let grid = grid_of(&[
        with_data("Blitz-0"),
        with_data("Blitz-1")
            .property(DB, "true")
            .property(REPO, "true"),
    ]);
    grid.start();
    let reader = wait_read_only(&grid, "Blitz-1", (true, true));
    assert_eq!(reason(&reader, "db"), format!("{DB} is true"));
    assert_eq!(reason(&reader, "repo"), format!("{REPO} is true"));
    assert_eq!(read_only(&grid.server("Blitz-0").unwrap()), (false, false));
    let shown = grid.run("status").ok().stdout;
    assert!(
        shown.contains(&format!("db: read-only because {DB} is true")),
        "{shown}"
    );

    grid.write("a.txt", "abc");
    let file = grid.json("file import a.txt");
    assert_eq!(
        file[0]["checksum"],
        "a9993e364706816aba3e25717850c26c9cd0d89d"
    );
    let session = session_on(&grid, "Blitz-1");
    grid.write("pw", "secret");
    for (words, property) in [
        ("user add ann --password-file pw", DB),
        ("file import a.txt", DB),
        ("file delete 1", DB),
        ("config service set omero.x 1", DB),
    ] {
        grid.run(&format!("{words} --session {session}"))
            .exits(6)
            .says(&["Blitz-1", property]);
    }
    // Reading works there, writing goes on elsewhere.
    grid.run(&format!("file get 1 -o b.txt --session {session}"))
        .ok();
    assert_eq!(grid.read("b.txt"), "abc");
    assert_eq!(grid.json(&format!("file list --session {session}")), file);
    for (key, expected) in [("db", "true"), ("repo", "true")] {
        let get = format!("config service get omero.cluster.read_only.runtime.{key}");
        let value = grid.run(&format!("{get} --session {session}")).ok();
        assert_eq!(value.stdout.trim(), expected);
    }
    grid.run("user add ann --password-file pw").ok();
    grid.run("file delete 1").ok();
    assert_eq!(grid.json("file list"), Value::Array(Vec::new()));
}

#[test]
fn the_deprecated_property_is_stronger_than_false_for_each() {
    let both = "omero.cluster.read_only";
    let grid = grid_of(&[with_data("Blitz-0")
        .property(both, "true")
        .property(DB, "false")
        .property(REPO, "false")]);
    grid.start();
    let server = wait_read_only(&grid, "Blitz-0", (true, true));
    assert_eq!(reason(&server, "db"), format!("{both} is true"));
    assert_eq!(reason(&server, "repo"), format!("{both} is true"));
}

#[test]
fn sessions_of_a_reader_survive_its_crash_and_the_way_back() {
    let reads = |yes: &str| {
        application(&[node(
            "n",
            &[blitz("Blitz-0").property(DB, yes), blitz("Blitz-1")],
        )])
    };
    let grid = Grid::new(&reads("false"));
    grid.start();
    let first = session_on(&grid, "Blitz-0");
    grid.write("grid.xml", &reads("true"));
    grid.run("deploy grid.xml --now").ok();
    let reader = wait_read_only(&grid, "Blitz-0", (true, false));
    let second = session_on(&grid, "Blitz-0");
    let pid = u32::try_from(reader["pid"].as_u64().unwrap()).unwrap();
    kill(pid, Signal::SIGKILL);
    grid.wait_successor("Blitz-0", pid);
    let joins = |grid: &Grid| {
        for session in [&first, &second] {
            let joined = grid.json(&format!("session join {session}"));
            assert_eq!(joined["server"], "Blitz-0");
        }
    };
    joins(&grid);
    grid.write("grid.xml", &reads("false"));
    grid.run("deploy grid.xml --now").ok();
    wait_read_only(&grid, "Blitz-0", (false, false));
    joins(&grid);
    let mut open = grid.sessions();
    open.sort();
    let mut expected = [first, second];
    expected.sort();
    assert_eq!(open, expected);
}

#[test]
fn a_mount_that_only_reads_is_found_out_and_left_as_it_is() {
    // A `false` forces nothing.
    let server = with_data("Blitz-0")
        .property(DB, "false")
        .property(REPO, "false");
    let grid = grid_of(&[server]);
    grid.start();
    grid.write("a.txt", "abc");
    grid.run("file import a.txt").ok();
    let session = grid.session();
    grid.run("stop").ok();
    let Some(data) = ReadOnly::over(grid.path("data")) else {
        return;
    };
    let before = listing(&grid.path("data"));
    grid.start();
    let server = wait_read_only(&grid, "Blitz-0", (false, true));
    let why = reason(&server, "repo");
    assert!(why.contains("/data: EROFS"), "{why}");
    assert!(grid.read("var/log/Blitz-0.err").contains("EROFS"));
    grid.run(&format!("session join {session}")).ok();
    grid.run("file import a.txt").exits(6).says(&["EROFS"]);
    grid.run("file delete 1").exits(6).says(&["EROFS"]);
    grid.write("lib/scripts/hello.sh", "echo hello\n");
    grid.run("script run hello.sh").exits(6).says(&["EROFS"]);
    for (key, value) in [("db", "false"), ("repo", "true")] {
        let get = format!("config service get omero.cluster.read_only.runtime.{key}");
        assert_eq!(grid.run(&get).ok().stdout.trim(), value, "{key}");
    }
    grid.run("file get 1 -o b.txt").ok();
    assert_eq!(grid.read("b.txt"), "abc");
    assert_eq!(listing(&grid.path("data")), before);
    grid.run("stop").ok();
    drop(data);
}

#[test]
fn a_blitz_starts_and_serves_when_nothing_can_be_written() {
    let grid = grid_of(&[with_data("Blitz-0")]);
    grid.start();
    grid.write("a.txt", "abc");
    grid.run("file import a.txt").ok();
    let before = grid.session();
    grid.run("stop").ok();
    let (Some(data), Some(store)) = (
        ReadOnly::over(grid.path("data")),
        ReadOnly::over(grid.path("var/grid.db")),
    ) else {
        return;
    };
    grid.start();
    let server = wait_read_only(&grid, "Blitz-0", (true, true));
    assert!(reason(&server, "db").contains("grid.db: EROFS"), "{server}");
    let meanwhile = grid.session();
    let pid = grid.pid("Blitz-0");
    grid.kill9(pid);
    grid.wait_successor("Blitz-0", pid);
    for session in [&before, &meanwhile] {
        grid.run(&format!("session join {session}")).ok();
        grid.run(&format!("file get 1 -o b.txt --session {session}"))
            .ok();
    }
    grid.run("stop").ok();
    drop((data, store));
}

/// Everything below a directory, with its times.
fn listing(dir: &std::path::Path) -> Vec<(PathBuf, i64, i64, u64)> {
    let mut all = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        all.push((
            path,
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.len(),
        ));
    }
    all.sort();
    all
}

#[test]
fn what_can_no_longer_be_written_is_noticed_while_it_runs_and_no_session_is_lost() {
    let grid = grid_of(&[with_data("Blitz-0")
        .property("omero.grid.read_only.probe", "1")
        .property("omero.grid.read_only.recover", "true")]);
    grid.start();
    let pid = grid.pid("Blitz-0");
    let before = grid.session();
    let Some(store) = ReadOnly::over(grid.path("var/grid.db")) else {
        return;
    };
    let server = wait_read_only(&grid, "Blitz-0", (true, false));
    let why = reason(&server, "db");
    assert!(why.contains("grid.db: EROFS"), "{why}");
    let meanwhile = grid.session();
    for session in [&before, &meanwhile] {
        grid.run(&format!("session join {session}")).ok();
    }
    grid.write("pw", "secret");
    grid.run("user add ann --password-file pw")
        .exits(6)
        .says(&["EROFS"]);
    drop(store);
    wait_read_only(&grid, "Blitz-0", (false, false));
    for session in [&before, &meanwhile] {
        grid.run(&format!("session join {session}")).ok();
    }
    grid.run("user add ann --password-file pw").ok();
    assert_eq!(grid.pid("Blitz-0"), pid, "it never ended");
    let events = grid.run("events").ok().stdout;
    for told in ["db is read-only: ", "db can be written again"] {
        assert!(events.contains(told), "{events}");
    }
}

#[test]
fn a_refusal_that_is_over_is_taken_up_by_a_restart() {
    let grid = grid_of(&[with_data("Blitz-0").property("omero.grid.read_only.probe", "1")]);
    grid.start();
    let Some(data) = ReadOnly::over(grid.path("data")) else {
        return;
    };
    wait_read_only(&grid, "Blitz-0", (false, true));
    drop(data);
    let server = grid.wait_server("Blitz-0", "to know that it is over", |server| {
        reason(server, "repo").contains("restart")
    });
    assert_eq!(read_only(&server), (false, true));
    grid.run("server Blitz-0 restart").ok();
    wait_read_only(&grid, "Blitz-0", (false, false));
}

#[test]
fn a_role_that_may_only_select_serves_logins() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("grid");
    let grid = grid_of(&[blitz("Blitz-0").property("omero.grid.store", &url)]);
    grid.run_with("config set omero.grid.store -", &url).ok();
    grid.run("store init").ok();
    grid.run("config set omero.grid.store").ok();
    server.query("grid", "CREATE ROLE reader LOGIN");
    server.query("grid", "GRANT USAGE ON SCHEMA omero_grid TO reader");
    server.query(
        "grid",
        "GRANT SELECT ON ALL TABLES IN SCHEMA omero_grid TO reader",
    );
    let reader = server.url("grid", "reader");
    let reads = application(&[node(
        "n",
        &[blitz("Blitz-0")
            .property("omero.grid.store", &reader)
            .property(DB, "false")],
    )]);
    grid.write("grid.xml", &reads);
    grid.start();
    let server = wait_read_only(&grid, "Blitz-0", (true, false));
    assert_eq!(
        reason(&server, "db"),
        "the role reader has no INSERT on omero_grid.session"
    );
    assert!(grid.read("var/log/Blitz-0.err").contains("has no INSERT"));
    let session = grid.session();
    let pid = grid.pid("Blitz-0");
    kill(pid, Signal::SIGKILL);
    grid.wait_successor("Blitz-0", pid);
    grid.run(&format!("session join {session}")).ok();
    grid.write("pw", "secret");
    grid.run("user passwd root --password-file pw")
        .exits(6)
        .says(&["no INSERT"]);
    let get = "config service get omero.cluster.read_only.runtime.db";
    assert_eq!(grid.run(get).ok().stdout.trim(), "true");
}

#[test]
fn one_blitz_owns_the_repository_and_the_others_pass_on_what_they_are_asked_to_write() {
    let grid = grid_of(&[with_data("Blitz-0"), with_data("Blitz-1")]);
    grid.start();
    let waits = |server: &Value| {
        server["blitz"]["waits_for_repository"]
            .as_str()
            .map(str::to_owned)
    };
    let (waiter, owner) = grid.wait("one to wait for the other", || {
        ["Blitz-0", "Blitz-1"].into_iter().find_map(|id| {
            let owner = waits(&grid.server(id)?)?;
            (!owner.is_empty()).then(|| (id.to_owned(), owner))
        })
    });
    assert_ne!(waiter, owner);
    let shown = grid.run("status").ok().stdout;
    assert!(
        shown.contains(&format!("repository: waiting for {owner}")),
        "{shown}"
    );
    let session = session_on(&grid, &waiter);
    grid.write("a.txt", "abc");
    let file = grid.json(&format!("file import a.txt --session {session}"));
    grid.run(&format!("file get 1 -o b.txt --session {session}"))
        .ok();
    assert_eq!(grid.read("b.txt"), "abc");
    // Ownership passes on when the owner ends.
    grid.run(&format!("server {owner} stop")).ok();
    grid.wait_server(&waiter, "to own the repository", |server| {
        waits(server).is_none()
    });
    assert_eq!(grid.json("file list"), file);
    grid.run(&format!("file import a.txt --session {session}"))
        .ok();
    assert_eq!(grid.json("file list").as_array().unwrap().len(), 2);
    // Also when it crashes: the lock is gone with the process.
    grid.run(&format!("server {owner} start")).ok();
    grid.wait_server(&owner, "to wait for its turn", |server| {
        waits(server).as_deref() == Some(&waiter)
    });
    let pid = grid.pid(&waiter);
    grid.kill9(pid);
    grid.wait_server(&owner, "to own the repository again", |server| {
        server["blitz"].is_object() && waits(server).is_none()
    });
    grid.run("file import a.txt").ok();
    assert_eq!(grid.json("file list").as_array().unwrap().len(), 3);
}

#[test]
fn the_public_user_lands_on_readers_and_everybody_else_on_the_writer() {
    let grid = Grid::shipped();
    grid.run("start descriptors/read-only.xml").ok();
    grid.write("pw", "secret");
    grid.run("user add public --password-file pw").ok();
    grid.run("user add ann --password-file pw").ok();
    grid.write("a.txt", "abc");
    grid.run("file import a.txt").ok();
    let login = |user: &str| {
        let created = grid.json(&format!("session create --user {user} --password-file pw"));
        let text = |key: &str| created[key].as_str().unwrap().to_owned();
        (text("server"), text("uuid"))
    };
    for _ in 0..3 {
        let (server, session) = login("public");
        assert!(server == "Blitz-1" || server == "Blitz-2", "{server}");
        grid.run(&format!("file get 1 -o b.txt --session {session}"))
            .ok();
        grid.run(&format!("file import a.txt --session {session}"))
            .exits(6)
            .says(&[&server, DB]);
    }
    // The others go where the load balancing says, the readers among them; who wants to write says where.
    let ann = grid
        .run("session create --user ann --password-file pw --via Blitz-0")
        .ok();
    grid.run(&format!(
        "file import a.txt --session {}",
        ann.stdout.trim()
    ))
    .ok();
}

#[test]
fn values_are_seen_by_those_who_may_and_set_by_administrators_only() {
    let grid = grid_of(&[blitz("Blitz-0").property("omero.db.pass", "hidden")]);
    grid.start();
    grid.write("pw", "secret");
    grid.run("user add ann --password-file pw").ok();
    let ann = grid
        .run("session create --user ann --password-file pw")
        .ok();
    let ann = ann.stdout.trim().to_owned();
    let as_ann = |words: &str| grid.run(&format!("config service {words} --session {ann}"));
    assert_eq!(
        as_ann("get omero.cluster.read_only.runtime.db")
            .ok()
            .stdout
            .trim(),
        "false"
    );
    // What nobody has set has its default, as with OMERO.
    let default = as_ann("get omero.sessions.timeout").ok();
    assert_eq!(default.stdout.trim(), "600000");
    as_ann("get omero.data.dir")
        .exits(6)
        .says(&["administrator"]);
    as_ann("set omero.client.x 1")
        .exits(6)
        .says(&["administrator"]);
    as_ann("set omero.client.x 1 --if-unset")
        .exits(6)
        .says(&["administrator"]);
    grid.run("config service get omero.db.pass")
        .exits(6)
        .says(&["anybody"]);
    grid.run("config service get hibernate.connection.password")
        .exits(6);
    grid.run("config service set omero.client.x 1 --if-unset")
        .ok();
    grid.run("config service set omero.client.x 2 --if-unset")
        .exits(6);
    grid.run("config service set omero.client.x 2 --if-equals 1")
        .ok();
    assert_eq!(as_ann("get omero.client.x").ok().stdout.trim(), "2");
    assert_eq!(as_ann("get omero.client.unknown").ok().stdout, "");
    let seen = grid.json(&format!("config service list --session {ann}"));
    let seen: Vec<&String> = seen.as_object().unwrap().keys().collect();
    assert_eq!(
        seen,
        [
            "omero.client.x",
            "omero.cluster.read_only.runtime.db",
            "omero.cluster.read_only.runtime.repo"
        ]
    );
    grid.run("config service set omero.cluster.read_only.runtime.db true")
        .exits(6)
        .says(&["finds out"]);
}
