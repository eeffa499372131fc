//! What repeated wrong passwords cost, as a value: per user name, bounded, without a clock of its own.
//!
//! Attempts for one name take turns, so that guessing in parallel gains nothing; after a failure beyond the tolerated ones, the next
//! turn begins only when the delay is over. The delay belongs to the name, not to the connection: hanging up does not shorten it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Names remembered at once; beyond, the one that was quiet for longest is forgotten.
const MAX_NAMES: usize = 10_000;

/// Attempts of one name that may wait while it is delayed.
const MAX_DELAYED: u32 = 8;

/// Attempts of one name that may wait at all.
const MAX_WAITING: u32 = 256;

/// The failures of each name.
#[derive(Debug)]
pub(crate) struct Throttle {
    tolerated: u32,
    delay: Duration,
    names: HashMap<String, Entry>,
    stamp: u64,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    free_at: Duration,
    attempts: u32,
    turn: Arc<Semaphore>,
    touched: u64,
}

/// An attempt that may not even wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// Too many attempts of this name wait already.
    Name,
    /// Too many names have attempts that wait.
    Names,
}

impl Throttle {
    /// Makes an empty table: so many failures cost nothing, each further one the delay.
    pub(crate) fn new(tolerated: u32, delay: Duration) -> Self {
        Self {
            tolerated,
            delay,
            names: HashMap::new(),
            stamp: 0,
        }
    }

    /// Counts an attempt in, until [`Self::leave`]; returns what gives attempts of this name their turns.
    pub(crate) fn enter(&mut self, name: &str) -> Result<Arc<Semaphore>, Crowded> {
        self.stamp += 1;
        if !self.names.contains_key(name) && self.names.len() >= MAX_NAMES {
            self.forget_one()?;
        }
        let tolerated = self.tolerated;
        let entry = self.names.entry(name.to_owned()).or_insert_with(|| Entry {
            failures: 0,
            free_at: Duration::ZERO,
            attempts: 0,
            turn: Arc::new(Semaphore::new(1)),
            touched: 0,
        });
        let most = if entry.failures > tolerated {
            MAX_DELAYED
        } else {
            MAX_WAITING
        };
        if entry.attempts >= most {
            return Err(Crowded::Name);
        }
        entry.attempts += 1;
        entry.touched = self.stamp;
        Ok(entry.turn.clone())
    }

    /// Returns until when an attempt whose turn has come has to wait, or that too many came before the delay began.
    pub(crate) fn delayed_until(&self, name: &str) -> Result<Duration, Crowded> {
        match self.names.get(name) {
            Some(entry) if entry.failures > self.tolerated && entry.attempts > MAX_DELAYED => {
                Err(Crowded::Name)
            }
            Some(entry) => Ok(entry.free_at),
            None => Ok(Duration::ZERO),
        }
    }

    /// Notes a right password.
    pub(crate) fn succeeded(&mut self, name: &str) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.failures = 0;
            entry.free_at = Duration::ZERO;
        }
    }

    /// Notes a wrong password; returns when to say so, if not at once.
    pub(crate) fn failed(&mut self, name: &str, now: Duration) -> Option<Duration> {
        let entry = self.names.get_mut(name)?;
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures <= self.tolerated {
            return None;
        }
        entry.free_at = now + self.delay;
        Some(entry.free_at)
    }

    /// Counts an attempt out.
    pub(crate) fn leave(&mut self, name: &str) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.attempts = entry.attempts.saturating_sub(1);
            if entry.attempts == 0 && entry.failures == 0 {
                self.names.remove(name);
            }
        }
    }

    fn forget_one(&mut self) -> Result<(), Crowded> {
        let oldest = self
            .names
            .iter()
            .filter(|(_, entry)| entry.attempts == 0)
            .min_by_key(|(_, entry)| entry.touched)
            .map(|(name, _)| name.clone())
            .ok_or(Crowded::Names)?;
        self.names.remove(&oldest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(100);

    fn throttle() -> Throttle {
        Throttle::new(1, Duration::from_secs(3))
    }

    fn fail(throttle: &mut Throttle, name: &str, now: Duration) -> Option<Duration> {
        throttle.enter(name).unwrap();
        let until = throttle.failed(name, now);
        throttle.leave(name);
        until
    }

    #[test]
    fn the_second_failure_in_a_row_costs_a_delay_and_success_resets() {
        let mut throttle = throttle();
        assert_eq!(fail(&mut throttle, "ann", T), None);
        assert_eq!(
            fail(&mut throttle, "ann", T),
            Some(T + Duration::from_secs(3))
        );
        assert_eq!(
            throttle.delayed_until("ann"),
            Ok(T + Duration::from_secs(3))
        );
        assert_eq!(fail(&mut throttle, "Ann", T), None, "another name as typed");
        throttle.enter("ann").unwrap();
        throttle.succeeded("ann");
        throttle.leave("ann");
        assert!(
            !throttle.names.contains_key("ann"),
            "nothing is kept of a success"
        );
        assert_eq!(fail(&mut throttle, "ann", T), None);
    }

    #[test]
    fn few_wait_behind_a_delay() {
        let mut throttle = throttle();
        for _ in 0..20 {
            throttle.enter("ann").unwrap();
        }
        assert_eq!(throttle.delayed_until("ann"), Ok(Duration::ZERO));
        throttle.failed("ann", T);
        throttle.failed("ann", T);
        assert_eq!(throttle.enter("ann").unwrap_err(), Crowded::Name);
        assert_eq!(
            throttle.delayed_until("ann"),
            Err(Crowded::Name),
            "came before the delay began"
        );
        for _ in 0..12 {
            throttle.leave("ann");
        }
        assert!(throttle.delayed_until("ann").is_ok());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut throttle = throttle();
        for n in 0..MAX_NAMES {
            fail(&mut throttle, &n.to_string(), T);
        }
        throttle.enter("0").unwrap();
        fail(&mut throttle, "one more", T);
        assert_eq!(throttle.names.len(), MAX_NAMES);
        assert!(throttle.names.contains_key("0"), "in use");
        assert!(!throttle.names.contains_key("1"), "the oldest that is not");
    }

    #[test]
    fn a_table_full_of_waiting_names_takes_no_more() {
        let mut throttle = throttle();
        for n in 0..MAX_NAMES {
            throttle.enter(&n.to_string()).unwrap();
        }
        assert_eq!(throttle.enter("one more").unwrap_err(), Crowded::Names);
    }
}
