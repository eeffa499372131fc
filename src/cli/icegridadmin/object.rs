//! `object …` and `adapter …`: what can be reached, and where.

use super::fault::CommandError;
use super::output::Output;
use super::run::{Console, Result, list};
use crate::ice::{Identity, Mode, Proxy};
use crate::icegrid::client::{Admin, Fault};
use crate::icegrid::types::*;

/// Writes a proxy, and no proxy, as icegridadmin does.
fn text(proxy: Option<&Proxy>) -> String {
    proxy.map_or_else(String::new, ToString::to_string)
}

pub(super) async fn list_adapters(admin: &Admin, console: &mut Console<'_>) -> Result<()> {
    let ids: Vec<String> = admin
        .call("getAllAdapterIds", Mode::Nonmutating, ())
        .await?;
    list(console, ids)
}

pub(super) async fn endpoints(admin: &Admin, console: &mut Console<'_>, id: &str) -> Result<()> {
    let infos: Vec<AdapterInfo> = admin
        .call("getAdapterInfo", Mode::Nonmutating, (id,))
        .await?;
    let endpoints = |info: &AdapterInfo| match &info.proxy {
        Some(proxy) => proxy.to_string(),
        None => "<inactive>".to_owned(),
    };
    let lines = infos.iter().map(|info| match info.id == id {
        true => endpoints(info),
        false => format!("{}: {}", info.id, endpoints(info)),
    });
    list(console, lines)
}

pub(super) async fn remove_adapter(admin: &Admin, id: &str) -> Result<()> {
    Ok(admin.call("removeAdapter", Mode::Normal, (id,)).await?)
}

pub(super) async fn add(admin: &Admin, proxy: &str, class: Option<&str>) -> Result<()> {
    let proxy: Proxy = proxy.parse()?;
    let done: std::result::Result<(), Fault> = match class {
        Some(class) => {
            let params = (Some(proxy), class);
            admin.call("addObjectWithType", Mode::Normal, params).await
        }
        None => admin.call("addObject", Mode::Normal, (Some(proxy),)).await,
    };
    Ok(done?)
}

pub(super) async fn remove(admin: &Admin, identity: &str) -> Result<()> {
    let identity: Identity = identity.parse()?;
    Ok(admin
        .call("removeObject", Mode::Normal, (identity,))
        .await?)
}

pub(super) async fn find(admin: &Admin, console: &mut Console<'_>, class: &str) -> Result<()> {
    let found: Vec<ObjectInfo> = admin
        .call("getObjectInfosByType", Mode::Nonmutating, (class,))
        .await?;
    list(console, found.iter().map(|info| text(info.proxy.as_ref())))
}

/// Finds the objects that an expression means; `None` for one identity.
async fn all(admin: &Admin, expression: &str) -> Result<Vec<ObjectInfo>> {
    Ok(admin
        .call("getAllObjectInfos", Mode::Nonmutating, (expression,))
        .await?)
}

pub(super) async fn describe(
    admin: &Admin,
    console: &mut Console<'_>,
    expression: Option<&str>,
) -> Result<()> {
    if let Some(identity) = expression.filter(|e| !e.is_empty() && !e.contains('*')) {
        let identity: Identity = identity.parse()?;
        let info: ObjectInfo = admin
            .call("getObjectInfo", Mode::Nonmutating, (identity,))
            .await?;
        let mut out = Output::default();
        out.value("proxy", &text(info.proxy.as_ref()));
        out.value("type", &info.class);
        return console.print(&out.end());
    }
    let found = all(admin, expression.unwrap_or_default()).await?;
    let lines = found.iter().map(|info| {
        format!(
            "proxy = `{}' type = `{}'",
            text(info.proxy.as_ref()),
            info.class
        )
    });
    list(console, lines)
}

pub(super) async fn list_all(
    admin: &Admin,
    console: &mut Console<'_>,
    expression: Option<&str>,
) -> Result<()> {
    let found = all(admin, expression.unwrap_or_default()).await?;
    let identity = |info: &ObjectInfo| info.proxy.as_ref().map(|proxy| proxy.identity.to_string());
    list(console, found.iter().filter_map(identity))
}

impl CommandError {
    /// What is said where something is not among what was described.
    pub(super) fn no_template(kind: &str, id: &str) -> Self {
        Self::new(format!("no {kind} template with id `{id}'"))
    }
}
