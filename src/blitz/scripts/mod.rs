//! Scripts: which there are, and running them.
//!
//! A script is a file below the directory of scripts whose name or first line says which program runs it. It gets its arguments as
//! words `KEY=VALUE` after its own name, in the order in which they were given, and the environment of this Blitz with a temporary
//! directory of its own, which is also where it starts. Whatever it starts ends with it. Who may run what is its callers' business.

mod catalogue;
mod output;
mod run;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, TryAcquireError};

pub(crate) use catalogue::Catalogue;
pub(crate) use run::{End, Finished, Running};

use crate::sys::spawn::SpawnError;

/// Scripts that run at once; further ones are refused.
const MAX_RUNNING: usize = 16;

/// Arguments of a script, and bytes of one and of all of them: well below what the kernel passes on.
const MAX_ARGUMENTS: usize = 256;
const MAX_ARGUMENT: usize = 64 * 1024;
const MAX_ALL_ARGUMENTS: usize = 512 * 1024;

/// The media types of scripts, and what runs them.
const KINDS: [Kind; 4] = [
    Kind {
        mimetype: "text/x-python",
        extension: "py",
        property: "omero.launcher.python",
        program: "python3",
    },
    Kind {
        mimetype: "text/x-jython",
        extension: "jy",
        property: "omero.launcher.jython",
        program: "jython",
    },
    Kind {
        mimetype: "text/x-matlab",
        extension: "m",
        property: "omero.launcher.matlab",
        program: "matlab",
    },
    Kind {
        mimetype: "text/x-sh",
        extension: "sh",
        property: "omero.grid.launcher.sh",
        program: "sh",
    },
];

/// A kind of script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    mimetype: &'static str,
    /// What its files end with, after a dot.
    extension: &'static str,
    /// The property that names its launcher.
    property: &'static str,
    /// The launcher if the property is empty.
    program: &'static str,
}

/// Scripts that cannot be listed or run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    /// The directory of scripts cannot be read.
    #[error("cannot read the directory of scripts {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// There is no such script.
    #[error("there is no script {name:?}; 'script list' shows those that there are")]
    Missing {
        /// As it was asked for.
        name: String,
    },
    /// It is a path that leaves the directory of scripts, directly or by a link.
    #[error("{name:?} is not below the directory of scripts")]
    Outside {
        /// As it was asked for.
        name: String,
    },
    /// Nothing says which program runs it.
    #[error(
        "{name:?} is no script that can be run: its name ends with none of .py, .jy, .m, .sh, and its first line names no known program"
    )]
    Unknown {
        /// As it was asked for.
        name: String,
    },
    /// An argument cannot be passed on.
    #[error("the argument {key:?} {problem}")]
    Argument {
        /// Its key, shortened.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There are too many arguments.
    #[error("more than {MAX_ARGUMENTS} arguments, or more than {MAX_ALL_ARGUMENTS} bytes of them")]
    Arguments,
    /// This Blitz is about to end.
    #[error("this Blitz is stopping; it starts no script any more")]
    Stopping,
    /// Too many scripts run already.
    #[error("{MAX_RUNNING} scripts run already; try again later")]
    Busy,
    /// The directory of the run cannot be made.
    #[error("cannot make the temporary files of a script in {path:?}")]
    Temporary {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The launcher cannot be started.
    #[error(
        "cannot start {program:?} (property {property}), which runs scripts of type {mimetype}"
    )]
    Launcher {
        /// The program.
        program: String,
        /// The property that names it.
        property: &'static str,
        /// The type of the script.
        mimetype: &'static str,
        /// Why not.
        #[source]
        source: SpawnError,
    },
    /// Its run cannot be watched.
    #[error("cannot watch over a script")]
    Watch(#[source] io::Error),
}

/// How scripts are run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where they are: `omero.grid.scripts.dir`, below OMERODIR.
    pub(crate) dir: PathBuf,
    /// How long one may run: `omero.scripts.timeout`.
    pub(crate) limit: Duration,
    /// The launchers in [`KINDS`]' order.
    launchers: [String; KINDS.len()],
}

impl Settings {
    /// Takes the launchers from the properties that name them; empty ones count as absent.
    pub(crate) fn new(
        dir: PathBuf,
        limit: Duration,
        property: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let launchers = KINDS.map(|kind| {
            property(kind.property)
                .filter(|program| !program.trim().is_empty())
                .unwrap_or_else(|| kind.program.to_owned())
        });
        Self {
            dir,
            limit,
            launchers,
        }
    }

    fn launcher(&self, kind: Kind) -> &str {
        let known = KINDS.iter().zip(&self.launchers);
        let mut of_kind = known.filter(|(other, _)| **other == kind);
        of_kind.next().map_or(kind.program, |(_, program)| program)
    }
}

/// What is to be run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// The script, below the directory of scripts.
    pub(crate) script: String,
    /// Keys and values.
    pub(crate) arguments: Vec<(String, String)>,
    /// Variables beyond those of this process.
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// The scripts of one Blitz. Dropping this ends those that run.
#[derive(Debug)]
pub(crate) struct Scripts {
    settings: Settings,
    room: Arc<Semaphore>,
    /// Open until every script has to end: what watches over one waits for that too.
    open: Mutex<Option<PipeWriter>>,
    closed: Arc<PipeReader>,
}

impl Scripts {
    /// Takes the settings; looks at no script yet.
    pub(crate) fn new(settings: Settings) -> io::Result<Self> {
        let (closed, open) = io::pipe()?;
        Ok(Self {
            settings,
            room: Arc::new(Semaphore::new(MAX_RUNNING)),
            open: Mutex::new(Some(open)),
            closed: Arc::new(closed),
        })
    }

    /// Ends every script, and waits until nothing of them is left; starts none any more.
    ///
    /// Cancelling stops the waiting only.
    pub(crate) async fn close(&self) {
        drop(self.lock().take());
        let all = u32::try_from(MAX_RUNNING).unwrap_or(u32::MAX);
        // Closed already is as good.
        if self.room.acquire_many(all).await.is_ok() {
            self.room.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PipeWriter>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the scripts, in the order of their names. Blocks.
    pub(crate) fn list(&self) -> Result<Catalogue, ScriptError> {
        catalogue::list(&self.settings.dir)
    }

    /// Starts a script, with its files below `temporary`. Blocks for a moment.
    pub(crate) fn start(
        &self,
        request: &Request,
        temporary: &Path,
    ) -> Result<Running, ScriptError> {
        let words = words(&request.arguments)?;
        let (path, kind) = catalogue::find(&self.settings.dir, &request.script)?;
        if self.lock().is_none() {
            return Err(ScriptError::Stopping);
        }
        let permit = match Arc::clone(&self.room).try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => return Err(ScriptError::Busy),
            Err(TryAcquireError::Closed) => return Err(ScriptError::Stopping),
        };
        let launch = run::Launch {
            kind,
            program: self.settings.launcher(kind),
            script: path,
            words,
            env: &request.env,
            limit: self.settings.limit,
            closed: Arc::clone(&self.closed),
        };
        run::start(launch, temporary, permit)
    }
}

/// Makes the words of a command line of arguments.
fn words(arguments: &[(String, String)]) -> Result<Vec<OsString>, ScriptError> {
    let bytes: usize = arguments.iter().map(|(k, v)| k.len() + v.len() + 2).sum();
    if arguments.len() > MAX_ARGUMENTS || bytes > MAX_ALL_ARGUMENTS {
        return Err(ScriptError::Arguments);
    }
    let mut seen = HashSet::new();
    let word = |(key, value): &(String, String)| {
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        // Beginning with a letter, a word is no option of anybody's.
        let problem = if !key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            || !key.chars().all(letters)
        {
            "has a name that is not of letters, digits, '_', '-' and '.', beginning with a letter"
        } else if !seen.insert(key.clone()) {
            "is given twice"
        } else if value.contains('\0') {
            "contains a NUL character"
        } else if key.len() + value.len() > MAX_ARGUMENT {
            "is larger than 64 KiB"
        } else {
            return Ok(OsString::from(format!("{key}={value}")));
        };
        Err(ScriptError::Argument {
            key: key.chars().take(40).collect(),
            problem,
        })
    };
    arguments.iter().map(word).collect()
}

#[cfg(test)]
mod tests;
