//! How busy the hosts are, for the adaptive entry.
//!
//! A load average is no event: it can only be sampled. So it is asked for when a session is to be placed by it and the last answer is
//! older than [`FRESH`]; a grid where nobody logs in asks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::allocation::{Candidate, World};
use super::shared::Shared;
use crate::ipc::message::node::{Reply, Request};
use crate::model::NodeName;
use crate::sys::host::Load;

/// For how long an answer holds: the kernel computes the averages this often.
const FRESH: Duration = Duration::from_secs(5);

/// How long a node may take to answer. One that is slower keeps the figures that it had.
const PATIENCE: Duration = Duration::from_millis(100);

/// The last answers of the nodes.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    /// When the nodes were asked. Locked while they are: whoever comes meanwhile waits for the same answers.
    asked: tokio::sync::Mutex<Option<Instant>>,
    known: Mutex<BTreeMap<NodeName, Load>>,
}

impl Loads {
    /// Asks the nodes of the Blitzes how busy their hosts are, where that matters and is not known.
    pub(crate) async fn refresh(&self, shared: &Arc<Shared>, world: &World) {
        if world.blitzes.len() < 2 || !world.policy.asks_for_load() {
            return;
        }
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let nodes: BTreeSet<&NodeName> = world.blitzes.iter().map(|blitz| &blitz.node).collect();
        let mut calls = JoinSet::new();
        for node in nodes.into_iter().cloned() {
            if let Some(link) = shared.link(&node) {
                calls.spawn(async move {
                    let call = link.client.call(&Request::Load);
                    match tokio::time::timeout(PATIENCE, call).await {
                        Ok(Ok(Reply::Load { averages, cpus })) => {
                            Some((node, Load { averages, cpus }))
                        }
                        // Lost, slow, or older than this question.
                        Ok(_) | Err(_) => None,
                    }
                });
            }
        }
        let answers = calls.join_all().await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|node, _| world.blitzes.iter().any(|blitz| blitz.node == *node));
        known.extend(answers.into_iter().flatten());
        *asked = Some(Instant::now());
    }

    /// Fills in what is known of the hosts.
    pub(crate) fn fill_in(&self, blitzes: &mut [Candidate]) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for blitz in blitzes {
            if let Some(load) = known.get(&blitz.node) {
                blitz.load = weighed(load, blitz.load_factor);
            }
        }
    }
}

/// Multiplies the averages by the node's factor, or divides them among the processors, as IceGrid does.
fn weighed(load: &Load, factor: Option<f64>) -> [f64; 3] {
    let factor = factor.unwrap_or_else(|| 1.0 / f64::from(load.cpus.max(1)));
    load.averages.map(|average| average * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_shared_by_the_processors_unless_the_descriptor_says_otherwise() {
        let load = Load {
            averages: [4.0, 2.0, 1.0],
            cpus: 4,
        };
        assert_eq!(weighed(&load, None), [1.0, 0.5, 0.25]);
        assert_eq!(weighed(&load, Some(0.5)), [2.0, 1.0, 0.5]);
    }
}
