//! Application descriptors: XML text in, a validated [`Deployment`] out, and what a node makes of it.
//!
//! [`load`] reads (`xml`, `parse`) and expands (`expand`); [`node_stage`] replaces what only a node knows and writes the
//! configuration files; [`Diff`] says what changed. Everything is pure except [`Disk`], which is where files come from.
//! Running anything is left to the nodes. How we differ from IceGrid, and why, is in `BEHAVIOUR.md` beside this file.

mod application;
mod command;
mod config_file;
mod deployment;
mod diagnostic;
mod diff;
mod expand;
mod identity;
mod node;
mod parse;
mod registration;
mod source;
mod text;
mod types;
mod variables;
pub(crate) mod xml;

use std::path::{Path, PathBuf};

use crate::model::ServerId;

pub use application::*;
pub use command::{command, environment};
pub use deployment::{
    DEFAULT_READY, DEFAULT_TIMEOUT, Deployment, GridProperties, NodePlacement, ObjectInfo,
    PlacedServer, Ready,
};
pub(crate) use diagnostic::is_secret;
pub use diagnostic::{Diagnostic, Diagnostics, IceGridFault, Severity, Stage};
pub use diff::{Change, Diff, ServerChange};
pub use expand::{Others, instance_id, server_id};
pub(crate) use identity::Identity as ObjectIdentity;
pub use node::{NodeFacts, NodeStageError, Resolved, node_stage};
pub use registration::Expected;
pub use source::{Disk, MAX_FILE, MAX_FILES, Source};
pub use text::Text;
pub use types::*;

/// The application whose templates and named property sets others may take in as their own (`descriptors.md` §6).
#[derive(Debug, Clone)]
pub enum DefaultTemplates {
    /// It is in this file.
    File(PathBuf),
    /// It was read before, as by a registry.
    Given(Box<Application>),
}

/// What IceGrid says where an application wants default templates and there are none.
pub const NO_DEFAULT_TEMPLATES: &str = "no default templates configured, you need to set IceGrid.Registry.DefaultTemplates in the IceGrid registry configuration.";

/// What to load, and how.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The descriptor.
    pub file: PathBuf,
    /// The targets to select.
    pub targets: Vec<String>,
    /// Variables that override those of the descriptor; the last of a name counts.
    pub overrides: Vec<(String, String)>,
    /// What `import-default-templates` takes in.
    pub default_templates: Option<DefaultTemplates>,
    /// Whether everything that IceGrid refuses is refused (see `BEHAVIOUR.md`).
    pub strict: bool,
    /// What the other applications of the grid have.
    pub others: Others,
    /// The active profile of the configuration store, laid at the beginning of property set `Profile` unless the descriptor
    /// includes the store itself. Values are taken literally.
    pub profile: Option<Vec<Property>>,
    /// A property whose every value is to be told with its origin ([`Loaded::origins`]).
    pub explain: Option<String>,
}

/// The kinds of servers that may have their own value of a key, as `KEY.KIND` (`omero.md` §3.1).
pub const KINDS: [&str; 4] = ["blitz", "indexer", "pixeldata", "repository"];

/// Returns what kind of server this is by its id, as OMERO names them: `Blitz-0`, `PixelData-0`.
pub fn kind_of(server: &ServerId) -> Option<&'static str> {
    let name = server.as_str().split('-').next()?.to_ascii_lowercase();
    KINDS.into_iter().find(|kind| *kind == name)
}

/// A value that a server's properties have for the key of [`Request::explain`], or for `KEY.KIND`. Later ones are stronger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The server.
    pub server: ServerId,
    /// The key as it is written.
    pub name: String,
    /// The value.
    pub value: String,
    /// The property set that it is in; `None` for one of the server or its template.
    pub set: Option<String>,
    /// Where it is written, as `file:line:column`; `None` for the active profile.
    pub place: Option<String>,
}

/// A descriptor that holds.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// As written, without the active profile.
    pub definition: Application,
    /// As meant.
    pub deployment: Deployment,
    /// What is allowed, but hardly meant.
    pub warnings: Vec<Diagnostic>,
    /// The files that were read, the descriptor first.
    pub files: Vec<PathBuf>,
    /// Where the values of [`Request::explain`] come from, of each server in the order in which they count.
    pub origins: Vec<Origin>,
}

/// Reads, expands and checks a descriptor.
///
/// # Errors
///
/// All faults that were found, with the warnings among them.
pub fn load(source: &dyn Source, request: &Request) -> Result<Loaded, Diagnostics> {
    let mut report = diagnostic::Report::default();
    let options = parse::Options {
        file: &request.file,
        targets: &request.targets,
        overrides: &request.overrides,
        default_templates: request.default_templates.as_ref(),
        strict: request.strict,
    };
    let parse::Parsed { application, gaps } = parse::parse(source, &options, &mut report);
    let Some(application) = application else {
        return Err(report.finish());
    };
    expand(application, source, request, &gaps, report)
}

/// Reads a descriptor and expands nothing: what it defines, for somebody else to judge.
///
/// # Errors
///
/// All faults that were found, with the warnings among them.
pub fn define(source: &dyn Source, request: &Request) -> Result<Application, Diagnostics> {
    let mut report = diagnostic::Report::default();
    let options = parse::Options {
        file: &request.file,
        targets: &request.targets,
        overrides: &request.overrides,
        default_templates: request.default_templates.as_ref(),
        strict: request.strict,
    };
    let parsed = parse::parse(source, &options, &mut report);
    match parsed.application {
        Some(application) if !report.has_errors() => Ok(application),
        _ => Err(report.finish()),
    }
}

/// Reads the templates and property sets of an application that others may take in as their own; what else is in it counts for nothing.
///
/// # Errors
///
/// All faults that were found, with the warnings among them.
pub fn default_templates(source: &dyn Source, file: &Path) -> Result<Application, Diagnostics> {
    let mut report = diagnostic::Report::default();
    let application = parse::defaults(source, file, &mut report);
    match report.has_errors() {
        false => Ok(application),
        true => Err(report.finish()),
    }
}

/// Expands and checks an application that was read from no file: as if it had been written so in one. Of the request, what is about
/// files is of no account.
///
/// # Errors
///
/// All faults that were found, with the warnings among them.
pub fn expand_application(
    application: Application,
    source: &dyn Source,
    request: &Request,
) -> Result<Loaded, Diagnostics> {
    let mut report = diagnostic::Report::default();
    expand::check_names(&application, &mut report);
    expand(
        application,
        source,
        request,
        &parse::Gaps::default(),
        report,
    )
}

fn expand(
    application: Application,
    source: &dyn Source,
    request: &Request,
    gaps: &parse::Gaps,
    mut report: diagnostic::Report,
) -> Result<Loaded, Diagnostics> {
    warn_of_stronger(&application, request.profile.as_deref(), &mut report);
    let laid = request.profile.as_ref();
    let laid = laid.and_then(|profile| lay_profile(&application, profile));
    let meant = laid.as_ref().unwrap_or(&application);
    let options = expand::Options {
        others: &request.others,
        strict: request.strict,
        explain: request.explain.as_deref(),
    };
    let (deployment, found) = expand::expand(meant, source, &options, gaps, &mut report);
    let origins = found
        .into_iter()
        .map(|found| Origin {
            set: set_at(meant, found.at),
            place: report.place(found.at).filter(|_| found.at.is_some()),
            server: found.server,
            name: found.name,
            value: found.value,
        })
        .collect();
    let files = report.files();
    let failed = report.has_errors();
    let diagnostics = report.finish();
    if failed {
        return Err(diagnostics);
    }
    Ok(Loaded {
        definition: application,
        deployment,
        warnings: diagnostics.0,
        files,
        origins,
    })
}

/// Returns the named property set that has a value written at this place; what is written nowhere is the profile's.
fn set_at(application: &Application, at: text::Pos) -> Option<String> {
    if !at.is_some() {
        return Some("Profile".to_owned());
    }
    let nodes = application.nodes.values();
    let sets = nodes
        .flat_map(|node| &node.property_sets)
        .chain(&application.property_sets);
    let mut sets = sets.filter(|(_, named)| {
        let mut properties = named.set.properties.iter();
        properties.any(|(_, value)| value.at() == at)
    });
    sets.next().map(|(id, _)| id.clone())
}

/// Warns of values that are written into property set `Profile` by hand where the configuration has others: those do not count.
fn warn_of_stronger(
    application: &Application,
    profile: Option<&[Property]>,
    report: &mut diagnostic::Report,
) {
    let Some(by_hand) = application.property_sets.get("Profile") else {
        return;
    };
    let included = application.property_sets.get("__ACTIVE__");
    let configured = |name: &str| match included {
        Some(included) => {
            let mut properties = included.set.properties.iter().rev();
            let found = properties.find(|(known, _)| known.as_str() == name);
            found.map(|(_, value)| value.as_str())
        }
        None => {
            let mut properties = profile.unwrap_or_default().iter().rev();
            let found = properties.find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        }
    };
    for (name, value) in &by_hand.set.properties {
        let key = name.as_str();
        if configured(key).is_some_and(|configured| configured != value.as_str()) {
            let message = format!(
                "{key} is written into property set Profile, which is stronger than `omero config set {key}`"
            );
            let fault = diagnostic::Fault::new(value.at(), message);
            report.warn(fault.hint("take it out here for the configuration to count"));
        }
    }
}

/// Returns the application with the active profile at the beginning of property set `Profile`; `None` if it has no such set, or if
/// `config.xml` was included and has brought its own.
fn lay_profile(application: &Application, profile: &[Property]) -> Option<Application> {
    if application.property_sets.contains_key("__ACTIVE__") {
        return None;
    }
    application.property_sets.get("Profile")?;
    let mut laid = application.clone();
    let named = laid.property_sets.get_mut("Profile")?;
    // A value of the store is no text of a descriptor: `${…}` in it means itself.
    let literal = |text: &String| Text::new(variables::escape(text));
    let properties = profile
        .iter()
        .map(|(name, value)| (literal(name), literal(value)));
    // What is written into the set by hand is stronger, as where IceGrid resolves the reference (`omero.md` §3.1).
    named.set.properties.splice(0..0, properties);
    Some(laid)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const DEFAULT: &str = include_str!("../../descriptors/default.xml");
    const TEMPLATES: &str = include_str!("../../descriptors/templates.xml");

    fn files(default: &str, templates: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        [("default.xml", default), ("templates.xml", templates)]
            .into_iter()
            .map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec()))
            .collect()
    }

    fn request() -> Request {
        Request {
            file: PathBuf::from("default.xml"),
            ..Request::default()
        }
    }

    #[test]
    fn what_is_loaded_survives_being_stored() {
        let loaded = load(&files(DEFAULT, TEMPLATES), &request()).unwrap();
        let text = serde_json::to_string(&loaded.deployment).unwrap();
        assert_eq!(
            serde_json::from_str::<Deployment>(&text).unwrap(),
            loaded.deployment
        );
        let text = serde_json::to_string(&loaded.definition).unwrap();
        assert_eq!(
            serde_json::from_str::<Application>(&text).unwrap(),
            loaded.definition
        );
        assert_eq!(
            loaded.deployment.required(),
            ["Blitz-0".parse().unwrap(), "Blitz-1".parse().unwrap()]
        );
        let backup = &loaded.deployment.nodes[&"backup".parse().unwrap()];
        assert!(backup.is_manual());
    }

    #[test]
    fn what_is_stronger_than_the_configuration_is_told_with_its_place() {
        let profile = [("omero.a", "1"), ("omero.b", "1"), ("omero.c", "1")];
        let profile = profile.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = Request {
            profile: Some(profile.to_vec()),
            ..request()
        };
        let own = "<property name=\"omero.a\" value=\"1\"/>\n<property name=\"omero.b\" value=\"2\"/><property name=\"omero.d\" value=\"3\"/>";
        let active =
            "<properties id=\"__ACTIVE__\"><property name=\"omero.b\" value=\"7\"/></properties>";
        for text in [
            format!(
                "<icegrid><application name=\"A\"><properties id=\"Profile\">{own}</properties></application></icegrid>"
            ),
            format!(
                "<icegrid><application name=\"A\">{active}<properties id=\"Profile\"><properties refid=\"__ACTIVE__\"/>{own}</properties></application></icegrid>"
            ),
        ] {
            let loaded = load(&files(&text, ""), &request).unwrap();
            let said: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
            assert!(
                matches!(&said[..], [one] if one.contains("default.xml:2:") && one.contains("omero.b is written into property set Profile")),
                "{said:?}"
            );
        }
    }

    #[test]
    fn the_profile_is_laid_literally_and_only_once() {
        let profile = vec![("omero.data.dir".to_owned(), "$${x}/${y}".to_owned())];
        let request = Request {
            profile: Some(profile),
            ..request()
        };
        let loaded = load(&files(DEFAULT, TEMPLATES), &request).unwrap();
        let server = &loaded.deployment.servers[&"Blitz-0".parse().unwrap()].descriptor;
        let resolved = node_stage(server, "OMERO", "master", &NodeFacts::default()).unwrap();
        assert_eq!(
            resolved.descriptor.property_set.get("omero.data.dir"),
            Some("$${x}/${y}")
        );
        let own = TEMPLATES.replace(
            "<properties id=\"Profile\"/>",
            "<properties id=\"Profile\"/><properties id=\"__ACTIVE__\"/>",
        );
        let loaded = load(&files(DEFAULT, &own), &request).unwrap();
        let server = &loaded.deployment.servers[&"Blitz-0".parse().unwrap()].descriptor;
        assert_eq!(server.property_set.get("omero.data.dir"), Some("var/data"));
    }

    #[test]
    fn an_application_of_no_file_is_expanded_as_one_of_a_file() {
        let profile = vec![("omero.data.dir".to_owned(), "/elsewhere".to_owned())];
        let request = Request {
            profile: Some(profile),
            ..request()
        };
        let loaded = load(&files(DEFAULT, TEMPLATES), &request).unwrap();
        let text = serde_json::to_string(&loaded.definition).unwrap();
        assert!(!text.contains("/elsewhere"));
        let definition: Application = serde_json::from_str(&text).unwrap();
        let none = BTreeMap::new();
        let again = expand_application(definition, &none, &request).unwrap();
        assert_eq!(again.deployment, loaded.deployment);
        assert_eq!(again.definition, loaded.definition);
        assert!(again.files.is_empty());
    }

    #[test]
    fn names_that_no_file_could_have_are_refused() {
        let value = || ("node".to_owned(), Text::new("x"));
        let application = Application {
            variables: BTreeMap::from([value()]),
            nodes: BTreeMap::from([(String::new(), NodeDescriptor::default())]),
            ..Application::default()
        };
        let none: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        let faults = expand_application(application, &none, &Request::default()).unwrap_err();
        let shown = faults.0.iter().map(ToString::to_string);
        let shown = shown.collect::<Vec<_>>().join("\n");
        for expected in [
            "the application has no name",
            "a node has no name",
            "reserved",
        ] {
            assert!(shown.contains(expected), "{shown}");
        }
    }

    #[test]
    fn chains_of_property_sets_are_bounded() {
        let doubling: String = (0..60)
            .map(|n| {
                let next = n + 1;
                format!("<properties id=\"p{n}\"><properties refid=\"p{next}\"/><properties refid=\"p{next}\"/></properties>")
            })
            .collect();
        let text = format!(
            "<icegrid><application name=\"A\">{doubling}<properties id=\"p60\"><property name=\"a\"/></properties></application></icegrid>"
        );
        assert!(load(&files(&text, ""), &request()).is_err());
        let chain: String = (0..5000)
            .map(|n| {
                format!(
                    "<properties id=\"p{n}\"><properties refid=\"p{}\"/></properties>",
                    n + 1
                )
            })
            .collect();
        let text = format!("<icegrid><application name=\"A\">{chain}</application></icegrid>");
        for strict in [false, true] {
            assert!(
                load(
                    &files(&text, ""),
                    &Request {
                        strict,
                        ..request()
                    }
                )
                .is_err()
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_damage_panics(at in 0..TEMPLATES.len(), length in 0..40usize, put in "[<>/\"=${}a ]{0,6}") {
            let end = (at + length).min(TEMPLATES.len());
            prop_assume!(TEMPLATES.is_char_boundary(at) && TEMPLATES.is_char_boundary(end));
            let damaged = format!("{}{put}{}", &TEMPLATES[..at], &TEMPLATES[end..]);
            if let Err(diagnostics) = load(&files(DEFAULT, &damaged), &request()) {
                prop_assert!(diagnostics.errors().count() > 0);
                let shown: Vec<String> = diagnostics.0.iter().map(ToString::to_string).collect();
                prop_assert!(!shown.is_empty());
            }
        }
    }
}
