//! The shared words: ids, states, activation modes, exit reasons.
//!
//! No I/O and nothing asynchronous. Every other module may use these types; they use nothing of ours.

mod exit;
mod ids;
mod image;
mod node_settings;
mod secret;
mod state;

pub use exit::{ExitStatus, Failure, FailureCause};
pub use ids::{InvalidName, NodeName, ReplicaGroupId, ServerId, SessionId};
pub use image::{ByteOrder, Channel, Image, ImageFormat, Length, PhysicalSize, PixelType, Series};
pub use node_settings::NodeSettings;
pub use secret::Secret;
pub use state::{Accepting, Activation, NodeState, ServerState};
