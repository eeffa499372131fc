use proptest::prelude::*;

use super::balance::Balancing;
use super::policy::Group;
use super::route::Route;
use super::*;
use crate::descriptor::{LoadBalancing, LoadBalancingPolicy};

fn id(n: usize) -> ServerId {
    format!("Blitz-{n}").parse().unwrap()
}

fn blitz(n: usize, sessions: u64) -> Candidate {
    Candidate {
        id: id(n),
        accepts: true,
        coming: false,
        put_away: false,
        read_only: false,
        sessions,
        internal: 0,
        weight: 1.0,
        node: "n".parse().unwrap(),
        load_factor: None,
        load: [0.0; 3],
        startup: None,
        answers: true,
        away_since_ms: None,
    }
}

/// A reproducible source of numbers.
fn dice(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed | 1;
    move |below| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }
}

fn policy(redirector: Redirector) -> Policy {
    Policy {
        redirector,
        ..Policy::default()
    }
}

fn world(policy: &Policy, redirect: Option<&ServerId>, blitzes: &[Candidate]) -> World {
    World {
        policy: Arc::new(policy.clone()),
        redirect: redirect.cloned(),
        blitzes: blitzes.to_vec(),
    }
}

fn choose(policy: &Policy, redirect: Option<&ServerId>, blitzes: &[Candidate]) -> Decision {
    let world = world(policy, redirect, blitzes);
    decide(&Facts::default(), &world, &[], 0, &mut dice(1)).decision
}

fn balancing(policy: LoadBalancingPolicy, replicas: &str) -> Balancing {
    Balancing::from(&LoadBalancing {
        policy,
        n_replicas: replicas.to_owned(),
        load_sample: Some("5".to_owned()),
    })
}

#[test]
fn the_redirect_takes_every_session_and_is_waited_for() {
    let config = policy(Redirector::Config);
    let mut blitzes = [blitz(0, 9), blitz(1, 0)];
    let zero = id(0);
    assert_eq!(
        choose(&config, Some(&zero), &blitzes),
        Decision::Use(zero.clone())
    );
    blitzes[0].accepts = false;
    assert!(matches!(
        choose(&config, Some(&zero), &blitzes),
        Decision::Wait(_)
    ));
    // Whoever was with it when it went is not kept waiting.
    let left = world(&config, Some(&zero), &blitzes);
    let decided = decide(&Facts::default(), &left, &[id(0)], 0, &mut dice(1));
    assert_eq!(decided.decision, Decision::Use(id(1)));
    // Without a redirect the entry keeps it.
    assert_eq!(choose(&config, None, &blitzes), Decision::Use(id(1)));
}

#[test]
fn the_blitz_that_was_reached_is_the_entry_while_it_takes_sessions() {
    let reached = Facts {
        entry: Some(id(1)),
        ..Facts::default()
    };
    let go = |redirector: Redirector, redirect: Option<&ServerId>, blitzes: &[Candidate]| {
        let world = world(&policy(redirector), redirect, blitzes);
        decide(&reached, &world, &[], 0, &mut dice(1)).decision
    };
    let mut blitzes = [blitz(0, 0), blitz(1, 9)];
    let (zero, one) = (Decision::Use(id(0)), Decision::Use(id(1)));
    assert_eq!(go(Redirector::Null, None, &blitzes), one);
    assert_eq!(go(Redirector::Config, None, &blitzes), one);
    assert_eq!(go(Redirector::Config, Some(&id(0)), &blitzes), zero);
    assert_eq!(go(Redirector::Scale, None, &blitzes), zero);
    blitzes[1].accepts = false;
    assert_eq!(go(Redirector::Null, None, &blitzes), zero);
}

#[test]
fn a_full_blitz_is_passed_over_and_internal_sessions_fill_none() {
    let policy = Policy {
        max_sessions: Some(5),
        ..policy(Redirector::Config)
    };
    let zero = id(0);
    let mut blitzes = [blitz(0, 5), blitz(1, 4)];
    assert_eq!(
        choose(&policy, Some(&zero), &blitzes),
        Decision::Use(id(1)),
        "the redirect is full"
    );
    blitzes[1].sessions = 5;
    assert!(matches!(
        choose(&policy, Some(&zero), &blitzes),
        Decision::Full(..)
    ));
    blitzes[0].internal = 1;
    assert_eq!(choose(&policy, Some(&zero), &blitzes), Decision::Use(zero));
}

#[test]
fn what_failed_is_tried_again_only_where_there_is_no_other() {
    let null = policy(Redirector::Null);
    let blitzes = [blitz(0, 0), blitz(1, 50)];
    let again = |blitzes: &[Candidate]| {
        let world = world(&null, None, blitzes);
        decide(&Facts::default(), &world, &[id(0)], 0, &mut dice(1)).decision
    };
    assert_eq!(again(&blitzes), Decision::Use(id(1)));
    assert_eq!(again(&blitzes[..1]), Decision::Use(id(0)));
}

#[test]
fn a_route_confines_the_choice_and_is_a_promise() {
    let policy = Policy {
        routes: vec![
            Route::parse(1, "user=public -> read-only").unwrap(),
            Route::parse(2, "user=a* -> Blitz-1,Spares").unwrap(),
        ],
        groups: [(
            "Spares".to_owned(),
            Group {
                balancing: balancing(LoadBalancingPolicy::Ordered, "1"),
                servers: vec![id(3), id(2)],
            },
        )]
        .into(),
        ..policy(Redirector::Scale)
    };
    let mut blitzes: Vec<_> = (0..4).map(|n| blitz(n, 10 * (4 - n as u64))).collect();
    blitzes[0].read_only = true;
    let go = |user: &str, blitzes: &[Candidate]| {
        let facts = Facts {
            user: user.to_owned(),
            ..Facts::default()
        };
        decide(&facts, &world(&policy, None, blitzes), &[], 0, &mut dice(1)).decision
    };
    assert_eq!(go("public", &blitzes), Decision::Use(id(0)));
    assert_eq!(go("anna", &blitzes), Decision::Use(id(3)));
    blitzes[0].accepts = false;
    assert!(
        matches!(go("public", &blitzes), Decision::Wait(_)),
        "never on a Blitz that writes"
    );
}

#[test]
fn only_who_would_get_the_session_is_started_for_it() {
    let table = [
        // Redirector, redirect, the route's target, those who accept → those to be started.
        (Redirector::Null, None, None, vec![], vec![0, 1, 2]),
        (Redirector::Null, None, None, vec![1], vec![]),
        (Redirector::Null, None, Some(2), vec![1], vec![2]),
        (Redirector::Config, Some(0), None, vec![1], vec![0]),
        (Redirector::Config, Some(0), Some(2), vec![], vec![2]),
        (Redirector::Config, Some(3), None, vec![], vec![]),
    ];
    for (redirector, redirect, target, accept, expected) in table {
        let route = target.map(|n| Route::parse(1, &format!("* -> Blitz-{n}")).unwrap());
        let policy = Policy {
            routes: route.into_iter().collect(),
            ..policy(redirector)
        };
        let mut blitzes: Vec<_> = (0..4).map(|n| blitz(n, 0)).collect();
        for (n, blitz) in blitzes.iter_mut().enumerate() {
            blitz.accepts = accept.contains(&n);
        }
        // It was stopped: nobody's need starts it.
        blitzes[3].put_away = true;
        let redirect = redirect.map(id);
        let world = world(&policy, redirect.as_ref(), &blitzes);
        let started = to_be_started(&Facts::default(), &world);
        let started: Vec<_> = started.iter().map(|c| c.id.clone()).collect();
        let expected: Vec<_> = expected.into_iter().map(id).collect();
        assert_eq!(started, expected, "{redirector:?} {redirect:?} {target:?}");
    }
}

#[test]
fn the_balancing_of_a_group_is_icegrids() {
    let blitzes: Vec<_> = (0..3).map(|n| blitz(n, 0)).collect();
    let members: Vec<_> = blitzes.iter().collect();
    let mut dice = dice(7);
    let mut picks = |policy, replicas, members: &[&Candidate]| -> Vec<usize> {
        let balancing = balancing(policy, replicas);
        let picked = (0..30).map(|turn| balancing.pick(members, turn, &mut dice).id.clone());
        picked
            .map(|picked| (0..3).find(|n| id(*n) == picked).unwrap())
            .collect()
    };
    use LoadBalancingPolicy::{Adaptive, Ordered, Random, RoundRobin};
    assert_eq!(picks(Ordered, "2", &members), [0; 30]);
    assert_eq!(picks(RoundRobin, "1", &members)[..4], [0, 1, 2, 0]);
    let random = picks(Random, "1", &members);
    assert!((0..3).all(|n| random.contains(&n)), "{random:?}");

    let mut loaded = blitzes.clone();
    (loaded[0].load, loaded[1].load) = ([0.0, 3.0, 0.0], [9.0, 0.1, 9.0]);
    loaded[2].sessions = 5;
    let members: Vec<_> = loaded.iter().collect();
    assert_eq!(
        picks(Adaptive, "1", &members),
        [1; 30],
        "the load over 5 minutes"
    );
    let two = picks(Adaptive, "2", &members);
    assert!(
        two.contains(&1) && two.contains(&2) && !two.contains(&0),
        "{two:?}"
    );
}

#[test]
fn ten_thousand_creations_spread_within_ten_percent_of_even() {
    for count in [2, 3, 4, 8, 16] {
        let scale = policy(Redirector::Scale);
        let mut blitzes: Vec<_> = (0..count).map(|n| blitz(n, 0)).collect();
        let mut dice = dice(count as u64);
        for turn in 0..10_000 {
            let world = world(&scale, None, &blitzes);
            let decided = decide(&Facts::default(), &world, &[], turn, &mut dice);
            let Decision::Use(chosen) = decided.decision else {
                panic!("{decided:?}");
            };
            let chosen = blitzes.iter_mut().find(|b| b.id == chosen).unwrap();
            chosen.sessions += 1;
        }
        let even = 10_000.0 / count as f64;
        for blitz in &blitzes {
            let off = (blitz.sessions as f64 - even).abs() / even;
            assert!(off < 0.1, "{count}: {} of {even}", blitz.sessions);
        }
    }
}

#[test]
fn weights_share_in_proportion() {
    let scale = policy(Redirector::Scale);
    let mut blitzes = [blitz(0, 0), blitz(1, 0)];
    blitzes[1].weight = 3.0;
    let mut dice = dice(5);
    for turn in 0..4000 {
        let world = world(&scale, None, &blitzes);
        let decided = decide(&Facts::default(), &world, &[], turn, &mut dice);
        let Decision::Use(chosen) = decided.decision else {
            panic!("{decided:?}");
        };
        blitzes
            .iter_mut()
            .find(|b| b.id == chosen)
            .unwrap()
            .sessions += 1;
    }
    assert!((995..=1005).contains(&blitzes[0].sessions), "{blitzes:?}");
}

prop_compose! {
    fn any_blitz(n: usize)(
        accepts in any::<bool>(),
        coming in any::<bool>(),
        read_only in any::<bool>(),
        sessions in 0..20_u64,
        internal in 0..5_u64,
        weight in 0.1..10.0,
        load in 0.0..8.0,
    ) -> Candidate {
        Candidate { accepts, coming, read_only, internal, weight, load: [load; 3], ..blitz(n, sessions) }
    }
}

fn any_blitzes() -> impl Strategy<Value = Vec<Candidate>> {
    (0..9_usize).prop_flat_map(|count| (0..count).map(any_blitz).collect::<Vec<_>>())
}

proptest! {
    /// Whatever is said: no session goes to a Blitz that does not accept, is full, or is not where the route leads; and somebody is
    /// found wherever there is one.
    #[test]
    fn a_session_goes_only_where_it_may(
        blitzes in any_blitzes(),
        redirector in prop::sample::select(vec![Redirector::Null, Redirector::Config, Redirector::Scale]),
        redirect in prop::option::of(0..9_usize),
        max in prop::option::of(1..15_u64),
        routed in any::<bool>(),
        tried in prop::collection::vec(0..9_usize, 0..3),
        turn in any::<usize>(),
        seed in any::<u64>(),
    ) {
        let policy = Policy {
            max_sessions: max,
            routes: if routed { vec![Route::parse(1, "* -> Blitz-1,Blitz-2,read-only").unwrap()] } else { Vec::new() },
            ..policy(redirector)
        };
        let redirect = redirect.map(id);
        let tried: Vec<_> = tried.into_iter().map(id).collect();
        let may = |c: &Candidate| {
            c.accepts
                && max.is_none_or(|max| c.sessions.saturating_sub(c.internal) < max)
                && (!routed || c.read_only || c.id == id(1) || c.id == id(2))
        };
        let verdict = decide(&Facts::default(), &world(&policy, redirect.as_ref(), &blitzes), &tried, turn, &mut dice(seed));
        match verdict.decision {
            Decision::Use(chosen) => {
                let chosen = blitzes.iter().find(|c| c.id == chosen).unwrap();
                prop_assert!(may(chosen));
                let others = blitzes.iter().any(|c| may(c) && !tried.contains(&c.id));
                prop_assert!(!others || !tried.contains(&chosen.id));
            }
            Decision::Full(..) => prop_assert!(!blitzes.iter().any(may)),
            Decision::Wait(_) => {
                let awaits_redirect = redirector == Redirector::Config
                    && !redirect.as_ref().is_some_and(|id| tried.contains(id))
                    && blitzes.iter().any(|c| Some(&c.id) == redirect.as_ref() && !c.accepts);
                prop_assert!(awaits_redirect || !blitzes.iter().any(may));
            }
        }
        prop_assert!(!verdict.steps.is_empty());
    }
}
