//! Signals as messages.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use tokio::net::UnixStream;

/// A signal that somebody sent to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`: stop in good order.
    Terminate,
    /// `SIGINT`: stop, from a terminal.
    Interrupt,
    /// `SIGQUIT`: stop, from a terminal.
    Quit,
    /// `SIGHUP`: read the configuration again.
    Hangup,
    /// `SIGUSR1`.
    User1,
}

/// The signals that become messages, and their numbers.
const ALL: [(Signal, i32); 5] = [
    (Signal::Terminate, SIGTERM),
    (Signal::Interrupt, SIGINT),
    (Signal::Quit, SIGQUIT),
    (Signal::Hangup, SIGHUP),
    (Signal::User1, SIGUSR1),
];

/// Receives signals, each at least once after it was sent; the same signal sent twice may be received once.
///
/// While one of these exists, and after, its signals no longer end the process.
#[derive(Debug)]
pub struct Signals {
    stream: UnixStream,
    pending: Vec<(Signal, Arc<AtomicBool>)>,
}

impl Signals {
    /// Takes over all signals of [`Signal`]. Needs a running runtime.
    pub fn new() -> io::Result<Self> {
        let (read, write) = StdStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let mut pending = Vec::with_capacity(ALL.len());
        for (signal, number) in ALL {
            let flag = Arc::new(AtomicBool::new(false));
            // Actions run in the order of registration: the flag is up before the byte is there.
            signal_hook::flag::register(number, flag.clone())?;
            signal_hook::low_level::pipe::register(number, write.try_clone()?)?;
            pending.push((signal, flag));
        }
        Ok(Self {
            stream: UnixStream::from_std(read)?,
            pending,
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn recv(&mut self) -> io::Result<Signal> {
        loop {
            for (signal, flag) in &self.pending {
                if flag.swap(false, Ordering::SeqCst) {
                    return Ok(*signal);
                }
            }
            self.stream.readable().await?;
            drain(&self.stream)?;
        }
    }
}

/// Takes every byte out of a stream that only wakes.
pub(super) fn drain(stream: &UnixStream) -> io::Result<()> {
    let mut bytes = [0_u8; 64];
    loop {
        match stream.try_read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_becomes_a_message() {
        let mut signals = Signals::new().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).unwrap();
        assert_eq!(signals.recv().await.unwrap(), Signal::User1);
    }
}
