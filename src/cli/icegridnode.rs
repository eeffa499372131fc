//! The program under the names `icegridnode` and `icegridregistry` (`icegrid-glacier2.md` §9): starts the grid as OMERO starts IceGrid's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::context::{BESIDE, Context, Format, Global};
use super::face;
use super::failure::{Failure, code};
use super::master_process::{Handover, Launched, foreground, launch};
use super::show;
use super::start::{adopt_then_deploy, descriptor_source};
use crate::config::{Properties, SiteFiles, ice};
use crate::descriptor;
use crate::ipc::message::client::{DescriptorSource, GridStatus, NodeAction, Request};
use crate::model::{NodeName, NodeState};
use crate::telemetry::{LogFormat, chain};

/// The options that are properties begin with these words.
const PREFIXES: &[&str] = &[
    "Ice",
    "IceGrid",
    "IceSSL",
    "IceMX",
    "IceGridAdmin",
    "Glacier2",
    "OmeroGrid",
];

/// The property that says where our state is, in place of [`BESIDE`].
const STATE_PROPERTY: &str = "OmeroGrid.State";

/// How long a grid may take to run its nodes before `--daemon` gives up.
const WAIT: Duration = Duration::from_secs(60);

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// `icegridnode`.
    Node,
    /// `icegridregistry`.
    Registry,
}

/// What it is called with, beside properties.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    help: bool,
    version: bool,
    daemon: bool,
    pid_file: Option<PathBuf>,
    no_chdir: bool,
    no_warnings: bool,
    read_only: bool,
    /// The descriptor, and its targets.
    deploy: Option<(PathBuf, Vec<String>)>,
}

impl Options {
    fn parse(program: Program, arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| left.next().cloned())
                    .ok_or_else(|| format!("`{name}' option requires an argument"))
            };
            match name {
                "-h" | "--help" => options.help = true,
                "-v" | "--version" => options.version = true,
                "--daemon" => options.daemon = true,
                "--pidfile" => options.pid_file = Some(PathBuf::from(value()?)),
                "--nochdir" => options.no_chdir = true,
                // What is inherited is left open for nobody.
                "--noclose" => {}
                "--nowarn" => options.no_warnings = true,
                "--readonly" => options.read_only = true,
                "--initdb-from-replica" => {
                    return Err(
                        "there are no replicas to begin from: leave `--initdb-from-replica' out"
                            .to_owned(),
                    );
                }
                "--deploy" if program == Program::Node => {
                    options.deploy = Some((PathBuf::from(value()?), Vec::new()));
                }
                word if word.starts_with('-') => return Err(format!("invalid option: `{word}'")),
                word => match &mut options.deploy {
                    Some((_, targets)) => targets.push(word.to_owned()),
                    None => return Err(format!("`{word}' means nothing without `--deploy'")),
                },
            }
        }
        Ok(options)
    }
}

fn usage(name: &str, program: Program) -> String {
    let deploy = match program {
        Program::Node => {
            "  --deploy FILE [TARGET...]  Deploy this descriptor, with these targets\n"
        }
        Program::Registry => "",
    };
    format!(
        "\
Usage: {name} [options]

  -h, --help                 Print this
  -v, --version              Print the version of Ice
{deploy}  --daemon                   Return when the grid runs, which goes on without this program
  --pidfile FILE             Write the process id of the grid's master into this file
  --nochdir                  Stay in the current directory
  --nowarn                   Say nothing of properties that are ignored
  --readonly                 Nothing that is deployed may be changed
  --Ice.Config=FILE,...      Read properties from files; --NAME=VALUE sets one
"
    )
}

/// Runs the program, and returns its exit code: 0 or 1.
pub(super) fn main(name: &str, program: Program, arguments: Vec<String>) -> ExitCode {
    let mut err = std::io::stderr();
    // Who does not read what is said finds out by the exit code.
    let mut fail = |text: &str| {
        let _ = writeln!(err, "{name}: {text}");
        ExitCode::FAILURE
    };
    let (properties, rest) = match Properties::of_arguments(PREFIXES, arguments) {
        Ok(read) => read,
        Err(error) => return fail(&chain(&error)),
    };
    let options = match Options::parse(program, &rest) {
        Ok(options) => options,
        Err(text) => return fail(&format!("{text}\n{}", usage(name, program))),
    };
    if options.help {
        let _ = write!(std::io::stdout(), "{}", usage(name, program));
        return ExitCode::SUCCESS;
    }
    if options.version {
        // Where OMERO looks for it.
        let _ = writeln!(std::io::stderr(), "{}", ice::version(&properties));
        return ExitCode::SUCCESS;
    }
    if !options.no_warnings {
        for warning in ice::warnings(&properties) {
            let _ = writeln!(std::io::stderr(), "{name}: warning: {warning}");
        }
    }
    match start(program, options, &properties) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            show(&failure);
            ExitCode::FAILURE
        }
    }
}

fn start(program: Program, options: Options, properties: &Properties) -> Result<(), Failure> {
    let mut context = Context::new(&Global {
        dir: None,
        state: properties.get(STATE_PROPERTY).map(PathBuf::from),
        format: Format::Text,
        quiet: true,
        verbose: 0,
    })?;
    if context.paths.state() == context.paths.dir() {
        let dir = context.paths.dir().to_owned();
        context.paths = crate::config::Paths::new(dir.clone(), dir.join(BESIDE));
    }
    std::fs::create_dir_all(context.paths.state())?;
    let name = properties
        .get("IceGrid.Node.Name")
        .map(str::parse::<NodeName>)
        .transpose();
    let name = name.map_err(|error| Failure::new(code::USAGE, error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if program == Program::Node && !properties.is_set("IceGrid.Node.CollocateRegistry") {
        let name = name
            .ok_or_else(|| Failure::new(code::USAGE, "property `IceGrid.Node.Name' is not set"))?;
        return runtime.block_on(join(&context, &name, &options));
    }
    let ice: Vec<(String, String)> = properties
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let descriptor = match &options.deploy {
        Some((file, targets)) => {
            let templates = face::default_templates(&context.paths, None, &ice)?;
            Some(descriptor_source(file, targets, templates)?)
        }
        None => None,
    };
    let nodes = match (&descriptor, name) {
        (Some(source), Some(name)) => own_node(source, name),
        _ => Vec::new(),
    };
    let handover = Handover {
        bare: options.deploy.is_none(),
        descriptor,
        nodes,
        wait_secs: WAIT.as_secs(),
        log_format: LogFormat::default(),
        ice,
        ..Handover::default()
    };
    runtime.block_on(async {
        if options.daemon {
            daemon(&context, &handover, &options).await
        } else {
            if let Some(file) = &options.pid_file {
                write_pid(file, std::process::id())?;
            }
            let ended = foreground(&context, handover).await;
            if let Some(file) = &options.pid_file {
                // It says who runs, and nobody does.
                let _ = std::fs::remove_file(file);
            }
            ended
        }
    })
}

/// Returns the one node that is started, if the descriptor has it: the others belong to programs of their own.
fn own_node(source: &DescriptorSource, name: NodeName) -> Vec<NodeName> {
    match descriptor::define(&SiteFiles, &source.request()) {
        Ok(application) if application.nodes.contains_key(name.as_str()) => vec![name],
        // What does not hold is said by the master.
        _ => Vec::new(),
    }
}

/// Starts the grid and returns when its nodes run, as `--daemon` does.
async fn daemon(context: &Context, handover: &Handover, options: &Options) -> Result<(), Failure> {
    let Launched { notices, later } = launch(context, handover)?;
    for notice in notices {
        // Who has closed it does not want to know.
        let _ = writeln!(std::io::stdout(), "{notice}");
    }
    let grid = context.grid().await?;
    if let Some(file) = &options.pid_file {
        write_pid(file, grid.pid())?;
    }
    if let Some(source) = later {
        adopt_then_deploy(context, &grid, source, WAIT).await?;
    }
    let settled = grid
        .watch(Some(WAIT), |status| {
            let starting = status
                .nodes
                .iter()
                .any(|node| node.state == NodeState::Starting);
            (!starting).then_some(())
        })
        .await?;
    match settled {
        Some(()) => Ok(()),
        None => Err(Failure::new(
            code::TIMED_OUT,
            format!("no node runs after {} s", WAIT.as_secs()),
        )),
    }
}

/// Starts a node of a grid that runs, as the program of a node without a registry does.
async fn join(context: &Context, name: &NodeName, options: &Options) -> Result<(), Failure> {
    let grid = context.grid().await?;
    grid.call(Request::Node {
        node: name.clone(),
        action: NodeAction::Start,
    })
    .await?;
    let up = |status: &GridStatus| {
        let node = status.nodes.iter().find(|node| node.name == *name)?;
        (node.state == NodeState::Up).then_some(())
    };
    if grid.watch(Some(WAIT), up).await?.is_none() {
        return Err(Failure::new(
            code::TIMED_OUT,
            format!("node {name} does not run after {} s", WAIT.as_secs()),
        ));
    }
    if let Some(file) = &options.pid_file {
        let (_, status) = grid.status().await?;
        let pid = status
            .nodes
            .iter()
            .find(|node| node.name == *name)
            .and_then(|node| node.pid);
        write_pid(file, pid.unwrap_or_else(std::process::id))?;
    }
    if !options.daemon {
        // The node runs as long as its grid has it.
        grid.watch(None, |status| {
            let runs = status
                .nodes
                .iter()
                .any(|node| node.name == *name && node.state != NodeState::Down);
            (!runs).then_some(())
        })
        .await?;
    }
    Ok(())
}

fn write_pid(file: &Path, pid: u32) -> Result<(), Failure> {
    std::fs::write(file, format!("{pid}\n")).map_err(|error| {
        Failure::new(
            code::FAILED,
            format!("cannot write {}: {error}", file.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(program: Program, line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(program, &words)
    }

    #[test]
    fn the_command_line_of_omero_is_taken() {
        let line = "--daemon --pidfile var/master/master.pid --nochdir --deploy etc/grid/default.xml debug trace";
        let expected = Options {
            daemon: true,
            no_chdir: true,
            pid_file: Some(PathBuf::from("var/master/master.pid")),
            deploy: Some((
                PathBuf::from("etc/grid/default.xml"),
                vec!["debug".to_owned(), "trace".to_owned()],
            )),
            ..Options::default()
        };
        assert_eq!(parse(Program::Node, line).unwrap(), expected);
        assert!(parse(Program::Node, "--pidfile=x --nowarn").is_ok());
        for wrong in ["--frob", "target", "--pidfile", "--deploy"] {
            assert!(parse(Program::Node, wrong).is_err(), "{wrong}");
        }
        assert!(parse(Program::Registry, "--deploy x").is_err());
    }
}
