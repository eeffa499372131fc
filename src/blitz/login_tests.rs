use std::path::Path;

use tokio::time::Instant;

use super::*;
use crate::blitz::properties::Properties;
use crate::store::{Sqlite, Store, Write};

/// A store with user `ann`, whose password is `omero`.
fn store(dir: &Path) -> Sqlite {
    let mut store = Sqlite::create(&dir.join("grid.db")).unwrap();
    let owner = store.adopt("Blitz-0", "p").unwrap().owner;
    let ann = Write::AddUser {
        name: "ann".to_owned(),
        hash: "LSjpGNDDKH/7iZyIwB8OTA==".to_owned(),
        admin: false,
        at_ms: 1,
    };
    store.write(&owner, &[ann]).unwrap();
    store
}

struct Fixture {
    login: Arc<Login>,
    tasks: Arc<Tasks>,
    store: StoreHandle,
    _temp: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let opened = StoreHandle::open(|| Ok(Box::new(store)), "Blitz-0", "q").await;
    let store = opened.unwrap().store;
    let settings = Settings::of(&Properties::default()).unwrap();
    let login = Login::new(store.clone(), Clock::start(), &settings, 2);
    Fixture {
        login: Arc::new(login),
        tasks: Arc::default(),
        store,
        _temp: temp,
    }
}

impl Fixture {
    async fn attempt(&self, name: &str, password: &str) -> Result<UserRow, Refusal> {
        self.login
            .verify(&self.tasks, name, &Secret::new(password))
            .await
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_wrong_password_is_answered_late_and_the_next_one_waits() {
    let f = fixture().await;
    let start = Instant::now();
    let first = f.attempt("ann", "x").await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1));
    let second = f.attempt("ann", "x").await.unwrap_err();
    assert!(
        start.elapsed() >= Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(first, second);
    assert_eq!(
        first,
        f.attempt("nobody", "x").await.unwrap_err(),
        "no difference to an unknown user"
    );
    assert_eq!(f.attempt("ann", "omero").await.unwrap().name, "ann");
    let start = Instant::now();
    f.attempt("ann", "x").await.unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the success reset the count"
    );
}

#[tokio::test(start_paused = true)]
async fn guessing_in_parallel_or_hanging_up_gains_nothing() {
    let f = fixture().await;
    let start = Instant::now();
    let mut guesses = tokio::task::JoinSet::new();
    for n in 0..5 {
        let (login, tasks) = (f.login.clone(), f.tasks.clone());
        guesses.spawn(async move {
            let guess = Secret::new(format!("guess {n}"));
            login.verify(&tasks, "ann", &guess).await.unwrap_err();
        });
    }
    while let Some(done) = guesses.join_next().await {
        done.unwrap();
    }
    assert!(
        start.elapsed() >= Duration::from_secs(12),
        "{:?}",
        start.elapsed()
    );
    // Whoever does not wait for the answer leaves the delay behind.
    let (login, tasks) = (f.login.clone(), f.tasks.clone());
    let guess = tokio::spawn(async move {
        let guess = Secret::new("hang up");
        let _ = login.verify(&tasks, "ann", &guess).await;
    });
    // Yielding keeps the paused clock where it is until the failure is noted; only the answer is still to come.
    delayed(&f).await;
    guess.abort();
    f.tasks.finish().await;
    let start = Instant::now();
    assert!(f.attempt("ann", "omero").await.is_ok());
    assert!(
        start.elapsed() >= Duration::from_millis(2900),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_remembered_password_is_not_held_up_by_guessing_until_the_hash_changes() {
    let f = fixture().await;
    f.attempt("ann", "omero").await.unwrap();
    f.attempt("ann", "x").await.unwrap_err();
    let start = Instant::now();
    f.attempt("ann", "x").await.unwrap_err();
    // While a task only yields, the paused clock stands still.
    let stand_still = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let (login, tasks) = (f.login.clone(), f.tasks.clone());
    let guess = tokio::spawn(async move {
        let guess = Secret::new("x");
        login.verify(&tasks, "ann", &guess).await.unwrap_err();
    });
    delayed(&f).await;
    let before = Instant::now();
    assert!(f.attempt("ann", "omero").await.is_ok());
    assert_eq!(before.elapsed(), Duration::ZERO, "did not wait its turn");
    assert!(!guess.is_finished());
    stand_still.abort();
    guess.await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(6));
    f.store
        .write(vec![Write::SetHash {
            name: "ann".to_owned(),
            hash: password::hash("new").unwrap(),
            at_ms: 2,
        }])
        .await
        .unwrap();
    f.attempt("ann", "omero").await.unwrap_err();
    assert!(f.attempt("ann", "new").await.is_ok());
}

/// Waits until the throttle delays the next attempt of `ann`.
async fn delayed(f: &Fixture) {
    let now = f.login.clock.now().mono;
    while f.login.throttle().delayed_until("ann").unwrap() <= now {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_password_is_remembered_for_five_minutes_and_for_few() {
    let user = |id| UserRow {
        id,
        name: id.to_string(),
        hash: None,
        admin: false,
    };
    let (secret, t) = (Secret::new("p"), Duration::from_secs(1000));
    let mut remembered = Remembered::new();
    remembered.note(&user(1), &secret, t);
    assert!(remembered.knows(&user(1), &secret, t + REMEMBERED - Duration::from_millis(1)));
    assert!(!remembered.knows(&user(1), &Secret::new("q"), t));
    assert!(!remembered.knows(&user(2), &secret, t));
    assert!(!remembered.knows(&user(1), &secret, t + REMEMBERED));
    assert!(remembered.users.is_empty());
    for id in 0..=MAX_REMEMBERED as u64 {
        remembered.note(&user(id), &secret, t + Duration::from_millis(id));
    }
    assert_eq!(remembered.users.len(), MAX_REMEMBERED);
    assert!(!remembered.users.contains_key(&0), "the oldest made room");
}
