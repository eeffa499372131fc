//! Makes what the fuzz targets start from: `cargo run --example fuzz_corpus -- [FIXTURES] [FOLDER]`.
//!
//! Takes recorded messages and descriptors from FIXTURES (`../shared/fixtures`), a few inputs made here besides, and writes them below FOLDER
//! (`fuzz/corpus`), where `cargo fuzz run` looks. Without the fixtures there is only what is made here.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use omero_grid::ice::{
    Compression, Decode as _, Encapsulation, Encoding, Identity, Message, Mode, Outcome, Proxy,
    Request, Target, Writer,
};
use serde_json::Value;

const MAX: usize = 1 << 20;

/// Which choice of target `value` an operation's parameters and its result belong to (`TYPES` in `fuzz/targets/value.rs`).
const VALUES: &[(&str, Option<u8>, Option<u8>)] = &[
    ("addApplication", Some(0), None),
    ("getDefaultApplicationDescriptor", None, Some(0)),
    ("updateApplication", Some(1), None),
    ("getServerInfo", None, Some(2)),
    ("nodeInit", Some(3), None),
    ("echoClass", Some(4), Some(4)),
    ("echoSliced", Some(4), Some(4)),
    ("echoNode", Some(5), Some(5)),
    ("dict", Some(6), None),
    ("getApplicationInfo", None, Some(7)),
];

const TEXTS: &[&str] = &[
    "echo",
    "cat/t2 -f fac -o -e 1.1:tcp -h 127.0.0.1 -p 1 -t 1000",
    "a\\/b/c\\\\d -s -O @ \"adapter one\"",
    "\"two words\" -D -p 1.0 -e 1.0:udp -h \"::1\" -p 5 -z:ssl -h * -t infinite",
    "x:ws -p 80 -r /a:wss -r '/b c' -t 5",
    "x -t:opaque -t 7 -e 1.0 -v AAEC:default -h host --sourceAddress 1.2.3.4",
    "\\u00b5\\302\\265\\x41\\n/'quoted'",
];

const DOCUMENTS: &[&str] = &[
    r#"{"kind":"request","id":1,"body":{"type":"status"}}"#,
    r#"{"kind":"reply","id":1,"body":{"type":"done"}}"#,
    r#"{"kind":"refusal","id":2,"body":{"kind":"not_found","message":"m","hint":"h"}}"#,
    r#"{"kind":"event","body":{"type":"status"}}"#,
];

struct Corpus {
    folder: PathBuf,
    count: usize,
}

impl Corpus {
    /// Adds one input of a target. Its name follows from its bytes, so that the same is there once.
    fn add(&mut self, target: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.folder.join(target);
        fs::create_dir_all(&folder)?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        self.count += 1;
        fs::write(folder.join(format!("{:016x}", hasher.finish())), bytes)
    }

    /// Adds what is in an encapsulation, behind the byte that the target chooses by.
    fn within(&mut self, target: &str, choice: u8, within: &Encapsulation<'_>) -> io::Result<()> {
        // The lowest bit is the encoding, the next one the format to write.
        let encoding = u8::from(within.version == [1, 1]);
        for format in [0, 2] {
            let first = choice << 2 | format | encoding;
            self.add(target, &[&[first], within.bytes].concat())?;
        }
        Ok(())
    }

    fn message(&mut self, bytes: &[u8], known: &Value) -> io::Result<()> {
        self.add("message", bytes)?;
        let Ok((message, _)) = Message::decode(bytes, MAX) else {
            return Ok(());
        };
        let operation = known["op"].as_str().unwrap_or_default();
        let choices = VALUES.iter().find(|(name, ..)| *name == operation);
        let (within, choice) = match &message {
            Message::Request(request) => (request.params, choices.and_then(|c| c.1)),
            Message::Reply(reply) => match reply.outcome {
                Outcome::Done(result) => (result, choices.and_then(|c| c.2)),
                Outcome::Exception(exception) => {
                    return self.within("exception", 0, &exception);
                }
                Outcome::Missing(..) | Outcome::Unknown(..) => return Ok(()),
            },
            _ => return Ok(()),
        };
        if let Some(choice) = choice {
            self.within("value", choice, &within)?;
        }
        if operation.starts_with("echo") {
            self.within("optional", 0, &within)?;
        }
        if known.to_string().contains("optional") || operation.contains("pt") {
            self.within("optional", 1, &within)?;
        }
        if let Ok(mut reader) = within.reader()
            && let Ok(Some(proxy)) = Option::<Proxy>::decode(&mut reader)
            && reader.left() == 0
        {
            self.within("proxy", 0, &within)?;
            self.add("text", proxy.to_string().as_bytes())?;
        }
        Ok(())
    }

    fn recorded(&mut self, fixtures: &Path) -> io::Result<()> {
        for path in files(&fixtures.join("ice"), "json") {
            let stream: Value = serde_json::from_slice(&fs::read(path)?)?;
            for entry in stream.as_array().into_iter().flatten().skip(1) {
                let hex = entry["hex"].as_str().unwrap_or_default();
                let bytes = (0..hex.len()).step_by(2).map(|at| {
                    let digits = hex.get(at..at + 2).unwrap_or_default();
                    u8::from_str_radix(digits, 16).map_err(io::Error::other)
                });
                let bytes = bytes.collect::<io::Result<Vec<u8>>>()?;
                self.message(&bytes, &entry["decoded"])?;
            }
        }
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors");
        for folder in [shipped, fixtures.join("descriptors")] {
            for path in files(&folder, "xml") {
                let text = fs::read(path)?;
                for first in 0..4 {
                    self.add("descriptor", &[&[first], &text[..]].concat())?;
                }
            }
        }
        Ok(())
    }

    fn made(&mut self) -> io::Result<()> {
        for text in TEXTS {
            self.add("text", text.as_bytes())?;
            let Ok(proxy) = text.parse::<Proxy>() else {
                continue;
            };
            for encoding in [Encoding::V10, Encoding::V11] {
                let mut writer = Writer::new(encoding);
                omero_grid::ice::Encode::encode(&Some(proxy.clone()), &mut writer);
                let bytes = writer.into_bytes();
                let version = encoding.bytes();
                let bytes = &bytes;
                self.within("proxy", 0, &Encapsulation { version, bytes })?;
            }
        }
        let id: Identity = Identity::new("echo");
        let target = Target {
            name: &id.name,
            category: &id.category,
            facet: "",
            operation: "ice_ping",
        };
        let ping = Request {
            id: 1,
            target,
            mode: Mode::Nonmutating,
            context: vec![("a", "b")],
            params: Encapsulation {
                version: [1, 1],
                bytes: &[],
            },
        };
        let messages = [
            Message::Request(ping.clone()),
            Message::Batch(vec![Request { id: 0, ..ping }]),
            Message::Validate,
            Message::Close,
        ];
        for message in messages {
            let mut writer = Writer::default();
            message.encode(Compression::Understood, &mut writer);
            self.add("message", writer.bytes())?;
        }
        for link in 0..3 {
            for document in DOCUMENTS {
                let length = u32::try_from(document.len()).map_err(io::Error::other)?;
                let frame = [&[link], &length.to_be_bytes()[..], document.as_bytes()];
                self.add("frame", &frame.concat())?;
            }
        }
        // An instance with an optional member of each of some kinds, and parameters of as many.
        let class = b"\x03\x01\x35\x0b::Demo::Opt\x0d\x00\x00\x00\x01\x00\x00\x00\xff";
        self.add("optional", class)?;
        let parameters = b"\x05\x08\x01\x11\x05\x00\x1a\x07\x00\x00\x00\x35\x02ab";
        self.add("optional", parameters)
    }
}

/// Returns the files of a folder, and of those below it, whose names end so.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

fn main() -> io::Result<()> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = words.next();
    let fixtures = fixtures.unwrap_or_else(|| here.join("../shared/fixtures"));
    let folder = words.next().unwrap_or_else(|| here.join("fuzz/corpus"));
    let mut corpus = Corpus { folder, count: 0 };
    corpus.made()?;
    corpus.recorded(&fixtures)?;
    println!("{} inputs in {}", corpus.count, corpus.folder.display());
    Ok(())
}
