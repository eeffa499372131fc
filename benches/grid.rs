//! What the README promises about speed and size, measured: `cargo bench`.
//!
//! Each figure is the median of several runs of whole processes, from typing the command to its return. `--quick` leaves
//! out the one that has to wait for a minute.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use omero_grid::ipc::message::blitz::Create;
use omero_grid::ipc::message::client::{ClientLink, Reply, Request};
use omero_grid::ipc::{Address, Client, Hello, Role, RunDir};
use omero_grid::model::Secret;

const BIN: &str = env!("CARGO_BIN_EXE_omero-grid");
const RUNS: usize = 5;

/// A grid in a directory of its own, stopped at the end whatever happens.
struct Grid(tempfile::TempDir);

impl Grid {
    fn new(descriptor: &str) -> Self {
        let temp = tempfile::Builder::new()
            .prefix("og")
            .tempdir()
            .expect("a temporary directory");
        std::fs::write(temp.path().join("grid.xml"), descriptor).expect("a descriptor");
        Self(temp)
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

    /// Runs a command that has to succeed; returns how long it took.
    fn timed(&self, args: &[&str]) -> Duration {
        let begun = Instant::now();
        let output = self.run(args);
        let took = begun.elapsed();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        took
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.run(&["status", "--format", "json"]).stdout).expect("a status")
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Prints one figure beside its goal.
fn row(what: &str, is: &str, goal: &str) {
    println!("{what:<58} {is:>12}   {goal}");
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

fn plain(count: usize) -> String {
    let mut xml = String::from("<icegrid><application name=\"Bench\"><node name=\"n\">");
    for number in 0..count {
        // Ice's own argument, which comes last, is the shell's `$0`.
        let _ = write!(
            xml,
            "<server id=\"s{number}\" exe=\"/bin/sh\" activation=\"always\">\
             <option>-c</option><option>exec sleep 1000000</option></server>"
        );
    }
    xml + "</node></application></icegrid>"
}

fn many(value: &str) -> String {
    let mut xml = String::from(
        "<icegrid><application name=\"Many\"><server-template id=\"T\"><parameter name=\"i\"/>\
         <server id=\"s-${node}-${i}\" exe=\"prog\" activation=\"always\"><option>${i}</option>\
         <adapter name=\"A\" endpoints=\"tcp\"/><properties><properties refid=\"P\"/>\
         <property name=\"own\" value=\"${server}\"/></properties></server></server-template>\
         <properties id=\"P\"><property name=\"a\" value=\"1\"/><property name=\"b\" value=\"2\"/></properties>",
    );
    for node in 0..100 {
        let _ = write!(
            xml,
            "<node name=\"n{node}\"><variable name=\"omero.grid.start\" value=\"manual\"/>"
        );
        for server in 0..20 {
            let _ = write!(xml, "<server-instance template=\"T\" i=\"{server}\">");
            if node == 50 && server == 10 {
                let _ = write!(
                    xml,
                    "<properties><property name=\"changed\" value=\"{value}\"/></properties>"
                );
            }
            xml.push_str("</server-instance>");
        }
        xml.push_str("</node>");
    }
    xml + "</application></icegrid>"
}

fn starts() {
    for (count, goal) in [(2, "< 0.1 s"), (10, "< 0.15 s"), (50, "< 0.35 s")] {
        let times = (0..RUNS)
            .map(|_| Grid::new(&plain(count)).timed(&["start", "grid.xml"]))
            .collect();
        row(
            &format!("{count} plain servers, start to all active"),
            &seconds(median(times)),
            goal,
        );
    }
    let descriptors = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors");
    let cluster = |_| {
        let grid = Grid::new("");
        for name in ["cluster.xml", "templates.xml"] {
            std::fs::copy(descriptors.join(name), grid.dir().join(name)).expect("a descriptor");
        }
        grid.timed(&["start", "cluster.xml"])
    };
    row(
        "cluster.xml, all four Blitzes accepting",
        &seconds(median((0..RUNS).map(cluster).collect())),
        "< 0.4 s",
    );
}

fn descriptors() {
    let grid = Grid::new(&many("1"));
    let describe = (0..RUNS)
        .map(|_| grid.timed(&["describe", "grid.xml", "--format", "json"]))
        .collect();
    row(
        "describe of 100 nodes x 20 servers",
        &seconds(median(describe)),
        "< 0.1 s",
    );
    grid.timed(&["start", "grid.xml"]);
    std::fs::write(grid.dir().join("grid.xml"), many("2")).expect("a descriptor");
    let plan = (0..RUNS)
        .map(|_| grid.timed(&["deploy", "grid.xml", "--dry-run"]))
        .collect();
    row(
        "plan of a deploy with one changed property among them",
        &seconds(median(plan)),
        "< 0.15 s",
    );
}

/// Returns the proportional set size of a process, in kB.
fn pss(pid: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process");
    let line = text
        .lines()
        .find(|line| line.starts_with("Pss:"))
        .expect("a line");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse().ok())
        .expect("a number")
}

fn size() {
    let grid = Grid::new(&plain(50));
    grid.timed(&["start", "grid.xml"]);
    let status = grid.status();
    let pids = [&status["master"]["pid"], &status["nodes"][0]["pid"]]
        .map(|pid| pid.as_u64().expect("a pid"));
    let kb: u64 = pids.into_iter().map(pss).sum();
    row(
        "master and a node with 50 servers, PSS together",
        &format!("{:.1} MB", kb as f64 / 1000.0),
        "< 20 MB",
    );
    let threads =
        |pid: u64| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    row(
        "their threads",
        &pids.map(threads).iter().sum::<usize>().to_string(),
        "none per server",
    );
}

fn again(minute: bool) {
    let grid = Grid::new(&plain(2));
    grid.timed(&["start", "grid.xml"]);
    if !minute {
        return;
    }
    std::thread::park_timeout(Duration::from_secs(61));
    let pid = grid.status()["nodes"][0]["servers"][0]["pid"]
        .as_i64()
        .expect("a pid");
    let before: Vec<PathBuf> = processes();
    let begun = Instant::now();
    Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .expect("kill");
    // The successor is the new process that runs `sleep 1000000`.
    while !processes().iter().any(|process| !before.contains(process)) {
        assert!(begun.elapsed() < Duration::from_secs(5), "no successor");
    }
    row(
        "a killed server that had been up for a minute, successor",
        &format!("{} ms", begun.elapsed().as_millis()),
        "< 20 ms",
    );
}

fn processes() -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| Some(entry.ok()?.path()));
    let is_server = |path: &PathBuf| {
        std::fs::read(path.join("cmdline"))
            .is_ok_and(|line| line.windows(7).any(|window| window == b"1000000"))
    };
    all.filter(is_server).collect()
}

fn sessions() {
    let grid = Grid::new("");
    let descriptors = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors");
    for name in ["default.xml", "templates.xml"] {
        std::fs::copy(descriptors.join(name), grid.dir().join(name)).expect("a descriptor");
    }
    grid.timed(&["start", "default.xml"]);
    let password =
        std::fs::read_to_string(grid.dir().join("var/root-password")).expect("a password");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let took = runtime.block_on(async {
        let run_dir = RunDir::find(grid.dir()).expect("sockets");
        let me = Hello::new(Role::Client, "bench");
        let (client, _, _) = Client::<ClientLink>::connect(&run_dir.socket(Address::Master), &me)
            .await
            .expect("a master");
        let create = || Request::CreateSession {
            create: Create {
                user: "root".to_owned(),
                password: Secret::new(password.trim()),
                agent: "bench".to_owned(),
                ip: String::new(),
                time_to_idle_ms: None,
                time_to_live_ms: None,
                token: None,
                group: String::new(),
                event: String::new(),
            },
            via: None,
        };
        // The first one pays for the password check.
        client.call(&create()).await.expect("a session");
        let begun = Instant::now();
        for _ in 0..1000 {
            let reply = client.call(&create()).await.expect("a session");
            assert!(matches!(reply, Reply::Placed(_)));
        }
        begun.elapsed()
    });
    row(
        "1,000 session creations over one connection, durable",
        &seconds(took),
        "< 2 s",
    );
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    starts();
    descriptors();
    size();
    sessions();
    again(!quick);
}
