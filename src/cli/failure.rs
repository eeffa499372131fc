//! What goes wrong at the command line, and the exit code it leaves (DESIGN.md §5).

use std::io;

use crate::ipc::{AddressError, CallError, ConnectError, Refusal, RefusalKind};
use crate::telemetry::chain;

/// Exit codes.
pub(crate) mod code {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const NOT_THERE: u8 = 3;
    pub(crate) const INVALID: u8 = 4;
    pub(crate) const TIMED_OUT: u8 = 5;
    pub(crate) const REFUSED: u8 = 6;
}

/// Why a command did not succeed: what to print, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// What is wrong; empty if it has been said already.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// A failure that has been shown already.
    pub(crate) fn shown(code: u8) -> Self {
        Self::new(code, "")
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The grid has no master.
    pub(crate) fn not_running() -> Self {
        Self::new(code::NOT_THERE, "the grid is not running").hint("omero-grid start [DESCRIPTOR]")
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::Failed | RefusalKind::Unsupported | RefusalKind::Again => code::FAILED,
            RefusalKind::NotFound => code::NOT_THERE,
            RefusalKind::Invalid => code::INVALID,
            RefusalKind::TimedOut => code::TIMED_OUT,
            RefusalKind::Refused | RefusalKind::Unavailable => code::REFUSED,
        };
        Self {
            code,
            message: refusal.message,
            hint: refusal.hint,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => refusal.into(),
            CallError::Lost => Self::new(code::FAILED, "the master went away before it answered")
                .hint("`omero-grid status` says what is left; `omero-grid start` adopts it"),
            error => Self::new(code::FAILED, chain(&error)),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Nobody { .. } => Self::not_running(),
            error => Self::new(code::FAILED, chain(&error)),
        }
    }
}

impl From<AddressError> for Failure {
    fn from(error: AddressError) -> Self {
        Self::new(code::FAILED, chain(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Whoever read the output has seen enough.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::shown(code::FAILED);
        }
        Self::new(code::FAILED, format!("cannot read or write: {error}"))
    }
}
