//! Master ↔ node: what the node has to run, and how that goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::blitz;
use crate::descriptor::ServerDescriptor;
use crate::ipc::Link;
use crate::model::{
    Accepting, Activation, ExitStatus, Failure, NodeSettings, ServerId, ServerState, SessionId,
};

/// The link between the master and a node.
pub struct NodeLink;

impl Link for NodeLink {
    type Request = Request;
    type Reply = Reply;
    type Event = Event;
}

/// What a node is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Request {
    /// Everything the node has to run from now on: [`Reply::Configured`]. Servers that are not in it are stopped and removed, servers whose
    /// definition differs are restarted if they run; the rest is not touched.
    Configure(Assignment),
    /// Does something to a server and waits for at most `wait_ms` until it is done: [`Reply::Server`].
    Act {
        server: ServerId,
        action: Action,
        wait_ms: u64,
    },
    /// What an Ice server says of itself (`Ice::LocatorRegistry`), durable before it is answered: [`Reply::Registered`]. `from`: the
    /// process that says so, where that is known.
    Register {
        server: ServerId,
        what: Registration,
        from: Option<u32>,
    },
    /// Passes a request on to a built-in Blitz: [`Reply::Blitz`].
    Blitz {
        server: ServerId,
        request: Box<blitz::Request>,
    },
    /// Stops every server in reverse order of their dependencies, then ends: [`Reply::Stopping`] at once; the connection ends with the node.
    Stop,
    /// How busy its host is: [`Reply::Load`].
    Load,
    /// Has another program take the node's place in its process: [`Reply::Upgrading`], and the connection ends. With `prove` only asks
    /// that program whether it could: [`Reply::Upgradable`].
    Upgrade { binary: PathBuf, prove: bool },
}

/// What an Ice server says of itself. Proxies are in their written form; without one it takes back what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "register", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Registration {
    /// Where an object adapter listens.
    Adapter {
        adapter: String,
        proxy: Option<String>,
    },
    /// Where its process can be asked to end: facet `Process` of its admin object.
    Process { proxy: Option<String> },
}

/// What became of a [`Registration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registered {
    /// It holds.
    Taken,
    /// It came from a process that is no longer the server's, and changes nothing.
    Stale,
    /// The server is active, and its adapter listens elsewhere.
    AlreadyActive,
    /// The server has no such adapter.
    NoSuchAdapter,
}

/// Something to be done to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Action {
    /// Starts it; done when it is active. Fails with the reason at the first failure.
    Start,
    /// Stops it; done when nothing of it is left.
    Stop,
    /// Stops it if it runs and starts it; done when it is active.
    Restart,
    /// Sends a signal to its process group.
    Signal { signal: i32 },
    /// Waits until its process, if it has one that is to be told of properties ([`Assigned::in_place`]), has taken them. Tries again if that
    /// failed before; fails with the reason.
    TakeUp,
}

/// Everything that a node has to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// Grows with every change; a node refuses one older than the last.
    pub generation: u64,
    /// The servers, by id.
    pub servers: Vec<Assigned>,
    /// Servers of other nodes that servers of this one come after (`omero.grid.after`), and that are to run and are not
    /// active yet.
    #[serde(default)]
    pub not_ready_elsewhere: Vec<ServerId>,
    /// The registry's locator (a written proxy), for servers that have none of their own; absent where the registry does not listen.
    #[serde(default)]
    pub locator: Option<String>,
    /// How servers are run where their descriptors leave it open.
    #[serde(default)]
    pub settings: NodeSettings,
}

/// A server that a node has to supervise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Its id.
    pub id: ServerId,
    /// The application it belongs to.
    pub application: String,
    /// Its definition as the registry expands it (`descriptors.md` §1: before node variables).
    pub descriptor: ServerDescriptor,
    /// What the administrator wants of it.
    pub goal: Goal,
    /// Whether it may be started at all.
    pub enabled: bool,
    /// Whether a Blitz takes no new sessions. Nothing is restarted for this.
    #[serde(default)]
    pub draining: bool,
    /// Whether a process that differs from the definition by its properties alone goes on, and is told of them.
    #[serde(default)]
    pub in_place: bool,
}

impl Assigned {
    /// Returns whether the server is to run without being asked for: whoever comes after it waits for it then.
    pub fn is_to_run(&self) -> bool {
        is_to_run(self.goal, self.enabled, self.descriptor.activation())
    }
}

/// Returns whether a server of this mode is to run without being asked for.
pub fn is_to_run(goal: Goal, enabled: bool, activation: Activation) -> bool {
    enabled
        && match goal {
            Goal::Mode => activation == Activation::Always,
            Goal::Started => true,
            Goal::Stopped => false,
        }
}

/// What the administrator wants of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// What its activation mode says.
    #[default]
    Mode,
    /// Running: it was started by a command.
    Started,
    /// Not running: it was stopped by a command.
    Stopped,
}

/// What a node answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Reply {
    Configured {
        generation: u64,
    },
    Server(Box<ServerReport>),
    Blitz {
        reply: Box<blitz::Reply>,
    },
    Registered {
        outcome: Registered,
    },
    Stopping,
    Upgrading,
    /// `version`: what the program calls itself.
    Upgradable {
        version: String,
    },
    /// `averages`: the load averages over 1, 5 and 15 minutes; `cpus`: how many threads run at once.
    Load {
        averages: [f64; 3],
        cpus: u32,
    },
}

/// How a server is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Its id.
    pub id: ServerId,
    /// When it is started.
    pub activation: Activation,
    /// Whether it may be started at all.
    pub enabled: bool,
    /// What the administrator wants of it.
    #[serde(default)]
    pub goal: Goal,
    /// Its state.
    pub state: ServerState,
    /// The process, if there is one.
    pub pid: Option<u32>,
    /// When that process was started, milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// How long that process took to become ready, in milliseconds.
    #[serde(default)]
    pub ready_after_ms: Option<u64>,
    /// How often it was started again by itself since its node began to supervise it.
    pub restarts: u64,
    /// How many tries in a row have failed, by which the pause before the next grows.
    #[serde(default)]
    pub failed_tries: u32,
    /// How its last process ended, and when (milliseconds since 1970).
    pub last_exit: Option<(ExitStatus, u64)>,
    /// Why it does not run although it should, or why its last process ended.
    pub failure: Option<Failure>,
    /// What it waits for before it is started, in words: servers named by `omero.grid.after`, a session, …
    #[serde(default)]
    pub waiting_for: Option<String>,
    /// When it is tried again, milliseconds since 1970.
    pub next_start_ms: Option<u64>,
    /// Whether it is a built-in Blitz (by its definition).
    #[serde(default)]
    pub is_builtin_blitz: bool,
    /// What the built-in Blitz says of itself, while it answers.
    pub blitz: Option<blitz::Status>,
    /// The adapters that its process has registered, and where they listen (written proxies).
    #[serde(default)]
    pub adapters: BTreeMap<String, String>,
    /// Where its process can be asked to end, if it has said so (a written proxy).
    #[serde(default)]
    pub process: Option<String>,
    /// Whether its process could not be told of properties that have changed since it was started.
    #[serde(default)]
    pub outdated: bool,
}

impl ServerReport {
    /// Returns whether the server does what it is for: it is active, and a built-in Blitz also answers.
    pub fn is_ready(&self) -> bool {
        let answers = |blitz: &blitz::Status| blitz.accepting != Accepting::No;
        self.state == ServerState::Active
            && (!self.is_builtin_blitz || self.blitz.as_ref().is_some_and(answers))
    }
}

/// What a node tells unasked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Event {
    /// How these servers are now: all of them at first, then those that changed.
    Servers { servers: Vec<ServerReport> },
    /// Servers that are no more.
    Removed { servers: Vec<ServerId> },
    /// The node has adopted all that it owns (DESIGN.md §3), after its first [`Request::Configure`].
    Up,
    /// Sessions of a built-in Blitz that were opened or taken up again: all of them at first, then the new ones.
    Opened {
        server: ServerId,
        ids: Vec<SessionId>,
    },
    /// Sessions of a built-in Blitz that ended.
    Closed {
        server: ServerId,
        ids: Vec<SessionId>,
    },
    /// What was told of the sessions of this Blitz no longer holds; [`Event::Opened`] follows with all of them.
    Forget { server: ServerId },
}
