//! The command line.

mod check;
mod describe;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::check::{CheckArgs, Format};
use self::describe::DescribeArgs;

/// Runs an OMERO cluster.
#[derive(Debug, Parser)]
#[command(name = "omero-grid", version)]
struct Cli {
    /// How results are written
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a descriptor
    Check(CheckArgs),
    /// Show what a descriptor means
    Describe(DescribeArgs),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = std::io::BufWriter::new(anstream::AutoStream::auto(std::io::stdout()));
    let mut err = anstream::AutoStream::auto(std::io::stderr());
    let result = match &cli.command {
        Command::Check(args) => check::run(args, cli.format, &mut out, &mut err),
        Command::Describe(args) => describe::run(args, cli.format, &mut out, &mut err),
    };
    let result = result.and_then(|()| out.flush().map_err(check::CliError::Output));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = out.flush();
            if !matches!(error, check::CliError::Refused) {
                let _ = writeln!(err, "omero-grid: {error}");
            }
            ExitCode::from(error.code())
        }
    }
}
