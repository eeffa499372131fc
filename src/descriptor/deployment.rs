//! The deployment: what an application means, expanded and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::application::ReplicaGroupDescriptor;
use super::types::{AdapterDescriptor, ServerDescriptor};
use crate::model::{Activation, NodeName, ServerId};

/// The time a server has to become ready or to end, unless its descriptor says otherwise
/// (`IceGrid.Node.WaitTime`).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The uptime after which a server counts as ready, unless it says otherwise.
pub const DEFAULT_READY: Duration = Duration::from_millis(20);

/// The replica group that a Blitz joins.
const BLITZ_ADAPTERS: &str = "BlitzAdapters";

/// What an application means: nodes and fully expanded servers.
///
/// `${node.os}` and the other names that only a node knows are still in it, and so is the escape `$${`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The name of the application.
    pub application: String,
    /// Every node, also one without servers.
    pub nodes: BTreeMap<NodeName, NodePlacement>,
    /// Every server.
    pub servers: BTreeMap<ServerId, PlacedServer>,
    /// Every adapter id and replica group id, with the (adapter id, replica group id) pairs it stands for.
    pub adapters: BTreeMap<String, Vec<(String, String)>>,
    /// Every well-known object, by identity. Allocatables are found through their session only.
    pub objects: BTreeMap<String, ObjectInfo>,
    /// Every replica group, by id.
    pub replica_groups: BTreeMap<String, ReplicaGroupDescriptor>,
    /// The application's variables, expanded; those that cannot be are left out.
    pub variables: BTreeMap<String, String>,
}

/// A node of a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlacement {
    /// The load factor: a decimal number, or empty.
    pub load_factor: String,
    /// For people.
    pub description: String,
    /// The node's variables over the application's, expanded; those that cannot be are left out.
    pub variables: BTreeMap<String, String>,
}

impl NodePlacement {
    /// Returns whether the node is started by name only (`omero.grid.start`).
    pub fn is_manual(&self) -> bool {
        self.variables
            .get("omero.grid.start")
            .is_some_and(|v| v == "manual")
    }
}

/// A server, and the node that runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedServer {
    /// The node.
    pub node: NodeName,
    /// The server.
    pub descriptor: ServerDescriptor,
}

/// A well-known object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Its Slice type id, or empty.
    #[serde(rename = "type")]
    pub type_id: String,
    /// Its stringified proxy.
    pub proxy: String,
}

impl Deployment {
    /// Returns the servers that have to be active before the grid is ready.
    ///
    /// They are listed by `omero.grid.required`, as a variable of the application or a property of any server. Without
    /// a list: every `always` Blitz and front door, or every `always` server where there are none.
    pub fn required(&self) -> Vec<ServerId> {
        let variable = self
            .variables
            .get("omero.grid.required")
            .map(String::as_str);
        let properties = self
            .servers
            .values()
            .filter_map(|s| s.descriptor.property_set.get("omero.grid.required"));
        let listed: BTreeSet<ServerId> = variable
            .into_iter()
            .chain(properties)
            .flat_map(split_list)
            .filter_map(|id| id.parse().ok())
            .filter(|id| self.servers.contains_key(id))
            .collect();
        if !listed.is_empty() {
            return listed.into_iter().collect();
        }
        let always = |wanted: &dyn Fn(&ServerDescriptor) -> bool| -> Vec<ServerId> {
            self.servers
                .iter()
                .filter(|(_, s)| {
                    s.descriptor.activation() == Activation::Always && wanted(&s.descriptor)
                })
                .map(|(id, _)| id.clone())
                .collect()
        };
        let core = always(&|s| s.is_blitz() || s.is_front_door());
        if core.is_empty() {
            always(&|_| true)
        } else {
            core
        }
    }
}

/// When a server counts as ready: for plain programs by `omero.grid.ready`, for Ice servers by what they register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// When it says `READY=1`.
    Notify,
    /// When it has been up for this long, or says `READY=1` before.
    After(Duration),
    /// When it has registered with the registry what its definition makes it register.
    Registered,
}

/// What a server's properties say to this grid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GridProperties {
    /// When it counts as ready, unless it is to register (see [`ServerDescriptor::ready`]).
    pub ready: Ready,
    /// The servers that have to be ready before it is started (`omero.grid.after`).
    pub after: Vec<ServerId>,
}

impl ServerDescriptor {
    /// Returns the activation mode.
    pub fn activation(&self) -> Activation {
        self.activation.parse().unwrap_or(Activation::Manual)
    }

    /// Returns the time that the server has to become ready.
    pub fn activation_timeout(&self) -> Duration {
        self.activation_timeout_or(None)
    }

    /// Returns the time that the server has to become ready, where its node has a time for servers that say none.
    pub fn activation_timeout_or(&self, wait: Option<Duration>) -> Duration {
        timeout(&self.activation_timeout, wait)
    }

    /// Returns the time that the server has to end, where its node has a time for servers that say none.
    pub fn deactivation_timeout_or(&self, wait: Option<Duration>) -> Duration {
        timeout(&self.deactivation_timeout, wait)
    }

    /// Returns what its properties say to this grid; a value that is not valid counts as absent.
    pub fn grid(&self) -> GridProperties {
        let ready = self
            .property_set
            .get("omero.grid.ready")
            .and_then(parse_ready);
        let after = self
            .property_set
            .get("omero.grid.after")
            .into_iter()
            .flat_map(split_list);
        GridProperties {
            ready: ready.unwrap_or(Ready::After(DEFAULT_READY)),
            after: after.filter_map(|id| id.parse().ok()).collect(),
        }
    }

    /// Returns whether the server is the built-in Blitz: this program with `blitz` as its first option.
    pub fn is_builtin_blitz(&self) -> bool {
        self.is_builtin("blitz")
    }

    /// Returns whether the server holds user sessions: OMERO's Blitz or the built-in one.
    pub fn is_blitz(&self) -> bool {
        let services = self
            .services
            .iter()
            .flatten()
            .filter_map(|s| s.descriptor.as_ref());
        let mut adapters = self
            .adapters
            .iter()
            .chain(services.flat_map(|s| &s.adapters));
        let is_blitz = |a: &AdapterDescriptor| {
            a.replica_group_id == BLITZ_ADAPTERS || a.name == "BlitzAdapter"
        };
        self.is_builtin_blitz() || adapters.any(is_blitz)
    }

    /// Returns whether clients come in through the server: a Glacier2 router or the built-in front door.
    pub fn is_front_door(&self) -> bool {
        let program = Path::new(&self.exe).file_name();
        program.is_some_and(|p| p == "glacier2router") || self.is_builtin("glacier2")
    }

    fn is_builtin(&self, role: &str) -> bool {
        self.exe == "omero-grid"
            && self
                .options
                .iter()
                .find(|o| !o.is_empty())
                .is_some_and(|o| o == role)
    }
}

/// Reads a timeout in seconds; empty, zero, negative or no number means the default.
fn timeout(text: &str, wait: Option<Duration>) -> Duration {
    match text
        .trim()
        .parse::<i32>()
        .ok()
        .and_then(|seconds| u64::try_from(seconds).ok())
    {
        None | Some(0) => wait.unwrap_or(DEFAULT_TIMEOUT),
        Some(seconds) => Duration::from_secs(seconds),
    }
}

/// Reads `omero.grid.ready`: `notify` or milliseconds. An empty value unsets it and is not valid here.
pub(crate) fn parse_ready(text: &str) -> Option<Ready> {
    match text.trim() {
        "notify" => Some(Ready::Notify),
        millis => millis
            .parse::<u32>()
            .ok()
            .map(|ms| Ready::After(Duration::from_millis(ms.into()))),
    }
}

/// Splits a list of ids at blanks and commas.
pub(crate) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || c == ',')
        .filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_that_is_none_is_the_default() {
        for text in ["", "0", "-5", "soon", "99999999999"] {
            assert_eq!(timeout(text, None), DEFAULT_TIMEOUT, "{text}");
            let own = Duration::from_secs(9);
            assert_eq!(timeout(text, Some(own)), own, "{text}");
        }
        assert_eq!(timeout("7", None), Duration::from_secs(7));
        let wait = Some(Duration::from_secs(9));
        assert_eq!(timeout("7", wait), Duration::from_secs(7));
    }

    #[test]
    fn readiness_is_notify_or_a_time() {
        assert_eq!(parse_ready("notify"), Some(Ready::Notify));
        assert_eq!(
            parse_ready("250"),
            Some(Ready::After(Duration::from_millis(250)))
        );
        assert_eq!(parse_ready("-1"), None);
        assert_eq!(parse_ready(""), None);
    }

    #[test]
    fn the_built_in_blitz_and_the_front_door_are_known() {
        let server = |exe: &str, option: &str| ServerDescriptor {
            exe: exe.to_owned(),
            options: vec![option.to_owned()],
            ..ServerDescriptor::default()
        };
        assert!(server("omero-grid", "blitz").is_blitz());
        assert!(!server("/opt/omero-grid", "blitz").is_blitz());
        assert!(server("/usr/bin/glacier2router", "").is_front_door());
        assert!(server("omero-grid", "glacier2").is_front_door());
    }
}
