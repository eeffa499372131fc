//! IceGrid's properties of a node that say how servers are run (`icegrid-glacier2.md` §9).

use std::path::Path;
use std::time::Duration;

use crate::model::NodeSettings;

/// The longest time that a property may say; nobody means more than a year.
const LONGEST: i64 = 366 * 24 * 3600;

/// A property that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("property {name} is '{value}': {problem}")]
pub struct ValueError {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Reads what a site says of its nodes. Paths are below OMERODIR unless they are absolute.
pub fn node_settings(
    omero_dir: &Path,
    get: impl Fn(&str) -> Option<String>,
) -> Result<NodeSettings, ValueError> {
    let some = |name: &str| get(name).filter(|value| !value.trim().is_empty());
    let number = |name: &'static str| match some(name) {
        None => Ok(None),
        Some(text) => match text.trim().parse::<i64>() {
            Ok(number) if number <= LONGEST => Ok(Some(number)),
            _ => Err(ValueError {
                name,
                value: text,
                problem: "this is no whole number, or too large a one",
            }),
        },
    };
    let seconds = |number: i64| u64::try_from(number).ok().map(Duration::from_secs);
    const OVERRIDE: &str = "IceGrid.Node.PropertiesOverride";
    let overrides = some(OVERRIDE).unwrap_or_default();
    let properties = words(&overrides).ok_or_else(|| ValueError {
        name: OVERRIDE,
        value: overrides.clone(),
        problem: "a quotation mark has no second one",
    })?;
    let property = |word: String| {
        let word = word.strip_prefix("--").unwrap_or(&word);
        let (name, value) = word.split_once('=').unwrap_or((word, "1"));
        (name.to_owned(), value.to_owned())
    };
    Ok(NodeSettings {
        output: some("IceGrid.Node.Output").map(|dir| omero_dir.join(dir.trim())),
        is_one_file: number("IceGrid.Node.RedirectErrToOut")?.is_some_and(|n| n > 0),
        wait: number("IceGrid.Node.WaitTime")?
            .and_then(seconds)
            .filter(|wait| !wait.is_zero()),
        pause: number("IceGrid.Node.DisableOnFailure")?
            .and_then(seconds)
            .unwrap_or_default(),
        properties: properties.into_iter().map(property).collect(),
    })
}

/// Splits a list at blanks and commas that are not between quotation marks; nothing if such a mark is alone.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if open == c => quote = None,
            (None, c) if c == ',' || c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)]) -> Result<NodeSettings, ValueError> {
        node_settings(Path::new("/site"), |name| {
            let found = properties.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_not_said_is_as_it_was() {
        assert_eq!(of(&[]).unwrap(), NodeSettings::default());
        let nothing = [
            ("IceGrid.Node.Output", " "),
            ("IceGrid.Node.RedirectErrToOut", "0"),
            ("IceGrid.Node.WaitTime", "0"),
            ("IceGrid.Node.DisableOnFailure", "-1"),
            ("IceGrid.Node.PropertiesOverride", ""),
        ];
        assert_eq!(of(&nothing).unwrap(), NodeSettings::default());
    }

    #[test]
    fn each_property_is_read() {
        let read = of(&[
            ("IceGrid.Node.Output", "var/out"),
            ("IceGrid.Node.RedirectErrToOut", "1"),
            ("IceGrid.Node.WaitTime", "7"),
            ("IceGrid.Node.DisableOnFailure", "30"),
            (
                "IceGrid.Node.PropertiesOverride",
                "a.b=1, --c=\"two words\",d e='x,y'z",
            ),
        ]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = NodeSettings {
            output: Some("/site/var/out".into()),
            is_one_file: true,
            wait: Some(Duration::from_secs(7)),
            pause: Duration::from_secs(30),
            properties: vec![
                pair("a.b", "1"),
                pair("c", "two words"),
                pair("d", "1"),
                pair("e", "x,yz"),
            ],
        };
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn nonsense_is_refused() {
        for (name, value) in [
            ("IceGrid.Node.WaitTime", "soon"),
            ("IceGrid.Node.DisableOnFailure", "99999999999"),
            ("IceGrid.Node.RedirectErrToOut", "yes"),
            ("IceGrid.Node.PropertiesOverride", "a='b"),
        ] {
            let error = of(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
