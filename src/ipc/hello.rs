//! The first frame of either side: who it is, and which protocol it speaks.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::frame::{self, FrameError};

/// The version of the protocol. Within one version fields and messages are only added.
pub const PROTOCOL: u32 = 1;

/// How long a peer may take to introduce itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process is to the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The command line, or another program in its place.
    Client,
    /// The process that owns the grid.
    Master,
    /// A process that supervises servers.
    Node,
    /// A built-in Blitz.
    Blitz,
}

/// The first frame of either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol, [`PROTOCOL`].
    pub protocol: u32,
    /// What the process is.
    pub role: Role,
    /// Its name: a node's name, a server's id.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// The version of the program.
    #[serde(default)]
    pub version: String,
}

impl Hello {
    /// Introduces this process.
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self {
            protocol: PROTOCOL,
            role,
            name: name.into(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// An introduction that failed.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The peer did not introduce itself in time.
    #[error("the peer did not introduce itself within {PATIENCE:?}")]
    Silent,
    /// The peer closed the connection first.
    #[error("the peer closed the connection before it introduced itself")]
    Closed,
    /// What came is no introduction.
    #[error("the peer's introduction could not be read")]
    Frame(#[source] FrameError),
    /// The peer speaks another version of the protocol.
    #[error(
        "the peer speaks version {theirs} of the protocol, this program speaks {PROTOCOL}; use the same release on both sides"
    )]
    Version {
        /// The peer's version.
        theirs: u32,
    },
}

/// Introduces this process and waits for the other's introduction.
pub(super) async fn exchange<R, W>(
    reader: &mut R,
    writer: &mut W,
    me: &Hello,
) -> Result<Hello, HelloError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let talk = async {
        let mine = serde_json::to_vec(me)
            .map_err(FrameError::Encode)
            .map_err(HelloError::Frame)?;
        frame::write(writer, &mine)
            .await
            .map_err(HelloError::Frame)?;
        let bytes = frame::read(reader)
            .await
            .map_err(HelloError::Frame)?
            .ok_or(HelloError::Closed)?;
        let hello: Hello = serde_json::from_slice(&bytes)
            .map_err(FrameError::Decode)
            .map_err(HelloError::Frame)?;
        if hello.protocol != PROTOCOL {
            return Err(HelloError::Version {
                theirs: hello.protocol,
            });
        }
        Ok(hello)
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .unwrap_or(Err(HelloError::Silent))
}
