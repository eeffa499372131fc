//! A rolling restart while many users come and go: nobody sees an error, and no Blitz goes that somebody still uses (DESIGN.md §7).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use omero_grid::ipc::message::blitz::{self, Authority, Create, Target};
use omero_grid::ipc::message::client::{ClientLink, GridStatus, Reply, Request};
use omero_grid::ipc::message::node::ServerReport;
use omero_grid::ipc::{Address, Client, Hello, Role, RunDir};
use omero_grid::model::{Accepting, Secret, ServerId, SessionId};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;

use crate::harness::{Grid, application, blitz, node};

const BLITZES: [&str; 3] = ["Blitz-0", "Blitz-1", "Blitz-2"];

const USERS: u64 = 50;

/// The logins that are offered: 200 a second.
const PACE: Duration = Duration::from_millis(5);

/// The logins that may be under way; a machine that does not keep up is offered no more.
const UNDER_WAY: usize = 128;

/// Logins that have to succeed before the restart begins, and while each Blitz drains.
const ENOUGH: u64 = 100;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Those who log in, as they see the grid.
struct Users {
    client: Client<ClientLink>,
    /// Logins that went through to the logout.
    done: watch::Sender<u64>,
    /// Blitzes that were seen to drain and are not back.
    draining: RefCell<BTreeSet<ServerId>>,
    /// Holders that still have their session.
    holding: Cell<usize>,
    over: Cell<bool>,
}

fn password(user: &str) -> Secret {
    Secret::new(format!("secret of {user}"))
}

impl Users {
    /// Asks once: an error of any kind is what the test is about.
    async fn ask(&self, request: Request) -> Reply {
        match tokio::time::timeout(PATIENCE, self.client.call(&request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => panic!("a client saw an error: {error:?}"),
            Err(_) => panic!("a client had no answer within {PATIENCE:?}"),
        }
    }

    async fn add(&self, user: &str) {
        let request = Box::new(blitz::Request::AddUser {
            name: user.to_owned(),
            password: password(user),
            admin: false,
            authority: Authority::Owner,
        });
        self.ask(Request::Blitz { request }).await;
    }

    async fn login(&self, user: &str, via: Option<ServerId>) -> (SessionId, ServerId) {
        let create = Create {
            user: user.to_owned(),
            password: password(user),
            agent: "rolling".to_owned(),
            ip: String::new(),
            time_to_idle_ms: None,
            time_to_live_ms: None,
            token: None,
            group: String::new(),
            event: String::new(),
        };
        match self.ask(Request::CreateSession { create, via }).await {
            Reply::Placed(placed) => (placed.session.uuid, placed.server),
            other => panic!("{other:?}"),
        }
    }

    async fn join(&self, session: SessionId) -> ServerId {
        match self.ask(Request::JoinSession { session }).await {
            Reply::Placed(placed) => placed.server,
            other => panic!("{other:?}"),
        }
    }

    async fn logout(&self, session: SessionId) {
        let target = Target::Uuid { session };
        let authority = Authority::Owner;
        match self.ask(Request::CloseSession { target, authority }).await {
            Reply::Closed { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    async fn come_and_go(&self, user: String) {
        let closed_to_us = self.draining.borrow().clone();
        let (session, server) = self.login(&user, None).await;
        // A login may take until its Blitz is back.
        let closed_to_us = &closed_to_us & &self.draining.borrow();
        assert!(
            !closed_to_us.contains(&server),
            "{server} was known to drain and took a session"
        );
        self.logout(session).await;
        self.done.send_modify(|done| *done += 1);
    }

    /// Watches the status until a Blitz is as it is waited for.
    async fn wait_for(
        &self,
        id: &ServerId,
        mut is: impl FnMut(&ServerReport) -> bool,
    ) -> ServerReport {
        let limit = Instant::now() + PATIENCE;
        let mut after = None;
        loop {
            let request = Request::Status {
                after,
                wait_ms: 1000,
            };
            let Reply::Status { revision, status } = self.ask(request).await else {
                panic!("an answer to another request");
            };
            after = Some(revision);
            let report = report(&status, id);
            if is(report) {
                return report.clone();
            }
            assert!(Instant::now() < limit, "waited for {id}: {report:?}");
        }
    }

    /// Holds a session on a Blitz until that drains and others have logged in elsewhere meanwhile.
    async fn hold(&self, id: ServerId, user: &str) {
        let (session, server) = self.login(user, Some(id.clone())).await;
        assert_eq!(server, id);
        self.holding.set(self.holding.get() + 1);
        let pid = self.wait_for(&id, |_| true).await.pid;
        self.wait_for(&id, |report| {
            assert_eq!(report.pid, pid, "{id} was restarted under a session");
            let accepting = report.blitz.as_ref().map(|blitz| blitz.accepting);
            accepting == Some(Accepting::Draining)
        })
        .await;
        self.draining.borrow_mut().insert(id.clone());
        let enough = *self.done.borrow() + ENOUGH;
        let mut done = self.done.subscribe();
        done.wait_for(|done| *done >= enough).await.unwrap();
        assert_eq!(self.join(session).await, id);
        let last = self.wait_for(&id, |_| true).await;
        assert_eq!(last.pid, pid, "{id} was restarted under a session");
        self.draining.borrow_mut().remove(&id);
        self.holding.set(self.holding.get() - 1);
        self.logout(session).await;
        self.wait_for(&id, |report| {
            let accepting = report.blitz.as_ref().map(|blitz| blitz.accepting);
            report.pid.is_some() && report.pid != pid && accepting == Some(Accepting::Yes)
        })
        .await;
    }
}

fn report<'s>(status: &'s GridStatus, id: &ServerId) -> &'s ServerReport {
    let mut servers = status.nodes.iter().flat_map(|node| &node.servers);
    servers.find(|report| report.id == *id).unwrap()
}

/// Offers logins until told to stop, and counts them; then waits for those under way.
async fn offer(users: Rc<Users>, offered: Rc<Cell<u64>>) {
    let places = std::sync::Arc::new(Semaphore::new(UNDER_WAY));
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    while !users.over.get() {
        ticks.tick().await;
        while let Some(ended) = under_way.try_join_next() {
            ended.unwrap();
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let user = format!("user-{}", offered.get() % USERS);
        offered.set(offered.get() + 1);
        let users = users.clone();
        under_way.spawn_local(async move {
            users.come_and_go(user).await;
            drop(place);
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
    }
}

/// The users, in a thread of their own: `rolling` is told to begin, and the users that it is over.
async fn everybody(
    grid: &Grid,
    begin: std::sync::mpsc::Sender<()>,
    over: tokio::sync::oneshot::Receiver<()>,
) {
    let socket = RunDir::find(grid.dir()).unwrap().socket(Address::Master);
    let me = Hello::new(Role::Client, "rolling");
    let (client, ..) = Client::connect(&socket, &me).await.unwrap();
    let users = Rc::new(Users {
        client,
        done: watch::Sender::new(0),
        draining: RefCell::default(),
        holding: Cell::new(0),
        over: Cell::new(false),
    });
    for n in 0..USERS {
        users.add(&format!("user-{n}")).await;
    }
    // The first to fail ends it all: the others would wait for it.
    let mut tasks = JoinSet::new();
    for (n, id) in BLITZES.iter().enumerate() {
        let (users, id) = (users.clone(), id.parse().unwrap());
        tasks.spawn_local(async move { users.hold(id, &format!("user-{n}")).await });
    }
    let began = Instant::now();
    let offered = Rc::new(Cell::new(0));
    tasks.spawn_local(offer(users.clone(), offered.clone()));
    let holding = users.clone();
    tasks.spawn_local(async move {
        let mut done = holding.done.subscribe();
        done.wait_for(|done| *done >= ENOUGH && holding.holding.get() == BLITZES.len())
            .await
            .unwrap();
        begin.send(()).unwrap();
        over.await.unwrap();
        holding.over.set(true);
    });
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let offered = offered.get();
    let took = began.elapsed();
    assert_eq!(offered, *users.done.borrow());
    println!(
        "{offered} logins in {took:?}: {:.0} a second",
        offered as f64 / took.as_secs_f64()
    );
}

#[test]
fn a_rolling_restart_under_logins_is_not_noticed() {
    let blitzes =
        BLITZES.map(|id| blitz(id).property("omero.cluster.redirector", "scaleRedirector"));
    let grid = Grid::new(&application(&[node("n", &blitzes)]));
    grid.start();
    let before = BLITZES.map(|id| grid.pid(id));
    let (begin, begun) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::scope(|scope| {
        let using = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, everybody(&grid, begin, ended));
        });
        // If the users failed before that, it is they who say why.
        if begun.recv().is_ok() {
            let rolled = grid.run("restart --rolling");
            // They may have failed meanwhile.
            let _ = end.send(());
            if !using.is_finished() {
                let said = rolled.ok().stdout;
                assert!(said.contains("all of them were restarted"), "{said}");
            }
        }
        if let Err(panic) = using.join() {
            std::panic::resume_unwind(panic);
        }
    });
    for (id, old) in BLITZES.iter().zip(before) {
        assert_ne!(grid.pid(id), old, "{id} was not restarted");
    }
    assert_eq!(grid.sessions(), [""; 0]);
    assert!(grid.status()["rollout"].is_null());
}
