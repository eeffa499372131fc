//! A grid like the one that was recorded: a registry with one node and no application, and what else a case needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;

use omero_grid::ice::net::Settings;
use omero_grid::ice::{Mode, Objects, Outcome, Proxy, Reference};
use omero_grid::icegrid::client::{Access, Admin, Fault};
use omero_grid::icegrid::types::{
    AdapterInfo, ApplicationDescriptor, ApplicationInfo, DESCRIPTORS, ServerDescriptor, ServerInfo,
};

use super::recording::{Application, Needs};
use super::wire::{Tap, message_of};
use crate::harness::Grid;

/// Who added the application.
const USER: &str = "user";

/// Where the servers were, and the ports that are written in their descriptors. Another grid has others that are as long, so that they can be
/// put into messages as they are.
const FOLDER: &str = "/opt/demo";
const SERVER_PORTS: [&str; 2] = ["17695", "17691"];
/// Where a server says that its process object is: on the way, what is asked of it was recorded.
const TAPPED: (&str, &str) = ("27691", "17691");

/// A grid, and what it has in place of what was recorded.
pub(super) struct World {
    /// Runs until it is dropped.
    _grid: Grid,
    pub(super) tap: Tap,
    replaced: Vec<(String, String)>,
    /// The application as it was recorded, by the number of its changes.
    revisions: BTreeMap<i64, (ApplicationDescriptor, Arc<Objects>)>,
    /// Where its servers are.
    _folder: tempfile::TempDir,
    locator: Proxy,
    runtime: tokio::runtime::Runtime,
}

impl World {
    /// Starts a registry and a node, which know of no application.
    pub(super) fn start(revisions: &BTreeMap<i64, (String, Vec<u8>)>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("o")
            .rand_bytes(FOLDER.len() - "/tmp/o".len())
            .tempdir_in("/tmp")
            .unwrap();
        let server = include_str!("../peers/recorded.py");
        std::fs::write(folder.path().join("server.py"), server).unwrap();
        let mut replaced = vec![(FOLDER.to_owned(), folder.path().display().to_string())];
        replaced.extend(SERVER_PORTS.map(|port| (port.to_owned(), free_port().to_string())));
        let behind = replaced.iter().find(|(port, _)| port == TAPPED.1);
        let tap = Tap::open(behind.unwrap().1.parse().unwrap());
        replaced.push((TAPPED.0.to_owned(), tap.port.to_string()));
        for (theirs, ours) in &replaced {
            assert_eq!(
                theirs.len(),
                ours.len(),
                "{ours} cannot be put in place of {theirs}"
            );
        }

        let mut grid = Grid::at("");
        grid.set("OMERO_GRID_REGISTRY_ENDPOINTS", "tcp -h 127.0.0.1 -p 0");
        grid.write(
            "grid.cfg",
            "IceGrid.Registry.Server.Endpoints=tcp -h 127.0.0.1\n\
             IceGrid.Registry.DynamicRegistration=1\n\
             IceGrid.Node.CollocateRegistry=1\n\
             IceGrid.Node.Name=node1\n",
        );
        let program = grid.path("icegridnode");
        symlink(env!("CARGO_BIN_EXE_omero-grid"), &program).unwrap();
        let mut node = Command::new(program);
        grid.hermetic(&mut node);
        node.args(["--daemon", "--nochdir", "--Ice.Config=grid.cfg"]);
        grid.finish(&mut node, "").ok();
        let locator = grid.status()["registry"]["locator"]
            .as_str()
            .unwrap()
            .parse();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut world = Self {
            _grid: grid,
            tap,
            replaced,
            revisions: BTreeMap::new(),
            _folder: folder,
            locator: locator.unwrap(),
            runtime,
        };
        for (number, (operation, bytes)) in revisions {
            let found = described(operation, &world.here(bytes));
            world.revisions.insert(*number, found);
        }
        world
    }

    /// Returns recorded bytes with what this grid has in place of what was recorded.
    pub(super) fn here(&self, recorded: &[u8]) -> Vec<u8> {
        let mut bytes = recorded.to_vec();
        for (theirs, ours) in &self.replaced {
            let mut at = 0;
            while let Some(found) = bytes[at..]
                .windows(theirs.len())
                .position(|window| window == theirs.as_bytes())
            {
                at += found;
                bytes[at..at + ours.len()].copy_from_slice(ours.as_bytes());
                at += ours.len();
            }
        }
        bytes
    }

    /// Returns the port at which the registry serves clients, or servers.
    pub(super) fn port(&self, listener: &str) -> u16 {
        let proxy = match listener {
            "client" => self.locator.clone(),
            "server" => self.runtime.block_on(async {
                let admin = self.admin().await;
                let registry = admin
                    .call_of::<Option<Proxy>>(&self.locator, "getRegistry", Mode::Nonmutating, ())
                    .await;
                registry.unwrap().unwrap()
            }),
            other => panic!("nobody knows how to reach {other}"),
        };
        let Reference::Direct(endpoints) = &proxy.reference else {
            panic!("{proxy} is not direct");
        };
        let endpoint = endpoints[0].to_string();
        let mut words = endpoint.split(' ').skip_while(|word| *word != "-p");
        words.nth(1).unwrap().parse().unwrap()
    }

    async fn admin(&self) -> Admin {
        let access = Access {
            locator: self.locator.clone(),
            user: USER.to_owned(),
            password: "secret".to_owned(),
            certificate: false,
            replica: String::new(),
            settings: Settings::default(),
        };
        Admin::connect(access).await.unwrap()
    }

    /// Makes the grid what a case needs it to be like.
    pub(super) fn prepare(&self, needs: &Needs) {
        self.runtime.block_on(async {
            let admin = self.admin().await;
            self.deploy(&admin, needs.application).await;
            if needs.application != Application::Absent {
                let silent = servers(&admin, &needs.silent).await;
                for server in needs.inactive.union(&silent) {
                    be(&admin, "stopServer", server).await;
                }
                let listening = &servers(&admin, &needs.listening).await - &needs.inactive;
                for server in needs.active.union(&listening) {
                    be(&admin, "startServer", server).await;
                }
            }
            admin.close().await;
        });
    }

    async fn deploy(&self, admin: &Admin, needed: Application) {
        let call = |operation| admin.call::<Vec<String>>(operation, Mode::Nonmutating, ());
        let there = call("getAllApplicationNames").await.unwrap().pop();
        let mut now = 0;
        if let Some(name) = &there {
            let info = admin
                .call_for_classes::<ApplicationInfo>(
                    "getApplicationInfo",
                    Mode::Nonmutating,
                    name.clone(),
                    DESCRIPTORS,
                )
                .await;
            now = info.unwrap().0.revision.into();
        }
        let last = *self.revisions.last_key_value().unwrap().0;
        let wanted = match needed {
            Application::Absent => 0,
            Application::There if now == 0 => last,
            Application::There => now,
            Application::Revision(number) => number,
        };
        if now > wanted {
            let removed = admin.call::<()>("removeApplication", Mode::Normal, there.unwrap());
            removed.await.unwrap();
            now = 0;
        }
        while now < wanted {
            let operation = match now {
                0 => "addApplication",
                _ => "syncApplication",
            };
            now += 1;
            // Only what differs is a change, so those that were not recorded are between the first and the last one.
            let as_was = self.revisions.get(&now);
            let (descriptor, objects) = as_was.unwrap_or_else(|| match (wanted - now) % 2 {
                0 => &self.revisions[&wanted],
                _ => self.revisions.first_key_value().unwrap().1,
            });
            let done = admin.call_with_classes::<()>(operation, descriptor, objects);
            done.await.unwrap();
        }
    }
}

/// Starts or stops a server, unless it is so already.
async fn be(admin: &Admin, operation: &str, server: &str) {
    let done = admin.call::<()>(operation, Mode::Normal, server.to_owned());
    match done.await {
        Ok(()) => {}
        Err(Fault::Raised(raised)) if format!("{raised:?}").contains("already") => {}
        Err(fault) => panic!("{operation} of {server}: {fault}"),
    }
}

/// Returns the servers of adapters, or of the adapters of groups.
async fn servers(admin: &Admin, adapters: &BTreeSet<String>) -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for id in adapters {
        let infos = admin.call::<Vec<AdapterInfo>>("getAdapterInfo", Mode::Nonmutating, id.clone());
        wanted.extend(infos.await.unwrap().into_iter().map(|info| info.id));
    }
    let mut found = BTreeSet::new();
    let all = admin.call::<Vec<String>>("getAllServerIds", Mode::Nonmutating, ());
    for id in all.await.unwrap() {
        let info = admin.call_for_classes::<ServerInfo>(
            "getServerInfo",
            Mode::Nonmutating,
            id.clone(),
            DESCRIPTORS,
        );
        let (info, objects) = info.await.unwrap();
        let server = objects.get::<ServerDescriptor>(info.descriptor).unwrap();
        let mut adapters = server.unwrap().base.adapters.iter();
        if adapters.any(|adapter| wanted.contains(&adapter.id)) {
            found.insert(id);
        }
    }
    found
}

/// Returns the application that a message tells of.
fn described(operation: &str, bytes: &[u8]) -> (ApplicationDescriptor, Arc<Objects>) {
    use omero_grid::ice::Message;
    let (info, objects) = match message_of(bytes) {
        Message::Reply(reply) => match reply.outcome {
            Outcome::Done(within) => within.decode_with::<ApplicationInfo>(DESCRIPTORS).unwrap(),
            other => panic!("{operation} is answered with {other:?}"),
        },
        Message::Request(told) => {
            let told = told
                .params
                .decode_with::<(i32, Vec<ApplicationInfo>)>(DESCRIPTORS);
            let ((_, mut infos), objects) = told.unwrap();
            (infos.remove(0), objects)
        }
        other => panic!("{operation} is {other:?}"),
    };
    (info.descriptor, Arc::new(objects))
}

/// Returns a port that is free now, and hardly taken within the next moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
