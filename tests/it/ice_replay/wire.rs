//! Connections at the level of messages: those that a case opens, and what passes on the way to a server.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use omero_grid::ice::{
    Compression, Encapsulation, HEADER, Header, Message, Outcome, Reply, Request, Writer,
};

use crate::ice::MAX;

/// For how long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the bytes of a message.
pub(super) fn bytes_of(message: &Message<'_>) -> Vec<u8> {
    let mut writer = Writer::default();
    message.encode(Compression::No, &mut writer);
    writer.into_bytes()
}

pub(super) fn message_of(bytes: &[u8]) -> Message<'_> {
    Message::decode(bytes, MAX).unwrap().0
}

/// Reads one message; none once the connection has ended.
fn read(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    from.read_exact(&mut bytes).ok()?;
    let header = Header::parse(bytes.first_chunk().unwrap(), MAX).unwrap();
    bytes.resize(header.size, 0);
    from.read_exact(&mut bytes[HEADER..]).ok()?;
    Some(bytes)
}

/// A connection to the registry.
pub(super) struct Wire {
    stream: TcpStream,
    incoming: Receiver<Vec<u8>>,
    /// What has come in, and nobody has asked for yet.
    replies: Vec<Vec<u8>>,
    calls: Vec<Vec<u8>>,
    validated: bool,
    closing: bool,
    ended: bool,
}

impl Wire {
    pub(super) fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (sender, incoming) = channel();
        let mut from = stream.try_clone().unwrap();
        // It ends with the connection, and the connection with its owner.
        thread::spawn(move || {
            while let Some(bytes) = read(&mut from) {
                if sender.send(bytes).is_err() {
                    return;
                }
            }
        });
        let mut wire = Self {
            stream,
            incoming,
            replies: Vec::new(),
            calls: Vec::new(),
            validated: false,
            closing: false,
            ended: false,
        };
        assert!(
            wire.is_validated(),
            "the registry does not say that it is ready"
        );
        wire
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        // Who does not take it is found out by what does not come.
        let _ = self.stream.write_all(bytes);
    }

    pub(super) fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    pub(super) fn is_validated(&mut self) -> bool {
        self.wait(|wire| wire.validated.then_some(())).is_some()
    }

    /// Returns whether the other side closes the connection in good order.
    pub(super) fn is_closing(&mut self) -> bool {
        self.wait(|wire| wire.closing.then_some(())).is_some()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.wait(|wire| wire.ended.then_some(())).is_some()
    }

    /// Returns the reply to a request.
    pub(super) fn reply(&mut self, id: i32) -> Option<Vec<u8>> {
        self.wait(|wire| {
            let is_it = |bytes: &Vec<u8>| matches!(message_of(bytes), Message::Reply(reply) if reply.id == id);
            let at = wire.replies.iter().position(is_it)?;
            Some(wire.replies.remove(at))
        })
    }

    /// Returns the next call of an object of ours.
    pub(super) fn call(&mut self, category: &str, name: &str) -> Option<Vec<u8>> {
        self.wait(|wire| {
            let is_it = |bytes: &Vec<u8>| {
                matches!(message_of(bytes), Message::Request(call)
                    if (call.target.category, call.target.name) == (category, name))
            };
            let at = wire.calls.iter().position(is_it)?;
            Some(wire.calls.remove(at))
        })
    }

    /// Returns the calls that nobody has asked for.
    pub(super) fn other_calls(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.calls)
    }

    fn wait<T>(&mut self, mut look: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return Some(found);
            }
            let left = limit.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(bytes) => self.take(bytes),
                Err(RecvTimeoutError::Disconnected) if !self.ended => self.ended = true,
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self, bytes: Vec<u8>) {
        match message_of(&bytes) {
            Message::Request(call) => {
                // What is called here are observers, whose operations return nothing.
                let answer = reply_to(&call);
                if call.id != 0 {
                    self.send(&answer);
                }
                self.calls.push(bytes);
            }
            Message::Reply(_) => self.replies.push(bytes),
            Message::Validate => self.validated = true,
            Message::Close => self.closing = true,
            other => panic!("the registry sends {other:?}"),
        }
    }
}

fn reply_to(call: &Request<'_>) -> Vec<u8> {
    let nothing = Encapsulation {
        version: call.params.version,
        bytes: &[],
    };
    bytes_of(&Message::Reply(Reply {
        id: call.id,
        outcome: Outcome::Done(nothing),
    }))
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end();
    }
}

/// What passes on the way to a server that says that it listens here, and listens elsewhere.
pub(super) struct Tap {
    pub(super) port: u16,
    requests: Receiver<Vec<u8>>,
}

impl Tap {
    /// Passes on what comes to this port of its own.
    pub(super) fn open(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)) {
                    pass_on(stream, server, &sender);
                }
            }
        });
        Self { port, requests }
    }

    /// Forgets what has passed so far.
    pub(super) fn forget(&self) {
        while self.requests.try_recv().is_ok() {}
    }

    /// Returns the next request that passes.
    pub(super) fn request(&self) -> Option<Vec<u8>> {
        self.requests.recv_timeout(PATIENCE).ok()
    }
}

/// Passes on both ways until either side ends.
fn pass_on(mut client: TcpStream, mut server: TcpStream, requests: &Sender<Vec<u8>>) {
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let requests = requests.clone();
    thread::spawn(move || {
        while let Some(bytes) = read(&mut client) {
            if matches!(message_of(&bytes), Message::Request(_)) {
                let _ = requests.send(bytes.clone());
            }
            if server.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
}
