//! What a Blitz carries out for users: which Blitz is asked.
//!
//! What somebody asks with a session goes to the Blitz of that session, so that a read-only Blitz refuses what it must. Without one it is
//! the owner of the grid who asks, and any Blitz does that can. A Blitz that waits for the repository names its owner, who
//! is asked then.

use super::handler::{ClientHandler, reports, strange};
use crate::ipc::message::blitz::{self, Vouched};
use crate::ipc::message::client::Reply;
use crate::ipc::message::data::ScriptAction;
use crate::ipc::{Refusal, RefusalKind};
use crate::model::ServerId;

/// Returns the server that a script runs on which is meant.
fn runs_on(request: &blitz::Request) -> Option<&str> {
    match request {
        blitz::Request::Script {
            action: ScriptAction::Wait { server, .. } | ScriptAction::End { server, .. },
            ..
        } => Some(server),
        _ => None,
    }
}

impl ClientHandler {
    pub(super) async fn carry_out(&self, request: blitz::Request) -> Result<Reply, Refusal> {
        let session = request.authority().and_then(blitz::Authority::session);
        let reply = match session {
            // Where it runs it is known, whatever has become of the session.
            _ if let Some(server) = runs_on(&request) => {
                self.ask(&server.parse().map_err(|_| strange())?, request.clone())
                    .await?
            }
            Some(session) if request.takes_long() => {
                let look = blitz::Request::KeepAlive { session };
                let (server, _) = self.reach(session, &look).await?;
                self.ask(&server, request.clone()).await?
            }
            Some(session) => self.reach(session, &request).await?.1,
            None => self.ask(&self.able(&request)?, request.clone()).await?,
        };
        let reply = match reply {
            blitz::Reply::Owner { server, user } => self.ask_owner(&server, request, user).await?,
            reply => reply,
        };
        Ok(Reply::Blitz {
            reply: Box::new(reply),
        })
    }

    async fn ask_owner(
        &self,
        server: &str,
        mut request: blitz::Request,
        user: Vouched,
    ) -> Result<blitz::Reply, Refusal> {
        let server: ServerId = server.parse().map_err(|_| strange())?;
        let blitz::Request::File { vouched, .. } = &mut request else {
            return Err(strange());
        };
        *vouched = Some(user);
        match self.ask(&server, request).await? {
            blitz::Reply::Owner { .. } => Err(Refusal::new(
                RefusalKind::Unavailable,
                "the repository is about to get another owner",
            )
            .hint("try again")),
            reply => Ok(reply),
        }
    }

    /// Returns a Blitz that can do something in the name of the grid's owner: one that may write, for what writes. Where none may, any
    /// says why.
    fn able(&self, request: &blitz::Request) -> Result<ServerId, Refusal> {
        let snapshot = self.shared.now();
        let silent = self.shared.silent.borrow().clone();
        reports(&snapshot)
            .filter_map(|report| Some((&report.id, report.blitz.as_ref()?)))
            .min_by_key(|(id, status)| {
                let read_only = status.read_only.db || status.read_only.repo;
                (silent.contains(*id), request.writes() && read_only)
            })
            .map(|(id, _)| id.clone())
            .ok_or_else(|| {
                Refusal::new(RefusalKind::NotFound, "no Blitz answers now")
                    .hint("`omero-grid status` says why")
            })
    }
}
