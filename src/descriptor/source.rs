//! Where the files of a descriptor come from.
//!
//! Everything else in this module is pure; what touches the disk stands behind [`Source`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// The largest sum of all files of one descriptor, in bytes.
pub const MAX_FILES: u64 = 64 << 20;

/// What a descriptor is read from, and checked against.
pub trait Source {
    /// Returns the bytes of a file, or one byte more than `limit` of them if it is longer.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;

    /// Returns whether an account exists on this host; `None` if that is not known.
    fn has_account(&self, _name: &str) -> Option<bool> {
        None
    }
}

/// Files on disk, and the accounts of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Source for Disk {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a directory",
            ));
        }
        if !kind.is_file() {
            // A pipe or a device could block for ever or never end.
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn has_account(&self, name: &str) -> Option<bool> {
        if name.contains('\0') {
            return Some(false);
        }
        nix::unistd::User::from_name(name)
            .ok()
            .map(|user| user.is_some())
    }
}

/// Files in memory, for tests and for descriptors that are compiled in.
impl Source for BTreeMap<PathBuf, Vec<u8>> {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let bytes = self.get(path).ok_or(io::ErrorKind::NotFound)?;
        let end = bytes.len().min(
            usize::try_from(limit)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
        );
        Ok(bytes[..end].to_vec())
    }
}
