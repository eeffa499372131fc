//! Leave to move the contents of one file: drawn at random, used once, soon or never.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::User;
use super::catalogue::Entry;
use crate::ipc::{Refusal, RefusalKind};

/// How long a ticket can be used.
const VALID: Duration = Duration::from_secs(60);

/// Tickets that nobody has used yet.
const MAX: usize = 4096;

/// What a ticket is for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    Get(Entry),
    Import(Import),
}

/// A file that is to be stored.
#[derive(Debug, Clone)]
pub(super) struct Import {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) user: User,
}

/// Tickets that have been given out.
#[derive(Debug, Default)]
pub(super) struct Tickets(HashMap<String, (Purpose, Instant)>);

impl Tickets {
    /// Gives one out.
    pub(super) fn issue(&mut self, purpose: Purpose) -> Result<String, Refusal> {
        let now = Instant::now();
        self.0.retain(|_, (_, until)| *until > now);
        if self.0.len() >= MAX {
            let message = "too many files are about to be moved";
            return Err(Refusal::new(RefusalKind::Unavailable, message).hint("try again"));
        }
        let ticket = uuid::Uuid::new_v4().to_string();
        self.0.insert(ticket.clone(), (purpose, now + VALID));
        Ok(ticket)
    }

    /// Takes one back; `None` if it was never given out, was used, or is too old.
    pub(super) fn redeem(&mut self, ticket: &str) -> Option<Purpose> {
        let (purpose, until) = self.0.remove(ticket)?;
        (until > Instant::now()).then_some(purpose)
    }
}
