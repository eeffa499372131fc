//! Where a new session goes. Pure: what is known in, a decision and the way to it out.
//!
//! Three questions in turn (DESIGN.md §7). A routing rule may confine the choice to some Blitzes ([`route`]). The *entry* is the Blitz that a
//! client has reached already, or a pick of the replica group's load balancing ([`balance`]). The *redirector* may choose another: the null one never, the config one always the
//! redirect, the scale one the least loaded ([`Redirector`]). Everything is written against what a Blitz is to the grid, a [`Candidate`]: it
//! accepts, it counts, it belongs to groups. Which program holds the sessions does not matter here.

pub(crate) mod balance;
pub(crate) mod policy;
pub(crate) mod route;

use std::sync::Arc;
use std::time::Duration;

use self::balance::Balancing;
pub(crate) use self::policy::{Policy, Redirector};
use self::route::Route;
use crate::model::{NodeName, ServerId};

/// Above so many Blitzes the scale redirector compares two at random: nearly as even, and a burst does not meet on one.
const HANDFUL: usize = 4;

/// What a Blitz is to the grid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) id: ServerId,
    /// It takes new sessions.
    pub(crate) accepts: bool,
    /// It is on its way: starting, or waiting for its turn.
    pub(crate) coming: bool,
    /// It is to take no sessions: it is drained, was stopped, or is disabled, or its node is.
    pub(crate) put_away: bool,
    /// It reads its database or its repository only.
    pub(crate) read_only: bool,
    /// Sessions that are open or being opened.
    pub(crate) sessions: u64,
    /// Of these, those that services opened for themselves: no cap counts them.
    pub(crate) internal: u64,
    /// How many sessions it carries in comparison with the others; more than zero.
    pub(crate) weight: f64,
    /// The node that runs it.
    pub(crate) node: NodeName,
    /// What a load average of its host is multiplied by (`load-factor`); by the number of its processors divided where absent.
    pub(crate) load_factor: Option<f64>,
    /// The load of its host over 1, 5 and 15 minutes: the averages times the factor.
    pub(crate) load: [f64; 3],
    /// How long its last start-up took.
    pub(crate) startup: Option<Duration>,
    /// It answers for the sessions that it has.
    pub(crate) answers: bool,
    /// Since when it is away, milliseconds since 1970; `None` while its process lives.
    pub(crate) away_since_ms: Option<u64>,
}

impl Candidate {
    fn weighted(&self) -> f64 {
        // Counts of sessions are far below 2^52.
        self.sessions as f64 / self.weight
    }

    fn is_full(&self, policy: &Policy) -> bool {
        let users = self.sessions.saturating_sub(self.internal);
        policy.max_sessions.is_some_and(|max| users >= max)
    }
}

/// Everything that a decision follows from but who asks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct World {
    pub(crate) policy: Arc<Policy>,
    /// Where `configRedirector` sends new sessions.
    pub(crate) redirect: Option<ServerId>,
    /// Every Blitz that is deployed, by id.
    pub(crate) blitzes: Vec<Candidate>,
}

/// What is known of whoever wants a session. All but the user is what the client says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The user's name.
    pub user: String,
    /// The group to work in; empty for the user's own.
    pub group: String,
    /// What the client calls itself.
    pub agent: String,
    /// The client's address.
    pub client: String,
    /// The Blitz that was reached, by the locator's load balancing; `None` for whoever asks the master.
    pub entry: Option<ServerId>,
}

/// Draws a number below the one given, which is never zero.
pub(crate) type Dice<'a> = &'a mut dyn FnMut(usize) -> usize;

/// What has been decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Open it here.
    Use(ServerId),
    /// Nobody takes it now; somebody may soon.
    Wait(String),
    /// Everybody who would take it has as many sessions as it may have, by what was last heard of these.
    Full(String, Vec<ServerId>),
}

/// A decision, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) decision: Decision,
    pub(crate) steps: Vec<String>,
}

/// Decides where a session goes. `tried` are Blitzes that just failed this creation; they are taken only where there is no other.
///
/// `turn` counts the decisions, for the round-robin policy.
pub(crate) fn decide(
    facts: &Facts,
    world: &World,
    tried: &[ServerId],
    turn: usize,
    dice: Dice<'_>,
) -> Verdict {
    let policy = &*world.policy;
    let redirect = world.redirect.as_ref();
    let mut steps = Vec::new();
    let (route, among) = confined(facts, world);
    match route {
        Some(route) => steps.push(format!("{route}: {}", names(&among))),
        None if policy.routes.is_empty() => {}
        None => steps.push("no route matches".to_owned()),
    }
    let of_route = |why: String| match route {
        Some(route) => format!("{why}, and {route} allows no other"),
        None => why,
    };
    let wait = |why: String, mut steps: Vec<String>| {
        steps.push(format!("wait: {why}"));
        Verdict {
            decision: Decision::Wait(why),
            steps,
        }
    };
    let accepting: Vec<&Candidate> = among.iter().copied().filter(|c| c.accepts).collect();
    if accepting.is_empty() {
        return wait(of_route(nobody(&among)), steps);
    }
    let (full, mut free): (Vec<_>, Vec<_>) = accepting.into_iter().partition(|c| c.is_full(policy));
    if !full.is_empty() {
        steps.push(format!("full (omero.grid.sessions.max): {}", names(&full)));
    }
    if free.is_empty() {
        let max = policy.max_sessions.unwrap_or_default();
        let why = of_route(format!(
            "{} have {max} sessions, the most they may have",
            names(&full)
        ));
        steps.push(format!("refuse: {why}"));
        return Verdict {
            decision: Decision::Full(why, full.into_iter().map(|c| c.id.clone()).collect()),
            steps,
        };
    }
    if free.iter().any(|c| !tried.contains(&c.id)) {
        free.retain(|c| !tried.contains(&c.id));
    }
    let chosen = match (policy.redirector, redirect) {
        (Redirector::Config, Some(redirect)) => {
            if let Some(target) = free.iter().find(|c| c.id == *redirect) {
                steps.push(format!("configRedirector: the redirect is {redirect}"));
                target
            } else if tried.contains(redirect) {
                // Whoever was with it when it went has waited enough.
                steps.push(format!(
                    "configRedirector: the redirect {redirect} has just failed"
                ));
                entry(facts, policy, &free, turn, dice, &mut steps)
            } else if among.iter().any(|c| c.id == *redirect && !c.accepts) {
                // It moves when the redirect's own rules say so; creations wait meanwhile.
                return wait(
                    format!("the redirect {redirect} does not accept sessions now"),
                    steps,
                );
            } else {
                steps.push(format!(
                    "configRedirector: the redirect {redirect} is not among them"
                ));
                entry(facts, policy, &free, turn, dice, &mut steps)
            }
        }
        (Redirector::Scale, _) => {
            let chosen = least(&free, dice);
            steps.push(format!(
                "scaleRedirector: {} has the least load ({} sessions, weight {})",
                chosen.id, chosen.sessions, chosen.weight
            ));
            chosen
        }
        (Redirector::Null | Redirector::Config, _) => {
            entry(facts, policy, &free, turn, dice, &mut steps)
        }
    };
    Verdict {
        decision: Decision::Use(chosen.id.clone()),
        steps,
    }
}

/// Returns the first routing rule that matches, and the Blitzes that it leaves; all of them without one.
fn confined<'w>(facts: &Facts, world: &'w World) -> (Option<&'w Route>, Vec<&'w Candidate>) {
    let policy = &*world.policy;
    let route = policy.routes.iter().find(|route| route.matches(facts));
    let takes = |c: &&Candidate| route.is_none_or(|route| route.takes(c, &policy.groups));
    (route, world.blitzes.iter().filter(takes).collect())
}

/// Returns the Blitzes that would take a session if they ran, where none of those that run takes it.
pub(crate) fn to_be_started<'w>(facts: &Facts, world: &'w World) -> Vec<&'w Candidate> {
    let (_, mut among) = confined(facts, world);
    let is_redirect = |c: &&Candidate| Some(&c.id) == world.redirect.as_ref();
    if world.policy.redirector == Redirector::Config && among.iter().any(is_redirect) {
        among.retain(is_redirect);
    }
    if among.iter().any(|c| c.accepts) {
        among.clear();
    }
    among.retain(|c| !c.put_away);
    among
}

/// Returns the entry: the Blitz that was reached, or a pick by the load balancing of the replica group that has most of the Blitzes.
fn entry<'c>(
    facts: &Facts,
    policy: &Policy,
    free: &[&'c Candidate],
    turn: usize,
    dice: Dice<'_>,
    steps: &mut Vec<String>,
) -> &'c Candidate {
    let reached = |c: &&&Candidate| Some(&c.id) == facts.entry.as_ref();
    if let Some(reached) = free.iter().find(reached) {
        steps.push(format!("entry: {}, which was reached", reached.id));
        return reached;
    }
    let implicit = Balancing::default();
    let mut groups: Vec<_> = policy
        .groups
        .iter()
        .map(|(name, group)| {
            let of_group = |id: &ServerId| free.iter().copied().find(|c| c.id == *id);
            let members: Vec<_> = group.servers.iter().filter_map(of_group).collect();
            (name.as_str(), &group.balancing, members)
        })
        .collect();
    groups.sort_by_key(|(.., members)| std::cmp::Reverse(members.len()));
    let (name, balancing, members) = match groups.into_iter().next() {
        Some((name, balancing, members)) if !members.is_empty() => (name, balancing, members),
        _ => ("no replica group", &implicit, free.to_vec()),
    };
    let chosen = balancing.pick(&members, turn, dice);
    let load = balancing.load_of(chosen);
    let load = load.map_or(String::new(), |load| format!(", load {load:.2}"));
    steps.push(format!(
        "entry: {} by {balancing} ({name}{load})",
        chosen.id
    ));
    chosen
}

/// Returns the Blitz with the least weighted load, or the better of two drawn where there are many. Ties are drawn.
fn least<'c>(free: &[&'c Candidate], dice: Dice<'_>) -> &'c Candidate {
    let mut drawn: Vec<&Candidate> = free.to_vec();
    if free.len() > HANDFUL {
        let first = dice(free.len());
        let second = (first + 1 + dice(free.len() - 1)) % free.len();
        drawn = vec![free[first], free[second]];
    }
    let smallest = drawn
        .iter()
        .map(|c| c.weighted())
        .fold(f64::INFINITY, f64::min);
    drawn.retain(|c| c.weighted() <= smallest);
    drawn[dice(drawn.len())]
}

fn nobody(among: &[&Candidate]) -> String {
    if among.is_empty() {
        return "there is no Blitz for it".to_owned();
    }
    let coming: Vec<_> = among.iter().copied().filter(|c| c.coming).collect();
    if coming.is_empty() {
        format!("none of {} accepts sessions", names(among))
    } else {
        format!("{} is on its way", names(&coming))
    }
}

fn names(candidates: &[&Candidate]) -> String {
    let names: Vec<_> = candidates.iter().map(|c| c.id.as_str()).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
