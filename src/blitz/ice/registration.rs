//! How the adapter gets into the registry, and out of it.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::answer::{proxy, results};
use super::settings::Settings;
use crate::ice::net::{Call, Client};
use crate::ice::{Encode as _, Identity, Mode, Proxy};
use crate::model::ServerId;

/// How long the registry may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// How long it may take at the end, which nobody waits for gladly.
const LAST: Duration = Duration::from_secs(2);

/// The pause after the first attempt that failed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Registers the adapter, as soon as the registry answers, and takes it out of the registry when `stop` becomes true.
pub(super) async fn keep(
    server: &ServerId,
    settings: &Settings,
    client: &Client,
    at: Proxy,
    mut stop: watch::Receiver<bool>,
) {
    let dummy = Proxy {
        identity: Identity::new("dummy"),
        ..at
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = tell(settings, client, Some(dummy.clone()), LIMIT);
        let told = tokio::select! {
            // What is cut off here may have been heard all the same: it is taken back below.
            told = attempt => told,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match told {
            Ok(()) => {
                info!(%server, adapter = ?settings.adapter, "registered with the registry");
                // An error means that the sender is gone: stop too.
                let _ = stop.wait_for(|stop| *stop).await;
                break;
            }
            Err(reason) if pause == FIRST_PAUSE => {
                warn!(%server, adapter = ?settings.adapter, ?reason, "cannot register with the registry yet; goes on trying");
            }
            Err(reason) => debug!(%server, adapter = ?settings.adapter, ?reason, "cannot register"),
        }
        tokio::select! {
            // Cancel safe: sleeping loses nothing, and `wait_for` only reads.
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
    if let Err(reason) = tell(settings, client, None, LAST).await {
        debug!(%server, adapter = ?settings.adapter, ?reason, "the registry was not told of the end");
    }
}

/// Tells the registry where the adapter listens, or that it does no more.
async fn tell(
    settings: &Settings,
    client: &Client,
    at: Option<Proxy>,
    limit: Duration,
) -> Result<(), String> {
    let telling = async {
        let locator = &settings.locator;
        let call = Call::new(locator, "getRegistry", Mode::Nonmutating);
        let answer = client.invoke(locator, &call, None).await;
        let registry = proxy(&answer.map_err(|error| error.to_string())?)?;
        let (id, group) = (&settings.adapter, &settings.group);
        let call = match group.as_str() {
            "" => Call::new(&registry, "setAdapterDirectProxy", Mode::Idempotent).with(|writer| {
                writer.text(id);
                at.encode(writer);
            }),
            group => {
                let operation = "setReplicatedAdapterDirectProxy";
                Call::new(&registry, operation, Mode::Idempotent).with(|writer| {
                    writer.text(id);
                    writer.text(group);
                    at.encode(writer);
                })
            }
        };
        let answer = client.invoke(&registry, &call, None).await;
        results::<()>(&answer.map_err(|error| error.to_string())?)
    };
    match tokio::time::timeout(limit, telling).await {
        Ok(told) => told,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}
