//! A node: the process that supervises the servers of one host.
//!
//! Owns the processes of its servers, their directories, configuration files and logs, and the connections to the
//! built-in Blitzes among them. What has to run is its master's decision; it goes on without a master.
//!
#![doc = include_str!("LIFECYCLE.md")]

mod blitz;
mod board;
mod link;
mod logs;
mod server;
mod supervisor;
mod upgrade;

pub use upgrade::{check, resume};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::descriptor::NodeFacts;
use crate::ice::net::Client;
use crate::ipc::message::node::ServerReport;
use crate::ipc::{Address, AddressError, Heir, Hello, ListenError, Listener, Role, RunDir};
use crate::model::{NodeName, NodeSettings, ServerId};
use crate::sys::host::Host;
use crate::sys::lock::{Lock, LockError};
use crate::sys::memory::OomCounter;
use crate::sys::process;
use crate::sys::reaper::Reaper;
use crate::sys::signals::{Signal, Signals};
use crate::sys::stdio::redirect_to;
use crate::sys::successor::{Successor, receive_signals};
use crate::telemetry::chain;

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub name: NodeName,
    /// `OMERODIR`.
    pub dir: PathBuf,
    /// Where the grid's own files are; `OMERODIR` unless told otherwise.
    pub state: PathBuf,
}

/// A node that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// `OMERODIR` or the directory of state cannot be used.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another node of this name runs, or its lock cannot be taken.
    #[error("cannot take the name of node {name}")]
    Lock {
        /// The node.
        name: NodeName,
        /// What went wrong.
        #[source]
        source: LockError,
    },
    /// The sockets have no place.
    #[error("cannot make a place for the local sockets")]
    RunDir(#[source] AddressError),
    /// The socket cannot be made.
    #[error("cannot listen for a master")]
    Listen(#[source] ListenError),
    /// The kernel refuses something that a supervisor needs.
    #[error("cannot {what}")]
    Kernel {
        /// What was to be done.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl NodeError {
    /// Returns the exit code of DESIGN.md §5.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Lock {
                source: LockError::Held { .. },
                ..
            } => 6,
            Self::Lock {
                source: LockError::Io { .. },
                ..
            }
            | Self::Directory { .. }
            | Self::RunDir(_)
            | Self::Listen(_)
            | Self::Kernel { .. } => 1,
        }
    }
}

/// What all tasks of a node share.
pub(crate) struct Context {
    pub(crate) name: NodeName,
    pub(crate) dir: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) run: RunDir,
    pub(crate) facts: NodeFacts,
    /// The locator of the registry, for servers that have none of their own; `None` where nothing can be registered.
    pub(crate) locator: Mutex<Option<String>>,
    /// How servers are run where their descriptors leave it open.
    pub(crate) settings: Mutex<NodeSettings>,
    /// Calls the processes of Ice servers.
    pub(crate) ice: Client,
    pub(crate) reaper: Reaper,
    pub(crate) boot_id: String,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) oom: OomCounter,
    pub(crate) board: board::Board,
    pub(crate) blitzes: blitz::Blitzes,
    pub(crate) logs_written: logs::Written,
    /// What the program before this one in the same process has seen of each server.
    pub(crate) inherited: Mutex<BTreeMap<ServerId, ServerReport>>,
}

impl Context {
    /// Returns the directory that has one for each server.
    pub(crate) fn servers_dir(&self) -> PathBuf {
        self.home.join("servers")
    }

    /// Returns a server's own directory.
    pub(crate) fn server_dir(&self, id: &ServerId) -> PathBuf {
        self.servers_dir().join(id.as_str())
    }

    /// Returns the registry's locator; `None` where nothing can be registered.
    pub(crate) fn locator(&self) -> Option<String> {
        let locator = self.locator.lock();
        locator.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how servers are run where their descriptors leave it open.
    pub(crate) fn settings(&self) -> NodeSettings {
        let settings = self.settings.lock();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs a node until it is asked to stop and nothing of its servers is left.
///
/// Tells on standard output, in one line of JSON, whether it has started, then turns its output and errors to its log.
/// Needs a current-thread runtime with time and I/O.
///
/// # Errors
///
/// Whatever keeps it from starting; later failures go to its log.
pub async fn run(options: Options) -> Result<(), NodeError> {
    match start(&options, None).await {
        Ok(node) => {
            announce(&serde_json::json!({ "ready": true }));
            let path = node.context.logs.join(format!("node-{}.log", options.name));
            if let Err(error) = redirect_to(&path) {
                error!(%error, path = %path.display(), "cannot write to the log");
            }
            node.serve().await;
            Ok(())
        }
        Err(error) => {
            announce(&serde_json::json!({ "error": chain(&error), "exit": error.exit_code() }));
            Err(error)
        }
    }
}

/// Writes one line for whoever started this process.
fn announce(line: &serde_json::Value) {
    let mut out = io::stdout().lock();
    // Whoever started it may be gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A node that has started.
struct Node {
    context: Arc<Context>,
    supervisor: Arc<supervisor::Supervisor>,
    listener: Listener,
    signals: Signals,
    keeper: logs::Keeper,
    reaping: JoinHandle<()>,
    upgrades: mpsc::Receiver<Successor>,
    lock: Lock,
}

async fn start(options: &Options, left: Option<upgrade::Left>) -> Result<Node, NodeError> {
    let directory = |path: &Path| {
        let path = path.to_owned();
        move |source| NodeError::Directory { path, source }
    };
    let kernel = |what| move |source| NodeError::Kernel { what, source };
    // Marks and socket names are made of these: one spelling for each directory.
    let dir = options
        .dir
        .canonicalize()
        .map_err(directory(&options.dir))?;
    let state = options
        .state
        .canonicalize()
        .map_err(directory(&options.state))?;
    let home = state.join("var").join(options.name.as_str());
    let logs = dir.join("var/log");
    for path in [&home.join("servers"), &logs] {
        server::launch::make_dir(path, None).map_err(directory(path))?;
    }
    let (held, socket, servers) = match left {
        Some(left) => (Some(left.lock), Some(left.socket), left.servers),
        None => (None, None, Vec::new()),
    };
    let lock = match held {
        Some(lock) => lock,
        None => Lock::acquire(&home.join("node.lock"))
            .await
            .map_err(|source| NodeError::Lock {
                name: options.name.clone(),
                source,
            })?,
    };
    std::env::set_current_dir(&dir).map_err(directory(&dir))?;
    process::become_subreaper().map_err(kernel("become the parent of orphans"))?;
    let signals = Signals::new().map_err(kernel("receive signals"))?;
    let children = servers.iter().filter_map(|server| server.pid);
    let (reaper, reaping) = Reaper::start_with(children).map_err(kernel("wait for children"))?;
    receive_signals();
    let (keeper, logs_written) = logs::Keeper::new().map_err(kernel("watch logs"))?;
    let run = RunDir::create(&state).map_err(NodeError::RunDir)?;
    let address = run.socket(Address::Node(&options.name));
    let listener = match socket {
        Some(socket) => {
            Listener::inherit(socket, &address, &[]).map_err(kernel("go on listening"))?
        }
        None => Listener::bind(&address, &[]).map_err(NodeError::Listen)?,
    };
    let host = Host::read().map_err(|error| kernel("ask for the host's name")(error.into()))?;
    let context = Arc::new(Context {
        name: options.name.clone(),
        facts: NodeFacts {
            os: host.os,
            hostname: host.hostname,
            release: host.release,
            version: host.version,
            machine: host.machine,
            data_dir: home.to_string_lossy().into_owned(),
            ..NodeFacts::default()
        },
        locator: Mutex::default(),
        settings: Mutex::default(),
        ice: server::admin::client(),
        boot_id: process::boot_id().map_err(kernel("read the boot id"))?,
        env: std::env::vars_os()
            .filter(|(name, _)| !server::launch::is_private(name))
            .collect(),
        oom: OomCounter::find(),
        board: board::Board::new(),
        blitzes: blitz::Blitzes::new(),
        dir,
        state,
        home,
        logs,
        run,
        reaper,
        logs_written,
        inherited: Mutex::new(servers.into_iter().map(|s| (s.id.clone(), s)).collect()),
    });
    let (upgrade, upgrades) = mpsc::channel(1);
    Ok(Node {
        supervisor: Arc::new(supervisor::Supervisor::new(context.clone(), upgrade)),
        context,
        listener,
        signals,
        keeper,
        reaping,
        upgrades,
        lock,
    })
}

/// The node's socket while it is served.
struct Front {
    end: watch::Sender<bool>,
    serving: JoinHandle<()>,
    /// Absent if the kernel has no descriptor left; then there is no upgrade in place.
    heir: Option<Heir>,
}

impl Front {
    fn open(listener: Listener, supervisor: &Arc<supervisor::Supervisor>) -> Self {
        let (end, ended) = watch::channel(false);
        let me = Hello::new(Role::Node, supervisor.context().name.as_str());
        let answers = Arc::new(link::Answers(supervisor.clone()));
        let heir = listener
            .heir()
            .map_err(|error| warn!(%error, "cannot keep the socket for a successor"))
            .ok();
        Self {
            end,
            serving: tokio::spawn(listener.serve(me, answers, ended)),
            heir,
        }
    }

    /// Ends every connection, once what is queued is written.
    async fn close(self) {
        self.end.send_replace(true);
        if let Err(error) = self.serving.await {
            warn!(%error, "the task of the socket failed");
        }
    }
}

impl Node {
    async fn serve(self) {
        let Self {
            context,
            supervisor,
            listener,
            mut signals,
            keeper,
            reaping,
            mut upgrades,
            lock,
        } = self;
        info!(node = %context.name, pid = std::process::id(), "node started");
        let mut front = Front::open(listener, &supervisor);
        let keeping = tokio::spawn(keeper.run());
        let mut stopping = supervisor.stopping();
        loop {
            tokio::select! {
                // Cancel safe: a watch and a signal.
                _ = stopping.wait_for(|stopping| *stopping) => break,
                signal = signals.recv() => match signal {
                    Ok(Signal::Terminate | Signal::Interrupt | Signal::Quit) => break,
                    // Its master reads files again, not a node.
                    Ok(Signal::Hangup | Signal::User1) => {}
                    Err(error) => {
                        error!(%error, "cannot receive signals any more; stops");
                        break;
                    }
                },
                Some(successor) = upgrades.recv() => {
                    match upgrade::hand_over(front, &supervisor, &lock, &successor).await {
                        Ok(as_before) => front = as_before,
                        Err(error) => {
                            error!(%error, "cannot go on listening; ends, its servers go on, and its master starts the node anew");
                            return;
                        }
                    }
                }
            }
        }
        info!(node = %context.name, "node stops");
        supervisor.stop();
        supervisor.stop_all().await;
        front.close().await;
        keeping.abort();
        reaping.abort();
        info!(node = %context.name, "node stopped");
    }
}
