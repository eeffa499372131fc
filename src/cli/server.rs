//! `omero-grid server list` and `server ID start|stop|restart|enable|disable|signal SIG|status`.

use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;

use super::context::{Context, strange};
use super::failure::{Failure, code};
use super::node::name_and_verb;
use super::status;
use crate::ipc::message::client::{GridStatus, Reply, Request, ServerAction};
use crate::ipc::message::node::{Action, ServerReport};
use crate::model::{ServerId, ServerState};

/// Arguments of `server`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "omero-grid server list\n       omero-grid server ID start|stop|restart|enable|disable|status [--wait SECS]\n       omero-grid server ID signal SIG"
)]
pub(crate) struct ServerArgs {
    /// The server's id, or `list`
    id: String,
    /// start, stop, restart, enable, disable, signal or status; may also come first
    action: Option<String>,
    /// The signal: a name such as HUP or SIGHUP, or a number
    signal: Option<String>,
    /// How long to wait until it is done, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    wait: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verb {
    Start,
    Stop,
    Restart,
    Enable,
    Disable,
    Signal,
    Status,
}

pub(crate) async fn run(context: &Context, args: ServerArgs) -> Result<(), Failure> {
    let Some(action) = &args.action else {
        if args.id == "list" {
            return list(context).await;
        }
        return Err(Failure::new(
            code::USAGE,
            format!("what is to be done to server '{}'?", args.id),
        )
        .hint("omero-grid server ID start|stop|restart|enable|disable|signal SIG|status"));
    };
    let (id, verb) = name_and_verb::<Verb>("server", &args.id, action)?;
    let id: ServerId = id
        .parse()
        .map_err(|e: crate::model::InvalidName| Failure::new(code::NOT_THERE, e.to_string()))?;
    let grid = context.grid().await?;
    let act = |action| ServerAction::Act { action };
    let action = match verb {
        Verb::Start => act(Action::Start),
        Verb::Stop => act(Action::Stop),
        Verb::Restart => act(Action::Restart),
        Verb::Enable => ServerAction::Enable,
        Verb::Disable => ServerAction::Disable,
        Verb::Signal => act(Action::Signal {
            signal: signal_number(args.signal.as_deref())?,
        }),
        Verb::Status => {
            let (_, status) = grid.status().await?;
            let report = find(&status, &id)?;
            return show(context, report, None);
        }
    };
    let bar = context.spinner();
    bar.set_message(format!("server {id}"));
    let reply = grid
        .call(Request::Server {
            server: id.clone(),
            action,
            wait_ms: args.wait.saturating_mul(1000),
        })
        .await;
    bar.finish_and_clear();
    let Reply::Server(report) = reply? else {
        return Err(strange());
    };
    let done = match verb {
        Verb::Start | Verb::Restart => format!(
            "server {id} is {} (pid {})",
            report.state,
            report.pid.unwrap_or_default()
        ),
        Verb::Stop => format!("server {id} has stopped"),
        Verb::Enable => format!("server {id} is enabled"),
        Verb::Disable if report.pid.is_some() => {
            format!("server {id} is disabled: it runs on and is not started again")
        }
        Verb::Disable => format!("server {id} is disabled"),
        Verb::Signal => format!("sent the signal to server {id}"),
        Verb::Status => String::new(),
    };
    show(context, &report, Some(done))
}

fn show(context: &Context, report: &ServerReport, line: Option<String>) -> Result<(), Failure> {
    if context.is_json() {
        return context.json(&status::server_document(report));
    }
    if let Some(line) = line {
        return context.say(line);
    }
    let mut lines = status::why(report);
    lines[0] = format!("{}: {}", report.id, report.state);
    if let Some(pid) = report.pid {
        lines[0].push_str(&format!(", pid {pid}"));
    }
    lines.push(format!(
        "  activation {}, {}",
        report.activation,
        if report.enabled {
            "enabled"
        } else {
            "disabled"
        }
    ));
    if report.restarts > 0 {
        lines.push(format!("  started again {} times", report.restarts));
    }
    if let Some(failure) = &report.failure {
        lines.push(format!("  last failure: {}", failure.cause));
    }
    if report.state == ServerState::Active && report.failure.is_some() {
        lines.push("  (of an earlier process; this one is well)".to_owned());
    }
    context.say(lines.join("\n"))
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (_, status) = context.grid().await?.status().await?;
    let servers = || {
        status
            .nodes
            .iter()
            .flat_map(|node| node.servers.iter().map(move |server| (node, server)))
    };
    if context.is_json() {
        let all: Vec<_> = servers()
            .map(|(node, server)| {
                let mut document = status::server_document(server);
                document["node"] = serde_json::json!(node.name);
                document
            })
            .collect();
        return context.json(&all);
    }
    let mut table =
        status::plain_table(&["SERVER", "NODE", "STATE", "ACTIVATION", "ENABLED", "PID"]);
    for (node, server) in servers() {
        table.add_row([
            server.id.to_string(),
            node.name.to_string(),
            server.state.to_string(),
            server.activation.to_string(),
            if server.enabled { "yes" } else { "no" }.to_owned(),
            server.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        ]);
    }
    context.table(&table)
}

fn find<'s>(status: &'s GridStatus, id: &ServerId) -> Result<&'s ServerReport, Failure> {
    let mut servers = status.nodes.iter().flat_map(|node| &node.servers);
    servers.find(|server| server.id == *id).ok_or_else(|| {
        Failure::new(code::NOT_THERE, format!("there is no server '{id}'"))
            .hint("`omero-grid server list` shows them")
    })
}

fn signal_number(text: Option<&str>) -> Result<i32, Failure> {
    let Some(text) = text else {
        return Err(
            Failure::new(code::USAGE, "which signal?").hint("omero-grid server ID signal HUP")
        );
    };
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    let number = text
        .parse()
        .ok()
        .and_then(|number: i32| Signal::try_from(number).ok());
    number
        .or_else(|| name.parse().ok())
        .map(|signal| signal as i32)
        .ok_or_else(|| Failure::new(code::USAGE, format!("'{text}' is no signal")))
}
