//! The registry's face: its adapters, its own objects, and what its servants share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::admin::Admin;
use super::locate::{Circumstances, Found, find};
use super::locator::{Finder, Locator, Query};
use super::observers::Version;
use super::placement::Placement;
use super::registration::LocatorRegistry;
use super::registry::Registry;
use super::relay;
use super::session::Sessions;
use super::settings::Settings;
use super::types::LoadSample;
use crate::descriptor::LoadBalancingPolicy;
use crate::ice::net::{
    Adapter, BindError, Client, ClientSettings, Dispatcher, Incoming, Responder, Servants, Served,
    Settings as NetSettings, Tls, TlsError,
};
use crate::ice::{Address, Encoding, Endpoint, Identity, Proxy, Reference};
use crate::ipc::message::blitz::PLACEMENT;
use crate::master::Handle;
use crate::model::{NodeName, NodeState, ServerId};
use crate::sys::ports::{self, Program};

/// For how long the load of nodes is believed: the kernel computes it this often.
const FRESH: Duration = Duration::from_secs(5);

/// How long a server may take to be active that somebody looks for, beyond its own time limit.
const ACTIVATION: Duration = Duration::from_secs(3600);

/// How long what a server has registered may need to be known here once the server is active.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// How long whoever deploys something waits for nodes that are started for it.
const STARTED: Duration = Duration::from_secs(15);

/// How long whoever changes something waits until observers know it.
const TOLD: Duration = Duration::from_secs(5);

/// A face that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum FaceError {
    /// Somebody else listens there.
    #[error("the registry cannot listen on {endpoint}: {owner} has that port")]
    Taken {
        /// Where.
        endpoint: String,
        /// Who, in words.
        owner: String,
    },
    /// It cannot listen.
    #[error("the registry cannot listen")]
    Bind(#[source] BindError),
    /// Its keys and certificates cannot be used.
    #[error("the registry cannot speak TLS")]
    Tls(#[source] TlsError),
}

/// What the servants share.
pub(super) struct Grid {
    pub(super) handle: Handle,
    pub(super) settings: Settings,
    /// Calls servers and observers.
    pub(super) client: Client,
    pub(super) servants: Arc<Servants>,
    client_endpoints: OnceLock<Vec<Endpoint>>,
    server_endpoints: OnceLock<Vec<Endpoint>>,
    loads: Mutex<Loads>,
    /// Calls objects that have to be looked up first.
    resolver: OnceLock<Client>,
    /// Servers that are being started and nobody waits for.
    starting: Mutex<HashSet<ServerId>>,
    /// What nobody waits for.
    behind: Mutex<JoinSet<()>>,
    pub(super) sessions: Sessions,
    /// The applications that were last asked about, and the number of that state of them.
    pub(super) serial: Mutex<(Vec<Version>, i32)>,
    /// Moves when somebody waits until observers know all that has happened.
    pub(super) observed: watch::Sender<u64>,
    /// Up to where observers know it.
    seen: watch::Sender<u64>,
}

/// How busy nodes are, multiplied by their factors.
#[derive(Default)]
struct Loads {
    asked: Option<Instant>,
    known: HashMap<NodeName, [f64; 3]>,
}

/// One of the registry's own objects.
pub(super) struct Own {
    pub(super) identity: Identity,
    pub(super) type_id: &'static str,
    pub(super) proxy: Proxy,
}

impl Grid {
    fn endpoints(cell: &OnceLock<Vec<Endpoint>>) -> Vec<Endpoint> {
        // They are set before anybody is served.
        cell.get().cloned().unwrap_or_default()
    }

    /// Returns the proxy of one of the objects at the clients' endpoints.
    pub(super) fn at_client(&self, identity: Identity) -> Proxy {
        let endpoints = Self::endpoints(&self.client_endpoints);
        Proxy::new(identity, Reference::Direct(endpoints))
    }

    /// Returns the proxy of one of the objects at the servers' endpoints.
    pub(super) fn at_server(&self, identity: Identity) -> Proxy {
        let endpoints = Self::endpoints(&self.server_endpoints);
        Proxy::new(identity, Reference::Direct(endpoints))
    }

    /// Returns the proxy of the registry's own object of this name.
    pub(super) fn own(&self, name: &str) -> Proxy {
        self.at_client(self.settings.identity(name))
    }

    pub(super) fn locator_registry(&self) -> Proxy {
        self.at_server(self.settings.identity("LocatorRegistry"))
    }

    /// Returns the registry's own objects, which are well-known too.
    pub(super) fn own_objects(&self) -> Vec<Own> {
        let mut all: Vec<Own> = [
            ("Query", "::IceGrid::Query"),
            ("Locator", "::Ice::Locator"),
            ("Registry", "::IceGrid::Registry"),
        ]
        .into_iter()
        .map(|(name, type_id)| Own {
            identity: self.settings.identity(name),
            type_id,
            proxy: self.own(name),
        })
        .collect();
        let registry = self.locator_registry();
        all.push(Own {
            identity: registry.identity.clone(),
            type_id: "::Ice::LocatorRegistry",
            proxy: registry,
        });
        all
    }

    /// Finds a well-known object.
    pub(super) fn object(&self, identity: &Identity) -> Option<Proxy> {
        let found = {
            let registry = self.handle.registry();
            registry.object(identity).map(|object| object.proxy.clone())
        };
        found.or_else(|| {
            if identity.category != self.settings.instance {
                return None;
            }
            let mut own = self.own_objects().into_iter();
            own.find(|own| own.identity == *identity)
                .map(|own| own.proxy)
        })
    }

    /// Returns the objects of a type, but those of servers that may not be started.
    pub(super) fn objects_by_type(&self, of: &str) -> Vec<Proxy> {
        let registry = self.handle.registry();
        let registered = registry
            .objects()
            .filter(|(_, object)| object.type_id == of && !registry.is_disabled(object))
            .map(|(_, object)| object.proxy.clone());
        let own = self.own_objects().into_iter();
        let own = own.filter(|own| own.type_id == of).map(|own| own.proxy);
        registered.chain(own).collect()
    }

    /// Returns an object of a type whose server is on the node with the least load.
    pub(super) async fn object_on_least_loaded(
        &self,
        of: &str,
        sample: LoadSample,
    ) -> Option<Proxy> {
        let nodes: BTreeSet<NodeName> = {
            let registry = self.handle.registry();
            let objects = registry.objects().map(|(_, object)| object);
            objects
                .filter(|object| object.type_id == of)
                .filter_map(|object| registry.server(object.server.as_ref()?))
                .map(|host| host.node.clone())
                .collect()
        };
        self.ask_loads(nodes).await;
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.handle.registry();
        let load = |id: Option<&ServerId>| {
            let host = id.and_then(|id| registry.server(id));
            let known = host.and_then(|host| loads.known.get(&host.node));
            known.map_or(f64::INFINITY, |load| load[sample as usize])
        };
        registry
            .objects()
            .map(|(_, object)| object)
            .filter(|object| object.type_id == of && !registry.is_disabled(object))
            .min_by(|a, b| load(a.server.as_ref()).total_cmp(&load(b.server.as_ref())))
            .map(|object| object.proxy.clone())
    }

    /// Finds an adapter or a replica group.
    pub(super) fn find(&self, id: &str, encoding: Encoding) -> Found {
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = Circumstances {
            encoding,
            loads: &loads.known,
            owned: &|server| self.sessions.allocations.is_owned(server),
            dice: &mut |below| rand::random_range(0..below.max(1)),
        };
        find(&self.handle.registry(), id, &mut now)
    }

    /// Returns whether the load of nodes does not matter for an adapter or group, or is known well enough.
    pub(super) fn loads_are_fresh_for(&self, id: &str) -> bool {
        let matters = {
            let registry = self.handle.registry();
            let group = registry.group(id);
            group.is_some_and(|group| {
                group.policy == LoadBalancingPolicy::Adaptive && group.members.len() > 1
            })
        };
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        !matters || loads.asked.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Asks the nodes of a group how busy their hosts are, where that matters.
    pub(super) async fn refresh_loads(&self, id: &str) {
        if self.loads_are_fresh_for(id) {
            return;
        }
        let nodes = {
            let registry = self.handle.registry();
            let members = registry.group(id).into_iter().flat_map(|g| &g.members);
            members
                .filter_map(|member| registry.adapter(member)?.server.as_ref())
                .filter_map(|id| registry.server(id))
                .map(|host| host.node.clone())
                .collect()
        };
        self.ask_loads(nodes).await;
    }

    async fn ask_loads(&self, nodes: BTreeSet<NodeName>) {
        let mut asked = JoinSet::new();
        for node in nodes {
            let handle = self.handle.clone();
            asked.spawn(async move { (handle.load(&node).await, node) });
        }
        let answers = asked.join_all().await;
        let mut known = HashMap::new();
        {
            let registry = self.handle.registry();
            for (load, node) in answers {
                let Some(load) = load else { continue };
                let factor = registry.load_factor(&node);
                let factor = factor.unwrap_or_else(|| 1.0 / f64::from(load.cpus.max(1)));
                known.insert(node, load.averages.map(|average| average * factor));
            }
        }
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.known.extend(known);
        loads.asked = Some(Instant::now());
    }

    /// Starts servers and waits until an adapter or group that is looked for listens, or none of them can be started.
    pub(super) async fn start_for(self: &Arc<Self>, id: &str, startable: &[ServerId]) {
        let mut starting = JoinSet::new();
        for server in startable {
            let (handle, server) = (self.handle.clone(), server.clone());
            starting.spawn(async move {
                let started = handle.activate(&server, ACTIVATION).await;
                started.inspect_err(|refusal| {
                    debug!(%server, %refusal, "a server that is looked for is not started");
                })
            });
        }
        let mut registered = self.handle.registered();
        let listens = || match self.find(id, Encoding::V11) {
            Found::Known { proxy, startable } => proxy.is_some() || startable.is_empty(),
            Found::Nothing => true,
        };
        let mut started = false;
        while !listens() {
            // Cancel safe: a set and a watch lose nothing.
            tokio::select! {
                changed = registered.changed() => if changed.is_err() { break },
                ended = starting.join_next() => match ended {
                    Some(ended) => started |= matches!(ended, Ok(Ok(()))),
                    None => break,
                },
            }
        }
        if started {
            // What it has registered is on its way.
            let listening = async { while !listens() && registered.changed().await.is_ok() {} };
            let _ = tokio::time::timeout(ON_ITS_WAY, listening).await;
        }
        // The others are started all the same.
        self.behind(async move { while starting.join_next().await.is_some() {} });
    }

    /// Starts servers that more clients could use, and does not wait.
    pub(super) fn start_behind(self: &Arc<Self>, startable: &[ServerId]) {
        for server in startable {
            // Once at a time, however many ask.
            let starting = || self.starting.lock().unwrap_or_else(PoisonError::into_inner);
            if !starting().insert(server.clone()) {
                continue;
            }
            let (grid, server) = (self.clone(), server.clone());
            self.behind(async move {
                let _ = grid.handle.activate(&server, ACTIVATION).await;
                let mut starting = grid.starting.lock().unwrap_or_else(PoisonError::into_inner);
                starting.remove(&server);
            });
        }
    }

    /// Has something done that nobody waits for; it ends with the face at the latest.
    pub(super) fn behind(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        while behind.try_join_next().is_some() {}
        behind.spawn(work);
    }

    /// Waits until the nodes run that are being started, so that what has just been deployed can be used.
    pub(super) async fn nodes_run(&self) {
        // Whoever answers this has published what was commanded before.
        let _ = self.handle.versions().await;
        let run = async {
            let mut seen = 0;
            loop {
                let (revision, status) = self.handle.changed(seen).await;
                if status.nodes.iter().all(|n| n.state != NodeState::Starting) {
                    return;
                }
                seen = revision;
            }
        };
        // One that cannot be started is told of by everything else.
        let _ = tokio::time::timeout(STARTED, run).await;
    }

    /// Waits until observers have been told all that has happened; whoever cannot be told holds nothing up for long.
    pub(super) async fn told(&self) {
        // Whoever observes has a receiver.
        if self.observed.receiver_count() == 0 {
            return;
        }
        let mut seen = self.seen.subscribe();
        let mut mine = 0;
        self.observed.send_modify(|waited_for| {
            *waited_for += 1;
            mine = *waited_for;
        });
        let told = seen.wait_for(|seen| *seen >= mine);
        let _ = tokio::time::timeout(TOLD, told).await;
    }

    /// Says that an observer knows all that had happened when somebody began to wait for that.
    pub(super) fn seen(&self, waited_for: u64) {
        self.seen.send_if_modified(|seen| {
            let further = waited_for > *seen;
            *seen = waited_for.max(*seen);
            further
        });
    }

    /// Returns a client that finds adapters and well-known objects as everybody does.
    pub(super) fn resolver(&self) -> &Client {
        self.resolver.get().unwrap_or(&self.client)
    }
}

/// Sees to it that what is passed on is not looked for among the servants.
struct Front {
    grid: Arc<Grid>,
    /// What the categories of objects to which calls are passed on begin with.
    prefix: String,
}

impl Dispatcher for Front {
    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().category.strip_prefix(&*self.prefix) {
            Some(router) => relay::dispatch(&self.grid, router, incoming, responder),
            None => self.grid.servants.dispatch(incoming, responder),
        }
    }
}

/// The registry's face: listens from the moment that it is made.
pub struct Face {
    adapters: Vec<Adapter>,
    grid: Arc<Grid>,
}

impl Face {
    /// Listens, with these settings, for this grid.
    pub async fn open(
        settings: Settings,
        handle: Handle,
        mut inherited: Vec<TcpListener>,
    ) -> Result<Self, FaceError> {
        let tls = settings.tls.as_ref().map(Tls::new).transpose();
        let net = Arc::new(NetSettings {
            tls: tls.map_err(FaceError::Tls)?.unwrap_or_default(),
            message_max: settings.message_max,
            default_host: settings.default_host.clone(),
            ..NetSettings::default()
        });
        let servants = Arc::new(Servants::new());
        let client = Client::new(ClientSettings {
            connections: net.clone(),
            ..ClientSettings::default()
        });
        let grid = Arc::new(Grid {
            handle,
            client,
            servants: servants.clone(),
            client_endpoints: OnceLock::new(),
            server_endpoints: OnceLock::new(),
            loads: Mutex::default(),
            resolver: OnceLock::new(),
            starting: Mutex::default(),
            behind: Mutex::default(),
            sessions: Sessions::default(),
            serial: Mutex::default(),
            observed: watch::Sender::new(0),
            seen: watch::Sender::new(0),
            settings,
        });
        let front: Arc<dyn Dispatcher> = Arc::new(Front {
            grid: grid.clone(),
            prefix: relay::category(&grid, ""),
        });
        let client = again(&grid, &net, &front, &mut inherited).await?;
        let mut adapters = vec![client];
        if !grid.settings.server.is_empty() {
            adapters.push(bind(&grid.settings.server, &net, &front, &mut inherited).await?);
        }
        let (client, server) = said(&grid.settings, &adapters);
        let _ = grid.client_endpoints.set(client);
        let _ = grid.server_endpoints.set(server);
        let _ = grid.resolver.set(Client::new(ClientSettings {
            connections: net.clone(),
            locator: Some(local(&grid, &adapters)),
            ..ClientSettings::default()
        }));
        let add = |name: &str, servant| {
            servants.add(&grid.settings.identity(name), "", servant);
        };
        add("Locator", Arc::new(Locator(grid.clone())));
        add("Query", Arc::new(Query(grid.clone())));
        add("Registry", Arc::new(Registry(grid.clone())));
        add(
            "LocatorRegistry",
            Arc::new(LocatorRegistry::new(grid.clone())),
        );
        let finder = Identity {
            name: "LocatorFinder".to_owned(),
            category: "Ice".to_owned(),
        };
        servants.add(&finder, "", Arc::new(Finder(grid.clone())));
        servants.add(&placement(), "", Arc::new(Placement(grid.clone())));
        Ok(Self { adapters, grid })
    }

    /// Returns the locator where it is on this host, whatever is published.
    pub fn locator(&self) -> Proxy {
        local(&self.grid, &self.adapters)
    }

    /// Returns what it listens on once more, for a successor of this program in the same process.
    pub fn heirs(&self) -> std::io::Result<Vec<OwnedFd>> {
        let mut heirs = Vec::new();
        for adapter in &self.adapters {
            heirs.extend(adapter.heirs()?);
        }
        Ok(heirs)
    }

    /// Returns where clients connect.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        Grid::endpoints(&self.grid.client_endpoints)
    }

    /// Serves until `stop` becomes true, or its sender is gone.
    pub async fn serve(self, stop: watch::Receiver<bool>) {
        if let Some(warning) = self.grid.settings.warning() {
            warn!("{warning}");
        }
        info!(locator = %self.locator(), "the registry listens");
        let mut serving = JoinSet::new();
        for adapter in self.adapters {
            serving.spawn(adapter.serve(stop.clone()));
        }
        while serving.join_next().await.is_some() {}
        self.grid.sessions.end_all();
        let mut behind = {
            let mut behind = self
                .grid
                .behind
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *behind)
        };
        behind.shutdown().await;
        // The servants and what they share refer to each other.
        self.grid.servants.remove_all(&placement());
        for own in self.grid.own_objects() {
            self.grid.servants.remove_all(&own.identity);
        }
        self.grid.client.close().await;
    }
}

fn placement() -> Identity {
    let (name, category) = PLACEMENT;
    Identity {
        name: name.to_owned(),
        category: category.to_owned(),
    }
}

fn local(grid: &Grid, adapters: &[Adapter]) -> Proxy {
    let listens = adapters.first().map(Adapter::endpoints);
    let listens = listens.unwrap_or_default().to_vec();
    Proxy::new(
        grid.settings.identity("Locator"),
        Reference::Direct(listens),
    )
}

/// Returns where proxies say that clients connect, and that servers register: what is published, else where the adapters listen.
fn said(settings: &Settings, adapters: &[Adapter]) -> (Vec<Endpoint>, Vec<Endpoint>) {
    let or_where = |published: &[Endpoint], adapter: Option<&Adapter>| match published {
        [] => adapter.map(Adapter::endpoints).unwrap_or_default().to_vec(),
        published => published.to_vec(),
    };
    let (client, server) = (adapters.first(), adapters.last());
    (
        or_where(&settings.client_published, client),
        or_where(&settings.server_published, server),
    )
}

/// Listens for clients, where a port is the system's to choose on that which it chose last time: servers that run know no other.
async fn again(
    grid: &Grid,
    net: &Arc<NetSettings>,
    front: &Arc<dyn Dispatcher>,
    inherited: &mut Vec<TcpListener>,
) -> Result<Adapter, FaceError> {
    let wanted = &grid.settings.client;
    let path = grid.handle.paths().registry();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let before = Endpoint::parse_all(text.trim()).unwrap_or_default();
    let same: Vec<Endpoint> = wanted
        .iter()
        .map(|endpoint| with_port_of(endpoint, &before))
        .collect();
    let adapter = match bind(&same, net, front, inherited).await {
        Err(FaceError::Taken { .. }) if same != *wanted => {
            bind(wanted, net, front, inherited).await
        }
        bound => bound,
    }?;
    let all: Vec<String> = adapter
        .endpoints()
        .iter()
        .map(ToString::to_string)
        .collect();
    if let Err(error) = std::fs::write(&path, format!("{}\n", all.join(":"))) {
        warn!(path = %path.display(), %error, "cannot note where the registry listens");
    }
    Ok(adapter)
}

/// Returns an endpoint with the port that one of its kind and host had before, where it leaves the port to the system.
fn with_port_of(endpoint: &Endpoint, before: &[Endpoint]) -> Endpoint {
    let before = before.iter().find_map(|known| match (known, endpoint) {
        (Endpoint::Tcp(known), Endpoint::Tcp(now)) | (Endpoint::Ssl(known), Endpoint::Ssl(now)) => {
            (known.host == now.host).then_some(known.port)
        }
        _ => None,
    });
    let mut same = endpoint.clone();
    if let (Endpoint::Tcp(address) | Endpoint::Ssl(address), Some(port)) = (&mut same, before)
        && address.port == 0
    {
        address.port = port;
    }
    same
}

async fn bind(
    endpoints: &[Endpoint],
    net: &Arc<NetSettings>,
    front: &Arc<dyn Dispatcher>,
    inherited: &mut Vec<TcpListener>,
) -> Result<Adapter, FaceError> {
    match Adapter::bind_or_take(endpoints, net.clone(), front.clone(), inherited).await {
        Ok(adapter) => Ok(adapter),
        Err(error) => Err(taken(endpoints, &error).unwrap_or(FaceError::Bind(error))),
    }
}

/// Says who listens where the registry would, if it is that which is wrong.
fn taken(endpoints: &[Endpoint], error: &BindError) -> Option<FaceError> {
    let BindError::Io { source, .. } = error else {
        return None;
    };
    if source.kind() != std::io::ErrorKind::AddrInUse {
        return None;
    }
    endpoints.iter().find_map(|endpoint| {
        let (Endpoint::Tcp(Address { port, .. }) | Endpoint::Ssl(Address { port, .. })) = endpoint
        else {
            return None;
        };
        let port = u16::try_from(*port).ok()?;
        let holder = ports::holders(&[port]).ok()?.remove(&port)?;
        let owner = match holder.programs.first() {
            Some(Program { pid, name }) => format!("process {pid} ({name})"),
            None => "a process of another user".to_owned(),
        };
        Some(FaceError::Taken {
            endpoint: endpoint.to_string(),
            owner,
        })
    })
}

impl Grid {
    /// Makes the servant of an administrator.
    pub(super) fn admin(self: &Arc<Self>, user: String, session: String) -> Arc<Admin> {
        Arc::new(Admin {
            grid: self.clone(),
            user,
            session,
        })
    }
}
