//! All servers of a node: which there are, which an earlier node left, and in which order they stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::Context;
use super::server::record::Record;
use super::server::step::Leaving;
use super::server::sweep::Belongings;
use super::server::task::{Actor, Found, Handle};
use crate::config;
use crate::descriptor::ServerDescriptor;
use crate::ipc::message::node::{Assigned, Assignment};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::ServerId;
use crate::sys::clock;
use crate::sys::marks::{self, Mark};
use crate::sys::process::{self, PidFd, ProcessId, Table};
use crate::sys::reaper::Reaper;
use crate::sys::successor::Successor;

/// Owns the tasks of all servers.
pub(crate) struct Supervisor {
    context: Arc<Context>,
    servers: Mutex<BTreeMap<ServerId, Server>>,
    /// One assignment is taken in at a time; the generation of the last one.
    configuring: AsyncMutex<Option<u64>>,
    stopping: watch::Sender<bool>,
    /// What tells masters; aborted with the node.
    tellers: Mutex<JoinSet<()>>,
    /// Asks for a successor of this process.
    upgrade: mpsc::Sender<Successor>,
}

struct Server {
    handle: Handle,
    assigned: Assigned,
}

/// Returns the properties that a running process may be told, the last of a name, and where the registry is, unless it has its own.
fn live_properties(
    descriptor: &ServerDescriptor,
    locator: Option<String>,
) -> BTreeMap<String, String> {
    const LOCATOR: &str = "Ice.Default.Locator";
    let properties = descriptor.property_set.properties.iter();
    let own = descriptor.property_set.get(LOCATOR).is_some();
    properties
        .filter(|(name, _)| config::is_live(name.strip_suffix(".blitz").unwrap_or(name)))
        .cloned()
        .chain(
            locator
                .filter(|_| !own)
                .map(|locator| (LOCATOR.to_owned(), locator)),
        )
        .collect()
}

/// What the processes of an earlier node look like.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marked {
    instance: String,
    process: ProcessId,
    leads: bool,
}

impl Supervisor {
    /// Makes a supervisor without servers.
    pub(crate) fn new(context: Arc<Context>, upgrade: mpsc::Sender<Successor>) -> Self {
        Self {
            context,
            servers: Mutex::default(),
            configuring: AsyncMutex::new(None),
            stopping: watch::Sender::new(false),
            tellers: Mutex::default(),
            upgrade,
        }
    }

    /// Has the node's process go on as another program, as soon as its connections have ended.
    pub(crate) async fn give_way_to(&self, successor: Successor) {
        // The other end goes with the node.
        let _ = self.upgrade.send(successor).await;
    }

    /// Returns what the node has.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<ServerId, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a task for as long as the node runs.
    pub(crate) fn keep(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tellers = self.tellers.lock().unwrap_or_else(PoisonError::into_inner);
        while tellers.try_join_next().is_some() {}
        tellers.spawn(task);
    }

    /// Returns what can ask a server for something; `None` if there is no such server.
    pub(crate) fn actor(&self, id: &ServerId) -> Option<Actor> {
        self.servers().get(id).map(|server| server.handle.actor())
    }

    /// Says that the node is to stop.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns what tells that the node is to stop.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Takes in an assignment and returns its generation.
    pub(crate) async fn configure(&self, assignment: Assignment) -> Result<u64, Refusal> {
        let mut last = self.configuring.lock().await;
        let generation = assignment.generation;
        if let Some(newer) = last.filter(|last| *last > generation) {
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!("generation {generation} is older than {newer}, which this node has"),
            ));
        }
        if *self.stopping.borrow() {
            return Err(Refusal::new(RefusalKind::Refused, "the node is stopping"));
        }
        let first = last.is_none();
        let mut found = if first {
            self.look_around()
        } else {
            BTreeMap::new()
        };
        // For processes that are started from now on; those that run have theirs in their configuration, but for Blitzes, which are told.
        *self
            .context
            .locator
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = assignment.locator;
        *self
            .context
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = assignment.settings;
        let wanted: BTreeSet<ServerId> = assignment.servers.iter().map(|s| s.id.clone()).collect();
        let to_run = assignment
            .servers
            .iter()
            .filter(|server| server.is_to_run());
        self.context.board.expect(
            to_run.map(|server| server.id.clone()).collect(),
            assignment.not_ready_elsewhere.into_iter().collect(),
        );
        self.context.blitzes.drain(
            assignment
                .servers
                .iter()
                .filter(|server| server.draining)
                .map(|server| server.id.clone())
                .collect(),
        );
        self.context.blitzes.configure(
            assignment
                .servers
                .iter()
                .filter(|server| server.descriptor.is_builtin_blitz())
                .map(|server| {
                    let locator = self.context.locator();
                    (
                        server.id.clone(),
                        live_properties(&server.descriptor, locator),
                    )
                })
                .collect(),
        );
        self.remove_others(&wanted).await;
        for assigned in assignment.servers {
            let id = assigned.id.clone();
            let known = {
                let mut servers = self.servers();
                match servers.get_mut(&id) {
                    Some(server) if server.assigned == assigned => continue,
                    Some(server) => {
                        server.assigned = assigned.clone();
                        true
                    }
                    None => false,
                }
            };
            if known {
                if let Some(actor) = self.actor(&id) {
                    actor.assign(assigned).await;
                }
            } else {
                let handle =
                    Handle::spawn(self.context.clone(), assigned.clone(), found.remove(&id));
                self.servers().insert(id, Server { handle, assigned });
            }
        }
        if first {
            self.end_strangers(found).await;
            self.adopted().await;
            self.context.board.set_up();
            info!(generation, "up");
        }
        *last = Some(generation);
        Ok(generation)
    }

    /// Waits until every task has put up its first report, so that all is adopted.
    async fn adopted(&self) {
        let ids: Vec<ServerId> = self.servers().keys().cloned().collect();
        let mut changes = self.context.board.watch();
        while !ids.iter().all(|id| self.context.board.get(id).is_some()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends and forgets the servers that are not wanted; returns when nothing is left of them.
    async fn remove_others(&self, wanted: &BTreeSet<ServerId>) {
        let gone: Vec<Server> = {
            let mut servers = self.servers();
            let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut *servers)
                .into_iter()
                .partition(|(id, _)| wanted.contains(id));
            *servers = kept;
            gone.into_values().collect()
        };
        for server in &gone {
            server.handle.leave(Leaving::Removed);
        }
        for server in gone {
            server.handle.finished().await;
        }
    }

    /// Finds what an earlier node left: records, and marks in `/proc`, which count for more.
    fn look_around(&self) -> BTreeMap<ServerId, Found> {
        let mut marked = self.marked();
        let mut found = BTreeMap::new();
        for (id, record) in records(&self.context.servers_dir()) {
            let marks = marked.remove(&id).unwrap_or_default();
            let process = living(&record, &marks);
            let record = match process {
                Some(process) => complete(record, process),
                None => record,
            };
            found.insert(id, open(record, &self.context.reaper));
        }
        // Without a record: the marks alone. Only those below this node's directory of servers would have had one.
        for (id, marks) in marked {
            if self.context.server_dir(&id).is_dir()
                && let Some(process) = leader(&marks)
            {
                let record = complete(Record::default(), process);
                found.insert(id, open(record, &self.context.reaper));
            }
        }
        found
    }

    /// Returns the living processes that carry a mark of this grid, by server.
    fn marked(&self) -> BTreeMap<ServerId, Vec<Marked>> {
        let mut marked: BTreeMap<ServerId, Vec<Marked>> = BTreeMap::new();
        let table = match Table::read() {
            Ok(table) => table,
            Err(error) => {
                warn!(%error, "cannot look for running servers; relies on records alone");
                return marked;
            }
        };
        for (stat, Mark { server, instance }) in marks::carriers(&table, &self.context.dir) {
            marked.entry(server).or_default().push(Marked {
                instance,
                process: ProcessId {
                    boot_id: self.context.boot_id.clone(),
                    pid: stat.pid,
                    start_time: stat.start_time,
                },
                leads: stat.group == stat.pid,
            });
        }
        marked
    }

    /// Ends servers that run and are no longer assigned.
    async fn end_strangers(&self, found: BTreeMap<ServerId, Found>) {
        let mut ending = JoinSet::new();
        for (id, found) in found {
            if found.process.is_none() && found.record.instance.is_empty() {
                continue;
            }
            if found.process.is_some() {
                info!(server = %id, reason = "not assigned to this node any more", "ends a server");
            }
            let belongings = Belongings {
                mark: super::server::launch::mark(&self.context, &id, &found.record.instance),
                // Not its leader for this purpose: the main process is to be found and ended like the rest.
                leader: None,
                logs: Vec::new(),
                known: found
                    .process
                    .iter()
                    .filter_map(|p| Some((p.pid(), process::stat(p.pid())?.start_time)))
                    .collect(),
                asked: BTreeSet::new().into_iter().collect(),
            };
            let until = clock::now().instant + crate::descriptor::DEFAULT_TIMEOUT;
            ending.spawn(belongings.sweep(self.context.reaper.clone(), until));
        }
        while ending.join_next().await.is_some() {}
    }

    /// Stops every server, those that others come after last; returns when nothing is left.
    pub(crate) async fn stop_all(&self) {
        let mut servers = std::mem::take(&mut *self.servers());
        while !servers.is_empty() {
            let needed: BTreeSet<ServerId> = servers
                .values()
                .flat_map(|server| server.assigned.descriptor.grid().after)
                .collect();
            let (later, free): (BTreeMap<_, _>, BTreeMap<_, _>) =
                servers.into_iter().partition(|(id, _)| needed.contains(id));
            servers = later;
            let mut now: Vec<Server> = free.into_values().collect();
            if now.is_empty() {
                // They come after each other in a ring: no order is better than another.
                now = std::mem::take(&mut servers).into_values().collect();
            }
            for server in &now {
                server.handle.leave(Leaving::NodeStops);
            }
            for server in now {
                server.handle.finished().await;
            }
        }
        self.end_orphans().await;
    }

    /// Ends what came to this process when its parent ended, wherever it is from.
    async fn end_orphans(&self) {
        let me = std::process::id();
        let Ok(table) = Table::read() else { return };
        let orphans = table.with_descendants([me]);
        let known = orphans
            .into_iter()
            .filter(|pid| *pid != me)
            .filter_map(|pid| table.get(pid).map(|stat| (stat.pid, stat.start_time)));
        let belongings = Belongings {
            mark: String::from("-"),
            leader: None,
            logs: Vec::new(),
            known: known.collect(),
            asked: Default::default(),
        };
        belongings
            .sweep(self.context.reaper.clone(), clock::now().instant)
            .await;
    }
}

/// Returns the record of every server that there is a directory for.
fn records(dir: &Path) -> Vec<(ServerId, Record)> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some((id, Record::read(&entry.path().join("process.json"))?))
        })
        .collect()
}

/// Returns the main process among those with a mark: the one that leads its group, the oldest of several.
fn leader(marks: &[Marked]) -> Option<Marked> {
    marks
        .iter()
        .filter(|m| m.leads)
        // The clock of starts is coarse; a lower pid is the older of two within one tick.
        .min_by_key(|m| (m.process.start_time, m.process.pid))
        .cloned()
}

/// Returns the main process that a record means.
fn living(record: &Record, marks: &[Marked]) -> Option<Marked> {
    if let Some(process) = record.process.as_ref().filter(|process| process.is_alive()) {
        return Some(Marked {
            instance: record.instance.clone(),
            process: process.clone(),
            leads: true,
        });
    }
    if record.process.is_some() {
        return None;
    }
    // Written before the process was there, or by a node that died before it could say which one it was.
    let own: Vec<Marked> = marks
        .iter()
        .filter(|m| m.instance == record.instance)
        .cloned()
        .collect();
    leader(&own)
}

fn complete(record: Record, process: Marked) -> Record {
    let same = record.process.as_ref() == Some(&process.process);
    let mut record = record;
    if record.instance != process.instance {
        record.forget_registrations();
    }
    Record {
        instance: process.instance,
        started_ms: if same {
            record.started_ms
        } else {
            clock::now().wall_ms
        },
        process: Some(process.process),
        ..record
    }
}

fn open(record: Record, reaper: &Reaper) -> Found {
    let inherited = record
        .process
        .as_ref()
        .and_then(|process| reaper.take_inherited(process.pid));
    let process = record
        .process
        .as_ref()
        .filter(|p| p.is_alive())
        .and_then(|process| {
            PidFd::open(process.pid, process.start_time)
                .map_err(|error| warn!(pid = process.pid, %error, "cannot adopt a process"))
                .ok()
                .flatten()
        });
    Found {
        record,
        process,
        inherited,
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
