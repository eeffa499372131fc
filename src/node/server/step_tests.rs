//! Tables and properties of the state machine.

use proptest::prelude::*;

use super::*;

fn desired(activation: Activation) -> Desired {
    Desired {
        activation,
        goal: Goal::Mode,
        enabled: true,
        ready: Ready::Notify,
        activation_timeout: Duration::from_secs(10),
        deactivation_timeout: Duration::from_secs(5),
        failure_pause: Duration::ZERO,
    }
}

/// A server under test, with a clock.
#[derive(Clone)]
struct Life {
    server: Server,
    now: Instant,
}

impl Life {
    fn new(activation: Activation) -> Self {
        Self {
            server: Server::new(desired(activation)),
            now: Instant::now(),
        }
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let at = At {
            now: self.now,
            jitter: 0.0,
        };
        let (server, effects) = step(self.server.clone(), event, at);
        self.server = server;
        effects
    }

    fn wanted(&mut self) -> Vec<Effect> {
        let desired = self.server.desired.clone();
        self.on(Event::Desired(desired))
    }

    /// Starts an `always` server and makes it ready.
    fn active() -> Self {
        let mut life = Self::new(Activation::Always);
        assert_eq!(life.wanted(), [Effect::Launch]);
        life.on(Event::Launched);
        assert_eq!(life.server.state(), ServerState::Activating);
        assert_eq!(life.on(Event::Ready), [Effect::NoteReady]);
        assert_eq!(life.server.state(), ServerState::Active);
        life
    }
}

#[test]
fn a_healthy_server_that_dies_is_started_at_once() {
    let mut life = Life::active();
    let effects = life.wait(60_000).on(Event::Ended { success: false });
    assert_eq!(effects, [Effect::Sweep(life.now)]);
    assert_eq!(life.on(Event::Swept), [Effect::Launch]);
    assert_eq!(life.server.restarts, 1);
}

#[test]
fn one_that_keeps_dying_is_started_ever_later() {
    let mut life = Life::active();
    for pause in [100, 200, 400] {
        life.on(Event::Ended { success: false });
        assert_eq!(life.on(Event::Swept), []);
        assert_eq!(life.wait(pause - 1).on(Event::Tick), []);
        assert_eq!(life.wait(1).on(Event::Tick), [Effect::Launch]);
        life.on(Event::Launched);
    }
}

#[test]
fn a_node_may_have_a_least_pause_after_a_failure_that_a_start_ends() {
    let ends = |success: bool| {
        let mut life = Life::active();
        life.server.desired.failure_pause = Duration::from_secs(30);
        life.wait(60_000).on(Event::Ended { success });
        (life.on(Event::Swept), life)
    };
    assert_eq!(ends(true).0, [Effect::Launch]);
    let (effects, mut life) = ends(false);
    assert_eq!(effects, []);
    assert_eq!(life.wait(29_999).on(Event::Tick), []);
    assert_eq!(life.clone().wait(1).on(Event::Tick), [Effect::Launch]);
    assert_eq!(life.on(Event::Start), [Effect::Launch]);
}

#[test]
fn a_pause_goes_on_under_another_program() {
    let handed_over = || {
        let mut life = Life::new(Activation::Always);
        life.server.failures = 5;
        let until = life.now + Duration::from_millis(700);
        life.server.phase = Phase::BackingOff { until };
        life
    };
    // Nothing of it was found.
    let mut life = handed_over();
    assert_eq!(life.wanted(), []);
    assert_eq!(life.wait(699).on(Event::Tick), []);
    assert_eq!(life.wait(1).on(Event::Tick), [Effect::Launch]);
    life.on(Event::LaunchFailed);
    let next = life.now + Duration::from_millis(3200);
    assert_eq!(life.server.next_tick(), Some(next), "it grows on");
    // It was found dead: what is left of it is ended first.
    let mut life = handed_over();
    assert_eq!(life.on(Event::FoundDead), [Effect::Sweep(life.now)]);
    assert_eq!(life.wait(100).on(Event::Swept), []);
    assert_eq!(life.wait(600).on(Event::Tick), [Effect::Launch]);
    assert_eq!(life.server.restarts, 1);
    // A command does not wait for it.
    let mut life = handed_over();
    life.on(Event::FoundDead);
    assert_eq!(life.on(Event::Start), []);
    assert_eq!(life.on(Event::Swept), [Effect::Launch]);
    // It lives.
    let mut life = handed_over();
    let started = life.now;
    life.on(Event::Adopted {
        started,
        ready: true,
        registers: false,
    });
    assert_eq!(life.server.state(), ServerState::Active);
    assert_eq!(life.server.failures, 5);
}

#[test]
fn a_program_that_is_missing_is_tried_again() {
    let mut life = Life::new(Activation::Always);
    life.wanted();
    life.on(Event::LaunchFailed);
    assert_eq!(life.server.state(), ServerState::Inactive);
    assert_eq!(
        life.server.next_tick(),
        Some(life.now + Duration::from_millis(100))
    );
    assert_eq!(life.wait(100).on(Event::Tick), [Effect::Launch]);
}

#[test]
fn one_that_never_gets_ready_is_stopped_and_tried_again() {
    let mut life = Life::new(Activation::Always);
    life.wanted();
    life.on(Event::Launched);
    assert_eq!(life.wait(9_999).on(Event::Tick), []);
    assert_eq!(
        life.wait(1).on(Event::Tick),
        [Effect::NoteTimeout, Effect::Terminate]
    );
    assert_eq!(life.server.state(), ServerState::ActivationTimedOut);
    assert_eq!(life.wait(5_000).on(Event::Tick), [Effect::Kill]);
    assert_eq!(life.server.state(), ServerState::ActivationTimedOut);
    life.on(Event::Ended { success: false });
    life.on(Event::Swept);
    assert_eq!(life.wait(100).on(Event::Tick), [Effect::Launch]);
}

#[test]
fn a_stop_is_stronger_than_always_and_ends_a_pause() {
    let mut life = Life::active();
    assert_eq!(life.on(Event::Stop), [Effect::Terminate]);
    let until = life.now + Duration::from_secs(5);
    assert_eq!(
        life.on(Event::Ended { success: true }),
        [Effect::Sweep(until)]
    );
    assert_eq!(life.server.state(), ServerState::Deactivating);
    assert_eq!(life.on(Event::Swept), []);
    assert_eq!(life.server.phase, Phase::Inactive);
    assert_eq!(life.wanted(), []);
    assert_eq!(life.on(Event::Start), [Effect::Launch]);
    life.on(Event::LaunchFailed);
    life.on(Event::Stop);
    assert_eq!(life.server.phase, Phase::Inactive);
}

#[test]
fn a_start_during_a_stop_starts_once_nothing_is_left() {
    let mut life = Life::active();
    life.on(Event::Stop);
    assert_eq!(life.on(Event::Start), []);
    life.on(Event::Ended { success: true });
    assert_eq!(life.on(Event::Swept), [Effect::Launch]);
}

#[test]
fn a_disabled_server_goes_on_but_is_not_started_again() {
    let mut life = Life::active();
    let disabled = Desired {
        enabled: false,
        ..desired(Activation::Always)
    };
    assert_eq!(life.on(Event::Desired(disabled)), []);
    assert_eq!(life.server.state(), ServerState::Active);
    life.on(Event::Ended { success: false });
    assert_eq!(life.on(Event::Swept), []);
    assert_eq!(life.server.phase, Phase::Inactive);
    assert_eq!(
        life.on(Event::Desired(desired(Activation::Always))),
        [Effect::Launch]
    );
}

#[test]
fn a_manual_server_that_has_done_its_work_stays_down_and_one_that_failed_does_not() {
    for (success, phase) in [(true, true), (false, false)] {
        let mut life = Life::new(Activation::Manual);
        assert_eq!(life.wanted(), []);
        assert_eq!(life.on(Event::Start), [Effect::Launch]);
        life.on(Event::Launched);
        life.on(Event::Ready);
        life.on(Event::Ended { success });
        life.on(Event::Swept);
        assert_eq!(life.server.phase == Phase::Inactive, phase);
    }
}

#[test]
fn a_server_waits_for_those_before_it() {
    let mut life = Life::new(Activation::Always);
    life.server.clear = false;
    assert_eq!(life.wanted(), []);
    assert_eq!(life.server.phase, Phase::Waiting);
    assert_eq!(life.on(Event::Clear(true)), [Effect::Launch]);
    life.on(Event::Launched);
    // One that runs does not mind.
    assert_eq!(life.on(Event::Clear(false)), []);
}

#[test]
fn an_adopted_server_that_says_nothing_counts_as_ready_in_the_end() {
    let mut life = Life::new(Activation::Always);
    let started = life.now;
    assert_eq!(
        life.on(Event::Adopted {
            started,
            ready: false,
            registers: false,
        }),
        []
    );
    assert_eq!(life.server.state(), ServerState::Activating);
    assert_eq!(life.wait(10_000).on(Event::Tick), [Effect::AssumeReady]);
    assert_eq!(life.server.state(), ServerState::Active);
}

#[test]
fn a_server_that_registers_is_ready_by_that_alone() {
    let mut life = Life::new(Activation::Always);
    life.server.desired.ready = Ready::Registered;
    life.wanted();
    life.on(Event::Launched);
    assert_eq!(life.on(Event::Ready), []);
    assert_eq!(life.wait(9_999).on(Event::Tick), []);
    assert_eq!(life.server.state(), ServerState::Activating);
    assert_eq!(life.on(Event::Registered), [Effect::NoteReady]);
    assert_eq!(life.server.state(), ServerState::Active);
    // A second time it means nothing.
    assert_eq!(life.on(Event::Registered), []);
}

#[test]
fn what_an_adopted_server_registered_was_not_lost_so_that_one_that_has_not_is_late() {
    for (rule, registers, effects) in [
        (
            Ready::Registered,
            true,
            &[Effect::NoteTimeout, Effect::Terminate][..],
        ),
        // Its record was lost, or it was started when there was no registry.
        (Ready::Registered, false, &[Effect::AssumeReady]),
        // There is no registry any more.
        (Ready::Notify, true, &[Effect::AssumeReady]),
    ] {
        let mut life = Life::new(Activation::Always);
        life.server.desired.ready = rule;
        let started = life.now;
        life.on(Event::Adopted {
            started,
            ready: false,
            registers,
        });
        assert_eq!(
            life.wait(10_000).on(Event::Tick),
            effects,
            "{rule:?} {registers}"
        );
    }
}

#[test]
fn one_that_takes_back_what_it_registered_ends_in_time_and_is_started_again() {
    for ends_in_time in [true, false] {
        let mut life = Life::active();
        assert_eq!(life.wait(60_000).on(Event::Withdrew), []);
        assert_eq!(life.server.state(), ServerState::Deactivating);
        if !ends_in_time {
            assert_eq!(life.wait(5_000).on(Event::Tick), [Effect::Kill]);
        }
        let effects = life.on(Event::Ended {
            success: ends_in_time,
        });
        assert_eq!(effects, [Effect::Sweep(life.now)]);
        assert_eq!(life.on(Event::Swept), [Effect::Launch]);
        assert_eq!(life.server.restarts, 1);
    }
    // One that is not ready has nothing to take back, and a stop makes it no failure.
    let mut life = Life::new(Activation::Always);
    life.wanted();
    life.on(Event::Launched);
    assert_eq!(life.on(Event::Withdrew), []);
    assert_eq!(life.server.state(), ServerState::Activating);
    let mut life = Life::active();
    life.on(Event::Withdrew);
    assert_eq!(life.on(Event::Stop), []);
    life.on(Event::Ended { success: false });
    life.on(Event::Swept);
    assert_eq!(
        (life.server.phase, life.server.failures),
        (Phase::Inactive, 0)
    );
}

#[test]
fn a_server_is_asked_where_it_said_and_by_a_signal_where_it_does_not_hear() {
    let mut life = Life::active();
    life.server.askable = true;
    assert_eq!(life.on(Event::Stop), [Effect::Ask]);
    assert_eq!(life.wait(2_000).on(Event::Unheard), [Effect::Terminate]);
    // The time runs from the first request.
    assert_eq!(life.wait(3_000).on(Event::Tick), [Effect::Kill]);
    assert_eq!(life.on(Event::Unheard), []);
}

#[test]
fn a_removed_server_is_destroyed_once_nothing_is_left() {
    let mut life = Life::active();
    assert_eq!(
        life.on(Event::Leaving(Leaving::Removed)),
        [Effect::Terminate]
    );
    assert_eq!(life.server.state(), ServerState::Destroying);
    life.on(Event::Ended { success: true });
    life.on(Event::Swept);
    assert_eq!(life.server.phase, Phase::Destroyed);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        Just(Event::Stop),
        Just(Event::Restart),
        Just(Event::Redefined),
        any::<bool>().prop_map(Event::Clear),
        any::<bool>().prop_map(|enabled| Event::Desired(Desired {
            enabled,
            ..desired(Activation::Always)
        })),
        Just(Event::Ready),
        Just(Event::Registered),
        Just(Event::Withdrew),
        Just(Event::Unheard),
        any::<bool>().prop_map(|success| Event::Ended { success }),
        Just(Event::Tick),
    ]
}

/// The world around a server: does what its effects say, now or when the test says so.
#[derive(Default)]
struct World {
    process: bool,
    sweeping: bool,
}

impl World {
    fn tell(&mut self, life: &mut Life, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            match event {
                Event::Ended { .. } if !self.process => continue,
                Event::Ended { .. } => self.process = false,
                Event::Swept if !self.sweeping => continue,
                Event::Swept => self.sweeping = false,
                _ => {}
            }
            for effect in life.on(event) {
                match effect {
                    Effect::Launch => {
                        assert!(!self.process && !self.sweeping, "a second process");
                        self.process = true;
                        events.push(Event::Launched);
                    }
                    Effect::Sweep(_) => {
                        assert!(!self.process, "swept while the process is there");
                        self.sweeping = true;
                    }
                    Effect::Ask
                    | Effect::Terminate
                    | Effect::Kill
                    | Effect::NoteTimeout
                    | Effect::NoteReady
                    | Effect::AssumeReady => {}
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn there_are_never_two_processes_and_a_stop_always_ends(
        events in prop::collection::vec((any_event(), 0..20_000_u64, any::<bool>()), 0..60),
        node_stops: bool,
    ) {
        let mut life = Life::new(Activation::Always);
        let mut world = World::default();
        for (event, wait, swept) in events {
            life.wait(wait);
            world.tell(&mut life, event);
            if swept {
                world.tell(&mut life, Event::Swept);
            }
            prop_assert_eq!(world.process, life.server.has_process());
        }
        let last = if node_stops { Event::Leaving(Leaving::NodeStops) } else { Event::Stop };
        world.tell(&mut life, last);
        // Ignores TERM, dies by KILL.
        life.wait(5_000);
        world.tell(&mut life, Event::Tick);
        world.tell(&mut life, Event::Ended { success: false });
        world.tell(&mut life, Event::Swept);
        prop_assert_eq!(life.server.phase, Phase::Inactive);
        prop_assert_eq!(life.server.next_tick(), None);
    }
}
