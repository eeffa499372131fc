//! The text of OMERO's configuration store: parsed, edited, written as `omero config` does. Pure (`omero.md` §3.2).

use std::fmt::Write as _;

use crate::descriptor::Property;
use crate::descriptor::xml::{Element, Event, Reader};

/// The set that names the active profile, and repeats its properties.
const ACTIVE: &str = "__ACTIVE__";

/// The profile there is without another.
pub(super) const DEFAULT: &str = "default";

/// The properties of the store itself; they are nobody's settings.
const PROFILE: &str = "omero.config.profile";
const VERSION: &str = "omero.config.version";

/// The version of the store that is written.
const CURRENT: &str = "5.1.0";

/// What every store includes.
const TEMPLATES: &str = "templates.xml";

/// A store: profiles in their order, and which of them is active.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Document {
    active: Option<String>,
    profiles: Vec<(String, Vec<Property>)>,
    includes: Vec<String>,
    /// The first thing in the text that would not be written again.
    foreign: Option<String>,
}

impl Document {
    /// Parses a store. An error comes with its offset in bytes.
    pub(super) fn parse(text: &str) -> Result<Self, (u32, String)> {
        let mut reader = Reader::new(0, text);
        let mut this = Self::default();
        let mut open: Vec<Element> = Vec::new();
        loop {
            let event = reader
                .next()
                .map_err(|error| (error.at.offset, error.message))?;
            match event {
                Event::Start(element) => {
                    this.take(&open, &element)?;
                    open.push(element);
                }
                Event::End { .. } => drop(open.pop()),
                Event::Text(_) => {}
                Event::Eof => return Ok(this),
            }
        }
    }

    fn take(&mut self, open: &[Element], element: &Element) -> Result<(), (u32, String)> {
        match (open, element.name.as_str()) {
            ([], "icegrid") => {}
            ([], other) => {
                let message =
                    format!("expected <icegrid>, as `omero config` writes it, found <{other}>");
                return Err((element.at.offset, message));
            }
            ([_], "include") => self.includes.push(attribute(element, "file")),
            ([_], "properties") => {
                let id = attribute(element, "id");
                if id != ACTIVE {
                    self.profile_mut(&id);
                }
            }
            ([_, set], "property") if set.name == "properties" => {
                let property = (attribute(element, "name"), attribute(element, "value"));
                match attribute(set, "id").as_str() {
                    // The rest of it is a copy, which may be stale.
                    ACTIVE if property.0 == PROFILE => self.active = Some(property.1),
                    ACTIVE => {}
                    id => self.profile_mut(id).push(property),
                }
            }
            // What stands elsewhere is no setting.
            (_, other) => drop(self.foreign.get_or_insert_with(|| format!("<{other}>"))),
        }
        Ok(())
    }

    /// Returns the name of the active profile.
    pub(super) fn active(&self) -> &str {
        self.active.as_deref().unwrap_or(DEFAULT)
    }

    /// Returns what the text had that a store of `omero config` does not have: writing would lose it.
    pub(super) fn foreign(&self) -> Option<&str> {
        self.foreign.as_deref()
    }

    /// Returns the settings of a profile; none if there is no such profile.
    pub(super) fn properties(&self, profile: &str) -> Vec<Property> {
        let found = self.profiles.iter().find(|(name, _)| name == profile);
        let properties = found.into_iter().flat_map(|(_, properties)| properties);
        properties
            .filter(|(name, _)| name != PROFILE && name != VERSION)
            .cloned()
            .collect()
    }

    /// Returns the names of the profiles, in their order.
    pub(super) fn profiles(&self) -> Vec<String> {
        let mut names: Vec<String> = self.profiles.iter().map(|(name, _)| name.clone()).collect();
        if !names.iter().any(|name| name == self.active()) {
            names.push(self.active().to_owned());
        }
        names
    }

    /// Makes a profile the active one; it is made where it is missing.
    pub(super) fn activate(&mut self, profile: &str) {
        self.profile_mut(profile);
        self.active = Some(profile.to_owned());
    }

    /// Takes a profile away. Returns whether there was one.
    pub(super) fn remove(&mut self, profile: &str) -> bool {
        let before = self.profiles.len();
        self.profiles.retain(|(name, _)| name != profile);
        self.profiles.len() < before
    }

    /// Puts other settings in the place of a profile's.
    pub(super) fn replace(&mut self, profile: &str, settings: Vec<Property>) {
        let properties = self.profile_mut(profile);
        // What is of the store itself is nobody's to replace.
        properties.retain(|(name, _)| name == PROFILE || name == VERSION);
        properties.extend(settings);
    }

    /// Returns the version of the store that a profile was written with; the current one of one that says nothing.
    pub(super) fn version(&self, profile: &str) -> &str {
        let found = self.profiles.iter().find(|(name, _)| name == profile);
        let mut properties = found.into_iter().flat_map(|(_, properties)| properties);
        properties
            .find(|(name, _)| name == VERSION)
            .map_or(CURRENT, |(_, version)| version)
    }

    /// Sets a property of a profile, which is made where it is missing; takes it away without a value.
    pub(super) fn set(&mut self, profile: &str, name: &str, value: Option<&str>) {
        let properties = self.profile_mut(profile);
        match value {
            None => properties.retain(|(known, _)| known != name),
            Some(value) => match properties.iter_mut().rev().find(|(known, _)| known == name) {
                Some((_, known)) => value.clone_into(known),
                None => properties.push((name.to_owned(), value.to_owned())),
            },
        }
    }

    fn profile_mut(&mut self, profile: &str) -> &mut Vec<Property> {
        let at = match self.profiles.iter().position(|(name, _)| name == profile) {
            Some(at) => at,
            None => {
                self.profiles.push((profile.to_owned(), Vec::new()));
                self.profiles.len() - 1
            }
        };
        &mut self.profiles[at].1
    }

    /// Writes the store, with a comment of when that was.
    pub(super) fn write(&self, comment: &str) -> String {
        let mut text = format!("<icegrid><!-- {} -->", comment.replace("--", "- -"));
        let active = self.active();
        let properties = self.properties(active);
        let own = [(PROFILE, active), (VERSION, CURRENT)];
        set(&mut text, ACTIVE, own.into_iter().chain(pairs(&properties)));
        let mut profiles: Vec<_> = self
            .profiles
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        if !profiles.contains(&active) {
            profiles.push(active);
        }
        for profile in profiles {
            let properties = self.properties(profile);
            let version = [(VERSION, CURRENT)];
            set(
                &mut text,
                profile,
                version.into_iter().chain(pairs(&properties)),
            );
        }
        let templates = self.includes.is_empty().then(|| TEMPLATES.to_owned());
        for file in self.includes.iter().chain(&templates) {
            let _ = write!(text, "<include file=\"{}\" />", escape(file));
        }
        text.push_str("</icegrid>");
        text
    }
}

fn pairs(properties: &[Property]) -> impl Iterator<Item = (&str, &str)> {
    properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

fn set<'p>(text: &mut String, id: &str, properties: impl Iterator<Item = (&'p str, &'p str)>) {
    let _ = write!(text, "<properties id=\"{}\">", escape(id));
    for (name, value) in properties {
        let (name, value) = (escape(name), escape(value));
        let _ = write!(text, "<property name=\"{name}\" value=\"{value}\" />");
    }
    text.push_str("</properties>");
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            // Literal, a reader would make blanks of them.
            '\r' => escaped.push_str("&#13;"),
            '\t' => escaped.push_str("&#9;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn attribute(element: &Element, name: &str) -> String {
    let mut attributes = element.attributes.iter();
    let found = attributes.find(|attribute| attribute.name == name);
    found.map_or_else(String::new, |attribute| attribute.value.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_written_as_omero_writes_it() {
        let mut document = Document::default();
        document.set("default", "omero.db.host", Some("db.lab.example"));
        document.set("default", "omero.db.pass", Some("a&b\"c\n<é>"));
        document.set("test", "x", Some("1"));
        document.set("test", "x", None);
        assert_eq!(
            document.write("generated"),
            "<icegrid><!-- generated --><properties id=\"__ACTIVE__\">\
             <property name=\"omero.config.profile\" value=\"default\" />\
             <property name=\"omero.config.version\" value=\"5.1.0\" />\
             <property name=\"omero.db.host\" value=\"db.lab.example\" />\
             <property name=\"omero.db.pass\" value=\"a&amp;b&quot;c&#10;&lt;é&gt;\" /></properties>\
             <properties id=\"default\"><property name=\"omero.config.version\" value=\"5.1.0\" />\
             <property name=\"omero.db.host\" value=\"db.lab.example\" />\
             <property name=\"omero.db.pass\" value=\"a&amp;b&quot;c&#10;&lt;é&gt;\" /></properties>\
             <properties id=\"test\"><property name=\"omero.config.version\" value=\"5.1.0\" /></properties>\
             <include file=\"templates.xml\" /></icegrid>"
        );
    }

    #[test]
    fn replacing_settings_by_themselves_changes_nothing() {
        let mut document = Document::default();
        document.set("default", "a", Some("1"));
        let mut document = Document::parse(&document.write("now")).unwrap();
        let before = document.clone();
        document.replace("default", before.properties("default"));
        assert_eq!(document, before);
        document.replace("default", Vec::new());
        assert_eq!(document.properties("default"), []);
    }

    #[test]
    fn what_would_be_lost_is_known() {
        let text = "<icegrid><properties id=\"default\"/><application name=\"x\"/></icegrid>";
        assert_eq!(
            Document::parse(text).unwrap().foreign(),
            Some("<application>")
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            settings in prop::collection::vec(("[a-c]{1,3}", "[ -~é\n\t\r]{0,12}", "[pq]"), 0..20),
        ) {
            let mut document = Document::default();
            for (name, value, profile) in &settings {
                document.set(profile, name, Some(value));
            }
            let again = Document::parse(&document.write("now")).unwrap();
            for profile in ["p", "q"] {
                prop_assert_eq!(again.properties(profile), document.properties(profile));
            }
            prop_assert_eq!(again.foreign(), None);
            prop_assert_eq!(Document::parse(&again.write("then")).unwrap(), again);
        }
    }
}
