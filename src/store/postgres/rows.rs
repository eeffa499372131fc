//! Rows as values: users, sessions, and the statements that read and open them.

use tokio_postgres::Row;

use super::link::{Step, Value, step};
use super::{columns, int, references, text, unsigned};
use crate::model::SessionId;
use crate::store::{Found, Owner, Reason, SessionRow, UserRow};

pub(super) const USER: &str =
    "SELECT id, name, hash, admin FROM omero_grid.account WHERE name = $1";
pub(super) const USERS: &str = "SELECT id, name, hash, admin FROM omero_grid.account ORDER BY id";

/// OMERO's users. Only members of group `user` may log in; members of group `system` are administrators (`omero.md` §2).
macro_rules! omero_users {
    () => {
        "SELECT e.id, e.omename::text, CASE WHEN EXISTS (SELECT 1 FROM groupexperimentermap m
                 JOIN experimentergroup g ON g.id = m.parent WHERE m.child = e.id AND g.name = 'user') OR e.id IN (0, 1)
             THEN p.hash::text END,
             EXISTS (SELECT 1 FROM groupexperimentermap m JOIN experimentergroup g ON g.id = m.parent
                 WHERE m.child = e.id AND g.name = 'system')
         FROM experimenter e LEFT JOIN password p ON p.experimenter_id = e.id"
    };
}
pub(super) const OMERO_USER: &str = concat!(omero_users!(), " WHERE e.omename = $1");
pub(super) const OMERO_USERS: &str = concat!(omero_users!(), " ORDER BY e.id LIMIT 100000");

pub(super) const BY_UUID: &str = concat!(
    "SELECT ",
    columns!(),
    ", server, closed_ms, reason FROM omero_grid.session WHERE grid = $1 AND uuid = $2"
);
pub(super) const BY_TOKEN: &str = concat!(
    "SELECT ",
    columns!(),
    ", server, closed_ms, reason FROM omero_grid.session WHERE grid = $1 AND token = $2"
);

macro_rules! insert {
    ($where:literal) => {
        concat!(
            "INSERT INTO omero_grid.session (grid, server, epoch, ",
            columns!(),
            ") SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16
             FROM omero_grid.server WHERE grid = $1 AND id = $2 AND epoch = $3 ",
            $where,
            " ON CONFLICT DO NOTHING RETURNING true"
        )
    };
}

/// Makes a session that was kept elsewhere one's own; a token that has been used for another one meanwhile is not kept.
const RESTORE: &str = concat!(
    "INSERT INTO omero_grid.session AS s (grid, server, epoch, ",
    columns!(),
    ") SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
         CASE WHEN EXISTS (SELECT 1 FROM omero_grid.session WHERE grid = $1 AND token = $14::text) THEN NULL ELSE $14::text END, $15, $16
     FROM omero_grid.server WHERE grid = $1 AND id = $2 AND epoch = $3
     ON CONFLICT (uuid) DO UPDATE SET server = excluded.server, epoch = excluded.epoch,
         last_access_ms = excluded.last_access_ms, tti_ms = excluded.tti_ms, ttl_ms = excluded.ttl_ms, refs = excluded.refs
     WHERE s.grid = excluded.grid AND s.server IN (excluded.server, $17) AND s.closed_ms IS NULL RETURNING true"
);

pub(super) fn user(row: &Row) -> UserRow {
    UserRow {
        id: unsigned(row.get(0)),
        name: row.get(1),
        hash: row.get(2),
        admin: row.get(3),
    }
}

pub(super) fn uuid(row: &Row) -> Option<SessionId> {
    SessionId::parse(row.get(0))
}

/// Reads the columns of a session; `None` if its UUID is none.
pub(super) fn session(row: &Row) -> Option<SessionRow> {
    Some(SessionRow {
        uuid: uuid(row)?,
        user_id: unsigned(row.get(1)),
        user: row.get(2),
        agent: row.get(3),
        ip: row.get(4),
        started_ms: unsigned(row.get(5)),
        last_access_ms: unsigned(row.get(6)),
        time_to_idle_ms: unsigned(row.get(7)),
        time_to_live_ms: unsigned(row.get(8)),
        references: references(row.get(9)),
        token: row.get(10),
        event: row.get(11),
        group: row.get(12),
    })
}

pub(super) fn found(row: &Row) -> Option<Found> {
    let closed: Option<i64> = row.get(14);
    let reason: Option<String> = row.get(15);
    Some(Found {
        row: session(row)?,
        server: row.get(13),
        ended: closed.map(|_| Reason::parse(reason.as_deref().unwrap_or_default())),
    })
}

/// Returns the statement that opens a session: its first column tells whether it did, the others how many the user has.
pub(super) fn open(grid: String, owner: &Owner, row: &SessionRow, max_user: Option<u64>) -> Step {
    let sql = match max_user {
        None => insert!(""),
        Some(_) => concat!(
            "WITH have AS (SELECT count(*) AS open, min(least(
                 CASE WHEN tti_ms > 0 THEN last_access_ms + tti_ms ELSE 9223372036854775807 END,
                 CASE WHEN ttl_ms > 0 THEN started_ms + ttl_ms ELSE 9223372036854775807 END)) AS next
                 FROM omero_grid.session WHERE grid = $1 AND user_id = $5 AND closed_ms IS NULL AND event <> 'Internal'),
             opened AS (",
            insert!("AND (SELECT open FROM have) < $17"),
            ") SELECT EXISTS (SELECT 1 FROM opened), open, next FROM have"
        ),
    };
    let mut step = inserted(sql, grid, owner, row);
    if let Some(max) = max_user {
        step.values.push(Box::new(int(max)) as Value);
    }
    step
}

/// Returns the statement of [`crate::store::Write::Restore`].
pub(super) fn restore(grid: String, owner: &Owner, row: &SessionRow, from: &str) -> Step {
    let mut step = inserted(RESTORE, grid, owner, row);
    step.values.push(Box::new(text(from)) as Value);
    step
}

fn inserted(sql: &'static str, grid: String, owner: &Owner, row: &SessionRow) -> Step {
    step!(
        sql,
        grid,
        owner.server.clone(),
        owner.epoch,
        row.uuid.reveal().to_string(),
        int(row.user_id),
        text(&row.user),
        text(&row.agent),
        text(&row.ip),
        int(row.started_ms),
        int(row.last_access_ms),
        int(row.time_to_idle_ms),
        int(row.time_to_live_ms),
        i32::try_from(row.references).unwrap_or(i32::MAX),
        row.token.as_deref().map(text),
        text(&row.event),
        text(&row.group),
    )
}
