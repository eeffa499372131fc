//! `omero-grid session create|join|list|close`.

use std::io::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::{Context, Grid, strange};
use super::failure::Failure;
use super::secret::{PasswordArgs, SessionArgs, session_id};
use super::status::{length, plain_table};
use crate::ipc::message::blitz::{Create, Target};
use crate::ipc::message::client::{Placed, Reply, Request};
use crate::model::{ServerId, SessionId};

/// How many sessions are asked for at once.
const PAGE: u32 = 1000;

/// Arguments of `session`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Log in and print the new session's UUID, which works as a password for the session
    Create {
        /// The user to log in as
        #[arg(long, value_name = "NAME")]
        user: String,
        /// The Blitz to open it on [default: the grid chooses]
        #[arg(long, value_name = "ID")]
        via: Option<ServerId>,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Join an open session
    Join {
        /// The session's UUID, `-` to read it from standard input, or `@FILE` to read it from a file
        uuid: String,
    },
    /// List the open sessions
    List {
        /// Show whole UUIDs, which work as passwords
        #[arg(long)]
        reveal: bool,
    },
    /// End a session, whoever is still joined to it
    Close {
        /// The session's UUID, or the id that `session list` shows
        #[arg(value_name = "UUID|ID")]
        session_or_prefix: String,
        #[command(flatten)]
        session: SessionArgs,
    },
}

pub(crate) async fn run(context: &Context, args: SessionCommand) -> Result<(), Failure> {
    let grid = context.grid().await?;
    match args.command {
        Command::Create {
            user,
            via,
            password,
        } => {
            let password = password.read(&format!("password of {user}"), false)?;
            let agent = "omero-grid".to_owned();
            let create = Create {
                user,
                password,
                agent,
                ip: String::new(),
                time_to_idle_ms: None,
                time_to_live_ms: None,
                token: None,
                group: String::new(),
                event: String::new(),
            };
            placed(
                context,
                grid.call(Request::CreateSession { create, via }).await?,
                "is open",
            )
        }
        Command::Join { uuid } => {
            let session = session_id(&uuid)?;
            placed(
                context,
                grid.call(Request::JoinSession { session }).await?,
                "was joined",
            )
        }
        Command::List { reveal } => list(context, &grid, reveal).await,
        Command::Close {
            session_or_prefix,
            session,
        } => {
            let target = match SessionId::parse(&session_or_prefix) {
                Some(session) => Target::Uuid { session },
                None => Target::Prefix {
                    prefix: session_or_prefix,
                },
            };
            let request = Request::CloseSession {
                target,
                authority: session.authority()?,
            };
            let Reply::Closed {
                session,
                server,
                user,
            } = grid.call(request).await?
            else {
                return Err(strange());
            };
            if context.is_json() {
                return context
                    .json(&json!({ "id": session.short(), "server": server, "user": user }));
            }
            context.say(format!("closed session {session} of {user} on {server}"))
        }
    }
}

fn placed(context: &Context, reply: Reply, what: &str) -> Result<(), Failure> {
    let Reply::Placed(placed) = reply else {
        return Err(strange());
    };
    let Placed {
        session,
        server,
        node,
    } = placed;
    if context.is_json() {
        return context.json(&json!({
            "uuid": session.uuid.reveal(),
            "server": server,
            "node": node,
            "user": session.user,
            "time_to_idle_ms": session.time_to_idle_ms,
            "time_to_live_ms": session.time_to_live_ms,
        }));
    }
    // The UUID alone on standard output, so that a script can take it.
    let note = format!(
        "session of {} {what} on {server} (node {node}); it ends after {} without use",
        session.user,
        length(session.time_to_idle_ms)
    );
    if !context.quiet {
        writeln!(anstream::stderr(), "{note}")?;
    }
    writeln!(std::io::stdout(), "{}", session.uuid.reveal())?;
    Ok(())
}

async fn list(context: &Context, grid: &Grid, reveal: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let Reply::Sessions { sessions, next } = grid
            .call(Request::ListSessions {
                cursor,
                limit: PAGE,
            })
            .await?
        else {
            return Err(strange());
        };
        all.extend(sessions);
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    if context.is_json() {
        let documents: Vec<_> = all.iter().map(|placed| document(placed, reveal)).collect();
        return context.json(&documents);
    }
    if all.is_empty() {
        return context.say("no open sessions");
    }
    let mut table = plain_table(&[
        if reveal { "UUID" } else { "ID" },
        "USER",
        "SERVER",
        "NODE",
        "AGENT",
        "IDLE",
        "JOINED",
    ]);
    for Placed {
        session,
        server,
        node,
    } in &all
    {
        table.add_row([
            if reveal {
                session.uuid.reveal()
            } else {
                session.uuid.short()
            },
            session.user.clone(),
            server.to_string(),
            node.to_string(),
            session.agent.clone(),
            length(session.idle_ms),
            session.references.to_string(),
        ]);
    }
    context.table(&table)
}

fn document(placed: &Placed, reveal: bool) -> Value {
    let Placed {
        session,
        server,
        node,
    } = placed;
    let mut document = json!({
        "id": session.uuid.short(),
        "server": server,
        "node": node,
        "user": session.user,
        "agent": session.agent,
        "ip": session.ip,
        "idle_ms": session.idle_ms,
        "started_ms": session.started_ms,
        "time_to_idle_ms": session.time_to_idle_ms,
        "time_to_live_ms": session.time_to_live_ms,
        "references": session.references,
    });
    if reveal {
        document["uuid"] = json!(session.uuid.reveal());
    }
    document
}
