//! The program under the name `omero` (DESIGN.md §5), and OMERO's configuration store.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::harness::{Done, Grid};

/// Runs `omero WORDS` in the grid's directory, with `bin/` of it first on the PATH.
#[track_caller]
fn omero(grid: &Grid, words: &str) -> crate::harness::Run {
    let mut command = Command::new(grid.path("bin/omero"));
    grid.hermetic(&mut command);
    command
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", grid.path("bin").display()),
        )
        .env("OMERODIR", grid.dir())
        .args(words.split_whitespace());
    grid.finish(&mut command, "")
}

fn shipped() -> Grid {
    let grid = Grid::shipped();
    std::fs::create_dir(grid.path("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_omero-grid"), grid.path("bin/omero")).unwrap();
    grid
}

#[test]
fn clustering_is_enabled_by_the_documented_two_commands() {
    let grid = shipped();
    grid.run("start descriptors/default.xml").ok();
    let master = grid.pid("Blitz-0");
    let early = grid.session();
    omero(
        &grid,
        "config set omero.cluster.redirector configRedirector",
    )
    .ok();
    omero(&grid, "node backup start").ok();
    assert_eq!(grid.pid("Blitz-0"), master, "nothing was restarted for it");
    let status = grid.status();
    assert_eq!(status["redirector"]["policy"], "configRedirector");
    assert_eq!(status["redirector"]["redirect"], "Blitz-0");
    grid.run("redirect set Blitz-1").ok();
    let new = grid.json("session create --user root --password-file var/root-password");
    assert_eq!(new["server"], "Blitz-1");
    assert_eq!(
        grid.json(&format!("session join {early}"))["server"],
        "Blitz-0"
    );
    grid.run("drain Blitz-0 --then stop --no-wait").ok();
    grid.run(&format!("session close {early}")).ok();
    grid.wait_server("Blitz-0", "to stop", |s| s["pid"].is_null());
    let file = std::fs::metadata(grid.path("etc/grid/config.xml")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    omero(&grid, "admin stop").ok();
    omero(&grid, "admin start descriptors/default.xml").ok();
    assert_eq!(grid.status()["redirector"]["policy"], "configRedirector");
}

#[test]
fn values_are_set_got_listed_and_taken_away() {
    let grid = shipped();
    let out = |done: Done| done.stdout;
    grid.run("config set omero.db.host db.lab").ok();
    grid.run_with("config set omero.db.pass -", "top\n").ok();
    assert_eq!(out(grid.run("config get omero.db.host").ok()), "db.lab\n");
    assert_eq!(
        out(grid.run("config get omero.db.pass").ok()),
        "top\n",
        "for scripts"
    );
    assert_eq!(
        out(grid.run("config list").ok()),
        "omero.db.host=db.lab\nomero.db.pass=********\n"
    );
    let all = out(grid.run("config get --show-password").ok());
    assert!(all.contains("omero.db.pass=top"), "{all}");
    grid.write("secret", "from file\n");
    grid.run("config set omero.db.pass @secret").ok();
    assert_eq!(
        out(grid.run("config get omero.db.pass").ok()),
        "from file\n"
    );
    grid.run("config set omero.db.pass").ok();
    assert_eq!(out(grid.run("config keys").ok()), "omero.db.host\n");
    assert!(out(grid.run("config path").ok()).ends_with("etc/grid/config.xml\n"));
    grid.run("config set a=b 1").exits(2).says(&["a=b"]);
    grid.write("etc/grid/config.xml", "<icegrid>");
    grid.run("config set a 1").exits(4).says(&["config.xml:1:"]);
    grid.run("config get a").exits(4);
    assert_eq!(grid.read("etc/grid/config.xml"), "<icegrid>");
}

#[test]
fn a_setting_that_the_grid_refuses_says_so_and_changes_nothing_that_runs() {
    let grid = shipped();
    grid.run("start descriptors/default.xml").ok();
    let pid = grid.pid("Blitz-0");
    grid.run("config set omero.cluster.redirector roundRobin")
        .exits(4)
        .says(&[
            "omero.cluster.redirector",
            "configRedirector",
            "goes on without it",
        ]);
    assert_eq!(grid.status()["redirector"]["policy"], "nullRedirector");
    assert_eq!(grid.pid("Blitz-0"), pid);
    grid.run("config set omero.cluster.redirector").ok();
    grid.run("reload").ok();
}

#[test]
fn what_is_not_ours_goes_to_the_next_omero_on_the_path() {
    let grid = shipped();
    omero(&grid, "login")
        .exits(2)
        .says(&["omero login", "config, node, admin"]);
    grid.write("next/omero", "#!/bin/sh\necho theirs \"$@\"\n");
    let program = grid.path("next/omero");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(grid.path("bin/omero"));
    grid.hermetic(&mut command);
    let path = format!(
        "{}:{}:/usr/bin:/bin",
        grid.path("bin").display(),
        grid.path("next").display()
    );
    command.env("PATH", path).args(["admin", "diagnostics"]);
    let done = grid.finish(&mut command, "").ok();
    assert_eq!(done.stdout, "theirs admin diagnostics\n");
}

#[test]
fn the_node_of_this_host_and_the_password_come_from_omeros_variables() {
    let mut grid = shipped();
    grid.set("OMERO_NODE", "backup");
    omero(&grid, "admin start descriptors/default.xml").ok();
    omero(&grid, "node start").ok();
    grid.wait("node backup", || {
        (grid.node("backup")?["state"] == "up").then_some(())
    });
    let password = grid.root_password();
    grid.set("OMERO_PASSWORD", password.trim());
    grid.run("session create --user root").ok();
    grid.set("OMERO_PASSWORD", "wrong");
    grid.run("session create --user root").exits(6);
}
