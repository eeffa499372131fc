//! What a site configured: where its files are, and what its configuration store says.

mod paths;
mod profile;

pub use paths::Paths;
pub use profile::{ProfileError, active_profile};
