//! Sessions and users through the commands (DESIGN.md §5, §7).

use serde_json::Value;

use crate::harness::{Grid, application, blitz, node, sleeper};

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

fn started() -> Grid {
    let grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.start();
    grid
}

#[test]
fn a_session_is_created_with_a_password_from_a_file_or_from_standard_input() {
    let grid = started();
    let password = grid.root_password();
    let from_file = grid.json("session create --user root --password-file var/root-password");
    for key in [
        "uuid",
        "server",
        "node",
        "user",
        "time_to_idle_ms",
        "time_to_live_ms",
    ] {
        assert!(from_file.get(key).is_some(), "{key} in {from_file}");
    }
    assert_eq!(
        (&from_file["server"], &from_file["node"]),
        (&"Blitz-0".into(), &"n".into())
    );
    assert_eq!(from_file["user"], "root");
    assert_eq!(from_file["time_to_idle_ms"], 600_000);
    let piped = grid.run_with("session create --user root", &password).ok();
    let dash = grid
        .run_with(
            "session create --user root --password-file -",
            password.trim(),
        )
        .ok();
    // The UUID and nothing else, so that a script can take it.
    assert_eq!(piped.stdout.trim().len(), 36);
    assert!(
        piped
            .stderr
            .contains("session of root is open on Blitz-0 (node n)"),
        "{piped:?}"
    );
    let mut expected = [
        from_file["uuid"].as_str().unwrap(),
        piped.stdout.trim(),
        dash.stdout.trim(),
    ]
    .map(str::to_owned);
    expected.sort();
    let mut sessions = grid.sessions();
    sessions.sort();
    assert_eq!(sessions, expected);
    assert_eq!(
        grid.wait_server("Blitz-0", "to count", |s| s["blitz"]["sessions"] == 3)["state"],
        "active"
    );
}

#[test]
fn a_session_is_listed_joined_and_closed() {
    let grid = started();
    let session = grid.session();
    let list = grid.json("session list");
    let [only] = list.as_array().unwrap().as_slice() else {
        panic!("{list}");
    };
    assert_eq!(only["id"], session[..8]);
    assert!(
        only.get("uuid").is_none(),
        "a UUID works as a password: {only}"
    );
    for key in ["server", "node", "user", "agent", "idle_ms"] {
        assert!(only.get(key).is_some(), "{key} in {only}");
    }
    assert!(!grid.run("session list").ok().stdout.contains(&session));
    assert!(
        grid.run("session list --reveal")
            .ok()
            .stdout
            .contains(&session)
    );
    assert_eq!(
        grid.json(&format!("session join {session}"))["uuid"],
        session
    );
    let piped = grid.run_with("session join -", &session).ok();
    assert_eq!(piped.stdout.trim(), session);
    grid.write("uuid", &session);
    let from_file = grid.run("session join @uuid").ok();
    assert_eq!(from_file.stdout.trim(), session);
    // Whatever its reference count, and by its first characters.
    grid.run(&format!("session close {}", &session[..8])).ok();
    assert_eq!(grid.sessions(), Vec::<String>::new());
    grid.run(&format!("session join {session}")).exits(3);
    assert_eq!(grid.run("session list").ok().stdout, "no open sessions\n");
    let other = grid.session();
    grid.run(&format!("session close {other}")).ok();
    assert_eq!(grid.sessions(), Vec::<String>::new());
}

#[test]
fn a_wrong_password_is_refused() {
    let grid = started();
    let wrong = grid
        .run_with("session create --user root", "wrong\n")
        .exits(6);
    let unknown = grid
        .run_with("session create --user nobody", "wrong\n")
        .exits(6);
    // Who asks must not learn which names exist.
    assert_eq!(
        wrong.stderr.replace("root", "X"),
        unknown.stderr.replace("nobody", "X")
    );
    assert_eq!(wrong.stdout, "");
    grid.run_with("session create --user root", "").exits(6);
    grid.run("session create --user root --password-file nowhere")
        .exits(2)
        .says(&["nowhere"]);
    assert_eq!(grid.sessions(), Vec::<String>::new());
}

#[test]
fn an_unknown_session_is_not_there() {
    let grid = started();
    grid.run(&format!("session join {NOBODY}"))
        .exits(3)
        .says(&["there is no open session 00000000"]);
    grid.run(&format!("session close {NOBODY}")).exits(3);
    grid.run("session close 0000").exits(3);
    grid.run("session join rubbish").exits(2);
    grid.run_with("session create --user root --via Blitz-7", "x")
        .exits(3)
        .says(&["Blitz-7"]);
}

#[test]
fn an_idle_session_ends() {
    let short = blitz("Blitz-0").property("omero.sessions.timeout", "500");
    let grid = Grid::new(&application(&[node("n", &[short])]));
    grid.start();
    let session = grid.session();
    grid.wait("the session to end", || {
        grid.sessions().is_empty().then_some(())
    });
    grid.run(&format!("session join {session}")).exits(3);
    grid.wait_server("Blitz-0", "to count none", |s| s["blitz"]["sessions"] == 0);
}

#[test]
fn an_orderly_stop_closes_no_session() {
    let grid = started();
    let session = grid.session();
    grid.run("server Blitz-0 restart").ok();
    grid.wait("the session", || {
        (grid.sessions() == [session.clone()]).then_some(())
    });
    grid.run("stop").ok();
    grid.run("start grid.xml").ok();
    assert_eq!(
        grid.json(&format!("session join {session}"))["user"],
        "root"
    );
}

#[test]
fn sessions_spread_and_a_join_goes_to_the_owner() {
    let grid = Grid::new(&application(&[
        node("a", &[blitz("Blitz-0")]),
        node("b", &[blitz("Blitz-1")]),
    ]));
    grid.start();
    let create = |via: &str| {
        grid.json(&format!(
            "session create --user root --password-file var/root-password --via {via}"
        ))
    };
    let on = |id: &str| {
        let session = create(id);
        assert_eq!(session["server"], id);
        session["uuid"].as_str().unwrap().to_owned()
    };
    let (first, second) = (on("Blitz-0"), on("Blitz-1"));
    for (uuid, server, node) in [(&first, "Blitz-0", "a"), (&second, "Blitz-1", "b")] {
        let joined = grid.json(&format!("session join {uuid}"));
        assert_eq!(
            (&joined["server"], &joined["node"]),
            (&server.into(), &node.into())
        );
    }
    let list = grid.json("session list");
    let mut servers: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["server"])
        .collect();
    servers.sort_by_key(|s| s.as_str());
    assert_eq!(servers, ["Blitz-0", "Blitz-1"]);
}

#[test]
fn users_are_added_listed_and_given_passwords() {
    let grid = started();
    grid.run_with("user add anna", "first\n").ok();
    grid.run_with("user add carl --admin", "carl's\n").ok();
    let names = |list: &Value| -> Vec<(String, bool)> {
        let users = list.as_array().unwrap().iter();
        users
            .map(|u| {
                (
                    u["name"].as_str().unwrap().to_owned(),
                    u["admin"].as_bool().unwrap(),
                )
            })
            .collect()
    };
    let expected = [("root", true), ("anna", false), ("carl", true)]
        .map(|(name, admin)| (name.to_owned(), admin));
    assert_eq!(names(&grid.json("user list")), expected);
    grid.run_with("user add anna", "again\n")
        .exits(6)
        .says(&["anna"]);
    let anna = grid
        .run_with("session create --user anna", "first")
        .ok()
        .stdout
        .trim()
        .to_owned();
    // Her own password she may change, another's she may not.
    grid.run_with(&format!("user passwd anna --session {anna}"), "second\n")
        .ok();
    grid.run_with(&format!("user passwd root --session {anna}"), "mine now\n")
        .exits(6);
    grid.run_with("session create --user anna", "first")
        .exits(6);
    grid.run_with("session create --user anna", "second").ok();
    grid.run_with("user passwd nobody", "x\n")
        .exits(3)
        .says(&["nobody"]);
    // All of it outlives the grid.
    grid.run("stop").ok();
    grid.run("start grid.xml").ok();
    grid.run_with("session create --user carl", "carl's").ok();
}

#[test]
fn the_initial_password_disappears_once_it_is_changed() {
    let grid = started();
    let initial = grid.root_password();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(grid.path("var/root-password"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    grid.run_with("user passwd root", "a new one\n").ok();
    assert!(!grid.path("var/root-password").exists());
    grid.run_with("session create --user root", &initial)
        .exits(6);
    grid.run_with("session create --user root", "a new one")
        .ok();
    grid.run("stop").ok();
    grid.run("start grid.xml").ok();
    assert!(!grid.path("var/root-password").exists());
    grid.run_with("session create --user root", "a new one")
        .ok();
}

#[test]
fn no_secret_is_in_a_log() {
    let mut grid = Grid::new(&application(&[node("n", &[blitz("Blitz-0")])]));
    grid.set("OMERO_GRID_LOG", "trace");
    grid.start();
    let password = grid.root_password();
    let session = grid.session();
    grid.run(&format!("session join {session}")).ok();
    grid.run_with("session create --user root", "wrong-secret")
        .exits(6);
    grid.run_with("user add anna", "annas-secret\n").ok();
    grid.run(&format!("session close {session}")).ok();
    grid.run("stop").ok();
    let mut read = 0;
    for entry in std::fs::read_dir(grid.path("var/log")).unwrap() {
        let path = entry.unwrap().path();
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        read += text.len();
        for secret in [password.trim(), &session, "wrong-secret", "annas-secret"] {
            assert!(!text.contains(secret), "{secret} in {}", path.display());
        }
    }
    assert!(read > 0, "logs were written at all");
}

#[test]
fn a_grid_without_a_blitz_says_so() {
    let grid = Grid::new(&application(&[node("n", &[sleeper("s")])]));
    grid.start();
    grid.run_with("session create --user root", "x")
        .exits(3)
        .says(&["no Blitz"]);
    assert!(!grid.path("var/root-password").exists());
    grid.run("user list").exits(3);
    assert_eq!(grid.json("session list"), serde_json::json!([]));
}

#[test]
fn a_login_is_kept_for_later_commands_until_logout() {
    use std::os::unix::fs::PermissionsExt as _;
    let grid = started();
    grid.write("pw", "secret");
    grid.run("user add ann --password-file pw").ok();
    grid.run("logout").exits(3).says(&["nobody is logged in"]);
    grid.run("login --user ann --password-file pw").ok();
    let kept = std::fs::read_dir(grid.path(".local/state/omero-grid")).unwrap();
    let [file] = &kept.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()[..] else {
        panic!("one file");
    };
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    grid.run("user add bob --password-file pw")
        .exits(6)
        .says(&["administrator"]);
    grid.run("user passwd ann --password-file pw").ok();
    let [session] = &grid.sessions()[..] else {
        panic!("one session");
    };
    // What is given counts more.
    let root = grid.session();
    grid.run(&format!("user add bob --password-file pw --session {root}"))
        .ok();
    grid.run("logout").ok();
    assert!(!grid.sessions().contains(session));
    grid.run("user add eve --password-file pw").ok();
    grid.run("login --user ann --password-file var/root-password")
        .exits(6);
    assert!(!file.exists());
}
