//! sys.
pub mod host;
