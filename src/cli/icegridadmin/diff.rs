//! What differs between an application as it is deployed and one in a file, as icegridadmin prints it, its spelling included.

use std::collections::{BTreeMap, BTreeSet};

use super::describe;
use super::fault::CommandError;
use super::output::Output;
use super::run::Result;
use crate::descriptor::{self, Application, Change, Diff, Disk, Request};
use crate::ice::Objects;
use crate::icegrid::descriptors::application_from_slice;
use crate::icegrid::types::*;

/// An application, and what it refers to.
type Side<'a> = (&'a ApplicationDescriptor, &'a Objects);

/// Prints what differs in an application.
pub(super) fn application(out: &mut Output, old: Side<'_>, new: Side<'_>) {
    let ((from, _), (to, _)) = (old, new);
    out.block(format!("application `{}'", to.name), |out| {
        if from.variables != to.variables {
            out.line("variables udpated");
        }
        if from.distrib != to.distrib {
            out.line("distribution updated");
        }
        if from.property_sets != to.property_sets {
            out.line("property sets udpated");
        }
        replica_groups(out, old, new);
        templates(
            out,
            "server template",
            (&from.server_templates, old.1),
            (&to.server_templates, new.1),
        );
        templates(
            out,
            "service template",
            (&from.service_templates, old.1),
            (&to.service_templates, new.1),
        );
        nodes(out, old, new);
    });
}

/// Prints lines in a block, unless there are none.
fn lines(out: &mut Output, title: &str, lines: Vec<String>) {
    if !lines.is_empty() {
        out.block(title, |out| lines.iter().for_each(|line| out.line(line)));
    }
}

fn replica_groups(out: &mut Output, old: Side<'_>, new: Side<'_>) {
    let find = |of: &ApplicationDescriptor, id: &str| {
        of.replica_groups
            .iter()
            .find(|group| group.id == id)
            .cloned()
    };
    let mut found = Vec::new();
    for group in &new.0.replica_groups {
        match find(old.0, &group.id) {
            None => found.push(format!("replica group `{}' added", group.id)),
            Some(before) if !same_group((&before, old.1), (group, new.1)) => {
                found.push(format!("replica group `{}' updated", group.id));
            }
            Some(_) => {}
        }
    }
    for group in &old.0.replica_groups {
        if find(new.0, &group.id).is_none() {
            found.push(format!("replica group `{}' removed", group.id));
        }
    }
    lines(out, "replica groups", found);
}

fn same_group(
    a: (&ReplicaGroupDescriptor, &Objects),
    b: (&ReplicaGroupDescriptor, &Objects),
) -> bool {
    fn policy(
        (group, objects): (&ReplicaGroupDescriptor, &Objects),
    ) -> (&'static str, String, String) {
        let of = group.load_balancing;
        let n = objects
            .find::<LoadBalancingPolicy, _>(of)
            .map_or_else(String::new, |policy| policy.n_replicas.clone());
        if let Some(adaptive) = objects.find::<AdaptiveLoadBalancingPolicy, _>(of) {
            return ("adaptive", n, adaptive.load_sample.clone());
        }
        let kind = if objects.find::<OrderedLoadBalancingPolicy, _>(of).is_some() {
            "ordered"
        } else if objects
            .find::<RoundRobinLoadBalancingPolicy, _>(of)
            .is_some()
        {
            "round-robin"
        } else {
            "random"
        };
        (kind, n, String::new())
    }
    let rest = |group: &ReplicaGroupDescriptor| {
        (
            group.proxy_options.clone(),
            group.objects.clone(),
            group.description.clone(),
            group.filter.clone(),
        )
    };
    policy(a) == policy(b) && rest(a.0) == rest(b.0)
}

/// Writes what a template, a server or a service has, with everything that it refers to: what is written the same is the same.
fn template_text(template: &TemplateDescriptor, objects: &Objects) -> String {
    let parameters = format!(
        "{:?} {:?}",
        template.parameters, template.parameter_defaults
    );
    match objects.find::<ServiceDescriptor, _>(template.descriptor) {
        Some(service) => format!("{parameters} {service:?}"),
        None => format!(
            "{parameters} {}",
            server_text(template.descriptor.cast(), objects)
        ),
    }
}

fn server_text(of: crate::ice::Ref<ServerDescriptor>, objects: &Objects) -> String {
    let Some(server) = objects.find::<ServerDescriptor, _>(of) else {
        return String::new();
    };
    let mut text = format!("{server:?}");
    if let Some(icebox) = objects.find::<IceBoxDescriptor, _>(of) {
        text.push_str(" icebox");
        for service in &icebox.services {
            let descriptor = objects.find::<ServiceDescriptor, _>(service.descriptor);
            text.push_str(&format!(
                " {:?} {:?} {:?} {descriptor:?}",
                service.template, service.parameter_values, service.property_set
            ));
        }
    }
    text
}

fn templates(
    out: &mut Output,
    kind: &str,
    (old, old_objects): (&Templates, &Objects),
    (new, new_objects): (&Templates, &Objects),
) {
    let of = |templates: &Templates, objects| -> BTreeMap<String, String> {
        let templates = templates.iter();
        templates
            .map(|(id, template)| (id.clone(), template_text(template, objects)))
            .collect()
    };
    let changes = Changes::between(&of(old, old_objects), &of(new, new_objects));
    let mut found = Vec::new();
    for (ids, what) in [
        (&changes.added, "added"),
        (&changes.updated, "updated"),
        (&changes.removed, "removed"),
    ] {
        found.extend(ids.iter().map(|id| format!("{kind} `{id}' {what}")));
    }
    lines(out, &format!("{kind}s"), found);
}

/// What is new, different and gone, in order.
struct Changes {
    added: Vec<String>,
    updated: Vec<String>,
    removed: Vec<String>,
}

impl Changes {
    fn between(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Self {
        let keys = |of: &BTreeMap<String, String>,
                    keep: &dyn Fn(&String, &String) -> bool|
         -> Vec<String> {
            let of = of.iter().filter(|(key, value)| keep(key, value));
            of.map(|(key, _)| key.clone()).collect()
        };
        Self {
            added: keys(new, &|key, _| !old.contains_key(key)),
            updated: keys(new, &|key, value| {
                old.get(key).is_some_and(|before| before != value)
            }),
            removed: keys(old, &|key, _| !new.contains_key(key)),
        }
    }
}

/// The servers of a node: those that are made of templates, and the others, as texts by id.
fn servers_by_id(
    name: &str,
    node: &NodeDescriptor,
    (application, objects): Side<'_>,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let instances = node.server_instances.iter().map(|instance| {
        let id = describe::instance_id(instance, name, node, application, objects);
        (id, format!("{instance:?}"))
    });
    let servers = node.servers.iter().filter_map(|server| {
        let found = objects.find::<ServerDescriptor, _>(*server)?;
        Some((found.id.clone(), server_text(*server, objects)))
    });
    (instances.collect(), servers.collect())
}

fn nodes(out: &mut Output, old: Side<'_>, new: Side<'_>) {
    let names: BTreeSet<&String> = old.0.nodes.keys().chain(new.0.nodes.keys()).collect();
    let mut updated = Vec::new();
    for name in names {
        if let (Some(from), Some(to)) = (old.0.nodes.get(name), new.0.nodes.get(name)) {
            let found = node(name, (from, old), (to, new));
            if !found.0.is_empty() || !found.1.is_empty() {
                updated.push((name, found));
            }
        }
    }
    let added = new
        .0
        .nodes
        .iter()
        .filter(|(name, _)| !old.0.nodes.contains_key(*name));
    let added: Vec<_> = added.collect();
    let removed: Vec<_> = old
        .0
        .nodes
        .keys()
        .filter(|name| !new.0.nodes.contains_key(*name))
        .collect();
    if added.is_empty() && updated.is_empty() && removed.is_empty() {
        return;
    }
    out.block("nodes", |out| {
        for (name, node) in added {
            describe::node(out, name, node, new.0, new.1);
        }
        for (name, (of_node, of_servers)) in updated {
            out.block(format!("node `{name}' updated"), |out| {
                of_node.iter().for_each(|line| out.line(line));
                lines(out, "servers", of_servers);
            });
        }
        for name in removed {
            out.line(format!("node `{name}' removed"));
        }
    });
}

/// Says what differs in a node, and in its servers.
fn node(
    name: &str,
    (from, old): (&NodeDescriptor, Side<'_>),
    (to, new): (&NodeDescriptor, Side<'_>),
) -> (Vec<String>, Vec<String>) {
    let mut of_node = Vec::new();
    for (differs, what) in [
        (from.load_factor != to.load_factor, "load factor udpated"),
        (from.description != to.description, "description udpated"),
        (
            from.property_sets != to.property_sets,
            "property sets udpated",
        ),
        (from.variables != to.variables, "variables udpated"),
    ] {
        if differs {
            of_node.push(what.to_owned());
        }
    }
    let (old_instances, old_servers) = servers_by_id(name, from, old);
    let (new_instances, new_servers) = servers_by_id(name, to, new);
    let instances = Changes::between(&old_instances, &new_instances);
    let servers = Changes::between(&old_servers, &new_servers);
    let sorted =
        |a: Vec<String>, b: Vec<String>| -> BTreeSet<String> { a.into_iter().chain(b).collect() };
    let mut of_servers = Vec::new();
    let added = sorted(instances.added, servers.added);
    let updated = sorted(instances.updated, servers.updated);
    let gone = |ids: Vec<String>, others: &BTreeMap<String, String>| -> Vec<String> {
        ids.into_iter()
            .filter(|id| !others.contains_key(id))
            .collect()
    };
    let removed = [
        gone(instances.removed, &new_servers),
        gone(servers.removed, &new_instances),
    ]
    .concat();
    of_servers.extend(added.iter().map(|id| format!("server `{id}' added")));
    of_servers.extend(updated.iter().map(|id| format!("server `{id}' updated")));
    of_servers.extend(removed.iter().map(|id| format!("server `{id}' removed")));
    (of_node, of_servers)
}

/// Prints which servers differ, everything that they are made of taken together.
pub(super) fn servers(
    out: &mut Output,
    old: &ApplicationDescriptor,
    objects: &Objects,
    new: Application,
) -> Result<()> {
    let old = application_from_slice(old, objects)
        .map_err(|error| CommandError::new(error.to_string()))?;
    let expand = |application: Application| {
        let loaded = descriptor::expand_application(application, &Disk, &Request::default());
        loaded.map(|loaded| loaded.deployment)
    };
    let name = new.name.clone();
    let diff = Diff::between(&expand(old)?, &expand(new)?);
    out.block(format!("application `{name}'"), |out| {
        for change in &diff.servers {
            let what = match &change.change {
                Change::Added { .. } => "added",
                Change::Removed { .. } => "removed",
                Change::Moved { .. } => "moved (restart required)",
                Change::PropertiesOnly { .. } => "properties updated (no restart required)",
                // IceGrid restarts for a description too.
                Change::Changed { .. } | Change::DescriptionOnly => "updated (restart required)",
            };
            out.line(format!("server `{}': {what}", change.server));
        }
    });
    Ok(())
}
