//! The properties that a grid knows: what they are for, what their values may be, and whether a change waits for a restart.
//!
//! One table (`table.rs`) is the source of `config parse`, of the warnings of `config set`, of what `config explain` shows as default,
//! and of what a running server is told ([`is_live`]). A key that is not in it is none of the grid's business, and passes.

mod table;

use self::table::KEYS;

/// A property, or a family of them.
#[derive(Debug)]
pub struct Key {
    /// Its name; of a family with one part in capitals that stands for any: `omero.grid.route.N`.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What counts where nothing is set; empty for nothing.
    pub default: &'static str,
    /// Whether a change takes effect at once.
    pub live: bool,
    /// What to use instead, for one that is no longer to be used; empty for one that is.
    pub instead: &'static str,
    /// What it is for.
    pub about: &'static str,
}

/// What the values of a property are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number from 0.
    Count,
    /// A number above 0, which may have a fraction.
    Weight,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// A port of TCP.
    Port,
    /// A size of memory: a number of MB, or with `b`, `k`, `m` or `g`, or an option that begins with `-X`.
    Memory,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A file or directory.
    Path,
    /// Words with commas between.
    List,
    /// Anything.
    Text,
}

impl Kind {
    /// Returns what a value has to be, in words.
    pub fn words(self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Count => "a whole number".to_owned(),
            Self::Weight => "a number above 0".to_owned(),
            Self::Milliseconds => "a whole number of milliseconds".to_owned(),
            Self::Seconds => "a whole number of seconds".to_owned(),
            Self::Port => "a port number".to_owned(),
            Self::Memory => "a size of memory, such as 512m".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Path => "a path".to_owned(),
            Self::List => "words with commas between".to_owned(),
            Self::Text => "text".to_owned(),
        }
    }

    /// Returns the name of the type, for `config parse`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Count => "integer",
            Self::Weight => "number",
            Self::Milliseconds => "milliseconds",
            Self::Seconds => "seconds",
            Self::Port => "port",
            Self::Memory => "memory",
            Self::Choice(_) => "choice",
            Self::Path => "path",
            Self::List => "list",
            Self::Text => "text",
        }
    }

    fn admits(self, value: &str) -> bool {
        // Replaced where the value is used: nothing can be said of it here.
        if value.contains("${") || value.contains("@{") {
            return true;
        }
        match self {
            Self::Boolean => matches!(value, "true" | "false"),
            Self::Count | Self::Milliseconds | Self::Seconds => value.parse::<u64>().is_ok(),
            Self::Weight => value
                .parse::<f64>()
                .is_ok_and(|weight| weight.is_finite() && weight > 0.0),
            Self::Port => value.is_empty() || value.parse::<u16>().is_ok(),
            Self::Memory => {
                let digits = value.trim_end_matches(['b', 'k', 'm', 'g', 'B', 'K', 'M', 'G']);
                value.starts_with("-X") || digits.parse::<f64>().is_ok_and(|size| size > 0.0)
            }
            Self::Choice(words) => words.contains(&value),
            Self::Path | Self::List | Self::Text => true,
        }
    }
}

/// Something about a setting that is hardly meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The value is none for this key.
    #[error("{key} has to be {allowed}, not '{value}'")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it has to be.
        allowed: String,
    },
    /// The key is unknown, and like one that is known.
    #[error("{key} is not known; is {like} meant?")]
    Key {
        /// The key.
        key: String,
        /// The one that is known.
        like: &'static str,
    },
    /// The key is no longer to be used.
    #[error("{key} is deprecated: {instead}")]
    Deprecated {
        /// The key.
        key: String,
        /// What to use instead.
        instead: &'static str,
    },
}

/// Returns every property, in the order of their names.
pub fn all() -> &'static [Key] {
    KEYS
}

/// Looks a key up, also as a member of a family and as `KEY.KIND`.
pub fn lookup(key: &str) -> Option<&'static Key> {
    let find = |key: &str| KEYS.iter().find(|known| is(known.name, key));
    find(key).or_else(|| {
        let (key, kind) = key.rsplit_once('.')?;
        find(key).filter(|_| crate::descriptor::KINDS.contains(&kind))
    })
}

/// Says what is doubtful about a setting.
pub fn doubt(key: &str, value: &str) -> Option<Doubt> {
    let Some(known) = lookup(key) else {
        let like = near_miss(key)?;
        return Some(Doubt::Key {
            key: key.to_owned(),
            like,
        });
    };
    if !value.is_empty() && !known.kind.admits(value) {
        return Some(Doubt::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            allowed: known.kind.words(),
        });
    }
    (!known.instead.is_empty()).then(|| Doubt::Deprecated {
        key: key.to_owned(),
        instead: known.instead,
    })
}

/// Returns the known key that an unknown one is like: one slip of the finger away, or two in a long name.
fn near_miss(key: &str) -> Option<&'static str> {
    let names = KEYS.iter().map(|known| known.name);
    let (distance, name) = names
        .map(|name| (strsim::damerau_levenshtein(name, key), name))
        .min()?;
    let tolerated = if key.len() >= 16 { 2 } else { 1 };
    (distance <= tolerated).then_some(name)
}

/// Returns whether a key is this one, or of this family.
fn is(name: &str, key: &str) -> bool {
    let is_any = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase());
    let (mut names, mut keys) = (name.split('.'), key.split('.'));
    loop {
        match (names.next(), keys.next()) {
            (None, None) => return true,
            (Some(name), Some(key)) if name == key || (is_any(name) && !key.is_empty()) => {}
            _ => return false,
        }
    }
}

/// Returns whether a change of this property takes effect without a restart of the servers that have it.
pub fn is_live(key: &str) -> bool {
    lookup(key).is_some_and(|known| known.live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_itself_as_of_a_family_and_of_a_kind_of_server() {
        for (key, expected) in [
            ("omero.grid.route.7", "omero.grid.route.N"),
            ("omero.sessions.timeout.blitz", "omero.sessions.timeout"),
            ("omero.jvmcfg.percent.indexer", "omero.jvmcfg.percent.KIND"),
            ("omero.db.host", "omero.db.host"),
        ] {
            assert_eq!(lookup(key).map(|known| known.name), Some(expected), "{key}");
        }
        for key in [
            "omero.grid.route",
            "omero.grid.route.",
            "omero.sessions.timeout.x",
        ] {
            assert!(lookup(key).is_none(), "{key}");
        }
    }

    #[test]
    fn a_name_is_live_by_itself_or_by_its_family() {
        assert!(is_live("omero.cluster.redirector"));
        assert!(is_live("omero.grid.route.1"));
        assert!(is_live("omero.sessions.timeout.blitz"));
        assert!(!is_live("omero.grid.route"));
        assert!(!is_live("omero.cluster.redirectors"));
        assert!(!is_live("omero.data.dir"));
    }

    #[test]
    fn doubts_are_about_what_is_known() {
        let say = |key: &str, value: &str| doubt(key, value).map(|doubt| doubt.to_string());
        let said = |key: &str, value: &str, part: &str| {
            let text = say(key, value).unwrap_or_default();
            assert!(text.contains(part), "{key}={value}: {text}");
        };
        said("omero.sessions.timeout", "soon", "milliseconds");
        said("omero.cluster.read_only.db", "yes", "true or false");
        said("omero.cluster.redirector", "config", "configRedirector");
        said(
            "omero.sesions.timeout",
            "1",
            "is omero.sessions.timeout meant",
        );
        said("omero.cluster.read_only", "true", "deprecated");
        said("omero.grid.weight", "0", "above 0");
        for (key, value) in [
            ("omero.sessions.timeout", "1000"),
            ("omero.sessions.timeout", ""),
            ("omero.web.server_list", "[]"),
            ("omero.db.port", "${port}"),
            ("omero.jvmcfg.heap_size.blitz", "1.5g"),
            ("my.own", "x"),
        ] {
            assert_eq!(say(key, value), None, "{key}={value}");
        }
    }

    #[test]
    fn the_table_is_in_order_and_its_defaults_are_allowed() {
        assert!(KEYS.is_sorted_by_key(|key| key.name));
        for key in KEYS {
            let ok = key.default.is_empty() || key.kind.admits(key.default);
            assert!(ok, "{}={}", key.name, key.default);
            assert!(key.about.ends_with('.'), "{}", key.name);
        }
    }

    /// Whoever adds a property of ours adds it to the table.
    #[test]
    fn every_property_of_ours_is_in_the_table() {
        let mut left = vec![std::path::PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src"
        ))];
        let mut seen = 0;
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for part in code
                .split('"')
                .filter(|part| part.starts_with("omero.grid."))
            {
                let is_name = part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_'));
                if is_name && !part.ends_with('.') && part.contains('.') {
                    let family = KEYS
                        .iter()
                        .any(|known| known.name.starts_with(&format!("{part}.")));
                    assert!(
                        family || lookup(part).is_some(),
                        "{part} in {}",
                        path.display()
                    );
                    seen += 1;
                }
            }
        }
        assert!(seen > 10);
    }
}
