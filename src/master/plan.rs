//! What follows from what is wanted. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::desired::{Change, Deployed, Desired, Held, Wish};
use crate::config::is_live;
use crate::descriptor::{
    Change as Difference, Deployment, Diff, PlacedServer, Property, ServerDescriptor, kind_of,
};
use crate::ipc::message::client::{DeployReport, ServerChange};
use crate::ipc::message::node::{Assignment, ServerReport, is_to_run};
use crate::model::{NodeName, NodeSettings, ServerId};

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
            (Self::Run(a), Self::Run(b)) => {
                a.servers == b.servers
                    && a.not_ready_elsewhere == b.not_ready_elsewhere
                    && a.locator == b.locator
                    && a.settings == b.settings
            }
            (Self::Run(_), Self::Stop) | (Self::Stop, Self::Run(_)) => false,
        }
    }
}

/// What the orders to the nodes follow from, beside what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// The generation of what is wanted.
    pub(crate) generation: u64,
    /// The whole grid stops.
    pub(crate) stopping: bool,
    /// Nodes that are stopped only to be started again.
    pub(crate) restarting: BTreeSet<NodeName>,
    /// Those of the servers that others come after that are active.
    pub(crate) active: BTreeSet<ServerId>,
    /// The registry's locator, where it listens.
    pub(crate) locator: Option<String>,
    /// How servers are run where their descriptors leave it open.
    pub(crate) settings: NodeSettings,
}

/// Decides what every node has to do. Nodes that are known and no longer wanted are stopped.
pub(crate) fn orders(
    desired: &Desired,
    known: Vec<NodeName>,
    now: &Circumstances,
) -> BTreeMap<NodeName, Order> {
    let deployed = desired.all_nodes();
    let all: BTreeSet<NodeName> = known
        .into_iter()
        .chain(deployed.iter().copied().cloned())
        .collect();
    let order = |node: NodeName| {
        let stopped = now.stopping || now.restarting.contains(&node);
        let runs = deployed.contains(&node) && desired.wants_node(&node) && !stopped;
        let order = if runs {
            Order::Run(Arc::new(Assignment {
                locator: now.locator.clone(),
                settings: now.settings.clone(),
                ..desired.assignment(&node, &now.active)
            }))
        } else {
            Order::Stop
        };
        (node, order)
    };
    all.into_iter().map(order).collect()
}

/// Whether a server that counts may be restarted by a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liberty {
    /// Refuse the whole if a Blitz with live sessions would be restarted or removed.
    Careful,
    /// Keep such a Blitz as it is until somebody restarts it; OMERO's own too, whose sessions are not seen.
    Hold,
    /// Keep whatever would be restarted as it is until somebody restarts it.
    Spare,
    /// Restart it.
    Now,
    /// Have it take up properties that changed while it goes on; refuse the whole if anything else would restart or stop a server.
    InPlace,
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
    let mut plan = compare(desired, &name, &fresh.deployment, reports, liberty);
    plan.changes.push(Change::Application(Box::new(fresh)));
    plan
}

/// Thinks the removal of an application through.
pub(crate) fn remove(
    desired: &Desired,
    name: &str,
    reports: &BTreeMap<ServerId, ServerReport>,
    liberty: Liberty,
) -> DeployPlan {
    let mut plan = compare(desired, name, &Deployment::default(), reports, liberty);
    // Who has its ids later is another.
    let ids = plan.report.changes.iter().map(|change| &change.server);
    let wished = ids.filter(|id| desired.servers.contains_key(id));
    let forgotten: Vec<_> = wished
        .map(|id| Change::Server(id.clone(), Wish::default()))
        .collect();
    plan.changes.extend(forgotten);
    plan.changes
        .push(Change::ApplicationRemoved(name.to_owned()));
    plan
}

/// Compares what is deployed of an application with what is to be.
fn compare(
    desired: &Desired,
    name: &str,
    fresh: &Deployment,
    reports: &BTreeMap<ServerId, ServerReport>,
    liberty: Liberty,
) -> DeployPlan {
    let nothing = Deployment::default();
    let old = desired
        .applications
        .get(name)
        .map_or(&nothing, |deployed| &deployed.deployment);
    // What runs now may still be held back from an earlier deploy.
    let mut running = old.clone();
    for (id, held) in desired
        .held
        .iter()
        .filter(|(_, held)| held.application == name)
    {
        running.servers.insert(id.clone(), held.placed.clone());
    }
    let diff = Diff::between(&running, fresh);
    let mut plan = DeployPlan {
        report: DeployReport {
            application: name.to_owned(),
            nodes_added: diff.nodes_added,
            nodes_removed: diff.nodes_removed,
            ..DeployReport::default()
        },
        changes: Vec::new(),
        in_the_way: Vec::new(),
    };
    // What is no longer different need not be held.
    for (id, held) in desired
        .held
        .iter()
        .filter(|(_, held)| held.application == name)
    {
        if fresh.servers.get(id) == Some(&held.placed) {
            plan.changes.push(Change::Held(id.clone(), None));
        }
    }
    for difference in diff.servers {
        let id = &difference.server;
        let (before, after) = (running.servers.get(id), fresh.servers.get(id));
        let report = reports.get(id);
        let mut change = server_change(desired, id, &difference.change, (before, after), report);
        let in_place = liberty == Liberty::InPlace
            && change.effect == "restart"
            && matches!(difference.change, Difference::PropertiesOnly { .. })
            && before.is_some_and(|placed| can_be_told(&placed.descriptor, report));
        if in_place {
            change.effect = "told".to_owned();
        }
        let ends_sessions =
            change.sessions > 0 && matches!(change.effect.as_str(), "restart" | "stop");
        let restarts = change.effect == "restart";
        let holds = match liberty {
            Liberty::Careful | Liberty::Now | Liberty::InPlace => false,
            Liberty::Hold => {
                ends_sessions
                    || restarts && before.is_some_and(|placed| is_omeros_blitz(id, placed))
            }
            Liberty::Spare => ends_sessions || restarts,
        };
        match (liberty, ends_sessions, before) {
            (Liberty::Careful, true, _) => plan.in_the_way.push((id.clone(), change.sessions)),
            (_, _, Some(placed)) if holds => {
                let held = Held {
                    application: name.to_owned(),
                    placed: with_live(id, placed, after),
                };
                change.effect = "held".to_owned();
                plan.changes
                    .push(Change::Held(id.clone(), Some(Box::new(held))));
            }
            _ => {
                if desired.held.contains_key(id) {
                    plan.changes.push(Change::Held(id.clone(), None));
                }
            }
        }
        // What changes nothing of the process, or not yet, leaves that open.
        let decides = !matches!(change.effect.as_str(), "held" | "live")
            && !matches!(difference.change, Difference::DescriptionOnly);
        if decides && in_place != desired.in_place.contains(id) {
            plan.changes.push(Change::InPlace(id.clone(), in_place));
        }
        plan.report.changes.push(change);
    }
    plan
}

/// Returns whether a process can be told of properties while it runs: it has said where, or has to. What the built-in Blitz can take up it
/// takes up in any case.
fn can_be_told(descriptor: &ServerDescriptor, report: Option<&ServerReport>) -> bool {
    let has_said = report.is_some_and(|report| report.process.is_some());
    descriptor.exe != "omero-grid" && (has_said || descriptor.expected().process)
}

/// Returns whether a server is a Blitz of OMERO's: it is named like one and is not the built-in one.
fn is_omeros_blitz(id: &ServerId, placed: &PlacedServer) -> bool {
    kind_of(id) == Some("blitz") && !placed.descriptor.is_builtin_blitz()
}

/// Returns whether what runs takes up another value of a property by itself. OMERO's own Blitz reads its properties once.
fn takes_up(id: &ServerId, placed: Option<&PlacedServer>, name: &str) -> bool {
    let reads_once = placed.is_some_and(|placed| is_omeros_blitz(id, placed));
    is_live(name) && (!reads_once || is_for_the_grid(name))
}

/// Returns whether a property is one that the grid itself goes by, whatever the server is.
fn is_for_the_grid(name: &str) -> bool {
    name.starts_with("omero.grid.") || name.starts_with("omero.cluster.redirector")
}

/// Returns the definition that a server is held at, with the values that it takes up all the same. What it keeps stays in its order.
fn with_live(id: &ServerId, held: &PlacedServer, fresh: Option<&PlacedServer>) -> PlacedServer {
    let mut placed = held.clone();
    let Some(fresh) = fresh else {
        return placed;
    };
    let is_live = |(name, _): &&Property| takes_up(id, Some(held), name);
    let properties = held.descriptor.property_set.properties.iter();
    let mut kept = properties
        .filter(|property| !is_live(property))
        .cloned()
        .peekable();
    // In the order of the new definition where that has the same, so that what goes back to what runs is just that.
    let mut merged = Vec::new();
    for property in &fresh.descriptor.property_set.properties {
        if is_live(&property) {
            merged.push(property.clone());
        } else {
            merged.extend(kept.next_if(|(name, _)| *name == property.0));
        }
    }
    merged.extend(kept);
    placed.descriptor.property_set.properties = merged;
    placed
}

fn server_change(
    desired: &Desired,
    id: &ServerId,
    difference: &Difference,
    (before, after): (Option<&PlacedServer>, Option<&PlacedServer>),
    report: Option<&ServerReport>,
) -> ServerChange {
    let runs = report.is_some_and(|r| r.pid.is_some());
    let starts = |placed: &PlacedServer| {
        let Wish { goal, enabled } = desired.wish(id);
        desired.wants_node(&placed.node) && is_to_run(goal, enabled, placed.descriptor.activation())
    };
    let (change, details) = match difference {
        Difference::Added { .. } => ("added", Vec::new()),
        Difference::Removed { .. } => ("removed", Vec::new()),
        Difference::Moved { from, to, what } => {
            let moved = std::iter::once(format!("from node {from} to node {to}"));
            ("moved", moved.chain(what.iter().cloned()).collect())
        }
        Difference::Changed { what } => ("changed", what.clone()),
        Difference::PropertiesOnly { what } => (
            "changed",
            what.iter().map(|name| format!("property {name}")).collect(),
        ),
        Difference::DescriptionOnly => ("changed", vec!["description".to_owned()]),
    };
    let effect = match (difference, after) {
        (Difference::DescriptionOnly, _) => "none",
        (Difference::PropertiesOnly { what }, _)
            if what.iter().all(|name| takes_up(id, before, name)) =>
        {
            "live"
        }
        (Difference::Removed { .. }, _) if runs => "stop",
        (Difference::Added { .. }, Some(after)) if starts(after) => "start",
        (
            Difference::Moved { .. }
            | Difference::Changed { .. }
            | Difference::PropertiesOnly { .. },
            _,
        ) if runs => "restart",
        _ => "none",
    };
    ServerChange {
        server: id.clone(),
        node: after.or(before).map(|placed| placed.node.clone()),
        change: change.to_owned(),
        details,
        effect: effect.to_owned(),
        sessions: report
            .and_then(|r| r.blitz.as_ref())
            .map_or(0, |blitz| blitz.sessions),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
