//! The lease of a Blitz whose store is shared with other machines: it answers for its sessions only while it knows that nobody else may.
//!
//! The store counts a lease from when it has renewed it, the Blitz from before it asked for that, on a clock that goes on while the
//! machine sleeps: so the Blitz's own idea of it always ends first. A lease that had run out proves nothing about what happened
//! meanwhile: sessions in memory are compared with the rows before anything is answered again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::service::{Blitz, store_refusal};
use crate::ipc::{Refusal, RefusalKind};
use crate::sys::clock::since_boot;

/// The first pause after a renewal that failed; it doubles up to that between renewals.
const RETRY: Duration = Duration::from_millis(100);

/// A lease; one that never ends where the kernel holds it with the process.
pub(super) struct Lease {
    length: Option<Duration>,
    /// Until when it is held, in milliseconds since the machine has started; 0 while memory may differ from the rows.
    until: AtomicU64,
}

impl Lease {
    /// Takes note of a lease that was asked for at `asked`, by [`since_boot`].
    pub(super) fn new(length: Option<Duration>, asked: Duration) -> Self {
        let this = Self {
            length,
            until: AtomicU64::new(0),
        };
        this.hold(asked);
        this
    }

    /// Returns whether the Blitz may answer for its sessions.
    pub(super) fn is_held(&self) -> bool {
        self.length.is_none() || millis(since_boot()) < self.until.load(Ordering::Acquire)
    }

    fn hold(&self, asked: Duration) {
        let until = asked + self.length.unwrap_or_default();
        self.until.store(millis(until), Ordering::Release);
    }

    fn let_go(&self) {
        self.until.store(0, Ordering::Release);
    }
}

impl Blitz {
    /// Refuses what concerns sessions while others might answer for them.
    pub(super) fn require_lease(&self) -> Result<(), Refusal> {
        if self.lease.is_held() {
            return Ok(());
        }
        let message = format!(
            "{} has lost touch with the database of the sessions and answers for none until it has found them again",
            self.server
        );
        Err(Refusal::new(RefusalKind::Unavailable, message)
            .hint("try again; 'omero-grid status' says why"))
    }

    /// Renews the lease until `stop` becomes true or a later life of this server has taken over.
    pub(super) async fn keep_lease(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(length) = self.lease.length else {
            return;
        };
        let pause = length / 3;
        let (mut wait, mut retry) = (pause, RETRY);
        loop {
            tokio::select! {
                // Cancel safe: sleeping loses nothing, and `wait_for` only reads.
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let asked = since_boot();
            let renewed = self.store.renew().await;
            self.note_store(renewed.as_ref().err());
            match renewed {
                Ok(renewed) if !renewed.held => {
                    self.lease.let_go();
                    self.supersede();
                    return;
                }
                Ok(renewed) => {
                    // Whether others might have taken sessions counts at the moment of the answer, not at that of the question.
                    if renewed.doubt || !self.lease.is_held() {
                        self.lease.let_go();
                        if let Err(refusal) = self.compare().await {
                            warn!(server = %self.server, %refusal, "cannot compare the sessions with the store");
                            wait = retry;
                            continue;
                        }
                    }
                    self.lease.hold(asked);
                    (wait, retry) = (pause, RETRY);
                }
                Err(_) => {
                    wait = retry;
                    retry = (retry * 2).min(pause);
                }
            }
        }
    }

    /// Makes memory follow the rows: drops what is not one's own any more, takes up what is.
    async fn compare(self: &Arc<Self>) -> Result<(), Refusal> {
        // In this order: what is opened meanwhile is in neither, what ends meanwhile is dropped twice.
        let before = self.with_sessions(|sessions, _| sessions.all());
        let owned = self.store.owned().await.map_err(store_refusal)?;
        let owned: std::collections::HashSet<_> = owned.into_iter().collect();
        let mut dropped = 0;
        for uuid in before.iter().filter(|uuid| !owned.contains(uuid)) {
            self.lost(*uuid);
            dropped += 1;
        }
        let known: std::collections::HashSet<_> = before.into_iter().collect();
        let mut found = 0;
        for uuid in owned.difference(&known) {
            found += u64::from(self.load(*uuid).await?);
        }
        info!(server = %self.server, dropped, found, "compared the sessions with the store");
        Ok(())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for() {
        let second = Duration::from_secs(1);
        assert!(Lease::new(None, Duration::ZERO).is_held());
        let now = since_boot();
        let lease = Lease::new(Some(60 * second), now);
        assert!(lease.is_held());
        lease.let_go();
        assert!(!lease.is_held());
        lease.hold(now);
        assert!(lease.is_held());
        assert!(!Lease::new(Some(second), now.saturating_sub(2 * second)).is_held());
    }
}
