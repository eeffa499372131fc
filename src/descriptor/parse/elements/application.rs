//! The frame of a descriptor: the application, its variables, nodes, templates and replica groups, and distributions.

use crate::descriptor::application::{
    LoadBalancing, LoadBalancingPolicy, NodeDescriptor, ReplicaGroupDescriptor, Template,
};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::parse::attributes::Attributes;
use crate::descriptor::parse::open::OpenTemplate;
use crate::descriptor::parse::{Closes, Parser, Skip};
use crate::descriptor::text::Text;
use crate::descriptor::types::Distribution;
use crate::descriptor::variables::is_reserved;
use crate::descriptor::xml::Element;

impl Parser<'_> {
    pub(super) fn application(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.application.is_some() {
            return self.misplaced(element, "only one <application> element is allowed");
        }
        let name = attributes.required("name", self.report);
        let import = attributes.boolean("import-default-templates", false, self.report);
        self.begin_application(&name, import, element.at);
        Ok(Closes::Application)
    }

    pub(super) fn variable(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if !self.open.in_application {
            return self.misplaced(
                element,
                "the <variable> element can only be a child of an <application> or <node> element",
            );
        }
        let name = attributes.required("name", self.report);
        let value = attributes.optional("value", "");
        if name.is_missing() {
            return Ok(Closes::Nothing);
        }
        let owner = match &self.open.node {
            Some(node) => format!("node `{node}'"),
            None => format!("application `{}'", self.open.app().name),
        };
        if is_reserved(name.as_str()) {
            self.report.error(
                Fault::new(
                    name.at(),
                    format!("'{name}' is a reserved name; a variable cannot have it"),
                )
                .registry(format!(
                    "{owner}:\ninvalid variable `{name}': reserved variable name"
                )),
            );
            return Ok(Closes::Nothing);
        }
        if self.open.server.is_some()
            || self.open.server_template.is_some()
            || self.open.service_template.is_some()
        {
            let (owner, _) = owner.split_once(' ').unwrap_or((&owner, ""));
            self.report.warn(
                Fault::new(element.at, format!("variable '{name}' stands in a server or template, but belongs to the whole {owner}"))
                    .hint("IceGrid reads it so; move it to where it belongs"),
            );
        }
        if !self.overrides.contains_key(name.as_str()) {
            let variables = match self.open.node() {
                Some(node) => &mut node.variables,
                None => &mut self.open.app().variables,
            };
            variables.insert(name.as_str().to_owned(), value);
        }
        Ok(Closes::Nothing)
    }

    pub(super) fn node(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_application(element)?;
        if self.open.node.is_some() {
            return self.nested(element, "node");
        }
        let name = attributes.required("name", self.report);
        let load_factor = attributes.optional("load-factor", "");
        let node = self
            .open
            .app()
            .nodes
            .entry(name.as_str().to_owned())
            .or_insert_with(|| {
                let mut node = NodeDescriptor::default();
                node.at.0 = name.at();
                node
            });
        let lost = load_factor.as_str().is_empty() && !node.load_factor.as_str().is_empty();
        let before = std::mem::replace(&mut node.load_factor, load_factor);
        if lost {
            self.report.warn(
                Fault::new(element.at, format!("node '{name}' is opened again without load-factor, which takes away its load factor {before}"))
                    .hint("repeat load-factor"),
            );
        }
        self.open.node = Some(name.as_str().to_owned());
        Ok(Closes::Node)
    }

    pub(super) fn template(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_application(element)?;
        if self.open.server_template.is_some() || self.open.service_template.is_some() {
            return self.nested(element, "server-template or service-template");
        }
        if self.open.server.is_some() {
            return self.nested(element, "server");
        }
        let id = attributes.required("id", self.report);
        if element.name == "server-template" {
            self.open.server_template = Some(OpenTemplate {
                id,
                descriptor: None,
                template: Template::default(),
            });
            Ok(Closes::ServerTemplate)
        } else {
            self.open.service_template = Some(OpenTemplate {
                id,
                descriptor: None,
                template: Template::default(),
            });
            Ok(Closes::ServiceTemplate)
        }
    }

    pub(super) fn parameter(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        let template = match (
            &mut self.open.server_template,
            &mut self.open.service_template,
        ) {
            (Some(open), _) => &mut open.template,
            (None, Some(open)) => &mut open.template,
            (None, None) => {
                return self.misplaced(
                    element,
                    "the <parameter> element can only be a child of a <template> element",
                );
            }
        };
        let name = attributes.required("name", self.report);
        let default = attributes.given("default");
        if name.is_missing() {
            return Ok(Closes::Nothing);
        }
        let key = name.as_str().to_owned();
        if template.parameters.contains(&key) {
            self.report.error(
                Fault::new(name.at(), format!("duplicate parameter '{name}'"))
                    .parse(element.at, format!("duplicate parameter `{name}'")),
            );
            return Ok(Closes::Nothing);
        }
        if is_reserved(name.as_str()) {
            self.report.error(
                Fault::new(
                    name.at(),
                    format!("'{name}' is a reserved name; a parameter cannot have it"),
                )
                .registry(format!(
                    "invalid parameter `{name}': reserved variable name"
                )),
            );
        }
        template.parameters.push(key.clone());
        if let Some(default) = default {
            template.parameter_defaults.insert(key, default);
        }
        Ok(Closes::Nothing)
    }

    pub(super) fn replica_group(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_application(element)?;
        if self.open.replica_group.is_some() {
            return self.nested(element, "replica-group");
        }
        self.open.replica_group = Some(ReplicaGroupDescriptor {
            id: attributes.required("id", self.report),
            proxy_options: attributes.optional("proxy-options", ""),
            filter: attributes.optional("filter", ""),
            load_balancing: LoadBalancing {
                n_replicas: Text::new("0"),
                ..LoadBalancing::default()
            },
            ..ReplicaGroupDescriptor::default()
        });
        Ok(Closes::ReplicaGroup)
    }

    pub(super) fn load_balancing(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.replica_group.is_none() {
            return self.misplaced(
                element,
                "the <load-balancing> element can only be a child of a <replica-group> element",
            );
        }
        let policy = attributes.required("type", self.report);
        let n_replicas = attributes.optional("n-replicas", "1");
        let parsed = LoadBalancingPolicy::parse(policy.as_str());
        if parsed.is_none() && !policy.is_missing() {
            self.report.error(
                Fault::new(
                    policy.at(),
                    format!("unknown load balancing policy '{policy}'"),
                )
                .near(policy.as_str(), LoadBalancingPolicy::NAMES)
                .hint(format!(
                    "the policies are {}",
                    LoadBalancingPolicy::NAMES.join(", ")
                ))
                .parse(
                    element.at,
                    format!("invalid load balancing policy `{policy}'"),
                ),
            );
            attributes.given("load-sample");
        }
        let policy = parsed.unwrap_or_default();
        let load_sample = (policy == LoadBalancingPolicy::Adaptive)
            .then(|| attributes.optional("load-sample", "1"));
        if let Some(group) = &mut self.open.replica_group {
            group.load_balancing = LoadBalancing {
                policy,
                n_replicas,
                load_sample,
            };
        }
        Ok(Closes::Nothing)
    }

    pub(super) fn distribution(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.server.is_none() && (!self.open.in_application || self.open.node.is_some()) {
            return self.misplaced(
                element,
                "the <distrib> element can only be a child of an <application>, <server> or <icebox> element",
            );
        }
        let icepatch = attributes.optional("icepatch", "${application}.IcePatch2/server");
        self.open.distribution = Some(Distribution {
            icepatch,
            directories: Vec::new(),
        });
        Ok(Closes::Distribution)
    }
}
