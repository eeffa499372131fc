use std::time::Duration;

use p12_keystore::{Certificate, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::{
    Adapter, Answer, Call, ConnectError, Connection, InvokeError, Servants, Settings,
};
use super::*;
use crate::ice::{Endpoint, Identity, Mode, Proxy, Reference};
use crate::telemetry::chain;

/// A folder with `ca.pem`, `server.pem`, `server.key`, `server.p12`, `alone.pem` and `alone.key`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    write("ca.pem", ca_certificate.pem().as_bytes());
    let issuer = Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["omero.example".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    write("server.pem", server.pem().as_bytes());
    write("server.key", key.serialize_pem().as_bytes());
    let mut store = KeyStore::new();
    let chain = PrivateKeyChain::new(
        b"1".to_vec(),
        PrivateKey::from_der(&key.serialize_der()).unwrap(),
        [Certificate::from_der(server.der()).unwrap()],
    );
    store.add_entry("server", KeyStoreEntry::PrivateKeyChain(chain));
    write("server.p12", &store.writer("secret").write().unwrap());
    let alone = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap();
    let certificate = certificate.self_signed(&alone).unwrap();
    write("alone.pem", certificate.pem().as_bytes());
    write("alone.key", alone.serialize_pem().as_bytes());
    dir
}

fn settings(dir: &Path, properties: &[(&str, &str)]) -> TlsSettings {
    let mut settings = TlsSettings::of(|name| {
        let mut all = properties.iter();
        all.find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    })
    .unwrap();
    settings.dir = Some(dir.to_owned());
    settings
}

/// Pings an adapter with one set of properties from a client with another.
async fn ping(
    dir: &Path,
    server: &[(&str, &str)],
    client: &[(&str, &str)],
) -> Result<Answer, InvokeError> {
    let with = |properties| {
        Arc::new(Settings {
            tls: Tls::new(&settings(dir, properties)).unwrap(),
            ..Settings::default()
        })
    };
    let proxy: Proxy = "x:ssl -h 127.0.0.1 -p 0".parse().unwrap();
    let Reference::Direct(endpoints) = &proxy.reference else {
        panic!("{proxy}");
    };
    let servants = Arc::new(Servants::new());
    let adapter = Adapter::bind(endpoints, with(server), servants)
        .await
        .unwrap();
    let endpoint = adapter.endpoints()[0].clone();
    assert!(matches!(endpoint, Endpoint::Ssl(_)));
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(adapter.serve(stopped));
    let (connection, driving) = Connection::connect(&endpoint, &with(client), None).await?;
    tasks.spawn(driving);
    assert!(connection.is_encrypted());
    let nobody = Proxy::new(Identity::new("nobody"), Reference::WellKnown);
    let call = Call::new(&nobody, "ice_ping", Mode::Idempotent);
    let answer = connection
        .invoke(&call, Some(Duration::from_secs(20)))
        .await;
    connection.close().await;
    stop.send_replace(true);
    while tasks.join_next().await.is_some() {}
    answer
}

const PEM: [(&str, &str); 3] = [
    ("IceSSL.CertFile", "server.pem"),
    ("IceSSL.KeyFile", "server.key"),
    ("IceSSL.VerifyPeer", "0"),
];
const PKCS12: [(&str, &str); 3] = [
    ("IceSSL.CertFile", "server.p12"),
    ("IceSSL.Password", "secret"),
    ("IceSSL.VerifyPeer", "0"),
];

#[tokio::test]
async fn calls_are_made_over_tls_with_either_kind_of_file_and_version() {
    let dir = folder();
    let anyone = [("IceSSL.VerifyPeer", "0")];
    let signed = [("IceSSL.CAs", "ca.pem"), ("IceSSL.VerifyPeer", "1")];
    let old = [&anyone[..], &[("IceSSL.Protocols", "TLS1_2")]].concat();
    for (server, client) in [
        (&PEM[..], &anyone[..]),
        (&PKCS12, &anyone),
        (&PEM, &signed),
        (&PKCS12, &old),
    ] {
        let answer = ping(dir.path(), server, client).await.unwrap();
        assert!(matches!(answer, Answer::Missing { .. }), "{answer:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_signed_itself_may_be_believed_by_itself() {
    let dir = folder();
    let server = [
        ("IceSSL.CertFile", "alone.pem"),
        ("IceSSL.KeyFile", "alone.key"),
        ("IceSSL.VerifyPeer", "0"),
    ];
    let client = [("IceSSL.CAs", "alone.pem"), ("IceSSL.VerifyPeer", "1")];
    ping(dir.path(), &server, &client).await.unwrap();
}

#[tokio::test]
async fn who_is_not_believed_is_refused() {
    let dir = folder();
    let strict = [
        ("IceSSL.CertFile", "server.p12"),
        ("IceSSL.Password", "secret"),
        ("IceSSL.CAs", "ca.pem"),
        ("IceSSL.VerifyPeer", "2"),
    ];
    for (server, client) in [
        // Signed by another; by nobody who is known; for another host.
        (&PEM[..], &[("IceSSL.CAs", "alone.pem")][..]),
        (&PEM, &[]),
        (
            &PEM,
            &[("IceSSL.CAs", "ca.pem"), ("IceSSL.CheckCertName", "1")],
        ),
    ] {
        let error = ping(dir.path(), server, client).await.unwrap_err();
        let connect = matches!(error, InvokeError::Connect(ConnectError::Io { .. }));
        assert!(connect, "{client:?}: {error:?}");
    }
    // A client without a certificate, where one is required. In TLS 1.3 it hears of it with the first bytes.
    let error = ping(dir.path(), &strict, &[("IceSSL.VerifyPeer", "0")])
        .await
        .unwrap_err();
    assert!(error.was_not_done(), "{}", chain(&error));
    // One that has one.
    ping(dir.path(), &strict, &strict).await.unwrap();
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = folder();
    std::fs::write(dir.path().join("empty.pem"), "-----BEGIN nothing").unwrap();
    for (properties, expected) in [
        (&[("IceSSL.CertFile", "none.pem")][..], "cannot read"),
        (&[("IceSSL.CertFile", "server.p12")], "password"),
        (&[("IceSSL.CertFile", "server.pem")], "no key"),
        (&[("IceSSL.CertFile", "empty.pem")], "empty.pem"),
        (&[("IceSSL.CAs", "server.key")], "no certificate"),
        (
            &[
                ("IceSSL.CertFile", "server.pem"),
                ("IceSSL.KeyFile", "alone.key"),
                ("IceSSL.VerifyPeer", "0"),
            ],
            "cannot be used",
        ),
        (
            &[
                ("IceSSL.CertFile", "alone.pem"),
                ("IceSSL.KeyFile", "alone.key"),
            ],
            "IceSSL.CAs is needed",
        ),
    ] {
        let error = Tls::new(&settings(dir.path(), properties)).unwrap_err();
        let error = chain(&error);
        assert!(error.contains(expected), "{properties:?}: {error}");
        assert!(!error.contains("secret"));
    }
    let error = TlsSettings::of(|_| Some("3".to_owned())).unwrap_err();
    assert!(error.to_string().contains("IceSSL.VerifyPeer"));
}
