//! `omero-grid/Placement`: tells a Blitz that a login has reached where its session belongs. Ours; IceGrid has nothing of the kind.
//!
//! The redirector, routes, drains and disabled servers are the master's, and OMERO's clients come to whichever Blitz the locator named.
//! Nothing is opened by asking, and nothing is told that the locator would not tell: everybody may ask.

use std::sync::Arc;

use super::face::Grid;
use super::operation::{Outcome, failed, later, now, params};
use crate::ice::Missing;
use crate::ice::net::{Incoming, Responder, Servant, Served};
use crate::ipc::RefusalKind;
use crate::master::Wanted;

/// Says where sessions belong.
pub(super) struct Placement(pub(super) Arc<Grid>);

/// What is asked: the adapter that was reached, who wants a session (user, group, agent, address), and whether only that adapter is meant.
type Question = ((String, String, String, String, String), bool);

impl Servant for Placement {
    fn types(&self) -> &[&str] {
        &["::omero::grid::Placement"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        if incoming.target().operation != "place" {
            return responder.missing(Missing::Operation);
        }
        match params::<Question>(incoming) {
            Ok(question) => {
                let grid = self.0.clone();
                later(responder, async move { place(&grid, question).await })
            }
            Err(raised) => now::<()>(responder, Err(raised)),
        }
    }
}

/// Returns the adapter where the session belongs: that which was reached, or the one of its replica group that another Blitz has.
async fn place(
    grid: &Grid,
    ((adapter, user, group, agent, client), stays): Question,
) -> Outcome<String> {
    let reached = {
        let registry = grid.handle.registry();
        let reached = registry.adapter(&adapter);
        reached.and_then(|reached| reached.server.clone())
    };
    let Some(reached) = reached else {
        return Ok(adapter);
    };
    let wanted = Wanted {
        user,
        group,
        agent,
        client,
        entry: Some(reached),
    };
    let chosen = match grid.handle.place(wanted, stays).await {
        Ok(chosen) => chosen,
        Err(refusal) => match refusal.kind {
            RefusalKind::Refused | RefusalKind::TimedOut => return Err(failed(refusal)),
            // Nobody can say now: who was reached knows best whether it can.
            _ => return Ok(adapter),
        },
    };
    let registry = grid.handle.registry();
    let group = registry.adapter(&adapter).map(|reached| &reached.group);
    let Some(group) = group.filter(|group| !group.is_empty()) else {
        return Ok(adapter);
    };
    let of_chosen = |(_, other): &(&str, &crate::master::Adapter)| {
        other.server.as_ref() == Some(&chosen) && other.group == *group
    };
    // A Blitz that cannot be reached by Ice takes none of its sessions.
    let found = registry.adapters().find(of_chosen);
    Ok(found.map_or(adapter.clone(), |(id, _)| id.to_owned()))
}
