//! Values that are decoded and encoded, and how they are declared: once.

use std::collections::BTreeMap;

use super::bytes::{Reader, Writer};
use super::error::DecodeError;

/// A value that can be taken off bytes.
pub trait Decode<'a>: Sized {
    /// The fewest bytes that one takes, so that a count of them can be judged.
    const LEAST: usize;

    /// Takes one.
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
}

/// A value that can be put into bytes.
pub trait Encode {
    /// Puts it.
    fn encode(&self, writer: &mut Writer);
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Decode<'_> for $type {
            const LEAST: usize = size_of::<$type>();

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

numbers!(u8, i16, i32, i64, f32, f64);

impl Decode<'_> for bool {
    const LEAST: usize = 1;

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

impl<'a> Decode<'a> for &'a str {
    const LEAST: usize = 1;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.text()
    }
}

impl Encode for &str {
    fn encode(&self, writer: &mut Writer) {
        writer.text(self);
    }
}

impl Decode<'_> for String {
    const LEAST: usize = 1;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.text().map(str::to_owned)
    }
}

impl Encode for String {
    fn encode(&self, writer: &mut Writer) {
        writer.text(self);
    }
}

/// A sequence. Of bytes, better borrow: [`Reader::take`].
impl<'a, T: Decode<'a>> Decode<'a> for Vec<T> {
    const LEAST: usize = 1;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.count(T::LEAST)?;
        // So many do fit into the bytes; a value may be larger in memory than on the wire, so the room grows with what is read.
        let mut all = Self::new();
        for _ in 0..count {
            all.push(T::decode(reader)?);
        }
        Ok(all)
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, writer: &mut Writer) {
        writer.size(self.len());
        for value in self {
            value.encode(writer);
        }
    }
}

impl<'a, A: Decode<'a>, B: Decode<'a>> Decode<'a> for (A, B) {
    const LEAST: usize = A::LEAST + B::LEAST;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok((A::decode(reader)?, B::decode(reader)?))
    }
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn encode(&self, writer: &mut Writer) {
        self.0.encode(writer);
        self.1.encode(writer);
    }
}

/// A dictionary. Its order on the wire means nothing; of keys that are there twice the last counts.
impl<'a, K: Decode<'a> + Ord, V: Decode<'a>> Decode<'a> for BTreeMap<K, V> {
    const LEAST: usize = 1;

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

/// Declares a struct of Slice: its members in the order in which they are on the wire. With a lifetime its members may borrow.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident<$life:lifetime> { $($(#[$of:meta])* $member_vis:vis $member:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name<$life> { $($(#[$of])* $member_vis $member: $type),* }

        impl<$life> $crate::ice::Decode<$life> for $name<$life> {
            const LEAST: usize = 0 $(+ <$type as $crate::ice::Decode<$life>>::LEAST)*;

            fn decode(reader: &mut $crate::ice::Reader<$life>) -> Result<Self, $crate::ice::DecodeError> {
                Ok(Self { $($member: $crate::ice::Decode::decode(reader)?),* })
            }
        }

        impl $crate::ice::Encode for $name<'_> {
            fn encode(&self, writer: &mut $crate::ice::Writer) {
                $($crate::ice::Encode::encode(&self.$member, writer);)*
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$of:meta])* $member_vis:vis $member:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name { $($(#[$of])* $member_vis $member: $type),* }

        impl<'de> $crate::ice::Decode<'de> for $name {
            const LEAST: usize = 0 $(+ <$type as $crate::ice::Decode<'de>>::LEAST)*;

            fn decode(reader: &mut $crate::ice::Reader<'de>) -> Result<Self, $crate::ice::DecodeError> {
                Ok(Self { $($member: $crate::ice::Decode::decode(reader)?),* })
            }
        }

        impl $crate::ice::Encode for $name {
            fn encode(&self, writer: &mut $crate::ice::Writer) {
                $($crate::ice::Encode::encode(&self.$member, writer);)*
            }
        }
    };
}

/// Declares an enumeration of Slice. In encoding 1.1 its value is a size, in 1.0 it is as wide as its largest value asks for.
#[macro_export]
macro_rules! enumeration {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$of:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$of])* $variant = $value),* }

        impl $name {
            const MAX: i32 = {
                let mut max = 0;
                $(if $value > max { max = $value; })*
                max
            };
        }

        impl<'de> $crate::ice::Decode<'de> for $name {
            const LEAST: usize = 1;

            fn decode(reader: &mut $crate::ice::Reader<'de>) -> Result<Self, $crate::ice::DecodeError> {
                let value = match (reader.encoding(), Self::MAX) {
                    ($crate::ice::Encoding::V11, _) => i32::try_from(reader.size()?).unwrap_or(i32::MAX),
                    ($crate::ice::Encoding::V10, 0..=126) => i32::from(reader.byte()?),
                    ($crate::ice::Encoding::V10, 127..=32766) => i32::from(<i16 as $crate::ice::Decode<'_>>::decode(reader)?),
                    ($crate::ice::Encoding::V10, _) => reader.int()?,
                };
                match value {
                    $($value => Ok(Self::$variant),)*
                    value => Err($crate::ice::DecodeError::Enumerator { name: stringify!($name), value }),
                }
            }
        }

        impl $crate::ice::Encode for $name {
            fn encode(&self, writer: &mut $crate::ice::Writer) {
                let value = *self as i32;
                match (writer.encoding(), Self::MAX) {
                    ($crate::ice::Encoding::V11, _) => writer.size(usize::try_from(value).unwrap_or(0)),
                    ($crate::ice::Encoding::V10, 0..=126) => writer.byte(u8::try_from(value).unwrap_or(0)),
                    ($crate::ice::Encoding::V10, 127..=32766) => {
                        $crate::ice::Encode::encode(&i16::try_from(value).unwrap_or(0), writer);
                    }
                    ($crate::ice::Encoding::V10, _) => writer.int(value),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ice::Encoding;

    enumeration! {
        /// Of one byte.
        enum Small { A = 0, B = 5 }
    }
    enumeration! {
        /// Of two bytes.
        enum Middle { A = 0, B = 300 }
    }
    enumeration! {
        /// Of four bytes.
        enum Large { A = 0, B = 70000 }
    }
    record! {
        /// Everything at once.
        struct All {
            flag: bool,
            byte: u8,
            short: i16,
            int: i32,
            long: i64,
            text: String,
            list: Vec<String>,
            map: BTreeMap<String, i32>,
            small: Small,
            middle: Middle,
            large: Large,
        }
    }
    record! {
        /// Borrows.
        struct Borrowed<'a> { name: &'a str, count: i32 }
    }

    fn encoded(value: &impl Encode, encoding: Encoding) -> Vec<u8> {
        let mut writer = Writer::new(encoding);
        value.encode(&mut writer);
        writer.into_bytes()
    }

    fn decoded<'a, T: Decode<'a>>(bytes: &'a [u8], encoding: Encoding) -> Result<T, DecodeError> {
        let mut reader = Reader::new(bytes, encoding);
        let value = T::decode(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }

    #[test]
    fn enumerations_are_as_wide_as_their_encoding_has_them() {
        assert_eq!(encoded(&Small::B, Encoding::V10), [5]);
        assert_eq!(encoded(&Middle::B, Encoding::V10), [44, 1]);
        assert_eq!(encoded(&Large::B, Encoding::V10), [0x70, 0x11, 1, 0]);
        assert_eq!(encoded(&Middle::B, Encoding::V11), [255, 44, 1, 0, 0]);
        for encoding in [Encoding::V10, Encoding::V11] {
            let wrong: Result<Small, _> = decoded(&[1], encoding);
            let expected = DecodeError::Enumerator {
                name: "Small",
                value: 1,
            };
            assert_eq!(wrong, Err(expected));
        }
    }

    #[test]
    fn a_borrowed_record_is_in_the_bytes() {
        let value = Borrowed {
            name: "echo",
            count: 7,
        };
        let bytes = encoded(&value, Encoding::V11);
        assert_eq!(decoded::<Borrowed<'_>>(&bytes, Encoding::V11), Ok(value));
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_is_decoded_and_nothing_less(
            flag: bool, byte: u8, short: i16, int: i32, long: i64, text in ".{0,40}",
            list in proptest::collection::vec(".{0,8}", 0..6),
            map in proptest::collection::btree_map("[a-z]{0,6}", any::<i32>(), 0..6),
            (small, middle, large) in (any::<bool>(), any::<bool>(), any::<bool>()),
            old: bool,
        ) {
            let encoding = if old { Encoding::V10 } else { Encoding::V11 };
            let value = All {
                flag, byte, short, int, long, text, list, map,
                small: if small { Small::A } else { Small::B },
                middle: if middle { Middle::A } else { Middle::B },
                large: if large { Large::A } else { Large::B },
            };
            let bytes = encoded(&value, encoding);
            prop_assert_eq!(decoded::<All>(&bytes, encoding), Ok(value));
            for end in 0..bytes.len() {
                prop_assert!(decoded::<All>(&bytes[..end], encoding).is_err());
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for encoding in [Encoding::V10, Encoding::V11] {
                // Whatever comes of it.
                let _ = decoded::<All>(&bytes, encoding);
                let _ = decoded::<Vec<Vec<String>>>(&bytes, encoding);
            }
        }
    }
}
