//! Calls of objects by their proxies: finding where, keeping connections, trying again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::seq::SliceRandom as _;
use tokio::task::JoinSet;
use tracing::debug;

use super::super::endpoint::Endpoint;
use super::super::message::{Missing, Mode};
use super::super::proxy::{Proxy, ProxyMode, Reference};
use super::call::{Answer, Call};
use super::connection::Connection;
use super::dispatch::Dispatcher;
use super::error::{ConnectError, Ended, InvokeError};
use super::flights::Flights;
use super::locate::{Located, Locator};
use super::settings::Settings;
use crate::telemetry::chain;

/// From this many on, connections that have ended are forgotten.
const PRUNE: usize = 64;

/// How a client finds and reaches objects.
#[derive(Clone, Default)]
pub struct ClientSettings {
    /// How its connections behave.
    pub connections: Arc<Settings>,
    /// Who knows where adapters and objects are (`Ice.Default.Locator`).
    pub locator: Option<Proxy>,
    /// How long a locator is believed (`Ice.Default.LocatorCacheTimeout`); `None` is for ever, zero is not at all.
    pub located: Option<Duration>,
    /// Endpoints are tried in their order, and not in any (`Ice.Default.EndpointSelection`).
    pub ordered: bool,
    /// Endpoints that encrypt are tried first, and not last (`Ice.Default.PreferSecure`).
    pub prefer_secure: bool,
    /// How long a call may take that has no time limit of its own (`Ice.Default.InvocationTimeout`).
    pub limit: Option<Duration>,
    /// Who answers requests that come over the connections of this client.
    pub dispatcher: Option<Arc<dyn Dispatcher>>,
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings")
            .field("connections", &self.connections)
            .field("locator", &self.locator)
            .finish_non_exhaustive()
    }
}

/// Makes calls. Cheap to clone; the connections end with the last clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ClientSettings,
    locator: Locator,
    /// The connections that are open, by the endpoints that they lead to.
    open: Mutex<HashMap<Endpoint, Connection>>,
    opening: Flights<Endpoint, Result<Connection, ConnectError>>,
    /// The tasks of the connections; `None` once the client is closed.
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Makes a client without connections.
    pub fn new(settings: ClientSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                locator: Locator::new(settings.locator.clone(), settings.located),
                settings,
                open: Mutex::default(),
                opening: Flights::new(),
                tasks: Mutex::new(Some(JoinSet::new())),
            }),
        }
    }

    /// Calls the object of a proxy. The call says which identity, facet and encoding; the proxy says where, and whether an answer is wanted: a
    /// call that wants none is answered with nothing as soon as it is queued.
    ///
    /// A call that was certainly not carried out is made once more, one that may be repeated also if it may have been.
    pub async fn invoke(
        &self,
        proxy: &Proxy,
        call: &Call,
        limit: Option<Duration>,
    ) -> Result<Answer, InvokeError> {
        match limit.or(self.inner.settings.limit) {
            None => self.persist(proxy, call).await,
            Some(limit) => tokio::time::timeout(limit, self.persist(proxy, call))
                .await
                .unwrap_or(Err(InvokeError::Timeout)),
        }
    }

    async fn persist(&self, proxy: &Proxy, call: &Call) -> Result<Answer, InvokeError> {
        let is_direct = matches!(proxy.reference, Reference::Direct(_));
        let first = self.attempt(proxy, call).await;
        let again = match &first {
            Err(InvokeError::NotDone(_)) => true,
            Err(InvokeError::Lost(_)) => call.mode != Mode::Normal,
            // It may have moved since the locator was asked.
            Ok(Answer::Missing {
                what: Missing::Object,
                ..
            }) => !is_direct,
            _ => false,
        };
        if !again {
            return first;
        }
        if let Err(error) = &first {
            debug!(operation = ?call.operation, reason = %chain(error), "a call is made again");
        }
        self.inner.locator.forget(proxy);
        self.attempt(proxy, call).await
    }

    async fn attempt(&self, proxy: &Proxy, call: &Call) -> Result<Answer, InvokeError> {
        let connection = self.connection(proxy).await?;
        answer(&connection, proxy, call).await
    }

    /// Returns a connection to where the object of a proxy is: one that is open, or a new one.
    pub async fn connection(&self, proxy: &Proxy) -> Result<Connection, InvokeError> {
        let locator = &self.inner.locator;
        let Located {
            endpoints,
            remembered,
        } = locator.locate(self, proxy).await?;
        match self.reach(proxy, &endpoints).await {
            Err(InvokeError::Connect(_)) if remembered => {
                locator.forget(proxy);
                let located = locator.locate(self, proxy).await?;
                self.reach(proxy, &located.endpoints).await
            }
            reached => reached,
        }
    }

    /// Makes a call at endpoints that are known.
    pub(super) async fn call(
        &self,
        proxy: &Proxy,
        endpoints: &[Endpoint],
        call: &Call,
    ) -> Result<Answer, InvokeError> {
        let connection = self.reach(proxy, endpoints).await?;
        answer(&connection, proxy, call).await
    }

    /// Returns a connection to one of these endpoints.
    async fn reach(
        &self,
        proxy: &Proxy,
        endpoints: &[Endpoint],
    ) -> Result<Connection, InvokeError> {
        let endpoints = self.choose(proxy, endpoints);
        {
            let open = lock(&self.inner.open);
            let mut known = endpoints.iter().filter_map(|endpoint| open.get(*endpoint));
            if let Some(connection) = known.find(|connection| connection.is_open()) {
                return Ok(connection.clone());
            }
        }
        let mut failed = InvokeError::NoEndpoint(proxy.to_string());
        for endpoint in endpoints {
            match self.open(endpoint).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    debug!(?endpoint, reason = %chain(&error), "cannot connect");
                    failed = InvokeError::Connect(error);
                }
            }
        }
        Err(failed)
    }

    /// Returns the endpoints that can be used, in the order in which they are tried.
    fn choose<'e>(&self, proxy: &Proxy, endpoints: &'e [Endpoint]) -> Vec<&'e Endpoint> {
        let settings = &self.inner.settings;
        let encrypts = |endpoint: &&Endpoint| matches!(endpoint, Endpoint::Ssl(_));
        let can_encrypt = settings.connections.tls.connector.is_some();
        let usable = endpoints.iter().filter(|endpoint| match endpoint {
            Endpoint::Tcp(_) => !proxy.secure,
            Endpoint::Ssl(_) => can_encrypt,
            _ => false,
        });
        let mut usable: Vec<&Endpoint> = usable.collect();
        if !settings.ordered {
            usable.shuffle(&mut rand::rng());
        }
        usable.sort_by_key(|endpoint| encrypts(endpoint) != settings.prefer_secure);
        usable
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Connection, ConnectError> {
        // In a box: connecting is rare, and what it needs would make every call's future large.
        let connect = Box::pin(async {
            let inner = &self.inner;
            let settings = &inner.settings;
            let dispatcher = settings.dispatcher.clone();
            let (connection, driving) =
                Connection::connect(endpoint, &settings.connections, dispatcher).await?;
            let mut tasks = lock(&inner.tasks);
            let Some(tasks) = tasks.as_mut() else {
                return Err(ConnectError::Greeting {
                    endpoint: endpoint.to_string(),
                    source: Ended::ByUs,
                });
            };
            while tasks.try_join_next().is_some() {}
            tasks.spawn(driving);
            let mut open = lock(&inner.open);
            if open.len() >= PRUNE {
                open.retain(|_, connection| connection.is_open());
            }
            open.insert(endpoint.clone(), connection.clone());
            Ok(connection)
        });
        self.inner.opening.join(endpoint, connect).await
    }

    /// Closes every connection in good order and waits for their ends. Nothing can be called afterwards.
    pub async fn close(&self) {
        let tasks = lock(&self.inner.tasks).take();
        let Some(mut tasks) = tasks else { return };
        for (_, connection) in lock(&self.inner.open).drain() {
            connection.begin_close();
        }
        let limit = self.inner.settings.connections.close;
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        // Past the time limit they are cut off.
        let _ = tokio::time::timeout(limit, all_ended).await;
        tasks.shutdown().await;
    }
}

async fn answer(
    connection: &Connection,
    proxy: &Proxy,
    call: &Call,
) -> Result<Answer, InvokeError> {
    match proxy.mode {
        ProxyMode::Twoway => connection.invoke(call, None).await,
        ProxyMode::Oneway | ProxyMode::BatchOneway => {
            connection.oneway(call).await?;
            Ok(Answer::Done {
                encoding: call.encoding,
                body: Bytes::new(),
            })
        }
        ProxyMode::Datagram | ProxyMode::BatchDatagram => {
            Err(InvokeError::NoEndpoint(proxy.to_string()))
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
