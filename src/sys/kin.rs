//! The kin of a process: all that it has started, wherever that went.
//!
//! A process group can be left, a session and a parent too. What stays is the environment, so that a variable in it is the surest
//! sign; a process that has changed its environment is known by its group, by those it descends from, or by where it writes. Only
//! one that has done away with all of these is not found.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{self, FileId, Stat, Table};

/// Looks in a row that find nobody new before all are taken to be stopped.
const QUIET: u32 = 3;

/// How the processes that belong together are recognised.
#[derive(Debug)]
pub struct Kin {
    /// A variable that each got with its environment.
    pub variable: &'static str,
    /// The variable's value.
    pub value: String,
    /// The first of them, which began its own process group: pid and start time.
    pub leader: (u32, u64),
    /// Files or pipes that their output goes to, and nobody else's.
    pub outputs: Vec<FileId>,
}

impl Kin {
    /// Returns those that live, the first among them, in no order.
    pub fn find(&self) -> io::Result<Vec<Stat>> {
        let table = Table::read()?;
        let me = std::process::id();
        let (leader, start_time) = self.leader;
        // The group's number is taken while it has members; if another process has it, the group is gone.
        let group_is_ours = table
            .get(leader)
            .is_none_or(|stat| stat.start_time == start_time);
        let roots: Vec<u32> = table
            .iter()
            .filter(|stat| {
                (group_is_ours && (stat.pid == leader || stat.group == leader))
                    || (stat.is_alive() && self.is_marked(stat.pid))
            })
            .map(|stat| stat.pid)
            .filter(|pid| *pid != me)
            .collect();
        let mut all = table.with_descendants(roots);
        all.remove(&me);
        Ok(all
            .into_iter()
            .filter_map(|pid| table.get(pid).copied())
            .filter(Stat::is_alive)
            .collect())
    }

    fn is_marked(&self, pid: u32) -> bool {
        process::environment_variable(pid, self.variable)
            .is_some_and(|value| value == self.value.as_bytes())
            || process::writes_to(pid, &self.outputs)
    }

    /// Ends them all by force; returns whether that was done within `patience`. Blocks.
    ///
    /// They are stopped first, so that none starts another one while it is being looked for. Where one still can, because it lives
    /// for less time than a look takes, `gone` knows better: it says whether nobody is left, and may wait a little for that.
    pub fn end(
        &self,
        patience: Duration,
        mut gone: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<bool> {
        let until = Instant::now() + patience;
        loop {
            self.stop(until)?;
            let mut handles = Vec::new();
            for stat in &self.find()? {
                if let Some(handle) = open(stat)? {
                    send(&handle, Signal::KILL)?;
                    handles.push(handle);
                }
            }
            for handle in &handles {
                wait(handle, until)?;
            }
            if self.find()?.is_empty() && gone()? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }

    /// Stops them all, until several looks in a row have found nobody new.
    fn stop(&self, until: Instant) -> io::Result<()> {
        let mut stopped = HashSet::new();
        let mut quiet = 0;
        while quiet < QUIET && Instant::now() < until {
            let mut news = false;
            let mut halt = |stat: &Stat| -> io::Result<()> {
                // What was stopped once is: nobody but us continues it.
                if stopped.insert((stat.pid, stat.start_time)) {
                    news = true;
                    if let Some(handle) = open(stat)? {
                        send(&handle, Signal::STOP)?;
                    }
                }
                Ok(())
            };
            // The newest first and each at once: of those that start the next and end, one has to be met while it lives.
            for pid in process::pids()?.into_iter().rev() {
                if let Some(stat) = process::stat(pid).filter(|stat| self.is_one(stat)) {
                    halt(&stat)?;
                }
            }
            for stat in &self.find()? {
                halt(stat)?;
            }
            quiet = if news { 0 } else { quiet + 1 };
        }
        Ok(())
    }

    /// Returns whether a process is one of them by itself, whatever it descends from.
    fn is_one(&self, stat: &Stat) -> bool {
        let (leader, start_time) = self.leader;
        let is_leader = stat.pid == leader && stat.start_time == start_time;
        stat.pid != std::process::id() && stat.is_alive() && (is_leader || self.is_marked(stat.pid))
    }
}

/// Opens a process for signals; `None` if it is gone.
fn open(stat: &Stat) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(stat.pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Looked at after it is open: from here on the pid cannot mean another process unseen.
    let same = process::stat(stat.pid)
        .is_some_and(|now| now.start_time == stat.start_time && now.is_alive());
    Ok(same.then_some(handle))
}

fn send(handle: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(handle, signal) {
        // One that changed its user is not ours to end; it is found again, until patience ends.
        Ok(()) | Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a process has ended, or until that time.
fn wait(handle: &OwnedFd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::sys::spawn::Spawn;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Runs a shell script, and returns how its processes are recognised.
    fn run(script: &str, outputs: Vec<FileId>, out: Option<&OwnedFd>) -> (u32, Kin) {
        let value = uuid::Uuid::new_v4().to_string();
        let env = [
            ("OMERO_GRID_TEST_KIN".into(), OsString::from(&value)),
            ("PATH".into(), "/bin:/usr/bin".into()),
        ];
        let args = ["-c", script].map(OsString::from);
        let spawn = Spawn {
            new_session: true,
            stdout: out,
            ..Spawn::new("/bin/sh", &args, &env, "/")
        };
        let pid = spawn.start().unwrap();
        let leader = (pid, process::stat(pid).unwrap().start_time);
        let kin = Kin {
            variable: "OMERO_GRID_TEST_KIN",
            value,
            leader,
            outputs,
        };
        (pid, kin)
    }

    fn reap(pid: u32) {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::sys::wait::waitpid(pid, None).unwrap();
    }

    /// Waits for a line of what the processes write.
    fn line(out: &mut std::io::PipeReader) {
        let mut byte = [0];
        while byte != [b'\n'] {
            std::io::Read::read_exact(out, &mut byte).unwrap();
        }
    }

    #[test]
    fn whoever_left_group_session_parent_or_environment_is_found_and_ended() {
        let _alone = crate::sys::reaper::ALONE.blocking_lock();
        let ways = [
            "trap '' TERM; echo up; while :; do sleep 1; done",
            "setsid sh -c 'echo up; sleep 1000' & wait",
            "(setsid sh -c '(echo up; exec sleep 1000) &' &) ; exit 0",
            "setsid env -i /bin/sh -c '(echo up; exec /bin/sleep 1000) &' & wait",
            "env -i /bin/sh -c 'echo up; exec /bin/sleep 1000 >&- 2>&-' & exit 0",
        ];
        for way in ways {
            let (mut read, write) = std::io::pipe().unwrap();
            let write = OwnedFd::from(write);
            let output = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&write));
            let output = FileId::of(std::path::Path::new(&output)).unwrap();
            let (pid, kin) = run(way, vec![output], Some(&write));
            drop(write);
            line(&mut read);
            assert!(!kin.find().unwrap().is_empty(), "{way}");
            assert!(kin.end(PATIENCE, || Ok(true)).unwrap(), "{way}");
            reap(pid);
            assert_eq!(kin.find().unwrap(), [], "{way}");
            let mut rest = Vec::new();
            std::io::Read::read_to_end(&mut read, &mut rest).unwrap();
        }
    }

    #[test]
    fn those_who_fork_all_the_time_are_ended_too() {
        let _alone = crate::sys::reaper::ALONE.blocking_lock();
        let (mut read, write) = std::io::pipe().unwrap();
        let write = OwnedFd::from(write);
        // Two chains of processes that each start the next in a new session and end; not for ever, should this fail.
        let link = "[ $2 -gt 0 ] && setsid sh -c \"$1\" sh \"$1\" $(($2 - 1)) &";
        let script =
            format!("echo up; for n in 1 2; do sh -c '{link}' sh '{link}' 20000 & done; wait");
        let (pid, kin) = run(&script, Vec::new(), Some(&write));
        drop(write);
        line(&mut read);
        // The pipe ends when nobody is left to write into it.
        let moment = Timespec::try_from(Duration::from_millis(20)).unwrap();
        let gone = || {
            let mut end = [PollFd::new(&read, PollFlags::empty())];
            Ok(poll(&mut end, Some(&moment))? > 0)
        };
        assert!(kin.end(PATIENCE, gone).unwrap());
        reap(pid);
        assert_eq!(kin.find().unwrap(), []);
        assert!(gone().unwrap());
    }

    #[test]
    fn strangers_are_left_alone() {
        let _alone = crate::sys::reaper::ALONE.blocking_lock();
        let (pid, kin) = run("exec sleep 1000", Vec::new(), None);
        let (other, others) = run("exec sleep 1000", Vec::new(), None);
        assert!(kin.end(PATIENCE, || Ok(true)).unwrap());
        reap(pid);
        assert_eq!(others.find().unwrap().len(), 1);
        assert!(others.end(PATIENCE, || Ok(true)).unwrap());
        reap(other);
    }
}
