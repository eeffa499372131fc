//! What changed between two deployments, server by server and in words.
//!
//! Command lines and environments are compared as lists: unlike for IceGrid, another order is another command.

use std::collections::BTreeSet;

use serde::Serialize;

use super::deployment::{Deployment, PlacedServer};
use super::types::{Property, ServerDescriptor, ServiceDescriptor};
use crate::model::{NodeName, ServerId};

/// What happened to a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added {
        /// Where it runs.
        node: NodeName,
    },
    /// It is no more.
    Removed {
        /// Where it ran.
        node: NodeName,
    },
    /// It runs on another node.
    Moved {
        /// Where it ran.
        from: NodeName,
        /// Where it runs now.
        to: NodeName,
        /// What changed besides.
        what: Vec<String>,
    },
    /// It has to be started anew.
    Changed {
        /// What changed, in words.
        what: Vec<String>,
    },
    /// Only properties changed, of the server or its services.
    PropertiesOnly {
        /// The names of those properties.
        what: Vec<String>,
    },
    /// Only what is for people changed; nothing has to be done.
    DescriptionOnly,
}

/// A server and what happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerChange {
    /// The server.
    pub server: ServerId,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

/// What changed from one deployment to another. Servers that stay the same are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Servers, by id.
    pub servers: Vec<ServerChange>,
    /// Nodes that are new.
    pub nodes_added: Vec<NodeName>,
    /// Nodes that are no more.
    pub nodes_removed: Vec<NodeName>,
    /// Nodes whose load factor or variables changed.
    pub nodes_changed: Vec<NodeName>,
    /// Replica groups that are new, gone or different.
    pub replica_groups: Vec<String>,
}

impl Diff {
    /// Compares two deployments of an application.
    pub fn between(old: &Deployment, new: &Deployment) -> Self {
        let ids: BTreeSet<&ServerId> = old.servers.keys().chain(new.servers.keys()).collect();
        let servers = ids.into_iter().filter_map(|id| {
            let change = match (old.servers.get(id), new.servers.get(id)) {
                (None, Some(new)) => Change::Added {
                    node: new.node.clone(),
                },
                (Some(old), None) => Change::Removed {
                    node: old.node.clone(),
                },
                (Some(old), Some(new)) => compare(old, new)?,
                (None, None) => return None,
            };
            Some(ServerChange {
                server: id.clone(),
                change,
            })
        });
        let groups: BTreeSet<&String> = old
            .replica_groups
            .keys()
            .chain(new.replica_groups.keys())
            .collect();
        Self {
            servers: servers.collect(),
            nodes_added: new
                .nodes
                .keys()
                .filter(|n| !old.nodes.contains_key(n))
                .cloned()
                .collect(),
            nodes_removed: old
                .nodes
                .keys()
                .filter(|n| !new.nodes.contains_key(n))
                .cloned()
                .collect(),
            nodes_changed: old
                .nodes
                .iter()
                .filter(|(name, node)| new.nodes.get(name).is_some_and(|n| n != *node))
                .map(|(name, _)| name.clone())
                .collect(),
            replica_groups: groups
                .into_iter()
                .filter(|id| old.replica_groups.get(*id) != new.replica_groups.get(*id))
                .cloned()
                .collect(),
        }
    }

    /// Returns whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn compare(old: &PlacedServer, new: &PlacedServer) -> Option<Change> {
    if old == new {
        return None;
    }
    let what = differences(&old.descriptor, &new.descriptor);
    let properties = changed_properties(&old.descriptor, &new.descriptor);
    if old.node != new.node {
        let what = what
            .into_iter()
            .chain(
                properties
                    .into_iter()
                    .map(|name| format!("property {name}")),
            )
            .collect();
        return Some(Change::Moved {
            from: old.node.clone(),
            to: new.node.clone(),
            what,
        });
    }
    if !what.is_empty() {
        let what = what
            .into_iter()
            .chain(
                properties
                    .into_iter()
                    .map(|name| format!("property {name}")),
            )
            .collect();
        return Some(Change::Changed { what });
    }
    Some(if properties.is_empty() {
        Change::DescriptionOnly
    } else {
        Change::PropertiesOnly { what: properties }
    })
}

/// Names what differs apart from properties and descriptions.
fn differences(old: &ServerDescriptor, new: &ServerDescriptor) -> Vec<String> {
    let text = |name: &str, old: &str, new: &str| {
        (old != new).then(|| format!("{name} ('{old}' → '{new}')"))
    };
    let flag = |name: &str, same: bool| (!same).then(|| name.to_owned());
    let list = |name: &str, old: &[String], new: &[String]| {
        if old == new {
            return None;
        }
        let count = |list: &[String], item: &String| list.iter().filter(|i| *i == item).count();
        let more = |from: &[String], to: &[String], sign: char| -> Vec<String> {
            let mut items: Vec<&String> = to
                .iter()
                .filter(|i| count(to, i) > count(from, i))
                .collect();
            items.dedup();
            items.into_iter().map(|i| format!("{sign}'{i}'")).collect()
        };
        let items = [more(new, old, '-'), more(old, new, '+')].concat();
        Some(if items.is_empty() {
            format!("order of {name}")
        } else {
            format!("{name} ({})", items.join(" "))
        })
    };
    // A plain server and an icebox without services differ in kind only.
    let services = |server: &ServerDescriptor| {
        server
            .services
            .iter()
            .flatten()
            .filter_map(|s| s.descriptor.clone())
            .map(bare)
            .collect::<Vec<_>>()
    };
    [
        flag("kind", old.kind == new.kind),
        text("exe", &old.exe, &new.exe),
        text("ice-version", &old.ice_version, &new.ice_version),
        text("pwd", &old.pwd, &new.pwd),
        list("options", &old.options, &new.options),
        // Values of the environment can be secrets; their names are enough.
        (old.envs != new.envs).then(|| "environment".to_owned()),
        text("activation", &old.activation, &new.activation),
        text(
            "activation-timeout",
            &old.activation_timeout,
            &new.activation_timeout,
        ),
        text(
            "deactivation-timeout",
            &old.deactivation_timeout,
            &new.deactivation_timeout,
        ),
        flag(
            "application-distrib",
            old.application_distrib == new.application_distrib,
        ),
        flag("distrib", old.distrib == new.distrib),
        flag("allocatable", old.allocatable == new.allocatable),
        text("user", &old.user, &new.user),
        flag(
            "adapters",
            without_descriptions(&old.adapters, |a| &mut a.description)
                == without_descriptions(&new.adapters, |a| &mut a.description),
        ),
        flag(
            "database environments",
            without_descriptions(&old.db_envs, |d| &mut d.description)
                == without_descriptions(&new.db_envs, |d| &mut d.description),
        ),
        flag("logs", old.logs == new.logs),
        flag("services", services(old) == services(new)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn without_descriptions<T: Clone>(
    list: &[T],
    description: impl Fn(&mut T) -> &mut String,
) -> Vec<T> {
    let mut list = list.to_vec();
    for item in &mut list {
        description(item).clear();
    }
    list
}

/// Takes from a service what is compared elsewhere.
fn bare(mut service: ServiceDescriptor) -> ServiceDescriptor {
    service.description.clear();
    service.property_set.properties.clear();
    service.adapters = without_descriptions(&service.adapters, |a| &mut a.description);
    service.db_envs = without_descriptions(&service.db_envs, |d| &mut d.description);
    service
}

/// Names the properties that differ, those of services with the service before them.
fn changed_properties(old: &ServerDescriptor, new: &ServerDescriptor) -> Vec<String> {
    let mut out = changed(
        &old.property_set.properties,
        &new.property_set.properties,
        "",
    );
    let services = |server: &ServerDescriptor| -> Vec<ServiceDescriptor> {
        server
            .services
            .iter()
            .flatten()
            .filter_map(|s| s.descriptor.clone())
            .collect()
    };
    let before = services(old);
    for service in services(new) {
        if let Some(old) = before.iter().find(|s| s.name == service.name) {
            let prefix = format!("{}: ", service.name);
            out.extend(changed(
                &old.property_set.properties,
                &service.property_set.properties,
                &prefix,
            ));
        }
    }
    out
}

fn changed(old: &[Property], new: &[Property], prefix: &str) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let values = |list: &[Property], name: &str| -> Vec<String> {
        list.iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
            .collect()
    };
    let names: BTreeSet<&str> = old.iter().chain(new).map(|(n, _)| n.as_str()).collect();
    let mut out: Vec<String> = names
        .into_iter()
        .filter(|n| values(old, n) != values(new, n))
        .map(|n| format!("{prefix}{n}"))
        .collect();
    if out.is_empty() {
        out.push(format!("{prefix}order of properties"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(options: &[&str], properties: &[(&str, &str)]) -> PlacedServer {
        let mut descriptor = ServerDescriptor {
            id: "s".to_owned(),
            ..ServerDescriptor::default()
        };
        descriptor.options = options.iter().map(|o| (*o).to_owned()).collect();
        descriptor.property_set.properties = properties
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        PlacedServer {
            node: "n1".parse().unwrap(),
            descriptor,
        }
    }

    #[test]
    fn changes_are_named() {
        let old = placed(&["a", "b"], &[("p", "1")]);
        assert_eq!(compare(&old, &old), None);
        assert_eq!(
            compare(&old, &placed(&["b", "a"], &[("p", "1")])),
            Some(Change::Changed {
                what: vec!["order of options".to_owned()]
            })
        );
        assert_eq!(
            compare(&old, &placed(&["a", "c"], &[("p", "2")])),
            Some(Change::Changed {
                what: vec!["options (-'b' +'c')".to_owned(), "property p".to_owned()]
            })
        );
        assert_eq!(
            compare(&old, &placed(&["a", "b"], &[("p", "2")])),
            Some(Change::PropertiesOnly {
                what: vec!["p".to_owned()]
            })
        );
        let mut distrib = old.clone();
        distrib.descriptor.application_distrib = true;
        assert_eq!(
            compare(&old, &distrib),
            Some(Change::Changed {
                what: vec!["application-distrib".to_owned()]
            })
        );
        let mut described = old.clone();
        described.descriptor.description = "new".to_owned();
        assert_eq!(compare(&old, &described), Some(Change::DescriptionOnly));
    }
}
