//! What a master asks of a node, and what it is told.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Context;
use super::blitz::{self, Sessions};
use super::supervisor::Supervisor;
use super::upgrade;
use crate::ipc::message::node::{Action, Event, NodeLink, Reply, Request};
use crate::ipc::{CallError, Handler, Peer, Refusal, RefusalKind};
use crate::model::ServerId;
use crate::sys::host::Load;
use crate::sys::successor::{Successor, SuccessorError};

/// How many messages wait for a slow master; what happens meanwhile is told as one change.
const QUEUE: usize = 16;

/// Answers a master.
pub(crate) struct Answers(pub(crate) Arc<Supervisor>);

impl Handler<NodeLink> for Answers {
    async fn handle(self: Arc<Self>, peer: Arc<Peer>, request: Request) -> Result<Reply, Refusal> {
        let supervisor = &self.0;
        match request {
            Request::Configure(assignment) => {
                let generation = supervisor.configure(assignment).await?;
                Ok(Reply::Configured { generation })
            }
            Request::Act {
                server,
                action,
                wait_ms,
            } => act(supervisor, server, action, Duration::from_millis(wait_ms)).await,
            Request::Register { server, what, from } => {
                let Some(actor) = supervisor.actor(&server) else {
                    let mut refusal = unknown(&server);
                    if !supervisor.context().board.is_up() {
                        // A node that has just been started may not have been told of it yet.
                        refusal.kind = RefusalKind::Unavailable;
                    }
                    return Err(refusal);
                };
                let outcome = actor.register(what, from).await?;
                Ok(Reply::Registered { outcome })
            }
            Request::Blitz { server, request } => {
                let context = supervisor.context();
                if context.board.get(&server).is_none() {
                    // A node that has just been started may not have been told of it yet.
                    return Err(Refusal {
                        kind: RefusalKind::Unavailable,
                        ..unknown(&server)
                    });
                }
                let client = context.blitzes.client(&server).ok_or_else(|| {
                    Refusal::new(
                        RefusalKind::Unavailable,
                        format!("Blitz {server} does not answer now"),
                    )
                    .hint(format!("omero-grid server {server} status says why"))
                })?;
                match client.call(&request).await {
                    Ok(reply) => Ok(Reply::Blitz {
                        reply: Box::new(reply),
                    }),
                    Err(CallError::Refused(refusal)) => Err(refusal),
                    Err(error @ (CallError::Lost | CallError::Send(_) | CallError::Answer(_))) => {
                        let message =
                            format!("Blitz {server}: {}", crate::telemetry::chain(&error));
                        Err(Refusal::new(RefusalKind::Unavailable, message))
                    }
                }
            }
            Request::Load => match Load::read() {
                Ok(Load { averages, cpus }) => Ok(Reply::Load { averages, cpus }),
                Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
            },
            Request::Upgrade { binary, prove } => upgrade(supervisor, &binary, prove).await,
            Request::Stop => {
                info!(peer = ?peer.hello.name, "asked to stop");
                supervisor.stop();
                Ok(Reply::Stopping)
            }
        }
    }

    fn events(&self, _peer: &Peer) -> Option<mpsc::Receiver<Event>> {
        let (tell, told) = mpsc::channel(QUEUE);
        self.0.keep(report(self.0.context().clone(), tell));
        Some(told)
    }
}

async fn upgrade(
    supervisor: &Arc<Supervisor>,
    binary: &Path,
    prove: bool,
) -> Result<Reply, Refusal> {
    let refuse =
        |error: SuccessorError| Refusal::new(RefusalKind::Failed, crate::telemetry::chain(&error));
    let successor = Successor::open(binary).map_err(refuse)?;
    let version = upgrade::prepare(supervisor, &successor)
        .await
        .map_err(refuse)?;
    if prove {
        return Ok(Reply::Upgradable { version });
    }
    info!(binary = %binary.display(), "makes way for another program");
    supervisor.give_way_to(successor).await;
    Ok(Reply::Upgrading)
}

fn unknown(server: &ServerId) -> Refusal {
    Refusal::new(
        RefusalKind::NotFound,
        format!("there is no server {server} on this node"),
    )
}

async fn act(
    supervisor: &Supervisor,
    server: ServerId,
    action: Action,
    wait: Duration,
) -> Result<Reply, Refusal> {
    let actor = supervisor.actor(&server).ok_or_else(|| unknown(&server))?;
    let board = &supervisor.context().board;
    let Ok(done) = tokio::time::timeout(wait, actor.act(action)).await else {
        let report = board.get(&server).ok_or_else(|| unknown(&server))?;
        let mut message = format!("server {server} is still {} after {wait:?}", report.state);
        if let Some(waiting_for) = &report.waiting_for {
            message.push_str(&format!(", waiting for {waiting_for}"));
        }
        return Err(Refusal::new(RefusalKind::TimedOut, message));
    };
    done?;
    let report = board.get(&server).ok_or_else(|| unknown(&server))?;
    Ok(Reply::Server(Box::new(report)))
}

/// Tells one master everything, then every change, until it is gone.
async fn report(context: Arc<Context>, tell: mpsc::Sender<Event>) {
    // Before anything is read, so that nothing falls between.
    let mut changes = context.board.watch();
    let mut sessions = context.blitzes.subscribe();
    let mut told: BTreeSet<ServerId> = BTreeSet::new();
    let (mut revision, mut up) = (0, false);
    for id in context.blitzes.ids() {
        if !tell_all(&context, &id, &tell).await {
            return;
        }
    }
    loop {
        changes.borrow_and_update();
        let now_up = context.board.is_up();
        let (servers, ids, now) = context.board.since(revision);
        revision = now;
        let ids: BTreeSet<ServerId> = ids.into_iter().collect();
        let gone: Vec<ServerId> = told.difference(&ids).cloned().collect();
        told = ids;
        let mut events = Vec::new();
        if !gone.is_empty() {
            events.push(Event::Removed { servers: gone });
        }
        if !servers.is_empty() {
            events.push(Event::Servers { servers });
        }
        if now_up && !up {
            up = true;
            events.push(Event::Up);
        }
        for event in events {
            if tell.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            // Cancel safe: a watch, a broadcast and the end of a channel.
            changed = changes.changed() => if changed.is_err() { return },
            () = tell.closed() => return,
            happened = sessions.recv() => {
                let goes_on = match happened {
                    Ok(Sessions::Anew(id)) => tell_all(&context, &id, &tell).await,
                    Ok(Sessions::Opened(server, ids)) => tell.send(Event::Opened { server, ids }).await.is_ok(),
                    Ok(Sessions::Closed(server, ids)) => tell.send(Event::Closed { server, ids }).await.is_ok(),
                    Err(RecvError::Lagged(missed)) => {
                        warn!(missed, "a slow master missed sessions; tells it all of them anew");
                        let mut goes_on = true;
                        for id in context.blitzes.ids() {
                            goes_on = goes_on && tell_all(&context, &id, &tell).await;
                        }
                        goes_on
                    }
                    Err(RecvError::Closed) => return,
                };
                if !goes_on {
                    return;
                }
            }
        }
    }
}

/// Tells all sessions of a Blitz anew. Returns whether the master is still there.
async fn tell_all(context: &Context, id: &ServerId, tell: &mpsc::Sender<Event>) -> bool {
    let Some(client) = context.blitzes.client(id) else {
        return true;
    };
    if tell
        .send(Event::Forget { server: id.clone() })
        .await
        .is_err()
    {
        return false;
    }
    blitz::all_sessions(&client, async |ids| {
        let opened = Event::Opened {
            server: id.clone(),
            ids,
        };
        tell.send(opened).await.is_ok()
    })
    .await;
    !tell.is_closed()
}
