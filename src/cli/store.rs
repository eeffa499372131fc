//! `omero-grid store init|check|backup|import`: the store of users and sessions, with or without a running grid.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;
use super::failure::{Failure, code};
use super::secret;
use super::status::plain_table;
use crate::config::active_profile;
use crate::store::{self, ChoiceError, Counts, Postgres, Sqlite, StoreChoice, StoreError};
use crate::telemetry::chain;

/// Arguments of `store`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// Another store than the configuration names: `sqlite` or postgresql://USER:PASSWORD@HOST:PORT/DATABASE; `@FILE` or `-` reads it
    /// from a file or standard input, so that no password is in the list of processes
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Make the tables in a PostgreSQL database, and user root where there is none; the only command that changes its schema
    Init {
        /// Let this role use the tables too: the one that the grid connects as, if another one makes them
        #[arg(long, value_name = "ROLE")]
        grant: Option<String>,
    },
    /// Read the store through and count what is in it
    Check,
    /// Write a copy of the embedded store, also while the grid runs
    Backup {
        /// The copy
        file: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Bring in the users of a copy of an embedded store
    Import {
        /// The copy, made by 'omero-grid store backup'
        file: PathBuf,
        /// Take the imported password and rights of users who are there already
        #[arg(long)]
        replace: bool,
    },
}

pub(crate) async fn run(context: &Context, args: StoreArgs) -> Result<(), Failure> {
    let choice = match &args.store {
        Some(text) => StoreChoice::typed(&secret::indirect(text)?).map_err(|mut error| {
            error.name = "--store";
            error
        })?,
        None => {
            let profile = active_profile(context.paths.dir())
                .map_err(|error| Failure::new(code::INVALID, chain(&error)))?
                .unwrap_or_default();
            StoreChoice::of(|name| {
                let mut properties = profile.iter().rev();
                properties
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| value.clone())
            })?
        }
    };
    let context = context.clone();
    // The store blocks.
    tokio::task::spawn_blocking(move || match args.command {
        Command::Init { grant } => init(&context, &choice, grant.as_deref()),
        Command::Check => check(&context, &choice),
        Command::Backup { file, force } => backup(&context, &choice, file, force),
        Command::Import { file, replace } => import(&context, &choice, file, replace),
    })
    .await
    .map_err(|_| Failure::new(code::FAILED, "the command failed"))?
}

fn init(context: &Context, choice: &StoreChoice, grant: Option<&str>) -> Result<(), Failure> {
    let (paths, password) = (&context.paths, context.paths.root_password());
    let (made, root) = match choice {
        StoreChoice::Embedded if grant.is_some() => {
            return Err(Failure::new(
                code::USAGE,
                "--grant is for a PostgreSQL database; the store is the embedded one",
            ));
        }
        StoreChoice::Embedded => {
            let made = !paths.store().exists();
            (made, store::bootstrap(&paths.store(), &password)?)
        }
        StoreChoice::Postgres(choice) => store::bootstrap_postgres(choice, grant, &password)?,
    };
    let root = root.created_root.is_some();
    if context.is_json() {
        return context.json(&json!({ "store": choice.to_string(), "made": made, "root": root }));
    }
    let what = if made {
        "made the tables in"
    } else {
        "the tables are there in"
    };
    context.say(format!("{what} {choice}"))?;
    if root {
        context.say(format!(
            "made user root with a random password; it is in {}",
            password.display()
        ))?;
    }
    Ok(())
}

fn check(context: &Context, choice: &StoreChoice) -> Result<(), Failure> {
    let (what, counts) = match choice {
        StoreChoice::Embedded => {
            let mut sqlite = Sqlite::read_only(&context.paths.store())?;
            sqlite.check()?;
            let path = context.paths.store();
            (path.display().to_string(), sqlite.counts()?)
        }
        StoreChoice::Postgres(postgres) => {
            let grid = store::grid_id(&context.paths.grid_id())?;
            let mut postgres = Postgres::open(postgres, &grid, &uuid::Uuid::new_v4().to_string())?;
            (choice.to_string(), postgres.counts()?)
        }
    };
    let Counts {
        schema,
        users,
        open,
        closed,
    } = counts;
    if context.is_json() {
        let open: serde_json::Map<_, _> = open
            .into_iter()
            .map(|(server, count)| (server, count.into()))
            .collect();
        return context.json(&json!({
            "store": what, "ok": true, "schema": schema, "users": users, "open": open, "closed": closed,
        }));
    }
    let plural = if users == 1 { "" } else { "s" };
    let all: u64 = open.iter().map(|(_, count)| count).sum();
    context.say(format!(
        "{what} is in order: schema version {schema}, {users} user{plural}, {all} open and {closed} ended sessions"
    ))?;
    if open.is_empty() {
        return Ok(());
    }
    let mut table = plain_table(&["SERVER", "OPEN SESSIONS"]);
    for (server, count) in open {
        table.add_row([server, count.to_string()]);
    }
    context.table(&table)
}

fn backup(
    context: &Context,
    choice: &StoreChoice,
    file: PathBuf,
    force: bool,
) -> Result<(), Failure> {
    if let StoreChoice::Postgres(_) = choice {
        return Err(Failure::new(
            code::REFUSED,
            format!("the store is {choice}: PostgreSQL's own tools copy it"),
        )
        .hint(format!(
            "pg_dump --schema=omero_grid --file={} '{choice}'",
            file.display()
        )));
    }
    if !force && file.symlink_metadata().is_ok() {
        return Err(Failure::new(
            code::REFUSED,
            format!("{} is there already", file.display()),
        )
        .hint("--force replaces it"));
    }
    // Not read-only: the copy has to have what is in the write-ahead log, whoever wrote it.
    Sqlite::open(&context.paths.store())?.backup(&file, force)?;
    let size = std::fs::metadata(&file)?.len();
    if context.is_json() {
        return context.json(&json!({ "file": file, "bytes": size }));
    }
    context.say(format!("wrote {} ({size} bytes)", file.display()))
}

fn import(
    context: &Context,
    choice: &StoreChoice,
    file: PathBuf,
    replace: bool,
) -> Result<(), Failure> {
    let users = store::import(&file, choice, &context.paths.store(), replace)?;
    if context.is_json() {
        return context.json(&json!({ "users": users }));
    }
    let plural = if users == 1 { "" } else { "s" };
    context.say(format!("imported {users} user{plural} into {choice}"))
}

impl From<ChoiceError> for Failure {
    fn from(error: ChoiceError) -> Self {
        Self::new(code::INVALID, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Missing { .. } => code::NOT_THERE,
            StoreError::Import { .. }
            | StoreError::ForeignUsers
            | StoreError::LeftOverWal { .. }
            | StoreError::ReadOnly { .. } => code::REFUSED,
            _ => code::FAILED,
        };
        Self::new(code, chain(&error))
    }
}
