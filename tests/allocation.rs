//! What is decoded without any memory being taken: whole messages, numbers, texts that stay where they are.

use allocation_counter::measure;
use omero_grid::ice::{
    Compression, DecodeError, Encapsulation, Encode, Encoding, Message, Mode, Outcome, Reader,
    Reply, Request, Target, Thrown, Writer,
};
use omero_grid::icegrid::types::{LoadInfo, LoadSample, ServerNotExistException, ServerState};
use omero_grid::{enumeration, record};

const MAX: usize = 1 << 20;

enumeration! {
    enum Color { Red = 0, Blue = 300 }
}

record! {
    struct Borrowed<'a> {
        name: &'a str,
        flag: bool,
        byte: u8,
        short: i16,
        int: i32,
        long: i64,
        float: f32,
        double: f64,
        color: Color,
        again: &'a str,
    }
}

/// Does a piece of work, and returns how often it asked for memory.
fn allocations<T>(work: impl FnOnce() -> Result<T, DecodeError>) -> u64 {
    let mut result = None;
    let counted = measure(|| result = Some(work()));
    assert!(matches!(result, Some(Ok(_))), "it is not understood");
    counted.count_total
}

fn within(bytes: &[u8], encoding: Encoding) -> Encapsulation<'_> {
    let version = encoding.bytes();
    Encapsulation { version, bytes }
}

fn encoded(value: &impl Encode, encoding: Encoding) -> Vec<u8> {
    let mut writer = Writer::new(encoding);
    value.encode(&mut writer);
    writer.into_bytes()
}

fn message(message: &Message<'_>) -> Vec<u8> {
    let mut writer = Writer::default();
    message.encode(Compression::No, &mut writer);
    writer.into_bytes()
}

#[test]
fn what_is_counted_is_what_is_allocated() {
    let bytes = encoded(&"a text", Encoding::V11);
    let read = || within(&bytes, Encoding::V11).decode::<String>();
    assert_eq!(allocations(read), 1);
}

#[test]
fn numbers_enumerations_and_texts_that_are_borrowed_take_no_memory() {
    let value = Borrowed {
        name: "a name that is longer than any text that could be kept inside of something",
        flag: true,
        byte: 1,
        short: -2,
        int: 3,
        long: -4,
        float: 5.5,
        double: -6.5,
        color: Color::Blue,
        again: "µ",
    };
    let load = LoadInfo {
        avg1: 0.5,
        avg5: 1.5,
        avg15: 2.5,
    };
    for encoding in [Encoding::V10, Encoding::V11] {
        let bytes = encoded(&value, encoding);
        let within = self::within(&bytes, encoding);
        assert_eq!(allocations(|| within.decode::<Borrowed<'_>>()), 0);
        let bytes = encoded(
            &(load.clone(), ServerState::Active, LoadSample::LoadSample5),
            encoding,
        );
        let within = self::within(&bytes, encoding);
        let read = || within.decode::<(LoadInfo, ServerState, LoadSample)>();
        assert_eq!(allocations(read), 0);
    }
}

#[test]
fn optional_values_are_found_without_memory() {
    let mut writer = Writer::new(Encoding::V11);
    writer.optional(1, Some(&7_i32));
    writer.optional(2, Some(&"text"));
    writer.optional(9, Some(&vec!["not", "wanted"]));
    writer.optional(40, Some(&2.5_f64));
    let bytes = writer.into_bytes();
    let read = || {
        let mut reader = Reader::new(&bytes, Encoding::V11);
        assert_eq!(reader.optional(1)?, Some(7_i32));
        assert_eq!(reader.optional(2)?, Some("text"));
        assert_eq!(reader.optional(40)?, Some(2.5_f64));
        reader.finish()
    };
    assert_eq!(allocations(read), 0);
}

#[test]
fn a_call_its_reply_and_an_exception_take_no_memory() {
    let params = encoded(&"IceGrid/Query", Encoding::V11);
    let target = Target {
        name: "Locator",
        category: "IceGrid",
        facet: "",
        operation: "findObjectById",
    };
    let call = Message::Request(Request {
        id: 7,
        target,
        mode: Mode::Nonmutating,
        context: Vec::new(),
        params: within(&params, Encoding::V11),
    });
    let reply = |outcome| Message::Reply(Reply { id: 7, outcome });
    let exception = ServerNotExistException { id: "no".into() };
    let mut writer = Writer::new(Encoding::V11);
    omero_grid::ice::Throw::throw(&exception, &mut writer, Default::default());
    let thrown = writer.into_bytes();
    for sent in [
        call,
        reply(Outcome::Done(within(&params, Encoding::V11))),
        reply(Outcome::Exception(within(&thrown, Encoding::V11))),
        reply(Outcome::Unknown(5, "why")),
        Message::Validate,
    ] {
        let bytes = message(&sent);
        assert_eq!(allocations(|| Message::decode(&bytes, MAX)), 0, "{sent:?}");
    }
    let read = || Thrown::new(within(&thrown, Encoding::V11));
    assert_eq!(allocations(read), 0);
}
