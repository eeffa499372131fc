//! The registry's face for Ice: what IceGrid's own tools, servers and clients call.
//!
//! A [`Face`] listens and serves; behind it are the master's [`Handle`](crate::master::Handle) and nothing else, so that whatever is said here
//! is said of the same grid that the command line shows. What this module keeps of its own are sessions with the registry and what they
//! have allocated, which end with their connections, and load averages of some seconds' age.
//!
#![doc = include_str!("LIFECYCLE.md")]
#![doc = include_str!("BEHAVIOUR.md")]

mod admin;
mod allocation;
mod applications;
pub mod client;
pub mod descriptors;
mod face;
mod facets;
mod files;
mod locate;
mod locator;
mod logger;
mod observers;
mod operation;
mod placement;
mod registration;
mod registry;
mod relay;
mod session;
mod settings;
pub mod types;

pub use face::{Face, FaceError};
pub use settings::{CLIENT_ENDPOINTS, Settings, SettingsError, Verifier};
