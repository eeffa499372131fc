//! The one owner of all waiting for children.
//!
//! An exit is first looked at (`WNOWAIT`), told to whoever started the child, and only then reaped, so that a pid stays
//! taken until its owner can know. Children that nobody here started (orphans that came to a subreaper) are reaped too.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc;
use signal_hook::consts::SIGCHLD;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{error, trace};

use super::process;
use super::signals::drain;
use super::spawn::{Spawn, SpawnError};
use crate::model::ExitStatus;

type Waiting = HashMap<u32, oneshot::Sender<ExitStatus>>;

/// Starts children and tells how they end; cheap to clone. There is one per process.
#[derive(Debug, Clone)]
pub struct Reaper {
    /// Held while a child is started and entered, so that none is reaped before it is known.
    waiting: Arc<Mutex<Waiting>>,
    /// Children of the program before this one in the same process, that nobody has asked for yet.
    inherited: Arc<Mutex<HashMap<u32, oneshot::Receiver<ExitStatus>>>>,
}

/// A child of this process.
#[derive(Debug)]
pub struct Child {
    /// Its pid; it is the leader of its process group.
    pub pid: u32,
    /// When it was started, in clock ticks since the machine was.
    pub start_time: u64,
    /// Tells how it ended.
    pub exit: oneshot::Receiver<ExitStatus>,
}

impl Reaper {
    /// Begins to reap. Needs a running runtime; the task ends with it.
    pub fn start() -> io::Result<(Self, JoinHandle<()>)> {
        Self::start_with([])
    }

    /// Begins to reap, children that the program before this one in the same process has started among them.
    pub fn start_with(
        children: impl IntoIterator<Item = u32>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (read, write) = StdStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, write)?;
        let stream = UnixStream::from_std(read)?;
        let reaper = Self {
            waiting: Arc::default(),
            inherited: Arc::default(),
        };
        for pid in children {
            // What is no child of this process any more is never told of, and so not entered.
            if process::stat(pid).is_some_and(|stat| stat.parent == std::process::id()) {
                let (tell, exit) = oneshot::channel();
                reaper.lock().insert(pid, tell);
                reaper.inherited().insert(pid, exit);
            }
        }
        let task = tokio::spawn(reaper.clone().run(stream));
        Ok((reaper, task))
    }

    /// Starts a child.
    pub fn spawn(&self, spawn: &Spawn<'_>) -> Result<Child, SpawnError> {
        let mut waiting = self.lock();
        let pid = spawn.start()?;
        let (tell, exit) = oneshot::channel();
        waiting.insert(pid, tell);
        // Not reaped yet, so that it is there, be it as a zombie.
        let start_time = process::stat(pid).map_or(0, |stat| stat.start_time);
        Ok(Child {
            pid,
            start_time,
            exit,
        })
    }

    /// Sends a signal to the process group of a child, unless it has been reaped. Returns whether it was sent.
    pub fn signal_group(&self, pid: u32, signal: i32) -> io::Result<bool> {
        let waiting = self.lock();
        if !waiting.contains_key(&pid) {
            return Ok(false);
        }
        process::signal_group(pid, signal).map(|()| true)
    }

    /// Returns whether `pid` is a child that was started here and has not been reaped.
    pub fn owns(&self, pid: u32) -> bool {
        self.lock().contains_key(&pid)
    }

    /// Returns what tells how an inherited child ends or has ended; once for each.
    pub fn take_inherited(&self, pid: u32) -> Option<oneshot::Receiver<ExitStatus>> {
        self.inherited().remove(&pid)
    }

    fn inherited(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Receiver<ExitStatus>>> {
        self.inherited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, stream: UnixStream) {
        loop {
            // Once before the first wait too: a child may have ended before the handler was there.
            self.reap_all();
            let woken = match stream.readable().await {
                Ok(()) => drain(&stream),
                Err(error) => Err(error),
            };
            if let Err(error) = woken {
                error!(%error, "cannot wait for children any more");
                return;
            }
        }
    }

    fn reap_all(&self) {
        loop {
            let mut waiting = self.lock();
            let Some((pid, exit)) = wait_any(libc::P_ALL, 0, libc::WNOWAIT) else {
                return;
            };
            trace!(pid, %exit, "reaped");
            if let Some(tell) = waiting.remove(&pid) {
                // Nobody may care any more.
                let _ = tell.send(exit);
            }
            if wait_any(libc::P_PID, pid, 0).is_none() {
                return;
            }
        }
    }
}

/// Returns a child that has ended, if there is one, and how it ended (waitid(2)).
///
/// Not through the safe wrappers: one does not say which child it was, the other fails for real-time signals.
fn wait_any(kind: libc::idtype_t, pid: u32, flags: i32) -> Option<(u32, ExitStatus)> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | flags;
    loop {
        // SAFETY: `info` is valid for writes of a `siginfo_t`, which is all that waitid does with it.
        let result = unsafe { libc::waitid(kind, pid, info.as_mut_ptr(), flags) };
        match Errno::result(result) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            // ECHILD: no children at all.
            Err(_) => return None,
        }
    }
    // SAFETY: all zeroes are a `siginfo_t`; where a child has ended the kernel has filled in the variant of SIGCHLD, and
    // where none has, the pid reads as zero.
    let (code, pid, status) = unsafe {
        let info = info.assume_init();
        (info.si_code, info.si_pid(), info.si_status())
    };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0)?;
    let exit = match code {
        libc::CLD_EXITED => ExitStatus::Code(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => ExitStatus::Signal(status),
        _ => ExitStatus::Unknown,
    };
    Some((pid, exit))
}

/// Held by each test that has children: there is one reaper per process, and tests share one.
#[cfg(test)]
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[tokio::test]
    async fn every_exit_is_told_also_one_that_comes_at_once() {
        let _alone = ALONE.lock().await;
        let (reaper, _task) = Reaper::start().unwrap();
        let env = [];
        let mut children = Vec::new();
        for code in 0..20 {
            let args = [OsString::from("-c"), OsString::from(format!("exit {code}"))];
            let spawn = Spawn::new("/bin/sh", &args, &env, "/");
            children.push((code, reaper.spawn(&spawn).unwrap()));
        }
        for (code, child) in children {
            assert_eq!(child.exit.await.unwrap(), ExitStatus::Code(code));
            assert!(!reaper.owns(child.pid));
        }
        let args = [OsString::from("-c"), OsString::from("sleep 100 & wait")];
        let child = reaper
            .spawn(&Spawn::new(
                "/bin/sh",
                &args,
                &[("PATH".into(), "/bin:/usr/bin".into())],
                "/",
            ))
            .unwrap();
        assert!(reaper.signal_group(child.pid, 9).unwrap());
        assert_eq!(child.exit.await.unwrap(), ExitStatus::Signal(9));
        assert!(!reaper.signal_group(child.pid, 9).unwrap());
    }
}
