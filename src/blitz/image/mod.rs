//! What an image file says of itself: TIFF, BigTIFF and OME-TIFF.
//!
//! Owns the reading of metadata, within limits of time and memory whatever the file holds. No pixel is looked at. Where the file
//! comes from, and whether the answer is kept, is its callers' business.

mod directory;
mod ome;
mod plain;
mod source;

use std::fs::File;
use std::io;

use tiff::tags::Tag;

use crate::model::Image;
use directory::{Directories, Header, MAX_DIRECTORIES, read_error};
use ome::{Ome, OmeError};
use plain::Plane;

/// An image file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// It is something else.
    #[error("it is no TIFF file; known are TIFF, BigTIFF and OME-TIFF")]
    NotTiff,
    /// It has a header and nothing else.
    #[error("it has no image: its header names no image directory")]
    NoImage,
    /// It ends too early.
    #[error("it is truncated: it ends before the end of {what}")]
    Truncated {
        /// What should be there.
        what: String,
    },
    /// Its directories go round in a circle.
    #[error("it is broken: image directory {index} is at byte {at}, where an earlier one is")]
    Cycle {
        /// Which directory, counted from 0.
        index: u64,
        /// Where it is said to be.
        at: u64,
    },
    /// Something in it is not what it has to be.
    #[error("it is broken: {what} of image directory {index}: {problem}")]
    Value {
        /// The tag.
        what: String,
        /// Which directory, counted from 0.
        index: u64,
        /// What is wrong.
        problem: String,
    },
    /// The OME-XML in it is not what it has to be.
    #[error("its OME-XML is broken {problem}")]
    Metadata {
        /// Where and what.
        problem: String,
    },
    /// It would take more than is spent on one image.
    #[error("{what} is refused: {limit}")]
    Limit {
        /// What would have had to be read.
        what: String,
        /// The limit.
        limit: String,
    },
    /// The file cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
}

/// Reads what the first `len` bytes of a file say of its images. Blocks; does not move the file's cursor.
///
/// Reads at most 128 MiB, whatever the file claims, and keeps a few MiB of it at the most.
pub(crate) fn info(file: &File, len: u64) -> Result<Image, ImageError> {
    let header = Header::read(file, len)?;
    let mut directories = Directories::open(header, file, len)?;
    let Some(first) = directories.next()? else {
        return Err(ImageError::NoImage);
    };
    let plane = Plane::read(&mut directories.tags(0, &first))?;
    // The metadata of the whole file is in its first directory; the others are counted.
    let is_xml = is_xml(&mut directories, &first)?;
    let same = count(&mut directories, &plane)?;
    let mut ome = if is_xml {
        metadata(&mut directories, &first)?
    } else {
        None
    };
    let described = ome
        .as_mut()
        .map(|ome| std::mem::take(&mut ome.series))
        .unwrap_or_default();
    let series = if described.is_empty() {
        // No metadata, or such that says nothing of images because that is elsewhere: what the directories say.
        vec![plane.series(same)?]
    } else {
        described
    };
    Ok(Image {
        format: header.format,
        ome: ome.is_some(),
        byte_order: header.byte_order,
        directories: directories.count(),
        more_directories: directories.has_more(),
        series_count: ome
            .as_ref()
            .map_or(0, |ome| ome.series_count)
            .max(series.len() as u64),
        metadata_file: ome.and_then(|ome| ome.metadata_file),
        series,
    })
}

/// Reads the other directories, and returns how many planes there are that are like the first.
fn count(directories: &mut Directories<'_>, plane: &Plane) -> Result<u64, ImageError> {
    let mut same = 1;
    while directories.count() < MAX_DIRECTORIES {
        let index = directories.count();
        let directory = match directories.next() {
            Ok(Some(directory)) => directory,
            Ok(None) => break,
            // The first plane is good, and there are that many more: enough to be told.
            Err(ImageError::Limit { .. }) => break,
            Err(error) => return Err(error),
        };
        if plane.is_like(&mut directories.tags(index, &directory))? {
            same += 1;
        }
    }
    Ok(same)
}

fn is_xml(directories: &mut Directories<'_>, first: &tiff::Directory) -> Result<bool, ImageError> {
    match directories.tags(0, first).text(Tag::ImageDescription)? {
        Some(mut description) => {
            ome::looks_like_xml(&mut description).map_err(|error| read_error(error, DESCRIPTION))
        }
        None => Ok(false),
    }
}

/// Reads the OME-XML of a file, if that is what its description is.
fn metadata(
    directories: &mut Directories<'_>,
    first: &tiff::Directory,
) -> Result<Option<Ome>, ImageError> {
    let planes = if directories.has_more() {
        u64::MAX
    } else {
        directories.count()
    };
    let Some(description) = directories.tags(0, first).text(Tag::ImageDescription)? else {
        return Ok(None);
    };
    ome::read(description, planes).map_err(|error| match error {
        OmeError::Read(error) => read_error(error, DESCRIPTION),
        content @ OmeError::Content { .. } => ImageError::Metadata {
            problem: content.to_string(),
        },
    })
}

const DESCRIPTION: &str = "tag ImageDescription of image directory 0";

#[cfg(test)]
mod tests;
