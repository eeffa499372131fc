//! What stands in the way of a site that moves here from IceGrid. Looks, and writes nothing.

mod edits;

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{SiteFiles, Values, default_descriptor, jvm_options, traps};
use crate::descriptor::{Deployment, Request, load};
use crate::sys::memory::Available;
use crate::sys::mounts::Mount;
use crate::sys::ports::{self, Program};
use crate::sys::process;
use crate::telemetry::chain;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Warning,
    /// It stands in the way.
    Obstacle,
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which thing.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self {
            check,
            level,
            message: message.into(),
            advice: None,
        }
    }

    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, message)
    }

    fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, message)
    }

    fn obstacle(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Obstacle, message)
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }
}

/// Looks at an OMERO directory, and at this machine for it; `None` if the directory is none of OMERO's. `state` is where the grid would keep
/// its own files.
pub fn survey(omero_dir: &Path, state: &Path) -> Option<Vec<Finding>> {
    let descriptors = ["etc/templates/grid/templates.xml", "etc/grid/templates.xml"];
    let mut descriptors = descriptors.iter().map(|name| omero_dir.join(name));
    if !descriptors.any(|path| path.is_file()) {
        return None;
    }
    let mut found = Vec::new();
    let values = match super::values(omero_dir) {
        Ok(values) => values,
        Err(error) => {
            found.push(
                Finding::obstacle("configuration", chain(&error))
                    .advice("what follows assumes the defaults"),
            );
            Values::new()
        }
    };
    found.extend(running(omero_dir));
    found.extend(ports(&values));
    found.push(certificate(omero_dir, &values));
    found.extend(servers(omero_dir));
    found.extend(templates(omero_dir));
    found.push(state_directory(state));
    found.extend(node_data(state));
    found.extend(links());
    if found.iter().all(|finding| finding.check != "configuration") {
        let traps = traps::settings(omero_dir).into_iter();
        found.extend(traps.map(|trap| Finding::warning("setting", trap)));
    }
    Some(found)
}

/// Whether OMERO runs, by the pid files of its nodes.
fn running(omero_dir: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let var = omero_dir.join("var");
    let mut nodes: Vec<PathBuf> = var
        .read_dir()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    nodes.sort();
    for dir in nodes {
        let node = dir.file_name().unwrap_or_default().to_string_lossy();
        let file = dir.join(format!("{node}.pid"));
        let pid = std::fs::read_to_string(&file).ok();
        let Some(pid) = pid.and_then(|text| text.trim().parse::<u32>().ok()) else {
            continue;
        };
        if !process::stat(pid).is_some_and(|stat| stat.is_alive()) {
            continue;
        }
        let program = Program::of(pid);
        found.push(if is_this_program(Path::new(&format!("/proc/{pid}/exe"))) {
            Finding::ok(
                "running",
                format!("node {node} is omero-grid already (pid {pid})"),
            )
        } else if program.name.starts_with("icegrid") {
            let stop = match &*node {
                "master" => "omero admin stop".to_owned(),
                node => format!("omero node {node} stop"),
            };
            Finding::obstacle(
                "running",
                format!("node {node} runs as {} (pid {pid})", program.name),
            )
            .advice(format!("{stop}, before the links are made"))
        } else {
            Finding::warning(
                "running",
                format!(
                    "{} names pid {pid}, which is {} and hardly OMERO's",
                    file.display(),
                    program.name
                ),
            )
        });
    }
    if found.is_empty() {
        found.push(Finding::ok("running", "no node of OMERO runs here"));
    }
    found
}

fn text<'v>(values: &'v Values, key: &str, default: &'v str) -> &'v str {
    let value = values.get(key).map(String::as_str);
    value.filter(|value| !value.is_empty()).unwrap_or(default)
}

/// Returns what the front door is to speak.
fn transports(values: &Values) -> Vec<&str> {
    let all = text(values, "omero.client.icetransports", "ssl,tcp").split(',');
    all.map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// The ports of OMERO, with their prefix, and who holds them.
fn ports(values: &Values) -> Vec<Finding> {
    const CHECK: &str = "port";
    let prefix = text(values, "omero.ports.prefix", "");
    let used = transports(values);
    let names = [
        ("registry", "4061", "the registry"),
        ("tcp", "4063", "the front door, tcp"),
        ("ssl", "4064", "the front door, ssl"),
        ("ws", "4065", "the front door, ws"),
        ("wss", "4066", "the front door, wss"),
    ];
    let mut found = Vec::new();
    let mut wanted = Vec::new();
    for (name, default, whose) in names {
        let key = format!("omero.ports.{name}");
        let text = format!("{prefix}{}", text(values, &key, default));
        match text.parse::<u16>() {
            Ok(port) if port > 0 => {
                wanted.push((port, whose, name == "registry" || used.contains(&name)));
            }
            _ => found.push(Finding::obstacle(
                CHECK,
                format!("{key} with omero.ports.prefix is '{text}', which is no port"),
            )),
        }
    }
    let numbers: Vec<u16> = wanted.iter().map(|(port, ..)| *port).collect();
    let holders = match ports::holders(&numbers) {
        Ok(holders) => holders,
        Err(error) => {
            found.push(Finding::warning(
                CHECK,
                format!("cannot find out who holds ports: {error}"),
            ));
            return found;
        }
    };
    for (port, whose, used) in wanted {
        let Some(holder) = holders.get(&port) else {
            found.push(Finding::ok(CHECK, format!("{port} ({whose}) is free")));
            continue;
        };
        let programs: Vec<String> = holder
            .programs
            .iter()
            .map(|program| format!("{} (pid {})", program.name, program.pid))
            .collect();
        let ours = !holder.programs.is_empty()
            && holder
                .programs
                .iter()
                .all(|program| is_this_program(Path::new(&format!("/proc/{}/exe", program.pid))));
        let who = match programs.is_empty() {
            true => {
                let uids: Vec<String> = holder.uids.iter().map(u32::to_string).collect();
                format!(
                    "a program of user {}, which only that user and root may see",
                    uids.join(", ")
                )
            }
            false => programs.join(", "),
        };
        let message = format!("{port} ({whose}) is held by {who}");
        found.push(match (ours, used) {
            (true, _) => Finding::ok(CHECK, message),
            (false, true) => Finding::obstacle(CHECK, message)
                .advice("stop it if it is this site's OMERO; else give one of the two another port (omero.ports.…)"),
            (false, false) => Finding::warning(CHECK, message)
                .advice("omero.client.icetransports does not name it, so it is not needed"),
        });
    }
    found
}

/// Whether there is a certificate for the front door.
fn certificate(omero_dir: &Path, values: &Values) -> Finding {
    const CHECK: &str = "certificate";
    let advice = "`omero certificates` makes one and sets omero.glacier2.IceSSL.… (package omero-certificates)";
    if !transports(values)
        .iter()
        .any(|t| matches!(*t, "ssl" | "wss"))
    {
        return Finding::ok(
            CHECK,
            "omero.client.icetransports names nothing that needs one",
        );
    }
    let file = text(values, "omero.glacier2.IceSSL.CertFile", "");
    if file.is_empty() {
        return Finding::obstacle(
            CHECK,
            "omero.glacier2.IceSSL.CertFile is not set: without a certificate OMERO uses anonymous Diffie-Hellman, which is not spoken here",
        )
        .advice(advice);
    }
    let folder = text(values, "omero.glacier2.IceSSL.DefaultDir", "");
    let path = omero_dir.join(folder).join(file);
    match File::open(&path) {
        Ok(_) => Finding::ok(CHECK, path.display().to_string()),
        Err(error) => {
            Finding::obstacle(CHECK, format!("{}: {error}", path.display())).advice(advice)
        }
    }
}

/// Whether the descriptor holds, and whether there is memory for the Java servers in it.
fn servers(omero_dir: &Path) -> Vec<Finding> {
    const CHECK: &str = "descriptor";
    let Some(file) = default_descriptor(omero_dir) else {
        return vec![Finding::obstacle(CHECK, "there is no etc/grid/default.xml")];
    };
    let advice = format!("omero-grid check {}", file.display());
    let request = Request {
        file: file.clone(),
        ..Request::default()
    };
    match load(&SiteFiles, &request) {
        Ok(loaded) => {
            let warnings = loaded.warnings.len();
            let message = format!(
                "{}: {} servers",
                file.display(),
                loaded.deployment.servers.len()
            );
            let descriptor = match warnings {
                0 => Finding::ok(CHECK, message),
                _ => Finding::warning(CHECK, format!("{message}, {warnings} warnings"))
                    .advice(advice),
            };
            let heaps = Available::read().map(|memory| heaps(&loaded.deployment, memory));
            [Some(descriptor), heaps].into_iter().flatten().collect()
        }
        Err(diagnostics) => {
            let first = diagnostics.errors().next().map(ToString::to_string);
            let first = first.unwrap_or_default();
            let first = first.lines().next().unwrap_or_default();
            vec![Finding::obstacle(CHECK, first).advice(advice)]
        }
    }
}

fn heaps(deployment: &Deployment, memory: Available) -> Finding {
    const CHECK: &str = "memory";
    const MB: u64 = 1_000_000;
    let heaps: Vec<u64> = deployment
        .servers
        .values()
        .filter_map(|server| {
            let options = server.descriptor.options.iter().rev();
            let mut sizes = options.filter_map(|option| size(option.strip_prefix("-Xmx")?));
            sizes.next()
        })
        .collect();
    let sum = heaps
        .iter()
        .fold(0u64, |sum, heap| sum.saturating_add(*heap));
    let message = format!(
        "the heaps of {} Java server(s) may take {} MB of the {} MB of {}",
        heaps.len(),
        sum / MB,
        memory.bytes / MB,
        match memory.of_group {
            true => "this control group",
            false => "this machine",
        }
    );
    let advice =
        "omero.jvmcfg.percent.KIND or omero.jvmcfg.heap_size.KIND; `omero-grid jvmcfg` shows them";
    if sum > memory.bytes {
        Finding::obstacle(CHECK, message).advice(advice)
    } else if sum > memory.bytes / 4 * 3 {
        Finding::warning(CHECK, message).advice(advice)
    } else {
        Finding::ok(CHECK, message)
    }
}

/// Returns the bytes of a size as Java has it: `600m`.
fn size(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Which of the edits of a file are named.
const SHOWN: usize = 3;

/// A file that OMERO generates of its template.
pub(super) struct Generated {
    pub(super) path: PathBuf,
    pub(super) template: PathBuf,
    /// What in it is not what its template and the configuration give, in words; or why that is not known.
    pub(super) edits: Result<Option<String>, String>,
}

/// Returns the files that are there and that OMERO generates of its templates.
pub(super) fn generated(omero_dir: &Path) -> Vec<Generated> {
    let options: Vec<String> = jvm_options(omero_dir)
        .map(|all| all.into_iter().flat_map(|jvm| jvm.options).collect())
        .unwrap_or_default();
    let values = super::values(omero_dir).unwrap_or_default();
    let places = |edits: Vec<String>| {
        let more = edits.len().saturating_sub(SHOWN);
        let mut places = edits.into_iter().take(SHOWN).collect::<Vec<_>>().join("; ");
        if more > 0 {
            places.push_str(&format!("; and {more} more"));
        }
        Some(places).filter(|places| !places.is_empty())
    };
    let of = |name| {
        let path = omero_dir.join("etc/grid").join(name);
        let template = omero_dir.join("etc/templates/grid").join(name);
        (path.is_file() && template.is_file()).then(|| Generated {
            edits: edits::of(&path, &values, &options).map(places),
            path,
            template,
        })
    };
    ["default.xml", "templates.xml"]
        .into_iter()
        .filter_map(of)
        .collect()
}

/// Whether somebody changed what OMERO generates of its templates.
fn templates(omero_dir: &Path) -> Vec<Finding> {
    const CHECK: &str = "templates";
    let finding = |file: Generated| {
        let shown = file.path.display();
        match file.edits {
            Ok(None) => {
                Finding::ok(CHECK, format!("{shown} is what its template and the configuration give"))
            }
            Ok(Some(edits)) => Finding::warning(
                CHECK,
                format!("{shown} is not what its template and the configuration give: {edits}"),
            )
            .advice(format!(
                "what is to stay belongs into {} or `omero config`: the file is made anew at each start, by OMERO too",
                file.template.display()
            )),
            Err(problem) => Finding::warning(CHECK, format!("{shown}: {problem}")),
        }
    };
    generated(omero_dir).into_iter().map(finding).collect()
}

/// Whether the grid's own files would be on this machine.
fn state_directory(state: &Path) -> Finding {
    const CHECK: &str = "state";
    let place = state.join("var");
    match Mount::of(&place) {
        Ok(Some(mount)) if mount.is_remote() => Finding::obstacle(
            CHECK,
            format!("{} is on a network file system ({})", place.display(), mount.kind),
        )
        .advice("--state DIR, or STATE_DIRECTORY, names a place on a disk of this machine: locks and databases there have to be reliable"),
        Ok(Some(mount)) => Finding::ok(CHECK, format!("{} is on {}", place.display(), mount.kind)),
        Ok(None) => Finding::warning(CHECK, format!("what file system {} is on is not known", place.display())),
        Err(error) => Finding::warning(CHECK, format!("{}: {error}", place.display())),
    }
}

/// Whether a grid that is not started by IceGrid's names would keep its nodes' files where IceGrid has its own.
fn node_data(state: &Path) -> Option<Finding> {
    let inside = |dir: &Path| -> Vec<PathBuf> {
        let entries = dir.read_dir().into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let servers = inside(&state.join("var")).into_iter();
    let mut servers = servers.map(|node| node.join("servers"));
    // IceGrid notes in each server's directory which revision of the descriptor it is of.
    let of_icegrid = |dir: &PathBuf| inside(dir).iter().any(|id| id.join("revision").is_file());
    let found = servers.find(of_icegrid)?;
    let message = format!(
        "{} is IceGrid's own, and `omero-grid start` would write to it; as icegridnode the grid keeps to var/omero-grid",
        found.display()
    );
    Some(Finding::warning("state", message).advice(
        "where `omero-grid start` is to be used, STATE_DIRECTORY in the environment, or --state DIR, names another place, so that the way back finds IceGrid's as it was",
    ))
}

/// Whether the programs that OMERO calls are this one.
fn links() -> Vec<Finding> {
    const CHECK: &str = "link";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = |name: &str| {
        let all = std::env::split_paths(&path).filter(|dir| !dir.as_os_str().is_empty());
        let mut all = all.map(|dir| dir.join(name));
        all.find(|path| {
            let runs = |found: std::fs::Metadata| found.is_file() && found.mode() & 0o111 != 0;
            std::fs::metadata(path).is_ok_and(runs)
        })
    };
    let omero = first("omero");
    let own = std::env::current_exe().unwrap_or_default();
    let link = |name: &str| match omero.as_deref().and_then(Path::parent) {
        Some(dir) => format!("to move: ln -s {} {}/{name}", own.display(), dir.display()),
        None => format!(
            "to move: a link {name} to {} in the directory of the site's `omero`",
            own.display()
        ),
    };
    let found = ["icegridnode", "icegridadmin"]
        .into_iter()
        .map(|name| match first(name) {
            Some(path) if is_this_program(&path) => {
                Finding::ok(CHECK, format!("{} is this program", path.display()))
            }
            Some(path) => Finding::warning(
                CHECK,
                format!("{} is found first, and is not this program", path.display()),
            )
            .advice(link(name)),
            None => Finding::warning(CHECK, format!("there is no {name} on the PATH"))
                .advice(link(name)),
        });
    found.collect()
}

/// Whether a path leads to the program that runs this.
fn is_this_program(path: &Path) -> bool {
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let own = identity(Path::new("/proc/self/exe"));
    own.is_some() && identity(path) == own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn sizes_are_those_of_java() {
        for (text, bytes) in [
            ("512m", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("100", Some(100)),
            ("1.5g", None),
            ("", None),
            ("99999999999999999999g", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn ports_have_the_prefix_in_front_of_them() {
        let found = ports(&values(&[
            ("omero.ports.prefix", "5"),
            ("omero.ports.ssl", "none"),
        ]));
        let messages: Vec<&str> = found.iter().map(|f| &*f.message).collect();
        assert!(messages[0].contains("'5none'"), "{messages:?}");
        assert!(messages.iter().any(|m| m.starts_with("54061 ")));
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn a_certificate_is_wanted_where_tls_is_spoken() {
        let temp = tempfile::tempdir().unwrap();
        let level = |pairs: &[(&str, &str)]| certificate(temp.path(), &values(pairs)).level;
        assert_eq!(level(&[]), Level::Obstacle);
        assert_eq!(level(&[("omero.client.icetransports", "tcp")]), Level::Ok);
        let set = [
            ("omero.glacier2.IceSSL.DefaultDir", "certs"),
            ("omero.glacier2.IceSSL.CertFile", "server.p12"),
        ];
        assert_eq!(level(&set), Level::Obstacle);
        std::fs::create_dir(temp.path().join("certs")).unwrap();
        std::fs::write(temp.path().join("certs/server.p12"), "x").unwrap();
        assert_eq!(level(&set), Level::Ok);
    }
}
