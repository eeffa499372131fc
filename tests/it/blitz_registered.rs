//! A built-in Blitz as the registry and `icegridadmin` see it: an object of the ring, and an Ice server that can be administrated.
//!
//! Skipped, and said so, where Debian's python3-zeroc-ice, zeroc-glacier2 or zeroc-ice-utils is not installed, unless
//! `OMERO_GRID_REQUIRE_PEERS=1`.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::blitz_ice::{ask_until, client, grid, has_peers, locator, wait_for_adapters};
use crate::harness::Grid;
use crate::ice_peer::{Program, has};

fn uuid(grid: &Grid, server: &str) -> Option<String> {
    let status = grid.server(server)?;
    Some(status["blitz"]["uuid"].as_str()?.to_owned())
}

/// Waits until these are the Blitzes that the registry knows, and each answers.
#[track_caller]
fn wait_for_nodes(grid: &Grid, client: &mut Program, servers: &[&str]) {
    grid.wait(&format!("{servers:?} in the ring"), || {
        let mut uuids: Vec<String> = servers
            .iter()
            .map(|server| uuid(grid, server))
            .collect::<Option<_>>()?;
        uuids.sort();
        let expected = ["nodes".to_owned()].into_iter().chain(uuids);
        let expected: Vec<String> = expected.collect();
        (client.ask("nodes") == expected.join(" ")).then_some(())
    });
}

#[test]
fn a_blitz_is_in_the_ring_for_as_long_as_its_process_lives() {
    if !has_peers() {
        return;
    }
    let grid = grid(2, None, &[]);
    grid.start();
    let mut one = client("one", &locator(&grid));
    wait_for_nodes(&grid, &mut one, &["Blitz-0", "Blitz-1"]);
    let pid = grid.pid("Blitz-0");
    let before = uuid(&grid, "Blitz-0").unwrap();
    grid.kill9(pid);
    grid.wait_successor("Blitz-0", pid);
    wait_for_nodes(&grid, &mut one, &["Blitz-0", "Blitz-1"]);
    assert!(!one.ask("nodes").contains(&before));
    // Also where its node or the master goes, and while it may not be started again.
    grid.run("server Blitz-0 disable").ok();
    wait_for_nodes(&grid, &mut one, &["Blitz-0", "Blitz-1"]);
    grid.kill9(grid.node_pid("master"));
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    wait_for_nodes(&grid, &mut one, &["Blitz-0", "Blitz-1"]);
    grid.run("server Blitz-1 stop").ok();
    wait_for_nodes(&grid, &mut one, &["Blitz-0"]);
    // Dead and not to be started again, it is gone all the same.
    grid.kill9(grid.pid("Blitz-0"));
    wait_for_nodes(&grid, &mut one, &[]);
}

#[test]
fn a_blitz_follows_a_registry_that_listens_elsewhere_after_a_restart() {
    if !has_peers() {
        return;
    }
    let mut grid = grid(2, None, &[]);
    grid.start();
    let mut one = client("one", &locator(&grid));
    wait_for_adapters(&grid, &mut one, 2);
    let pids = ["Blitz-0", "Blitz-1"].map(|server| grid.pid(server));
    let before = locator(&grid);
    grid.kill9(grid.master_pid());
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let endpoints = format!("tcp -h 127.0.0.1 -p {port}");
    grid.set("OMERO_GRID_REGISTRY_ENDPOINTS", endpoints);
    grid.run("start").ok();
    assert_ne!(locator(&grid), before);
    assert_eq!(
        ["Blitz-0", "Blitz-1"].map(|server| grid.pid(server)),
        pids,
        "they went on"
    );
    // One that takes no sessions finds the other by the registry, wherever that is.
    grid.run("drain Blitz-0 --no-wait").ok();
    let mut two = client("two", &locator(&grid));
    wait_for_adapters(&grid, &mut two, 2);
    let password = grid.root_password().trim().to_owned();
    let check = format!("check Blitz-0.BlitzAdapter root {password}");
    ask_until(&grid, &mut two, &check, "checked True");
    let answer = two.ask("create Blitz-0.BlitzAdapter root");
    assert!(answer.starts_with("session "), "{answer}");
    let list = grid.json("session list");
    assert_eq!(list[0]["server"], "Blitz-1");
    // What is told at the end is told there too.
    grid.run("server Blitz-0 stop").ok();
    let gone = two.ask("check Blitz-0.BlitzAdapter root x");
    assert!(gone.starts_with("failed "), "{gone}");
}

fn icegridadmin(grid: &Grid, command: &str) -> Output {
    Command::new("icegridadmin")
        .arg(format!("--Ice.Default.Locator={}", locator(grid)))
        .args(["-u", "root", "-p", "x", "-e", command])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn says(grid: &Grid, command: &str) -> String {
    let done = icegridadmin(grid, command);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command}: {done:?}");
    text
}

#[test]
fn a_blitz_is_administrated_as_any_ice_server_and_keeps_its_secrets() {
    if !has_peers() || !has("icegridadmin", &["--version"]) {
        return;
    }
    let grid = grid(
        1,
        None,
        &[
            ("omero.db.pass", "hush"),
            ("omero.sessions.timeout", "600000"),
        ],
    );
    grid.start();
    grid.wait("its process to be registered", || {
        icegridadmin(&grid, "server properties Blitz-0")
            .status
            .success()
            .then_some(())
    });
    let all = says(&grid, "server properties Blitz-0");
    for line in [
        "omero.data.dir=var/data",
        "Ice.Admin.ServerId=Blitz-0",
        "omero.sessions.timeout=600000",
    ] {
        assert!(all.lines().any(|known| known == line), "{line} in {all}");
    }
    assert!(
        !all.contains("hush") && !all.contains("omero.db.pass"),
        "{all}"
    );
    let one = |name: &str| says(&grid, &format!("server property Blitz-0 {name}"));
    assert_eq!(one("omero.data.dir").trim_end(), "var/data");
    assert_eq!(one("omero.db.pass").trim_end(), "");
    // What it is told while it runs is what it shows.
    let changed = grid.read("grid.xml").replace("600000", "700000");
    grid.write("grid.xml", &changed);
    let pid = grid.pid("Blitz-0");
    grid.run("deploy grid.xml").ok();
    grid.wait("the changed property", || {
        (one("omero.sessions.timeout").trim_end() == "700000").then_some(())
    });
    assert_eq!(grid.pid("Blitz-0"), pid);

    says(&grid, "server stdout Blitz-0 'to the output'");
    says(&grid, "server stderr Blitz-0 'to the errors'");
    assert!(grid.read("var/log/Blitz-0.out").contains("to the output\n"));
    assert!(grid.read("var/log/Blitz-0.err").contains("to the errors\n"));

    // It ends as it did before, by whatever it is asked to, and its sessions go on.
    let session = grid.session();
    says(&grid, "server stop Blitz-0");
    let pid = grid.wait_successor("Blitz-0", pid);
    let heard = "asked to stop, over Ice";
    let logs = || grid.read("var/log/Blitz-0.out") + &grid.read("var/log/Blitz-0.err");
    assert!(logs().contains(heard), "{}", logs());
    grid.run("server Blitz-0 restart").ok();
    let pid = grid.wait_successor("Blitz-0", pid);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    grid.wait_successor("Blitz-0", pid);
    grid.wait("its session", || {
        (grid.sessions() == [session.clone()]).then_some(())
    });
    grid.run("drain Blitz-0 --then stop --no-wait --force").ok();
    grid.run(&format!("session close {session}")).ok();
    let stopped = grid.wait_state("Blitz-0", "inactive");
    assert_eq!(stopped["last_exit"]["code"], 0, "{stopped}");
    assert!(
        !icegridadmin(&grid, "server properties Blitz-0")
            .status
            .success()
    );
}
