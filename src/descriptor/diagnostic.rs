//! Faults of a descriptor: collecting them with their places, and showing them.
//!
//! Lines and columns count from 1; columns count characters. IceGrid's own wording and place of the same fault travel
//! along, so that both can be compared: its columns count from 0 and point at the element.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;

use super::text::Pos;

/// The most errors and warnings, each, that are kept; a file of rubbish must not fill the memory with messages.
const MAX_KEPT: usize = 200;

/// The widest piece of a source line that is shown, in characters; OMERO writes its files on a single line.
const MAX_EXCERPT: usize = 120;

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The descriptor is refused.
    Error,
    /// The descriptor is taken, but it hardly means what its author thinks.
    Warning,
}

/// The stage at which IceGrid sees a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// While the client reads the XML.
    Parse,
    /// When the registry expands the application.
    Registry,
    /// When a node loads a server.
    Node,
}

/// How IceGrid words a fault, where it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IceGridFault {
    /// The stage at which it is refused.
    pub stage: Stage,
    /// The whole reason, with IceGrid's line breaks and quotes.
    pub reason: String,
}

/// One fault, with all that is needed to show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file it is in; none for faults of the command line.
    pub file: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do, or the near miss.
    pub hint: Option<String>,
    /// Where it comes to bear, if that is elsewhere.
    pub note: Option<String>,
    /// The line itself, or the part of it around the column.
    pub source: Option<String>,
    /// Where the caret stands below `source`, in characters from 0.
    #[serde(skip)]
    pub caret: usize,
    /// IceGrid's words for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icegrid: Option<IceGridFault>,
}

impl fmt::Display for Diagnostic {
    /// Writes `file:line:col: error: message`, the line with a caret, note and hint; no final newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", printable(&file.display().to_string()))?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", printable(&self.message))?;
        if let Some(source) = &self.source {
            write!(f, "\n  | {source}\n  | {:caret$}^", "", caret = self.caret)?;
        }
        if let Some(note) = &self.note {
            write!(f, "\n  = note: {}", printable(note))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  = help: {}", printable(hint))?;
        }
        Ok(())
    }
}

/// Errors and warnings of one descriptor, in the order of files and lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Returns the errors.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|d| d.severity == Severity::Error)
    }

    /// Returns the warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|d| d.severity == Severity::Warning)
    }

    fn summary(&self) -> String {
        let mut errors = self.errors();
        let Some(first) = errors.next() else {
            return "the descriptor has no errors".to_owned();
        };
        match errors.count() {
            0 => first.to_string(),
            more => format!(
                "{first}\nand {more} more error{}",
                if more == 1 { "" } else { "s" }
            ),
        }
    }
}

/// A fault on its way into a [`Report`].
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    at: Pos,
    message: String,
    hint: Option<String>,
    note: Option<String>,
    icegrid: Option<(Stage, String, Pos)>,
    icegrid_file: Option<String>,
}

impl Fault {
    pub(crate) fn new(at: Pos, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
            hint: None,
            note: None,
            icegrid: None,
            icegrid_file: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds "did you mean" if one of the names is near.
    pub(crate) fn near<'n>(mut self, name: &str, names: impl IntoIterator<Item = &'n str>) -> Self {
        if let Some(near) = nearest(name, names) {
            self.message.push_str(&format!(", did you mean '{near}'?"));
        }
        self
    }

    pub(crate) fn note(mut self, note: Option<String>) -> Self {
        self.note = note;
        self
    }

    /// Adds IceGrid's words for a fault that it sees while reading the element at `element`.
    pub(crate) fn parse(mut self, element: Pos, reason: impl Into<String>) -> Self {
        self.icegrid = Some((Stage::Parse, reason.into(), element));
        self
    }

    /// As `parse`, for an element whose fault IceGrid reports with the name of another file.
    pub(crate) fn parse_in(mut self, file: &str, element: Pos, reason: String) -> Self {
        self.icegrid_file = Some(file.to_owned());
        self.parse(element, reason)
    }

    /// Adds IceGrid's words for a fault that its registry sees.
    pub(crate) fn registry(mut self, reason: impl Into<String>) -> Self {
        self.icegrid = Some((Stage::Registry, reason.into(), Pos::NONE));
        self
    }

    /// Adds IceGrid's words for a fault that its node sees.
    pub(crate) fn node(mut self, reason: impl Into<String>) -> Self {
        self.icegrid = Some((Stage::Node, reason.into(), Pos::NONE));
        self
    }
}

struct FileText {
    path: PathBuf,
    text: Rc<str>,
}

/// Collects faults and the files that they are in.
#[derive(Default)]
pub(crate) struct Report {
    files: Vec<FileText>,
    faults: Vec<(Severity, Fault)>,
    seen: HashMap<(Pos, String), usize>,
    errors: usize,
    warnings: usize,
}

impl Report {
    /// Adds a file whose text follows later, if it can be read at all; returns its index.
    pub(crate) fn add_file(&mut self, path: &Path) -> u32 {
        self.files.push(FileText {
            path: path.to_owned(),
            text: Rc::from(""),
        });
        u32::try_from(self.files.len() - 1).expect("the number of files is limited")
    }

    pub(crate) fn set_text(&mut self, file: u32, text: Rc<str>) {
        self.files[file as usize].text = text;
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|f| f.path.clone()).collect()
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    pub(crate) fn error(&mut self, fault: Fault) {
        self.add(Severity::Error, fault);
    }

    pub(crate) fn warn(&mut self, fault: Fault) {
        self.add(Severity::Warning, fault);
    }

    /// Adds a fault once per place and message: a template of a hundred instances has it once.
    fn add(&mut self, severity: Severity, fault: Fault) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if self.faults.len() >= 2 * MAX_KEPT || *count > MAX_KEPT * 8 {
            return;
        }
        if let Some(&first) = self.seen.get(&(fault.at, fault.message.clone())) {
            // An error is never hidden behind a warning of the same words.
            if severity == Severity::Error {
                self.faults[first].0 = Severity::Error;
            }
            return;
        }
        self.seen
            .insert((fault.at, fault.message.clone()), self.faults.len());
        self.faults.push((severity, fault));
    }

    /// Says where something is, for notes: `file:line:column`.
    pub(crate) fn place(&self, at: Pos) -> Option<String> {
        let file = self.files.get(at.file as usize)?;
        let place = locate(&file.text, at.offset as usize);
        Some(format!(
            "{}:{}:{}",
            file.path.display(),
            place.line,
            place.column + 1
        ))
    }

    /// Returns the file and the line of a place, for IceGrid's messages.
    pub(crate) fn file_and_line(&self, at: Pos) -> (String, usize) {
        self.files
            .get(at.file as usize)
            .map_or((String::new(), 0), |file| {
                (
                    file.path.display().to_string(),
                    locate(&file.text, at.offset as usize).line,
                )
            })
    }

    /// Turns what was collected into diagnostics, in the order of files and places.
    pub(crate) fn finish(self) -> Diagnostics {
        let Self {
            files,
            mut faults,
            errors,
            ..
        } = self;
        faults.sort_by_key(|(_, fault)| fault.at);
        let kept = faults.iter().filter(|(s, _)| *s == Severity::Error).count();
        let mut shown: Vec<Diagnostic> = Vec::new();
        let mut errors_shown = 0;
        for (severity, fault) in faults {
            if severity == Severity::Error {
                errors_shown += 1;
                if errors_shown > MAX_KEPT {
                    continue;
                }
            }
            shown.push(diagnostic(&files, severity, fault));
        }
        if kept > MAX_KEPT || errors > MAX_KEPT * 8 {
            shown.push(diagnostic(
                &files,
                Severity::Error,
                Fault::new(
                    Pos::NONE,
                    format!("too many errors; only the first {MAX_KEPT} are shown"),
                ),
            ));
        }
        Diagnostics(shown)
    }
}

fn diagnostic(files: &[FileText], severity: Severity, fault: Fault) -> Diagnostic {
    let Fault {
        at,
        message,
        hint,
        note,
        icegrid,
        icegrid_file,
    } = fault;
    let file = files.get(at.file as usize);
    let place = file
        .filter(|f| !f.text.is_empty())
        .map(|f| locate(&f.text, at.offset as usize));
    let icegrid = icegrid.map(|(stage, reason, element)| {
        let reason = match files.get(element.file as usize) {
            Some(file) if stage == Stage::Parse => {
                let place = locate(&file.text, element.offset as usize);
                let path = icegrid_file.unwrap_or_else(|| file.path.display().to_string());
                format!(
                    "error in <{path}> descriptor, line {}, column {}:\n{reason}",
                    place.line, place.column
                )
            }
            _ => reason,
        };
        IceGridFault { stage, reason }
    });
    let (source, caret) = match &place {
        Some(place) => {
            let (source, caret) = excerpt(place.text, place.column);
            (Some(source), caret)
        }
        None => (None, 0),
    };
    Diagnostic {
        severity,
        file: file.map(|f| f.path.clone()),
        line: place.as_ref().map(|p| p.line),
        column: place.as_ref().map(|p| p.column + 1),
        message,
        hint,
        note,
        source,
        caret,
        icegrid,
    }
}

struct Place<'t> {
    /// From 1.
    line: usize,
    /// In characters, from 0.
    column: usize,
    text: &'t str,
}

fn locate(text: &str, offset: usize) -> Place<'_> {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    let end = text[offset..].find('\n').map_or(text.len(), |n| offset + n);
    Place {
        line: before.bytes().filter(|b| *b == b'\n').count() + 1,
        column: text[start..offset].chars().count(),
        text: text[start..end].trim_end_matches('\r'),
    }
}

/// Cuts a long line around the column; returns the piece and where the column is in it.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let clean = redact(line);
    let total = clean.chars().count();
    let show = |c: char| if c.is_control() { ' ' } else { c };
    if total <= MAX_EXCERPT {
        let indent = clean
            .chars()
            .take_while(|c| c.is_whitespace())
            .count()
            .min(column);
        return (
            clean.chars().skip(indent).map(show).collect(),
            column - indent,
        );
    }
    let start = column.saturating_sub(MAX_EXCERPT / 3);
    let mut piece: String = clean
        .chars()
        .skip(start)
        .take(MAX_EXCERPT)
        .map(show)
        .collect();
    let mut caret = column - start;
    if start > 0 {
        piece.insert(0, '…');
        caret += 1;
    }
    if start + MAX_EXCERPT < total {
        piece.push('…');
    }
    (piece, caret)
}

/// Returns whether a property of this name holds a secret that no message may show.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token"]
        .iter()
        .any(|word| name.contains(word))
}

/// Overwrites the values of properties that hold a secret, keeping every column.
fn redact(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(found) = rest.find("name=") {
        let (before, after) = rest.split_at(found + "name=".len());
        out.push_str(before);
        rest = after;
        let Some((name, quoted)) = quoted(rest) else {
            continue;
        };
        out.push_str(&rest[..quoted]);
        rest = &rest[quoted..];
        if !is_secret(name) {
            continue;
        }
        let tag = rest.find('<').unwrap_or(rest.len());
        if let Some(value) = rest[..tag].find("value=") {
            let (before, after) = rest.split_at(value + "value=".len());
            out.push_str(before);
            rest = after;
            let hidden = quoted_len(rest);
            out.extend(
                rest[..hidden]
                    .chars()
                    .map(|c| if c == '"' || c == '\'' { c } else { '*' }),
            );
            rest = &rest[hidden..];
        }
    }
    out.push_str(rest);
    out
}

fn quoted(text: &str) -> Option<(&str, usize)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let end = text[1..].find(quote)?;
    Some((&text[1..1 + end], end + 2))
}

/// Returns how far a quoted value reaches, to the end of the line if it is not closed there.
fn quoted_len(text: &str) -> usize {
    quoted(text).map_or(text.len(), |(_, len)| len)
}

/// Makes control characters visible: a descriptor must not steer the terminal of who checks it.
fn printable(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            out
        })
}

/// Returns the name that is nearest to a misspelt one, if any is near.
pub(crate) fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Very long names are no typing errors, and comparing them is quadratic.
    const MAX_LEN: usize = 100;
    const MAX_NAMES: usize = 5000;
    if name.is_empty() || name.len() > MAX_LEN {
        return None;
    }
    let lower = name.to_lowercase();
    names
        .into_iter()
        .take(MAX_NAMES)
        .filter(|candidate| {
            !candidate.is_empty() && candidate.len() <= MAX_LEN && *candidate != name
        })
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= (name.chars().count().max(candidate.chars().count()) / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_from_one_and_in_characters() {
        let mut report = Report::default();
        let file = report.add_file(Path::new("a.xml"));
        report.set_text(file, "<a>\n  ü<b/>\n</a>\n".into());
        report.error(Fault::new(Pos { file, offset: 8 }, "bad"));
        let shown = report.finish().0[0].to_string();
        assert_eq!(shown, "a.xml:2:4: error: bad\n  | ü<b/>\n  |  ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let line = format!("{}HERE{}", "a".repeat(5000), "b".repeat(5000));
        let (piece, caret) = excerpt(&line, 5000);
        assert!(piece.chars().count() <= MAX_EXCERPT + 2);
        assert_eq!(
            piece.chars().skip(caret).take(4).collect::<String>(),
            "HERE"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let line =
            r#"<property name="omero.db.pass" value="geheim"/><property name="x" value="seen"/>"#;
        let shown = redact(line);
        assert_eq!(shown.len(), line.len());
        assert!(
            !shown.contains("geheim") && shown.contains("seen"),
            "{shown}"
        );
        assert!(!redact(r#"<property name="a.password" value="unclosed"#).contains("unclosed"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut report = Report::default();
        report.error(Fault::new(Pos::NONE, "unknown target '\u{1b}[31m'"));
        assert!(!report.finish().0[0].to_string().contains('\u{1b}'));
    }

    #[test]
    fn the_near_miss_is_near() {
        let names = ["BlitzTemplate", "ProcessorTemplate"];
        assert_eq!(nearest("BlitzTemplat", names), Some("BlitzTemplate"));
        assert_eq!(nearest("blitztemplate", names), Some("BlitzTemplate"));
        assert_eq!(nearest("Quite", names), None);
        assert_eq!(nearest("ab", ["cd"]), None);
    }

    #[test]
    fn a_fault_of_a_template_is_said_once() {
        let mut report = Report::default();
        for _ in 0..1000 {
            report.error(Fault::new(Pos::NONE, "same"));
        }
        assert_eq!(report.finish().0.len(), 1);
    }
}
