//! What a server or service has besides properties: adapters with their objects, database environments, logs.
//!
//! IceGrid hides some attributes of these in properties of the server; they are put there at once, as it does.

use crate::descriptor::diagnostic::Fault;
use crate::descriptor::identity::Identity;
use crate::descriptor::parse::attributes::Attributes;
use crate::descriptor::parse::{Closes, Parser, Skip};
use crate::descriptor::text::Text;
use crate::descriptor::types::{AdapterDescriptor, DbEnvDescriptor, ObjectDescriptor};
use crate::descriptor::xml::Element;

impl Parser<'_> {
    pub(super) fn adapter(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_communicator(element)?;
        if self.open.adapter.is_some() {
            return self.nested(element, "adapter");
        }
        let name = attributes.required("name", self.report);
        let id = attributes.not_empty("id", self.report).unwrap_or_else(|| {
            let prefix = if self.open.service.is_some() {
                "${server}.${service}."
            } else {
                "${server}."
            };
            Text::placed(format!("{prefix}{name}"), name.at())
        });
        let report = &mut *self.report;
        let adapter = AdapterDescriptor {
            id,
            replica_group_id: attributes.optional("replica-group", ""),
            priority: attributes.optional("priority", ""),
            register_process: attributes.boolean("register-process", false, report),
            server_lifetime: attributes.boolean("server-lifetime", true, report),
            name: name.clone(),
            ..AdapterDescriptor::default()
        };
        let endpoints = attributes.optional("endpoints", "default");
        if !name.is_missing() {
            self.open.hide((
                Text::placed(format!("{name}.Endpoints"), name.at()),
                endpoints,
            ));
            if let Some(options) = attributes.given("proxy-options") {
                self.open.hide((
                    Text::placed(format!("{name}.ProxyOptions"), name.at()),
                    options,
                ));
            }
        }
        self.open.adapter = Some(adapter);
        Ok(Closes::Adapter)
    }

    pub(super) fn object(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        let in_adapter = self.open.adapter.is_some();
        if element.name == "allocatable" && !in_adapter {
            return self.misplaced(
                element,
                "the <allocatable> element can only be a child of an <adapter> element",
            );
        }
        if !in_adapter && self.open.replica_group.is_none() {
            return self.misplaced(
                element,
                "the <object> element can only be a child of an <adapter> or <replica-group> element",
            );
        }
        let mut identity = attributes.required("identity", self.report);
        if !identity.is_missing() {
            match Identity::parse(identity.as_str()) {
                Ok(parsed) => identity = Text::placed(parsed.to_string(), identity.at()),
                Err(error) => {
                    let reason = format!(
                        "::Ice::IdentityParseException:\nerror while parsing identity `{}'",
                        error.icegrid()
                    );
                    self.report.error(
                        Fault::new(
                            identity.at(),
                            format!("invalid identity '{identity}': {error}"),
                        )
                        .parse(element.at, reason),
                    );
                    identity = Text::missing(identity.at());
                }
            }
        }
        let object = ObjectDescriptor {
            identity,
            type_id: attributes.optional("type", ""),
            proxy_options: attributes.optional("proxy-options", ""),
        };
        if let Some(adapter) = &mut self.open.adapter {
            let property = attributes.not_empty("property", self.report);
            let identity = object.identity.clone();
            let list = if element.name == "allocatable" {
                &mut adapter.allocatables
            } else {
                &mut adapter.objects
            };
            list.push(object);
            if let Some(property) = property.filter(|p| !p.is_missing()) {
                self.open.hide((property, identity));
            }
        } else if let Some(group) = &mut self.open.replica_group {
            if attributes.given("property").is_some() {
                let reason =
                    "property attribute is not allowed in object descriptors from a replica group";
                self.report
                    .error(Fault::new(element.at, reason).parse(element.at, reason));
            }
            group.objects.push(object);
        }
        Ok(Closes::Nothing)
    }

    pub(super) fn db_env(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_communicator(element)?;
        if self.open.db_env.is_some() {
            return self.nested(element, "dbenv");
        }
        self.open.db_env = Some(DbEnvDescriptor {
            name: attributes.required("name", self.report),
            db_home: attributes.optional("home", ""),
            ..DbEnvDescriptor::default()
        });
        Ok(Closes::DbEnv)
    }

    pub(super) fn db_property(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        let Some(db_env) = &mut self.open.db_env else {
            return self.misplaced(
                element,
                "the <dbproperty> element can only be a child of a <dbenv> element",
            );
        };
        let name = attributes.required("name", self.report);
        let value = attributes.optional("value", "");
        if db_env.db_home.as_str().is_empty() {
            db_env.properties.push((name, value));
        } else {
            let fault = Fault::new(element.at, "a <dbenv> with a home cannot have properties").parse(
                element.at,
                "can't add property to the database environment:\nproperties are only allowed if the database home \
                 directory\nis managed by the node",
            );
            self.report.error(fault);
        }
        Ok(Closes::Nothing)
    }

    pub(super) fn log(
        &mut self,
        element: &Element,
        attributes: &mut Attributes<'_>,
    ) -> Result<Closes, Skip> {
        self.only_in_communicator(element)?;
        let path = attributes.required("path", self.report);
        if let Some(property) = attributes
            .not_empty("property", self.report)
            .filter(|p| !p.is_missing())
        {
            self.open.hide((property, path.clone()));
        }
        if let Some(service) = &mut self.open.service {
            service.descriptor.logs.push(path);
        } else if let Some(server) = &mut self.open.server {
            server.descriptor.logs.push(path);
        }
        Ok(Closes::Nothing)
    }
}
