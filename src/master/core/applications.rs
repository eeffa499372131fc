//! Applications that are changed by what they are rather than by a file, as over Ice.

use super::Core;
use super::deploy::liberty;
use crate::descriptor::Application;
use crate::ipc::message::client::{DeployMode, DeployReport, DescriptorSource};
use crate::ipc::{Refusal, RefusalKind};
use crate::master::desired::Deployed;
use crate::master::plan::{self, DeployPlan};

/// What the status shows in place of a file.
const SHOWN: &str = "icegridadmin";

/// What becomes of an application.
pub(crate) enum Edit {
    /// It is deployed, and was not before.
    Add(Box<Application>),
    /// It was deployed, and becomes this.
    Replace(Box<Application>),
    /// It was deployed, and becomes what this makes of it; an error is why that cannot be.
    Change(Make),
    /// It was deployed, and no longer is.
    Remove,
}

/// Makes an application of another.
pub(crate) type Make = Box<dyn FnOnce(&Application) -> Result<Application, String> + Send>;

/// An application, what becomes of it, and how. Refused as [`RefusalKind::NotFound`] where it should be deployed and is not.
pub(crate) struct Edition {
    /// The application.
    pub(crate) name: String,
    pub(crate) edit: Edit,
    /// What may become of Blitzes with live sessions.
    pub(crate) mode: DeployMode,
    /// Refused if a server that runs would have to be stopped.
    pub(crate) without_restart: bool,
    /// Who asks, by the name that is kept with the application.
    pub(crate) by: String,
    /// Whose process asks.
    pub(crate) uid: u32,
}

impl Core {
    pub(super) fn edit(&mut self, edition: Edition) -> Result<DeployReport, Refusal> {
        let Edition {
            name,
            edit,
            mode,
            without_restart,
            by,
            uid,
        } = edition;
        let known = self.desired.applications.get(&name);
        let (word, definition) = match (edit, known) {
            (Edit::Add(_), Some(_)) => {
                let message = format!("application `{name}' already exists");
                return Err(Refusal::new(RefusalKind::Refused, message));
            }
            (Edit::Replace(_) | Edit::Change(_) | Edit::Remove, None) => {
                let message = format!("there is no application '{name}'");
                return Err(Refusal::new(RefusalKind::NotFound, message));
            }
            (Edit::Add(definition), None) => ("add", Some(*definition)),
            (Edit::Replace(definition), Some(_)) => ("sync", Some(*definition)),
            (Edit::Change(make), Some(known)) => ("update", Some(made(make, known)?)),
            (Edit::Remove, Some(_)) => ("remove", None),
        };
        let (plan, warnings) = match definition {
            Some(definition) if definition.name != name => {
                let message = format!("the application is called `{}'", definition.name);
                return Err(Refusal::new(RefusalKind::Invalid, message));
            }
            Some(definition) => {
                let loaded = self.load(DescriptorSource::of(definition, SHOWN));
                let (fresh, warnings) =
                    loaded.map_err(|error| Refusal::new(RefusalKind::Invalid, error.reason()))?;
                (self.plan(fresh, liberty(mode), &by, true), warnings)
            }
            None => {
                let reports = self.reports();
                let plan = plan::remove(&self.desired, &name, &reports, liberty(mode));
                (plan, Vec::new())
            }
        };
        if without_restart && let Some(reason) = would_stop(&name, &plan) {
            return Err(Refusal::new(RefusalKind::Refused, reason));
        }
        let command = format!("application {word} {name} by {by:?}");
        self.carry_through(plan, warnings, false, mode, uid, &command)
    }
}

fn made(make: Make, known: &Deployed) -> Result<Application, Refusal> {
    let definition = known.definition().ok_or_else(|| {
        let message = "it is not known how the application is described";
        Refusal::new(RefusalKind::Refused, message).hint("deploy it again, or reload")
    })?;
    make(definition).map_err(|reason| Refusal::new(RefusalKind::Invalid, reason))
}

/// Says, in IceGrid's words, which servers would have to be stopped; `None` if none.
fn would_stop(name: &str, plan: &DeployPlan) -> Option<String> {
    let changes = plan.report.changes.iter();
    let stopped: Vec<&str> = changes
        .filter(|change| matches!(change.effect.as_str(), "restart" | "stop"))
        .map(|change| change.server.as_str())
        .collect();
    let servers = match stopped.as_slice() {
        [] => return None,
        [one] => format!("server `{one}'"),
        more => format!("servers `{}'", more.join(", ")),
    };
    Some(format!(
        "check for application `{name}' update failed:\nthe {servers} would need to be stopped"
    ))
}
