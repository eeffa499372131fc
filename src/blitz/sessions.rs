//! The open sessions of one Blitz, as a value: opens, joins, leaves, times out. No I/O and no clock of its own.
//!
//! Idle time is measured by a monotonic clock, the length of a life by the wall clock (`omero.md` §2.6, as far as a session that
//! outlives its process allows). A session is looked at by its deadline at each look-up, so none that has timed out ever answers; the
//! queue of deadlines only says when to look unasked. An access moves no entry of the queue: an entry that comes up early is put back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::ipc::message::blitz as message;
use crate::model::SessionId;
use crate::store::{Reason, SessionRow};

/// The time, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Since some moment long before this process, by a clock that never steps.
    pub(crate) mono: Duration,
    /// Milliseconds since 1970, by a clock that may be set.
    pub(crate) wall_ms: u64,
}

impl Now {
    fn wall_of(self, mono: Duration) -> u64 {
        self.wall_ms
            .saturating_sub(millis(self.mono.saturating_sub(mono)))
    }
}

/// The open sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: BTreeMap<SessionId, Session>,
    /// When to look at which session; exactly one entry for each that can time out.
    queue: BTreeSet<(Duration, SessionId)>,
    /// Those accessed since their last access was last written.
    accessed: BTreeSet<SessionId>,
    /// One copy of each user's name.
    names: HashMap<u64, Arc<str>>,
    /// How many of the open ones are internal.
    internal: usize,
}

#[derive(Debug)]
struct Session {
    user: Arc<str>,
    agent: Box<str>,
    ip: Box<str>,
    group: Box<str>,
    /// A service opened it for itself: nobody waits for it.
    internal: bool,
    /// It is being handed to another Blitz, and answers nothing meanwhile.
    moving: bool,
    started_ms: u64,
    last_access: Duration,
    time_to_idle_ms: u64,
    time_to_live_ms: u64,
    references: u32,
    queued: Option<Duration>,
}

/// A session that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The session.
    pub(crate) uuid: SessionId,
    /// Its user's name.
    pub(crate) user: Arc<str>,
    /// Why it ended.
    pub(crate) reason: Reason,
    /// The limit that it reached, if it timed out; otherwise zero.
    pub(crate) limit: Duration,
}

/// A look-up without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absent {
    /// There is no such session here.
    Unknown,
    /// It has timed out just now: it is taken out, and its end is still to be written.
    TimedOut(Ended),
    /// It is being handed to another Blitz.
    Moving,
}

impl Sessions {
    /// Returns how many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Returns how many of the open ones services opened for themselves.
    pub(crate) fn internal(&self) -> usize {
        self.internal
    }

    /// Returns how many of the open ones are of users.
    pub(crate) fn of_users(&self) -> usize {
        self.open.len() - self.internal
    }

    /// Adds a session that is durable; `idle` is how long it has been idle already. False if it is there.
    pub(crate) fn insert(
        &mut self,
        row: SessionRow,
        internal: bool,
        idle: Duration,
        now: Now,
    ) -> bool {
        if self.open.contains_key(&row.uuid) {
            return false;
        }
        self.internal += usize::from(internal);
        let user = self
            .names
            .entry(row.user_id)
            .or_insert_with(|| row.user.into())
            .clone();
        let session = Session {
            user,
            agent: row.agent.into(),
            ip: row.ip.into(),
            group: row.group.into(),
            internal,
            moving: false,
            started_ms: row.started_ms,
            last_access: now.mono.saturating_sub(idle),
            time_to_idle_ms: row.time_to_idle_ms,
            time_to_live_ms: row.time_to_live_ms,
            references: row.references,
            queued: None,
        };
        self.open.insert(row.uuid, session);
        self.enqueue(row.uuid, now);
        true
    }

    /// Looks a session up, which counts as access.
    pub(crate) fn access(&mut self, uuid: SessionId, now: Now) -> Result<message::Session, Absent> {
        self.check(uuid, now)?;
        let session = self.open.get_mut(&uuid).ok_or(Absent::Unknown)?;
        session.last_access = session.last_access.max(now.mono);
        self.accessed.insert(uuid);
        Ok(session.view(uuid, now))
    }

    /// Looks a session up without counting as access; returns its user's name.
    pub(crate) fn look(&mut self, uuid: SessionId, now: Now) -> Result<Arc<str>, Absent> {
        self.check(uuid, now)?;
        let session = self.open.get(&uuid).ok_or(Absent::Unknown)?;
        Ok(session.user.clone())
    }

    /// Returns a session as it is told to others; not an access.
    pub(crate) fn view(&self, uuid: SessionId, now: Now) -> Option<message::Session> {
        self.open.get(&uuid).map(|s| s.view(uuid, now))
    }

    /// Notes that a reference was added.
    pub(crate) fn joined(&mut self, uuid: SessionId) {
        if let Some(session) = self.open.get_mut(&uuid) {
            session.references = session.references.saturating_add(1);
        }
    }

    /// Notes that a reference was taken away; the end is noted by [`Self::remove`].
    pub(crate) fn left(&mut self, uuid: SessionId) {
        if let Some(session) = self.open.get_mut(&uuid) {
            session.references = session.references.saturating_sub(1);
        }
    }

    /// Takes a session out.
    pub(crate) fn remove(&mut self, uuid: SessionId, reason: Reason) -> Option<Ended> {
        let session = self.open.remove(&uuid)?;
        self.internal -= usize::from(session.internal);
        self.accessed.remove(&uuid);
        if let Some(at) = session.queued {
            self.queue.remove(&(at, uuid));
        }
        let limit = match reason {
            Reason::Idle => session.time_to_idle_ms,
            Reason::Lived => session.time_to_live_ms,
            Reason::Closed | Reason::Left | Reason::Drained => 0,
        };
        Some(Ended {
            uuid,
            user: session.user,
            reason,
            limit: Duration::from_millis(limit),
        })
    }

    /// Sets a session apart, to be handed to another Blitz: until [`Self::remove`] or [`Self::stay`] it answers nothing. Returns its last
    /// access, milliseconds since 1970.
    pub(crate) fn set_apart(&mut self, uuid: SessionId, now: Now) -> Result<u64, Absent> {
        self.check(uuid, now)?;
        let session = self.open.get_mut(&uuid).ok_or(Absent::Unknown)?;
        session.moving = true;
        Ok(now.wall_of(session.last_access))
    }

    /// Takes back that a session is handed to another Blitz.
    pub(crate) fn stay(&mut self, uuid: SessionId, now: Now) {
        if let Some(session) = self.open.get_mut(&uuid) {
            session.moving = false;
            if let Some(at) = session.queued.take() {
                self.queue.remove(&(at, uuid));
            }
            self.enqueue(uuid, now);
        }
    }

    /// Notes a new life limit.
    pub(crate) fn shorten(&mut self, uuid: SessionId, time_to_live_ms: u64, now: Now) {
        if let Some(session) = self.open.get_mut(&uuid) {
            session.time_to_live_ms = time_to_live_ms;
            if let Some(at) = session.queued.take() {
                self.queue.remove(&(at, uuid));
            }
            self.enqueue(uuid, now);
        }
    }

    /// Returns the sessions of users, those idle for the longest first; only those of `user` if given.
    pub(crate) fn idlest(&self, user: Option<&str>) -> Vec<SessionId> {
        let sessions = self.open.iter();
        let mut found: Vec<(Duration, SessionId)> = sessions
            .filter(|(_, session)| match user {
                Some(user) => session.user.as_ref() == user,
                None => !session.internal,
            })
            .map(|(uuid, session)| (session.last_access, *uuid))
            .collect();
        found.sort();
        found.into_iter().map(|(_, uuid)| uuid).collect()
    }

    /// Returns every session.
    pub(crate) fn all(&self) -> Vec<SessionId> {
        self.open.keys().copied().collect()
    }

    /// Returns what a drain has to wait for.
    pub(crate) fn outlook(&self, now: Now) -> message::Outlook {
        let mut outlook = message::Outlook {
            internal: self.internal as u64,
            end_if_unused_ms: Some(now.wall_ms),
            last_end_ms: Some(now.wall_ms),
            ..message::Outlook::default()
        };
        let later = |a: Option<u64>, b: Option<u64>| Some(a?.max(b?));
        for session in self.open.values().filter(|session| !session.internal) {
            let idle_ms = millis(now.mono.saturating_sub(session.last_access));
            let limit = |ms: u64, at: u64| (ms > 0).then(|| at.saturating_add(ms));
            let lived = limit(session.time_to_live_ms, session.started_ms);
            let unused = limit(session.time_to_idle_ms, now.wall_ms.saturating_sub(idle_ms));
            let end = unused.into_iter().chain(lived).min();
            outlook.sessions += 1;
            outlook.used_last_minute += u64::from(idle_ms < 60_000);
            outlook.endless += u64::from(lived.is_none());
            outlook.longest_idle_ms = outlook.longest_idle_ms.max(idle_ms);
            outlook.next_end_ms = outlook.next_end_ms.into_iter().chain(end).min();
            outlook.end_if_unused_ms = later(outlook.end_if_unused_ms, end);
            outlook.last_end_ms = later(outlook.last_end_ms, lived);
        }
        outlook
    }

    /// Takes out every session whose time is over.
    pub(crate) fn expire(&mut self, now: Now) -> Vec<Ended> {
        let mut ended = Vec::new();
        while let Some(&(at, uuid)) = self.queue.first()
            && at <= now.mono
        {
            self.queue.pop_first();
            if let Some(session) = self.open.get_mut(&uuid) {
                session.queued = None;
            }
            match self.check(uuid, now) {
                Err(Absent::TimedOut(end)) => ended.push(end),
                // Accessed meanwhile, or the wall clock was set back.
                Ok(()) => self.enqueue(uuid, now),
                // One that stays after all is looked at again then.
                Err(Absent::Unknown | Absent::Moving) => {}
            }
        }
        ended
    }

    /// Returns when to call [`Self::expire`] next, by the monotonic clock.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Returns whether there are accesses to be written.
    pub(crate) fn has_accessed(&self) -> bool {
        !self.accessed.is_empty()
    }

    /// Takes the accesses that are to be written: session and milliseconds since 1970.
    pub(crate) fn take_accessed(&mut self, now: Now) -> Vec<(SessionId, u64)> {
        std::mem::take(&mut self.accessed)
            .into_iter()
            .filter_map(|uuid| {
                let session = self.open.get(&uuid)?;
                Some((uuid, now.wall_of(session.last_access)))
            })
            .collect()
    }

    /// Puts back accesses that could not be written.
    pub(crate) fn put_back_accessed(&mut self, uuids: impl IntoIterator<Item = SessionId>) {
        for uuid in uuids {
            if self.open.contains_key(&uuid) {
                self.accessed.insert(uuid);
            }
        }
    }

    /// Returns the sessions after `after` that are meant, in the order of their UUIDs, at most `limit`, and whether there are more.
    pub(crate) fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        filter: &message::Filter,
        now: Now,
    ) -> (Vec<message::Session>, bool) {
        let mut rest = self
            .after(after)
            .map(|(&uuid, session)| session.view(uuid, now))
            .filter(|session| {
                let user = filter.user.as_ref();
                session.idle_ms >= filter.idle_ms && user.is_none_or(|user| *user == session.user)
            });
        let page = rest.by_ref().take(limit).collect();
        (page, rest.next().is_some())
    }

    /// Returns the ids after `after` in order, at most `limit`, and whether there are more.
    pub(crate) fn ids(&self, after: Option<SessionId>, limit: usize) -> (Vec<SessionId>, bool) {
        let mut rest = self.after(after);
        let page = rest.by_ref().take(limit).map(|(&uuid, _)| uuid).collect();
        (page, rest.next().is_some())
    }

    /// Returns the first session whose UUID begins so, and how many do.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Option<(SessionId, usize)> {
        const ZERO: &str = "00000000-0000-0000-0000-000000000000";
        let prefix = prefix.to_ascii_lowercase();
        let first = format!("{prefix}{}", ZERO.get(prefix.len()..)?);
        let first = SessionId::parse(&first)?;
        let mut found = self
            .open
            .range(first..)
            .map(|(&uuid, _)| uuid)
            .take_while(|uuid| uuid.reveal().starts_with(&prefix));
        let one = found.next()?;
        Some((one, 1 + found.count()))
    }

    fn after(&self, after: Option<SessionId>) -> impl Iterator<Item = (&SessionId, &Session)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.open.range((from, Bound::Unbounded))
    }

    /// Takes a session out if its time is over.
    fn check(&mut self, uuid: SessionId, now: Now) -> Result<(), Absent> {
        let session = self.open.get(&uuid).ok_or(Absent::Unknown)?;
        if session.moving {
            return Err(Absent::Moving);
        }
        match session.timed_out(now) {
            None => Ok(()),
            Some(reason) => Err(self
                .remove(uuid, reason)
                .map_or(Absent::Unknown, Absent::TimedOut)),
        }
    }

    fn enqueue(&mut self, uuid: SessionId, now: Now) {
        if let Some(session) = self.open.get_mut(&uuid)
            && let Some(at) = session.deadline(now)
        {
            session.queued = Some(at);
            self.queue.insert((at, uuid));
        }
    }
}

impl Session {
    fn timed_out(&self, now: Now) -> Option<Reason> {
        let idle = now.mono.saturating_sub(self.last_access);
        let age_ms = now.wall_ms.saturating_sub(self.started_ms);
        if self.time_to_live_ms > 0 && age_ms >= self.time_to_live_ms {
            Some(Reason::Lived)
        } else if self.time_to_idle_ms > 0 && idle >= Duration::from_millis(self.time_to_idle_ms) {
            Some(Reason::Idle)
        } else {
            None
        }
    }

    fn deadline(&self, now: Now) -> Option<Duration> {
        let idle = (self.time_to_idle_ms > 0).then(|| {
            self.last_access
                .saturating_add(Duration::from_millis(self.time_to_idle_ms))
        });
        let live = (self.time_to_live_ms > 0).then(|| {
            let end = self.started_ms.saturating_add(self.time_to_live_ms);
            now.mono
                .saturating_add(Duration::from_millis(end.saturating_sub(now.wall_ms)))
        });
        idle.into_iter().chain(live).min()
    }

    fn view(&self, uuid: SessionId, now: Now) -> message::Session {
        message::Session {
            uuid,
            user: self.user.as_ref().to_owned(),
            agent: self.agent.as_ref().to_owned(),
            ip: self.ip.as_ref().to_owned(),
            started_ms: self.started_ms,
            idle_ms: millis(now.mono.saturating_sub(self.last_access)),
            time_to_idle_ms: self.time_to_idle_ms,
            time_to_live_ms: self.time_to_live_ms,
            references: self.references,
            group: self.group.as_ref().to_owned(),
            internal: self.internal,
        }
    }
}

/// Returns how long a session had been idle when its server ended: downtime does not count.
///
/// `end_ms` is when the server stopped, or the latest access that it wrote.
pub(crate) fn idle_before(row: &SessionRow, end_ms: u64) -> Duration {
    Duration::from_millis(end_ms.saturating_sub(row.last_access_ms))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
