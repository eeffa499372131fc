//! What a node does with its servers: readiness, order, restarts, stops, reasons in words (issue: supervision).

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    Grid, alive, application, blitz, example, kill, living, marked, node, server, sleeper,
};

fn grid_of(servers: &[crate::harness::Server]) -> Grid {
    Grid::new(&application(&[node("n", servers)]))
}

/// Waits until a server waits for its next try, and returns what the status says of it.
#[track_caller]
fn failing(grid: &Grid, id: &str) -> Value {
    let server = grid.wait_server(id, "to fail and be tried again", |s| {
        s["reason"].is_string() && s["next_start"].is_string()
    });
    assert_eq!(server["state"], "inactive");
    assert!(server["pid"].is_null());
    assert!(
        server["next_start"].as_str().unwrap().ends_with('Z'),
        "{server}"
    );
    server
}

/// Waits until a server has been tried more often than `than`.
#[track_caller]
fn tried_more(grid: &Grid, id: &str, than: u64) -> u64 {
    let server = grid.wait_server(id, "to be tried again", |s| {
        s["restarts"].as_u64() > Some(than)
    });
    server["restarts"].as_u64().unwrap()
}

#[test]
fn a_missing_program_is_said_and_heals() {
    let grid = grid_of(&[server("s", "./program")]);
    grid.run("start grid.xml --wait 1")
        .exits(5)
        .says(&[", cannot find the program './program'"]);
    let tries = tried_more(&grid, "s", 0);
    tried_more(&grid, "s", tries);
    assert_eq!(
        failing(&grid, "s")["reason"],
        "cannot find the program './program'"
    );
    let path = grid.path("program");
    // Complete before it has its name.
    grid.write("program.new", "#!/bin/sh\nexec sleep 3600\n");
    std::fs::set_permissions(grid.path("program.new"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(grid.path("program.new"), path).unwrap();
    grid.wait_state("s", "active");
}

#[test]
fn a_program_that_is_not_executable_is_said_and_heals() {
    let grid = grid_of(&[server("s", "./program")]);
    grid.write("program", "#!/bin/sh\nexec sleep 3600\n");
    grid.run("start grid.xml --wait 1").exits(5);
    let reason = failing(&grid, "s")["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("cannot execute") && reason.contains("Permission denied"),
        "{reason}"
    );
    std::fs::set_permissions(grid.path("program"), PermissionsExt::from_mode(0o755)).unwrap();
    grid.wait_state("s", "active");
}

#[test]
fn a_server_that_dies_at_once_is_tried_for_ever_and_shows_its_last_words() {
    let script = "echo first; echo 'no licence found' >&2; exit 3";
    let dying = server("s", "/bin/sh")
        .option("-c")
        .option(script)
        // On a busy machine it lives for longer than the 20 ms after which it would count as active.
        .property("omero.grid.ready", "30000");
    let grid = grid_of(&[dying]);
    grid.run("start grid.xml --wait 1")
        .exits(5)
        .says(&[", exited with code 3", "| no licence found"]);
    let tries = tried_more(&grid, "s", 1);
    tried_more(&grid, "s", tries);
    let server = failing(&grid, "s");
    assert_eq!(server["reason"], "exited with code 3");
    assert_eq!(
        server["last_lines"],
        serde_json::json!(["no licence found"])
    );
    assert_eq!(server["last_exit"]["code"], 3);
    assert_eq!(server["enabled"], true);
    grid.wait("the page to say so, anything wrong first", || {
        let page = grid.run("status").ok().stdout;
        page.contains("✗ s: inactive, exited with code 3; next try")
            .then_some(())
    });
}

#[test]
fn a_server_that_is_killed_says_by_what() {
    let grid = grid_of(&[sleeper("s")]);
    grid.start();
    let pid = grid.pid("s");
    kill(pid, Signal::SIGKILL);
    let after = grid.wait_successor("s", pid);
    let server = grid.server("s").unwrap();
    assert_eq!(server["reason"], "ended by signal SIGKILL");
    assert_eq!(server["last_exit"]["signal"], 9);
    assert_eq!(server["restarts"], 1);
    assert!(alive(after));
}

#[test]
fn a_server_that_fails_for_its_first_seconds_becomes_active_by_itself() {
    let crashes = server("s", &example("crashes"))
        .option("since")
        .option("1")
        .option("seconds")
        .option("3")
        .property("omero.grid.ready", "2000");
    let grid = grid_of(&[crashes]);
    grid.run("start grid.xml --wait 0").exits(5);
    assert_eq!(failing(&grid, "s")["reason"], "exited with code 1");
    let server = grid.wait_state("s", "active");
    assert!(server["restarts"].as_u64() >= Some(2), "{server}");
    grid.run("status --check").ok();
}

#[test]
fn a_server_that_is_never_ready_is_stopped_and_tried_again() {
    let never = sleeper("s")
        .property("omero.grid.ready", "notify")
        .attribute("activation-timeout", "1");
    let grid = grid_of(&[never]);
    let run = grid.run("start grid.xml --wait 3").exits(5);
    assert!(run.stderr.contains("s: "), "{run:?}");
    assert_eq!(
        failing(&grid, "s")["reason"],
        "not ready within its activation timeout of 1s"
    );
    let tries = tried_more(&grid, "s", 0);
    tried_more(&grid, "s", tries);
    assert!(marked(grid.dir(), "s").len() <= 1);
}

#[test]
fn spawned_is_not_ready() {
    let script = format!(
        "while ! test -e gate; do sleep 0.02; done; exec {} 0",
        example("slow_ready")
    );
    let slow = server("s", "/bin/sh")
        .option("-c")
        .option(&script)
        .property("omero.grid.ready", "notify");
    let grid = grid_of(&[slow]);
    grid.run("start grid.xml --wait 1")
        .exits(5)
        .says(&["s: activating"]);
    let pid = grid.pid("s");
    grid.write("gate", "");
    let server = grid.wait_state("s", "active");
    assert_eq!(server["pid"], pid);
    assert_eq!(server["restarts"], 0);
}

#[test]
fn a_server_that_ignores_term_is_killed_at_its_deactivation_timeout() {
    let stubborn = server("s", &example("ignores_term")).attribute("deactivation-timeout", "1");
    let grid = grid_of(&[stubborn, sleeper("t")]);
    grid.start();
    let pid = grid.pid("s");
    // It has installed its handler when it says so.
    grid.wait("the handler", || {
        grid.read("var/log/s.out").contains("ignores").then_some(())
    });
    kill(pid, Signal::SIGTERM);
    grid.run("server s stop").ok();
    assert!(!alive(pid));
    let server = grid.server("s").unwrap();
    assert_eq!(server["state"], "inactive");
    assert_eq!(server["last_exit"]["signal"], 9);
    grid.run("server s start").ok();
    grid.run("stop").ok();
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn nothing_survives_the_stop_of_a_server_that_leaks_a_child() {
    let leaker = server("s", &example("leaks_child")).option("leaked.pid");
    let grid = grid_of(&[leaker]);
    grid.start();
    let leaked = || -> u32 {
        grid.wait("the grandchild", || {
            grid.read("leaked.pid").trim().parse().ok()
        })
    };
    let first = leaked();
    assert!(alive(first));
    grid.run("server s stop").ok();
    assert!(!alive(first));
    assert_eq!(marked(grid.dir(), "s"), []);
    // Neither does it survive the server's own death, although nobody asked for a stop.
    std::fs::remove_file(grid.path("leaked.pid")).unwrap();
    grid.run("server s start").ok();
    let second = leaked();
    let pid = grid.pid("s");
    std::fs::remove_file(grid.path("leaked.pid")).unwrap();
    grid.kill9(pid);
    grid.wait_successor("s", pid);
    assert!(!alive(second));
    // Nor an adoption in between.
    let third = leaked();
    grid.replace_node("n");
    assert!(alive(third));
    grid.run("server s stop").ok();
    assert!(!alive(third));
    assert_eq!(marked(grid.dir(), "s"), []);
}

#[test]
fn a_disabled_server_runs_on_and_is_not_started_again() {
    let grid = grid_of(&[sleeper("s")]);
    grid.start();
    let pid = grid.pid("s");
    let run = grid.run("server s disable").ok();
    assert!(run.stdout.contains("runs on"), "{run:?}");
    assert!(alive(pid));
    grid.kill9(pid);
    let server = grid.wait_state("s", "inactive");
    assert!(
        server["next_start"].is_null() && server["pid"].is_null(),
        "{server}"
    );
    grid.run("server s start").exits(6);
    grid.run("server enable s").ok();
    grid.wait_state("s", "active");
}

#[test]
fn a_stop_is_stronger_than_always() {
    let grid = grid_of(&[sleeper("s")]);
    grid.start();
    let pid = grid.pid("s");
    grid.run("server s stop").ok();
    assert!(!alive(pid));
    let server = grid.server("s").unwrap();
    assert_eq!(
        (&server["state"], &server["next_start"]),
        (&"inactive".into(), &Value::Null)
    );
    // A stop by command is nothing wrong.
    grid.run("status --check").ok();
    grid.run("node n restart").ok();
    assert_eq!(grid.server("s").unwrap()["state"], "inactive");
    grid.run("server s enable").ok();
    grid.wait_state("s", "active");
}

#[test]
fn a_manual_server_waits_for_its_command() {
    let work = "trap 'exit 0' TERM; while ! test -e done; do sleep 0.05; done";
    let manual = server("s", "/bin/sh")
        .option("-c")
        .option(work)
        .attribute("activation", "manual");
    let grid = grid_of(&[manual]);
    grid.start();
    assert_eq!(grid.server("s").unwrap()["state"], "inactive");
    grid.run("server s start").ok();
    let pid = grid.pid("s");
    // It failed: it is wanted, so it is tried again.
    grid.kill9(pid);
    grid.wait_successor("s", pid);
    // It has done its work.
    grid.write("done", "");
    let server = grid.wait_state("s", "inactive");
    assert_eq!(server["last_exit"]["code"], 0);
    assert!(server["next_start"].is_null(), "{server}");
}

#[test]
fn an_on_demand_blitz_is_started_by_a_session() {
    let grid = grid_of(&[
        blitz("Blitz-0").attribute("activation", "on-demand"),
        sleeper("s"),
    ]);
    grid.start();
    assert_eq!(grid.server("Blitz-0").unwrap()["state"], "inactive");
    assert_eq!(marked(grid.dir(), "Blitz-0"), []);
    let session = grid.session();
    assert_eq!(grid.server("Blitz-0").unwrap()["state"], "active");
    assert_eq!(grid.sessions(), [session]);
}

#[test]
fn servers_start_after_those_that_they_name_and_stop_before_them() {
    let traced = |id: &str, ready: &str| {
        let script = format!(
            "trap 'echo -{id} >>order; exit 0' TERM; echo +{id} >>order; while :; do sleep 0.02; done"
        );
        server(id, "/bin/sh")
            .option("-c")
            .option(&script)
            .property("omero.grid.ready", ready)
    };
    // Named in an order that is not that of the descriptor.
    let grid = grid_of(&[
        traced("c", "20").property("omero.grid.after", "a, b"),
        traced("b", "300").property("omero.grid.after", "a"),
        traced("a", "300"),
    ]);
    grid.start();
    assert_eq!(grid.read("order"), "+a\n+b\n+c\n");
    grid.run("stop").ok();
    assert_eq!(grid.read("order"), "+a\n+b\n+c\n-c\n-b\n-a\n");
}

#[test]
fn a_server_waits_in_words_for_the_one_that_it_names() {
    let late = server("a", "/bin/sh")
        .option("-c")
        .option("test -e well || exit 1; exec sleep 3600");
    let grid = grid_of(&[late, sleeper("b").property("omero.grid.after", "a")]);
    grid.run("start grid.xml --wait 1")
        .exits(5)
        .says(&["b: inactive, waiting for a"]);
    assert_eq!(grid.server("b").unwrap()["waiting_for"], "a to be active");
    assert_eq!(marked(grid.dir(), "b"), []);
    grid.write("well", "");
    grid.wait_state("b", "active");
}

#[test]
fn a_server_gets_what_its_definition_says() {
    let script = "pwd; umask; echo \"$GREETING\"; echo \"[$NOTIFY_SOCKET]\" | cut -c1-12; \
                  echo \"[$WATCHDOG_USEC$LISTEN_FDS$MAINPID]\"; ls /proc/self/fd | tr '\\n' ' '; echo; \
                  for last; do :; done; echo \"$last\"; cat \"${last#--Ice.Config=}\" | grep colour; exec sleep 3600";
    // The descriptor's own `${}` would be substituted.
    let script = script.replace(
        "${last#--Ice.Config=}",
        "`echo $last | sed s/--Ice.Config=//`",
    );
    let definition = server("s", "/bin/sh")
        .option("-c")
        .option(&script)
        .option("sh")
        .attribute("pwd", "work")
        .env("GREETING=hello $NAME")
        .property("colour", "blue");
    let mut grid = grid_of(&[definition]);
    std::fs::create_dir(grid.path("work")).unwrap();
    for (name, value) in [
        ("NAME", "world"),
        ("WATCHDOG_USEC", "1"),
        ("LISTEN_FDS", "1"),
        ("MAINPID", "1"),
    ] {
        grid.set(name, value);
    }
    grid.start();
    let config = grid.path("var/n/servers/s/config/config");
    grid.wait("the server's words", || {
        grid.read("var/log/s.out").contains("colour").then_some(())
    });
    let out = grid.read("var/log/s.out");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], grid.path("work").to_str().unwrap());
    assert_eq!(lines[2], "hello world");
    assert_eq!(lines[3], "[@omero-grid");
    assert_eq!(lines[4], "[]");
    // The fourth is the directory that is being listed.
    assert_eq!(lines[5].trim(), "0 1 2 3");
    assert_eq!(lines[6], format!("--Ice.Config={}", config.display()));
    assert_eq!(lines[7], "colour=blue");
    let mode = std::fs::metadata(config).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_signal_reaches_its_server() {
    let script = "trap 'echo hup' HUP; echo up; while :; do sleep 0.02; done";
    let grid = grid_of(&[server("s", "/bin/sh").option("-c").option(script)]);
    grid.start();
    grid.wait("the trap", || {
        grid.read("var/log/s.out").contains("up").then_some(())
    });
    grid.run("server s signal HUP").ok();
    grid.wait("the signal", || {
        grid.read("var/log/s.out").contains("hup").then_some(())
    });
    grid.run("server s signal NOSUCH").exits(2);
}

#[test]
fn a_broken_server_does_not_hold_up_the_others() {
    let broken = server("broken", "/nowhere/at/all");
    let never = sleeper("never").property("omero.grid.ready", "notify");
    let grid = grid_of(&[broken, never, sleeper("s"), blitz("Blitz-0")]);
    grid.run("start grid.xml --wait 0").exits(5);
    grid.wait_state("s", "active");
    grid.wait_server("Blitz-0", "to accept", |s| s["blitz"]["accepting"] == "yes");
    assert!(!grid.session().is_empty());
}

#[test]
fn a_stop_that_takes_too_long_goes_on() {
    let stubborn = server("s", &example("ignores_term")).attribute("deactivation-timeout", "3");
    let grid = grid_of(&[stubborn]);
    grid.start();
    grid.wait("the handler", || {
        grid.read("var/log/s.out").contains("ignores").then_some(())
    });
    let (master, pid) = (grid.master_pid(), grid.pid("s"));
    grid.run("stop --wait 1")
        .exits(5)
        .says(&["has not stopped yet"]);
    assert!(alive(pid));
    let status = grid.status();
    assert_eq!(status["stopping"], true);
    for start in ["server s start", "node n start"] {
        grid.run(start).exits(6).says(&["the grid is stopping"]);
    }
    grid.wait_gone(master);
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn a_server_runs_as_the_user_that_it_names() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let as_nobody = server("s", "/bin/sh")
        .option("-c")
        .option("id -u; id -G; cat \"$1\"; exec sleep 3600")
        .option("sh")
        .option("var/n/servers/s/config/config")
        .property("colour", "blue")
        .attribute("user", "nobody");
    let grid = grid_of(&[as_nobody]);
    std::fs::set_permissions(grid.dir(), PermissionsExt::from_mode(0o755)).unwrap();
    grid.start();
    // Its own configuration it may read.
    grid.wait("its words", || {
        grid.read("var/log/s.out")
            .contains("colour=blue")
            .then_some(())
    });
    assert!(
        grid.read("var/log/s.out").starts_with("65534\n65534\n"),
        "{}",
        grid.report()
    );
    let pid = grid.pid("s");
    // Another node adopts it although it is another user's, and ends it.
    grid.replace_node("n");
    assert_eq!(grid.pid("s"), pid);
    grid.run("server s stop").ok();
    assert!(!alive(pid));
    let unknown = sleeper("s").attribute("user", "no-such-user-here");
    grid.write("grid.xml", &application(&[node("n", &[unknown])]));
    grid.run("reload").ok();
    grid.run("server s start")
        .exits(1)
        .says(&["there is no user"]);
    let reason = failing(&grid, "s")["reason"].clone();
    assert!(
        reason
            .as_str()
            .unwrap()
            .contains("no user 'no-such-user-here'"),
        "{reason}"
    );
}

#[test]
fn status_is_watched_and_logs_are_followed() {
    let grid = grid_of(&[server("s", &example("ticker"))]);
    grid.start();
    let follow = |words: &[&str], file: &str| {
        let out = std::fs::File::create(grid.path(file)).unwrap();
        let mut command = grid.command(words);
        command
            .stdin(std::process::Stdio::null())
            .stdout(out)
            .spawn()
            .unwrap()
    };
    let mut watching = follow(&["status", "--watch"], "watched");
    let mut following = follow(&["logs", "s", "--follow", "-n", "0"], "followed");
    grid.wait("the first page", || {
        grid.read("watched").contains("active").then_some(())
    });
    grid.wait("new lines", || {
        (grid.read("followed").lines().count() > 5).then_some(())
    });
    grid.run("server s stop").ok();
    grid.wait("the next page", || {
        grid.read("watched")
            .contains("stopped by command")
            .then_some(())
    });
    for child in [&mut watching, &mut following] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let out = grid.read("var/log/s.out");
    let last: Vec<&str> = out.lines().rev().take(2).collect();
    let shown = grid.run("logs s -n 2").ok().stdout;
    // A line before them says which of its two files it is.
    assert!(
        shown.ends_with(&format!("<==\n{}\n{}\n", last[1], last[0])),
        "{shown}"
    );
    let list = grid.json("server list");
    assert_eq!(
        (&list[0]["id"], &list[0]["node"], &list[0]["state"]),
        (&"s".into(), &"n".into(), &"inactive".into())
    );
}
