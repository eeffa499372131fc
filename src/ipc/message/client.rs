//! Command line ↔ master.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::blitz;
use super::node::{Action, ServerReport};
use crate::descriptor;
use crate::ipc::Link;
use crate::model::{NodeName, NodeState, ServerId, SessionId};

/// The link between the command line and the master.
pub struct ClientLink;

impl Link for ClientLink {
    type Request = Request;
    type Reply = Reply;
    type Event = Event;
}

/// What the master is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Request {
    /// How the grid is: [`Reply::Status`]. With `after`, waits for at most `wait_ms` until it differs from that revision.
    Status { after: Option<u64>, wait_ms: u64 },
    /// Compares a descriptor with what is deployed, and deploys it: [`Reply::Deployed`].
    Deploy {
        source: DescriptorSource,
        dry_run: bool,
        mode: DeployMode,
    },
    /// Reads descriptors and configuration again: [`Reply::Reloaded`]. Applies what ends no session.
    Reload,
    /// Does something to a node, durably: [`Reply::Accepted`] at once; watch the status for the rest.
    Node { node: NodeName, action: NodeAction },
    /// Does something to a server, durably, and waits for at most `wait_ms`: [`Reply::Server`].
    Server {
        server: ServerId,
        action: ServerAction,
        wait_ms: u64,
    },
    /// Stops the whole grid: [`Reply::Accepted`] at once; the connection ends with the master.
    Stop,
    /// Opens a session on a Blitz of the master's choice, or on `via`: [`Reply::Placed`].
    CreateSession {
        create: blitz::Create,
        via: Option<ServerId>,
    },
    /// Joins a session wherever it lives: [`Reply::Placed`].
    JoinSession { session: SessionId },
    /// One page of open sessions: [`Reply::Sessions`]. `cursor` is that of the page before.
    ListSessions {
        cursor: Option<SessionCursor>,
        limit: u32,
    },
    /// Ends a session: [`Reply::Closed`]. Without a session of one's own the socket's uid is the authority.
    CloseSession {
        target: blitz::Target,
        authority: blitz::Authority,
    },
    /// Something any Blitz can do (users): [`Reply::Blitz`].
    Blitz { request: Box<blitz::Request> },
    /// What happened, in order: [`Reply::Events`]. Those after the event `after`, waiting for at most `wait_ms` if there is none
    /// yet; without `after` the last `limit`.
    Events {
        after: Option<u64>,
        limit: u32,
        wait_ms: u64,
    },
}

/// Where an application is described, and with which targets and overrides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorSource {
    /// The descriptor's absolute path.
    pub path: PathBuf,
    /// As the administrator typed it.
    #[serde(default)]
    pub shown: String,
    /// The selected targets.
    #[serde(default)]
    pub targets: Vec<String>,
    /// Variables given on the command line.
    #[serde(default)]
    pub overrides: Vec<(String, String)>,
}

impl DescriptorSource {
    /// Returns the request that loads the descriptor.
    pub fn request(&self) -> descriptor::Request {
        descriptor::Request {
            file: self.path.clone(),
            targets: self.targets.clone(),
            overrides: self.overrides.clone(),
            ..descriptor::Request::default()
        }
    }
}

/// What a deploy may do to Blitzes with live sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployMode {
    /// Nothing: such a deploy is refused.
    #[default]
    Careful,
    /// Whatever it takes.
    Now,
}

/// Something to be done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum NodeAction {
    Start,
    Stop,
    Restart,
}

/// Something to be done to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum ServerAction {
    /// What its node does.
    Act { action: Action },
    /// Lets it be started again.
    Enable,
    /// Lets it run, but not be started again.
    Disable,
}

/// What follows when the last session of a drained Blitz has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It stays as it is, without sessions, until it is undrained.
    #[default]
    Nothing,
    /// It is stopped, as by `server ID stop`; the drain is over with that.
    Stop,
    /// It is restarted and takes sessions again; the drain is over with that.
    Restart,
}

/// Where a page of sessions ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCursor {
    /// The Blitz that is being listed.
    pub server: ServerId,
    /// The last session of it that was listed.
    pub after: Option<SessionId>,
}

/// What the master answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Reply {
    Status {
        revision: u64,
        status: Box<GridStatus>,
    },
    Deployed(DeployReport),
    Reloaded {
        reports: Vec<DeployReport>,
    },
    Accepted,
    Server(Box<ServerReport>),
    Placed(Placed),
    Sessions {
        sessions: Vec<Placed>,
        next: Option<SessionCursor>,
    },
    Closed {
        session: SessionId,
        server: ServerId,
        user: String,
    },
    Blitz {
        reply: Box<blitz::Reply>,
    },
    Events {
        events: Vec<GridEvent>,
    },
}

/// Something that happened in the grid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GridEvent {
    /// Grows from event to event.
    pub id: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Who asked for it; absent for what the grid did by itself.
    pub uid: Option<u32>,
    /// `command`, `redirect`, `drain`, `rollout`, `server`, `node`, `session`, `upgrade`.
    pub kind: String,
    /// What it happened to: a server, a node, a session by its short id; may be empty.
    pub subject: String,
    /// What happened, in words.
    pub text: String,
}

/// A session and where it lives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Placed {
    /// The session.
    #[serde(flatten)]
    pub session: blitz::Session,
    /// Its Blitz.
    pub server: ServerId,
    /// The node of that Blitz.
    pub node: NodeName,
}

/// What a deploy does, or would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeployReport {
    /// The application.
    pub application: String,
    /// Whether it was done.
    pub applied: bool,
    /// One entry for each server that is not as it was.
    pub changes: Vec<ServerChange>,
    /// Nodes that are new.
    pub nodes_added: Vec<NodeName>,
    /// Nodes that are no more.
    pub nodes_removed: Vec<NodeName>,
    /// Warnings about the descriptor.
    pub warnings: Vec<String>,
}

/// What a deploy does to a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerChange {
    /// The server.
    pub server: ServerId,
    /// Its node after the deploy, or before it if it is removed.
    pub node: Option<NodeName>,
    /// `added`, `removed`, `moved`, `changed`.
    pub change: String,
    /// What differs, in words.
    pub details: Vec<String>,
    /// What happens to its process: `start`, `stop`, `restart`, `none`, or `held`: it goes on as it is until somebody
    /// restarts it.
    pub effect: String,
    /// Its live sessions now.
    pub sessions: u64,
}

/// How the grid is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GridStatus {
    /// The applications; a grid may hold several.
    pub applications: Vec<ApplicationStatus>,
    /// The master's own process.
    pub master: MasterStatus,
    /// Where new sessions go.
    pub redirector: RedirectorStatus,
    /// The nodes in the order of their names.
    pub nodes: Vec<NodeStatus>,
    /// Servers that have to be active before the grid counts as ready, and are not.
    pub missing: Vec<ServerId>,
    /// Set while the whole grid is being stopped.
    #[serde(default)]
    pub stopping: bool,
}

/// A deployed application.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ApplicationStatus {
    /// Its name.
    pub name: String,
    /// Its descriptor, as the administrator typed it.
    pub descriptor: String,
    /// Its targets.
    pub targets: Vec<String>,
    /// Where it is described.
    #[serde(default)]
    pub source: DescriptorSource,
}

/// The master's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MasterStatus {
    /// Its process id.
    pub pid: u32,
    /// When it was started, milliseconds since 1970.
    pub started_ms: u64,
    /// Its version.
    pub version: String,
}

/// Where new sessions go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RedirectorStatus {
    /// `nullRedirector`, `configRedirector` or `scaleRedirector`.
    pub policy: String,
    /// The Blitz that new sessions are redirected to.
    pub redirect: Option<ServerId>,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Its state.
    pub state: NodeState,
    /// Whether `start` starts it: `auto` or `manual`.
    pub start: String,
    /// Its process.
    pub pid: Option<u32>,
    /// Its host.
    pub hostname: String,
    /// Why it is not up although it should be.
    #[serde(default)]
    pub reason: Option<String>,
    /// Its servers in the order of the descriptor.
    pub servers: Vec<ServerReport>,
    /// Those of them that run with an older definition than the one deployed, until they are restarted.
    #[serde(default)]
    pub outdated: Vec<ServerId>,
}

/// What the master tells unasked: nothing yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {}
