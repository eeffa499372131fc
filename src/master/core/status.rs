//! The published status: what is wanted beside what is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::Core;
use crate::descriptor::ServerDescriptor;
use crate::ipc::message::client::{
    ApplicationStatus, ConfigurationStatus, GridStatus, MasterStatus, NodeStatus, RedirectorStatus,
};
use crate::ipc::message::node::{Goal, ServerReport};
use crate::master::configuration::differing;
use crate::master::shared::{Shared, Snapshot};
use crate::model::{Accepting, NodeName, NodeState, ServerId, ServerState};

impl Core {
    pub(super) fn publish(&self) {
        let status = self.status();
        let world = self.world();
        self.shared.snapshot.send_if_modified(|snapshot| {
            let differs =
                *snapshot.status != status || *snapshot.world != world || snapshot.revision == 0;
            if differs {
                *snapshot = Snapshot {
                    revision: snapshot.revision + 1,
                    status: Arc::new(status),
                    world: Arc::new(world),
                };
            }
            differs
        });
    }

    fn status(&self) -> GridStatus {
        let names: BTreeSet<&NodeName> = self
            .desired
            .all_nodes()
            .into_iter()
            .chain(self.nodes.keys())
            .collect();
        let mut by_node: BTreeMap<&NodeName, Vec<ServerReport>> = BTreeMap::new();
        for (id, _, placed) in self.desired.placed() {
            let seen = self
                .nodes
                .get(&placed.node)
                .and_then(|node| node.reports.get(id));
            let mut report = seen
                .cloned()
                .unwrap_or_else(|| self.unseen(id, &placed.descriptor));
            // In force from the moment that it is durable, whether the Blitz has heard of it or not.
            if self.desired.drains.contains_key(id)
                && let Some(blitz) = &mut report.blitz
                && blitz.accepting == Accepting::Yes
            {
                blitz.accepting = Accepting::Draining;
            }
            by_node.entry(&placed.node).or_default().push(report);
        }
        let outdated = self.outdated();
        let nodes = names.into_iter().map(|name| {
            let node = self.nodes.get(name);
            let mut servers = by_node.remove(name).unwrap_or_default();
            servers.sort_by(|a, b| a.id.cmp(&b.id));
            NodeStatus {
                name: name.clone(),
                state: node.map_or(NodeState::Down, |node| node.state),
                start: if self.desired.is_manual(name) {
                    "manual"
                } else {
                    "auto"
                }
                .to_owned(),
                pid: node.and_then(|node| node.pid),
                hostname: self.hostname.clone(),
                reason: node.and_then(|node| node.reason.clone()),
                outdated: servers
                    .iter()
                    .filter(|r| outdated.contains(&r.id))
                    .map(|r| r.id.clone())
                    .collect(),
                servers,
            }
        });
        let applications = self.desired.in_order();
        GridStatus {
            nodes: nodes.collect(),
            applications: applications
                .iter()
                .map(|deployed| ApplicationStatus {
                    name: deployed.deployment.application.clone(),
                    descriptor: deployed.source.shown.clone(),
                    targets: deployed.source.targets.clone(),
                    source: deployed.source.brief(),
                })
                .collect(),
            master: MasterStatus {
                pid: std::process::id(),
                started_ms: self.process_started_ms,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            redirector: RedirectorStatus {
                policy: self.policy.redirector.to_string(),
                redirect: self.desired.redirect.clone(),
                warnings: self.policy.warnings.clone(),
                routes: self.policy.routes.iter().map(ToString::to_string).collect(),
            },
            missing: self.missing(),
            stopping: self.stopping,
            drains: self.drain_status(),
            rollout: self.rollout_status(),
            configuration: self.configuration_status(),
            locator: self.locator.clone(),
        }
    }

    fn configuration_status(&self) -> ConfigurationStatus {
        match &self.on_disk {
            Ok(disk) => {
                let applications = self.desired.applications.values();
                let differs: BTreeSet<String> = applications
                    .flat_map(|deployed| differing(&deployed.profile, disk))
                    .collect();
                ConfigurationStatus {
                    differs: differs.into_iter().collect(),
                    error: None,
                }
            }
            Err(error) => ConfigurationStatus {
                differs: Vec::new(),
                error: Some(error.clone()),
            },
        }
    }

    /// Returns what can be said of a server that no node has told of.
    fn unseen(&self, id: &ServerId, descriptor: &ServerDescriptor) -> ServerReport {
        let wish = self.desired.wish(id);
        ServerReport {
            id: id.clone(),
            activation: descriptor.activation(),
            enabled: wish.enabled,
            goal: wish.goal,
            state: ServerState::Inactive,
            pid: None,
            started_ms: None,
            ready_after_ms: None,
            restarts: 0,
            failed_tries: 0,
            last_exit: None,
            failure: None,
            waiting_for: None,
            next_start_ms: None,
            is_builtin_blitz: descriptor.is_builtin_blitz(),
            blitz: None,
            adapters: BTreeMap::new(),
            process: None,
            outdated: false,
        }
    }

    /// Returns the required servers that are not there yet, of the nodes that are wanted.
    fn missing(&self) -> Vec<ServerId> {
        let required = self
            .desired
            .applications
            .values()
            .flat_map(|a| a.deployment.required());
        required
            .filter(|id| {
                let Some(placed) = self.desired.server(id) else {
                    return false;
                };
                let wish = self.desired.wish(id);
                if !self.desired.wants_node(&placed.node)
                    || wish.goal == Goal::Stopped
                    || !wish.enabled
                {
                    return false;
                }
                let report = self
                    .nodes
                    .get(&placed.node)
                    .and_then(|node| node.reports.get(id));
                !report.is_some_and(ServerReport::is_ready)
            })
            .collect()
    }
}

/// Waits until the status satisfies `done`, or until the time is over.
pub(crate) async fn wait_for(
    shared: &Shared,
    limit: Duration,
    mut done: impl FnMut(&Snapshot) -> bool,
) -> Option<Snapshot> {
    let mut snapshots = shared.snapshot.subscribe();
    let waiting = snapshots.wait_for(|snapshot| done(snapshot));
    match tokio::time::timeout(limit, waiting).await {
        Ok(Ok(snapshot)) => Some(snapshot.clone()),
        Ok(Err(_)) => {
            warn!("the status is no longer published");
            None
        }
        Err(_) => None,
    }
}
