//! `omero-grid config`: OMERO's configuration store, with the subcommands of `omero config` (`omero.md` §3.3).

mod explain;
mod lines;
mod lists;
mod parse;
mod service;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::context::{Context, strange};
use super::deploy;
use super::failure::{Failure, code};
use crate::config::{ConfigError, ConfigStore, check_name, store_path};
use crate::ipc::message::client::{Reply, Request};
use crate::model::ServerId;
use crate::store::write_private;
use crate::telemetry::chain;

/// What stands in the place of a secret, as OMERO has it.
const MASK: &str = "********";

/// The longest value that is read from a file, in bytes.
const MAX_VALUE: u64 = 1024 * 1024;

/// Arguments of `config`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// Another file than etc/grid/config.xml
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Print values: all as KEY=VALUE, of one key the value alone
    Get {
        /// The keys
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
        /// Print passwords too
        #[arg(long)]
        show_password: bool,
    },
    /// Print all values
    List {
        /// Print passwords too
        #[arg(long)]
        show_password: bool,
    },
    /// Print the keys that have a value
    Keys,
    /// Set a value, or take it away; a running grid takes it up at once
    Set {
        /// The key
        key: String,
        /// The value; `@FILE` or `-` to read it from a file or standard input; none takes it away
        value: Option<String>,
        /// Read the value from a file, `-` for standard input
        #[arg(short, long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
        /// Say what changed, for tools that manage configurations
        #[arg(long)]
        report: bool,
        /// Refuse an unlikely key and a wrong value instead of warning
        #[arg(long)]
        strict: bool,
    },
    /// Add a value to the end of a list
    Append {
        /// The key
        key: String,
        /// The value, in JSON: text in quotation marks, '"text"'
        value: String,
        /// Only if it is not in the list
        #[arg(long)]
        set: bool,
        /// Say what changed, for tools that manage configurations
        #[arg(long)]
        report: bool,
        /// Refuse an unlikely key instead of warning
        #[arg(long)]
        strict: bool,
    },
    /// Take the first value that is equal away from a list
    Remove {
        /// The key
        key: String,
        /// The value, in JSON
        value: String,
        /// Say what changed
        #[arg(long)]
        report: bool,
    },
    /// Read settings from lines KEY=VALUE, all or none; another value for a key that is set is refused, with -q it is taken
    Load {
        /// The files, `-` for standard input [default: standard input]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Refuse unlikely keys and wrong values instead of warning
        #[arg(long)]
        strict: bool,
    },
    /// Change all settings in an editor: $VISUAL, else $EDITOR, else vi
    Edit {
        /// Refuse unlikely keys and wrong values instead of warning
        #[arg(long)]
        strict: bool,
    },
    /// Print the names of the profiles
    All,
    /// Print the name of the active profile, or make another one active
    Def {
        /// The profile; it is made where it is missing
        name: Option<String>,
    },
    /// Delete a profile
    Drop {
        /// The profile
        name: String,
    },
    /// Hold the lock of the store until Enter is pressed
    Lock,
    /// Print the version of the store's form
    Version,
    /// Print where the store is
    Path,
    /// Show where the value of a key comes from, for each server
    Explain {
        /// The key
        key: String,
        /// Only for this server
        #[arg(long, value_name = "ID")]
        server: Option<ServerId>,
        /// Print passwords too
        #[arg(long)]
        show_password: bool,
    },
    /// Print the properties that the grid knows, with type, default and what they are for
    Parse(parse::ParseArgs),
    /// Ask a running Blitz for its values, or set them in it
    Service {
        #[command(subcommand)]
        service: service::Service,
    },
}

pub(crate) async fn run(context: &Context, args: ConfigArgs) -> Result<(), Failure> {
    let own = args.source.is_none();
    let path = args
        .source
        .unwrap_or_else(|| store_path(context.paths.dir()));
    let profile = std::env::var("OMERO_CONFIG").ok();
    let store = ConfigStore::new(path, profile.clone());
    let reads = matches!(
        args.command,
        Command::Get { .. } | Command::List { .. } | Command::Keys
    );
    if let Some(name) = profile.filter(|name| reads && !name.is_empty())
        && !store.profiles()?.contains(&name)
    {
        warn(
            context,
            &format!(
                "there is no profile '{name}', which OMERO_CONFIG names; `omero config all` lists them"
            ),
        )?;
    }
    match args.command {
        Command::Service { service } => service::run(context, service).await,
        Command::Explain {
            key,
            server,
            show_password,
        } => explain::explain(context, &key, server.as_ref(), show_password).await,
        Command::Parse(args) => parse::parse(context, &args),
        Command::Get {
            keys,
            show_password,
        } => get(context, &store, &keys, show_password),
        Command::List { show_password } => get(context, &store, &[], show_password),
        Command::Keys => {
            let mut keys: Vec<_> = store
                .properties()?
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            keys.sort();
            if context.is_json() {
                return context.json(&keys);
            }
            print(keys.iter().map(String::as_str))
        }
        Command::Set {
            key,
            value,
            file,
            report,
            strict,
        } => {
            let typed = value
                .as_deref()
                .is_some_and(|value| value != "-" && !value.starts_with('@'));
            let value = match (value, file) {
                (None, None) => None,
                (None, Some(file)) => Some(value_of(&file)?),
                (Some(value), _) => Some(match value.strip_prefix('@') {
                    _ if value == "-" => value_of("-".as_ref())?,
                    // A placeholder, as values for LDAP have them.
                    Some(rest) if rest.starts_with('{') => value,
                    Some(file) => value_of(file.as_ref())?,
                    None => value,
                }),
            };
            if is_secret(&key) && typed && value.is_some() {
                warn(
                    context,
                    &format!(
                        "{key} is in the list of processes and in the shell's history; better: `omero config set {key} -`"
                    ),
                )?;
            }
            if let Some(value) = &value {
                parse::examine(context, [(key.as_str(), value.as_str())], strict)?;
            }
            store.set(&key, value.as_deref())?;
            say_changed(context, report, "set", &key, value.as_deref())?;
            apply(context, &store, &key, own).await
        }
        Command::Append {
            key,
            value,
            set,
            report,
            strict,
        } => {
            check_name(&key)?;
            // Of a list only the key can be doubted before it is put together.
            parse::examine(context, [(key.as_str(), "")], strict)?;
            let changed = store.change(|draft| -> Result<bool, Failure> {
                let list = draft.get(&key);
                if list.is_none() && key.starts_with("omero.web.") && key != "omero.web.apps" {
                    return Err(Failure::new(
                        code::REFUSED,
                        format!("{key} is not set, and what OMERO.web then takes is not known here: it would be lost"),
                    )
                    .hint(format!("set the whole list: omero config set {key} '[…]'")));
                }
                let list = lists::append(list.as_deref(), &value, set).map_err(|error| of_list(&key, &error))?;
                if let Some(list) = &list {
                    draft.set(&key, Some(list));
                }
                Ok(list.is_some())
            })?;
            if !changed {
                return Ok(());
            }
            say_changed(context, report, "append", &key, Some(&value))?;
            apply(context, &store, &key, own).await
        }
        Command::Remove { key, value, report } => {
            store.change(|draft| -> Result<(), Failure> {
                let list = draft
                    .get(&key)
                    .ok_or_else(|| Failure::new(code::FAILED, format!("{key} is not set")))?;
                let list = lists::remove(&list, &value).map_err(|error| of_list(&key, &error))?;
                draft.set(&key, Some(&list));
                Ok(())
            })?;
            say_changed(context, report, "remove", &key, Some(&value))?;
            apply(context, &store, &key, own).await
        }
        Command::Load { files, strict } => {
            let mut settings = Vec::new();
            let files = if files.is_empty() {
                vec![PathBuf::from("-")]
            } else {
                files
            };
            for file in &files {
                settings.extend(lines::parse(&value_of(file)?)?);
            }
            let pairs = settings
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()));
            parse::examine(context, pairs, strict)?;
            let overwrite = context.quiet;
            store.change(|draft| -> Result<(), Failure> {
                for (key, value) in &settings {
                    if !overwrite && draft.get(key).is_some_and(|known| known != *value) {
                        return Err(Failure::new(
                            code::REFUSED,
                            format!("{key} has another value already; nothing was loaded"),
                        )
                        .hint("-q takes the new values"));
                    }
                    draft.set(key, Some(value));
                }
                Ok(())
            })?;
            apply(context, &store, "what was loaded", own).await
        }
        Command::Edit { strict } => {
            edit(context, &store, strict)?;
            apply(context, &store, "what was edited", own).await
        }
        Command::All => {
            let profiles = store.profiles()?;
            if context.is_json() {
                return context.json(&profiles);
            }
            print(profiles.iter().map(String::as_str))
        }
        Command::Def { name: None } => {
            let profile = store.profile()?;
            if context.is_json() {
                return context.json(&profile);
            }
            print(std::iter::once(profile.as_str()))
        }
        Command::Def { name: Some(name) } => {
            store.activate(&name)?;
            apply(context, &store, &name, own).await
        }
        Command::Drop { name } => {
            if !store.remove_profile(&name)? {
                return Err(
                    Failure::new(code::FAILED, format!("there is no profile '{name}'"))
                        .hint("`omero config all` lists them"),
                );
            }
            Ok(())
        }
        Command::Lock => {
            let _lock = store.lock()?;
            context.say(format!(
                "{} is locked; Enter lets it go",
                store.path().display()
            ))?;
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            Ok(())
        }
        Command::Version => {
            let version = store.version()?;
            if context.is_json() {
                return context.json(&version);
            }
            print(std::iter::once(version.as_str()))
        }
        Command::Path => {
            let path = store.path().display().to_string();
            if context.is_json() {
                return context.json(&path);
            }
            print(std::iter::once(path.as_str()))
        }
    }
}

fn print<'l>(lines: impl Iterator<Item = &'l str>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.ends_with("pass") || key.ends_with("password")
}

fn get(
    context: &Context,
    store: &ConfigStore,
    keys: &[String],
    show_password: bool,
) -> Result<(), Failure> {
    let mut properties = store.properties()?;
    properties.sort();
    if !keys.is_empty() {
        properties.retain(|(key, _)| keys.contains(key));
    }
    // Of one key the bare value, as scripts expect it; on a terminal a secret is masked all the same.
    let bare = keys.len() == 1 && !std::io::stdout().is_terminal();
    let shown = |key: &str, value: &str| {
        if is_secret(key) && !show_password && !bare && !value.is_empty() {
            MASK.to_owned()
        } else {
            value.to_owned()
        }
    };
    if context.is_json() {
        let object: Map<String, Value> = properties
            .iter()
            .map(|(key, value)| (key.clone(), json!(shown(key, value))))
            .collect();
        return context.json(&object);
    }
    let lines: Vec<_> = properties
        .iter()
        .map(|(key, value)| match keys.len() {
            1 => shown(key, value),
            _ => format!("{key}={}", shown(key, value)),
        })
        .collect();
    print(lines.iter().map(String::as_str))
}

/// Reads a value from a file, without the blanks at its end.
fn value_of(file: &std::path::Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(
            code::USAGE,
            format!("cannot read {}: {error}", file.display()),
        )
    };
    let mut text = String::new();
    let from: Box<dyn std::io::Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(fail)?)
    };
    from.take(MAX_VALUE)
        .read_to_string(&mut text)
        .map_err(fail)?;
    Ok(text.trim_end().to_owned())
}

fn warn(context: &Context, text: &str) -> Result<(), Failure> {
    if !context.quiet {
        writeln!(anstream::stderr(), "warning: {text}")?;
    }
    Ok(())
}

/// Prints the line that tools look for which manage configurations; a secret is not in it.
fn say_changed(
    context: &Context,
    report: bool,
    what: &str,
    key: &str,
    value: Option<&str>,
) -> Result<(), Failure> {
    if !report || context.is_json() {
        return Ok(());
    }
    let value = match value {
        Some(_) if is_secret(key) => MASK,
        Some(value) => value,
        None => "",
    };
    print(std::iter::once(
        format!("Changed: {what} {key}:{value}").as_str(),
    ))
}

fn of_list(key: &str, error: &lists::ListError) -> Failure {
    let code = match error {
        lists::ListError::NotJson(_) => code::USAGE,
        lists::ListError::NotAList(_) => code::INVALID,
        lists::ListError::Absent(_) => code::FAILED,
    };
    Failure::new(code, format!("{key}: {error}"))
}

/// Has the settings changed in an editor, under the lock. A result that cannot be used changes nothing and is kept in its file.
fn edit(context: &Context, store: &ConfigStore, strict: bool) -> Result<(), Failure> {
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| "vi".to_owned());
    store.change(|draft| -> Result<(), Failure> {
        let (text, left_out) = lines::write(&draft.properties());
        let mut head = String::from("# Lines KEY=VALUE; those that are taken out are unset.\n");
        for key in &left_out {
            head.push_str(&format!(
                "# {key} has a value of several lines and stays as it is\n"
            ));
        }
        let file = store.path().with_file_name("config.edit");
        write_private(&file, &(head + &text))?;
        let status = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("{editor} \"$1\""))
            .arg("sh")
            .arg(&file)
            .status()?;
        if !status.success() {
            let _ = std::fs::remove_file(&file);
            return Err(Failure::new(
                code::FAILED,
                format!("the editor '{editor}' ended with {status}; nothing was changed"),
            ));
        }
        let edited = value_of(&file)?;
        let settings = lines::parse(&edited).map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(
                code::INVALID,
                format!("{}; nothing was changed", failure.message),
            )
            .hint(format!("what you wrote is in {}", file.display()))
        })?;
        // Only what is new: whoever kept a value has been told before.
        let before = draft.properties();
        let fresh = settings.iter().filter(|setting| !before.contains(setting));
        let fresh = fresh.map(|(key, value)| (key.as_str(), value.as_str()));
        parse::examine(context, fresh, strict)?;
        let kept = before.into_iter();
        let mut all: Vec<_> = kept.filter(|(key, _)| left_out.contains(key)).collect();
        all.retain(|(key, _)| !settings.iter().any(|(other, _)| other == key));
        all.extend(settings);
        // In their old order, so that an edit that changes nothing is none.
        let order: Vec<String> = draft.properties().into_iter().map(|(key, _)| key).collect();
        all.sort_by_key(|(key, _)| {
            order
                .iter()
                .position(|known| known == key)
                .unwrap_or(order.len())
        });
        draft.replace(all);
        let _ = std::fs::remove_file(&file);
        Ok(())
    })
}

/// Has a running grid take up what was changed.
async fn apply(
    context: &Context,
    store: &ConfigStore,
    what: &str,
    own: bool,
) -> Result<(), Failure> {
    if !own || !store.is_active()? {
        return Ok(());
    }
    let grid = match context.grid().await {
        Ok(grid) => grid,
        // It is read when the grid is started.
        Err(failure) if failure.code == code::NOT_THERE => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let refused = |failure: Failure| Failure {
        message: format!(
            "{what} is set, but the running grid goes on without it: {}",
            failure.message
        ),
        hint: Some("mend it, then `omero-grid reload`".to_owned()),
        ..failure
    };
    let request = Request::Reload { spare: true };
    let Reply::Reloaded { reports } = grid.call(request).await.map_err(refused)? else {
        return Err(strange());
    };
    if context.is_json() {
        return context.json(&reports);
    }
    reports
        .iter()
        .filter(|report| !report.changes.is_empty())
        .try_for_each(|report| deploy::show(context, report))
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = match &error {
            ConfigError::Read(_) | ConfigError::Foreign { .. } => code::INVALID,
            ConfigError::Locked { .. } | ConfigError::Active(_) => code::REFUSED,
            ConfigError::Name(_) => code::USAGE,
            ConfigError::Write { .. } => code::FAILED,
        };
        let failure = Self::new(code, chain(&error));
        match error {
            ConfigError::Locked { .. } => failure.hint("try again when it is done"),
            _ => failure,
        }
    }
}
