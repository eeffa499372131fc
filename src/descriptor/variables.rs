//! Replacing `${name}`: scopes, the escape `$${`, and limits.
//!
//! Rules as IceGrid's, with three differences: a cycle is an error that names it, nesting is limited, and so are the
//! length of the result and the work that goes into it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

use super::text::Text;

/// How deep variables may refer to variables.
const MAX_DEPTH: usize = 100;

/// The longest string that one text may expand to, in bytes.
const MAX_EXPANDED: usize = 1 << 20;

/// The most bytes that all texts of a descriptor may expand to.
const MAX_TOTAL: usize = 256 << 20;

/// The most replacements in one text; without it a chain of doublings that ends in the empty string runs for ever.
const MAX_STEPS: usize = 100_000;

/// Names that only a node can replace.
pub(crate) const NODE_NAMES: [&str; 7] = [
    "node.os",
    "node.hostname",
    "node.release",
    "node.version",
    "node.machine",
    "node.datadir",
    "node.data",
];

/// Names that no variable or parameter may have.
pub(crate) const RESERVED: [&str; 16] = [
    "application",
    "node",
    "node.os",
    "node.hostname",
    "node.release",
    "node.version",
    "node.machine",
    "node.datadir",
    "node.data",
    "session.id",
    "server",
    "service",
    "application.distrib",
    "server.distrib",
    "server.data",
    "service.data",
];

pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Why a text could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubstitutionError {
    /// No such variable in this scope.
    Undefined(String),
    /// `${` without `}`; the text that has it.
    Malformed(String),
    /// A name that only the node knows, where it is not allowed.
    NodeOnly(String),
    /// Variables that refer to each other; the chain, the first name again at its end.
    Cycle(Vec<String>),
    /// Variables nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// More than [`MAX_EXPANDED`] bytes, [`MAX_STEPS`] replacements or [`MAX_TOTAL`] bytes in all.
    TooLong,
}

impl fmt::Display for SubstitutionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined(name) => write!(f, "undefined variable '{name}'"),
            Self::Malformed(text) => write!(f, "'${{' without '}}' in '{text}'"),
            Self::NodeOnly(name) => write!(
                f,
                "variable '{name}' is known to the node only and cannot be used here"
            ),
            Self::Cycle(chain) => write!(
                f,
                "variable '{}' refers to itself: {}",
                chain[0],
                chain.join(" → ")
            ),
            Self::TooDeep => write!(f, "variables refer to variables more than {MAX_DEPTH} deep"),
            Self::TooLong => write!(
                f,
                "expanding the variables gives too much text (over {MAX_EXPANDED} bytes)"
            ),
        }
    }
}

impl SubstitutionError {
    /// Returns the last line of IceGrid's message; `None` where IceGrid has no message.
    pub(crate) fn icegrid(&self) -> Option<String> {
        match self {
            Self::Undefined(name) => Some(format!("undefined variable `{name}'")),
            Self::Malformed(text) => Some(format!("malformed variable name `{text}'")),
            Self::NodeOnly(name) => {
                Some(format!("use of the `{name}' variable is now allowed here"))
            }
            Self::Cycle(_) | Self::TooDeep | Self::TooLong => None,
        }
    }
}

/// Counts what expansion has produced.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    total: Cell<usize>,
}

impl Budget {
    /// Adds produced bytes; an error once there are too many in all.
    pub(crate) fn spend(&self, bytes: usize) -> Result<(), SubstitutionError> {
        let total = self.total.get().saturating_add(bytes);
        self.total.set(total);
        if total > MAX_TOTAL {
            Err(SubstitutionError::TooLong)
        } else {
            Ok(())
        }
    }
}

/// The names that a text can see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) application: &'a str,
    pub(crate) variables: &'a BTreeMap<String, Text>,
    pub(crate) node: Option<(&'a str, &'a BTreeMap<String, Text>)>,
    pub(crate) server: Option<&'a str>,
    pub(crate) service: Option<&'a str>,
    /// Parameters of the innermost template instance, already expanded.
    pub(crate) parameters: Option<&'a BTreeMap<String, String>>,
    /// Whether the server belongs to a session, so that `session.id` is left for later.
    pub(crate) session: bool,
    pub(crate) budget: &'a Budget,
}

enum Found<'a> {
    /// Put in as it is.
    Plain(&'a str),
    /// Expanded in turn, without parameters.
    Nested(&'a str),
    /// Left for the node.
    Later,
}

impl<'a> Scope<'a> {
    /// Expands a text at the registry's stage: the node's names stay.
    pub(crate) fn expand(&self, text: &str) -> Result<String, SubstitutionError> {
        self.run(text, true)
    }

    /// Expands the text of an id, in which the node's names are refused.
    pub(crate) fn expand_id(&self, text: &str) -> Result<String, SubstitutionError> {
        self.run(text, false)
    }

    fn run(&self, text: &str, node_names: bool) -> Result<String, SubstitutionError> {
        let out = if text.contains("${") {
            let work = Work {
                steps: Cell::new(0),
                open: RefCell::default(),
                node_names,
            };
            self.substitute(text, true, &work)?
        } else {
            text.to_owned()
        };
        self.budget.spend(out.len())?;
        Ok(out)
    }

    fn substitute(
        &self,
        text: &str,
        parameters: bool,
        work: &Work,
    ) -> Result<String, SubstitutionError> {
        let mut out = String::with_capacity(text.len());
        for piece in Pieces::new(text) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Escaped { dollars } => {
                    out.extend(std::iter::repeat_n('$', dollars));
                    out.push_str("${");
                }
                Piece::Unclosed => return Err(SubstitutionError::Malformed(text.to_owned())),
                Piece::Variable { dollars, name } => {
                    out.extend(std::iter::repeat_n('$', dollars / 2));
                    work.step()?;
                    match self.find(name, parameters) {
                        None => return Err(SubstitutionError::Undefined(name.to_owned())),
                        Some(Found::Plain(value)) => out.push_str(value),
                        Some(Found::Later) if !work.node_names => {
                            return Err(SubstitutionError::NodeOnly(name.to_owned()));
                        }
                        Some(Found::Later) => {
                            out.push_str("${");
                            out.push_str(name);
                            out.push('}');
                        }
                        Some(Found::Nested(value)) => {
                            work.enter(name)?;
                            out.push_str(&self.substitute(value, false, work)?);
                            work.leave();
                        }
                    }
                }
            }
            if out.len() > MAX_EXPANDED {
                return Err(SubstitutionError::TooLong);
            }
        }
        Ok(out)
    }

    fn find(&self, name: &str, parameters: bool) -> Option<Found<'a>> {
        match name {
            "application" => return Some(Found::Plain(self.application)),
            "node" => return self.node.map(|(node, _)| Found::Plain(node)),
            "server" => return self.server.map(Found::Plain),
            "service" => return self.service.map(Found::Plain),
            "application.distrib" => {
                return Some(Found::Nested("${node.data}/distrib/${application}"));
            }
            "server.distrib" => {
                return self
                    .server
                    .map(|_| Found::Nested("${node.data}/servers/${server}/distrib"));
            }
            "server.data" => {
                return self
                    .server
                    .map(|_| Found::Nested("${node.data}/servers/${server}/data"));
            }
            "service.data" => {
                return self
                    .service
                    .map(|_| Found::Nested("${node.data}/servers/${server}/data_${service}"));
            }
            "session.id" => return self.session.then_some(Found::Later),
            _ if NODE_NAMES.contains(&name) => return Some(Found::Later),
            _ => {}
        }
        if parameters && let Some(value) = self.parameters.and_then(|p| p.get(name)) {
            return Some(Found::Plain(value));
        }
        if let Some(value) = self.node.and_then(|(_, variables)| variables.get(name)) {
            return Some(Found::Nested(value.as_str()));
        }
        self.variables
            .get(name)
            .map(|value| Found::Nested(value.as_str()))
    }

    /// Returns the names that could have been meant.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        let node = self
            .node
            .into_iter()
            .flat_map(|(_, variables)| variables.keys());
        let parameters = self.parameters.into_iter().flat_map(BTreeMap::keys);
        parameters
            .chain(node)
            .chain(self.variables.keys())
            .map(String::as_str)
            .chain(RESERVED)
    }
}

/// What is under way in one expansion.
struct Work {
    steps: Cell<usize>,
    open: RefCell<Vec<String>>,
    node_names: bool,
}

impl Work {
    fn step(&self) -> Result<(), SubstitutionError> {
        self.steps.set(self.steps.get() + 1);
        if self.steps.get() > MAX_STEPS {
            Err(SubstitutionError::TooLong)
        } else {
            Ok(())
        }
    }

    fn enter(&self, name: &str) -> Result<(), SubstitutionError> {
        let mut open = self.open.borrow_mut();
        if let Some(first) = open.iter().position(|n| *n == name) {
            let chain = open[first..]
                .iter()
                .cloned()
                .chain([name.to_owned()])
                .collect();
            return Err(SubstitutionError::Cycle(chain));
        }
        if open.len() >= MAX_DEPTH {
            return Err(SubstitutionError::TooDeep);
        }
        open.push(name.to_owned());
        Ok(())
    }

    fn leave(&self) {
        self.open.borrow_mut().pop();
    }
}

/// A piece of a text, as IceGrid scans it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'t> {
    /// Text without any `${`.
    Text(&'t str),
    /// `${` after an odd number of dollars, which escape it. What follows is scanned on.
    Escaped {
        /// How many dollars come before it.
        dollars: usize,
    },
    /// `${name}` after an even number of dollars.
    Variable {
        /// How many dollars come before it.
        dollars: usize,
        /// What stands between the braces.
        name: &'t str,
    },
    /// `${` that no `}` follows; the last piece.
    Unclosed,
}

/// Cuts a text into [`Piece`]s.
pub(crate) struct Pieces<'t> {
    rest: &'t str,
    pending: Option<Piece<'t>>,
}

impl<'t> Pieces<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self {
            rest: text,
            pending: None,
        }
    }
}

impl<'t> Iterator for Pieces<'t> {
    type Item = Piece<'t>;

    fn next(&mut self) -> Option<Piece<'t>> {
        if let Some(piece) = self.pending.take() {
            return Some(piece);
        }
        let Some(start) = self.rest.find("${") else {
            let rest = std::mem::take(&mut self.rest);
            return (!rest.is_empty()).then_some(Piece::Text(rest));
        };
        let before = self.rest[..start].trim_end_matches('$');
        let dollars = start - before.len();
        let after = &self.rest[start + 2..];
        let piece = if dollars % 2 == 1 {
            self.rest = after;
            Piece::Escaped { dollars }
        } else if let Some(end) = after.find('}') {
            self.rest = &after[end + 1..];
            Piece::Variable {
                dollars,
                name: &after[..end],
            }
        } else {
            self.rest = "";
            Piece::Unclosed
        };
        if before.is_empty() {
            Some(piece)
        } else {
            self.pending = Some(piece);
            Some(Piece::Text(before))
        }
    }
}

/// Writes a literal text so that both stages together give it back: every `${` is escaped.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let before = rest[..start].trim_end_matches('$');
        out.push_str(before);
        out.extend(std::iter::repeat_n('$', 2 * (start - before.len()) + 1));
        out.push_str("${");
        rest = &rest[start + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expand(variables: &[(&str, &str)], text: &str) -> Result<String, SubstitutionError> {
        let variables = variables
            .iter()
            .map(|(n, v)| ((*n).to_owned(), Text::new(*v)))
            .collect();
        let budget = Budget::default();
        Scope {
            application: "App",
            variables: &variables,
            node: None,
            server: Some("s"),
            service: None,
            parameters: None,
            session: false,
            budget: &budget,
        }
        .expand(text)
    }

    #[test]
    fn dollars_before_a_variable_escape_in_pairs() {
        let v = [("v", "V")];
        for (text, expected) in [
            ("$", "$"),
            ("$$v", "$$v"),
            ("${v}", "V"),
            ("$${v}", "$${v}"),
            ("$$${v}", "$V"),
            ("$$$${v}", "$$$${v}"),
            ("$$$$${v}", "$$V"),
            ("a$${v}b${v}c$${v}", "a$${v}bVc$${v}"),
            ("$$${node.data}", "$${node.data}"),
            ("$${a${v}}", "$${aV}"),
        ] {
            assert_eq!(expand(&v, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_cycle_names_its_chain() {
        let error = expand(&[("a", "${b}"), ("b", "x${c}"), ("c", "${b}")], "${a}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "variable 'b' refers to itself: b → c → b"
        );
    }

    #[test]
    fn chains_that_double_are_stopped() {
        let doubling = |leaf: &str| -> Vec<(String, String)> {
            let mut variables: Vec<_> = (0..60)
                .map(|n| (format!("v{n}"), format!("${{v{}}}${{v{}}}", n + 1, n + 1)))
                .collect();
            variables.push(("v60".to_owned(), leaf.to_owned()));
            variables
        };
        for leaf in ["", "laughter"] {
            let variables = doubling(leaf);
            let borrowed: Vec<_> = variables
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            assert_eq!(
                expand(&borrowed, "${v0}"),
                Err(SubstitutionError::TooLong),
                "{leaf:?}"
            );
        }
    }

    #[test]
    fn a_very_long_chain_is_refused() {
        let variables: Vec<_> = (0..5000)
            .map(|n| (format!("v{n}"), format!("${{v{}}}", n + 1)))
            .collect();
        let borrowed: Vec<_> = variables
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(expand(&borrowed, "${v0}"), Err(SubstitutionError::TooDeep));
    }

    #[test]
    fn a_name_without_a_value_here_is_undefined() {
        assert_eq!(
            expand(&[], "${service}"),
            Err(SubstitutionError::Undefined("service".to_owned()))
        );
        assert_eq!(
            expand(&[], "${session.id}"),
            Err(SubstitutionError::Undefined("session.id".to_owned()))
        );
        assert_eq!(
            expand(&[], "a${b"),
            Err(SubstitutionError::Malformed("a${b".to_owned()))
        );
    }

    proptest! {
        #[test]
        fn pieces_cover_the_text(text in "[${}a]{0,20}") {
            let mut back = String::new();
            for piece in Pieces::new(&text) {
                match piece {
                    Piece::Text(t) => back.push_str(t),
                    Piece::Escaped { dollars } => back.push_str(&format!("{}${{", "$".repeat(dollars))),
                    Piece::Variable { dollars, name } => back.push_str(&format!("{}${{{name}}}", "$".repeat(dollars))),
                    Piece::Unclosed => { prop_assert!(text.starts_with(&back)); return Ok(()); }
                }
            }
            prop_assert_eq!(back, text);
        }

        #[test]
        fn an_escaped_text_has_no_variable_and_is_kept(text in "[${}a]{0,20}") {
            let escaped = escape(&text);
            prop_assert_eq!(expand(&[], &escaped).unwrap(), escaped);
        }

        #[test]
        fn expanding_twice_is_expanding_once(text in "[${}ab]{0,20}") {
            // True as long as no value brings dollars of its own: an expanded text has only escapes left, and the
            // dollars of an even run were halved for good.
            prop_assume!(!text.contains("$$"));
            if let Ok(once) = expand(&[("a", "A"), ("b", "${a}")], &text) {
                prop_assert_eq!(expand(&[("a", "A"), ("b", "${a}")], &once), Ok(once.clone()));
            }
        }
    }
}
