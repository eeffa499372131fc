//! Opening a connection, and taking one that was opened from the other side.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::debug;

use super::super::endpoint::{Address, Endpoint};
use super::super::error::DecodeError;
use super::super::message::{HEADER, Message};
use super::connection::{About, Connection, Life, Shared};
use super::dispatch::Dispatcher;
use super::driver::{Driver, Side};
use super::error::{ConnectError, Ended};
use super::settings::Settings;
use super::tls::Encryption;
use crate::telemetry::chain;

/// The task of a connection, to be spawned by whoever owns it. The connection stands still without it, and ends when it is dropped.
pub type Driving = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Connection {
    /// Connects to an endpoint and waits for the greeting. Requests of the other side are for `dispatcher`; without one there are no objects.
    ///
    /// The time limit is [`Settings::connect`], or else the endpoint's own.
    pub async fn connect(
        endpoint: &Endpoint,
        settings: &Arc<Settings>,
        dispatcher: Option<Arc<dyn Dispatcher>>,
    ) -> Result<(Self, Driving), ConnectError> {
        let (address, encrypted) = match endpoint {
            Endpoint::Tcp(address) => (address, false),
            Endpoint::Ssl(address) => (address, true),
            other => {
                return Err(ConnectError::Unsupported {
                    endpoint: other.to_string(),
                });
            }
        };
        let own = u64::try_from(address.timeout).ok();
        let limit = settings.connect.or(own.map(Duration::from_millis));
        let opening = open(endpoint, address, encrypted, settings, dispatcher);
        match limit {
            None => opening.await,
            Some(limit) => tokio::time::timeout(limit, opening)
                .await
                .unwrap_or_else(|_| {
                    Err(ConnectError::Timeout {
                        endpoint: endpoint.to_string(),
                    })
                }),
        }
    }
}

async fn open(
    endpoint: &Endpoint,
    address: &Address,
    encrypted: bool,
    settings: &Arc<Settings>,
    dispatcher: Option<Arc<dyn Dispatcher>>,
) -> Result<(Connection, Driving), ConnectError> {
    let fail = |source| ConnectError::Io {
        endpoint: endpoint.to_string(),
        source: Arc::new(source),
    };
    let host = match (address.host.as_str(), settings.default_host.as_deref()) {
        ("", None) => "127.0.0.1",
        ("", Some(host)) => host,
        (host, _) => host,
    };
    let stream = reach(host, address.port).await.map_err(fail)?;
    let about = About {
        id: About::next_id(),
        peer: stream.peer_addr().map_err(fail)?,
        local: stream.local_addr().map_err(fail)?,
        encrypted,
        compress: address.compress,
    };
    if !encrypted {
        return greeted(stream, about, endpoint, settings, dispatcher).await;
    }
    let Some(connector) = &settings.tls.connector else {
        return Err(ConnectError::NoTls {
            endpoint: endpoint.to_string(),
        });
    };
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        // What is no name of DNS is known by its address.
        Err(_) => ServerName::from(about.peer.ip()),
    };
    let stream = connector.connect(name, stream).await.map_err(fail)?;
    greeted(stream, about, endpoint, settings, dispatcher).await
}

/// Connects to the first address of a host that lets it.
async fn reach(host: &str, port: i32) -> io::Result<TcpStream> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let connect = async |address: SocketAddr| {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    // No thread is asked for what is an address already.
    if let Ok(ip) = host.parse::<IpAddr>() {
        return connect(SocketAddr::new(ip, port)).await;
    }
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup_host((host, port)).await? {
        match connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Waits for the greeting: nothing may be sent before.
async fn greeted<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    about: About,
    endpoint: &Endpoint,
    settings: &Arc<Settings>,
    dispatcher: Option<Arc<dyn Dispatcher>>,
) -> Result<(Connection, Driving), ConnectError> {
    let mut frame = [0; HEADER];
    let read = stream.read_exact(&mut frame).await;
    let greeting = match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Ended::Lost),
        Err(error) => Err(Ended::Io(Arc::new(error))),
        Ok(_) => match Message::decode(&frame, HEADER) {
            Ok((Message::Validate, _)) => Ok(()),
            Ok((Message::Close, _)) => Err(Ended::ByPeer),
            Ok(_) => Err(Ended::Protocol(DecodeError::MessageType(frame[8]))),
            Err(error) => Err(Ended::Protocol(error)),
        },
    };
    greeting.map_err(|source| ConnectError::Greeting {
        endpoint: endpoint.to_string(),
        source,
    })?;
    let shared = Arc::new(Shared::new(about, settings.clone()));
    let connection = Connection {
        shared: shared.clone(),
    };
    let driver = Driver::new(stream, Life(shared), Side::Client, dispatcher);
    Ok((connection, Box::pin(driver.run())))
}

/// Takes a connection that was accepted: the handle, and the task that greets and serves it.
pub(super) fn accepted(
    stream: TcpStream,
    encrypted: bool,
    compress: bool,
    settings: &Arc<Settings>,
    dispatcher: Arc<dyn Dispatcher>,
) -> io::Result<(Connection, Driving)> {
    stream.set_nodelay(true)?;
    let about = About {
        id: About::next_id(),
        peer: canonical(stream.peer_addr()?),
        local: canonical(stream.local_addr()?),
        encrypted,
        compress,
    };
    let shared = Arc::new(Shared::new(about, settings.clone()));
    let connection = Connection {
        shared: shared.clone(),
    };
    let life = Life(shared);
    let driving: Driving = match settings.tls.acceptor.clone().filter(|_| encrypted) {
        None => Box::pin(Driver::new(stream, life, Side::Server, Some(dispatcher)).run()),
        Some(acceptor) => Box::pin(async move {
            let peer = life.0.about.peer;
            let handshake = tokio::time::timeout(life.0.settings.stall, acceptor.accept(stream));
            let why = match handshake.await {
                Ok(Ok(stream)) => {
                    let encryption = Encryption::of(stream.get_ref().1);
                    // There is one handshake.
                    let _ = life.0.encryption.set(Box::new(encryption));
                    let driver = Driver::new(stream, life, Side::Server, Some(dispatcher));
                    // What the handshake needed is not kept for as long as the connection lives.
                    return Box::pin(driver.run()).await;
                }
                Ok(Err(error)) => Ended::Io(Arc::new(error)),
                Err(_) => Ended::Silent,
            };
            debug!(%peer, reason = %chain(&why), "TLS handshake failed");
            life.0.end(&why);
        }),
    };
    Ok((connection, driving))
}

/// An address of IPv4 is written as one, also where the socket is of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
