//! Command line ↔ master.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::blitz;
use super::node::{Action, ServerReport};
use crate::descriptor::{self, Application, Diagnostics, Loaded};
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
    Reload {
        /// Restarts nothing: what would have to be goes on, outdated.
        #[serde(default)]
        spare: bool,
    },
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
        /// Of this Blitz only.
        #[serde(default)]
        server: Option<ServerId>,
        #[serde(default)]
        filter: blitz::Filter,
    },
    /// Counts as use of a session: [`Reply::Placed`].
    KeepAlive { session: SessionId },
    /// Moves a session to another Blitz: [`Reply::Placed`]. With `force` also to one that takes no new sessions.
    MoveSession {
        target: blitz::Target,
        to: ServerId,
        force: bool,
    },
    /// Closes sessions of a user, at most a page of them: [`Reply::ClosedSome`].
    CloseUser {
        user: String,
        authority: blitz::Authority,
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
    /// Has another program take the place of this one in the processes of master and nodes: [`Reply::Upgraded`], and the connection ends.
    Upgrade { binary: PathBuf },
    Events {
        after: Option<u64>,
        limit: u32,
        wait_ms: u64,
    },
    /// Changes where `configRedirector` sends new sessions: [`Reply::Accepted`].
    Redirect { change: RedirectChange },
    /// Lets Blitzes take no new sessions: [`Reply::Drained`] at once; watch the status for the rest.
    Drain { drain: DrainRequest },
    /// Lets Blitzes take sessions again: [`Reply::Drained`] with those that did not.
    Undrain { names: Vec<String>, node: bool },
    /// What a Blitz that drains has to wait for: [`Reply::Drained`].
    Outlook { servers: Vec<ServerId> },
    /// Restarts Blitzes one after another, each when its sessions have ended: [`Reply::Accepted`] at once.
    Roll { action: RollAction },
    /// Explains where a session would go: [`Reply::Route`]. Changes nothing.
    Route {
        user: String,
        group: String,
        agent: String,
        client: String,
    },
}

impl Request {
    /// Returns whether asking twice does no more than asking once: it only reads, or the creation has a token.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Status { .. }
            | Self::ListSessions { .. }
            | Self::KeepAlive { .. }
            | Self::Events { .. }
            | Self::Outlook { .. }
            | Self::Route { .. } => true,
            Self::Deploy { dry_run, .. } => *dry_run,
            Self::Drain { drain } => drain.plan,
            Self::CreateSession { create, .. } => create.token.is_some(),
            Self::Blitz { request } => !request.writes(),
            Self::Reload { .. }
            | Self::Node { .. }
            | Self::Server { .. }
            | Self::Stop
            | Self::JoinSession { .. }
            | Self::MoveSession { .. }
            | Self::CloseUser { .. }
            | Self::CloseSession { .. }
            | Self::Redirect { .. }
            | Self::Undrain { .. }
            | Self::Upgrade { .. }
            | Self::Roll { .. } => false,
        }
    }
}

/// Blitzes that are to take no new sessions, and what is to follow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// Servers, or nodes for all their Blitzes. None for every Blitz.
    pub names: Vec<String>,
    /// Whether the names are those of nodes; otherwise a name that is both is refused.
    pub node: bool,
    /// What follows when the last session has ended.
    pub then: Then,
    /// When the sessions that are left are closed, in milliseconds from now; never if absent.
    pub deadline_ms: Option<u64>,
    /// How long sessions may live from now on at most, in milliseconds.
    pub live_ms: Option<u64>,
    /// Also where nobody is left to take new sessions.
    pub force: bool,
    /// The whole grid stops when all are drained.
    pub for_stop: bool,
    /// Only says what there is to wait for.
    pub plan: bool,
}

/// A Blitz that is drained or would be, and what there is to wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// The Blitz.
    pub server: ServerId,
    /// What there is to wait for; absent while it does not answer.
    pub outlook: Option<blitz::Outlook>,
}

/// Restarting Blitzes one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum RollAction {
    /// Begins.
    Start {
        /// Servers or nodes; every Blitz that runs if empty.
        names: Vec<String>,
        /// Only those with an older definition than the one deployed.
        outdated: bool,
        /// How long each may take to lose its sessions, in milliseconds; then they are closed.
        deadline_ms: Option<u64>,
    },
    /// Goes on after a failure.
    Continue,
    /// Gives up what is left to do.
    Abort,
}

/// A drain as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// The Blitz.
    pub server: ServerId,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// When the sessions that are left are closed, milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// What follows.
    pub then: Then,
    /// Whether it was restarted and only has to come back.
    pub restarting: bool,
}

/// Blitzes that are restarted one after another, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Those that are back.
    pub done: Vec<ServerId>,
    /// The one whose turn it is.
    pub current: Option<ServerId>,
    /// Those whose turn has not come.
    pub waiting: Vec<ServerId>,
    /// Why it goes no further.
    pub failed: Option<String>,
}

/// A change of the redirect by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum RedirectChange {
    /// Sets it to a Blitz that accepts sessions.
    Set {
        /// Its id, or the UUID of its process that OMERO's clients know.
        to: String,
        /// Only if there is none.
        if_unset: bool,
    },
    /// Takes it away; the next Blitz to accept sets it again.
    Clear {
        /// Only if it is this one.
        if_is: Option<ServerId>,
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
    /// The file of what `import-default-templates` takes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_templates: Option<PathBuf>,
    /// The application itself, where it was described in no file; then there is no path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Box<Application>>,
}

impl DescriptorSource {
    /// The source of an application that is described in no file, but by `shown`.
    pub fn of(definition: Application, shown: impl Into<String>) -> Self {
        Self {
            shown: shown.into(),
            definition: Some(Box::new(definition)),
            ..Self::default()
        }
    }

    /// Returns whether the application is described in a file.
    pub fn is_file(&self) -> bool {
        !self.path.as_os_str().is_empty()
    }

    /// Returns the source without the application itself, which may be large.
    pub fn brief(&self) -> Self {
        Self {
            path: self.path.clone(),
            shown: self.shown.clone(),
            targets: self.targets.clone(),
            overrides: self.overrides.clone(),
            default_templates: self.default_templates.clone(),
            definition: None,
        }
    }

    /// Reads, expands and checks the application.
    ///
    /// # Errors
    ///
    /// All faults that were found, with the warnings among them.
    pub fn load(
        &self,
        files: &dyn descriptor::Source,
        request: &descriptor::Request,
    ) -> Result<Loaded, Diagnostics> {
        match &self.definition {
            Some(definition) => {
                descriptor::expand_application((**definition).clone(), files, request)
            }
            None => descriptor::load(files, request),
        }
    }

    /// Returns the request that loads the descriptor.
    pub fn request(&self) -> descriptor::Request {
        descriptor::Request {
            file: self.path.clone(),
            targets: self.targets.clone(),
            overrides: self.overrides.clone(),
            default_templates: self
                .default_templates
                .clone()
                .map(descriptor::DefaultTemplates::File),
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
    /// What ends no session at once; the other Blitzes one after another, each when its sessions have ended.
    Rolling,
    /// Nothing, nor to any server that runs: it is told of properties that changed, and a deploy that changes more of it is refused.
    WithoutRestart,
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
    /// `more`: whether there are others of the same kind.
    ClosedSome {
        sessions: Vec<Placed>,
        more: bool,
    },
    Blitz {
        reply: Box<blitz::Reply>,
    },
    Events {
        events: Vec<GridEvent>,
    },
    Drained {
        blitzes: Vec<DrainView>,
    },
    /// `nodes`: those that run the new program by now, with their pids. The master follows at once, in the process that it has.
    Upgraded {
        version: String,
        nodes: Vec<(NodeName, u32)>,
    },
    Route {
        /// The Blitz that would take it; absent if nobody would now.
        server: Option<ServerId>,
        /// How that follows.
        steps: Vec<String>,
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
    /// `command`, `refused`, `redirect`, `drain`, `rollout`, `server`, `node`, `session`, `upgrade`.
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
    /// Blitzes that take no new sessions by command.
    #[serde(default)]
    pub drains: Vec<DrainStatus>,
    /// Blitzes that are restarted one after another.
    #[serde(default)]
    pub rollout: Option<RolloutStatus>,
    /// Whether the configuration on disk is the deployed one.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    /// The registry's locator, where it listens: a written proxy.
    #[serde(default)]
    pub locator: Option<String>,
}

/// How the site's configuration on disk compares with the deployed one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The keys that differ on disk, in order.
    pub differs: Vec<String>,
    /// Why it cannot be read.
    pub error: Option<String>,
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
    /// What is not clear about it in what is deployed.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The routing rules, in the order in which they are tried.
    #[serde(default)]
    pub routes: Vec<String>,
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
