//! What may be written, as requests see it: refusals with the reason, and the word to the node when that changes.

use std::sync::Arc;

use tokio::sync::watch;

use super::repository::Standing;
use super::service::Blitz;
use crate::ipc::{Refusal, RefusalKind};

impl Blitz {
    /// Returns whose repository it waits for, if it does.
    pub(super) fn waits_for(&self) -> Option<String> {
        match &*self.repository.as_ref()?.standing().borrow() {
            Standing::Waiting(owner) => Some(owner.clone().unwrap_or_default()),
            Standing::ReadOnly | Standing::Owner => None,
        }
    }

    /// Tells that what can be written has changed, until `stop` becomes true.
    pub(super) async fn tell_read_only(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut read_only = self.read_only.clone();
        read_only.mark_unchanged();
        let mut standing = match &self.repository {
            Some(repository) => repository.standing(),
            None => watch::channel(Standing::ReadOnly).1,
        };
        loop {
            tokio::select! {
                // Cancel safe: all only read. Without a sender nothing changes any more.
                Ok(()) = read_only.changed() => self.hub.status(),
                Ok(()) = standing.changed() => self.hub.status(),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Refuses what changes the database of users, where that is read-only.
    pub(super) fn require_database(&self, what: &str) -> Result<(), Refusal> {
        match &self.read_only.borrow().db {
            None => Ok(()),
            Some(reason) => Err(Refusal::new(
                RefusalKind::Refused,
                format!(
                    "{} cannot {what}: its db is read-only: {reason}",
                    self.server
                ),
            )
            .hint("`omero-grid status` shows which Blitzes can")),
        }
    }

    /// Refuses what changes data, where the database or the repository is read-only.
    pub(super) fn require_writable(&self, what: &str) -> Result<(), Refusal> {
        self.require_database(what)?;
        match &self.read_only.borrow().repo {
            None => Ok(()),
            Some(reason) => Err(Refusal::new(
                RefusalKind::Refused,
                format!(
                    "{} cannot {what}: its repo is read-only: {reason}",
                    self.server
                ),
            )
            .hint("`omero-grid status` shows which Blitzes can")),
        }
    }
}
