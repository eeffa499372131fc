//! Where the sockets are: `var/run`, or a short directory that stands in where a path would be too long.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::model::{NodeName, ServerId};

/// The longest path of a socket, in bytes (unix(7): `sun_path` has 108, one of them for the end).
const MAX_PATH: usize = 107;

/// The longest socket name that we make, with the suffix it has while it is being made.
const MAX_NAME: usize = 48;

/// The file in `var/run` that names the directory standing in for it.
const ELSEWHERE: &str = "elsewhere";

/// A directory for sockets that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It cannot be made.
    #[error("cannot make the directory of the local sockets, {path}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It cannot be looked at, or its note cannot be read or written.
    #[error("cannot use the directory of the local sockets, {path}")]
    Use {
        /// The directory or file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The stand-in belongs to somebody else.
    #[error(
        "the directory of the local sockets, {path}, belongs to user {uid}; remove it, or set XDG_RUNTIME_DIR to a directory of your own"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The path is too long, and there is nowhere to go.
    #[error(
        "the path {path} is too long for a local socket, and neither $XDG_RUNTIME_DIR nor /run can be written; set XDG_RUNTIME_DIR to a short directory of your own, or use a shorter --state"
    )]
    TooLong {
        /// The directory that is too long.
        path: PathBuf,
    },
}

/// The directory of a grid's local sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

/// One socket of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address<'a> {
    /// The master's.
    Master,
    /// A node's.
    Node(&'a NodeName),
    /// A built-in Blitz's.
    Blitz(&'a ServerId),
    /// A built-in Blitz's, for the contents of files.
    Data(&'a ServerId),
}

impl RunDir {
    /// Makes the directory below `state` (0700), or the one that stands in for it.
    pub fn create(state: &Path) -> Result<Self, AddressError> {
        let dir = state.join("var/run");
        make_private(&dir)?;
        if fits(&dir) {
            return Ok(Self(dir));
        }
        let short = match Self::noted(&dir)? {
            Some(short) => short,
            None => short_directory(&dir)?,
        };
        make_private(&short)?;
        let owner = fs::symlink_metadata(&short).map_err(|source| AddressError::Use {
            path: short.clone(),
            source,
        })?;
        if owner.uid() != nix::unistd::geteuid().as_raw() || !owner.is_dir() {
            return Err(AddressError::Foreign {
                path: short,
                uid: owner.uid(),
            });
        }
        let note = dir.join(ELSEWHERE);
        fs::write(&note, short.as_os_str().as_bytes())
            .map_err(|source| AddressError::Use { path: note, source })?;
        Ok(Self(short))
    }

    /// Finds the directory of a grid that exists; makes nothing.
    pub fn find(state: &Path) -> Result<Self, AddressError> {
        let dir = state.join("var/run");
        if fits(&dir) {
            return Ok(Self(dir));
        }
        Ok(Self(Self::noted(&dir)?.unwrap_or(dir)))
    }

    /// Takes a directory as it is; for a process that was told by its parent.
    pub fn known(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of a socket. Long or odd names are hashed.
    pub fn socket(&self, address: Address<'_>) -> PathBuf {
        self.0.join(match address {
            Address::Master => "master".to_owned(),
            Address::Node(name) => file_name("node", name.as_str()),
            Address::Blitz(id) => file_name("blitz", id.as_str()),
            Address::Data(id) => file_name("data", id.as_str()),
        })
    }

    fn noted(dir: &Path) -> Result<Option<PathBuf>, AddressError> {
        let note = dir.join(ELSEWHERE);
        match fs::read(&note) {
            Ok(bytes) => Ok(Some(PathBuf::from(std::ffi::OsStr::from_bytes(
                bytes.trim_ascii(),
            )))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(AddressError::Use { path: note, source }),
        }
    }
}

fn fits(dir: &Path) -> bool {
    dir.as_os_str().len() + 1 + MAX_NAME <= MAX_PATH
}

fn file_name(kind: &str, name: &str) -> String {
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if plain && name.len() <= 32 {
        format!("{kind}.{name}")
    } else {
        format!("{kind}.~{}", digest(name.as_bytes()))
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn make_private(dir: &Path) -> Result<(), AddressError> {
    let create = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // The directory may have been there with a wider mode.
        let metadata = fs::metadata(dir)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    create().map_err(|source| AddressError::Create {
        path: dir.to_owned(),
        source,
    })
}

/// Chooses the stand-in for a directory whose path is too long.
fn short_directory(dir: &Path) -> Result<PathBuf, AddressError> {
    let name = format!("omero-grid-{}", digest(dir.as_os_str().as_bytes()));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|d| !d.is_empty())
        .map(PathBuf::from);
    for parent in runtime.into_iter().chain([PathBuf::from("/run")]) {
        let short = parent.join(&name);
        if parent.is_absolute() && fits(&short) && make_private(&short).is_ok() {
            return Ok(short);
        }
    }
    Err(AddressError::TooLong {
        path: dir.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_and_long_names_are_hashed() {
        let dir = RunDir::known(PathBuf::from("/r"));
        let node = |name: &str| dir.socket(Address::Node(&name.parse().unwrap()));
        assert_eq!(node("backup"), Path::new("/r/node.backup"));
        for name in ["with space", "ü", &"x".repeat(100)] {
            let path = node(name);
            assert!(path.file_name().unwrap().len() < MAX_NAME, "{path:?}");
            assert!(path.to_str().unwrap().starts_with("/r/node.~"), "{path:?}");
        }
        assert_ne!(node("a b"), node("a  b"));
    }

    #[test]
    fn a_private_directory_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RunDir::create(temp.path()).unwrap();
        assert_eq!(
            fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(RunDir::find(temp.path()).unwrap(), dir);
    }
}
