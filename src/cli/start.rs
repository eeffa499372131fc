//! `omero-grid start`, `stop`, `restart`, and the master's own process.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::context::{Context, Grid, absolute, within};
use super::failure::{Failure, code};
use super::status;
use crate::descriptor::{self, Disk};
use crate::ipc::message::client::{DescriptorSource, GridStatus, NodeStatus, Request};
use crate::ipc::message::node::{Goal, ServerReport};
use crate::master::{self, Master, MasterError};
use crate::model::{Activation, NodeName, NodeState};
use crate::sys::process::{PidFd, stat};
use crate::sys::spawn::Spawn;
use crate::telemetry::{self, LogFormat, LogOptions, chain};

/// Arguments of `start`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StartArgs {
    /// The application descriptor [default: the last one deployed, else etc/grid/default.xml]
    descriptor: Option<PathBuf>,
    /// Targets of the descriptor to select, and variables to override
    #[arg(value_name = "TARGET|NAME=VALUE")]
    arguments: Vec<String>,
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
}

/// What `start` hands to the master's process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Handover {
    descriptor: Option<DescriptorSource>,
    builtin: bool,
    nodes: Vec<NodeName>,
    all: bool,
    wait_secs: u64,
    log_format: LogFormat,
    verbose: u8,
}

/// Arguments of the master's process.
#[derive(Debug, Clone, Args)]
pub(crate) struct MasterArgs {
    /// What `start` was told, as JSON
    #[arg(long)]
    handover: String,
}

/// What a starting process says of itself on its standard output, in one line.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    #[serde(default)]
    ready: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notices: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
}

/// Turns the words after the descriptor into targets and overrides, as icegridadmin does.
pub(crate) fn descriptor_source(
    path: &std::path::Path,
    arguments: &[String],
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
    })
}

pub(crate) async fn start(context: &Context, args: StartArgs) -> Result<(), Failure> {
    let descriptor = args
        .descriptor
        .as_deref()
        .map(|path| descriptor_source(path, &args.arguments))
        .transpose()?;
    let handover = Handover {
        descriptor,
        builtin: args.builtin,
        nodes: args.node,
        all: args.all,
        wait_secs: args.wait,
        log_format: args.log_format,
        verbose: context.verbose,
    };
    if args.foreground {
        return foreground(context, handover).await;
    }
    let notices = launch(context, &handover).await?;
    for notice in notices {
        context.say(notice)?;
    }
    let grid = context.grid().await?;
    wait_until_up(context, &grid, Duration::from_secs(args.wait)).await
}

/// Starts the master's process and returns once it listens, with what it has to say.
async fn launch(context: &Context, handover: &Handover) -> Result<Vec<String>, Failure> {
    let handover =
        serde_json::to_string(handover).map_err(|e| Failure::new(code::FAILED, e.to_string()))?;
    let paths = &context.paths;
    let args: Vec<OsString> = [
        OsStr::new("master-process"),
        OsStr::new("--dir"),
        paths.dir().as_os_str(),
        OsStr::new("--state"),
        paths.state().as_os_str(),
        OsStr::new("--handover"),
        OsStr::new(&handover),
    ]
    .map(OsStr::to_owned)
    .into();
    let env = master::inherited_environment();
    let (read, write) = std::io::pipe()?;
    let write = OwnedFd::from(write);
    {
        let mut spawn = Spawn::new("/proc/self/exe", &args, &env, paths.dir());
        spawn.argv0 = Some(OsStr::new("omero-grid"));
        spawn.stdout = Some(&write);
        spawn.stderr = Some(&write);
        spawn.new_session = true;
        spawn
            .start()
            .map_err(|error| Failure::new(code::FAILED, chain(&error)))?;
    }
    drop(write);
    // A blocking read is all there is to do.
    let text = std::io::read_to_string(std::io::Read::take(read, 1 << 20))?;
    let report = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Report>(line).ok());
    match report {
        Some(Report {
            ready: true,
            notices,
            ..
        }) => Ok(notices),
        Some(Report {
            error: Some(message),
            hint,
            exit,
            ..
        }) => Err(Failure {
            code: exit.unwrap_or(code::FAILED),
            message,
            hint,
        }),
        _ => Err(Failure::new(
            code::FAILED,
            format!("the master ended before it listened: {}", text.trim()),
        )
        .hint(format!("see {}", paths.master_log().display()))),
    }
}

/// The master's process: reports on standard output whether it listens, then serves.
pub(crate) async fn master_process(context: &Context, args: MasterArgs) -> Result<(), Failure> {
    let handover: Handover = serde_json::from_str(&args.handover)
        .map_err(|e| Failure::new(code::USAGE, e.to_string()))?;
    let report = |report: &Report| -> Result<(), Failure> {
        let line = serde_json::to_string(report).unwrap_or_default();
        writeln!(std::io::stdout(), "{line}")?;
        Ok(())
    };
    match prepare(context, handover, false).await {
        Ok(master) => {
            report(&Report {
                ready: true,
                notices: master.notices().to_vec(),
                ..Report::default()
            })?;
            crate::sys::stdio::redirect_to(&context.paths.master_log())?;
            master.serve().await.map_err(master_failure)
        }
        Err(failure) => {
            let Failure {
                code,
                message,
                hint,
            } = failure;
            report(&Report {
                error: Some(message),
                hint,
                exit: Some(code),
                ..Report::default()
            })?;
            Err(Failure::shown(code))
        }
    }
}

async fn foreground(context: &Context, handover: Handover) -> Result<(), Failure> {
    prepare(context, handover, true)
        .await?
        .serve()
        .await
        .map_err(master_failure)
}

async fn prepare(
    context: &Context,
    handover: Handover,
    foreground: bool,
) -> Result<Master, Failure> {
    let paths = context.paths.clone();
    std::env::set_current_dir(paths.dir()).map_err(|error| {
        Failure::new(
            code::USAGE,
            format!("cannot use {}: {error}", paths.dir().display()),
        )
    })?;
    let filter =
        std::env::var("OMERO_GRID_LOG").unwrap_or_else(|_| log_filter(handover.verbose).to_owned());
    let logs = LogOptions {
        file: paths.master_log(),
        stderr: foreground,
        format: handover.log_format,
        filter,
    };
    telemetry::init(&logs).map_err(|error| {
        Failure::new(code::FAILED, chain(&error)).hint(format!(
            "check that {} can be written and has room",
            paths.logs().display()
        ))
    })?;
    let options = master::Options {
        paths,
        descriptor: handover.descriptor,
        builtin: handover.builtin,
        nodes: handover.nodes,
        all: handover.all,
        wait: Duration::from_secs(handover.wait_secs),
    };
    Master::prepare(options).await.map_err(master_failure)
}

pub(crate) fn log_filter(verbose: u8) -> &'static str {
    match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    }
}

fn master_failure(error: MasterError) -> Failure {
    match error {
        MasterError::Running { .. } => Failure::new(code::REFUSED, error.to_string())
            .hint("`omero-grid status` shows it; `omero-grid deploy` changes what it runs"),
        MasterError::DataTaken { .. } => Failure::new(code::REFUSED, error.to_string())
            .hint("stop that grid, or set omero.data.dir to a directory of this grid's own"),
        MasterError::Descriptor(diagnostics) => {
            let lines: Vec<_> = diagnostics.0.iter().map(ToString::to_string).collect();
            Failure::new(code::INVALID, lines.join("\n"))
        }
        MasterError::NoDescriptor(_) => Failure::new(code::INVALID, error.to_string())
            .hint("name a descriptor, or use --builtin for the one that is compiled in"),
        MasterError::NoSuchNode { .. } => Failure::new(code::NOT_THERE, error.to_string()),
        error => Failure::new(code::FAILED, chain(&error)),
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
        .filter(|server| !master::is_ready(server))
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
        if servers.is_empty() && node.state != NodeState::Up {
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
            let done = missing.is_empty() && !status.nodes.is_empty();
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

/// Arguments of `stop`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    /// Stop waiting after this many seconds; the grid goes on stopping [default: wait until it has stopped]
    #[arg(long, value_name = "SECS")]
    wait: Option<u64>,
}

pub(crate) async fn stop(context: &Context, args: StopArgs) -> Result<(), Failure> {
    let limit = args.wait.map(Duration::from_secs);
    let grid = match context.grid().await {
        Ok(grid) => grid,
        Err(failure) if failure.code == code::NOT_THERE => {
            return super::leftovers::stop(context, limit).await;
        }
        Err(failure) => return Err(failure),
    };
    let (_, before) = grid.status().await?;
    stop_grid(context, &grid, limit).await?;
    let names: Vec<_> = before
        .applications
        .iter()
        .map(|a| a.name.as_str())
        .collect();
    if context.is_json() {
        return context.json(&serde_json::json!({ "stopped": names }));
    }
    context.say(format!("{} has stopped", names.join(", ")))
}

async fn stop_grid(context: &Context, grid: &Grid, limit: Option<Duration>) -> Result<(), Failure> {
    let process =
        stat(grid.pid).and_then(|stat| PidFd::open(grid.pid, stat.start_time).ok().flatten());
    grid.call(Request::Stop).await?;
    let bar = context.spinner();
    let stopping = async {
        let watching = grid.watch(None, |status| {
            let left: Vec<_> = status
                .nodes
                .iter()
                .flat_map(|n| &n.servers)
                .filter(|s| s.pid.is_some())
                .map(|s| s.id.as_str())
                .collect();
            let shown: Vec<_> = left.iter().take(4).copied().collect();
            bar.set_message(format!("{} left: {}", left.len(), shown.join(", ")));
            None::<()>
        });
        // The master's end is the end of the connection, then of the process.
        tokio::select! {
            _ = watching => {}
            () = grid.closed() => {}
        }
        if let Some(process) = process {
            let _ = process.ended().await;
        }
    };
    let ended = within(limit, stopping).await;
    bar.finish_and_clear();
    ended.ok_or_else(|| {
        Failure::new(code::TIMED_OUT, "the grid has not stopped yet")
            .hint("it goes on; `omero-grid status` shows what is left")
    })
}

/// Arguments of `restart`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestartArgs {
    /// How long to wait until every server is active again, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    wait: u64,
}

pub(crate) async fn restart(context: &Context, args: RestartArgs) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let (_, status) = grid.status().await?;
    // What does not hold is found before anything stops.
    for application in &status.applications {
        let source = &application.source;
        let request = descriptor::Request {
            file: source.path.clone(),
            targets: source.targets.clone(),
            overrides: source.overrides.clone(),
            ..descriptor::Request::default()
        };
        if let Err(diagnostics) = descriptor::load(&Disk, &request) {
            return Err(Failure {
                hint: Some("nothing was stopped".to_owned()),
                ..master_failure(MasterError::Descriptor(diagnostics))
            });
        }
    }
    stop_grid(context, &grid, None).await?;
    let handover = Handover {
        wait_secs: args.wait,
        verbose: context.verbose,
        ..Handover::default()
    };
    launch(context, &handover).await?;
    let grid = context.grid().await?;
    wait_until_up(context, &grid, Duration::from_secs(args.wait)).await
}
