//! Answers to calls that are carried out beside the connection that they came over.

use crate::ice::net::{Answer, Call, malformed};
use crate::ice::{Decode, Encapsulation, Encoding, Format, Missing, Proxy, Throw, Thrown, Writer};

/// Answers that it was done.
pub(super) fn done(call: &Call, fill: impl FnOnce(&mut Writer)) -> Answer {
    Answer::done(encoding(call), fill)
}

/// Answers with an exception, sliced as Glacier2 has its own.
pub(super) fn thrown(call: &Call, exception: &dyn Throw) -> Answer {
    Answer::exception(encoding(call), |writer| {
        exception.throw(writer, Format::Sliced);
    })
}

/// Answers that there is no such object.
pub(super) fn gone(call: &Call) -> Answer {
    Answer::Missing {
        what: Missing::Object,
        identity: call.identity.clone(),
        facet: call.facet.clone(),
        operation: call.operation.clone(),
    }
}

/// Answers that it failed, in words.
pub(super) fn failed(text: impl Into<String>) -> Answer {
    Answer::Unknown(7, text.into())
}

/// Takes the parameters of a call, or answers that they are not what they should be.
pub(super) fn params<'a, T: Decode<'a>>(call: &'a Call) -> Result<T, Answer> {
    let capsule = Encapsulation {
        version: call.encoding,
        bytes: &call.params,
    };
    capsule
        .decode()
        .map_err(|error| Answer::Unknown(5, malformed(&error)))
}

/// Takes the results out of an answer; without any it says what came instead.
pub(super) fn results<'a, T: Decode<'a>>(answer: &'a Answer) -> Result<T, String> {
    match answer {
        Answer::Done { encoding, body } => {
            let capsule = Encapsulation {
                version: *encoding,
                bytes: body,
            };
            capsule.decode().map_err(|error| error.to_string())
        }
        Answer::Exception { encoding, body } => {
            let capsule = Encapsulation {
                version: *encoding,
                bytes: body,
            };
            Err(match Thrown::new(capsule) {
                Ok(thrown) => thrown.type_id().to_owned(),
                Err(error) => error.to_string(),
            })
        }
        Answer::Missing { what, .. } => Err(format!("{what:?} is missing")),
        Answer::Unknown(_, text) => Err(text.clone()),
    }
}

/// Takes a proxy that is not nil out of an answer.
pub(super) fn proxy(answer: &Answer) -> Result<Proxy, String> {
    results::<Option<Proxy>>(answer)?.ok_or_else(|| "nil".to_owned())
}

fn encoding(call: &Call) -> Encoding {
    let [major, minor] = call.encoding;
    Encoding::of(major, minor).unwrap_or_default()
}
