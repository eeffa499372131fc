//! What an administrator does with the database: make the tables, look at them, bring users in.

use tokio_postgres::error::SqlState;

use super::link::{Connected, Fault, step};
use super::schema::{GRANTS, INIT_LOCK, MIGRATIONS, VERSION};
use super::{Postgres, in_transaction, int, text, unsigned};
use crate::store::choice::PostgresChoice;
use crate::store::{Counts, ROOT, ROOT_ID, Store as _, StoreError, UserRow};

/// The first right that a Blitz needs and its role does not have.
const MISSING: &str = "
    SELECT current_user::text, privilege, tab FROM (VALUES ('server'), ('session')) AS t (tab),
        (VALUES (1, 'INSERT'), (2, 'UPDATE'), (3, 'DELETE')) AS p (place, privilege)
    WHERE NOT has_table_privilege('omero_grid.' || tab, privilege) ORDER BY tab DESC, place LIMIT 1";

/// A write that meets nobody else's rows.
const PROBE: &str = "
    INSERT INTO omero_grid.server (grid, id, epoch, process, started_ms, lease_until, lease_place)
    VALUES ('', 'probe ' || pg_backend_pid(), 0, '', 0, clock_timestamp(), '')";

impl Postgres {
    /// Makes the tables, or brings them to this release's version, and lets `grant_to` use them. Returns whether anything was made.
    pub fn init(
        choice: &PostgresChoice,
        grant_to: Option<&str>,
        process: &str,
    ) -> Result<bool, StoreError> {
        let mut this = Self::prepare(choice, "", process)?;
        this.read("make the tables", async |on| {
            in_transaction(on, async |on| init(on, grant_to).await).await
        })
    }

    /// Writes what a Blitz writes and takes it back. Returns why the database does not let this role write, `None` if it does.
    pub(in crate::store) fn probe(
        choice: &PostgresChoice,
        process: &str,
    ) -> Result<Option<String>, StoreError> {
        let mut this = Self::open(choice, "", process)?;
        this.read("write", async |on| {
            let role = on.one(step!(MISSING)).await?;
            if let Some(row) = role.first() {
                let (role, right, table): (String, String, String) =
                    (row.get(0), row.get(1), row.get(2));
                return Ok(Some(format!(
                    "the role {role} has no {right} on omero_grid.{table}"
                )));
            }
            on.one(step!("BEGIN")).await?;
            let written = on.one(step!(PROBE)).await;
            match written {
                Ok(_) => on.one(step!("ROLLBACK")).await.map(|_| None),
                Err(Fault::Refused(error)) => {
                    on.one(step!("ROLLBACK")).await?;
                    match error.code() {
                        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => Ok(Some(
                            "the database takes no writes: it is a standby, or default_transaction_read_only is on"
                                .to_owned(),
                        )),
                        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(Some(
                            error
                                .as_db_error()
                                .map_or_else(|| error.to_string(), |db| db.message().to_owned()),
                        )),
                        _ => Err(Fault::Refused(error)),
                    }
                }
                Err(fault) => Err(fault),
            }
        })
    }

    /// Refuses a database without our tables, or with those of another release.
    pub(super) fn check_version(&mut self) -> Result<(), StoreError> {
        let version = self.read("look at the tables", version)?;
        let at = || self.link.server().to_string();
        match version {
            Some(VERSION) => Ok(()),
            Some(found) if found > VERSION => Err(StoreError::NewerSchema {
                at: at(),
                found,
                known: VERSION,
            }),
            _ => Err(StoreError::NoSchema { at: at() }),
        }
    }

    /// Adds user `root` if there is no user at all and users are the grid's own. `prepare` makes the hash.
    pub(in crate::store) fn add_root(
        &mut self,
        now_ms: u64,
        prepare: impl FnOnce() -> Result<String, StoreError>,
    ) -> Result<bool, StoreError> {
        let any = "SELECT 1 FROM omero_grid.account LIMIT 1";
        let looked = async |on: &mut Connected| Ok(!on.one(step!(any)).await?.is_empty());
        if self.omero.is_some() || self.read("look for users", looked)? {
            return Ok(false);
        }
        let hash = prepare()?;
        // Two first starts at once may both come to here; the second one's password is worth nothing.
        let added = self.read("add user root", async |on| {
            on.one(step!(
                "INSERT INTO omero_grid.account (id, name, hash, admin, changed_ms) VALUES ($1, $2, $3, true, $4)
                 ON CONFLICT DO NOTHING RETURNING 1",
                int(ROOT_ID),
                ROOT.to_owned(),
                hash.clone(),
                int(now_ms)
            ))
            .await
        })?;
        Ok(!added.is_empty())
    }

    /// Counts what is there, of this grid.
    pub fn counts(&mut self) -> Result<Counts, StoreError> {
        let grid = self.grid.clone();
        let users = self.users()?.len() as u64;
        let (open, closed) = self.read("count the sessions", async |on| {
            let open = "SELECT server, count(*) FROM omero_grid.session WHERE grid = $1 AND closed_ms IS NULL GROUP BY server ORDER BY server";
            let closed = "SELECT count(*) FROM omero_grid.session WHERE grid = $1 AND closed_ms IS NOT NULL";
            let open = on.one(step!(open, grid.clone())).await?;
            let closed = on.one(step!(closed, grid.clone())).await?;
            let open = open
                .iter()
                .map(|row| (row.get(0), unsigned(row.get(1))))
                .collect();
            Ok((open, closed.first().map_or(0, |row| unsigned(row.get(0)))))
        })?;
        Ok(Counts {
            schema: i64::from(VERSION),
            users,
            open,
            closed,
        })
    }

    /// Adds users as they are, all or none; `replace` those of the same name, whose numbers stay.
    pub(in crate::store) fn import_users(
        &mut self,
        users: &[UserRow],
        replace: bool,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        if self.omero.is_some() {
            return Err(StoreError::ForeignUsers);
        }
        let there = self.users()?;
        crate::store::import::check(users, &there, replace)?;
        self.read("import the users", async |on| {
            in_transaction(on, async |on| {
                for user in users {
                    on.one(step!(
                        "INSERT INTO omero_grid.account AS a (id, name, hash, admin, changed_ms) VALUES ($1, $2, $3, $4, $5)
                         ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, admin = excluded.admin, changed_ms = excluded.changed_ms",
                        int(user.id),
                        text(&user.name),
                        user.hash.as_deref().map(text),
                        user.admin,
                        int(now_ms)
                    ))
                    .await?;
                }
                Ok(())
            })
            .await
        })
    }
}

async fn version(on: &mut Connected) -> Result<Option<i32>, Fault> {
    match on.one(step!("SELECT version FROM omero_grid.meta")).await {
        Ok(rows) => Ok(rows.first().map(|row| row.get(0))),
        Err(Fault::Refused(error))
            if error.code().is_some_and(|state| {
                [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(state)
            }) =>
        {
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

async fn init(on: &mut Connected, grant_to: Option<&str>) -> Result<bool, Fault> {
    on.one(step!("SELECT pg_advisory_xact_lock($1)", INIT_LOCK))
        .await?;
    let there = on
        .one(step!("SELECT to_regclass('omero_grid.meta') IS NOT NULL"))
        .await?;
    let there = there.first().is_some_and(|row| row.get(0));
    let version = if there {
        version(on).await?.unwrap_or(0)
    } else {
        0
    };
    let missing = MIGRATIONS
        .iter()
        .skip(usize::try_from(version).unwrap_or(0));
    let mut made = false;
    for migration in missing {
        on.execute(migration).await?;
        made = true;
    }
    if made {
        let set = "UPDATE omero_grid.meta SET version = $1";
        on.one(step!(set, VERSION)).await?;
    }
    if let Some(role) = grant_to {
        let role = role.replace('"', "\"\"");
        for grant in GRANTS {
            on.execute(&format!("{grant} \"{role}\"")).await?;
        }
    }
    Ok(made)
}
