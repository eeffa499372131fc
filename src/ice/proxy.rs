//! A reference to an object: whose, how to call it, and where.

use std::fmt;
use std::str::FromStr;

use super::bytes::{Encoding, Reader, Writer};
use super::codec::{Decode, Encode, Shape};
use super::endpoint::{Endpoint, version};
use super::error::DecodeError;
use super::identity::Identity;
use super::words::{ParseError, Words, escape, unescape};
use crate::enumeration;

enumeration! {
    /// How calls are made.
    pub enum ProxyMode {
        /// With an answer.
        Twoway = 0,
        /// Without one.
        Oneway = 1,
        /// Without one, several in one message.
        BatchOneway = 2,
        /// In one datagram.
        Datagram = 3,
        /// Several in one datagram.
        BatchDatagram = 4,
    }
}

impl ProxyMode {
    const LETTERS: [(Self, &'static str); 5] = [
        (Self::Twoway, "-t"),
        (Self::Oneway, "-o"),
        (Self::BatchOneway, "-O"),
        (Self::Datagram, "-d"),
        (Self::BatchDatagram, "-D"),
    ];

    fn letter(self) -> &'static str {
        let mut letters = Self::LETTERS.iter();
        letters
            .find(|(mode, _)| *mode == self)
            .map_or("", |(_, letter)| letter)
    }
}

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// At one of these; never none of them.
    Direct(Vec<Endpoint>),
    /// At an adapter, or a replica group, that the locator knows.
    Indirect(String),
    /// Where the locator says that its identity is.
    WellKnown,
}

/// A reference to an object. No reference is `Option::None`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proxy {
    /// Whose.
    pub identity: Identity,
    /// Which facet of it; empty for the main one.
    pub facet: String,
    /// How calls are made.
    pub mode: ProxyMode,
    /// Whether only endpoints that encrypt may be used.
    pub secure: bool,
    /// The version of the protocol to speak, 1.0.
    pub protocol: [u8; 2],
    /// The version of the encoding to speak.
    pub encoding: [u8; 2],
    /// Where.
    pub reference: Reference,
}

impl Proxy {
    /// Makes a proxy of the usual kind.
    pub fn new(identity: Identity, reference: Reference) -> Self {
        Self {
            identity,
            facet: String::new(),
            mode: ProxyMode::Twoway,
            secure: false,
            protocol: [1, 0],
            encoding: [1, 1],
            reference,
        }
    }
}

/// Reads a facet: a sequence of one text, or of none.
pub(super) fn facet<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.count(1)? {
        0 => Ok(""),
        1 => reader.text(),
        more => Err(DecodeError::Facet(more)),
    }
}

/// Writes a facet.
pub(super) fn put_facet(facet: &str, writer: &mut Writer) {
    if facet.is_empty() {
        writer.size(0);
    } else {
        writer.size(1);
        writer.text(facet);
    }
}

impl Shape for Option<Proxy> {
    const LEAST: usize = 2;
}

impl Decode<'_> for Option<Proxy> {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let identity = Identity::decode(reader)?;
        if identity.is_nil() {
            return Ok(None);
        }
        let facet = facet(reader)?.to_owned();
        // A byte in either encoding.
        let mode = reader.byte()?;
        let mode = ProxyMode::LETTERS
            .iter()
            .find(|(known, _)| *known as u8 == mode)
            .map(|(mode, _)| *mode)
            .ok_or(DecodeError::Enumerator {
                name: "ProxyMode",
                value: i32::from(mode),
            })?;
        let secure = bool::decode(reader)?;
        let (protocol, encoding) = match reader.encoding() {
            Encoding::V10 => ([1, 0], [1, 0]),
            Encoding::V11 => (reader.array()?, reader.array()?),
        };
        let endpoints = Vec::<Endpoint>::decode(reader)?;
        let reference = if !endpoints.is_empty() {
            Reference::Direct(endpoints)
        } else {
            match reader.text()? {
                "" => Reference::WellKnown,
                adapter => Reference::Indirect(adapter.to_owned()),
            }
        };
        Ok(Some(Proxy {
            identity,
            facet,
            mode,
            secure,
            protocol,
            encoding,
            reference,
        }))
    }
}

impl Encode for Option<Proxy> {
    fn encode(&self, writer: &mut Writer) {
        let Some(proxy) = self else {
            return Identity::default().encode(writer);
        };
        proxy.identity.encode(writer);
        put_facet(&proxy.facet, writer);
        writer.byte(proxy.mode as u8);
        proxy.secure.encode(writer);
        if writer.encoding() == Encoding::V11 {
            writer.put(&proxy.protocol);
            writer.put(&proxy.encoding);
        }
        match &proxy.reference {
            Reference::Direct(endpoints) => endpoints.encode(writer),
            Reference::Indirect(adapter) => {
                writer.size(0);
                writer.text(adapter);
            }
            Reference::WellKnown => {
                writer.size(0);
                writer.text("");
            }
        }
    }
}

/// Quotes a part of a written proxy where it would be taken for something else.
fn quoted(text: &str) -> String {
    match text.contains([' ', '\t', '\n', '\r', ':', '@']) {
        true => format!("\"{text}\""),
        false => text.to_owned(),
    }
}

/// As Ice writes it: `cat/t2 -f fac -o -e 1.1:tcp -h 127.0.0.1 -p 1 -t 1000`.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.identity.to_string()))?;
        if !self.facet.is_empty() {
            write!(f, " -f {}", quoted(&escape(&self.facet, "")))?;
        }
        write!(f, " {}", self.mode.letter())?;
        if self.secure {
            f.write_str(" -s")?;
        }
        if self.protocol != [1, 0] {
            write!(f, " -p {}.{}", self.protocol[0], self.protocol[1])?;
        }
        write!(f, " -e {}.{}", self.encoding[0], self.encoding[1])?;
        match &self.reference {
            Reference::Direct(endpoints) => endpoints
                .iter()
                .try_for_each(|endpoint| write!(f, ":{endpoint}")),
            Reference::Indirect(adapter) => write!(f, " @ {}", quoted(&escape(adapter, ""))),
            Reference::WellKnown => Ok(()),
        }
    }
}

impl FromStr for Proxy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut words = Words::new(text, ":@");
        let Some(identity) = words.next()?.filter(|word| !word.stops) else {
            return Err(ParseError::new(0, "an identity is missing"));
        };
        let of_identity: Identity = identity
            .text
            .parse()
            .map_err(|error: ParseError| error.after(identity.at))?;
        if of_identity.is_nil() {
            return Err(ParseError::new(identity.at, "the identity is empty"));
        }
        let mut proxy = Self::new(of_identity, Reference::WellKnown);
        while let Some(word) = words.next()? {
            let version_of = |words: &mut Words<'_>| -> Result<[u8; 2], ParseError> {
                let text = words.next()?.map_or("", |word| word.text);
                version(text)
                    .ok_or_else(|| ParseError::new(word.at, format!("'{text}' is no version")))
            };
            match word.text {
                _ if word.is("@") => {
                    let adapter = words.next()?.filter(|word| !word.stops);
                    let Some(adapter) = adapter else {
                        return Err(ParseError::new(word.at, "@ needs an adapter"));
                    };
                    let id = unescape(adapter.text).map_err(|error| error.after(adapter.at))?;
                    if let Some(more) = words.next()? {
                        return Err(ParseError::new(more.at, "nothing follows an adapter"));
                    }
                    proxy.reference = Reference::Indirect(id);
                }
                _ if word.is(":") => {
                    proxy.reference = Reference::Direct(Endpoint::parse_words(&mut words)?);
                }
                "-f" => {
                    let Some(facet) = words.next()? else {
                        return Err(ParseError::new(word.at, "-f needs a facet"));
                    };
                    proxy.facet = unescape(facet.text).map_err(|error| error.after(facet.at))?;
                }
                "-s" => proxy.secure = true,
                "-p" => proxy.protocol = version_of(&mut words)?,
                "-e" => proxy.encoding = version_of(&mut words)?,
                letter => {
                    let mut known = ProxyMode::LETTERS.iter();
                    match known.find(|(_, known)| *known == letter) {
                        Some((mode, _)) => proxy.mode = *mode,
                        None => {
                            let problem = format!("a proxy has no option '{letter}'");
                            return Err(ParseError::new(word.at, problem));
                        }
                    }
                }
            }
        }
        Ok(proxy)
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
