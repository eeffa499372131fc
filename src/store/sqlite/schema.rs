//! The tables, and how a store of an older release becomes one of ours.

use rusqlite::{Connection, TransactionBehavior};

/// Marks a file as ours: "OMgr" (SQLite's `application_id`).
pub(super) const APPLICATION: i64 = 0x4f4d_6772;

/// Each entry brings the schema from the version of its index to the next; released ones never change.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE user (
        id      INTEGER PRIMARY KEY,
        name    TEXT NOT NULL UNIQUE,
        hash    TEXT,
        admin   INTEGER NOT NULL DEFAULT 0,
        changed INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE server (
        id         TEXT PRIMARY KEY,
        epoch      INTEGER NOT NULL,
        process    TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        stopped_ms INTEGER,
        probes     INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE session (
        uuid           TEXT PRIMARY KEY,
        user_id        INTEGER NOT NULL REFERENCES user (id),
        server         TEXT NOT NULL,
        epoch          INTEGER NOT NULL,
        agent          TEXT NOT NULL,
        ip             TEXT NOT NULL,
        started_ms     INTEGER NOT NULL,
        last_access_ms INTEGER NOT NULL,
        tti_ms         INTEGER NOT NULL,
        ttl_ms         INTEGER NOT NULL,
        refs           INTEGER NOT NULL,
        token          TEXT,
        closed_ms      INTEGER,
        reason         TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX session_open ON session (server) WHERE closed_ms IS NULL;
    CREATE INDEX session_closed ON session (closed_ms) WHERE closed_ms IS NOT NULL;
    CREATE UNIQUE INDEX session_token ON session (token) WHERE token IS NOT NULL;
",
    "
    ALTER TABLE session ADD COLUMN event TEXT NOT NULL DEFAULT 'User';
    ALTER TABLE session ADD COLUMN grp TEXT NOT NULL DEFAULT '';
    CREATE INDEX session_user ON session (user_id) WHERE closed_ms IS NULL;
",
];

/// The schema version of this release (SQLite's `user_version`).
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Returns the mark and the schema version of a file.
pub(super) fn marks(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let application = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok((application, version))
}

/// Brings the schema to [`VERSION`], in one transaction, so that two processes may try at once.
///
/// Where nothing is to be done no lock is asked for: a process that was stopped while it held it would keep a grid from starting.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    if marks(connection)? == (APPLICATION, VERSION) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (_, version) = marks(&transaction)?;
    let done = usize::try_from(version).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    if version < VERSION {
        transaction.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
        ))?;
    }
    transaction.commit()
}
