//! Answers the command line: passes commands to the core, sessions and users to the Blitzes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::core::{Command, wait_for};
use super::shared::{NodeHandle, Shared, Snapshot};
use crate::ipc::message::blitz::{self, Authority, Target};
use crate::ipc::message::client::{
    ClientLink, Placed, Reply, Request, ServerAction, SessionCursor,
};
use crate::ipc::message::node::{self, Action, ServerReport};
use crate::ipc::{CallError, Handler, Peer, Refusal, RefusalKind};
use crate::model::{Accepting, Activation, NodeName, ServerId, ServerState, SessionId};
use crate::telemetry::chain;

/// The most sessions in one page.
const PAGE: u32 = 1000;

/// How long a creation waits for a Blitz that is on its way.
const WAIT_FOR_BLITZ: Duration = Duration::from_secs(20);

/// How long a node may take to hear of a change.
const WAIT_FOR_NODE: Duration = Duration::from_secs(10);

/// The handler of the master's socket.
pub(crate) struct ClientHandler {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Handler<ClientLink> for ClientHandler {
    async fn handle(self: Arc<Self>, peer: Arc<Peer>, request: Request) -> Result<Reply, Refusal> {
        let uid = peer.uid;
        match request {
            Request::Status { after, wait_ms } => Ok(self.status(after, wait_ms).await),
            Request::Deploy {
                source,
                dry_run,
                mode,
            } => self
                .command(|answer| Command::Deploy {
                    source,
                    dry_run,
                    mode,
                    uid,
                    answer,
                })
                .await
                .map(Reply::Deployed),
            Request::Reload => {
                let reports = self
                    .command(|answer| Command::Reload { uid, answer })
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
            Request::JoinSession { session } => self.join(session).await.map(Reply::Placed),
            Request::ListSessions { cursor, limit } => self.list(cursor, limit).await,
            Request::CloseSession { target, authority } => self.close(target, authority).await,
            Request::Blitz { request } => {
                let server = self.any_blitz()?;
                self.ask(&server, *request).await.map(|reply| Reply::Blitz {
                    reply: Box::new(reply),
                })
            }
            Request::Events {
                after,
                limit,
                wait_ms,
            } => self.events(after, limit.clamp(1, PAGE), wait_ms).await,
        }
    }
}

impl ClientHandler {
    async fn command<T>(
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
        let Snapshot { revision, status } = snapshot.unwrap_or_else(|| self.shared.now());
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

    async fn server(
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
    async fn ask(
        &self,
        server: &ServerId,
        request: blitz::Request,
    ) -> Result<blitz::Reply, Refusal> {
        let snapshot = self.shared.now();
        let node = snapshot.node_of(server).ok_or_else(|| no_server(server))?;
        let down = || {
            Refusal::new(
                RefusalKind::NotFound,
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

    fn place(&self, server: ServerId, session: blitz::Session) -> Result<Placed, Refusal> {
        let snapshot = self.shared.now();
        let node = snapshot
            .node_of(&server)
            .cloned()
            .ok_or_else(|| no_server(&server))?;
        Ok(Placed {
            session,
            server,
            node,
        })
    }

    async fn create(
        &self,
        create: blitz::Create,
        via: Option<ServerId>,
    ) -> Result<Placed, Refusal> {
        let server = match via {
            Some(server) => {
                let snapshot = self.shared.now();
                let report = reports(&snapshot)
                    .find(|report| report.id == server)
                    .ok_or_else(|| no_server(&server))?;
                if !report.is_builtin_blitz {
                    return Err(Refusal::new(
                        RefusalKind::Refused,
                        format!("server {server} is no built-in Blitz"),
                    ));
                }
                server
            }
            None => self.allocate().await?,
        };
        match self.ask(&server, blitz::Request::Create(create)).await? {
            blitz::Reply::Session(session) => self.place(server, session),
            _ => Err(strange()),
        }
    }

    /// Chooses the accepting Blitz with the fewest sessions; waits for one that is on its way, and starts one that is on demand.
    async fn allocate(&self) -> Result<ServerId, Refusal> {
        if let Some(server) = least_loaded(&self.shared.now()) {
            return Ok(server);
        }
        if let Some(server) = self.blitz_on_demand()? {
            let action = ServerAction::Act {
                action: Action::Start,
            };
            // The allocation is the demand; who asked for it is the grid itself.
            self.server(
                server,
                action,
                WAIT_FOR_BLITZ.as_millis() as u64,
                nix::unistd::geteuid().as_raw(),
            )
            .await?;
        }
        wait_for(&self.shared, WAIT_FOR_BLITZ, |snapshot| {
            least_loaded(snapshot).is_some()
        })
        .await
        .and_then(|snapshot| least_loaded(&snapshot))
        .ok_or_else(|| {
            Refusal::new(
                RefusalKind::TimedOut,
                format!("no Blitz accepted a session within {WAIT_FOR_BLITZ:?}"),
            )
            .hint("`omero-grid status` says why; then try again")
        })
    }

    /// Returns an inactive Blitz that is started on demand, if there is one; refuses if there is no Blitz at all.
    fn blitz_on_demand(&self) -> Result<Option<ServerId>, Refusal> {
        let snapshot = self.shared.now();
        let mut blitzes = reports(&snapshot)
            .filter(|report| report.is_builtin_blitz)
            .peekable();
        if blitzes.peek().is_none() {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                "this grid has no Blitz that holds sessions",
            )
            .hint("deploy a descriptor with one; descriptors/default.xml shows how"));
        }
        Ok(blitzes
            .find(|report| on_demand(report))
            .map(|report| report.id.clone()))
    }

    fn owner(&self, session: SessionId) -> Result<ServerId, Refusal> {
        let owner = self.shared.directory().owner(session).cloned();
        owner.ok_or_else(|| {
            Refusal::new(
                RefusalKind::NotFound,
                format!("there is no open session {session}"),
            )
        })
    }

    async fn join(&self, session: SessionId) -> Result<Placed, Refusal> {
        let server = self.owner(session)?;
        match self.ask(&server, blitz::Request::Join { session }).await? {
            blitz::Reply::Session(session) => self.place(server, session),
            _ => Err(strange()),
        }
    }

    async fn close(&self, target: Target, authority: Authority) -> Result<Reply, Refusal> {
        let session = match &target {
            Target::Uuid { session } => *session,
            Target::Prefix { prefix } => {
                let found = self.shared.directory().with_prefix(prefix);
                match found.as_slice() {
                    [one] => *one,
                    [] => {
                        return Err(Refusal::new(
                            RefusalKind::NotFound,
                            format!("there is no open session {prefix}…"),
                        ));
                    }
                    _ => {
                        return Err(Refusal::new(
                            RefusalKind::Refused,
                            format!("several sessions begin with {prefix}"),
                        )
                        .hint("give more characters"));
                    }
                }
            }
        };
        let server = self.owner(session)?;
        match self
            .ask(&server, blitz::Request::Close { target, authority })
            .await?
        {
            blitz::Reply::Closed { session, user, .. } => Ok(Reply::Closed {
                session,
                server,
                user,
            }),
            _ => Err(strange()),
        }
    }

    async fn list(&self, cursor: Option<SessionCursor>, limit: u32) -> Result<Reply, Refusal> {
        let snapshot = self.shared.now();
        let blitzes: Vec<_> = reports(&snapshot)
            .filter(|report| report.blitz.is_some())
            .map(|r| r.id.clone())
            .collect();
        let (server, after) = match cursor {
            Some(SessionCursor { server, after }) => (Some(server), after),
            None => (blitzes.first().cloned(), None),
        };
        let Some(server) = server else {
            return Ok(Reply::Sessions {
                sessions: Vec::new(),
                next: None,
            });
        };
        let request = blitz::Request::List {
            after,
            limit: limit.clamp(1, PAGE),
            filter: blitz::Filter::default(),
        };
        let blitz::Reply::Sessions { sessions, more } = self.ask(&server, request).await? else {
            return Err(strange());
        };
        let next = match sessions.last() {
            Some(last) if more => Some(SessionCursor {
                server: server.clone(),
                after: Some(last.uuid),
            }),
            _ => {
                let next = blitzes.iter().skip_while(|id| **id != server).nth(1);
                next.map(|server| SessionCursor {
                    server: server.clone(),
                    after: None,
                })
            }
        };
        let placed: Result<_, _> = sessions
            .into_iter()
            .map(|session| self.place(server.clone(), session))
            .collect();
        Ok(Reply::Sessions {
            sessions: placed?,
            next,
        })
    }

    /// Returns a Blitz that can work on users.
    fn any_blitz(&self) -> Result<ServerId, Refusal> {
        let snapshot = self.shared.now();
        let mut blitzes = reports(&snapshot).filter(|report| report.blitz.is_some());
        blitzes
            .next()
            .map(|report| report.id.clone())
            .ok_or_else(|| {
                Refusal::new(RefusalKind::NotFound, "no Blitz answers now")
                    .hint("`omero-grid status` says why")
            })
    }
}

fn reports(snapshot: &Snapshot) -> impl Iterator<Item = &ServerReport> {
    snapshot.status.nodes.iter().flat_map(|node| &node.servers)
}

/// Returns whether a server waits for somebody to need it.
fn on_demand(report: &ServerReport) -> bool {
    report.activation == Activation::OnDemand
        && report.enabled
        && report.state == ServerState::Inactive
}

fn least_loaded(snapshot: &Snapshot) -> Option<ServerId> {
    let accepting =
        reports(snapshot).filter_map(|report| Some((report.blitz.as_ref()?, &report.id)));
    let accepting = accepting.filter(|(blitz, _)| blitz.accepting == Accepting::Yes);
    accepting
        .min_by_key(|(blitz, _)| blitz.sessions)
        .map(|(_, id)| id.clone())
}

fn no_server(server: &ServerId) -> Refusal {
    Refusal::new(
        RefusalKind::NotFound,
        format!("there is no server '{server}'"),
    )
    .hint("`omero-grid server list` shows them")
}

fn strange() -> Refusal {
    Refusal::new(
        RefusalKind::Failed,
        "the answer is not one to this request; are all processes of one release?",
    )
}

fn lost(node: &NodeName, error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        error => Refusal::new(
            RefusalKind::Failed,
            format!("lost node {node}: {}", chain(&error)),
        )
        .hint("it is started again by itself; try again"),
    }
}
