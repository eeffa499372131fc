//! What is put into a template: ports and hosts, heaps, settings of IceSSL, `KEY.KIND` overrides, the servers of each node.

use super::nodes;
use super::{Memory, Values, jvm};
use crate::descriptor::KINDS;

/// A template that cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub(super) enum RewriteError {
    /// The settings of the Java virtual machines do not hold.
    #[error("{0}")]
    Jvm(#[from] jvm::JvmError),
    /// The node descriptors do not hold.
    #[error("{0}")]
    Nodes(#[from] nodes::NodesError),
}

/// Makes a descriptor of a template. Lines stay where they are, so that errors in it are found in the template.
pub(super) fn rewrite(
    template: &str,
    values: &Values,
    memory: &Memory,
) -> Result<String, RewriteError> {
    let mut text = tokens(template, values);
    for kind in KINDS {
        let marker = format!("<option>MEMORY:{kind}</option>");
        if text.contains(&marker) {
            let options: String = jvm::options(kind, values, memory)?
                .options
                .iter()
                .map(|option| format!("<option>{}</option>", escape(option)))
                .collect();
            text = text.replace(&marker, &options);
        }
        text = overrides(&text, kind, values);
    }
    match values.get("omero.server.nodedescriptors") {
        Some(wanted) if !wanted.trim().is_empty() => Ok(nodes::replace(&text, wanted)?),
        _ => Ok(text),
    }
}

/// Replaces `@omero.…@`.
fn tokens(template: &str, values: &Values) -> String {
    let value = |key: &str, default: &str| -> String {
        let set = values.get(key).filter(|value| !value.is_empty());
        set.cloned().unwrap_or_else(|| default.to_owned())
    };
    let prefix = value("omero.ports.prefix", "");
    let host = match values
        .get("omero.master.host")
        .filter(|host| !host.is_empty())
    {
        Some(host) => host.clone(),
        None => value("Ice.Default.Host", "127.0.0.1"),
    };
    let ports = [
        ("ssl", "4064"),
        ("tcp", "4063"),
        ("ws", "4065"),
        ("wss", "4066"),
        ("registry", "4061"),
    ]
    .map(|(name, default)| (name, value(&format!("omero.ports.{name}"), default)));
    let endpoints = value("omero.client.icetransports", "ssl,tcp")
        .split(',')
        .map(str::trim)
        .filter(|transport| !transport.is_empty())
        .map(|transport| {
            let port = ports.iter().find(|(name, _)| *name == transport);
            let port = port.map_or("", |(_, port)| port);
            format!("{transport} -p {prefix}{port}")
        })
        .collect::<Vec<_>>()
        .join(":");
    let mut text = template
        .replace("@omero.ports.prefix@", &escape(&prefix))
        .replace("@omero.master.host@", &escape(&host))
        .replace(
            "@omero.tables.module@",
            &escape(&value("omero.tables.module", "runTables")),
        )
        .replace("@omero.client.endpoints@", &escape(&endpoints))
        .replace("@omero.glacier2.icessl@", &ice_ssl(values));
    for (name, port) in &ports {
        text = text.replace(&format!("@omero.ports.{name}@"), &escape(port));
    }
    text
}

/// Returns one property for each setting of IceSSL that the front door is to have.
fn ice_ssl(values: &Values) -> String {
    let settings = values
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("omero.glacier2.")?, value)))
        // Settings for macOS have a name of their own.
        .filter(|(name, _)| name.starts_with("IceSSL.") && !name.ends_with(".darwin"));
    settings
        .map(|(name, value)| property(name, value))
        .collect()
}

/// Puts every `KEY.KIND` in the place of the marker, as `KEY`. OMERO itself puts only the last one there.
fn overrides(text: &str, kind: &str, values: &Values) -> String {
    let suffix = format!(".{kind}");
    let own: String = values
        .iter()
        .filter(|(key, _)| !key.starts_with("omero.jvmcfg."))
        .filter_map(|(key, value)| Some(property(key.strip_suffix(&suffix)?, value)))
        .collect();
    if own.is_empty() {
        return text.to_owned();
    }
    let marker = format!("<property name=\"REPLACEMENT:{kind}\"");
    let mut out = String::with_capacity(text.len() + own.len());
    let mut rest = text;
    while let Some(at) = rest.find(&marker) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = from.find("/>") else {
            rest = from;
            break;
        };
        out.push_str(&own);
        // The lines of the marker stay.
        out.extend(from[..end].chars().filter(|c| *c == '\n'));
        rest = &from[end + 2..];
    }
    out.push_str(rest);
    out
}

fn property(name: &str, value: &str) -> String {
    format!(
        "<property name=\"{}\" value=\"{}\"/>",
        escape(name),
        escape(value)
    )
}

/// Escapes text for XML, between quotation marks too.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\n', "&#10;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(template: &str, pairs: &[(&str, &str)]) -> String {
        let pairs = pairs.iter();
        let values = pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        rewrite(template, &values, &Memory { total_mb: 4000 }).unwrap()
    }

    #[test]
    fn tokens_have_omeros_defaults_and_the_sites_values() {
        let template = "@omero.ports.prefix@|@omero.ports.ssl@|@omero.ports.registry@|@omero.master.host@|@omero.client.endpoints@|@omero.host@";
        assert_eq!(
            rewritten(template, &[]),
            "|4064|4061|127.0.0.1|ssl -p 4064:tcp -p 4063|@omero.host@"
        );
        let set = [
            ("omero.ports.prefix", "1"),
            ("omero.master.host", "omero.lab"),
            ("omero.client.icetransports", "ssl,wss"),
        ];
        assert_eq!(
            rewritten(template, &set),
            "1|4064|4061|omero.lab|ssl -p 14064:wss -p 14066|@omero.host@"
        );
    }

    #[test]
    fn every_key_of_a_kind_takes_the_place_of_the_marker() {
        let template = "a <property name=\"REPLACEMENT:blitz\"\n value=\"REPLACEME\"/> b";
        let set = [
            ("omero.b.blitz", "2 & \"3\""),
            ("omero.a.blitz", "1"),
            ("omero.a.indexer", "9"),
            ("omero.jvmcfg.percent.blitz", "50"),
        ];
        assert_eq!(
            rewritten(template, &set),
            "a <property name=\"omero.a\" value=\"1\"/><property name=\"omero.b\" value=\"2 &amp; &quot;3&quot;\"/>\n b"
        );
        assert_eq!(rewritten(template, &[]), template, "without one it stays");
    }

    #[test]
    fn heaps_and_settings_of_ssl_are_put_in_place() {
        let template =
            "<option>MEMORY:blitz</option><option>MEMORY:indexer</option>@omero.glacier2.icessl@";
        let set = [
            ("omero.jvmcfg.append.blitz", "-Da=<1>"),
            ("omero.glacier2.IceSSL.Ciphers", "HIGH"),
            ("omero.glacier2.IceSSL.Ciphers.darwin", "LOW"),
        ];
        assert_eq!(
            rewritten(template, &set),
            "<option>-Xmx600m</option><option>-Da=&lt;1&gt;</option><option>-Xmx400m</option>\
             <property name=\"IceSSL.Ciphers\" value=\"HIGH\"/>"
        );
    }
}
