//! The master's own store, `var/grid/state.db`: what is wanted, and who asked for it.
//!
//! One table of JSON documents, by kind and name. A change is on disk when [`StateDb::write`] returns.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::desired::{Change, Deployed, Desired, Held, Selection, Switch, Wish};
use crate::model::{NodeName, ServerId};

/// The version of the schema; a store of a later one is refused.
const SCHEMA: i64 = 1;

/// A state store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// It cannot be opened or made.
    #[error(
        "cannot open the grid's state {path}; check that its directory can be written and has room"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: rusqlite::Error,
    },
    /// Its directory cannot be made.
    #[error("cannot make the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Its content is damaged.
    #[error(
        "the grid's state {path} is damaged ({detail}); it is left as it is: restore it from a backup, or move it aside and deploy again"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// It was written by a later release.
    #[error(
        "the grid's state {path} was written by a later release (schema {found}, this one knows {SCHEMA}); use that release"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// A change cannot be written.
    #[error("cannot write the grid's state {path}; nothing was changed")]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: rusqlite::Error,
    },
}

/// The open store.
pub(crate) struct StateDb {
    path: PathBuf,
    connection: Connection,
}

impl StateDb {
    /// Opens the store, or makes it, and reads what is wanted.
    pub(crate) fn open(path: &Path) -> Result<(Self, Desired), StateError> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|source| StateError::Directory {
                path: dir.to_owned(),
                source,
            })?;
        }
        let connection = Connection::open(path).map_err(|source| StateError::Open {
            path: path.to_owned(),
            source,
        })?;
        let mut this = Self {
            path: path.to_owned(),
            connection,
        };
        this.prepare().map_err(|source| this.opening(source))?;
        let found: Option<i64> = this
            .connection
            .query_row("SELECT version FROM schema", [], |row| row.get(0))
            .optional()
            .map_err(|source| this.opening(source))?;
        if let Some(found) = found.filter(|found| *found > SCHEMA) {
            return Err(StateError::TooNew {
                path: this.path,
                found,
            });
        }
        let desired = this.read()?;
        Ok((this, desired))
    }

    fn prepare(&mut self) -> rusqlite::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let _ = std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600));
        self.connection.pragma_update(None, "journal_mode", "wal")?;
        self.connection.pragma_update(None, "synchronous", "full")?;
        let check: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                Some(check),
            ));
        }
        self.connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema (version INTEGER NOT NULL);
             INSERT INTO schema SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM schema);
             CREATE TABLE IF NOT EXISTS desired (
                 kind TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, name));
             CREATE TABLE IF NOT EXISTS generation (value INTEGER NOT NULL);
             INSERT INTO generation SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM generation);
             CREATE TABLE IF NOT EXISTS audit (
                 at_ms INTEGER NOT NULL, uid INTEGER NOT NULL, command TEXT NOT NULL);",
        )
    }

    /// Tells damage from other trouble at opening.
    fn opening(&self, source: rusqlite::Error) -> StateError {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match source.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => StateError::Corrupt {
                path: self.path.clone(),
                detail: source.to_string(),
            },
            _ => StateError::Open {
                path: self.path.clone(),
                source,
            },
        }
    }

    fn read(&self) -> Result<Desired, StateError> {
        let mut desired = Desired::default();
        let rows = self.rows().map_err(|source| self.opening(source))?;
        for (kind, name, document) in rows {
            desired.apply(self.change(&kind, &name, &document)?);
        }
        desired.generation = self
            .connection
            .query_row("SELECT value FROM generation", [], |row| {
                row.get::<_, i64>(0)
            })
            .map_err(|source| self.opening(source))?
            .unsigned_abs();
        Ok(desired)
    }

    fn rows(&self) -> rusqlite::Result<Vec<(String, String, String)>> {
        let mut statement = self
            .connection
            .prepare("SELECT kind, name, document FROM desired")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    }

    fn change(&self, kind: &str, name: &str, document: &str) -> Result<Change, StateError> {
        let node = || {
            name.parse::<NodeName>()
                .map_err(|e| self.corrupt(kind, name, &e))
        };
        let server = || {
            name.parse::<ServerId>()
                .map_err(|e| self.corrupt(kind, name, &e))
        };
        Ok(match kind {
            "application" => {
                Change::Application(Box::new(self.parse::<Deployed>(kind, name, document)?))
            }
            "selection" => Change::Selection(self.parse::<Selection>(kind, name, document)?),
            "node" => Change::Node(node()?, Some(self.parse::<Switch>(kind, name, document)?)),
            "server" => Change::Server(server()?, self.parse::<Wish>(kind, name, document)?),
            "held" => Change::Held(
                server()?,
                Some(Box::new(self.parse::<Held>(kind, name, document)?)),
            ),
            _ => return Err(self.corrupt(kind, name, &"unknown kind")),
        })
    }

    fn parse<T: DeserializeOwned>(
        &self,
        kind: &str,
        name: &str,
        document: &str,
    ) -> Result<T, StateError> {
        serde_json::from_str(document).map_err(|e| self.corrupt(kind, name, &e))
    }

    fn corrupt(&self, kind: &str, name: &str, detail: &dyn std::fmt::Display) -> StateError {
        StateError::Corrupt {
            path: self.path.clone(),
            detail: format!("{kind} {name:?}: {detail}"),
        }
    }

    /// Makes changes durable, all or none, together with who asked for them.
    pub(crate) fn write(
        &mut self,
        changes: &[Change],
        generation: u64,
        audit: Option<(u64, u32, &str)>,
    ) -> Result<(), StateError> {
        self.try_write(changes, generation, audit)
            .map_err(|source| StateError::Write {
                path: self.path.clone(),
                source,
            })
    }

    fn try_write(
        &mut self,
        changes: &[Change],
        generation: u64,
        audit: Option<(u64, u32, &str)>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for change in changes {
            let (kind, name, document) = match change {
                Change::Application(deployed) => (
                    "application",
                    deployed.deployment.application.as_str(),
                    Some(json(deployed)?),
                ),
                Change::Selection(selection) => ("selection", "", Some(json(selection)?)),
                Change::Node(node, switch) => (
                    "node",
                    node.as_str(),
                    switch.as_ref().map(json).transpose()?,
                ),
                Change::Server(server, wish) => ("server", server.as_str(), Some(json(wish)?)),
                Change::Held(server, held) => (
                    "held",
                    server.as_str(),
                    held.as_ref().map(json).transpose()?,
                ),
            };
            match document {
                Some(document) => transaction.execute(
                    "INSERT INTO desired VALUES (?1, ?2, ?3)
                     ON CONFLICT (kind, name) DO UPDATE SET document = excluded.document",
                    params![kind, name, document],
                )?,
                None => transaction.execute(
                    "DELETE FROM desired WHERE kind = ?1 AND name = ?2",
                    params![kind, name],
                )?,
            };
        }
        transaction.execute(
            "UPDATE generation SET value = ?1",
            [i64::try_from(generation).unwrap_or(i64::MAX)],
        )?;
        if let Some((at_ms, uid, command)) = audit {
            transaction.execute(
                "INSERT INTO audit VALUES (?1, ?2, ?3)",
                params![i64::try_from(at_ms).unwrap_or(i64::MAX), uid, command],
            )?;
        }
        transaction.commit()
    }
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::message::node::Goal;

    #[test]
    fn what_was_written_is_read_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("grid/state.db");
        let (mut db, mut desired) = StateDb::open(&path).unwrap();
        assert_eq!(desired, Desired::default());
        let changes = [
            Change::Node("backup".parse().unwrap(), Some(Switch::Started)),
            Change::Server(
                "Blitz-0".parse().unwrap(),
                Wish {
                    goal: Goal::Stopped,
                    enabled: false,
                },
            ),
            Change::Selection(Selection::All),
        ];
        db.write(&changes, 3, Some((1, 0, "test"))).unwrap();
        for change in changes {
            desired.apply(change);
        }
        assert_eq!(StateDb::open(&path).unwrap().1, desired);
        db.write(&[Change::Node("backup".parse().unwrap(), None)], 4, None)
            .unwrap();
        assert!(StateDb::open(&path).unwrap().1.nodes.is_empty());
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.db");
        let rubbish = "rubbish ".repeat(1000);
        std::fs::write(&path, &rubbish).unwrap();
        assert!(matches!(
            StateDb::open(&path),
            Err(StateError::Corrupt { .. })
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), rubbish);
    }
}
