//! Descriptors through the program: what IceGrid made of the same files, where they are at hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Where the recorded cases are; a clone without them skips, unless `OMERO_GRID_REQUIRE_PEERS=1`.
fn cases() -> Vec<PathBuf> {
    let folder = std::env::var_os("OMERO_GRID_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    let Ok(entries) = folder.join("descriptors").read_dir() else {
        let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(!required, "no descriptor cases in {}", folder.display());
        println!("skipped: no descriptor cases in {}", folder.display());
        return Vec::new();
    };
    let mut cases: Vec<PathBuf> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    cases.sort();
    cases
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn omero_grid(dir: &Path, args: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_omero-grid"))
        .current_dir(dir)
        .args(args)
        .output()
        .unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

/// The command line for a case; `file` is its descriptor or the update of it.
fn arguments(command: &str, case: &Path, args: &Value, file: &str) -> Vec<String> {
    let mut out: Vec<String> = [command, "--format", "json", file]
        .map(str::to_owned)
        .to_vec();
    out.extend(strings(&args["targets"]));
    for (name, value) in args["variables"].as_object().into_iter().flatten() {
        out.push(format!("{name}={}", value.as_str().unwrap()));
    }
    if let Some(templates) = args["default_templates"].as_str() {
        out.extend(["--default-templates".to_owned(), templates.to_owned()]);
    }
    for preload in args["preload"].as_array().into_iter().flatten() {
        out.extend([
            "--beside".to_owned(),
            preload["file"].as_str().unwrap().to_owned(),
        ]);
    }
    assert!(case.join("args.json").is_file());
    out
}

fn assumptions(args: &Value) -> Vec<String> {
    let mut assumed: Vec<String> = ["OS", "HOSTNAME", "RELEASE", "VERSION", "MACHINE", "DATA"]
        .map(|name| format!("node.{}=@NODE.{name}@", name.to_lowercase()))
        .to_vec();
    assumed.push("locator=@LOCATOR@".to_owned());
    assumed.push("env.PATH=/nonexistent".to_owned());
    for (name, value) in args["node_env"].as_object().into_iter().flatten() {
        assumed.push(format!("env.{name}={}", value.as_str().unwrap()));
    }
    let properties = &args["node_properties"];
    if let Some(output) = properties["IceGrid.Node.Output"].as_str() {
        assumed.push(format!("output={output}"));
    }
    for pair in properties["IceGrid.Node.PropertiesOverride"]
        .as_str()
        .into_iter()
        .flat_map(|o| o.split(','))
    {
        assumed.push(format!("override.{}", pair.trim()));
    }
    assumed
        .into_iter()
        .flat_map(|a| ["--assume".to_owned(), a])
        .collect()
}

/// Says where two documents first differ.
fn difference(path: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let null = Value::Null;
                let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
                difference(&format!("{path}/{key}"), a, b)
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(n, (a, b))| difference(&format!("{path}/{n}"), a, b)),
        (a, b) => (a != b).then(|| format!("{path}: ours {a}, IceGrid's {b}")),
    }
}

#[test]
fn expands_as_icegrid_does() {
    let mut failures = Vec::new();
    for case in cases() {
        if !case.join("expected.json").is_file() {
            continue;
        }
        let args = read_json(&case.join("args.json"));
        let expected = read_json(&case.join("expected.json"));
        let file = args["file"].as_str().unwrap();
        let mut command = arguments("describe", &case, &args, file);
        command.extend(["--strict".to_owned(), "--deployed".to_owned()]);
        command.extend(assumptions(&args));
        let output = omero_grid(&case, &command);
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        if !output.status.success() {
            failures.push(format!(
                "{name}: refused: {}",
                String::from_utf8_lossy(&output.stdout)
            ));
            continue;
        }
        let ours: Value = serde_json::from_slice(&output.stdout).unwrap();
        for key in ["application", "servers", "adapters", "objects"] {
            failures.extend(difference(
                &format!("{name}: {key}"),
                &ours[key],
                &expected[key],
            ));
        }
        for (id, server) in expected["deployed"].as_object().into_iter().flatten() {
            let deployed = &ours["deployed"][id];
            for key in ["node", "descriptor", "config", "dbs"] {
                if server.get("load_error").is_none() {
                    failures.extend(difference(
                        &format!("{name}: deployed/{id}/{key}"),
                        &deployed[key],
                        &server[key],
                    ));
                }
            }
        }
        for (id, run) in expected["runtime"].as_object().into_iter().flatten() {
            if run.get("argv").is_none() {
                continue;
            }
            let deployed = &ours["deployed"][id];
            failures.extend(difference(
                &format!("{name}: {id}/argv"),
                &deployed["command"],
                &run["argv"],
            ));
            failures.extend(difference(
                &format!("{name}: {id}/env"),
                &deployed["environment"],
                &run["env_changed"],
            ));
        }
        // What the other mode makes of it differs in generated files only.
        let mut lenient = arguments("describe", &case, &args, file);
        lenient.retain(|a| a != "--strict");
        let output = omero_grid(&case, &lenient);
        let lenient: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        for key in ["application", "servers", "adapters", "objects"] {
            failures.extend(difference(
                &format!("{name} (lenient): {key}"),
                &lenient[key],
                &expected[key],
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Takes from a recorded refusal what we record too: its stage and reason.
fn refusal(text: &str) -> (String, String) {
    let (head, reason) = text.split_once("\n\n").unwrap();
    let stage = head
        .lines()
        .find_map(|l| l.strip_prefix("stage: "))
        .unwrap();
    (stage.to_owned(), reason.trim_end().to_owned())
}

#[test]
fn refuses_what_icegrid_refuses() {
    let mut failures = Vec::new();
    for case in cases() {
        let Ok(expected) = std::fs::read_to_string(case.join("expected-error.txt")) else {
            continue;
        };
        let (stage, reason) = refusal(&expected);
        let args = read_json(&case.join("args.json"));
        let mut command = arguments("check", &case, &args, args["file"].as_str().unwrap());
        command.push("--strict".to_owned());
        let output = omero_grid(&case, &command);
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        if output.status.code() != Some(4) {
            failures.push(format!("{name}: exit {:?}", output.status.code()));
            continue;
        }
        let ours: Value = serde_json::from_slice(&output.stdout).unwrap();
        let told: Vec<(String, String)> = ours["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["icegrid"])
            .filter(|i| i.is_object())
            .map(|i| {
                (
                    i["stage"].as_str().unwrap().to_owned(),
                    i["reason"].as_str().unwrap().trim_end().to_owned(),
                )
            })
            .collect();
        if !told.contains(&(stage.clone(), reason.clone())) {
            failures.push(format!(
                "{name}: wanted {stage} {reason:?}\n    got {told:?}\n    {}",
                ours["errors"]
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn updates_are_told_as_icegrid_tells_them() {
    let mut failures = Vec::new();
    for case in cases() {
        let Ok(text) = std::fs::read_to_string(case.join("expected.json")) else {
            continue;
        };
        let expected: Value = serde_json::from_str(&text).unwrap();
        let args = read_json(&case.join("args.json"));
        let (Some(update), Some(wanted)) = (
            args["update"].as_str(),
            expected["update"]["servers"].as_object(),
        ) else {
            continue;
        };
        let output = omero_grid(&case, &arguments("describe", &case, &args, update));
        let ours: Value = serde_json::from_slice(&output.stdout).unwrap();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        // A re-ordered command line is a change for us, and the registry goes on with the old one.
        let wanted: Vec<_> = wanted
            .iter()
            .filter(|(id, s)| {
                let sorted = |v: &Value| {
                    let mut s = strings(v);
                    s.sort();
                    s
                };
                let (a, b) = (
                    &ours["servers"][id.as_str()]["descriptor"],
                    &s["descriptor"],
                );
                a["options"] == b["options"] || sorted(&a["options"]) != sorted(&b["options"])
            })
            .collect();
        for (id, server) in wanted {
            failures.extend(difference(
                &format!("{name}: {id}"),
                &ours["servers"][id],
                server,
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
