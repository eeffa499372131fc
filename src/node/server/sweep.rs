//! Finding and ending everything that belongs to a run of a server, wherever it went.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tracing::{debug, warn};

use crate::sys::marks::MARK;
use crate::sys::process::{self, FileId, PidFd, Stat, Table};
use crate::sys::reaper::Reaper;

/// How long processes may take to end after they were killed before they are looked for again.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// How a run's processes are recognised.
#[derive(Debug, Clone)]
pub(crate) struct Belongings {
    /// The value of [`MARK`].
    pub(crate) mark: String,
    /// The main process: pid and start time; `None` if it was never known.
    pub(crate) leader: Option<(u32, u64)>,
    /// The server's logs.
    pub(crate) logs: Vec<FileId>,
    /// Those that were recognised before: pid and start time.
    pub(crate) known: HashSet<(u32, u64)>,
    /// Those among them that were asked to end.
    pub(crate) asked: HashSet<(u32, u64)>,
}

impl Belongings {
    /// Returns all living processes of the run but its main process, and remembers them.
    pub(crate) fn find(&mut self, reaper: &Reaper) -> io::Result<Vec<Stat>> {
        let table = Table::read()?;
        let me = std::process::id();
        let leader = self.leader;
        let identity = |stat: &Stat| (stat.pid, stat.start_time);
        let group = leader.filter(|(pid, start_time)| {
            // A group keeps its number taken; a process of that number with another start means that ours is gone.
            table
                .get(*pid)
                .is_none_or(|stat| stat.start_time == *start_time)
        });
        let mut roots = Vec::new();
        for stat in table.iter().filter(|stat| stat.pid != me) {
            let ours = leader == Some(identity(stat))
                || group.is_some_and(|(pid, _)| stat.group == pid)
                || self.known.contains(&identity(stat))
                || (stat.is_alive() && self.is_marked(stat.pid))
                || (stat.parent == me
                    && !reaper.owns(stat.pid)
                    && process::writes_to(stat.pid, &self.logs));
            if ours {
                roots.push(stat.pid);
            }
        }
        let mut all = table.with_descendants(roots);
        all.remove(&me);
        let found: Vec<Stat> = all
            .into_iter()
            .filter_map(|pid| table.get(pid).copied())
            .filter(|stat| stat.is_alive() && leader != Some(identity(stat)))
            .collect();
        self.known = found.iter().map(identity).collect();
        Ok(found)
    }

    /// Returns whether a process is one of the run's: its main process or any other.
    pub(crate) fn includes(&mut self, pid: u32, reaper: &Reaper) -> bool {
        let is_leader = self.leader.is_some_and(|(leader, _)| leader == pid);
        is_leader
            || self.is_marked(pid)
            || self
                .find(reaper)
                .is_ok_and(|found| found.iter().any(|stat| stat.pid == pid))
    }

    fn is_marked(&self, pid: u32) -> bool {
        process::environment_variable(pid, MARK).is_some_and(|value| value == self.mark.as_bytes())
    }

    /// Asks everything outside the main process's group to end, once; the group is told by its own signal.
    pub(crate) fn ask_outsiders(&mut self, reaper: &Reaper) -> io::Result<()> {
        let group = self.leader.map(|(pid, _)| pid);
        for stat in self.find(reaper)? {
            if Some(stat.group) != group {
                send(&stat, Signal::SIGTERM)?;
            }
            self.asked.insert((stat.pid, stat.start_time));
        }
        Ok(())
    }

    /// Makes everything but the main process end, now.
    pub(crate) fn kill(&mut self, reaper: &Reaper) -> io::Result<()> {
        for stat in self.find(reaper)? {
            send(&stat, Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Ends everything that is left after the main process, at `until` by force; returns when nothing is left.
    pub(crate) async fn sweep(mut self, reaper: Reaper, until: Instant) {
        loop {
            let left = match self.find(&reaper) {
                Ok(left) if left.is_empty() => return,
                Ok(left) => left,
                Err(error) => {
                    warn!(%error, "cannot look for what a server left behind");
                    return;
                }
            };
            let now = crate::sys::clock::now().instant;
            let force = now >= until;
            debug!(left = left.len(), force, mark = ?self.mark, "ends what a server left behind");
            let mut handles = Vec::new();
            for stat in &left {
                let first = self.asked.insert((stat.pid, stat.start_time));
                // One that is gone meanwhile is not there to be opened.
                let Ok(Some(handle)) = PidFd::open(stat.pid, stat.start_time) else {
                    continue;
                };
                let sent = if force {
                    handle.signal(Signal::SIGKILL)
                } else if first {
                    handle.signal(Signal::SIGTERM)
                } else {
                    Ok(())
                };
                if let Err(error) = sent {
                    warn!(%error, pid = stat.pid, "cannot end what a server left behind");
                }
                handles.push(handle);
            }
            let ended = async {
                for handle in &handles {
                    // An error would come again at once; the deadline bounds it.
                    if handle.ended().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let deadline = if force { now + AFTER_KILL } else { until };
            let _ = tokio::time::timeout_at(deadline.into(), ended).await;
        }
    }
}

fn send(stat: &Stat, signal: Signal) -> io::Result<()> {
    match PidFd::open(stat.pid, stat.start_time)? {
        Some(handle) => handle.signal(signal),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::sys::spawn::Spawn;

    #[tokio::test]
    async fn nothing_is_left_not_even_a_session_of_its_own() {
        let _alone = crate::sys::reaper::ALONE.lock().await;
        let (reaper, _task) = Reaper::start().unwrap();
        let mark = format!("/grid/S/{}", std::process::id());
        let env = [
            (OsString::from(MARK), OsString::from(&mark)),
            ("PATH".into(), "/bin:/usr/bin".into()),
        ];
        let script = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & sleep 0.1; exit 3";
        let args = ["-c", script].map(OsString::from);
        let child = reaper
            .spawn(&Spawn::new("/bin/sh", &args, &env, "/"))
            .unwrap();
        let mut belongings = Belongings {
            mark,
            leader: Some((child.pid, child.start_time)),
            logs: Vec::new(),
            known: HashSet::new(),
            asked: HashSet::new(),
        };
        child.exit.await.unwrap();
        assert!(!belongings.find(&reaper).unwrap().is_empty());
        let until = Instant::now() + Duration::from_millis(100);
        belongings.clone().sweep(reaper.clone(), until).await;
        assert!(belongings.find(&reaper).unwrap().is_empty());
        assert!(Instant::now() >= until, "it ignores TERM");
    }
}
