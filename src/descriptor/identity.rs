//! Ice identities and proxy options, as far as descriptors need them.

use std::fmt;

/// The identity of an Ice object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) category: String,
}

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// More than one `/` that is not escaped; the text.
    SecondSlash(String),
    /// A broken escape sequence; the text.
    BadEscape(String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecondSlash(_) => f.write_str("a second '/' has to be written '\\/'"),
            Self::BadEscape(_) => f.write_str("a backslash that begins no escape sequence"),
        }
    }
}

impl IdentityError {
    pub(crate) fn icegrid(&self) -> String {
        match self {
            Self::SecondSlash(text) => format!("unescaped '/' in identity `{text}'"),
            Self::BadEscape(text) => format!("invalid identity `{text}'"),
        }
    }
}

impl Identity {
    /// Parses `name` or `category/name`; an empty name is not refused here.
    pub(crate) fn parse(text: &str) -> Result<Self, IdentityError> {
        let mut slash = None;
        let mut escaped = false;
        for (index, byte) in text.bytes().enumerate() {
            match byte {
                b'\\' => escaped = !escaped,
                b'/' if !escaped => {
                    if slash.replace(index).is_some() {
                        return Err(IdentityError::SecondSlash(text.to_owned()));
                    }
                }
                _ => escaped = false,
            }
        }
        let bad = || IdentityError::BadEscape(text.to_owned());
        let (category, name) = match slash {
            Some(index) => (&text[..index], &text[index + 1..]),
            None => ("", text),
        };
        Ok(Self {
            name: unescape(name).ok_or_else(bad)?,
            category: unescape(category).ok_or_else(bad)?,
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |text: &str| {
            text.chars().fold(String::new(), |mut out, c| {
                match c {
                    '\\' | '/' => out.extend(['\\', c]),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                    c => out.push(c),
                }
                out
            })
        };
        if !self.category.is_empty() {
            write!(f, "{}/", escape(&self.category))?;
        }
        f.write_str(&escape(&self.name))
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            c @ ('\\' | '/' | '\'' | '"' | '?') => out.push(c),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let digits: String = chars.by_ref().take(4).collect();
                out.push(char::from_u32(
                    u32::from_str_radix(&digits, 16)
                        .ok()
                        .filter(|_| digits.len() == 4)?,
                )?);
            }
            // Ice keeps the backslash of a sequence that it does not know.
            c => out.extend(['\\', c]),
        }
    }
    Some(out)
}

/// Proxy options: how a client talks to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyOptions {
    mode: char,
    secure: bool,
    facet: String,
    protocol: Option<String>,
    encoding: String,
}

/// Why a text is no proxy options; IceGrid's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyOptionsError(pub(crate) String);

impl ProxyOptions {
    /// Parses options such as `-t -e 1.0`; none means twoway and encoding 1.1.
    pub(crate) fn parse(text: &str) -> Result<Self, ProxyOptionsError> {
        let error = |what: String| Err(ProxyOptionsError(what));
        let mut out = Self {
            mode: 't',
            secure: false,
            facet: String::new(),
            protocol: None,
            encoding: "1.1".to_owned(),
        };
        let mut words = words(text).into_iter().peekable();
        while let Some(word) = words.next() {
            let option = word.strip_prefix('-').filter(|o| o.chars().count() == 1);
            let argument = |words: &mut std::iter::Peekable<std::vec::IntoIter<String>>| {
                words.next_if(|next| !next.starts_with('-'))
            };
            match option.and_then(|o| o.chars().next()) {
                Some(mode @ ('t' | 'o' | 'O' | 'd' | 'D')) => out.mode = mode,
                Some('s') => out.secure = true,
                Some(option @ ('f' | 'e' | 'p')) => {
                    let Some(value) = argument(&mut words) else {
                        return error(format!(
                            "no argument provided for -{option} option in `{text}'"
                        ));
                    };
                    match option {
                        'f' => out.facet = value,
                        _ if !is_version(&value) => {
                            let what = if option == 'e' {
                                "encoding"
                            } else {
                                "protocol"
                            };
                            return error(format!("invalid {what} version `{value}' in `{text}'"));
                        }
                        'e' => out.encoding = value,
                        _ => out.protocol = Some(value).filter(|v| v != "1.0"),
                    }
                }
                Some(_) | None => return error(format!("unknown option `{word}' in `{text}'")),
            }
        }
        Ok(out)
    }
}

impl fmt::Display for ProxyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.facet.is_empty() {
            write!(f, "-f {} ", quote(&self.facet))?;
        }
        write!(f, "-{}", self.mode)?;
        if self.secure {
            f.write_str(" -s")?;
        }
        if let Some(protocol) = &self.protocol {
            write!(f, " -p {protocol}")?;
        }
        write!(f, " -e {}", self.encoding)
    }
}

fn is_version(text: &str) -> bool {
    text.split_once('.').is_some_and(|(major, minor)| {
        [major, minor]
            .iter()
            .all(|part| !part.is_empty() && part.parse::<u8>().is_ok())
    })
}

/// Splits at blanks outside quotes.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.push(c),
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
            }
            None => word.push(c),
        }
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

/// Quotes a part of a stringified proxy if it has to be.
pub(crate) fn quote(text: &str) -> String {
    if text.contains([' ', '\t', '\n', '\r', ':', '@']) {
        format!("\"{text}\"")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip() {
        for text in [
            "name",
            "cat/name",
            "x/y\\/z",
            "a\\\\b",
            "sp ace/na me",
            "${cat}/one",
        ] {
            assert_eq!(Identity::parse(text).unwrap().to_string(), text);
        }
        assert!(Identity::parse("a/b/c").is_err());
        assert!(Identity::parse("a\\").is_err());
    }

    #[test]
    fn proxy_options_are_canonical() {
        assert_eq!(ProxyOptions::parse("").unwrap().to_string(), "-t -e 1.1");
        assert_eq!(
            ProxyOptions::parse(" -o ").unwrap().to_string(),
            "-o -e 1.1"
        );
        assert_eq!(
            ProxyOptions::parse("-e 1.0 -s -f x").unwrap().to_string(),
            "-f x -t -s -e 1.0"
        );
        assert_eq!(
            ProxyOptions::parse("-q").unwrap_err().0,
            "unknown option `-q' in `-q'"
        );
        assert!(ProxyOptions::parse("-e").is_err());
        assert!(ProxyOptions::parse("-e x").is_err());
    }
}
