//! Files that administrators read over a session: what servers, nodes and the registry have written.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::face::Grid;
use super::operation::{Outcome, Raised, failed, now, params};
use super::session::{Open, REPLICA};
use super::types::{
    FileNotAvailableException, NodeNotExistException, RegistryNotExistException,
    ServerNotExistException,
};
use crate::ice::net::{Incoming, Responder, Servant, Served};
use crate::ice::{Identity, Missing};
use crate::model::{NodeName, ServerId};

/// The most that is read at once, in bytes: what an answer may hold, with room to spare.
const PIECE: usize = 512 * 1024;

/// What somebody wants to read.
#[derive(Debug)]
pub(super) struct Asked {
    of: Of,
    /// How many lines from the end; below zero for all of them.
    lines: i32,
}

#[derive(Debug)]
enum Of {
    Server(String, Stream),
    Node(String),
    Registry(String),
}

#[derive(Debug)]
enum Stream {
    Out,
    Err,
    Log(String),
}

/// Takes the parameters of an operation that opens a file.
pub(super) fn open(_: &Grid, operation: &str, incoming: &Incoming<'_>) -> Outcome<Asked> {
    if operation == "openServerLog" {
        let (id, path, lines) = params::<(String, String, i32)>(incoming)?;
        return Ok(Asked {
            of: Of::Server(id, Stream::Log(path)),
            lines,
        });
    }
    let (name, lines) = params::<(String, i32)>(incoming)?;
    let of = match operation {
        "openServerStdErr" => Of::Server(name, Stream::Err),
        "openServerStdOut" => Of::Server(name, Stream::Out),
        "openNodeStdErr" | "openNodeStdOut" => Of::Node(name),
        _ => Of::Registry(name),
    };
    Ok(Asked { of, lines })
}

pub(super) fn unavailable(reason: impl Into<String>) -> Raised {
    FileNotAvailableException {
        reason: reason.into(),
    }
    .into()
}

/// Opens the file, at the place from which it is to be read.
pub(super) async fn find(grid: &Grid, asked: Asked) -> Outcome<File> {
    let paths = grid.handle.paths();
    let path: PathBuf = match asked.of {
        Of::Registry(name) if name == REPLICA => paths.master_log(),
        Of::Registry(name) => return Err(RegistryNotExistException { name }.into()),
        Of::Node(name) => {
            let node: Option<NodeName> = name.parse().ok();
            let status = grid.handle.status();
            let known = |node: &NodeName| status.nodes.iter().any(|other| other.name == *node);
            match node.filter(known) {
                Some(node) => paths.node_log(&node),
                None => return Err(NodeNotExistException { name }.into()),
            }
        }
        Of::Server(id, stream) => {
            let unknown = || Raised::from(ServerNotExistException { id: id.clone() });
            let server: ServerId = id.parse().map_err(|_| unknown())?;
            let found = grid.handle.server(&server).await;
            let found = found.map_err(failed)?;
            let (_, _, descriptor) = found.ok_or_else(unknown)?;
            match stream {
                Stream::Out => paths.server_log(&server, "out"),
                Stream::Err => paths.server_log(&server, "err"),
                // Only what the descriptor names may be read.
                Stream::Log(path) if descriptor.logs.contains(&path) => {
                    paths.dir().join(&descriptor.pwd).join(path)
                }
                Stream::Log(path) => {
                    return Err(unavailable(format!(
                        "'{path}' is not one of the logs that the descriptor of the server names"
                    )));
                }
            }
        }
    };
    let opened = tokio::task::spawn_blocking(move || {
        open_at(&path, asked.lines)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    });
    match opened.await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(reason)) => Err(unavailable(reason)),
        Err(error) => Err(Raised::Failed(error.to_string())),
    }
}

/// Opens a file so many lines before its end.
fn open_at(path: &Path, lines: i32) -> io::Result<File> {
    let mut file = File::open(path)?;
    let Ok(mut wanted) = usize::try_from(lines) else {
        return Ok(file);
    };
    let mut at = file.seek(SeekFrom::End(0))?;
    let mut block = vec![0; 64 * 1024];
    // The end of the last line begins no other.
    let mut is_last = true;
    while at > 0 {
        let size = usize::try_from(at).unwrap_or(usize::MAX).min(block.len());
        at -= u64::try_from(size).unwrap_or(0);
        file.seek(SeekFrom::Start(at))?;
        let part = &mut block[..size];
        file.read_exact(part)?;
        for (place, byte) in part.iter().enumerate().rev() {
            let ends = *byte == b'\n' && !is_last;
            is_last = false;
            if ends && wanted == 0 {
                break;
            }
            if ends {
                wanted -= 1;
                if wanted == 0 {
                    let begin = at + u64::try_from(place).unwrap_or(0) + 1;
                    file.seek(SeekFrom::Start(begin))?;
                    return Ok(file);
                }
            }
        }
    }
    let begin = match lines {
        0 => SeekFrom::End(0),
        _ => SeekFrom::Start(0),
    };
    file.seek(begin)?;
    Ok(file)
}

/// Reads a file piece by piece.
pub(super) struct FileIterator {
    grid: Weak<Grid>,
    session: Weak<Open>,
    identity: Identity,
    reading: Mutex<(File, Vec<u8>)>,
}

impl FileIterator {
    pub(super) fn new(
        grid: &Arc<Grid>,
        session: &Arc<Open>,
        identity: Identity,
        file: File,
    ) -> Self {
        Self {
            grid: Arc::downgrade(grid),
            session: Arc::downgrade(session),
            identity,
            reading: Mutex::new((file, Vec::new())),
        }
    }

    /// Reads whole lines, of about so many bytes. The last one may have no end yet: it is what is behind the last end of a line, so that what is
    /// read next goes on there, and nothing only where nothing is read.
    fn read(&self, size: i32) -> Outcome<(Vec<String>, bool)> {
        let size = usize::try_from(size).unwrap_or(0).clamp(1024, PIECE);
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, rest) = &mut *reading;
        let mut bytes = std::mem::take(rest);
        let room = size.saturating_sub(bytes.len()).max(1024);
        let read = file
            .take(u64::try_from(room).unwrap_or(u64::MAX))
            .read_to_end(&mut bytes);
        let read = read.map_err(|error| unavailable(error.to_string()))?;
        let end = read < room;
        if !end && let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') {
            *rest = bytes.split_off(last + 1);
        }
        Ok((lines(&bytes), end))
    }
}

/// Returns what is before each end of a line, and what is behind the last one.
fn lines(bytes: &[u8]) -> Vec<String> {
    match bytes.is_empty() {
        true => Vec::new(),
        false => {
            let text = String::from_utf8_lossy(bytes);
            text.split('\n').map(str::to_owned).collect()
        }
    }
}

impl Servant for FileIterator {
    fn types(&self) -> &[&str] {
        &["::IceGrid::FileIterator"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        match incoming.target().operation {
            // At most half a mebibyte of a local file.
            "read" => now(
                responder,
                params::<i32>(incoming).and_then(|size| self.read(size)),
            ),
            "destroy" => {
                if let Some(grid) = self.grid.upgrade() {
                    grid.servants.remove_all(&self.identity);
                }
                if let Some(session) = self.session.upgrade() {
                    session.forget(&self.identity);
                }
                now(responder, Ok(()))
            }
            _ => responder.missing(Missing::Operation),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_read_says_whether_its_last_line_has_ended() {
        assert!(lines(b"").is_empty());
        assert_eq!(lines(b"one\n"), ["one", ""]);
        assert_eq!(lines(b"one\ntwo"), ["one", "two"]);
        assert_eq!(lines(b"\n\r\n"), ["", "\r", ""]);
    }

    #[test]
    fn a_file_is_read_from_so_many_lines_before_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let read = |file: &tempfile::NamedTempFile, lines: i32| {
            let mut text = String::new();
            open_at(file.path(), lines)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            text
        };
        assert_eq!(read(&file, 3), "");
        file.write_all(b"one\ntwo\nthree\n").unwrap();
        assert_eq!(read(&file, -1), "one\ntwo\nthree\n");
        assert_eq!(read(&file, 0), "");
        assert_eq!(read(&file, 1), "three\n");
        assert_eq!(read(&file, 2), "two\nthree\n");
        assert_eq!(read(&file, 3), "one\ntwo\nthree\n");
        assert_eq!(read(&file, 99), "one\ntwo\nthree\n");
        file.write_all(b"four").unwrap();
        assert_eq!(read(&file, 1), "four");
        assert_eq!(read(&file, 2), "three\nfour");
    }
}
