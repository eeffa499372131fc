//! A child outlives its parent (invariant 1), and nothing accepted is lost (invariant 7).

use std::fs::File;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    Grid, alive, application, blitz, example, kill, living, marked, node, server, sleeper,
};

fn one_blitz() -> Grid {
    let grid = Grid::new(&application(&[node(
        "n",
        &[blitz("Blitz-0"), sleeper("s")],
    )]));
    grid.start();
    grid
}

/// Waits until the session is listed and can be joined.
#[track_caller]
fn joinable(grid: &Grid, session: &str) {
    grid.wait("the session to be listed", || {
        grid.sessions().contains(&session.to_owned()).then_some(())
    });
    let joined = grid.json(&format!("session join {session}"));
    assert_eq!(joined["uuid"], session);
    assert_eq!(joined["user"], "root");
}

#[test]
fn a_killed_blitz_comes_back_with_its_sessions() {
    let grid = one_blitz();
    let session = grid.session();
    let pid = grid.pid("Blitz-0");
    grid.kill9(pid);
    grid.wait_successor("Blitz-0", pid);
    let blitz = grid.server("Blitz-0").unwrap();
    assert_eq!(blitz["restarts"], 1);
    assert_eq!(blitz["last_exit"]["signal"], 9);
    joinable(&grid, &session);
    assert_eq!(marked(grid.dir(), "Blitz-0").len(), 1);
}

#[test]
fn a_killed_node_is_started_again_and_adopts_its_servers() {
    let grid = one_blitz();
    let session = grid.session();
    let (blitz, sleeper) = (grid.pid("Blitz-0"), grid.pid("s"));
    let killed = grid.node_pid("n");
    grid.kill9(killed);
    grid.wait("the node to be up again", || {
        let node = grid.node("n")?;
        (node["state"] == "up" && node["pid"] != killed).then_some(())
    });
    assert_eq!((grid.pid("Blitz-0"), grid.pid("s")), (blitz, sleeper));
    grid.wait_server("Blitz-0", "to accept sessions", |blitz| {
        blitz["blitz"]["accepting"] == "yes"
    });
    assert_eq!(grid.server("s").unwrap()["restarts"], 0);
    joinable(&grid, &session);
    // It is a supervisor again: what dies is started anew, and how it ended is not known.
    grid.kill9(sleeper);
    grid.wait_successor("s", sleeper);
    assert_eq!(grid.server("s").unwrap()["last_exit"]["code"], "unknown");
}

#[test]
fn a_killed_master_is_replaced_by_the_next_start() {
    let grid = one_blitz();
    let session = grid.session();
    let (master, node) = (grid.master_pid(), grid.node_pid("n"));
    let (blitz, sleeper) = (grid.pid("Blitz-0"), grid.pid("s"));
    grid.kill9(master);
    assert!(alive(node) && alive(blitz) && alive(sleeper));
    grid.run("session list")
        .exits(3)
        .says(&["omero-grid start"]);
    grid.run("start").ok();
    assert_ne!(grid.master_pid(), master);
    assert_eq!(
        (grid.node_pid("n"), grid.pid("Blitz-0"), grid.pid("s")),
        (node, blitz, sleeper)
    );
    joinable(&grid, &session);
}

/// Locks the store as whoever closes it last does: then it cannot even be read, until the file is dropped.
fn closing(grid: &Grid) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open(grid.path("var/grid.db"))
        .unwrap();
    let pending = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0x4000_0000,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_SETLK(&pending)).unwrap();
    file
}

#[test]
fn a_master_whose_starter_is_killed_serves_all_the_same() {
    let grid = one_blitz();
    let session = grid.session();
    let old = grid.master_pid();
    // So that the starter waits.
    let file = closing(&grid);
    grid.kill9(old);
    let mut starter = grid.command(&["start"]);
    let mut starter = starter
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let next = grid.wait("the next master to have its lock", || {
        let text = grid.read("var/grid/lock");
        let pid: u32 = text.split_whitespace().next()?.parse().ok()?;
        (pid != old).then_some(pid)
    });
    starter.kill().unwrap();
    starter.wait().unwrap();
    drop(starter);
    drop(file);
    grid.wait("the next master to serve", || {
        (grid.run("--format json status").json_if_ok()).map(drop)
    });
    assert_eq!(grid.master_pid(), next);
    joinable(&grid, &session);
}

/// A start needs neither the locks of SQLite nor the answer of a process that may be stopped while it has them.
#[test]
fn a_stopped_process_keeps_no_grid_from_starting() {
    let grid = one_blitz();
    let session = grid.session();
    let (node, blitz) = (grid.node_pid("n"), grid.pid("Blitz-0"));
    let restart = || {
        grid.kill9(grid.master_pid());
        grid.run("start").ok()
    };
    // Within a commit: this process stands for the one that was stopped.
    let mut db = rusqlite::Connection::open(grid.path("var/grid.db")).unwrap();
    let commit = db
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    let said = restart();
    assert!(!said.stdout.contains("locked"), "{}", said.stdout);
    assert_eq!((grid.node_pid("n"), grid.pid("Blitz-0")), (node, blitz));
    // A Blitz that has to be started needs the store; it is tried again, and says who has it.
    grid.kill9(blitz);
    let me = format!("process {}", std::process::id());
    let waits = grid.wait_server("Blitz-0", "to say who has the store", |server| {
        server["last_lines"].to_string().contains(&me)
    });
    assert_eq!(waits["state"], "inactive", "{waits}");
    drop(commit);
    drop(db);
    grid.wait_successor("Blitz-0", blitz);
    joinable(&grid, &session);
    // While the last one closes the file it cannot even be read.
    let file = closing(&grid);
    restart();
    let log = grid.read("var/log/grid.log");
    assert!(log.contains(&format!("{me} has kept the store")), "{log}");
    drop(file);
    joinable(&grid, &session);
    // The node itself: its servers are adopted with it when it goes on.
    kill(node, Signal::SIGSTOP);
    grid.kill9(grid.master_pid());
    let stopped = format!("node n: its process {node} is stopped");
    grid.run("start --wait 3")
        .exits(5)
        .says(&[&stopped, "the grid stays up and goes on trying"]);
    kill(node, Signal::SIGCONT);
    grid.wait("the node to be up", || {
        (grid.node("n")?["state"] == "up").then_some(())
    });
    assert_eq!(grid.node_pid("n"), node);
    joinable(&grid, &session);
    // The master itself: a second one would be one too many.
    let master = grid.master_pid();
    kill(master, Signal::SIGSTOP);
    grid.run("start")
        .exits(6)
        .says(&[&format!("process {master}, which is stopped")]);
    grid.run("status").exits(5).says(&[
        &format!("the master (process {master}) is stopped"),
        &format!("kill -CONT {master}"),
        "omero-grid start",
    ]);
    kill(master, Signal::SIGCONT);
    joinable(&grid, &session);
}

#[test]
fn node_and_master_killed_together_are_replaced_around_the_servers() {
    let grid = one_blitz();
    let session = grid.session();
    let (master, node) = (grid.master_pid(), grid.node_pid("n"));
    let (blitz, sleeper) = (grid.pid("Blitz-0"), grid.pid("s"));
    kill(node, Signal::SIGKILL);
    kill(master, Signal::SIGKILL);
    grid.wait_gone(node);
    grid.wait_gone(master);
    // Nothing at all was started in between.
    grid.run("start grid.xml").ok();
    assert_eq!((grid.pid("Blitz-0"), grid.pid("s")), (blitz, sleeper));
    joinable(&grid, &session);
    for id in ["Blitz-0", "s"] {
        assert_eq!(marked(grid.dir(), id).len(), 1, "{id}");
    }
}

#[test]
fn a_master_that_died_amid_its_own_start_is_replaced() {
    let grid = Grid::new(&application(&[
        node("a", &[blitz("Blitz-0"), sleeper("s")]),
        node("b", &[blitz("Blitz-1"), sleeper("t")]),
    ]));
    let appeared = |name: &str| {
        let is_node = living(grid.dir())
            .iter()
            .any(|p| p.command.contains(&format!("--name {name} ")));
        is_node || !marked(grid.dir(), name).is_empty()
    };
    // Killed at once, then when the first thing is there, and so on: whatever it was doing, the next one heals it.
    for awaited in [None, Some("a"), Some("s"), Some("b"), Some("Blitz-1")] {
        let mut master = grid.foreground("grid.xml");
        if let Some(name) = awaited {
            grid.wait(&format!("{name} to appear"), || {
                appeared(name).then_some(())
            });
        }
        master.kill();
    }
    grid.run("start grid.xml").ok();
    for id in ["Blitz-0", "Blitz-1", "s", "t"] {
        grid.wait_state(id, "active");
        assert_eq!(marked(grid.dir(), id).len(), 1, "{id}\n{}", grid.report());
    }
    assert!(!grid.session().is_empty());
}

#[test]
fn a_server_that_writes_all_the_time_loses_no_line() {
    let ticker = server("ticker", &example("ticker")).option("10");
    let grid = Grid::new(&application(&[node("n", &[ticker])]));
    grid.start();
    let pid = grid.pid("ticker");
    let lines = || -> Vec<String> {
        grid.read("var/log/ticker.out")
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let more = |than: usize| {
        grid.wait("the ticker to go on", || {
            (lines().len() > than + 20).then_some(())
        });
    };
    more(0);
    let node = grid.node_pid("n");
    let before = lines().len();
    grid.kill9(node);
    more(before);
    grid.wait_other_node("n", node);
    let (master, node) = (grid.master_pid(), grid.node_pid("n"));
    kill(master, Signal::SIGKILL);
    kill(node, Signal::SIGKILL);
    grid.wait_gone(master);
    more(lines().len());
    grid.run("start").ok();
    more(lines().len());
    assert_eq!(grid.pid("ticker"), pid);
    let mut all = lines();
    // The last one may be half written.
    all.pop();
    let expected: Vec<String> = (0..all.len()).map(|n| n.to_string()).collect();
    assert_eq!(all, expected);
}

/// Kills a node as if it had come only as far in writing the record of `s` as `spoil` leaves it.
#[track_caller]
fn adopts_without(spoil: impl FnOnce(&Grid, Value)) {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let pid = grid.pid("s");
    let node = grid.node_pid("n");
    // Stopped, so that it cannot write the record again.
    kill(node, Signal::SIGSTOP);
    let known: Value = serde_json::from_str(&grid.read(RECORD)).unwrap();
    assert_eq!(known["process"]["pid"], pid);
    spoil(&grid, known);
    grid.kill9(node);
    grid.wait_other_node("n", node);
    grid.wait_state("s", "active");
    assert_eq!(grid.pid("s"), pid);
    assert_eq!(marked(grid.dir(), "s").len(), 1);
}

const RECORD: &str = "var/n/servers/s/process.json";

#[test]
fn a_kill_between_spawn_and_record_makes_no_second_copy() {
    adopts_without(|grid, mut known| {
        known.as_object_mut().unwrap().remove("process");
        grid.write(RECORD, &known.to_string());
    });
}

#[test]
fn a_lost_record_makes_no_second_copy_and_no_restart() {
    adopts_without(|grid, _| std::fs::remove_file(grid.path(RECORD)).unwrap());
}

#[test]
fn a_record_of_another_process_is_not_believed() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let (master, node) = (grid.master_pid(), grid.node_pid("n"));
    for pid in [master, node, grid.pid("s")] {
        grid.kill9(pid);
    }
    // The pid is this test's own, the start time is not.
    let mut known: Value = serde_json::from_str(&grid.read(RECORD)).unwrap();
    known["process"]["pid"] = std::process::id().into();
    grid.write(RECORD, &known.to_string());
    grid.run("start").ok();
    assert_ne!(grid.pid("s"), std::process::id());
    grid.run("stop").ok();
    // Whoever reads this was not killed.
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn what_was_stopped_or_disabled_stays_so() {
    let grid = Grid::new(&application(&[node(
        "n",
        &[sleeper("stopped"), sleeper("disabled"), sleeper("s")],
    )]));
    grid.start();
    grid.run("server stopped stop").ok();
    grid.run("server disabled disable").ok();
    let (disabled, master) = (grid.pid("disabled"), grid.master_pid());
    grid.kill9(master);
    grid.run("start").ok();
    // Everything has been adopted when `start` is back, so whatever would be started is.
    assert_eq!(grid.server("stopped").unwrap()["state"], "inactive");
    assert_eq!(marked(grid.dir(), "stopped"), []);
    assert_eq!(grid.pid("disabled"), disabled);
    // Not even the death of everything changes it.
    grid.kill_all().unwrap();
    grid.run("start grid.xml").ok();
    for id in ["stopped", "disabled"] {
        assert_eq!(grid.server(id).unwrap()["state"], "inactive", "{id}");
        assert_eq!(marked(grid.dir(), id), [], "{id}");
    }
    assert_eq!(grid.server("disabled").unwrap()["enabled"], false);
    grid.run("server stopped start").ok();
    assert_eq!(grid.server("stopped").unwrap()["state"], "active");
    grid.run("server disabled start")
        .exits(6)
        .says(&["disabled", "enable"]);
    grid.run("server disabled enable").ok();
    grid.wait_state("disabled", "active");
}

#[test]
fn a_node_started_by_hand_stays_wanted() {
    let grid = Grid::shipped();
    grid.run("start descriptors/default.xml").ok();
    grid.run("node backup start").ok();
    let pid = grid.pid("Blitz-1");
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    assert_eq!(grid.pid("Blitz-1"), pid);
    grid.kill_all().unwrap();
    grid.run("start").ok();
    assert_eq!(grid.server("Blitz-1").unwrap()["state"], "active");
    grid.run("node backup stop").ok();
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    assert_eq!(grid.node("backup").unwrap()["state"], "down");
}

#[test]
fn stale_sockets_and_pid_files_are_no_obstacle() {
    let grid = one_blitz();
    let session = grid.session();
    grid.kill_all().unwrap();
    let left: Vec<String> = std::fs::read_dir(grid.path("var/run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for socket in ["master", "node.n", "blitz.Blitz-0"] {
        assert!(
            left.iter().any(|name| name == socket),
            "{socket} in {left:?}"
        );
    }
    grid.write("var/master/master.pid", "1\n");
    grid.write("var/grid/lock", "1 1\n");
    grid.write("var/n/node.lock", &format!("{} 1\n", std::process::id()));
    grid.run("status")
        .exits(3)
        .says(&["the grid is not running"]);
    grid.run("start grid.xml").ok();
    joinable(&grid, &session);
    assert_eq!(
        grid.read("var/master/master.pid").trim(),
        grid.master_pid().to_string()
    );
}

#[test]
fn what_the_issue_shows_holds_in_one_go() {
    let grid = Grid::shipped();
    grid.run("start descriptors/default.xml").ok();
    let session = grid.session();
    let pid = grid.pid("Blitz-0");
    grid.kill9(pid);
    let pid = grid.wait_successor("Blitz-0", pid);
    joinable(&grid, &session);
    grid.replace_node("master");
    joinable(&grid, &session);
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    joinable(&grid, &session);
    assert_eq!(grid.pid("Blitz-0"), pid);
    grid.run("node backup start").ok();
    grid.wait_state("Blitz-1", "active");
    grid.run("stop").ok();
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn a_stop_whose_master_dies_does_not_say_that_the_grid_has_stopped() {
    let stubborn = server("stubborn", "/bin/sh")
        .option("-c")
        .option("trap '' TERM; while :; do sleep 1; done");
    let grid = Grid::new(&application(&[node("n", &[stubborn])]));
    grid.start();
    let (master, stubborn) = (grid.master_pid(), grid.pid("stubborn"));
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| {
            grid.run("stop").exits(1).says(&[
                "the master died before the grid had stopped",
                "omero-grid stop",
            ]);
        });
        grid.wait_server("stubborn", "to be told to stop", |server| {
            server["state"] == "deactivating"
        });
        grid.kill9(master);
        stop.join().unwrap();
    });
    assert!(alive(stubborn));
}
