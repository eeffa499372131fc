//! `IceGrid::Admin`: the grid as administrators see it, and what they do to it.
//!
//! Every operation is a look at the master's status, or one of its commands. Applications are in `applications`.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::applications;
use super::face::{Grid, Own};
use super::operation::{Outcome, Raised, failed, later, now, params};
use super::relay;
use super::session::REPLICA;
use super::types::{
    AdapterInfo, AdapterNotExistException, BadSignalException, DeploymentException, LoadInfo,
    NodeInfo, NodeNotExistException, NodeUnreachableException, ObjectExistsException, ObjectInfo,
    ObjectNotRegisteredException, RegistryInfo, RegistryNotExistException, ServerNotExistException,
    ServerStartException, ServerState, ServerStopException, Texts,
};
use crate::descriptor::Deployment;
use crate::ice::net::{Answer, Call, Incoming, Responder, Servant, Served};
use crate::ice::{Encapsulation, Identity, Missing, Mode, Proxy};
use crate::ipc::message::client::{NodeStatus, ServerAction};
use crate::ipc::message::node::{Action, ServerReport};
use crate::ipc::{Refusal, RefusalKind};
use crate::master::Object;
use crate::model::{self, Activation, NodeName, NodeState, ServerId};
use crate::sys::host::{Host, Load};

/// How long a server may take to start or stop; its own time limits are shorter.
const ACT: Duration = Duration::from_secs(3600);

/// How long an object may take to say of which type it is.
const ASK: Duration = Duration::from_secs(10);

/// The servant of an administrator.
pub(super) struct Admin {
    pub(super) grid: Arc<Grid>,
    pub(super) user: String,
    pub(super) session: String,
}

/// Takes one text, and what to do with it.
macro_rules! with_text {
    ($incoming:ident, $responder:ident, $grid:expr, |$own:ident, $text:ident| $work:expr) => {
        match params::<String>($incoming) {
            Err(raised) => now::<()>($responder, Err(raised)),
            Ok($text) => {
                let $own = $grid.clone();
                later($responder, async move { $work })
            }
        }
    };
}

impl Servant for Admin {
    fn types(&self) -> &[&str] {
        &["::IceGrid::Admin"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            operation if operation.contains("Server") => {
                self.of_servers(operation, incoming, responder)
            }
            operation if operation.contains("Adapter") => {
                self.of_adapters(operation, incoming, responder)
            }
            operation if operation.contains("Object") => {
                self.of_objects(operation, incoming, responder)
            }
            operation if operation.contains("Node") => {
                self.of_nodes(operation, incoming, responder)
            }
            operation if operation.contains("Registry") || operation.contains("Registries") => {
                self.of_registries(operation, incoming, responder)
            }
            operation if operation.contains("Application") => {
                applications::dispatch(self, operation, incoming, responder)
            }
            "sendSignal" => self.signal(incoming, responder),
            "shutdown" => {
                let grid = self.grid.clone();
                later(responder, async move { stop_grid(&grid).await })
            }
            // Nothing that is asked here depends on them.
            "getSliceChecksums" => now(responder, Ok(Texts::new())),
            _ => responder.missing(Missing::Operation),
        }
    }
}

fn uid() -> u32 {
    geteuid().as_raw()
}

/// Returns what is said of a server.
fn report(grid: &Grid, id: &str) -> Outcome<ServerReport> {
    let server: Option<ServerId> = id.parse().ok();
    let report = server.and_then(|server| grid.handle.report(&server));
    report.ok_or_else(|| ServerNotExistException { id: id.to_owned() }.into())
}

/// Returns how a server is whose node answers.
fn reached(grid: &Grid, id: &str) -> Outcome<ServerReport> {
    let report = report(grid, id)?;
    let status = grid.handle.status();
    let runs = |node: &&NodeStatus| node.servers.iter().any(|other| other.id == report.id);
    match status.nodes.iter().find(runs) {
        Some(node) if node.state != NodeState::Up && node.state != NodeState::Starting => {
            Err(unreachable_node(&node.name, "the node is not active"))
        }
        _ => Ok(report),
    }
}

fn unreachable_node(name: &NodeName, reason: impl Into<String>) -> Raised {
    NodeUnreachableException {
        name: name.to_string(),
        reason: reason.into(),
    }
    .into()
}

pub(super) fn state(state: model::ServerState) -> ServerState {
    match state {
        model::ServerState::Inactive => ServerState::Inactive,
        model::ServerState::Activating => ServerState::Activating,
        model::ServerState::ActivationTimedOut => ServerState::ActivationTimedOut,
        model::ServerState::Active => ServerState::Active,
        model::ServerState::Deactivating => ServerState::Deactivating,
        model::ServerState::Destroying => ServerState::Destroying,
        model::ServerState::Destroyed => ServerState::Destroyed,
    }
}

pub(super) fn pid(report: &ServerReport) -> i32 {
    let pid = report.pid.and_then(|pid| i32::try_from(pid).ok());
    pid.unwrap_or(0)
}

pub(super) async fn stop_grid(grid: &Grid) -> Outcome<()> {
    let stopped = grid.handle.stop(uid()).await;
    stopped.map_err(failed)
}

// Servers.

impl Admin {
    fn of_servers(
        &self,
        operation: &str,
        incoming: &Incoming<'_>,
        responder: Responder<'_>,
    ) -> Served {
        let grid = &self.grid;
        match operation {
            "getAllServerIds" => {
                let status = grid.handle.status();
                let servers = status.nodes.iter().flat_map(|node| &node.servers);
                let mut ids: Vec<String> = servers.map(|report| report.id.to_string()).collect();
                ids.sort();
                now(responder, Ok(ids))
            }
            "getServerState" => now(
                responder,
                params::<&str>(incoming).and_then(|id| Ok(state(reached(grid, id)?.state))),
            ),
            "getServerPid" => now(
                responder,
                params::<&str>(incoming).and_then(|id| Ok(pid(&reached(grid, id)?))),
            ),
            "isServerEnabled" => now(
                responder,
                params::<&str>(incoming).and_then(|id| Ok(reached(grid, id)?.enabled)),
            ),
            "getServerAdminCategory" => now(responder, Ok(relay::category(grid, relay::SERVERS))),
            "getServerAdmin" => now(
                responder,
                params::<&str>(incoming).and_then(|id| {
                    report(grid, id)?;
                    Ok(Some(relay::proxy(grid, relay::SERVERS, id)))
                }),
            ),
            "enableServer" => match params::<(String, bool)>(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok((id, enabled)) => {
                    let grid = grid.clone();
                    later(responder, async move { enable(&grid, &id, enabled).await })
                }
            },
            "startServer" => {
                with_text!(incoming, responder, grid, |grid, id| start(&grid, id).await)
            }
            "stopServer" => with_text!(incoming, responder, grid, |grid, id| stop(&grid, id).await),
            "patchServer" => now(
                responder,
                // There is nothing to distribute: its files are where they are.
                params::<(&str, bool)>(incoming).and_then(|(id, _)| report(grid, id).map(drop)),
            ),
            "getServerInfo" | "instantiateServer" => {
                applications::dispatch(self, operation, incoming, responder)
            }
            _ => responder.missing(Missing::Operation),
        }
    }

    fn signal(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let (id, name) = match params::<(String, String)>(incoming) {
            Ok(asked) => asked,
            Err(raised) => return now::<()>(responder, Err(raised)),
        };
        let grid = self.grid.clone();
        later(responder, async move {
            let report = reached(&grid, &id)?;
            let number = match name.parse::<i32>() {
                Ok(number) => Signal::try_from(number).ok(),
                Err(_) => name.parse::<Signal>().ok(),
            };
            let Some(signal) = number else {
                let reason = format!("unknown signal `{name}'");
                return Err(BadSignalException { reason }.into());
            };
            let action = ServerAction::Act {
                action: Action::Signal {
                    signal: signal as i32,
                },
            };
            let sent = grid.handle.act(&report.id, action, ACT, uid()).await;
            sent.map_err(|refusal| {
                BadSignalException {
                    reason: refusal.to_string(),
                }
                .into()
            })
        })
    }
}

async fn enable(grid: &Grid, id: &str, enabled: bool) -> Outcome<()> {
    let report = report(grid, id)?;
    let action = match enabled {
        true => ServerAction::Enable,
        false => ServerAction::Disable,
    };
    let done = grid.handle.act(&report.id, action, ACT, uid()).await;
    done.map_err(failed)
}

async fn start(grid: &Grid, id: String) -> Outcome<()> {
    let report = reached(grid, &id)?;
    let fails = |reason: String| {
        Err(ServerStartException {
            id: id.clone(),
            reason,
        }
        .into())
    };
    if !report.enabled {
        return fails("The server is disabled.".to_owned());
    }
    if report.state == model::ServerState::Active {
        return fails("The server is already active.".to_owned());
    }
    if report.activation == Activation::Session && !grid.sessions.allocations.is_owned(&report.id) {
        return fails("The server is not owned by a session.".to_owned());
    }
    let action = ServerAction::Act {
        action: Action::Start,
    };
    match grid.handle.act(&report.id, action, ACT, uid()).await {
        Ok(()) => Ok(()),
        Err(refusal) if refusal.kind == RefusalKind::TimedOut => {
            fails("The server activation timed out.".to_owned())
        }
        Err(refusal) => fails(reason(&refusal)),
    }
}

async fn stop(grid: &Arc<Grid>, id: String) -> Outcome<()> {
    let report = reached(grid, &id)?;
    let fails = |reason: String| {
        Err(ServerStopException {
            id: id.clone(),
            reason,
        }
        .into())
    };
    let Some(pid) = report.pid else {
        return fails("The server is already inactive.".to_owned());
    };
    // What its mode starts is started again, as IceGrid does; whoever is to stay down is disabled first.
    if report.activation == Activation::Always && report.enabled {
        let server = report.id;
        let (handle, ended) = (grid.handle.clone(), server.clone());
        grid.behind(async move {
            let _ = handle.end(&ended, ACT).await;
        });
        let mut seen = 0;
        while grid
            .handle
            .report(&server)
            .is_some_and(|now| now.pid == Some(pid))
        {
            (seen, _) = grid.handle.changed(seen).await;
        }
        return Ok(());
    }
    let action = ServerAction::Act {
        action: Action::Stop,
    };
    match grid.handle.act(&report.id, action, ACT, uid()).await {
        Ok(()) => Ok(()),
        Err(refusal) => fails(reason(&refusal)),
    }
}

/// Says why somebody refused, with what to do about it.
fn reason(refusal: &Refusal) -> String {
    refusal.to_string()
}

// Adapters.

impl Admin {
    fn of_adapters(
        &self,
        operation: &str,
        incoming: &Incoming<'_>,
        responder: Responder<'_>,
    ) -> Served {
        let grid = &self.grid;
        match operation {
            "getAllAdapterIds" => {
                let registry = grid.handle.registry();
                let ids = registry.adapters().map(|(id, _)| id);
                let mut ids: Vec<String> =
                    ids.chain(registry.groups()).map(str::to_owned).collect();
                ids.sort();
                drop(registry);
                now(responder, Ok(ids))
            }
            "getAdapterInfo" => now(
                responder,
                params::<&str>(incoming).and_then(|id| adapter_info(grid, id)),
            ),
            "removeAdapter" => with_text!(incoming, responder, grid, |grid, id| remove_adapter(
                &grid, id
            )
            .await),
            _ => responder.missing(Missing::Operation),
        }
    }
}

fn adapter_info(grid: &Grid, id: &str) -> Outcome<Vec<AdapterInfo>> {
    let registry = grid.handle.registry();
    let info = |id: &str| {
        registry.adapter(id).map(|adapter| AdapterInfo {
            id: id.to_owned(),
            proxy: adapter.proxy.clone(),
            replica_group_id: adapter.group.clone(),
        })
    };
    if let Some(info) = info(id) {
        return Ok(vec![info]);
    }
    let group = registry.group(id);
    let group = group.ok_or_else(|| AdapterNotExistException { id: id.to_owned() })?;
    Ok(group.members.iter().filter_map(|id| info(id)).collect())
}

async fn remove_adapter(grid: &Grid, id: String) -> Outcome<()> {
    let deployed = {
        let registry = grid.handle.registry();
        match (registry.adapter(&id), registry.group(&id)) {
            (Some(adapter), _) => adapter.server.is_some(),
            (None, Some(_)) => true,
            (None, None) => return Err(AdapterNotExistException { id }.into()),
        }
    };
    if deployed {
        let application = application_with(grid, |all| all.adapters.contains_key(&id)).await?;
        let reason = format!(
            "removing adapter `{id}' is not allowed:\nthe adapter was added with the application descriptor `{application}'"
        );
        return Err(DeploymentException { reason }.into());
    }
    let removed = grid.handle.set_adapter(&id, None).await;
    removed.map_err(failed)
}

/// Returns the name of the application in which something is deployed; nothing where it comes with no application.
async fn application_with(grid: &Grid, has: impl Fn(&Deployment) -> bool) -> Outcome<String> {
    let all = grid.handle.applications().await.map_err(failed)?;
    let mut deployments = all.into_iter().map(|deployed| deployed.deployment);
    let found = deployments.find(has);
    Ok(found.map_or_else(String::new, |found| found.application))
}

async fn application_with_object(grid: &Grid, id: &Identity) -> Outcome<String> {
    let id = id.to_string();
    application_with(grid, |all| all.objects.contains_key(&id)).await
}

// Objects.

impl Admin {
    fn of_objects(
        &self,
        operation: &str,
        incoming: &Incoming<'_>,
        responder: Responder<'_>,
    ) -> Served {
        let grid = &self.grid;
        match operation {
            "getObjectInfo" => now(
                responder,
                params::<Identity>(incoming).and_then(|id| {
                    let mut all = all_objects(grid).into_iter();
                    let found = all.find(|info| identity(info) == Some(&id));
                    found.ok_or_else(|| ObjectNotRegisteredException { id }.into())
                }),
            ),
            "getObjectInfosByType" => now(
                responder,
                params::<&str>(incoming).map(|of| {
                    let mut all = all_objects(grid);
                    all.retain(|info| info.class == of);
                    all
                }),
            ),
            "getAllObjectInfos" => now(
                responder,
                params::<&str>(incoming).map(|expression| {
                    let mut all = all_objects(grid);
                    all.retain(|info| {
                        let written = identity(info).map(ToString::to_string);
                        matches(expression, &written.unwrap_or_default())
                    });
                    all
                }),
            ),
            "addObject" | "updateObject" => match params::<Option<Proxy>>(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok(proxy) => {
                    let (grid, add) = (grid.clone(), operation == "addObject");
                    later(responder, async move {
                        match add {
                            true => add_object(&grid, proxy, None).await,
                            false => update_object(&grid, proxy).await,
                        }
                    })
                }
            },
            "addObjectWithType" => match params::<(Option<Proxy>, String)>(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok((proxy, of)) => {
                    let grid = grid.clone();
                    later(responder, async move {
                        add_object(&grid, proxy, Some(of)).await
                    })
                }
            },
            "removeObject" => match params::<Identity>(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok(id) => {
                    let grid = grid.clone();
                    later(responder, async move { remove_object(&grid, id).await })
                }
            },
            _ => responder.missing(Missing::Operation),
        }
    }
}

fn identity(info: &ObjectInfo) -> Option<&Identity> {
    info.proxy.as_ref().map(|proxy| &proxy.identity)
}

/// Returns every well-known object in the order of their identities, and then the registry's own.
fn all_objects(grid: &Grid) -> Vec<ObjectInfo> {
    objects(grid, |_| true)
}

/// Returns those that no application has: observers of objects are told of no others.
pub(super) fn added_objects(grid: &Grid) -> Vec<ObjectInfo> {
    objects(grid, |object| !object.deployed)
}

fn objects(grid: &Grid, wanted: impl Fn(&Object) -> bool) -> Vec<ObjectInfo> {
    let mut all: Vec<ObjectInfo> = {
        let registry = grid.handle.registry();
        let objects = registry.objects().filter(|(_, object)| wanted(object));
        let infos = objects.map(|(_, object)| ObjectInfo {
            proxy: Some(object.proxy.clone()),
            class: object.type_id.clone(),
        });
        infos.collect()
    };
    all.extend(grid.own_objects().into_iter().map(|own| ObjectInfo {
        class: own.type_id.to_owned(),
        proxy: Some(own.proxy),
    }));
    all
}

/// Returns whether an identity is meant: by its whole, by its beginning before a `*`, or by nothing, which means all.
fn matches(expression: &str, identity: &str) -> bool {
    match expression.strip_suffix('*') {
        Some(beginning) => identity.starts_with(beginning),
        None => expression.is_empty() || expression == identity,
    }
}

fn deployment(reason: impl Into<String>) -> Raised {
    DeploymentException {
        reason: reason.into(),
    }
    .into()
}

/// Asks an object of which type it is. Whoever waits for this answers meanwhile, so no lock is held.
async fn type_of(grid: &Grid, proxy: &Proxy) -> Outcome<String> {
    let call = Call::new(proxy, "ice_id", Mode::Nonmutating);
    let client = grid.resolver();
    let fails = |why: String| {
        deployment(format!(
            "couldn't invoke on proxy `{proxy}' to get the type id:\n{why}"
        ))
    };
    match client.invoke(proxy, &call, Some(ASK)).await {
        Ok(Answer::Done { encoding, body }) => {
            let within = Encapsulation {
                version: encoding,
                bytes: &body,
            };
            Ok(within.decode()?)
        }
        Ok(other) => Err(fails(format!("it answers {other:?}"))),
        Err(error) => Err(fails(error.to_string())),
    }
}

/// Returns whether there is a well-known object of this identity: whether it is deployed, or the registry's own.
fn known(grid: &Grid, id: &Identity) -> Option<bool> {
    let registry = grid.handle.registry();
    if let Some(object) = registry.object(id) {
        return Some(object.deployed);
    }
    let is_own = |own: &Own| own.identity == *id;
    grid.own_objects().iter().any(is_own).then_some(true)
}

async fn add_object(grid: &Grid, proxy: Option<Proxy>, of: Option<String>) -> Outcome<()> {
    let proxy = proxy.ok_or_else(|| deployment("proxy is null"))?;
    let exists = || ObjectExistsException {
        id: proxy.identity.clone(),
    };
    if known(grid, &proxy.identity).is_some() {
        return Err(exists().into());
    }
    let of = match of {
        Some(of) => of,
        None => type_of(grid, &proxy).await?,
    };
    // Somebody may have been faster while the object was asked.
    if known(grid, &proxy.identity).is_some() {
        return Err(exists().into());
    }
    set_object(grid, &proxy, Some(&of)).await
}

async fn update_object(grid: &Grid, proxy: Option<Proxy>) -> Outcome<()> {
    let proxy = proxy.ok_or_else(|| deployment("proxy is null"))?;
    let id = proxy.identity.clone();
    match known(grid, &id) {
        None => return Err(ObjectNotRegisteredException { id }.into()),
        Some(true) => {
            return Err(deployment(format!(
                "updating object `{id}' is not allowed:\nthe object was added with the application descriptor `{}'",
                application_with_object(grid, &id).await?,
            )));
        }
        Some(false) => {}
    }
    let of = type_of(grid, &proxy).await?;
    set_object(grid, &proxy, Some(&of)).await
}

async fn remove_object(grid: &Grid, id: Identity) -> Outcome<()> {
    let category = &grid.settings.instance;
    match known(grid, &id) {
        _ if id.category == *category => Err(deployment(format!(
            "removing object `{id}' is not allowed:\nobjects with identity category `{category}' are managed by IceGrid"
        ))),
        None => Err(ObjectNotRegisteredException { id }.into()),
        // IceGrid too leaves the quote open.
        Some(true) => Err(deployment(format!(
            "removing object `{id}' is not allowed:\nthe object was added with the application descriptor `{}",
            application_with_object(grid, &id).await?,
        ))),
        Some(false) => {
            let proxy = Proxy::new(id, crate::ice::Reference::WellKnown);
            set_object(grid, &proxy, None).await
        }
    }
}

async fn set_object(grid: &Grid, proxy: &Proxy, of: Option<&str>) -> Outcome<()> {
    let mut registered = grid.handle.registered();
    let set = grid.handle.set_object(proxy, of, uid()).await;
    set.map_err(|refusal| deployment(refusal.to_string()))?;
    let holds = || {
        let registry = grid.handle.registry();
        registry.object(&proxy.identity).is_some() == of.is_some()
    };
    // Cancel safe: a watch loses nothing.
    let waited = async { while !holds() && registered.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(ASK, waited).await;
    grid.told().await;
    Ok(())
}

// Nodes.

impl Admin {
    fn of_nodes(
        &self,
        operation: &str,
        incoming: &Incoming<'_>,
        responder: Responder<'_>,
    ) -> Served {
        let grid = &self.grid;
        match operation {
            "getAllNodeNames" => {
                let status = grid.handle.status();
                let names = status.nodes.iter().map(|node| node.name.to_string());
                now(responder, Ok(names.collect::<Vec<_>>()))
            }
            "pingNode" => now(
                responder,
                params::<&str>(incoming)
                    .and_then(|name| Ok(node(grid, name)?.state == NodeState::Up)),
            ),
            "getNodeInfo" => now(
                responder,
                params::<&str>(incoming).and_then(|name| Ok(node_info(grid, &up(grid, name)?))),
            ),
            "getNodeHostname" => now(
                responder,
                params::<&str>(incoming).and_then(|name| Ok(up(grid, name)?.hostname)),
            ),
            "getNodeProcessorSocketCount" => now(
                responder,
                params::<&str>(incoming).and_then(|name| {
                    up(grid, name)?;
                    Ok(crate::sys::host::sockets())
                }),
            ),
            "getNodeLoad" => with_text!(incoming, responder, grid, |grid, name| load(&grid, &name)
                .await),
            "getNodeAdmin" => now(
                responder,
                params::<&str>(incoming).and_then(|name| {
                    let node = up(grid, name)?;
                    Ok(Some(relay::proxy(grid, relay::NODES, node.name.as_str())))
                }),
            ),
            "shutdownNode" => with_text!(incoming, responder, grid, |grid, name| shut_down(
                &grid, &name
            )
            .await),
            _ => responder.missing(Missing::Operation),
        }
    }
}

/// Returns how a node is.
fn node(grid: &Grid, name: &str) -> Outcome<NodeStatus> {
    let status = grid.handle.status();
    let found = status.nodes.iter().find(|node| node.name.as_str() == name);
    found.cloned().ok_or_else(|| {
        NodeNotExistException {
            name: name.to_owned(),
        }
        .into()
    })
}

/// Returns how a node is that answers.
pub(super) fn up(grid: &Grid, name: &str) -> Outcome<NodeStatus> {
    let node = node(grid, name)?;
    match node.state {
        NodeState::Up => Ok(node),
        NodeState::Starting | NodeState::Stopping | NodeState::Down | NodeState::Lost => {
            Err(unreachable_node(&node.name, "the node is not active"))
        }
    }
}

pub(super) fn node_info(grid: &Grid, node: &NodeStatus) -> NodeInfo {
    let host = Host::read().ok();
    let host = |of: fn(Host) -> String| host.clone().map(of).unwrap_or_default();
    let cpus = Load::read().map_or(1, |load| load.cpus);
    NodeInfo {
        name: node.name.to_string(),
        os: host(|host| host.os),
        hostname: node.hostname.clone(),
        release: host(|host| host.release),
        version: host(|host| host.version),
        machine: host(|host| host.machine),
        n_processors: i32::try_from(cpus).unwrap_or(i32::MAX),
        data_dir: grid.handle.paths().node(&node.name).display().to_string(),
    }
}

async fn load(grid: &Grid, name: &str) -> Outcome<LoadInfo> {
    let node = up(grid, name)?;
    let Some(load) = grid.handle.load(&node.name).await else {
        return Err(unreachable_node(&node.name, "the node does not answer"));
    };
    // As wide as the protocol has them.
    let [avg1, avg5, avg15] = load.averages.map(|average| average as f32);
    Ok(LoadInfo { avg1, avg5, avg15 })
}

/// Stops a node; the one in whose process IceGrid would have the registry takes the grid with it.
pub(super) async fn shut_down(grid: &Grid, name: &str) -> Outcome<()> {
    let node = up(grid, name)?;
    if grid.settings.collocated.as_deref() == Some(name) {
        return stop_grid(grid).await;
    }
    let stopped = grid.handle.stop_node(&node.name, uid()).await;
    stopped.map_err(|refusal| unreachable_node(&node.name, refusal.to_string()))
}

// Registries: there is one.

impl Admin {
    fn of_registries(
        &self,
        operation: &str,
        incoming: &Incoming<'_>,
        responder: Responder<'_>,
    ) -> Served {
        let grid = &self.grid;
        let one = |name: &str| match name {
            REPLICA => Ok(()),
            name => Err(Raised::from(RegistryNotExistException {
                name: name.to_owned(),
            })),
        };
        match operation {
            "getAllRegistryNames" => now(responder, Ok(vec![REPLICA.to_owned()])),
            "pingRegistry" => now(
                responder,
                params::<&str>(incoming).and_then(|name| one(name).map(|()| true)),
            ),
            "getRegistryInfo" => now(
                responder,
                params::<&str>(incoming).and_then(|name| one(name).map(|()| registry_info())),
            ),
            "getRegistryAdmin" => now(
                responder,
                params::<&str>(incoming).and_then(|name| {
                    one(name)?;
                    Ok(Some(relay::proxy(grid, relay::REGISTRIES, name)))
                }),
            ),
            "shutdownRegistry" => match params::<&str>(incoming).and_then(one) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok(()) => {
                    let grid = grid.clone();
                    later(responder, async move { stop_grid(&grid).await })
                }
            },
            _ => responder.missing(Missing::Operation),
        }
    }
}

pub(super) fn registry_info() -> RegistryInfo {
    RegistryInfo {
        name: REPLICA.to_owned(),
        hostname: Host::read().map(|host| host.hostname).unwrap_or_default(),
    }
}
