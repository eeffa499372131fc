//! Everything dies, hangs, drains and is deployed at random while clients work; afterwards a program that knows nothing of the
//! grid's code looks whether a session was lost, doubled or moved (`examples/chaos_checker.rs`).
//!
//! `OMERO_GRID_CHAOS_SECONDS` (30 unless set) and `OMERO_GRID_CHAOS_SEED` (drawn and printed unless set) choose how long, and what happens.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use omero_grid::ipc::message::blitz::{Authority, Create, Target};
use omero_grid::ipc::message::client::{ClientLink, Reply, Request};
use omero_grid::ipc::{Address, CallError, Client, Hello, RefusalKind, Role, RunDir};
use omero_grid::model::{Secret, SessionId};
use serde_json::{Value, json};

use crate::harness::{Grid, application, blitz, example, kill, node, pause, sleeper};

const BLITZES: [&str; 4] = ["Blitz-0", "Blitz-1", "Blitz-2", "Blitz-3"];
const NODES: [&str; 2] = ["m", "n"];

/// How long a request may take before its client fails. One that meets a Blitz that hangs is answered within some 40 s, and is asked again
/// from the beginning when its master dies meanwhile; other programs may keep the machine busy, too.
const PATIENCE: Duration = Duration::from_secs(180);

/// Numbers that are drawn, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    fn one_of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
}

/// What a client was told, in a file that is synced line by line.
struct Ledger(File);

impl Ledger {
    fn new(dir: &Path, name: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        Self(File::create(dir.join(name)).unwrap())
    }

    fn note(&mut self, mut line: Value) {
        line["at_ms"] = json!(now_ms());
        writeln!(self.0, "{line}").unwrap();
        self.0.sync_data().unwrap();
    }
}

/// A client of the grid, which connects again whenever the master was lost.
struct Caller {
    socket: PathBuf,
    client: Option<Client<ClientLink>>,
}

impl Caller {
    fn new(grid_dir: &Path) -> Self {
        Self {
            socket: RunDir::find(grid_dir).unwrap().socket(Address::Master),
            client: None,
        }
    }

    /// Asks until there is an answer; a request that was lost is sent again. Its kind and text if it was refused.
    async fn ask(&mut self, request: &Request) -> Result<Reply, (RefusalKind, String)> {
        let limit = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < limit, "no answer to {request:?}");
            let Some(client) = &self.client else {
                let me = Hello::new(Role::Client, "chaos");
                let connecting = Client::connect(&self.socket, &me);
                match tokio::time::timeout(Duration::from_secs(5), connecting).await {
                    Ok(Ok((client, ..))) => self.client = Some(client),
                    // Nobody listens, or whoever does was stopped just now.
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                continue;
            };
            match tokio::time::timeout(PATIENCE, client.call(request)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(CallError::Refused(refusal))) => {
                    return Err((refusal.kind, refusal.message));
                }
                Ok(Err(_)) => self.client = None,
                Err(_) => panic!("no answer to {request:?}"),
            }
        }
    }
}

fn creation(user_password: &str, token: &str) -> Request {
    Request::CreateSession {
        create: Create {
            user: "root".to_owned(),
            password: Secret::new(user_password),
            agent: "chaos".to_owned(),
            ip: String::new(),
            time_to_idle_ms: None,
            time_to_live_ms: None,
            token: Some(token.to_owned()),
            group: String::new(),
            event: String::new(),
        },
        via: None,
    }
}

/// Creates, joins, uses and closes sessions until told to stop; then joins once more all that should be there.
async fn work(dir: PathBuf, n: u64, seed: u64, password: String, phase: Arc<Phases>) {
    let mut dice = Dice(seed ^ (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut ledger = Ledger::new(&dir.join("ledgers"), &format!("client-{n}"));
    let mut caller = Caller::new(&dir);
    let mut open: Vec<SessionId> = Vec::new();
    let mut count = 0;
    while !phase.stopped.load(Ordering::SeqCst) {
        let choice = dice.below(10);
        if open.is_empty() || (choice < 4 && open.len() < 20) {
            count += 1;
            let token = format!("client-{n}-{count}");
            ledger.note(json!({ "op": "create", "token": token, "result": "asked" }));
            match caller.ask(&creation(&password, &token)).await {
                Ok(Reply::Placed(placed)) => {
                    ledger.note(json!({
                        "op": "create", "token": token, "result": "ok",
                        "uuid": placed.session.uuid.reveal(), "server": placed.server,
                    }));
                    open.push(placed.session.uuid);
                }
                other => note_refusal(&mut ledger, "create", None, other),
            }
        } else {
            let at = dice.below(open.len() as u64) as usize;
            let session = open[at];
            if choice < 8 {
                let request = match choice % 2 {
                    0 => Request::JoinSession { session },
                    _ => Request::KeepAlive { session },
                };
                join(&mut caller, &mut ledger, "join", session, &request).await;
            } else {
                open.swap_remove(at);
                close(&mut caller, &mut ledger, session).await;
            }
        }
    }
    let mut settled = phase.settled.clone();
    settled.wait_for(|settled| *settled).await.unwrap();
    for session in open {
        join(
            &mut caller,
            &mut ledger,
            "final",
            session,
            &Request::JoinSession { session },
        )
        .await;
    }
}

async fn join(
    caller: &mut Caller,
    ledger: &mut Ledger,
    op: &str,
    session: SessionId,
    request: &Request,
) {
    match caller.ask(request).await {
        Ok(Reply::Placed(placed)) => ledger.note(json!({
            "op": op, "result": "ok", "uuid": session.reveal(), "server": placed.server,
        })),
        other => note_refusal(ledger, op, Some(session), other),
    }
}

async fn close(caller: &mut Caller, ledger: &mut Ledger, session: SessionId) {
    // Whatever comes of it: from here on it need not be there.
    ledger.note(json!({ "op": "close", "result": "asked", "uuid": session.reveal() }));
    let request = Request::CloseSession {
        target: Target::Uuid { session },
        authority: Authority::Owner,
    };
    match caller.ask(&request).await {
        Ok(Reply::Closed { .. }) => {
            ledger.note(json!({ "op": "close", "result": "ok", "uuid": session.reveal() }));
        }
        // The answer to the first try may have been lost with its master.
        other => note_refusal(ledger, "close", Some(session), other),
    }
}

fn note_refusal(
    ledger: &mut Ledger,
    op: &str,
    session: Option<SessionId>,
    result: Result<Reply, (RefusalKind, String)>,
) {
    let (kind, text) = result.expect_err("an answer to another request");
    ledger.note(json!({
        "op": op, "result": "refused", "uuid": session.map(|id| id.reveal()),
        "kind": format!("{kind:?}"), "text": text,
    }));
}

/// How far the test is.
struct Phases {
    stopped: AtomicBool,
    settled: tokio::sync::watch::Receiver<bool>,
}

/// Runs clients in a thread of their own while `disturb` goes on; `settle` comes before their last joins.
fn with_clients(
    grid: &Grid,
    clients: u64,
    seed: u64,
    disturb: impl FnOnce(),
    settle: impl FnOnce(),
) {
    let (settled_now, settled) = tokio::sync::watch::channel(false);
    let phases = Arc::new(Phases {
        stopped: AtomicBool::new(false),
        settled,
    });
    let password = grid.root_password().trim().to_owned();
    std::thread::scope(|scope| {
        let phase = phases.clone();
        let working = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let local = tokio::task::LocalSet::new();
            let tasks: Vec<_> = (0..clients)
                .map(|n| {
                    let dir = grid.dir().to_owned();
                    local.spawn_local(work(dir, n, seed, password.clone(), phase.clone()))
                })
                .collect();
            runtime.block_on(local.run_until(async {
                for task in tasks {
                    task.await.unwrap();
                }
            }));
        });
        let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            disturb();
            phases.stopped.store(true, Ordering::SeqCst);
            settle();
        }));
        phases.stopped.store(true, Ordering::SeqCst);
        settled_now.send_replace(true);
        let worked = working.join();
        if let Err(panic) = disturbed.and(worked) {
            std::panic::resume_unwind(panic);
        }
    });
}

fn descriptor(variant: u64) -> String {
    let blitz = |id: &str| {
        blitz(id)
            .property(
                "omero.cluster.redirector",
                ["scaleRedirector", "configRedirector"][variant as usize % 2],
            )
            .property("omero.grid.create.wait", "30")
    };
    let other = sleeper("other").env(&format!("VARIANT={variant}"));
    application(&[
        node("m", &[blitz(BLITZES[0]), blitz(BLITZES[1]), other]),
        node("n", &[blitz(BLITZES[2]), blitz(BLITZES[3])]),
    ])
}

/// Does something nasty, drawn, and notes it.
fn disturb_once(
    grid: &Grid,
    dice: &mut Dice,
    notes: &mut Ledger,
    stopped: &mut Vec<(u32, Instant)>,
) {
    stopped.retain(|(pid, until)| {
        let over = *until <= Instant::now();
        if over {
            kill(*pid, Signal::SIGCONT);
        }
        !over
    });
    let id = *dice.one_of(&BLITZES);
    let hang = Duration::from_millis(100 + dice.below(2500));
    let choice = dice.below(17);
    // A status that cannot be had in time is no reason to wait: the master may hang.
    let pid = || {
        let status = quick(grid, &["--format", "json", "status"])?;
        let status: Value = serde_json::from_slice(&status.stdout).ok()?;
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let nodes = status["nodes"].as_array()?;
        match choice {
            0..=3 => nodes
                .iter()
                .flat_map(|node| node["servers"].as_array().unwrap())
                .find(|server| server["id"] == id)
                .and_then(|server| number(&server["pid"])),
            4 | 5 => number(
                &nodes
                    .iter()
                    .find(|node| node["name"] == NODES[choice as usize % 2])?["pid"],
            ),
            _ => number(&status["master"]["pid"]),
        }
    };
    let what = match choice {
        0 | 1 | 4 | 6 => {
            let Some(pid) = pid() else { return };
            kill(pid, Signal::SIGKILL);
            // A stopped process that is killed need not be continued.
            stopped.retain(|(other, _)| *other != pid);
            if choice == 6 {
                grid.wait_gone(pid);
                start(grid, notes);
            }
            format!("kill {pid} ({choice}, {id})")
        }
        2 | 3 | 5 | 7 => {
            let Some(pid) = pid() else { return };
            kill(pid, Signal::SIGSTOP);
            if choice == 7 {
                pause(hang);
                kill(pid, Signal::SIGCONT);
            } else {
                stopped.push((pid, Instant::now() + hang));
            }
            format!("stop {pid} for {hang:?} ({choice}, {id})")
        }
        8 => run(grid, &["drain", id, "--no-wait"]),
        9 | 10 => run(grid, &["undrain", id]),
        11 => run(grid, &["redirect", "set", id]),
        12 => {
            grid.write("grid.xml", &descriptor(dice.below(4)));
            run(grid, &["deploy", "grid.xml"])
        }
        13 => {
            // Begun, and left to go on: what watches it is of no interest.
            let mut command = grid.command(&["restart", "--rolling"]);
            let watcher = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let mut watcher = watcher.unwrap();
            pause(Duration::from_millis(300));
            let _ = watcher.kill();
            let _ = watcher.wait();
            "restart --rolling".to_owned()
        }
        14 => run(grid, &["restart", "--rolling", "--abort"]),
        15 => run(grid, &["upgrade"]),
        _ => run(grid, &["reload"]),
    };
    notes.note(json!({ "did": what }));
    pause(Duration::from_millis(50 + dice.below(500)));
}

/// Starts the next master, again where that fails, as systemd does; what it fails for is noted, and fails the test in the end.
fn start(grid: &Grid, notes: &mut Ledger) {
    for _ in 0..5 {
        let Some(output) = quick(grid, &["start", "--wait", "10"]) else {
            println!("start: has not ended");
            notes.note(json!({ "did": "start", "result": "has not ended" }));
            return;
        };
        // Not everything may be active in time: the master is there all the same. That there is one already may be the work of a start
        // that was given up.
        match output.status.code() {
            Some(0 | 5) => return,
            Some(6) if quick(grid, &["status"]).is_some_and(|run| run.status.success()) => return,
            _ => {}
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("start: {} {said}", output.status);
        notes.note(json!({ "did": "start", "failed": said }));
    }
}

/// Runs a command that may well be refused, and gives it up where it takes too long.
fn quick(grid: &Grid, args: &[&str]) -> Option<Output> {
    let mut command = grid.command(args);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let limit = Instant::now() + Duration::from_secs(25);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        pause(Duration::from_millis(5));
    }
    child.wait_with_output().ok()
}

fn run(grid: &Grid, args: &[&str]) -> String {
    let code = quick(grid, args).and_then(|output| output.status.code());
    format!("{} ({code:?})", args.join(" "))
}

/// Ends all that is wrong, and waits until every Blitz takes sessions.
fn settle(grid: &Grid, stopped: &[(u32, Instant)]) {
    for (pid, _) in stopped {
        kill(*pid, Signal::SIGCONT);
    }
    if grid.run("status").status == 3 {
        let _ = grid.run("start").status;
    }
    let _ = grid.run("restart --rolling --abort").status;
    for id in BLITZES {
        let _ = grid.run(&format!("undrain {id}")).status;
    }
    for id in BLITZES {
        grid.wait_server(id, "to take sessions", |s| s["blitz"]["accepting"] == "yes");
    }
}

/// Runs the checker, which shares no code with the grid.
fn check(grid: &Grid, phase: &str) -> Output {
    Command::new(example("chaos_checker"))
        .args([grid.dir().as_os_str(), phase.as_ref()])
        .output()
        .unwrap()
}

#[track_caller]
fn assert_clean(grid: &Grid, phase: &str) {
    let output = check(grid, phase);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        grid.read("ledgers/disturber")
    );
    println!("{said}");
}

fn number_of(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// What the clients, the store, the grid and the kernel say at the end must agree. With the bug that is planted under the feature of that
/// name the checker has to notice: a test of the test.
#[test]
fn no_session_is_lost_doubled_or_moved_in_the_chaos() {
    let planted = cfg!(feature = "planted-bug");
    let seconds = number_of("OMERO_GRID_CHAOS_SECONDS", if planted { 15 } else { 30 });
    let seed = number_of("OMERO_GRID_CHAOS_SEED", now_ms());
    println!("OMERO_GRID_CHAOS_SEED={seed} OMERO_GRID_CHAOS_SECONDS={seconds}");
    let grid = Grid::new(&descriptor(0));
    grid.start();
    let mut dice = Dice(seed | 1);
    let mut stopped = Vec::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    let stopped_at_end = std::cell::RefCell::new(Vec::new());
    with_clients(
        &grid,
        64,
        seed,
        || {
            let mut notes = Ledger::new(&grid.path("ledgers"), "disturber");
            while Instant::now() < end {
                disturb_once(&grid, &mut dice, &mut notes, &mut stopped);
            }
            *stopped_at_end.borrow_mut() = stopped;
        },
        || settle(&grid, &stopped_at_end.borrow()),
    );
    let list = grid.run("--format json session list --reveal").ok();
    grid.write("sessions.json", &list.stdout);
    if planted {
        let output = check(&grid, "running");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(1),
            "the planted bug was not noticed: {said}"
        );
        assert!(said.contains("lost"), "{said}");
        return;
    }
    assert_clean(&grid, "running");
    grid.run("stop").ok();
    assert_clean(&grid, "stopped");
    let notes = grid.read("ledgers/disturber");
    let failed: Vec<_> = notes
        .lines()
        .filter(|note| note.contains("\"failed\""))
        .collect();
    assert!(failed.is_empty(), "starts failed: {failed:#?}");
}

/// `OMERO_GRID_CREATIONS` says how many (2,000 unless set; 10,000 are the measure).
#[test]
fn the_master_dies_again_and_again_during_many_creations() {
    if cfg!(feature = "planted-bug") {
        return;
    }
    let creations = number_of("OMERO_GRID_CREATIONS", 2000);
    let grid = Grid::new(&application(&[
        node("m", &[blitz("Blitz-0")]),
        node("n", &[blitz("Blitz-1")]),
    ]));
    grid.start();
    let password = grid.root_password().trim().to_owned();
    let left = std::sync::atomic::AtomicU64::new(creations);
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..8)
            .map(|thread| {
                let (left, password, dir) = (&left, &password, grid.dir());
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    let mut ledger = Ledger::new(&dir.join("ledgers"), &format!("client-{thread}"));
                    let mut caller = Caller::new(dir);
                    while let Ok(n) =
                        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    {
                        let token = format!("creation-{n}");
                        ledger.note(json!({ "op": "create", "token": token, "result": "asked" }));
                        match runtime.block_on(caller.ask(&creation(password, &token))) {
                            Ok(Reply::Placed(placed)) => ledger.note(json!({
                                "op": "create", "token": token, "result": "ok",
                                "uuid": placed.session.uuid.reveal(), "server": placed.server,
                            })),
                            other => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        while working.iter().any(|thread| !thread.is_finished()) {
            if let Some(pid) = grid.run("--format json status").json_if_ok() {
                kill(
                    u32::try_from(pid["master"]["pid"].as_u64().unwrap()).unwrap(),
                    Signal::SIGKILL,
                );
            }
            let _ = quick(&grid, &["start", "--wait", "30"]);
            pause(Duration::from_millis(400));
        }
    });
    let _ = quick(&grid, &["start", "--wait", "30"]);
    assert_eq!(grid.sessions().len() as u64, creations);
    let list = grid.run("--format json session list --reveal").ok();
    grid.write("sessions.json", &list.stdout);
    assert_clean(&grid, "running");
}
