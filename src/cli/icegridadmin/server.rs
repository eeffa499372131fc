//! `server …`: servers, and what they say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::describe;
use super::fault::CommandError;
use super::output::Output;
use super::run::{Console, Result, admin_facet, list};
use crate::ice::{Mode, Objects, Proxy};
use crate::icegrid::client::{Admin, Fault};
use crate::icegrid::types::*;

/// Fetches a server as it is deployed.
pub(super) async fn info(admin: &Admin, id: &str) -> Result<(ServerInfo, Objects)> {
    Ok(admin
        .call_for_classes("getServerInfo", Mode::Nonmutating, (id,), DESCRIPTORS)
        .await?)
}

/// Returns the object through which a server can be asked and told things.
pub(super) async fn admin_of(admin: &Admin, id: &str) -> Result<Proxy> {
    let proxy: Option<Proxy> = admin
        .call("getServerAdmin", Mode::Idempotent, (id,))
        .await?;
    Ok(proxy.ok_or(Fault::Nil("getServerAdmin"))?)
}

/// What is said where a server does not answer.
pub(super) fn unreached(fault: Fault) -> CommandError {
    match fault {
        Fault::Missing { .. } => CommandError::new("couldn't reach the server's Admin object"),
        Fault::Unknown(text) => {
            CommandError::new(format!("couldn't reach the server's Admin object:\n{text}"))
        }
        fault => fault.into(),
    }
}

pub(super) async fn list_all(admin: &Admin, console: &mut Console<'_>) -> Result<()> {
    let ids: Vec<String> = admin.call("getAllServerIds", Mode::Nonmutating, ()).await?;
    list(console, ids)
}

pub(super) async fn describe(admin: &Admin, console: &mut Console<'_>, id: &str) -> Result<()> {
    let (info, objects) = info(admin, id).await?;
    let mut out = Output::default();
    describe::server(&mut out, info.descriptor, Some(&info), &objects);
    console.print(&out.end())
}

pub(super) async fn remove(admin: &Admin, id: &str) -> Result<()> {
    let (info, _) = info(admin, id).await?;
    let update = ApplicationUpdateDescriptor {
        name: info.application,
        nodes: vec![NodeUpdateDescriptor {
            name: info.node,
            remove_servers: vec![id.to_owned()],
            ..NodeUpdateDescriptor::default()
        }],
        ..ApplicationUpdateDescriptor::default()
    };
    let objects = Arc::new(Objects::default());
    Ok(admin
        .call_with_classes("updateApplication", &update, &objects)
        .await?)
}

pub(super) async fn state(admin: &Admin, console: &mut Console<'_>, id: &str) -> Result<()> {
    let state: ServerState = admin
        .call("getServerState", Mode::Nonmutating, (id,))
        .await?;
    let enabled: bool = admin
        .call("isServerEnabled", Mode::Nonmutating, (id,))
        .await?;
    let enabled = if enabled { "enabled" } else { "disabled" };
    let word = match state {
        ServerState::Inactive => "inactive",
        ServerState::Activating => "activating",
        ServerState::ActivationTimedOut => "activation timed out",
        ServerState::Active => {
            let pid: i32 = admin.call("getServerPid", Mode::Nonmutating, (id,)).await?;
            return console.print(&format!("active (pid = {pid}, {enabled})\n"));
        }
        ServerState::Deactivating => "deactivating",
        ServerState::Destroying => "destroying",
        ServerState::Destroyed => "destroyed",
    };
    console.print(&format!("{word} ({enabled})\n"))
}

pub(super) async fn pid(admin: &Admin, console: &mut Console<'_>, id: &str) -> Result<()> {
    match admin.call("getServerPid", Mode::Nonmutating, (id,)).await? {
        0_i32 => Err(CommandError::new("server is not running")),
        pid => console.print(&format!("{pid}\n")),
    }
}

pub(super) async fn signal(admin: &Admin, id: &str, signal: &str) -> Result<()> {
    Ok(admin.call("sendSignal", Mode::Normal, (id, signal)).await?)
}

pub(super) async fn enable(admin: &Admin, id: &str, enabled: bool) -> Result<()> {
    Ok(admin
        .call("enableServer", Mode::Idempotent, (id, enabled))
        .await?)
}

/// Makes a server write a message: to its standard output (1), or error (2).
pub(super) async fn write(admin: &Admin, id: &str, message: &str, fd: i32) -> Result<()> {
    let process = admin_facet(&admin_of(admin, id).await?, "Process");
    admin
        .call_of(&process, "writeMessage", Mode::Normal, (message, fd))
        .await
        .map_err(unreached)
}

/// Prints the properties that an object of this facet has.
pub(super) async fn properties(admin: &Admin, console: &mut Console<'_>, of: &Proxy) -> Result<()> {
    let properties: BTreeMap<String, String> = admin
        .call_of(of, "getPropertiesForPrefix", Mode::Normal, ("",))
        .await
        .map_err(unreached)?;
    let lines = properties
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    list(console, lines)
}

/// Prints one property that an object of this facet has.
pub(super) async fn property(
    admin: &Admin,
    console: &mut Console<'_>,
    of: &Proxy,
    name: &str,
) -> Result<()> {
    let value: String = admin
        .call_of(of, "getProperty", Mode::Normal, (name,))
        .await
        .map_err(unreached)?;
    console.print(&format!("{value}\n"))
}
