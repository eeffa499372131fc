//! Property sets: references resolved into one flat list, in IceGrid's order and with duplicates kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use super::{Context, Expander};
use crate::descriptor::application::NamedPropertySet;
use crate::descriptor::deployment::parse_ready;
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::types::{Property, PropertySet};
use crate::descriptor::variables::SubstitutionError;

/// The most properties that one list of references may come to.
const MAX_PROPERTIES: usize = 100_000;

/// How deep property sets may refer to property sets.
const MAX_DEPTH: usize = 100;

/// An expanded property and where it is written.
#[derive(Debug, Clone)]
pub(super) struct Prop {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) at: Pos,
}

impl Prop {
    pub(super) fn into_pair(self) -> Property {
        (self.name, self.value)
    }
}

/// The own properties of named sets, expanded in the scope of their owner.
pub(super) type SetCache = HashMap<String, Rc<Vec<Prop>>>;

/// The named sets that a place can refer to, and what has been resolved there.
pub(super) struct Sets<'s> {
    pub(super) app: &'s BTreeMap<String, NamedPropertySet>,
    pub(super) node: Option<(&'s BTreeMap<String, NamedPropertySet>, SetCache)>,
    /// References resolved to the end, by id.
    pub(super) flat: HashMap<String, Rc<Vec<Prop>>>,
}

impl<'s> Sets<'s> {
    fn find(&self, id: &str) -> Option<&'s NamedPropertySet> {
        self.node
            .as_ref()
            .and_then(|(sets, _)| sets.get(id))
            .or_else(|| self.app.get(id))
    }

    fn names(&self) -> impl Iterator<Item = &'s str> {
        let node = self
            .node
            .as_ref()
            .into_iter()
            .flat_map(|(sets, _)| sets.keys());
        node.chain(self.app.keys()).map(String::as_str)
    }
}

impl Expander<'_> {
    /// Expands the own properties of named sets.
    pub(super) fn own_properties(
        &mut self,
        sets: &BTreeMap<String, NamedPropertySet>,
        context: &Context<'_>,
    ) -> SetCache {
        let mut cache = SetCache::new();
        for (id, named) in sets {
            let what = format!("property set `{id}' property");
            let properties = self.properties(&named.set.properties, &what, context);
            cache.insert(id.clone(), Rc::new(properties));
        }
        cache
    }

    /// Expands a list of properties.
    pub(super) fn properties(
        &mut self,
        list: &[Property<Text>],
        what: &str,
        context: &Context<'_>,
    ) -> Vec<Prop> {
        let mut out = Vec::with_capacity(list.len());
        for (name, value) in list {
            let at = if value.at().is_some() {
                value.at()
            } else {
                name.at()
            };
            let name = self.value(name, &format!("{what} name"), context);
            let value = self.value(value, &format!("{what} value"), context);
            if let (Some(name), Some(value)) = (name, value) {
                self.check_property(&name, &value, at);
                out.push(Prop { name, value, at });
            }
        }
        out
    }

    fn check_property(&mut self, name: &str, value: &str, at: Pos) {
        if value.contains(['\n', '\r']) || name.contains(['\n', '\r']) {
            self.report.warn(
                Fault::new(at, format!("property {name:?} has a line break, which becomes a blank in the file that the server reads"))
                    .hint("IceGrid would write a second property there; write the value on one line"),
            );
        }
        if name == "omero.grid.ready" && !value.is_empty() && parse_ready(value).is_none() {
            self.report.error(
                Fault::new(at, format!("omero.grid.ready is '{value}', neither 'notify' nor a number of milliseconds"))
                    .near(value, ["notify"]),
            );
        }
    }

    /// Checks that all references of named sets exist and end.
    pub(super) fn check_references(
        &mut self,
        sets: &BTreeMap<String, NamedPropertySet>,
        all: &mut Sets<'_>,
        context: &Context<'_>,
    ) {
        for named in sets.values() {
            self.references(&named.set.references, all, context);
        }
    }

    /// Resolves a set: its references, then its own properties.
    pub(super) fn set(
        &mut self,
        set: &PropertySet<Text>,
        sets: &mut Sets<'_>,
        context: &Context<'_>,
    ) -> (Vec<Prop>, Vec<Prop>) {
        let references = self.references(&set.references, sets, context);
        let own = self.properties(&set.properties, "property", context);
        (references, own)
    }

    /// Resolves references in order.
    fn references(
        &mut self,
        references: &[Text],
        sets: &mut Sets<'_>,
        context: &Context<'_>,
    ) -> Vec<Prop> {
        if references.is_empty() {
            return Vec::new();
        }
        if self.strict {
            self.refuse_repeated(references, sets, context);
        }
        let mut out = Vec::new();
        for reference in references {
            let mut path = Vec::new();
            if let Some(properties) = self.reference(reference, sets, context, &mut path) {
                out.extend(properties.iter().cloned());
            }
            self.spend(&out, reference, context);
        }
        out
    }

    fn spend(&mut self, properties: &[Prop], reference: &Text, context: &Context<'_>) {
        let bytes = properties
            .iter()
            .map(|p| p.name.len() + p.value.len())
            .sum();
        if context.scope.budget.spend(bytes).is_err() || properties.len() > MAX_PROPERTIES {
            self.error(
                Fault::new(reference.at(), SubstitutionError::TooLong.to_string()),
                context,
            );
        }
    }

    fn reference(
        &mut self,
        reference: &Text,
        sets: &mut Sets<'_>,
        context: &Context<'_>,
        path: &mut Vec<String>,
    ) -> Option<Rc<Vec<Prop>>> {
        let id = reference.as_str();
        if let Some(flat) = sets.flat.get(id) {
            return Some(Rc::clone(flat));
        }
        if let Some(first) = path.iter().position(|p| p == id) {
            let chain: Vec<&str> = path[first..]
                .iter()
                .map(String::as_str)
                .chain([id])
                .collect();
            let message = format!(
                "property set '{id}' refers to itself: {}",
                chain.join(" → ")
            );
            // IceGrid names the set that its own search meets twice.
            let start = Text::new(path[0].clone());
            let met = first_repeated(std::slice::from_ref(&start), sets, &mut HashSet::new())
                .unwrap_or_default();
            let reason = format!(
                "{}:\ndetected circular dependency with property reference `{met}'",
                context.who
            );
            self.error(
                Fault::new(reference.at(), message).registry(reason),
                context,
            );
            return None;
        }
        let Some(named) = sets.find(id) else {
            if !self.gaps.may_explain(id) {
                let reason = format!(
                    "{}:\ninvalid reference to property set, property set `{id}' doesn't exist",
                    context.who
                );
                let fault = Fault::new(reference.at(), format!("unknown property set '{id}'"));
                self.error(fault.near(id, sets.names()).registry(reason), context);
            }
            return None;
        };
        if path.len() >= MAX_DEPTH {
            let message =
                format!("property sets refer to property sets more than {MAX_DEPTH} deep");
            self.error(Fault::new(reference.at(), message), context);
            return None;
        }
        path.push(id.to_owned());
        let mut out = Vec::new();
        for inner in &named.set.references {
            if let Some(properties) = self.reference(inner, sets, context, path) {
                out.extend(properties.iter().cloned());
            }
            if out.len() > MAX_PROPERTIES {
                self.error(
                    Fault::new(
                        inner.at(),
                        format!("over {MAX_PROPERTIES} properties by references"),
                    ),
                    context,
                );
                break;
            }
        }
        path.pop();
        let own = match &sets.node {
            Some((node, cache)) if node.contains_key(id) => cache.get(id),
            _ => self.app_sets.get(id),
        };
        out.extend(own.into_iter().flat_map(|own| own.iter().cloned()));
        let flat = Rc::new(out);
        // What was cut short by a cycle is complete only for those outside it, who report nothing more.
        sets.flat.insert(id.to_owned(), Rc::clone(&flat));
        Some(flat)
    }

    /// Refuses what IceGrid takes for a cycle: a set with references met twice in one list.
    fn refuse_repeated(&mut self, references: &[Text], sets: &Sets<'_>, context: &Context<'_>) {
        if let Some(id) = first_repeated(references, sets, &mut HashSet::new()) {
            let reason = format!(
                "{}:\ndetected circular dependency with property reference `{id}'",
                context.who
            );
            let at = references
                .iter()
                .rfind(|r| r.as_str() == id)
                .or(references.last())
                .map(Text::at);
            self.error(
                Fault::new(
                    at.unwrap_or_default(),
                    format!("property set '{id}' is met twice, which IceGrid takes for a cycle"),
                )
                .hint("only refused with --strict")
                .registry(reason),
                context,
            );
        }
    }
}

/// Finds the set at which IceGrid's search for cycles stops.
fn first_repeated<'s>(
    references: &'s [Text],
    sets: &Sets<'s>,
    met: &mut HashSet<String>,
) -> Option<String> {
    for reference in references {
        let Some(named) = sets.find(reference.as_str()) else {
            continue;
        };
        if named.set.references.is_empty() {
            continue;
        }
        if met.len() > 10 * MAX_DEPTH {
            return None;
        }
        if !met.insert(reference.as_str().to_owned()) {
            return Some(reference.as_str().to_owned());
        }
        if let Some(found) = first_repeated(&named.set.references, sets, met) {
            return Some(found);
        }
    }
    None
}
