//! The exceptions of Glacier2 and OMERO that a login can end with, as they are on the wire.
//!
//! Sources: `Glacier2/Session.ice` of Ice 3.7; `omero.md` §2.7.

use crate::exception;

exception! {
    /// No session can be made.
    pub(super) struct CannotCreateSessionException("::Glacier2::CannotCreateSessionException") {
        pub(super) reason: String,
    }
}

exception! {
    /// No session can be made, and why in OMERO's words.
    pub(super) struct WrappedCreateSessionException("::omero::WrappedCreateSessionException"): CannotCreateSessionException {
        /// Whether trying again may help.
        pub(super) concurrency: bool,
        /// When, in milliseconds; −1 for never.
        pub(super) back_off: i64,
        /// The kind of the cause.
        pub(super) kind: String,
    }
}
