//! What a site configured: where its files are, and what its configuration store says.

pub mod ice;
pub mod keys;
mod node;
mod paths;
mod profile;
mod properties;
pub mod site;
mod store;
mod xml;

pub use keys::is_live;
pub use node::{ValueError, node_settings};
pub use paths::Paths;
pub use profile::{ProfileError, active_profile, store_path};
pub use properties::{Properties, PropertiesError};
pub use site::SiteFiles;
pub use store::{ConfigError, ConfigStore, Draft, check_name};
