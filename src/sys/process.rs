//! Processes: what `/proc` says of them, who they are, and how to end them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::readable::readable;

/// The most of a process's environment that is looked at, in bytes (the kernel's own limit is of this order).
const MAX_ENVIRON: u64 = 4 * 1024 * 1024;

/// What `/proc/PID/stat` says of a process (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stat {
    /// Its id.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its state: `R`, `S`, `Z` …
    pub state: char,
    /// When it was started, in clock ticks since the machine was.
    pub start_time: u64,
}

impl Stat {
    /// Returns whether it can still do anything: a zombie cannot.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Returns whether a signal or a debugger has stopped it.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Reads what the kernel says of a process; `None` if there is none.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The program's name is in parentheses and may hold any character, `)` too.
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let number = |text: &str| text.parse().ok();
    let pid = number(str::from_utf8(bytes.get(..open)?).ok()?.trim())?;
    let mut rest = str::from_utf8(bytes.get(close + 1..)?)
        .ok()?
        .split_ascii_whitespace();
    let state = rest.next()?.chars().next()?;
    let parent = number(rest.next()?)?;
    let group = number(rest.next()?)?;
    // Field 22 of the line; the group was field 5.
    let start_time = rest.nth(16)?.parse().ok()?;
    Some(Stat {
        pid,
        parent,
        group,
        state,
        start_time,
    })
}

/// Returns the ids of all processes, the kernel's order kept: rising, which with rare exceptions is that of their starts.
pub fn pids() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// Every process that can be seen, as of about now.
#[derive(Debug, Clone, Default)]
pub struct Table(HashMap<u32, Stat>);

impl Table {
    /// Reads the whole of `/proc`.
    pub fn read() -> io::Result<Self> {
        Ok(pids()?.into_iter().filter_map(stat).collect())
    }

    /// Returns one of them.
    pub fn get(&self, pid: u32) -> Option<&Stat> {
        self.0.get(&pid)
    }

    /// Returns them all.
    pub fn iter(&self) -> impl Iterator<Item = &Stat> {
        self.0.values()
    }

    /// Returns `roots`, as far as they are there, and all that descend from them.
    pub fn with_descendants(&self, roots: impl IntoIterator<Item = u32>) -> HashSet<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for stat in self.0.values() {
            children.entry(stat.parent).or_default().push(stat.pid);
        }
        let mut found = HashSet::new();
        let mut todo: Vec<u32> = roots
            .into_iter()
            .filter(|p| self.0.contains_key(p))
            .collect();
        while let Some(pid) = todo.pop() {
            if found.insert(pid)
                && let Some(children) = children.get(&pid)
            {
                todo.extend(children);
            }
        }
        found
    }
}

impl FromIterator<Stat> for Table {
    fn from_iter<I: IntoIterator<Item = Stat>>(stats: I) -> Self {
        Self(stats.into_iter().map(|stat| (stat.pid, stat)).collect())
    }
}

/// Returns the value of the first variable `name` that a process was started with.
///
/// `None` too if there is no such process or its environment may not be seen.
pub fn environment_variable(pid: u32, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/environ"))
        .ok()?
        .take(MAX_ENVIRON)
        .read_to_end(&mut bytes)
        .ok()?;
    bytes
        .split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .map(<[u8]>::to_vec)
}

/// Returns whether the standard output or error of a process is one of these files.
pub fn writes_to(pid: u32, files: &[FileId]) -> bool {
    [1, 2].iter().any(|fd| {
        fs::metadata(format!("/proc/{pid}/fd/{fd}"))
            .is_ok_and(|metadata| files.contains(&FileId(metadata.dev(), metadata.ino())))
    })
}

/// Which file it is, whatever it is called: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(u64, u64);

impl FileId {
    /// Returns which file is at `path`.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self(metadata.dev(), metadata.ino()))
    }
}

/// Returns the id of this start of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Which process it is, for ever: a pid alone is given to others later.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The start of the machine.
    pub boot_id: String,
    /// The kernel's number of it.
    pub pid: u32,
    /// When it was started, in clock ticks since the machine was.
    pub start_time: u64,
}

impl ProcessId {
    /// Returns the identity of the process that has `pid` now; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            boot_id: boot_id().ok()?,
            pid,
            start_time: stat(pid)?.start_time,
        })
    }

    /// Returns whether this very process is there and alive; a zombie is dead.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time && stat.is_alive())
            && boot_id().is_ok_and(|boot_id| boot_id == self.boot_id)
    }
}

/// Keeps orphaned descendants of this process its own: they get it as their parent (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub fn become_subreaper() -> io::Result<()> {
    // Any process id means yes.
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// A handle on one process, whoever its parent is (pidfd_open(2)).
#[derive(Debug)]
pub struct PidFd {
    fd: AsyncFd<OwnedFd>,
    pid: u32,
}

impl PidFd {
    /// Opens the process that has this pid now; `None` if there is none or it cannot be opened.
    pub fn of(pid: u32) -> Option<Self> {
        Self::open(pid, stat(pid)?.start_time).ok().flatten()
    }

    /// Opens the process that has this pid and start time; `None` if it is gone. Needs a running runtime.
    pub fn open(pid: u32, start_time: u64) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match rustix::process::pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after it is open: from here on the pid cannot mean another process unseen.
        if !stat(pid).is_some_and(|stat| stat.start_time == start_time && stat.is_alive()) {
            return Ok(None);
        }
        let fd = readable(fd)?;
        Ok(Some(Self { fd, pid }))
    }

    /// Returns the pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the process has ended. Cancel safe.
    pub async fn ended(&self) -> io::Result<()> {
        // Stays readable for good, so the readiness is never cleared.
        self.fd.readable().await.map(drop)
    }

    /// Sends a signal to the process; one that has ended is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        match rustix::process::pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sends a signal to a process group; one that is gone is no error.
///
/// The caller knows that the group's leader has not been reaped, or the number may mean another group by now.
pub fn signal_group(leader: u32, signal: i32) -> io::Result<()> {
    // 0 and 1 would mean one's own group and everybody.
    let Some(raw) = i32::try_from(leader).ok().filter(|raw| *raw > 1) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: killpg takes two numbers and touches no memory; real-time signals have no name in the safe wrapper.
    let result = nix::errno::Errno::result(unsafe { nix::libc::killpg(raw, signal) });
    match result {
        Ok(_) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_whatever_the_program_is_called() {
        let line = b"42 (a) R 1 (b) S 7 40 39 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                pid: 42,
                parent: 7,
                group: 40,
                state: 'S',
                start_time: 123_456
            }
        );
        for end in 0..40 {
            assert_eq!(parse_stat(&line[..end]), None);
        }
    }

    #[test]
    fn this_process_is_itself() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        for other in [
            ProcessId {
                start_time: me.start_time + 1,
                ..me.clone()
            },
            ProcessId {
                boot_id: "another".to_owned(),
                ..me.clone()
            },
        ] {
            assert!(!other.is_alive());
        }
    }

    #[test]
    fn descendants_are_found_through_several_generations() {
        let table: Table = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1)]
            .map(|(pid, parent)| Stat {
                pid,
                parent,
                group: pid,
                state: 'S',
                start_time: 1,
            })
            .into_iter()
            .collect();
        assert_eq!(table.with_descendants([2]), HashSet::from([2, 3, 4]));
        assert_eq!(table.with_descendants([9]), HashSet::new());
    }

    #[test]
    fn groups_that_would_mean_everybody_are_refused() {
        for leader in [0, 1, u32::MAX] {
            assert!(signal_group(leader, 0).is_err());
        }
    }
}
