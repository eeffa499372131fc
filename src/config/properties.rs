//! Properties of Ice: files, and options of the command line (`Ice.Config`, `--Name=Value`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Properties of Ice by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    values: BTreeMap<String, String>,
    /// Lines that were no entries.
    wrong: Vec<String>,
}

/// A file of properties that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the configuration file {path}")]
pub struct PropertiesError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Properties {
    /// Takes options of properties from a command line: those whose names begin with one of these words, with a dot behind it. The files
    /// of `Ice.Config`, or of the environment variable `ICE_CONFIG`, are read first. Returns what is no such option.
    pub fn of_arguments(
        prefixes: &[&str],
        arguments: Vec<String>,
    ) -> Result<(Self, Vec<String>), PropertiesError> {
        let (mut options, mut rest) = (Vec::new(), Vec::new());
        for argument in arguments {
            let option = argument
                .strip_prefix("--")
                .filter(|option| {
                    let mut prefixes = prefixes.iter();
                    prefixes.any(|prefix| {
                        option
                            .strip_prefix(prefix)
                            .is_some_and(|more| more.starts_with('.'))
                    })
                })
                .map(|option| option.split_once('=').unwrap_or((option, "1")));
            match option {
                Some((name, value)) => options.push((name.to_owned(), value.to_owned())),
                None => rest.push(argument),
            }
        }
        let named = options
            .iter()
            .rev()
            .find(|(name, _)| name == "Ice.Config")
            .map(|(_, value)| value.clone())
            .filter(|files| !files.is_empty() && files != "1");
        let named = named.or_else(|| std::env::var("ICE_CONFIG").ok());
        let mut properties = Self::default();
        for file in named.iter().flat_map(|files| files.split(',')) {
            let file = file.trim();
            if !file.is_empty() {
                properties.read(Path::new(file))?;
            }
        }
        for (name, value) in options {
            properties.set(name, value);
        }
        Ok((properties, rest))
    }

    /// Reads a file; its values replace those that are there.
    pub fn read(&mut self, path: &Path) -> Result<(), PropertiesError> {
        let bytes = std::fs::read(path).map_err(|source| PropertiesError {
            path: path.to_owned(),
            source,
        })?;
        self.add(&String::from_utf8_lossy(&bytes));
        Ok(())
    }

    /// Reads what is in a file.
    pub fn add(&mut self, text: &str) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for line in text.lines() {
            match entry(line) {
                Entry::Empty => {}
                Entry::Wrong => self.wrong.push(line.trim().to_owned()),
                Entry::Of(name, value) => self.set(name, value),
            }
        }
    }

    /// Sets a property; an empty value takes it away.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match value.is_empty() {
            true => self.values.remove(&name),
            false => self.values.insert(name, value),
        };
    }

    /// Returns a value; an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns whether a property is a number other than 0.
    pub fn is_set(&self, name: &str) -> bool {
        let value = self.get(name).and_then(|value| value.trim().parse().ok());
        value.is_some_and(|number: i64| number != 0)
    }

    /// Returns all properties, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let values = self.values.iter();
        values.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the lines of files that were no entries.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

/// A line of a file.
enum Entry {
    Empty,
    Wrong,
    Of(String, String),
}

/// Reads a line: a name, an equals sign, a value. A backslash protects itself, `#`, `=` and a blank, and is otherwise one. Blanks around name
/// and value are dropped unless they are protected.
fn entry(line: &str) -> Entry {
    let mut chars = line.chars();
    let mut name = Part::default();
    let mut value = Part::default();
    let mut in_value = false;
    while let Some(c) = chars.next() {
        let part = if in_value { &mut value } else { &mut name };
        match c {
            '#' => break,
            '=' if !in_value => in_value = true,
            '\\' => match chars.next() {
                Some(c @ ('\\' | '#' | '=')) => part.put(c),
                Some(' ') => part.blank(' ', in_value),
                Some(c) => {
                    part.put('\\');
                    part.put(c);
                }
                None => part.put('\\'),
            },
            c if c.is_ascii_whitespace() => part.blank(c, false),
            c => part.put(c),
        }
    }
    let (name, value) = (name.text, value.end());
    match (name.is_empty(), in_value) {
        (true, false) => Entry::Empty,
        (true, true) | (false, false) => Entry::Wrong,
        (false, true) => Entry::Of(name, value),
    }
}

/// A name or a value while it is read.
#[derive(Default)]
struct Part {
    text: String,
    /// Blanks that count if something follows.
    blanks: String,
    /// How many bytes of the blanks count in any case.
    kept: String,
}

impl Part {
    fn put(&mut self, c: char) {
        let blanks = match self.text.is_empty() {
            true => &self.kept,
            false => &self.blanks,
        };
        self.text.push_str(blanks);
        self.blanks.clear();
        self.kept.clear();
        self.text.push(c);
    }

    fn blank(&mut self, c: char, is_kept: bool) {
        if is_kept {
            self.kept.push(c);
        }
        if is_kept || !self.text.is_empty() {
            self.blanks.push(c);
        }
    }

    fn end(mut self) -> String {
        self.text.push_str(&self.kept);
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_ice_reads_them() {
        let table = [
            ("a=b", "a", "b"),
            ("  a.b =  c d  ", "a.b", "c d"),
            ("a=b # c", "a", "b"),
            (r"a=b \# c", "a", "b # c"),
            (r"a\=b=c=d", "a=b", "c=d"),
            (r"a=C:\dir\\x", "a", r"C:\dir\x"),
            (r"a=\ \ x\ ", "a", "  x "),
            (r"a=x\", "a", r"x\"),
            (
                "a=IceGrid/Locator:tcp -h h -p 4061\r",
                "a",
                "IceGrid/Locator:tcp -h h -p 4061",
            ),
        ];
        for (line, name, value) in table {
            let mut properties = Properties::default();
            properties.add(line);
            assert_eq!(properties.get(name), Some(value), "{line}");
        }
    }

    #[test]
    fn an_empty_value_takes_a_property_away_and_wrong_lines_are_known() {
        let mut properties = Properties::default();
        properties.add("\u{feff}a=1\n# c\n\nb=2\na=\nnonsense\n=x\n");
        assert_eq!(properties.iter().collect::<Vec<_>>(), [("b", "2")]);
        assert_eq!(properties.wrong(), ["nonsense", "=x"]);
        assert!(properties.is_set("b"));
        assert!(!properties.is_set("a"));
    }

    #[test]
    fn options_are_stronger_than_files_and_later_files_than_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let a = file("a", "Ice.X=1\nIce.Y=1\nOther.Z=1");
        let b = file("b", "Ice.Y=2\n");
        let arguments = [
            "-e",
            "node list",
            "--IceGrid.Q",
            "--Ice.W=w",
            "--Icefoo=1",
            "--x",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.push(format!("--Ice.Config={a}, {b}"));
        let (properties, rest) =
            Properties::of_arguments(&["Ice", "IceGrid"], arguments.clone()).unwrap();
        assert_eq!(rest, ["-e", "node list", "--Icefoo=1", "--x"]);
        for (name, value) in [
            ("Ice.X", "1"),
            ("Ice.Y", "2"),
            ("Other.Z", "1"),
            ("Ice.W", "w"),
            ("IceGrid.Q", "1"),
        ] {
            assert_eq!(properties.get(name), Some(value), "{name}");
        }
        arguments.push("--Ice.Config=/nonexistent/x".to_owned());
        assert!(Properties::of_arguments(&["Ice"], arguments).is_err());
    }
}
