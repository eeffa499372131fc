//! The registry as a client sees it: an administrative session, and the calls that are made in it (`icegrid-glacier2.md` §2).
//!
//! All calls go over one connection, whatever endpoints the proxies name: the objects of a session answer there only. What an answer means
//! to people is left to the caller.

use std::sync::Arc;
use std::time::Duration;

use super::types::*;
use crate::ice::net::{
    Acm, Answer, Call, Client, ClientSettings, Connection, Dispatcher, Heartbeat, IdleClose,
    InvokeError, Settings,
};
use crate::ice::{
    Decode, DecodeError, Encapsulation, Encode, Exception, Family, Format, Identity, Missing, Mode,
    Objects, Proxy, Thrown,
};

/// How a registry is found, and who comes to it.
#[derive(Debug, Clone)]
pub struct Access {
    /// The locator.
    pub locator: Proxy,
    /// Who.
    pub user: String,
    /// The password.
    pub password: String,
    /// Who it is, is what the certificate of the connection says; user and password are not asked for.
    pub certificate: bool,
    /// The replica to come to; empty for the one that the locator belongs to.
    pub replica: String,
    /// How connections behave.
    pub settings: Settings,
}

/// Why a call did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// It was answered with a declared exception.
    #[error("{0:?}")]
    Raised(Raised),
    /// What was called is not there.
    #[error("{} does not exist: {identity}, facet {facet:?}, operation {operation:?}", missing(.what))]
    Missing {
        /// What is not.
        what: Missing,
        /// The object that was called.
        identity: Identity,
        /// The facet that was called.
        facet: String,
        /// The operation that was called.
        operation: String,
    },
    /// The other side failed in a way that nobody declared.
    #[error("{0}")]
    Unknown(String),
    /// It has no answer.
    #[error(transparent)]
    Invoke(#[from] InvokeError),
    /// The answer is not what it should be.
    #[error("the answer cannot be read")]
    Answer(#[from] DecodeError),
    /// A proxy that has to be there is not.
    #[error("{0} gave no proxy")]
    Nil(&'static str),
}

fn missing(what: &Missing) -> &'static str {
    match what {
        Missing::Object => "object",
        Missing::Facet => "facet",
        Missing::Operation => "operation",
    }
}

/// The declared exceptions of the registry.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "named as the exceptions are")]
pub enum Raised {
    ApplicationNotExist(String),
    ServerNotExist(String),
    AdapterNotExist(String),
    NodeNotExist(String),
    RegistryNotExist(String),
    ObjectNotRegistered(Identity),
    ObjectExists(Identity),
    Deployment(String),
    BadSignal(String),
    AccessDenied(String),
    PermissionDenied(String),
    FileNotAvailable(String),
    Patch(Vec<String>),
    ServerStart {
        id: String,
        reason: String,
    },
    ServerStop {
        id: String,
        reason: String,
    },
    NodeUnreachable {
        name: String,
        reason: String,
    },
    ServerUnreachable {
        name: String,
        reason: String,
    },
    RegistryUnreachable {
        name: String,
        reason: String,
    },
    /// Of this type id, which is none of those.
    Other(String),
}

impl Raised {
    fn of(thrown: &Thrown<'_>) -> Result<Self, DecodeError> {
        fn text<E: Exception>(
            thrown: &Thrown<'_>,
            make: impl FnOnce(E) -> Raised,
        ) -> Result<Raised, DecodeError> {
            let id = || Raised::Other(thrown.type_id().to_owned());
            Ok(thrown.is::<E>()?.map_or_else(id, make))
        }
        match thrown.type_id() {
            ApplicationNotExistException::TYPE_ID => {
                text(thrown, |e: ApplicationNotExistException| {
                    Self::ApplicationNotExist(e.name)
                })
            }
            ServerNotExistException::TYPE_ID => text(thrown, |e: ServerNotExistException| {
                Self::ServerNotExist(e.id)
            }),
            AdapterNotExistException::TYPE_ID => text(thrown, |e: AdapterNotExistException| {
                Self::AdapterNotExist(e.id)
            }),
            NodeNotExistException::TYPE_ID => text(thrown, |e: NodeNotExistException| {
                Self::NodeNotExist(e.name)
            }),
            RegistryNotExistException::TYPE_ID => text(thrown, |e: RegistryNotExistException| {
                Self::RegistryNotExist(e.name)
            }),
            ObjectNotRegisteredException::TYPE_ID => {
                text(thrown, |e: ObjectNotRegisteredException| {
                    Self::ObjectNotRegistered(e.id)
                })
            }
            ObjectExistsException::TYPE_ID => {
                text(thrown, |e: ObjectExistsException| Self::ObjectExists(e.id))
            }
            DeploymentException::TYPE_ID => {
                text(thrown, |e: DeploymentException| Self::Deployment(e.reason))
            }
            BadSignalException::TYPE_ID => {
                text(thrown, |e: BadSignalException| Self::BadSignal(e.reason))
            }
            AccessDeniedException::TYPE_ID => text(thrown, |e: AccessDeniedException| {
                Self::AccessDenied(e.lock_user_id)
            }),
            PermissionDeniedException::TYPE_ID => text(thrown, |e: PermissionDeniedException| {
                Self::PermissionDenied(e.reason)
            }),
            FileNotAvailableException::TYPE_ID => text(thrown, |e: FileNotAvailableException| {
                Self::FileNotAvailable(e.reason)
            }),
            PatchException::TYPE_ID => text(thrown, |e: PatchException| Self::Patch(e.reasons)),
            ServerStartException::TYPE_ID => text(thrown, |ServerStartException { id, reason }| {
                Self::ServerStart { id, reason }
            }),
            ServerStopException::TYPE_ID => text(thrown, |ServerStopException { id, reason }| {
                Self::ServerStop { id, reason }
            }),
            NodeUnreachableException::TYPE_ID => {
                text(thrown, |NodeUnreachableException { name, reason }| {
                    Self::NodeUnreachable { name, reason }
                })
            }
            ServerUnreachableException::TYPE_ID => {
                text(thrown, |ServerUnreachableException { name, reason }| {
                    Self::ServerUnreachable { name, reason }
                })
            }
            RegistryUnreachableException::TYPE_ID => {
                text(thrown, |RegistryUnreachableException { name, reason }| {
                    Self::RegistryUnreachable { name, reason }
                })
            }
            other => Ok(Self::Other(other.to_owned())),
        }
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The locator cannot be reached, or does not answer as one.
    #[error("the locator cannot be reached")]
    Locator(#[source] Fault),
    /// What it names is a locator, but none of IceGrid.
    #[error("the locator is none of IceGrid")]
    NotIceGrid,
    /// There is no replica of this name.
    #[error("no active registry replica named `{0}'")]
    NoReplica(String),
    /// The registry refuses a session.
    #[error("the registry refuses a session")]
    Refused(#[source] Fault),
}

/// An administrative session.
#[derive(Debug)]
pub struct Admin {
    client: Client,
    connection: Connection,
    session: Proxy,
    admin: Proxy,
    instance: String,
}

impl Admin {
    /// Comes to a registry.
    pub async fn connect(access: Access) -> Result<Self, ConnectError> {
        let client = Client::new(ClientSettings {
            connections: Arc::new(access.settings),
            prefer_secure: true,
            ..ClientSettings::default()
        });
        let locator = access.locator;
        let instance = locator.identity.category.clone();
        let fault = |error: Fault| ConnectError::Locator(error);
        let connection = client.connection(&locator).await;
        let mut connection = connection.map_err(|error| fault(error.into()))?;
        let call = |proxy: &Proxy, operation: &str, mode| Call::new(proxy, operation, mode);
        let is_a =
            call(&locator, "ice_isA", Mode::Nonmutating).with(|w| "::IceGrid::Locator".encode(w));
        if !on::<bool>(&connection, &is_a).await.map_err(fault)? {
            return Err(ConnectError::NotIceGrid);
        }
        let local = call(&locator, "getLocalRegistry", Mode::Idempotent);
        let local = on::<Option<Proxy>>(&connection, &local)
            .await
            .map_err(fault)?;
        let mut registry = local.ok_or(fault(Fault::Nil("getLocalRegistry")))?;
        let name = match access.replica.as_str() {
            "" => None,
            "Master" => Some("Registry".to_owned()),
            replica => Some(format!("Registry-{replica}")),
        };
        if let Some(name) = name.filter(|name| *name != registry.identity.name) {
            let identity = Identity {
                name,
                category: instance.clone(),
            };
            let find =
                call(&locator, "findObjectById", Mode::Nonmutating).with(|w| identity.encode(w));
            let found = on::<Option<Proxy>>(&connection, &find).await;
            let Ok(Some(found)) = found else {
                return Err(ConnectError::NoReplica(access.replica));
            };
            // Another replica is another process.
            connection = client
                .connection(&found)
                .await
                .map_err(|error| fault(error.into()))?;
            registry = found;
        }
        let create = match access.certificate {
            true => call(
                &registry,
                "createAdminSessionFromSecureConnection",
                Mode::Normal,
            ),
            false => call(&registry, "createAdminSession", Mode::Normal).with(|w| {
                access.user.encode(w);
                access.password.encode(w);
            }),
        };
        let session = on::<Option<Proxy>>(&connection, &create).await;
        let session = session.map_err(ConnectError::Refused)?;
        let session = session.ok_or(fault(Fault::Nil("createAdminSession")))?;
        let timeout = call(&registry, "getACMTimeout", Mode::Idempotent);
        let timeout = on::<i32>(&connection, &timeout).await.map_err(fault)?;
        if let Some(seconds) = u64::try_from(timeout).ok().filter(|seconds| *seconds > 0) {
            connection.set_acm(Acm {
                timeout: Duration::from_secs(seconds),
                close: IdleClose::Off,
                heartbeat: Heartbeat::Always,
            });
        }
        let admin = call(&session, "getAdmin", Mode::Nonmutating);
        let admin = on::<Option<Proxy>>(&connection, &admin)
            .await
            .map_err(fault)?;
        Ok(Self {
            admin: admin.ok_or(fault(Fault::Nil("getAdmin")))?,
            client,
            connection,
            session,
            instance,
        })
    }

    /// Calls an operation of `Admin`.
    pub async fn call<R>(
        &self,
        operation: &str,
        mode: Mode,
        params: impl Encode,
    ) -> Result<R, Fault>
    where
        R: for<'a> Decode<'a>,
    {
        self.call_of(&self.admin, operation, mode, params).await
    }

    /// Calls an operation of any object over the connection of the session.
    pub async fn call_of<R>(
        &self,
        proxy: &Proxy,
        operation: &str,
        mode: Mode,
        params: impl Encode,
    ) -> Result<R, Fault>
    where
        R: for<'a> Decode<'a>,
    {
        let call = Call::new(proxy, operation, mode).with(|w| params.encode(w));
        on(&self.connection, &call).await
    }

    /// Calls an operation of `Admin` whose result has classes.
    pub async fn call_for_classes<R>(
        &self,
        operation: &str,
        mode: Mode,
        params: impl Encode,
        family: Family,
    ) -> Result<(R, Objects), Fault>
    where
        R: for<'a> Decode<'a>,
    {
        let call = Call::new(&self.admin, operation, mode).with(|w| params.encode(w));
        let answer = self.connection.invoke(&call, None).await?;
        results(&answer, |body| body.decode_with(family))
    }

    /// Calls an operation of `Admin` whose parameters have classes.
    pub async fn call_with_classes<R>(
        &self,
        operation: &str,
        params: &impl Encode,
        objects: &Arc<Objects>,
    ) -> Result<R, Fault>
    where
        R: for<'a> Decode<'a>,
    {
        let call = Call::new(&self.admin, operation, Mode::Normal)
            .with(|w| w.with_classes(params, objects, Format::Compact));
        on(&self.connection, &call).await
    }

    /// Returns the session.
    pub fn session(&self) -> &Proxy {
        &self.session
    }

    /// Returns the name of the grid's instance, which is the category of its objects.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Sets who answers what the registry asks over the connection.
    pub fn set_dispatcher(&self, dispatcher: Arc<dyn Dispatcher>) {
        self.connection.set_dispatcher(dispatcher);
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Ends the session and the connection.
    pub async fn close(self) {
        // A registry that is gone has ended it too.
        let _ = self
            .call_of::<()>(&self.session, "destroy", Mode::Normal, ())
            .await;
        self.client.close().await;
    }
}

/// Makes a call over a connection, and takes its results.
async fn on<R>(connection: &Connection, call: &Call) -> Result<R, Fault>
where
    R: for<'a> Decode<'a>,
{
    let answer = connection.invoke(call, None).await?;
    results(&answer, |body| body.decode())
}

fn results<R>(
    answer: &Answer,
    decode: impl FnOnce(Encapsulation<'_>) -> Result<R, DecodeError>,
) -> Result<R, Fault> {
    match answer {
        Answer::Done { encoding, body } => Ok(decode(Encapsulation {
            version: *encoding,
            bytes: body,
        })?),
        Answer::Exception { encoding, body } => {
            let thrown = Thrown::new(Encapsulation {
                version: *encoding,
                bytes: body,
            })?;
            Err(Fault::Raised(Raised::of(&thrown)?))
        }
        Answer::Missing {
            what,
            identity,
            facet,
            operation,
        } => Err(Fault::Missing {
            what: *what,
            identity: identity.clone(),
            facet: facet.clone(),
            operation: operation.clone(),
        }),
        Answer::Unknown(_, text) => Err(Fault::Unknown(text.clone())),
    }
}

/// Asks what knows where a locator is (`Ice/LocatorFinder`).
pub async fn find_locator(finder: &Proxy, settings: Settings) -> Result<Proxy, Fault> {
    let client = Client::new(ClientSettings {
        connections: Arc::new(settings),
        ..ClientSettings::default()
    });
    let connection = client.connection(finder).await?;
    let call = Call::new(finder, "getLocator", Mode::Normal);
    let found = on::<Option<Proxy>>(&connection, &call).await;
    client.close().await;
    found?.ok_or(Fault::Nil("getLocator"))
}
