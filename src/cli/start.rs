//! `omero-grid start`: hands over to the master's process and waits until everything is active.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::context::{Context, Grid, absolute, strange};
use super::failure::{Failure, code};
use super::master_process::{Handover, Launched, foreground, launch};
use super::{face, status};
use crate::ipc::message::client::{
    DeployMode, DescriptorSource, GridStatus, NodeStatus, Reply, Request,
};
use crate::ipc::message::node::{Goal, ServerReport};
use crate::model::{Activation, NodeName, NodeState};
use crate::telemetry::LogFormat;

/// Arguments of `start`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StartArgs {
    /// The application descriptor [default: the last one deployed, else etc/grid/default.xml]
    descriptor: Option<PathBuf>,
    /// Targets of the descriptor to select, and variables to override
    #[arg(value_name = "TARGET|NAME=VALUE")]
    arguments: Vec<String>,
    /// The file that `import-default-templates="true"` takes in
    #[arg(long, value_name = "FILE", requires = "descriptor")]
    default_templates: Option<PathBuf>,
    /// Start this node and no others (repeatable)
    #[arg(long, value_name = "NAME")]
    node: Vec<NodeName>,
    /// Start every node, also those with omero.grid.start=manual
    #[arg(long, conflicts_with = "node")]
    all: bool,
    /// Where there is no descriptor, start the one that is compiled in
    #[arg(long, conflicts_with = "descriptor")]
    builtin: bool,
    /// Stay in the foreground and be the master, for systemd
    #[arg(long)]
    foreground: bool,
    /// How long to wait until every `always` server is active, in seconds; then exit with 5, the grid goes on
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    wait: u64,
    /// How the grid logs: text, json, or journald (into the journal)
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        hide_possible_values = true
    )]
    log_format: LogFormat,
    /// A property of the registry, such as IceGrid.Registry.Client.Endpoints=tcp -p 4061 (repeatable; an empty value unsets)
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    property: Vec<(String, String)>,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a property is NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// Turns the words after the descriptor into targets and overrides, as icegridadmin does.
pub(crate) fn descriptor_source(
    path: &std::path::Path,
    arguments: &[String],
    default_templates: Option<PathBuf>,
) -> Result<DescriptorSource, Failure> {
    let (overrides, targets): (Vec<_>, Vec<_>) =
        arguments.iter().cloned().partition(|a| a.contains('='));
    let overrides = overrides.iter().filter_map(|a| a.split_once('='));
    Ok(DescriptorSource {
        path: absolute(path)?,
        shown: path.display().to_string(),
        targets,
        overrides: overrides
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        default_templates,
        definition: None,
    })
}

pub(crate) async fn start(context: &Context, args: StartArgs) -> Result<(), Failure> {
    let descriptor = match &args.descriptor {
        Some(path) => {
            let named = args.default_templates.as_deref();
            let templates = face::default_templates(&context.paths, named, &args.property)?;
            Some(descriptor_source(path, &args.arguments, templates)?)
        }
        None => None,
    };
    let handover = Handover {
        descriptor,
        builtin: args.builtin,
        bare: false,
        nodes: args.node,
        all: args.all,
        wait_secs: args.wait,
        log_format: args.log_format,
        verbose: context.verbose,
        ice: args.property,
    };
    if args.foreground {
        return foreground(context, handover).await;
    }
    let limit = Duration::from_secs(args.wait);
    let Launched { notices, later } = launch(context, &handover)?;
    for notice in notices {
        context.say(notice)?;
    }
    let grid = context.grid().await?;
    if let Some(source) = later {
        adopt_then_deploy(context, &grid, source, limit).await?;
    }
    wait_until_up(context, &grid, limit).await
}

/// Deploys what was named beside an older deployment that still runs, once its nodes are adopted.
pub(crate) async fn adopt_then_deploy(
    context: &Context,
    grid: &Grid,
    source: DescriptorSource,
    limit: Duration,
) -> Result<(), Failure> {
    let settled = |status: &GridStatus| {
        let unsettled =
            |node: &NodeStatus| matches!(node.state, NodeState::Starting | NodeState::Stopping);
        (!status.nodes.iter().any(unsettled)).then_some(())
    };
    grid.watch(Some(limit), settled).await?;
    let request = Request::Deploy {
        source,
        dry_run: false,
        mode: DeployMode::Careful,
    };
    let adopted = |failure: Failure| Failure {
        message: format!(
            "adopted the running grid as it was deployed; {}",
            failure.message
        ),
        ..failure
    };
    match grid.call(request).await.map_err(adopted)? {
        Reply::Deployed(report) => context.say(format!(
            "adopted the running grid and deployed what differs: {}",
            count(report.changes.len(), "server")
        )),
        _ => Err(strange()),
    }
}

/// Returns the `always` servers of a node that are not active yet.
pub(crate) fn pending_on(node: &NodeStatus) -> Vec<&ServerReport> {
    let waited_for = |server: &&ServerReport| {
        server.activation == Activation::Always && server.enabled && server.goal != Goal::Stopped
    };
    node.servers
        .iter()
        .filter(waited_for)
        .filter(|server| !server.is_ready())
        .collect()
}

/// What `start` waits for: every `always` server of every wanted node. Returns what is not there yet.
fn pending(status: &GridStatus) -> Vec<(&NodeStatus, Option<&ServerReport>)> {
    let mut pending = Vec::new();
    for node in status
        .nodes
        .iter()
        .filter(|node| node.state != NodeState::Down)
    {
        let servers = pending_on(node);
        // A node that cannot be started is the reason why its servers are not.
        let is_cause = servers.is_empty() || node.reason.is_some();
        if node.state != NodeState::Up && is_cause {
            pending.push((node, None));
        }
        pending.extend(servers.into_iter().map(|server| (node, Some(server))));
    }
    pending
}

/// Counts things in words.
pub(crate) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Waits until everything that `start` waits for is active, and says so; or says what is not, and why.
pub(crate) async fn wait_until_up(
    context: &Context,
    grid: &Grid,
    limit: Duration,
) -> Result<(), Failure> {
    let bar = context.spinner();
    let mut last = None;
    let up = grid
        .watch(Some(limit), |status| {
            let missing = pending(status);
            let names: Vec<_> = missing
                .iter()
                .take(4)
                .map(|(n, s)| s.map_or(n.name.as_str(), |s| s.id.as_str()))
                .collect();
            bar.set_message(format!("{} to go: {}", missing.len(), names.join(", ")));
            // An application may have no nodes yet; the first status of all has nothing at all.
            let done = missing.is_empty() && !status.applications.is_empty();
            last = Some(status.clone());
            done.then_some(())
        })
        .await;
    bar.finish_and_clear();
    let status = last.unwrap_or_default();
    if up?.is_some() {
        return if context.is_json() {
            context.json(&status::document(&status))
        } else {
            context.say(summary(&status))
        };
    }
    let mut lines = vec![format!(
        "not everything is active after {} s:",
        limit.as_secs()
    )];
    for (node, server) in pending(&status) {
        lines.extend(match server {
            Some(server) => status::why(server),
            None => vec![format!(
                "node {}: {}",
                node.name,
                node.reason.as_deref().unwrap_or("still starting")
            )],
        });
    }
    Err(Failure::new(code::TIMED_OUT, lines.join("\n  ")).hint(
        "the grid stays up and goes on trying; `omero-grid status --watch` shows how it goes",
    ))
}

fn summary(status: &GridStatus) -> String {
    let names: Vec<_> = status
        .applications
        .iter()
        .map(|a| a.name.as_str())
        .collect();
    let up = status
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Up)
        .count();
    let active = status.nodes.iter().map(status::active).sum();
    let manual = status
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Down)
        .map(|node| node.name.as_str());
    let manual: Vec<_> = manual.collect();
    let rest = if manual.is_empty() {
        String::new()
    } else {
        format!("; not started: {}", manual.join(", "))
    };
    format!(
        "{} is up: {}, {}{rest}",
        names.join(", "),
        count(up, "node"),
        count(active, "server")
    )
}
