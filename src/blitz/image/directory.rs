//! The directories of a TIFF file: which there are, and the tags in them.
//!
//! The `tiff` crate reads them. Its decoder wants to begin with an image whose pixels it could decode: it reads whole tables of
//! strips, refuses what it has no codec for, and takes its limits only afterwards. So it is opened on a tiny image of the same
//! kind, and the file is put in that one's place.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use tiff::decoder::ifd::{Entry, Value};
use tiff::decoder::{Decoder, Limits};
use tiff::tags::{IfdPointer, Tag, Type};
use tiff::{Directory, TiffError};

use super::ImageError;
use super::source::{Limit, Source};
use crate::model::{ByteOrder, ImageFormat};

/// Directories that are looked at. Each costs about a microsecond and 16 bytes.
pub(super) const MAX_DIRECTORIES: u64 = 100_000;

/// Bytes of one value that is made numbers of: 16384 samples per pixel with two bytes each, and as much again.
const MAX_VALUE: usize = 64 * 1024;

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: ImageFormat,
    pub(super) byte_order: ByteOrder,
    first: u64,
}

impl Header {
    /// Reads the first bytes of a file.
    pub(super) fn read(file: &File, len: u64) -> Result<Self, ImageError> {
        let mut bytes = [0; 16];
        let have = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
        file.read_exact_at(&mut bytes[..have], 0)
            .map_err(ImageError::Read)?;
        Self::parse(&bytes[..have])
    }

    fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let byte_order = match bytes {
            [b'I', b'I', ..] => ByteOrder::LittleEndian,
            [b'M', b'M', ..] => ByteOrder::BigEndian,
            _ => return Err(ImageError::NotTiff),
        };
        let number = |at: usize, len: usize| {
            let bytes = bytes.get(at..at + len).ok_or(ImageError::Truncated {
                what: "its header".to_owned(),
            })?;
            let shift = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
            Ok(match byte_order {
                ByteOrder::BigEndian => bytes.iter().fold(0, shift),
                ByteOrder::LittleEndian => bytes.iter().rev().fold(0, shift),
            })
        };
        let (format, first) = match number(2, 2)? {
            42 => (ImageFormat::Tiff, number(4, 4)?),
            43 if (number(4, 2)?, number(6, 2)?) == (8, 0) => (ImageFormat::BigTiff, number(8, 8)?),
            _ => return Err(ImageError::NotTiff),
        };
        if first == 0 {
            return Err(ImageError::NoImage);
        }
        Ok(Self {
            format,
            byte_order,
            first,
        })
    }

    /// Makes the smallest image of this kind: one pixel, in one strip.
    fn seed(self) -> Vec<u8> {
        let mut seed = match self.byte_order {
            ByteOrder::LittleEndian => b"II".to_vec(),
            ByteOrder::BigEndian => b"MM".to_vec(),
        };
        let mut put = |value: u64, len: usize| {
            let bytes = value.to_be_bytes();
            let bytes = bytes[8 - len..].iter().copied();
            match self.byte_order {
                ByteOrder::BigEndian => seed.extend(bytes),
                ByteOrder::LittleEndian => seed.extend(bytes.rev()),
            }
        };
        let (word, count) = match self.format {
            ImageFormat::Tiff => {
                put(42, 2);
                put(8, 4);
                (4, 2)
            }
            ImageFormat::BigTiff => {
                put(43, 2);
                put(8, 2);
                put(0, 2);
                put(16, 8);
                (8, 8)
            }
        };
        let tags = [
            Tag::ImageWidth,
            Tag::ImageLength,
            Tag::PhotometricInterpretation,
            Tag::StripOffsets,
            Tag::StripByteCounts,
        ];
        put(tags.len() as u64, count);
        for tag in tags {
            put(u64::from(tag.to_u16()), 2);
            // LONG, one of them, 1.
            put(4, 2);
            put(1, word);
            match self.byte_order {
                // Values shorter than their field stand at its beginning.
                ByteOrder::BigEndian => put(1 << (8 * (word - 4)), word),
                ByteOrder::LittleEndian => put(1, word),
            }
        }
        put(0, word);
        seed
    }
}

/// The directories of one file.
pub(super) struct Directories<'f> {
    decoder: Decoder<Source<'f>>,
    len: u64,
    seen: HashSet<u64>,
    next: Option<u64>,
}

impl<'f> Directories<'f> {
    pub(super) fn open(header: Header, file: &'f File, len: u64) -> Result<Self, ImageError> {
        let failed = |error| explain(error, 0, "the directory");
        let source = Source::new(header.seed(), file, len);
        let mut limits = Limits::default();
        limits.ifd_value_size = MAX_VALUE;
        let mut decoder = Decoder::new(source).map_err(failed)?.with_limits(limits);
        decoder.inner().turn_to_file();
        Ok(Self {
            decoder,
            len,
            seen: HashSet::new(),
            next: Some(header.first),
        })
    }

    /// Returns how many directories were read.
    pub(super) fn count(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Returns whether the last directory names another one.
    pub(super) fn has_more(&self) -> bool {
        self.next.is_some()
    }

    /// Reads the next directory; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Directory>, ImageError> {
        let Some(at) = self.next else {
            return Ok(None);
        };
        let index = self.count();
        if !self.seen.insert(at) {
            return Err(ImageError::Cycle { index, at });
        }
        if at >= self.len {
            return Err(ImageError::Truncated {
                what: format!(
                    "image directory {index}, which should be at byte {at} of {}",
                    self.len
                ),
            });
        }
        let directory = self
            .decoder
            .read_directory(IfdPointer(at))
            .map_err(|error| explain(error, index, "the directory"))?;
        self.next = directory.next().map(|next| next.0);
        Ok(Some(directory))
    }

    /// Returns the tags of the directory of that index.
    pub(super) fn tags<'d>(&'d mut self, index: u64, directory: &'d Directory) -> Tags<'d, 'f> {
        Tags {
            index,
            directories: self,
            directory,
        }
    }
}

/// The tags of one directory.
pub(super) struct Tags<'d, 'f> {
    index: u64,
    directories: &'d mut Directories<'f>,
    directory: &'d Directory,
}

impl<'d, 'f> Tags<'d, 'f> {
    /// Returns which directory it is, counted from 0.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Returns the number in a tag.
    pub(super) fn number(&mut self, tag: Tag) -> Result<Option<u64>, ImageError> {
        Ok(self.numbers(tag)?.first().copied())
    }

    /// Returns the numbers in a tag; none if it is not there.
    pub(super) fn numbers(&mut self, tag: Tag) -> Result<Vec<u64>, ImageError> {
        self.check(tag)?;
        let index = self.index;
        // The decoder would take the characters for numbers.
        if self.directory.get(tag).map(Entry::field_type) == Some(Type::ASCII) {
            return Err(ImageError::Value {
                what: name(tag),
                index,
                problem: "it is a text where a number has to be".to_owned(),
            });
        }
        self.directories
            .decoder
            .read_directory_tags(self.directory)
            .find_tag_unsigned_vec(tag)
            .map(Option::unwrap_or_default)
            .map_err(|error| explain(error, index, &name(tag)))
    }

    /// Returns the ratio in a tag; none if it is not there, or no ratio.
    pub(super) fn ratio(&mut self, tag: Tag) -> Result<Option<f64>, ImageError> {
        self.check(tag)?;
        let index = self.index;
        let value = self
            .directories
            .decoder
            .read_directory_tags(self.directory)
            .find_tag(tag)
            .map_err(|error| explain(error, index, &name(tag)))?;
        let ratio = match value {
            Some(Value::Rational(above, below)) => f64::from(above) / f64::from(below),
            Some(Value::Float(value)) => f64::from(value),
            Some(Value::Double(value)) => value,
            _ => return Ok(None),
        };
        Ok(ratio.is_finite().then_some(ratio))
    }

    /// Returns the text of a tag, one byte a value, to be read piece by piece.
    pub(super) fn text(mut self, tag: Tag) -> Result<Option<TagText<'d, 'f>>, ImageError> {
        let len = self.check(tag)?;
        Ok((len > 0).then_some(TagText {
            tags: self,
            tag,
            at: 0,
            len,
        }))
    }

    /// Checks that the file can hold what a tag claims, be each value one byte only; returns how many values it has.
    fn check(&mut self, tag: Tag) -> Result<u64, ImageError> {
        let Some(entry) = self.directory.get(tag) else {
            return Ok(0);
        };
        if entry.count() > self.directories.len {
            return Err(ImageError::Truncated {
                what: format!(
                    "{} of image directory {}, which claims {} values in a file of {} bytes",
                    name(tag),
                    self.index,
                    entry.count(),
                    self.directories.len
                ),
            });
        }
        Ok(entry.count())
    }
}

/// The text of one tag.
pub(super) struct TagText<'d, 'f> {
    tags: Tags<'d, 'f>,
    tag: Tag,
    at: u64,
    len: u64,
}

impl Read for TagText<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let most = most.min(into.len());
        let into = &mut into[..most];
        if into.is_empty() {
            return Ok(0);
        }
        let tags = &mut self.tags;
        tags.directories
            .decoder
            .read_directory_tags(tags.directory)
            .find_tag_bytes(self.tag, into, self.at)
            .map_err(|error| match error {
                TiffError::IoError(error) => error,
                other => io::Error::other(other),
            })?;
        self.at += most as u64;
        Ok(most)
    }
}

fn name(tag: Tag) -> String {
    match tag {
        Tag::Unknown(number) => format!("tag {number}"),
        known => format!("tag {known:?}"),
    }
}

/// Says what went wrong where.
fn explain(error: TiffError, index: u64, what: &str) -> ImageError {
    match error {
        TiffError::IoError(error) => {
            read_error(error, &format!("{what} of image directory {index}"))
        }
        TiffError::LimitsExceeded => ImageError::Value {
            what: what.to_owned(),
            index,
            problem: format!("it is larger than {} KiB", MAX_VALUE / 1024),
        },
        other => ImageError::Value {
            what: what.to_owned(),
            index,
            problem: other.to_string(),
        },
    }
}

/// Tells the end of the file, limits of ours and true failures of reading apart.
pub(super) fn read_error(error: io::Error, what: &str) -> ImageError {
    match (Limit::of(&error), error.kind()) {
        (Some(limit), _) => ImageError::Limit {
            what: what.to_owned(),
            limit: limit.to_string(),
        },
        (None, io::ErrorKind::UnexpectedEof) => ImageError::Truncated {
            what: what.to_owned(),
        },
        (None, _) => ImageError::Read(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_in_both_orders_and_sizes() {
        let kinds = [
            (
                &b"II*\0\x10\0\0\0"[..],
                ImageFormat::Tiff,
                ByteOrder::LittleEndian,
            ),
            (b"MM\0*\0\0\0\x10", ImageFormat::Tiff, ByteOrder::BigEndian),
            (
                b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
                ImageFormat::BigTiff,
                ByteOrder::LittleEndian,
            ),
            (
                b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10",
                ImageFormat::BigTiff,
                ByteOrder::BigEndian,
            ),
        ];
        for (bytes, format, byte_order) in kinds {
            let header = Header::parse(bytes).unwrap();
            assert_eq!(
                header,
                Header {
                    format,
                    byte_order,
                    first: 16
                }
            );
            for end in 0..bytes.len() {
                assert!(
                    Header::parse(&bytes[..end]).is_err(),
                    "{end} bytes of {bytes:?}"
                );
            }
            // The decoder takes the seed of each kind.
            Decoder::new(io::Cursor::new(header.seed())).unwrap();
        }
        for other in [
            &b"\x89PNG\r\n\x1a\n\0\0\0\0"[..],
            b"II+\0\x04\0\0\0\x10\0\0\0\0\0\0\0",
            b"II\0*\0\0\0\x08",
        ] {
            assert!(
                matches!(Header::parse(other), Err(ImageError::NotTiff)),
                "{other:?}"
            );
        }
        assert!(matches!(
            Header::parse(b"II*\0\0\0\0\0"),
            Err(ImageError::NoImage)
        ));
    }
}
