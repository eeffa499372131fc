//! Password hashes: OMERO's own forms are verified, new ones are argon2id (`omero.md` §2.5).
//!
//! | stored | meaning |
//! | --- | --- |
//! | nothing | locked: no password matches |
//! | empty or blank | matches anything, if and only if no password is required of that user |
//! | 24 characters | base64 of an MD5 digest: UTF-8 salted, UTF-8 unsalted, then the same in ISO-8859-1 |
//! | `$argon2id$…` | a PHC string |
//!
//! Salted means that the eight bytes of the user's number, big-endian, precede the password. A match in one of the MD5 forms
//! leaves the stored hash as it is (OMERO rewrites it): the row may be OMERO's own, and only a change of password replaces it.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 4096;

/// Memory of a new hash, in KiB; the advice of OWASP for argon2id with two passes and one lane.
const MEMORY_KIB: u32 = 19 * 1024;

/// The most memory that a stored hash may ask for, in KiB: a row must not be able to exhaust the machine.
const MAX_MEMORY_KIB: u32 = 256 * 1024;

/// The most passes that a stored hash may ask for.
const MAX_PASSES: u32 = 16;

/// The length of a base64 MD5 digest.
const MD5_LENGTH: usize = 24;

/// A password that cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[error("the hash function failed")]
pub struct HashError(#[source] password_hash::Error);

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The password matches.
    Match,
    /// It does not, or the user is locked.
    Mismatch,
    /// The stored hash has a form that nobody knows; nothing matches it.
    Unknown,
}

/// Hashes a new password as an argon2id PHC string. Takes tens of milliseconds and 19 MiB.
pub fn hash(password: &str) -> Result<String, HashError> {
    Ok(hasher()
        .hash_password(password.as_bytes())
        .map_err(HashError)?
        .to_string())
}

/// Checks a password against a stored hash. Every answer but a match of one of OMERO's own forms takes as long as an argon2 check,
/// so that the time does not tell whether there is such a user.
pub fn verify(stored: Option<&str>, user_id: u64, password: &str, required: bool) -> Verdict {
    match stored {
        None => waste_time(password, Verdict::Mismatch),
        Some(text) if text.trim().is_empty() => {
            if required {
                waste_time(password, Verdict::Mismatch)
            } else {
                Verdict::Match
            }
        }
        Some(text) if text.len() == MD5_LENGTH => {
            if verify_md5(text, user_id, password) {
                Verdict::Match
            } else {
                waste_time(password, Verdict::Mismatch)
            }
        }
        Some(text) if text.starts_with("$argon2") => verify_argon2(text, password),
        Some(_) => waste_time(password, Verdict::Unknown),
    }
}

/// Spends the time of a check on the password of a user who does not exist.
pub fn verify_nobody(password: &str) -> Verdict {
    waste_time(password, Verdict::Mismatch)
}

fn hasher() -> Argon2<'static> {
    let params =
        Params::new(MEMORY_KIB, 2, 1, None).expect("the parameters are within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn verify_argon2(text: &str, password: &str) -> Verdict {
    let Ok(hash) = PasswordHash::new(text) else {
        return waste_time(password, Verdict::Unknown);
    };
    match Params::try_from(&hash) {
        Ok(params) if params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES => {}
        _ => return waste_time(password, Verdict::Unknown),
    }
    match hasher().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Verdict::Match,
        Err(_) => Verdict::Mismatch,
    }
}

fn waste_time(password: &str, verdict: Verdict) -> Verdict {
    let mut digest = [0_u8; 32];
    // The result is of no interest, only the time.
    let _ = hasher().hash_password_into(password.as_bytes(), b"a salt for nobody", &mut digest);
    std::hint::black_box(digest);
    verdict
}

fn verify_md5(text: &str, user_id: u64, password: &str) -> bool {
    let Ok(stored) = STANDARD.decode(text) else {
        return false;
    };
    // Java writes a character that ISO-8859-1 lacks as a question mark.
    let latin: Vec<u8> = password
        .chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?'))
        .collect();
    let mut matched = false;
    for bytes in [password.as_bytes(), &latin] {
        for salt in [Some(user_id), None] {
            // All four are computed whichever matches.
            matched |= equal(&md5_digest(salt, bytes), &stored);
        }
    }
    matched
}

fn md5_digest(salt: Option<u64>, password: &[u8]) -> [u8; 16] {
    let mut md5 = Md5::new();
    if let Some(id) = salt {
        md5.update(id.to_be_bytes());
    }
    md5.update(password);
    md5.finalize().into()
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && std::hint::black_box(a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stored: Option<&str>, id: u64, password: &str) -> Verdict {
        verify(stored, id, password, true)
    }

    #[test]
    fn accepts_omeros_own_hashes() {
        assert_eq!(
            check(Some("LSjpGNDDKH/7iZyIwB8OTA=="), 7, "omero"),
            Verdict::Match
        );
        assert_eq!(
            check(Some("kYMkc9SyhupHyJP1Cl2Alg=="), 0, "omero"),
            Verdict::Match
        );
        assert_eq!(
            check(Some("xMAbSJvRSWH9oi23IZEX8g=="), 52, "pässword"),
            Verdict::Match
        );
        for salt in [Some(52), None] {
            let legacy = STANDARD.encode(md5_digest(salt, b"p\xe4ssword"));
            assert_eq!(
                check(Some(&legacy), 52, "pässword"),
                Verdict::Match,
                "{salt:?}"
            );
        }
    }

    #[test]
    fn refuses_the_hash_of_another_user_or_password() {
        assert_eq!(
            check(Some("kYMkc9SyhupHyJP1Cl2Alg=="), 1, "omero"),
            Verdict::Mismatch
        );
        assert_eq!(
            check(Some("kYMkc9SyhupHyJP1Cl2Alg=="), 0, "Omero"),
            Verdict::Mismatch
        );
        assert_eq!(
            check(Some("!!!!!!!!!!!!!!!!!!!!!!!!"), 0, "omero"),
            Verdict::Mismatch
        );
    }

    #[test]
    fn a_locked_user_matches_nothing() {
        for required in [true, false] {
            assert_eq!(verify(None, 3, "", required), Verdict::Mismatch);
        }
        assert_eq!(verify_nobody("x"), Verdict::Mismatch);
    }

    #[test]
    fn an_empty_hash_matches_only_where_no_password_is_required() {
        for blank in ["", "  "] {
            assert_eq!(verify(Some(blank), 3, "anything", false), Verdict::Match);
            assert_eq!(verify(Some(blank), 3, "", true), Verdict::Mismatch);
        }
    }

    #[test]
    fn can_round_trip_argon2() {
        let stored = hash("pässword").unwrap();
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        assert_eq!(check(Some(&stored), 5, "pässword"), Verdict::Match);
        assert_eq!(check(Some(&stored), 5, "password"), Verdict::Mismatch);
        assert_ne!(stored, hash("pässword").unwrap(), "no two salts are equal");
    }

    #[test]
    fn refuses_forms_it_does_not_know_and_hashes_that_ask_for_too_much() {
        for text in [
            "$2b$12$abc",
            "plain",
            "$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=19456,t=4000,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$rubbish",
        ] {
            assert_eq!(check(Some(text), 1, "plain"), Verdict::Unknown, "{text}");
        }
    }
}
