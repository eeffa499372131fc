#![doc = include_str!("LIFECYCLE.md")]
//!
//! This module owns the sessions of one server id, their time-outs, and who may log in. It leaves to others where a session is opened
//! (the master), how the rows are kept ([`crate::store`]), and the supervision of its process (the node).

mod clock;
mod files;
mod guard;
mod hub;
mod ice;
mod image;
mod images;
mod lease;
mod login;
mod memo;
mod ownership;
mod place;
mod probe;
mod properties;
mod read_only;
mod repository;
mod requests;
mod scripts;
mod service;
mod sessions;
mod tasks;
mod temporary;
mod throttle;
mod values;
mod workshop;
mod writable;

pub use ice::IceError;
pub use probe::Target as ProbeTarget;
pub use properties::PropertiesError;
pub use read_only::Finding;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};
use uuid::Uuid;

use guard::Guard;
use ice::Face;
use place::{Ended, Place};
use properties::{Properties, Settings};
use repository::Repository;
use workshop::Workshop;

use crate::config::Paths;
use crate::ipc::{Address, AddressError, ListenError, RunDir};
use crate::model::{InvalidName, ServerId};
use crate::store::StoreError;
use crate::sys::marks::MARK as SERVER;
use crate::telemetry::{self, chain};

/// The variable that names the state directory; OMERODIR if it is not set.
const STATE: &str = "OMERO_GRID_STATE";

/// What the command line says to a Blitz.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The generated properties file (`--Ice.Config=FILE`).
    pub ice_config: Option<PathBuf>,
}

/// A Blitz that cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum BlitzError {
    /// It was not started by a node (exit code 2).
    #[error(
        "{SERVER} does not name a server ({problem}); a Blitz is started by its node: use 'omero-grid start'"
    )]
    Identity {
        /// What is wrong with the variable.
        problem: String,
    },
    /// The server's id cannot be used (exit code 2).
    #[error("{SERVER} names a server that cannot be")]
    Name(#[source] InvalidName),
    /// The properties cannot be used (exit code 4).
    #[error("cannot use the properties of this Blitz")]
    Properties(#[source] PropertiesError),
    /// Another process runs this Blitz (exit code 6).
    #[error("another process runs {server}: it holds the lock {path}")]
    Running {
        /// The server.
        server: ServerId,
        /// The lock's file.
        path: PathBuf,
    },
    /// The lock cannot be taken (exit code 1).
    #[error("cannot lock {path}")]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The store cannot be used (exit code 1).
    #[error("cannot use the store of users and sessions")]
    Store(#[source] StoreError),
    /// The directory of the sockets cannot be used (exit code 1).
    #[error("cannot use the directory of the local sockets")]
    RunDir(#[source] AddressError),
    /// The socket cannot be listened on (exit code 1).
    #[error("cannot open the socket of this Blitz")]
    Listen(#[source] ListenError),
    /// The socket for the contents of files cannot be listened on (exit code 1).
    #[error("cannot open the data socket of this Blitz")]
    Data(#[source] io::Error),
    /// The adapter for Ice cannot be opened (exit code 1).
    #[error("cannot open the Ice adapter of this Blitz")]
    Ice(#[source] IceError),
    /// Signals or the runtime cannot be set up (exit code 1).
    #[error("cannot set up the process")]
    Process(#[source] io::Error),
    /// A later life of this server has taken over; this one has ended without a write (exit code 6).
    #[error("another process has taken over {server}")]
    Superseded {
        /// The server.
        server: ServerId,
    },
    /// The orderly stop could not be written (exit code 1). No session is lost; the next start counts from the last access written.
    #[error("stopped, but could not write so to the store: {reason}")]
    Stop {
        /// Why.
        reason: String,
    },
}

/// Runs a built-in Blitz until SIGTERM or SIGINT, in this process and on this thread.
///
/// Blocks. An orderly stop closes no session: the next process of the same server id takes them up.
pub fn run(options: &Options) -> Result<(), BlitzError> {
    let setup = Setup::of(options, std::env::var_os(SERVER), std::env::var_os(STATE))?;
    if let Some(level) = &setup.settings.log_level {
        telemetry::set_filter(level);
    }
    let notify = std::env::var_os("NOTIFY_SOCKET");
    let stop_pipe = signals().map_err(BlitzError::Process)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(setup.cores)
        .build()
        .map_err(BlitzError::Process)?;
    let served = runtime.block_on(async {
        let stop = watch::Sender::new(false);
        let mut pipe = tokio::net::UnixStream::from_std(stop_pipe).map_err(BlitzError::Process)?;
        let serving = serve(setup, stop.clone(), || ready(notify));
        tokio::pin!(serving);
        tokio::select! {
            // Cancel safe: `serving` is polled on below, and of the pipe only the fact counts that something came.
            result = &mut serving => return result,
            _ = tokio::io::AsyncReadExt::read_u8(&mut pipe) => {}
        }
        info!("asked to stop");
        stop.send_replace(true);
        serving.await
    });
    // A password check under way is of no use to anybody any more.
    runtime.shutdown_background();
    served
}

/// What a Blitz has to know to serve.
#[derive(Debug, Clone)]
struct Setup {
    server: ServerId,
    paths: Paths,
    settings: Settings,
    cores: usize,
    /// How this program is called to probe; `None` for no probes.
    probe: Option<Vec<OsString>>,
}

impl Setup {
    fn of(
        options: &Options,
        server: Option<OsString>,
        state: Option<OsString>,
    ) -> Result<Self, BlitzError> {
        let (omerodir, server) = identity(server)?;
        let state = state
            .filter(|state| !state.is_empty())
            .map_or_else(|| omerodir.clone(), PathBuf::from);
        let properties = match &options.ice_config {
            Some(path) => Properties::read(path).map_err(BlitzError::Properties)?,
            None => Properties::default(),
        };
        Ok(Self {
            server,
            paths: Paths::new(omerodir, state),
            settings: Settings::of(&properties).map_err(BlitzError::Properties)?,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            probe: Some(probe::arguments(options.ice_config.as_deref())),
        })
    }
}

/// Splits `OMERODIR/ID/instance`; ids contain no slash.
fn identity(value: Option<OsString>) -> Result<(PathBuf, ServerId), BlitzError> {
    let bad = |problem: &str| BlitzError::Identity {
        problem: problem.to_owned(),
    };
    let value = value.ok_or_else(|| bad("it is not set"))?;
    let value = Path::new(&value);
    let id = value.parent().ok_or_else(|| bad("it is empty"))?;
    let omerodir = id
        .parent()
        .filter(|dir| dir.is_absolute())
        .ok_or_else(|| bad("it is not of the form OMERODIR/ID/instance"))?;
    let name = id
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| bad("the server's id is not UTF-8"))?;
    let server = name.parse().map_err(BlitzError::Name)?;
    Ok((omerodir.to_owned(), server))
}

/// Writes to one resource of the Blitz that called this program so, and takes it back.
///
/// With `make`, directories are made where they are missing. Blocks, on a file system that hangs for as long as that hangs.
pub fn probe(target: ProbeTarget, make: bool, options: &Options) -> Result<Finding, BlitzError> {
    let setup = Setup::of(options, std::env::var_os(SERVER), std::env::var_os(STATE))?;
    Ok(probe::probe(
        target,
        make,
        &setup.settings,
        &setup.server,
        &setup.paths,
    ))
}

/// Serves until `to_stop` is sent true, which may also be asked for over Ice; calls `ready` once requests are answered.
///
/// When the database can no longer be written, or can be again, everything is opened anew: sessions go on in the other place.
async fn serve(
    setup: Setup,
    to_stop: watch::Sender<bool>,
    ready: impl FnOnce(),
) -> Result<(), BlitzError> {
    let stop = to_stop.subscribe();
    let run_dir = RunDir::create(setup.paths.state()).map_err(BlitzError::RunDir)?;
    let address = run_dir.socket(Address::Blitz(&setup.server));
    // Held until this function ends; the kernel releases it with the process.
    let _lock = lock(&setup.server, setup.paths.state(), &address)?;
    let guard = Guard::begin(
        setup.server.clone(),
        &setup.settings.read_only,
        setup.settings.repository(&setup.paths).is_some(),
        setup.probe.as_deref(),
    )
    .await;
    let repository = setup.settings.repository(&setup.paths).map(|places| {
        let socket = run_dir.socket(Address::Data(&setup.server));
        Repository::new(setup.server.clone(), places, socket, guard.reasons())
    });
    let keeping = async {
        match &repository {
            Some(repository) => repository.clone().keep().await,
            None => std::future::pending().await,
        }
    };
    let _data = match &repository {
        Some(repository) => Some(repository::serve(repository).map_err(BlitzError::Data)?),
        None => None,
    };
    let workshop = Workshop::new(&setup.settings, &setup.paths).map_err(BlitzError::Process)?;
    if setup.probe.is_some() {
        let workshop = workshop.clone();
        // Beside everything else: only scripts need it.
        tokio::task::spawn_blocking(move || workshop.prepare().is_ok());
    }
    let uuid = Uuid::new_v4().to_string();
    let face = Face::open(&setup.server, &uuid, &setup.settings.all, to_stop)
        .await
        .map_err(BlitzError::Ice)?;
    let door = face.as_ref().map(Face::door);
    let mut facing = JoinSet::new();
    if let Some(face) = face {
        facing.spawn(face.serve(stop.clone()));
    }
    let place = Place {
        run_dir,
        address,
        uuid,
        door,
        reasons: guard.reasons(),
        repository: repository.clone(),
        workshop,
        setup,
    };
    let living = async {
        let (mut ready, mut draining) = (Some(ready), false);
        while let Ended::Turned { draining: was } = place
            .live(stop.clone(), draining, || {
                if let Some(ready) = ready.take() {
                    ready();
                }
            })
            .await?
        {
            draining = was;
        }
        Ok(())
    };
    let workshop = place.workshop.clone();
    let ended = tokio::select! {
        // Not cancelled before its end: the others go on for ever.
        ended = living => ended,
        () = guard.watch() => Ok(()),
        () = keeping => Ok(()),
    };
    workshop.close().await;
    // Whoever fails leaves the registry to those who see to that: another process may have taken over.
    if ended.is_ok() && *stop.borrow() {
        while let Some(faced) = facing.join_next().await {
            if let Err(error) = faced {
                warn!(%error, "the Ice adapter had failed");
            }
        }
    }
    ended
}

/// Takes the lock of a server id, which the kernel releases with the process.
fn lock(server: &ServerId, state: &Path, address: &Path) -> Result<File, BlitzError> {
    let name = address.file_name().unwrap_or_default().to_string_lossy();
    let path = state.join(format!("var/run/{name}.lock"));
    let fail = |source| BlitzError::Lock {
        path: path.clone(),
        source,
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    for last in (0..LOOKS).map(|n| n == LOOKS - 1) {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if last => break,
            // Somebody may only be looking, which takes microseconds.
            Err(TryLockError::WouldBlock) => pause(),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
    }
    Err(BlitzError::Running {
        server: server.clone(),
        path,
    })
}

/// How often a lock that is held is tried again, with a pause of [`pause`] between.
const LOOKS: u32 = 50;

fn pause() {
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing tells that a lock of a file was released but waiting for it without a limit"
    )]
    std::thread::sleep(std::time::Duration::from_millis(2));
}

/// Returns whether a server holds its lease: the lock that [`lock`] takes. What cannot be found out counts as held.
fn is_held(server: &str, run_dir: &RunDir, state: &Path) -> bool {
    let Ok(server) = server.parse::<ServerId>() else {
        return true;
    };
    let address = run_dir.socket(Address::Blitz(&server));
    let name = address.file_name().unwrap_or_default().to_string_lossy();
    match File::open(state.join(format!("var/run/{name}.lock"))) {
        // Closing the file lets go of the lock.
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Turns SIGTERM and SIGINT into bytes on a socket.
fn signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGTERM, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, write)?;
    Ok(read)
}

fn ready(socket: Option<OsString>) {
    if let Some(socket) = socket.filter(|socket| !socket.is_empty())
        && let Err(error) = crate::sys::notify::send(&socket, "READY=1\n")
    {
        warn!(error = %chain(&error), "cannot tell the node that this Blitz is ready");
    }
}

#[cfg(test)]
mod tests;
