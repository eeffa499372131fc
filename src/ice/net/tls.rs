//! Keys, certificates, and whose are believed.

use std::fmt;

use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What a process needs to speak TLS. By default it does not.
#[derive(Clone, Default)]
pub struct Tls {
    pub(super) connector: Option<TlsConnector>,
    pub(super) acceptor: Option<TlsAcceptor>,
}

// Keys are not for logs.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("connects", &self.connector.is_some())
            .field("accepts", &self.acceptor.is_some())
            .finish()
    }
}
