//! `… show`: what servers, nodes and registries have logged and written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::fault::CommandError;
use super::output::time;
use super::run::{Console, Result, admin_facet};
use crate::ice::net::{Answer, Incoming, Responder, Servant, Servants, Served};
use crate::ice::{Missing, Mode, Proxy};
use crate::icegrid::client::{Admin, Fault};
use crate::icegrid::types::*;

/// How many bytes are read at once.
const CHUNK: i32 = 1024 * 1024;

/// How often a file is looked at for more.
const AGAIN: Duration = Duration::from_secs(5);

/// Whose file is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Server,
    Node,
    Registry,
}

impl Whose {
    fn noun(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
            Self::Registry => "registry",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Node => "Node",
            Self::Registry => "Registry",
        }
    }
}

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    head: Option<String>,
    tail: Option<String>,
    words: Vec<String>,
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut left: VecDeque<&str> = arguments.iter().map(String::as_str).collect();
    while let Some(word) = left.pop_front() {
        let (name, inline) = match word.strip_prefix("--").and_then(|w| w.split_once('=')) {
            Some((name, value)) => (format!("--{name}"), Some(value.to_owned())),
            // `-t5` is `-t 5`.
            None => match word
                .strip_prefix('-')
                .filter(|w| !w.starts_with('-'))
                .map(|w| w.split_at_checked(1))
            {
                Some(Some((letter, rest))) if !rest.is_empty() => {
                    (format!("-{letter}"), Some(rest.to_owned()))
                }
                _ => (word.to_owned(), None),
            },
        };
        let mut value = |inline: Option<String>| {
            inline
                .or_else(|| left.pop_front().map(str::to_owned))
                .ok_or_else(|| CommandError::new(format!("`{name}' option requires an argument")))
        };
        match name.as_str() {
            "-f" | "--follow" => options.follow = true,
            "-t" | "--tail" => options.tail = Some(value(inline)?),
            "-h" | "--head" => options.head = Some(value(inline)?),
            option if option.starts_with('-') && option.len() > 1 => {
                return Err(CommandError::new(format!("invalid option: `{option}'")));
            }
            _ => options.words.push(word.to_owned()),
        }
    }
    Ok(options)
}

/// Reads a number of lines or messages.
fn number(text: Option<&str>) -> Result<Option<i32>> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || CommandError::new("invalid argument for -h | --head or -t | --tail option");
    text.parse::<i32>()
        .ok()
        .filter(|number| *number >= 0)
        .map(Some)
        .ok_or_else(wrong)
}

pub(super) async fn show(
    admin: &Admin,
    console: &mut Console<'_>,
    whose: Whose,
    arguments: &[String],
) -> Result<()> {
    let options = options(arguments)?;
    let noun = whose.noun();
    let [name, what] = options.words.as_slice() else {
        return Err(CommandError::new(format!(
            "`{noun} show' requires two arguments\n(`{noun} show help' for more info)"
        )));
    };
    console.print(&format!("{noun} `{name}' {what}: "))?;
    let (head, tail) = (options.head.as_deref(), options.tail.as_deref());
    if head.is_some() && tail.is_some() {
        return Err(CommandError::new(
            "can't specify both -h | --head and -t | --tail options",
        ));
    }
    if what == "log" {
        console.print("\n")?;
        let tail = number(tail)?;
        return log(admin, console, whose, name, options.follow, tail).await;
    }
    let (head, tail) = (number(head)?, number(tail)?);
    let count = tail.unwrap_or(-1);
    let session = admin.session();
    let is_file = !matches!(what.as_str(), "stdout" | "stderr");
    let kind = match what.as_str() {
        "stdout" => "StdOut",
        "stderr" => "StdErr",
        _ if whose == Whose::Server => "Log",
        _ => {
            return Err(CommandError::new(format!(
                "invalid {noun} log filename `{what}'"
            )));
        }
    };
    let operation = format!("open{}{kind}", whose.name());
    let iterator: Option<Proxy> = match is_file {
        true => {
            let params = (name.as_str(), what.as_str(), count);
            admin
                .call_of(session, &operation, Mode::Normal, params)
                .await?
        }
        false => {
            let params = (name.as_str(), count);
            admin
                .call_of(session, &operation, Mode::Normal, params)
                .await?
        }
    };
    let iterator = iterator.ok_or(Fault::Nil("a file"))?;
    let shown = file(admin, console, &iterator, head, options.follow).await;
    // It ends with the session in any case.
    let _ = admin
        .call_of::<()>(&iterator, "destroy", Mode::Normal, ())
        .await;
    shown
}

async fn file(
    admin: &Admin,
    console: &mut Console<'_>,
    iterator: &Proxy,
    head: Option<i32>,
    follow: bool,
) -> Result<()> {
    let mut left = head;
    let mut in_line = false;
    loop {
        let (lines, end): (Vec<String>, bool) = admin
            .call_of(iterator, "read", Mode::Normal, (CHUNK,))
            .await?;
        let mut text = String::new();
        for line in &lines {
            if let Some(left) = &mut left {
                if *left == 0 {
                    return console.print(&text);
                }
                *left -= 1;
            }
            // What comes after the end goes on where the end was.
            if !std::mem::take(&mut in_line) {
                text.push('\n');
            }
            text.push_str(line);
        }
        console.print(&text)?;
        if end && (!follow || head.is_some()) {
            // What does not end its last line is ended by nobody; a file that ends it has an empty one behind it.
            return match lines.last() {
                Some(last) if !last.is_empty() => console.print("\n"),
                None => console.print("\n"),
                _ => Ok(()),
            };
        }
        if end {
            in_line = true;
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn log(
    admin: &Admin,
    console: &mut Console<'_>,
    whose: Whose,
    name: &str,
    follow: bool,
    tail: Option<i32>,
) -> Result<()> {
    let operation = format!("get{}Admin", whose.name());
    let proxy: Option<Proxy> = admin.call(&operation, Mode::Idempotent, (name,)).await?;
    let proxy = proxy.ok_or(Fault::Nil("an admin object"))?;
    let logger = admin_facet(&proxy, "Logger");
    let no_facet = |fault| match fault {
        Fault::Missing { .. } => CommandError::new(format!(
            "cannot retrieve Logger admin facet for {} `{name}'",
            whose.noun()
        )),
        fault => CommandError::from(fault),
    };
    let is_logger: bool = admin
        .call_of(
            &logger,
            "ice_isA",
            Mode::Nonmutating,
            ("::Ice::LoggerAdmin",),
        )
        .await
        .map_err(no_facet)?;
    if !is_logger {
        return Err(CommandError::new(format!(
            "cannot retrieve Logger admin facet for {} `{name}'",
            whose.noun()
        )));
    }
    let wanted = (
        Vec::<LogMessageType>::new(),
        Vec::<String>::new(),
        tail.unwrap_or(-1),
    );
    if follow {
        return follow_log(admin, console, &logger, wanted).await;
    }
    let (prefix, messages): (String, Vec<LogMessage>) = admin
        .call_of(&logger, "getLog", Mode::Normal, wanted)
        .await
        .map_err(no_facet)?;
    let text: String = messages.iter().map(|m| line(m, &prefix)).collect();
    console.print(&text)
}

/// What is wanted of a log: of which kinds, of which categories, and how many of the last.
type Wanted = (Vec<LogMessageType>, Vec<String>, i32);

/// Has a log told to a remote logger that is here, until the session has ended.
async fn follow_log(
    admin: &Admin,
    console: &mut Console<'_>,
    logger: &Proxy,
    (kinds, categories, count): Wanted,
) -> Result<()> {
    let operation = "getAdminCallbackTemplate";
    let template: Option<Proxy> = admin
        .call_of(admin.session(), operation, Mode::Idempotent, ())
        .await?;
    let mut remote = template.ok_or(Fault::Nil(operation))?;
    remote.identity.name = Uuid::new_v4().to_string();
    let (tell, mut told) = mpsc::channel(1);
    let here = Servants::new();
    here.add(&remote.identity, "", Arc::new(RemoteLogger(tell)));
    admin.set_dispatcher(Arc::new(here));
    let params = (Some(remote), kinds, categories, count);
    admin
        .call_of::<()>(logger, "attachRemoteLogger", Mode::Normal, params)
        .await?;
    let mut prefix = String::new();
    loop {
        // Cancel safe: a channel and a watch lose nothing.
        let messages = tokio::select! {
            Some(told) = told.recv() => match told {
                Told::Init(name, messages) => {
                    prefix = name;
                    messages
                }
                Told::Log(message) => vec![message],
            },
            () = admin.closed() => {
                return Err(CommandError::new("the session with the registry has ended"));
            }
        };
        let text: String = messages.iter().map(|m| line(m, &prefix)).collect();
        console.print(&text)?;
    }
}

/// What a remote logger is told.
enum Told {
    /// What stands before messages, and those that there are.
    Init(String, Vec<LogMessage>),
    /// One more.
    Log(LogMessage),
}

/// Hands on what it is told; whoever tells it waits until there is room. The one thread of this program sees to it that it stays in order.
struct RemoteLogger(mpsc::Sender<Told>);

impl Servant for RemoteLogger {
    fn types(&self) -> &[&str] {
        &["::Ice::RemoteLogger"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let params = &incoming.request.params;
        let told = match incoming.target().operation {
            "init" => params
                .decode()
                .map(|(prefix, messages)| Told::Init(prefix, messages)),
            "log" => params.decode().map(Told::Log),
            _ => return responder.missing(Missing::Operation),
        };
        let told = match told {
            Ok(told) => told,
            Err(error) => return responder.malformed(&error),
        };
        let (to, encoding) = (self.0.clone(), responder.encoding());
        responder.later(async move {
            // Nobody follows any more.
            let _ = to.send(told).await;
            Answer::done(encoding, |_| {})
        })
    }
}

/// Writes a message as Ice's logger does, in a line of its own.
fn line(message: &LogMessage, prefix: &str) -> String {
    let at = time(message.timestamp / 1000);
    let prefix = match prefix.is_empty() {
        true => String::new(),
        false => format!("{prefix}: "),
    };
    let text = match message.kind {
        LogMessageType::PrintMessage => format!("{at} {}", message.message),
        LogMessageType::TraceMessage => {
            let category = match message.trace_category.is_empty() {
                true => String::new(),
                false => format!("{}: ", message.trace_category),
            };
            format!("-- {at} {prefix}{category}{}", message.message)
        }
        LogMessageType::WarningMessage => format!("!- {at} {prefix}warning: {}", message.message),
        LogMessageType::ErrorMessage => format!("!! {at} {prefix}error: {}", message.message),
    };
    format!("{}\n", text.replace('\n', "\n   "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Options> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        options(&words)
    }

    #[test]
    fn options_stand_anywhere() {
        let expected = Options {
            follow: true,
            tail: Some("3".to_owned()),
            words: vec!["s".to_owned(), "log".to_owned()],
            ..Options::default()
        };
        for words in [
            &["-f", "-t", "3", "s", "log"][..],
            &["s", "--tail", "3", "log", "--follow"],
            &["-t3", "s", "log", "-f"],
            &["--tail=3", "-f", "s", "log"],
        ] {
            assert_eq!(read(words).unwrap(), expected, "{words:?}");
        }
        assert_eq!(read(&["-z", "s"]).unwrap_err().0, "invalid option: `-z'");
        assert!(read(&["s", "log", "-t"]).is_err());
    }

    #[test]
    fn lines_of_a_message_are_indented() {
        let message = LogMessage {
            kind: LogMessageType::WarningMessage,
            timestamp: 0,
            trace_category: String::new(),
            message: "a\nb".to_owned(),
        };
        let text = line(&message, "node");
        assert!(text.starts_with("!- "), "{text}");
        assert!(text.ends_with(" node: warning: a\n   b\n"), "{text}");
    }
}
