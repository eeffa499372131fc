//! XML → definition: files, includes, targets and limits. What each element does is in `elements`.
//!
//! Like IceGrid's parser this one tracks what is open rather than who is whose parent: most elements may stand anywhere
//! below the one that they belong to. A fault ends the element that has it, not the reading.

mod attributes;
mod elements;
mod ends;
mod open;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use self::open::Open;
use self::targets::Targets;
use super::application::Application;
use super::diagnostic::{Fault, Report};
use super::source::{MAX_FILE, MAX_FILES, Source};
use super::text::{Pos, Text};
use super::variables::is_reserved;
use super::xml::{self, Element, Event, Reader};
use super::{DefaultTemplates, NO_DEFAULT_TEMPLATES};

/// How deep files may include files.
const MAX_INCLUDES: usize = 32;

/// The most files read for one descriptor, each inclusion counted.
const MAX_READS: usize = 1000;

/// The most elements of one descriptor.
const MAX_ELEMENTS: usize = 2_000_000;

/// What is read, and how.
pub(super) struct Options<'a> {
    pub(super) file: &'a Path,
    pub(super) targets: &'a [String],
    pub(super) overrides: &'a [(String, String)],
    pub(super) default_templates: Option<&'a DefaultTemplates>,
    pub(super) strict: bool,
}

/// What reading gave.
pub(super) struct Parsed {
    /// The definition, as far as it could be read.
    pub(super) application: Option<Application>,
    /// What is known to be missing from it, so that nobody reports what follows from that.
    pub(super) gaps: Gaps,
}

/// What a faulty part of a descriptor may have defined.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Anything: a file or the rest of one is missing.
    everything: bool,
    /// Names and ids of elements that were skipped for a fault.
    names: BTreeSet<String>,
}

impl Gaps {
    /// Returns whether something of this name may be missing because of a fault that was reported.
    pub(super) fn may_explain(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }
}

/// Reads a descriptor with all its includes.
pub(super) fn parse(source: &dyn Source, options: &Options<'_>, report: &mut Report) -> Parsed {
    let mut budget = ReadBudget::default();
    let mut parser = Parser::new(source, options, report, &mut budget);
    parser
        .targets
        .select(options.targets.iter().map(String::as_str), Pos::NONE);
    parser.file(options.file, Pos::NONE);
    let Parser {
        targets,
        open,
        gaps,
        ..
    } = parser;
    targets.finish(report);
    Parsed {
        application: open.application,
        gaps,
    }
}

/// Reads an application whose templates and property sets are the defaults of others, and nothing else of it.
pub(super) fn defaults(source: &dyn Source, file: &Path, report: &mut Report) -> Application {
    parse_defaults(source, file, report, &mut ReadBudget::default())
}

fn parse_defaults(
    source: &dyn Source,
    file: &Path,
    report: &mut Report,
    budget: &mut ReadBudget,
) -> Application {
    let options = Options {
        file,
        targets: &[],
        overrides: &[],
        default_templates: None,
        strict: false,
    };
    let mut parser = Parser::new(source, &options, report, budget);
    parser.is_default_templates = true;
    parser.file(file, Pos::NONE);
    let read = parser.open.application.unwrap_or_default();
    Application {
        server_templates: read.server_templates,
        service_templates: read.service_templates,
        property_sets: read.property_sets,
        ..Application::default()
    }
}

/// Counts what was read, over all includes.
#[derive(Default)]
struct ReadBudget {
    bytes: u64,
    reads: usize,
    elements: usize,
}

/// Content that is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    /// Of a target that is not selected.
    Target,
    /// Of an element with a fault.
    Faulty,
}

/// An open element.
struct Frame {
    name: String,
    at: Pos,
    closes: Closes,
    /// Character data so far.
    text: String,
}

/// What the end of an element does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closes {
    Nothing,
    Root,
    Application,
    Node,
    Server,
    ServerInstance,
    ServerTemplate,
    ServiceTemplate,
    Service,
    ServiceInstance,
    Adapter,
    ReplicaGroup,
    DbEnv,
    Distribution,
    Properties,
    Reference,
    Option,
    Env,
    Directory,
    Description,
}

impl Closes {
    fn takes_text(self) -> bool {
        matches!(
            self,
            Self::Option | Self::Env | Self::Directory | Self::Description
        )
    }
}

struct Parser<'p> {
    source: &'p dyn Source,
    options: &'p Options<'p>,
    report: &'p mut Report,
    budget: &'p mut ReadBudget,
    overrides: BTreeMap<String, String>,
    is_default_templates: bool,
    targets: Targets,
    /// The files being read, the innermost last.
    chain: Vec<PathBuf>,
    frames: Vec<Frame>,
    open: Open,
    gaps: Gaps,
}

impl<'p> Parser<'p> {
    fn new(
        source: &'p dyn Source,
        options: &'p Options<'p>,
        report: &'p mut Report,
        budget: &'p mut ReadBudget,
    ) -> Self {
        Self {
            source,
            options,
            report,
            budget,
            overrides: options.overrides.iter().cloned().collect(),
            is_default_templates: false,
            targets: Targets::default(),
            chain: Vec::new(),
            frames: Vec::new(),
            open: Open::default(),
            gaps: Gaps::default(),
        }
    }

    /// Reads one file in the state of the element that includes it, if one does.
    fn file(&mut self, path: &Path, include: Pos) {
        let Some((file, text)) = self.load(path, include) else {
            self.gaps.everything = true;
            return;
        };
        self.chain.push(normalise(path));
        let base = self.frames.len();
        let mut reader = Reader::new(file, &text);
        if let Err(fault) = self.events(&mut reader, base) {
            self.report.error(*fault);
            self.abandon(base);
            self.gaps.everything = true;
        }
        self.chain.pop();
    }

    fn load(&mut self, path: &Path, include: Pos) -> Option<(u32, Rc<str>)> {
        self.budget.reads += 1;
        if self.budget.reads > MAX_READS {
            self.report.error(Fault::new(
                include,
                format!("more than {MAX_READS} files are included"),
            ));
            return None;
        }
        let shown = path.display().to_string();
        let bytes = match self.source.read(path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = format!("unable to open file `{shown}'");
                let fault = Fault::new(
                    include,
                    format!("cannot read '{shown}': {}", describe_io(&error)),
                );
                let fault = if include.is_some() {
                    // IceGrid names the file that is missing, but the line of who includes it.
                    fault.parse_in(&shown, include, reason)
                } else {
                    fault.parse(Pos::NONE, reason)
                };
                self.report.error(fault);
                return None;
            }
        };
        let size = bytes.len() as u64;
        self.budget.bytes += size;
        if size > MAX_FILE || self.budget.bytes > MAX_FILES {
            let message = if size > MAX_FILE {
                format!("'{shown}' is larger than {} MiB", MAX_FILE >> 20)
            } else {
                format!(
                    "the files of the descriptor are larger than {} MiB in all",
                    MAX_FILES >> 20
                )
            };
            self.report.error(Fault::new(include, message));
            return None;
        }
        let file = self.report.add_file(path);
        match xml::decode(bytes) {
            Ok(text) => {
                let text: Rc<str> = text.into();
                self.report.set_text(file, Rc::clone(&text));
                Some((file, text))
            }
            Err(message) => {
                self.report
                    .error(Fault::new(Pos { file, offset: 0 }, message));
                None
            }
        }
    }

    fn events(&mut self, reader: &mut Reader<'_>, base: usize) -> Result<(), Box<Fault>> {
        let mut skip: Option<(Skip, usize)> = None;
        loop {
            match reader.next().map_err(|error| Box::new(xml_fault(error)))? {
                Event::Eof => return Ok(()),
                Event::Start(element) => {
                    self.budget.elements += 1;
                    if self.budget.elements > MAX_ELEMENTS {
                        return Err(Box::new(Fault::new(
                            element.at,
                            format!("more than {MAX_ELEMENTS} elements"),
                        )));
                    }
                    match &mut skip {
                        Some((why, depth)) => {
                            *depth += 1;
                            self.skipped(*why, &element);
                        }
                        None => {
                            self.check_text(Some(element.at));
                            match self.start(&element, self.frames.len() == base) {
                                Ok(closes) => self.frames.push(Frame {
                                    name: element.name,
                                    at: element.at,
                                    closes,
                                    text: String::new(),
                                }),
                                // What is no descriptor at all is not read further.
                                Err(_) if self.frames.len() == base => return Ok(()),
                                Err(why) => {
                                    if why == Skip::Faulty {
                                        self.note_gap(&element);
                                    }
                                    skip = Some((why, 0));
                                }
                            }
                        }
                    }
                }
                Event::Text(text) => {
                    if skip.is_none()
                        && let Some(frame) = self.frames.last_mut()
                    {
                        frame.text.push_str(&text);
                    }
                }
                Event::End { at } => match &mut skip {
                    Some((_, 0)) => skip = None,
                    Some((_, depth)) => *depth -= 1,
                    None => {
                        self.check_text(Some(at));
                        let frame = self
                            .frames
                            .pop()
                            .expect("an end tag that is reported closes an open element");
                        self.end(frame, at);
                    }
                },
            }
        }
    }

    /// Reports text where only elements may be, as soon as the next tag is met.
    fn check_text(&mut self, tag: Option<Pos>) {
        let Some(frame) = self.frames.last_mut() else {
            return;
        };
        if frame.closes.takes_text() || frame.text.trim().is_empty() {
            return;
        }
        let shown: String = frame.text.trim().chars().take(20).collect();
        frame.text.clear();
        let at = tag.unwrap_or(frame.at);
        let fault = Fault::new(at, format!("text in <{}>: '{shown}'", frame.name))
            .hint("only <description>, <option>, <env> and <directory> have text")
            .parse(
                at,
                format!("invalid element value for element `{}'", frame.name),
            );
        self.report.error(fault);
    }

    /// Looks at an element in a part that is passed over.
    fn skipped(&mut self, why: Skip, element: &Element) {
        match why {
            Skip::Faulty => self.note_gap(element),
            Skip::Target => {
                if element.name != "target" {
                    return;
                }
                if let Some(name) = element.attributes.iter().find(|a| a.name == "name") {
                    self.targets.see(&name.value);
                }
                if self.options.strict {
                    let (file, line) = self.report.file_and_line(element.at);
                    let names: BTreeSet<_> =
                        element.attributes.iter().map(|a| a.name.as_str()).collect();
                    let names = names.into_iter().collect::<Vec<_>>().join(" ");
                    let reason =
                        format!("unknown attributes in <{file}> descriptor, line {line}:\n{names}");
                    self.report.error(
                        Fault::new(
                            element.at,
                            "a target in a target that is not selected, which IceGrid refuses",
                        )
                        .hint("only refused with --strict")
                        .parse(element.at, reason),
                    );
                }
            }
        }
    }

    /// Remembers what a skipped element would have defined.
    fn note_gap(&mut self, element: &Element) {
        for attribute in &element.attributes {
            self.gaps.names.insert(attribute.value.clone());
        }
    }

    /// Selects a target or passes its content over.
    fn target(&mut self, name: &Text) -> Result<Closes, Skip> {
        self.targets.see(name.as_str());
        if self
            .targets
            .is_selected(name.as_str(), &self.open.qualified_name())
        {
            Ok(Closes::Nothing)
        } else {
            Err(Skip::Target)
        }
    }

    fn include(&mut self, file: &Text, targets: &Text, element: Pos) {
        let folder = self
            .chain
            .last()
            .and_then(|f| f.parent())
            .unwrap_or(Path::new(""));
        let path = folder.join(file.as_str());
        let same = normalise(&path);
        if let Some(first) = self.chain.iter().position(|f| *f == same) {
            let chain: Vec<_> = self.chain[first..]
                .iter()
                .chain([&same])
                .map(|f| f.display().to_string())
                .collect();
            self.report.error(Fault::new(
                file.at(),
                format!("the file includes itself: {}", chain.join(" → ")),
            ));
            return;
        }
        if self.chain.len() >= MAX_INCLUDES {
            self.report.error(Fault::new(
                file.at(),
                format!("files include files more than {MAX_INCLUDES} deep"),
            ));
            self.gaps.everything = true;
            return;
        }
        let before = self
            .targets
            .select(targets.as_str().split_whitespace(), targets.at());
        self.file(&path, element);
        self.targets.deselect(before);
    }

    /// Begins the application, with the default templates if it wants them.
    fn begin_application(&mut self, name: &Text, import: bool, at: Pos) {
        let mut application = Application {
            name: name.as_str().to_owned(),
            ..Application::default()
        };
        application.at.0 = at;
        application.variables = self
            .overrides
            .iter()
            .map(|(name, value)| (name.clone(), Text::new(value.clone())))
            .collect();
        for reserved in self.overrides.keys().filter(|n| is_reserved(n)) {
            self.report.error(
                Fault::new(
                    Pos::NONE,
                    format!("'{reserved}' is a reserved name; a variable cannot have it"),
                )
                .registry(format!(
                    "application `{name}':\ninvalid variable `{reserved}': reserved variable name"
                )),
            );
        }
        if import && !self.is_default_templates {
            match self.options.default_templates {
                Some(defaults) => {
                    let defaults = match defaults {
                        DefaultTemplates::Given(application) => (**application).clone(),
                        DefaultTemplates::File(file) => {
                            parse_defaults(self.source, file, self.report, self.budget)
                        }
                    };
                    application.server_templates = defaults.server_templates;
                    application.service_templates = defaults.service_templates;
                    application.property_sets = defaults.property_sets;
                }
                None => {
                    self.gaps.everything = true;
                    self.report.error(
                        Fault::new(
                            at,
                            "the application wants default templates, and none are given",
                        )
                        .hint("name their file: --default-templates FILE")
                        .registry(NO_DEFAULT_TEMPLATES),
                    );
                }
            }
        }
        self.open.application = Some(application);
        self.open.in_application = true;
    }

    /// Drops what was open inside a file that could not be read to its end.
    fn abandon(&mut self, base: usize) {
        while self.frames.len() > base {
            if let Some(frame) = self.frames.pop() {
                self.open.abandon(frame.closes);
            }
        }
    }
}

fn xml_fault(error: xml::XmlError) -> Fault {
    let fault = Fault::new(error.at, error.message);
    let fault = match error.hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    };
    match error.expat {
        Some(expat) => fault.parse(error.at, expat),
        None => fault,
    }
}

fn describe_io(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Simplifies a path without looking at the disk, so that the same file has the same name in a chain of includes.
fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
