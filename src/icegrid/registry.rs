//! `IceGrid/Registry`: who is let in, and sessions.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::face::Grid;
use super::operation::{Outcome, Raised, later, now, params};
use super::session::{self, Kind};
use super::settings::Verifier;
use super::types::{PermissionDeniedException, SessionPermissionDeniedException, SslInfo};
use crate::ice::net::{Answer, Call, Connection, Incoming, Responder, Servant, Served};
use crate::ice::{Encapsulation, Encode as _, Missing, Mode, Proxy, Thrown};
use crate::model::Secret;

/// How long a verifier may take.
const VERIFY: Duration = Duration::from_secs(15);

/// The registry.
pub(super) struct Registry(pub(super) Arc<Grid>);

impl Servant for Registry {
    fn types(&self) -> &[&str] {
        &["::IceGrid::Registry"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let (kind, by_certificate) = match incoming.target().operation {
            "createAdminSession" => (Kind::Admin, false),
            "createSession" => (Kind::Client, false),
            "createAdminSessionFromSecureConnection" => (Kind::Admin, true),
            "createSessionFromSecureConnection" => (Kind::Client, true),
            "getSessionTimeout" | "getACMTimeout" => {
                let seconds = self.0.settings.session_timeout.as_secs();
                return now(responder, Ok(i32::try_from(seconds).unwrap_or(i32::MAX)));
            }
            _ => return responder.missing(Missing::Operation),
        };
        let given = match by_certificate {
            true => Ok(None),
            false => params::<(String, String)>(incoming)
                .map(|(user, password)| Some((user, Secret::new(password)))),
        };
        let (grid, connection) = (self.0.clone(), incoming.connection.clone());
        if grid.sessions.are_too_many() {
            return now::<()>(responder, Err(denied("too many sessions are open")));
        }
        match given {
            Err(raised) => now::<()>(responder, Err(raised)),
            Ok(given) => later(responder, async move {
                let user = match given {
                    Some((user, password)) => {
                        admit(&grid, kind, &user, &password).await?;
                        user
                    }
                    None => admit_by_certificate(&grid, kind, &connection).await?,
                };
                info!(user = ?user, peer = %connection.peer(), kind = ?kind, "a session with the registry");
                Ok(Some(session::open(&grid, kind, user, &connection)))
            }),
        }
    }
}

fn denied(reason: impl Into<String>) -> Raised {
    PermissionDeniedException {
        reason: reason.into(),
    }
    .into()
}

/// Refuses whoever is not to be let in.
async fn admit(grid: &Grid, kind: Kind, user: &str, password: &Secret) -> Outcome<()> {
    if user.is_empty() {
        return Err(denied("empty user id"));
    }
    let verifier = match kind {
        Kind::Admin => &grid.settings.admin_verifier,
        Kind::Client => &grid.settings.verifier,
    };
    match verifier {
        Verifier::Null => Ok(()),
        Verifier::Nobody => Err(denied("no permissions verifier is configured")),
        Verifier::CryptPasswords(path) => {
            let (path, user) = (path.clone(), user.to_owned());
            let password = password.clone();
            // Hashing takes its time on purpose.
            let checked = tokio::task::spawn_blocking(move || is_in(&path, &user, &password)).await;
            match checked {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(denied("permission denied")),
            }
        }
        Verifier::Remote(verifier) => {
            let call = Call::new(verifier, "checkPermissions", Mode::Nonmutating)
                .with(|writer| (user, password.reveal()).encode(writer));
            ask(grid, verifier, &call).await
        }
    }
}

/// Refuses whoever is not to be let in by the certificate of a connection. Returns whom it names.
async fn admit_by_certificate(grid: &Grid, kind: Kind, connection: &Connection) -> Outcome<String> {
    let (verifier, property) = match kind {
        Kind::Admin => (
            &grid.settings.admin_ssl_verifier,
            "IceGrid.Registry.AdminSSLPermissionsVerifier",
        ),
        Kind::Client => (
            &grid.settings.ssl_verifier,
            "IceGrid.Registry.SSLPermissionsVerifier",
        ),
    };
    if *verifier == Verifier::Nobody {
        return Err(denied(format!(
            "no ssl permissions verifier is configured: see property {property}"
        )));
    }
    let Some(encryption) = connection.encryption() else {
        return Err(denied("not ssl connection"));
    };
    let user = encryption.subject();
    // An administrator without a certificate is for the verifier to judge, as with IceGrid.
    if user.is_empty() && kind == Kind::Client {
        return Err(denied("empty user DN"));
    }
    if let Verifier::Remote(verifier) = verifier {
        let (peer, local) = (connection.peer(), connection.local());
        let about = SslInfo {
            remote_host: peer.ip().to_string(),
            remote_port: peer.port().into(),
            local_host: local.ip().to_string(),
            local_port: local.port().into(),
            cipher: encryption.cipher.to_owned(),
            certs: encryption.pem(),
        };
        let call =
            Call::new(verifier, "authorize", Mode::Nonmutating).with(|writer| about.encode(writer));
        ask(grid, verifier, &call).await?;
    }
    Ok(user)
}

/// Returns whether a file of users and hashes has this user with this password.
fn is_in(path: &Path, user: &str, password: &Secret) -> bool {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot read the passwords of the registry; nobody is let in");
            return false;
        }
    };
    let found = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(user)).then(|| words.next().unwrap_or_default())
    });
    found.is_some_and(|hash| crypt_matches(hash, password.reveal()))
}

/// Asks another verifier.
async fn ask(grid: &Grid, verifier: &Proxy, call: &Call) -> Outcome<()> {
    let answer = grid.resolver().invoke(verifier, call, Some(VERIFY)).await;
    let encapsulation = |encoding: [u8; 2]| {
        move |bytes| Encapsulation {
            version: encoding,
            bytes,
        }
    };
    match &answer {
        Ok(Answer::Done { encoding, body }) => {
            let result = encapsulation(*encoding)(body).decode::<(String, bool)>();
            match result {
                Ok((_, true)) => Ok(()),
                Ok((reason, false)) if reason.is_empty() => Err(denied("permission denied")),
                Ok((reason, false)) => Err(denied(reason)),
                Err(error) => {
                    warn!(%error, "the permissions verifier answers what it should not");
                    Err(denied("internal server error"))
                }
            }
        }
        Ok(Answer::Exception { encoding, body }) => {
            let thrown = Thrown::new(encapsulation(*encoding)(body));
            let refused = thrown.and_then(|t| t.is::<SessionPermissionDeniedException>());
            match refused {
                Ok(Some(refused)) => Err(denied(refused.reason)),
                Ok(None) | Err(_) => Err(denied("internal server error")),
            }
        }
        Ok(_) => Err(denied("internal server error")),
        Err(error) => {
            warn!(%error, "the permissions verifier does not answer");
            Err(denied("internal server error"))
        }
    }
}

/// Returns whether a password is the one of a hash of `crypt`: `$5$…` or `$6$…`.
fn crypt_matches(hash: &str, password: &str) -> bool {
    use sha_crypt::{PasswordVerifier as _, ShaCrypt};
    ShaCrypt::SHA512
        .verify_password(password.as_bytes(), hash)
        .is_ok()
}
