//! What goes wrong, in the words that icegridadmin has for it.

use crate::descriptor::Diagnostics;
use crate::ice::ParseError;
use crate::icegrid::client::{Fault, Raised};
use crate::telemetry::chain;

/// Why a command failed: what is printed behind `error: `.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CommandError(pub(super) String);

impl CommandError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<Fault> for CommandError {
    fn from(fault: Fault) -> Self {
        Self(match fault {
            Fault::Raised(raised) => words(raised),
            fault => format!("couldn't reach the IceGrid registry:\n{}", chain(&fault)),
        })
    }
}

impl From<Diagnostics> for CommandError {
    fn from(diagnostics: Diagnostics) -> Self {
        let errors = diagnostics.errors().map(ToString::to_string);
        Self(errors.collect::<Vec<_>>().join("\n"))
    }
}

impl From<ParseError> for CommandError {
    fn from(error: ParseError) -> Self {
        Self(format!("couldn't reach the IceGrid registry:\n{error}"))
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

fn words(raised: Raised) -> String {
    let not_found =
        |what: &str, name: &dyn std::fmt::Display| format!("couldn't find {what} `{name}'");
    match raised {
        Raised::ApplicationNotExist(name) => not_found("application", &name),
        Raised::ServerNotExist(id) => not_found("server", &id),
        Raised::AdapterNotExist(id) => not_found("adapter", &id),
        Raised::NodeNotExist(name) => not_found("node", &name),
        Raised::RegistryNotExist(name) => not_found("registry", &name),
        Raised::ObjectNotRegistered(id) => not_found("object", &id),
        Raised::ObjectExists(id) => format!("object `{id}' already exists"),
        Raised::Deployment(reason) => format!("::IceGrid::DeploymentException:\n{reason}"),
        Raised::BadSignal(reason) => reason,
        Raised::AccessDenied(user) => {
            format!("couldn't update the deployment:\nthe registry is locked by `{user}'")
        }
        Raised::PermissionDenied(reason) => format!("permission denied:\n{reason}"),
        Raised::FileNotAvailable(reason) => format!("couldn't access file:\n{reason}"),
        Raised::Patch(reasons) => format!("patch failed:\n{}", reasons.join("\n")),
        Raised::ServerStart { reason, .. } => {
            format!("the server didn't start successfully:\n{reason}")
        }
        Raised::ServerStop { reason, .. } => {
            format!("the server didn't stop successfully:\n{reason}")
        }
        Raised::NodeUnreachable { name, reason } => {
            format!("node `{name}' couldn't be reached:\n{reason}")
        }
        Raised::ServerUnreachable { name, reason } => {
            format!("server `{name}' couldn't be reached:\n{reason}")
        }
        Raised::RegistryUnreachable { name, reason } => {
            format!("registry `{name}' couldn't be reached:\n{reason}")
        }
        Raised::Other(id) => id,
    }
}
