//! Values that are decoded and encoded.

use std::collections::BTreeMap;

use super::bytes::{Reader, Writer};
use super::error::DecodeError;

/// How an optional value is marked, so that who does not know it can skip it (`ice-protocol.md` §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionalFormat {
    /// One byte.
    F1,
    /// Two bytes.
    F2,
    /// Four bytes.
    F4,
    /// Eight bytes.
    F8,
    /// A size.
    Size,
    /// Its own size, which counts bytes, is in front.
    Counted,
    /// Its number of bytes, as a size, is in front.
    VSize,
    /// Its number of bytes, as an `int`, is in front.
    FSize,
    /// An instance of a class.
    Class,
}

impl OptionalFormat {
    /// Returns the number on the wire.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::F1 => 0,
            Self::F2 => 1,
            Self::F4 => 2,
            Self::F8 => 3,
            Self::Size => 4,
            Self::Counted | Self::VSize => 5,
            Self::FSize => 6,
            Self::Class => 7,
        }
    }

    const fn of_numbers(width: usize) -> Self {
        match width {
            1 => Self::F1,
            2 => Self::F2,
            4 => Self::F4,
            _ => Self::F8,
        }
    }

    const fn of_elements(width: Option<usize>) -> Self {
        match width {
            Some(1) => Self::Counted,
            Some(_) => Self::VSize,
            None => Self::FSize,
        }
    }
}

/// What is known of a type before any value of it is seen.
pub trait Shape {
    /// The fewest bytes that a value takes, so that a count of them can be judged.
    const LEAST: usize;
    /// How many bytes every value takes, where all take the same.
    const FIXED: Option<usize> = None;
    /// Whether instances of classes may be in it.
    const CLASSES: bool = false;
    /// How an optional one is marked.
    const OPTIONAL: OptionalFormat = match Self::FIXED {
        Some(_) => OptionalFormat::VSize,
        None => OptionalFormat::FSize,
    };
}

/// A value that can be taken off bytes.
pub trait Decode<'a>: Shape + Sized {
    /// Takes one.
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;

    /// Takes so many; that they fit into the bytes has been checked.
    fn decode_all(count: usize, reader: &mut Reader<'a>) -> Result<Vec<Self>, DecodeError> {
        // A value may be larger in memory than on the wire, so the room grows with what is read.
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Self::decode(reader)?);
        }
        Ok(all)
    }
}

/// A value that can be put into bytes.
pub trait Encode: Shape {
    /// Puts it.
    fn encode(&self, writer: &mut Writer);

    /// Puts all of them.
    fn encode_all(all: &[Self], writer: &mut Writer)
    where
        Self: Sized,
    {
        for value in all {
            value.encode(writer);
        }
    }
}

/// Adds widths up, as long as every one is known.
pub const fn widths(of: &[Option<usize>]) -> Option<usize> {
    let (mut sum, mut at) = (0, 0);
    while at < of.len() {
        match of[at] {
            Some(width) => sum += width,
            None => return None,
        }
        at += 1;
    }
    Some(sum)
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Shape for $type {
            const LEAST: usize = size_of::<$type>();
            const FIXED: Option<usize> = Some(size_of::<$type>());
            const OPTIONAL: OptionalFormat = OptionalFormat::of_numbers(size_of::<$type>());
        }

        impl Decode<'_> for $type {
            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                reader.array().map(<$type>::from_le_bytes)
            }
        }

        impl Encode for $type {
            fn encode(&self, writer: &mut Writer) {
                writer.put(&self.to_le_bytes());
            }
        }
    )*};
}

numbers!(i16, i32, i64, f32, f64);

impl Shape for u8 {
    const LEAST: usize = 1;
    const FIXED: Option<usize> = Some(1);
    const OPTIONAL: OptionalFormat = OptionalFormat::F1;
}

impl Decode<'_> for u8 {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.byte()
    }

    fn decode_all(count: usize, reader: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        reader.take(count).map(<[u8]>::to_vec)
    }
}

impl Encode for u8 {
    fn encode(&self, writer: &mut Writer) {
        writer.byte(*self);
    }

    fn encode_all(all: &[Self], writer: &mut Writer) {
        writer.put(all);
    }
}

impl Shape for bool {
    const LEAST: usize = 1;
    const FIXED: Option<usize> = Some(1);
    const OPTIONAL: OptionalFormat = OptionalFormat::F1;
}

impl Decode<'_> for bool {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Bool(other)),
        }
    }
}

impl Encode for bool {
    fn encode(&self, writer: &mut Writer) {
        writer.byte(u8::from(*self));
    }
}

impl Shape for &str {
    const LEAST: usize = 1;
    const OPTIONAL: OptionalFormat = OptionalFormat::Counted;
}

impl<'a> Decode<'a> for &'a str {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.text()
    }
}

impl Encode for &str {
    fn encode(&self, writer: &mut Writer) {
        writer.text(self);
    }
}

impl Shape for String {
    const LEAST: usize = 1;
    const OPTIONAL: OptionalFormat = OptionalFormat::Counted;
}

impl Decode<'_> for String {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.text().map(str::to_owned)
    }
}

impl Encode for String {
    fn encode(&self, writer: &mut Writer) {
        writer.text(self);
    }
}

impl<T: Shape> Shape for Vec<T> {
    const LEAST: usize = 1;
    const CLASSES: bool = T::CLASSES;
    const OPTIONAL: OptionalFormat = OptionalFormat::of_elements(T::FIXED);
}

/// A sequence. Of bytes, better borrow: [`Reader::take`].
impl<'a, T: Decode<'a>> Decode<'a> for Vec<T> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.count(T::LEAST)?;
        T::decode_all(count, reader)
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, writer: &mut Writer) {
        writer.size(self.len());
        T::encode_all(self, writer);
    }
}

/// Values one after another: parameters, results.
macro_rules! tuples {
    ($($($name:ident $number:tt)*;)*) => {$(
        impl<$($name: Shape),*> Shape for ($($name,)*) {
            const LEAST: usize = 0 $(+ $name::LEAST)*;
            const FIXED: Option<usize> = widths(&[$($name::FIXED),*]);
            const CLASSES: bool = false $(|| $name::CLASSES)*;
        }

        impl<'a, $($name: Decode<'a>),*> Decode<'a> for ($($name,)*) {
            #[allow(unused_variables, clippy::unused_unit, reason = "of nothing, nothing is read")]
            fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                Ok(($($name::decode(reader)?,)*))
            }
        }

        impl<$($name: Encode),*> Encode for ($($name,)*) {
            #[allow(unused_variables, reason = "of nothing, nothing is written")]
            fn encode(&self, writer: &mut Writer) {
                $(self.$number.encode(writer);)*
            }
        }
    )*};
}

tuples! {
    ;
    A 0;
    A 0 B 1;
    A 0 B 1 C 2;
    A 0 B 1 C 2 D 3;
    A 0 B 1 C 2 D 3 E 4;
}

impl<K: Shape, V: Shape> Shape for BTreeMap<K, V> {
    const LEAST: usize = 1;
    const CLASSES: bool = K::CLASSES || V::CLASSES;
    const OPTIONAL: OptionalFormat = match widths(&[K::FIXED, V::FIXED]) {
        Some(_) => OptionalFormat::VSize,
        None => OptionalFormat::FSize,
    };
}

/// A dictionary. Its order on the wire means nothing; of keys that are there twice the last counts.
impl<'a, K: Decode<'a> + Ord, V: Decode<'a>> Decode<'a> for BTreeMap<K, V> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.count(K::LEAST + V::LEAST)?;
        let mut all = Self::new();
        for _ in 0..count {
            let (key, value) = <(K, V)>::decode(reader)?;
            all.insert(key, value);
        }
        Ok(all)
    }
}

impl<K: Encode, V: Encode> Encode for BTreeMap<K, V> {
    fn encode(&self, writer: &mut Writer) {
        writer.size(self.len());
        for (key, value) in self {
            key.encode(writer);
            value.encode(writer);
        }
    }
}
