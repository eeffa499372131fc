//! `omero-grid completions` and `omero-grid man`: made from the command line's own definition.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use super::context::Context;
use super::failure::Failure;

/// Arguments of `completions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ManArgs {
    /// The directory to write the pages of all commands into [default: print the main page]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: CompletionsArgs) {
    let all = Cli::command();
    // clap_complete would offer what is hidden too.
    let offered = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let mut command = clap::Command::new("omero-grid")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments())
        .subcommands(offered.cloned());
    clap_complete::generate(
        args.shell,
        &mut command,
        "omero-grid",
        &mut std::io::stdout(),
    );
}

pub(crate) fn man(context: &Context, args: ManArgs) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    match args.dir {
        None => Ok(clap_mangen::Man::new(command).render(&mut std::io::stdout())?),
        Some(dir) => {
            std::fs::create_dir_all(&dir)?;
            let count = pages(&command, "omero-grid", &dir)?;
            context.say(format!("wrote {count} pages into {}", dir.display()))
        }
    }
}

/// Writes the page of a command and of all commands below it; returns how many.
fn pages(command: &clap::Command, name: &str, dir: &Path) -> Result<usize, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(name)
        .render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.1")), page)?;
    let mut count = 1;
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        count += pages(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(count)
}
