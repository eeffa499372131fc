//! What servers and services have in common: adapters with their objects, database environments, logs.

use std::collections::HashSet;

use super::properties::Prop;
use super::{Context, Expander};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::Text;
use crate::descriptor::types::{AdapterDescriptor, DbEnvDescriptor};

/// The longest name of a service or database environment, in bytes: it becomes part of a file name.
const MAX_NAME: usize = 200;

/// The fields of a server or a service that both have.
pub(super) struct Parts {
    pub(super) description: String,
    pub(super) properties: Vec<Prop>,
    pub(super) adapters: Vec<AdapterDescriptor>,
    pub(super) db_envs: Vec<DbEnvDescriptor>,
    pub(super) logs: Vec<String>,
}

impl Expander<'_> {
    /// Expands what servers and services have in common.
    pub(super) fn parts(
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
                    self.publish(object, id, written.identity.at(), !allocatable);
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

/// Returns whether a name that becomes part of a file name cannot be one.
pub(super) fn bad_file_name(name: &str) -> bool {
    name.contains('/') || name.chars().any(char::is_control) || name.len() > MAX_NAME
}
