//! Requests about files: who may do what, and which Blitz has to do it.
//!
//! Every user may read every file; the owner of a file and administrators may delete it. What changes something is refused where the
//! database or the repository is read-only, and passed on to the owner of the repository where that is another Blitz.

use std::sync::Arc;

use super::repository::{Repository, Standing, User};
use super::service::Blitz;
use crate::ipc::message::blitz::{Authority, Reply, Vouched};
use crate::ipc::message::data::FileAction;
use crate::ipc::{Refusal, RefusalKind};
use crate::store::{ROOT, ROOT_ID};

/// Files of one page at most.
const MAX_PAGE: u32 = 1000;

impl Blitz {
    pub(super) async fn file(
        self: Arc<Self>,
        action: FileAction,
        by: Authority,
        vouched: Option<Vouched>,
    ) -> Result<Reply, Refusal> {
        let user = match vouched {
            Some(Vouched { id, name, admin }) => User { id, name, admin },
            None => self.asking(by).await?,
        };
        let repository = self.repository()?;
        match action {
            FileAction::List { after, limit } => {
                let limit = limit.clamp(1, MAX_PAGE) as usize;
                let (files, more) = repository
                    .run(move |repository| repository.list(after, limit))
                    .await?;
                Ok(Reply::Files { files, more })
            }
            FileAction::Info { id } => {
                let file = repository
                    .run(move |repository| repository.info(id))
                    .await?;
                Ok(Reply::Files {
                    files: vec![file],
                    more: false,
                })
            }
            FileAction::Get { id } => {
                let ticket = repository.run(move |repository| repository.get(id)).await?;
                Ok(Reply::Ticket(ticket))
            }
            FileAction::Image { id } => self.image(repository, id).await,
            FileAction::Import { name, size } => {
                self.require_writable("import a file")?;
                if let Some(reply) = self.elsewhere(repository, &user).await? {
                    return Ok(reply);
                }
                repository.import(name, size, user).map(Reply::Ticket)
            }
            FileAction::Delete { id } => {
                self.require_writable("delete a file")?;
                if let Some(reply) = self.elsewhere(repository, &user).await? {
                    return Ok(reply);
                }
                repository
                    .run(move |repository| repository.delete(id, &user))
                    .await?;
                Ok(Reply::Done)
            }
        }
    }

    /// Returns the user in whose name something is done; the owner of the grid is its first administrator.
    pub(super) async fn asking(self: &Arc<Self>, by: Authority) -> Result<User, Refusal> {
        Ok(match self.user_of(by).await? {
            Some(row) => User {
                id: row.id,
                name: row.name,
                admin: row.admin,
            },
            None => User {
                id: ROOT_ID,
                name: ROOT.to_owned(),
                admin: true,
            },
        })
    }

    pub(super) fn repository(&self) -> Result<&Arc<Repository>, Refusal> {
        self.repository.as_ref().ok_or_else(|| {
            Refusal::new(
                RefusalKind::NotFound,
                format!("{} has no files: omero.data.dir is not set", self.server),
            )
        })
    }

    /// Says who has to be asked instead, where another Blitz owns the repository.
    async fn elsewhere(
        &self,
        repository: &Arc<Repository>,
        user: &User,
    ) -> Result<Option<Reply>, Refusal> {
        let standing = repository.standing().borrow().clone();
        if standing == Standing::Owner {
            return Ok(None);
        }
        // As it is now: it may have changed hands since this Blitz began to wait.
        let owner = repository.run(|repository| Ok(repository.owner())).await?;
        match owner.filter(|owner| owner != self.server.as_str()) {
            Some(server) => Ok(Some(Reply::Owner {
                server,
                user: Vouched {
                    id: user.id,
                    name: user.name.clone(),
                    admin: user.admin,
                },
            })),
            None => Err(Refusal::new(
                RefusalKind::Unavailable,
                "the repository is about to get another owner",
            )
            .hint("try again")),
        }
    }
}
