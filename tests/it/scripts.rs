//! Scripts through the commands: listed, run with their arguments, and ended with everything that they have started.

use std::path::PathBuf;
use std::process::Stdio;

use crate::harness::{Grid, Server, application, blitz, node};
use nix::sys::signal::Signal;

fn with_scripts(servers: &[Server]) -> Grid {
    let grid = Grid::new(&application(&[node("n", servers)]));
    grid.write(
        "lib/scripts/omero/hello.py",
        "import os, sys\nprint('hello', *sys.argv[1:])\nprint(os.environ['OMERO_USER'], file=sys.stderr)\n",
    );
    grid.write("lib/scripts/fails.sh", "echo nothing works >&2\nexit 3\n");
    // What it leaves has closed everything, and is nobody's child.
    grid.write(
        "lib/scripts/hangs.sh",
        "echo begun > $1\nsetsid sh -c 'trap \"\" TERM; sleep 1000 & exec sleep 1000' </dev/null >/dev/null 2>&1 &\nsleep 1000\n",
    );
    grid.write("lib/scripts/README", "no script");
    grid
}

/// The processes of the script that hangs.
fn hanging() -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let processes = processes.map(|entry| entry.unwrap().path());
    processes
        .filter(|path| {
            std::fs::read(path.join("cmdline")).is_ok_and(|words| words == b"sleep\x001000\x00")
        })
        .collect()
}

#[test]
fn a_script_is_run_with_its_arguments_and_fails_in_words() {
    let grid = with_scripts(&[blitz("Blitz-0")]);
    grid.start();
    let list = grid.json("script list");
    let paths: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|script| script["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["fails.sh", "hangs.sh", "omero/hello.py"]);
    let run = grid.run("script run omero/hello.py a=1 b=two").ok();
    assert_eq!(run.stdout, "hello a=1 b=two\n");
    assert_eq!(run.stderr, "root\n");
    grid.run("script run fails.sh")
        .exits(1)
        .says(&["nothing works", "exit code 3"]);
    grid.run("script run missing.py").exits(3);
    for outside in ["../../etc/passwd", "/etc/passwd", "README"] {
        grid.run(&format!("script run {outside}")).exits(4);
    }
    grid.run("script run fails.sh word")
        .exits(2)
        .says(&["NAME=VALUE"]);
}

#[test]
fn what_hangs_is_ended_with_everything_that_it_has_started() {
    let limited = blitz("Blitz-0").property("omero.scripts.timeout", "1000");
    let grid = with_scripts(&[limited]);
    grid.start();
    let session = grid.session();
    let marker = grid.path("begun");
    let words = format!("script run hangs.sh --session {session}");
    let run = grid.run(&format!("{words} file={}", marker.display()));
    run.exits(5).says(&["everything that it had started"]);
    grid.wait("everything to be gone", || {
        hanging().is_empty().then_some(())
    });
}

#[test]
fn a_script_that_nobody_waits_for_any_more_is_ended() {
    let grid = with_scripts(&[blitz("Blitz-0")]);
    grid.start();
    let command = grid
        .command(&["script", "run", "hangs.sh"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut command = command.unwrap();
    grid.wait("the script to run", || (hanging().len() >= 2).then_some(()));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(command.id().cast_signed()),
        Signal::SIGINT,
    )
    .unwrap();
    command.wait().unwrap();
    grid.wait("everything to be gone", || {
        hanging().is_empty().then_some(())
    });
}

#[test]
fn a_reader_lists_scripts_and_runs_none() {
    let property = "omero.cluster.read_only.repo";
    let grid = with_scripts(&[blitz("Blitz-0")
        .property(property, "true")
        .property("omero.data.dir", "data")]);
    grid.start();
    assert_eq!(grid.json("script list").as_array().unwrap().len(), 3);
    grid.run("script run fails.sh").exits(6).says(&[property]);
    assert_eq!(grid.read("data"), "");
}
