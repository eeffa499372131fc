//! Ours → Slice.

use std::collections::BTreeMap;

use crate::descriptor::{
    AdapterDescriptor, Application, DbEnvDescriptor, Distribution, LoadBalancing,
    LoadBalancingPolicy, NamedPropertySet, NodeDescriptor, ObjectDescriptor, ObjectIdentity,
    Property, PropertySet, ReplicaGroupDescriptor, ServerDescriptor, ServerInstanceDescriptor,
    ServerKind, ServiceDescriptor, ServiceInstanceDescriptor, Template, Text,
};
use crate::ice::{Identity, Objects, Ref};
use crate::icegrid::types::{self as slice, Texts};

/// Returns an application as Slice has it; what it refers to is added to the objects.
pub fn application_to_slice(
    application: &Application,
    objects: &mut Objects,
) -> slice::ApplicationDescriptor {
    slice::ApplicationDescriptor {
        name: application.name.clone(),
        variables: texts(&application.variables),
        replica_groups: replica_groups(&application.replica_groups, objects),
        server_templates: map(&application.server_templates, |template| {
            server_template(template, objects)
        }),
        service_templates: map(&application.service_templates, |template| {
            service_template(template, objects)
        }),
        nodes: map(&application.nodes, |node| node_to_slice(node, objects)),
        distrib: distribution(&application.distrib),
        description: text(&application.description),
        property_sets: named_sets(&application.property_sets),
    }
}

/// Returns a server as Slice has it, with what it refers to among the objects. An icebox is one of `IceBoxDescriptor`.
pub fn server_to_slice<S: AsRef<str>>(
    server: &ServerDescriptor<S>,
    objects: &mut Objects,
) -> Ref<slice::ServerDescriptor> {
    let base = slice::ServerDescriptor {
        base: communicator(
            &server.description,
            &server.property_set,
            &server.adapters,
            &server.db_envs,
            &server.logs,
        ),
        id: text(&server.id),
        exe: text(&server.exe),
        ice_version: text(&server.ice_version),
        pwd: text(&server.pwd),
        options: list(&server.options),
        envs: list(&server.envs),
        activation: text(&server.activation),
        activation_timeout: text(&server.activation_timeout),
        deactivation_timeout: text(&server.deactivation_timeout),
        application_distrib: server.application_distrib,
        distrib: distribution(&server.distrib),
        allocatable: server.allocatable,
        user: text(&server.user),
    };
    match server.kind {
        ServerKind::Server => objects.add(base),
        ServerKind::Icebox => {
            let services = server.services.iter().flatten();
            let services = services.map(|service| service_instance(service, objects));
            let services = services.collect();
            objects
                .add(slice::IceBoxDescriptor { base, services })
                .cast()
        }
    }
}

pub(super) fn replica_groups(
    groups: &[ReplicaGroupDescriptor<Text>],
    objects: &mut Objects,
) -> Vec<slice::ReplicaGroupDescriptor> {
    let groups = groups.iter().map(|group| slice::ReplicaGroupDescriptor {
        id: text(&group.id),
        load_balancing: load_balancing(&group.load_balancing, objects),
        proxy_options: text(&group.proxy_options),
        objects: group.objects.iter().map(object).collect(),
        description: text(&group.description),
        filter: text(&group.filter),
    });
    groups.collect()
}

fn load_balancing(
    of: &LoadBalancing<Text>,
    objects: &mut Objects,
) -> Ref<slice::LoadBalancingPolicy> {
    let base = slice::LoadBalancingPolicy {
        n_replicas: text(&of.n_replicas),
    };
    match of.policy {
        LoadBalancingPolicy::Random => objects
            .add(slice::RandomLoadBalancingPolicy { base })
            .cast(),
        LoadBalancingPolicy::Ordered => objects
            .add(slice::OrderedLoadBalancingPolicy { base })
            .cast(),
        LoadBalancingPolicy::RoundRobin => objects
            .add(slice::RoundRobinLoadBalancingPolicy { base })
            .cast(),
        LoadBalancingPolicy::Adaptive => {
            let load_sample = of.load_sample.as_ref().map(text).unwrap_or_default();
            objects
                .add(slice::AdaptiveLoadBalancingPolicy { base, load_sample })
                .cast()
        }
    }
}

pub(super) fn server_template(
    template: &Template<ServerDescriptor<Text>>,
    objects: &mut Objects,
) -> slice::TemplateDescriptor {
    slice::TemplateDescriptor {
        descriptor: server_to_slice(&template.descriptor, objects).cast(),
        parameters: template.parameters.clone(),
        parameter_defaults: texts(&template.parameter_defaults),
    }
}

pub(super) fn service_template(
    template: &Template<ServiceDescriptor<Text>>,
    objects: &mut Objects,
) -> slice::TemplateDescriptor {
    slice::TemplateDescriptor {
        descriptor: service(&template.descriptor, objects).cast(),
        parameters: template.parameters.clone(),
        parameter_defaults: texts(&template.parameter_defaults),
    }
}

fn node_to_slice(node: &NodeDescriptor, objects: &mut Objects) -> slice::NodeDescriptor {
    let servers = node.servers.iter();
    slice::NodeDescriptor {
        variables: texts(&node.variables),
        server_instances: node.server_instances.iter().map(server_instance).collect(),
        servers: servers
            .map(|server| server_to_slice(server, objects))
            .collect(),
        load_factor: text(&node.load_factor),
        description: text(&node.description),
        property_sets: named_sets(&node.property_sets),
    }
}

pub(super) fn server_instance(
    instance: &ServerInstanceDescriptor,
) -> slice::ServerInstanceDescriptor {
    slice::ServerInstanceDescriptor {
        template: text(&instance.template),
        parameter_values: texts(&instance.parameter_values),
        property_set: set(&instance.property_set),
        service_property_sets: map(&instance.service_property_sets, set),
    }
}

fn service_instance<S: AsRef<str>>(
    instance: &ServiceInstanceDescriptor<S>,
    objects: &mut Objects,
) -> slice::ServiceInstanceDescriptor {
    let descriptor = instance.descriptor.as_ref();
    slice::ServiceInstanceDescriptor {
        template: text(&instance.template),
        parameter_values: texts(&instance.parameter_values),
        descriptor: descriptor.map_or(Ref::NIL, |descriptor| service(descriptor, objects)),
        property_set: set(&instance.property_set),
    }
}

fn service<S: AsRef<str>>(
    service: &ServiceDescriptor<S>,
    objects: &mut Objects,
) -> Ref<slice::ServiceDescriptor> {
    objects.add(slice::ServiceDescriptor {
        base: communicator(
            &service.description,
            &service.property_set,
            &service.adapters,
            &service.db_envs,
            &service.logs,
        ),
        name: text(&service.name),
        entry: text(&service.entry),
    })
}

fn communicator<S: AsRef<str>>(
    description: &S,
    property_set: &PropertySet<S>,
    adapters: &[AdapterDescriptor<S>],
    db_envs: &[DbEnvDescriptor<S>],
    logs: &[S],
) -> slice::CommunicatorDescriptor {
    slice::CommunicatorDescriptor {
        adapters: adapters.iter().map(adapter).collect(),
        property_set: set(property_set),
        db_envs: db_envs.iter().map(db_env).collect(),
        logs: list(logs),
        description: text(description),
    }
}

fn adapter<S: AsRef<str>>(adapter: &AdapterDescriptor<S>) -> slice::AdapterDescriptor {
    slice::AdapterDescriptor {
        name: text(&adapter.name),
        description: text(&adapter.description),
        id: text(&adapter.id),
        replica_group_id: text(&adapter.replica_group_id),
        priority: text(&adapter.priority),
        register_process: adapter.register_process,
        server_lifetime: adapter.server_lifetime,
        objects: adapter.objects.iter().map(object).collect(),
        allocatables: adapter.allocatables.iter().map(object).collect(),
    }
}

fn object<S: AsRef<str>>(object: &ObjectDescriptor<S>) -> slice::ObjectDescriptor {
    let written = object.identity.as_ref();
    let id = match ObjectIdentity::parse(written) {
        Ok(ObjectIdentity { name, category }) if !name.is_empty() => Identity { name, category },
        // No definition that holds has such a one.
        _ => Identity::new(written),
    };
    slice::ObjectDescriptor {
        id,
        class: text(&object.type_id),
        proxy_options: text(&object.proxy_options),
    }
}

fn db_env<S: AsRef<str>>(db_env: &DbEnvDescriptor<S>) -> slice::DbEnvDescriptor {
    slice::DbEnvDescriptor {
        name: text(&db_env.name),
        description: text(&db_env.description),
        db_home: text(&db_env.db_home),
        properties: properties(&db_env.properties),
    }
}

pub(super) fn named_sets(
    sets: &BTreeMap<String, NamedPropertySet>,
) -> BTreeMap<String, slice::PropertySetDescriptor> {
    map(sets, |named| set(&named.set))
}

fn set<S: AsRef<str>>(set: &PropertySet<S>) -> slice::PropertySetDescriptor {
    slice::PropertySetDescriptor {
        references: list(&set.references),
        properties: properties(&set.properties),
    }
}

fn properties<S: AsRef<str>>(properties: &[Property<S>]) -> Vec<slice::PropertyDescriptor> {
    let properties = properties
        .iter()
        .map(|(name, value)| slice::PropertyDescriptor {
            name: text(name),
            value: text(value),
        });
    properties.collect()
}

pub(super) fn distribution<S: AsRef<str>>(of: &Distribution<S>) -> slice::DistributionDescriptor {
    slice::DistributionDescriptor {
        icepatch: text(&of.icepatch),
        directories: list(&of.directories),
    }
}

pub(super) fn texts<S: AsRef<str>>(texts: &BTreeMap<String, S>) -> Texts {
    map(texts, text)
}

fn map<V, W>(of: &BTreeMap<String, V>, mut to: impl FnMut(&V) -> W) -> BTreeMap<String, W> {
    of.iter()
        .map(|(key, value)| (key.clone(), to(value)))
        .collect()
}

fn list<S: AsRef<str>>(texts: &[S]) -> Vec<String> {
    texts.iter().map(text).collect()
}

pub(super) fn text<S: AsRef<str>>(text: &S) -> String {
    text.as_ref().to_owned()
}
