//! The session directory: which Blitz a session lives on.
//!
//! An index only. It is built from what the Blitzes tell and can be rebuilt at any time (DESIGN.md §7).

use std::collections::BTreeMap;

use crate::model::{ServerId, SessionId};

/// Open sessions and their owners. 46 bytes a session.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// Owners by number, so that an entry need not repeat the name.
    servers: Vec<ServerId>,
    /// In the order of the ids, so that those with a prefix stand together.
    owners: BTreeMap<SessionId, u32>,
}

impl Directory {
    /// Notes that these sessions live on this Blitz.
    pub(crate) fn open(&mut self, server: &ServerId, ids: &[SessionId]) {
        let number = self.number(server);
        self.owners.extend(ids.iter().map(|id| (*id, number)));
    }

    /// Notes that these sessions of this Blitz ended. One that lives elsewhere by now stays.
    pub(crate) fn close(&mut self, server: &ServerId, ids: &[SessionId]) {
        let number = self.number(server);
        for id in ids {
            if self.owners.get(id) == Some(&number) {
                self.owners.remove(id);
            }
        }
    }

    /// Forgets all sessions of a Blitz.
    pub(crate) fn forget(&mut self, server: &ServerId) {
        let number = self.number(server);
        self.owners.retain(|_, owner| *owner != number);
    }

    /// Returns the Blitz that a session lives on.
    pub(crate) fn owner(&self, id: SessionId) -> Option<&ServerId> {
        let number = usize::try_from(*self.owners.get(&id)?).ok()?;
        self.servers.get(number)
    }

    /// Returns the sessions whose UUID begins with `prefix`: at most two, which is enough to tell that it is ambiguous.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<SessionId> {
        let prefix = prefix.to_ascii_lowercase();
        let Some(first) = SessionId::first_with(&prefix) else {
            return Vec::new();
        };
        self.owners
            .range(first..)
            .map(|(id, _)| *id)
            .take_while(|id| id.reveal().starts_with(&prefix))
            .take(2)
            .collect()
    }

    fn number(&mut self, server: &ServerId) -> u32 {
        let known = self.servers.iter().position(|known| known == server);
        let number = known.unwrap_or_else(|| {
            self.servers.push(server.clone());
            self.servers.len() - 1
        });
        u32::try_from(number).expect("fewer than 2^32 servers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_finds_one_or_says_that_there_are_more() {
        let a: ServerId = "Blitz-0".parse().unwrap();
        let id = |text: &str| SessionId::parse(text).unwrap();
        let ids = [
            id("0a000000-0000-4000-8000-000000000000"),
            id("0a000000-0000-4000-8000-000000000001"),
            id("0a000000-0000-4000-8001-000000000000"),
            id("0b000000-0000-4000-8000-000000000000"),
            id("ffffffff-ffff-4fff-bfff-ffffffffffff"),
        ];
        let mut directory = Directory::default();
        directory.open(&a, &ids);
        for (prefix, found) in [
            ("", &ids[..2]),
            ("0A", &ids[..2]),
            ("0a000000-0000-4000-8001", &ids[2..3]),
            ("0a000000-0000-4000-8000-000000000001", &ids[1..2]),
            ("0b", &ids[3..4]),
            ("f", &ids[4..]),
            ("0a0000000", &[]),
            ("0c", &[]),
            ("0b-", &[]),
            ("g", &[]),
            ("ffffffff-ffff-4fff-bfff-ffffffffffff0", &[]),
        ] {
            assert_eq!(directory.with_prefix(prefix), found, "{prefix:?}");
        }
    }

    #[test]
    fn a_session_has_one_owner_and_late_news_of_the_old_one_do_not_count() {
        let (a, b): (ServerId, ServerId) = ("Blitz-0".parse().unwrap(), "Blitz-1".parse().unwrap());
        let id = SessionId::random();
        let mut directory = Directory::default();
        directory.open(&a, &[id]);
        directory.open(&b, &[id]);
        directory.close(&a, &[id]);
        assert_eq!(directory.owner(id), Some(&b));
        directory.forget(&a);
        assert_eq!(directory.owner(id), Some(&b));
        assert_eq!(directory.with_prefix(&id.short()), vec![id]);
        directory.forget(&b);
        assert_eq!(directory.owner(id), None);
    }
}
