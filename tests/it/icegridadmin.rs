//! The names of Ice's programs: `icegridadmin` at ZeroC's own registry says what Debian's says, and versions are said where OMERO looks.
//!
//! Skipped, and said so, where Debian's zeroc-icegrid and zeroc-ice-utils are not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{kill, living, pause};

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns whether Debian's programs are there; those that are required have to be.
pub(crate) fn has_peers() -> bool {
    let there = ["icegridregistry", "icegridnode", "icegridadmin"]
        .iter()
        .all(|program| {
            let run = Command::new(program)
                .arg("--version")
                .stdin(Stdio::null())
                .output();
            run.is_ok_and(|done| done.status.success())
        });
    if !there {
        let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(
            !required,
            "Debian's zeroc-icegrid and zeroc-ice-utils are not installed"
        );
        println!("skipped: Debian's zeroc-icegrid and zeroc-ice-utils are not installed");
    }
    there
}

/// This program under another name.
pub(crate) fn named(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join("bin").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    if !path.exists() {
        symlink(env!("CARGO_BIN_EXE_omero-grid"), &path).unwrap();
    }
    path
}

/// A registry and a node in one process: ZeroC's, or ours under its name.
pub(crate) struct Served {
    pub(crate) dir: tempfile::TempDir,
    child: Child,
}

impl Served {
    pub(crate) fn zeroc() -> Self {
        Self::start(|_| PathBuf::from("icegridnode"))
    }

    pub(crate) fn ours() -> Self {
        Self::start(|dir| named(dir, "icegridnode"))
    }

    fn start(program: impl FnOnce(&Path) -> PathBuf) -> Self {
        // Short, because a socket's path is.
        let dir = tempfile::Builder::new()
            .prefix("og")
            .tempdir_in("/tmp")
            .unwrap();
        let at = dir.path().display();
        // Free now, and hardly taken within the next moment.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        for sub in ["reg", "node", "out"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let everyone = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), everyone.clone()).unwrap();
        std::fs::set_permissions(dir.path().join("out"), everyone).unwrap();
        let locator = format!("Ice.Default.Locator=IceGrid/Locator:tcp -h 127.0.0.1 -p {port}\n");
        let grid = format!(
            "{locator}IceGrid.Registry.Client.Endpoints=tcp -h 127.0.0.1 -p {port}\n\
             IceGrid.Registry.Server.Endpoints=tcp -h 127.0.0.1\n\
             IceGrid.Registry.Internal.Endpoints=tcp -h 127.0.0.1\n\
             IceGrid.Registry.LMDB.Path={at}/reg\n\
             IceGrid.Registry.PermissionsVerifier=IceGrid/NullPermissionsVerifier\n\
             IceGrid.Registry.AdminPermissionsVerifier=IceGrid/NullPermissionsVerifier\n\
             IceGrid.Registry.DynamicRegistration=1\n\
             IceGrid.Registry.DefaultTemplates={at}/defaults.xml\n\
             IceGrid.Registry.Trace.Session=1\n\
             IceGrid.Node.CollocateRegistry=1\n\
             IceGrid.Node.Name=node1\n\
             IceGrid.Node.Data={at}/node\n\
             IceGrid.Node.Output={at}/out\n\
             IceGrid.Node.Endpoints=tcp -h 127.0.0.1\n\
             IceGrid.Node.AllowRunningServersAsRoot=1\n"
        );
        std::fs::write(dir.path().join("grid.cfg"), grid).unwrap();
        let admin = format!("{locator}IceGridAdmin.Username=root\nIceGridAdmin.Password=x\n");
        std::fs::write(dir.path().join("admin.cfg"), admin).unwrap();
        let keep = dir.path().join("keep.sh");
        std::fs::write(&keep, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(&keep, std::fs::Permissions::from_mode(0o755)).unwrap();
        let app = include_str!("peers/app.xml");
        std::fs::write(
            dir.path().join("app.xml"),
            app.replace("@DIR@", &at.to_string()),
        )
        .unwrap();
        let app = app
            .replace("value=\"one\"", "value=\"two\"")
            .replace("<!--more-->", "<node name=\"node3\"/>");
        std::fs::write(
            dir.path().join("app2.xml"),
            app.replace("@DIR@", &at.to_string()),
        )
        .unwrap();
        let templates = [("defaults.xml", DEFAULTS), ("templated.xml", TEMPLATED)];
        for (name, text) in templates {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let child = Command::new(program(dir.path()))
            .arg("--Ice.Config=grid.cfg")
            .current_dir(dir.path())
            .env_remove("OMERODIR")
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let grid = Self { dir, child };
        let limit = Instant::now() + PATIENCE;
        while !grid
            .admin(Path::new("icegridadmin"), "registry ping Master")
            .status
            .success()
        {
            assert!(Instant::now() < limit, "the registry does not answer");
            pause(Duration::from_millis(100));
        }
        grid
    }

    /// Carries out commands with a program.
    pub(crate) fn admin(&self, program: &Path, commands: &str) -> Output {
        Command::new(program)
            .args(["--Ice.Config=admin.cfg", "-e", commands])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Returns the locator.
    pub(crate) fn locator(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("admin.cfg")).unwrap();
        let line = text.lines().next().unwrap();
        line.split_once('=').unwrap().1.to_owned()
    }

    /// Carries out commands, and writes what came of each.
    fn transcript(&self, program: &Path, commands: &[&str]) -> Vec<String> {
        let one = |command: &&str| {
            let done = self.admin(program, command);
            let text = |bytes: &[u8]| normal(&String::from_utf8_lossy(bytes));
            format!(
                "$ {command}\n{}{}=> {}\n",
                text(&done.stdout),
                text(&done.stderr),
                done.status.code().unwrap()
            )
        };
        commands.iter().map(one).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.admin(
            Path::new("icegridadmin"),
            "server stop keep; node shutdown node1",
        );
        let limit = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < limit {
            pause(Duration::from_millis(50));
        }
        // It may have ended by itself; nodes of ours go on without their master.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(dir) = self.dir.path().canonicalize() {
            for process in living(&dir) {
                kill(process.pid, Signal::SIGKILL);
            }
        }
    }
}

/// Takes out what is different each time: folders, ids, times, pids, ports, loads.
fn normal(text: &str) -> String {
    let line = |line: &str| {
        for (prefix, rest) in [
            ("uuid = `", "UUID'"),
            ("application uuid = `", "UUID'"),
            ("revision = `", "N'"),
            ("application revision = `", "N'"),
            ("creation time = `", "TIME'"),
            ("update time = `", "TIME'"),
            ("load average (1/5/15): ", "LOAD"),
        ] {
            if line.trim_start().starts_with(prefix) {
                return format!("{prefix}{rest}\n");
            }
        }
        if let Some((before, after)) = line.split_once("(pid = ") {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            return format!("{before}(pid = N{after}\n");
        }
        if !line.is_empty() && line.chars().all(|c| c.is_ascii_digit()) {
            return "N\n".to_owned();
        }
        format!("{line}\n")
    };
    text.lines().map(line).collect()
}

const DEFAULTS: &str = r#"<icegrid><application name="Defaults"><description>not taken in</description><variable name="v" value="1"/><replica-group id="NotTakenIn"/>
<properties id="Set"><property name="a" value="b"/></properties>
<server-template id="Sleeper"><parameter name="i"/><server id="s-${i}" exe="sleep" activation="manual"><option>${i}</option></server></server-template>
</application></icegrid>"#;

const TEMPLATED: &str = r#"<icegrid><application name="Templated" import-default-templates="true"><node name="node1">
<server-instance template="Sleeper" i="1"><properties><properties refid="Set"/></properties></server-instance></node></application></icegrid>"#;

const SCRIPT: &[&str] = &[
    "application list",
    "application add app.xml",
    "application add app.xml",
    "application add",
    "application list",
    "application describe App",
    "application describe Nope",
    "application diff app.xml",
    "application diff -s app.xml",
    "application diff app2.xml",
    "application diff -s app2.xml",
    "application diff -x app.xml",
    "server list",
    "server describe keep",
    "server describe srv-1",
    "server describe box",
    "server describe nope",
    "server state keep",
    "server pid keep",
    "server start keep",
    "server state keep",
    "server pid keep",
    "server signal keep SIGFOO",
    "server signal keep SIGCONT",
    "server disable keep",
    "server state keep",
    "server enable keep",
    "server properties keep",
    "server stdout keep hi",
    "server stop keep",
    "server stop keep",
    "server start bad",
    "server start elsewhere",
    "server state elsewhere",
    "server start nope",
    "server show keep log",
    "server show keep stdout",
    "server show -h 1 -t 1 keep stdout",
    "server show -z keep stdout",
    "server show keep",
    "server show nope stdout",
    "server patch keep",
    "server state",
    "server state a b",
    "adapter list",
    "adapter endpoints srv-1.Echo",
    "adapter endpoints Group",
    "adapter endpoints Nope",
    "adapter remove srv-1.Echo",
    "object list",
    "object list cat*",
    "object describe echo",
    "object describe cat*",
    "object find ::Demo::Echo",
    "object add 'foo/bar:tcp -h 127.0.0.1 -p 1' ::X::Y",
    "object add 'foo/bar:tcp -h 127.0.0.1 -p 1' ::X::Y",
    "object describe foo/bar",
    "object remove foo/bar",
    "object remove foo/bar",
    "object remove echo",
    "object remove IceGrid/Query",
    "adapter remove Group",
    "node list",
    "node describe node1",
    "node describe node2",
    "node describe nope",
    "node ping node1",
    "node ping node2",
    "node ping nope",
    "node load node1",
    "node sockets",
    "node sockets node1",
    "node sources node1",
    "node show nope log",
    "registry show nope log",
    "registry list",
    "registry describe Master",
    "registry ping Master",
    "registry ping nope",
    "service list box",
    "service describe box s2",
    "service describe box nope",
    "service start box s2",
    "service properties box s2",
    "server template describe App T",
    "server template describe App nope",
    "service template describe App ST",
    "server template instantiate App node1 T index=9",
    "server template instantiate App node1 T index=9",
    "server list; node list",
    "server remove srv-9",
    "server list",
    "application update app2.xml",
    "application describe App",
    "application patch App",
    "server",
    "frob",
    "server list ; frob ; node list",
    "help frob",
    "application remove App",
    "application remove App",
    "application add templated.xml",
    "application describe Templated",
    "server describe s-1",
    "server template describe Templated Sleeper",
    "application diff templated.xml",
    "application remove Templated",
    "quit",
];

#[test]
fn icegridadmin_says_at_zerocs_registry_what_debians_says() {
    if !has_peers() {
        return;
    }
    let grid = Served::zeroc();
    let theirs = grid.transcript(Path::new("icegridadmin"), SCRIPT);
    let ours = grid.transcript(&named(grid.dir.path(), "icegridadmin"), SCRIPT);
    let different: Vec<String> = theirs
        .iter()
        .zip(&ours)
        .filter(|(theirs, ours)| theirs != ours)
        .map(|(theirs, ours)| format!("--- Debian's\n{theirs}--- ours\n{ours}"))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// What the grids answer differently, and why; everything else in the script has to be the same.
const DIFFERENT: &[&str] = &[
    // A program that cannot be run: each says so in its own words.
    "server start bad",
    // ZeroC has only the node that it was started as; ours starts those of the descriptor.
    "server start elsewhere",
    "server state elsewhere",
    "node describe node2",
    "node ping node2",
    "node sockets",
    // ZeroC's servers make these files, here they are there from the start.
    "server show keep stdout",
    // ZeroC looks for servers twice first, ours for objects.
    "server template instantiate App node1 T index=9",
    // ZeroC forgets who updated; the registry's internal object is ZeroC's alone.
    "application describe App",
    "object list",
];

#[test]
fn the_same_commands_at_both_grids_say_the_same() {
    if !has_peers() {
        return;
    }
    let program = Path::new("/usr/bin/icegridadmin");
    let answers = |grid: Served| {
        let dir = grid.dir.path().display().to_string();
        let answers = grid.transcript(program, SCRIPT);
        let answers = answers.into_iter().map(|text| text.replace(&dir, "DIR"));
        answers.collect::<Vec<_>>()
    };
    let (theirs, ours) = (answers(Served::zeroc()), answers(Served::ours()));
    let different: Vec<String> = SCRIPT
        .iter()
        .zip(theirs.iter().zip(&ours))
        .filter(|(command, (theirs, ours))| theirs != ours && !DIFFERENT.contains(command))
        .map(|(_, (theirs, ours))| format!("--- ZeroC's\n{theirs}--- ours\n{ours}"))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    let differs = |listed: &&&str| {
        let mut all = SCRIPT.iter().zip(theirs.iter().zip(&ours));
        all.any(|(command, (theirs, ours))| command == *listed && theirs != ours)
    };
    let same: Vec<_> = DIFFERENT.iter().filter(|listed| !differs(listed)).collect();
    assert!(same.is_empty(), "no longer different: {same:?}");
}

#[test]
fn commands_come_from_options_files_and_standard_input() {
    if !has_peers() {
        return;
    }
    let grid = Served::zeroc();
    let program = named(grid.dir.path(), "icegridadmin");
    let file = grid.dir.path().join("commands");
    std::fs::write(
        &file,
        "node list\nfrob\n// nothing\nregistry list; quit\nnode list\n",
    )
    .unwrap();
    let run = |args: &[&str], input: Stdio| {
        let mut command = Command::new(&program);
        let done = command
            .arg("--Ice.Config=admin.cfg")
            .args(args)
            .current_dir(grid.dir.path());
        let done = done.stdin(input).output().unwrap();
        (String::from_utf8(done.stdout).unwrap(), done.status.code())
    };
    let twice = run(&["-e", "node list", "-e", "registry list"], Stdio::null());
    assert_eq!(twice, ("node1\nMaster\n".to_owned(), Some(0)));
    let named_file = run(&["commands"], Stdio::null());
    assert_eq!(named_file, ("node1\nMaster\n".to_owned(), Some(1)));
    let (out, code) = run(&[], std::fs::File::open(&file).unwrap().into());
    assert!(out.ends_with(">>> node1\n>>> >>> >>> Master\n"), "{out}");
    assert_eq!(code, Some(1));
}

#[test]
fn versions_are_said_where_omero_looks_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, version: Option<&str>| {
        let mut command = Command::new(named(dir.path(), name));
        command
            .arg("--version")
            .env_remove("OMERO_GRID_ICE_VERSION");
        command.envs(version.map(|version| ("OMERO_GRID_ICE_VERSION", version)));
        let done = command.output().unwrap();
        assert!(done.status.success(), "{name}");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(done.stdout), text(done.stderr))
    };
    let none = String::new;
    for (version, text) in [(None, "3.6.5\n"), (Some("3.7.10"), "3.7.10\n")] {
        assert_eq!(run("icegridadmin", version), (text.to_owned(), none()));
        for name in ["icegridnode", "icegridregistry", "glacier2router"] {
            assert_eq!(run(name, version), (none(), text.to_owned()), "{name}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_command_line_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, args: &[&str]| {
        let mut command = Command::new(named(dir.path(), name));
        let done = command
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let nobody = "--Ice.Default.Locator=IceGrid/Locator:tcp -h 127.0.0.1 -p 1";
    for (name, args, said) in [
        ("icegridadmin", &["--frob"][..], "invalid option: `--frob'"),
        ("icegridadmin", &["-e"], "`-e' option requires an argument"),
        (
            "icegridadmin",
            &["--Ice.Config=nowhere", "-e", "node list"],
            "nowhere",
        ),
        (
            "icegridadmin",
            &["-u", "a", "-p", "b", "-e", "node list"],
            "no default locator or router configured",
        ),
        (
            "icegridadmin",
            &[nobody, "-u", "a", "-p", "b", "-e", "node list"],
            "could not contact the default locator",
        ),
        ("icegridnode", &["--frob"], "invalid option: `--frob'"),
        ("icegridnode", &["--Ice.Config=nowhere"], "nowhere"),
    ] {
        let (code, err) = run(name, args);
        assert_eq!(code, Some(1), "{name} {args:?}");
        assert!(err.contains(said), "{name} {args:?}: {err}");
    }
}
