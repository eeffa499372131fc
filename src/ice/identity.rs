//! Who is meant: a name, and a category in which it is unique.

use std::fmt;
use std::str::FromStr;

use super::bytes::{Reader, Writer};
use super::codec::{Decode, Encode, Shape};
use super::error::DecodeError;
use super::words::{ParseError, escape, unescape};

/// The identity of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its name; empty for nobody.
    pub name: String,
    /// Its category; mostly empty.
    pub category: String,
}

impl Identity {
    /// Makes an identity without a category.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            category: String::new(),
        }
    }

    /// Returns whether it is nobody's.
    pub fn is_nil(&self) -> bool {
        self.name.is_empty() && self.category.is_empty()
    }
}

impl Shape for Identity {
    const LEAST: usize = 2;
}

impl Decode<'_> for Identity {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (name, category) = <(String, String)>::decode(reader)?;
        if name.is_empty() && !category.is_empty() {
            return Err(DecodeError::Identity);
        }
        Ok(Self { name, category })
    }
}

impl Encode for Identity {
    fn encode(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.text(&self.category);
    }
}

/// As Ice writes it: `category/name`, with `/` and `\` in either protected by a backslash.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.category.is_empty() {
            write!(f, "{}/", escape(&self.category, "/"))?;
        }
        f.write_str(&escape(&self.name, "/"))
    }
}

impl FromStr for Identity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut slash = None;
        let mut protected = false;
        for (at, c) in text.char_indices() {
            match c {
                _ if protected => protected = false,
                '\\' => protected = true,
                '/' if slash.is_some() => {
                    return Err(ParseError::new(at, "an identity has one '/' at most"));
                }
                '/' => slash = Some(at),
                _ => {}
            }
        }
        let (category, name, begin) = match slash {
            Some(at) => (&text[..at], &text[at + 1..], at + 1),
            None => ("", text, 0),
        };
        let identity = Self {
            name: unescape(name).map_err(|error| error.after(begin))?,
            category: unescape(category)?,
        };
        if identity.name.is_empty() && !identity.category.is_empty() {
            return Err(ParseError::new(text.len(), "an identity needs a name"));
        }
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identities_are_written_as_ice_writes_them() {
        for (name, category, text) in [
            ("echo", "", "echo"),
            ("t2", "cat", "cat/t2"),
            ("a/b", "c\\d", "c\\\\d/a\\/b"),
            ("two words", "", "two words"),
            ("µ\n", "", "µ\\n"),
            ("", "", ""),
        ] {
            let identity = Identity {
                name: name.to_owned(),
                category: category.to_owned(),
            };
            assert_eq!(identity.to_string(), text);
            assert_eq!(text.parse(), Ok(identity));
        }
    }

    #[test]
    fn what_is_no_identity_is_refused_with_its_place() {
        for (text, at) in [("a/b/c", 3), ("a/", 2), ("a\\", 1), ("x/y\\", 3)] {
            let error = text.parse::<Identity>().unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_identity_comes_back(name in ".{1,20}", category in ".{0,20}") {
            let identity = Identity { name, category };
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
        }

        #[test]
        fn any_text_is_an_identity_or_refused(text in ".{0,40}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string().parse(), Ok(identity));
            }
        }
    }
}
