//! `check --site`: what stands in the way of a site that moves here from IceGrid, and that looking changes nothing.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Done, Grid};
use crate::site::{DEFAULT, TEMPLATES};

/// Makes a site in whose way nothing stands: ports of its own, a certificate, descriptors as OMERO generates them.
fn site() -> Grid {
    let grid = Grid::at("");
    grid.write("etc/templates/grid/default.xml", DEFAULT);
    grid.write("etc/templates/grid/templates.xml", TEMPLATES);
    grid.write("etc/grid/templates.xml", &generated(TEMPLATES));
    grid.write("certs/server.p12", "a certificate");
    grid.write("var/master/master.pid", "999999999\n");
    set(&grid, "omero.glacier2.IceSSL.DefaultDir", "certs");
    set(&grid, "omero.glacier2.IceSSL.CertFile", "server.p12");
    // All at once, so that they differ.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = ["registry", "tcp", "ssl", "ws", "wss"].map(|name| (name, free()));
    for (name, listener) in listeners {
        let port = listener.local_addr().unwrap().port().to_string();
        set(&grid, &format!("omero.ports.{name}"), &port);
    }
    let [ssl, tcp] = ["ssl", "tcp"].map(|name| get(&grid, &format!("omero.ports.{name}")));
    let endpoints = format!("ssl -p {ssl}:tcp -p {tcp}");
    let default = generated(DEFAULT).replace("@omero.client.endpoints@", &endpoints);
    grid.write("etc/grid/default.xml", &default);
    grid
}

/// What OMERO makes of a template: tokens and heaps replaced, comments and blanks its own.
fn generated(template: &str) -> String {
    let made = template
        .replace("<option>MEMORY:blitz</option>", "<option>-Xmx600m</option>")
        .replace(
            "@omero.glacier2.icessl@",
            "<property name=\"IceSSL.CertFile\" value=\"server.p12\"/>",
        )
        .replace(" activation=\"always\"", "\n activation='always'");
    format!("<!-- generated -->{made}")
}

fn set(grid: &Grid, key: &str, value: &str) {
    let mut set = grid.command(&["config", "set", key, value]);
    grid.finish(&mut set, "").ok();
}

fn get(grid: &Grid, key: &str) -> String {
    let got = grid.run(&format!("config get {key}")).ok();
    got.stdout.trim().to_owned()
}

/// Returns what was found out about one thing.
fn findings<'r>(report: &'r Value, check: &str) -> Vec<&'r Value> {
    let all = report["findings"].as_array().unwrap();
    all.iter().filter(|f| f["check"] == check).collect()
}

#[track_caller]
fn obstacle<'r>(report: &'r Value, check: &str) -> &'r str {
    let of_check = findings(report, check);
    let found = of_check.iter().find(|f| f["level"] == "obstacle");
    let found = found.unwrap_or_else(|| panic!("no obstacle '{check}' in {report:#}"));
    found["message"].as_str().unwrap()
}

/// Everything below a directory that writing would change.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u32)> {
    let mut found = BTreeMap::new();
    for entry in dir.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let data = path.symlink_metadata().unwrap();
        let of = (data.size(), data.mtime(), data.mtime_nsec(), data.mode());
        if data.is_dir() {
            found.extend(tree(&path));
        }
        found.insert(path, of);
    }
    found
}

fn check(grid: &Grid, code: i32) -> (Value, Done) {
    let before = tree(grid.dir());
    let report = grid.run("--format json check --site .").exits(code).json();
    let text = grid.run("check --site .").exits(code);
    assert_eq!(tree(grid.dir()), before, "looking has changed something");
    (report, text)
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_site_that_can_move_is_told_so_and_left_as_it_is() {
    let mut grid = site();
    // A virtual environment in which the links are made already.
    std::fs::create_dir(grid.path("venv")).unwrap();
    for name in ["icegridnode", "icegridadmin"] {
        symlink(
            env!("CARGO_BIN_EXE_omero-grid"),
            grid.path("venv").join(name),
        )
        .unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", grid.path("venv").display());
    grid.set("PATH", path);
    let (report, text) = check(&grid, 0);
    assert_eq!(report["ok"], true, "{report:#}");
    for check in [
        "running",
        "certificate",
        "descriptor",
        "memory",
        "templates",
        "state",
        "link",
    ] {
        let found = findings(&report, check);
        assert!(!found.is_empty(), "nothing of {check} in {report:#}");
        assert!(found.iter().all(|f| f["level"] == "ok"), "{found:?}");
    }
    assert_eq!(findings(&report, "port").len(), 5);
    let last = text.stdout.lines().last().unwrap();
    assert!(last.starts_with("0 obstacles, "), "{}", text.stdout);
}

#[test]
fn whatever_stands_in_the_way_is_named_with_its_owner_and_its_remedy() {
    let grid = site();
    let port: u16 = get(&grid, "omero.ports.ssl").parse().unwrap();
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::fs::remove_file(grid.path("certs/server.p12")).unwrap();
    set(&grid, "omero.jvmcfg.heap_size.blitz", "99999g");
    let edited = generated(TEMPLATES).replace("KIND=blitz", "KIND=edited");
    grid.write("etc/grid/templates.xml", &edited);
    std::fs::create_dir(grid.path("bin")).unwrap();
    std::fs::copy("/bin/sleep", grid.path("bin/icegridnode")).unwrap();
    let node = Command::new(grid.path("bin/icegridnode"))
        .arg("60")
        .stdin(Stdio::null())
        .spawn();
    let node = Killed(node.unwrap());
    grid.write("var/master/master.pid", &format!("{}\n", node.0.id()));
    let (report, text) = check(&grid, 1);
    assert_eq!(report["ok"], false);

    let held = obstacle(&report, "port");
    let pid = std::process::id();
    assert!(held.starts_with(&format!("{port} (")), "{held}");
    assert!(held.contains(&format!("(pid {pid})")), "{held}");
    let running = obstacle(&report, "running");
    let pid = node.0.id();
    assert!(
        running.contains(&format!("icegridnode (pid {pid})")),
        "{running}"
    );
    assert!(obstacle(&report, "certificate").contains("server.p12"));
    assert!(obstacle(&report, "memory").contains("1 Java server(s)"));
    let templates = findings(&report, "templates");
    let edit = templates.iter().find(|f| f["level"] == "warning").unwrap();
    let message = edit["message"].as_str().unwrap();
    assert!(message.contains("<env>KIND=edited was added"), "{message}");
    assert!(message.contains("<env>KIND=blitz is missing"), "{message}");
    for part in ["→ omero admin stop", "`omero certificates`", "4 obstacles"] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }

    // Where IceGrid has its own files of a node.
    grid.write("var/master/servers/Blitz-0/revision", "1");
    let (report, _) = check(&grid, 1);
    assert_eq!(findings(&report, "state").len(), 2, "{report:#}");
    // Without a certificate named at all there is only what no longer can be served.
    grid.run("config set omero.glacier2.IceSSL.CertFile").ok();
    let (report, _) = check(&grid, 1);
    assert!(obstacle(&report, "certificate").contains("anonymous"));
    // A port of which no number can be made, and a descriptor that is none.
    set(&grid, "omero.ports.prefix", "x");
    grid.write("etc/templates/grid/templates.xml", "<icegrid>");
    let (report, _) = check(&grid, 1);
    assert!(obstacle(&report, "port").contains("is no port"));
    assert!(obstacle(&report, "descriptor").contains("templates.xml"));
    grid.write("etc/grid/config.xml", "rubbish");
    let (report, _) = check(&grid, 1);
    assert!(obstacle(&report, "configuration").contains("config.xml"));
}

#[test]
fn only_what_somebody_changed_by_hand_is_warned_of() {
    let grid = site();
    let check = || grid.run("check etc/grid/default.xml").ok().stderr.clone();
    assert!(!check().contains("made anew"), "{}", check());
    let edited = generated(TEMPLATES).replace("KIND=blitz", "KIND=edited");
    grid.write("etc/grid/templates.xml", &edited);
    let warned = check();
    for part in [
        "templates.xml: is made anew from ",
        "<env>KIND=edited was added",
        "<env>KIND=blitz is missing",
    ] {
        assert!(warned.contains(part), "{part}: {warned}");
    }
    assert!(!warned.contains("default.xml: is made anew"), "{warned}");
}

#[test]
fn what_is_no_site_is_refused() {
    let grid = Grid::at("");
    grid.run("check --site .")
        .exits(4)
        .says(&["is no OMERO directory"]);
    grid.run("check").exits(2);
    grid.run("check --site . grid.xml").exits(2);
    assert_eq!(tree(grid.dir()), BTreeMap::new());
}
