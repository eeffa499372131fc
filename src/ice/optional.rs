//! Optional values: marked with a tag, in the order of tags, and skipped by whoever does not know them (`ice-protocol.md` §8).
//!
//! Only encoding 1.1 has them; in 1.0 they are left out.

use super::bytes::{Encoding, Reader, Writer};
use super::codec::{Decode, Encode, OptionalFormat};
use super::error::DecodeError;

/// Ends the optional members of a slice.
const END: u8 = 0xff;

/// Tags from here on do not fit into the byte of the format.
const LONG: u8 = 30;

impl<'a> Reader<'a> {
    /// Takes the optional value of this tag, if it is there. Smaller tags that are in front of it are skipped.
    pub fn optional<T: Decode<'a>>(&mut self, tag: i32) -> Result<Option<T>, DecodeError> {
        loop {
            let Some((found, format)) = self.tag(tag)? else {
                return Ok(None);
            };
            if found < tag {
                self.skip(format)?;
                continue;
            }
            if format != T::OPTIONAL.code() {
                return Err(DecodeError::OptionalFormat { tag, format });
            }
            let bytes = match T::OPTIONAL {
                OptionalFormat::VSize => self.size()?,
                OptionalFormat::FSize => self.length()?,
                _ => return T::decode(self).map(Some),
            };
            let value = self.take(bytes)?;
            return self.within(value, T::decode).map(Some);
        }
    }

    /// Skips the optional parameters that nobody asked for: all that is left.
    pub(super) fn skip_optional_parameters(&mut self) -> Result<(), DecodeError> {
        while let Some((_, format)) = self.tag(i32::MAX)? {
            self.skip(format)?;
        }
        Ok(())
    }

    /// Skips the optional members that nobody asked for, and their end.
    pub(super) fn skip_optional_members(&mut self) -> Result<(), DecodeError> {
        self.skip_optional_parameters()?;
        self.byte().map(drop)
    }

    /// Takes the next tag, if it is not above `most`.
    fn tag(&mut self, most: i32) -> Result<Option<(i32, u8)>, DecodeError> {
        let before = self.peek();
        if self.encoding() == Encoding::V10 || matches!(before.first(), None | Some(&END)) {
            return Ok(None);
        }
        let byte = self.byte()?;
        let tag = match byte >> 3 {
            LONG => {
                let tag = self.size()?;
                i32::try_from(tag).unwrap_or(i32::MAX)
            }
            tag => i32::from(tag),
        };
        if tag > most {
            self.rewind(before);
            return Ok(None);
        }
        Ok(Some((tag, byte & 7)))
    }

    /// Skips the value of an optional.
    fn skip(&mut self, format: u8) -> Result<(), DecodeError> {
        let bytes = match format {
            0 => 1,
            1 => 2,
            2 => 4,
            3 => 8,
            4 => return self.size().map(drop),
            5 => self.size()?,
            6 => self.length()?,
            _ => return self.reference().map(drop),
        };
        self.take(bytes).map(drop)
    }

    /// Takes a number of bytes that is an `int`.
    fn length(&mut self) -> Result<usize, DecodeError> {
        let length = self.int()?;
        usize::try_from(length).map_err(|_| DecodeError::NegativeSize(length))
    }
}

impl Writer {
    /// Puts an optional value, if there is one. Whoever calls keeps the order of tags.
    pub fn optional<T: Encode>(&mut self, tag: i32, value: Option<&T>) {
        let Some(value) = value.filter(|_| self.encoding() == Encoding::V11) else {
            return;
        };
        let code = T::OPTIONAL.code();
        match u8::try_from(tag) {
            Ok(tag) if tag < LONG => self.byte(tag << 3 | code),
            _ => {
                self.byte(LONG << 3 | code);
                self.size(usize::try_from(tag).unwrap_or(0));
            }
        }
        self.note_optional();
        match T::OPTIONAL {
            OptionalFormat::VSize => {
                // Its size is in front of it and as long as it has to be, so it is made beside it; no class is in what is of fixed width.
                let mut beside = Self::new(self.encoding());
                value.encode(&mut beside);
                self.size(beside.bytes().len());
                self.put(beside.bytes());
            }
            OptionalFormat::FSize => self.sized(|writer| value.encode(writer)),
            _ => value.encode(self),
        }
    }

    /// Ends the optional members of a slice.
    pub(super) fn end_optional_members(&mut self) {
        self.byte(END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    record! {
        /// Of fixed width.
        struct Point { x: i32, y: i32 }
    }

    /// As recorded from Ice: a required 9, an optional text of tag 2, an optional point of tag 3.
    const RECORDED: &[u8] = &[
        9, 0, 0, 0, 0x15, 4, b'a', b'b', b'c', b'd', 0x1d, 8, 5, 0, 0, 0, 6, 0, 0, 0,
    ];

    #[test]
    fn optional_parameters_are_as_ice_has_them() {
        let mut reader = Reader::new(RECORDED, Encoding::V11);
        assert_eq!(reader.int(), Ok(9));
        assert_eq!(reader.optional::<String>(2), Ok(Some("abcd".to_owned())));
        assert_eq!(reader.optional(3), Ok(Some(Point { x: 5, y: 6 })));
        assert_eq!(reader.optional::<i32>(4), Ok(None));
        reader.finish().unwrap();

        let mut writer = Writer::default();
        writer.int(9);
        writer.optional(2, Some(&"abcd"));
        writer.optional(3, Some(&Point { x: 5, y: 6 }));
        writer.optional::<i32>(4, None);
        assert_eq!(writer.bytes(), RECORDED);
        let mut old = Writer::new(Encoding::V10);
        old.optional(2, Some(&"abcd"));
        assert!(old.bytes().is_empty());
    }

    #[test]
    fn unknown_ones_are_skipped_and_wrong_ones_refused() {
        let mut reader = Reader::new(&RECORDED[4..], Encoding::V11);
        assert_eq!(reader.optional(3), Ok(Some(Point { x: 5, y: 6 })));
        let mut reader = Reader::new(&RECORDED[4..], Encoding::V11);
        assert_eq!(reader.optional::<String>(1), Ok(None));
        reader.skip_optional_parameters().unwrap();
        assert_eq!(reader.left(), 0);
        let mut reader = Reader::new(&RECORDED[4..], Encoding::V11);
        let wrong = DecodeError::OptionalFormat { tag: 2, format: 5 };
        assert_eq!(reader.optional::<i32>(2), Err(wrong));
    }

    #[test]
    fn every_format_comes_back() {
        let mut writer = Writer::default();
        writer.optional(0, Some(&true));
        writer.optional(1, Some(&-2_i16));
        writer.optional(2, Some(&3_i32));
        writer.optional(29, Some(&4.5_f64));
        writer.optional(40, Some(&vec!["a".to_owned(), "b".to_owned()]));
        writer.optional(41, Some(&vec![1_u8, 2]));
        writer.optional(300, Some(&vec![1_i32, 2]));
        let bytes = writer.into_bytes();
        // Ice writes tag 40 of a sequence of texts as F6 28.
        assert!(bytes.windows(2).any(|pair| pair == [0xf6, 40]));
        let read = |bytes: &[u8]| -> Result<_, DecodeError> {
            let mut reader = Reader::new(bytes, Encoding::V11);
            let read = (
                reader.optional::<bool>(0)?,
                reader.optional::<i16>(1)?,
                reader.optional::<i32>(2)?,
                reader.optional::<f64>(29)?,
                reader.optional::<Vec<String>>(40)?,
                reader.optional::<Vec<u8>>(41)?,
                reader.optional::<Vec<i32>>(300)?,
            );
            reader.finish()?;
            Ok(read)
        };
        let (a, b, c, d, e, f, g) = read(&bytes).unwrap();
        assert_eq!((a, b, c, d), (Some(true), Some(-2), Some(3), Some(4.5)));
        assert_eq!(e, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((f, g), (Some(vec![1, 2]), Some(vec![1, 2])));
        let all = read(&bytes).unwrap();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]) != Ok(all.clone()), "{end}");
        }
    }
}
