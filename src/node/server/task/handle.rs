//! How others reach a server's task: commands with an answer, and the word that the server goes.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use super::{Found, Task};
use crate::ipc::message::node::{Action, Assigned, Registered, Registration};
use crate::ipc::{Refusal, RefusalKind};
use crate::node::Context;
use crate::node::server::step::Leaving;

/// What a task is told.
#[derive(Debug)]
pub(super) enum Command {
    /// What the server is from now on; answered when it has been taken in.
    Assign(Box<Assigned>, oneshot::Sender<()>),
    /// Do something to it; answered when it is done or has failed.
    Act(Action, oneshot::Sender<Result<(), Refusal>>),
    /// What somebody, the process with this pid if that is known, says of the server.
    Register(
        Registration,
        Option<u32>,
        oneshot::Sender<Result<Registered, Refusal>>,
    ),
}

/// A server's task, for those who have something for it.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    leaving: watch::Sender<Leaving>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Begins to supervise a server, adopting the process of an earlier node if there is one.
    pub(crate) fn spawn(context: Arc<Context>, assigned: Assigned, found: Option<Found>) -> Self {
        let (commands, received) = mpsc::channel(16);
        let (leaving, told) = watch::channel(Leaving::No);
        let task = Task::new(context, assigned);
        Self {
            commands,
            leaving,
            task: tokio::spawn(task.run(received, told, found)),
        }
    }

    /// Returns what can ask for things to be done.
    pub(crate) fn actor(&self) -> Actor {
        Actor(self.commands.clone())
    }

    /// Says that the server goes.
    pub(crate) fn leave(&self, leaving: Leaving) {
        self.leaving.send_replace(leaving);
    }

    /// Forgets the server without touching its process, as the death of its node does.
    #[cfg(test)]
    pub(crate) fn abort(&self) {
        self.task.abort();
    }

    /// Waits for the task to end.
    pub(crate) async fn finished(self) {
        if let Err(error) = self.task.await {
            warn!(%error, "the task of a server failed");
        }
    }
}

/// Asks for something to be done to a server; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Actor(mpsc::Sender<Command>);

impl Actor {
    /// Says what the server is from now on; returns when the task has taken it in.
    pub(crate) async fn assign(&self, assigned: Assigned) {
        let (answer, answered) = oneshot::channel();
        let command = Command::Assign(Box::new(assigned), answer);
        if self.0.send(command).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// Does something to the server; returns when it is done.
    ///
    /// # Errors
    ///
    /// `Failed` with the first reason why it cannot be done, `Refused` for a disabled server.
    pub(crate) async fn act(&self, action: Action) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Act(action, answer);
        self.0.send(command).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Takes in what a process says of the server; returns when that will be remembered.
    ///
    /// # Errors
    ///
    /// `Failed` if it cannot be kept.
    pub(crate) async fn register(
        &self,
        what: Registration,
        from: Option<u32>,
    ) -> Result<Registered, Refusal> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Register(what, from, answer);
        self.0.send(command).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn gone() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "the server is being removed")
}
