//! Files and configuration, measured: `cargo bench --bench data`.
//!
//! Import and get of one file beside `cp`, `sync` and `sha1sum` of the same file in the same run, in turns. `OMERO_GRID_BENCH_MIB` sets the
//! size (1024). Then how long `config get` takes, and how long after `config set` is typed 64 Blitzes have the value.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use omero_grid::ipc::message::blitz::{Authority, BlitzLink, Reply, Request};
use omero_grid::ipc::message::data::ValueAction;
use omero_grid::ipc::{Address, Client, Hello, Role, RunDir};

const BIN: &str = env!("CARGO_BIN_EXE_omero-grid");
const RUNS: usize = 5;
const BLITZES: usize = 64;

/// A grid in a directory of its own, stopped at the end whatever happens.
struct Grid(tempfile::TempDir);

impl Grid {
    fn start(servers: &str) -> Self {
        let temp = tempfile::Builder::new()
            .prefix("og")
            .tempdir()
            .expect("a directory");
        let descriptor = format!(
            "<icegrid><application name=\"Bench\"><properties id=\"Profile\"/><node name=\"n\">{servers}</node></application></icegrid>"
        );
        std::fs::write(temp.path().join("grid.xml"), descriptor).expect("a descriptor");
        let grid = Self(temp);
        grid.run(&["start", "grid.xml"]);
        grid
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Runs a command that has to succeed; returns how long it took.
    fn run(&self, args: &[&str]) -> Duration {
        let begun = Instant::now();
        let mut command = Command::new(BIN);
        command.args(args).current_dir(self.dir());
        command
            .env("OMERO_GRID_REGISTRY_ENDPOINTS", "tcp -h 127.0.0.1 -p 0")
            .env_remove("OMERODIR")
            .env_remove("STATE_DIRECTORY");
        let output = command.stdin(Stdio::null()).output().expect("the program");
        let took = begun.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        took
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        let mut stop = Command::new(BIN);
        stop.args(["stop"])
            .current_dir(self.dir())
            .stdout(Stdio::null());
        // Nothing more can be done about one that does not stop.
        let _ = stop.status();
    }
}

fn shell(dir: &Path, script: &str) -> Duration {
    let begun = Instant::now();
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(dir);
    let done = command.stdout(Stdio::null()).status().expect("a shell");
    assert!(done.success(), "{script}");
    begun.elapsed()
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn blitz(n: usize) -> String {
    format!(
        "<server id=\"Blitz-{n}\" exe=\"omero-grid\" activation=\"always\"><option>blitz</option><properties>\
         <properties refid=\"Profile\"/><property name=\"omero.grid.ready\" value=\"notify\"/>\
         <property name=\"omero.data.dir\" value=\"var/data\"/></properties></server>"
    )
}

fn files() {
    let mib: usize = std::env::var("OMERO_GRID_BENCH_MIB")
        .ok()
        .map_or(1024, |text| text.parse().expect("a number of MiB"));
    let grid = Grid::start(&blitz(0));
    let make = format!(
        "head -c {}  /dev/urandom > src; sync src",
        mib * 1024 * 1024
    );
    shell(grid.dir(), &make);
    let (mut imports, mut copies, mut gets, mut reads) = (vec![], vec![], vec![], vec![]);
    for run in 1..=RUNS {
        let id = run.to_string();
        imports.push(grid.run(&["file", "import", "src"]));
        copies.push(shell(
            grid.dir(),
            "cp src copy; sync copy; sha1sum copy; rm copy",
        ));
        gets.push(grid.run(&["file", "get", &id, "-o", "out"]));
        reads.push(shell(grid.dir(), "cp src copy; sha1sum copy; rm copy"));
        grid.run(&["file", "delete", &id]);
    }
    let line = |what: &str, ours: Vec<Duration>, peer: &str, theirs: Vec<Duration>| {
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "{what} of {mib} MiB: {:.2} s; {peer}: {:.2} s; speed {:.0} % of it (target 70 %)",
            ours.as_secs_f64(),
            theirs.as_secs_f64(),
            100.0 * theirs.as_secs_f64() / ours.as_secs_f64()
        );
    };
    line("import", imports, "cp + sync + sha1sum", copies);
    line("get", gets, "cp + sha1sum", reads);
}

fn configuration() {
    let servers: String = (0..BLITZES).map(blitz).collect();
    let grid = Grid::start(&servers);
    grid.run(&["config", "set", "omero.sessions.timeout", "1000"]);
    let gets = (0..50).map(|_| grid.run(&["config", "get", "omero.sessions.timeout"]));
    println!(
        "config get: {:.1} ms (target 10 ms)",
        median(gets.collect()).as_secs_f64() * 1000.0
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let taken = runtime.block_on(async {
        let run = RunDir::find(grid.dir()).expect("the sockets");
        let mut clients = Vec::new();
        for n in 0..BLITZES {
            let id = format!("Blitz-{n}").parse().expect("a name");
            let me = Hello::new(Role::Client, "bench");
            let connected =
                Client::<BlitzLink>::connect(&run.socket(Address::Blitz(&id)), &me).await;
            clients.push(connected.expect("a Blitz").0);
        }
        let mut taken = Vec::new();
        for value in 0..RUNS {
            let value = (2000 + value).to_string();
            let begun = Instant::now();
            let mut command = Command::new(BIN);
            command.args(["config", "set", "omero.sessions.timeout", &value]);
            let mut command = command
                .current_dir(grid.dir())
                .stdout(Stdio::null())
                .spawn()
                .expect("the program");
            for client in &clients {
                loop {
                    let action = ValueAction::Get {
                        key: "omero.sessions.timeout".to_owned(),
                    };
                    let authority = Authority::Owner;
                    let reply = client.call(&Request::Value { action, authority }).await;
                    let Ok(Reply::Values { values }) = reply else {
                        panic!("no values");
                    };
                    if values[0].1.as_deref() == Some(&value) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            taken.push(begun.elapsed());
            command.wait().expect("the program");
        }
        taken
    });
    println!(
        "a change reaches {BLITZES} Blitzes, from typing the command: {:.0} ms (target 100 ms)",
        median(taken).as_secs_f64() * 1000.0
    );
}

fn main() {
    // `cargo test` runs benches too, without a figure to be had from it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    files();
    configuration();
}
