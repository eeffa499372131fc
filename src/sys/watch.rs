//! Waiting for files by inotify(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::readable::{Owns, readable};

struct Fd(Inotify);

impl Owns for Fd {}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

const WRITTEN: AddWatchFlags = AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_MOVE_SELF);

/// A watch on one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Watch(WatchDescriptor);

/// Tells, once for each watch, that a file was written to. One inotify instance serves any number of files: a user has few.
pub struct Writes(AsyncFd<Fd>);

impl Writes {
    /// Opens an inotify instance. Needs a running runtime.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self(readable(Fd(inotify))?))
    }

    /// Watches for the next write to the file at `path`, and only that one. That the file is moved away counts as a write: what is written
    /// next at `path` is written to another.
    pub fn once(&self, path: &Path) -> io::Result<Watch> {
        let flags = WRITTEN | AddWatchFlags::IN_ONESHOT;
        Ok(Watch(self.0.get_ref().0.add_watch(path, flags)?))
    }

    /// Waits until at least one watch has something to tell. Cancel safe.
    pub async fn next(&self) -> io::Result<Vec<Watch>> {
        loop {
            let events = read(&self.0).await?;
            let written: Vec<_> = events
                .into_iter()
                .filter(|event| event.mask.intersects(WRITTEN))
                .map(|event| Watch(event.wd))
                .collect();
            if !written.is_empty() {
                return Ok(written);
            }
        }
    }
}

async fn read(fd: &AsyncFd<Fd>) -> io::Result<Vec<nix::sys::inotify::InotifyEvent>> {
    fd.async_io(Interest::READABLE, |fd| match fd.0.read_events() {
        Ok(events) => Ok(events),
        Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    })
    .await
}

/// Tells that something appeared in a directory, under whatever name.
pub struct Arrivals(AsyncFd<Fd>);

impl Arrivals {
    /// Watches a directory from now on. Needs a running runtime.
    pub fn watch(dir: &Path) -> io::Result<Self> {
        Self::of(dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
    }

    /// Watches a directory also for files that were written, or have gone.
    pub fn and_writes(dir: &Path) -> io::Result<Self> {
        let come = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        Self::of(dir, come | gone | AddWatchFlags::IN_CLOSE_WRITE)
    }

    fn of(dir: &Path, events: AddWatchFlags) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(dir, events)?;
        Ok(Self(readable(Fd(inotify))?))
    }

    /// Waits until something has appeared since the last call. Cancel safe.
    pub async fn next(&self) -> io::Result<()> {
        read(&self.0).await.map(drop)
    }
}

/// Waits until `path` exists. Its directory has to exist. Cancel safe.
pub async fn appearance(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let arrivals = Arrivals::watch(path.parent().unwrap_or(Path::new("/")))?;
    // Looked at again after the watch is set: what came between would not be told.
    while !path.try_exists()? {
        arrivals.next().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_appears_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { appearance(&path).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::write(dir.path().join("other"), "").unwrap();
        tokio::task::yield_now().await;
        let other = dir.path().join("new");
        std::fs::write(&other, "").unwrap();
        std::fs::rename(&other, &path).unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn each_watch_tells_one_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "").unwrap();
        let writes = Writes::new().unwrap();
        let watch = writes.once(&path).unwrap();
        std::fs::write(&path, "a").unwrap();
        std::fs::write(&path, "b").unwrap();
        assert_eq!(writes.next().await.unwrap(), [watch]);
        let silent = tokio::time::timeout(std::time::Duration::from_millis(20), writes.next());
        assert!(silent.await.is_err());
        let watch = writes.once(&path).unwrap();
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        assert_eq!(writes.next().await.unwrap(), [watch]);
    }
}
