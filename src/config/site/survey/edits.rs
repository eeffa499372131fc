//! What somebody changed in a file that OMERO generates: compared by its elements, since OMERO's own rewriting keeps neither comments nor
//! blanks. What that rewriting does otherwise than ours (`omero.md` §5.5, §5.6) is no change.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::traps::is_secret;
use super::super::{SiteFiles, Values};
use crate::descriptor::xml::{Event, Reader, decode};
use crate::descriptor::{Disk, KINDS, MAX_FILE, Source};

/// Returns what is in a generated file alone, and what its template and the configuration would put there besides; in words.
pub(super) fn of(
    generated: &Path,
    values: &Values,
    java_options: &[String],
) -> Result<Vec<String>, String> {
    let read = |source: &dyn Source| -> Result<Elements, String> {
        let bytes = source
            .read(generated, MAX_FILE)
            .map_err(|error| error.to_string())?;
        elements(&decode(bytes)?, values, java_options)
    };
    let mut count = read(&Disk)?;
    for (element, number) in read(&SiteFiles)? {
        *count.entry(element).or_default() -= number;
    }
    let edits = count.into_iter().filter(|(_, number)| *number != 0);
    Ok(edits
        .map(|((element, _), number)| match number > 0 {
            true => format!("{element} was added"),
            false => format!("{element} is missing"),
        })
        .collect())
}

/// How often each element is there: as it is shown, and as it is.
type Elements = BTreeMap<(String, String), i64>;

/// An element that is being read.
struct Open {
    /// Its name and attributes, as they are shown.
    shown: String,
    /// Its name and attributes.
    head: String,
    /// What it is called by those within it.
    label: String,
    text: String,
    ignored: bool,
}

/// Counts the elements of a file; each is named with those around it.
fn elements(text: &str, values: &Values, java_options: &[String]) -> Result<Elements, String> {
    let mut reader = Reader::new(0, text);
    let mut open: Vec<Open> = Vec::new();
    let mut count = BTreeMap::new();
    loop {
        match reader.next().map_err(|error| error.message)? {
            Event::Start(element) => {
                let mut head = element.name.clone();
                let mut attributes: Vec<(&str, &str)> = element
                    .attributes
                    .iter()
                    .map(|a| (a.name.as_str(), a.value.as_str()))
                    .collect();
                attributes.sort_unstable();
                let is_secret = attributes
                    .iter()
                    .any(|(name, value)| *name == "name" && is_secret(value));
                let mut shown = head.clone();
                for (name, value) in &attributes {
                    head.push_str(&format!(" {name}=\"{value}\""));
                    let value = match is_secret && *name == "value" {
                        true => "********",
                        false => value,
                    };
                    shown.push_str(&format!(" {name}=\"{value}\""));
                }
                let naming = ["id", "name", "template"];
                let name = naming.iter().find_map(|wanted| {
                    let mut attributes = attributes.iter();
                    attributes.find(|(name, _)| name == wanted)
                });
                let label = match name {
                    Some((_, value)) => format!("{} {value}", element.name),
                    None => element.name.clone(),
                };
                let property = attributes.iter().find(|(name, _)| *name == "name");
                let ignored = element.name == "property"
                    && property.is_some_and(|(_, name)| is_rewritten(name, values));
                open.push(Open {
                    shown,
                    head,
                    label,
                    text: String::new(),
                    ignored,
                });
            }
            Event::Text(text) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&text);
                }
            }
            Event::End { .. } => {
                let Some(element) = open.pop() else { continue };
                let text = element.text.trim();
                let ignored =
                    element.ignored || element.label == "option" && is_of_java(text, java_options);
                if !ignored {
                    let labels = open.iter().map(|around| around.label.as_str());
                    let around: Vec<&str> = labels.filter(|label| *label != "icegrid").collect();
                    let whole = |head: &str| {
                        let whole = format!("<{head}>{text}");
                        let mut name = around.clone();
                        name.push(&whole);
                        name.join(", ")
                    };
                    let element = (whole(&element.shown), whole(&element.head));
                    *count.entry(element).or_default() += 1;
                }
            }
            Event::Eof => return Ok(count),
        }
    }
}

/// Whether a property is put there by the rewriting, by rules that are not OMERO's in every detail.
fn is_rewritten(name: &str, values: &Values) -> bool {
    let of_kind = |kind: &&str| values.contains_key(&format!("{name}.{kind}"));
    name.starts_with("IceSSL.") || name.starts_with("REPLACEMENT:") || KINDS.iter().any(of_kind)
}

/// Whether an option is one of those that follow from the memory of the machine and the configuration.
fn is_of_java(option: &str, java_options: &[String]) -> bool {
    option.starts_with("-Xmx")
        || option.starts_with("MEMORY:")
        || java_options.iter().any(|known| known == option)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> Elements {
        let values = [("omero.a.blitz".to_owned(), "1".to_owned())].into();
        elements(text, &values, &["-Dx".to_owned()]).unwrap()
    }

    #[test]
    fn comments_order_of_attributes_and_memory_are_no_changes() {
        let template = r#"<icegrid><!-- c --><server id="S" exe="e">
            <option>MEMORY:blitz</option><option>-jar</option><property name="REPLACEMENT:blitz" value="x"/>
            <property name="omero.b" value="1"/></server></icegrid>"#;
        let written = r#"<icegrid><server exe="e" id="S"><option>-Xmx7m</option><option>-Dx</option><option>-jar</option>
            <property name="omero.a" value="1" /><property value="1" name="omero.b"></property></server></icegrid>"#;
        assert_eq!(counted(template), counted(written));
        let edited = written.replace("-jar", "-cp");
        assert_ne!(counted(template), counted(&edited));
        assert!(
            counted(&edited)
                .keys()
                .any(|(shown, _)| shown == "server S, <option>-cp"),
            "{:?}",
            counted(&edited)
        );
        assert!(elements("<a><b></a>", &Values::new(), &[]).is_err());
    }

    #[test]
    fn a_password_is_compared_and_not_shown() {
        let of = |pass: &str| {
            counted(&format!(
                r#"<icegrid><property name="omero.db.pass" value="{pass}"/></icegrid>"#
            ))
        };
        assert_ne!(of("one"), of("two"));
        let shown = of("one").into_keys().map(|(shown, _)| shown);
        let expected = r#"<property name="omero.db.pass" value="********">"#;
        assert_eq!(
            shown
                .filter(|shown| shown.contains("pass"))
                .collect::<Vec<_>>(),
            [expected]
        );
    }
}
