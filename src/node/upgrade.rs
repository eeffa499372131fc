//! Another program in the place of a node: same process, same name, same socket, its servers still its children.
//!
//! The new program adopts the servers by their records, as after the death of a node; what is handed over beside them is what
//! adoption cannot find out: how often they were restarted and how they ended, and that they are children.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::supervisor::Supervisor;
use super::{Front, NodeError, Options, start};
use crate::ipc::message::heritage::{FORMAT, Heritage, HeritageRole, Log};
use crate::ipc::message::node::ServerReport;
use crate::model::ServerState;
use crate::sys::lock::Lock;
use crate::sys::successor::{Successor, SuccessorError, process_name};
use crate::telemetry::chain;

/// How long servers may take that are starting or stopping.
const QUIET: Duration = Duration::from_secs(30);

/// What the program before this one has left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) lock: Lock,
    pub(super) socket: OwnedFd,
    pub(super) servers: Vec<ServerReport>,
}

/// Goes on where the program before this one in the same process has stopped.
///
/// Needs a current-thread runtime with time and I/O.
///
/// # Errors
///
/// Whatever keeps it from starting. Its master then starts the node anew.
pub async fn resume(
    options: Options,
    lock: OwnedFd,
    socket: OwnedFd,
    servers: Vec<ServerReport>,
) -> Result<(), NodeError> {
    let left = Left {
        lock: Lock::inherit(lock),
        socket,
        servers,
    };
    match start(&options, Some(left)).await {
        Ok(node) => {
            info!(node = %options.name, version = env!("CARGO_PKG_VERSION"), "goes on as another program");
            node.serve().await;
            Ok(())
        }
        Err(failure) => {
            error!(node = %options.name, error = %chain(&failure), "cannot go on");
            Err(failure)
        }
    }
}

/// Waits until no server is starting or stopping, and has the successor prove that it can go on. Returns what it calls itself.
pub(super) async fn prepare(
    supervisor: &Supervisor,
    successor: &Successor,
) -> Result<String, SuccessorError> {
    let context = supervisor.context();
    let mut changes = context.board.watch();
    let quiet = async {
        loop {
            changes.borrow_and_update();
            if busy(supervisor).is_none() || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // Cancel safe: a watch loses nothing. That time is up shows below.
    let _ = tokio::time::timeout(QUIET, quiet).await;
    if let Some(server) = busy(supervisor) {
        return Err(SuccessorError::Refused {
            path: successor.path().to_owned(),
            problem: format!(
                "has to wait: server {} of node {} is {}",
                server.id, context.name, server.state
            ),
        });
    }
    let document = document(supervisor, (0, 0))?;
    let env: Vec<_> = context
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    successor.prove(&context.reaper, &document, &env).await
}

/// Lets the successor take over. Returns only if it cannot; then the node goes on as it is, unless it cannot even listen again.
pub(super) async fn hand_over(
    front: Front,
    supervisor: &Arc<Supervisor>,
    lock: &Lock,
    successor: &Successor,
) -> std::io::Result<Front> {
    let mut front = front;
    let Some(heir) = front.heir.take() else {
        warn!("the socket cannot be kept; goes on as it is");
        return Ok(front);
    };
    heir.keep();
    front.close().await;
    let failure = match (lock.share(), busy(supervisor)) {
        (_, Some(server)) => format!("server {} is {}", server.id, server.state),
        (Err(error), None) => error.to_string(),
        (Ok(lock), None) => {
            match document(supervisor, (lock.as_raw_fd(), heir.socket().as_raw_fd())) {
                Ok(document) => successor
                    .take_over(&document, &[&lock, heir.socket()])
                    .to_string(),
                Err(error) => chain(&error),
            }
        }
    };
    warn!(
        reason = failure,
        "the other program did not take over; goes on"
    );
    Ok(Front::open(heir.listen()?, supervisor))
}

/// Returns a server that is starting or stopping: whether it becomes ready could be lost.
fn busy(supervisor: &Supervisor) -> Option<ServerReport> {
    let (reports, _, _) = supervisor.context().board.since(0);
    reports.into_iter().find(|report| {
        matches!(
            report.state,
            ServerState::Activating | ServerState::Deactivating | ServerState::Destroying
        )
    })
}

fn document(
    supervisor: &Supervisor,
    (lock, socket): (i32, i32),
) -> Result<Vec<u8>, SuccessorError> {
    let context = supervisor.context();
    let (servers, _, _) = context.board.since(0);
    let heritage = Heritage {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_name: process_name(),
        dir: context.dir.clone(),
        state: context.state.clone(),
        locks: vec![(context.home.join("node.lock"), lock)],
        socket,
        log: Log::default(),
        role: HeritageRole::Node {
            name: context.name.clone(),
            servers,
        },
    };
    serde_json::to_vec(&heritage).map_err(|error| SuccessorError::Kernel(error.into()))
}

/// Proves that what a node has kept of its servers can be read; `home` is the node's directory.
pub fn check(home: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(home.join("servers"))? {
        let path = entry?.path().join("process.json");
        if path.exists() && super::server::record::Record::read(&path).is_none() {
            return Err(std::io::Error::other(format!(
                "cannot read {}",
                path.display()
            )));
        }
    }
    Ok(())
}
