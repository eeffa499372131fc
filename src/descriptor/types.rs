//! The structures of a descriptor, named as IceGrid's Slice file `Descriptor.ice` names them.
//!
//! Each exists once for both stages: with [`Text`](super::Text) as written (the definition), with `String` expanded
//! (the deployment). Serialised, they are the schema of `describe --format json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A property: its name and its value.
pub type Property<S = String> = (S, S);

/// Where a server's files are fetched from (IcePatch2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution<S = String> {
    /// Proxy of the IcePatch2 server; empty if nothing is fetched.
    pub icepatch: S,
    /// The directories to fetch.
    pub directories: Vec<S>,
}

/// References to named property sets, and properties.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PropertySet<S = String> {
    /// Ids of the named sets that come first.
    pub references: Vec<S>,
    /// Properties in order; duplicates are kept and the last one counts.
    pub properties: Vec<Property<S>>,
}

impl PropertySet<String> {
    /// Returns the value that a reader of the generated file would see: that of the last property of the name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

/// A well-known object or an allocatable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDescriptor<S = String> {
    /// Its identity in string form.
    pub identity: S,
    /// Its Slice type id, or empty.
    #[serde(rename = "type")]
    pub type_id: S,
    /// Its proxy options, or empty.
    pub proxy_options: S,
}

/// An object adapter of a server or service. Its endpoints are the property `NAME.Endpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterDescriptor<S = String> {
    /// The name that the program uses.
    pub name: S,
    /// For people.
    pub description: S,
    /// The id, unique in the grid.
    pub id: S,
    /// The replica group it belongs to, or empty.
    pub replica_group_id: S,
    /// Its place under the policy `ordered`: a decimal number, or empty.
    pub priority: S,
    /// Whether it registers a process object (only for Ice before 3.3).
    pub register_process: bool,
    /// Whether the server is active only while this adapter is.
    pub server_lifetime: bool,
    /// Its well-known objects.
    pub objects: Vec<ObjectDescriptor<S>>,
    /// Its allocatable objects.
    pub allocatables: Vec<ObjectDescriptor<S>>,
}

/// A database environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DbEnvDescriptor<S = String> {
    /// Its name.
    pub name: S,
    /// For people.
    pub description: S,
    /// Its directory; empty if the node makes one.
    pub db_home: S,
    /// Lines of its `DB_CONFIG`.
    pub properties: Vec<Property<S>>,
}

/// A server: a process that a node supervises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerDescriptor<S = String> {
    /// Plain server or icebox.
    pub kind: ServerKind,
    /// Its id, unique in the grid.
    pub id: S,
    /// The program to run.
    pub exe: S,
    /// The Ice version it uses, or empty.
    pub ice_version: S,
    /// Its working directory; empty for the node's.
    pub pwd: S,
    /// Its command-line arguments.
    pub options: Vec<S>,
    /// Its environment, `NAME=value`.
    pub envs: Vec<S>,
    /// `always`, `on-demand`, `session`, `manual` or empty.
    pub activation: S,
    /// Seconds until it has to be ready: a decimal number, or empty.
    pub activation_timeout: S,
    /// Seconds until it has to be gone: a decimal number, or empty.
    pub deactivation_timeout: S,
    /// Whether the application's distribution concerns it.
    pub application_distrib: bool,
    /// Its own distribution.
    pub distrib: Distribution<S>,
    /// Whether sessions may allocate it.
    pub allocatable: bool,
    /// The account it runs under, or empty.
    pub user: S,
    /// For people.
    pub description: S,
    /// Its adapters.
    pub adapters: Vec<AdapterDescriptor<S>>,
    /// Its properties.
    pub property_set: PropertySet<S>,
    /// Its database environments.
    pub db_envs: Vec<DbEnvDescriptor<S>>,
    /// Files that clients may read.
    pub logs: Vec<S>,
    /// The services of an icebox; absent for a plain server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<ServiceInstanceDescriptor<S>>>,
}

/// The kind of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// One program.
    #[default]
    Server,
    /// A program that loads services.
    Icebox,
}

/// A service of an icebox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDescriptor<S = String> {
    /// Always `service`.
    pub kind: ServiceKind,
    /// Its name, unique in its icebox.
    pub name: S,
    /// Its entry point.
    pub entry: S,
    /// For people.
    pub description: S,
    /// Its adapters.
    pub adapters: Vec<AdapterDescriptor<S>>,
    /// Its properties.
    pub property_set: PropertySet<S>,
    /// Its database environments.
    pub db_envs: Vec<DbEnvDescriptor<S>>,
    /// Files that clients may read.
    pub logs: Vec<S>,
}

/// The kind of a service, written for symmetry with [`ServerKind`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// The only kind.
    #[default]
    Service,
}

/// A service as written in an icebox: an instance of a template, or inline (then `template` is empty).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceInstanceDescriptor<S = String> {
    /// The template's id, or empty.
    pub template: S,
    /// The parameters given.
    pub parameter_values: BTreeMap<String, S>,
    /// The inline or expanded service.
    pub descriptor: Option<ServiceDescriptor<S>>,
    /// Properties added by the instance.
    pub property_set: PropertySet<S>,
}
