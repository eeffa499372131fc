//! Requests about scripts: what runs, and the temporary directory that it works in.
//!
//! A run is begun, and then waited for in turns, so that no request takes for ever. One that nobody has waited for during
//! [`INTEREST`] is ended: whoever began it is gone.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::properties::Settings;
use super::repository::User;
use super::scripts::{self, End, Finished, Running, Scripts};
use super::service::Blitz;
use super::temporary::Temporary;
use crate::config::Paths;
use crate::ipc::message::blitz::{Authority, Reply};
use crate::ipc::message::data::{ScriptAction, ScriptEnd};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::ExitStatus;
use crate::telemetry::chain;

/// How much of each stream is answered, in bytes; the end counts.
const SHOWN: u64 = 1024 * 1024;

/// How long a script runs on without anybody waiting for it, and how long the news of its end are kept.
const INTEREST: Duration = Duration::from_secs(30);

/// The longest turn of waiting.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The scripts of a process, and where their files are.
pub(super) struct Workshop {
    scripts: Scripts,
    temporary: OnceLock<Result<Temporary, String>>,
    runs: Mutex<HashMap<String, Arc<Run>>>,
}

/// One run of a script.
struct Run {
    /// Who began it.
    user: u64,
    /// How it ended, once it has.
    end: watch::Sender<Option<Result<ScriptEnd, Refusal>>>,
    /// Until when somebody is interested.
    wanted: watch::Sender<Instant>,
}

impl Run {
    fn is_wanted(&self, until: Instant) {
        self.wanted.send_replace(until);
    }
}

impl Workshop {
    /// Takes note of where the scripts are; touches nothing.
    pub(super) fn new(settings: &Settings, paths: &Paths) -> io::Result<Arc<Self>> {
        let property = |name: &str| settings.all.get(name).cloned();
        let dir = paths.dir().join(&settings.scripts_dir);
        let settings = scripts::Settings::new(dir, settings.script_timeout, property);
        Ok(Arc::new(Self {
            scripts: Scripts::new(settings)?,
            temporary: OnceLock::new(),
            runs: Mutex::default(),
        }))
    }

    /// Ends every script; returns when nothing of them is left.
    pub(super) async fn close(&self) {
        self.scripts.close().await;
    }

    /// Makes the temporary directory, which removes those of processes that have died. Blocks.
    pub(super) fn prepare(&self) -> Result<&Temporary, String> {
        let made = self.temporary.get_or_init(|| {
            Temporary::create().map_err(|error| {
                let error = error.to_string();
                warn!(error, "no script can be run");
                error
            })
        });
        made.as_ref().map_err(Clone::clone)
    }
}

impl Blitz {
    pub(super) async fn script(
        self: Arc<Self>,
        action: ScriptAction,
        by: Authority,
    ) -> Result<Reply, Refusal> {
        let user = self.asking(by).await?;
        let workshop = self.workshop.clone();
        match action {
            ScriptAction::List => {
                let catalogue = blocking(move || workshop.scripts.list()).await?;
                let catalogue = catalogue.map_err(|error| refuse(&error))?;
                Ok(Reply::Scripts {
                    scripts: catalogue.scripts,
                    more: catalogue.more,
                })
            }
            ScriptAction::Run { path, arguments } => {
                self.require_writable("run a script")?;
                info!(script = path, user = user.name, "runs a script");
                let request = scripts::Request {
                    script: path,
                    arguments,
                    env: vec![("OMERO_USER".into(), user.name.into())],
                };
                let at_work = workshop.clone();
                let running = blocking(move || {
                    let temporary = at_work
                        .prepare()
                        .map_err(|error| Refusal::new(RefusalKind::Failed, error))?;
                    at_work
                        .scripts
                        .start(&request, temporary.path())
                        .map_err(|error| refuse(&error))
                });
                let id = workshop.keep(running.await??, user.id);
                Ok(Reply::ScriptRuns {
                    run: id,
                    server: self.server.to_string(),
                })
            }
            ScriptAction::Wait { run: id, .. } => {
                let run = workshop.run_of(&id, &user)?;
                run.is_wanted(Instant::now() + MAX_WAIT + INTEREST);
                let mut end = run.end.subscribe();
                // Cancel safe: a watch loses nothing.
                match tokio::time::timeout(MAX_WAIT, end.wait_for(Option::is_some)).await {
                    Ok(Ok(ended)) => match ended.clone() {
                        Some(result) => result.map(Reply::ScriptEnded),
                        None => Err(failed()),
                    },
                    Ok(Err(_)) => Err(failed()),
                    Err(_) => Ok(Reply::ScriptRuns {
                        run: id,
                        server: self.server.to_string(),
                    }),
                }
            }
            ScriptAction::End { run: id, .. } => {
                workshop.run_of(&id, &user)?.is_wanted(Instant::now());
                Ok(Reply::Done)
            }
        }
    }
}

impl Workshop {
    /// Sees to a script until it ends, or nobody waits for it any more.
    fn keep(self: &Arc<Self>, running: Running, user: u64) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let run = Arc::new(Run {
            user,
            end: watch::Sender::new(None),
            wanted: watch::Sender::new(Instant::now() + INTEREST),
        });
        self.runs().insert(id.clone(), run.clone());
        let (this, key) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let mut wanted = run.wanted.subscribe();
            // What nobody wants any more is ended by this being dropped.
            let mut finished = Box::pin(running.finished());
            let ended = loop {
                let until = *wanted.borrow_and_update();
                tokio::select! {
                    // Cancel safe: the script's thread keeps what it has to tell, and the rest only waits.
                    finished = &mut finished => break finished,
                    () = tokio::time::sleep_until(until) => break None,
                    _ = wanted.changed() => {}
                }
            };
            drop(finished);
            let result = match ended {
                Some(finished) => blocking(move || report(finished)).await.and_then(|end| end),
                None => Err(Refusal::new(RefusalKind::Failed, "the script was ended")),
            };
            run.end.send_replace(Some(result));
            tokio::time::sleep(INTEREST).await;
            this.runs().remove(&key);
        });
        id
    }

    /// Returns a run of this user; administrators see every one.
    fn run_of(&self, id: &str, user: &User) -> Result<Arc<Run>, Refusal> {
        let runs = self.runs();
        let run = runs.get(id).filter(|run| user.admin || run.user == user.id);
        run.cloned()
            .ok_or_else(|| Refusal::new(RefusalKind::NotFound, "that script does not run any more"))
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something that blocks in a thread of its own, so that a file system that hangs holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("scripts".to_owned())
        .spawn(move || {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(work());
        })
        .map_err(|error| Refusal::new(RefusalKind::Failed, format!("no thread: {error}")))?;
    answered.await.map_err(|_| failed())
}

fn report(finished: Finished) -> Result<ScriptEnd, Refusal> {
    let read = |error: std::io::Error| {
        Refusal::new(
            RefusalKind::Failed,
            format!("cannot read what the script wrote: {error}"),
        )
    };
    let (stdout, all_out) = finished.stdout.tail(SHOWN).map_err(read)?;
    let (stderr, all_err) = finished.stderr.tail(SHOWN).map_err(read)?;
    info!(
        exit = %finished.exit,
        stdout = finished.stdout.written,
        stderr = finished.stderr.written,
        "a script has ended"
    );
    let (code, signal) = match finished.exit {
        ExitStatus::Code(code) => (Some(code), None),
        ExitStatus::Signal(signal) => (None, Some(signal)),
        ExitStatus::Unknown => (None, None),
    };
    Ok(ScriptEnd {
        code,
        signal,
        timed_out: finished.end == End::TimeLimit,
        took_ms: u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX),
        stdout,
        stderr,
        truncated: !(all_out && all_err),
    })
}

fn refuse(error: &scripts::ScriptError) -> Refusal {
    use scripts::ScriptError;
    let kind = match error {
        ScriptError::Missing { .. } | ScriptError::Directory { .. } => RefusalKind::NotFound,
        ScriptError::Outside { .. }
        | ScriptError::Unknown { .. }
        | ScriptError::Argument { .. }
        | ScriptError::Arguments => RefusalKind::Invalid,
        ScriptError::Busy => RefusalKind::Unavailable,
        _ => RefusalKind::Failed,
    };
    Refusal::new(kind, chain(error))
}

fn failed() -> Refusal {
    Refusal::new(RefusalKind::Failed, "the script's thread has failed")
}
