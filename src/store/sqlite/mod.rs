//! The store in one SQLite file: WAL, synced at each commit, one writer at a time.

mod admin;
mod schema;

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};

use super::{
    Adopted, Found, LeftOpen, Outcome, Owner, Reason, SessionRow, Store, StoreError, UserRow, Write,
};
use crate::model::SessionId;

/// How long to wait for a lock that another process holds: commits take milliseconds.
const BUSY: Duration = Duration::from_secs(5);

/// The pause between two tries for such a lock. SQLite's own pauses grow to 100 ms, so that among several busy Blitzes one that
/// has waited gets ever fewer chances.
const BUSY_PAUSE: Duration = Duration::from_micros(500);

/// The largest file that is read through at open; of a larger one only the beginning and the tables' heads are.
const MAX_CHECKED: u64 = 64 * 1024 * 1024;

/// The smallest database of SQLite: one page of the smallest size.
const MIN_LENGTH: u64 = 512;

/// How long rows of ended sessions are kept, so that a late client learns why.
const KEEP_CLOSED_MS: u64 = 30 * 24 * 3600 * 1000;

/// A server that is away does not let its sessions age; one that has been away for this much longer than they may be idle is not
/// coming back for them.
const LONG_AGO_MS: u64 = 24 * 3600 * 1000;

/// How many rows of ended sessions are removed at most by one start.
const PURGE: i64 = 10_000;

/// The columns of [`SessionRow`], read by [`session_row`].
const COLUMNS: &str = "s.uuid, s.user_id, u.name, s.agent, s.ip, s.started_ms, s.last_access_ms, s.tti_ms, s.ttl_ms, s.refs, s.token, s.event, s.grp";

/// The embedded store.
pub struct Sqlite {
    pub(super) connection: Connection,
    path: PathBuf,
    leases: Leases,
}

/// Tells whether a server holds its lease.
type Leases = Box<dyn Fn(&str) -> bool + Send>;

impl Sqlite {
    /// Opens a store that exists. A damaged, foreign or newer file is refused and left byte for byte as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let length = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(StoreError::File {
                    path: path.to_owned(),
                    source: io::ErrorKind::IsADirectory.into(),
                });
            }
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => {
                return Err(StoreError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        if length == 0 {
            return Err(StoreError::Missing {
                path: path.to_owned(),
            });
        }
        if length < MIN_LENGTH {
            // SQLite itself would take it for an empty database and write over it.
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                detail: format!("it has only {length} bytes"),
            });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let fail = |source| StoreError::of("open the file", path, source);
        let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
        connection.busy_timeout(BUSY).map_err(fail)?;
        check(path, length, &connection)?;
        drop(connection);
        Self::connect(path)
    }

    /// Opens a store, and makes it (0600) where there is none.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        match Self::open(path) {
            Err(StoreError::Missing { .. }) => {}
            other => return other,
        }
        // SQLite gives its side files the mode of this one.
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::File {
                path: path.to_owned(),
                source,
            })?;
        Self::connect(path)
    }

    fn connect(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::of("open the tables", path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
        configure(&mut connection).map_err(fail)?;
        schema::migrate(&mut connection).map_err(fail)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            leases: Box::new(|_| true),
        })
    }

    /// Says how to find out whether a server holds its lease. Until then every server counts as living, so that nothing is taken.
    ///
    /// A server takes its lease before it adopts its sessions. So what is said within a transaction holds to its end: whoever takes a
    /// lease meanwhile adopts after it.
    #[must_use]
    pub fn with_leases(mut self, held: impl Fn(&str) -> bool + Send + 'static) -> Self {
        self.leases = Box::new(held);
        self
    }

    /// Notes the name of a user who is kept elsewhere, so that sessions may name the user here.
    pub(super) fn mention_user(&mut self, id: u64, name: &str) -> Result<(), StoreError> {
        let note = || -> rusqlite::Result<()> {
            // The name may have been another user's before.
            self.connection
                .prepare_cached(
                    "UPDATE user SET name = name || '#' || id WHERE name = ?2 AND id <> ?1",
                )?
                .execute(params![int(id), name])?;
            self.connection
                .prepare_cached(
                    "INSERT INTO user (id, name, changed) VALUES (?1, ?2, ?3)
                     ON CONFLICT (id) DO UPDATE SET name = ?2 WHERE name <> ?2",
                )?
                .execute(params![int(id), name, int(now_ms())])?;
            Ok(())
        };
        note().map_err(|source| StoreError::of("note a user", &self.path, source))
    }

    /// Removes sessions that are kept elsewhere from now on.
    pub(super) fn forget(&mut self, uuids: &[SessionId]) -> Result<(), StoreError> {
        let path = self.path.clone();
        let fail = |source| StoreError::of("remove sessions", &path, source);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        for uuid in uuids {
            transaction
                .prepare_cached("DELETE FROM session WHERE uuid = ?1")
                .and_then(|mut delete| delete.execute([uuid.reveal()]))
                .map_err(fail)?;
        }
        transaction.commit().map_err(fail)
    }

    /// Notes a server that keeps its sessions elsewhere, so that it can be given some of these.
    pub(super) fn mention_server(&mut self, id: &str) -> Result<(), StoreError> {
        self.connection
            .execute(
                "INSERT INTO server (id, epoch, process, started_ms) VALUES (?1, 0, '', ?2) ON CONFLICT (id) DO NOTHING",
                params![id, int(now_ms())],
            )
            .map(drop)
            .map_err(|source| StoreError::of("note a server", &self.path, source))
    }

    /// Adds user `root`, an administrator, if there is no user at all. `prepare` makes the hash, after whatever has to be durable first.
    ///
    /// Returns whether the user was added. The store is locked while that is done.
    pub(super) fn add_root(
        &mut self,
        now_ms: u64,
        prepare: impl FnOnce() -> Result<String, StoreError>,
    ) -> Result<bool, StoreError> {
        let path = self.path.clone();
        let fail = |source| StoreError::of("add user root", &path, source);
        let any = "SELECT EXISTS (SELECT 1 FROM user)";
        // Mostly there is one, and then nobody has to wait for the lock.
        if self
            .connection
            .query_row(any, [], |row| row.get(0))
            .map_err(fail)?
        {
            return Ok(false);
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        let users: bool = transaction
            .query_row(any, [], |row| row.get(0))
            .map_err(fail)?;
        if users {
            return Ok(false);
        }
        let hash = prepare()?;
        transaction
            .execute(
                "INSERT INTO user (id, name, hash, admin, changed) VALUES (?1, ?2, ?3, 1, ?4)",
                params![super::ROOT_ID as i64, super::ROOT, hash, int(now_ms)],
            )
            .map_err(fail)?;
        transaction.commit().map_err(fail)?;
        Ok(true)
    }
}

impl Store for Sqlite {
    fn adopt(&mut self, server: &str, process: &str) -> Result<Adopted, StoreError> {
        let path = self.path.clone();
        let fail = |source| StoreError::of("take up the sessions", &path, source);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        let adopted = adopt(&transaction, server, process, now_ms()).map_err(fail)?;
        sweep(&transaction, server, &self.leases, now_ms()).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        Ok(adopted)
    }

    fn write(&mut self, owner: &Owner, writes: &[Write]) -> Result<Vec<Outcome>, StoreError> {
        let path = self.path.clone();
        let fail = |source| StoreError::of("write", &path, source);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            outcomes.push(apply(&transaction, owner, write, &self.leases).map_err(fail)?);
        }
        transaction.commit().map_err(fail)?;
        Ok(outcomes)
    }

    fn user(&mut self, name: &str) -> Result<Option<UserRow>, StoreError> {
        self.connection
            .prepare_cached("SELECT id, name, hash, admin FROM user WHERE name = ?1")
            .and_then(|mut query| query.query_row([name], user_row).optional())
            .map_err(|source| StoreError::of("look up a user", &self.path, source))
    }

    fn users(&mut self) -> Result<Vec<UserRow>, StoreError> {
        self.connection
            .prepare_cached("SELECT id, name, hash, admin FROM user ORDER BY id")
            .and_then(|mut query| query.query_map([], user_row)?.collect())
            .map_err(|source| StoreError::of("list the users", &self.path, source))
    }

    fn session(&mut self, uuid: SessionId) -> Result<Option<Found>, StoreError> {
        find(&self.connection, "s.uuid", &uuid.reveal())
            .map_err(|source| StoreError::of("look up a session", &self.path, source))
    }

    fn by_token(&mut self, token: &str) -> Result<Option<Found>, StoreError> {
        find(&self.connection, "s.token", token)
            .map_err(|source| StoreError::of("look up a session", &self.path, source))
    }

    fn owned(&mut self, owner: &Owner) -> Result<Vec<SessionId>, StoreError> {
        self.connection
            .prepare_cached(
                "SELECT uuid FROM session WHERE server = ?1 AND epoch = ?2 AND closed_ms IS NULL",
            )
            .and_then(|mut query| {
                let rows = query.query_map(params![owner.server, owner.epoch], |row| {
                    row.get::<_, String>(0)
                })?;
                rows.filter_map(|uuid| uuid.map(|uuid| SessionId::parse(&uuid)).transpose())
                    .collect()
            })
            .map_err(|source| StoreError::of("read the sessions", &self.path, source))
    }

    fn left_open(&mut self, server: &str, known: &[SessionId]) -> Result<LeftOpen, StoreError> {
        let look = || -> rusqlite::Result<LeftOpen> {
            let stopped = self
                .connection
                .query_row(
                    "SELECT stopped_ms FROM server WHERE id = ?1",
                    [server],
                    |row| row.get::<_, Option<i64>>(0),
                )
                .optional()?
                .flatten();
            let mut gone = Vec::new();
            let mut query = self.connection.prepare_cached(
                "SELECT 1 FROM session WHERE uuid = ?1 AND (closed_ms IS NOT NULL OR server <> ?2)",
            )?;
            for uuid in known {
                if query.exists(params![uuid.reveal(), server])? {
                    gone.push(*uuid);
                }
            }
            Ok(LeftOpen {
                stopped_ms: stopped.map(unsigned),
                sessions: open_of(&self.connection, server)?,
                gone,
            })
        };
        look().map_err(|source| StoreError::of("read the sessions", &self.path, source))
    }
}

/// Returns the open sessions of a server.
fn open_of(connection: &Connection, server: &str) -> rusqlite::Result<Vec<SessionRow>> {
    connection
        .prepare(&format!(
            "SELECT {COLUMNS} FROM session s JOIN user u ON u.id = s.user_id
             WHERE s.server = ?1 AND s.closed_ms IS NULL"
        ))?
        .query_map([server], session_row)?
        .collect()
}

/// Looks a file over without changing a byte of it.
fn check(path: &Path, length: u64, connection: &Connection) -> Result<(), StoreError> {
    let fail = |source| StoreError::of("open the file", path, source);
    let (application, version) = schema::marks(connection).map_err(fail)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(fail)?;
    // A file without tables and without a mark is what a kill during the very first start leaves.
    if application != schema::APPLICATION && (application, tables) != (0, 0) {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
        });
    }
    if version > schema::VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            known: schema::VERSION,
        });
    }
    if length > MAX_CHECKED {
        return Ok(());
    }
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(fail)?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: verdict.replace('\n', " "),
        })
    }
}

fn configure(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(wait))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // 1 MiB of pages, and no more of the write-ahead log than 4 MiB kept on disk.
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.pragma_update_and_check(None, "journal_size_limit", 4 * 1024 * 1024, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Waits before the next try for a lock; false when that has been long enough.
fn wait(tries: i32) -> bool {
    thread_local! {
        /// When the present wait has begun: pauses take longer than they are meant to.
        static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let begun = BEGUN.get().filter(|_| tries > 0).unwrap_or(now);
    BEGUN.set(Some(begun));
    if now.duration_since(begun) >= BUSY {
        return false;
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "no event tells that another process has released a lock of SQLite"
    )]
    std::thread::sleep(BUSY_PAUSE);
    true
}

fn adopt(
    transaction: &Transaction<'_>,
    server: &str,
    process: &str,
    now_ms: u64,
) -> rusqlite::Result<Adopted> {
    let before: Option<(i64, Option<i64>)> = transaction
        .query_row(
            "SELECT epoch, stopped_ms FROM server WHERE id = ?1",
            [server],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let (last_epoch, stopped) = before.unwrap_or((0, None));
    let epoch = last_epoch + 1;
    transaction.execute(
        "INSERT INTO server (id, epoch, process, started_ms, stopped_ms) VALUES (?1, ?2, ?3, ?4, NULL)
         ON CONFLICT (id) DO UPDATE SET epoch = ?2, process = ?3, started_ms = ?4, stopped_ms = NULL",
        params![server, epoch, process, int(now_ms)],
    )?;
    transaction.execute(
        "UPDATE session SET epoch = ?2 WHERE server = ?1 AND closed_ms IS NULL",
        params![server, epoch],
    )?;
    transaction.execute(
        "DELETE FROM session WHERE uuid IN
         (SELECT uuid FROM session WHERE closed_ms IS NOT NULL AND closed_ms < ?1 LIMIT ?2)",
        params![int(now_ms.saturating_sub(KEEP_CLOSED_MS)), PURGE],
    )?;
    let sessions = open_of(transaction, server)?;
    Ok(Adopted {
        owner: Owner {
            server: server.to_owned(),
            epoch,
        },
        stopped_ms: stopped.map(unsigned),
        sessions,
    })
}

/// Ends sessions of servers that do not live and whose time was over long ago: nobody else does.
fn sweep(
    transaction: &Transaction<'_>,
    server: &str,
    leases: &Leases,
    now_ms: u64,
) -> rusqlite::Result<()> {
    let others: Vec<String> = transaction
        .prepare("SELECT DISTINCT server FROM session WHERE closed_ms IS NULL AND server <> ?1")?
        .query_map([server], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for other in others.iter().filter(|other| !leases(other)) {
        transaction.execute(
            "UPDATE session SET closed_ms = ?2,
                 reason = CASE WHEN ttl_ms > 0 AND started_ms + ttl_ms < ?2 THEN 'live' ELSE 'idle' END
             WHERE uuid IN (SELECT uuid FROM session WHERE server = ?1 AND closed_ms IS NULL
                 AND ((ttl_ms > 0 AND started_ms + ttl_ms < ?2) OR (tti_ms > 0 AND last_access_ms + tti_ms + ?3 < ?2))
                 LIMIT ?4)",
            params![other, int(now_ms), int(LONG_AGO_MS), PURGE],
        )?;
    }
    Ok(())
}

fn apply(
    transaction: &Transaction<'_>,
    owner: &Owner,
    write: &Write,
    leases: &Leases,
) -> rusqlite::Result<Outcome> {
    const MINE: &str = "uuid = ?1 AND server = ?2 AND epoch = ?3 AND closed_ms IS NULL";
    let Owner { server, epoch } = owner;
    let done = |changed: usize, otherwise: Outcome| {
        if changed == 0 {
            otherwise
        } else {
            Outcome::Done
        }
    };
    match write {
        Write::Open { row, max_user } => open_session(transaction, owner, row, *max_user),
        Write::Take { uuid } => take(transaction, owner, *uuid, leases),
        Write::Restore { row, from } => restore(transaction, owner, row, from),
        Write::Give { uuid, to, at_ms } => {
            if !leases(to) {
                return Ok(Outcome::NoHolder);
            }
            let changed = transaction
                .prepare_cached(&format!(
                    "UPDATE session SET server = ?4, epoch = (SELECT epoch FROM server WHERE id = ?4),
                        last_access_ms = max(last_access_ms, ?5)
                     WHERE {MINE} AND EXISTS (SELECT 1 FROM server WHERE id = ?4)"
                ))?
                .execute(params![uuid.reveal(), server, epoch, to, int(*at_ms)])?;
            Ok(done(changed, Outcome::Lost))
        }
        Write::Shorten {
            uuid,
            at_ms,
            live_ms,
        } => {
            // 0 stands for no limit.
            let ttl = transaction
                .prepare_cached(&format!(
                    "UPDATE session SET ttl_ms = CASE WHEN ttl_ms = 0 THEN max(?4 - started_ms, 1)
                        ELSE max(min(ttl_ms, ?4 - started_ms), 1) END
                     WHERE {MINE} RETURNING ttl_ms"
                ))?
                .query_row(
                    params![
                        uuid.reveal(),
                        server,
                        epoch,
                        int(at_ms.saturating_add(*live_ms))
                    ],
                    |row| row.get(0).map(unsigned),
                )
                .optional()?;
            Ok(ttl.map_or(Outcome::Lost, Outcome::TimeToLive))
        }
        Write::Join { uuid, at_ms } => {
            let left = transaction
                .prepare_cached(&format!(
                    "UPDATE session SET refs = refs + 1, last_access_ms = max(last_access_ms, ?4) WHERE {MINE} RETURNING refs"
                ))?
                .query_row(params![uuid.reveal(), server, epoch, int(*at_ms)], references)
                .optional()?;
            Ok(left.map_or(Outcome::Lost, Outcome::References))
        }
        Write::Leave { uuid, at_ms } => {
            let left = transaction
                .prepare_cached(&format!(
                    "UPDATE session SET refs = max(refs - 1, 0),
                        closed_ms = CASE WHEN refs <= 1 THEN ?4 END, reason = CASE WHEN refs <= 1 THEN 'left' END
                     WHERE {MINE} RETURNING refs"
                ))?
                .query_row(params![uuid.reveal(), server, epoch, int(*at_ms)], references)
                .optional()?;
            Ok(left.map_or(Outcome::Lost, Outcome::References))
        }
        Write::Close {
            uuid,
            at_ms,
            reason,
        } => {
            let changed = transaction
                .prepare_cached(&format!(
                    "UPDATE session SET closed_ms = ?4, reason = ?5 WHERE {MINE}"
                ))?
                .execute(params![
                    uuid.reveal(),
                    server,
                    epoch,
                    int(*at_ms),
                    reason.as_str()
                ])?;
            Ok(done(changed, Outcome::Lost))
        }
        Write::Access { uuid, at_ms } => {
            let changed = transaction
                .prepare_cached(&format!(
                    "UPDATE session SET last_access_ms = ?4 WHERE {MINE}"
                ))?
                .execute(params![uuid.reveal(), server, epoch, int(*at_ms)])?;
            Ok(done(changed, Outcome::Lost))
        }
        Write::Stopped { at_ms } => {
            let changed = transaction.execute(
                "UPDATE server SET stopped_ms = ?3 WHERE id = ?1 AND epoch = ?2",
                params![server, epoch, int(*at_ms)],
            )?;
            Ok(done(changed, Outcome::Superseded))
        }
        Write::Probe => {
            let changed = transaction.execute(
                "UPDATE server SET probes = probes + 1 WHERE id = ?1 AND epoch = ?2",
                params![server, epoch],
            )?;
            Ok(done(changed, Outcome::Superseded))
        }
        Write::AddUser {
            name,
            hash,
            admin,
            at_ms,
        } => {
            // 0 and 1 are OMERO's root and guest.
            let changed = transaction.execute(
                "INSERT INTO user (id, name, hash, admin, changed)
                 VALUES ((SELECT max(2, coalesce(max(id) + 1, 2)) FROM user), ?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO NOTHING",
                params![name, hash, admin, int(*at_ms)],
            )?;
            Ok(done(changed, Outcome::UserExists))
        }
        Write::SetHash { name, hash, at_ms } => {
            let changed = transaction.execute(
                "UPDATE user SET hash = ?2, changed = ?3 WHERE name = ?1",
                params![name, hash, int(*at_ms)],
            )?;
            Ok(done(changed, Outcome::NoUser))
        }
    }
}

fn open_session(
    transaction: &Transaction<'_>,
    owner: &Owner,
    row: &SessionRow,
    max_user: Option<u64>,
) -> rusqlite::Result<Outcome> {
    if let Some(token) = &row.token
        && let Some(found) = find(transaction, "s.token", token)?
    {
        return Ok(Outcome::TokenUsed(Box::new(found)));
    }
    if let Some(max) = max_user {
        let (open, next_end): (i64, Option<i64>) = transaction
            .prepare_cached(
                "SELECT count(*), min(min(
                     CASE WHEN tti_ms > 0 THEN last_access_ms + tti_ms ELSE 9223372036854775807 END,
                     CASE WHEN ttl_ms > 0 THEN started_ms + ttl_ms ELSE 9223372036854775807 END))
                 FROM session WHERE user_id = ?1 AND closed_ms IS NULL AND event <> 'Internal'",
            )?
            .query_row([int(row.user_id)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if unsigned(open) >= max {
            return Ok(Outcome::UserFull {
                open: unsigned(open),
                next_end_ms: next_end.filter(|end| *end < i64::MAX).map(unsigned),
            });
        }
    }
    let changed = transaction
        .prepare_cached(
            "INSERT INTO session (uuid, user_id, server, epoch, agent, ip, started_ms, last_access_ms, tti_ms, ttl_ms, refs, token, event, grp)
             SELECT ?1, ?2, id, epoch, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14 FROM server WHERE id = ?3 AND epoch = ?4",
        )?
        .execute(params![
            row.uuid.reveal(),
            int(row.user_id),
            owner.server,
            owner.epoch,
            row.agent,
            row.ip,
            int(row.started_ms),
            int(row.last_access_ms),
            int(row.time_to_idle_ms),
            int(row.time_to_live_ms),
            row.references,
            row.token,
            row.event,
            row.group,
        ])?;
    Ok(if changed == 0 {
        Outcome::Superseded
    } else {
        Outcome::Done
    })
}

/// Makes a session that was kept elsewhere one's own. A token that has been used for another one meanwhile is not kept.
fn restore(
    transaction: &Transaction<'_>,
    owner: &Owner,
    row: &SessionRow,
    from: &str,
) -> rusqlite::Result<Outcome> {
    let changed = transaction
        .prepare_cached(
            "INSERT INTO session (uuid, user_id, server, epoch, agent, ip, started_ms, last_access_ms, tti_ms, ttl_ms, refs, event, grp, token)
             SELECT ?1, ?2, id, epoch, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
                 CASE WHEN EXISTS (SELECT 1 FROM session WHERE token = ?14) THEN NULL ELSE ?14 END
             FROM server WHERE id = ?3 AND epoch = ?4
             ON CONFLICT (uuid) DO UPDATE SET server = excluded.server, epoch = excluded.epoch,
                 last_access_ms = excluded.last_access_ms, tti_ms = excluded.tti_ms, ttl_ms = excluded.ttl_ms, refs = excluded.refs
             WHERE session.server IN (excluded.server, ?15) AND session.closed_ms IS NULL",
        )?
        .execute(params![
            row.uuid.reveal(),
            int(row.user_id),
            owner.server,
            owner.epoch,
            row.agent,
            row.ip,
            int(row.started_ms),
            int(row.last_access_ms),
            int(row.time_to_idle_ms),
            int(row.time_to_live_ms),
            row.references,
            row.event,
            row.group,
            row.token,
            from,
        ])?;
    if changed > 0 {
        return Ok(Outcome::Done);
    }
    let there = find(transaction, "s.uuid", &row.uuid.reveal())?.is_some();
    Ok(if there {
        Outcome::Lost
    } else {
        Outcome::Superseded
    })
}

/// Makes an open session of a server that does not live one's own.
fn take(
    transaction: &Transaction<'_>,
    owner: &Owner,
    uuid: SessionId,
    leases: &Leases,
) -> rusqlite::Result<Outcome> {
    let Some(found) = find(transaction, "s.uuid", &uuid.reveal())?.filter(|f| f.ended.is_none())
    else {
        return Ok(Outcome::Lost);
    };
    let Found { row, server, .. } = found;
    if server != owner.server && leases(&server) {
        return Ok(Outcome::Held {
            server,
            row: Box::new(row),
        });
    }
    let changed = transaction
        .prepare_cached(
            "UPDATE session SET server = ?2, epoch = ?3 WHERE uuid = ?1
             AND EXISTS (SELECT 1 FROM server WHERE id = ?2 AND epoch = ?3)",
        )?
        .execute(params![uuid.reveal(), owner.server, owner.epoch])?;
    Ok(if changed == 0 {
        Outcome::Superseded
    } else {
        Outcome::Taken {
            from: server,
            row: Box::new(row),
        }
    })
}

fn find(connection: &Connection, column: &str, key: &str) -> rusqlite::Result<Option<Found>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS}, s.server, s.closed_ms, s.reason FROM session s JOIN user u ON u.id = s.user_id WHERE {column} = ?1"
        ))?
        .query_row([key], |row| {
            let closed: Option<i64> = row.get(14)?;
            let reason: Option<String> = row.get(15)?;
            Ok(Found {
                row: session_row(row)?,
                server: row.get(13)?,
                ended: closed.map(|_| Reason::parse(reason.as_deref().unwrap_or_default())),
            })
        })
        .optional()
}

fn user_row(row: &Row<'_>) -> rusqlite::Result<UserRow> {
    Ok(UserRow {
        id: unsigned(row.get(0)?),
        name: row.get(1)?,
        hash: row.get(2)?,
        admin: row.get(3)?,
    })
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let uuid: String = row.get(0)?;
    let uuid = SessionId::parse(&uuid).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            0,
            rusqlite::types::Type::Text,
            "a session whose UUID is none".into(),
        )
    })?;
    Ok(SessionRow {
        uuid,
        user_id: unsigned(row.get(1)?),
        user: row.get(2)?,
        agent: row.get(3)?,
        ip: row.get(4)?,
        started_ms: unsigned(row.get(5)?),
        last_access_ms: unsigned(row.get(6)?),
        time_to_idle_ms: unsigned(row.get(7)?),
        time_to_live_ms: unsigned(row.get(8)?),
        references: row.get(9)?,
        token: row.get(10)?,
        event: row.get(11)?,
        group: row.get(12)?,
    })
}

fn references(row: &Row<'_>) -> rusqlite::Result<u32> {
    row.get(0)
}

/// SQLite's integers are signed; ours never reach the difference.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
