//! The node's stage: names that only a node knows, and the configuration files that a server reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config_file::ConfigFile;
use super::types::{
    AdapterDescriptor, DbEnvDescriptor, Distribution, ObjectDescriptor, Property, PropertySet,
    ServerDescriptor, ServerKind, ServiceDescriptor,
};
use super::variables::{Piece, Pieces, SubstitutionError};

/// What a node knows about itself and its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// `${node.os}`: `uname -s`.
    pub os: String,
    /// `${node.hostname}`: `uname -n`.
    pub hostname: String,
    /// `${node.release}`: `uname -r`.
    pub release: String,
    /// `${node.version}`: `uname -v`.
    pub version: String,
    /// `${node.machine}`: `uname -m`.
    pub machine: String,
    /// `${node.data}`: the directory that has `servers/ID`.
    pub data_dir: String,
    /// The locator that servers use unless they have their own.
    pub locator: Option<String>,
    /// The directory for `Ice.StdOut` and `Ice.StdErr` (`IceGrid.Node.Output`).
    pub output: Option<String>,
    /// Properties that are put into every file (`IceGrid.Node.PropertiesOverride`).
    pub properties_override: Vec<Property>,
    /// Whether files are written letter for letter as IceGrid does, its faults included. For comparisons only.
    pub as_icegrid: bool,
}

/// A server as its node runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The descriptor, expanded to the end.
    pub descriptor: ServerDescriptor,
    /// Configuration files below `servers/ID/config/`, by name: `config`, `config_SERVICE`.
    pub files: BTreeMap<String, Vec<String>>,
    /// Lines of `DB_CONFIG` of the database environments that the node keeps, by name; `None` without properties.
    pub dbs: BTreeMap<String, Option<Vec<String>>>,
}

/// A server that a node cannot load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeStageError {
    /// A text has a name that the node does not know either.
    #[error("server '{server}': {reason} in '{text}'")]
    Substitute {
        /// The server.
        server: String,
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Expands a server to the end and writes its configuration files.
///
/// A server of a session keeps `${session.id}` until a session owns it.
///
/// # Errors
///
/// A name that is not known here either; only a parameter that brings dollars of its own can cause that.
pub fn node_stage(
    server: &ServerDescriptor,
    application: &str,
    node: &str,
    facts: &NodeFacts,
) -> Result<Resolved, NodeStageError> {
    let descriptor = if facts.as_icegrid && server.activation == "session" {
        server.clone()
    } else {
        let resolver = Resolver {
            application,
            node,
            server,
            service: None,
            facts,
        };
        resolver.server()?
    };
    let mut files = BTreeMap::new();
    let config = |name: &str| format!("{}/servers/{}/config/{name}", facts.data_dir, descriptor.id);
    files.insert(
        "config".to_owned(),
        ConfigFile::server(&descriptor, facts, &config).finish(),
    );
    for service in services(&descriptor) {
        let lines = ConfigFile::service(&descriptor, service, facts).finish();
        files.insert(format!("config_{}", service.name), lines);
    }
    let db_envs = descriptor
        .db_envs
        .iter()
        .chain(services(&descriptor).flat_map(|s| &s.db_envs));
    let dbs = db_envs
        .filter(|d| d.db_home.is_empty())
        .map(|d| {
            let line = |(name, value): &Property| {
                let line = if value.is_empty() {
                    name.clone()
                } else {
                    format!("{name} {value}")
                };
                line.replace(['\n', '\r'], " ")
            };
            (
                d.name.clone(),
                (!d.properties.is_empty()).then(|| d.properties.iter().map(line).collect()),
            )
        })
        .collect();
    Ok(Resolved {
        descriptor,
        files,
        dbs,
    })
}

pub(super) fn services(server: &ServerDescriptor) -> impl Iterator<Item = &ServiceDescriptor> {
    server
        .services
        .iter()
        .flatten()
        .filter_map(|s| s.descriptor.as_ref())
}

/// Replaces the names of the node in all texts of a server.
#[derive(Clone, Copy)]
struct Resolver<'r> {
    application: &'r str,
    node: &'r str,
    server: &'r ServerDescriptor,
    service: Option<&'r str>,
    facts: &'r NodeFacts,
}

impl Resolver<'_> {
    fn text(&self, text: &str) -> Result<String, NodeStageError> {
        if !text.contains("${") {
            return Ok(text.to_owned());
        }
        self.substitute(text)
            .map_err(|error| NodeStageError::Substitute {
                server: self.server.id.clone(),
                text: text.to_owned(),
                reason: error.to_string(),
            })
    }

    fn substitute(&self, text: &str) -> Result<String, SubstitutionError> {
        let mut out = String::with_capacity(text.len());
        for piece in Pieces::new(text) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Escaped { dollars } => {
                    out.extend(std::iter::repeat_n('$', (dollars - 1) / 2));
                    out.push_str("${");
                }
                Piece::Unclosed => return Err(SubstitutionError::Malformed(text.to_owned())),
                Piece::Variable { dollars, name } => {
                    out.extend(std::iter::repeat_n('$', dollars / 2));
                    if name == "session.id" && self.server.activation == "session" {
                        out.push_str("${session.id}");
                        continue;
                    }
                    let value = self
                        .find(name)
                        .ok_or_else(|| SubstitutionError::Undefined(name.to_owned()))?;
                    out.push_str(value);
                }
            }
        }
        Ok(out)
    }

    fn find(&self, name: &str) -> Option<&str> {
        Some(match name {
            "application" => self.application,
            "node" => self.node,
            "server" => &self.server.id,
            "service" => self.service?,
            "node.os" => &self.facts.os,
            "node.hostname" => &self.facts.hostname,
            "node.release" => &self.facts.release,
            "node.version" => &self.facts.version,
            "node.machine" => &self.facts.machine,
            "node.data" | "node.datadir" => &self.facts.data_dir,
            _ => return None,
        })
    }

    fn texts(&self, texts: &[String]) -> Result<Vec<String>, NodeStageError> {
        texts.iter().map(|t| self.text(t)).collect()
    }

    fn server(&self) -> Result<ServerDescriptor, NodeStageError> {
        let server = self.server;
        let services = match &server.services {
            None => None,
            Some(services) => {
                let resolved: Result<Vec<_>, _> = services
                    .iter()
                    .map(|instance| {
                        let mut out = instance.clone();
                        if let Some(service) = &instance.descriptor {
                            out.descriptor = Some(
                                Self {
                                    service: Some(&service.name),
                                    ..*self
                                }
                                .service(service)?,
                            );
                        }
                        Ok(out)
                    })
                    .collect();
                Some(resolved?)
            }
        };
        Ok(ServerDescriptor {
            kind: server.kind,
            id: self.text(&server.id)?,
            exe: self.text(&server.exe)?,
            ice_version: self.text(&server.ice_version)?,
            pwd: self.text(&server.pwd)?,
            options: self.texts(&server.options)?,
            envs: self.texts(&server.envs)?,
            activation: server.activation.clone(),
            activation_timeout: server.activation_timeout.clone(),
            deactivation_timeout: server.deactivation_timeout.clone(),
            application_distrib: server.application_distrib,
            distrib: Distribution {
                icepatch: self.text(&server.distrib.icepatch)?,
                directories: self.texts(&server.distrib.directories)?,
            },
            allocatable: server.allocatable,
            user: self.text(&server.user)?,
            description: self.text(&server.description)?,
            adapters: self.adapters(&server.adapters)?,
            property_set: self.properties(&server.property_set)?,
            db_envs: self.db_envs(&server.db_envs)?,
            logs: self.texts(&server.logs)?,
            services,
        })
    }

    fn service(&self, service: &ServiceDescriptor) -> Result<ServiceDescriptor, NodeStageError> {
        Ok(ServiceDescriptor {
            kind: service.kind,
            name: self.text(&service.name)?,
            entry: self.text(&service.entry)?,
            description: self.text(&service.description)?,
            adapters: self.adapters(&service.adapters)?,
            property_set: self.properties(&service.property_set)?,
            db_envs: self.db_envs(&service.db_envs)?,
            logs: self.texts(&service.logs)?,
        })
    }

    fn pairs(&self, pairs: &[Property]) -> Result<Vec<Property>, NodeStageError> {
        pairs
            .iter()
            .map(|(name, value)| Ok((self.text(name)?, self.text(value)?)))
            .collect()
    }

    fn properties(&self, set: &PropertySet) -> Result<PropertySet, NodeStageError> {
        Ok(PropertySet {
            references: set.references.clone(),
            properties: self.pairs(&set.properties)?,
        })
    }

    fn adapters(
        &self,
        adapters: &[AdapterDescriptor],
    ) -> Result<Vec<AdapterDescriptor>, NodeStageError> {
        adapters
            .iter()
            .map(|adapter| {
                Ok(AdapterDescriptor {
                    name: self.text(&adapter.name)?,
                    description: self.text(&adapter.description)?,
                    id: self.text(&adapter.id)?,
                    replica_group_id: self.text(&adapter.replica_group_id)?,
                    priority: adapter.priority.clone(),
                    register_process: adapter.register_process,
                    server_lifetime: adapter.server_lifetime,
                    objects: self.objects(&adapter.objects)?,
                    allocatables: self.objects(&adapter.allocatables)?,
                })
            })
            .collect()
    }

    fn objects(
        &self,
        objects: &[ObjectDescriptor],
    ) -> Result<Vec<ObjectDescriptor>, NodeStageError> {
        objects
            .iter()
            .map(|object| {
                Ok(ObjectDescriptor {
                    identity: self.text(&object.identity)?,
                    type_id: self.text(&object.type_id)?,
                    proxy_options: self.text(&object.proxy_options)?,
                })
            })
            .collect()
    }

    fn db_envs(&self, db_envs: &[DbEnvDescriptor]) -> Result<Vec<DbEnvDescriptor>, NodeStageError> {
        db_envs
            .iter()
            .map(|db_env| {
                Ok(DbEnvDescriptor {
                    name: self.text(&db_env.name)?,
                    description: self.text(&db_env.description)?,
                    db_home: self.text(&db_env.db_home)?,
                    properties: self.pairs(&db_env.properties)?,
                })
            })
            .collect()
    }
}

/// Returns whether the server is an icebox.
pub(super) fn is_icebox(server: &ServerDescriptor) -> bool {
    server.kind == ServerKind::Icebox
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, activation: &str) -> Result<String, NodeStageError> {
        let server = ServerDescriptor {
            id: "s".to_owned(),
            options: vec![text.to_owned()],
            activation: activation.to_owned(),
            ..ServerDescriptor::default()
        };
        let facts = NodeFacts {
            os: "Linux".to_owned(),
            data_dir: "/d".to_owned(),
            ..NodeFacts::default()
        };
        node_stage(&server, "App", "n", &facts).map(|r| r.descriptor.options[0].clone())
    }

    #[test]
    fn escapes_are_undone_and_the_node_is_known() {
        for (text, expected) in [
            ("$${v}", "${v}"),
            ("$$$${v}", "$${v}"),
            ("${node.os}", "Linux"),
            ("$v$$v", "$v$$v"),
            ("${node.data}/x", "/d/x"),
        ] {
            assert_eq!(resolve(text, "manual").as_deref(), Ok(expected), "{text}");
        }
        assert!(resolve("${nope}", "manual").is_err());
    }

    #[test]
    fn a_server_of_a_session_is_resolved_but_for_the_session() {
        assert_eq!(
            resolve("${node.os}/${session.id}", "session").as_deref(),
            Ok("Linux/${session.id}")
        );
    }
}
