//! Descriptors in words, as icegridadmin prints them.

use super::output::{Output, time};
use crate::ice::{Objects, Ref};
use crate::icegrid::types::*;

/// The property that a service manager of an icebox has its endpoints in.
const SERVICE_MANAGER: &str = "IceBox.ServiceManager.Endpoints";

/// Describes an application.
pub(super) fn application(out: &mut Output, info: &ApplicationInfo, objects: &Objects) {
    let of = &info.descriptor;
    out.block(format!("application `{}'", of.name), |out| {
        out.value("uuid", &info.uuid);
        out.value("revision", &info.revision.to_string());
        out.value("creation time", &time(info.create_time));
        out.value("created by", &info.create_user);
        out.value("update time", &time(info.update_time));
        out.value("updated by", &info.update_user);
        out.value_if("description", &of.description);
        variables(out, &of.variables);
        sets(out, &of.property_sets, &|name| variable(name, None, of));
        distribution(out, &of.distrib);
        if !of.replica_groups.is_empty() {
            out.block("replica groups", |out| {
                for group in &of.replica_groups {
                    replica_group(out, group, objects);
                }
            });
        }
        for (title, templates) in [
            ("server templates", &of.server_templates),
            ("service templates", &of.service_templates),
        ] {
            if !templates.is_empty() {
                out.block(title, |out| templates.keys().for_each(|id| out.line(id)));
            }
        }
        for (name, descriptor) in &of.nodes {
            node(out, name, descriptor, of, objects);
        }
    });
}

fn replica_group(out: &mut Output, group: &ReplicaGroupDescriptor, objects: &Objects) {
    out.line(format!("id = `{}'", group.id));
    let policy = group.load_balancing;
    if policy.is_nil() {
        return;
    }
    out.more(" load balancing = `");
    // That the mark is closed after what follows an ordered policy is how icegridadmin prints it.
    let is = |found: bool, name: &'static str| found.then_some(name);
    let name = is(
        objects
            .find::<RandomLoadBalancingPolicy, _>(policy)
            .is_some(),
        "random",
    )
    .or_else(|| {
        is(
            objects
                .find::<RoundRobinLoadBalancingPolicy, _>(policy)
                .is_some(),
            "round-robin",
        )
    })
    .or_else(|| {
        is(
            objects
                .find::<AdaptiveLoadBalancingPolicy, _>(policy)
                .is_some(),
            "adaptive",
        )
    })
    .unwrap_or("<unknown load balancing policy>");
    out.more(name);
    if !group.proxy_options.is_empty() {
        out.line(format!("proxy options = `{}'", group.proxy_options));
    }
    if !group.filter.is_empty() {
        out.line(format!("filter = `{}'", group.filter));
    }
    out.more("'");
}

/// Describes a node, with the ids of its servers.
pub(super) fn node(
    out: &mut Output,
    name: &str,
    node: &NodeDescriptor,
    application: &ApplicationDescriptor,
    objects: &Objects,
) {
    out.block(format!("node `{name}'"), |out| {
        out.value_if("load factor", &node.load_factor);
        out.value_if("description", &node.description);
        variables(out, &node.variables);
        let own = Some((name, node));
        sets(out, &node.property_sets, &|name| {
            variable(name, own, application)
        });
        let (instances, servers) = servers_of(name, node, application, objects);
        if !instances.is_empty() || !servers.is_empty() {
            out.block("servers", |out| {
                instances.iter().chain(&servers).for_each(|id| out.line(id));
            });
        }
    });
}

/// Returns the ids of the servers that are made of templates, and those of the others, in order.
pub(super) fn servers_of(
    name: &str,
    node: &NodeDescriptor,
    application: &ApplicationDescriptor,
    objects: &Objects,
) -> (Vec<String>, Vec<String>) {
    let instances = node.server_instances.iter();
    let instances =
        instances.map(|instance| instance_id(instance, name, node, application, objects));
    let mut instances: Vec<String> = instances.collect();
    let servers = node
        .servers
        .iter()
        .filter_map(|server| objects.find::<ServerDescriptor, _>(*server));
    let mut servers: Vec<String> = servers.map(|server| server.id.clone()).collect();
    instances.sort();
    servers.sort();
    (instances, servers)
}

/// Returns the id of the server that is made of a template.
pub(super) fn instance_id(
    instance: &ServerInstanceDescriptor,
    node_name: &str,
    node: &NodeDescriptor,
    application: &ApplicationDescriptor,
    objects: &Objects,
) -> String {
    let template = application.server_templates.get(&instance.template);
    let server =
        template.and_then(|template| objects.find::<ServerDescriptor, _>(template.descriptor));
    let (Some(template), Some(server)) = (template, server) else {
        return instance.template.clone();
    };
    let value = |name: &str| {
        let given = instance.parameter_values.get(name);
        let given = given.or_else(|| template.parameter_defaults.get(name));
        let own = Some((node_name, node));
        given.cloned().or_else(|| variable(name, own, application))
    };
    resolve(&server.id, &value)
}

/// Returns the value of a variable, of a node or of the application.
fn variable(
    name: &str,
    node: Option<(&str, &NodeDescriptor)>,
    application: &ApplicationDescriptor,
) -> Option<String> {
    let of_node = node.and_then(|(_, node)| node.variables.get(name));
    let found = of_node.or_else(|| application.variables.get(name));
    found.cloned().or_else(|| match name {
        "node" => node.map(|(name, _)| name.to_owned()),
        "application" => Some(application.name.clone()),
        _ => None,
    })
}

/// Replaces variables, also those in the values of others, of which only so many may stand in each other: names that lead back to themselves
/// have no end.
fn resolve(text: &str, value: &impl Fn(&str) -> Option<String>) -> String {
    let mut text = text.to_owned();
    for _ in 0..8 {
        let next = replace(&text, value);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

/// Replaces variables by their values; those without one stay.
fn replace(text: &str, value: &impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            out.push_str("${");
            rest = after;
            break;
        };
        match value(name.trim()) {
            Some(value) => out.push_str(&value),
            None => out.extend(["${", name, "}"]),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Describes a server, or an icebox; `info` says where it is deployed.
pub(super) fn server(
    out: &mut Output,
    of: Ref<ServerDescriptor>,
    info: Option<&ServerInfo>,
    objects: &Objects,
) {
    let Some(server) = objects.find::<ServerDescriptor, _>(of) else {
        return;
    };
    let icebox = objects.find::<IceBoxDescriptor, _>(of);
    let kind = if icebox.is_some() { "icebox" } else { "server" };
    out.block(format!("{kind} `{}'", server.id), |out| {
        if icebox.is_some() {
            let properties = &server.base.property_set.properties;
            let endpoints = properties.iter().rev().find(|p| p.name == SERVICE_MANAGER);
            let endpoints = endpoints.map_or("", |property| property.value.as_str());
            out.value("service manager endpoints", endpoints);
        }
        if let Some(info) = info {
            out.value("application", &info.application);
            out.value("application uuid", &info.uuid);
            out.value("application revision", &info.revision.to_string());
            out.value("node", &info.node);
            out.value_if("session id", &info.session_id);
        }
        out.value("exe", &server.exe);
        out.value_if("ice version", &server.ice_version);
        out.value_if("pwd", &server.pwd);
        out.value_if("activation", &server.activation);
        for (name, value) in [
            ("activationTimeout", &server.activation_timeout),
            ("deactivationTimeout", &server.deactivation_timeout),
        ] {
            if value != "0" {
                out.value_if(name, value);
            }
        }
        out.value_if("user", &server.user);
        if !server.application_distrib {
            out.value("application distribution", "false");
        }
        out.value_if("options", &server.options.join(" "));
        out.value_if("envs", &server.envs.join(" "));
        distribution(out, &server.distrib);
        communicator(out, &server.base);
        if let Some(icebox) = icebox {
            out.block("services", |out| {
                for service in &icebox.services {
                    out.line(service_name(service, objects));
                }
            });
        }
    });
}

/// Returns the name of a service: its own, or that of its template where it is not known yet.
pub(super) fn service_name(service: &ServiceInstanceDescriptor, objects: &Objects) -> String {
    if let Some(service) = objects.find::<ServiceDescriptor, _>(service.descriptor) {
        return service.name.clone();
    }
    let name = service.parameter_values.get("name");
    name.unwrap_or(&service.template).clone()
}

/// Describes a service.
pub(super) fn service(out: &mut Output, service: &ServiceDescriptor) {
    out.block(format!("service `{}'", service.name), |out| {
        out.value("entry", &service.entry);
        communicator(out, &service.base);
    });
}

/// Describes a template of a server or of a service.
pub(super) fn template(
    out: &mut Output,
    kind: &str,
    id: &str,
    template: &TemplateDescriptor,
    objects: &Objects,
) {
    out.block(format!("{kind} template `{id}'"), |out| {
        out.value("parameters", &template.parameters.join(" "));
        match objects.find::<ServiceDescriptor, _>(template.descriptor) {
            Some(found) => service(out, found),
            None => server(out, template.descriptor.cast(), None, objects),
        }
    });
}

fn communicator(out: &mut Output, of: &CommunicatorDescriptor) {
    if !of.description.is_empty() {
        out.block("description", |out| out.line(&of.description));
    }
    for found in &of.adapters {
        adapter(out, found, &of.property_set);
    }
    for env in &of.db_envs {
        out.block(format!("database environment `{}'", env.name), |out| {
            out.value_if("home", &env.db_home);
            out.value_if("description", &env.description);
            if !env.properties.is_empty() {
                out.block("properties", |out| {
                    for property in &env.properties {
                        out.value(&property.name, &property.value);
                    }
                });
            }
        });
    }
    for log in &of.logs {
        out.line(format!("log `{log}'"));
    }
    // Endpoints stand with their adapters.
    let is_endpoints = |property: &PropertyDescriptor| {
        let mut adapters = of.adapters.iter();
        adapters.any(|adapter| property.name == format!("{}.Endpoints", adapter.name))
    };
    let set = PropertySetDescriptor {
        references: of.property_set.references.clone(),
        properties: of
            .property_set
            .properties
            .iter()
            .filter(|property| !is_endpoints(property))
            .cloned()
            .collect(),
    };
    if !of.property_set.references.is_empty() || !of.property_set.properties.is_empty() {
        properties(out, "properties", &set);
    }
}

fn adapter(out: &mut Output, adapter: &AdapterDescriptor, set: &PropertySetDescriptor) {
    let flag = |value: bool| if value { "true" } else { "false" };
    out.block(format!("adapter `{}'", adapter.name), |out| {
        out.value_if("id", &adapter.id);
        out.value_if("replica group id", &adapter.replica_group_id);
        out.value_if("priority", &adapter.priority);
        let name = format!("{}.Endpoints", adapter.name);
        let endpoints = set.properties.iter().rev().find(|p| p.name == name);
        out.value_if(
            "endpoints",
            endpoints.map_or("", |property| &property.value),
        );
        out.value("register process", flag(adapter.register_process));
        out.value("server lifetime", flag(adapter.server_lifetime));
        let objects = adapter
            .objects
            .iter()
            .map(|object| ("well-known object", object));
        let allocatables = adapter
            .allocatables
            .iter()
            .map(|object| ("allocatable", object));
        for (title, object) in objects.chain(allocatables) {
            out.block(title, |out| {
                out.line(format!("identity = `{}' ", object.id));
                out.value_if("type", &object.class);
                out.value_if("proxy options", &object.proxy_options);
            });
        }
        if !adapter.description.is_empty() {
            out.block("description", |out| out.line(&adapter.description));
        }
    });
}

fn distribution(out: &mut Output, of: &DistributionDescriptor) {
    if !of.icepatch.is_empty() {
        out.block("distribution", |out| {
            out.value("proxy", &of.icepatch);
            out.value_if("directories", &of.directories.join(" "));
        });
    }
}

fn variables(out: &mut Output, variables: &Texts) {
    if !variables.is_empty() {
        out.block("variables", |out| {
            variables
                .iter()
                .for_each(|(name, value)| out.value(name, value));
        });
    }
}

/// Describes named property sets, in which variables are replaced already.
fn sets(out: &mut Output, sets: &PropertySets, value: &impl Fn(&str) -> Option<String>) {
    for (id, set) in sets {
        let resolved = set.properties.iter().map(|property| PropertyDescriptor {
            name: resolve(&property.name, value),
            value: resolve(&property.value, value),
        });
        let set = PropertySetDescriptor {
            references: set.references.clone(),
            properties: resolved.collect(),
        };
        properties(out, &format!("properties `{id}'"), &set);
    }
}

fn properties(out: &mut Output, title: &str, set: &PropertySetDescriptor) {
    out.block(title, |out| {
        if !set.references.is_empty() {
            out.line(format!("references = {}", set.references.join(" ")));
        }
        for property in &set.properties {
            out.value(&property.name, &property.value);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_others_stay() {
        let value = |name: &str| (name == "a").then(|| "1".to_owned());
        for (text, expected) in [("x-${a}-${b}", "x-1-${b}"), ("${a", "${a"), ("$${a}", "$1")] {
            assert_eq!(replace(text, &value), expected);
        }
    }
}
