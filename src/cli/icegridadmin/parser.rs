//! The language of icegridadmin: words, quotation marks, comments; a line or a semicolon ends a command.

/// A word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Whether it, or a part of it, was in quotation marks: it is then never the name of a command.
    pub(super) quoted: bool,
}

/// A command: its words, at least one.
pub(super) type Command = Vec<Word>;

/// A quotation or a comment that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("EOF in {0}")]
pub(super) struct Unended(&'static str);

/// Reads commands. Those before what does not end are there in either case.
pub(super) fn parse(text: &str) -> (Vec<Command>, Option<Unended>) {
    let mut commands = Vec::new();
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    let mut unended = None;
    loop {
        match chars.peek() {
            None => break,
            Some('\n' | ';') => {
                chars.next();
                if !words.is_empty() {
                    commands.push(std::mem::take(&mut words));
                }
            }
            Some(c) if c.is_whitespace() => {
                chars.next();
            }
            Some('/') => {
                let mut ahead = chars.clone();
                ahead.next();
                match ahead.peek() {
                    Some('/') => while chars.next_if(|c| *c != '\n').is_some() {},
                    Some('*') => {
                        ahead.next();
                        let mut last = ' ';
                        let end = ahead.any(|c| std::mem::replace(&mut last, c) == '*' && c == '/');
                        chars = ahead;
                        if !end {
                            unended = Some(Unended("comment"));
                            words.clear();
                        }
                    }
                    _ => word(&mut chars, &mut words, &mut unended),
                }
            }
            Some(_) => word(&mut chars, &mut words, &mut unended),
        }
    }
    if unended.is_none() && !words.is_empty() {
        commands.push(words);
    }
    (commands, unended)
}

/// Reads a word, the parts of which may be in quotation marks.
fn word(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    words: &mut Vec<Word>,
    unended: &mut Option<Unended>,
) {
    let mut text = String::new();
    let mut quoted = false;
    while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != ';') {
        match c {
            // A line that goes on in the next one.
            '\\' if chars.peek() == Some(&'\n') => {
                chars.next();
                break;
            }
            '\'' | '"' => {
                quoted = true;
                if !quotation(c, chars, &mut text) {
                    *unended = Some(Unended("string"));
                }
            }
            c => text.push(c),
        }
    }
    if quoted || !text.is_empty() {
        words.push(Word { text, quoted });
    }
}

/// Reads up to the closing quotation mark; returns whether there is one. Escapes mean something between double ones only.
fn quotation(
    mark: char,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    text: &mut String,
) -> bool {
    while let Some(c) = chars.next() {
        if c == mark {
            return true;
        }
        if c != '\\' || mark == '\'' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some(c @ ('"' | '\\')) => text.push(c),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('v') => text.push('\u{b}'),
            Some('f') => text.push('\u{c}'),
            Some(c) => text.extend(['\\', c]),
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Vec<String>> {
        let (commands, unended) = parse(text);
        assert_eq!(unended, None, "{text}");
        let words = |command: Command| command.into_iter().map(|word| word.text).collect();
        commands.into_iter().map(words).collect()
    }

    #[test]
    fn commands_are_words_up_to_a_semicolon_or_the_end_of_a_line() {
        let table: &[(&str, &[&[&str]])] = &[
            ("", &[]),
            (" ; ;\n ", &[]),
            ("server list", &[&["server", "list"]]),
            ("a;b c\nd", &[&["a"], &["b", "c"], &["d"]]),
            (
                "object add 'a/b:tcp -h x' ::T",
                &[&["object", "add", "a/b:tcp -h x", "::T"]],
            ),
            ("a \"\" ''", &[&["a", "", ""]]),
            ("a pl'ai'n", &[&["a", "plain"]]),
            ("a pl\\ain 'x\\y'", &[&["a", "pl\\ain", "x\\y"]]),
            (r#"a "q\"\\\x41\t;" b"#, &[&["a", "q\"\\\\x41\t;", "b"]]),
            ("a // b; c\nd", &[&["a"], &["d"]]),
            ("a // b", &[&["a"]]),
            ("a /* b; \n c **/ d", &[&["a", "d"]]),
            ("a /b //c", &[&["a", "/b"]]),
            ("a /etc/x/y http://z", &[&["a", "/etc/x/y", "http://z"]]),
            ("a \\\n b", &[&["a", "b"]]),
            ("a # b", &[&["a", "#", "b"]]),
        ];
        for (text, expected) in table {
            assert_eq!(&read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_does_not_end_is_said_after_what_stands_before_it() {
        for text in ["a; b 'c", "a; b \"c", "a; b \"c\\", "a; b /* c *"] {
            let (commands, unended) = parse(text);
            assert_eq!(commands.len(), 1, "{text}");
            assert!(unended.is_some(), "{text}");
        }
    }

    #[test]
    fn quoted_words_are_known() {
        let (commands, _) = parse("server 'state' plain");
        let quoted: Vec<bool> = commands[0].iter().map(|word| word.quoted).collect();
        assert_eq!(quoted, [false, true, false]);
    }
}
