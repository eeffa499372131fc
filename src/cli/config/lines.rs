//! Settings as lines, `key=value`: what `config load` reads and `config edit` shows (`omero.md` §3.3). Pure.

use crate::config::{ConfigError, check_name};
use crate::descriptor::Property;

/// Reads lines: `#` begins a comment, a `\` at the end of a line goes on in the next, without a `=` the value is empty.
///
/// Of a key that is there twice the last value counts.
pub(super) fn parse(text: &str) -> Result<Vec<Property>, ConfigError> {
    let mut settings: Vec<Property> = Vec::new();
    let mut begun = String::new();
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        let whole = match line.strip_suffix('\\') {
            Some(part) => {
                begun.push_str(part);
                continue;
            }
            None => std::mem::take(&mut begun) + line,
        };
        add(&mut settings, &whole)?;
    }
    add(&mut settings, &begun)?;
    Ok(settings)
}

fn add(settings: &mut Vec<Property>, line: &str) -> Result<(), ConfigError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    let (key, value) = (key.trim(), value.trim());
    check_name(key)?;
    settings.retain(|(known, _)| known != key);
    settings.push((key.to_owned(), value.to_owned()));
    Ok(())
}

/// Writes lines that [`parse`] reads again; a value with line breaks is no such line and stays out, by name.
pub(super) fn write(settings: &[Property]) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut left_out = Vec::new();
    for (key, value) in settings {
        let plain =
            value.trim() == value && !value.contains(['\n', '\r']) && !value.ends_with('\\');
        if plain {
            text.push_str(&format!("{key}={value}\n"));
        } else {
            left_out.push(key.clone());
        }
    }
    (text, left_out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(settings: &[(&str, &str)]) -> Vec<Property> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        settings.iter().map(owned).collect()
    }

    #[test]
    fn reads_what_omero_reads() {
        let text = "# comment\n\na=1\r\n b = two words \nlong=x\\\n,y\nempty=\nflag\na=2\neq=x=y\n";
        let expected = [
            ("b", "two words"),
            ("long", "x,y"),
            ("empty", ""),
            ("flag", ""),
            ("a", "2"),
            ("eq", "x=y"),
        ];
        assert_eq!(parse(text).unwrap(), pairs(&expected));
        assert!(matches!(parse("a b=1"), Err(ConfigError::Name(_))));
        assert!(matches!(parse("=1"), Err(ConfigError::Name(_))));
        assert_eq!(parse("a=1\\").unwrap(), pairs(&[("a", "1")]));
    }

    #[test]
    fn what_is_no_line_is_left_out_by_name() {
        let (text, left_out) = write(&pairs(&[
            ("a", "1"),
            ("b", "1\n2"),
            ("c", "\\"),
            ("d", " "),
        ]));
        assert_eq!(text, "a=1\n");
        assert_eq!(left_out, ["b", "c", "d"]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            settings in prop::collection::btree_map("[a-z.]{1,5}", "[ -~\n\\\\]{0,8}", 0..8),
        ) {
            let settings: Vec<Property> = settings.into_iter().collect();
            let (text, left_out) = write(&settings);
            let kept: Vec<_> = settings.into_iter().filter(|(key, _)| !left_out.contains(key)).collect();
            prop_assert_eq!(parse(&text).unwrap(), kept);
        }
    }
}
