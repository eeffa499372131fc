//! Descriptors between Slice and ours: the same applications, as IceGrid's tools send them and as [`descriptor`](crate::descriptor)
//! expands them.
//!
//! Pure. What comes in is judged only as far as its shape goes; what it means is judged where it is expanded.

mod error;
mod read;
#[cfg(test)]
mod tests;
mod update;
mod write;

pub use error::DescriptorError;
pub use read::application_from_slice;
pub use update::{difference, instantiate_server, update_application};
pub use write::{application_to_slice, server_to_slice};
