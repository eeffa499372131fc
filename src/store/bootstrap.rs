//! The first start: the grid's id, and in the embedded store schema and user `root`, made before any node runs.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use rand::distr::Alphanumeric;

use super::{Postgres, PostgresChoice, Sqlite, StoreError, password};
use crate::model::Secret;

/// The name of the first administrator.
pub const ROOT: &str = "root";

/// The number of the first administrator, as in OMERO.
pub const ROOT_ID: u64 = 0;

/// Characters of a random password: 24 of 62 are 142 bits.
const LENGTH: usize = 24;

/// What a first start has made.
#[derive(Debug)]
pub struct Bootstrap {
    /// The password of user `root`, if this call has made that user; it is also in the file.
    pub created_root: Option<Secret>,
}

/// Makes the store at `db` where there is none, and user `root` where there is no user.
///
/// The password is random. It is in `root_password` (one line, 0600, synced) before the user exists, so that no kill leaves
/// a password that nobody knows. Blocks, for tens of milliseconds at a first start.
pub fn bootstrap(db: &Path, root_password: &Path) -> Result<Bootstrap, StoreError> {
    parent_of(db)?;
    let mut store = Sqlite::create(db)?;
    first_user(root_password, |now, prepare| store.add_root(now, prepare))
}

/// Makes the tables of a PostgreSQL store and user `root` where there is no user, as [`bootstrap`] does. Returns also whether
/// tables were made. `grant_to` is a role that is to use them.
pub fn bootstrap_postgres(
    choice: &PostgresChoice,
    grant_to: Option<&str>,
    root_password: &Path,
) -> Result<(bool, Bootstrap), StoreError> {
    parent_of(root_password)?;
    let made = Postgres::init(choice, grant_to, &super::process_name())?;
    let mut store = Postgres::open(choice, "", &super::process_name())?;
    let users = first_user(root_password, |now, prepare| store.add_root(now, prepare))?;
    Ok((made, users))
}

/// Returns the id of a grid, which tells it from others on the same database; draws one where there is none yet.
pub fn grid_id(path: &Path) -> Result<String, StoreError> {
    let fail = |source| StoreError::File {
        path: path.to_owned(),
        source,
    };
    let read = || match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|id| !id.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    if let Some(id) = read().map_err(fail)? {
        return Ok(id);
    }
    parent_of(path)?;
    // Linked into place, so that of two who draw one the first wins.
    let mut drawn = path.as_os_str().to_owned();
    drawn.push(format!(".{}", std::process::id()));
    let drawn = Path::new(&drawn);
    write_private(drawn, &format!("{}\n", uuid::Uuid::new_v4())).map_err(fail)?;
    let linked = fs::hard_link(drawn, path);
    let _ = fs::remove_file(drawn);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(fail(error)),
        _ => read()
            .map_err(fail)?
            .ok_or_else(|| fail(io::ErrorKind::InvalidData.into())),
    }
}

/// Makes the directory of a file where there is none.
fn parent_of(path: &Path) -> Result<(), StoreError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).map_err(|source| StoreError::File {
        path: parent.to_owned(),
        source,
    })
}

/// Has user `root` added by `add`, with a random password that is in its file before the user is.
fn first_user(
    root_password: &Path,
    add: impl FnOnce(u64, &mut dyn FnMut() -> Result<String, StoreError>) -> Result<bool, StoreError>,
) -> Result<Bootstrap, StoreError> {
    let mut secret = None;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let created = add(now, &mut || {
        let text: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(LENGTH)
            .map(char::from)
            .collect();
        write_private(root_password, &format!("{text}\n")).map_err(|source| StoreError::File {
            path: root_password.to_owned(),
            source,
        })?;
        let hash = password::hash(&text).map_err(StoreError::Hash)?;
        secret = Some(Secret::new(text));
        Ok(hash)
    })?;
    Ok(Bootstrap {
        created_root: secret.filter(|_| created),
    })
}

/// Writes a file that only its owner may read (0600), in place of whatever was there, durably.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut making = path.as_os_str().to_owned();
    making.push(".new");
    let making = Path::new(&making);
    match fs::remove_file(making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(making)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(making, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::Store;
    use crate::store::password::Verdict;

    #[test]
    fn makes_root_once_and_says_the_password_in_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let (db, file) = (
            temp.path().join("var/grid.db"),
            temp.path().join("var/root-password"),
        );
        let secret = bootstrap(&db, &file).unwrap().created_root.unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            format!("{}\n", secret.reveal())
        );
        for path in [&db, &file] {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o600,
                "{path:?}"
            );
        }
        let mut store = Sqlite::open(&db).unwrap();
        let root = store.user("root").unwrap().unwrap();
        for side in ["-wal", "-shm"] {
            let path = temp.path().join(format!("var/grid.db{side}"));
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path:?}");
        }
        drop(store);
        assert_eq!((root.id, root.admin), (0, true));
        assert_eq!(
            password::verify(root.hash.as_deref(), 0, secret.reveal(), true),
            Verdict::Match
        );
        fs::remove_file(&file).unwrap();
        assert!(bootstrap(&db, &file).unwrap().created_root.is_none());
        assert!(!file.exists(), "a second start changes nothing");
    }

    #[test]
    fn no_root_without_its_password_in_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let (db, file) = (
            temp.path().join("grid.db"),
            temp.path().join("missing/root-password"),
        );
        assert!(matches!(
            bootstrap(&db, &file),
            Err(StoreError::File { .. })
        ));
        assert_eq!(Sqlite::open(&db).unwrap().users().unwrap(), []);
        let file = temp.path().join("root-password");
        assert!(bootstrap(&db, &file).unwrap().created_root.is_some());
    }
}
