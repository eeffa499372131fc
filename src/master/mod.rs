//! The master: the one process that owns the grid.
//!
#![doc = include_str!("LIFECYCLE.md")]

mod allocation;
mod configuration;
mod core;
mod desired;
mod directory;
mod drain;
mod handle;
mod handler;
mod incidents;
mod loads;
mod node_task;
mod placement;
mod plan;
mod process;
mod redirect;
mod refused;
mod registry;
mod services;
mod sessions;
mod shared;
mod state;
mod systemd;
mod upgrade;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

pub use self::allocation::Facts as Wanted;
use self::core::{Command, Core};
pub use self::core::{Edit, Edition, LoadError, Make};
pub(crate) use self::desired::Deployed;
use self::desired::{Change, Desired, Selection};
pub use self::handle::Handle;
use self::handler::ClientHandler;
use self::placement::Allocator;
pub(crate) use self::process::{NodeProcess, inherited_environment, start as start_node};
pub use self::registry::{Adapter, Allocatable, Group, Host, Object, Registry};
use self::shared::Shared;
use self::state::{Happening, StateDb, StateError};
use self::upgrade::UpgradePlan;
pub use self::upgrade::check;
use crate::config::{Paths, site};
use crate::ipc::message::client::{ClientLink, DeployMode, DescriptorSource};
use crate::ipc::message::heritage::Log;
use crate::ipc::message::node::NodeLink;
use crate::ipc::{
    Address, AddressError, Client, ConnectError, Heir, Hello, ListenError, Listener, Role, RunDir,
};
use crate::model::{NodeName, NodeSettings};
use crate::store::{self, ChoiceError, Postgres, StoreChoice, StoreError};
use crate::sys::clock;
use crate::sys::lock::{Lock, LockError};
use crate::sys::reaper::Reaper;
use crate::sys::signals::{Signal, Signals};
use crate::sys::successor::receive_signals;
use crate::telemetry::chain;

/// How many commands may wait for the core.
const COMMANDS: usize = 64;

/// How long a node may take to answer whoever asks whether it lives.
const ANSWER: Duration = Duration::from_secs(1);

/// What the master is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the grid's files are.
    pub paths: Paths,
    /// The descriptor to deploy; the last deployed one if absent.
    pub descriptor: Option<DescriptorSource>,
    /// Whether the compiled-in descriptor is deployed where there is no other.
    pub builtin: bool,
    /// Whether a grid without applications is meant: they come over Ice.
    pub bare: bool,
    /// Start these nodes and no others.
    pub nodes: Vec<NodeName>,
    /// Start every node, manual ones too.
    pub all: bool,
    /// How long systemd is asked to wait for the start.
    pub wait: Duration,
    /// How it logs, for its successor.
    pub log: Log,
    /// Properties of the registry that were given to its start, for its successor.
    pub ice: Vec<(String, String)>,
}

/// A master that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// There is one already.
    #[error("this grid is already running (master is process {pid}{})", if_stopped(*pid))]
    Running {
        /// The master's pid.
        pid: u32,
    },
    /// A process that is none of ours, or has not said who it is, has the lock.
    #[error("another process holds the lock {path} and does not say who it is")]
    LockTaken {
        /// The lock.
        path: PathBuf,
    },
    /// Another grid works on the same data.
    #[error("another grid (process {pid}) uses the data directory {path}")]
    DataTaken {
        /// The data directory.
        path: PathBuf,
        /// The process that holds it.
        pid: u32,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A lock cannot be taken.
    #[error("cannot lock the grid")]
    Lock(#[source] LockError),
    /// The descriptor or the site's configuration does not hold.
    #[error("{0}")]
    Load(LoadError),
    /// There is nothing to start.
    #[error("there is no descriptor: nothing was deployed before, and there is no {0}")]
    NoDescriptor(PathBuf),
    /// A node that was named is not in the descriptor.
    #[error("there is no node '{name}' in the descriptor; it has {known}")]
    NoSuchNode {
        /// The name.
        name: NodeName,
        /// The names there are.
        known: String,
    },
    /// The grid's state cannot be used.
    #[error(transparent)]
    State(StateFault),
    /// The store of users and sessions cannot be used.
    #[error("cannot use the store of users and sessions")]
    Store(#[source] StoreError),
    /// The properties do not name a store (exit code 4).
    #[error("cannot tell where users and sessions are kept")]
    StoreChoice(#[source] ChoiceError),
    /// The local sockets cannot be made.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The master's socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system refuses something basic.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A state store that cannot be used; see its text.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StateFault(StateError);

/// A master that holds the grid's locks and has not begun to serve.
pub struct Master {
    options: Options,
    desired: Desired,
    db: StateDb,
    run_dir: RunDir,
    listener: Listener,
    /// What was typed beside an older deployment that still runs: deployed once its nodes are adopted.
    later: Option<DescriptorSource>,
    notices: Vec<String>,
    locks: Vec<(PathBuf, Lock)>,
    /// When the process was started, if another program has run in it before; milliseconds since 1970.
    started_ms: Option<u64>,
    shared: Arc<Shared>,
    commands: (mpsc::Sender<Command>, mpsc::Receiver<Command>),
    /// The registry's locator, where it listens: a written proxy.
    locator: Option<String>,
    /// What the registry listens on, to be left to a successor.
    registry: Vec<OwnedFd>,
    /// How servers are run where their descriptors leave it open.
    settings: NodeSettings,
}

impl Master {
    /// Takes the grid's locks, reads what is wanted, and listens.
    ///
    /// Nothing is started yet, and users have no store yet: see [`Self::prepare_store`]. Needs a running runtime.
    pub async fn prepare(options: Options) -> Result<Self, MasterError> {
        let paths = &options.paths;
        private_dir(&paths.grid()).map_err(|source| MasterError::Directory {
            path: paths.grid(),
            source,
        })?;
        let lock = Lock::acquire(&paths.master_lock())
            .await
            .map_err(|error| match error {
                LockError::Held { path, pid: 0 } => MasterError::LockTaken { path },
                LockError::Held { pid, .. } => MasterError::Running { pid },
                error => MasterError::Lock(error),
            })?;
        let mut locks = vec![(paths.master_lock(), lock)];
        let run_dir = RunDir::create(paths.state())?;
        let (mut db, mut desired) = StateDb::open(&paths.state_db())
            .map_err(|error| MasterError::State(StateFault(error)))?;
        let mut notices = Vec::new();
        let later =
            adopt_or_deploy(&options, &run_dir, &mut db, &mut desired, &mut notices).await?;
        if let Some(data) = data_dir(&desired, paths) {
            match Lock::acquire(&beside(&data)).await {
                Ok(lock) => locks.push((beside(&data), lock)),
                Err(LockError::Held { pid, .. }) => {
                    return Err(MasterError::DataTaken { path: data, pid });
                }
                Err(error) => {
                    warn!(path = %data.display(), error = %chain(&error), "cannot lock the data directory")
                }
            }
        }
        let listener = Listener::bind(&run_dir.socket(Address::Master), &[])?;
        write_pid(&paths.master_pid());
        Ok(Self {
            desired,
            db,
            run_dir,
            listener,
            later,
            notices,
            locks,
            started_ms: None,
            shared: Arc::new(Shared::new()),
            commands: mpsc::channel(COMMANDS),
            locator: None,
            registry: Vec::new(),
            settings: NodeSettings::default(),
            options,
        })
    }

    /// Sees to it that Blitzes find a store, and makes the user `root` where there is none.
    ///
    /// What else may keep the grid from starting comes before it: where root's password is kept is said once.
    pub async fn prepare_store(&mut self) -> Result<(), MasterError> {
        let notice = prepare_store(&self.desired, &self.options.paths).await?;
        self.notices.extend(notice);
        Ok(())
    }

    /// Goes on where the program before this one in the same process has stopped: with its locks (each with its path) and its socket.
    ///
    /// Needs a running runtime.
    pub fn inherit(
        options: Options,
        locks: Vec<(PathBuf, OwnedFd)>,
        socket: OwnedFd,
        started_ms: u64,
    ) -> Result<Self, MasterError> {
        let paths = &options.paths;
        let run_dir = RunDir::create(paths.state())?;
        let (db, desired) = StateDb::open(&paths.state_db())
            .map_err(|error| MasterError::State(StateFault(error)))?;
        let path = run_dir.socket(Address::Master);
        let listener =
            Listener::inherit(socket, &path, &[]).map_err(|source| MasterError::System {
                what: "go on listening",
                source,
            })?;
        let locks = locks.into_iter();
        Ok(Self {
            desired,
            db,
            run_dir,
            listener,
            later: None,
            notices: vec![format!(
                "goes on as version {} in the same process",
                env!("CARGO_PKG_VERSION")
            )],
            locks: locks
                .map(|(path, file)| (path, Lock::inherit(file)))
                .collect(),
            started_ms: Some(started_ms),
            shared: Arc::new(Shared::new()),
            commands: mpsc::channel(COMMANDS),
            locator: None,
            registry: Vec::new(),
            settings: NodeSettings::default(),
            options,
        })
    }

    /// Returns the grid for its faces. What they ask is answered once the master serves.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
            commands: self.commands.0.clone(),
            paths: self.options.paths.clone(),
        }
    }

    /// Says where servers find the registry: its locator, a written proxy, and what it listens on, for a successor.
    pub fn set_registry(&mut self, locator: String, sockets: Vec<OwnedFd>) {
        self.locator = Some(locator);
        self.registry = sockets;
    }

    /// Says how servers are run where their descriptors leave it open.
    pub fn set_node_settings(&mut self, settings: NodeSettings) {
        self.options.paths.set_output(settings.output.clone());
        self.settings = settings;
    }

    /// Returns what whoever starts the grid should know.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Takes the descriptor that was named beside an older deployment that still runs. Whoever takes it has to deploy it
    /// once the nodes are adopted, so that nobody's session ends unasked; `serve` does it otherwise.
    pub fn take_later(&mut self) -> Option<DescriptorSource> {
        self.later.take()
    }

    /// Serves until the grid is stopped.
    pub async fn serve(self) -> Result<(), MasterError> {
        let system = |what| move |source| MasterError::System { what, source };
        crate::sys::process::become_subreaper().map_err(system("become the parent of orphans"))?;
        let (reaper, reaping) = Reaper::start().map_err(system("wait for children"))?;
        let signals = Signals::new().map_err(system("receive signals"))?;
        receive_signals();
        let grid = self.handle();
        let Options {
            paths,
            wait,
            log,
            ice,
            ..
        } = self.options;
        info!(version = env!("CARGO_PKG_VERSION"), dir = %paths.dir().display(), "the master serves");
        for notice in &self.notices {
            info!("{notice}");
        }
        let shared = self.shared;
        let (commands, queue) = self.commands;
        let mut tasks = JoinSet::new();
        tasks.spawn(systemd::run(shared.clone(), wait));
        let (upgrade, mut upgrades) = mpsc::channel(1);
        let started_ms = self.started_ms.unwrap_or_else(|| clock::now().wall_ms);
        let plan = UpgradePlan {
            paths: paths.clone(),
            wait,
            log,
            ice,
            started_ms,
            locks: self.locks,
            reaper: reaper.clone(),
            registry: self.registry,
        };
        let handler = Arc::new(ClientHandler {
            shared: shared.clone(),
            commands: commands.clone(),
            grid,
            allocator: Allocator::default(),
            upgrades: upgrade,
            upgrade: Arc::new(plan),
            upgrading: tokio::sync::Mutex::default(),
        });
        let _ = shared.places.set(Arc::downgrade(&handler));
        let mut front = Front::open(self.listener, handler.clone());
        tasks.spawn(obey_signals(signals, commands.clone()));
        tasks.spawn(configuration::watch(
            paths.dir().to_owned(),
            commands.clone(),
        ));
        if let Some(source) = self.later {
            tasks.spawn(deploy_later(source, shared.clone(), commands.clone()));
        }
        let core = Core::new(
            paths.clone(),
            self.run_dir,
            (self.db, self.desired),
            shared,
            reaper,
            started_ms,
            (self.locator, self.settings),
        )
        .run(queue);
        tokio::pin!(core);
        loop {
            // Cancel safe: the core is polled on, and a channel loses nothing.
            tokio::select! {
                () = &mut core => break,
                Some(upgrade) = upgrades.recv() => {
                    front = upgrade::hand_over(front, &handler, upgrade)
                        .await
                        .map_err(system("go on listening; the nodes go on, and the next start adopts them"))?;
                }
            }
        }
        info!("every node has ended");
        // The last status is out; connections end, which is how whoever waits for the end learns of it.
        front.close().await;
        tasks.shutdown().await;
        reaping.abort();
        let _ = std::fs::remove_file(paths.master_pid());
        Ok(())
    }
}

/// The master's socket while it is served.
struct Front {
    end: watch::Sender<bool>,
    serving: JoinHandle<()>,
    /// Absent if the kernel has no descriptor left; then there is no upgrade in place.
    heir: Option<Heir>,
}

impl Front {
    fn open(listener: Listener, handler: Arc<ClientHandler>) -> Self {
        let (end, ended) = watch::channel(false);
        let heir = listener
            .heir()
            .map_err(|error| warn!(%error, "cannot keep the socket for a successor"))
            .ok();
        let me = Hello::new(Role::Master, "master");
        Self {
            end,
            serving: tokio::spawn(listener.serve::<ClientLink, _>(me, handler, ended)),
            heir,
        }
    }

    /// Ends every connection, once what is queued is written.
    async fn close(self) {
        self.end.send_replace(true);
        let _ = self.serving.await;
    }
}

/// Sees to it that Blitzes find a store: makes the embedded one, looks whether another one is there. Returns what to tell.
async fn prepare_store(desired: &Desired, paths: &Paths) -> Result<Option<String>, MasterError> {
    let mut blitzes = desired
        .placed()
        .filter(|(.., placed)| placed.descriptor.is_builtin_blitz());
    let Some((_, _, first)) = blitzes.next() else {
        return Ok(None);
    };
    let properties = &first.descriptor.property_set.properties;
    let choice = StoreChoice::of(|name| {
        let mut properties = properties.iter().rev();
        properties
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    })
    .map_err(MasterError::StoreChoice)?;
    let paths = paths.clone();
    // The store blocks.
    tokio::task::spawn_blocking(move || {
        let grid = store::grid_id(&paths.grid_id())?;
        match choice {
            StoreChoice::Embedded => {
                let made = match store::bootstrap(&paths.store(), &paths.root_password()) {
                    // A process that was stopped has it, and a grid needs a master all the same.
                    Err(error @ StoreError::Busy { .. }) => {
                        return Ok(Some(format!(
                            "{error}; Blitz servers go on with it once it is free"
                        )));
                    }
                    // It was made where it could be written; Blitzes only read it, and say so.
                    Err(error) if store::Sqlite::read_only(&paths.store()).is_ok() => {
                        return Ok(Some(format!("{error}; Blitz servers only read it")));
                    }
                    made => made?,
                };
                Ok(made.created_root.map(|_| {
                    format!(
                        "made user root with a random password; it is in {}",
                        paths.root_password().display()
                    )
                }))
            }
            StoreChoice::Postgres(choice) => {
                match Postgres::open(&choice, &grid, &uuid::Uuid::new_v4().to_string()) {
                    Ok(_) => Ok(None),
                    // It may come up after us.
                    Err(error @ StoreError::Unreachable { .. }) => Ok(Some(format!(
                        "{error}; Blitz servers start once it answers"
                    ))),
                    Err(error) => Err(error),
                }
            }
        }
    })
    .await
    .unwrap_or_else(|error| Err(StoreError::Thread(std::io::Error::other(error))))
    .map_err(MasterError::Store)
}

/// Turns signals into commands: SIGTERM and SIGINT stop the grid, SIGHUP reloads it.
async fn obey_signals(mut signals: Signals, commands: mpsc::Sender<Command>) {
    let uid = nix::unistd::geteuid().as_raw();
    while let Ok(signal) = signals.recv().await {
        info!(?signal, "received a signal");
        match signal {
            Signal::Terminate | Signal::Interrupt | Signal::Quit => {
                let (answer, _) = oneshot::channel();
                let _ = commands.send(Command::Stop { uid, answer }).await;
            }
            Signal::Hangup => {
                let (answer, answered) = oneshot::channel();
                let reload = Command::Reload {
                    spare: false,
                    uid,
                    answer,
                };
                let _ = commands.send(reload).await;
                if let Ok(Err(refusal)) = answered.await {
                    warn!(%refusal, "nothing was reloaded");
                }
            }
            Signal::User1 => {}
        }
    }
}

/// Deploys what `start` named, once the nodes that run something older are adopted and their sessions are known.
async fn deploy_later(
    source: DescriptorSource,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
) {
    use crate::model::NodeState::{Starting, Stopping};
    let settled = |snapshot: &shared::Snapshot| {
        let mut nodes = snapshot.status.nodes.iter();
        snapshot.revision > 0 && nodes.all(|node| !matches!(node.state, Starting | Stopping))
    };
    core::wait_for(&shared, Duration::from_secs(30), settled).await;
    let (answer, answered) = oneshot::channel();
    let uid = nix::unistd::geteuid().as_raw();
    let command = Command::Deploy {
        source,
        dry_run: false,
        mode: DeployMode::Careful,
        uid,
        answer,
    };
    if commands.send(command).await.is_ok()
        && let Ok(Err(refusal)) = answered.await
    {
        warn!(%refusal, "the running grid was adopted; the descriptor that was named is not deployed");
    }
}

/// Settles what is wanted. Returns a descriptor that has to wait until the nodes that run are adopted.
async fn adopt_or_deploy(
    options: &Options,
    run_dir: &RunDir,
    db: &mut StateDb,
    desired: &mut Desired,
    notices: &mut Vec<String>,
) -> Result<Option<DescriptorSource>, MasterError> {
    let mut changes = selection(options, desired);
    let living = anything_lives(options, run_dir, desired).await;
    if !living {
        // What went on with an older definition has ended since.
        let held = desired.held.keys();
        changes.extend(held.map(|id| Change::Held(id.clone(), None)));
    }
    let mut later = None;
    let sources = sources(options, desired)?;
    for source in sources {
        match core::load(source.clone(), desired, options.paths.dir()) {
            Ok((mut deployed, warnings)) => {
                notices.extend(warnings);
                let known = desired.applications.get(&deployed.deployment.application);
                if known.is_none_or(|known| known.differs(&deployed)) {
                    let by = core::user(nix::unistd::geteuid().as_raw());
                    deployed.history.go_on(&by, clock::now().wall_ms);
                }
                if living && known.is_some_and(|known| known.deployment != deployed.deployment) {
                    later = Some(source);
                } else {
                    changes.push(Change::Application(Box::new(deployed)));
                }
            }
            // A grid that lives is adopted whatever became of its file.
            Err(error) if living && options.descriptor.is_none() => {
                notices.push(format!("adopted the running grid as it was deployed; its descriptor is no longer valid:\n{}", error.in_full()));
            }
            Err(error) => return Err(MasterError::Load(error)),
        }
    }
    let mut after = desired.clone();
    for change in &changes {
        after.apply(change.clone());
    }
    if let Some(name) = options
        .nodes
        .iter()
        .find(|name| !after.all_nodes().contains(name))
    {
        let known: Vec<_> = after
            .all_nodes()
            .into_iter()
            .map(|n| n.as_str().to_owned())
            .collect();
        return Err(MasterError::NoSuchNode {
            name: name.clone(),
            known: known.join(", "),
        });
    }
    let uid = nix::unistd::geteuid().as_raw();
    db.write(
        &changes,
        after.generation,
        &[Happening::command(uid, "start")],
    )
    .map_err(|error| MasterError::State(StateFault(error)))?;
    *desired = after;
    Ok(later)
}

/// Returns what `--node` and `--all` change: they outdo what was started and stopped by hand.
fn selection(options: &Options, desired: &Desired) -> Vec<Change> {
    let selection = if options.all {
        Selection::All
    } else if options.nodes.is_empty() {
        return Vec::new();
    } else {
        Selection::Named(options.nodes.iter().cloned().collect::<BTreeSet<_>>())
    };
    let by_hand = desired
        .nodes
        .keys()
        .map(|node| Change::Node(node.clone(), None));
    std::iter::once(Change::Selection(selection))
        .chain(by_hand)
        .collect()
}

/// Returns the descriptors to read: the one named, else those deployed before, else the site's own, else the compiled-in one.
fn sources(options: &Options, desired: &Desired) -> Result<Vec<DescriptorSource>, MasterError> {
    if let Some(source) = &options.descriptor {
        return Ok(vec![source.clone()]);
    }
    if !desired.applications.is_empty() {
        return Ok(desired
            .in_order()
            .iter()
            .map(|deployed| deployed.source.clone())
            .collect());
    }
    if options.bare {
        return Ok(Vec::new());
    }
    let own = options.paths.dir().join("etc/grid/default.xml");
    if site::default_descriptor(options.paths.dir()).is_some() {
        return Ok(vec![DescriptorSource {
            path: own,
            shown: "etc/grid/default.xml".to_owned(),
            ..DescriptorSource::default()
        }]);
    }
    if !options.builtin {
        return Err(MasterError::NoDescriptor(own));
    }
    let path = core::builtin_descriptor(&options.paths).map_err(|source| MasterError::System {
        what: "write the compiled-in descriptor",
        source,
    })?;
    Ok(vec![DescriptorSource {
        path,
        shown: "(compiled in)".to_owned(),
        ..DescriptorSource::default()
    }])
}

/// Returns whether nodes or servers of an earlier master live.
async fn anything_lives(options: &Options, run_dir: &RunDir, desired: &Desired) -> bool {
    for node in desired.all_nodes() {
        let socket = run_dir.socket(Address::Node(node));
        let me = Hello::new(Role::Client, "start");
        let connected = Client::<NodeLink>::connect(&socket, &me);
        // Whoever does not answer, because it is stopped, is there all the same.
        let connected = tokio::time::timeout(ANSWER, connected).await;
        if !matches!(connected, Ok(Err(ConnectError::Nobody { .. })))
            || process::has_leftovers(&options.paths, node)
        {
            return true;
        }
    }
    false
}

/// Returns the data directory of the first Blitz that names one.
fn data_dir(desired: &Desired, paths: &Paths) -> Option<PathBuf> {
    let mut dirs = desired
        .placed()
        .filter_map(|(.., placed)| placed.descriptor.property_set.get("omero.data.dir"));
    dirs.find(|dir| !dir.is_empty())
        .map(|dir| paths.dir().join(dir))
}

/// Returns the lock of a data directory: a hidden file beside it, or in it where its parent cannot be written.
fn beside(data: &Path) -> PathBuf {
    let name = data
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    match data.parent() {
        Some(parent)
            if nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK).is_ok()
                || !parent.exists() =>
        {
            parent.join(format!(".{name}.omero-grid.lock"))
        }
        _ => data.join(".omero-grid.lock"),
    }
}

fn if_stopped(pid: u32) -> &'static str {
    match crate::sys::process::stat(pid) {
        Some(stat) if stat.is_stopped() => ", which is stopped",
        _ => "",
    }
}

/// Makes a directory for this user alone, and those above it as the mask says.
fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// Writes the pid where OMERO's tools look for it; nothing of ours relies on it.
fn write_pid(path: &Path) {
    let write = || -> io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, format!("{}\n", std::process::id()))
    };
    if let Err(error) = write() {
        warn!(path = %path.display(), %error, "cannot write the pid file");
    }
}
