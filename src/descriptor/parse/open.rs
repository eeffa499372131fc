//! What is open while a descriptor is read, and where properties and descriptions go.

use super::Closes;
use crate::descriptor::application::{
    Application, NodeDescriptor, ReplicaGroupDescriptor, ServerInstanceDescriptor, Template,
};
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::types::{
    AdapterDescriptor, DbEnvDescriptor, Distribution, Property, PropertySet, ServerDescriptor,
    ServiceDescriptor, ServiceInstanceDescriptor,
};

/// A server or service being read; properties made from attributes stand before all others.
#[derive(Debug)]
pub(super) struct Building<D> {
    pub(super) descriptor: D,
    pub(super) hidden: usize,
}

/// A template being read.
#[derive(Debug)]
pub(super) struct OpenTemplate<D> {
    pub(super) id: Text,
    pub(super) descriptor: Option<D>,
    pub(super) template: Template<()>,
}

/// Where the properties of an open set go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SetOwner {
    Named(Text),
    Server,
    Service,
    ServiceInstance,
    ServerInstance { service: Option<String> },
}

/// A property set being read.
#[derive(Debug)]
pub(super) struct OpenSet {
    pub(super) owner: SetOwner,
    pub(super) set: PropertySet<Text>,
    pub(super) in_reference: bool,
    pub(super) at: Pos,
}

/// Everything that is open.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) application: Option<Application>,
    pub(super) in_application: bool,
    pub(super) node: Option<String>,
    pub(super) server_template: Option<OpenTemplate<ServerDescriptor<Text>>>,
    pub(super) service_template: Option<OpenTemplate<ServiceDescriptor<Text>>>,
    pub(super) server: Option<Building<ServerDescriptor<Text>>>,
    pub(super) server_instance: Option<ServerInstanceDescriptor>,
    pub(super) service: Option<Building<ServiceDescriptor<Text>>>,
    pub(super) service_instance: Option<ServiceInstanceDescriptor<Text>>,
    pub(super) adapter: Option<AdapterDescriptor<Text>>,
    pub(super) replica_group: Option<ReplicaGroupDescriptor<Text>>,
    pub(super) db_env: Option<DbEnvDescriptor<Text>>,
    pub(super) distribution: Option<Distribution<Text>>,
    pub(super) set: Option<OpenSet>,
}

impl Open {
    /// Returns the open application; only called where one is open.
    pub(super) fn app(&mut self) -> &mut Application {
        self.application
            .as_mut()
            .expect("elements below <application> are refused outside it")
    }

    /// Returns the open node.
    pub(super) fn node(&mut self) -> Option<&mut NodeDescriptor> {
        let name = self.node.as_ref()?;
        self.application.as_mut()?.nodes.get_mut(name)
    }

    /// Returns the names of what is open, as selectors of targets have them.
    pub(super) fn qualified_name(&self) -> String {
        let Some(application) = self.application.as_ref().filter(|_| self.in_application) else {
            return String::new();
        };
        let mut name = application.name.clone();
        let server = self.server.as_ref().map(|s| s.descriptor.id.as_str());
        let service = self.service.as_ref().map(|s| s.descriptor.name.as_str());
        for part in [self.node.as_deref(), server, service]
            .into_iter()
            .flatten()
        {
            name.push('.');
            name.push_str(part);
        }
        name
    }

    /// Returns the properties of the innermost service or server, and how many of them come from attributes.
    pub(super) fn properties(&mut self) -> Option<(&mut PropertySet<Text>, &mut usize)> {
        if let Some(service) = &mut self.service {
            return Some((&mut service.descriptor.property_set, &mut service.hidden));
        }
        self.server
            .as_mut()
            .map(|server| (&mut server.descriptor.property_set, &mut server.hidden))
    }

    /// Adds a property that an attribute stands for, before those of `property` elements.
    pub(super) fn hide(&mut self, property: Property<Text>) {
        if let Some((set, hidden)) = self.properties() {
            set.properties.insert(*hidden, property);
            *hidden += 1;
        }
    }

    /// Returns the description of the innermost element that has one.
    pub(super) fn description(&mut self) -> Option<&mut Text> {
        if !self.in_application {
            return None;
        }
        if let Some(adapter) = &mut self.adapter {
            return Some(&mut adapter.description);
        }
        if let Some(group) = &mut self.replica_group {
            return Some(&mut group.description);
        }
        if let Some(db_env) = &mut self.db_env {
            return Some(&mut db_env.description);
        }
        if let Some(service) = &mut self.service {
            return Some(&mut service.descriptor.description);
        }
        if let Some(server) = &mut self.server {
            return Some(&mut server.descriptor.description);
        }
        if let Some(name) = &self.node {
            return self
                .application
                .as_mut()?
                .nodes
                .get_mut(name)
                .map(|node| &mut node.description);
        }
        self.application.as_mut().map(|a| &mut a.description)
    }

    /// Forgets an element whose end was never read.
    pub(super) fn abandon(&mut self, what: Closes) {
        match what {
            Closes::Application => self.in_application = false,
            Closes::Node => self.node = None,
            Closes::Server => self.server = None,
            Closes::ServerInstance => self.server_instance = None,
            Closes::ServerTemplate => self.server_template = None,
            Closes::ServiceTemplate => self.service_template = None,
            Closes::Service => self.service = None,
            Closes::ServiceInstance => self.service_instance = None,
            Closes::Adapter => self.adapter = None,
            Closes::ReplicaGroup => self.replica_group = None,
            Closes::DbEnv => self.db_env = None,
            Closes::Distribution => self.distribution = None,
            Closes::Properties => self.set = None,
            Closes::Nothing
            | Closes::Root
            | Closes::Reference
            | Closes::Option
            | Closes::Env
            | Closes::Directory
            | Closes::Description => {}
        }
    }
}
