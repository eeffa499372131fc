//! The two clocks of a Blitz.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::sessions::Now;

/// How far before the start of the process the monotonic time begins, so that a session can have been idle since before it.
const BEFORE: Duration = Duration::from_secs(200 * 365 * 24 * 3600);

/// Reads both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts the monotonic time.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the time by both clocks.
    pub(crate) fn now(self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            mono: BEFORE + self.0.elapsed(),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Waits for a moment of the monotonic time. Cancel safe.
    pub(crate) async fn sleep_until(self, mono: Duration) {
        tokio::time::sleep_until(self.0 + mono.saturating_sub(BEFORE)).await;
    }
}
