//! Which store a grid uses, as its properties say.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

/// Where sessions and users are kept: nothing, `sqlite`, `postgresql://…` or `omero.db`.
pub(super) const STORE: &str = "omero.grid.store";

/// Whose users may log in: `grid` (those of the store) or `omero` (those of OMERO's database).
pub(super) const USERS: &str = "omero.grid.users";

/// How long a Blitz may answer for its sessions after the database has last confirmed it, in seconds.
pub(super) const LEASE: &str = "omero.grid.store.lease";

/// The lease of a Blitz that is told none.
const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// Which store to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// The SQLite file of the grid.
    Embedded,
    /// A PostgreSQL database.
    Postgres(Box<PostgresChoice>),
}

/// How to reach a PostgreSQL store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresChoice {
    /// The database with our schema.
    pub(super) server: Server,
    /// The database with OMERO's users, if they are the ones who log in.
    pub(super) omero_users: Option<Server>,
    /// How long a lease lasts.
    pub(super) lease: Duration,
}

/// A database server and a database on it. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Server(pub(super) tokio_postgres::Config);

/// A property that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct ChoiceError {
    /// The property.
    pub name: &'static str,
    /// What is wrong with its value; never the value, which may hold a password.
    pub problem: String,
}

impl StoreChoice {
    /// Reads the choice; `get` returns the value of a property.
    pub fn of(get: impl Fn(&str) -> Option<String>) -> Result<Self, ChoiceError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let omero_users = match get(USERS).as_deref() {
            None | Some("grid") => None,
            Some("omero") => Some(omero_db(&get)?),
            Some(_) => return Err(bad(USERS, "the allowed values are grid and omero")),
        };
        let server = match get(STORE).as_deref() {
            None | Some("sqlite") if omero_users.is_some() => {
                let problem = format!(
                    "the users of OMERO's database need {STORE} to be one too: set it to omero.db or to postgresql://…"
                );
                return Err(bad(USERS, problem));
            }
            None | Some("sqlite") => return Ok(Self::Embedded),
            Some("omero.db") => omero_db(&get)?,
            Some(url) => Server::parse(STORE, url)?,
        };
        let lease = match get(LEASE) {
            None => DEFAULT_LEASE,
            Some(text) => text
                .parse()
                .ok()
                .filter(|seconds| (1..=3600).contains(seconds))
                .map(Duration::from_secs)
                .ok_or_else(|| bad(LEASE, "a whole number of seconds from 1 to 3600 is allowed"))?,
        };
        Ok(Self::Postgres(Box::new(PostgresChoice {
            server,
            omero_users,
            lease,
        })))
    }

    /// Reads what a person typed: `sqlite` or a URL.
    pub fn typed(text: &str) -> Result<Self, ChoiceError> {
        Self::of(|name| (name == STORE).then(|| text.to_owned()))
    }

    /// Returns whether the users are OMERO's own, so that nobody can be added here.
    pub fn has_foreign_users(&self) -> bool {
        matches!(self, Self::Postgres(choice) if choice.omero_users.is_some())
    }
}

impl Server {
    fn parse(name: &'static str, url: &str) -> Result<Self, ChoiceError> {
        if !(url.starts_with("postgresql://") || url.starts_with("postgres://")) {
            let problem =
                "'sqlite', 'omero.db' or postgresql://USER:PASSWORD@HOST:PORT/DATABASE is allowed";
            return Err(bad(name, problem));
        }
        let config = tokio_postgres::Config::from_str(url).map_err(|error| {
            use std::error::Error as _;
            let why = error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string);
            bad(name, format!("the URL cannot be used: {why}"))
        })?;
        if config.get_hosts().is_empty() {
            return Err(bad(name, "the URL names no host"));
        }
        if config.get_dbname().is_none() || config.get_user().is_none() {
            return Err(bad(name, "the URL has to name a user and a database"));
        }
        if config.get_ssl_mode() == SslMode::Require {
            let problem = "sslmode=require is not supported; use a tunnel, a local socket, or a network that you trust";
            return Err(bad(name, problem));
        }
        Ok(Self(config))
    }
}

/// Reads OMERO's own database settings, with OMERO's defaults.
fn omero_db(get: &impl Fn(&str) -> Option<String>) -> Result<Server, ChoiceError> {
    let value = |name: &str, default: &str| get(name).unwrap_or_else(|| default.to_owned());
    let mut config = tokio_postgres::Config::new();
    config
        .host(value("omero.db.host", "localhost"))
        .dbname(value("omero.db.name", "omero"))
        .user(value("omero.db.user", "omero"))
        .password(value("omero.db.pass", "omero"));
    let port = value("omero.db.port", "5432");
    config.port(
        port.parse()
            .map_err(|_| bad("omero.db.port", "a port number is allowed"))?,
    );
    Ok(Server(config))
}

fn bad(name: &'static str, problem: impl Into<String>) -> ChoiceError {
    ChoiceError {
        name,
        problem: problem.into(),
    }
}

impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("the embedded store"),
            Self::Postgres(choice) => choice.server.fmt(f),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.0.get_user().unwrap_or_default();
        write!(f, "postgresql://{user}@")?;
        for (n, host) in self.0.get_hosts().iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => {
                    let path = path.display().to_string().replace('/', "%2F");
                    write!(f, "{comma}{path}")?;
                }
            }
            let port = self.0.get_ports().get(n).or(self.0.get_ports().first());
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.0.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(properties: &[(&str, &str)]) -> Result<StoreChoice, ChoiceError> {
        StoreChoice::of(|name| {
            properties
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn shown(properties: &[(&str, &str)]) -> String {
        match choice(properties).unwrap() {
            StoreChoice::Embedded => "embedded".to_owned(),
            StoreChoice::Postgres(choice) => choice.server.to_string(),
        }
    }

    #[test]
    fn the_store_is_what_the_properties_say() {
        assert_eq!(shown(&[]), "embedded");
        assert_eq!(shown(&[(STORE, "")]), "embedded");
        assert_eq!(shown(&[(STORE, "sqlite")]), "embedded");
        assert_eq!(
            shown(&[(STORE, "postgresql://u:secret@db:5433/grid")]),
            "postgresql://u@db:5433/grid"
        );
        assert_eq!(
            shown(&[
                (STORE, "omero.db"),
                ("omero.db.host", "db"),
                ("omero.db.pass", "secret")
            ]),
            "postgresql://omero@db:5432/omero"
        );
        assert_eq!(
            shown(&[(STORE, "postgresql://u@%2Frun%2Fpg/grid")]),
            "postgresql://u@%2Frun%2Fpg:5432/grid"
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_its_password() {
        for properties in [
            &[(STORE, "mysql://u:secret@h/d")][..],
            &[(STORE, "postgresql://u:secret@h:port/d")],
            &[(STORE, "postgresql://u:secret@h/d?sslmode=require")],
            &[(STORE, "postgresql://u:secret@h/d?secret=secret")],
            &[(STORE, "postgresql://u:secret@/d")],
            &[(STORE, "postgresql://u:secret@h")],
            &[(STORE, "omero.db"), ("omero.db.port", "secret")],
            &[(STORE, "omero.db"), (LEASE, "0")],
            &[(USERS, "omero")],
            &[(USERS, "ldap")],
        ] {
            let error = choice(properties).unwrap_err().to_string();
            assert!(error.starts_with("omero."), "{error}");
            assert!(!error.replace("`secret`", "").contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_choice_is_never_shown_with_its_password() {
        let choice = choice(&[
            (STORE, "postgresql://u:secret@h/d"),
            (USERS, "omero"),
            ("omero.db.pass", "secret"),
        ]);
        let choice = choice.unwrap();
        assert!(choice.has_foreign_users());
        assert!(!format!("{choice:?}").contains("secret"), "{choice:?}");
    }
}
