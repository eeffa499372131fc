//! A store of which a Blitz may write all, or only its sessions: those of read-only Blitzes are in the grid's own state (DESIGN.md §8).
//!
//! Two layers: the *main* store, which everybody shares, and beside it the *kept* sessions, a file of the grid. A Blitz that may write
//! the main store keeps everything there, and brings home what it finds of its own among the kept ones. One that may only read it takes
//! users from it and copies its open sessions to the kept ones, which count from then on. So a session survives a crash in either mode
//! and every change between them.
//!
//! No session has two owners: whoever moves one from layer to layer first owns it in the layer that it leaves, and a copy whose
//! original has ended or moved meanwhile is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Adopted, Found, Outcome, Owner, Renewed, SessionRow, Sqlite, Store, StoreError, UserRow, Write,
};
use super::{LeftOpen, sqlite::now_ms};
use crate::model::SessionId;

/// Tells whether a server holds its lease.
type Leases = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A main store with kept sessions beside it.
pub struct Layered {
    main: Box<dyn Store>,
    reads_only: bool,
    kept: Kept,
}

/// The kept sessions: no file until somebody keeps one.
struct Kept {
    path: PathBuf,
    leases: Leases,
    open: Option<(Sqlite, Owner)>,
    server: String,
    process: String,
}

impl Layered {
    /// Lays a main store over the kept sessions at `kept`. With `reads_only` the main store is never written.
    ///
    /// `leases` tells whether a server of this machine lives; kept sessions do not leave the machine.
    pub fn new(
        main: Box<dyn Store>,
        reads_only: bool,
        kept: &Path,
        leases: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            main,
            reads_only,
            kept: Kept {
                path: kept.to_owned(),
                leases: Arc::new(leases),
                open: None,
                server: String::new(),
                process: String::new(),
            },
        }
    }

    /// Begins a life that only reads the main store.
    fn adopt_kept(&mut self, server: &str) -> Result<Adopted, StoreError> {
        let mut adopted = self.kept.begin()?;
        let known: Vec<SessionId> = adopted.sessions.iter().map(|row| row.uuid).collect();
        let left = self.main.left_open(server, &known)?;
        self.kept.forget(&left.gone)?;
        let mut writes = Vec::new();
        adopted
            .sessions
            .retain(|row| !left.gone.contains(&row.uuid));
        for row in left.sessions {
            // What ended while it was kept is not open again because the main store could not be told.
            if self.kept.find(row.uuid)?.is_none() {
                writes.push(self.kept.restore(&row));
                adopted.sessions.push(row);
            }
        }
        self.kept.write(&writes)?;
        adopted.stopped_ms = adopted.stopped_ms.or(left.stopped_ms);
        Ok(adopted)
    }

    /// Begins a life that writes the main store: brings home what was kept.
    fn adopt_main(&mut self, server: &str, process: &str) -> Result<Adopted, StoreError> {
        let mut adopted = self.main.adopt(server, process)?;
        if !self.kept.exists() {
            return Ok(adopted);
        }
        let kept = self.kept.begin()?;
        let mut ended = Vec::new();
        for row in &adopted.sessions {
            let reason = self.kept.find(row.uuid)?.and_then(|found| found.ended);
            ended.extend(reason.map(|reason| (row.uuid, reason)));
        }
        let mut home: Vec<Write> = ended
            .iter()
            .map(|&(uuid, reason)| Write::Close {
                uuid,
                at_ms: now_ms(),
                reason,
            })
            .collect();
        home.extend(kept.sessions.iter().map(|row| self.kept.restore(row)));
        if home.is_empty() {
            return Ok(adopted);
        }
        let outcomes = self.main.write(&adopted.owner, &home)?;
        adopted
            .sessions
            .retain(|row| !ended.iter().any(|(uuid, _)| *uuid == row.uuid));
        for (row, outcome) in kept.sessions.iter().zip(&outcomes[ended.len()..]) {
            if *outcome == Outcome::Done {
                adopted.sessions.retain(|known| known.uuid != row.uuid);
                adopted.sessions.push(row.clone());
            }
        }
        let home: Vec<SessionId> = kept.sessions.iter().map(|row| row.uuid).collect();
        self.kept.forget(&home)?;
        adopted.stopped_ms = kept.stopped_ms.or(adopted.stopped_ms);
        Ok(adopted)
    }

    /// Returns whether a write cannot be done without writing the main store: of users, and the gift of a session that is there too,
    /// where it would go on being this Blitz's.
    fn needs_main(&mut self, write: &Write) -> Result<bool, StoreError> {
        match write {
            Write::AddUser { .. } | Write::SetHash { .. } => Ok(true),
            Write::Give { uuid, .. } => {
                let found = self.main.session(*uuid)?;
                Ok(found.is_some_and(|found| found.ended.is_none()))
            }
            _ => Ok(false),
        }
    }

    /// Returns whether a session was given to this Blitz among the kept ones.
    fn is_given(&mut self, uuid: SessionId) -> Result<bool, StoreError> {
        let found = self.kept.find(uuid)?.filter(|found| found.ended.is_none());
        Ok(!self.reads_only && found.is_some_and(|found| found.server == self.kept.server))
    }

    /// Takes a session that is open in the other layer.
    fn take_across(&mut self, owner: &Owner, uuid: SessionId) -> Result<Outcome, StoreError> {
        if self.reads_only {
            // It was given to this Blitz by one that writes the main store.
            let given = self
                .main
                .session(uuid)?
                .filter(|found| found.ended.is_none() && found.server == self.kept.server);
            let Some(found) = given else {
                return Ok(Outcome::Lost);
            };
            let restore = self.kept.restore(&found.row);
            return Ok(match self.kept.write(&[restore])?.pop() {
                Some(Outcome::Done) => Outcome::Taken {
                    from: found.server,
                    row: Box::new(found.row),
                },
                other => other.unwrap_or(Outcome::Lost),
            });
        }
        if !self.kept.exists() {
            return Ok(Outcome::Lost);
        }
        // Owned there first, so that of several who try one succeeds.
        let taken = self.kept.write(&[Write::Take { uuid }])?.pop();
        let Some(Outcome::Taken { from, row }) = taken else {
            return Ok(taken.unwrap_or(Outcome::Lost));
        };
        let restore = Write::Restore {
            row: row.as_ref().clone(),
            from: from.clone(),
        };
        let restored = self.main.write(owner, &[restore])?.pop();
        self.kept.forget(&[uuid])?;
        Ok(match restored {
            Some(Outcome::Done) => Outcome::Taken { from, row },
            other => other.unwrap_or(Outcome::Lost),
        })
    }
}

impl Kept {
    fn exists(&self) -> bool {
        self.open.is_some() || self.path.exists()
    }

    /// Opens the file, made where there is none, and begins a life of the server in it.
    fn begin(&mut self) -> Result<Adopted, StoreError> {
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent).map_err(|source| StoreError::File {
                path: parent.to_owned(),
                source,
            })?;
        }
        let leases = self.leases.clone();
        let mut file = Sqlite::create(&self.path)?.with_leases(move |server| leases(server));
        let adopted = file.adopt(&self.server, &self.process)?;
        self.open = Some((file, adopted.owner.clone()));
        Ok(adopted)
    }

    /// Returns the file; `None` if nobody has ever kept a session.
    fn get(&mut self) -> Result<Option<&mut (Sqlite, Owner)>, StoreError> {
        if self.open.is_none() && self.path.exists() {
            self.begin()?;
        }
        Ok(self.open.as_mut())
    }

    fn find(&mut self, uuid: SessionId) -> Result<Option<Found>, StoreError> {
        match self.get()? {
            Some((file, _)) => file.session(uuid),
            None => Ok(None),
        }
    }

    fn by_token(&mut self, token: &str) -> Result<Option<Found>, StoreError> {
        match self.get()? {
            Some((file, _)) => file.by_token(token),
            None => Ok(None),
        }
    }

    /// Returns what makes one's own session one's own in the other layer.
    fn restore(&self, row: &SessionRow) -> Write {
        Write::Restore {
            row: row.clone(),
            from: self.server.clone(),
        }
    }

    fn forget(&mut self, uuids: &[SessionId]) -> Result<(), StoreError> {
        match self.open.as_mut().filter(|_| !uuids.is_empty()) {
            Some((file, _)) => file.forget(uuids),
            None => Ok(()),
        }
    }

    fn write(&mut self, writes: &[Write]) -> Result<Vec<Outcome>, StoreError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        if self.open.is_none() {
            self.begin()?;
        }
        let Some((file, owner)) = self.open.as_mut() else {
            return Ok(vec![Outcome::Lost; writes.len()]);
        };
        for write in writes {
            match write {
                Write::Open { row, .. } | Write::Restore { row, .. } => {
                    file.mention_user(row.user_id, &row.user)?;
                }
                Write::Give { to, .. } => file.mention_server(to)?,
                _ => {}
            }
        }
        file.write(owner, writes)
    }
}

impl Store for Layered {
    fn adopt(&mut self, server: &str, process: &str) -> Result<Adopted, StoreError> {
        self.kept.server = server.to_owned();
        self.kept.process = process.to_owned();
        if self.reads_only {
            self.adopt_kept(server)
        } else {
            self.adopt_main(server, process)
        }
    }

    fn write(&mut self, owner: &Owner, writes: &[Write]) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes = if self.reads_only {
            let mut refused = Vec::with_capacity(writes.len());
            let mut allowed = Vec::with_capacity(writes.len());
            for write in writes {
                refused.push(self.needs_main(write)?);
                allowed.extend(refused.ends_with(&[false]).then(|| write.clone()));
            }
            let mut done = self.kept.write(&allowed)?.into_iter();
            refused
                .into_iter()
                .map(|refused| match refused {
                    true => Outcome::ReadOnly,
                    false => done.next().unwrap_or(Outcome::Lost),
                })
                .collect()
        } else {
            self.main.write(owner, writes)?
        };
        for (write, outcome) in writes.iter().zip(&mut outcomes) {
            // A reader that has given a session away is still named as its owner by the main store, which it cannot write.
            if let Write::Take { uuid } = write
                && match outcome {
                    Outcome::Lost => true,
                    Outcome::Held { .. } => self.is_given(*uuid)?,
                    _ => false,
                }
            {
                *outcome = self.take_across(owner, *uuid)?;
            }
        }
        Ok(outcomes)
    }

    fn user(&mut self, name: &str) -> Result<Option<UserRow>, StoreError> {
        self.main.user(name)
    }

    fn users(&mut self) -> Result<Vec<UserRow>, StoreError> {
        self.main.users()
    }

    fn session(&mut self, uuid: SessionId) -> Result<Option<Found>, StoreError> {
        match self.kept.find(uuid)? {
            Some(found) if self.reads_only => Ok(Some(found)),
            kept => Ok(newest(self.main.session(uuid)?, kept)),
        }
    }

    fn by_token(&mut self, token: &str) -> Result<Option<Found>, StoreError> {
        match self.kept.by_token(token)? {
            Some(found) if self.reads_only => Ok(Some(found)),
            kept => Ok(newest(self.main.by_token(token)?, kept)),
        }
    }

    fn lease(&self) -> Option<Duration> {
        // Kept sessions are held by the lock of the server on this machine.
        self.main.lease().filter(|_| !self.reads_only)
    }

    fn renew(&mut self, owner: &Owner) -> Result<Renewed, StoreError> {
        if self.reads_only {
            return Ok(Renewed {
                held: true,
                doubt: false,
            });
        }
        self.main.renew(owner)
    }

    fn owned(&mut self, owner: &Owner) -> Result<Vec<SessionId>, StoreError> {
        match self.kept.open.as_mut().filter(|_| self.reads_only) {
            Some((file, owner)) => file.owned(owner),
            None => self.main.owned(owner),
        }
    }

    fn left_open(&mut self, server: &str, known: &[SessionId]) -> Result<LeftOpen, StoreError> {
        self.main.left_open(server, known)
    }
}

/// Returns what counts of a session that may be in both layers: an open copy, but for one whose original another server has taken.
fn newest(main: Option<Found>, kept: Option<Found>) -> Option<Found> {
    match (main, kept) {
        (Some(main), Some(kept)) if kept.ended.is_none() => {
            let taken = main.ended.is_none() && main.server != kept.server;
            Some(if taken { main } else { kept })
        }
        (main, kept) => main.or(kept),
    }
}

#[cfg(test)]
#[path = "layered_tests.rs"]
mod tests;
