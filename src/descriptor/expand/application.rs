//! The application itself: description, distribution, named sets, replica groups; then its nodes.

use std::collections::{BTreeMap, HashMap};

use super::properties::Sets;
use super::{Context, Defined, Expander};
use crate::descriptor::application::{LoadBalancing, NodeDescriptor, ReplicaGroupDescriptor};
use crate::descriptor::deployment::{NodePlacement, ObjectInfo};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::identity::{Identity, ProxyOptions, quote};
use crate::descriptor::text::Text;
use crate::descriptor::types::{Distribution, ObjectDescriptor};
use crate::descriptor::variables::Scope;
use crate::model::NodeName;

impl Expander<'_> {
    /// Expands what belongs to the application as a whole.
    pub(super) fn application(&mut self) {
        let app = self.app;
        let who = format!("application `{}'", app.name);
        let context = Context {
            scope: self.app_scope(),
            who: &who,
            instance: None,
        };
        if self.others.applications.contains(&app.name) {
            let message = format!("an application '{}' is already deployed", app.name);
            self.report.error(
                Fault::new(app.at.0, message)
                    .registry(format!("application `{}' already exists", app.name)),
            );
        }
        self.deployment.variables = Self::variables(context.scope, &app.variables);
        self.value(&app.description, "description", &context);
        self.distribution(&app.distrib, &context);
        self.app_sets = self.own_properties(&app.property_sets, &context);
        for group in &app.replica_groups {
            self.replica_group(group, &context);
        }
        let mut sets = Sets {
            app: &app.property_sets,
            node: None,
            flat: HashMap::new(),
        };
        self.check_references(&app.property_sets, &mut sets, &context);
    }

    pub(super) fn distribution(
        &mut self,
        distrib: &Distribution<Text>,
        context: &Context<'_>,
    ) -> Distribution {
        Distribution {
            icepatch: self.value_or_empty(&distrib.icepatch, "IcePatch2 server proxy", context),
            directories: distrib
                .directories
                .iter()
                .map(|d| self.value_or_empty(d, "distribution source directory", context))
                .collect(),
        }
    }

    fn replica_group(&mut self, group: &ReplicaGroupDescriptor<Text>, context: &Context<'_>) {
        let proxy_options =
            self.value_or_empty(&group.proxy_options, "replica group proxy options", context);
        let proxy_options = self.check_options(
            proxy_options.trim().to_owned(),
            &group.proxy_options,
            context,
        );
        let expanded = ReplicaGroupDescriptor {
            id: self
                .id(&group.id, "replica group id", context)
                .unwrap_or_default(),
            description: self.value_or_empty(
                &group.description,
                "replica group description",
                context,
            ),
            load_balancing: self.load_balancing(&group.load_balancing, context),
            filter: self.value_or_empty(&group.filter, "replica group filter", context),
            objects: group
                .objects
                .iter()
                .filter_map(|o| self.object(o, "well-known object", &proxy_options, context))
                .collect(),
            proxy_options,
        };
        if expanded.id.is_empty() {
            return;
        }
        // IceGrid keeps the text as written as the group's id, so that nobody finds it by its value.
        let id = if self.strict {
            group.id.as_str().to_owned()
        } else {
            expanded.id.clone()
        };
        if let Some(first) = self.known.groups.get(&id) {
            let note = self
                .report
                .place(*first)
                .map(|place| format!("the first is at {place}"));
            let fault = Fault::new(group.id.at(), format!("duplicate replica group '{id}'"))
                .note(note)
                .registry(format!("duplicate replica group `{id}'"));
            self.report.error(fault);
            return;
        }
        self.known.groups.insert(id.clone(), group.id.at());
        for (object, written) in expanded.objects.iter().zip(&group.objects) {
            self.publish(object, &id, written.identity.at());
        }
        self.deployment.adapters.entry(id.clone()).or_default();
        self.deployment.replica_groups.insert(id, expanded);
    }

    fn load_balancing(
        &mut self,
        text: &LoadBalancing<Text>,
        context: &Context<'_>,
    ) -> LoadBalancing {
        let n_replicas = self
            .number(&text.n_replicas, "number of replicas", context)
            .unwrap_or_else(|| "0".to_owned());
        let bad = match n_replicas.as_str() {
            "" => Some(("is empty", "empty value")),
            n if n.starts_with('-') => Some(("is negative", "inferior to 0")),
            _ => None,
        };
        if let Some((message, reason)) = bad {
            let reason = format!(
                "{}:\ninvalid replica group load balancing number of replicas value: {reason}",
                context.who
            );
            let fault = Fault::new(text.n_replicas.at(), format!("n-replicas {message}"))
                .hint("0 means all");
            self.error(fault.registry(reason), context);
        }
        let load_sample = text.load_sample.as_ref().map(|sample| {
            let value = self.value_or_empty(sample, "replica group load sample", context);
            if !matches!(value.as_str(), "" | "1" | "5" | "15") {
                let reason = format!(
                    "{}:\ninvalid load sample value (allowed values are 1, 5 or 15)",
                    context.who
                );
                let fault = Fault::new(
                    sample.at(),
                    format!("load-sample '{value}' is none of 1, 5 and 15"),
                );
                self.error(fault.registry(reason), context);
            }
            value
        });
        LoadBalancing {
            policy: text.policy,
            n_replicas,
            load_sample,
        }
    }

    /// Expands an object; `default` is what its proxy options are if it has none.
    pub(super) fn object(
        &mut self,
        object: &ObjectDescriptor<Text>,
        what: &str,
        default: &str,
        context: &Context<'_>,
    ) -> Option<ObjectDescriptor> {
        let type_id = self.value_or_empty(&object.type_id, &format!("{what} type"), context);
        let own = self.value_or_empty(
            &object.proxy_options,
            &format!("{what} proxy options"),
            context,
        );
        let proxy_options = match own.trim() {
            "" => default.to_owned(),
            own => self.check_options(own.to_owned(), &object.proxy_options, context),
        };
        let text = self.id_or_empty(&object.identity, &format!("{what} identity"), context)?;
        let (message, reason) = match Identity::parse(&text) {
            Ok(identity) if identity.name.is_empty() => (
                format!("identity '{text}' has no name"),
                format!("invalid object identity `{text}': name empty"),
            ),
            Ok(identity) => {
                return Some(ObjectDescriptor {
                    identity: identity.to_string(),
                    type_id,
                    proxy_options,
                });
            }
            Err(error) => (
                format!("invalid identity '{text}': {error}"),
                format!("invalid object identity `{text}': {}", error.icegrid()),
            ),
        };
        let reason = format!("{}:\n{reason}", context.who);
        self.error(
            Fault::new(object.identity.at(), message).registry(reason),
            context,
        );
        None
    }

    /// Checks proxy options and returns them as they are.
    pub(super) fn check_options(
        &mut self,
        options: String,
        at: &Text,
        context: &Context<'_>,
    ) -> String {
        if let Err(error) = ProxyOptions::parse(&options) {
            let message = format!("invalid proxy options: {}", error.0.replace('`', "'"));
            let reason = format!("{}:\ninvalid proxy options: {}", context.who, error.0);
            self.error(Fault::new(at.at(), message).registry(reason), context);
        }
        options
    }

    /// Makes an object known under its identity.
    pub(super) fn publish(
        &mut self,
        object: &ObjectDescriptor,
        adapter: &str,
        at: crate::descriptor::text::Pos,
    ) {
        let identity = &object.identity;
        if let Some(first) = self.known.objects.get(identity) {
            let note = self
                .report
                .place(*first)
                .map(|place| format!("the first is at {place}"));
            let reason = format!(
                "application `{}':\nduplicate object `{identity}'",
                self.app.name
            );
            let fault = Fault::new(at, format!("duplicate object '{identity}'"))
                .note(note)
                .registry(reason);
            self.report.error(fault);
            return;
        }
        self.known.objects.insert(identity.clone(), at);
        if self.others.objects.contains(identity) {
            let reason = format!("object `{identity}' is already registered");
            self.report.error(
                Fault::new(
                    at,
                    format!("object '{identity}' exists in another application"),
                )
                .registry(reason),
            );
        }
        // Options were checked when the object was expanded.
        let options = ProxyOptions::parse(&object.proxy_options)
            .map_or_else(|_| String::new(), |o| o.to_string());
        let proxy = format!("{} {options} @ {}", quote(identity), quote(adapter));
        self.deployment.objects.insert(
            identity.clone(),
            ObjectInfo {
                type_id: object.type_id.clone(),
                proxy,
            },
        );
    }

    /// Expands a node and its servers.
    pub(super) fn node(&mut self, name: &str, node: &NodeDescriptor) {
        let app = self.app;
        let who = format!("node `{name}'");
        let scope = Scope {
            node: Some((name, &node.variables)),
            ..self.app_scope()
        };
        let context = Context {
            scope,
            who: &who,
            instance: None,
        };
        let place = NodePlacement {
            load_factor: self
                .float(&node.load_factor, "load factor", &context)
                .unwrap_or_default(),
            description: self.value_or_empty(&node.description, "description", &context),
            variables: {
                let mut variables: BTreeMap<_, _> = Self::variables(scope, &app.variables);
                variables.extend(Self::variables(scope, &node.variables));
                variables
            },
        };
        let node_name = match NodeName::try_from(name.to_owned()) {
            Ok(node_name) => {
                self.deployment.nodes.insert(node_name.clone(), place);
                Some(node_name)
            }
            Err(error) => {
                // An empty name has been reported as a missing attribute.
                if !name.is_empty() {
                    self.report.error(Fault::new(
                        node.at.0,
                        format!("invalid name of a node: {error}"),
                    ));
                }
                None
            }
        };
        let own = self.own_properties(&node.property_sets, &context);
        let mut sets = Sets {
            app: &app.property_sets,
            node: Some((&node.property_sets, own)),
            flat: HashMap::new(),
        };
        self.check_references(&node.property_sets, &mut sets, &context);
        let mut ids = Defined::new();
        for instance in &node.server_instances {
            self.server_instance(node_name.as_ref(), instance, &mut sets, &mut ids, &context);
        }
        ids.clear();
        for server in &node.servers {
            self.plain_server(node_name.as_ref(), server, &mut sets, &mut ids, &context);
        }
    }
}
