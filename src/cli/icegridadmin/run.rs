//! Runs commands: finds what they are, and hands them to who does them.

use std::io::Write;

use super::fault::CommandError;
use super::parser::{self, Command};
use super::show::Whose;
use super::{application, object, place, server, service, show, table};
use crate::ice::{Mode, Proxy};
use crate::icegrid::client::Admin;

/// What a command comes to.
pub(super) type Result<T> = std::result::Result<T, CommandError>;

/// Where commands print.
pub(super) struct Console<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) err: &'a mut dyn Write,
}

impl Console<'_> {
    /// Prints a text as it is.
    pub(super) fn print(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Says what went wrong.
    pub(super) fn error(&mut self, error: &str) {
        // Nobody may be there to hear it.
        let _ = self.out.flush();
        let _ = writeln!(self.err, "error: {error}");
    }
}

/// Prints a line each.
pub(super) fn list(
    console: &mut Console<'_>,
    lines: impl IntoIterator<Item = String>,
) -> Result<()> {
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    console.print(&text)
}

/// Returns a facet of an object.
pub(super) fn admin_facet(proxy: &Proxy, facet: &str) -> Proxy {
    Proxy {
        facet: facet.to_owned(),
        ..proxy.clone()
    }
}

/// What became of a text of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Everything was done.
    pub(super) well: bool,
    /// One of them said that it is enough.
    pub(super) quit: bool,
}

/// Runs all commands of a text; one that fails does not keep the others from being run.
pub(super) async fn run(admin: &Admin, console: &mut Console<'_>, text: &str) -> Outcome {
    let (commands, unended) = parser::parse(text);
    let mut outcome = Outcome {
        well: true,
        quit: false,
    };
    for command in commands {
        match meaning(&command) {
            Ok(Meaning::Quit) => {
                outcome.quit = true;
                return outcome;
            }
            Ok(Meaning::Help(text)) => outcome.well &= said(console.print(&text), console),
            Ok(Meaning::Run(entry, arguments)) => {
                let done = dispatch(admin, console, entry, &arguments).await;
                outcome.well &= said(done, console);
            }
            Err(error) => outcome.well &= said(Err(error), console),
        }
    }
    if let Some(unended) = unended {
        outcome.well &= said(Err(CommandError::new(unended.to_string())), console);
    }
    outcome
}

fn said(result: Result<()>, console: &mut Console<'_>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            console.error(&error.0);
            false
        }
    }
}

/// What words mean.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Quit,
    Help(String),
    Run(&'static str, Vec<String>),
}

fn meaning(command: &Command) -> Result<Meaning> {
    let words: Vec<&str> = command
        .iter()
        .take_while(|word| !word.quoted)
        .map(|word| word.text.as_str())
        .collect();
    let all: Vec<String> = command.iter().map(|word| word.text.clone()).collect();
    let help = |words: &[&str]| {
        let name = words.join(" ");
        table::help(words)
            .map(Meaning::Help)
            .ok_or_else(|| CommandError::new(format!("unknown command `{name}'")))
    };
    match words.as_slice() {
        ["exit" | "quit"] => return Ok(Meaning::Quit),
        ["help"] => return Ok(Meaning::Help(table::overview())),
        ["help", rest @ ..] => return help(rest),
        [rest @ .., "help"] if rest.len() < 4 && table::help(rest).is_some() => return help(rest),
        _ => {}
    }
    if let Some((entry, count)) = table::find(&words) {
        let arguments: Vec<String> = all.into_iter().skip(count).collect();
        entry.check(arguments.len()).map_err(CommandError::new)?;
        return Ok(Meaning::Run(entry.name, arguments));
    }
    let is_category = |name: &str| {
        table::CATEGORIES
            .iter()
            .any(|(category, _)| *category == name)
    };
    let text = match words.as_slice() {
        [] => "unknown command (see `help' for more info)".to_owned(),
        [first] if is_category(first) && all.len() == 1 => {
            format!("invalid `{first}' command (see `{first} help' for more info)")
        }
        [first, ..] if is_category(first) => {
            let name: Vec<&str> = all.iter().take(2).map(String::as_str).collect();
            let name = name.join(" ");
            match command.get(1).is_some_and(|word| word.quoted) {
                true => format!("invalid `{name}' command (see `{name} help' for more info)"),
                false => format!("unknown `{name}' command (see `{first} help' for more info)"),
            }
        }
        [first, ..] => format!("unknown `{first}' command (see `help' for more info)"),
    };
    Err(CommandError(format!("syntax error\n{text}")))
}

async fn dispatch(
    admin: &Admin,
    console: &mut Console<'_>,
    name: &'static str,
    arguments: &[String],
) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (name, words.as_slice()) {
        ("application add", _) => application::add(admin, arguments).await,
        ("application update", _) => application::update(admin, arguments).await,
        ("application diff", _) => application::diff(admin, console, arguments).await,
        ("application patch", _) => {
            application::patch(admin, arguments, "patchApplication", name).await
        }
        ("application remove", [name]) => application::remove(admin, name).await,
        ("application describe", [name]) => application::describe(admin, console, name).await,
        ("application list", _) => application::list_all(admin, console).await,
        ("server template instantiate", _) => application::instantiate(admin, arguments).await,
        ("server template describe", [of, id]) => {
            application::describe_template(admin, console, "server", of, id).await
        }
        ("service template describe", [of, id]) => {
            application::describe_template(admin, console, "service", of, id).await
        }
        ("node list", _) => place::list_nodes(admin, console).await,
        ("node describe", [name]) => place::describe_node(admin, console, name).await,
        ("node ping", [name]) => place::ping_node(admin, console, name).await,
        ("node load", [name]) => place::load(admin, console, name).await,
        ("node sockets", names) => place::sockets(admin, console, names.first().copied()).await,
        ("node show", _) => show::show(admin, console, Whose::Node, arguments).await,
        ("node shutdown", [name]) => place::shutdown_node(admin, name).await,
        ("registry list", _) => place::list_registries(admin, console).await,
        ("registry describe", [name]) => place::describe_registry(admin, console, name).await,
        ("registry ping", [name]) => place::ping_registry(admin, console, name).await,
        ("registry show", _) => show::show(admin, console, Whose::Registry, arguments).await,
        ("registry shutdown", [name]) => place::shutdown_registry(admin, name).await,
        ("server list", _) => server::list_all(admin, console).await,
        ("server remove", [id]) => server::remove(admin, id).await,
        ("server describe", [id]) => server::describe(admin, console, id).await,
        ("server properties", [id]) => {
            let of = admin_facet(&server::admin_of(admin, id).await?, "Properties");
            server::properties(admin, console, &of).await
        }
        ("server property", [id, name]) => {
            let of = admin_facet(&server::admin_of(admin, id).await?, "Properties");
            server::property(admin, console, &of, name).await
        }
        ("server state", [id]) => server::state(admin, console, id).await,
        ("server pid", [id]) => server::pid(admin, console, id).await,
        ("server start", [id]) => Ok(admin.call("startServer", Mode::Normal, (*id,)).await?),
        ("server stop", [id]) => Ok(admin.call("stopServer", Mode::Normal, (*id,)).await?),
        ("server patch", _) => application::patch(admin, arguments, "patchServer", name).await,
        ("server signal", [id, signal]) => server::signal(admin, id, signal).await,
        ("server stdout", [id, message]) => server::write(admin, id, message, 1).await,
        ("server stderr", [id, message]) => server::write(admin, id, message, 2).await,
        ("server show", _) => show::show(admin, console, Whose::Server, arguments).await,
        ("server enable", [id]) => server::enable(admin, id, true).await,
        ("server disable", [id]) => server::enable(admin, id, false).await,
        ("service start", [id, name]) => service::change(admin, id, name, "startService").await,
        ("service stop", [id, name]) => service::change(admin, id, name, "stopService").await,
        ("service describe", [id, name]) => service::describe(admin, console, id, name).await,
        ("service properties", [id, name]) => {
            service::properties(admin, console, id, name, None).await
        }
        ("service property", [id, name, property]) => {
            service::properties(admin, console, id, name, Some(property)).await
        }
        ("service list", [id]) => service::list_all(admin, console, id).await,
        ("adapter list", _) => object::list_adapters(admin, console).await,
        ("adapter endpoints", [id]) => object::endpoints(admin, console, id).await,
        ("adapter remove", [id]) => object::remove_adapter(admin, id).await,
        ("object add", [proxy]) => object::add(admin, proxy, None).await,
        ("object add", [proxy, class]) => object::add(admin, proxy, Some(class)).await,
        ("object remove", [identity]) => object::remove(admin, identity).await,
        ("object find", [class]) => object::find(admin, console, class).await,
        ("object describe", given) => {
            object::describe(admin, console, given.first().copied()).await
        }
        ("object list", given) => object::list_all(admin, console, given.first().copied()).await,
        _ => Err(CommandError::new(format!(
            "`{name}' is not carried out here"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Meaning> {
        let (commands, _) = parser::parse(text);
        meaning(&commands[0])
    }

    #[test]
    fn words_mean_commands() {
        let run = |name, arguments: &[&str]| {
            Ok(Meaning::Run(
                name,
                arguments.iter().map(|a| (*a).to_owned()).collect(),
            ))
        };
        assert_eq!(of("server state 'a b'"), run("server state", &["a b"]));
        assert_eq!(of("node list"), run("node list", &[]));
        assert_eq!(of("quit"), Ok(Meaning::Quit));
        assert_eq!(
            of("object find help"),
            Ok(Meaning::Help(table::help(&["object", "find"]).unwrap()))
        );
        assert!(matches!(of("help"), Ok(Meaning::Help(_))));
        assert!(matches!(of("help server template"), Ok(Meaning::Help(_))));
        assert!(matches!(of("server help"), Ok(Meaning::Help(_))));
    }

    #[test]
    fn what_means_nothing_is_said_as_icegridadmin_says_it() {
        let table = [
            (
                "frob",
                "syntax error\nunknown `frob' command (see `help' for more info)",
            ),
            (
                "# a",
                "syntax error\nunknown `#' command (see `help' for more info)",
            ),
            (
                "server",
                "syntax error\ninvalid `server' command (see `server help' for more info)",
            ),
            (
                "node sources n",
                "syntax error\nunknown `node sources' command (see `node help' for more info)",
            ),
            (
                "server 'state' a",
                "syntax error\ninvalid `server state' command (see `server state help' for more info)",
            ),
            ("help frob", "unknown command `frob'"),
        ];
        for (text, expected) in table {
            assert_eq!(of(text).unwrap_err().0, expected, "{text}");
        }
    }

    #[test]
    fn every_command_is_carried_out() {
        let source = include_str!("run.rs");
        for entry in table::ENTRIES {
            assert!(
                source.contains(&format!("(\"{}\", ", entry.name)),
                "{}",
                entry.name
            );
        }
    }
}
