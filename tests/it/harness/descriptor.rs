//! Small descriptors, written as XML.

use std::fmt::Write as _;

/// A server of a descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    id: String,
    exe: String,
    attributes: Vec<(String, String)>,
    options: Vec<String>,
    env: Vec<String>,
    properties: Vec<(String, String)>,
    within: String,
    element: &'static str,
}

/// A server that runs a program; activation `always` unless told otherwise.
pub(crate) fn server(id: &str, exe: &str) -> Server {
    Server {
        id: id.to_owned(),
        exe: exe.to_owned(),
        attributes: vec![("activation".to_owned(), "always".to_owned())],
        options: Vec::new(),
        env: Vec::new(),
        properties: Vec::new(),
        within: String::new(),
        element: "server",
    }
}

/// A server that only exists.
pub(crate) fn sleeper(id: &str) -> Server {
    server(id, "/bin/sh").option("-c").option("exec sleep 3600")
}

/// A built-in Blitz.
pub(crate) fn blitz(id: &str) -> Server {
    server(id, "omero-grid")
        .option("blitz")
        .property("omero.grid.ready", "notify")
        .property("omero.data.dir", "var/data")
}

/// A node with its servers.
pub(crate) fn node(name: &str, servers: &[Server]) -> String {
    let servers: String = servers.iter().map(Server::xml).collect();
    format!("<node name=\"{}\">\n{servers}</node>\n", escaped(name))
}

/// An application with these parts: nodes, variables, whatever may stand there.
pub(crate) fn application(parts: &[String]) -> String {
    format!(
        "<icegrid>\n<application name=\"Test\">\n{}</application>\n</icegrid>\n",
        parts.concat()
    )
}

impl Server {
    /// Sets an attribute.
    pub(crate) fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.retain(|(other, _)| other != name);
        self.attributes.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument.
    pub(crate) fn option(mut self, value: &str) -> Self {
        self.options.push(value.to_owned());
        self
    }

    /// Adds `NAME=VALUE` to the environment.
    pub(crate) fn env(mut self, value: &str) -> Self {
        self.env.push(value.to_owned());
        self
    }

    /// Sets a property.
    pub(crate) fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes an icebox of it.
    pub(crate) fn icebox(mut self) -> Self {
        self.element = "icebox";
        self
    }

    /// Puts XML into the server as it is: an adapter, say.
    pub(crate) fn within(mut self, xml: &str) -> Self {
        self.within.push_str(xml);
        self
    }

    fn xml(&self) -> String {
        let mut text = format!(
            "  <{} id=\"{}\" exe=\"{}\"",
            self.element,
            escaped(&self.id),
            escaped(&self.exe)
        );
        for (name, value) in &self.attributes {
            let _ = write!(text, " {name}=\"{}\"", escaped(value));
        }
        text.push_str(">\n");
        for value in &self.options {
            let _ = writeln!(text, "    <option>{}</option>", escaped(value));
        }
        for value in &self.env {
            let _ = writeln!(text, "    <env>{}</env>", escaped(value));
        }
        text.push_str(&self.within);
        text.push_str("    <properties>\n");
        for (name, value) in &self.properties {
            let _ = writeln!(
                text,
                "      <property name=\"{name}\" value=\"{}\"/>",
                escaped(value)
            );
        }
        let _ = writeln!(text, "    </properties>\n  </{}>", self.element);
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
