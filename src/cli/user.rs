//! `omero-grid user add|passwd|list`.

use clap::{Args, Subcommand};

use super::context::{Context, strange};
use super::failure::Failure;
use super::secret::{PasswordArgs, SessionArgs};
use super::status::plain_table;
use crate::ipc::message::blitz;
use crate::ipc::message::client::{Reply, Request};

/// Arguments of `user`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UserCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Add a user
    Add {
        /// The name to log in with
        name: String,
        /// Make the user an administrator
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Set a user's password
    Passwd {
        /// The user's name
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// List the users
    List {
        #[command(flatten)]
        session: SessionArgs,
    },
}

pub(crate) async fn run(context: &Context, args: UserCommand) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let (request, done) = match args.command {
        Command::Add {
            name,
            admin,
            password,
            session,
        } => {
            let authority = session.authority(context)?;
            let password = password.read(&format!("password for {name}"), true)?;
            let done = format!("added user {name}");
            (
                blitz::Request::AddUser {
                    name,
                    password,
                    admin,
                    authority,
                },
                done,
            )
        }
        Command::Passwd {
            name,
            password,
            session,
        } => {
            let authority = session.authority(context)?;
            let password = password.read(&format!("new password of {name}"), true)?;
            let done = format!("changed the password of {name}");
            (
                blitz::Request::SetPassword {
                    name,
                    password,
                    authority,
                },
                done,
            )
        }
        Command::List { session } => (
            blitz::Request::Users {
                authority: session.authority(context)?,
            },
            String::new(),
        ),
    };
    let Reply::Blitz { reply } = grid
        .call(Request::Blitz {
            request: Box::new(request),
        })
        .await?
    else {
        return Err(strange());
    };
    match *reply {
        blitz::Reply::Done if context.is_json() => {
            context.json(&serde_json::json!({ "done": done }))
        }
        blitz::Reply::Done => context.say(done),
        blitz::Reply::Users { users } if context.is_json() => context.json(&users),
        blitz::Reply::Users { users } => {
            let mut table = plain_table(&["ID", "NAME", "ADMIN", "LOCKED"]);
            let word = |yes: bool| if yes { "yes" } else { "no" };
            for user in users {
                table.add_row([
                    &user.id.to_string(),
                    &user.name,
                    word(user.admin),
                    word(user.locked),
                ]);
            }
            context.table(&table)
        }
        _ => Err(strange()),
    }
}
