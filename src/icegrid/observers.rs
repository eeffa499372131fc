//! Observers: how everything is, and from then on what changes.
//!
//! What is told follows from two pictures of the grid, one after the other. So nothing is missed for good, whatever goes on between them, and
//! an observer that is slow hears less and not late. One that cannot be told is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::debug;

use super::admin;
use super::applications::application_info;
use super::descriptors::difference;
use super::face::Grid;
use super::types::{
    AdapterDynamicInfo, AdapterInfo, ApplicationInfo, ApplicationUpdateInfo, NodeDynamicInfo,
    ObjectInfo, ServerDynamicInfo, ServerState,
};
use crate::ice::net::{Answer, Call, Connection};
use crate::ice::{Encode, Format, Identity, Mode, Objects, Proxy, Reference};
use crate::master::Deployed;
use crate::model::NodeState;

/// How long an observer may take to hear something.
const HEAR: Duration = Duration::from_secs(10);

/// Where an observer is.
#[derive(Debug, Clone)]
pub(super) enum To {
    /// At the other end of this connection.
    Over(Connection, Identity),
    /// Where this proxy says.
    Proxy(Box<Proxy>),
}

impl To {
    pub(super) fn identity(&self) -> &Identity {
        match self {
            Self::Over(_, identity) => identity,
            Self::Proxy(proxy) => &proxy.identity,
        }
    }

    fn proxy(&self) -> Proxy {
        match self {
            Self::Over(_, identity) => Proxy::new(identity.clone(), Reference::WellKnown),
            Self::Proxy(proxy) => (**proxy).clone(),
        }
    }
}

/// An observer, and how much it has been told.
struct Observer {
    to: To,
    told: u32,
    /// Whether what it observes is kept: then it is told two numbers each time, as IceGrid does, and else one with the first.
    kept: bool,
}

/// Tells one observer something; it is dropped if it cannot be told.
async fn tell<T: Encode>(
    grid: &Grid,
    observer: &mut Option<Observer>,
    operation: &str,
    value: &T,
    objects: Objects,
) {
    let Some(known) = observer else { return };
    known.told += 1;
    let objects = Arc::new(objects);
    let mut call = Call::new(&known.to.proxy(), operation, Mode::Normal)
        .with(|writer| writer.with_classes(value, &objects, Format::Compact));
    let serial = known.told.to_string();
    if known.kept {
        call.context.push(("dbSerial".to_owned(), serial.clone()));
    }
    if known.kept || known.told == 1 {
        call.context.push(("serial".to_owned(), serial));
    }
    let answer = match &known.to {
        To::Over(connection, _) => connection.invoke(&call, Some(HEAR)).await,
        To::Proxy(proxy) => grid.resolver().invoke(proxy, &call, Some(HEAR)).await,
    };
    match answer {
        Ok(Answer::Done { .. }) => {}
        other => {
            debug!(observer = ?known.to.identity(), operation, ?other, "an observer is dropped");
            *observer = None;
        }
    }
}

/// The grid at one moment.
#[derive(Default)]
struct Picture {
    nodes: BTreeMap<String, Node>,
    applications: BTreeMap<String, Deployed>,
    /// Which applications those are.
    versions: Vec<Version>,
    adapters: BTreeMap<String, AdapterInfo>,
    objects: BTreeMap<Identity, ObjectInfo>,
}

/// The name of an application, which one of that name it is, and which revision of it.
pub(super) type Version = (String, String, u32);

/// A node that is up.
#[derive(PartialEq)]
struct Node {
    info: NodeDynamicInfo,
    servers: BTreeMap<String, ServerDynamicInfo>,
    adapters: BTreeMap<String, AdapterDynamicInfo>,
}

impl Picture {
    /// Takes a picture; applications that are as they were are those of the picture before.
    async fn take(grid: &Grid, before: &Self) -> Self {
        let mut nodes = BTreeMap::new();
        {
            let status = grid.handle.status();
            let registry = grid.handle.registry();
            for node in &status.nodes {
                if node.state != NodeState::Up {
                    continue;
                }
                let servers: BTreeMap<String, ServerDynamicInfo> = node
                    .servers
                    .iter()
                    .map(|report| ServerDynamicInfo {
                        id: report.id.to_string(),
                        state: admin::state(report.state),
                        pid: admin::pid(report),
                        enabled: report.enabled,
                    })
                    .map(|info| (info.id.clone(), info))
                    .collect();
                let listening = |id: &str| {
                    let adapter = registry.adapter(id)?;
                    adapter.proxy.as_ref()?;
                    Some(AdapterDynamicInfo {
                        id: id.to_owned(),
                        proxy: adapter.proxy.clone(),
                    })
                };
                let adapters: BTreeMap<String, AdapterDynamicInfo> = node
                    .servers
                    .iter()
                    .flat_map(|report| report.adapters.keys())
                    .filter_map(|id| Some((id.clone(), listening(id)?)))
                    .collect();
                // Of the others, everything is known already.
                let shown = |info: &&ServerDynamicInfo| {
                    info.state != ServerState::Inactive || !info.enabled
                };
                let info = NodeDynamicInfo {
                    info: admin::node_info(grid, node),
                    servers: servers.values().filter(shown).cloned().collect(),
                    adapters: adapters.values().cloned().collect(),
                };
                nodes.insert(
                    node.name.to_string(),
                    Node {
                        info,
                        servers,
                        adapters,
                    },
                );
            }
        }
        let adapters = {
            let registry = grid.handle.registry();
            let dynamic = registry.adapters().filter(|(_, a)| a.server.is_none());
            dynamic
                .map(|(id, adapter)| AdapterInfo {
                    id: id.to_owned(),
                    proxy: adapter.proxy.clone(),
                    replica_group_id: adapter.group.clone(),
                })
                .map(|info| (info.id.clone(), info))
                .collect()
        };
        let objects = admin::added_objects(grid)
            .into_iter()
            .filter_map(|info| Some((info.proxy.as_ref()?.identity.clone(), info)))
            .collect();
        // A master that ends tells nobody any more.
        let versions = grid.handle.versions().await.unwrap_or_default();
        let applications = match versions == before.versions {
            true => before.applications.clone(),
            false => {
                let all = grid.handle.applications().await.unwrap_or_default();
                all.into_iter()
                    .map(|deployed| (deployed.deployment.application.clone(), deployed))
                    .collect()
            }
        };
        Self {
            nodes,
            applications,
            versions,
            adapters,
            objects,
        }
    }
}

/// Returns the number of the present state of applications: it grows with every change of any.
pub(super) async fn serial(grid: &Grid) -> i32 {
    let versions = grid.handle.versions().await.unwrap_or_default();
    let mut known = grid.serial.lock().unwrap_or_else(PoisonError::into_inner);
    if known.0 != versions {
        known.0 = versions;
        known.1 += 1;
    }
    known.1
}

/// Tells observers of registries, nodes, applications, adapters and objects until they can be told no more. Says when they know how
/// everything is.
pub(super) async fn observe(grid: Arc<Grid>, to: [Option<To>; 5], ready: oneshot::Sender<()>) {
    let [registry, nodes, applications, adapters, objects] = to;
    let observer = |kept| move |to: Option<To>| to.map(|to| Observer { to, told: 0, kept });
    let mut all = Observers {
        registry: observer(false)(registry),
        nodes: observer(false)(nodes),
        applications: observer(true)(applications),
        adapters: observer(true)(adapters),
        objects: observer(true)(objects),
    };
    let mut registered = grid.handle.registered();
    registered.mark_unchanged();
    let (mut revision, _) = grid.handle.changed(0).await;
    let mut picture = Picture::take(&grid, &Picture::default()).await;
    all.begin(&grid, &picture).await;
    let _ = ready.send(());
    let mut seen = grid.observed.subscribe();
    seen.mark_unchanged();
    while all.any() {
        // Cancel safe: looks and watches lose nothing.
        tokio::select! {
            (now, _) = grid.handle.changed(revision) => revision = now,
            changed = registered.changed() => if changed.is_err() { return },
            // Somebody waits until all that has happened so far is told.
            changed = seen.changed() => if changed.is_err() { return },
        }
        let waited_for = *seen.borrow_and_update();
        let now = Picture::take(&grid, &picture).await;
        all.go_on(&grid, &picture, &now).await;
        picture = now;
        grid.seen(waited_for);
    }
}

struct Observers {
    registry: Option<Observer>,
    nodes: Option<Observer>,
    applications: Option<Observer>,
    adapters: Option<Observer>,
    objects: Option<Observer>,
}

impl Observers {
    fn any(&self) -> bool {
        let all = [
            &self.registry,
            &self.nodes,
            &self.applications,
            &self.adapters,
            &self.objects,
        ];
        all.iter().any(|observer| observer.is_some())
    }

    /// Tells how everything is.
    async fn begin(&mut self, grid: &Grid, now: &Picture) {
        let none = Objects::default;
        let registries = vec![admin::registry_info()];
        tell(
            grid,
            &mut self.registry,
            "registryInit",
            &registries,
            none(),
        )
        .await;
        let nodes: Vec<NodeDynamicInfo> =
            now.nodes.values().map(|node| node.info.clone()).collect();
        tell(grid, &mut self.nodes, "nodeInit", &nodes, none()).await;
        if self.applications.is_some() {
            let mut objects = Objects::default();
            let infos: Vec<ApplicationInfo> = now
                .applications
                .values()
                .filter_map(|deployed| application_info(deployed, &mut objects).ok())
                .collect();
            let all = (serial(grid).await, infos);
            tell(
                grid,
                &mut self.applications,
                "applicationInit",
                &all,
                objects,
            )
            .await;
        }
        let adapters: Vec<AdapterInfo> = now.adapters.values().cloned().collect();
        tell(grid, &mut self.adapters, "adapterInit", &adapters, none()).await;
        let objects: Vec<ObjectInfo> = now.objects.values().cloned().collect();
        tell(grid, &mut self.objects, "objectInit", &objects, none()).await;
    }

    /// Tells what is another than before.
    async fn go_on(&mut self, grid: &Grid, before: &Picture, now: &Picture) {
        self.of_nodes(grid, before, now).await;
        self.of_applications(grid, before, now).await;
        let none = Objects::default;
        let to = &mut self.adapters;
        for (id, info) in &now.adapters {
            let operation = match before.adapters.get(id) {
                None => "adapterAdded",
                Some(known) if known != info => "adapterUpdated",
                Some(_) => continue,
            };
            tell(grid, to, operation, info, none()).await;
        }
        for id in before.adapters.keys() {
            if !now.adapters.contains_key(id) {
                tell(grid, to, "adapterRemoved", id, none()).await;
            }
        }
        let to = &mut self.objects;
        for (id, info) in &now.objects {
            let operation = match before.objects.get(id) {
                None => "objectAdded",
                Some(known) if known != info => "objectUpdated",
                Some(_) => continue,
            };
            tell(grid, to, operation, info, none()).await;
        }
        for id in before.objects.keys() {
            if !now.objects.contains_key(id) {
                tell(grid, to, "objectRemoved", id, none()).await;
            }
        }
    }

    async fn of_nodes(&mut self, grid: &Grid, before: &Picture, now: &Picture) {
        let none = Objects::default;
        let to = &mut self.nodes;
        for name in before.nodes.keys() {
            if !now.nodes.contains_key(name) {
                tell(grid, to, "nodeDown", name, none()).await;
            }
        }
        for (name, node) in &now.nodes {
            let Some(known) = before.nodes.get(name) else {
                tell(grid, to, "nodeUp", &node.info, none()).await;
                continue;
            };
            for (id, info) in &node.servers {
                if known.servers.get(id) != Some(info) {
                    let news = (name.clone(), info.clone());
                    tell(grid, to, "updateServer", &news, none()).await;
                }
            }
            for (id, info) in &known.servers {
                if !node.servers.contains_key(id) {
                    let gone = ServerDynamicInfo {
                        state: ServerState::Destroyed,
                        pid: 0,
                        ..info.clone()
                    };
                    tell(grid, to, "updateServer", &(name.clone(), gone), none()).await;
                }
            }
            for (id, info) in &node.adapters {
                if known.adapters.get(id) != Some(info) {
                    let news = (name.clone(), info.clone());
                    tell(grid, to, "updateAdapter", &news, none()).await;
                }
            }
            for id in known.adapters.keys() {
                if !node.adapters.contains_key(id) {
                    let gone = AdapterDynamicInfo {
                        id: id.clone(),
                        proxy: None,
                    };
                    tell(grid, to, "updateAdapter", &(name.clone(), gone), none()).await;
                }
            }
        }
    }

    async fn of_applications(&mut self, grid: &Grid, before: &Picture, now: &Picture) {
        if before.versions == now.versions || self.applications.is_none() {
            return;
        }
        let number = serial(grid).await;
        let to = &mut self.applications;
        for name in before.applications.keys() {
            if !now.applications.contains_key(name) {
                let gone = (number, name.clone());
                tell(grid, to, "applicationRemoved", &gone, Objects::default()).await;
            }
        }
        for (name, deployed) in &now.applications {
            let mut objects = Objects::default();
            let known = before.applications.get(name);
            let known = known.filter(|known| known.history.uuid == deployed.history.uuid);
            let Some(known) = known else {
                if let Ok(info) = application_info(deployed, &mut objects) {
                    tell(grid, to, "applicationAdded", &(number, info), objects).await;
                }
                continue;
            };
            if known.history.revision == deployed.history.revision {
                continue;
            }
            if let (Some(old), Some(new)) = (known.definition(), deployed.definition()) {
                let history = &deployed.history;
                let update = ApplicationUpdateInfo {
                    update_time: i64::try_from(history.updated_ms).unwrap_or(i64::MAX),
                    update_user: history.updated_by.clone(),
                    revision: i32::try_from(history.revision).unwrap_or(i32::MAX),
                    descriptor: difference(old, new, &mut objects),
                };
                tell(grid, to, "applicationUpdated", &(number, update), objects).await;
            }
        }
    }
}
