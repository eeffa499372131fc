//! `omero-grid config parse`: the properties that the grid knows. And what is doubtful about a setting.

use clap::Args;
use serde_json::json;

use super::super::context::Context;
use super::super::failure::{Failure, code};
use crate::config::keys::{self, Key, Kind};

/// Arguments of `config parse`.
#[derive(Debug, Clone, Args)]
pub(super) struct ParseArgs {
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
    /// Leave out the properties of OMERO.web, of which there are none here
    #[arg(long)]
    no_web: bool,
}

pub(super) fn parse(context: &Context, args: &ParseArgs) -> Result<(), Failure> {
    let all = keys::all();
    if context.is_json() {
        let all: Vec<_> = all.iter().map(document).collect();
        return context.json(&all);
    }
    if args.defaults {
        return super::print(
            all.iter()
                .map(|key| format!("{}={}", key.name, key.default))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        );
    }
    if args.keys {
        return super::print(all.iter().map(|key| key.name));
    }
    let mut last = "";
    let mut lines = Vec::new();
    for key in all {
        let section = section(key.name);
        if section != last {
            last = section;
            if args.headers {
                lines.push(section.to_owned());
            } else if args.rst {
                lines.push(format!("{section}\n{}\n", "-".repeat(section.len())));
            } else {
                lines.push(format!("[{section}]\n"));
            }
        }
        if !args.headers {
            lines.push(entry(key, args.rst));
        }
    }
    super::print(lines.iter().map(String::as_str))
}

/// Returns the part of a name that properties about one thing share.
fn section(name: &str) -> &str {
    let mut dots = name.match_indices('.').map(|(at, _)| at);
    let end = dots.nth(1).unwrap_or(name.len());
    &name[..end]
}

fn entry(key: &Key, rst: bool) -> String {
    let facts = facts(key);
    if rst {
        return format!(
            ".. property:: {}\n\n{}\n\nDefault: `{}` ({facts})\n",
            key.name, key.about, key.default
        );
    }
    let default = match key.default {
        "" => "(nothing)",
        default => default,
    };
    let deprecated = match key.instead {
        "" => String::new(),
        instead => format!("\n    Deprecated: {instead}."),
    };
    format!(
        "{} = {default}\n    {}\n    {facts}{deprecated}\n",
        key.name, key.about
    )
}

fn facts(key: &Key) -> String {
    let effect = if key.live {
        "takes effect at once"
    } else {
        "takes effect at the next start"
    };
    format!("{}; {effect}", key.kind.words())
}

fn document(key: &Key) -> serde_json::Value {
    let choices = match key.kind {
        Kind::Choice(words) => Some(words),
        _ => None,
    };
    json!({
        "key": key.name,
        "type": key.kind.name(),
        "choices": choices,
        "default": key.default,
        "live": key.live,
        "deprecated": (!key.instead.is_empty()).then_some(key.instead),
        "description": key.about,
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
