//! Asking a server's process over Ice: its admin object, facet by facet.

/// A process that was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// Nobody here speaks Ice.
    #[error("cannot call {0} yet")]
    Silent(String),
}

/// Asks a process to end (`Ice::Process`, `shutdown`); returns once it has heard that.
pub(crate) async fn shutdown(process: String) -> Result<(), AdminError> {
    Err(AdminError::Silent(process))
}
