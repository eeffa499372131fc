//! What a script writes, kept in a file of bounded size: its beginning, and its end if that is far away.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Bytes of the beginning that are kept of each stream.
pub(super) const MAX_KEPT: u64 = 16 * 1024 * 1024;

/// Bytes of the end that are kept where something between is left out.
pub(super) const MAX_END: usize = 64 * 1024;

/// A stream that has ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// The file.
    pub(crate) path: PathBuf,
    /// How many bytes were written to the stream.
    pub(crate) written: u64,
    /// Whether the file lacks some of them; a line in it says where and how many.
    pub(crate) truncated: bool,
}

impl Output {
    /// Returns the last bytes of what is kept, at most `max`, as text, and whether that is all that was written.
    pub(crate) fn tail(&self, max: u64) -> io::Result<(String, bool)> {
        let mut file = File::open(&self.path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(max)))?;
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok((text, len <= max && !self.truncated))
    }
}

/// A stream that is being kept.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    file: File,
    written: u64,
    end: VecDeque<u8>,
    /// Why the file lacks what it should have.
    failed: Option<io::Error>,
}

impl Keeper {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: File::create_new(path)?,
            written: 0,
            end: VecDeque::new(),
            failed: None,
        })
    }

    /// Keeps the next bytes of the stream, as far as there is room.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_KEPT.saturating_sub(self.written);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let (first, rest) = bytes.split_at(fits);
        self.written += bytes.len() as u64;
        if self.failed.is_none()
            && let Err(error) = self.file.write_all(first)
        {
            self.failed = Some(error);
        }
        self.end.extend(rest);
        let excess = self.end.len().saturating_sub(MAX_END);
        self.end.drain(..excess);
    }

    /// Writes what is kept of the end.
    pub(super) fn finish(mut self) -> Output {
        let end: Vec<u8> = self.end.into();
        let beyond = self.written.saturating_sub(MAX_KEPT);
        let left_out = beyond - (end.len() as u64).min(beyond);
        let mut lines = Vec::new();
        if left_out > 0 {
            lines.extend(format!("\n[{left_out} bytes of the output are left out here]\n").bytes());
        }
        lines.extend(end);
        if let Err(error) = self.file.write_all(&lines) {
            self.failed.get_or_insert(error);
        }
        if let Some(error) = &self.failed {
            // As good as can be on a full disk, where the line may not fit either.
            let _ = writeln!(self.file, "\n[the rest of the output is lost: {error}]");
        }
        Output {
            path: self.path,
            written: self.written,
            truncated: left_out > 0 || self.failed.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(pieces: &[&[u8]]) -> (tempfile::TempDir, Output) {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::create(&dir.path().join("out")).unwrap();
        for piece in pieces {
            keeper.keep(piece);
        }
        (dir, keeper.finish())
    }

    #[test]
    fn what_fits_is_kept_as_it_is() {
        let most = vec![b'x'; MAX_KEPT as usize];
        for pieces in [
            &[][..],
            &[&b"a"[..], b"\xFFb"],
            &[&most[..]],
            &[&most[..], b"", &most[..MAX_END]],
        ] {
            let (_dir, output) = keep(pieces);
            assert_eq!(std::fs::read(&output.path).unwrap(), pieces.concat());
            assert!(!output.truncated);
        }
        let (_dir, output) = keep(&[b"one\ntwo\n"]);
        assert_eq!(output.tail(100).unwrap(), ("one\ntwo\n".to_owned(), true));
        assert_eq!(output.tail(4).unwrap(), ("two\n".to_owned(), false));
    }

    #[test]
    fn of_too_much_the_beginning_and_the_end_are_kept_in_bounded_memory() {
        let line = vec![b'x'; 1 << 20];
        let pieces: Vec<&[u8]> = std::iter::once(&b"first"[..])
            .chain(std::iter::repeat_n(&line[..], 40))
            .chain([&b"last"[..]])
            .collect();
        let ((_dir, output), peak) = crate::sys::allocation::peak(|| keep(&pieces));
        assert!(peak < 4 << 20, "{peak}");
        assert!(output.truncated);
        assert_eq!(output.written, 40 * (1 << 20) + 9);
        let kept = std::fs::read(&output.path).unwrap();
        assert!(kept.len() as u64 <= MAX_KEPT + MAX_END as u64 + 100);
        assert!(kept.starts_with(b"first") && kept.ends_with(b"last"));
        let left_out = output.written - MAX_KEPT - MAX_END as u64;
        let note = format!("[{left_out} bytes of the output are left out here]");
        let (text, whole) = output.tail(MAX_END as u64 + 100).unwrap();
        assert!(text.contains(&note) && !whole);
    }
}
