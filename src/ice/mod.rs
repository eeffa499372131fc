//! The Ice protocol, encodings 1.0 and 1.1: bytes to values and back.
//!
//! Pure: no sockets, no clocks. This half owns the encodings, the messages, and the written forms of identities, endpoints and proxies
//! (`ice-protocol.md` §1–§6, §13). What comes from outside is never trusted: a decoder returns an error for whatever is wrong, allocates
//! no more than the bytes that are there could mean, and leaves nothing unread.
//!
//! A value is declared once, by [`record!`](crate::record) or [`enumeration!`](crate::enumeration), and can then be decoded and encoded.

mod bytes;
mod codec;
mod endpoint;
mod error;
mod identity;
mod message;
pub mod net;
mod proxy;
mod words;

pub use bytes::{Encapsulation, Encoding, Reader, Writer};
pub use codec::{Decode, Encode};
pub use endpoint::{Address, Endpoint};
pub use error::DecodeError;
pub use identity::Identity;
pub use message::{
    Compression, HEADER, Header, Message, Missing, Mode, Outcome, Reply, Request, Target,
};
pub use proxy::{Proxy, ProxyMode, Reference};
pub use words::ParseError;
