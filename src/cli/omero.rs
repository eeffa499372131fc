//! The program under the name `omero` (DESIGN.md §5): what it takes over of OMERO's command, and how it finds the rest.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use super::failure::{Failure, code};

/// What `omero ARGUMENTS` means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// These arguments of ours.
    Ours(Vec<OsString>),
    /// A matter of the real `omero`.
    Theirs,
}

/// Returns our own arguments if the program was called as `omero`, in place of those it was given. Does not return if what was asked for
/// is a matter of the next `omero` on the PATH.
pub(crate) fn arguments(given: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut given = given.into_iter();
    let name = given.next().unwrap_or_default();
    let rest: Vec<OsString> = given.collect();
    if Path::new(&name).file_name() != Some(OsStr::new("omero")) {
        return Ok(std::iter::once(name).chain(rest).collect());
    }
    match meaning(&rest) {
        Meaning::Ours(arguments) => {
            let own = OsString::from("omero-grid");
            Ok(std::iter::once(own).chain(arguments).collect())
        }
        Meaning::Theirs => Err(hand_over(&rest)),
    }
}

fn meaning(arguments: &[OsString]) -> Meaning {
    let words: Vec<&str> = arguments
        .iter()
        .map(|a| a.to_str().unwrap_or_default())
        .collect();
    let ours = |arguments: Vec<&OsString>| Meaning::Ours(arguments.into_iter().cloned().collect());
    match words.as_slice() {
        // Without a name the node of this host is meant.
        ["node", "start" | "stop" | "restart" | "status"]
        | ["node", "sync", "start" | "stop" | "restart" | "status"] => {
            let command = arguments.last().cloned().unwrap_or_default();
            Meaning::Ours(vec!["node".into(), own_node(), command])
        }
        ["config", ..] => ours(arguments.iter().collect()),
        // `sync` asks for what ours do anyhow: they wait.
        ["node", ..] => ours(arguments.iter().filter(|a| *a != "sync").collect()),
        [
            "admin",
            "start" | "stop" | "restart" | "status" | "deploy" | "jvmcfg",
            ..,
        ] => ours(arguments.iter().skip(1).collect()),
        _ => Meaning::Theirs,
    }
}

/// Returns the name of this host's node: `OMERO_NODE`, else the host's name without its domain.
fn own_node() -> OsString {
    let named = std::env::var_os("OMERO_NODE").filter(|name| !name.is_empty());
    named.unwrap_or_else(|| {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy().into_owned();
        host.split('.').next().unwrap_or_default().into()
    })
}

/// Becomes the next `omero` on the PATH that is not this program; says why if there is none.
fn hand_over(arguments: &[OsString]) -> Failure {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = next(&paths) else {
        let what = arguments.first().map_or_else(
            || "omero".to_owned(),
            |word| format!("omero {}", word.to_string_lossy()),
        );
        return Failure::new(
            code::USAGE,
            format!("'{what}' is a matter of OMERO's own command, and there is no other `omero` on the PATH"),
        )
        .hint("here `omero` does: config, node, admin start|stop|restart|status|deploy|jvmcfg");
    };
    let error = std::process::Command::new(&program)
        .args(arguments)
        .arg0("omero")
        .exec();
    Failure::new(
        code::FAILED,
        format!("cannot run {}: {error}", program.display()),
    )
}

fn next(paths: &OsStr) -> Option<PathBuf> {
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let own = identity(Path::new("/proc/self/exe"));
    let dirs = paths.as_bytes().split(|byte| *byte == b':');
    let mut programs = dirs
        .filter(|dir| !dir.is_empty())
        .map(|dir| Path::new(OsStr::from_bytes(dir)).join("omero"));
    programs.find(|path| {
        let runs = std::fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        runs && identity(path) != own
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn what_is_ours_of_omeros_command() {
        let table = [
            ("config set a b", Some("config set a b")),
            ("node backup start", Some("node backup start")),
            ("node backup sync start", Some("node backup start")),
            ("admin start --foreground", Some("start --foreground")),
            ("admin status", Some("status")),
            ("admin jvmcfg", Some("jvmcfg")),
            ("admin diagnostics", None),
            ("login", None),
            ("", None),
        ];
        for (given, expected) in table {
            let expected = expected.map_or(Meaning::Theirs, |text| Meaning::Ours(words(text)));
            assert_eq!(meaning(&words(given)), expected, "{given}");
        }
        let other = words("/usr/bin/omero-grid login x");
        assert_eq!(arguments(other.clone()).unwrap(), other);
    }
}
