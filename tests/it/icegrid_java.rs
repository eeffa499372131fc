//! A server of Ice in Java, and an icebox, beside a server in Python: what OMERO's own Blitz and its processors are.
//!
//! Skipped, and said so, where no Java compiler or Debian's libzeroc-ice-java is installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::blitz_ice;
use crate::harness::{Grid, Server, application, blitz, kill, node, server};
use crate::icegrid::{Caller, admin_ok, echo, grid, installed};

const JARS: [&str; 2] = [
    "/usr/share/java/ice-3.7.8.jar",
    "/usr/share/java/icebox-3.7.8.jar",
];

pub(crate) fn has_java() -> bool {
    let compiler = Command::new("javac").arg("-version").output();
    let there = compiler.is_ok_and(|done| done.status.success())
        && JARS.iter().all(|jar| Path::new(jar).exists());
    if !there {
        let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(
            !required,
            "a Java compiler or libzeroc-ice-java is not installed"
        );
        println!("skipped: a Java compiler or libzeroc-ice-java is not installed");
    }
    there
}

/// Compiles the program into a grid's directory.
pub(crate) fn compile(grid: &Grid) {
    let mut compiler = Command::new("javac");
    compiler
        .args(["-cp", &JARS.join(":"), "-d"])
        .arg(grid.dir())
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/peers/Hello.java"
        ));
    grid.finish(&mut compiler, "").ok();
}

pub(crate) fn java(id: &str, main: &str) -> Server {
    server(id, "/usr/bin/java")
        .attribute("activation-timeout", "60")
        .option("-Xshare:auto")
        .option("-XX:+UseSerialGC")
        .option("-Xmx64m")
        .option("-cp")
        .option(&format!("{}:.", JARS.join(":")))
        .option(main)
}

#[test]
fn a_java_server_an_icebox_and_a_python_server_run_side_by_side() {
    if !installed() || !has_java() {
        return;
    }
    let adapter = r#"<adapter name="Hello" endpoints="tcp -h 127.0.0.1"/>"#;
    let service = r#"<service name="Service" entry="Hello greeter"><adapter name="Service" endpoints="tcp -h 127.0.0.1"/></service>"#;
    let plain = java("Java", "Hello")
        .option("Hello")
        .option("hello")
        .within(adapter);
    let icebox = java("Box", "com.zeroc.IceBox.Server")
        .within(service)
        .icebox();
    let servers = [plain, icebox, echo("Python", "always", None)];
    let grid = grid(&application(&[node("n", &servers)]));
    compile(&grid);
    grid.start();
    let caller = Caller::new(&grid);
    caller.pings("hello @ Java.Hello");
    caller.pings("greeter @ Box.Service.Service");
    caller.pings("echo @ Python.Echo");
    let old = grid.pid("Java");
    kill(old, Signal::SIGKILL);
    grid.wait_successor("Java", old);
    caller.pings("hello @ Java.Hello");
    // A server waits for its clients to close their connections, as this one can only while it is at work.
    drop(caller);
    grid.run("server Java stop").ok();
    assert!(grid.read("var/log/Java.out").contains("asked to end"));
    grid.run("server Box stop").ok();
    assert!(
        grid.read("var/log/Box.out")
            .contains("service asked to end")
    );
}

/// What an OMERO site runs, in one descriptor: each finds another by the registry, comes back when it is killed, and ends when it is asked.
#[test]
fn what_a_site_runs_finds_each_other_comes_back_and_ends_when_asked() {
    if !installed() || !has_java() || !blitz_ice::has_peers() {
        return;
    }
    let port = blitz_ice::free_port();
    let listens = |name: &str| format!(r#"<adapter name="{name}" endpoints="tcp -h 127.0.0.1"/>"#);
    let service = format!(
        r#"<service name="Service" entry="Hello greeter"><properties><property name="Find" value="echo @ Python.Echo"/></properties>{}</service>"#,
        listens("Service")
    );
    let router = blitz_ice::routing(port);
    let router = router.iter().fold(
        server("Glacier2", blitz_ice::ROUTER),
        |router, (name, value)| router.property(name, value),
    );
    let servers = [
        blitz("Blitz-0").within(
            r#"<adapter name="BlitzAdapter" endpoints="tcp -h 127.0.0.1" replica-group="BlitzAdapters"/>"#,
        ),
        router,
        java("Java", "Hello")
            .option("Hello")
            .option("hello")
            .property("Find", "greeter @ Box.Service.Service")
            .within(&listens("Hello")),
        java("Box", "com.zeroc.IceBox.Server").within(&service).icebox(),
        echo("Python", "always", None).property("Find", "hello @ Java.Hello"),
    ];
    let all = ["Java", "Box", "Python", "Glacier2", "Blitz-0"];
    let mut grid = grid(&application(&[
        blitz_ice::GROUP.to_owned(),
        node("n", &servers),
    ]));
    grid.set("OMERO_GRID_REGISTRY_ENDPOINTS", "tcp -h 127.0.0.1 -p 0");
    compile(&grid);
    grid.start();
    let found = |times: usize| {
        grid.wait("each to find another", || {
            let says = |id: &str| {
                grid.read(&format!("var/log/{id}.out"))
                    .matches("found ")
                    .count()
            };
            let all = ["Java", "Box", "Python"];
            all.iter().all(|id| says(id) >= times).then_some(())
        });
    };
    let login = format!("login root {}", grid.root_password().trim());
    let at = format!("OMERO.Glacier2/router:tcp -h 127.0.0.1 -p {port}");
    let log_in = |name: &str| {
        let mut client = blitz_ice::client(name, &at);
        blitz_ice::ask_until(&grid, &mut client, &login, "session ");
        assert_eq!(client.ask("keep"), "kept True");
        assert_eq!(client.ask("destroy"), "destroyed");
    };
    found(1);
    log_in("before");

    for id in all {
        let old = grid.pid(id);
        kill(old, Signal::SIGKILL);
        grid.wait_successor(id, old);
        grid.wait_state(id, "active");
    }
    found(2);
    log_in("after");

    // Each has an admin object, by which it is asked to end.
    for id in all {
        admin_ok(&grid, &format!("server property {id} Ice.Default.Locator"));
    }
    for id in all {
        grid.run(&format!("server {id} stop")).ok();
        let exit = grid.server(id).unwrap()["last_exit"].clone();
        assert_eq!(exit["code"], 0, "{id}: {exit}");
    }
    let log = grid.read("var/log/node-n.log");
    assert!(!log.contains("did not hear that it is to end"), "{log}");
    for (id, says) in [
        ("Java", "asked to end"),
        ("Box", "service asked to end"),
        ("Python", "asked to end"),
    ] {
        assert!(
            grid.read(&format!("var/log/{id}.out")).contains(says),
            "{id}"
        );
    }
}
