//! Instances of classes: what refers to what, and the forms of both encodings (`ice-protocol.md` §9).
//!
//! Instances are in [`Objects`], and a [`Ref`] is the place of one there. So a graph may share, and may be a circle, and nothing owns itself.
//! A class is declared by [`class!`](crate::class); a [`Family`] is the classes that may be met.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::bytes::{Encapsulation, Encoding, Reader, Writer};
use super::codec::{Decode, Encode, OptionalFormat, Shape};
use super::error::DecodeError;
use super::slice::{Format, Head, Kind, RawSlice, TypeId};

/// How deep instances may be within instances. ZeroC's limit is the same: `Ice.ClassGraphDepthMax`.
const DEPTH: usize = 100;

/// A reference to an instance of this class, or of one derived from it; or to nothing.
pub struct Ref<T> {
    /// Its place among the objects, from 1; 0 for nothing.
    place: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Ref<T> {
    /// A reference to nothing.
    pub const NIL: Self = Self::at(0);

    const fn at(place: u32) -> Self {
        Self {
            place,
            of: PhantomData,
        }
    }

    /// Returns whether it refers to nothing.
    pub fn is_nil(self) -> bool {
        self.place == 0
    }

    /// The same reference, to what is taken for another class.
    pub fn cast<U>(self) -> Ref<U> {
        Ref::at(self.place)
    }
}

impl<T> Clone for Ref<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ref<T> {}

impl<T> Default for Ref<T> {
    fn default() -> Self {
        Self::NIL
    }
}

impl<T> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl<T> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ref({})", self.place)
    }
}

/// An instance of a class. Implemented by [`class!`](crate::class).
pub trait Instance: Any + Send + Sync + fmt::Debug {
    /// Returns the type id of its class.
    fn class_id(&self) -> &str;

    /// Returns itself as an instance of the class above its own.
    fn base(&self) -> Option<&dyn Instance>;

    /// Puts its slices.
    fn encode_slices(&self, writer: &mut Writer);

    /// Returns itself, to find out what it is.
    fn as_any(&self) -> &dyn Any;
}

/// A class. Implemented by [`class!`](crate::class).
pub trait Class: Instance + Sized {
    /// Its type id.
    const TYPE_ID: &'static str;
    /// Its short type id, if it has one.
    const COMPACT_ID: Option<i32>;

    /// Takes its slices, the first of which begins with this head.
    fn decode_slices<'a>(reader: &mut Reader<'a>, head: Head<'a>) -> Result<Self, DecodeError>;
}

type DecodeSlices = for<'a> fn(&mut Reader<'a>, Head<'a>) -> Result<Box<dyn Instance>, DecodeError>;

/// A class that may be met.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    type_id: &'static str,
    compact_id: Option<i32>,
    decode: DecodeSlices,
}

impl Known {
    /// This class.
    pub const fn of<T: Class>() -> Self {
        Self {
            type_id: T::TYPE_ID,
            compact_id: T::COMPACT_ID,
            decode: |reader, head| Ok(Box::new(T::decode_slices(reader, head)?)),
        }
    }
}

/// The classes that may be met. Of others, what they have in common with these is taken, where the bytes allow that.
pub type Family = &'static [Known];

/// Instances, and the places at which they are.
#[derive(Debug, Default)]
pub struct Objects {
    all: Vec<Box<dyn Instance>>,
}

impl Objects {
    /// Adds an instance.
    pub fn add<T: Class>(&mut self, instance: T) -> Ref<T> {
        self.all.push(Box::new(instance));
        Ref::at(u32::try_from(self.all.len()).expect("nobody has so many instances"))
    }

    /// Returns the instance that is referred to, as one of the class that the reference names.
    pub fn get<T: Class>(&self, of: Ref<T>) -> Result<Option<&T>, DecodeError> {
        let Some(instance) = self.instance(of.place) else {
            return Ok(None);
        };
        match cast(instance) {
            Some(found) => Ok(Some(found)),
            None => Err(DecodeError::NotA {
                found: instance.class_id().to_owned(),
                wanted: T::TYPE_ID,
            }),
        }
    }

    /// Returns the instance that is referred to, if it is of that class or of one derived from it.
    pub fn find<T: Class, U>(&self, of: Ref<U>) -> Option<&T> {
        self.instance(of.place).and_then(cast)
    }

    fn instance(&self, place: u32) -> Option<&dyn Instance> {
        let at = usize::try_from(place).ok()?.checked_sub(1)?;
        self.all.get(at).map(|instance| &**instance)
    }
}

fn cast<T: Class>(instance: &dyn Instance) -> Option<&T> {
    let mut class = Some(instance);
    while let Some(current) = class {
        if let Some(found) = current.as_any().downcast_ref() {
            return Some(found);
        }
        class = current.base();
    }
    None
}

/// An instance of a class that is not known: what is known of it are its bytes.
#[derive(Debug)]
struct Unknown {
    /// The encoding that the bytes are in. In the other one nothing can be said of it but that it is there.
    encoding: Encoding,
    slices: Vec<RawSlice>,
}

impl Unknown {
    fn read(reader: &Reader<'_>, slices: Vec<RawSlice>) -> Box<dyn Instance> {
        Box::new(Self {
            encoding: reader.encoding(),
            slices,
        })
    }
}

impl Instance for Unknown {
    fn class_id(&self) -> &str {
        match self.slices.first().map(|slice| &slice.id) {
            Some(TypeId::Name(name)) => name,
            _ => "",
        }
    }

    fn base(&self) -> Option<&dyn Instance> {
        None
    }

    fn encode_slices(&self, writer: &mut Writer) {
        let same = self.encoding == writer.encoding();
        let fits = self.slices.iter().all(|slice| slice.fits(writer));
        match (writer.encoding(), same && fits) {
            (Encoding::V10, true) => self.slices.iter().for_each(|slice| slice.encode(writer)),
            (Encoding::V11, true) if !self.slices.is_empty() => {
                writer.sliced(|writer| self.slices.iter().for_each(|slice| slice.encode(writer)));
            }
            (Encoding::V10, false) => {}
            (Encoding::V11, _) => writer.sliced(|writer| RawSlice::object().encode(writer)),
        }
        writer.end_instance();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a reader knows of classes.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    family: Family,
    /// The instances in the order of their places; one that is being read is not there yet.
    all: Vec<Option<Box<dyn Instance>>>,
    /// The places of the numbers of encoding 1.0.
    numbers: HashMap<i32, u32>,
    /// The type ids that have been met, which are referred to by their number.
    pub(super) types: Vec<&'a str>,
    /// How deep the reader is in instances.
    depth: usize,
    /// What references in this slice mean, where it has a table of them.
    pub(super) table: Option<Vec<u32>>,
}

impl<'a> Reading<'a> {
    fn new(family: Family) -> Self {
        Self {
            family,
            all: Vec::new(),
            numbers: HashMap::new(),
            types: Vec::new(),
            depth: 0,
            table: None,
        }
    }

    /// Makes room for one more instance.
    fn reserve(&mut self) -> Result<u32, DecodeError> {
        self.all.push(None);
        u32::try_from(self.all.len()).map_err(|_| DecodeError::Depth)
    }

    fn place(&mut self, place: u32, instance: Box<dyn Instance>) -> Result<(), DecodeError> {
        let at = usize::try_from(place).unwrap_or(0).wrapping_sub(1);
        let room = self.all.get_mut(at);
        let room = room.ok_or(DecodeError::Instance(i64::from(place)))?;
        *room = Some(instance);
        Ok(())
    }
}

impl<'a> Reader<'a> {
    /// Expects instances of these classes from here on.
    pub(super) fn expect_classes(&mut self, family: Family) {
        self.classes = Some(Box::new(Reading::new(family)));
    }

    pub(super) fn reading(&mut self) -> Result<&mut Reading<'a>, DecodeError> {
        let reading = self.classes.as_deref_mut();
        reading.ok_or(DecodeError::Slice("no instance is expected here"))
    }

    /// Takes a reference, and the instance itself where it is there and then. Returns its place.
    pub(super) fn reference(&mut self) -> Result<u32, DecodeError> {
        if self.encoding() == Encoding::V10 {
            let number = self.int()?;
            return match number.checked_neg() {
                Some(0) => Ok(0),
                Some(number) if number > 0 => self.numbered(number),
                _ => Err(DecodeError::Instance(i64::from(number))),
            };
        }
        let number = self.size()?;
        let reading = self.reading()?;
        let place = |number: usize| {
            let missing = DecodeError::Instance(i64::try_from(number).unwrap_or(i64::MAX));
            u32::try_from(number).map_err(|_| missing)
        };
        match (&reading.table, number) {
            (_, 0) => Ok(0),
            (Some(table), number) => {
                let place = table.get(number - 1).copied();
                place.ok_or(DecodeError::Instance(i64::try_from(number).unwrap_or(0)))
            }
            (None, 1) => self.instance(),
            // Numbers begin with 2, places with 1.
            (None, number) if number - 2 < reading.all.len() => place(number - 1),
            (None, number) => Err(DecodeError::Instance(
                i64::try_from(number).unwrap_or(i64::MAX),
            )),
        }
    }

    /// Returns the place of an instance that has this number in encoding 1.0, and may come later.
    fn numbered(&mut self, number: i32) -> Result<u32, DecodeError> {
        let reading = self.reading()?;
        if let Some(place) = reading.numbers.get(&number) {
            return Ok(*place);
        }
        let place = reading.reserve()?;
        reading.numbers.insert(number, place);
        Ok(place)
    }

    /// Takes an instance of encoding 1.1 and returns its place.
    fn instance(&mut self) -> Result<u32, DecodeError> {
        let reading = self.reading()?;
        if reading.depth == DEPTH {
            return Err(DecodeError::Depth);
        }
        reading.depth += 1;
        let place = reading.reserve()?;
        let instance = self.slices()?;
        let reading = self.reading()?;
        reading.depth -= 1;
        reading.place(place, instance)?;
        Ok(place)
    }

    /// Takes all slices of an instance.
    fn slices(&mut self) -> Result<Box<dyn Instance>, DecodeError> {
        let mut unknown = Vec::new();
        let mut head = Head::read(self, Kind::Class)?;
        loop {
            if self.encoding() == Encoding::V10 && head.is_object() {
                head.skip(self)?;
                return Ok(Unknown::read(self, unknown));
            }
            let family = self.reading()?.family;
            let known = family.iter().find(|known| match head.id {
                TypeId::Name(name) => known.type_id == name,
                TypeId::Compact(id) => known.compact_id == Some(id),
                TypeId::None => false,
            });
            if let Some(known) = known {
                return (known.decode)(self, head);
            }
            unknown.push(head.raw(self)?);
            if head.last {
                return Ok(Unknown::read(self, unknown));
            }
            head = head.next(self)?;
        }
    }

    /// Takes the instances that follow what refers to them, in encoding 1.0, and returns all that have been read.
    pub(super) fn end_classes(&mut self) -> Result<Objects, DecodeError> {
        if self.encoding() == Encoding::V10 {
            loop {
                // A number, and of the last slice a type id's index and its size.
                let count = self.count(4 + 6)?;
                if count == 0 {
                    break;
                }
                for _ in 0..count {
                    let number = self.int()?;
                    if number <= 0 {
                        return Err(DecodeError::Instance(i64::from(number)));
                    }
                    let place = self.numbered(number)?;
                    let instance = self.slices()?;
                    let reading = self.reading()?;
                    let at = usize::try_from(place).unwrap_or(0).wrapping_sub(1);
                    if reading.all.get(at).is_some_and(Option::is_some) {
                        return Err(DecodeError::Twice(number));
                    }
                    reading.place(place, instance)?;
                }
            }
        }
        let reading = self.classes.take();
        let all = reading.map(|reading| reading.all).unwrap_or_default();
        let mut objects = Objects::default();
        for (at, instance) in all.into_iter().enumerate() {
            let missing = DecodeError::Instance(i64::try_from(at + 1).unwrap_or(i64::MAX));
            objects.all.push(instance.ok_or(missing)?);
        }
        Ok(objects)
    }
}

impl<'a> Encapsulation<'a> {
    /// Takes what is in it, where no classes are.
    pub fn decode<T: Decode<'a>>(&self) -> Result<T, DecodeError> {
        let mut reader = self.reader()?;
        let value = T::decode(&mut reader)?;
        reader.end()?;
        Ok(value)
    }

    /// Takes what is in it, and the instances of classes that it refers to.
    pub fn decode_with<T: Decode<'a>>(&self, family: Family) -> Result<(T, Objects), DecodeError> {
        let mut reader = self.reader()?;
        reader.expect_classes(family);
        let value = T::decode(&mut reader)?;
        let objects = match T::CLASSES {
            true => reader.end_classes()?,
            false => Objects::default(),
        };
        reader.end()?;
        Ok((value, objects))
    }
}

impl Reader<'_> {
    /// Ends the reading of an encapsulation. Optional parameters may follow that nobody asked for; in encoding 1.0 one byte too many is
    /// forgiven, as Ice does.
    pub(super) fn end(mut self) -> Result<(), DecodeError> {
        match self.encoding() {
            Encoding::V10 if self.left() == 1 => {}
            Encoding::V10 => {}
            Encoding::V11 => self.skip_optional_parameters()?,
        }
        match (self.encoding(), self.left()) {
            (_, 0) | (Encoding::V10, 1) => Ok(()),
            (_, left) => Err(DecodeError::LeftOver(left)),
        }
    }
}

impl<T> Shape for Ref<T> {
    const LEAST: usize = 1;
    const CLASSES: bool = true;
    const OPTIONAL: OptionalFormat = OptionalFormat::Class;
}

impl<T> Decode<'_> for Ref<T> {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.reference().map(Self::at)
    }
}

impl<T> Encode for Ref<T> {
    fn encode(&self, writer: &mut Writer) {
        writer.reference(self.place);
    }
}

/// What a writer has written of classes.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    objects: Arc<Objects>,
    /// The numbers of the places that have one.
    numbers: HashMap<u32, i32>,
    /// The type ids that have been written, and their numbers.
    pub(super) types: HashMap<String, usize>,
    pub(super) format: Format,
    /// What is referred to in this slice, where it has a table.
    pub(super) table: Option<Vec<u32>>,
    /// The next slice is the first of its instance.
    pub(super) first: bool,
    /// An optional member has been written in this slice.
    pub(super) optional: bool,
    /// Instances that have a number and are still to be written.
    pending: Vec<u32>,
    /// How deep the writer is in instances.
    depth: usize,
}

impl Writing {
    /// Returns whether an instance is written already, or may be written here: nobody would read what is nested more deeply.
    pub(super) fn may_refer(&self, place: u32) -> bool {
        self.depth < DEPTH || self.numbers.contains_key(&place)
    }
}

impl Writer {
    /// Puts what is in an encapsulation: a value, and the instances that it refers to.
    pub fn with_classes<T: Encode>(&mut self, value: &T, objects: &Arc<Objects>, format: Format) {
        self.begin_classes(objects, format);
        value.encode(self);
        self.end_classes(T::CLASSES);
    }

    pub(super) fn begin_classes(&mut self, objects: &Arc<Objects>, format: Format) {
        self.classes = Some(Box::new(Writing {
            objects: Arc::clone(objects),
            numbers: HashMap::new(),
            types: HashMap::new(),
            format,
            table: None,
            first: false,
            optional: false,
            pending: Vec::new(),
            depth: 0,
        }));
    }

    /// Puts, in encoding 1.0, the instances that have been referred to; in turns, since each may refer to more.
    pub(super) fn end_classes(&mut self, any: bool) {
        if self.encoding() == Encoding::V10 && any {
            loop {
                let writing = self.classes.as_deref_mut();
                let batch = writing.map(|writing| std::mem::take(&mut writing.pending));
                let batch = batch.unwrap_or_default();
                self.size(batch.len());
                if batch.is_empty() {
                    break;
                }
                for place in batch {
                    let number = self.classes.as_deref().and_then(|w| w.numbers.get(&place));
                    let number = number.copied().unwrap_or(0);
                    self.int(number);
                    self.instance(place);
                }
            }
        }
        self.classes = None;
    }

    /// Puts slices with their sizes, whatever the format is: who does not know them either can skip them.
    fn sliced(&mut self, put: impl FnOnce(&mut Self)) {
        let Some(writing) = self.classes.as_deref_mut() else {
            return;
        };
        let format = std::mem::replace(&mut writing.format, Format::Sliced);
        put(self);
        if let Some(writing) = self.classes.as_deref_mut() {
            writing.format = format;
        }
    }

    /// Puts a reference, and the instance itself where it belongs there. What is not among the objects is nothing, and so is what would be
    /// nested more deeply than anybody reads.
    pub(super) fn reference(&mut self, place: u32) {
        let encoding = self.encoding();
        let writing = self.classes.as_deref_mut();
        let known = |w: &&mut Writing| {
            let there = w.objects.instance(place).is_some();
            there && (encoding == Encoding::V10 || w.may_refer(place))
        };
        let Some(writing) = writing.filter(known) else {
            return match encoding {
                Encoding::V10 => self.int(0),
                Encoding::V11 => self.size(0),
            };
        };
        if let Some(table) = &mut writing.table {
            let known = table.iter().position(|other| *other == place);
            let at = known.unwrap_or_else(|| {
                table.push(place);
                table.len() - 1
            });
            return self.size(at + 1);
        }
        let known = writing.numbers.get(&place).copied();
        let next = i32::try_from(writing.numbers.len()).unwrap_or(i32::MAX);
        match (encoding, known) {
            (Encoding::V10, Some(number)) => self.int(-number),
            (Encoding::V10, None) => {
                writing.numbers.insert(place, next + 1);
                writing.pending.push(place);
                self.int(-(next + 1));
            }
            (Encoding::V11, Some(number)) => self.size(usize::try_from(number).unwrap_or(0)),
            (Encoding::V11, None) => {
                writing.numbers.insert(place, next + 2);
                self.size(1);
                self.instance(place);
            }
        }
    }

    fn instance(&mut self, place: u32) {
        let Some(writing) = self.classes.as_deref_mut() else {
            return;
        };
        writing.first = true;
        writing.depth += 1;
        let objects = Arc::clone(&writing.objects);
        if let Some(instance) = objects.instance(place) {
            instance.encode_slices(self);
        }
        if let Some(writing) = self.classes.as_deref_mut() {
            writing.depth -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class;

    class! {
        /// A link of a chain.
        struct Link("::Test::Link") { next: Ref<Link> }
    }

    const LINKS: Family = &[Known::of::<Link>()];

    const BOTH: [Encoding; 2] = [Encoding::V10, Encoding::V11];

    fn written(of: Ref<Link>, objects: &Arc<Objects>, encoding: Encoding) -> Vec<u8> {
        let mut writer = Writer::new(encoding);
        writer.with_classes(&of, objects, Format::Compact);
        writer.into_bytes()
    }

    fn read(
        bytes: &[u8],
        encoding: Encoding,
        family: Family,
    ) -> Result<(Ref<Link>, Arc<Objects>), DecodeError> {
        let version = encoding.bytes();
        let (of, objects) = Encapsulation { version, bytes }.decode_with(family)?;
        Ok((of, Arc::new(objects)))
    }

    fn chain(length: usize) -> (Ref<Link>, Arc<Objects>) {
        let mut objects = Objects::default();
        let first = (0..length).fold(Ref::NIL, |next, _| objects.add(Link { next }));
        (first, Arc::new(objects))
    }

    fn length(first: Ref<Link>, objects: &Objects) -> usize {
        let next = |of: &Ref<Link>| Some(objects.get(*of).unwrap()?.next);
        std::iter::successors(Some(first), next).count() - 1
    }

    #[test]
    fn what_is_written_is_never_nested_more_deeply_than_is_read() {
        let (first, objects) = chain(100_000);
        // In 1.0 nothing is nested.
        let old = written(first, &objects, Encoding::V10);
        let (first, objects) = read(&old, Encoding::V10, LINKS).unwrap();
        assert_eq!(length(first, &objects), 100_000);
        let new = written(first, &objects, Encoding::V11);
        let (first, objects) = read(&new, Encoding::V11, LINKS).unwrap();
        assert_eq!(length(first, &objects), DEPTH);
    }

    #[test]
    fn instances_of_unknown_classes_are_skipped_by_whoever_reads_them_next() {
        let (first, objects) = chain(1);
        for encoding in BOTH {
            let mut writer = Writer::new(encoding);
            writer.with_classes(&first, &objects, Format::Sliced);
            let bytes = writer.into_bytes();
            let (first, objects) = read(&bytes, encoding, &[]).unwrap();
            // The compact format has no sizes to skip by, so it is not taken for these.
            assert_eq!(written(first, &objects, encoding), bytes);
            let (first, objects) = read(&bytes, encoding, LINKS).unwrap();
            assert_eq!(length(first, &objects), 1);
        }
    }

    #[test]
    fn bytes_of_one_encoding_are_not_put_into_the_other() {
        let (first, objects) = chain(1);
        for (encoding, other) in [BOTH, [Encoding::V11, Encoding::V10]].map(|[a, b]| (a, b)) {
            let mut writer = Writer::new(encoding);
            writer.with_classes(&first, &objects, Format::Sliced);
            let (first, objects) = read(writer.bytes(), encoding, &[]).unwrap();
            // That it is there is all that can be said, and in 1.0 takes fewer bytes than any other instance.
            let bare = written(first, &objects, other);
            assert!(!String::from_utf8_lossy(&bare).contains("::Test::Link"));
            for family in [&[], LINKS] {
                let (first, objects) = read(&bare, other, family).unwrap();
                assert!(!first.is_nil());
                assert!(objects.get(first).is_err());
            }
        }
    }
}
