//! The messages, one module per link.
//!
//! Within one protocol version variants and fields are only added; every new field has a default.

pub mod blitz;
pub mod client;
pub mod data;
pub mod heritage;
pub mod node;
