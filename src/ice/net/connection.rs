//! The handle of a connection: calls over it, its end, and what it shares with the task that drives it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::super::bytes::Writer;
use super::super::message::{self, BATCH, Compression};
use super::call::{Answer, Call};
use super::dispatch::Dispatcher;
use super::error::{Ended, InvokeError};
use super::settings::{Acm, Settings};
use super::squeeze::squeeze;
use super::tls::Encryption;

/// How many calls may be given up before their answers have come. A peer that owes more than this is not worth a connection.
const ABANDONED_MAX: usize = 4096;

/// A connection. Cheap to clone; it lives until it is closed by either side, not until the last handle is dropped.
#[derive(Clone)]
pub struct Connection {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.shared.about.id)
            .field("peer", &self.shared.about.peer)
            .finish()
    }
}

/// What is known of a connection from its beginning.
#[derive(Debug)]
pub(super) struct About {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) encrypted: bool,
    /// Whether messages that are worth it are sent compressed.
    pub(super) compress: bool,
}

impl About {
    /// Returns a number that no other connection of this process has.
    pub(super) fn next_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// What handles share with the driver.
pub(super) struct Shared {
    pub(super) about: About,
    pub(super) settings: Arc<Settings>,
    /// Known of a connection that was accepted, once it has shaken hands.
    pub(super) encryption: OnceLock<Box<Encryption>>,
    state: Mutex<State>,
    /// There is room again for messages to be sent.
    pub(super) room: Notify,
    ended: watch::Sender<Option<Ended>>,
}

/// How far a connection is.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Open,
    /// It is being closed by this side: nothing new is begun.
    Closing,
    Ended(Ended),
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// What handles have written and the driver has not taken yet.
    pub(super) out: Writer,
    /// How many bytes the driver has taken and not written yet.
    pub(super) backlog: usize,
    /// How many bytes handles have ever written, and how many of them the driver has taken.
    queued: u64,
    taken: u64,
    pending: HashMap<i32, Pending>,
    /// Since when there has been a call without an answer.
    waiting_since: Option<Instant>,
    abandoned: usize,
    next: i32,
    /// Somebody waits for room.
    pub(super) crowded: bool,
    waker: Option<Waker>,
    /// What was set from outside and the driver has not seen yet.
    pub(super) dispatcher: Option<Arc<dyn Dispatcher>>,
    pub(super) acm: Option<Acm>,
    told: bool,
}

enum Pending {
    Waiting {
        answer: oneshot::Sender<Result<Answer, InvokeError>>,
        /// Where its bytes begin among those that were queued.
        at: u64,
    },
    /// Nobody waits for it any more; its answer may still come.
    Abandoned,
}

impl Shared {
    pub(super) fn new(about: About, settings: Arc<Settings>) -> Self {
        Self {
            about,
            settings,
            encryption: OnceLock::new(),
            state: Mutex::new(State {
                phase: Phase::Open,
                out: Writer::default(),
                backlog: 0,
                queued: 0,
                taken: 0,
                pending: HashMap::new(),
                waiting_since: None,
                abandoned: 0,
                next: 1,
                crowded: false,
                waker: None,
                dispatcher: None,
                acm: None,
                told: false,
            }),
            room: Notify::new(),
            ended: watch::Sender::new(None),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for all who use it.
    pub(super) fn end(&self, why: &Ended) {
        let mut state = self.lock();
        state.phase = Phase::Ended(why.clone());
        let taken = state.taken;
        for (_, pending) in state.pending.drain() {
            if let Pending::Waiting { answer, at } = pending {
                let not_done = matches!(why, Ended::ByPeer) || at >= taken;
                // Who does not wait any more does not hear it.
                let _ = answer.send(Err(match not_done {
                    true => InvokeError::NotDone(why.clone()),
                    false => InvokeError::Lost(why.clone()),
                }));
            }
        }
        state.waiting_since = None;
        state.out = Writer::default();
        state.dispatcher = None;
        drop(state);
        self.ended.send_replace(Some(why.clone()));
        self.room.notify_waiters();
    }
}

/// Ends a connection whose task is dropped, so that nobody waits for what nobody does.
pub(super) struct Life(pub(super) Arc<Shared>);

impl Drop for Life {
    fn drop(&mut self) {
        if self.0.ended.borrow().is_none() {
            self.0.end(&Ended::ByUs);
        }
    }
}

impl State {
    /// Wakes the driver, which may be the very task that calls this.
    fn wake(&mut self) {
        self.told = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Returns whether there is something for the driver, and keeps whom to wake when there is.
    pub(super) fn poll_told(&mut self, waker: &Waker) -> bool {
        if std::mem::take(&mut self.told) {
            return true;
        }
        if !self
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            self.waker = Some(waker.clone());
        }
        false
    }

    /// Everything that was queued is in the driver's hands.
    pub(super) fn take_queued(&mut self) {
        self.taken = self.queued;
    }

    /// Returns how many calls wait for their answers, and since when there are any.
    pub(super) fn waiting(&self) -> (usize, Option<Instant>) {
        (self.pending.len() - self.abandoned, self.waiting_since)
    }

    /// Takes the answer to a call. Returns whether there is such a call.
    pub(super) fn answered(&mut self, id: i32, answer: Answer) -> bool {
        match self.pending.remove(&id) {
            None => return false,
            Some(Pending::Abandoned) => self.abandoned -= 1,
            Some(Pending::Waiting { answer: to, .. }) => {
                // Whoever gave up a moment ago does not hear it.
                let _ = to.send(Ok(answer));
            }
        }
        if self.waiting().0 == 0 {
            self.waiting_since = None;
        }
        true
    }

    fn id(&mut self) -> i32 {
        loop {
            let id = self.next;
            self.next = id.checked_add(1).unwrap_or(1);
            // After two thousand million calls an old one may still be under way.
            if !self.pending.contains_key(&id) {
                return id;
            }
        }
    }

    /// Queues the message that `write` writes, compressed where that is wanted. Returns where it begins.
    fn queue(&mut self, about: &About, write: impl FnOnce(Compression, &mut Writer)) -> u64 {
        let (begin, at) = (self.out.bytes().len(), self.queued);
        match about.compress {
            true => {
                write(Compression::Understood, &mut self.out);
                squeeze(begin, &mut self.out);
            }
            false => write(Compression::No, &mut self.out),
        }
        self.queued += (self.out.bytes().len() - begin) as u64;
        self.wake();
        at
    }
}

/// Gives a call up when whoever waits for it is gone.
struct Waiting<'a> {
    shared: &'a Shared,
    id: i32,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut state = self.shared.lock();
        if let Entry::Occupied(mut entry) = state.pending.entry(self.id)
            && matches!(entry.get(), Pending::Waiting { .. })
        {
            entry.insert(Pending::Abandoned);
            state.abandoned += 1;
            if state.waiting().0 == 0 {
                state.waiting_since = None;
            }
            if state.abandoned > ABANDONED_MAX {
                state.phase = Phase::Ended(Ended::Abandoned);
            }
            // It may have been what a closing connection waited for.
            state.wake();
        }
    }
}

impl Connection {
    /// Returns a number that no other connection of this process has or had.
    pub fn id(&self) -> u64 {
        self.shared.about.id
    }

    /// Returns the address of the other side.
    pub fn peer(&self) -> SocketAddr {
        self.shared.about.peer
    }

    /// Returns the address of this side.
    pub fn local(&self) -> SocketAddr {
        self.shared.about.local
    }

    /// Returns whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.shared.about.encrypted
    }

    /// Returns how a connection is encrypted that was accepted, and whom the other side's certificates name.
    pub fn encryption(&self) -> Option<&Encryption> {
        self.shared.encryption.get().map(|known| &**known)
    }

    /// Returns whether calls can be made over it.
    pub fn is_open(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Open)
    }

    /// Makes a call and waits for its answer. Who stops waiting gives the call up: a late answer is dropped.
    pub async fn invoke(
        &self,
        call: &Call,
        limit: Option<Duration>,
    ) -> Result<Answer, InvokeError> {
        match limit {
            None => self.ask(call).await,
            Some(limit) => tokio::time::timeout(limit, self.ask(call))
                .await
                .unwrap_or(Err(InvokeError::Timeout)),
        }
    }

    async fn ask(&self, call: &Call) -> Result<Answer, InvokeError> {
        let about = &self.shared.about;
        let (to, answer) = oneshot::channel();
        let id = self
            .send(call.size(), |state| {
                let id = state.id();
                let at = state.queue(about, |compression, out| call.encode(id, compression, out));
                if state.waiting_since.is_none() {
                    state.waiting_since = Some(Instant::now());
                }
                state
                    .pending
                    .insert(id, Pending::Waiting { answer: to, at });
                id
            })
            .await?;
        let mut waiting = Waiting {
            shared: &self.shared,
            id,
            answered: false,
        };
        let answer = answer.await;
        waiting.answered = true;
        answer.unwrap_or(Err(InvokeError::Lost(Ended::Lost)))
    }

    /// Makes a call that has no answer. Returns once it is queued; calls are sent in their order.
    pub async fn oneway(&self, call: &Call) -> Result<(), InvokeError> {
        let write = |state: &mut State| {
            state.queue(&self.shared.about, |compression, out| {
                call.encode(0, compression, out);
            });
        };
        self.send(call.size(), write).await
    }

    /// Makes several calls that have no answers, in one message.
    pub async fn batch(&self, calls: &[Call]) -> Result<(), InvokeError> {
        if calls.is_empty() {
            return Ok(());
        }
        let size = calls.iter().map(Call::size).sum();
        let write = |state: &mut State| {
            state.queue(&self.shared.about, |compression, out| {
                let begin = message::begin(BATCH, compression, out);
                out.int(i32::try_from(calls.len()).unwrap_or(i32::MAX));
                for call in calls {
                    call.encode_body(out);
                }
                message::end(begin, out);
            });
        };
        self.send(size, write).await
    }

    /// Waits until there is room for more to be sent, and queues it.
    async fn send<R>(
        &self,
        size: usize,
        write: impl FnOnce(&mut State) -> R,
    ) -> Result<R, InvokeError> {
        let max = self.shared.settings.message_max;
        if size > max {
            return Err(InvokeError::TooLarge { size, max });
        }
        loop {
            let room = {
                let mut state = self.shared.lock();
                match &state.phase {
                    Phase::Open => {}
                    Phase::Closing => return Err(InvokeError::NotDone(Ended::ByUs)),
                    Phase::Ended(why) => return Err(InvokeError::NotDone(why.clone())),
                }
                if state.out.bytes().len() + state.backlog < self.shared.settings.output_max {
                    return Ok(write(&mut state));
                }
                state.crowded = true;
                // Made under the lock, it hears of all room that there is from now on.
                self.shared.room.notified()
            };
            room.await;
        }
    }

    /// Sets who answers requests of the other side, on a connection that this side opened.
    pub fn set_dispatcher(&self, dispatcher: Arc<dyn Dispatcher>) {
        let mut state = self.shared.lock();
        if !matches!(state.phase, Phase::Ended(_)) {
            state.dispatcher = Some(dispatcher);
            state.wake();
        }
    }

    /// Sets the care for this connection when it is idle.
    pub fn set_acm(&self, acm: Acm) {
        let mut state = self.shared.lock();
        state.acm = Some(acm);
        state.wake();
    }

    /// Closes the connection in good order, and waits for its end: calls that are under way are answered first, in both directions, for as
    /// long as [`Settings::close`] says.
    pub async fn close(&self) {
        self.begin_close();
        self.closed().await;
    }

    /// Begins to close the connection in good order.
    pub fn begin_close(&self) {
        let mut state = self.shared.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Closing;
            state.wake();
        }
    }

    /// Ends the connection at once.
    pub fn abort(&self) {
        let mut state = self.shared.lock();
        if !matches!(state.phase, Phase::Ended(_)) {
            state.phase = Phase::Ended(Ended::ByUs);
            state.wake();
        }
    }

    /// Waits for the end of the connection, and returns why it ended.
    pub async fn closed(&self) -> Ended {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or(Ended::Lost),
            // The sender is in what this handle holds.
            Err(_) => Ended::Lost,
        }
    }
}
