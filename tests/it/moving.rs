//! Sessions that change their Blitz, or keep it (DESIGN.md §7).

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Grid, application, blitz, kill, node};

fn two(grace: &str) -> Grid {
    let blitz = |id| blitz(id).property("omero.grid.resume.grace", grace);
    let nodes = [
        node("m", &[blitz("Blitz-0")]),
        node("n", &[blitz("Blitz-1")]),
    ];
    let grid = Grid::new(&application(&nodes));
    grid.start();
    grid
}

fn on(grid: &Grid, id: &str) -> String {
    let create = format!("session create --user root --password-file var/root-password --via {id}");
    grid.run(&create).ok().stdout.trim().to_owned()
}

fn where_is(grid: &Grid, session: &str) -> Vec<String> {
    let list = grid.json("session list --reveal");
    let mine = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|s| s["uuid"] == session);
    mine.map(|s| s["server"].as_str().unwrap().to_owned())
        .collect()
}

fn moves(grid: &Grid) -> Vec<Value> {
    grid.json("events --kind session")
        .as_array()
        .unwrap()
        .clone()
}

#[test]
fn a_session_is_moved_by_command_and_keeps_its_uuid() {
    let grid = two("60");
    let session = on(&grid, "Blitz-0");
    grid.run(&format!("session move {} Blitz-1", &session[..8]))
        .ok();
    assert_eq!(where_is(&grid, &session), ["Blitz-1"]);
    let joined = grid.json(&format!("session join {session}"));
    assert_eq!(
        (&joined["server"], &joined["node"]),
        (&"Blitz-1".into(), &"n".into())
    );
    grid.run(&format!("session move {session} Blitz-1"))
        .exits(6)
        .says(&["already"]);
    grid.run(&format!("session move {session} Blitz-7"))
        .exits(3);
    grid.run("drain Blitz-0").ok();
    grid.run(&format!("session move {session} Blitz-0"))
        .exits(6)
        .says(&["--force"]);
    let moved = &moves(&grid)[0];
    assert_eq!(moved["subject"], session[..8]);
    assert!(
        moved["text"]
            .as_str()
            .unwrap()
            .starts_with("from Blitz-0 to Blitz-1"),
        "{moved}"
    );
    // Both may die: it is where it was moved to.
    for id in ["Blitz-0", "Blitz-1"] {
        let old = grid.pid(id);
        grid.kill9(old);
        grid.wait_server(id, "to be back", |s| {
            s["pid"] != old && !s["blitz"].is_null()
        });
    }
    grid.run(&format!("session join {session}")).ok();
    assert_eq!(where_is(&grid, &session), ["Blitz-1"]);
}

#[test]
fn a_session_is_taken_over_once_its_blitz_is_away_for_long() {
    let grid = two("1");
    let session = on(&grid, "Blitz-0");
    grid.run("server Blitz-0 stop").ok();
    // Whoever comes at once waits until the grace is over.
    let joined = grid.json(&format!("session join {session}"));
    assert_eq!(joined["server"], "Blitz-1");
    assert_eq!(joined["uuid"], session);
    grid.run("server Blitz-0 start").ok();
    assert_eq!(
        where_is(&grid, &session),
        ["Blitz-1"],
        "one owner, also when the old one is back"
    );
    assert_eq!(grid.server("Blitz-0").unwrap()["blitz"]["sessions"], 0);
    assert!(moves(&grid)[0]["text"].as_str().unwrap().contains("away"));

    // Of a whole node that is stopped, too.
    let other = on(&grid, "Blitz-0");
    grid.run("node m stop").ok();
    assert_eq!(
        grid.json(&format!("session join {other}"))["server"],
        "Blitz-1"
    );
}

#[test]
fn a_blitz_that_comes_back_in_time_keeps_its_sessions() {
    let grid = two("60");
    let session = on(&grid, "Blitz-0");
    let old = grid.pid("Blitz-0");
    grid.kill9(old);
    let joined = grid.json(&format!("session join {session}"));
    assert_eq!(joined["server"], "Blitz-0", "it was waited for");
    assert_eq!(moves(&grid), Vec::<Value>::new());
}

#[test]
fn a_blitz_that_hangs_loses_no_session() {
    let grid = two("0");
    let session = on(&grid, "Blitz-0");
    let pid = grid.pid("Blitz-0");
    kill(pid, Signal::SIGSTOP);
    grid.run(&format!("session join {session}"))
        .exits(5)
        .says(&["Blitz-0", "lives"]);
    // Others are served meanwhile.
    grid.json("session create --user root --password-file var/root-password");
    kill(pid, Signal::SIGCONT);
    let joined = grid.json(&format!("session join {session}"));
    assert_eq!(joined["server"], "Blitz-0");
    assert_eq!(moves(&grid), Vec::<Value>::new());
}

#[test]
fn a_move_that_its_blitz_does_not_answer_says_that_it_may_come_later() {
    let grid = two("0");
    let session = on(&grid, "Blitz-0");
    let pid = grid.pid("Blitz-0");
    kill(pid, Signal::SIGSTOP);
    grid.run(&format!("session move {session} Blitz-1"))
        .exits(6)
        .says(&["has not answered", "it may once Blitz-0 goes on"]);
    kill(pid, Signal::SIGCONT);
    // Wherever it is then, it is in one place, and can be joined.
    grid.wait("the session to be joined where it is listed", || {
        let joined = grid
            .run(&format!("--format json session join {session}"))
            .json_if_ok()?;
        let server = joined["server"].as_str()?;
        (where_is(&grid, &session) == [server]).then_some(())
    });
}

#[test]
fn sessions_are_listed_and_closed_by_user() {
    let grid = two("60");
    grid.run_with("user add anna --password-file -", "secret")
        .ok();
    let root = on(&grid, "Blitz-0");
    let anna: Vec<String> = (0..3)
        .map(|_| {
            let run = grid
                .run_with("session create --user anna --password-file -", "secret")
                .ok();
            run.stdout.trim().to_owned()
        })
        .collect();
    let count = |filter: &str| {
        let list = grid.json(&format!("session list {filter}"));
        list.as_array().unwrap().len()
    };
    assert_eq!(
        (count(""), count("--user anna"), count("--user nobody")),
        (4, 3, 0)
    );
    assert_eq!(count("--server Blitz-0") + count("--server Blitz-1"), 4);
    assert_eq!(count("--idle 3600"), 0);
    grid.run("session list --server Blitz-9").exits(3);
    grid.run("session close").exits(2);
    let closed = grid.json("session close --user anna");
    assert_eq!(closed.as_array().unwrap().len(), 3);
    assert_eq!(grid.sessions(), [root]);
    grid.run(&format!("session join {}", anna[0]))
        .exits(3)
        .says(&["closed"]);
    assert_eq!(
        grid.json("session close --user anna"),
        Value::Array(Vec::new())
    );
}

#[test]
fn events_say_who_did_what_and_go_on_after_the_master() {
    let grid = two("60");
    grid.run("drain Blitz-0").ok();
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    let events = grid.json("events");
    let events = events.as_array().unwrap();
    let drain = events
        .iter()
        .find(|e| e["text"] == "drain Blitz-0")
        .unwrap();
    assert_eq!(drain["uid"], nix::unistd::geteuid().as_raw());
    let ids: Vec<u64> = events.iter().map(|e| e["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted() && events.iter().filter(|e| e["text"] == "start").count() == 2);
    assert_eq!(grid.json("events -n 1").as_array().unwrap().len(), 1);
}
