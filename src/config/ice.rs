//! What programs say of Ice, and what becomes of its properties (`icegrid-glacier2.md` §9).

use super::Properties;

/// The version of Ice that the programs say they are, unless they are told another: what OMERO asks for.
pub const VERSION: &str = "3.6.5";

/// The environment variable that says another version.
pub const VERSION_VARIABLE: &str = "OMERO_GRID_ICE_VERSION";

/// The property that says another version.
pub const VERSION_PROPERTY: &str = "OmeroGrid.IceVersion";

/// Returns the version of Ice to report.
pub fn version(properties: &Properties) -> String {
    let set = std::env::var(VERSION_VARIABLE).ok();
    let set = set.filter(|version| !version.is_empty());
    set.or_else(|| properties.get(VERSION_PROPERTY).map(str::to_owned))
        .unwrap_or_else(|| VERSION.to_owned())
}

/// What becomes of a property of Ice or IceGrid.
enum Meaning {
    /// What it says is done.
    Honoured,
    /// Nothing, and nobody misses it.
    Moot,
    /// Nothing where its value is such a one, which whoever starts the grid is told: the reason.
    Ignored(fn(&str) -> bool, &'static str),
}

use Meaning::{Honoured, Ignored, Moot};

const NO_MANAGER: &str = "sessions are opened at the registry's client endpoints only";

/// The properties that are known, and what becomes of them; `icegrid/BEHAVIOUR.md` has the same table. One that ends in a dot stands for
/// all that begin so, unless a longer one is there too.
const KNOWN: &[(&str, Meaning)] = &[
    ("Ice.ACM.", Moot),
    (
        "Ice.Admin.",
        Ignored(
            any,
            "the admin objects of registry and nodes are reached through the registry alone",
        ),
    ),
    (
        "Ice.ChangeUser",
        Ignored(any, "the grid runs as the owner of OMERODIR"),
    ),
    ("Ice.Config", Honoured),
    ("Ice.Default.", Moot),
    ("Ice.Default.Host", Honoured),
    ("Ice.LogFile", Moot),
    ("Ice.MessageSizeMax", Honoured),
    ("Ice.Nohup", Moot),
    ("Ice.Override.", Moot),
    ("Ice.ProgramName", Moot),
    ("Ice.StdErr", Moot),
    ("Ice.StdOut", Moot),
    ("Ice.ThreadPool.", Moot),
    ("Ice.Trace.", Moot),
    ("Ice.Warn.", Moot),
    ("IceGrid.InstanceName", Honoured),
    (
        "IceGrid.Node.AllowEndpointsOverride",
        Ignored(
            is_set,
            "where an adapter listens is replaced by its server's next process only",
        ),
    ),
    (
        "IceGrid.Node.AllowRunningServersAsRoot",
        Ignored(
            is_set,
            "servers run as the owner of OMERODIR, or as user= of the descriptor says",
        ),
    ),
    ("IceGrid.Node.CollocateRegistry", Honoured),
    ("IceGrid.Node.Data", Moot),
    (
        "IceGrid.Node.DisableOnFailure",
        Ignored(
            is_negative,
            "a server that fails is tried again, each time after a longer pause; a positive value is the least pause",
        ),
    ),
    ("IceGrid.Node.Endpoints", Moot),
    ("IceGrid.Node.Name", Honoured),
    ("IceGrid.Node.Output", Honoured),
    (
        "IceGrid.Node.PrintServersReady",
        Ignored(
            any,
            "`omero-grid status`, and the notification of systemd, say when servers are active",
        ),
    ),
    (
        "IceGrid.Node.ProcessorSocketCount",
        Ignored(any, "the sockets are counted"),
    ),
    ("IceGrid.Node.PropertiesOverride", Honoured),
    ("IceGrid.Node.RedirectErrToOut", Honoured),
    ("IceGrid.Node.ThreadPool.", Moot),
    ("IceGrid.Node.Trace.", Moot),
    (
        "IceGrid.Node.UserAccounts",
        Ignored(any, "user= of the descriptor names the account of a server"),
    ),
    ("IceGrid.Node.WaitTime", Honoured),
    ("IceGrid.Registry.AdminCryptPasswords", Honoured),
    ("IceGrid.Registry.AdminPermissionsVerifier", Honoured),
    (
        "IceGrid.Registry.AdminSessionManager.",
        Ignored(any, NO_MANAGER),
    ),
    ("IceGrid.Registry.Client.", Moot),
    ("IceGrid.Registry.Client.Endpoints", Honoured),
    ("IceGrid.Registry.Client.PublishedEndpoints", Honoured),
    ("IceGrid.Registry.CryptPasswords", Honoured),
    ("IceGrid.Registry.Data", Moot),
    ("IceGrid.Registry.DefaultTemplates", Honoured),
    ("IceGrid.Registry.DynamicRegistration", Honoured),
    ("IceGrid.Registry.Internal.", Moot),
    ("IceGrid.Registry.LMDB.", Moot),
    ("IceGrid.Registry.PermissionsVerifier", Honoured),
    (
        "IceGrid.Registry.ReplicaName",
        Ignored(is_no_master, "there is one registry, Master"),
    ),
    ("IceGrid.Registry.Server.", Moot),
    ("IceGrid.Registry.Server.Endpoints", Honoured),
    ("IceGrid.Registry.Server.PublishedEndpoints", Honoured),
    ("IceGrid.Registry.SessionManager.", Ignored(any, NO_MANAGER)),
    ("IceGrid.Registry.SessionTimeout", Honoured),
    ("IceGrid.Registry.Trace.", Moot),
];

fn any(_: &str) -> bool {
    true
}

fn is_set(value: &str) -> bool {
    value.trim() != "0"
}

fn is_negative(value: &str) -> bool {
    value.trim_start().starts_with('-')
}

fn is_no_master(value: &str) -> bool {
    value.trim() != "Master"
}

/// Returns what becomes of a property; `None` if it is not known.
fn meaning(name: &str) -> Option<&'static Meaning> {
    let is_meant = |known: &str| match known.ends_with('.') {
        true => name.starts_with(known),
        false => name == known,
    };
    let known = KNOWN.iter().filter(|(known, _)| is_meant(known));
    known
        .max_by_key(|(known, _)| known.len())
        .map(|(_, meaning)| meaning)
}

/// Returns what to tell whoever starts a grid with these properties: which of Ice's and IceGrid's are ignored, and why.
pub fn warnings(properties: &Properties) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut unknown = Vec::new();
    for (name, value) in properties.iter() {
        match meaning(name) {
            Some(Honoured | Moot) => {}
            Some(Ignored(is_such, why)) if is_such(value) => {
                warnings.push(format!("{name}={value} is ignored: {why}"));
            }
            Some(Ignored(..)) => {}
            None if name.starts_with("Ice.") || name.starts_with("IceGrid.") => unknown.push(name),
            None => {}
        }
    }
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        warnings.push(format!("these properties mean nothing here: {unknown}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_said_with_its_reason_and_what_is_unknown_in_one_line() {
        let mut properties = Properties::default();
        properties.add(
            "IceGrid.InstanceName=OMERO\n\
             IceGrid.Registry.Client.Endpoints=tcp -h 127.0.0.1 -p 4061\n\
             IceGrid.Registry.Client.ThreadPool.Size=4\n\
             IceGrid.Registry.LMDB.Path=var/registry\n\
             IceGrid.Registry.ReplicaName=Master\n\
             IceGrid.Node.Data=var/master\n\
             IceGrid.Node.DisableOnFailure=5\n\
             IceGrid.Node.AllowRunningServersAsRoot=0\n\
             IceGrid.Node.Frob=1\n\
             Ice.Trace.Network=2\n\
             IceSSL.DefaultDir=certs\n\
             omero.db.name=x\n\
             Ice.Frob=1\n",
        );
        let unknown = "these properties mean nothing here: Ice.Frob, IceGrid.Node.Frob";
        assert_eq!(warnings(&properties), [unknown]);
        let mut properties = Properties::default();
        properties.add(
            "IceGrid.Registry.ReplicaName=Second\n\
             IceGrid.Registry.Client.PublishedEndpoints=tcp -h elsewhere\n\
             IceGrid.Registry.SessionManager.Endpoints=tcp\n\
             IceGrid.Node.DisableOnFailure=-1\n\
             IceGrid.Node.AllowRunningServersAsRoot=1\n\
             IceGrid.Node.UserAccounts=accounts\n",
        );
        let said = warnings(&properties);
        let names: Vec<&str> = said
            .iter()
            .map(|line| line.split_once(" is ignored: ").unwrap().0)
            .collect();
        let expected = [
            "IceGrid.Node.AllowRunningServersAsRoot=1",
            "IceGrid.Node.DisableOnFailure=-1",
            "IceGrid.Node.UserAccounts=accounts",
            "IceGrid.Registry.ReplicaName=Second",
            "IceGrid.Registry.SessionManager.Endpoints=tcp",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_table_for_people_is_the_same() {
        let written = include_str!("../icegrid/BEHAVIOUR.md");
        for (name, meaning) in KNOWN {
            let name = match name.ends_with('.') {
                true => format!("`{name}*`"),
                false => format!("`{name}`"),
            };
            let line = written.lines().find(|line| line.contains(&name));
            let line = line.unwrap_or_else(|| panic!("{name} is not in BEHAVIOUR.md"));
            let heading = match meaning {
                Honoured => "| honoured |",
                Moot => "| moot |",
                Ignored(..) => "| ignored |",
            };
            assert!(line.starts_with(heading), "{name}: {line}");
        }
    }

    #[test]
    fn the_version_can_be_set() {
        let mut properties = Properties::default();
        assert_eq!(version(&properties), VERSION);
        properties.set(VERSION_PROPERTY, "3.7.10");
        assert_eq!(version(&properties), "3.7.10");
    }
}
