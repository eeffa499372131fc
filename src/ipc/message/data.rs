//! Files, scripts and configuration values that a Blitz serves, and the words of the socket that carries the contents of files.
//!
//! Contents do not go through node and master: a Blitz answers with a [`Ticket`], whose holder connects to the Blitz's data socket. There
//! both sides write one line of JSON before and after the raw bytes ([`Opening`], [`Verdict`]).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ipc::Refusal;

/// The name of the algorithm of checksums, as OMERO calls it.
pub const HASHER: &str = "SHA1-160";

/// The longest line on a data socket, in bytes.
pub const MAX_LINE: usize = 16 * 1024;

/// What is done with files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum FileAction {
    /// One page of the files in the order of their ids, beginning after `after`.
    List { after: Option<u64>, limit: u32 },
    /// One file.
    Info { id: u64 },
    /// A ticket to read one.
    Get { id: u64 },
    /// A ticket to store one of `size` bytes under this name.
    Import { name: String, size: u64 },
    /// Removes one.
    Delete { id: u64 },
    /// What kind of image a file is.
    Image { id: u64 },
}

/// What is done with scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum ScriptAction {
    /// Every script.
    List,
    /// Begins to run one.
    Run {
        path: String,
        arguments: Vec<(String, String)>,
    },
    /// Waits for the end of one, in turns; one that nobody waits for is ended.
    Wait { run: String, server: String },
    /// Ends one, with everything that it has started.
    End { run: String, server: String },
}

/// What is done with configuration values (`omero.md` §3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum ValueAction {
    /// One value.
    Get { key: String },
    /// Every value that may be seen, whose key contains this.
    List { containing: String },
    /// Sets a value in this Blitz, until it ends.
    Set { key: String, value: String },
    /// Sets a value if it is as expected; `None` for unset.
    SetIf {
        key: String,
        value: String,
        expected: Option<String>,
    },
}

/// A file of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileView {
    /// Its number, which is never used again.
    pub id: u64,
    /// Where it is, below the repository.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-1 checksum, in hexadecimal.
    pub checksum: String,
    /// The name of the user who imported it.
    pub owner: String,
    /// When it was imported, milliseconds since 1970.
    pub imported_ms: u64,
}

/// Where what is known of an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// From the image file; no memo was written.
    Fresh,
    /// From the image file; a memo was written.
    Saved,
    /// From a memo.
    Memo,
    /// From a shared memo, which was copied to the local directory.
    Copied,
}

/// A script that can be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptView {
    /// Where it is, below the directory of scripts.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its media type, which chooses the launcher.
    pub mimetype: String,
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptEnd {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the time limit ended it, with everything that it had started.
    pub timed_out: bool,
    /// How long it ran, in milliseconds.
    pub took_ms: u64,
    /// The end of what it wrote on standard output.
    pub stdout: String,
    /// The end of what it wrote on standard error.
    pub stderr: String,
    /// Whether the beginning of the output is not in here.
    pub truncated: bool,
}

/// Leave to move the contents of one file over a data socket, once and soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The data socket.
    pub socket: PathBuf,
    /// What proves the leave.
    pub ticket: String,
}

/// The first line of a client on a data socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opening {
    /// [`Ticket::ticket`].
    pub ticket: String,
}

/// What a Blitz says before and after the contents of a file, one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum Verdict {
    /// Contents of so many bytes follow, or are waited for.
    Go { size: u64 },
    /// All went well; the file as it is.
    Done { file: FileView },
    /// It did not; nothing was kept.
    Refused { refusal: Refusal },
}

/// The byte after the last of an import: the source is as it was when it was begun.
pub const COMMIT: u8 = b'C';

/// The byte after the last of an import that is not to be kept.
pub const ABORT: u8 = b'A';
