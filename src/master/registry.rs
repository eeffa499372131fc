//! What the locator answers from: adapters, replica groups and well-known objects, and where they are.
//!
//! Pure. The definitions come from what is deployed, what was registered beside it is durable (`desired`), and where the adapters of servers
//! listen is what their nodes tell. Kept up to date step by step, so that a registration costs the same whatever else there is.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::desired::{Desired, DynamicAdapter, DynamicObject};
use crate::descriptor::{LoadBalancingPolicy, ServerDescriptor};
use crate::ice::{Identity, Proxy, Reference};
use crate::ipc::message::node::ServerReport;
use crate::model::{Activation, NodeName, ServerId, ServerState};

/// An adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// The server that has it; none for one that registered itself without being deployed.
    pub server: Option<ServerId>,
    /// The replica group that it belongs to, or empty.
    pub group: String,
    /// Its place under the policy `ordered`: lower ones come first.
    pub priority: i32,
    /// Where it listens, while it does.
    pub proxy: Option<Proxy>,
}

/// A replica group.
#[derive(Debug)]
pub struct Group {
    /// How its members are ordered.
    pub policy: LoadBalancingPolicy,
    /// How many of them a client is told; 0 for all.
    pub replicas: usize,
    /// Which of the averages over 1, 5 and 15 minutes counts: 0, 1, 2.
    pub sample: usize,
    /// The ids of its adapters, in their order.
    pub members: Vec<String>,
    /// Whether it is deployed; else those who say that they belong to it made it, and it goes with the last of them.
    deployed: bool,
    /// With which member the next round begins, under `round-robin`.
    turn: AtomicUsize,
}

impl Group {
    /// Returns where a round begins, and moves on.
    pub fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// A well-known object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its type, or empty.
    pub type_id: String,
    /// Its proxy.
    pub proxy: Proxy,
    /// Whether it comes with a server, and was not added by hand.
    pub deployed: bool,
    /// The server that has it, where it is one.
    pub server: Option<ServerId>,
}

/// An object that a session may have to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocatable {
    /// Its type, or empty.
    pub type_id: String,
    /// Its proxy.
    pub proxy: Proxy,
    /// The server that has it.
    pub server: ServerId,
    /// Whether who has one object of that server has them all.
    pub whole: bool,
}

/// What is to be known of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its node.
    pub node: NodeName,
    /// When it is started.
    pub activation: Activation,
    /// Whether it may be started.
    pub enabled: bool,
    /// Its state.
    pub state: ServerState,
    /// Where its process can be asked to end, and its other admin facets are.
    pub process: Option<Proxy>,
    /// The ids of its adapters.
    adapters: Vec<String>,
    /// The adapter through which a built-in Blitz is one of OMERO's.
    blitz_adapter: Option<String>,
    /// The object by which the other Blitzes ask whether it lives, and of which process: there while that is.
    cluster_node: Option<(Identity, Option<u32>)>,
}

/// Everything that is registered.
#[derive(Debug, Default)]
pub struct Registry {
    /// Grows with every difference.
    revision: u64,
    adapters: HashMap<String, Adapter>,
    groups: HashMap<String, Group>,
    objects: BTreeMap<Identity, Object>,
    allocatables: BTreeMap<Identity, Allocatable>,
    servers: HashMap<ServerId, Host>,
    /// What multiplies the load of a node, where the descriptor says so.
    factors: HashMap<NodeName, f64>,
}

impl Registry {
    /// Returns the number of differences so far.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Finds an adapter by its id.
    pub fn adapter(&self, id: &str) -> Option<&Adapter> {
        self.adapters.get(id)
    }

    /// Finds a replica group by its id.
    pub fn group(&self, id: &str) -> Option<&Group> {
        self.groups.get(id)
    }

    /// Finds a well-known object.
    pub fn object(&self, identity: &Identity) -> Option<&Object> {
        self.objects.get(identity)
    }

    /// Finds a server.
    pub fn server(&self, id: &ServerId) -> Option<&Host> {
        self.servers.get(id)
    }

    /// Returns the well-known objects in the order of their identities.
    pub fn objects(&self) -> impl Iterator<Item = (&Identity, &Object)> {
        self.objects.iter()
    }

    /// Finds an object that a session may have to itself.
    pub fn allocatable(&self, identity: &Identity) -> Option<&Allocatable> {
        self.allocatables.get(identity)
    }

    /// Returns the objects that sessions may have to themselves, in the order of their identities.
    pub fn allocatables(&self) -> impl Iterator<Item = (&Identity, &Allocatable)> {
        self.allocatables.iter()
    }

    /// Returns the adapters, in no order.
    pub fn adapters(&self) -> impl Iterator<Item = (&str, &Adapter)> {
        self.adapters
            .iter()
            .map(|(id, adapter)| (id.as_str(), adapter))
    }

    /// Returns the ids of the replica groups, in no order.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    /// Returns what multiplies the load of a node, where the descriptor says so.
    pub fn load_factor(&self, node: &NodeName) -> Option<f64> {
        self.factors.get(node).copied()
    }

    /// Returns whether an object is to be left out of answers by type: its server may not be started.
    pub fn is_disabled(&self, object: &Object) -> bool {
        let server = object.server.as_ref().and_then(|id| self.servers.get(id));
        server.is_some_and(|host| !host.enabled)
    }

    /// Takes over what is deployed and what was registered beside it. What servers have registered stays.
    pub(crate) fn define(&mut self, desired: &Desired) {
        self.revision += 1;
        let old = std::mem::take(&mut self.adapters);
        let mut groups = std::mem::take(&mut self.groups);
        let mut servers = std::mem::take(&mut self.servers);
        self.objects.clear();
        self.allocatables.clear();
        self.factors.clear();
        for node in desired.all_nodes() {
            if let Some(factor) = desired.load_factor(node) {
                self.factors.insert(node.clone(), factor);
            }
        }
        for (id, _, placed) in desired.placed() {
            let wish = desired.wish(id);
            let mut host = servers.remove(id).unwrap_or(Host {
                node: placed.node.clone(),
                activation: Activation::Manual,
                enabled: true,
                state: ServerState::Inactive,
                process: None,
                adapters: Vec::new(),
                blitz_adapter: None,
                cluster_node: None,
            });
            host.node = placed.node.clone();
            host.activation = placed.descriptor.activation();
            host.enabled = wish.enabled;
            host.adapters.clear();
            host.blitz_adapter = None;
            // It is heard of again.
            host.cluster_node = None;
            let is_blitz = placed.descriptor.is_builtin_blitz();
            for adapter in adapters_of(&placed.descriptor) {
                host.adapters.push(adapter.id.clone());
                for object in &adapter.allocatables {
                    let Ok(identity) = object.identity.parse::<Identity>() else {
                        continue;
                    };
                    let Ok(proxy) = format!("object {}", object.proxy_options).parse() else {
                        continue;
                    };
                    let proxy = Proxy {
                        identity: identity.clone(),
                        reference: Reference::Indirect(adapter.id.clone()),
                        ..proxy
                    };
                    let allocatable = Allocatable {
                        type_id: object.type_id.clone(),
                        proxy,
                        server: id.clone(),
                        whole: placed.descriptor.allocatable,
                    };
                    self.allocatables.entry(identity).or_insert(allocatable);
                }
                if is_blitz && adapter.name == "BlitzAdapter" {
                    host.blitz_adapter = Some(adapter.id.clone());
                }
                let known = old.get(&adapter.id);
                let proxy = known
                    .filter(|known| known.server.as_ref() == Some(id))
                    .and_then(|known| known.proxy.clone());
                self.adapters.insert(
                    adapter.id.clone(),
                    Adapter {
                        server: Some(id.clone()),
                        group: adapter.replica_group_id.clone(),
                        priority: adapter.priority.trim().parse().unwrap_or(0),
                        proxy,
                    },
                );
            }
            self.servers.insert(id.clone(), host);
        }
        for deployed in desired.in_order() {
            for (id, group) in &deployed.deployment.replica_groups {
                let balancing = &group.load_balancing;
                let sample = match balancing.load_sample.as_deref().map(str::trim) {
                    Some("5") => 1,
                    Some("15") => 2,
                    _ => 0,
                };
                let turn = groups.remove(id).map(|group| group.turn);
                self.groups.insert(
                    id.clone(),
                    Group {
                        policy: balancing.policy,
                        replicas: balancing.n_replicas.trim().parse().unwrap_or(1),
                        sample,
                        members: Vec::new(),
                        deployed: true,
                        turn: turn.unwrap_or_default(),
                    },
                );
            }
        }
        for (id, dynamic) in &desired.adapters {
            // What is deployed under the same id is stronger.
            let adapter = || Adapter::from(dynamic);
            self.adapters.entry(id.clone()).or_insert_with(adapter);
        }
        let mut adapters: Vec<(&String, &Adapter)> = self.adapters.iter().collect();
        adapters.sort_by_key(|(id, _)| id.as_str());
        for (id, adapter) in adapters {
            join(&mut self.groups, &adapter.group, id);
        }
        for deployed in desired.in_order() {
            for (identity, object) in &deployed.deployment.objects {
                if let (Ok(identity), Ok(proxy)) = (identity.parse(), object.proxy.parse()) {
                    self.add_object(identity, object.type_id.clone(), proxy, true);
                }
            }
        }
        for (identity, object) in &desired.objects {
            if let (Ok(identity), Ok(proxy)) = (identity.parse(), object.proxy.parse()) {
                self.add_object(identity, object.type_id.clone(), proxy, false);
            }
        }
    }

    fn add_object(&mut self, identity: Identity, type_id: String, proxy: Proxy, deployed: bool) {
        let server = match &proxy.reference {
            Reference::Indirect(id) => self
                .adapters
                .get(id)
                .and_then(|adapter| adapter.server.clone()),
            _ => None,
        };
        self.objects.entry(identity).or_insert(Object {
            type_id,
            proxy,
            deployed,
            server,
        });
    }

    /// Takes over an adapter that registered itself, or that is to be forgotten. What is deployed under the same id is stronger.
    pub(crate) fn set_adapter(&mut self, id: &str, adapter: Option<&DynamicAdapter>) {
        let known = self.adapters.get(id);
        if known.is_some_and(|known| known.server.is_some()) {
            return;
        }
        if let Some(known) = self.adapters.remove(id) {
            leave(&mut self.groups, &known.group, id);
        }
        if let Some(adapter) = adapter.map(Adapter::from) {
            join(&mut self.groups, &adapter.group, id);
            self.adapters.insert(id.to_owned(), adapter);
        }
        self.revision += 1;
    }

    /// Takes over an object that was added by hand, or that is to be forgotten. What is deployed under the same identity is stronger.
    pub(crate) fn set_object(&mut self, identity: &str, object: Option<&DynamicObject>) {
        let Ok(identity) = identity.parse::<Identity>() else {
            return;
        };
        if self
            .objects
            .get(&identity)
            .is_some_and(|known| known.deployed)
        {
            return;
        }
        self.objects.remove(&identity);
        if let Some(object) = object
            && let Ok(proxy) = object.proxy.parse()
        {
            self.add_object(identity, object.type_id.clone(), proxy, false);
        }
        self.revision += 1;
    }

    /// Hears how a server is. Returns whether anything has changed.
    pub(crate) fn hear(&mut self, report: &ServerReport) -> bool {
        let Some(host) = self.servers.get_mut(&report.id) else {
            return false;
        };
        let process = report.process.as_deref().and_then(|text| text.parse().ok());
        let mut changed =
            (host.enabled, host.state) != (report.enabled, report.state) || host.process != process;
        (host.enabled, host.state, host.process) = (report.enabled, report.state, process);
        for id in &host.adapters {
            let Some(adapter) = self.adapters.get_mut(id) else {
                continue;
            };
            let text = report.adapters.get(id);
            let proxy = text.and_then(|text| text.parse().ok());
            changed |= adapter.proxy != proxy;
            adapter.proxy = proxy;
        }
        changed |= self.ring(report);
        if changed {
            self.revision += 1;
        }
        changed
    }

    /// Has the object `ClusterNode/UUID` of a built-in Blitz come and go with its process. Returns whether that has changed anything.
    ///
    /// OMERO's own Blitzes add theirs by hand, and whoever finds a dead one takes it away. It stays while the Blitz only says nothing.
    fn ring(&mut self, report: &ServerReport) -> bool {
        let Some(host) = self.servers.get_mut(&report.id) else {
            return false;
        };
        let adapter = host.blitz_adapter.as_ref();
        let at = adapter.and_then(|id| self.adapters.get(id)?.proxy.as_ref());
        let now = at.and_then(|at| {
            let uuid = report.blitz.as_ref().map(|blitz| Identity {
                name: blitz.uuid.clone(),
                category: "ClusterNode".to_owned(),
            });
            let known = host.cluster_node.as_ref();
            let known = known.filter(|(_, pid)| *pid == report.pid);
            let identity = uuid.or_else(|| known.map(|(identity, _)| identity.clone()))?;
            let reference = at.reference.clone();
            let proxy = Proxy {
                encoding: at.encoding,
                ..Proxy::new(identity.clone(), reference)
            };
            Some((identity, proxy))
        });
        let known = host.cluster_node.as_ref();
        let known = known.and_then(|(id, _)| Some((id, &self.objects.get(id)?.proxy)));
        if known == now.as_ref().map(|(identity, proxy)| (identity, proxy)) {
            return false;
        }
        let before = std::mem::replace(
            &mut host.cluster_node,
            now.as_ref()
                .map(|(identity, _)| (identity.clone(), report.pid)),
        );
        if let Some((before, _)) = before {
            self.objects.remove(&before);
        }
        if let Some((identity, proxy)) = now {
            let object = Object {
                type_id: "::omero::grid::ClusterNode".to_owned(),
                proxy,
                deployed: true,
                // A disabled Blitz lives on, and has to be found.
                server: None,
            };
            self.objects.insert(identity, object);
        }
        true
    }

    /// Forgets what a server has registered: its node is down, and so is the server.
    pub(crate) fn down(&mut self, id: &ServerId) {
        let Some(host) = self.servers.get_mut(id) else {
            return;
        };
        host.state = ServerState::Inactive;
        host.process = None;
        if let Some((gone, _)) = host.cluster_node.take() {
            self.objects.remove(&gone);
        }
        for id in &host.adapters {
            if let Some(adapter) = self.adapters.get_mut(id) {
                adapter.proxy = None;
            }
        }
        self.revision += 1;
    }
}

impl From<&DynamicAdapter> for Adapter {
    fn from(dynamic: &DynamicAdapter) -> Self {
        Self {
            server: None,
            group: dynamic.group.clone(),
            priority: 0,
            proxy: dynamic.proxy.parse().ok(),
        }
    }
}

/// Has an adapter belong to a group, which is made by that where it is not deployed.
fn join(groups: &mut HashMap<String, Group>, group: &str, id: &str) {
    if group.is_empty() {
        return;
    }
    let group = groups.entry(group.to_owned()).or_insert_with(|| Group {
        policy: LoadBalancingPolicy::Random,
        replicas: 0,
        sample: 0,
        members: Vec::new(),
        deployed: false,
        turn: AtomicUsize::default(),
    });
    if let Err(at) = group
        .members
        .binary_search_by(|member| member.as_str().cmp(id))
    {
        group.members.insert(at, id.to_owned());
    }
}

/// Has an adapter belong to a group no longer.
fn leave(groups: &mut HashMap<String, Group>, name: &str, id: &str) {
    let Some(group) = groups.get_mut(name) else {
        return;
    };
    group.members.retain(|member| member != id);
    if group.members.is_empty() && !group.deployed {
        groups.remove(name);
    }
}

/// Returns the adapters of a server and of its services.
pub(crate) fn adapters_of(
    server: &ServerDescriptor,
) -> impl Iterator<Item = &crate::descriptor::AdapterDescriptor> {
    let services = server.services.iter().flatten();
    let services = services.filter_map(|service| service.descriptor.as_ref());
    server
        .adapters
        .iter()
        .chain(services.flat_map(|service| &service.adapters))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::desired::{Change, Deployed, History};
    use super::*;
    use crate::descriptor::{AdapterDescriptor, Deployment, ObjectInfo, PlacedServer};
    use crate::ipc::message::client::DescriptorSource;

    /// A server with adapter `a0` in group `g0`, a group `g1` without members, and an object `o0`.
    fn deployed() -> Desired {
        let mut descriptor = ServerDescriptor::default();
        descriptor.adapters.push(AdapterDescriptor {
            id: "a0".to_owned(),
            replica_group_id: "g0".to_owned(),
            ..AdapterDescriptor::default()
        });
        let node = "n".parse().unwrap();
        let object = ObjectInfo {
            proxy: "o0 @ a0".to_owned(),
            type_id: String::new(),
        };
        let groups = ["g0", "g1"].map(|group| (group.to_owned(), Default::default()));
        let deployment = Deployment {
            servers: [("s".parse().unwrap(), PlacedServer { node, descriptor })].into(),
            objects: [("o0".to_owned(), object)].into(),
            replica_groups: groups.into(),
            ..Deployment::default()
        };
        let mut desired = Desired::default();
        desired.apply(Change::Application(Box::new(Deployed {
            order: 0,
            source: DescriptorSource::default(),
            deployment,
            profile: Vec::new(),
            definition: None,
            history: History::default(),
        })));
        desired
    }

    /// Returns all that can be asked, in order.
    fn picture(registry: &Registry) -> String {
        let adapters: BTreeMap<_, _> = registry.adapters().collect();
        let members = |(id, group): (&String, &Group)| (id.clone(), group.members.clone());
        let groups: BTreeMap<_, _> = registry.groups.iter().map(members).collect();
        format!("{adapters:#?}\n{groups:#?}\n{:#?}", registry.objects)
    }

    proptest! {
        #[test]
        fn step_by_step_comes_to_the_same_as_anew(
            steps in prop::collection::vec((any::<bool>(), 0..4_u8, prop::option::of(0..4_u8)), 0..40),
        ) {
            let mut desired = deployed();
            let mut registry = Registry::default();
            registry.define(&desired);
            for (is_object, which, what) in steps {
                if is_object {
                    let object = what.map(|what| DynamicObject {
                        type_id: format!("::T{what}"),
                        proxy: format!("o{which} @ a{what}"),
                    });
                    let identity = format!("o{which}");
                    registry.set_object(&identity, object.as_ref());
                    desired.apply(Change::Object(identity, object));
                } else {
                    let adapter = what.map(|what| DynamicAdapter {
                        proxy: format!("dummy -t:tcp -h h -p {what}"),
                        group: if what == 3 { String::new() } else { format!("g{what}") },
                    });
                    let id = format!("a{which}");
                    registry.set_adapter(&id, adapter.as_ref());
                    desired.apply(Change::Adapter(id, adapter));
                }
            }
            let mut anew = Registry::default();
            anew.define(&desired);
            prop_assert_eq!(picture(&registry), picture(&anew));
        }
    }
}
