use std::sync::{Arc, Mutex};

use super::*;
use crate::store::Store;
use crate::store::suite::{Place, TESTS, session};

fn made(dir: &Path) -> Sqlite {
    let mut store = Sqlite::create(&dir.join("grid.db")).unwrap();
    store.add_root(1, || Ok("hash".to_owned())).unwrap();
    store
}

/// A store in a directory of its own.
struct Directory {
    temp: tempfile::TempDir,
    living: Arc<Mutex<Option<Vec<String>>>>,
}

impl Place for Directory {
    fn open(&self) -> Box<dyn Store> {
        let living = self.living.clone();
        let store = Sqlite::open(&self.temp.path().join("grid.db")).unwrap();
        Box::new(store.with_leases(move |server| {
            let living = living.lock().unwrap();
            living
                .as_ref()
                .is_none_or(|living| living.iter().any(|id| id == server))
        }))
    }

    fn set_living(&self, servers: &[&str]) {
        let servers = servers.iter().map(|&id| id.to_owned()).collect();
        *self.living.lock().unwrap() = Some(servers);
    }
}

#[test]
fn does_what_every_store_has_to_do() {
    for (name, test) in TESTS {
        println!("{name}");
        let temp = tempfile::tempdir().unwrap();
        drop(made(temp.path()));
        test(&Directory {
            temp,
            living: Arc::default(),
        });
    }
}

#[test]
fn refuses_what_is_no_database_and_keeps_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("grid.db");
    for bytes in [
        &b"no database at all, but long enough to look like one\n".repeat(100)[..],
        b"x",
    ] {
        fs::write(&path, bytes).unwrap();
        for result in [Sqlite::open(&path), Sqlite::create(&path)] {
            let error = result.err().unwrap();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn refuses_a_damaged_store_and_keeps_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("grid.db");
    {
        let mut store = made(temp.path());
        let owner = store.adopt("Blitz-0", "a").unwrap().owner;
        let rows: Vec<Write> = (0..500).map(|_| Write::open(session(None))).collect();
        store.write(&owner, &rows).unwrap();
    }
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 6000].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let error = Sqlite::create(&path).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(fs::read(&path).unwrap() == bytes, "the file was changed");
}

#[test]
fn refuses_another_programs_database_a_newer_one_and_none() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("grid.db");
    assert!(matches!(
        Sqlite::open(&path).err().unwrap(),
        StoreError::Missing { .. }
    ));
    assert!(!path.exists());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(other);
    assert!(matches!(
        Sqlite::create(&path).err().unwrap(),
        StoreError::Foreign { .. }
    ));
    fs::remove_file(&path).unwrap();
    drop(made(temp.path()));
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(newer);
    let error = Sqlite::open(&path).err().unwrap();
    assert!(
        matches!(error, StoreError::Newer { found: 99, .. }),
        "{error}"
    );
    assert!(matches!(
        Sqlite::open(temp.path()).err().unwrap(),
        StoreError::File { .. }
    ));
}

#[test]
fn a_full_file_system_refuses_the_batch_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    // As many pages as there are: the next one meets the same error as on a full file system.
    let pages: i64 = store
        .connection
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    let limit = |store: &Sqlite, pages: i64| {
        store
            .connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    };
    limit(&store, pages);
    let many: Vec<Write> = (0..1000).map(|_| Write::open(session(None))).collect();
    let error = store.write(&owner, &many).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    limit(&store, 1_000_000);
    assert_eq!(
        store.adopt("Blitz-0", "b").unwrap().sessions,
        [],
        "all or nothing"
    );
}

#[test]
fn a_copy_is_whole_and_private_and_made_while_others_write() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = made(temp.path());
    let owner = store.adopt("Blitz-0", "a").unwrap().owner;
    let rows: Vec<Write> = (0..10).map(|_| Write::open(session(None))).collect();
    store.write(&owner, &rows).unwrap();
    let copy = temp.path().join("copy.db");
    let mut other = Sqlite::open(&temp.path().join("grid.db")).unwrap();
    other.backup(&copy, false).unwrap();
    assert!(matches!(
        other.backup(&copy, false),
        Err(StoreError::File { .. })
    ));
    store.write(&owner, &[Write::open(session(None))]).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&copy).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut copied = Sqlite::read_only(&copy).unwrap();
    copied.check().unwrap();
    let counts = copied.counts().unwrap();
    assert_eq!(counts.open, [("Blitz-0".to_owned(), 10)]);
    assert_eq!((counts.users, counts.closed), (1, 0));
    let left: Vec<_> = fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("copy"))
        .collect();
    assert_eq!(left, ["copy.db"], "to read it leaves nothing beside it");
}

#[test]
fn a_store_that_is_there_opens_while_another_process_holds_the_lock() {
    let temp = tempfile::tempdir().unwrap();
    let mut stopped = made(temp.path());
    let transaction = stopped
        .connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    let path = temp.path().join("grid.db");
    let mut store = Sqlite::create(&path).unwrap();
    assert!(!store.add_root(1, || panic!("there is a user")).unwrap());
    assert_eq!(store.users().unwrap().len(), 1);
    drop(transaction);
}
