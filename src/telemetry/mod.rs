//! Logs and error chains.

use std::error::Error;
use std::fmt::Write as _;

/// Joins an error and its sources with colons, the whole in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
