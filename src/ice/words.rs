//! The written forms: words, quotation marks, backslashes (`ice-protocol.md` §13).

use std::fmt::Write as _;

/// Text that is no written form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct ParseError {
    /// The byte at which it goes wrong.
    pub at: usize,
    /// What is wrong.
    pub problem: String,
}

impl ParseError {
    pub(super) fn new(at: usize, problem: impl Into<String>) -> Self {
        Self {
            at,
            problem: problem.into(),
        }
    }

    /// Moves the place: the text was a part of another, from this byte on.
    pub(super) fn after(mut self, begin: usize) -> Self {
        self.at += begin;
        self
    }
}

/// Protects a backslash, quotation marks, control characters, and the `special` ones.
pub(super) fn escape(text: &str, special: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if special.contains(c) => out.extend(['\\', c]),
            c if c.is_control() => {
                // Writing into a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Takes the protection away: letters as above, up to three octal digits, `\xHH`, `\uHHHH`, `\UHHHHHHHH`, and any other character as
/// itself. Octal digits and `\x` are bytes, which together have to be UTF-8.
pub(super) fn unescape(text: &str) -> Result<String, ParseError> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '\\' {
            push(&mut out, c);
            continue;
        }
        let Some((_, c)) = chars.next() else {
            return Err(ParseError::new(at, "a backslash protects nothing"));
        };
        let mut digits = |radix: u32, most: usize, first: Option<char>| -> Option<u32> {
            let mut value = first.map_or(Some(0), |c| c.to_digit(radix))?;
            let mut count = usize::from(first.is_some());
            while count < most
                && let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(radix))
            {
                value = value.checked_mul(radix)?.checked_add(digit)?;
                chars.next();
                count += 1;
            }
            (count > 0).then_some(value)
        };
        let wrong = |what: &str| ParseError::new(at, format!("{what} is no character"));
        match c {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            '0'..='7' => {
                let value = digits(8, 3, Some(c)).and_then(|value| u8::try_from(value).ok());
                out.push(value.ok_or_else(|| wrong("a number of more than 377"))?);
            }
            'x' => {
                let value = digits(16, 2, None).and_then(|value| u8::try_from(value).ok());
                out.push(value.ok_or_else(|| wrong("\\x without digits"))?);
            }
            'u' | 'U' => {
                let most = if c == 'u' { 4 } else { 8 };
                let value = digits(16, most, None).and_then(char::from_u32);
                push(&mut out, value.ok_or_else(|| wrong("this code point"))?);
            }
            c => push(&mut out, c),
        }
    }
    String::from_utf8(out).map_err(|_| ParseError::new(0, "the bytes are not UTF-8"))
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// What separates words.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Returns text in the form in which it is read as one word, between quotation marks if it has to be. There is none for text that has both
/// kinds of them, and blanks too.
pub(super) fn as_word(text: &str, stops: &'static str) -> String {
    let forms = [text.to_owned(), format!("\"{text}\""), format!("'{text}'")];
    let comes_back = |form: &String| {
        let mut words = Words::new(form, stops);
        let first = words.next();
        let same = matches!(first, Ok(Some(word)) if !word.stops && word.text == text);
        same && matches!(words.next(), Ok(None))
    };
    let found = forms.iter().find(|form| comes_back(form));
    found.unwrap_or(&forms[1]).clone()
}

/// A word, and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<'t> {
    pub(super) text: &'t str,
    pub(super) at: usize,
    /// It is one of the characters that end words.
    pub(super) stops: bool,
}

impl Word<'_> {
    /// Returns whether this is that character, and not the same between quotation marks.
    pub(super) fn is(&self, stop: &str) -> bool {
        self.stops && self.text == stop
    }
}

/// Takes words off the front of text: blanks separate, quotation marks of either kind hold together.
#[derive(Debug, Clone)]
pub(super) struct Words<'t> {
    text: &'t str,
    at: usize,
    /// Characters that end a word and are words themselves.
    stops: &'static str,
}

impl<'t> Words<'t> {
    pub(super) fn new(text: &'t str, stops: &'static str) -> Self {
        Self { text, at: 0, stops }
    }

    /// Returns where the next word begins.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    pub(super) fn next(&mut self) -> Result<Option<Word<'t>>, ParseError> {
        let rest = &self.text[self.at..];
        let blanks = rest.len() - rest.trim_start_matches(BLANKS).len();
        self.at += blanks;
        let rest = &rest[blanks..];
        let Some(first) = rest.chars().next() else {
            return Ok(None);
        };
        let at = self.at;
        if self.stops.contains(first) {
            self.at += first.len_utf8();
            return Ok(Some(Word {
                text: &rest[..first.len_utf8()],
                at,
                stops: true,
            }));
        }
        if first == '"' || first == '\'' {
            let mut protected = false;
            let end = rest.char_indices().skip(1).find(|&(_, c)| {
                let ends = !protected && c == first;
                protected = !protected && c == '\\';
                ends
            });
            let Some((end, _)) = end else {
                return Err(ParseError::new(at, "a quotation mark is not closed"));
            };
            self.at += end + 1;
            return Ok(Some(Word {
                text: &rest[1..end],
                at: at + 1,
                stops: false,
            }));
        }
        let end = rest.find(|c| BLANKS.contains(&c) || self.stops.contains(c));
        let end = end.unwrap_or(rest.len());
        self.at += end;
        Ok(Some(Word {
            text: &rest[..end],
            at,
            stops: false,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_would_be_others() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("::1", "\"::1\""),
            ("\"it\"", "'\"it\"'"),
            ("it's", "it's"),
            ("form\u{c}feed", "form\u{c}feed"),
        ] {
            assert_eq!(as_word(text, ":@"), expected);
            let mut words = Words::new(expected, ":@");
            assert_eq!(words.next().unwrap().unwrap().text, text);
            assert_eq!(words.next(), Ok(None));
        }
    }

    #[test]
    fn octal_digits_and_code_points_are_understood() {
        for (text, expected) in [
            ("\\302\\265m", "µm"),
            ("\\xc2\\xb5", "µ"),
            ("\\u00b5\\U0001F52C", "µ🔬"),
            ("\\a\\b\\f\\n\\r\\t\\v", "\u{7}\u{8}\u{c}\n\r\t\u{b}"),
            ("\\/\\'\\\"\\\\", "/'\"\\"),
            ("\\1x", "\u{1}x"),
        ] {
            assert_eq!(unescape(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["\\", "\\777", "\\xg", "\\ud800", "\\377", "\\u"] {
            assert!(unescape(text).is_err(), "{text}");
        }
    }
}
