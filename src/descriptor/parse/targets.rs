//! Which targets are selected, and which selectors select nothing.

use std::cell::Cell;
use std::collections::BTreeSet;

use crate::descriptor::diagnostic::{Fault, Report};
use crate::descriptor::text::Pos;

/// A target named on the command line or by an include.
#[derive(Debug)]
struct Selector {
    name: String,
    at: Pos,
    used: Cell<bool>,
}

/// The selectors in force. Those of an include count inside it only.
#[derive(Debug, Default)]
pub(super) struct Targets {
    active: Vec<Selector>,
    idle: Vec<Selector>,
    seen: BTreeSet<String>,
}

impl Targets {
    pub(super) fn select<'n>(
        &mut self,
        names: impl IntoIterator<Item = &'n str>,
        at: Pos,
    ) -> usize {
        let before = self.active.len();
        let selectors = names.into_iter().map(|n| Selector {
            name: n.to_owned(),
            at,
            used: Cell::new(false),
        });
        self.active.extend(selectors);
        before
    }

    /// Ends an include: only the first `count` selectors stay.
    pub(super) fn deselect(&mut self, count: usize) {
        self.idle
            .extend(self.active.drain(count..).filter(|s| !s.used.get()));
    }

    /// Remembers that a target of this name exists.
    pub(super) fn see(&mut self, name: &str) {
        if !self.seen.contains(name) {
            self.seen.insert(name.to_owned());
        }
    }

    /// Returns whether a target is selected here: by its name, or by the name after a dotted prefix of where it stands.
    ///
    /// `open` is the names of the open application, node, server and service, joined with dots.
    pub(super) fn is_selected(&self, target: &str, open: &str) -> bool {
        let mut selected = false;
        for selector in &self.active {
            let matches = selector.name == target
                || selector
                    .name
                    .strip_suffix(target)
                    .and_then(|prefix| prefix.strip_suffix('.'))
                    .is_some_and(|prefix| {
                        open.strip_prefix(prefix)
                            .is_some_and(|r| r.is_empty() || r.starts_with('.'))
                    });
            if matches {
                selector.used.set(true);
                selected = true;
            }
        }
        selected
    }

    /// Warns of selectors that selected nothing; IceGrid ignores them without a word.
    pub(super) fn finish(mut self, report: &mut Report) {
        self.deselect(0);
        for selector in &self.idle {
            let name = &selector.name;
            let message = format!("unknown target '{name}'");
            let fault = match name.rsplit_once('.') {
                _ if self.seen.contains(name) => {
                    Fault::new(selector.at, format!("target '{name}' selects nothing: it stands in a target that is not selected"))
                }
                Some((prefix, last)) if self.seen.contains(last) => {
                    Fault::new(selector.at, format!("target '{name}' selects nothing: no '{last}' stands in '{prefix}'")).hint(
                        "a prefix begins with the application's name: APPLICATION.NODE.SERVER.TARGET; in a template there is no node",
                    )
                }
                _ => Fault::new(selector.at, message).near(name, self.seen.iter().map(String::as_str)),
            };
            report.warn(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_name_or_a_prefix_and_a_name() {
        let selected = |selector: &str, target: &str, open: &str| {
            let mut targets = Targets::default();
            targets.select([selector], Pos::NONE);
            targets.is_selected(target, open)
        };
        assert!(selected("debug", "debug", "App.n1.s1"));
        assert!(selected("App.debug", "debug", "App.n1.s1"));
        assert!(selected("App.n1.debug", "debug", "App.n1.a.b"));
        assert!(selected("App.n1.a.debug", "debug", "App.n1.a.b"));
        assert!(!selected("n1.debug", "debug", "App.n1.s1"));
        assert!(!selected("App.n.debug", "debug", "App.n1.s1"));
        assert!(!selected("Debug", "debug", "App"));
        assert!(!selected(".debug", "debug", "App"));
    }
}
