//! What a Blitz tells its node unasked: coalesced, in batches, never more than a slow node can take.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::tasks::Tasks;
use crate::ipc::message::blitz::{Event, Status};
use crate::model::SessionId;

/// Ids kept for one peer that is slow; beyond, it is told to ask again.
const MAX_IDS: usize = 10_000;

/// Changes within this time share one event; the first is told at once.
const PACE: Duration = Duration::from_millis(20);

/// Tells events to those that are connected.
#[derive(Default)]
pub(crate) struct Hub {
    listeners: Mutex<Vec<Weak<Listener>>>,
    telling: Tasks,
}

struct Listener {
    news: Mutex<News>,
    wake: Notify,
}

/// What a listener has not been told yet.
#[derive(Debug, Default, PartialEq)]
struct News {
    status: bool,
    opened: Vec<SessionId>,
    closed: Vec<SessionId>,
    lost: bool,
}

impl Hub {
    /// Connects a listener: it is told the status at first, and then every change. `status` is asked when it is told.
    pub(crate) fn listen(
        &self,
        status: impl Fn() -> Option<Status> + Send + 'static,
    ) -> mpsc::Receiver<Event> {
        let listener = Arc::new(Listener {
            news: Mutex::new(News {
                status: true,
                ..News::default()
            }),
            wake: Notify::new(),
        });
        listener.wake.notify_one();
        {
            let mut listeners = lock(&self.listeners);
            listeners.retain(|listener| listener.strong_count() > 0);
            listeners.push(Arc::downgrade(&listener));
        }
        let (events, receiver) = mpsc::channel(4);
        // Without a task the channel closes, which the peer sees as no events at all.
        self.telling.spawn(tell(listener, status, events));
        receiver
    }

    /// Tells that sessions were opened.
    pub(crate) fn opened(&self, id: SessionId) {
        self.each(|news| {
            news.opened.push(id);
            news.status = true;
        });
    }

    /// Tells that sessions have ended.
    pub(crate) fn closed(&self, ids: &[SessionId]) {
        if ids.is_empty() {
            return;
        }
        let ended: HashSet<SessionId> = ids.iter().copied().collect();
        self.each(|news| {
            // Somebody else may have heard of it, so the end is told also where the beginning was not.
            news.opened.retain(|id| !ended.contains(id));
            news.closed.extend_from_slice(ids);
            news.status = true;
        });
    }

    /// Tells that the status has changed.
    pub(crate) fn status(&self) {
        self.each(|news| news.status = true);
    }

    fn each(&self, change: impl Fn(&mut News)) {
        let mut gone = false;
        let mut listeners = lock(&self.listeners);
        for listener in listeners.iter() {
            match listener.upgrade() {
                Some(listener) => {
                    let mut news = lock(&listener.news);
                    change(&mut news);
                    news.bound();
                    drop(news);
                    listener.wake.notify_one();
                }
                None => gone = true,
            }
        }
        if gone {
            listeners.retain(|listener| listener.strong_count() > 0);
        }
    }
}

impl News {
    fn bound(&mut self) {
        if self.opened.len() + self.closed.len() > MAX_IDS {
            self.lost = true;
        }
        if self.lost {
            // Whoever asks for all ids needs none of these.
            self.opened = Vec::new();
            self.closed = Vec::new();
        }
    }

    fn events(self, status: impl Fn() -> Option<Status>) -> Vec<Event> {
        let mut events = Vec::new();
        if self.lost {
            events.push(Event::Resync);
        }
        if !self.opened.is_empty() {
            events.push(Event::Opened { ids: self.opened });
        }
        if !self.closed.is_empty() {
            events.push(Event::Closed { ids: self.closed });
        }
        if self.status {
            events.extend(status().map(Event::Status));
        }
        events
    }
}

async fn tell(
    listener: Arc<Listener>,
    status: impl Fn() -> Option<Status> + Send,
    events: mpsc::Sender<Event>,
) {
    loop {
        tokio::select! {
            // Cancel safe: a permit of `notified` stays if it is not taken.
            () = listener.wake.notified() => {}
            () = events.closed() => return,
        }
        let news = std::mem::take(&mut *lock(&listener.news));
        for event in news.events(&status) {
            if events.send(event).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::message::blitz::{ReadOnly, ReadOnlyReason};
    use crate::model::Accepting;

    fn status() -> Option<Status> {
        Some(Status {
            uuid: "u".to_owned(),
            sessions: 0,
            internal: 0,
            accepting: Accepting::Yes,
            read_only: ReadOnly::default(),
            resumed: 0,
            read_only_reason: ReadOnlyReason::default(),
            waits_for_repository: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_are_few_events() {
        let hub = Hub::default();
        let mut events = hub.listen(status);
        assert!(matches!(events.recv().await, Some(Event::Status(_))));
        let ids: Vec<SessionId> = (0..1000).map(|_| SessionId::random()).collect();
        for id in &ids {
            hub.opened(*id);
        }
        hub.closed(&ids[..10]);
        let Some(Event::Opened { ids: opened }) = events.recv().await else {
            panic!("no Opened");
        };
        assert_eq!(opened, ids[10..]);
        let Some(Event::Closed { ids: closed }) = events.recv().await else {
            panic!("no Closed");
        };
        assert_eq!(closed, ids[..10]);
        assert!(matches!(events.recv().await, Some(Event::Status(_))));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(events.try_recv().is_err(), "nothing more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_listener_is_told_to_ask_again() {
        let hub = Hub::default();
        let mut events = hub.listen(status);
        for _ in 0..=MAX_IDS {
            hub.opened(SessionId::random());
        }
        assert!(matches!(events.recv().await, Some(Event::Resync)));
        assert!(matches!(events.recv().await, Some(Event::Status(_))));
        let id = SessionId::random();
        hub.opened(id);
        assert!(matches!(events.recv().await, Some(Event::Opened { ids }) if ids == [id]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_has_gone_is_forgotten() {
        let hub = Hub::default();
        drop(hub.listen(status));
        tokio::time::sleep(Duration::from_secs(1)).await;
        hub.status();
        assert!(lock(&hub.listeners).is_empty());
    }
}
