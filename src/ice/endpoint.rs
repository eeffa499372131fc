//! Where an object can be reached.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::bytes::{Encoding, Reader, Writer};
use super::codec::{Decode, Encode, Shape};
use super::error::DecodeError;
use super::words::{ParseError, Words};

/// The time limit of an endpoint that says none, in milliseconds.
const TIMEOUT: i32 = 60_000;

/// A host and a port, and how to speak there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The host's name or address.
    pub host: String,
    /// The port.
    pub port: i32,
    /// Time limit in milliseconds; -1 for none.
    pub timeout: i32,
    /// Whether messages there may be compressed.
    pub compress: bool,
}

/// One way to reach an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// TCP.
    Tcp(Address),
    /// TLS.
    Ssl(Address),
    /// UDP; its time limit means nothing.
    Udp(Address),
    /// WebSocket, and the resource asked for.
    Ws(Address, String),
    /// WebSocket over TLS.
    Wss(Address, String),
    /// Something else, which is passed on as it is.
    Opaque {
        /// Its type.
        kind: i16,
        /// The version of its encoding.
        version: [u8; 2],
        /// Its body.
        body: Vec<u8>,
    },
}

const TCP: i16 = 1;
const SSL: i16 = 2;
const UDP: i16 = 3;
const WS: i16 = 4;
const WSS: i16 = 5;

impl Endpoint {
    fn native(kind: i16, body: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let address = |body: &mut Reader<'_>| -> Result<Address, DecodeError> {
            Ok(Address {
                host: String::decode(body)?,
                port: body.int()?,
                timeout: body.int()?,
                compress: bool::decode(body)?,
            })
        };
        Ok(Some(match kind {
            TCP => Self::Tcp(address(body)?),
            SSL => Self::Ssl(address(body)?),
            UDP => {
                let (host, port) = (String::decode(body)?, body.int()?);
                if body.encoding() == Encoding::V10 {
                    // Versions of protocol and encoding, which are 1.0 where anything speaks it.
                    body.array::<4>()?;
                }
                Self::Udp(Address {
                    host,
                    port,
                    timeout: -1,
                    compress: bool::decode(body)?,
                })
            }
            WS => Self::Ws(address(body)?, String::decode(body)?),
            WSS => Self::Wss(address(body)?, String::decode(body)?),
            _ => return Ok(None),
        }))
    }

    fn kind(&self) -> i16 {
        match self {
            Self::Tcp(_) => TCP,
            Self::Ssl(_) => SSL,
            Self::Udp(_) => UDP,
            Self::Ws(..) => WS,
            Self::Wss(..) => WSS,
            Self::Opaque { kind, .. } => *kind,
        }
    }

    /// Reads a list of endpoints, separated by colons; an empty text is none.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, ParseError> {
        match text.trim() {
            "" => Ok(Vec::new()),
            _ => Self::parse_words(&mut Words::new(text, ":")),
        }
    }

    /// Reads all that are left: one, and others after colons.
    pub(super) fn parse_words(words: &mut Words<'_>) -> Result<Vec<Self>, ParseError> {
        let mut all = Vec::new();
        loop {
            all.push(Self::parse(words)?);
            match words.next()? {
                None => return Ok(all),
                Some(word) if word.is(":") => {}
                Some(word) => {
                    let problem = format!("'{}' where ':' was expected", word.text);
                    return Err(ParseError::new(word.at, problem));
                }
            }
        }
    }

    /// Reads one from its words: a protocol and its options.
    fn parse(words: &mut Words<'_>) -> Result<Self, ParseError> {
        let begin = words.place();
        let Some(protocol) = words.next()? else {
            return Err(ParseError::new(begin, "an endpoint is missing"));
        };
        let mut options = Options::default();
        loop {
            let mut ahead = words.clone();
            let Some(option) = ahead.next()? else { break };
            if option.is(":") {
                break;
            }
            let name = option.text;
            let mut value = |what: &str| -> Result<String, ParseError> {
                match ahead.next()? {
                    Some(word) if !word.stops => Ok(word.text.to_owned()),
                    _ => Err(ParseError::new(option.at, format!("{name} needs {what}"))),
                }
            };
            let number = |text: String, what: &str| {
                text.parse::<i32>()
                    .map_err(|_| ParseError::new(option.at, format!("'{text}' is no {what}")))
            };
            match name {
                "-h" => options.host = Some(value("a host")?),
                "-p" => options.port = number(value("a port")?, "port")?,
                "-t" => {
                    let text = value("milliseconds")?;
                    options.timeout = match text.as_str() {
                        "infinite" => Some(-1),
                        _ => Some(number(text, "number of milliseconds")?),
                    };
                }
                "-z" => options.compress = true,
                "-r" => options.resource = Some(value("a resource")?),
                "-v" => options.body = Some((option.at, value("a body")?)),
                "-e" => options.encoding = Some((option.at, value("a version")?)),
                "-c" => {}
                "--sourceAddress" | "--interface" | "--ttl" => drop(value("a value")?),
                _ => {
                    return Err(ParseError::new(
                        option.at,
                        format!("an endpoint has no option '{name}'"),
                    ));
                }
            }
            // For opaque endpoints the type is what elsewhere is the time limit.
            *words = ahead;
        }
        options.build(protocol.text, protocol.at)
    }
}

#[derive(Default)]
struct Options {
    host: Option<String>,
    port: i32,
    timeout: Option<i32>,
    compress: bool,
    resource: Option<String>,
    body: Option<(usize, String)>,
    encoding: Option<(usize, String)>,
}

impl Options {
    fn build(self, protocol: &str, at: usize) -> Result<Endpoint, ParseError> {
        if !(0..=65_535).contains(&self.port) {
            return Err(ParseError::new(
                at,
                format!("there is no port {}", self.port),
            ));
        }
        let address = Address {
            // All interfaces of a server, this host for a client: both are for those who use it.
            host: match self.host.as_deref() {
                None | Some("*") => String::new(),
                Some(host) => host.to_owned(),
            },
            port: self.port,
            timeout: self.timeout.unwrap_or(TIMEOUT),
            compress: self.compress,
        };
        let resource = self.resource.unwrap_or_else(|| "/".to_owned());
        Ok(match protocol {
            "tcp" | "default" => Endpoint::Tcp(address),
            "ssl" => Endpoint::Ssl(address),
            "udp" => Endpoint::Udp(Address {
                timeout: -1,
                ..address
            }),
            "ws" => Endpoint::Ws(address, resource),
            "wss" => Endpoint::Wss(address, resource),
            "opaque" => {
                let kind = self.timeout.and_then(|kind| i16::try_from(kind).ok());
                let kind = kind.ok_or_else(|| ParseError::new(at, "opaque needs -t TYPE"))?;
                let (body_at, body) = self
                    .body
                    .ok_or_else(|| ParseError::new(at, "opaque needs -v BODY"))?;
                let body = STANDARD
                    .decode(body)
                    .map_err(|_| ParseError::new(body_at, "the body is not base64"))?;
                let version = match self.encoding {
                    None => [1, 0],
                    Some((at, text)) => version(&text)
                        .ok_or_else(|| ParseError::new(at, format!("'{text}' is no version")))?,
                };
                Endpoint::Opaque {
                    kind,
                    version,
                    body,
                }
            }
            other => {
                return Err(ParseError::new(
                    at,
                    format!(
                        "there is no protocol '{other}'; known are tcp, ssl, udp, ws, wss and opaque"
                    ),
                ));
            }
        })
    }
}

/// Reads a version: `1.0`.
pub(super) fn version(text: &str) -> Option<[u8; 2]> {
    let (major, minor) = text.split_once('.')?;
    Some([major.parse().ok()?, minor.parse().ok()?])
}

impl Shape for Endpoint {
    const LEAST: usize = 8;
}

impl Decode<'_> for Endpoint {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = i16::decode(reader)?;
        let encapsulation = reader.encapsulation()?;
        if let Ok(mut body) = encapsulation.reader() {
            match Self::native(kind, &mut body) {
                // One with more in it than is known is passed on as it is.
                Ok(Some(endpoint)) if body.left() == 0 => return Ok(endpoint),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok(Self::Opaque {
            kind,
            version: encapsulation.version,
            body: encapsulation.bytes.to_vec(),
        })
    }
}

impl Encode for Endpoint {
    fn encode(&self, writer: &mut Writer) {
        self.kind().encode(writer);
        if let Self::Opaque { version, body, .. } = self {
            return writer.encapsulation(&super::Encapsulation {
                version: *version,
                bytes: body,
            });
        }
        let encoding = writer.encoding();
        writer.encapsulate(encoding, |writer| match self {
            Self::Tcp(address) | Self::Ssl(address) => address.encode(writer),
            Self::Ws(address, resource) | Self::Wss(address, resource) => {
                address.encode(writer);
                writer.text(resource);
            }
            Self::Udp(address) => {
                writer.text(&address.host);
                writer.int(address.port);
                if encoding == Encoding::V10 {
                    writer.put(&[1, 0, 1, 0]);
                }
                address.compress.encode(writer);
            }
            Self::Opaque { .. } => {}
        });
    }
}

impl Address {
    fn encode(&self, writer: &mut Writer) {
        writer.text(&self.host);
        writer.int(self.port);
        writer.int(self.timeout);
        self.compress.encode(writer);
    }
}

/// As Ice writes it: `tcp -h 127.0.0.1 -p 4061 -t 60000`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, address, resource) = match self {
            Self::Tcp(address) => ("tcp", address, None),
            Self::Ssl(address) => ("ssl", address, None),
            Self::Udp(address) => ("udp", address, None),
            Self::Ws(address, resource) => ("ws", address, Some(resource)),
            Self::Wss(address, resource) => ("wss", address, Some(resource)),
            Self::Opaque {
                kind,
                version: [major, minor],
                body,
            } => {
                return write!(
                    f,
                    "opaque -t {kind} -e {major}.{minor} -v {}",
                    STANDARD.encode(body)
                );
            }
        };
        f.write_str(name)?;
        match address.host.as_str() {
            "" => {}
            host if host.contains(':') => write!(f, " -h \"{host}\"")?,
            host => write!(f, " -h {host}")?,
        }
        write!(f, " -p {}", address.port)?;
        match (self, address.timeout) {
            (Self::Udp(_), _) => {}
            (_, -1) => f.write_str(" -t infinite")?,
            (_, timeout) => write!(f, " -t {timeout}")?,
        }
        if address.compress {
            f.write_str(" -z")?;
        }
        match resource.map(String::as_str) {
            None | Some("/" | "") => Ok(()),
            Some(resource) => write!(f, " -r {resource}"),
        }
    }
}
