//! Servers, iceboxes and services, written out or made from templates.

use crate::descriptor::application::ServerInstanceDescriptor;
use crate::descriptor::parse::attributes::Attributes;
use crate::descriptor::parse::open::Building;
use crate::descriptor::parse::{Closes, Parser, Skip};
use crate::descriptor::types::{
    ServerDescriptor, ServerKind, ServiceDescriptor, ServiceInstanceDescriptor,
};
use crate::descriptor::xml::Element;

impl Parser<'_> {
    pub(super) fn server(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        let name = &element.name;
        if self.open.service_template.is_some() {
            return self.misplaced(
                element,
                &format!("<{name}> element can't be a child of <service-template>"),
            );
        }
        if self.open.node.is_none() && self.open.server_template.is_none() {
            let reason = format!(
                "the <{name}> element can only be a child of a <node> or <server-template> element"
            );
            return self.misplaced(element, &reason);
        }
        if self.open.server.is_some() {
            return self.nested(element, "server");
        }
        let kind = if name == "icebox" {
            ServerKind::Icebox
        } else {
            ServerKind::Server
        };
        let report = &mut *self.report;
        let descriptor = ServerDescriptor {
            kind,
            id: attributes.required("id", report),
            exe: attributes.required("exe", report),
            ice_version: attributes.optional("ice-version", ""),
            pwd: attributes.optional("pwd", ""),
            activation: attributes.optional("activation", "manual"),
            activation_timeout: attributes.optional("activation-timeout", ""),
            deactivation_timeout: attributes.optional("deactivation-timeout", ""),
            application_distrib: attributes.boolean("application-distrib", true, report),
            allocatable: attributes.boolean("allocatable", false, report),
            user: attributes.optional("user", ""),
            services: (kind == ServerKind::Icebox).then(Vec::new),
            ..ServerDescriptor::default()
        };
        self.open.server = Some(Building {
            descriptor,
            hidden: 0,
        });
        Ok(Closes::Server)
    }

    pub(super) fn server_instance(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.node.is_none() {
            return self.misplaced(
                element,
                "the <server-instance> element can only be a child of a <node> element",
            );
        }
        if self.open.server.is_some()
            || self.open.server_instance.is_some()
            || self.open.server_template.is_some()
        {
            return self.nested(element, "server, server-instance or server-template");
        }
        let template = attributes.required("template", self.report);
        let mut instance = ServerInstanceDescriptor {
            template,
            ..ServerInstanceDescriptor::default()
        };
        instance.at.0 = element.at;
        instance.parameter_values = attributes.rest().collect();
        self.open.server_instance = Some(instance);
        Ok(Closes::ServerInstance)
    }

    pub(super) fn service(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.server_template.is_some() && self.open.server.is_none() {
            return self.misplaced(
                element,
                "<service> element can't be a child of <server-template>",
            );
        }
        if self.open.server.is_none() && self.open.service_template.is_none() {
            return self.misplaced(
                element,
                "the <service> element can only be a child of an <icebox> or <service-template> element",
            );
        }
        self.only_in_icebox(element)?;
        let descriptor = ServiceDescriptor {
            name: attributes.required("name", self.report),
            entry: attributes.required("entry", self.report),
            ..ServiceDescriptor::default()
        };
        self.open.service = Some(Building {
            descriptor,
            hidden: 0,
        });
        Ok(Closes::Service)
    }

    pub(super) fn service_instance(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.server.is_none() {
            return self.misplaced(
                element,
                "the <service-instance> element can only be a child of an <icebox> element",
            );
        }
        self.only_in_icebox(element)?;
        let template = attributes.required("template", self.report);
        let parameter_values = attributes.rest().collect();
        self.open.service_instance = Some(ServiceInstanceDescriptor {
            template,
            parameter_values,
            ..ServiceInstanceDescriptor::default()
        });
        Ok(Closes::ServiceInstance)
    }
}
