//! A place that cannot be used, and names that cannot be: said in words, with the right exit code, and without damage.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Grid, application, blitz, example, living, node, server, sleeper};

fn one() -> Grid {
    Grid::new(&application(&[node(
        "n",
        &[blitz("Blitz-0"), sleeper("s")],
    )]))
}

/// A small file system over a directory, as long as this value lives.
struct Mount(PathBuf);

impl Mount {
    /// Mounts; `None`, visibly, where that is not permitted.
    fn over(dir: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir_all(&dir).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&dir);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        println!("skipped: mounting is not permitted here");
        None
    }

    fn change(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: processes of a test that failed may still be in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_file_where_a_directory_is_needed_is_named() {
    for file in ["var", "var/grid", "var/run", "var/log", "var/n"] {
        let grid = one();
        grid.write(file, "in the way");
        let run = grid.run("start grid.xml --wait 2");
        let named = grid.path(file).to_str().unwrap().to_owned();
        assert!(matches!(run.status, 1 | 5), "{file}: {run:?}");
        assert!(run.stderr.contains(&named), "{file}: {run:?}");
        assert_eq!(grid.read(file), "in the way");
        if run.status == 1 {
            assert_eq!(living(grid.dir()), [], "{file}");
        }
    }
}

#[test]
fn a_node_whose_directory_cannot_be_made_heals() {
    let grid = Grid::new(&application(&[
        node("n", &[sleeper("s")]),
        node("m", &[sleeper("t")]),
    ]));
    grid.write("var/n", "in the way");
    grid.run("start grid.xml --wait 1")
        .exits(5)
        .says(&["node n", "var/n"]);
    let node = grid.node("n").unwrap();
    assert!(node["reason"].as_str().unwrap().contains("var/n"), "{node}");
    assert_eq!(grid.server("t").unwrap()["state"], "active");
    std::fs::remove_file(grid.path("var/n")).unwrap();
    grid.wait_state("s", "active");
}

#[test]
fn a_read_only_var_is_said() {
    let grid = one();
    let Some(var) = Mount::over(grid.path("var"), "size=4m") else {
        return;
    };
    var.change("ro");
    let run = grid.run("start grid.xml").exits(1);
    assert!(
        run.stderr.contains("Read-only file system") && run.stderr.contains("var/"),
        "{run:?}"
    );
    assert_eq!(living(grid.dir()), []);
    var.change("rw");
    grid.run("start grid.xml").ok();
    grid.run("stop").ok();
}

#[test]
fn a_full_var_refuses_what_it_cannot_keep_and_heals() {
    let grid = one();
    let Some(_var) = Mount::over(grid.path("var"), "size=3m") else {
        return;
    };
    grid.start();
    let session = grid.session();
    let before = (grid.pid("s"), grid.pid("Blitz-0"));
    let fill = || {
        let zeros = vec![0; 1 << 12];
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(grid.path("var/filler"))
            .unwrap();
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        // To the last byte.
        while std::io::Write::write_all(&mut file, &[0]).is_ok() {}
    };
    // What fits into what is left of a page may still be accepted; then no more.
    let refused = grid.wait("a refusal", || {
        fill();
        let run = grid.run("server s disable");
        let enabled = grid.run("server s enable");
        [run, enabled].into_iter().find(|run| run.status != 0)
    });
    let refused = refused.exits(1);
    assert!(refused.stderr.contains("full"), "{refused:?}");
    assert_eq!((grid.pid("s"), grid.pid("Blitz-0")), before);
    std::fs::remove_file(grid.path("var/filler")).unwrap();
    grid.run("server s disable").ok();
    grid.run("server s enable").ok();
    assert_eq!(
        grid.json(&format!("session join {session}"))["uuid"],
        session
    );
    assert!(!grid.session().is_empty());
    grid.run("stop").ok();
}

#[test]
fn a_full_var_at_the_first_start_is_said() {
    let grid = one();
    let Some(_var) = Mount::over(grid.path("var"), "size=16k") else {
        return;
    };
    let run = grid.run("start grid.xml").exits(1);
    assert!(
        run.stderr.contains("has room") || run.stderr.contains("full"),
        "{run:?}"
    );
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn a_corrupt_store_is_said_and_left_as_it_is() {
    let grid = one();
    grid.start();
    grid.run("stop").ok();
    for side in ["var/grid.db-wal", "var/grid.db-shm"] {
        let _ = std::fs::remove_file(grid.path(side));
    }
    let rubbish = "this is no database ".repeat(1000);
    grid.write("var/grid.db", &rubbish);
    grid.run("start grid.xml")
        .exits(1)
        .says(&["var/grid.db", "damaged", "left as it is"]);
    assert_eq!(grid.read("var/grid.db"), rubbish);
    assert_eq!(living(grid.dir()), []);
    // Moved away by the administrator, it begins anew.
    std::fs::remove_file(grid.path("var/grid.db")).unwrap();
    grid.run("start grid.xml").ok();
    assert!(!grid.session().is_empty());
}

#[test]
fn a_store_damaged_in_its_middle_is_said_and_kept() {
    let grid = one();
    grid.start();
    grid.run("stop").ok();
    let path = grid.path("var/grid.db");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 8192);
    bytes[4096..8192].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let run = grid.run("start grid.xml --wait 3");
    assert_ne!(run.status, 0, "{run:?}");
    assert!(run.stderr.contains("damaged"), "{run:?}");
    let after = std::fs::read(&path).unwrap();
    assert_eq!(after[4096..8192], bytes[4096..8192]);
}

#[test]
fn a_corrupt_state_of_the_master_is_said_and_left_as_it_is() {
    let grid = one();
    grid.start();
    grid.run("stop").ok();
    for side in ["var/grid/state.db-wal", "var/grid/state.db-shm"] {
        let _ = std::fs::remove_file(grid.path(side));
    }
    let rubbish = "this is no database ".repeat(1000);
    grid.write("var/grid/state.db", &rubbish);
    let run = grid.run("start grid.xml").exits(1);
    assert!(run.stderr.contains("var/grid/state.db"), "{run:?}");
    assert_eq!(grid.read("var/grid/state.db"), rubbish);
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn names_that_leave_their_directory_are_refused() {
    let long = "x".repeat(300);
    for name in [
        "../x",
        "log",
        "run",
        "grid",
        "a/b",
        ".hidden",
        "",
        long.as_str(),
    ] {
        let as_server = application(&[node("n", &[sleeper(name)])]);
        let as_node = application(&[node(name, &[sleeper("s")])]);
        for text in [as_server, as_node] {
            let grid = Grid::new(&text);
            grid.run("check grid.xml").exits(4).says(&["grid.xml:"]);
            grid.run("start grid.xml").exits(4).says(&["grid.xml:"]);
            assert_eq!(living(grid.dir()), [], "{name}");
            assert!(!grid.path("x").exists() && !grid.path("var/x").exists());
        }
    }
}

#[test]
fn names_with_spaces_work() {
    let grid = Grid::new(&application(&[node("my node", &[sleeper("my server")])]));
    grid.start();
    let mut stop = grid.command(&["server", "my server", "stop"]);
    grid.finish(&mut stop, "").ok();
    assert_eq!(grid.server("my server").unwrap()["state"], "inactive");
    assert!(
        grid.path("var/my node/servers/my server/config/config")
            .exists()
    );
}

#[test]
fn unreadable_places_for_a_descriptor_are_named() {
    let grid = one();
    grid.write("empty.xml", "");
    grid.write("text.xml", "not XML at all");
    std::fs::create_dir(grid.path("folder.xml")).unwrap();
    for file in ["empty.xml", "text.xml", "folder.xml", "missing.xml"] {
        grid.run(&format!("start {file}")).exits(4).says(&[file]);
    }
    assert_eq!(living(grid.dir()), []);
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let grid = one();
    let mut start = Command::new(env!("CARGO_BIN_EXE_omero-grid"));
    grid.hermetic(&mut start);
    start.args(["--dir", "/nowhere/at/all", "status"]);
    grid.finish(&mut start, "").exits(3);
}

#[test]
fn a_storm_of_restarts_stays_within_its_back_off() {
    let storm = server("storm", "/bin/false");
    let ticker = server("ticker", &example("ticker"));
    let grid = Grid::new(&application(&[node("n", &[storm, ticker])]));
    grid.run("start grid.xml --wait 1").exits(5);
    let restarts = |id: &str| grid.server(id).unwrap()["restarts"].as_u64().unwrap();
    grid.wait("several tries", || (restarts("storm") >= 3).then_some(()));
    // 100 ms doubling, 20 % less at most: three more take 80 + 160 + 320 ms, so a second holds no dozen.
    assert!(restarts("storm") < 12, "{}", grid.report());
    assert_eq!(restarts("ticker"), 0);
}
