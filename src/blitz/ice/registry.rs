//! The registry as this Blitz knows it now: where it is, and who calls through it.

use std::time::Duration;

use super::settings::Settings;
use crate::ice::net::{Answer, Call, Client, ClientSettings, InvokeError};
use crate::ice::{Identity, Proxy};

/// How long calls of others may take that say nothing else.
const LIMIT: Duration = Duration::from_secs(30);

/// A registry: another one takes its place when it listens elsewhere.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) locator: Proxy,
    pub(super) client: Client,
}

impl Registry {
    pub(super) fn new(settings: &Settings) -> Self {
        let client = Client::new(ClientSettings {
            connections: settings.net.clone(),
            locator: Some(settings.locator.clone()),
            // Others come and go, and are asked rarely.
            located: Some(Duration::ZERO),
            limit: Some(LIMIT),
            ..ClientSettings::default()
        });
        Self {
            locator: settings.locator.clone(),
            client,
        }
    }

    /// Returns an object that is where the locator is.
    pub(super) fn object(&self, name: &str, category: &str) -> Proxy {
        Proxy {
            identity: Identity {
                name: name.to_owned(),
                category: category.to_owned(),
            },
            ..self.locator.clone()
        }
    }

    /// Calls something.
    pub(super) async fn call(
        &self,
        proxy: &Proxy,
        call: &Call,
        limit: Option<Duration>,
    ) -> Result<Answer, InvokeError> {
        self.client.invoke(proxy, call, limit).await
    }
}
