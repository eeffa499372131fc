//! The data socket: the contents of files, in and out.
//!
//! One thread accepts, one thread per connection moves bytes, and a second one beside it computes the checksum meanwhile. An import is
//! written into `incoming/`, synced, moved to its place, and only then entered into the list.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sha1::{Digest as _, Sha1};
use tracing::{debug, info, warn};

use super::catalogue::{Entry, sync_dir};
use super::owner::{Standing, remove_with_parents};
use super::tickets::{Import, Purpose};
use super::{Repository, failed, of_catalogue, open_regular};
use crate::ipc::message::data::{COMMIT, FileView, MAX_LINE, Opening, Verdict};
use crate::ipc::{Refusal, RefusalKind};

/// Transfers at once.
const MAX_TRANSFERS: usize = 32;

/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// How much is read and written at once, in bytes.
const CHUNK: usize = 512 * 1024;

/// Chunks between who moves bytes and who computes the checksum.
const AHEAD: usize = 4;

/// Accepts on the data socket until the value is dropped.
pub(in crate::blitz) struct Serving(UnixListener, PathBuf);

impl Drop for Serving {
    fn drop(&mut self) {
        // The next one makes its own.
        let _ = fs::remove_file(&self.1);
        // Wakes the thread that accepts; that it has ended already does no harm.
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.0),
            nix::sys::socket::Shutdown::Both,
        );
    }
}

/// Begins to serve the data socket.
pub(in crate::blitz) fn serve(repository: &Arc<Repository>) -> io::Result<Serving> {
    let path = &repository.socket;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let accepting = listener.try_clone()?;
    let repository = repository.clone();
    std::thread::Builder::new()
        .name("data".to_owned())
        .spawn(move || accept(&accepting, &repository))?;
    Ok(Serving(listener, path.clone()))
}

fn accept(listener: &UnixListener, repository: &Arc<Repository>) {
    let under_way = Arc::new(AtomicUsize::new(0));
    while let Ok((stream, _)) = listener.accept() {
        if under_way.load(Ordering::Relaxed) >= MAX_TRANSFERS || !is_ours(&stream) {
            continue;
        }
        under_way.fetch_add(1, Ordering::Relaxed);
        let (repository, counted) = (repository.clone(), Counted(under_way.clone()));
        let begun = std::thread::Builder::new()
            .name("transfer".to_owned())
            .spawn(move || {
                let _counted = counted;
                if let Err(error) = transfer(&repository, stream) {
                    debug!(%error, "a transfer has ended early");
                }
            });
        if let Err(error) = begun {
            warn!(%error, "cannot begin a transfer");
        }
    }
}

/// Counts one transfer less when it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns whether the other side is a process of the grid's owner or of root.
fn is_ours(stream: &UnixStream) -> bool {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    getsockopt(stream, PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}

fn transfer(repository: &Repository, mut stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let opening: Opening = read_line(&mut stream)?;
    let purpose = repository
        .tickets
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .redeem(&opening.ticket);
    let done = match purpose {
        None => Err(Refusal::new(
            RefusalKind::Refused,
            "the leave to move this file has run out",
        )
        .hint("try again")),
        Some(Purpose::Import(import)) => receive(repository, &mut stream, &import)?,
        Some(Purpose::Get(entry)) => send(repository, &mut stream, &entry)?,
    };
    let verdict = match done {
        Ok(file) => Verdict::Done { file },
        Err(refusal) => Verdict::Refused { refusal },
    };
    write_line(&mut stream, &verdict)
}

/// Reads one line of JSON, byte by byte: what follows is not ours to read.
fn read_line<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
        if line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(serde_json::from_slice(&line)?)
}

fn write_line(stream: &mut UnixStream, verdict: &Verdict) -> io::Result<()> {
    let mut line = serde_json::to_vec(verdict)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Moves the chunks that `fill` makes to `drain`, and returns their checksum. `fill` returns how much it has put into a chunk, 0 at the end.
fn pump(
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, Refusal>,
    mut drain: impl FnMut(&[u8]) -> Result<(), Refusal>,
) -> Result<String, Refusal> {
    let (full, to_hash): (SyncSender<(Vec<u8>, usize)>, _) = mpsc::sync_channel(AHEAD);
    let (hashed, free): (SyncSender<Vec<u8>>, Receiver<Vec<u8>>) = mpsc::sync_channel(AHEAD + 2);
    std::thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut digest = Sha1::new();
            for (chunk, length) in to_hash {
                digest.update(&chunk[..length]);
                // At the end nobody needs it any more.
                let _ = hashed.send(chunk);
            }
            hex(&digest.finalize())
        });
        let mut made = 0;
        let moved = loop {
            let mut chunk = match free.try_recv() {
                Ok(chunk) => chunk,
                Err(_) if made <= AHEAD => {
                    made += 1;
                    vec![0; CHUNK]
                }
                Err(_) => match free.recv() {
                    Ok(chunk) => chunk,
                    Err(_) => break Ok(()),
                },
            };
            let length = match fill(&mut chunk) {
                Ok(0) => break Ok(()),
                Ok(length) => length,
                Err(refusal) => break Err(refusal),
            };
            if let Err(refusal) = drain(&chunk[..length]) {
                break Err(refusal);
            }
            if full.send((chunk, length)).is_err() {
                break Ok(());
            }
        };
        drop(full);
        let checksum = hashing
            .join()
            .map_err(|_| Refusal::new(RefusalKind::Failed, "the checksum has failed"))?;
        moved.map(|()| checksum)
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads until the buffer is full or nothing more comes.
fn fill_from(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match stream.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

type Moved = Result<FileView, Refusal>;

/// Takes a file in. The outer error is that of the connection, which then is of no more use.
fn receive(repository: &Repository, stream: &mut UnixStream, import: &Import) -> io::Result<Moved> {
    // Opening the file shows most of what can be wrong, before a byte is sent.
    let part = repository
        .ours("incoming")
        .join(format!("{}.part", uuid::Uuid::new_v4()));
    let part = match Part::create(&part, import.size) {
        Ok(part) => part,
        Err(error) => return Ok(Err(failed("write", &part, &error))),
    };
    write_line(stream, &Verdict::Go { size: import.size })?;
    let mut left = import.size;
    let checksum = pump(
        |chunk| {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let length = fill_from(stream, &mut chunk[..wanted]).map_err(|e| broken(&e))?;
            if length < wanted {
                return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
            }
            left -= length as u64;
            Ok(length)
        },
        |chunk| {
            (&part.file)
                .write_all(chunk)
                .map_err(|error| failed("write", &part.path, &error))
        },
    );
    let checksum = match checksum {
        Ok(checksum) => checksum,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut last = [0];
    stream.read_exact(&mut last)?;
    if last[0] != COMMIT {
        return Ok(Err(Refusal::new(
            RefusalKind::Failed,
            "the client gave the import up",
        )));
    }
    Ok(enter(repository, part, import, checksum))
}

/// A file that is being imported; removed again unless it is moved away.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    fn create(path: &Path, size: u64) -> io::Result<Self> {
        let file = File::create_new(path)?;
        let part = Self {
            path: path.to_owned(),
            file,
        };
        // Room for all of it, where the file system can tell.
        match nix::fcntl::posix_fallocate(&part.file, 0, i64::try_from(size).unwrap_or(i64::MAX)) {
            Err(errno @ (nix::errno::Errno::ENOSPC | nix::errno::Errno::EFBIG)) => {
                Err(errno.into())
            }
            _ => Ok(part),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It has been moved away, or is swept by the next owner.
        let _ = fs::remove_file(&self.path);
    }
}

/// Puts a file into its place and into the list.
fn enter(repository: &Repository, part: Part, import: &Import, checksum: String) -> Moved {
    part.file
        .sync_all()
        .map_err(|error| failed("sync", &part.path, &error))?;
    let mut catalogue = repository.catalogue();
    if *repository.standing.borrow() != Standing::Owner {
        let message = "the repository became read-only meanwhile";
        return Err(Refusal::new(RefusalKind::Refused, message));
    }
    let managed = &repository.managed;
    let now = jiff::Timestamp::now();
    let dir = make_directory(managed, import, now).map_err(|e| failed("write", managed, &e))?;
    let path = format!("{dir}/{}", import.name);
    let target = managed.join(&path);
    let placed = repository.note(&path).and_then(|note| {
        fs::rename(&part.path, &target)?;
        for parent in Path::new(&path).ancestors().skip(1) {
            File::open(managed.join(parent))?.sync_all()?;
        }
        sync_dir(&part.path)?;
        Ok(note)
    });
    let note = placed.map_err(|error| {
        let _ = remove_with_parents(managed, &path);
        failed("write", &target, &error)
    })?;
    let entry = Entry {
        id: catalogue.next(),
        path: path.clone(),
        size: import.size,
        checksum,
        owner: import.user.name.clone(),
        owner_id: import.user.id,
        imported_ms: u64::try_from(now.as_millisecond()).unwrap_or(0),
    };
    if let Err(error) = catalogue.add(entry.clone()) {
        // What cannot be removed now is removed by the note.
        if remove_with_parents(managed, &path).is_ok() {
            let _ = fs::remove_file(&note);
        }
        return Err(of_catalogue(error));
    }
    let _ = fs::remove_file(&note);
    info!(
        id = entry.id,
        path,
        size = entry.size,
        user = entry.owner,
        "imported a file"
    );
    Ok(entry.view())
}

/// Makes a directory for one import, in the shape of OMERO's own: user, month, day, time.
fn make_directory(managed: &Path, import: &Import, now: jiff::Timestamp) -> io::Result<String> {
    let user: String = import
        .user
        .name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_@+".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    let day = format!("{user}_{}/{}", import.user.id, now.strftime("%Y-%m/%d"));
    fs::create_dir_all(managed.join(&day))?;
    let time = now.strftime("%H-%M-%S.%3f").to_string();
    for n in 0..10_000 {
        let dir = match n {
            0 => format!("{day}/{time}"),
            n => format!("{day}/{time}-{n}"),
        };
        match fs::create_dir(managed.join(&dir)) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Sends a file, and tells at its end whether it was what was imported.
fn send(repository: &Repository, stream: &mut UnixStream, entry: &Entry) -> io::Result<Moved> {
    let path = repository.managed.join(&entry.path);
    let file = match open_regular(&path) {
        Ok(file) => file,
        Err(error) => return Ok(Err(failed("read", &path, &error))),
    };
    let length = file.metadata()?.len();
    if length != entry.size {
        return Ok(Err(damaged(
            entry,
            format!("it has {length} bytes instead of {}", entry.size),
        )));
    }
    write_line(stream, &Verdict::Go { size: entry.size })?;
    let mut at = 0;
    let checksum = pump(
        |chunk| {
            let wanted = usize::try_from(entry.size - at)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            let mut length = 0;
            while length < wanted {
                let place = at + length as u64;
                match file.read_at(&mut chunk[length..wanted], place) {
                    Ok(0) => return Err(damaged(entry, "it became shorter".to_owned())),
                    Ok(count) => length += count,
                    Err(error) => return Err(failed("read", &path, &error)),
                }
            }
            at += length as u64;
            Ok(length)
        },
        |chunk| stream.write_all(chunk).map_err(|e| broken(&e)),
    );
    match checksum {
        Ok(checksum) if checksum == entry.checksum => Ok(Ok(entry.view())),
        Ok(checksum) => Ok(Err(damaged(
            entry,
            format!("its checksum is {checksum} instead of {}", entry.checksum),
        ))),
        // The other side counts bytes and would take words for them.
        Err(refusal) => Err(io::Error::other(refusal.message)),
    }
}

fn damaged(entry: &Entry, how: String) -> Refusal {
    Refusal::new(
        RefusalKind::Failed,
        format!("file {} ({}) is damaged: {how}", entry.id, entry.path),
    )
    .hint("take it from a backup")
}

fn broken(error: &io::Error) -> Refusal {
    Refusal::new(
        RefusalKind::Failed,
        format!("the transfer has ended early: {error}"),
    )
}
