//! The directory for the temporary files of one process.
//!
//! Owns where it is, which is where OMERO's own programs have theirs: they share the places, the names and the locks, and remove
//! what the others left behind when they died. What is put into it is its users' business.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::sys::lock::try_lock_for_all;

/// Where a process tells that it lives.
const LOCK: &str = ".lock";

/// Numbered names that are tried where the plain one cannot be used.
const ALTERNATIVES: u32 = 10;

/// How often a directory is made anew that another process took for a left-over before it was locked.
const ATTEMPTS: u32 = 10;

/// The variable that moves the temporary files.
const VARIABLE: &str = "OMERO_TMPDIR";

/// A temporary directory could not be had anywhere.
#[derive(Debug)]
pub(crate) struct TemporaryError {
    /// Each place, and why it cannot be used.
    tried: Vec<(PathBuf, Problem)>,
}

impl fmt::Display for TemporaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no place for temporary files:")?;
        for (place, problem) in &self.tried {
            write!(f, " {}: {problem};", place.display())?;
        }
        write!(
            f,
            " set {VARIABLE} to a directory in which this user can make and lock files"
        )
    }
}

impl std::error::Error for TemporaryError {}

/// Why a place cannot be used.
#[derive(Debug)]
struct Problem {
    what: String,
    why: io::Error,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Returns what says that something failed.
fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Problem {
    let what = what.into();
    move |why| Problem { what, why }
}

/// A directory for this process alone, which is removed with all that is in it when this value is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    /// Held for life; the kernel releases it with the process.
    _lock: File,
}

impl Temporary {
    /// Makes it, where the environment says; removes those of dead processes beside it. Blocks.
    pub(crate) fn create() -> Result<Self, TemporaryError> {
        let user = geteuid();
        let name = match User::from_uid(user) {
            Ok(Some(user)) => user.name,
            // An account without an entry, as containers have them.
            Ok(None) | Err(_) => user.to_string(),
        };
        let places = places(|name| std::env::var_os(name), &std::env::temp_dir());
        Self::create_in(&places, &format!("omero_{name}"), std::process::id())
    }

    /// Makes it in the first of the places that can be used, below a directory of that name.
    fn create_in(places: &[PathBuf], name: &str, pid: u32) -> Result<Self, TemporaryError> {
        let mut tried = Vec::new();
        for place in places {
            match probe(place).and_then(|()| Self::create_at(place, name, pid)) {
                Ok(temporary) => {
                    debug!(path = ?temporary.path, "temporary files");
                    return Ok(temporary);
                }
                Err(problem) => tried.push((place.clone(), problem)),
            }
        }
        Err(TemporaryError { tried })
    }

    fn create_at(place: &Path, name: &str, pid: u32) -> Result<Self, Problem> {
        let names = std::iter::once(name.to_owned())
            .chain((0..ALTERNATIVES).map(|n| format!("{name}_{n}")))
            .map(|name| place.join(name));
        let mut first = None;
        for own in names {
            let made = own_directory(&own).and_then(|()| {
                sweep(&own);
                Self::lock_in(&own, pid)
            });
            match made {
                Ok(temporary) => return Ok(temporary),
                Err(problem) => first = first.or(Some(problem)),
            }
        }
        Err(first.unwrap_or_else(|| failed("no name is left")(io::ErrorKind::AlreadyExists.into())))
    }

    /// Makes and locks the directory of this process.
    fn lock_in(own: &Path, pid: u32) -> Result<Self, Problem> {
        // Another process may have the number too: in another container.
        let names = std::iter::once(pid.to_string())
            .chain((0..ALTERNATIVES).map(|n| format!("{pid}_{n}")))
            .map(|name| own.join(name));
        for path in names {
            for _ in 0..ATTEMPTS {
                match DirBuilder::new().mode(0o700).create(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => break,
                    Err(error) => return Err(failed(format!("cannot make {path:?}"))(error)),
                }
                match lock(&path.join(LOCK)) {
                    Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                    // Somebody who tidied up was in between.
                    Ok(None) => {}
                    Err(error) => {
                        let _ = fs::remove_dir_all(&path);
                        return Err(failed(format!("cannot lock a file in {path:?}"))(error));
                    }
                }
            }
        }
        Err(failed(format!(
            "every name for process {pid} is taken in {own:?}"
        ))(io::ErrorKind::AlreadyExists.into()))
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            // The next process removes it.
            warn!(path = ?self.path, %error, "cannot remove the temporary directory");
        }
    }
}

/// Returns the places in the order in which they are tried; `temp` is the system's.
fn places(variable: impl Fn(&str) -> Option<OsString>, temp: &Path) -> Vec<PathBuf> {
    let set = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let below = |dir: PathBuf| dir.join("omero/tmp");
    let home = set("HOME");
    // OMERO_TEMPDIR is what OMERO calls deprecated, and the only one that its Java programs know.
    let first = set(VARIABLE).or_else(|| set("OMERO_TEMPDIR").map(below));
    let user = match variable("OMERO_USERDIR") {
        Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir).join("tmp")),
        // Set to nothing, it means where the platform has the data of programs.
        Some(_) => set("XDG_DATA_HOME")
            .or_else(|| home.map(|home| home.join(".local/share")))
            .map(below),
        None => home.map(below),
    };
    let places = first
        .into_iter()
        .chain(user)
        .chain([below(temp.to_owned())]);
    places
        .map(|place| std::path::absolute(&place).unwrap_or(place))
        .collect()
}

/// Tries whether files can be made and locked in a place.
fn probe(place: &Path) -> Result<(), Problem> {
    fs::create_dir_all(place).map_err(failed("cannot make the directory"))?;
    let path = place.join(format!(".omero-grid-{}", Uuid::new_v4()));
    let file = new_file(&path).map_err(failed("cannot make a file"))?;
    let locked = try_lock_for_all(&file);
    fs::remove_file(&path).map_err(failed("cannot remove a file"))?;
    match locked {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed("cannot lock a file")(
            io::ErrorKind::WouldBlock.into(),
        )),
        Err(error) => Err(failed("cannot lock a file")(error)),
    }
}

/// Makes the directory of a user, or sees that it is one of this user's: the place may be open to everybody.
fn own_directory(own: &Path) -> Result<(), Problem> {
    match DirBuilder::new().mode(0o700).create(own) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(format!("cannot make {own:?}"))(error)),
    }
    let metadata = fs::symlink_metadata(own).map_err(failed(format!("cannot look at {own:?}")))?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Err(failed(format!("{own:?} is no directory of this user's"))(
            io::ErrorKind::PermissionDenied.into(),
        ));
    }
    Ok(())
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Makes and takes the lock of a directory; `None` if another process thought it left over and was quicker.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = match new_file(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !try_lock_for_all(&file)? {
        return Ok(None);
    }
    // It may have been removed between the two.
    Ok((file.metadata()?.nlink() > 0).then_some(file))
}

/// Removes what dead processes of this user left in its directory.
fn sweep(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else {
        return;
    };
    let of_process = |name: &str| {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match name.split_once('_') {
            Some((pid, n)) => number(pid) && number(n),
            None => number(name),
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if !entry.file_name().to_str().is_some_and(of_process)
            || !entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            continue;
        }
        let removed = match OpenOptions::new().write(true).open(path.join(LOCK)) {
            // Held until it is gone, so that two who tidy up do not meet, nor one and its maker.
            Ok(lock) => match try_lock_for_all(&lock) {
                Ok(true) => fs::remove_dir_all(&path),
                Ok(false) => continue,
                // Without locks nobody can say who lives.
                Err(error) => Err(error),
            },
            // Its maker died before the lock, or has not come to it yet; then it makes another.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir(&path),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => debug!(?path, "removed the temporary directory of a dead process"),
            Err(error) => debug!(?path, %error, "left a temporary directory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    const PID: u32 = 4711;

    fn places_of(variables: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &str| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, value)| OsString::from(value))
        };
        let places = places(variable, Path::new("/tmp"));
        places
            .iter()
            .map(|place| place.display().to_string())
            .collect()
    }

    #[test]
    fn places_are_omeros_in_omeros_order() {
        let home = ("HOME", "/home/o");
        let tmpdir = |value| ("OMERO_TMPDIR", value);
        let tempdir = ("OMERO_TEMPDIR", "/old");
        let userdir = |value| ("OMERO_USERDIR", value);
        let xdg = ("XDG_DATA_HOME", "/x");
        let own = "/home/o/omero/tmp";
        let cases = [
            (vec![], vec![]),
            (vec![home], vec![own]),
            (vec![home, tmpdir("/t"), tempdir], vec!["/t", own]),
            (vec![home, tmpdir(""), tempdir], vec!["/old/omero/tmp", own]),
            (vec![home, userdir("/u")], vec!["/u/tmp"]),
            (
                vec![home, userdir("")],
                vec!["/home/o/.local/share/omero/tmp"],
            ),
            (vec![home, userdir(""), xdg], vec!["/x/omero/tmp"]),
        ];
        for (variables, places) in cases {
            let places = [places, vec!["/tmp/omero/tmp"]].concat();
            assert_eq!(places_of(&variables), places, "{variables:?}");
        }
    }

    fn create(dir: &Path) -> Temporary {
        Temporary::create_in(&[dir.join("place")], "omero_me", PID).unwrap()
    }

    #[test]
    fn a_directory_is_the_processs_alone_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let temporary = create(dir.path());
        let own = dir.path().join("place/omero_me");
        assert_eq!(temporary.path(), own.join("4711"));
        for path in [&own, temporary.path()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{path:?}");
        }
        fs::create_dir(temporary.path().join("deep")).unwrap();
        fs::write(temporary.path().join("deep/file"), "x").unwrap();
        let second = create(dir.path());
        assert_eq!(
            second.path(),
            own.join("4711_0"),
            "the number is taken, elsewhere"
        );
        assert!(temporary.path().join("deep/file").exists());
        drop(temporary);
        drop(second);
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
        let place = fs::read_dir(dir.path().join("place")).unwrap();
        assert_eq!(place.count(), 1, "the probe leaves nothing");
    }

    #[test]
    fn directories_of_the_dead_are_removed_and_of_the_living_are_not() {
        let _alone = crate::sys::reaper::ALONE.blocking_lock();
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("place/omero_me");
        for name in ["1", "2_3", "4", "5", "notes", "6", "7_"] {
            fs::create_dir_all(own.join(name)).unwrap();
        }
        for name in ["1", "2_3", "4", "notes", "7_"] {
            fs::write(own.join(name).join(LOCK), "").unwrap();
            fs::write(own.join(name).join("file"), "").unwrap();
        }
        fs::write(own.join("6/file"), "no lock, yet in use").unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join(LOCK), "").unwrap();
        symlink(&outside, own.join("8")).unwrap();
        symlink(&outside, own.join("1/link")).unwrap();
        // Another process holds the lock of 4, and dies later.
        let mut other = Command::new("flock")
            .arg(own.join("4").join(LOCK))
            .args(["sh", "-c", "echo locked; read _ || :"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = [0; 7];
        io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut told).unwrap();
        let left = |own: &Path| {
            let mut names: Vec<_> = fs::read_dir(own)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let temporary = create(dir.path());
        assert_eq!(left(&own), ["4", "4711", "6", "7_", "8", "notes"]);
        assert!(own.join("4/file").exists());
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
        let second = create(dir.path());
        assert_eq!(left(&own), ["4711", "4711_0", "6", "7_", "8", "notes"]);
        drop((temporary, second));
        assert!(outside.join(LOCK).exists(), "links are not followed");
    }

    #[test]
    fn the_first_place_that_works_is_taken_and_all_are_named_if_none_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let bad = [file.clone(), PathBuf::from("/proc/omero")];
        let good = dir.path().join("good");
        let places = [bad.as_slice(), std::slice::from_ref(&good)].concat();
        let temporary = Temporary::create_in(&places, "omero_me", PID).unwrap();
        assert!(temporary.path().starts_with(&good));
        let error = Temporary::create_in(&bad, "omero_me", PID)
            .unwrap_err()
            .to_string();
        let names = format!("{}: cannot make the directory: ", file.display());
        assert!(
            error.contains(&names) && error.contains("/proc/omero: ") && error.contains(VARIABLE),
            "{error}"
        );
    }

    #[test]
    fn the_ten_alternatives_are_really_tried() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("place");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("omero_me"), "a file").unwrap();
        symlink(dir.path(), place.join("omero_me_0")).unwrap();
        let temporary = create(dir.path());
        assert_eq!(temporary.path(), place.join("omero_me_1/4711"));
        for n in 1..ALTERNATIVES {
            let path = place.join(format!("omero_me_{n}"));
            let _ = fs::remove_dir_all(&path);
            fs::write(path, "a file").unwrap();
        }
        let error = Temporary::create_in(&[place], "omero_me", PID)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("omero_me\" is no directory of this user's"),
            "{error}"
        );
    }

    #[test]
    fn many_at_once_do_not_take_each_others() {
        let dir = tempfile::tempdir().unwrap();
        let begin = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (dir, begin) = (dir.path(), &begin);
                scope.spawn(move || {
                    begin.wait();
                    for _ in 0..40 {
                        let places = [dir.join("place")];
                        let temporary = Temporary::create_in(&places, "omero_me", n).unwrap();
                        assert!(temporary.path().join(LOCK).exists());
                        fs::write(temporary.path().join("file"), "x").unwrap();
                        assert!(temporary.path().join("file").exists());
                    }
                });
            }
        });
        assert_eq!(
            fs::read_dir(dir.path().join("place/omero_me"))
                .unwrap()
                .count(),
            0
        );
    }
}
