//! The bytes of a memo file.
//!
//! Numbers are little-endian: 8 bytes that say what it is, 4 with the version, 32 that identify the image file, 32 with the SHA-256
//! of those before and of the body, then the body: an [`Image`] in JSON. A file of another version is read anew and replaced.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc;
use sha2::{Digest as _, Sha256};

use crate::model::Image;

/// What a memo of ours begins with: no text, and nothing that serialisers of Java write.
const MAGIC: [u8; 8] = *b"\x89OGMEMO\n";

/// Counted up when the body means something else than before.
const VERSION: u32 = 1;

/// The largest memo, in bytes: more than the largest [`Image`].
const MAX_MEMO: u64 = 16 * 1024 * 1024;

/// Which state of which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    size: u64,
    modified: i64,
    nanoseconds: i64,
    inode: u64,
}

impl Identity {
    /// Looks at an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.size(),
            modified: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
            inode: metadata.ino(),
        })
    }

    fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let fields = [
            self.size.to_le_bytes(),
            self.modified.to_le_bytes(),
            self.nanoseconds.to_le_bytes(),
            self.inode.to_le_bytes(),
        ];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field);
        }
        bytes
    }
}

/// What is at the place of a memo.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// Nothing that can be read.
    Nothing,
    /// A file that is not ours.
    Foreign,
    /// A memo of ours that does not count: of another state of the file, of another version, or damaged.
    Stale,
    /// What is wanted.
    Image(Image),
}

/// Writes a memo; `None` if it would be too large.
pub(super) fn encode(identity: &Identity, image: &Image) -> Option<Vec<u8>> {
    let body = serde_json::to_vec(image).ok()?;
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend(identity.bytes());
    let sum = checksum(&head, &body);
    let bytes = [head, sum.to_vec(), body].concat();
    (bytes.len() as u64 <= MAX_MEMO).then_some(bytes)
}

/// Reads what is at the place of a memo.
pub(super) fn read(path: &Path, identity: &Identity) -> Found {
    // A pipe in its place must not be waited for.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let Ok(mut file) = file else {
        return Found::Nothing;
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Found::Foreign;
    }
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) => return Found::Foreign,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Found::Foreign,
        Err(_) => return Found::Nothing,
    }
    let mut bytes = magic.to_vec();
    match file.take(MAX_MEMO).read_to_end(&mut bytes) {
        Ok(_) => decode(&bytes, identity).map_or(Found::Stale, Found::Image),
        Err(_) => Found::Nothing,
    }
}

fn decode(bytes: &[u8], identity: &Identity) -> Option<Image> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (of, rest) = rest.split_first_chunk::<32>()?;
    let (sum, body) = rest.split_first_chunk::<32>()?;
    let head = bytes.get(..8 + 4 + 32)?;
    let counts = *magic == MAGIC
        && *version == VERSION.to_le_bytes()
        && *of == identity.bytes()
        && *sum == checksum(head, body);
    counts.then(|| serde_json::from_slice(body).ok()).flatten()
}

fn checksum(head: &[u8], body: &[u8]) -> [u8; 32] {
    let mut sum = Sha256::new();
    sum.update(head);
    sum.update(body);
    sum.finalize().into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{ByteOrder, ImageFormat};

    /// Returns an image that is told from others by a number.
    pub(crate) fn image(number: u64) -> Image {
        Image {
            format: ImageFormat::Tiff,
            ome: false,
            byte_order: ByteOrder::BigEndian,
            directories: number,
            more_directories: false,
            metadata_file: None,
            series_count: 0,
            series: Vec::new(),
        }
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let identity = Identity {
            size: 1,
            modified: -2,
            nanoseconds: 3,
            inode: u64::MAX,
        };
        let good = encode(&identity, &image(7)).unwrap();
        assert_eq!(decode(&good, &identity), Some(image(7)));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad, &identity), None, "byte {at}");
            assert_eq!(decode(&good[..at], &identity), None, "{at} bytes");
        }
        let others = [
            Identity {
                size: 2,
                ..identity.clone()
            },
            Identity {
                modified: 2,
                ..identity.clone()
            },
            Identity {
                nanoseconds: 4,
                ..identity.clone()
            },
            Identity {
                inode: 1,
                ..identity.clone()
            },
        ];
        for other in others {
            assert_eq!(decode(&good, &other), None, "{other:?}");
        }
    }

    #[test]
    fn the_format_is_the_released_one() {
        let identity = Identity {
            size: 1,
            modified: 2,
            nanoseconds: 3,
            inode: 4,
        };
        let bytes = encode(&identity, &image(7)).unwrap();
        assert_eq!(bytes[..12], *b"\x89OGMEMO\n\x01\0\0\0");
        assert_eq!(
            bytes[12..44]
                .chunks(8)
                .map(|field| field[0])
                .collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        let body = str::from_utf8(&bytes[76..]).unwrap();
        assert_eq!(
            body,
            r#"{"format":"tiff","ome":false,"byte_order":"big_endian","directories":7,"more_directories":false,"metadata_file":null,"series_count":0,"series":[]}"#,
            "another body needs another version"
        );
    }
}
