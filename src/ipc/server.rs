//! The listening end of a link: accepts peers of permitted users, answers their requests, tells them events.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use interprocess::local_socket::tokio::prelude::*;
use interprocess::local_socket::tokio::{Listener as Socket, Stream};
use interprocess::local_socket::{GenericFilePath, ListenerOptions};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use interprocess::os::unix::uds_local_socket::tokio::Listener as UdSocket;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, warn};

use super::frame::{self, FrameError};
use super::hello::{self, Hello, HelloError};
use super::{Envelope, Kind, Link, Refusal, RefusalKind};
use crate::telemetry::chain;

/// How many peers may be connected at once; further ones wait to be accepted.
const MAX_PEERS: usize = 256;

/// How many requests of one peer may be under way; further ones wait to be read.
const MAX_OUTSTANDING: usize = 256;

/// The pause after a failed `accept`, where trying again at once would only fail again (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a closing connection may take to write what is queued.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It cannot be made.
    #[error("cannot listen on {path}")]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// How it introduced itself.
    pub hello: Hello,
    /// The user it runs as, from the kernel.
    pub uid: u32,
}

/// Answers the requests of a link.
pub trait Handler<L: Link>: Send + Sync + 'static {
    /// Carries out one request. Runs beside other requests of the same peer.
    fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: L::Request,
    ) -> impl Future<Output = Result<L::Reply, Refusal>> + Send;

    /// Returns what to tell a new peer unasked; asked once for each connection.
    fn events(&self, peer: &Peer) -> Option<mpsc::Receiver<L::Event>> {
        let _ = peer;
        None
    }
}

/// A socket that is listened on. Its file appears only once connecting to it succeeds.
pub struct Listener {
    socket: Socket,
    path: PathBuf,
    uids: Vec<u32>,
    kept: Arc<AtomicBool>,
}

/// Keeps a socket open beyond its [`Listener`], so that whoever connects meanwhile waits instead of being refused.
#[derive(Debug)]
pub struct Heir {
    socket: OwnedFd,
    path: PathBuf,
    uids: Vec<u32>,
    kept: Arc<AtomicBool>,
}

impl Heir {
    /// From now on the end of the listener leaves the socket's file where it is.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Returns the socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Listens again.
    pub fn listen(&self) -> io::Result<Listener> {
        Ok(Listener {
            uids: self.uids.clone(),
            ..Listener::inherit(self.socket.try_clone()?, &self.path, &[])?
        })
    }
}

impl Listener {
    /// Listens on `path` (mode 0600), in place of whatever socket was there: the caller holds the lock of the name.
    /// Peers of the own user and of root are accepted, and those of `also`.
    pub fn bind(path: &Path, also: &[u32]) -> Result<Self, ListenError> {
        let fail = |source| ListenError::Bind {
            path: path.to_owned(),
            source,
        };
        // Bound under another name and then renamed, so that whoever sees the file can connect.
        let mut making = path.as_os_str().to_owned();
        making.push(".new");
        let making = PathBuf::from(making);
        match std::fs::remove_file(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let name = making
            .as_path()
            .to_fs_name::<GenericFilePath>()
            .map_err(fail)?;
        let socket = ListenerOptions::new()
            .name(name)
            .mode(0o600)
            .reclaim_name(false)
            .create_tokio()
            .map_err(fail)?;
        std::fs::rename(&making, path).map_err(fail)?;
        let mut uids = vec![nix::unistd::geteuid().as_raw(), 0];
        uids.extend_from_slice(also);
        Ok(Self {
            socket,
            path: path.to_owned(),
            uids,
            kept: Arc::default(),
        })
    }

    /// Goes on listening on a socket that this process has from the program before it.
    pub fn inherit(socket: OwnedFd, path: &Path, also: &[u32]) -> io::Result<Self> {
        let mut uids = vec![nix::unistd::geteuid().as_raw(), 0];
        uids.extend_from_slice(also);
        Ok(Self {
            socket: Socket::UdSocket(UdSocket::try_from(socket)?),
            path: path.to_owned(),
            uids,
            kept: Arc::default(),
        })
    }

    /// Returns what keeps the socket open when this listener ends.
    pub fn heir(&self) -> io::Result<Heir> {
        let Socket::UdSocket(socket) = &self.socket;
        Ok(Heir {
            socket: socket.as_fd().try_clone_to_owned()?,
            path: self.path.clone(),
            uids: self.uids.clone(),
            kept: self.kept.clone(),
        })
    }

    /// Accepts and serves peers until `stop` becomes true, then answers what is under way for at most a second.
    ///
    /// The socket's file is removed before the last answers are given, unless an [`Heir`] keeps it.
    pub async fn serve<L: Link, H: Handler<L>>(
        self,
        me: Hello,
        handler: Arc<H>,
        mut stop: watch::Receiver<bool>,
    ) {
        let places = Arc::new(Semaphore::new(MAX_PEERS));
        let mut peers = JoinSet::new();
        let for_peers = stop.clone();
        loop {
            let place = places.clone().acquire_owned();
            tokio::select! {
                // Cancel safe: `wait_for` only reads; `accept_one` loses nothing that was accepted, see there.
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = self.accept_one(place) => {
                    if let Some((stream, uid, place)) = accepted {
                        let (me, handler, stop) = (me.clone(), handler.clone(), for_peers.clone());
                        peers.spawn(async move {
                            serve_peer::<L, H>(stream, uid, me, handler, stop).await;
                            drop(place);
                        });
                    }
                }
                Some(ended) = peers.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "the task of a connection failed");
                    }
                }
            }
        }
        if !self.kept.load(Ordering::Relaxed) {
            let _ = std::fs::remove_file(&self.path);
        }
        let rest = async { while peers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    }

    /// Accepts one peer of a permitted user; `None` if there was a peer of another, or none after all.
    ///
    /// Cancel safe: the last await is the accepting itself.
    async fn accept_one<P>(&self, place: impl Future<Output = P>) -> Option<(Stream, u32, P)> {
        let place = place.await;
        let stream = match self.socket.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return None;
            }
        };
        let uid = stream.peer_creds().ok().and_then(|creds| creds.euid());
        match uid {
            Some(uid) if self.uids.contains(&uid) => Some((stream, uid, place)),
            _ => {
                warn!(?uid, path = %self.path.display(), "refused a connection of another user");
                None
            }
        }
    }
}

async fn serve_peer<L: Link, H: Handler<L>>(
    stream: Stream,
    uid: u32,
    me: Hello,
    handler: Arc<H>,
    mut stop: watch::Receiver<bool>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let hello = match hello::exchange(&mut reader, &mut writer, &me).await {
        Ok(hello) => hello,
        Err(HelloError::Closed) => return,
        Err(error) => {
            warn!(uid, error = %chain(&error), "a peer lost its connection");
            return;
        }
    };
    let peer = Arc::new(Peer { hello, uid });
    debug!(peer = ?peer.hello, "connected");

    let (answers, mut outgoing) = mpsc::channel::<Vec<u8>>(64);
    let mut writing = Owned(tokio::spawn(async move {
        while let Some(bytes) = outgoing.recv().await {
            if frame::write(&mut writer, &bytes).await.is_err() {
                break;
            }
        }
    }));
    let telling = handler.events(&peer).map(|mut events| {
        let answers = answers.clone();
        Owned(tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Ok(bytes) = Envelope::encode(Kind::Event, 0, &event) else {
                    continue;
                };
                if answers.send(bytes).await.is_err() {
                    break;
                }
            }
        }))
    });

    let requests = read_requests::<L, H>(&mut reader, &peer, &handler, &answers);
    tokio::select! {
        // Cancel safe: whichever wins, the connection is at its end.
        result = requests => if let Err(error) = result {
            warn!(peer = ?peer.hello, error = %chain(&error), "a peer lost its connection");
        },
        _ = stop.wait_for(|stop| *stop) => {}
        () = answers.closed() => {}
    }
    // Without senders the writer ends once it has said what is queued.
    drop((telling, answers));
    let _ = tokio::time::timeout(LAST_WORDS, &mut writing.0).await;
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads requests until the peer closes, then waits for those under way.
async fn read_requests<L: Link, H: Handler<L>>(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    peer: &Arc<Peer>,
    handler: &Arc<H>,
    answers: &mpsc::Sender<Vec<u8>>,
) -> Result<(), FrameError> {
    let outstanding = Arc::new(Semaphore::new(MAX_OUTSTANDING));
    let mut requests = JoinSet::new();
    while let Some(bytes) = frame::read(reader).await? {
        let envelope = Envelope::decode(&bytes)?;
        if envelope.kind != Kind::Request {
            continue;
        }
        while requests.try_join_next().is_some() {}
        let permit = outstanding.clone().acquire_owned().await;
        let (peer, handler, answers) = (peer.clone(), handler.clone(), answers.clone());
        requests.spawn(async move {
            let id = envelope.id;
            let result = match serde_json::from_str::<L::Request>(envelope.body.get()) {
                Ok(request) => handler.handle(peer, request).await,
                Err(error) => Err(Refusal::new(
                    RefusalKind::Unsupported,
                    format!("this version does not understand the request: {error}"),
                )),
            };
            if let Ok(bytes) = answer(id, result) {
                let _ = answers.send(bytes).await;
            }
            drop(permit);
        });
    }
    Ok(())
}

fn answer<R: serde::Serialize>(id: u64, result: Result<R, Refusal>) -> Result<Vec<u8>, FrameError> {
    let bytes = match &result {
        Ok(reply) => Envelope::encode(Kind::Reply, id, reply)?,
        Err(refusal) => Envelope::encode(Kind::Refusal, id, refusal)?,
    };
    if bytes.len() <= frame::MAX_FRAME {
        return Ok(bytes);
    }
    let refusal = Refusal::new(
        RefusalKind::Failed,
        format!(
            "the answer has {} bytes, too many for one frame",
            bytes.len()
        ),
    );
    Envelope::encode(Kind::Refusal, id, &refusal)
}
