//! The structures of a deployment, named as IceGrid's Slice file `Descriptor.ice` names them.
//!
//! Serialised, they are the schema of `describe --format json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A property: its name and its value.
pub type Property = (String, String);

/// Where a server's files are fetched from (IcePatch2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// Proxy of the IcePatch2 server; empty if nothing is fetched.
    pub icepatch: String,
    /// The directories to fetch.
    pub directories: Vec<String>,
}

/// References to named property sets, and properties.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PropertySet {
    /// Ids of the named sets that come first.
    pub references: Vec<String>,
    /// Properties in order; duplicates are kept and the last one counts.
    pub properties: Vec<Property>,
}

impl PropertySet {
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
pub struct ObjectDescriptor {
    /// Its identity in string form.
    pub identity: String,
    /// Its Slice type id, or empty.
    #[serde(rename = "type")]
    pub type_id: String,
    /// Its proxy options, or empty.
    pub proxy_options: String,
}

/// An object adapter of a server or service. Its endpoints are the property `NAME.Endpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterDescriptor {
    /// The name that the program uses.
    pub name: String,
    /// For people.
    pub description: String,
    /// The id, unique in the grid.
    pub id: String,
    /// The replica group it belongs to, or empty.
    pub replica_group_id: String,
    /// Its place under the policy `ordered`: a decimal number, or empty.
    pub priority: String,
    /// Whether it registers a process object (only for Ice before 3.3).
    pub register_process: bool,
    /// Whether the server is active only while this adapter is.
    pub server_lifetime: bool,
    /// Its well-known objects.
    pub objects: Vec<ObjectDescriptor>,
    /// Its allocatable objects.
    pub allocatables: Vec<ObjectDescriptor>,
}

/// A database environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DbEnvDescriptor {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its directory; empty if the node makes one.
    pub db_home: String,
    /// Lines of its `DB_CONFIG`.
    pub properties: Vec<Property>,
}

/// A server: a process that a node supervises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerDescriptor {
    /// Plain server or icebox.
    pub kind: ServerKind,
    /// Its id, unique in the grid.
    pub id: String,
    /// The program to run.
    pub exe: String,
    /// The Ice version it uses, or empty.
    pub ice_version: String,
    /// Its working directory; empty for the node's.
    pub pwd: String,
    /// Its command-line arguments.
    pub options: Vec<String>,
    /// Its environment, `NAME=value`.
    pub envs: Vec<String>,
    /// `always`, `on-demand`, `session`, `manual` or empty.
    pub activation: String,
    /// Seconds until it has to be ready: a decimal number, or empty.
    pub activation_timeout: String,
    /// Seconds until it has to be gone: a decimal number, or empty.
    pub deactivation_timeout: String,
    /// Whether the application's distribution concerns it.
    pub application_distrib: bool,
    /// Its own distribution.
    pub distrib: Distribution,
    /// Whether sessions may allocate it.
    pub allocatable: bool,
    /// The account it runs under, or empty.
    pub user: String,
    /// For people.
    pub description: String,
    /// Its adapters.
    pub adapters: Vec<AdapterDescriptor>,
    /// Its properties.
    pub property_set: PropertySet,
    /// Its database environments.
    pub db_envs: Vec<DbEnvDescriptor>,
    /// Files that clients may read.
    pub logs: Vec<String>,
    /// The services of an icebox; absent for a plain server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub services: Option<Vec<ServiceInstanceDescriptor>>,
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
pub struct ServiceDescriptor {
    /// Always `service`.
    pub kind: ServiceKind,
    /// Its name, unique in its icebox.
    pub name: String,
    /// Its entry point.
    pub entry: String,
    /// For people.
    pub description: String,
    /// Its adapters.
    pub adapters: Vec<AdapterDescriptor>,
    /// Its properties.
    pub property_set: PropertySet,
    /// Its database environments.
    pub db_envs: Vec<DbEnvDescriptor>,
    /// Files that clients may read.
    pub logs: Vec<String>,
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
pub struct ServiceInstanceDescriptor {
    /// The template's id, or empty.
    pub template: String,
    /// The parameters given.
    pub parameter_values: BTreeMap<String, String>,
    /// The inline or expanded service.
    pub descriptor: Option<ServiceDescriptor>,
    /// Properties added by the instance.
    pub property_set: PropertySet,
}
