//! Whether a store can be written: by a write that is taken back.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use rusqlite::TransactionBehavior;

use super::{Postgres, Sqlite, StoreChoice, StoreError};

/// Writes to a store and takes it back. Returns why the system does not let this user write, `None` if it does; an error is
/// any other failure. `path` is where the embedded store is. Blocks.
pub fn probe(choice: &StoreChoice, path: &Path) -> Result<Option<String>, StoreError> {
    match choice {
        StoreChoice::Embedded => embedded(path),
        StoreChoice::Postgres(choice) => Postgres::probe(choice, &super::process_name()),
    }
}

fn embedded(path: &Path) -> Result<Option<String>, StoreError> {
    // SQLite itself opens what it may not write to read it, and says of a directory only that it "cannot open".
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(path) {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        return match errno {
            Errno::EROFS | Errno::EACCES | Errno::EPERM => Ok(Some(format!(
                "{}: {errno:?} ({})",
                path.display(),
                errno.desc()
            ))),
            Errno::ENOENT => Err(StoreError::Missing {
                path: path.to_owned(),
            }),
            _ => Err(StoreError::File {
                path: path.to_owned(),
                source: error,
            }),
        };
    }
    let written = Sqlite::open(path).and_then(|mut store| {
        let fail = |source| StoreError::of("write", path, source);
        let transaction = store
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        transaction
            .execute(
                "INSERT INTO server (id, epoch, process, started_ms) VALUES ('', 0, '', 0)
                 ON CONFLICT (id) DO UPDATE SET probes = probes + 1",
                [],
            )
            .map_err(fail)?;
        transaction.rollback().map_err(fail)
    });
    match written {
        Ok(()) => Ok(None),
        Err(error @ StoreError::ReadOnly { .. }) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}
