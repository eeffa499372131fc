//! The registry's face of a master: how it is set up, and that both serve side by side.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tracing::warn;

use super::context::absolute;
use super::failure::{Failure, code};
use crate::config::{Paths, Properties, active_profile, node_settings};
use crate::icegrid::types::Texts;
use crate::icegrid::{Face, FaceError, Settings};
use crate::master::Master;
use crate::model::NodeSettings;
use crate::telemetry::chain;

/// Names the endpoints of a registry for this process and whatever it starts: for tests, which give each grid a port of its own.
const ENDPOINTS: &str = "OMERO_GRID_REGISTRY_ENDPOINTS";

const CLIENT: &str = "IceGrid.Registry.Client.Endpoints";

/// Returns what a site says in properties of Ice. From strong to weak: what was given to this grid's start, the environment, the configuration
/// store, and the files in which OMERO keeps the properties of its registry and its nodes.
fn properties(paths: &Paths, given: &[(String, String)]) -> Result<Texts, Failure> {
    let mut files = Properties::default();
    for name in ["internal.cfg", "master.cfg"] {
        let path = paths.dir().join("etc").join(name);
        if path.exists() {
            files
                .read(&path)
                .map_err(|error| Failure::new(code::INVALID, chain(&error)))?;
        }
    }
    // One that cannot be read is refused where the descriptor is loaded.
    let store = active_profile(paths.dir())
        .ok()
        .flatten()
        .unwrap_or_default();
    let mut all: Texts = files
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    all.extend(store);
    all.extend(std::env::var(ENDPOINTS).map(|endpoints| (CLIENT.to_owned(), endpoints)));
    all.extend(given.iter().cloned());
    Ok(all)
}

/// Returns how a site wants its servers to be run, as far as that is known without the grid: what was given to its start is not.
pub(crate) fn site_node_settings(paths: &Paths) -> Result<NodeSettings, Failure> {
    let properties = properties(paths, &[])?;
    node_settings(paths.dir(), |name| properties.get(name).cloned())
        .map_err(|error| Failure::new(code::INVALID, error.to_string()))
}

/// Returns the file of what applications of a site take in that want default templates, if the site has one: that of the command line, else that
/// of its registry.
pub(crate) fn default_templates(
    paths: &Paths,
    named: Option<&Path>,
    given: &[(String, String)],
) -> Result<Option<PathBuf>, Failure> {
    if let Some(file) = named {
        return absolute(file).map(Some);
    }
    let mut properties = properties(paths, given)?;
    let file = properties.remove("IceGrid.Registry.DefaultTemplates");
    let file = file.filter(|file| !file.is_empty());
    Ok(file.map(|file| paths.dir().join(file)))
}

/// Opens the face of a master, unless it is turned off, and tells the master where servers find it and how the site wants them to be run.
/// It goes on listening where this process was left a socket.
pub(crate) async fn open(
    master: &mut Master,
    given: &[(String, String)],
    inherited: Vec<TcpListener>,
) -> Result<Option<Face>, Failure> {
    let paths = master.handle().paths().clone();
    let properties = properties(&paths, given)?;
    let invalid = |error: String| Failure::new(code::INVALID, error);
    let nodes = node_settings(paths.dir(), |name| properties.get(name).cloned());
    master.set_node_settings(nodes.map_err(|error| invalid(error.to_string()))?);
    let settings = Settings::of(&properties).map_err(|error| invalid(error.to_string()))?;
    if settings.client.is_empty() {
        return Ok(None);
    }
    let opened = Face::open(settings, master.handle(), inherited).await;
    let face = opened.map_err(|error| {
        let hint = match &error {
            FaceError::Taken { .. } => format!(
                "end that process, or give this grid other endpoints: omero-grid config set {CLIENT} 'tcp -h 127.0.0.1 -p PORT' (an empty value turns the registry off)"
            ),
            FaceError::Tls(_) => "see properties IceSSL.CertFile, IceSSL.KeyFile, IceSSL.CAs, IceSSL.Password and IceSSL.DefaultDir".to_owned(),
            FaceError::Bind(_) => format!("see property {CLIENT}"),
        };
        Failure::new(code::FAILED, chain(&error)).hint(hint)
    })?;
    let sockets = face.heirs().unwrap_or_else(|error| {
        warn!(%error, "cannot keep the registry's sockets for a successor");
        Vec::new()
    });
    master.set_registry(face.locator().to_string(), sockets);
    Ok(Some(face))
}

/// Serves until the grid is stopped: the face for as long as servers may want to say that they end.
pub(crate) async fn serve(master: Master, face: Option<Face>) -> Result<(), Failure> {
    let (stop, stopped) = watch::channel(false);
    let facing = async {
        if let Some(face) = face {
            face.serve(stopped).await;
        }
    };
    let serving = async {
        let served = master.serve().await;
        stop.send_replace(true);
        served
    };
    // Both are polled to their ends.
    let (served, ()) = tokio::join!(serving, facing);
    served.map_err(super::master_process::master_failure)
}
