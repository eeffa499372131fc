//! The task that owns a server: hears what happens to it, has `step` decide, and does what was decided.
//!
//! Commands come on a bounded channel. Whether the server stays is on a `watch` of its own, which overtakes them.
//! Here is the loop; what it does to the process is in `process`, what it tells others in `report`.

mod handle;
mod in_place;
mod process;
mod registration;
mod report;

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use self::handle::Command;
use self::in_place::{Telling, Wanted};
use self::process::{Exit, Run};
use self::report::{Goal, Waiting};
use super::admin::AdminError;
use super::record::Record;
use super::restart;
use super::step::{At, Desired, Effect, Event, Leaving, Phase, Server, step};
use super::sweep::Belongings;
use crate::descriptor::Ready;
use crate::ipc::message::node::{Action, Assigned};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{ExitStatus, Failure, FailureCause, ServerId};
use crate::node::Context;
use crate::sys::clock;
use crate::sys::notify_socket::NotifySocket;
use crate::telemetry::chain;

pub(crate) use self::handle::{Actor, Handle};
pub(crate) use self::process::Found;

/// What the task of one server knows of it.
struct Task {
    context: Arc<Context>,
    assigned: Assigned,
    server: Server,
    record: Record,
    run: Option<Run>,
    belongings: Option<Belongings>,
    sweep: Option<Sweep>,
    /// The process is being asked to end where it said that it can be asked.
    asking: Option<Asking>,
    /// What a process should have from its definition.
    wanted: Wanted,
    /// The process is being told of properties.
    telling: Option<Telling>,
    /// Why it could not be told last.
    not_told: Option<String>,
    last_exit: Option<(ExitStatus, u64)>,
    failure: Option<Failure>,
    /// How many failures there were; whoever waits fails with the next.
    failures: u64,
    waiting: Vec<Waiting>,
}

/// A sweep that is under way.
type Sweep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request to end that is under way.
type Asking = Pin<Box<dyn Future<Output = Result<(), AdminError>> + Send>>;

/// Something that the task woke up for.
enum Woken {
    Command(Option<Command>),
    Leaving(Leaving),
    Ended(ExitStatus),
    Told(bool),
    Swept,
    Asked(Result<(), AdminError>),
    TookUp(Result<(), AdminError>),
    Others,
    Tick,
}

impl Task {
    fn new(context: Arc<Context>, assigned: Assigned) -> Self {
        let inherited = context
            .inherited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&assigned.id);
        let mut server = Server::new(desired(&context, &assigned));
        let (mut last_exit, mut failure) = (None, None);
        if let Some(seen) = inherited {
            server.restarts = seen.restarts;
            server.failures = seen.failed_tries;
            let now = clock::now();
            if let Some(pause) = seen
                .next_start_ms
                .and_then(|at| at.checked_sub(now.wall_ms))
            {
                // A wall clock that was set back makes no pause longer.
                let pause = Duration::from_millis(pause).min(restart::LONGEST);
                let until = now.instant + pause;
                server.phase = Phase::BackingOff { until };
            }
            (last_exit, failure) = (seen.last_exit, seen.failure);
        }
        Self {
            server,
            context,
            wanted: Wanted::of(&assigned.descriptor),
            assigned,
            record: Record::default(),
            run: None,
            belongings: None,
            sweep: None,
            asking: None,
            telling: None,
            not_told: None,
            last_exit,
            failure,
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
            None => self.happen(Event::Desired(desired(&self.context, &self.assigned))),
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
                heard = maybe(self.asking.as_mut()) => Woken::Asked(heard),
                taken = maybe(self.telling.as_mut().map(Telling::outcome)) => Woken::TookUp(taken),
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
                Woken::Asked(heard) => {
                    self.asking = None;
                    if let Err(error) = heard {
                        info!(server = %self.assigned.id, reason = %chain(&error), "a server did not hear that it is to end; sends it a signal");
                        self.happen(Event::Unheard);
                    }
                }
                Woken::TookUp(taken) => self.took_up(taken),
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

    /// Returns when a process that is started now counts as ready.
    fn ready(&self) -> Ready {
        let locator = self.context.locator().is_some();
        self.assigned.descriptor.ready(locator)
    }

    /// Has one event decided, and does what was decided.
    fn happen(&mut self, event: Event) {
        let before = self.server.state();
        let mut next = Some(event);
        while let Some(event) = next.take() {
            self.server.clear = self.is_clear();
            self.server.askable = self.run.is_some() && self.record.process_proxy.is_some();
            // The registry may have begun or ceased to listen.
            self.server.desired.ready = self.ready();
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
        self.tell();
        self.publish(before);
    }

    fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Launch => return Some(self.launch()),
            Effect::Ask => self.ask(),
            Effect::Terminate => self.terminate(),
            Effect::Kill => {
                self.asking = None;
                self.kill();
            }
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

    fn command(&mut self, command: Command) {
        match command {
            Command::Assign(assigned, answer) => {
                let wanted = Wanted::of(&assigned.descriptor);
                let moved = assigned.application != self.assigned.application;
                let differs = wanted.fingerprint != self.wanted.fingerprint;
                self.assigned = *assigned;
                self.wanted = wanted;
                if differs {
                    self.not_told = None;
                }
                self.happen(Event::Desired(desired(&self.context, &self.assigned)));
                if moved || differs && !self.can_take_up() {
                    self.happen(Event::Redefined);
                }
                let _ = answer.send(());
            }
            Command::Act(action, answer) => self.act(action, answer),
            Command::Register(what, from, answer) => {
                let _ = answer.send(self.register(what, from));
            }
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
            Action::TakeUp => {
                self.not_told = None;
                self.tell();
                self.waiting.push((Goal::Current, failures, answer));
                self.publish(self.server.state());
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
}

fn desired(context: &Context, assigned: &Assigned) -> Desired {
    let descriptor = &assigned.descriptor;
    let settings = context.settings();
    Desired {
        activation: descriptor.activation(),
        goal: assigned.goal,
        enabled: assigned.enabled,
        ready: descriptor.ready(context.locator().is_some()),
        activation_timeout: descriptor.activation_timeout_or(settings.wait),
        deactivation_timeout: descriptor.deactivation_timeout_or(settings.wait),
        failure_pause: settings.pause,
    }
}

/// Waits for a future that there may be; for ever where there is none.
async fn maybe<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
