//! What follows from what is wanted. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::desired::{Change, Deployed, Desired, Held};
use crate::descriptor::{Deployment, Difference, PlacedServer};
use crate::ipc::message::client::{DeployReport, ServerChange};
use crate::ipc::message::node::{Assignment, Goal, ServerReport};
use crate::model::{Activation, NodeName, ServerId, ServerState};

/// What a node has to do.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// Run, with these servers.
    Run(Arc<Assignment>),
    /// Stop every server and end.
    Stop,
}

impl Order {
    /// Returns whether carrying out one means carrying out the other, whatever their generations.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stop, Self::Stop) => true,
            (Self::Run(a), Self::Run(b)) => a.servers == b.servers,
            (Self::Run(_), Self::Stop) | (Self::Stop, Self::Run(_)) => false,
        }
    }
}

/// Decides what every node has to do. Nodes that are known and no longer wanted are stopped.
pub(crate) fn orders<'a>(
    desired: &Desired,
    known: impl Iterator<Item = &'a NodeName>,
    stopped: impl Fn(&NodeName) -> bool,
) -> BTreeMap<NodeName, Order> {
    let deployed = desired.all_nodes();
    let order = |node: &NodeName| {
        if deployed.contains(node) && desired.wants_node(node) && !stopped(node) {
            Order::Run(Arc::new(desired.assignment(node)))
        } else {
            Order::Stop
        }
    };
    known.chain(deployed.iter().copied()).map(|node| (node.clone(), order(node))).collect()
}

/// Whether a server that counts may be restarted by a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liberty {
    /// Refuse the whole if a Blitz with live sessions would be restarted or removed.
    Careful,
    /// Keep such a Blitz as it is until somebody restarts it.
    Hold,
    /// Restart it.
    Now,
}

/// A deploy that was thought through: what to report, and what to make durable.
#[derive(Debug)]
pub(crate) struct DeployPlan {
    pub(crate) report: DeployReport,
    pub(crate) changes: Vec<Change>,
    /// The Blitzes with live sessions that stand in the way of [`Liberty::Careful`].
    pub(crate) in_the_way: Vec<(ServerId, u64)>,
}

/// Thinks a deploy through.
pub(crate) fn deploy(
    desired: &Desired,
    fresh: Deployed,
    reports: &BTreeMap<ServerId, ServerReport>,
    liberty: Liberty,
) -> DeployPlan {
    let name = fresh.deployment.application.clone();
    let nothing = Deployment::default();
    let old = desired.applications.get(&name).map_or(&nothing, |deployed| &deployed.deployment);
    // What runs now may still be held back from an earlier deploy.
    let mut running = old.clone();
    for (id, held) in desired.held.iter().filter(|(_, held)| held.application == name) {
        running.servers.insert(id.clone(), held.placed.clone());
    }
    let mut plan = DeployPlan {
        report: DeployReport {
            application: name.clone(),
            nodes_added: fresh.deployment.nodes.keys().filter(|n| !old.nodes.contains_key(*n)).cloned().collect(),
            nodes_removed: old.nodes.keys().filter(|n| !fresh.deployment.nodes.contains_key(*n)).cloned().collect(),
            ..DeployReport::default()
        },
        changes: Vec::new(),
        in_the_way: Vec::new(),
    };
    // What is no longer different need not be held.
    for (id, held) in desired.held.iter().filter(|(_, held)| held.application == name) {
        if fresh.deployment.servers.get(id) == Some(&held.placed) {
            plan.changes.push(Change::Held(id.clone(), None));
        }
    }
    for difference in crate::descriptor::differences(&running, &fresh.deployment) {
        let change = server_change(desired, &difference, reports.get(&difference.server));
        let before = running.servers.get(&difference.server);
        let ends_sessions = change.sessions > 0 && matches!(change.effect.as_str(), "restart" | "stop");
        match (liberty, ends_sessions, before) {
            (Liberty::Careful, true, _) => plan.in_the_way.push((change.server.clone(), change.sessions)),
            (Liberty::Hold, true, Some(placed)) => {
                let held = Held { application: name.clone(), placed: placed.clone() };
                plan.changes.push(Change::Held(change.server.clone(), Some(Box::new(held))));
            }
            _ => {
                if desired.held.contains_key(&difference.server) {
                    plan.changes.push(Change::Held(difference.server.clone(), None));
                }
            }
        }
        plan.report.changes.push(change);
    }
    plan.changes.push(Change::Application(Box::new(fresh)));
    plan
}

fn server_change(desired: &Desired, difference: &Difference, report: Option<&ServerReport>) -> ServerChange {
    let id = &difference.server;
    let runs = report.is_some_and(|r| r.pid.is_some() && r.state != ServerState::Inactive);
    let starts = |placed: &PlacedServer| {
        let wish = desired.wish(id);
        wish.enabled
            && desired.wants_node(&placed.node)
            && match wish.goal {
                Goal::Mode => placed.descriptor.activation() == Activation::Always,
                Goal::Started => true,
                Goal::Stopped => false,
            }
    };
    let effect = match (&difference.before, &difference.after) {
        (_, None) if runs => "stop",
        (None, Some(after)) if starts(after) => "start",
        (Some(_), Some(_)) if runs => "restart",
        _ => "none",
    };
    ServerChange {
        server: id.clone(),
        node: difference.after.as_ref().or(difference.before.as_ref()).map_or_else(
            || unreachable!("a difference has at least one side"),
            |placed| placed.node.clone(),
        ),
        change: difference.kind.to_string(),
        details: difference.details.clone(),
        effect: effect.to_owned(),
        sessions: report.and_then(|r| r.blitz.as_ref()).map_or(0, |blitz| blitz.sessions),
    }
}
