//! What a node runs: the command line and the environment of a server.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::config_file::config_option;
use super::types::ServerDescriptor;

/// Returns the command line of a server: program, non-empty options, and `--Ice.Config=` with the path of its file.
///
/// The server has been through [`node_stage`](super::node_stage). No shell is involved.
pub fn command(server: &ServerDescriptor, config_path: &str) -> Vec<String> {
    let options = server.options.iter().filter(|o| !o.is_empty()).cloned();
    std::iter::once(server.exe.clone())
        .chain(options)
        .chain([config_option(config_path)])
        .collect()
}

/// Returns the environment of a server: the node's, changed by the server's `env` entries in order.
///
/// `$NAME` and `${NAME}` after the first `=` stand for the node's own variables, unset ones for nothing. An entry without
/// `=` removes the variable.
pub fn environment(
    envs: &[String],
    node_env: &BTreeMap<OsString, OsString>,
) -> BTreeMap<OsString, OsString> {
    let mut out = node_env.clone();
    for entry in envs {
        match entry.split_once('=') {
            // `env` refuses neither an empty name nor a NUL; the kernel could not take them.
            Some((name, _)) if name.is_empty() || name.contains('\0') => {}
            Some((name, value)) => {
                out.insert(name.into(), expand(value, node_env));
            }
            None => {
                out.remove(OsStr::new(entry));
            }
        }
    }
    out
}

/// Replaces `$NAME` and `${NAME}`. A dollar before anything else is dropped, a final one stays; an unclosed `${` ends the
/// replacing.
fn expand(value: &str, node_env: &BTreeMap<OsString, OsString>) -> OsString {
    let mut out: Vec<u8> = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some(dollar) = rest.find('$') {
        out.extend_from_slice(&rest.as_bytes()[..dollar]);
        let after = &rest[dollar + 1..];
        if after.is_empty() {
            rest = "$";
            break;
        }
        let (name, length) = if let Some(braced) = after.strip_prefix('{') {
            match braced.find('}') {
                Some(end) => (&braced[..end], end + 2),
                None => {
                    rest = &rest[dollar..];
                    break;
                }
            }
        } else {
            let end = after
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(after.len());
            (&after[..end], end)
        };
        if let Some(found) = node_env.get(OsStr::new(name)) {
            out.extend_from_slice(found.as_bytes());
        }
        rest = &after[length..];
    }
    // What is left has nothing more to replace.
    out.extend(rest.bytes().filter(|b| *b != 0));
    out.retain(|b| *b != 0);
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(envs: &[&str]) -> BTreeMap<String, String> {
        let node = [
            ("HOME", "/home/node"),
            ("NODE_VAR", "node value"),
            ("GONE", "x"),
        ];
        let node = node
            .into_iter()
            .map(|(n, v)| (n.into(), v.into()))
            .collect();
        let envs: Vec<String> = envs.iter().map(|e| (*e).to_owned()).collect();
        let text = |s: OsString| s.into_string().unwrap();
        environment(&envs, &node)
            .into_iter()
            .map(|(n, v)| (text(n), text(v)))
            .collect()
    }

    #[test]
    fn the_node_s_variables_are_put_in() {
        for (entry, expected) in [
            ("X=$NODE_VAR/x", "node value/x"),
            ("X=${NODE_VAR}/x", "node value/x"),
            ("X=$$NODE_VAR", "node value"),
            ("X=a$NO_SUCH-b", "a-b"),
            ("X=5$", "5$"),
            ("X=a=b=$HOME", "a=b=/home/node"),
            ("X=%HOME%", "%HOME%"),
            ("X=a${HOME", "a${HOME"),
            ("X=x}y${HOME}z", "x}y/home/nodez"),
            ("X=", ""),
        ] {
            assert_eq!(env(&[entry])["X"], expected, "{entry}");
        }
    }

    #[test]
    fn entries_are_applied_in_order_and_see_only_the_node() {
        let out = env(&["V=one", "EARLIER=$V", "V=two", "GONE", "=bad"]);
        assert_eq!((out["V"].as_str(), out["EARLIER"].as_str()), ("two", ""));
        assert!(!out.contains_key("GONE") && !out.contains_key(""));
    }

    #[test]
    fn the_configuration_comes_last() {
        let server = ServerDescriptor {
            exe: "prog".to_owned(),
            options: vec!["--a".to_owned(), String::new(), "two words".to_owned()],
            ..ServerDescriptor::default()
        };
        assert_eq!(
            command(&server, "/d#1/config"),
            ["prog", "--a", "two words", "--Ice.Config=/d\\#1/config"]
        );
    }

    proptest! {
        #[test]
        fn no_entry_panics(entry in "[$={}A\u{0}ü]{0,12}") {
            env(&[&entry]);
        }
    }
}
