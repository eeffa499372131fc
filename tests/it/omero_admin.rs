//! Stock omero-py starts, looks at, changes and stops a site with this program as its `icegridnode` and `icegridadmin`, unmodified.
//!
//! `OMERO_GRID_OMERO_PY` names its Python. Skipped, and said so, where that has not both `Ice` 3.6 and `omero`, which needs CPython 3.10; under
//! `OMERO_GRID_REQUIRE_PEERS=1` a Python 3.10 has to have them.

use std::process::{Command, Stdio};

use crate::harness::{Done, OmeroSite, Run, alive, living};
use crate::ice_peer::has;

/// Runs the command `omero` of this Python as it is. It refuses to run as root, which tests may have to: then it is told that it is not.
const OMERO: &str = "
import os, runpy, sys
if os.geteuid() == 0:
    os.geteuid = lambda: 1
sys.argv[0] = os.path.join(os.path.dirname(sys.executable), 'omero')
runpy.run_path(sys.argv[0], run_name='__main__')
";

/// Returns the Python with OMERO in it, where there is one.
fn stock() -> Option<String> {
    let python = std::env::var("OMERO_GRID_OMERO_PY").unwrap_or_else(|_| "python3".to_owned());
    let says = |code: &str| {
        let done = Command::new(&python).args(["-c", code]).output().ok()?;
        let text = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        done.status.success().then_some(text)
    };
    let ice = says("import Ice, omero.cli; print(Ice.stringVersion())");
    if ice.is_some_and(|version| version.starts_with("3.6.")) {
        return Some(python);
    }
    let version = says("import sys; print('%d.%d' % sys.version_info[:2])");
    let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
    assert!(
        !required || version.as_deref() != Some("3.10"),
        "{python} is a Python 3.10 without zeroc-ice 3.6.5 and omero-py"
    );
    println!(
        "skipped: {python} has not zeroc-ice 3.6 and omero-py (OMERO_GRID_OMERO_PY names one)"
    );
    None
}

/// A site, and the command that its administrator types.
struct Stock {
    python: String,
    site: OmeroSite,
}

impl Stock {
    fn command(&self, words: &str) -> Command {
        let mut command = self.site.program(&self.python);
        command.args(["-c", OMERO]).args(words.split_whitespace());
        command
    }

    #[track_caller]
    fn omero(&self, words: &str) -> Run {
        self.site.finish(&mut self.command(words), "")
    }

    /// Asserts that a server is active, and returns its process.
    #[track_caller]
    fn active(&self, id: &str) -> u32 {
        let run = self.omero(&format!("admin ice server state {id}")).ok();
        let pid = run.stdout.strip_prefix("active (pid = ");
        let pid = pid.and_then(|rest| rest.strip_suffix(", enabled)\n"));
        pid.unwrap_or_else(|| panic!("{id}: {run:?}"))
            .parse()
            .unwrap()
    }

    fn pid_file(&self) -> u32 {
        let text = self.site.read("var/master/master.pid");
        text.trim().parse().unwrap()
    }
}

fn all(done: &Done) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

#[test]
fn stock_omero_starts_looks_at_and_stops_a_site() {
    let Some(python) = stock() else {
        return;
    };
    if !has("/usr/bin/glacier2router", &["--version"]) {
        return;
    }
    let site = OmeroSite::new();
    let stock = Stock { python, site };
    let site = &stock.site;
    let [registry, tcp, ssl] = site.ports;
    std::fs::create_dir(site.path("data")).unwrap();
    site.write(
        "site.omero",
        &format!(
            "config set omero.data.dir {}\n\
             config set omero.ports.registry {registry}\n\
             config set omero.ports.tcp {tcp}\n\
             config set omero.ports.ssl {ssl}\n\
             config set omero.client.icetransports tcp\n\
             config set omero.jvmcfg.system_memory 4000\n\
             config set omero.upgrades.url http://127.0.0.1:1/\n",
            site.path("data").display()
        ),
    );
    stock.omero("load site.omero").ok();
    // There are no generated files yet, and then nobody answers.
    stock.omero("admin status").exits(574 % 256);
    let started = stock.omero("admin start --wait 30").ok();
    let told = all(&started);
    assert!(told.contains("made user root"), "{told}");
    // It is OMERO that has made the files, just now.
    assert!(!told.contains("made anew"), "{told}");
    let master = stock.pid_file();
    assert_eq!(site.status()["master"]["pid"], master);
    stock.omero("admin status").ok();
    stock.omero("admin status --nodeonly").ok();
    let refused = stock.omero("admin start").exits(876 % 256);
    assert!(all(&refused).contains("Server already running"));
    assert_eq!(stock.pid_file(), master);

    const SERVERS: &str = "Blitz-0\nOMERO.Glacier2\nProcessor-0\n";
    assert_eq!(stock.omero("admin ice server list").ok().stdout, SERVERS);
    let blitz = stock.active("Blitz-0");
    stock.omero("admin ice server state nobody").exits(1);
    let mut console = stock.command("admin ice");
    let console = site.finish(&mut console, "server list\nquit\n").ok();
    assert!(console.stdout.contains("OMERO.Glacier2\n"), "{console:?}");

    let told = all(&stock.omero("admin diagnostics").ok());
    let lines = told.split(['\n', '\t']).map(str::split_whitespace);
    let told: Vec<String> = lines
        .map(|words| words.collect::<Vec<_>>().join(" "))
        .collect();
    let bin = site.path("bin");
    for line in [
        format!("Commands: icegridnode --version 3.6.5 ({}", bin.display()),
        format!("Commands: icegridadmin --version 3.6.5 ({}", bin.display()),
        "Server: icegridnode running".to_owned(),
        format!("Server: Blitz-0 active (pid = {blitz}, enabled)"),
        "Server: OMERO.Glacier2 active (pid = ".to_owned(),
        "Server: Processor-0 active (pid = ".to_owned(),
        format!("OMERO SSL port:{ssl}"),
        format!("OMERO TCP port:{tcp}"),
    ] {
        let is_there = told.iter().any(|told| told.starts_with(&line));
        assert!(is_there, "{line}: {told:#?}");
    }

    // OMERO itself refuses this while the server runs, unless it takes it for one that was never set up.
    stock.omero("admin deploy debug").exits(100);
    assert_eq!(stock.active("Blitz-0"), blitz);
    std::fs::remove_file(site.path("etc/internal.cfg")).unwrap();
    stock.omero("admin deploy debug").ok();
    let debugged = site.wait_successor("Blitz-0", blitz);
    let environment = std::fs::read(format!("/proc/{debugged}/environ")).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    assert!(variables.any(|variable| variable == b"DEBUG=1"));

    stock.omero("admin restart --wait 30").ok();
    assert!(!alive(master));
    assert_ne!(stock.pid_file(), master);
    stock.omero("admin stop --wait 30").ok();
    assert_eq!(living(site.dir()), []);
    stock.omero("admin status").exits(1);
    let stopped = stock.omero("admin stop");
    assert!(stopped.stderr.contains("Server not running"), "{stopped:?}");
}

#[test]
fn stock_omero_stays_in_the_foreground_and_hears_of_a_failure() {
    let Some(python) = stock() else {
        return;
    };
    let site = OmeroSite::new();
    let stock = Stock { python, site };
    let site = &stock.site;
    let [registry, ..] = site.ports;
    std::fs::create_dir(site.path("data")).unwrap();
    // A Blitz alone: there is no router to log in by.
    let default = site.read("etc/templates/grid/default.xml");
    let router = r#"<server-instance template="Glacier2Template" client-endpoints="@omero.client.endpoints@"/>"#;
    assert!(default.contains(router));
    let default = default.replace(router, "");
    site.write("etc/templates/grid/default.xml", &default);
    site.write(
        "site.omero",
        &format!(
            "config set omero.data.dir {}\n\
             config set omero.ports.registry {registry}\n\
             config set omero.jvmcfg.system_memory 4000\n",
            site.path("data").display()
        ),
    );
    stock.omero("load site.omero").ok();

    let log = std::fs::File::create(site.path("foreground.log")).unwrap();
    // It waits for the start when the grid has ended: not for long.
    let mut foreground = stock
        .command("admin start --foreground --wait 1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    site.wait("the site to be up", || {
        let run = stock.omero("admin status");
        (run.status == 0).then_some(())
    });
    assert!(foreground.try_wait().unwrap().is_none());
    stock.omero("admin stop --wait 30").ok();
    assert_eq!(living(site.dir()), []);
    site.wait("the foreground to end", || foreground.try_wait().unwrap());

    stock.omero("admin startasync").ok();
    stock.omero("admin waitup --wait 30").ok();
    stock.omero("admin stopasync").ok();
    stock.omero("admin waitdown --wait 30").ok();
    site.wait("nothing to be left", || {
        living(site.dir()).is_empty().then_some(())
    });

    let slip = default.replace("\"BlitzTemplate\"", "\"BlitzTemplat\"");
    site.write("etc/templates/grid/default.xml", &slip);
    stock
        .omero("admin start --wait 30")
        .exits(1)
        .says(&["unknown template 'BlitzTemplat'"]);
    assert_eq!(living(site.dir()), []);
}
