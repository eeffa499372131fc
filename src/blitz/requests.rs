//! The requests of the link: who may do what, and what it does.
//!
//! [`Authority::Owner`] is accepted as it comes: the socket takes connections of the grid's own user and of root only, and node and
//! master have looked at the uid of whoever asked them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::login::MAX_NAME;
use super::service::{Blitz, gone, store_refusal};
use super::sessions::Absent;
use crate::ipc::message::blitz::{
    Authority, BlitzLink, Create, Event, Reply, Request, Target, User,
};
use crate::ipc::{Handler, Peer, Refusal, RefusalKind, Role};
use crate::model::{Secret, SessionId};
use crate::store::{Found, Outcome, ROOT, Reason, SessionRow, UserRow, Write, password};
use crate::telemetry::local_time;

/// Entries of one page at most: of sessions, and of ids.
const MAX_PAGE: u32 = 1000;
const MAX_IDS: u32 = 100_000;

/// What a client may call itself or a creation at most, in bytes.
const MAX_TEXT: usize = 255;

impl Handler<BlitzLink> for Blitz {
    async fn handle(self: Arc<Self>, _: Arc<Peer>, request: Request) -> Result<Reply, Refusal> {
        if concerns_sessions(&request) {
            self.require_lease()?;
        }
        match request {
            Request::Status => Ok(Reply::Status(self.status())),
            Request::Create(create) => self.create(create).await,
            Request::Join { session } => self.join(session).await,
            Request::KeepAlive { session } => self.access(session).await.map(Reply::Session),
            Request::Detach { session } => self.detach(session).await,
            Request::Close { target, authority } => self.close(target, authority).await,
            Request::List {
                after,
                limit,
                filter,
            } => {
                let limit = limit.clamp(1, MAX_PAGE) as usize;
                let (sessions, more) =
                    self.with_sessions(|sessions, now| sessions.page(after, limit, &filter, now));
                Ok(Reply::Sessions { sessions, more })
            }
            Request::Ids { after, limit } => {
                let limit = limit.clamp(1, MAX_IDS) as usize;
                let (ids, more) = self.with_sessions(|sessions, _| sessions.ids(after, limit));
                Ok(Reply::Ids { ids, more })
            }
            Request::AddUser {
                name,
                password,
                admin,
                authority,
            } => self.add_user(name, password, admin, authority).await,
            Request::SetPassword {
                name,
                password,
                authority,
            } => self.set_password(name, password, authority).await,
            Request::Users { authority } => self.users(authority).await,
            Request::Find { session } => self.find(session).await,
            Request::Adopt { session } => self.adopt(session).await,
            Request::Give { session, to } => self.give(session, to).await,
            Request::Drain { draining } => {
                self.set_draining(draining);
                Ok(Reply::Status(self.status()))
            }
            Request::Outlook => Ok(Reply::Outlook(
                self.with_sessions(|sessions, now| sessions.outlook(now)),
            )),
            Request::CloseSome { limit } => {
                let limit = limit.clamp(1, MAX_PAGE) as usize;
                self.close_idlest(None, limit, Reason::Drained).await
            }
            Request::Shorten { live_ms } => self.shorten(live_ms).await,
            Request::CloseUser {
                user,
                limit,
                authority,
            } => {
                self.require_admin(authority).await?;
                let limit = limit.clamp(1, MAX_PAGE) as usize;
                self.close_idlest(Some(&user), limit, Reason::Closed).await
            }
            Request::Configure { properties } => self.configure(properties).map(|()| Reply::Done),
            Request::File {
                action,
                authority,
                vouched,
            } => self.file(action, authority, vouched).await,
            Request::Script { action, authority } => self.script(action, authority).await,
            Request::Value { action, authority } => self.value(action, authority).await,
        }
    }

    fn events(&self, peer: &Peer) -> Option<mpsc::Receiver<Event>> {
        match peer.hello.role {
            Role::Node | Role::Master => {
                let blitz = self.me.clone();
                Some(
                    self.hub
                        .listen(move || blitz.upgrade().map(|blitz| blitz.status())),
                )
            }
            // A command asks one thing and goes.
            Role::Client | Role::Blitz => None,
        }
    }
}

/// Returns whether somebody acts on what is answered as on the state of a session.
fn concerns_sessions(request: &Request) -> bool {
    match request {
        Request::Create(_)
        | Request::Join { .. }
        | Request::KeepAlive { .. }
        | Request::Detach { .. }
        | Request::Close { .. }
        | Request::Find { .. }
        | Request::Adopt { .. }
        | Request::Give { .. }
        | Request::CloseSome { .. }
        | Request::CloseUser { .. }
        | Request::Shorten { .. } => true,
        Request::Status
        | Request::List { .. }
        | Request::Ids { .. }
        | Request::AddUser { .. }
        | Request::SetPassword { .. }
        | Request::Users { .. }
        | Request::Drain { .. }
        | Request::Configure { .. }
        | Request::File { .. }
        | Request::Script { .. }
        | Request::Value { .. }
        | Request::Outlook => false,
    }
}

impl Blitz {
    async fn create(self: Arc<Self>, create: Create) -> Result<Reply, Refusal> {
        // Before the password, which takes its time.
        self.limits(&create)?;
        let user = self
            .login
            .verify(&self.tasks, &create.user, &create.password)
            .await?;
        self.create_for(user, create).await
    }

    fn limits(&self, create: &Create) -> Result<(u64, u64), Refusal> {
        if create.token.as_ref().is_some_and(|t| t.len() > MAX_TEXT) {
            return Err(invalid("the token of a creation is too long"));
        }
        self.settings()
            .limits(create.time_to_idle_ms, create.time_to_live_ms)
            .map_err(refused)
    }

    /// Opens a session for a user who has been verified; the password of the creation is not looked at.
    pub(super) async fn create_for(
        self: Arc<Self>,
        user: UserRow,
        create: Create,
    ) -> Result<Reply, Refusal> {
        let (time_to_idle_ms, time_to_live_ms) = self.limits(&create)?;
        let now_ms = self.clock.now().wall_ms;
        let row = SessionRow {
            uuid: SessionId::random(),
            user_id: user.id,
            user: user.name,
            agent: shortened(create.agent),
            ip: shortened(create.ip),
            started_ms: now_ms,
            last_access_ms: now_ms,
            time_to_idle_ms,
            time_to_live_ms,
            references: 1,
            token: create.token,
            event: match create.event.as_str() {
                "" => "User".to_owned(),
                _ => shortened(create.event),
            },
            group: shortened(create.group),
        };
        let blitz = self.clone();
        self.tasks.run(async move { blitz.open(row).await }).await?
    }

    async fn open(self: &Arc<Self>, row: SessionRow) -> Result<Reply, Refusal> {
        let (uuid, user_id) = (row.uuid, row.user_id);
        let internal = self.settings().is_internal(&row.event, &row.agent);
        let _admission = match self.admit(internal) {
            Ok(admission) => admission,
            // What was opened before may be asked for again all the same.
            Err(refusal) => {
                return match self.by_token(&row).await? {
                    Some(found) => self.repeated(user_id, found).await,
                    None => Err(refusal),
                };
            }
        };
        let write = Write::Open {
            row: row.clone(),
            max_user: self.settings().max_user.filter(|_| !internal),
        };
        match self.commit_one(write).await? {
            Outcome::TokenUsed(found) => self.repeated(user_id, *found).await,
            Outcome::Superseded => Err(superseded()),
            Outcome::UserFull { open, next_end_ms } => Err(user_full(&row.user, open, next_end_ms)),
            _ => {
                self.opened(row);
                self.with_sessions(|sessions, now| sessions.view(uuid, now))
                    .map(Reply::Session)
                    .ok_or_else(|| {
                        Refusal::new(RefusalKind::NotFound, "the session has ended at once")
                    })
            }
        }
    }

    /// Answers a creation that was asked for again. One that the owner did not live to tell of is taken over.
    async fn repeated(self: &Arc<Self>, user_id: u64, found: Found) -> Result<Reply, Refusal> {
        let Found { row, server, ended } = found;
        if row.user_id != user_id {
            return Err(refused("the token of this creation is another user's"));
        }
        if let Some(reason) = ended {
            let limit = match reason {
                Reason::Idle => row.time_to_idle_ms,
                Reason::Lived => row.time_to_live_ms,
                Reason::Closed | Reason::Left | Reason::Drained => 0,
            };
            return Err(gone(
                row.uuid,
                reason,
                std::time::Duration::from_millis(limit),
            ));
        }
        if server != self.server.as_str() {
            return self.adopt(row.uuid).await;
        }
        let known = self.with_sessions(|sessions, now| sessions.view(row.uuid, now));
        // The first creation may be committed and not yet noted in memory: then the row says it all.
        Ok(Reply::Session(known.unwrap_or_else(|| self.view(row))))
    }

    /// Adds a reference to a session.
    pub(super) async fn join(self: Arc<Self>, uuid: SessionId) -> Result<Reply, Refusal> {
        self.access(uuid).await?;
        let blitz = self.clone();
        self.tasks
            .run(async move {
                let at_ms = blitz.clock.now().wall_ms;
                match blitz.commit_one(Write::Join { uuid, at_ms }).await? {
                    Outcome::References(_) => {
                        let joined = blitz.with_sessions(|sessions, now| {
                            sessions.joined(uuid);
                            sessions.view(uuid, now)
                        });
                        match joined {
                            Some(session) => Ok(Reply::Session(session)),
                            None => Err(blitz.missing(uuid).await),
                        }
                    }
                    _ => Err(blitz.not_mine(uuid).await),
                }
            })
            .await?
    }

    /// Takes a reference from a session, which ends with the last.
    pub(super) async fn detach(self: Arc<Self>, uuid: SessionId) -> Result<Reply, Refusal> {
        let user = self.access(uuid).await?.user;
        let blitz = self.clone();
        self.tasks
            .run(async move {
                let at_ms = blitz.clock.now().wall_ms;
                match blitz.commit_one(Write::Leave { uuid, at_ms }).await? {
                    Outcome::References(remaining) => {
                        if remaining == 0 {
                            blitz.closed(uuid, Reason::Left);
                        } else {
                            blitz.with_sessions(|sessions, _| sessions.left(uuid));
                        }
                        Ok(Reply::Closed {
                            session: uuid,
                            user,
                            remaining,
                        })
                    }
                    _ => Err(blitz.not_mine(uuid).await),
                }
            })
            .await?
    }

    async fn close(self: Arc<Self>, target: Target, by: Authority) -> Result<Reply, Refusal> {
        let uuid = match target {
            Target::Uuid { session } => session,
            Target::Prefix { prefix } => {
                self.require_admin(by).await?;
                self.by_prefix(&prefix)?
            }
        };
        let look = || self.with_sessions(|sessions, now| sessions.look(uuid, now));
        let found = match look() {
            Err(Absent::Unknown) if self.load(uuid).await? => look(),
            found => found,
        };
        let user = match found {
            Ok(user) => user,
            Err(absent) => return Err(self.absent(uuid, absent).await),
        };
        let blitz = self.clone();
        self.tasks
            .run(async move {
                let write = Write::Close {
                    uuid,
                    at_ms: blitz.clock.now().wall_ms,
                    reason: Reason::Closed,
                };
                match blitz.commit_one(write).await? {
                    Outcome::Done => {
                        blitz.closed(uuid, Reason::Closed);
                        Ok(Reply::Closed {
                            session: uuid,
                            user: user.as_ref().to_owned(),
                            remaining: 0,
                        })
                    }
                    _ => Err(blitz.not_mine(uuid).await),
                }
            })
            .await?
    }

    fn by_prefix(&self, prefix: &str) -> Result<SessionId, Refusal> {
        if prefix.is_empty() {
            return Err(invalid("the beginning of a session's UUID is empty"));
        }
        match self.with_sessions(|sessions, _| sessions.with_prefix(prefix)) {
            Some((uuid, 1)) => Ok(uuid),
            Some((_, count)) => Err(refused(format!(
                "{count} sessions begin with '{}'",
                prefix.escape_debug()
            ))
            .hint("give more characters of the UUID")),
            None => Err(Refusal::new(
                RefusalKind::NotFound,
                format!(
                    "no session begins with '{}'",
                    shortened(prefix.escape_debug().to_string())
                ),
            )),
        }
    }

    /// Drops a session that the store no longer has open here, and says why.
    pub(super) async fn not_mine(&self, uuid: SessionId) -> Refusal {
        self.lost(uuid);
        self.missing(uuid).await
    }

    async fn add_user(
        self: Arc<Self>,
        name: String,
        password: Secret,
        admin: bool,
        by: Authority,
    ) -> Result<Reply, Refusal> {
        self.require_admin(by).await?;
        self.require_database("add a user")?;
        check_name(&name).map_err(invalid)?;
        check_password(&password).map_err(invalid)?;
        let blitz = self.clone();
        self.tasks
            .run(async move {
                let write = Write::AddUser {
                    name: name.clone(),
                    hash: blitz.login.hash(password).await?,
                    admin,
                    at_ms: blitz.clock.now().wall_ms,
                };
                match blitz.commit_one(write).await? {
                    Outcome::UserExists => Err(refused(format!(
                        "there is a user '{}' already",
                        name.escape_debug()
                    ))
                    .hint("change the password of that user, or choose another name")),
                    Outcome::ForeignUsers => Err(foreign_users()),
                    Outcome::ReadOnly => Err(became_read_only()),
                    _ => {
                        info!(user = ?name, admin, "added a user");
                        Ok(Reply::Done)
                    }
                }
            })
            .await?
    }

    async fn set_password(
        self: Arc<Self>,
        name: String,
        password: Secret,
        by: Authority,
    ) -> Result<Reply, Refusal> {
        if let Some(user) = self.user_of(by).await?
            && !user.admin
            && user.name != name
        {
            return Err(not_permitted("change the password of another user"));
        }
        self.require_database("change a password")?;
        check_password(&password).map_err(invalid)?;
        let blitz = self.clone();
        self.tasks
            .run(async move {
                // Nobody's password need not be hashed.
                let known = blitz.store.user(&name).await.map_err(store_refusal)?;
                if known.is_none() {
                    return Err(no_user(&name));
                }
                let write = Write::SetHash {
                    name: name.clone(),
                    hash: blitz.login.hash(password).await?,
                    at_ms: blitz.clock.now().wall_ms,
                };
                match blitz.commit_one(write).await? {
                    Outcome::NoUser => Err(no_user(&name)),
                    Outcome::ForeignUsers => Err(foreign_users()),
                    Outcome::ReadOnly => Err(became_read_only()),
                    _ => {
                        info!(user = ?name, "changed a password");
                        if name == ROOT {
                            blitz.forget_first_password();
                        }
                        Ok(Reply::Done)
                    }
                }
            })
            .await?
    }

    async fn users(self: Arc<Self>, by: Authority) -> Result<Reply, Refusal> {
        self.require_admin(by).await?;
        let rows = self.store.users().await.map_err(store_refusal)?;
        let users = rows
            .into_iter()
            .map(|row| User {
                id: row.id,
                name: row.name,
                admin: row.admin,
                locked: row.hash.is_none(),
            })
            .collect();
        Ok(Reply::Users { users })
    }

    /// Removes the file with root's first password, which is no longer true.
    fn forget_first_password(&self) {
        let path = self.paths.root_password();
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot remove the file with root's first password");
            }
        }
    }

    pub(super) async fn require_admin(self: &Arc<Self>, by: Authority) -> Result<(), Refusal> {
        match self.user_of(by).await? {
            Some(user) if !user.admin => Err(not_permitted("do this")),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the user whose session gives the authority; `None` for the owner of the grid.
    pub(super) async fn user_of(
        self: &Arc<Self>,
        by: Authority,
    ) -> Result<Option<UserRow>, Refusal> {
        match by {
            Authority::Owner => Ok(None),
            Authority::Session { session } => {
                let name = self.access(session).await?.user;
                let user = self.store.user(&name).await.map_err(store_refusal)?;
                user.map(Some).ok_or_else(|| no_user(&name))
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.trim().is_empty() {
        Err("a user name must not be empty")
    } else if name.len() > MAX_NAME {
        Err("a user name has at most 255 bytes")
    } else if name.chars().any(char::is_control) {
        Err("a user name must not contain control characters")
    } else if SessionId::parse(name).is_some() {
        // OMERO takes a login whose name is a session's UUID for a join.
        Err("a user name must not have the form of a UUID")
    } else {
        Ok(())
    }
}

fn check_password(password: &Secret) -> Result<(), &'static str> {
    if password.reveal().is_empty() {
        Err("a password must not be empty")
    } else if password.reveal().len() > password::MAX_PASSWORD {
        Err("a password has at most 4096 bytes")
    } else {
        Ok(())
    }
}

/// Cuts a text that is only recorded.
fn shortened(mut text: String) -> String {
    let end = (0..=MAX_TEXT.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

fn refused(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Refused, message)
}

fn invalid(message: &'static str) -> Refusal {
    Refusal::new(RefusalKind::Invalid, message)
}

fn not_permitted(what: &str) -> Refusal {
    refused(format!("only an administrator may {what}"))
}

/// Answers who asked while the database was turning.
fn became_read_only() -> Refusal {
    refused("the database can only be read").hint("`omero-grid status` says why")
}

fn foreign_users() -> Refusal {
    refused("the users are those of OMERO's database: omero.grid.users is omero")
        .hint("change them with OMERO's own clients")
}

fn no_user(name: &str) -> Refusal {
    Refusal::new(
        RefusalKind::NotFound,
        format!(
            "there is no user '{}'",
            shortened(name.escape_debug().to_string())
        ),
    )
}

fn user_full(user: &str, open: u64, next_end_ms: Option<u64>) -> Refusal {
    let when = match next_end_ms {
        Some(at) => format!(
            "; the next of them ends at {} if nobody uses it",
            local_time(at)
        ),
        None => String::new(),
    };
    refused(format!(
        "user '{}' has {open} sessions, the most that omero.grid.sessions.max_per_user allows{when}",
        user.escape_debug()
    ))
    .hint("close one of them, or join one")
}

fn superseded() -> Refusal {
    refused("another process has taken over this Blitz").hint("try again")
}
