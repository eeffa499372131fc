//! Passwords and session UUIDs that must not stand on the command line.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::failure::{Failure, code};
use super::login;
use crate::ipc::message::blitz::Authority;
use crate::model::{Secret, SessionId};

/// The longest password, in bytes.
const MAX_SECRET: u64 = 4096;

/// Where a password comes from.
#[derive(Debug, Clone, Args)]
pub(crate) struct PasswordArgs {
    /// Read the password from the first line of a file, `-` for standard input [default: $OMERO_PASSWORD where one logs in, else ask for it]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordArgs {
    /// Reads the password: from the file, else from a prompt, else from standard input.
    pub(crate) fn read(&self, prompt: &str, twice: bool) -> Result<Secret, Failure> {
        let file = self
            .password_file
            .as_deref()
            .filter(|file| file.as_os_str() != "-");
        if let Some(file) = file {
            let open = std::fs::File::open(file);
            let open = open.map_err(|e| {
                Failure::new(code::USAGE, format!("cannot read {}: {e}", file.display()))
            })?;
            return first_line(open);
        }
        // As OMERO's own commands take it; never for a new password.
        if self.password_file.is_none()
            && !twice
            && let Ok(password) = std::env::var("OMERO_PASSWORD")
        {
            return Ok(Secret::new(password));
        }
        if self.password_file.is_some() || !std::io::stdin().is_terminal() {
            return first_line(std::io::stdin());
        }
        let password = rpassword::prompt_password(format!("{prompt}: "))?;
        if twice && rpassword::prompt_password("once more: ")? != password {
            return Err(Failure::new(
                code::USAGE,
                "the two passwords differ; nothing was changed",
            ));
        }
        Ok(Secret::new(password))
    }
}

/// Returns what was typed, or for `@FILE` and `-` the first line of that file or of standard input.
pub(super) fn indirect(text: &str) -> Result<String, Failure> {
    let file = match text.strip_prefix('@') {
        Some(file) => file,
        None if text == "-" => text,
        None => return Ok(text.to_owned()),
    };
    let from = PasswordArgs {
        password_file: Some(PathBuf::from(file)),
    };
    Ok(from.read("", false)?.reveal().to_owned())
}

fn first_line(from: impl std::io::Read) -> Result<Secret, Failure> {
    let mut line = String::new();
    std::io::BufReader::new(from.take(MAX_SECRET)).read_line(&mut line)?;
    Ok(Secret::new(line.trim_end_matches(['\n', '\r'])))
}

/// The session on whose behalf a command is carried out.
#[derive(Debug, Clone, Args)]
pub(crate) struct SessionArgs {
    /// Act for the user of this session: its UUID, `-` to read it from standard input, or `@FILE` [default: the one
    /// of `login`, else act as the owner of the grid]
    #[arg(
        long,
        value_name = "UUID",
        env = "OMERO_GRID_SESSION",
        hide_env_values = true
    )]
    session: Option<String>,
}

impl SessionArgs {
    /// Returns the session named, else the one of `login`, else the authority of the local user.
    pub(crate) fn authority(&self, context: &Context) -> Result<Authority, Failure> {
        let session = match &self.session {
            Some(text) => Some(session_id(text)?),
            // Without a home nobody has logged in.
            None => login::session(context).unwrap_or_default(),
        };
        Ok(session.map_or(Authority::Owner, |session| Authority::Session { session }))
    }
}

/// Reads a session UUID: itself, `-` for standard input, or `@FILE`.
pub(crate) fn session_id(text: &str) -> Result<SessionId, Failure> {
    let read = match (text, text.strip_prefix('@')) {
        ("-", _) => first_line(std::io::stdin())?.reveal().to_owned(),
        (_, Some(file)) => {
            let open = std::fs::File::open(file);
            let open =
                open.map_err(|e| Failure::new(code::USAGE, format!("cannot read {file}: {e}")))?;
            first_line(open)?.reveal().to_owned()
        }
        _ => text.to_owned(),
    };
    SessionId::parse(read.trim()).ok_or_else(|| {
        Failure::new(
            code::USAGE,
            "that is no session UUID; it has 36 characters, as `session create` prints it",
        )
    })
}
