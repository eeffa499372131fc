//! What an administrator does with the file: look at it, copy it while it is used, bring users in.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::{Sqlite, check, int, schema, unsigned};
use crate::store::{Counts, Store as _, StoreError, UserRow};

impl Sqlite {
    /// Opens a store to read it only, so that nothing of it changes. One that can only be read in this place, and that has changes in
    /// its write-ahead log, is refused: without them it would show something old.
    pub fn read_only(path: &Path) -> Result<Self, StoreError> {
        let file = |source| StoreError::File {
            path: path.to_owned(),
            source,
        };
        let length = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing {
                    path: path.to_owned(),
                });
            }
            Err(source) => return Err(file(source)),
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)
            .map_err(|source| StoreError::of("open the file", path, source))?;
        // A log needs an index beside it, which nobody can make where nothing can be written.
        if !index_can_be_made(path) {
            let log = side(path, "-wal");
            if fs::metadata(log).is_ok_and(|log| log.len() > 0) {
                return Err(StoreError::LeftOverWal {
                    path: path.to_owned(),
                });
            }
            connection =
                Connection::open_with_flags(immutable(path), flags | OpenFlags::SQLITE_OPEN_URI)
                    .map_err(|source| StoreError::of("open the file", path, source))?;
        }
        let fail = |source| StoreError::of("open the file", path, source);
        connection.busy_timeout(super::BUSY).map_err(fail)?;
        check(path, length, &connection)?;
        let (_, version) = schema::marks(&connection).map_err(fail)?;
        if version < schema::VERSION {
            return Err(StoreError::Older {
                path: path.to_owned(),
                found: version,
                known: schema::VERSION,
            });
        }
        Ok(Self {
            connection,
            path: path.to_owned(),
            leases: Box::new(|_| true),
        })
    }

    /// Reads the file through; every page, every row, every index. Takes as long as reading the file does.
    pub fn check(&mut self) -> Result<(), StoreError> {
        let fail = |source| StoreError::of("read the file through", &self.path, source);
        let verdict: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(fail)?;
        if verdict != "ok" {
            return Err(StoreError::Corrupt {
                path: self.path.clone(),
                detail: verdict.replace('\n', " "),
            });
        }
        Ok(())
    }

    /// Counts what is there.
    pub fn counts(&mut self) -> Result<Counts, StoreError> {
        let users = self.users()?.len() as u64;
        let count = || -> rusqlite::Result<_> {
            let open = self
                .connection
                .prepare("SELECT server, count(*) FROM session WHERE closed_ms IS NULL GROUP BY server ORDER BY server")?
                .query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
                .collect::<Result<_, _>>()?;
            let closed = "SELECT count(*) FROM session WHERE closed_ms IS NOT NULL";
            let closed = self.connection.query_row(closed, [], |row| row.get(0))?;
            Ok((open, unsigned(closed)))
        };
        let (open, closed) =
            count().map_err(|source| StoreError::of("count the sessions", &self.path, source))?;
        Ok(Counts {
            schema: schema::VERSION,
            users,
            open,
            closed,
        })
    }

    /// Writes a copy (0600) of one moment, also while others use the store, durably and whole or not at all.
    pub fn backup(&mut self, to: &Path, overwrite: bool) -> Result<(), StoreError> {
        let fail = |source| StoreError::File {
            path: to.to_owned(),
            source,
        };
        if !overwrite && to.symlink_metadata().is_ok() {
            return Err(fail(io::ErrorKind::AlreadyExists.into()));
        }
        let making = side(to, ".new");
        // SQLite writes into an empty file that is there, so that the copy is never readable for others.
        let _ = fs::remove_file(&making);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&making)
            .map_err(fail)?;
        let name = making.to_str().ok_or_else(|| {
            fail(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the name is not UTF-8",
            ))
        })?;
        let copied = self
            .connection
            .execute("VACUUM INTO ?1", [name])
            .map_err(|source| StoreError::of("write the copy", to, source));
        let kept = copied.and_then(|_| {
            fs::File::open(&making)
                .and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(&making, to))
                .and_then(|()| match to.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => {
                        fs::File::open(parent)?.sync_all()
                    }
                    _ => Ok(()),
                })
                .map_err(fail)
        });
        if kept.is_err() {
            let _ = fs::remove_file(&making);
        }
        kept
    }

    /// Adds users as they are, all or none; `replace` those of the same name, whose numbers stay.
    pub(in crate::store) fn import_users(
        &mut self,
        users: &[UserRow],
        replace: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let there = self.users()?;
        crate::store::import::check(users, &there, replace)?;
        let path = self.path.clone();
        let fail = |source| StoreError::of("import the users", &path, source);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        for user in users {
            transaction
                .execute(
                    "INSERT INTO user (id, name, hash, admin, changed) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (name) DO UPDATE SET hash = ?3, admin = ?4, changed = ?5",
                    params![int(user.id), user.name, user.hash, user.admin, int(now_ms)],
                )
                .map_err(fail)?;
        }
        transaction.commit().map_err(fail)
    }
}

/// Returns whether the file's write-ahead log can be read: its index is there, or can be made.
fn index_can_be_made(path: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    access(&side(path, "-shm"), AccessFlags::W_OK).is_ok()
        || access(parent, AccessFlags::W_OK).is_ok()
}

fn side(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the URI of a file that does not change while it is read.
fn immutable(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            byte => {
                let _ = write!(uri, "%{byte:02x}");
            }
        }
    }
    uri.push_str("?immutable=1");
    uri
}
