//! A server that ignores SIGTERM, so that only SIGKILL ends it.
//!
//! Usage: `ignores_term`

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    // A handler that only raises a flag that nobody looks at.
    signal_hook::flag::register(
        signal_hook::consts::SIGTERM,
        Arc::new(AtomicBool::new(false)),
    )?;
    println!("ignores SIGTERM");
    loop {
        pause(Duration::from_secs(3600));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "waiting is all that this program does"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
