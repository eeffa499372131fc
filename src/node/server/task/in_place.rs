//! A running Ice server takes up properties that have changed, where what is wanted is that nothing is restarted for them.
//!
//! What its process has is in its configuration files: they are written anew once it has been told how the new ones differ, and only then is
//! the definition in its record the new one. So a node that ends meanwhile is followed by one that tells the process again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use tracing::{info, warn};

use super::Task;
use crate::config::Properties;
use crate::descriptor::{Resolved, ServerDescriptor};
use crate::node::server::admin::{self, AdminError};
use crate::node::server::launch;
use crate::node::server::record::Record;
use crate::node::server::step::Phase;
use crate::telemetry::chain;

/// What a process should have from its definition, as digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// All of it.
    pub(super) fingerprint: String,
    /// All but its properties.
    shape: String,
}

impl Wanted {
    pub(super) fn of(definition: &ServerDescriptor) -> Self {
        Self {
            fingerprint: launch::fingerprint(definition),
            shape: launch::shape(definition),
        }
    }

    /// Notes that the process has it.
    pub(super) fn note(&self, record: &mut Record) {
        self.fingerprint.clone_into(&mut record.fingerprint);
        self.shape.clone_into(&mut record.shape);
    }
}

/// A process that is being told.
pub(super) struct Telling {
    /// What it has once it was told.
    then: Wanted,
    resolved: Resolved,
    outcome: Pin<Box<dyn Future<Output = Result<(), AdminError>> + Send>>,
}

impl Telling {
    /// Returns what becomes of it.
    pub(super) fn outcome(
        &mut self,
    ) -> &mut (impl Future<Output = Result<(), AdminError>> + use<>) {
        &mut self.outcome
    }
}

/// Other values of properties, by service; `None` for those of the server itself. An empty value takes a property away.
type Differences = BTreeMap<Option<String>, BTreeMap<String, String>>;

impl Task {
    /// Returns whether the process lacks nothing of its definition but properties, of which it is to be told.
    pub(super) fn can_take_up(&self) -> bool {
        let is_other = self.record.fingerprint != self.wanted.fingerprint;
        let same_shape = self.record.shape == self.wanted.shape;
        self.run.is_some() && self.assigned.in_place && is_other && same_shape
    }

    /// Begins to tell an active process how its properties differ, if they do, it is to be told, and that has not failed before.
    pub(super) fn tell(&mut self) {
        let active = matches!(self.server.phase, Phase::Active { .. });
        if !active || !self.can_take_up() || self.telling.is_some() || self.not_told.is_some() {
            return;
        }
        let definition = &self.assigned.descriptor;
        let resolved = launch::resolve(&self.context, definition, &self.assigned.application);
        let begun = match (resolved, self.record.process_proxy.clone()) {
            (Err(error), _) => Err(chain(&error)),
            (Ok(_), None) => Err("its process has not said where it can be told".to_owned()),
            (Ok(resolved), Some(process)) => {
                let home = self.context.server_dir(&self.assigned.id);
                differences(&home.join("config"), &resolved.files)
                    .map(|differences| (resolved, process, differences))
                    .map_err(|error| format!("cannot read its configuration: {error}"))
            }
        };
        match begun {
            Err(reason) => self.cannot_tell(reason),
            Ok((resolved, process, differences)) => {
                let client = self.context.ice.clone();
                self.telling = Some(Telling {
                    then: self.wanted.clone(),
                    resolved,
                    outcome: Box::pin(async move {
                        for (service, values) in &differences {
                            let process = process.clone();
                            let service = service.as_deref();
                            admin::set_properties(&client, process, service, values).await?;
                        }
                        Ok(())
                    }),
                });
            }
        }
    }

    /// Goes on once the process has answered.
    pub(super) fn took_up(&mut self, taken: Result<(), AdminError>) {
        let Some(Telling { then, resolved, .. }) = self.telling.take() else {
            return;
        };
        let home = self.context.server_dir(&self.assigned.id);
        let written = taken.map_err(|error| chain(&error)).and_then(|()| {
            launch::prepare(&self.context, &home, &resolved).map_err(|error| chain(&error))
        });
        match written {
            Err(reason) => self.cannot_tell(reason),
            Ok(_) => {
                info!(server = %self.assigned.id, "a server has taken up its properties without a restart");
                then.note(&mut self.record);
                self.keep_record();
                // Others may have changed meanwhile.
                self.tell();
            }
        }
        self.publish(self.server.state());
    }

    fn cannot_tell(&mut self, reason: String) {
        warn!(server = %self.assigned.id, %reason, "a server goes on with older values of its properties");
        self.not_told = Some(reason);
    }
}

/// Returns how new configuration files differ from those that the process has.
fn differences(dir: &Path, new: &BTreeMap<String, Vec<String>>) -> std::io::Result<Differences> {
    let mut all = Differences::new();
    for (file, lines) in new {
        let service = file.strip_prefix("config_").map(str::to_owned);
        let mut before = Properties::default();
        before.add(&std::fs::read_to_string(dir.join(file))?);
        let mut after = Properties::default();
        after.add(&lines.join("\n"));
        let names: BTreeSet<&str> = before.iter().chain(after.iter()).map(|(n, _)| n).collect();
        let changed: BTreeMap<String, String> = names
            .into_iter()
            .filter(|name| before.get(name) != after.get(name))
            .map(|name| {
                (
                    name.to_owned(),
                    after.get(name).unwrap_or_default().to_owned(),
                )
            })
            .collect();
        if !changed.is_empty() {
            all.insert(service, changed);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_differs_and_what_is_gone_is_told_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        let written = [
            (
                "config",
                "# Configuration file\n\na=1\nb=two\\ words\ngone=x\n",
            ),
            ("config_S", "s=1\n"),
            ("config_T", "t=1\n"),
        ];
        for (name, text) in written {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let files = |files: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
            let line = |line: &&str| (*line).to_owned();
            let file = |(name, lines): &(&str, &[&str])| {
                ((*name).to_owned(), lines.iter().map(line).collect())
            };
            files.iter().map(file).collect()
        };
        let new = files(&[
            ("config", &["new=\\#", "a=1", "b=two words", "a=2"]),
            ("config_S", &["s=1", "s=3"]),
            ("config_T", &["t=1"]),
        ]);
        let values = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
            pairs.iter().map(owned).collect()
        };
        let expected = Differences::from([
            (None, values(&[("a", "2"), ("gone", ""), ("new", "#")])),
            (Some("S".to_owned()), values(&[("s", "3")])),
        ]);
        assert_eq!(differences(dir.path(), &new).unwrap(), expected);
        let other = files(&[("config_U", &[])]);
        assert!(differences(dir.path(), &other).is_err());
    }
}
