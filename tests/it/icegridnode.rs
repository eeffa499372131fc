//! The program as `icegridnode`: OMERO's command line, and a site that comes here from Debian's and goes back (`icegrid-glacier2.md` §9).
//!
//! What needs Debian's programs is skipped, and says so, where they are not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{OmeroSite, alive};
use crate::ice_peer::{FOLDER, has};

const DEBIANS: &str = "/usr/bin/icegridadmin";

/// An application with a worker, and another in a target.
const APPLICATION: &str = r#"<icegrid><application name="App"><node name="master">
  <server id="worker" exe="/bin/sh" activation="always"><option>-c</option><option>exec sleep 1000</option></server>
  <target name="more">
    <server id="more" exe="/bin/sh" activation="always"><option>-c</option><option>exec sleep 1000</option></server>
  </target>
</node><node name="other"/></application></icegrid>"#;

fn site(more: &str) -> OmeroSite {
    let site = OmeroSite::new();
    site.rewrite(more);
    site.write("etc/grid/app.xml", APPLICATION);
    std::fs::create_dir_all(site.path("var/master")).unwrap();
    site
}

fn pid_file(site: &OmeroSite) -> u32 {
    let text = site.read("var/master/master.pid");
    let pid = text
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("{text:?}"));
    pid.parse().unwrap()
}

#[test]
fn omeros_command_line_starts_a_grid_that_icegridadmin_stops() {
    let site = site("");
    let started = site.icegridnode("etc/grid/app.xml more").ok();
    assert_eq!((&*started.stdout, &*started.stderr), ("", ""));
    let pid = pid_file(&site);
    let status = site.status();
    assert_eq!(status["master"]["pid"], pid);
    assert_eq!(status["targets"], serde_json::json!(["more"]));
    // The other nodes are for programs of their own.
    let nodes = status["nodes"].as_array().unwrap().iter();
    let nodes: Vec<_> = nodes.map(|node| (&node["name"], &node["state"])).collect();
    let expected = serde_json::json!([["master", "up"], ["other", "down"]]);
    assert_eq!(serde_json::json!(nodes), expected);

    let mut programs = vec!["icegridadmin"];
    if has(DEBIANS, &["--version"]) {
        programs.push(DEBIANS);
    }
    for program in programs {
        for (command, answer) in [
            ("node ping master", "node is up\n"),
            ("node ping other", "node is down\n"),
            ("server list", "more\nworker\n"),
            ("application list", "App\n"),
        ] {
            let run = site.icegridadmin(program, command).ok();
            assert_eq!(run.stdout, answer, "{program} {command}");
        }
        let run = site.icegridadmin(program, "server state worker").ok();
        assert!(run.stdout.starts_with("active (pid = "), "{run:?}");
        site.icegridadmin(program, "server state nobody").exits(1);
    }

    site.icegridnode("etc/grid/app.xml")
        .exits(1)
        .says(&[&format!("already running (master is process {pid})")]);
    assert_eq!(pid_file(&site), pid);
    assert_eq!(site.status()["targets"], serde_json::json!(["more"]));

    site.icegridadmin("icegridadmin", "node shutdown master")
        .ok();
    site.wait_gone(pid);
    site.icegridadmin("icegridadmin", "node ping master")
        .exits(1);
    // Without a descriptor it goes on with what was deployed.
    site.icegridnode("").ok();
    let again = pid_file(&site);
    assert_ne!(again, pid);
    site.wait_says("server state more", "active (pid = ");
    site.icegridadmin("icegridadmin", "node shutdown master")
        .ok();
    site.wait_gone(again);
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let site = site("");
    site.write(
        "etc/grid/slip.xml",
        "<icegrid><application name=\"App\"><nod name=\"master\"/></application></icegrid>",
    );
    for (deploy, said) in [
        ("etc/grid/slip.xml", "slip.xml:1:34: error: "),
        ("etc/grid/nowhere.xml", "nowhere.xml"),
        ("etc/grid/app.xml --frob", "invalid option: `--frob'"),
    ] {
        site.icegridnode(deploy).exits(1).says(&[said]);
        assert!(!site.path("var/master/master.pid").exists(), "{deploy}");
    }
    let taken = TcpListener::bind(("127.0.0.1", site.ports[0])).unwrap();
    site.icegridnode("etc/grid/app.xml")
        .exits(1)
        .says(&["has that port"]);
    drop(taken);
    std::fs::remove_file(site.path("etc/master.cfg")).unwrap();
    site.icegridnode("etc/grid/app.xml")
        .exits(1)
        .says(&["cannot read the configuration file", "master.cfg"]);
    assert!(!site.path("var/master/master.pid").exists());
    site.rewrite("");
    site.icegridnode("etc/grid/app.xml").ok();
    assert!(alive(pid_file(&site)));
}

#[test]
fn properties_of_a_node_say_how_its_servers_run() {
    let site = site(
        "IceGrid.Node.Output=var/out\n\
         IceGrid.Node.RedirectErrToOut=1\n\
         IceGrid.Node.WaitTime=1\n\
         IceGrid.Node.PropertiesOverride=own.one=1 own.two=\"a b\"\n\
         IceGrid.Node.UserAccounts=accounts\n\
         IceGrid.Node.Frob=1\n",
    );
    let application = r#"<icegrid><application name="App"><node name="master">
      <server id="speaker" exe="/bin/sh" activation="always">
        <option>-c</option><option>echo said; echo complained >&amp;2; exec sleep 1000</option>
        <properties><property name="own.one" value="0"/></properties>
      </server>
      <server id="late" exe="/bin/sh" activation="manual">
        <option>-c</option><option>exec sleep 1000</option>
        <properties><property name="omero.grid.ready" value="notify"/></properties>
      </server>
    </node></application></icegrid>"#;
    site.write("etc/grid/app.xml", application);
    let started = site.icegridnode("etc/grid/app.xml").ok();
    let warned: Vec<&str> = started.stderr.lines().collect();
    let [ignored, unknown] = warned[..] else {
        panic!("{warned:?}");
    };
    assert!(
        ignored.contains("IceGrid.Node.UserAccounts=accounts is ignored: user="),
        "{ignored}"
    );
    assert!(
        unknown.ends_with("these properties mean nothing here: IceGrid.Node.Frob"),
        "{unknown}"
    );

    let said = site.wait("the server to speak", || {
        Some(site.read("var/out/speaker.out")).filter(|text| text.contains("complained"))
    });
    assert_eq!(said, "said\ncomplained\n");
    for elsewhere in ["var/log/speaker.out", "var/out/speaker.err"] {
        assert!(!site.path(elsewhere).exists(), "{elsewhere}");
    }
    assert_eq!(site.run("logs speaker").ok().stdout, said);
    let shown = site.icegridadmin("icegridadmin", "server show speaker stdout");
    assert!(shown.ok().stdout.ends_with(&said));

    let config = site.read("var/omero-grid/var/master/servers/speaker/config/config");
    let own: Vec<&str> = config
        .lines()
        .filter(|line| line.starts_with("own."))
        .collect();
    // The last one counts.
    assert_eq!(own, ["own.one=0", "own.one=1", "own.two=a b"]);

    let begun = Instant::now();
    site.icegridadmin("icegridadmin", "server start late")
        .exits(1);
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "it waits for one second"
    );
    assert_eq!(site.server("late").unwrap()["activation"], "manual");
    let reason = site.server("late").unwrap()["reason"].to_string();
    assert!(reason.contains("activation timeout of 1s"), "{reason}");
}

/// Everything below a directory: what is in files, and what else a writer would change.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in dir.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let data = path.symlink_metadata().unwrap();
        let mut bytes = Vec::new();
        if data.is_dir() {
            found.extend(tree(&path));
        } else if data.is_file() {
            bytes = std::fs::read(&path).unwrap();
        }
        found.insert(path, (bytes, data.modified().unwrap()));
    }
    found
}

#[test]
fn debians_icegridnode_goes_on_with_its_own_state_after_a_site_was_here() {
    const NODE: &str = "/usr/bin/icegridnode";
    let peers = has(NODE, &["--version"])
        && has(DEBIANS, &["--version"])
        && has("/usr/bin/python3", &["-c", "import Ice"]);
    if !peers {
        return;
    }
    // Ice 3.7 has another name for the registry's data, and servers do not run as root unless it is said.
    let site =
        site("IceGrid.Registry.LMDB.Path=var/registry\nIceGrid.Node.AllowRunningServersAsRoot=1\n");
    for dir in ["var/registry", "var/log"] {
        std::fs::create_dir_all(site.path(dir)).unwrap();
    }
    let application = format!(
        r#"<icegrid><application name="Site"><node name="master">
             <server id="echo" exe="/usr/bin/python3" activation="on-demand" activation-timeout="30">
               <option>{FOLDER}/object.py</option><option>Echo</option><option>echo</option>
               <target name="debug"><env>DEBUG=1</env></target>
               <adapter name="Echo" endpoints="tcp -h 127.0.0.1"><object identity="echo" type="::Demo::Echo"/></adapter>
             </server>
           </node></application></icegrid>"#
    );
    site.write("etc/templates/grid/default.xml", &application);
    site.write("etc/grid/default.xml", &application);
    site.run("config set omero.example kept").ok();
    let describes = || {
        let run = site.icegridadmin(DEBIANS, "server describe echo").ok();
        let lines = run.stdout.lines();
        // Which edition of its application it is of is not what is compared.
        let lines = lines.filter(|line| !line.contains("application "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let runs_its_server = || {
        site.wait_says("node ping master", "node is up");
        site.icegridadmin(DEBIANS, "server start echo").ok();
        site.wait_says("server state echo", "active (pid = ");
        let run = site.icegridadmin(DEBIANS, "server pid echo").ok();
        run.stdout.trim().parse::<u32>().unwrap()
    };
    let stops = || {
        let pid = pid_file(&site);
        site.icegridadmin("icegridadmin", "node shutdown master")
            .ok();
        site.wait_gone(pid);
    };

    // As it was: everything is Debian's.
    site.unlink();
    site.icegridnode("etc/grid/default.xml").ok();
    runs_its_server();
    let described = describes();
    stops();
    std::fs::remove_file(site.path("var/master/master.pid")).unwrap();
    let kept = || {
        let folders = ["var/registry", "var/master", "etc"].map(|dir| tree(&site.path(dir)));
        folders.into_iter().flatten().collect::<BTreeMap<_, _>>()
    };
    let before = kept();
    assert!(
        before.keys().any(|path| path.ends_with("data.mdb"))
            && before
                .keys()
                .any(|path| path.ends_with("echo/config/config"))
            && before.keys().any(|path| path.ends_with("grid/config.xml")),
        "{:?}",
        before.keys()
    );

    // Here: another application under the same name, so that there is something to forget.
    site.link();
    site.icegridnode("etc/grid/default.xml debug").ok();
    let pid = runs_its_server();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    assert!(variables.any(|variable| variable == b"DEBUG=1"));
    assert_ne!(describes(), described);
    assert_eq!(site.status()["master"]["pid"], pid_file(&site));
    stops();
    std::fs::remove_file(site.path("var/master/master.pid")).unwrap();
    let after = kept();
    for (path, of) in &before {
        assert_eq!(after.get(path), Some(of), "{} has changed", path.display());
    }
    assert_eq!(after.len(), before.len(), "something was added");

    // And back, without a descriptor: what it knows is its own.
    site.unlink();
    site.icegridnode("").ok();
    runs_its_server();
    assert_eq!(describes(), described);
    stops();
}
