//! `omero-grid config`: OMERO's configuration store, with the subcommands of `omero config` (`omero.md` §3.3).

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::context::{Context, strange};
use super::deploy;
use super::failure::{Failure, code};
use crate::config::{ConfigError, ConfigStore, store_path};
use crate::ipc::message::client::{Reply, Request};
use crate::telemetry::chain;

/// What stands in the place of a secret, as OMERO has it.
const MASK: &str = "********";

/// The longest value that is read from a file, in bytes.
const MAX_VALUE: u64 = 1024 * 1024;

/// Arguments of `config`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// Another file than etc/grid/config.xml
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Print values: all as KEY=VALUE, of one key the value alone
    Get {
        /// The keys
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
        /// Print passwords too
        #[arg(long)]
        show_password: bool,
    },
    /// Print all values
    List {
        /// Print passwords too
        #[arg(long)]
        show_password: bool,
    },
    /// Print the keys that have a value
    Keys,
    /// Set a value, or take it away; a running grid takes it up at once
    Set {
        /// The key
        key: String,
        /// The value; `@FILE` or `-` to read it from a file or standard input; none takes it away
        value: Option<String>,
        /// Read the value from a file, `-` for standard input
        #[arg(short, long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
    },
    /// Print where the store is
    Path,
}

pub(crate) async fn run(context: &Context, args: ConfigArgs) -> Result<(), Failure> {
    let own = args.source.is_none();
    let path = args
        .source
        .unwrap_or_else(|| store_path(context.paths.dir()));
    let profile = std::env::var("OMERO_CONFIG").ok();
    let store = ConfigStore::new(path, profile);
    match args.command {
        Command::Get {
            keys,
            show_password,
        } => get(context, &store, &keys, show_password),
        Command::List { show_password } => get(context, &store, &[], show_password),
        Command::Keys => {
            let mut keys: Vec<_> = store
                .properties()?
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            keys.sort();
            if context.is_json() {
                return context.json(&keys);
            }
            print(keys.iter().map(String::as_str))
        }
        Command::Set { key, value, file } => {
            let value = match (value, file) {
                (None, None) => None,
                (None, Some(file)) => Some(value_of(&file)?),
                (Some(value), _) => Some(match value.strip_prefix('@') {
                    _ if value == "-" => value_of("-".as_ref())?,
                    Some(file) => value_of(file.as_ref())?,
                    None => value,
                }),
            };
            set(context, &store, &key, value.as_deref(), own).await
        }
        Command::Path => {
            let path = store.path().display().to_string();
            if context.is_json() {
                return context.json(&path);
            }
            print(std::iter::once(path.as_str()))
        }
    }
}

fn print<'l>(lines: impl Iterator<Item = &'l str>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.ends_with("pass") || key.ends_with("password")
}

fn get(
    context: &Context,
    store: &ConfigStore,
    keys: &[String],
    show_password: bool,
) -> Result<(), Failure> {
    let mut properties = store.properties()?;
    properties.sort();
    if !keys.is_empty() {
        properties.retain(|(key, _)| keys.contains(key));
    }
    // Of one key the bare value, as scripts expect it; on a terminal a secret is masked all the same.
    let bare = keys.len() == 1 && !std::io::stdout().is_terminal();
    let shown = |key: &str, value: &str| {
        if is_secret(key) && !show_password && !bare && !value.is_empty() {
            MASK.to_owned()
        } else {
            value.to_owned()
        }
    };
    if context.is_json() {
        let object: Map<String, Value> = properties
            .iter()
            .map(|(key, value)| (key.clone(), json!(shown(key, value))))
            .collect();
        return context.json(&object);
    }
    let lines: Vec<_> = properties
        .iter()
        .map(|(key, value)| match keys.len() {
            1 => shown(key, value),
            _ => format!("{key}={}", shown(key, value)),
        })
        .collect();
    print(lines.iter().map(String::as_str))
}

/// Reads a value from a file, without the blanks at its end.
fn value_of(file: &std::path::Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(
            code::USAGE,
            format!("cannot read {}: {error}", file.display()),
        )
    };
    let mut text = String::new();
    let from: Box<dyn std::io::Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(fail)?)
    };
    from.take(MAX_VALUE)
        .read_to_string(&mut text)
        .map_err(fail)?;
    Ok(text.trim_end().to_owned())
}

async fn set(
    context: &Context,
    store: &ConfigStore,
    key: &str,
    value: Option<&str>,
    own: bool,
) -> Result<(), Failure> {
    store.set(key, value)?;
    if !own || !store.is_active()? {
        return Ok(());
    }
    let grid = match context.grid().await {
        Ok(grid) => grid,
        // It is read when the grid is started.
        Err(failure) if failure.code == code::NOT_THERE => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let refused = |failure: Failure| Failure {
        message: format!(
            "{key} is set, but the running grid goes on without it: {}",
            failure.message
        ),
        hint: Some("mend it, then `omero-grid reload`".to_owned()),
        ..failure
    };
    let Reply::Reloaded { reports } = grid.call(Request::Reload).await.map_err(refused)? else {
        return Err(strange());
    };
    if context.is_json() {
        return context.json(&reports);
    }
    reports
        .iter()
        .filter(|report| !report.changes.is_empty())
        .try_for_each(|report| deploy::show(context, report))
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = match &error {
            ConfigError::Read(_) | ConfigError::Foreign { .. } => code::INVALID,
            ConfigError::Locked { .. } => code::REFUSED,
            ConfigError::Name(_) => code::USAGE,
            ConfigError::Write { .. } => code::FAILED,
        };
        let failure = Self::new(code, chain(&error));
        match error {
            ConfigError::Locked { .. } => failure.hint("try again when it is done"),
            _ => failure,
        }
    }
}
