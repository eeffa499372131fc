//! The task of a connection: the only one that reads, writes, and keeps its times.
//!
//! Each turn takes what handles have queued, dispatches every whole message that has been read, and then waits for the next thing that
//! happens. Whatever the messages of one turn are answered with is written at once.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, trace};

use super::super::bytes::Writer;
use super::super::message::{Compression, Message};
use super::call::Answer;
use super::connection::{Connection, Life, Phase, Shared};
use super::dispatch::Dispatcher;
use super::error::Ended;
use super::settings::Settings;
use super::squeeze::squeeze;
use super::timers::{Due, Progress, Timers};

#[path = "intake.rs"]
mod intake;

/// The least room for reading. An idle connection keeps no more.
const READ_LEAST: usize = 4 * 1024;

/// The most room for reading beyond the message that is being read.
const READ_MOST: usize = 64 * 1024;

/// Buffers of more than this are given back as soon as they are empty.
const KEEP: usize = 256 * 1024;

/// After how many bytes that were read others have their turn: whoever sends on and on holds nobody up.
const SHARE: usize = 64 * 1024;

/// How long the goodbye of TLS may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Which side this is of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// It connected, and has been greeted.
    Client,
    /// It accepted, and greets.
    Server,
}

/// What happened.
enum Event {
    /// A handle did something.
    Told,
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    /// Work on an answer is done; `None` after a panic.
    Worked(Option<Finished>),
    Time,
}

struct Finished {
    id: i32,
    compression: Compression,
    answer: Answer,
}

pub(super) struct Driver<S> {
    stream: S,
    connection: Connection,
    shared: Arc<Shared>,
    life: Life,
    settings: Arc<Settings>,
    dispatcher: Option<Arc<dyn Dispatcher>>,
    inbound: BytesMut,
    /// How much is wanted at least by the next read.
    wanted: usize,
    /// How much room reads have had use for.
    room: usize,
    /// Something was read since the buffers were last given back.
    used: bool,
    out: Writer,
    /// How much of `out` is written.
    written: usize,
    /// What is written has to be flushed.
    unflushed: bool,
    work: JoinSet<Finished>,
    /// A batch of which requests from this one on are not begun, for want of room.
    batch: Option<(Bytes, usize)>,
    /// The ids of requests that are worked on.
    under_way: HashSet<i32>,
    timers: Timers,
    closing: bool,
    close_sent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(
        stream: S,
        life: Life,
        side: Side,
        dispatcher: Option<Arc<dyn Dispatcher>>,
    ) -> Self {
        let shared = life.0.clone();
        let settings = shared.settings.clone();
        let acm = match side {
            Side::Client => settings.client_acm,
            Side::Server => settings.server_acm,
        };
        let mut out = Writer::default();
        if side == Side::Server {
            Message::Validate.encode(Compression::No, &mut out);
        }
        Self {
            stream,
            connection: Connection {
                shared: shared.clone(),
            },
            timers: Timers::new(Instant::now(), acm, &settings),
            life,
            shared,
            settings,
            dispatcher,
            inbound: BytesMut::new(),
            wanted: READ_LEAST,
            room: READ_LEAST,
            used: false,
            out,
            written: 0,
            unflushed: false,
            work: JoinSet::new(),
            batch: None,
            under_way: HashSet::new(),
            closing: false,
            close_sent: false,
        }
    }

    /// Serves the connection until it has ended, and then whatever is still worked on.
    pub(super) async fn run(mut self) {
        let why = self.serve().await;
        let peer = self.connection.peer();
        match &why {
            Ended::ByPeer | Ended::ByUs => trace!(%peer, "connection closed"),
            why => debug!(%peer, reason = %crate::telemetry::chain(why), "connection ended"),
        }
        self.shared.end(&why);
        let Self {
            mut stream,
            mut work,
            inbound,
            out,
            life,
            ..
        } = self;
        drop((inbound, out, life));
        if matches!(why, Ended::ByPeer | Ended::ByUs) {
            // TLS says goodbye too. Who does not hear it has missed nothing.
            let _ = tokio::time::timeout(GOODBYE, stream.shutdown()).await;
        }
        drop(stream);
        // What was begun is carried through, though nobody hears of it.
        while work.join_next().await.is_some() {}
    }

    async fn serve(&mut self) -> Ended {
        // Set before it is first waited for.
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut served = 0;
        loop {
            if let Err(why) = self.turn() {
                return why;
            }
            let due = self.due();
            if let Some(at) = self.timers.arm(due) {
                timer.as_mut().reset(at);
            }
            let event = poll_fn(|cx| self.poll_event(timer.as_mut(), cx)).await;
            if let Event::Read(Ok(count)) = &event {
                served += count;
            }
            if let Err(why) = self.handle(event) {
                return why;
            }
            if served >= SHARE {
                served = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes what was queued, and dispatches what was read.
    fn turn(&mut self) -> Result<(), Ended> {
        self.sync()?;
        self.process()?;
        if self.closing && !self.close_sent {
            let waiting = self.shared.lock().waiting().0;
            if waiting == 0 && self.work.is_empty() {
                Message::Close.encode(Compression::Understood, &mut self.out);
                self.close_sent = true;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Ended> {
        let mut state = self.shared.lock();
        match &state.phase {
            Phase::Open => {}
            Phase::Closing => {
                if !self.closing {
                    self.closing = true;
                    self.timers.closing(&self.settings);
                }
            }
            Phase::Ended(why) => return Err(why.clone()),
        }
        if state.dispatcher.is_some() {
            self.dispatcher = state.dispatcher.take();
        }
        if let Some(acm) = state.acm.take() {
            self.timers.acm = acm;
        }
        if !state.out.bytes().is_empty() {
            if self.out.bytes().is_empty() {
                std::mem::swap(&mut self.out, &mut state.out);
            } else {
                self.out.put(state.out.bytes());
                state.out.clear();
            }
            state.take_queued();
        }
        state.backlog = self.out.bytes().len() - self.written;
        if state.crowded && state.backlog < self.settings.output_max {
            state.crowded = false;
            drop(state);
            self.shared.room.notify_waiters();
        }
        Ok(())
    }

    /// Returns whether more requests may be taken in. Otherwise nothing is read either.
    fn has_room(&self) -> bool {
        self.work.len() < self.settings.dispatch_max
            && self.out.bytes().len() - self.written < self.settings.output_max
    }

    fn poll_event(&mut self, timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Event> {
        if self.shared.lock().poll_told(cx.waker()) {
            return Poll::Ready(Event::Told);
        }
        if let Some(rest) = self
            .out
            .bytes()
            .get(self.written..)
            .filter(|b| !b.is_empty())
        {
            if let Poll::Ready(wrote) = Pin::new(&mut self.stream).poll_write(cx, rest) {
                return Poll::Ready(Event::Wrote(wrote));
            }
        } else if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.unflushed = false;
            if let Err(error) = flushed {
                return Poll::Ready(Event::Wrote(Err(error)));
            }
        }
        if !self.work.is_empty()
            && let Poll::Ready(Some(worked)) = self.work.poll_join_next(cx)
        {
            return Poll::Ready(Event::Worked(worked.ok()));
        }
        if self.has_room()
            && let Poll::Ready(read) = self.poll_read(cx)
        {
            return Poll::Ready(Event::Read(read));
        }
        ready!(timer.poll(cx));
        Poll::Ready(Event::Time)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbound.reserve(self.wanted.max(1));
        // Cancel safe: what was read is in the buffer.
        pin!(self.stream.read_buf(&mut self.inbound)).poll(cx)
    }

    fn handle(&mut self, event: Event) -> Result<(), Ended> {
        self.timers.event(Instant::now());
        match event {
            Event::Told => Ok(()),
            Event::Read(Ok(0)) => Err(match self.close_sent {
                true => Ended::ByUs,
                false => Ended::Lost,
            }),
            Event::Read(Ok(count)) => {
                self.used = true;
                if count >= self.room {
                    self.room = (self.room * 2).min(READ_MOST);
                }
                self.timers.received(count);
                Ok(())
            }
            Event::Wrote(Ok(0)) => Err(Ended::Lost),
            Event::Wrote(Ok(count)) => {
                self.written += count;
                self.unflushed = true;
                self.timers.sent(count);
                self.give_back();
                Ok(())
            }
            Event::Read(Err(error)) | Event::Wrote(Err(error)) => Err(match self.close_sent {
                true => Ended::ByUs,
                false => Ended::Io(Arc::new(error)),
            }),
            Event::Worked(finished) => {
                if let Some(finished) = finished.filter(|finished| finished.id != 0) {
                    let Finished {
                        id,
                        compression,
                        answer,
                    } = finished;
                    self.under_way.remove(&id);
                    let begin = self.out.bytes().len();
                    answer.encode(id, compression, &mut self.out);
                    if compression != Compression::No {
                        squeeze(begin, &mut self.out);
                    }
                }
                Ok(())
            }
            Event::Time => self.time(),
        }
    }

    /// Forgets what is written, and gives back room that only a large message needed.
    fn give_back(&mut self) {
        if self.written == self.out.bytes().len() {
            self.written = 0;
            match self.out.capacity() > KEEP {
                true => self.out = Writer::default(),
                false => self.out.clear(),
            }
        } else if self.written > KEEP && self.written > self.out.bytes().len() / 2 {
            self.out.consume(self.written);
            self.written = 0;
        }
    }

    /// Returns what is waited for with a time limit.
    fn due(&self) -> Due {
        let (waiting, waiting_since) = self.shared.lock().waiting();
        Due {
            partial: !self.inbound.is_empty() && self.has_room(),
            unwritten: self.written < self.out.bytes().len() || self.unflushed,
            dispatching: !self.work.is_empty(),
            waiting_since: waiting_since.filter(|_| waiting > 0),
            buffers: self.used || self.out.capacity() > READ_LEAST,
        }
    }

    /// A time limit may have come.
    fn time(&mut self) -> Result<(), Ended> {
        let due = self.due();
        let Progress {
            ended,
            heartbeat,
            close,
            shrink,
        } = self.timers.fired(due);
        if let Some(why) = ended {
            return Err(why);
        }
        if heartbeat && !self.close_sent {
            Message::Validate.encode(Compression::No, &mut self.out);
        }
        if close {
            self.connection.begin_close();
        }
        if shrink {
            self.used = false;
            self.room = READ_LEAST;
            if self.inbound.is_empty() {
                self.inbound = BytesMut::new();
            }
            if self.out.bytes().is_empty() {
                self.out = Writer::default();
                let mut state = self.shared.lock();
                if state.out.bytes().is_empty() {
                    state.out = Writer::default();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
