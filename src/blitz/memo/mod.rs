//! Memo files: what was read of an image file, kept so that it need not be read again.
//!
//! Owns where they are and when they are written, as OMERO has it: below `omero.pixeldata.memoizer.dir`, or on a read-only
//! repository below `omero.pixeldata.memoizer.dir.local`, in the layout of Bio-Formats, which may keep its own files there. Those
//! are copied like ours, and otherwise left alone. Nothing that goes wrong with a memo keeps anybody from the image.

mod format;
mod place;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::ipc::message::data::Origin;
use crate::model::Image;
use crate::telemetry::chain;
use format::{Found, Identity};
use place::Replace;

/// Directories whose left-overs have been looked for, at the most; then they are looked for again.
const MAX_SWEPT: usize = 4096;

/// Where memo files are, and when they are written.
#[derive(Debug, Clone)]
pub(crate) struct MemoDirs {
    /// `omero.pixeldata.memoizer.dir`.
    pub(crate) shared: PathBuf,
    /// `omero.pixeldata.memoizer.dir.local`; counts only where the repository is read-only.
    pub(crate) local: Option<PathBuf>,
    /// The repository is read-only, and so nothing is written to `shared`.
    pub(crate) read_only: bool,
    /// `omero.pixeldata.memoizer_wait`: what took less time to read gets no memo.
    pub(crate) wait: Duration,
}

/// The memo files of one Blitz.
#[derive(Debug)]
pub(crate) struct Memo {
    dirs: MemoDirs,
    swept: Mutex<HashSet<PathBuf>>,
    /// A warning was given, and nothing has been written since.
    warned: AtomicBool,
}

impl Memo {
    /// Takes the directories; makes the local one if it counts.
    pub(crate) fn new(mut dirs: MemoDirs) -> Self {
        dirs.local = dirs
            .local
            .filter(|local| dirs.read_only && !local.as_os_str().is_empty());
        let memo = Self {
            dirs,
            swept: Mutex::default(),
            warned: AtomicBool::new(false),
        };
        if let Some(local) = &memo.dirs.local
            && let Err(error) = fs::create_dir_all(local)
        {
            memo.complain(local, &error);
        }
        memo
    }

    /// Returns what is known of the image file at `path`, which is open as `file`: from a memo, or by `load`. Blocks.
    ///
    /// A memo counts for the very file that it was made of. Fails only as `load` does.
    pub(crate) fn open<E>(
        &self,
        path: &Path,
        file: &File,
        load: impl FnOnce() -> Result<Image, E>,
    ) -> Result<(Image, Origin), E> {
        let fresh = |image| (image, Origin::Fresh);
        let Ok(identity) = Identity::of(file) else {
            return load().map(fresh);
        };
        let Some(name) = place::relative(path) else {
            return load().map(fresh);
        };
        let target = match self.look(&name, &identity) {
            Known::Image(image, origin) => return Ok((image, origin)),
            Known::Nothing { target } => target,
        };
        let began = Instant::now();
        let image = load()?;
        let took = began.elapsed();
        let unchanged = Identity::of(file).is_ok_and(|now| now == identity);
        let Some((target, replace)) = target.filter(|_| took >= self.dirs.wait && unchanged) else {
            return Ok(fresh(image));
        };
        let saved = format::encode(&identity, &image)
            .is_some_and(|bytes| self.write(&target, replace, &mut bytes.as_slice()));
        let origin = if saved { Origin::Saved } else { Origin::Fresh };
        Ok((image, origin))
    }

    /// Looks for a memo, and brings a shared one to the local directory.
    fn look(&self, name: &Path, identity: &Identity) -> Known {
        let shared = self.dirs.shared.join(name);
        let Some(local) = self.dirs.local.as_ref().map(|local| local.join(name)) else {
            let target = (!self.dirs.read_only).then_some(shared.clone());
            return match format::read(&shared, identity) {
                Found::Image(image) => Known::Image(image, Origin::Memo),
                found => Known::nothing(target, &found),
            };
        };
        let here = match format::read(&local, identity) {
            Found::Image(image) => return Known::Image(image, Origin::Memo),
            Found::Foreign => return Known::Nothing { target: None },
            found => found,
        };
        match format::read(&shared, identity) {
            Found::Image(image) => {
                let copied = format::encode(identity, &image)
                    .is_some_and(|bytes| self.write(&local, here.replace(), &mut bytes.as_slice()));
                let origin = if copied { Origin::Copied } else { Origin::Memo };
                Known::Image(image, origin)
            }
            // Of no use to us, but to whoever wrote it: the next reader of that kind finds it here.
            Found::Foreign if matches!(here, Found::Nothing) => {
                match File::open(&shared) {
                    Ok(mut foreign) => {
                        self.write(&local, Replace::Nothing, &mut foreign);
                    }
                    Err(error) => self.complain(&shared, &error),
                }
                Known::Nothing { target: None }
            }
            _ => Known::nothing(Some(local), &here),
        }
    }

    /// Writes a memo; false, with one warning, if that cannot be done.
    fn write(&self, target: &Path, replace: Replace, content: &mut dyn io::Read) -> bool {
        let written = place::make_directory(target).and_then(|directory| {
            if self.is_first(directory) {
                place::sweep(directory);
            }
            place::write(target, replace, content)
        });
        match written {
            Ok(()) => {
                self.warned.store(false, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.complain(target, &error);
                false
            }
        }
    }

    /// Returns whether this is the first write to a directory, as far as is remembered.
    fn is_first(&self, directory: &Path) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.len() >= MAX_SWEPT {
            swept.clear();
        }
        swept.insert(directory.to_owned())
    }

    fn complain(&self, path: &Path, error: &io::Error) {
        if self.warned.swap(true, Ordering::Relaxed) {
            debug!(path = ?path, error = %chain(error), "no memo file again");
        } else {
            warn!(path = ?path, error = %chain(error), "cannot keep memo files; images are read anew each time");
        }
    }
}

/// What is known before an image file is read.
enum Known {
    /// All.
    Image(Image, Origin),
    /// Nothing; this is where a memo is wanted, if anywhere.
    Nothing { target: Option<(PathBuf, Replace)> },
}

impl Known {
    fn nothing(target: Option<PathBuf>, found: &Found) -> Self {
        let target = target.filter(|_| !matches!(found, Found::Foreign));
        Self::Nothing {
            target: target.map(|target| (target, found.replace())),
        }
    }
}

impl Found {
    fn replace(&self) -> Replace {
        match self {
            Self::Stale => Replace::Ours,
            Self::Nothing | Self::Foreign | Self::Image(_) => Replace::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
