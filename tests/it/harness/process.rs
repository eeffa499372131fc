//! Processes as `/proc` shows them. A zombie counts as dead: nobody may be there to reap it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

/// How long processes may take to end after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(20);

/// A living process of a grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

/// Returns whether a process lives.
pub(crate) fn alive(pid: u32) -> bool {
    // The name in parentheses may hold anything; the state follows the last one.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ")?.1.chars().next())
        .is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Sends a signal; a process that is gone is no error.
pub(crate) fn kill(pid: u32, signal: Signal) {
    let _ = send(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// Returns every living process of the grid in `dir`: those that carry its mark, and those that were told `--dir` it.
pub(crate) fn living(dir: &Path) -> Vec<Process> {
    let dir = dir.as_os_str().as_bytes();
    let mark = [b"OMERO_GRID_SERVER=", dir, b"/"].concat();
    find(|environ, args| {
        let is_marked = environ.iter().any(|variable| variable.starts_with(&mark));
        let is_told = args
            .windows(2)
            .any(|pair| pair[0] == b"--dir" && pair[1] == dir);
        is_marked || is_told
    })
}

/// Returns the living processes that carry the mark of a server.
pub(crate) fn marked(dir: &Path, id: &str) -> Vec<Process> {
    let mark = format!("OMERO_GRID_SERVER={}/{id}/", dir.display());
    find(|environ, _| {
        environ
            .iter()
            .any(|variable| variable.starts_with(mark.as_bytes()))
    })
}

fn find(mut is: impl FnMut(&[&[u8]], &[&[u8]]) -> bool) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Process> = pids
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let read =
                |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let (environ, args) = (read("environ"), read("cmdline"));
            let environ: Vec<&[u8]> = environ.split(|b| *b == 0).collect();
            let words: Vec<&[u8]> = args.split(|b| *b == 0).collect();
            (is(&environ, &words) && alive(pid)).then(|| Process {
                pid,
                command: String::from_utf8_lossy(&args)
                    .replace('\0', " ")
                    .trim()
                    .to_owned(),
            })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Kills every process of the grid in `dir`, and those that they start meanwhile, and waits for their ends.
pub(super) fn kill_all(dir: &Path) -> Result<(), String> {
    kill_found(|| living(dir))
}

/// Kills every process whose arguments name something in `dir`, as [`kill_all`] does.
pub(super) fn kill_naming(dir: &Path) -> Result<(), String> {
    let dir = dir.as_os_str().as_bytes();
    kill_found(|| {
        find(|_, args| {
            let mut args = args.iter();
            args.any(|word| word.windows(dir.len()).any(|part| part == dir))
        })
    })
}

fn kill_found(look: impl Fn() -> Vec<Process>) -> Result<(), String> {
    let limit = Instant::now() + PATIENCE;
    // A process that is ending has lost its environment before it is a zombie: it is no longer found, and still lives.
    let mut killed = BTreeSet::new();
    loop {
        let found = look();
        for process in &found {
            kill(process.pid, Signal::SIGKILL);
            killed.insert(process.pid);
        }
        killed.retain(|pid| alive(*pid));
        if found.is_empty() && killed.is_empty() {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(format!("{found:?}, {killed:?}"));
        }
        super::pause(Duration::from_millis(2));
    }
}
