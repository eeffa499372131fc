//! `omero-grid drain` and `undrain`: Blitzes that take no new sessions, and what follows.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::context::{Context, Grid, strange};
use super::failure::{Failure, code};
use super::status::length;
use crate::ipc::message::blitz::Outlook;
use crate::ipc::message::client::{
    DrainRequest, DrainView, GridStatus, NodeStatus, Reply, Request, RolloutStatus, Then,
};
use crate::ipc::message::node::ServerReport;
use crate::model::{Accepting, ServerId, ServerState};
use crate::sys::signals::{Signal, Signals};
use crate::telemetry::local_time;

/// How often the sessions that are left are asked for while somebody watches.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `drain`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrainArgs {
    /// Blitzes, or nodes for all their Blitzes
    #[arg(value_name = "ID|NODE", required = true)]
    names: Vec<String>,
    /// The names are those of nodes
    #[arg(long)]
    node: bool,
    #[command(flatten)]
    pub(crate) options: DrainOptions,
}

/// How something is drained.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrainOptions {
    /// What follows when the last session has ended
    #[arg(long, value_enum, value_name = "stop|restart")]
    then: Option<Follows>,
    /// Close the sessions that are left after so many seconds, those idle for the longest first [default: never]
    #[arg(long, value_name = "SECS")]
    deadline: Option<u64>,
    /// Let no session live for longer than so many seconds from now
    #[arg(long, value_name = "SECS")]
    live: Option<u64>,
    /// Only say which sessions there are to wait for
    #[arg(long)]
    plan: bool,
    /// Also if nobody is left to take new sessions
    #[arg(long)]
    force: bool,
    /// Do not wait until it is drained
    #[arg(long)]
    no_wait: bool,
}

impl DrainOptions {
    /// Returns whether any of them was given.
    pub(crate) fn is_given(&self) -> bool {
        self.then.is_some()
            || self.deadline.is_some()
            || self.live.is_some()
            || self.plan
            || self.force
            || self.no_wait
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Follows {
    Stop,
    Restart,
}

pub(crate) async fn drain(context: &Context, args: DrainArgs) -> Result<(), Failure> {
    run(context, args.names, args.node, &args.options).await
}

/// Drains servers or nodes, and watches until that is done.
pub(crate) async fn run(
    context: &Context,
    names: Vec<String>,
    node: bool,
    options: &DrainOptions,
) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let drain = DrainRequest {
        names,
        node,
        then: match options.then {
            None => Then::Nothing,
            Some(Follows::Stop) => Then::Stop,
            Some(Follows::Restart) => Then::Restart,
        },
        deadline_ms: options.deadline.map(millis),
        live_ms: options.live.map(millis),
        force: options.force,
        for_stop: false,
        plan: options.plan,
    };
    let then = drain.then;
    let last = last_event(&grid).await?;
    let Reply::Drained { blitzes } = grid.call(Request::Drain { drain }).await? else {
        return Err(strange());
    };
    if options.plan {
        return plan(context, &blitzes);
    }
    for blitz in &blitzes {
        context.say(format!(
            "{} takes no new sessions; {}",
            blitz.server,
            left(blitz.outlook.as_ref())
        ))?;
    }
    let waits = blitzes
        .iter()
        .any(|blitz| blitz.outlook.is_none_or(|outlook| outlook.sessions > 0));
    let endless = blitzes
        .iter()
        .any(|blitz| blitz.outlook.is_some_and(|outlook| outlook.endless > 0));
    if waits && endless && options.deadline.is_none() && options.live.is_none() {
        context.say(
            "no deadline: this waits for as long as sessions are used; --deadline 3600 closes what is left after an hour",
        )?;
    }
    let ids: Vec<ServerId> = blitzes.into_iter().map(|blitz| blitz.server).collect();
    if options.no_wait {
        return if context.is_json() {
            context.json(&json!({ "draining": ids }))
        } else {
            context.say("the drain goes on; `omero-grid status` shows it")
        };
    }
    let watching = watch(context, &grid, |status| {
        ids.iter()
            .filter(|id| !is_done(status, id, then))
            .cloned()
            .collect()
    });
    interruptible(watching, "the drain").await?;
    report(context, &grid, &ids, then, last).await
}

fn millis(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

/// Says what there is to wait for.
fn left(outlook: Option<&Outlook>) -> String {
    let Some(outlook) = outlook else {
        return "it does not answer now".to_owned();
    };
    let mut text = match outlook.sessions {
        0 => "no sessions are left".to_owned(),
        1 => "1 session is left".to_owned(),
        n => format!("{n} sessions are left"),
    };
    if outlook.sessions > 0 {
        text.push_str(&format!(
            ", {} used in the last minute, the longest idle for {}",
            outlook.used_last_minute,
            length(outlook.longest_idle_ms)
        ));
        text.push_str(&match outlook.end_if_unused_ms {
            Some(at) => format!("; if nobody uses them, the last ends at {}", local_time(at)),
            None => "; some never end by themselves".to_owned(),
        });
    }
    if outlook.internal > 0 {
        text.push_str(&format!(
            "; {} of services, which hold nothing up",
            outlook.internal
        ));
    }
    text
}

fn plan(context: &Context, blitzes: &[DrainView]) -> Result<(), Failure> {
    if context.is_json() {
        let documents: Vec<_> = blitzes.iter().map(document).collect();
        return context.json(&documents);
    }
    for blitz in blitzes {
        let Some(outlook) = &blitz.outlook else {
            context.say(format!("{}: does not answer now", blitz.server))?;
            continue;
        };
        let end = match (outlook.last_end_ms, outlook.end_if_unused_ms) {
            (Some(at), _) => local_time(at),
            (None, Some(at)) => format!("{} if nobody uses them, else later", local_time(at)),
            (None, None) => "never by themselves".to_owned(),
        };
        context.say(match outlook.sessions {
            0 => format!("{}: now, no sessions", blitz.server),
            n => format!(
                "{}: {end}, {n} session{}, {} used in the last minute",
                blitz.server,
                if n == 1 { "" } else { "s" },
                outlook.used_last_minute
            ),
        })?;
        if outlook.internal > 0 {
            context.say(format!(
                "  and {} of services, which hold nothing up",
                outlook.internal
            ))?;
        }
    }
    context.say("nothing was changed")
}

fn document(blitz: &DrainView) -> Value {
    json!({ "server": blitz.server, "outlook": blitz.outlook })
}

fn server<'s>(status: &'s GridStatus, id: &ServerId) -> Option<(&'s NodeStatus, &'s ServerReport)> {
    let mut servers = status
        .nodes
        .iter()
        .flat_map(|node| node.servers.iter().map(move |server| (node, server)));
    servers.find(|(_, server)| server.id == *id)
}

fn is_done(status: &GridStatus, id: &ServerId, then: Then) -> bool {
    let drained = status.drains.iter().any(|drain| drain.server == *id);
    let Some((_, server)) = server(status, id) else {
        return true;
    };
    match then {
        // Somebody may have undrained it meanwhile.
        Then::Nothing => {
            let accepting = server.blitz.as_ref().map(|blitz| blitz.accepting);
            !drained || server.pid.is_none() || accepting == Some(Accepting::Drained)
        }
        Then::Stop => !drained && server.state == ServerState::Inactive,
        Then::Restart => !drained,
    }
}

/// Watches until nothing is left to wait for, with progress for people.
async fn watch(
    context: &Context,
    grid: &Grid,
    waited_for: impl Fn(&GridStatus) -> Vec<ServerId>,
) -> Result<(), Failure> {
    let bar = context.spinner();
    let plain = !std::io::stderr().is_terminal();
    let mut told: BTreeMap<ServerId, u64> = BTreeMap::new();
    let (mut revision, mut status) = grid.status().await?;
    loop {
        let ids = waited_for(&status);
        if ids.is_empty() {
            bar.finish_and_clear();
            return Ok(());
        }
        let Reply::Drained { blitzes } = grid
            .call(Request::Outlook {
                servers: ids.clone(),
            })
            .await?
        else {
            return Err(strange());
        };
        let lines: Vec<_> = blitzes
            .iter()
            .map(|blitz| format!("{}: {}", blitz.server, left(blitz.outlook.as_ref())))
            .collect();
        bar.set_message(lines.join("; "));
        for (blitz, line) in blitzes.iter().zip(&lines).filter(|_| plain) {
            let sessions = blitz.outlook.map_or(u64::MAX, |outlook| outlook.sessions);
            if told.insert(blitz.server.clone(), sessions) != Some(sessions) && told.len() > 1 {
                context.say(line)?;
            }
        }
        // Whatever changes is looked at at once, and idle times now and then.
        match tokio::time::timeout(LOOK, grid.next_status(revision)).await {
            Ok(next) => (revision, status) = next?,
            Err(_) => (revision, status) = grid.status().await?,
        }
    }
}

/// Watches something that goes on by itself, until it is done or somebody presses Ctrl-C.
pub(crate) async fn interruptible<T>(
    watching: impl Future<Output = Result<T, Failure>>,
    what: &str,
) -> Result<T, Failure> {
    let mut signals = Signals::new()?;
    let stopped = async {
        while let Ok(signal) = signals.recv().await {
            if matches!(signal, Signal::Interrupt | Signal::Terminate) {
                return;
            }
        }
        std::future::pending().await
    };
    // Cancel safe: what is watched goes on in the master.
    tokio::select! {
        done = watching => done,
        () = stopped => Err(Failure::new(
            code::TIMED_OUT,
            format!("no longer watching; {what} goes on"),
        )
        .hint("`omero-grid status` shows it")),
    }
}

/// Returns the id of the last event there is.
pub(crate) async fn last_event(grid: &Grid) -> Result<u64, Failure> {
    let request = Request::Events {
        after: None,
        limit: 1,
        wait_ms: 0,
    };
    match grid.call(request).await? {
        Reply::Events { events } => Ok(events.last().map_or(0, |event| event.id)),
        _ => Err(strange()),
    }
}

/// Says how it ended, and which sessions were closed for it.
async fn report(
    context: &Context,
    grid: &Grid,
    ids: &[ServerId],
    then: Then,
    after: u64,
) -> Result<(), Failure> {
    let request = Request::Events {
        after: Some(after),
        limit: 1000,
        wait_ms: 0,
    };
    let Reply::Events { events } = grid.call(request).await? else {
        return Err(strange());
    };
    let closed: Vec<_> = events
        .into_iter()
        .filter(|event| event.kind == "drain" && event.text.starts_with("the deadline came"))
        .filter(|event| ids.iter().any(|id| id.as_str() == event.subject))
        .collect();
    if context.is_json() {
        let closed: Vec<_> = closed
            .iter()
            .map(|event| json!({ "server": event.subject, "text": event.text }))
            .collect();
        return context.json(&json!({ "drained": ids, "then": then, "closed": closed }));
    }
    for event in &closed {
        context.say(format!("{}: {}", event.subject, event.text))?;
    }
    for id in ids {
        context.say(match then {
            Then::Nothing => {
                format!("{id} is drained; `omero-grid undrain {id}` lets it take sessions again")
            }
            Then::Stop => format!("{id} is drained and stopped"),
            Then::Restart => format!("{id} was restarted and takes sessions again"),
        })?;
    }
    Ok(())
}

/// Arguments of `undrain`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UndrainArgs {
    /// Blitzes, or nodes for all their Blitzes
    #[arg(value_name = "ID|NODE", required = true)]
    names: Vec<String>,
    /// The names are those of nodes
    #[arg(long)]
    node: bool,
}

pub(crate) async fn undrain(context: &Context, args: UndrainArgs) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let request = Request::Undrain {
        names: args.names.clone(),
        node: args.node,
    };
    let Reply::Drained { blitzes } = grid.call(request).await? else {
        return Err(strange());
    };
    let ids: Vec<_> = blitzes.iter().map(|blitz| &blitz.server).collect();
    if context.is_json() {
        return context.json(&json!({ "undrained": ids }));
    }
    if ids.is_empty() {
        return context.say(format!("{}: not drained", args.names.join(", ")));
    }
    for id in ids {
        context.say(format!("{id} takes sessions again"))?;
    }
    Ok(())
}

/// Stops the grid once every Blitz is drained, and watches until that is so.
pub(crate) async fn before_stop(
    context: &Context,
    grid: &Grid,
    deadline: Option<u64>,
) -> Result<(), Failure> {
    let drain = DrainRequest {
        for_stop: true,
        deadline_ms: deadline.map(millis),
        ..DrainRequest::default()
    };
    let Reply::Drained { blitzes } = grid.call(Request::Drain { drain }).await? else {
        return Err(strange());
    };
    for blitz in &blitzes {
        context.say(format!(
            "{} takes no new sessions; {}",
            blitz.server,
            left(blitz.outlook.as_ref())
        ))?;
    }
    let watching = watch(context, grid, |status| {
        let waits = status.drains.iter().map(|drain| drain.server.clone());
        waits.filter(|_| !status.stopping).collect()
    });
    // The master ends with the grid.
    let ended = async {
        tokio::select! {
            done = watching => done.or_else(|failure| match failure.code {
                code::FAILED => Ok(()),
                _ => Err(failure),
            }),
            () = grid.closed() => Ok(()),
        }
    };
    interruptible(ended, "the drain").await
}

/// Watches a rolling restart to its end; fails where it stands still.
pub(crate) async fn watch_rollout(context: &Context, grid: &Grid) -> Result<(), Failure> {
    let bar = context.spinner();
    let mut told = Vec::new();
    let mut last: Option<RolloutStatus> = None;
    let watching = async {
        let (mut revision, mut status) = grid.status().await?;
        loop {
            let Some(rollout) = &status.rollout else {
                // The last of them may have been done and all over at once.
                let Some(last) = &last else { return Ok(()) };
                let renewed = |id: &&ServerId| {
                    let mut servers = status.nodes.iter().flat_map(|node| &node.servers);
                    let server = servers.find(|server| server.id == **id);
                    let started_ms = server.and_then(|server| server.started_ms);
                    started_ms.is_some_and(|at| at >= last.since_ms)
                };
                let left = last.done.iter().chain(&last.current).chain(&last.waiting);
                for id in left.filter(renewed).filter(|id| !told.contains(*id)) {
                    context.say(format!("{id} was restarted"))?;
                }
                return Ok(());
            };
            for id in &rollout.done {
                if !told.contains(id) {
                    context.say(format!("{id} was restarted"))?;
                    told.push(id.clone());
                }
            }
            if let Some(why) = &rollout.failed {
                return Err(
                    Failure::new(code::FAILED, format!("the rolling restart stands still: {why}"))
                        .hint("mend it, then `omero-grid restart --rolling --continue`; `--abort` gives up the rest"),
                );
            }
            let turn = rollout
                .current
                .as_ref()
                .map_or_else(String::new, |id| format!("{id} drains and restarts; "));
            bar.set_message(format!("{turn}{} to go", rollout.waiting.len()));
            last = Some(rollout.clone());
            (revision, status) = grid.next_status(revision).await?;
        }
    };
    let watched = interruptible(watching, "the rolling restart").await;
    bar.finish_and_clear();
    watched?;
    if context.is_json() {
        return context.json(&json!({ "rolled": true }));
    }
    context.say("all of them were restarted")
}
