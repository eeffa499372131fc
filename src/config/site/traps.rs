//! What in a site's files does not do what it seems to (`omero.md` §9).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Values, nodes, survey};
use crate::config::{keys, profile};
use crate::descriptor::KINDS;

/// Returns what an administrator should know about the files of a site, in words.
pub fn traps(omero_dir: &Path) -> Vec<String> {
    let mut found = settings(omero_dir);
    for file in survey::generated(omero_dir) {
        // A file that cannot be read is said where it is used.
        if let Ok(Some(edits)) = file.edits {
            found.push(format!(
                "{}: is made anew from {} at each start; what is different in it does not count: {edits}",
                file.path.display(),
                file.template.display()
            ));
        }
    }
    found
}

/// Returns what an administrator should know about the settings of a site: its configuration and its environment.
pub(super) fn settings(omero_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let store = profile::store_path(omero_dir);
    let values = match super::values(omero_dir) {
        Ok(values) => values,
        Err(error) => return vec![crate::telemetry::chain(&error)],
    };
    if let Ok(metadata) = std::fs::metadata(&store)
        && metadata.mode() & 0o077 != 0
        && values.keys().any(|key| is_secret(key))
    {
        found.push(format!(
            "{}: has passwords in it and can be read by others (mode {:o}); `omero config` of OMERO makes it so; chmod 600 it",
            store.display(),
            metadata.mode() & 0o777
        ));
    }
    found.extend(of_values(&values));
    let python = std::env::var_os("OMERO_TMPDIR").is_some();
    let java = std::env::var_os("OMERO_TEMPDIR").is_some();
    if python != java {
        let (set, other) = match python {
            true => ("OMERO_TMPDIR", "OMERO_TEMPDIR, which Java reads"),
            false => ("OMERO_TEMPDIR", "OMERO_TMPDIR, which Python reads"),
        };
        found.push(format!(
            "{set} is set and {other}, is not; servers are given both"
        ));
    }
    if std::env::var_os("OMERO_HOME").is_some() {
        found.push(
            "OMERO_HOME is set, and nothing reads it; OMERODIR names the directory".to_owned(),
        );
    }
    found
}

pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.ends_with("pass") || key.ends_with("password")
}

fn of_values(values: &Values) -> Vec<String> {
    let mut found = Vec::new();
    let get = |key: &str| {
        values
            .get(key)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    for (key, value) in values {
        if let Some(doubt) = keys::doubt(key, value) {
            found.push(doubt.to_string());
        }
    }
    for kind in KINDS {
        let suffix = format!(".{kind}");
        let own: Vec<_> = values
            .keys()
            .filter(|key| key.ends_with(&suffix) && !key.starts_with("omero.jvmcfg."))
            .map(String::as_str)
            .collect();
        if own.len() > 1 {
            found.push(format!(
                "{}: each of them counts here; OMERO itself takes one of them only, the last that was set",
                own.join(", ")
            ));
        }
    }
    if get("omero.cluster.redirector") == Some("scaleRedirector") {
        found.push(
            "omero.cluster.redirector is scaleRedirector: with OMERO itself it never spread sessions, here it does"
                .to_owned(),
        );
    }
    if get("omero.sessions.maximum").unwrap_or("0") == "0"
        && get("omero.sessions.max_user_time_to_idle").is_some()
        && get("omero.sessions.max_user_time_to_live").unwrap_or("0") == "0"
    {
        found.push(
            "omero.sessions.max_user_time_to_idle is set and there is no limit of life: OMERO's own Blitz then allows any idle time, the built-in one holds to the limit"
                .to_owned(),
        );
    }
    if let Some(wanted) = get("omero.server.nodedescriptors") {
        match nodes::parse(wanted) {
            Ok(nodes) if !nodes.values().flatten().any(|server| server == "Storm") => {
                found.push(
                    "omero.server.nodedescriptors does not name Storm: the message broker is not started, and DropBox with it does nothing"
                        .to_owned(),
                );
            }
            Ok(_) => {}
            Err(error) => found.push(error.to_string()),
        }
    }
    if let Some(protocols) = get("omero.glacier2.IceSSL.Protocols") {
        let old = |word: &&str| matches!(*word, "SSL3" | "TLS1_0" | "TLS1_1" | "TLS1.0" | "TLS1.1");
        if let Some(word) = protocols.split(',').map(str::trim).find(old) {
            found.push(format!(
                "omero.glacier2.IceSSL.Protocols allows {word}, which is no longer safe"
            ));
        }
    }
    let ciphers = get("omero.glacier2.IceSSL.Ciphers").unwrap_or_default();
    if ciphers.contains("ADH") && !ciphers.contains("!ADH") {
        found.push(
            "omero.glacier2.IceSSL.Ciphers allows anonymous Diffie-Hellman, which newer clients refuse; `omero certificates` makes a certificate"
                .to_owned(),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trap_is_said_once_and_a_plain_site_has_none() {
        let said = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            of_values(
                &pairs
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            )
        };
        for (key, value, part) in [
            (
                "omero.cluster.redirector",
                "scaleRedirector",
                "never spread",
            ),
            (
                "omero.sessions.max_user_time_to_idle",
                "1000",
                "any idle time",
            ),
            ("omero.server.nodedescriptors", "master:Blitz-0", "broker"),
            ("omero.server.nodedescriptors", "master", "NODE:SERVER"),
            ("omero.glacier2.IceSSL.Protocols", "TLS1_0,TLS1_2", "TLS1_0"),
            (
                "omero.glacier2.IceSSL.Ciphers",
                "ADH:@SECLEVEL=0",
                "certificates",
            ),
            ("omero.cluster.read_only", "true", "deprecated"),
            ("omero.jvmcfg.perm_gen", "256m", "deprecated"),
            (
                "omero.sesions.timeout",
                "1",
                "is omero.sessions.timeout meant",
            ),
        ] {
            let said = said(&[(key, value)]);
            assert!(
                matches!(&said[..], [one] if one.contains(part)),
                "{key}={value}: {said:?}"
            );
        }
        let twice = [
            ("omero.sessions.timeout.blitz", "1"),
            ("omero.throttling.method_time.error.blitz", "1"),
            ("omero.jvmcfg.percent.blitz", "20"),
        ];
        let twice = said(&twice);
        assert!(
            matches!(&twice[..], [one] if one.starts_with("omero.sessions.timeout.blitz, omero.throttling")),
            "{twice:?}"
        );
        let plain = [
            ("omero.sessions.timeout.blitz", "1"),
            ("omero.sessions.timeout.indexer", "1"),
            ("omero.db.host", "db"),
            ("omero.sessions.max_user_time_to_idle", "1000"),
            ("omero.sessions.maximum", "5000"),
            ("omero.server.nodedescriptors", "master:Blitz-0,Storm"),
            ("omero.web.server_list", "[]"),
        ];
        assert_eq!(said(&plain), [] as [String; 0]);
    }
}
