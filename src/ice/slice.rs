//! Slices: what a class, or an exception, adds to the one above it (`ice-protocol.md` §7, §9).

use super::bytes::{Encoding, Reader, Writer};
use super::error::DecodeError;

/// How classes and exceptions are written in encoding 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Without sizes: whoever reads has to know every class.
    #[default]
    Compact,
    /// With sizes: slices that are not known can be skipped.
    Sliced,
}

/// Whose slices they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A class's.
    Class,
    /// An exception's.
    Exception,
}

/// The type that a slice says it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeId<S> {
    /// It says none: it follows another slice.
    None,
    /// A name.
    Name(S),
    /// A number.
    Compact(i32),
}

const NAME: u8 = 1;
const INDEX: u8 = 2;
const COMPACT: u8 = 3;
const OPTIONALS: u8 = 0x04;
const TABLE: u8 = 0x08;
const SIZE: u8 = 0x10;
const LAST: u8 = 0x20;

/// The class above all others, which is a slice in encoding 1.0.
const OBJECT: &str = "::Ice::Object";

/// How a slice begins.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    kind: Kind,
    pub(super) id: TypeId<&'a str>,
    /// How many bytes its members take, if it says so.
    size: Option<usize>,
    optionals: bool,
    table: bool,
    /// No slice follows it; encoding 1.0 does not say.
    pub(super) last: bool,
}

/// The bytes of a slice of a class that is not known.
#[derive(Debug)]
pub(super) struct RawSlice {
    pub(super) id: TypeId<String>,
    optionals: bool,
    last: bool,
    members: Vec<u8>,
    table: Vec<u32>,
}

/// The place in a reader where the members of a slice begin.
#[derive(Debug)]
pub struct Inside<'a> {
    /// What follows the slice, where its end is known.
    after: Option<&'a [u8]>,
    /// The table of the slice around this one.
    table: Option<Vec<u32>>,
    optionals: bool,
}

impl<'a> Head<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, kind: Kind) -> Result<Self, DecodeError> {
        let flags = match (reader.encoding(), kind) {
            (Encoding::V11, _) => reader.byte()?,
            (Encoding::V10, Kind::Exception) => NAME | SIZE,
            (Encoding::V10, Kind::Class) => match reader.byte()? {
                0 => NAME | SIZE,
                1 => INDEX | SIZE,
                other => return Err(DecodeError::Bool(other)),
            },
        };
        let id = match (kind, flags & COMPACT) {
            (Kind::Exception, _) => TypeId::Name(reader.text()?),
            (_, COMPACT) => {
                let id = reader.size()?;
                TypeId::Compact(i32::try_from(id).unwrap_or(i32::MAX))
            }
            (_, INDEX) => {
                let index = reader.size()?;
                let types = &reader.reading()?.types;
                let name = index.checked_sub(1).and_then(|at| types.get(at));
                TypeId::Name(*name.ok_or(DecodeError::Slice("no such type id"))?)
            }
            (_, NAME) => {
                let name = reader.text()?;
                reader.reading()?.types.push(name);
                TypeId::Name(name)
            }
            _ => TypeId::None,
        };
        let size = match flags & SIZE {
            0 => None,
            _ => {
                let size = reader.int()?;
                // The size counts itself.
                let members = usize::try_from(size).ok().and_then(|n| n.checked_sub(4));
                Some(members.ok_or(DecodeError::NegativeSize(size))?)
            }
        };
        Ok(Self {
            kind,
            id,
            size,
            optionals: flags & OPTIONALS != 0,
            table: flags & TABLE != 0,
            last: flags & LAST != 0,
        })
    }

    /// Returns whether it is the slice that is the last one in encoding 1.0.
    pub(super) fn is_object(&self) -> bool {
        self.id == TypeId::Name(OBJECT)
    }

    /// Begins to read the members.
    pub fn begin(&self, reader: &mut Reader<'a>) -> Result<Inside<'a>, DecodeError> {
        let mut inside = Inside {
            after: None,
            table: None,
            optionals: self.optionals,
        };
        let mut table = None;
        if let Some(size) = self.size {
            let members = reader.take(size)?;
            // What the members refer to follows them, and is read before them.
            if self.table {
                table = Some(read_table(reader)?);
            }
            inside.after = Some(reader.peek());
            reader.rewind(members);
        } else if self.table {
            return Err(DecodeError::Slice("it has a table and no size"));
        }
        if let Some(reading) = reader.classes.as_deref_mut() {
            inside.table = std::mem::replace(&mut reading.table, table);
        }
        Ok(inside)
    }

    /// Reads the head of the slice that follows.
    pub fn next(&self, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if self.last {
            return Err(DecodeError::Slice("one is missing"));
        }
        Self::read(reader, self.kind)
    }

    /// Ends with this slice, which is of a class that has none above it.
    pub fn end(&self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        match (reader.encoding(), self.kind) {
            (Encoding::V11, _) if self.last => Ok(()),
            (Encoding::V11, _) => Err(DecodeError::Slice("there is one too many")),
            (Encoding::V10, Kind::Exception) => Ok(()),
            (Encoding::V10, Kind::Class) => {
                let object = Self::read(reader, Kind::Class)?;
                match object.is_object() {
                    true => object.skip(reader),
                    false => Err(DecodeError::Slice("there is one too many")),
                }
            }
        }
    }

    /// Skips the members.
    pub(super) fn skip(&self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        self.raw(reader).map(drop)
    }

    /// Takes the members as bytes.
    pub(super) fn raw(&self, reader: &mut Reader<'a>) -> Result<RawSlice, DecodeError> {
        let id = match self.id {
            TypeId::None => TypeId::None,
            TypeId::Name(name) => TypeId::Name(name.to_owned()),
            TypeId::Compact(id) => TypeId::Compact(id),
        };
        let Some(size) = self.size else {
            return Err(DecodeError::Class(match self.id {
                TypeId::Name(name) => name.to_owned(),
                TypeId::Compact(id) => id.to_string(),
                TypeId::None => String::new(),
            }));
        };
        Ok(RawSlice {
            id,
            optionals: self.optionals,
            last: self.last,
            members: reader.take(size)?.to_vec(),
            table: match self.table {
                true => read_table(reader)?,
                false => Vec::new(),
            },
        })
    }
}

fn read_table(reader: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    let count = reader.count(1)?;
    let mut table = Vec::new();
    for _ in 0..count {
        // A table refers to instances as if no other were around it.
        let outer = reader.reading()?.table.take();
        let place = reader.reference()?;
        reader.reading()?.table = outer;
        if place == 0 {
            return Err(DecodeError::Slice("its table refers to nothing"));
        }
        table.push(place);
    }
    Ok(table)
}

impl<'a> Inside<'a> {
    /// Takes the optional member of this tag.
    pub fn optional<T: super::Decode<'a>>(
        &self,
        reader: &mut Reader<'a>,
        tag: i32,
    ) -> Result<Option<T>, DecodeError> {
        match self.optionals {
            true => reader.optional(tag),
            false => Ok(None),
        }
    }

    /// Ends the members.
    pub fn end(self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        if self.optionals {
            reader.skip_optional_members()?;
        }
        if let Some(after) = self.after {
            match reader.left() {
                0 => reader.rewind(after),
                left => return Err(DecodeError::LeftOver(left)),
            }
        }
        if let Some(reading) = reader.classes.as_deref_mut() {
            reading.table = self.table;
        }
        Ok(())
    }
}

/// A slice that is being written.
#[derive(Debug)]
pub struct Open {
    flags_at: Option<usize>,
    size_at: Option<usize>,
    /// The table, and whether there was an optional member, of the slice around this one.
    outer: (Option<Vec<u32>>, bool),
    own_table: bool,
}

impl Writer {
    /// Begins a slice of a class; `root` if no class is above it.
    pub fn begin_slice(&mut self, type_id: &str, compact_id: Option<i32>, root: bool) -> Open {
        let id = compact_id.map_or(TypeId::Name(type_id), TypeId::Compact);
        self.open(id, type_id, root)
    }

    fn open(&mut self, id: TypeId<&str>, name: &str, root: bool) -> Open {
        let encoding = self.encoding();
        let Some(writing) = self.classes.as_deref_mut() else {
            return Open::nothing();
        };
        let sliced = writing.format == Format::Sliced;
        let first = std::mem::take(&mut writing.first);
        let mut open = Open::nothing();
        open.outer.1 = std::mem::take(&mut writing.optional);
        open.own_table = sliced && encoding == Encoding::V11;
        open.outer.0 = std::mem::replace(&mut writing.table, open.own_table.then(Vec::new));
        // Encoding 1.0 has no numbers for types.
        let id = match encoding {
            Encoding::V10 => TypeId::Name(name),
            Encoding::V11 if first || sliced => id,
            Encoding::V11 => TypeId::None,
        };
        let known = match id {
            TypeId::Name(name) => {
                let next = writing.types.len() + 1;
                let index = writing.types.get(name).copied();
                if index.is_none() {
                    writing.types.insert(name.to_owned(), next);
                }
                index
            }
            _ => None,
        };
        match encoding {
            Encoding::V10 => self.byte(u8::from(known.is_some())),
            Encoding::V11 => {
                open.flags_at = Some(self.bytes().len());
                let of_id = match (id, known) {
                    (TypeId::None, _) => 0,
                    (TypeId::Compact(_), _) => COMPACT,
                    (TypeId::Name(_), Some(_)) => INDEX,
                    (TypeId::Name(_), None) => NAME,
                };
                let of_size = if sliced { SIZE } else { 0 };
                let of_end = if root { LAST } else { 0 };
                self.byte(of_id | of_size | of_end);
            }
        }
        match (id, known) {
            (TypeId::None, _) => {}
            (TypeId::Compact(id), _) => self.size(usize::try_from(id).unwrap_or(0)),
            (TypeId::Name(_), Some(index)) => self.size(index),
            (TypeId::Name(name), None) => self.text(name),
        }
        if sliced || encoding == Encoding::V10 {
            open.size_at = Some(self.bytes().len());
            self.int(i32::MAX);
        }
        open
    }

    /// Begins a slice of an exception.
    pub fn begin_exception_slice(&mut self, type_id: &str, root: bool) -> Open {
        let mut open = Open::nothing();
        let sliced = match self.classes.as_deref_mut() {
            Some(writing) => {
                let sliced = writing.format == Format::Sliced;
                open.own_table = sliced && self.encoding() == Encoding::V11;
                let writing = self.classes.as_deref_mut().expect("it is there");
                open.outer.0 = std::mem::replace(&mut writing.table, open.own_table.then(Vec::new));
                open.outer.1 = std::mem::take(&mut writing.optional);
                sliced
            }
            None => false,
        };
        if self.encoding() == Encoding::V11 {
            open.flags_at = Some(self.bytes().len());
            let of_size = if sliced { SIZE } else { 0 };
            let of_end = if root { LAST } else { 0 };
            self.byte(of_size | of_end);
        }
        self.text(type_id);
        if sliced || self.encoding() == Encoding::V10 {
            open.size_at = Some(self.bytes().len());
            self.int(i32::MAX);
        }
        open
    }

    /// Ends a slice.
    pub fn end_slice(&mut self, open: Open) {
        let Some(writing) = self.classes.as_deref_mut() else {
            return;
        };
        let optional = std::mem::replace(&mut writing.optional, open.outer.1);
        let table = match open.own_table {
            true => writing.table.take().unwrap_or_default(),
            false => Vec::new(),
        };
        if optional && let Some(at) = open.flags_at {
            self.end_optional_members();
            self.set_bits(at, OPTIONALS);
        }
        if let Some(at) = open.size_at {
            let size = self.bytes().len() - at;
            self.set_int(at, super::bytes::length(size));
        }
        if !table.is_empty()
            && let Some(at) = open.flags_at
        {
            self.set_bits(at, TABLE);
            self.size(table.len());
            for place in table {
                self.reference(place);
            }
        }
        if let Some(writing) = self.classes.as_deref_mut() {
            writing.table = open.outer.0;
        }
    }

    /// Ends an instance: in encoding 1.0 by the slice of the class above all others.
    pub fn end_instance(&mut self) {
        if self.encoding() == Encoding::V10 {
            let open = self.open(TypeId::Name(OBJECT), OBJECT, true);
            // Facets, which there are no more.
            self.size(0);
            self.end_slice(open);
        }
    }

    /// Notes that an optional member was written.
    pub(super) fn note_optional(&mut self) {
        if let Some(writing) = self.classes.as_deref_mut() {
            writing.optional = true;
        }
    }
}

impl Open {
    fn nothing() -> Self {
        Self {
            flags_at: None,
            size_at: None,
            outer: (None, false),
            own_table: false,
        }
    }
}

impl RawSlice {
    /// The slice that says nothing: of the class above all others.
    pub(super) fn object() -> Self {
        Self {
            id: TypeId::Name(OBJECT.to_owned()),
            optionals: false,
            last: true,
            members: Vec::new(),
            table: Vec::new(),
        }
    }

    /// Returns whether all that it refers to can be written here.
    pub(super) fn fits(&self, writer: &Writer) -> bool {
        let writing = writer.classes.as_deref();
        writing.is_none_or(|writing| self.table.iter().all(|place| writing.may_refer(*place)))
    }

    /// Puts the slice as it was.
    pub(super) fn encode(&self, writer: &mut Writer) {
        let (id, name) = match &self.id {
            TypeId::None => (TypeId::None, ""),
            TypeId::Name(name) => (TypeId::Name(name.as_str()), name.as_str()),
            TypeId::Compact(id) => (TypeId::Compact(*id), ""),
        };
        let open = writer.open(id, name, self.last);
        writer.put(&self.members);
        if let (true, Some(at)) = (self.optionals, open.flags_at) {
            // Their end is among the members.
            writer.set_bits(at, OPTIONALS);
        }
        if let Some(table) = writer.classes.as_deref_mut().and_then(|w| w.table.as_mut()) {
            table.extend(&self.table);
        }
        writer.end_slice(open);
    }
}
