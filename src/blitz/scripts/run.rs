//! One run of a script: a thread that watches over its processes until none is left.
//!
//! A plain thread rather than a task, since all that it does blocks: waiting for the process by poll(2), writing what it writes to
//! files, looking through `/proc`. The end of the script, whoever loses interest and the time limit are three descriptors and a time
//! for one call.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{info, warn};
use uuid::Uuid;

use super::output::{Keeper, Output};
use super::{Kind, ScriptError};
use crate::model::ExitStatus;
use crate::sys::kin::Kin;
use crate::sys::process::{self, FileId};
use crate::sys::spawn::Spawn;
use crate::telemetry::chain;

/// The variable that tells which run a process belongs to.
const MARK: &str = "OMERO_GRID_SCRIPT";

/// How long what a script leaves behind may take to be gone after it was killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an end of all output is waited for before another look.
const MOMENT: Duration = Duration::from_millis(20);

/// Bytes read from a stream at once.
const PIECE: usize = 64 * 1024;

/// How often a stream is read before the time is looked at again.
const PIECES: usize = 64;

/// What is started.
pub(super) struct Launch<'a> {
    pub(super) kind: Kind,
    pub(super) program: &'a str,
    pub(super) script: PathBuf,
    pub(super) words: Vec<OsString>,
    pub(super) env: &'a [(OsString, OsString)],
    pub(super) limit: Duration,
    /// Ends when every script has to end.
    pub(super) closed: Arc<PipeReader>,
}

/// A script that runs. Dropping this ends it, with all that it has started.
#[derive(Debug)]
pub(crate) struct Running {
    /// Closing it says that nobody is interested any more.
    _interest: PipeWriter,
    finished: oneshot::Receiver<Finished>,
}

impl Running {
    /// Waits for the end; `None` if its thread failed. Cancelling ends the script.
    pub(crate) async fn finished(self) -> Option<Finished> {
        self.finished.await.ok()
    }
}

/// Why a script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    Exited,
    /// It had run for as long as it may.
    TimeLimit,
    /// Nobody was interested any more.
    Cancelled,
}

/// A script that has ended. Its output goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Why.
    pub(crate) end: End,
    /// How its main process ended.
    pub(crate) exit: ExitStatus,
    /// How long it ran.
    pub(crate) took: Duration,
    /// What it wrote on standard output.
    pub(crate) stdout: Output,
    /// What it wrote on standard error.
    pub(crate) stderr: Output,
    _directory: Directory,
}

/// The directory of one run, which goes with this value.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn create(below: &Path, id: Uuid) -> io::Result<Self> {
        let path = below.join(format!("script-{id}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        let directory = Self(path);
        DirBuilder::new().mode(0o700).create(directory.work())?;
        Ok(directory)
    }

    /// Returns where the script works.
    fn work(&self) -> PathBuf {
        self.0.join("work")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(?path, %error, "cannot remove the temporary files of a script");
    }
}

/// Starts a script and the thread that watches over it.
pub(super) fn start(
    launch: Launch<'_>,
    temporary: &Path,
    permit: OwnedSemaphorePermit,
) -> Result<Running, ScriptError> {
    let files = |source| ScriptError::Temporary {
        path: temporary.to_owned(),
        source,
    };
    let id = Uuid::new_v4();
    let directory = Directory::create(temporary, id).map_err(files)?;
    let (out, out_end) = stream(&directory.0.join("out")).map_err(files)?;
    let (err, err_end) = stream(&directory.0.join("err")).map_err(files)?;
    let (interested, interest) = io::pipe().map_err(ScriptError::Watch)?;
    let mut kin = Kin {
        variable: MARK,
        value: id.to_string(),
        leader: (0, 0),
        outputs: vec![out.id, err.id],
    };
    let work = directory.work();
    let env = environment(std::env::vars_os(), &kin.value, &work, launch.env);
    let mut args = vec![launch.script.clone().into_os_string()];
    args.extend(launch.words);
    let spawn = Spawn {
        stdout: Some(&out_end),
        stderr: Some(&err_end),
        new_session: true,
        ..Spawn::new(launch.program, &args, &env, &work)
    };
    let (finish, finished) = oneshot::channel();
    let (go, begin) = std::sync::mpsc::sync_channel::<(Watch, OwnedSemaphorePermit)>(1);
    // The thread first: once the script runs there must be somebody to end it.
    std::thread::Builder::new()
        .name("script".to_owned())
        .spawn(move || {
            if let Ok((watch, permit)) = begin.recv() {
                // Whoever asked may have gone; then the output goes too, and only then is there room for another.
                drop(finish.send(watch.run()));
                drop(permit);
            }
        })
        .map_err(ScriptError::Watch)?;
    let began = Instant::now();
    let pid = spawn.start().map_err(|source| ScriptError::Launcher {
        program: launch.program.to_owned(),
        property: launch.kind.property,
        mimetype: launch.kind.mimetype,
        source,
    })?;
    // Not reaped yet, so that it is there, be it as a zombie.
    kin.leader = (pid, process::stat(pid).map_or(0, |stat| stat.start_time));
    info!(script = ?launch.script, pid, "runs a script");
    drop((out_end, err_end));
    let watch = Watch {
        kin,
        began,
        // A limit that is beyond what the clock can say is none.
        until: began.checked_add(launch.limit),
        streams: [out, err],
        interested: [Arc::new(interested), launch.closed],
        exit: None,
        directory,
    };
    // The thread waits for this one message and has not ended.
    let _ = go.send((watch, permit));
    Ok(Running {
        _interest: interest,
        finished,
    })
}

/// Returns the environment of a script: its mark first, where whoever looks for it finds it soonest.
///
/// The server's own mark is passed on, so that the script ends with the server too.
fn environment(
    own: impl Iterator<Item = (OsString, OsString)>,
    mark: &str,
    work: &Path,
    more: &[(OsString, OsString)],
) -> Vec<(OsString, OsString)> {
    let set: Vec<(OsString, OsString)> = [
        (MARK, OsStr::new(mark)),
        // Both, since OMERO's programs in Python and in Java know one each.
        ("OMERO_TMPDIR", work.as_os_str()),
        ("OMERO_TEMPDIR", work.as_os_str()),
        ("TMPDIR", work.as_os_str()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec();
    let more = more.iter().filter(|(name, _)| name != MARK).cloned();
    let first: Vec<_> = set.into_iter().chain(more).collect();
    let rest: Vec<_> = own
        .filter(|(name, _)| !is_private(name) && !first.iter().any(|(set, _)| set == name))
        .collect();
    first.into_iter().chain(rest).collect()
}

/// Returns whether a variable is between this process and whoever started it.
fn is_private(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        matches!(name, "NOTIFY_SOCKET" | "MAINPID")
            || name.starts_with("WATCHDOG_")
            || name.starts_with("LISTEN_")
    })
}

/// One stream of a script.
struct Stream {
    pipe: PipeReader,
    id: FileId,
    keeper: Keeper,
    open: bool,
}

/// Makes a stream, and the end that the script gets.
fn stream(path: &Path) -> io::Result<(Stream, OwnedFd)> {
    let (pipe, end) = io::pipe()?;
    rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    let id = FileId::of(Path::new(&format!("/proc/self/fd/{}", pipe.as_raw_fd())))?;
    let keeper = Keeper::create(path)?;
    let stream = Stream {
        pipe,
        id,
        keeper,
        open: true,
    };
    Ok((stream, end.into()))
}

impl Stream {
    /// Keeps what is there, but not for ever where more keeps coming.
    fn drain(&mut self, piece: &mut [u8]) {
        for _ in 0..PIECES {
            if !self.open {
                return;
            }
            match self.pipe.read(piece) {
                Ok(0) => self.open = false,
                Ok(n) => self.keeper.keep(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    warn!(%error, "cannot read the output of a script");
                    self.open = false;
                }
            }
        }
    }
}

/// A run that is watched over.
struct Watch {
    kin: Kin,
    began: Instant,
    until: Option<Instant>,
    streams: [Stream; 2],
    /// End when nobody is interested any more: whoever asked for this run, and the Blitz.
    interested: [Arc<PipeReader>; 2],
    exit: Option<ExitStatus>,
    directory: Directory,
}

impl Watch {
    /// Watches to the end.
    fn run(mut self) -> Finished {
        let end = self.wait().unwrap_or_else(|error| {
            warn!(error = %chain(&error), "cannot watch over a script any more; ends it");
            End::Cancelled
        });
        let took = self.began.elapsed();
        let mut piece = vec![0; PIECE];
        let Self { kin, streams, .. } = &mut self;
        let gone = || {
            // What is in the pipes is kept, and nobody is kept from ending by a full one.
            for stream in streams.iter_mut() {
                stream.drain(&mut piece);
            }
            wait_for_end(streams)
        };
        match kin.end(PATIENCE, gone) {
            Ok(true) => {}
            Ok(false) => warn!(
                pid = kin.leader.0,
                "a script has left processes that do not end"
            ),
            Err(error) => warn!(%error, "cannot look for what a script left behind"),
        }
        self.reap();
        let exit = self.exit.unwrap_or(ExitStatus::Unknown);
        info!(pid = self.kin.leader.0, ?end, %exit, "a script has ended");
        remove(&self.directory.work());
        let [stdout, stderr] = self.streams.map(|mut stream| {
            stream.drain(&mut piece);
            stream.keeper.finish()
        });
        Finished {
            end,
            exit,
            took,
            stdout,
            stderr,
            _directory: self.directory,
        }
    }

    /// Waits for a reason to end, and keeps what is written meanwhile.
    fn wait(&mut self) -> io::Result<End> {
        let pid = rustix::process::Pid::from_raw(self.kin.leader.0.cast_signed())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let mut piece = vec![0; PIECE];
        loop {
            let now = Instant::now();
            let left = self.until.map(|until| until.saturating_duration_since(now));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(End::TimeLimit);
            }
            let timeout = left.map(Timespec::try_from).transpose();
            let timeout = timeout.map_err(io::Error::other)?;
            let (ended, forgotten) = {
                let mut fds = vec![
                    PollFd::new(&process, PollFlags::IN),
                    PollFd::new(&self.interested[0], PollFlags::empty()),
                    PollFd::new(&self.interested[1], PollFlags::empty()),
                ];
                let open = self.streams.iter().filter(|stream| stream.open);
                fds.extend(open.map(|stream| PollFd::new(&stream.pipe, PollFlags::IN)));
                match poll(&mut fds, timeout.as_ref()) {
                    Ok(_) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                }
                let happened = |fd: &PollFd<'_>| !fd.revents().is_empty();
                (happened(&fds[0]), fds[1..3].iter().any(happened))
            };
            for stream in &mut self.streams {
                stream.drain(&mut piece);
            }
            if ended {
                self.reap();
                return Ok(End::Exited);
            }
            if forgotten {
                return Ok(End::Cancelled);
            }
        }
    }

    /// Learns how the main process ended, if it has.
    fn reap(&mut self) {
        if self.exit.is_some() {
            return;
        }
        let pid = Pid::from_raw(self.kin.leader.0.cast_signed());
        self.exit = loop {
            break match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::Code(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitStatus::Signal(signal as i32)),
                // Still there, or somebody else's to reap.
                Ok(_) | Err(_) => None,
            };
        };
    }
}

/// Returns whether nobody can write any more; waits a little for that.
fn wait_for_end(streams: &[Stream]) -> io::Result<bool> {
    let until = Instant::now() + MOMENT;
    for stream in streams.iter().filter(|stream| stream.open) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        // Asks for nothing, which leaves the end of all writers.
        let mut end = [PollFd::new(&stream.pipe, PollFlags::empty())];
        match poll(&mut end, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
