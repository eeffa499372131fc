//! `upgrade`: another program in the processes of master and nodes, under sessions and servers that notice nothing.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Grid, application, blitz, kill, node, server, sleeper};

fn grid() -> Grid {
    let grid = Grid::new(&application(&[
        node("a", &[blitz("Blitz-0"), sleeper("s")]),
        node("b", &[blitz("Blitz-1")]),
    ]));
    grid.start();
    grid
}

/// Copies this program, as a newer release would be installed.
fn copy(grid: &Grid, name: &str) -> String {
    let path = grid.path(name);
    std::fs::copy(env!("CARGO_BIN_EXE_omero-grid"), &path).unwrap();
    path.display().to_string()
}

fn exe(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// Every process of the grid, by what it is.
fn processes(grid: &Grid) -> Vec<(String, u32)> {
    let mut pids = vec![("master".to_owned(), grid.master_pid())];
    for name in ["a", "b"] {
        pids.push((format!("node {name}"), grid.node_pid(name)));
    }
    for id in ["Blitz-0", "Blitz-1", "s"] {
        pids.push((id.to_owned(), grid.pid(id)));
    }
    pids
}

#[test]
fn master_and_nodes_run_another_program_and_nobody_notices() {
    let grid = grid();
    let session = grid.session();
    let before = processes(&grid);
    let started = grid.status()["master"]["started"].clone();
    let names: Vec<String> = before.iter().map(|(_, pid)| comm(*pid)).collect();
    for round in ["one", "two"] {
        let new = copy(&grid, round);
        let done = grid.json(&format!("upgrade --binary {new}"));
        assert_eq!(done["master"]["pid"], before[0].1);
        assert_eq!(done["nodes"].as_array().unwrap().len(), 2);
        assert_eq!(
            processes(&grid),
            before,
            "every process is the one that it was"
        );
        for (what, pid) in &before {
            let runs = exe(*pid) == Path::new(&new);
            assert_eq!(runs, what == "master" || what.starts_with("node"), "{what}");
        }
        grid.run(&format!("session join {session}")).ok();
        grid.session();
        for id in ["Blitz-0", "Blitz-1", "s"] {
            assert_eq!(grid.server(id).unwrap()["restarts"], 0);
        }
        let now: Vec<String> = before.iter().map(|(_, pid)| comm(*pid)).collect();
        assert_eq!(now, names, "the names of the processes");
    }
    assert_eq!(grid.status()["master"]["started"], started);
    // Blitzes follow when their sessions have ended.
    for session in grid.sessions() {
        grid.run(&format!("session close {session}")).ok();
    }
    grid.run("restart --rolling").ok();
    for id in ["Blitz-0", "Blitz-1"] {
        assert_eq!(exe(grid.pid(id)), grid.path("two"), "{id}");
    }
    let before = processes(&grid);
    // The locks are still held, the socket still serves.
    grid.run("start grid.xml").exits(6);
    let events = grid.json("events");
    let upgrades = events
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["kind"] == "upgrade")
        .count();
    assert_eq!(upgrades, 2);
    // And everything ends as it should.
    grid.run("stop").ok();
    for (what, pid) in before {
        grid.wait_gone(pid);
        println!("{what} ended");
    }
}

fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap()
}

#[test]
fn the_end_of_a_server_is_known_to_the_new_program() {
    let grid = grid();
    let pid = grid.pid("s");
    kill(pid, Signal::SIGKILL);
    grid.wait_successor("s", pid);
    let new = copy(&grid, "new");
    grid.run(&format!("upgrade --binary {new}")).ok();
    let seen = grid.server("s").unwrap();
    assert_eq!(
        (&seen["restarts"], &seen["last_exit"]["signal"]),
        (&1.into(), &9.into()),
        "it is handed over"
    );
    let pid = grid.pid("s");
    kill(pid, Signal::SIGUSR1);
    grid.wait_successor("s", pid);
    let seen = grid.server("s").unwrap();
    assert_eq!(
        (&seen["restarts"], &seen["last_exit"]["signal"]),
        (&2.into(), &10.into()),
        "it is still a child"
    );
}

/// Reads a time of a JSON document, in seconds.
fn time_of(value: &Value) -> i64 {
    let time: jiff::Timestamp = value.as_str().unwrap().parse().unwrap();
    time.as_second()
}

#[test]
fn a_server_that_keeps_dying_is_not_tried_sooner_for_an_upgrade() {
    let dying = server("dying", "/bin/false");
    let grid = Grid::new(&application(&[node("n", &[dying])]));
    grid.run("start grid.xml --wait 0").exits(5);
    let seen = || grid.server("dying").unwrap();
    let tries = |n: u64| {
        grid.wait_server("dying", &format!("to have been tried {n} times"), |s| {
            s["restarts"].as_u64() >= Some(n) && !s["next_start"].is_null()
        })
    };
    let before = tries(5);
    let new = copy(&grid, "new");
    grid.run(&format!("upgrade --binary {new}")).ok();
    let after = seen();
    if after["restarts"] == before["restarts"] {
        let (then, now) = (
            time_of(&before["next_start"]),
            time_of(&after["next_start"]),
        );
        assert!(then.abs_diff(now) <= 1, "{before} {after}");
    }
    // Doubled each time: the sixth pause is 3.2 s, less a fifth; the first would be 0.1 s.
    let next = tries(before["restarts"].as_u64().unwrap() + 1);
    let pause = time_of(&next["next_start"]) - time_of(&next["last_exit"]["at"]);
    assert!(pause >= 2, "{pause} s: {next}");
}

#[test]
fn a_program_that_cannot_go_on_changes_nothing() {
    let grid = grid();
    let session = grid.session();
    let before = processes(&grid);
    grid.write("text", "no program\n");
    grid.write("open", "no program\n");
    let mode = |name: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(grid.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("open", 0o777);
    grid.write(
        "false",
        "#!/bin/sh\necho this is no omero-grid >&2\nexit 3\n",
    );
    mode("false", 0o755);
    for (binary, says) in [
        ("missing", "cannot use"),
        ("text", "not executable"),
        ("open", "everybody may write it"),
        ("/bin/false", "self-check"),
        ("/dev/null", "no regular file"),
    ] {
        grid.run(&format!("upgrade --binary {binary}"))
            .exits(1)
            .says(&[says]);
    }
    // A store that this program cannot read, as a newer one's would be.
    let new = copy(&grid, "new");
    let db = rusqlite::Connection::open(grid.path("var/grid/state.db")).unwrap();
    db.execute_batch("UPDATE schema SET version = 99").unwrap();
    grid.run(&format!("upgrade --binary {new}"))
        .exits(1)
        .says(&["self-check", "99", "nothing was changed"]);
    db.execute_batch("UPDATE schema SET version = 2").unwrap();
    drop(db);
    assert_eq!(processes(&grid), before);
    for (what, pid) in &before {
        assert_ne!(exe(*pid), PathBuf::from(&new), "{what}");
    }
    grid.run(&format!("session join {session}")).ok();
}

#[test]
fn what_is_handed_over_is_read_with_care() {
    let grid = Grid::at("");
    for document in [
        "",
        "{}",
        "[]",
        "{\"format\":99}",
        "{\"format\":1}",
        "{\"format\":1,\"version\":",
    ] {
        grid.run_with("self-check", document).exits(1);
    }
    // The variable means nothing to a process that it is not for.
    let mut other = Grid::at("");
    other.set("OMERO_GRID_INHERITED", "1:3");
    other.run("self-check").exits(1);
    other.run("status").exits(3);
}

#[test]
fn logins_go_on_during_an_upgrade_and_nothing_leaks() {
    let grid = grid();
    let password = grid.root_password();
    grid.write("pw", &password);
    let one = copy(&grid, "one");
    grid.run(&format!("upgrade --binary {one}")).ok();
    let files = |grid: &Grid| -> Vec<usize> {
        processes(grid)
            .iter()
            .take(3)
            .map(|(_, pid)| open_files(*pid))
            .collect()
    };
    let before = settled(&grid, &files);
    let done = std::sync::atomic::AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut opened = Vec::new();
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let placed: Value =
                            grid.json("session create --user root --password-file pw");
                        opened.push(placed["uuid"].as_str().unwrap().to_owned());
                    }
                    opened
                })
            })
            .collect();
        for name in ["two", "three"] {
            let new = copy(&grid, name);
            grid.run(&format!("upgrade --binary {new}")).ok();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(!opened.is_empty());
    let listed = grid.wait("every session to be listed", || {
        let listed = grid.sessions();
        opened
            .iter()
            .all(|uuid| listed.contains(uuid))
            .then_some(listed)
    });
    assert_eq!(listed.len(), opened.len(), "none is there twice");
    let after = settled(&grid, &files);
    for (before, after) in before.iter().zip(&after) {
        // A connection of the status command itself may or may not be there still.
        assert!(
            after.abs_diff(*before) <= 1,
            "{before} open files, then {after}"
        );
    }
}

/// Counts open files once nothing comes and goes any more.
fn settled(grid: &Grid, files: &dyn Fn(&Grid) -> Vec<usize>) -> Vec<usize> {
    let mut last = files(grid);
    grid.wait("open files to stay the same", || {
        let now = files(grid);
        let same = now == last;
        last = now;
        same.then(|| last.clone())
    })
}

/// Returns the inode of the socket that listens on a port.
fn listener(port: &str) -> Option<String> {
    const LISTEN: &str = "0A";
    let port: u16 = port.parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut words| {
        let local = words.nth(1)?.to_owned();
        let state = words.nth(1)?.to_owned();
        let is_it = local.ends_with(&format!(":{port:04X}")) && state == LISTEN;
        is_it.then(|| words.nth(5).unwrap().to_owned())
    })
}

#[test]
fn the_registry_listens_on_the_same_socket_throughout() {
    let mut grid = Grid::new(&application(&[node("a", &[sleeper("s")])]));
    grid.set("OMERO_GRID_REGISTRY_ENDPOINTS", "tcp -h 127.0.0.1 -p 0");
    grid.start();
    let status = grid.status();
    let locator = status["registry"]["locator"].as_str().unwrap();
    let port = locator.split(" -p ").nth(1).unwrap();
    let port = port.split_whitespace().next().unwrap();
    let before = listener(port).unwrap();
    let files = open_files(grid.master_pid());
    for round in ["one", "two"] {
        let new = copy(&grid, round);
        grid.run(&format!("upgrade --binary {new}")).ok();
        assert_eq!(listener(port).as_ref(), Some(&before));
        assert_eq!(grid.status()["registry"]["locator"], locator);
    }
    grid.wait("descriptors as before", || {
        (open_files(grid.master_pid()) <= files).then_some(())
    });
    grid.run("stop").ok();
    assert_eq!(listener(port), None);
}
