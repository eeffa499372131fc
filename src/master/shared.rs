//! What the master's tasks share: the published status, the links to the nodes, the session directory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLockReadGuard, Weak};

use tokio::sync::{RwLock, watch};

use super::allocation::World;
use super::directory::Directory;
use super::handler::ClientHandler;
use super::registry::Registry;
use crate::ipc::Client;
use crate::ipc::message::client::GridStatus;
use crate::ipc::message::node::NodeLink;
use crate::model::{NodeName, ServerId};

/// The status at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Grows with every difference.
    pub(crate) revision: u64,
    pub(crate) status: Arc<GridStatus>,
    /// What the allocation of sessions follows from.
    pub(crate) world: Arc<World>,
}

impl Snapshot {
    /// Finds the node that runs a server.
    pub(crate) fn node_of(&self, server: &ServerId) -> Option<&NodeName> {
        let node = self
            .status
            .nodes
            .iter()
            .find(|node| node.servers.iter().any(|report| report.id == *server));
        node.map(|node| &node.name)
    }
}

/// A living link to a node, and the generation of what the node was told to run.
#[derive(Clone)]
pub(crate) struct NodeHandle {
    pub(crate) client: Client<NodeLink>,
    pub(crate) configured: watch::Receiver<u64>,
    /// Tells this link from earlier ones to the same node.
    pub(crate) number: u64,
}

/// What the tasks share. No lock is held across an await.
pub(crate) struct Shared {
    pub(crate) snapshot: watch::Sender<Snapshot>,
    /// Changes when events were written.
    pub(crate) events: watch::Sender<u64>,
    /// Blitzes that left somebody waiting for an answer and have given none since.
    pub(crate) silent: watch::Sender<BTreeSet<ServerId>>,
    links: Mutex<BTreeMap<NodeName, NodeHandle>>,
    /// Nodes whose process is about to go on as another program, so that the end of the link means nothing.
    giving_way: Mutex<BTreeSet<NodeName>>,
    /// Held by requests while they are carried out, and by whoever ends this program for another one.
    pub(crate) gate: Arc<RwLock<()>>,
    /// True once nothing is carried out any more, because another program takes over.
    pub(crate) leaving: watch::Sender<bool>,
    directory: Mutex<Directory>,
    /// Who chooses Blitzes for new sessions, once the master serves.
    pub(crate) places: OnceLock<Weak<ClientHandler>>,
    registry: std::sync::RwLock<Registry>,
    /// Changes when the registry has.
    pub(crate) registered: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            snapshot: watch::Sender::new(Snapshot::default()),
            events: watch::Sender::new(0),
            silent: watch::Sender::default(),
            links: Mutex::default(),
            giving_way: Mutex::default(),
            gate: Arc::default(),
            leaving: watch::Sender::new(false),
            directory: Mutex::default(),
            places: OnceLock::new(),
            registry: std::sync::RwLock::default(),
            registered: watch::Sender::new(0),
        }
    }

    /// Returns what is registered, to be looked at.
    pub(crate) fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is registered, and tells whoever waits for that.
    pub(crate) fn change_registry(&self, change: impl FnOnce(&mut Registry)) {
        let revision = {
            let mut registry = self
                .registry
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            change(&mut registry);
            registry.revision()
        };
        self.registered.send_if_modified(|known| {
            let differs = *known != revision;
            *known = revision;
            differs
        });
    }

    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self, node: &NodeName) -> Option<NodeHandle> {
        self.links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .cloned()
    }

    pub(crate) fn set_link(&self, node: &NodeName, handle: Option<NodeHandle>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match handle {
            Some(handle) => drop(links.insert(node.clone(), handle)),
            None => drop(links.remove(node)),
        }
    }

    /// Says that a node's process is about to go on as another program, for as long as the value lives.
    pub(crate) fn gives_way(self: &Arc<Self>, node: &NodeName) -> GivingWay {
        self.giving_way().insert(node.clone());
        GivingWay(self.clone(), node.clone())
    }

    fn giving_way(&self) -> MutexGuard<'_, BTreeSet<NodeName>> {
        self.giving_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_giving_way(&self, node: &NodeName) -> bool {
        self.giving_way().contains(node)
    }

    /// Returns the status as it is now.
    pub(crate) fn now(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }
}

/// A node's process is about to go on as another program.
pub(crate) struct GivingWay(Arc<Shared>, NodeName);

impl Drop for GivingWay {
    fn drop(&mut self) {
        self.0.giving_way().remove(&self.1);
    }
}
