//! The processes that are not for people to start: a node, and the built-in Blitz.

use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::failure::{Failure, code};
use super::master_process::log_filter;
use crate::blitz::{self, BlitzError, ProbeTarget};
use crate::model::NodeName;
use crate::node;
use crate::telemetry::{self, LogFormat, LogOptions, chain};

/// Arguments of the built-in Blitz.
#[derive(Debug, Clone, Args)]
pub(crate) struct BlitzArgs {
    /// The properties that its node has written for it
    #[arg(long = "Ice.Config", value_name = "FILE")]
    ice_config: Option<PathBuf>,
}

pub(crate) fn blitz(args: &BlitzArgs, verbose: u8) -> Result<(), Failure> {
    // Its standard error is a file of its node's making.
    let logs = LogOptions {
        file: None,
        stderr: true,
        format: LogFormat::Text,
        filter: log_filter(verbose),
    };
    telemetry::init(&logs).map_err(|error| Failure::new(code::FAILED, chain(&error)))?;
    let options = blitz::Options {
        ice_config: args.ice_config.clone(),
    };
    blitz::run(&options).map_err(|error| {
        let code = match &error {
            BlitzError::Identity { .. } | BlitzError::Name(_) => code::USAGE,
            BlitzError::Properties(_) => code::INVALID,
            BlitzError::Running { .. } | BlitzError::Superseded { .. } => code::REFUSED,
            _ => code::FAILED,
        };
        Failure::new(code, chain(&error))
    })
}

/// Arguments of a trial write.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProbeArgs {
    #[command(flatten)]
    blitz: BlitzArgs,
    /// Make the directories that are missing
    #[arg(long)]
    make: bool,
    /// What to write to
    #[arg(value_parser = ["db", "repo"])]
    target: String,
}

/// Prints what a trial write of a Blitz found.
pub(crate) fn probe(args: &ProbeArgs) -> Result<(), Failure> {
    let target = match args.target.as_str() {
        "db" => ProbeTarget::Db,
        _ => ProbeTarget::Repo,
    };
    let options = blitz::Options {
        ice_config: args.blitz.ice_config.clone(),
    };
    let finding = blitz::probe(target, args.make, &options)
        .map_err(|error| Failure::new(code::FAILED, chain(&error)))?;
    let text = serde_json::to_string(&finding).unwrap_or_default();
    println!("{text}");
    Ok(())
}

/// Arguments of a node's process.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeProcessArgs {
    /// The node's name
    #[arg(long)]
    name: NodeName,
}

/// Reports on standard output whether it listens, then supervises servers until it is stopped.
pub(crate) async fn node_process(context: &Context, args: NodeProcessArgs) -> Result<(), Failure> {
    let paths = &context.paths;
    let logs = LogOptions {
        file: Some(paths.node_log(&args.name)),
        stderr: false,
        format: LogFormat::Text,
        filter: log_filter(context.verbose),
    };
    telemetry::init(&logs).map_err(|error| Failure::new(code::FAILED, chain(&error)))?;
    let options = node::Options {
        name: args.name,
        dir: paths.dir().to_owned(),
        state: paths.state().to_owned(),
    };
    // What went wrong has been reported by then.
    node::run(options)
        .await
        .map_err(|error| Failure::shown(error.exit_code()))
}
