//! Who has shown a password, or the UUID of a session, and may have a session for it: once, and not for long.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::SessionId;
use crate::store::UserRow;

/// How long a ticket is good for.
const GOOD: Duration = Duration::from_secs(60);

/// Tickets at once; beyond, the oldest is no longer good.
const MAX: usize = 10_000;

/// What was verified.
#[derive(Debug, Clone)]
pub(super) enum Grant {
    /// The password of this user.
    User(UserRow),
    /// That this session is open.
    Session(SessionId),
    /// The password was right where the session belongs: at the Blitz with this adapter.
    Elsewhere(String),
}

/// The tickets that are good, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Tickets(VecDeque<Ticket>);

#[derive(Debug)]
struct Ticket {
    until: Duration,
    user: String,
    client: String,
    grant: Grant,
}

impl Tickets {
    /// Makes a ticket for a user, by the name that was given, and one client of theirs.
    pub(super) fn put(&mut self, user: &str, client: &str, grant: Grant, now: Duration) {
        self.prune(now);
        if self.0.len() >= MAX {
            self.0.pop_front();
        }
        self.0.push_back(Ticket {
            until: now + GOOD,
            user: user.to_owned(),
            client: client.to_owned(),
            grant,
        });
    }

    /// Takes a ticket, which is good no more.
    pub(super) fn take(&mut self, user: &str, client: &str, now: Duration) -> Option<Grant> {
        self.prune(now);
        let is = |ticket: &Ticket| ticket.user == user && ticket.client == client;
        // The latest is nearest to the truth, should a client have been here before.
        let at = self.0.iter().rposition(is)?;
        self.0.remove(at).map(|ticket| ticket.grant)
    }

    fn prune(&mut self, now: Duration) {
        while self.0.front().is_some_and(|first| first.until <= now) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant::Session(SessionId::random())
    }

    #[test]
    fn a_ticket_is_good_once_for_its_user_and_client_and_for_a_minute() {
        let mut tickets = Tickets::default();
        let at = Duration::from_secs;
        tickets.put("root", "c", grant(), at(0));
        assert!(tickets.take("root", "d", at(1)).is_none());
        assert!(tickets.take("user", "c", at(1)).is_none());
        assert!(tickets.take("root", "c", at(59)).is_some());
        assert!(tickets.take("root", "c", at(59)).is_none());
        tickets.put("root", "c", grant(), at(60));
        assert!(tickets.take("root", "c", at(120)).is_none());
        assert!(tickets.0.is_empty());
    }

    #[test]
    fn the_latest_ticket_is_taken_first() {
        let mut tickets = Tickets::default();
        let now = Duration::ZERO;
        tickets.put("root", "c", Grant::Elsewhere("a".to_owned()), now);
        tickets.put("root", "c", Grant::Elsewhere("b".to_owned()), now);
        for expected in ["b", "a"] {
            let taken = tickets.take("root", "c", now);
            assert!(matches!(taken, Some(Grant::Elsewhere(at)) if at == expected));
        }
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let mut tickets = Tickets::default();
        for n in 0..=MAX {
            tickets.put("root", &n.to_string(), grant(), Duration::ZERO);
        }
        assert_eq!(tickets.0.len(), MAX);
        assert!(tickets.take("root", "0", Duration::ZERO).is_none());
        assert!(tickets.take("root", "1", Duration::ZERO).is_some());
    }
}
