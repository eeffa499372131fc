//! What the Blitzes are to the grid: who takes sessions, and where the redirect points.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Core, no_such};
use crate::descriptor::ServerDescriptor;
use crate::ipc::message::client::RedirectChange;
use crate::ipc::message::node::{Goal, ServerReport, is_to_run};
use crate::ipc::{Refusal, RefusalKind};
use crate::master::allocation::{Candidate, Policy, Redirector, World};
use crate::master::desired::Change;
use crate::master::redirect::{self, Next, Seen};
use crate::master::state::Happening;
use crate::model::{Accepting, NodeName, NodeState, ServerId, ServerState};
use crate::sys::clock;

/// When a redirect that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a Blitz is there, as far as this master has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Presence {
    /// This master has seen it there.
    met: bool,
    /// Since when it has been away, milliseconds since 1970; `None` while it is there.
    away_since_ms: Option<u64>,
}

impl Presence {
    /// Returns how it is now.
    ///
    /// An end from before it was last there says nothing about now. Only one that this master has never met has been away since its last
    /// end, and only if it has no process.
    fn next(self, is_there: bool, report: Option<&ServerReport>, now_ms: u64) -> Self {
        let ended = report
            .filter(|report| report.pid.is_none())
            .and_then(|report| Some(report.last_exit.as_ref()?.1));
        Self {
            met: self.met || is_there,
            away_since_ms: match self.away_since_ms {
                _ if is_there => None,
                known if self.met => Some(known.unwrap_or(now_ms)),
                known => Some(ended.or(known).unwrap_or(now_ms)),
            },
        }
    }
}

impl Core {
    /// Sees to what follows from the Blitzes as they are now: since when they are absent, and whether the redirect moves.
    pub(super) fn tend_blitzes(&mut self) {
        if self.policy_of != self.desired.generation {
            self.policy_of = self.desired.generation;
            self.read_policy();
        }
        let now = Instant::now();
        let seen = self.observe(now);
        self.redirect_due = None;
        if self.policy.redirector != Redirector::Config || self.stopping {
            return;
        }
        let since = |at: Instant| at.saturating_duration_since(self.begun);
        match redirect::next(self.desired.redirect.as_ref(), &seen, since(now)) {
            Next::Keep(again) => self.redirect_due = again.map(|at| self.begun + at),
            Next::Move(to, reason) => {
                if self.set_redirect(to, None, &reason).is_err() {
                    self.redirect_due = Some(now + AGAIN);
                }
            }
        }
    }

    fn read_policy(&mut self) {
        let deployments = self.desired.applications.values().map(|a| &a.deployment);
        match Policy::of(deployments) {
            Ok(policy) => {
                for warning in &policy.warnings {
                    warn!("{warning}");
                }
                self.policy = Arc::new(policy);
            }
            // It was checked when it was deployed; what an earlier release took goes on as it was.
            Err(error) => error!(%error, "cannot use what is deployed to place sessions"),
        }
    }

    /// Notes since when each Blitz has not accepted, and returns what the redirect follows from.
    fn observe(&mut self, now: Instant) -> Vec<Seen> {
        let mut absent = std::mem::take(&mut self.absent);
        let mut away = std::mem::take(&mut self.away);
        let now_ms = clock::now().wall_ms;
        let mut startups = std::mem::take(&mut self.startups);
        let mut seen = Vec::new();
        for (id, _, placed) in self.desired.placed() {
            if !placed.descriptor.is_blitz() {
                continue;
            }
            let report = self.report(id);
            if let Some(ready) = report.and_then(|report| report.ready_after_ms) {
                startups.insert(id.clone(), Duration::from_millis(ready));
            }
            let is_there = report.is_some_and(|report| report.blitz.is_some());
            let presence = away.entry(id.clone()).or_default();
            *presence = presence.next(is_there, report, now_ms);
            let accepts = self.accepts(id, report);
            if accepts {
                absent.remove(id);
            } else {
                absent.entry(id.clone()).or_insert(now);
            }
            let put_away = self.put_away(id, &placed.node);
            let since = absent.get(id);
            seen.push(Seen {
                id: id.clone(),
                accepts,
                read_only: reads_only(report),
                put_away,
                absent_since: since.map(|at| at.saturating_duration_since(self.begun)),
                startup: startup(startups.get(id), report, &placed.descriptor),
            });
        }
        (self.absent, self.away, self.startups) = (absent, away, startups);
        seen
    }

    /// Returns what an administrator did to a Blitz so that it takes no sessions, or soon takes none: one that is disabled goes on for
    /// as long as it runs.
    fn put_away(&self, id: &ServerId, node: &NodeName) -> Option<&'static str> {
        let wish = self.desired.wish(id);
        if self.desired.drains.contains_key(id) {
            Some("is being drained")
        } else if wish.goal == Goal::Stopped {
            Some("was stopped")
        } else if !wish.enabled {
            Some("is disabled")
        } else if !self.desired.wants_node(node) {
            Some("was stopped with its node")
        } else {
            None
        }
    }

    pub(super) fn report(&self, id: &ServerId) -> Option<&ServerReport> {
        let placed = self.desired.server(id)?;
        self.nodes.get(&placed.node)?.reports.get(id)
    }

    /// Returns whether a Blitz takes new sessions: by what it says, by what is wanted of it, and because it answers.
    fn accepts(&self, id: &ServerId, report: Option<&ServerReport>) -> bool {
        let says = |report: &ServerReport| {
            report.state == ServerState::Active
                && report.blitz.as_ref().map(|blitz| blitz.accepting) == Some(Accepting::Yes)
        };
        report.is_some_and(says)
            && !self.desired.drains.contains_key(id)
            && !self.shared.silent.borrow().contains(id)
    }

    /// Returns everything that the allocation follows from.
    pub(super) fn world(&self) -> World {
        let mut blitzes: Vec<Candidate> = self
            .desired
            .placed()
            .filter(|(.., placed)| placed.descriptor.is_blitz())
            .map(|(id, _, placed)| {
                let report = self.report(id);
                let blitz = report.and_then(|report| report.blitz.as_ref());
                let wish = self.desired.wish(id);
                let node = self.nodes.get(&placed.node);
                let wanted = self.desired.wants_node(&placed.node)
                    && is_to_run(wish.goal, wish.enabled, placed.descriptor.activation())
                    && !self.desired.drains.contains_key(id);
                let accepts = self.accepts(id, report);
                Candidate {
                    id: id.clone(),
                    accepts,
                    put_away: self.put_away(id, &placed.node).is_some(),
                    coming: wanted && !accepts && node.is_some_and(|n| n.state != NodeState::Down),
                    read_only: reads_only(report),
                    sessions: blitz.map_or(0, |blitz| blitz.sessions),
                    internal: blitz.map_or(0, |blitz| blitz.internal),
                    weight: self.policy.weight(id),
                    node: placed.node.clone(),
                    load_factor: self.desired.load_factor(&placed.node),
                    // Known where sessions are placed: it changes all the time, and nobody else wants to hear of it.
                    load: [0.0; 3],
                    startup: startup(self.startups.get(id), report, &placed.descriptor),
                    answers: blitz.is_some() && !self.shared.silent.borrow().contains(id),
                    away_since_ms: match self.away.get(id) {
                        Some(presence) => presence.away_since_ms,
                        None => Some(self.started_ms),
                    },
                }
            })
            .collect();
        blitzes.sort_by(|a, b| a.id.cmp(&b.id));
        World {
            policy: self.policy.clone(),
            redirect: self.desired.redirect.clone(),
            blitzes,
        }
    }

    /// Sets, moves or clears the redirect by hand.
    pub(super) fn redirect(&mut self, change: RedirectChange, uid: u32) -> Result<(), Refusal> {
        let by = format!("set by uid {uid}");
        match change {
            RedirectChange::Set { to, if_unset } => {
                let id = self.blitz_named(&to)?;
                if let Some(redirect) = self.desired.redirect.as_ref().filter(|_| if_unset) {
                    return Err(refused(format!(
                        "the redirect is set already, to {redirect}"
                    )));
                }
                if self.desired.drains.contains_key(&id) {
                    return Err(refused(format!("{id} is being drained"))
                        .hint(format!("omero-grid undrain {id}")));
                }
                // It would move on at once.
                if !self.desired.wish(&id).enabled {
                    return Err(refused(format!("{id} is disabled"))
                        .hint(format!("omero-grid server {id} enable")));
                }
                if !self.accepts(&id, self.report(&id)) {
                    return Err(refused(format!("{id} does not accept sessions now"))
                        .hint(format!("`omero-grid server {id} status` says why")));
                }
                self.set_redirect(Some(id), Some(uid), &by)
            }
            RedirectChange::Clear { if_is } => {
                let redirect = &self.desired.redirect;
                if let Some(expected) = if_is.filter(|expected| Some(expected) != redirect.as_ref())
                {
                    let is = redirect.as_ref().map_or("unset", ServerId::as_str);
                    return Err(refused(format!("the redirect is {is}, not {expected}")));
                }
                self.set_redirect(None, Some(uid), &format!("cleared by uid {uid}"))
            }
        }
    }

    /// Finds a Blitz by its id, or by the UUID that OMERO's clients know it by.
    fn blitz_named(&self, name: &str) -> Result<ServerId, Refusal> {
        let mut blitzes = Vec::new();
        for (id, _, placed) in self.desired.placed() {
            let blitz = self.report(id).and_then(|report| report.blitz.as_ref());
            if id.as_str() == name || blitz.is_some_and(|blitz| blitz.uuid == name) {
                if !placed.descriptor.is_blitz() {
                    return Err(refused(format!("server {id} holds no sessions")));
                }
                return Ok(id.clone());
            }
            if placed.descriptor.is_blitz() {
                blitzes.push(id.as_str());
            }
        }
        Err(no_such("Blitz", name, blitzes.into_iter()))
    }

    fn set_redirect(
        &mut self,
        to: Option<ServerId>,
        uid: Option<u32>,
        reason: &str,
    ) -> Result<(), Refusal> {
        let name = |id: &Option<ServerId>| {
            id.as_ref()
                .map_or_else(|| "nobody".to_owned(), ToString::to_string)
        };
        let from = name(&self.desired.redirect);
        let happening = Happening {
            uid,
            kind: "redirect",
            subject: to.as_ref().map_or_else(String::new, ToString::to_string),
            text: format!("from {from} to {}: {reason}", name(&to)),
        };
        let (text, change) = (happening.text.clone(), Change::Redirect(to));
        self.commit_noting(vec![change], vec![happening])
            .inspect(|()| info!(text, "the redirect moved"))
    }
}

/// Returns how long the last start-up of a Blitz took. Of its first one only the limit is known, while it is under way.
fn startup(
    last: Option<&Duration>,
    report: Option<&ServerReport>,
    descriptor: &ServerDescriptor,
) -> Option<Duration> {
    let starts = report.is_some_and(|report| report.state == ServerState::Activating);
    last.copied()
        .or_else(|| starts.then(|| descriptor.activation_timeout()))
}

fn reads_only(report: Option<&ServerReport>) -> bool {
    let blitz = report.and_then(|report| report.blitz.as_ref());
    blitz.is_some_and(|blitz| blitz.read_only.db || blitz.read_only.repo)
}

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalKind::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_may_take_what_the_descriptor_allows() {
        let descriptor = ServerDescriptor {
            activation_timeout: "90".to_owned(),
            ..ServerDescriptor::default()
        };
        let report = |state| -> ServerReport {
            let report = serde_json::json!({
                "id": "Blitz-0", "activation": "always", "enabled": true, "state": state, "restarts": 0,
            });
            serde_json::from_value(report).unwrap()
        };
        let took = Duration::from_secs(7);
        let limit = Some(Duration::from_secs(90));
        let (activating, inactive) = (report("activating"), report("inactive"));
        assert_eq!(startup(None, Some(&activating), &descriptor), limit);
        assert_eq!(startup(None, Some(&inactive), &descriptor), None);
        assert_eq!(startup(None, None, &descriptor), None);
        assert_eq!(
            startup(Some(&took), Some(&activating), &descriptor),
            Some(took)
        );
    }

    #[test]
    fn a_blitz_is_away_since_it_went_and_not_since_an_earlier_end() {
        let report = |pid: Option<u32>, ended: Option<u64>| -> ServerReport {
            let report = serde_json::json!({
                "id": "Blitz-0", "activation": "always", "enabled": true, "state": "active", "restarts": 1,
                "pid": pid, "last_exit": ended.map(|at| serde_json::json!([{ "signal": 9 }, at])),
            });
            serde_json::from_value(report).unwrap()
        };
        let (runs, dead) = (report(Some(7), Some(1000)), report(None, Some(1000)));
        let since = |presence: Presence| presence.away_since_ms;
        // Never met: its last end counts, once it is known, and only of one that has no process.
        let new = Presence::default().next(false, None, 5000);
        assert_eq!(since(new), Some(5000));
        assert_eq!(since(new.next(false, Some(&runs), 6000)), Some(5000));
        assert_eq!(since(new.next(false, Some(&dead), 6000)), Some(1000));
        // Met: from when it went, whatever ended before.
        let met = new.next(true, Some(&runs), 7000);
        assert_eq!(since(met), None);
        let went = met.next(false, Some(&runs), 8000);
        assert_eq!(since(went), Some(8000));
        assert_eq!(since(went.next(false, Some(&dead), 9000)), Some(8000));
        assert_eq!(since(went.next(true, Some(&runs), 9000)), None);
    }
}
