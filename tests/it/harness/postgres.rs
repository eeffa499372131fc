//! A PostgreSQL server of a test's own: in a temporary directory, on a local socket only, gone with the value.
//!
//! Used by the tests of the library too. Where no server is installed the tests that need one are skipped, visibly, unless
//! `OMERO_GRID_REQUIRE_PEERS=1`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};

/// How long starting and stopping may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running server. Its superuser is `postgres`, without a password.
pub(crate) struct PostgresServer {
    programs: PathBuf,
    temp: tempfile::TempDir,
    child: Option<Child>,
}

impl PostgresServer {
    /// Starts a server; `None` where none is installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
            assert!(!required, "no PostgreSQL server is installed");
            println!("skipped: no PostgreSQL server is installed (package postgresql)");
            return None;
        };
        // Not below a directory of the user's own: as root the server runs as somebody else.
        let temp = tempfile::Builder::new()
            .prefix("pg")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let mut this = Self {
            programs,
            temp,
            child: None,
        };
        for dir in ["data", "run"] {
            let dir = this.temp.path().join(dir);
            fs::create_dir(&dir).unwrap();
            if let Some((uid, gid)) = somebody() {
                std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).unwrap();
            }
        }
        let made = this
            .command("initdb")
            .args([
                "--auth=trust",
                "--username=postgres",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(this.temp.path().join("data"))
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        this.run();
        Some(this)
    }

    /// Starts the server, again if it was stopped, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.temp.path().join("log"))
            .unwrap();
        let child = self
            .command("postgres")
            .arg("-D")
            .arg(self.temp.path().join("data"))
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "max_connections=60",
            ])
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                self.socket().display()
            ))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        while self.try_query("postgres", "SELECT 1").is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < DEADLINE,
                "the server does not start: {}",
                fs::read_to_string(self.temp.path().join("log")).unwrap()
            );
            #[expect(
                clippy::disallowed_methods,
                reason = "the server tells nobody that it answers"
            )]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the server at once, as a crash does.
    pub(crate) fn crash(&mut self) {
        self.go_on();
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            // SIGQUIT ends it and its children without any tidying up.
            let _ = kill(pid, Signal::SIGQUIT);
            let _ = child.wait();
        }
    }

    /// Stops the server and all its processes where they are, as a machine does that hangs; they go on by [`Self::go_on`].
    #[allow(dead_code, reason = "the tests of the program use it")]
    pub(crate) fn hang(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        let main = child.id().to_string();
        // The main one first, so that it starts no others meanwhile.
        let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal);
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // After the name, which may contain anything: state, parent.
            let parent = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_ascii_whitespace().nth(1));
            if parent == Some(main.as_str())
                && let Ok(pid) = entry.file_name().to_string_lossy().parse()
            {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }

    /// Makes an empty database and returns its URL.
    pub(crate) fn database(&self, name: &str) -> String {
        self.query("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.url(name, "postgres")
    }

    pub(crate) fn url(&self, database: &str, user: &str) -> String {
        let host = self.socket().display().to_string().replace('/', "%2F");
        format!("postgresql://{user}@{host}/{database}")
    }

    /// Carries out SQL in a database and returns the rows, NULL as an empty text.
    #[track_caller]
    pub(crate) fn query(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        self.try_query(database, sql).unwrap()
    }

    fn try_query(
        &self,
        database: &str,
        sql: &str,
    ) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let (url, sql) = (self.url(database, "postgres"), sql.to_owned());
        // A thread of its own, for tests that are inside a runtime.
        std::thread::scope(|scope| {
            scope
                .spawn(|| query(&url, &sql))
                .join()
                .expect("the query panicked")
        })
    }

    /// Puts a schema's dump in the place of the schema.
    #[allow(dead_code, reason = "the tests of the library use it")]
    pub(crate) fn dump_drop_and_restore(&self, database: &str, schema: &str) {
        let url = self.url(database, "postgres");
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}: {errors}");
            output.stdout
        };
        let dump = run(self
            .command("pg_dump")
            .arg(&url)
            .arg(format!("--schema={schema}")));
        self.query(database, &format!("DROP SCHEMA {schema} CASCADE"));
        let file = self.temp.path().join("dump.sql");
        fs::write(&file, dump).unwrap();
        let strict = ["-q", "-v", "ON_ERROR_STOP=1", "-f"];
        run(self.command("psql").arg(&url).args(strict).arg(file));
    }

    /// Returns the directory of its socket, which stands for a host.
    pub(crate) fn socket(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    /// A program that ends with this one and is not run as root, which PostgreSQL refuses.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if let Some((uid, gid)) = somebody() {
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"))
                .arg("--clear-groups");
        }
        command
            .arg(self.programs.join(program))
            .stdin(Stdio::null())
            .current_dir("/");
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.crash();
    }
}

fn query(url: &str, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await?;
        drop(client);
        let _ = connection.await;
        let rows = messages.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|n| row.get(n).unwrap_or_default().to_owned())
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    })
}

/// Whom to be instead of root.
fn somebody() -> Option<(u32, u32)> {
    if !Uid::effective().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok()?);
    user.map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// Returns where the programs of the newest server are.
fn programs() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|dir| dir.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().or_else(|| {
        std::env::split_paths(&std::env::var_os("PATH")?).find(|dir: &PathBuf| {
            Path::new(dir).join("initdb").exists() && dir.join("postgres").exists()
        })
    })
}
