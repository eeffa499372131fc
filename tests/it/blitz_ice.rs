//! ZeroC's clients log in on built-in Blitzes: through Debian's glacier2router, and at their adapters.
//!
//! Skipped, and said so, where Debian's python3-zeroc-ice or zeroc-glacier2 is not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::harness::Grid;
use crate::ice_peer::{FOLDER, Program, has};

pub(crate) const ROUTER: &str = "/usr/bin/glacier2router";

pub(crate) fn has_peers() -> bool {
    has("/usr/bin/python3", &["-c", "import Ice, Glacier2"]) && has(ROUTER, &["--version"])
}

/// A grid with Blitzes of these properties in a replica group, a registry on a port of its own, and a router on this port.
pub(crate) fn grid(blitzes: usize, router: Option<u16>, properties: &[(&str, &str)]) -> Grid {
    let mut grid = Grid::new(&descriptor(blitzes, router, properties));
    grid.set("OMERO_GRID_REGISTRY_ENDPOINTS", "tcp -h 127.0.0.1 -p 0");
    grid
}

fn property(name: &str, value: &str) -> String {
    format!(r#"<property name="{name}" value="{value}"/>"#)
}

/// The replica group of Blitzes.
pub(crate) const GROUP: &str = r#"<replica-group id="BlitzAdapters">
  <load-balancing type="round-robin" n-replicas="1"/>
  <object identity="BlitzVerifier" type="::Glacier2::PermissionsVerifier"/>
  <object identity="BlitzManager" type="::Glacier2::SessionManager"/>
</replica-group>"#;

/// The properties of a router to the Blitzes of the group.
pub(crate) fn routing(port: u16) -> Vec<(&'static str, String)> {
    let owned = |(name, value): (&'static str, &str)| (name, value.to_owned());
    let client = format!("tcp -h 127.0.0.1 -p {port}");
    [
        ("Glacier2.InstanceName", "OMERO.Glacier2"),
        ("Glacier2.Client.Endpoints", client.as_str()),
        ("Glacier2.Server.Endpoints", "tcp -h 127.0.0.1"),
        ("Glacier2.SessionManager", "BlitzManager@BlitzAdapters"),
        (
            "Glacier2.PermissionsVerifier",
            "BlitzVerifier@BlitzAdapters",
        ),
        ("Glacier2.Client.ForwardContext", "1"),
        ("Glacier2.Filter.Category.Accept", "ProcessCallback"),
    ]
    .map(owned)
    .into()
}

fn descriptor(blitzes: usize, router: Option<u16>, properties: &[(&str, &str)]) -> String {
    let properties: String = properties
        .iter()
        .map(|(name, value)| property(name, value))
        .collect();
    let blitzes: String = (0..blitzes)
        .map(|n| {
            format!(
                r#"<server id="Blitz-{n}" exe="omero-grid" activation="always">
                     <option>blitz</option>
                     <adapter name="BlitzAdapter" endpoints="tcp -h 127.0.0.1" replica-group="BlitzAdapters"/>
                     <properties>
                       <property name="omero.grid.ready" value="notify"/>
                       <property name="omero.data.dir" value="var/data"/>
                       {properties}
                     </properties>
                   </server>"#
            )
        })
        .collect();
    let router = router.map(|port| {
        let mut properties: String = routing(port)
            .iter()
            .map(|(name, value)| property(name, value))
            .collect();
        properties.push_str(&property("Ice.Admin.Endpoints", ""));
        format!(
            r#"<server id="Glacier2" exe="{ROUTER}" activation="always"><properties>{properties}</properties></server>"#
        )
    });
    format!(
        r#"<icegrid><application name="OMERO">
             {GROUP}
             <node name="master">{blitzes}{}</node>
           </application></icegrid>"#,
        router.unwrap_or_default()
    )
}

pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

pub(crate) fn locator(grid: &Grid) -> String {
    let status = grid.status();
    status["registry"]["locator"].as_str().unwrap().to_owned()
}

/// Starts a client of ZeroC's.
pub(crate) fn client(name: &str, at: &str) -> Program {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(format!("{FOLDER}/login.py"))
        .arg(format!("{FOLDER}/Omero.ice"))
        .args([name, at]);
    let program = Program::start(&mut command);
    assert_eq!(program.line(), "ready");
    program
}

/// Asks until something other than a failure to find or reach is answered: Blitzes register beside the start of the grid.
#[track_caller]
pub(crate) fn ask_until(grid: &Grid, client: &mut Program, line: &str, begins: &str) -> String {
    grid.wait(&format!("{begins:?} to {line:?}"), || {
        Some(client.ask(line)).filter(|answer| answer.starts_with(begins))
    })
}

/// Returns the sessions by their UUIDs.
fn sessions(grid: &Grid) -> BTreeMap<String, Value> {
    let list = grid.json("session list --reveal");
    let all = list.as_array().unwrap().iter();
    all.map(|session| {
        (
            session["uuid"].as_str().unwrap().to_owned(),
            session.clone(),
        )
    })
    .collect()
}

/// Waits until every Blitz can be found by its adapter.
pub(crate) fn wait_for_adapters(grid: &Grid, client: &mut Program, blitzes: usize) {
    for n in 0..blitzes {
        let server = format!("Blitz-{n}");
        let status = grid.server(&server).unwrap();
        let uuid = status["blitz"]["uuid"].as_str().unwrap();
        let ask = format!("node {server}.BlitzAdapter {uuid}");
        ask_until(grid, client, &ask, &format!("node {uuid}"));
    }
}

/// Logs root in: the password is checked at one Blitz, the session created at another. Returns the answer, and whose it is.
#[track_caller]
fn log_in(
    grid: &Grid,
    client: &mut Program,
    check_at: usize,
    create_at: usize,
) -> (String, String) {
    let password = grid.root_password().trim().to_owned();
    let check = format!("check Blitz-{check_at}.BlitzAdapter root {password}");
    assert_eq!(client.ask(&check).trim_end(), "checked True");
    let answer = client.ask(&format!("create Blitz-{create_at}.BlitzAdapter root"));
    assert!(answer.starts_with("session "), "{answer}");
    assert_eq!(client.ask("keep"), "kept True");
    let server = sessions(grid)[uuid_of(&answer)]["server"].clone();
    (answer, server.as_str().unwrap().to_owned())
}

/// Returns where a session's proxy leads.
fn port_of(answer: &str) -> &str {
    let port = answer.split(" -p ").nth(1).unwrap();
    port.split(' ').next().unwrap()
}

#[track_caller]
fn uuid_of(answer: &str) -> &str {
    answer.split(' ').nth(2).unwrap()
}

#[test]
fn a_client_logs_in_through_a_stock_router_and_stays_where_its_session_is() {
    if !has_peers() {
        return;
    }
    let port = free_port();
    let grid = grid(2, Some(port), &[]);
    grid.start();
    let password = grid.root_password().trim().to_owned();
    let at = format!("OMERO.Glacier2/router:tcp -h 127.0.0.1 -p {port}");
    let login = format!("login root {password}");

    let mut clients = Vec::new();
    let mut answers = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut client = client(name, &at);
        let answer = ask_until(&grid, &mut client, &login, "session ");
        assert!(
            answer.starts_with(&format!("session session-{name} ")),
            "{answer}"
        );
        assert!(answer.contains("tcp -h 127.0.0.1 -p "), "{answer}");
        assert_eq!(client.ask("callback"), "set");
        assert_eq!(client.ask("keep"), "kept True");
        assert_eq!(client.ask("refresh"), "refreshed");
        clients.push(client);
        answers.push(answer);
    }
    let list = sessions(&grid);
    assert_eq!(list.len(), 4, "{list:?}");
    // A proxy names the process that has the session, and no other.
    let mut ports = BTreeMap::new();
    for answer in &answers {
        let session = &list[uuid_of(answer)];
        assert_eq!(
            (&session["user"], &session["agent"]),
            (&"root".into(), &"peer".into())
        );
        let port = port_of(answer);
        let server = session["server"].as_str().unwrap();
        assert_eq!(*ports.entry(server).or_insert(port), port, "{answers:?}");
    }
    if let [one, other] = ports.values().collect::<Vec<_>>()[..] {
        assert_ne!(one, other);
    }
    for client in &mut clients {
        for _ in 0..3 {
            assert_eq!(client.ask("keep"), "kept True");
        }
    }
    let servers = |list: &BTreeMap<String, Value>| -> Vec<(String, Value)> {
        let of = |(uuid, session): (&String, &Value)| (uuid.clone(), session["server"].clone());
        list.iter().map(of).collect()
    };
    assert_eq!(servers(&sessions(&grid)), servers(&list), "they stayed");

    // What a client may not do.
    let mut stranger = client("stranger", &at);
    assert_eq!(
        stranger.ask("login root wrong"),
        "denied wrong user name or password"
    );
    let nameless = stranger.ask(&format!("nameless root {password}"));
    assert!(nameless.starts_with("wrapped False -1 "), "{nameless}");

    // A session is joined by its UUID, and ends with the last that leaves.
    let uuid = uuid_of(&answers[0]).to_owned();
    let joined = stranger.ask(&format!("login {uuid} {uuid}"));
    assert!(
        joined.starts_with(&format!("session session-stranger {uuid} ")),
        "{joined}"
    );
    assert_eq!(clients[0].ask("destroy"), "destroyed");
    assert_eq!(stranger.ask("keep"), "kept True");
    assert!(sessions(&grid).contains_key(&uuid));
    assert_eq!(stranger.ask("destroy"), "destroyed");
    grid.wait("the session to end", || {
        (!sessions(&grid).contains_key(&uuid)).then_some(())
    });

    // A client whose connection is lost has left; one that said so leaves the session behind.
    let (lost, kept) = (uuid_of(&answers[1]), uuid_of(&answers[2]));
    assert_eq!(clients[2].ask("detach"), "detached");
    assert_eq!(clients[2].ask("destroy"), "destroyed");
    clients[1].end();
    grid.wait("the lost client's session to end", || {
        (!sessions(&grid).contains_key(lost)).then_some(())
    });
    assert!(sessions(&grid).contains_key(kept));

    // What the grid closes is closed for its client.
    let closed = uuid_of(&answers[3]);
    grid.run(&format!("session close {closed}")).ok();
    assert_eq!(clients[3].ask("keep"), "gone");
    grid.run("stop").ok();
}

#[test]
fn nobody_has_a_session_for_reaching_the_port_and_a_drained_blitz_passes_logins_on() {
    if !has_peers() {
        return;
    }
    let grid = grid(2, None, &[]);
    grid.start();
    let password = grid.root_password().trim().to_owned();
    let mut one = client("one", &locator(&grid));
    wait_for_adapters(&grid, &mut one, 2);
    let create = "create Blitz-0.BlitzAdapter root";
    let refused = one.ask(create);
    assert!(
        refused.starts_with("cannot no Blitz has verified "),
        "{refused}"
    );
    let probe = one.ask("create Blitz-0.BlitzAdapter ####### no");
    assert!(probe.starts_with("wrapped False -1 "), "{probe}");
    let wrong = one.ask("check Blitz-0.BlitzAdapter root wrong");
    assert_eq!(wrong, "checked False wrong user name or password");
    assert!(one.ask(create).starts_with("cannot "));
    let check = format!("check Blitz-0.BlitzAdapter root {password}");
    assert_eq!(one.ask(&check).trim_end(), "checked True");
    let mut other = client("other", &locator(&grid));
    assert!(other.ask(create).starts_with("cannot "));
    assert!(sessions(&grid).is_empty());

    // Verified by one, created at the other: it is where it was verified.
    let passed = one.ask("create Blitz-1.BlitzAdapter root");
    assert!(passed.starts_with("session session-one "), "{passed}");
    assert_eq!(sessions(&grid)[uuid_of(&passed)]["server"], "Blitz-0");

    grid.run("drain Blitz-0 --no-wait").ok();
    assert_eq!(one.ask(&check).trim_end(), "checked True");
    let passed = one.ask(create);
    assert!(passed.starts_with("session session-one "), "{passed}");
    assert_eq!(sessions(&grid)[uuid_of(&passed)]["server"], "Blitz-1");
    assert_eq!(one.ask("keep"), "kept True");
    assert!(one.ask(create).starts_with("cannot "));

    // The next process of a server has its sessions, at another port; whoever knows the UUID is let in again.
    let pid = grid.pid("Blitz-1");
    grid.kill9(pid);
    grid.wait_successor("Blitz-1", pid);
    let uuid = uuid_of(&passed).to_owned();
    let check = format!("check Blitz-0.BlitzAdapter {uuid} {uuid}");
    ask_until(&grid, &mut one, &check, "checked True");
    let again = one.ask(&format!("create Blitz-0.BlitzAdapter {uuid}"));
    assert!(
        again.starts_with(&format!("session session-one {uuid} ")),
        "{again}"
    );
    assert_ne!(again, passed, "another process listens elsewhere");
    assert_eq!(one.ask("keep"), "kept True");
}

#[test]
fn a_login_ends_where_redirect_drains_and_routes_send_it_whichever_blitz_it_reaches() {
    if !has_peers() {
        return;
    }
    let config = ("omero.cluster.redirector", "configRedirector");
    let grid = grid(2, None, &[config]);
    grid.start();
    let mut one = client("one", &locator(&grid));
    wait_for_adapters(&grid, &mut one, 2);
    let all_at = |one: &mut Program, server: &str| -> Vec<String> {
        let ways = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let answers = ways.map(|(check, create)| {
            let (answer, at) = log_in(&grid, one, check, create);
            assert_eq!(at, server, "checked at {check}, created at {create}");
            answer
        });
        answers.to_vec()
    };
    grid.run("redirect set Blitz-1").ok();
    let answers = all_at(&mut one, "Blitz-1");
    let ports: Vec<&str> = answers.iter().map(|answer| port_of(answer)).collect();
    assert!(ports.iter().all(|port| *port == ports[0]), "{answers:?}");
    let wrong = one.ask("check Blitz-0.BlitzAdapter root wrong");
    assert_eq!(wrong, "checked False wrong user name or password");
    let refused = one.ask("create Blitz-0.BlitzAdapter root");
    assert!(refused.starts_with("cannot "), "{refused}");

    // Sessions stay; only new ones go elsewhere.
    grid.run("redirect set Blitz-0").ok();
    let (at_zero, server) = log_in(&grid, &mut one, 1, 1);
    assert_eq!(server, "Blitz-0");
    assert_ne!(port_of(&at_zero), ports[0]);
    let uuid = uuid_of(&answers[0]);
    let join = format!("check Blitz-0.BlitzAdapter {uuid} {uuid}");
    assert_eq!(one.ask(&join).trim_end(), "checked True");
    let joined = one.ask(&format!("create Blitz-0.BlitzAdapter {uuid}"));
    assert_eq!(joined, answers[0]);

    // Disabled, it runs on, and takes no more of them; nor does one that is drained.
    grid.run("server Blitz-0 disable").ok();
    assert_eq!(log_in(&grid, &mut one, 0, 0).1, "Blitz-1");
    grid.run("server Blitz-0 enable").ok();
    grid.run("drain Blitz-1 --no-wait").ok();
    assert_eq!(log_in(&grid, &mut one, 1, 1).1, "Blitz-0");
    grid.run("undrain Blitz-1").ok();

    // Without a redirector the Blitz that is reached keeps it, unless a route says otherwise.
    grid.write("grid.xml", &descriptor(2, None, &[]));
    grid.run("deploy grid.xml").ok();
    assert_eq!(log_in(&grid, &mut one, 0, 0).1, "Blitz-0");
    assert_eq!(log_in(&grid, &mut one, 1, 1).1, "Blitz-1");
    let route = ("omero.grid.route.1", "agent=peer -> Blitz-0");
    let escaped = [(route.0, &*route.1.replace('>', "&gt;"))];
    grid.write("grid.xml", &descriptor(2, None, &escaped));
    grid.run("deploy grid.xml").ok();
    all_at(&mut one, "Blitz-0");
    assert_eq!(grid.server("Blitz-0").unwrap()["restarts"], 0);
    // Whoever claims to have been sent there by another Blitz is asked about all the same.
    let password = grid.root_password().trim().to_owned();
    let forged = one.ask(&format!("forge Blitz-1.BlitzAdapter root {password}"));
    assert!(forged.starts_with("failed "), "{forged}");
    let forged = one.ask(&format!("forge Blitz-0.BlitzAdapter root {password}"));
    assert_eq!(forged.trim_end(), "checked True");

    // While the master is away, who is reached takes it.
    grid.kill9(grid.master_pid());
    let check = format!("check Blitz-1.BlitzAdapter root {password}");
    assert_eq!(one.ask(&check).trim_end(), "checked True");
    let answer = one.ask("create Blitz-1.BlitzAdapter root");
    assert!(answer.starts_with("session "), "{answer}");
    grid.run("start").ok();
    grid.wait("the session in the list", || {
        sessions(&grid).remove(uuid_of(&answer))
    });
    assert_eq!(sessions(&grid)[uuid_of(&answer)]["server"], "Blitz-1");
}

#[test]
fn through_a_stock_router_too_a_session_is_made_by_the_redirect_and_is_one_like_any_other() {
    if !has_peers() {
        return;
    }
    let port = free_port();
    let config = ("omero.cluster.redirector", "configRedirector");
    let grid = grid(2, Some(port), &[config]);
    grid.start();
    grid.run("redirect set Blitz-1").ok();
    let login = format!("login root {}", grid.root_password().trim());
    let at = format!("OMERO.Glacier2/router:tcp -h 127.0.0.1 -p {port}");
    let mut uuids = Vec::new();
    let mut clients = Vec::new();
    for name in ["a", "b", "c"] {
        let mut client = client(name, &at);
        let answer = ask_until(&grid, &mut client, &login, "session ");
        let uuid = uuid_of(&answer).to_owned();
        assert_eq!(sessions(&grid)[&uuid]["server"], "Blitz-1");
        assert_eq!(client.ask("keep"), "kept True");
        uuids.push(uuid);
        clients.push(client);
    }
    // What happens to it is told as of one that a command has opened.
    let native = grid.session();
    for uuid in [&uuids[0], &native] {
        grid.run(&format!("session move {uuid} Blitz-0")).ok();
    }
    let events = grid.json("events --kind session");
    let events = events.as_array().unwrap();
    let of = |uuid: &str| -> Vec<&Value> {
        let of_session = events.iter().filter(|event| event["subject"] == uuid[..8]);
        of_session.map(|event| &event["text"]).collect()
    };
    assert_eq!(of(&uuids[0]).len(), 1, "{events:?}");
    assert_eq!(of(&uuids[0]), of(&native));
}
