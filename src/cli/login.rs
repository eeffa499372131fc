//! `omero-grid login` and `logout`: a session that later commands act for.
//!
//! It is kept in a file of the user's own (0600), one for each grid, and counts where neither `--session` nor `OMERO_GRID_SESSION` is given.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::context::{Context, strange};
use super::failure::{Failure, code};
use super::secret::PasswordArgs;
use crate::ipc::message::blitz::{Authority, Create, Target};
use crate::ipc::message::client::{Reply, Request};
use crate::model::{ServerId, SessionId};
use crate::store::write_private;

/// Arguments of `login`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoginArgs {
    /// The user to log in as [default: the name of the local user]
    #[arg(long, value_name = "NAME", env = "USER")]
    user: String,
    /// The Blitz to open the session on [default: the grid chooses]
    #[arg(long, value_name = "ID")]
    via: Option<ServerId>,
    #[command(flatten)]
    password: PasswordArgs,
}

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    user: String,
    session: SessionId,
}

pub(crate) async fn login(context: &Context, args: LoginArgs) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let prompt = format!("password of {}", args.user);
    let create = Create {
        user: args.user,
        password: args.password.read(&prompt, false)?,
        agent: "omero-grid".to_owned(),
        ip: String::new(),
        time_to_idle_ms: None,
        time_to_live_ms: None,
        token: Some(uuid::Uuid::new_v4().to_string()),
        group: String::new(),
        event: String::new(),
    };
    let request = Request::CreateSession {
        create,
        via: args.via,
    };
    let Reply::Placed(placed) = grid.call(request).await? else {
        return Err(strange());
    };
    let kept = Kept {
        user: placed.session.user.clone(),
        session: placed.session.uuid,
    };
    let path = place(context)?;
    let text =
        serde_json::to_string(&kept).map_err(|e| Failure::new(code::FAILED, e.to_string()))?;
    let keep = || {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        write_private(&path, &text)
    };
    keep().map_err(|error: io::Error| {
        Failure::new(
            code::FAILED,
            format!("cannot keep the session in {}: {error}", path.display()),
        )
    })?;
    if context.is_json() {
        let document = serde_json::json!({ "user": kept.user, "server": placed.server });
        return context.json(&document);
    }
    context.say(format!(
        "logged in as {} on {}; `omero-grid logout` ends it",
        kept.user, placed.server
    ))
}

pub(crate) async fn logout(context: &Context) -> Result<(), Failure> {
    let path = place(context)?;
    let Some(kept) = read(context)? else {
        return Err(Failure::new(code::NOT_THERE, "nobody is logged in here")
            .hint("omero-grid login --user NAME"));
    };
    // Gone first: whatever becomes of the session, nothing acts for it any more.
    fs::remove_file(&path)?;
    let request = Request::CloseSession {
        target: Target::Uuid {
            session: kept.session,
        },
        authority: Authority::Session {
            session: kept.session,
        },
    };
    match context.grid().await?.call(request).await {
        Ok(_) => {}
        // It has ended by itself.
        Err(failure) if failure.code == code::NOT_THERE => {}
        Err(failure) => return Err(failure),
    }
    if context.is_json() {
        return context.json(&serde_json::json!({ "user": kept.user }));
    }
    context.say(format!("logged {} out", kept.user))
}

/// Returns the session that somebody has logged in with.
pub(crate) fn session(context: &Context) -> Result<Option<SessionId>, Failure> {
    Ok(read(context)?.map(|kept| kept.session))
}

fn read(context: &Context) -> Result<Option<Kept>, Failure> {
    let path = place(context)?;
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::new(
                code::FAILED,
                format!("cannot read {}: {error}", path.display()),
            ));
        }
    };
    let kept = serde_json::from_str(&text);
    kept.map(Some).map_err(|_| {
        Failure::new(
            code::FAILED,
            format!("{} is none of our files; remove it", path.display()),
        )
    })
}

/// Returns where the session for this grid is kept: in `$OMERO_SESSIONDIR`, `$XDG_STATE_HOME`, else `~/.local/state`.
fn place(context: &Context) -> Result<PathBuf, Failure> {
    let from = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let state =
        from("XDG_STATE_HOME").or_else(|| from("HOME").map(|home| home.join(".local/state")));
    let state = state.ok_or_else(|| {
        Failure::new(
            code::USAGE,
            "neither XDG_STATE_HOME nor HOME says where to keep a session",
        )
        .hint("use --session")
    })?;
    let grid = Sha256::digest(context.paths.state().as_os_str().as_bytes());
    let name: String = grid[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = from("OMERO_SESSIONDIR").unwrap_or_else(|| state.join("omero-grid"));
    Ok(dir.join(format!("{name}.session")))
}
