//! The files of memos: their names, and writing them so that nobody sees half of one.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tracing::debug;
use uuid::Uuid;

/// What files have around their names until they are complete.
const UNFINISHED: (&str, &str) = (".omero-grid-", ".tmp");

/// When a file that was never completed is nobody's any more, where locks do not say.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// The longest name of a file.
const NAME_MAX: usize = 255;

/// What may be at the place that is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    /// Nothing: what has come there meanwhile stays.
    Nothing,
    /// A memo of ours.
    Ours,
}

/// Returns where below a memo directory the memo of an image file is: `absolute/path/of/.NAME.bfmemo`.
///
/// `None` if the path is not one of a file, absolute and without `..`, or its name leaves no room.
pub(super) fn relative(path: &Path) -> Option<PathBuf> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir)
        || !components.all(|component| matches!(component, Component::Normal(_)))
    {
        return None;
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name()?);
    name.push(".bfmemo");
    let parent = path.parent()?.strip_prefix("/").ok()?;
    (name.len() <= NAME_MAX).then(|| parent.join(name))
}

/// Makes the directory of a memo and returns it.
pub(super) fn make_directory(target: &Path) -> io::Result<&Path> {
    let directory = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    Ok(directory)
}

/// Writes a file: under another name, to the disk, then to its place.
pub(super) fn write(target: &Path, replace: Replace, content: &mut dyn io::Read) -> io::Result<()> {
    let (before, after) = UNFINISHED;
    let path = target.with_file_name(format!("{before}{}{after}", Uuid::new_v4()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    // Says that its writer lives. Where there are no locks, only its age says so.
    let written = match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::from(io::ErrorKind::WouldBlock)),
        Ok(()) | Err(TryLockError::Error(_)) => io::copy(content, &mut file)
            .and_then(|_| file.sync_all())
            .and_then(|()| put(&path, target, replace)),
    };
    if written.is_err() {
        // Nobody else has this name; that it cannot be removed either says nothing new.
        let _ = fs::remove_file(&path);
    }
    written
}

fn put(path: &Path, target: &Path, replace: Replace) -> io::Result<()> {
    if replace == Replace::Ours {
        return fs::rename(path, target);
    }
    match renameat_with(CWD, path, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Another process was quicker: its memo is as good, or not ours to replace.
        Err(Errno::EXIST) => fs::remove_file(path),
        // Not every file system can; there the time between two calls has to do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            if target.try_exists()? {
                fs::remove_file(path)
            } else {
                fs::rename(path, target)
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what dead processes have left unfinished in a directory.
pub(super) fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let unfinished = name
            .to_str()
            .is_some_and(|name| name.starts_with(UNFINISHED.0) && name.ends_with(UNFINISHED.1));
        // The lock is held until it is removed, so that a writer that was just beginning notices.
        if unfinished && let Some(_lock) = take_abandoned(&entry.path()) {
            debug!(path = ?entry.path(), "removes a memo file that was never finished");
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn take_abandoned(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    match file.try_lock() {
        Ok(()) => Some(file),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(_)) => {
            let modified = file.metadata().ok()?.modified().ok()?;
            let age = SystemTime::now().duration_since(modified).ok()?;
            (age > ABANDONED).then_some(file)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memos_are_where_bio_formats_has_them() {
        let known = [
            (
                "/OMERO/ManagedRepository/root_0/a.ome.tif",
                Some("OMERO/ManagedRepository/root_0/.a.ome.tif.bfmemo"),
            ),
            ("/a", Some(".a.bfmemo")),
            ("/a/b/", Some("a/.b.bfmemo")),
            ("/a\nb/c d", Some("a\nb/.c d.bfmemo")),
            ("/", None),
            ("", None),
            ("a/b", None),
            ("/a/../b", None),
            ("/a/..", None),
        ];
        for (path, memo) in known {
            assert_eq!(
                relative(Path::new(path)),
                memo.map(PathBuf::from),
                "{path:?}"
            );
        }
        let name = |len| format!("/{}", "n".repeat(len));
        assert!(relative(Path::new(&name(247))).is_some());
        assert!(relative(Path::new(&name(248))).is_none());
    }

    #[test]
    fn what_came_meanwhile_stays_unless_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join(".x.bfmemo");
        write(&target, Replace::Nothing, &mut &b"first"[..]).unwrap();
        write(&target, Replace::Nothing, &mut &b"second"[..]).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"first");
        write(&target, Replace::Ours, &mut &b"third"[..]).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"third");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn only_what_nobody_writes_any_more_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = UNFINISHED;
        let path = |name: &str| dir.path().join(format!("{before}{name}{after}"));
        fs::write(path("dead"), "half").unwrap();
        let living = File::create(path("living")).unwrap();
        living.lock().unwrap();
        for other in [".a.bfmemo", ".omero-grid-x", "x.tmp"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        sweep(dir.path());
        assert!(!path("dead").exists());
        assert!(path("living").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
