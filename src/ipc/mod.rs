//! Local sockets between master, nodes, Blitzes and the command line (DESIGN.md §6).
//!
//! A frame is a 4-byte big-endian length and a JSON document. The first frame of either side is a [`Hello`];
//! then the connecting side (the parent, or the command line) sends requests, which are answered in any order,
//! and the listening side may send events of its own. Children listen, parents connect.
//!
//! This module owns bytes, sockets and the messages of each link; what a request means is its handler's business.

pub mod message;

mod address;
mod client;
mod frame;
mod hello;
mod server;
#[cfg(test)]
mod tests;

pub use address::{Address, AddressError, RunDir};
pub use client::{CallError, Client, ConnectError};
pub use frame::{FrameError, MAX_FRAME};
pub use hello::{Hello, HelloError, PROTOCOL, Role};
pub use server::{Handler, Heir, ListenError, Listener, Peer};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// The messages of one link: what the connecting side asks, what it is answered, what the listening side tells unasked.
pub trait Link: Send + Sync + 'static {
    /// What the connecting side asks.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// What it is answered.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// What the listening side tells unasked.
    type Event: Serialize + DeserializeOwned + Send + 'static;
}

/// Why a request was not carried out. The kinds are those of the exit codes of DESIGN.md §5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal it is.
    pub kind: RefusalKind,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// Makes a refusal without a hint.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// It was tried and failed (exit code 1).
    Failed,
    /// The message is unknown here or malformed (exit code 1): the other side is older or newer.
    Unsupported,
    /// The node, server or session named is not there (exit code 3).
    NotFound,
    /// A descriptor or configuration is invalid (exit code 4).
    Invalid,
    /// It took too long (exit code 5).
    TimedOut,
    /// It is not allowed now (exit code 6).
    Refused,
    /// Nothing was done, because another program takes the place of the one that was asked: ask again over a new connection (exit code 1).
    Again,
    /// Whoever was asked cannot do it now, but another may: a Blitz that drains, is full, or went away (exit code 6).
    Unavailable,
}

/// What a frame after the hello is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Request,
    Reply,
    Refusal,
    Event,
}

/// A frame after the hello: its kind, the request it belongs to, and the message itself, unread.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    kind: Kind,
    #[serde(default)]
    id: u64,
    body: Box<RawValue>,
}

impl Envelope {
    /// Encodes a frame's document.
    fn encode(kind: Kind, id: u64, body: &impl Serialize) -> Result<Vec<u8>, FrameError> {
        let body = serde_json::value::to_raw_value(body).map_err(FrameError::Encode)?;
        serde_json::to_vec(&Self { kind, id, body }).map_err(FrameError::Encode)
    }

    /// Decodes a frame's document.
    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(bytes).map_err(FrameError::Decode)
    }
}

/// Reads everything that a peer may send after its hello, as either end of a link would, and writes it again. For the fuzz targets, which
/// have no socket.
///
/// # Errors
///
/// What would end the connection.
#[doc(hidden)]
pub async fn understand<L: Link>(mut bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    fn again<T: Serialize + DeserializeOwned>(
        kind: Kind,
        id: u64,
        body: &RawValue,
    ) -> Result<Vec<u8>, FrameError> {
        let message: T = serde_json::from_str(body.get()).map_err(FrameError::Decode)?;
        Envelope::encode(kind, id, &message)
    }
    let mut written = Vec::new();
    while let Some(document) = frame::read(&mut bytes).await? {
        let Envelope { kind, id, body } = Envelope::decode(&document)?;
        let document = match kind {
            Kind::Request => again::<L::Request>(kind, id, &body),
            Kind::Reply => again::<L::Reply>(kind, id, &body),
            Kind::Refusal => again::<Refusal>(kind, id, &body),
            Kind::Event => again::<L::Event>(kind, id, &body),
        }?;
        frame::write(&mut written, &document).await?;
    }
    Ok(written)
}
