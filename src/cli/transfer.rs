//! The contents of files, over the data socket of a Blitz: in as long as the source stays as it is, out only whole.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use super::context::strange;
use super::failure::{Failure, code};
use crate::ipc::message::data::{ABORT, COMMIT, FileView, MAX_LINE, Opening, Ticket, Verdict};

/// How much is moved between two looks at the progress, in bytes.
const STEP: u64 = 8 * 1024 * 1024;

/// A connection to the data socket of a Blitz.
struct Line(UnixStream);

impl Line {
    /// Connects, and returns how many bytes are to be moved.
    fn open(ticket: &Ticket) -> Result<(Self, u64), Failure> {
        let mut line = Self(UnixStream::connect(&ticket.socket).map_err(broken)?);
        let opening = Opening {
            ticket: ticket.ticket.clone(),
        };
        let mut text = serde_json::to_vec(&opening).map_err(|e| broken(e.into()))?;
        text.push(b'\n');
        line.0.write_all(&text).map_err(broken)?;
        match line.verdict()? {
            Verdict::Go { size } => Ok((line, size)),
            Verdict::Refused { refusal } => Err(refusal.into()),
            Verdict::Done { .. } => Err(strange()),
        }
    }

    /// Reads what the Blitz says, byte by byte: what follows may be a file.
    fn verdict(&mut self) -> Result<Verdict, Failure> {
        let mut text = Vec::new();
        let mut byte = [0];
        while text.len() <= MAX_LINE {
            self.0.read_exact(&mut byte).map_err(broken)?;
            if byte[0] == b'\n' {
                return serde_json::from_slice(&text).map_err(|e| broken(e.into()));
            }
            text.push(byte[0]);
        }
        Err(strange())
    }

    fn end(mut self) -> Result<FileView, Failure> {
        match self.verdict()? {
            Verdict::Done { file } => Ok(file),
            Verdict::Refused { refusal } => Err(refusal.into()),
            Verdict::Go { .. } => Err(strange()),
        }
    }
}

fn broken(error: io::Error) -> Failure {
    Failure::new(
        code::FAILED,
        format!("the transfer has ended early: {error}"),
    )
    .hint("try again; `omero-grid status` shows whether the Blitz is well")
}

/// Sends a file. One that changes meanwhile is not kept.
pub(super) fn store(
    ticket: &Ticket,
    source: &File,
    path: &Path,
    bar: &ProgressBar,
) -> Result<FileView, Failure> {
    let fail = |error: io::Error| {
        Failure::new(
            code::FAILED,
            format!("cannot read {}: {error}", path.display()),
        )
    };
    let state = || {
        source
            .metadata()
            .map(|m| (m.len(), m.mtime(), m.mtime_nsec()))
    };
    let before = state().map_err(fail)?;
    let (mut line, size) = Line::open(ticket)?;
    let changed = || {
        Failure::new(
            code::FAILED,
            format!(
                "{} changed while it was imported; nothing was kept",
                path.display()
            ),
        )
        .hint("import it again when nobody writes it any more")
    };
    let mut left = size;
    while left > 0 {
        let moved = match io::copy(&mut source.take(left.min(STEP)), &mut line.0) {
            // What the Blitz says is better than that the pipe is broken.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return line.end(),
            moved => moved.map_err(broken)?,
        };
        if moved == 0 {
            // The Blitz keeps nothing of which not all has come.
            return Err(changed());
        }
        left -= moved;
        bar.inc(moved);
    }
    let same = state().map_err(fail)? == before;
    line.0
        .write_all(&[if same { COMMIT } else { ABORT }])
        .map_err(broken)?;
    if !same {
        return Err(changed());
    }
    bar.set_message("writing to disk");
    line.end()
}

/// Receives a file: in place only once it is whole and its checksum right.
pub(super) fn fetch(
    ticket: &Ticket,
    output: &Path,
    bar: &ProgressBar,
) -> Result<FileView, Failure> {
    let (mut line, size) = Line::open(ticket)?;
    bar.set_length(size);
    if output.as_os_str() == "-" {
        receive(&mut line, size, &mut io::stdout().lock(), bar)?;
        return line.end();
    }
    let fail = |error: io::Error| {
        Failure::new(
            code::FAILED,
            format!("cannot write {}: {error}", output.display()),
        )
    };
    let mut making = output.as_os_str().to_owned();
    making.push(format!(".{}.part", std::process::id()));
    let making = PathBuf::from(making);
    let fetched = (|| {
        let mut file = File::create_new(&making).map_err(fail)?;
        receive(&mut line, size, &mut file, bar)?;
        let view = line.end()?;
        fs::rename(&making, output).map_err(fail)?;
        Ok(view)
    })();
    if fetched.is_err() {
        // Nothing that is not whole stays.
        let _ = fs::remove_file(&making);
    }
    fetched
}

fn receive(
    line: &mut Line,
    size: u64,
    to: &mut impl io::Write,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut left = size;
    while left > 0 {
        let moved = io::copy(&mut (&line.0).take(left.min(STEP)), to).map_err(broken)?;
        if moved == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        left -= moved;
        bar.inc(moved);
    }
    Ok(())
}
