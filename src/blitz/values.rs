//! The configuration service: values of this Blitz, as far as who asks may see them (`omero.md` §3.4).
//!
//! A value that is set here holds in this Blitz until it ends; what is to last is set with `omero-grid config set`. Only administrators
//! may set, compare-and-set included: OMERO lets every user do that, past its own visibility rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::service::Blitz;
use crate::config::keys;
use crate::ipc::message::blitz::{Authority, Reply};
use crate::ipc::message::data::ValueAction;
use crate::ipc::{Refusal, RefusalKind};

/// Published by each Blitz itself.
const RUNTIME: [&str; 2] = [
    "omero.cluster.read_only.runtime.db",
    "omero.cluster.read_only.runtime.repo",
];

/// Keys that every user may see. A name that ends in a dot stands for all that begin so.
const ALL: [&str; 26] = [
    "omero.version",
    "omero.upgrades.url",
    "omero.qa.feedback",
    "omero.router.insecure",
    "omero.security.password_required",
    "omero.cluster.read_only.runtime.db",
    "omero.cluster.read_only.runtime.repo",
    "omero.bioformats.version",
    "omero.bioformats.vcs_revision",
    "omero.bioformats.date",
    "omero.server.nodedescriptors",
    "omero.db.authority",
    "omero.db.uuid",
    "omero.mail.config",
    "omero.pixeldata.backoff",
    "omero.pixeldata.tile_width",
    "omero.pixeldata.tile_height",
    "omero.pixeldata.max_plane_width",
    "omero.pixeldata.max_plane_height",
    "omero.pixeldata.max_plane_float_override",
    "omero.pixeldata.max_tile_length",
    "omero.pixeldata.max_projection_bytes",
    "omero.sessions.timeout",
    "omero.sessions.maximum",
    "omero.sessions.max_user_time_to_",
    "omero.client.",
];

/// Keys that nobody sees from outside: how to reach the databases.
const HIDDEN: [&str; 9] = [
    "omero.db.host",
    "omero.db.name",
    "omero.db.user",
    "omero.db.pass",
    "omero.db.driver",
    "omero.db.poolsize",
    "omero.db.dialect",
    "omero.security.filter.bitand",
    "omero.grid.store",
];

/// Other names of keys.
const ALIASES: [(&str, &str); 9] = [
    ("database.host", "omero.db.host"),
    ("database.name", "omero.db.name"),
    ("database.user", "omero.db.user"),
    ("hibernate.connection.username", "omero.db.user"),
    ("hibernate.connection.password", "omero.db.pass"),
    ("hibernate.connection.driver_class", "omero.db.driver"),
    ("c3p0.maxPoolSize", "omero.db.poolsize"),
    ("hibernate.dialect", "omero.db.dialect"),
    (
        "ome.security.password_required",
        "omero.security.password_required",
    ),
];

/// Who may see a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visible {
    All,
    Admins,
    Nobody,
}

fn visible(key: &str) -> Visible {
    let lower = key.to_ascii_lowercase();
    if HIDDEN.contains(&key)
        || lower.ends_with("pass")
        || lower.ends_with("password")
        || lower.ends_with("secret")
    {
        return Visible::Nobody;
    }
    let covers = |known: &&str| match known.ends_with(['.', '_']) {
        true => key.starts_with(*known),
        false => key == *known,
    };
    match ALL.iter().any(covers) {
        true => Visible::All,
        false => Visible::Admins,
    }
}

/// Returns whether nobody may see the value of a property.
pub(super) fn is_hidden(key: &str) -> bool {
    visible(key) == Visible::Nobody
}

fn canonical(key: &str) -> &str {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == key);
    alias.map_or(key, |(_, key)| key)
}

/// The values that were set since this Blitz began.
#[derive(Debug, Default)]
pub(super) struct Values(Mutex<BTreeMap<String, String>>);

/// Values that may be set at once.
const MAX_SET: usize = 10_000;

/// The longest key and the longest value, in bytes.
const MAX_LENGTH: usize = 64 * 1024;

impl Blitz {
    pub(super) async fn value(
        self: Arc<Self>,
        action: ValueAction,
        by: Authority,
    ) -> Result<Reply, Refusal> {
        let admin = self.asking(by).await?.admin;
        match action {
            ValueAction::Get { key } => {
                let key = canonical(&key);
                if !may_see(key, admin) {
                    return Err(not_visible(key));
                }
                Ok(Reply::Values {
                    values: vec![(key.to_owned(), self.effective(key))],
                })
            }
            ValueAction::List { containing } => {
                let keys = self.known_keys();
                let values = keys
                    .into_iter()
                    .filter(|key| key.contains(&containing) && may_see(key, admin))
                    .map(|key| {
                        let value = self.effective(&key);
                        (key, value)
                    })
                    .collect();
                Ok(Reply::Values { values })
            }
            ValueAction::Set { key, value } => {
                let key = self.settable(&key, &value, admin)?;
                self.set(key, value, |_| true)
            }
            ValueAction::SetIf {
                key,
                value,
                expected,
            } => {
                let key = self.settable(&key, &value, admin)?;
                self.set(key, value, move |current| current == expected.as_deref())
            }
        }
    }

    /// Returns what a key has here and now: set through this service, published by the Blitz, configured, or its default.
    fn effective(&self, key: &str) -> Option<String> {
        let reasons = self.read_only.borrow();
        if key == RUNTIME[0] {
            return Some(reasons.db.is_some().to_string());
        }
        if key == RUNTIME[1] {
            return Some(reasons.repo.is_some().to_string());
        }
        let settings = self.settings();
        let set = self.values.0.lock().unwrap_or_else(PoisonError::into_inner);
        let set = set.get(key).or_else(|| settings.all.get(key)).cloned();
        set.or_else(|| {
            let default = keys::lookup(key)?.default;
            (!default.is_empty()).then(|| default.to_owned())
        })
    }

    fn known_keys(&self) -> Vec<String> {
        let set = self.values.0.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.settings();
        let configured = settings.all.keys().chain(set.keys());
        let mut keys: Vec<String> = configured
            .filter(|key| key.starts_with("omero."))
            .cloned()
            .chain(RUNTIME.map(str::to_owned))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    fn settable(&self, key: &str, value: &str, admin: bool) -> Result<String, Refusal> {
        let refused = |message: String| Err(Refusal::new(RefusalKind::Refused, message));
        if !admin {
            return refused("only an administrator may set a configuration value".to_owned());
        }
        self.require_database("set a configuration value")?;
        let key = canonical(key);
        if RUNTIME.contains(&key) {
            return refused(format!("{key} is what the Blitz itself finds out"));
        }
        if !may_see(key, admin) {
            return Err(not_visible(key));
        }
        if key.is_empty() || key.len() + value.len() > MAX_LENGTH {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                "a key must not be empty, and with its value has at most 64 KiB",
            ));
        }
        Ok(key.to_owned())
    }

    fn set(
        &self,
        key: String,
        value: String,
        if_current: impl FnOnce(Option<&str>) -> bool,
    ) -> Result<Reply, Refusal> {
        let mut set = self.values.0.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.settings();
        let current = set.get(&key).or_else(|| settings.all.get(&key));
        if !if_current(current.map(String::as_str)) {
            return Ok(Reply::Changed { changed: false });
        }
        if set.len() >= MAX_SET && !set.contains_key(&key) {
            let message = "too many values have been set in this Blitz";
            return Err(Refusal::new(RefusalKind::Refused, message)
                .hint("set them with `omero-grid config set`, which lasts"));
        }
        // An empty value takes it away, as in OMERO's database.
        set.insert(key, value);
        Ok(Reply::Changed { changed: true })
    }
}

fn may_see(key: &str, admin: bool) -> bool {
    match visible(key) {
        Visible::All => true,
        Visible::Admins => admin,
        Visible::Nobody => false,
    }
}

fn not_visible(key: &str) -> Refusal {
    let key: String = key.escape_debug().take(100).collect();
    let message = match visible(&key) {
        Visible::Nobody => format!("{key} is not told to anybody"),
        Visible::All | Visible::Admins => format!("only an administrator may see {key}"),
    };
    Refusal::new(RefusalKind::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_for_nobody_and_what_is_not_listed_is_for_administrators() {
        for (key, expected) in [
            ("omero.db.pass", Visible::Nobody),
            ("omero.ldap.password", Visible::Nobody),
            ("omero.grid.store", Visible::Nobody),
            ("omero.client.ui.menu", Visible::All),
            ("omero.sessions.max_user_time_to_idle", Visible::All),
            ("omero.sessions.timeout", Visible::All),
            ("omero.sessions.timeouts", Visible::Admins),
            ("omero.data.dir", Visible::Admins),
            (canonical("database.host"), Visible::Nobody),
            (canonical("ome.security.password_required"), Visible::All),
        ] {
            assert_eq!(visible(key), expected, "{key}");
        }
    }
}
