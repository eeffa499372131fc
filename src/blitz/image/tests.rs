use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::model::{ByteOrder, ImageFormat, PixelType};
use crate::sys::allocation::peak;

const BOTH: [ByteOrder; 2] = [ByteOrder::LittleEndian, ByteOrder::BigEndian];
const EITHER: [ImageFormat; 2] = [ImageFormat::Tiff, ImageFormat::BigTiff];

/// The most memory that a file may cost, whatever is in it.
const MOST: usize = 24 * 1024 * 1024;

/// A value of a tag.
#[derive(Clone)]
enum Value {
    Short(Vec<u16>),
    Long(u32),
    Ratio(u32, u32),
    Text(Vec<u8>),
    /// A text that is claimed to be so long and to stand at that place.
    Claim(u64, u64),
}

/// Makes the bytes of a TIFF file, as its specification wants them.
struct Maker {
    format: ImageFormat,
    order: ByteOrder,
    bytes: Vec<u8>,
    /// Where the offset of the next directory has to be written.
    link: usize,
}

impl Maker {
    fn new(format: ImageFormat, order: ByteOrder) -> Self {
        let mut maker = Self {
            format,
            order,
            bytes: if order == ByteOrder::LittleEndian {
                b"II".to_vec()
            } else {
                b"MM".to_vec()
            },
            link: 0,
        };
        if format == ImageFormat::BigTiff {
            maker.put(43, 2);
            maker.put(8, 2);
            maker.put(0, 2);
        } else {
            maker.put(42, 2);
        }
        maker.link = maker.bytes.len();
        maker.put(0, maker.word());
        maker
    }

    fn word(&self) -> usize {
        if self.format == ImageFormat::BigTiff {
            8
        } else {
            4
        }
    }

    fn number(&self, value: u64, len: usize) -> Vec<u8> {
        let mut bytes = value.to_le_bytes()[..len].to_vec();
        if self.order == ByteOrder::BigEndian {
            bytes.reverse();
        }
        bytes
    }

    fn put(&mut self, value: u64, len: usize) {
        let bytes = self.number(value, len);
        self.bytes.extend(bytes);
    }

    /// Makes the directory that comes next in the chain stand at `at`.
    fn link_to(&mut self, at: u64) {
        let bytes = self.number(at, self.word());
        self.bytes[self.link..self.link + bytes.len()].copy_from_slice(&bytes);
    }

    fn directory(&mut self, tags: &[(u16, Value)]) -> u64 {
        let word = self.word();
        let mut entries = Vec::new();
        for (tag, value) in tags {
            let (kind, count, bytes) = match value {
                Value::Short(values) => {
                    let bytes = values.iter().flat_map(|v| self.number(u64::from(*v), 2));
                    (3, values.len() as u64, bytes.collect())
                }
                Value::Long(value) => (4, 1, self.number(u64::from(*value), 4)),
                Value::Ratio(above, below) => {
                    let mut bytes = self.number(u64::from(*above), 4);
                    bytes.extend(self.number(u64::from(*below), 4));
                    (5, 1, bytes)
                }
                Value::Text(text) => (2, text.len() as u64, text.clone()),
                Value::Claim(count, at) => (2, *count, self.number(*at, word)),
            };
            let field = if bytes.len() <= word {
                let mut field = bytes;
                field.resize(word, 0);
                field
            } else {
                let at = self.number(self.bytes.len() as u64, word);
                self.bytes.extend(bytes);
                at
            };
            entries.push((*tag, kind, count, field));
        }
        let at = self.bytes.len() as u64;
        self.link_to(at);
        self.put(entries.len() as u64, if word == 8 { 8 } else { 2 });
        for (tag, kind, count, field) in entries {
            self.put(u64::from(tag), 2);
            self.put(kind, 2);
            self.put(count, word);
            self.bytes.extend(field);
        }
        self.link = self.bytes.len();
        self.put(0, word);
        at
    }
}

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(bytes: &[u8]) -> Result<Image, ImageError> {
    info(&file(bytes), bytes.len() as u64)
}

fn size(width: u16, height: u16) -> Vec<(u16, Value)> {
    vec![
        (256, Value::Short(vec![width])),
        (257, Value::Long(u32::from(height))),
    ]
}

/// Makes an OME-TIFF with that text and so many planes of 4 by 3.
fn ome_tiff(format: ImageFormat, order: ByteOrder, text: &str, planes: usize) -> Vec<u8> {
    let mut maker = Maker::new(format, order);
    for plane in 0..planes {
        let mut tags = size(4, 3);
        if plane == 0 {
            let mut text = text.as_bytes().to_vec();
            text.push(0);
            tags.push((270, Value::Text(text)));
        }
        maker.directory(&tags);
    }
    maker.bytes
}

fn ome(text: &str) -> Result<Image, ImageError> {
    read(&ome_tiff(
        ImageFormat::Tiff,
        ByteOrder::LittleEndian,
        text,
        6,
    ))
}

const SET: &str = r##"<?xml version="1.0" encoding="UTF-8"?>
<!-- Warning: this comment is an OME-XML metadata block. -->
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">
  <Instrument ID="Instrument:0"><Objective ID="Objective:0"/></Instrument>
  <Image ID="Image:0" Name="cells &amp; more">
    <Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SignificantBits="12"
            SizeX="4" SizeY="3" SizeZ="3" SizeC="2" SizeT="2" BigEndian="false"
            PhysicalSizeX="0.25" PhysicalSizeY="250" PhysicalSizeYUnit="nm" PhysicalSizeZ="0">
      <Channel ID="Channel:0:0" Name="GFP" Color="16711935" EmissionWavelength="509" ExcitationWavelength="488" Fluor="EGFP"><LightPath/></Channel>
      <Channel ID="Channel:0:1" Color="-16776961" EmissionWavelength="0.6" EmissionWavelengthUnit="µm"/>
      <TiffData FirstT="0" IFD="0" PlaneCount="4"><UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData>
      <TiffData FirstT="0" FirstZ="2" IFD="4"><UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData>
      <TiffData FirstT="1" IFD="0" PlaneCount="6"><UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData>
      <Plane TheC="0" TheT="0" TheZ="0"/>
    </Pixels>
  </Image>
  <StructuredAnnotations><XMLAnnotation ID="Annotation:0"><Value><Image Name="no image"><Pixels/></Image></Value></XMLAnnotation></StructuredAnnotations>
</OME>"##;

#[test]
fn plain_files_of_every_kind_are_read() {
    for format in EITHER {
        for order in BOTH {
            let mut maker = Maker::new(format, order);
            for _ in 0..3 {
                let mut tags = size(640, 480);
                tags.push((258, Value::Short(vec![16, 16, 16])));
                tags.push((277, Value::Short(vec![3])));
                tags.push((282, Value::Ratio(40_000, 1)));
                tags.push((283, Value::Ratio(20_000, 1)));
                tags.push((296, Value::Short(vec![3])));
                tags.push((339, Value::Short(vec![1, 1, 1])));
                maker.directory(&tags);
            }
            let mut reduced = size(640, 480);
            reduced.insert(0, (254, Value::Long(1)));
            maker.directory(&reduced);
            maker.directory(&size(64, 48));
            let image = read(&maker.bytes).unwrap();
            assert_eq!(
                (image.format, image.byte_order, image.ome),
                (format, order, false)
            );
            assert_eq!((image.directories, image.more_directories), (5, false));
            let [series] = image.series.as_slice() else {
                panic!("{image:?}");
            };
            let sizes = [
                series.size_x,
                series.size_y,
                series.size_z,
                series.size_c,
                series.size_t,
            ];
            assert_eq!(sizes, [640, 480, 1, 3, 3]);
            assert_eq!((series.planes, series.pixel_type), (3, PixelType::Uint16));
            let physical = &series.physical_size;
            assert_eq!(physical.x.as_ref().unwrap().value, 0.25);
            assert_eq!(physical.y.as_ref().unwrap().value, 0.5);
            assert_eq!(series.channels[0].samples_per_pixel, 3);
            let json = serde_json::to_string(&image).unwrap();
            assert_eq!(serde_json::from_str::<Image>(&json).unwrap(), image);
        }
    }
}

#[test]
fn files_of_another_writer_are_read() {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new_big(&mut bytes).unwrap();
    for _ in 0..2 {
        encoder
            .write_image::<tiff::encoder::colortype::Gray32Float>(5, 7, &[0.5; 35])
            .unwrap();
    }
    let image = read(&bytes.into_inner()).unwrap();
    assert_eq!(image.directories, 2);
    assert_eq!((image.series[0].size_x, image.series[0].size_y), (5, 7));
    assert_eq!(image.series[0].pixel_type, PixelType::Float);
}

#[test]
fn ome_metadata_is_read_and_says_what_is_in_this_file() {
    for format in EITHER {
        for order in BOTH {
            let image = read(&ome_tiff(format, order, SET, 6)).unwrap();
            assert!(image.ome);
            assert_eq!((image.directories, image.series_count), (6, 1));
            let [series] = image.series.as_slice() else {
                panic!("{image:?}");
            };
            assert_eq!(series.name.as_deref(), Some("cells & more"));
            let sizes = [
                series.size_x,
                series.size_y,
                series.size_z,
                series.size_c,
                series.size_t,
            ];
            assert_eq!(sizes, [4, 3, 3, 2, 2]);
            assert_eq!(
                (series.planes, series.planes_here),
                (12, 5),
                "the rest is in another file"
            );
            assert_eq!(series.significant_bits, Some(12));
            assert_eq!(series.dimension_order.as_deref(), Some("XYCZT"));
            let physical = serde_json::to_value(&series.physical_size).unwrap();
            assert_eq!(
                physical,
                serde_json::json!({"x": {"value": 0.25, "unit": "µm"}, "y": {"value": 250.0, "unit": "nm"}, "z": null})
            );
            let channels = serde_json::to_value(&series.channels).unwrap();
            assert_eq!(
                channels,
                serde_json::json!([
                    {"name": "GFP", "fluor": "EGFP", "color": "#00ff00ff", "samples_per_pixel": 1,
                     "excitation": {"value": 488.0, "unit": "nm"}, "emission": {"value": 509.0, "unit": "nm"}},
                    {"name": null, "fluor": null, "color": "#ff0000ff", "samples_per_pixel": 1,
                     "excitation": null, "emission": {"value": 0.6, "unit": "µm"}},
                ])
            );
        }
    }
}

#[test]
fn metadata_that_is_elsewhere_is_named_and_the_tags_are_told() {
    let image = ome(r#"<OME xmlns="x" UUID="urn:uuid:a"><BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:b"/></OME>"#).unwrap();
    assert!(image.ome);
    assert_eq!(image.metadata_file.as_deref(), Some("all.companion.ome"));
    assert_eq!((image.series[0].size_x, image.series[0].size_t), (4, 6));
}

#[test]
fn other_descriptions_are_no_metadata() {
    for text in [
        "",
        "x",
        "ImageJ=1.52\nimages=3\n",
        "<3 cells",
        "<TILE><OME/></TILE>",
        "<!-- OME -->",
        "<?xml",
        "<!DOCTYPE html><html/>",
    ] {
        let image = ome(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert!(!image.ome, "{text:?}");
        assert_eq!(image.series[0].size_t, 6);
    }
}

#[test]
fn broken_metadata_is_refused_with_the_place_and_the_reason() {
    let pixels = |inner: &str| SET.replace("SizeC=\"2\"", inner);
    let cases = [
        (pixels("SizeC=\"0\""), "SizeC is \"0\""),
        (pixels("SizeC=\"-1\""), "SizeC is \"-1\""),
        (pixels("SizeC=\"99999999999\""), "SizeC"),
        (pixels(""), "Pixels without SizeC"),
        (
            pixels("SizeC=\"7\""),
            "2 channels of together 2 samples, but its SizeC is 7",
        ),
        (pixels("SizeC=\"&x;\""), "SizeC"),
        (
            SET.replace("uint16", "uint17"),
            "\"uint17\" is no type of pixels",
        ),
        (SET.replace("</Channel>", "</Chanel>"), "Channel"),
        (SET.replace("</OME>", ""), "ends within an element"),
        (
            SET.replace("<OME ", "<!DOCTYPE OME [<!ENTITY a \"b\">]><OME "),
            "document type",
        ),
        (
            SET.replace("PlaneCount=\"4\"", "PlaneCount=\"four\""),
            "PlaneCount is \"four\"",
        ),
    ];
    for (text, reason) in cases {
        let error = ome(&text).unwrap_err().to_string();
        assert!(
            error.contains("OME-XML") && error.contains("at byte ") && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn broken_files_are_refused_with_the_reason() {
    let plain = |tags: &[(u16, Value)]| {
        let mut maker = Maker::new(ImageFormat::Tiff, ByteOrder::BigEndian);
        maker.directory(tags);
        maker.bytes
    };
    let with = |tag: (u16, Value)| {
        let mut tags = size(4, 3);
        tags.push(tag);
        plain(&tags)
    };
    let mut beyond = Maker::new(ImageFormat::Tiff, ByteOrder::LittleEndian);
    beyond.link_to(1_000_000);
    let mut twice = Maker::new(ImageFormat::BigTiff, ByteOrder::LittleEndian);
    let first = twice.directory(&size(4, 3));
    twice.directory(&size(4, 3));
    twice.link_to(first);
    let mut many = Maker::new(ImageFormat::BigTiff, ByteOrder::BigEndian);
    let at = many.bytes.len() as u64;
    many.link_to(at);
    many.put(1 << 60, 8);
    many.bytes.extend([0; 4096]);
    let cases = [
        (b"".to_vec(), "no TIFF"),
        (b"II*\0\x08".to_vec(), "truncated"),
        (b"\xFF\xD8\xFF\xE0 jpeg".to_vec(), "no TIFF"),
        (
            Maker::new(ImageFormat::Tiff, ByteOrder::BigEndian).bytes,
            "no image",
        ),
        (beyond.bytes, "byte 1000000"),
        (
            twice.bytes,
            "image directory 2 is at byte 16, where an earlier one is",
        ),
        (many.bytes, "truncated"),
        (plain(&[]), "ImageWidth of image directory 0: it is missing"),
        (
            plain(&size(0, 3)),
            "ImageWidth of image directory 0: it is 0",
        ),
        (with((258, Value::Short(vec![77]))), "77 bits"),
        (
            with((270, Value::Claim(u64::from(u32::MAX), 8))),
            "claims 4294967295 values in a file of",
        ),
        (
            with((270, Value::Claim(40, u64::from(u32::MAX)))),
            "ImageDescription",
        ),
        (
            with((277, Value::Text(b"three samples".to_vec()))),
            "SamplesPerPixel",
        ),
    ];
    for (bytes, reason) in cases {
        let (result, peak) = peak(|| read(&bytes));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(reason), "{error:?} should say {reason:?}");
        assert!(peak < MOST, "{peak}");
    }
}

#[test]
fn a_million_directories_are_counted_up_to_a_limit() {
    let mut maker = Maker::new(ImageFormat::Tiff, ByteOrder::LittleEndian);
    maker.directory(&size(4, 3));
    for _ in 0..1_000_000 {
        maker.directory(&[]);
    }
    let (image, peak) = peak(|| read(&maker.bytes));
    let image = image.unwrap();
    assert_eq!(
        (image.directories, image.more_directories),
        (MAX_DIRECTORIES, true)
    );
    assert_eq!(image.series[0].size_t, 1);
    assert!(peak < MOST, "{peak}");
}

#[test]
fn the_largest_directory_costs_little() {
    let mut maker = Maker::new(ImageFormat::BigTiff, ByteOrder::LittleEndian);
    maker.directory(&size(4, 3));
    let tags: Vec<_> = (0..u16::MAX).map(|tag| (tag, Value::Long(4))).collect();
    maker.directory(&tags);
    let file = file(&maker.bytes);
    let (image, peak) = peak(|| info(&file, maker.bytes.len() as u64));
    assert_eq!(image.unwrap().directories, 2);
    assert!(peak < MOST, "{peak}");
}

#[test]
fn directories_that_overlap_do_not_make_a_small_file_endless() {
    // Each directory has as many tags as can be, and names the one two bytes on.
    let mut maker = Maker::new(ImageFormat::Tiff, ByteOrder::LittleEndian);
    maker.directory(&size(4, 3));
    let start = maker.bytes.len();
    maker.link_to(start as u64);
    maker.bytes.resize(start + 70_000 * 12, 0xFF);
    // 0xFFFF entries end at start + 2 + 0xFFFF * 12; the offsets of the next ones stand there.
    for step in 0..1000_usize {
        let at = start + step * 4 + 2 + 0xFFFF * 12;
        let next = u32::try_from(start + (step + 1) * 4).unwrap().to_le_bytes();
        maker.bytes[at..at + 4].copy_from_slice(&next);
    }
    let (image, peak) = peak(|| read(&maker.bytes));
    let image = image.unwrap();
    assert!(image.more_directories);
    assert!(
        (100..200).contains(&image.directories),
        "{}",
        image.directories
    );
    assert!(peak < MOST, "{peak}");
}

#[test]
fn xml_bombs_cost_little() {
    let laughs: String = (1..10)
        .map(|n| format!("<!ENTITY l{n} \"{}\">", format!("&l{};", n - 1).repeat(10)))
        .collect();
    let bomb = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE OME [<!ENTITY l0 \"lol\">{laughs}]><OME UUID=\"&l9;\"/>"
    );
    let deep = format!("<OME>{}", "<a>".repeat(1_000_000));
    let long = format!("<OME UUID=\"{}\"/>", "x".repeat(20_000_000));
    let text = format!("<OME>{}", "x".repeat(20_000_000));
    let attributes = format!("<OME {}/>", "a=\"\" ".repeat(500_000));
    let cases = [
        (bomb, "document type"),
        (deep, "nested"),
        (long, "larger than"),
        (text, "larger than"),
        (attributes, ""),
    ];
    for (text, reason) in cases {
        let bytes = ome_tiff(ImageFormat::Tiff, ByteOrder::LittleEndian, &text, 1);
        let file = file(&bytes);
        let (result, peak) = peak(|| info(&file, bytes.len() as u64));
        assert!(peak < MOST, "{peak}: {}", &text[..40]);
        match result {
            Ok(_) => assert_eq!(reason, "", "{}", &text[..40]),
            Err(error) => assert!(error.to_string().contains(reason), "{error}"),
        }
    }
}

#[test]
fn endless_images_and_channels_are_counted_and_not_kept() {
    let pixels = r#"<Pixels Type="bit" SizeX="1" SizeY="1" SizeZ="1" SizeT="1""#;
    let name = "n".repeat(1000);
    let images = format!("<Image Name=\"{name}\">{pixels} SizeC=\"1\"/></Image>").repeat(20_000);
    let channels = format!("<Channel Name=\"{name}\"/>").repeat(20_000);
    let one = format!("<Image>{pixels} SizeC=\"20000\">{channels}</Pixels></Image>");
    for (body, series, planes) in [(images, 20_000, 1), (one, 1, 20_000)] {
        let text = format!("<OME>{body}</OME>");
        let bytes = ome_tiff(ImageFormat::Tiff, ByteOrder::LittleEndian, &text, 1);
        let file = file(&bytes);
        let (image, peak) = peak(|| info(&file, bytes.len() as u64).unwrap());
        assert_eq!(image.series_count, series);
        assert_eq!(image.series[0].planes, planes);
        assert!(peak < MOST, "{peak}");
        let json = serde_json::to_vec(&image).unwrap().len();
        assert!(
            json < 8 * 1024 * 1024,
            "{json} bytes have to go into one message"
        );
    }
}

#[test]
fn every_truncation_is_an_error_until_all_of_the_metadata_is_there() {
    for format in EITHER {
        let bytes = ome_tiff(format, ByteOrder::BigEndian, SET, 2);
        let file = file(&bytes);
        let whole = info(&file, bytes.len() as u64).unwrap();
        assert_eq!(whole.directories, 2);
        for len in 0..bytes.len() as u64 {
            assert!(info(&file, len).is_err(), "{len} of {}", bytes.len());
        }
    }
}

proptest! {
    #[test]
    fn no_damage_causes_a_panic_or_takes_much_memory(
        big in any::<bool>(),
        order in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = ome_tiff(EITHER[usize::from(big)], BOTH[usize::from(order)], SET, 3);
        let head = bytes.len().min(16);
        for (n, (at, value)) in damage.into_iter().enumerate() {
            // The header is small and decides much: every third blow goes there, or to the last directories.
            let at = match n % 3 {
                0 => at.index(head),
                1 => bytes.len() - 1 - at.index(300),
                _ => at.index(bytes.len()),
            };
            bytes[at] = value;
        }
        let (_, peak) = peak(|| read(&bytes));
        prop_assert!(peak < MOST);
    }
}
