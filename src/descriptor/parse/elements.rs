//! What the beginning of each element does. Ends are in `ends`.

use super::attributes::{Attributes, ELEMENTS};
use super::open::{Building, OpenSet, OpenTemplate, SetOwner};
use super::{Closes, Parser, Skip};
use crate::descriptor::application::{
    LoadBalancing, LoadBalancingPolicy, NodeDescriptor, ReplicaGroupDescriptor,
    ServerInstanceDescriptor, Template,
};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::identity::Identity;
use crate::descriptor::text::Text;
use crate::descriptor::types::{
    AdapterDescriptor, DbEnvDescriptor, Distribution, ObjectDescriptor, ServerDescriptor,
    ServerKind, ServiceDescriptor, ServiceInstanceDescriptor,
};
use crate::descriptor::variables::is_reserved;
use crate::descriptor::xml::Element;

impl Parser<'_> {
    /// Acts on a start tag. An error means that the content is passed over; its reason is reported.
    pub(super) fn start(&mut self, element: &Element, is_root: bool) -> Result<Closes, Skip> {
        let name = element.name.as_str();
        if is_root && name != "icegrid" {
            self.gaps.everything = true;
            return self.misplaced(
                element,
                "only the <icegrid> element is allowed at the top-level",
            );
        }
        let mut attributes = Attributes::new(element);
        let closes = match name {
            "icegrid" if is_root => Closes::Root,
            "icegrid" => {
                return self.misplaced(element, "element <icegrid> is a top level element");
            }
            "application" => self.application(element, &mut attributes)?,
            "include" => {
                let file = attributes.required("file", self.report);
                let targets = attributes.optional("targets", "");
                if file.is_missing() {
                    self.gaps.everything = true;
                } else {
                    self.include(&file, &targets);
                }
                Closes::Nothing
            }
            "target" => {
                let target = attributes.required("name", self.report);
                attributes.finish(self.report);
                return self.target(&target);
            }
            "variable" => self.variable(element, &mut attributes)?,
            "node" => self.node(element, &mut attributes)?,
            "server-template" | "service-template" => self.template(element, &mut attributes)?,
            "parameter" => self.parameter(element, &mut attributes)?,
            "server" | "icebox" => self.server(element, &mut attributes)?,
            "server-instance" => self.server_instance(element, &mut attributes)?,
            "service" => self.service(element, &mut attributes)?,
            "service-instance" => self.service_instance(element, &mut attributes)?,
            "properties" => self.properties(element, &mut attributes)?,
            "property" => self.property(element, &mut attributes)?,
            "adapter" => self.adapter(element, &mut attributes)?,
            "object" | "allocatable" => self.object(element, &mut attributes)?,
            "replica-group" => self.replica_group(element, &mut attributes)?,
            "load-balancing" => self.load_balancing(element, &mut attributes)?,
            "dbenv" => self.db_env(element, &mut attributes)?,
            "dbproperty" => self.db_property(element, &mut attributes)?,
            "log" => self.log(element, &mut attributes)?,
            "distrib" => self.distribution(element, &mut attributes)?,
            "directory" if self.open.distribution.is_some() => Closes::Directory,
            "directory" => {
                return self.misplaced(
                    element,
                    "the <directory> element can only be a child of a <distrib> element",
                );
            }
            "option" if self.open.server.is_some() => Closes::Option,
            "option" => {
                return self.misplaced(
                    element,
                    "element <option> can only be the child of a <server> element",
                );
            }
            "env" if self.open.server.is_some() => Closes::Env,
            "env" => {
                return self.misplaced(
                    element,
                    "element <env> can only be the child of a <server> element",
                );
            }
            "description" => {
                if self.open.description().is_none() {
                    return self.misplaced(element, "element <description> is not allowed here");
                }
                Closes::Description
            }
            unknown => {
                let fault = Fault::new(element.at, format!("unknown element <{unknown}>"))
                    .near(unknown, ELEMENTS.iter().map(|(name, _)| *name))
                    .parse(element.at, format!("unknown element `{unknown}'"));
                self.report.error(fault);
                return Err(Skip::Faulty);
            }
        };
        attributes.finish(self.report);
        Ok(closes)
    }

    /// Reports an element where it may not stand, in IceGrid's words.
    fn misplaced(&mut self, element: &Element, reason: &str) -> Result<Closes, Skip> {
        self.report
            .error(Fault::new(element.at, reason).parse(element.at, reason));
        Err(Skip::Faulty)
    }

    /// Reports nesting that IceGrid takes, with a result that nobody can have meant.
    fn nested(&mut self, element: &Element, inside: &str) -> Result<Closes, Skip> {
        let message = format!("<{}> cannot stand in <{inside}>", element.name);
        self.report
            .error(Fault::new(element.at, message).hint(format!("close <{inside}> before it")));
        Err(Skip::Faulty)
    }

    fn only_in_application(&mut self, element: &Element) -> Result<(), Skip> {
        if self.open.in_application {
            return Ok(());
        }
        let reason = format!(
            "the <{}> element can only be a child of an <application> element",
            element.name
        );
        self.misplaced(element, &reason).map(|_| ())
    }

    fn application(
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

    fn variable(
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

    fn node(&mut self, element: &Element, attributes: &mut Attributes<'_>) -> Result<Closes, Skip> {
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

    fn template(
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

    fn parameter(
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

    fn server(
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

    fn server_instance(
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

    /// Checks that an icebox is open and no service in it.
    fn only_in_icebox(&mut self, element: &Element) -> Result<(), Skip> {
        let name = &element.name;
        match &self.open.server {
            Some(server) if server.descriptor.kind == ServerKind::Server => {
                let reason = format!("<{name}> element can only be a child of an <icebox> element");
                self.misplaced(element, &reason).map(|_| ())
            }
            _ if self.open.service.is_some() || self.open.service_instance.is_some() => {
                self.nested(element, "service").map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn service(
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

    fn service_instance(
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

    fn properties(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.set.is_some() {
            return self.reference(element, attributes);
        }
        let owner = if self.open.service_instance.is_some() {
            SetOwner::ServiceInstance
        } else if self.open.server_instance.is_some() {
            let service = attributes
                .not_empty("service", self.report)
                .map(|s| s.as_str().to_owned());
            SetOwner::ServerInstance { service }
        } else if self.open.service.is_some() {
            SetOwner::Service
        } else if self.open.server.is_some() {
            SetOwner::Server
        } else if self.open.in_application {
            SetOwner::Named(attributes.required("id", self.report))
        } else {
            return self.misplaced(element, "the <properties> element is not allowed here");
        };
        if attributes.has("refid") {
            // IceGrid calls it an unknown attribute; say what it is for.
            let fault = Fault::new(
                element.at,
                "<properties refid> can only stand in another <properties> element",
            )
            .hint("write <properties><properties refid=\"…\"/></properties>");
            self.report.error(fault);
            attributes.given("refid");
        }
        self.open.set = Some(OpenSet {
            owner,
            set: Default::default(),
            in_reference: false,
            at: element.at,
        });
        Ok(Closes::Properties)
    }

    fn reference(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if !attributes.has("refid") {
            let reason = "only <properties refid=\"\"> can be a child of a <properties> element";
            return self.misplaced(element, reason);
        }
        let id = attributes.required("refid", self.report);
        let set = self
            .open
            .set
            .as_mut()
            .expect("a reference is only read in an open set");
        if !set.set.properties.is_empty() {
            let reason = "<properties refid=\"\"> can't be defined after a <property> element";
            return self.misplaced(element, reason);
        }
        if set.in_reference {
            return self.nested(element, "properties refid");
        }
        set.in_reference = true;
        if !id.is_missing() {
            set.set.references.push(id);
        }
        Ok(Closes::Reference)
    }

    fn property(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.set.is_none() && self.open.properties().is_none() {
            return self.misplaced(
                element,
                "the <property> element can only be a child of a <properties>, <icebox>, <server> or <service> element",
            );
        }
        let name = attributes.required("name", self.report);
        let value = attributes.optional("value", "");
        if !name.is_missing() {
            let set = match &mut self.open.set {
                Some(open) => &mut open.set,
                None => self.open.properties().expect("checked above").0,
            };
            set.properties.push((name, value));
        }
        Ok(Closes::Nothing)
    }

    fn adapter(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_communicator(element)?;
        if self.open.adapter.is_some() {
            return self.nested(element, "adapter");
        }
        let name = attributes.required("name", self.report);
        let id = attributes.not_empty("id", self.report).unwrap_or_else(|| {
            let prefix = if self.open.service.is_some() {
                "${server}.${service}."
            } else {
                "${server}."
            };
            Text::placed(format!("{prefix}{name}"), name.at())
        });
        let report = &mut *self.report;
        let adapter = AdapterDescriptor {
            id,
            replica_group_id: attributes.optional("replica-group", ""),
            priority: attributes.optional("priority", ""),
            register_process: attributes.boolean("register-process", false, report),
            server_lifetime: attributes.boolean("server-lifetime", true, report),
            name: name.clone(),
            ..AdapterDescriptor::default()
        };
        let endpoints = attributes.optional("endpoints", "default");
        if !name.is_missing() {
            self.open.hide((
                Text::placed(format!("{name}.Endpoints"), name.at()),
                endpoints,
            ));
            if let Some(options) = attributes.given("proxy-options") {
                self.open.hide((
                    Text::placed(format!("{name}.ProxyOptions"), name.at()),
                    options,
                ));
            }
        }
        self.open.adapter = Some(adapter);
        Ok(Closes::Adapter)
    }

    /// Checks that a service, or a server that is no icebox, is open.
    fn only_in_communicator(&mut self, element: &Element) -> Result<(), Skip> {
        let name = &element.name;
        if self.open.service.is_some() {
            return Ok(());
        }
        let reason = match &self.open.server {
            Some(server) if server.descriptor.kind == ServerKind::Icebox && name != "log" => {
                format!("<{name}> element can't be a child of an <icebox> element")
            }
            Some(_) => return Ok(()),
            None => format!(
                "the <{name}> element can only be a child of a <server> or <service> element"
            ),
        };
        self.misplaced(element, &reason).map(|_| ())
    }

    fn object(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        let in_adapter = self.open.adapter.is_some();
        if element.name == "allocatable" && !in_adapter {
            return self.misplaced(
                element,
                "the <allocatable> element can only be a child of an <adapter> element",
            );
        }
        if !in_adapter && self.open.replica_group.is_none() {
            return self.misplaced(
                element,
                "the <object> element can only be a child of an <adapter> or <replica-group> element",
            );
        }
        let mut identity = attributes.required("identity", self.report);
        if !identity.is_missing() {
            match Identity::parse(identity.as_str()) {
                Ok(parsed) => identity = Text::placed(parsed.to_string(), identity.at()),
                Err(error) => {
                    let reason = format!(
                        "::Ice::IdentityParseException:\nerror while parsing identity `{}'",
                        error.icegrid()
                    );
                    self.report.error(
                        Fault::new(
                            identity.at(),
                            format!("invalid identity '{identity}': {error}"),
                        )
                        .parse(element.at, reason),
                    );
                    identity = Text::missing(identity.at());
                }
            }
        }
        let object = ObjectDescriptor {
            identity,
            type_id: attributes.optional("type", ""),
            proxy_options: attributes.optional("proxy-options", ""),
        };
        if let Some(adapter) = &mut self.open.adapter {
            let property = attributes.not_empty("property", self.report);
            let identity = object.identity.clone();
            let list = if element.name == "allocatable" {
                &mut adapter.allocatables
            } else {
                &mut adapter.objects
            };
            list.push(object);
            if let Some(property) = property.filter(|p| !p.is_missing()) {
                self.open.hide((property, identity));
            }
        } else if let Some(group) = &mut self.open.replica_group {
            if attributes.given("property").is_some() {
                let reason =
                    "property attribute is not allowed in object descriptors from a replica group";
                self.report
                    .error(Fault::new(element.at, reason).parse(element.at, reason));
            }
            group.objects.push(object);
        }
        Ok(Closes::Nothing)
    }

    fn replica_group(
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

    fn load_balancing(
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

    fn db_env(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_communicator(element)?;
        if self.open.db_env.is_some() {
            return self.nested(element, "dbenv");
        }
        self.open.db_env = Some(DbEnvDescriptor {
            name: attributes.required("name", self.report),
            db_home: attributes.optional("home", ""),
            ..DbEnvDescriptor::default()
        });
        Ok(Closes::DbEnv)
    }

    fn db_property(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        let Some(db_env) = &mut self.open.db_env else {
            return self.misplaced(
                element,
                "the <dbproperty> element can only be a child of a <dbenv> element",
            );
        };
        let name = attributes.required("name", self.report);
        let value = attributes.optional("value", "");
        if db_env.db_home.as_str().is_empty() {
            db_env.properties.push((name, value));
        } else {
            let fault = Fault::new(element.at, "a <dbenv> with a home cannot have properties").parse(
                element.at,
                "can't add property to the database environment:\nproperties are only allowed if the database home \
                 directory\nis managed by the node",
            );
            self.report.error(fault);
        }
        Ok(Closes::Nothing)
    }

    fn log(&mut self, element: &Element, attributes: &mut Attributes<'_>) -> Result<Closes, Skip> {
        self.only_in_communicator(element)?;
        let path = attributes.required("path", self.report);
        if let Some(property) = attributes
            .not_empty("property", self.report)
            .filter(|p| !p.is_missing())
        {
            self.open.hide((property, path.clone()));
        }
        if let Some(service) = &mut self.open.service {
            service.descriptor.logs.push(path);
        } else if let Some(server) = &mut self.open.server {
            server.descriptor.logs.push(path);
        }
        Ok(Closes::Nothing)
    }

    fn distribution(
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
