//! What icegridadmin prints: lines, and blocks in braces.

use std::fmt::Write as _;

/// Text in blocks. Every line begins with its line break, but for the very first.
#[derive(Debug, Default)]
pub(super) struct Output {
    text: String,
    depth: usize,
}

impl Output {
    /// Begins a line.
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.extend(std::iter::repeat_n(' ', self.depth * 4));
        self.text.push_str(text.as_ref());
    }

    /// Writes a name and its value in quotation marks.
    pub(super) fn value(&mut self, name: &str, value: &str) {
        self.line(format!("{name} = `{value}'"));
    }

    /// Writes a name and its value, unless that is empty.
    pub(super) fn value_if(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.value(name, value);
        }
    }

    /// Writes a block in braces below a line.
    pub(super) fn block(&mut self, title: impl AsRef<str>, fill: impl FnOnce(&mut Self)) {
        self.line(title);
        self.line("{");
        self.depth += 1;
        fill(self);
        self.depth -= 1;
        self.line("}");
    }

    /// Continues the line.
    pub(super) fn more(&mut self, text: &str) {
        // Writing into a string does not fail.
        let _ = self.text.write_str(text);
    }

    /// Returns the text, with the end of its last line.
    pub(super) fn end(mut self) -> String {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text
    }
}

/// Writes a time as icegridadmin does: the date of the C locale, the time of day with milliseconds, where one lives.
pub(super) fn time(milliseconds: i64) -> String {
    let Ok(at) = jiff::Timestamp::from_millisecond(milliseconds) else {
        return milliseconds.to_string();
    };
    at.to_zoned_datetime(jiff::tz::TimeZone::system())
        .strftime("%m/%d/%y %H:%M:%S.%3f")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_indented() {
        let mut out = Output::default();
        out.block("server `a'", |out| {
            out.value("exe", "b");
            out.value_if("pwd", "");
            out.block("description", |out| out.line("c"));
        });
        let expected =
            "server `a'\n{\n    exe = `b'\n    description\n    {\n        c\n    }\n}\n";
        assert_eq!(out.end(), expected);
        assert_eq!(Output::default().end(), "");
    }
}
