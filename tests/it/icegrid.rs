//! The registry as IceGrid's own tools, servers and clients meet it.
//!
//! The servers are programs of ZeroC's Ice in Python, the administrator is Debian's `icegridadmin`, the clients are ours. Skipped, and said so,
//! where those are not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use omero_grid::ice::net::{Answer, Call, Client, ClientSettings, InvokeError};
use omero_grid::ice::{Encapsulation, Encode as _, Endpoint, Mode, Proxy, Reference, Thrown};
use omero_grid::icegrid::types::AdapterNotFoundException;

use crate::harness::{Grid, Server, application, kill, node, server, sleeper};
use crate::ice_peer::Program;

const LIMIT: Option<Duration> = Some(Duration::from_secs(60));
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/peers/object.py");

/// Returns whether what these tests need is installed; says so and skips where it is not.
pub(crate) fn installed() -> bool {
    let python = Command::new("/usr/bin/python3")
        .args(["-c", "import Ice"])
        .output()
        .is_ok_and(|done| done.status.success());
    let tools = Path::new("/usr/bin/icegridadmin").exists();
    if python && tools {
        return true;
    }
    let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
    assert!(
        !required,
        "python3-zeroc-ice or zeroc-ice-utils is not installed"
    );
    println!("skipped: python3-zeroc-ice or zeroc-ice-utils is not installed");
    false
}

/// An Ice server with one adapter, in a group or not.
pub(crate) fn echo(id: &str, activation: &str, group: Option<&str>) -> Server {
    let group = group.map_or(String::new(), |group| format!(" replica-group=\"{group}\""));
    server(id, "/usr/bin/python3")
        .attribute("activation", activation)
        .attribute("activation-timeout", "30")
        .option(OBJECT)
        .option("Echo")
        .option("echo")
        .within(&format!(
            "<adapter name=\"Echo\" endpoints=\"tcp -h 127.0.0.1\"{group}/>"
        ))
}

const GROUP: &str = r#"<replica-group id="Group"><load-balancing type="round-robin" n-replicas="2"/><object identity="echo" type="::Demo::Echo"/></replica-group>"#;

/// Makes a grid whose registry listens on a port of its own.
pub(crate) fn grid(descriptor: &str) -> Grid {
    let mut grid = Grid::new(descriptor);
    grid.set("OMERO_GRID_REGISTRY_ENDPOINTS", "tcp -h 127.0.0.1 -p 0");
    grid
}

pub(crate) fn locator(grid: &Grid) -> Proxy {
    let status = grid.status();
    status["registry"]["locator"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// Runs Debian's `icegridadmin` with one command; returns its exit code and what it prints.
#[track_caller]
pub(crate) fn admin(grid: &Grid, command: &str) -> (i32, String) {
    let mut program = Command::new("/usr/bin/icegridadmin");
    program
        .arg(format!("--Ice.Default.Locator={}", locator(grid)))
        .args(["--username", "me", "--password", "secret", "-e", command])
        .current_dir(grid.dir());
    let done = grid.finish(&mut program, "");
    (done.status, format!("{}{}", done.stdout, done.stderr))
}

/// Runs a command that has to succeed.
#[track_caller]
pub(crate) fn admin_ok(grid: &Grid, command: &str) -> String {
    let (code, text) = admin(grid, command);
    assert_eq!(code, 0, "{command}: {text}");
    text
}

/// A client beside a runtime of its own.
pub(crate) struct Caller {
    runtime: tokio::runtime::Runtime,
    client: Client,
    locator: Proxy,
}

impl Caller {
    pub(crate) fn new(grid: &Grid) -> Self {
        let locator = locator(grid);
        let settings = ClientSettings {
            locator: Some(locator.clone()),
            ..ClientSettings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(async { Client::new(settings) });
        Self {
            runtime,
            client,
            locator,
        }
    }

    pub(crate) fn ping(&self, proxy: &str) -> Result<Answer, InvokeError> {
        let proxy: Proxy = proxy.parse().unwrap();
        let call = Call::new(&proxy, "ice_ping", Mode::Nonmutating);
        self.runtime
            .block_on(self.client.invoke(&proxy, &call, LIMIT))
    }

    #[track_caller]
    pub(crate) fn pings(&self, proxy: &str) {
        let answer = self.ping(proxy);
        assert!(
            matches!(answer, Ok(Answer::Done { .. })),
            "{proxy}: {answer:?}"
        );
    }

    /// Asks which adapters of a group have an object.
    fn replicas(&self, of: &str) -> Vec<String> {
        let mut query = self.locator.clone();
        query.identity.name = "Query".to_owned();
        let of: Proxy = of.parse().unwrap();
        let call = Call::new(&query, "findAllReplicas", Mode::Idempotent)
            .with(|writer| Some(of).encode(writer));
        let invoked = self.client.invoke(&query, &call, LIMIT);
        let answer = self.runtime.block_on(invoked).unwrap();
        let Answer::Done { encoding, body } = &answer else {
            panic!("{answer:?}");
        };
        let found: Vec<Option<Proxy>> = capsule(*encoding, body).decode().unwrap();
        found.iter().flatten().map(ToString::to_string).collect()
    }

    /// Asks the locator for an adapter.
    fn adapter(&self, id: &str) -> Result<Option<Proxy>, Answer> {
        let call = Call::new(&self.locator, "findAdapterById", Mode::Nonmutating)
            .with(|writer| id.encode(writer));
        let answer = self
            .runtime
            .block_on(self.client.invoke(&self.locator, &call, LIMIT))
            .unwrap();
        match &answer {
            Answer::Done { encoding, body } => Ok(capsule(*encoding, body).decode().unwrap()),
            _ => Err(answer),
        }
    }
}

fn capsule(version: [u8; 2], bytes: &[u8]) -> Encapsulation<'_> {
    Encapsulation { version, bytes }
}

fn endpoints(proxy: &Option<Proxy>) -> Vec<Endpoint> {
    match proxy.as_ref().map(|proxy| &proxy.reference) {
        Some(Reference::Direct(endpoints)) => endpoints.clone(),
        _ => Vec::new(),
    }
}

#[test]
fn servers_are_active_once_they_have_registered_and_clients_find_them() {
    if !installed() {
        return;
    }
    let servers = [
        echo("A", "always", Some("Group")),
        echo("B", "always", Some("Group")),
        sleeper("Plain"),
    ];
    let grid = grid(&application(&[GROUP.to_owned(), node("n", &servers)]));
    grid.start();
    let caller = Caller::new(&grid);
    caller.pings("echo @ A.Echo");
    caller.pings("echo @ Group");
    // Well-known: its group is where the registry says.
    caller.pings("echo");
    // In turn, and both of them each time.
    let (one, other) = (
        endpoints(&caller.adapter("Group").unwrap()),
        endpoints(&caller.adapter("Group").unwrap()),
    );
    assert_eq!(one.len(), 2);
    assert_eq!(one, [other[1].clone(), other[0].clone()]);
    // Which group it is, is also known of whoever is known.
    for of in ["echo", "echo @ Group", "echo:tcp -h 127.0.0.1 -p 9"] {
        let found = caller.replicas(of);
        assert_eq!(
            found,
            ["echo -t -e 1.1 @ A.Echo", "echo -t -e 1.1 @ B.Echo"],
            "{of}"
        );
    }
    for of in ["nobody", "echo @ A.Echo"] {
        assert!(caller.replicas(of).is_empty(), "{of}");
    }
    // There is none of that name.
    let unknown = caller.adapter("Nobody").unwrap_err();
    let Answer::Exception { encoding, body } = &unknown else {
        panic!("{unknown:?}");
    };
    let thrown = Thrown::new(capsule(*encoding, body)).unwrap();
    assert!(thrown.is::<AdapterNotFoundException>().unwrap().is_some());

    // Killed, it comes back elsewhere, and whoever asks hears where.
    let before = endpoints(&caller.adapter("A.Echo").unwrap());
    let old = grid.pid("A");
    kill(old, Signal::SIGKILL);
    grid.wait_successor("A", old);
    let after = endpoints(&caller.adapter("A.Echo").unwrap());
    assert!(!after.is_empty() && after != before, "{before:?} {after:?}");
    caller.pings("echo @ A.Echo");

    // Stopped by its process object, not by a signal; then nobody listens, which is no error.
    grid.run("server B stop").ok();
    assert!(grid.read("var/log/B.out").contains("asked to end"));
    assert_eq!(caller.adapter("B.Echo").unwrap(), None);
    assert_eq!(endpoints(&caller.adapter("Group").unwrap()), after);
}

#[test]
fn who_is_looked_for_is_started_once_for_all_who_look() {
    if !installed() {
        return;
    }
    let servers = [
        echo("Lazy", "on-demand", None),
        echo("Manual", "manual", None),
    ];
    let grid = grid(&application(&[node("n", &servers)]));
    grid.start();
    let caller = Caller::new(&grid);
    assert_eq!(caller.adapter("Manual.Echo").unwrap(), None);
    let call = Call::new(&caller.locator, "findAdapterById", Mode::Nonmutating)
        .with(|writer| "Lazy.Echo".encode(writer));
    let found: Vec<Option<Proxy>> = caller.runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (client, locator, call) =
                (caller.client.clone(), caller.locator.clone(), call.clone());
            all.spawn(async move { client.invoke(&locator, &call, LIMIT).await.unwrap() });
        }
        let answers = all.join_all().await;
        let of = |answer: &Answer| match answer {
            Answer::Done { encoding, body } => capsule(*encoding, body).decode().unwrap(),
            other => panic!("{other:?}"),
        };
        answers.iter().map(of).collect()
    });
    let different: BTreeSet<_> = found.iter().map(endpoints).collect();
    assert_eq!(different.len(), 1, "{different:?}");
    assert!(!endpoints(&found[0]).is_empty());
    let lazy = grid.wait_state("Lazy", "active");
    assert_eq!(lazy["restarts"], 0);
    // Whoever may not be started is not, whoever looks.
    grid.run("server Lazy disable").ok();
    assert_eq!(caller.adapter("Lazy.Echo").unwrap(), None);
}

#[test]
fn the_next_master_knows_what_was_registered_and_listens_where_the_last_one_did() {
    if !installed() {
        return;
    }
    let grid = grid(&application(&[node("n", &[echo("A", "always", None)])]));
    grid.start();
    admin_ok(&grid, "object add 'added:tcp -h 127.0.0.1 -p 9' ::Added");
    let (at, pid) = (locator(&grid), grid.pid("A"));
    let where_it_listens = endpoints(&Caller::new(&grid).adapter("A.Echo").unwrap());
    grid.kill9(grid.master_pid());
    grid.run("start").ok();
    assert_eq!(locator(&grid), at);
    assert_eq!(grid.pid("A"), pid);
    let caller = Caller::new(&grid);
    assert_eq!(
        endpoints(&caller.adapter("A.Echo").unwrap()),
        where_it_listens
    );
    assert!(admin_ok(&grid, "object describe added").contains("::Added"));
    // So does the next node.
    grid.replace_node("n");
    grid.wait_state("A", "active");
    assert_eq!(grid.pid("A"), pid);
    assert_eq!(
        endpoints(&caller.adapter("A.Echo").unwrap()),
        where_it_listens
    );
    admin_ok(&grid, "object remove added");
    assert_eq!(admin(&grid, "object describe added").0, 1);
}

#[test]
fn proxies_name_what_is_published_and_servers_find_the_registry_all_the_same() {
    if !installed() {
        return;
    }
    let grid = grid(&application(&[node("n", &[echo("A", "always", None)])]));
    let published = "IceGrid.Registry.Client.PublishedEndpoints=tcp -h door -p 4061";
    let start = ["start", "grid.xml", "--property", published];
    grid.finish(&mut grid.command(&start), "").ok();
    grid.wait_state("A", "active");
    for (object, host) in [("Query", "door"), ("LocatorRegistry", "127.0.0.1")] {
        let told = admin_ok(&grid, &format!("object describe IceGrid/{object}"));
        assert!(told.contains(&format!("tcp -h {host} -p ")), "{told}");
    }
    Caller::new(&grid).pings("echo @ A.Echo");
}

#[test]
fn debians_icegridadmin_sees_and_does_everything() {
    if !installed() {
        return;
    }
    let servers = [
        echo("A", "always", Some("Group")).property("a.b", "c d"),
        echo("M", "manual", None),
        // It ends before it is ready, however busy the host is.
        server("Bad", "/bin/false")
            .attribute("activation", "manual")
            .property("omero.grid.ready", "30000"),
    ];
    let grid = grid(&application(&[GROUP.to_owned(), node("n", &servers)]));
    grid.start();
    let ok = |command: &str| admin_ok(&grid, command);
    let fails = |command: &str, says: &str| {
        let (code, text) = admin(&grid, command);
        assert_eq!(code, 1, "{command}: {text}");
        assert!(text.contains(says), "{command}: {text}");
    };
    assert_eq!(ok("application list"), "Test\n");
    assert_eq!(ok("server list"), "A\nBad\nM\n");
    assert_eq!(ok("node list"), "n\n");
    assert_eq!(ok("registry list"), "Master\n");
    assert_eq!(ok("adapter list"), "A.Echo\nGroup\nM.Echo\n");
    assert_eq!(ok("node ping n"), "node is up\n");
    assert_eq!(ok("registry ping Master"), "registry is up\n");
    let pid = grid.pid("A");
    assert_eq!(ok("server pid A"), format!("{pid}\n"));
    assert_eq!(
        ok("server state A"),
        format!("active (pid = {pid}, enabled)\n")
    );
    assert_eq!(ok("server property A a.b"), "c d\n");
    assert!(ok("adapter endpoints M.Echo").contains("<inactive>"));
    assert!(ok("server describe A").contains("replica group id = `Group'"));
    assert!(ok("application describe Test").contains("load balancing = `round-robin'"));
    assert!(ok("object find ::Demo::Echo").contains("echo -t -e 1.1 @ Group"));
    assert!(ok("node load n").contains("load average (1/5/15)"));
    ok("server stdout A hello");
    assert!(ok("server show A stdout").contains("hello"));
    assert!(ok("server show -t 1 A stdout").contains("hello"));
    ok("server start M");
    assert!(ok("server state M").starts_with("active"));
    fails("server start M", "already active");
    ok("server stop M");
    assert_eq!(ok("server state M"), "inactive (enabled)\n");
    fails("server stop M", "already inactive");
    ok("server disable M");
    fails("server start M", "disabled");
    assert_eq!(ok("server state M"), "inactive (disabled)\n");
    ok("server enable M");
    fails("server start Bad", "exited with code 1");
    fails("server state Nobody", "couldn't find server `Nobody'");
    // An `always` server is started again.
    ok("server stop A");
    assert_ne!(grid.wait_successor("A", pid), pid);
    ok("server signal A SIGKILL");
    fails("server signal A SIGNONSENSE", "");
    // The registry asks an object itself of which type it is.
    grid.wait_state("A", "active");
    ok("object add 'again:tcp -h 127.0.0.1 -p 9' ::Again");
    fails(
        "object add 'again:tcp -h 127.0.0.1 -p 9' ::Again",
        "already exists",
    );
    ok("object remove again");
    fails("object remove echo", "application descriptor");
    let found = ok("adapter endpoints A.Echo");
    let direct = found.trim().replacen("dummy", "echo", 1);
    fails(&format!("object add '{direct}'"), "already exists");
    let finder = locator(&grid).to_string();
    let finder = finder.replacen("IceGrid/Locator", "Ice/LocatorFinder", 1);
    ok(&format!("object add '{finder}'"));
    assert!(ok("object describe Ice/LocatorFinder").contains("::Ice::LocatorFinder"));

    // Applications come and go.
    grid.write(
        "more.xml",
        &application(&[node("m", &[sleeper("S")])]).replace("\"Test\"", "\"More\""),
    );
    ok("application add more.xml");
    // Its node runs by then.
    assert_eq!(ok("node ping m"), "node is up\n");
    assert_eq!(ok("application list"), "More\nTest\n");
    fails("application add more.xml", "already exists");
    grid.wait_state("S", "active");
    ok("application update more.xml");
    ok("application remove More");
    fails(
        "application remove More",
        "couldn't find application `More'",
    );
    assert_eq!(ok("server list"), "A\nBad\nM\n");
    // And survive the master, though no file describes them.
    ok("application add more.xml");
    grid.kill9(grid.master_pid());
    std::fs::remove_file(grid.path("more.xml")).unwrap();
    grid.run("start").ok();
    assert_eq!(ok("application list"), "More\nTest\n");
    grid.wait_state("S", "active");
}

/// What IceGrid's graphical tool does. It is told how everything is, and then what changes, in order.
#[test]
fn observers_are_told_what_changes() {
    if !installed() {
        return;
    }
    let servers = [
        echo("A", "manual", Some("Group")),
        echo("D", "manual", None),
        sleeper("S"),
    ];
    let grid = grid(&application(&[GROUP.to_owned(), node("n", &servers)]));
    grid.start();
    grid.run("server D disable").ok();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/peers/observer.py");
    let mut program = Command::new("/usr/bin/python3");
    program.arg(script).arg(locator(&grid).to_string());
    let mut observer = Program::start(&mut program);
    let hears = |line: &str| {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != line) {
            heard.push(observer.line());
        }
        heard
    };
    assert_eq!(
        hears("observes"),
        [
            "registryInit Master",
            "nodeInit n D S",
            "applicationInit Test",
            "adapterInit 0",
            "objectInit 4",
            "observes"
        ]
    );
    hears("not twice");
    hears("update at the state that is known");
    admin_ok(&grid, "object add 'added:tcp -h 127.0.0.1 -p 9' ::Added");
    hears("objectAdded added ::Added");
    admin_ok(&grid, "object remove added");
    hears("objectRemoved added");
    admin_ok(&grid, "server start A");
    hears("updateServer n A Active True");
    hears("updateAdapter n A.Echo listens");
    admin_ok(&grid, "server disable A");
    hears("updateServer n A Active False");
    admin_ok(&grid, "server stop A");
    hears("updateAdapter n A.Echo does not listen");
    let more = application(&[node("m", &[sleeper("T")])]).replace("\"Test\"", "\"More\"");
    grid.write("more.xml", &more);
    admin_ok(&grid, "application add more.xml");
    hears("applicationAdded More next");
    hears("nodeUp m");
    grid.write("more.xml", &more.replace("3600", "3601"));
    admin_ok(&grid, "application update more.xml");
    hears("applicationUpdated More m next");
    admin_ok(&grid, "application remove More");
    hears("applicationRemoved More next");
    hears("nodeDown m");
    observer.end();
}
