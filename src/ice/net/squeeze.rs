//! Compressed messages: bzip2 of everything behind the header (`ice-protocol.md` §1).

use bytes::Bytes;
use bzip2::{Action, Compress, Compression as Level, Decompress, Status};

use super::super::bytes::Writer;
use super::super::message::{self, Compression, HEADER, Message};
use super::error::Ended;

/// Messages that are smaller are never compressed.
const WORTH: usize = 100;

/// The most room that is made at once for what is expanded.
const STEP: usize = 64 * 1024;

/// Expands a compressed message to the one in it. `size` is what that claims to be, header included, and it is no larger by a byte, nor smaller.
pub(super) fn expand(kind: u8, size: usize, body: &[u8]) -> Result<Bytes, Ended> {
    let wrong = || Ended::Compressed;
    let mut frame = Writer::default();
    let begin = message::begin(kind, Compression::Understood, &mut frame);
    let mut left = size.checked_sub(HEADER).ok_or_else(wrong)?;
    let mut decoder = Decompress::new(false);
    let mut rest = body;
    let mut step = Vec::new();
    loop {
        // One more than is left, so that what goes on beyond its end is noticed. The room does not follow the claim but what has come.
        step.clear();
        step.reserve((left + 1).min(STEP));
        let before = decoder.total_in();
        let status = decoder
            .decompress_vec(rest, &mut step)
            .map_err(|_| wrong())?;
        let taken = usize::try_from(decoder.total_in() - before).unwrap_or(usize::MAX);
        rest = rest.get(taken..).ok_or_else(wrong)?;
        left = left.checked_sub(step.len()).ok_or_else(wrong)?;
        frame.put(&step);
        if status == Status::StreamEnd {
            break;
        }
        if taken == 0 && step.is_empty() {
            // It ends before its end.
            return Err(wrong());
        }
    }
    if left != 0 || !rest.is_empty() {
        return Err(wrong());
    }
    message::end(begin, &mut frame);
    Ok(frame.into_bytes().into())
}

/// Compresses the message that begins there, and goes to the end, if it becomes smaller by that.
pub(super) fn squeeze(begin: usize, out: &mut Writer) {
    let Some(message) = out.bytes().get(begin..).filter(|m| m.len() >= WORTH) else {
        return;
    };
    let (Some(kind), Some(body)) = (message.get(8).copied(), message.get(HEADER..)) else {
        return;
    };
    let Ok(size) = i32::try_from(message.len()) else {
        return;
    };
    // What does not fit is not smaller.
    let mut squeezed = Vec::with_capacity(body.len());
    let mut encoder = Compress::new(Level::fast(), 30);
    let mut rest = body;
    loop {
        let before = (encoder.total_in(), squeezed.len());
        match encoder.compress_vec(rest, &mut squeezed, Action::Finish) {
            Ok(Status::StreamEnd) => break,
            Ok(_) if squeezed.len() < squeezed.capacity() => {}
            _ => return,
        }
        let taken = usize::try_from(encoder.total_in() - before.0).unwrap_or(usize::MAX);
        if taken == 0 && squeezed.len() == before.1 {
            return;
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    out.truncate(begin);
    let message = Message::Compressed {
        kind,
        size,
        body: &squeezed,
    };
    message.encode(Compression::Yes, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::message::REPLY;
    use super::*;

    const MAX: usize = 1024 * 1024;

    fn message(body: &[u8]) -> Writer {
        let mut out = Writer::default();
        out.put(b"before");
        let begin = message::begin(REPLY, Compression::Understood, &mut out);
        out.put(body);
        message::end(begin, &mut out);
        out
    }

    /// Takes a compressed message apart.
    fn parts(frame: &[u8]) -> (u8, usize, Vec<u8>) {
        match Message::decode(frame, MAX).unwrap().0 {
            Message::Compressed { kind, size, body } => {
                (kind, usize::try_from(size).unwrap(), body.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn small_messages_and_such_as_do_not_become_smaller_stay_as_they_are() {
        for body in [&[7; 20][..], &(0..=255).collect::<Vec<u8>>()] {
            let mut out = message(body);
            squeeze(6, &mut out);
            assert_eq!(out.bytes(), message(body).bytes());
        }
    }

    #[test]
    fn what_is_compressed_and_no_message_is_refused() {
        let mut out = message(&[1; 5000]);
        squeeze(6, &mut out);
        let (kind, size, body) = parts(&out.bytes()[6..]);
        assert!(body.len() < 100);
        assert!(expand(kind, size, &body).is_ok());
        // Claims that are too large or too small.
        for claim in [0, 13, 14, size - 1, size + 1, MAX] {
            assert!(expand(kind, claim, &body).is_err(), "{claim}");
        }
        // Every beginning, something behind the end, something else.
        for end in 0..body.len() {
            assert!(expand(kind, size, &body[..end]).is_err(), "{end}");
        }
        assert!(expand(kind, size, &[&body[..], &[0]].concat()).is_err());
        assert!(expand(kind, size, &[9; 50]).is_err());
    }

    #[test]
    fn a_bomb_takes_no_more_than_it_claims() {
        // 64 megabytes of nothing, in a few hundred bytes that claim to be a thousand.
        let zeros = vec![0; 64 * MAX];
        let mut bomb = Vec::with_capacity(MAX);
        let mut encoder = Compress::new(Level::best(), 30);
        encoder
            .compress_vec(&zeros, &mut bomb, Action::Finish)
            .unwrap();
        assert!(bomb.len() < 10_000);
        drop(zeros);
        assert!(expand(REPLY, 1000, &bomb).is_err());
        assert!(expand(REPLY, MAX, &bomb).is_err());
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(body in "[ab]{100,3000}") {
            let mut out = message(body.as_bytes());
            let plain = out.bytes()[6..].to_vec();
            squeeze(6, &mut out);
            prop_assert!(out.bytes().starts_with(b"before"));
            let (kind, size, squeezed) = parts(&out.bytes()[6..]);
            prop_assert_eq!(&expand(kind, size, &squeezed).unwrap()[..], &plain[..]);
        }

        #[test]
        fn any_bytes_are_expanded_or_refused(
            size in 0usize..5000, body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let magic = [b"BZh9\x31\x41\x59\x26\x53\x59", &body[..]].concat();
            for bytes in [&body, &magic] {
                // Whatever comes of it.
                let _ = expand(REPLY, size, bytes);
            }
        }
    }
}
