//! How the adapter and the process get into the registry, and the adapter out of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::answer::{proxy, results};
use super::registry::Registry;
use super::settings::Settings;
use crate::ice::net::Call;
use crate::ice::{Encode as _, Identity, Mode, Proxy, Writer};
use crate::model::ServerId;

/// How long the registry may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// How long it may take at the end, which nobody waits for gladly.
const LAST: Duration = Duration::from_secs(2);

/// The pause after the first attempt that failed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Who is registered, where, and by which name.
pub(super) struct Registered<'a> {
    pub(super) server: &'a ServerId,
    pub(super) settings: &'a Settings,
    /// Where the adapter listens.
    pub(super) at: Proxy,
    /// Where the process can be asked to end, if it can.
    pub(super) process: Option<Proxy>,
}

/// Registers as soon as the registry answers, and again with each other registry; takes the adapter out of it when `stop` becomes true.
pub(super) async fn keep(
    of: &Registered<'_>,
    mut registries: watch::Receiver<Arc<Registry>>,
    mut stop: watch::Receiver<bool>,
) {
    let Registered {
        server, settings, ..
    } = of;
    let mut pause = FIRST_PAUSE;
    loop {
        let registry = registries.borrow_and_update().clone();
        let told = tokio::select! {
            // What is cut off here may have been heard all the same: it is taken back below.
            told = within(LIMIT, of.register(&registry)) => told,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let pausing = match told {
            Ok(()) => {
                info!(%server, adapter = ?settings.adapter, locator = %registry.locator, "registered with the registry");
                None
            }
            Err(reason) => {
                if pause == FIRST_PAUSE {
                    warn!(%server, adapter = ?settings.adapter, ?reason, "cannot register with the registry yet; goes on trying");
                } else {
                    debug!(%server, adapter = ?settings.adapter, ?reason, "cannot register");
                }
                Some(pause)
            }
        };
        let pausing = async {
            match pausing {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Cancel safe: sleeping loses nothing, and watches only read. An error means that the sender is gone: stop too.
            () = pausing => pause = (pause * 2).min(MAX_PAUSE),
            Ok(()) = registries.changed() => pause = FIRST_PAUSE,
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    let registry = registries.borrow().clone();
    let withdrawn = within(LAST, of.set_adapter(&registry, None)).await;
    if let Err(reason) = withdrawn {
        debug!(%server, adapter = ?settings.adapter, ?reason, "the registry was not told of the end");
    }
}

async fn within(
    limit: Duration,
    telling: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    match tokio::time::timeout(limit, telling).await {
        Ok(told) => told,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

impl Registered<'_> {
    /// Tells the registry where the process and its adapter are, the process first, as Ice servers do.
    async fn register(&self, registry: &Registry) -> Result<(), String> {
        if let Some(process) = &self.process {
            tell(registry, "setServerProcessProxy", |writer| {
                writer.text(self.server.as_str());
                Some(process.clone()).encode(writer);
            })
            .await?;
        }
        let dummy = Proxy {
            identity: Identity::new("dummy"),
            ..self.at.clone()
        };
        self.set_adapter(registry, Some(dummy)).await
    }

    /// Tells the registry where the adapter listens, or that it does no more.
    async fn set_adapter(&self, registry: &Registry, at: Option<Proxy>) -> Result<(), String> {
        let Settings { adapter, group, .. } = self.settings;
        if adapter.is_empty() {
            return Ok(());
        }
        let operation = match group.as_str() {
            "" => "setAdapterDirectProxy",
            _ => "setReplicatedAdapterDirectProxy",
        };
        tell(registry, operation, |writer| {
            writer.text(adapter);
            if !group.is_empty() {
                writer.text(group);
            }
            at.encode(writer);
        })
        .await
    }
}

/// Tells the registry something.
async fn tell(
    registry: &Registry,
    operation: &str,
    fill: impl FnOnce(&mut Writer),
) -> Result<(), String> {
    let locator = &registry.locator;
    let call = Call::new(locator, "getRegistry", Mode::Nonmutating);
    let answer = registry.call(locator, &call, None).await;
    let told = proxy(&answer.map_err(|error| error.to_string())?)?;
    let call = Call::new(&told, operation, Mode::Idempotent).with(fill);
    let answer = registry.call(&told, &call, None).await;
    results::<()>(&answer.map_err(|error| error.to_string())?)
}
