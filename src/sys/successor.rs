//! Another program in the place of this process: the same pid, the same children, the descriptors that it needs.
//!
//! A successor is first asked to prove that it understands what it would be left (`self-check`). What it is left is a document in
//! memory and descriptors by number, named by a variable that holds for this pid only, so that a child that inherits the variable
//! takes nothing for its own. Signals stay blocked from before the exchange until the successor can receive them, and so wait.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::reaper::Reaper;
use super::spawn::{Spawn, SpawnError};
use crate::model::ExitStatus;

/// The variable that names what a successor is left: its pid and the descriptor of the document.
pub const INHERITED: &str = "OMERO_GRID_INHERITED";

/// How long a self-check may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The largest document, in bytes.
const MAX_DOCUMENT: u64 = 64 * 1024 * 1024;

/// The most that is read of what a self-check prints, in bytes.
const MAX_PRINTED: u64 = 16 * 1024;

/// A program that cannot take the place of this one.
#[derive(Debug, thiserror::Error)]
pub enum SuccessorError {
    /// The file cannot be used.
    #[error("cannot use the program {path}")]
    File {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It is not safe to run.
    #[error("cannot use the program {path}: {problem}")]
    Unsafe {
        /// The program.
        path: PathBuf,
        /// Why not.
        problem: &'static str,
    },
    /// Its self-check cannot be started.
    #[error("cannot run '{path} self-check'")]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        source: SpawnError,
    },
    /// Its self-check did not say yes.
    #[error("'{path} self-check' {problem}")]
    Refused {
        /// The program.
        path: PathBuf,
        /// How it ended, and what it said.
        problem: String,
    },
    /// The kernel refuses something.
    #[error("cannot hand over")]
    Kernel(#[from] io::Error),
}

/// A program that is to take the place of this one. The file is opened once, so that what was looked at is what is run.
#[derive(Debug)]
pub struct Successor {
    file: File,
    path: PathBuf,
}

impl Successor {
    /// Opens a program that nobody but root and this user may have written.
    pub fn open(path: &Path) -> Result<Self, SuccessorError> {
        let fail = |source| SuccessorError::File {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let me = nix::unistd::geteuid().as_raw();
        let problem = if !metadata.is_file() {
            Some("it is no regular file")
        } else if metadata.permissions().mode() & 0o111 == 0 {
            Some("it is not executable")
        } else if metadata.permissions().mode() & 0o002 != 0 {
            Some("everybody may write it")
        } else if ![0, me].contains(&metadata.uid()) {
            Some("it belongs neither to root nor to the grid's user")
        } else {
            None
        };
        match problem {
            Some(problem) => Err(SuccessorError::Unsafe {
                path: path.to_owned(),
                problem,
            }),
            None => Ok(Self {
                file,
                path: path.to_owned(),
            }),
        }
    }

    /// Returns the path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a process runs this program.
    pub fn is_run_by(&self, pid: u32) -> bool {
        let Ok(mine) = self.file.metadata() else {
            return false;
        };
        fs::metadata(format!("/proc/{pid}/exe"))
            .is_ok_and(|its| (its.dev(), its.ino()) == (mine.dev(), mine.ino()))
    }

    /// Has the program prove that it can go on from a document. Returns what it prints.
    pub async fn prove(
        &self,
        reaper: &Reaper,
        document: &[u8],
        env: &[(OsString, OsString)],
    ) -> Result<String, SuccessorError> {
        let stdin = memory_file(document)?;
        let (read, write) = io::pipe()?;
        let write = OwnedFd::from(write);
        let args = [OsString::from("self-check")];
        let program = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mut spawn = Spawn::new(&program, &args, env, "/");
        spawn.argv0 = Some(OsStr::new("omero-grid"));
        spawn.stdin = Some(&stdin);
        spawn.stdout = Some(&write);
        spawn.stderr = Some(&write);
        let mut child = reaper
            .spawn(&spawn)
            .map_err(|source| SuccessorError::Spawn {
                path: self.path.clone(),
                source,
            })?;
        drop(write);
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(read))?;
        let mut printed = Vec::new();
        let ended = async {
            let _ = reader.take(MAX_PRINTED).read_to_end(&mut printed).await;
            (&mut child.exit).await.unwrap_or(ExitStatus::Unknown)
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        // Also what it may have started, if it hangs.
        let _ = reaper.signal_group(child.pid, nix::libc::SIGKILL);
        let text = String::from_utf8_lossy(&printed).trim().to_owned();
        let problem = match ended {
            Ok(status) if status.is_success() => return Ok(text),
            Ok(status) if text.is_empty() => format!("ended with {status}"),
            Ok(status) => format!("ended with {status}: {text}"),
            Err(_) => format!("did not end within {PATIENCE:?}"),
        };
        Err(SuccessorError::Refused {
            path: self.path.clone(),
            problem,
        })
    }

    /// Runs the program in the place of this one, with the same command line, leaving it a document and these descriptors, whose
    /// numbers stay. Returns only if that fails; then nothing has changed.
    pub fn take_over(&self, document: &[u8], keep: &[&OwnedFd]) -> io::Error {
        match self.exchange(document, keep) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn exchange(&self, document: &[u8], keep: &[&OwnedFd]) -> io::Result<std::convert::Infallible> {
        let document = memory_file(document)?;
        let nul = |text: OsString| {
            CString::new(text.into_vec()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        };
        let args: Vec<CString> = std::env::args_os().map(nul).collect::<io::Result<_>>()?;
        let mut env: Vec<CString> = std::env::vars_os()
            .filter(|(name, _)| name != INHERITED)
            .map(|(name, value)| {
                let mut pair = name.into_vec();
                pair.push(b'=');
                pair.extend_from_slice(value.as_bytes());
                nul(OsString::from_vec(pair))
            })
            .collect::<io::Result<_>>()?;
        let inherited = format!(
            "{INHERITED}={}:{}",
            std::process::id(),
            document.as_raw_fd()
        );
        env.push(nul(inherited.into())?);
        let kept = || keep.iter().copied().chain([&document]);
        let mut before = SigSet::empty();
        nix::sys::signal::pthread_sigmask(
            nix::sys::signal::SigmaskHow::SIG_BLOCK,
            Some(&SigSet::all()),
            Some(&mut before),
        )?;
        let pass_on =
            |flags: FdFlag| kept().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop));
        let failed = match pass_on(FdFlag::empty()) {
            Ok(()) => match nix::unistd::fexecve(&self.file, &args, &env) {
                Ok(never) => match never {},
                Err(error) => error,
            },
            Err(error) => error,
        };
        let _ = pass_on(FdFlag::FD_CLOEXEC);
        let _ = before.thread_set_mask();
        Err(failed.into())
    }
}

/// What a process that has taken the place of another was left.
#[derive(Debug)]
pub struct Inheritance {
    /// The document.
    pub document: Vec<u8>,
}

/// Returns what this process was left; `None` if it was started as usual.
pub fn inheritance() -> io::Result<Option<Inheritance>> {
    let Some(value) = std::env::var_os(INHERITED) else {
        return Ok(None);
    };
    let named = value.to_str().and_then(|text| {
        let (pid, fd) = text.split_once(':')?;
        Some((pid.parse::<u32>().ok()?, fd.parse::<RawFd>().ok()?))
    });
    let Some((_, fd)) = named.filter(|(pid, _)| *pid == std::process::id()) else {
        return Ok(None);
    };
    let mut file = File::from(take(fd)?);
    file.rewind()?;
    let mut document = Vec::new();
    file.take(MAX_DOCUMENT).read_to_end(&mut document)?;
    Ok(Some(Inheritance { document }))
}

/// Takes a descriptor that was left to this process; each once only.
pub fn take(fd: RawFd) -> io::Result<OwnedFd> {
    // The standard ones belong to everybody.
    if fd <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the predecessor has left this number open for this process and for this purpose; nothing here has opened or borrowed
    // it, because descriptors are taken before anything else is done. That it is open is checked at once, below.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Err(error) = fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        // Not open, so there is nothing to close either.
        std::mem::forget(owned);
        return Err(error.into());
    }
    Ok(owned)
}

/// Lets the signals through that were held back during the exchange. To be called once they can be received.
pub fn receive_signals() {
    // A mask that is valid cannot be refused.
    let _ = SigSet::all().thread_unblock();
}

/// Returns the name of this process in the list of processes.
pub fn process_name() -> String {
    let name = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}

/// Names this process as its predecessor was named: the kernel has named it after the number of a descriptor.
pub fn set_process_name(name: &str) {
    // Only for people who look.
    let _ = fs::write("/proc/self/comm", name);
}

fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"omero-grid", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}
