//! How the registry's face is set up: where it listens, what it is called, who may come in.

use std::path::PathBuf;
use std::time::Duration;

use super::types::Texts;
use crate::ice::net::{TlsSettings, VerifyPeer};
use crate::ice::{Endpoint, Identity, ParseError, Proxy};

/// Where clients look for the registry unless it is said otherwise (DESIGN.md §1).
pub const CLIENT_ENDPOINTS: &str = "tcp -h 127.0.0.1 -p 4061";

/// Who is let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verifier {
    /// Nobody.
    #[default]
    Nobody,
    /// Everybody.
    Null,
    /// Those whose passwords are in this file, hashed as `crypt` does it.
    CryptPasswords(PathBuf),
    /// Those whom this verifier lets in.
    Remote(Box<Proxy>),
}

/// The registry's settings. The names in brackets are those of IceGrid's properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where clients connect (`IceGrid.Registry.Client.Endpoints`); none for no face at all.
    pub client: Vec<Endpoint>,
    /// Where servers register (`IceGrid.Registry.Server.Endpoints`); none for the same as clients.
    pub server: Vec<Endpoint>,
    /// Where proxies say that clients connect (`IceGrid.Registry.Client.PublishedEndpoints`); none for where they do.
    pub client_published: Vec<Endpoint>,
    /// Where proxies say that servers register (`IceGrid.Registry.Server.PublishedEndpoints`); none for where they do.
    pub server_published: Vec<Endpoint>,
    /// The category of its objects (`IceGrid.InstanceName`).
    pub instance: String,
    /// Whether adapters may register that are not deployed (`IceGrid.Registry.DynamicRegistration`).
    pub dynamic: bool,
    /// The file of what applications take in that want default templates (`IceGrid.Registry.DefaultTemplates`).
    pub default_templates: Option<PathBuf>,
    /// Who may open a session (`IceGrid.Registry.PermissionsVerifier`, `.CryptPasswords`).
    pub verifier: Verifier,
    /// Who may open an administrator's session (`IceGrid.Registry.AdminPermissionsVerifier`, `.AdminCryptPasswords`).
    pub admin_verifier: Verifier,
    /// Who may open a session by certificate (`IceGrid.Registry.SSLPermissionsVerifier`).
    pub ssl_verifier: Verifier,
    /// Who may open an administrator's session by certificate (`IceGrid.Registry.AdminSSLPermissionsVerifier`).
    pub admin_ssl_verifier: Verifier,
    /// Keys and certificates (`IceSSL.*`), where it listens for TLS.
    pub tls: Option<TlsSettings>,
    /// How long a session lasts of which nothing is heard (`IceGrid.Registry.SessionTimeout`).
    pub session_timeout: Duration,
    /// The largest message (`Ice.MessageSizeMax`), in bytes.
    pub message_max: usize,
    /// The host of endpoints that name none (`Ice.Default.Host`).
    pub default_host: Option<String>,
    /// The node in whose process IceGrid has the registry (`IceGrid.Node.Name` with `CollocateRegistry`): to shut it down is to stop the grid.
    pub collocated: Option<String>,
    /// What is said of it to administrators: all that is set and is neither a secret nor of another program.
    pub properties: Texts,
}

impl Settings {
    /// Returns the identity of one of the registry's own objects.
    pub fn identity(&self, name: &str) -> Identity {
        Identity {
            name: name.to_owned(),
            category: self.instance.clone(),
        }
    }
}

/// A property that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("property {name} is '{value}': {problem}")]
pub struct SettingsError {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Settings {
    /// Reads the settings from all Ice properties there are. What is empty or not there is as IceGrid has it, but that the registry listens on port
    /// 4061 of this host.
    pub fn of(properties: &Texts) -> Result<Self, SettingsError> {
        let get = |name: &str| properties.get(name).cloned();
        let some = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let wrong = |name: &str, value: &str, problem: String| SettingsError {
            name: name.to_owned(),
            value: value.to_owned(),
            problem,
        };
        let endpoints = |name: &str, text: &str| {
            Endpoint::parse_all(text)
                .map_err(|error: ParseError| wrong(name, text, error.to_string()))
        };
        let number = |name: &str| match some(name) {
            None => Ok(None),
            Some(text) => match text.trim().parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(wrong(name, &text, "this is no whole number".to_owned())),
            },
        };
        let by_proxy = |name: String| -> Result<Option<Verifier>, SettingsError> {
            let Some(text) = some(&name) else {
                return Ok(None);
            };
            let proxy: Proxy = text
                .parse()
                .map_err(|error: ParseError| wrong(&name, &text, error.to_string()))?;
            let is_null = matches!(
                proxy.identity.name.as_str(),
                "NullPermissionsVerifier" | "NullSSLPermissionsVerifier"
            );
            Ok(Some(match is_null {
                true => Verifier::Null,
                false => Verifier::Remote(Box::new(proxy)),
            }))
        };
        let verifier = |kind: &str| match some(&format!("IceGrid.Registry.{kind}CryptPasswords")) {
            Some(path) => Ok(Some(Verifier::CryptPasswords(path.into()))),
            None => by_proxy(format!("IceGrid.Registry.{kind}PermissionsVerifier")),
        };
        let ssl_verifier = |kind: &str| {
            let verifier = by_proxy(format!("IceGrid.Registry.{kind}SSLPermissionsVerifier"));
            Ok::<_, SettingsError>(verifier?.unwrap_or_default())
        };
        const CLIENT: &str = "IceGrid.Registry.Client.Endpoints";
        let client = get(CLIENT).unwrap_or_else(|| CLIENT_ENDPOINTS.to_owned());
        let client = endpoints(CLIENT, &client)?;
        const SERVER: &str = "IceGrid.Registry.Server.Endpoints";
        let server = some(SERVER).unwrap_or_default();
        let published = |kind: &str| {
            let name = format!("IceGrid.Registry.{kind}.PublishedEndpoints");
            endpoints(&name, &some(&name).unwrap_or_default())
        };
        let default_host = some("Ice.Default.Host");
        let loopback = client
            .iter()
            .all(|endpoint| is_loopback(endpoint, default_host.as_deref()));
        // Everybody is let in by default only where nobody comes in from outside.
        let default = || match loopback {
            true => Verifier::Null,
            false => Verifier::Nobody,
        };
        let collocated = number("IceGrid.Node.CollocateRegistry")?.is_some_and(|n| n > 0);
        let server = endpoints(SERVER, &server)?;
        let mut listens = client.iter().chain(&server);
        // What others of the grid need may not be there for this one.
        let tls = listens
            .any(|endpoint| matches!(endpoint, Endpoint::Ssl(_)))
            .then(|| TlsSettings::of(get))
            .transpose()
            .map_err(|error| {
                let name = "IceSSL.VerifyPeer";
                wrong(name, &get(name).unwrap_or_default(), error.to_string())
            })?;
        Ok(Self {
            client_published: published("Client")?,
            server_published: published("Server")?,
            server,
            ssl_verifier: ssl_verifier("")?,
            admin_ssl_verifier: ssl_verifier("Admin")?,
            tls,
            instance: some("IceGrid.InstanceName").unwrap_or_else(|| "IceGrid".to_owned()),
            dynamic: number("IceGrid.Registry.DynamicRegistration")?.is_some_and(|n| n > 0),
            default_templates: some("IceGrid.Registry.DefaultTemplates").map(PathBuf::from),
            verifier: verifier("")?.unwrap_or_else(default),
            admin_verifier: verifier("Admin")?.unwrap_or_else(default),
            session_timeout: Duration::from_secs(
                number("IceGrid.Registry.SessionTimeout")?
                    .unwrap_or(30)
                    .max(1),
            ),
            message_max: match number("Ice.MessageSizeMax")? {
                None => 1024 * 1024,
                // As good as no limit: it is the protocol's.
                Some(0) => i32::MAX as usize,
                Some(kilobytes) => usize::try_from(kilobytes)
                    .unwrap_or(usize::MAX)
                    .saturating_mul(1024)
                    .min(i32::MAX as usize),
            },
            collocated: some("IceGrid.Node.Name").filter(|_| collocated),
            default_host,
            client,
            properties: properties
                .iter()
                .filter(|(name, _)| is_public(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        })
    }

    /// Returns what is to be said at each start: whom the null verifier lets in from outside.
    pub fn warning(&self) -> Option<String> {
        let by_certificate = [&self.ssl_verifier, &self.admin_ssl_verifier];
        let tls = self.tls.as_ref();
        let unasked = tls.is_some_and(|tls| tls.verify_peer != VerifyPeer::Required);
        let open = [&self.verifier, &self.admin_verifier].contains(&&Verifier::Null)
            || unasked && by_certificate.contains(&&Verifier::Null);
        let outside = self
            .client
            .iter()
            .find(|endpoint| !is_loopback(endpoint, self.default_host.as_deref()))?;
        open.then(|| {
            format!(
                "the registry lets everybody in at {outside}: its permissions verifier is the null one; set IceGrid.Registry.AdminCryptPasswords, or an endpoint on 127.0.0.1"
            )
        })
    }
}

/// Returns whether administrators may be told a property: what is for OMERO may be a secret.
fn is_public(name: &str) -> bool {
    let of_ice = ["Ice.", "IceGrid.", "IceSSL."];
    of_ice.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with("Password")
}

/// Returns whether nobody reaches an endpoint from another host.
fn is_loopback(endpoint: &Endpoint, default_host: Option<&str>) -> bool {
    let address = match endpoint {
        Endpoint::Tcp(address)
        | Endpoint::Ssl(address)
        | Endpoint::Ws(address, _)
        | Endpoint::Wss(address, _)
        | Endpoint::Udp(address) => address,
        Endpoint::Opaque { .. } => return false,
    };
    let host = match address.host.as_str() {
        "" => default_host.unwrap_or_default(),
        host => host,
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let all = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::of(&all.collect())
    }

    #[test]
    fn everybody_is_let_in_from_this_host_only() {
        let settings = of(&[]).unwrap();
        assert_eq!(
            settings.client[0].to_string(),
            "tcp -h 127.0.0.1 -p 4061 -t 60000"
        );
        assert_eq!(settings.admin_verifier, Verifier::Null);
        assert_eq!(settings.warning(), None);
        let open = of(&[("IceGrid.Registry.Client.Endpoints", "tcp -p 4061")]).unwrap();
        assert_eq!(open.admin_verifier, Verifier::Nobody);
        assert_eq!(open.warning(), None);
        let named = of(&[
            (
                "IceGrid.Registry.Client.Endpoints",
                "tcp -h 0.0.0.0 -p 4061:ssl -p 4062",
            ),
            (
                "IceGrid.Registry.AdminPermissionsVerifier",
                "IceGrid/NullPermissionsVerifier",
            ),
        ])
        .unwrap();
        assert_eq!(named.admin_verifier, Verifier::Null);
        assert!(named.warning().unwrap().contains("0.0.0.0"));
        let local = of(&[
            ("IceGrid.Registry.Client.Endpoints", "tcp -p 4061"),
            ("Ice.Default.Host", "::1"),
        ])
        .unwrap();
        assert_eq!(local.verifier, Verifier::Null);
    }

    #[test]
    fn certificates_are_read_where_it_listens_for_them() {
        let verify = ("IceSSL.VerifyPeer", "1");
        assert_eq!(of(&[verify]).unwrap().tls, None);
        let null = (
            "IceGrid.Registry.AdminSSLPermissionsVerifier",
            "IceGrid/NullSSLPermissionsVerifier",
        );
        let endpoint = ("IceGrid.Registry.Client.Endpoints", "ssl -h 192.0.2.1");
        let settings = of(&[endpoint, null, verify]).unwrap();
        assert_eq!(settings.admin_ssl_verifier, Verifier::Null);
        assert_eq!(settings.ssl_verifier, Verifier::Nobody);
        // Whoever has no certificate is let in, too.
        assert!(settings.warning().is_some());
        assert_eq!(of(&[endpoint, null]).unwrap().warning(), None);
        let error = of(&[endpoint, ("IceSSL.VerifyPeer", "9")]).unwrap_err();
        assert!(error.to_string().contains("IceSSL.VerifyPeer"), "{error}");
    }

    #[test]
    fn administrators_are_told_what_is_no_secret() {
        let settings = of(&[
            ("IceGrid.InstanceName", "Mine"),
            ("IceSSL.Password", "secret"),
            ("omero.db.pass", "secret"),
        ]);
        let told: Vec<_> = settings.unwrap().properties.into_iter().collect();
        assert_eq!(
            told,
            [("IceGrid.InstanceName".to_owned(), "Mine".to_owned())]
        );
    }

    #[test]
    fn an_empty_list_turns_it_off_and_nonsense_is_refused() {
        let off = of(&[("IceGrid.Registry.Client.Endpoints", "")]).unwrap();
        assert!(off.client.is_empty());
        for (name, value) in [
            ("IceGrid.Registry.Client.Endpoints", "carrier-pigeon -p 1"),
            ("IceGrid.Registry.Client.Endpoints", "tcp -p 99999"),
            ("IceGrid.Registry.DynamicRegistration", "perhaps"),
            ("Ice.MessageSizeMax", "-1"),
        ] {
            let error = of(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
