//! How much memory there is, and the kernel's count of processes that it killed for want of it.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the count of this process's control group is read.
///
/// The group's own `memory.events` (cgroup v2) where it can be read; else the machine's `/proc/vmstat`, which also grows
/// for strangers and so proves less.
#[derive(Debug, Clone)]
pub struct OomCounter(PathBuf);

impl OomCounter {
    /// Finds the count that speaks for this process.
    pub fn find() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup")
            .ok()
            .and_then(|text| own_group(&text).map(str::to_owned));
        let events = group.map(|group| {
            PathBuf::from("/sys/fs/cgroup")
                .join(group.trim_start_matches('/'))
                .join("memory.events")
        });
        Self(
            events
                .filter(|path| {
                    fs::read_to_string(path).is_ok_and(|text| oom_kills(&text).is_some())
                })
                .unwrap_or_else(|| PathBuf::from("/proc/vmstat")),
        )
    }

    /// Returns the count; `None` if the kernel keeps none.
    pub fn read(&self) -> Option<u64> {
        oom_kills(&fs::read_to_string(&self.0).ok()?)
    }
}

/// The most memory that this process and what it starts may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// How much, in bytes.
    pub bytes: u64,
    /// Whether a control group says so, and not the machine.
    pub of_group: bool,
}

impl Available {
    /// Asks the kernel: what the machine has, or the limit of a control group around this process if that is less.
    pub fn read() -> Option<Self> {
        let machine = total(&fs::read_to_string("/proc/meminfo").ok()?)?;
        let group = fs::read_to_string("/proc/self/cgroup").ok();
        let group = group.as_deref().and_then(own_group).and_then(|group| {
            let limit = |path: &Path| {
                let path = Path::new("/sys/fs/cgroup").join(path).join("memory.max");
                // Without a limit it says `max`.
                fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
            };
            let path = Path::new(group.trim_start_matches('/'));
            path.ancestors().filter_map(limit).min()
        });
        Some(match group {
            Some(bytes) if bytes < machine => Self {
                bytes,
                of_group: true,
            },
            _ => Self {
                bytes: machine,
                of_group: false,
            },
        })
    }
}

/// Returns the memory of the machine from `/proc/meminfo`, in bytes.
fn total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the version 2 control group in `/proc/self/cgroup`.
fn own_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let events = "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(oom_kills(events), Some(2));
        assert_eq!(oom_kills("oom 1\n"), None);
        assert_eq!(
            own_group("9:name=x:/a\n0::/system.slice/x\n"),
            Some("/system.slice/x")
        );
        assert_eq!(own_group("4:memory:/a\n"), None);
        assert_eq!(total("MemTotal:  2 kB\nMemFree: 1 kB\n"), Some(2048));
        assert!(Available::read().is_some_and(|memory| memory.bytes > 0));
    }
}
