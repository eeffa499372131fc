//! `omero-grid check --site`: what stands in the way of a site that moves here from IceGrid.

use std::io::Write as _;
use std::path::Path;

use anstyle::AnsiColor;
use serde::Serialize;

use super::context::{Context, Format, Global};
use super::failure::{Failure, code};
use crate::config::site::{Finding, Level, survey};

#[derive(Serialize)]
struct Report<'r> {
    site: String,
    /// Whether nothing stands in the way.
    ok: bool,
    findings: &'r [Finding],
}

/// Looks at a site and says what was found; writes nothing else.
pub(crate) fn run(site: &Path, global: &Global) -> Result<(), Failure> {
    let global = Global {
        dir: Some(site.to_owned()),
        ..global.clone()
    };
    let context = Context::new(&global)?;
    let dir = context.paths.dir();
    let Some(findings) = survey(dir, context.paths.state()) else {
        let message = format!("{} is no OMERO directory", dir.display());
        return Err(Failure::new(code::INVALID, message).hint(
            "the one that OMERODIR names for `omero admin start` is meant, with etc/grid/templates.xml in it",
        ));
    };
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (obstacles, warnings) = (count(Level::Obstacle), count(Level::Warning));
    match context.format {
        Format::Json => context.json(&Report {
            site: dir.display().to_string(),
            ok: obstacles == 0,
            findings: &findings,
        })?,
        Format::Text => show(&findings, obstacles, warnings, context.quiet)?,
    }
    match obstacles {
        0 => Ok(()),
        _ => Err(Failure::shown(code::FAILED)),
    }
}

fn show(
    findings: &[Finding],
    obstacles: usize,
    warnings: usize,
    quiet: bool,
) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let shown = findings.iter().filter(|f| !quiet || f.level > Level::Ok);
    for finding in shown {
        let (word, colour) = match finding.level {
            Level::Ok => ("ok", AnsiColor::Green),
            Level::Warning => ("warning", AnsiColor::Yellow),
            Level::Obstacle => ("obstacle", AnsiColor::Red),
        };
        let colour = colour.on_default();
        writeln!(
            out,
            "{colour}{word:<8}{colour:#}  {:<13}  {}",
            finding.check, finding.message
        )?;
        if let Some(advice) = &finding.advice {
            writeln!(out, "{:25}→ {advice}", "")?;
        }
    }
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    writeln!(
        out,
        "{}, {}",
        plural(obstacles, "obstacle"),
        plural(warnings, "warning")
    )?;
    Ok(())
}
