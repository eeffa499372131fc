//! OMERO's own installation: descriptors made of `etc/templates/`, as `omero admin rewrite` makes them, but in memory (`omero.md` §5.4–§5.6).
//!
//! OMERO writes `etc/grid/default.xml` and `templates.xml` anew from its templates and the configuration before each start. Here both are
//! read as if that had just been done, whenever a descriptor of such a directory is read; no file of the site is written.
//! What somebody changed in the generated files does not count, as with OMERO itself; `check` says so.

mod jvm;
mod nodes;
mod rewrite;
mod survey;
mod traps;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use jvm::{Jvm, JvmError, Memory};
pub use survey::{Finding, Level, survey};
pub use traps::traps;

use super::profile;
use crate::descriptor::{Disk, Property, Source};

/// The configuration of a site, by key; the last of a name counts.
pub(super) type Values = BTreeMap<String, String>;

/// What a site without a configuration has, as OMERO's own commands would make it.
const NO_CONFIGURATION: &str = "<icegrid><properties id=\"__ACTIVE__\">\
    <property name=\"omero.config.profile\" value=\"default\" /></properties>\
    <properties id=\"default\"></properties><include file=\"templates.xml\" /></icegrid>";

/// The files of a site: those that OMERO generates are made of their templates as they are read. Every other file is what it is on disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct SiteFiles;

/// A descriptor file of an installation.
struct Place<'p> {
    omero_dir: &'p Path,
    name: &'p std::ffi::OsStr,
}

impl<'p> Place<'p> {
    /// Finds out whether a file belongs to an installation with templates.
    fn of(path: &'p Path) -> Option<Self> {
        let dir = path.parent()?;
        let above = if dir.ends_with("etc/templates/grid") {
            3
        } else if dir.ends_with("etc/grid") {
            2
        } else {
            return None;
        };
        let omero_dir = dir.ancestors().nth(above)?;
        let place = Self {
            omero_dir,
            name: path.file_name()?,
        };
        place
            .templates()
            .join("templates.xml")
            .is_file()
            .then_some(place)
    }

    fn templates(&self) -> PathBuf {
        self.omero_dir.join("etc/templates/grid")
    }

    fn generated(&self) -> PathBuf {
        self.omero_dir.join("etc/grid").join(self.name)
    }
}

impl Source for SiteFiles {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let Some(place) = Place::of(path) else {
            return Disk.read(path, limit);
        };
        if place.name == "config.xml" {
            return match Disk.read(&place.generated(), limit) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Ok(NO_CONFIGURATION.as_bytes().to_vec())
                }
                read => read,
            };
        }
        let template = place.templates().join(place.name);
        let bytes = match Disk.read(&template, limit) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Disk.read(&place.generated(), limit);
            }
            read => read?,
        };
        if bytes.len() as u64 > limit {
            return Ok(bytes);
        }
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        let text = crate::descriptor::xml::decode(bytes).map_err(invalid)?;
        let values = values(place.omero_dir).map_err(|error| {
            invalid(format!(
                "it is a template, and what is put into it cannot be read: {}",
                crate::telemetry::chain(&error)
            ))
        })?;
        let memory = Memory::of_this_machine(&values);
        rewrite::rewrite(&text, &values, &memory)
            .map(String::into_bytes)
            .map_err(|error| invalid(format!("it is a template: {error}")))
    }

    fn has_account(&self, name: &str) -> Option<bool> {
        Disk.has_account(name)
    }
}

/// Returns the descriptor that `start` takes where none is named: the installation's own.
pub fn default_descriptor(omero_dir: &Path) -> Option<PathBuf> {
    let own = omero_dir.join("etc/grid/default.xml");
    let template = omero_dir.join("etc/templates/grid/default.xml");
    (own.is_file() || template.is_file()).then_some(own)
}

/// Returns the options of the Java virtual machines of a site, by the kind of server.
pub fn jvm_options(omero_dir: &Path) -> Result<Vec<Jvm>, JvmError> {
    let values = values(omero_dir).map_err(|error| JvmError::Configuration(Box::new(error)))?;
    let memory = Memory::of_this_machine(&values);
    crate::descriptor::KINDS
        .iter()
        .map(|kind| jvm::options(kind, &values, &memory))
        .collect()
}

/// Reads the active profile of a site.
fn values(omero_dir: &Path) -> Result<Values, profile::ProfileError> {
    let properties: Vec<Property> = profile::active_profile(omero_dir)?.unwrap_or_default();
    Ok(properties.into_iter().collect())
}
