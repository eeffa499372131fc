//! What sessions cost, measured with real processes over the local socket: `cargo bench --bench sessions`.
//!
//! `--quick` measures for a shorter time. `OMERO_GRID_BENCH_STORE` is the store, as property `omero.grid.store` has it; without it
//! each grid has a SQLite store of its own. A PostgreSQL store has to be made (`omero-grid store init`) and empty.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use omero_grid::ipc::message::blitz::{Authority, Create, Target};
use omero_grid::ipc::message::client::{ClientLink, DrainRequest, Placed, Reply, Request};
use omero_grid::ipc::{Address, CallError, Client, Hello, RefusalKind, Role, RunDir};
use omero_grid::model::{Accepting, Secret, ServerId, SessionId};
use tokio::task::{JoinSet, LocalSet};

const BIN: &str = env!("CARGO_BIN_EXE_omero-grid");

/// The sessions of the large directory.
const MANY: usize = 100_000;

/// Creations that are under way at once while they are made.
const UNDER_WAY: usize = 64;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The password of `root` in a store that is not the grid's own.
const PASSWORD: &str = "bench";

/// A grid in a directory of its own, stopped at the end whatever happens.
struct Grid(tempfile::TempDir);

impl Grid {
    /// Starts one node with so many Blitzes.
    fn start(blitzes: usize) -> Self {
        let temp = tempfile::Builder::new()
            .prefix("og")
            .tempdir()
            .expect("a temporary directory");
        let store = std::env::var("OMERO_GRID_BENCH_STORE").unwrap_or_default();
        let mut xml = String::from("<icegrid><application name=\"Bench\"><node name=\"n\">");
        for n in 0..blitzes {
            let _ = write!(
                xml,
                "<server id=\"Blitz-{n}\" exe=\"omero-grid\" activation=\"always\"><option>blitz</option><properties>\
                 <property name=\"omero.grid.ready\" value=\"notify\"/>\
                 <property name=\"omero.data.dir\" value=\"var/data\"/>\
                 <property name=\"omero.cluster.redirector\" value=\"scaleRedirector\"/>"
            );
            if !store.is_empty() {
                let _ = write!(
                    xml,
                    "<property name=\"omero.grid.store\" value=\"{store}\"/>"
                );
            }
            xml.push_str("</properties></server>");
        }
        xml.push_str("</node></application></icegrid>");
        std::fs::write(temp.path().join("grid.xml"), xml).expect("a descriptor");
        let grid = Self(temp);
        grid.must(&["start", "grid.xml"]);
        if !store.is_empty() {
            // Its root is older than this grid.
            std::fs::write(grid.dir().join("pw"), PASSWORD).expect("a password");
            grid.must(&["user", "passwd", "root", "--password-file", "pw"]);
            std::fs::write(grid.dir().join("var/root-password"), PASSWORD).expect("a password");
        }
        grid
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BIN);
        command
            .current_dir(self.dir())
            .args(args)
            .env("OMERO_GRID_REGISTRY_ENDPOINTS", "tcp -h 127.0.0.1 -p 0")
            .env_remove("OMERODIR")
            .env_remove("STATE_DIRECTORY");
        command.stdin(Stdio::null()).output().expect("the program")
    }

    fn must(&self, args: &[&str]) {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn socket(&self) -> PathBuf {
        let run_dir = RunDir::find(self.dir()).expect("sockets");
        run_dir.socket(Address::Master)
    }

    fn password(&self) -> String {
        let path = self.dir().join("var/root-password");
        let text = std::fs::read_to_string(path).expect("a password");
        text.trim().to_owned()
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

/// A connection to the master, and the password of `root`.
struct User {
    client: Client<ClientLink>,
    pid: u32,
    password: String,
}

impl User {
    async fn of(grid: &Grid) -> Self {
        let me = Hello::new(Role::Client, "bench");
        let connected = Client::connect(&grid.socket(), &me).await;
        let (client, master, _) = connected.expect("a master");
        Self {
            client,
            pid: master.pid,
            password: grid.password(),
        }
    }

    async fn ask(&self, request: Request) -> Reply {
        self.client.call(&request).await.expect("an answer")
    }

    async fn create(&self) -> Placed {
        let create = Create {
            user: "root".to_owned(),
            password: Secret::new(self.password.as_str()),
            agent: "bench".to_owned(),
            ip: String::new(),
            time_to_idle_ms: None,
            time_to_live_ms: None,
            token: None,
            group: String::new(),
            event: String::new(),
        };
        match self.ask(Request::CreateSession { create, via: None }).await {
            Reply::Placed(placed) => placed,
            other => panic!("{other:?}"),
        }
    }

    async fn close(&self, session: SessionId) {
        let target = Target::Uuid { session };
        let authority = Authority::Owner;
        self.ask(Request::CloseSession { target, authority }).await;
    }

    /// Waits until a Blitz takes sessions or takes none.
    async fn until(&self, id: &ServerId, accepting: Accepting) {
        let begun = Instant::now();
        let mut after = None;
        while begun.elapsed() < PATIENCE {
            let request = Request::Status {
                after,
                wait_ms: 1000,
            };
            let Reply::Status { revision, status } = self.ask(request).await else {
                panic!("an answer to another request");
            };
            after = Some(revision);
            let mut servers = status.nodes.iter().flat_map(|node| &node.servers);
            let server = servers.find(|server| server.id == *id).expect("the server");
            if server.blitz.as_ref().map(|blitz| blitz.accepting) == Some(accepting) {
                return;
            }
        }
        panic!("waited for {id} to be {accepting}");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, future)
}

/// Returns the time that this part of them did not exceed.
fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort();
    let at = (times.len() as f64 * part) as usize;
    times[at.min(times.len() - 1)]
}

fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// Prints one figure beside its goal.
fn row(what: &str, is: &str, goal: &str) {
    println!("{what:<58} {is:>12}   {goal}");
}

/// Opens and closes sessions over so many connections.
fn throughput(measure: Duration) {
    println!("blitzes clients  create+close/s        p50        p99");
    for blitzes in [1, 2, 4] {
        let grid = Grid::start(blitzes);
        for clients in [1, 8, 64] {
            let (mut times, took) = block_on(come_and_go(&grid, clients, measure));
            println!(
                "{blitzes:>7} {clients:>7} {:>15.0} {:>10} {:>10}",
                times.len() as f64 / took.as_secs_f64(),
                ms(quantile(&mut times, 0.5)),
                ms(quantile(&mut times, 0.99)),
            );
        }
    }
}

async fn come_and_go(grid: &Grid, clients: usize, measure: Duration) -> (Vec<Duration>, Duration) {
    let times = Rc::new(RefCell::new(Vec::new()));
    let mut users = Vec::new();
    for _ in 0..clients {
        let user = User::of(grid).await;
        // The first login at each Blitz pays for the password check.
        for _ in 0..8 {
            user.close(user.create().await.session.uuid).await;
        }
        users.push(user);
    }
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for user in users {
        let times = times.clone();
        tasks.spawn_local(async move {
            while begun.elapsed() < measure {
                let since = Instant::now();
                user.close(user.create().await.session.uuid).await;
                times.borrow_mut().push(since.elapsed());
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a client");
    }
    let took = begun.elapsed();
    (times.take(), took)
}

/// Returns the resident size of a process, in bytes.
fn rss(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kb.expect("a number") * 1024
}

/// Kills the master and starts the next one. Returns when that was begun.
async fn another_master(grid: &Grid) -> (Instant, User) {
    let old = User::of(grid).await;
    let killed = Command::new("kill")
        .args(["-9", &old.pid.to_string()])
        .status();
    assert!(killed.expect("kill").success());
    old.client.closed().await;
    let begun = Instant::now();
    grid.must(&["start"]);
    (begun, User::of(grid).await)
}

/// A directory of very many sessions: its size, how fast it is rebuilt, and how fast a session is found in it.
fn directory() {
    let grid = Grid::start(1);
    block_on(async {
        let (_, user) = another_master(&grid).await;
        let empty = rss(user.pid);
        let user = Rc::new(user);
        let sessions = Rc::new(RefCell::new(Vec::with_capacity(MANY)));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..UNDER_WAY {
            let (user, sessions) = (user.clone(), sessions.clone());
            tasks.spawn_local(async move {
                while sessions.borrow().len() < MANY {
                    let placed = user.create().await;
                    sessions.borrow_mut().push(placed.session.uuid);
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a client");
        }
        let mut sessions = sessions.take();
        let rate = sessions.len() as f64 / begun.elapsed().as_secs_f64();
        row(
            &format!("creations a second, {UNDER_WAY} under way on one connection"),
            &format!("{rate:.0}"),
            "",
        );
        drop(user);
        sessions.sort();
        let last = *sessions.last().expect("sessions");
        let (begun, user) = another_master(&grid).await;
        // Ids are told in order: when the last one is known, all are.
        while !knows(&user, last).await {
            assert!(begun.elapsed() < PATIENCE, "the directory is not rebuilt");
        }
        row(
            &format!("{MANY} sessions known again, since `start` was typed"),
            &format!("{:.3} s", begun.elapsed().as_secs_f64()),
            "< 2 s",
        );
        let bytes = rss(user.pid).saturating_sub(empty) / sessions.len() as u64;
        row(
            "bytes of the master for a session",
            &bytes.to_string(),
            "< 400",
        );
        let mut times = Vec::new();
        for session in sessions.iter().step_by(sessions.len() / 5000) {
            let since = Instant::now();
            user.ask(Request::JoinSession { session: *session }).await;
            times.push(since.elapsed());
        }
        row(
            "join among them, whole round trip to its Blitz, p50",
            &ms(quantile(&mut times, 0.5)),
            "",
        );
        row(
            "join among them, whole round trip to its Blitz, p99",
            &ms(quantile(&mut times, 0.99)),
            "< 1 ms",
        );
    });
}

/// Returns whether the master's directory has a session: only that is asked where one is named by its beginning.
async fn knows(user: &User, session: SessionId) -> bool {
    let request = Request::MoveSession {
        target: Target::Prefix {
            prefix: session.reveal(),
        },
        to: "Blitz-0".parse().expect("a name"),
        force: false,
    };
    match user.client.call(&request).await {
        // It is there already.
        Err(CallError::Refused(refusal)) => refusal.kind != RefusalKind::NotFound,
        other => panic!("{other:?}"),
    }
}

/// How long after a drain was asked for sessions still go to its Blitz.
fn drain(rounds: usize) {
    let grid = Grid::start(4);
    block_on(async {
        let id: ServerId = "Blitz-0".parse().expect("a name");
        let admin = User::of(&grid).await;
        let (mut answers, mut late) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            // When each creation that went to this Blitz was asked for.
            let begun = Rc::new(RefCell::new(Vec::new()));
            let over = Rc::new(RefCell::new(false));
            let mut tasks = JoinSet::new();
            for _ in 0..16 {
                let user = User::of(&grid).await;
                let (begun, over, id) = (begun.clone(), over.clone(), id.clone());
                tasks.spawn_local(async move {
                    while !*over.borrow() {
                        let since = Instant::now();
                        let placed = user.create().await;
                        if placed.server == id {
                            begun.borrow_mut().push(since);
                        }
                        user.close(placed.session.uuid).await;
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let asked = Instant::now();
            let drain = DrainRequest {
                names: vec![id.to_string()],
                ..DrainRequest::default()
            };
            admin.ask(Request::Drain { drain }).await;
            answers.push(asked.elapsed());
            admin.until(&id, Accepting::Drained).await;
            *over.borrow_mut() = true;
            while let Some(ended) = tasks.join_next().await {
                ended.expect("a client");
            }
            assert!(!begun.borrow().is_empty(), "nothing to be drained");
            let after = |at: &Instant| at.saturating_duration_since(asked);
            late.push(begun.borrow().iter().map(after).max().unwrap_or_default());
            let (names, node) = (vec![id.to_string()], false);
            admin.ask(Request::Undrain { names, node }).await;
            admin.until(&id, Accepting::Yes).await;
        }
        row(
            "answer to a drain under 16 clients, p50",
            &ms(quantile(&mut answers, 0.5)),
            "",
        );
        row(
            "last creation placed there after a drain was asked for",
            &ms(quantile(&mut late, 1.0)),
            "< 10 ms",
        );
    });
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    throughput(Duration::from_secs(if quick { 1 } else { 10 }));
    directory();
    drain(if quick { 5 } else { 20 });
}
