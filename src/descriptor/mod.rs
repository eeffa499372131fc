//! Application descriptors: XML text in, a validated [`Deployment`] out. Pure: files are read by the caller.

mod types;

pub use types::*;
