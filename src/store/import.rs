//! Users from a copy of an embedded store, brought into the store that a grid uses.

use std::path::Path;

use super::{Postgres, Sqlite, Store as _, StoreChoice, StoreError, UserRow};

/// Brings the users of `from` into the store of `choice`, all or none, and returns how many there were. Sessions and leases stay behind.
///
/// Users who are there with other passwords or rights are a refusal, unless they are to be replaced. Blocks.
pub fn import(
    from: &Path,
    choice: &StoreChoice,
    embedded: &Path,
    replace: bool,
) -> Result<u64, StoreError> {
    let users = Sqlite::read_only(from)?.users()?;
    let now_ms = super::sqlite::now_ms();
    match choice {
        StoreChoice::Embedded => Sqlite::open(embedded)?.import_users(&users, replace, now_ms)?,
        StoreChoice::Postgres(choice) => Postgres::open(choice, "", &super::process_name())?
            .import_users(&users, replace, now_ms)?,
    }
    Ok(users.len() as u64)
}

/// Refuses users who collide with those that are there.
pub(super) fn check(users: &[UserRow], there: &[UserRow], replace: bool) -> Result<(), StoreError> {
    let refuse = |reason| Err(StoreError::Import { reason });
    for user in users {
        for other in there {
            match (user.name == other.name, user.id == other.id) {
                (true, true) if replace || user == other => {}
                (true, true) => {
                    return refuse(format!(
                        "user {} is there already and differs; --replace takes the imported one",
                        user.name
                    ));
                }
                (true, false) => {
                    return refuse(format!(
                        "user {} has number {} there and {} in the copy",
                        user.name, other.id, user.id
                    ));
                }
                (false, true) => {
                    return refuse(format!(
                        "number {} is user {} there and {} in the copy",
                        user.id, other.name, user.name
                    ));
                }
                (false, false) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u64, name: &str, hash: &str) -> UserRow {
        UserRow {
            id,
            name: name.to_owned(),
            hash: Some(hash.to_owned()),
            admin: false,
        }
    }

    #[test]
    fn users_are_brought_in_unless_they_collide() {
        let there = [user(0, "root", "a"), user(2, "ann", "b")];
        let refused = |new: UserRow, replace| check(&[new], &there, replace).is_err();
        assert!(!refused(user(3, "bob", "c"), false));
        assert!(!refused(user(2, "ann", "b"), false), "she is the same");
        assert!(refused(user(2, "ann", "other"), false));
        assert!(!refused(user(2, "ann", "other"), true));
        assert!(refused(user(3, "ann", "b"), true), "another number");
        assert!(refused(user(2, "bob", "b"), true), "another name");
    }
}
