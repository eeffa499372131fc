//! What a log says, read back: the counterpart of the lines and of the JSON that this program writes.

use serde_json::{Map, Value};
use tracing::Level;

/// Something that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, in microseconds since 1970. Lines know it to the millisecond.
    pub at_us: i64,
    /// How grave it is.
    pub level: Level,
    /// The module that says it.
    pub module: String,
    /// What it says, with its fields.
    pub text: String,
}

/// Reads a part of a log, in whichever of the two shapes it is. A line that begins no entry goes on with the one before; without one before it
/// is left out.
pub fn entries(log: &str) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    for line in log.lines() {
        match (of_json(line).or_else(|| of_line(line)), all.last_mut()) {
            (Some(entry), _) => all.push(entry),
            (None, Some(last)) => {
                last.text.push('\n');
                last.text.push_str(line);
            }
            (None, None) => {}
        }
    }
    all
}

/// Reads `2026-01-01 12:00:00,123 INFO  [module] (thread) text`.
fn of_line(line: &str) -> Option<Entry> {
    let (time, rest) = line.split_at_checked("2026-01-01 12:00:00,123".len())?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    let (module, rest) = rest.trim_start().strip_prefix('[')?.split_once("] (")?;
    let (_, text) = rest.split_once(") ")?;
    let at: jiff::civil::DateTime = time.replace(',', ".").parse().ok()?;
    let at = jiff::tz::TimeZone::system().to_timestamp(at).ok()?;
    Some(Entry {
        at_us: at.as_microsecond(),
        level: level.parse().ok()?,
        module: module.to_owned(),
        text: text.to_owned(),
    })
}

/// Reads an object with `timestamp`, `level`, `target` and `message`; whatever else is in it are fields.
fn of_json(line: &str) -> Option<Entry> {
    if !line.starts_with('{') {
        return None;
    }
    let mut object: Map<String, Value> = serde_json::from_str(line).ok()?;
    let mut take = |name: &str| match object.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let at: jiff::Timestamp = take("timestamp")?.parse().ok()?;
    let level = take("level")?.parse().ok()?;
    let target = take("target")?;
    let mut text = take("message").unwrap_or_default();
    for (name, value) in &object {
        text.push_str(&format!(" {name}={value}"));
    }
    Some(Entry {
        at_us: at.as_microsecond(),
        level,
        module: target.rsplit("::").next().unwrap_or_default().to_owned(),
        text,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_written_in_either_shape_is_read_back() {
        let (lines, json) = (Written::default(), Written::default());
        let (to_lines, to_json) = (lines.clone(), json.clone());
        let layers = vec![
            super::super::line::layer(
                move || to_lines.clone(),
                tracing_subscriber::filter::LevelFilter::TRACE,
            ),
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(move || to_json.clone())
                .boxed(),
        ];
        let before = jiff::Timestamp::now().as_microsecond() - 1000;
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layers), || {
            tracing::warn!(node = "n", "low on (some) [thing]");
            tracing::info!("two\nlines");
        });
        let after = jiff::Timestamp::now().as_microsecond();
        for (written, fields) in [(lines, r#" node="n""#), (json, r#" node="n""#)] {
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            let read = entries(&text);
            assert_eq!(read.len(), 2, "{text}");
            for entry in &read {
                assert!((before..=after).contains(&entry.at_us), "{entry:?} {text}");
                assert_eq!(entry.module, "tests");
            }
            assert_eq!(
                (read[0].level, read[0].text.as_str()),
                (
                    Level::WARN,
                    format!("low on (some) [thing]{fields}").as_str()
                )
            );
            assert_eq!(
                (read[1].level, read[1].text.as_str()),
                (Level::INFO, "two\nlines")
            );
        }
    }

    #[test]
    fn what_is_none_of_this_begins_no_entry() {
        for line in [
            "",
            "{",
            "{}",
            "é",
            "2026-13-01 12:00:00,123 INFO  [m] (t) x",
            "2026-01-01 12:00:00,123 LOUD  [m] (t) x",
            "2026-01-01 12:00:00,123 INFO  [m] (t",
            r#"{"timestamp":"yesterday","level":"INFO","target":"m","message":"x"}"#,
        ] {
            assert_eq!(entries(line), [], "{line}");
        }
        let two = "rest\n2026-01-01 12:00:00,123 INFO  [m] (t) x\nmore";
        let read = entries(two);
        assert_eq!((read.len(), read[0].text.as_str()), (1, "x\nmore"));
    }
}
