//! The local sockets (DESIGN.md §6): rubbish loses its connection and nothing else; strangers are refused.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::harness::{Grid, application, blitz, kill, node, sleeper};

fn started() -> Grid {
    let grid = Grid::new(&application(&[node(
        "n",
        &[blitz("Blitz-0"), sleeper("s")],
    )]));
    grid.start();
    grid
}

fn frame(text: &str) -> Vec<u8> {
    [
        &u32::try_from(text.len()).unwrap().to_be_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

/// Sends bytes and reads until the other side closes; fails if it does not.
fn throw(socket: &PathBuf, bytes: &[u8], then_close: bool) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // It may close before all of it is written.
    let _ = stream.write_all(bytes);
    if then_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert!(
            rest.len() < 4096,
            "a short answer at most: {} bytes",
            rest.len()
        ),
        Err(error) => assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "{}",
            socket.display()
        ),
    }
}

#[test]
fn rubbish_loses_its_connection_and_nothing_else() {
    let grid = started();
    let session = grid.session();
    let pids = (grid.master_pid(), grid.node_pid("n"), grid.pid("Blitz-0"));
    let hello = r#"{"protocol":1,"role":"client","name":"test","pid":1}"#;
    let hello_of = |protocol: u32| {
        frame(&format!(
            r#"{{"protocol":{protocol},"role":"client","name":"t","pid":1}}"#
        ))
    };
    let after_hello = |rest: &[u8]| [&frame(hello), rest].concat();
    let half = &frame(hello)[..20];
    for name in ["master", "node.n", "blitz.Blitz-0"] {
        let socket = grid.path("var/run").join(name);
        // Bytes that are no frame: the first four claim gigabytes.
        throw(&socket, &[0xff; 64], false);
        throw(&socket, b"GET / HTTP/1.1\r\n\r\n", false);
        // Frames that are no hello.
        throw(&socket, &frame("rubbish"), false);
        throw(&socket, &frame("{}"), false);
        throw(&socket, &frame(""), false);
        throw(&socket, &hello_of(99), false);
        // Halves of frames.
        throw(&socket, half, true);
        throw(&socket, &[0, 0], true);
        // Rubbish from somebody who was polite at first.
        throw(&socket, &after_hello(&frame("not json")), false);
        throw(&socket, &after_hello(&[0xff; 8]), false);
        throw(&socket, &after_hello(&[0, 0, 0, 9, b'{']), true);
        // Somebody who leaves at once.
        drop(UnixStream::connect(&socket).unwrap());
    }
    assert_eq!(
        (grid.master_pid(), grid.node_pid("n"), grid.pid("Blitz-0")),
        pids
    );
    assert_eq!(
        grid.json(&format!("session join {session}"))["uuid"],
        session
    );
    grid.run("server s restart").ok();
    let log = grid.read("var/log/grid.log");
    assert!(
        log.lines().filter(|line| line.contains(" WARN ")).count() >= 3,
        "a line goes to the log\n{log}"
    );
}

#[test]
fn peers_that_say_nothing_hold_up_nobody() {
    let grid = started();
    let mut silent = Vec::new();
    for name in ["master", "node.n", "blitz.Blitz-0"] {
        let socket = grid.path("var/run").join(name);
        silent.extend((0..30).map(|_| UnixStream::connect(&socket).unwrap()));
    }
    assert!(!grid.session().is_empty());
    grid.run("server s restart").ok();
    drop(silent);
}

#[test]
fn an_unknown_message_is_answered_with_an_error() {
    let grid = started();
    let stream = UnixStream::connect(grid.path("var/run/master")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let read = || -> serde_json::Value {
        let mut length = [0; 4];
        (&stream).read_exact(&mut length).unwrap();
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        (&stream).read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let hello = read();
    assert_eq!(
        (&hello["role"], &hello["protocol"]),
        (&"master".into(), &1.into())
    );
    for text in [
        r#"{"protocol":1,"role":"client","name":"newer","pid":1,"unknown":true}"#,
        r#"{"kind":"request","id":7,"body":{"type":"from_the_future"}}"#,
        r#"{"kind":"request","id":8,"body":{"type":"status","after":null,"wait_ms":0,"unknown":1}}"#,
    ] {
        (&stream).write_all(&frame(text)).unwrap();
    }
    let mut answers = [read(), read()];
    answers.sort_by_key(|answer| answer["id"].as_u64());
    assert_eq!(
        (&answers[0]["kind"], &answers[0]["id"]),
        (&"refusal".into(), &7.into())
    );
    assert_eq!(answers[0]["body"]["kind"], "unsupported");
    assert_eq!(
        (&answers[1]["kind"], &answers[1]["id"]),
        (&"reply".into(), &8.into())
    );
}

/// Returns how many connections a local socket has accepted and still has.
fn connections(socket: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = socket.to_str().unwrap();
    // Num RefCount Protocol Flags Type St Inode Path; 03 is a connected socket, which has the path that the one it came through was first bound to.
    let columns = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    columns
        .filter(|c| {
            c.get(5) == Some(&"03")
                && c.get(7)
                    .is_some_and(|p| p.strip_suffix(".new").unwrap_or(p) == path)
        })
        .count()
}

#[test]
fn a_process_speaks_to_its_parent_only() {
    let grid = started();
    let (to_node, to_blitz) = (
        grid.path("var/run/node.n"),
        grid.path("var/run/blitz.Blitz-0"),
    );
    assert!(!grid.session().is_empty());
    // Whatever the commands had to do with it is over, and the one parent is left.
    grid.wait("one connection to the node", || {
        (connections(&to_node) == 1).then_some(())
    });
    grid.wait("one connection to the Blitz", || {
        (connections(&to_blitz) == 1).then_some(())
    });
    // The master cannot start a node while it is stopped: without the node, nobody speaks to the Blitz.
    let (master, node) = (grid.master_pid(), grid.node_pid("n"));
    kill(master, Signal::SIGSTOP);
    grid.kill9(node);
    grid.wait("the Blitz to be left alone", || {
        (connections(&to_blitz) == 0).then_some(())
    });
    kill(master, Signal::SIGCONT);
    grid.wait("the new node", || {
        (connections(&to_blitz) == 1 && connections(&to_node) == 1).then_some(())
    });
    grid.kill9(master);
    grid.wait("the node to be left alone", || {
        (connections(&to_node) == 0).then_some(())
    });
    assert_eq!(connections(&to_blitz), 1);
}

#[test]
fn the_sockets_are_private() {
    let grid = started();
    let mode = |path: PathBuf| {
        std::fs::symlink_metadata(path)
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(grid.path("var/run")), 0o700);
    for name in ["master", "node.n", "blitz.Blitz-0"] {
        assert_eq!(mode(grid.path("var/run").join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_client_of_another_user_is_refused() {
    if !geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let grid = started();
    // As if the directories did not protect the sockets: the uid is what counts.
    let open =
        |path: PathBuf| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    for path in [
        "",
        "var",
        "var/run",
        "var/run/master",
        "var/run/node.n",
        "var/run/blitz.Blitz-0",
    ] {
        open(grid.path(path));
    }
    // The program itself may stand where only root can go.
    let program = grid.path("omero-grid");
    // Copied by another process: a file that this one has open for writing may be held by a child that another test is
    // just starting, and could not be executed.
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_omero-grid")).arg(&program);
    grid.finish(&mut copy, "").ok();
    open(program.clone());
    let mut stranger = Command::new("setpriv");
    grid.hermetic(&mut stranger);
    stranger
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .arg("--dir")
        .arg(grid.dir())
        .args(["--format", "json", "status"]);
    let run = grid.finish(&mut stranger, "");
    assert_eq!(run.stdout, "", "nothing is told to a stranger");
    // The program ran, and it is what failed.
    let run = run.exits(1).says(&["error: "]);
    assert!(!run.stderr.contains("setpriv"), "{run:?}");
    // The same words are heard from the owner.
    let mut owner = Command::new(&program);
    grid.hermetic(&mut owner);
    owner
        .arg("--dir")
        .arg(grid.dir())
        .args(["--format", "json", "status"]);
    grid.finish(&mut owner, "").ok();
    grid.wait("a line in the log that says who was refused", || {
        grid.read("var/log/grid.log")
            .contains("65534")
            .then_some(())
    });
}

#[test]
fn a_path_too_long_for_sockets_finds_a_short_directory() {
    let runtime = tempfile::Builder::new()
        .prefix("or")
        .tempdir_in("/tmp")
        .unwrap();
    let mut grid = Grid::at(&"long".repeat(38));
    assert!(grid.dir().as_os_str().len() > 150);
    grid.set("XDG_RUNTIME_DIR", runtime.path().as_os_str());
    grid.write("grid.xml", &application(&[node("n", &[blitz("Blitz-0")])]));
    grid.start();
    assert!(!grid.session().is_empty());
    let note = grid.read("var/run/elsewhere");
    let elsewhere = PathBuf::from(note.trim());
    assert!(elsewhere.starts_with(runtime.path()), "{note}");
    let mode = std::fs::metadata(&elsewhere).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Another command finds it without the variable, and so does the next start.
    let pid = grid.pid("Blitz-0");
    grid.set("XDG_RUNTIME_DIR", "");
    grid.run("status --check").ok();
    grid.kill9(grid.master_pid());
    grid.run("start grid.xml").ok();
    assert_eq!(grid.pid("Blitz-0"), pid);
    grid.run("stop").ok();
}

#[test]
fn odd_names_have_sockets_too() {
    let long = format!("Blitz-{}", "x".repeat(150));
    let grid = Grid::new(&application(&[node(
        "a node ü",
        &[blitz(&long), blitz("Blitz with space")],
    )]));
    grid.start();
    for id in [&long, "Blitz with space"] {
        assert_eq!(
            grid.server(id).unwrap()["blitz"]["accepting"],
            "yes",
            "{id}"
        );
    }
    assert!(!grid.session().is_empty());
    grid.kill9(grid.node_pid("a node ü"));
    let pid = grid.pid(&long);
    grid.wait("the node", || {
        (grid.node("a node ü")?["state"] == "up").then_some(())
    });
    assert_eq!(grid.pid(&long), pid);
}
