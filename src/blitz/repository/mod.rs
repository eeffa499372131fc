//! The managed repository: files that users import, in a directory that only one Blitz writes at a time (`omero.md` §1.8).
//!
//! Below `omero.managed.dir` lie the files themselves and `.omero-grid/` with
//!
//! - `lock`, held by the Blitz that owns the repository, and released by the kernel when that ends;
//! - `owner`, the owner's name, for those who wait for the lock;
//! - `catalogue`, the list of what is there ([`catalogue`]);
//! - `incoming/`, files that are being imported, and notes of what a crash would leave behind.
//!
//! A Blitz that may not write reads the same files and takes no lock. One that waits for the lock serves everything that reads.
//! Nothing here may hold up the Blitz: file systems hang, so all work is done by threads of its own, with a time limit for who waits.

mod catalogue;
mod owner;
mod tickets;
mod transfer;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

use self::catalogue::{Catalogue, CatalogueError, Entry};
use self::tickets::Tickets;
use super::properties::Places;
use crate::ipc::message::blitz::ReadOnlyReason;
use crate::ipc::message::data::{FileView, Ticket};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::ServerId;
use crate::telemetry::chain;

pub(super) use self::owner::Standing;
pub(super) use self::transfer::serve;

/// Pieces of work at once; those on a file system that hangs count until it answers.
const MAX_WORK: usize = 16;

/// How long somebody waits for a piece of work.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest name of a file, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// The directory of what is ours below the repository.
const OURS: &str = ".omero-grid";

/// Who imports or deletes.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) admin: bool,
}

/// The repository as one Blitz sees it.
pub(super) struct Repository {
    server: ServerId,
    managed: PathBuf,
    /// Where the contents of files go through.
    socket: PathBuf,
    reasons: watch::Receiver<ReadOnlyReason>,
    standing: watch::Sender<Standing>,
    catalogue: Mutex<Catalogue>,
    tickets: Mutex<Tickets>,
    work: Arc<Semaphore>,
}

impl Repository {
    /// Takes note of where the repository is; touches nothing.
    pub(super) fn new(
        server: ServerId,
        places: Places,
        socket: PathBuf,
        reasons: watch::Receiver<ReadOnlyReason>,
    ) -> Arc<Self> {
        let catalogue = places.managed.join(OURS).join("catalogue");
        Arc::new(Self {
            server,
            managed: places.managed,
            socket,
            reasons,
            standing: watch::Sender::new(Standing::ReadOnly),
            catalogue: Mutex::new(Catalogue::new(catalogue)),
            tickets: Mutex::default(),
            work: Arc::new(Semaphore::new(MAX_WORK)),
        })
    }

    /// Tells whether this Blitz owns the repository, now and after each change.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Does a piece of work in a thread of its own. Cancelling forgets the result only.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let silent = || {
            Refusal::new(
                RefusalKind::Unavailable,
                format!("the repository {} does not answer", self.managed.display()),
            )
            .hint("look at the file system it is on")
        };
        let permit = self
            .work
            .clone()
            .try_acquire_owned()
            .map_err(|_| silent())?;
        let (answer, answered) = oneshot::channel();
        let this = self.clone();
        std::thread::Builder::new()
            .name("repository".to_owned())
            .spawn(move || {
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(work(&this));
                drop(permit);
            })
            .map_err(|error| Refusal::new(RefusalKind::Failed, format!("no thread: {error}")))?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Refusal::new(
                RefusalKind::Failed,
                "the work on the repository failed within the Blitz",
            )),
            Err(_) => Err(silent()),
        }
    }

    /// Returns one page of the files.
    pub(super) fn list(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<FileView>, bool), Refusal> {
        let mut catalogue = self.catalogue();
        catalogue.refresh().map_err(of_catalogue)?;
        Ok(catalogue.page(after, limit))
    }

    /// Returns one file.
    pub(super) fn info(&self, id: u64) -> Result<FileView, Refusal> {
        self.entry(id).map(|entry| entry.view())
    }

    /// Opens a file to read it; returns where it is, too.
    pub(super) fn open(&self, id: u64) -> Result<(File, PathBuf), Refusal> {
        let entry = self.entry(id)?;
        let path = self.managed.join(&entry.path);
        let file = open_regular(&path).map_err(|error| {
            Refusal::new(
                RefusalKind::Failed,
                format!("cannot read {}: {error}", path.display()),
            )
        })?;
        Ok((file, path))
    }

    /// Gives leave to read a file.
    pub(super) fn get(&self, id: u64) -> Result<Ticket, Refusal> {
        let entry = self.entry(id)?;
        self.ticket(tickets::Purpose::Get(entry))
    }

    /// Gives leave to store a file.
    pub(super) fn import(&self, name: String, size: u64, user: User) -> Result<Ticket, Refusal> {
        check_name(&name)?;
        self.ticket(tickets::Purpose::Import(tickets::Import {
            name,
            size,
            user,
        }))
    }

    /// Removes a file.
    pub(super) fn delete(&self, id: u64, user: &User) -> Result<(), Refusal> {
        let mut catalogue = self.catalogue();
        catalogue.refresh().map_err(of_catalogue)?;
        let entry = catalogue.get(id).ok_or_else(|| no_file(id))?.clone();
        if !user.admin && entry.owner_id != user.id {
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!(
                    "file {id} is of {}; only its owner or an administrator may delete it",
                    entry.owner
                ),
            ));
        }
        self.remove(&mut catalogue, &entry)
    }

    fn entry(&self, id: u64) -> Result<Entry, Refusal> {
        let mut catalogue = self.catalogue();
        catalogue.refresh().map_err(of_catalogue)?;
        catalogue.get(id).cloned().ok_or_else(|| no_file(id))
    }

    fn ticket(&self, purpose: tickets::Purpose) -> Result<Ticket, Refusal> {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Ticket {
            socket: self.socket.clone(),
            ticket: tickets.issue(purpose)?,
        })
    }

    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ours(&self, name: &str) -> PathBuf {
        self.managed.join(OURS).join(name)
    }
}

/// Opens a file that is one: no link, no device, nothing that would wait for somebody.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME {
        "has more than 255 bytes"
    } else if name.contains('/') || name == "." || name == ".." {
        "is a path"
    } else if name.chars().any(char::is_control) {
        "has control characters"
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        RefusalKind::Invalid,
        format!("the name '{}' {problem}", name.escape_debug()),
    )
    .hint("rename the file"))
}

fn no_file(id: u64) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("there is no file {id}"))
        .hint("`omero-grid file list` shows them")
}

fn of_catalogue(error: CatalogueError) -> Refusal {
    Refusal::new(RefusalKind::Failed, chain(&error))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(
        RefusalKind::Failed,
        format!("cannot {what} {}: {error}", path.display()),
    )
}

/// Makes the directory of what is ours, for its owner alone.
fn make_ours(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
}
