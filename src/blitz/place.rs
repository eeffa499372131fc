//! The lives of a Blitz within one process: another begins when its database can no longer be written, or can be again.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use super::clock::Clock;
use super::ice::Door;
use super::images::Images;
use super::lease::Lease;
use super::login::Login;
use super::repository::Repository;
use super::service::{Blitz, Parts};
use super::workshop::Workshop;
use super::{BlitzError, Setup, is_held};
use crate::ipc::message::blitz::{BlitzLink, ReadOnlyReason};
use crate::ipc::{Hello, Listener, Role, RunDir};
use crate::store::{self, Layered, Opened, Sqlite, Store, StoreChoice, StoreError, StoreHandle};
use crate::sys::clock::since_boot;
use crate::telemetry::chain;

/// How one life of a Blitz ended.
pub(super) enum Ended {
    Stopped,
    /// The database can no longer be written, or can be again.
    Turned {
        draining: bool,
    },
}

/// What stays the same over the lives of a process.
pub(super) struct Place {
    pub(super) setup: Setup,
    pub(super) run_dir: RunDir,
    pub(super) address: PathBuf,
    /// OMERO's node UUID.
    pub(super) uuid: String,
    pub(super) reasons: watch::Receiver<ReadOnlyReason>,
    pub(super) repository: Option<Arc<Repository>>,
    pub(super) workshop: Arc<Workshop>,
    /// What Ice clients come through, where there is a registry.
    pub(super) door: Option<Arc<Door>>,
}

impl Place {
    /// Serves until `stop` becomes true or the database turns; calls `ready` once requests are answered.
    pub(super) async fn live(
        &self,
        stop: watch::Receiver<bool>,
        draining: bool,
        ready: impl FnOnce(),
    ) -> Result<Ended, BlitzError> {
        let Setup {
            server,
            paths,
            settings,
            cores,
            ..
        } = self.setup.clone();
        let reads_only = self.reasons.borrow().db.is_some();
        let asked = since_boot();
        let Opened {
            store,
            thread,
            adopted,
            lease,
        } = self
            .open_store(reads_only)
            .await
            .map_err(BlitzError::Store)?;
        let clock = Clock::start();
        let images = Images::new(&settings, &paths).map(Arc::new);
        let login = Login::new(store.clone(), clock, &settings, cores);
        let blitz = Blitz::new(Parts {
            server: server.clone(),
            uuid: self.uuid.clone(),
            paths,
            settings,
            clock,
            store: store.clone(),
            lease: Lease::new(lease, asked),
            login,
            read_only: self.reasons.clone(),
            repository: self.repository.clone(),
            images,
            workshop: self.workshop.clone(),
        });
        blitz.resume(adopted).await;
        blitz.set_draining(draining);
        let listener = Listener::bind(&self.address, &[]).map_err(BlitzError::Listen)?;
        info!(server = %server, path = %self.address.display(), "serves");

        let (end, ending) = watch::channel(false);
        let mut timers = tokio::task::JoinSet::new();
        timers.spawn(blitz.clone().run_timers(ending.clone()));
        timers.spawn(blitz.clone().keep_lease(ending.clone()));
        timers.spawn(blitz.clone().tell_read_only(ending.clone()));
        if let Some(door) = &self.door {
            timers.spawn(door.clone().attend(blitz.clone(), ending.clone()));
        }
        let me = Hello::new(Role::Blitz, server.as_str());
        let serving = listener.serve::<BlitzLink, _>(me, blitz.clone(), ending);
        tokio::pin!(serving);
        ready();
        let (mut superseded, mut turned) = (false, false);
        {
            let (mut stop, mut over) = (stop, blitz.superseded());
            let mut reasons = self.reasons.clone();
            tokio::select! {
                // Cancel safe: `serving` is polled on below; `wait_for` only reads. An error means that the sender is gone: stop too.
                () = &mut serving => {}
                _ = stop.wait_for(|stop| *stop) => {}
                _ = over.wait_for(|over| *over) => superseded = true,
                Ok(_) = reasons.wait_for(|reasons| reasons.db.is_some() != reads_only) => turned = true,
            }
        }
        end.send_replace(true);
        serving.await;
        while let Some(ended) = timers.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "a timer had failed");
            }
        }
        let stopped = if superseded {
            Err(BlitzError::Superseded {
                server: server.clone(),
            })
        } else {
            blitz.stop().await.map_err(|refusal| BlitzError::Stop {
                reason: refusal.message,
            })
        };
        store.close().await;
        if thread.join().is_err() {
            warn!("the thread of the store had failed");
        }
        if turned {
            // What can no longer be written cannot be told so.
            if let Err(error) = stopped {
                info!(%server, error = %chain(&error), "goes on without having told the store");
            }
            info!(%server, reads_only = !reads_only, "goes on in the other place");
            return Ok(Ended::Turned {
                draining: blitz.is_draining(),
            });
        }
        info!(server = %server, "stopped");
        stopped.map(|()| Ended::Stopped)
    }

    /// Opens the store that the properties name, and takes up the sessions of the server.
    async fn open_store(&self, reads_only: bool) -> Result<Opened, StoreError> {
        let Setup {
            settings,
            server,
            paths,
            ..
        } = self.setup.clone();
        let held = {
            let (run_dir, state) = (self.run_dir.clone(), paths.state().to_owned());
            move |server: &str| is_held(server, &run_dir, &state)
        };
        let process = Uuid::new_v4().to_string();
        let name = process.clone();
        let open = move || {
            let main: Box<dyn Store> = match &settings.store {
                StoreChoice::Embedded if reads_only => Box::new(Sqlite::read_only(&paths.store())?),
                StoreChoice::Embedded => {
                    Box::new(Sqlite::open(&paths.store())?.with_leases(held.clone()))
                }
                StoreChoice::Postgres(choice) => {
                    let grid = store::grid_id(&paths.grid_id())?;
                    Box::new(store::Postgres::open(choice, &grid, &name)?)
                }
            };
            let kept = paths.kept_sessions();
            Ok(Box::new(Layered::new(main, reads_only, &kept, held)) as Box<dyn Store>)
        };
        StoreHandle::open(open, server.as_str(), &process).await
    }
}
