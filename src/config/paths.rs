//! The files of a grid (DESIGN.md §4).

use std::path::{Path, PathBuf};

use crate::model::{NodeName, ServerId};

/// Where a grid keeps its files: OMERODIR and the directory of its state, which may be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    dir: PathBuf,
    state: PathBuf,
    /// Where servers write, if that is not where the logs are.
    output: Option<PathBuf>,
}

impl Paths {
    /// Takes OMERODIR and the state directory; both have to be absolute.
    pub fn new(dir: PathBuf, state: PathBuf) -> Self {
        Self {
            dir,
            state,
            output: None,
        }
    }

    /// Says where servers write, if that is not where the logs are.
    pub fn set_output(&mut self, output: Option<PathBuf>) {
        self.output = output;
    }

    /// Returns OMERODIR.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory that holds `var/grid`, `var/run` and the like.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Returns the master's own directory.
    pub fn grid(&self) -> PathBuf {
        self.state.join("var/grid")
    }

    /// Returns the lock of the one master.
    pub fn master_lock(&self) -> PathBuf {
        self.grid().join("lock")
    }

    /// Returns the master's own store.
    pub fn state_db(&self) -> PathBuf {
        self.grid().join("state.db")
    }

    /// Returns the file that says where the registry listens, or last did.
    pub fn registry(&self) -> PathBuf {
        self.grid().join("registry")
    }

    /// Returns the file with the grid's own id, which tells it from other grids on the same store.
    pub fn grid_id(&self) -> PathBuf {
        self.grid().join("id")
    }

    /// Returns the file with the sessions of Blitzes that only read their database.
    pub fn kept_sessions(&self) -> PathBuf {
        self.grid().join("sessions.db")
    }

    /// Returns the embedded store of users and sessions.
    pub fn store(&self) -> PathBuf {
        self.state.join("var/grid.db")
    }

    /// Returns the file with the initial password of `root`.
    pub fn root_password(&self) -> PathBuf {
        self.state.join("var/root-password")
    }

    /// Returns the master's pid file, where OMERO has it.
    pub fn master_pid(&self) -> PathBuf {
        self.state.join("var/master/master.pid")
    }

    /// Returns the directory of a node.
    pub fn node(&self, node: &NodeName) -> PathBuf {
        self.state.join("var").join(node.as_str())
    }

    /// Returns the lock of the one process of a node.
    pub fn node_lock(&self, node: &NodeName) -> PathBuf {
        self.node(node).join("node.lock")
    }

    /// Returns the directory of the logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("var/log")
    }

    /// Returns the master's log.
    pub fn master_log(&self) -> PathBuf {
        self.logs().join("grid.log")
    }

    /// Returns a node's log.
    pub fn node_log(&self, node: &NodeName) -> PathBuf {
        self.logs().join(format!("node-{node}.log"))
    }

    /// Returns the file of a server's standard output or error: `stream` is `out` or `err`.
    pub fn server_log(&self, server: &ServerId, stream: &str) -> PathBuf {
        let dir = self.output.clone().unwrap_or_else(|| self.logs());
        dir.join(format!("{server}.{stream}"))
    }
}
