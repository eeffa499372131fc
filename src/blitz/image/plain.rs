//! What the tags of a TIFF without OME-XML say: one image, each of its planes in a directory.

use tiff::tags::Tag;

use super::ImageError;
use super::directory::Tags;
use crate::model::{Channel, Length, PhysicalSize, PixelType, Series};

/// `NewSubfileType`: a smaller copy of another image.
const REDUCED: u64 = 1;

/// What the tags of one directory say of its pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plane {
    width: u64,
    height: u64,
    samples: u64,
    bits: Vec<u64>,
    format: u64,
    /// Pixels per unit of length, from left to right and from top to bottom.
    resolution: [Option<f64>; 2],
    unit: u64,
}

impl Plane {
    /// Reads it; the size has to be there.
    pub(super) fn read(tags: &mut Tags<'_, '_>) -> Result<Self, ImageError> {
        let index = tags.index();
        let mut size = |tag: Tag| match tags.number(tag)? {
            Some(size) if size > 0 => Ok(size),
            found => Err(ImageError::Value {
                what: format!("tag {tag:?}"),
                index,
                problem: match found {
                    None => "it is missing".to_owned(),
                    Some(_) => "it is 0".to_owned(),
                },
            }),
        };
        Ok(Self {
            width: size(Tag::ImageWidth)?,
            height: size(Tag::ImageLength)?,
            samples: tags.number(Tag::SamplesPerPixel)?.unwrap_or(1).max(1),
            bits: match tags.numbers(Tag::BitsPerSample)? {
                bits if bits.is_empty() => vec![1],
                bits => bits,
            },
            format: tags.number(Tag::SampleFormat)?.unwrap_or(1),
            resolution: [tags.ratio(Tag::XResolution)?, tags.ratio(Tag::YResolution)?],
            unit: tags.number(Tag::ResolutionUnit)?.unwrap_or(2),
        })
    }

    /// Returns whether another directory holds a plane of the same image: as large, and no reduced copy.
    pub(super) fn is_like(&self, tags: &mut Tags<'_, '_>) -> Result<bool, ImageError> {
        Ok(tags.number(Tag::ImageWidth)? == Some(self.width)
            && tags.number(Tag::ImageLength)? == Some(self.height)
            && tags.number(Tag::NewSubfileType)?.unwrap_or(0) & REDUCED == 0)
    }

    /// Returns the image that `planes` such planes make: one after the other in time.
    pub(super) fn series(&self, planes: u64) -> Result<Series, ImageError> {
        Ok(Series {
            name: None,
            size_x: self.width,
            size_y: self.height,
            size_z: 1,
            size_c: self.samples,
            size_t: planes,
            pixel_type: self.pixel_type()?,
            significant_bits: self.significant_bits(),
            dimension_order: None,
            planes,
            planes_here: planes,
            physical_size: PhysicalSize {
                x: self.micrometres(self.resolution[0]),
                y: self.micrometres(self.resolution[1]),
                z: None,
            },
            channels: vec![Channel {
                samples_per_pixel: self.samples,
                ..Channel::default()
            }],
        })
    }

    fn most_bits(&self) -> u64 {
        self.bits.iter().copied().max().unwrap_or(1)
    }

    fn pixel_type(&self) -> Result<PixelType, ImageError> {
        let bits = self.most_bits();
        let whole = |small: PixelType, middle, large| match bits {
            1..=8 => Some(small),
            9..=16 => Some(middle),
            17..=32 => Some(large),
            _ => None,
        };
        // SampleFormat: unsigned, signed, floating point, undefined, complex floating point.
        let kind = match (self.format, bits) {
            (1 | 4, 1) => Some(PixelType::Bit),
            (1 | 4, _) => whole(PixelType::Uint8, PixelType::Uint16, PixelType::Uint32),
            (2, _) => whole(PixelType::Int8, PixelType::Int16, PixelType::Int32),
            (3, 16 | 24 | 32) => Some(PixelType::Float),
            (3, 64) => Some(PixelType::Double),
            (6, 64) => Some(PixelType::Complex),
            (6, 128) => Some(PixelType::DoubleComplex),
            _ => None,
        };
        kind.ok_or_else(|| ImageError::Value {
            what: "tag BitsPerSample".to_owned(),
            index: 0,
            problem: format!(
                "{bits} bits of sample format {} are no type of pixels",
                self.format
            ),
        })
    }

    fn significant_bits(&self) -> Option<u16> {
        let bits = u16::try_from(self.most_bits()).ok()?;
        (bits > 1 && bits <= 32 && !matches!(bits, 8 | 16 | 32)).then_some(bits)
    }

    fn micrometres(&self, resolution: Option<f64>) -> Option<Length> {
        // An inch or a centimetre; other values mean no unit.
        let unit = match self.unit {
            2 => 25_400.0,
            3 => 10_000.0,
            _ => return None,
        };
        let value = unit / resolution.filter(|resolution| *resolution > 0.0)?;
        value.is_finite().then(|| Length {
            value,
            unit: "µm".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(format: u64, bits: &[u64]) -> Plane {
        Plane {
            width: 1,
            height: 1,
            samples: 1,
            bits: bits.to_vec(),
            format,
            resolution: [Some(100.0), Some(0.0)],
            unit: 3,
        }
    }

    #[test]
    fn every_format_of_samples_has_its_type_or_a_reason() {
        let known = [
            (1, 1, "bit"),
            (1, 4, "uint8"),
            (1, 8, "uint8"),
            (1, 12, "uint16"),
            (1, 16, "uint16"),
            (1, 32, "uint32"),
            (4, 8, "uint8"),
            (2, 8, "int8"),
            (2, 16, "int16"),
            (2, 32, "int32"),
            (3, 16, "float"),
            (3, 32, "float"),
            (3, 64, "double"),
            (6, 64, "complex"),
            (6, 128, "double-complex"),
        ];
        for (format, bits, name) in known {
            let series = plane(format, &[bits]).series(1).unwrap();
            assert_eq!(series.pixel_type.name(), name, "{bits} bits of {format}");
        }
        for (format, bits) in [
            (1, 0),
            (1, 33),
            (3, 8),
            (5, 32),
            (6, 32),
            (99, 8),
            (1, u64::MAX),
        ] {
            let error = plane(format, &[bits]).series(1).unwrap_err().to_string();
            assert!(error.contains("BitsPerSample"), "{error}");
        }
        assert_eq!(
            plane(1, &[8, 12]).series(1).unwrap().significant_bits,
            Some(12)
        );
        assert_eq!(plane(3, &[64]).series(1).unwrap().significant_bits, None);
    }

    #[test]
    fn a_resolution_becomes_a_length_if_it_can() {
        let size = plane(1, &[8]).series(1).unwrap().physical_size;
        assert_eq!(size.x.unwrap().value, 100.0);
        assert_eq!(size.y, None, "no pixel is infinitely large");
    }
}
