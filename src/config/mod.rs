//! What a site configured: where its files are.

mod paths;

pub use paths::Paths;
