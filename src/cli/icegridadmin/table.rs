//! The commands: what they are called, how many arguments they take, and what help says of them.

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMostOne,
    OneOrTwo,
}

/// A command.
#[derive(Debug)]
pub(super) struct Entry {
    /// The words that it is called by.
    pub(super) name: &'static str,
    pub(super) arity: Arity,
    /// How its arguments are called.
    pub(super) arguments: &'static str,
    /// What it does.
    pub(super) help: &'static str,
}

/// What commands are about: the first words of them.
pub(super) const CATEGORIES: &[(&str, &str)] = &[
    ("application", "applications: what is deployed"),
    ("node", "nodes"),
    ("registry", "registries"),
    ("server", "servers"),
    ("service", "services of iceboxes"),
    ("adapter", "object adapters and replica groups"),
    ("object", "well-known objects"),
    ("server template", "templates of servers"),
    ("service template", "templates of services"),
];

macro_rules! entries {
    ($($name:literal, $arity:expr, $arguments:literal, $help:literal;)*) => {
        /// All commands.
        pub(super) const ENTRIES: &[Entry] = &[$(
            Entry { name: $name, arity: $arity, arguments: $arguments, help: $help },
        )*];
    };
}

const SHOW_HELP: &str = "-f, --follow: go on as more is written; -t N, --tail N: the last N only; -h N, --head N: the first N only";

entries! {
    "application add", Arity::AtLeast(1), "[-n | --no-patch] DESC [TARGET...] [NAME=VALUE...]", "Deploy the application that file DESC describes.";
    "application remove", Arity::Exactly(1), "NAME", "Remove an application; its servers are stopped.";
    "application describe", Arity::Exactly(1), "NAME", "Show what an application consists of.";
    "application diff", Arity::AtLeast(1), "[-s | --servers] DESC [TARGET...] [NAME=VALUE...]", "Show how file DESC differs from what is deployed; with -s, which servers would change.";
    "application update", Arity::AtLeast(1), "[-n | --no-restart] DESC [TARGET...] [NAME=VALUE...]", "Deploy file DESC in place of what is deployed; with -n, only if no server has to be stopped.";
    "application patch", Arity::AtLeast(1), "[-f | --force] NAME", "Fetch the files of an application anew; with -f, servers that use them are stopped.";
    "application list", Arity::None, "", "List the applications.";
    "node list", Arity::None, "", "List the nodes.";
    "node describe", Arity::Exactly(1), "NAME", "Show what a node runs on.";
    "node ping", Arity::Exactly(1), "NAME", "Say whether a node is up.";
    "node load", Arity::Exactly(1), "NAME", "Show the load of a node.";
    "node sockets", Arity::AtMostOne, "[NAME]", "Show how many processors a node has, or each.";
    "node show", Arity::AtLeast(2), "[OPTIONS] NAME (log | stderr | stdout)", "Show what a node has logged or written.";
    "node shutdown", Arity::Exactly(1), "NAME", "Stop a node, and its servers.";
    "registry list", Arity::None, "", "List the registries.";
    "registry describe", Arity::Exactly(1), "NAME", "Show where a registry runs.";
    "registry ping", Arity::Exactly(1), "NAME", "Say whether a registry is up.";
    "registry show", Arity::AtLeast(2), "[OPTIONS] NAME (log | stderr | stdout)", "Show what a registry has logged or written.";
    "registry shutdown", Arity::Exactly(1), "NAME", "Stop a registry.";
    "server list", Arity::None, "", "List the servers.";
    "server remove", Arity::Exactly(1), "ID", "Remove a server from its application.";
    "server describe", Arity::Exactly(1), "ID", "Show how a server is started.";
    "server properties", Arity::Exactly(1), "ID", "Show the properties that a running server has.";
    "server property", Arity::Exactly(2), "ID NAME", "Show one property that a running server has.";
    "server state", Arity::Exactly(1), "ID", "Say whether a server runs, and whether it is enabled.";
    "server pid", Arity::Exactly(1), "ID", "Show the process id of a server.";
    "server start", Arity::Exactly(1), "ID", "Start a server, and wait until it is active.";
    "server stop", Arity::Exactly(1), "ID", "Stop a server, and wait until it has ended.";
    "server patch", Arity::AtLeast(1), "ID", "Fetch the files of a server anew.";
    "server signal", Arity::Exactly(2), "ID SIGNAL", "Send a signal to a server, by name or number.";
    "server stdout", Arity::Exactly(2), "ID MESSAGE", "Make a server write to its standard output.";
    "server stderr", Arity::Exactly(2), "ID MESSAGE", "Make a server write to its standard error.";
    "server show", Arity::AtLeast(2), "[OPTIONS] ID (log | stderr | stdout | FILE)", "Show what a server has logged or written.";
    "server enable", Arity::Exactly(1), "ID", "Let a server be started.";
    "server disable", Arity::Exactly(1), "ID", "Let a server not be started, whoever asks for it.";
    "service start", Arity::Exactly(2), "ID NAME", "Start a service of icebox ID.";
    "service stop", Arity::Exactly(2), "ID NAME", "Stop a service of icebox ID.";
    "service describe", Arity::Exactly(2), "ID NAME", "Show how a service of icebox ID is started.";
    "service properties", Arity::Exactly(2), "ID NAME", "Show the properties that a running service has.";
    "service property", Arity::Exactly(3), "ID NAME PROPERTY", "Show one property that a running service has.";
    "service list", Arity::Exactly(1), "ID", "List the services of icebox ID.";
    "adapter list", Arity::None, "", "List the adapters and replica groups.";
    "adapter endpoints", Arity::Exactly(1), "ID", "Show where an adapter, or each of a replica group, can be reached.";
    "adapter remove", Arity::Exactly(1), "ID", "Forget an adapter that no application has.";
    "object add", Arity::OneOrTwo, "PROXY [TYPE]", "Make an object well known.";
    "object remove", Arity::Exactly(1), "IDENTITY", "Forget an object that no application has.";
    "object find", Arity::Exactly(1), "TYPE", "List the objects of a type.";
    "object describe", Arity::AtMostOne, "[EXPR]", "Show the objects whose identity is EXPR, which may end in an asterisk.";
    "object list", Arity::AtMostOne, "[EXPR]", "List the objects whose identity is EXPR, which may end in an asterisk.";
    "server template instantiate", Arity::AtLeast(3), "APPLICATION NODE TEMPLATE [NAME=VALUE...]", "Make a server of a template.";
    "server template describe", Arity::Exactly(2), "APPLICATION TEMPLATE", "Show a template of servers.";
    "service template describe", Arity::Exactly(2), "APPLICATION TEMPLATE", "Show a template of services.";
}

impl Entry {
    /// Checks how many arguments there are.
    pub(super) fn check(&self, count: usize) -> Result<(), String> {
        let number = |n: usize| match n {
            1 => "one argument".to_owned(),
            2 => "two arguments".to_owned(),
            3 => "three arguments".to_owned(),
            n => format!("{n} arguments"),
        };
        // `show` and `patch` count what is left beside options, which they do themselves.
        let wrong = match self.arity {
            Arity::None if count > 0 => "doesn't require any argument".to_owned(),
            Arity::Exactly(n) if count != n => format!("requires exactly {}", number(n)),
            Arity::AtLeast(n) if count < n && self.takes_options() => {
                format!("requires {}", number(n))
            }
            Arity::AtLeast(n) if count < n => format!("requires at least {}", number(n)),
            Arity::AtMostOne if count > 1 && self.name == "node sockets" => {
                "requires no more than one argument".to_owned()
            }
            Arity::AtMostOne if count > 1 => "requires at most one argument".to_owned(),
            Arity::OneOrTwo if !(1..=2).contains(&count) => {
                "requires one or two arguments".to_owned()
            }
            _ => return Ok(()),
        };
        Err(format!(
            "`{0}' {wrong}\n(`{0} help' for more info)",
            self.name
        ))
    }

    /// Whether it shows a log or a file.
    fn takes_options(&self) -> bool {
        self.name.ends_with(" show")
    }

    fn usage(&self) -> String {
        let mut text = format!("{} {}", self.name, self.arguments);
        text = format!("{}\n    {}\n", text.trim_end(), self.help);
        if self.takes_options() {
            text.push_str(&format!("    {SHOW_HELP}\n"));
        }
        text
    }
}

/// Finds a command by its words; the longest name counts. Returns how many words it is.
pub(super) fn find(words: &[&str]) -> Option<(&'static Entry, usize)> {
    [3, 2].into_iter().find_map(|count| {
        let name = words.get(..count)?.join(" ");
        let entry = ENTRIES.iter().find(|entry| entry.name == name)?;
        Some((entry, count))
    })
}

/// Returns the help on everything.
pub(super) fn overview() -> String {
    let mut text = "\
help                 This overview
CATEGORY help        The commands of a category
COMMAND help         One command
exit, quit           Leave

Categories:

"
    .to_owned();
    for (name, what) in CATEGORIES {
        text.push_str(&format!("  {name}: {what}\n"));
    }
    text.push('\n');
    text
}

/// Returns the help on a category, or on one command.
pub(super) fn help(words: &[&str]) -> Option<String> {
    if let Some((entry, count)) = find(words)
        && count == words.len()
    {
        return Some(entry.usage());
    }
    let category = words.join(" ");
    CATEGORIES.iter().find(|(name, _)| *name == category)?;
    let depth = words.len() + 1;
    let entries = ENTRIES.iter().filter(|entry| {
        let words = entry.name.split(' ').count();
        words == depth
            && entry
                .name
                .strip_prefix(&category)
                .is_some_and(|rest| rest.starts_with(' '))
    });
    Some(entries.map(Entry::usage).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_counts() {
        let name = |words: &[&str]| find(words).map(|(entry, count)| (entry.name, count));
        assert_eq!(name(&["server", "list"]), Some(("server list", 2)));
        assert_eq!(
            name(&["server", "template", "describe", "A", "T"]),
            Some(("server template describe", 3))
        );
        assert_eq!(name(&["server", "template"]), None);
        assert_eq!(name(&["node", "sources", "n"]), None);
    }

    #[test]
    fn every_category_has_commands_and_help() {
        for (category, _) in CATEGORIES {
            let words: Vec<&str> = category.split(' ').collect();
            assert!(!help(&words).unwrap().is_empty(), "{category}");
        }
        for entry in ENTRIES {
            let words: Vec<&str> = entry.name.split(' ').collect();
            assert!(help(&words).unwrap().starts_with(entry.name));
        }
        assert_eq!(help(&["frob"]), None);
    }

    #[test]
    fn arguments_are_counted() {
        let check = |name: &str, count| {
            let words: Vec<&str> = name.split(' ').collect();
            find(&words).unwrap().0.check(count)
        };
        assert_eq!(check("server state", 1), Ok(()));
        assert_eq!(
            check("server state", 2).unwrap_err(),
            "`server state' requires exactly one argument\n(`server state help' for more info)"
        );
        assert!(
            check("server show", 1)
                .unwrap_err()
                .contains("requires two arguments")
        );
        assert!(
            check("application add", 0)
                .unwrap_err()
                .contains("requires at least one argument")
        );
        assert!(
            check("node list", 1)
                .unwrap_err()
                .contains("doesn't require any argument")
        );
        assert!(
            check("object add", 0)
                .unwrap_err()
                .contains("requires one or two arguments")
        );
        assert!(check("node sockets", 2).is_err());
    }
}
