//! Who may write the repository: the one that holds its lock.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::catalogue::{Catalogue, Entry, is_below, sync_dir};
use super::{Repository, failed, make_ours, of_catalogue};
use crate::ipc::{Refusal, RefusalKind};
use crate::sys::watch::Arrivals;

/// The pause after a lock that could not be had for another reason than its owner.
const RETRY: Duration = Duration::from_secs(5);

/// Whether this Blitz owns the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::blitz) enum Standing {
    /// It only reads it.
    ReadOnly,
    /// Another one owns it: its name, where that is known.
    Waiting(Option<String>),
    /// It does.
    Owner,
}

/// What is in the file `owner`.
#[derive(Debug, Serialize, Deserialize)]
struct Named {
    server: String,
    pid: u32,
}

impl Repository {
    /// Owns the repository whenever it may be written and nobody else does, for as long as it is let.
    pub(in crate::blitz) async fn keep(self: Arc<Self>) {
        let mut reasons = self.reasons.clone();
        loop {
            self.stand(Standing::ReadOnly);
            if reasons
                .wait_for(|reasons| reasons.repo.is_none())
                .await
                .is_err()
            {
                return;
            }
            let this = self.clone();
            let lock = tokio::select! {
                // Cancel safe: the thread that waits for the lock lets go of it when nobody wants it any more.
                lock = this.acquire() => lock,
                _ = reasons.wait_for(|reasons| reasons.repo.is_some()) => continue,
                never = self.follow() => match never {},
            };
            let _lock = match lock {
                Ok(lock) => lock,
                Err(error) => {
                    warn!(server = %self.server, %error, "cannot own the repository");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            info!(server = %self.server, path = %self.managed.display(), "owns the repository");
            self.stand(Standing::Owner);
            if reasons
                .wait_for(|reasons| reasons.repo.is_some())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Keeps account of whose the repository is while this Blitz waits for it: an owner says so only after it has the lock, and may be
    /// followed by another one.
    async fn follow(self: &Arc<Self>) -> Infallible {
        let mut standing = self.standing();
        let waits = standing.wait_for(|standing| matches!(standing, Standing::Waiting(_)));
        // Without a sender there is nobody to tell either.
        if waits.await.is_err() {
            return std::future::pending().await;
        }
        let place = self.ours("owner");
        let dir = place.parent().unwrap_or(&self.managed);
        let Ok(arrivals) = Arrivals::watch(dir) else {
            return std::future::pending().await;
        };
        loop {
            // What it says is noted; that it cannot be read now is no news.
            let _ = self.run(|repository| Ok(repository.owner())).await;
            if arrivals.next().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|known| {
            let differs = *known != standing;
            *known = standing;
            differs
        });
    }

    /// Returns whose the repository is, as its owner has noted it last.
    pub(in crate::blitz) fn owner(&self) -> Option<String> {
        let text = fs::read_to_string(self.ours("owner")).ok()?;
        let named: Named = serde_json::from_str(&text).ok()?;
        self.standing.send_if_modified(|known| match known {
            Standing::Waiting(owner) if owner.as_ref() != Some(&named.server) => {
                *owner = Some(named.server.clone());
                true
            }
            _ => false,
        });
        Some(named.server)
    }

    /// Waits for the lock and makes good what the owner before has left.
    async fn acquire(self: Arc<Self>) -> Result<File, Refusal> {
        let (answer, answered) = oneshot::channel();
        std::thread::Builder::new()
            .name("repository-lock".to_owned())
            .spawn(move || {
                let lock = self.lock(|| answer.is_closed());
                // If nobody wants it any more, the file is closed with the message.
                let _ = answer.send(lock);
            })
            .map_err(|error| Refusal::new(RefusalKind::Failed, format!("no thread: {error}")))?;
        answered
            .await
            .unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Failed, "the thread has failed")))
    }

    /// Blocks until the lock is held.
    fn lock(&self, unwanted: impl Fn() -> bool) -> Result<File, Refusal> {
        let path = self.ours("lock");
        let fail = |error: io::Error| failed("lock", &path, &error);
        make_ours(&self.ours("incoming")).map_err(fail)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(fail(error)),
            Err(TryLockError::WouldBlock) => {
                self.stand(Standing::Waiting(None));
                let owner = self.owner();
                info!(server = %self.server, owner, "waits for the repository");
                lock.lock().map_err(fail)?;
            }
        }
        if unwanted() {
            return Ok(lock);
        }
        self.begin_to_own()?;
        Ok(lock)
    }

    fn begin_to_own(&self) -> Result<(), Refusal> {
        let named = Named {
            server: self.server.to_string(),
            pid: std::process::id(),
        };
        let path = self.ours("owner");
        let making = self.ours("owner.new");
        fs::write(&making, serde_json::to_string(&named).unwrap_or_default())
            .and_then(|()| fs::rename(&making, &path))
            .map_err(|error| failed("write", &path, &error))?;
        let mut catalogue = self.catalogue();
        catalogue.own().map_err(of_catalogue)?;
        let incoming = self.ours("incoming");
        self.sweep(&incoming, &catalogue)
            .map_err(|error| failed("clear", &incoming, &error))
    }

    /// Removes what the owner before was doing when it ended.
    fn sweep(&self, incoming: &Path, catalogue: &Catalogue) -> io::Result<()> {
        for entry in fs::read_dir(incoming)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "note")
            {
                let noted = fs::read_to_string(&path)?;
                if is_below(Path::new(&noted)) && !catalogue.has_path(&noted) {
                    info!(
                        file = noted,
                        "removes a file that was not imported, or was deleted"
                    );
                    remove_with_parents(&self.managed, &noted)?;
                }
            }
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// Takes a file out of the list and then off the disk.
    pub(super) fn remove(&self, catalogue: &mut Catalogue, entry: &Entry) -> Result<(), Refusal> {
        let path = self.managed.join(&entry.path);
        let note = self
            .note(&entry.path)
            .map_err(|error| failed("note that it is deleted", &path, &error))?;
        catalogue.delete(entry.id).map_err(of_catalogue)?;
        remove_with_parents(&self.managed, &entry.path)
            .and_then(|()| fs::remove_file(&note))
            .map_err(|error| failed("remove", &path, &error))
    }

    /// Notes a path that is to be removed if it is not in the list after a crash.
    pub(super) fn note(&self, path: &str) -> io::Result<PathBuf> {
        let note = self
            .ours("incoming")
            .join(format!("{}.note", uuid::Uuid::new_v4()));
        let mut file = File::create_new(&note)?;
        io::Write::write_all(&mut file, path.as_bytes())?;
        file.sync_all()?;
        sync_dir(&note)?;
        Ok(note)
    }
}

/// Removes a file, and the directories above it that are empty then.
pub(super) fn remove_with_parents(managed: &Path, path: &str) -> io::Result<()> {
    match fs::remove_file(managed.join(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for parent in Path::new(path).ancestors().skip(1) {
        // Others may have files there; then it stays.
        if parent.as_os_str().is_empty() || fs::remove_dir(managed.join(parent)).is_err() {
            break;
        }
    }
    Ok(())
}
