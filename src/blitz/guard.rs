//! Watches over what of a Blitz can be written: probes at the start and then in turn, and publishes the reasons for what cannot.
//!
//! Without a property for it, `omero.cluster.read_only.db` and `.repo` say only what is wanted; what is possible shows when something is
//! written. What follows from a change is up to those who hear of it: the Blitz itself goes on with another store, or refuses files.

use std::ffi::OsString;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::probe::{Prober, Target};
use super::properties::ReadOnlySettings;
use super::read_only::{Change, Resource};
use crate::ipc::message::blitz::ReadOnlyReason;
use crate::model::ServerId;

/// How soon after a write that failed the next one is tried.
const SOON: Duration = Duration::from_secs(5);

/// Keeps account of one Blitz.
pub(super) struct Guard {
    server: ServerId,
    every: Option<Duration>,
    db: Watched,
    /// `None` where there is no repository.
    repo: Option<Watched>,
    reasons: watch::Sender<ReadOnlyReason>,
}

struct Watched {
    target: Target,
    resource: Resource,
    /// `None` in a Blitz that is not to probe.
    prober: Option<Prober>,
}

impl Guard {
    /// Probes for the first time. `probe` is how this program is called to probe; without it only properties count.
    pub(super) async fn begin(
        server: ServerId,
        settings: &ReadOnlySettings,
        has_repository: bool,
        probe: Option<&[OsString]>,
    ) -> Self {
        let watched = |target: Target, property: Option<&str>| Watched {
            target,
            resource: Resource::new(property.map(str::to_owned), settings.recovers),
            prober: probe.map(|arguments| Prober::new(target, arguments)),
        };
        let mut this = Self {
            server,
            every: settings.probe,
            db: watched(Target::Db, settings.db),
            repo: has_repository.then(|| watched(Target::Repo, settings.repo)),
            reasons: watch::Sender::default(),
        };
        this.look().await;
        let ReadOnlyReason { db, repo } = this.reasons.borrow().clone();
        let state = |reason: Option<String>| {
            reason.map_or_else(
                || "read-write".to_owned(),
                |why| format!("read-only: {why}"),
            )
        };
        info!(server = %this.server, db = state(db), repo = state(repo), "read-only status");
        this
    }

    /// Tells why what cannot be written cannot, now and after each change.
    pub(super) fn reasons(&self) -> watch::Receiver<ReadOnlyReason> {
        self.reasons.subscribe()
    }

    /// Probes for as long as it is let.
    pub(super) async fn watch(mut self) {
        let Some(every) = self.every.filter(|_| self.is_probed()) else {
            return std::future::pending().await;
        };
        loop {
            let failing = self.db.resource.is_failing()
                || self
                    .repo
                    .as_ref()
                    .is_some_and(|repo| repo.resource.is_failing());
            tokio::time::sleep(if failing { every.min(SOON) } else { every }).await;
            self.look().await;
        }
    }

    fn is_probed(&self) -> bool {
        let probed = |watched: &Watched| watched.prober.is_some() && watched.resource.is_probed();
        probed(&self.db) || self.repo.as_ref().is_some_and(probed)
    }

    async fn look(&mut self) {
        let look_at_repo = async {
            if let Some(repo) = &mut self.repo {
                repo.look(&self.server).await;
            }
        };
        tokio::join!(self.db.look(&self.server), look_at_repo);
        let reasons = ReadOnlyReason {
            db: self.db.resource.reason(),
            repo: self.repo.as_ref().and_then(|repo| repo.resource.reason()),
        };
        self.reasons.send_if_modified(|known| {
            let differs = *known != reasons;
            *known = reasons;
            differs
        });
    }
}

impl Watched {
    async fn look(&mut self, server: &ServerId) {
        let Some(prober) = self.prober.as_mut().filter(|_| self.resource.is_probed()) else {
            return;
        };
        let change = self.resource.note(prober.probe().await);
        let what = self.target.as_str();
        let reason = self.resource.reason().unwrap_or_default();
        match change {
            Change::None => {}
            Change::ReadOnly => {
                warn!(%server, what, reason, "not configured to be read-only, but is from now on");
            }
            Change::Writable => info!(%server, what, "can be written again"),
            Change::CouldBeWritten => {
                info!(%server, what, "could be written again; stays read-only until the server is restarted");
            }
            Change::Tolerated(reason) => warn!(%server, what, reason, "a trial write failed"),
        }
    }
}
