//! `omero-grid deploy` and `reload`.

use std::path::PathBuf;

use clap::Args;

use super::context::{Context, strange};
use super::failure::Failure;
use super::start::descriptor_source;
use super::status::plain_table;
use super::{drain, face};
use crate::ipc::message::client::{DeployMode, DeployReport, Reply, Request};

/// Arguments of `deploy`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeployArgs {
    /// The application descriptor
    descriptor: PathBuf,
    /// Targets of the descriptor to select, and variables to override
    #[arg(value_name = "TARGET|NAME=VALUE")]
    arguments: Vec<String>,
    /// The file that `import-default-templates="true"` takes in
    #[arg(long, value_name = "FILE")]
    default_templates: Option<PathBuf>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Restart a changed Blitz even if it has live sessions; without this the deploy is refused
    #[arg(long, conflicts_with = "rolling")]
    now: bool,
    /// Restart changed Blitzes with live sessions one after another, each when its sessions have ended
    #[arg(long)]
    rolling: bool,
    /// Restart nothing: tell Ice servers of properties that changed while they run; a deploy that changes more is refused
    #[arg(long, conflicts_with_all = ["now", "rolling"])]
    no_restart: bool,
}

pub(crate) async fn run(context: &Context, args: DeployArgs) -> Result<(), Failure> {
    let templates =
        face::default_templates(&context.paths, args.default_templates.as_deref(), &[])?;
    let source = descriptor_source(&args.descriptor, &args.arguments, templates)?;
    let mode = if args.now {
        DeployMode::Now
    } else if args.rolling {
        DeployMode::Rolling
    } else if args.no_restart {
        DeployMode::WithoutRestart
    } else {
        DeployMode::Careful
    };
    let request = Request::Deploy {
        source,
        dry_run: args.dry_run,
        mode,
    };
    let grid = context.grid().await?;
    let Reply::Deployed(report) = grid.call(request).await? else {
        return Err(strange());
    };
    if context.is_json() {
        return context.json(&report);
    }
    show(context, &report)?;
    let held = report.changes.iter().any(|change| change.effect == "held");
    if args.rolling && held && report.applied {
        drain::watch_rollout(context, &grid).await?;
    }
    Ok(())
}

pub(crate) async fn reload(context: &Context) -> Result<(), Failure> {
    let request = Request::Reload { spare: false };
    match context.grid().await?.call(request).await? {
        Reply::Reloaded { reports } if context.is_json() => context.json(&reports),
        Reply::Reloaded { reports } => reports.iter().try_for_each(|report| show(context, report)),
        _ => Err(strange()),
    }
}

pub(crate) fn show(context: &Context, report: &DeployReport) -> Result<(), Failure> {
    for warning in &report.warnings {
        context.say(warning)?;
    }
    let name = &report.application;
    let is_same = report.changes.is_empty()
        && report.nodes_added.is_empty()
        && report.nodes_removed.is_empty();
    if is_same {
        return context.say(format!("{name}: nothing differs"));
    }
    for node in &report.nodes_added {
        context.say(format!("node {node}: added"))?;
    }
    for node in &report.nodes_removed {
        context.say(format!("node {node}: removed"))?;
    }
    if !report.changes.is_empty() {
        let mut table = plain_table(&["SERVER", "NODE", "CHANGE", "PROCESS", "SESSIONS", "WHAT"]);
        for change in &report.changes {
            table.add_row([
                change.server.to_string(),
                change
                    .node
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                change.change.clone(),
                if change.effect == "none" {
                    String::new()
                } else {
                    change.effect.clone()
                },
                if change.sessions > 0 {
                    change.sessions.to_string()
                } else {
                    String::new()
                },
                change.details.join(", "),
            ]);
        }
        context.table(&table)?;
    }
    if report.changes.iter().any(|change| change.effect == "held") {
        context.say(
            "held: goes on as it is until it is restarted: `omero-grid restart --rolling --outdated`",
        )?;
    }
    context.say(if report.applied {
        format!("{name}: deployed; `omero-grid status` shows how it goes")
    } else {
        format!("{name}: this is the plan; nothing was changed")
    })
}
