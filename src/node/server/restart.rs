//! When a server that ended by itself is started again. Pure.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause, before the spread.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// How long a run has to last to count as healthy.
pub(crate) const HEALTHY: Duration = Duration::from_secs(60);

/// How far a pause is spread to either side.
pub(crate) const SPREAD: f64 = 0.2;

/// How a try to run a server went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Try {
    /// Whether the server was ready at some time.
    pub(crate) was_active: bool,
    /// How long its process was there; zero if it never was.
    pub(crate) up: Duration,
}

/// Returns the pause before the next try and the number of tries that have failed in a row by then.
///
/// After a healthy run there is none. Else it is 100 ms, doubled with each failure, at most 60 s, spread by `jitter` (−1 to 1) times
/// 20 %. There is no last try.
pub(crate) fn pause(this: Try, failures: u32, jitter: f64) -> (Duration, u32) {
    if this.was_active && this.up >= HEALTHY {
        return (Duration::ZERO, 0);
    }
    // 2^10 × 100 ms is past the longest pause already.
    let base = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
    let spread = 1.0 + jitter.clamp(-1.0, 1.0) * SPREAD;
    (base.mul_f64(spread), failures.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tried(was_active: bool, up_s: u64) -> Try {
        Try {
            was_active,
            up: Duration::from_secs(up_s),
        }
    }

    #[test]
    fn a_healthy_run_is_followed_at_once_and_others_ever_later() {
        for (this, failures, expected_ms, then) in [
            (tried(true, 60), 7, 0, 0),
            (tried(true, 59), 0, 100, 1),
            (tried(false, 3600), 0, 100, 1),
            (tried(false, 0), 1, 200, 2),
            (tried(false, 0), 9, 51_200, 10),
            (tried(false, 0), 10, 60_000, 11),
            (tried(false, 0), u32::MAX, 60_000, u32::MAX),
        ] {
            let expected = (Duration::from_millis(expected_ms), then);
            assert_eq!(pause(this, failures, 0.0), expected, "{this:?} {failures}");
        }
    }

    proptest! {
        #[test]
        fn a_pause_stays_within_its_bounds(failures: u32, jitter in -2.0..2.0_f64, up in 0..59_u64) {
            let (pause, _) = pause(tried(true, up), failures, jitter);
            prop_assert!(pause >= FIRST.mul_f64(1.0 - SPREAD));
            prop_assert!(pause <= LONGEST.mul_f64(1.0 + SPREAD));
        }
    }
}
