//! Asking a server's process over Ice: its admin object, facet by facet.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ice::net::{Answer, Call, Client, ClientSettings, InvokeError};
use crate::ice::{Encode as _, Mode, ParseError, Proxy};

/// How long a process may take to say that it has heard.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a process may take to take up properties: it may do so at once, in what it runs for that.
const TAKE_UP: Duration = Duration::from_secs(30);

/// A process that was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// What it registered is no proxy.
    #[error("cannot read '{0}', where its process is to be asked")]
    Proxy(String, #[source] ParseError),
    /// It cannot be reached, or does not answer.
    #[error("cannot call '{operation}' of its process")]
    Call {
        /// What it was asked.
        operation: &'static str,
        /// What went wrong.
        #[source]
        source: InvokeError,
    },
    /// It answers that it does not do that.
    #[error("its process answers '{operation}' with {answer}")]
    Refused {
        /// What it was asked.
        operation: &'static str,
        /// What it said, for people.
        answer: String,
    },
}

/// Returns what calls processes. Connections are made when they are needed; what is no Ice is given up soon.
pub(crate) fn client() -> Client {
    Client::new(ClientSettings {
        limit: Some(PATIENCE),
        ..ClientSettings::default()
    })
}

/// Asks a process to end (`Ice::Process`, `shutdown`); returns once it has heard that.
pub(crate) async fn shutdown(client: Client, process: String) -> Result<(), AdminError> {
    let proxy = parse(process)?;
    let call = Call::new(&proxy, "shutdown", Mode::Normal);
    done("shutdown", client.invoke(&proxy, &call, None).await)
}

/// Has a process take up other values of its properties (`Ice::PropertiesAdmin`, `setProperties`), or those of one of its services; returns
/// once it has. An empty value takes a property away.
pub(crate) async fn set_properties(
    client: &Client,
    process: String,
    service: Option<&str>,
    values: &BTreeMap<String, String>,
) -> Result<(), AdminError> {
    let mut proxy = parse(process)?;
    proxy.facet = match service {
        None => "Properties".to_owned(),
        Some(service) => format!("IceBox.Service.{service}.Properties"),
    };
    let call = Call::new(&proxy, "setProperties", Mode::Normal);
    let call = call.with(|writer| values.encode(writer));
    done(
        "setProperties",
        client.invoke(&proxy, &call, Some(TAKE_UP)).await,
    )
}

fn parse(process: String) -> Result<Proxy, AdminError> {
    let proxy = process.parse();
    proxy.map_err(|error| AdminError::Proxy(process, error))
}

fn done(operation: &'static str, answer: Result<Answer, InvokeError>) -> Result<(), AdminError> {
    let answer = answer.map_err(|source| AdminError::Call { operation, source })?;
    let answer = match answer {
        Answer::Done { .. } => return Ok(()),
        Answer::Exception { .. } => "an exception".to_owned(),
        Answer::Missing { what, .. } => format!("'there is no such {what:?}'").to_lowercase(),
        Answer::Unknown(_, reason) => format!("{reason:?}"),
    };
    Err(AdminError::Refused { operation, answer })
}
