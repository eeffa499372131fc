//! The load balancing of a replica group, as IceGrid defines it. Pure.
//!
//! IceGrid's registry answers a look-up with at most *n-replicas* adapters in the order of the policy, and the client connects to one
//! of these at random. So does the entry of a session.

use std::fmt;

use super::{Candidate, Dice};
use crate::descriptor::{LoadBalancing, LoadBalancingPolicy};

/// The smallest difference of loads that counts: below it hosts are alike, and sessions decide.
const ALIKE: f64 = 0.25;

/// How one of several Blitzes is picked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Balancing {
    policy: LoadBalancingPolicy,
    /// Which of the three load averages counts.
    sample: usize,
    /// How many are offered; all if zero.
    replicas: usize,
}

impl Default for Balancing {
    /// The balancing of Blitzes that are in no replica group: the least loaded.
    fn default() -> Self {
        Self {
            policy: LoadBalancingPolicy::Adaptive,
            sample: 0,
            replicas: 1,
        }
    }
}

impl From<&LoadBalancing> for Balancing {
    /// Reads what the descriptor says; what is not valid has been refused when it was loaded.
    fn from(described: &LoadBalancing) -> Self {
        Self {
            policy: described.policy,
            sample: match described.load_sample.as_deref() {
                Some("5") => 1,
                Some("15") => 2,
                _ => 0,
            },
            replicas: described.n_replicas.trim().parse().unwrap_or(1),
        }
    }
}

impl Balancing {
    /// Picks one of the Blitzes, of which there is at least one; they come in the order of their adapters' priorities.
    pub(crate) fn pick<'c>(
        &self,
        members: &[&'c Candidate],
        turn: usize,
        dice: Dice<'_>,
    ) -> &'c Candidate {
        let mut order = members.to_vec();
        match self.policy {
            LoadBalancingPolicy::Ordered => {}
            LoadBalancingPolicy::RoundRobin => order.rotate_left(turn % members.len()),
            LoadBalancingPolicy::Random => shuffle(&mut order, dice),
            LoadBalancingPolicy::Adaptive => {
                shuffle(&mut order, dice);
                order.sort_by(|a, b| {
                    self.key(a)
                        .total_cmp(&self.key(b))
                        .then_with(|| a.weighted().total_cmp(&b.weighted()))
                });
            }
        }
        let offered = match self.replicas {
            0 => order.len(),
            n => n.min(order.len()),
        };
        // Of an ordered list a client takes the first that answers.
        match self.policy {
            LoadBalancingPolicy::Ordered | LoadBalancingPolicy::RoundRobin => order[0],
            LoadBalancingPolicy::Random | LoadBalancingPolicy::Adaptive => order[dice(offered)],
        }
    }

    /// Returns whether it depends on how busy the hosts are.
    pub(crate) fn is_adaptive(&self) -> bool {
        self.policy == LoadBalancingPolicy::Adaptive
    }

    /// Returns the load that counts; none where it does not matter.
    pub(crate) fn load_of(&self, candidate: &Candidate) -> Option<f64> {
        self.is_adaptive().then(|| candidate.load[self.sample])
    }

    fn key(&self, candidate: &Candidate) -> f64 {
        (candidate.load[self.sample] / ALIKE).floor()
    }
}

fn shuffle(order: &mut [&Candidate], dice: Dice<'_>) {
    for last in (1..order.len()).rev() {
        order.swap(last, dice(last + 1));
    }
}

impl fmt::Display for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy {
            LoadBalancingPolicy::Random => f.write_str("random")?,
            LoadBalancingPolicy::RoundRobin => f.write_str("round-robin")?,
            LoadBalancingPolicy::Ordered => f.write_str("ordered")?,
            LoadBalancingPolicy::Adaptive => {
                write!(f, "adaptive, load of {} min", [1, 5, 15][self.sample])?;
            }
        }
        match self.replicas {
            0 => f.write_str(", all replicas"),
            1 => Ok(()),
            n => write!(f, ", {n} replicas"),
        }
    }
}
