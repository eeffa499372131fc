//! `servers/ID/process.json`: what a node needs to know of a server's process to adopt it.
//!
//! Only a cache: the mark in the process's environment is what counts, so that losing the file loses nothing but readiness, times and what an
//! Ice server has registered.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::launch::write_private;
use crate::sys::process::ProcessId;

/// The largest record that is written or read, in bytes.
const MAX_SIZE: usize = 4 * 1024 * 1024;

/// What is known of a server's last process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Names the run, as the process's mark does; empty if there was none.
    pub(crate) instance: String,
    /// The process; absent while it is being started.
    #[serde(default)]
    pub(crate) process: Option<ProcessId>,
    /// When it was started, milliseconds since 1970.
    #[serde(default)]
    pub(crate) started_ms: u64,
    /// How long it took to become ready, in milliseconds; absent while it is not.
    #[serde(default)]
    pub(crate) ready_after_ms: Option<u64>,
    /// Which definition it has: that which it was started with, and what it was told since.
    #[serde(default)]
    pub(crate) fingerprint: String,
    /// The same without properties.
    #[serde(default)]
    pub(crate) shape: String,
    /// Whether it ended with code 0 and is not to be started again for that (not `always`).
    #[serde(default)]
    pub(crate) finished: bool,
    /// Whether what it registers makes it ready, and nothing else.
    #[serde(default)]
    pub(crate) registers: bool,
    /// Where the adapters of the process listen (written proxies), by id.
    #[serde(default)]
    pub(crate) adapters: BTreeMap<String, String>,
    /// Where the process can be asked to end (a written proxy).
    #[serde(default)]
    pub(crate) process_proxy: Option<String>,
}

impl Record {
    /// Reads a record; `None` if there is none that can be understood.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).ok()?;
        file.take(MAX_SIZE as u64).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Puts the record in the place of the last one. Not synced: after a crash of the machine there are no processes.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        if bytes.len() > MAX_SIZE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        write_private(path, &bytes, None)
    }

    /// Forgets what the process has said of itself.
    pub(crate) fn forget_registrations(&mut self) {
        self.adapters.clear();
        self.process_proxy = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn can_round_trip_and_survives_rubbish() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("process.json");
        assert_eq!(Record::read(&path), None);
        let record = Record {
            instance: "1a".to_owned(),
            process: ProcessId::of(std::process::id()),
            ready_after_ms: Some(7),
            adapters: [("A".to_owned(), "dummy -t:tcp -h h -p 1".to_owned())].into(),
            process_proxy: Some("a/admin -f Process:tcp -h h -p 1".to_owned()),
            ..Record::default()
        };
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path), Some(record));
        std::fs::write(&path, "{\"instance\":").unwrap();
        assert_eq!(Record::read(&path), None);
        std::fs::write(&path, "{\"instance\":\"2\",\"new\":1}").unwrap();
        assert_eq!(Record::read(&path).unwrap().instance, "2");
        let vast = Record {
            process_proxy: Some("x".repeat(MAX_SIZE)),
            ..Record::default()
        };
        assert!(vast.write(&path).is_err());
        assert_eq!(Record::read(&path).unwrap().instance, "2");
    }
}
