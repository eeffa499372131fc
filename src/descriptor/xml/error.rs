//! Why a file is no XML that we read, also in expat's words: IceGrid reports those.

use quick_xml::errors::{Error as QuickError, IllFormedError, SyntaxError};

use crate::descriptor::text::Pos;

/// Why a file is no XML that we read; nothing after it can be trusted.
#[derive(Debug)]
pub(crate) struct XmlError {
    pub(crate) at: Pos,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// What expat says, if it refuses the file too.
    pub(crate) expat: Option<&'static str>,
}

impl XmlError {
    pub(super) fn new(at: Pos, message: impl Into<String>, expat: &'static str) -> Self {
        Self {
            at,
            message: message.into(),
            hint: None,
            expat: Some(expat),
        }
    }

    /// A file that IceGrid may well take.
    pub(super) fn refused(at: Pos, message: impl Into<String>, hint: &str) -> Self {
        Self {
            at,
            message: message.into(),
            hint: Some(hint.to_owned()),
            expat: None,
        }
    }

    /// Says in our words, and in expat's, what the parser below has found at `at`.
    pub(super) fn broken(at: Pos, error: &QuickError) -> Self {
        match error {
            QuickError::Syntax(
                SyntaxError::UnclosedTag
                | SyntaxError::UnclosedSingleQuotedAttributeValue
                | SyntaxError::UnclosedDoubleQuotedAttributeValue,
            ) => Self::new(at, format!("{error}"), "unclosed token"),
            QuickError::Syntax(SyntaxError::UnclosedComment | SyntaxError::UnclosedPI) => {
                Self::new(at, format!("{error}"), "unclosed token")
            }
            QuickError::Syntax(SyntaxError::UnclosedDoctype) => Self::refused(
                at,
                "a document type (<!DOCTYPE …>) is not allowed, and with it no entities",
                "remove it and write the text of its entities where they are used",
            ),
            QuickError::Syntax(SyntaxError::UnclosedCData) => {
                Self::new(at, format!("{error}"), "unclosed CDATA section")
            }
            QuickError::IllFormed(IllFormedError::UnclosedReference) => Self::new(
                at,
                "'&' that begins no reference; write '&amp;'",
                "not well-formed (invalid token)",
            ),
            error => Self::new(
                at,
                format!("not well-formed XML: {error}"),
                "not well-formed (invalid token)",
            ),
        }
    }
}
