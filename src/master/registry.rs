//! What the locator answers from: adapters, replica groups and well-known objects, and where they are.
//!
//! Pure. The definitions come from what is deployed, what was registered beside it is durable (`desired`), and where the adapters of servers
//! listen is what their nodes tell. Kept up to date step by step, so that a registration costs the same whatever else there is.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::desired::Desired;
use crate::descriptor::{LoadBalancingPolicy, ServerDescriptor};
use crate::ice::{Identity, Proxy};
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
    /// The ids of its adapters, in the order of their definition.
    pub members: Vec<String>,
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
                        turn: turn.unwrap_or_default(),
                    },
                );
            }
        }
        for (id, dynamic) in &desired.adapters {
            // What is deployed under the same id is stronger.
            self.adapters.entry(id.clone()).or_insert_with(|| Adapter {
                server: None,
                group: dynamic.group.clone(),
                priority: 0,
                proxy: dynamic.proxy.parse().ok(),
            });
        }
        let mut members: Vec<(&String, &Adapter)> = self.adapters.iter().collect();
        members.sort_by_key(|(id, _)| id.as_str());
        for (id, adapter) in members {
            if adapter.group.is_empty() {
                continue;
            }
            // A group that is not deployed is made by those who say that they belong to it.
            let group = self.groups.entry(adapter.group.clone()).or_insert(Group {
                policy: LoadBalancingPolicy::Random,
                replicas: 0,
                sample: 0,
                members: Vec::new(),
                turn: AtomicUsize::default(),
            });
            group.members.push(id.clone());
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
            crate::ice::Reference::Indirect(id) => self
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
