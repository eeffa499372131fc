//! How operations are carried out: parameters in, results or exceptions out.

use std::future::Future;
use std::sync::Arc;

use crate::ice::net::{Answer, Incoming, Responder, Served, malformed};
use crate::ice::{Decode, DecodeError, Encode, Encoding, Family, Format, Objects, Throw, Writer};
use crate::ipc::Refusal;

/// Why an operation has no results.
#[derive(Debug)]
pub(super) enum Raised {
    /// A declared exception.
    Exception(Box<dyn Throw>),
    /// The parameters are not what they should be.
    Malformed(DecodeError),
    /// Something else, in words.
    Failed(String),
}

impl From<DecodeError> for Raised {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

impl<E: Throw + 'static> From<E> for Raised {
    fn from(exception: E) -> Self {
        Self::Exception(Box::new(exception))
    }
}

/// What the master refuses, where no declared exception says it.
pub(super) fn failed(refusal: Refusal) -> Raised {
    Raised::Failed(refusal.to_string())
}

/// What an operation comes to.
pub(super) type Outcome<T> = Result<T, Raised>;

/// Results in which instances of classes are.
#[derive(Debug)]
pub(super) struct WithObjects<T>(pub(super) T, pub(super) Objects);

/// Results that can be written.
pub(super) trait Results: Send {
    /// Writes them.
    fn write(self, writer: &mut Writer);
}

impl<T: Encode + Send> Results for T {
    fn write(self, writer: &mut Writer) {
        self.encode(writer);
    }
}

impl<T: Encode + Send> Results for WithObjects<T> {
    fn write(self, writer: &mut Writer) {
        let Self(value, objects) = self;
        writer.with_classes(&value, &Arc::new(objects), Format::Compact);
    }
}

/// Takes the parameters. Texts may borrow from the message.
pub(super) fn params<'a, T: Decode<'a>>(incoming: &Incoming<'a>) -> Outcome<T> {
    Ok(incoming.request.params.decode()?)
}

/// Takes the parameters, and the instances of classes in them.
pub(super) fn params_with<'a, T: Decode<'a>>(
    incoming: &Incoming<'a>,
    family: Family,
) -> Outcome<(T, Objects)> {
    Ok(incoming.request.params.decode_with(family)?)
}

/// Answers at once.
pub(super) fn now<T: Results>(responder: Responder<'_>, outcome: Outcome<T>) -> Served {
    match outcome {
        Ok(results) => responder.done(|writer| results.write(writer)),
        Err(Raised::Exception(exception)) => {
            responder.exception(|writer| exception.throw(writer, Format::Compact))
        }
        Err(Raised::Malformed(error)) => responder.malformed(&error),
        Err(Raised::Failed(text)) => responder.unknown(7, &text),
    }
}

/// Answers when it is known.
pub(super) fn later<T: Results>(
    responder: Responder<'_>,
    work: impl Future<Output = Outcome<T>> + Send + 'static,
) -> Served {
    let encoding = responder.encoding();
    responder.later(async move { answer(encoding, work.await) })
}

fn answer<T: Results>(encoding: Encoding, outcome: Outcome<T>) -> Answer {
    match outcome {
        Ok(results) => Answer::done(encoding, |writer| results.write(writer)),
        Err(Raised::Exception(exception)) => {
            Answer::exception(encoding, |writer| exception.throw(writer, Format::Compact))
        }
        Err(Raised::Malformed(error)) => Answer::Unknown(5, malformed(&error)),
        Err(Raised::Failed(text)) => Answer::Unknown(7, text),
    }
}
