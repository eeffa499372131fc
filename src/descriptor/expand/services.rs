//! The services of an icebox, written out or made from templates.

use super::communicator::bad_file_name;
use super::properties::{Prop, Sets};
use super::servers::Additions;
use super::{Context, Expander};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::types::{
    PropertySet, ServerDescriptor, ServerKind, ServiceDescriptor, ServiceInstanceDescriptor,
    ServiceKind,
};
use crate::descriptor::variables::Scope;

impl Expander<'_> {
    pub(super) fn services(
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
