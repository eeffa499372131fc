//! Drains and rolling restarts: what `drain` decides is made durable and done here.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{info, warn};

use super::{Core, no_such, stopping};
use crate::ipc::message::blitz;
use crate::ipc::message::client::{DrainRequest, DrainStatus, RollAction, RolloutStatus, Then};
use crate::ipc::message::node::{self, Action, Goal, is_to_run};
use crate::ipc::{Refusal, RefusalKind};
use crate::master::desired::{Change, Drain, Rollout, Wish};
use crate::master::drain::{self, Seen, Step, Turn};
use crate::master::shared::NodeHandle;
use crate::master::state::Happening;
use crate::model::{NodeName, ServerId, ServerState, SessionId};
use crate::sys::clock;

/// Sessions closed at once at a deadline.
const PAGE: u32 = 200;

/// How long a Blitz may take to close as many.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a restart waits to be told how it went; what comes of it is seen in any case.
const RESTART: Duration = Duration::from_secs(600);

/// The pause after a restart of a server without sessions that did not come about.
const AGAIN: Duration = Duration::from_secs(1);

/// What came of something that was done beside the core.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Sessions of a Blitz were closed because a deadline had come.
    Closed {
        server: ServerId,
        sessions: Vec<(SessionId, String)>,
    },
    /// A Blitz was restarted, or that failed; the status tells which.
    Restarted(ServerId),
}

impl Core {
    /// Goes on with drains, with what follows them, and with rolling restarts, as far as that goes now.
    pub(super) fn tend_drains(&mut self) {
        // A step may bring about the next one.
        while self.tend_one_drain() || self.tend_rollout() {}
        self.stop_if_drained();
    }

    fn see(&self, id: &ServerId) -> Seen {
        let Some(placed) = self.desired.server(id) else {
            return Seen::default();
        };
        let report = self.report(id);
        let node_wanted = self.desired.wants_node(&placed.node);
        let failed = report.is_some_and(|report| {
            report.failure.is_some()
                && matches!(
                    report.state,
                    ServerState::Inactive | ServerState::ActivationTimedOut
                )
        });
        Seen {
            deployed: true,
            // Of a node that is not to run there is nothing to be heard.
            known: report.is_some() || !node_wanted,
            runs: report.is_some_and(|report| report.pid.is_some()),
            stays_down: self.stays_down(id, node_wanted),
            started_ms: report.and_then(|report| report.started_ms),
            accepting: report
                .and_then(|report| report.blitz.as_ref())
                .map(|blitz| blitz.accepting),
            failed,
            plain: !placed.descriptor.is_builtin_blitz(),
            active: report.is_some_and(|report| report.state == ServerState::Active),
        }
    }

    /// Returns whether a Blitz has no process and is not to have one.
    fn stays_down(&self, id: &ServerId, node_wanted: bool) -> bool {
        let Some(report) = self.report(id) else {
            return !node_wanted;
        };
        let wish = self.desired.wish(id);
        report.pid.is_none()
            && !(node_wanted && is_to_run(wish.goal, wish.enabled, report.activation))
    }

    /// Does what is due for one drain; false if nothing is.
    fn tend_one_drain(&mut self) -> bool {
        let now_ms = clock::now().wall_ms;
        let mut due: Option<u64> = None;
        let mut todo = None;
        for (id, drain) in &self.desired.drains {
            if self.busy.contains(id) {
                continue;
            }
            match drain::next(drain, self.see(id), now_ms) {
                Step::Wait(until) => due = due.into_iter().chain(until).min(),
                step => {
                    todo = Some((id.clone(), drain.clone(), step));
                    break;
                }
            }
        }
        let in_time = |at: u64| Duration::from_millis(at.saturating_sub(now_ms));
        self.drain_due = due.map(|at| tokio::time::Instant::now() + in_time(at));
        let Some((id, drain, step)) = todo else {
            return false;
        };
        match step {
            Step::Wait(_) => return false,
            Step::Close => self.close_sessions(&id),
            Step::Stop => {
                let wish = Wish {
                    goal: Goal::Stopped,
                    ..self.desired.wish(&id)
                };
                let mut changes = vec![
                    Change::Server(id.clone(), wish),
                    Change::Drain(id.clone(), None),
                ];
                if self.desired.held.contains_key(&id) {
                    changes.push(Change::Held(id.clone(), None));
                }
                return self.go_on(&id, changes, "drained; stops");
            }
            Step::Restart => {
                let restarted = Drain {
                    restarted_ms: Some(drain.restarted_ms.unwrap_or(now_ms)),
                    ..drain.clone()
                };
                let mut changes = vec![Change::Drain(id.clone(), Some(restarted))];
                if self.desired.held.contains_key(&id) {
                    changes.push(Change::Held(id.clone(), None));
                }
                if drain.restarted_ms.is_none() && !self.go_on(&id, changes, "drained; restarts") {
                    return false;
                }
                self.restart(&id);
            }
            Step::Over => {
                let changes = vec![Change::Drain(id.clone(), None)];
                return self.go_on(&id, changes, "takes sessions again");
            }
        }
        true
    }

    /// Makes durable what follows a drain. What cannot be written is tried again a little later.
    fn go_on(&mut self, id: &ServerId, changes: Vec<Change>, text: &str) -> bool {
        let happening = happening("drain", id.as_str(), text.to_owned());
        let done = self.commit_noting(changes, vec![happening]).is_ok();
        if done {
            info!(server = %id, text, "drain");
        } else {
            self.drain_due = Some(tokio::time::Instant::now() + Duration::from_secs(2));
        }
        done
    }

    fn link_of(&self, id: &ServerId) -> Option<(NodeName, NodeHandle)> {
        let node = self.desired.server(id)?.node.clone();
        let handle = self.shared.link(&node)?;
        Some((node, handle))
    }

    /// Closes the sessions that are left on a Blitz, beside whatever goes on.
    fn close_sessions(&mut self, id: &ServerId) {
        self.busy.insert(id.clone());
        let (link, server, tell) = (self.link_of(id), id.clone(), self.outcomes.0.clone());
        self.tasks.spawn(async move {
            let mut closed = Vec::new();
            if let Some((_, handle)) = link {
                loop {
                    let request = node::Request::Blitz {
                        server: server.clone(),
                        request: Box::new(blitz::Request::CloseSome { limit: PAGE }),
                    };
                    let asked = tokio::time::timeout(PATIENCE, handle.client.call(&request)).await;
                    let Ok(Ok(node::Reply::Blitz { reply })) = asked else {
                        break;
                    };
                    let blitz::Reply::Sessions { sessions, more } = *reply else {
                        break;
                    };
                    let none = sessions.is_empty();
                    closed.extend(sessions.into_iter().map(|s| (s.uuid, s.user)));
                    if none || !more {
                        break;
                    }
                }
            }
            let outcome = Outcome::Closed {
                server,
                sessions: closed,
            };
            // The core being gone means that the master ends.
            let _ = tell.send(outcome).await;
        });
    }

    /// Restarts a Blitz that is drained, or a server whose turn has come, beside whatever goes on.
    fn restart(&mut self, id: &ServerId) {
        self.busy.insert(id.clone());
        self.give_orders();
        let generation = self.generation_told(id);
        let plain = self.see(id).plain;
        let (link, server, tell) = (self.link_of(id), id.clone(), self.outcomes.0.clone());
        self.tasks.spawn(async move {
            let mut done = false;
            if let Some((_, mut handle)) = link {
                let told = handle.configured.wait_for(|told| *told >= generation);
                if matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(_))) {
                    let request = node::Request::Act {
                        server: server.clone(),
                        action: Action::Restart,
                        wait_ms: u64::try_from(RESTART.as_millis()).unwrap_or(u64::MAX),
                    };
                    match handle.client.call(&request).await {
                        Ok(_) => done = true,
                        Err(error) => {
                            warn!(server = %server, %error, "a restart did not go well");
                        }
                    }
                }
            }
            if plain && !done {
                // It is tried again as soon as this is told.
                tokio::time::sleep(AGAIN).await;
            }
            let _ = tell.send(Outcome::Restarted(server)).await;
        });
    }

    /// Takes in what came of something that was done beside the core.
    pub(super) fn done(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Closed { server, sessions } => {
                self.busy.remove(&server);
                if sessions.is_empty() {
                    return;
                }
                let named: Vec<_> = sessions
                    .iter()
                    .take(20)
                    .map(|(uuid, user)| format!("{} ({user})", uuid.short()))
                    .collect();
                let rest = match sessions.len().saturating_sub(named.len()) {
                    0 => String::new(),
                    n => format!(" and {n} more"),
                };
                let text = format!(
                    "the deadline came; closed {}: {}{rest}",
                    sessions.len(),
                    named.join(", ")
                );
                self.note("drain", server.as_str(), text);
            }
            Outcome::Restarted(server) => drop(self.busy.remove(&server)),
        }
    }

    /// Begins to drain Blitzes, or says which it would be.
    pub(super) fn drain(
        &mut self,
        request: &DrainRequest,
        uid: u32,
    ) -> Result<Vec<ServerId>, Refusal> {
        let ids = self.blitzes_named(&request.names, request.node)?;
        if request.plan {
            return Ok(ids);
        }
        if self.stopping {
            return Err(stopping());
        }
        let all_in = |ids: &[ServerId]| {
            let world = self.world();
            let mut accepting = world
                .blitzes
                .iter()
                .filter(|blitz| blitz.accepts)
                .peekable();
            accepting.peek().is_some() && accepting.all(|blitz| ids.contains(&blitz.id))
        };
        if !request.force && !request.for_stop && all_in(&ids) {
            let names: Vec<_> = ids.iter().map(ServerId::as_str).collect();
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!(
                    "nobody would be left to take new sessions: no Blitz but {} accepts any",
                    names.join(", ")
                ),
            )
            .hint("start another Blitz first, or use --force: then logins wait, and fail after a while"));
        }
        let now_ms = clock::now().wall_ms;
        let drain = Drain {
            since_ms: now_ms,
            until_ms: request.deadline_ms.map(|ms| now_ms.saturating_add(ms)),
            then: request.then,
            for_stop: request.for_stop,
            restarted_ms: None,
        };
        let mut changes = Vec::new();
        for id in &ids {
            let known = self.desired.drains.get(id);
            // One that is being restarted already need not be drained again.
            if known.is_some_and(|known| known.restarted_ms.is_some()) {
                continue;
            }
            let since_ms = known.map_or(now_ms, |known| known.since_ms);
            let drain = Drain {
                since_ms,
                ..drain.clone()
            };
            changes.push(Change::Drain(id.clone(), Some(drain)));
        }
        let names: Vec<_> = ids.iter().map(ServerId::as_str).collect();
        let then = match (request.for_stop, request.then) {
            (true, _) => ", then stop the grid",
            (_, Then::Nothing) => "",
            (_, Then::Stop) => ", then stop",
            (_, Then::Restart) => ", then restart",
        };
        self.commit(changes, uid, &format!("drain {}{then}", names.join(" ")))?;
        Ok(ids)
    }

    /// Lets Blitzes take sessions again; returns those that did not.
    pub(super) fn undrain(
        &mut self,
        names: &[String],
        node: bool,
        uid: u32,
    ) -> Result<Vec<ServerId>, Refusal> {
        let mut ids = self.blitzes_named(names, node)?;
        ids.retain(|id| self.desired.drains.contains_key(id));
        let changes: Vec<_> = ids
            .iter()
            .map(|id| Change::Drain(id.clone(), None))
            .collect();
        if !changes.is_empty() {
            let names: Vec<_> = ids.iter().map(ServerId::as_str).collect();
            self.commit(changes, uid, &format!("undrain {}", names.join(" ")))?;
        }
        Ok(ids)
    }

    /// Finds the Blitzes that are meant: by their ids, by their nodes, or all.
    fn blitzes_named(&self, names: &[String], node: bool) -> Result<Vec<ServerId>, Refusal> {
        let blitzes = || {
            let placed = self.desired.placed();
            placed.filter(|(.., placed)| placed.descriptor.is_builtin_blitz())
        };
        let mut ids = BTreeSet::new();
        if names.is_empty() {
            ids.extend(blitzes().map(|(id, ..)| id.clone()));
        }
        for name in names {
            let server = self.desired.placed().find(|(id, ..)| id.as_str() == name);
            let is_node = self.desired.all_nodes().iter().any(|n| n.as_str() == name);
            match (server, is_node) {
                (Some(_), true) if !node => {
                    return Err(Refusal::new(
                        RefusalKind::Refused,
                        format!("'{name}' is a server and a node"),
                    )
                    .hint(format!(
                        "--node means the node, `omero-grid server {name} …` the server"
                    )));
                }
                (_, true) => {
                    let before = ids.len();
                    let of_node = blitzes().filter(|(.., p)| p.node.as_str() == name);
                    ids.extend(of_node.map(|(id, ..)| id.clone()));
                    if ids.len() == before {
                        return Err(Refusal::new(
                            RefusalKind::Refused,
                            format!("node {name} has no Blitz that could be drained"),
                        ));
                    }
                }
                (Some((id, _, placed)), false) if !node => {
                    if !placed.descriptor.is_builtin_blitz() {
                        return Err(Refusal::new(
                            RefusalKind::Refused,
                            format!("server {name} holds no sessions that the grid sees"),
                        )
                        .hint(format!("omero-grid server {name} stop")));
                    }
                    ids.insert(id.clone());
                }
                _ => {
                    let servers = blitzes().map(|(id, ..)| id.as_str());
                    let nodes = self.desired.all_nodes().into_iter().map(NodeName::as_str);
                    let known: Vec<_> = servers.chain(nodes).collect();
                    let what = if node { "node" } else { "Blitz or node" };
                    return Err(no_such(what, name, known.into_iter()));
                }
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// Stops the whole grid once every Blitz that it waits for is drained.
    fn stop_if_drained(&mut self) {
        let mut waited_for = self
            .desired
            .drains
            .iter()
            .filter(|(_, drain)| drain.for_stop)
            .peekable();
        if waited_for.peek().is_none()
            || !waited_for.all(|(id, _)| drain::is_done(self.see(id)))
            || self.stopping
        {
            return;
        }
        let changes = self.over_with_stop();
        let happening = happening(
            "drain",
            "",
            "every Blitz is drained; the grid stops".to_owned(),
        );
        if self.commit_noting(changes, vec![happening]).is_ok() {
            info!("every Blitz is drained; stopping the grid");
            self.stopping = true;
            self.give_orders();
        }
    }

    /// Returns the end of the drains that belong to a stop of the grid.
    pub(super) fn over_with_stop(&self) -> Vec<Change> {
        let drains = self.desired.drains.iter();
        drains
            .filter(|(_, drain)| drain.for_stop)
            .map(|(id, _)| Change::Drain(id.clone(), None))
            .collect()
    }

    /// Returns the servers that run with an older definition or older values.
    pub(super) fn outdated(&self) -> BTreeSet<ServerId> {
        let reports = self.nodes.values().flat_map(|node| node.reports.values());
        let untold = reports.filter(|report| report.outdated);
        let held = self.desired.held.keys().cloned();
        held.chain(untold.map(|report| report.id.clone())).collect()
    }

    /// Begins, goes on with or gives up restarting Blitzes one after another.
    pub(super) fn roll(&mut self, action: RollAction, uid: u32) -> Result<(), Refusal> {
        let none = || {
            Refusal::new(RefusalKind::NotFound, "no rolling restart is under way")
                .hint("omero-grid restart --rolling")
        };
        match action {
            RollAction::Start {
                names,
                outdated,
                deadline_ms,
            } => {
                if let Some(rollout) = &self.desired.rollout {
                    let how = match &rollout.failed {
                        Some(why) => format!("stands still: {why}"),
                        None => "is under way".to_owned(),
                    };
                    return Err(Refusal::new(
                        RefusalKind::Refused,
                        format!("a rolling restart {how}"),
                    )
                    .hint("`omero-grid restart --rolling --continue` or `--abort`"));
                }
                if self.stopping {
                    return Err(stopping());
                }
                let ids = if outdated && names.is_empty() {
                    self.outdated().into_iter().collect()
                } else {
                    let mut ids = self.blitzes_named(&names, false)?;
                    if outdated {
                        let outdated = self.outdated();
                        ids.retain(|id| outdated.contains(id));
                    } else if names.is_empty() {
                        ids.retain(|id| self.see(id).runs);
                    }
                    ids
                };
                if ids.is_empty() {
                    let none = match outdated {
                        true => "nothing runs with an older definition or older values",
                        false => "there is no Blitz to be restarted",
                    };
                    return Err(Refusal::new(RefusalKind::NotFound, none));
                }
                let change = self.rollout_over(ids, deadline_ms);
                self.commit(vec![change], uid, "restart --rolling")
            }
            RollAction::Continue => {
                let mut rollout = self.desired.rollout.clone().ok_or_else(none)?;
                rollout.failed = None;
                if let Some((id, since)) = rollout.current.take() {
                    let drained = self.desired.drains.contains_key(&id);
                    let back = self.see(&id).started_ms.is_some_and(|at| at >= since);
                    if drained || back {
                        rollout.current = Some((id, since));
                    } else {
                        rollout.waiting.insert(0, id);
                    }
                }
                let change = Change::Rollout(Some(Box::new(rollout)));
                self.commit(vec![change], uid, "restart --rolling --continue")
            }
            RollAction::Abort => {
                let rollout = self.desired.rollout.as_ref().ok_or_else(none)?;
                let mut changes = vec![Change::Rollout(None)];
                if let Some((id, _)) = &rollout.current
                    && let Some(Drain {
                        restarted_ms: None, ..
                    }) = self.desired.drains.get(id)
                {
                    changes.push(Change::Drain(id.clone(), None));
                }
                self.commit(changes, uid, "restart --rolling --abort")
            }
        }
    }

    /// Returns the change that begins to restart these servers: first those without sessions, which need not be waited for; the Blitz
    /// that the redirect names comes last.
    pub(super) fn rollout_over(&self, mut ids: Vec<ServerId>, deadline_ms: Option<u64>) -> Change {
        ids.sort_by_key(|id| {
            let placed = self.desired.server(id);
            let is_blitz = placed.is_some_and(|placed| placed.descriptor.is_builtin_blitz());
            let is_redirect = Some(id) == self.desired.redirect.as_ref();
            (is_blitz, is_redirect, id.clone())
        });
        Change::Rollout(Some(Box::new(Rollout {
            since_ms: clock::now().wall_ms,
            deadline_ms,
            waiting: ids,
            ..Rollout::default()
        })))
    }

    /// Does what is due for the rolling restart; false if nothing is.
    fn tend_rollout(&mut self) -> bool {
        let Some(rollout) = &self.desired.rollout else {
            return false;
        };
        let drains = |id: &ServerId| self.desired.drains.contains_key(id);
        let turn = drain::turn(rollout, |id| self.see(id), drains);
        if let Turn::Restart(id) = turn {
            if self.busy.contains(&id) {
                return false;
            }
            self.restart(&id);
            return true;
        }
        let mut after = rollout.clone();
        let now_ms = clock::now().wall_ms;
        let (subject, text, more) = match turn {
            Turn::Wait | Turn::Restart(_) => return false,
            Turn::Begin(id) if self.see(&id).plain => {
                after.waiting.retain(|waiting| *waiting != id);
                after.current = Some((id.clone(), now_ms));
                let change = Change::Held(id.clone(), None);
                let text = "its turn has come; restarts".to_owned();
                (id.to_string(), text, Some(change))
            }
            Turn::Begin(id) => {
                after.waiting.retain(|waiting| *waiting != id);
                after.current = Some((id.clone(), now_ms));
                let drain = Drain {
                    since_ms: now_ms,
                    until_ms: after.deadline_ms.map(|ms| now_ms.saturating_add(ms)),
                    then: Then::Restart,
                    for_stop: false,
                    restarted_ms: None,
                };
                let change = Change::Drain(id.clone(), Some(drain));
                (
                    id.to_string(),
                    "its turn has come; drains".to_owned(),
                    Some(change),
                )
            }
            Turn::Skip(id) => {
                after.waiting.retain(|waiting| *waiting != id);
                // What does not run has nothing that could be older.
                let held = self.desired.held.contains_key(&id);
                (
                    id.to_string(),
                    "does not run; not restarted".to_owned(),
                    held.then(|| Change::Held(id.clone(), None)),
                )
            }
            Turn::Done => {
                let done = after.current.take().map(|(id, _)| id);
                let back = match &done {
                    Some(id) if self.see(id).plain => "is back",
                    _ => "is back and takes sessions",
                };
                let id = done.as_ref().map_or_else(String::new, ToString::to_string);
                after.done.extend(done);
                (id, back.to_owned(), None)
            }
            Turn::Fail(why) => {
                let id = after
                    .current
                    .as_ref()
                    .map_or_else(String::new, |(id, _)| id.to_string());
                after.failed = Some(why.clone());
                (id, format!("the rolling restart stands still: {why}"), None)
            }
            Turn::Finished => {
                let text = format!("restarted {} servers", after.done.len());
                let end = happening("rollout", "", text);
                return self
                    .commit_noting(vec![Change::Rollout(None)], vec![end])
                    .is_ok();
            }
        };
        let mut changes = vec![Change::Rollout(Some(Box::new(after)))];
        changes.extend(more);
        info!(server = subject, text, "rolling restart");
        let happening = happening("rollout", &subject, text);
        self.commit_noting(changes, vec![happening]).is_ok()
    }

    pub(super) fn drain_status(&self) -> Vec<DrainStatus> {
        let drains = self.desired.drains.iter();
        drains
            .map(|(id, drain)| DrainStatus {
                server: id.clone(),
                since_ms: drain.since_ms,
                until_ms: drain.until_ms,
                then: drain.then,
                restarting: drain.restarted_ms.is_some(),
            })
            .collect()
    }

    pub(super) fn rollout_status(&self) -> Option<RolloutStatus> {
        let rollout = self.desired.rollout.as_ref()?;
        Some(RolloutStatus {
            since_ms: rollout.since_ms,
            done: rollout.done.clone(),
            current: rollout.current.as_ref().map(|(id, _)| id.clone()),
            waiting: rollout.waiting.clone(),
            failed: rollout.failed.clone(),
        })
    }
}

fn happening(kind: &'static str, subject: &str, text: String) -> Happening {
    Happening {
        uid: None,
        kind,
        subject: subject.to_owned(),
        text,
    }
}
