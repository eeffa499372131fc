//! The one task that owns what is wanted and what is seen.
//!
//! Commands are made durable here, orders to the nodes follow from them (`plan`), and news of the nodes become the
//! published status. Whatever takes long — sessions, waiting for a server — is done by the handlers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::desired::{Change, Deployed, Desired, Switch, Wish};
use super::node_task::{News, NodeTask};
use super::plan::{self, Circumstances, DeployPlan, Liberty, Order};
use super::shared::{Shared, Snapshot};
use super::state::StateDb;
use crate::config::Paths;
use crate::descriptor::{self, Diagnostics};
use crate::ipc::message::client::{
    ApplicationStatus, DeployMode, DeployReport, DescriptorSource, GridStatus, MasterStatus,
    NodeAction, NodeStatus, RedirectorStatus, ServerAction,
};
use crate::ipc::message::node::{Action, Goal, ServerReport};
use crate::ipc::{Refusal, RefusalKind, RunDir};
use crate::model::{Accepting, NodeName, NodeState, ServerId, ServerState};
use crate::sys::clock;
use crate::sys::host::Host;
use crate::sys::reaper::Reaper;
use crate::telemetry::chain;

/// What the core is asked. Answers come after the change is durable.
pub(crate) enum Command {
    Deploy {
        source: DescriptorSource,
        dry_run: bool,
        mode: DeployMode,
        uid: u32,
        answer: Answer<DeployReport>,
    },
    Reload {
        uid: u32,
        answer: Answer<Vec<DeployReport>>,
    },
    Node {
        node: NodeName,
        action: NodeAction,
        uid: u32,
        answer: Answer<()>,
    },
    /// Answers with the node, and the generation it has to have been told before it acts.
    Server {
        server: ServerId,
        action: ServerAction,
        uid: u32,
        answer: Answer<(NodeName, u64)>,
    },
    Stop {
        uid: u32,
        answer: Answer<()>,
    },
}

type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What is seen of a node, and the way to its task.
struct Node {
    order: watch::Sender<Order>,
    state: NodeState,
    pid: Option<u32>,
    reason: Option<String>,
    reports: BTreeMap<ServerId, ServerReport>,
}

/// The core.
pub(crate) struct Core {
    pub(crate) paths: Paths,
    pub(crate) run_dir: RunDir,
    pub(crate) db: StateDb,
    pub(crate) desired: Desired,
    pub(crate) shared: Arc<Shared>,
    pub(crate) reaper: Reaper,
    nodes: BTreeMap<NodeName, Node>,
    /// Nodes that are stopped only to be started again.
    restarting: BTreeSet<NodeName>,
    /// Servers that others come after.
    come_first: BTreeSet<ServerId>,
    /// What the last orders followed from.
    circumstances: Circumstances,
    tasks: JoinSet<()>,
    tell: mpsc::Sender<(NodeName, News)>,
    news: mpsc::Receiver<(NodeName, News)>,
    started_ms: u64,
    hostname: String,
    stopping: bool,
}

impl Core {
    pub(crate) fn new(
        paths: Paths,
        run_dir: RunDir,
        (db, desired): (StateDb, Desired),
        shared: Arc<Shared>,
        reaper: Reaper,
    ) -> Self {
        let (tell, news) = mpsc::channel(256);
        Self {
            paths,
            run_dir,
            db,
            desired,
            shared,
            reaper,
            nodes: BTreeMap::new(),
            restarting: BTreeSet::new(),
            come_first: BTreeSet::new(),
            // The generation of nothing deployed: the first orders are always given.
            circumstances: Circumstances {
                generation: u64::MAX,
                ..Circumstances::default()
            },
            tasks: JoinSet::new(),
            tell,
            news,
            started_ms: clock::now().wall_ms,
            hostname: Host::read().map(|host| host.hostname).unwrap_or_default(),
            stopping: false,
        }
    }

    /// Runs until the grid was told to stop and every node has ended, or until every sender of commands is gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.give_orders();
        self.publish();
        while !(self.stopping
            && self
                .nodes
                .values()
                .all(|node| node.state == NodeState::Down))
        {
            // Cancel safe: channels lose nothing.
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.carry_out(command),
                    None => break,
                },
                Some((node, news)) = self.news.recv() => {
                    self.hear(&node, news);
                    // One status for all that has come meanwhile.
                    while let Ok((node, news)) = self.news.try_recv() {
                        self.hear(&node, news);
                    }
                }
                Some(ended) = self.tasks.join_next() => if let Err(error) = ended {
                    error!(%error, "the task of a node failed");
                },
            }
            self.give_orders();
            self.forget_nodes();
            self.publish();
        }
        self.nodes.clear();
        self.tasks.shutdown().await;
    }

    fn carry_out(&mut self, command: Command) {
        // Whoever asked may have gone; what was asked is done all the same.
        match command {
            Command::Deploy {
                source,
                dry_run,
                mode,
                uid,
                answer,
            } => {
                let liberty = match mode {
                    DeployMode::Careful => Liberty::Careful,
                    DeployMode::Now => Liberty::Now,
                };
                drop(answer.send(self.deploy(source, dry_run, liberty, uid)));
            }
            Command::Reload { uid, answer } => drop(answer.send(self.reload(uid))),
            Command::Node {
                node,
                action,
                uid,
                answer,
            } => drop(answer.send(self.node(&node, action, uid))),
            Command::Server {
                server,
                action,
                uid,
                answer,
            } => drop(answer.send(self.server(&server, action, uid))),
            Command::Stop { uid, answer } => {
                info!(uid, "stopping the grid");
                self.stopping = true;
                drop(answer.send(Ok(())));
            }
        }
    }

    /// Makes changes durable, then applies them.
    fn commit(&mut self, changes: Vec<Change>, uid: u32, command: &str) -> Result<(), Refusal> {
        let generation = self.desired.generation + changes.len() as u64;
        let audit = (clock::now().wall_ms, uid, command);
        self.db
            .write(&changes, generation, Some(audit))
            .map_err(|error| {
                error!(error = %chain(&error), command, "a change was not made");
                Refusal::new(RefusalKind::Failed, chain(&error))
                    .hint("make room or repair the file system, then try again")
            })?;
        info!(uid, command, "accepted");
        for change in changes {
            self.desired.apply(change);
        }
        Ok(())
    }

    fn deploy(
        &mut self,
        source: DescriptorSource,
        dry_run: bool,
        liberty: Liberty,
        uid: u32,
    ) -> Result<DeployReport, Refusal> {
        let command = format!("deploy {}", source.shown);
        let (plan, warnings) = self.think_through(source, liberty)?;
        let DeployPlan {
            mut report,
            changes,
            in_the_way,
        } = plan;
        report.warnings = warnings;
        if dry_run {
            return Ok(report);
        }
        if !in_the_way.is_empty() {
            let blitzes: Vec<_> = in_the_way
                .iter()
                .map(|(id, n)| format!("{id} ({n} sessions)"))
                .collect();
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!("this deploy would end live sessions: {}", blitzes.join(", ")),
            )
            .hint("use --dry-run to see the plan, or --now to restart them regardless of their sessions"));
        }
        self.commit(changes, uid, &command)?;
        report.applied = true;
        Ok(report)
    }

    fn reload(&mut self, uid: u32) -> Result<Vec<DeployReport>, Refusal> {
        let sources: Vec<_> = self
            .desired
            .in_order()
            .iter()
            .map(|deployed| deployed.source.clone())
            .collect();
        let mut reports = Vec::new();
        let mut changes = Vec::new();
        // All are read before any is changed: a bad file changes nothing.
        for source in sources {
            let (plan, warnings) = self.think_through(source, Liberty::Hold)?;
            changes.extend(plan.changes);
            reports.push(DeployReport {
                warnings,
                applied: true,
                ..plan.report
            });
        }
        self.commit(changes, uid, "reload")?;
        Ok(reports)
    }

    fn think_through(
        &self,
        source: DescriptorSource,
        liberty: Liberty,
    ) -> Result<(DeployPlan, Vec<String>), Refusal> {
        let (fresh, warnings) =
            load(source, &self.desired).map_err(|error| refuse_descriptor(&error))?;
        let reports: BTreeMap<_, _> = self
            .nodes
            .values()
            .flat_map(|node| &node.reports)
            .map(|(id, report)| (id.clone(), report.clone()))
            .collect();
        Ok((
            plan::deploy(&self.desired, fresh, &reports, liberty),
            warnings,
        ))
    }

    fn node(&mut self, node: &NodeName, action: NodeAction, uid: u32) -> Result<(), Refusal> {
        if !self.desired.all_nodes().contains(node) {
            return Err(no_such(
                "node",
                node.as_str(),
                self.desired.all_nodes().iter().map(|n| n.as_str()),
            ));
        }
        let (switch, word) = match action {
            NodeAction::Start => (Switch::Started, "start"),
            NodeAction::Stop => (Switch::Stopped, "stop"),
            NodeAction::Restart => (Switch::Started, "restart"),
        };
        self.commit(
            vec![Change::Node(node.clone(), Some(switch))],
            uid,
            &format!("node {node} {word}"),
        )?;
        if action == NodeAction::Restart
            && self
                .nodes
                .get(node)
                .is_some_and(|node| node.state != NodeState::Down)
        {
            self.restarting.insert(node.clone());
        }
        Ok(())
    }

    fn server(
        &mut self,
        id: &ServerId,
        action: ServerAction,
        uid: u32,
    ) -> Result<(NodeName, u64), Refusal> {
        let Some(placed) = self.desired.server(id) else {
            let known: Vec<_> = self.desired.placed().map(|(id, ..)| id.as_str()).collect();
            return Err(no_such("server", id.as_str(), known.into_iter()));
        };
        let wish = self.desired.wish(id);
        let node = placed.node.clone();
        let up = self
            .nodes
            .get(&node)
            .is_some_and(|node| node.state == NodeState::Up);
        let (word, after) = match action {
            ServerAction::Act {
                action: Action::Start,
            } => (
                "start",
                Wish {
                    goal: Goal::Started,
                    ..wish
                },
            ),
            ServerAction::Act {
                action: Action::Restart,
            } => (
                "restart",
                Wish {
                    goal: Goal::Started,
                    ..wish
                },
            ),
            ServerAction::Act {
                action: Action::Stop,
            } => (
                "stop",
                Wish {
                    goal: Goal::Stopped,
                    ..wish
                },
            ),
            ServerAction::Act {
                action: Action::Signal { .. },
            } => ("signal", wish),
            ServerAction::Disable => (
                "disable",
                Wish {
                    enabled: false,
                    ..wish
                },
            ),
            ServerAction::Enable => {
                let goal = if wish.goal == Goal::Stopped {
                    Goal::Mode
                } else {
                    wish.goal
                };
                (
                    "enable",
                    Wish {
                        goal,
                        enabled: true,
                    },
                )
            }
        };
        if matches!(word, "start" | "restart") {
            if !wish.enabled {
                return Err(
                    Refusal::new(RefusalKind::Refused, format!("server {id} is disabled"))
                        .hint(format!("omero-grid server {id} enable")),
                );
            }
            if !up {
                return Err(Refusal::new(
                    RefusalKind::NotFound,
                    format!("node {node} of server {id} is not up"),
                )
                .hint(format!("omero-grid node {node} start")));
            }
        }
        let mut changes = Vec::new();
        if after != wish {
            changes.push(Change::Server(id.clone(), after));
        }
        if matches!(word, "start" | "restart" | "stop") && self.desired.held.contains_key(id) {
            // From here on with the definition that is deployed.
            changes.push(Change::Held(id.clone(), None));
        }
        self.commit(changes, uid, &format!("server {id} {word}"))?;
        let node = self
            .desired
            .server(id)
            .map_or(node, |placed| placed.node.clone());
        self.give_orders();
        let generation = self
            .nodes
            .get(&node)
            .map_or(0, |node| match &*node.order.borrow() {
                Order::Run(assignment) => assignment.generation,
                Order::Stop => 0,
            });
        Ok((node, generation))
    }

    /// Tells every node what it has to do, where that changed.
    fn give_orders(&mut self) {
        let generation = self.desired.generation;
        if self.circumstances.generation != generation {
            self.come_first = self.desired.come_first();
        }
        let active = |id: &&ServerId| {
            let mut reports = self.nodes.values().filter_map(|node| node.reports.get(*id));
            reports.any(|report| report.state == ServerState::Active)
        };
        let now = Circumstances {
            generation,
            stopping: self.stopping,
            restarting: self.restarting.clone(),
            active: self.come_first.iter().filter(active).cloned().collect(),
        };
        if now == self.circumstances {
            return;
        }
        let known = self.nodes.keys().cloned().collect();
        let orders = plan::orders(&self.desired, known, &now);
        self.circumstances = now;
        for (name, order) in orders {
            match self.nodes.get(&name) {
                Some(node) => {
                    node.order.send_if_modified(|current| {
                        let differs = !current.is_same(&order);
                        if differs {
                            *current = order;
                        }
                        differs
                    });
                }
                None => self.add_node(name, order),
            }
        }
    }

    /// Forgets nodes that are no longer deployed and have ended.
    fn forget_nodes(&mut self) {
        let gone = |node: &Node| node.state == NodeState::Down;
        if self.nodes.values().any(gone) {
            let deployed = self.desired.all_nodes();
            self.nodes
                .retain(|name, node| deployed.contains(name) || !gone(node));
        }
    }

    fn add_node(&mut self, name: NodeName, order: Order) {
        let state = if matches!(order, Order::Run(_)) {
            NodeState::Starting
        } else {
            NodeState::Stopping
        };
        let (sender, receiver) = watch::channel(order);
        let task = NodeTask {
            name: name.clone(),
            paths: self.paths.clone(),
            run_dir: self.run_dir.clone(),
            order: receiver,
            news: self.tell.clone(),
            shared: self.shared.clone(),
            reaper: self.reaper.clone(),
        };
        self.tasks.spawn(task.run());
        self.nodes.insert(
            name,
            Node {
                order: sender,
                state,
                pid: None,
                reason: None,
                reports: BTreeMap::new(),
            },
        );
    }

    fn hear(&mut self, name: &NodeName, news: News) {
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        match news {
            News::State { state, pid, reason } => {
                if node.state != state {
                    info!(node = %name, from = %node.state, to = %state, pid, reason, "node");
                }
                (node.state, node.pid, node.reason) = (state, pid, reason);
                match state {
                    NodeState::Down => {
                        self.restarting.remove(name);
                        node.reports.clear();
                    }
                    // What the last process said may no longer hold; the next one tells anew.
                    NodeState::Lost => {
                        for report in node.reports.values_mut() {
                            report.blitz = None;
                        }
                    }
                    NodeState::Starting | NodeState::Up | NodeState::Stopping => {}
                }
            }
            News::Servers(reports) => node.reports.extend(
                reports
                    .into_iter()
                    .map(|report| (report.id.clone(), report)),
            ),
            News::Removed(ids) => node.reports.retain(|id, _| !ids.contains(id)),
        }
    }

    fn publish(&self) {
        let status = self.status();
        self.shared.snapshot.send_if_modified(|snapshot| {
            let differs = *snapshot.status != status || snapshot.revision == 0;
            if differs {
                *snapshot = Snapshot {
                    revision: snapshot.revision + 1,
                    status: Arc::new(status),
                };
            }
            differs
        });
    }

    fn status(&self) -> GridStatus {
        let names: BTreeSet<&NodeName> = self
            .desired
            .all_nodes()
            .into_iter()
            .chain(self.nodes.keys())
            .collect();
        let mut by_node: BTreeMap<&NodeName, Vec<ServerReport>> = BTreeMap::new();
        for (id, _, placed) in self.desired.placed() {
            let seen = self
                .nodes
                .get(&placed.node)
                .and_then(|node| node.reports.get(id));
            let report = seen
                .cloned()
                .unwrap_or_else(|| self.unseen(id, &placed.descriptor));
            by_node.entry(&placed.node).or_default().push(report);
        }
        let nodes = names.into_iter().map(|name| {
            let node = self.nodes.get(name);
            let mut servers = by_node.remove(name).unwrap_or_default();
            servers.sort_by(|a, b| a.id.cmp(&b.id));
            NodeStatus {
                name: name.clone(),
                state: node.map_or(NodeState::Down, |node| node.state),
                start: if self.desired.is_manual(name) {
                    "manual"
                } else {
                    "auto"
                }
                .to_owned(),
                pid: node.and_then(|node| node.pid),
                hostname: self.hostname.clone(),
                reason: node.and_then(|node| node.reason.clone()),
                outdated: servers
                    .iter()
                    .filter(|r| self.desired.held.contains_key(&r.id))
                    .map(|r| r.id.clone())
                    .collect(),
                servers,
            }
        });
        let applications = self.desired.in_order();
        GridStatus {
            nodes: nodes.collect(),
            applications: applications
                .iter()
                .map(|deployed| ApplicationStatus {
                    name: deployed.deployment.application.clone(),
                    descriptor: deployed.source.shown.clone(),
                    targets: deployed.source.targets.clone(),
                    source: deployed.source.clone(),
                })
                .collect(),
            master: MasterStatus {
                pid: std::process::id(),
                started_ms: self.started_ms,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            redirector: RedirectorStatus {
                policy: "nullRedirector".to_owned(),
                redirect: None,
            },
            missing: self.missing(),
            stopping: self.stopping,
        }
    }

    /// Returns what can be said of a server that no node has told of.
    fn unseen(&self, id: &ServerId, descriptor: &descriptor::ServerDescriptor) -> ServerReport {
        let wish = self.desired.wish(id);
        ServerReport {
            id: id.clone(),
            activation: descriptor.activation(),
            enabled: wish.enabled,
            goal: wish.goal,
            state: ServerState::Inactive,
            pid: None,
            started_ms: None,
            ready_after_ms: None,
            restarts: 0,
            last_exit: None,
            failure: None,
            waiting_for: None,
            next_start_ms: None,
            is_builtin_blitz: descriptor.is_builtin_blitz(),
            blitz: None,
        }
    }

    /// Returns the required servers that are not there yet, of the nodes that are wanted.
    fn missing(&self) -> Vec<ServerId> {
        let required = self
            .desired
            .applications
            .values()
            .flat_map(|a| a.deployment.required());
        required
            .filter(|id| {
                let Some(placed) = self.desired.server(id) else {
                    return false;
                };
                let wish = self.desired.wish(id);
                if !self.desired.wants_node(&placed.node)
                    || wish.goal == Goal::Stopped
                    || !wish.enabled
                {
                    return false;
                }
                let report = self
                    .nodes
                    .get(&placed.node)
                    .and_then(|node| node.reports.get(id));
                !report.is_some_and(is_ready)
            })
            .collect()
    }
}

/// Returns whether a server does what it is for: it is active, and a built-in Blitz also answers.
pub(crate) fn is_ready(report: &ServerReport) -> bool {
    let answers = report
        .blitz
        .as_ref()
        .is_some_and(|blitz| blitz.accepting != Accepting::No);
    report.state == ServerState::Active && (answers || !report.is_builtin_blitz)
}

/// Reads a descriptor beside what is deployed. Returns it, and the warnings about it.
pub(crate) fn load(
    source: DescriptorSource,
    desired: &Desired,
) -> Result<(Deployed, Vec<String>), Diagnostics> {
    let mut request = source.request();
    let loaded = descriptor::load(&descriptor::Disk, &request)?;
    // The other applications have to be known for the check of ids, and which they are follows from the name.
    let name = loaded.deployment.application.clone();
    let others: Vec<_> = desired
        .applications
        .iter()
        .filter(|(other, _)| **other != name)
        .map(|(_, a)| a)
        .collect();
    let loaded = if others.is_empty() {
        loaded
    } else {
        for other in others {
            request.others.add(&other.deployment);
        }
        descriptor::load(&descriptor::Disk, &request)?
    };
    let order = desired
        .applications
        .get(&name)
        .map(|deployed| deployed.order);
    let last = desired
        .applications
        .values()
        .map(|deployed| deployed.order)
        .max();
    let deployed = Deployed {
        order: order.unwrap_or_else(|| last.map_or(0, |last| last + 1)),
        source,
        deployment: loaded.deployment,
    };
    let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    Ok((deployed, warnings))
}

fn refuse_descriptor(diagnostics: &Diagnostics) -> Refusal {
    let text: Vec<_> = diagnostics.0.iter().map(ToString::to_string).collect();
    Refusal::new(RefusalKind::Invalid, text.join("\n"))
        .hint("nothing was changed; `omero-grid check` shows the same")
}

/// Refuses a name that nothing has, with the near miss.
fn no_such<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Refusal {
    let known: Vec<&str> = known.collect();
    let refusal = Refusal::new(
        RefusalKind::NotFound,
        format!("there is no {what} '{name}'"),
    );
    let near = known.iter().min_by_key(|other| {
        strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase())
    });
    match near {
        Some(near) if strsim::jaro_winkler(name, near) > 0.8 => {
            refusal.hint(format!("did you mean '{near}'?"))
        }
        _ if known.is_empty() => refusal,
        _ => refusal.hint(format!("known are: {}", known.join(", "))),
    }
}

/// Waits until the status satisfies `done`, or until the time is over.
pub(crate) async fn wait_for(
    shared: &Shared,
    limit: Duration,
    mut done: impl FnMut(&Snapshot) -> bool,
) -> Option<Snapshot> {
    let mut snapshots = shared.snapshot.subscribe();
    let waiting = snapshots.wait_for(|snapshot| done(snapshot));
    match tokio::time::timeout(limit, waiting).await {
        Ok(Ok(snapshot)) => Some(snapshot.clone()),
        Ok(Err(_)) => {
            warn!("the status is no longer published");
            None
        }
        Err(_) => None,
    }
}

/// The descriptor that is compiled in, as a file of its own.
pub(crate) fn builtin_descriptor(paths: &Paths) -> std::io::Result<PathBuf> {
    let dir = paths.grid().join("builtin");
    std::fs::create_dir_all(&dir)?;
    for (name, text) in [
        ("default.xml", include_str!("../../descriptors/default.xml")),
        (
            "templates.xml",
            include_str!("../../descriptors/templates.xml"),
        ),
    ] {
        std::fs::write(dir.join(name), text)?;
    }
    Ok(dir.join("default.xml"))
}
