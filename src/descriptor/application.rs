//! The definition of an application: the XML after includes, targets and overrides, before expansion.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::text::{Pos, Text};
use super::types::{
    Distribution, ObjectDescriptor, PropertySet, ServerDescriptor, ServiceDescriptor,
};

/// An application as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// Its name, unique in the grid.
    pub name: String,
    /// For people.
    pub description: Text,
    /// Where the files of its servers are fetched from.
    pub distrib: Distribution<Text>,
    /// Variables by name, those of the command line included.
    pub variables: BTreeMap<String, Text>,
    /// Named property sets by id.
    pub property_sets: BTreeMap<String, NamedPropertySet>,
    /// Replica groups in document order.
    pub replica_groups: Vec<ReplicaGroupDescriptor<Text>>,
    /// Server templates by id.
    pub server_templates: BTreeMap<String, Template<ServerDescriptor<Text>>>,
    /// Service templates by id.
    pub service_templates: BTreeMap<String, Template<ServiceDescriptor<Text>>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeDescriptor>,
    /// Where the application is defined.
    #[serde(skip)]
    pub(crate) at: Placed,
}

/// A named property set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPropertySet {
    /// Its references and properties.
    #[serde(flatten)]
    pub set: PropertySet<Text>,
    #[serde(skip)]
    pub(crate) at: Placed,
}

/// A template of servers or services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template<D> {
    /// What every instance is made from.
    pub descriptor: D,
    /// Names of the parameters in document order.
    pub parameters: Vec<String>,
    /// Defaults of those parameters that have one; an empty default is a default.
    pub parameter_defaults: BTreeMap<String, Text>,
}

/// A node as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDescriptor {
    /// For people.
    pub description: Text,
    /// The load factor: a decimal number, or empty.
    pub load_factor: Text,
    /// Variables by name.
    pub variables: BTreeMap<String, Text>,
    /// Named property sets by id.
    pub property_sets: BTreeMap<String, NamedPropertySet>,
    /// Instances of server templates in document order.
    pub server_instances: Vec<ServerInstanceDescriptor>,
    /// Servers in document order.
    pub servers: Vec<ServerDescriptor<Text>>,
    #[serde(skip)]
    pub(crate) at: Placed,
}

/// An instance of a server template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInstanceDescriptor {
    /// The template's id.
    pub template: Text,
    /// The parameters given.
    pub parameter_values: BTreeMap<String, Text>,
    /// Properties added to the server.
    pub property_set: PropertySet<Text>,
    /// Properties added to services of an icebox, by the name of the service.
    pub service_property_sets: BTreeMap<String, PropertySet<Text>>,
    #[serde(skip)]
    pub(crate) at: Placed,
}

/// Adapters that answer as one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaGroupDescriptor<S = String> {
    /// Its id, unique in the grid and never that of an adapter.
    pub id: S,
    /// For people.
    pub description: S,
    /// How a client's adapter is chosen.
    pub load_balancing: LoadBalancing<S>,
    /// Default proxy options of its objects.
    pub proxy_options: S,
    /// Name of a filter plug-in of the registry, or empty.
    pub filter: S,
    /// Its well-known objects.
    pub objects: Vec<ObjectDescriptor<S>>,
}

/// How one of the adapters of a replica group is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing<S = String> {
    /// The policy.
    #[serde(rename = "type")]
    pub policy: LoadBalancingPolicy,
    /// How many adapters a client is told; `0` for all.
    pub n_replicas: S,
    /// Minutes over which the load is averaged: `1`, `5` or `15`; only with the policy `adaptive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_sample: Option<S>,
}

/// A load-balancing policy of IceGrid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadBalancingPolicy {
    /// Any.
    #[default]
    Random,
    /// The one of the lowest priority that runs.
    Ordered,
    /// The one that was chosen the longest ago.
    RoundRobin,
    /// The one on the node with the least load.
    Adaptive,
}

impl LoadBalancingPolicy {
    /// The names of the policies.
    pub const NAMES: [&'static str; 4] = ["random", "ordered", "round-robin", "adaptive"];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "random" => Some(Self::Random),
            "ordered" => Some(Self::Ordered),
            "round-robin" => Some(Self::RoundRobin),
            "adaptive" => Some(Self::Adaptive),
            _ => None,
        }
    }
}

/// A place that takes no part in comparisons.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Placed(pub(crate) Pos);

impl PartialEq for Placed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Placed {}
