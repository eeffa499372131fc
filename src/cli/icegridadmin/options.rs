//! The options of icegridadmin.

use crate::config::Properties;

/// What it is called with, beside properties.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) help: bool,
    pub(super) version: bool,
    /// The texts of `-e`.
    pub(super) commands: Vec<String>,
    pub(super) instance: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) ssl: bool,
    pub(super) replica: Option<String>,
    /// It is to be a server that reads descriptors for others.
    pub(super) server: bool,
    /// Files of commands.
    pub(super) files: Vec<String>,
}

/// Returns the text that `--help` prints.
pub(super) fn usage(program: &str) -> String {
    format!(
        "\
Usage: {program} [options] [FILE...]
Carries out commands of IceGrid's administration: those of -e, of files, or of standard input.

  -h, --help              Print this
  -v, --version           Print the version of Ice
  -e COMMANDS             Carry out these commands (repeatable)
  -i, --instanceName NAME The name of the grid's instance
  -H, --host HOST         Come to the registry on this host
  -P, --port PORT         Come to the registry on this port
  -u, --username USER     Log in as this user
  -p, --password TEXT     Log in with this password
  -S, --ssl               Log in with a certificate
  -r, --replica NAME      Come to this replica of the registry
  --Ice.Config=FILE,...   Read properties from files; --NAME=VALUE sets one
"
    )
}

/// The options with a value: letter and name.
const VALUED: &[(char, &str)] = &[
    ('e', ""),
    ('i', "instanceName"),
    ('H', "host"),
    ('P', "port"),
    ('u', "username"),
    ('p', "password"),
    ('r', "replica"),
    ('D', ""),
];

/// The options without one.
const FLAGS: &[(char, &str)] = &[
    ('h', "help"),
    ('v', "version"),
    ('d', "debug"),
    ('s', "server"),
    ('S', "ssl"),
];

impl Options {
    /// Reads a command line.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            if let Some(name) = argument.strip_prefix("--").filter(|name| !name.is_empty()) {
                let (name, inline) = match name.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (name, None),
                };
                let of = |table: &[(char, &str)]| {
                    let mut table = table.iter();
                    table
                        .find(|(_, long)| *long == name)
                        .map(|(letter, _)| *letter)
                };
                match (of(VALUED), of(FLAGS)) {
                    (Some(letter), _) => {
                        let value = inline.or_else(|| left.next().cloned());
                        options.value(
                            letter,
                            value.ok_or(format!("`--{name}' option requires an argument"))?,
                        );
                    }
                    (None, Some(letter)) if inline.is_none() => options.flag(letter),
                    _ => return Err(format!("invalid option: `--{name}'")),
                }
                continue;
            }
            let Some(letters) = argument
                .strip_prefix('-')
                .filter(|letters| !letters.is_empty())
            else {
                options.files.push(argument.clone());
                continue;
            };
            for (at, letter) in letters.char_indices() {
                let has = |table: &[(char, &str)]| table.iter().any(|(known, _)| *known == letter);
                if has(FLAGS) {
                    options.flag(letter);
                } else if has(VALUED) {
                    let rest = letters.get(at + 1..).filter(|rest| !rest.is_empty());
                    let value = rest.map(str::to_owned).or_else(|| left.next().cloned());
                    options.value(
                        letter,
                        value.ok_or(format!("`-{letter}' option requires an argument"))?,
                    );
                    break;
                } else {
                    return Err(format!("invalid option: `-{letter}'"));
                }
            }
        }
        Ok(options)
    }

    fn flag(&mut self, letter: char) {
        match letter {
            'h' => self.help = true,
            'v' => self.version = true,
            's' => self.server = true,
            'S' => self.ssl = true,
            // What `-d` prints is of use to who writes the parser.
            _ => {}
        }
    }

    fn value(&mut self, letter: char, value: String) {
        match letter {
            'e' => self.commands.push(value),
            'i' => self.instance = Some(value),
            'H' => self.host = Some(value),
            'P' => self.port = Some(value),
            'u' => self.username = Some(value),
            'p' => self.password = Some(value),
            'r' => self.replica = Some(value),
            // `-D`: words for a preprocessor that descriptors have no longer.
            _ => {}
        }
    }

    /// Takes from properties what the command line does not say.
    pub(super) fn complete(&mut self, properties: &Properties) {
        let fill = |option: &mut Option<String>, name: &str| {
            if option.as_deref().unwrap_or_default().is_empty() {
                *option = properties.get(name).map(str::to_owned);
            }
        };
        fill(&mut self.username, "IceGridAdmin.Username");
        fill(&mut self.password, "IceGridAdmin.Password");
        fill(&mut self.replica, "IceGridAdmin.Replica");
        fill(&mut self.host, "IceGridAdmin.Host");
        fill(&mut self.port, "IceGridAdmin.Port");
        fill(&mut self.instance, "IceGridAdmin.InstanceName");
        self.ssl |= properties.is_set("IceGridAdmin.AuthenticateUsingSSL");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn options_are_short_or_long() {
        let expected = Options {
            commands: vec!["help".to_owned(), "quit".to_owned()],
            host: Some("h".to_owned()),
            port: Some("4061".to_owned()),
            username: Some("u".to_owned()),
            ssl: true,
            files: vec!["f".to_owned()],
            ..Options::default()
        };
        for line in [
            "-e help -e quit -H h -P 4061 -u u -S f",
            "-ehelp --host=h --port 4061 f -Su u -e quit -DA=B",
            "-d --host h --ssl --username u f -P4061 -e help -equit",
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
        assert_eq!(parse("--frob").unwrap_err(), "invalid option: `--frob'");
        assert_eq!(parse("-x").unwrap_err(), "invalid option: `-x'");
        assert_eq!(parse("-e").unwrap_err(), "`-e' option requires an argument");
    }

    #[test]
    fn properties_say_what_options_do_not() {
        let mut properties = Properties::default();
        properties.add("IceGridAdmin.Username=root\nIceGridAdmin.Password=p\n");
        let mut options = parse("-u me").unwrap();
        options.complete(&properties);
        assert_eq!(options.username.as_deref(), Some("me"));
        assert_eq!(options.password.as_deref(), Some("p"));
    }
}
