//! Servers, written out or made from templates. Their services are in `services`, what both have in `communicator`.

use std::collections::BTreeMap;

use super::properties::{Prop, Sets};
use super::{Context, Defined, Expander, Found};
use crate::descriptor::KINDS;
use crate::descriptor::application::ServerInstanceDescriptor;
use crate::descriptor::deployment::PlacedServer;
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::Text;
use crate::descriptor::types::{PropertySet, ServerDescriptor};
use crate::descriptor::variables::Scope;
use crate::model::{Activation, NodeName, ServerId};

/// What an instance adds to its server, not expanded yet.
#[derive(Clone, Copy)]
pub(super) struct Additions<'a> {
    pub(super) properties: &'a PropertySet<Text>,
    pub(super) services: &'a BTreeMap<String, PropertySet<Text>>,
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
        if let Some(key) = self.explain {
            let of_kind = |name: &str| match name.strip_prefix(key) {
                Some("") => true,
                Some(rest) => KINDS
                    .iter()
                    .any(|kind| rest.strip_prefix('.') == Some(kind)),
                None => false,
            };
            let found = properties.iter().filter(|property| of_kind(&property.name));
            self.found.extend(found.map(|property| Found {
                server: server_id.clone(),
                name: property.name.clone(),
                value: property.value.clone(),
                at: property.at,
            }));
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
}
