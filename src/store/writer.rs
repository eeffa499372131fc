//! The thread that owns a store: it takes all that waits, commits once, and answers everybody.
//!
//! Group commit: while one commit syncs, further writes gather in the channel and share the next. Reads of a turn come after its
//! writes, so a read that was asked for after a write sees it.

use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use super::{Found, Outcome, Owner, Store, StoreError, UserRow, Write};
use crate::model::SessionId;
use crate::telemetry::chain;

/// Jobs that may wait; whoever asks for more waits for room.
const QUEUE: usize = 1024;

/// Writes that share one commit at most, so that no answer waits for too long.
const MAX_BATCH: usize = 4096;

/// A call that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The store refused or failed; nothing was changed.
    #[error("{0}")]
    Failed(String),
    /// The thread of the store is gone.
    #[error("the store has been closed")]
    Closed,
}

type Answer<T> = oneshot::Sender<Result<T, CallError>>;

enum Job {
    Write(Vec<Write>, Answer<Vec<Outcome>>),
    Read(Read),
    Close,
}

enum Read {
    User(String, Answer<Option<UserRow>>),
    Users(Answer<Vec<UserRow>>),
    Session(SessionId, Answer<Option<Found>>),
    Token(String, Answer<Option<Found>>),
}

/// Reaches the thread that owns a store; cheap to clone. The thread ends when the last clone is dropped, or by [`Self::close`].
#[derive(Clone)]
pub struct StoreHandle(mpsc::Sender<Job>);

impl StoreHandle {
    /// Gives a store, in the name of its owner, to a thread of its own. Join the thread to know that the store is closed.
    pub fn spawn(store: impl Store, owner: Owner) -> Result<(Self, JoinHandle<()>), StoreError> {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || work(store, &owner, jobs))
            .map_err(StoreError::Thread)?;
        Ok((Self(sender), thread))
    }

    /// Carries out writes in one transaction, durably, and returns what became of each.
    ///
    /// Cancelling forgets the answer; the writes may be carried out all the same.
    pub async fn write(&self, writes: Vec<Write>) -> Result<Vec<Outcome>, CallError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.call(|answer| Job::Write(writes, answer)).await
    }

    /// Looks a user up by the exact name. Cancel safe.
    pub async fn user(&self, name: &str) -> Result<Option<UserRow>, CallError> {
        self.call(|answer| Job::Read(Read::User(name.to_owned(), answer)))
            .await
    }

    /// Returns all users in the order of their ids. Cancel safe.
    pub async fn users(&self) -> Result<Vec<UserRow>, CallError> {
        self.call(|answer| Job::Read(Read::Users(answer))).await
    }

    /// Looks up what became of a session. Cancel safe.
    pub async fn session(&self, uuid: SessionId) -> Result<Option<Found>, CallError> {
        self.call(|answer| Job::Read(Read::Session(uuid, answer)))
            .await
    }

    /// Looks up the session that was opened with this token. Cancel safe.
    pub async fn by_token(&self, token: &str) -> Result<Option<Found>, CallError> {
        self.call(|answer| Job::Read(Read::Token(token.to_owned(), answer)))
            .await
    }

    /// Ends the thread once everything asked for before is done; join it to wait for that.
    pub async fn close(&self) {
        // An error means that it has ended already.
        let _ = self.0.send(Job::Close).await;
    }

    async fn call<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send(job(answer))
            .await
            .map_err(|_| CallError::Closed)?;
        answered.await.map_err(|_| CallError::Closed)?
    }
}

fn work(mut store: impl Store, owner: &Owner, mut jobs: mpsc::Receiver<Job>) {
    let mut closing = false;
    while !closing && let Some(first) = jobs.blocking_recv() {
        let mut writes = Vec::new();
        let mut answers = Vec::new();
        let mut reads = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Write(some, answer) => {
                    answers.push((some.len(), answer));
                    writes.extend(some);
                }
                Job::Read(read) => reads.push(read),
                // Whatever waits behind it is dropped, which tells those who wait.
                Job::Close => closing = true,
            }
            next = if !closing && writes.len() < MAX_BATCH && reads.len() < QUEUE {
                jobs.try_recv().ok()
            } else {
                None
            };
        }
        #[cfg(feature = "planted-bug")]
        let answers = planted_bug(&writes, answers);
        if !writes.is_empty() {
            let result = store.write(owner, &writes).map_err(failed);
            answer_writes(result, answers);
        }
        for read in reads {
            // Whoever asked may have gone meanwhile.
            match read {
                Read::User(name, answer) => drop(answer.send(store.user(&name).map_err(failed))),
                Read::Users(answer) => drop(answer.send(store.users().map_err(failed))),
                Read::Session(uuid, answer) => {
                    drop(answer.send(store.session(uuid).map_err(failed)));
                }
                Read::Token(token, answer) => {
                    drop(answer.send(store.by_token(&token).map_err(failed)));
                }
            }
        }
    }
}

/// Acknowledges sessions before they are on disk, so that the tests can show that they would notice.
#[cfg(feature = "planted-bug")]
fn planted_bug(
    writes: &[Write],
    answers: Vec<(usize, Answer<Vec<Outcome>>)>,
) -> Vec<(usize, Answer<Vec<Outcome>>)> {
    if !writes
        .iter()
        .all(|write| matches!(write, Write::Open { .. }))
    {
        return answers;
    }
    let done = vec![Outcome::Done; writes.len()];
    answer_writes(Ok(done), answers);
    #[expect(
        clippy::disallowed_methods,
        reason = "time for the process to be killed in"
    )]
    thread::sleep(std::time::Duration::from_millis(50));
    Vec::new()
}

fn failed(error: StoreError) -> CallError {
    CallError::Failed(chain(&error))
}

fn answer_writes(
    result: Result<Vec<Outcome>, CallError>,
    answers: Vec<(usize, Answer<Vec<Outcome>>)>,
) {
    match result {
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter();
            for (count, answer) in answers {
                let mine = outcomes.by_ref().take(count).collect();
                let _ = answer.send(Ok(mine));
            }
        }
        Err(error) => {
            for (_, answer) in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
