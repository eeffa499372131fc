//! Why a descriptor that came over Ice is none.

use crate::ice::DecodeError;
use crate::icegrid::types::DeploymentException;
use crate::telemetry::chain;

/// Why a descriptor that came over Ice is none.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// A reference to nothing, where something has to be.
    #[error("{0} is missing")]
    Missing(String),
    /// An instance of a class that cannot be there.
    #[error("{what} is of the wrong class")]
    Class {
        /// What has to be there.
        what: String,
        /// What is there.
        #[source]
        source: DecodeError,
    },
    /// A load-balancing policy that is none of IceGrid's.
    #[error("replica group `{0}': unknown load balancing policy")]
    Policy(String),
    /// A text that no file could have, and no program can be given.
    #[error("a text has a NUL character in it: {0:?}")]
    Nul(String),
    /// What refers to itself again and again is more than was sent.
    #[error("the descriptor is too large")]
    TooLarge,
    /// Something is to be done to a node that is not there.
    #[error("node `{0}' doesn't exist")]
    NoNode(String),
}

impl DescriptorError {
    /// Returns the exception that clients are thrown.
    pub fn exception(&self) -> DeploymentException {
        DeploymentException {
            reason: chain(self),
        }
    }
}
