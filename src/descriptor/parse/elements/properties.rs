//! Property sets, references to them, and properties. Whose a set is follows from what is open around it.

use crate::descriptor::diagnostic::Fault;
use crate::descriptor::parse::attributes::Attributes;
use crate::descriptor::parse::open::{OpenSet, SetOwner};
use crate::descriptor::parse::{Closes, Parser, Skip};
use crate::descriptor::xml::Element;

impl Parser<'_> {
    pub(super) fn properties(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.set.is_some() {
            return self.reference(element, attributes);
        }
        let owner = if self.open.service_instance.is_some() {
            SetOwner::ServiceInstance
        } else if self.open.server_instance.is_some() {
            let service = attributes
                .not_empty("service", self.report)
                .map(|s| s.as_str().to_owned());
            SetOwner::ServerInstance { service }
        } else if self.open.service.is_some() {
            SetOwner::Service
        } else if self.open.server.is_some() {
            SetOwner::Server
        } else if self.open.in_application {
            SetOwner::Named(attributes.required("id", self.report))
        } else {
            return self.misplaced(element, "the <properties> element is not allowed here");
        };
        if attributes.has("refid") {
            // IceGrid calls it an unknown attribute; say what it is for.
            let fault = Fault::new(
                element.at,
                "<properties refid> can only stand in another <properties> element",
            )
            .hint("write <properties><properties refid=\"…\"/></properties>");
            self.report.error(fault);
            attributes.given("refid");
        }
        self.open.set = Some(OpenSet {
            owner,
            set: Default::default(),
            in_reference: false,
            at: element.at,
        });
        Ok(Closes::Properties)
    }

    fn reference(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if !attributes.has("refid") {
            let reason = "only <properties refid=\"\"> can be a child of a <properties> element";
            return self.misplaced(element, reason);
        }
        let id = attributes.required("refid", self.report);
        let set = self
            .open
            .set
            .as_mut()
            .expect("a reference is only read in an open set");
        if !set.set.properties.is_empty() {
            let reason = "<properties refid=\"\"> can't be defined after a <property> element";
            return self.misplaced(element, reason);
        }
        if set.in_reference {
            return self.nested(element, "properties refid");
        }
        set.in_reference = true;
        if !id.is_missing() {
            set.set.references.push(id);
        }
        Ok(Closes::Reference)
    }

    pub(super) fn property(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        if self.open.set.is_none() && self.open.properties().is_none() {
            return self.misplaced(
                element,
                "the <property> element can only be a child of a <properties>, <icebox>, <server> or <service> element",
            );
        }
        let name = attributes.required("name", self.report);
        let value = attributes.optional("value", "");
        if !name.is_missing() {
            let set = match &mut self.open.set {
                Some(open) => &mut open.set,
                None => self.open.properties().expect("checked above").0,
            };
            set.properties.push((name, value));
        }
        Ok(Closes::Nothing)
    }
}
