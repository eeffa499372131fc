//! Attributes of one element: required, optional, boolean, and those that nobody asked for.

use crate::descriptor::diagnostic::{Fault, Report};
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::xml::Element;

/// The elements and their attributes, for near misses.
pub(super) const ELEMENTS: [(&str, &[&str]); 29] = [
    ("icegrid", &[]),
    ("application", &["name", "import-default-templates"]),
    ("include", &["file", "targets"]),
    ("target", &["name"]),
    ("variable", &["name", "value"]),
    ("distrib", &["icepatch"]),
    ("directory", &[]),
    ("description", &[]),
    ("properties", &["id", "refid", "service"]),
    ("property", &["name", "value"]),
    ("node", &["name", "load-factor"]),
    ("server", SERVER),
    ("icebox", SERVER),
    ("option", &[]),
    ("env", &[]),
    ("service", &["name", "entry"]),
    (
        "adapter",
        &[
            "name",
            "id",
            "endpoints",
            "proxy-options",
            "replica-group",
            "priority",
            "register-process",
            "server-lifetime",
        ],
    ),
    ("object", &["identity", "type", "proxy-options", "property"]),
    (
        "allocatable",
        &["identity", "type", "proxy-options", "property"],
    ),
    ("log", &["path", "property"]),
    ("dbenv", &["name", "home"]),
    ("dbproperty", &["name", "value"]),
    ("replica-group", &["id", "proxy-options", "filter"]),
    ("load-balancing", &["type", "n-replicas", "load-sample"]),
    ("server-template", &["id"]),
    ("service-template", &["id"]),
    ("parameter", &["name", "default"]),
    ("server-instance", &["template"]),
    ("service-instance", &["template"]),
];

const SERVER: &[&str] = &[
    "id",
    "exe",
    "activation",
    "activation-timeout",
    "deactivation-timeout",
    "pwd",
    "user",
    "ice-version",
    "application-distrib",
    "allocatable",
];

/// Reads the attributes of an element and remembers which.
pub(super) struct Attributes<'e> {
    element: &'e Element,
    used: Vec<bool>,
}

impl<'e> Attributes<'e> {
    pub(super) fn new(element: &'e Element) -> Self {
        Self {
            element,
            used: vec![false; element.attributes.len()],
        }
    }

    fn find(&mut self, name: &str) -> Option<Text> {
        let index = self
            .element
            .attributes
            .iter()
            .position(|a| a.name == name)?;
        self.used[index] = true;
        let attribute = &self.element.attributes[index];
        Some(Text::placed(attribute.value.clone(), attribute.at))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.element.attributes.iter().any(|a| a.name == name)
    }

    /// Returns an attribute that has to be there and not empty; reports if it is not.
    pub(super) fn required(&mut self, name: &str, report: &mut Report) -> Text {
        let element = self.element;
        match self.find(name) {
            Some(text) if !text.as_str().is_empty() => text,
            Some(text) => {
                report.error(
                    Fault::new(
                        text.at(),
                        format!("attribute '{name}' of <{}> is empty", element.name),
                    )
                    .parse(element.at, format!("attribute '{name}' is empty")),
                );
                Text::missing(text.at())
            }
            None => {
                report.error(
                    Fault::new(
                        element.at,
                        format!("<{}> has no attribute '{name}'", element.name),
                    )
                    .parse(element.at, format!("missing attribute '{name}'")),
                );
                Text::missing(element.at)
            }
        }
    }

    /// Returns an attribute that may be absent, but not empty.
    pub(super) fn not_empty(&mut self, name: &str, report: &mut Report) -> Option<Text> {
        if self.has(name) {
            Some(self.required(name, report))
        } else {
            None
        }
    }

    /// Returns an attribute if it is there.
    pub(super) fn given(&mut self, name: &str) -> Option<Text> {
        self.find(name)
    }

    /// Returns an attribute, or the default at the place of the element.
    pub(super) fn optional(&mut self, name: &str, default: &str) -> Text {
        self.find(name)
            .unwrap_or_else(|| Text::placed(default.to_owned(), self.element.at))
    }

    /// Returns a boolean; reports any text but `true` and `false`.
    pub(super) fn boolean(&mut self, name: &str, default: bool, report: &mut Report) -> bool {
        let Some(text) = self.find(name) else {
            return default;
        };
        match text.as_str() {
            "true" => true,
            "false" => false,
            other => {
                report.error(
                    Fault::new(
                        text.at(),
                        format!("attribute '{name}' is '{other}', neither 'true' nor 'false'"),
                    )
                    .parse(
                        self.element.at,
                        format!("invalid attribute `{name}': value is not 'false' or 'true'"),
                    ),
                );
                default
            }
        }
    }

    /// Returns all attributes that were not asked for, by name.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = (String, Text)> {
        let attributes = &self.element.attributes;
        let rest: Vec<_> = attributes
            .iter()
            .zip(&self.used)
            .filter(|(_, used)| !**used)
            .map(|(a, _)| (a.name.clone(), Text::placed(a.value.clone(), a.at)))
            .collect();
        self.used.fill(true);
        rest.into_iter()
    }

    /// Reports the attributes that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        let Self { element, used } = self;
        let unknown: Vec<_> = element
            .attributes
            .iter()
            .zip(used)
            .filter(|(_, used)| !used)
            .map(|(a, _)| a)
            .collect();
        let mut names: Vec<&str> = unknown.iter().map(|a| a.name.as_str()).collect();
        names.sort_unstable();
        for attribute in &unknown {
            report_unknown(attribute.at, element, &attribute.name, &names, report);
        }
    }
}

fn report_unknown(at: Pos, element: &Element, name: &str, all: &[&str], report: &mut Report) {
    let known = ELEMENTS
        .iter()
        .find(|(e, _)| *e == element.name)
        .map_or(&[][..], |(_, known)| known);
    let candidates = known
        .iter()
        .copied()
        .filter(|k| !element.attributes.iter().any(|a| a.name == *k));
    let (file, line) = report.file_and_line(element.at);
    let mut fault = Fault::new(
        at,
        format!("unknown attribute '{name}' of <{}>", element.name),
    )
    .near(name, candidates);
    if known.is_empty() {
        fault = fault.hint(format!("<{}> has no attributes", element.name));
    } else if !known.contains(&name) {
        fault = fault.hint(format!("<{}> knows {}", element.name, known.join(", ")));
    }
    let reason = format!(
        "unknown attributes in <{file}> descriptor, line {line}:\n{}",
        all.join(" ")
    );
    report.error(fault.parse(element.at, reason));
}
