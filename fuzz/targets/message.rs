//! Whole messages. What is understood is written again and means the same, and no beginning of it is a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use omero_grid::ice::{HEADER, Header, Message, Outcome, Thrown, Writer};

const MAX: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let header = data.first_chunk::<HEADER>();
    let header = header.map(|head| Header::parse(head, MAX));
    let Ok((message, compression)) = Message::decode(data, MAX) else {
        return;
    };
    // A header that does not lie.
    assert_eq!(
        header.map(|header| header.map(|h| h.size)),
        Some(Ok(data.len()))
    );
    let mut writer = Writer::default();
    message.encode(compression, &mut writer);
    let written = writer.into_bytes();
    // Long forms of small sizes become short.
    assert!(written.len() <= data.len());
    let (again, same) = Message::decode(&written, MAX).expect("what was written is understood");
    assert_eq!((&again, same), (&message, compression));
    let mut writer = Writer::default();
    again.encode(same, &mut writer);
    assert_eq!(writer.bytes(), written);
    for end in 0..data.len().min(200) {
        assert!(Message::decode(&data[..end], MAX).is_err());
    }
    // What is in it is looked at without harm.
    if let Message::Reply(reply) = &message
        && let Outcome::Exception(within) = reply.outcome
    {
        let _ = Thrown::new(within);
    }
});
