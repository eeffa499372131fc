//! How nodes run their servers where the descriptor leaves it open.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a site says of its nodes. The names in brackets are those of IceGrid's properties.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSettings {
    /// The directory of what servers write, in place of that of the logs (`IceGrid.Node.Output`).
    pub output: Option<PathBuf>,
    /// Whether a server's errors go where its output goes (`IceGrid.Node.RedirectErrToOut`).
    pub is_one_file: bool,
    /// The time to become active, and that to end, of servers whose descriptor has none (`IceGrid.Node.WaitTime`).
    pub wait: Option<Duration>,
    /// The least pause after a server has failed (`IceGrid.Node.DisableOnFailure`).
    pub pause: Duration,
    /// What is in every server's configuration in place of what its descriptor says (`IceGrid.Node.PropertiesOverride`).
    pub properties: Vec<(String, String)>,
}
