//! What the program writes about itself: manual pages and completions.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn omero_grid(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_omero-grid"))
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Returns the commands below one, as its help lists them.
fn subcommands(above: &[&str]) -> Vec<String> {
    let help = text(omero_grid(&[above, &["--help"]].concat()).stdout);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        // A long description goes on further to the right.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Runs a program on the text; `None` where there is none, unless `OMERO_GRID_REQUIRE_PEERS=1` and it is required there.
fn peer(program: &str, args: &[&str], input: &[u8], required: bool) -> Option<Output> {
    let child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("MANPAGER", "cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match child {
        Ok(mut child) => {
            child.stdin.take().unwrap().write_all(input).unwrap();
            Some(child.wait_with_output().unwrap())
        }
        Err(error) => {
            let strict = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
            assert!(!(required && strict), "cannot run {program}: {error}");
            println!("skipped: cannot run {program}: {error}");
            None
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    omero_grid(&["man", pages.to_str().unwrap()]);
    let mut wanted = Vec::new();
    let mut left: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = left.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let below = subcommands(&words);
        left.extend(
            below
                .into_iter()
                .map(|name| [path.clone(), vec![name]].concat()),
        );
        wanted.push(format!(
            "{}.1",
            [vec!["omero-grid"], words].concat().join("-")
        ));
    }
    wanted.sort();
    assert!(
        wanted.contains(&"omero-grid-session-create.1".to_owned()),
        "{wanted:?}"
    );
    let mut written: Vec<_> = fs::read_dir(&pages)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    assert_eq!(written, wanted);
    for page in &written {
        render(&pages.join(page));
    }
}

/// Has `man` render a page, if there is one that can.
fn render(page: &Path) {
    let args = ["--warnings", "-l", page.to_str().unwrap()];
    let Some(output) = peer("man", &args, b"", true) else {
        return;
    };
    let (shown, said) = (text(output.stdout), text(output.stderr));
    assert!(
        output.status.success() && said.is_empty(),
        "{}: {said}",
        page.display()
    );
    assert!(shown.contains("SYNOPSIS"), "{}: {shown}", page.display());
}

#[test]
fn the_main_page_goes_to_standard_output_and_lists_the_exit_codes() {
    let page = text(omero_grid(&["man"]).stdout);
    assert!(page.contains(".TH omero-grid 1"), "{page}");
    assert!(page.contains("Exit codes:"), "{page}");
}

#[test]
fn completions_are_valid() {
    let commands = subcommands(&[]);
    for (shell, check) in [
        ("bash", &["-n"][..]),
        ("zsh", &["-n"]),
        ("fish", &["--no-execute"]),
    ] {
        let script = omero_grid(&["completions", shell]).stdout;
        let words = text(script.clone());
        for command in &commands {
            assert!(
                words.contains(command.as_str()),
                "{shell} does not know {command}"
            );
        }
        assert!(
            !words.contains("master-process"),
            "{shell} offers what is hidden"
        );
        if let Some(output) = peer(shell, check, &script, shell == "bash") {
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{shell}: {output:?}"
            );
        }
    }
}

/// Runs what is declared for the program, on `omero-grid sess<Tab>`.
const COMPLETE: &[u8] = br#"
declared=$(complete -p omero-grid)
function=${declared##*-F }
COMP_WORDS=(omero-grid sess)
COMP_CWORD=1
"${function%% *}" omero-grid sess omero-grid
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn bash_completes_a_command() {
    let mut script = omero_grid(&["completions", "bash"]).stdout;
    script.extend(COMPLETE);
    if let Some(output) = peer("bash", &["--norc", "-s"], &script, true) {
        assert_eq!(text(output.stdout), "session\n", "{}", text(output.stderr));
    }
}
