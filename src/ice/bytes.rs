//! Reading and writing bytes: little endian, no padding, sizes of one or five bytes (`ice-protocol.md` §1, §6).

use super::class::{Reading, Writing};
use super::error::DecodeError;

/// A version of the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// 1.0.
    V10,
    /// 1.1.
    #[default]
    V11,
}

impl Encoding {
    /// Returns the version of two bytes.
    pub fn of(major: u8, minor: u8) -> Result<Self, DecodeError> {
        match (major, minor) {
            (1, 0) => Ok(Self::V10),
            (1, 1) => Ok(Self::V11),
            (major, minor) => Err(DecodeError::Encoding(major, minor)),
        }
    }

    /// Returns the two bytes.
    pub fn bytes(self) -> [u8; 2] {
        match self {
            Self::V10 => [1, 0],
            Self::V11 => [1, 1],
        }
    }
}

/// An encapsulation whose contents nobody has looked at: its version, and the bytes within.
///
/// The version may be one that is not supported: whoever passes it on need not understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation<'a> {
    /// The version of the encoding, major and minor.
    pub version: [u8; 2],
    /// What is in it.
    pub bytes: &'a [u8],
}

impl<'a> Encapsulation<'a> {
    /// Returns a reader of its contents.
    pub fn reader(&self) -> Result<Reader<'a>, DecodeError> {
        let encoding = Encoding::of(self.version[0], self.version[1])?;
        Ok(Reader::new(self.bytes, encoding))
    }
}

/// The size of an encapsulation's head, in bytes.
const HEAD: usize = 6;

/// Takes values off the front of bytes, which only become fewer.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
    /// Where classes are expected, what is known of them so far.
    pub(super) classes: Option<Box<Reading<'a>>>,
}

impl<'a> Reader<'a> {
    /// Reads these bytes in this encoding.
    pub fn new(bytes: &'a [u8], encoding: Encoding) -> Self {
        Self {
            bytes,
            encoding,
            classes: None,
        }
    }

    /// Returns the encoding that is read.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Returns how many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Returns what is left, and takes nothing.
    pub(super) fn peek(&self) -> &'a [u8] {
        self.bytes
    }

    /// Goes back to what was left before.
    pub(super) fn rewind(&mut self, before: &'a [u8]) {
        self.bytes = before;
    }

    /// Reads other bytes for a while, and all of them.
    pub(super) fn within<T>(
        &mut self,
        bytes: &'a [u8],
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let outside = std::mem::replace(&mut self.bytes, bytes);
        let value = read(self)?;
        match std::mem::replace(&mut self.bytes, outside).len() {
            0 => Ok(value),
            left => Err(DecodeError::LeftOver(left)),
        }
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Ends the reading; bytes that are left are an error.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(DecodeError::LeftOver(left)),
        }
    }

    /// Takes so many bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let left = self.bytes.len();
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated {
                wanted: count,
                left,
            })?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Takes a fixed number of bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let left = self.bytes.len();
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated { wanted: N, left })?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// Takes a byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes an `int`.
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_le_bytes)
    }

    /// Takes a size: of a text, of a sequence.
    pub fn size(&mut self) -> Result<usize, DecodeError> {
        match self.byte()? {
            255 => {
                let size = self.int()?;
                usize::try_from(size).map_err(|_| DecodeError::NegativeSize(size))
            }
            size => Ok(usize::from(size)),
        }
    }

    /// Takes a number of elements, each of at least `least` bytes. A number that cannot be is an error before anything is allocated.
    pub fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count = self.size()?;
        let left = self.left();
        match count.checked_mul(least.max(1)) {
            Some(bytes) if bytes <= left => Ok(count),
            _ => Err(DecodeError::Count { count, left }),
        }
    }

    /// Takes a text.
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let count = self.count(1)?;
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Text)
    }

    /// Takes an encapsulation.
    pub fn encapsulation(&mut self) -> Result<Encapsulation<'a>, DecodeError> {
        let size = self.int()?;
        let inner = usize::try_from(size)
            .ok()
            .and_then(|size| size.checked_sub(HEAD))
            .ok_or(DecodeError::Encapsulation(size))?;
        let version = self.array()?;
        Ok(Encapsulation {
            version,
            bytes: self.take(inner)?,
        })
    }
}

/// Puts values at the end of bytes. One writer may be used again and again.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    encoding: Encoding,
    /// Where classes are written, what is written of them so far.
    pub(super) classes: Option<Box<Writing>>,
}

impl Writer {
    /// Makes a writer of this encoding.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            bytes: Vec::new(),
            encoding,
            classes: None,
        }
    }

    /// Returns the encoding that is written.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Returns what has been written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns what has been written, and ends the writing.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Forgets what has been written and keeps the room for it.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Puts bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts a byte.
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Puts an `int`.
    pub fn int(&mut self, value: i32) {
        self.put(&value.to_le_bytes());
    }

    /// Puts a size.
    pub fn size(&mut self, size: usize) {
        match u8::try_from(size) {
            Ok(small) if small < 255 => self.byte(small),
            _ => {
                self.byte(255);
                self.int(length(size));
            }
        }
    }

    /// Puts a text.
    pub fn text(&mut self, text: &str) {
        self.size(text.len());
        self.put(text.as_bytes());
    }

    /// Puts an encapsulation as it is.
    pub fn encapsulation(&mut self, encapsulation: &Encapsulation<'_>) {
        self.int(length(encapsulation.bytes.len() + HEAD));
        self.put(&encapsulation.version);
        self.put(encapsulation.bytes);
    }

    /// Puts an encapsulation of this encoding around what `fill` writes.
    pub fn encapsulate(&mut self, encoding: Encoding, fill: impl FnOnce(&mut Self)) {
        let (begin, outer) = (self.bytes.len(), self.encoding);
        // More than can ever be, until it is known: who forgets to set it right is found out by every reader.
        self.int(i32::MAX);
        self.put(&encoding.bytes());
        self.encoding = encoding;
        fill(self);
        self.encoding = outer;
        self.set_int(begin, length(self.bytes.len() - begin));
    }

    /// Puts what `fill` writes behind its number of bytes, an `int`.
    pub(super) fn sized(&mut self, fill: impl FnOnce(&mut Self)) {
        let begin = self.bytes.len();
        self.int(i32::MAX);
        fill(self);
        self.set_int(begin, length(self.bytes.len() - begin - 4));
    }

    /// Forgets what was put from this place on.
    pub(super) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// Forgets so many bytes at the front.
    pub(super) fn consume(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }

    /// Returns for how many bytes there is room without asking for more.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Sets an `int` that was put at an earlier place.
    pub(super) fn set_int(&mut self, at: usize, value: i32) {
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Adds bits to a byte that was put at an earlier place.
    pub(super) fn set_bits(&mut self, at: usize, bits: u8) {
        if let Some(place) = self.bytes.get_mut(at) {
            *place |= bits;
        }
    }
}

/// A length as the protocol has it. Nothing of ours comes near the end of the range.
pub(super) fn length(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_short_below_255() {
        for (size, expected) in [
            (0, &[0][..]),
            (254, &[254]),
            (255, &[255, 255, 0, 0, 0]),
            (70_000, &[255, 0x70, 0x11, 1, 0]),
        ] {
            let mut writer = Writer::default();
            writer.size(size);
            assert_eq!(writer.bytes(), expected);
            assert_eq!(Reader::new(expected, Encoding::V11).size(), Ok(size));
        }
        // The long form of a small size is accepted.
        let long = [255, 3, 0, 0, 0];
        assert_eq!(Reader::new(&long, Encoding::V11).size(), Ok(3));
    }

    #[test]
    fn sizes_that_lie_are_errors_before_anything_is_allocated() {
        let gigabyte = [255, 0, 0, 0, 0x40, 1];
        let count = Reader::new(&gigabyte, Encoding::V11).count(1);
        assert_eq!(
            count,
            Err(DecodeError::Count {
                count: 0x4000_0000,
                left: 1
            })
        );
        let negative = [255, 255, 255, 255, 255];
        assert_eq!(
            Reader::new(&negative, Encoding::V11).size(),
            Err(DecodeError::NegativeSize(-1))
        );
        for size in [i32::MIN, -1, 0, 5] {
            let bytes = [&size.to_le_bytes()[..], &[1, 1]].concat();
            let read = Reader::new(&bytes, Encoding::V11).encapsulation();
            assert_eq!(read, Err(DecodeError::Encapsulation(size)));
        }
    }

    #[test]
    fn an_encapsulation_knows_its_size_and_its_encoding() {
        let mut writer = Writer::new(Encoding::V10);
        writer.encapsulate(Encoding::V11, |writer| {
            assert_eq!(writer.encoding(), Encoding::V11);
            writer.text("ab");
        });
        assert_eq!(writer.encoding(), Encoding::V10);
        assert_eq!(writer.bytes(), [9, 0, 0, 0, 1, 1, 2, b'a', b'b']);
        let mut reader = Reader::new(writer.bytes(), Encoding::V10);
        let inner = reader.encapsulation().unwrap();
        reader.finish().unwrap();
        let mut inner = inner.reader().unwrap();
        assert_eq!(inner.text(), Ok("ab"));
        inner.finish().unwrap();
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_part_of_it_is(text in ".{0,300}", number: i32) {
            let mut writer = Writer::default();
            writer.text(&text);
            writer.int(number);
            let bytes = writer.into_bytes();
            let read = |bytes: &[u8]| -> Result<(String, i32), DecodeError> {
                let mut reader = Reader::new(bytes, Encoding::V11);
                let read = (reader.text()?.to_owned(), reader.int()?);
                reader.finish()?;
                Ok(read)
            };
            prop_assert_eq!(read(&bytes), Ok((text, number)));
            for end in 0..bytes.len() {
                prop_assert!(read(&bytes[..end]).is_err());
            }
        }
    }
}
