//! The process of a server: started or adopted, signalled, and what its end means.

use std::io;
use std::time::{Duration, Instant};

use nix::libc;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Task, desired};
use crate::descriptor::Expected;
use crate::ipc::message::node::Assigned;
use crate::model::{Activation, ExitStatus, Failure, FailureCause};
use crate::node::blitz;
use crate::node::server::admin;
use crate::node::server::launch::{self, LaunchError, Launched};
use crate::node::server::record::Record;
use crate::node::server::step::{Event, Phase, Why};
use crate::node::server::sweep::Belongings;
use crate::node::server::tail::last_lines;
use crate::sys::clock;
use crate::sys::notify_socket::NotifySocket;
use crate::sys::process::{self, FileId, PidFd};
use crate::telemetry::chain;

/// What an earlier node left of a server.
#[derive(Debug)]
pub(crate) struct Found {
    /// What it noted down, completed by what `/proc` shows.
    pub(crate) record: Record,
    /// The process, if it lives.
    pub(crate) process: Option<PidFd>,
    /// Tells how it ends or has ended, if it is a child of this very process.
    pub(crate) inherited: Option<oneshot::Receiver<ExitStatus>>,
}

/// How the end of a process is learnt.
#[derive(Debug)]
pub(super) enum Exit {
    /// It is a child.
    Child(oneshot::Receiver<ExitStatus>),
    /// It was started by an earlier node.
    Adopted(PidFd),
}

impl Exit {
    /// Waits for the end. Cancel safe.
    pub(super) async fn wait(&mut self) -> ExitStatus {
        match self {
            Self::Child(exit) => exit.await.unwrap_or(ExitStatus::Unknown),
            Self::Adopted(handle) => {
                if let Err(error) = handle.ended().await {
                    warn!(%error, "cannot wait for an adopted process");
                }
                ExitStatus::Unknown
            }
        }
    }
}

/// A process and all that is known of it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) pid: u32,
    start_time: u64,
    started: Instant,
    pub(super) exit: Exit,
    pub(super) notify: Option<NotifySocket>,
    pub(super) belongings: Belongings,
    /// What the process has to register.
    pub(super) expected: Expected,
    offsets: (u64, u64),
    /// The kernel's count of processes killed for want of memory, before the run.
    oom_kills: Option<u64>,
    /// Whether somebody here sent SIGKILL.
    killed: bool,
    /// The connection to a built-in Blitz; ends with the run.
    _blitz: Option<blitz::Connection>,
}

impl Task {
    pub(super) fn launch(&mut self) -> Event {
        let Assigned {
            id,
            descriptor,
            application,
            ..
        } = &self.assigned;
        let oom_kills = self.context.oom.read();
        match launch::launch(&self.context, id, descriptor, application) {
            Ok(Launched {
                child,
                record,
                notify,
                belongings,
                started,
                expected,
                offsets,
            }) => {
                self.record = record;
                self.context
                    .logs_written
                    .watch(id, launch::logs(&self.context, id));
                self.run = Some(Run {
                    pid: child.pid,
                    start_time: child.start_time,
                    started: started.instant,
                    exit: Exit::Child(child.exit),
                    notify: Some(notify),
                    belongings,
                    expected,
                    offsets,
                    oom_kills,
                    killed: false,
                    _blitz: None,
                });
                Event::Launched
            }
            Err(error) => {
                self.launch_failed(&error);
                Event::LaunchFailed
            }
        }
    }

    fn launch_failed(&mut self, error: &LaunchError) {
        self.failures += 1;
        let cause = error.cause();
        warn!(server = %self.assigned.id, reason = %chain(error), attempt = self.server.failures + 1, "cannot start a server");
        self.failure = Some(Failure {
            cause,
            last_lines: Vec::new(),
        });
    }

    pub(super) fn adopt(&mut self, found: Found) {
        let id = self.assigned.id.clone();
        let (out, err) = launch::logs(&self.context, &id);
        let size = |path: &std::path::Path| path.metadata().map_or(0, |m| m.len());
        self.record = found.record;
        self.server.finished = self.record.finished;
        let leader = self.record.process.as_ref().map(|p| (p.pid, p.start_time));
        let belongings = Belongings {
            mark: launch::mark(&self.context, &id, &self.record.instance),
            leader,
            logs: [&out, &err]
                .into_iter()
                .filter_map(|p| FileId::of(p).ok())
                .collect(),
            known: Default::default(),
            asked: Default::default(),
        };
        let exit = match (found.inherited, found.process) {
            (Some(exit), _) => Some(Exit::Child(exit)),
            (None, process) => process.map(Exit::Adopted),
        };
        let (Some(exit), Some((pid, start_time))) = (exit, leader) else {
            self.record.forget_registrations();
            if self.record.instance.is_empty() {
                self.happen(Event::Desired(desired(&self.context, &self.assigned)));
            } else {
                self.belongings = Some(belongings);
                self.happen(Event::FoundDead);
            }
            return;
        };
        let now = clock::now();
        let up = Duration::from_millis(now.wall_ms.saturating_sub(self.record.started_ms));
        let started = now.instant.checked_sub(up).unwrap_or(now.instant);
        let ready = self.record.ready_after_ms.is_some();
        let uid = process_uid(pid);
        let notify = NotifySocket::bind(&self.context.state, &id, &self.record.instance, uid)
            .map_err(|error| warn!(server = %id, %error, "cannot hear an adopted server"))
            .ok();
        self.context
            .logs_written
            .watch(&id, (out.clone(), err.clone()));
        let blitz = self.assigned.descriptor.is_builtin_blitz();
        self.run = Some(Run {
            pid,
            start_time,
            started,
            exit,
            notify,
            belongings,
            expected: self.expected(),
            offsets: (size(&out), size(&err)),
            oom_kills: self.context.oom.read(),
            killed: false,
            _blitz: blitz.then(|| blitz::Connection::open(&self.context, &id)),
        });
        info!(server = %id, pid, "adopted");
        self.happen(Event::Adopted {
            started,
            ready,
            registers: self.record.registers,
        });
        self.count_registrations();
        let same = self.record.fingerprint == self.wanted.fingerprint;
        if self.record.fingerprint.is_empty() || same {
            // A lost record speaks against nothing, and a restart ends sessions; one of an earlier release knows less.
            self.wanted.note(&mut self.record);
        } else if !self.can_take_up() {
            self.happen(Event::Redefined);
        }
    }

    pub(super) fn note_ready(&mut self) {
        let Some(run) = &mut self.run else { return };
        let after = clock::now().instant.saturating_duration_since(run.started);
        self.record.ready_after_ms = Some(millis(after));
        if self.assigned.descriptor.is_builtin_blitz() {
            run._blitz = Some(blitz::Connection::open(&self.context, &self.assigned.id));
        }
        self.keep_record();
    }

    /// Puts the record in the place of the last one.
    pub(super) fn write_record(&self, record: &Record) -> io::Result<()> {
        let dir = self.context.server_dir(&self.assigned.id);
        record.write(&dir.join("process.json"))
    }

    pub(super) fn keep_record(&self) {
        if let Err(error) = self.write_record(&self.record) {
            warn!(server = %self.assigned.id, %error, "cannot keep a record of the process");
        }
    }

    /// Sends a signal to the main process's group.
    pub(super) fn signal(&mut self, signal: i32) -> io::Result<()> {
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        if signal == libc::SIGKILL {
            run.killed = true;
        }
        match &run.exit {
            Exit::Child(_) => self.context.reaper.signal_group(run.pid, signal).map(drop),
            Exit::Adopted(_) => {
                let same =
                    process::stat(run.pid).is_some_and(|stat| stat.start_time == run.start_time);
                if same {
                    process::signal_group(run.pid, signal)
                } else {
                    Ok(())
                }
            }
        }
    }

    pub(super) fn ask(&mut self) {
        if let Some(process) = self.record.process_proxy.clone() {
            let client = self.context.ice.clone();
            self.asking = Some(Box::pin(admin::shutdown(client, process)));
        }
    }

    pub(super) fn terminate(&mut self) {
        let reaper = self.context.reaper.clone();
        if let Some(run) = &mut self.run
            && let Err(error) = run.belongings.ask_outsiders(&reaper)
        {
            warn!(server = %self.assigned.id, %error, "cannot look for all processes of a server");
        }
        if let Err(error) = self.signal(libc::SIGTERM) {
            warn!(server = %self.assigned.id, %error, "cannot ask a server to end");
        }
    }

    pub(super) fn kill(&mut self) {
        warn!(server = %self.assigned.id, reason = "it did not end in time", "kills a server");
        if let Err(error) = self.signal(libc::SIGKILL) {
            warn!(server = %self.assigned.id, %error, "cannot kill a server");
        }
        let reaper = self.context.reaper.clone();
        if let Some(run) = &mut self.run
            && let Err(error) = run.belongings.kill(&reaper)
        {
            warn!(server = %self.assigned.id, %error, "cannot kill all processes of a server");
        }
    }

    pub(super) fn ended(&mut self, status: ExitStatus) {
        let was_active = matches!(
            self.server.phase,
            Phase::Active { .. }
                | Phase::Deactivating {
                    why: Why::Withdrew { .. },
                    ..
                }
                | Phase::Killing {
                    why: Why::Withdrew { .. }
                }
        );
        let by_itself = was_active || matches!(self.server.phase, Phase::Activating { .. });
        self.last_exit = Some((status, clock::now().wall_ms));
        if by_itself {
            let killed = self.run.as_ref().is_some_and(|run| run.killed);
            let before = self.run.as_ref().and_then(|run| run.oom_kills);
            let grown = before
                .zip(self.context.oom.read())
                .is_some_and(|(a, b)| b > a);
            let cause = if status == ExitStatus::Signal(libc::SIGKILL) && grown && !killed {
                FailureCause::OutOfMemory
            } else {
                FailureCause::Exited { status }
            };
            let done = status.is_success() && self.server.desired.activation != Activation::Always;
            self.record.finished = done;
            // One that has done its work has not failed, unless it was never ready.
            if !done || !was_active {
                self.fail(cause);
            }
        }
        if let Some(run) = self.run.take() {
            self.belongings = Some(run.belongings);
        }
        self.asking = None;
        self.telling = None;
        self.not_told = None;
        self.record.process = None;
        self.record.forget_registrations();
        self.keep_record();
        self.happen(Event::Ended {
            success: status.is_success(),
        });
    }

    pub(super) fn fail(&mut self, cause: FailureCause) {
        self.failures += 1;
        let (out, err) = launch::logs(&self.context, &self.assigned.id);
        let (out_at, err_at) = self.run.as_ref().map_or((0, 0), |run| run.offsets);
        let mut lines = last_lines(&err, err_at);
        if lines.is_empty() {
            lines = last_lines(&out, out_at);
        }
        warn!(server = %self.assigned.id, reason = %cause, attempt = self.server.failures + 1, "a server failed");
        self.failure = Some(Failure {
            cause,
            last_lines: lines,
        });
    }
}

/// Returns the user that a process runs as.
fn process_uid(pid: u32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/{pid}"))
        .ok()
        .map(|metadata| metadata.uid())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
