//! The thread that owns a store: it takes all that waits, commits once, and answers everybody.
//!
//! Group commit: while one commit syncs, further writes gather in the channel and share the next. Reads of a turn come after its
//! writes, so a read that was asked for after a write sees it.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Adopted, Found, Outcome, Owner, Renewed, Store, StoreError, UserRow, Write};
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
    /// The store does not answer; what was asked of it has not been acknowledged, and may have been carried out all the same.
    #[error("{0}")]
    Away(String),
    /// The thread of the store is gone.
    #[error("the store has been closed")]
    Closed,
}

type Answer<T> = oneshot::Sender<Result<T, CallError>>;

enum Job {
    Write(Vec<Write>, Answer<Vec<Outcome>>),
    Renew(Answer<Renewed>),
    Read(Read),
    Close,
}

enum Read {
    User(String, Answer<Option<UserRow>>),
    Users(Answer<Vec<UserRow>>),
    Session(SessionId, Answer<Option<Found>>),
    Token(String, Answer<Option<Found>>),
    Owned(Answer<Vec<SessionId>>),
}

/// A store that is open, and what its server has taken up.
pub struct Opened {
    /// Reaches the store.
    pub store: StoreHandle,
    /// Ends when the store is closed.
    pub thread: JoinHandle<()>,
    /// The sessions of the life before.
    pub adopted: Adopted,
    /// How long the server lives without a renewal; `None` for as long as its process.
    pub lease: Option<Duration>,
}

/// Reaches the thread that owns a store; cheap to clone. The thread ends when the last clone is dropped, or by [`Self::close`];
/// join it to know that the store is closed.
#[derive(Clone)]
pub struct StoreHandle(mpsc::Sender<Job>);

impl StoreHandle {
    /// Opens a store in a thread of its own and takes up the sessions of a server. Cancelling closes it again.
    pub async fn open(
        open: impl FnOnce() -> Result<Box<dyn Store>, StoreError> + Send + 'static,
        server: &str,
        process: &str,
    ) -> Result<Opened, StoreError> {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (opened, opening) = oneshot::channel();
        let (server, process) = (server.to_owned(), process.to_owned());
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                let store = open().and_then(|mut store| {
                    let adopted = store.adopt(&server, &process)?;
                    Ok((store, adopted))
                });
                match store {
                    Ok((store, adopted)) => {
                        let owner = adopted.owner.clone();
                        // Nobody waits for it any more: then there is no job either.
                        let _ = opened.send(Ok((adopted, store.lease())));
                        work(store, &owner, jobs);
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            })
            .map_err(StoreError::Thread)?;
        let (adopted, lease) = opening.await.map_err(|_| {
            StoreError::Thread(std::io::Error::other("it ended before the store was open"))
        })??;
        Ok(Opened {
            store: Self(sender),
            thread,
            adopted,
            lease,
        })
    }

    /// Prolongs the server's lease. Cancel safe.
    pub async fn renew(&self) -> Result<Renewed, CallError> {
        self.call(Job::Renew).await
    }

    /// Returns the open sessions that are the server's by their rows. Cancel safe.
    pub async fn owned(&self) -> Result<Vec<SessionId>, CallError> {
        self.call(|answer| Job::Read(Read::Owned(answer))).await
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

fn work(mut store: Box<dyn Store>, owner: &Owner, mut jobs: mpsc::Receiver<Job>) {
    let mut closing = false;
    while !closing && let Some(first) = jobs.blocking_recv() {
        let mut writes = Vec::new();
        let mut answers = Vec::new();
        let mut reads = Vec::new();
        let mut renewals = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Write(some, answer) => {
                    answers.push((some.len(), answer));
                    writes.extend(some);
                }
                Job::Read(read) => reads.push(read),
                Job::Renew(answer) => renewals.push(answer),
                // Whatever waits behind it is dropped, which tells those who wait.
                Job::Close => closing = true,
            }
            next = if !closing && writes.len() < MAX_BATCH && reads.len() < QUEUE {
                jobs.try_recv().ok()
            } else {
                None
            };
        }
        // First, so that a slow write does not cost the lease.
        if !renewals.is_empty() {
            let renewed = store.renew(owner).map_err(failed);
            for answer in renewals {
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(renewed.clone());
            }
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
                Read::Owned(answer) => drop(answer.send(store.owned(owner).map_err(failed))),
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
    match error {
        StoreError::Unreachable { .. } => CallError::Away(chain(&error)),
        error => CallError::Failed(chain(&error)),
    }
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
