//! Another program in the place of this one, in the processes of master and nodes (`upgrade`).
//!
//! First everybody asks the new program whether it can go on (`self-check`), and nothing has changed yet if one cannot. Then the nodes
//! follow one after another, each watched until it is up again, and the master last: requests under way are carried to their ends
//! for a moment, new ones wait in the socket for the new program.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedRwLockWriteGuard;
use tracing::{info, warn};

use super::Front;
use super::core::Command;
use super::handler::ClientHandler;
use super::process::inherited_environment;
use super::state::{Happening, StateDb};
use crate::config::Paths;
use crate::ipc::message::client::Reply;
use crate::ipc::message::heritage::{FORMAT, Heritage, HeritageRole, Log};
use crate::ipc::message::node;
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{NodeName, NodeState};
use crate::sys::lock::Lock;
use crate::sys::reaper::Reaper;
use crate::sys::successor::{Successor, SuccessorError, process_name};
use crate::telemetry::chain;

/// How long a node may take to look at a program, servers that are just starting included.
const LOOK: Duration = Duration::from_secs(60);

/// How long a node may take to be up again.
const BACK: Duration = Duration::from_secs(60);

/// How long requests under way may take to their ends; what takes longer is cut off, and asked again by whoever asked.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What the master has to know of itself for an upgrade.
pub(crate) struct UpgradePlan {
    pub(crate) paths: Paths,
    pub(crate) wait: Duration,
    pub(crate) log: Log,
    pub(crate) ice: Vec<(String, String)>,
    pub(crate) started_ms: u64,
    pub(crate) locks: Vec<(PathBuf, Lock)>,
    pub(crate) reaper: Reaper,
    /// What the registry listens on.
    pub(crate) registry: Vec<OwnedFd>,
}

/// A program that may take over now.
pub(crate) struct Upgrade {
    successor: Successor,
    /// Keeps requests out; absent if some took too long.
    _gate: Option<OwnedRwLockWriteGuard<()>>,
}

impl UpgradePlan {
    fn document(&self, locks: &[(PathBuf, OwnedFd)], socket: i32) -> io::Result<Vec<u8>> {
        let heritage = Heritage {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_name: process_name(),
            dir: self.paths.dir().to_owned(),
            state: self.paths.state().to_owned(),
            locks: locks
                .iter()
                .map(|(path, file)| (path.clone(), file.as_raw_fd()))
                .collect(),
            socket,
            log: self.log.clone(),
            role: HeritageRole::Master {
                started_ms: self.started_ms,
                wait_secs: self.wait.as_secs(),
                ice: self.ice.clone(),
                registry: self.registry.iter().map(AsRawFd::as_raw_fd).collect(),
            },
        };
        Ok(serde_json::to_vec(&heritage)?)
    }

    fn shared_locks(&self) -> io::Result<Vec<(PathBuf, OwnedFd)>> {
        let locks = self.locks.iter();
        locks
            .map(|(path, lock)| Ok((path.clone(), lock.share()?)))
            .collect()
    }
}

impl ClientHandler {
    /// Has another program take over, nodes first. Nothing has changed if it cannot.
    pub(super) async fn upgrade(&self, binary: &Path, uid: u32) -> Result<Reply, Refusal> {
        let _one = self.upgrading.try_lock().map_err(|_| {
            Refusal::new(RefusalKind::Refused, "another upgrade is under way")
                .hint("omero-grid events -f")
        })?;
        let nodes = self.settled()?;
        let successor = Successor::open(binary).map_err(refusal)?;
        let document = self.upgrade.document(&[], 0).map_err(failed)?;
        let version = successor
            .prove(&self.upgrade.reaper, &document, &inherited_environment())
            .await
            .map_err(refusal)?;
        for (node, _) in &nodes {
            self.ask_way(node, binary, true)
                .await
                .map_err(|refusal| Refusal {
                    message: format!("node {node}: {}", refusal.message),
                    ..refusal
                })?;
        }
        info!(uid, binary = %binary.display(), version, "upgrades in place");
        for (node, pid) in &nodes {
            self.upgrade_node(node, *pid, &successor).await?;
        }
        self.note(uid, format!("to {version}, {}", binary.display()))
            .await;
        // Requests under way come to their ends; new ones wait.
        let gate = self.shared.gate.clone().write_owned();
        let gate = tokio::time::timeout(LAST_REQUESTS, gate).await.ok();
        let upgrade = Upgrade {
            successor,
            _gate: gate,
        };
        self.upgrades
            .send(upgrade)
            .await
            .map_err(|_| Refusal::new(RefusalKind::Refused, "the grid is stopping"))?;
        Ok(Reply::Upgraded { version, nodes })
    }

    /// Returns the nodes that run, or refuses while one is on its way up or down.
    fn settled(&self) -> Result<Vec<(NodeName, u32)>, Refusal> {
        let status = self.shared.now().status;
        if status.stopping {
            return Err(Refusal::new(RefusalKind::Refused, "the grid is stopping"));
        }
        let mut nodes = Vec::new();
        for node in &status.nodes {
            match (node.state, node.pid) {
                (NodeState::Up, Some(pid)) => nodes.push((node.name.clone(), pid)),
                (NodeState::Down, _) => {}
                (state, _) => {
                    let message = format!("node {} is {state}", node.name);
                    return Err(Refusal::new(RefusalKind::Refused, message)
                        .hint("try again when it is up or down"));
                }
            }
        }
        Ok(nodes)
    }

    async fn ask_way(
        &self,
        node: &NodeName,
        binary: &Path,
        prove: bool,
    ) -> Result<node::Reply, Refusal> {
        let link = self
            .shared
            .link(node)
            .ok_or_else(|| Refusal::new(RefusalKind::Failed, "is not connected any more"))?;
        let request = node::Request::Upgrade {
            binary: binary.to_owned(),
            prove,
        };
        match tokio::time::timeout(LOOK, link.client.call(&request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(super::handler::lost(node, error)),
            Err(_) => Err(Refusal::new(
                RefusalKind::TimedOut,
                format!("has not answered within {LOOK:?}"),
            )),
        }
    }

    async fn upgrade_node(
        &self,
        node: &NodeName,
        pid: u32,
        successor: &Successor,
    ) -> Result<(), Refusal> {
        let before = self.shared.link(node).map(|link| link.number);
        let giving_way = self.shared.gives_way(node);
        let back = async {
            self.ask_way(node, successor.path(), false).await?;
            let mut snapshots = self.shared.snapshot.subscribe();
            let is_back = || {
                let link = self.shared.link(node).map(|link| link.number);
                let status = self.shared.now().status;
                let up = status
                    .nodes
                    .iter()
                    .any(|n| n.name == *node && n.state == NodeState::Up && n.pid == Some(pid));
                link.is_some() && link != before && up
            };
            // Cancel safe: a watch loses nothing.
            let waited = tokio::time::timeout(BACK, async {
                while !is_back() && snapshots.changed().await.is_ok() {}
            });
            let problem = match waited.await {
                Err(_) => format!("is not up again after {BACK:?}"),
                Ok(()) if !successor.is_run_by(pid) => "goes on with the old program".to_owned(),
                Ok(()) => return Ok(()),
            };
            Err(Refusal::new(RefusalKind::Failed, problem))
        };
        let result = back.await;
        drop(giving_way);
        result.map_err(|refusal| {
            Refusal {
                message: format!("node {node} {}", refusal.message),
                ..refusal
            }
            .hint("the nodes before it run the new program, the others and the master the old one; its log says more")
        })
    }

    async fn note(&self, uid: u32, text: String) {
        let happening = Happening {
            uid: Some(uid),
            kind: "upgrade",
            subject: String::new(),
            text,
        };
        // The master ends: then so does its list of events.
        let _ = self.commands.send(Command::Note(happening)).await;
        // Notes are written before the next command is carried out.
        let written = |answer| Command::Events {
            after: None,
            limit: 1,
            answer,
        };
        let _ = self.command(written).await;
    }
}

/// Lets the successor take over. Returns only if it cannot; then the master goes on as it is, unless it cannot even listen again.
pub(super) async fn hand_over(
    front: Front,
    handler: &Arc<ClientHandler>,
    upgrade: Upgrade,
) -> io::Result<Front> {
    let plan = &handler.upgrade;
    let mut front = front;
    let Some(heir) = front.heir.take() else {
        warn!("the socket cannot be kept; goes on as it is");
        return Ok(front);
    };
    heir.keep();
    handler.shared.leaving.send_replace(true);
    // Whoever waits to be carried out is answered before the connections end.
    tokio::task::yield_now().await;
    front.close().await;
    let failure = match plan.shared_locks() {
        Err(error) => error,
        Ok(locks) => match plan.document(&locks, heir.socket().as_raw_fd()) {
            Err(error) => error,
            Ok(document) => {
                let mut keep: Vec<&OwnedFd> = locks.iter().map(|(_, file)| file).collect();
                keep.push(heir.socket());
                keep.extend(&plan.registry);
                upgrade.successor.take_over(&document, &keep)
            }
        },
    };
    handler.shared.leaving.send_replace(false);
    warn!(error = %failure, "the other program did not take over; goes on");
    Ok(Front::open(heir.listen()?, handler.clone()))
}

/// Proves that the state of a master can be read by this program, without changing it.
pub fn check(paths: &Paths) -> Result<(), super::StateFault> {
    StateDb::check(&paths.state_db()).map_err(super::StateFault)
}

fn refusal(error: SuccessorError) -> Refusal {
    Refusal::new(RefusalKind::Failed, chain(&error)).hint("nothing was changed")
}

fn failed(error: io::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}
