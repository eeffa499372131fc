//! Text as written in a descriptor, with the place where it stands.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A place in one of the files of a descriptor: which file, and how many bytes into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pos {
    /// Index into the files in the order in which they were read.
    pub(crate) file: u32,
    /// Bytes from the beginning of the decoded file.
    pub(crate) offset: u32,
}

impl Pos {
    /// The place of what stands in no file: command line arguments, deserialised definitions.
    pub(crate) const NONE: Self = Self {
        file: u32::MAX,
        offset: 0,
    };

    /// Returns whether this is a place in a file.
    pub(crate) fn is_some(self) -> bool {
        self.file != u32::MAX
    }
}

impl Default for Pos {
    fn default() -> Self {
        Self::NONE
    }
}

/// A string of a definition, before any variable in it is replaced.
///
/// Serialised it is the bare string, and two texts are equal if their strings are: where it stands matters to
/// messages only.
#[derive(Clone, Default)]
pub struct Text {
    value: String,
    at: Pos,
    missing: bool,
}

impl Text {
    /// Wraps a string that stands in no file.
    pub fn new(value: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            at: Pos::NONE,
            missing: false,
        }
    }

    /// Returns the string as written.
    pub fn as_str(&self) -> &str {
        &self.value
    }

    pub(crate) fn placed(value: String, at: Pos) -> Self {
        Self {
            value,
            at,
            missing: false,
        }
    }

    /// Stands in for a value whose absence has been reported; nothing more is said about it.
    pub(crate) fn missing(at: Pos) -> Self {
        Self {
            value: String::new(),
            at,
            missing: true,
        }
    }

    pub(crate) fn at(&self) -> Pos {
        self.at
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.missing
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.value
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.value)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.value)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
