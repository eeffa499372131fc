//! What every command gets: where the grid is, how to print, and the way to its master.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::time::Instant;

use super::failure::{Failure, code};
use crate::config::Paths;
use crate::ipc::message::client::{ClientLink, GridStatus, Reply, Request};
use crate::ipc::{
    Address, CallError, Client, ConnectError, Hello, HelloError, RefusalKind, Role, RunDir,
};
use crate::sys::lock::Lock;
use crate::sys::process::stat;
use crate::sys::watch::Arrivals;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The directory of the grid, OMERODIR [default: $OMERODIR, else the current directory]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) dir: Option<PathBuf>,
    /// Where the grid keeps its state, below var/ [default: $STATE_DIRECTORY, else OMERODIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) state: Option<PathBuf>,
    /// How results are written: text for people, json for programs
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        global = true
    )]
    pub(crate) format: Format,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Make a grid that is started log more: -v debug, -vv trace
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
}

/// What every command gets.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) paths: Paths,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
}

/// Where the state of a grid is, below OMERODIR, that was started as `icegridnode` is started: beside what IceGrid keeps there, of which nothing
/// is touched.
pub(crate) const BESIDE: &str = "var/omero-grid";

/// How often a connection that ends before the introduction is tried again.
const TRIES: u32 = 3;

/// How long the next master is waited for when one died under a command.
const NEXT_MASTER: Duration = Duration::from_secs(20);

/// The way to a master, and to the next one if it dies.
pub(crate) struct Grid {
    context: Context,
    link: Mutex<Link>,
}

/// A connection to a master.
#[derive(Clone)]
struct Link {
    client: Client<ClientLink>,
    pid: u32,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let dir = global
            .dir
            .clone()
            .or_else(|| set("OMERODIR"))
            .unwrap_or_else(|| PathBuf::from("."));
        let dir = absolute(&dir)?;
        // systemd separates several state directories by colons; the first is ours.
        let first = |list: PathBuf| {
            PathBuf::from(list.to_string_lossy().split(':').next().unwrap_or_default())
        };
        let state = match global
            .state
            .clone()
            .or_else(|| set("STATE_DIRECTORY").map(first))
        {
            Some(state) => absolute(&state)?,
            None => {
                // A grid that was started as `icegridnode` is started.
                let beside = dir.join(BESIDE);
                let is_there = beside.join("var/grid").is_dir() && !dir.join("var/grid").exists();
                if is_there { beside } else { dir.clone() }
            }
        };
        Ok(Self {
            paths: Paths::new(dir, state),
            format: global.format,
            quiet: global.quiet,
            verbose: global.verbose,
        })
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Connects to the master; exit code 3 if there is none.
    pub(crate) async fn grid(&self) -> Result<Grid, Failure> {
        let link = match connect(&self.socket()?).await {
            Ok(link) => link,
            Err(error) => return Err(self.unanswered(&error).unwrap_or_else(|| error.into())),
        };
        Ok(Grid {
            context: self.clone(),
            link: Mutex::new(link),
        })
    }

    /// Says what to do about a master that is there and does not answer.
    fn unanswered(&self, error: &ConnectError) -> Option<Failure> {
        let ConnectError::Hello {
            source: HelloError::Silent,
            ..
        } = error
        else {
            return None;
        };
        let pid = Lock::holder(&self.paths.master_lock())?;
        let adopts = "`omero-grid start` then adopts nodes and servers as they are";
        let (is, hint) = if stat(pid).is_some_and(|stat| stat.is_stopped()) {
            (
                "is stopped",
                format!(
                    "`kill -CONT {pid}` lets it go on; or end it with `kill -9 {pid}`: {adopts}"
                ),
            )
        } else {
            (
                "does not answer",
                format!("if it hangs for longer, end it with `kill -9 {pid}`: {adopts}"),
            )
        };
        let message = format!("the master (process {pid}) {is}");
        Some(Failure::new(code::TIMED_OUT, message).hint(hint))
    }

    /// Returns where the master's socket is. One that has ended in order has taken it away.
    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        Ok(RunDir::find(self.paths.state())?.socket(Address::Master))
    }

    /// Writes a JSON document.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Failure::new(code::FAILED, e.to_string()))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(())
    }

    /// Writes a line for people, unless they want it quiet or are programs.
    pub(crate) fn say(&self, line: impl AsRef<str>) -> Result<(), Failure> {
        if !self.quiet && !self.is_json() {
            let mut out = anstream::stdout().lock();
            writeln!(out, "{}", line.as_ref())?;
        }
        Ok(())
    }

    /// Writes a table for people.
    pub(crate) fn table(&self, table: &comfy_table::Table) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        for line in table.to_string().lines() {
            writeln!(out, "{}", line.trim())?;
        }
        Ok(())
    }

    /// Returns a spinner on a terminal, else one that shows nothing.
    pub(crate) fn spinner(&self) -> indicatif::ProgressBar {
        if self.quiet || self.is_json() || !std::io::stderr().is_terminal() {
            return indicatif::ProgressBar::hidden();
        }
        let bar = indicatif::ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

async fn connect(socket: &Path) -> Result<Link, ConnectError> {
    let me = Hello::new(Role::Client, "omero-grid");
    let mut tries = 0;
    loop {
        match Client::connect(socket, &me).await {
            Ok((client, master, _)) => {
                return Ok(Link {
                    client,
                    pid: master.pid,
                });
            }
            // The master is just making way for another program in its process, which answers whoever comes next.
            Err(ConnectError::Hello {
                source: HelloError::Closed | HelloError::Frame(_),
                ..
            }) if tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Grid {
    /// Asks the master. If it dies meanwhile, what may be asked twice is asked of the next one.
    pub(crate) async fn call(&self, mut request: Request) -> Result<Reply, Failure> {
        let mut deadline = None;
        loop {
            let client = self.link().client;
            match client.call(&request).await {
                Err(CallError::Lost) if request.is_repeatable() => {
                    if let Request::Status { after, .. } = &mut request {
                        // The next master counts anew.
                        *after = None;
                    }
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + NEXT_MASTER);
                    self.reconnect(deadline).await?;
                }
                Err(CallError::Lost) => return Err(outcome_unknown(&request)),
                // Another program takes its place; nothing was done.
                Err(CallError::Refused(refusal)) if refusal.kind == RefusalKind::Again => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + NEXT_MASTER);
                    self.reconnect(deadline).await?;
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// Connects to the master that follows one that died. One that has ended in order is followed by none.
    async fn reconnect(&self, deadline: Instant) -> Result<(), Failure> {
        let socket = self.context.socket()?;
        // Before the first look, so that nothing falls between.
        let arrivals = Arrivals::watch(socket.parent().unwrap_or(Path::new("/")))?;
        let mut told = self.context.quiet || !std::io::stderr().is_terminal();
        loop {
            match tokio::time::timeout_at(deadline, connect(&socket)).await {
                Ok(Ok(link)) => {
                    *self.lock() = link;
                    return Ok(());
                }
                Ok(Err(ConnectError::Nobody { .. })) if !socket.exists() => {
                    return Err(Failure::new(code::FAILED, "the grid was stopped meanwhile")
                        .hint("omero-grid start [DESCRIPTOR]"));
                }
                // Its socket is still there: it was killed.
                Ok(Err(_)) | Err(_) => {}
            }
            if !told {
                told = true;
                writeln!(
                    anstream::stderr(),
                    "the master died; waiting up to {NEXT_MASTER:?} for the next one (`omero-grid start`)"
                )?;
            }
            // Cancel safe: what appears is only a reason to look again.
            match tokio::time::timeout_at(deadline, arrivals.next()).await {
                Ok(appeared) => appeared?,
                Err(_) => {
                    return Err(Failure::new(
                        code::FAILED,
                        format!("the master died, and no other came within {NEXT_MASTER:?}"),
                    )
                    .hint("`omero-grid start` adopts what is left; then try again"));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Link {
        self.lock().clone()
    }

    /// Returns the master's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.link().pid
    }

    pub(crate) async fn status(&self) -> Result<(u64, GridStatus), Failure> {
        match self
            .call(Request::Status {
                after: None,
                wait_ms: 0,
            })
            .await?
        {
            Reply::Status { revision, status } => Ok((revision, *status)),
            _ => Err(strange()),
        }
    }

    /// Waits for a status other than that of `revision`, for a while.
    pub(crate) async fn next_status(&self, revision: u64) -> Result<(u64, GridStatus), Failure> {
        let wait_ms = 30_000;
        match self
            .call(Request::Status {
                after: Some(revision),
                wait_ms,
            })
            .await?
        {
            Reply::Status { revision, status } => Ok((revision, *status)),
            _ => Err(strange()),
        }
    }

    /// Watches the status until `look` has seen enough or the time is over; `None` then.
    pub(crate) async fn watch<T>(
        &self,
        limit: Option<Duration>,
        mut look: impl FnMut(&GridStatus) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let watching = async {
            let (mut revision, mut status) = self.status().await?;
            loop {
                if let Some(seen) = look(&status) {
                    return Ok(seen);
                }
                (revision, status) = self.next_status(revision).await?;
            }
        };
        within(limit, watching).await.transpose()
    }

    /// Waits until the connection has ended.
    pub(crate) async fn closed(&self) {
        self.link().client.closed().await;
    }
}

/// Runs a future for at most `limit`; `None` if that was not enough.
pub(crate) async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// The master died before it answered, and asking again might do a thing twice.
fn outcome_unknown(request: &Request) -> Failure {
    let look = match request {
        Request::CreateSession { .. }
        | Request::JoinSession { .. }
        | Request::CloseSession { .. }
        | Request::CloseUser { .. }
        | Request::MoveSession { .. } => "`omero-grid session list`",
        Request::Blitz { .. } => "`omero-grid user list`",
        _ => "`omero-grid events` and `omero-grid status`",
    };
    Failure::new(
        code::FAILED,
        "the master died before it answered; whether this was done is unknown",
    )
    .hint(format!(
        "`omero-grid start` adopts what is left; then {look} shows what was done"
    ))
}

/// An answer of the wrong type.
pub(crate) fn strange() -> Failure {
    Failure::new(
        code::FAILED,
        "the answer is not one to this request; are master and command line of one release?",
    )
}

/// Makes a path absolute, following links where it exists.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| {
        Failure::new(
            code::USAGE,
            format!("{} is no directory: {error}", path.display()),
        )
    })?;
    Ok(absolute.canonicalize().unwrap_or(absolute))
}
