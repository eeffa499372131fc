//! `omero-grid stop` and `restart`.

use std::time::Duration;

use clap::Args;

use super::context::{Context, Grid, within};
use super::failure::{Failure, code};
use super::master_process::{Handover, launch, master_failure};
use super::start::wait_until_up;
use super::{drain, leftovers};
use crate::config;
use crate::config::SiteFiles;
use crate::descriptor;
use crate::ipc::message::client::{DescriptorSource, Request, RollAction};
use crate::master::{LoadError, MasterError};
use crate::sys::process::PidFd;

/// Arguments of `stop`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    /// Stop waiting after this many seconds; the grid goes on stopping [default: wait until it has stopped]
    #[arg(long, value_name = "SECS")]
    wait: Option<u64>,
    /// Take no new sessions and stop when the last one has ended
    #[arg(long)]
    drain: bool,
    /// With --drain: close the sessions that are left after so many seconds [default: never]
    #[arg(long, value_name = "SECS", requires = "drain")]
    deadline: Option<u64>,
}

pub(crate) async fn stop(context: &Context, args: StopArgs) -> Result<(), Failure> {
    let limit = args.wait.map(Duration::from_secs);
    let grid = match context.grid().await {
        Ok(grid) => grid,
        Err(failure) if failure.code == code::NOT_THERE => {
            return leftovers::stop(context, limit).await;
        }
        Err(failure) => return Err(failure),
    };
    let (_, before) = grid.status().await?;
    if args.drain {
        drain::before_stop(context, &grid, args.deadline).await?;
    }
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
    let process = PidFd::of(grid.pid());
    match grid.call(Request::Stop).await {
        Ok(_) => {}
        // It was stopping already, and has ended meanwhile.
        Err(_) if process.is_none() => return Ok(()),
        Err(failure) => {
            let gone = async { process.as_ref().map(PidFd::ended)?.await.ok() };
            if within(Some(Duration::from_secs(10)), gone)
                .await
                .flatten()
                .is_some()
            {
                return in_order(context);
            }
            return Err(failure);
        }
    }
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
    })?;
    in_order(context)
}

/// Tells a master that has ended with its grid from one that was killed before.
fn in_order(context: &Context) -> Result<(), Failure> {
    if context.socket()?.exists() {
        return Err(
            Failure::new(code::FAILED, "the master died before the grid had stopped")
                .hint("`omero-grid status` shows what is left; `omero-grid stop` stops it"),
        );
    }
    Ok(())
}

/// Arguments of `restart`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestartArgs {
    /// How long to wait until every server is active again, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    wait: u64,
    /// Restart the Blitzes one after another, each when its sessions have ended; everything else goes on
    #[arg(long)]
    rolling: bool,
    /// With --rolling: these Blitzes, or all Blitzes of these nodes [default: every Blitz that runs]
    #[arg(value_name = "ID|NODE", requires = "rolling")]
    names: Vec<String>,
    /// With --rolling: only those that run with an older definition than the one deployed
    #[arg(long, requires = "rolling", conflicts_with = "names")]
    outdated: bool,
    /// With --rolling: close the sessions that are left on a Blitz after so many seconds [default: never]
    #[arg(long, value_name = "SECS", requires = "rolling")]
    deadline: Option<u64>,
    /// With --rolling: go on after a failure
    #[arg(long = "continue", requires = "rolling", conflicts_with_all = ["names", "outdated", "deadline"])]
    go_on: bool,
    /// With --rolling: restart no further Blitz
    #[arg(long, requires = "rolling", conflicts_with_all = ["names", "outdated", "deadline", "go_on"])]
    abort: bool,
}

async fn rolling(context: &Context, args: RestartArgs) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let action = if args.abort {
        RollAction::Abort
    } else if args.go_on {
        RollAction::Continue
    } else {
        RollAction::Start {
            names: args.names,
            outdated: args.outdated,
            deadline_ms: args.deadline.map(|seconds| seconds.saturating_mul(1000)),
        }
    };
    grid.call(Request::Roll { action }).await?;
    if args.abort {
        return context.say("no further Blitz is restarted");
    }
    drain::watch_rollout(context, &grid).await
}

pub(crate) async fn restart(context: &Context, args: RestartArgs) -> Result<(), Failure> {
    if args.rolling {
        return rolling(context, args).await;
    }
    let grid = context.grid().await?;
    let (_, status) = grid.status().await?;
    // What does not hold is found before anything stops.
    for application in status.applications.iter().filter(|a| a.source.is_file()) {
        check(context, &application.source).map_err(|error| Failure {
            hint: Some("nothing was stopped".to_owned()),
            ..master_failure(MasterError::Load(error))
        })?;
    }
    stop_grid(context, &grid, None).await?;
    let handover = Handover {
        wait_secs: args.wait,
        verbose: context.verbose,
        ..Handover::default()
    };
    launch(context, &handover)?;
    let grid = context.grid().await?;
    wait_until_up(context, &grid, Duration::from_secs(args.wait)).await
}

/// Reads a descriptor and the site's configuration as the next master will.
fn check(context: &Context, source: &DescriptorSource) -> Result<(), LoadError> {
    let mut request = source.request();
    let profile = config::active_profile(context.paths.dir());
    request.profile = profile.map_err(LoadError::Configuration)?;
    descriptor::load(&SiteFiles, &request).map_err(LoadError::Descriptor)?;
    Ok(())
}
