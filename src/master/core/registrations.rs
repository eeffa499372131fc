//! What is registered: kept in step with what is wanted, and what of it is durable.

use super::Core;
use crate::ipc::Refusal;
use crate::ipc::message::node::ServerReport;
use crate::master::desired::{Change, DynamicAdapter, DynamicObject};

impl Core {
    /// Defines the registry anew where what is wanted has changed.
    pub(super) fn tend_registry(&mut self) {
        if self.registry_of == self.desired.generation {
            return;
        }
        self.registry_of = self.desired.generation;
        let reports: Vec<&ServerReport> = self
            .nodes
            .values()
            .flat_map(|node| node.reports.values())
            .collect();
        self.shared.change_registry(|registry| {
            registry.define(&self.desired);
            for report in reports {
                registry.hear(report);
            }
        });
    }

    pub(super) fn set_adapter(
        &mut self,
        id: String,
        adapter: Option<DynamicAdapter>,
    ) -> Result<(), Refusal> {
        if self.desired.adapters.get(&id) == adapter.as_ref() {
            return Ok(());
        }
        // A server that registers itself is no command of anybody's.
        let change = Change::Adapter(id.clone(), adapter.clone());
        self.commit_noting(vec![change], Vec::new())?;
        self.shared
            .change_registry(|registry| registry.set_adapter(&id, adapter.as_ref()));
        Ok(())
    }

    pub(super) fn set_object(
        &mut self,
        identity: String,
        object: Option<DynamicObject>,
        uid: u32,
    ) -> Result<(), Refusal> {
        if self.desired.objects.get(&identity) == object.as_ref() {
            return Ok(());
        }
        let word = match (&object, self.desired.objects.contains_key(&identity)) {
            (None, _) => "remove",
            (Some(_), true) => "update",
            (Some(_), false) => "add",
        };
        let command = format!("object {word} {identity}");
        let change = Change::Object(identity.clone(), object.clone());
        self.commit(vec![change], uid, &command)?;
        self.shared
            .change_registry(|registry| registry.set_object(&identity, object.as_ref()));
        Ok(())
    }
}
