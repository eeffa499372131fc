//! A node's servers as real processes, without a master.

use std::time::Duration;

use tokio::sync::MutexGuard;

use super::*;
use crate::descriptor::{AdapterDescriptor, ServerDescriptor};
use crate::ice::net::{Adapter, Incoming, Responder, Servant, Servants, Served};
use crate::ice::{Identity, Missing, Proxy, Reference};
use crate::ipc::message::node::{
    Action, Goal, Registered, Registration, Reply, Request, ServerReport,
};
use crate::ipc::{Handler as _, Hello, Peer, Role};
use crate::model::{ExitStatus, FailureCause, ServerState};
use crate::node::link::Answers;
use crate::node::{Options, start};

/// How long a test waits for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    node: crate::node::Node,
    dir: tempfile::TempDir,
    alone: MutexGuard<'static, ()>,
}

impl Node {
    async fn new() -> Self {
        let alone = crate::sys::reaper::ALONE.lock().await;
        let dir = tempfile::tempdir().unwrap();
        Self {
            node: Self::start(dir.path()).await,
            dir,
            alone,
        }
    }

    async fn start(dir: &Path) -> crate::node::Node {
        let options = Options {
            name: "n".parse().unwrap(),
            dir: dir.to_owned(),
            state: dir.to_owned(),
        };
        start(&options, None).await.unwrap()
    }

    /// Forgets everything without ending a process, as a killed node does, and starts anew.
    async fn die(self) -> Self {
        let Self { node, dir, alone } = self;
        node.reaping.abort();
        for server in std::mem::take(&mut *node.supervisor.servers()).into_values() {
            server.handle.abort();
        }
        drop(node);
        tokio::task::yield_now().await;
        Self {
            node: Self::start(dir.path()).await,
            dir,
            alone,
        }
    }

    async fn configure(&self, generation: u64, servers: Vec<Assigned>) {
        self.configure_with(generation, servers, None).await;
    }

    /// Configures a node whose registry has a locator, or none.
    async fn configure_with(&self, generation: u64, servers: Vec<Assigned>, locator: Option<&str>) {
        let assignment = Assignment {
            generation,
            servers,
            not_ready_elsewhere: Vec::new(),
            settings: Default::default(),
            locator: locator.map(str::to_owned),
        };
        self.node.supervisor.configure(assignment).await.unwrap();
    }

    /// Waits until a server's report is as it should be.
    async fn until(&self, id: &str, what: impl Fn(&ServerReport) -> bool) -> ServerReport {
        let id: ServerId = id.parse().unwrap();
        let board = &self.node.context.board;
        let mut changes = board.watch();
        let wait = async {
            loop {
                if let Some(report) = board.get(&id).filter(&what) {
                    return report;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(report) => report,
            Err(_) => panic!("{id} is {:#?}", board.get(&id)),
        }
    }

    async fn active(&self, id: &str) -> ServerReport {
        self.until(id, |report| report.state == ServerState::Active)
            .await
    }

    /// Registers as a master does that was called by the process `from`.
    async fn register(&self, id: &str, what: Registration, from: Option<u32>) -> Registered {
        let request = Request::Register {
            server: id.parse().unwrap(),
            what,
            from,
        };
        match self.ask(request).await.unwrap() {
            Reply::Registered { outcome } => outcome,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        let answers = Arc::new(Answers(self.node.supervisor.clone()));
        let peer = Arc::new(Peer {
            hello: Hello::new(Role::Master, "test"),
            uid: 0,
        });
        answers.handle(peer, request).await
    }

    async fn act(&self, id: &str, action: Action) -> Result<(), Refusal> {
        let actor = self.node.supervisor.actor(&id.parse().unwrap()).unwrap();
        tokio::time::timeout(PATIENCE, actor.act(action))
            .await
            .unwrap()
    }
}

fn server(id: &str, script: &str) -> Assigned {
    Assigned {
        id: id.parse().unwrap(),
        application: "A".to_owned(),
        descriptor: ServerDescriptor {
            id: id.to_owned(),
            exe: "sh".to_owned(),
            options: vec!["-c".to_owned(), script.to_owned()],
            activation: "always".to_owned(),
            deactivation_timeout: "2".to_owned(),
            ..ServerDescriptor::default()
        },
        goal: Goal::Mode,
        enabled: true,
        draining: false,
        in_place: false,
    }
}

fn with(mut assigned: Assigned, name: &str, value: &str) -> Assigned {
    let property = (name.to_owned(), value.to_owned());
    assigned.descriptor.property_set.properties.push(property);
    assigned
}

const SLEEP: &str = "exec sleep 1000";

#[tokio::test]
async fn a_server_runs_dies_and_runs_again_until_it_is_stopped() {
    let node = Node::new().await;
    node.configure(1, vec![server("S", SLEEP)]).await;
    let first = node.active("S").await;
    let pid = first.pid.unwrap();
    process::signal_group(pid, 9).unwrap();
    let second = node
        .until("S", |r| {
            r.state == ServerState::Active && r.pid != Some(pid)
        })
        .await;
    assert_eq!(second.restarts, 1);
    assert_eq!(second.last_exit.unwrap().0, ExitStatus::Signal(9));
    node.act("S", Action::Stop).await.unwrap();
    let stopped = node.until("S", |r| r.state == ServerState::Inactive).await;
    assert_eq!((stopped.pid, stopped.goal), (None, Goal::Stopped));
    assert!(process::stat(second.pid.unwrap()).is_none_or(|stat| !stat.is_alive()));
    node.act("S", Action::Start).await.unwrap();
    node.node.supervisor.stop_all().await;
}

#[tokio::test]
async fn a_server_outlives_its_node_and_is_adopted() {
    let node = Node::new().await;
    let assigned = || vec![server("S", "(setsid sleep 1000 &) ; exec sleep 1000")];
    node.configure(1, assigned()).await;
    let pid = node.active("S").await.pid;
    let node = node.die().await;
    node.configure(1, assigned()).await;
    assert_eq!(node.active("S").await.pid, pid);
    // Also where the record was lost, or the node died before it could write the pid.
    let record = node.dir.path().join("var/n/servers/S/process.json");
    let mut known = Record::read(&record).unwrap();
    known.process = None;
    known.write(&record).unwrap();
    let node = node.die().await;
    node.configure(1, assigned()).await;
    assert_eq!(node.active("S").await.pid, pid);
    std::fs::remove_file(&record).unwrap();
    let node = node.die().await;
    // One that is not assigned any more is ended.
    node.configure(1, Vec::new()).await;
    assert!(process::stat(pid.unwrap()).is_none_or(|stat| !stat.is_alive()));
    assert!(node.node.supervisor.marked().is_empty());
}

#[tokio::test]
async fn a_changed_definition_restarts_and_an_older_assignment_is_refused() {
    let node = Node::new().await;
    node.configure(2, vec![server("S", SLEEP)]).await;
    let pid = node.active("S").await.pid;
    let mut described = server("S", SLEEP);
    described.descriptor.description = "other words".to_owned();
    node.configure(3, vec![described]).await;
    assert_eq!(node.active("S").await.pid, pid);
    node.configure(4, vec![server("S", "exec sleep 999")]).await;
    node.until("S", |r| r.state == ServerState::Active && r.pid != pid)
        .await;
    let old = Assignment {
        generation: 3,
        servers: Vec::new(),
        not_ready_elsewhere: Vec::new(),
        settings: Default::default(),
        locator: None,
    };
    let refusal = node.node.supervisor.configure(old).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Refused);
    node.node.supervisor.stop_all().await;
}

#[tokio::test]
async fn a_failed_start_says_why_and_is_tried_again() {
    let node = Node::new().await;
    let mut missing = server("M", "");
    missing.descriptor.exe = "no-such-program".to_owned();
    let mut loud = with(
        server("L", "echo because >&2; exit 7"),
        "omero.grid.ready",
        "notify",
    );
    loud.goal = Goal::Stopped;
    node.configure(1, vec![missing, loud]).await;
    let report = node.until("M", |r| r.restarts > 1).await;
    let program = "no-such-program".to_owned();
    assert_eq!(
        report.failure.unwrap().cause,
        FailureCause::MissingProgram { program }
    );
    let refusal = node.act("L", Action::Start).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Failed);
    assert!(
        refusal.message.contains("exited with code 7"),
        "{refusal:?}"
    );
    assert!(refusal.hint.unwrap().contains("because"));
    node.node.supervisor.stop_all().await;
}

#[tokio::test]
async fn servers_start_and_stop_in_order() {
    let node = Node::new().await;
    let log = node.dir.path().join("order");
    let script = |name: &str| {
        let log = log.display();
        format!(
            "echo +{name} >>{log}; trap 'echo -{name} >>{log}; exit' TERM; while :; do sleep 0.02; done"
        )
    };
    let late = with(server("A", &script("A")), "omero.grid.after", "B");
    let early = with(server("B", &script("B")), "omero.grid.ready", "100");
    node.configure(1, vec![late, early]).await;
    let waiting = node.until("A", |r| r.waiting_for.is_some()).await;
    assert_eq!(waiting.waiting_for.unwrap(), "B to be active");
    node.active("A").await;
    node.node.supervisor.stop_all().await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "+B\n+A\n-A\n-B\n");
}

#[tokio::test]
async fn a_server_that_ignores_term_is_killed_and_what_hides_is_found_at_the_end() {
    let node = Node::new().await;
    // A grandchild with no mark, no group and no parent of ours left.
    let file = node.dir.path().join("hidden");
    let hide = format!(
        "(env -i setsid sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000' >/dev/null 2>&1 &)
         trap '' TERM; while :; do sleep 0.1; done",
        file.display()
    );
    node.configure(1, vec![server("S", &hide)]).await;
    node.active("S").await;
    tokio::time::timeout(PATIENCE, crate::sys::watch::appearance(&file))
        .await
        .unwrap()
        .unwrap();
    let hidden: u32 = std::fs::read_to_string(&file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(process::stat(hidden).unwrap().is_alive());
    let begun = std::time::Instant::now();
    node.node.supervisor.stop_all().await;
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(process::stat(hidden).is_none_or(|stat| !stat.is_alive()));
    assert!(node.node.supervisor.marked().is_empty());
}

const LOCATOR: &str = "IceGrid/Locator:tcp -h 127.0.0.1 -p 4061";

fn adapter(id: &str, server_lifetime: bool) -> AdapterDescriptor {
    AdapterDescriptor {
        name: id.to_owned(),
        id: id.to_owned(),
        server_lifetime,
        ..AdapterDescriptor::default()
    }
}

/// A server with an adapter of its lifetime and one besides.
fn ice_server(id: &str, script: &str) -> Assigned {
    let mut assigned = server(id, script);
    assigned.descriptor.adapters = vec![adapter("A", true), adapter("B", false)];
    assigned
}

fn listens(adapter: &str, port: Option<u16>) -> Registration {
    Registration::Adapter {
        adapter: adapter.to_owned(),
        proxy: port.map(|port| format!("dummy -t -e 1.1:tcp -h 127.0.0.1 -p {port} -t 60000")),
    }
}

fn process_at(port: u16) -> Registration {
    Registration::Process {
        proxy: Some(format!(
            "x/admin -f Process -t -e 1.1:tcp -h 127.0.0.1 -p {port}"
        )),
    }
}

#[tokio::test]
async fn an_ice_server_is_active_when_it_has_registered_and_not_before() {
    let node = Node::new().await;
    let assigned = with(ice_server("S", SLEEP), "omero.grid.ready", "1");
    node.configure_with(1, vec![assigned.clone(), server("P", SLEEP)], Some(LOCATOR))
        .await;
    // A plain program is not concerned.
    node.active("P").await;
    let pid = node.until("S", |r| r.pid.is_some()).await.pid;
    let config = node.dir.path().join("var/n/servers/S/config/config");
    let config = std::fs::read_to_string(config).unwrap();
    assert!(
        config.contains(&format!("\nIce.Default.Locator={LOCATOR}\n")),
        "{config}"
    );

    assert_eq!(
        node.register("S", listens("A", Some(1)), pid).await,
        Registered::Taken
    );
    assert_eq!(
        node.register("S", listens("C", Some(1)), pid).await,
        Registered::NoSuchAdapter
    );
    // Not active yet, it may still choose.
    assert_eq!(
        node.register("S", listens("A", Some(2)), pid).await,
        Registered::Taken
    );
    let report = node.until("S", |_| true).await;
    assert_eq!(
        (report.state, report.adapters.len()),
        (ServerState::Activating, 1)
    );
    assert_eq!(
        node.register("S", process_at(3), pid).await,
        Registered::Taken
    );
    let report = node.active("S").await;
    assert!(report.ready_after_ms.is_some());
    assert!(report.adapters["A"].contains("-p 2") && report.process.unwrap().contains("-p 3"));

    assert_eq!(
        node.register("S", listens("A", Some(2)), pid).await,
        Registered::Taken
    );
    assert_eq!(
        node.register("S", listens("A", Some(4)), pid).await,
        Registered::AlreadyActive
    );
    assert_eq!(
        node.register("S", listens("B", Some(5)), None).await,
        Registered::Taken
    );
    assert_eq!(
        node.register("S", listens("B", None), pid).await,
        Registered::Taken
    );
    assert_eq!(node.active("S").await.adapters.len(), 1);
    let request = Request::Register {
        server: "X".parse().unwrap(),
        what: process_at(3),
        from: None,
    };
    assert_eq!(
        node.ask(request).await.unwrap_err().kind,
        RefusalKind::NotFound
    );

    // Another locator alone restarts nothing, and none at all does not either.
    node.configure_with(2, vec![assigned.clone()], Some("L:tcp -h h -p 1"))
        .await;
    node.configure_with(3, vec![assigned], None).await;
    assert_eq!(node.active("S").await.pid, pid);
    // It sleeps, and so does not hear: a signal ends it.
    node.act("S", Action::Stop).await.unwrap();
    let report = node.until("S", |r| r.state == ServerState::Inactive).await;
    assert_eq!((report.adapters.len(), report.process), (0, None));
    assert_eq!(
        node.register("S", listens("A", Some(1)), pid).await,
        Registered::Stale
    );
    // Without a registry it could not register.
    node.act("S", Action::Start).await.unwrap();
    node.node.supervisor.stop_all().await;
}

#[tokio::test]
async fn what_another_process_says_changes_nothing() {
    let node = Node::new().await;
    // Both belong to it: the child by its mark and its descent, the other one by its mark alone.
    let script = "(setsid sleep 1001 &) ; sleep 1002 & exec sleep 1000";
    let assigned = || vec![ice_server("S", script)];
    node.configure_with(1, assigned(), Some(LOCATOR)).await;
    let old = node.until("S", |r| r.pid.is_some()).await.pid;
    node.register("S", listens("A", Some(1)), old).await;
    node.register("S", process_at(1), old).await;
    node.active("S").await;
    let stranger = std::process::id();
    assert_eq!(
        node.register("S", listens("A", None), Some(stranger)).await,
        Registered::Stale
    );

    process::signal_group(old.unwrap(), 9).unwrap();
    let new = node.until("S", |r| r.pid.is_some() && r.pid != old).await;
    assert_eq!(
        (new.state, new.adapters.len()),
        (ServerState::Activating, 0)
    );
    let children = || -> Vec<u32> {
        let table = Table::read().unwrap();
        marks::carriers(&table, &node.node.context.dir)
            .map(|(stat, _)| stat.pid)
            .filter(|pid| Some(*pid) != new.pid)
            .collect()
    };
    while children().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for pid in children() {
        let outcome = node.register("S", listens("A", Some(2)), Some(pid)).await;
        assert_eq!(outcome, Registered::Taken);
    }
    node.register("S", process_at(2), new.pid).await;
    node.active("S").await;
    // Late messages: the old process has ended, whether its pid is known or not.
    for from in [old, None] {
        assert_eq!(
            node.register("S", listens("A", None), from).await,
            Registered::Stale
        );
    }
    assert_eq!(node.active("S").await.adapters.len(), 1);
    node.node.supervisor.stop_all().await;
}

#[tokio::test]
async fn what_was_registered_outlives_the_node() {
    let node = Node::new().await;
    let assigned = || vec![ice_server("S", SLEEP), ice_server("T", SLEEP)];
    node.configure_with(1, assigned(), Some(LOCATOR)).await;
    let pid = node.until("S", |r| r.pid.is_some()).await.pid;
    let other = node.until("T", |r| r.pid.is_some()).await.pid;
    node.register("S", listens("A", Some(1)), pid).await;
    node.register("T", listens("A", Some(2)), other).await;
    node.register("T", process_at(2), other).await;
    let before = node.active("T").await;
    let node = node.die().await;
    node.configure_with(1, assigned(), Some(LOCATOR)).await;
    let after = node.active("T").await;
    assert_eq!(
        (after.pid, after.adapters, after.process),
        (before.pid, before.adapters, before.process)
    );
    // What is missing comes after the death of the node.
    let report = node.until("S", |r| r.pid == pid).await;
    assert_eq!(
        (report.state, report.adapters.len()),
        (ServerState::Activating, 1)
    );
    node.register("S", process_at(1), pid).await;
    node.active("S").await;
    // One that takes an adapter back ends by itself, and is made to.
    node.register("S", listens("A", None), pid).await;
    let report = node
        .until("S", |r| r.state == ServerState::Deactivating)
        .await;
    assert_eq!((report.pid, report.adapters.len()), (pid, 0));
    let again = node.until("S", |r| r.pid.is_some() && r.pid != pid).await;
    assert_eq!(again.last_exit.unwrap().0, ExitStatus::Unknown);
    node.node.supervisor.stop_all().await;
}

/// Ends a process by a signal of its own when it is asked to.
struct Ends(u32);

impl Servant for Ends {
    fn types(&self) -> &[&str] {
        &["::Ice::Process"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        if incoming.target().operation != "shutdown" {
            return responder.missing(Missing::Operation);
        }
        process::signal_group(self.0, 10).unwrap();
        responder.done(|_| {})
    }
}

#[tokio::test]
async fn a_server_is_asked_to_end_where_it_said_and_by_term_where_it_does_not_hear() {
    let node = Node::new().await;
    let mut assigned = server("S", SLEEP);
    assigned.descriptor.deactivation_timeout = "60".to_owned();
    node.configure(1, vec![assigned]).await;
    let pid = node.active("S").await.pid.unwrap();

    let identity = Identity {
        category: "uuid".to_owned(),
        name: "admin".to_owned(),
    };
    let servants = Arc::new(Servants::new());
    servants.add(&identity, "Process", Arc::new(Ends(pid)));
    let anywhere: Proxy = "x:tcp -h 127.0.0.1 -p 0".parse().unwrap();
    let Reference::Direct(endpoints) = anywhere.reference else {
        panic!("{anywhere:?}");
    };
    let adapter = Adapter::bind(&endpoints, Arc::default(), servants)
        .await
        .unwrap();
    let mut proxy = adapter.proxy(identity);
    proxy.facet = "Process".to_owned();
    let (_serves, stop) = watch::channel(false);
    let asked = |proxy: String| Registration::Process { proxy: Some(proxy) };
    node.register("S", asked(proxy.to_string()), Some(pid))
        .await;
    tokio::select! {
        () = adapter.serve(stop) => panic!("it was not to end"),
        stopped = node.act("S", Action::Stop) => stopped.unwrap(),
    }
    let report = node.until("S", |r| r.state == ServerState::Inactive).await;
    assert_eq!(report.last_exit.unwrap().0, ExitStatus::Signal(10));

    // Nobody there; somebody who never says a word; no proxy; one that nobody can find.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = deaf.local_addr().unwrap().port();
    for text in [
        proxy.to_string(),
        format!("uuid/admin -f Process:tcp -h 127.0.0.1 -p {port}"),
        "uuid/admin -f".to_owned(),
        "uuid/admin -f Process @ nowhere".to_owned(),
    ] {
        node.act("S", Action::Start).await.unwrap();
        let pid = node.active("S").await.pid;
        node.register("S", asked(text.clone()), pid).await;
        node.act("S", Action::Stop).await.unwrap();
        let report = node.until("S", |r| r.state == ServerState::Inactive).await;
        assert_eq!(
            report.last_exit.unwrap().0,
            ExitStatus::Signal(15),
            "{text}"
        );
    }
    node.node.supervisor.stop_all().await;
}
