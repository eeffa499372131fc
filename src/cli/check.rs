//! `omero-grid check`: every fault of a descriptor, with its place.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::context::Format;
use super::failure::Failure;
use crate::config::{SiteFiles, site};
use crate::descriptor::{
    DefaultTemplates, Deployment, Diagnostic, Diagnostics, Loaded, Others, Request, load,
};

/// Why `check` or `describe` did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The descriptor has errors; they have been shown.
    #[error("the descriptor is refused")]
    Refused,
    /// The node or server named is not in the application.
    #[error("{0}")]
    NotThere(String),
    /// An argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl CliError {
    /// Returns the exit code (DESIGN.md §5).
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::NotThere(_) => 3,
            Self::Refused => 4,
        }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        match &error {
            CliError::Refused => Self::shown(error.code()),
            _ => Self::new(error.code(), error.to_string()),
        }
    }
}

/// A descriptor on the command line.
#[derive(Debug, Clone, Args)]
pub(crate) struct DescriptorArgs {
    /// The application descriptor
    #[arg(index = 1)]
    pub(crate) descriptor: PathBuf,
    /// Targets of the descriptor to select, and variables to override
    #[arg(index = 2, value_name = "TARGET|NAME=VALUE")]
    pub(crate) arguments: Vec<String>,
    /// Refuse whatever IceGrid refuses, also where it is wrong
    #[arg(long)]
    pub(crate) strict: bool,
    /// The file that `import-default-templates="true"` takes in
    #[arg(long, value_name = "FILE")]
    pub(crate) default_templates: Option<PathBuf>,
    /// Another application of the same grid, for ids that are used twice (repeatable)
    #[arg(long, value_name = "DESCRIPTOR")]
    pub(crate) beside: Vec<PathBuf>,
}

impl DescriptorArgs {
    fn request(&self, file: &Path, others: Others) -> Request {
        // As for icegridadmin, what has a `=` is a variable.
        let (overrides, targets): (Vec<_>, Vec<_>) =
            self.arguments.iter().partition(|a| a.contains('='));
        Request {
            file: file.to_owned(),
            targets: targets.into_iter().cloned().collect(),
            overrides: overrides
                .into_iter()
                .filter_map(|a| a.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            default_templates: self.default_templates.clone().map(DefaultTemplates::File),
            strict: self.strict,
            others,
            profile: None,
            explain: None,
        }
    }

    /// Returns the traps of the installation that the descriptor belongs to, if it does.
    fn traps(&self) -> Vec<String> {
        let path = std::path::absolute(&self.descriptor).unwrap_or_default();
        let dir = path.parent().filter(|dir| dir.ends_with("etc/grid"));
        let omero_dir = dir.and_then(|dir| dir.ancestors().nth(2));
        omero_dir.map(site::traps).unwrap_or_default()
    }

    /// Loads the descriptor, after those beside it.
    pub(crate) fn load(&self) -> Result<Loaded, Diagnostics> {
        let mut others = Others::default();
        for file in &self.beside {
            let beside = Self {
                arguments: Vec::new(),
                ..self.clone()
            };
            others.add(&load(&SiteFiles, &beside.request(file, Others::default()))?.deployment);
        }
        load(&SiteFiles, &self.request(&self.descriptor, others))
    }
}

/// Arguments of `check`: a descriptor, or a site.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("descriptor", |arg| arg.required(false).required_unless_present("site")))]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    descriptor: Option<DescriptorArgs>,
    /// Look at an OMERO directory instead: what stands in the way of running it with this program in place of IceGrid. Writes nothing
    #[arg(long, value_name = "OMERODIR", conflicts_with = "DescriptorArgs")]
    pub(crate) site: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'r> {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<&'r str>,
    errors: Vec<&'r Diagnostic>,
    warnings: Vec<&'r Diagnostic>,
    /// What in the site's files does not do what it seems to.
    site: Vec<String>,
}

/// Checks a descriptor.
pub(crate) fn run(
    args: &CheckArgs,
    format: Format,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), CliError> {
    let Some(descriptor) = &args.descriptor else {
        return Err(CliError::Usage("a descriptor is missing".to_owned()));
    };
    match descriptor.load() {
        Ok(loaded) => {
            let warnings = Diagnostics(loaded.warnings);
            let site = descriptor.traps();
            match format {
                Format::Text => {
                    show(&warnings, err)?;
                    for trap in &site {
                        writeln!(err, "warning: {trap}")?;
                    }
                    writeln!(out, "{}", summary(&loaded.deployment))?;
                }
                Format::Json => write_json(
                    out,
                    &Report {
                        ok: true,
                        application: Some(&loaded.deployment.application),
                        errors: Vec::new(),
                        warnings: warnings.warnings().collect(),
                        site,
                    },
                )?,
            }
            Ok(())
        }
        Err(diagnostics) => Err(refuse(&diagnostics, format, out, err)),
    }
}

/// Shows why a descriptor is refused: text on stderr, or a document on stdout.
pub(crate) fn refuse(
    diagnostics: &Diagnostics,
    format: Format,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> CliError {
    let shown = match format {
        Format::Text => show(diagnostics, err).and_then(|()| {
            let (errors, warnings) = (diagnostics.errors().count(), diagnostics.warnings().count());
            writeln!(
                err,
                "{}, {}",
                count(errors, "error"),
                count(warnings, "warning")
            )
        }),
        Format::Json => write_json(
            out,
            &Report {
                ok: false,
                application: None,
                errors: diagnostics.errors().collect(),
                warnings: diagnostics.warnings().collect(),
                site: Vec::new(),
            },
        ),
    };
    shown.map_or_else(CliError::Output, |()| CliError::Refused)
}

/// Writes diagnostics for people.
pub(crate) fn show(diagnostics: &Diagnostics, err: &mut dyn Write) -> io::Result<()> {
    diagnostics.0.iter().try_for_each(|d| writeln!(err, "{d}"))
}

/// Writes one JSON document and a line end.
pub(crate) fn write_json(out: &mut dyn Write, document: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)
}

fn summary(deployment: &Deployment) -> String {
    format!(
        "{}: {}, {}, {}",
        deployment.application,
        count(deployment.nodes.len(), "node"),
        count(deployment.servers.len(), "server"),
        count(deployment.replica_groups.len(), "replica group")
    )
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
