//! Templates: finding the one an instance names, and the values of its parameters.

use std::collections::BTreeMap;

use super::{Context, Expander};
use crate::descriptor::application::Template;
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::{Pos, Text};

impl Expander<'_> {
    pub(super) fn find_template<'t, D>(
        &mut self,
        id: &Text,
        templates: &'t BTreeMap<String, Template<D>>,
        kind: &str,
    ) -> Option<&'t Template<D>> {
        let found = templates.get(id.as_str());
        if found.is_none() && !id.is_missing() && !self.gaps.may_explain(id.as_str()) {
            self.report.error(
                Fault::new(id.at(), format!("unknown template '{id}'"))
                    .near(id.as_str(), templates.keys().map(String::as_str))
                    .registry(format!("unknown {kind} template `{id}'")),
            );
        }
        found
    }

    /// Expands the parameters of an instance; `None` if some are unknown or missing.
    pub(super) fn parameters<D>(
        &mut self,
        id: &Text,
        given: &BTreeMap<String, Text>,
        template: &Template<D>,
        at: Pos,
        context: &Context<'_>,
    ) -> Option<BTreeMap<String, String>> {
        let mut out = BTreeMap::new();
        let mut complete = true;
        for (name, text) in given {
            if template.parameters.contains(name) {
                match self.value(text, &format!("parameter `{name}'"), context) {
                    Some(value) => {
                        out.insert(name.clone(), value);
                    }
                    None => complete = false,
                }
            }
        }
        let unknown: Vec<_> = given
            .iter()
            .filter(|(name, _)| !template.parameters.contains(name))
            .collect();
        if !unknown.is_empty() {
            let names: String = unknown.iter().map(|(name, _)| format!("{name} ")).collect();
            let reason = format!(
                "{}:\nunknown parameters when instantiating `{id}' template: {names}",
                context.who
            );
            for (name, text) in unknown {
                let free = template
                    .parameters
                    .iter()
                    .filter(|p| !given.contains_key(*p))
                    .map(String::as_str);
                self.error(
                    Fault::new(
                        text.at(),
                        format!("template '{id}' has no parameter '{name}'"),
                    )
                    .near(name, free)
                    .registry(reason.clone()),
                    context,
                );
            }
            complete = false;
        }
        for (name, default) in &template.parameter_defaults {
            if !given.contains_key(name) {
                match self.value(default, &format!("default parameter `{name}'"), context) {
                    Some(value) => {
                        out.insert(name.clone(), value);
                    }
                    None => complete = false,
                }
            }
        }
        let mut missing: Vec<&str> = template
            .parameters
            .iter()
            .filter(|p| !given.contains_key(*p) && !template.parameter_defaults.contains_key(*p))
            .map(String::as_str)
            .collect();
        // A misspelt parameter is not missing as well.
        if !missing.is_empty() && given.keys().all(|name| template.parameters.contains(name)) {
            missing.sort_unstable();
            let names: String = missing.iter().map(|name| format!("{name} ")).collect();
            let plural = if missing.len() == 1 { "" } else { "s" };
            self.error(
                Fault::new(
                    at,
                    format!(
                        "template '{id}' needs the parameter{plural} {}",
                        quoted(&missing)
                    ),
                )
                .registry(format!(
                    "{}:\nundefined parameters when instantiating `{id}' template: {names}",
                    context.who
                )),
                context,
            );
        }
        (complete && missing.is_empty()).then_some(out)
    }
}

fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|n| format!("'{n}'"))
        .collect::<Vec<_>>()
        .join(", ")
}
