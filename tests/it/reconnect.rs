//! Commands whose master dies under them: what may be asked twice is asked of the next one (DESIGN.md §5).

use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::{Grid, application, blitz, kill, node, server};

/// Starts a command, with its output kept for [`Child::wait_with_output`].
fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the exit code of a command, what it printed and what it complained about.
fn ended(grid: &Grid, mut child: Child) -> (Option<i32>, String, String) {
    grid.wait("the command to end", || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Waits until a process waits for something itself.
fn wait_idle(grid: &Grid, pid: u32) {
    grid.wait("the command to wait", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.contains(") S ").then_some(())
    });
}

#[test]
fn a_login_whose_master_dies_goes_on_with_the_next_one() {
    let grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.start();
    let password = grid.root_password();
    let fifo = grid.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let args = [
        "session",
        "create",
        "--user",
        "root",
        "--password-file",
        "fifo",
    ];
    // The master dies once before the request is sent, and once while the Blitz owes the answer.
    for hangs in [false, true] {
        let master = grid.master_pid();
        let blitz = grid.pid("Blitz-0");
        if hangs {
            kill(blitz, Signal::SIGSTOP);
        }
        let login = spawn(&mut grid.command(&args));
        // It opens the file when it is connected.
        let mut typing = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        if !hangs {
            grid.kill9(master);
        }
        std::io::Write::write_all(&mut typing, password.as_bytes()).unwrap();
        drop(typing);
        if hangs {
            wait_idle(&grid, login.id());
            grid.kill9(master);
        }
        wait_idle(&grid, login.id());
        let mut start = spawn(&mut grid.command(&["start"]));
        kill(blitz, Signal::SIGCONT);
        grid.wait("the start to end", || start.try_wait().unwrap());
        let (code, uuid, complaints) = ended(&grid, login);
        assert_eq!(code, Some(0), "{complaints}");
        assert_eq!(grid.sessions(), [uuid.trim()]);
        grid.run(&format!("session close {}", uuid.trim())).ok();
    }
}

#[test]
fn whoever_follows_the_events_follows_them_through_the_death_of_a_master() {
    let grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.start();
    let follower = spawn(&mut grid.command(&["events", "--follow"]));
    wait_idle(&grid, follower.id());
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    grid.run("drain Blitz-0 --force").ok();
    grid.run("stop").ok();
    // A master that ends in order says so, or is gone already; none is waited for.
    let (code, printed, complaints) = ended(&grid, follower);
    assert!(matches!(code, Some(1 | 6)), "{code:?} {complaints}");
    assert!(complaints.contains("stop"), "{complaints}");
    assert!(printed.contains("drain Blitz-0"), "{printed}");
}

#[test]
fn a_command_that_may_not_be_repeated_says_that_its_outcome_is_unknown() {
    let stubborn = server("s", "/bin/sh")
        .attribute("deactivation-timeout", "30")
        .option("-c")
        .option("trap '' TERM; touch up; while :; do sleep 1; done");
    let grid = Grid::new(&application(&[node("n", &[stubborn])]));
    grid.start();
    grid.wait("the trap", || grid.path("up").exists().then_some(()));
    let stop = spawn(&mut grid.command(&["server", "s", "stop"]));
    grid.wait_server("s", "to be told", |s| s["state"] == "deactivating");
    grid.kill9(grid.master_pid());
    let (code, _, complaints) = ended(&grid, stop);
    assert_eq!(code, Some(1));
    for part in ["whether this was done is unknown", "omero-grid events"] {
        assert!(complaints.contains(part), "{complaints}");
    }
}
