//! What the end of each element does: what was read goes to where it belongs.

use super::open::{OpenSet, OpenTemplate, SetOwner};
use super::{Closes, Frame, Parser};
use crate::descriptor::application::{NamedPropertySet, Template};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::types::{PropertySet, ServiceInstanceDescriptor};

impl Parser<'_> {
    /// Acts on the end of an element; `at` is the place of its end tag.
    pub(super) fn end(&mut self, frame: Frame, at: Pos) {
        match frame.closes {
            Closes::Nothing => {}
            Closes::Root => {
                if self.chain.len() == 1 && self.open.application.is_none() {
                    let reason = "no application descriptor defined in this file";
                    self.report
                        .error(Fault::new(at, "the file defines no application").parse(at, reason));
                }
            }
            Closes::Application => self.open.in_application = false,
            Closes::Node => self.open.node = None,
            Closes::Server => self.end_server(),
            Closes::ServerInstance => {
                if let (Some(instance), Some(node)) =
                    (self.open.server_instance.take(), self.open.node())
                {
                    node.server_instances.push(instance);
                }
            }
            Closes::ServerTemplate => {
                if let Some(open) = self.open.server_template.take()
                    && let Some((id, template)) = self.end_template(open, "server", frame.at, at)
                {
                    self.open.app().server_templates.insert(id, template);
                }
            }
            Closes::ServiceTemplate => {
                if let Some(open) = self.open.service_template.take()
                    && let Some((id, template)) = self.end_template(open, "service", frame.at, at)
                {
                    self.open.app().service_templates.insert(id, template);
                }
            }
            Closes::Service => self.end_service(),
            Closes::ServiceInstance => {
                if let (Some(instance), Some(server)) =
                    (self.open.service_instance.take(), &mut self.open.server)
                {
                    server
                        .descriptor
                        .services
                        .get_or_insert_default()
                        .push(instance);
                }
            }
            Closes::Adapter => {
                let adapter = self.open.adapter.take();
                let adapters = match (&mut self.open.service, &mut self.open.server) {
                    (Some(service), _) => Some(&mut service.descriptor.adapters),
                    (None, Some(server)) => Some(&mut server.descriptor.adapters),
                    (None, None) => None,
                };
                if let (Some(adapter), Some(adapters)) = (adapter, adapters) {
                    adapters.push(adapter);
                }
            }
            Closes::ReplicaGroup => {
                if let Some(group) = self.open.replica_group.take() {
                    self.open.app().replica_groups.push(group);
                }
            }
            Closes::DbEnv => self.end_db_env(),
            Closes::Distribution => {
                if let Some(distribution) = self.open.distribution.take() {
                    match &mut self.open.server {
                        Some(server) => server.descriptor.distrib = distribution,
                        None => self.open.app().distrib = distribution,
                    }
                }
            }
            Closes::Properties => {
                if let Some(set) = self.open.set.take() {
                    self.end_properties(set, at);
                }
            }
            Closes::Reference => {
                if let Some(set) = &mut self.open.set {
                    set.in_reference = false;
                }
            }
            Closes::Option | Closes::Env => {
                if let Some(server) = &mut self.open.server {
                    let text = Text::placed(frame.text, frame.at);
                    if frame.closes == Closes::Env {
                        server.descriptor.envs.push(text);
                    } else {
                        server.descriptor.options.push(text);
                    }
                }
            }
            Closes::Directory => {
                if let Some(distribution) = &mut self.open.distribution {
                    distribution
                        .directories
                        .push(Text::placed(frame.text, frame.at));
                }
            }
            Closes::Description => self.end_description(frame),
        }
    }

    fn end_server(&mut self) {
        let Some(server) = self.open.server.take() else {
            return;
        };
        match &mut self.open.server_template {
            Some(template) => template.descriptor = Some(server.descriptor),
            None => {
                if let Some(node) = self.open.node() {
                    node.servers.push(server.descriptor);
                }
            }
        }
    }

    fn end_service(&mut self) {
        let Some(service) = self.open.service.take() else {
            return;
        };
        if let Some(server) = &mut self.open.server {
            let inline = ServiceInstanceDescriptor {
                descriptor: Some(service.descriptor),
                ..ServiceInstanceDescriptor::default()
            };
            server
                .descriptor
                .services
                .get_or_insert_default()
                .push(inline);
        } else if let Some(template) = &mut self.open.service_template {
            template.descriptor = Some(service.descriptor);
        }
    }

    /// Finishes a template; `None` if it cannot be used.
    fn end_template<D>(
        &mut self,
        open: OpenTemplate<D>,
        kind: &str,
        start: Pos,
        end: Pos,
    ) -> Option<(String, Template<D>)> {
        let OpenTemplate {
            id,
            descriptor,
            template,
        } = open;
        if id.is_missing() {
            return None;
        }
        let app = self.open.app();
        let exists = match kind {
            "server" => app.server_templates.contains_key(id.as_str()),
            _ => app.service_templates.contains_key(id.as_str()),
        };
        if exists {
            self.report.error(
                Fault::new(id.at(), format!("duplicate {kind} template '{id}'"))
                    .parse(end, format!("duplicate {kind} template `{id}'")),
            );
            return None;
        }
        let Some(descriptor) = descriptor else {
            // A faulty server inside has been reported; nobody needs to hear that it is missing.
            if !self.gaps.everything && self.gaps.names.is_empty() {
                self.report.error(
                    Fault::new(start, format!("{kind} template '{id}' has no <{kind}>")).parse(
                        end,
                        format!("invalid {kind} template `{id}': {kind} definition is missing"),
                    ),
                );
            }
            self.gaps.names.insert(id.as_str().to_owned());
            return None;
        };
        let Template {
            descriptor: (),
            parameters,
            parameter_defaults,
        } = template;
        Some((
            id.as_str().to_owned(),
            Template {
                descriptor,
                parameters,
                parameter_defaults,
            },
        ))
    }

    fn end_db_env(&mut self) {
        let Some(mut db_env) = self.open.db_env.take() else {
            return;
        };
        let list = match (&mut self.open.service, &mut self.open.server) {
            (Some(service), _) => &mut service.descriptor.db_envs,
            (None, Some(server)) => &mut server.descriptor.db_envs,
            (None, None) => return,
        };
        if let Some(index) = list.iter().position(|d| d.name == db_env.name) {
            let mut first = list.remove(index);
            first.properties.append(&mut db_env.properties);
            if first.db_home.as_str().is_empty() {
                first.db_home = db_env.db_home;
            }
            if !db_env.description.as_str().is_empty() {
                first.description = db_env.description;
            }
            db_env = first;
        }
        list.push(db_env);
    }

    fn end_properties(&mut self, open: OpenSet, end: Pos) {
        let OpenSet { owner, set, at, .. } = open;
        match owner {
            SetOwner::Named(id) => {
                if id.is_missing() {
                    return;
                }
                let sets = match self.open.node() {
                    Some(node) => &mut node.property_sets,
                    None => &mut self.open.app().property_sets,
                };
                if sets.contains_key(id.as_str()) {
                    self.report.error(
                        Fault::new(id.at(), format!("duplicate property set '{id}'"))
                            .parse(end, format!("duplicate property set `{id}'")),
                    );
                    return;
                }
                let mut named = NamedPropertySet {
                    set,
                    ..NamedPropertySet::default()
                };
                named.at.0 = at;
                sets.insert(id.as_str().to_owned(), named);
            }
            SetOwner::Server | SetOwner::Service => {
                if let Some((all, _)) = self.open.properties() {
                    append(all, set);
                }
            }
            SetOwner::ServiceInstance => {
                if let Some(instance) = &mut self.open.service_instance {
                    append(&mut instance.property_set, set);
                }
            }
            SetOwner::ServerInstance { service } => {
                if let Some(instance) = &mut self.open.server_instance {
                    match service {
                        Some(service) => append(
                            instance.service_property_sets.entry(service).or_default(),
                            set,
                        ),
                        None => append(&mut instance.property_set, set),
                    }
                }
            }
        }
    }

    fn end_description(&mut self, frame: Frame) {
        let outside = self.open.server.is_none()
            && self.open.service.is_none()
            && self.open.replica_group.is_none();
        let stray = if outside && self.open.server_instance.is_some() {
            Some(("server-instance", "node"))
        } else if outside
            && (self.open.server_template.is_some() || self.open.service_template.is_some())
        {
            Some((
                "template",
                if self.open.node.is_some() {
                    "node"
                } else {
                    "application"
                },
            ))
        } else {
            None
        };
        if let Some((inside, owner)) = stray {
            self.report.warn(
                Fault::new(
                    frame.at,
                    format!("a description in a {inside} becomes that of the {owner}"),
                )
                .hint("IceGrid reads it so; put it into the server"),
            );
        }
        let text = Text::placed(frame.text, frame.at);
        if let Some(description) = self.open.description() {
            *description = text;
        }
    }
}

fn append(all: &mut PropertySet<Text>, mut more: PropertySet<Text>) {
    all.references.append(&mut more.references);
    all.properties.append(&mut more.properties);
}
