//! `deploy` and `reload`: only what changed is restarted, and no session is ended unasked (invariant 4).

use nix::sys::signal::Signal;
use omero_grid::descriptor;
use omero_grid::ipc::message::client::{ClientLink, DeployMode, DescriptorSource, Reply, Request};
use omero_grid::ipc::{Address, Client, Hello, Role, RunDir};
use serde_json::{Value, json};

use crate::harness::{Grid, Server, alive, application, blitz, kill, marked, node, sleeper};

fn written(grid: &Grid, name: &str, servers: &[Server]) {
    grid.write(name, &application(&[node("n", servers)]));
}

/// What a report says of each server: id, change, effect.
fn changes(report: &Value) -> Value {
    let changes = report["changes"].as_array().unwrap().iter();
    changes
        .map(|c| json!([c["server"], c["change"], c["effect"]]))
        .collect()
}

fn blue() -> Server {
    blitz("Blitz-0").property("colour", "blue")
}

#[test]
fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let grid = Grid::new(&application(&[node(
        "n",
        &[sleeper("same"), sleeper("gone"), sleeper("other")],
    )]));
    grid.start();
    let before = grid.status();
    written(
        &grid,
        "new.xml",
        &[
            sleeper("same"),
            sleeper("other").option("x"),
            sleeper("new"),
        ],
    );
    let plan = grid.json("deploy new.xml --dry-run");
    assert_eq!(plan["applied"], false);
    assert_eq!(
        changes(&plan),
        json!([
            ["gone", "removed", "stop"],
            ["new", "added", "start"],
            ["other", "changed", "restart"]
        ])
    );
    let text = grid.run("deploy new.xml --dry-run").ok().stdout;
    assert!(
        text.contains("this is the plan; nothing was changed"),
        "{text}"
    );
    assert_eq!(grid.status(), before);
}

#[test]
fn a_deploy_restarts_only_what_changed() {
    let grid = Grid::new(&application(&[node(
        "n",
        &[sleeper("same"), sleeper("gone"), sleeper("other")],
    )]));
    grid.start();
    let [same, gone, other] = ["same", "gone", "other"].map(|id| grid.pid(id));
    let node = grid.node_pid("n");
    written(
        &grid,
        "new.xml",
        &[
            sleeper("same"),
            sleeper("other").option("x"),
            sleeper("new"),
        ],
    );
    assert_eq!(grid.json("deploy new.xml")["applied"], true);
    grid.wait_successor("other", other);
    grid.wait_state("new", "active");
    grid.wait("the removed server to be gone", || {
        grid.server("gone").is_none().then_some(())
    });
    grid.wait_gone(gone);
    assert_eq!(marked(grid.dir(), "gone"), []);
    assert!(!alive(other));
    assert_eq!((grid.pid("same"), grid.node_pid("n")), (same, node));
    assert_eq!(grid.status()["descriptor"], "new.xml");
    // It is the deployment from here on.
    assert_eq!(changes(&grid.json("deploy new.xml")), json!([]));
    grid.run("stop").ok();
    grid.run("start").ok();
    assert!(grid.server("gone").is_none());
    assert_eq!(grid.server("new").unwrap()["state"], "active");
}

#[test]
fn a_deploy_adds_and_removes_nodes() {
    let grid = Grid::new(&application(&[
        node("n", &[sleeper("s")]),
        node("old", &[sleeper("t")]),
    ]));
    grid.start();
    let (s, t, old) = (grid.pid("s"), grid.pid("t"), grid.node_pid("old"));
    grid.write(
        "new.xml",
        &application(&[node("n", &[sleeper("s")]), node("new", &[sleeper("u")])]),
    );
    let report = grid.json("deploy new.xml");
    assert_eq!(
        (&report["nodes_added"], &report["nodes_removed"]),
        (&json!(["new"]), &json!(["old"]))
    );
    grid.wait_state("u", "active");
    grid.wait_gone(t);
    grid.wait_gone(old);
    grid.wait("the node to be gone", || {
        grid.node("old").is_none().then_some(())
    });
    assert_eq!(grid.pid("s"), s);
}

#[test]
fn a_deploy_that_would_end_sessions_is_refused_unless_told_not_to_care() {
    let grid = Grid::new(&application(&[node(
        "n",
        &[blitz("Blitz-0"), sleeper("s")],
    )]));
    grid.start();
    let session = grid.session();
    grid.wait_server("Blitz-0", "to count it", |s| s["blitz"]["sessions"] == 1);
    let (pid, sleeping) = (grid.pid("Blitz-0"), grid.pid("s"));
    written(&grid, "new.xml", &[blue(), sleeper("s").option("x")]);
    grid.run("deploy new.xml")
        .exits(6)
        .says(&["live sessions: Blitz-0", "--now"]);
    // Nothing of it was done, the harmless part neither.
    assert_eq!((grid.pid("Blitz-0"), grid.pid("s")), (pid, sleeping));
    assert_eq!(grid.status()["descriptor"], "grid.xml");
    grid.run("deploy new.xml --now").ok();
    grid.wait_successor("Blitz-0", pid);
    grid.wait_successor("s", sleeping);
    // The built-in Blitz takes its sessions up again.
    assert_eq!(
        grid.json(&format!("session join {session}"))["uuid"],
        session
    );
}

#[test]
fn a_deploy_without_sessions_in_the_way_needs_no_word() {
    let grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.start();
    let pid = grid.pid("Blitz-0");
    written(&grid, "new.xml", &[blue()]);
    grid.run("deploy new.xml").ok();
    grid.wait_successor("Blitz-0", pid);
    assert!(
        grid.read("var/n/servers/Blitz-0/config/config")
            .contains("colour=blue")
    );
}

#[test]
fn a_bad_descriptor_is_not_deployed() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let before = grid.status();
    grid.write("bad.xml", "<icegrid><application name=\"Test\"><node name=\"n\"><server id=\"s\"/></node></application></icegrid>");
    grid.run("deploy bad.xml").exits(4).says(&["bad.xml:1:"]);
    grid.run("deploy missing.xml")
        .exits(4)
        .says(&["missing.xml"]);
    assert_eq!(grid.status(), before);
}

#[test]
fn a_reload_of_a_bad_file_changes_nothing() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let before = grid.status();
    let good = grid.read("grid.xml");
    for bad in ["", "<icegrid>", &good.replace("exe=", "exec=")] {
        grid.write("grid.xml", bad);
        grid.run("reload").exits(4).says(&["grid.xml:"]);
        assert_eq!(grid.status(), before);
    }
    std::fs::remove_file(grid.path("grid.xml")).unwrap();
    grid.run("reload").exits(4);
    assert_eq!(grid.status(), before);
}

#[test]
fn a_reload_applies_what_ends_no_session_and_marks_the_rest() {
    let grid = Grid::new(&application(&[node(
        "n",
        &[
            blitz("Blitz-0"),
            blitz("Blitz-1"),
            sleeper("s"),
            sleeper("t"),
        ],
    )]));
    grid.start();
    let session =
        grid.json("session create --user root --password-file var/root-password --via Blitz-0");
    grid.wait_server("Blitz-0", "to count it", |s| s["blitz"]["sessions"] == 1);
    let [held, free, s, t] = ["Blitz-0", "Blitz-1", "s", "t"].map(|id| grid.pid(id));
    let blue_too = blitz("Blitz-1").property("colour", "blue");
    written(
        &grid,
        "grid.xml",
        &[blue(), blue_too, sleeper("s").option("x"), sleeper("t")],
    );
    let reports = grid.json("reload");
    assert_eq!(reports[0]["applied"], true);
    grid.wait_successor("Blitz-1", free);
    grid.wait_successor("s", s);
    assert_eq!((grid.pid("Blitz-0"), grid.pid("t")), (held, t));
    assert_eq!(grid.server("Blitz-0").unwrap()["outdated"], true);
    assert_eq!(grid.server("Blitz-1").unwrap()["outdated"], false);
    grid.run("status --check").exits(1);
    let page = grid.run("status").ok().stdout;
    assert!(
        page.contains("Blitz-0: runs with an older definition"),
        "{page}"
    );
    // Also the next master and the next node know.
    grid.kill9(grid.node_pid("n"));
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    assert_eq!(grid.pid("Blitz-0"), held);
    assert_eq!(grid.server("Blitz-0").unwrap()["outdated"], true);
    grid.run("server Blitz-0 restart").ok();
    assert_ne!(grid.pid("Blitz-0"), held);
    assert_eq!(grid.server("Blitz-0").unwrap()["outdated"], false);
    assert!(
        grid.read("var/n/servers/Blitz-0/config/config")
            .contains("colour=blue")
    );
    let uuid = session["uuid"].as_str().unwrap();
    grid.wait_server("Blitz-0", "to accept", |s| s["blitz"]["accepting"] == "yes");
    assert_eq!(
        grid.json(&format!("session join {uuid}"))["server"],
        "Blitz-0"
    );
}

#[test]
fn sighup_reloads() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let pid = grid.pid("s");
    written(&grid, "grid.xml", &[sleeper("s"), sleeper("t")]);
    kill(grid.master_pid(), Signal::SIGHUP);
    grid.wait_state("t", "active");
    assert_eq!(grid.pid("s"), pid);
    // A bad file is said in the log, and that is all.
    grid.write("grid.xml", "<icegrid>");
    kill(grid.master_pid(), Signal::SIGHUP);
    grid.wait("the refusal", || {
        grid.read("var/log/grid.log")
            .contains("nothing was reloaded")
            .then_some(())
    });
    assert_eq!(grid.server("t").unwrap()["state"], "active");
    assert_eq!(grid.pid("s"), pid);
}

#[test]
fn a_start_over_living_nodes_deploys_the_difference() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s"), sleeper("t")])]));
    grid.start();
    let (s, t) = (grid.pid("s"), grid.pid("t"));
    grid.kill9(grid.master_pid());
    written(
        &grid,
        "grid.xml",
        &[sleeper("s"), sleeper("t").option("x"), sleeper("u")],
    );
    grid.run("start grid.xml").ok();
    grid.wait_state("u", "active");
    grid.wait_successor("t", t);
    assert_eq!(grid.pid("s"), s);
}

#[test]
fn a_start_over_living_nodes_survives_a_bad_file() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    let s = grid.pid("s");
    grid.kill9(grid.master_pid());
    grid.write("grid.xml", "<icegrid>");
    // Named, it is refused; not named, what lives is adopted as it was deployed.
    grid.run("start grid.xml").exits(4).says(&["grid.xml:1:"]);
    let run = grid.run("start").ok();
    assert!(
        run.stdout
            .contains("adopted the running grid as it was deployed"),
        "{run:?}"
    );
    assert_eq!(grid.pid("s"), s);
}

#[test]
fn unknown_names_get_the_near_miss() {
    let grid = Grid::new(&application(&[
        node("master", &[sleeper("Blitz-0")]),
        node("backup", &[sleeper("Blitz-1")]),
    ]));
    grid.start();
    grid.run("server Bltz-0 stop")
        .exits(3)
        .says(&["there is no server 'Bltz-0'", "did you mean 'Blitz-0'?"]);
    grid.run("server Bltz-0 status")
        .exits(3)
        .says(&["there is no server 'Bltz-0'"]);
    grid.run("node bakup stop")
        .exits(3)
        .says(&["there is no node 'bakup'", "did you mean 'backup'?"]);
    grid.run("node bakup status").exits(3);
    grid.run("server zzz restart")
        .exits(3)
        .says(&["known are: ", "Blitz-0", "Blitz-1"]);
    grid.run("server ../../etc stop").exits(3);
    grid.run("server Blitz-0 explode")
        .exits(2)
        .says(&["choose one of start, stop"]);
    grid.run("logs nothing").exits(3);
}

/// Reads a descriptor as a tool of IceGrid's does, which sends what it says rather than where it is.
fn described(grid: &Grid, name: &str) -> DescriptorSource {
    let request = descriptor::Request {
        file: grid.path(name),
        ..descriptor::Request::default()
    };
    let loaded = descriptor::load(&descriptor::Disk, &request).unwrap();
    DescriptorSource::of(loaded.definition, "tool")
}

#[test]
fn an_application_of_no_file_is_deployed_and_outlives_the_master() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("a")])]));
    grid.start();
    written(&grid, "new.xml", &[sleeper("a"), sleeper("b")]);
    let source = described(&grid, "new.xml");
    std::fs::remove_file(grid.path("new.xml")).unwrap();
    let socket = RunDir::find(grid.dir()).unwrap().socket(Address::Master);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let reply = runtime.block_on(async {
        let me = Hello::new(Role::Client, "deploy");
        let (client, ..) = Client::<ClientLink>::connect(&socket, &me).await.unwrap();
        let deploy = Request::Deploy {
            source,
            dry_run: false,
            mode: DeployMode::Careful,
        };
        client.call(&deploy).await.unwrap()
    });
    let Reply::Deployed(report) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(report.changes.len(), 1);
    grid.wait_state("b", "active");
    let shown = &grid.status()["applications"][0];
    assert_eq!(shown["descriptor"], "tool");
    assert!(shown["source"].get("definition").is_none());
    // What was not said anew stays as it was said.
    let pid = grid.pid("b");
    grid.run("reload").ok();
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    assert_eq!(grid.pid("b"), pid);
    grid.run("restart").ok();
    grid.wait_state("b", "active");
    assert_eq!(grid.status()["applications"][0]["descriptor"], "tool");
}
