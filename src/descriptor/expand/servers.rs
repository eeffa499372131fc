//! Servers and services, written out or made from templates.

use std::collections::{BTreeMap, HashSet};

use super::properties::{Prop, Sets};
use super::{Context, Defined, Expander};
use crate::descriptor::application::{ServerInstanceDescriptor, Template};
use crate::descriptor::deployment::PlacedServer;
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::types::{
    AdapterDescriptor, DbEnvDescriptor, PropertySet, ServerDescriptor, ServerKind,
    ServiceDescriptor, ServiceInstanceDescriptor, ServiceKind,
};
use crate::descriptor::variables::Scope;
use crate::model::{Activation, NodeName, ServerId};

/// The longest name of a service or database environment, in bytes: it becomes part of a file name.
const MAX_NAME: usize = 200;

/// What an instance adds to its server, not expanded yet.
#[derive(Clone, Copy)]
struct Additions<'a> {
    properties: &'a PropertySet<Text>,
    services: &'a BTreeMap<String, PropertySet<Text>>,
}

/// The fields of a server or a service that both have.
struct Parts {
    description: String,
    properties: Vec<Prop>,
    adapters: Vec<AdapterDescriptor>,
    db_envs: Vec<DbEnvDescriptor>,
    logs: Vec<String>,
}

impl Expander<'_> {
    /// Expands an instance of a server template.
    pub(super) fn server_instance(
        &mut self,
        node: Option<&NodeName>,
        instance: &ServerInstanceDescriptor,
        sets: &mut Sets<'_>,
        ids: &mut Defined,
        context: &Context<'_>,
    ) {
        let app = self.app;
        let Some(template) =
            self.find_template(&instance.template, &app.server_templates, "server")
        else {
            return;
        };
        let values = &instance.parameter_values;
        let Some(parameters) =
            self.parameters(&instance.template, values, template, instance.at.0, context)
        else {
            return;
        };
        let context = Context {
            scope: Scope {
                parameters: Some(&parameters),
                ..context.scope
            },
            instance: Some(instance.at.0),
            ..*context
        };
        let additions = Additions {
            properties: &instance.property_set,
            services: &instance.service_property_sets,
        };
        self.server(node, &template.descriptor, additions, sets, ids, &context);
    }

    /// Expands a server that stands in a node itself.
    pub(super) fn plain_server(
        &mut self,
        node: Option<&NodeName>,
        server: &ServerDescriptor<Text>,
        sets: &mut Sets<'_>,
        ids: &mut Defined,
        context: &Context<'_>,
    ) {
        let nothing = PropertySet::default();
        let additions = Additions {
            properties: &nothing,
            services: &BTreeMap::new(),
        };
        self.server(node, server, additions, sets, ids, context);
    }

    fn find_template<'t, D>(
        &mut self,
        id: &Text,
        templates: &'t BTreeMap<String, Template<D>>,
        kind: &str,
    ) -> Option<&'t Template<D>> {
        let found = templates.get(id.as_str());
        if found.is_none() && !id.is_missing() && !self.gaps.may_explain(id.as_str()) {
            self.report.error(
                Fault::new(id.at(), format!("unknown template '{id}'"))
                    .near(id.as_str(), templates.keys().map(String::as_str))
                    .registry(format!("unknown {kind} template `{id}'")),
            );
        }
        found
    }

    /// Expands the parameters of an instance; `None` if some are unknown or missing.
    fn parameters<D>(
        &mut self,
        id: &Text,
        given: &BTreeMap<String, Text>,
        template: &Template<D>,
        at: Pos,
        context: &Context<'_>,
    ) -> Option<BTreeMap<String, String>> {
        let mut out = BTreeMap::new();
        let mut complete = true;
        for (name, text) in given {
            if template.parameters.contains(name) {
                match self.value(text, &format!("parameter `{name}'"), context) {
                    Some(value) => {
                        out.insert(name.clone(), value);
                    }
                    None => complete = false,
                }
            }
        }
        let unknown: Vec<_> = given
            .iter()
            .filter(|(name, _)| !template.parameters.contains(name))
            .collect();
        if !unknown.is_empty() {
            let names: String = unknown.iter().map(|(name, _)| format!("{name} ")).collect();
            let reason = format!(
                "{}:\nunknown parameters when instantiating `{id}' template: {names}",
                context.who
            );
            for (name, text) in unknown {
                let free = template
                    .parameters
                    .iter()
                    .filter(|p| !given.contains_key(*p))
                    .map(String::as_str);
                self.error(
                    Fault::new(
                        text.at(),
                        format!("template '{id}' has no parameter '{name}'"),
                    )
                    .near(name, free)
                    .registry(reason.clone()),
                    context,
                );
            }
            complete = false;
        }
        for (name, default) in &template.parameter_defaults {
            if !given.contains_key(name) {
                match self.value(default, &format!("default parameter `{name}'"), context) {
                    Some(value) => {
                        out.insert(name.clone(), value);
                    }
                    None => complete = false,
                }
            }
        }
        let mut missing: Vec<&str> = template
            .parameters
            .iter()
            .filter(|p| !given.contains_key(*p) && !template.parameter_defaults.contains_key(*p))
            .map(String::as_str)
            .collect();
        // A misspelt parameter is not missing as well.
        if !missing.is_empty() && given.keys().all(|name| template.parameters.contains(name)) {
            missing.sort_unstable();
            let names: String = missing.iter().map(|name| format!("{name} ")).collect();
            let plural = if missing.len() == 1 { "" } else { "s" };
            self.error(
                Fault::new(
                    at,
                    format!(
                        "template '{id}' needs the parameter{plural} {}",
                        quoted(&missing)
                    ),
                )
                .registry(format!(
                    "{}:\nundefined parameters when instantiating `{id}' template: {names}",
                    context.who
                )),
                context,
            );
        }
        (complete && missing.is_empty()).then_some(out)
    }

    fn server(
        &mut self,
        node: Option<&NodeName>,
        text: &ServerDescriptor<Text>,
        additions: Additions<'_>,
        sets: &mut Sets<'_>,
        ids: &mut Defined,
        outer: &Context<'_>,
    ) {
        let id = self.id(&text.id, "server id", outer);
        // Without an id its other fields are still looked at, under the id as written.
        let name = id.clone().unwrap_or_else(|| text.id.as_str().to_owned());
        let who = format!("server `{name}'");
        let scope = Scope {
            server: Some(&name),
            ..outer.scope
        };
        let activation = self.value_or_empty(
            &text.activation,
            "activation",
            &Context {
                scope,
                who: &who,
                instance: outer.instance,
            },
        );
        let session = activation == "session";
        let context = Context {
            scope: Scope { session, ..scope },
            who: &who,
            instance: outer.instance,
        };
        if activation.parse::<Activation>().is_err() {
            let fault = Fault::new(
                text.activation.at(),
                format!("unknown activation '{activation}'"),
            )
            .near(&activation, ["manual", "on-demand", "always", "session"])
            .hint("it is one of manual, on-demand, always, session")
            .registry(format!("{who}:\nunknown activation `{activation}'"));
            self.error(fault, &context);
        }
        let ice_version = self.ice_version(&text.ice_version, &context);
        let (references, mut own) = self.set(&text.property_set, sets, &context);
        let (more_references, more) = self.set(additions.properties, sets, &context);
        let mut properties = references;
        properties.append(&mut own);
        properties.extend(more_references.into_iter().chain(more));
        let parts = self.parts(
            &text.description,
            properties,
            (&text.adapters, &text.db_envs, &text.logs),
            &ice_version,
            &context,
        );
        let exe = self.non_empty(&text.exe, "executable", &context);
        let descriptor = ServerDescriptor {
            kind: text.kind,
            id: name.clone(),
            exe: exe.unwrap_or_default(),
            ice_version: ice_version.clone(),
            pwd: self.value_or_empty(&text.pwd, "working directory path", &context),
            options: text
                .options
                .iter()
                .map(|o| self.value_or_empty(o, "option", &context))
                .collect(),
            envs: text
                .envs
                .iter()
                .map(|e| self.value_or_empty(e, "environment variable", &context))
                .collect(),
            activation,
            activation_timeout: self.timeout(
                &text.activation_timeout,
                "activation timeout",
                &context,
            ),
            deactivation_timeout: self.timeout(
                &text.deactivation_timeout,
                "deactivation timeout",
                &context,
            ),
            application_distrib: text.application_distrib,
            distrib: self.distribution(&text.distrib, &context),
            allocatable: text.allocatable,
            user: self.user(&text.user, node, &context),
            description: parts.description,
            adapters: parts.adapters,
            db_envs: parts.db_envs,
            logs: parts.logs,
            services: self.services(text, additions, sets, &ice_version, &context),
            property_set: PropertySet::default(),
        };
        let Some(id) = id else { return };
        self.place_server(node, id, &text.id, descriptor, parts.properties, ids, outer);
    }

    /// Puts an expanded server into the deployment.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, and each is a different thing"
    )]
    fn place_server(
        &mut self,
        node: Option<&NodeName>,
        id: String,
        at: &Text,
        mut descriptor: ServerDescriptor,
        properties: Vec<Prop>,
        ids: &mut Defined,
        outer: &Context<'_>,
    ) {
        if let Some(first) = self.known.servers.get(&id) {
            let note = self
                .report
                .place(*first)
                .map(|place| format!("the first is at {place}"));
            let node = outer.scope.node.map_or("", |(name, _)| name);
            let reason = if ids.contains_key(&id) {
                format!("node `{node}':\nduplicate server `{id}' in node `{node}'")
            } else {
                format!("application `{}':\nduplicate server `{id}'", self.app.name)
            };
            let place = outer.instance.unwrap_or(at.at());
            self.report.error(
                Fault::new(place, format!("duplicate server '{id}'"))
                    .note(note)
                    .registry(reason),
            );
            return;
        }
        let place = outer.instance.unwrap_or(at.at());
        ids.insert(id.clone(), place);
        self.known.servers.insert(id.clone(), place);
        if self.others.servers.contains(&id) {
            let reason = format!("server `{id}' is already registered");
            self.report.error(
                Fault::new(
                    place,
                    format!("server '{id}' exists in another application"),
                )
                .registry(reason),
            );
        }
        let server_id = match ServerId::try_from(id) {
            Ok(id) => id,
            Err(error) => {
                self.error(
                    Fault::new(at.at(), format!("invalid id of a server: {error}")),
                    outer,
                );
                return;
            }
        };
        for list in ["omero.grid.after", "omero.grid.required"] {
            if let Some(last) = properties.iter().rev().find(|p| p.name == list) {
                self.known.lists.push((server_id.clone(), last.clone()));
            }
        }
        descriptor.property_set.properties = properties.into_iter().map(Prop::into_pair).collect();
        let Some(node) = node else { return };
        self.deployment.servers.insert(
            server_id,
            PlacedServer {
                node: node.clone(),
                descriptor,
            },
        );
    }

    fn timeout(&mut self, text: &Text, attribute: &str, context: &Context<'_>) -> String {
        let value = self.number(text, attribute, context).unwrap_or_default();
        if value.starts_with('-') {
            self.report.warn(
                Fault::new(
                    text.at(),
                    format!("the {attribute} is negative; 60 seconds count instead"),
                )
                .hint("leave it out for 60 seconds"),
            );
        }
        value
    }

    fn ice_version(&mut self, text: &Text, context: &Context<'_>) -> String {
        let value = self.value_or_empty(text, "ice version", context);
        let version = value.trim_matches(' ');
        let part = |p: &str| (1..=2).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = version.split('.').collect();
        if !version.is_empty() && (!(2..=3).contains(&parts.len()) || !parts.into_iter().all(part))
        {
            let reason = format!("{}:\ninvalid ice version: {value}", context.who);
            let fault = Fault::new(
                text.at(),
                format!("ice-version '{value}' is no version such as 3.6"),
            );
            self.error(fault.registry(reason), context);
        }
        value
    }

    fn user(&mut self, text: &Text, node: Option<&NodeName>, context: &Context<'_>) -> String {
        let user = self.value_or_empty(text, "user", context);
        if user.is_empty() || user.contains("${") || self.source.has_account(&user) != Some(false) {
            return user;
        }
        let server = context.scope.server.unwrap_or_default();
        let fault = Fault::new(text.at(), format!("this host has no user account '{user}'"));
        if self.strict {
            let node = node.map_or("", NodeName::as_str);
            let reason = format!(
                "couldn't load `{server}' on node `{node}':\nunknown user account `{user}'"
            );
            self.error(fault.node(reason), context);
        } else {
            self.report
                .warn(fault.hint("the server can only be started where the account exists"));
        }
        user
    }

    /// Expands what servers and services have in common.
    fn parts(
        &mut self,
        description: &Text,
        properties: Vec<Prop>,
        (adapters, db_envs, logs): (
            &[AdapterDescriptor<Text>],
            &[DbEnvDescriptor<Text>],
            &[Text],
        ),
        ice_version: &str,
        context: &Context<'_>,
    ) -> Parts {
        Parts {
            description: self.value_or_empty(description, "description", context),
            adapters: adapters
                .iter()
                .filter_map(|a| self.adapter(a, &properties, ice_version, context))
                .collect(),
            db_envs: db_envs.iter().map(|d| self.db_env(d, context)).collect(),
            logs: logs
                .iter()
                .map(|l| self.non_empty(l, "log path", context).unwrap_or_default())
                .collect(),
            properties,
        }
    }

    fn adapter(
        &mut self,
        text: &AdapterDescriptor<Text>,
        properties: &[Prop],
        ice_version: &str,
        context: &Context<'_>,
    ) -> Option<AdapterDescriptor> {
        let name = self.non_empty(&text.name, "object adapter name", context)?;
        let last = |suffix: &str| {
            properties.iter().rev().find(|p| {
                p.name
                    .strip_prefix(name.as_str())
                    .and_then(|p| p.strip_prefix('.'))
                    == Some(suffix)
            })
        };
        let options = match last("ProxyOptions") {
            Some(options) => {
                let at = Text::placed(String::new(), options.at);
                self.check_options(options.value.trim().to_owned(), &at, context)
            }
            None => default_options(properties, ice_version),
        };
        let object = |s: &mut Self, o, what| s.object(o, what, &options, context);
        let objects: Vec<_> = text
            .objects
            .iter()
            .map(|o| object(self, o, "well-known object"))
            .collect();
        let allocatables: Vec<_> = text
            .allocatables
            .iter()
            .map(|o| object(self, o, "allocatable object"))
            .collect();
        if last("Endpoints").is_some_and(|e| e.value.is_empty()) {
            let reason = format!(
                "{}:\ninvalid endpoints for adapter `{name}': empty string",
                context.who
            );
            let at = last("Endpoints").map_or(text.name.at(), |e| e.at);
            self.error(
                Fault::new(at, format!("adapter '{name}' has empty endpoints")).registry(reason),
                context,
            );
        }
        let id = self.id(&text.id, "object adapter id", context);
        let replica_group_id = self
            .id_or_empty(
                &text.replica_group_id,
                "object adapter replica group id",
                context,
            )
            .unwrap_or_default();
        if let Some(id) = &id {
            let mut met = HashSet::new();
            let written = text
                .objects
                .iter()
                .map(|o| (o, false))
                .chain(text.allocatables.iter().map(|o| (o, true)));
            for (object, (written, allocatable)) in objects.iter().chain(&allocatables).zip(written)
            {
                let Some(object) = object else { continue };
                // As object and as allocatable of one adapter the same identity counts once.
                if met.insert(object.identity.clone()) || !allocatable {
                    self.publish(object, id, written.identity.at());
                }
            }
            self.add_adapter(id, &replica_group_id, text, context);
        }
        Some(AdapterDescriptor {
            description: self.value_or_empty(
                &text.description,
                "object adapter description",
                context,
            ),
            id: id?,
            replica_group_id,
            priority: self
                .number(&text.priority, "object adapter priority", context)
                .unwrap_or_default(),
            register_process: text.register_process,
            server_lifetime: text.server_lifetime,
            objects: objects.into_iter().flatten().collect(),
            allocatables: allocatables.into_iter().flatten().collect(),
            name,
        })
    }

    fn db_env(&mut self, text: &DbEnvDescriptor<Text>, context: &Context<'_>) -> DbEnvDescriptor {
        let name = self
            .non_empty(&text.name, "database environment name", context)
            .unwrap_or_default();
        if matches!(name.as_str(), "." | "..") || bad_file_name(&name) {
            let message = format!(
                "{name:?} cannot be the name of a database environment, whose folder it names"
            );
            self.error(Fault::new(text.name.at(), message), context);
        }
        let value = |s: &mut Self, t, what| s.value_or_empty(t, what, context);
        DbEnvDescriptor {
            description: value(self, &text.description, "description"),
            db_home: value(self, &text.db_home, "database environment home directory"),
            properties: text
                .properties
                .iter()
                .map(|(n, v)| {
                    let name = value(self, n, "database environment property name");
                    (name, value(self, v, "database environment property value"))
                })
                .collect(),
            name,
        }
    }

    fn services(
        &mut self,
        server: &ServerDescriptor<Text>,
        additions: Additions<'_>,
        sets: &mut Sets<'_>,
        ice_version: &str,
        context: &Context<'_>,
    ) -> Option<Vec<ServiceInstanceDescriptor>> {
        let mut out: Vec<ServiceInstanceDescriptor> = Vec::new();
        for service in server.services.iter().flatten() {
            if let Some(descriptor) = self.service(service, additions, sets, ice_version, context) {
                let name = &descriptor.name;
                if out
                    .iter()
                    .any(|s| s.descriptor.as_ref().is_some_and(|d| d.name == *name))
                {
                    let at = service
                        .descriptor
                        .as_ref()
                        .map_or(service.template.at(), |d| d.name.at());
                    let reason = format!("{}:\nduplicate service `{name}'", context.who);
                    self.error(
                        Fault::new(at, format!("duplicate service '{name}'")).registry(reason),
                        context,
                    );
                }
                out.push(ServiceInstanceDescriptor {
                    descriptor: Some(descriptor),
                    ..Default::default()
                });
            }
        }
        for (name, set) in additions.services {
            let at = set
                .references
                .first()
                .or(set.properties.first().map(|(n, _)| n))
                .map_or(Pos::NONE, Text::at);
            let at = if at.is_some() {
                at
            } else {
                context.instance.unwrap_or_default()
            };
            if server.kind == ServerKind::Server {
                let reason = "service property sets are only allowed in IceBox server instances";
                self.error(
                    Fault::new(at, reason).registry(format!("{}:\n{reason}", context.who)),
                    context,
                );
                continue;
            }
            let expanded = self.value_or_empty(&Text::placed(name.clone(), at), "service", context);
            let names: Vec<_> = out
                .iter()
                .filter_map(|s| s.descriptor.as_ref())
                .map(|d| d.name.as_str())
                .collect();
            if !names.contains(&expanded.as_str()) {
                let reason = format!(
                    "{}:\ninvalid service property set: service `{expanded}' doesn't exist",
                    context.who
                );
                let fault = Fault::new(
                    at,
                    format!("properties for an unknown service '{expanded}'"),
                );
                self.error(fault.near(&expanded, names).registry(reason), context);
            }
        }
        (server.kind == ServerKind::Icebox).then_some(out)
    }

    fn service(
        &mut self,
        text: &ServiceInstanceDescriptor<Text>,
        additions: Additions<'_>,
        sets: &mut Sets<'_>,
        ice_version: &str,
        server: &Context<'_>,
    ) -> Option<ServiceDescriptor> {
        let app = self.app;
        let (descriptor, parameters) = match &text.descriptor {
            // An inline service sees the parameters of the server around it.
            Some(inline) => (inline, None),
            None => {
                let template =
                    self.find_template(&text.template, &app.service_templates, "service")?;
                let at = text.template.at();
                (
                    &template.descriptor,
                    Some(self.parameters(
                        &text.template,
                        &text.parameter_values,
                        template,
                        at,
                        server,
                    )?),
                )
            }
        };
        let parameters = parameters.as_ref().or(server.scope.parameters);
        let outer = Context {
            scope: Scope {
                parameters,
                ..server.scope
            },
            ..*server
        };
        let name = self.id(&descriptor.name, "service name", &outer)?;
        if bad_file_name(&name) {
            let message = format!(
                "{name:?} cannot be the name of a service, whose configuration file it names"
            );
            self.error(
                Fault::new(descriptor.name.at(), message).hint("use a short name without '/'"),
                &outer,
            );
        }
        let who = format!("service `{name}' from {}", server.who);
        let context = Context {
            scope: Scope {
                service: Some(&name),
                ..outer.scope
            },
            who: &who,
            ..outer
        };
        let (references, mut own) = self.set(&descriptor.property_set, sets, &context);
        let (instance_references, instance) = self.set(&text.property_set, sets, &context);
        let mut properties = references;
        properties.append(&mut own);
        properties.extend(instance_references.into_iter().chain(instance));
        for (key, set) in additions.services {
            if server.scope.expand(key).is_ok_and(|key| key == name) {
                // These are written in the instance of the server, and see what it sees.
                let (references, own) = self.set(set, sets, server);
                properties.extend(references.into_iter().chain(own));
            }
        }
        let entry = self
            .non_empty(&descriptor.entry, "entry", &context)
            .unwrap_or_default();
        let parts = self.parts(
            &descriptor.description,
            properties,
            (&descriptor.adapters, &descriptor.db_envs, &descriptor.logs),
            ice_version,
            &context,
        );
        Some(ServiceDescriptor {
            kind: ServiceKind::Service,
            entry,
            description: parts.description,
            adapters: parts.adapters,
            property_set: PropertySet {
                references: Vec::new(),
                properties: parts.properties.into_iter().map(Prop::into_pair).collect(),
            },
            db_envs: parts.db_envs,
            logs: parts.logs,
            name,
        })
    }
}

/// Returns the options of an object whose adapter has none.
fn default_options(properties: &[Prop], ice_version: &str) -> String {
    let encoding = properties
        .iter()
        .rev()
        .find(|p| p.name == "Ice.Default.EncodingVersion")
        .map(|p| p.value.as_str());
    let encoding = encoding.filter(|e| !e.is_empty());
    let old = || {
        let mut parts = ice_version
            .trim()
            .split('.')
            .map(|p| p.parse::<u32>().unwrap_or(u32::MAX));
        let version = (parts.next().unwrap_or(u32::MAX), parts.next().unwrap_or(0));
        version < (3, 5)
    };
    format!(
        "-e {}",
        encoding.unwrap_or(if old() { "1.0" } else { "1.1" })
    )
}

fn bad_file_name(name: &str) -> bool {
    name.contains('/') || name.chars().any(char::is_control) || name.len() > MAX_NAME
}

fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|n| format!("'{n}'"))
        .collect::<Vec<_>>()
        .join(", ")
}
