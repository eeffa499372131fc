//! Plays the side that was not the registry's, and looks at what the registry does.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use omero_grid::ice::{
    Encapsulation, Encode as _, Message, Mode, Outcome, Proxy, Reply, Request, Target, Writer,
};

use super::normal::{Reader, uuids};
use super::recording::{Case, Message as Recorded};
use super::tree::{Pairs, Tree};
use super::wire::{Wire, bytes_of, message_of};
use super::world::World;
use crate::ice::text;

/// Operations that choose by chance: they are asked until they choose what they chose then.
const BY_CHANCE: &[&str] = &["findObjectByType"];

/// How often that is tried.
const TRIES: usize = 100;

/// The operations of `IceGrid::AdminSession`; what else is asked of an object that nobody was seen to get is asked of `IceGrid::Admin`.
const OF_SESSION: &[&str] = &[
    "keepAlive",
    "getAdmin",
    "getAdminCallbackTemplate",
    "setObservers",
    "setObserversByIdentity",
    "startUpdate",
    "finishUpdate",
    "getReplicaName",
    "openServerLog",
    "openServerStdErr",
    "openServerStdOut",
    "openNodeStdErr",
    "openNodeStdOut",
    "openRegistryStdErr",
    "openRegistryStdOut",
    "destroy",
];

/// One place where an answer differs.
pub(super) struct Difference {
    case: String,
    pub(super) operation: String,
    pub(super) line: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.case, self.operation, self.line)
    }
}

/// Plays the cases of one story.
pub(super) struct Player<'w> {
    world: &'w World,
    /// The connections of the case; that over which the session goes stays for the next one.
    wires: HashMap<u64, Wire>,
    session_wire: Option<Wire>,
    /// What objects are called here that were called otherwise.
    ids: BTreeMap<String, String>,
    /// What else is called otherwise in this case.
    pairs: Pairs,
    theirs: Reader,
    ours: Reader,
    next_id: i32,
    pub(super) requests: usize,
    pub(super) answers: usize,
    pub(super) different: Vec<Difference>,
    /// How many messages are not played, and why.
    pub(super) left_out: BTreeMap<&'static str, usize>,
}

impl<'w> Player<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        Self {
            world,
            wires: HashMap::new(),
            session_wire: None,
            ids: BTreeMap::new(),
            pairs: Pairs::default(),
            theirs: Reader::default(),
            ours: Reader::default(),
            // Beyond those that were recorded.
            next_id: 1_000_000,
            requests: 0,
            answers: 0,
            different: Vec::new(),
            left_out: BTreeMap::new(),
        }
    }

    /// Plays a case.
    pub(super) fn play(&mut self, case: &Case) {
        self.pairs = Pairs::default();
        self.world.tap.forget();
        let session = session_connection(case);
        for message in case.messages.iter().filter(|m| is_registry(m)) {
            if !self.wires.contains_key(&message.connection) {
                let kept = self
                    .session_wire
                    .take_if(|_| session == Some(message.connection));
                let port = || self.world.port(&message.listener);
                let wire = kept.unwrap_or_else(|| Wire::open(port()));
                self.wires.insert(message.connection, wire);
            }
        }
        for message in &case.messages {
            let different = match (is_registry(message), message.from_opener) {
                (true, true) => {
                    self.requests += usize::from(message.is("Request"));
                    self.send(message);
                    Vec::new()
                }
                (true, false) => self.expect(case, message),
                (false, true) if message.is("Request") => self.expect_on_the_way(message),
                (false, _) => {
                    self.leave_out("what a server says itself, or how its connection ends");
                    Vec::new()
                }
            };
            for line in different {
                self.note(case, message.operation(), line);
            }
        }
        for (connection, mut wire) in std::mem::take(&mut self.wires) {
            for bytes in wire.other_calls() {
                if let Message::Request(call) = message_of(&bytes) {
                    let told = self.ours.request(&call);
                    self.note(case, call.target.operation, format!("only ours: {told}"));
                }
            }
            if session == Some(connection) {
                self.session_wire = Some(wire);
            }
        }
    }

    fn note(&mut self, case: &Case, operation: &str, line: String) {
        self.different.push(Difference {
            case: case.name.clone(),
            operation: operation.to_owned(),
            line,
        });
    }

    fn leave_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_default() += 1;
    }

    fn wire(&mut self, message: &Recorded) -> &mut Wire {
        self.wires.get_mut(&message.connection).unwrap()
    }

    /// Sends what was sent to the registry.
    fn send(&mut self, message: &Recorded) {
        let bytes = self.world.here(&message.bytes);
        if bytes.is_empty() {
            self.wire(message).end();
            return;
        }
        match message_of(&bytes) {
            Message::Request(request) => {
                let bytes = self.as_here(message, request);
                self.wire(message).send(&bytes);
            }
            // Calls are answered when they come.
            Message::Reply(_) => {}
            _ => self.wire(message).send(&bytes),
        }
    }

    /// Returns a request with the id of the object that this registry has in place of the one that was asked.
    fn as_here<'a>(&'a mut self, message: &Recorded, mut request: Request<'a>) -> Vec<u8> {
        let name = request.target.name.to_owned();
        if uuids(&name) == [name.as_str()] && !self.ids.contains_key(&name) {
            let (session, admin) = self.open_session(message);
            let is_of_session = OF_SESSION.contains(&request.target.operation);
            self.ids
                .insert(name.clone(), if is_of_session { session } else { admin });
        }
        if let Some(ours) = self.ids.get(&name) {
            request.target.name = ours;
        }
        bytes_of(&Message::Request(request))
    }

    /// Opens a session, where that was not recorded. Returns the names of the session and of its administration.
    fn open_session(&mut self, message: &Recorded) -> (String, String) {
        let mut ask = |name: &str, operation: &str, params: &dyn Fn(&mut Writer)| {
            let mut writer = Writer::default();
            params(&mut writer);
            let request = Request {
                id: self.next_id,
                target: Target {
                    name,
                    category: "IceGrid",
                    facet: "",
                    operation,
                },
                mode: Mode::Normal,
                context: Vec::new(),
                params: Encapsulation {
                    version: [1, 1],
                    bytes: writer.bytes(),
                },
            };
            self.next_id += 1;
            let id = request.id;
            let wire = self.wires.get_mut(&message.connection).unwrap();
            wire.send(&bytes_of(&Message::Request(request)));
            let reply = wire.reply(id).unwrap();
            match message_of(&reply) {
                Message::Reply(Reply {
                    outcome: Outcome::Done(within),
                    ..
                }) => within.decode::<Option<Proxy>>().unwrap().unwrap(),
                other => panic!("{operation}: {other:?}"),
            }
        };
        let session = ask("Registry", "createAdminSession", &|writer| {
            ("user", "secret").encode(writer)
        });
        let admin = ask(&session.identity.name, "getAdmin", &|_| {});
        (session.identity.name, admin.identity.name)
    }

    /// Waits for what the registry said. Returns how it differs.
    fn expect(&mut self, case: &Case, message: &Recorded) -> Vec<String> {
        if (message.bytes.is_empty() || message.is("CloseConnection")) && !closes(case, message) {
            self.leave_out("the end of connections that were idle for long");
            return Vec::new();
        }
        self.answers += 1;
        let bytes = self.world.here(&message.bytes);
        if bytes.is_empty() {
            return unless(self.wire(message).has_ended());
        }
        match message_of(&bytes) {
            Message::Validate => unless(self.wire(message).is_validated()),
            Message::Close => unless(self.wire(message).is_closing()),
            Message::Request(theirs) => {
                let target = &theirs.target;
                let ours = self.wire(message).call(target.category, target.name);
                self.compare_requests(&theirs, ours)
            }
            Message::Reply(theirs) => self.expect_reply(case, message, &theirs),
            other => panic!("{other:?} was recorded"),
        }
    }

    fn expect_reply(&mut self, case: &Case, message: &Recorded, theirs: &Reply<'_>) -> Vec<String> {
        let operation = message.operation();
        let outcome = self.theirs.outcome(operation, &theirs.outcome);
        let mut tries = match BY_CHANCE.contains(&operation) {
            true => TRIES,
            false => 1,
        };
        loop {
            let Some(ours) = self.wire(message).reply(theirs.id) else {
                return unless(false);
            };
            let Message::Reply(ours) = message_of(&ours) else {
                panic!("{ours:?} is no reply");
            };
            let ours = self.ours.outcome(operation, &ours.outcome);
            let different = self.compare(&outcome, &ours);
            tries -= 1;
            if different.is_empty() || tries == 0 {
                return different;
            }
            let mut asked = case.exchanges();
            let asked = asked.find(|(_, reply)| std::ptr::eq(*reply, message));
            self.send(asked.unwrap().0);
        }
    }

    /// Waits for what the grid asked of a server.
    fn expect_on_the_way(&mut self, message: &Recorded) -> Vec<String> {
        self.answers += 1;
        let theirs = self.world.here(&message.bytes);
        let Message::Request(theirs) = message_of(&theirs) else {
            panic!("{theirs:?} is no request");
        };
        let ours = self.world.tap.request();
        self.compare_requests(&theirs, ours)
    }

    fn compare_requests(&mut self, theirs: &Request<'_>, ours: Option<Vec<u8>>) -> Vec<String> {
        let Some(ours) = ours else {
            return unless(false);
        };
        let Message::Request(ours) = message_of(&ours) else {
            panic!("{ours:?} is no request");
        };
        let theirs = self.theirs.request(theirs);
        let ours = self.ours.request(&ours);
        self.compare(&theirs, &ours)
    }

    /// Compares, and learns what objects are called here that are handed out.
    fn compare(&mut self, theirs: &Tree, ours: &Tree) -> Vec<String> {
        let different = self.pairs.differences(theirs, ours);
        let ids = self.pairs.of("uuid");
        let ids = ids.map(|(theirs, ours)| (theirs.clone(), ours.clone()));
        self.ids.extend(ids);
        different
    }
}

/// Says that something never comes, unless it has.
fn unless(it_comes: bool) -> Vec<String> {
    match it_comes {
        true => Vec::new(),
        false => vec!["never comes".to_owned()],
    }
}

/// Returns whether the registry listened there.
fn is_registry(message: &Recorded) -> bool {
    matches!(message.listener.as_str(), "client" | "server")
}

/// Returns the connection over which a session is used, whose objects have ids for names.
fn session_connection(case: &Case) -> Option<u64> {
    let mut requests = case
        .messages
        .iter()
        .filter(|m| m.is("Request") && m.from_opener);
    let used = requests.find(|m| is_registry(m) && !uuids(text(&m.known, "id")).is_empty());
    used.map(|message| message.connection)
}

/// Returns whether a connection ends for what is said in a case: not, where it is only one over which nothing is said.
fn closes(case: &Case, message: &Recorded) -> bool {
    let says = |connection: u64| {
        let mut of = case.messages.iter().filter(|m| m.connection == connection);
        of.any(|m| m.from_opener && !m.bytes.is_empty())
    };
    let mut closed = case
        .messages
        .iter()
        .filter(|m| m.is("CloseConnection") && !m.from_opener);
    says(message.connection) || closed.any(|m| says(m.connection))
}
