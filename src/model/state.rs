//! The states that the outside sees, in the words of `slice/IceGrid/Admin.ice` and DESIGN.md §5.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The state of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// No process.
    Inactive,
    /// A process that is not ready yet.
    Activating,
    /// A process that was not ready within its activation timeout.
    ActivationTimedOut,
    /// A process that is ready.
    Active,
    /// A process that was asked to stop.
    Deactivating,
    /// Being removed from its node.
    Destroying,
    /// Removed from its node.
    Destroyed,
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Inactive => "inactive",
            Self::Activating => "activating",
            Self::ActivationTimedOut => "activation-timed-out",
            Self::Active => "active",
            Self::Deactivating => "deactivating",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        })
    }
}

/// The state of a node, as its master sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Its process was started and has not adopted all that it owns yet.
    Starting,
    /// It has adopted all that it owns and answers.
    Up,
    /// It stops its servers, then itself.
    Stopping,
    /// Not running, and not wanted.
    Down,
    /// Wanted, but its process is gone or does not answer.
    Lost,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Down => "down",
            Self::Lost => "lost",
        })
    }
}

/// When a server is started (IceGrid's activation modes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Whenever it does not run.
    Always,
    /// When somebody needs it.
    OnDemand,
    /// When somebody starts it by name.
    Manual,
    /// When a session that owns it needs it.
    Session,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Always => "always",
            Self::OnDemand => "on-demand",
            Self::Manual => "manual",
            Self::Session => "session",
        })
    }
}

impl FromStr for Activation {
    type Err = ();

    /// Parses the attribute's text; the empty text means manual, as in IceGrid.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "always" => Ok(Self::Always),
            "on-demand" => Ok(Self::OnDemand),
            "manual" | "" => Ok(Self::Manual),
            "session" => Ok(Self::Session),
            _ => Err(()),
        }
    }
}

/// Whether a Blitz takes new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accepting {
    /// It takes new sessions.
    Yes,
    /// It takes none, and still has some.
    Draining,
    /// It takes none, and has none left.
    Drained,
    /// It cannot take any now.
    No,
}

impl fmt::Display for Accepting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "yes",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::No => "no",
        })
    }
}
