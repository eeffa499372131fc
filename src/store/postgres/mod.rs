//! The store in a PostgreSQL database, for several machines: our own schema `omero_grid`, beside OMERO's tables or alone.
//!
//! Every row names its grid, so that several grids may share a database. Whoever writes sessions of a server holds the lock of that
//! server's row meanwhile: writes, take-overs, renewals of the lease and starts of one server come one after another, and everything
//! locks in the same order (users, servers by id, sessions).
//!
//! A commit whose answer is lost is looked up: each transaction numbers itself in the server's row. Where even that cannot be found
//! out, the call fails and [`Renewed::doubt`] tells later that memory has to be compared with the rows.
//!
//! A lease is a time on the database's clock and the place of the table, so that a copy of the database holds none.

mod admin;
mod link;
mod rows;
mod schema;
mod transaction;

use std::time::Duration;

use tracing::info;

use self::link::{Connected, Fault, Link, step};
use self::transaction::{Ended, Scope, adopt, find};
use super::choice::PostgresChoice;
use super::{Adopted, Found, LeftOpen, Outcome, Owner, Renewed, Store, StoreError, UserRow, Write};
use crate::model::SessionId;

/// How often a transaction is tried that another one stands in the way of, or whose connection is lost before its end.
const TRIES: u32 = 3;

/// Where a row of the lease's table is: another place in a restored copy, by the numbers that the system gives its objects.
macro_rules! place {
    () => {
        "(SELECT d.oid || '/' || a.attrelid || '/' || a.xmin FROM pg_database d, pg_attribute a
          WHERE d.datname = current_database() AND a.attrelid = 'omero_grid.server'::regclass AND a.attname = 'grid')"
    };
}

macro_rules! mine {
    () => {
        "uuid = $1 AND grid = $2 AND server = $3 AND epoch = $4 AND closed_ms IS NULL"
    };
}

macro_rules! columns {
    () => {
        "uuid, user_id, user_name, agent, ip, started_ms, last_access_ms, tti_ms, ttl_ms, refs, token, event, grp"
    };
}
use {columns, mine, place};

/// A store in PostgreSQL.
pub struct Postgres {
    link: Link,
    /// Where users are looked up, if they are OMERO's.
    omero: Option<Link>,
    grid: String,
    lease: Duration,
    /// The number of the last transaction of this life.
    batch: i64,
    /// A transaction may or may not have been committed.
    doubt: bool,
}

impl Postgres {
    /// Connects to a store that exists, in the name of a grid; `process` is unique to this process.
    pub fn open(choice: &PostgresChoice, grid: &str, process: &str) -> Result<Self, StoreError> {
        let mut this = Self::prepare(choice, grid, process)?;
        this.check_version()?;
        Ok(this)
    }

    fn prepare(choice: &PostgresChoice, grid: &str, process: &str) -> Result<Self, StoreError> {
        let name = format!("omero-grid {process}");
        let omero = match &choice.omero_users {
            Some(server) => Some(Link::new(
                server.clone(),
                format!("omero-grid u {process}"),
            )?),
            None => None,
        };
        Ok(Self {
            link: Link::new(choice.server.clone(), name)?,
            omero,
            grid: grid.to_owned(),
            lease: choice.lease,
            batch: 0,
            doubt: false,
        })
    }

    /// Does something on the connection, again if that is lost: for what changes nothing, or the same when done twice.
    fn read<T>(
        &mut self,
        operation: &'static str,
        mut work: impl AsyncFnMut(&mut Connected) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        again(&mut self.link, operation, &mut work)
    }

    /// Writes in one transaction, and finds out what became of it if the answer is lost.
    fn transact(&mut self, owner: &Owner, writes: &[Write]) -> Result<Vec<Outcome>, StoreError> {
        let mut last = None;
        for _ in 0..TRIES {
            self.batch += 1;
            let batch = self.batch;
            let scope = Scope {
                grid: &self.grid,
                owner,
                batch,
                omero_users: self.omero.is_some(),
            };
            match self.link.run(async |on| scope.write(on, writes).await) {
                Ok(Ended::Committed(outcomes)) => return Ok(outcomes),
                Ok(Ended::Unknown(outcomes, reason)) => {
                    info!(server = %self.link.server(), reason, "the answer to a commit is lost; looks it up");
                    match self.link.run(async |on| scope.is_committed(on).await) {
                        Ok(true) => return Ok(outcomes),
                        Ok(false) => last = Some(Fault::Lost(reason)),
                        Err(fault) => {
                            self.doubt = true;
                            return Err(fault.into_error("write", self.link.server()));
                        }
                    }
                }
                Err(fault @ Fault::Refused(_)) => {
                    return Err(fault.into_error("write", self.link.server()));
                }
                Err(fault) => last = Some(fault),
            }
        }
        let fault = last.unwrap_or_else(|| Fault::Conflict("tried too often".to_owned()));
        Err(fault.into_error("write", self.link.server()))
    }
}

/// Does something on a connection, again if that is lost.
fn again<T>(
    link: &mut Link,
    operation: &'static str,
    work: &mut impl AsyncFnMut(&mut Connected) -> Result<T, Fault>,
) -> Result<T, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match link.run(async |on| work(on).await) {
            Ok(value) => return Ok(value),
            Err(Fault::Lost(_) | Fault::Conflict(_)) if tries < TRIES => {}
            Err(fault) => return Err(fault.into_error(operation, link.server())),
        }
    }
}

impl Store for Postgres {
    fn adopt(&mut self, server: &str, process: &str) -> Result<Adopted, StoreError> {
        let (grid, lease) = (self.grid.clone(), self.lease);
        self.batch = 0;
        self.read("take up the sessions", async |on| {
            in_transaction(on, async |on| {
                adopt(on, &grid, server, process, lease).await
            })
            .await
        })
    }

    fn write(&mut self, owner: &Owner, writes: &[Write]) -> Result<Vec<Outcome>, StoreError> {
        self.transact(owner, writes)
    }

    fn user(&mut self, name: &str) -> Result<Option<UserRow>, StoreError> {
        let name = text(name);
        let (link, sql) = match &mut self.omero {
            Some(link) => (link, rows::OMERO_USER),
            None => (&mut self.link, rows::USER),
        };
        again(link, "look up a user", &mut async |on| {
            let found = on.one(step!(sql, name.clone())).await?;
            Ok(found.first().map(rows::user))
        })
    }

    fn users(&mut self) -> Result<Vec<UserRow>, StoreError> {
        let (link, sql) = match &mut self.omero {
            Some(link) => (link, rows::OMERO_USERS),
            None => (&mut self.link, rows::USERS),
        };
        again(link, "list the users", &mut async |on| {
            Ok(on.one(step!(sql)).await?.iter().map(rows::user).collect())
        })
    }

    fn session(&mut self, uuid: SessionId) -> Result<Option<Found>, StoreError> {
        let grid = self.grid.clone();
        self.read("look up a session", async |on| {
            find(on, rows::BY_UUID, &grid, uuid.reveal().to_string()).await
        })
    }

    fn by_token(&mut self, token: &str) -> Result<Option<Found>, StoreError> {
        let (grid, token) = (self.grid.clone(), text(token));
        self.read("look up a session", async |on| {
            find(on, rows::BY_TOKEN, &grid, token.clone()).await
        })
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    fn renew(&mut self, owner: &Owner) -> Result<Renewed, StoreError> {
        let (grid, lease) = (self.grid.clone(), self.lease.as_secs_f64());
        let held = self.read("renew the lease", async |on| {
            let renewed = on
                .one(step!(
                    concat!(
                        "UPDATE omero_grid.server SET lease_until = clock_timestamp() + make_interval(secs => $4)
                         WHERE grid = $1 AND id = $2 AND epoch = $3 AND lease_place = ",
                        place!(),
                        " RETURNING 1"
                    ),
                    grid.clone(),
                    owner.server.clone(),
                    owner.epoch,
                    lease
                ))
                .await?;
            Ok(!renewed.is_empty())
        })?;
        Ok(Renewed {
            held,
            doubt: std::mem::take(&mut self.doubt),
        })
    }

    fn owned(&mut self, owner: &Owner) -> Result<Vec<SessionId>, StoreError> {
        let grid = self.grid.clone();
        self.read("read the sessions", async |on| {
            let found = on
                .one(step!(
                    "SELECT uuid FROM omero_grid.session WHERE grid = $1 AND server = $2 AND epoch = $3 AND closed_ms IS NULL",
                    grid.clone(),
                    owner.server.clone(),
                    owner.epoch
                ))
                .await?;
            Ok(found.iter().filter_map(rows::uuid).collect())
        })
    }

    fn left_open(&mut self, server: &str, known: &[SessionId]) -> Result<LeftOpen, StoreError> {
        let (grid, server) = (self.grid.clone(), server.to_owned());
        let known: Vec<String> = known.iter().map(|id| id.reveal().to_string()).collect();
        self.read("read the sessions", async |on| {
            let names = || (grid.clone(), server.clone());
            let (grid, server) = names();
            let stopped = on
                .one(step!(
                    "SELECT stopped_ms FROM omero_grid.server WHERE grid = $1 AND id = $2",
                    grid,
                    server
                ))
                .await?;
            let (grid, server) = names();
            let sessions = on
                .one(step!(
                    concat!(
                        "SELECT ",
                        columns!(),
                        " FROM omero_grid.session WHERE grid = $1 AND server = $2 AND closed_ms IS NULL"
                    ),
                    grid,
                    server
                ))
                .await?;
            let (grid, server) = names();
            let gone = on
                .one(step!(
                    "SELECT uuid FROM omero_grid.session
                     WHERE grid = $1 AND uuid = ANY ($3) AND (closed_ms IS NOT NULL OR server <> $2)",
                    grid,
                    server,
                    known.clone()
                ))
                .await?;
            let stopped: Option<i64> = stopped.first().and_then(|row| row.get(0));
            Ok(LeftOpen {
                stopped_ms: stopped.map(unsigned),
                sessions: sessions.iter().filter_map(rows::session).collect(),
                gone: gone.iter().filter_map(rows::uuid).collect(),
            })
        })
    }
}

async fn in_transaction<T>(
    on: &mut Connected,
    work: impl AsyncFnOnce(&mut Connected) -> Result<T, Fault>,
) -> Result<T, Fault> {
    on.one(step!("BEGIN")).await?;
    match work(on).await {
        Ok(value) => {
            on.one(step!("COMMIT")).await?;
            Ok(value)
        }
        Err(fault) => {
            // A connection that is lost undoes it by itself.
            let _ = on.one(step!("ROLLBACK")).await;
            Err(fault)
        }
    }
}

/// Text as PostgreSQL takes it: it knows no character 0.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn references(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests;
