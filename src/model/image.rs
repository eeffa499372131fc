//! What is known of an image file without looking at a pixel.

use serde::{Deserialize, Serialize};

/// An image file, as its metadata describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// How the file is built.
    pub format: ImageFormat,
    /// Whether the metadata is OME-XML.
    pub ome: bool,
    /// The order of the bytes in the file.
    pub byte_order: ByteOrder,
    /// Image directories (IFDs) in this file, reduced copies of a plane among them.
    pub directories: u64,
    /// Whether the file has more directories than were counted.
    #[serde(default)]
    pub more_directories: bool,
    /// The name of the file that holds the metadata of this one, where it is not in the file itself.
    #[serde(default)]
    pub metadata_file: Option<String>,
    /// How many images (series) the metadata describes.
    pub series_count: u64,
    /// The images, those beyond a limit left out.
    pub series: Vec<Series>,
}

/// How a file is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// TIFF with offsets of 32 bits.
    Tiff,
    /// TIFF with offsets of 64 bits.
    BigTiff,
}

/// The order of the bytes of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteOrder {
    /// The lowest first.
    LittleEndian,
    /// The highest first.
    BigEndian,
}

/// One image of up to five dimensions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name; absent where it has none.
    #[serde(default)]
    pub name: Option<String>,
    /// Pixels from left to right.
    pub size_x: u64,
    /// Pixels from top to bottom.
    pub size_y: u64,
    /// Focal planes.
    pub size_z: u64,
    /// Channels, each sample of a colour one of them.
    pub size_c: u64,
    /// Points in time.
    pub size_t: u64,
    /// What a pixel is.
    pub pixel_type: PixelType,
    /// The bits of a pixel that are used, where that is known to be less than all.
    #[serde(default)]
    pub significant_bits: Option<u16>,
    /// The order in which the planes follow each other, where it is known: `XYZCT` and the like.
    #[serde(default)]
    pub dimension_order: Option<String>,
    /// Planes of the whole image; the samples of a colour share one.
    pub planes: u64,
    /// Those of the planes that are in this file.
    pub planes_here: u64,
    /// How large a pixel is.
    #[serde(default)]
    pub physical_size: PhysicalSize,
    /// The channels, those beyond a limit left out.
    #[serde(default)]
    pub channels: Vec<Channel>,
}

/// How large a pixel is in each direction, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhysicalSize {
    /// From left to right.
    #[serde(default)]
    pub x: Option<Length>,
    /// From top to bottom.
    #[serde(default)]
    pub y: Option<Length>,
    /// From one focal plane to the next.
    #[serde(default)]
    pub z: Option<Length>,
}

/// A length with its unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Length {
    /// How many of the unit: finite and above 0.
    pub value: f64,
    /// The unit's symbol, as OME writes it: `µm`, `nm` …
    pub unit: String,
}

/// What is known of a channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// The dye.
    #[serde(default)]
    pub fluor: Option<String>,
    /// How it is to be shown: `#rrggbbaa`.
    #[serde(default)]
    pub color: Option<String>,
    /// The wavelength of the light that excites.
    #[serde(default)]
    pub excitation: Option<Length>,
    /// The wavelength of the light that is recorded.
    #[serde(default)]
    pub emission: Option<Length>,
    /// Samples that its pixels have: 3 for red, green and blue.
    pub samples_per_pixel: u64,
}

/// What a pixel is; the names are OME's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named for what they are")]
pub enum PixelType {
    Bit,
    Int8,
    Int16,
    Int32,
    Uint8,
    Uint16,
    Uint32,
    Float,
    Double,
    Complex,
    #[serde(rename = "double-complex")]
    DoubleComplex,
}

impl PixelType {
    /// Every one, with OME's name of it.
    const NAMES: [(Self, &'static str); 11] = [
        (Self::Bit, "bit"),
        (Self::Int8, "int8"),
        (Self::Int16, "int16"),
        (Self::Int32, "int32"),
        (Self::Uint8, "uint8"),
        (Self::Uint16, "uint16"),
        (Self::Uint32, "uint32"),
        (Self::Float, "float"),
        (Self::Double, "double"),
        (Self::Complex, "complex"),
        (Self::DoubleComplex, "double-complex"),
    ];

    /// Returns the type of that name.
    pub fn of(name: &str) -> Option<Self> {
        let mut names = Self::NAMES.iter();
        names.find(|(_, known)| *known == name).map(|(of, _)| *of)
    }

    /// Returns OME's name of it.
    pub fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        names
            .find(|(known, _)| *known == self)
            .map_or("", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixel_types_have_omes_names_everywhere() {
        for (kind, name) in PixelType::NAMES {
            assert_eq!(PixelType::of(name), Some(kind));
            assert_eq!(kind.name(), name);
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{name}\""),
                "JSON says it the same way"
            );
        }
        assert_eq!(PixelType::of("UINT8"), None);
    }
}
