//! Node ↔ built-in Blitz: sessions and users. The master reaches a Blitz through its node with the same messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::data::{
    FileAction, FileView, Origin, ScriptAction, ScriptEnd, ScriptView, Ticket, ValueAction,
};
use crate::ipc::Link;
use crate::model::{Accepting, Image, Secret, SessionId};

/// The link between a node and a built-in Blitz.
pub struct BlitzLink;

impl Link for BlitzLink {
    type Request = Request;
    type Reply = Reply;
    type Event = Event;
}

/// What a Blitz asks at the registry, over Ice, where a session belongs that somebody wants to open: name and category of the object. Its
/// operation `place` takes the adapter that was reached, user, group, agent and address, and whether the only question is if the session may
/// be opened there; it returns the adapter where the session belongs.
pub const PLACEMENT: (&str, &str) = ("Placement", "omero-grid");

/// Who asks for something that not everybody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum Authority {
    /// The grid's owner or root on this machine, by the uid of the socket's peer: may do everything.
    Owner,
    /// Whoever holds this session, with the rights of its user.
    Session {
        /// The session.
        session: SessionId,
    },
}

impl Authority {
    /// Returns the session that gives the authority.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::Session { session } => Some(*session),
            Self::Owner => None,
        }
    }
}

/// A user for whom another Blitz of the grid vouches: it has the session, the one that is asked has the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouched {
    /// The user's number.
    pub id: u64,
    /// The user's name.
    pub name: String,
    /// Whether an administrator.
    pub admin: bool,
}

/// What a Blitz is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "fields are documented on the payload or named for what they are"
)]
pub enum Request {
    /// How it is: [`Reply::Status`].
    Status,
    /// Opens a session: [`Reply::Session`], durable before it is answered.
    Create(Create),
    /// Joins an open session (reference count + 1, counts as access): [`Reply::Session`].
    Join { session: SessionId },
    /// Counts as access: [`Reply::Session`].
    KeepAlive { session: SessionId },
    /// Reference count − 1, below 1 the session ends (`omero.md` §2.6): [`Reply::Closed`].
    Detach { session: SessionId },
    /// Ends a session whatever its reference count: [`Reply::Closed`]. With [`Authority::Session`] only own ones, or any for an administrator.
    Close {
        target: Target,
        authority: Authority,
    },
    /// One page of open sessions in the order of their UUIDs, beginning after `after`: [`Reply::Sessions`].
    List {
        after: Option<SessionId>,
        limit: u32,
        #[serde(default)]
        filter: Filter,
    },
    /// One page of the ids of open sessions, in order, beginning after `after`: [`Reply::Ids`].
    Ids {
        after: Option<SessionId>,
        limit: u32,
    },
    /// Adds a user: [`Reply::Done`].
    AddUser {
        name: String,
        password: Secret,
        admin: bool,
        authority: Authority,
    },
    /// Sets a password: [`Reply::Done`]. With [`Authority::Session`] one's own, or any for an administrator.
    SetPassword {
        name: String,
        password: Secret,
        authority: Authority,
    },
    /// Lists the users: [`Reply::Users`].
    Users { authority: Authority },
    /// Says who owns a session, from the store: [`Reply::Found`]. Refused if it has ended, with the reason.
    Find { session: SessionId },
    /// Takes over an open session whose owner does not live, or that was given to this Blitz: [`Reply::Session`], or
    /// [`Reply::Elsewhere`] if its owner lives.
    Adopt { session: SessionId },
    /// Hands a session to another Blitz, which has to adopt it: [`Reply::Done`].
    Give { session: SessionId, to: String },
    /// Takes no new sessions, or takes them again: [`Reply::Status`]. What was being opened counts in it.
    Drain { draining: bool },
    /// The values, from now on, of every property that may change while it runs; others are taken away: [`Reply::Done`].
    Configure {
        properties: BTreeMap<String, String>,
    },
    /// What there is to wait for: [`Reply::Outlook`].
    Outlook,
    /// Closes user sessions because the deadline of a drain has come, at most `limit`, those idle for the longest first:
    /// [`Reply::Sessions`].
    CloseSome { limit: u32 },
    /// Lets every user session live for at most `live_ms` from now on: [`Reply::Done`].
    Shorten { live_ms: u64 },
    /// Closes sessions of a user, at most `limit`: [`Reply::Sessions`].
    CloseUser {
        user: String,
        limit: u32,
        authority: Authority,
    },
    /// Something with files: [`Reply::Files`], [`Reply::Image`], [`Reply::Ticket`], [`Reply::Done`], or [`Reply::Owner`] where another
    /// Blitz has to do it.
    File {
        action: FileAction,
        authority: Authority,
        #[serde(default)]
        vouched: Option<Vouched>,
    },
    /// Something with scripts: [`Reply::Scripts`], [`Reply::ScriptRuns`], [`Reply::ScriptEnded`] or [`Reply::Done`].
    Script {
        action: ScriptAction,
        authority: Authority,
    },
    /// Something with configuration values: [`Reply::Values`] or [`Reply::Changed`].
    Value {
        action: ValueAction,
        authority: Authority,
    },
}

impl Request {
    /// Returns who asks, for what not everybody may do.
    pub fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Close { authority, .. }
            | Self::AddUser { authority, .. }
            | Self::SetPassword { authority, .. }
            | Self::Users { authority }
            | Self::CloseUser { authority, .. }
            | Self::File { authority, .. }
            | Self::Script { authority, .. }
            | Self::Value { authority, .. } => Some(authority),
            _ => None,
        }
    }

    /// Returns whether its answer may take as long as it likes.
    pub fn takes_long(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Script { .. })
    }

    /// Returns whether it changes something that a read-only Blitz does not.
    pub fn writes(&self) -> bool {
        match self {
            Self::AddUser { .. } | Self::SetPassword { .. } => true,
            Self::File { action, .. } => {
                matches!(
                    action,
                    FileAction::Import { .. } | FileAction::Delete { .. }
                )
            }
            Self::Script { action, .. } => matches!(action, ScriptAction::Run { .. }),
            Self::Value { action, .. } => {
                matches!(action, ValueAction::Set { .. } | ValueAction::SetIf { .. })
            }
            _ => false,
        }
    }
}

/// A session to be closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Target {
    /// By its UUID, which is proof enough of one's right to it.
    Uuid { session: SessionId },
    /// By the first characters of its UUID, which must name just one; needs the owner or an administrator.
    Prefix { prefix: String },
}

/// A session to be opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// What the client calls itself; recorded, never relied upon.
    #[serde(default)]
    pub agent: String,
    /// The client's address; recorded, never relied upon.
    #[serde(default)]
    pub ip: String,
    /// Idle limit wanted, in milliseconds; the Blitz's own if absent.
    #[serde(default)]
    pub time_to_idle_ms: Option<u64>,
    /// Life limit wanted, in milliseconds, 0 for none; the Blitz's own if absent.
    #[serde(default)]
    pub time_to_live_ms: Option<u64>,
    /// Names this creation, so that repeating it opens no second session.
    #[serde(default)]
    pub token: Option<String>,
    /// The group to work in; empty for the user's own. Recorded.
    #[serde(default)]
    pub group: String,
    /// OMERO's event type; empty for `User`. `Internal` is what a service opens for itself.
    #[serde(default)]
    pub event: String,
}

/// Which sessions are meant; every one by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Of this user only.
    #[serde(default)]
    pub user: Option<String>,
    /// Idle for at least so many milliseconds.
    #[serde(default)]
    pub idle_ms: u64,
}

/// What a drain has to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// Sessions of users.
    pub sessions: u64,
    /// Sessions that services opened for themselves; nobody waits for these.
    pub internal: u64,
    /// User sessions that were used in the last minute.
    pub used_last_minute: u64,
    /// User sessions that may go on for ever: they have no life limit.
    pub endless: u64,
    /// The longest that a user session has been idle, in milliseconds.
    pub longest_idle_ms: u64,
    /// When the first user session may end, milliseconds since 1970, if nobody uses it.
    pub next_end_ms: Option<u64>,
    /// When the last user session ends, milliseconds since 1970, if nobody uses them; `None` if one has no limit at all.
    pub end_if_unused_ms: Option<u64>,
    /// When the last user session ends at the latest, milliseconds since 1970; `None` if one may go on for ever.
    pub last_end_ms: Option<u64>,
}

/// What a Blitz answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Reply {
    Status(Status),
    Session(Session),
    /// `remaining`: the reference count left; 0 when the session has ended.
    Closed {
        session: SessionId,
        user: String,
        remaining: u32,
    },
    Sessions {
        sessions: Vec<Session>,
        more: bool,
    },
    Ids {
        ids: Vec<SessionId>,
        more: bool,
    },
    Users {
        users: Vec<User>,
    },
    Done,
    Found {
        session: Session,
        server: String,
    },
    /// The session is another server's, which lives.
    Elsewhere {
        session: Session,
        server: String,
    },
    Outlook(Outlook),
    Files {
        files: Vec<FileView>,
        more: bool,
    },
    Ticket(Ticket),
    Image {
        image: Box<Image>,
        origin: Origin,
    },
    /// Another Blitz has the repository: it is to be asked, in the name of this user.
    Owner {
        server: String,
        user: Vouched,
    },
    Scripts {
        scripts: Vec<ScriptView>,
        more: bool,
    },
    /// A script runs, on this server.
    ScriptRuns {
        run: String,
        server: String,
    },
    ScriptEnded(ScriptEnd),
    Values {
        values: Vec<(String, Option<String>)>,
    },
    /// Whether a value was changed.
    Changed {
        changed: bool,
    },
}

/// How a Blitz is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Drawn at each start of the process (OMERO's node UUID).
    pub uuid: String,
    /// Open sessions.
    pub sessions: u64,
    /// Of these, those that services opened for themselves.
    #[serde(default)]
    pub internal: u64,
    /// Sessions of the process before that it took up when it started.
    #[serde(default)]
    pub resumed: u64,
    /// Whether it takes new ones.
    pub accepting: Accepting,
    /// Which resources it only reads.
    #[serde(default)]
    pub read_only: ReadOnly,
    /// Why it only reads them.
    #[serde(default)]
    pub read_only_reason: ReadOnlyReason,
    /// The Blitz that has the repository, for which this one waits; empty if that is not known. Absent where it does not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_repository: Option<String>,
}

/// Which resources a Blitz only reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnly {
    /// The database of users and sessions.
    pub db: bool,
    /// The repository of files.
    pub repo: bool,
}

/// Why a Blitz only reads a resource: the property or the probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnlyReason {
    /// Why the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db: Option<String>,
    /// Why the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its UUID: works as a password.
    pub uuid: SessionId,
    /// Its user's name.
    pub user: String,
    /// What the client that opened it calls itself.
    pub agent: String,
    /// The address of that client.
    pub ip: String,
    /// When it was opened, milliseconds since 1970.
    pub started_ms: u64,
    /// Since the last access, in milliseconds.
    pub idle_ms: u64,
    /// Idle limit, in milliseconds, 0 for none.
    pub time_to_idle_ms: u64,
    /// Life limit, in milliseconds, 0 for none.
    pub time_to_live_ms: u64,
    /// How often it was opened or joined, less how often it was left.
    pub references: u32,
    /// The group that was asked for; empty for the user's own.
    #[serde(default)]
    pub group: String,
    /// Whether a service opened it for itself.
    #[serde(default)]
    pub internal: bool,
}

/// A user of the embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its number; `root` has 0.
    pub id: u64,
    /// The name to log in with.
    pub name: String,
    /// Whether it may do what administrators may.
    pub admin: bool,
    /// Whether it has no password, so that it cannot log in.
    pub locked: bool,
}

/// What a Blitz tells unasked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Event {
    /// How it is, at first and after each change.
    Status(Status),
    /// Sessions that were opened or taken up again since the connection began.
    Opened { ids: Vec<SessionId> },
    /// Sessions that ended.
    Closed { ids: Vec<SessionId> },
    /// Some of the above were lost; ask for [`Request::Ids`] again.
    Resync,
}
