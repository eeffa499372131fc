//! The life of a server as a pure state machine; `LIFECYCLE.md` has the picture.
//!
//! Reads no clock and touches no process: the owning task performs the effects and tells how they went.

use std::time::{Duration, Instant};

use super::restart::{self, Try};
use crate::descriptor::Ready;
use crate::ipc::message::node::Goal;
use crate::model::{Activation, ServerState};

/// What is wanted of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    /// When it is started.
    pub(crate) activation: Activation,
    /// What the administrator wants of it.
    pub(crate) goal: Goal,
    /// Whether it may be started at all.
    pub(crate) enabled: bool,
    /// When it counts as ready.
    pub(crate) ready: Ready,
    /// How long it may take to become ready.
    pub(crate) activation_timeout: Duration,
    /// How long it may take to end.
    pub(crate) deactivation_timeout: Duration,
    /// The least pause after it has failed.
    pub(crate) failure_pause: Duration,
}

/// Whether the server stays with this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It stays.
    #[default]
    No,
    /// The node stops.
    NodeStops,
    /// It is no longer assigned to the node.
    Removed,
}

/// Why a process is being ended, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is to stop, or to be started anew.
    Asked,
    /// It was not ready in time.
    TimedOut(Try),
    /// It took back what it had registered, as an Ice server does that ends by itself.
    Withdrew {
        /// When the process was started.
        started: Instant,
    },
    /// It ended by itself.
    Ended {
        /// How its run went.
        run: Try,
        /// Whether it exited with code 0.
        success: bool,
    },
    /// It ended under an earlier program of this node, and its next try is not due yet.
    Paused {
        /// When it is tried again.
        until: Instant,
    },
}

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No process, and none wanted.
    Inactive,
    /// Wanted, but servers that have to be active before are not.
    Waiting,
    /// Wanted, and tried again later.
    BackingOff {
        /// When it is tried again.
        until: Instant,
    },
    /// The task is starting the process.
    Launching,
    /// A process that is not ready yet.
    Activating {
        /// When the process was started.
        started: Instant,
        /// When it counts as ready without saying so.
        ready_at: Option<Instant>,
        /// When it is too late to become ready.
        deadline: Instant,
        /// Whether what it registers makes it ready, and nothing else.
        registers: bool,
        /// Whether another node started it: then what it said may have been lost, but not what it registered.
        adopted: bool,
    },
    /// A process that is ready.
    Active {
        /// When the process was started.
        started: Instant,
    },
    /// A process that was asked to end.
    Deactivating {
        /// When it is made to end.
        kill_at: Instant,
        /// Why it has to end.
        why: Why,
    },
    /// A process that was made to end.
    Killing {
        /// Why it has to end.
        why: Why,
    },
    /// The process is gone; what it left behind is being ended.
    Sweeping {
        /// Why the process ended.
        why: Why,
    },
    /// No longer on this node.
    Destroyed,
}

/// A server: what is wanted, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// What is wanted of it.
    pub(crate) desired: Desired,
    /// Whether all servers that have to be active before it are.
    pub(crate) clear: bool,
    /// Whether its process has said where it can be asked to end.
    pub(crate) askable: bool,
    /// Whether a server that is not `always` has done its work: it ended with code 0 after it was started by command.
    pub(crate) finished: bool,
    /// Whether it stays with this node.
    pub(crate) leaving: Leaving,
    /// How many tries in a row have failed.
    pub(crate) failures: u32,
    /// How often it was started again by itself.
    pub(crate) restarts: u64,
    /// Where it is in its life.
    pub(crate) phase: Phase,
}

/// Something that happened to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Something else is wanted of it from now on.
    Desired(Desired),
    /// Its definition has changed: a running process has the old one.
    Redefined,
    /// It was started by a command.
    Start,
    /// It was stopped by a command.
    Stop,
    /// It was restarted by a command.
    Restart,
    /// Whether all servers that have to be active before it are.
    Clear(bool),
    /// Whether it stays with this node.
    Leaving(Leaving),
    /// A process of an earlier node was found alive.
    Adopted {
        /// When the process was started.
        started: Instant,
        /// Whether it is known to be ready.
        ready: bool,
        /// Whether it was started to be ready by what it registers, and that is known.
        registers: bool,
    },
    /// The process of an earlier node is gone; something of it may be left.
    FoundDead,
    /// The process was started.
    Launched,
    /// The process could not be started.
    LaunchFailed,
    /// The process said that it is ready.
    Ready,
    /// The process has registered all that it has to.
    Registered,
    /// The process took back something that it has to have registered.
    Withdrew,
    /// The process was asked to end as it wanted to be, and did not hear it.
    Unheard,
    /// The process ended.
    Ended {
        /// Whether it exited with code 0.
        success: bool,
    },
    /// Nothing of the process is left.
    Swept,
    /// Time has passed.
    Tick,
}

/// Something that the task has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start the process; answered at once by [`Event::Launched`] or [`Event::LaunchFailed`].
    Launch,
    /// Ask the process to end where it said that it can be asked; answered by [`Event::Unheard`] where that fails.
    Ask,
    /// Ask the process, and all that belongs to it, to end, by a signal.
    Terminate,
    /// Make the process, and all that belongs to it, end.
    Kill,
    /// End what the process left behind, at the latest at the given time by force; answered by [`Event::Swept`].
    Sweep(Instant),
    /// Remember that the process was not ready in time.
    NoteTimeout,
    /// Remember that the process is ready.
    NoteReady,
    /// Remember that an adopted process counts as ready without having said so.
    AssumeReady,
}

/// The moment of an event, and the chance that goes with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct At {
    /// The present time.
    pub(crate) now: Instant,
    /// Spreads pauses: −1 to 1.
    pub(crate) jitter: f64,
}

impl Server {
    /// Makes a server without a process.
    pub(crate) fn new(desired: Desired) -> Self {
        Self {
            desired,
            clear: true,
            askable: false,
            finished: false,
            leaving: Leaving::No,
            failures: 0,
            restarts: 0,
            phase: Phase::Inactive,
        }
    }

    /// Returns the state as the outside sees it.
    pub(crate) fn state(&self) -> ServerState {
        match self.phase {
            Phase::Inactive | Phase::Waiting | Phase::BackingOff { .. } => ServerState::Inactive,
            Phase::Launching | Phase::Activating { .. } => ServerState::Activating,
            Phase::Active { .. } => ServerState::Active,
            Phase::Deactivating { why, .. } | Phase::Killing { why } | Phase::Sweeping { why } => {
                match (self.leaving, why) {
                    (Leaving::Removed, _) => ServerState::Destroying,
                    (Leaving::No | Leaving::NodeStops, Why::TimedOut(_)) => {
                        ServerState::ActivationTimedOut
                    }
                    (
                        Leaving::No | Leaving::NodeStops,
                        Why::Asked | Why::Withdrew { .. } | Why::Ended { .. } | Why::Paused { .. },
                    ) => ServerState::Deactivating,
                }
            }
            Phase::Destroyed => ServerState::Destroyed,
        }
    }

    /// Returns when [`Event::Tick`] is due.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackingOff { until } => Some(until),
            Phase::Activating {
                ready_at, deadline, ..
            } => Some(ready_at.map_or(deadline, |at| at.min(deadline))),
            Phase::Deactivating { kill_at, .. } => Some(kill_at),
            Phase::Inactive
            | Phase::Waiting
            | Phase::Launching
            | Phase::Active { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => None,
        }
    }

    /// Returns whether a process is there, or may be.
    pub(crate) fn has_process(&self) -> bool {
        match self.phase {
            Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. } => true,
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => false,
        }
    }

    /// Returns whether a process should be started where there is none.
    fn is_wanted(&self) -> bool {
        let wanted = match self.desired.goal {
            Goal::Stopped => false,
            Goal::Started => !self.finished,
            Goal::Mode => self.desired.activation == Activation::Always,
        };
        wanted && self.desired.enabled && self.leaving == Leaving::No
    }

    /// Returns whether a process that is there has to end.
    fn is_unwanted(&self) -> bool {
        // A disabled server goes on, and so does one that was started although its mode does not ask for it.
        self.desired.goal == Goal::Stopped || self.leaving != Leaving::No
    }

    /// Chooses what to do where there is no process. `pause` is that before the next try.
    fn without_process(&mut self, pause: Option<Instant>, effects: &mut Vec<Effect>) {
        self.phase = if self.leaving == Leaving::Removed {
            Phase::Destroyed
        } else if !self.is_wanted() {
            Phase::Inactive
        } else if let Some(until) = pause {
            Phase::BackingOff { until }
        } else if !self.clear {
            Phase::Waiting
        } else {
            effects.push(Effect::Launch);
            Phase::Launching
        };
    }

    /// Asks a process to end.
    fn terminate(&mut self, why: Why, at: At, effects: &mut Vec<Effect>) {
        effects.push(if self.askable {
            Effect::Ask
        } else {
            Effect::Terminate
        });
        self.phase = Phase::Deactivating {
            kill_at: at.now + self.desired.deactivation_timeout,
            why,
        };
    }

    /// Chooses again after what is wanted has changed; `hurry` ends a pause.
    fn reconsider(&mut self, hurry: bool, at: At, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Inactive | Phase::Waiting => self.without_process(None, effects),
            Phase::BackingOff { until } => {
                self.without_process((!hurry).then_some(until), effects);
            }
            Phase::Activating { .. } | Phase::Active { .. } if self.is_unwanted() => {
                self.terminate(Why::Asked, at, effects);
            }
            // It ends already; that it does is no failure any more.
            Phase::Deactivating {
                kill_at,
                why: Why::Withdrew { .. },
            } if self.is_unwanted() => {
                self.phase = Phase::Deactivating {
                    kill_at,
                    why: Why::Asked,
                };
            }
            Phase::Sweeping {
                why: Why::Paused { .. },
            } if hurry => self.phase = Phase::Sweeping { why: Why::Asked },
            // What is wanted counts again once nothing of the process is left.
            Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        }
    }

    /// Counts a failed try and pauses before the next, for at least so long.
    fn fail(&mut self, this: Try, least: Duration, at: At, effects: &mut Vec<Effect>) {
        let (pause, failures) = restart::pause(this, self.failures, at.jitter);
        let pause = pause.max(least);
        self.failures = failures;
        let until = (!pause.is_zero()).then(|| at.now + pause);
        self.without_process(until, effects);
        if matches!(self.phase, Phase::Launching) {
            self.restarts += 1;
        }
    }

    fn activating(&self, started: Instant, registers: bool, adopted: bool, at: At) -> Phase {
        let (ready_at, registers) = match self.desired.ready {
            Ready::Notify => (None, false),
            Ready::After(uptime) => (Some(started + uptime), false),
            Ready::Registered => (None, registers),
        };
        Phase::Activating {
            started,
            ready_at,
            deadline: at.now + self.desired.activation_timeout,
            registers,
            adopted,
        }
    }

    /// Ends a process with its old definition, if there is one; what is wanted decides about the next.
    fn renew(&mut self, at: At, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Activating { .. } | Phase::Active { .. } => {
                self.terminate(Why::Asked, at, effects);
            }
            Phase::Deactivating { kill_at, .. } => {
                self.phase = Phase::Deactivating {
                    kill_at,
                    why: Why::Asked,
                };
            }
            Phase::Killing { .. } => self.phase = Phase::Killing { why: Why::Asked },
            Phase::Sweeping { .. } => self.phase = Phase::Sweeping { why: Why::Asked },
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Launching
            | Phase::Destroyed => self.reconsider(true, at, effects),
        }
    }
}

/// Decides one event in a server's life. Reads no clock, touches no process.
pub(crate) fn step(mut server: Server, event: Event, at: At) -> (Server, Vec<Effect>) {
    let mut effects = Vec::new();
    let s = &mut server;
    match event {
        Event::Desired(desired) => {
            if desired.goal != s.desired.goal {
                s.finished = false;
            }
            // Enabled or started anew: no pause is owed any more.
            let hurry = (desired.enabled && !s.desired.enabled) || desired.goal != s.desired.goal;
            s.desired = desired;
            s.reconsider(hurry, at, &mut effects);
        }
        Event::Redefined => {
            s.failures = 0;
            s.renew(at, &mut effects);
        }
        Event::Start => {
            s.desired.goal = Goal::Started;
            s.finished = false;
            s.failures = 0;
            s.reconsider(true, at, &mut effects);
        }
        Event::Stop => {
            s.desired.goal = Goal::Stopped;
            s.reconsider(false, at, &mut effects);
        }
        Event::Restart => {
            if s.desired.goal == Goal::Stopped || s.desired.activation != Activation::Always {
                s.desired.goal = Goal::Started;
            }
            s.finished = false;
            s.failures = 0;
            s.renew(at, &mut effects);
        }
        Event::Clear(clear) => {
            s.clear = clear;
            s.reconsider(false, at, &mut effects);
        }
        Event::Leaving(leaving) => {
            s.leaving = leaving;
            s.reconsider(false, at, &mut effects);
        }
        Event::Adopted {
            started,
            ready,
            registers,
        } => match s.phase {
            Phase::Inactive | Phase::Waiting | Phase::BackingOff { .. } => {
                s.phase = if ready {
                    Phase::Active { started }
                } else {
                    s.activating(started, registers, true, at)
                };
                s.reconsider(false, at, &mut effects);
            }
            Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        },
        Event::FoundDead => match s.phase {
            Phase::Inactive | Phase::Waiting => {
                effects.push(Effect::Sweep(at.now));
                s.phase = Phase::Sweeping { why: Why::Asked };
            }
            Phase::BackingOff { until } => {
                effects.push(Effect::Sweep(at.now));
                s.phase = Phase::Sweeping {
                    why: Why::Paused { until },
                };
            }
            Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        },
        Event::Launched | Event::LaunchFailed => match s.phase {
            Phase::Launching if event == Event::Launched => {
                s.phase = s.activating(at.now, true, false, at);
                s.reconsider(false, at, &mut effects);
            }
            Phase::Launching => {
                let never = Try {
                    was_active: false,
                    up: Duration::ZERO,
                };
                s.fail(never, s.desired.failure_pause, at, &mut effects);
            }
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        },
        Event::Ready | Event::Registered => match s.phase {
            Phase::Activating {
                started, registers, ..
            } if !registers || event == Event::Registered => {
                effects.push(Effect::NoteReady);
                s.phase = Phase::Active { started };
            }
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        },
        Event::Withdrew => match s.phase {
            Phase::Active { started } => {
                s.phase = Phase::Deactivating {
                    kill_at: at.now + s.desired.deactivation_timeout,
                    why: Why::Withdrew { started },
                };
            }
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Launching
            | Phase::Activating { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        },
        Event::Unheard => match s.phase {
            Phase::Deactivating { .. } => effects.push(Effect::Terminate),
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        },
        Event::Ended { success } => {
            let ended = |started, was_active| Why::Ended {
                run: Try {
                    was_active,
                    up: at.now.saturating_duration_since(started),
                },
                success,
            };
            let (until, why) = match s.phase {
                Phase::Activating { started, .. } => (at.now, ended(started, false)),
                Phase::Active { started }
                | Phase::Deactivating {
                    why: Why::Withdrew { started },
                    ..
                }
                | Phase::Killing {
                    why: Why::Withdrew { started },
                } => (at.now, ended(started, true)),
                // What is left of a server that was asked to end has the rest of the time.
                Phase::Deactivating { kill_at, why } => (kill_at, why),
                Phase::Killing { why } => (at.now, why),
                Phase::Inactive
                | Phase::Waiting
                | Phase::BackingOff { .. }
                | Phase::Launching
                | Phase::Sweeping { .. }
                | Phase::Destroyed => return (server, effects),
            };
            effects.push(Effect::Sweep(until));
            s.phase = Phase::Sweeping { why };
        }
        Event::Swept => match s.phase {
            Phase::Sweeping { why } => match why {
                // Its end has been told by then.
                Why::Asked | Why::Withdrew { .. } => s.without_process(None, &mut effects),
                Why::Paused { until } => s.without_process(Some(until), &mut effects),
                Why::TimedOut(run) => s.fail(run, s.desired.failure_pause, at, &mut effects),
                Why::Ended { run, success } => {
                    if success && s.desired.activation != Activation::Always {
                        s.finished = true;
                    }
                    let least = match success {
                        true => Duration::ZERO,
                        false => s.desired.failure_pause,
                    };
                    s.fail(run, least, at, &mut effects);
                }
            },
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Destroyed => {}
        },
        Event::Tick => match s.phase {
            Phase::BackingOff { until } if at.now >= until => {
                s.without_process(None, &mut effects);
                if matches!(s.phase, Phase::Launching) {
                    s.restarts += 1;
                }
            }
            Phase::Activating {
                started,
                ready_at: Some(ready_at),
                ..
            } if at.now >= ready_at => {
                effects.push(Effect::NoteReady);
                s.phase = Phase::Active { started };
            }
            Phase::Activating {
                started,
                deadline,
                registers,
                adopted,
                ..
            } if at.now >= deadline => {
                if adopted && !registers {
                    effects.push(Effect::AssumeReady);
                    s.phase = Phase::Active { started };
                } else {
                    effects.push(Effect::NoteTimeout);
                    let run = Try {
                        was_active: false,
                        up: at.now.saturating_duration_since(started),
                    };
                    s.terminate(Why::TimedOut(run), at, &mut effects);
                }
            }
            Phase::Deactivating { kill_at, why } if at.now >= kill_at => {
                effects.push(Effect::Kill);
                s.phase = Phase::Killing { why };
            }
            // Too early, or nothing is due.
            Phase::Inactive
            | Phase::Waiting
            | Phase::BackingOff { .. }
            | Phase::Launching
            | Phase::Activating { .. }
            | Phase::Active { .. }
            | Phase::Deactivating { .. }
            | Phase::Killing { .. }
            | Phase::Sweeping { .. }
            | Phase::Destroyed => {}
        },
    }
    (server, effects)
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
