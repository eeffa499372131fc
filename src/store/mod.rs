//! The store: users, and the sessions of each Blitz.
//!
//! This module owns the rows, what a write may do to them ([`Store`]), the format of password hashes ([`password`]), and the
//! thread that commits everything waiting at once ([`StoreHandle`]). It leaves to others who may do what, and when a session
//! has timed out. [`Sqlite`] is the implementation for one machine and needs nothing else; [`Postgres`] is for several.
//!
//! Ownership: every row of a session carries the id of the server that owns it and that server's epoch, which grows with each
//! start. Each write names both; a write that finds another owner changes nothing and says so. A server lives while it holds its
//! lease: on one machine a kernel lock, else a row judged by the database's clock. Sessions move only away from a server without one,
//! or by its own hand to a server with one.

pub mod password;

mod bootstrap;
mod choice;
mod error;
mod import;
mod layered;
mod postgres;
mod probe;
mod sqlite;
#[cfg(test)]
mod suite;
mod writer;

pub use bootstrap::{
    Bootstrap, ROOT, ROOT_ID, bootstrap, bootstrap_postgres, grid_id, write_private,
};
pub use choice::{ChoiceError, PostgresChoice, StoreChoice};
pub use error::StoreError;
pub use import::import;
pub use layered::Layered;
pub use postgres::Postgres;
pub use probe::probe;
pub use sqlite::Sqlite;
pub use writer::{CallError, Opened, StoreHandle};

use std::time::Duration;

use crate::model::SessionId;

/// What keeps users and sessions.
///
/// All calls block; [`StoreHandle`] makes them from a thread of their own.
pub trait Store: Send + 'static {
    /// Takes a server's sessions: begins a new epoch and returns what the server of the epoch before left open.
    ///
    /// The caller holds the kernel lock of the server id, so the owner before is gone.
    fn adopt(&mut self, server: &str, process: &str) -> Result<Adopted, StoreError>;

    /// Carries out writes in one transaction, in order, and returns what became of each once all are durable.
    ///
    /// A write that cannot be done ([`Outcome`] other than done) does not hinder the others; an error means that none was done.
    fn write(&mut self, owner: &Owner, writes: &[Write]) -> Result<Vec<Outcome>, StoreError>;

    /// Looks a user up by the exact name.
    fn user(&mut self, name: &str) -> Result<Option<UserRow>, StoreError>;

    /// Returns all users in the order of their ids.
    fn users(&mut self) -> Result<Vec<UserRow>, StoreError>;

    /// Looks up what became of a session, open or not, whosever it is.
    fn session(&mut self, uuid: SessionId) -> Result<Option<Found>, StoreError>;

    /// Looks up the session that was opened with this token, open or not, whosever it is.
    fn by_token(&mut self, token: &str) -> Result<Option<Found>, StoreError>;

    /// Returns how long a server lives on without [`Self::renew`]; `None` if it lives as long as its process.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// Prolongs the lease of a server by [`Self::lease`] from now.
    fn renew(&mut self, _: &Owner) -> Result<Renewed, StoreError> {
        Ok(Renewed {
            held: true,
            doubt: false,
        })
    }

    /// Returns the open sessions that are the server's by their rows.
    fn owned(&mut self, owner: &Owner) -> Result<Vec<SessionId>, StoreError>;

    /// Looks at what a server has left open, without a write; `known` are sessions of that server that are kept elsewhere.
    fn left_open(&mut self, server: &str, known: &[SessionId]) -> Result<LeftOpen, StoreError>;
}

/// What [`Store::left_open`] finds.
#[derive(Debug, Default)]
pub struct LeftOpen {
    /// When the server stopped in good order, milliseconds since 1970; `None` if it did not.
    pub stopped_ms: Option<u64>,
    /// Its open sessions.
    pub sessions: Vec<SessionRow>,
    /// Those of `known` that have ended here, or are another server's.
    pub gone: Vec<SessionId>,
}

/// What [`Store::renew`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// Whether this is still the life of the server that holds its sessions.
    pub held: bool,
    /// Whether an earlier write may have been carried out although it was answered with an error.
    pub doubt: bool,
}

/// What is in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The version of the tables.
    pub schema: i64,
    /// Users.
    pub users: u64,
    /// Open sessions of each server that has any.
    pub open: Vec<(String, u64)>,
    /// Sessions that have ended and are still known.
    pub closed: u64,
}

/// Who writes: a server in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The server's id.
    pub server: String,
    /// Counts the server's starts; an older one may not write any more.
    pub epoch: i64,
}

/// What a server finds when it takes up its sessions.
#[derive(Debug)]
pub struct Adopted {
    /// Names this life of the server in every write.
    pub owner: Owner,
    /// When the life before stopped in good order, milliseconds since 1970; `None` if it did not.
    pub stopped_ms: Option<u64>,
    /// The sessions left open.
    pub sessions: Vec<SessionRow>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// The number, which never changes; part of OMERO's salted hashes.
    pub id: u64,
    /// The name to log in with.
    pub name: String,
    /// The stored hash in one of the forms of [`password`]; `None` if the user cannot log in with a password.
    pub hash: Option<String>,
    /// Whether the user may do what administrators may.
    pub admin: bool,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its UUID.
    pub uuid: SessionId,
    /// Its user's number.
    pub user_id: u64,
    /// Its user's name.
    pub user: String,
    /// What the client that opened it calls itself.
    pub agent: String,
    /// The address of that client.
    pub ip: String,
    /// When it was opened, milliseconds since 1970.
    pub started_ms: u64,
    /// The last access that was written, milliseconds since 1970.
    pub last_access_ms: u64,
    /// Idle limit in milliseconds, 0 for none.
    pub time_to_idle_ms: u64,
    /// Life limit in milliseconds, 0 for none.
    pub time_to_live_ms: u64,
    /// How often it was opened or joined, less how often it was left.
    pub references: u32,
    /// Names its creation, so that repeating it opens no second session.
    pub token: Option<String>,
    /// OMERO's event type: `User`, or `Internal` for what a service opens for itself.
    pub event: String,
    /// The group that was asked for; empty for the user's own.
    pub group: String,
}

/// A session as [`Store::session`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The session.
    pub row: SessionRow,
    /// The server that owns or owned it.
    pub server: String,
    /// Why it ended; `None` while it is open.
    pub ended: Option<Reason>,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Somebody closed it.
    Closed,
    /// The last who had opened or joined it left.
    Left,
    /// It was idle for longer than it may.
    Idle,
    /// It lived for as long as it may.
    Lived,
    /// The deadline of a drain came.
    Drained,
}

impl Write {
    /// Opens a session of a user who may have any number of them.
    pub fn open(row: SessionRow) -> Self {
        Self::Open {
            row,
            max_user: None,
        }
    }
}

impl Reason {
    /// Returns the word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Left => "left",
            Self::Idle => "idle",
            Self::Lived => "live",
            Self::Drained => "drained",
        }
    }

    /// Parses the word in the store; a word of a newer version counts as closed.
    pub(crate) fn parse(word: &str) -> Self {
        match word {
            "left" => Self::Left,
            "idle" => Self::Idle,
            "live" => Self::Lived,
            "drained" => Self::Drained,
            _ => Self::Closed,
        }
    }
}

/// One change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Opens a session: [`Outcome::Done`], [`Outcome::TokenUsed`], [`Outcome::UserFull`] or [`Outcome::Superseded`].
    Open {
        /// The session.
        row: SessionRow,
        /// The most sessions that its user may have open, on all servers together; internal ones do not count.
        max_user: Option<u64>,
    },
    /// Makes an open session of another server one's own, if that server does not live: [`Outcome::Taken`], [`Outcome::Held`] or
    /// [`Outcome::Lost`]. One's own is [`Outcome::Taken`] too: it was given by another.
    Take {
        /// The session.
        uuid: SessionId,
    },
    /// Makes a session that was kept elsewhere meanwhile one's own, as it is now: [`Outcome::Done`], [`Outcome::Superseded`], or
    /// [`Outcome::Lost`] if it has ended here or is another server's than one's own or `from`.
    Restore {
        /// The session.
        row: SessionRow,
        /// The server that had it; oneself if nobody else did.
        from: String,
    },
    /// Hands one's own session to a server that lives: [`Outcome::Done`], [`Outcome::NoHolder`] or [`Outcome::Lost`].
    Give {
        /// The session.
        uuid: SessionId,
        /// The server that gets it.
        to: String,
        /// The last access, milliseconds since 1970.
        at_ms: u64,
    },
    /// Lets a session live for at most `live_ms` from `at_ms` on, never for longer than it may: [`Outcome::TimeToLive`] or
    /// [`Outcome::Lost`].
    Shorten {
        /// The session.
        uuid: SessionId,
        /// When, milliseconds since 1970.
        at_ms: u64,
        /// What is left of its life at most, in milliseconds.
        live_ms: u64,
    },
    /// Adds a reference: [`Outcome::References`] or [`Outcome::Lost`].
    Join {
        /// The session.
        uuid: SessionId,
        /// When, milliseconds since 1970: counts as access.
        at_ms: u64,
    },
    /// Takes a reference away and closes the session when none is left: [`Outcome::References`] or [`Outcome::Lost`].
    Leave {
        /// The session.
        uuid: SessionId,
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
    /// Closes a session: [`Outcome::Done`] or [`Outcome::Lost`].
    Close {
        /// The session.
        uuid: SessionId,
        /// When, milliseconds since 1970.
        at_ms: u64,
        /// Why.
        reason: Reason,
    },
    /// Notes a last access: [`Outcome::Done`] or [`Outcome::Lost`].
    Access {
        /// The session.
        uuid: SessionId,
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
    /// Notes that the server stopped in good order: [`Outcome::Done`] or [`Outcome::Superseded`].
    Stopped {
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
    /// Changes nothing that counts, but proves that the store can be written: [`Outcome::Done`] or [`Outcome::Superseded`].
    Probe,
    /// Adds a user: [`Outcome::Done`] or [`Outcome::UserExists`].
    AddUser {
        /// The name.
        name: String,
        /// The hash.
        hash: String,
        /// Whether an administrator.
        admin: bool,
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
    /// Sets a user's hash: [`Outcome::Done`] or [`Outcome::NoUser`].
    SetHash {
        /// The name.
        name: String,
        /// The hash.
        hash: String,
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
}

/// What became of one [`Write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is done, and so many references are left; with 0 the session is closed.
    References(u32),
    /// The session is not open any more, or another server owns it.
    Lost,
    /// The token has been used: for this session.
    TokenUsed(Box<Found>),
    /// The user has as many sessions as it may have: so many, and the next of them may end at this time, milliseconds since 1970,
    /// if nobody uses it.
    UserFull {
        /// How many are open.
        open: u64,
        /// When the next may end; `None` if none has an end.
        next_end_ms: Option<u64>,
    },
    /// The session is one's own now.
    Taken {
        /// The server that owned it; oneself if it was given.
        from: String,
        /// The session.
        row: Box<SessionRow>,
    },
    /// The session's server lives and keeps it.
    Held {
        /// The server.
        server: String,
        /// The session.
        row: Box<SessionRow>,
    },
    /// The server that was to get the session does not live.
    NoHolder,
    /// The life limit that the session has now, in milliseconds.
    TimeToLive(u64),
    /// A later life of the server has taken over; this one may not write any more.
    Superseded,
    /// There is a user of that name.
    UserExists,
    /// There is no user of that name.
    NoUser,
    /// The users are kept elsewhere and cannot be changed here.
    ForeignUsers,
    /// Users and what else is not of sessions can only be read here.
    ReadOnly,
}

/// Returns a name for this process that no other has.
fn process_name() -> String {
    uuid::Uuid::new_v4().to_string()
}
