//! Starting a process: `fork`, what has to be set, `execve`.
//!
//! `std::process` is not used because a signal that comes to the child's group before its handlers are gone would be
//! told to the parent, and because it does not say which step failed.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// The account that a process runs under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
    /// The other groups.
    pub groups: Vec<u32>,
}

/// A process to be started: all that it gets. Other descriptors are closed, the signal mask is
/// empty and every disposition the default one.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program: with `/` relative to `dir`, without searched in the `PATH` of `env`.
    pub program: &'a OsStr,
    /// The first word of its command line; the program as given if absent.
    pub argv0: Option<&'a OsStr>,
    /// The rest of its command line.
    pub args: &'a [OsString],
    /// Its whole environment.
    pub env: &'a [(OsString, OsString)],
    /// Its working directory.
    pub dir: &'a Path,
    /// Its account; that of this process if absent.
    pub user: Option<&'a User>,
    /// Its file mode creation mask; that of this process if absent.
    pub umask: Option<u32>,
    /// Its standard input; `/dev/null` if absent.
    pub stdin: Option<&'a OwnedFd>,
    /// Its standard output; `/dev/null` if absent.
    pub stdout: Option<&'a OwnedFd>,
    /// Its standard error; `/dev/null` if absent.
    pub stderr: Option<&'a OwnedFd>,
    /// A new session, away from any terminal, rather than only a new process group.
    pub new_session: bool,
}

/// A process that was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A word of the command line or environment contains a NUL character.
    #[error("{0:?} contains a NUL character")]
    Nul(OsString),
    /// The program is nowhere.
    #[error("cannot find the program {program:?}")]
    Missing {
        /// As it was given.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The program is there but cannot be run.
    #[error("cannot execute {program:?}")]
    NotExecutable {
        /// As it was given.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The working directory cannot be entered.
    #[error("cannot change working directory to {dir:?}")]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The account cannot be taken on.
    #[error("cannot become user {uid}")]
    User {
        /// The user.
        uid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// There are not enough processes, descriptors or memory.
    #[error("cannot start a process")]
    Fork(#[source] io::Error),
    /// The new process could not be set up.
    #[error("cannot set up the new process")]
    SetUp(#[source] io::Error),
}

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    SetUp = 0,
    User = 1,
    Dir = 2,
    Exec = 3,
}

impl<'a> Spawn<'a> {
    /// Describes a process with the account, mask and outputs of the default: own account, same mask, `/dev/null`.
    pub fn new(
        program: &'a (impl AsRef<OsStr> + ?Sized),
        args: &'a [OsString],
        env: &'a [(OsString, OsString)],
        dir: &'a (impl AsRef<Path> + ?Sized),
    ) -> Self {
        Self {
            program: program.as_ref(),
            argv0: None,
            args,
            env,
            dir: dir.as_ref(),
            user: None,
            umask: None,
            stdin: None,
            stdout: None,
            stderr: None,
            new_session: false,
        }
    }

    /// Starts it and returns its pid once the program runs. The caller has to wait for it: [`super::reaper::Reaper`] does.
    pub fn start(&self) -> Result<u32, SpawnError> {
        let prepared = Prepared::new(self)?;
        let (told, tell) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| SpawnError::Fork(error.into()))?;
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(SpawnError::Fork)?;
        let null = OwnedFd::from(null);
        let fds = [
            self.stdin.unwrap_or(&null).as_raw_fd(),
            self.stdout.unwrap_or(&null).as_raw_fd(),
            self.stderr.unwrap_or(&null).as_raw_fd(),
        ];
        // Until its handlers are gone the child must not handle a signal: it would tell this process's pipes of it.
        let mut before = SigSet::empty();
        pthread_sigmask(
            SigmaskHow::SIG_BLOCK,
            Some(&SigSet::all()),
            Some(&mut before),
        )
        .map_err(|error| SpawnError::Fork(error.into()))?;
        // SAFETY: the child only calls `Prepared::run`, which neither allocates nor locks.
        let forked = unsafe { libc::fork() };
        if forked == 0 {
            prepared.run(fds, tell.as_raw_fd());
        }
        let forked = Errno::result(forked);
        // Restoring a mask that was valid cannot fail.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        drop(tell);
        let pid = forked.map_err(|error| SpawnError::Fork(error.into()))?;
        let mut failure = Vec::new();
        // Ends when the child has closed its end, by execve or by ending.
        if let Err(error) = File::from(told).take(5).read_to_end(&mut failure) {
            return Err(SpawnError::SetUp(error));
        }
        match failure.as_slice() {
            &[step, a, b, c, d] => {
                reap(pid);
                Err(self.explain(step, i32::from_ne_bytes([a, b, c, d])))
            }
            _ => Ok(pid.unsigned_abs()),
        }
    }

    fn explain(&self, step: u8, errno: i32) -> SpawnError {
        let source = io::Error::from_raw_os_error(errno);
        let program = PathBuf::from(self.program);
        if step == Step::Dir as u8 {
            SpawnError::Dir {
                dir: self.dir.to_owned(),
                source,
            }
        } else if step == Step::User as u8 {
            SpawnError::User {
                uid: self.user.map_or(0, |user| user.uid),
                source,
            }
        } else if step == Step::Exec as u8 {
            match errno {
                libc::ENOENT | libc::ENOTDIR => SpawnError::Missing { program, source },
                _ => SpawnError::NotExecutable { program, source },
            }
        } else {
            SpawnError::SetUp(source)
        }
    }
}

/// Everything the child needs, made before the fork.
struct Prepared<'a> {
    /// Where the program may be, in the order in which it is tried.
    candidates: Vec<CString>,
    // What the pointers below point into.
    _words: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    dir: CString,
    user: Option<&'a User>,
    umask: Option<u32>,
    new_session: bool,
}

impl<'a> Prepared<'a> {
    fn new(spawn: &Spawn<'a>) -> Result<Self, SpawnError> {
        let mut words = vec![c_string(spawn.argv0.unwrap_or(spawn.program))?];
        for arg in spawn.args {
            words.push(c_string(arg)?);
        }
        let argc = words.len();
        for (name, value) in spawn.env {
            let mut entry = name.clone();
            entry.push("=");
            entry.push(value);
            words.push(c_string(&entry)?);
        }
        // The strings are on the heap: moving the vector that owns them does not move them.
        let pointers = |words: &[CString]| {
            let mut list: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
            list.push(std::ptr::null());
            list
        };
        let (argv, envp) = (pointers(&words[..argc]), pointers(&words[argc..]));
        Ok(Self {
            candidates: candidates(spawn)?,
            _words: words,
            argv,
            envp,
            dir: c_string(spawn.dir.as_os_str())?,
            user: spawn.user,
            umask: spawn.umask,
            new_session: spawn.new_session,
        })
    }

    /// Becomes the program, or tells what failed and ends. Runs in the child.
    fn run(&self, fds: [RawFd; 3], tell: RawFd) -> ! {
        let (step, error) = self.try_run(fds);
        let errno = error as i32;
        let [a, b, c, d] = errno.to_ne_bytes();
        let message = [step as u8, a, b, c, d];
        // SAFETY: write and _exit are async-signal-safe; the message outlives the call.
        unsafe {
            libc::write(tell, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    }

    fn try_run(&self, fds: [RawFd; 3]) -> (Step, Errno) {
        match self.set_up(fds) {
            Ok(()) => {}
            Err(failed) => return failed,
        }
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            // SAFETY: path and both lists end with a null and outlive the call, which returns only on failure.
            unsafe { libc::execve(candidate.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
            match Errno::last() {
                // As execvp: what is not there, or not permitted, may be elsewhere.
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => worst = Errno::EACCES,
                other => return (Step::Exec, other),
            }
        }
        (Step::Exec, worst)
    }

    fn set_up(&self, fds: [RawFd; 3]) -> Result<(), (Step, Errno)> {
        let check =
            |step, result: libc::c_int| Errno::result(result).map(drop).map_err(|e| (step, e));
        // SAFETY: only async-signal-safe functions, on descriptors, numbers and memory that this process owns and that
        // live until it ends; signal numbers without a disposition are refused by the kernel, which is ignored.
        unsafe {
            let group = if self.new_session {
                libc::setsid()
            } else {
                libc::setpgid(0, 0)
            };
            check(Step::SetUp, group)?;
            // All zeroes: SIG_DFL, no flags, empty mask. By system call, since libc keeps signals 32 and 33 to itself.
            let default = [0_u64; 8];
            for signal in 1..=64 {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    default.as_ptr(),
                    std::ptr::null::<u64>(),
                    size_of::<u64>(),
                );
            }
            for (target, fd) in (0..).zip(fds) {
                check(Step::SetUp, libc::dup2(fd, target))?;
            }
            // Closed by execve rather than now: the pipe that tells of failures is among them.
            let first: libc::c_uint = 3;
            let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
            check(
                Step::SetUp,
                libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags)
                    as libc::c_int,
            )?;
            if let Some(mask) = self.umask {
                libc::umask(mask as libc::mode_t);
            }
            if let Some(user) = self.user {
                check(
                    Step::User,
                    libc::setgroups(user.groups.len(), user.groups.as_ptr()),
                )?;
                check(Step::User, libc::setgid(user.gid))?;
                check(Step::User, libc::setuid(user.uid))?;
            }
            check(Step::Dir, libc::chdir(self.dir.as_ptr()))?;
            let mut none = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            check(
                Step::SetUp,
                libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()),
            )
        }
    }
}

/// Returns where the program may be: itself if it has a `/`, else in each directory of the child's `PATH`.
fn candidates(spawn: &Spawn<'_>) -> Result<Vec<CString>, SpawnError> {
    if spawn.program.as_bytes().contains(&b'/') || spawn.program.is_empty() {
        return Ok(vec![c_string(spawn.program)?]);
    }
    let path = spawn
        .env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map_or(OsStr::new("/usr/local/bin:/bin:/usr/bin"), |(_, value)| {
            value.as_os_str()
        });
    std::env::split_paths(path)
        .map(|dir| {
            // An empty entry means the working directory.
            let dir = if dir.as_os_str().is_empty() {
                PathBuf::from(".")
            } else {
                dir
            };
            c_string(dir.join(spawn.program).as_os_str())
        })
        .collect()
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|_| SpawnError::Nul(text.to_owned()))
}

/// Takes a child that failed before it was a program off the table.
fn reap(pid: libc::pid_t) {
    // It has written its last words; interrupted waits are repeated, and one that is already gone is as good.
    while nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wait(pid: u32) {
        reap(pid as libc::pid_t);
    }

    fn run(spawn: Spawn<'_>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let out = OwnedFd::from(File::create(&path).unwrap());
        let spawn = Spawn {
            stdout: Some(&out),
            ..spawn
        };
        wait(spawn.start().unwrap());
        std::fs::read_to_string(&path).unwrap()
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_program_gets_what_was_described_and_nothing_else() {
        let _alone = crate::sys::reaper::ALONE.blocking_lock();
        let env = [
            ("PATH".into(), "/nowhere:/bin:/usr/bin".into()),
            ("A".into(), "b c".into()),
        ];
        let script = "pwd; echo \"$0 $1 $A\"; umask; ls /proc/self/fd | wc -l; readlink /proc/self/fd/0; grep -E '^Sig(Blk|Ign)' /proc/self/status";
        let args = words(&["-c", script, "zero", "one"]);
        let mut spawn = Spawn::new("sh", &args, &env, "/usr");
        spawn.umask = Some(0o027);
        let held = File::open("/dev/null").unwrap();
        let zeros = "0000000000000000";
        assert_eq!(
            run(spawn),
            // `ls` itself has the directory open: 0, 1, 2 and that.
            format!("/usr\nzero one b c\n0027\n4\n/dev/null\nSigBlk:\t{zeros}\nSigIgn:\t{zeros}\n")
        );
        drop(held);
    }

    #[test]
    fn a_failure_names_its_step() {
        let _alone = crate::sys::reaper::ALONE.blocking_lock();
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
        let env = [("PATH".into(), dir.path().as_os_str().to_owned())];
        let start = |program: &str, dir: &Path| Spawn::new(program, &[], &env, dir).start();
        let root = Path::new("/");
        assert!(matches!(
            start("no-such", root),
            Err(SpawnError::Missing { .. })
        ));
        assert!(matches!(
            start("/no/such", root),
            Err(SpawnError::Missing { .. })
        ));
        assert!(matches!(start("", root), Err(SpawnError::Missing { .. })));
        assert!(matches!(
            start("plain", root),
            Err(SpawnError::NotExecutable { .. })
        ));
        assert!(matches!(
            start("./plain", dir.path()),
            Err(SpawnError::NotExecutable { .. })
        ));
        assert!(matches!(
            start("/bin/true", Path::new("/no/such")),
            Err(SpawnError::Dir { .. })
        ));
        assert!(matches!(start("a\0b", root), Err(SpawnError::Nul(_))));
    }

    #[test]
    fn groups_and_sessions_are_the_childs_own() {
        let _alone = crate::sys::reaper::ALONE.blocking_lock();
        let args = words(&["-c", "cut -d' ' -f5,6 /proc/$$/stat; echo $$"]);
        let env = [("PATH".into(), "/bin:/usr/bin".into())];
        for new_session in [false, true] {
            let mut spawn = Spawn::new("/bin/sh", &args, &env, "/");
            spawn.new_session = new_session;
            let out = run(spawn);
            let fields: Vec<_> = out.split_whitespace().collect();
            let [group, session, pid] = fields[..] else {
                panic!("{out}")
            };
            assert_eq!(group, pid);
            assert_eq!(session == pid, new_session);
        }
    }
}
