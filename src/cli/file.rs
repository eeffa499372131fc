//! `omero-grid file` and `omero-grid image`: the files that a Blitz serves.
//!
//! The master says where the contents go; the bytes go straight to the Blitz (DESIGN.md §3).

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::context::{Context, Grid, strange};
use super::failure::{Failure, code};
use super::secret::SessionArgs;
use super::status::{plain_table, time};
use super::transfer::{fetch, store};
use crate::ipc::message::blitz::{self, Authority};
use crate::ipc::message::client::{Reply, Request};
use crate::ipc::message::data::{FileAction, FileView, HASHER, Ticket};
use crate::model::{Image, Series};

/// How many files are asked for at once.
const PAGE: u32 = 1000;

/// Arguments of `file`.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Copy files into the repository; of a directory, everything in it
    Import {
        /// Files and directories
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// List the files
    List {
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Show one file
    Info {
        /// The file's number
        id: u64,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Copy a file out of the repository, checked against its checksum
    Get {
        /// The file's number
        id: u64,
        /// Where to; `-` for standard output
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Delete files
    Delete {
        /// The files' numbers
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        #[command(flatten)]
        session: SessionArgs,
    },
}

/// Arguments of `image`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImageCommand {
    #[command(subcommand)]
    command: ImageSubcommand,
}

#[derive(Debug, Clone, Subcommand)]
enum ImageSubcommand {
    /// Show the size, pixel type and channels of an image
    Info {
        /// The file's number
        id: u64,
        #[command(flatten)]
        session: SessionArgs,
    },
}

pub(crate) async fn run(context: &Context, args: FileCommand) -> Result<(), Failure> {
    let grid = context.grid().await?;
    match args.command {
        Command::Import { paths, session } => {
            import(context, &grid, &paths, session.authority(context)?).await
        }
        Command::List { session } => list(context, &grid, session.authority(context)?).await,
        Command::Info { id, session } => {
            let file = info(&grid, id, session.authority(context)?).await?;
            if context.is_json() {
                return context.json(&file);
            }
            let mut table = plain_table(&["ID", &file.id.to_string()]);
            table.add_row(["PATH", &file.path]);
            table.add_row(["SIZE", &file.size.to_string()]);
            table.add_row([HASHER, &file.checksum]);
            table.add_row(["OWNER", &file.owner]);
            table.add_row(["IMPORTED", &time(file.imported_ms)]);
            context.table(&table)
        }
        Command::Get {
            id,
            output,
            session,
        } => {
            let action = FileAction::Get { id };
            let ticket = ticket(&grid, action, session.authority(context)?).await?;
            let bar = bar(context, 0);
            let moving = {
                let (output, bar) = (output.clone(), bar.clone());
                tokio::task::spawn_blocking(move || fetch(&ticket, &output, &bar))
            };
            let file = joined(moving.await)?;
            bar.finish_and_clear();
            if output.as_os_str() == "-" {
                Ok(())
            } else if context.is_json() {
                context.json(&file)
            } else {
                context.say(format!(
                    "{} ({} bytes, {HASHER} {})",
                    output.display(),
                    file.size,
                    file.checksum
                ))
            }
        }
        Command::Delete { ids, session } => {
            let authority = session.authority(context)?;
            for &id in &ids {
                match ask(&grid, FileAction::Delete { id }, authority).await? {
                    blitz::Reply::Done => context.say(format!("deleted file {id}"))?,
                    _ => return Err(strange()),
                }
            }
            if context.is_json() {
                context.json(&serde_json::json!({ "deleted": ids }))?;
            }
            Ok(())
        }
    }
}

pub(crate) async fn image(context: &Context, args: ImageCommand) -> Result<(), Failure> {
    let ImageSubcommand::Info { id, session } = args.command;
    let grid = context.grid().await?;
    match ask(&grid, FileAction::Image { id }, session.authority(context)?).await? {
        blitz::Reply::Image { image, origin } => {
            if context.is_json() {
                return context.json(&serde_json::json!({ "image": image, "from": origin }));
            }
            show(context, &image)
        }
        _ => Err(strange()),
    }
}

fn show(context: &Context, image: &Image) -> Result<(), Failure> {
    context.say(format!(
        "{}{}, {}, {} director{} in this file, {} image{}",
        word(&image.format),
        if image.ome { " with OME-XML" } else { "" },
        word(&image.byte_order).replace('_', " "),
        image.directories,
        if image.directories == 1 { "y" } else { "ies" },
        image.series_count,
        if image.series_count == 1 { "" } else { "s" },
    ))?;
    let mut table = plain_table(&[
        "IMAGE", "X", "Y", "Z", "C", "T", "PIXELS", "SIZE", "CHANNELS",
    ]);
    for (number, series) in image.series.iter().enumerate() {
        table.add_row([
            series.name.clone().unwrap_or_else(|| number.to_string()),
            series.size_x.to_string(),
            series.size_y.to_string(),
            series.size_z.to_string(),
            series.size_c.to_string(),
            series.size_t.to_string(),
            word(&series.pixel_type),
            physical(series),
            channels(series),
        ]);
    }
    context.table(&table)
}

/// Returns the word that stands for a value in JSON.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

fn physical(series: &Series) -> String {
    let size = &series.physical_size;
    [&size.x, &size.y, &size.z]
        .into_iter()
        .flatten()
        .map(|length| format!("{} {}", length.value, length.unit))
        .collect::<Vec<_>>()
        .join(" × ")
}

fn channels(series: &Series) -> String {
    series
        .channels
        .iter()
        .filter_map(|channel| channel.name.as_deref().or(channel.fluor.as_deref()))
        .collect::<Vec<_>>()
        .join(", ")
}

async fn list(context: &Context, grid: &Grid, authority: Authority) -> Result<(), Failure> {
    let mut after = None;
    let mut all = Vec::new();
    loop {
        let action = FileAction::List { after, limit: PAGE };
        let blitz::Reply::Files { files, more } = ask(grid, action, authority).await? else {
            return Err(strange());
        };
        let last = files.last().map(|file| file.id);
        all.extend(files);
        // A page that does not advance would be asked for for ever.
        if !more || last <= after {
            break;
        }
        after = last;
    }
    if context.is_json() {
        return context.json(&all);
    }
    let mut table = plain_table(&["ID", "SIZE", "OWNER", "IMPORTED", "PATH"]);
    for file in all {
        table.add_row([
            file.id.to_string(),
            file.size.to_string(),
            file.owner,
            time(file.imported_ms),
            file.path,
        ]);
    }
    context.table(&table)
}

async fn info(grid: &Grid, id: u64, authority: Authority) -> Result<FileView, Failure> {
    match ask(grid, FileAction::Info { id }, authority).await? {
        blitz::Reply::Files { mut files, .. } => files.pop().ok_or_else(strange),
        _ => Err(strange()),
    }
}

async fn import(
    context: &Context,
    grid: &Grid,
    paths: &[PathBuf],
    authority: Authority,
) -> Result<(), Failure> {
    let mut sources = Vec::new();
    for path in paths {
        collect(path, true, &mut sources)?;
    }
    let mut done: Vec<FileView> = Vec::new();
    let mut failure = None;
    for path in &sources {
        match import_one(context, grid, path, authority).await {
            Ok(file) => {
                context.say(format!("{}  {}", file.id, file.path))?;
                done.push(file);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    if context.is_json() {
        context.json(&done)?;
    }
    match failure {
        Some(mut error) if sources.len() > 1 => {
            let count = format!("{} of {} files were imported", done.len(), sources.len());
            error.message = format!("{count}; then: {}", error.message);
            Err(error)
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Gathers the files that are meant: itself, or everything in a directory, in order. Links are followed only where they are named.
fn collect(path: &Path, named: bool, sources: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let fail = |error: io::Error| {
        Failure::new(
            code::FAILED,
            format!("cannot read {}: {error}", path.display()),
        )
    };
    let kind = match named {
        true => fs::metadata(path).map_err(fail)?,
        false => fs::symlink_metadata(path).map_err(fail)?,
    };
    if kind.is_dir() {
        let entries = fs::read_dir(path).map_err(fail)?;
        let mut below: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(fail)?;
        below.sort();
        for path in below {
            collect(&path, false, sources)?;
        }
    } else if kind.is_file() {
        sources.push(path.to_owned());
    } else if named {
        return Err(Failure::new(
            code::FAILED,
            format!("{} is neither a file nor a directory", path.display()),
        ));
    } else {
        let mut err = anstream::stderr().lock();
        writeln!(err, "skipped {}: it is no regular file", path.display())?;
    }
    Ok(())
}

async fn import_one(
    context: &Context,
    grid: &Grid,
    path: &Path,
    authority: Authority,
) -> Result<FileView, Failure> {
    let fail = |error: io::Error| {
        Failure::new(
            code::FAILED,
            format!("cannot read {}: {error}", path.display()),
        )
    };
    let file = File::open(path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            Failure::new(
                code::FAILED,
                format!("the name of {} is not UTF-8", path.display()),
            )
            .hint("rename the file")
        })?;
    let action = FileAction::Import {
        name: name.to_owned(),
        size,
    };
    let ticket = ticket(grid, action, authority).await?;
    let bar = bar(context, size);
    bar.set_message(name.to_owned());
    let moving = {
        let (path, bar) = (path.to_owned(), bar.clone());
        tokio::task::spawn_blocking(move || store(&ticket, &file, &path, &bar))
    };
    let file = joined(moving.await);
    bar.finish_and_clear();
    file
}

fn bar(context: &Context, size: u64) -> ProgressBar {
    if context.quiet || context.is_json() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    );
    ProgressBar::new(size).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn joined<T>(result: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    result.unwrap_or_else(|error| Err(Failure::new(code::FAILED, error.to_string())))
}

async fn ask(
    grid: &Grid,
    action: FileAction,
    authority: Authority,
) -> Result<blitz::Reply, Failure> {
    let request = Request::Blitz {
        request: Box::new(blitz::Request::File {
            action,
            authority,
            vouched: None,
        }),
    };
    match grid.call(request).await? {
        Reply::Blitz { reply } => Ok(*reply),
        _ => Err(strange()),
    }
}

async fn ticket(grid: &Grid, action: FileAction, authority: Authority) -> Result<Ticket, Failure> {
    match ask(grid, action, authority).await? {
        blitz::Reply::Ticket(ticket) => Ok(ticket),
        _ => Err(strange()),
    }
}
