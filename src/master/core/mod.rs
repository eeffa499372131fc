//! The one task that owns what is wanted and what is seen.
//!
//! Commands are made durable here, orders to the nodes follow from them (`plan`), and news of the nodes become the
//! published status. Whatever takes long — sessions, waiting for a server — is done by the handlers.

mod applications;
mod blitzes;
mod deploy;
mod drains;
mod registrations;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::config::Paths;
use crate::ipc::message::client::{
    DeployMode, DeployReport, DescriptorSource, DrainRequest, GridEvent, NodeAction,
    RedirectChange, RollAction, ServerAction,
};
use crate::ipc::message::node::{Action, Goal, ServerReport};
use crate::ipc::{Refusal, RefusalKind, RunDir};
use crate::master::allocation::Policy;
use crate::master::configuration::OnDisk;
use crate::master::desired::{Change, Desired, DynamicAdapter, DynamicObject, Switch, Wish};
use crate::master::incidents::Incidents;
use crate::master::node_task::{News, NodeTask};
use crate::master::plan::{self, Circumstances, Order};
use crate::master::shared::Shared;
use crate::master::state::{Happening, StateDb};
use crate::model::{NodeName, NodeSettings, NodeState, ServerId, ServerState};
use crate::sys::clock;
use crate::sys::host::Host;
use crate::sys::reaper::Reaper;
use crate::telemetry::chain;

pub use applications::{Edit, Edition, Make};
use blitzes::Presence;
pub use deploy::LoadError;
pub(super) use deploy::{builtin_descriptor, load, user};
use drains::Outcome;
pub(super) use status::wait_for;

/// How long the same refusal of the same user is noted only once.
const SAME_REFUSAL: Duration = Duration::from_secs(60);

/// What the core is asked. Answers come after the change is durable.
pub(crate) enum Command {
    /// What the configuration store has now.
    OnDisk(OnDisk),
    Deploy {
        source: DescriptorSource,
        dry_run: bool,
        mode: DeployMode,
        uid: u32,
        answer: Answer<DeployReport>,
    },
    /// Changes an application by what it is, not by its file.
    Application {
        edition: Edition,
        answer: Answer<DeployReport>,
    },
    Reload {
        /// Restarts nothing.
        spare: bool,
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
    Redirect {
        change: RedirectChange,
        uid: u32,
        answer: Answer<()>,
    },
    /// Answers with the Blitzes concerned.
    Drain {
        request: DrainRequest,
        uid: u32,
        answer: Answer<Vec<ServerId>>,
    },
    /// Answers with the Blitzes that were drained.
    Undrain {
        names: Vec<String>,
        node: bool,
        uid: u32,
        answer: Answer<Vec<ServerId>>,
    },
    Roll {
        action: RollAction,
        uid: u32,
        answer: Answer<()>,
    },
    /// Remembers an adapter that is not deployed, or forgets it.
    Adapter {
        id: String,
        adapter: Option<DynamicAdapter>,
        answer: Answer<()>,
    },
    /// Remembers a well-known object by its written identity, or forgets it.
    Object {
        identity: String,
        object: Option<DynamicObject>,
        uid: u32,
        answer: Answer<()>,
    },
    /// Looks at what is wanted.
    Look(Box<dyn FnOnce(&Desired) + Send>),
    /// Notes what happened.
    Note(Happening),
    Events {
        after: Option<u64>,
        limit: u32,
        answer: Answer<Vec<GridEvent>>,
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
    /// What happened and is not written yet.
    happenings: Vec<Happening>,
    /// What is deployed says so about where sessions go, as of the generation beside it.
    policy: Arc<Policy>,
    policy_of: u64,
    /// Since when Blitzes have not accepted sessions.
    absent: BTreeMap<ServerId, Instant>,
    /// Whether and since when Blitzes do not even answer their nodes.
    away: BTreeMap<ServerId, Presence>,
    /// What went wrong with servers.
    incidents: Incidents,
    /// The last refusal that was noted, and when.
    refused: Option<(Happening, Instant)>,
    /// How long Blitzes took to start, the last time that it was seen.
    startups: BTreeMap<ServerId, Duration>,
    /// When the redirect has to be looked at again.
    redirect_due: Option<Instant>,
    /// When drains have to be looked at again.
    drain_due: Option<Instant>,
    /// Blitzes that something is done to beside the core.
    busy: BTreeSet<ServerId>,
    outcomes: (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>),
    begun: Instant,
    tasks: JoinSet<()>,
    tell: mpsc::Sender<(NodeName, News)>,
    news: mpsc::Receiver<(NodeName, News)>,
    started_ms: u64,
    /// When the process was started, which may have run another program then.
    process_started_ms: u64,
    hostname: String,
    /// What the configuration store has.
    on_disk: OnDisk,
    /// The registry's locator, where it listens.
    locator: Option<String>,
    /// How servers are run where their descriptors leave it open.
    settings: NodeSettings,
    /// The generation that the registry is of.
    registry_of: u64,
    stopping: bool,
}

impl Core {
    pub(crate) fn new(
        paths: Paths,
        run_dir: RunDir,
        (db, desired): (StateDb, Desired),
        shared: Arc<Shared>,
        reaper: Reaper,
        process_started_ms: u64,
        (locator, settings): (Option<String>, NodeSettings),
    ) -> Self {
        let (tell, news) = mpsc::channel(256);
        // Until the store is looked at.
        let mut profiles = desired.applications.values().map(|a| a.profile.clone());
        let profile = profiles.next().unwrap_or_default();
        drop(profiles);
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
            happenings: Vec::new(),
            policy: Arc::default(),
            policy_of: u64::MAX,
            absent: BTreeMap::new(),
            away: BTreeMap::new(),
            incidents: Incidents::default(),
            refused: None,
            startups: BTreeMap::new(),
            redirect_due: None,
            drain_due: None,
            busy: BTreeSet::new(),
            outcomes: mpsc::channel(64),
            begun: Instant::now(),
            tasks: JoinSet::new(),
            tell,
            news,
            started_ms: clock::now().wall_ms,
            process_started_ms,
            hostname: Host::read().map(|host| host.hostname).unwrap_or_default(),
            on_disk: Ok(profile),
            locator,
            settings,
            registry_of: u64::MAX,
            stopping: false,
        }
    }

    /// Runs until the grid was told to stop and every node has ended, or until every sender of commands is gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.tend_registry();
        self.give_orders();
        self.tend_drains();
        self.tend_blitzes();
        self.publish();
        let mut silent = self.shared.silent.subscribe();
        while !(self.stopping
            && self
                .nodes
                .values()
                .all(|node| node.state == NodeState::Down))
        {
            // Cancel safe: channels and watches lose nothing, and the time is computed anew.
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
                Ok(()) = silent.changed() => {}
                () = sleep_until(self.redirect_due) => {}
                () = sleep_until(self.drain_due) => {}
                Some(outcome) = self.outcomes.1.recv() => self.done(outcome),
                Some(ended) = self.tasks.join_next() => if let Err(error) = ended {
                    error!(%error, "the task of a node failed");
                },
            }
            // Before a node is told to start a server, its adapters are known.
            self.tend_registry();
            self.give_orders();
            self.forget_nodes();
            self.tend_drains();
            // What drains decided may be orders too.
            self.give_orders();
            self.tend_blitzes();
            self.write_notes();
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
                drop(answer.send(self.deploy(source, dry_run, mode, uid)));
            }
            Command::Application { edition, answer } => drop(answer.send(self.edit(edition))),
            Command::Reload { spare, uid, answer } => {
                drop(answer.send(self.reload(spare, uid)));
            }
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
                // A full disk keeps no grid from stopping.
                if let Err(refusal) = self.commit(self.over_with_stop(), uid, "stop") {
                    warn!(%refusal, "stops without a note of it");
                }
                self.stopping = true;
                drop(answer.send(Ok(())));
            }
            Command::Drain {
                request,
                uid,
                answer,
            } => drop(answer.send(self.drain(&request, uid))),
            Command::Undrain {
                names,
                node,
                uid,
                answer,
            } => drop(answer.send(self.undrain(&names, node, uid))),
            Command::Roll {
                action,
                uid,
                answer,
            } => drop(answer.send(self.roll(action, uid))),
            Command::Redirect {
                change,
                uid,
                answer,
            } => drop(answer.send(self.redirect(change, uid))),
            Command::OnDisk(on_disk) => self.on_disk = on_disk,
            Command::Look(look) => look(&self.desired),
            Command::Adapter {
                id,
                adapter,
                answer,
            } => drop(answer.send(self.set_adapter(id, adapter))),
            Command::Object {
                identity,
                object,
                uid,
                answer,
            } => drop(answer.send(self.set_object(identity, object, uid))),
            Command::Note(happening) => self.note_once(happening),
            Command::Events {
                after,
                limit,
                answer,
            } => {
                let events = self.db.events(after, limit);
                drop(answer.send(
                    events.map_err(|error| Refusal::new(RefusalKind::Failed, chain(&error))),
                ));
            }
        }
    }

    /// Makes the changes that a command asked for durable, then applies them.
    fn commit(&mut self, changes: Vec<Change>, uid: u32, command: &str) -> Result<(), Refusal> {
        self.commit_noting(changes, vec![Happening::command(uid, command)])
            .inspect(|()| info!(uid, command, "accepted"))
    }

    /// Makes changes durable together with what is to be noted of them, then applies them.
    fn commit_noting(
        &mut self,
        changes: Vec<Change>,
        happenings: Vec<Happening>,
    ) -> Result<(), Refusal> {
        let generations = changes.iter().map(Change::generations);
        let generation = self.desired.generation + generations.sum::<u64>();
        self.db
            .write(&changes, generation, &happenings)
            .map_err(|error| {
                error!(error = %chain(&error), "a change was not made");
                Refusal::new(RefusalKind::Failed, chain(&error))
                    .hint("make room or repair the file system, then try again")
            })?;
        for change in changes {
            self.desired.apply(change);
        }
        self.events_written();
        Ok(())
    }

    /// Notes what happened without anybody's command; written before the next status is published.
    fn note(&mut self, kind: &'static str, subject: impl Into<String>, text: impl Into<String>) {
        self.happenings.push(Happening {
            uid: None,
            kind,
            subject: subject.into(),
            text: text.into(),
        });
    }

    /// Notes what somebody did. The same refusal again and again is that of a script, and noted once a minute.
    fn note_once(&mut self, happening: Happening) {
        if happening.kind == "refused" {
            let now = Instant::now();
            if let Some((last, at)) = &self.refused
                && *last == happening
                && now.saturating_duration_since(*at) < SAME_REFUSAL
            {
                return;
            }
            self.refused = Some((happening.clone(), now));
        }
        self.happenings.push(happening);
    }

    /// Writes what was noted. Losing notes hinders nothing else.
    fn write_notes(&mut self) {
        if self.happenings.is_empty() {
            return;
        }
        let happenings = std::mem::take(&mut self.happenings);
        match self.db.note(&happenings) {
            Ok(()) => self.events_written(),
            Err(error) => {
                warn!(error = %chain(&error), events = happenings.len(), "cannot note what happened")
            }
        }
    }

    /// Wakes those who wait for events.
    fn events_written(&self) {
        self.shared.events.send_modify(|written| *written += 1);
    }

    fn node(&mut self, node: &NodeName, action: NodeAction, uid: u32) -> Result<(), Refusal> {
        if !self.desired.all_nodes().contains(node) {
            return Err(no_such(
                "node",
                node.as_str(),
                self.desired.all_nodes().iter().map(|n| n.as_str()),
            ));
        }
        if self.stopping && action != NodeAction::Stop {
            return Err(stopping());
        }
        let (switch, word) = match action {
            NodeAction::Start => (Switch::Started, "start"),
            NodeAction::Stop => (Switch::Stopped, "stop"),
            NodeAction::Restart => (Switch::Started, "restart"),
        };
        let mut changes = vec![Change::Node(node.clone(), Some(switch))];
        if action != NodeAction::Start {
            // Its servers end now; they begin anew with the definitions that are deployed.
            let held = self.desired.held.iter();
            let held = held.filter(|(_, held)| held.placed.node == *node);
            changes.extend(held.map(|(id, _)| Change::Held(id.clone(), None)));
        }
        self.commit(changes, uid, &format!("node {node} {word}"))?;
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
            // A question, of which nothing follows.
            ServerAction::Act {
                action: Action::TakeUp,
            } => return Ok((node, self.generation_told(id))),
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
            if self.stopping {
                return Err(stopping());
            }
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
        Ok((node, self.generation_told(id)))
    }

    /// Returns the generation that the node of a server has to have been told before it acts on what was decided so far.
    fn generation_told(&self, id: &ServerId) -> u64 {
        let node = self.desired.server(id).map(|placed| &placed.node);
        let node = node.and_then(|node| self.nodes.get(node));
        node.map_or(0, |node| match &*node.order.borrow() {
            Order::Run(assignment) => assignment.generation,
            Order::Stop => 0,
        })
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
            locator: self.locator.clone(),
            settings: self.settings.clone(),
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
                let (before, had_process) = (node.state, node.pid.is_some());
                if before != state {
                    info!(node = %name, from = %before, to = %state, pid, reason, "node");
                }
                (node.state, node.pid, node.reason) = (state, pid, reason);
                match state {
                    NodeState::Down => {
                        self.restarting.remove(name);
                        let reports = std::mem::take(&mut node.reports);
                        self.shared.change_registry(|registry| {
                            reports.keys().for_each(|id| registry.down(id));
                        });
                    }
                    // What the last process said may no longer hold; the next one tells anew.
                    NodeState::Lost => {
                        for report in node.reports.values_mut() {
                            report.blitz = None;
                        }
                    }
                    NodeState::Starting | NodeState::Up | NodeState::Stopping => {}
                }
                // A node that is not to run goes down as it is first looked at.
                if before != state
                    && (had_process || state != NodeState::Down)
                    && matches!(state, NodeState::Up | NodeState::Down | NodeState::Lost)
                {
                    let text = match &node.reason {
                        Some(reason) => format!("{state}: {reason}"),
                        None => state.to_string(),
                    };
                    self.note("node", name.as_str(), text);
                }
            }
            News::Servers(reports) => {
                let at = self.begun.elapsed();
                let mut notes = Vec::new();
                self.shared.change_registry(|registry| {
                    for report in &reports {
                        registry.hear(report);
                    }
                });
                for report in reports {
                    let before = node.reports.get(&report.id);
                    for note in self.incidents.hear(before, &report, at, self.started_ms) {
                        notes.push((report.id.to_string(), note));
                    }
                    node.reports.insert(report.id.clone(), report);
                }
                for (id, text) in notes {
                    self.note("server", id, text);
                }
            }
            News::Removed(ids) => {
                node.reports.retain(|id, _| !ids.contains(id));
                for id in &ids {
                    self.incidents.forget(id);
                }
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Refuses to start anything in a grid that is being stopped.
fn stopping() -> Refusal {
    Refusal::new(RefusalKind::Refused, "the grid is stopping")
        .hint("wait until it has stopped, then `omero-grid start`")
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
