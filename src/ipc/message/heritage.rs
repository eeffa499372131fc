//! Process → its successor in place (`upgrade`): what it goes on from. Read by a newer release, or by an older one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::node::ServerReport;
use crate::model::NodeName;
use crate::telemetry::LogFormat;

/// The version of the document. A successor refuses another one.
pub const FORMAT: u32 = 1;

/// What a process leaves to its successor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heritage {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of the program that left it.
    pub version: String,
    /// The name of the process in the list of processes.
    pub process_name: String,
    /// OMERODIR.
    pub dir: PathBuf,
    /// The directory of the state.
    pub state: PathBuf,
    /// The lock files that it holds: path and descriptor.
    pub locks: Vec<(PathBuf, i32)>,
    /// The descriptor of the socket that it listens on.
    pub socket: i32,
    /// How it logs.
    pub log: Log,
    /// What depends on what the process is.
    pub role: HeritageRole,
}

/// How a process logs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Log {
    /// The form of the lines.
    pub format: LogFormat,
    /// `-v`, counted.
    pub verbose: u8,
    /// Whether the lines go to standard error too.
    pub stderr: bool,
}

/// What a master or a node leaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HeritageRole {
    /// A master: what is deployed and wanted is in its store.
    Master {
        /// When it was started, milliseconds since 1970.
        started_ms: u64,
        /// How long systemd is asked to wait for the start, in seconds.
        wait_secs: u64,
        /// Properties of the registry that were given to its start.
        #[serde(default)]
        ice: Vec<(String, String)>,
        /// The descriptors of the sockets that the registry listens on.
        #[serde(default)]
        registry: Vec<i32>,
    },
    /// A node: what it has to run is its master's to say.
    Node {
        /// Its name.
        name: NodeName,
        /// Its servers as it has seen them. Their processes are its children.
        servers: Vec<ServerReport>,
    },
}
