//! Sessions that are open: joined, listed, closed and moved, wherever they live.
//!
//! The directory says where a session is; it may lag, and it does not know what a Blitz has that is away. Then the store is asked, through
//! any Blitz that answers. A session whose Blitz is away is waited for, until that has been away for `omero.grid.resume.grace`; from then
//! on another Blitz takes it over (DESIGN.md §7). Whether the owner really is gone is not decided here: the store does, by its lease.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::allocation::{Candidate, Facts};
use super::core::Command;
use super::handler::{ClientHandler, PAGE, no_server, strange};
use super::state::Happening;
use crate::ipc::message::blitz::{self, Authority, Filter, Target};
use crate::ipc::message::client::{DrainRequest, DrainView, Placed, Reply, SessionCursor};
use crate::ipc::{Refusal, RefusalKind};
use crate::model::{ServerId, SessionId};
use crate::sys::clock;
use crate::telemetry::local_time;

/// How long somebody is kept waiting for a session whose Blitz is away.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a Blitz that does not answer is waited for before the session is looked for elsewhere.
const ANSWER: Duration = Duration::from_secs(10);

impl ClientHandler {
    /// Asks the Blitz of a session for something, wherever that is; takes the session over where its Blitz is gone.
    pub(super) async fn join(
        &self,
        session: SessionId,
        request: &blitz::Request,
    ) -> Result<Reply, Refusal> {
        match self.reach(session, request).await? {
            (server, blitz::Reply::Session(session)) => {
                self.place(server, session).map(Reply::Placed)
            }
            _ => Err(strange()),
        }
    }

    pub(super) async fn reach(
        &self,
        session: SessionId,
        request: &blitz::Request,
    ) -> Result<(ServerId, blitz::Reply), Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let known = self.shared.directory().owner(session).cloned();
        if let Some(server) = known.filter(|server| self.answers(server)) {
            match self.ask_in_time(&server, request.clone()).await {
                Ok(reply) => return Ok((server, reply)),
                // It ended, moved, or its Blitz went: the store knows.
                Err(refusal)
                    if matches!(
                        refusal.kind,
                        RefusalKind::NotFound | RefusalKind::Unavailable
                    ) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let mut snapshots = self.shared.snapshot.subscribe();
        let mut held = false;
        loop {
            let world = snapshots.borrow_and_update().world.clone();
            let (row, owner) = match self.find(session).await {
                Ok(found) => found,
                // Nobody can say; somebody may soon.
                Err(refusal) if refusal.kind == RefusalKind::Unavailable => {
                    // Cancel safe: a watch loses nothing.
                    match tokio::time::timeout_at(deadline, snapshots.changed()).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(_)) | Err(_) => return Err(refusal),
                    }
                }
                Err(refusal) => return Err(refusal),
            };
            let seen = world.blitzes.iter().find(|blitz| blitz.id == owner);
            let mut refusal = None;
            if seen.is_some() && self.answers(&owner) {
                match self.ask_in_time(&owner, request.clone()).await {
                    Ok(reply) => return Ok((owner, reply)),
                    Err(error) if error.kind == RefusalKind::Unavailable => refusal = Some(error),
                    Err(error) => return Err(error),
                }
            }
            let until_ms = resumable_until(seen, world.policy.resume_grace);
            let now_ms = clock::now().wall_ms;
            if !held && until_ms.is_some_and(|until| until <= now_ms) {
                match self.take_over(session, &row, &owner).await? {
                    Taken::By(server) => {
                        let reply = self.ask_in_time(&server, request.clone()).await?;
                        return Ok((server, reply));
                    }
                    // Its owner lives and does not answer.
                    Taken::Held => held = true,
                    Taken::Nobody => {}
                }
                continue;
            }
            let due = until_ms
                .filter(|_| !held)
                .map(|until| Instant::now() + Duration::from_millis(until.saturating_sub(now_ms)));
            let wake = due.map_or(deadline, |due| due.min(deadline));
            // Cancel safe: a watch loses nothing.
            match tokio::time::timeout_at(wake, snapshots.changed()).await {
                Ok(Ok(())) => {}
                Err(_) if wake < deadline => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(refusal.unwrap_or_else(|| away(session, &owner, until_ms)));
                }
            }
        }
    }

    /// Has another Blitz take a session over whose own has been away for too long.
    async fn take_over(
        &self,
        session: SessionId,
        row: &blitz::Session,
        owner: &ServerId,
    ) -> Result<Taken, Refusal> {
        let facts = Facts {
            user: row.user.clone(),
            group: row.group.clone(),
            agent: row.agent.clone(),
            client: row.ip.clone(),
            entry: None,
        };
        let Some(successor) = self.successor(&facts, std::slice::from_ref(owner)) else {
            return Ok(Taken::Nobody);
        };
        match self
            .ask_in_time(&successor, blitz::Request::Adopt { session })
            .await
        {
            Ok(blitz::Reply::Session(_)) => {
                let why = format!("from {owner} to {successor}: joined while {owner} was away");
                self.moved(session, None, why).await;
                Ok(Taken::By(successor))
            }
            Ok(blitz::Reply::Elsewhere { .. }) => Ok(Taken::Held),
            Ok(_) => Err(strange()),
            Err(refusal) if refusal.kind == RefusalKind::Unavailable => Ok(Taken::Nobody),
            Err(refusal) => Err(refusal),
        }
    }

    async fn moved(&self, session: SessionId, uid: Option<u32>, text: String) {
        let happening = Happening {
            uid,
            kind: "session",
            subject: session.short(),
            text,
        };
        // The master ends: then so does its list of events.
        let _ = self.commands.send(Command::Note(happening)).await;
    }

    /// Asks the store, through any Blitz that answers, whose a session is.
    async fn find(&self, session: SessionId) -> Result<(blitz::Session, ServerId), Refusal> {
        let world = self.shared.now().world;
        let mut last = None;
        for blitz in world.blitzes.iter().filter(|blitz| self.answers(&blitz.id)) {
            match self
                .ask_in_time(&blitz.id, blitz::Request::Find { session })
                .await
            {
                Ok(blitz::Reply::Found { session, server }) => {
                    let server = server.parse().map_err(|_| strange())?;
                    return Ok((session, server));
                }
                Ok(_) => return Err(strange()),
                Err(refusal) if refusal.kind == RefusalKind::Unavailable => last = Some(refusal),
                Err(refusal) => return Err(refusal),
            }
        }
        Err(last.unwrap_or_else(|| {
            Refusal::new(
                RefusalKind::Unavailable,
                format!("no Blitz answers now that could say where session {session} is"),
            )
            .hint("`omero-grid status` says why")
        }))
    }

    fn answers(&self, server: &ServerId) -> bool {
        // What is silent is so at once, before the core has published it.
        let world = self.shared.now().world;
        let mut blitzes = world.blitzes.iter();
        blitzes.any(|blitz| blitz.id == *server && blitz.answers)
            && !self.shared.silent.borrow().contains(server)
    }

    async fn ask_in_time(
        &self,
        server: &ServerId,
        request: blitz::Request,
    ) -> Result<blitz::Reply, Refusal> {
        match tokio::time::timeout(ANSWER, self.ask(server, request)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.is_silent(server);
                Err(Refusal::new(
                    RefusalKind::Unavailable,
                    format!("Blitz {server} has not answered for {ANSWER:?}"),
                ))
            }
        }
    }

    /// Finds the one session that is meant.
    fn meant(&self, target: &Target) -> Result<SessionId, Refusal> {
        let prefix = match target {
            Target::Uuid { session } => return Ok(*session),
            Target::Prefix { prefix } => prefix,
        };
        match self.shared.directory().with_prefix(prefix).as_slice() {
            [one] => Ok(*one),
            [] => Err(Refusal::new(
                RefusalKind::NotFound,
                format!("there is no open session {prefix}…"),
            )),
            _ => Err(Refusal::new(
                RefusalKind::Refused,
                format!("several sessions begin with {prefix}"),
            )
            .hint("give more characters")),
        }
    }

    pub(super) async fn close(
        &self,
        target: Target,
        authority: Authority,
    ) -> Result<Reply, Refusal> {
        let session = self.meant(&target)?;
        let request = blitz::Request::Close { target, authority };
        match self.reach(session, &request).await? {
            (server, blitz::Reply::Closed { session, user, .. }) => Ok(Reply::Closed {
                session,
                server,
                user,
            }),
            _ => Err(strange()),
        }
    }

    /// Closes a page of a user's sessions on each Blitz.
    pub(super) async fn close_user(
        &self,
        user: String,
        authority: Authority,
    ) -> Result<Reply, Refusal> {
        let world = self.shared.now().world;
        let (mut closed, mut any_more) = (Vec::new(), false);
        for blitz in world.blitzes.iter().filter(|blitz| blitz.answers) {
            let request = blitz::Request::CloseUser {
                user: user.clone(),
                limit: PAGE,
                authority,
            };
            let blitz::Reply::Sessions { sessions, more } =
                self.ask_in_time(&blitz.id, request).await?
            else {
                return Err(strange());
            };
            any_more |= more;
            for session in sessions {
                closed.push(self.place(blitz.id.clone(), session)?);
            }
        }
        Ok(Reply::ClosedSome {
            sessions: closed,
            more: any_more,
        })
    }

    /// Moves a session to another Blitz: its own gives it away, or the other takes it over where its own is gone.
    pub(super) async fn move_session(
        &self,
        target: Target,
        to: ServerId,
        force: bool,
        uid: u32,
    ) -> Result<Reply, Refusal> {
        let session = self.meant(&target)?;
        let world = self.shared.now().world;
        let Some(receiver) = world.blitzes.iter().find(|blitz| blitz.id == to) else {
            return Err(no_server(&to));
        };
        if !receiver.answers || !(receiver.accepts || force) {
            return Err(
                Refusal::new(RefusalKind::Refused, format!("{to} takes no sessions now")).hint(
                    if receiver.answers {
                        "--force moves it there all the same"
                    } else {
                        "`omero-grid status` says why"
                    },
                ),
            );
        }
        let (_, owner) = self.find(session).await?;
        let seen = world.blitzes.iter().find(|blitz| blitz.id == owner);
        if owner == to {
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!("session {session} is on {to} already"),
            ));
        }
        if seen.is_some_and(|blitz| blitz.answers) {
            let request = blitz::Request::Give {
                session,
                to: to.to_string(),
            };
            let unsaid = |refusal: Refusal| {
                match refusal.kind {
                RefusalKind::Unavailable => refusal.hint(format!(
                    "nothing has moved so far; it may once {owner} goes on: `omero-grid session list` shows where the session is"
                )),
                _ => refusal,
            }
            };
            self.ask_in_time(&owner, request).await.map_err(unsaid)?;
        }
        // From here on it is the receiver's, who takes it up at the latest when somebody asks for it.
        match self
            .ask_in_time(&to, blitz::Request::Adopt { session })
            .await?
        {
            blitz::Reply::Session(view) => {
                let text = format!("from {owner} to {to}: moved by uid {uid}");
                self.moved(session, Some(uid), text).await;
                self.place(to, view).map(Reply::Placed)
            }
            blitz::Reply::Elsewhere { server, .. } => Err(Refusal::new(
                RefusalKind::Refused,
                format!("{server} lives and keeps session {session}, but does not answer"),
            )
            .hint("a Blitz that hangs keeps its sessions; restart it, or kill it")),
            _ => Err(strange()),
        }
    }

    /// Drains Blitzes; what is to be shortened is shortened before this answers.
    pub(super) async fn drain(&self, request: DrainRequest, uid: u32) -> Result<Reply, Refusal> {
        let live_ms = request.live_ms.filter(|_| !request.plan);
        let ids = self
            .command(|answer| Command::Drain {
                request,
                uid,
                answer,
            })
            .await?;
        if let Some(live_ms) = live_ms {
            for id in ids.iter().filter(|id| self.answers(id)) {
                self.ask_in_time(id, blitz::Request::Shorten { live_ms })
                    .await?;
            }
        }
        Ok(self.outlooks(ids).await)
    }

    /// Asks Blitzes what there is to wait for; those that do not answer have nothing to say.
    pub(super) async fn outlooks(&self, ids: Vec<ServerId>) -> Reply {
        let mut blitzes = Vec::new();
        for server in ids {
            let asked = match self.answers(&server) {
                true => self
                    .ask_in_time(&server, blitz::Request::Outlook)
                    .await
                    .ok(),
                false => None,
            };
            let outlook = match asked {
                Some(blitz::Reply::Outlook(outlook)) => Some(outlook),
                _ => None,
            };
            blitzes.push(DrainView { server, outlook });
        }
        Reply::Drained { blitzes }
    }

    pub(super) async fn list(
        &self,
        cursor: Option<SessionCursor>,
        limit: u32,
        only: Option<ServerId>,
        filter: Filter,
    ) -> Result<Reply, Refusal> {
        let world = self.shared.now().world;
        let ids: BTreeSet<&ServerId> = world.blitzes.iter().map(|blitz| &blitz.id).collect();
        if let Some(only) = only.as_ref().filter(|only| !ids.contains(only)) {
            return Err(no_server(only));
        }
        let blitzes: Vec<&ServerId> = world
            .blitzes
            .iter()
            .filter(|blitz| blitz.answers && only.as_ref().is_none_or(|only| *only == blitz.id))
            .map(|blitz| &blitz.id)
            .collect();
        let (server, after) = match cursor {
            Some(SessionCursor { server, after }) => (Some(server), after),
            None => (blitzes.first().copied().cloned(), None),
        };
        let Some(server) = server else {
            return Ok(Reply::Sessions {
                sessions: Vec::new(),
                next: None,
            });
        };
        let request = blitz::Request::List {
            after,
            limit: limit.clamp(1, PAGE),
            filter,
        };
        let blitz::Reply::Sessions { sessions, more } = self.ask(&server, request).await? else {
            return Err(strange());
        };
        let next = match sessions.last() {
            Some(last) if more => Some(SessionCursor {
                server: server.clone(),
                after: Some(last.uuid),
            }),
            _ => {
                let next = blitzes.iter().skip_while(|id| ***id != server).nth(1);
                next.map(|server| SessionCursor {
                    server: ServerId::clone(server),
                    after: None,
                })
            }
        };
        let placed: Result<Vec<Placed>, _> = sessions
            .into_iter()
            .map(|session| self.place(server.clone(), session))
            .collect();
        Ok(Reply::Sessions {
            sessions: placed?,
            next,
        })
    }
}

/// What became of taking a session over.
enum Taken {
    By(ServerId),
    /// Its owner lives.
    Held,
    /// There is nobody to take it now.
    Nobody,
}

/// Returns until when a session is left to its Blitz, milliseconds since 1970; `None` while that lives.
fn resumable_until(owner: Option<&Candidate>, grace: Duration) -> Option<u64> {
    let Some(owner) = owner else {
        // It is no longer deployed, so it does not come back.
        return Some(0);
    };
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    owner
        .away_since_ms
        .map(|since| since.saturating_add(grace_ms))
}

fn away(session: SessionId, owner: &ServerId, until_ms: Option<u64>) -> Refusal {
    let message = format!("session {session} is on {owner}, which does not answer");
    let hint = match until_ms {
        Some(until) => format!(
            "try again; from {} on another Blitz takes the session over",
            local_time(until)
        ),
        None => "it lives, so the session stays there; `omero-grid status` says more".to_owned(),
    };
    Refusal::new(RefusalKind::TimedOut, message).hint(hint)
}
