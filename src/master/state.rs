//! The master's own store, `var/grid/state.db`: what is wanted, who asked for it, and what became of it.
//!
//! One table of JSON documents, by kind and name, and one of events. A change is on disk when [`StateDb::write`] returns.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::desired::{
    Change, Deployed, Desired, Drain, DynamicAdapter, DynamicObject, Held, Rollout, Selection,
    Switch, Wish,
};
use crate::ipc::message::client::GridEvent;
use crate::model::{NodeName, ServerId};
use crate::sys::clock;

/// The version of the schema; a store of a later one is refused.
const SCHEMA: i64 = 2;

/// How many events are kept.
const KEEP_EVENTS: i64 = 100_000;

/// Something that happened, to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happening {
    /// Who asked for it; `None` for what the grid did by itself.
    pub(crate) uid: Option<u32>,
    /// `command`, `refused`, `redirect`, `drain`, `rollout`, `server`, `node`, `session`, `upgrade`.
    pub(crate) kind: &'static str,
    /// What it happened to: a server, a node, or nothing in particular.
    pub(crate) subject: String,
    /// What happened, in words.
    pub(crate) text: String,
}

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

impl Happening {
    /// Makes the note of a command.
    pub(crate) fn command(uid: u32, text: impl Into<String>) -> Self {
        Self {
            uid: Some(uid),
            kind: "command",
            subject: String::new(),
            text: text.into(),
        }
    }
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
        this.upgrade().map_err(|source| this.opening(source))?;
        let desired = this.read()?;
        Ok((this, desired))
    }

    /// Reads a copy of the store in memory, brought up to this release, and so proves that it can be read.
    pub(crate) fn check(path: &Path) -> Result<(), StateError> {
        let open = |source| StateError::Open {
            path: path.to_owned(),
            source,
        };
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let from = Connection::open_with_flags(path, flags).map_err(open)?;
        let mut connection = Connection::open_in_memory().map_err(open)?;
        rusqlite::backup::Backup::new(&from, &mut connection)
            .and_then(|copy| copy.step(-1))
            .map_err(open)?;
        let mut this = Self {
            path: path.to_owned(),
            connection,
        };
        let found: i64 = this
            .connection
            .query_row("SELECT version FROM schema", [], |row| row.get(0))
            .map_err(|source| this.opening(source))?;
        if found > SCHEMA {
            return Err(StateError::TooNew {
                path: this.path,
                found,
            });
        }
        this.upgrade().map_err(|source| this.opening(source))?;
        this.read().map(drop)
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
             INSERT INTO schema SELECT 2 WHERE NOT EXISTS (SELECT 1 FROM schema);
             CREATE TABLE IF NOT EXISTS desired (
                 kind TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, name));
             CREATE TABLE IF NOT EXISTS generation (value INTEGER NOT NULL);
             INSERT INTO generation SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM generation);
             CREATE TABLE IF NOT EXISTS event (
                 id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, uid INTEGER,
                 kind TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL);",
        )
    }

    /// Brings a store of schema 1 to this one: what was the audit becomes events.
    fn upgrade(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let old: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'audit')",
            [],
            |row| row.get(0),
        )?;
        if old {
            transaction.execute_batch(
                "INSERT INTO event (at_ms, uid, kind, subject, text)
                     SELECT at_ms, uid, 'command', '', command FROM audit ORDER BY rowid;
                 DROP TABLE audit;
                 UPDATE schema SET version = 2;",
            )?;
        }
        transaction.commit()
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
            "in_place" => Change::InPlace(server()?, true),
            "drain" => Change::Drain(server()?, Some(self.parse::<Drain>(kind, name, document)?)),
            "rollout" => {
                Change::Rollout(Some(Box::new(self.parse::<Rollout>(kind, name, document)?)))
            }
            "redirect" => Change::Redirect(Some(self.parse::<ServerId>(kind, name, document)?)),
            "adapter" => Change::Adapter(
                name.to_owned(),
                Some(self.parse::<DynamicAdapter>(kind, name, document)?),
            ),
            "object" => Change::Object(
                name.to_owned(),
                Some(self.parse::<DynamicObject>(kind, name, document)?),
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

    /// Makes changes durable, all or none, together with what is to be noted of them.
    pub(crate) fn write(
        &mut self,
        changes: &[Change],
        generation: u64,
        happenings: &[Happening],
    ) -> Result<(), StateError> {
        self.try_write(changes, generation, happenings)
            .map_err(|source| self.writing(source))
    }

    /// Notes what happened.
    pub(crate) fn note(&mut self, happenings: &[Happening]) -> Result<(), StateError> {
        let note = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            note(&transaction, happenings)?;
            transaction.commit()
        };
        note(&mut self.connection).map_err(|source| self.writing(source))
    }

    /// Returns the events after `after` in order, at most `limit`; without `after` the last ones.
    pub(crate) fn events(
        &self,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<GridEvent>, StateError> {
        let read = || -> rusqlite::Result<Vec<GridEvent>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, at_ms, uid, kind, subject, text FROM (
                     SELECT * FROM event WHERE id > ?1 ORDER BY CASE WHEN ?3 THEN -id ELSE id END LIMIT ?2)
                 ORDER BY id",
            )?;
            let from = i64::try_from(after.unwrap_or(0)).unwrap_or(i64::MAX);
            statement
                .query_map(params![from, limit, after.is_none()], |row| {
                    Ok(GridEvent {
                        id: row.get::<_, i64>(0)?.unsigned_abs(),
                        at_ms: row.get::<_, i64>(1)?.unsigned_abs(),
                        uid: row.get(2)?,
                        kind: row.get(3)?,
                        subject: row.get(4)?,
                        text: row.get(5)?,
                    })
                })?
                .collect()
        };
        read().map_err(|source| self.opening(source))
    }

    fn writing(&self, source: rusqlite::Error) -> StateError {
        StateError::Write {
            path: self.path.clone(),
            source,
        }
    }

    fn try_write(
        &mut self,
        changes: &[Change],
        generation: u64,
        happenings: &[Happening],
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for change in changes {
            let (kind, name, document) = match change {
                Change::Application(deployed) => (
                    "application",
                    deployed.deployment.application.as_str(),
                    Some(json(deployed)?),
                ),
                Change::ApplicationRemoved(name) => ("application", name.as_str(), None),
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
                Change::InPlace(server, is) => (
                    "in_place",
                    server.as_str(),
                    is.then(|| json(&())).transpose()?,
                ),
                Change::Rollout(rollout) => {
                    ("rollout", "", rollout.as_ref().map(json).transpose()?)
                }
                Change::Drain(server, drain) => (
                    "drain",
                    server.as_str(),
                    drain.as_ref().map(json).transpose()?,
                ),
                Change::Redirect(redirect) => {
                    ("redirect", "", redirect.as_ref().map(json).transpose()?)
                }
                Change::Adapter(id, adapter) => (
                    "adapter",
                    id.as_str(),
                    adapter.as_ref().map(json).transpose()?,
                ),
                Change::Object(identity, object) => (
                    "object",
                    identity.as_str(),
                    object.as_ref().map(json).transpose()?,
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
        note(&transaction, happenings)?;
        transaction.commit()
    }
}

/// Adds events, and forgets the oldest beyond [`KEEP_EVENTS`].
fn note(connection: &Connection, happenings: &[Happening]) -> rusqlite::Result<()> {
    let at_ms = i64::try_from(clock::now().wall_ms).unwrap_or(i64::MAX);
    let mut insert = connection.prepare_cached(
        "INSERT INTO event (at_ms, uid, kind, subject, text) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for Happening {
        uid,
        kind,
        subject,
        text,
    } in happenings
    {
        insert.execute(params![at_ms, uid, kind, subject, text])?;
    }
    connection
        .prepare_cached("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?1")?
        .execute([KEEP_EVENTS])?;
    Ok(())
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Application, Deployment};
    use crate::ipc::message::client::{DescriptorSource, Then};
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
            Change::Redirect(Some("Blitz-1".parse().unwrap())),
            Change::Drain(
                "Blitz-0".parse().unwrap(),
                Some(Drain {
                    since_ms: 1,
                    until_ms: Some(2),
                    then: Then::Restart,
                    for_stop: false,
                    restarted_ms: None,
                }),
            ),
        ];
        let happening = |text: &str| Happening {
            uid: Some(0),
            kind: "command",
            subject: String::new(),
            text: text.to_owned(),
        };
        db.write(&changes, 5, &[happening("test")]).unwrap();
        for change in changes {
            desired.apply(change);
        }
        assert_eq!(StateDb::open(&path).unwrap().1, desired);
        let back = [
            Change::Node("backup".parse().unwrap(), None),
            Change::Redirect(None),
            Change::Drain("Blitz-0".parse().unwrap(), None),
        ];
        db.write(&back, 8, &[]).unwrap();
        let (_, desired) = StateDb::open(&path).unwrap();
        assert!(desired.nodes.is_empty() && desired.drains.is_empty());
        assert_eq!(desired.redirect, None);
        db.note(&[happening("second"), happening("third")]).unwrap();
        let texts = |after, limit| -> Vec<_> {
            let events = db.events(after, limit).unwrap();
            events.into_iter().map(|event| event.text).collect()
        };
        assert_eq!(texts(None, 2), ["second", "third"]);
        assert_eq!(texts(Some(1), 1), ["second"]);
        assert_eq!(texts(Some(3), 9), [""; 0]);
    }

    #[test]
    fn an_application_is_kept_with_its_definition_until_it_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.db");
        // As an earlier release wrote it.
        let old = format!(
            r#"{{"order":3,"source":{{"path":"/a.xml","shown":"a.xml","targets":[],"overrides":[]}},"deployment":{},"profile":[]}}"#,
            serde_json::to_string(&Deployment::default()).unwrap()
        );
        let old: Deployed = serde_json::from_str(&old).unwrap();
        assert_eq!(old.definition(), None);
        let application = Application {
            name: "A".to_owned(),
            ..Application::default()
        };
        let mut new = Deployed {
            source: DescriptorSource::of(application.clone(), "icegridadmin"),
            ..old
        };
        new.deployment.application = "A".to_owned();
        new.history.go_on("root", 5);
        new.history.go_on("me", 7);
        let (mut db, _) = StateDb::open(&path).unwrap();
        let change = Change::Application(Box::new(new));
        db.write(&[change], 1, &[]).unwrap();
        drop(db);
        let (mut db, desired) = StateDb::open(&path).unwrap();
        let found = &desired.applications["A"];
        assert_eq!(found.definition(), Some(&application));
        let history = &found.history;
        assert_eq!((history.created_ms, history.updated_ms), (5, 7));
        assert_eq!(
            (history.created_by.as_str(), history.updated_by.as_str()),
            ("root", "me")
        );
        assert_eq!((history.revision, history.uuid.len()), (2, 36));
        let change = Change::ApplicationRemoved("A".to_owned());
        db.write(&[change], 2, &[]).unwrap();
        assert!(StateDb::open(&path).unwrap().1.applications.is_empty());
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

    #[test]
    fn the_audit_of_an_older_release_becomes_events() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch(
                "CREATE TABLE schema (version INTEGER NOT NULL); INSERT INTO schema VALUES (1);
                 CREATE TABLE audit (at_ms INTEGER NOT NULL, uid INTEGER NOT NULL, command TEXT NOT NULL);
                 INSERT INTO audit VALUES (7, 1000, 'start');",
            )
            .unwrap();
        for _ in 0..2 {
            let (db, _) = StateDb::open(&path).unwrap();
            let events = db.events(None, 10).unwrap();
            assert_eq!(events.len(), 1);
            assert_eq!((events[0].at_ms, events[0].text.as_str()), (7, "start"));
        }
    }
}
