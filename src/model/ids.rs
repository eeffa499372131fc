//! One type per kind of name, so that a node is never taken for a server.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest node name or server id, in bytes: `ID.out.1` has to fit into a file name.
const MAX_NAME: usize = 200;

/// Names below `var/` that belong to the grid (DESIGN.md §4); neither a node nor a server may take one.
const RESERVED: [&str; 6] = ["grid", "log", "run", "data", "grid.db", "root-password"];

/// A node name or server id that cannot be used as a file name below `var/`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than 200 bytes.
    #[error("the name has {0} bytes; at most {MAX_NAME} fit into a file name")]
    TooLong(usize),
    /// The name contains `/`.
    #[error("'{0}' contains '/', which would leave the directory of the grid")]
    Slash(String),
    /// The name begins with a dot.
    #[error("'{0}' begins with a dot")]
    LeadingDot(String),
    /// The name contains a control character.
    #[error("{0:?} contains a control character")]
    Control(String),
    /// The name is one of the grid's own directories.
    #[error("'{0}' is a name of the grid's own below var/")]
    Reserved(String),
}

fn validate(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        Err(InvalidName::Empty)
    } else if name.len() > MAX_NAME {
        Err(InvalidName::TooLong(name.len()))
    } else if name.contains('/') {
        Err(InvalidName::Slash(name.to_owned()))
    } else if name.starts_with('.') {
        Err(InvalidName::LeadingDot(name.to_owned()))
    } else if name.chars().any(char::is_control) {
        Err(InvalidName::Control(name.to_owned()))
    } else if RESERVED.contains(&name) {
        Err(InvalidName::Reserved(name.to_owned()))
    } else {
        Ok(())
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                validate(&name)?;
                Ok(Self(name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::try_from(name.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a node: a process that supervises servers. Safe as a file name.
    NodeName
}

name_type! {
    /// The id of a server, unique in the grid. Safe as a file name.
    ServerId
}

/// The id of a replica group: adapters that answer as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaGroupId(pub String);

/// The UUID of a user's session.
///
/// It works as a password in OMERO, so `Display` and `Debug` show the first eight characters only;
/// [`SessionId::reveal`] gives the whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

impl SessionId {
    /// Draws a new random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Parses the hyphenated form; `None` if the text is no UUID.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Returns the first id whose hyphenated form may begin with `prefix`; `None` if none can.
    pub fn first_with(prefix: &str) -> Option<Self> {
        const NIL: &str = "00000000-0000-0000-0000-000000000000";
        Self::parse(&format!("{prefix}{}", NIL.get(prefix.len()..)?))
    }

    /// Returns the whole UUID. Whoever sees it can join the session.
    pub fn reveal(&self) -> String {
        self.0.hyphenated().to_string()
    }

    /// Returns the first eight characters, which are safe to show.
    pub fn short(&self) -> String {
        let mut text = self.reveal();
        text.truncate(8);
        text
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.short())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({}…)", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_that_omero_uses() {
        for name in [
            "master",
            "Blitz-0",
            "OMERO.Glacier2",
            "with space",
            "ü",
            "a.b",
        ] {
            assert!(name.parse::<ServerId>().is_ok(), "{name}");
        }
    }

    #[test]
    fn refuses_names_that_are_no_file_names() {
        let long = "x".repeat(300);
        for name in [
            "", "../x", "a/b", ".hidden", "log", "grid", "run", "a\nb", &long,
        ] {
            assert!(name.parse::<NodeName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_session_id_shows_only_its_first_characters() {
        let id = SessionId::parse("0a1b2c3d-0000-4000-8000-000000000000").unwrap();
        assert_eq!(format!("{id} {id:?}"), "0a1b2c3d SessionId(0a1b2c3d…)");
    }
}
