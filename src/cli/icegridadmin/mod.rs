//! The program under the name `icegridadmin` (`icegrid-glacier2.md` §2): carries out the commands of IceGrid's tool, at any registry that
//! speaks Ice.

mod application;
mod describe;
mod diff;
mod fault;
mod object;
mod options;
mod output;
mod parser;
mod place;
mod prompt;
mod run;
mod server;
mod service;
mod show;
mod table;

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::process::ExitCode;

use self::options::Options;
use self::run::{Console, Outcome};
use crate::config::{Properties, ice};
use crate::ice::net::{Settings, Tls, TlsSettings};
use crate::ice::{Address, Endpoint, Identity, Proxy, Reference};
use crate::icegrid::client::{self, Access, Admin, ConnectError, Fault, Raised};
use crate::telemetry::chain;

/// The options that are properties begin with these words.
const PREFIXES: &[&str] = &["Ice", "IceGridAdmin", "IceGrid", "IceSSL", "OmeroGrid"];

/// The ports of a registry that names none.
const PORT: i32 = 4061;
const SSL_PORT: i32 = 4062;

/// Runs the program, and returns its exit code.
pub(super) fn main(program: &str, arguments: Vec<String>) -> ExitCode {
    let mut out = std::io::stdout();
    let mut err = std::io::stderr();
    let (properties, rest) = match Properties::of_arguments(PREFIXES, arguments) {
        Ok(read) => read,
        Err(error) => return failed(&mut err, program, &chain(&error)),
    };
    let mut options = match Options::parse(&rest) {
        Ok(options) => options,
        Err(wrong) => {
            let _ = write!(err, "{wrong}\n{}", options::usage(program));
            return ExitCode::FAILURE;
        }
    };
    // Whoever reads no further has seen enough.
    if options.help {
        let _ = out.write_all(options::usage(program).as_bytes());
        return ExitCode::SUCCESS;
    }
    if options.version {
        let _ = writeln!(out, "{}", ice::version(&properties));
        return ExitCode::SUCCESS;
    }
    if options.server {
        return failed(
            &mut err,
            program,
            "to read descriptors for the GUI as a server is not carried out here",
        );
    }
    options.complete(&properties);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(session(program, options, &properties));
            // A thread may still wait for a line of standard input.
            runtime.shutdown_background();
            code
        }
        Err(error) => failed(&mut err, program, &error.to_string()),
    }
}

fn failed(err: &mut dyn Write, program: &str, text: &str) -> ExitCode {
    let _ = writeln!(err, "{program}: {text}");
    ExitCode::FAILURE
}

/// Comes to the registry, and carries out what is asked for.
async fn session(program: &str, options: Options, properties: &Properties) -> ExitCode {
    let mut err = std::io::stderr();
    let access = match access(&options, properties).await {
        Ok(Some(access)) => access,
        // Nobody said who it is.
        Ok(None) => return ExitCode::FAILURE,
        Err(text) => return failed(&mut err, program, &text),
    };
    let admin = match Admin::connect(access).await {
        Ok(admin) => admin,
        // Said where results are, and without the program's name, as scripts know it.
        Err(ConnectError::Refused(Fault::Raised(Raised::PermissionDenied(reason)))) => {
            let _ = writeln!(std::io::stdout(), "permission denied:\n{reason}");
            return ExitCode::FAILURE;
        }
        Err(error) => return failed(&mut err, program, &refused(error)),
    };
    let well = carry_out(&admin, &options).await;
    admin.close().await;
    match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn refused(error: ConnectError) -> String {
    match error {
        ConnectError::Locator(fault) => {
            format!("could not contact the default locator:\n{}", chain(&fault))
        }
        ConnectError::NotIceGrid => "the configured locator is not an IceGrid locator".to_owned(),
        ConnectError::NoReplica(_) => error.to_string(),
        ConnectError::Refused(fault) => {
            format!("could not create admin session:\n{}", chain(&fault))
        }
    }
}

/// Finds the registry, and who comes to it; `None` if nobody says.
async fn access(options: &Options, properties: &Properties) -> Result<Option<Access>, String> {
    let settings = settings(properties)?;
    let locator = if options.host.is_some() || options.port.is_some() {
        let finder = finder(options)?;
        let found = client::find_locator(&finder, settings.clone()).await;
        found.map_err(|fault| format!("could not contact the registry:\n{}", chain(&fault)))?
    } else if let Some(locator) = properties.get("Ice.Default.Locator") {
        let parsed: Result<Proxy, _> = locator.parse();
        parsed.map_err(|error| format!("Ice.Default.Locator is no proxy: {error}"))?
    } else if properties.get("Ice.Default.Router").is_some() {
        return Err("to come to a registry through a router is not carried out here".to_owned());
    } else {
        return Err(
            "could not contact the registry:\nno default locator or router configured".to_owned(),
        );
    };
    let (mut user, mut password) = (
        options.username.clone().unwrap_or_default(),
        options.password.clone().unwrap_or_default(),
    );
    if !options.ssl {
        while user.is_empty() {
            match prompt::line("user id: ") {
                Some(line) => user = line.trim().to_owned(),
                None => return Ok(None),
            }
        }
        if password.is_empty() {
            match prompt::secret("password: ") {
                Some(line) => password = line,
                None => return Ok(None),
            }
        }
    }
    Ok(Some(Access {
        locator,
        user,
        password,
        certificate: options.ssl,
        replica: options.replica.clone().unwrap_or_default(),
        settings,
    }))
}

fn settings(properties: &Properties) -> Result<Settings, String> {
    let mut settings = Settings {
        // What is deployed may be large, and the registry is believed.
        message_max: 64 * 1024 * 1024,
        default_host: properties.get("Ice.Default.Host").map(str::to_owned),
        ..Settings::default()
    };
    if let Some(size) = properties.get("Ice.MessageSizeMax") {
        let size: usize = size
            .trim()
            .parse()
            .map_err(|_| format!("Ice.MessageSizeMax is no number: {size}"))?;
        if size > 0 {
            settings.message_max = size.saturating_mul(1024);
        }
    }
    if properties
        .iter()
        .any(|(name, _)| name.starts_with("IceSSL."))
    {
        let tls = TlsSettings::of(|name| properties.get(name).map(str::to_owned));
        let tls = tls.and_then(|settings| Tls::new(&settings));
        settings.tls = tls.map_err(|error| chain(&error))?;
    }
    Ok(settings)
}

/// Returns the object on a host that knows where the locator is.
fn finder(options: &Options) -> Result<Proxy, String> {
    let port = match &options.port {
        None => None,
        Some(text) => match text.trim().parse::<i32>() {
            Ok(port) if (1..=65_535).contains(&port) => Some(port),
            _ => return Err(format!("`{text}' is no port")),
        },
    };
    let address = |port: i32| Address {
        host: options
            .host
            .clone()
            .unwrap_or_else(|| "localhost".to_owned()),
        port,
        timeout: 60_000,
        compress: false,
    };
    let endpoints = match options.ssl {
        true => vec![Endpoint::Ssl(address(port.unwrap_or(SSL_PORT)))],
        false => vec![Endpoint::Tcp(address(port.unwrap_or(PORT)))],
    };
    let identity = Identity {
        name: "LocatorFinder".to_owned(),
        category: "Ice".to_owned(),
    };
    Ok(Proxy::new(identity, Reference::Direct(endpoints)))
}

/// Carries out the commands of `-e`, else those of files, else those of standard input; returns whether all went well.
async fn carry_out(admin: &Admin, options: &Options) -> bool {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut console = Console {
        out: &mut out,
        err: &mut err,
    };
    if !options.commands.is_empty() {
        let text = options.commands.join("\n");
        return run::run(admin, &mut console, &text).await.well;
    }
    if !options.files.is_empty() {
        let mut well = true;
        for file in &options.files {
            let text = match std::fs::read_to_string(file) {
                Ok(text) => text,
                Err(error) => {
                    console.error(&format!("couldn't read `{file}':\n{error}"));
                    well = false;
                    continue;
                }
            };
            let outcome = run::run(admin, &mut console, &text).await;
            well &= outcome.well;
            if outcome.quit {
                break;
            }
        }
        return well;
    }
    if std::io::stdin().is_terminal() {
        return interactive(admin, &mut console).await;
    }
    let mut well = true;
    let mut lines = std::io::stdin().lock().lines();
    let _ = console.print(&banner());
    loop {
        let _ = console.print(prompt::PROMPT);
        let Some(Ok(mut line)) = lines.next() else {
            return well;
        };
        // Quotation marks may reach over several lines.
        while parser::parse(&line).1.is_some() {
            let Some(Ok(more)) = lines.next() else { break };
            line = format!("{line}\n{more}");
        }
        let Outcome { well: done, quit } = run::run(admin, &mut console, &line).await;
        well &= done;
        if quit {
            return well;
        }
    }
}

fn banner() -> String {
    format!("omero-grid {}\n", env!("CARGO_PKG_VERSION"))
}

/// Asks on a terminal, with a history of what was asked before.
async fn interactive(admin: &Admin, console: &mut Console<'_>) -> bool {
    let mut lines = prompt::Lines::begin();
    let mut well = true;
    let _ = console.print(&banner());
    loop {
        // Cancel safe: a line that is not read when the registry goes is of no use to anybody.
        let line = tokio::select! {
            line = lines.next() => line,
            () = admin.closed() => {
                console.error("the registry has ended the session");
                return false;
            }
        };
        let Some(line) = line else { return well };
        let Outcome { well: done, quit } = run::run(admin, console, &line).await;
        well &= done;
        if quit {
            return well;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finder_is_where_options_say() {
        let options = Options {
            host: Some("h".to_owned()),
            ..Options::default()
        };
        assert_eq!(
            finder(&options).unwrap().to_string(),
            "Ice/LocatorFinder -t -e 1.1:tcp -h h -p 4061 -t 60000"
        );
        let options = Options {
            port: Some("x".to_owned()),
            ..Options::default()
        };
        assert!(finder(&options).is_err());
    }
}
