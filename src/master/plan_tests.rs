//! Plans by example and by property: descriptors in, orders and durable changes out, no process anywhere.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::descriptor::{Request, load};
use crate::ipc::message::blitz;
use crate::ipc::message::client::DescriptorSource;
use crate::ipc::message::node::Goal;
use crate::master::desired::{History, Selection, Switch};
use crate::model::{Accepting, ServerState};

/// A server of a made-up application: its node, its option, whether it is a built-in Blitz.
type Made = (u8, u8, bool);

/// Reads an application with these servers, `None` for those that are not in it.
fn application(servers: &[Option<Made>]) -> Deployed {
    let mut xml = String::from("<icegrid><application name=\"A\">");
    for node in 0..3 {
        xml.push_str(&format!("<node name=\"n{node}\">"));
        if node == 2 {
            xml.push_str("<variable name=\"omero.grid.start\" value=\"manual\"/>");
        }
        for (number, server) in servers.iter().enumerate() {
            if let Some((_, option, is_blitz)) = server.filter(|server| server.0 == node) {
                let (exe, first) = if is_blitz {
                    ("omero-grid", "blitz")
                } else {
                    ("prog", "x")
                };
                xml.push_str(&format!(
                    "<server id=\"s{number}\" exe=\"{exe}\" activation=\"always\"><option>{first}</option><option>{option}</option></server>"
                ));
            }
        }
        xml.push_str("</node>");
    }
    xml.push_str("</application></icegrid>");
    deployed(&xml)
}

fn deployed(xml: &str) -> Deployed {
    let path = PathBuf::from("/a.xml");
    let source = BTreeMap::from([(path.clone(), xml.as_bytes().to_vec())]);
    let request = Request {
        file: path,
        ..Request::default()
    };
    let loaded = load(&source, &request).unwrap_or_else(|e| panic!("{xml}\n{e}"));
    Deployed {
        order: 0,
        source: DescriptorSource::default(),
        deployment: loaded.deployment,
        profile: Vec::new(),
        definition: Some(loaded.definition),
        history: History::default(),
    }
}

fn desired(servers: &[Option<Made>]) -> Desired {
    let mut desired = Desired::default();
    desired.apply(Change::Application(Box::new(application(servers))));
    desired
}

/// Returns what nodes would report if everything that is to run runs; Blitzes have this many sessions.
fn reports(desired: &Desired, sessions: u64) -> BTreeMap<ServerId, ServerReport> {
    let report = |id: &ServerId, placed: &PlacedServer| {
        let is_blitz = placed.descriptor.is_builtin_blitz();
        let blitz = is_blitz.then(|| blitz::Status {
            uuid: String::new(),
            internal: 0,
            sessions,
            accepting: Accepting::Yes,
            read_only: blitz::ReadOnly::default(),
            resumed: 0,
            read_only_reason: blitz::ReadOnlyReason::default(),
            waits_for_repository: None,
        });
        ServerReport {
            id: id.clone(),
            activation: placed.descriptor.activation(),
            enabled: true,
            goal: Goal::Mode,
            state: ServerState::Active,
            pid: Some(1),
            started_ms: None,
            ready_after_ms: None,
            restarts: 0,
            failed_tries: 0,
            last_exit: None,
            failure: None,
            waiting_for: None,
            next_start_ms: None,
            is_builtin_blitz: is_blitz,
            blitz,
            adapters: BTreeMap::new(),
            process: None,
            outdated: false,
        }
    };
    desired
        .placed()
        .filter(|(.., placed)| desired.wants_node(&placed.node))
        .map(|(id, _, placed)| (id.clone(), report(id, placed)))
        .collect()
}

fn apply(desired: &mut Desired, plan: DeployPlan) {
    for change in plan.changes {
        desired.apply(change);
    }
}

fn definitions(desired: &Desired) -> BTreeMap<ServerId, PlacedServer> {
    desired
        .placed()
        .map(|(id, _, placed)| (id.clone(), placed.clone()))
        .collect()
}

fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

#[test]
fn a_removal_stops_what_runs_and_spares_live_sessions() {
    let mut before = desired(&[Some((0, 1, true)), Some((1, 1, false)), Some((2, 1, false))]);
    let wish = Wish {
        goal: Goal::Stopped,
        enabled: true,
    };
    before.apply(Change::Server("s1".parse().unwrap(), wish));
    let plan = remove(&before, "A", &reports(&before, 2), Liberty::Careful);
    assert_eq!(plan.in_the_way, [("s0".parse().unwrap(), 2)]);
    let plan = remove(&before, "A", &reports(&before, 0), Liberty::Careful);
    assert!(plan.in_the_way.is_empty());
    let effects: Vec<_> = plan.report.changes.iter().collect();
    let effects: Vec<_> = effects
        .iter()
        .map(|change| (change.change.as_str(), change.effect.as_str()))
        .collect();
    let (stop, none) = (("removed", "stop"), ("removed", "none"));
    assert_eq!(effects, [stop, stop, none]);
    assert_eq!(plan.report.nodes_removed.len(), 3);
    let mut after = before.clone();
    apply(&mut after, plan);
    assert!(after.applications.is_empty() && after.servers.is_empty());
    assert_eq!(after.placed().count(), 0);
    let now = Circumstances {
        generation: after.generation,
        ..Circumstances::default()
    };
    let orders = orders(&after, vec![node("n0"), node("n1")], &now);
    assert!(orders.values().all(|order| matches!(order, Order::Stop)));
    let plan = remove(&before, "nobody", &reports(&before, 2), Liberty::Careful);
    assert!(plan.report.changes.is_empty());
}

#[test]
fn a_deploy_names_each_difference_and_what_it_does_to_the_process() {
    let before = desired(&[
        Some((0, 1, true)),
        Some((0, 1, false)),
        Some((1, 1, false)),
        Some((2, 1, false)),
        None,
    ]);
    let after = application(&[
        Some((0, 2, true)),
        Some((0, 1, false)),
        None,
        Some((2, 2, false)),
        Some((1, 1, false)),
    ]);
    let plan = deploy(&before, after, &reports(&before, 2), Liberty::Careful);
    let changes: Vec<_> = plan
        .report
        .changes
        .iter()
        .map(|c| {
            (
                c.server.as_str(),
                c.change.as_str(),
                c.effect.as_str(),
                c.sessions,
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            ("s0", "changed", "restart", 2),
            ("s2", "removed", "stop", 0),
            // Its node is manual and down.
            ("s3", "changed", "none", 0),
            ("s4", "added", "start", 0),
        ]
    );
    assert_eq!(plan.in_the_way, [("s0".parse().unwrap(), 2)]);
}

#[test]
fn a_held_blitz_keeps_its_definition_until_it_is_let_go() {
    let mut wanted = desired(&[Some((0, 1, true)), Some((0, 1, false))]);
    let before = definitions(&wanted);
    let after = application(&[Some((0, 2, true)), Some((0, 2, false))]);
    let plan = deploy(&wanted, after.clone(), &reports(&wanted, 1), Liberty::Hold);
    assert!(plan.in_the_way.is_empty());
    apply(&mut wanted, plan);
    let blitz: ServerId = "s0".parse().unwrap();
    assert_eq!(wanted.server(&blitz), before.get(&blitz));
    assert_ne!(definitions(&wanted), before);
    // Deployed again without sessions, nothing holds it back any longer.
    let plan = deploy(
        &wanted,
        after.clone(),
        &reports(&wanted, 0),
        Liberty::Careful,
    );
    apply(&mut wanted, plan);
    assert_eq!(wanted.server(&blitz), after.deployment.servers.get(&blitz));
    assert!(wanted.held.is_empty());
}

#[test]
fn what_goes_back_to_what_runs_is_held_no_longer() {
    let old = [Some((0, 1, true))];
    let mut wanted = desired(&old);
    let plan = deploy(
        &wanted,
        application(&[Some((0, 2, true))]),
        &reports(&wanted, 1),
        Liberty::Hold,
    );
    apply(&mut wanted, plan);
    let plan = deploy(
        &wanted,
        application(&old),
        &reports(&wanted, 1),
        Liberty::Careful,
    );
    assert_eq!(plan.report.changes, []);
    apply(&mut wanted, plan);
    assert!(wanted.held.is_empty());
}

#[test]
fn settings_restart_nothing_and_those_that_are_live_come_through_all_the_same() {
    let application = |timeout: &str, dir: &str| {
        let server = |id: &str, exe: &str| {
            format!(
                "<server id=\"{id}\" exe=\"{exe}\" activation=\"always\"><option>blitz</option>\
                 <property name=\"omero.sessions.timeout\" value=\"{timeout}\"/>\
                 <property name=\"omero.data.dir\" value=\"{dir}\"/></server>"
            )
        };
        let servers = [
            ("Blitz-0", "omero-grid"),
            ("Blitz-1", "java"),
            ("p", "prog"),
        ];
        let servers: String = servers.map(|(id, exe)| server(id, exe)).concat();
        deployed(&format!(
            "<icegrid><application name=\"A\"><node name=\"n0\">{servers}</node></application></icegrid>"
        ))
    };
    let mut wanted = Desired::default();
    wanted.apply(Change::Application(Box::new(application("1", "/a"))));
    let mut set = |fresh: Deployed, liberty: Liberty| -> (Vec<String>, Vec<String>) {
        let plan = deploy(&wanted, fresh, &reports(&wanted, 0), liberty);
        assert!(plan.in_the_way.is_empty());
        let changes = plan.report.changes.iter();
        let effects = changes.map(|change| change.effect.clone()).collect();
        apply(&mut wanted, plan);
        let has = |id: &str| {
            let placed = wanted.server(&id.parse().unwrap()).unwrap();
            let get = |name| placed.descriptor.property_set.get(name).unwrap().to_owned();
            format!(
                "{} {}",
                get("omero.sessions.timeout"),
                get("omero.data.dir")
            )
        };
        (effects, ["Blitz-0", "Blitz-1", "p"].map(has).into())
    };
    let words = |words: [&str; 3]| words.map(str::to_owned).to_vec();
    // OMERO's own Blitz reads its properties once, whatever the built-in one can be told.
    let (effects, has) = set(application("2", "/a"), Liberty::Spare);
    assert_eq!(effects, words(["live", "held", "live"]));
    assert_eq!(has, words(["2 /a", "1 /a", "2 /a"]));
    let (effects, has) = set(application("3", "/b"), Liberty::Spare);
    assert_eq!(effects, words(["held", "held", "held"]));
    assert_eq!(has, words(["3 /a", "1 /a", "3 /a"]));
    let (effects, has) = set(application("4", "/b"), Liberty::Spare);
    assert_eq!(effects, words(["held", "held", "held"]));
    assert_eq!(has, words(["4 /a", "1 /a", "4 /a"]));
    // A reload restarts what has no sessions; those of OMERO's own Blitz are not seen.
    let (effects, has) = set(application("4", "/b"), Liberty::Hold);
    assert_eq!(effects, words(["restart", "held", "restart"]));
    assert_eq!(has, words(["4 /b", "1 /a", "4 /b"]));
    let (_, has) = set(application("1", "/a"), Liberty::Spare);
    assert_eq!(has, words(["1 /b", "1 /a", "1 /b"]));
    set(application("1", "/b"), Liberty::Spare);
    let held: Vec<_> = wanted.held.keys().map(ServerId::as_str).collect();
    assert_eq!(held, ["Blitz-1"], "the others have what is wanted again");
}

#[test]
fn what_can_be_told_is_told_until_a_deploy_restarts_it() {
    let application = |value: &str, option: &str| {
        let server = |id: &str, exe: &str, within: &str| {
            format!(
                "<server id=\"{id}\" exe=\"{exe}\" activation=\"always\"><option>{option}</option>\
                 <property name=\"Say\" value=\"{value}\"/>{within}</server>"
            )
        };
        let adapter = "<adapter name=\"A\" endpoints=\"tcp\"/>";
        let servers = [
            server("Blitz-0", "omero-grid", adapter),
            server("ice", "prog", adapter),
            server("plain", "prog", ""),
        ];
        deployed(&format!(
            "<icegrid><application name=\"A\"><node name=\"n0\">{}</node></application></icegrid>",
            servers.concat()
        ))
    };
    let mut wanted = Desired::default();
    wanted.apply(Change::Application(Box::new(application("1", "x"))));
    let mut set = |fresh: Deployed, liberty: Liberty| -> (Vec<String>, Vec<String>) {
        let plan = deploy(&wanted, fresh, &reports(&wanted, 0), liberty);
        let changes = plan.report.changes.iter();
        let effects = changes.map(|change| change.effect.clone()).collect();
        apply(&mut wanted, plan);
        let in_place = wanted.in_place.iter().map(ToString::to_string);
        (effects, in_place.collect())
    };
    let words = |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).to_owned()).collect() };
    let same = words(&["restart", "told", "restart"]);
    let all = words(&["restart", "restart", "restart"]);
    let (ice, none) = (words(&["ice"]), Vec::new());
    // Neither a program that speaks no Ice nor the built-in Blitz, which takes up what it can in any case.
    let in_place = Liberty::InPlace;
    assert_eq!(
        set(application("2", "x"), in_place),
        (same.clone(), ice.clone())
    );
    assert_eq!(
        set(application("2", "x"), Liberty::Careful),
        (none.clone(), ice.clone())
    );
    assert_eq!(
        set(application("3", "x"), Liberty::Careful),
        (all.clone(), none.clone())
    );
    assert_eq!(set(application("4", "x"), in_place), (same, ice));
    assert_eq!(set(application("4", "y"), in_place), (all, none));
}

#[test]
fn which_nodes_run_follows_from_selection_and_hand() {
    let mut wanted = desired(&[]);
    let runs = |desired: &Desired| -> Vec<String> {
        let orders = orders(desired, vec![node("old")], &Circumstances::default());
        orders
            .iter()
            .filter(|(_, o)| matches!(o, Order::Run(_)))
            .map(|(n, _)| n.to_string())
            .collect()
    };
    assert_eq!(runs(&wanted), ["n0", "n1"]);
    wanted.apply(Change::Node(node("n2"), Some(Switch::Started)));
    wanted.apply(Change::Node(node("n0"), Some(Switch::Stopped)));
    assert_eq!(runs(&wanted), ["n1", "n2"]);
    wanted.apply(Change::Node(node("n0"), None));
    wanted.apply(Change::Selection(Selection::Named([node("n0")].into())));
    assert_eq!(runs(&wanted), ["n0", "n2"]);
    wanted.apply(Change::Selection(Selection::All));
    assert_eq!(runs(&wanted), ["n0", "n1", "n2"]);
    let stopping = Circumstances {
        stopping: true,
        ..Circumstances::default()
    };
    let all = orders(&wanted, vec![node("old")], &stopping);
    assert_eq!(all.len(), 4);
    assert!(all.values().all(|order| matches!(order, Order::Stop)));
}

#[test]
fn a_server_waits_for_those_of_other_nodes_that_are_to_run() {
    let server = |id: &str, after: &str| {
        format!(
            "<server id=\"{id}\" exe=\"p\" activation=\"always\"><property name=\"omero.grid.after\" value=\"{after}\"/></server>"
        )
    };
    let xml = format!(
        "<icegrid><application name=\"A\"><node name=\"n0\">{}</node><node name=\"n1\">{}{}</node></application></icegrid>",
        server("first", ""),
        server("here", ""),
        server("last", "first here"),
    );
    let mut wanted = Desired::default();
    wanted.apply(Change::Application(Box::new(deployed(&xml))));
    let first: ServerId = "first".parse().unwrap();
    let mut active = BTreeSet::new();
    assert_eq!(
        wanted.come_first(),
        ["first", "here"].map(|id| id.parse().unwrap()).into()
    );
    assert_eq!(
        wanted.assignment(&node("n1"), &active).not_ready_elsewhere,
        std::slice::from_ref(&first)
    );
    assert!(
        wanted
            .assignment(&node("n0"), &active)
            .not_ready_elsewhere
            .is_empty()
    );
    active.insert(first.clone());
    assert!(
        wanted
            .assignment(&node("n1"), &active)
            .not_ready_elsewhere
            .is_empty()
    );
    // Nobody waits for what is not going to come.
    wanted.apply(Change::Server(
        first,
        Wish {
            goal: Goal::Stopped,
            enabled: true,
        },
    ));
    assert!(
        wanted
            .assignment(&node("n1"), &BTreeSet::new())
            .not_ready_elsewhere
            .is_empty()
    );
}

fn servers() -> impl Strategy<Value = Vec<Option<Made>>> {
    prop::collection::vec(
        prop::option::weighted(0.8, (0..3_u8, 0..3_u8, any::<bool>())),
        6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_deploy_reaches_what_was_asked_for_and_a_second_one_finds_nothing(
        old in servers(), new in servers(), sessions in 0..3_u64,
    ) {
        let mut wanted = desired(&old);
        let fresh = application(&new);
        let plan = deploy(&wanted, fresh.clone(), &reports(&wanted, sessions), Liberty::Now);
        apply(&mut wanted, plan);
        prop_assert_eq!(definitions(&wanted), fresh.deployment.servers.clone());
        let again = deploy(&wanted, fresh, &reports(&wanted, sessions), Liberty::Now);
        prop_assert_eq!(again.report.changes, vec![]);
    }

    #[test]
    fn no_careful_or_holding_deploy_touches_a_blitz_with_live_sessions(
        old in servers(), new in servers(), newer in servers(),
    ) {
        let mut wanted = desired(&old);
        for fresh in [new, newer] {
            let seen = reports(&wanted, 1);
            let busy: BTreeMap<_, _> = definitions(&wanted)
                .into_iter()
                .filter(|(id, placed)| placed.descriptor.is_builtin_blitz() && seen.contains_key(id))
                .collect();
            let fresh = application(&fresh);
            let careful = deploy(&wanted, fresh.clone(), &seen, Liberty::Careful);
            let touched: BTreeSet<_> = careful.in_the_way.iter().map(|(id, _)| id.clone()).collect();
            let after = {
                let mut after = wanted.clone();
                apply(&mut after, deploy(&wanted, fresh.clone(), &seen, Liberty::Now));
                definitions(&after)
            };
            for (id, placed) in &busy {
                let differs = after.get(id) != Some(placed);
                prop_assert_eq!(differs, touched.contains(id), "{}", id);
            }
            let holding = deploy(&wanted, fresh, &seen, Liberty::Hold);
            apply(&mut wanted, holding);
            for (id, placed) in &busy {
                prop_assert_eq!(wanted.server(id), Some(placed));
            }
        }
    }
}
