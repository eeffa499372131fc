//! What the list of events says: who was refused what, and what became of servers and their sessions (DESIGN.md §5).

use serde_json::Value;

use crate::harness::{Grid, application, blitz, node, server, sleeper};

/// Returns the events of a kind about a subject.
fn events(grid: &Grid, kind: &str, subject: &str) -> Vec<Value> {
    let events = grid.json(&format!("events --lines 1000 --kind {kind}"));
    let events = events.as_array().unwrap().iter();
    let about = events.filter(|event| event["subject"] == subject);
    about.cloned().collect()
}

fn texts(grid: &Grid, kind: &str, subject: &str) -> Vec<String> {
    let events = events(grid, kind, subject);
    let text = |event: &Value| event["text"].as_str().unwrap().to_owned();
    events.iter().map(text).collect()
}

#[test]
fn a_blitz_that_crashed_and_came_back_with_its_sessions_is_noted() {
    let grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.start();
    for _ in 0..2 {
        grid.session();
    }
    assert_eq!(events(&grid, "server", "Blitz-0"), [Value::Null; 0]);
    let old = grid.pid("Blitz-0");
    grid.kill9(old);
    grid.wait_successor("Blitz-0", old);
    grid.wait("the note of its sessions", || {
        let last = texts(&grid, "server", "Blitz-0").pop()?;
        (last == "took up 2 sessions of the process before").then_some(())
    });
    let noted = events(&grid, "server", "Blitz-0");
    assert_eq!(noted[0]["text"], "failed: ended by signal SIGKILL");
    assert_eq!(noted[1]["text"], "is back");
    assert_eq!(noted.len(), 3);
    for event in &noted {
        assert!(event["uid"].is_null() && event["at"].is_string(), "{event}");
    }
    let listed = grid.run("events").ok().stdout;
    assert!(listed.contains("Blitz-0: took up 2 sessions"), "{listed}");
    // Another master does not note again what it finds.
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    assert_eq!(events(&grid, "server", "Blitz-0"), noted);
}

#[test]
fn a_server_that_is_not_ready_in_time_is_noted() {
    let slow = sleeper("slow")
        .attribute("activation-timeout", "1")
        .property("omero.grid.ready", "notify");
    let grid = Grid::new(&application(&[node("n", &[slow])]));
    grid.run("start grid.xml --wait 2").exits(5);
    grid.wait("the note", || {
        let texts = texts(&grid, "server", "slow");
        let first = texts.first()?;
        assert!(first.contains("not ready within"), "{first}");
        Some(())
    });
}

#[test]
fn a_crash_loop_is_noted_once() {
    let broken = server("broken", "/bin/sh").option("-c").option("exit 3");
    let grid = Grid::new(&application(&[node("n", &[broken, sleeper("s")])]));
    let _ = grid.run("start grid.xml --wait 1").status;
    grid.wait_server("broken", "to have been tried again and again", |s| {
        s["restarts"].as_u64() >= Some(4)
    });
    let noted = texts(&grid, "server", "broken");
    let failed = noted
        .iter()
        .filter(|text| text.contains("exited with code 3"));
    assert_eq!(failed.count(), 1, "{noted:?}");
    assert!(noted.len() <= 2, "{noted:?}");
}

#[test]
fn a_refused_command_is_noted_with_who_asked_and_why() {
    let grid = Grid::new(&application(&[node(
        "n",
        &[blitz("Blitz-0"), blitz("Blitz-1")],
    )]));
    grid.start();
    // A script that asks again and again is noted once.
    for _ in 0..3 {
        grid.run("drain Blitz-0 Blitz-1 --no-wait").exits(6);
    }
    grid.run("server nobody start").exits(3);
    // Questions and logins are no commands.
    grid.run_with("session create --user nobody --password-file -", "wrong")
        .exits(6);
    grid.run("drain Blitz-0 Blitz-1 --plan").ok();
    let noted = events(&grid, "refused", "");
    assert_eq!(noted.len(), 2, "{noted:?}");
    let text = noted[0]["text"].as_str().unwrap();
    assert!(text.starts_with("drain Blitz-0 Blitz-1: "), "{text}");
    assert!(text.contains("nobody would be left"), "{text}");
    let uid = nix::unistd::geteuid().as_raw();
    assert_eq!(noted[0]["uid"], uid);
    let text = noted[1]["text"].as_str().unwrap();
    assert_eq!(text, "server nobody start: there is no server 'nobody'");
}
