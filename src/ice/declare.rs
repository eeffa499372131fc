//! How the types of Slice are declared: once, and both halves of the encoding follow.

/// The shape of values one after another.
#[doc(hidden)]
#[macro_export]
macro_rules! shape_of {
    ($($type:ty),*) => {
        const LEAST: usize = 0 $(+ <$type as $crate::ice::Shape>::LEAST)*;
        const FIXED: Option<usize> = $crate::ice::widths(&[$(<$type as $crate::ice::Shape>::FIXED),*]);
        const CLASSES: bool = false $(|| <$type as $crate::ice::Shape>::CLASSES)*;
    };
}

/// Declares a struct of Slice: its members in the order in which they are on the wire. With a lifetime its members may borrow.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident<$life:lifetime> { $($(#[$of:meta])* $member_vis:vis $member:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name<$life> { $($(#[$of])* $member_vis $member: $type),* }

        impl<$life> $crate::ice::Shape for $name<$life> {
            $crate::shape_of!($($type),*);
        }

        impl<$life> $crate::ice::Decode<$life> for $name<$life> {
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

        impl $crate::ice::Shape for $name {
            $crate::shape_of!($($type),*);
        }

        impl<'de> $crate::ice::Decode<'de> for $name {
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

        impl $crate::ice::Shape for $name {
            const LEAST: usize = 1;
            const OPTIONAL: $crate::ice::OptionalFormat = $crate::ice::OptionalFormat::Size;
        }

        impl<'de> $crate::ice::Decode<'de> for $name {
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

/// Declares a class of Slice: `struct Name("::Module::Name"): Base { members } optional { tag => member: type }`. A short type id follows the
/// name; the members of the class above are in `base`.
#[macro_export]
macro_rules! class {
    ($(#[$meta:meta])* $vis:vis struct $name:ident($type_id:literal $(, $compact:literal)?) $(: $base:ty)? {
        $($(#[$of:meta])* $member_vis:vis $member:ident: $type:ty),* $(,)?
    } $(optional { $($(#[$opt_of:meta])* $tag:literal => $opt_vis:vis $opt:ident: $opt_type:ty),* $(,)? })?) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $(
                /// What it has of the class above.
                $vis base: $base,
            )?
            $($(#[$of])* $member_vis $member: $type,)*
            $($($(#[$opt_of])* $opt_vis $opt: Option<$opt_type>,)*)?
        }

        impl $crate::ice::Class for $name {
            const TYPE_ID: &'static str = $type_id;
            const COMPACT_ID: Option<i32> = {
                let ids: &[i32] = &[$($compact)?];
                ids.first().copied()
            };

            fn decode_slices<'a>(reader: &mut $crate::ice::Reader<'a>, head: $crate::ice::Head<'a>) -> Result<Self, $crate::ice::DecodeError> {
                $crate::decode_slices!(reader, head, $crate::ice::Class, [$($base)?], [$($member: $type),*], [$($($tag => $opt: $opt_type),*)?])
            }
        }

        impl $crate::ice::Instance for $name {
            fn class_id(&self) -> &str {
                $type_id
            }

            fn base(&self) -> Option<&dyn $crate::ice::Instance> {
                $crate::base_of!(self, [$($base)?])
            }

            fn encode_slices(&self, writer: &mut $crate::ice::Writer) {
                let root = $crate::ice::Instance::base(self).is_none();
                let open = writer.begin_slice($type_id, <Self as $crate::ice::Class>::COMPACT_ID, root);
                $($crate::ice::Encode::encode(&self.$member, writer);)*
                $($(writer.optional($tag, self.$opt.as_ref());)*)?
                writer.end_slice(open);
                match $crate::ice::Instance::base(self) {
                    Some(base) => base.encode_slices(writer),
                    None => writer.end_instance(),
                }
            }

            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
        }
    };
}

/// Declares an exception of Slice: `struct Name("::Module::Name"): Base { members }`.
#[macro_export]
macro_rules! exception {
    ($(#[$meta:meta])* $vis:vis struct $name:ident($type_id:literal) $(: $base:ty)? {
        $($(#[$of:meta])* $member_vis:vis $member:ident: $type:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $(
                /// What it has of the exception above.
                $vis base: $base,
            )?
            $($(#[$of])* $member_vis $member: $type,)*
        }

        impl $crate::ice::Exception for $name {
            const TYPE_ID: &'static str = $type_id;
            const CLASSES: bool = false
                $(|| <$type as $crate::ice::Shape>::CLASSES)*
                $(|| <$base as $crate::ice::Exception>::CLASSES)?;

            fn decode_slices<'a>(reader: &mut $crate::ice::Reader<'a>, head: $crate::ice::Head<'a>) -> Result<Self, $crate::ice::DecodeError> {
                $crate::decode_slices!(reader, head, $crate::ice::Exception, [$($base)?], [$($member: $type),*], [])
            }

            fn encode_slices(&self, writer: &mut $crate::ice::Writer) {
                let bases: &[&str] = &[$(stringify!($base))?];
                let open = writer.begin_exception_slice($type_id, bases.is_empty());
                $($crate::ice::Encode::encode(&self.$member, writer);)*
                writer.end_slice(open);
                $(<$base as $crate::ice::Exception>::encode_slices(&self.base, writer);)?
            }
        }
    };
}

/// The instance as one of the class above.
#[doc(hidden)]
#[macro_export]
macro_rules! base_of {
    ($self:ident, []) => {
        None
    };
    ($self:ident, [$base:ty]) => {
        Some(&$self.base)
    };
}

/// Takes the members of a slice, and then the slices above it.
#[doc(hidden)]
#[macro_export]
macro_rules! decode_slices {
    ($reader:ident, $head:ident, $trait:path, [$($base:ty)?], [$($member:ident: $type:ty),*], [$($tag:literal => $opt:ident: $opt_type:ty),*]) => {{
        let inside = $head.begin($reader)?;
        $(let $member: $type = $crate::ice::Decode::decode($reader)?;)*
        $(let $opt: Option<$opt_type> = inside.optional($reader, $tag)?;)*
        inside.end($reader)?;
        $crate::decode_base!($reader, $head, $trait, [$($base)?], base);
        Ok(Self {
            $(base: { let above: $base = base; above },)?
            $($member,)*
            $($opt,)*
        })
    }};
}

/// Takes the slices above one.
#[doc(hidden)]
#[macro_export]
macro_rules! decode_base {
    ($reader:ident, $head:ident, $trait:path, [], $into:ident) => {
        $head.end($reader)?;
    };
    ($reader:ident, $head:ident, $trait:path, [$base:ty], $into:ident) => {
        let next = $head.next($reader)?;
        let $into = <$base as $trait>::decode_slices($reader, next)?;
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use crate::ice::{Decode, DecodeError, Encode, Encoding, Reader, Writer};

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
