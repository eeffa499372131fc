//! The kernel's count of processes that it killed for want of memory.

use std::fs;
use std::path::PathBuf;

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
    }
}
