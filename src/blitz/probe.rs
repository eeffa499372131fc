//! Finding out whether the database and the repository can be written: by writing, in a process of its own.
//!
//! A file system that hangs holds whoever writes to it until it answers, and no signal helps before that. So the Blitz has a child write,
//! and stops waiting for it in time. A child that cannot even be killed counts as a failure for as long as it is there, and
//! no second one is started beside it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::properties::Settings;
use super::read_only::Finding;
use crate::config::Paths;
use crate::model::ServerId;
use crate::store::{self, StoreChoice};

/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer of a probing process, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// What can be read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The database of users and sessions.
    Db,
    /// The repository of files.
    Repo,
}

impl Target {
    /// Returns the word in commands and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Db => "db",
            Self::Repo => "repo",
        }
    }
}

/// Probes in this process, which may hang. With `make`, directories are made where they are missing.
pub(super) fn probe(
    target: Target,
    make: bool,
    settings: &Settings,
    server: &ServerId,
    paths: &Paths,
) -> Finding {
    match target {
        Target::Db => database(&settings.store, paths),
        Target::Repo => match settings.repository(paths) {
            Some(places) => directories(&places.probed(), make, server),
            None => Finding::Writable,
        },
    }
}

fn database(choice: &StoreChoice, paths: &Paths) -> Finding {
    match store::probe(choice, &paths.store()) {
        Ok(None) => Finding::Writable,
        Ok(Some(refused)) => Finding::Refused(refused),
        Err(error) => Finding::Failed(crate::telemetry::chain(&error)),
    }
}

/// Writes a file in each directory, and removes it.
fn directories(dirs: &[PathBuf], make: bool, server: &ServerId) -> Finding {
    for dir in dirs {
        let made = match make {
            true => fs::create_dir_all(dir),
            false => Ok(()),
        };
        if let Err(error) = made.and_then(|()| write_in(dir, server)) {
            return of_error(dir, &error);
        }
    }
    Finding::Writable
}

fn write_in(dir: &Path, server: &ServerId) -> io::Result<()> {
    // Always the same name, so that a killed probe leaves one file at most.
    let path = dir.join(format!(".ReadOnlyStatus-{server}"));
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)?;
    fs::remove_file(&path)
}

/// Tells a refusal of the system from other failures, in words with the name of the error.
fn of_error(path: &Path, error: &io::Error) -> Finding {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let reason = format!("{}: {errno:?} ({})", path.display(), errno.desc());
    match errno {
        Errno::EROFS | Errno::EACCES | Errno::EPERM => Finding::Refused(reason),
        Errno::UnknownErrno => Finding::Failed(format!("{}: {error}", path.display())),
        _ => Finding::Failed(reason),
    }
}

/// Has a child probe one resource, again and again.
pub(super) struct Prober {
    target: Target,
    program: PathBuf,
    arguments: Vec<OsString>,
    patience: Duration,
    /// A child that was killed and has not ended.
    stuck: Option<Child>,
    /// It was written once. From then on a directory that is missing has vanished, and another one in its place would only hide that.
    written: bool,
}

impl Prober {
    /// `arguments` is how this program is called to probe.
    pub(super) fn new(target: Target, arguments: &[OsString]) -> Self {
        let mut arguments = arguments.to_vec();
        arguments.push(OsString::from(target.as_str()));
        Self {
            target,
            program: PathBuf::from("/proc/self/exe"),
            arguments,
            patience: PATIENCE,
            stuck: None,
            written: false,
        }
    }

    /// Probes once. Cancelling kills the child.
    pub(super) async fn probe(&mut self) -> Finding {
        let found = self.ask().await;
        self.written |= found == Finding::Writable;
        found
    }

    async fn ask(&mut self) -> Finding {
        if let Some(child) = &mut self.stuck {
            match child.try_wait() {
                Ok(None) => return late(self.target, self.patience),
                Ok(Some(_)) | Err(_) => self.stuck = None,
            }
        }
        let child = Command::new(&self.program)
            .arg0("omero-grid")
            .args(&self.arguments)
            .args((!self.written).then_some("--make"))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return Finding::Failed(format!("cannot start a probe: {error}")),
        };
        let answer = async {
            let mut text = Vec::new();
            if let Some(out) = child.stdout.take() {
                out.take(MAX_ANSWER).read_to_end(&mut text).await?;
            }
            child.wait().await?;
            Ok::<_, io::Error>(text)
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(text)) => serde_json::from_slice(&text).unwrap_or_else(|_| {
                Finding::Failed("the probing process gave no answer".to_owned())
            }),
            Ok(Err(error)) => Finding::Failed(format!("cannot hear a probe: {error}")),
            Err(_) => {
                // What cannot be killed is looked at next time.
                let _ = child.start_kill();
                self.stuck = Some(child);
                late(self.target, self.patience)
            }
        }
    }
}

fn late(target: Target, patience: Duration) -> Finding {
    Finding::Failed(match target {
        Target::Db => format!("the database did not answer within {patience:?}"),
        Target::Repo => format!("the file system did not answer within {patience:?}"),
    })
}

/// Returns how a Blitz calls this program to probe with the same properties.
pub(super) fn arguments(ice_config: Option<&Path>) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("probe")];
    if let Some(path) = ice_config {
        let mut option = OsString::from("--Ice.Config=");
        option.push(path.as_os_str());
        arguments.push(option);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_system_are_told_from_other_failures() {
        let path = Path::new("/data");
        for errno in [Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            let Finding::Refused(reason) = of_error(path, &errno.into()) else {
                panic!("{errno}");
            };
            assert!(
                reason.starts_with(&format!("/data: {errno:?} (")),
                "{reason}"
            );
        }
        for errno in [Errno::ENOSPC, Errno::EIO, Errno::ESTALE] {
            assert!(matches!(of_error(path, &errno.into()), Finding::Failed(_)));
        }
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_killed_and_the_next_one_answers() {
        let temp = tempfile::tempdir().unwrap();
        // What stands for a file system that hangs the first time.
        let script = format!(
            "cd {}; if mkdir first; then echo $$ > pid; exec sleep 1000; fi; echo '{{\"found\":\"writable\"}}'",
            temp.path().display()
        );
        let mut prober = Prober {
            program: PathBuf::from("/bin/sh"),
            arguments: ["-c".into(), script.into()].into(),
            patience: Duration::from_millis(500),
            ..Prober::new(Target::Repo, &[])
        };
        let found = prober.probe().await;
        assert!(
            matches!(&found, Finding::Failed(reason) if reason.contains("did not answer within 500ms")),
            "{found:?}"
        );
        let pid = fs::read_to_string(temp.path().join("pid")).unwrap();
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
            stat.rsplit(") ").next()?.chars().next()
        };
        let gone = async {
            while state().is_some_and(|state| state != 'Z') {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .expect("the child to be killed");
        prober.patience = PATIENCE;
        assert_eq!(prober.probe().await, Finding::Writable);
    }

    #[test]
    fn a_probe_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data/ManagedRepository");
        let server = "Blitz-0".parse().unwrap();
        let dirs = [temp.path().join("data"), dir.clone()];
        let gone = directories(&dirs, false, &server);
        assert!(matches!(gone, Finding::Failed(reason) if reason.contains("ENOENT")));
        assert!(!dirs[0].exists(), "nothing takes the place of what is gone");
        assert_eq!(directories(&dirs, true, &server), Finding::Writable);
        assert_eq!(directories(&dirs, false, &server), Finding::Writable);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::write(temp.path().join("file"), "").unwrap();
        let found = directories(&[temp.path().join("file/below")], true, &server);
        assert!(matches!(found, Finding::Failed(reason) if reason.contains("ENOTDIR")));
    }
}
