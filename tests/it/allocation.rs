//! Where new sessions go (DESIGN.md §7).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Grid, Server, application, blitz, node};

/// Two Blitzes with these properties.
fn two(properties: &[(&str, &str)]) -> Grid {
    let with = |id: &str| -> Server {
        let with = |server: Server, (name, value): &(&str, &str)| server.property(name, value);
        properties.iter().fold(blitz(id), with)
    };
    let servers = [with("Blitz-0"), with("Blitz-1")];
    let grid = Grid::new(&application(&[node("n", &servers)]));
    grid.start();
    grid
}

fn created(grid: &Grid) -> Value {
    grid.json("session create --user root --password-file var/root-password")
}

fn redirect(grid: &Grid) -> Value {
    grid.status()["redirector"]["redirect"].clone()
}

/// Returns the texts of the events of a kind.
fn events(grid: &Grid, kind: &str) -> Vec<String> {
    let events = grid.json(&format!("events -n 1000 --kind {kind}"));
    let text = |event: &Value| event["text"].as_str().unwrap().to_owned();
    events.as_array().unwrap().iter().map(text).collect()
}

#[test]
fn the_redirect_takes_new_sessions_and_moves_for_a_reason() {
    let grid = two(&[("omero.cluster.redirector", "configRedirector")]);
    let status = grid.status();
    assert_eq!(status["redirector"]["policy"], "configRedirector");
    grid.wait("the redirect to be set", || {
        redirect(&grid).as_str().map(str::to_owned)
    });
    grid.run("redirect set Blitz-0").ok();
    for _ in 0..3 {
        assert_eq!(created(&grid)["server"], "Blitz-0");
    }
    grid.run("redirect set Blitz-7").exits(3).says(&["Blitz-7"]);
    grid.run("redirect set Blitz-1 --if-unset")
        .exits(6)
        .says(&["Blitz-0"]);
    grid.run("redirect clear --if Blitz-1").exits(6);
    let uuid = grid.server("Blitz-1").unwrap()["blitz"]["uuid"].clone();
    grid.run(&format!("redirect set {}", uuid.as_str().unwrap()))
        .ok();
    assert_eq!(created(&grid)["server"], "Blitz-1");
    // What was opened before stays where it is.
    assert_eq!(grid.server("Blitz-0").unwrap()["blitz"]["sessions"], 3);

    // A drain moves it at once.
    grid.run("drain Blitz-1 --no-wait").ok();
    assert_eq!(created(&grid)["server"], "Blitz-0");
    let moves = events(&grid, "redirect");
    assert!(
        moves
            .last()
            .unwrap()
            .contains("from Blitz-1 to Blitz-0: Blitz-1 is being drained"),
        "{moves:?}"
    );
    grid.run("redirect set Blitz-1").exits(6).says(&["drained"]);

    // It survives the master, and a crash of its Blitz does not move it before that is back.
    grid.run("undrain Blitz-1").ok();
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    assert_eq!(redirect(&grid), "Blitz-0");
    let old = grid.pid("Blitz-0");
    grid.kill9(old);
    assert_eq!(created(&grid)["server"], "Blitz-0", "it is waited for");
    grid.wait_successor("Blitz-0", old);
    assert_eq!(events(&grid, "redirect").len(), moves.len());
    grid.run("server Blitz-0 stop").ok();
    assert_eq!(created(&grid)["server"], "Blitz-1");
}

#[test]
fn the_scale_redirector_spreads() {
    let grid = two(&[("omero.cluster.redirector", "scaleRedirector")]);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..20 {
        let server = created(&grid)["server"].as_str().unwrap().to_owned();
        *counts.entry(server).or_default() += 1;
    }
    // The count of a Blitz may come a moment later than its answer.
    assert!(
        counts.len() == 2 && counts.values().all(|n| (8..=12).contains(n)),
        "{counts:?}"
    );
}

#[test]
fn a_route_leads_its_sessions_and_no_others() {
    let grid = two(&[("omero.grid.route.1", "agent=web* -> Blitz-1")]);
    let web = "session create --user root --password-file var/root-password --agent web-5";
    for _ in 0..4 {
        assert_eq!(grid.json(web)["server"], "Blitz-1");
    }
    assert_eq!(created(&grid)["server"], "Blitz-0", "the less loaded");
    let test = grid.json("route test --user anybody --agent web");
    assert_eq!(test["server"], "Blitz-1");
    let text = grid.run("route test --agent web").ok().stdout;
    assert!(text.contains("route 1 (agent=web* -> Blitz-1)"), "{text}");
    assert!(grid.run("route list").ok().stdout.contains("agent=web*"));
}

#[test]
fn what_says_nothing_about_sessions_is_refused_with_its_name() {
    for (name, value) in [
        ("omero.cluster.redirector", "roundRobin"),
        ("omero.grid.route.1", "user=public"),
        ("omero.grid.route.x", "* -> Blitz-0"),
        ("omero.grid.weight", "-1"),
        ("omero.grid.sessions.max", "many"),
        ("omero.grid.resume.grace", "1m"),
    ] {
        let server = blitz("Blitz-0").property(name, value);
        let grid = Grid::new(&application(&[node("n", &[server])]));
        grid.run("start grid.xml").exits(4).says(&[name, value]);
    }
}

#[test]
fn a_full_blitz_is_passed_over_and_a_full_grid_says_when_to_come_back() {
    let grid = two(&[("omero.grid.sessions.max", "2")]);
    for _ in 0..4 {
        created(&grid);
    }
    for id in ["Blitz-0", "Blitz-1"] {
        grid.wait_server(id, "to have two", |s| s["blitz"]["sessions"] == 2);
    }
    grid.run("session create --user root --password-file var/root-password")
        .exits(6)
        .says(&["2 sessions", "try again"]);
    let session = &grid.sessions()[0];
    grid.run(&format!("session close {session}")).ok();
    created(&grid);
}

#[test]
fn a_user_has_no_more_sessions_than_allowed_in_the_whole_grid() {
    let grid = two(&[("omero.grid.sessions.max_per_user", "3")]);
    for _ in 0..3 {
        created(&grid);
    }
    grid.run("session create --user root --password-file var/root-password")
        .exits(6)
        .says(&["max_per_user", "ends at"]);
    // Services do not count.
    grid.run("session create --user root --password-file var/root-password --agent")
        .exits(2);
    let service = [
        "session",
        "create",
        "--user",
        "root",
        "--password-file",
        "var/root-password",
        "--agent",
        "Python service",
    ];
    grid.finish(&mut grid.command(&service), "").ok();
}

#[test]
fn a_restart_of_the_only_blitz_is_a_pause() {
    let grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.start();
    for _ in 0..5 {
        let old = grid.pid("Blitz-0");
        grid.kill9(old);
        created(&grid);
        grid.wait_successor("Blitz-0", old);
    }
    assert_eq!(grid.sessions().len(), 5);
}

#[test]
fn a_blitz_that_dies_under_a_login_is_not_noticed() {
    let grid = two(&[]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let logins = std::thread::scope(|scope| {
        let login = || {
            let mut logins = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                created(&grid);
                logins += 1;
            }
            logins
        };
        let logins: Vec<_> = (0..4).map(|_| scope.spawn(login)).collect();
        for n in 0..6 {
            let id = ["Blitz-0", "Blitz-1"][n % 2];
            let old = grid.pid(id);
            grid.kill9(old);
            grid.wait_successor(id, old);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        logins
            .into_iter()
            .map(|login| login.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(grid.sessions().len(), logins, "none lost, none doubled");
}
