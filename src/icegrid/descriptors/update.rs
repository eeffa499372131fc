//! What is to change in an application: done to one, and found between two.
//!
//! What is changed stays where it is in its list, and what is new comes last. Servers are known by their ids, which for instances of
//! templates follow from the application.

use std::collections::{BTreeMap, BTreeSet};

use super::DescriptorError;
use super::read::Reader;
use super::write;
use crate::descriptor::{
    Application, NodeDescriptor, ServerDescriptor, ServerInstanceDescriptor, Text, instance_id,
    server_id,
};
use crate::ice::{Objects, Ref};
use crate::icegrid::types as slice;

/// Returns the application after an update that came over Ice.
///
/// # Errors
///
/// Something in the update is missing, of the wrong class, or more than can be.
pub fn update_application(
    application: &Application,
    update: &slice::ApplicationUpdateDescriptor,
    objects: &Objects,
) -> Result<Application, DescriptorError> {
    let mut read = Reader::new(objects);
    let mut new = application.clone();
    if let Some(description) = boxed(&mut read, update.description)? {
        new.description = description;
    }
    if !update.distrib.is_nil() {
        let distrib = read.found(update.distrib, || "the distribution".to_owned())?;
        new.distrib = read.distribution(&distrib.value)?;
    }
    let variables = read.texts(&update.variables)?;
    put(&mut new.variables, &update.remove_variables, variables);
    let sets = read.named_sets(&update.property_sets)?;
    put(&mut new.property_sets, &update.remove_property_sets, sets);
    let removed = &update.remove_replica_groups;
    let is_kept = |id: &Text| !removed.iter().any(|removed| removed == id.as_str());
    new.replica_groups.retain(|group| is_kept(&group.id));
    for group in &update.replica_groups {
        let group = read.replica_group(group)?;
        let mut groups = new.replica_groups.iter_mut();
        match groups.find(|other| other.id == group.id) {
            Some(other) => *other = group,
            None => new.replica_groups.push(group),
        }
    }
    let templates = read.server_templates(&update.server_templates)?;
    let removed = &update.remove_server_templates;
    put(&mut new.server_templates, removed, templates);
    let templates = read.service_templates(&update.service_templates)?;
    let removed = &update.remove_service_templates;
    put(&mut new.service_templates, removed, templates);
    new.nodes
        .retain(|name, _| !update.remove_nodes.contains(name));
    for node in &update.nodes {
        update_node(application, &mut new, node, &mut read)?;
    }
    Ok(new)
}

/// Returns the application with one more instance of a template on a node.
///
/// # Errors
///
/// There is no such node, or the instance is more than can be.
pub fn instantiate_server(
    application: &Application,
    node: &str,
    instance: &slice::ServerInstanceDescriptor,
) -> Result<Application, DescriptorError> {
    let mut new = application.clone();
    let of = new.nodes.get_mut(node);
    let of = of.ok_or_else(|| DescriptorError::NoNode(node.to_owned()))?;
    let instance = Reader::new(&Objects::default()).server_instance(instance)?;
    of.server_instances.push(instance);
    Ok(new)
}

fn update_node(
    old: &Application,
    new: &mut Application,
    update: &slice::NodeUpdateDescriptor,
    read: &mut Reader<'_>,
) -> Result<(), DescriptorError> {
    let name = &update.name;
    let mut node = new.nodes.remove(name).unwrap_or_default();
    if let Some(description) = boxed(read, update.description)? {
        node.description = description;
    }
    if let Some(load_factor) = boxed(read, update.load_factor)? {
        node.load_factor = load_factor;
    }
    let variables = read.texts(&update.variables)?;
    put(&mut node.variables, &update.remove_variables, variables);
    let sets = read.named_sets(&update.property_sets)?;
    put(&mut node.property_sets, &update.remove_property_sets, sets);
    let instances = std::mem::take(&mut node.server_instances);
    let servers = std::mem::take(&mut node.servers);
    new.nodes.insert(name.clone(), node);
    let ids = |instance: &ServerInstanceDescriptor| {
        instance_id(old, name, instance).or_else(|| instance_id(new, name, instance))
    };
    let mut instances = with_ids(instances, ids);
    let ids = |server: &ServerDescriptor<Text>| {
        server_id(old, name, server).or_else(|| server_id(new, name, server))
    };
    let mut servers = with_ids(servers, ids);
    let is_removed = |id: &str| update.remove_servers.iter().any(|removed| removed == id);
    forget(&mut instances, is_removed);
    forget(&mut servers, is_removed);
    for instance in &update.server_instances {
        let instance = read.server_instance(instance)?;
        let id = instance_id(new, name, &instance);
        forget(&mut servers, |other| id.as_deref() == Some(other));
        replace(&mut instances, id, instance);
    }
    for server in &update.servers {
        let server = read.node_server(*server)?;
        let id = server_id(new, name, &server);
        forget(&mut instances, |other| id.as_deref() == Some(other));
        replace(&mut servers, id, server);
    }
    let node = new.nodes.entry(name.clone()).or_default();
    node.server_instances = instances.into_iter().map(|(_, one)| one).collect();
    node.servers = servers.into_iter().map(|(_, one)| one).collect();
    Ok(())
}

/// Something with the id of the server that it makes, where that can be told.
type Known<T> = (Option<String>, T);

fn with_ids<T>(all: Vec<T>, id: impl Fn(&T) -> Option<String>) -> Vec<Known<T>> {
    all.into_iter().map(|one| (id(&one), one)).collect()
}

fn forget<T>(all: &mut Vec<Known<T>>, is_gone: impl Fn(&str) -> bool) {
    all.retain(|(id, _)| !id.as_deref().is_some_and(&is_gone));
}

fn replace<T>(all: &mut Vec<Known<T>>, id: Option<String>, one: T) {
    match all
        .iter_mut()
        .find(|(other, _)| other.is_some() && *other == id)
    {
        Some((_, other)) => *other = one,
        None => all.push((id, one)),
    }
}

/// Takes away what is removed, then puts in what is new.
fn put<V>(all: &mut BTreeMap<String, V>, removed: &[String], new: BTreeMap<String, V>) {
    for name in removed {
        all.remove(name);
    }
    all.extend(new);
}

fn boxed(
    read: &mut Reader<'_>,
    of: Ref<slice::BoxedString>,
) -> Result<Option<Text>, DescriptorError> {
    if of.is_nil() {
        return Ok(None);
    }
    let found = read.found(of, || "a boxed string".to_owned())?;
    read.text(&found.value).map(Some)
}

/// Returns what has to change in the old application to make the new one of it, but for the order of its lists. What that refers to is
/// added to the objects.
pub fn difference(
    old: &Application,
    new: &Application,
    objects: &mut Objects,
) -> slice::ApplicationUpdateDescriptor {
    let groups = new.replica_groups.iter();
    let groups: Vec<_> = groups
        .filter(|group| !old.replica_groups.contains(*group))
        .cloned()
        .collect();
    let kept: BTreeSet<&str> = new.replica_groups.iter().map(|g| g.id.as_str()).collect();
    let gone = old.replica_groups.iter().map(|group| group.id.as_str());
    let server_templates = changed(&old.server_templates, &new.server_templates);
    let service_templates = changed(&old.service_templates, &new.service_templates);
    slice::ApplicationUpdateDescriptor {
        name: new.name.clone(),
        description: differing(&old.description, &new.description, objects),
        distrib: match old.distrib == new.distrib {
            true => Ref::NIL,
            false => objects.add(slice::BoxedDistributionDescriptor {
                value: write::distribution(&new.distrib),
            }),
        },
        variables: write::texts(&changed(&old.variables, &new.variables)),
        remove_variables: removed(&old.variables, &new.variables),
        property_sets: write::named_sets(&changed(&old.property_sets, &new.property_sets)),
        remove_property_sets: removed(&old.property_sets, &new.property_sets),
        replica_groups: write::replica_groups(&groups, objects),
        remove_replica_groups: gone
            .filter(|id| !kept.contains(id))
            .map(str::to_owned)
            .collect(),
        server_templates: server_templates
            .iter()
            .map(|(id, template)| (id.clone(), write::server_template(template, objects)))
            .collect(),
        remove_server_templates: removed(&old.server_templates, &new.server_templates),
        service_templates: service_templates
            .iter()
            .map(|(id, template)| (id.clone(), write::service_template(template, objects)))
            .collect(),
        remove_service_templates: removed(&old.service_templates, &new.service_templates),
        nodes: new
            .nodes
            .keys()
            .filter_map(|name| node_difference(old, new, name, objects))
            .collect(),
        remove_nodes: removed(&old.nodes, &new.nodes),
    }
}

/// Returns what has to change in a node; `None` if nothing.
fn node_difference(
    old: &Application,
    new: &Application,
    name: &str,
    objects: &mut Objects,
) -> Option<slice::NodeUpdateDescriptor> {
    let nothing = NodeDescriptor::default();
    let after = new.nodes.get(name)?;
    let known = old.nodes.get(name);
    let before = known.unwrap_or(&nothing);
    let instances = |application: &Application, node: &NodeDescriptor| {
        let all = node.server_instances.clone();
        with_ids(all, |instance| instance_id(application, name, instance))
    };
    let servers = |application: &Application, node: &NodeDescriptor| {
        let all = node.servers.clone();
        with_ids(all, |server| server_id(application, name, server))
    };
    let old_instances = instances(old, before);
    let old_servers = servers(old, before);
    let new_instances = instances(new, after);
    let new_servers = servers(new, after);
    let ids = |instances: &[Known<_>], servers: &[Known<_>]| -> BTreeSet<String> {
        let instances = instances.iter().filter_map(|(id, _)| id.clone());
        let servers = servers.iter().filter_map(|(id, _)| id.clone());
        instances.chain(servers).collect()
    };
    let remaining = ids(&new_instances, &new_servers);
    let gone = ids(&old_instances, &old_servers).into_iter();
    let update = slice::NodeUpdateDescriptor {
        name: name.to_owned(),
        description: differing(&before.description, &after.description, objects),
        variables: write::texts(&changed(&before.variables, &after.variables)),
        remove_variables: removed(&before.variables, &after.variables),
        property_sets: write::named_sets(&changed(&before.property_sets, &after.property_sets)),
        remove_property_sets: removed(&before.property_sets, &after.property_sets),
        server_instances: new_instances
            .iter()
            .filter(|instance| !old_instances.contains(instance))
            .map(|(_, instance)| write::server_instance(instance))
            .collect(),
        servers: new_servers
            .iter()
            .filter(|server| !old_servers.contains(server))
            .map(|(_, server)| write::server_to_slice(server, objects))
            .collect(),
        remove_servers: gone.filter(|id| !remaining.contains(id)).collect(),
        load_factor: differing(&before.load_factor, &after.load_factor, objects),
    };
    let unchanged = slice::NodeUpdateDescriptor {
        name: name.to_owned(),
        ..slice::NodeUpdateDescriptor::default()
    };
    (known.is_none() || update != unchanged).then_some(update)
}

fn differing(old: &Text, new: &Text, objects: &mut Objects) -> Ref<slice::BoxedString> {
    match old == new {
        true => Ref::NIL,
        false => objects.add(slice::BoxedString {
            value: write::text(new),
        }),
    }
}

fn changed<V: PartialEq + Clone>(
    old: &BTreeMap<String, V>,
    new: &BTreeMap<String, V>,
) -> BTreeMap<String, V> {
    let pairs = new.iter();
    let changed = pairs.filter(|(name, value)| old.get(*name) != Some(*value));
    changed
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn removed<V>(old: &BTreeMap<String, V>, new: &BTreeMap<String, V>) -> Vec<String> {
    let names = old.keys().filter(|name| !new.contains_key(*name));
    names.cloned().collect()
}
