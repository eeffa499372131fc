//! How processes end, and why a server is not running, in words.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// Nobody could learn how: it was not our child when it ended.
    Unknown,
}

impl ExitStatus {
    /// Returns whether the process ended of its own accord with code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "ended by signal {name}"),
                Err(_) => write!(f, "ended by signal {signal}"),
            },
            Self::Unknown => f.write_str("ended; nobody could learn how"),
        }
    }
}

/// The one cause of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum FailureCause {
    /// The process ended by itself.
    Exited {
        /// How it ended.
        status: ExitStatus,
    },
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// It was not ready in time.
    ActivationTimeout {
        /// The time it had.
        timeout: Duration,
    },
    /// The program to run is missing.
    MissingProgram {
        /// What was to be run, as in the descriptor.
        program: String,
    },
    /// The program to run is there but cannot be executed.
    NotExecutable {
        /// The path of the program.
        program: String,
        /// The system's reason.
        error: String,
    },
    /// Something else went wrong before the program ran.
    CannotStart {
        /// What failed, and the system's reason.
        error: String,
    },
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status } => status.fmt(f),
            Self::OutOfMemory => f.write_str("killed by the kernel: out of memory"),
            Self::ActivationTimeout { timeout } => {
                write!(f, "not ready within its activation timeout of {timeout:?}")
            }
            Self::MissingProgram { program } => write!(f, "cannot find the program '{program}'"),
            Self::NotExecutable { program, error } => {
                write!(f, "cannot execute '{program}': {error}")
            }
            Self::CannotStart { error } => f.write_str(error),
        }
    }
}

/// A failure of a server: its cause and the last lines that the server wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The one cause.
    #[serde(flatten)]
    pub cause: FailureCause,
    /// The last lines of the server's standard error, or of its output where that is empty.
    pub last_lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_in_words() {
        let exited = FailureCause::Exited {
            status: ExitStatus::Code(1),
        };
        assert_eq!(exited.to_string(), "exited with code 1");
        let killed = FailureCause::Exited {
            status: ExitStatus::Signal(9),
        };
        assert_eq!(killed.to_string(), "ended by signal SIGKILL");
        let late = FailureCause::ActivationTimeout {
            timeout: Duration::from_secs(5),
        };
        assert_eq!(
            late.to_string(),
            "not ready within its activation timeout of 5s"
        );
    }
}
