//! A server that writes a line with a growing number every 10 ms.
//!
//! Usage: `ticker [MILLISECONDS]`. Each line is one write, so that none is torn.

use std::io::Write;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let millis = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let mut out = std::io::stdout();
    for n in 0_u64.. {
        out.write_all(format!("{n}\n").as_bytes())?;
        out.flush()?;
        pause(Duration::from_millis(millis.unwrap_or(10)));
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "waiting is all that this program does"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
