//! What is recorded: cases, which of them belong together, and what a grid has to be like for the answers in them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::normal::uuids;
use crate::ice::{streams, text, unhex};

/// The groups of cases in which somebody speaks to the registry.
const GROUPS: &[&str] = &[
    "admin-",
    "dynamic-",
    "grid-",
    "gui-",
    "locator-",
    "registry-",
    "server-startup",
];

/// A message, or the end of a connection.
pub(super) struct Message {
    /// Whether it comes from the side that has opened the connection.
    pub(super) from_opener: bool,
    pub(super) connection: u64,
    /// Who listens there.
    pub(super) listener: String,
    /// Empty for the end of the connection.
    pub(super) bytes: Vec<u8>,
    /// What an independent decoder has made of it.
    pub(super) known: Value,
}

impl Message {
    pub(super) fn is(&self, kind: &str) -> bool {
        text(&self.known, "type") == kind
    }

    pub(super) fn operation(&self) -> &str {
        text(&self.known, "op")
    }
}

/// What was recorded of one conversation.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) messages: Vec<Message>,
}

impl Case {
    /// Returns the ids that objects of the registry have here: those that are handed out, and those that are called.
    fn ids(&self) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for message in &self.messages {
            if message.listener == "client" {
                ids.extend(uuids(text(&message.known, "id")));
                // What is handed out is the proxy of one object.
                let handed_out = &message.known["result"]["returnValue"];
                ids.extend(uuids(text(handed_out, "id")));
            }
        }
        ids
    }

    /// The number of the first request, which says what came before what over one connection.
    fn begins(&self) -> i64 {
        let ids = self.messages.iter();
        ids.filter_map(|message| message.known["requestId"].as_i64())
            .next()
            .unwrap_or(0)
    }

    /// Returns each request of a client with its reply.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = (&Message, &Message)> {
        let requests = self.messages.iter().filter(|m| m.is("Request"));
        requests.filter_map(|request| {
            let mut replies = self.messages.iter().filter(|m| m.is("Reply"));
            let reply = replies.find(|reply| {
                reply.connection == request.connection
                    && reply.from_opener != request.from_opener
                    && reply.known["requestId"] == request.known["requestId"]
            });
            Some((request, reply?))
        })
    }
}

/// Reads every case of the groups; none where nothing is recorded.
pub(super) fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = streams()
        .into_iter()
        .map(|(_, stream)| {
            let entries = stream.as_array().unwrap();
            let messages = entries[1..].iter().map(|entry| Message {
                from_opener: entry["dir"] == "c",
                connection: entry["conn"].as_u64().unwrap(),
                listener: text(entry, "ch").to_owned(),
                bytes: unhex(text(entry, "hex")),
                known: entry["decoded"].clone(),
            });
            Case {
                name: text(&entries[0], "case").to_owned(),
                messages: messages.collect(),
            }
        })
        .filter(|case| GROUPS.iter().any(|group| case.name.starts_with(group)))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Puts the cases together in which the same session is used, in the order in which they were recorded; and those that use none.
pub(super) fn stories(cases: Vec<Case>) -> Vec<Vec<Case>> {
    let mut stories: Vec<(BTreeSet<String>, Vec<Case>)> = Vec::new();
    for case in cases {
        let mut ids = case.ids();
        let mut story = vec![case];
        for (known, of) in std::mem::take(&mut stories) {
            let belongs = (known.is_empty() && ids.is_empty()) || !known.is_disjoint(&ids);
            match belongs {
                true => {
                    ids.extend(known);
                    story.splice(0..0, of);
                }
                false => stories.push((known, of)),
            }
        }
        stories.push((ids, story));
    }
    let stories = stories.into_iter().map(|(_, mut story)| {
        story.sort_by_key(Case::begins);
        story
    });
    stories.collect()
}

/// What the application is like before a case.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) enum Application {
    /// It is there.
    #[default]
    There,
    /// It is there, and this often it has been changed.
    Revision(i64),
    /// It is not there.
    Absent,
}

/// What a grid has to be like before a case, so that the answers in it can be given.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) application: Application,
    /// Servers that run.
    pub(super) active: BTreeSet<String>,
    /// Servers that do not.
    pub(super) inactive: BTreeSet<String>,
    /// Adapters and groups where somebody listens.
    pub(super) listening: BTreeSet<String>,
    /// Adapters where nobody does.
    pub(super) silent: BTreeSet<String>,
}

impl Needs {
    /// Derives them from the answers.
    pub(super) fn of(case: &Case) -> Self {
        let mut needs = Self::default();
        for (request, reply) in case.exchanges() {
            if reply.known["status"] == "OK" {
                needs.answered(request, &reply.known["result"]);
            }
        }
        for told in case.messages.iter().filter(|m| m.is("Request")) {
            let params = &told.known["params"];
            match told.operation() {
                "applicationInit" => {
                    let infos = params["applications"].as_array().unwrap();
                    needs.application =
                        Application::Revision(infos[0]["revision"].as_i64().unwrap());
                }
                "nodeInit" => {
                    let nodes = params["nodes"].as_array().unwrap();
                    for server in nodes.iter().flat_map(|n| n["servers"].as_array().unwrap()) {
                        needs.is(text(server, "id"), text(server, "state"));
                    }
                }
                // Who registers itself within the case is not there before.
                "setServerProcessProxy" => needs.is(text(params, "id"), "Inactive"),
                _ => {}
            }
        }
        needs.active = &needs.active - &needs.inactive;
        needs
    }

    fn is(&mut self, server: &str, state: &str) {
        match state {
            "Active" => self.active.insert(server.to_owned()),
            "Inactive" => self.inactive.insert(server.to_owned()),
            _ => false,
        };
    }

    fn answered(&mut self, request: &Message, result: &Value) {
        let (params, value) = (&request.known["params"], &result["returnValue"]);
        let id = text(params, "id");
        match request.operation() {
            "addApplication" => self.application = Application::Absent,
            "getAllApplicationNames" if value.as_array().unwrap().is_empty() => {
                self.application = Application::Absent;
            }
            "getApplicationInfo" | "getServerInfo" => {
                self.application = Application::Revision(value["revision"].as_i64().unwrap());
            }
            "startServer" => self.is(id, "Inactive"),
            "stopServer" | "openServerStdOut" => self.is(id, "Active"),
            "getServerPid" if value != 0 => self.is(id, "Active"),
            "getServerState" => self.is(id, value.as_str().unwrap()),
            "findAdapterById" | "getAdapterInfo" => {
                let adapters = match value {
                    Value::Array(all) => all.iter().map(|info| &info["proxy"]).collect(),
                    one => vec![one],
                };
                match adapters.iter().all(|proxy| proxy.is_null()) {
                    true => self.silent.insert(id.to_owned()),
                    false => self.listening.insert(id.to_owned()),
                };
            }
            // What servers answer themselves.
            _ => {
                let called = text(&request.known, "id");
                if let Some((_, server)) = called.split_once("ServerAdminRouter/") {
                    self.is(server, "Active");
                }
            }
        }
    }
}

/// Returns the application as it was recorded, by the number of its changes: the bytes in which it is.
pub(super) fn revisions(cases: &[Case]) -> BTreeMap<i64, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let messages = cases.iter().flat_map(|case| &case.messages);
    for message in messages {
        let known = &message.known;
        let infos = match message.operation() {
            "getApplicationInfo" => vec![&known["result"]["returnValue"]],
            "applicationInit" => known["params"]["applications"]
                .as_array()
                .into_iter()
                .flatten()
                .collect(),
            _ => Vec::new(),
        };
        for info in infos {
            if let Some(revision) = info["revision"].as_i64() {
                let operation = message.operation().to_owned();
                found.insert(revision, (operation, message.bytes.clone()));
            }
        }
    }
    found
}
