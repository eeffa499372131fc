//! The list of the files in a repository: one line of JSON per change, in a file that is only ever appended to.
//!
//! A file is in the repository when its line is whole and synced, and not before; so a crash leaves no half of one, and a Blitz that may
//! only read follows the list by reading on from where it was. Lines that a crash cut short are removed by whoever owns the repository
//! next. The list is written anew, and put in place by a rename, when most of it is about files that are gone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ipc::message::data::FileView;

/// The largest list that is read, in bytes: some millions of files.
const MAX_LENGTH: u64 = 1024 * 1024 * 1024;

/// Lines about files that are gone, at least, before the list is written anew.
const COMPACT: usize = 10_000;

/// A list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogueError {
    /// It cannot be read or written.
    #[error("cannot use the list of files {path}")]
    File {
        /// The list.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It was there, or the directory of the repository is not.
    #[error("the list of files {path} is gone; is its file system mounted?")]
    Gone {
        /// The list.
        path: PathBuf,
    },
    /// A line in it makes no sense.
    #[error(
        "the list of files {path} is damaged at byte {at}: {problem}; put a copy of it in its place, or remove the line"
    )]
    Damaged {
        /// The list.
        path: PathBuf,
        /// Where the line begins.
        at: u64,
        /// What is wrong.
        problem: String,
    },
}

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first line: the lowest number that has not been used.
    Next(u64),
    /// A file that is there.
    Add(Entry),
    /// A file that is there no more.
    Delete(u64),
}

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) checksum: String,
    pub(super) owner: String,
    pub(super) owner_id: u64,
    pub(super) imported_ms: u64,
}

impl Entry {
    pub(super) fn view(&self) -> FileView {
        FileView {
            id: self.id,
            path: self.path.clone(),
            size: self.size,
            checksum: self.checksum.clone(),
            owner: self.owner.clone(),
            imported_ms: self.imported_ms,
        }
    }
}

/// The list as it was when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    path: PathBuf,
    /// Which file it is, and how much of it has been read.
    inode: u64,
    read: u64,
    files: BTreeMap<u64, Entry>,
    next: u64,
    gone: usize,
}

impl Catalogue {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            next: 1,
            ..Self::default()
        }
    }

    /// Reads what has been added since it was last looked at.
    pub(super) fn refresh(&mut self) -> Result<(), CatalogueError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let managed = self.path.ancestors().nth(2);
                if self.inode != 0 || !managed.is_some_and(Path::is_dir) {
                    return Err(CatalogueError::Gone {
                        path: self.path.clone(),
                    });
                }
                // Nothing has been imported yet.
                return Ok(());
            }
            Err(source) => return Err(self.fail(source)),
        };
        let metadata = file.metadata().map_err(|source| self.fail(source))?;
        if metadata.ino() != self.inode || metadata.len() < self.read {
            *self = Self::new(std::mem::take(&mut self.path));
            self.inode = metadata.ino();
        }
        if metadata.len() == self.read {
            return Ok(());
        }
        if metadata.len() > MAX_LENGTH {
            return Err(self.fail(io::Error::other("it is larger than 1 GiB")));
        }
        file.seek(SeekFrom::Start(self.read))
            .map_err(|source| self.fail(source))?;
        let mut reader = BufReader::with_capacity(256 * 1024, file.take(MAX_LENGTH));
        let mut line = Vec::new();
        loop {
            line.clear();
            reader
                .read_until(b'\n', &mut line)
                .map_err(|source| self.fail(source))?;
            // One that is being written, or was cut short by a crash.
            let Some(text) = line.strip_suffix(b"\n") else {
                return Ok(());
            };
            self.apply(text)?;
            self.read += line.len() as u64;
        }
    }

    fn apply(&mut self, text: &[u8]) -> Result<(), CatalogueError> {
        let damaged = |problem: String| CatalogueError::Damaged {
            path: self.path.clone(),
            at: self.read,
            problem,
        };
        match serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))? {
            Line::Next(next) => self.next = self.next.max(next),
            Line::Add(entry) => {
                if !is_below(Path::new(&entry.path)) {
                    return Err(damaged(format!("{:?} leads elsewhere", entry.path)));
                }
                self.next = self.next.max(entry.id.saturating_add(1));
                self.files.insert(entry.id, entry);
            }
            Line::Delete(id) => {
                self.gone += 1;
                self.files.remove(&id);
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, id: u64) -> Option<&Entry> {
        self.files.get(&id)
    }

    /// Returns the files after `after` in order, at most `limit`, and whether there are more.
    pub(super) fn page(&self, after: Option<u64>, limit: usize) -> (Vec<FileView>, bool) {
        let from = after.map_or(0, |after| after.saturating_add(1));
        let mut rest = self.files.range(from..).map(|(_, entry)| entry.view());
        let page = rest.by_ref().take(limit).collect();
        (page, rest.next().is_some())
    }

    /// Returns the number for the next file.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn has_path(&self, path: &str) -> bool {
        self.files.values().any(|entry| entry.path == path)
    }

    /// Adds a file, durably. Only the owner of the repository may; nothing is in the list after an error.
    pub(super) fn add(&mut self, entry: Entry) -> Result<(), CatalogueError> {
        self.append(&Line::Add(entry))
    }

    /// Takes a file out, durably. Only the owner of the repository may.
    pub(super) fn delete(&mut self, id: u64) -> Result<(), CatalogueError> {
        self.append(&Line::Delete(id))?;
        if self.gone >= COMPACT && self.gone > self.files.len() {
            self.compact()?;
        }
        Ok(())
    }

    /// Begins to own the repository: removes what a crash has cut short.
    pub(super) fn own(&mut self) -> Result<(), CatalogueError> {
        self.refresh()?;
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => {
                let length = file.metadata().map_err(|source| self.fail(source))?.len();
                if length > self.read {
                    file.set_len(self.read)
                        .and_then(|()| file.sync_all())
                        .map_err(|source| self.fail(source))?;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.fail(source)),
        }
    }

    fn append(&mut self, line: &Line) -> Result<(), CatalogueError> {
        self.refresh()?;
        let is_new = self.read == 0;
        let mut text = Vec::new();
        if is_new {
            encode(&Line::Next(self.next), &mut text);
        }
        encode(line, &mut text);
        let written = (|| -> io::Result<()> {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&self.path)?;
            let written = file.write_all(&text).and_then(|()| file.sync_data());
            if written.is_err() {
                // Half a line would be in the way of the next.
                file.set_len(self.read)?;
            } else if is_new {
                sync_dir(&self.path)?;
            }
            written
        })();
        written.map_err(|source| self.fail(source))?;
        self.refresh()
    }

    fn compact(&mut self) -> Result<(), CatalogueError> {
        let mut text = Vec::new();
        encode(&Line::Next(self.next), &mut text);
        for entry in self.files.values() {
            encode(&Line::Add(entry.clone()), &mut text);
        }
        let making = self.path.with_extension("new");
        let written = (|| -> io::Result<()> {
            let mut file = File::create(&making)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&making, &self.path)?;
            sync_dir(&self.path)
        })();
        if written.is_err() {
            // The old list stays as good as it was.
            let _ = fs::remove_file(&making);
        }
        written.map_err(|source| self.fail(source))?;
        self.refresh()
    }

    fn fail(&self, source: io::Error) -> CatalogueError {
        CatalogueError::File {
            path: self.path.clone(),
            source,
        }
    }
}

fn encode(line: &Line, text: &mut Vec<u8>) {
    // Names and numbers can always be encoded.
    let _ = serde_json::to_writer(&mut *text, line);
    text.push(b'\n');
}

/// Syncs the directory that a file is in.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Returns whether a relative path stays below where it begins.
pub(super) fn is_below(path: &Path) -> bool {
    let mut components = path.components().peekable();
    components.peek().is_some() && components.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: u64) -> Entry {
        Entry {
            id,
            path: format!("root_0/2026-01/01/{id}/a.tif"),
            size: 3,
            checksum: "a9993e".to_owned(),
            owner: "root".to_owned(),
            owner_id: 0,
            imported_ms: 1,
        }
    }

    fn listed(catalogue: &Catalogue) -> Vec<u64> {
        let (files, _) = catalogue.page(None, usize::MAX);
        files.into_iter().map(|file| file.id).collect()
    }

    #[test]
    fn a_reader_follows_what_the_owner_writes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("catalogue");
        let (mut owner, mut reader) = (Catalogue::new(path.clone()), Catalogue::new(path.clone()));
        reader.refresh().unwrap();
        for id in 1..=3 {
            assert_eq!(owner.next(), id);
            owner.add(entry(id)).unwrap();
        }
        owner.delete(3).unwrap();
        reader.refresh().unwrap();
        assert_eq!(listed(&reader), [1, 2]);
        assert_eq!(owner.next(), 4, "no number is used again");
        owner.compact().unwrap();
        owner.add(entry(4)).unwrap();
        reader.refresh().unwrap();
        assert_eq!(listed(&reader), [1, 2, 4]);
        assert_eq!(reader.page(Some(1), 1).0[0].id, 2);
        assert!(reader.page(Some(1), 1).1);
    }

    #[test]
    fn what_is_gone_is_not_taken_for_empty() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("managed/.omero-grid");
        let mut catalogue = Catalogue::new(dir.join("catalogue"));
        let gone = |catalogue: &mut Catalogue| {
            matches!(catalogue.refresh(), Err(CatalogueError::Gone { .. }))
        };
        assert!(gone(&mut catalogue), "there is no repository");
        fs::create_dir_all(&dir).unwrap();
        catalogue.refresh().unwrap();
        catalogue.add(entry(1)).unwrap();
        fs::rename(temp.path().join("managed"), temp.path().join("away")).unwrap();
        assert!(gone(&mut catalogue));
        // What is mounted upon is an empty directory.
        fs::create_dir_all(&dir).unwrap();
        assert!(gone(&mut catalogue));
        fs::remove_dir_all(temp.path().join("managed")).unwrap();
        fs::rename(temp.path().join("away"), temp.path().join("managed")).unwrap();
        catalogue.refresh().unwrap();
        assert_eq!(listed(&catalogue), [1]);
    }

    #[test]
    fn what_a_crash_cut_short_is_not_there_and_is_removed_by_the_next_owner() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("catalogue");
        Catalogue::new(path.clone()).add(entry(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut second = Vec::new();
        encode(&Line::Add(entry(2)), &mut second);
        for cut in 1..second.len() {
            fs::write(&path, [&whole[..], &second[..cut]].concat()).unwrap();
            let mut next = Catalogue::new(path.clone());
            next.refresh().unwrap();
            assert_eq!(listed(&next), [1], "cut after {cut} bytes");
            next.own().unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
            next.add(entry(2)).unwrap();
            assert_eq!(listed(&next), [1, 2]);
        }
    }

    #[test]
    fn damage_and_paths_that_lead_elsewhere_are_told_with_their_place() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("catalogue");
        for text in [
            "{\"next\":1}\nrubbish\n".to_owned(),
            "{\"next\":1}\n{\"add\":{}}\n".to_owned(),
        ] {
            fs::write(&path, text).unwrap();
            let error = Catalogue::new(path.clone()).refresh().unwrap_err();
            assert!(error.to_string().contains("at byte 11"), "{error}");
        }
        for bad in ["/etc/passwd", "../x", "a/../../x", "", "."] {
            let mut text = Vec::new();
            let path_of = |path: &str| Entry {
                path: path.to_owned(),
                ..entry(1)
            };
            encode(&Line::Add(path_of(bad)), &mut text);
            fs::write(&path, text).unwrap();
            let error = Catalogue::new(path.clone()).refresh().unwrap_err();
            assert!(error.to_string().contains("leads elsewhere"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("catalogue");
            fs::write(&path, bytes).unwrap();
            // Whatever comes of it.
            let _ = Catalogue::new(path).refresh();
        }
    }
}
