//! The options of OMERO's Java virtual machines (`omero.md` §5.6).

use super::Values;
use crate::config::profile::ProfileError;

/// What is assumed of a machine that does not tell its memory, in MB.
const UNKNOWN: u64 = 4000;

/// The memory that percentages are taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// What the machine has, in MB of a million bytes.
    pub total_mb: u64,
}

impl Memory {
    /// Asks the system, unless the configuration says it.
    pub(super) fn of_this_machine(_: &Values) -> Self {
        let total = std::fs::read_to_string("/proc/meminfo").ok();
        let kib = total.and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        Self {
            total_mb: kib.map_or(UNKNOWN, |kib| kib * 1024 / 1_000_000),
        }
    }
}

/// A setting that is none.
#[derive(Debug, thiserror::Error)]
pub enum JvmError {
    /// The configuration cannot be read.
    #[error("cannot read the site's configuration")]
    Configuration(#[source] Box<ProfileError>),
    /// A value is not what it has to be.
    #[error("{key} is '{value}'; {allowed} is allowed")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// Text that a shell would not take either.
    #[error("{key}: the quotation marks in '{value}' do not match")]
    Quotes {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

/// The options of one kind of server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jvm {
    /// The kind: blitz, indexer, pixeldata or repository.
    pub kind: String,
    /// The heap first, then the others in their order.
    pub options: Vec<String>,
}

/// Looks a setting up: that of the kind, else that of all.
struct Settings<'v> {
    kind: &'v str,
    values: &'v Values,
}

impl<'v> Settings<'v> {
    fn get(&self, name: &str) -> Option<(String, &'v str)> {
        let of_kind = format!("omero.jvmcfg.{name}.{}", self.kind);
        let of_all = format!("omero.jvmcfg.{name}");
        [of_kind, of_all].into_iter().find_map(|key| {
            let value = self.values.get(&key).filter(|value| !value.is_empty())?;
            Some((key, value.as_str()))
        })
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, JvmError> {
        self.get(name).map_or(Ok(default), |(key, value)| {
            value.parse().map_err(|_| JvmError::Value {
                key,
                value: value.to_owned(),
                allowed: "a whole number",
            })
        })
    }

    fn choice(
        &self,
        name: &str,
        words: &[&'static str],
        allowed: &'static str,
    ) -> Result<&'static str, JvmError> {
        let Some((key, value)) = self.get(name) else {
            return Ok(words[0]);
        };
        let known = words.iter().find(|word| **word == value);
        known.copied().ok_or_else(|| JvmError::Value {
            key,
            value: value.to_owned(),
            allowed,
        })
    }
}

/// Computes the options of a kind of server.
pub(super) fn options(kind: &str, values: &Values, memory: &Memory) -> Result<Jvm, JvmError> {
    let settings = Settings { kind, values };
    let percent = match kind {
        "blitz" | "pixeldata" => 15,
        "indexer" | "repository" => 10,
        _ => 1,
    };
    let percent = settings.number("percent", percent)?;
    let strategy = settings.choice("strategy", &["percent", "manual"], "percent or manual")?;
    let total = settings.number("system_memory", memory.total_mb)?;
    let max = settings.number("max_system_memory", 48_000)?;
    let min = settings.number("min_system_memory", 3414)?;
    let heap = match settings.get("heap_size") {
        Some((_, size)) => heap_of(size),
        None if strategy == "manual" => heap_of("512m"),
        None => {
            let active = total.min(max).max(min);
            format!("-Xmx{}m", active.saturating_mul(percent) / 100)
        }
    };
    let mut options = vec![heap];
    let dump = settings.choice(
        "heap_dump",
        &["off", "on", "cwd", "tmp"],
        "off, on, cwd or tmp",
    )?;
    if dump != "off" {
        options.push("-XX:+HeapDumpOnOutOfMemoryError".to_owned());
    }
    if dump == "tmp" {
        let place = std::env::temp_dir();
        options.push(format!("-XX:HeapDumpPath={}", place.display()));
    }
    if let Some((key, value)) = settings.get("append") {
        let words = split(value).ok_or_else(|| JvmError::Quotes {
            key,
            value: value.to_owned(),
        })?;
        options.extend(words);
    }
    Ok(Jvm {
        kind: kind.to_owned(),
        options,
    })
}

fn heap_of(size: &str) -> String {
    if size.starts_with("-X") {
        size.to_owned()
    } else if size.bytes().all(|b| b.is_ascii_digit()) {
        format!("-Xmx{size}m")
    } else {
        format!("-Xmx{size}")
    }
}

/// Splits words as a shell does: quotation marks and backslashes protect blanks. `None` if one is not closed.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next()?),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn heap(kind: &str, total_mb: u64, pairs: &[(&str, &str)]) -> String {
        let jvm = options(kind, &values(pairs), &Memory { total_mb }).unwrap();
        jvm.options.join(" ")
    }

    #[test]
    fn heaps_are_those_of_omero() {
        for (total, large, small) in [
            (1000, 512, 341),
            (3414, 512, 341),
            (4000, 600, 400),
            (16_000, 2400, 1600),
            (32_000, 4800, 3200),
            (48_000, 7200, 4800),
            (500_000, 7200, 4800),
        ] {
            for kind in ["blitz", "pixeldata"] {
                assert_eq!(heap(kind, total, &[]), format!("-Xmx{large}m"));
            }
            for kind in ["indexer", "repository"] {
                assert_eq!(heap(kind, total, &[]), format!("-Xmx{small}m"));
            }
        }
    }

    #[test]
    fn settings_of_a_kind_are_stronger_and_a_size_beats_a_percentage() {
        let both = [
            ("omero.jvmcfg.percent", "20"),
            ("omero.jvmcfg.percent.blitz", "50"),
            ("omero.jvmcfg.system_memory", "10000"),
        ];
        assert_eq!(heap("blitz", 1, &both), "-Xmx5000m");
        assert_eq!(heap("indexer", 1, &both), "-Xmx2000m");
        for (size, expected) in [
            ("1024", "-Xmx1024m"),
            ("1g", "-Xmx1g"),
            ("-Xms64m", "-Xms64m"),
        ] {
            let sized = [("omero.jvmcfg.heap_size.blitz", size)];
            assert_eq!(heap("blitz", 16_000, &sized), expected);
            assert_eq!(heap("indexer", 16_000, &sized), "-Xmx1600m");
        }
        let manual = [("omero.jvmcfg.strategy", "manual")];
        assert_eq!(heap("blitz", 16_000, &manual), "-Xmx512m");
    }

    #[test]
    fn the_rest_follows_in_order() {
        let all = [
            ("omero.jvmcfg.heap_dump", "on"),
            (
                "omero.jvmcfg.append.blitz",
                "-Da=1 \"-Db=two words\" -Dc='x y'",
            ),
        ];
        let jvm = options("blitz", &values(&all), &Memory { total_mb: 4000 }).unwrap();
        assert_eq!(
            jvm.options,
            [
                "-Xmx600m",
                "-XX:+HeapDumpOnOutOfMemoryError",
                "-Da=1",
                "-Db=two words",
                "-Dc=x y"
            ]
        );
        for (key, value) in [
            ("omero.jvmcfg.percent", "many"),
            ("omero.jvmcfg.strategy", "adaptive"),
            ("omero.jvmcfg.heap_dump", "maybe"),
            ("omero.jvmcfg.append", "'open"),
        ] {
            let error = options("blitz", &values(&[(key, value)]), &Memory { total_mb: 1 });
            assert!(error.unwrap_err().to_string().contains(key));
        }
    }

    proptest! {
        #[test]
        fn a_heap_is_never_larger_than_its_percentage_of_what_counts(
            total in 0u64..1_000_000, percent in 0u64..101, max in 1u64..100_000, min in 0u64..10_000,
        ) {
            let text = [percent, max, min].map(|n| n.to_string());
            let pairs = [
                ("omero.jvmcfg.percent", text[0].as_str()),
                ("omero.jvmcfg.max_system_memory", &text[1]),
                ("omero.jvmcfg.min_system_memory", &text[2]),
            ];
            let shown = heap("blitz", total, &pairs);
            let mb: u64 = shown.strip_prefix("-Xmx").unwrap().strip_suffix('m').unwrap().parse().unwrap();
            prop_assert!(mb * 100 <= max.max(min) * percent);
            prop_assert!(mb * 100 + 100 > total.min(max) * percent);
        }

        #[test]
        fn any_text_is_split_or_refused(text in ".{0,60}") {
            if let Some(words) = split(&text) {
                prop_assert!(words.len() <= text.len() + 1);
            }
        }
    }
}
