//! What the administrator wants: deployed applications, nodes and servers started or stopped by hand, drains, the redirect.
//!
//! Pure. Everything here is durable: a [`Change`] is written to the state store before it is applied.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::descriptor::{Application, Deployment, PlacedServer, Property};
use crate::ipc::message::client::{DescriptorSource, Then};
use crate::ipc::message::node::{Assigned, Assignment, Goal, is_to_run};
use crate::model::{NodeName, ServerId};

/// A deployed application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deployed {
    /// Grows from one application to the next: they are listed in the order of their first deployment.
    pub(crate) order: u64,
    /// Where it is described.
    pub(crate) source: DescriptorSource,
    /// What it means.
    pub(crate) deployment: Deployment,
    /// The properties of the site's configuration that are in it.
    #[serde(default)]
    pub(crate) profile: Vec<Property>,
    /// What its file said, as written. Without a file it is in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) definition: Option<Application>,
    /// Since when it is deployed, and by whom.
    #[serde(default)]
    pub(crate) history: History,
}

impl Deployed {
    /// Returns the application as written; `None` for one of an earlier release that was not read again since.
    pub(crate) fn definition(&self) -> Option<&Application> {
        let own = self.source.definition.as_deref();
        own.or(self.definition.as_ref())
    }

    /// Returns whether it says something else than the other.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self.deployment != other.deployment || self.definition() != other.definition()
    }
}

/// Since when an application is deployed, and by whom. All empty for one that was deployed by an earlier release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct History {
    /// Tells it from another application that has its name later.
    pub(crate) uuid: String,
    /// When it was first deployed, milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// Who did that.
    pub(crate) created_by: String,
    /// When it was last deployed, milliseconds since 1970.
    pub(crate) updated_ms: u64,
    /// Who did that.
    pub(crate) updated_by: String,
    /// Grows with each deploy, from 1.
    pub(crate) revision: u32,
}

impl History {
    /// Notes one more deploy.
    pub(crate) fn go_on(&mut self, by: &str, at_ms: u64) {
        if self.uuid.is_empty() {
            self.uuid = uuid::Uuid::new_v4().to_string();
            self.created_ms = at_ms;
            by.clone_into(&mut self.created_by);
        }
        self.updated_ms = at_ms;
        by.clone_into(&mut self.updated_by);
        self.revision = self.revision.saturating_add(1);
    }
}

/// Which nodes `start` was told to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "select", content = "nodes", rename_all = "snake_case")]
pub(crate) enum Selection {
    /// Every node that is not manual.
    #[default]
    Auto,
    /// Every node.
    All,
    /// These and no others.
    Named(BTreeSet<NodeName>),
}

/// What a command made of a node, beside the selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Switch {
    /// Started by hand.
    Started,
    /// Stopped by hand.
    Stopped,
}

/// What commands made of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// Started, stopped, or left to its mode.
    pub(crate) goal: Goal,
    /// Whether it may be started at all.
    pub(crate) enabled: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            goal: Goal::Mode,
            enabled: true,
        }
    }
}

/// A server that goes on with an older definition until it is restarted, because it has live sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The application it belongs to.
    pub(crate) application: String,
    /// The older definition.
    pub(crate) placed: PlacedServer,
}

/// A Blitz that takes no new sessions, until it is undrained or what was to follow is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drain {
    /// When it was asked for, milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// When the sessions that are left are closed, milliseconds since 1970; `None` for never.
    pub(crate) until_ms: Option<u64>,
    /// What follows when the last session has ended.
    pub(crate) then: Then,
    /// It belongs to a stop of the whole grid, which follows when every such Blitz is drained.
    #[serde(default)]
    pub(crate) for_stop: bool,
    /// When it was restarted because it was drained, milliseconds since 1970: it only has to come back.
    #[serde(default)]
    pub(crate) restarted_ms: Option<u64>,
}

/// Blitzes that are drained and restarted one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rollout {
    /// When it was asked for, milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// How long each Blitz may take to lose its sessions, in milliseconds; `None` for any time.
    pub(crate) deadline_ms: Option<u64>,
    /// Those whose turn has not come.
    pub(crate) waiting: Vec<ServerId>,
    /// The one whose turn it is, and since when, milliseconds since 1970.
    pub(crate) current: Option<(ServerId, u64)>,
    /// Those that are back.
    pub(crate) done: Vec<ServerId>,
    /// Why it goes no further.
    pub(crate) failed: Option<String>,
}

/// An adapter that registered itself without being deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DynamicAdapter {
    /// Where it listens, a written proxy.
    pub(crate) proxy: String,
    /// The replica group that it says it belongs to, or empty.
    pub(crate) group: String,
}

/// A well-known object that was added by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DynamicObject {
    /// Its type, or empty.
    pub(crate) type_id: String,
    /// Its proxy, as it is written.
    pub(crate) proxy: String,
}

/// One durable change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// An application was deployed anew.
    Application(Box<Deployed>),
    /// An application is no longer deployed.
    ApplicationRemoved(String),
    /// Nodes were selected.
    Selection(Selection),
    /// A node was started or stopped by hand, or is left to the selection again.
    Node(NodeName, Option<Switch>),
    /// A server was started, stopped, enabled or disabled.
    Server(ServerId, Wish),
    /// A server goes on with an older definition, or no longer does.
    Held(ServerId, Option<Box<Held>>),
    /// Whether a server's process is told of properties that differ, rather than started anew.
    InPlace(ServerId, bool),
    /// A Blitz is drained, or no longer is.
    Drain(ServerId, Option<Drain>),
    /// Where `configRedirector` sends new sessions.
    Redirect(Option<ServerId>),
    /// Blitzes are restarted one after another, or no longer are.
    Rollout(Option<Box<Rollout>>),
    /// An adapter that is not deployed has registered itself, or is to be forgotten.
    Adapter(String, Option<DynamicAdapter>),
    /// An object was added by its identity, or is to be forgotten.
    Object(String, Option<DynamicObject>),
}

impl Change {
    /// Returns by how much the generation grows: what is registered concerns no node.
    pub(crate) fn generations(&self) -> u64 {
        match self {
            Self::Adapter(..) | Self::Object(..) => 0,
            Self::Application(_)
            | Self::ApplicationRemoved(_)
            | Self::Selection(_)
            | Self::Node(..)
            | Self::Server(..)
            | Self::Held(..)
            | Self::InPlace(..)
            | Self::Drain(..)
            | Self::Redirect(_)
            | Self::Rollout(_) => 1,
        }
    }
}

/// Everything that is wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Desired {
    /// By name.
    pub(crate) applications: BTreeMap<String, Deployed>,
    pub(crate) selection: Selection,
    pub(crate) nodes: BTreeMap<NodeName, Switch>,
    pub(crate) servers: BTreeMap<ServerId, Wish>,
    pub(crate) held: BTreeMap<ServerId, Held>,
    /// Servers whose process is told of properties that differ, rather than started anew: the last deploy that concerned them was to
    /// restart nothing.
    pub(crate) in_place: BTreeSet<ServerId>,
    pub(crate) drains: BTreeMap<ServerId, Drain>,
    /// The one shared redirect of `configRedirector` (DESIGN.md §7).
    pub(crate) redirect: Option<ServerId>,
    pub(crate) rollout: Option<Rollout>,
    /// Adapters that registered themselves without being deployed, by id.
    pub(crate) adapters: BTreeMap<String, DynamicAdapter>,
    /// Well-known objects that were added by hand, by their written identity.
    pub(crate) objects: BTreeMap<String, DynamicObject>,
    /// Grows with every change and from one master to the next.
    pub(crate) generation: u64,
}

impl Desired {
    /// Applies a change that is durable.
    pub(crate) fn apply(&mut self, change: Change) {
        self.generation += change.generations();
        match change {
            Change::Application(deployed) => {
                self.applications
                    .insert(deployed.deployment.application.clone(), *deployed);
            }
            Change::ApplicationRemoved(name) => drop(self.applications.remove(&name)),
            Change::Selection(selection) => self.selection = selection,
            Change::Node(node, switch) => set(&mut self.nodes, node, switch),
            Change::Server(server, wish) => {
                set(
                    &mut self.servers,
                    server,
                    (wish != Wish::default()).then_some(wish),
                );
            }
            Change::Held(server, held) => set(&mut self.held, server, held.map(|held| *held)),
            Change::InPlace(server, true) => drop(self.in_place.insert(server)),
            Change::InPlace(server, false) => drop(self.in_place.remove(&server)),
            Change::Drain(server, drain) => set(&mut self.drains, server, drain),
            Change::Redirect(redirect) => self.redirect = redirect,
            Change::Rollout(rollout) => self.rollout = rollout.map(|rollout| *rollout),
            Change::Adapter(id, adapter) => set(&mut self.adapters, id, adapter),
            Change::Object(identity, object) => set(&mut self.objects, identity, object),
        }
    }

    /// Returns the applications in the order of their first deployment.
    pub(crate) fn in_order(&self) -> Vec<&Deployed> {
        let mut all: Vec<_> = self.applications.values().collect();
        all.sort_by_key(|deployed| deployed.order);
        all
    }

    /// Returns every node that is deployed, or that still runs a server with an older definition.
    pub(crate) fn all_nodes(&self) -> BTreeSet<&NodeName> {
        let deployed = self
            .applications
            .values()
            .flat_map(|a| a.deployment.nodes.keys());
        deployed
            .chain(self.held.values().map(|held| &held.placed.node))
            .collect()
    }

    /// Returns whether `start` starts the node only when it is named.
    pub(crate) fn is_manual(&self, node: &NodeName) -> bool {
        let mut placements = self
            .applications
            .values()
            .filter_map(|a| a.deployment.nodes.get(node))
            .peekable();
        placements.peek().is_some() && placements.all(|placement| placement.is_manual())
    }

    /// Returns what load averages of a node's host are multiplied by, where that is said (`load-factor`).
    pub(crate) fn load_factor(&self, node: &NodeName) -> Option<f64> {
        let mut placements = self
            .applications
            .values()
            .filter_map(|a| a.deployment.nodes.get(node));
        let factor = placements.find_map(|placement| placement.load_factor.trim().parse().ok());
        factor.filter(|factor: &f64| factor.is_finite() && *factor >= 0.0)
    }

    /// Returns whether the node has to run.
    pub(crate) fn wants_node(&self, node: &NodeName) -> bool {
        match (self.nodes.get(node), &self.selection) {
            (Some(Switch::Started), _) => true,
            (Some(Switch::Stopped), _) => false,
            (None, Selection::Auto) => !self.is_manual(node),
            (None, Selection::All) => true,
            (None, Selection::Named(names)) => names.contains(node),
        }
    }

    /// Returns what a command made of the server.
    pub(crate) fn wish(&self, server: &ServerId) -> Wish {
        self.servers.get(server).copied().unwrap_or_default()
    }

    /// Returns every server with its application and the definition it has to run with now.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&ServerId, &str, &PlacedServer)> {
        let deployed = self.applications.iter().flat_map(|(name, a)| {
            a.deployment
                .servers
                .iter()
                .map(move |(id, placed)| (id, name.as_str(), placed))
        });
        let deployed = deployed.filter(|(id, ..)| !self.held.contains_key(id));
        deployed.chain(
            self.held
                .iter()
                .map(|(id, held)| (id, held.application.as_str(), &held.placed)),
        )
    }

    /// Returns the definition that a server has to run with now.
    pub(crate) fn server(&self, id: &ServerId) -> Option<&PlacedServer> {
        match self.held.get(id) {
            Some(held) => Some(&held.placed),
            None => self
                .applications
                .values()
                .find_map(|a| a.deployment.servers.get(id)),
        }
    }

    /// Returns the servers that others come after (`omero.grid.after`).
    pub(crate) fn come_first(&self) -> BTreeSet<ServerId> {
        self.placed()
            .flat_map(|(.., placed)| placed.descriptor.grid().after)
            .collect()
    }

    /// Returns everything that a node has to run, given which of the servers that come first are active.
    pub(crate) fn assignment(&self, node: &NodeName, active: &BTreeSet<ServerId>) -> Assignment {
        let mut servers: Vec<_> = self
            .placed()
            .filter(|(.., placed)| placed.node == *node)
            .map(|(id, application, placed)| {
                let wish = self.wish(id);
                Assigned {
                    id: id.clone(),
                    application: application.to_owned(),
                    descriptor: placed.descriptor.clone(),
                    goal: wish.goal,
                    enabled: wish.enabled,
                    draining: self.drains.contains_key(id),
                    in_place: self.in_place.contains(id),
                }
            })
            .collect();
        servers.sort_by(|a, b| a.id.cmp(&b.id));
        let named: BTreeSet<ServerId> = servers
            .iter()
            .flat_map(|server| server.descriptor.grid().after)
            .collect();
        let is_waited_for = |id: &ServerId| {
            let Some(placed) = self.server(id) else {
                return false;
            };
            let Wish { goal, enabled } = self.wish(id);
            placed.node != *node
                && self.wants_node(&placed.node)
                && is_to_run(goal, enabled, placed.descriptor.activation())
        };
        Assignment {
            generation: self.generation,
            servers,
            not_ready_elsewhere: named
                .into_iter()
                .filter(|id| is_waited_for(id) && !active.contains(id))
                .collect(),
            locator: None,
            settings: Default::default(),
        }
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
