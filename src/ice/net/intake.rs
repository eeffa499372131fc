//! What was read: whole messages, and what becomes of them.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::error;

use super::super::super::message::{Compression, HEADER, Header, Message, Missing, Request};
use super::super::call::Answer;
use super::super::dispatch::{Incoming, Responder, Served, Work};
use super::super::error::Ended;
use super::super::squeeze::{expand, squeeze};
use super::{Driver, Finished, KEEP};

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Dispatches every message that is there as a whole.
    pub(super) fn process(&mut self) -> Result<(), Ended> {
        while self.has_room() {
            if let Some((frame, begun)) = self.batch.take() {
                self.batch(&frame, begun)?;
                continue;
            }
            let Some(size) = self.complete()? else { break };
            let frame = self.inbound.split_to(size).freeze();
            let (message, compression) =
                Message::decode(&frame, self.settings.message_max).map_err(Ended::Protocol)?;
            self.message(&message, compression, &frame)?;
            if size > KEEP && self.inbound.is_empty() {
                self.inbound = BytesMut::new();
            }
        }
        Ok(())
    }

    /// Returns the size of the first message if all of it is there; otherwise says how much is wanted.
    fn complete(&mut self) -> Result<Option<usize>, Ended> {
        let Some(head) = self.inbound.first_chunk::<HEADER>() else {
            self.wanted = self.room;
            return Ok(None);
        };
        let header = Header::parse(head, self.settings.message_max).map_err(Ended::Protocol)?;
        if header.size <= self.inbound.len() {
            return Ok(Some(header.size));
        }
        // The room grows with what has come, whatever is claimed.
        let missing = header.size - self.inbound.len();
        self.wanted = missing.min(self.inbound.len().max(self.room));
        Ok(None)
    }

    fn message(
        &mut self,
        message: &Message<'_>,
        compression: Compression,
        frame: &Bytes,
    ) -> Result<(), Ended> {
        match message {
            Message::Request(request) => self.request(request, compression, frame),
            Message::Batch(requests) => self.requests(requests, 0, frame),
            Message::Reply(reply) => {
                let answer = Answer::of(&reply.outcome, frame);
                match self.shared.lock().answered(reply.id, answer) {
                    true => Ok(()),
                    false => Err(Ended::UnknownReply(reply.id)),
                }
            }
            // A heartbeat: that it came is all that it says.
            Message::Validate => Ok(()),
            Message::Close => Err(Ended::ByPeer),
            Message::Compressed { kind, size, body } => {
                let size = usize::try_from(*size).map_err(|_| Ended::Compressed)?;
                let frame = expand(*kind, size, body)?;
                let (message, _) =
                    Message::decode(&frame, self.settings.message_max).map_err(Ended::Protocol)?;
                // It is not compressed once more: the header says so.
                self.message(&message, Compression::Yes, &frame)
            }
        }
    }

    /// Goes on with a batch. It is decoded again, so that nothing but its bytes is kept meanwhile.
    fn batch(&mut self, frame: &Bytes, begun: usize) -> Result<(), Ended> {
        let max = self.settings.message_max;
        match Message::decode(frame, max).map_err(Ended::Protocol)?.0 {
            Message::Batch(requests) => self.requests(&requests, begun, frame),
            _ => Ok(()),
        }
    }

    fn requests(
        &mut self,
        requests: &[Request<'_>],
        begun: usize,
        frame: &Bytes,
    ) -> Result<(), Ended> {
        for (at, request) in requests.iter().enumerate().skip(begun) {
            if !self.has_room() {
                self.batch = Some((frame.clone(), at));
                break;
            }
            self.request(request, Compression::No, frame)?;
        }
        Ok(())
    }

    fn request(
        &mut self,
        request: &Request<'_>,
        compression: Compression,
        frame: &Bytes,
    ) -> Result<(), Ended> {
        let id = request.id;
        if self.closing {
            // The other side hears that the connection is closed, and makes the call elsewhere.
            return Ok(());
        }
        if id != 0 && self.under_way.contains(&id) {
            return Err(Ended::ReusedId(id));
        }
        // An answer is compressed where the endpoint says so, to whom is known to understand it.
        let compression = match self.shared.about.compress && compression != Compression::No {
            true => Compression::Understood,
            false => Compression::No,
        };
        let begin = self.out.bytes().len();
        let responder = Responder {
            out: &mut self.out,
            id,
            target: request.target,
            version: request.params.version,
            compression,
        };
        let incoming = Incoming {
            request,
            connection: &self.connection,
            frame,
        };
        let served = match &self.dispatcher {
            None => Ok(responder.missing(Missing::Object)),
            Some(dispatcher) => catch_unwind(AssertUnwindSafe(|| {
                dispatcher.dispatch(&incoming, responder)
            })),
        };
        match served {
            Ok(Served(None)) => {
                if compression != Compression::No {
                    squeeze(begin, &mut self.out);
                }
            }
            Ok(Served(Some(work))) => {
                if id != 0 {
                    self.under_way.insert(id);
                }
                self.work.spawn(carry_out(work, id, compression));
            }
            Err(_) => {
                error!(operation = ?request.target.operation, "the dispatch of a request panicked");
                self.out.truncate(begin);
                if id != 0 {
                    panicked().encode(id, Compression::No, &mut self.out);
                }
            }
        }
        Ok(())
    }
}

/// Carries out the work on an answer; a panic is an answer too.
async fn carry_out(mut work: Work, id: i32, compression: Compression) -> Finished {
    let answer = poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))).unwrap_or_else(|_| {
            error!("the dispatch of a request panicked");
            Poll::Ready(panicked())
        })
    });
    Finished {
        id,
        compression,
        answer: answer.await,
    }
}

fn panicked() -> Answer {
    Answer::Unknown(7, "the server failed".to_owned())
}
