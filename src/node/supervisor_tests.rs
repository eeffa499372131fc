//! A node's servers as real processes, without a master.

use std::time::Duration;

use tokio::sync::MutexGuard;

use super::*;
use crate::descriptor::ServerDescriptor;
use crate::ipc::message::node::{Action, Goal, ServerReport};
use crate::model::{ExitStatus, FailureCause, ServerState};
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
        let assignment = Assignment {
            generation,
            servers,
            not_ready_elsewhere: Vec::new(),
            locator: None,
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
