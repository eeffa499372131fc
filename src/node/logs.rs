//! Rotation of what servers write: by size, by copying, so that a server's descriptor stays good.
//!
//! The kernel says once that a file was written to; no earlier than [`PAUSE`] later its size is looked at. A node whose servers
//! are silent does not wake.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::model::ServerId;
use crate::sys::watch::{Watch, Writes};

/// How long after a write the size is looked at.
const PAUSE: Duration = Duration::from_secs(10);

/// The size from which a file is rotated, in bytes.
pub(crate) const MAX_SIZE: u64 = 50 * 1024 * 1024;

/// How many old files are kept.
const KEPT: u32 = 5;

/// Tells the keeper of the logs which servers write.
#[derive(Debug, Clone)]
pub(crate) struct Written(mpsc::Sender<(PathBuf, PathBuf)>);

impl Written {
    /// Says that the server's logs, its output and errors, are there and are written to from now on.
    pub(crate) fn watch(&self, id: &ServerId, logs: (PathBuf, PathBuf)) {
        // Full only while very many servers start at once; the next start of the server tells again.
        if self.0.try_send(logs).is_err() {
            warn!(server = %id, "its logs are not rotated for now");
        }
    }
}

/// Rotates the logs of a node's servers.
pub(crate) struct Keeper {
    writes: Writes,
    servers: mpsc::Receiver<(PathBuf, PathBuf)>,
    watched: HashMap<Watch, PathBuf>,
    due: HashMap<PathBuf, Instant>,
}

impl Keeper {
    /// Makes the keeper of the logs. Needs a running runtime.
    pub(crate) fn new() -> io::Result<(Self, Written)> {
        let (tell, servers) = mpsc::channel(4096);
        let keeper = Self {
            writes: Writes::new()?,
            servers,
            watched: HashMap::new(),
            due: HashMap::new(),
        };
        Ok((keeper, Written(tell)))
    }

    /// Rotates until all who tell are gone.
    pub(crate) async fn run(mut self) {
        loop {
            let next = self.due.values().min().copied();
            tokio::select! {
                // Every arm is cancel safe: a channel, a readiness, a clock.
                logs = self.servers.recv() => match logs {
                    Some((out, err)) => {
                        if err != out {
                            self.watch(err);
                        }
                        self.watch(out);
                    }
                    None => return,
                },
                written = self.writes.next() => match written {
                    Ok(watches) => {
                        for path in watches.iter().filter_map(|watch| self.watched.remove(watch)) {
                            self.due.entry(path).or_insert_with(|| Instant::now() + PAUSE);
                        }
                    }
                    Err(error) => {
                        warn!(%error, "cannot watch logs any more; they are not rotated");
                        return;
                    }
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.look().await,
            }
        }
    }

    fn watch(&mut self, path: PathBuf) {
        match self.writes.once(&path) {
            Ok(watch) => drop(self.watched.insert(watch, path)),
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot watch a log; it is not rotated")
            }
        }
    }

    async fn look(&mut self) {
        let now = Instant::now();
        let ripe: Vec<PathBuf> = self
            .due
            .extract_if(|_, at| *at <= now)
            .map(|(path, _)| path)
            .collect();
        for path in ripe {
            if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_SIZE) {
                let file = path.clone();
                match tokio::task::spawn_blocking(move || rotate(&file)).await {
                    Ok(Ok(())) => info!(path = %path.display(), "rotated a log"),
                    Ok(Err(error)) => warn!(path = %path.display(), %error, "cannot rotate a log"),
                    Err(error) => warn!(path = %path.display(), %error, "rotating a log failed"),
                }
            }
            self.watch(path);
        }
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Moves what is in the file to `PATH.1`, older ones to `PATH.2` and so on.
///
/// Where the file system can, what was copied is taken out of the file as a whole number of blocks, so that a line that is
/// written meanwhile stays in it. Else the file is cut to nothing right after its end was copied.
pub(crate) fn rotate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    for number in (1..KEPT).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(numbered(path, 1))?;
    let metadata = file.metadata()?;
    let block = metadata.blksize().max(1);
    let whole = metadata.len() / block * block;
    let reader = &file;
    io::copy(&mut reader.take(whole), &mut copy)?;
    let length = i64::try_from(whole).map_err(io::Error::other)?;
    // The whole file cannot be collapsed, only what comes before something.
    if whole < metadata.len() || file.metadata()?.len() > whole {
        let collapse = FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
        if fallocate(&file, collapse, 0, length).is_ok() {
            return Ok(());
        }
    }
    copy_rest(&file, &mut copy)?;
    file.set_len(0)
}

/// Copies what was written since, until there is no more at the moment.
fn copy_rest(file: &File, copy: &mut File) -> io::Result<()> {
    let mut reader = file;
    while io::copy(&mut reader, copy)? != 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn no_line_is_lost_and_old_files_are_numbered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("S.out");
        let mut writer = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap();
        let mut expected = Vec::new();
        for n in 0..20_000 {
            expected.extend_from_slice(format!("{n}\n").as_bytes());
        }
        writer.write_all(&expected).unwrap();
        rotate(&path).unwrap();
        writer.write_all(b"after\n").unwrap();
        expected.extend_from_slice(b"after\n");
        let mut all = fs::read(numbered(&path, 1)).unwrap();
        all.extend(fs::read(&path).unwrap());
        assert!(all == expected);
        assert!(fs::metadata(&path).unwrap().len() < 10_000);
        for _ in 0..KEPT + 2 {
            rotate(&path).unwrap();
        }
        assert!(numbered(&path, KEPT).exists());
        assert!(!numbered(&path, KEPT + 1).exists());
    }
}
