//! What the beginning of each element does. Ends are in `ends`.
//!
//! Here: which element it is, and the checks of where one may stand. What each holds is in the module of its group.

mod application;
mod communicator;
mod properties;
mod servers;

use super::attributes::{Attributes, ELEMENTS};
use super::{Closes, Parser, Skip};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::types::ServerKind;
use crate::descriptor::xml::Element;

impl Parser<'_> {
    /// Acts on a start tag. An error means that the content is passed over; its reason is reported.
    pub(super) fn start(&mut self, element: &Element, is_root: bool) -> Result<Closes, Skip> {
        let name = element.name.as_str();
        if is_root && name != "icegrid" {
            self.gaps.everything = true;
            return self.misplaced(
                element,
                "only the <icegrid> element is allowed at the top-level",
            );
        }
        let mut attributes = Attributes::new(element);
        let closes = match name {
            "icegrid" if is_root => Closes::Root,
            "icegrid" => {
                return self.misplaced(element, "element <icegrid> is a top level element");
            }
            "application" => self.application(element, &mut attributes)?,
            "include" => {
                let file = attributes.required("file", self.report);
                let targets = attributes.optional("targets", "");
                if file.is_missing() {
                    self.gaps.everything = true;
                } else {
                    self.include(&file, &targets, element.at);
                }
                Closes::Nothing
            }
            "target" => {
                let target = attributes.required("name", self.report);
                attributes.finish(self.report);
                return self.target(&target);
            }
            "variable" => self.variable(element, &mut attributes)?,
            "node" => self.node(element, &mut attributes)?,
            "server-template" | "service-template" => self.template(element, &mut attributes)?,
            "parameter" => self.parameter(element, &mut attributes)?,
            "server" | "icebox" => self.server(element, &mut attributes)?,
            "server-instance" => self.server_instance(element, &mut attributes)?,
            "service" => self.service(element, &mut attributes)?,
            "service-instance" => self.service_instance(element, &mut attributes)?,
            "properties" => self.properties(element, &mut attributes)?,
            "property" => self.property(element, &mut attributes)?,
            "adapter" => self.adapter(element, &mut attributes)?,
            "object" | "allocatable" => self.object(element, &mut attributes)?,
            "replica-group" => self.replica_group(element, &mut attributes)?,
            "load-balancing" => self.load_balancing(element, &mut attributes)?,
            "dbenv" => self.db_env(element, &mut attributes)?,
            "dbproperty" => self.db_property(element, &mut attributes)?,
            "log" => self.log(element, &mut attributes)?,
            "distrib" => self.distribution(element, &mut attributes)?,
            "directory" if self.open.distribution.is_some() => Closes::Directory,
            "directory" => {
                return self.misplaced(
                    element,
                    "the <directory> element can only be a child of a <distrib> element",
                );
            }
            "option" if self.open.server.is_some() => Closes::Option,
            "option" => {
                return self.misplaced(
                    element,
                    "element <option> can only be the child of a <server> element",
                );
            }
            "env" if self.open.server.is_some() => Closes::Env,
            "env" => {
                return self.misplaced(
                    element,
                    "element <env> can only be the child of a <server> element",
                );
            }
            "description" => {
                if self.open.description().is_none() {
                    return self.misplaced(element, "element <description> is not allowed here");
                }
                Closes::Description
            }
            unknown => {
                let fault = Fault::new(element.at, format!("unknown element <{unknown}>"))
                    .near(unknown, ELEMENTS.iter().map(|(name, _)| *name))
                    .parse(element.at, format!("unknown element `{unknown}'"));
                self.report.error(fault);
                return Err(Skip::Faulty);
            }
        };
        attributes.finish(self.report);
        Ok(closes)
    }

    /// Reports an element where it may not stand, in IceGrid's words.
    fn misplaced(&mut self, element: &Element, reason: &str) -> Result<Closes, Skip> {
        self.report
            .error(Fault::new(element.at, reason).parse(element.at, reason));
        Err(Skip::Faulty)
    }

    /// Reports nesting that IceGrid takes, with a result that nobody can have meant.
    fn nested(&mut self, element: &Element, inside: &str) -> Result<Closes, Skip> {
        let message = format!("<{}> cannot stand in <{inside}>", element.name);
        self.report
            .error(Fault::new(element.at, message).hint(format!("close <{inside}> before it")));
        Err(Skip::Faulty)
    }

    fn only_in_application(&mut self, element: &Element) -> Result<(), Skip> {
        if self.open.in_application {
            return Ok(());
        }
        let reason = format!(
            "the <{}> element can only be a child of an <application> element",
            element.name
        );
        self.misplaced(element, &reason).map(|_| ())
    }

    /// Checks that an icebox is open and no service in it.
    fn only_in_icebox(&mut self, element: &Element) -> Result<(), Skip> {
        let name = &element.name;
        match &self.open.server {
            Some(server) if server.descriptor.kind == ServerKind::Server => {
                let reason = format!("<{name}> element can only be a child of an <icebox> element");
                self.misplaced(element, &reason).map(|_| ())
            }
            _ if self.open.service.is_some() || self.open.service_instance.is_some() => {
                self.nested(element, "service").map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Checks that a service, or a server that is no icebox, is open.
    fn only_in_communicator(&mut self, element: &Element) -> Result<(), Skip> {
        let name = &element.name;
        if self.open.service.is_some() {
            return Ok(());
        }
        let reason = match &self.open.server {
            Some(server) if server.descriptor.kind == ServerKind::Icebox && name != "log" => {
                format!("<{name}> element can't be a child of an <icebox> element")
            }
            Some(_) => return Ok(()),
            None => format!(
                "the <{name}> element can only be a child of a <server> or <service> element"
            ),
        };
        self.misplaced(element, &reason).map(|_| ())
    }
}
