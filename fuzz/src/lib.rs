//! What several targets share: the types that the recorded messages are of, and what has to hold of whatever is understood.

use std::sync::Arc;

use omero_grid::ice::{
    Decode, Encapsulation, Encode, Encoding, Exception, Family, Format, Known, Objects, Proxy, Ref,
    Thrown, Writer, throw_with,
};
use omero_grid::{class, enumeration, exception, record};

enumeration! {
    /// An enumeration.
    pub enum Color {
        /// One value.
        Red = 0,
        /// Another.
        Green = 1,
        /// One that is not next to it.
        Blue = 20,
    }
}

record! {
    /// A struct of fixed width.
    pub struct Point {
        /// Its first number.
        pub x: i32,
        /// Its second number.
        pub y: i32,
    }
}

record! {
    /// A struct of any width.
    pub struct Wide {
        /// A text.
        pub name: String,
        /// A number.
        pub number: f64,
    }
}

class! {
    /// A class.
    pub struct Base("::Demo::Base") {
        /// A text.
        pub name: String,
    }
}

class! {
    /// A class derived from it.
    pub struct Derived("::Demo::Derived"): Base {
        /// A number.
        pub value: i32,
        /// Another instance.
        pub other: Ref<Base>,
    }
}

class! {
    /// A graph.
    pub struct Node("::Demo::Node") {
        /// A text.
        pub label: String,
        /// One part.
        pub left: Ref<Node>,
        /// The other part.
        pub right: Ref<Node>,
    }
}

class! {
    /// A class with a number for its name.
    pub struct Compact("::Demo::Compact", 7) {
        /// A number.
        pub z: i32,
    }
}

class! {
    /// A class derived from it.
    pub struct CompactChild("::Demo::CompactChild"): Compact {
        /// A text.
        pub extra: String,
    }
}

class! {
    /// A class with an optional member of every kind.
    pub struct Opt("::Demo::Opt") {
        /// One that is not optional.
        pub a: i32,
    } optional {
        /// Four bytes.
        1 => pub b: i32,
        /// A text.
        5 => pub c: String,
        /// One byte.
        6 => pub flag: bool,
        /// Two bytes.
        7 => pub short: i16,
        /// Eight bytes.
        8 => pub double: f64,
        /// A size.
        9 => pub color: Color,
        /// Bytes.
        10 => pub bytes: Vec<u8>,
        /// Elements of fixed width.
        11 => pub numbers: Vec<i32>,
        /// A struct of fixed width.
        12 => pub point: Point,
        /// A struct of any width.
        13 => pub wide: Wide,
        /// An instance.
        14 => pub other: Ref<Opt>,
        /// A proxy.
        29 => pub proxy: Option<Proxy>,
        /// Texts.
        40 => pub d: Vec<String>,
        /// A long tag.
        400 => pub far: u8,
    }
}

exception! {
    /// An exception.
    pub struct BaseError("::Demo::BaseError") {
        /// A text.
        pub reason: String,
    }
}

exception! {
    /// An exception derived from it.
    pub struct DerivedError("::Demo::DerivedError"): BaseError {
        /// A number.
        pub code: i32,
    }
}

exception! {
    /// An exception with an instance in it.
    pub struct ClassError("::Demo::ClassError"): BaseError {
        /// The instance.
        pub detail: Ref<Base>,
    }
}

/// The classes above.
pub const DEMO: Family = &[
    Known::of::<Base>(),
    Known::of::<Derived>(),
    Known::of::<Node>(),
    Known::of::<Compact>(),
    Known::of::<CompactChild>(),
    Known::of::<Opt>(),
];

/// Takes an encoding and a format off the front; what is left of the first byte is a choice for whoever calls.
pub fn choices(data: &[u8]) -> Option<(usize, Encoding, Format, &[u8])> {
    let (first, bytes) = data.split_first()?;
    let encoding = match first & 1 {
        0 => Encoding::V10,
        _ => Encoding::V11,
    };
    let format = match first & 2 {
        0 => Format::Compact,
        _ => Format::Sliced,
    };
    Some((usize::from(first >> 2), encoding, format, bytes))
}

fn other(encoding: Encoding) -> Encoding {
    match encoding {
        Encoding::V10 => Encoding::V11,
        Encoding::V11 => Encoding::V10,
    }
}

/// Writes a value again and again, in the encoding in which it came and in the other one: it is always understood, and once written always
/// the same.
pub fn value_settles<T>(bytes: &[u8], encoding: Encoding, format: Format, family: Family)
where
    T: for<'a> Decode<'a> + Encode,
{
    let read = |bytes: &[u8], encoding: Encoding| {
        let version = encoding.bytes();
        Encapsulation { version, bytes }.decode_with::<T>(family)
    };
    let Ok((value, objects)) = read(bytes, encoding) else {
        return;
    };
    let objects = Arc::new(objects);
    for encoding in [encoding, other(encoding)] {
        let write = |value: &T, objects: &Arc<Objects>| {
            let mut writer = Writer::new(encoding);
            writer.with_classes(value, objects, format);
            writer.into_bytes()
        };
        let first = write(&value, &objects);
        let (again, others) = read(&first, encoding).expect("what was written is understood");
        assert_eq!(write(&again, &Arc::new(others)), first);
    }
}

/// Does the same with an exception, if it can be taken for one of this type.
pub fn exception_settles<E: Exception>(
    bytes: &[u8],
    encoding: Encoding,
    format: Format,
    family: Family,
) {
    let read = |bytes: &[u8], encoding: Encoding| {
        let version = encoding.bytes();
        Thrown::new(Encapsulation { version, bytes })?.cast::<E>(family)
    };
    let Ok(Some((exception, objects))) = read(bytes, encoding) else {
        return;
    };
    let objects = Arc::new(objects);
    for encoding in [encoding, other(encoding)] {
        let write = |exception: &E, objects: &Arc<Objects>| {
            let mut writer = Writer::new(encoding);
            throw_with(exception, &mut writer, objects, format);
            writer.into_bytes()
        };
        let first = write(&exception, &objects);
        let again = read(&first, encoding).expect("what was written is understood");
        let (again, others) = again.expect("it is what it was");
        assert_eq!(write(&again, &Arc::new(others)), first);
    }
}
