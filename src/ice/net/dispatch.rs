//! What a request meets: who dispatches it, and how it is answered.
//!
//! A request is looked at while it is still in the buffer that it was read into, and its answer is written straight into the buffer that is
//! written from: whoever can answer at once does so without a task, and without memory of its own. Whoever cannot takes what it needs out of
//! the request and returns a future.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;

use super::super::bytes::{Encapsulation, Encoding, Reader, Writer};
use super::super::error::DecodeError;
use super::super::identity::Identity;
use super::super::message::{self, Compression, Missing, REPLY, Request, Target};
use super::call::{Answer, Call, part};
use super::connection::Connection;

/// Answers the requests of connections.
pub trait Dispatcher: Send + Sync + 'static {
    /// Answers one request, or says who will. Requests of one connection come here one after the other, in their order.
    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served;
}

/// A request that came in.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The request, which borrows from its frame.
    pub request: &'a Request<'a>,
    /// The connection that it came over: for calls back, and to know when it ends.
    pub connection: &'a Connection,
    pub(super) frame: &'a Bytes,
}

impl<'a> Incoming<'a> {
    /// Returns what is called.
    pub fn target(&self) -> Target<'a> {
        self.request.target
    }

    /// Returns the address of who calls.
    pub fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }

    /// Returns a reader of the parameters. Encodings other than 1.0 and 1.1 are an error.
    pub fn params(&self) -> Result<Reader<'a>, DecodeError> {
        self.request.params.reader()
    }

    /// Returns the parameters as they are, to be kept: a part of the frame, not a copy.
    pub fn body(&self) -> Bytes {
        part(self.request.params.bytes, self.frame)
    }

    /// Returns the request as a call that can be passed on.
    pub fn to_call(&self) -> Call {
        let target = self.request.target;
        let context = self.request.context.iter();
        Call {
            identity: Identity {
                name: target.name.to_owned(),
                category: target.category.to_owned(),
            },
            facet: target.facet.to_owned(),
            operation: target.operation.to_owned(),
            mode: self.request.mode,
            context: context
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            encoding: self.request.params.version,
            params: self.body(),
        }
    }
}

/// The work on an answer that is not there yet.
pub type Work = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Proves that a request was answered, or will be.
#[must_use = "it is what a dispatcher returns"]
pub struct Served(pub(super) Option<Work>);

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "Served(now)",
            Some(_) => "Served(later)",
        })
    }
}

/// Writes the one answer to a request. For one that wants no answer, what is written is forgotten.
#[derive(Debug)]
pub struct Responder<'a> {
    pub(super) out: &'a mut Writer,
    pub(super) id: i32,
    pub(super) target: Target<'a>,
    pub(super) version: [u8; 2],
    pub(super) compression: Compression,
}

impl Responder<'_> {
    /// Returns whether an answer is wanted.
    pub fn is_wanted(&self) -> bool {
        self.id != 0
    }

    /// Returns the encoding that the results have to be in: the request's.
    pub fn encoding(&self) -> Encoding {
        let [major, minor] = self.version;
        Encoding::of(major, minor).unwrap_or_default()
    }

    /// Answers that it was done: writes out-parameters and result.
    pub fn done(self, fill: impl FnOnce(&mut Writer)) -> Served {
        self.capsule(0, fill)
    }

    /// Answers with a declared exception.
    pub fn exception(self, fill: impl FnOnce(&mut Writer)) -> Served {
        self.capsule(1, fill)
    }

    /// Answers that what was called is not there.
    pub fn missing(self, what: Missing) -> Served {
        let target = self.target;
        self.status(what.status(), |writer| target.encode(writer))
    }

    /// Answers that it failed: in the runtime (5), with an undeclared exception (6), or somehow (7).
    pub fn unknown(self, status: u8, text: &str) -> Served {
        self.status(status.clamp(5, 7), |writer| writer.text(text))
    }

    /// Answers that the parameters are not what they should be.
    pub fn malformed(self, error: &DecodeError) -> Served {
        self.unknown(5, &malformed(error))
    }

    /// Answers with an answer that is there.
    pub fn answer(self, answer: &Answer) -> Served {
        if self.is_wanted() {
            answer.encode(self.id, self.compression, self.out);
        }
        Served(None)
    }

    /// Passes on an answer of another server, whatever its encoding.
    pub fn pass(self, status: u8, body: &Encapsulation<'_>) -> Served {
        self.status(status.min(1), |writer| writer.encapsulation(body))
    }

    /// Answers when this work is done. It runs beside other requests of the connection.
    pub fn later(self, work: impl Future<Output = Answer> + Send + 'static) -> Served {
        Served(Some(Box::pin(work)))
    }

    fn capsule(self, status: u8, fill: impl FnOnce(&mut Writer)) -> Served {
        let encoding = self.encoding();
        self.status(status, |writer| writer.encapsulate(encoding, fill))
    }

    fn status(self, status: u8, fill: impl FnOnce(&mut Writer)) -> Served {
        if self.is_wanted() {
            let begin = message::begin(REPLY, self.compression, self.out);
            self.out.int(self.id);
            self.out.byte(status);
            fill(self.out);
            message::end(begin, self.out);
        }
        Served(None)
    }
}

/// Says of parameters that they are not what they should be.
pub fn malformed(error: &DecodeError) -> String {
    match error {
        DecodeError::Encoding(major, minor) => {
            format!("Ice::UnsupportedEncodingException: encoding {major}.{minor} is not supported")
        }
        error => format!("Ice::MarshalException: {error}"),
    }
}
