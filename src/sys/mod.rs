//! The kernel behind safe functions: locks, processes, signals, files that appear, time.
//!
//! Owns every `unsafe` block of the crate and every question to `/proc`. What a process or a signal means is its
//! caller's business. Nothing here keeps state of the grid.
//!
//! | module | what it hides |
//! | --- | --- |
//! | [`lock`] | `flock`: one of each |
//! | [`process`] | `/proc`, identity by boot id + pid + start time, pidfds |
//! | [`marks`] | whose process it is, by a variable in its environment |
//! | [`kin`] | everything that a process has started, and its end |
//! | [`spawn`] | `fork` and `execve` |
//! | [`reaper`] | `SIGCHLD` and `waitid` |
//! | [`signals`] | signals as messages |
//! | [`watch`] | inotify |
//! | [`notify`] | saying `READY=1` |
//! | [`notify_socket`] | the socket a server says `READY=1` on |
//! | [`memory`] | the kernel's count of processes it killed for want of memory |
//! | [`user`] | giving up root |
//! | [`stdio`] | standard streams that leave the terminal |
//! | [`clock`], [`host`] | time and the machine |

#[cfg(test)]
#[expect(unsafe_code, reason = "an allocator that counts")]
pub(crate) mod allocation;
pub mod clock;
pub mod host;
pub mod kin;
pub mod lock;
pub mod marks;
pub mod memory;
pub mod notify;
pub mod notify_socket;
#[expect(unsafe_code, reason = "killpg with any signal")]
pub mod process;
#[expect(unsafe_code, reason = "a descriptor given to tokio has to stay open")]
mod readable;
#[expect(unsafe_code, reason = "waitid with all that it tells")]
pub mod reaper;
pub mod signals;
#[expect(
    unsafe_code,
    reason = "what happens between fork and execve is in no safe wrapper"
)]
pub mod spawn;
pub mod stdio;
#[expect(unsafe_code, reason = "a descriptor is inherited by its number")]
pub mod successor;
pub mod tcp;
pub mod user;
pub mod watch;
