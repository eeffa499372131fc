//! Applications that are changed by what they are rather than by a file, as over Ice.

use super::Core;
use super::deploy::liberty;
use crate::descriptor::Application;
use crate::ipc::message::client::{DeployMode, DeployReport, DescriptorSource};
use crate::ipc::{Refusal, RefusalKind};
use crate::master::desired::Deployed;
use crate::master::plan;

/// What the status shows in place of a file.
const SHOWN: &str = "icegridadmin";

/// What becomes of an application.
pub enum Edit {
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
pub type Make = Box<dyn FnOnce(&Application) -> Result<Application, String> + Send>;

/// An application, what becomes of it, and how. Refused as [`RefusalKind::NotFound`] where it should be deployed and is not.
pub struct Edition {
    /// The application.
    pub name: String,
    /// What becomes of it.
    pub edit: Edit,
    /// What may become of servers that run.
    pub mode: DeployMode,
    /// Who asks, by the name that is kept with the application.
    pub by: String,
    /// Whose process asks.
    pub uid: u32,
}

impl Core {
    pub(super) fn edit(&mut self, edition: Edition) -> Result<DeployReport, Refusal> {
        let Edition {
            name,
            edit,
            mode,
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
