//! `omero-grid logs`: what a server, a node or the master wrote. Works without a master too.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::context::Context;
use super::face;
use super::failure::{Failure, code};
use crate::model::{NodeName, ServerId};
use crate::sys::watch::{Writes, appearance};

/// How much of the end of a file is searched for its last lines, in bytes.
const TAIL: u64 = 1 << 20;

/// Arguments of `logs`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// The server or node whose logs to show [default: the master]
    id: Option<String>,
    /// Show what is added too, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to show of each file
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    lines: usize,
}

/// A file that is shown.
struct Log {
    path: PathBuf,
    /// How much of it has been shown.
    shown: u64,
}

pub(crate) async fn run(context: &Context, args: LogsArgs) -> Result<(), Failure> {
    let mut logs = files(context, args.id.as_deref())?;
    let several = logs.len() > 1;
    let mut out = io::stdout();
    for log in &mut logs {
        let (text, end) = tail(&log.path, args.lines)?;
        log.shown = end;
        if several && !text.is_empty() {
            writeln!(out, "==> {} <==", log.path.display())?;
        }
        out.write_all(&text)?;
    }
    if args.follow {
        follow(&mut logs, several).await?;
    }
    Ok(())
}

/// Returns the files of a server, a node or the master.
fn files(context: &Context, id: Option<&str>) -> Result<Vec<Log>, Failure> {
    let mut paths = context.paths.clone();
    // A setting that cannot be read is refused where a grid is started.
    let settings = face::site_node_settings(&paths).unwrap_or_default();
    paths.set_output(settings.output);
    let candidates = match id {
        None => vec![paths.master_log()],
        Some(id) => {
            let server = id.parse::<ServerId>().ok();
            let node = id.parse::<NodeName>().ok();
            let of_server = server
                .iter()
                .flat_map(|id| ["out", "err"].map(|stream| paths.server_log(id, stream)));
            of_server
                .chain(node.iter().map(|node| paths.node_log(node)))
                .collect()
        }
    };
    let found: Vec<_> = candidates
        .iter()
        .filter(|path| path.exists())
        .map(|path| Log {
            path: path.clone(),
            shown: 0,
        })
        .collect();
    if found.is_empty() {
        let what = id.map_or_else(
            || "the grid has not written a log".to_owned(),
            |id| format!("'{id}' has not written a log"),
        );
        return Err(Failure::new(
            code::NOT_THERE,
            format!("{what} in {}", paths.logs().display()),
        ));
    }
    Ok(found)
}

/// Returns the last lines of a file, and its length.
fn tail(path: &Path, lines: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    let body = text.strip_suffix(b"\n").unwrap_or(&text);
    let mut breaks = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1);
    let start = match lines.checked_sub(1) {
        None => text.len(),
        Some(more) => breaks.nth(more).unwrap_or(0),
    };
    Ok((text.split_off(start), end))
}

async fn follow(logs: &mut [Log], several: bool) -> Result<(), Failure> {
    let writes = Writes::new()?;
    let mut last = None;
    loop {
        // Watched first, read then: what is written in between wakes us again.
        for log in logs.iter() {
            // It is on its way when the one before has just been set aside.
            appearance(&log.path).await?;
            writes.once(&log.path)?;
        }
        for (number, log) in logs.iter_mut().enumerate() {
            let mut file = File::open(&log.path)?;
            // A file that shrank was rotated.
            if file.metadata()?.len() < log.shown {
                log.shown = 0;
            }
            file.seek(SeekFrom::Start(log.shown))?;
            let mut chunk = vec![0; 64 * 1024];
            loop {
                let count = file.read(&mut chunk)?;
                if count == 0 {
                    break;
                }
                let mut out = io::stdout();
                if several && last != Some(number) {
                    writeln!(out, "==> {} <==", log.path.display())?;
                    last = Some(number);
                }
                out.write_all(&chunk[..count])?;
                log.shown += count as u64;
            }
        }
        io::stdout().flush()?;
        writes.next().await?;
    }
}
