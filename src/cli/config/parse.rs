//! `omero-grid config parse`: the properties that the grid knows. And what is doubtful about a setting.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::context::Context;
use super::super::failure::{Failure, code};
use crate::config::keys::{self, Key, Kind};

/// Arguments of `config parse`.
#[derive(Debug, Clone, Args)]
pub(super) struct ParseArgs {
    /// Print the properties of this file, with the comments above them, in place of those that are known here; OMERO's own are in
    /// etc/omero.properties
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print KEY=DEFAULT only
    #[arg(long)]
    defaults: bool,
    /// Print the keys only
    #[arg(long, conflicts_with = "defaults")]
    keys: bool,
    /// Print the names of the sections only
    #[arg(long, conflicts_with_all = ["defaults", "keys"])]
    headers: bool,
    /// Print reStructuredText
    #[arg(long, conflicts_with_all = ["defaults", "keys", "headers"])]
    rst: bool,
    /// Leave out the properties of OMERO.web
    #[arg(long)]
    no_web: bool,
}

/// A property as it is printed.
struct Entry {
    name: String,
    default: String,
    about: String,
    /// What is known of its type and effect, if it is one of ours.
    known: Option<&'static Key>,
}

pub(super) fn parse(context: &Context, args: &ParseArgs) -> Result<(), Failure> {
    let mut all = match &args.file {
        Some(file) => of_file(&super::value_of(file)?),
        None => keys::all()
            .iter()
            .map(|key| Entry {
                name: key.name.to_owned(),
                default: key.default.to_owned(),
                about: key.about.to_owned(),
                known: Some(key),
            })
            .collect(),
    };
    if args.no_web {
        all.retain(|entry| !entry.name.starts_with("omero.web."));
    }
    if context.is_json() {
        let all: Vec<_> = all.iter().map(document).collect();
        return context.json(&all);
    }
    let mut last = String::new();
    let mut lines = Vec::new();
    for entry in &all {
        let section = section(&entry.name);
        if args.defaults {
            lines.push(format!("{}={}", entry.name, entry.default));
        } else if args.keys {
            lines.push(entry.name.clone());
        } else {
            if section != last {
                last = section.to_owned();
                lines.push(match (args.headers, args.rst) {
                    (true, _) => section.to_owned(),
                    (_, true) => format!("{section}\n{}\n", "-".repeat(section.len())),
                    _ => format!("[{section}]\n"),
                });
            }
            if !args.headers {
                lines.push(shown(entry, args.rst));
            }
        }
    }
    super::print(lines.iter().map(String::as_str))
}

/// Reads properties with the comments above them; a comment of two signs is a heading and belongs to none.
fn of_file(text: &str) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut about = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("##") || line.is_empty() {
            about.clear();
        } else if let Some(comment) = line.strip_prefix('#') {
            about.push(comment.trim().to_owned());
        } else {
            let (name, default) = line.split_once('=').unwrap_or((line, ""));
            let name = name.trim().to_owned();
            all.push(Entry {
                known: keys::lookup(&name),
                name,
                default: default.trim().to_owned(),
                about: std::mem::take(&mut about).join(" "),
            });
        }
    }
    all
}

/// Returns the part of a name that properties about one thing share.
fn section(name: &str) -> &str {
    let mut dots = name.match_indices('.').map(|(at, _)| at);
    let end = dots.nth(1).unwrap_or(name.len());
    &name[..end]
}

fn shown(entry: &Entry, rst: bool) -> String {
    let facts = entry.known.map(facts);
    if rst {
        let facts = facts.map(|facts| format!(" ({facts})")).unwrap_or_default();
        return format!(
            ".. property:: {}\n\n{}\n\nDefault: `{}`{facts}\n",
            entry.name, entry.about, entry.default
        );
    }
    let default = match entry.default.as_str() {
        "" => "(nothing)",
        default => default,
    };
    let mut text = format!("{} = {default}\n", entry.name);
    let deprecated = entry.known.filter(|key| !key.instead.is_empty());
    let deprecated = deprecated.map(|key| format!("Deprecated: {}.", key.instead));
    for line in [Some(entry.about.clone()), facts, deprecated] {
        if let Some(line) = line.filter(|line| !line.is_empty()) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

fn facts(key: &Key) -> String {
    let effect = if key.live {
        "takes effect at once"
    } else {
        "takes effect at the next start"
    };
    format!("{}; {effect}", key.kind.words())
}

fn document(entry: &Entry) -> serde_json::Value {
    let known = entry.known;
    let choices = known.and_then(|key| match key.kind {
        Kind::Choice(words) => Some(words),
        _ => None,
    });
    json!({
        "key": entry.name,
        "type": known.map(|key| key.kind.name()),
        "choices": choices,
        "default": entry.default,
        "live": known.map(|key| key.live),
        "deprecated": known.filter(|key| !key.instead.is_empty()).map(|key| key.instead),
        "description": entry.about,
    })
}

/// Says what is doubtful about settings on standard error; with `strict` refuses them.
pub(super) fn examine<'s>(
    context: &Context,
    settings: impl IntoIterator<Item = (&'s str, &'s str)>,
    strict: bool,
) -> Result<(), Failure> {
    let doubts: Vec<_> = settings
        .into_iter()
        .filter_map(|(key, value)| keys::doubt(key, value))
        .collect();
    if strict && let Some(first) = doubts.first() {
        let rest = match doubts.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        return Err(
            Failure::new(code::INVALID, format!("{first}{rest}; nothing was stored"))
                .hint("`omero-grid config parse` shows the properties; without --strict this is a warning"),
        );
    }
    for doubt in doubts {
        super::warn(context, &doubt.to_string())?;
    }
    Ok(())
}
