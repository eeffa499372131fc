//! The task that owns a server: hears what happens to it, has `step` decide, and does what was decided.
//!
//! Commands come on a bounded channel. Whether the server stays is on a `watch` of its own, which overtakes them.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::launch::{self, LaunchError, Launched};
use super::record::Record;
use super::step::{At, Desired, Effect, Event, Leaving, Phase, Server, step};
use super::sweep::Belongings;
use super::tail::last_lines;
use crate::ipc::message::node::{Action, Assigned, ServerReport};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{Activation, ExitStatus, Failure, FailureCause, ServerId, ServerState};
use crate::node::{Context, blitz};
use crate::sys::clock;
use crate::sys::notify_socket::NotifySocket;
use crate::sys::process::{self, FileId, PidFd};
use crate::telemetry::chain;

/// What a task is told.
#[derive(Debug)]
enum Command {
    /// What the server is from now on; answered when it has been taken in.
    Assign(Box<Assigned>, oneshot::Sender<()>),
    /// Do something to it; answered when it is done or has failed.
    Act(Action, oneshot::Sender<Result<(), Refusal>>),
}

/// A server's task, for those who have something for it.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    leaving: watch::Sender<Leaving>,
    task: JoinHandle<()>,
}

/// Asks for something to be done to a server; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Actor(mpsc::Sender<Command>);

impl Actor {
    /// Says what the server is from now on; returns when the task has taken it in.
    pub(crate) async fn assign(&self, assigned: Assigned) {
        let (answer, answered) = oneshot::channel();
        let command = Command::Assign(Box::new(assigned), answer);
        if self.0.send(command).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// Does something to the server; returns when it is done.
    ///
    /// # Errors
    ///
    /// `Failed` with the first reason why it cannot be done, `Refused` for a disabled server.
    pub(crate) async fn act(&self, action: Action) -> Result<(), Refusal> {
        let gone = || Refusal::new(RefusalKind::NotFound, "the server is being removed");
        let (answer, answered) = oneshot::channel();
        let command = Command::Act(action, answer);
        self.0.send(command).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Handle {
    /// Begins to supervise a server, adopting the process of an earlier node if there is one.
    pub(crate) fn spawn(context: Arc<Context>, assigned: Assigned, found: Option<Found>) -> Self {
        let (commands, received) = mpsc::channel(16);
        let (leaving, told) = watch::channel(Leaving::No);
        let task = Task::new(context, assigned);
        Self {
            commands,
            leaving,
            task: tokio::spawn(task.run(received, told, found)),
        }
    }

    /// Returns what can ask for things to be done.
    pub(crate) fn actor(&self) -> Actor {
        Actor(self.commands.clone())
    }

    /// Says that the server goes.
    pub(crate) fn leave(&self, leaving: Leaving) {
        self.leaving.send_replace(leaving);
    }

    /// Forgets the server without touching its process, as the death of its node does.
    #[cfg(test)]
    pub(crate) fn abort(&self) {
        self.task.abort();
    }

    /// Waits for the task to end.
    pub(crate) async fn finished(self) {
        if let Err(error) = self.task.await {
            warn!(%error, "the task of a server failed");
        }
    }
}

/// What an earlier node left of a server.
#[derive(Debug)]
pub(crate) struct Found {
    /// What it noted down, completed by what `/proc` shows.
    pub(crate) record: Record,
    /// The process, if it lives.
    pub(crate) process: Option<PidFd>,
}

/// How the end of a process is learnt.
#[derive(Debug)]
enum Exit {
    /// It is a child.
    Child(oneshot::Receiver<ExitStatus>),
    /// It was started by an earlier node.
    Adopted(PidFd),
}

impl Exit {
    /// Waits for the end. Cancel safe.
    async fn wait(&mut self) -> ExitStatus {
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
struct Run {
    pid: u32,
    start_time: u64,
    started: Instant,
    exit: Exit,
    notify: Option<NotifySocket>,
    belongings: Belongings,
    offsets: (u64, u64),
    /// The kernel's count of processes killed for want of memory, before the run.
    oom_kills: Option<u64>,
    /// Whether somebody here sent SIGKILL.
    killed: bool,
    /// The connection to a built-in Blitz; ends with the run.
    _blitz: Option<blitz::Connection>,
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Active,
    Gone,
}

/// Somebody who waits: for what, how many failures there were by then, and where to answer.
type Waiting = (Goal, u64, oneshot::Sender<Result<(), Refusal>>);

/// A sweep that is under way.
type Sweep = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    context: Arc<Context>,
    assigned: Assigned,
    server: Server,
    record: Record,
    run: Option<Run>,
    belongings: Option<Belongings>,
    sweep: Option<Sweep>,
    last_exit: Option<(ExitStatus, u64)>,
    failure: Option<Failure>,
    /// How many failures there were; whoever waits fails with the next.
    failures: u64,
    waiting: Vec<Waiting>,
}

fn desired(assigned: &Assigned) -> Desired {
    let descriptor = &assigned.descriptor;
    Desired {
        activation: descriptor.activation(),
        goal: assigned.goal,
        enabled: assigned.enabled,
        ready: descriptor.grid().ready,
        activation_timeout: descriptor.activation_timeout(),
        deactivation_timeout: descriptor.deactivation_timeout(),
    }
}

/// Something that the task woke up for.
enum Woken {
    Command(Option<Command>),
    Leaving(Leaving),
    Ended(ExitStatus),
    Told(bool),
    Swept,
    Others,
    Tick,
}

impl Task {
    fn new(context: Arc<Context>, assigned: Assigned) -> Self {
        Self {
            server: Server::new(desired(&assigned)),
            context,
            assigned,
            record: Record::default(),
            run: None,
            belongings: None,
            sweep: None,
            last_exit: None,
            failure: None,
            failures: 0,
            waiting: Vec::new(),
        }
    }

    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut leaving: watch::Receiver<Leaving>,
        found: Option<Found>,
    ) {
        let mut board = self.context.board.watch();
        self.server.clear = self.is_clear();
        match found {
            Some(found) => self.adopt(found),
            None => self.happen(Event::Desired(desired(&self.assigned))),
        }
        while self.server.phase != Phase::Destroyed {
            let tick = self.server.next_tick();
            let waits = self.server.phase == Phase::Waiting;
            let (exit, notify) = match &mut self.run {
                Some(run) => (Some(&mut run.exit), run.notify.as_ref()),
                None => (None, None),
            };
            let woken = tokio::select! {
                biased;
                // Every arm is cancel safe: channels, readiness, and futures that live outside of the loop.
                Ok(()) = leaving.changed() => Woken::Leaving(*leaving.borrow_and_update()),
                status = maybe(exit.map(Exit::wait)) => Woken::Ended(status),
                told = maybe(notify.map(NotifySocket::recv)) => match told {
                    Ok(told) => Woken::Told(told.ready),
                    Err(error) => {
                        warn!(server = %self.assigned.id, %error, "cannot hear the server any more");
                        if let Some(run) = &mut self.run {
                            run.notify = None;
                        }
                        continue;
                    }
                },
                () = maybe(self.sweep.as_mut()) => Woken::Swept,
                command = commands.recv() => Woken::Command(command),
                Ok(()) = board.changed(), if waits => Woken::Others,
                () = maybe(tick.map(|at| tokio::time::sleep_until(at.into()))) => Woken::Tick,
            };
            match woken {
                Woken::Leaving(leaving) => self.happen(Event::Leaving(leaving)),
                Woken::Ended(status) => self.ended(status),
                Woken::Told(true) => self.happen(Event::Ready),
                Woken::Told(false) => {}
                Woken::Swept => {
                    self.sweep = None;
                    self.happen(Event::Swept);
                }
                Woken::Command(Some(command)) => self.command(command),
                // Its node has forgotten it, which it does only to end it.
                Woken::Command(None) => self.happen(Event::Leaving(Leaving::NodeStops)),
                Woken::Others => {
                    board.borrow_and_update();
                    if self.is_clear() {
                        self.happen(Event::Clear(true));
                    }
                }
                Woken::Tick => self.happen(Event::Tick),
            }
            if self.server.leaving == Leaving::NodeStops && self.server.phase == Phase::Inactive {
                break;
            }
        }
        for (_, _, answer) in self.waiting.drain(..) {
            let refusal = Refusal::new(RefusalKind::Failed, "the server is gone from its node");
            let _ = answer.send(Err(refusal));
        }
    }

    /// Returns whether all servers of this node that have to be active before this one are.
    fn is_clear(&self) -> bool {
        self.blockers().next().is_none()
    }

    fn blockers(&self) -> impl Iterator<Item = ServerId> {
        let after = self.assigned.descriptor.grid().after;
        let own = self.assigned.id.clone();
        let context = self.context.clone();
        after
            .into_iter()
            .filter(move |id| *id != own && context.board.holds_up(id))
    }

    /// Has one event decided, and does what was decided.
    fn happen(&mut self, event: Event) {
        let before = self.server.state();
        let mut next = Some(event);
        while let Some(event) = next.take() {
            self.server.clear = self.is_clear();
            let at = At {
                now: clock::now().instant,
                jitter: rand::random_range(-1.0..=1.0),
            };
            let (server, effects) = step(self.server.clone(), event, at);
            self.server = server;
            for effect in effects {
                if let Some(event) = self.perform(effect) {
                    next = Some(event);
                }
            }
        }
        self.publish(before);
    }

    fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Launch => return Some(self.launch()),
            Effect::Terminate => self.terminate(),
            Effect::Kill => self.kill(),
            Effect::Sweep(until) => {
                let belongings = self.belongings.take();
                let reaper = self.context.reaper.clone();
                self.sweep = Some(Box::pin(async move {
                    if let Some(belongings) = belongings {
                        belongings.sweep(reaper, until).await;
                    }
                }));
            }
            Effect::NoteTimeout => self.fail(FailureCause::ActivationTimeout {
                timeout: self.server.desired.activation_timeout,
            }),
            Effect::NoteReady => self.note_ready(),
            Effect::AssumeReady => {
                warn!(server = %self.assigned.id, reason = "its message may have been lost with its last node", "an adopted server counts as ready without having said so");
                self.note_ready();
            }
        }
        None
    }

    fn note_ready(&mut self) {
        let Some(run) = &mut self.run else { return };
        let after = clock::now().instant.saturating_duration_since(run.started);
        self.record.ready_after_ms = Some(millis(after));
        if self.assigned.descriptor.is_builtin_blitz() {
            run._blitz = Some(blitz::Connection::open(&self.context, &self.assigned.id));
        }
        self.keep_record();
    }

    fn keep_record(&self) {
        let path = self
            .context
            .server_dir(&self.assigned.id)
            .join("process.json");
        if let Err(error) = self.record.write(&path) {
            warn!(server = %self.assigned.id, %error, "cannot keep a record of the process");
        }
    }

    fn launch(&mut self) -> Event {
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
                offsets,
            }) => {
                self.record = record;
                self.context.logs_written.watch(id);
                self.run = Some(Run {
                    pid: child.pid,
                    start_time: child.start_time,
                    started: started.instant,
                    exit: Exit::Child(child.exit),
                    notify: Some(notify),
                    belongings,
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

    fn adopt(&mut self, found: Found) {
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
        let (Some(process), Some((pid, start_time))) = (found.process, leader) else {
            if self.record.instance.is_empty() {
                self.happen(Event::Desired(desired(&self.assigned)));
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
        self.context.logs_written.watch(&id);
        let blitz = self.assigned.descriptor.is_builtin_blitz();
        self.run = Some(Run {
            pid,
            start_time,
            started,
            exit: Exit::Adopted(process),
            notify,
            belongings,
            offsets: (size(&out), size(&err)),
            oom_kills: self.context.oom.read(),
            killed: false,
            _blitz: blitz.then(|| blitz::Connection::open(&self.context, &id)),
        });
        info!(server = %id, pid, "adopted");
        self.happen(Event::Adopted { started, ready });
        let wanted = launch::fingerprint(&self.assigned.descriptor);
        if self.record.fingerprint.is_empty() {
            // Its record is lost: nothing speaks against the definition at hand, and a restart ends sessions.
            self.record.fingerprint = wanted;
        } else if self.record.fingerprint != wanted {
            self.happen(Event::Redefined);
        }
    }

    /// Sends a signal to the main process's group.
    fn signal(&mut self, signal: i32) -> std::io::Result<()> {
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

    fn terminate(&mut self) {
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

    fn kill(&mut self) {
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

    fn ended(&mut self, status: ExitStatus) {
        let by_itself = matches!(
            self.server.phase,
            Phase::Activating { .. } | Phase::Active { .. }
        );
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
            if !done || !matches!(self.server.phase, Phase::Active { .. }) {
                self.fail(cause);
            }
        }
        if let Some(run) = self.run.take() {
            self.belongings = Some(run.belongings);
        }
        self.record.process = None;
        self.keep_record();
        self.happen(Event::Ended {
            success: status.is_success(),
        });
    }

    fn fail(&mut self, cause: FailureCause) {
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

    fn command(&mut self, command: Command) {
        match command {
            Command::Assign(assigned, answer) => {
                let renewed = launch::fingerprint(&assigned.descriptor)
                    != launch::fingerprint(&self.assigned.descriptor)
                    || assigned.application != self.assigned.application;
                self.assigned = *assigned;
                self.happen(Event::Desired(desired(&self.assigned)));
                if renewed {
                    self.happen(Event::Redefined);
                }
                let _ = answer.send(());
            }
            Command::Act(action, answer) => self.act(action, answer),
        }
    }

    fn act(&mut self, action: Action, answer: oneshot::Sender<Result<(), Refusal>>) {
        let id = self.assigned.id.clone();
        let starts = matches!(action, Action::Start | Action::Restart);
        if starts && !self.server.desired.enabled {
            let refusal = Refusal::new(RefusalKind::Refused, format!("server {id} is disabled"))
                .hint(format!("omero-grid server {id} enable"));
            let _ = answer.send(Err(refusal));
            return;
        }
        let failures = self.failures;
        match action {
            Action::Start => {
                self.failure = None;
                self.waiting.push((Goal::Active, failures, answer));
                self.happen(Event::Start);
            }
            Action::Restart => {
                self.failure = None;
                self.waiting.push((Goal::Active, failures, answer));
                // What is waited for is the next process, not the present one.
                self.happen(Event::Restart);
            }
            Action::Stop => {
                self.failure = None;
                self.waiting.push((Goal::Gone, failures, answer));
                self.happen(Event::Stop);
            }
            Action::Signal { signal } => {
                let result = match (&self.run, self.server.has_process()) {
                    (Some(_), true) if (1..=64).contains(&signal) => {
                        self.signal(signal).map_err(|error| {
                            Refusal::new(
                                RefusalKind::Failed,
                                format!("cannot send signal {signal} to server {id}: {error}"),
                            )
                        })
                    }
                    (Some(_), true) => Err(Refusal::new(
                        RefusalKind::Failed,
                        format!("there is no signal {signal}"),
                    )),
                    (None, _) | (Some(_), false) => Err(Refusal::new(
                        RefusalKind::Refused,
                        format!("server {id} does not run"),
                    )),
                };
                let _ = answer.send(result);
            }
        }
    }

    /// Tells the board, the log and those who wait how the server is.
    fn publish(&mut self, before: ServerState) {
        let state = self.server.state();
        let id = &self.assigned.id;
        if state != before {
            let pid = self.run.as_ref().map(|run| run.pid);
            info!(server = %id, pid, from = %before, to = %state, "server");
        }
        if self.server.phase == Phase::Destroyed {
            self.context.board.remove(id);
        } else {
            self.context.board.put(self.report());
        }
        let mut kept = Vec::new();
        for (goal, failures, answer) in std::mem::take(&mut self.waiting) {
            match self.outcome(goal, failures) {
                Some(result) => drop(answer.send(result)),
                None if answer.is_closed() => {}
                None => kept.push((goal, failures, answer)),
            }
        }
        self.waiting = kept;
    }

    /// Returns how it went for somebody who waits; `None` while that is open.
    fn outcome(&self, goal: Goal, failures: u64) -> Option<Result<(), Refusal>> {
        let id = &self.assigned.id;
        match (goal, self.server.phase) {
            (Goal::Active, Phase::Active { .. })
            | (Goal::Gone, Phase::Inactive | Phase::Destroyed) => Some(Ok(())),
            (Goal::Active, _) if self.failures > failures => {
                let reason = self
                    .failure
                    .as_ref()
                    .map_or_else(String::new, |f| f.cause.to_string());
                let mut refusal = Refusal::new(
                    RefusalKind::Failed,
                    format!("server {id}: {reason}; it is tried again"),
                );
                if let Some(failure) = self.failure.as_ref().filter(|f| !f.last_lines.is_empty()) {
                    refusal =
                        refusal.hint(format!("its last lines: {}", failure.last_lines.join("\n")));
                }
                Some(Err(refusal))
            }
            (Goal::Active, Phase::Inactive) => Some(Err(Refusal::new(
                RefusalKind::Failed,
                format!("server {id} was stopped meanwhile"),
            ))),
            (
                Goal::Active,
                Phase::Waiting
                | Phase::BackingOff { .. }
                | Phase::Launching
                | Phase::Activating { .. }
                | Phase::Deactivating { .. }
                | Phase::Killing { .. }
                | Phase::Sweeping { .. }
                | Phase::Destroyed,
            ) => None,
            // Somebody started it again: the stop has been overtaken once it runs.
            (Goal::Gone, Phase::Activating { .. } | Phase::Active { .. }) => {
                Some(Err(Refusal::new(
                    RefusalKind::Failed,
                    format!("server {id} was started meanwhile"),
                )))
            }
            (
                Goal::Gone,
                Phase::Waiting
                | Phase::BackingOff { .. }
                | Phase::Launching
                | Phase::Deactivating { .. }
                | Phase::Killing { .. }
                | Phase::Sweeping { .. },
            ) => None,
        }
    }

    fn report(&self) -> ServerReport {
        let id = self.assigned.id.clone();
        let running = self.run.is_some();
        let waiting_for = (self.server.phase == Phase::Waiting).then(|| {
            let ids: Vec<String> = self.blockers().map(String::from).collect();
            format!("{} to be active", ids.join(", "))
        });
        let now = clock::now();
        let next = match self.server.phase {
            Phase::BackingOff { until } => Some(now.wall_ms_at(until)),
            Phase::Inactive
            | Phase::Deactivating { .. }
            | Phase::Waiting
            | Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => None,
        };
        // The wall-clock time of a pause is computed anew each time: kept while it is the same pause.
        let known = self.context.board.get(&id);
        let next = match (next, known.as_ref().and_then(|r| r.next_start_ms)) {
            (Some(new), Some(old)) if new.abs_diff(old) < 50 => Some(old),
            (new, _) => new,
        };
        ServerReport {
            activation: self.server.desired.activation,
            enabled: self.server.desired.enabled,
            goal: self.server.desired.goal,
            state: self.server.state(),
            pid: self.run.as_ref().map(|run| run.pid),
            started_ms: running.then_some(self.record.started_ms),
            ready_after_ms: self.record.ready_after_ms.filter(|_| running),
            restarts: self.server.restarts,
            last_exit: self.last_exit,
            failure: self.failure.clone(),
            waiting_for,
            next_start_ms: next,
            is_builtin_blitz: self.assigned.descriptor.is_builtin_blitz(),
            blitz: known.and_then(|report| report.blitz),
            id,
        }
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

/// Waits for a future that there may be; for ever where there is none.
async fn maybe<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
