//! Sessions of clients, which have objects to themselves; and sessions of those whom their certificates name.
//!
//! Skipped, and said so, where Debian's programs and python3-zeroc-ice are not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::path::Path;
use std::process::Command;

use nix::unistd::{User, geteuid};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};

use crate::harness::{Grid, application, node};
use crate::ice_peer::{FOLDER, Program};
use crate::icegrid::{installed, locator};
use crate::icegrid_admin::lines;
use crate::icegridadmin::{Served, has_peers, named};

/// Returns who runs these tests: nodes that are not root start servers of nobody else.
fn user() -> String {
    User::from_uid(geteuid()).unwrap().unwrap().name
}

/// Servers of the program that all of these tests use.
fn allocatables() -> String {
    let server = |id: &str, serves: &str, attributes: &str, objects: &str| {
        format!(
            "<server id=\"{id}\" exe=\"/usr/bin/python3\" {attributes}><option>{FOLDER}/object.py</option><option>Echo</option>\
             <option>{serves}</option><adapter name=\"Echo\" endpoints=\"tcp -h 127.0.0.1\">{objects}</adapter></server>"
        )
    };
    let object = |name: &str, of: &str| format!("<allocatable identity=\"{name}\" type=\"{of}\"/>");
    let one_by_one = format!(
        "<object identity=\"echo\" type=\"::Demo::Plain\"/>{}{}",
        object("a1", "::Demo::Echo"),
        object("a2", "::Demo::Echo")
    );
    let whole = object("b1", "::Demo::B") + &object("b2", "::Demo::B");
    format!(
        "<icegrid><application name=\"App\"><node name=\"node1\">{}{}{}</node></application></icegrid>",
        server("A", "echo", "activation=\"manual\"", &one_by_one),
        server(
            "B",
            "b1",
            "activation=\"manual\" allocatable=\"true\"",
            &whole
        ),
        server(
            "C",
            "c",
            &format!("activation=\"session\" user=\"{}\"", user()),
            &object("c", "::Demo::C")
        ),
    )
}

#[test]
fn objects_are_allocated_as_by_zerocs_registry() {
    if !installed() || !has_peers() {
        return;
    }
    let said = |served: Served| {
        std::fs::write(served.dir.path().join("objects.xml"), allocatables()).unwrap();
        let added = served.admin(Path::new("icegridadmin"), "application add objects.xml");
        assert!(added.status.success(), "{added:?}");
        lines("allocates.py", &[&served.locator(), &user()])
    };
    let (theirs, ours) = (said(Served::zeroc()), said(Served::ours()));
    assert_eq!(theirs, ours);
    assert!(ours.last().unwrap().starts_with("after Inactive"));
}

/// Writes `ca.pem`, and certificates with keys that it has signed: `server`, `client`, `other`.
fn certificates(dir: &Path) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let params = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let key = KeyPair::generate().unwrap();
    let mut ca = params("authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&key).unwrap().pem());
    let issuer = Issuer::from_params(&ca, &key);
    for name in ["server", "client", "other"] {
        let key = KeyPair::generate().unwrap();
        let signed = params(name).signed_by(&key, &issuer).unwrap();
        write(&format!("{name}.pem"), signed.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[test]
fn sessions_are_opened_by_certificate() {
    if !installed() {
        return;
    }
    let mut grid = Grid::new(&application(&[node("n", &[])]));
    certificates(grid.dir());
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(format!("{FOLDER}/certifier.py"))
        .arg(grid.path("client.pem"));
    let mut certifier = Program::start(&mut command);
    let at = certifier.line();
    grid.write(
        "etc/master.cfg",
        &format!(
            "IceGrid.Registry.AdminSSLPermissionsVerifier={at}\nIceSSL.DefaultDir={}\nIceSSL.CertFile=server.pem\n\
             IceSSL.KeyFile=server.key\nIceSSL.CAs=ca.pem\nIceSSL.VerifyPeer=1\n",
            grid.dir().display()
        ),
    );
    grid.set(
        "OMERO_GRID_REGISTRY_ENDPOINTS",
        "tcp -h 127.0.0.1 -p 0:ssl -h 127.0.0.1 -p 0",
    );
    grid.start();
    let all = locator(&grid).to_string();
    // Of an endpoint of either kind `icegridadmin` takes the first.
    let (_, encrypted) = all.split_once(":ssl").unwrap();
    let ask = |program: &Path, tls: bool, name: Option<&str>| {
        let mut command = Command::new(program);
        command.arg(match tls {
            true => format!("--Ice.Default.Locator=IceGrid/Locator:ssl{encrypted}"),
            false => format!("--Ice.Default.Locator={all}"),
        });
        command.args(["--ssl", "-e", "registry list"]);
        if tls {
            command
                .arg("--Ice.Plugin.IceSSL=IceSSL:createIceSSL")
                .args(["--IceSSL.CAs=ca.pem", "--IceSSL.DefaultDir=."]);
        }
        if let Some(name) = name {
            command.arg(format!("--IceSSL.CertFile={name}.pem"));
            command.arg(format!("--IceSSL.KeyFile={name}.key"));
        }
        let done = grid.finish(command.current_dir(grid.dir()), "");
        (done.status, format!("{}{}", done.stdout, done.stderr))
    };
    let dir = tempfile::tempdir().unwrap();
    for program in [
        Path::new("/usr/bin/icegridadmin"),
        &named(dir.path(), "icegridadmin"),
    ] {
        assert_eq!(
            ask(program, true, Some("client")),
            (0, "Master\n".to_owned())
        );
        assert_eq!(certifier.line(), "127.0.0.1 127.0.0.1 True True True");
        let refused = |(code, text): (i32, String), why: &str| {
            assert_eq!(code, 1, "{text}");
            assert!(text.contains(why), "{text}");
        };
        refused(ask(program, true, Some("other")), "somebody else");
        certifier.line();
        refused(ask(program, true, None), "who are you?");
    }
    let (code, text) = ask(Path::new("/usr/bin/icegridadmin"), false, None);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("not ssl connection"), "{text}");
    certifier.end();
    let log = grid.read("var/log/grid.log");
    assert!(log.contains("user=\"CN=client\""), "{log}");
}
