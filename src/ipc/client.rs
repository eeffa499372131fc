//! The connecting end of a link: asks, is answered, is told events.

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use interprocess::local_socket::tokio::Stream;
use interprocess::local_socket::tokio::prelude::*;
use interprocess::local_socket::{ConnectOptions, GenericFilePath};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::frame::{self, FrameError};
use super::hello::{self, Hello, HelloError};
use super::{Envelope, Kind, Link, Refusal};
use crate::telemetry::chain;

/// A peer that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("nobody listens on {path}")]
    Nobody {
        /// The socket's path.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot connect to {path}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The peer is none of ours.
    #[error("cannot talk over {path}")]
    Hello {
        /// The socket's path.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: HelloError,
    },
}

/// A request that was not carried out, as far as we know.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection ended before the answer; the request may or may not have been carried out.
    #[error("the connection ended before the answer came")]
    Lost,
    /// The request cannot be sent.
    #[error("the request cannot be sent")]
    Send(#[source] FrameError),
    /// The answer cannot be understood.
    #[error("the answer cannot be understood; the other side may be newer")]
    Answer(#[source] serde_json::Error),
}

type Waiting = HashMap<u64, oneshot::Sender<Envelope>>;

/// A connection to a peer; cheap to clone. It ends when the last clone is dropped.
pub struct Client<L: Link> {
    shared: Arc<Shared>,
    link: PhantomData<fn() -> L>,
}

impl<L: Link> Clone for Client<L> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            link: PhantomData,
        }
    }
}

struct Shared {
    outgoing: mpsc::Sender<Vec<u8>>,
    pending: Arc<Pending>,
    closed: watch::Receiver<bool>,
    tasks: [JoinHandle<()>; 2],
}

/// The requests that wait for their answers; `None` once the connection has ended.
struct Pending(Mutex<(u64, Option<Waiting>)>);

impl Drop for Shared {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl<L: Link> Client<L> {
    /// Connects and introduces this process. Returns the connection, who answers, and what it tells unasked.
    ///
    /// Events have to be received or their receiver dropped; while it is full, answers wait behind it.
    pub async fn connect(
        path: &Path,
        me: &Hello,
    ) -> Result<(Self, Hello, mpsc::Receiver<L::Event>), ConnectError> {
        let socket = |source| ConnectError::Socket {
            path: path.to_owned(),
            source,
        };
        let name = path.to_fs_name::<GenericFilePath>().map_err(socket)?;
        let stream = ConnectOptions::new()
            .name(name)
            .connect_tokio()
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ConnectError::Nobody {
                        path: path.to_owned(),
                    }
                }
                _ => socket(source),
            })?;
        Self::introduce(stream, path, me).await
    }

    async fn introduce(
        stream: Stream,
        path: &Path,
        me: &Hello,
    ) -> Result<(Self, Hello, mpsc::Receiver<L::Event>), ConnectError> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let peer = hello::exchange(&mut reader, &mut writer, me)
            .await
            .map_err(|source| ConnectError::Hello {
                path: path.to_owned(),
                source,
            })?;
        debug!(?peer, "connected");
        let (outgoing, queue) = mpsc::channel(64);
        let (events, told) = mpsc::channel(256);
        let (ended, closed) = watch::channel(false);
        let pending = Arc::new(Pending(Mutex::new((0, Some(HashMap::new())))));
        let tasks = [
            tokio::spawn(write_all(writer, queue)),
            tokio::spawn(read_all::<L>(reader, pending.clone(), events, ended)),
        ];
        let shared = Arc::new(Shared {
            outgoing,
            pending,
            closed,
            tasks,
        });
        Ok((
            Self {
                shared,
                link: PhantomData,
            },
            peer,
            told,
        ))
    }

    /// Asks, and waits for the answer. Cancelling forgets the answer; the request may be carried out all the same.
    pub async fn call(&self, request: &L::Request) -> Result<L::Reply, CallError> {
        let (answer, answered) = oneshot::channel();
        let id = self.shared.pending.add(answer).ok_or(CallError::Lost)?;
        let forget = Forget {
            pending: &self.shared.pending,
            id,
        };
        let bytes = Envelope::encode(Kind::Request, id, request).map_err(CallError::Send)?;
        if bytes.len() > frame::MAX_FRAME {
            return Err(CallError::Send(FrameError::TooLarge(bytes.len())));
        }
        self.shared
            .outgoing
            .send(bytes)
            .await
            .map_err(|_| CallError::Lost)?;
        let envelope = answered.await.map_err(|_| CallError::Lost)?;
        drop(forget);
        if envelope.kind == Kind::Refusal {
            let refusal: Refusal =
                serde_json::from_str(envelope.body.get()).map_err(CallError::Answer)?;
            return Err(CallError::Refused(refusal));
        }
        serde_json::from_str(envelope.body.get()).map_err(CallError::Answer)
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        let mut closed = self.shared.closed.clone();
        // An error means that the reading task is gone, which is the end too.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// Takes a cancelled request off the list of those that wait.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.pending.take(self.id);
    }
}

impl Pending {
    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Option<Waiting>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, answer: oneshot::Sender<Envelope>) -> Option<u64> {
        let mut guard = self.lock();
        let (next, waiting) = &mut *guard;
        *next += 1;
        waiting.as_mut()?.insert(*next, answer);
        Some(*next)
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Envelope>> {
        self.lock().1.as_mut()?.remove(&id)
    }

    fn end(&self) {
        self.lock().1 = None;
    }
}

async fn write_all(mut writer: WriteHalf<Stream>, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        if frame::write(&mut writer, &bytes).await.is_err() {
            break;
        }
    }
}

async fn read_all<L: Link>(
    mut reader: ReadHalf<Stream>,
    pending: Arc<Pending>,
    events: mpsc::Sender<L::Event>,
    ended: watch::Sender<bool>,
) {
    if let Err(error) = read_frames::<L>(&mut reader, &pending, &events).await {
        warn!(error = %chain(&error), "lost a connection");
    }
    pending.end();
    ended.send_replace(true);
}

async fn read_frames<L: Link>(
    reader: &mut ReadHalf<Stream>,
    pending: &Pending,
    events: &mpsc::Sender<L::Event>,
) -> Result<(), FrameError> {
    while let Some(bytes) = frame::read(reader).await? {
        let envelope = Envelope::decode(&bytes)?;
        match envelope.kind {
            Kind::Reply | Kind::Refusal => {
                if let Some(answer) = pending.take(envelope.id) {
                    // The caller may have gone meanwhile.
                    let _ = answer.send(envelope);
                }
            }
            Kind::Event => match serde_json::from_str::<L::Event>(envelope.body.get()) {
                Ok(event) => drop(events.send(event).await),
                Err(error) => debug!(%error, "ignored an event of a newer version"),
            },
            Kind::Request => debug!("ignored a request on the wrong side"),
        }
    }
    Ok(())
}
