//! The connection to a database: made when it is needed, given up when it does not answer, tried again with back-off.
//!
//! A call that fails before anything was asked to be committed has changed nothing, because the server undoes what its client left.
//! Each process names its connections alike and ends what an earlier one of its own left open, so that nothing half done holds locks.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, NoTls, Row, Statement};
use tracing::debug;

use crate::store::StoreError;
use crate::store::choice::Server;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the server may take over one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The first and the longest pause between two tries to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What every connection is set to: commits are on disk before they are acknowledged, and nobody waits or holds locks for ever.
const SETTINGS: &str = "
    SET statement_timeout = '9s'; SET lock_timeout = '9s'; SET idle_in_transaction_session_timeout = '20s';
    SET default_transaction_isolation = 'read committed'; SET client_min_messages = 'warning';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// A statement and its values.
pub(super) struct Step {
    pub(super) sql: &'static str,
    pub(super) values: Vec<Value>,
}

/// A value of a statement.
pub(super) type Value = Box<dyn ToSql + Sync + Send>;

/// Makes a step.
macro_rules! step {
    ($sql:expr $(, $value:expr)* $(,)?) => {
        $crate::store::postgres::link::Step {
            sql: $sql,
            values: vec![$(Box::new($value) as $crate::store::postgres::link::Value),*],
        }
    };
}
pub(super) use step;

/// Why something asked of the database was not answered as it should.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is lost or does not answer; what was under way is undone.
    Lost(String),
    /// The server had to undo it in favour of somebody else; to be tried again.
    Conflict(String),
    /// The server refuses.
    Refused(Box<Error>),
}

impl Fault {
    fn of(error: Error) -> Self {
        let text = || words(&error);
        let Some(state) = error.code() else {
            return match error.is_closed() || error.to_string().contains("communicating") {
                true => Self::Lost(text()),
                false => Self::Refused(Box::new(error)),
            };
        };
        match state.code().get(..2) {
            // Connection exception, operator intervention (shutdown, crash); but a time limit is ours.
            Some("08") => Self::Lost(text()),
            Some("57") if *state != SqlState::QUERY_CANCELED => Self::Lost(text()),
            _ if [
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
            ]
            .contains(state) =>
            {
                Self::Conflict(text())
            }
            _ => Self::Refused(Box::new(error)),
        }
    }

    /// Turns it into an error in words for an administrator.
    pub(super) fn into_error(self, operation: &'static str, server: &Server) -> StoreError {
        let at = server.to_string();
        match self {
            Self::Lost(reason) => StoreError::Unreachable { at, reason },
            Self::Conflict(reason) => StoreError::Database {
                operation,
                at,
                reason,
            },
            Self::Refused(error) => match error.code() {
                Some(state)
                    if [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME]
                        .contains(state) =>
                {
                    StoreError::NoSchema { at }
                }
                _ => StoreError::Database {
                    operation,
                    at,
                    reason: words(&error),
                },
            },
        }
    }
}

/// Returns what the server said, without the values of the statement.
fn words(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => match db.hint() {
            Some(hint) => format!("{} ({hint})", db.message()),
            None => db.message().to_owned(),
        },
        None => {
            use std::error::Error as _;
            match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            }
        }
    }
}

/// A connection that comes and goes.
pub(super) struct Link {
    server: Server,
    /// What the server is told this connection is.
    name: String,
    runtime: Runtime,
    connected: Option<Connected>,
    back_off: Option<BackOff>,
}

struct BackOff {
    until: Instant,
    pause: Duration,
    reason: String,
}

/// A connection that stands.
pub(super) struct Connected {
    client: Client,
    prepared: HashMap<&'static str, Statement>,
    /// Not to be used again.
    abandoned: bool,
}

impl Link {
    /// Prepares to connect; `name` is unique to this process.
    pub(super) fn new(server: Server, name: String) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StoreError::Thread)?;
        Ok(Self {
            server,
            name,
            runtime,
            connected: None,
            back_off: None,
        })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Does something on a connection that stands, within a time limit for each answer that `work` waits for.
    pub(super) fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connected) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.connect()?;
        let connected = self.connected.as_mut().expect("connected just now");
        let result = self.runtime.block_on(work(connected));
        if let Err(Fault::Lost(reason)) = &result {
            debug!(server = %self.server, reason, "lost the connection to the database");
            self.connected = None;
        }
        result
    }

    fn connect(&mut self) -> Result<(), Fault> {
        if self
            .connected
            .as_ref()
            .is_some_and(|connected| !connected.abandoned && !connected.client.is_closed())
        {
            return Ok(());
        }
        self.connected = None;
        if let Some(back_off) = &self.back_off
            && Instant::now() < back_off.until
        {
            return Err(Fault::Lost(back_off.reason.clone()));
        }
        match self.runtime.block_on(establish(&self.server, &self.name)) {
            Ok(client) => {
                self.back_off = None;
                self.connected = Some(Connected {
                    client,
                    prepared: HashMap::new(),
                    abandoned: false,
                });
                Ok(())
            }
            Err(fault) => {
                let (first, longest) = BACK_OFF;
                let pause = self
                    .back_off
                    .as_ref()
                    .map_or(first, |before| (before.pause * 2).min(longest));
                let reason = match &fault {
                    Fault::Lost(reason) | Fault::Conflict(reason) => reason.clone(),
                    Fault::Refused(error) => words(error),
                };
                self.back_off = Some(BackOff {
                    until: Instant::now() + pause,
                    pause,
                    reason: reason.clone(),
                });
                Err(Fault::Lost(reason))
            }
        }
    }
}

async fn establish(server: &Server, name: &str) -> Result<Client, Fault> {
    let mut config = server.0.clone();
    config
        .application_name(name)
        .connect_timeout(CONNECT)
        .tcp_user_timeout(ANSWER)
        .keepalives_idle(ANSWER);
    let connecting = tokio::time::timeout(CONNECT, config.connect(NoTls));
    let (client, connection) = match connecting.await {
        Ok(done) => done.map_err(Fault::of)?,
        Err(_) => return Err(Fault::Lost(format!("no answer within {CONNECT:?}"))),
    };
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(error = %words(&error), "a connection to the database has ended");
        }
    });
    in_time(client.batch_execute(SETTINGS)).await?;
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()";
    in_time(client.query(others, &[&name])).await?;
    Ok(client)
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(result) => result.map_err(Fault::of),
        Err(_) => Err(Fault::Lost(format!("no answer within {ANSWER:?}"))),
    }
}

impl Connected {
    /// Carries out one statement.
    pub(super) async fn one(&mut self, step: Step) -> Result<Vec<Row>, Fault> {
        let mut rows = self.all(vec![step]).await?;
        Ok(rows.pop().unwrap_or_default())
    }

    /// Carries out statements in their order, sent without waiting for each other's answers.
    pub(super) async fn all(&mut self, steps: Vec<Step>) -> Result<Vec<Vec<Row>>, Fault> {
        for step in &steps {
            if !self.prepared.contains_key(step.sql) {
                let statement = in_time(self.client.prepare(step.sql)).await?;
                self.prepared.insert(step.sql, statement);
            }
        }
        let answers = steps
            .iter()
            .map(|step| {
                let statement = self.prepared[step.sql].clone();
                let client = &self.client;
                async move {
                    let values: Vec<&(dyn ToSql + Sync)> =
                        step.values.iter().map(|value| &**value as _).collect();
                    client.query(&statement, &values).await
                }
            })
            .collect();
        in_time(in_order(answers)).await
    }

    /// Gives the connection up after the call under way.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Carries out text without values.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), Fault> {
        in_time(self.client.batch_execute(sql)).await
    }
}

/// Waits for all answers. Each question is sent when its future is first polled, so they are polled in their order.
async fn in_order<T, F: Future<Output = Result<T, Error>>>(
    questions: Vec<F>,
) -> Result<Vec<T>, Error> {
    let mut questions: Vec<Pin<Box<F>>> = questions.into_iter().map(Box::pin).collect();
    let mut answers: Vec<Option<T>> = questions.iter().map(|_| None).collect();
    // The answers come in the order of the questions.
    let mut next = 0;
    let mut asked = false;
    poll_fn(|context| {
        let until = if asked { next + 1 } else { questions.len() };
        asked = true;
        for n in next..until {
            if let Poll::Ready(answer) = questions[n].as_mut().poll(context) {
                answers[n] = Some(answer?);
            }
        }
        while next < questions.len() {
            if answers[next].is_none() {
                match questions[next].as_mut().poll(context) {
                    Poll::Ready(answer) => answers[next] = Some(answer?),
                    Poll::Pending => return Poll::Pending,
                }
            }
            next += 1;
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    Ok(answers.into_iter().flatten().collect())
}
