//! The example unit, as systemd reads it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const UNIT: &str = include_str!("../../examples/systemd/omero-grid.service");

/// Returns the unit with its program pointed at the one under test.
fn unit() -> String {
    let unit = UNIT.replace(
        "/usr/bin/omero-grid ",
        concat!(env!("CARGO_BIN_EXE_omero-grid"), " "),
    );
    assert_ne!(
        unit, UNIT,
        "ExecStart does not begin with /usr/bin/omero-grid"
    );
    unit
}

/// Runs `systemd-analyze verify`; `None` where there is no systemd, unless `OMERO_GRID_REQUIRE_PEERS=1`.
fn verify(unit: &str) -> Option<Output> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("omero-grid.service");
    fs::write(&file, unit).unwrap();
    match Command::new("systemd-analyze")
        .arg("verify")
        .arg(&file)
        .output()
    {
        Ok(output) => Some(output),
        Err(error) => {
            let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
            assert!(!required, "cannot run systemd-analyze: {error}");
            println!("skipped: cannot run systemd-analyze: {error}");
            None
        }
    }
}

/// Returns what systemd says of this unit; of others on the machine it may say what it likes.
fn complaints(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| line.contains("omero-grid.service"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    if let Some(output) = verify(&unit()) {
        assert_eq!(complaints(&output), Vec::<String>::new());
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn systemd_would_find_a_fault() {
    let wrong = unit().replace("KillMode=process", "KillMode=politely");
    assert_ne!(wrong, unit());
    if let Some(output) = verify(&wrong) {
        assert_eq!(complaints(&output).len(), 1, "{output:?}");
    }
}

/// What keeps servers alive through the death of a master, and what the program counts on.
#[test]
fn the_unit_says_what_the_grid_needs() {
    let lines: Vec<_> = UNIT.lines().collect();
    for needed in [
        "Type=notify",
        "NotifyAccess=main",
        "KillMode=process",
        "OOMPolicy=continue",
        "Restart=on-failure",
        "LimitNOFILE=16384",
        "UMask=0002",
        "StateDirectory=omero-grid",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ] {
        assert!(lines.contains(&needed), "{needed} is missing");
    }
    // A mount namespace would be made anew at each start, away from the servers that live on.
    for harmful in [
        "PrivateTmp=",
        "ProtectSystem=",
        "ProtectHome=",
        "PrivateMounts=",
        "RuntimeDirectory=",
    ] {
        assert!(
            !lines.iter().any(|line| line.starts_with(harmful)),
            "{harmful} must not be set"
        );
    }
}

#[test]
fn the_program_takes_the_arguments_of_the_unit() {
    let line = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let dir = tempfile::tempdir().unwrap();
    // systemd makes it.
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    // There is no descriptor here: the arguments are taken, then the start fails for that.
    let output = Command::new(env!("CARGO_BIN_EXE_omero-grid"))
        .args(&words)
        .env_clear()
        .env("OMERODIR", dir.path())
        .env("STATE_DIRECTORY", &state)
        .current_dir(Path::new("/"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("etc/grid/default.xml"), "{said}");
}
