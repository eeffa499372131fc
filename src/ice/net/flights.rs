//! The same work asked for by many at once is done once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Work that is under way, by what it is about.
#[derive(Debug)]
pub(super) struct Flights<K: Eq + Hash, V> {
    under_way: Mutex<HashMap<K, Arc<OnceCell<V>>>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self {
            under_way: Mutex::default(),
        }
    }

    /// Returns what the work that is under way comes to, or else does it. Cancel safe: the next who waits takes the work over.
    pub(super) async fn join(&self, key: &K, work: impl Future<Output = V>) -> V {
        let cell = self.lock().entry(key.clone()).or_default().clone();
        let place = Place {
            flights: self,
            key,
            cell,
        };
        place.cell.get_or_init(|| work).await.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Arc<OnceCell<V>>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes work off the table when it is done, or when nobody waits for it.
struct Place<'f, K: Eq + Hash + Clone, V: Clone> {
    flights: &'f Flights<K, V>,
    key: &'f K,
    cell: Arc<OnceCell<V>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Drop for Place<'_, K, V> {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        let Entry::Occupied(entry) = under_way.entry(self.key.clone()) else {
            return;
        };
        // One reference is the table's, one is this one's.
        let last = Arc::strong_count(&self.cell) == 2;
        if Arc::ptr_eq(entry.get(), &self.cell) && (last || self.cell.initialized()) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_ask_once() {
        let flights = Flights::new();
        let count = AtomicUsize::new(0);
        let ask = |key: &'static str| {
            let (flights, count) = (&flights, &count);
            async move {
                let work = async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    count.fetch_add(1, Ordering::Relaxed)
                };
                flights.join(&key, work).await
            }
        };
        let (a, b, c) = tokio::join!(ask("x"), ask("x"), ask("y"));
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(count.load(Ordering::Relaxed), 2);
        // Done work is not remembered.
        assert_eq!(ask("x").await, 2);
        // Who gives up leaves the work to who goes on waiting, and nothing behind.
        let gone = tokio::time::timeout(Duration::from_millis(1), ask("z"));
        let (gone, stays) = tokio::join!(gone, ask("z"));
        assert!(gone.is_err());
        assert_eq!(stays, 3);
        assert!(flights.lock().is_empty());
    }
}
