//! Time as a value, so that whoever decides is handed it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For deadlines: never goes back.
    pub instant: Instant,
    /// For people and for other processes: milliseconds since 1970.
    pub wall_ms: u64,
}

impl Moment {
    /// Returns what the wall clock shows at `instant` if nobody sets it meanwhile, in milliseconds since 1970.
    pub fn wall_ms_at(&self, instant: Instant) -> u64 {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        match instant.checked_duration_since(self.instant) {
            Some(later) => self.wall_ms.saturating_add(millis(later)),
            None => self
                .wall_ms
                .saturating_sub(millis(self.instant.duration_since(instant))),
        }
    }
}

/// Returns the present moment. Inside a runtime the monotonic half is the runtime's, so that tests can pause it.
pub fn now() -> Moment {
    Moment {
        instant: tokio::time::Instant::now().into_std(),
        wall_ms: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Returns the time since the machine has started, the time that it slept included: for what ends while nobody is awake.
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_of_another_instant_is_as_far_away() {
        let moment = Moment {
            instant: Instant::now() + Duration::from_secs(10),
            wall_ms: 5_000,
        };
        let second = Duration::from_secs(1);
        assert_eq!(moment.wall_ms_at(moment.instant + second), 6_000);
        assert_eq!(moment.wall_ms_at(moment.instant - second), 4_000);
        assert_eq!(moment.wall_ms_at(moment.instant - 9 * second), 0);
    }
}
