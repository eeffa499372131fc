//! Work that a connection has begun and that has to be finished whether or not the connection lasts.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::error;

use crate::ipc::{Refusal, RefusalKind};

/// Pieces of work under way at once, of all connections; beyond, requests are refused.
const MAX_WORK: usize = 16_384;

/// The tasks under way.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Does a piece of work to its end and returns its result.
    ///
    /// Cancelling forgets the result only: what was committed is also noted in memory.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let taken = self.spawn(async move {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(work.await);
        });
        if !taken {
            return Err(
                Refusal::new(RefusalKind::Refused, "too many requests are under way")
                    .hint("try again"),
            );
        }
        answered
            .await
            .map_err(|_| Refusal::new(RefusalKind::Failed, "the request failed within the Blitz"))
    }

    /// Does a piece of work in the background; false if there is too much already.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            report(ended);
        }
        if tasks.len() >= MAX_WORK {
            return false;
        }
        tasks.spawn(work);
        true
    }

    /// Waits until everything that was begun is done.
    pub(crate) async fn finish(&self) {
        loop {
            let mut tasks =
                std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() {
                break;
            }
            while let Some(ended) = tasks.join_next().await {
                report(ended);
            }
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a piece of work failed");
    }
}
