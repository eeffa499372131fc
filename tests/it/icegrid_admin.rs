//! Admin objects of nodes and of the registry, and what their clients serve: what logs say is shown and followed.
//!
//! Skipped, and said so, where Debian's programs and python3-zeroc-ice are not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::path::Path;
use std::process::Command;

use omero_grid::ice::net::{Answer, Settings};
use omero_grid::ice::{Mode, Proxy};
use omero_grid::icegrid::client::{Access, Admin, Fault};
use omero_grid::icegrid::types::Texts;

use crate::harness::{Grid, application, node};
use crate::ice_peer::{FOLDER, Program};
use crate::icegrid::{Caller, admin_ok, echo, grid, installed, locator};
use crate::icegridadmin::{Served, has_peers, named};

/// Runs a program of these tests; returns the lines that it prints.
pub(crate) fn lines(script: &str, args: &[&str]) -> Vec<String> {
    let done = Command::new("/usr/bin/python3")
        .arg(format!("{FOLDER}/{script}"))
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}{said}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn admin_objects_of_nodes_and_registry_are_as_zerocs() {
    if !installed() || !has_peers() {
        return;
    }
    let found = |served: Served| {
        let added = served.admin(Path::new("icegridadmin"), "application add app.xml");
        assert!(added.status.success());
        lines("facets.py", &[&served.locator(), "node1", "keep"])
    };
    let (theirs, ours) = (found(Served::zeroc()), found(Served::ours()));
    assert_eq!(theirs, ours);
    assert_eq!(
        ours.last().unwrap(),
        "ObjectNotExistException ObjectNotExistException"
    );
}

/// Follows a log with a program of this name, from the last message on.
fn follow(grid: &Grid, program: &Path, what: &str) -> Program {
    let mut command = Command::new(program);
    command
        .arg(format!("--Ice.Default.Locator={}", locator(grid)))
        .args(["--username", "me", "--password", "secret", "-e"])
        .arg(format!("{what} log -f -t 1"));
    Program::start(&mut command)
}

#[track_caller]
fn hears(program: &Program, part: &str) {
    while !program.line().contains(part) {}
}

#[test]
fn either_icegridadmin_shows_and_follows_what_is_logged() {
    if !installed() {
        return;
    }
    let grid = grid(&application(&[node("n", &[echo("A", "always", None)])]));
    grid.start();
    let text = admin_ok(&grid, "node show n log");
    assert!(text.contains("omero-grid: supervisor: up"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    for program in [
        Path::new("/usr/bin/icegridadmin"),
        &named(dir.path(), "icegridadmin"),
    ] {
        let registry = follow(&grid, program, "registry show Master");
        let of_node = follow(&grid, program, "node show n");
        let server = follow(&grid, program, "server show A");
        // They hear the last message at once, and the next ones when they come.
        hears(&registry, "omero-grid: ");
        hears(&of_node, "omero-grid: ");
        admin_ok(&grid, "server list");
        hears(&registry, "why=\"destroyed\"");
        Caller::new(&grid).pings("echo @ A.Echo");
        hears(&server, "Echo: is pinged");
        let old = grid.pid("A");
        drop(server);
        admin_ok(&grid, "server signal A SIGKILL");
        hears(&of_node, "server=A");
        grid.wait_successor("A", old);
        grid.wait_state("A", "active");
    }
}

/// A session of this program's own.
fn session(grid: &Grid, runtime: &tokio::runtime::Runtime) -> Admin {
    let access = Access {
        locator: locator(grid),
        user: "me".to_owned(),
        password: "secret".to_owned(),
        certificate: false,
        replica: String::new(),
        settings: Settings::default(),
    };
    runtime.block_on(Admin::connect(access)).unwrap()
}

#[test]
fn process_objects_stop_nodes_and_the_grid_and_nobody_sets_properties() {
    let servers = [crate::harness::sleeper("S")];
    let grid = grid(&application(&[node("n", &servers), node("m", &[])]));
    grid.start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let admin = session(&grid, &runtime);
    let object = |operation: &str, name: &str, facet: &str| {
        let proxy: Option<Proxy> = runtime
            .block_on(admin.call(operation, Mode::Idempotent, (name,)))
            .unwrap();
        Proxy {
            facet: facet.to_owned(),
            ..proxy.unwrap()
        }
    };
    let properties = object("getNodeAdmin", "n", "Properties");
    let new = Texts::from([("Ice.Trace.Network".to_owned(), "1".to_owned())]);
    let set = admin.call_of::<()>(&properties, "setProperties", Mode::Normal, (new,));
    let refused = runtime.block_on(set).unwrap_err();
    assert!(
        matches!(&refused, Fault::Unknown(text) if text.contains("omero-grid config set")),
        "{refused:?}"
    );
    let stop = |process: &Proxy| {
        runtime.block_on(admin.call_of::<()>(process, "shutdown", Mode::Normal, ()))
    };
    stop(&object("getNodeAdmin", "n", "Process")).unwrap();
    grid.wait("node n to be down", || {
        grid.node("n").filter(|node| node["state"] == "down")
    });
    // One that is down has no object any more.
    let gone = stop(&properties).unwrap_err();
    assert!(matches!(gone, Fault::Missing { .. }), "{gone:?}");
    // Whoever has no session meets none either.
    let caller = Caller::new(&grid);
    let at = locator(&grid).to_string();
    let (_, endpoints) = at.split_once(':').unwrap();
    let direct = format!("IceGrid-RegistryReplicaAdminRouter/Master -f Process:{endpoints}");
    let answer = caller.ping(&direct).unwrap();
    assert!(matches!(answer, Answer::Missing { .. }), "{answer:?}");
    let master = grid.master_pid();
    stop(&object("getRegistryAdmin", "Master", "Process")).unwrap();
    grid.wait_gone(master);
}
