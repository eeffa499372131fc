//! Why a connection ended, and why a call has no answer.

use std::io;
use std::sync::Arc;

use super::super::error::DecodeError;

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Ended {
    /// The other side closed it in good order: what it has not answered, it has not done.
    #[error("the other side closed the connection")]
    ByPeer,
    /// This side closed it.
    #[error("the connection is closed")]
    ByUs,
    /// The other side is gone without a word.
    #[error("the connection is lost")]
    Lost,
    /// Reading or writing failed.
    #[error("the connection is broken")]
    Io(#[source] Arc<io::Error>),
    /// The other side sent what is no Ice.
    #[error("the other side does not keep to the protocol")]
    Protocol(#[source] DecodeError),
    /// A compressed message is none, or is not as large as it claims.
    #[error("the other side sent a compressed message that cannot be expanded")]
    Compressed,
    /// The other side answered a call that nobody made, or answered one twice.
    #[error("the other side answered call {0}, which is not under way")]
    UnknownReply(i32),
    /// The other side used the id of a request that it has no answer to yet.
    #[error("the other side used request id {0} again before it was answered")]
    ReusedId(i32),
    /// A message was begun and not ended.
    #[error("the other side stopped in the middle of a message")]
    Silent,
    /// The other side does not read.
    #[error("the other side does not read what it is sent")]
    Unread,
    /// Nothing was heard while calls waited for their answers.
    #[error("nothing was heard from the other side")]
    Unheard,
    /// The other side did not close a connection that was being closed.
    #[error("the other side did not close the connection")]
    Unclosed,
    /// The other side left too many calls without an answer.
    #[error("too many calls were given up")]
    Abandoned,
}

/// Why no connection was made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The system refused.
    #[error("cannot connect to {endpoint}")]
    Io {
        /// Where.
        endpoint: String,
        /// The system's reason.
        #[source]
        source: Arc<io::Error>,
    },
    /// It took too long.
    #[error("cannot connect to {endpoint} in time")]
    Timeout {
        /// Where.
        endpoint: String,
    },
    /// What listens there does not speak Ice, or is closing.
    #[error("what listens at {endpoint} did not greet")]
    Greeting {
        /// Where.
        endpoint: String,
        /// What it did.
        #[source]
        source: Ended,
    },
    /// The endpoint is of a kind that is not carried.
    #[error("endpoint {endpoint} is of a kind that is not supported")]
    Unsupported {
        /// Which.
        endpoint: String,
    },
    /// TLS is not set up.
    #[error("endpoint {endpoint} needs TLS, which is not set up")]
    NoTls {
        /// Which.
        endpoint: String,
    },
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvokeError {
    /// No connection could be made: it was not carried out.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended in good order or before the call was sent: it was not carried out.
    #[error("the call was not carried out")]
    NotDone(#[source] Ended),
    /// The connection ended: it may have been carried out.
    #[error("the call has no answer")]
    Lost(#[source] Ended),
    /// The answer did not come in time. It may have been carried out.
    #[error("the call was not answered in time")]
    Timeout,
    /// It is larger than a message may be.
    #[error("a message of {size} bytes is larger than {max}")]
    TooLarge {
        /// How large.
        size: usize,
        /// How large it may be.
        max: usize,
    },
    /// The locator knows no such adapter, or it is not active.
    #[error("no adapter {0:?} is registered and active")]
    NoAdapter(String),
    /// The locator knows no such object.
    #[error("no object {0:?} is registered")]
    NoObject(String),
    /// The proxy has no endpoint that can be used.
    #[error("{0} has no endpoint that can be used")]
    NoEndpoint(String),
    /// The locator answered with what it should not.
    #[error("the locator answered with what it should not: {0}")]
    Locator(String),
}

impl InvokeError {
    /// Returns whether the call was certainly not carried out, so that it may be made again.
    pub fn was_not_done(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::NotDone(_))
    }
}
