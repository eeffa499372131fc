//! What can go wrong with a store, in words for an administrator.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::sys::{lock, process};

/// An operation on a store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none yet.
    #[error("there is no store at {path}; the grid's master makes it at its first start")]
    Missing {
        /// The store's file.
        path: PathBuf,
    },
    /// The file or its directory cannot be used at all.
    #[error("cannot use the store {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is damaged, or is no database.
    #[error(
        "the store {path} is damaged: {detail}; it was left as it is: put a backup in its place, or move it away to begin with an empty store"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file is a database of another program.
    #[error(
        "the file {path} is a database of another program; move it away or use another --state"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer release has written it.
    #[error(
        "the store {path} has schema version {found}, this program knows {known}; use the newer release, or a backup from before it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The newest known version.
        known: i64,
    },
    /// An older release has written it, and it may only be read here.
    #[error(
        "the store {path} has schema version {found} of an older release, this program reads {known}; a grid that starts on it brings it up to date"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The version that is read.
        known: i64,
    },
    /// No room is left on its file system.
    #[error("cannot {operation}: the file system of the store {path} is full")]
    Full {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It may not be written.
    #[error("cannot {operation}: the store {path} or its directory cannot be written by this user")]
    ReadOnly {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Another process kept it locked for too long.
    #[error("cannot {operation}: {holder} has kept the store {path} locked for seconds")]
    Busy {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Who has it, in words.
        holder: String,
    },
    /// The database reports something else.
    #[error("cannot {operation} in the store {path}")]
    Sql {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The database's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// It may only be read here, and changes that are not in the file itself cannot be read so.
    #[error(
        "the store {path} can only be read here, but has changes in {path}-wal that are not in it yet; open it once where it may be written (start the grid that it is from), or take a copy with 'omero-grid store backup'"
    )]
    LeftOverWal {
        /// The file.
        path: PathBuf,
    },
    /// The database does not answer.
    #[error("cannot reach the database {at}: {reason}")]
    Unreachable {
        /// The database, without a password.
        at: String,
        /// Why.
        reason: String,
    },
    /// The database has none of our tables, or older ones.
    #[error(
        "the database {at} has no tables of this release (schema omero_grid); make them with 'omero-grid store init'"
    )]
    NoSchema {
        /// The database, without a password.
        at: String,
    },
    /// A newer release has made the tables.
    #[error(
        "the tables in {at} have version {found}, this program knows {known}; use the newer release"
    )]
    NewerSchema {
        /// The database, without a password.
        at: String,
        /// The version found.
        found: i32,
        /// The newest known version.
        known: i32,
    },
    /// The database refuses something.
    #[error("cannot {operation} in the database {at}: {reason}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The database, without a password.
        at: String,
        /// What it says.
        reason: String,
    },
    /// The users are OMERO's own.
    #[error(
        "the users are those of OMERO's database (omero.grid.users is omero): change them there"
    )]
    ForeignUsers,
    /// Users that are brought in collide with those that are there.
    #[error("{reason}; nothing was imported")]
    Import {
        /// Which and how.
        reason: String,
    },
    /// A new password cannot be hashed.
    #[error("cannot hash a password")]
    Hash(#[source] super::password::HashError),
    /// The thread of the store cannot be started.
    #[error("cannot start the thread of the store")]
    Thread(#[source] io::Error),
}

impl StoreError {
    /// Sorts an error of SQLite by what an administrator has to do about it.
    pub(super) fn of(operation: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { operation, path },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { operation, path },
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Busy {
                operation,
                holder: holder(&path),
                path,
            },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt {
                path,
                detail: source.to_string(),
            },
            _ => Self::Sql {
                operation,
                path,
                source,
            },
        }
    }
}

/// Says which process keeps a file of SQLite locked, and whether it is stopped, which is the usual reason.
fn holder(path: &Path) -> String {
    // The bytes are SQLite's: in the index those of who writes and of who recovers, in the file itself those of who closes it last.
    const INDEX: std::ops::RangeInclusive<u64> = 120..=122;
    const FILE: std::ops::RangeInclusive<u64> = 0x4000_0000..=0x4000_0200;
    let mut index = path.as_os_str().to_owned();
    index.push("-shm");
    let pid = lock::writer(Path::new(&index), INDEX).or_else(|| lock::writer(path, FILE));
    match pid {
        Some(pid) if process::stat(pid).is_some_and(|stat| stat.is_stopped()) => {
            format!("process {pid}, which is stopped,")
        }
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}
