//! The registry's face of a master: how it is set up, and that both serve side by side.

use tokio::sync::watch;

use super::failure::{Failure, code};
use crate::config::{Paths, Properties, active_profile};
use crate::icegrid::types::Texts;
use crate::icegrid::{Face, FaceError, Settings};
use crate::master::Master;
use crate::telemetry::chain;

/// Names the endpoints of a registry for this process and whatever it starts: for tests, which give each grid a port of its own.
const ENDPOINTS: &str = "OMERO_GRID_REGISTRY_ENDPOINTS";

const CLIENT: &str = "IceGrid.Registry.Client.Endpoints";

/// Reads how the registry is set up. From strong to weak: what was given to this grid's start, the environment, the configuration store, and
/// the files in which OMERO keeps the properties of its registry and its nodes.
fn settings(paths: &Paths, given: &[(String, String)]) -> Result<Settings, Failure> {
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
    Settings::of(&all).map_err(|error| Failure::new(code::INVALID, error.to_string()))
}

/// Opens the face of a master, unless it is turned off, and tells the master where servers find it.
pub(crate) async fn open(
    master: &mut Master,
    given: &[(String, String)],
) -> Result<Option<Face>, Failure> {
    let handle = master.handle();
    let settings = settings(handle.paths(), given)?;
    if settings.client.is_empty() {
        return Ok(None);
    }
    let face = Face::open(settings, handle).await.map_err(|error| {
        let hint = match &error {
            FaceError::Taken { .. } => format!(
                "end that process, or give this grid other endpoints: omero-grid config set {CLIENT} 'tcp -h 127.0.0.1 -p PORT' (an empty value turns the registry off)"
            ),
            FaceError::Tls(_) => "see properties IceSSL.CertFile, IceSSL.KeyFile, IceSSL.CAs, IceSSL.Password and IceSSL.DefaultDir".to_owned(),
            FaceError::Bind(_) => format!("see property {CLIENT}"),
        };
        Failure::new(code::FAILED, chain(&error)).hint(hint)
    })?;
    master.set_locator(face.locator().to_string());
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
