//! What others hear of a server: the node's board, the log, and those who wait for it to be active or gone.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tracing::info;

use super::Task;
use crate::ipc::message::node::ServerReport;
use crate::ipc::{Refusal, RefusalKind};
use crate::model::ServerState;
use crate::node::server::step::Phase;
use crate::sys::clock;

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Active,
    Gone,
    /// A process that is there has what its definition says.
    Current,
}

/// Somebody who waits: for what, how many failures there were by then, and where to answer.
pub(super) type Waiting = (Goal, u64, oneshot::Sender<Result<(), Refusal>>);

impl Task {
    /// Tells the board, the log and those who wait how the server is.
    pub(super) fn publish(&mut self, before: ServerState) {
        let state = self.server.state();
        let id = &self.assigned.id;
        if state != before {
            let pid = self.run.as_ref().map(|run| run.pid);
            info!(server = %id, pid, from = %before, to = %state, "server");
        }
        if self.server.phase == Phase::Destroyed {
            self.context.board.remove(id);
        } else {
            self.context.board.put(self.report());
        }
        let mut kept = Vec::new();
        for (goal, failures, answer) in std::mem::take(&mut self.waiting) {
            match self.outcome(goal, failures) {
                Some(result) => drop(answer.send(result)),
                None if answer.is_closed() => {}
                None => kept.push((goal, failures, answer)),
            }
        }
        self.waiting = kept;
    }

    /// Returns how it went for somebody who waits; `None` while that is open.
    fn outcome(&self, goal: Goal, failures: u64) -> Option<Result<(), Refusal>> {
        let id = &self.assigned.id;
        match (goal, self.server.phase) {
            (Goal::Active, Phase::Active { .. })
            | (Goal::Gone, Phase::Inactive | Phase::Destroyed) => Some(Ok(())),
            (Goal::Current, _) if !self.can_take_up() => Some(Ok(())),
            (Goal::Current, _) => {
                let reason = self.not_told.clone()?;
                Some(Err(Refusal::new(RefusalKind::Failed, reason)))
            }
            (Goal::Active, _) if self.failures > failures => {
                let reason = self
                    .failure
                    .as_ref()
                    .map_or_else(String::new, |f| f.cause.to_string());
                let mut refusal = Refusal::new(
                    RefusalKind::Failed,
                    format!("server {id}: {reason}; it is tried again"),
                );
                if let Some(failure) = self.failure.as_ref().filter(|f| !f.last_lines.is_empty()) {
                    refusal =
                        refusal.hint(format!("its last lines: {}", failure.last_lines.join("\n")));
                }
                Some(Err(refusal))
            }
            (Goal::Active, Phase::Inactive) => Some(Err(Refusal::new(
                RefusalKind::Failed,
                format!("server {id} was stopped meanwhile"),
            ))),
            (
                Goal::Active,
                Phase::Waiting
                | Phase::BackingOff { .. }
                | Phase::Launching
                | Phase::Activating { .. }
                | Phase::Deactivating { .. }
                | Phase::Killing { .. }
                | Phase::Sweeping { .. }
                | Phase::Destroyed,
            ) => None,
            // Somebody started it again: the stop has been overtaken once it runs.
            (Goal::Gone, Phase::Activating { .. } | Phase::Active { .. }) => {
                Some(Err(Refusal::new(
                    RefusalKind::Failed,
                    format!("server {id} was started meanwhile"),
                )))
            }
            (
                Goal::Gone,
                Phase::Waiting
                | Phase::BackingOff { .. }
                | Phase::Launching
                | Phase::Deactivating { .. }
                | Phase::Killing { .. }
                | Phase::Sweeping { .. },
            ) => None,
        }
    }

    fn report(&self) -> ServerReport {
        let id = self.assigned.id.clone();
        let running = self.run.is_some();
        let waiting_for = (self.server.phase == Phase::Waiting).then(|| {
            let ids: Vec<String> = self.blockers().map(String::from).collect();
            format!("{} to be active", ids.join(", "))
        });
        let now = clock::now();
        let next = match self.server.phase {
            Phase::BackingOff { until } => Some(now.wall_ms_at(until)),
            Phase::Inactive
            | Phase::Deactivating { .. }
            | Phase::Waiting
            | Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => None,
        };
        // The wall-clock time of a pause is computed anew each time: kept while it is the same pause.
        let known = self.context.board.get(&id);
        let next = match (next, known.as_ref().and_then(|r| r.next_start_ms)) {
            (Some(new), Some(old)) if new.abs_diff(old) < 50 => Some(old),
            (new, _) => new,
        };
        ServerReport {
            activation: self.server.desired.activation,
            enabled: self.server.desired.enabled,
            goal: self.server.desired.goal,
            state: self.server.state(),
            pid: self.run.as_ref().map(|run| run.pid),
            started_ms: running.then_some(self.record.started_ms),
            ready_after_ms: self.record.ready_after_ms.filter(|_| running),
            restarts: self.server.restarts,
            failed_tries: self.server.failures,
            last_exit: self.last_exit,
            failure: self.failure.clone(),
            waiting_for,
            next_start_ms: next,
            is_builtin_blitz: self.assigned.descriptor.is_builtin_blitz(),
            blitz: known.and_then(|report| report.blitz),
            adapters: if running {
                self.record.adapters.clone()
            } else {
                BTreeMap::new()
            },
            process: self.record.process_proxy.clone().filter(|_| running),
            outdated: self.not_told.is_some(),
            id,
        }
    }
}
