//! The messages of the protocol (`ice-protocol.md` §1–§4).
//!
//! A frame is a header of 14 bytes and what follows it. Whoever reads from a connection takes a [`Header`] first, which says how many bytes
//! to wait for, and then a [`Message`] of all of them; names, operations and parameters stay where they are in the frame. What is
//! compressed is handed on as it is.

use super::bytes::{Encapsulation, Encoding, Reader, Writer};
use super::codec::{Decode as _, Encode as _};
use super::error::DecodeError;
use super::proxy::{facet, put_facet};

/// The size of a header, in bytes.
pub const HEADER: usize = 14;

const MAGIC: [u8; 4] = *b"IceP";

/// Whether a message is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// It is not, and the sender may not understand what is.
    No,
    /// It is not, and an answer may be.
    Understood,
    /// It is.
    Yes,
}

impl Compression {
    fn of(status: u8) -> Result<Self, DecodeError> {
        match status {
            0 => Ok(Self::No),
            1 => Ok(Self::Understood),
            2 => Ok(Self::Yes),
            other => Err(DecodeError::Compression(other)),
        }
    }
}

/// The first bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub(super) kind: u8,
    /// Whether it is compressed.
    pub compression: Compression,
    /// How large the message is, this header included, in bytes.
    pub size: usize,
}

impl Header {
    /// Reads a header; `max` is the largest message that is accepted, in bytes.
    pub fn parse(bytes: &[u8; HEADER], max: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, Encoding::V10);
        let magic = reader.array()?;
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        let [protocol, minor, encoding, encoding_minor] = reader.array()?;
        if protocol != 1 {
            return Err(DecodeError::Protocol(protocol, minor));
        }
        if encoding != 1 {
            return Err(DecodeError::Encoding(encoding, encoding_minor));
        }
        let [kind, compression] = reader.array()?;
        if kind > CLOSE {
            return Err(DecodeError::MessageType(kind));
        }
        let claimed = reader.int()?;
        let size = usize::try_from(claimed)
            .ok()
            .filter(|size| *size >= HEADER)
            .ok_or(DecodeError::MessageSize(claimed))?;
        if size > max {
            return Err(DecodeError::TooLarge { size, max });
        }
        Ok(Self {
            kind,
            compression: Compression::of(compression)?,
            size,
        })
    }
}

pub(super) const REQUEST: u8 = 0;
pub(super) const BATCH: u8 = 1;
pub(super) const REPLY: u8 = 2;
const VALIDATE: u8 = 3;
const CLOSE: u8 = 4;

/// How an operation may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not.
    Normal,
    /// It changes nothing: an older word for idempotent.
    Nonmutating,
    /// As often as one likes.
    Idempotent,
}

/// What is called: an object, a facet of it, an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The name in the identity.
    pub name: &'a str,
    /// The category in the identity.
    pub category: &'a str,
    /// The facet; empty for the main one.
    pub facet: &'a str,
    /// The operation.
    pub operation: &'a str,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// Names its reply; 0 where none is wanted.
    pub id: i32,
    /// What is called.
    pub target: Target<'a>,
    /// Whether it may be repeated.
    pub mode: Mode,
    /// What goes along with it.
    pub context: Vec<(&'a str, &'a str)>,
    /// Its parameters.
    pub params: Encapsulation<'a>,
}

/// What is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The object.
    Object,
    /// The facet.
    Facet,
    /// The operation.
    Operation,
}

impl Missing {
    /// Returns the status of a reply that says so.
    pub(super) fn status(self) -> u8 {
        match self {
            Self::Object => 2,
            Self::Facet => 3,
            Self::Operation => 4,
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It was done: the results.
    Done(Encapsulation<'a>),
    /// It was answered with a declared exception.
    Exception(Encapsulation<'a>),
    /// What was called is not there.
    Missing(Missing, Target<'a>),
    /// It failed otherwise: in the runtime (5), with an undeclared exception (6), or somehow (7).
    Unknown(u8, &'a str),
}

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The call's.
    pub id: i32,
    /// What became of it.
    pub outcome: Outcome<'a>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A call.
    Request(Request<'a>),
    /// Several calls that want no reply.
    Batch(Vec<Request<'a>>),
    /// The answer to a call.
    Reply(Reply<'a>),
    /// The other side is ready, or still there.
    Validate,
    /// The other side closes the connection in good order.
    Close,
    /// One that is compressed.
    Compressed {
        /// The type of the message in it.
        kind: u8,
        /// The size of that message with its header, as it claims.
        size: i32,
        /// What has to be expanded: bzip2.
        body: &'a [u8],
    },
}

impl<'a> Message<'a> {
    /// Reads a message of all of its bytes.
    pub fn decode(frame: &'a [u8], max: usize) -> Result<(Self, Compression), DecodeError> {
        let Some((head, body)) = frame.split_first_chunk::<HEADER>() else {
            return Err(DecodeError::Truncated {
                wanted: HEADER,
                left: frame.len(),
            });
        };
        let header = Header::parse(head, max)?;
        let body = match body.len().checked_sub(header.size - HEADER) {
            Some(0) => body,
            Some(over) => return Err(DecodeError::LeftOver(over)),
            None => {
                return Err(DecodeError::Truncated {
                    wanted: header.size,
                    left: frame.len(),
                });
            }
        };
        let mut reader = Reader::new(body, Encoding::V10);
        let message = match header.kind {
            kind if header.compression == Compression::Yes => {
                let size = reader.int()?;
                if usize::try_from(size).map_or(true, |size| size < HEADER || size > max) {
                    return Err(DecodeError::MessageSize(size));
                }
                Self::Compressed {
                    kind,
                    size,
                    body: reader.rest(),
                }
            }
            REQUEST => {
                let id = reader.int()?;
                Self::Request(Request::decode(&mut reader, id)?)
            }
            BATCH => {
                let count = reader.int()?;
                let count = usize::try_from(count).map_err(|_| DecodeError::NegativeSize(count))?;
                let left = reader.left();
                if count
                    .checked_mul(Request::LEAST)
                    .is_none_or(|bytes| bytes > left)
                {
                    return Err(DecodeError::Count { count, left });
                }
                let mut all = Vec::new();
                for _ in 0..count {
                    all.push(Request::decode(&mut reader, 0)?);
                }
                Self::Batch(all)
            }
            REPLY => Self::Reply(Reply::decode(&mut reader)?),
            VALIDATE => Self::Validate,
            _ => Self::Close,
        };
        reader.finish()?;
        Ok((message, header.compression))
    }

    /// Writes the message with its header.
    pub fn encode(&self, compression: Compression, writer: &mut Writer) {
        let kind = match self {
            Self::Request(_) => REQUEST,
            Self::Batch(_) => BATCH,
            Self::Reply(_) => REPLY,
            Self::Validate => VALIDATE,
            Self::Close => CLOSE,
            Self::Compressed { kind, .. } => *kind,
        };
        let compression = match (self, compression) {
            (Self::Compressed { .. }, _) => Compression::Yes,
            // What is not compressed cannot say that it is.
            (_, Compression::No) => Compression::No,
            (_, Compression::Understood | Compression::Yes) => Compression::Understood,
        };
        let begin = begin(kind, compression, writer);
        match self {
            Self::Request(request) => {
                writer.int(request.id);
                request.encode(writer);
            }
            Self::Batch(requests) => {
                writer.int(i32::try_from(requests.len()).unwrap_or(i32::MAX));
                for request in requests {
                    request.encode(writer);
                }
            }
            Self::Reply(reply) => reply.encode(writer),
            Self::Validate | Self::Close => {}
            Self::Compressed { size, body, .. } => {
                writer.int(*size);
                writer.put(body);
            }
        }
        end(begin, writer);
    }
}

/// Begins a message: writes its header, and returns where, for [`end`].
pub(super) fn begin(kind: u8, compression: Compression, writer: &mut Writer) -> usize {
    let begin = writer.bytes().len();
    writer.put(&MAGIC);
    writer.put(&[1, 0, 1, 0, kind]);
    writer.byte(match compression {
        Compression::No => 0,
        Compression::Understood => 1,
        Compression::Yes => 2,
    });
    // More than can ever be, until it is known.
    writer.int(i32::MAX);
    begin
}

/// Ends the message that began there.
pub(super) fn end(begin: usize, writer: &mut Writer) {
    let size = writer.bytes().len() - begin;
    writer.set_int(begin + HEADER - 4, i32::try_from(size).unwrap_or(i32::MAX));
}

impl<'a> Target<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: reader.text()?,
            category: reader.text()?,
            facet: facet(reader)?,
            operation: reader.text()?,
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.text(self.name);
        writer.text(self.category);
        put_facet(self.facet, writer);
        writer.text(self.operation);
    }
}

impl<'a> Request<'a> {
    /// The fewest bytes of one without its id: four sizes, mode, no context, an empty encapsulation.
    const LEAST: usize = 12;

    fn decode(reader: &mut Reader<'a>, id: i32) -> Result<Self, DecodeError> {
        let target = Target::decode(reader)?;
        let mode = match reader.byte()? {
            0 => Mode::Normal,
            1 => Mode::Nonmutating,
            2 => Mode::Idempotent,
            other => {
                return Err(DecodeError::Enumerator {
                    name: "Mode",
                    value: i32::from(other),
                });
            }
        };
        Ok(Self {
            id,
            target,
            mode,
            context: Vec::decode(reader)?,
            params: reader.encapsulation()?,
        })
    }

    /// Writes it without its id.
    pub(super) fn encode(&self, writer: &mut Writer) {
        self.target.encode(writer);
        writer.byte(self.mode as u8);
        self.context.encode(writer);
        writer.encapsulation(&self.params);
    }
}

impl<'a> Reply<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let id = reader.int()?;
        let outcome = match reader.byte()? {
            0 => Outcome::Done(reader.encapsulation()?),
            1 => Outcome::Exception(reader.encapsulation()?),
            2 => Outcome::Missing(Missing::Object, Target::decode(reader)?),
            3 => Outcome::Missing(Missing::Facet, Target::decode(reader)?),
            4 => Outcome::Missing(Missing::Operation, Target::decode(reader)?),
            status @ 5..=7 => Outcome::Unknown(status, reader.text()?),
            other => return Err(DecodeError::Status(other)),
        };
        Ok(Self { id, outcome })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.int(self.id);
        match &self.outcome {
            Outcome::Done(result) => {
                writer.byte(0);
                writer.encapsulation(result);
            }
            Outcome::Exception(exception) => {
                writer.byte(1);
                writer.encapsulation(exception);
            }
            Outcome::Missing(what, target) => {
                writer.byte(what.status());
                target.encode(writer);
            }
            Outcome::Unknown(status, text) => {
                writer.byte(*status);
                writer.text(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1024 * 1024;

    /// `echo.ice_ping()` in encoding 1.1, as the reference has it.
    const PING: &[u8] = &[
        0x49, 0x63, 0x65, 0x50, 1, 0, 1, 0, 0, 0, 0x2a, 0, 0, 0, 1, 0, 0, 0, 4, b'e', b'c', b'h',
        b'o', 0, 0, 8, b'i', b'c', b'e', b'_', b'p', b'i', b'n', b'g', 1, 0, 6, 0, 0, 0, 1, 1,
    ];

    #[test]
    fn a_call_is_read_and_written_to_the_byte() {
        let (message, compression) = Message::decode(PING, MAX).unwrap();
        assert_eq!(compression, Compression::No);
        let Message::Request(request) = &message else {
            panic!("{message:?}");
        };
        assert_eq!((request.id, request.mode), (1, Mode::Nonmutating));
        assert_eq!(request.target.operation, "ice_ping");
        let mut writer = Writer::default();
        message.encode(compression, &mut writer);
        assert_eq!(writer.bytes(), PING);
    }

    #[test]
    fn every_beginning_of_a_message_is_an_error() {
        for end in 0..PING.len() {
            assert!(Message::decode(&PING[..end], MAX).is_err());
            // Also one that claims to be no longer than it is.
            if end >= HEADER {
                let mut short = PING[..end].to_vec();
                short[10] = u8::try_from(end).unwrap();
                assert!(Message::decode(&short, MAX).is_err(), "{end}");
            }
        }
        let longer = [PING, &[0]].concat();
        assert_eq!(Message::decode(&longer, MAX), Err(DecodeError::LeftOver(1)));
    }

    #[test]
    fn headers_that_lie_are_refused_by_themselves() {
        let with = |at: usize, bytes: &[u8]| {
            let mut header: [u8; HEADER] = PING[..HEADER].try_into().unwrap();
            header[at..at + bytes.len()].copy_from_slice(bytes);
            Header::parse(&header, MAX)
        };
        assert_eq!(with(0, b"GET "), Err(DecodeError::Magic(*b"GET ")));
        assert_eq!(with(4, &[2]), Err(DecodeError::Protocol(2, 0)));
        assert_eq!(with(6, &[2]), Err(DecodeError::Encoding(2, 0)));
        assert_eq!(with(8, &[5]), Err(DecodeError::MessageType(5)));
        assert_eq!(with(9, &[3]), Err(DecodeError::Compression(3)));
        for size in [-1, 0, 13] {
            let error = with(10, &i32::to_le_bytes(size));
            assert_eq!(error, Err(DecodeError::MessageSize(size)));
        }
        let large = with(10, &i32::MAX.to_le_bytes());
        assert!(matches!(large, Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn a_batch_that_claims_more_than_it_has_allocates_nothing() {
        let mut frame = PING[..HEADER].to_vec();
        frame[8] = BATCH;
        frame[10] = 18;
        frame.extend(i32::MAX.to_le_bytes());
        assert!(matches!(
            Message::decode(&frame, MAX),
            Err(DecodeError::Count { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_after_a_header_are_a_message_or_refused(
            kind in 0u8..5, compression in 0u8..3, body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut frame = PING[..HEADER].to_vec();
            frame[8] = kind;
            frame[9] = compression;
            frame.extend(&body);
            let size = i32::try_from(frame.len()).unwrap();
            frame[10..14].copy_from_slice(&size.to_le_bytes());
            if let Ok((message, compression)) = Message::decode(&frame, MAX) {
                // What is understood means the same when it is written; long sizes may become short.
                let mut writer = Writer::default();
                message.encode(compression, &mut writer);
                let (again, _) = Message::decode(writer.bytes(), MAX).unwrap();
                prop_assert_eq!(again, message);
            }
        }
    }
}
