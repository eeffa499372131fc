//! The documents say what the project does.

use std::collections::BTreeSet;
use std::process::Command;

const README: &str = include_str!("../../README.md");
const CI: &str = include_str!("../../.ci/run");
const JUSTFILE: &str = include_str!("../../justfile");

/// Returns the lines of a script that run cargo.
fn cargo_lines(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.starts_with('#') && line.contains("cargo "))
        .collect()
}

#[test]
fn the_recipes_are_those_of_ci() {
    let mut recipes = cargo_lines(JUSTFILE);
    for bench in ["grid", "sessions", "data"] {
        let line = format!("cargo bench --locked --bench {bench}");
        assert!(recipes.remove(line.as_str()), "no recipe for `{line}`");
    }
    assert_eq!(recipes, cargo_lines(CI));
}

#[test]
fn ci_tests_with_the_command_of_the_readme() {
    let test = CI.lines().rfind(|line| line.starts_with("cargo ")).unwrap();
    assert!(
        README.lines().any(|line| line.trim() == test),
        "the README does not say '{test}'"
    );
}

/// Every `omero-grid COMMAND` in the README is one that the program has.
#[test]
fn the_readme_names_commands_that_exist() {
    // What is between backticks, one or three, has an odd number.
    let code = README.split('`').skip(1).step_by(2);
    let mut named = BTreeSet::new();
    for line in code.flat_map(str::lines) {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            if word == "omero-grid" || word.ends_with("/omero-grid") {
                named.extend(
                    words
                        .next()
                        .filter(|next| next.chars().all(|c| c.is_ascii_lowercase())),
                );
            }
        }
    }
    assert!(named.contains("status"), "{named:?}");
    // Has no help of its own.
    named.remove("help");
    for command in named {
        let output = Command::new(env!("CARGO_BIN_EXE_omero-grid"))
            .args([command, "--help"])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "the README names 'omero-grid {command}', which does not exist"
        );
    }
}
