//! Calls and answers that own what is in them: a body is a part of the frame that it came in, not a copy.

use bytes::Bytes;

use super::super::bytes::{Encapsulation, Encoding, Reader, Writer};
use super::super::error::DecodeError;
use super::super::identity::Identity;
use super::super::message::{
    self, Compression, Missing, Mode, Outcome, REPLY, REQUEST, Reply, Request, Target,
};
use super::super::proxy::Proxy;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The object.
    pub identity: Identity,
    /// The facet of it; empty for the main one.
    pub facet: String,
    /// The operation.
    pub operation: String,
    /// Whether it may be repeated.
    pub mode: Mode,
    /// What goes along with it.
    pub context: Vec<(String, String)>,
    /// The version of the encoding of its parameters.
    pub encoding: [u8; 2],
    /// Its parameters: what is in the encapsulation.
    pub params: Bytes,
}

impl Call {
    /// Makes a call of what a proxy refers to, in the encoding that it asks for, without parameters.
    pub fn new(proxy: &Proxy, operation: impl Into<String>, mode: Mode) -> Self {
        Self {
            identity: proxy.identity.clone(),
            facet: proxy.facet.clone(),
            operation: operation.into(),
            mode,
            context: Vec::new(),
            encoding: proxy.encoding,
            params: Bytes::new(),
        }
    }

    /// Writes the parameters.
    #[must_use]
    pub fn with(mut self, fill: impl FnOnce(&mut Writer)) -> Self {
        let [major, minor] = self.encoding;
        let mut writer = Writer::new(Encoding::of(major, minor).unwrap_or_default());
        fill(&mut writer);
        self.params = writer.into_bytes().into();
        self
    }

    /// Writes the call as a message; id 0 is one that wants no answer.
    pub(super) fn encode(&self, id: i32, compression: Compression, writer: &mut Writer) {
        let begin = message::begin(REQUEST, compression, writer);
        writer.int(id);
        self.encode_body(writer);
        message::end(begin, writer);
    }

    /// Writes the call as it is within a batch.
    pub(super) fn encode_body(&self, writer: &mut Writer) {
        let context = self.context.iter();
        let request = Request {
            id: 0,
            target: self.target(),
            mode: self.mode,
            context: context.map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            params: Encapsulation {
                version: self.encoding,
                bytes: &self.params,
            },
        };
        request.encode(writer);
    }

    /// Returns about how large its message is, in bytes.
    pub(super) fn size(&self) -> usize {
        let context: usize = self
            .context
            .iter()
            .map(|(key, value)| key.len() + value.len() + 10)
            .sum();
        let names = self.identity.name.len()
            + self.identity.category.len()
            + self.facet.len()
            + self.operation.len();
        message::HEADER + 40 + names + context + self.params.len()
    }

    fn target(&self) -> Target<'_> {
        Target {
            name: &self.identity.name,
            category: &self.identity.category,
            facet: &self.facet,
            operation: &self.operation,
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done {
        /// The version of the encoding of the results.
        encoding: [u8; 2],
        /// The results: what is in the encapsulation.
        body: Bytes,
    },
    /// It was answered with a declared exception.
    Exception {
        /// The version of the encoding of the exception.
        encoding: [u8; 2],
        /// The exception: what is in the encapsulation.
        body: Bytes,
    },
    /// What was called is not there.
    Missing {
        /// What is not.
        what: Missing,
        /// The object that was called.
        identity: Identity,
        /// The facet that was called.
        facet: String,
        /// The operation that was called.
        operation: String,
    },
    /// It failed otherwise: in the runtime (5), with an undeclared exception (6), or somehow (7).
    Unknown(u8, String),
}

impl Answer {
    /// Makes an answer of results.
    pub fn done(encoding: Encoding, fill: impl FnOnce(&mut Writer)) -> Self {
        let mut writer = Writer::new(encoding);
        fill(&mut writer);
        Self::Done {
            encoding: encoding.bytes(),
            body: writer.into_bytes().into(),
        }
    }

    /// Makes an answer of a declared exception.
    pub fn exception(encoding: Encoding, fill: impl FnOnce(&mut Writer)) -> Self {
        let mut writer = Writer::new(encoding);
        fill(&mut writer);
        Self::Exception {
            encoding: encoding.bytes(),
            body: writer.into_bytes().into(),
        }
    }

    /// Returns a reader of the results, or of the exception.
    pub fn reader(&self) -> Option<Result<Reader<'_>, DecodeError>> {
        match self {
            Self::Done { encoding, body } | Self::Exception { encoding, body } => {
                let [major, minor] = *encoding;
                Some(Encoding::of(major, minor).map(|encoding| Reader::new(body, encoding)))
            }
            Self::Missing { .. } | Self::Unknown(..) => None,
        }
    }

    /// Takes an answer out of the frame that it came in.
    pub(super) fn of(outcome: &Outcome<'_>, frame: &Bytes) -> Self {
        match outcome {
            Outcome::Done(body) => Self::Done {
                encoding: body.version,
                body: part(body.bytes, frame),
            },
            Outcome::Exception(body) => Self::Exception {
                encoding: body.version,
                body: part(body.bytes, frame),
            },
            Outcome::Missing(what, target) => Self::Missing {
                what: *what,
                identity: Identity {
                    name: target.name.to_owned(),
                    category: target.category.to_owned(),
                },
                facet: target.facet.to_owned(),
                operation: target.operation.to_owned(),
            },
            Outcome::Unknown(status, text) => Self::Unknown(*status, (*text).to_owned()),
        }
    }

    /// Writes the answer to the call of this id as a message.
    pub(super) fn encode(&self, id: i32, compression: Compression, writer: &mut Writer) {
        let capsule = |version: &[u8; 2], bytes| Encapsulation {
            version: *version,
            bytes,
        };
        let outcome = match self {
            Self::Done { encoding, body } => Outcome::Done(capsule(encoding, body)),
            Self::Exception { encoding, body } => Outcome::Exception(capsule(encoding, body)),
            Self::Missing {
                what,
                identity,
                facet,
                operation,
            } => Outcome::Missing(
                *what,
                Target {
                    name: &identity.name,
                    category: &identity.category,
                    facet,
                    operation,
                },
            ),
            Self::Unknown(status, text) => Outcome::Unknown(*status, text),
        };
        let begin = message::begin(REPLY, compression, writer);
        Reply { id, outcome }.encode(writer);
        message::end(begin, writer);
    }
}

/// Returns bytes within a frame as a part of it.
pub(super) fn part(bytes: &[u8], frame: &Bytes) -> Bytes {
    // Of nothing it cannot be told where it is.
    match bytes.is_empty() {
        true => Bytes::new(),
        false => frame.slice_ref(bytes),
    }
}
