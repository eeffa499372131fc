//! Logs and error chains.
//!
//! One subscriber per process: lines in OMERO's shape, JSON, or journald's own fields. What is logged, and at which
//! level, is the business of whoever logs it (STYLE.md §3).

mod entries;
mod file;
mod line;

pub use entries::{Entry, entries};

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

/// How log events are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line per event, in the shape of OMERO's own logs.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
    /// To the journal, with the fields as journal fields.
    Journald,
}

/// Where and how a process logs.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The log file, rotated by size; none for a process whose standard error is its log.
    pub file: Option<PathBuf>,
    /// Whether the lines go to standard error too (`start --foreground`).
    pub stderr: bool,
    /// How events are written.
    pub format: LogFormat,
    /// The filter, in the syntax of `tracing_subscriber::EnvFilter`: `info`, `debug`, `omero_grid::node=trace`.
    pub filter: String,
}

/// Logs that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be opened.
    #[error("cannot open the log {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The journal cannot be reached.
    #[error("cannot reach the journal; use --log-format text")]
    Journal(#[source] io::Error),
}

/// Sets up the logs of this process; later calls change nothing.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let mut levels = Vec::new();
    let mut filter = || {
        let filter = EnvFilter::try_new(&options.filter).unwrap_or_else(|_| EnvFilter::new("info"));
        let (filter, level) = reload::Layer::new(filter);
        levels.push(level);
        filter
    };
    let file = options
        .file
        .as_ref()
        .map(|path| {
            let open = file::LogFile::open(path);
            open.map_err(|source| LogError::Open {
                path: path.clone(),
                source,
            })
        })
        .transpose()?;
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    match options.format {
        LogFormat::Text => {
            layers.extend(file.map(|file| line::layer(file, filter())));
            if options.stderr {
                layers.push(line::layer(io::stderr, filter()));
            }
        }
        LogFormat::Json => {
            let json = || tracing_subscriber::fmt::layer().json().flatten_event(true);
            layers.extend(file.map(|file| json().with_writer(file).with_filter(filter()).boxed()));
            if options.stderr {
                layers.push(json().with_writer(io::stderr).with_filter(filter()).boxed());
            }
        }
        LogFormat::Journald => {
            let journal = tracing_journald::layer().map_err(LogError::Journal)?;
            layers.push(journal.with_filter(filter()).boxed());
        }
    }
    // A second call in the same process (tests) is harmless.
    if tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .is_ok()
    {
        // Set once, because a registry is.
        let _ = LEVELS.set(levels);
    }
    Ok(())
}

/// What changes the filters of this process.
static LEVELS: OnceLock<Vec<reload::Handle<EnvFilter, Registry>>> = OnceLock::new();

/// Logs by another filter from now on; one that cannot be read changes nothing.
pub fn set_filter(filter: &str) {
    for level in LEVELS.get().into_iter().flatten() {
        if let Ok(filter) = EnvFilter::try_new(filter) {
            // The registry lives as long as the process.
            let _ = level.reload(filter);
        }
    }
}

/// Joins an error and its sources with colons, the whole in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// Says a moment, milliseconds since 1970, for people: the local time, with the date if it is not today.
pub fn local_time(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let Ok(at) = jiff::Timestamp::from_second(seconds) else {
        return format!("{ms} ms after 1970");
    };
    let at = at.to_zoned_datetime(jiff::tz::TimeZone::system());
    let today = at.date() == jiff::ZonedDateTime::now().date();
    let shape = if today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    at.strftime(shape).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_chain_names_every_cause_once() {
        let inner = std::io::Error::other("disk on fire");
        let error = super::LogError::Open {
            path: "/x".into(),
            source: inner,
        };
        assert_eq!(super::chain(&error), "cannot open the log /x: disk on fire");
    }
}
