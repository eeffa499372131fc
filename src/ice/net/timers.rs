//! The times of a connection: what is due when, and what is too late. Reads no clock.

use std::time::Duration;

use tokio::time::Instant;

use super::error::Ended;
use super::settings::{Acm, Heartbeat, IdleClose, Settings};

/// How long buffers are kept when nothing happens.
const SHRINK: Duration = Duration::from_secs(5);

/// How many bytes have to move within [`Settings::stall`]: one now and then is not progress.
const PROGRESS: u64 = 1024;

/// When nothing is waited for.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// What a connection waits for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Due {
    /// The rest of a message.
    pub(super) partial: bool,
    /// That the other side reads.
    pub(super) unwritten: bool,
    /// The answers to requests of the other side.
    pub(super) dispatching: bool,
    /// Since when calls wait for answers of the other side.
    pub(super) waiting_since: Option<Instant>,
    /// Large buffers could be given back.
    pub(super) buffers: bool,
}

/// What is to be done when a time has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The connection ends.
    pub(super) ended: Option<Ended>,
    /// A heartbeat is sent.
    pub(super) heartbeat: bool,
    /// The connection is closed in good order.
    pub(super) close: bool,
    /// Buffers are given back.
    pub(super) shrink: bool,
}

/// Since when something has not moved on, and how far it was.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Timers {
    pub(super) acm: Acm,
    stall: Duration,
    /// When the last thing happened.
    now: Instant,
    /// For when the timer is set.
    armed: Option<Instant>,
    last_received: Instant,
    last_sent: Instant,
    last_heartbeat: Instant,
    last_shrink: Instant,
    received: u64,
    sent: u64,
    reading: Option<Mark>,
    writing: Option<Mark>,
    close_at: Option<Instant>,
}

impl Timers {
    pub(super) fn new(now: Instant, acm: Acm, settings: &Settings) -> Self {
        Self {
            acm,
            stall: settings.stall,
            now,
            armed: None,
            last_received: now,
            last_sent: now,
            last_heartbeat: now,
            last_shrink: now,
            received: 0,
            sent: 0,
            reading: None,
            writing: None,
            close_at: None,
        }
    }

    /// Something happened.
    pub(super) fn event(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn received(&mut self, count: usize) {
        self.last_received = self.now;
        self.received += count as u64;
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.last_sent = self.now;
        self.sent += count as u64;
    }

    /// The connection is being closed by this side.
    pub(super) fn closing(&mut self, settings: &Settings) {
        self.close_at = Some(self.now + settings.close);
    }

    /// Returns for when the timer has to be set, if that is earlier than it is set for. One that fires too early does no harm.
    pub(super) fn arm(&mut self, due: Due) -> Option<Instant> {
        self.mark(due);
        let next = self.next(due);
        if self.armed.is_some_and(|armed| armed <= next) {
            return None;
        }
        self.armed = Some(next);
        Some(next)
    }

    fn mark(&mut self, due: Due) {
        let begin = |mark: Option<Mark>, waits: bool, bytes: u64| {
            let new = Mark {
                at: self.now,
                bytes,
            };
            waits.then(|| mark.unwrap_or(new))
        };
        let reading = begin(self.reading, due.partial, self.received);
        let writing = begin(self.writing, due.unwritten, self.sent);
        (self.reading, self.writing) = (reading, writing);
    }

    fn next(&self, due: Due) -> Instant {
        let stalled = [self.reading, self.writing]
            .into_iter()
            .flatten()
            .map(|mark| mark.at + self.stall);
        let shrink = due.buffers.then(|| self.shrink_at());
        let others = [
            self.close_at,
            self.heartbeat_at(due),
            self.unheard_at(due),
            self.idle_at(due),
            shrink,
        ];
        stalled
            .chain(others.into_iter().flatten())
            .min()
            .unwrap_or(self.now + FAR)
    }

    fn shrink_at(&self) -> Instant {
        let quiet = self.last_received.max(self.last_sent);
        quiet.max(self.last_shrink) + SHRINK
    }

    fn heartbeat_at(&self, due: Due) -> Option<Instant> {
        let timeout = self.acm.timeout;
        let quiet = self.last_sent.max(self.last_heartbeat) + timeout / 4;
        if timeout.is_zero() {
            return None;
        }
        match self.acm.heartbeat {
            Heartbeat::Off => None,
            Heartbeat::OnDispatch => due.dispatching.then_some(quiet),
            Heartbeat::OnIdle => Some(quiet),
            Heartbeat::Always => Some(self.last_heartbeat + timeout / 2),
        }
    }

    /// Returns when the other side has been silent for too long.
    fn unheard_at(&self, due: Due) -> Option<Instant> {
        if self.acm.timeout.is_zero() {
            return None;
        }
        let since = match (self.acm.close, due.waiting_since) {
            (IdleClose::Forceful, _) => self.last_received,
            (IdleClose::OnInvocation | IdleClose::OnInvocationAndIdle, Some(since)) => {
                self.last_received.max(since)
            }
            _ => return None,
        };
        Some(since + self.acm.timeout)
    }

    /// Returns when the connection has not been used for too long.
    fn idle_at(&self, due: Due) -> Option<Instant> {
        let closes = matches!(
            self.acm.close,
            IdleClose::OnIdle | IdleClose::OnInvocationAndIdle
        );
        let used = due.dispatching || due.waiting_since.is_some() || self.close_at.is_some();
        (closes && !used && !self.acm.timeout.is_zero())
            .then(|| self.last_received.max(self.last_sent) + self.acm.timeout)
    }

    /// The timer fired.
    pub(super) fn fired(&mut self, due: Due) -> Progress {
        let now = self.now;
        self.armed = None;
        self.mark(due);
        let mut progress = Progress::default();
        let has_come = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let limits = [
            (self.close_at, Ended::Unclosed),
            (self.unheard_at(due), Ended::Unheard),
        ];
        for (at, why) in limits {
            if has_come(at) {
                progress.ended = Some(why);
                return progress;
            }
        }
        let stall = self.stall;
        let stalls = |mark: &mut Option<Mark>, bytes: u64| {
            let Some(mark) = mark.as_mut().filter(|mark| mark.at + stall <= now) else {
                return false;
            };
            let moved = bytes - mark.bytes;
            *mark = Mark { at: now, bytes };
            moved < PROGRESS
        };
        if stalls(&mut self.reading, self.received) {
            progress.ended = Some(Ended::Silent);
        } else if stalls(&mut self.writing, self.sent) {
            progress.ended = Some(Ended::Unread);
        }
        if has_come(self.heartbeat_at(due)) {
            self.last_heartbeat = now;
            // Behind what cannot be written it would say nothing.
            progress.heartbeat = !due.unwritten;
        }
        progress.close = has_come(self.idle_at(due));
        if due.buffers && self.shrink_at() <= now {
            self.last_shrink = now;
            progress.shrink = true;
        }
        progress
    }
}
