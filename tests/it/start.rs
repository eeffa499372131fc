//! The grid starts and stops as its commands say (DESIGN.md §5), and there is one of each (invariant 2).

use std::net::TcpListener;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{
    Grid, alive, application, blitz, kill, living, marked, node, normalise, server, sleeper,
};

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn the_shipped_descriptor_starts_and_status_keeps_its_contract() {
    let grid = Grid::shipped();
    let run = grid.run("start descriptors/default.xml").ok();
    assert!(
        run.stdout
            .contains("OMERO is up: 1 node, 2 servers; not started: backup"),
        "{run:?}"
    );
    let status = grid.status();
    // Keys are only ever added.
    for key in [
        "application",
        "descriptor",
        "targets",
        "applications",
        "master",
        "redirector",
        "nodes",
    ] {
        assert!(keys(&status).contains(&key), "{key} in {status}");
    }
    assert_eq!(status["application"], "OMERO");
    assert_eq!(status["descriptor"], "descriptors/default.xml");
    assert_eq!(status["applications"][0]["name"], "OMERO");
    assert!(keys(&status["redirector"]).contains(&"redirect"));
    assert!(status["master"]["started"].as_str().unwrap().ends_with('Z'));
    let nodes = status["nodes"].as_array().unwrap();
    let shown: Vec<_> = nodes
        .iter()
        .map(|n| (&n["name"], &n["state"], &n["start"]))
        .collect();
    assert_eq!(
        serde_json::json!(shown),
        serde_json::json!([["backup", "down", "manual"], ["master", "up", "auto"]])
    );
    let blitz = grid.server("Blitz-0").unwrap();
    for key in [
        "id",
        "activation",
        "enabled",
        "state",
        "pid",
        "started",
        "restarts",
        "last_exit",
        "reason",
        "next_start",
        "blitz",
    ] {
        assert!(keys(&blitz).contains(&key), "{key} in {blitz}");
    }
    assert_eq!(
        (&blitz["activation"], &blitz["state"]),
        (&"always".into(), &"active".into())
    );
    assert_eq!(
        (&blitz["enabled"], &blitz["restarts"]),
        (&true.into(), &0.into())
    );
    for key in ["reason", "next_start", "last_exit"] {
        assert!(blitz[key].is_null(), "{key} of {blitz}");
    }
    for key in [
        "uuid",
        "sessions",
        "accepting",
        "read_only",
        "read_only_reason",
    ] {
        assert!(keys(&blitz["blitz"]).contains(&key), "{key} in {blitz}");
    }
    assert_eq!(blitz["blitz"]["accepting"], "yes");
    assert_eq!(
        blitz["blitz"]["read_only"],
        serde_json::json!({"db": false, "repo": false})
    );
    assert!(grid.server("Processor-0").unwrap()["blitz"].is_null());
    let pid = grid.read("var/master/master.pid");
    assert_eq!(pid.trim().parse::<u32>().unwrap(), grid.master_pid());
    grid.run("status --check").ok();
}

#[test]
fn stop_leaves_no_process() {
    let grid = Grid::shipped();
    grid.run("start descriptors/default.xml --all").ok();
    let before = living(grid.dir());
    assert!(
        before.len() >= 6,
        "master, two nodes, two Blitzes, a worker: {before:?}"
    );
    let run = grid.run("stop").ok();
    assert_eq!(run.stdout, "OMERO has stopped\n");
    assert_eq!(living(grid.dir()), []);
    assert!(before.iter().all(|process| !alive(process.pid)));
    assert!(!grid.path("var/master/master.pid").exists());
    grid.run("status")
        .exits(3)
        .says(&["the grid is not running"]);
    grid.run("stop").exits(3);
}

#[test]
fn a_command_substitution_returns() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    let script = format!(
        "x=$('{}' start grid.xml 2>&1); echo \"got $? [$x]\"",
        env!("CARGO_BIN_EXE_omero-grid")
    );
    let mut bash = Command::new("bash");
    grid.hermetic(&mut bash);
    bash.args(["-c", &script]).env("OMERODIR", grid.dir());
    let run = grid.finish(&mut bash, "").ok();
    assert_eq!(run.stdout, "got 0 [Test is up: 1 node, 1 server]\n");
    grid.run("status --check").ok();
}

#[test]
fn a_second_start_is_refused() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let (master, pid) = (grid.master_pid(), grid.pid("s"));
    let run = grid.run("start grid.xml").exits(6);
    assert_eq!(
        normalise(&grid, &run.stderr),
        "error: this grid is already running (master is process PID)\n  \
         `omero-grid status` shows it; `omero-grid deploy` changes what it runs\n"
    );
    grid.run("start --foreground grid.xml")
        .exits(6)
        .says(&["already running"]);
    assert_eq!((grid.master_pid(), grid.pid("s")), (master, pid));
}

#[test]
fn a_start_on_a_taken_port_makes_no_root_whose_password_nobody_hears_of() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.set(
        "OMERO_GRID_REGISTRY_ENDPOINTS",
        format!("tcp -h 127.0.0.1 -p {port}"),
    );
    grid.run("start grid.xml")
        .exits(1)
        .says(&[&format!("-p {port}"), "has that port"]);
    for made in ["var/grid.db", "var/root-password"] {
        assert!(!grid.path(made).exists(), "{made}");
    }
    drop(taken);
    let run = grid.run("start grid.xml").ok();
    let notice = "made user root with a random password; it is in ";
    assert!(run.stdout.starts_with(notice), "{run:?}");
    grid.root_password();
}

#[test]
fn of_many_starts_at_once_one_is_the_master() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| grid.run("start grid.xml").status))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    let mut sorted = codes.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 6, 6, 6, 6], "{codes:?}\n{}", grid.report());
    grid.wait_state("s", "active");
    assert_eq!(marked(grid.dir(), "s").len(), 1);
    let masters = living(grid.dir())
        .into_iter()
        .filter(|p| p.command.contains("master-process"));
    assert_eq!(masters.count(), 1);
}

#[test]
fn a_second_node_of_a_name_is_refused() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let (node, pid) = (grid.node_pid("n"), grid.pid("s"));
    let run = grid.run("node-process --name n").exits(6);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["exit"], 6);
    assert!(
        report["error"]
            .as_str()
            .unwrap()
            .contains(&format!("held by process {node}")),
        "{report}"
    );
    assert_eq!((grid.node_pid("n"), grid.pid("s")), (node, pid));
    assert_eq!(marked(grid.dir(), "s").len(), 1);
}

#[test]
fn two_grids_on_the_same_data_are_refused() {
    let first = Grid::new("");
    let data = first.path("data").to_str().unwrap().to_owned();
    let with_data = application(&[node(
        "n",
        &[blitz("Blitz-0").property("omero.data.dir", &data)],
    )]);
    first.write("grid.xml", &with_data);
    first.start();
    let second = Grid::new(&with_data);
    second
        .run("start grid.xml")
        .exits(6)
        .says(&["another grid", &data]);
    assert_eq!(living(second.dir()), []);
    first.run("stop").ok();
    second.run("start grid.xml").ok();
}

#[test]
fn a_manual_node_is_started_by_name_in_either_word_order() {
    let grid = Grid::shipped();
    grid.run("start descriptors/default.xml").ok();
    assert!(grid.node("backup").unwrap()["pid"].is_null());
    let run = grid.run("node backup start").ok();
    assert_eq!(run.stdout, "node backup is up: 1 server active\n");
    let blitz = grid.server("Blitz-1").unwrap();
    assert_eq!(blitz["blitz"]["accepting"], "yes");
    assert_eq!(grid.json("node backup status")["state"], "up");
    let pid = grid.pid("Blitz-1");
    grid.run("node stop backup").ok();
    assert!(!alive(pid));
    assert_eq!(grid.node("backup").unwrap()["state"], "down");
    assert_eq!(marked(grid.dir(), "Blitz-1"), []);
    grid.run("node start backup").ok();
    assert_ne!(grid.pid("Blitz-1"), pid);
    let (node, blitz) = (grid.node_pid("backup"), grid.pid("Blitz-1"));
    grid.run("node backup restart").ok();
    assert_ne!(grid.node_pid("backup"), node);
    assert_ne!(grid.pid("Blitz-1"), blitz);
}

#[test]
fn start_chooses_nodes_by_name() {
    let grid = Grid::new(&application(&[
        node("a", &[sleeper("s")]),
        node("b", &[sleeper("t")]),
    ]));
    grid.run("start grid.xml --node b").ok();
    assert_eq!(grid.node("a").unwrap()["state"], "down");
    assert_eq!(grid.node("b").unwrap()["state"], "up");
    assert_eq!(marked(grid.dir(), "s"), []);
    grid.run("stop").ok();
    grid.run("start grid.xml --node c")
        .exits(3)
        .says(&["there is no node 'c'", "a, b"]);
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn start_without_a_descriptor_never_chooses_silently() {
    let grid = Grid::at("");
    grid.run("start")
        .exits(4)
        .says(&["etc/grid/default.xml", "--builtin"]);
    assert_eq!(living(grid.dir()), []);
    grid.write(
        "etc/grid/default.xml",
        &application(&[node("n", &[sleeper("s")])]),
    );
    grid.run("start").ok();
    assert_eq!(grid.server("s").unwrap()["state"], "active");
    grid.run("stop").ok();
    // The last one deployed comes before the default.
    grid.write("other.xml", &application(&[node("n", &[sleeper("t")])]));
    grid.run("start other.xml").ok();
    grid.run("stop").ok();
    grid.run("start").ok();
    assert!(grid.server("s").is_none());
    assert_eq!(grid.server("t").unwrap()["state"], "active");
}

#[test]
fn start_with_builtin_runs_the_compiled_in_descriptor() {
    let grid = Grid::at("");
    grid.run("start --builtin").ok();
    assert_eq!(grid.server("Blitz-0").unwrap()["blitz"]["accepting"], "yes");
    assert!(grid.path("var/root-password").exists());
}

#[test]
fn a_start_that_does_not_get_everything_active_leaves_the_grid_up() {
    let late = server("late", "/bin/sh")
        .option("-c")
        .option("test -e well || exit 7; exec sleep 3600")
        // A shell may be slow where much else runs.
        .property("omero.grid.ready", "500");
    let grid = Grid::new(&application(&[node("n", &[sleeper("s"), late])]));
    grid.run("start grid.xml --wait 1").exits(5).says(&[
        "not everything is active after 1 s",
        ", exited with code 7",
        "goes on trying",
    ]);
    assert_eq!(grid.server("s").unwrap()["state"], "active");
    grid.run("status --check").exits(1);
    grid.write("well", "");
    grid.wait_state("late", "active");
    grid.run("status --check").ok();
}

#[test]
fn every_exit_code_is_shown() {
    let blocked = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    blocked.write("var", "a file where a directory is needed");
    blocked.run("start grid.xml").exits(1);
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.run("start --no-such-option").exits(2);
    grid.run("session list").exits(3);
    grid.run("start missing.xml").exits(4);
    let never = server("never", "/bin/false");
    grid.write("never.xml", &application(&[node("n", &[never])]));
    grid.run("start never.xml --wait 1").exits(5);
    grid.run("start grid.xml").exits(6);
    grid.run("status").exits(0);
}

#[test]
fn sigterm_to_the_master_stops_everything() {
    let grid = Grid::new(&application(&[
        node("a", &[sleeper("s")]),
        node("b", &[blitz("Blitz-0")]),
    ]));
    grid.start();
    let master = grid.master_pid();
    kill(master, Signal::SIGTERM);
    grid.wait_gone(master);
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn restart_starts_the_same_nodes_anew() {
    let own_line = "<variable name=\"omero.grid.start\" value=\"manual\"/>\n<server";
    let manual = node("b", &[sleeper("t")]).replacen("<server", own_line, 1);
    let grid = Grid::new(&application(&[node("a", &[sleeper("s")]), manual]));
    grid.start();
    grid.run("node b start").ok();
    let before = (
        grid.master_pid(),
        grid.node_pid("b"),
        grid.pid("s"),
        grid.pid("t"),
    );
    grid.run("restart").ok();
    let after = (
        grid.master_pid(),
        grid.node_pid("b"),
        grid.pid("s"),
        grid.pid("t"),
    );
    assert!(
        before.0 != after.0 && before.1 != after.1 && before.2 != after.2 && before.3 != after.3
    );
    assert!(!alive(before.3));
    // A descriptor that does not hold stops nothing.
    grid.write("grid.xml", "<icegrid><application");
    grid.run("restart")
        .exits(4)
        .says(&["grid.xml:1:", "nothing was stopped"]);
    assert_eq!((grid.master_pid(), grid.pid("s")), (after.0, after.2));
}

#[test]
fn stop_without_a_master_stops_what_lives() {
    let grid = Grid::new(&application(&[
        node("a", &[sleeper("s")]),
        node("b", &[sleeper("t")]),
    ]));
    grid.start();
    let (s, t) = (grid.pid("s"), grid.pid("t"));
    let b = grid.node_pid("b");
    grid.kill9(grid.master_pid());
    grid.kill9(b);
    let alive_now = grid.run("--format json status").exits(3);
    let left = alive_now.json();
    assert!(left["master"].is_null());
    assert_eq!(left["alive"]["nodes"][0]["name"], "a");
    assert_eq!(
        left["alive"]["servers"],
        serde_json::json!([{"id": "t", "node": "b", "pid": t}])
    );
    assert!(
        alive_now.stderr.contains("`omero-grid start` adopts"),
        "{}",
        alive_now.stderr
    );
    grid.run("stop").ok();
    assert!(!alive(s) && !alive(t));
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn an_application_without_nodes_is_up_at_once() {
    let grid = Grid::new(&application(&[]));
    let done = grid.run("start grid.xml").ok();
    assert!(done.stdout.contains("0 nodes"), "{}", done.stdout);
    grid.run("stop").ok();
}
