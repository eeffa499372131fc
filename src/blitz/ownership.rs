//! Sessions that change their Blitz: taken over from one that does not live, or handed from one to another.
//!
//! The store decides: a take succeeds only while the owner holds no lease, a gift only while the receiver does, and both name the epoch of
//! who writes. Memory follows the store, but for a gift: the session answers nothing from before it is written, so that no two Blitzes
//! ever answer for it. What is interrupted stays with whoever the row names; who is asked for a session that is his by the row and
//! not in his memory loads it ([`Blitz::load`]).

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::service::{Blitz, store_refusal};
use crate::ipc::message::blitz::{Reply, Session};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::SessionId;
use crate::store::{Found, Outcome, Reason, SessionRow, Write};

impl Blitz {
    /// Says who owns an open session.
    pub(super) async fn find(&self, uuid: SessionId) -> Result<Reply, Refusal> {
        match self.store.session(uuid).await.map_err(store_refusal)? {
            Some(Found {
                row,
                server,
                ended: None,
            }) => Ok(Reply::Found {
                session: self.view(row),
                server,
            }),
            Some(_) | None => Err(self.missing(uuid).await),
        }
    }

    /// Makes a session one's own and takes it up, or says whose it is.
    pub(super) async fn adopt(self: &Arc<Self>, uuid: SessionId) -> Result<Reply, Refusal> {
        let blitz = self.clone();
        self.tasks
            .run(async move { blitz.take(uuid).await })
            .await?
    }

    async fn take(self: Arc<Self>, uuid: SessionId) -> Result<Reply, Refusal> {
        match self.commit_one(Write::Take { uuid }).await? {
            Outcome::Taken { from, row } => {
                let own = from == self.server.as_str();
                self.take_up(*row, own);
                if !own {
                    info!(server = %self.server, session = %uuid, from, "took over a session");
                }
                match self.with_sessions(|sessions, now| sessions.access(uuid, now)) {
                    Ok(session) => Ok(Reply::Session(session)),
                    Err(absent) => Err(self.absent(uuid, absent).await),
                }
            }
            Outcome::Held { server, row } => Ok(Reply::Elsewhere {
                session: self.view(*row),
                server,
            }),
            _ => Err(self.missing(uuid).await),
        }
    }

    /// Takes up a session that is one's own by its row and not in memory. Returns whether there is one.
    pub(super) async fn load(self: &Arc<Self>, uuid: SessionId) -> Result<bool, Refusal> {
        let found = self.store.session(uuid).await.map_err(store_refusal)?;
        let mine = found
            .is_some_and(|found| found.ended.is_none() && found.server == self.server.as_str());
        if !mine {
            return Ok(false);
        }
        // The write proves that this is still the life of the server that may answer for it.
        match self.commit_one(Write::Take { uuid }).await? {
            Outcome::Taken { row, .. } => {
                self.take_up(*row, true);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Notes in memory a session that has become one's own. That of a Blitz that was away has not aged meanwhile.
    fn take_up(&self, row: SessionRow, was_mine: bool) {
        let uuid = row.uuid;
        let internal = self.settings().is_internal(&row.event, &row.agent);
        let added = self.with_sessions(|sessions, now| {
            let idle_ms = if was_mine {
                now.wall_ms.saturating_sub(row.last_access_ms)
            } else {
                0
            };
            sessions.insert(row, internal, Duration::from_millis(idle_ms), now)
        });
        if added {
            self.hub.opened(uuid);
        }
    }

    /// Hands a session to another Blitz.
    pub(super) async fn give(
        self: Arc<Self>,
        uuid: SessionId,
        to: String,
    ) -> Result<Reply, Refusal> {
        if to == self.server.as_str() {
            return self.access(uuid).await.map(|_| Reply::Done);
        }
        self.access(uuid).await?;
        let blitz = self.clone();
        self.tasks
            .run(async move {
                let apart = blitz.with_sessions(|sessions, now| sessions.set_apart(uuid, now));
                let at_ms = match apart {
                    Ok(at_ms) => at_ms,
                    Err(absent) => return Err(blitz.absent(uuid, absent).await),
                };
                let write = Write::Give {
                    uuid,
                    to: to.clone(),
                    at_ms,
                };
                let refusal = match blitz.commit_one(write).await {
                    Ok(Outcome::Done) => {
                        blitz.closed(uuid, Reason::Closed);
                        info!(server = %blitz.server, session = %uuid, to, "handed over a session");
                        return Ok(Reply::Done);
                    }
                    Ok(Outcome::NoHolder) => Refusal::new(
                        RefusalKind::Unavailable,
                        format!(
                            "{to} does not run, so session {uuid} stays on {}",
                            blitz.server
                        ),
                    ),
                    Ok(Outcome::ReadOnly) => Refusal::new(
                        RefusalKind::Refused,
                        format!(
                            "session {uuid} began in the database, which {} can only read now: it stays until that can be written",
                            blitz.server
                        ),
                    ),
                    Ok(_) => return Err(blitz.not_mine(uuid).await),
                    // Whether it was written is unknown; the next write of the session tells.
                    Err(refusal) => refusal,
                };
                blitz.with_sessions(|sessions, now| sessions.stay(uuid, now));
                Err(refusal)
            })
            .await?
    }

    /// Closes sessions of users, those idle for the longest first, and returns them.
    pub(super) async fn close_idlest(
        self: &Arc<Self>,
        user: Option<&str>,
        limit: usize,
        reason: Reason,
    ) -> Result<Reply, Refusal> {
        let mut uuids = self.with_sessions(|sessions, _| sessions.idlest(user));
        let more = uuids.len() > limit;
        uuids.truncate(limit);
        let blitz = self.clone();
        self.tasks
            .run(async move {
                let at_ms = blitz.clock.now().wall_ms;
                let close = |&uuid: &SessionId| Write::Close {
                    uuid,
                    at_ms,
                    reason,
                };
                let outcomes = blitz.commit(uuids.iter().map(close).collect()).await?;
                let mut closed = Vec::new();
                for (uuid, outcome) in uuids.into_iter().zip(outcomes) {
                    let session = blitz.with_sessions(|sessions, now| sessions.view(uuid, now));
                    if outcome == Outcome::Done {
                        closed.extend(session);
                        blitz.closed(uuid, reason);
                    } else {
                        blitz.lost(uuid);
                    }
                }
                Ok(Reply::Sessions {
                    sessions: closed,
                    more,
                })
            })
            .await?
    }

    /// Lets every session of a user live for at most so long from now on.
    pub(super) async fn shorten(self: &Arc<Self>, live_ms: u64) -> Result<Reply, Refusal> {
        let blitz = self.clone();
        self.tasks
            .run(async move {
                let uuids = blitz.with_sessions(|sessions, _| sessions.idlest(None));
                let at_ms = blitz.clock.now().wall_ms;
                let shorten = |&uuid: &SessionId| Write::Shorten {
                    uuid,
                    at_ms,
                    live_ms,
                };
                let outcomes = blitz.commit(uuids.iter().map(shorten).collect()).await?;
                for (uuid, outcome) in uuids.into_iter().zip(outcomes) {
                    match outcome {
                        Outcome::TimeToLive(limit) => {
                            blitz.with_sessions(|sessions, now| sessions.shorten(uuid, limit, now));
                        }
                        _ => blitz.lost(uuid),
                    }
                }
                Ok(Reply::Done)
            })
            .await?
    }

    /// Looks up the session that a creation with this token opened.
    pub(super) async fn by_token(&self, row: &SessionRow) -> Result<Option<Found>, Refusal> {
        match &row.token {
            Some(token) => self.store.by_token(token).await.map_err(store_refusal),
            None => Ok(None),
        }
    }

    /// Returns a session as it is told to others, from its row.
    pub(super) fn view(&self, row: SessionRow) -> Session {
        let internal = self.settings().is_internal(&row.event, &row.agent);
        Session {
            uuid: row.uuid,
            user: row.user,
            agent: row.agent,
            ip: row.ip,
            started_ms: row.started_ms,
            idle_ms: self.clock.now().wall_ms.saturating_sub(row.last_access_ms),
            time_to_idle_ms: row.time_to_idle_ms,
            time_to_live_ms: row.time_to_live_ms,
            references: row.references,
            group: row.group,
            internal,
        }
    }
}
