//! What faces of the grid are given: looks at the registry and the status, commands to the core, and the ways to nodes and Blitzes.

use std::sync::{Arc, RwLockReadGuard, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::allocation::Facts as Wanted;
use super::core::{Command, Edition};
use super::desired::{Deployed, Desired, DynamicAdapter, DynamicObject};
use super::handler::{lost, no_server, strange};
use super::registry::Registry;
use super::shared::Shared;
use crate::config::Paths;
use crate::descriptor::{PlacedServer, ServerDescriptor};
use crate::ice::Proxy;
use crate::ipc::message::client::{
    DeployReport, GridStatus, NodeAction, ServerAction, ServerChange,
};
use crate::ipc::message::node::{self, Action, Registered, Registration, ServerReport};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{NodeName, ServerId};
use crate::sys::host::Load;

/// How long what a node has taken may need to be known to the master: it is on its way already.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// How long a server may take to take up properties.
const TAKE_UP: Duration = Duration::from_secs(60);

/// How long a node may take to say how busy its host is.
const LOAD: Duration = Duration::from_millis(500);

/// The grid, for its faces. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) paths: Paths,
}

impl Handle {
    /// Returns where the grid's files are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Returns what is registered. Not to be held over an await.
    pub fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.shared.registry()
    }

    /// Returns what changes when the registry has.
    pub fn registered(&self) -> watch::Receiver<u64> {
        self.shared.registered.subscribe()
    }

    /// Returns how the grid is.
    pub fn status(&self) -> Arc<GridStatus> {
        self.shared.now().status
    }

    /// Waits until the status is another than when `revision` was returned, and returns the present one.
    pub async fn changed(&self, revision: u64) -> (u64, Arc<GridStatus>) {
        let mut snapshots = self.shared.snapshot.subscribe();
        // Its sender lives as long as this handle.
        let _ = snapshots.wait_for(|now| now.revision != revision).await;
        let now = self.shared.now();
        (now.revision, now.status)
    }

    /// Returns what is said of a server.
    pub fn report(&self, id: &ServerId) -> Option<ServerReport> {
        let status = self.status();
        let mut reports = status.nodes.iter().flat_map(|node| &node.servers);
        reports.find(|report| report.id == *id).cloned()
    }

    /// Looks at what is wanted. The core waits meanwhile, so it has to be quick.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Desired) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tell, told) = oneshot::channel();
        let look = Command::Look(Box::new(move |desired| drop(tell.send(look(desired)))));
        self.commands.send(look).await.map_err(|_| stopping())?;
        told.await.map_err(|_| stopping())
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let command = make(answer);
        self.commands.send(command).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Returns a server as it is deployed: its application, its node, its definition with everything resolved that the grid can resolve.
    pub async fn server(
        &self,
        id: &ServerId,
    ) -> Result<Option<(String, NodeName, ServerDescriptor)>, Refusal> {
        let id = id.clone();
        self.look(move |desired| {
            let mut placed = desired.placed();
            let found = placed.find(|(other, ..)| **other == id);
            found.map(|(_, application, PlacedServer { node, descriptor })| {
                (application.to_owned(), node.clone(), descriptor.clone())
            })
        })
        .await
    }

    /// Returns the deployed applications in the order of their first deployment.
    pub(crate) async fn applications(&self) -> Result<Vec<Deployed>, Refusal> {
        self.look(|desired| desired.in_order().into_iter().cloned().collect())
            .await
    }

    /// Returns which applications are deployed: the name, which one of that name it is, and its revision.
    pub async fn versions(&self) -> Result<Vec<(String, String, u32)>, Refusal> {
        self.look(|desired| {
            let all = desired.applications.iter();
            all.map(|(name, deployed)| {
                let history = &deployed.history;
                (name.clone(), history.uuid.clone(), history.revision)
            })
            .collect()
        })
        .await
    }

    /// Changes an application by what it is, durably.
    pub async fn edit(&self, edition: Edition) -> Result<DeployReport, Refusal> {
        let uid = edition.uid;
        let report = self
            .command(|answer| Command::Application { edition, answer })
            .await?;
        self.taken_up(&report, uid).await?;
        Ok(report)
    }

    /// Waits until the servers that a deploy restarted nothing of have taken up what changed; fails with the first that could not.
    pub(crate) async fn taken_up(&self, report: &DeployReport, uid: u32) -> Result<(), Refusal> {
        let told = |change: &&ServerChange| report.applied && change.effect == "told";
        let action = ServerAction::Act {
            action: Action::TakeUp,
        };
        for ServerChange { server, .. } in report.changes.iter().filter(told) {
            let taken = self.act(server, action, TAKE_UP, uid).await;
            taken.map_err(|refusal| {
                let message = format!(
                    "application {} is deployed, but its server {server} goes on with older values: {}",
                    report.application, refusal.message
                );
                Refusal::new(RefusalKind::Failed, message)
                    .hint(format!("omero-grid server {server} restart"))
            })?;
        }
        Ok(())
    }

    /// Does something to a server, durably, and waits for at most `wait`.
    pub async fn act(
        &self,
        id: &ServerId,
        action: ServerAction,
        wait: Duration,
        uid: u32,
    ) -> Result<(), Refusal> {
        let server = id.clone();
        let (node, generation) = self
            .command(|answer| Command::Server {
                server,
                action,
                uid,
                answer,
            })
            .await?;
        let Some(link) = self.shared.link(&node) else {
            return match action {
                // Noted for when the node is there again.
                ServerAction::Enable | ServerAction::Disable => Ok(()),
                ServerAction::Act { .. } => Err(node_down(&node)),
            };
        };
        let mut configured = link.configured.clone();
        let told = configured.wait_for(|told| *told >= generation);
        match tokio::time::timeout(ON_ITS_WAY, told).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(node_down(&node)),
        }
        match action {
            ServerAction::Act { action } => self.ask(&node, id, action, wait).await,
            ServerAction::Enable | ServerAction::Disable => Ok(()),
        }
    }

    /// Starts a server that somebody looks for, and waits until it is active. Nothing is remembered of it.
    pub async fn activate(&self, id: &ServerId, wait: Duration) -> Result<(), Refusal> {
        let node = self.node_of(id)?;
        self.ask(&node, id, Action::Start, wait).await
    }

    /// Stops a server that was started for somebody, and waits until it is inactive. Nothing is remembered of it.
    pub async fn deactivate(&self, id: &ServerId, wait: Duration) -> Result<(), Refusal> {
        let node = self.node_of(id)?;
        self.ask(&node, id, Action::Stop, wait).await
    }

    /// Ends the process of a server and leaves it to its mode whether there is another.
    pub async fn end(&self, id: &ServerId, wait: Duration) -> Result<(), Refusal> {
        let node = self.node_of(id)?;
        self.ask(&node, id, Action::Restart, wait).await
    }

    async fn ask(
        &self,
        node: &NodeName,
        id: &ServerId,
        action: Action,
        wait: Duration,
    ) -> Result<(), Refusal> {
        let link = self.shared.link(node).ok_or_else(|| node_down(node))?;
        let request = node::Request::Act {
            server: id.clone(),
            action,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        match link.client.call(&request).await {
            Ok(node::Reply::Server(_)) => Ok(()),
            Ok(_) => Err(strange()),
            Err(error) => Err(lost(node, error)),
        }
    }

    fn node_of(&self, id: &ServerId) -> Result<NodeName, Refusal> {
        let registry = self.registry();
        let host = registry.server(id).ok_or_else(|| no_server(id))?;
        Ok(host.node.clone())
    }

    /// Passes on what a server says of itself. What was taken is registered when this returns.
    pub async fn register(
        &self,
        id: &ServerId,
        what: Registration,
        from: Option<u32>,
    ) -> Result<Registered, Refusal> {
        let node = self.node_of(id)?;
        let link = self.shared.link(&node).ok_or_else(|| node_down(&node))?;
        let request = node::Request::Register {
            server: id.clone(),
            what: what.clone(),
            from,
        };
        let outcome = match link.client.call(&request).await {
            Ok(node::Reply::Registered { outcome }) => outcome,
            Ok(_) => return Err(strange()),
            Err(error) => return Err(lost(&node, error)),
        };
        if outcome == Registered::Taken {
            let mut registered = self.registered();
            let holds = || {
                let registry = self.registry();
                let (is, said) = match &what {
                    Registration::Adapter { adapter, proxy } => {
                        let adapter = registry.adapter(adapter);
                        (adapter.and_then(|adapter| adapter.proxy.clone()), proxy)
                    }
                    Registration::Process { proxy } => {
                        let server = registry.server(id);
                        (server.and_then(|server| server.process.clone()), proxy)
                    }
                };
                is == said.as_deref().and_then(|said| said.parse::<Proxy>().ok())
            };
            // Cancel safe: a watch loses nothing. Whoever registers something else at the same time makes this wait in vain.
            let waited = async { while !holds() && registered.changed().await.is_ok() {} };
            let _ = tokio::time::timeout(ON_ITS_WAY, waited).await;
        }
        Ok(outcome)
    }

    /// Chooses the Blitz for a session, and waits where none takes it now. With `stays` that can only be the Blitz which was reached, and
    /// nothing is waited for.
    pub async fn place(&self, wanted: Wanted, stays: bool) -> Result<ServerId, Refusal> {
        let places = self.shared.places.get().and_then(Weak::upgrade);
        let places = places.ok_or_else(|| {
            Refusal::new(RefusalKind::Unavailable, "the master does not serve yet")
        })?;
        match stays {
            true => places.stays(&wanted),
            false => places.choose(&wanted).await,
        }
    }

    /// Remembers, durably, where an adapter listens that is not deployed; or forgets it.
    pub async fn set_adapter(
        &self,
        id: &str,
        listens: Option<(&Proxy, &str)>,
    ) -> Result<(), Refusal> {
        let id = id.to_owned();
        let adapter = listens.map(|(proxy, group)| DynamicAdapter {
            proxy: proxy.to_string(),
            group: group.to_owned(),
        });
        self.command(|answer| Command::Adapter {
            id,
            adapter,
            answer,
        })
        .await
    }

    /// Remembers a well-known object, durably; or forgets it.
    pub async fn set_object(
        &self,
        proxy: &Proxy,
        type_id: Option<&str>,
        uid: u32,
    ) -> Result<(), Refusal> {
        let identity = proxy.identity.to_string();
        let object = type_id.map(|type_id| DynamicObject {
            type_id: type_id.to_owned(),
            proxy: proxy.to_string(),
        });
        self.command(|answer| Command::Object {
            identity,
            object,
            uid,
            answer,
        })
        .await
    }

    /// Returns how busy the host of a node is; nothing if the node does not say.
    pub async fn load(&self, node: &NodeName) -> Option<Load> {
        let link = self.shared.link(node)?;
        let call = link.client.call(&node::Request::Load);
        match tokio::time::timeout(LOAD, call).await {
            Ok(Ok(node::Reply::Load { averages, cpus })) => Some(Load { averages, cpus }),
            // Lost, slow, or older than this question.
            Ok(_) | Err(_) => None,
        }
    }

    /// Has a node stop, durably. It is still stopping when this returns.
    pub async fn stop_node(&self, name: &NodeName, uid: u32) -> Result<(), Refusal> {
        let node = name.clone();
        self.command(|answer| Command::Node {
            node,
            action: NodeAction::Stop,
            uid,
            answer,
        })
        .await
    }

    /// Stops the whole grid.
    pub async fn stop(&self, uid: u32) -> Result<(), Refusal> {
        self.command(|answer| Command::Stop { uid, answer }).await
    }
}

fn stopping() -> Refusal {
    Refusal::new(RefusalKind::Refused, "the grid is stopping")
}

fn node_down(node: &NodeName) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, format!("node {node} is not up"))
        .hint(format!("omero-grid node {node} start"))
}
