//! Answers the command line: passes commands to the core, sessions (`placement`, `sessions`) and users to the Blitzes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, mpsc, oneshot};

use super::allocation::Facts;
use super::core::{Command, wait_for};
use super::handle::Handle;
use super::placement::Allocator;
use super::refused;
use super::shared::{NodeHandle, Shared, Snapshot};
use super::upgrade::{Upgrade, UpgradePlan};
use crate::ipc::message::blitz;
use crate::ipc::message::client::{ClientLink, Reply, Request, ServerAction};
use crate::ipc::message::node::{self, Action, ServerReport};
use crate::ipc::{CallError, Handler, Peer, Refusal, RefusalKind};
use crate::model::{NodeName, ServerId};
use crate::telemetry::chain;

/// The most sessions in one page.
pub(super) const PAGE: u32 = 1000;

/// How long a node may take to hear of a change.
const WAIT_FOR_NODE: Duration = Duration::from_secs(10);

/// The handler of the master's socket.
pub(crate) struct ClientHandler {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) grid: Handle,
    pub(crate) allocator: Allocator,
    pub(crate) upgrades: mpsc::Sender<Upgrade>,
    pub(crate) upgrade: Arc<UpgradePlan>,
    /// One upgrade at a time.
    pub(crate) upgrading: tokio::sync::Mutex<()>,
}

impl Handler<ClientLink> for ClientHandler {
    async fn handle(self: Arc<Self>, peer: Arc<Peer>, request: Request) -> Result<Reply, Refusal> {
        let uid = peer.uid;
        // What only waits for news may be cut off by an upgrade; the rest is carried to its end first.
        let _pass = match &request {
            Request::Status { .. } | Request::Events { .. } | Request::Upgrade { .. } => None,
            _ => Some(self.pass().await?),
        };
        let words = refused::words(&request);
        let answer = self.answer(uid, request).await;
        if let (Some(words), Err(refusal)) = (words, &answer) {
            let happening = refused::happening(uid, &words, refusal);
            // The master ends: then so does its list of events.
            let _ = self.commands.send(Command::Note(happening)).await;
        }
        answer
    }
}

impl ClientHandler {
    /// Waits until requests are carried out; refuses once another program takes over.
    async fn pass(&self) -> Result<OwnedRwLockReadGuard<()>, Refusal> {
        let mut leaving = self.shared.leaving.subscribe();
        // Cancel safe: a lock that is not taken, and a watch.
        tokio::select! {
            pass = self.shared.gate.clone().read_owned() => Ok(pass),
            _ = leaving.wait_for(|leaving| *leaving) => Err(Refusal::new(
                RefusalKind::Again,
                "another version of the program takes over; nothing was done",
            )),
        }
    }

    async fn answer(self: &Arc<Self>, uid: u32, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Status { after, wait_ms } => Ok(self.status(after, wait_ms).await),
            Request::Deploy {
                source,
                dry_run,
                mode,
            } => {
                let report = self
                    .command(|answer| Command::Deploy {
                        source,
                        dry_run,
                        mode,
                        uid,
                        answer,
                    })
                    .await?;
                self.grid.taken_up(&report, uid).await?;
                Ok(Reply::Deployed(report))
            }
            Request::Reload { spare } => {
                let reports = self
                    .command(|answer| Command::Reload { spare, uid, answer })
                    .await?;
                Ok(Reply::Reloaded { reports })
            }
            Request::Node { node, action } => {
                self.command(|answer| Command::Node {
                    node,
                    action,
                    uid,
                    answer,
                })
                .await?;
                Ok(Reply::Accepted)
            }
            Request::Server {
                server,
                action,
                wait_ms,
            } => self.server(server, action, wait_ms, uid).await,
            Request::Stop => {
                self.command(|answer| Command::Stop { uid, answer }).await?;
                Ok(Reply::Accepted)
            }
            Request::CreateSession { create, via } => {
                self.create(create, via).await.map(Reply::Placed)
            }
            Request::JoinSession { session } => {
                self.join(session, &blitz::Request::Join { session }).await
            }
            Request::KeepAlive { session } => {
                self.join(session, &blitz::Request::KeepAlive { session })
                    .await
            }
            Request::ListSessions {
                cursor,
                limit,
                server,
                filter,
            } => self.list(cursor, limit, server, filter).await,
            Request::CloseSession { target, authority } => self.close(target, authority).await,
            Request::CloseUser { user, authority } => self.close_user(user, authority).await,
            Request::MoveSession { target, to, force } => {
                self.move_session(target, to, force, uid).await
            }
            Request::Redirect { change } => {
                self.command(|answer| Command::Redirect {
                    change,
                    uid,
                    answer,
                })
                .await?;
                Ok(Reply::Accepted)
            }
            Request::Drain { drain } => self.drain(drain, uid).await,
            Request::Undrain { names, node } => {
                let ids = self
                    .command(|answer| Command::Undrain {
                        names,
                        node,
                        uid,
                        answer,
                    })
                    .await?;
                Ok(self.outlooks(ids).await)
            }
            Request::Outlook { servers } => Ok(self.outlooks(servers).await),
            Request::Roll { action } => {
                self.command(|answer| Command::Roll {
                    action,
                    uid,
                    answer,
                })
                .await?;
                Ok(Reply::Accepted)
            }
            Request::Route {
                user,
                group,
                agent,
                client,
            } => {
                let facts = Facts {
                    user,
                    group,
                    agent,
                    client,
                    entry: None,
                };
                Ok(self.explain(&facts).await)
            }
            Request::Blitz { request } => self.carry_out(*request).await,
            Request::Upgrade { binary } => {
                let handler = self.clone();
                // Carried to its end whoever waits for it.
                let upgrading = tokio::spawn(async move { handler.upgrade(&binary, uid).await });
                upgrading.await.unwrap_or_else(|error| {
                    Err(Refusal::new(RefusalKind::Failed, error.to_string()))
                })
            }
            Request::Events {
                after,
                limit,
                wait_ms,
            } => self.events(after, limit.clamp(1, PAGE), wait_ms).await,
        }
    }

    pub(super) async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refusal> {
        let stopping = || Refusal::new(RefusalKind::Refused, "the grid is stopping");
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(make(answer))
            .await
            .map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    async fn status(&self, after: Option<u64>, wait_ms: u64) -> Reply {
        let limit = Duration::from_millis(wait_ms);
        let snapshot = match after {
            Some(after) => {
                wait_for(&self.shared, limit, |snapshot| snapshot.revision != after).await
            }
            None => None,
        };
        let Snapshot {
            revision, status, ..
        } = snapshot.unwrap_or_else(|| self.shared.now());
        Reply::Status {
            revision,
            status: Box::new((*status).clone()),
        }
    }

    async fn events(&self, after: Option<u64>, limit: u32, wait_ms: u64) -> Result<Reply, Refusal> {
        let mut written = self.shared.events.subscribe();
        let wait = tokio::time::sleep(Duration::from_millis(wait_ms));
        tokio::pin!(wait);
        loop {
            written.mark_unchanged();
            let events = self
                .command(|answer| Command::Events {
                    after,
                    limit,
                    answer,
                })
                .await?;
            if !events.is_empty() || after.is_none() {
                return Ok(Reply::Events { events });
            }
            // Cancel safe: both only wait.
            tokio::select! {
                changed = written.changed() => if changed.is_err() {
                    return Ok(Reply::Events { events });
                },
                () = &mut wait => return Ok(Reply::Events { events }),
            }
        }
    }

    pub(super) async fn server(
        &self,
        server: ServerId,
        action: ServerAction,
        wait_ms: u64,
        uid: u32,
    ) -> Result<Reply, Refusal> {
        let id = server.clone();
        let (node, generation) = self
            .command(|answer| Command::Server {
                server: id,
                action,
                uid,
                answer,
            })
            .await?;
        let handle = self.shared.link(&node);
        match (action, handle) {
            (ServerAction::Act { action }, Some(handle)) => {
                self.told(&node, &handle, generation).await?;
                let request = node::Request::Act {
                    server,
                    action,
                    wait_ms,
                };
                match handle.client.call(&request).await {
                    Ok(node::Reply::Server(report)) => Ok(Reply::Server(report)),
                    Ok(_) => Err(strange()),
                    Err(error) => Err(lost(&node, error)),
                }
            }
            (
                ServerAction::Act {
                    action: Action::Signal { .. },
                },
                None,
            ) => Err(Refusal::new(
                RefusalKind::NotFound,
                format!("server {server} does not run: its node {node} is down"),
            )),
            // Noted for when the node is there again, or nothing to wait for.
            (_, Some(handle)) => {
                self.told(&node, &handle, generation).await?;
                self.report(&server)
            }
            (_, None) => self.report(&server),
        }
    }

    /// Waits until a node has been told what the core decided.
    async fn told(
        &self,
        node: &NodeName,
        handle: &NodeHandle,
        generation: u64,
    ) -> Result<(), Refusal> {
        let mut configured = handle.configured.clone();
        let told = configured.wait_for(|told| *told >= generation);
        match tokio::time::timeout(WAIT_FOR_NODE, told).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(lost(node, CallError::Lost)),
            Err(_) => Err(Refusal::new(
                RefusalKind::TimedOut,
                format!("node {node} does not answer"),
            )),
        }
    }

    fn report(&self, server: &ServerId) -> Result<Reply, Refusal> {
        let snapshot = self.shared.now();
        let found = snapshot
            .status
            .nodes
            .iter()
            .flat_map(|node| &node.servers)
            .find(|report| report.id == *server);
        found
            .map(|report| Reply::Server(Box::new(report.clone())))
            .ok_or_else(|| no_server(server))
    }

    /// Passes a request on to a Blitz through its node.
    pub(super) async fn ask(
        &self,
        server: &ServerId,
        request: blitz::Request,
    ) -> Result<blitz::Reply, Refusal> {
        let snapshot = self.shared.now();
        let node = snapshot.node_of(server).ok_or_else(|| no_server(server))?;
        // Its server may live and be reached in a moment, or another may do as well.
        let down = || {
            Refusal::new(
                RefusalKind::Unavailable,
                format!("node {node} of server {server} is not up"),
            )
            .hint(format!("omero-grid node {node} start"))
        };
        let handle = self.shared.link(node).ok_or_else(down)?;
        let request = node::Request::Blitz {
            server: server.clone(),
            request: Box::new(request),
        };
        match handle.client.call(&request).await {
            Ok(node::Reply::Blitz { reply }) => Ok(*reply),
            Ok(_) => Err(strange()),
            Err(error) => Err(lost(node, error)),
        }
    }
}

pub(super) fn reports(snapshot: &Snapshot) -> impl Iterator<Item = &ServerReport> {
    snapshot.status.nodes.iter().flat_map(|node| &node.servers)
}

pub(super) fn no_server(server: &ServerId) -> Refusal {
    Refusal::new(
        RefusalKind::NotFound,
        format!("there is no server '{server}'"),
    )
    .hint("`omero-grid server list` shows them")
}

pub(super) fn strange() -> Refusal {
    Refusal::new(
        RefusalKind::Failed,
        "the answer is not one to this request; are all processes of one release?",
    )
}

pub(super) fn lost(node: &NodeName, error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        error => Refusal::new(
            RefusalKind::Unavailable,
            format!("lost node {node}: {}", chain(&error)),
        )
        .hint("it is started again by itself; try again"),
    }
}
