//! Node processes: starting one from our own binary, and finding what an earlier one left.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::config::Paths;
use crate::model::NodeName;
use crate::sys::marks;
use crate::sys::process::{PidFd, Table};
use crate::sys::spawn::{Spawn, SpawnError};
use crate::sys::successor::INHERITED;

/// How long a node may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest report of a start, in bytes.
const MAX_REPORT: u64 = 64 * 1024;

/// Variables that are ours or systemd's and meant for this process alone.
const PRIVATE: [&str; 8] = [
    INHERITED,
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "MAINPID",
];

/// A node's process that could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// There is no pipe for its report.
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
    /// There is no process.
    #[error("cannot run this program again")]
    Spawn(#[source] SpawnError),
    /// It says why it could not start.
    #[error("{0}")]
    Reported(String),
    /// It ended without a word.
    #[error("it ended before it listened; see its log")]
    Silent,
    /// It neither listened nor ended.
    #[error("it did not listen within {PATIENCE:?}")]
    Late,
}

/// What became of a start.
pub(crate) enum NodeProcess {
    /// It listens.
    Ready { pid: u32 },
    /// Another process holds the node's name.
    NameTaken,
}

/// What a starting process says of itself on its standard output, in one line.
#[derive(Debug, Deserialize)]
struct Report {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    exit: Option<u8>,
}

/// Returns this process' environment without what is meant for it alone.
pub(crate) fn inherited_environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| !PRIVATE.iter().any(|private| name == private))
        .collect()
}

/// Starts the process of a node by `spawn` and waits until it listens.
///
/// `spawn` returns the pid: the master has a reaper to tell of its children, a command has none.
pub(crate) async fn start(
    node: &NodeName,
    paths: &Paths,
    spawn: impl FnOnce(&Spawn<'_>) -> Result<u32, SpawnError>,
) -> Result<NodeProcess, StartError> {
    let (read, write) = io::pipe().map_err(StartError::Pipe)?;
    let write = OwnedFd::from(write);
    let args: Vec<OsString> = [
        OsStr::new("node-process"),
        OsStr::new("--name"),
        OsStr::new(node.as_str()),
        OsStr::new("--dir"),
        paths.dir().as_os_str(),
        OsStr::new("--state"),
        paths.state().as_os_str(),
    ]
    .map(OsStr::to_owned)
    .into();
    let env = inherited_environment();
    let pid = {
        let mut process = Spawn::new("/proc/self/exe", &args, &env, paths.dir());
        process.argv0 = Some(OsStr::new("omero-grid"));
        process.stdout = Some(&write);
        process.stderr = Some(&write);
        process.new_session = true;
        spawn(&process).map_err(StartError::Spawn)?
    };
    // The node's is the only writing end left: it closing is the end of the report.
    drop(write);
    let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(read)).map_err(StartError::Pipe)?;
    let line = tokio::time::timeout(PATIENCE, read_line(reader))
        .await
        .map_err(|_| StartError::Late)?;
    let Ok(report) = serde_json::from_slice::<Report>(line.trim_ascii()) else {
        let text = String::from_utf8_lossy(line.trim_ascii()).into_owned();
        return Err(if text.is_empty() {
            StartError::Silent
        } else {
            StartError::Reported(text)
        });
    };
    match report {
        Report { ready: true, .. } => Ok(NodeProcess::Ready { pid }),
        Report { exit: Some(6), .. } => Ok(NodeProcess::NameTaken),
        Report { error, .. } => Err(error.map_or(StartError::Silent, StartError::Reported)),
    }
}

async fn read_line(reader: pipe::Receiver) -> Vec<u8> {
    let mut line = Vec::new();
    let mut reader = reader.take(MAX_REPORT);
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = reader.read(&mut chunk).await {
        line.extend_from_slice(&chunk[..count]);
        if line.contains(&b'\n') {
            break;
        }
    }
    line
}

/// A node's process, whoever started it.
pub(crate) struct Handle(Option<PidFd>);

/// Returns a handle on the process that answered on a node's socket.
pub(crate) fn handle(pid: u32) -> Handle {
    let opened = PidFd::of(pid);
    Handle(opened)
}

impl Handle {
    /// Waits until the process has ended.
    pub(crate) async fn ended(&self) {
        if let Some(process) = &self.0 {
            let _ = process.ended().await;
        }
    }
}

/// Returns whether servers of a node are alive: processes with its mark.
pub(crate) fn has_leftovers(paths: &Paths, node: &NodeName) -> bool {
    let servers = paths.node(node).join("servers");
    // The usual case at a first start, which need not look at every process.
    if std::fs::read_dir(&servers).map_or(true, |mut entries| entries.next().is_none()) {
        return false;
    }
    let Ok(table) = Table::read() else {
        return false;
    };
    marks::carriers(&table, paths.dir())
        .any(|(_, mark)| servers.join(mark.server.as_str()).exists())
}
