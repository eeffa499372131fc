//! Lists in JSON as values: `config append` and `config remove` (`omero.md` §3.3). Pure.

use serde_json::Value;
use serde_json::value::RawValue;

/// A list that cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListError {
    /// What was typed is no JSON.
    #[error("'{0}' is not JSON; text stands in quotation marks: '\"text\"'")]
    NotJson(String),
    /// What is there is no list.
    #[error("its value is not a list in JSON: {0}")]
    NotAList(String),
    /// It is not in the list.
    #[error("{0} is not in the list")]
    Absent(String),
}

/// Adds a value at the end of a list; with `once` only if it is not there. `None` if nothing changes.
pub(super) fn append(
    list: Option<&str>,
    value: &str,
    once: bool,
) -> Result<Option<String>, ListError> {
    let value = parse(value)?;
    let mut items = items(list.unwrap_or("[]"))?;
    if once && items.iter().any(|item| same(item, &value)) {
        return Ok(None);
    }
    items.push(value);
    Ok(Some(write(&items)))
}

/// Takes the first element away that is equal to a value.
pub(super) fn remove(list: &str, value: &str) -> Result<String, ListError> {
    let value = parse(value)?;
    let mut items = items(list)?;
    let at = items
        .iter()
        .position(|item| same(item, &value))
        .ok_or_else(|| ListError::Absent(value.get().to_owned()))?;
    items.remove(at);
    Ok(write(&items))
}

fn parse(text: &str) -> Result<Box<RawValue>, ListError> {
    serde_json::from_str(text.trim()).map_err(|_| ListError::NotJson(text.to_owned()))
}

/// The elements as they were written, so that those that stay keep their form.
fn items(list: &str) -> Result<Vec<Box<RawValue>>, ListError> {
    serde_json::from_str(list).map_err(|_| ListError::NotAList(list.to_owned()))
}

fn same(one: &RawValue, other: &RawValue) -> bool {
    let value = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    value(one) == value(other)
}

fn write(items: &[Box<RawValue>]) -> String {
    let items: Vec<&str> = items.iter().map(|item| item.get()).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_at_its_end() {
        let to = |list, value, once| append(list, value, once).unwrap();
        assert_eq!(to(None, "\"a\"", false).unwrap(), "[\"a\"]");
        assert_eq!(to(Some("[ 1,2 ]"), "[3]", false).unwrap(), "[1, 2, [3]]");
        assert_eq!(
            to(Some("[\"a\"]"), "\"a\"", false).unwrap(),
            "[\"a\", \"a\"]"
        );
        assert_eq!(to(Some("[{\"x\": 1}]"), "{ \"x\":1 }", true), None);
        let odd = append(Some("[{\"b\": 1, \"a\": 2}]"), "1", false)
            .unwrap()
            .unwrap();
        assert_eq!(
            odd, "[{\"b\": 1, \"a\": 2}, 1]",
            "what stays keeps its form"
        );
    }

    #[test]
    fn the_first_of_equal_elements_goes() {
        assert_eq!(remove("[1, \"a\", 1]", "1").unwrap(), "[\"a\", 1]");
        assert_eq!(remove("[\"a\"]", " \"a\" ").unwrap(), "[]");
        assert!(matches!(remove("[1]", "2"), Err(ListError::Absent(_))));
    }

    #[test]
    fn what_is_no_list_or_no_json_is_refused() {
        assert!(matches!(
            append(None, "text", false),
            Err(ListError::NotJson(_))
        ));
        assert!(matches!(
            append(Some("text"), "1", false),
            Err(ListError::NotAList(_))
        ));
        assert!(matches!(
            append(Some("{}"), "1", false),
            Err(ListError::NotAList(_))
        ));
        assert!(matches!(remove("7", "1"), Err(ListError::NotAList(_))));
    }
}
