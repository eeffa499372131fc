//! How every server is, for whoever wants to know: the latest report of each, numbered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::ipc::message::blitz;
use crate::ipc::message::node::ServerReport;
use crate::model::{ServerId, ServerState};

/// The latest report of each server. A slow reader sees fewer of them; nobody waits for it.
#[derive(Debug)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    reports: BTreeMap<ServerId, (u64, ServerReport)>,
    up: bool,
    /// Servers of this node that others may wait for.
    expected: BTreeSet<ServerId>,
    /// Servers of other nodes that are not active yet, and that servers of this one wait for.
    not_ready_elsewhere: BTreeSet<ServerId>,
}

impl Board {
    /// Makes an empty board.
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            revision: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner, u64)) {
        let mut inner = self.lock();
        inner.revision += 1;
        let revision = inner.revision;
        change(&mut inner, revision);
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// Puts up a report in the place of the server's last one, unless nothing changed.
    pub(crate) fn put(&self, report: ServerReport) {
        if self
            .lock()
            .reports
            .get(&report.id)
            .is_some_and(|(_, old)| *old == report)
        {
            return;
        }
        self.change(|inner, revision| {
            inner.reports.insert(report.id.clone(), (revision, report));
        });
    }

    /// Puts what a built-in Blitz says of itself into its report.
    pub(crate) fn put_blitz(&self, id: &ServerId, status: Option<blitz::Status>) {
        self.change(|inner, revision| {
            if let Some((at, report)) = inner.reports.get_mut(id)
                && report.blitz != status
            {
                report.blitz = status;
                *at = revision;
            }
        });
    }

    /// Takes down the report of a server that is no more.
    pub(crate) fn remove(&self, id: &ServerId) {
        self.change(|inner, _| drop(inner.reports.remove(id)));
    }

    /// Says which servers others may wait for: those of this node that are to run, and those of other nodes that are not
    /// active yet.
    pub(crate) fn expect(&self, ids: BTreeSet<ServerId>, not_ready_elsewhere: BTreeSet<ServerId>) {
        self.change(|inner, _| {
            inner.expected = ids;
            inner.not_ready_elsewhere = not_ready_elsewhere;
        });
    }

    /// Returns whether the server is one to wait for, and not active.
    pub(crate) fn holds_up(&self, id: &ServerId) -> bool {
        let inner = self.lock();
        let active = inner
            .reports
            .get(id)
            .is_some_and(|(_, report)| report.state == ServerState::Active);
        inner.not_ready_elsewhere.contains(id) || (inner.expected.contains(id) && !active)
    }

    /// Says that everything has been adopted.
    pub(crate) fn set_up(&self) {
        self.change(|inner, _| inner.up = true);
    }

    /// Returns whether everything has been adopted.
    pub(crate) fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Returns a server's latest report.
    pub(crate) fn get(&self, id: &ServerId) -> Option<ServerReport> {
        self.lock()
            .reports
            .get(id)
            .map(|(_, report)| report.clone())
    }

    /// Returns the reports put up after `revision`, every id on the board, and the present revision.
    pub(crate) fn since(&self, revision: u64) -> (Vec<ServerReport>, Vec<ServerId>, u64) {
        let inner = self.lock();
        let changed = inner.reports.values().filter(|(at, _)| *at > revision);
        (
            changed.map(|(_, report)| report.clone()).collect(),
            inner.reports.keys().cloned().collect(),
            inner.revision,
        )
    }

    /// Returns what tells of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
