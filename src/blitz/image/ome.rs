//! OME-XML: what the metadata of an OME-TIFF says of its images.
//!
//! Read in one pass, piece by piece, so that metadata of any size costs little memory. A document type is refused, and with it
//! entities; only what is told to people is kept.

use std::io::{self, BufReader, Read};

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Error as XmlError, Reader, XmlVersion};

use super::source::Limit;
use crate::model::{Channel, Length, PhysicalSize, PixelType, Series};

/// The largest single piece (tag, text, comment) that is kept in memory, in bytes.
pub(super) const MAX_PIECE: u64 = 4 * 1024 * 1024;

/// Images and channels that are kept, together: what they make has to go into one message.
const MAX_KEPT: usize = 4096;

/// Elements of a TIFF's metadata are less than ten deep; annotations hold anything.
const MAX_DEPTH: usize = 256;

/// The longest name that is kept, in bytes.
const MAX_NAME: usize = 256;

/// Bytes at the beginning of a description in which its kind has to show.
const LOOK: usize = 64;

/// What OME-XML says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ome {
    /// The file with the metadata, if this is not it.
    pub(super) metadata_file: Option<String>,
    /// How many images there are.
    pub(super) series_count: u64,
    /// The first of them.
    pub(super) series: Vec<Series>,
}

/// OME-XML that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OmeError {
    /// It could not be read from the file.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// It is no XML, or says what cannot be.
    #[error("at byte {at}: {problem}")]
    Content {
        /// How far it was read.
        at: u64,
        /// What is wrong.
        problem: String,
    },
}

/// Returns whether a description begins as XML does.
pub(super) fn looks_like_xml(description: &mut impl Read) -> io::Result<bool> {
    let mut head = [0; LOOK];
    let mut have = 0;
    while have < head.len() {
        match description.read(&mut head[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let head = head[..have].trim_ascii_start();
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    Ok(head.trim_ascii_start().starts_with(b"<"))
}

/// Reads a description; `None` if it is not OME-XML. `directories` is how many planes the file can hold.
pub(super) fn read(description: impl Read, directories: u64) -> Result<Option<Ome>, OmeError> {
    let mut reader = Reader::from_reader(BufReader::new(Metered {
        inner: description,
        since: 0,
    }));
    let mut buffer = Vec::new();
    let mut state = State::new(directories);
    loop {
        buffer.clear();
        reader.get_mut().get_mut().since = 0;
        let event = reader.read_event_into(&mut buffer);
        let at = reader.buffer_position();
        let content = |problem: String| OmeError::Content { at, problem };
        let event = match event {
            Ok(event) => event,
            Err(XmlError::Io(error)) => {
                return Err(OmeError::Read(
                    Limit::of(&error)
                        .map_or_else(|| io::Error::new(error.kind(), error), Into::into),
                ));
            }
            // What has not even one element is a description of another kind.
            Err(_) if state.path.is_empty() => return Ok(None),
            Err(error) => return Err(content(error.to_string())),
        };
        match event {
            Event::Start(tag) | Event::Empty(tag)
                if state.path.is_empty() && tag.local_name().as_ref() != "OME" =>
            {
                return Ok(None);
            }
            Event::Start(tag) => state.open(&tag).map_err(content)?,
            Event::Empty(tag) => state
                .open(&tag)
                .and_then(|()| state.close())
                .map_err(content)?,
            Event::End(_) => state.close().map_err(content)?,
            Event::Text(text) => state.text(&text.into_inner()),
            Event::CData(text) => state.text(&text.into_inner()),
            Event::DocType(_) => state.document_type = true,
            Event::Eof if state.path.is_empty() => return Ok(None),
            Event::Eof => {
                return Err(content(
                    "it ends within an element; the file was cut off, or its writer was".to_owned(),
                ));
            }
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) | Event::GeneralRef(_) => {}
        }
        // What follows the root element is padding.
        if state.is_done() {
            return Ok(Some(state.ome));
        }
    }
}

/// Passes bytes on until a single piece of XML has had too many.
struct Metered<R> {
    inner: R,
    since: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.since > MAX_PIECE {
            return Err(Limit::Piece.into());
        }
        let n = self.inner.read(into)?;
        self.since += n as u64;
        Ok(n)
    }
}

/// The elements that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ome,
    Image,
    Pixels,
    Channel,
    TiffData,
    Uuid,
    Other,
}

impl Kind {
    fn of(parent: Option<Self>, name: &str) -> Self {
        match (parent, name) {
            (None, "OME") => Self::Ome,
            (Some(Self::Ome), "Image") => Self::Image,
            (Some(Self::Image), "Pixels") => Self::Pixels,
            (Some(Self::Pixels), "Channel") => Self::Channel,
            (Some(Self::Pixels), "TiffData") => Self::TiffData,
            (Some(Self::TiffData), "UUID") => Self::Uuid,
            _ => Self::Other,
        }
    }
}

/// Where the reading stands.
struct State {
    path: Vec<Kind>,
    closed: bool,
    document_type: bool,
    ome: Ome,
    kept: usize,
    directories: u64,
    /// This file's own id, if it has one.
    uuid: Option<String>,
    image: Image,
    block: Block,
}

/// The image that is being read.
#[derive(Default)]
struct Image {
    name: Option<String>,
    series: Option<Series>,
    /// There is room for it in the answer.
    kept: bool,
    channels: u64,
    samples: u64,
    here: u64,
    blocks: bool,
}

/// The `TiffData` that is being read: where some planes are.
#[derive(Default)]
struct Block {
    first: bool,
    count: Option<u64>,
    uuid: String,
}

impl State {
    fn new(directories: u64) -> Self {
        Self {
            path: Vec::new(),
            closed: false,
            document_type: false,
            ome: Ome::default(),
            kept: 0,
            directories,
            uuid: None,
            image: Image::default(),
            block: Block::default(),
        }
    }

    fn is_done(&self) -> bool {
        self.closed
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        let local = tag.local_name();
        let kind = Kind::of(self.path.last().copied(), local.as_ref());
        match kind {
            Kind::Ome if self.document_type => {
                return Err(
                    "a document type (<!DOCTYPE …>) is not allowed, and with it no entities"
                        .to_owned(),
                );
            }
            Kind::Ome => self.uuid = attribute(tag, "UUID")?,
            Kind::Image => {
                self.image = Image {
                    name: attribute(tag, "Name")?.and_then(|name| words(&name)),
                    ..Image::default()
                };
            }
            Kind::Pixels if self.image.series.is_some() => {
                return Err("an Image with two Pixels".to_owned());
            }
            Kind::Pixels => {
                self.image.series = Some(pixels(tag, self.image.name.take())?);
                self.image.kept = self.keep();
            }
            Kind::Channel => self.channel(tag)?,
            Kind::TiffData => {
                self.block = Block {
                    first: attribute(tag, "IFD")?.is_some(),
                    count: optional(tag, "PlaneCount")?,
                    uuid: String::new(),
                };
            }
            Kind::Other if self.path == [Kind::Ome] && local.as_ref() == "BinaryOnly" => {
                self.ome.metadata_file =
                    attribute(tag, "MetadataFile")?.and_then(|name| words(&name));
            }
            Kind::Uuid | Kind::Other => {}
        }
        if self.path.len() >= MAX_DEPTH {
            return Err(format!("elements are nested more than {MAX_DEPTH} deep"));
        }
        self.path.push(kind);
        Ok(())
    }

    /// Takes room for one more, if there is.
    fn keep(&mut self) -> bool {
        let room = self.kept < MAX_KEPT;
        self.kept += usize::from(room);
        room
    }

    fn channel(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        let samples = optional(tag, "SamplesPerPixel")?.unwrap_or(1).max(1);
        self.image.channels += 1;
        self.image.samples = self.image.samples.saturating_add(samples);
        if !self.image.kept || !self.keep() {
            return Ok(());
        }
        let Some(series) = &mut self.image.series else {
            return Ok(());
        };
        let color = attribute(tag, "Color")?;
        series.channels.push(Channel {
            name: attribute(tag, "Name")?.and_then(|name| words(&name)),
            fluor: attribute(tag, "Fluor")?.and_then(|name| words(&name)),
            // A signed number of 32 bits; some writers leave the sign away.
            color: color
                .and_then(|color| color.trim().parse::<i64>().ok())
                .and_then(|color| {
                    i32::try_from(color)
                        .map(i32::cast_unsigned)
                        .or(u32::try_from(color))
                        .ok()
                })
                .map(|color| format!("#{color:08x}")),
            excitation: length(tag, "ExcitationWavelength", "nm")?,
            emission: length(tag, "EmissionWavelength", "nm")?,
            samples_per_pixel: samples,
        });
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if self.path.last() == Some(&Kind::Uuid) && self.block.uuid.len() <= MAX_NAME {
            self.block.uuid.push_str(shorten(text, MAX_NAME));
        }
    }

    fn close(&mut self) -> Result<(), String> {
        match self.path.pop() {
            Some(Kind::Ome) => self.closed = true,
            Some(Kind::TiffData) => {
                let planes = match (self.block.count, self.block.first) {
                    (Some(count), _) => count,
                    (None, true) => 1,
                    (None, false) => u64::MAX,
                };
                self.image.blocks = true;
                if self.is_here() {
                    self.image.here = self.image.here.saturating_add(planes);
                }
            }
            Some(Kind::Image) => self.image()?,
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the planes of the block are in this file: without ids they can be nowhere else.
    fn is_here(&self) -> bool {
        let there = self.block.uuid.trim();
        there.is_empty() || self.uuid.as_deref().is_none_or(|own| own.trim() == there)
    }

    fn image(&mut self) -> Result<(), String> {
        let image = std::mem::take(&mut self.image);
        self.ome.series_count += 1;
        let Some(mut series) = image.series else {
            return Ok(());
        };
        let channels = if image.channels == 0 {
            series.size_c
        } else if image.samples == series.size_c {
            image.channels
        } else if image.channels == series.size_c {
            // Writers that leave the samples away.
            series.size_c
        } else {
            return Err(format!(
                "an Image has {} channels of together {} samples, but its SizeC is {}",
                image.channels, image.samples, series.size_c
            ));
        };
        series.planes = series
            .size_z
            .saturating_mul(series.size_t)
            .saturating_mul(channels);
        // Without a word on where the planes are they are here.
        let here = if image.blocks { image.here } else { u64::MAX };
        series.planes_here = here.min(series.planes).min(self.directories);
        if image.kept {
            self.ome.series.push(series);
        }
        Ok(())
    }
}

fn pixels(tag: &BytesStart<'_>, name: Option<String>) -> Result<Series, String> {
    let size = |of: &str| {
        let value = attribute(tag, of)?.ok_or_else(|| format!("Pixels without {of}"))?;
        let size = value.trim().parse::<u32>().ok().filter(|size| *size > 0);
        size.map(u64::from).ok_or_else(|| {
            format!(
                "{of} is {:?}, not a whole number above 0",
                shorten(&value, 40)
            )
        })
    };
    let kind = match attribute(tag, "Type")? {
        Some(kind) => kind,
        None => attribute(tag, "PixelType")?.ok_or("Pixels without Type")?,
    };
    let micrometres = "µm";
    Ok(Series {
        name,
        size_x: size("SizeX")?,
        size_y: size("SizeY")?,
        size_z: size("SizeZ")?,
        size_c: size("SizeC")?,
        size_t: size("SizeT")?,
        pixel_type: PixelType::of(kind.trim())
            .ok_or_else(|| format!("{:?} is no type of pixels", shorten(&kind, 40)))?,
        significant_bits: optional(tag, "SignificantBits")?
            .and_then(|bits| u16::try_from(bits).ok()),
        dimension_order: attribute(tag, "DimensionOrder")?.and_then(|order| words(&order)),
        planes: 0,
        planes_here: 0,
        physical_size: PhysicalSize {
            x: length(tag, "PhysicalSizeX", micrometres)?,
            y: length(tag, "PhysicalSizeY", micrometres)?,
            z: length(tag, "PhysicalSizeZ", micrometres)?,
        },
        channels: Vec::new(),
    })
}

/// Returns the value of an attribute.
fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    // Two attributes of one name are no XML; checking that would take the square of their number.
    for attribute in tag.attributes().with_checks(false) {
        let attribute = attribute.map_err(|error| error.to_string())?;
        if attribute.key.as_ref() == name {
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| format!("{name}: {error}"))?;
            return Ok(Some(value.into_owned()));
        }
    }
    Ok(None)
}

fn optional(tag: &BytesStart<'_>, name: &str) -> Result<Option<u64>, String> {
    let Some(value) = attribute(tag, name)? else {
        return Ok(None);
    };
    let number = value.trim().parse();
    number
        .map(Some)
        .map_err(|_| format!("{name} is {:?}, not a whole number", shorten(&value, 40)))
}

/// Returns a length; none where it is absent or cannot be one, as some writers put 0 for not known.
fn length(tag: &BytesStart<'_>, name: &str, unit: &str) -> Result<Option<Length>, String> {
    let value = attribute(tag, name)?.and_then(|value| value.trim().parse().ok());
    let Some(value) = value.filter(|value: &f64| value.is_finite() && *value > 0.0) else {
        return Ok(None);
    };
    let unit = attribute(tag, &format!("{name}Unit"))?
        .and_then(|unit| words(&unit))
        .unwrap_or_else(|| unit.to_owned());
    Ok(Some(Length { value, unit }))
}

/// Makes a text of a file's presentable: no control characters, not endless; none if it is empty.
fn words(text: &str) -> Option<String> {
    let text: String = shorten(text.trim(), MAX_NAME)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    (!text.is_empty()).then_some(text)
}

fn shorten(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
