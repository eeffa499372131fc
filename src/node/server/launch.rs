//! From a definition to a process: directories, configuration files, account, environment, logs, mark.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::record::Record;
use super::sweep::Belongings;
use crate::descriptor::{
    self, Expected, NodeFacts, NodeStageError, Ready, Resolved, ServerDescriptor,
};
use crate::model::{FailureCause, ServerId};
use crate::node::Context;
use crate::sys::clock::{self, Moment};
use crate::sys::marks::{self, MARK};
use crate::sys::notify_socket::NotifySocket;
use crate::sys::process::{FileId, ProcessId};
use crate::sys::reaper::Child;
use crate::sys::spawn::{Spawn, SpawnError, User};
use crate::sys::successor::INHERITED;
use crate::telemetry::chain;

/// Variables that are ours or systemd's and do not go to servers.
pub(crate) fn is_private(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        matches!(name, "NOTIFY_SOCKET" | "MAINPID" | MARK | INHERITED)
            || name.starts_with("WATCHDOG_")
            || name.starts_with("LISTEN_")
    })
}

/// A process that was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// A variable that only the node knows is wrong.
    #[error("the definition is wrong")]
    Define(#[source] NodeStageError),
    /// The account does not exist.
    #[error("there is no user '{0}' on this host")]
    NoUser(String),
    /// The accounts cannot be read.
    #[error("cannot look up user '{0}'")]
    LookUp(String, #[source] io::Error),
    /// Only root can become somebody else.
    #[error(
        "cannot run as user '{0}': this node does not run as root; start the grid as root, or take user= out of the descriptor"
    )]
    OtherUser(String),
    /// Servers do not run as root in somebody else's directory.
    #[error(
        "refuses to run as root, because {0} does not belong to root; name another user= in the descriptor"
    )]
    Root(PathBuf),
    /// A file or directory cannot be made.
    #[error("cannot make {0}")]
    Make(PathBuf, #[source] io::Error),
    /// The socket for `READY=1` cannot be made.
    #[error("cannot make the server's NOTIFY_SOCKET")]
    Notify(#[source] io::Error),
    /// The process cannot be started.
    #[error("cannot start the process")]
    Spawn(#[source] SpawnError),
}

impl LaunchError {
    /// Returns what it means to people.
    pub(crate) fn cause(&self) -> FailureCause {
        match self {
            Self::Spawn(SpawnError::Missing { program, .. }) => FailureCause::MissingProgram {
                program: program.display().to_string(),
            },
            Self::Spawn(SpawnError::NotExecutable { program, source }) => {
                FailureCause::NotExecutable {
                    program: program.display().to_string(),
                    error: source.to_string(),
                }
            }
            Self::Spawn(error) => FailureCause::CannotStart {
                error: chain(error),
            },
            Self::Define(_)
            | Self::NoUser(_)
            | Self::LookUp(..)
            | Self::OtherUser(_)
            | Self::Root(_)
            | Self::Make(..)
            | Self::Notify(_) => FailureCause::CannotStart { error: chain(self) },
        }
    }
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) record: Record,
    pub(crate) notify: NotifySocket,
    pub(crate) belongings: Belongings,
    pub(crate) started: Moment,
    /// What it has to register.
    pub(crate) expected: Expected,
    /// Sizes of output and error log before the run.
    pub(crate) offsets: (u64, u64),
}

/// Returns the definition with everything filled in that only a node knows.
pub(crate) fn resolve(
    context: &Context,
    definition: &ServerDescriptor,
    application: &str,
) -> Result<Resolved, NodeStageError> {
    let facts = NodeFacts {
        locator: context.locator(),
        properties_override: context.settings().properties,
        ..context.facts.clone()
    };
    descriptor::node_stage(definition, application, context.name.as_str(), &facts)
}

/// Returns a digest of all that a running process has from its definition.
pub(crate) fn fingerprint(definition: &ServerDescriptor) -> String {
    digest(definition, |server| {
        let properties = &mut server.property_set.properties;
        properties.retain(|(name, _)| !crate::config::is_live(name));
    })
}

/// Returns a digest of all that a running process has from its definition and cannot be told anew: everything but properties.
pub(crate) fn shape(definition: &ServerDescriptor) -> String {
    digest(definition, |server| {
        server.property_set.properties.clear();
        for service in server.services.iter_mut().flatten() {
            if let Some(service) = &mut service.descriptor {
                service.property_set.properties.clear();
            }
        }
    })
}

fn digest(definition: &ServerDescriptor, reduce: impl FnOnce(&mut ServerDescriptor)) -> String {
    // What follows is for people, for the node or for the master: a process does not know it.
    let mut effective = ServerDescriptor {
        description: String::new(),
        activation: String::new(),
        activation_timeout: String::new(),
        deactivation_timeout: String::new(),
        logs: Vec::new(),
        ..definition.clone()
    };
    reduce(&mut effective);
    // Structures of strings always serialise.
    let bytes = serde_json::to_vec(&effective).unwrap_or_default();
    Sha256::digest(&bytes)[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Returns the value of the mark of a run.
pub(crate) fn mark(context: &Context, id: &ServerId, instance: &str) -> String {
    marks::value(&context.dir, id, instance)
}

/// Returns the files that a server writes to: output and error.
pub(crate) fn logs(context: &Context, id: &ServerId) -> (PathBuf, PathBuf) {
    let settings = context.settings();
    let dir = settings.output.as_ref().unwrap_or(&context.logs);
    let out = dir.join(format!("{id}.out"));
    let err = match settings.is_one_file {
        true => out.clone(),
        false => dir.join(format!("{id}.err")),
    };
    (out, err)
}

/// Starts a server's process.
pub(crate) fn launch(
    context: &Context,
    id: &ServerId,
    definition: &ServerDescriptor,
    application: &str,
) -> Result<Launched, LaunchError> {
    let resolved = resolve(context, definition, application).map_err(LaunchError::Define)?;
    let server = &resolved.descriptor;
    let home = context.server_dir(id);
    let (config, user) = prepare(context, &home, &resolved)?;

    let instance = uuid::Uuid::new_v4().simple().to_string();
    let notify = NotifySocket::bind(&context.state, id, &instance, user.as_ref().map(|u| u.uid))
        .map_err(LaunchError::Notify)?;
    let mark = mark(context, id, &instance);
    let env = environment(context, server, &mark, &notify.address());
    let (out_path, err_path) = logs(context, id);
    if let Some(dir) = out_path.parent() {
        // Where the site wants it, which may be no place of ours yet.
        make_dir(dir, None).map_err(|error| LaunchError::Make(dir.to_owned(), error))?;
    }
    let (out, err) = (open_log(&out_path)?, open_log(&err_path)?);

    let mut record = Record {
        instance,
        fingerprint: fingerprint(definition),
        shape: shape(definition),
        registers: definition.ready(context.locator().is_some()) == Ready::Registered,
        ..Record::default()
    };
    let record_path = home.join("process.json");
    let write = |record: &Record| {
        record
            .write(&record_path)
            .map_err(|error| LaunchError::Make(record_path.clone(), error))
    };
    write(&record)?;

    let mut words = descriptor::command(server, &config.to_string_lossy()).into_iter();
    let program = OsString::from(words.next().unwrap_or_default());
    let args: Vec<OsString> = words.map(OsString::from).collect();
    let own = program == "omero-grid";
    let dir = if server.pwd.is_empty() {
        context.dir.clone()
    } else {
        context.dir.join(&server.pwd)
    };
    let spawn = Spawn {
        program: if own {
            OsStr::new("/proc/self/exe")
        } else {
            &program
        },
        argv0: own.then_some(OsStr::new("omero-grid")),
        user: user.as_ref(),
        stdout: Some(&out.0),
        stderr: Some(&err.0),
        ..Spawn::new(&program, &args, &env, &dir)
    };
    let started = clock::now();
    let child = context.reaper.spawn(&spawn).map_err(LaunchError::Spawn)?;
    record.process = Some(ProcessId {
        boot_id: context.boot_id.clone(),
        pid: child.pid,
        start_time: child.start_time,
    });
    record.started_ms = started.wall_ms;
    if let Err(error) = write(&record) {
        // It runs, and its mark is enough to find it.
        tracing::warn!(server = %id, error = %chain(&error), "cannot keep a record of the process");
    }
    Ok(Launched {
        belongings: Belongings {
            mark,
            leader: Some((child.pid, child.start_time)),
            logs: [&out_path, &err_path]
                .into_iter()
                .filter_map(|p| FileId::of(p).ok())
                .collect(),
            known: Default::default(),
            asked: Default::default(),
        },
        child,
        record,
        notify,
        started,
        expected: server.expected(),
        offsets: (out.1, err.1),
    })
}

/// Returns the account a server runs under; `None` for the node's own.
fn account(context: &Context, name: &str) -> Result<Option<User>, LaunchError> {
    let root = nix::unistd::geteuid().is_root();
    let own = nix::unistd::geteuid();
    let refuse_root = || {
        let owner = fs::metadata(&context.dir).map_or(u32::MAX, |metadata| metadata.uid());
        if owner == 0 {
            Ok(())
        } else {
            Err(LaunchError::Root(context.dir.clone()))
        }
    };
    if name.is_empty() {
        if root {
            refuse_root()?;
        }
        return Ok(None);
    }
    let found = nix::unistd::User::from_name(name)
        .map_err(|error| LaunchError::LookUp(name.to_owned(), error.into()))?
        .ok_or_else(|| LaunchError::NoUser(name.to_owned()))?;
    if found.uid == own {
        if root {
            refuse_root()?;
        }
        return Ok(None);
    }
    if !root {
        return Err(LaunchError::OtherUser(name.to_owned()));
    }
    let lookup = |error: io::Error| LaunchError::LookUp(name.to_owned(), error);
    let c_name = std::ffi::CString::new(found.name.as_str())
        .map_err(|error| lookup(io::Error::other(error)))?;
    let groups =
        nix::unistd::getgrouplist(&c_name, found.gid).map_err(|error| lookup(error.into()))?;
    Ok(Some(User {
        uid: found.uid.as_raw(),
        gid: found.gid.as_raw(),
        groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
    }))
}

/// Makes a server's directories and writes its files. Returns the path of the main configuration file, and the account that all is for.
pub(crate) fn prepare(
    context: &Context,
    home: &Path,
    resolved: &Resolved,
) -> Result<(PathBuf, Option<User>), LaunchError> {
    let account = account(context, &resolved.descriptor.user)?;
    let user = account.as_ref();
    let directory = |path: &Path| {
        make_dir(path, user).map_err(|error| LaunchError::Make(path.to_owned(), error))
    };
    let file = |path: &Path, bytes: &[u8]| {
        write_private(path, bytes, user).map_err(|error| LaunchError::Make(path.to_owned(), error))
    };
    directory(home)?;
    for name in ["config", "data", "dbs", "distrib"] {
        directory(&home.join(name))?;
    }
    let date = jiff::ZonedDateTime::now().strftime("%Y-%m-%d %H:%M:%S");
    for (name, lines) in &resolved.files {
        let Some(name) = file_name(name) else {
            continue;
        };
        let mut text = format!("# Configuration file ({date})\n\n");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        file(&home.join("config").join(name), text.as_bytes())?;
    }
    for (name, lines) in &resolved.dbs {
        let Some(name) = file_name(name) else {
            continue;
        };
        let dir = home.join("dbs").join(name);
        directory(&dir)?;
        if let Some(lines) = lines {
            file(&dir.join("DB_CONFIG"), (lines.join("\n") + "\n").as_bytes())?;
        }
    }
    Ok((home.join("config/config"), account))
}

/// Returns a name that stays in its directory, else nothing.
fn file_name(name: &str) -> Option<&str> {
    let plain = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..";
    plain.then_some(name)
}

pub(crate) fn make_dir(path: &Path, user: Option<&User>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if let Some(user) = user {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))?;
        // The way there: through, but not to look around.
        for parent in path.ancestors().skip(1).take(2) {
            fs::set_permissions(parent, fs::Permissions::from_mode(0o711))?;
        }
    }
    Ok(())
}

/// Puts a file (0600) in the place of the last one of its name.
pub(crate) fn write_private(path: &Path, bytes: &[u8], user: Option<&User>) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    if let Some(user) = user {
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    fs::rename(&new, path)
}

fn open_log(path: &Path) -> Result<(OwnedFd, u64), LaunchError> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| LaunchError::Make(path.to_owned(), error))?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    Ok((file.into(), size))
}

/// Lets both names of the directory for temporary files mean the same: OMERO's Python parts read one, its Java parts the other
/// (`omero.md` §4.5).
fn share_temporary(env: &mut BTreeMap<OsString, OsString>) {
    let names = ["OMERO_TMPDIR", "OMERO_TEMPDIR"].map(OsString::from);
    let set = names.each_ref().map(|name| env.get(name).cloned());
    match set {
        [Some(value), None] => drop(env.insert(names[1].clone(), value)),
        [None, Some(value)] => drop(env.insert(names[0].clone(), value)),
        _ => {}
    }
}

/// Returns a server's environment, its mark first, where whoever looks for it finds it soonest.
fn environment(
    context: &Context,
    server: &ServerDescriptor,
    mark: &str,
    notify: &str,
) -> Vec<(OsString, OsString)> {
    let mut rest: BTreeMap<OsString, OsString> =
        descriptor::environment(&server.envs, &context.env);
    for (name, value) in [
        ("OMERODIR", context.dir.as_os_str()),
        ("OMERO_GRID_STATE", context.state.as_os_str()),
        ("NOTIFY_SOCKET", OsStr::new(notify)),
    ] {
        rest.insert(name.into(), value.into());
    }
    share_temporary(&mut rest);
    rest.remove(OsStr::new(MARK));
    std::iter::once((MARK.into(), mark.into()))
        .chain(rest)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{ServiceDescriptor, ServiceInstanceDescriptor};

    #[test]
    fn private_variables_are_known() {
        for name in [
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "LISTEN_FDS",
            "MAINPID",
            MARK,
        ] {
            assert!(is_private(OsStr::new(name)), "{name}");
        }
        assert!(!is_private(OsStr::new("PATH")));
    }

    #[test]
    fn both_names_of_the_temporary_directory_are_set_if_one_is() {
        let shared = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.into(), value.into()));
            let mut env: BTreeMap<OsString, OsString> = pairs.collect();
            share_temporary(&mut env);
            ["OMERO_TMPDIR", "OMERO_TEMPDIR"].map(|name| {
                let value = env.get(OsStr::new(name))?;
                Some(value.to_str().unwrap().to_owned())
            })
        };
        let both = [Some("/a".to_owned()), Some("/a".to_owned())];
        assert_eq!(shared(&[("OMERO_TMPDIR", "/a")]), both);
        assert_eq!(shared(&[("OMERO_TEMPDIR", "/a")]), both);
        assert_eq!(shared(&[]), [None, None]);
        let own = shared(&[("OMERO_TMPDIR", "/a"), ("OMERO_TEMPDIR", "/b")]);
        assert_eq!(own[1].as_deref(), Some("/b"));
    }

    #[test]
    fn a_description_makes_no_other_server_but_an_option_does() {
        let one = ServerDescriptor::default();
        let described = ServerDescriptor {
            description: "x".to_owned(),
            ..one.clone()
        };
        let other = ServerDescriptor {
            options: vec!["x".to_owned()],
            ..one.clone()
        };
        assert_eq!(fingerprint(&one), fingerprint(&described));
        assert_ne!(fingerprint(&one), fingerprint(&other));
        assert_ne!(shape(&one), shape(&other));
    }

    #[test]
    fn properties_make_another_server_of_the_same_shape() {
        let one = ServerDescriptor {
            services: Some(vec![ServiceInstanceDescriptor {
                descriptor: Some(ServiceDescriptor::default()),
                ..ServiceInstanceDescriptor::default()
            }]),
            ..ServerDescriptor::default()
        };
        let property = || ("a".to_owned(), "1".to_owned());
        let mut own = one.clone();
        own.property_set.properties.push(property());
        let mut of_service = one.clone();
        for service in of_service.services.iter_mut().flatten() {
            let service = service.descriptor.as_mut().unwrap();
            service.property_set.properties.push(property());
        }
        for other in [own, of_service] {
            assert_ne!(fingerprint(&one), fingerprint(&other));
            assert_eq!(shape(&one), shape(&other));
        }
    }

    #[test]
    fn files_stay_in_their_directory() {
        for name in ["", ".", "..", "a/b", "/etc/passwd"] {
            assert_eq!(file_name(name), None);
        }
        assert_eq!(file_name("config_a"), Some("config_a"));
    }
}
