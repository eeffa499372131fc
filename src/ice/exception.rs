//! Declared exceptions: what an operation may answer with instead of its results (`ice-protocol.md` §7).

use std::fmt;
use std::sync::Arc;

use super::bytes::{Encapsulation, Encoding, Reader, Writer};
use super::class::{Family, Objects};
use super::error::DecodeError;
use super::slice::{Format, Head, Kind, TypeId};

/// An exception of Slice. Implemented by [`exception!`](crate::exception).
pub trait Exception: Sized {
    /// Its type id.
    const TYPE_ID: &'static str;
    /// Whether instances of classes may be in it.
    const CLASSES: bool;

    /// Takes its slices, the first of which begins with this head.
    fn decode_slices<'a>(reader: &mut Reader<'a>, head: Head<'a>) -> Result<Self, DecodeError>;

    /// Puts its slices.
    fn encode_slices(&self, writer: &mut Writer);
}

/// An exception of any kind that can be thrown.
pub trait Throw: fmt::Debug + Send + Sync {
    /// Returns its type id.
    fn type_id(&self) -> &'static str;

    /// Puts it, without instances of classes.
    fn throw(&self, writer: &mut Writer, format: Format);
}

impl<E: Exception + fmt::Debug + Send + Sync> Throw for E {
    fn type_id(&self) -> &'static str {
        E::TYPE_ID
    }

    fn throw(&self, writer: &mut Writer, format: Format) {
        throw_with(self, writer, &Arc::default(), format);
    }
}

/// Puts an exception, and the instances of classes that it refers to.
pub fn throw_with<E: Exception>(
    exception: &E,
    writer: &mut Writer,
    objects: &Arc<Objects>,
    format: Format,
) {
    writer.begin_classes(objects, format);
    if writer.encoding() == Encoding::V10 {
        writer.byte(u8::from(E::CLASSES));
    }
    exception.encode_slices(writer);
    writer.end_classes(E::CLASSES);
}

/// An exception that has come in.
#[derive(Debug, Clone, Copy)]
pub struct Thrown<'a> {
    within: Encapsulation<'a>,
    type_id: &'a str,
}

impl<'a> Thrown<'a> {
    /// Looks at what has come in.
    pub fn new(within: Encapsulation<'a>) -> Result<Self, DecodeError> {
        let mut reader = within.reader()?;
        let (_, head) = begin(&mut reader)?;
        let TypeId::Name(type_id) = head.id else {
            return Err(DecodeError::Slice("an exception has a name"));
        };
        Ok(Self { within, type_id })
    }

    /// Returns the type id that it says it has.
    pub fn type_id(&self) -> &'a str {
        self.type_id
    }

    /// Takes it for an exception of this type, if it is one or is derived from one in a way that can be seen.
    pub fn cast<E: Exception>(&self, family: Family) -> Result<Option<(E, Objects)>, DecodeError> {
        let mut reader = self.within.reader()?;
        reader.expect_classes(family);
        let (classes, mut head) = begin(&mut reader)?;
        loop {
            if head.id == TypeId::Name(E::TYPE_ID) {
                let exception = E::decode_slices(&mut reader, head)?;
                let objects = match classes {
                    true => reader.end_classes()?,
                    false => Objects::default(),
                };
                reader.end()?;
                return Ok(Some((exception, objects)));
            }
            match head.skip(&mut reader) {
                Ok(()) => {}
                // Without sizes nothing is to be seen behind what is not known.
                Err(DecodeError::Class(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
            let end = match reader.encoding() {
                Encoding::V10 => reader.left() == 0,
                Encoding::V11 => head.last,
            };
            if end {
                return Ok(None);
            }
            head = head.next(&mut reader)?;
        }
    }

    /// Takes it for an exception of this type in which no classes are.
    pub fn is<E: Exception>(&self) -> Result<Option<E>, DecodeError> {
        Ok(self.cast(&[])?.map(|(exception, _)| exception))
    }
}

/// Reads up to the first slice; whether instances follow all of them, where no size says so, is the same as whether classes are in it.
fn begin<'a>(reader: &mut Reader<'a>) -> Result<(bool, Head<'a>), DecodeError> {
    let classes = match reader.encoding() {
        Encoding::V10 => match reader.byte()? {
            0 => false,
            1 => true,
            other => return Err(DecodeError::Bool(other)),
        },
        Encoding::V11 => true,
    };
    Ok((classes, Head::read(reader, Kind::Exception)?))
}
