//! Tells systemd how the start goes, that the grid serves, and that its master is alive (sd_notify(3)).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use super::shared::{Shared, Snapshot};
use crate::sys::notify;

/// While it starts or stops, systemd is asked for this much more time …
const EXTENSION: Duration = Duration::from_secs(30);

/// … this often.
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// Notifies until it is dropped. Does nothing where no `NOTIFY_SOCKET` is set.
///
/// More time to start is asked for until `wait` has passed since the start.
pub(crate) async fn run(shared: Arc<Shared>, wait: Duration) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let notify = |text: &str| {
        if let Err(error) = notify::send(&socket, text) {
            warn!(%error, "cannot notify systemd");
        }
    };
    let begun = Instant::now();
    let mut snapshots = shared.snapshot.subscribe();
    let mut watchdog = watchdog().map(|limit| tokio::time::interval(limit / 2));
    let mut extend = tokio::time::interval(EXTEND_EVERY);
    extend.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ready = false;
    let mut stopping = false;
    let mut said = String::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if snapshot.revision > 0 {
            if snapshot.status.stopping && !stopping {
                stopping = true;
                extend.reset_immediately();
                notify("STOPPING=1\n");
            }
            if !ready && !stopping && snapshot.status.missing.is_empty() {
                ready = true;
                notify("READY=1\n");
            }
            let text = in_words(&snapshot, ready);
            if text != said {
                notify(&format!("STATUS={text}\n"));
                said = text;
            }
        }
        let extending = stopping || (!ready && begun.elapsed() < wait);
        // Cancel safe: watches and intervals lose nothing.
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            _ = extend.tick(), if extending => notify(&format!("EXTEND_TIMEOUT_USEC={}\n", EXTENSION.as_micros())),
            () = tick(&mut watchdog) => notify("WATCHDOG=1\n"),
        }
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn in_words(snapshot: &Snapshot, ready: bool) -> String {
    let status = &snapshot.status;
    let missing: Vec<_> = status.missing.iter().map(|id| id.as_str()).collect();
    let active = status
        .nodes
        .iter()
        .flat_map(|node| &node.servers)
        .filter(|s| s.pid.is_some())
        .count();
    if status.stopping {
        format!("stopping; servers left: {active}")
    } else if missing.is_empty() {
        let nodes = status.nodes.iter().filter(|n| n.pid.is_some()).count();
        format!("serving; servers: {active}, nodes: {nodes}")
    } else if ready {
        format!("not active: {}", missing.join(", "))
    } else {
        format!("starting; waiting for {}", missing.join(", "))
    }
}

/// Returns the time within which systemd wants to hear of this process (`WATCHDOG_USEC`), if it does.
fn watchdog() -> Option<Duration> {
    let value = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let for_us = value("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let limit = value("WATCHDOG_USEC").filter(|usec| *usec > 0 && for_us)?;
    Some(Duration::from_micros(limit))
}
