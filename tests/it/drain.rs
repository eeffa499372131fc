//! Drains, what follows them, and rolling restarts (DESIGN.md §3, §5).

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::{Grid, application, blitz, kill, node};

fn grid_of(count: usize) -> Grid {
    let blitzes: Vec<_> = (0..count).map(|n| blitz(&format!("Blitz-{n}"))).collect();
    let grid = Grid::new(&application(&[node("n", &blitzes)]));
    grid.start();
    grid
}

fn on(grid: &Grid, id: &str) -> String {
    let create = format!("session create --user root --password-file var/root-password --via {id}");
    grid.run(&create).ok().stdout.trim().to_owned()
}

#[test]
fn a_drained_blitz_stops_when_its_last_session_ends_whoever_dies_meanwhile() {
    let grid = grid_of(2);
    let session = on(&grid, "Blitz-0");
    let pid = grid.pid("Blitz-0");
    let said = grid.run("drain Blitz-0 --then stop --no-wait").ok().stdout;
    assert!(
        said.contains("1 session is left") && said.contains("no deadline"),
        "{said}"
    );
    let new = grid.json("session create --user root --password-file var/root-password");
    assert_eq!(new["server"], "Blitz-1");
    grid.run("session create --user root --password-file var/root-password --via Blitz-0")
        .exits(6)
        .says(&["drained"]);
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    grid.replace_node("n");
    let server = grid.wait_server("Blitz-0", "to drain still", |s| {
        s["blitz"]["accepting"] == "draining"
    });
    assert_eq!(server["drain"]["then"], "stop");
    assert_eq!(grid.pid("Blitz-0"), pid, "its session goes on");
    grid.run(&format!("session join {session}")).ok();
    // Nor does its own death end the drain.
    grid.kill9(pid);
    grid.wait_server("Blitz-0", "to drain again", |s| {
        s["pid"] != pid && s["blitz"]["accepting"] == "draining"
    });
    grid.run(&format!("session close {session}")).ok();
    let server = grid.wait_server("Blitz-0", "to stop", |s| {
        s["state"] == "inactive" && s["drain"].is_null()
    });
    assert!(server["pid"].is_null());
    grid.run("server Blitz-0 start").ok();
    grid.wait_server("Blitz-0", "to accept again", |s| {
        s["blitz"]["accepting"] == "yes"
    });
}

#[test]
fn the_deadline_closes_what_is_left_and_lists_it() {
    let grid = grid_of(2);
    let session = on(&grid, "Blitz-0");
    let kept = on(&grid, "Blitz-1");
    let said = grid.run("drain Blitz-0 --deadline 1").ok().stdout;
    assert!(
        said.contains(&session[..8]) && said.contains("Blitz-0 is drained"),
        "{said}"
    );
    grid.run(&format!("session join {session}"))
        .exits(3)
        .says(&["drained"]);
    grid.run(&format!("session join {kept}")).ok();
    grid.wait_server("Blitz-0", "to be drained", |s| {
        s["blitz"]["accepting"] == "drained"
    });
    grid.run("undrain Blitz-0").ok();
    grid.wait_server("Blitz-0", "to accept", |s| s["blitz"]["accepting"] == "yes");
    let again = grid.run("undrain Blitz-0").ok().stdout;
    assert!(again.contains("not drained"), "{again}");
}

#[test]
fn sessions_of_services_hold_nothing_up() {
    let grid = grid_of(2);
    let service = [
        "session",
        "create",
        "--user",
        "root",
        "--password-file",
        "var/root-password",
        "--via",
        "Blitz-0",
        "--agent",
        "Python service",
    ];
    grid.finish(&mut grid.command(&service), "").ok();
    grid.wait_server("Blitz-0", "to count it apart", |s| {
        s["blitz"]["internal"] == 1
    });
    grid.run("drain Blitz-0 --then stop").ok();
    assert!(grid.server("Blitz-0").unwrap()["pid"].is_null());
}

#[test]
fn the_last_to_take_sessions_is_not_drained_unasked() {
    let grid = grid_of(2);
    grid.run("drain Blitz-0 Blitz-1 --no-wait")
        .exits(6)
        .says(&["nobody would be left", "--force"]);
    grid.run("drain Blitz-0").ok();
    grid.run("drain Blitz-1 --no-wait").exits(6);
    grid.run("node n drain --no-wait").exits(6);
    grid.run("node n drain --force").ok();
    let drained = |id: &str| grid.server(id).unwrap()["blitz"]["accepting"] == "drained";
    assert!(drained("Blitz-0") && drained("Blitz-1"));
    grid.run("undrain n").ok();
    grid.run("drain nobody").exits(3);
    grid.run("node n start --force").exits(2);
}

#[test]
fn a_plan_says_what_there_is_to_wait_for_and_changes_nothing() {
    let grid = grid_of(2);
    on(&grid, "Blitz-0");
    let plan = grid.run("drain Blitz-0 --plan").ok().stdout;
    assert!(
        plan.contains("1 session, 1 used in the last minute"),
        "{plan}"
    );
    let plan = grid.json("drain Blitz-0 Blitz-1 --plan");
    assert_eq!(plan[0]["outlook"]["sessions"], 1);
    assert_eq!(plan[1]["outlook"]["sessions"], 0);
    assert!(grid.server("Blitz-0").unwrap()["drain"].is_null());
}

#[test]
fn shortened_lives_end_a_drain_by_themselves() {
    let grid = grid_of(2);
    let session = on(&grid, "Blitz-0");
    grid.run("drain Blitz-0 --live 1").ok();
    grid.run(&format!("session join {session}"))
        .exits(3)
        .says(&["open for more than"]);
}

#[test]
fn ctrl_c_stops_watching_and_not_the_drain() {
    let grid = grid_of(2);
    let session = on(&grid, "Blitz-0");
    let mut command = grid.command(&["drain", "Blitz-0", "--then", "stop"]);
    let watcher = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    grid.wait_server("Blitz-0", "to drain", |s| {
        s["blitz"]["accepting"] == "draining"
    });
    // It may not listen for the signal yet; it does once it waits.
    grid.wait("the watcher to wait", || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", watcher.id())).ok()?;
        let caught = std::fs::read_to_string(format!("/proc/{}/status", watcher.id())).ok()?;
        let caught = caught
            .lines()
            .find_map(|l| l.strip_prefix("SigCgt:"))?
            .trim()
            .to_owned();
        let caught = u64::from_str_radix(&caught, 16).ok()?;
        (state.contains(") S ") && caught & 2 != 0).then_some(())
    });
    kill(watcher.id(), Signal::SIGINT);
    let output = watcher.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the drain goes on"));
    assert_eq!(grid.server("Blitz-0").unwrap()["drain"]["then"], "stop");
    grid.run(&format!("session close {session}")).ok();
    grid.wait_server("Blitz-0", "to stop", |s| s["pid"].is_null());
}

#[test]
fn a_rolling_restart_takes_one_blitz_at_a_time_and_none_with_a_session() {
    let grid = grid_of(3);
    let ids = ["Blitz-0", "Blitz-1", "Blitz-2"];
    let before = ids.map(|id| grid.pid(id));
    let sessions = ids.map(|id| on(&grid, id));
    std::thread::scope(|scope| {
        let rolling = scope.spawn(|| grid.run("restart --rolling").ok());
        for n in 0..ids.len() {
            grid.wait_server(ids[n], "to have its turn", |s| {
                s["drain"]["then"] == "restart"
            });
            for later in n..ids.len() {
                assert_eq!(grid.pid(ids[later]), before[later], "{}", ids[later]);
                grid.run(&format!("session join {}", sessions[later])).ok();
            }
            grid.json("session create --user root --password-file var/root-password");
            for session in grid
                .json(&format!("session list --reveal --server {}", ids[n]))
                .as_array()
                .unwrap()
            {
                grid.run(&format!(
                    "session close {}",
                    session["uuid"].as_str().unwrap()
                ))
                .ok();
            }
            grid.wait_successor(ids[n], before[n]);
        }
        let said = rolling.join().unwrap().stdout;
        assert!(said.contains("all of them were restarted"), "{said}");
    });
    assert!(grid.status()["rollout"].is_null());
}

#[test]
fn a_rolling_deploy_stands_still_at_the_first_failure() {
    let grid = grid_of(2);
    let sessions = ["Blitz-0", "Blitz-1"].map(|id| on(&grid, id));
    let second = grid.pid("Blitz-1");
    let with = |value: &str| {
        let blitz = |id| blitz(id).property("omero.security.login_failure_throttle_count", value);
        application(&[node("n", &[blitz("Blitz-0"), blitz("Blitz-1")])])
    };
    grid.write("grid.xml", &with("soon"));
    grid.run("deploy grid.xml").exits(6).says(&["--rolling"]);
    std::thread::scope(|scope| {
        let rolling = scope.spawn(|| grid.run("deploy grid.xml --rolling"));
        grid.wait_server("Blitz-0", "to drain", |s| s["drain"]["then"] == "restart");
        grid.run(&format!("session close {}", sessions[0])).ok();
        rolling
            .join()
            .unwrap()
            .exits(1)
            .says(&["stands still", "Blitz-0", "--continue"]);
    });
    assert_eq!(grid.pid("Blitz-1"), second);
    grid.run(&format!("session join {}", sessions[1])).ok();
    grid.run("status --check").exits(1);
    grid.run("restart --rolling")
        .exits(6)
        .says(&["stands still"]);
    grid.run("restart --rolling --abort").ok();
    grid.write("grid.xml", &with("700000"));
    std::thread::scope(|scope| {
        let rolling = scope.spawn(|| grid.run("deploy grid.xml --rolling").ok());
        grid.wait_server("Blitz-1", "to drain", |s| s["drain"]["then"] == "restart");
        grid.run(&format!("session close {}", sessions[1])).ok();
        rolling.join().unwrap();
    });
    grid.wait_successor("Blitz-1", second);
    let get = grid.run("config service get omero.security.login_failure_throttle_count");
    assert_eq!(get.ok().stdout.trim(), "700000");
    assert!(grid.status()["nodes"][0]["servers"][0]["drain"].is_null());
}

#[test]
fn the_grid_stops_when_the_last_session_has_ended() {
    let grid = grid_of(2);
    let session = on(&grid, "Blitz-1");
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| grid.run("stop --drain").ok());
        grid.wait_server("Blitz-1", "to drain", |s| {
            s["blitz"]["accepting"] == "draining"
        });
        grid.run(&format!("session join {session}")).ok();
        grid.run(&format!("session close {session}")).ok();
        stopping.join().unwrap();
    });
    grid.run("status").exits(3);
    grid.run("start").ok();
    grid.wait_server("Blitz-0", "to accept", |s| s["blitz"]["accepting"] == "yes");
}
