//! A server that says `READY=1` after a while.
//!
//! Usage: `slow_ready MILLISECONDS`; with property `omero.grid.ready=notify`. Without `NOTIFY_SOCKET` it says nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let millis = std::env::args().nth(1).and_then(|text| text.parse().ok());
    pause(Duration::from_millis(millis.unwrap_or(1000)));
    if let Ok(name) = std::env::var("NOTIFY_SOCKET") {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address)?;
    }
    println!("ready");
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
