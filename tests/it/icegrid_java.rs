//! A server of Ice in Java, and an icebox, beside a server in Python: what OMERO's own Blitz and its processors are.
//!
//! Skipped, and said so, where no Java compiler or Debian's libzeroc-ice-java is installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{Grid, Server, application, kill, node, server};
use crate::icegrid::{Caller, echo, grid, installed};

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
