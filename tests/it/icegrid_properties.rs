//! Ice servers that are told of properties while they run, because a deploy was to restart nothing.

use std::process::Stdio;

use crate::harness::{Grid, Server, application, node, sleeper};
use crate::icegrid::{admin, admin_ok, echo, grid, installed};
use crate::icegrid_java::{compile, has_java, java};

/// Writes a descriptor of these servers under a name.
fn describe(grid: &Grid, name: &str, servers: &[Server]) {
    grid.write(name, &application(&[node("n", servers)]));
}

fn value(grid: &Grid, server: &str, property: &str) -> String {
    admin_ok(grid, &format!("server property {server} {property}"))
}

#[test]
fn properties_reach_a_running_server_and_nothing_is_restarted() {
    if !installed() {
        return;
    }
    let a = || echo("A", "always", None);
    let first = [
        a().property("Say", "one").property("Gone", "soon"),
        sleeper("Plain"),
    ];
    let grid = grid(&application(&[node("n", &first)]));
    grid.start();
    let (pid, plain) = (grid.pid("A"), grid.pid("Plain"));
    assert_eq!(value(&grid, "A", "Say"), "one\n");

    let second = [a().property("Say", "two # \\ words"), sleeper("Plain")];
    describe(&grid, "second.xml", &second);
    let plan = grid.json("deploy second.xml --no-restart --dry-run");
    assert_eq!(plan["changes"][0]["effect"], "told");
    assert_eq!(value(&grid, "A", "Say"), "one\n");
    let done = grid.run("deploy second.xml --no-restart").ok();
    assert!(done.stdout.contains("told"), "{}", done.stdout);
    // It has them when the deploy returns.
    assert_eq!(value(&grid, "A", "Say"), "two # \\ words\n");
    assert_eq!(value(&grid, "A", "Gone"), "\n");
    let config = grid.read("var/n/servers/A/config/config");
    assert!(
        config.contains("Say=two \\# \\\\ words") && !config.contains("Gone"),
        "{config}"
    );

    // Whoever follows node and master has nothing to tell and nothing to restart.
    grid.replace_node("n");
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    grid.wait_state("A", "active");
    assert_eq!(grid.pid("A"), pid);

    // Debian's icegridadmin means the same by `-n`.
    let third = [a().property("Say", "three"), sleeper("Plain")];
    describe(&grid, "third.xml", &third);
    admin_ok(&grid, "application update -n third.xml");
    assert_eq!(value(&grid, "A", "Say"), "three\n");

    // What cannot be told is refused as a whole: another option, and properties of what speaks no Ice.
    let refused = "would need to be stopped";
    let option = [
        a().property("Say", "four").option("--more"),
        sleeper("Plain"),
    ];
    describe(&grid, "option.xml", &option);
    grid.run("deploy option.xml --no-restart")
        .exits(6)
        .says(&["the server `A'", refused]);
    let (code, text) = admin(&grid, "application update -n option.xml");
    assert!(code == 1 && text.contains(refused), "{text}");
    let mute = [
        a().property("Say", "four"),
        sleeper("Plain").property("x", "y"),
    ];
    describe(&grid, "mute.xml", &mute);
    grid.run("deploy mute.xml --no-restart")
        .exits(6)
        .says(&["the server `Plain'", refused]);
    assert_eq!(value(&grid, "A", "Say"), "three\n");
    assert_eq!((grid.pid("A"), grid.pid("Plain")), (pid, plain));

    // Without the option they are restarted, as ever.
    grid.run("deploy mute.xml").ok();
    grid.wait_successor("A", pid);
    grid.wait_state("A", "active");
    assert_eq!(value(&grid, "A", "Say"), "four\n");
}

#[test]
fn a_server_that_cannot_be_told_is_said_to_be_outdated() {
    if !installed() {
        return;
    }
    // Of its admin object it serves only what it is stopped by.
    let deaf = |say: &str| {
        echo("Deaf", "always", None)
            .property("Ice.Admin.Facets", "Process")
            .property("Say", say)
    };
    let grid = grid(&application(&[node("n", &[deaf("one")])]));
    grid.start();
    let pid = grid.pid("Deaf");
    describe(&grid, "second.xml", &[deaf("two")]);
    grid.run("deploy second.xml --no-restart").exits(1).says(&[
        "Deaf goes on with older values",
        "facet",
        "omero-grid server Deaf restart",
    ]);
    assert_eq!(grid.pid("Deaf"), pid);
    assert_eq!(grid.server("Deaf").unwrap()["outdated"], true);
    // The next node tries again, and does no more than that.
    grid.replace_node("n");
    grid.wait_server("Deaf", "outdated again", |deaf| deaf["outdated"] == true);
    assert_eq!(grid.pid("Deaf"), pid);
    grid.run("restart --rolling --outdated").ok();
    grid.wait_successor("Deaf", pid);
    grid.wait_server("Deaf", "up to date", |deaf| deaf["outdated"] == false);
}

#[test]
fn a_server_hears_of_its_properties_although_its_node_is_killed_meanwhile() {
    if !installed() {
        return;
    }
    let a = |say: &str| {
        let a = echo("A", "always", None);
        a.property("Say", say).property("Hold", "go")
    };
    let grid = grid(&application(&[node("n", &[a("one")])]));
    grid.start();
    let pid = grid.pid("A");
    describe(&grid, "second.xml", &[a("two")]);
    let mut deploy = grid
        .command(&["deploy", "second.xml", "--no-restart"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    grid.wait("the server to be asked", || {
        let said = grid.read("var/log/A.out");
        said.contains("asked to take up").then_some(())
    });
    grid.kill9(grid.node_pid("n"));
    grid.write("go", "");
    deploy.wait().unwrap();
    grid.wait("the value", || {
        (grid.node("n")?["state"] == "up").then_some(())?;
        let (code, text) = admin(&grid, "server property A Say");
        (code == 0 && text == "two\n").then_some(())
    });
    assert_eq!(grid.pid("A"), pid);
}

#[test]
fn the_services_of_an_icebox_are_told_too() {
    if !installed() || !has_java() {
        return;
    }
    let icebox = |say: &str| {
        let service = format!(
            r#"<service name="Service" entry="Hello greeter"><properties><property name="Say" value="{say}"/></properties><adapter name="Service" endpoints="tcp -h 127.0.0.1"/></service>"#
        );
        java("Box", "com.zeroc.IceBox.Server")
            .within(&service)
            .icebox()
    };
    let grid = grid(&application(&[node("n", &[icebox("one")])]));
    compile(&grid);
    grid.start();
    let pid = grid.pid("Box");
    let value = || admin_ok(&grid, "service property Box Service Say");
    assert_eq!(value(), "one\n");
    describe(&grid, "second.xml", &[icebox("two")]);
    grid.run("deploy second.xml --no-restart").ok();
    assert_eq!(value(), "two\n");
    assert_eq!(grid.pid("Box"), pid);
}
