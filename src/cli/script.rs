//! `omero-grid script`: scripts that a Blitz runs.

use std::io::Write as _;

use clap::{Args, Subcommand};

use super::context::{Context, Grid, strange};
use super::failure::{Failure, code};
use super::secret::SessionArgs;
use super::status::{length, plain_table};
use crate::ipc::message::blitz::{self, Authority};
use crate::ipc::message::client::{Reply, Request};
use crate::ipc::message::data::{ScriptAction, ScriptEnd};
use crate::sys::signals::Signals;

/// Arguments of `script`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScriptCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// List the scripts
    List {
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Run a script to its end; what it writes is written here, and Ctrl-C ends it
    Run {
        /// The script, as `script list` shows it
        script: String,
        /// Its arguments
        #[arg(value_name = "NAME=VALUE")]
        arguments: Vec<String>,
        #[command(flatten)]
        session: SessionArgs,
    },
}

pub(crate) async fn run(context: &Context, args: ScriptCommand) -> Result<(), Failure> {
    let (action, session) = match args.command {
        Command::List { session } => (ScriptAction::List, session),
        Command::Run {
            script,
            arguments,
            session,
        } => {
            let arguments = arguments
                .iter()
                .map(|argument| match argument.split_once('=') {
                    Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                    None => Err(Failure::new(
                        code::USAGE,
                        format!("'{argument}' is no argument of a script: NAME=VALUE is"),
                    )),
                });
            let action = ScriptAction::Run {
                path: script,
                arguments: arguments.collect::<Result<_, _>>()?,
            };
            (action, session)
        }
    };
    let authority = session.authority(context)?;
    let grid = context.grid().await?;
    let reply = match ask(&grid, action, authority).await? {
        blitz::Reply::ScriptRuns { run, server } => {
            wait(context, &grid, (run, server), authority).await?
        }
        reply => reply,
    };
    match reply {
        blitz::Reply::Scripts { scripts, .. } if context.is_json() => context.json(&scripts),
        blitz::Reply::Scripts { scripts, more } => {
            let mut table = plain_table(&["SCRIPT", "TYPE", "SIZE"]);
            for script in scripts {
                table.add_row([script.path, script.mimetype, script.size.to_string()]);
            }
            context.table(&table)?;
            if more {
                context.say("… and more")?;
            }
            Ok(())
        }
        blitz::Reply::ScriptEnded(end) => ended(context, &end),
        _ => Err(strange()),
    }
}

async fn ask(
    grid: &Grid,
    action: ScriptAction,
    authority: Authority,
) -> Result<blitz::Reply, Failure> {
    let request = Request::Blitz {
        request: Box::new(blitz::Request::Script { action, authority }),
    };
    match grid.call(request).await? {
        Reply::Blitz { reply } => Ok(*reply),
        _ => Err(strange()),
    }
}

/// Waits for the end of a script. Ctrl-C and SIGTERM end it first.
async fn wait(
    context: &Context,
    grid: &Grid,
    (run, server): (String, String),
    authority: Authority,
) -> Result<blitz::Reply, Failure> {
    let bar = context.spinner();
    bar.set_message("the script runs");
    let mut signals = Signals::new()?;
    let end = ScriptAction::End {
        run: run.clone(),
        server: server.clone(),
    };
    loop {
        let action = ScriptAction::Wait {
            run: run.clone(),
            server: server.clone(),
        };
        // Cancel safe: waiting may be asked again.
        tokio::select! {
            reply = ask(grid, action, authority) => match reply? {
                blitz::Reply::ScriptRuns { .. } => {}
                reply => {
                    bar.finish_and_clear();
                    return Ok(reply);
                }
            },
            _ = signals.recv() => {
                ask(grid, end, authority).await?;
                bar.finish_and_clear();
                return Err(Failure::new(code::FAILED, "the script was ended"));
            }
        }
    }
}

fn ended(context: &Context, end: &ScriptEnd) -> Result<(), Failure> {
    if context.is_json() {
        context.json(end)?;
    } else {
        std::io::stdout().lock().write_all(end.stdout.as_bytes())?;
        let mut err = anstream::stderr().lock();
        err.write_all(end.stderr.as_bytes())?;
        if end.truncated {
            writeln!(err, "(the beginning of what it wrote is left out)")?;
        }
    }
    let took = length(end.took_ms);
    match end {
        ScriptEnd {
            timed_out: true, ..
        } => Err(Failure::new(
            code::TIMED_OUT,
            format!("the script was ended after {took}, with everything that it had started"),
        )
        .hint("omero.scripts.timeout is the limit")),
        ScriptEnd { code: Some(0), .. } => Ok(()),
        ScriptEnd {
            code: Some(exit), ..
        } => Err(Failure::new(
            code::FAILED,
            format!("the script has failed with exit code {exit}, after {took}"),
        )),
        ScriptEnd {
            signal: Some(signal),
            ..
        } => Err(Failure::new(
            code::FAILED,
            format!("the script was ended by signal {signal}, after {took}"),
        )),
        _ => Err(Failure::new(
            code::FAILED,
            "how the script ended is not known",
        )),
    }
}
