//! A grid of real processes in a temporary directory, and the ways to look at it.
//!
//! Owns the directory and every process that has to do with it: dropping a [`Grid`] kills them all, also when a test
//! panics. What is asserted is the tests' own.

mod descriptor;
mod mounts;
mod normalise;
mod omero;
mod postgres;
mod process;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) use self::descriptor::{Server, application, blitz, node, server, sleeper};
pub(crate) use self::mounts::{ReadOnly, Small};
pub(crate) use self::normalise::normalise;
pub(crate) use self::omero::OmeroSite;
pub(crate) use self::postgres::PostgresServer;
pub(crate) use self::process::{alive, kill, living, marked};

/// How long anything may take before a test fails. Generous: tests share few cores.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(15);

/// A grid in a directory of its own.
pub(crate) struct Grid {
    dir: PathBuf,
    env: Vec<(OsString, OsString)>,
    // Removed after the processes are gone: `Drop` of the grid runs before that of its fields.
    _temp: tempfile::TempDir,
}

/// A master in the foreground, which does not outlive this value.
#[derive(Debug)]
pub(crate) struct Foreground(Child);

impl Foreground {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it with SIGKILL and takes it away.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits until it has ended by itself, and returns its exit code.
    #[track_caller]
    pub(crate) fn ended(&mut self, grid: &Grid) -> Option<i32> {
        grid.wait("the master to end", || self.0.try_wait().unwrap())
            .code()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that has ended, whose exit code nobody has looked at.
#[derive(Debug)]
#[must_use = "a command that failed unseen hides the cause of what fails later"]
pub(crate) struct Run(Done);

/// What a command left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    command: String,
}

impl std::ops::Deref for Run {
    type Target = Done;

    fn deref(&self) -> &Done {
        &self.0
    }
}

impl Run {
    /// Returns the document on standard output if the command succeeded.
    pub(crate) fn json_if_ok(self) -> Option<Value> {
        (self.status == 0).then(|| self.json())
    }

    /// Asserts that the command succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Done {
        self.exits(0)
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Done {
        assert_eq!(
            self.status, code,
            "`{}` ended with another code\nstdout: {}\nstderr: {}",
            self.command, self.stdout, self.stderr
        );
        self.0
    }
}

impl Done {
    /// Asserts that standard error contains each of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "`{}` does not say {part:?}\nstderr: {}",
                self.command,
                self.stderr
            );
        }
        self
    }

    /// Returns the one JSON document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "`{}` printed no JSON ({error}): {}",
                self.command, self.stdout
            )
        })
    }
}

impl Grid {
    /// Makes a directory with this text as `grid.xml`; nothing runs yet.
    pub(crate) fn new(descriptor: &str) -> Self {
        let grid = Self::at("");
        grid.write("grid.xml", descriptor);
        grid
    }

    /// Makes a directory with the descriptors that are shipped.
    pub(crate) fn shipped() -> Self {
        let grid = Self::at("");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors");
        for name in [
            "default.xml",
            "templates.xml",
            "cluster.xml",
            "read-only.xml",
        ] {
            let text = std::fs::read_to_string(from.join(name)).unwrap();
            grid.write(&format!("descriptors/{name}"), &text);
        }
        grid
    }

    /// Makes a directory `below` a temporary one whose path is short, because a socket's path is.
    pub(crate) fn at(below: &str) -> Self {
        let temp = tempfile::Builder::new()
            .prefix("og")
            .tempdir_in("/tmp")
            .unwrap();
        let dir = temp.path().join(below);
        std::fs::create_dir_all(&dir).unwrap();
        // As the grid itself spells it: its processes are found by it.
        let dir = dir.canonicalize().unwrap();
        Self {
            dir,
            env: Vec::new(),
            _temp: temp,
        }
    }

    /// Sets a variable for every command from here on.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.env.push((name.into(), value.into()));
    }

    /// Returns OMERODIR.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns a path below OMERODIR.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// Writes a file below OMERODIR.
    pub(crate) fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Reads a file below OMERODIR; empty if there is none.
    pub(crate) fn read(&self, below: &str) -> String {
        std::fs::read(self.path(below))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Prepares a command with an environment that does not depend on who runs the tests.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_omero-grid"));
        self.hermetic(&mut command);
        command.arg("--dir").arg(&self.dir).args(args);
        command
    }

    /// Clears a command's environment and puts it into the grid's directory.
    pub(crate) fn hermetic(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.dir)
            // Grids of tests do without a registry, or get a port of their own.
            .env("OMERO_GRID_REGISTRY_ENDPOINTS", "")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir);
    }

    /// Runs `omero-grid` with these words.
    #[track_caller]
    pub(crate) fn run(&self, words: &str) -> Run {
        self.run_with(words, "")
    }

    /// Runs `omero-grid` with these words and this standard input.
    #[track_caller]
    pub(crate) fn run_with(&self, words: &str, input: &str) -> Run {
        let args: Vec<&str> = words.split_whitespace().collect();
        self.finish(&mut self.command(&args), input)
    }

    /// Runs `omero-grid --format json`, which has to succeed, and returns its document.
    #[track_caller]
    pub(crate) fn json(&self, words: &str) -> Value {
        self.run(&format!("--format json {words}")).ok().json()
    }

    /// Runs a command to its end *and* to the end of its output, both within the deadline: a process left behind that
    /// holds a pipe fails the test.
    #[track_caller]
    pub(crate) fn finish(&self, command: &mut Command, input: &str) -> Run {
        let text = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Whoever does not read its input may close it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let stdout = drain(child.stdout.take().unwrap());
        let stderr = drain(child.stderr.take().unwrap());
        let limit = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > limit {
                let report = self.report();
                let _ = child.kill();
                let _ = child.wait();
                panic!("`{text}` does not end\n{report}");
            }
            pause(POLL);
        };
        let take = |output: &mpsc::Receiver<String>, name: &str| {
            output
                .recv_timeout(limit.saturating_duration_since(Instant::now()))
                .unwrap_or_else(|_| {
                    panic!("`{text}` ended and left its {name} open to another process")
                })
        };
        Run(Done {
            stdout: take(&stdout, "standard output"),
            stderr: take(&stderr, "standard error"),
            status: status.code().unwrap_or(-1),
            command: text,
        })
    }

    /// Starts `grid.xml` and asserts that everything came up.
    #[track_caller]
    pub(crate) fn start(&self) {
        let run = self.run("start grid.xml");
        if run.status != 0 {
            panic!("the grid did not start: {run:?}\n{}", self.report());
        }
    }

    /// Returns the status document of a running grid.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.json("status")
    }

    /// Returns the status document of a node, if a master answers and knows the node.
    pub(crate) fn node(&self, name: &str) -> Option<Value> {
        let status = self.try_status()?;
        let nodes = status["nodes"].as_array()?;
        nodes.iter().find(|node| node["name"] == name).cloned()
    }

    /// Returns the status document of a server, if a master answers and knows the server.
    pub(crate) fn server(&self, id: &str) -> Option<Value> {
        let status = self.try_status()?;
        let nodes = status["nodes"].as_array()?;
        let mut servers = nodes
            .iter()
            .filter_map(|n| n["servers"].as_array())
            .flatten();
        servers.find(|server| server["id"] == id).cloned()
    }

    fn try_status(&self) -> Option<Value> {
        let run = self.run("--format json status");
        (run.status == 0).then(|| run.json())
    }

    /// Returns the pid of a server that runs.
    #[track_caller]
    pub(crate) fn pid(&self, id: &str) -> u32 {
        self.wait(&format!("{id} to have a pid"), || {
            number(&self.server(id)?["pid"])
        })
    }

    /// Returns the pid of a node that runs.
    #[track_caller]
    pub(crate) fn node_pid(&self, name: &str) -> u32 {
        self.wait(&format!("node {name} to have a pid"), || {
            number(&self.node(name)?["pid"])
        })
    }

    /// Returns the master's pid.
    #[track_caller]
    pub(crate) fn master_pid(&self) -> u32 {
        number(&self.status()["master"]["pid"]).unwrap()
    }

    /// Waits until a server is in this state and returns what the status says of it.
    #[track_caller]
    pub(crate) fn wait_state(&self, id: &str, state: &str) -> Value {
        self.wait_server(id, &format!("to be {state}"), |server| {
            server["state"] == state
        })
    }

    /// Waits until a server is active as a process other than `old`.
    #[track_caller]
    pub(crate) fn wait_successor(&self, id: &str, old: u32) -> u32 {
        let server = self.wait_server(id, &format!("to be active in place of {old}"), |server| {
            let is_ready = server["blitz"].is_null() || server["blitz"]["accepting"] == "yes";
            server["state"] == "active" && server["pid"] != old && is_ready
        });
        number(&server["pid"]).unwrap()
    }

    /// Waits until the status of a server satisfies a condition.
    #[track_caller]
    pub(crate) fn wait_server(
        &self,
        id: &str,
        what: &str,
        mut is: impl FnMut(&Value) -> bool,
    ) -> Value {
        self.wait(&format!("{id} {what}"), || {
            self.server(id).filter(|server| is(server))
        })
    }

    /// Waits until a condition yields something; shows the whole grid when it does not within the deadline.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let limit = Instant::now() + DEADLINE;
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            assert!(
                Instant::now() < limit,
                "waited for {what}\n{}",
                self.report()
            );
            pause(POLL);
        }
    }

    /// Waits until a process has ended.
    #[track_caller]
    pub(crate) fn wait_gone(&self, pid: u32) {
        self.wait(&format!("process {pid} to end"), || {
            (!alive(pid)).then_some(())
        });
    }

    /// Kills a process with SIGKILL and waits for its end.
    #[track_caller]
    pub(crate) fn kill9(&self, pid: u32) {
        kill(pid, Signal::SIGKILL);
        self.wait_gone(pid);
    }

    /// Kills a node with SIGKILL and waits until its master has started another, which has adopted what is left.
    #[track_caller]
    pub(crate) fn replace_node(&self, name: &str) -> u32 {
        let old = self.node_pid(name);
        self.kill9(old);
        self.wait_other_node(name, old)
    }

    /// Waits until a node is up as a process other than `old`.
    #[track_caller]
    pub(crate) fn wait_other_node(&self, name: &str, old: u32) -> u32 {
        self.wait(&format!("node {name} to be up in place of {old}"), || {
            let node = self.node(name)?;
            number(&node["pid"]).filter(|pid| *pid != old && node["state"] == "up")
        })
    }

    /// Returns the password of user `root` that the first start made.
    #[track_caller]
    pub(crate) fn root_password(&self) -> String {
        let text = self.read("var/root-password");
        assert!(
            !text.trim().is_empty(),
            "no var/root-password\n{}",
            self.report()
        );
        text
    }

    /// Opens a session as `root` and returns its UUID.
    #[track_caller]
    pub(crate) fn session(&self) -> String {
        let run = self
            .run("session create --user root --password-file var/root-password")
            .ok();
        run.stdout.trim().to_owned()
    }

    /// Returns the UUIDs of the open sessions.
    #[track_caller]
    pub(crate) fn sessions(&self) -> Vec<String> {
        let list = self.json("session list --reveal");
        let uuid = |session: &Value| session["uuid"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(uuid).collect()
    }

    /// Starts `start --foreground` as the test's own child, with its output in `foreground.log`.
    pub(crate) fn foreground(&self, words: &str) -> Foreground {
        let log = std::fs::File::create(self.path("foreground.log")).unwrap();
        let args: Vec<&str> = words.split_whitespace().collect();
        let mut command = self.command(&["start", "--foreground"]);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Foreground(command.spawn().unwrap())
    }

    /// Kills every process of the grid.
    pub(crate) fn kill_all(&self) -> Result<(), String> {
        process::kill_all(&self.dir)
    }

    /// Shows everything about the grid: for the message of a test that fails.
    pub(crate) fn report(&self) -> String {
        let mut text = String::new();
        let mut status = self.command(&["--format", "json", "status"]);
        if let Ok(output) = status.stdin(Stdio::null()).output() {
            let _ = writeln!(
                text,
                "status: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        for process in living(&self.dir) {
            let _ = writeln!(text, "process {}: {}", process.pid, process.command);
        }
        let mut logs: Vec<PathBuf> = std::fs::read_dir(self.path("var/log"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        logs.push(self.path("foreground.log"));
        logs.sort();
        for path in logs {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let all = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = all.lines().collect();
            let _ = writeln!(text, "==> {} <==", path.display());
            for line in &lines[lines.len().saturating_sub(40)..] {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        if let Err(left) = self.kill_all()
            && !std::thread::panicking()
        {
            panic!("cannot kill what is left of the grid: {left}");
        }
    }
}

/// Returns ports that are free now, and hardly taken within the next moment.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// Reads a pipe to its end on a thread of its own.
fn drain(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (done, output) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        // Nobody listens any more if the deadline has passed.
        let _ = done.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    output
}

#[expect(
    clippy::disallowed_methods,
    reason = "processes of others are looked at again and again"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Returns the path of one of the small servers in `examples/`, which cargo builds together with the tests.
#[track_caller]
pub(crate) fn example(name: &str) -> String {
    // …/target/PROFILE/deps/it-HASH
    let me = std::env::current_exe().unwrap();
    let path = me.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.is_file(),
        "there is no {}; build it with `cargo build --examples` (same profile), or run the whole of `cargo test`",
        path.display()
    );
    path.to_str().unwrap().to_owned()
}

#[test]
fn nothing_survives_a_test_that_panics() {
    let leaked = example("leaks_child");
    let (told, dir) = mpsc::channel();
    let panicked = std::panic::catch_unwind(move || {
        let leaker = server("leaker", &leaked).option("leaked.pid");
        let grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0"), leaker])]));
        grid.start();
        let leaked: u32 = grid.wait("the leaked grandchild", || {
            grid.read("leaked.pid").trim().parse().ok()
        });
        // The tests of a dead grid must not find it easy.
        kill(grid.master_pid(), Signal::SIGKILL);
        assert!(alive(leaked));
        let before = living(grid.dir());
        assert!(
            before.len() >= 4,
            "node, Blitz, leaker and what it leaked: {before:?}"
        );
        told.send((grid.dir().to_owned(), before)).unwrap();
        std::panic::resume_unwind(Box::new("as a failing test does"));
    });
    assert!(panicked.is_err());
    let (dir, before) = dir.recv().expect("the grid had started");
    assert_eq!(living(&dir), []);
    for process in before {
        assert!(!alive(process.pid), "{process:?}");
    }
    assert!(!dir.exists());
}
