//! The last lines that a run of a server wrote, made fit to be shown.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How many lines are shown.
const LINES: usize = 5;

/// How many characters of a line are shown.
const WIDTH: usize = 200;

/// How much of the end of a file is looked at, in bytes.
const WINDOW: u64 = 8 * 1024;

/// Returns the last lines written to the file after `offset`; none if it cannot be read.
pub(crate) fn last_lines(path: &Path, offset: u64) -> Vec<String> {
    read(path, offset).map_or_else(|_| Vec::new(), |bytes| lines(&bytes))
}

fn read(path: &Path, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    // A file shorter than it was has been rotated meanwhile: all of it is new.
    let begin = if size < offset { 0 } else { offset };
    file.seek(SeekFrom::Start(begin.max(size.saturating_sub(WINDOW))))?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(LINES)..]
        .iter()
        .map(|line| {
            let mut shown = String::new();
            for c in line.chars().take(WIDTH) {
                if c.is_control() && c != '\t' {
                    shown.extend(c.escape_default());
                } else {
                    shown.push(c);
                }
            }
            shown
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_end_of_this_run_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("S.err");
        std::fs::write(&path, "old\n1\n2\n\n3\n4\n5\n6\x1b[31m\n").unwrap();
        assert_eq!(last_lines(&path, 4), ["2", "3", "4", "5", "6\\u{1b}[31m"]);
        assert_eq!(
            last_lines(&path, 1000),
            ["2", "3", "4", "5", "6\\u{1b}[31m"]
        );
        assert_eq!(last_lines(&path, 14), ["6\\u{1b}[31m"]);
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert_eq!(last_lines(&path, 0), ["x".repeat(WIDTH)]);
        assert!(last_lines(&dir.path().join("none"), 0).is_empty());
    }
}
