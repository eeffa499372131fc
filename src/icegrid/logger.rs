//! `Ice::LoggerAdmin` of nodes and of the registry: what their logs say, and what is added to them.
//!
//! A log is the file that its process writes. Of its end as much is looked at as Ice would keep in memory; whoever follows it is told from the
//! file too, so that however slow a remote logger is, nothing waits for it in memory. It is told for as long as the session lasts that
//! attached it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tracing::{Level, debug};

use super::face::Grid;
use super::operation::{Outcome, Raised, later, now, params};
use super::session::Open;
use super::types::{LogMessage, LogMessageType, RemoteLoggerAlreadyAttachedException};
use crate::ice::net::{Answer, Call, Incoming, Responder, Servant, Served};
use crate::ice::{Encode, Missing, Mode, Proxy};
use crate::sys::watch::{Writes, appearance};
use crate::telemetry::entries;

/// How many messages are looked at, and how many traces beside them: what Ice keeps (`Ice.Admin.Logger.KeepLogs`, `.KeepTraces`).
const KEPT: usize = 100;

/// How much of the end of a log is searched for them, in bytes.
const TAIL: u64 = 256 * 1024;

/// How long a remote logger may take to hear something.
const HEAR: Duration = Duration::from_secs(10);

/// How many remote loggers a session may attach.
const LOGGERS_MAX: usize = 100;

/// What stands before the messages, where Ice has the name of its program.
const PREFIX: &str = "omero-grid";

/// The remote loggers of a session: which log, and by which proxy.
pub(super) type Attached = Mutex<HashMap<(PathBuf, Proxy), AbortHandle>>;

fn lock(attached: &Attached) -> MutexGuard<'_, HashMap<(PathBuf, Proxy), AbortHandle>> {
    attached.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The servant of one log.
pub(super) struct LoggerAdmin {
    pub(super) grid: Arc<Grid>,
    pub(super) session: Arc<Open>,
    pub(super) path: PathBuf,
}

impl Servant for LoggerAdmin {
    fn types(&self) -> &[&str] {
        &["::Ice::LoggerAdmin"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            "getLog" => match Wanted::of(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok(wanted) => {
                    let mut log = Log::new(self.path.clone());
                    later(responder, async move {
                        let messages = blocking(move || log.kept()).await?;
                        // An out-parameter comes before the result.
                        Ok((PREFIX.to_owned(), wanted.last_of(messages)))
                    })
                }
            },
            "attachRemoteLogger" => {
                type Asked = (Option<Proxy>, Vec<LogMessageType>, Vec<String>, i32);
                let attached =
                    params::<Asked>(incoming).and_then(|(to, kinds, categories, max)| {
                        let wanted = Wanted {
                            kinds,
                            categories,
                            max,
                        };
                        match to {
                            // Nobody has nothing to hear.
                            None => Ok(()),
                            Some(to) => self.attach(to, wanted),
                        }
                    });
                now(responder, attached)
            }
            "detachRemoteLogger" => now(
                responder,
                params::<Option<Proxy>>(incoming).map(|to| match to {
                    None => false,
                    Some(to) => {
                        let key = (self.path.clone(), to);
                        let known = lock(&self.session.loggers).remove(&key);
                        known.inspect(AbortHandle::abort).is_some()
                    }
                }),
            ),
            _ => responder.missing(Missing::Operation),
        }
    }
}

impl LoggerAdmin {
    fn attach(&self, to: Proxy, wanted: Wanted) -> Outcome<()> {
        // One that goes to the journal has no file.
        if !self.path.exists() {
            let path = self.path.display();
            return Err(Raised::Failed(format!("there is no log at {path}")));
        }
        let mut attached = lock(&self.session.loggers);
        attached.retain(|_, told| !told.is_finished());
        let key = (self.path.clone(), to.clone());
        if attached.contains_key(&key) {
            return Err(RemoteLoggerAlreadyAttachedException {}.into());
        }
        if attached.len() >= LOGGERS_MAX {
            return Err(Raised::Failed(
                "too many remote loggers are attached".to_owned(),
            ));
        }
        let follow = follow(self.grid.clone(), Log::new(self.path.clone()), to, wanted);
        attached.insert(key, self.session.during(&self.grid, follow));
        Ok(())
    }
}

/// Tells a remote logger what a log says, and what is added to it, until it cannot be told.
async fn follow(grid: Arc<Grid>, mut log: Log, to: Proxy, wanted: Wanted) {
    let told = async {
        let writes = Writes::new()?;
        let (mut messages, mut begun) = (Vec::new(), false);
        loop {
            // Watched first, read then: what is written in between wakes us again.
            appearance(&log.path).await?;
            writes.once(&log.path)?;
            let read;
            (log, read) = tokio::task::spawn_blocking(move || {
                let read = match begun {
                    false => log.kept(),
                    true => log.more(),
                };
                (log, read)
            })
            .await
            .map_err(io::Error::other)?;
            messages.extend(read?);
            if !begun {
                begun = true;
                let all = wanted.last_of(std::mem::take(&mut messages));
                tell(&grid, &to, "init", (PREFIX, all)).await?;
            }
            for message in messages.drain(..).filter(|message| wanted.has(message)) {
                tell(&grid, &to, "log", message).await?;
            }
            writes.next().await?;
        }
    };
    let told: io::Result<()> = told.await;
    if let Err(error) = told {
        debug!(logger = ?to.identity, %error, "a remote logger is dropped");
    }
}

async fn tell(grid: &Grid, to: &Proxy, operation: &str, what: impl Encode) -> io::Result<()> {
    let call = Call::new(to, operation, Mode::Normal).with(|writer| what.encode(writer));
    match grid.resolver().invoke(to, &call, Some(HEAR)).await {
        Ok(Answer::Done { .. }) => Ok(()),
        Ok(other) => Err(io::Error::other(format!("it answers {other:?}"))),
        Err(error) => Err(io::Error::other(error)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(io::Error::other).flatten();
    done.map_err(|error| Raised::Failed(format!("the log cannot be read: {error}")))
}

/// Which messages are wanted.
#[derive(Debug)]
struct Wanted {
    /// Of these kinds; none for all.
    kinds: Vec<LogMessageType>,
    /// Traces of these categories; none for all.
    categories: Vec<String>,
    /// How many of the last; below zero for all.
    max: i32,
}

impl Wanted {
    fn of(incoming: &Incoming<'_>) -> Outcome<Self> {
        let (kinds, categories, max) = params(incoming)?;
        Ok(Self {
            kinds,
            categories,
            max,
        })
    }

    fn has(&self, message: &LogMessage) -> bool {
        let is_trace = message.kind == LogMessageType::TraceMessage;
        (self.kinds.is_empty() || self.kinds.contains(&message.kind))
            && (!is_trace
                || self.categories.is_empty()
                || self.categories.contains(&message.trace_category))
    }

    fn last_of(&self, mut messages: Vec<LogMessage>) -> Vec<LogMessage> {
        messages.retain(|message| self.has(message));
        let max = usize::try_from(self.max).unwrap_or(usize::MAX);
        messages.split_off(messages.len().saturating_sub(max))
    }
}

/// A log file, and how far it has been read.
struct Log {
    path: PathBuf,
    read: u64,
}

impl Log {
    fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// Reads the last messages, as many as Ice would keep.
    fn kept(&mut self) -> io::Result<Vec<LogMessage>> {
        let mut messages = self.more()?;
        let mut room = [KEPT; 2];
        let mut keep: Vec<bool> = Vec::with_capacity(messages.len());
        for message in messages.iter().rev() {
            let room = &mut room[usize::from(message.kind == LogMessageType::TraceMessage)];
            keep.push(*room > 0);
            *room = room.saturating_sub(1);
        }
        messages.retain(|_| keep.pop().unwrap_or(false));
        Ok(messages)
    }

    /// Reads what is there since the last time: of more than is looked at, the end.
    fn more(&mut self) -> io::Result<Vec<LogMessage>> {
        let mut file = File::open(&self.path)?;
        let end = file.metadata()?.len();
        // A file that shrank is another.
        if end < self.read {
            self.read = 0;
        }
        let begin = self.read.max(end.saturating_sub(TAIL));
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(end - begin).read_to_end(&mut bytes)?;
        // A line that has no end yet is for the next time.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(whole.map_or(0, |last| last + 1));
        self.read = begin + bytes.len() as u64;
        let log = String::from_utf8_lossy(&bytes);
        Ok(entries(&log).into_iter().map(message).collect())
    }
}

/// Says in the words of Ice what was logged: what is neither a warning nor an error is a trace of its module.
fn message(entry: crate::telemetry::Entry) -> LogMessage {
    let (kind, trace_category) = match entry.level {
        Level::ERROR => (LogMessageType::ErrorMessage, String::new()),
        Level::WARN => (LogMessageType::WarningMessage, String::new()),
        Level::INFO | Level::DEBUG | Level::TRACE => (LogMessageType::TraceMessage, entry.module),
    };
    LogMessage {
        kind,
        timestamp: entry.at_us,
        trace_category,
        message: entry.text,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(level: &str, module: &str, text: &str) -> String {
        format!("2026-01-01 12:00:00,123 {level:<5} [{module}] (main) {text}\n")
    }

    fn texts(messages: &[LogMessage]) -> Vec<&str> {
        messages.iter().map(|m| m.message.as_str()).collect()
    }

    #[test]
    fn as_many_are_kept_of_either_kind_as_ice_keeps() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(line("ERROR", "m", "first").as_bytes())
            .unwrap();
        for number in 0..150 {
            let text = line("INFO", "m", &number.to_string());
            file.write_all(text.as_bytes()).unwrap();
        }
        file.write_all(b"2026-01-01 12:00:00,123 WARN  [m] (main) half")
            .unwrap();
        let mut log = Log::new(file.path().to_owned());
        let kept = log.kept().unwrap();
        assert_eq!(kept.len(), 101);
        assert_eq!(texts(&kept[..2]), ["first", "50"]);
        assert_eq!(kept[0].kind, LogMessageType::ErrorMessage);
        assert_eq!(kept[1].trace_category, "m");
        // Its other half, and a file that begins anew.
        file.write_all(b" and whole\n").unwrap();
        assert_eq!(texts(&log.more().unwrap()), ["half and whole"]);
        assert_eq!(log.more().unwrap(), []);
        std::fs::write(file.path(), line("DEBUG", "m", "anew")).unwrap();
        assert_eq!(texts(&log.more().unwrap()), ["anew"]);
    }

    #[test]
    fn of_what_is_wanted_the_last_are_told() {
        let of = |kind, category: &str, text: &str| LogMessage {
            kind,
            timestamp: 0,
            trace_category: category.to_owned(),
            message: text.to_owned(),
        };
        use LogMessageType::{ErrorMessage, TraceMessage};
        let all = || {
            vec![
                of(ErrorMessage, "", "e"),
                of(TraceMessage, "a", "1"),
                of(TraceMessage, "b", "2"),
            ]
        };
        let told = |kinds: &[LogMessageType], categories: &[&str], max| {
            let wanted = Wanted {
                kinds: kinds.to_vec(),
                categories: categories.iter().map(|c| (*c).to_owned()).collect(),
                max,
            };
            let last = wanted.last_of(all());
            texts(&last).join(" ")
        };
        assert_eq!(told(&[], &[], -1), "e 1 2");
        assert_eq!(told(&[], &[], 2), "1 2");
        assert_eq!(told(&[], &[], 0), "");
        assert_eq!(told(&[TraceMessage], &[], -1), "1 2");
        // Categories are those of traces.
        assert_eq!(told(&[], &["a"], -1), "e 1");
        assert_eq!(told(&[ErrorMessage], &["a"], -1), "e");
    }
}
