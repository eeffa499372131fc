//! Reading XML: bytes in, elements with their places out.
//!
//! Stands on quick-xml and adds what it leaves to its callers: encodings, well-formedness of names, attributes and
//! references, limits. Any document type is refused, and with it entities. What elements mean is not known here.
//! Encodings are in `encoding`, what is told of a file that is no XML in `error`.

mod encoding;
mod error;

use quick_xml::Reader as Quick;
use quick_xml::events::{BytesStart, Event as QuickEvent};

use super::text::Pos;

pub(crate) use self::encoding::decode;
pub(crate) use self::error::XmlError;

/// How deep elements may be nested in one file.
const MAX_DEPTH: usize = 64;

/// The most attributes of one element.
const MAX_ATTRIBUTES: usize = 1000;

/// One step through a file.
#[derive(Debug)]
pub(crate) enum Event {
    /// A start tag, or an empty element (then an `End` follows).
    Start(Element),
    /// An end tag.
    End {
        /// Where it begins; for an empty element, where that ends.
        at: Pos,
    },
    /// Character data, references replaced.
    Text(String),
    /// The end of a well-formed file.
    Eof,
}

/// A start tag.
#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) at: Pos,
    pub(crate) attributes: Vec<Attribute>,
}

/// An attribute, its value normalised.
#[derive(Debug)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) at: Pos,
}

/// Reads the events of one file.
pub(crate) struct Reader<'t> {
    quick: Quick<&'t [u8]>,
    text: &'t str,
    file: u32,
    open: Vec<String>,
    /// An empty element whose `End` has not been given yet.
    pending_end: Option<Pos>,
    seen_root: bool,
    done: bool,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(file: u32, text: &'t str) -> Self {
        let mut quick = Quick::from_str(text);
        let config = quick.config_mut();
        // Our own matching of end tags gives the place of the name, and the element it belongs to.
        config.check_end_names = false;
        config.allow_unmatched_ends = true;
        config.check_comments = true;
        Self {
            quick,
            text,
            file,
            open: Vec::new(),
            pending_end: None,
            seen_root: false,
            done: false,
        }
    }

    fn pos(&self, offset: usize) -> Pos {
        Pos {
            file: self.file,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
        }
    }

    fn here(&self) -> usize {
        usize::try_from(self.quick.buffer_position())
            .unwrap_or(usize::MAX)
            .min(self.text.len())
    }

    /// Returns the next event; after an error or `Eof` there are no more.
    pub(crate) fn next(&mut self) -> Result<Event, XmlError> {
        if self.done {
            return Ok(Event::Eof);
        }
        let event = self.advance();
        self.done = matches!(event, Err(_) | Ok(Event::Eof));
        event
    }

    fn advance(&mut self) -> Result<Event, XmlError> {
        if let Some(at) = self.pending_end.take() {
            return Ok(Event::End { at });
        }
        loop {
            let start = self.here();
            let event = self
                .quick
                .read_event()
                .map_err(|error| XmlError::broken(self.pos(start), &error))?;
            match event {
                QuickEvent::Start(tag) => {
                    let element = self.element(start, &tag)?;
                    if self.open.len() >= MAX_DEPTH {
                        return Err(XmlError::refused(
                            element.at,
                            format!("elements are nested more than {MAX_DEPTH} deep"),
                            "no descriptor needs more than a dozen levels",
                        ));
                    }
                    self.open.push(element.name.clone());
                    return Ok(Event::Start(element));
                }
                QuickEvent::Empty(tag) => {
                    let element = self.element(start, &tag)?;
                    self.pending_end = Some(self.pos(self.here()));
                    return Ok(Event::Start(element));
                }
                QuickEvent::End(tag) => {
                    let name = tag.name().as_ref().trim_end().to_owned();
                    let at = self.pos(start);
                    let expected = self.open.pop();
                    if expected.as_deref() == Some(name.as_str()) {
                        return Ok(Event::End { at });
                    }
                    let name_at = self.pos(start + 2);
                    return Err(match expected {
                        Some(expected) => XmlError::new(
                            name_at,
                            format!(
                                "mismatched tag: '</{name}>' where '</{expected}>' was expected"
                            ),
                            "mismatched tag",
                        ),
                        None => XmlError::new(
                            name_at,
                            format!("'</{name}>' closes nothing"),
                            "not well-formed (invalid token)",
                        ),
                    });
                }
                QuickEvent::Text(text) => {
                    let raw = text.into_inner();
                    if let Some(n) = raw.find("]]>") {
                        let at = self.pos(start + n);
                        return Err(XmlError::new(
                            at,
                            "']]>' in text",
                            "not well-formed (invalid token)",
                        ));
                    }
                    self.check_chars(start, &raw)?;
                    if let Some(text) =
                        self.content(start, raw.replace("\r\n", "\n").replace('\r', "\n"))?
                    {
                        return Ok(Event::Text(text));
                    }
                }
                QuickEvent::CData(text) => {
                    let raw = text.into_inner();
                    self.check_chars(start, &raw)?;
                    if self.open.is_empty() {
                        return Err(self.outside(start));
                    }
                    return Ok(Event::Text(raw.replace("\r\n", "\n").replace('\r', "\n")));
                }
                QuickEvent::GeneralRef(reference) => {
                    let raw = reference.into_inner();
                    let c = self.reference(start, &raw)?;
                    if self.open.is_empty() {
                        return Err(self.outside(start));
                    }
                    return Ok(Event::Text(c.to_string()));
                }
                QuickEvent::Decl(_) if start == 0 => {}
                QuickEvent::Decl(_) => {
                    return Err(XmlError::new(
                        self.pos(start),
                        "the XML declaration is not at the beginning of the file",
                        "XML or text declaration not at start of entity",
                    ));
                }
                QuickEvent::DocType(_) => {
                    return Err(XmlError::refused(
                        self.pos(start),
                        "a document type (<!DOCTYPE …>) is not allowed, and with it no entities",
                        "remove it and write the text of its entities where they are used",
                    ));
                }
                QuickEvent::Comment(text) => self.check_chars(start, &text.into_inner())?,
                QuickEvent::PI(text) => self.check_chars(start, &text.into_inner())?,
                QuickEvent::Eof => return self.end(),
            }
        }
    }

    fn end(&self) -> Result<Event, XmlError> {
        let at = self.pos(self.text.len());
        if let Some(open) = self.open.last() {
            return Err(XmlError::new(
                at,
                format!("the file ends within <{open}>"),
                "no element found",
            ));
        }
        if !self.seen_root {
            let message = if self.text.trim().is_empty() {
                "the file is empty"
            } else {
                "the file has no element"
            };
            return Err(XmlError::new(at, message, "no element found"));
        }
        Ok(Event::Eof)
    }

    /// Passes text on if it stands in an element.
    fn content(&self, start: usize, text: String) -> Result<Option<String>, XmlError> {
        if !self.open.is_empty() {
            Ok(Some(text))
        } else if text.trim_matches([' ', '\t', '\n']).is_empty() {
            Ok(None)
        } else {
            let blanks = text.len() - text.trim_start().len();
            Err(self.outside(start + blanks))
        }
    }

    fn outside(&self, offset: usize) -> XmlError {
        if self.seen_root {
            XmlError::new(
                self.pos(offset),
                "text after the root element",
                "junk after document element",
            )
        } else {
            XmlError::new(
                self.pos(offset),
                "the file is no XML: text before the first element",
                "syntax error",
            )
        }
    }

    fn element(&mut self, start: usize, tag: &BytesStart<'_>) -> Result<Element, XmlError> {
        let at = self.pos(start);
        let invalid = |at, message: String| {
            Err(XmlError::new(
                at,
                message,
                "not well-formed (invalid token)",
            ))
        };
        if self.open.is_empty() && self.seen_root {
            return Err(XmlError::new(
                at,
                "a second root element",
                "junk after document element",
            ));
        }
        self.seen_root = true;
        let qname = tag.name();
        let name: &str = qname.as_ref();
        if !is_name(name) {
            return invalid(
                self.pos(start + 1),
                format!("'{}' is no name of an element", shorten(name)),
            );
        }
        let base = start + 1 + name.len();
        let raw = tag.attributes_raw();
        let mut attributes: Vec<Attribute> = Vec::new();
        for attribute in tag.attributes().with_checks(false) {
            let attribute = match attribute {
                Ok(attribute) => attribute,
                Err(error) => {
                    return invalid(at, format!("<{name}> has a broken attribute: {error}"));
                }
            };
            let key: &str = attribute.key.as_ref();
            // The key is a slice of `raw`, so that the difference of their addresses is its offset.
            let offset = (key.as_ptr() as usize)
                .saturating_sub(raw.as_ptr() as usize)
                .min(raw.len());
            let at = self.pos(base + offset);
            if !is_name(key) {
                return invalid(at, format!("'{}' is no name of an attribute", shorten(key)));
            }
            if !raw[..offset].ends_with([' ', '\t', '\n', '\r']) {
                return invalid(at, format!("a blank is missing before attribute '{key}'"));
            }
            if attributes.len() >= MAX_ATTRIBUTES {
                return Err(XmlError::refused(
                    at,
                    format!("<{name}> has more than {MAX_ATTRIBUTES} attributes"),
                    "put values into properties",
                ));
            }
            if attributes.iter().any(|a| a.name == key) {
                return Err(XmlError::new(
                    at,
                    format!("attribute '{key}' is given twice"),
                    "duplicate attribute",
                ));
            }
            let value = self.attribute_value(at, &attribute.value)?;
            attributes.push(Attribute {
                name: key.to_owned(),
                value,
                at,
            });
        }
        Ok(Element {
            name: name.to_owned(),
            at,
            attributes,
        })
    }

    /// Normalises an attribute's value: line ends and tabs become blanks unless written as references.
    fn attribute_value(&self, at: Pos, raw: &str) -> Result<String, XmlError> {
        let mut out = String::with_capacity(raw.len());
        let mut chars = raw.char_indices().peekable();
        while let Some((index, c)) = chars.next() {
            match c {
                '<' => {
                    return Err(XmlError::new(
                        at,
                        "'<' in the value of an attribute; write '&lt;'",
                        "not well-formed (invalid token)",
                    ));
                }
                '\r' => {
                    if chars.peek().is_some_and(|(_, c)| *c == '\n') {
                        chars.next();
                    }
                    out.push(' ');
                }
                '\n' | '\t' => out.push(' '),
                '&' => {
                    let after = &raw[index + 1..];
                    let Some(end) = after.find(';') else {
                        return Err(XmlError::new(
                            at,
                            "'&' that begins no reference; write '&amp;'",
                            "not well-formed (invalid token)",
                        ));
                    };
                    out.push(self.reference(at.offset as usize, &after[..end])?);
                    for _ in after[..=end].chars() {
                        chars.next();
                    }
                }
                c if !is_char(c) => return Err(self.bad_char(at, c)),
                c => out.push(c),
            }
        }
        Ok(out)
    }

    fn reference(&self, offset: usize, name: &str) -> Result<char, XmlError> {
        let at = self.pos(offset);
        if let Some(number) = name.strip_prefix('#') {
            let code = match number.strip_prefix('x') {
                Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    u32::from_str_radix(hex, 16).ok()
                }
                None if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok(),
                _ => None,
            };
            return code
                .and_then(char::from_u32)
                .filter(|c| is_char(*c))
                .ok_or_else(|| {
                    XmlError::new(
                        at,
                        format!("'&{};' is no character", shorten(name)),
                        "reference to invalid character number",
                    )
                });
        }
        match name {
            "lt" => Ok('<'),
            "gt" => Ok('>'),
            "amp" => Ok('&'),
            "quot" => Ok('"'),
            "apos" => Ok('\''),
            _ => Err(XmlError::new(
                at,
                format!(
                    "undefined entity '&{};'; write '&amp;' for a plain '&'",
                    shorten(name)
                ),
                "undefined entity",
            )),
        }
    }

    fn check_chars(&self, start: usize, text: &str) -> Result<(), XmlError> {
        match text.char_indices().find(|(_, c)| !is_char(*c)) {
            Some((offset, c)) => Err(self.bad_char(self.pos(start + offset), c)),
            None => Ok(()),
        }
    }

    fn bad_char(&self, at: Pos, c: char) -> XmlError {
        let message = format!("character U+{:04X} is not allowed in XML", u32::from(c));
        XmlError::new(at, message, "not well-formed (invalid token)")
    }
}

/// Returns whether XML 1.0 allows the character.
fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_alphabetic() || c == '_' || c == ':';
    let rest = |c: char| {
        first(c)
            || c.is_numeric()
            || matches!(c, '-' | '.' | '\u{B7}')
            || ('\u{300}'..='\u{36F}').contains(&c)
    };
    name.chars().next().is_some_and(first) && name.chars().all(rest)
}

/// Shortens what may be a whole file that follows an unclosed quote.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    if text.chars().count() <= SHOWN {
        text.to_owned()
    } else {
        text.chars().take(SHOWN).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(text: &str) -> Result<Vec<String>, String> {
        let mut reader = Reader::new(0, text);
        let mut out = Vec::new();
        loop {
            match reader.next() {
                Ok(Event::Start(e)) => {
                    let attributes: String = e
                        .attributes
                        .iter()
                        .map(|a| format!(" {}={:?}@{}", a.name, a.value, a.at.offset))
                        .collect();
                    out.push(format!("<{}@{}{attributes}", e.name, e.at.offset));
                }
                Ok(Event::End { at }) => out.push(format!(">@{}", at.offset)),
                Ok(Event::Text(t)) => out.push(t),
                Ok(Event::Eof) => return Ok(out),
                Err(e) => return Err(format!("{}@{}", e.expat.unwrap_or("ours"), e.at.offset)),
            }
        }
    }

    #[test]
    fn elements_and_attributes_have_their_places() {
        let text = "<a x='1'\n\ty=\"a&#10;&lt;\nb\">t&amp;u<!-- c -->v<![CDATA[<]]></a>";
        assert_eq!(
            events(text).unwrap(),
            [
                "<a@0 x=\"1\"@3 y=\"a\\n< b\"@10",
                "t",
                "&",
                "u",
                "v",
                "<",
                &format!(">@{}", text.len() - 4)
            ]
        );
        assert_eq!(
            events("<a><b/></a>").unwrap(),
            ["<a@0", "<b@3", ">@7", ">@7"]
        );
    }

    #[test]
    fn refuses_what_is_no_xml() {
        for (text, expected) in [
            ("", "no element found@0"),
            ("  \n", "no element found@3"),
            ("hello", "syntax error@0"),
            ("<a>", "no element found@3"),
            ("<a></b>", "mismatched tag@5"),
            ("<a/><b/>", "junk after document element@4"),
            ("<a/>x", "junk after document element@4"),
            ("<a b=1/>", "not well-formed (invalid token)@0"),
            ("<a b='1' b='2'/>", "duplicate attribute@9"),
            ("<a b='1'c='2'/>", "not well-formed (invalid token)@8"),
            ("<a b='<'/>", "not well-formed (invalid token)@3"),
            ("<a>&nope;</a>", "undefined entity@3"),
            ("<a b='&nope;'/>", "undefined entity@3"),
            ("<a>&#0;</a>", "reference to invalid character number@3"),
            ("<a>\u{1}</a>", "not well-formed (invalid token)@3"),
            ("<a", "unclosed token@0"),
            ("<1/>", "not well-formed (invalid token)@1"),
            ("<a><!-- ", "unclosed token@3"),
            (
                " <?xml version='1.0'?><a/>",
                "XML or text declaration not at start of entity@1",
            ),
        ] {
            assert_eq!(events(text), Err(expected.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn refuses_a_document_type_and_deep_nesting() {
        let laughs = "<!DOCTYPE a [<!ENTITY x \"ha\"><!ENTITY y \"&x;&x;\">]><a>&y;</a>";
        assert_eq!(events(laughs), Err("ours@0".to_owned()));
        assert_eq!(
            events("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>"),
            Err("ours@0".to_owned())
        );
        assert_eq!(
            events(&"<a>".repeat(100_000)),
            Err(format!("ours@{}", 3 * MAX_DEPTH))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(text) = decode(bytes) {
                let _ = events(&text);
            }
        }

        #[test]
        fn nothing_like_xml_panics(text in "[<>/a='\"&;#x!\\[\\]? \n-]{0,60}") {
            let _ = events(&text);
        }
    }
}
