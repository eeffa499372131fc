//! The master's own process: `start` runs this program again, is told in one line whether it listens, and lets it go.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

use clap::Args;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::face;
use super::failure::{Failure, code};
use crate::config::Paths;
use crate::config::SiteFiles;
use crate::descriptor;
use crate::icegrid::Face;
use crate::ipc::message::client::DescriptorSource;
use crate::ipc::message::heritage::Log;
use crate::master::{self, Master, MasterError};
use crate::model::NodeName;
use crate::sys::spawn::Spawn;
use crate::telemetry::{self, LogFormat, LogOptions, chain};

/// What `start` hands to the master's process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) descriptor: Option<DescriptorSource>,
    pub(crate) builtin: bool,
    /// A grid without applications is meant.
    #[serde(default)]
    pub(crate) bare: bool,
    pub(crate) nodes: Vec<NodeName>,
    pub(crate) all: bool,
    pub(crate) wait_secs: u64,
    pub(crate) log_format: LogFormat,
    pub(crate) verbose: u8,
    /// Properties of the registry that were given to this start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ice: Vec<(String, String)>,
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
    /// The descriptor that has to be deployed once what runs is adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    later: Option<DescriptorSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
}

/// What a master that was just started has to say.
pub(crate) struct Launched {
    pub(crate) notices: Vec<String>,
    pub(crate) later: Option<DescriptorSource>,
}

/// Starts the master's process and returns once it listens.
pub(crate) fn launch(context: &Context, handover: &Handover) -> Result<Launched, Failure> {
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
            later,
            ..
        }) => Ok(Launched { notices, later }),
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
pub(crate) async fn run(context: &Context, args: MasterArgs) -> Result<(), Failure> {
    let handover: Handover = serde_json::from_str(&args.handover)
        .map_err(|e| Failure::new(code::USAGE, e.to_string()))?;
    // Whoever started it may be gone, which is no reason for a grid to be without its master.
    let report = |report: &Report| {
        let line = serde_json::to_string(report).unwrap_or_default();
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    match prepare(context, handover, false).await {
        Ok((mut master, face)) => {
            report(&Report {
                ready: true,
                notices: master.notices().to_vec(),
                later: master.take_later(),
                ..Report::default()
            });
            crate::sys::stdio::redirect_to(&context.paths.master_log())?;
            face::serve(master, face).await
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
            });
            Err(Failure::shown(code))
        }
    }
}

pub(crate) async fn foreground(context: &Context, handover: Handover) -> Result<(), Failure> {
    let (master, face) = prepare(context, handover, true).await?;
    face::serve(master, face).await
}

async fn prepare(
    context: &Context,
    handover: Handover,
    foreground: bool,
) -> Result<(Master, Option<Face>), Failure> {
    let paths = context.paths.clone();
    // Only root has to read the descriptor for this.
    if geteuid().is_root() && may_give_up_root(&paths, handover.descriptor.as_ref()) {
        crate::sys::user::become_owner_of(paths.dir()).map_err(|error| {
            Failure::new(
                code::FAILED,
                format!(
                    "cannot become the owner of {}: {error}",
                    paths.dir().display()
                ),
            )
        })?;
    }
    std::env::set_current_dir(paths.dir()).map_err(|error| {
        Failure::new(
            code::USAGE,
            format!("cannot use {}: {error}", paths.dir().display()),
        )
    })?;
    let logs = LogOptions {
        file: Some(paths.master_log()),
        stderr: foreground,
        format: handover.log_format,
        filter: log_filter(handover.verbose),
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
        bare: handover.bare,
        nodes: handover.nodes,
        all: handover.all,
        wait: Duration::from_secs(handover.wait_secs),
        log: Log {
            format: handover.log_format,
            verbose: handover.verbose,
            stderr: foreground,
        },
        ice: handover.ice.clone(),
    };
    let mut master = Master::prepare(options).await.map_err(master_failure)?;
    let face = face::open(&mut master, &handover.ice, Vec::new()).await?;
    master.prepare_store().await.map_err(master_failure)?;
    Ok((master, face))
}

/// Returns whether the grid can do without root: not if a server names its user, and not if it began as root.
fn may_give_up_root(paths: &Paths, source: Option<&DescriptorSource>) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match source.map(|source| descriptor::load(&SiteFiles, &source.request())) {
        Some(Ok(loaded)) => loaded
            .deployment
            .servers
            .values()
            .all(|placed| placed.descriptor.user.is_empty()),
        // What does not hold is said later.
        Some(Err(_)) => true,
        None => !std::fs::metadata(paths.state_db()).is_ok_and(|metadata| metadata.uid() == 0),
    }
}

/// Returns what is logged: `OMERO_GRID_LOG`, else what `-v` says.
pub(crate) fn log_filter(verbose: u8) -> String {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    std::env::var("OMERO_GRID_LOG").unwrap_or_else(|_| level.to_owned())
}

pub(crate) fn master_failure(error: MasterError) -> Failure {
    match error {
        MasterError::Running { .. } => Failure::new(code::REFUSED, error.to_string())
            .hint("`omero-grid status` shows it; `omero-grid deploy` changes what it runs"),
        MasterError::LockTaken { .. } => Failure::new(code::REFUSED, error.to_string())
            .hint("`fuser` or `lsof` on the file show it"),
        MasterError::DataTaken { .. } => Failure::new(code::REFUSED, error.to_string())
            .hint("stop that grid, or set omero.data.dir to a directory of this grid's own"),
        MasterError::StoreChoice(_) => Failure::new(code::INVALID, chain(&error)),
        MasterError::Load(error) => Failure::new(code::INVALID, error.in_full()),
        MasterError::NoDescriptor(_) => Failure::new(code::INVALID, error.to_string())
            .hint("name a descriptor, or use --builtin for the one that is compiled in"),
        MasterError::NoSuchNode { .. } => Failure::new(code::NOT_THERE, error.to_string()),
        MasterError::Directory { .. } => Failure::new(code::FAILED, chain(&error))
            .hint("check that it can be written and that nothing else has its name"),
        error => Failure::new(code::FAILED, chain(&error)),
    }
}
