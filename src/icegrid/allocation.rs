//! Objects that a session has to itself (`IceGrid::Session`): which session has which, and who waits.
//!
//! What there is to be had is what is deployed. Who has it is a table that knows open sessions only; it is forgotten with them, and with the
//! master. Whoever waits is served in order: nobody takes what somebody who came earlier could take.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::face::Grid;
use super::operation::{Outcome, Raised};
use super::types::{AllocationException, AllocationTimeoutException, ObjectNotRegisteredException};
use crate::ice::{Identity, Proxy};
use crate::model::{Activation, ServerId, ServerState};

/// How many allocations may wait at once.
const WAITING_MAX: usize = 1000;

/// How long a server may take to end whose session has ended; its own time limit is shorter.
const END: Duration = Duration::from_secs(3600);

/// What a session wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// This object.
    Object(Identity),
    /// Any object of this type.
    OfType(String),
}

impl Want {
    fn is(&self, offer: &Offer) -> bool {
        match self {
            Self::Object(identity) => *identity == offer.identity,
            Self::OfType(of) => *of == offer.type_id && offer.enabled,
        }
    }
}

/// An object that can be had.
#[derive(Debug, Clone)]
struct Offer {
    identity: Identity,
    type_id: String,
    proxy: Proxy,
    server: ServerId,
    /// Whether who has one object of the server has them all.
    whole: bool,
    /// Whether the server runs for the session that has it, and no longer.
    of_session: bool,
    enabled: bool,
    runs: bool,
}

/// An object that a session has.
#[derive(Debug)]
struct Held {
    session: String,
    server: ServerId,
    of_session: bool,
}

/// What became of somebody who wants something.
#[derive(Debug, PartialEq)]
enum Turn {
    Taken(Box<Proxy>),
    Waits,
    /// The session has ended.
    Ended,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashSet<String>,
    objects: HashMap<Identity, Held>,
    /// Servers that are had as a whole, and by whom; by nobody while their processes are being ended.
    servers: HashMap<ServerId, Option<String>>,
    waiting: BTreeMap<u64, (String, Want)>,
    next: u64,
}

impl Table {
    fn is_free(&self, offer: &Offer, session: &str) -> bool {
        !self.objects.contains_key(&offer.identity)
            && match self.servers.get(&offer.server) {
                None => true,
                Some(owner) => owner.as_deref() == Some(session),
            }
    }

    /// Queues up. Returns the place.
    fn enter(&mut self, session: &str, want: Want) -> u64 {
        self.next += 1;
        if self.sessions.contains(session) {
            self.waiting.insert(self.next, (session.to_owned(), want));
        }
        self.next
    }

    fn take(&mut self, place: u64, offers: &[Offer]) -> Turn {
        let Some((session, want)) = self.waiting.get(&place) else {
            return Turn::Ended;
        };
        let sooner = |offer: &Offer| {
            let mut earlier = self.waiting.range(..place);
            earlier.any(|(_, (other, wants))| wants.is(offer) && self.is_free(offer, other))
        };
        let free =
            |offer: &&Offer| want.is(offer) && self.is_free(offer, session) && !sooner(offer);
        let Some(offer) = offers.iter().find(free) else {
            return Turn::Waits;
        };
        let session = session.clone();
        if offer.whole {
            let (server, owner) = (offer.server.clone(), Some(session.clone()));
            self.servers.insert(server, owner);
        }
        let held = Held {
            session,
            server: offer.server.clone(),
            of_session: offer.of_session,
        };
        self.objects.insert(offer.identity.clone(), held);
        self.waiting.remove(&place);
        Turn::Taken(Box::new(offer.proxy.clone()))
    }

    fn has(&self, session: &str, identity: &Identity) -> bool {
        let held = self.objects.get(identity);
        held.is_some_and(|held| held.session == session)
    }

    /// Frees what a session has. Returns the servers that nobody needs any more.
    fn free(&mut self, session: &str, which: impl Fn(&Identity) -> bool) -> Vec<ServerId> {
        let freed: Vec<Held> = self
            .objects
            .extract_if(|identity, held| held.session == session && which(identity))
            .map(|(_, held)| held)
            .collect();
        let mut over = Vec::new();
        for Held {
            server, of_session, ..
        } in freed
        {
            let is_needed = self.objects.values().any(|held| held.server == server);
            match self.servers.get_mut(&server) {
                Some(owner) if !is_needed && owner.is_some() => match of_session {
                    true => {
                        *owner = None;
                        over.push(server);
                    }
                    false => drop(self.servers.remove(&server)),
                },
                _ => {}
            }
        }
        over
    }
}

/// Who has what.
#[derive(Debug, Default)]
pub(super) struct Allocations {
    table: Mutex<Table>,
    /// Moves when something is free again, or somebody waits no longer.
    moved: watch::Sender<()>,
}

impl Allocations {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this session may have something.
    pub(super) fn begin(&self, session: &str) {
        self.table().sessions.insert(session.to_owned());
    }

    /// Returns whether a session has a server.
    pub(super) fn is_owned(&self, server: &ServerId) -> bool {
        matches!(self.table().servers.get(server), Some(Some(_)))
    }
}

/// Gives up a place, or what was in it.
struct Place<'a> {
    of: &'a Allocations,
    place: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.of.table().waiting.remove(&self.place).is_some() {
            self.of.moved.send_replace(());
        }
    }
}

fn refused(reason: impl Into<String>) -> Raised {
    AllocationException {
        reason: reason.into(),
    }
    .into()
}

/// Returns what there is to be had.
fn offers(grid: &Grid, want: &Want) -> Vec<Offer> {
    let registry = grid.handle.registry();
    let meant = registry.allocatables().filter(|(identity, of)| match want {
        Want::Object(wanted) => wanted == *identity,
        Want::OfType(wanted) => *wanted == of.type_id,
    });
    meant
        .filter_map(|(identity, of)| {
            let host = registry.server(&of.server)?;
            let of_session = host.activation == Activation::Session;
            Some(Offer {
                identity: identity.clone(),
                type_id: of.type_id.clone(),
                proxy: of.proxy.clone(),
                server: of.server.clone(),
                whole: of.whole || of_session,
                of_session,
                enabled: host.enabled,
                runs: host.state != ServerState::Inactive,
            })
        })
        .collect()
}

/// Allocates an object, and waits for it for at most so long.
pub(super) async fn allocate(
    grid: &Arc<Grid>,
    session: &str,
    want: Want,
    limit: Option<Duration>,
) -> Outcome<Option<Proxy>> {
    let all = &grid.sessions.allocations;
    if all.table().waiting.len() >= WAITING_MAX {
        return Err(refused("too many sessions wait for objects"));
    }
    let place = all.table().enter(session, want.clone());
    let place = Place { of: all, place };
    let mut moved = all.moved.subscribe();
    let mut registered = grid.handle.registered();
    let waiting = async {
        loop {
            moved.mark_unchanged();
            registered.mark_unchanged();
            let offers = offers(grid, &want);
            end_leftovers(grid, &offers);
            let turn = all.table().take(place.place, &offers);
            match (turn, &want) {
                (Turn::Taken(proxy), _) => return Ok(Some(*proxy)),
                (Turn::Ended, _) => return Err(refused("session destroyed")),
                (Turn::Waits, Want::Object(id)) if offers.is_empty() => {
                    return Err(ObjectNotRegisteredException { id: id.clone() }.into());
                }
                (Turn::Waits, Want::Object(id)) if all.table().has(session, id) => {
                    return Err(refused("already allocated by the session"));
                }
                (Turn::Waits, Want::OfType(of)) if offers.is_empty() => {
                    return Err(refused(format!(
                        "no allocatable objects with type `{of}' registered"
                    )));
                }
                (Turn::Waits, _) => {}
            }
            // Cancel safe: watches lose nothing.
            tokio::select! {
                _ = moved.changed() => {}
                _ = registered.changed() => {}
            }
        }
    };
    match limit {
        None => waiting.await,
        Some(limit) => tokio::time::timeout(limit, waiting)
            .await
            .unwrap_or_else(|_| {
                let base = AllocationException {
                    reason: String::new(),
                };
                Err(AllocationTimeoutException { base }.into())
            }),
    }
}

/// Releases an object of a session.
pub(super) fn release(grid: &Arc<Grid>, session: &str, id: Identity) -> Outcome<()> {
    if grid.handle.registry().allocatable(&id).is_none() {
        return Err(ObjectNotRegisteredException { id }.into());
    }
    let all = &grid.sessions.allocations;
    let mut table = all.table();
    if !table.has(session, &id) {
        return Err(refused("can't release object which is not allocated"));
    }
    let over = table.free(session, |known| *known == id);
    drop(table);
    freed(grid, over);
    Ok(())
}

/// Releases whatever a session has that has ended.
pub(super) fn end(grid: &Arc<Grid>, session: &str) {
    let mut table = grid.sessions.allocations.table();
    table.sessions.remove(session);
    table.waiting.retain(|_, (other, _)| other != session);
    let over = table.free(session, |_| true);
    drop(table);
    freed(grid, over);
}

/// Ends servers that run for a session of which nothing is known any more: the master was another then.
fn end_leftovers(grid: &Arc<Grid>, offers: &[Offer]) {
    let mut over = Vec::new();
    let mut table = grid.sessions.allocations.table();
    for offer in offers.iter().filter(|offer| offer.of_session && offer.runs) {
        if !table.servers.contains_key(&offer.server) {
            table.servers.insert(offer.server.clone(), None);
            over.push(offer.server.clone());
        }
    }
    drop(table);
    if !over.is_empty() {
        freed(grid, over);
    }
}

/// Tells who waits that something is free, and ends servers that ran for a session. They are free when they have ended.
fn freed(grid: &Arc<Grid>, over: Vec<ServerId>) {
    grid.sessions.allocations.moved.send_replace(());
    for server in over {
        let ending = grid.clone();
        grid.behind(async move {
            // One that cannot be ended is another's all the same.
            let _ = ending.handle.deactivate(&server, END).await;
            let all = &ending.sessions.allocations;
            all.table().servers.remove(&server);
            all.moved.send_replace(());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(name: &str, type_id: &str, server: &str, whole: bool) -> Offer {
        Offer {
            identity: Identity::new(name),
            type_id: type_id.to_owned(),
            proxy: format!("{name} @ {server}").parse().unwrap(),
            server: server.parse().unwrap(),
            whole,
            of_session: false,
            enabled: true,
            runs: false,
        }
    }

    fn object(name: &str) -> Want {
        Want::Object(Identity::new(name))
    }

    fn table() -> Table {
        let sessions = ["a", "b", "c"].map(str::to_owned);
        Table {
            sessions: sessions.into(),
            ..Table::default()
        }
    }

    #[test]
    fn who_came_first_is_served_first_and_holds_up_nobody_who_wants_something_else() {
        let offers = [offer("x", "T", "s", false), offer("y", "T", "s", false)];
        let mut table = table();
        let first = table.enter("a", object("x"));
        assert!(matches!(table.take(first, &offers), Turn::Taken(_)));
        let (second, third) = (table.enter("b", object("x")), table.enter("c", object("x")));
        let other = table.enter("c", Want::OfType("T".to_owned()));
        assert_eq!(table.take(third, &offers), Turn::Waits);
        assert_eq!(
            table.take(other, &offers),
            Turn::Taken(Box::new(offers[1].proxy.clone()))
        );
        assert!(table.free("a", |_| true).is_empty());
        assert_eq!(table.take(third, &offers), Turn::Waits);
        assert!(matches!(table.take(second, &offers), Turn::Taken(_)));
        // A session that has ended takes nothing, and nothing is kept for it.
        table.sessions.remove("b");
        table.free("b", |_| true);
        let late = table.enter("b", object("x"));
        assert_eq!(table.take(late, &offers), Turn::Ended);
        assert!(matches!(table.take(third, &offers), Turn::Taken(_)));
    }

    #[test]
    fn a_server_may_be_had_as_a_whole_only() {
        let offers = [offer("x", "T", "s", true), offer("y", "T", "s", true)];
        let mut table = table();
        let any = || Want::OfType("T".to_owned());
        let first = table.enter("a", any());
        assert!(matches!(table.take(first, &offers), Turn::Taken(_)));
        let other = table.enter("b", any());
        assert_eq!(table.take(other, &offers), Turn::Waits);
        // Its owner is not held up by who has to wait for the whole.
        let more = table.enter("a", any());
        assert!(matches!(table.take(more, &offers), Turn::Taken(_)));
        table.free("a", |identity| identity.name == "x");
        assert_eq!(table.take(other, &offers), Turn::Waits);
        table.free("a", |_| true);
        assert!(matches!(table.take(other, &offers), Turn::Taken(_)));
    }

    #[test]
    fn a_server_of_a_session_is_free_when_its_process_has_ended() {
        let mut offers = [offer("x", "T", "s", true)];
        offers[0].of_session = true;
        let mut table = table();
        let first = table.enter("a", object("x"));
        assert!(matches!(table.take(first, &offers), Turn::Taken(_)));
        let other = table.enter("b", object("x"));
        let over = table.free("a", |_| true);
        assert_eq!(over, [offers[0].server.clone()]);
        assert_eq!(table.take(other, &offers), Turn::Waits);
        table.servers.remove(&over[0]);
        assert!(matches!(table.take(other, &offers), Turn::Taken(_)));
    }

    #[test]
    fn what_is_disabled_is_taken_by_name_only() {
        let mut offers = [offer("x", "T", "s", false)];
        offers[0].enabled = false;
        let mut table = table();
        let by_type = table.enter("a", Want::OfType("T".to_owned()));
        assert_eq!(table.take(by_type, &offers), Turn::Waits);
        let by_name = table.enter("a", object("x"));
        assert!(matches!(table.take(by_name, &offers), Turn::Taken(_)));
    }
}
