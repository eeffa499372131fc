//! The bytes of an image file, handed out within limits.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;

/// Bytes that are read from one file at the most: a directory may claim any number of tags, and directories may overlap,
/// so that the size of the file is no limit.
pub(super) const MAX_READ: u64 = 128 * 1024 * 1024;

/// Bytes fetched at once: about one directory.
const BLOCK: usize = 512;

/// A limit of ours that was met while reading, as the payload of an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Limit {
    /// More than [`MAX_READ`] bytes would have to be read.
    #[error("more than {} MiB of metadata", MAX_READ / 1024 / 1024)]
    Read,
    /// One piece of XML is larger than what is kept in memory.
    #[error("one piece of XML is larger than {} MiB", super::ome::MAX_PIECE / 1024 / 1024)]
    Piece,
}

impl Limit {
    /// Returns the limit that an error tells of.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<Limit> for io::Error {
    fn from(limit: Limit) -> Self {
        Self::other(limit)
    }
}

/// Reads a file without its cursor, which others may be using.
pub(super) struct Source<'f> {
    /// What is read in the file's place at first: see [`super::directory`].
    seed: Option<Vec<u8>>,
    file: &'f File,
    len: u64,
    at: u64,
    block: [u8; BLOCK],
    block_at: u64,
    block_len: usize,
    left: u64,
}

impl<'f> Source<'f> {
    pub(super) fn new(seed: Vec<u8>, file: &'f File, len: u64) -> Self {
        Self {
            seed: Some(seed),
            file,
            len,
            at: 0,
            block: [0; BLOCK],
            block_at: 0,
            block_len: 0,
            left: MAX_READ,
        }
    }

    /// Reads the file from now on.
    pub(super) fn turn_to_file(&mut self) {
        self.seed = None;
    }

    /// Reads from the file at a place, at most to its end.
    fn fetch(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let most = self.len.saturating_sub(at).min(into.len() as u64);
        let into = &mut into[..usize::try_from(most).unwrap_or(0)];
        if into.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return Err(Limit::Read.into());
        }
        let n = self.file.read_at(into, at)?;
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }

    /// Returns what of the block is at the cursor.
    fn in_block(&self) -> &[u8] {
        let skip = self.at.checked_sub(self.block_at);
        skip.and_then(|skip| self.block[..self.block_len].get(usize::try_from(skip).ok()?..))
            .unwrap_or_default()
    }
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = if let Some(seed) = &self.seed {
            let at = usize::try_from(self.at).unwrap_or(usize::MAX);
            seed.get(at..).unwrap_or_default().read(into)?
        } else {
            if self.in_block().is_empty() && into.len() >= BLOCK {
                self.fetch(self.at, into)?
            } else {
                if self.in_block().is_empty() {
                    let mut block = [0; BLOCK];
                    self.block_len = self.fetch(self.at, &mut block)?;
                    (self.block, self.block_at) = (block, self.at);
                }
                self.in_block().read(into)?
            }
        };
        self.at = self.at.saturating_add(n as u64);
        Ok(n)
    }
}

impl Seek for Source<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self
            .seed
            .as_ref()
            .map_or(self.len, |seed| seed.len() as u64);
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => end.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn reads_what_the_file_has_at_any_place_and_not_beyond_its_length() {
        let bytes: Vec<u8> = (0..5000_u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut source = Source::new(b"seed".to_vec(), &file, 4000);
        let mut seed = Vec::new();
        source.read_to_end(&mut seed).unwrap();
        assert_eq!(seed, b"seed");
        source.turn_to_file();
        for (at, len) in [
            (0, 10),
            (505, 20),
            (500, 3),
            (100, 3000),
            (3990, 10),
            (0, 4000),
        ] {
            source.seek(SeekFrom::Start(at as u64)).unwrap();
            let mut got = vec![0; len];
            source.read_exact(&mut got).unwrap();
            assert_eq!(got, bytes[at..at + len], "{len} at {at}");
        }
        for at in [3999, 4000, u64::MAX] {
            source.seek(SeekFrom::Start(at)).unwrap();
            let error = source.read_exact(&mut [0; 2]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn stops_at_the_limit_however_small_the_file_is() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 4096]).unwrap();
        let mut source = Source::new(Vec::new(), &file, 4096);
        source.turn_to_file();
        let mut read = 0;
        let error = loop {
            source.seek(SeekFrom::Start(0)).unwrap();
            match source.read_exact(&mut [0; 4096]) {
                Ok(()) => read += 4096_u64,
                Err(error) => break error,
            }
        };
        assert_eq!(Limit::of(&error), Some(Limit::Read));
        assert_eq!(read, MAX_READ);
    }
}
