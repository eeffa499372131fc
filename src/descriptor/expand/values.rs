//! Single values: substitution, emptiness, numbers, and the words when they are wrong.

use super::{Context, Expander};
use crate::descriptor::diagnostic::{Fault, is_secret};
use crate::descriptor::text::Text;
use crate::descriptor::variables::{Piece, Pieces, SubstitutionError};

impl Expander<'_> {
    /// Expands a text; what cannot be expanded is reported and gives `None`.
    pub(super) fn value(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        if text.is_missing() {
            return None;
        }
        match context.scope.expand(text.as_str()) {
            Ok(value) => {
                self.warn_of_lost_dollars(text);
                Some(value)
            }
            Err(error) => {
                self.bad_substitution(text, attribute, context, &error, " ");
                None
            }
        }
    }

    /// Expands a text that may stay empty or fail: then it is empty.
    pub(super) fn value_or_empty(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> String {
        self.value(text, attribute, context).unwrap_or_default()
    }

    /// Expands a text that has to give something.
    pub(super) fn non_empty(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        let value = self.value(text, attribute, context)?;
        self.refuse_empty(value, text, attribute, context)
    }

    /// Expands the text of an id, in which the node's names cannot be used; `None` if it cannot be used.
    pub(super) fn id(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        let value = self.id_or_empty(text, attribute, context)?;
        self.refuse_empty(value, text, attribute, context)
    }

    pub(super) fn id_or_empty(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        if text.is_missing() {
            return None;
        }
        match context.scope.expand_id(text.as_str()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.bad_substitution(text, attribute, context, &error, "");
                None
            }
        }
    }

    fn refuse_empty(
        &mut self,
        value: String,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        if !value.is_empty() {
            return Some(value);
        }
        let (message, reason) = if text.as_str().is_empty() {
            (
                format!("the {attribute} is empty"),
                "empty string".to_owned(),
            )
        } else {
            (
                format!("the {attribute} is empty: '{text}' expands to nothing"),
                format!("the value of `{text}' is an empty string"),
            )
        };
        let who = context.who;
        let fault = Fault::new(text.at(), message).registry(format!(
            "{who}:\ninvalid value for attribute `{attribute}':\n{reason}"
        ));
        self.error(fault, context);
        None
    }

    fn bad_substitution(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
        error: &SubstitutionError,
        indent: &str,
    ) {
        let mut fault = Fault::new(text.at(), error.to_string());
        if let SubstitutionError::Undefined(name) = error {
            if self.gaps.may_explain(name) {
                return;
            }
            fault = fault.near(name, context.scope.names());
            fault = match name.as_str() {
                "node" | "server" | "service" | "session.id" => fault.hint(match name.as_str() {
                    "node" => "a property set, replica group or description of the application belongs to no node; move it into the node, or use it in the server",
                    "server" => "there is no server here",
                    "service" => "there is no service here",
                    _ => "only a server with activation=\"session\" has it",
                }),
                _ if attribute.starts_with("property") => fault.hint(format!(
                    "define it with <variable name=\"{name}\" …/>, or write $${{{name}}} for the text ${{{name}}}"
                )),
                _ => fault.hint(format!("define it with <variable name=\"{name}\" …/>")),
            };
        }
        if let Some(words) = error.icegrid() {
            let secret = attribute.starts_with("property") && is_secret(text.as_str());
            let text = if secret { "***" } else { text.as_str() };
            let indent = if matches!(error, SubstitutionError::NodeOnly(_)) {
                ""
            } else {
                indent
            };
            fault = fault.registry(format!(
                "{}:\ninvalid value for attribute `{attribute}':\ninvalid variable `{text}':\n{indent}{words}",
                context.who
            ));
        }
        self.error(fault, context);
    }

    /// Reports an error with where it comes to bear.
    pub(super) fn error(&mut self, fault: Fault, context: &Context<'_>) {
        let fault = fault.note(self.note(context));
        self.report.error(fault);
    }

    fn note(&self, context: &Context<'_>) -> Option<String> {
        let place = self.report.place(context.instance?)?;
        let who = context.who.replace('`', "'");
        Some(format!("in {who}, from the instance at {place}"))
    }

    /// Warns where an escape is undone twice: `$$${node.x}` ends as the text `${node.x}`.
    fn warn_of_lost_dollars(&mut self, text: &Text) {
        if !text.as_str().contains("$$${") {
            return;
        }
        for piece in Pieces::new(text.as_str()) {
            if let Piece::Variable { dollars, name } = piece
                && dollars > 0
                && crate::descriptor::variables::NODE_NAMES.contains(&name)
            {
                let dollars = "$".repeat(dollars);
                self.report.warn(
                    Fault::new(
                        text.at(),
                        format!("'{dollars}${{{name}}}' does not become a dollar and the value"),
                    )
                    .hint("a dollar directly before a variable of the node cannot be written"),
                );
            }
        }
    }

    /// Expands a number and writes it in its plain form; empty stays empty.
    pub(super) fn number(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        let value = self.value(text, attribute, context)?;
        let trimmed = value.trim_matches(' ');
        if trimmed.is_empty() {
            return Some(String::new());
        }
        if let Some(number) = parse_int(trimmed) {
            return Some(number.to_string());
        }
        self.bad_number(text, attribute, context, "an integer");
        None
    }

    /// Expands a floating-point number and keeps its text.
    pub(super) fn float(
        &mut self,
        text: &Text,
        attribute: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        let value = self.value(text, attribute, context)?;
        let trimmed = value.trim_matches(' ');
        if trimmed.is_empty() || is_float(trimmed) {
            return Some(trimmed.to_owned());
        }
        self.bad_number(text, attribute, context, "a float");
        None
    }

    fn bad_number(&mut self, text: &Text, attribute: &str, context: &Context<'_>, what: &str) {
        let who = context.who;
        let reason = format!("{who}:\ninvalid value `{text}' for `{attribute}':\nnot {what}");
        let named = if what == "a float" {
            "a number"
        } else {
            "a whole number"
        };
        self.error(
            Fault::new(
                text.at(),
                format!("the {attribute} '{text}' is not {named}"),
            )
            .registry(reason),
            context,
        );
    }
}

/// Parses a number as C++ reads an `int`.
pub(super) fn parse_int(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn is_float(text: &str) -> bool {
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_right = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    !(whole.is_empty() && fraction.is_empty())
        && digits(whole)
        && digits(fraction)
        && exponent_is_right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_cpp() {
        assert_eq!(parse_int("007"), Some(7));
        assert_eq!(parse_int("+12"), Some(12));
        assert_eq!(parse_int("-3"), Some(-3));
        for bad in ["10s", "", "+", "0x10", "99999999999", "1 2"] {
            assert_eq!(parse_int(bad), None, "{bad}");
        }
        for good in ["1.50", "1e1", ".5", "2.", "-1E-3"] {
            assert!(is_float(good), "{good}");
        }
        for bad in ["", ".", "1e", "inf", "1,5", "e5"] {
            assert!(!is_float(bad), "{bad}");
        }
    }
}
