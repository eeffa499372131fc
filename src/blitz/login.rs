//! Who may log in: passwords are checked a few at a time, failures are delayed, recent successes are remembered.
//!
//! The order of an attempt: look the user up (each time, so that a hash changed by another Blitz counts at once) → remembered? →
//! the turn of that name → any delay of that name → remembered meanwhile? → a place among the checks → the check → its note in the
//! throttle → the answer, not before the delay is over. From the place among the checks on, an attempt is carried to its end even if the
//! connection is lost. A remembered password skips the turn, so that guessing locks nobody out who has logged in lately.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::clock::Clock;
use super::properties::Settings;
use super::service::store_refusal;
use super::tasks::Tasks;
use super::throttle::{Crowded, Throttle};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::Secret;
use crate::store::password::{self, MAX_PASSWORD, Verdict};
use crate::store::{StoreHandle, UserRow};

/// How long a password that verified is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Users whose passwords are remembered at once.
const MAX_REMEMBERED: usize = 10_000;

/// Checks that may wait for a core.
const MAX_WAITING: usize = 256;

/// The longest user name, in bytes.
pub(crate) const MAX_NAME: usize = 255;

/// Checks passwords.
pub(crate) struct Login {
    store: StoreHandle,
    clock: Clock,
    password_required: bool,
    ignore_case: bool,
    throttle: Mutex<Throttle>,
    remembered: Mutex<Remembered>,
    cores: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Login {
    /// Prepares to check at most `cores` passwords at a time.
    pub(crate) fn new(store: StoreHandle, clock: Clock, settings: &Settings, cores: usize) -> Self {
        Self {
            store,
            clock,
            password_required: settings.password_required,
            ignore_case: settings.ignore_case,
            throttle: Mutex::new(Throttle::new(
                settings.throttle_count,
                settings.throttle_time,
            )),
            remembered: Mutex::new(Remembered::new()),
            cores: Arc::new(Semaphore::new(cores)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Returns the user of that name if the password is right. An unknown user is refused like a wrong password.
    ///
    /// Cancelling a check under way leaves its failure noted.
    pub(crate) async fn verify(
        self: &Arc<Self>,
        tasks: &Tasks,
        name: &str,
        password: &Secret,
    ) -> Result<UserRow, Refusal> {
        if name.is_empty() || name.len() > MAX_NAME || password.reveal().len() > MAX_PASSWORD {
            return Err(wrong());
        }
        let name = if self.ignore_case {
            name.to_lowercase()
        } else {
            name.to_owned()
        };
        if let Some(user) = self.remembered(&name, password).await? {
            return Ok(user);
        }
        let attempt = Attempt::enter(self.clone(), name)?;
        let turn = attempt
            .turn
            .clone()
            .acquire_owned()
            .await
            .expect("the turns of a name are never closed");
        let until = self
            .throttle()
            .delayed_until(&attempt.name)
            .map_err(crowded)?;
        self.clock.sleep_until(until).await;
        if let Some(user) = self.remembered(&attempt.name, password).await? {
            return Ok(user);
        }
        let (login, password) = (self.clone(), password.clone());
        let checked = tasks
            .run(async move { login.check(attempt, turn, password).await })
            .await??;
        match checked {
            Checked::Right(user) => Ok(user),
            Checked::Wrong { say_at } => {
                if let Some(at) = say_at {
                    self.clock.sleep_until(at).await;
                }
                Err(wrong())
            }
        }
    }

    /// Hashes a new password, within the same bounds as the checks.
    pub(crate) async fn hash(&self, password: Secret) -> Result<String, Refusal> {
        self.compute(move || password::hash(password.reveal()))
            .await?
            .map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))
    }

    /// Looks the user up, and returns the row if this very password verified lately against the hash that is stored now.
    async fn remembered(&self, name: &str, password: &Secret) -> Result<Option<UserRow>, Refusal> {
        let Some(user) = self.store.user(name).await.map_err(store_refusal)? else {
            return Ok(None);
        };
        let now = self.clock.now().mono;
        let known = lock(&self.remembered).knows(&user, password, now);
        Ok(known.then_some(user))
    }

    /// Carries an attempt to its end. It holds the turn of its name until the result is noted.
    async fn check(
        &self,
        attempt: Attempt,
        turn: OwnedSemaphorePermit,
        password: Secret,
    ) -> Result<Checked, Refusal> {
        let user = self
            .store
            .user(&attempt.name)
            .await
            .map_err(store_refusal)?;
        let required = self.password_required || user.as_ref().is_some_and(|user| user.admin);
        let (row, text) = (user.clone(), password.clone());
        let verdict = self
            .compute(move || match row {
                Some(user) => {
                    password::verify(user.hash.as_deref(), user.id, text.reveal(), required)
                }
                None => password::verify_nobody(text.reveal()),
            })
            .await?;
        let now = self.clock.now().mono;
        let checked = match (verdict, user) {
            (Verdict::Match, Some(user)) => {
                self.throttle().succeeded(&attempt.name);
                lock(&self.remembered).note(&user, &password, now);
                Checked::Right(user)
            }
            (verdict, user) => {
                if verdict == Verdict::Unknown {
                    warn!(user = ?attempt.name, "the stored hash of a user has a form that this version does not know");
                }
                info!(user = ?attempt.name, known = user.is_some(), "refused a login");
                Checked::Wrong {
                    say_at: self.throttle().failed(&attempt.name, now),
                }
            }
        };
        drop(turn);
        drop(attempt);
        Ok(checked)
    }

    /// Computes on a thread of its own, as many at a time as there are cores; few may wait.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let place = Place::take(&self.waiting).ok_or_else(|| {
            Refusal::new(
                RefusalKind::Refused,
                "too many logins are waiting; try again",
            )
        })?;
        let core = self
            .cores
            .clone()
            .acquire_owned()
            .await
            .expect("the cores are never closed");
        drop(place);
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(core);
            result
        })
        .await
        .map_err(|_| Refusal::new(RefusalKind::Failed, "the password check failed"))
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        lock(&self.throttle)
    }
}

enum Checked {
    Right(UserRow),
    Wrong { say_at: Option<Duration> },
}

/// An attempt that has been counted in; counts itself out.
struct Attempt {
    login: Arc<Login>,
    name: String,
    turn: Arc<Semaphore>,
}

impl Attempt {
    fn enter(login: Arc<Login>, name: String) -> Result<Self, Refusal> {
        let turn = login.throttle().enter(&name).map_err(crowded)?;
        Ok(Self { login, name, turn })
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.login.throttle().leave(&self.name);
    }
}

/// A place in the queue for a core; gives itself back.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        // An excess is given back by the drop.
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The passwords that verified lately, as keyed digests that are worth nothing outside this process.
struct Remembered {
    key: [u8; 32],
    users: HashMap<u64, ([u8; 32], Duration)>,
}

impl Remembered {
    fn new() -> Self {
        Self {
            key: rand::random(),
            users: HashMap::new(),
        }
    }

    fn knows(&mut self, user: &UserRow, password: &Secret, now: Duration) -> bool {
        let Some((digest, since)) = self.users.get(&user.id) else {
            return false;
        };
        if now.saturating_sub(*since) >= REMEMBERED {
            self.users.remove(&user.id);
            return false;
        }
        self.mac(user, password).verify_slice(digest).is_ok()
    }

    fn note(&mut self, user: &UserRow, password: &Secret, now: Duration) {
        if self.users.len() >= MAX_REMEMBERED && !self.users.contains_key(&user.id) {
            self.users
                .retain(|_, (_, since)| now.saturating_sub(*since) < REMEMBERED);
            let oldest = self.users.iter().min_by_key(|(_, (_, since))| *since);
            if self.users.len() >= MAX_REMEMBERED
                && let Some(oldest) = oldest.map(|(id, _)| *id)
            {
                self.users.remove(&oldest);
            }
        }
        let digest = self.mac(user, password).finalize().into_bytes().into();
        self.users.insert(user.id, (digest, now));
    }

    /// The stored hash is part of what is digested: once it changes, nothing remembered fits any more.
    fn mac(&self, user: &UserRow, password: &Secret) -> Hmac<Sha256> {
        let hash = user.hash.as_deref().unwrap_or_default();
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key)
            .expect("HMAC takes a key of any length");
        mac.update(&user.id.to_be_bytes());
        mac.update(&(hash.len() as u64).to_be_bytes());
        mac.update(hash.as_bytes());
        mac.update(password.reveal().as_bytes());
        mac
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wrong() -> Refusal {
    Refusal::new(RefusalKind::Refused, "wrong user name or password")
}

fn crowded(crowded: Crowded) -> Refusal {
    let message = match crowded {
        Crowded::Name => "too many logins of this user are waiting after failures; try again later",
        Crowded::Names => "too many logins are waiting; try again",
    };
    Refusal::new(RefusalKind::Refused, message)
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
