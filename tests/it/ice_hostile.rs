//! Peers at the ports of a running grid that do what they should not: each costs its own connection and little memory, and nobody else notices.
//!
//! What each case means by itself, with a clock that stands still, is in `ice::net`; here it is the registry and a Blitz that are met.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bzip2::{Action, Compress, Compression as Level};
use omero_grid::ice::{
    Compression, Encapsulation, Encode as _, Encoding, HEADER, Header, Message, Mode, Outcome,
    Proxy, Request, Target, Writer,
};

use crate::harness::{Grid, pause};
use crate::ice::MAX;
use crate::ice_peer::{address, greeted};

/// How much the process at a port may grow by whatever is done to it, in bytes: a few messages, and what an allocator keeps.
const GROWTH: usize = 48 * 1024 * 1024;

/// A grid with a registry and a Blitz, each at a port.
struct Met {
    grid: Grid,
    ports: Vec<(&'static str, u16, u32)>,
}

impl Met {
    fn start(configuration: &str) -> Self {
        let grid = crate::blitz_ice::grid(1, None, &[]);
        grid.write("etc/master.cfg", configuration);
        grid.start();
        let registry = address(&crate::blitz_ice::locator(&grid)).1;
        let blitz = grid.wait("the Blitz to be registered", || {
            let mut asking = Peer::at(registry);
            let mut body = Writer::new(Encoding::V11);
            "Blitz-0.BlitzAdapter".encode(&mut body);
            let (_, found) = asking.ask("IceGrid/Locator", "findAdapterById", body.bytes());
            let found = found.ok()?;
            let found = Encapsulation {
                version: [1, 1],
                bytes: &found,
            };
            let proxy = found.decode::<Option<Proxy>>().unwrap()?;
            Some(address(&proxy.to_string()).1)
        });
        let ports = vec![
            ("IceGrid/Locator", registry, grid.master_pid()),
            ("BlitzVerifier", blitz, grid.pid("Blitz-0")),
        ];
        Self { grid, ports }
    }

    /// Everybody answers, and nobody was started anew.
    #[track_caller]
    fn goes_on(&self, what: &str) {
        for (object, port, _) in &self.ports {
            let (status, _) = Peer::at(*port).ask(object, "ice_ping", b"");
            assert_eq!(status, 0, "{object} after {what}");
        }
        // It may have much to do in what was sent before.
        let status = self.grid.wait(&format!("the master after {what}"), || {
            self.grid.run("--format json status").json_if_ok()
        });
        assert_eq!(status["master"]["pid"], self.ports[0].2, "{what}");
        assert_eq!(self.grid.pid("Blitz-0"), self.ports[1].2, "{what}");
    }
}

/// Returns how much memory a process has, in bytes.
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    number.parse::<usize>().unwrap() * 1024
}

/// A connection on which anything may be said.
struct Peer(TcpStream);

impl Peer {
    fn at(port: u16) -> Self {
        Self(greeted("127.0.0.1", port))
    }

    /// Sends what it may be too late for.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Returns the next message that is no heartbeat; nothing at the end.
    fn message(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut frame = vec![0; HEADER];
            match self.0.read_exact(&mut frame) {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                    ) =>
                {
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
            let header = Header::parse(frame.first_chunk().unwrap(), MAX).unwrap();
            frame.resize(header.size, 0);
            self.0.read_exact(&mut frame[HEADER..]).unwrap();
            if frame[8] != 3 {
                return Some(frame);
            }
        }
    }

    /// Calls an operation; returns the status, and the results or what was said instead.
    #[track_caller]
    fn ask(&mut self, object: &str, operation: &str, body: &[u8]) -> (u8, Result<Vec<u8>, String>) {
        assert!(self.send(&request(1, object, operation, Mode::Normal, body)));
        let frame = self.message().expect("the connection has ended");
        match Message::decode(&frame, MAX).unwrap().0 {
            Message::Reply(reply) => match reply.outcome {
                Outcome::Done(results) => (0, Ok(results.bytes.to_vec())),
                Outcome::Exception(_) => (1, Err("an exception".to_owned())),
                Outcome::Missing(..) => (2, Err("missing".to_owned())),
                Outcome::Unknown(status, text) => (status, Err(text.to_owned())),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn request(id: i32, object: &str, operation: &str, mode: Mode, body: &[u8]) -> Vec<u8> {
    let (category, name) = object.split_once('/').unwrap_or(("", object));
    let request = Request {
        id,
        target: Target {
            name,
            category,
            facet: "",
            operation,
        },
        mode,
        context: Vec::new(),
        params: Encapsulation {
            version: [1, 1],
            bytes: body,
        },
    };
    bytes_of(&Message::Request(request))
}

fn bytes_of(message: &Message<'_>) -> Vec<u8> {
    let mut writer = Writer::default();
    message.encode(Compression::No, &mut writer);
    writer.into_bytes()
}

/// A compressed request that claims to be of this size.
fn compressed(claim: i32, body: &[u8]) -> Vec<u8> {
    bytes_of(&Message::Compressed {
        kind: 0,
        size: claim,
        body,
    })
}

/// A quarter of a gigabyte of nothing, compressed.
fn bomb() -> Vec<u8> {
    let zeros = vec![0; 1024 * 1024];
    let mut encoder = Compress::new(Level::best(), 30);
    let mut bomb = Vec::with_capacity(1024 * 1024);
    for _ in 0..256 {
        encoder
            .compress_vec(&zeros, &mut bomb, Action::Run)
            .unwrap();
    }
    encoder
        .compress_vec(&[], &mut bomb, Action::Finish)
        .unwrap();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    bomb
}

#[test]
fn rubbish_costs_its_connection_and_nobody_else_notices() {
    let met = Met::start("");
    let with = |at: usize, bytes: &[u8]| {
        let mut message = request(1, "IceGrid/Locator", "ice_ping", Mode::Normal, b"");
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    let mut negative = bytes_of(&Message::Batch(Vec::new()));
    let end = negative.len();
    negative[end - 4..].copy_from_slice(&(-1_i32).to_le_bytes());
    // A billion requests in 18 bytes.
    let mut billion = negative.clone();
    billion[end - 4..].copy_from_slice(&0x4000_0000_i32.to_le_bytes());
    let mut answer = request(7, "x", "y", Mode::Normal, b"");
    answer[8] = 2;
    answer.truncate(HEADER);
    answer.extend([7, 0, 0, 0, 0, 6, 0, 0, 0, 1, 1]);
    let size = i32::try_from(answer.len()).unwrap();
    answer[10..14].copy_from_slice(&size.to_le_bytes());
    let mut facets = request(1, "x", "ice_ping", Mode::Normal, b"");
    facets.splice(HEADER + 7..HEADER + 8, [2, 1, b'a', 1, b'b']);
    let size = i32::try_from(facets.len()).unwrap();
    facets[10..14].copy_from_slice(&size.to_le_bytes());
    let bomb = bomb();
    let cases = [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("wrong magic", with(0, b"ICEP")),
        ("a later version", with(4, &[2])),
        ("a later encoding", with(6, &[2])),
        ("no such type", with(8, &[9])),
        ("a size of nothing", with(10, &[0; 4])),
        ("a negative size", with(10, &[255; 4])),
        ("a gigabyte", with(10, &[0, 0, 0, 0x40])),
        ("a size that cuts", with(10, &[20, 0, 0, 0])),
        ("a negative count", negative),
        ("a billion requests", billion),
        ("an answer to nothing", answer),
        ("two facets", facets),
        ("a bomb that claims little", compressed(10_000, &bomb)),
        (
            "a bomb that claims what it is",
            compressed(256 * 1024 * 1024, &bomb),
        ),
        (
            "what is not compressed",
            compressed(1000, b"BZh9 and so on"),
        ),
    ];
    let before = met.ports.iter().map(|(.., pid)| memory(*pid));
    let before: Vec<usize> = before.collect();
    for (what, bytes) in &cases {
        for (object, port, _) in &met.ports {
            let mut peer = Peer::at(*port);
            // It may be refused before all of it is sent.
            peer.send(bytes);
            assert_eq!(peer.message(), None, "{what} at {object}");
        }
    }
    met.goes_on("rubbish");
    for ((object, _, pid), before) in met.ports.iter().zip(before) {
        let grown = memory(*pid).saturating_sub(before);
        assert!(grown < GROWTH, "{object} has grown by {grown} bytes");
    }
}

#[test]
fn parameters_that_lie_are_an_answer_and_every_mode_is_understood() {
    let met = Met::start("");
    let gigabyte = [255, 0, 0, 0, 0x40, b'x'];
    let negative = [255, 255, 255, 255, 255];
    let lies: [&[u8]; 5] = [
        b"",
        &gigabyte,
        &negative,
        &[3, b'a', b'b'],
        &[2, 0xff, 0xfe],
    ];
    let registry = met.ports[0].1;
    let blitz = met.ports[1].1;
    for (port, object, operation) in [
        (registry, "IceGrid/Locator", "findAdapterById"),
        (registry, "IceGrid/Locator", "findObjectById"),
        (registry, "IceGrid/Query", "findAllObjectsByType"),
        (registry, "IceGrid/Registry", "createAdminSession"),
        (registry, "IceGrid/LocatorRegistry", "setServerProcessProxy"),
        (registry, "omero-grid/Placement", "place"),
        (blitz, "BlitzVerifier", "checkPermissions"),
        (blitz, "BlitzManager", "create"),
    ] {
        let mut peer = Peer::at(port);
        for lie in lies {
            let (status, said) = peer.ask(object, operation, lie);
            let said = said.unwrap_err();
            assert_eq!(status, 5, "{operation} of {lie:?}: {said}");
            assert!(said.contains("Ice::MarshalException"), "{said}");
        }
        // The connection goes on.
        assert_eq!(peer.ask(object, "ice_ping", b"").0, 0);
    }
    // Peers say Normal, Nonmutating or Idempotent as they were generated.
    let mut peer = Peer::at(registry);
    for (id, mode) in [Mode::Normal, Mode::Nonmutating, Mode::Idempotent]
        .into_iter()
        .enumerate()
    {
        let id = i32::try_from(id).unwrap() + 1;
        peer.send(&request(id, "IceGrid/Locator", "getRegistry", mode, b""));
        let frame = peer.message().unwrap();
        assert_eq!(frame[HEADER..HEADER + 4], id.to_le_bytes());
        assert_eq!(frame[HEADER + 4], 0, "{mode:?}");
    }
    met.goes_on("lies");
}

#[test]
fn who_says_half_of_it_and_who_never_reads_hold_nobody_up_and_take_little_memory() {
    let met = Met::start("");
    for (object, port, pid) in &met.ports {
        let before = memory(*pid);
        // Half a message each, which claims a megabyte.
        let mut half = request(1, object, "ice_ping", Mode::Normal, b"");
        half[10..14].copy_from_slice(&(1024_i32 * 1024).to_le_bytes());
        let mut silent: Vec<Peer> = (0..300).map(|_| Peer::at(*port)).collect();
        for peer in &mut silent {
            assert!(peer.send(&half));
        }
        // Those who ask for ever, and read nothing of the answers.
        let asking = request(1, object, "ice_ids", Mode::Normal, b"").repeat(1000);
        let mut deaf: Vec<Peer> = (0..5).map(|_| Peer::at(*port)).collect();
        for peer in &mut deaf {
            peer.0
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let mut sent = 0;
            // Until it is not read from any more.
            while peer.send(&asking) {
                sent += asking.len();
                assert!(sent < 64 * 1024 * 1024, "{object} reads on and on");
            }
        }
        met.goes_on("half of it");
        let grown = memory(*pid).saturating_sub(before);
        assert!(grown < GROWTH, "{object} has grown by {grown} bytes");
    }
}

#[test]
fn a_session_of_which_nothing_is_heard_ends_and_heartbeats_are_enough() {
    let met = Met::start("IceGrid.Registry.SessionTimeout=2\n");
    let port = met.ports[0].1;
    let mut body = Writer::new(Encoding::V11);
    ("me".to_owned(), "x".to_owned()).encode(&mut body);
    let open = || {
        let mut peer = Peer::at(port);
        let (status, _) = peer.ask("IceGrid/Registry", "createAdminSession", body.bytes());
        assert_eq!(status, 0);
        peer
    };
    let mut heard = open();
    // In seconds, and no more than an int.
    let (_, timeout) = heard.ask("IceGrid/Registry", "getACMTimeout", b"");
    assert_eq!(timeout.unwrap(), 2_i32.to_le_bytes());
    let silent = open();
    silent.0.set_nonblocking(true).unwrap();
    met.grid.wait("the silent session to end", || {
        assert!(heard.send(&bytes_of(&Message::Validate)));
        let mut rest = [0; 1024];
        // What comes before the end are heartbeats.
        let ended = loop {
            match (&silent.0).read(&mut rest) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        if !ended {
            pause(Duration::from_millis(100));
        }
        ended.then_some(())
    });
    // A heartbeat has no answer: what comes is that of the call.
    let (status, _) = heard.ask("IceGrid/Registry", "ice_ping", b"");
    assert_eq!(status, 0);
}
