//! `omero-grid upgrade`: another version of this program in the processes of the running grid; and the other side of that.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::context::{Context, Grid, strange, within};
use super::face;
use super::failure::{Failure, code};
use super::master_process::{log_filter, master_failure};
use crate::config::Paths;
use crate::ipc::message::client::{Reply, Request};
use crate::ipc::message::heritage::{FORMAT, Heritage, HeritageRole};
use crate::master::{self, Master};
use crate::node;
use crate::sys::successor::{self, Inheritance, Successor};
use crate::telemetry::{self, LogOptions, chain};

/// The largest document that `self-check` reads, in bytes.
const MAX_DOCUMENT: u64 = 64 * 1024 * 1024;

/// How long the master may take to answer as the new program.
const BACK: Duration = Duration::from_secs(60);

/// How long the old program may take to hang up.
const LEAVE: Duration = Duration::from_secs(20);

/// Arguments of `upgrade`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpgradeArgs {
    /// The program to go on as [default: the one that this command runs]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: UpgradeArgs) -> Result<(), Failure> {
    let binary = match args.binary {
        Some(path) => path.canonicalize().map_err(|error| {
            Failure::new(
                code::FAILED,
                format!("cannot use {}: {error}", path.display()),
            )
        })?,
        None => std::env::current_exe()?,
    };
    let grid = context.grid().await?;
    let old = grid.status().await?.1.master.version;
    let spinner = context.spinner();
    spinner.set_message("asks the new program, then node after node");
    let request = Request::Upgrade {
        binary: binary.clone(),
    };
    let pid = grid.pid();
    let Reply::Upgraded { version, nodes } = grid.call(request).await? else {
        return Err(strange());
    };
    let begun = Instant::now();
    spinner.set_message("waits for the master");
    let successor =
        Successor::open(&binary).map_err(|error| Failure::new(code::FAILED, chain(&error)))?;
    let back = within(Some(BACK), follow(context, grid, &successor)).await;
    let pause = begun.elapsed();
    spinner.finish_and_clear();
    if !back.transpose()?.unwrap_or(false) {
        return Err(Failure::new(
            code::FAILED,
            "the nodes run the new program; the master goes on with the old one",
        )
        .hint(format!("see {}", context.paths.master_log().display())));
    }
    if context.is_json() {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(name, pid)| json!({ "name": name, "pid": pid }))
            .collect();
        return context.json(&json!({
            "from": old,
            "to": version,
            "binary": binary,
            "master": { "pid": pid },
            "nodes": nodes,
            "pause_ms": u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
        }));
    }
    for (name, pid) in nodes {
        context.say(format!("node {name} (pid {pid}) runs {version}"))?;
    }
    context.say(format!(
        "the master (pid {pid}) runs {version}, before {old}; it did not answer for {} ms",
        pause.as_millis()
    ))?;
    context.say("Blitzes keep the program that they run until 'omero-grid restart --rolling'")
}

/// Follows the master into its new program. Returns whether it runs that.
async fn follow(context: &Context, grid: Grid, successor: &Successor) -> Result<bool, Failure> {
    let pid = grid.pid();
    let mut grid = grid;
    // The socket never closes: whoever connects is answered, by the old program or the new one. The old one hangs up when it goes.
    loop {
        if successor.is_run_by(pid) {
            return Ok(context.grid().await?.pid() == pid);
        }
        if within(Some(LEAVE), grid.closed()).await.is_none() {
            return Ok(false);
        }
        grid = context.grid().await?;
    }
}

/// Reads what a running process would leave on standard input, and says whether this program could go on from it.
pub(crate) fn self_check() -> Result<(), Failure> {
    let mut document = Vec::new();
    std::io::stdin()
        .take(MAX_DOCUMENT)
        .read_to_end(&mut document)?;
    let heritage = understand(&document)?;
    let paths = Paths::new(heritage.dir, heritage.state);
    match heritage.role {
        HeritageRole::Master { .. } => {
            master::check(&paths).map_err(|error| Failure::new(code::FAILED, chain(&error)))?;
        }
        HeritageRole::Node { name, .. } => node::check(&paths.node(&name))?,
    }
    writeln!(std::io::stdout(), "{}", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}

/// Goes on where the program before this one in the same process has stopped.
pub(crate) fn resume(left: &Inheritance) -> Result<(), Failure> {
    let heritage = understand(&left.document)?;
    successor::set_process_name(&heritage.process_name);
    let socket = successor::take(heritage.socket)?;
    let mut locks = Vec::new();
    for (path, file) in heritage.locks {
        locks.push((path, successor::take(file)?));
    }
    let mut listeners = Vec::new();
    if let HeritageRole::Master { registry, .. } = &heritage.role {
        for socket in registry {
            listeners.push(TcpListener::from(successor::take(*socket)?));
        }
    }
    let paths = Paths::new(heritage.dir, heritage.state);
    let log = heritage.log;
    let file = match &heritage.role {
        HeritageRole::Master { .. } => paths.master_log(),
        HeritageRole::Node { name, .. } => paths.node_log(name),
    };
    let logs = LogOptions {
        file: Some(file),
        stderr: log.stderr,
        format: log.format,
        filter: log_filter(log.verbose),
    };
    telemetry::init(&logs).map_err(|error| Failure::new(code::FAILED, chain(&error)))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match heritage.role {
            HeritageRole::Master {
                started_ms,
                wait_secs,
                ice,
                ..
            } => {
                let options = master::Options {
                    paths,
                    descriptor: None,
                    builtin: false,
                    bare: true,
                    nodes: Vec::new(),
                    all: false,
                    wait: Duration::from_secs(wait_secs),
                    log,
                    ice: ice.clone(),
                };
                let mut master =
                    Master::inherit(options, locks, socket, started_ms).map_err(master_failure)?;
                // A grid whose registry cannot listen any more is better than none.
                let face = face::open(&mut master, &ice, listeners)
                    .await
                    .unwrap_or_else(|failure| {
                        tracing::error!(error = failure.message, "the registry does not listen");
                        None
                    });
                face::serve(master, face).await
            }
            HeritageRole::Node { name, servers } => {
                let options = node::Options {
                    name,
                    dir: paths.dir().to_owned(),
                    state: paths.state().to_owned(),
                };
                let Some((_, lock)) = locks.pop() else {
                    return Err(Failure::new(code::FAILED, "a node without its lock"));
                };
                node::resume(options, lock, socket, servers)
                    .await
                    .map_err(|error| Failure::new(error.exit_code(), chain(&error)))
            }
        }
    })
}

fn understand(document: &[u8]) -> Result<Heritage, Failure> {
    let bad = |problem: String| Failure::new(code::FAILED, problem);
    let format: u32 = serde_json::from_slice::<serde_json::Value>(document)
        .ok()
        .and_then(|value| value.get("format")?.as_u64()?.try_into().ok())
        .ok_or_else(|| bad("what would be handed over cannot be read".to_owned()))?;
    if format != FORMAT {
        return Err(bad(format!(
            "what would be handed over has format {format}, this program knows {FORMAT}"
        )));
    }
    serde_json::from_slice(document)
        .map_err(|error| bad(format!("what would be handed over cannot be read: {error}")))
}
