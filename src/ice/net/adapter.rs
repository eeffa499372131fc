//! The listening end: endpoints, accepting, and closing in good order.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tracing::{debug, error, warn};

use super::super::endpoint::{Address, Endpoint};
use super::super::identity::Identity;
use super::super::proxy::{Proxy, Reference};
use super::connect::accepted;
use super::connection::Connection;
use super::dispatch::Dispatcher;
use super::publish::{interfaces, listen};
use super::settings::Settings;

/// The pause after a failed `accept`, where trying again at once would only fail again (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An adapter that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused.
    #[error("cannot listen on {address}")]
    Io {
        /// The address, or the host whose addresses are not known.
        address: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// An endpoint is of a kind that is not carried.
    #[error("endpoint {endpoint} is of a kind that is not supported")]
    Unsupported {
        /// Which.
        endpoint: String,
    },
    /// There is no certificate for an endpoint that needs one.
    #[error("endpoint {endpoint} needs a certificate, and none is set up")]
    NoCertificate {
        /// Which.
        endpoint: String,
    },
}

/// An object adapter: listens from the moment that it is made, and serves once it is told to.
pub struct Adapter {
    sockets: Vec<Socket>,
    published: Vec<Endpoint>,
    settings: Arc<Settings>,
    dispatcher: Arc<dyn Dispatcher>,
}

struct Socket {
    listener: TcpListener,
    encrypted: bool,
    compress: bool,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter")
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

impl Adapter {
    /// Listens on endpoints of TCP and TLS. Port 0 is one that the system chooses.
    pub async fn bind(
        endpoints: &[Endpoint],
        settings: Arc<Settings>,
        dispatcher: Arc<dyn Dispatcher>,
    ) -> Result<Self, BindError> {
        Self::bind_or_take(endpoints, settings, dispatcher, &mut Vec::new()).await
    }

    /// The same, but sockets that were left to this process by its predecessor ([`heirs`](Self::heirs)) are taken where they listen on the
    /// same addresses.
    pub async fn bind_or_take(
        endpoints: &[Endpoint],
        settings: Arc<Settings>,
        dispatcher: Arc<dyn Dispatcher>,
        inherited: &mut Vec<std::net::TcpListener>,
    ) -> Result<Self, BindError> {
        let (mut sockets, mut published) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let (address, encrypted) = match endpoint {
                Endpoint::Tcp(address) => (address, false),
                Endpoint::Ssl(address) => (address, true),
                other => {
                    return Err(BindError::Unsupported {
                        endpoint: other.to_string(),
                    });
                }
            };
            if encrypted && settings.tls.acceptor.is_none() {
                return Err(BindError::NoCertificate {
                    endpoint: endpoint.to_string(),
                });
            }
            let default = settings.default_host.as_deref().unwrap_or_default();
            let host = match address.host.as_str() {
                "" => default,
                host => host,
            };
            let fail = |(address, source)| BindError::Io { address, source };
            let port = u16::try_from(address.port)
                .map_err(|error| fail((endpoint.to_string(), io::Error::other(error))))?;
            let listeners = listen(host, port, inherited).await.map_err(fail)?;
            let port = match listeners.first().map(TcpListener::local_addr) {
                Some(Ok(bound)) => bound.port(),
                _ => port,
            };
            for host in published_hosts(host) {
                let address = Address {
                    host,
                    port: i32::from(port),
                    ..address.clone()
                };
                published.push(match encrypted {
                    true => Endpoint::Ssl(address),
                    false => Endpoint::Tcp(address),
                });
            }
            let compress = address.compress;
            sockets.extend(listeners.into_iter().map(|listener| Socket {
                listener,
                encrypted,
                compress,
            }));
        }
        Ok(Self {
            sockets,
            published,
            settings,
            dispatcher,
        })
    }

    /// Returns the endpoints by which others reach this adapter.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.published
    }

    /// Returns the sockets once more, to be left to another program in the place of this one: what connects meanwhile waits there.
    pub fn heirs(&self) -> io::Result<Vec<OwnedFd>> {
        let sockets = self.sockets.iter();
        sockets
            .map(|socket| socket.listener.as_fd().try_clone_to_owned())
            .collect()
    }

    /// Returns a proxy to an object of this adapter, by its endpoints.
    pub fn proxy(&self, identity: Identity) -> Proxy {
        Proxy::new(identity, Reference::Direct(self.published.clone()))
    }

    /// Accepts and serves connections until `stop` becomes true, or its sender is gone. Then closes them in good order: requests that are
    /// under way are answered, and the other sides close, within the time of [`Settings::close`].
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let mut connections: HashMap<Id, Connection> = HashMap::new();
        let mut turn = 0;
        loop {
            let has_place = connections.len() < self.settings.connections_max;
            tokio::select! {
                // Cancel safe: `wait_for` and `join_next_with_id` only read; what was accepted is returned at once.
                () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
                Some(ended) = tasks.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(failed) => {
                            error!(error = %failed, "the task of a connection failed");
                            failed.id()
                        }
                    };
                    connections.remove(&id);
                }
                accepted = self.accept(&mut turn), if has_place => {
                    self.take(accepted, &mut tasks, &mut connections).await;
                    if connections.len() == self.settings.connections_max {
                        warn!(connections = connections.len(), "no more connections are accepted for now");
                    }
                }
            }
        }
        let close = self.settings.close;
        // Whoever connects from now on is refused.
        drop(self.sockets);
        for connection in connections.values() {
            connection.begin_close();
        }
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(close, all_ended).await.is_err() {
            debug!(left = tasks.len(), "connections are cut off");
        }
        tasks.shutdown().await;
    }

    /// Accepts from any of the sockets, from each in turn. Cancel safe.
    async fn accept(&self, turn: &mut usize) -> (usize, io::Result<(TcpStream, SocketAddr)>) {
        let count = self.sockets.len();
        poll_fn(|cx| {
            for step in 0..count {
                let at = (*turn + step) % count;
                if let Some(socket) = self.sockets.get(at)
                    && let Poll::Ready(accepted) = socket.listener.poll_accept(cx)
                {
                    *turn = at + 1;
                    return Poll::Ready((at, accepted));
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn take(
        &self,
        (at, stream): (usize, io::Result<(TcpStream, SocketAddr)>),
        tasks: &mut JoinSet<()>,
        connections: &mut HashMap<Id, Connection>,
    ) {
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        let Some(socket) = self.sockets.get(at) else {
            return;
        };
        match accepted(
            stream,
            socket.encrypted,
            socket.compress,
            &self.settings,
            self.dispatcher.clone(),
        ) {
            Ok((connection, driving)) => {
                connections.insert(tasks.spawn(driving).id(), connection);
            }
            // It is gone already.
            Err(error) => debug!(%error, "a connection ended before it was served"),
        }
    }
}

/// Returns the hosts by which others reach what listens on this one.
fn published_hosts(host: &str) -> Vec<String> {
    match host {
        "" | "0.0.0.0" | "::" => interfaces().iter().map(ToString::to_string).collect(),
        host => vec![host.to_owned()],
    }
}
