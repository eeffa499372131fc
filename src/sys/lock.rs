//! Lock files: one of each master and of each node name.
//!
//! A `flock` belongs to the open file, which a child between `fork` and `execve` shares. So the lock of a process that
//! died in the middle of starting a child is free only once that child carries its mark, and whoever takes the lock
//! next finds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

use super::process;

/// How long a lock may outlive the process that is written in it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A lock that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{path} is held by process {pid}")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Its holder; 0 if it did not say.
        pid: u32,
    },
    /// The file cannot be used.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A lock that is held until this value is dropped or the process ends. Its file stays.
#[derive(Debug)]
pub struct Lock {
    /// Closing it releases the lock.
    file: File,
}

impl Lock {
    /// Takes the lock at `path` and writes this process's id into it.
    ///
    /// A lock whose holder lives is refused at once; one whose holder is dead is waited for (at most 5 s), because a
    /// child that was just being started still has it.
    pub async fn acquire(path: &Path) -> Result<Self, LockError> {
        let fail = |source: io::Error| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Self::sign(file).map_err(fail),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(fail(error.into())),
        }
        let held = |pid| LockError::Held {
            path: path.to_owned(),
            pid,
        };
        if let Some(pid) = holder(path) {
            return Err(held(pid));
        }
        // A plain thread: one of the runtime's would keep the runtime from ending while it waits.
        let (done, taken) = oneshot::channel();
        std::thread::spawn(move || {
            let result = flock(&file, FlockOperation::LockExclusive);
            // A caller that gave up drops the file here, and with it the lock.
            let _ = done.send(result.map(|()| file));
        });
        match tokio::time::timeout(PATIENCE, taken).await {
            Ok(Ok(Ok(file))) => Self::sign(file).map_err(fail),
            Ok(Ok(Err(error))) => Err(fail(error.into())),
            Ok(Err(_)) | Err(_) => Err(held(holder(path).unwrap_or(0))),
        }
    }

    /// Goes on holding a lock that this process has from the program before it.
    pub fn inherit(file: OwnedFd) -> Self {
        Self {
            file: File::from(file),
        }
    }

    /// Returns the open file by which the lock is held, once more.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Returns the process that holds the lock at `path`, if it is held and its holder lives. Takes nothing.
    pub fn holder(path: &Path) -> Option<u32> {
        let file = File::open(path).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => holder(path),
            _ => None,
        }
    }

    fn sign(mut file: File) -> io::Result<Self> {
        let me = process::stat(std::process::id())
            .ok_or_else(|| io::Error::other("cannot read /proc/self/stat"))?;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{} {}\n", me.pid, me.start_time).as_bytes())?;
        Ok(Self { file })
    }
}

/// Takes a lock that excludes everybody, whichever kind of lock they take: `flock` as Python does, or `fcntl` as Java does.
///
/// Returns whether it was free. The lock belongs to the open file and ends with it; the file has to be open for writing.
pub fn try_lock_for_all(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
            flock(file, FlockOperation::Unlock)?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the process that holds a `fcntl` lock for writing on one of these bytes of a file, as far as the kernel tells. Opens
/// nothing: closing a file gives up all such locks that this process has on it.
pub fn writer(path: &Path, bytes: std::ops::RangeInclusive<u64>) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = std::fs::metadata(path).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks
        .lines()
        .find_map(|line| writer_in(line, inode, &bytes))
}

/// Reads a line of `/proc/locks` (proc(5)). The device in it need not be that of `stat`, so it is left aside.
fn writer_in(line: &str, inode: u64, bytes: &std::ops::RangeInclusive<u64>) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    // A line with an arrow is of somebody who waits.
    if (words.next()?, words.next()?, words.next()?) != ("POSIX", "ADVISORY", "WRITE") {
        return None;
    }
    let pid = words.next()?.parse().ok().filter(|pid| *pid != 0)?;
    let its: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
    let first: u64 = words.next()?.parse().ok()?;
    let last = words.next()?;
    let last = if last == "EOF" {
        u64::MAX
    } else {
        last.parse().ok()?
    };
    (its == inode && first <= *bytes.end() && last >= *bytes.start()).then_some(pid)
}

/// Returns the process that signed the file, if it lives.
fn holder(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(64)
        .read_to_string(&mut text)
        .ok()?;
    let mut words = text.split_ascii_whitespace();
    let pid = words.next()?.parse().ok()?;
    let start_time: u64 = words.next()?.parse().ok()?;
    process::stat(pid)
        .filter(|stat| stat.start_time == start_time && stat.is_alive())
        .map(|stat| stat.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refuses_a_second_holder_and_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::acquire(&path).await.unwrap();
        assert_eq!(Lock::holder(&path), Some(std::process::id()));
        match Lock::acquire(&path).await {
            Err(LockError::Held { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(lock);
        assert_eq!(Lock::holder(&path), None);
        Lock::acquire(&path).await.unwrap();
    }

    #[test]
    fn either_kind_of_lock_keeps_others_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let open = || File::create(&path).unwrap();
        let held = open();
        assert!(try_lock_for_all(&held).unwrap());
        assert!(!try_lock_for_all(&open()).unwrap());
        drop(held);
        let python = open();
        flock(&python, FlockOperation::LockExclusive).unwrap();
        assert!(!try_lock_for_all(&open()).unwrap());
        drop(python);
        let java = open();
        let byte = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&java, FcntlArg::F_SETLK(&byte)).unwrap();
        let other = open();
        assert!(!try_lock_for_all(&other).unwrap());
        // Nothing was kept of the half that was free.
        flock(&java, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(java);
        assert!(try_lock_for_all(&other).unwrap());
    }

    #[test]
    fn the_kernel_tells_who_has_locked_bytes_of_a_file() {
        let line = "12: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 120 121";
        for (line, inode, bytes, expected) in [
            (line, 2_531_452, 120..=120, Some(3568)),
            (line, 2_531_452, 121..=200, Some(3568)),
            (line, 2_531_452, 122..=200, None),
            (line, 2_531_453, 120..=120, None),
            (
                "1: POSIX  ADVISORY  WRITE 7 00:1b:5 0 EOF",
                5,
                9..=9,
                Some(7),
            ),
            ("1: POSIX  ADVISORY  READ 7 00:1b:5 0 EOF", 5, 9..=9, None),
            (
                "1: -> POSIX  ADVISORY  WRITE 7 00:1b:5 0 EOF",
                5,
                9..=9,
                None,
            ),
            ("1: OFDLCK ADVISORY  WRITE -1 00:1b:5 0 EOF", 5, 9..=9, None),
            ("1: POSIX  ADVISORY  WRITE 0 00:1b:5 0 EOF", 5, 9..=9, None),
            ("rubbish", 5, 9..=9, None),
            ("", 5, 9..=9, None),
        ] {
            assert_eq!(writer_in(line, inode, &bytes), expected, "{line}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        assert_eq!(writer(&path, 0..=9), None);
        let byte = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 3,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLK(&byte)).unwrap();
        assert_eq!(writer(&path, 0..=9), Some(std::process::id()));
        assert_eq!(writer(&path, 4..=9), None);
    }

    #[tokio::test]
    async fn waits_for_a_lock_that_outlives_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "4194303 1\n").unwrap();
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { Lock::acquire(&path).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(file);
        waiting.await.unwrap().unwrap();
        assert_eq!(Lock::holder(&path), None);
    }
}
