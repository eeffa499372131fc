//! Keys, certificates, and whose are believed: what the properties `IceSSL.*` say.
//!
//! Anonymous key agreement, which OMERO's old defaults ask for by `IceSSL.Ciphers=ADH`, cannot be served: a server needs a certificate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use p12_keystore::{KeyStore, Pkcs12ImportPolicy};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime,
};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::warn;

use crate::model::Secret;

/// How far the other side's certificate is looked at (`IceSSL.VerifyPeer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerifyPeer {
    /// Not at all. What OMERO's clients do.
    No,
    /// A server's has to be good; a client's if it has one.
    IfPresent,
    /// Either's has to be good.
    #[default]
    Required,
}

/// What `IceSSL.*` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Where files are that are named without a folder (`IceSSL.DefaultDir`).
    pub dir: Option<PathBuf>,
    /// Certificates, and mostly the key: PEM or PKCS#12 (`IceSSL.CertFile`).
    pub cert_file: Option<PathBuf>,
    /// The key, where it is apart (`IceSSL.KeyFile`).
    pub key_file: Option<PathBuf>,
    /// Whose certificates are believed: PEM (`IceSSL.CAs`).
    pub cas: Option<PathBuf>,
    /// The password of PKCS#12 (`IceSSL.Password`).
    pub password: Option<Secret>,
    /// Whether the other side's certificate is looked at.
    pub verify_peer: VerifyPeer,
    /// Whether a server's certificate has to be for the host that was asked for (`IceSSL.CheckCertName`).
    pub check_name: bool,
    /// The versions that may be spoken (`IceSSL.Protocols`); none is all.
    pub protocols: Vec<String>,
}

impl TlsSettings {
    /// Reads the properties, of which `get` returns the values.
    pub fn of(get: impl Fn(&str) -> Option<String>) -> Result<Self, TlsError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let verify_peer = match get("IceSSL.VerifyPeer").as_deref() {
            Some("0") => VerifyPeer::No,
            Some("1") => VerifyPeer::IfPresent,
            None | Some("2") => VerifyPeer::Required,
            Some(other) => {
                return Err(TlsError::Property {
                    name: "IceSSL.VerifyPeer",
                    value: other.to_owned(),
                });
            }
        };
        let protocols = get("IceSSL.Protocols").unwrap_or_default();
        let protocols = protocols.split([',', ' ']).filter(|word| !word.is_empty());
        Ok(Self {
            dir: path("IceSSL.DefaultDir"),
            cert_file: path("IceSSL.CertFile"),
            key_file: path("IceSSL.KeyFile"),
            // The older name is still in many configurations.
            cas: path("IceSSL.CAs").or_else(|| path("IceSSL.CertAuthFile")),
            password: get("IceSSL.Password").map(Secret::new),
            verify_peer,
            check_name: get("IceSSL.CheckCertName").is_some_and(|value| value != "0"),
            protocols: protocols.map(str::to_owned).collect(),
        })
    }

    fn path(&self, file: &Path) -> PathBuf {
        match &self.dir {
            Some(dir) => dir.join(file),
            None => file.to_owned(),
        }
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let says = |words: [&str; 2]| {
            let mut all = self.protocols.iter();
            all.any(|word| words.iter().any(|known| word.eq_ignore_ascii_case(known)))
        };
        let (v12, v13) = (says(["TLS1_2", "tls1.2"]), says(["TLS1_3", "tls1.3"]));
        if !v12 && !v13 && !self.protocols.is_empty() {
            warn!(protocols = ?self.protocols, "no version of TLS that is asked for is supported; 1.2 and 1.3 are spoken");
        }
        match (v12, v13) {
            (true, false) => vec![&TLS12],
            (false, true) => vec![&TLS13],
            _ => vec![&TLS13, &TLS12],
        }
    }
}

/// Keys and certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A property has a value that it cannot have.
    #[error("{name} cannot be {value:?}")]
    Property {
        /// Which.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is neither PEM nor PKCS#12 that its password opens")]
    Pkcs12 {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: p12_keystore::error::Error,
    },
    /// A file is broken PEM.
    #[error("{path} is broken")]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// Something that is needed is not in a file.
    #[error("there is no {what} in {path}")]
    Without {
        /// What is needed.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The certificate, its key, or whose is believed cannot be used.
    #[error("the certificates cannot be used")]
    Unusable(#[from] rustls::Error),
    /// Whose certificates of clients are believed is not known.
    #[error("certificates of clients cannot be looked at: IceSSL.CAs is needed")]
    Clients(#[source] VerifierBuilderError),
}

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

/// How a connection is encrypted that was accepted, and who is at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// The name of the cipher suite.
    pub cipher: &'static str,
    /// The other side's certificate and what it is signed by; none from who has none, or was not asked. They were looked at already.
    certificates: Vec<CertificateDer<'static>>,
}

impl Encryption {
    pub(super) fn of(handshake: &rustls::ServerConnection) -> Self {
        let suite = handshake.negotiated_cipher_suite();
        let certificates = handshake.peer_certificates().unwrap_or_default();
        Self {
            cipher: suite
                .and_then(|known| known.suite().as_str())
                .unwrap_or_default(),
            certificates: certificates.to_vec(),
        }
    }

    /// Returns whom the other side's certificate names: its subject. Nobody is empty.
    pub fn subject(&self) -> String {
        let own = self.certificates.first();
        let read = own.and_then(|own| p12_keystore::Certificate::from_der(own).ok());
        read.map_or_else(String::new, |certificate| certificate.subject().to_owned())
    }

    /// Returns the other side's certificates as PEM, its own first.
    pub fn pem(&self) -> Vec<String> {
        let one = |certificate: &CertificateDer<'_>| {
            let text = BASE64_STANDARD.encode(certificate);
            let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (line, more) = rest.split_at_checked(64).unwrap_or((rest, ""));
                pem.push_str(line);
                pem.push('\n');
                rest = more;
            }
            pem + "-----END CERTIFICATE-----\n"
        };
        self.certificates.iter().map(one).collect()
    }
}

struct Own {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    /// Reads keys and certificates. Without a certificate of its own a process can connect, and not accept.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let own = settings
            .cert_file
            .as_deref()
            .map(|file| own(settings, file))
            .transpose()?;
        let mut roots = RootCertStore::empty();
        if let Some(cas) = &settings.cas {
            let path = settings.path(cas);
            for certificate in certificates(&read(&path)?, &path)? {
                roots.add(certificate)?;
            }
        }
        let roots = Arc::new(roots);
        let acceptor = match &own {
            None => None,
            Some(own) => Some(acceptor(settings, own, &roots, &provider)?),
        };
        Ok(Self {
            connector: Some(connector(settings, own, roots, provider)?),
            acceptor,
        })
    }
}

fn acceptor(
    settings: &TlsSettings,
    own: &Own,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<TlsAcceptor, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&settings.versions())?;
    let clients = || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let builder = match settings.verify_peer {
        VerifyPeer::No => builder.with_no_client_auth(),
        // Without roots none could be looked at, and none is asked for.
        VerifyPeer::IfPresent if roots.is_empty() => builder.with_no_client_auth(),
        VerifyPeer::IfPresent => {
            let verifier = clients().allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(TlsError::Clients)?)
        }
        VerifyPeer::Required => {
            builder.with_client_cert_verifier(clients().build().map_err(TlsError::Clients)?)
        }
    };
    let config = builder.with_single_cert(own.certificates.clone(), own.key.clone_key())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(
    settings: &TlsSettings,
    own: Option<Own>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<TlsConnector, TlsError> {
    let inner = match settings.verify_peer {
        VerifyPeer::No => None,
        _ if roots.is_empty() => None,
        _ => {
            let builder =
                WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
            Some(builder.build().map_err(TlsError::Clients)?)
        }
    };
    let believed = match (settings.verify_peer, inner) {
        (VerifyPeer::No, _) => Believed::Anyone,
        (_, None) => Believed::Nobody,
        (_, Some(inner)) => Believed::Signed {
            inner,
            roots,
            check_name: settings.check_name,
        },
    };
    let verifier = Servers {
        believed,
        schemes: provider
            .signature_verification_algorithms
            .supported_schemes(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&settings.versions())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(own.certificates, own.key)?,
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Looks at the certificates of servers as Ice does.
#[derive(Debug)]
struct Servers {
    believed: Believed,
    schemes: Vec<SignatureScheme>,
}

#[derive(Debug)]
enum Believed {
    /// Whoever it is: only the wire is protected, and only from who does not stand in it.
    Anyone,
    Nobody,
    /// Whom one of the roots has signed, or who is one of them.
    Signed {
        inner: Arc<WebPkiServerVerifier>,
        roots: Arc<RootCertStore>,
        check_name: bool,
    },
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (inner, roots, check_name) = match &self.believed {
            Believed::Anyone => return Ok(ServerCertVerified::assertion()),
            Believed::Nobody => return Err(CertificateError::UnknownIssuer.into()),
            Believed::Signed {
                inner,
                roots,
                check_name,
            } => (inner, roots, *check_name),
        };
        let verified =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last: everything else is well.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !check_name => Ok(ServerCertVerified::assertion()),
            // A certificate that has signed itself is no authority, and yet it may be the very one that is believed.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if !check_name && is_root(end_entity, roots) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.believed {
            Believed::Signed { inner, .. } => inner.verify_tls12_signature(message, cert, dss),
            // Whoever may be anyone proves nothing by a signature.
            Believed::Anyone | Believed::Nobody => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.believed {
            Believed::Signed { inner, .. } => inner.verify_tls13_signature(message, cert, dss),
            Believed::Anyone | Believed::Nobody => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Returns whether a certificate is, by its subject and key, one of those that are believed.
fn is_root(certificate: &CertificateDer<'_>, roots: &RootCertStore) -> bool {
    let mut alone = RootCertStore::empty();
    alone.add(certificate.clone().into_owned()).is_ok()
        && alone
            .roots
            .iter()
            .all(|anchor| roots.roots.contains(anchor))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Returns whether this is text with PEM in it; PKCS#12 is binary.
fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

fn certificates(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let all = all.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    match all.is_empty() {
        true => Err(TlsError::Without {
            what: "certificate",
            path: path.to_owned(),
        }),
        false => Ok(all),
    }
}

/// Reads the own certificate, what it is signed by, and its key.
fn own(settings: &TlsSettings, file: &Path) -> Result<Own, TlsError> {
    let path = settings.path(file);
    let bytes = read(&path)?;
    if is_pem(&bytes) {
        let certificates = certificates(&bytes, &path)?;
        let key_path = match &settings.key_file {
            Some(file) => settings.path(file),
            None => path,
        };
        let key =
            PrivateKeyDer::from_pem_slice(&read(&key_path)?).map_err(|error| match error {
                pem::Error::NoItemsFound => TlsError::Without {
                    what: "key that is not encrypted",
                    path: key_path.clone(),
                },
                source => TlsError::Pem {
                    path: key_path.clone(),
                    source,
                },
            })?;
        return Ok(Own { certificates, key });
    }
    let password = settings.password.as_ref().map_or("", Secret::reveal);
    let store =
        KeyStore::from_pkcs12(&bytes, password, Pkcs12ImportPolicy::Strict).map_err(|source| {
            TlsError::Pkcs12 {
                path: path.clone(),
                source,
            }
        })?;
    let Some((_, chain)) = store.private_key_chain() else {
        return Err(TlsError::Without {
            what: "certificate with its key",
            path,
        });
    };
    let certificates = chain.certs().iter();
    Ok(Own {
        certificates: certificates
            .map(|certificate| CertificateDer::from(certificate.as_der().to_vec()))
            .collect(),
        key: PrivatePkcs8KeyDer::from(chain.key().as_der().to_vec()).into(),
    })
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
