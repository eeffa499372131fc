//! `omero-grid events`: who did what, and what became of it.

use std::collections::HashMap;
use std::io::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::context::{Context, strange};
use super::failure::Failure;
use super::status::time;
use crate::ipc::message::client::{GridEvent, Reply, Request};
use crate::telemetry::local_time;

/// How long one request waits for something to happen, in milliseconds.
const WAIT_MS: u64 = 30_000;

/// The most events that one answer has.
const PAGE: u32 = 1000;

/// Arguments of `events`.
#[derive(Debug, Clone, Args)]
pub(crate) struct EventsArgs {
    /// Go on printing what happens, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the last events to print
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    lines: u32,
    /// Only events of this kind: command, refused, redirect, drain, rollout, server, node, session, upgrade
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

pub(crate) async fn run(context: &Context, args: EventsArgs) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let mut names = HashMap::new();
    let meant = |event: &GridEvent| args.kind.as_ref().is_none_or(|kind| *kind == event.kind);
    let ask = |after, limit, wait_ms| Request::Events {
        after,
        limit,
        wait_ms,
    };
    // Of one kind there may be few among many.
    let limit = if args.kind.is_some() {
        PAGE
    } else {
        args.lines
    };
    let Reply::Events { events } = grid.call(ask(None, limit, 0)).await? else {
        return Err(strange());
    };
    let mut last = events.last().map_or(0, |event| event.id);
    let mut shown: Vec<_> = events.into_iter().filter(meant).collect();
    shown.drain(..shown.len().saturating_sub(args.lines as usize));
    if context.is_json() && !args.follow {
        let documents: Vec<_> = shown.iter().map(document).collect();
        return context.json(&documents);
    }
    show(context, &shown, &mut names)?;
    if !args.follow {
        return Ok(());
    }
    loop {
        // Another master goes on with the same numbers.
        let Reply::Events { events } = grid.call(ask(Some(last), PAGE, WAIT_MS)).await? else {
            return Err(strange());
        };
        last = events.last().map_or(last, |event| event.id);
        let shown: Vec<_> = events.into_iter().filter(meant).collect();
        show(context, &shown, &mut names)?;
    }
}

fn show(
    context: &Context,
    events: &[GridEvent],
    names: &mut HashMap<u32, String>,
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for event in events {
        if context.is_json() {
            writeln!(out, "{}", document(event))?;
            continue;
        }
        let who = event.uid.map_or_else(
            || "-".to_owned(),
            |uid| names.entry(uid).or_insert_with(|| name(uid)).clone(),
        );
        let subject = match event.subject.as_str() {
            "" => String::new(),
            subject => format!("{subject}: "),
        };
        writeln!(
            out,
            "{}  {who:<8} {:<9} {subject}{}",
            local_time(event.at_ms),
            event.kind,
            one_line(&event.text)
        )?;
    }
    Ok(())
}

/// Writes what would begin another line, or do worse to a terminal, as its escape.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_debug()),
            false => line.push(c),
        }
    }
    line
}

fn name(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}

fn document(event: &GridEvent) -> Value {
    json!({
        "id": event.id,
        "at": time(event.at_ms),
        "uid": event.uid,
        "kind": event.kind,
        "subject": event.subject,
        "text": event.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_on_its_line_and_is_otherwise_as_it_is() {
        assert_eq!(
            one_line("the server `A'\n\u{1b}[2J ü"),
            "the server `A'\\n\\u{1b}[2J ü"
        );
    }
}
