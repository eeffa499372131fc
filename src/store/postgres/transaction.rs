//! The transactions: a start takes up what its server has, writes carry out what a server asks.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Row;

use super::link::{Connected, Fault, Step, step};
use super::{columns, in_transaction, int, mine, place, references, rows, text, unsigned};
use crate::model::SessionId;
use crate::store::sqlite::now_ms;
use crate::store::{Adopted, Found, Outcome, Owner, Write};

/// Sessions that have ended are kept for so long, so that a late client learns why.
const KEEP_CLOSED_MS: u64 = 30 * 24 * 3600 * 1000;

/// As in the embedded store: one that has been away for this much longer than a session may be idle is not coming back for it.
const LONG_AGO_MS: u64 = 24 * 3600 * 1000;

/// How many rows one start removes or ends at most.
const PURGE: i64 = 10_000;

/// Begins a new life of a server: its epoch grows, its sessions are its own, its lease begins.
pub(super) async fn adopt(
    on: &mut Connected,
    grid: &str,
    server: &str,
    process: &str,
    lease: Duration,
) -> Result<Adopted, Fault> {
    let now_ms = now_ms();
    let owned = || (grid.to_owned(), server.to_owned());
    let (grid_, server_) = owned();
    let before = on
        .one(step!(
            "SELECT stopped_ms FROM omero_grid.server WHERE grid = $1 AND id = $2 FOR UPDATE",
            grid_,
            server_
        ))
        .await?;
    let stopped: Option<i64> = before.first().and_then(|row| row.get(0));
    let (grid_, server_) = owned();
    let epoch = on
        .one(step!(
            concat!(
                "INSERT INTO omero_grid.server AS s (grid, id, epoch, process, started_ms, lease_until, lease_place)
                 VALUES ($1, $2, 1, $3, $4, clock_timestamp() + make_interval(secs => $5), ",
                place!(),
                ") ON CONFLICT (grid, id) DO UPDATE SET epoch = s.epoch + 1, process = $3, started_ms = $4, stopped_ms = NULL,
                     batch = 0, lease_until = excluded.lease_until, lease_place = excluded.lease_place
                 RETURNING epoch"
            ),
            grid_,
            server_,
            process.to_owned(),
            int(now_ms),
            lease.as_secs_f64()
        ))
        .await?;
    let epoch: i64 = epoch.first().map_or(0, |row| row.get(0));
    let (grid_, server_) = owned();
    let sessions = on
        .one(step!(
            concat!(
                "UPDATE omero_grid.session SET epoch = $3 WHERE grid = $1 AND server = $2 AND closed_ms IS NULL RETURNING ",
                columns!()
            ),
            grid_,
            server_,
            epoch
        ))
        .await?;
    on.one(step!(
        "DELETE FROM omero_grid.session WHERE uuid IN (SELECT uuid FROM omero_grid.session
             WHERE grid = $1 AND closed_ms IS NOT NULL AND closed_ms < $2 LIMIT $3 FOR UPDATE SKIP LOCKED)",
        grid.to_owned(),
        int(now_ms.saturating_sub(KEEP_CLOSED_MS)),
        PURGE
    ))
    .await?;
    // What servers that do not live left open long ago is ended: nobody else does. One that starts right now is passed over.
    on.one(step!(
        concat!(
            "WITH gone AS (SELECT id FROM omero_grid.server WHERE grid = $1 AND id <> $2
                 AND NOT (lease_until > clock_timestamp() AND lease_place = ",
            place!(),
            ") FOR UPDATE SKIP LOCKED)
             UPDATE omero_grid.session SET closed_ms = $3,
                 reason = CASE WHEN ttl_ms > 0 AND started_ms + ttl_ms < $3 THEN 'live' ELSE 'idle' END
             WHERE uuid IN (SELECT uuid FROM omero_grid.session s JOIN gone ON s.server = gone.id
                 WHERE s.grid = $1 AND s.closed_ms IS NULL
                 AND ((ttl_ms > 0 AND started_ms + ttl_ms < $3) OR (tti_ms > 0 AND last_access_ms + tti_ms + $4 < $3)) LIMIT $5)"
        ),
        grid.to_owned(),
        server.to_owned(),
        int(now_ms),
        int(LONG_AGO_MS),
        PURGE
    ))
    .await?;
    Ok(Adopted {
        owner: Owner {
            server: server.to_owned(),
            epoch,
        },
        stopped_ms: stopped.map(unsigned),
        sessions: sessions.iter().filter_map(rows::session).collect(),
    })
}

/// Looks up a session by one of the statements of [`rows`].
pub(super) async fn find(
    on: &mut Connected,
    sql: &'static str,
    grid: &str,
    key: String,
) -> Result<Option<Found>, Fault> {
    let found = on.one(step!(sql, grid.to_owned(), key)).await?;
    Ok(found.first().and_then(rows::found))
}

/// How a transaction ended.
pub(super) enum Ended {
    Committed(Vec<Outcome>),
    /// The answer to the commit is lost; these are the outcomes if it was carried out.
    Unknown(Vec<Outcome>, String),
}

/// Who writes, and as which transaction.
pub(super) struct Scope<'a> {
    pub(super) grid: &'a str,
    pub(super) owner: &'a Owner,
    pub(super) batch: i64,
    pub(super) omero_users: bool,
}

impl Scope<'_> {
    pub(super) async fn write(&self, on: &mut Connected, writes: &[Write]) -> Result<Ended, Fault> {
        let outcomes = match self.apply(on, writes).await {
            Ok(outcomes) => outcomes,
            Err(fault) => {
                if !matches!(fault, Fault::Lost(_)) {
                    on.one(step!("ROLLBACK")).await?;
                }
                return Err(fault);
            }
        };
        match on.one(step!("COMMIT")).await {
            Ok(_) => Ok(Ended::Committed(outcomes)),
            Err(Fault::Lost(reason)) => {
                on.abandon();
                Ok(Ended::Unknown(outcomes, reason))
            }
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn is_committed(&self, on: &mut Connected) -> Result<bool, Fault> {
        // The lock waits for the end of the transaction in question, should the server still know it.
        let row = in_transaction(on, async |on| {
            on.one(step!(
                "SELECT batch FROM omero_grid.server WHERE grid = $1 AND id = $2 AND epoch = $3 FOR UPDATE",
                self.grid.to_owned(),
                self.owner.server.clone(),
                self.owner.epoch
            ))
            .await
        })
        .await?;
        Ok(row
            .first()
            .is_some_and(|row| row.get::<_, i64>(0) == self.batch))
    }

    async fn apply(&self, on: &mut Connected, writes: &[Write]) -> Result<Vec<Outcome>, Fault> {
        let alone = |write: &Write| matches!(write, Write::Take { .. } | Write::Give { .. });
        let mut steps = vec![step!("BEGIN")];
        steps.extend(self.lock_users(writes));
        if writes.iter().any(alone) {
            on.all(steps).await?;
            return self.apply_each(on, writes).await;
        }
        steps.push(self.fence());
        let before = steps.len();
        steps.extend(writes.iter().map(|write| self.step(write)));
        let answers = on.all(steps).await?;
        let held = !answers[before - 1].is_empty();
        let mut outcomes = Vec::with_capacity(writes.len());
        for (write, rows) in writes.iter().zip(&answers[before..]) {
            outcomes.push(self.outcome(on, write, rows, held).await?);
        }
        Ok(outcomes)
    }

    /// Carries writes out one by one, for those that have to look at other servers.
    async fn apply_each(
        &self,
        on: &mut Connected,
        writes: &[Write],
    ) -> Result<Vec<Outcome>, Fault> {
        let mut servers = BTreeSet::from([self.owner.server.clone()]);
        for write in writes {
            match write {
                Write::Take { uuid } => {
                    let found =
                        find(on, rows::BY_UUID, self.grid, uuid.reveal().to_string()).await?;
                    servers.extend(found.map(|found| found.server));
                }
                Write::Give { to, .. } => drop(servers.insert(to.clone())),
                _ => {}
            }
        }
        on.one(step!(
            "SELECT id FROM omero_grid.server WHERE grid = $1 AND id = ANY ($2) ORDER BY id FOR UPDATE",
            self.grid.to_owned(),
            servers.iter().cloned().collect::<Vec<String>>()
        ))
        .await?;
        let held = !on.one(self.fence()).await?.is_empty();
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            outcomes.push(match write {
                Write::Take { uuid } => self.take(on, *uuid, &servers, held).await?,
                Write::Give { uuid, to, at_ms } => self.give(on, *uuid, to, *at_ms).await?,
                write => {
                    let rows = on.one(self.step(write)).await?;
                    self.outcome(on, write, &rows, held).await?
                }
            });
        }
        Ok(outcomes)
    }

    /// Users whose number of sessions is limited are locked, so that two servers do not both give the last one.
    fn lock_users(&self, writes: &[Write]) -> impl Iterator<Item = Step> {
        let users: BTreeSet<i64> = writes
            .iter()
            .filter_map(|write| match write {
                Write::Open {
                    row,
                    max_user: Some(_),
                } => Some(int(row.user_id)),
                _ => None,
            })
            .collect();
        let grid = self.grid.to_owned();
        users.into_iter().map(move |user| {
            step!(
                "SELECT pg_advisory_xact_lock(hashtextextended($1 || ' ' || $2::bigint, 0))",
                grid.clone(),
                user
            )
        })
    }

    /// Locks the server's row and numbers the transaction; no row if this life of the server is over.
    fn fence(&self) -> Step {
        step!(
            "UPDATE omero_grid.server SET batch = $4 WHERE grid = $1 AND id = $2 AND epoch = $3 RETURNING 1",
            self.grid.to_owned(),
            self.owner.server.clone(),
            self.owner.epoch,
            self.batch
        )
    }

    /// Returns the statement of a write of one's own.
    fn step(&self, write: &Write) -> Step {
        let (grid, server, epoch) = (
            self.grid.to_owned(),
            self.owner.server.clone(),
            self.owner.epoch,
        );
        let id = |uuid: &SessionId| uuid.reveal().to_string();
        match write {
            Write::Open { row, max_user } => rows::open(grid, self.owner, row, *max_user),
            Write::Restore { row, from } => rows::restore(grid, self.owner, row, from),
            // They look at other servers and are carried out alone.
            Write::Take { .. } | Write::Give { .. } => step!("SELECT 1"),
            Write::Shorten {
                uuid,
                at_ms,
                live_ms,
            } => step!(
                // 0 stands for no limit.
                concat!(
                    "UPDATE omero_grid.session SET ttl_ms = CASE WHEN ttl_ms = 0 THEN greatest($5 - started_ms, 1)
                         ELSE greatest(least(ttl_ms, $5 - started_ms), 1) END WHERE ",
                    mine!(),
                    " RETURNING ttl_ms"
                ),
                id(uuid),
                grid,
                server,
                epoch,
                int(at_ms.saturating_add(*live_ms))
            ),
            Write::Join { uuid, at_ms } => step!(
                concat!(
                    "UPDATE omero_grid.session SET refs = refs + 1, last_access_ms = greatest(last_access_ms, $5) WHERE ",
                    mine!(),
                    " RETURNING refs"
                ),
                id(uuid),
                grid,
                server,
                epoch,
                int(*at_ms)
            ),
            Write::Leave { uuid, at_ms } => step!(
                concat!(
                    "UPDATE omero_grid.session SET refs = greatest(refs - 1, 0), closed_ms = CASE WHEN refs <= 1 THEN $5::bigint END,
                         reason = CASE WHEN refs <= 1 THEN 'left' END WHERE ",
                    mine!(),
                    " RETURNING refs"
                ),
                id(uuid),
                grid,
                server,
                epoch,
                int(*at_ms)
            ),
            Write::Close {
                uuid,
                at_ms,
                reason,
            } => step!(
                concat!(
                    "UPDATE omero_grid.session SET closed_ms = $5, reason = $6 WHERE ",
                    mine!(),
                    " RETURNING 1"
                ),
                id(uuid),
                grid,
                server,
                epoch,
                int(*at_ms),
                reason.as_str().to_owned()
            ),
            Write::Access { uuid, at_ms } => step!(
                concat!(
                    "UPDATE omero_grid.session SET last_access_ms = $5 WHERE ",
                    mine!(),
                    " RETURNING 1"
                ),
                id(uuid),
                grid,
                server,
                epoch,
                int(*at_ms)
            ),
            Write::Stopped { at_ms } => step!(
                "UPDATE omero_grid.server SET stopped_ms = $4, lease_until = clock_timestamp()
                 WHERE grid = $1 AND id = $2 AND epoch = $3 RETURNING 1",
                grid,
                server,
                epoch,
                int(*at_ms)
            ),
            // The fence has written.
            Write::Probe => step!(
                "SELECT 1 FROM omero_grid.server WHERE grid = $1 AND id = $2 AND epoch = $3",
                grid,
                server,
                epoch
            ),
            Write::AddUser { .. } | Write::SetHash { .. } if self.omero_users => step!("SELECT 1"),
            Write::AddUser {
                name,
                hash,
                admin,
                at_ms,
            } => step!(
                // 0 and 1 are OMERO's root and guest. One at a time: the number is the next.
                "WITH turn AS (SELECT pg_advisory_xact_lock(1330472818))
                 INSERT INTO omero_grid.account (id, name, hash, admin, changed_ms)
                 SELECT greatest(2, coalesce(max(id) + 1, 2)), $1, $2, $3, $4 FROM omero_grid.account, turn
                 ON CONFLICT (name) DO NOTHING RETURNING 1",
                text(name),
                text(hash),
                *admin,
                int(*at_ms)
            ),
            Write::SetHash { name, hash, at_ms } => step!(
                "UPDATE omero_grid.account SET hash = $2, changed_ms = $3 WHERE name = $1 RETURNING 1",
                text(name),
                text(hash),
                int(*at_ms)
            ),
        }
    }

    /// Says what the answer to a write means; looks further where one statement cannot tell.
    async fn outcome(
        &self,
        on: &mut Connected,
        write: &Write,
        rows: &[Row],
        held: bool,
    ) -> Result<Outcome, Fault> {
        let done = |otherwise: Outcome| {
            if rows.is_empty() {
                otherwise
            } else {
                Outcome::Done
            }
        };
        Ok(match write {
            Write::Open { row, max_user } => {
                let opened = rows.first().is_some_and(|row| row.get(0));
                if opened {
                    return Ok(Outcome::Done);
                }
                if let Some(token) = &row.token
                    && let Some(found) = find(on, rows::BY_TOKEN, self.grid, text(token)).await?
                {
                    return Ok(Outcome::TokenUsed(Box::new(found)));
                }
                match rows.first() {
                    Some(row) if held && max_user.is_some() => Outcome::UserFull {
                        open: unsigned(row.get(1)),
                        next_end_ms: row
                            .get::<_, Option<i64>>(2)
                            .filter(|end| *end < i64::MAX)
                            .map(unsigned),
                    },
                    _ => Outcome::Superseded,
                }
            }
            Write::Take { .. } | Write::Give { .. } => Outcome::Lost,
            Write::Restore { .. } if rows.is_empty() && !held => Outcome::Superseded,
            Write::Restore { .. } => done(Outcome::Lost),
            Write::Shorten { .. } => rows.first().map_or(Outcome::Lost, |row| {
                Outcome::TimeToLive(unsigned(row.get(0)))
            }),
            Write::Join { .. } | Write::Leave { .. } => rows.first().map_or(Outcome::Lost, |row| {
                Outcome::References(references(row.get(0)))
            }),
            Write::Close { .. } | Write::Access { .. } => done(Outcome::Lost),
            Write::Stopped { .. } | Write::Probe => done(Outcome::Superseded),
            Write::AddUser { .. } | Write::SetHash { .. } if self.omero_users => {
                Outcome::ForeignUsers
            }
            Write::AddUser { .. } => done(Outcome::UserExists),
            Write::SetHash { .. } => done(Outcome::NoUser),
        })
    }

    /// Makes an open session of a server that does not live one's own. The rows of `servers` are locked.
    async fn take(
        &self,
        on: &mut Connected,
        uuid: SessionId,
        servers: &BTreeSet<String>,
        held: bool,
    ) -> Result<Outcome, Fault> {
        let id = uuid.reveal().to_string();
        let found = find(on, rows::BY_UUID, self.grid, id.clone()).await?;
        let Some(Found { row, server, .. }) = found.filter(|found| found.ended.is_none()) else {
            return Ok(Outcome::Lost);
        };
        if !servers.contains(&server) {
            return Err(Fault::Conflict("the session has just moved".to_owned()));
        }
        if server != self.owner.server && self.lives(on, &server).await? {
            return Ok(Outcome::Held {
                server,
                row: Box::new(row),
            });
        }
        if !held {
            return Ok(Outcome::Superseded);
        }
        on.one(step!(
            "UPDATE omero_grid.session SET server = $3, epoch = $4 WHERE uuid = $1 AND grid = $2",
            id,
            self.grid.to_owned(),
            self.owner.server.clone(),
            self.owner.epoch
        ))
        .await?;
        Ok(Outcome::Taken {
            from: server,
            row: Box::new(row),
        })
    }

    async fn give(
        &self,
        on: &mut Connected,
        uuid: SessionId,
        to: &str,
        at_ms: u64,
    ) -> Result<Outcome, Fault> {
        if !self.lives(on, to).await? {
            return Ok(Outcome::NoHolder);
        }
        let given = on
            .one(step!(
                concat!(
                    "UPDATE omero_grid.session SET server = $5, last_access_ms = greatest(last_access_ms, $6),
                         epoch = (SELECT epoch FROM omero_grid.server WHERE grid = $2 AND id = $5) WHERE ",
                    mine!(),
                    " RETURNING 1"
                ),
                uuid.reveal().to_string(),
                self.grid.to_owned(),
                self.owner.server.clone(),
                self.owner.epoch,
                to.to_owned(),
                int(at_ms)
            ))
            .await?;
        Ok(if given.is_empty() {
            Outcome::Lost
        } else {
            Outcome::Done
        })
    }

    /// Returns whether a server holds a lease. Its row is locked, so that this holds to the end of the transaction.
    async fn lives(&self, on: &mut Connected, server: &str) -> Result<bool, Fault> {
        let living = on
            .one(step!(
                concat!(
                    "SELECT 1 FROM omero_grid.server WHERE grid = $1 AND id = $2 AND lease_until > clock_timestamp() AND lease_place = ",
                    place!()
                ),
                self.grid.to_owned(),
                server.to_owned()
            ))
            .await?;
        Ok(!living.is_empty())
    }
}
