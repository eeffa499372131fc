//! Whether the configuration on disk is the one that is deployed: somebody else may write `config.xml`.
//!
//! Nothing of such a change is applied before `reload` is asked for; the status says that there is something to apply.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tracing::warn;

use super::core::Command;
use crate::config;
use crate::descriptor::Property;
use crate::sys::watch::Arrivals;
use crate::telemetry::chain;

/// What is on disk: the active profile, or why that cannot be read.
pub(crate) type OnDisk = Result<Vec<Property>, String>;

/// Returns the keys whose value on disk is another than the deployed one, in order.
pub(super) fn differing(deployed: &[Property], disk: &[Property]) -> Vec<String> {
    let value = |list: &[Property], key: &str| {
        let mut list = list.iter().rev();
        list.find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    };
    let keys: BTreeSet<&String> = deployed.iter().chain(disk).map(|(key, _)| key).collect();
    keys.into_iter()
        .filter(|key| value(deployed, key) != value(disk, key))
        .cloned()
        .collect()
}

/// Tells what is on disk, at first and whenever that may have changed.
pub(super) async fn watch(omero_dir: PathBuf, commands: mpsc::Sender<Command>) {
    loop {
        // Before the file is read, so that nothing falls between.
        let arrivals = match Arrivals::and_writes(&place_of(&omero_dir)) {
            Ok(arrivals) => arrivals,
            Err(error) => {
                warn!(%error, "cannot watch the configuration store; `reload` applies what changes in it");
                return;
            }
        };
        if commands
            .send(Command::OnDisk(read(&omero_dir)))
            .await
            .is_err()
        {
            return;
        }
        if let Err(error) = arrivals.next().await {
            warn!(%error, "cannot watch the configuration store any longer");
            return;
        }
    }
}

/// Returns the directory that shows when the store changes or comes into being.
fn place_of(omero_dir: &Path) -> PathBuf {
    let nested = ["etc/grid", "etc"].map(|dir| omero_dir.join(dir));
    let there = nested.into_iter().find(|dir| dir.is_dir());
    there.unwrap_or_else(|| omero_dir.to_owned())
}

fn read(omero_dir: &Path) -> OnDisk {
    config::active_profile(omero_dir)
        .map(Option::unwrap_or_default)
        .map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_that_are_new_gone_or_have_another_value() {
        let list = |pairs: &[(&str, &str)]| -> Vec<Property> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let deployed = list(&[("a", "1"), ("b", "1"), ("c", "0"), ("c", "1")]);
        let disk = list(&[("c", "1"), ("d", "1"), ("b", "2")]);
        assert_eq!(differing(&deployed, &disk), ["a", "b", "d"]);
        assert_eq!(differing(&deployed, &deployed), [] as [String; 0]);
    }
}
