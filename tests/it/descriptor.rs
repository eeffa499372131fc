//! Descriptors through the program: what IceGrid made of the same files, where they are at hand.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Where the recorded cases are; a clone without them skips, unless `OMERO_GRID_REQUIRE_PEERS=1`.
pub(crate) fn cases() -> Vec<PathBuf> {
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

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn omero_grid(dir: &Path, args: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_omero-grid"))
        .current_dir(dir)
        .args(args)
        .output()
        .unwrap()
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
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
    use omero_grid::descriptor::{Change, Deployment, Diff, Disk, Request, load};
    let mut failures = Vec::new();
    for case in cases() {
        let Ok(text) = std::fs::read_to_string(case.join("expected.json")) else {
            continue;
        };
        let expected: Value = serde_json::from_str(&text).unwrap();
        let args = read_json(&case.join("args.json"));
        let Some(update) = args["update"].as_str() else {
            continue;
        };
        let deployment = |file: &str| {
            let variables = args["variables"].as_object().into_iter().flatten();
            let request = Request {
                file: case.join(file),
                targets: strings(&args["targets"]),
                overrides: variables
                    .map(|(n, v)| (n.clone(), v.as_str().unwrap().to_owned()))
                    .collect(),
                ..Request::default()
            };
            load(&Disk, &request).unwrap().deployment
        };
        let (old, new) = (
            deployment(args["file"].as_str().unwrap()),
            deployment(update),
        );
        // Options are a list for us and a set for IceGrid: what differs in order or repetition only is left out.
        let set = |d: &Deployment, id| -> std::collections::BTreeSet<String> {
            d.servers[id].descriptor.options.iter().cloned().collect()
        };
        let diff = Diff::between(&old, &new);
        let ours: Vec<String> = diff
            .servers
            .iter()
            .filter_map(|s| {
                let what = match &s.change {
                    Change::Added { .. } => "added",
                    Change::Removed { .. } => "removed",
                    Change::Changed { what }
                        if what.iter().all(|w| w.contains("options"))
                            && set(&old, &s.server) == set(&new, &s.server) =>
                    {
                        return None;
                    }
                    Change::Moved { .. } | Change::Changed { .. } => "updated (restart required)",
                    Change::PropertiesOnly { .. } => "properties updated (no restart required)",
                    Change::DescriptionOnly => return None,
                };
                Some(format!("server `{}': {what}", s.server))
            })
            .collect();
        let theirs: Vec<String> = strings(&expected["update"]["diff_servers"])
            .iter()
            .map(|l| l.trim().to_owned())
            .filter(|l| l.starts_with("server"))
            .collect();
        if ours != theirs {
            failures.push(format!(
                "{}: ours {ours:?}, IceGrid's {theirs:?}",
                case.display()
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

/// Writes files into a fresh folder.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn check(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let args: Vec<String> = ["check"]
        .iter()
        .chain(args)
        .map(|a| (*a).to_owned())
        .collect();
    let output = omero_grid(dir, &args);
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn application(body: &str) -> String {
    format!("<icegrid><application name=\"App\">\n{body}\n</application></icegrid>\n")
}

#[test]
fn bad_input_is_refused_with_its_place() {
    let server =
        |attributes: &str| application(&format!("<node name=\"n\"><server {attributes}/></node>"));
    let in_server = |body: &str| {
        application(&format!(
            "<node name=\"n\"><server id=\"s\" exe=\"x\">{body}</server></node>"
        ))
    };
    let template = "<server-template id=\"BlitzTemplate\"><parameter name=\"index\"/><server id=\"B-${index}\" exe=\"x\"/></server-template>\n";
    let instance = |attributes: &str| {
        application(&format!(
            "{template}<node name=\"n\"><server-instance {attributes}/></node>"
        ))
    };
    for (text, expected) in [
        (String::new(), "d.xml: error: the file is empty"),
        ("hello".to_owned(), "d.xml:1:1: error: the file is no XML"),
        (
            "<icegrid><application name='A'></icegrid>".to_owned(),
            "d.xml:1:34: error: mismatched tag",
        ),
        (
            "<!DOCTYPE x [<!ENTITY a \"b\">]><icegrid/>".to_owned(),
            "d.xml:1:1: error: a document type",
        ),
        ("<a>".repeat(1000), "error: only the <icegrid> element"),
        (
            format!("<icegrid>{}", "<target name='x'>".repeat(1000)),
            "error: elements are nested more than 64 deep",
        ),
        (
            in_server("<optoin/>"),
            "d.xml:2:39: error: unknown element <optoin>, did you mean 'option'?",
        ),
        (
            server("id=\"s\" exe=\"x\" activaton=\"always\""),
            "d.xml:2:39: error: unknown attribute 'activaton' of <server>, did you mean 'activation'?",
        ),
        (
            server("id=\"s\""),
            "d.xml:2:16: error: <server> has no attribute 'exe'",
        ),
        (
            server("id=\"s\" exe=\"x\" activation-timeout=\"10s\""),
            "is not a whole number",
        ),
        (
            server("id=\"s\" exe=\"x\" activation=\"alway\""),
            "unknown activation 'alway', did you mean 'always'?",
        ),
        (server("id=\"../x\" exe=\"x\""), "invalid id of a server"),
        (server("id=\"log\" exe=\"x\""), "invalid id of a server"),
        (
            server(&format!("id=\"{}\" exe=\"x\"", "x".repeat(300))),
            "invalid id of a server",
        ),
        (
            application("<node name=\"../x\"/>"),
            "d.xml:2:7: error: invalid name of a node",
        ),
        (
            application(
                "<node name=\"n\"><icebox id=\"b\" exe=\"x\"><service name=\"a/b\" entry=\"e\"/></icebox></node>",
            ),
            "cannot be the name of a service",
        ),
        (
            application(
                "<node name=\"n\"><server id=\"s\" exe=\"x\"/><server id=\"s\" exe=\"x\"/></node>",
            ),
            "d.xml:2:48: error: duplicate server 's'",
        ),
        (
            instance("template=\"BlitzTemplat\" index=\"0\""),
            "d.xml:3:33: error: unknown template 'BlitzTemplat', did you mean 'BlitzTemplate'?",
        ),
        (
            instance("template=\"BlitzTemplate\" indx=\"0\""),
            "has no parameter 'indx', did you mean 'index'?",
        ),
        (
            instance("template=\"BlitzTemplate\""),
            "needs the parameter 'index'",
        ),
        (
            in_server("<adapter name=\"A\" replica-group=\"nope\"/>"),
            "unknown replica group 'nope'",
        ),
        (
            in_server("<option>${v}</option>").replace(
                "<node",
                "<variable name=\"v\" value=\"${w}\"/><variable name=\"w\" value=\"${v}\"/><node",
            ),
            "variable 'v' refers to itself: v → w → v",
        ),
        (
            application("<include file=\"d.xml\"/>"),
            "d.xml:2:10: error: the file includes itself: d.xml → d.xml",
        ),
        (
            in_server("<property name=\"omero.grid.ready\" value=\"notfy\"/>"),
            "neither 'notify' nor a number",
        ),
        (
            in_server("<property name=\"omero.grid.after\" value=\"S\"/>"),
            "names an unknown server 'S', did you mean 's'?",
        ),
        (
            in_server("<property name=\"omero.grid.after\" value=\"s\"/>"),
            "servers wait for each other (omero.grid.after): s → s",
        ),
    ] {
        let dir = folder(&[("d.xml", &text)]);
        let (code, shown) = check(dir.path(), &["d.xml"]);
        let shorter: String = text.chars().take(200).collect();
        assert_eq!(code, Some(4), "{shorter}\n{shown}");
        assert!(
            shown.contains(expected),
            "{shorter}\nwanted: {expected}\ngot: {shown}"
        );
        assert!(
            shown.ends_with("1 error, 0 warnings\n"),
            "one cause, one error: {shorter}\n{shown}"
        );
    }
}

#[test]
fn every_fault_is_reported() {
    let text = application(
        "<bogus/>\n<node name=\"n\">\n<server id=\"a\">\n<option>${nope}</option></server>\n<server-instance template=\"T\"/>\n</node>",
    );
    let dir = folder(&[("d.xml", &text)]);
    let (code, shown) = check(dir.path(), &["d.xml"]);
    assert_eq!(code, Some(4));
    for line in [2, 4, 5, 6] {
        assert!(
            shown.contains(&format!("d.xml:{line}:")),
            "line {line} of {shown}"
        );
    }
    assert!(shown.ends_with("4 errors, 0 warnings\n"), "{shown}");
}

#[test]
fn files_that_cannot_be_read_are_said() {
    let dir = folder(&[
        ("big.xml", &" ".repeat((16 << 20) + 1)),
        ("inc.xml", &application("<include file=\"gone.xml\"/>")),
    ]);
    for (file, expected) in [
        (".", "it is a directory"),
        ("gone.xml", "no such file"),
        (
            "inc.xml",
            "inc.xml:2:1: error: cannot read 'gone.xml': no such file",
        ),
        ("big.xml", "larger than 16 MiB"),
        ("/dev/zero", "not a regular file"),
    ] {
        let (code, shown) = check(dir.path(), &[file]);
        assert_eq!(code, Some(4), "{file}");
        assert!(shown.contains(expected), "{file}: {shown}");
    }
}

#[test]
fn what_icegrid_refuses_wrongly_is_taken_unless_strict() {
    for (body, why) in [
        (
            "<node name=\"n\"><target name=\"a\"><target name=\"b\"/></target></node>",
            "target in a target",
        ),
        (
            "<properties id=\"B\"/><properties id=\"A\"><properties refid=\"B\"/></properties><node name=\"n\"><server id=\"s\" exe=\"x\"><properties><properties refid=\"A\"/><properties refid=\"A\"/></properties></server></node>",
            "met twice",
        ),
        (
            "<variable name=\"g\" value=\"rg\"/><replica-group id=\"${g}\"/><node name=\"n\"><server id=\"s\" exe=\"x\"><adapter name=\"A\" replica-group=\"${g}\"/></server></node>",
            "unknown replica group 'rg'",
        ),
    ] {
        let dir = folder(&[("d.xml", &application(body))]);
        assert_eq!(
            check(dir.path(), &["d.xml"]),
            (Some(0), String::new()),
            "{why}"
        );
        let (code, shown) = check(dir.path(), &["--strict", "d.xml"]);
        assert!(code == Some(4) && shown.contains(why), "{why}: {shown}");
    }
}

#[test]
fn traps_are_warned_of() {
    for (body, expected) in [
        (
            "<server-template id=\"T\"><description>x</description><server id=\"t\" exe=\"x\"/></server-template>",
            "a description in a template becomes that of the application",
        ),
        (
            "<node name=\"n\" load-factor=\"2\"/><node name=\"n\"/>",
            "takes away its load factor 2",
        ),
        (
            "<node name=\"n\"><server id=\"s\" exe=\"x\"><option>$$${node.os}</option></server></node>",
            "does not become a dollar",
        ),
        (
            "<node name=\"n\"><server id=\"s\" exe=\"x\" activation-timeout=\"-5\"/></node>",
            "negative; 60 seconds count instead",
        ),
        (
            "<node name=\"n\"><server id=\"s\" exe=\"x\"><property name=\"p\" value=\"a&#10;b\"/></server></node>",
            "has a line break",
        ),
    ] {
        let dir = folder(&[("d.xml", &application(body))]);
        let (code, shown) = check(dir.path(), &["d.xml"]);
        assert!(
            code == Some(0) && shown.contains(expected),
            "{expected}: {shown}"
        );
    }
    let dir = folder(&[("d.xml", &application("<target name=\"debug\"/>"))]);
    let (code, shown) = check(dir.path(), &["d.xml", "debg"]);
    assert!(
        code == Some(0) && shown.contains("unknown target 'debg', did you mean 'debug'?"),
        "{shown}"
    );
}

#[test]
fn our_own_descriptors_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors");
    for file in ["default.xml", "cluster.xml", "read-only.xml"] {
        let (code, shown) = check(&root, &[file]);
        assert_eq!((code, shown.as_str()), (Some(0), ""), "{file}");
    }
}

#[test]
fn a_node_or_server_that_is_not_there_is_exit_3() {
    let dir = folder(&[("d.xml", &application("<node name=\"n\"/>"))]);
    for option in ["--node", "--server"] {
        let args = ["describe", "d.xml", option, "nope"].map(str::to_owned);
        assert_eq!(omero_grid(dir.path(), &args).status.code(), Some(3));
    }
    assert_eq!(
        omero_grid(dir.path(), &["describe".to_owned()])
            .status
            .code(),
        Some(2)
    );
}
