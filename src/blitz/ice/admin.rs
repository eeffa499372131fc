//! `UUID/admin`: the process as any Ice server's, with what `icegridadmin` and nodes ask of one: facets Process and Properties.
//!
//! It listens at `Ice.Admin.Endpoints`, which a node writes into every configuration, and only there.

use std::io::Write as _;
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tracing::info;
use uuid::Uuid;

use super::Door;
use super::settings::{IceError, Settings};
use crate::blitz::values::is_hidden;
use crate::ice::net::{Adapter, Incoming, Responder, Servant, Servants, Served};
use crate::ice::{Encode as _, Identity, Missing, Proxy};
use crate::model::ServerId;

/// The adapter, and the proxy of the facet Process, which the registry is told.
pub(super) struct Admin {
    pub(super) adapter: Adapter,
    pub(super) process: Proxy,
}

impl Admin {
    /// Listens, if the properties say where. `stop` is what ends the Blitz.
    pub(super) async fn open(
        settings: &Settings,
        door: Weak<Door>,
        server: &ServerId,
        stop: watch::Sender<bool>,
    ) -> Result<Option<Self>, IceError> {
        if settings.admin.is_empty() {
            return Ok(None);
        }
        let servants = Arc::new(Servants::new());
        let net = settings.net.clone();
        let adapter = Adapter::bind(&settings.admin, net, servants.clone());
        let adapter = adapter.await.map_err(IceError::Bind)?;
        let identity = Identity {
            name: "admin".to_owned(),
            category: Uuid::new_v4().to_string(),
        };
        let server = server.clone();
        servants.add(&identity, "Process", Arc::new(Process { server, stop }));
        servants.add(&identity, "Properties", Arc::new(Properties(door)));
        let process = Proxy {
            facet: "Process".to_owned(),
            ..adapter.proxy(identity)
        };
        Ok(Some(Self { adapter, process }))
    }
}

/// Ends the process, and writes to its output.
struct Process {
    server: ServerId,
    stop: watch::Sender<bool>,
}

impl Servant for Process {
    fn types(&self) -> &[&str] {
        &["::Ice::Process"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "shutdown" => {
                info!(server = %self.server, "asked to stop, over Ice");
                self.stop.send_replace(true);
                responder.done(|_| {})
            }
            "writeMessage" => match incoming.request.params.decode::<(&str, i32)>() {
                Ok((message, to)) => {
                    // A log that cannot be written to is nothing that whoever asks could mend.
                    let _ = match to {
                        1 => writeln!(std::io::stdout().lock(), "{message}"),
                        2 => writeln!(std::io::stderr().lock(), "{message}"),
                        _ => Ok(()),
                    };
                    responder.done(|_| {})
                }
                Err(error) => responder.malformed(&error),
            },
            _ => responder.missing(Missing::Operation),
        }
    }
}

/// Shows the properties, as they are now. Those that are secret are as if they were not set.
struct Properties(Weak<Door>);

impl Servant for Properties {
    fn types(&self) -> &[&str] {
        &["::Ice::PropertiesAdmin"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let Some(door) = self.0.upgrade() else {
            return responder.unknown(7, "the Blitz has stopped");
        };
        let asked = match incoming.target().operation {
            operation @ ("getProperty" | "getPropertiesForPrefix") => {
                let asked = incoming.request.params.decode::<&str>();
                asked.map(|asked| (operation == "getProperty", asked))
            }
            "setProperties" => {
                let reason = "a built-in Blitz takes changed properties from its node: deploy them";
                return responder.unknown(7, reason);
            }
            _ => return responder.missing(Missing::Operation),
        };
        match asked {
            Ok((true, name)) => {
                let mut value = door.properties();
                let value = value.remove(name).filter(|_| !is_hidden(name));
                responder.done(|writer| value.unwrap_or_default().encode(writer))
            }
            Ok((false, prefix)) => {
                let mut all = door.properties();
                all.retain(|name, _| name.starts_with(prefix) && !is_hidden(name));
                responder.done(|writer| all.encode(writer))
            }
            Err(error) => responder.malformed(&error),
        }
    }
}
