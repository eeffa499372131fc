//! Recorded Ice messages: each is understood as an independent decoder understood it, and comes out again to the byte.

use std::path::{Path, PathBuf};

use omero_grid::ice::{
    Compression, Decode as _, Encapsulation, Encode as _, Message, Missing, Mode, Outcome, Proxy,
    Reference, Request, Writer,
};
use serde_json::Value;

/// The largest message that OMERO's clients accept.
pub(crate) const MAX: usize = 250_000 * 1024;

/// Where the recorded streams are; a clone without them skips, unless `OMERO_GRID_REQUIRE_PEERS=1`.
pub(crate) fn streams() -> Vec<(PathBuf, Value)> {
    let folder = std::env::var_os("OMERO_GRID_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    let Ok(entries) = folder.join("ice").read_dir() else {
        let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(!required, "no recorded streams in {}", folder.display());
        println!("skipped: no recorded streams in {}", folder.display());
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, serde_json::from_str(&text).unwrap())
        })
        .collect()
}

/// Calls `look` with every recorded message and what is known of it. Returns how many there were.
pub(crate) fn each(mut look: impl FnMut(&[u8], &Value, &str)) -> usize {
    let mut count = 0;
    for (path, stream) in streams() {
        for (number, entry) in stream.as_array().unwrap().iter().enumerate().skip(1) {
            let hex = entry["hex"].as_str().unwrap();
            if hex.is_empty() {
                continue;
            }
            let bytes = unhex(hex);
            let place = format!("{} message {number}", path.display());
            look(&bytes, &entry["decoded"], &place);
            count += 1;
        }
    }
    count
}

/// Returns the bytes that these digits are.
pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

pub(crate) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Joins an identity as the recordings do, which protect nothing in it.
fn joined(category: &str, name: &str) -> String {
    match category {
        "" => name.to_owned(),
        category => format!("{category}/{name}"),
    }
}

fn check_request(request: &Request<'_>, known: &Value, place: &str) {
    let target = &request.target;
    let id = joined(target.category, target.name);
    assert_eq!(id, text(known, "id"), "{place}");
    assert_eq!(request.target.facet, text(known, "facet"), "{place}");
    assert_eq!(request.target.operation, text(known, "op"), "{place}");
    let mode = match request.mode {
        Mode::Normal => "Normal",
        Mode::Nonmutating => "Nonmutating",
        Mode::Idempotent => "Idempotent",
    };
    assert_eq!(mode, text(known, "mode"), "{place}");
    let context: serde_json::Map<String, Value> = request
        .context
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect();
    let expected = known["ctx"].as_object().cloned().unwrap_or_default();
    assert_eq!(context, expected, "{place}");
    check_encoding(&request.params, known, place);
}

fn check_encoding(encapsulation: &Encapsulation<'_>, known: &Value, place: &str) {
    let [major, minor] = encapsulation.version;
    assert_eq!(format!("{major}.{minor}"), text(known, "enc"), "{place}");
}

#[test]
fn every_recorded_message_is_understood_and_written_to_the_byte() {
    let count = each(|bytes, known, place| {
        let (message, compression) =
            Message::decode(bytes, MAX).unwrap_or_else(|error| panic!("{place}: {error}"));
        let mut writer = Writer::default();
        message.encode(compression, &mut writer);
        assert_eq!(writer.bytes(), bytes, "{place}");
        assert_eq!(known["size"], bytes.len(), "{place}");
        let status = known["compress"].as_u64().unwrap_or(0);
        let expected = [Compression::No, Compression::Understood, Compression::Yes];
        assert_eq!(
            compression,
            expected[usize::try_from(status).unwrap()],
            "{place}"
        );
        match &message {
            Message::Request(request) => {
                assert_eq!(text(known, "type"), "Request", "{place}");
                assert_eq!(known["requestId"], request.id, "{place}");
                check_request(request, known, place);
            }
            Message::Batch(requests) => {
                let batch = known["batch"].as_array().unwrap();
                assert_eq!(batch.len(), requests.len(), "{place}");
                for (request, known) in requests.iter().zip(batch) {
                    check_request(request, known, place);
                }
            }
            Message::Reply(reply) => {
                assert_eq!(known["requestId"], reply.id, "{place}");
                let status = match &reply.outcome {
                    Outcome::Done(result) => {
                        check_encoding(result, known, place);
                        "OK"
                    }
                    Outcome::Exception(exception) => {
                        check_encoding(exception, known, place);
                        "UserException"
                    }
                    Outcome::Missing(Missing::Object, _) => "ObjectNotExist",
                    Outcome::Missing(Missing::Facet, _) => "FacetNotExist",
                    Outcome::Missing(Missing::Operation, target) => {
                        assert_eq!(target.operation, text(known, "operation"), "{place}");
                        "OperationNotExist"
                    }
                    Outcome::Unknown(status, said) => {
                        assert_eq!(*said, text(known, "unknown"), "{place}");
                        [
                            "UnknownLocalException",
                            "UnknownUserException",
                            "UnknownException",
                        ][usize::from(*status) - 5]
                    }
                };
                assert_eq!(status, text(known, "status"), "{place}");
            }
            Message::Validate => assert_eq!(text(known, "type"), "ValidateConnection", "{place}"),
            Message::Close => assert_eq!(text(known, "type"), "CloseConnection", "{place}"),
            Message::Compressed { size, .. } => {
                assert_eq!(known["uncompressed"], *size, "{place}");
            }
        }
    });
    println!("{count} messages");
}

#[test]
fn no_beginning_of_a_recorded_message_is_one() {
    each(|bytes, _, place| {
        for end in 0..bytes.len() {
            assert!(
                Message::decode(&bytes[..end], MAX).is_err(),
                "{place}, {end} bytes"
            );
        }
    });
}

/// Returns what is known of the one value in parameters or a result, if it is a proxy.
fn proxy_of(known: &Value) -> Option<&Value> {
    let values = known["params"]
        .as_object()
        .or(known["result"].as_object())?;
    let mut values = values.values();
    let one = values.next().filter(|value| value["proto"].is_string())?;
    values.next().is_none().then_some(one)
}

#[test]
fn recorded_proxies_are_understood_and_written_to_the_byte() {
    let mut seen = 0;
    let all = each(|bytes, known, place| {
        let Some(known) = proxy_of(known) else {
            return;
        };
        let (message, _) = Message::decode(bytes, MAX).unwrap();
        let within = match &message {
            Message::Request(request) => request.params,
            Message::Reply(reply) => match reply.outcome {
                Outcome::Done(result) => result,
                _ => return,
            },
            _ => return,
        };
        let mut reader = within.reader().unwrap();
        let encoding = reader.encoding();
        let proxy =
            Option::<Proxy>::decode(&mut reader).unwrap_or_else(|error| panic!("{place}: {error}"));
        reader
            .finish()
            .unwrap_or_else(|error| panic!("{place}: {error}"));
        let mut writer = Writer::new(encoding);
        proxy.encode(&mut writer);
        assert_eq!(writer.bytes(), within.bytes, "{place}");
        let proxy = proxy.unwrap();
        let id = joined(&proxy.identity.category, &proxy.identity.name);
        assert_eq!(id, text(known, "id"), "{place}");
        assert_eq!(proxy.facet, text(known, "facet"), "{place}");
        let endpoints = match &proxy.reference {
            Reference::Direct(endpoints) => endpoints.len(),
            Reference::Indirect(_) | Reference::WellKnown => 0,
        };
        let expected = known["endpoints"].as_array().map_or(0, Vec::len);
        assert_eq!(endpoints, expected, "{place}");
        // The written form says the same.
        assert_eq!(proxy.to_string().parse(), Ok(proxy), "{place}");
        seen += 1;
    });
    assert!(all == 0 || seen > 0, "no proxy in {all} messages");
    println!("{seen} proxies");
}
