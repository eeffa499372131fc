//! Opens sessions: decides on a Blitz (`allocation`), asks it, and tries another where it does not live to answer.
//!
//! Every creation carries a token, which is unique in the store. So asking again doubles nothing: whoever is asked second takes over what
//! the first has opened, or says that the first lives and has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use super::allocation::{self, Decision, Facts, World};
use super::handler::{ClientHandler, no_server, reports, strange};
use super::loads::Loads;
use super::shared::Snapshot;
use crate::ipc::message::blitz::{self, Create};
use crate::ipc::message::client::{Placed, Reply, ServerAction};
use crate::ipc::message::node::{self, Action, ServerReport};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{Accepting, Activation, ServerId, ServerState};
use crate::telemetry::local_time;

/// How long a Blitz may take to answer a creation before another is asked. Checking a password takes a fraction of a second, a delay
/// after wrong ones some seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often Blitzes are asked for one session at most.
const TRIES: usize = 8;

/// How long a Blitz that did not take a session is left alone, unless something changes earlier.
const SECOND_THOUGHT: Duration = Duration::from_secs(1);

/// How long a session that others open may take until its Blitz counts it: a password is checked meanwhile.
const OPENED: Duration = Duration::from_secs(2);

/// How many creations may wait at once.
const MAX_WAITING: usize = 10_000;

/// What the decisions on new sessions share.
#[derive(Default)]
pub(crate) struct Allocator {
    /// Counts the decisions.
    turn: AtomicUsize,
    waiting: AtomicUsize,
    /// How busy the hosts are.
    loads: Loads,
    /// Sessions that are being opened, by Blitz: its own count does not have them yet.
    in_flight: InFlight,
    /// What nobody waits for: one question to each Blitz that is silent, for as long as it takes, and sessions that others open.
    behind: Mutex<JoinSet<()>>,
}

type InFlight = Arc<Mutex<BTreeMap<ServerId, u64>>>;

impl Allocator {
    fn in_flight(&self) -> MutexGuard<'_, BTreeMap<ServerId, u64>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how much is being done that nobody waits for.
    fn left_behind(&self) -> usize {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        while behind.try_join_next().is_some() {}
        behind.len()
    }

    fn behind(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        while behind.try_join_next().is_some() {}
        behind.spawn(work);
    }

    /// Decides, and counts what is decided as being opened.
    fn decide(&self, facts: &Facts, world: &World, tried: &[ServerId]) -> allocation::Verdict {
        // Held over the decision, so that two at once do not see the same counts.
        let mut in_flight = self.in_flight();
        let mut world = world.clone();
        self.loads.fill_in(&mut world.blitzes);
        for blitz in &mut world.blitzes {
            blitz.sessions += in_flight.get(&blitz.id).copied().unwrap_or(0);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut dice = |below: usize| rand::random_range(0..below.max(1));
        let verdict = allocation::decide(facts, &world, tried, turn, &mut dice);
        if let Decision::Use(server) = &verdict.decision {
            *in_flight.entry(server.clone()).or_default() += 1;
        }
        verdict
    }

    /// Counts a session as being opened.
    fn take_off(&self, server: ServerId) -> Flight {
        *self.in_flight().entry(server.clone()).or_default() += 1;
        self.flight(server)
    }

    /// Returns what has been counted already.
    fn flight(&self, server: ServerId) -> Flight {
        Flight {
            in_flight: self.in_flight.clone(),
            server,
        }
    }
}

/// A session that is being opened, for as long as the value lives.
struct Flight {
    in_flight: InFlight,
    server: ServerId,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = in_flight.get_mut(&self.server) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.server);
            }
        }
    }
}

/// A creation that waits for a Blitz, for as long as the value lives.
struct Waiting<'a>(&'a Allocator);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ClientHandler {
    /// Opens a session on a Blitz of the grid's choice, or on `via`.
    pub(super) async fn create(
        &self,
        mut create: Create,
        via: Option<ServerId>,
    ) -> Result<Placed, Refusal> {
        create
            .token
            .get_or_insert_with(|| Uuid::new_v4().to_string());
        if let Some(via) = via {
            self.check_via(&via)?;
            let reply = self.ask(&via, blitz::Request::Create(create)).await?;
            return self.opened(via, reply);
        }
        let facts = Facts {
            user: create.user.clone(),
            group: create.group.clone(),
            agent: create.agent.clone(),
            client: create.ip.clone(),
            entry: None,
        };
        let mut tried = Vec::new();
        let mut deadline = None;
        let mut news = self.shared.snapshot.subscribe();
        loop {
            let flight = self.allocate(&facts, &tried, &mut deadline).await?;
            let server = flight.server.clone();
            if tried.contains(&server) {
                // That it went may not be known here yet. Cancel safe: a watch loses nothing.
                let _ = tokio::time::timeout(SECOND_THOUGHT, news.changed()).await;
            }
            news.mark_unchanged();
            let asked = self.ask(&server, blitz::Request::Create(create.clone()));
            let refusal = match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(reply)) => return self.opened(server, reply),
                Ok(Err(refusal)) if refusal.kind == RefusalKind::Unavailable => refusal,
                Ok(Err(refusal)) => return Err(refusal),
                Err(_) => {
                    self.is_silent(&server);
                    let message = format!("Blitz {server} has not answered for {PATIENCE:?}");
                    Refusal::new(RefusalKind::Unavailable, message)
                }
            };
            debug!(server = %server, %refusal, tried = tried.len(), "asks another Blitz");
            tried.push(server);
            if tried.len() >= TRIES {
                return Err(refusal);
            }
        }
    }

    /// Chooses the Blitz for a session that somebody else will open, and counts it as being opened there for a moment.
    pub(super) async fn choose(&self, facts: &Facts) -> Result<ServerId, Refusal> {
        let flight = self.allocate(facts, &[], &mut None).await?;
        let server = flight.server.clone();
        // Whoever asks more than this opens nothing, and is not counted.
        if self.allocator.left_behind() < MAX_WAITING {
            self.allocator.behind(async move {
                tokio::time::sleep(OPENED).await;
                drop(flight);
            });
        }
        Ok(server)
    }

    /// Says whether a session may be opened at the Blitz that was reached, whichever else would take it too.
    pub(super) fn stays(&self, facts: &Facts) -> Result<ServerId, Refusal> {
        let snapshot = self.shared.now();
        let mut world = World::clone(&snapshot.world);
        world
            .blitzes
            .retain(|blitz| Some(&blitz.id) == facts.entry.as_ref());
        match self.allocator.decide(facts, &world, &[]).decision {
            Decision::Use(server) => {
                // Who has decided that it belongs there has counted it.
                drop(self.allocator.flight(server.clone()));
                Ok(server)
            }
            Decision::Wait(why) | Decision::Full(why, _) => {
                Err(Refusal::new(RefusalKind::Refused, why))
            }
        }
    }

    fn opened(&self, server: ServerId, reply: blitz::Reply) -> Result<Placed, Refusal> {
        match reply {
            blitz::Reply::Session(session) => self.place(server, session),
            blitz::Reply::Elsewhere { session, server } => {
                let server = server.parse().map_err(|_| strange())?;
                self.place(server, session)
            }
            _ => Err(strange()),
        }
    }

    /// Says that a session is open on a Blitz, and on which node that is.
    pub(super) fn place(
        &self,
        server: ServerId,
        session: blitz::Session,
    ) -> Result<Placed, Refusal> {
        let snapshot = self.shared.now();
        let node = snapshot
            .node_of(&server)
            .cloned()
            .ok_or_else(|| no_server(&server))?;
        Ok(Placed {
            session,
            server,
            node,
        })
    }

    fn check_via(&self, via: &ServerId) -> Result<(), Refusal> {
        let snapshot = self.shared.now();
        let report = reports(&snapshot)
            .find(|report| report.id == *via)
            .ok_or_else(|| no_server(via))?;
        if !report.is_builtin_blitz {
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!("server {via} is no built-in Blitz"),
            ));
        }
        let blitz = snapshot.world.blitzes.iter().find(|b| b.id == *via);
        if let Some(blitz) = blitz.filter(|b| self.shared.link(&b.node).is_none()) {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("node {} of server {via} is not up", blitz.node),
            )
            .hint(format!("omero-grid node {} start", blitz.node)));
        }
        // Its drain is in force before it has heard of it.
        let accepting = report.blitz.as_ref().map(|blitz| blitz.accepting);
        if let Some(Accepting::Draining | Accepting::Drained) = accepting {
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!("{via} takes no new sessions: it is being drained"),
            )
            .hint(format!("omero-grid undrain {via}")));
        }
        Ok(())
    }

    /// Chooses a Blitz; waits where none takes the session now, and starts one that is started on demand.
    async fn allocate(
        &self,
        facts: &Facts,
        tried: &[ServerId],
        deadline: &mut Option<Instant>,
    ) -> Result<Flight, Refusal> {
        let mut snapshots = self.shared.snapshot.subscribe();
        let mut waiting = None;
        loop {
            self.know_loads().await;
            // Only now: what was decided meanwhile, a drain above all, holds.
            let snapshot = snapshots.borrow_and_update().clone();
            let verdict = self.allocator.decide(facts, &snapshot.world, tried);
            debug!(user = ?facts.user, steps = ?verdict.steps, "placed a session");
            let why = match verdict.decision {
                Decision::Use(server) => return Ok(self.allocator.flight(server)),
                Decision::Full(why, full) => {
                    let max = snapshot.world.policy.max_sessions.unwrap_or_default();
                    return match self.room(&full, tried, max).await {
                        Some(server) => Ok(self.allocator.take_off(server)),
                        None => Err(self.full(why, &full).await),
                    };
                }
                Decision::Wait(why) => why,
            };
            if waiting.is_none() {
                waiting = Some(self.wait_in_line()?);
                self.start_on_demand(facts, &snapshot).await?;
            }
            let limit = snapshot.world.policy.wait(slowest_start(&snapshot.world));
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + limit);
            // Cancel safe: a watch loses nothing.
            match tokio::time::timeout_at(deadline, snapshots.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(Refusal::new(
                        RefusalKind::TimedOut,
                        format!("no Blitz took the session within {limit:?}: {why}"),
                    )
                    .hint("`omero-grid status` says more; then try again"));
                }
            }
        }
    }

    async fn know_loads(&self) {
        let world = self.shared.now().world;
        self.allocator.loads.refresh(&self.shared, &world).await;
    }

    fn wait_in_line(&self) -> Result<Waiting<'_>, Refusal> {
        let waiting = Waiting(&self.allocator);
        if self.allocator.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!("{MAX_WAITING} logins wait for a Blitz already"),
            )
            .hint("try again in a minute"));
        }
        Ok(waiting)
    }

    /// Returns a Blitz that has room by now: counts lag behind, and creations that were counted may have failed.
    async fn room(&self, full: &[ServerId], tried: &[ServerId], max: u64) -> Option<ServerId> {
        for server in full.iter().filter(|server| !tried.contains(server)) {
            let asked = self.ask(server, blitz::Request::Status);
            if let Ok(Ok(blitz::Reply::Status(status))) =
                tokio::time::timeout(PATIENCE, asked).await
                && status.sessions.saturating_sub(status.internal) < max
            {
                return Some(server.clone());
            }
        }
        None
    }

    /// Says when to try again, where every Blitz has as many sessions as it may have.
    async fn full(&self, why: String, full: &[ServerId]) -> Refusal {
        let mut next: Option<u64> = None;
        for server in full {
            let asked = self.ask(server, blitz::Request::Outlook);
            if let Ok(Ok(blitz::Reply::Outlook(outlook))) =
                tokio::time::timeout(PATIENCE, asked).await
            {
                next = next.into_iter().chain(outlook.next_end_ms).min();
            }
        }
        let hint = match next {
            Some(at) => format!(
                "the next session ends at {} if nobody uses it; try again then",
                local_time(at)
            ),
            None => {
                "none of the sessions ends by itself; close some, or raise the maximum".to_owned()
            }
        };
        Refusal::new(RefusalKind::Refused, why).hint(hint)
    }

    /// Starts a Blitz that waits for somebody to need it; refuses where there is no Blitz at all.
    async fn start_on_demand(&self, facts: &Facts, snapshot: &Snapshot) -> Result<(), Refusal> {
        if snapshot.world.blitzes.is_empty() && snapshot.revision > 0 {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                "this grid has no Blitz that holds sessions",
            )
            .hint("deploy a descriptor with one; descriptors/default.xml shows how"));
        }
        let wanted = allocation::to_be_started(facts, &snapshot.world);
        let mut reports = reports(snapshot).filter(|report| is_on_demand(report));
        let Some(report) = reports.find(|report| wanted.iter().any(|c| c.id == report.id)) else {
            return Ok(());
        };
        let action = ServerAction::Act {
            action: Action::Start,
        };
        let limit = snapshot.world.policy.wait(None);
        let wait_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        // The allocation is the demand; who asked for it is the grid itself.
        let uid = nix::unistd::geteuid().as_raw();
        self.server(report.id.clone(), action, wait_ms, uid)
            .await
            .map(drop)
    }

    /// Notes that a Blitz left somebody waiting: it is not offered until it has answered something.
    pub(super) fn is_silent(&self, server: &ServerId) {
        let newly = self
            .shared
            .silent
            .send_if_modified(|silent| silent.insert(server.clone()));
        if !newly {
            return;
        }
        warn!(server = %server, "a Blitz does not answer; it gets no sessions until it does");
        let (shared, server) = (Arc::downgrade(&self.shared), server.clone());
        let snapshot = self.shared.now();
        let link = snapshot
            .node_of(&server)
            .and_then(|node| self.shared.link(node));
        self.allocator.behind(async move {
            if let Some(link) = link {
                let request = node::Request::Blitz {
                    server: server.clone(),
                    request: Box::new(blitz::Request::Status),
                };
                // An answer of any kind will do, also that its process is gone: the next one is another.
                let _ = link.client.call(&request).await;
            }
            if let Some(shared) = shared.upgrade() {
                shared
                    .silent
                    .send_if_modified(|silent: &mut BTreeSet<_>| silent.remove(&server));
            }
        });
    }

    /// Explains where a session would go.
    pub(super) async fn explain(&self, facts: &Facts) -> Reply {
        self.know_loads().await;
        let snapshot = self.shared.now();
        let verdict = self.allocator.decide(facts, &snapshot.world, &[]);
        let server = match verdict.decision {
            Decision::Use(server) => {
                // Nothing is opened.
                drop(self.allocator.flight(server.clone()));
                Some(server)
            }
            Decision::Wait(_) | Decision::Full(..) => None,
        };
        Reply::Route {
            server,
            steps: verdict.steps,
        }
    }

    /// Chooses a Blitz to take over a session; none where nobody takes it now.
    pub(super) fn successor(&self, facts: &Facts, tried: &[ServerId]) -> Option<ServerId> {
        let snapshot = self.shared.now();
        match self
            .allocator
            .decide(facts, &snapshot.world, tried)
            .decision
        {
            Decision::Use(server) => {
                drop(self.allocator.flight(server.clone()));
                Some(server)
            }
            Decision::Wait(_) | Decision::Full(..) => None,
        }
    }
}

/// Returns the longest that a Blitz took to start of those that are on their way.
fn slowest_start(world: &World) -> Option<Duration> {
    let coming = world.blitzes.iter().filter(|blitz| blitz.coming);
    coming.filter_map(|blitz| blitz.startup).max()
}

/// Returns whether a Blitz waits for somebody to need it.
fn is_on_demand(report: &ServerReport) -> bool {
    report.is_builtin_blitz
        && report.activation == Activation::OnDemand
        && report.enabled
        && report.state == ServerState::Inactive
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::master::allocation::{Candidate, Policy, Redirector};

    fn world(count: usize) -> World {
        let blitz = |n: usize| Candidate {
            id: format!("Blitz-{n}").parse().unwrap(),
            accepts: true,
            coming: false,
            put_away: false,
            read_only: false,
            sessions: 0,
            internal: 0,
            weight: 1.0,
            node: "n".parse().unwrap(),
            load_factor: None,
            load: [0.0; 3],
            startup: None,
            answers: true,
            away_since_ms: None,
        };
        World {
            policy: Arc::new(Policy {
                redirector: Redirector::Scale,
                ..Policy::default()
            }),
            redirect: None,
            blitzes: (0..count).map(blitz).collect(),
        }
    }

    /// The Blitzes' own counts do not move: they lag behind, as they do in a burst.
    #[test]
    fn a_burst_does_not_meet_on_one_blitz() {
        let (allocator, world) = (Allocator::default(), world(4));
        let flights: Vec<_> = (0..64)
            .map(|_| {
                let verdict = allocator.decide(&Facts::default(), &world, &[]);
                let Decision::Use(server) = verdict.decision else {
                    panic!("{verdict:?}");
                };
                allocator.flight(server)
            })
            .collect();
        let counts: Vec<u64> = allocator.in_flight().values().copied().collect();
        assert_eq!(counts, [16; 4]);
        drop(flights);
        assert!(allocator.in_flight().is_empty());
    }

    /// A guard against a slip of some orders, not a measurement: that is in `benches`.
    #[test]
    fn a_decision_over_64_blitzes_takes_no_time() {
        let (allocator, world) = (Allocator::default(), world(64));
        let since = std::time::Instant::now();
        for _ in 0..1000 {
            allocator.decide(&Facts::default(), &world, &[]);
        }
        let each = since.elapsed() / 1000;
        println!("{each:?} for one decision");
        assert!(each < Duration::from_millis(2), "{each:?}");
    }
}
