//! `omero-grid status`: one page, anything wrong first.

use std::io::{IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::context::{Context, Grid};
use super::failure::{Failure, code};
use super::leftovers;
use crate::ipc::message::client::{ConfigurationStatus, DrainStatus, GridStatus, NodeStatus, Then};
use crate::ipc::message::node::{Goal, ServerReport};
use crate::model::{Accepting, Activation, ExitStatus, NodeState, ServerId, ServerState};
use crate::sys::clock;
use crate::telemetry::local_time;

/// Arguments of `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Show it again whenever it changes, until Ctrl-C
    #[arg(long, conflicts_with = "check")]
    watch: bool,
    /// Exit with 1 if anything is wrong, for monitoring
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(context: &Context, args: StatusArgs) -> Result<(), Failure> {
    let grid = match context.grid().await {
        Err(failure) if failure.code == code::NOT_THERE => {
            let left = leftovers::find(context).await?;
            return Err(if left.is_empty() {
                failure
            } else {
                left.describe(context)?
            });
        }
        other => other?,
    };
    if args.watch {
        return watch(context, &grid).await;
    }
    let (_, status) = grid.status().await?;
    show(context, &status)?;
    if args.check && !wrongs(&status).is_empty() {
        return Err(Failure::shown(code::FAILED));
    }
    Ok(())
}

async fn watch(context: &Context, grid: &Grid) -> Result<(), Failure> {
    let (mut revision, mut status) = grid.status().await?;
    loop {
        if std::io::stdout().is_terminal() && !context.is_json() {
            // Home, and clear what is below: no flicker.
            write!(anstream::stdout(), "\x1b[H\x1b[J")?;
        }
        show(context, &status)?;
        let before = revision;
        while revision == before {
            (revision, status) = grid.next_status(revision).await?;
        }
    }
}

fn show(context: &Context, status: &GridStatus) -> Result<(), Failure> {
    if context.is_json() {
        return context.json(&document(status));
    }
    write!(
        anstream::stdout().lock(),
        "{}",
        page(status, clock::now().wall_ms)
    )?;
    Ok(())
}

/// Returns the document of `status --format json`: a contract (DESIGN.md §5).
pub(crate) fn document(status: &GridStatus) -> Value {
    let applications: Vec<_> = status
        .applications
        .iter()
        .map(|a| json!({ "name": a.name, "descriptor": a.descriptor, "targets": a.targets }))
        .collect();
    let first = status.applications.first();
    json!({
        "application": first.map(|a| &a.name),
        "descriptor": first.map(|a| &a.descriptor),
        "targets": first.map(|a| a.targets.clone()).unwrap_or_default(),
        "applications": applications,
        "master": {
            "pid": status.master.pid,
            "started": time(status.master.started_ms),
            "version": status.master.version,
        },
        "registry": status.locator.as_ref().map(|locator| json!({ "locator": locator })),
        "redirector": { "policy": status.redirector.policy, "redirect": status.redirector.redirect },
        "nodes": status.nodes.iter().map(|node| {
            let mut document = node_document(node);
            for server in document["servers"].as_array_mut().into_iter().flatten() {
                let drain = status.drains.iter().find(|drain| server["id"] == drain.server.as_str());
                server["drain"] = drain.map_or(Value::Null, |drain| json!({
                    "since": time(drain.since_ms),
                    "deadline": drain.until_ms.map(time),
                    "then": drain.then,
                    "restarting": drain.restarting,
                }));
            }
            document
        }).collect::<Vec<_>>(),
        "rollout": status.rollout.as_ref().map(|rollout| json!({
            "since": time(rollout.since_ms),
            "done": rollout.done,
            "current": rollout.current,
            "waiting": rollout.waiting,
            "failed": rollout.failed,
        })),
        "configuration": {
            "differs": status.configuration.differs,
            "error": status.configuration.error,
        },
        "missing": status.missing,
        "stopping": status.stopping,
    })
}

/// Returns one node of the document.
pub(crate) fn node_document(node: &NodeStatus) -> Value {
    let servers = node.servers.iter().map(|server| {
        let mut document = server_document(server);
        document["outdated"] = json!(node.outdated.contains(&server.id));
        document
    });
    json!({
        "name": node.name,
        "state": node.state,
        "start": node.start,
        "pid": node.pid,
        "hostname": node.hostname,
        "reason": node.reason,
        "servers": servers.collect::<Vec<_>>(),
    })
}

/// Returns one server of the document.
pub(crate) fn server_document(server: &ServerReport) -> Value {
    let last_exit = server.last_exit.map(|(status, at)| match status {
        ExitStatus::Code(code) => json!({ "code": code, "at": time(at) }),
        ExitStatus::Signal(signal) => json!({ "signal": signal, "at": time(at) }),
        ExitStatus::Unknown => json!({ "code": "unknown", "at": time(at) }),
    });
    json!({
        "id": server.id,
        "activation": server.activation,
        "enabled": server.enabled,
        "state": server.state,
        "pid": server.pid,
        "started": server.started_ms.map(time),
        "ready_after_ms": server.ready_after_ms,
        "restarts": server.restarts,
        "last_exit": last_exit,
        "reason": server.failure.as_ref().map(|failure| failure.cause.to_string()),
        "last_lines": server.failure.as_ref().map(|failure| &failure.last_lines),
        "waiting_for": server.waiting_for,
        "next_start": server.next_start_ms.map(time),
        "blitz": server.blitz,
    })
}

/// Formats milliseconds since 1970 as RFC 3339, to the second.
pub(crate) fn time(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// Formats a length of time in its two largest units.
pub(crate) fn length(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// Says why a server is not active, and what its last words were.
pub(crate) fn why(server: &ServerReport) -> Vec<String> {
    let now = clock::now().wall_ms;
    let mut text = format!("{}: {}", server.id, server.state);
    if let Some(failure) = &server.failure {
        text.push_str(&format!(", {}", failure.cause));
    } else if let Some(waiting_for) = &server.waiting_for {
        text.push_str(&format!(", waiting for {waiting_for}"));
    }
    if let Some(next) = server.next_start_ms {
        text.push_str(&format!("; next try {}", in_time(next, now)));
    }
    let mut lines = vec![text];
    let last = server
        .failure
        .iter()
        .flat_map(|failure| &failure.last_lines);
    lines.extend(last.map(|line| format!("  | {line}")));
    lines
}

fn in_time(at: u64, now: u64) -> String {
    match at.saturating_sub(now) {
        0 => "now".to_owned(),
        ms => format!("in {}", length(ms)),
    }
}

/// Returns what is wrong, in words; empty if nothing is.
/// Says in words that the configuration on disk is another one.
fn differences(configuration: &ConfigurationStatus) -> Option<String> {
    const SHOWN: usize = 5;
    if let Some(error) = &configuration.error {
        return Some(format!(
            "{error}; the grid goes on with the configuration that it has"
        ));
    }
    let keys = &configuration.differs;
    let (count, verb) = match keys.len() {
        0 => return None,
        1 => ("1 key".to_owned(), "differs"),
        n => (format!("{n} keys"), "differ"),
    };
    let shown = keys.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    let more = if keys.len() > SHOWN { ", …" } else { "" };
    Some(format!(
        "{count} {verb} on disk: {}{more}; `omero-grid reload` applies what is in etc/grid/config.xml",
        shown.join(", ")
    ))
}

fn wrongs(status: &GridStatus) -> Vec<String> {
    let mut wrongs = Vec::new();
    for node in &status.nodes {
        let reason = match (node.state, node.reason.as_deref()) {
            (NodeState::Starting, reason) => reason,
            (NodeState::Lost, reason) => Some(reason.unwrap_or("no reason known")),
            _ => None,
        };
        if let Some(reason) = reason {
            wrongs.push(format!("node {} is {}: {reason}", node.name, node.state));
        }
        if matches!(node.state, NodeState::Down | NodeState::Stopping) {
            continue;
        }
        for server in &node.servers {
            let wanted = server.enabled
                && match server.goal {
                    Goal::Mode => server.activation == Activation::Always,
                    Goal::Started => server.failure.is_some(),
                    Goal::Stopped => false,
                };
            if wanted && !server.is_ready() {
                wrongs.extend(why(server));
            }
        }
    }
    let nodes = status.nodes.iter();
    let outdated: Vec<_> = nodes
        .flat_map(|node| &node.outdated)
        .map(ServerId::as_str)
        .collect();
    if !outdated.is_empty() {
        let (run, them) = match outdated.len() {
            1 => ("runs", "it"),
            _ => ("run", "them"),
        };
        wrongs.push(format!(
            "{}: {run} with an older definition or older values; `omero-grid restart --rolling --outdated` restarts {them}",
            outdated.join(", ")
        ));
    }
    if let Some(why) = status
        .rollout
        .as_ref()
        .and_then(|rollout| rollout.failed.as_ref())
    {
        wrongs.push(format!(
            "the rolling restart stands still: {why}; `omero-grid restart --rolling --continue` or `--abort`"
        ));
    }
    wrongs.extend(differences(&status.configuration));
    wrongs.extend(status.redirector.warnings.iter().cloned());
    let mut servers = status.nodes.iter().flat_map(|node| &node.servers);
    if status.redirector.policy == "configRedirector"
        && let Some(redirect) = &status.redirector.redirect
    {
        let accepts = |server: &ServerReport| {
            let accepting = server.blitz.as_ref().map(|blitz| blitz.accepting);
            server.id == *redirect && accepting == Some(Accepting::Yes)
        };
        if !servers.any(accepts) {
            wrongs.push(format!(
                "the redirect {redirect} does not accept sessions; logins wait for it, or until the redirect moves"
            ));
        }
    }
    wrongs
}

const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const DIM: Style = Style::new().dimmed();

fn painted(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Returns the page for people, with colours.
fn page(status: &GridStatus, now: u64) -> String {
    use std::fmt::Write as _;
    let mut page = String::new();
    let names: Vec<_> = status
        .applications
        .iter()
        .map(|a| a.name.as_str())
        .collect();
    let descriptors: Vec<_> = status
        .applications
        .iter()
        .map(|a| {
            std::iter::once(a.descriptor.as_str())
                .chain(a.targets.iter().map(String::as_str))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let up = length(now.saturating_sub(status.master.started_ms));
    let _ = writeln!(
        page,
        "{}  {}",
        painted(BOLD, names.join(", ")),
        descriptors.join(", ")
    );
    let _ = writeln!(
        page,
        "{}",
        painted(
            DIM,
            format!(
                "master {} for {up}, omero-grid {}",
                status.master.pid, status.master.version
            )
        )
    );
    if let Some(locator) = &status.locator {
        let registry = format!("registry {locator}");
        let _ = writeln!(page, "{}", painted(DIM, registry));
    }
    if status.stopping {
        let _ = writeln!(page, "{}", painted(YELLOW, "the grid is stopping"));
    }
    let wrongs = wrongs(status);
    if !wrongs.is_empty() {
        let _ = writeln!(page);
        for line in &wrongs {
            let sign = if line.starts_with(' ') { " " } else { "✗" };
            let _ = writeln!(page, "{} {line}", painted(RED, sign));
        }
    }
    let sessions: u64 = status
        .nodes
        .iter()
        .flat_map(|n| &n.servers)
        .filter_map(|s| s.blitz.as_ref())
        .map(|b| b.sessions)
        .sum();
    let redirect = status
        .redirector
        .redirect
        .as_ref()
        .map_or(String::new(), |id| format!(", redirect {id}"));
    let _ = writeln!(
        page,
        "\nsessions {sessions}, {}{redirect}",
        status.redirector.policy
    );
    if let Some(rollout) = &status.rollout {
        let turn = match &rollout.current {
            Some(id) => format!("{id} has its turn, "),
            None => String::new(),
        };
        let _ = writeln!(
            page,
            "rolling restart: {turn}{} done, {} to go",
            rollout.done.len(),
            rollout.waiting.len()
        );
    }
    for node in &status.nodes {
        let _ = writeln!(page, "\n{}", node_line(node));
        if node.state != NodeState::Down && !node.servers.is_empty() {
            for line in table(node, &status.drains, now).to_string().lines() {
                let _ = writeln!(page, "  {}", line.trim_end());
            }
        }
    }
    page
}

/// Returns how many servers of a node do what they are for.
pub(crate) fn active(node: &NodeStatus) -> usize {
    node.servers
        .iter()
        .filter(|server| server.is_ready())
        .count()
}

/// Returns the part of the page about one node.
pub(crate) fn node_page(node: &NodeStatus) -> String {
    let table = if node.servers.is_empty() {
        String::new()
    } else {
        table(node, &[], clock::now().wall_ms).to_string()
    };
    let lines = table.lines().map(|line| format!("\n  {}", line.trim_end()));
    std::iter::once(node_line(node)).chain(lines).collect()
}

fn node_line(node: &NodeStatus) -> String {
    let style = match node.state {
        NodeState::Up => GREEN,
        NodeState::Lost => RED,
        NodeState::Starting | NodeState::Stopping => YELLOW,
        NodeState::Down => DIM,
    };
    let mut line = format!(
        "node {}  {}",
        painted(BOLD, &node.name),
        painted(style, node.state)
    );
    if let Some(pid) = node.pid {
        line.push_str(&format!("  pid {pid}"));
    }
    if node.state == NodeState::Down {
        let hint = format!(
            "{} server(s); `omero-grid node {} start` starts it",
            node.servers.len(),
            node.name
        );
        line.push_str(&format!("  {}", painted(DIM, hint)));
    }
    line
}

fn table(node: &NodeStatus, drains: &[DrainStatus], now: u64) -> Table {
    let mut table = plain_table(&[
        "SERVER", "STATE", "PID", "UP", "RESTARTS", "SESSIONS", "NOTE",
    ]);
    for server in &node.servers {
        let (sessions, mut notes) = match &server.blitz {
            Some(blitz) => {
                let mut notes = Vec::new();
                if blitz.accepting != Accepting::Yes {
                    notes.push(format!("accepting: {}", blitz.accepting));
                }
                if blitz.internal > 0 {
                    notes.push(format!("{} of services", blitz.internal));
                }
                for (what, is, why) in [
                    ("db", blitz.read_only.db, &blitz.read_only_reason.db),
                    ("repo", blitz.read_only.repo, &blitz.read_only_reason.repo),
                ] {
                    if is {
                        notes.push(format!(
                            "{what}: read-only because {}",
                            why.as_deref().unwrap_or("of its configuration")
                        ));
                    }
                }
                match blitz.waits_for_repository.as_deref() {
                    Some("") => notes.push("repository: waiting".to_owned()),
                    Some(owner) => notes.push(format!("repository: waiting for {owner}")),
                    None => {}
                }
                (blitz.sessions.to_string(), notes)
            }
            None => (String::new(), Vec::new()),
        };
        if let Some(drain) = drains.iter().find(|drain| drain.server == server.id) {
            notes.push(drain_note(drain));
        }
        if !server.enabled {
            notes.push("disabled".to_owned());
        }
        match server.goal {
            Goal::Stopped => notes.push("stopped by command".to_owned()),
            Goal::Mode if server.activation != Activation::Always => {
                notes.push(server.activation.to_string())
            }
            Goal::Mode | Goal::Started => {}
        }
        if let Some(waiting_for) = &server.waiting_for {
            notes.push(format!("waiting for {waiting_for}"));
        }
        if let Some(next) = server.next_start_ms {
            notes.push(format!("next try {}", in_time(next, now)));
        }
        if node.outdated.contains(&server.id) {
            notes.push("outdated".to_owned());
        }
        let up = match (server.state, server.started_ms) {
            (ServerState::Inactive, _) | (_, None) => String::new(),
            (_, Some(started)) => length(now.saturating_sub(started)),
        };
        table.add_row([
            server.id.to_string(),
            server.state.to_string(),
            server.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            up,
            if server.restarts > 0 {
                server.restarts.to_string()
            } else {
                String::new()
            },
            sessions,
            notes.join("; "),
        ]);
    }
    table
}

fn drain_note(drain: &DrainStatus) -> String {
    let then = match drain.then {
        _ if drain.restarting => "restarting".to_owned(),
        Then::Nothing => "until undrained".to_owned(),
        Then::Stop => "then stop".to_owned(),
        Then::Restart => "then restart".to_owned(),
    };
    match drain.until_ms {
        Some(until) if !drain.restarting => format!("{then}, at the latest {}", local_time(until)),
        _ => then,
    }
}

/// Returns a table without borders, as `kubectl` has them.
pub(crate) fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_show_two_units() {
        let shown: Vec<_> = [5, 999, 1000, 61_000, 3_700_000, 90_000_000]
            .map(length)
            .into();
        assert_eq!(
            shown,
            ["5 ms", "999 ms", "1 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
        );
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(1_767_225_600_123), "2026-01-01T00:00:00Z");
    }
}
