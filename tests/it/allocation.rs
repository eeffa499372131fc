//! Where new sessions go: entry, redirector, routes, caps, and what becomes of a creation whose Blitz goes (DESIGN.md §7).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Grid, Server, application, blitz, kill, node};

const CREATE: &str = "session create --user root --password-file var/root-password";

/// A grid of so many Blitzes with these properties, all on one node.
fn grid(count: usize, properties: &[(&str, &str)]) -> Grid {
    let blitzes: Vec<_> = (0..count).map(|n| with(n, properties)).collect();
    Grid::new(&application(&[node("n", &blitzes)]))
}

fn with(n: usize, properties: &[(&str, &str)]) -> Server {
    properties
        .iter()
        .fold(blitz(&format!("Blitz-{n}")), |blitz, (name, value)| {
            blitz.property(name, value)
        })
}

/// Opens a session and returns the Blitz that has it.
#[track_caller]
fn opened(grid: &Grid) -> String {
    text(&grid.json(CREATE)["server"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Returns where the redirect points.
#[track_caller]
fn redirect(grid: &Grid) -> String {
    text(&grid.json("redirect")["redirect"])
}

/// Returns the texts of the events of the redirect.
#[track_caller]
fn moves(grid: &Grid) -> Vec<String> {
    let events = grid.json("events --kind redirect");
    let texts = events.as_array().unwrap().iter();
    texts.map(|event| text(&event["text"])).collect()
}

/// Returns how many sessions each Blitz has.
#[track_caller]
fn spread(grid: &Grid) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for session in grid.json("session list").as_array().unwrap() {
        *counts.entry(text(&session["server"])).or_default() += 1;
    }
    counts
}

/// Keeps a server from being started again, until what is returned is dropped.
fn held_down<'g>(grid: &'g Grid, id: &str) -> impl Drop + use<'g> {
    struct Obstacle(std::path::PathBuf, std::path::PathBuf);
    impl Drop for Obstacle {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
            let _ = std::fs::rename(&self.1, &self.0);
        }
    }
    let path = grid.path(&format!("var/n/servers/{id}/config"));
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::write(&path, "in the way").unwrap();
    Obstacle(path, aside)
}

#[test]
fn the_redirect_takes_all_new_sessions_and_moves_no_old_one() {
    let grid = grid(2, &[("omero.cluster.redirector", "configRedirector")]);
    grid.start();
    let first = grid.wait("the first to accept to set the redirect", || {
        Some(redirect(&grid)).filter(|to| !to.is_empty())
    });
    grid.wait_server("Blitz-1", "to accept", |s| s["blitz"]["accepting"] == "yes");
    grid.run("redirect set Blitz-1").ok();
    assert_eq!(opened(&grid), "Blitz-1");
    assert_eq!(opened(&grid), "Blitz-1");

    // By the name that OMERO's clients have for it.
    let uuid = text(&grid.server("Blitz-0").unwrap()["blitz"]["uuid"]);
    grid.run(&format!("redirect set {uuid}")).ok();
    assert_eq!(redirect(&grid), "Blitz-0");
    assert_eq!(opened(&grid), "Blitz-0");
    let expected = [("Blitz-0".to_owned(), 1), ("Blitz-1".to_owned(), 2)];
    assert_eq!(spread(&grid), expected.into());

    grid.run("redirect set --if-unset Blitz-1")
        .exits(6)
        .says(&["set already, to Blitz-0"]);
    grid.run("redirect clear --if Blitz-1").exits(6);
    grid.run("redirect set Blitz-7").exits(3).says(&["Blitz-7"]);
    assert_eq!(redirect(&grid), "Blitz-0");

    // Durable: the next master has it before any Blitz has said a word.
    let master = grid.master_pid();
    grid.kill9(master);
    grid.run("start").ok();
    assert_eq!(redirect(&grid), "Blitz-0");

    grid.run("redirect clear --if Blitz-0").ok();
    grid.wait("another to set it", || {
        Some(redirect(&grid)).filter(|to| !to.is_empty())
    });
    let moves = moves(&grid);
    let reasons = [
        format!("{first} is the first to accept sessions"),
        "from Blitz-1 to Blitz-0: set by uid".to_owned(),
        "from Blitz-0 to nobody: cleared by uid".to_owned(),
    ];
    for reason in reasons {
        assert!(
            moves.iter().any(|text| text.contains(&reason)),
            "{reason}: {moves:?}"
        );
    }
}

#[test]
fn a_drain_and_a_stop_move_the_redirect_at_once_and_a_drained_one_cannot_be_set() {
    let grid = grid(2, &[("omero.cluster.redirector", "configRedirector")]);
    grid.start();
    grid.run("redirect set Blitz-0").ok();
    grid.run("drain Blitz-0 --no-wait").ok();
    assert_eq!(redirect(&grid), "Blitz-1");
    assert_eq!(opened(&grid), "Blitz-1");
    grid.run("redirect set Blitz-0")
        .exits(6)
        .says(&["is being drained"]);
    grid.run(&format!("{CREATE} --via Blitz-0"))
        .exits(6)
        .says(&["being drained", "undrain Blitz-0"]);
    grid.run("undrain Blitz-0").ok();
    // Sticky: that it accepts again moves nothing.
    assert_eq!(redirect(&grid), "Blitz-1");
    grid.wait_server("Blitz-0", "to accept", |s| s["blitz"]["accepting"] == "yes");
    grid.run("server Blitz-1 stop").ok();
    assert_eq!(redirect(&grid), "Blitz-0");
    assert_eq!(opened(&grid), "Blitz-0");
    let moves = moves(&grid);
    for reason in ["Blitz-0 is being drained", "Blitz-1 was stopped"] {
        assert!(
            moves.iter().any(|text| text.contains(reason)),
            "{reason}: {moves:?}"
        );
    }
}

#[test]
fn the_redirect_leaves_a_blitz_that_is_disabled_and_goes_on() {
    let grid = grid(2, &[("omero.cluster.redirector", "configRedirector")]);
    grid.start();
    grid.run("redirect set Blitz-0").ok();
    assert_eq!(opened(&grid), "Blitz-0");
    let pid = grid.pid("Blitz-0");
    grid.run("server Blitz-0 disable").ok();
    assert_eq!(redirect(&grid), "Blitz-1");
    assert_eq!(opened(&grid), "Blitz-1");
    assert_eq!(grid.pid("Blitz-0"), pid, "it goes on");
    grid.run("redirect set Blitz-0")
        .exits(6)
        .says(&["is disabled", "server Blitz-0 enable"]);
    // Where nobody else takes sessions it stays: one that is disabled takes them for as long as it runs.
    grid.run("server Blitz-0 enable").ok();
    grid.run("redirect set Blitz-0").ok();
    grid.run("server Blitz-1 stop").ok();
    grid.run("server Blitz-0 disable").ok();
    assert_eq!(redirect(&grid), "Blitz-0");
    assert_eq!(opened(&grid), "Blitz-0");
    let moves = moves(&grid);
    assert!(
        moves
            .iter()
            .any(|text| text.contains("Blitz-0 is disabled")),
        "{moves:?}"
    );
}

#[test]
fn a_crash_moves_the_redirect_only_when_its_blitz_stays_away() {
    let grid = grid(2, &[("omero.cluster.redirector", "configRedirector")]);
    grid.start();
    grid.run("redirect set Blitz-0").ok();
    let before = moves(&grid).len();
    // It is back before it is given up; whoever logs in meanwhile waits.
    let pid = grid.pid("Blitz-0");
    grid.kill9(pid);
    grid.wait_successor("Blitz-0", pid);
    assert_eq!(opened(&grid), "Blitz-0");
    assert_eq!(moves(&grid).len(), before);

    let obstacle = held_down(&grid, "Blitz-0");
    let pid = grid.pid("Blitz-0");
    grid.kill9(pid);
    grid.wait_server("Blitz-0", "to be away", |s| s["blitz"].is_null());
    let since = Instant::now();
    let page = grid.run("status").ok().stdout;
    assert!(
        page.contains("the redirect Blitz-0 does not accept sessions"),
        "{page}"
    );
    assert_eq!(opened(&grid), "Blitz-1");
    assert!(
        since.elapsed() > Duration::from_secs(8),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(redirect(&grid), "Blitz-1");
    let moves = moves(&grid);
    let last = moves.last().unwrap();
    assert!(
        last.starts_with("from Blitz-0 to Blitz-1: Blitz-0 has not accepted sessions for 1"),
        "{last}"
    );
    drop(obstacle);
}

#[test]
fn the_scale_redirector_spreads_also_what_comes_at_once() {
    let grid = grid(3, &[("omero.cluster.redirector", "scaleRedirector")]);
    grid.start();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| (0..4).for_each(|_| drop(opened(&grid))));
        }
    });
    let counts = spread(&grid);
    // A count may lag behind by a session or two.
    assert!(
        counts.len() == 3 && counts.values().all(|count| (6..=10).contains(count)),
        "{counts:?}"
    );
}

/// The hosts are one, so their loads differ by the factors alone.
#[test]
fn an_adaptive_entry_goes_by_the_load_of_the_hosts_before_the_sessions() {
    let parts = [node("idle", &[with(1, &[])]), node("busy", &[with(0, &[])])];
    let text = application(&parts)
        .replace("name=\"idle\"", "name=\"idle\" load-factor=\"0\"")
        .replace("name=\"busy\"", "name=\"busy\" load-factor=\"10000\"");
    let grid = Grid::new(&text);
    grid.start();
    (0..3).for_each(|_| assert_eq!(opened(&grid), "Blitz-1"));
    let steps = grid.json("route test")["steps"].to_string();
    assert!(steps.contains("entry: Blitz-1 by adaptive"), "{steps}");
    assert!(steps.contains("load 0.00"), "{steps}");
}

#[test]
fn a_route_is_a_promise() {
    let spares = "<replica-group id=\"Spares\"><load-balancing type=\"ordered\"/></replica-group>";
    let routes = [
        ("omero.grid.route.1", "user=guest -> Blitz-0"),
        (
            "omero.grid.route.2",
            "user=root agent=omero-* -> Blitz-1,Nobody",
        ),
        ("omero.cluster.redirector", "scaleRedirector"),
        ("omero.grid.create.wait", "1"),
    ];
    let blitzes: Vec<_> = (0..2).map(|n| with(n, &routes)).collect();
    let grid = Grid::new(&application(&[spares.to_owned(), node("n", &blitzes)]));
    let started = grid.run("start grid.xml").ok();
    assert_eq!(opened(&grid), "Blitz-1");
    assert_eq!(opened(&grid), "Blitz-1");
    let warning = "omero.grid.route.2 names 'Nobody'";
    let page = grid.run("status").ok().stdout;
    assert!(
        page.contains(warning) || started.stderr.contains(warning),
        "{page}"
    );

    let list = grid.run("route list").ok().stdout;
    assert!(list.contains("user=guest -> Blitz-0"), "{list}");
    let test = grid.json("route test --user guest --agent web");
    assert_eq!(test["server"], "Blitz-0", "{test}");
    let steps = test["steps"].to_string();
    assert!(steps.contains("user=guest -> Blitz-0"), "{steps}");
    let test = grid.json("route test --user root --agent web");
    assert!(test["steps"].to_string().contains("no route matches"));
    assert_eq!(spread(&grid), [("Blitz-1".to_owned(), 2)].into());

    grid.run("drain Blitz-1 --no-wait").ok();
    let since = Instant::now();
    grid.run(CREATE)
        .exits(5)
        .says(&["1s", "Blitz-1", "route 2"]);
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "omero.grid.create.wait"
    );
}

#[test]
fn what_is_not_valid_is_refused_and_changes_nothing() {
    let table = [
        (
            "omero.cluster.redirector",
            "bestRedirector",
            "nullRedirector, configRedirector or scaleRedirector",
        ),
        (
            "omero.grid.route.1",
            "user=public",
            "omero.grid.route.1 is 'user=public'",
        ),
        ("omero.grid.sessions.max", "many", "omero.grid.sessions.max"),
        ("omero.grid.weight", "0", "omero.grid.weight"),
        ("omero.grid.create.wait", "-1", "omero.grid.create.wait"),
    ];
    let grid = grid(1, &[]);
    for (name, value, message) in table {
        let bad = with(0, &[(name, value)]);
        grid.write("bad.xml", &application(&[node("n", &[bad])]));
        grid.run("start bad.xml")
            .exits(4)
            .says(&[message, "Blitz-0"]);
    }
    grid.start();
    let before = grid.pid("Blitz-0");
    for (name, value, message) in table {
        let bad = with(0, &[(name, value)]);
        grid.write("bad.xml", &application(&[node("n", &[bad])]));
        grid.run("deploy bad.xml --now").exits(4).says(&[message]);
    }
    assert_eq!(grid.pid("Blitz-0"), before);
    assert_eq!(
        grid.status()["redirector"]["policy"],
        "nullRedirector",
        "the default"
    );
}

#[test]
fn the_redirector_changes_without_a_restart() {
    let grid = grid(2, &[]);
    grid.start();
    let before = (grid.pid("Blitz-0"), grid.pid("Blitz-1"));
    let changed: Vec<_> = (0..2)
        .map(|n| with(n, &[("omero.cluster.redirector", "configRedirector")]))
        .collect();
    grid.write("grid.xml", &application(&[node("n", &changed)]));
    opened(&grid);
    grid.run("reload").ok();
    let redirector = &grid.status()["redirector"];
    assert_eq!(redirector["policy"], "configRedirector");
    assert!(redirector["redirect"].is_string(), "{redirector}");
    assert_eq!((grid.pid("Blitz-0"), grid.pid("Blitz-1")), before);
}

#[test]
fn caps_send_to_the_next_blitz_and_then_say_when_to_try_again() {
    let grid = grid(
        2,
        &[
            ("omero.grid.sessions.max", "1"),
            ("omero.cluster.redirector", "configRedirector"),
        ],
    );
    grid.start();
    assert_ne!(opened(&grid), opened(&grid), "the redirect is full");
    grid.run(CREATE)
        .exits(6)
        .says(&["the most they may have", "the next session ends at"]);
    // There is room from the moment that a session has ended, whatever was counted before.
    for _ in 0..5 {
        let session = text(&grid.json("session list").as_array().unwrap()[0]["id"]);
        grid.run(&format!("session close {session}")).ok();
        opened(&grid);
    }
}

#[test]
fn a_user_has_so_many_sessions_in_the_whole_grid() {
    let grid = grid(2, &[("omero.grid.sessions.max_per_user", "3")]);
    grid.start();
    (0..3).for_each(|_| drop(opened(&grid)));
    grid.run(CREATE)
        .exits(6)
        .says(&["omero.grid.sessions.max_per_user", "ends at"]);
    assert_eq!(spread(&grid).values().sum::<usize>(), 3);
}

#[test]
fn a_restart_of_the_only_blitz_is_a_pause() {
    let grid = grid(1, &[]);
    grid.start();
    for round in 0..3 {
        let pid = grid.pid("Blitz-0");
        kill(pid, Signal::SIGKILL);
        assert_eq!(opened(&grid), "Blitz-0", "round {round}");
        grid.wait_successor("Blitz-0", pid);
    }
    std::thread::scope(|scope| {
        let restarting = scope.spawn(|| grid.run("server Blitz-0 restart").ok());
        while !restarting.is_finished() {
            opened(&grid);
        }
    });
}

/// Whatever dies: nobody who logs in hears of it, and nobody gets two sessions.
#[test]
fn a_creation_whose_blitz_or_node_dies_is_carried_to_another() {
    let parts = [
        node("n", &[with(0, &[]), with(1, &[])]),
        node("m", &[with(2, &[])]),
    ];
    let grid = Grid::new(&application(&parts));
    grid.start();
    let done = AtomicBool::new(false);
    let mut uuids: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut opened = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        opened.push(text(&grid.json(CREATE)["uuid"]));
                    }
                    opened
                })
            })
            .collect();
        for round in 0..6 {
            if round == 3 {
                grid.replace_node("m");
                grid.wait_state("Blitz-2", "active");
                continue;
            }
            let id = format!("Blitz-{}", round % 3);
            let pid = grid.pid(&id);
            grid.kill9(pid);
            grid.wait_successor(&id, pid);
        }
        done.store(true, Ordering::Relaxed);
        let clients = clients.into_iter();
        clients.flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(uuids.len() > 6, "{}", uuids.len());
    uuids.sort();
    // The list follows once all are back and have taken up what is theirs.
    grid.wait("all sessions to be there, each once", || {
        let mut all = grid.sessions();
        all.sort();
        (all == uuids).then_some(())
    });
}

/// What hangs keeps nobody waiting for long, and what it finishes later doubles nothing.
#[test]
fn a_blitz_that_hangs_is_passed_over_until_it_answers() {
    let grid = grid(2, &[("omero.cluster.redirector", "configRedirector")]);
    grid.start();
    grid.run("redirect set Blitz-0").ok();
    let pid = grid.pid("Blitz-0");
    kill(pid, Signal::SIGSTOP);
    assert_eq!(opened(&grid), "Blitz-1");
    let page = grid.run("route test --user root").ok().stdout;
    assert!(
        page.contains("the redirect Blitz-0 does not accept sessions now"),
        "{page}"
    );
    kill(pid, Signal::SIGCONT);
    assert_eq!(opened(&grid), "Blitz-0", "as soon as it answers");
    let expected = [("Blitz-0".to_owned(), 1), ("Blitz-1".to_owned(), 1)];
    assert_eq!(spread(&grid), expected.into());
}
