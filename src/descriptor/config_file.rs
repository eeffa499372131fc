//! The configuration files that a node writes for a server and its services, and how Ice reads them back.

use super::node::{NodeFacts, is_icebox, services};
use super::types::{
    AdapterDescriptor, DbEnvDescriptor, Property, ServerDescriptor, ServiceDescriptor,
};

/// A file under construction: lines without their ends.
pub(super) struct ConfigFile<'f> {
    lines: Vec<String>,
    facts: &'f NodeFacts,
}

impl<'f> ConfigFile<'f> {
    /// Writes the file of a server; `config` gives the path of a file in its configuration directory.
    pub(super) fn server(
        server: &ServerDescriptor,
        facts: &'f NodeFacts,
        config: &dyn Fn(&str) -> String,
    ) -> Self {
        let mut file = Self {
            lines: vec!["# Server configuration".to_owned()],
            facts,
        };
        let properties = &server.property_set;
        let old = is_before_3_3(&server.ice_version);
        if old {
            file.property("Ice.ServerId", &server.id);
        } else {
            file.property("Ice.Admin.ServerId", &server.id);
            if !has(properties.properties.as_slice(), "Ice.Admin.Enabled")
                && !has(&properties.properties, "Ice.Admin.Endpoints")
            {
                file.property("Ice.Admin.Endpoints", "tcp -h localhost");
            }
        }
        file.property("Ice.ProgramName", &server.id);
        if is_icebox(server) {
            let mut order = Vec::new();
            for service in services(server) {
                // Once for the command line in the value, once more for the file.
                let path = escape(
                    &config(&format!("config_{}", service.name)),
                    false,
                    facts.as_icegrid,
                );
                let value = format!("{} --Ice.Config='{path}'", service.entry);
                file.property(&format!("IceBox.Service.{}", service.name), &value);
                order.push(service.name.as_str());
            }
            file.property("IceBox.LoadOrder", &order.join(" "));
            let wants_name = properties.get("IceBox.ServiceManager.Endpoints").is_some();
            if wants_name && !has(&properties.properties, "IceBox.InstanceName") {
                file.property("IceBox.InstanceName", &server.id);
            }
            if old {
                file.property("IceBox.ServiceManager.RegisterProcess", "1");
                if !has(&properties.properties, "IceBox.ServiceManager.Endpoints") {
                    file.property("IceBox.ServiceManager.Endpoints", "tcp -h 127.0.0.1");
                }
            }
        }
        file.common(
            &server.id,
            &server.adapters,
            &server.db_envs,
            &properties.properties,
            "Server",
            old,
        );
        if let Some(output) = &facts.output {
            for (name, suffix) in [("Ice.StdErr", "err"), ("Ice.StdOut", "out")] {
                if !has(&properties.properties, name) {
                    file.raw(name, &format!("{output}/{}.{suffix}", server.id));
                }
            }
        }
        file.tail(&properties.properties);
        file
    }

    /// Writes the file of a service.
    pub(super) fn service(
        server: &ServerDescriptor,
        service: &ServiceDescriptor,
        facts: &'f NodeFacts,
    ) -> Self {
        let mut file = Self {
            lines: Vec::new(),
            facts,
        };
        let properties = &service.property_set.properties;
        let old = is_before_3_3(&server.ice_version);
        file.common(
            &server.id,
            &service.adapters,
            &service.db_envs,
            properties,
            "Service",
            old,
        );
        file.tail(properties);
        file
    }

    /// Returns the lines.
    pub(super) fn finish(self) -> Vec<String> {
        self.lines
    }

    fn common(
        &mut self,
        server: &str,
        adapters: &[AdapterDescriptor],
        db_envs: &[DbEnvDescriptor],
        properties: &[Property],
        kind: &str,
        old: bool,
    ) {
        let mut endpoints = Vec::new();
        for adapter in adapters {
            let name = &adapter.name;
            let key = format!("{name}.Endpoints");
            self.lines
                .push(format!("# Object adapter {}", one_line(name)));
            if let Some((_, value)) = properties.iter().rev().find(|(n, _)| *n == key) {
                self.property(&key, value);
            }
            self.property(&format!("{name}.AdapterId"), &adapter.id);
            if !adapter.replica_group_id.is_empty() {
                self.property(&format!("{name}.ReplicaGroupId"), &adapter.replica_group_id);
            }
            if old && adapter.register_process {
                self.property(&format!("{name}.RegisterProcess"), "1");
            }
            endpoints.push(key);
        }
        for db_env in db_envs {
            let name = &db_env.name;
            self.lines
                .push(format!("# Database environment {}", one_line(name)));
            let home = if db_env.db_home.is_empty() {
                format!("{}/servers/{server}/dbs/{name}", self.facts.data_dir)
            } else {
                db_env.db_home.clone()
            };
            self.property(&format!("Freeze.DbEnv.{name}.DbHome"), &home);
        }
        let mut rest = properties
            .iter()
            .filter(|(name, _)| !endpoints.contains(name))
            .peekable();
        if rest.peek().is_some() {
            self.lines.push(format!("# {kind} descriptor properties"));
        }
        for (name, value) in rest {
            self.property(name, value);
        }
    }

    /// Appends what the node adds of its own, unescaped as IceGrid does.
    fn tail(&mut self, properties: &[Property]) {
        if let Some(locator) = &self.facts.locator {
            let own = properties
                .iter()
                .rev()
                .find(|(name, _)| name == "Ice.Default.Locator");
            if own.is_none_or(|(_, value)| value.is_empty()) {
                self.raw("Ice.Default.Locator", &locator.clone());
            }
        }
        if !self.facts.properties_override.is_empty() {
            self.lines.push("# Node properties override".to_owned());
            let mut overrides = self.facts.properties_override.clone();
            overrides.sort();
            for (name, value) in &overrides {
                self.raw(name, value);
            }
        }
    }

    fn raw(&mut self, name: &str, value: &str) {
        self.lines
            .push(format!("{}={}", one_line(name), one_line(value)));
    }

    fn property(&mut self, name: &str, value: &str) {
        if value.is_empty() && name.starts_with('#') {
            // IceGrid writes it as a comment, and so does nothing of it.
            self.lines.push(one_line(name));
            return;
        }
        let as_icegrid = self.facts.as_icegrid;
        let line = format!(
            "{}={}",
            escape(name, true, as_icegrid),
            escape(value, false, as_icegrid)
        );
        if as_icegrid {
            self.lines.extend(line.split('\n').map(str::to_owned))
        } else {
            self.lines.push(line)
        }
    }
}

fn has(properties: &[Property], name: &str) -> bool {
    properties.iter().any(|(n, _)| n == name)
}

pub(super) fn is_before_3_3(version: &str) -> bool {
    let mut parts = version.trim().split('.').map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < (3, 3))
}

/// A line break in a value would begin another property; a blank is what XML itself makes of it in an attribute.
fn one_line(text: &str) -> String {
    text.replace("\r\n", " ").replace(['\n', '\r'], " ")
}

/// Writes a name or a value so that Ice reads it back: `#`, outer blanks, `=` in names, and a backslash before any of them.
fn escape(text: &str, name: bool, as_icegrid: bool) -> String {
    let text = if as_icegrid {
        text.to_owned()
    } else {
        one_line(text)
    };
    let first = text.len() - text.trim_start_matches(' ').len();
    let last = text.trim_end_matches(' ').len();
    let special = |index: usize, c: char| match c {
        '#' => true,
        '=' => name,
        ' ' => index < first || index >= last,
        _ => false,
    };
    let mut out = String::with_capacity(text.len());
    let mut chars = text.char_indices().peekable();
    while let Some((index, c)) = chars.next() {
        // Ice drops a backslash before any blank; IceGrid minds the outer ones only.
        let doubled = c == '\\'
            && chars.peek().is_some_and(|(i, next)| {
                *next == '\\' || special(*i, *next) || (*next == ' ' && !as_icegrid)
            });
        if doubled || special(index, c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Returns the option that names the configuration file, escaped as in a file.
pub(super) fn config_option(path: &str) -> String {
    format!("--Ice.Config={}", escape(path, false, false))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a line as Ice does: the name to the first `=` that is not escaped, outer blanks dropped unless escaped.
    fn read(line: &str) -> Option<(String, String)> {
        let mut name = String::new();
        let mut value = String::new();
        let mut blanks = String::new();
        let mut in_value = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            let out = if in_value { &mut value } else { &mut name };
            match c {
                '\\' => match chars.peek().copied() {
                    Some(next @ ('\\' | '#' | ' ')) | Some(next @ '=')
                        if next != '=' || !in_value =>
                    {
                        chars.next();
                        out.push_str(&std::mem::take(&mut blanks));
                        out.push(next);
                    }
                    _ => {
                        out.push_str(&std::mem::take(&mut blanks));
                        out.push('\\');
                    }
                },
                '#' => break,
                ' ' => {
                    if !out.is_empty() {
                        blanks.push(' ');
                    }
                }
                '=' if !in_value => {
                    blanks.clear();
                    in_value = true;
                }
                c => {
                    out.push_str(&std::mem::take(&mut blanks));
                    out.push(c);
                }
            }
        }
        in_value.then_some((name, value))
    }

    fn lines(properties: &[(&str, &str)], as_icegrid: bool) -> Vec<String> {
        let mut server = ServerDescriptor {
            id: "s".to_owned(),
            ..ServerDescriptor::default()
        };
        let owned = properties
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        server.property_set.properties = owned.collect();
        let facts = NodeFacts {
            as_icegrid,
            ..NodeFacts::default()
        };
        let lines = ConfigFile::server(&server, &facts, &|name| name.to_owned()).finish();
        lines
            .into_iter()
            .skip_while(|l| l != "# Server descriptor properties")
            .skip(1)
            .collect()
    }

    #[test]
    fn a_line_break_begins_no_property() {
        let property = [("a", "1\nIce.Admin.Endpoints=tcp"), ("b\nc", "{\r\n}")];
        assert_eq!(
            lines(&property, false),
            ["a=1 Ice.Admin.Endpoints=tcp", "b c={ }"]
        );
        assert_eq!(
            lines(&property[..1], true),
            ["a=1", "Ice.Admin.Endpoints=tcp"]
        );
    }

    #[test]
    fn values_are_escaped_as_icegrid_does() {
        for (value, written) in [
            ("a#b", "a\\#b"),
            ("C:\\dir", "C:\\dir"),
            ("\\\\host\\share", "\\\\\\host\\share"),
            ("a\\\\#b", "a\\\\\\\\\\#b"),
            ("  a", "\\ \\ a"),
            ("a\\ ", "a\\\\\\ "),
            ("a\\", "a\\"),
            ("a=b", "a=b"),
        ] {
            assert_eq!(escape(value, false, false), written, "{value:?}");
        }
        assert_eq!(escape("na=me", true, false), "na\\=me");
    }

    proptest! {
        #[test]
        fn ice_reads_back_what_is_written(name in "[a-z][a-z=#. ]{0,8}", value in "[a-z=# \\\\]{0,12}") {
            let line = lines(&[(&name, &value)], false).pop().unwrap();
            prop_assert_eq!(read(&line), Some((name, value)), "{}", line);
        }

        #[test]
        fn no_value_makes_a_second_line(value in any::<String>()) {
            prop_assert_eq!(lines(&[("a", &value)], false).len(), 1);
        }
    }
}
