//! Slice → ours.

use std::collections::BTreeMap;

use super::DescriptorError;
use crate::descriptor::{
    AdapterDescriptor, Application, DbEnvDescriptor, Distribution, LoadBalancing,
    LoadBalancingPolicy, NamedPropertySet, NodeDescriptor, ObjectDescriptor, ObjectIdentity,
    Property, PropertySet, ReplicaGroupDescriptor, ServerDescriptor, ServerInstanceDescriptor,
    ServerKind, ServiceDescriptor, ServiceInstanceDescriptor, ServiceKind, Template, Text,
};
use crate::ice::{Class, Objects, Ref};
use crate::icegrid::types as slice;

/// The most bytes that an application may come to. Instances may be referred to any number of times, so that a message of few bytes
/// can mean many.
const MAX: usize = 64 << 20;

/// What a text costs beside its bytes.
const EACH: usize = 32;

type Read<T> = Result<T, DescriptorError>;

/// Returns an application that came over Ice, as written.
///
/// # Errors
///
/// Something in it is missing, of the wrong class, or more than can be.
pub fn application_from_slice(
    descriptor: &slice::ApplicationDescriptor,
    objects: &Objects,
) -> Result<Application, DescriptorError> {
    Reader::new(objects).application(descriptor)
}

/// Reads descriptors, and counts what they come to.
pub(super) struct Reader<'o> {
    objects: &'o Objects,
    left: usize,
}

impl<'o> Reader<'o> {
    pub(super) fn new(objects: &'o Objects) -> Self {
        Self { objects, left: MAX }
    }

    fn application(&mut self, of: &slice::ApplicationDescriptor) -> Read<Application> {
        Ok(Application {
            name: self.name(&of.name)?,
            description: self.text(&of.description)?,
            distrib: self.distribution(&of.distrib)?,
            variables: self.texts(&of.variables)?,
            property_sets: self.named_sets(&of.property_sets)?,
            replica_groups: self.each(&of.replica_groups, Self::replica_group)?,
            server_templates: self.server_templates(&of.server_templates)?,
            service_templates: self.service_templates(&of.service_templates)?,
            nodes: self.map(&of.nodes, |this, _, node| this.node(node))?,
            ..Application::default()
        })
    }

    pub(super) fn replica_group(
        &mut self,
        of: &slice::ReplicaGroupDescriptor,
    ) -> Read<ReplicaGroupDescriptor<Text>> {
        Ok(ReplicaGroupDescriptor {
            id: self.text(&of.id)?,
            description: self.text(&of.description)?,
            load_balancing: self.load_balancing(&of.id, of.load_balancing)?,
            proxy_options: self.text(&of.proxy_options)?,
            filter: self.text(&of.filter)?,
            objects: self.each(&of.objects, Self::object)?,
        })
    }

    fn load_balancing(
        &mut self,
        group: &str,
        of: Ref<slice::LoadBalancingPolicy>,
    ) -> Read<LoadBalancing<Text>> {
        let objects = self.objects;
        let what = || format!("the load balancing policy of replica group `{group}'");
        let base = self.found(of, what)?;
        let adaptive = objects.find::<slice::AdaptiveLoadBalancingPolicy, _>(of);
        let policy = if adaptive.is_some() {
            LoadBalancingPolicy::Adaptive
        } else if objects
            .find::<slice::RoundRobinLoadBalancingPolicy, _>(of)
            .is_some()
        {
            LoadBalancingPolicy::RoundRobin
        } else if objects
            .find::<slice::OrderedLoadBalancingPolicy, _>(of)
            .is_some()
        {
            LoadBalancingPolicy::Ordered
        } else if objects
            .find::<slice::RandomLoadBalancingPolicy, _>(of)
            .is_some()
        {
            LoadBalancingPolicy::Random
        } else {
            return Err(DescriptorError::Policy(group.to_owned()));
        };
        let sample = adaptive.map(|adaptive| self.text(&adaptive.load_sample));
        Ok(LoadBalancing {
            policy,
            n_replicas: self.text(&base.n_replicas)?,
            load_sample: sample.transpose()?,
        })
    }

    pub(super) fn server_templates(
        &mut self,
        of: &slice::Templates,
    ) -> Read<BTreeMap<String, Template<ServerDescriptor<Text>>>> {
        self.map(of, |this, id, template| {
            let what = || format!("the descriptor of server template `{id}'");
            let descriptor = this.server(template.descriptor.cast(), what)?;
            this.template(template, descriptor)
        })
    }

    pub(super) fn service_templates(
        &mut self,
        of: &slice::Templates,
    ) -> Read<BTreeMap<String, Template<ServiceDescriptor<Text>>>> {
        self.map(of, |this, id, template| {
            let what = || format!("the descriptor of service template `{id}'");
            let descriptor = this.service(template.descriptor.cast(), what)?;
            this.template(template, descriptor)
        })
    }

    fn template<D>(&mut self, of: &slice::TemplateDescriptor, descriptor: D) -> Read<Template<D>> {
        Ok(Template {
            descriptor,
            parameters: self.each(&of.parameters, |this, name| this.name(name))?,
            parameter_defaults: self.texts(&of.parameter_defaults)?,
        })
    }

    fn node(&mut self, of: &slice::NodeDescriptor) -> Read<NodeDescriptor> {
        Ok(NodeDescriptor {
            description: self.text(&of.description)?,
            load_factor: self.text(&of.load_factor)?,
            variables: self.texts(&of.variables)?,
            property_sets: self.named_sets(&of.property_sets)?,
            server_instances: self.each(&of.server_instances, Self::server_instance)?,
            servers: self.each(&of.servers, |this, server| this.node_server(*server))?,
            ..NodeDescriptor::default()
        })
    }

    pub(super) fn server_instance(
        &mut self,
        of: &slice::ServerInstanceDescriptor,
    ) -> Read<ServerInstanceDescriptor> {
        let services = &of.service_property_sets;
        Ok(ServerInstanceDescriptor {
            template: self.text(&of.template)?,
            parameter_values: self.texts(&of.parameter_values)?,
            property_set: self.set(&of.property_set)?,
            service_property_sets: self.map(services, |this, _, set| this.set(set))?,
            ..ServerInstanceDescriptor::default()
        })
    }

    /// Reads a server that stands in a node itself.
    pub(super) fn node_server(
        &mut self,
        of: Ref<slice::ServerDescriptor>,
    ) -> Read<ServerDescriptor<Text>> {
        self.server(of, || "the descriptor of a server".to_owned())
    }

    fn server(
        &mut self,
        of: Ref<slice::ServerDescriptor>,
        what: impl FnOnce() -> String,
    ) -> Read<ServerDescriptor<Text>> {
        let server = self.found(of, what)?;
        let icebox = self.objects.find::<slice::IceBoxDescriptor, _>(of);
        let services = icebox.map(|icebox| self.each(&icebox.services, Self::service_instance));
        let common = self.common(&server.base)?;
        Ok(ServerDescriptor {
            kind: match icebox {
                Some(_) => ServerKind::Icebox,
                None => ServerKind::Server,
            },
            id: self.text(&server.id)?,
            exe: self.text(&server.exe)?,
            ice_version: self.text(&server.ice_version)?,
            pwd: self.text(&server.pwd)?,
            options: self.each(&server.options, |this, option| this.text(option))?,
            envs: self.each(&server.envs, |this, env| this.text(env))?,
            activation: self.text(&server.activation)?,
            activation_timeout: self.text(&server.activation_timeout)?,
            deactivation_timeout: self.text(&server.deactivation_timeout)?,
            application_distrib: server.application_distrib,
            distrib: self.distribution(&server.distrib)?,
            allocatable: server.allocatable,
            user: self.text(&server.user)?,
            description: common.description,
            adapters: common.adapters,
            property_set: common.property_set,
            db_envs: common.db_envs,
            logs: common.logs,
            services: services.transpose()?,
        })
    }

    fn service_instance(
        &mut self,
        of: &slice::ServiceInstanceDescriptor,
    ) -> Read<ServiceInstanceDescriptor<Text>> {
        let is_inline = of.template.is_empty() || !of.descriptor.is_nil();
        let what = || "the descriptor of a service without a template".to_owned();
        let descriptor = is_inline.then(|| self.service(of.descriptor, what));
        Ok(ServiceInstanceDescriptor {
            descriptor: descriptor.transpose()?,
            template: self.text(&of.template)?,
            parameter_values: self.texts(&of.parameter_values)?,
            property_set: self.set(&of.property_set)?,
        })
    }

    fn service(
        &mut self,
        of: Ref<slice::ServiceDescriptor>,
        what: impl FnOnce() -> String,
    ) -> Read<ServiceDescriptor<Text>> {
        let service = self.found(of, what)?;
        let common = self.common(&service.base)?;
        Ok(ServiceDescriptor {
            kind: ServiceKind::Service,
            name: self.text(&service.name)?,
            entry: self.text(&service.entry)?,
            description: common.description,
            adapters: common.adapters,
            property_set: common.property_set,
            db_envs: common.db_envs,
            logs: common.logs,
        })
    }

    fn common(&mut self, of: &slice::CommunicatorDescriptor) -> Read<Common> {
        Ok(Common {
            description: self.text(&of.description)?,
            adapters: self.each(&of.adapters, Self::adapter)?,
            property_set: self.set(&of.property_set)?,
            db_envs: self.each(&of.db_envs, Self::db_env)?,
            logs: self.each(&of.logs, |this, log| this.text(log))?,
        })
    }

    fn adapter(&mut self, of: &slice::AdapterDescriptor) -> Read<AdapterDescriptor<Text>> {
        Ok(AdapterDescriptor {
            name: self.text(&of.name)?,
            description: self.text(&of.description)?,
            id: self.text(&of.id)?,
            replica_group_id: self.text(&of.replica_group_id)?,
            priority: self.text(&of.priority)?,
            register_process: of.register_process,
            server_lifetime: of.server_lifetime,
            objects: self.each(&of.objects, Self::object)?,
            allocatables: self.each(&of.allocatables, Self::object)?,
        })
    }

    fn object(&mut self, of: &slice::ObjectDescriptor) -> Read<ObjectDescriptor<Text>> {
        let identity = ObjectIdentity {
            name: of.id.name.clone(),
            category: of.id.category.clone(),
        };
        Ok(ObjectDescriptor {
            identity: self.text(&identity.to_string())?,
            type_id: self.text(&of.class)?,
            proxy_options: self.text(&of.proxy_options)?,
        })
    }

    fn db_env(&mut self, of: &slice::DbEnvDescriptor) -> Read<DbEnvDescriptor<Text>> {
        Ok(DbEnvDescriptor {
            name: self.text(&of.name)?,
            description: self.text(&of.description)?,
            db_home: self.text(&of.db_home)?,
            properties: self.each(&of.properties, Self::property)?,
        })
    }

    pub(super) fn named_sets(
        &mut self,
        of: &slice::PropertySets,
    ) -> Read<BTreeMap<String, NamedPropertySet>> {
        self.map(of, |this, _, set| {
            Ok(NamedPropertySet {
                set: this.set(set)?,
                ..NamedPropertySet::default()
            })
        })
    }

    fn set(&mut self, of: &slice::PropertySetDescriptor) -> Read<PropertySet<Text>> {
        Ok(PropertySet {
            references: self.each(&of.references, |this, id| this.text(id))?,
            properties: self.each(&of.properties, Self::property)?,
        })
    }

    fn property(&mut self, of: &slice::PropertyDescriptor) -> Read<Property<Text>> {
        Ok((self.text(&of.name)?, self.text(&of.value)?))
    }

    pub(super) fn distribution(
        &mut self,
        of: &slice::DistributionDescriptor,
    ) -> Read<Distribution<Text>> {
        Ok(Distribution {
            icepatch: self.text(&of.icepatch)?,
            directories: self.each(&of.directories, |this, directory| this.text(directory))?,
        })
    }

    pub(super) fn texts(&mut self, of: &slice::Texts) -> Read<BTreeMap<String, Text>> {
        self.map(of, |this, _, value| this.text(value))
    }

    fn map<V, W>(
        &mut self,
        of: &BTreeMap<String, V>,
        mut read: impl FnMut(&mut Self, &str, &V) -> Read<W>,
    ) -> Read<BTreeMap<String, W>> {
        let pairs = of.iter();
        let pairs = pairs.map(|(key, value)| Ok((self.name(key)?, read(self, key, value)?)));
        pairs.collect()
    }

    fn each<V, W>(
        &mut self,
        of: &[V],
        mut read: impl FnMut(&mut Self, &V) -> Read<W>,
    ) -> Read<Vec<W>> {
        of.iter().map(|value| read(self, value)).collect()
    }

    pub(super) fn text(&mut self, text: &str) -> Read<Text> {
        self.name(text).map(Text::new)
    }

    fn name(&mut self, text: &str) -> Read<String> {
        let left = self.left.checked_sub(text.len() + EACH);
        self.left = left.ok_or(DescriptorError::TooLarge)?;
        if text.contains('\0') {
            return Err(DescriptorError::Nul(text.chars().take(100).collect()));
        }
        Ok(text.to_owned())
    }

    /// Returns the instance that has to be there.
    pub(super) fn found<T: Class>(&self, of: Ref<T>, what: impl FnOnce() -> String) -> Read<&'o T> {
        match self.objects.get(of) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(DescriptorError::Missing(what())),
            Err(source) => Err(DescriptorError::Class {
                what: what(),
                source,
            }),
        }
    }
}

/// What servers and services have in common.
struct Common {
    description: Text,
    adapters: Vec<AdapterDescriptor<Text>>,
    property_set: PropertySet<Text>,
    db_envs: Vec<DbEnvDescriptor<Text>>,
    logs: Vec<Text>,
}
