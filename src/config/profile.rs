//! OMERO's configuration store, `etc/grid/config.xml`, read: the properties of the active profile.
//!
//! The file has one set of properties for each profile, and a set `__ACTIVE__` that names the active one
//! (`omero.config.profile`). Reading changes nothing: not the file, not its mode, not its lock.

use std::io;
use std::path::{Path, PathBuf};

use super::xml::Document;
use crate::descriptor::xml::decode;
use crate::descriptor::{Disk, MAX_FILE, Property, Source as _};

/// A configuration store that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the configuration store {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any configuration.
    #[error("the configuration store {path} is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what `omero config` writes.
    #[error("{path}:{line}:{column}: error: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

/// Returns where the store of OMERODIR is.
pub fn store_path(omero_dir: &Path) -> PathBuf {
    omero_dir.join("etc/grid/config.xml")
}

/// Reads a store; none where there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Document>, ProfileError> {
    let bytes = match Disk.read(path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(ProfileError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    if bytes.len() as u64 > MAX_FILE {
        return Err(ProfileError::TooLarge {
            path: path.to_owned(),
        });
    }
    let invalid = |(line, column), message| ProfileError::Invalid {
        path: path.to_owned(),
        line,
        column,
        message,
    };
    let text = decode(bytes).map_err(|message| invalid((1, 1), message))?;
    Document::parse(&text)
        .map(Some)
        .map_err(|(offset, message)| invalid(place(&text, offset), message))
}

/// Reads the properties of the active profile of OMERODIR; none where there is no store.
pub fn active_profile(omero_dir: &Path) -> Result<Option<Vec<Property>>, ProfileError> {
    let document = read(&store_path(omero_dir))?;
    Ok(document.map(|document| document.properties(document.active())))
}

/// Returns line and column, from 1 and in characters, of an offset in bytes.
fn place(text: &str, offset: u32) -> (usize, usize) {
    let end = text.len().min(offset as usize);
    let before = text.get(..end).unwrap_or(text);
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: &str) -> Result<Option<Vec<Property>>, ProfileError> {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("etc/grid");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.xml"), text).unwrap();
        active_profile(temp.path())
    }

    #[test]
    fn the_active_profile_is_the_one_that_is_named() {
        let text = r#"<icegrid><!-- generated --><properties id="__ACTIVE__">
            <property name="omero.config.profile" value="test"/><property name="omero.data.dir" value="/stale"/></properties>
            <properties id="default"><property name="omero.data.dir" value="/default"/></properties>
            <properties id="test"><property name="omero.config.version" value="5.1.0"/>
            <property name="omero.data.dir" value="/a&amp;b&#10;c"/><property name="omero.x" value="${literal}"/></properties>
            <include file="templates.xml"/></icegrid>"#;
        let expected = [("omero.data.dir", "/a&b\nc"), ("omero.x", "${literal}")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(profile(text).unwrap().unwrap(), expected);
    }

    #[test]
    fn without_a_name_it_is_default_and_without_a_file_none() {
        let text = r#"<icegrid><properties id="default"><property name="a" value="1"/></properties></icegrid>"#;
        assert_eq!(
            profile(text).unwrap().unwrap(),
            [("a".to_owned(), "1".to_owned())]
        );
        assert_eq!(active_profile(Path::new("/nowhere/at/all")).unwrap(), None);
    }

    #[test]
    fn rubbish_is_refused_with_its_place() {
        for text in [
            "",
            "<icegrid>",
            "<other/>",
            "no xml",
            "<!DOCTYPE x [<!ENTITY a \"b\">]><icegrid/>",
        ] {
            let error = profile(text).unwrap_err().to_string();
            assert!(error.contains("config.xml:1:"), "{text}: {error}");
        }
    }
}
