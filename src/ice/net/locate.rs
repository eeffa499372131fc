//! Where objects and adapters are, as a locator says (`ice-protocol.md` §11), and for how long that is believed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::codec::{Decode as _, Encode as _};
use super::super::endpoint::Endpoint;
use super::super::error::DecodeError;
use super::super::identity::Identity;
use super::super::message::Mode;
use super::super::proxy::{Proxy, Reference};
use super::call::{Answer, Call};
use super::client::Client;
use super::error::InvokeError;
use super::flights::Flights;

/// How many places are remembered.
const CACHE_MAX: usize = 100_000;

/// What is looked up, in the encoding of the proxy that needs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Adapter(String, [u8; 2]),
    Object(Identity, [u8; 2]),
}

/// What a locator answered.
#[derive(Debug, Clone)]
enum Place {
    At(Vec<Endpoint>),
    /// An object is at an adapter.
    Adapter(String),
}

/// Endpoints, and whether they are remembered from before.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) remembered: bool,
}

#[derive(Debug)]
pub(super) struct Locator {
    proxy: Option<Proxy>,
    /// How long an answer is believed; `None` is for ever.
    believed: Option<Duration>,
    cache: Mutex<HashMap<Key, (Instant, Place)>>,
    flights: Flights<Key, Result<Place, InvokeError>>,
}

impl Locator {
    pub(super) fn new(proxy: Option<Proxy>, believed: Option<Duration>) -> Self {
        Self {
            proxy,
            believed,
            cache: Mutex::default(),
            flights: Flights::new(),
        }
    }

    /// Returns where the object of a proxy can be reached.
    pub(super) async fn locate(
        &self,
        client: &Client,
        proxy: &Proxy,
    ) -> Result<Located, InvokeError> {
        let (place, remembered) = match &proxy.reference {
            Reference::Direct(endpoints) => {
                return Ok(Located {
                    endpoints: endpoints.clone(),
                    remembered: false,
                });
            }
            Reference::Indirect(adapter) => {
                let key = Key::Adapter(adapter.clone(), proxy.encoding);
                self.look_up(client, key).await?
            }
            Reference::WellKnown => {
                let key = Key::Object(proxy.identity.clone(), proxy.encoding);
                self.look_up(client, key).await?
            }
        };
        let adapter = match place {
            Place::At(endpoints) => {
                return Ok(Located {
                    endpoints,
                    remembered,
                });
            }
            Place::Adapter(adapter) => adapter,
        };
        let key = Key::Adapter(adapter.clone(), proxy.encoding);
        match self.look_up(client, key).await? {
            (Place::At(endpoints), also) => Ok(Located {
                endpoints,
                remembered: remembered || also,
            }),
            (Place::Adapter(_), _) => Err(InvokeError::NoAdapter(adapter)),
        }
    }

    /// Forgets where the object of a proxy is.
    pub(super) fn forget(&self, proxy: &Proxy) {
        let mut cache = self.lock();
        let adapter = match &proxy.reference {
            Reference::Direct(_) => None,
            Reference::Indirect(adapter) => Some(adapter.clone()),
            Reference::WellKnown => {
                let key = Key::Object(proxy.identity.clone(), proxy.encoding);
                match cache.remove(&key) {
                    Some((_, Place::Adapter(adapter))) => Some(adapter),
                    _ => None,
                }
            }
        };
        if let Some(adapter) = adapter {
            cache.remove(&Key::Adapter(adapter, proxy.encoding));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, Place)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(&self, client: &Client, key: Key) -> Result<(Place, bool), InvokeError> {
        let remembered = {
            let cache = self.lock();
            let fresh = |since: &Instant| self.believed.is_none_or(|long| since.elapsed() < long);
            cache.get(&key).filter(|(since, _)| fresh(since)).cloned()
        };
        if let Some((_, place)) = remembered {
            return Ok((place, true));
        }
        // In a box: most of what is looked up is remembered.
        let asking = Box::pin(self.ask(client, &key));
        let place = self.flights.join(&key, asking).await?;
        Ok((place, false))
    }

    async fn ask(&self, client: &Client, key: &Key) -> Result<Place, InvokeError> {
        let nowhere = || match key {
            Key::Adapter(adapter, _) => InvokeError::NoAdapter(adapter.clone()),
            Key::Object(identity, _) => InvokeError::NoObject(identity.to_string()),
        };
        let Some(locator) = &self.proxy else {
            return Err(nowhere());
        };
        let Reference::Direct(endpoints) = &locator.reference else {
            return Err(InvokeError::NoEndpoint(locator.to_string()));
        };
        let (operation, encoding) = match key {
            Key::Adapter(_, encoding) => ("findAdapterById", *encoding),
            Key::Object(_, encoding) => ("findObjectById", *encoding),
        };
        let call = Call {
            encoding,
            ..Call::new(locator, operation, Mode::Nonmutating)
        };
        let call = call.with(|writer| match key {
            Key::Adapter(adapter, _) => writer.text(adapter),
            Key::Object(identity, _) => identity.encode(writer),
        });
        // It changes nothing, so that it may be asked again over another connection.
        let answer = match client.call(locator, endpoints, &call).await {
            Err(InvokeError::NotDone(_) | InvokeError::Lost(_)) => {
                client.call(locator, endpoints, &call).await?
            }
            answer => answer?,
        };
        let found = match &answer {
            Answer::Done { .. } => proxy_of(&answer)
                .map_err(|error| InvokeError::Locator(super::dispatch::malformed(&error)))?,
            Answer::Exception { .. } => return Err(nowhere()),
            Answer::Missing { what, .. } => {
                return Err(InvokeError::Locator(format!("{what:?} is missing")));
            }
            Answer::Unknown(_, text) => return Err(InvokeError::Locator(text.clone())),
        };
        let place = match (found.map(|proxy| proxy.reference), key) {
            (Some(Reference::Direct(endpoints)), _) => Place::At(endpoints),
            (Some(Reference::Indirect(adapter)), Key::Object(..)) => Place::Adapter(adapter),
            // What is known and not active is no proxy; what leads back to the locator leads nowhere.
            _ => return Err(nowhere()),
        };
        if self.believed.is_none_or(|long| !long.is_zero()) {
            let mut cache = self.lock();
            if cache.len() >= CACHE_MAX {
                cache.clear();
            }
            cache.insert(key.clone(), (Instant::now(), place.clone()));
        }
        Ok(place)
    }
}

fn proxy_of(answer: &Answer) -> Result<Option<Proxy>, DecodeError> {
    let Some(reader) = answer.reader() else {
        return Ok(None);
    };
    let mut reader = reader?;
    let proxy = Option::<Proxy>::decode(&mut reader)?;
    reader.finish()?;
    Ok(proxy)
}
