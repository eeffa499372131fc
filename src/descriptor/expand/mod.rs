//! Definition → deployment: templates, variables and property sets resolved, and everything checked.
//!
//! The order of lists, the scopes and the words in which IceGrid refuses something are IceGrid's; but every fault is
//! reported, at the place of the text that has it.

mod application;
mod checks;
mod communicator;
mod names;
mod properties;
mod servers;
mod services;
mod templates;
mod values;

use std::collections::{BTreeMap, HashMap};

use self::checks::Known;
use self::properties::SetCache;
use super::application::Application;
use super::deployment::Deployment;
use super::diagnostic::Report;
use super::parse::Gaps;
use super::source::Source;
use super::text::{Pos, Text};
use super::variables::{Budget, Scope};
use crate::model::ServerId;

pub use self::checks::Others;
pub(super) use self::names::check_names;
pub use self::names::{instance_id, server_id};

/// How to expand.
pub(super) struct Options<'o> {
    pub(super) others: &'o Others,
    pub(super) strict: bool,
    /// A property whose every value is to be returned with its place.
    pub(super) explain: Option<&'o str>,
}

/// A value of the property that is explained.
pub(super) struct Found {
    pub(super) server: ServerId,
    pub(super) name: String,
    pub(super) value: String,
    pub(super) at: Pos,
}

/// Expands an application; faults go to the report.
pub(super) fn expand(
    application: &Application,
    source: &dyn Source,
    options: &Options<'_>,
    gaps: &Gaps,
    report: &mut Report,
) -> (Deployment, Vec<Found>) {
    let budget = Budget::default();
    let mut expander = Expander::new(application, source, options, gaps, report, &budget);
    expander.application();
    for (name, node) in &application.nodes {
        expander.node(name, node);
    }
    expander.check();
    (expander.deployment, expander.found)
}

/// The scope of a text together with the words for it.
#[derive(Clone, Copy)]
struct Context<'c> {
    scope: Scope<'c>,
    /// IceGrid's context line, such as ``server `s'``.
    who: &'c str,
    /// For people: where an instance comes from.
    instance: Option<Pos>,
}

/// One expansion under way.
struct Expander<'x> {
    app: &'x Application,
    source: &'x dyn Source,
    others: &'x Others,
    strict: bool,
    explain: Option<&'x str>,
    found: Vec<Found>,
    gaps: &'x Gaps,
    report: &'x mut Report,
    budget: &'x Budget,
    known: Known,
    app_sets: SetCache,
    deployment: Deployment,
}

impl<'x> Expander<'x> {
    fn new(
        app: &'x Application,
        source: &'x dyn Source,
        options: &Options<'x>,
        gaps: &'x Gaps,
        report: &'x mut Report,
        budget: &'x Budget,
    ) -> Self {
        Self {
            app,
            source,
            others: options.others,
            strict: options.strict,
            explain: options.explain,
            found: Vec::new(),
            gaps,
            report,
            budget,
            known: Known::default(),
            app_sets: SetCache::default(),
            deployment: Deployment {
                application: app.name.clone(),
                ..Deployment::default()
            },
        }
    }

    fn app_scope(&self) -> Scope<'x> {
        Scope {
            application: &self.app.name,
            variables: &self.app.variables,
            node: None,
            server: None,
            service: None,
            parameters: None,
            session: false,
            budget: self.budget,
        }
    }

    /// Expands variables for their readers; those that cannot be expanded are left out without a word.
    fn variables(scope: Scope<'_>, variables: &BTreeMap<String, Text>) -> BTreeMap<String, String> {
        let expanded = |(name, value): (&String, &Text)| {
            Some((name.clone(), scope.expand(value.as_str()).ok()?))
        };
        variables.iter().filter_map(expanded).collect()
    }
}

/// Ids and where they were first defined.
type Defined = HashMap<String, Pos>;
