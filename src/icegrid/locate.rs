//! Which adapters of a replica group a client is told, and in which order (`icegrid-glacier2.md` §4). Pure.

use std::collections::HashMap;

use crate::descriptor::LoadBalancingPolicy;
use crate::ice::{Encoding, Endpoint, Identity, Proxy, Reference};
use crate::master::{Adapter, Registry};
use crate::model::{Activation, NodeName, ServerId};

/// The load of a node of which nothing is known: it is the last to be chosen.
const UNKNOWN_LOAD: f64 = 999.9;

/// What is found of an adapter or a replica group.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// There is none of that name.
    Nothing,
    /// It is known. Nobody listens there unless there is a proxy; these servers can be started so that somebody does.
    Known {
        /// Where it listens.
        proxy: Option<Proxy>,
        /// Servers that could be started for it, in the order in which they are to be asked.
        startable: Vec<ServerId>,
    },
}

/// What an order may depend on beside the registry.
pub(super) struct Circumstances<'a> {
    /// The encoding of the question.
    pub(super) encoding: Encoding,
    /// The load of nodes, already multiplied by their factors.
    pub(super) loads: &'a HashMap<NodeName, [f64; 3]>,
    /// Returns whether a session has a server.
    pub(super) owned: &'a dyn Fn(&ServerId) -> bool,
    /// Chooses a number below another.
    pub(super) dice: &'a mut dyn FnMut(usize) -> usize,
}

/// Finds an adapter or a replica group.
pub(super) fn find(registry: &Registry, id: &str, now: &mut Circumstances<'_>) -> Found {
    // Groups and adapters never share an id.
    if let Some(adapter) = registry.adapter(id) {
        let (proxy, startable) = look(registry, adapter, now);
        return Found::Known {
            proxy: proxy.map(|proxy| as_adapter(proxy, endpoints(proxy).to_vec())),
            startable: startable.into_iter().cloned().collect(),
        };
    }
    let Some(group) = registry.group(id) else {
        return Found::Nothing;
    };
    let mut members: Vec<&Adapter> = group
        .members
        .iter()
        .filter_map(|id| registry.adapter(id))
        .collect();
    match group.policy {
        LoadBalancingPolicy::Random => shuffle(&mut members, now.dice),
        LoadBalancingPolicy::Ordered => members.sort_by_key(|adapter| adapter.priority),
        LoadBalancingPolicy::RoundRobin => {
            let count = members.len().max(1);
            members.rotate_left(group.next_turn() % count);
        }
        LoadBalancingPolicy::Adaptive => {
            shuffle(&mut members, now.dice);
            let load = |adapter: &&Adapter| {
                let server = adapter.server.as_ref().and_then(|id| registry.server(id));
                let load = server.and_then(|host| now.loads.get(&host.node));
                load.map_or(UNKNOWN_LOAD, |load| load[group.sample.min(2)])
            };
            members.sort_by(|a, b| load(a).total_cmp(&load(b)));
        }
    }
    let most = match group.replicas {
        0 => usize::MAX,
        most => most,
    };
    let mut proxy: Option<Proxy> = None;
    let (mut found, mut startable) = (0, Vec::new());
    for member in members {
        if found == most {
            break;
        }
        let (listens, server) = look(registry, member, now);
        startable.extend(server.cloned());
        let Some(listens) = listens else { continue };
        found += 1;
        match &mut proxy {
            None => proxy = Some(as_adapter(listens, endpoints(listens).to_vec())),
            Some(proxy) => {
                if let Reference::Direct(all) = &mut proxy.reference {
                    all.extend(endpoints(listens).iter().cloned());
                }
            }
        }
    }
    Found::Known { proxy, startable }
}

/// Returns where an adapter listens, or else the server that could be started for it.
fn look<'r>(
    registry: &'r Registry,
    adapter: &'r Adapter,
    now: &Circumstances<'_>,
) -> (Option<&'r Proxy>, Option<&'r ServerId>) {
    let encoding = now.encoding;
    let Some(id) = &adapter.server else {
        return (adapter.proxy.as_ref().filter(|p| speaks(p, encoding)), None);
    };
    let Some(host) = registry.server(id).filter(|host| host.enabled) else {
        return (None, None);
    };
    match &adapter.proxy {
        Some(proxy) => (Some(proxy).filter(|p| speaks(p, encoding)), None),
        None => {
            let startable = match host.activation {
                Activation::OnDemand => true,
                Activation::Session => (now.owned)(id),
                Activation::Always | Activation::Manual => false,
            };
            (None, startable.then_some(id))
        }
    }
}

/// Returns whether who listens there understands what is asked for.
fn speaks(proxy: &Proxy, encoding: Encoding) -> bool {
    let [major, minor] = encoding.bytes();
    proxy.encoding[0] == major && proxy.encoding[1] >= minor
}

fn endpoints(proxy: &Proxy) -> &[Endpoint] {
    match &proxy.reference {
        Reference::Direct(endpoints) => endpoints,
        Reference::Indirect(_) | Reference::WellKnown => &[],
    }
}

/// Makes the proxy of an adapter: whose identity is in it means nothing.
fn as_adapter(of: &Proxy, endpoints: Vec<Endpoint>) -> Proxy {
    let mut proxy = Proxy::new(Identity::new("dummy"), Reference::Direct(endpoints));
    proxy.encoding = of.encoding;
    proxy
}

fn shuffle<T>(all: &mut [T], dice: &mut dyn FnMut(usize) -> usize) {
    for at in (1..all.len()).rev() {
        all.swap(at, dice(at + 1));
    }
}
