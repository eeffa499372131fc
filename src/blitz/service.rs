//! The state of a running Blitz and its timers: sessions in memory, what is still owed to the store, whether the store works.
//!
//! Memory follows the store: a session opens, is joined and is closed in memory once that is committed. Only a time-out takes effect in
//! memory first, so that a session whose time is over never answers; its end is owed to the store until it is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::clock::Clock;
use super::hub::Hub;
use super::images::Images;
use super::lease::Lease;
use super::login::Login;
use super::properties::Settings;
use super::repository::Repository;
use super::sessions::{Absent, Ended, Now, Sessions, idle_before};
use super::tasks::Tasks;
use super::values::Values;
use super::workshop::Workshop;
use crate::config::Paths;
use crate::ipc::message::blitz::{ReadOnly, ReadOnlyReason, Status};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{Accepting, ServerId, SessionId};
use crate::store::{Adopted, CallError, Outcome, Reason, SessionRow, StoreHandle, Write};
use crate::telemetry::{self, chain};

/// How long accesses gather before they are written, and how long a failing store is left alone.
const FLUSH: Duration = Duration::from_secs(10);

/// Owed writes tried at once.
const MAX_OWED_AT_ONCE: usize = 4096;

/// A running Blitz.
pub(crate) struct Blitz {
    /// For those who outlive a call without keeping the Blitz alive.
    pub(super) me: Weak<Self>,
    pub(super) server: ServerId,
    /// Drawn at each start of the process.
    pub(super) uuid: String,
    pub(super) paths: Paths,
    settings: watch::Sender<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) store: StoreHandle,
    pub(super) lease: Lease,
    pub(super) login: Arc<Login>,
    /// Why what cannot be written cannot.
    pub(super) read_only: watch::Receiver<ReadOnlyReason>,
    pub(super) repository: Option<Arc<Repository>>,
    pub(super) images: Option<Arc<Images>>,
    pub(super) workshop: Arc<Workshop>,
    pub(super) values: Values,
    pub(super) hub: Hub,
    pub(super) tasks: Tasks,
    core: Mutex<Core>,
    /// Wakes the timers when something is due earlier than they know.
    wake: Notify,
    /// Becomes true when a later life of this server has taken over.
    superseded: watch::Sender<bool>,
}

/// What changes while a Blitz runs. Locked for moments only, never across an await.
#[derive(Default)]
struct Core {
    sessions: Sessions,
    /// Ends that could not be written yet: at most those of the sessions that were open when the store failed.
    owed: Vec<Write>,
    /// Why the last write failed.
    failing: Option<String>,
    flush_at: Option<Duration>,
    /// No new sessions are taken.
    draining: bool,
    /// Sessions that were taken up at the start.
    resumed: u64,
    /// Sessions of users that are being opened.
    opening: u64,
    /// What the timers sleep until.
    armed: Option<Duration>,
}

impl Core {
    fn next(&self) -> Option<Duration> {
        self.sessions
            .next_expiry()
            .into_iter()
            .chain(self.flush_at)
            .min()
    }
}

/// What a Blitz is made of.
pub(super) struct Parts {
    pub(super) server: ServerId,
    pub(super) uuid: String,
    pub(super) paths: Paths,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) store: StoreHandle,
    pub(super) lease: Lease,
    pub(super) login: Login,
    pub(super) read_only: watch::Receiver<ReadOnlyReason>,
    pub(super) repository: Option<Arc<Repository>>,
    pub(super) images: Option<Arc<Images>>,
    pub(super) workshop: Arc<Workshop>,
}

impl Blitz {
    /// Makes a Blitz without sessions.
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            server: parts.server,
            uuid: parts.uuid,
            paths: parts.paths,
            settings: watch::Sender::new(Arc::new(parts.settings)),
            clock: parts.clock,
            store: parts.store,
            lease: parts.lease,
            login: Arc::new(parts.login),
            read_only: parts.read_only,
            repository: parts.repository,
            images: parts.images,
            workshop: parts.workshop,
            values: Values::default(),
            hub: Hub::default(),
            tasks: Tasks::default(),
            core: Mutex::default(),
            wake: Notify::new(),
            superseded: watch::channel(false).0,
        })
    }

    /// Takes up the sessions of the life before. Those whose time is over are closed.
    pub(super) async fn resume(self: &Arc<Self>, adopted: Adopted) {
        let now = self.clock.now();
        let end = adopted.stopped_ms.or_else(|| {
            let accesses = adopted.sessions.iter().map(|row| row.last_access_ms);
            accesses.max()
        });
        let ended = {
            let mut core = self.core();
            for row in adopted.sessions {
                let idle = idle_before(&row, end.unwrap_or(row.last_access_ms));
                let internal = self.settings().is_internal(&row.event, &row.agent);
                core.sessions.insert(row, internal, idle, now);
            }
            core.sessions.expire(now)
        };
        let resumed = {
            let mut core = self.core();
            core.resumed = core.sessions.len() as u64;
            core.resumed
        };
        if resumed > 0 || !ended.is_empty() {
            info!(server = %self.server, resumed, timed_out = ended.len(), "took up sessions");
        }
        self.timed_out(ended).await;
    }

    /// Returns the settings as they are now.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Returns what tells when they have changed.
    pub(super) fn settings_changes(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Takes other values for what may change while it runs; what began with the old ones keeps them.
    pub(super) fn configure(&self, live: BTreeMap<String, String>) -> Result<(), Refusal> {
        let mut outcome = Ok(());
        self.settings.send_if_modified(|settings| {
            let changed = match settings.with(live) {
                Ok(changed) => changed,
                Err(error) => {
                    outcome = Err(Refusal::new(RefusalKind::Invalid, chain(&error)));
                    return false;
                }
            };
            let differs = **settings != changed;
            if differs {
                if settings.log_level != changed.log_level {
                    telemetry::set_filter(changed.log_level.as_deref().unwrap_or("info"));
                }
                info!(server = %self.server, "took up changed properties");
                *settings = Arc::new(changed);
            }
            differs
        });
        outcome
    }

    /// Returns how the Blitz is.
    pub(super) fn status(&self) -> Status {
        let reasons = self.read_only.borrow().clone();
        let core = self.core();
        Status {
            uuid: self.uuid.clone(),
            sessions: core.sessions.len() as u64,
            internal: core.sessions.internal() as u64,
            accepting: match (&core.failing, core.draining) {
                (Some(_), false) => Accepting::No,
                (None, false) => Accepting::Yes,
                (_, true) if core.sessions.of_users() == 0 && core.opening == 0 => {
                    Accepting::Drained
                }
                (_, true) => Accepting::Draining,
            },
            read_only: ReadOnly {
                db: reasons.db.is_some(),
                repo: reasons.repo.is_some(),
            },
            resumed: core.resumed,
            read_only_reason: reasons,
            waits_for_repository: self.waits_for(),
        }
    }

    /// Reads or changes the sessions, and sees to the timers afterwards.
    pub(super) fn with_sessions<T>(&self, change: impl FnOnce(&mut Sessions, Now) -> T) -> T {
        let now = self.clock.now();
        let mut core = self.core();
        let result = change(&mut core.sessions, now);
        if core.flush_at.is_none() && core.sessions.has_accessed() {
            core.flush_at = Some(now.mono + FLUSH);
        }
        self.arm(&core);
        result
    }

    /// Looks a session up, which counts as access; refuses with the reason why it is not there.
    pub(super) async fn access(
        self: &Arc<Self>,
        uuid: SessionId,
    ) -> Result<crate::ipc::message::blitz::Session, Refusal> {
        match self.with_sessions(|sessions, now| sessions.access(uuid, now)) {
            Ok(session) => Ok(session),
            Err(Absent::Unknown) if self.load(uuid).await? => {
                match self.with_sessions(|sessions, now| sessions.access(uuid, now)) {
                    Ok(session) => Ok(session),
                    Err(absent) => Err(self.absent(uuid, absent).await),
                }
            }
            Err(absent) => Err(self.absent(uuid, absent).await),
        }
    }

    /// Says why a look-up had no result, and sees to the end of what has timed out.
    pub(super) async fn absent(self: &Arc<Self>, uuid: SessionId, absent: Absent) -> Refusal {
        match absent {
            Absent::Unknown => self.missing(uuid).await,
            Absent::Moving => moving(uuid),
            Absent::TimedOut(ended) => {
                let refusal = gone(uuid, ended.reason, ended.limit);
                self.ended_in_background(vec![ended]);
                refusal
            }
        }
    }

    /// Says why a session is not here.
    pub(super) async fn missing(&self, uuid: SessionId) -> Refusal {
        match self.store.session(uuid).await {
            Ok(None) => Refusal::new(
                RefusalKind::NotFound,
                format!("there is no open session {uuid}"),
            ),
            Ok(Some(found)) => match found.ended {
                Some(reason) => {
                    let limit = match reason {
                        Reason::Idle => found.row.time_to_idle_ms,
                        Reason::Lived => found.row.time_to_live_ms,
                        Reason::Closed | Reason::Left | Reason::Drained => 0,
                    };
                    gone(uuid, reason, Duration::from_millis(limit))
                }
                None if found.server != self.server.as_str() => Refusal::new(
                    RefusalKind::NotFound,
                    format!("session {uuid} is not here but on {}", found.server),
                ),
                None => Refusal::new(RefusalKind::NotFound, format!("session {uuid} has ended")),
            },
            Err(error) => Refusal::new(
                RefusalKind::NotFound,
                format!("session {uuid} is not here, and the store cannot say why: {error}"),
            ),
        }
    }

    /// Writes durably. Notes whether the store works, and tells it when that changes.
    pub(super) async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Outcome>, Refusal> {
        let result = self.store.write(writes).await;
        self.note_store(result.as_ref().err());
        let outcomes = result.map_err(store_refusal)?;
        if outcomes.contains(&Outcome::Superseded) {
            self.supersede();
        }
        Ok(outcomes)
    }

    /// Ends this Blitz: a later life of its server has taken over.
    pub(super) fn supersede(&self) {
        self.superseded.send_replace(true);
    }

    /// Notes whether the store works, and tells it when that changes.
    pub(super) fn note_store(&self, error: Option<&CallError>) {
        let changed = {
            let mut core = self.core();
            let before = core.failing.is_some();
            match error {
                None => core.failing = None,
                Some(error) => {
                    core.failing = Some(error.to_string());
                    let now = self.clock.now();
                    core.flush_at.get_or_insert(now.mono + FLUSH);
                    self.arm(&core);
                }
            }
            before != core.failing.is_some()
        };
        if changed {
            match error {
                None => info!(server = %self.server, "the store works again"),
                Some(error) => {
                    warn!(server = %self.server, %error, "the store fails; no new sessions until it works again");
                }
            }
            self.hub.status();
        }
    }

    /// Writes one change durably.
    pub(super) async fn commit_one(&self, write: Write) -> Result<Outcome, Refusal> {
        let mut outcomes = self.commit(vec![write]).await?;
        outcomes
            .pop()
            .ok_or_else(|| Refusal::new(RefusalKind::Failed, "the store gave no answer"))
    }

    /// Notes in memory that a session is open, and tells it.
    pub(super) fn opened(&self, row: SessionRow) {
        let uuid = row.uuid;
        let internal = self.settings().is_internal(&row.event, &row.agent);
        self.with_sessions(|sessions, now| sessions.insert(row, internal, Duration::ZERO, now));
        debug!(server = %self.server, session = %uuid, "opened a session");
        self.hub.opened(uuid);
    }

    /// Notes in memory that a session has ended, and tells it.
    pub(super) fn closed(&self, uuid: SessionId, reason: Reason) -> Option<Ended> {
        let ended = self.with_sessions(|sessions, _| sessions.remove(uuid, reason))?;
        debug!(server = %self.server, session = %uuid, reason = reason.as_str(), "a session ended");
        self.hub.closed(&[uuid]);
        Some(ended)
    }

    /// Runs the timers until `stop` becomes true; a write under way is finished first.
    ///
    /// There is no timer while nothing can time out and nothing is to be written.
    pub(super) async fn run_timers(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let next = {
                let mut core = self.core();
                core.armed = core.next();
                core.armed
            };
            let due = async {
                match next {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Cancel safe: sleeping loses nothing, `wait_for` only reads, and a permit of `notified` stays if it is not taken.
                () = due => {}
                () = self.wake.notified() => continue,
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let now = self.clock.now();
            let (ended, flush) = {
                let mut core = self.core();
                let flush = core.flush_at.is_some_and(|at| at <= now.mono);
                (core.sessions.expire(now), flush)
            };
            self.timed_out(ended).await;
            if flush {
                self.flush().await;
            }
        }
    }

    /// Writes what has gathered: accesses, ends that are owed; proves by writing that a failing store works again.
    pub(super) async fn flush(&self) {
        let now = self.clock.now();
        let (accesses, owed, failing) = {
            let mut core = self.core();
            core.flush_at = None;
            let keep = core.owed.len().saturating_sub(MAX_OWED_AT_ONCE);
            let owed = core.owed.split_off(keep);
            if keep > 0 {
                core.flush_at = Some(now.mono + FLUSH);
            }
            (
                core.sessions.take_accessed(now),
                owed,
                core.failing.is_some(),
            )
        };
        let mut writes = owed.clone();
        writes.extend(
            accesses
                .iter()
                .map(|&(uuid, at_ms)| Write::Access { uuid, at_ms }),
        );
        if writes.is_empty() {
            if !failing {
                return;
            }
            writes.push(Write::Probe);
        }
        match self.commit(writes).await {
            Ok(outcomes) => {
                let accessed = outcomes.iter().skip(owed.len());
                for (&(uuid, _), outcome) in accesses.iter().zip(accessed) {
                    if *outcome == Outcome::Lost {
                        self.lost(uuid);
                    }
                }
            }
            Err(_) => {
                let mut core = self.core();
                core.owed.extend(owed);
                core.sessions
                    .put_back_accessed(accesses.into_iter().map(|(uuid, _)| uuid));
            }
        }
    }

    /// Drops a session that the store says is another server's, or closed.
    pub(super) fn lost(&self, uuid: SessionId) {
        if self.closed(uuid, Reason::Closed).is_some() {
            warn!(server = %self.server, session = %uuid, "the store no longer has this session open here; dropped it");
        }
    }

    /// Ends in good order: everything begun is finished, accesses and the moment are written. Closes no session.
    pub(super) async fn stop(&self) -> Result<(), Refusal> {
        self.tasks.finish().await;
        self.flush().await;
        let at_ms = self.clock.now().wall_ms;
        self.commit_one(Write::Stopped { at_ms }).await.map(drop)
    }

    /// Tells when a later life of this server has taken over.
    pub(super) fn superseded(&self) -> watch::Receiver<bool> {
        self.superseded.subscribe()
    }

    /// Writes the ends of sessions that are out of memory already, beside whatever goes on.
    fn ended_in_background(self: &Arc<Self>, ended: Vec<Ended>) {
        let blitz = self.clone();
        let writes = self.tell_ended(&ended);
        let owed = writes.clone();
        if !self
            .tasks
            .spawn(async move { blitz.write_ends(writes).await })
        {
            self.owe(owed);
        }
    }

    async fn timed_out(&self, ended: Vec<Ended>) {
        if !ended.is_empty() {
            let writes = self.tell_ended(&ended);
            self.write_ends(writes).await;
        }
    }

    fn tell_ended(&self, ended: &[Ended]) -> Vec<Write> {
        let ids: Vec<SessionId> = ended.iter().map(|end| end.uuid).collect();
        debug!(server = %self.server, sessions = ids.len(), "sessions timed out");
        self.hub.closed(&ids);
        let at_ms = self.clock.now().wall_ms;
        ended
            .iter()
            .map(|end| Write::Close {
                uuid: end.uuid,
                at_ms,
                reason: end.reason,
            })
            .collect()
    }

    async fn write_ends(&self, writes: Vec<Write>) {
        if self.commit(writes.clone()).await.is_err() {
            self.owe(writes);
        }
    }

    fn owe(&self, writes: Vec<Write>) {
        let mut core = self.core();
        core.owed.extend(writes);
        let at = self.clock.now().mono + FLUSH;
        core.flush_at.get_or_insert(at);
        self.arm(&core);
    }

    /// Lets a session be opened here, or says why not. What is being opened counts until the value is dropped.
    pub(super) fn admit(self: &Arc<Self>, internal: bool) -> Result<Admission, Refusal> {
        let mut core = self.core();
        if core.draining {
            let message = format!("{} takes no new sessions: it is being drained", self.server);
            return Err(Refusal::new(RefusalKind::Unavailable, message)
                .hint(format!("omero-grid undrain {}", self.server)));
        }
        if !internal {
            let users = core.sessions.of_users() as u64 + core.opening;
            if let Some(max) = self.settings().max_sessions.filter(|max| users >= *max) {
                let message = format!(
                    "{} has {users} sessions; omero.grid.sessions.max is {max}",
                    self.server
                );
                return Err(Refusal::new(RefusalKind::Unavailable, message).hint("try again later"));
            }
            core.opening += 1;
        }
        drop(core);
        Ok(Admission {
            blitz: self.clone(),
            internal,
        })
    }

    /// Returns why the store fails, if it does.
    pub(super) fn failing(&self) -> Option<String> {
        let core = self.core();
        let why = core.failing.as_ref()?;
        Some(format!("the store of {} fails: {why}", self.server))
    }

    /// Returns whether it is to take no new sessions.
    pub(super) fn is_draining(&self) -> bool {
        self.core().draining
    }

    /// Takes no new sessions, or takes them again.
    pub(super) fn set_draining(&self, draining: bool) {
        let changed = {
            let mut core = self.core();
            std::mem::replace(&mut core.draining, draining) != draining
        };
        if changed {
            info!(server = %self.server, draining, "told whether to take new sessions");
            self.hub.status();
        }
    }

    /// Wakes the timers if something is due earlier than they sleep.
    fn arm(&self, core: &Core) {
        if let Some(next) = core.next()
            && core.armed.is_none_or(|armed| next < armed)
        {
            self.wake.notify_one();
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to open a session.
pub(super) struct Admission {
    blitz: Arc<Blitz>,
    internal: bool,
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.internal {
            let draining = {
                let mut core = self.blitz.core();
                core.opening -= 1;
                core.draining
            };
            if draining {
                self.blitz.hub.status();
            }
        }
    }
}

/// Says that the store did not do what was asked of it; one that is away may be back, or be there for another Blitz.
pub(super) fn store_refusal(error: CallError) -> Refusal {
    let kind = match error {
        CallError::Away(_) => RefusalKind::Unavailable,
        CallError::Failed(_) | CallError::Closed => RefusalKind::Failed,
    };
    Refusal::new(kind, error.to_string())
}

/// Says that a session is on its way to another Blitz.
pub(super) fn moving(uuid: SessionId) -> Refusal {
    Refusal::new(
        RefusalKind::Unavailable,
        format!("session {uuid} is being moved to another Blitz"),
    )
    .hint("try again")
}

/// Says how a session ended.
pub(super) fn gone(uuid: SessionId, reason: Reason, limit: Duration) -> Refusal {
    let seconds = limit.as_secs_f64();
    let message = match reason {
        Reason::Idle => format!("session {uuid} has timed out (idle for more than {seconds} s)"),
        Reason::Lived => format!("session {uuid} has timed out (open for more than {seconds} s)"),
        Reason::Closed => format!("session {uuid} has been closed"),
        Reason::Left => format!("session {uuid} has ended (nobody was left in it)"),
        Reason::Drained => {
            format!("session {uuid} has been closed: its Blitz was drained, and the deadline came")
        }
    };
    Refusal::new(RefusalKind::NotFound, message).hint("open a new session")
}
