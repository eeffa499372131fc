//! Conversations with IceGrid that were recorded, held again with this registry: the same is answered, but for ids, ports, process numbers,
//! times and what else is another each time, and but for what is listed here.
//!
//! The requests are those that were recorded, to the byte where nothing of this grid is in them. The servers are programs of ZeroC's Ice in
//! Python. Skipped, and said so, where those or the recordings are missing, unless `OMERO_GRID_REQUIRE_PEERS=1`.

mod normal;
mod play;
mod recording;
mod tree;
mod wire;
mod world;

use std::collections::BTreeMap;

use crate::icegrid::installed;
use play::{Difference, Player};
use recording::{Needs, cases, revisions, stories};
use world::World;

/// Where the registry differs on purpose.
const BEHAVIOUR: &str = include_str!("../../../src/icegrid/BEHAVIOUR.md");

/// What is answered otherwise.
struct Different {
    /// What is asked, or told.
    operations: &'static [&'static str],
    /// What the line says that tells of the difference.
    says: &'static str,
    /// What `BEHAVIOUR.md` says of it in the column of IceGrid.
    why: &'static str,
}

/// What is answered otherwise, and why. What no longer is has to be taken out.
const DIFFERENT: &[Different] = &[
    Different {
        operations: &["objectInit", "getAllObjectInfos"],
        says: "only IceGrid's: ObjectInfo{proxy: Proxy{identity: Identity{name: InternalRegistry-Master,",
        why: SESSION_MANAGERS,
    },
    Different {
        operations: &["objectInit", "getAllObjectInfos"],
        says: "only IceGrid's: ObjectInfo{proxy: Proxy{identity: Identity{name: SessionManager,",
        why: SESSION_MANAGERS,
    },
    Different {
        operations: &["objectInit", "getAllObjectInfos"],
        says: "only IceGrid's: ObjectInfo{proxy: Proxy{identity: Identity{name: SSLSessionManager,",
        why: SESSION_MANAGERS,
    },
    Different {
        operations: &["objectInit", "getAllObjectInfos"],
        says: "only IceGrid's: ObjectInfo{proxy: Proxy{identity: Identity{name: AdminSessionManager,",
        why: SESSION_MANAGERS,
    },
    Different {
        operations: &["objectInit", "getAllObjectInfos"],
        says: "only IceGrid's: ObjectInfo{proxy: Proxy{identity: Identity{name: AdminSSLSessionManager,",
        why: SESSION_MANAGERS,
    },
    Different {
        operations: &["findAllReplicas"],
        says: ".result: the order",
        why: ORDER,
    },
    Different {
        operations: &["nodeInit"],
        says: ".servers: the order",
        why: ORDER,
    },
    Different {
        operations: &["nodeInit"],
        says: ".adapters[]: only IceGrid's: AdapterDynamicInfo{id: SoloAdapter,",
        why: "a registration is heard whoever sends it",
    },
    Different {
        operations: &["getPropertiesForPrefix"],
        says: ".Ice.StdOut: only IceGrid's",
        why: OUTPUT,
    },
    Different {
        operations: &["getPropertiesForPrefix"],
        says: ".Ice.StdErr: only IceGrid's",
        why: OUTPUT,
    },
];

const SESSION_MANAGERS: &str =
    "session managers for routers, and the registry that nodes speak to, are well-known objects";
const ORDER: &str = "servers, adapters and replicas are listed in the order in which they came";
const OUTPUT: &str =
    "servers are told by Ice.StdOut and Ice.StdErr in their configuration where to write";

#[test]
fn what_differs_is_what_is_written_down() {
    for row in DIFFERENT {
        let written = format!("| {} |", row.why);
        assert!(
            BEHAVIOUR.contains(&written),
            "BEHAVIOUR.md has no {written}"
        );
    }
}

#[test]
fn recorded_conversations_go_as_they_went() {
    let cases = cases();
    if cases.is_empty() || !installed() {
        return;
    }
    let revisions = revisions(&cases);
    let mut different = Vec::new();
    let mut left_out: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut conversations, mut requests, mut answers) = (0, 0, 0);
    for story in stories(cases) {
        let world = World::start(&revisions);
        let mut player = Player::new(&world);
        for case in &story {
            world.prepare(&Needs::of(case));
            player.play(case);
            conversations += 1;
        }
        requests += player.requests;
        answers += player.answers;
        different.append(&mut player.different);
        for (why, count) in player.left_out {
            *left_out.entry(why).or_default() += count;
        }
    }
    println!("{conversations} conversations, {requests} requests, {answers} answers compared");
    for (why, count) in left_out {
        println!("left out: {count} messages: {why}");
    }
    let is = |row: &Different, operation: &str, found: &Difference| {
        found.operation == operation && found.line.contains(row.says)
    };
    let rows = || {
        let all = DIFFERENT.iter();
        all.flat_map(|row| {
            row.operations
                .iter()
                .map(move |operation| (row, *operation))
        })
    };
    let unknown: Vec<String> = different
        .iter()
        .filter(|found| !rows().any(|(row, operation)| is(row, operation, found)))
        .map(ToString::to_string)
        .collect();
    let gone: Vec<String> = rows()
        .filter(|(row, operation)| !different.iter().any(|found| is(row, operation, found)))
        .map(|(row, operation)| format!("no longer different: {operation}: {}", row.says))
        .collect();
    assert!(
        unknown.is_empty() && gone.is_empty(),
        "{}",
        [unknown, gone].concat().join("\n")
    );
}
