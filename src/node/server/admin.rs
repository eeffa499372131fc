//! Asking a server's process over Ice: its admin object, facet by facet.

use std::time::Duration;

use crate::ice::net::{Answer, Call, Client, ClientSettings, InvokeError};
use crate::ice::{Mode, ParseError, Proxy};

/// How long a process may take to say that it has heard.
const PATIENCE: Duration = Duration::from_secs(2);

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
    const OPERATION: &str = "shutdown";
    let proxy: Proxy = process
        .parse()
        .map_err(|error| AdminError::Proxy(process, error))?;
    let call = Call::new(&proxy, OPERATION, Mode::Normal);
    let answer = client
        .invoke(&proxy, &call, None)
        .await
        .map_err(|source| AdminError::Call {
            operation: OPERATION,
            source,
        })?;
    let answer = match answer {
        Answer::Done { .. } => return Ok(()),
        Answer::Exception { .. } => "an exception".to_owned(),
        Answer::Missing { what, .. } => format!("'there is no such {what:?}'").to_lowercase(),
        Answer::Unknown(_, reason) => format!("{reason:?}"),
    };
    Err(AdminError::Refused {
        operation: OPERATION,
        answer,
    })
}
