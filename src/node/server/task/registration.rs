//! What the server's process says of itself to the registry, and what follows from it.

use tracing::{debug, info};

use super::Task;
use crate::descriptor::{Expected, Ready};
use crate::ipc::message::node::{Registered, Registration};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::ServerState;
use crate::node::server::launch;
use crate::node::server::step::Event;
use crate::telemetry::chain;

impl Task {
    /// Returns what the server registers by its present definition.
    pub(super) fn expected(&self) -> Expected {
        let definition = &self.assigned.descriptor;
        match launch::resolve(&self.context, definition, &self.assigned.application) {
            Ok(resolved) => resolved.descriptor.expected(),
            // No process is started with such a definition.
            Err(_) => definition.expected(),
        }
    }

    /// Takes in what the process `from`, if it is known, says of the server.
    pub(super) fn register(
        &mut self,
        what: Registration,
        from: Option<u32>,
    ) -> Result<Registered, Refusal> {
        if let Registration::Adapter { adapter, .. } = &what {
            let known = match &self.run {
                Some(run) => run.expected.adapters.contains(adapter),
                None => self.expected().adapters.contains(adapter),
            };
            if !known {
                return Ok(Registered::NoSuchAdapter);
            }
        }
        let Some(run) = &mut self.run else {
            return Ok(Registered::Stale);
        };
        let is_own = match from {
            Some(pid) => run.belongings.includes(pid, &self.context.reaper),
            // Of a process that has ended meanwhile nobody knows which it was: what it takes back may be its successor's.
            None => is_given(&what),
        };
        if !is_own {
            info!(server = %self.assigned.id, from, pid = run.pid, "what another process says of a server counts for nothing");
            return Ok(Registered::Stale);
        }
        let registers = self.server.desired.ready == Ready::Registered;
        let mut record = self.record.clone();
        let mut withdrew = false;
        match what {
            Registration::Adapter {
                adapter,
                proxy: Some(proxy),
            } => {
                let old = record.adapters.insert(adapter, proxy.clone());
                let active = self.server.state() == ServerState::Active;
                if active && old.is_some_and(|old| old != proxy) {
                    return Ok(Registered::AlreadyActive);
                }
            }
            Registration::Adapter {
                adapter,
                proxy: None,
            } => {
                let was_there = record.adapters.remove(&adapter).is_some();
                withdrew = was_there && registers && run.expected.lifetime.contains(&adapter);
            }
            Registration::Process { proxy } => record.process_proxy = proxy,
        }
        if record == self.record {
            return Ok(Registered::Taken);
        }
        self.write_record(&record).map_err(|error| {
            let message = format!(
                "cannot keep what server {} registers: {}",
                self.assigned.id,
                chain(&error)
            );
            Refusal::new(RefusalKind::Failed, message)
        })?;
        debug!(server = %self.assigned.id, adapters = record.adapters.len(), process = record.process_proxy.is_some(), "a server has registered");
        self.record = record;
        if withdrew {
            info!(server = %self.assigned.id, reason = "it took back an adapter of its lifetime", "a server ends by itself");
            self.happen(Event::Withdrew);
        } else {
            self.count_registrations();
        }
        Ok(Registered::Taken)
    }

    /// Tells what is registered, and whether that is all of it.
    pub(super) fn count_registrations(&mut self) {
        let registers = self.server.desired.ready == Ready::Registered;
        let record = &self.record;
        let is_complete = self.run.as_ref().is_some_and(|run| {
            let process = record.process_proxy.is_some();
            let adapter = |id: &str| record.adapters.contains_key(id);
            run.expected.is_complete(process, adapter)
        });
        if registers && is_complete {
            self.happen(Event::Registered);
        } else {
            self.publish(self.server.state());
        }
    }
}

/// Returns whether something is said, not taken back.
fn is_given(what: &Registration) -> bool {
    match what {
        Registration::Adapter { proxy, .. } | Registration::Process { proxy } => proxy.is_some(),
    }
}
