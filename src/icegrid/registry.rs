//! `IceGrid/Registry`: who is let in, and sessions.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::face::Grid;
use super::operation::{Outcome, Raised, later, now, params};
use super::session::{self, Kind};
use super::settings::Verifier;
use super::types::{PermissionDeniedException, SessionPermissionDeniedException};
use crate::ice::net::{Answer, Call, Incoming, Responder, Servant, Served};
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
        let kind = match incoming.target().operation {
            "createAdminSession" => Kind::Admin,
            "createSession" => Kind::Client,
            "createAdminSessionFromSecureConnection" | "createSessionFromSecureConnection" => {
                let refused = denied(
                    "sessions need a user and a password: there is no verifier of certificates",
                );
                return now::<()>(responder, Err(refused));
            }
            "getSessionTimeout" | "getACMTimeout" => {
                let seconds = self.0.settings.session_timeout.as_secs();
                return now(responder, Ok(i32::try_from(seconds).unwrap_or(i32::MAX)));
            }
            _ => return responder.missing(Missing::Operation),
        };
        let (user, password) = match params::<(String, String)>(incoming) {
            Ok((user, password)) => (user, Secret::new(password)),
            Err(raised) => return now::<()>(responder, Err(raised)),
        };
        let (grid, connection) = (self.0.clone(), incoming.connection.clone());
        if grid.sessions.are_too_many() {
            return now::<()>(responder, Err(denied("too many sessions are open")));
        }
        later(responder, async move {
            admit(&grid, kind, &user, &password).await?;
            info!(user = ?user, peer = %connection.peer(), kind = ?kind, "a session with the registry");
            Ok(Some(session::open(&grid, kind, user, &connection)))
        })
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
        Verifier::Remote(verifier) => ask(grid, verifier, user, password).await,
    }
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
async fn ask(grid: &Grid, verifier: &Proxy, user: &str, password: &Secret) -> Outcome<()> {
    let call = Call::new(verifier, "checkPermissions", Mode::Nonmutating).with(|writer| {
        (user, password.reveal()).encode(writer);
    });
    let answer = grid.client.invoke(verifier, &call, Some(VERIFY)).await;
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
