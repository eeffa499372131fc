//! The Ice protocol, encodings 1.0 and 1.1: bytes to values and back.
//!
//! Pure but for [`net`], which has the sockets and the clocks. The pure half owns the encodings, the messages, and the written forms of identities, endpoints and proxies
//! (`ice-protocol.md` §1–§6, §13). What comes from outside is never trusted: a decoder returns an error for whatever is wrong, allocates
//! no more than the bytes that are there could mean, and leaves nothing unread.
//!
//! A type is declared once, by [`record!`](crate::record), [`enumeration!`](crate::enumeration), [`class!`](crate::class) or
//! [`exception!`](crate::exception), and its values can then be decoded and encoded.

mod bytes;
mod class;
mod codec;
mod declare;
mod endpoint;
mod error;
mod exception;
mod identity;
mod message;
pub mod net;
mod optional;
mod proxy;
mod slice;
mod words;

pub use bytes::{Encapsulation, Encoding, Reader, Writer};
pub use class::{Class, Family, Instance, Known, Objects, Ref};
pub use codec::{Decode, Encode, OptionalFormat, Shape, widths};
pub use endpoint::{Address, Endpoint};
pub use error::DecodeError;
pub use exception::{Exception, Throw, Thrown, throw_with};
pub use identity::Identity;
pub use message::{
    Compression, HEADER, Header, Message, Missing, Mode, Outcome, Reply, Request, Target,
};
pub use proxy::{Proxy, ProxyMode, Reference};
pub use slice::{Format, Head, Inside, Open};
pub use words::ParseError;
