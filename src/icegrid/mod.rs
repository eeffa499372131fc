//! The registry's face for Ice: what IceGrid's own tools, servers and clients call.

pub mod client;
pub mod descriptors;
pub mod types;
