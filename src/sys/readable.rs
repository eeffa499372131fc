//! Waiting for descriptors that tokio has no type for.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Types that own the descriptor that `as_raw_fd` returns, and keep it open and the same until they are dropped.
pub(super) trait Owns: AsRawFd {}

impl Owns for std::os::fd::OwnedFd {}

/// Makes a descriptor awaitable for reading. Needs a running runtime.
pub(super) fn readable<T: Owns>(fd: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `Owns` promises that the descriptor stays open and the same for as long as the value lives, which is as long
    // as it is registered; `AsyncFd` deregisters it before it drops the value.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}
