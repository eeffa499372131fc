//! The files below the directory of scripts.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use super::{KINDS, Kind, ScriptError};
use crate::ipc::message::data::ScriptView;

/// Files and directories that are looked at.
const MAX_ENTRIES: usize = 20_000;

/// Scripts that are listed: what they make has to go into one message.
const MAX_LISTED: usize = 5_000;

/// How deep directories are looked into.
const MAX_DEPTH: usize = 16;

/// The longest path of a script that is listed, in bytes.
const MAX_PATH: usize = 1024;

/// Bytes of a file in which the program that runs it has to be named.
const FIRST_LINE: u64 = 256;

/// The scripts that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// In the order of their paths.
    pub(crate) scripts: Vec<ScriptView>,
    /// There are more, or there may be: the directory is too large or too deep to be looked at as a whole.
    pub(crate) more: bool,
}

/// Lists the scripts below a directory: plain files, and links to such below it.
pub(super) fn list(dir: &Path) -> Result<Catalogue, ScriptError> {
    let failed = |source| ScriptError::Directory {
        path: dir.to_owned(),
        source,
    };
    let root = dir.canonicalize().map_err(failed)?;
    let mut catalogue = Catalogue {
        scripts: Vec::new(),
        more: false,
    };
    let mut looked = 0;
    let mut todo = vec![(PathBuf::new(), 0)];
    while let Some((below, depth)) = todo.pop() {
        let entries = match fs::read_dir(root.join(&below)) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(failed(error)),
            // One that went, or that this user may not see, hides only its own scripts.
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            looked += 1;
            if looked > MAX_ENTRIES {
                catalogue.more = true;
                todo.clear();
                break;
            }
            let Some(path) = entry
                .file_name()
                .to_str()
                .filter(|n| is_shown(n))
                .map(|n| below.join(n))
            else {
                continue;
            };
            // A directory is entered by its own name only, so that no link makes a circle.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if depth < MAX_DEPTH {
                    todo.push((path, depth + 1));
                } else {
                    catalogue.more = true;
                }
            } else if let Some(script) = view(&root, &path) {
                catalogue.scripts.push(script);
            }
        }
    }
    catalogue.scripts.sort_by(|a, b| a.path.cmp(&b.path));
    catalogue.more |= catalogue.scripts.len() > MAX_LISTED;
    catalogue.scripts.truncate(MAX_LISTED);
    Ok(catalogue)
}

/// Returns whether a name is one that people are shown: neither hidden nor with characters that are not seen.
fn is_shown(name: &str) -> bool {
    !name.starts_with('.') && !name.contains(char::is_control)
}

fn view(root: &Path, path: &Path) -> Option<ScriptView> {
    let text = path.to_str().filter(|text| text.len() <= MAX_PATH)?;
    let real = root.join(path).canonicalize().ok()?;
    let size = real.metadata().ok().filter(fs::Metadata::is_file)?.len();
    if !real.starts_with(root) {
        return None;
    }
    Some(ScriptView {
        path: text.to_owned(),
        size,
        mimetype: kind_of(path, &real)?.mimetype.to_owned(),
    })
}

/// Finds a script by its path below the directory.
pub(super) fn find(dir: &Path, name: &str) -> Result<(PathBuf, Kind), ScriptError> {
    let named = |error: fn(String) -> ScriptError| error(name.to_owned());
    let missing = |name| ScriptError::Missing { name };
    let outside = |name| ScriptError::Outside { name };
    let path = Path::new(name);
    if name.contains('\0') || name.is_empty() {
        return Err(named(missing));
    }
    if !path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(named(outside));
    }
    let root = dir
        .canonicalize()
        .map_err(|source| ScriptError::Directory {
            path: dir.to_owned(),
            source,
        })?;
    let real = match root.join(path).canonicalize() {
        Ok(real) => real,
        Err(_) => return Err(named(missing)),
    };
    if !real.starts_with(&root) {
        return Err(named(outside));
    }
    if !real.is_file() {
        return Err(named(missing));
    }
    match kind_of(path, &real) {
        Some(kind) => Ok((real, kind)),
        None => Err(named(|name| ScriptError::Unknown { name })),
    }
}

/// Returns the kind of a script: by its name, else by its first line.
fn kind_of(path: &Path, real: &Path) -> Option<Kind> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    KINDS
        .into_iter()
        .find(|kind| Some(kind.extension) == extension)
        .or_else(|| by_first_line(&first_line(real).ok()?))
}

fn first_line(path: &Path) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    File::open(path)?.take(FIRST_LINE).read_to_end(&mut line)?;
    let end = line.iter().position(|byte| *byte == b'\n');
    line.truncate(end.unwrap_or(line.len()));
    Ok(line)
}

/// Returns the kind that a line `#!PROGRAM` means, through `env` too.
fn by_first_line(line: &[u8]) -> Option<Kind> {
    let line = str::from_utf8(line.strip_prefix(b"#!")?).ok()?;
    let mut programs = line
        .split_ascii_whitespace()
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        // Of env its options and the variables that it sets.
        .filter(|word| *word != "env" && !word.starts_with('-') && !word.contains('='));
    let program = programs.next()?;
    let program = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let mimetype = match program {
        "python" => "text/x-python",
        "jython" => "text/x-jython",
        "matlab" => "text/x-matlab",
        "sh" | "bash" | "dash" | "ksh" => "text/x-sh",
        _ => return None,
    };
    KINDS.into_iter().find(|kind| kind.mimetype == mimetype)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let scripts = dir.path().join("scripts");
        fs::create_dir_all(scripts.join("omero/deep")).unwrap();
        fs::create_dir(scripts.join(".hidden")).unwrap();
        for (name, text) in [
            ("omero/export.py", "print()"),
            ("omero/deep/count.sh", ""),
            ("run", "#!/usr/bin/env -S python3.12 -u\nprint()"),
            ("README.txt", "#! not a program"),
            (".hidden/a.py", ""),
            ("line\nbreak.py", ""),
            ("notes", "no script"),
        ] {
            fs::write(scripts.join(name), text).unwrap();
        }
        fs::write(dir.path().join("outside.py"), "secret").unwrap();
        symlink("../outside.py", scripts.join("escape.py")).unwrap();
        symlink("omero/export.py", scripts.join("inside.py")).unwrap();
        symlink("..", scripts.join("up")).unwrap();
        symlink("loop.py", scripts.join("loop.py")).unwrap();
        dir
    }

    #[test]
    fn lists_what_can_be_run_and_nothing_from_outside() {
        let dir = directory();
        let catalogue = list(&dir.path().join("scripts")).unwrap();
        let found: Vec<_> = catalogue
            .scripts
            .iter()
            .map(|script| (script.path.as_str(), script.size, script.mimetype.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("inside.py", 7, "text/x-python"),
                ("omero/deep/count.sh", 0, "text/x-sh"),
                ("omero/export.py", 7, "text/x-python"),
                ("run", 39, "text/x-python"),
            ]
        );
        assert!(!catalogue.more);
        let error = list(&dir.path().join("nowhere")).unwrap_err().to_string();
        assert!(error.contains("nowhere"), "{error}");
    }

    #[test]
    fn finds_by_path_and_refuses_every_way_out() {
        let dir = directory();
        let scripts = dir.path().join("scripts");
        let (path, kind) = find(&scripts, "omero/deep/count.sh").unwrap();
        assert!(path.ends_with("scripts/omero/deep/count.sh"));
        assert_eq!(kind.mimetype, "text/x-sh");
        let absolute = scripts.join("run").display().to_string();
        for name in [
            "../outside.py",
            "omero/../../outside.py",
            "escape.py",
            "up/outside.py",
            "/etc/passwd",
            &absolute,
        ] {
            let error = find(&scripts, name).unwrap_err();
            assert!(
                matches!(error, ScriptError::Outside { .. }),
                "{name}: {error}"
            );
        }
        for name in ["", "none.py", "omero", "loop.py", "a\0.py"] {
            let error = find(&scripts, name).unwrap_err();
            assert!(
                matches!(error, ScriptError::Missing { .. }),
                "{name:?}: {error}"
            );
        }
        for name in ["README.txt", "notes"] {
            let error = find(&scripts, name).unwrap_err();
            assert!(
                matches!(error, ScriptError::Unknown { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn a_directory_that_is_too_large_is_listed_in_part_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..=MAX_LISTED {
            fs::write(dir.path().join(format!("{n:05}.py")), "").unwrap();
        }
        let mut deep = dir.path().to_owned();
        for _ in 0..=MAX_DEPTH {
            deep.push("d");
        }
        let catalogue = list(dir.path()).unwrap();
        assert_eq!(
            (catalogue.scripts.len(), catalogue.more),
            (MAX_LISTED, true)
        );
        fs::create_dir_all(&deep).unwrap();
        for n in 1..=MAX_LISTED {
            fs::remove_file(dir.path().join(format!("{n:05}.py"))).unwrap();
        }
        fs::write(deep.join("deepest.py"), "").unwrap();
        let catalogue = list(dir.path()).unwrap();
        assert_eq!((catalogue.scripts.len(), catalogue.more), (1, true));
    }

    #[test]
    fn first_lines_name_programs() {
        let known = [
            ("#!/bin/sh", Some("text/x-sh")),
            ("#! /usr/bin/bash -e", Some("text/x-sh")),
            ("#!/usr/bin/env python", Some("text/x-python")),
            ("#!/usr/bin/env -S A=1 python3.11 -u", Some("text/x-python")),
            ("#!/opt/venv/bin/python3", Some("text/x-python")),
            ("#!/usr/bin/perl", None),
            ("#!/usr/bin/env", None),
            ("#!", None),
            ("# /bin/sh", None),
            ("#!/bin/\u{fffd}sh\u{0}", None),
        ];
        for (line, mimetype) in known {
            let found = by_first_line(line.as_bytes()).map(|kind| kind.mimetype);
            assert_eq!(found, mimetype, "{line}");
        }
        assert_eq!(by_first_line(b"#!/bin/\xFF"), None);
    }
}
