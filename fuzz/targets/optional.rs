//! Optional parameters and optional members, also those that nobody asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use omero_grid::ice::{Decode, DecodeError, Encode, Encoding, Proxy, Reader, Ref, Writer};
use omero_grid_fuzz::{Color, DEMO, Opt, Point, Wide, choices, value_settles};

/// Reads an optional value and writes it, if it is there.
fn pass<T>(reader: &mut Reader<'_>, writer: &mut Writer, tag: i32) -> Result<(), DecodeError>
where
    T: for<'a> Decode<'a> + Encode,
{
    let value = reader.optional::<T>(tag)?;
    writer.optional(tag, value.as_ref());
    Ok(())
}

fn parameters(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut reader = Reader::new(bytes, Encoding::V11);
    let mut writer = Writer::new(Encoding::V11);
    pass::<bool>(&mut reader, &mut writer, 1)?;
    pass::<i16>(&mut reader, &mut writer, 2)?;
    pass::<i32>(&mut reader, &mut writer, 3)?;
    pass::<f64>(&mut reader, &mut writer, 4)?;
    pass::<Color>(&mut reader, &mut writer, 5)?;
    pass::<String>(&mut reader, &mut writer, 6)?;
    pass::<Vec<u8>>(&mut reader, &mut writer, 7)?;
    pass::<Vec<i32>>(&mut reader, &mut writer, 8)?;
    pass::<Vec<String>>(&mut reader, &mut writer, 9)?;
    pass::<Point>(&mut reader, &mut writer, 10)?;
    pass::<Wide>(&mut reader, &mut writer, 11)?;
    pass::<Vec<Point>>(&mut reader, &mut writer, 28)?;
    pass::<Option<Proxy>>(&mut reader, &mut writer, 29)?;
    pass::<i64>(&mut reader, &mut writer, 30)?;
    pass::<Vec<Vec<u8>>>(&mut reader, &mut writer, 254)?;
    pass::<u8>(&mut reader, &mut writer, 300)?;
    reader.finish()?;
    Ok(writer.into_bytes())
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, encoding, format, bytes)) = choices(data) else {
        return;
    };
    if choice % 2 == 0 {
        value_settles::<Ref<Opt>>(bytes, encoding, format, DEMO);
    } else if let Ok(written) = parameters(bytes) {
        assert_eq!(parameters(&written).as_ref(), Ok(&written));
    }
});
