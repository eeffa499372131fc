//! `omero-grid session create|join|list|close|move`.

use std::io::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::{Context, Grid, strange};
use super::failure::Failure;
use super::secret::{PasswordArgs, SessionArgs, session_id};
use super::status::{length, plain_table};
use crate::ipc::message::blitz::{Create, Filter, Target};
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
        /// The group to work in [default: the user's own]
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        group: String,
        /// What the client calls itself
        #[arg(long, value_name = "TEXT", default_value = "omero-grid")]
        agent: String,
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
        /// Only those on this Blitz
        #[arg(long, value_name = "ID")]
        server: Option<ServerId>,
        /// Only those of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only those not used for so many seconds
        #[arg(long, value_name = "SECS", default_value_t = 0)]
        idle: u64,
    },
    /// End a session, whoever is still joined to it, or all sessions of a user
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Close {
        /// The session's UUID, or the id that `session list` shows
        #[arg(value_name = "UUID|ID", group = "which")]
        session_or_prefix: Option<String>,
        /// Close all sessions of this user
        #[arg(long, value_name = "NAME", group = "which")]
        user: Option<String>,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Move a session to another Blitz; whoever uses it goes on with the same UUID
    Move {
        /// The session's UUID, or the id that `session list` shows
        #[arg(value_name = "UUID|ID")]
        session_or_prefix: String,
        /// The Blitz that gets it
        #[arg(value_name = "BLITZ")]
        to: ServerId,
        /// Also to a Blitz that takes no new sessions
        #[arg(long)]
        force: bool,
    },
}

pub(crate) async fn run(context: &Context, args: SessionCommand) -> Result<(), Failure> {
    let grid = context.grid().await?;
    match args.command {
        Command::Create {
            user,
            via,
            group,
            agent,
            password,
        } => {
            let password = password.read(&format!("password of {user}"), false)?;
            let create = Create {
                user,
                password,
                agent,
                ip: String::new(),
                time_to_idle_ms: None,
                time_to_live_ms: None,
                // Asked again of another master it opens no second session.
                token: Some(uuid::Uuid::new_v4().to_string()),
                group,
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
        Command::List {
            reveal,
            server,
            user,
            idle,
        } => {
            let filter = Filter {
                user,
                idle_ms: idle.saturating_mul(1000),
            };
            list(context, &grid, reveal, server, filter).await
        }
        Command::Move {
            session_or_prefix,
            to,
            force,
        } => {
            let target = target(session_or_prefix);
            let request = Request::MoveSession { target, to, force };
            let Reply::Placed(placed) = grid.call(request).await? else {
                return Err(strange());
            };
            if context.is_json() {
                return context.json(&document(&placed, false));
            }
            context.say(format!(
                "session {} of {} is on {} now",
                placed.session.uuid, placed.session.user, placed.server
            ))
        }
        Command::Close {
            user: Some(user),
            session,
            ..
        } => close_user(context, &grid, &user, &session).await,
        Command::Close {
            session_or_prefix,
            session,
            user: None,
        } => {
            let request = Request::CloseSession {
                target: target(session_or_prefix.unwrap_or_default()),
                authority: session.authority(context)?,
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

fn target(session_or_prefix: String) -> Target {
    match SessionId::parse(&session_or_prefix) {
        Some(session) => Target::Uuid { session },
        None => Target::Prefix {
            prefix: session_or_prefix,
        },
    }
}

async fn close_user(
    context: &Context,
    grid: &Grid,
    user: &str,
    session: &SessionArgs,
) -> Result<(), Failure> {
    let authority = session.authority(context)?;
    let mut closed = Vec::new();
    loop {
        let request = Request::CloseUser {
            user: user.to_owned(),
            authority,
        };
        let Reply::ClosedSome { sessions, more } = grid.call(request).await? else {
            return Err(strange());
        };
        let none = sessions.is_empty();
        closed.extend(sessions);
        // A page of nothing would be asked for again for ever.
        if !more || none {
            break;
        }
    }
    if context.is_json() {
        let documents: Vec<_> = closed.iter().map(|p| document(p, false)).collect();
        return context.json(&documents);
    }
    for placed in &closed {
        context.say(format!(
            "closed session {} on {}",
            placed.session.uuid, placed.server
        ))?;
    }
    context.say(match closed.len() {
        0 => format!("user {user} has no open sessions"),
        1 => format!("closed 1 session of {user}"),
        n => format!("closed {n} sessions of {user}"),
    })
}

async fn list(
    context: &Context,
    grid: &Grid,
    reveal: bool,
    server: Option<ServerId>,
    filter: Filter,
) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let Reply::Sessions { sessions, next } = grid
            .call(Request::ListSessions {
                cursor,
                limit: PAGE,
                server: server.clone(),
                filter: filter.clone(),
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
        "group": session.group,
        "internal": session.internal,
    });
    if reveal {
        document["uuid"] = json!(session.uuid.reveal());
    }
    document
}
