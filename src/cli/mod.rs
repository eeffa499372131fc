//! The command line: parses, assembles the roles, turns errors into exit codes. Only this module ends the process.

mod check;
mod check_site;
mod config;
mod context;
mod deploy;
mod describe;
mod drain;
mod events;
mod face;
mod failure;
mod file;
mod generate;
mod icegridadmin;
mod icegridnode;
mod jvmcfg;
mod leftovers;
mod login;
mod logs;
mod master_process;
mod names;
mod node;
mod omero;
mod redirect;
mod roles;
mod script;
mod secret;
mod server;
mod session;
mod start;
mod status;
mod stop;
mod store;
mod transfer;
mod upgrade;
mod user;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::context::{Context, Global};
use self::failure::{Failure, code};
use crate::sys::successor;

/// Runs an OMERO cluster: starts its servers, keeps them running, keeps users' sessions.
#[derive(Debug, Parser)]
#[command(name = "omero-grid", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a descriptor, every fault with file, line and column; or what stands in the way of a site that moves here
    Check(check::CheckArgs),
    /// Show what a descriptor expands to: nodes, servers, properties, adapters
    Describe(describe::DescribeArgs),
    /// Start the grid
    Start(start::StartArgs),
    /// Stop the grid
    Stop(stop::StopArgs),
    /// Stop the grid and start the same nodes again, from the deployed descriptor as it is now
    Restart(stop::RestartArgs),
    /// Show how the grid is, anything wrong first
    Status(status::StatusArgs),
    /// Deploy a descriptor on the running grid; restarts only what changed
    Deploy(deploy::DeployArgs),
    /// Read the deployed descriptor again; applies what ends no session, marks the rest outdated
    Reload,
    /// Start, stop, restart or show one node
    Node(node::NodeArgs),
    /// Start, stop, enable, disable, signal or show a server; list all
    Server(server::ServerArgs),
    /// Let Blitzes take no new sessions, wait until the last has ended, then stop or restart them
    Drain(drain::DrainArgs),
    /// Let Blitzes take sessions again
    Undrain(drain::UndrainArgs),
    /// Show, set or clear where new sessions go under configRedirector
    Redirect(redirect::RedirectArgs),
    /// Show the routing rules, and explain where a session would go
    Route(redirect::RouteArgs),
    /// Create, join, list, move and close sessions
    Session(session::SessionCommand),
    /// Log in, and keep the session for later commands
    Login(login::LoginArgs),
    /// Close the session of `login`
    Logout,
    /// Import, list, fetch and delete the files that a Blitz serves
    File(file::FileCommand),
    /// Show what kind of image a file is
    Image(file::ImageCommand),
    /// List and run the scripts that a Blitz serves
    Script(script::ScriptCommand),
    /// Show the options that OMERO's Java servers are given: heaps and the like
    Jvmcfg,
    /// Add and list users, set passwords
    User(user::UserCommand),
    /// Read and change OMERO's configuration store, etc/grid/config.xml
    Config(config::ConfigArgs),
    /// Make, check, copy the store of users and sessions; works without a running grid too
    Store(store::StoreArgs),
    /// Let master and nodes go on as another version of this program, in their processes; no Blitz restarts, no session ends
    Upgrade(upgrade::UpgradeArgs),
    /// Show who did what, and what became of it
    Events(events::EventsArgs),
    /// Show the logs of a server, a node or the master; works without a running grid too
    Logs(logs::LogsArgs),
    /// Print the completions for a shell
    Completions(generate::CompletionsArgs),
    /// Print the manual page, or write the pages of all commands
    Man(generate::ManArgs),
    /// Be the built-in Blitz (what a descriptor's server runs; its node starts it)
    Blitz(roles::BlitzArgs),
    /// Write for a Blitz, to see whether it can be done
    #[command(hide = true)]
    Probe(roles::ProbeArgs),
    /// Prove to a running grid that this program can take over from it
    #[command(hide = true)]
    SelfCheck,
    /// The process of a node
    #[command(hide = true)]
    NodeProcess(roles::NodeProcessArgs),
    /// The process of the master
    #[command(hide = true)]
    MasterProcess(master_process::MasterArgs),
}

/// What stands below the help and in the manual page.
const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  the grid, node, server or session named is not there
  4  descriptor or configuration invalid, missing or unreadable
  5  timed out; what was begun goes on
  6  refused: already running, live sessions, not permitted, wrong password";

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    // Before anything else: what is inherited is taken by number.
    match successor::inheritance() {
        Ok(None) => {}
        Ok(Some(left)) => return ended(upgrade::resume(&left)),
        Err(error) => return ended(Err(Failure::from(error))),
    }
    if let Some(code) = names::run() {
        return code;
    }
    let arguments = match omero::arguments(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(failure) => {
            show(&failure);
            return ExitCode::from(failure.code);
        }
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; they go to standard output.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(code::USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    ended(run(cli))
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            show(&failure);
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        // These need no grid, not even a place for one.
        Command::Check(args) => {
            if let Some(site) = &args.site {
                return check_site::run(site, &cli.global);
            }
            return buffered(|out, err| check::run(args, cli.global.format, out, err));
        }
        Command::Describe(args) => {
            return buffered(|out, err| describe::run(args, cli.global.format, out, err));
        }
        Command::Blitz(args) => return roles::blitz(args, cli.global.verbose),
        Command::Probe(args) => return roles::probe(args),
        Command::SelfCheck => return upgrade::self_check(),
        _ => {}
    }
    let context = Context::new(&cli.global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Check(_)
            | Command::Describe(_)
            | Command::Blitz(_)
            | Command::Probe(_)
            | Command::SelfCheck => Ok(()),
            Command::NodeProcess(args) => roles::node_process(&context, args).await,
            Command::Start(args) => start::start(&context, args).await,
            Command::Stop(args) => stop::stop(&context, args).await,
            Command::Restart(args) => stop::restart(&context, args).await,
            Command::Status(args) => status::run(&context, args).await,
            Command::Deploy(args) => deploy::run(&context, args).await,
            Command::Reload => deploy::reload(&context).await,
            Command::Node(args) => node::run(&context, args).await,
            Command::Server(args) => server::run(&context, args).await,
            Command::Drain(args) => drain::drain(&context, args).await,
            Command::Undrain(args) => drain::undrain(&context, args).await,
            Command::Redirect(args) => redirect::redirect(&context, args).await,
            Command::Route(args) => redirect::route(&context, args).await,
            Command::Config(args) => config::run(&context, args).await,
            Command::Store(args) => store::run(&context, args).await,
            Command::Upgrade(args) => upgrade::run(&context, args).await,
            Command::Events(args) => events::run(&context, args).await,
            Command::Session(args) => session::run(&context, args).await,
            Command::Login(args) => login::login(&context, args).await,
            Command::Logout => login::logout(&context).await,
            Command::File(args) => file::run(&context, args).await,
            Command::Image(args) => file::image(&context, args).await,
            Command::Script(args) => script::run(&context, args).await,
            Command::Jvmcfg => jvmcfg::run(&context),
            Command::User(args) => user::run(&context, args).await,
            Command::Logs(args) => logs::run(&context, args).await,
            Command::Completions(args) => {
                generate::completions(args);
                Ok(())
            }
            Command::Man(args) => generate::man(&context, args),
            Command::MasterProcess(args) => master_process::run(&context, args).await,
        }
    })
}

/// Runs a command that writes much at once.
fn buffered(
    run: impl FnOnce(&mut dyn Write, &mut dyn Write) -> Result<(), check::CliError>,
) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(anstream::AutoStream::auto(std::io::stdout()));
    let mut err = anstream::AutoStream::auto(std::io::stderr());
    let result = run(&mut out, &mut err);
    out.flush()?;
    Ok(result?)
}

fn show(failure: &Failure) {
    if failure.message.is_empty() {
        return;
    }
    let mut err = anstream::stderr().lock();
    let red = anstyle::AnsiColor::Red.on_default().bold();
    // A message that names its own place needs no introduction.
    let named = failure.code == code::INVALID && failure.message.contains(": error: ");
    let _ = if named {
        writeln!(err, "{}", failure.message)
    } else {
        writeln!(err, "{red}error:{red:#} {}", failure.message)
    };
    if let Some(hint) = &failure.hint {
        let _ = writeln!(err, "  {hint}");
    }
}
