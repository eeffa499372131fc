//! What the generated properties say of the adapter, and where the registry is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ice::net::{self, BindError, Tls, TlsError, TlsSettings};
use crate::ice::{Endpoint, ParseError, Proxy, Reference};

/// An adapter that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum IceError {
    /// A property is not what it has to be.
    #[error("property {name} is '{value}'")]
    Property {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Keys or certificates cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[source] TlsError),
    /// The endpoints cannot be listened on.
    #[error(transparent)]
    Bind(BindError),
}

/// Where to listen, as what, and who is to know.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) endpoints: Vec<Endpoint>,
    /// `Ice.Admin.Endpoints`: where the process can be administrated; empty for nowhere.
    pub(super) admin: Vec<Endpoint>,
    /// `BlitzAdapter.AdapterId`; empty for one that is not registered.
    pub(super) adapter: String,
    /// `BlitzAdapter.ReplicaGroupId`; empty for none.
    pub(super) group: String,
    pub(super) locator: Proxy,
    pub(super) net: Arc<net::Settings>,
}

impl Settings {
    /// Reads them; `None` where there are no endpoints or no locator.
    pub(super) fn of(properties: &BTreeMap<String, String>) -> Result<Option<Self>, IceError> {
        const ENDPOINTS: &str = "BlitzAdapter.Endpoints";
        const ADMIN: &str = "Ice.Admin.Endpoints";
        const LOCATOR: &str = "Ice.Default.Locator";
        let get = |name: &str| {
            let value = properties.get(name)?.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let (Some(listens), Some(locator)) = (get(ENDPOINTS), get(LOCATOR)) else {
            return Ok(None);
        };
        let wrong = |name, value: &str| {
            let value = value.to_owned();
            move |source| IceError::Property {
                name,
                value,
                source,
            }
        };
        let endpoints = Endpoint::parse_all(&listens).map_err(wrong(ENDPOINTS, &listens))?;
        let enabled = get("Ice.Admin.Enabled").and_then(|text| text.parse::<i32>().ok());
        let admin = match get(ADMIN).filter(|_| enabled.is_none_or(|enabled| enabled > 0)) {
            Some(admin) => Endpoint::parse_all(&admin).map_err(wrong(ADMIN, &admin))?,
            None => Vec::new(),
        };
        let locator: Proxy = locator.parse().map_err(wrong(LOCATOR, &locator))?;
        let places = match &locator.reference {
            Reference::Direct(places) => places.as_slice(),
            Reference::Indirect(_) | Reference::WellKnown => &[],
        };
        let encrypts = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Ssl(_));
        let mut all = endpoints.iter().chain(&admin).chain(places);
        let tls = match all.any(encrypts) {
            true => {
                let settings = TlsSettings::of(get).map_err(IceError::Tls)?;
                Tls::new(&settings).map_err(IceError::Tls)?
            }
            // What others of the grid need may not be there for this one.
            false => Tls::default(),
        };
        let mut net = net::Settings {
            default_host: get("Ice.Default.Host"),
            tls,
            ..net::Settings::default()
        };
        let kilobytes = get("Ice.MessageSizeMax").and_then(|text| text.parse::<usize>().ok());
        if let Some(kilobytes) = kilobytes.filter(|kilobytes| *kilobytes > 0) {
            net.message_max = kilobytes.saturating_mul(1024);
        }
        Ok(Some(Self {
            endpoints,
            admin,
            adapter: get("BlitzAdapter.AdapterId").unwrap_or_default(),
            group: get("BlitzAdapter.ReplicaGroupId").unwrap_or_default(),
            locator,
            net: Arc::new(net),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCATOR: &str = "IceGrid/Locator:tcp -h 127.0.0.1 -p 4061";

    fn of(pairs: &[(&str, &str)]) -> Result<Option<Settings>, IceError> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings::of(&pairs.iter().map(owned).collect())
    }

    #[test]
    fn there_is_no_adapter_without_endpoints_or_without_a_registry() {
        let endpoints = ("BlitzAdapter.Endpoints", "tcp -h 127.0.0.1");
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[endpoints]).unwrap().is_none());
        assert!(of(&[("Ice.Default.Locator", LOCATOR)]).unwrap().is_none());
        let both = of(&[endpoints, ("Ice.Default.Locator", LOCATOR)]);
        assert_eq!(both.unwrap().unwrap().adapter, "");
    }

    #[test]
    fn the_process_is_administrated_where_the_properties_say_so() {
        let admin = |pairs: &[(&str, &str)]| {
            let both = [
                ("BlitzAdapter.Endpoints", "tcp"),
                ("Ice.Default.Locator", LOCATOR),
            ];
            let all: Vec<_> = both.iter().chain(pairs).copied().collect();
            of(&all).unwrap().unwrap().admin.len()
        };
        let endpoints = ("Ice.Admin.Endpoints", "tcp -h localhost");
        assert_eq!(admin(&[]), 0);
        assert_eq!(admin(&[endpoints]), 1);
        assert_eq!(admin(&[endpoints, ("Ice.Admin.Enabled", "1")]), 1);
        assert_eq!(admin(&[endpoints, ("Ice.Admin.Enabled", "0")]), 0);
        assert_eq!(admin(&[("Ice.Admin.Enabled", "1")]), 0);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let wrong = of(&[
            ("BlitzAdapter.Endpoints", "tcp -h"),
            ("Ice.Default.Locator", LOCATOR),
        ]);
        let error = wrong.unwrap_err().to_string();
        assert_eq!(error, "property BlitzAdapter.Endpoints is 'tcp -h'");
    }
}
