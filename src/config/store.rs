//! OMERO's configuration store on disk: read without a trace, changed under the lock that `omero config` takes.
//!
//! A change is a new file in the place of the old one, with its mode and owner (0600 where there was none), synced before and after it
//! is renamed. The lock is held from before the file is read until the new one is in place.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::profile::{ProfileError, read};
use super::xml::{DEFAULT, Document};
use crate::descriptor::Property;

/// A change of the configuration store that was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ProfileError),
    /// Somebody else changes it now.
    #[error("another process changes the configuration now: it holds {lock}")]
    Locked {
        /// The lock's file.
        lock: PathBuf,
    },
    /// The name cannot be that of a property.
    #[error("'{0}' is no name of a property: only letters, digits, '.', '_' and '-' may be in it")]
    Name(String),
    /// The profile is the one in use.
    #[error("profile '{0}' is the active one; make another one active first")]
    Active(String),
    /// It has more in it than `omero config` writes, which would be lost.
    #[error("{path} has {what} in it, which `config` would lose; edit it by hand")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// It cannot be written.
    #[error("cannot {operation} {path}; the configuration is as it was")]
    Write {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Settings that are being changed.
pub struct Draft<'d> {
    document: &'d mut Document,
    profile: &'d str,
}

impl Draft<'_> {
    /// Returns the settings.
    pub fn properties(&self) -> Vec<Property> {
        self.document.properties(self.profile)
    }

    /// Returns a property's value.
    pub fn get(&self, name: &str) -> Option<String> {
        let properties = self.properties();
        let mut properties = properties.into_iter().rev();
        properties
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// Sets a property, or takes it away without a value.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        self.document.set(self.profile, name, value);
    }

    /// Puts other settings in the place of all.
    pub fn replace(&mut self, settings: Vec<Property>) {
        self.document.replace(self.profile, settings);
    }
}

/// Refuses a name that cannot be that of a property.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(is_legal) {
        return Err(ConfigError::Name(name.to_owned()));
    }
    Ok(())
}

/// The configuration store in a file, and the profile of it that is meant.
#[derive(Debug, Clone)]
pub struct ConfigStore {
    path: PathBuf,
    /// `OMERO_CONFIG`; the active one if absent.
    profile: Option<String>,
}

impl ConfigStore {
    /// Takes a file as the store; it need not exist.
    pub fn new(path: PathBuf, profile: Option<String>) -> Self {
        Self { path, profile }
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the profile that is meant is the one that servers are started with.
    pub fn is_active(&self) -> Result<bool, ConfigError> {
        let document = read(&self.path)?.unwrap_or_default();
        Ok(self.meant(&document) == document.active())
    }

    /// Returns the settings, in the order in which they were made. Changes nothing on disk.
    pub fn properties(&self) -> Result<Vec<Property>, ConfigError> {
        let document = read(&self.path)?.unwrap_or_default();
        Ok(document.properties(self.meant(&document)))
    }

    /// Returns the names of all profiles.
    pub fn profiles(&self) -> Result<Vec<String>, ConfigError> {
        Ok(read(&self.path)?.unwrap_or_default().profiles())
    }

    /// Returns the name of the profile that is meant.
    pub fn profile(&self) -> Result<String, ConfigError> {
        let document = read(&self.path)?.unwrap_or_default();
        Ok(self.meant(&document).to_owned())
    }

    /// Returns the version of the store that the profile was written with.
    pub fn version(&self) -> Result<String, ConfigError> {
        let document = read(&self.path)?.unwrap_or_default();
        Ok(document.version(self.meant(&document)).to_owned())
    }

    /// Sets a property, or takes it away without a value.
    pub fn set(&self, name: &str, value: Option<&str>) -> Result<(), ConfigError> {
        check_name(name)?;
        self.change(|draft| {
            draft.set(name, value);
            Ok(())
        })
    }

    /// Makes a profile the active one; it is made where it is missing.
    pub fn activate(&self, profile: &str) -> Result<(), ConfigError> {
        self.change(|draft| {
            draft.document.activate(profile);
            Ok(())
        })
    }

    /// Takes a profile away. Returns whether there was one; the active one stays.
    pub fn remove_profile(&self, profile: &str) -> Result<bool, ConfigError> {
        self.change(|draft| {
            if draft.document.active() == profile {
                return Err(ConfigError::Active(profile.to_owned()));
            }
            Ok(draft.document.remove(profile))
        })
    }

    /// Holds the lock while something goes on.
    pub fn lock(&self) -> Result<impl Drop, ConfigError> {
        Lock::take(&self.path)
    }

    /// Changes settings under the lock. If `work` fails nothing is written; neither is it if nothing changes.
    pub fn change<T, E: From<ConfigError>>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = Lock::take(&self.path)?;
        let mut document = read(&self.path)
            .map_err(ConfigError::from)?
            .unwrap_or_default();
        if let Some(what) = document.foreign() {
            return Err(ConfigError::Foreign {
                path: self.path.clone(),
                what: what.to_owned(),
            }
            .into());
        }
        let before = document.clone();
        let profile = self.meant(&document).to_owned();
        let mut draft = Draft {
            document: &mut document,
            profile: &profile,
        };
        let done = work(&mut draft)?;
        if document == before && self.path.exists() {
            return Ok(done);
        }
        let now = jiff::ZonedDateTime::now();
        let comment = format!(
            "written by omero-grid at {}; change it with `omero config`",
            now.strftime("%Y-%m-%d %H:%M:%S")
        );
        self.replace(document.write(&comment).as_bytes())?;
        Ok(done)
    }

    fn meant<'a>(&'a self, document: &'a Document) -> &'a str {
        match self.profile.as_deref() {
            Some(profile) if !profile.is_empty() => profile,
            _ if document.active().is_empty() => DEFAULT,
            _ => document.active(),
        }
    }

    /// Puts a new file in the place of the old one.
    fn replace(&self, bytes: &[u8]) -> Result<(), ConfigError> {
        let new = with_suffix(&self.path, "temp");
        let done = self.try_replace(&new, bytes);
        if done.is_err() {
            // Nothing refers to it.
            let _ = std::fs::remove_file(&new);
        }
        done
    }

    fn try_replace(&self, new: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
        let fail = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| ConfigError::Write {
                operation,
                path,
                source,
            }
        };
        let old = std::fs::metadata(&self.path).ok();
        // One that was left by a crash may have any mode.
        let _ = std::fs::remove_file(new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(new)
            .map_err(fail("make", new))?;
        file.write_all(bytes).map_err(fail("write", new))?;
        if let Some(old) = &old {
            let mode = std::fs::Permissions::from_mode(old.mode() & 0o7777);
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))
                .map_err(fail("give its owner to", new))?;
            file.set_permissions(mode)
                .map_err(fail("set the mode of", new))?;
        }
        file.sync_all().map_err(fail("write", new))?;
        std::fs::rename(new, &self.path).map_err(fail("replace", &self.path))?;
        // Without this the old file might be back after a power failure; the new one is whole either way.
        if let Some(dir) = self.path.parent() {
            File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(fail("sync the directory of", &self.path))?;
        }
        Ok(())
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

/// The lock that `omero config` takes; removed with the value, as it does.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(store: &Path) -> Result<Self, ConfigError> {
        let path = with_suffix(store, "lock");
        let fail = |source| ConfigError::Write {
            operation: "lock",
            path: path.clone(),
            source,
        };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(fail)?;
        }
        loop {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)
                .map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(ConfigError::Locked { lock: path }),
                Err(TryLockError::Error(source)) => return Err(fail(source)),
            }
            // Whoever held it before may have removed it: then it locks nothing any more.
            let mine = file.metadata().map_err(fail)?;
            let there = std::fs::metadata(&path).ok();
            if there.is_some_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ConfigStore) {
        let temp = tempfile::tempdir().unwrap();
        let store = ConfigStore::new(temp.path().join("etc/grid/config.xml"), None);
        (temp, store)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_new_store_is_private_and_a_mode_is_kept() {
        let (_temp, store) = store();
        store.set("omero.x", Some("1")).unwrap();
        assert_eq!(mode(store.path()), 0o600);
        std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        store.set("omero.x", Some("2")).unwrap();
        assert_eq!(mode(store.path()), 0o640);
        assert_eq!(
            store.properties().unwrap(),
            [("omero.x".to_owned(), "2".to_owned())]
        );
        store.set("omero.x", None).unwrap();
        assert_eq!(store.properties().unwrap(), []);
        let names: Vec<_> = std::fs::read_dir(store.path().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["config.xml"], "neither lock nor draft is left");
    }

    #[test]
    fn a_lock_that_is_held_is_respected_and_one_that_is_left_is_not() {
        let (_temp, store) = store();
        store.set("a", Some("1")).unwrap();
        let before = std::fs::read(store.path()).unwrap();
        let lock = with_suffix(store.path(), "lock");
        let file = File::create(&lock).unwrap();
        file.lock().unwrap();
        assert!(matches!(
            store.set("a", Some("2")),
            Err(ConfigError::Locked { .. })
        ));
        assert_eq!(std::fs::read(store.path()).unwrap(), before);
        drop(file);
        assert!(lock.exists());
        store.set("a", Some("2")).unwrap();
    }

    #[test]
    fn reading_leaves_no_trace_and_rubbish_is_kept() {
        let (_temp, store) = store();
        assert_eq!(store.properties().unwrap(), []);
        assert!(!store.path().exists());
        std::fs::create_dir_all(store.path().parent().unwrap()).unwrap();
        for text in [
            "",
            "rubbish",
            "<icegrid>",
            "<icegrid><node name=\"x\"/></icegrid>",
        ] {
            std::fs::write(store.path(), text).unwrap();
            assert!(store.set("a", Some("1")).is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(store.path()).unwrap(), text);
        }
        assert!(matches!(
            store.set("a b", Some("1")),
            Err(ConfigError::Name(_))
        ));
    }

    #[test]
    fn another_profile_is_edited_and_the_active_one_stays() {
        let (_temp, active) = store();
        let test = ConfigStore::new(active.path().to_owned(), Some("test".to_owned()));
        active.set("a", Some("1")).unwrap();
        test.set("a", Some("2")).unwrap();
        assert!(active.is_active().unwrap() && !test.is_active().unwrap());
        assert_eq!(active.properties().unwrap()[0].1, "1");
        assert_eq!(test.properties().unwrap()[0].1, "2");
    }
}
