//! Names: those that reading a file has checked already, and those that servers get.

use super::{Context, Expander, Options, Others};
use crate::descriptor::application::{Application, ServerInstanceDescriptor};
use crate::descriptor::diagnostic::{Fault, Report};
use crate::descriptor::parse::Gaps;
use crate::descriptor::source::Disk;
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::types::ServerDescriptor;
use crate::descriptor::variables::{Budget, Scope, is_reserved};

/// Checks what is checked at its place where an application is read from a file: that names are there, and not reserved.
pub(in crate::descriptor) fn check_names(application: &Application, report: &mut Report) {
    let mut missing = |what: &str| {
        let message = format!("{what} has no name");
        report.error(Fault::new(Pos::NONE, message.clone()).registry(message));
    };
    if application.name.is_empty() {
        missing("the application");
    }
    if application.nodes.contains_key("") {
        missing("a node");
    }
    let sets = application.nodes.values().map(|node| &node.property_sets);
    let mut sets = sets.chain([&application.property_sets]);
    if sets.any(|sets| sets.contains_key("")) {
        missing("a property set");
    }
    let empty = application.server_templates.contains_key("")
        || application.service_templates.contains_key("");
    if empty {
        missing("a template");
    }
    let mut reserved = |owner: &str, what: &str, names: &mut dyn Iterator<Item = &String>| {
        for name in names.filter(|name| name.is_empty() || is_reserved(name)) {
            let fault = if name.is_empty() {
                format!("{owner}:\ninvalid {what} `': empty name")
            } else {
                format!("{owner}:\ninvalid {what} `{name}': reserved variable name")
            };
            let message = if name.is_empty() {
                format!("a {what} of {} has no name", owner.replace('`', "'"))
            } else {
                format!("'{name}' is a reserved name; a {what} cannot have it")
            };
            report.error(Fault::new(Pos::NONE, message).registry(fault));
        }
    };
    let owner = format!("application `{}'", application.name);
    reserved(&owner, "variable", &mut application.variables.keys());
    for (name, node) in &application.nodes {
        let owner = format!("node `{name}'");
        reserved(&owner, "variable", &mut node.variables.keys());
    }
    for (id, template) in &application.server_templates {
        let owner = format!("server template `{id}'");
        reserved(&owner, "parameter", &mut template.parameters.iter());
    }
    for (id, template) in &application.service_templates {
        let owner = format!("service template `{id}'");
        reserved(&owner, "parameter", &mut template.parameters.iter());
    }
}

/// Returns the id of the server that an instance on this node makes; `None` if it cannot be told.
pub fn instance_id(
    application: &Application,
    node: &str,
    instance: &ServerInstanceDescriptor,
) -> Option<String> {
    with(application, node, |expander, context| {
        let templates = &application.server_templates;
        let template = expander.find_template(&instance.template, templates, "server")?;
        let given = &instance.parameter_values;
        let at = Pos::NONE;
        let parameters = expander.parameters(&instance.template, given, template, at, context)?;
        let scope = Scope {
            parameters: Some(&parameters),
            ..context.scope
        };
        id(scope, &template.descriptor.id)
    })
}

/// Returns the id of a server that stands in this node itself; `None` if it cannot be told.
pub fn server_id(
    application: &Application,
    node: &str,
    server: &ServerDescriptor<Text>,
) -> Option<String> {
    with(application, node, |_, context| {
        id(context.scope, &server.id)
    })
}

fn id(scope: Scope<'_>, text: &Text) -> Option<String> {
    let id = scope.expand_id(text.as_str()).ok()?;
    Some(id).filter(|id| !id.is_empty())
}

/// Does something in the scope of a node; what is wrong with it is found by whoever expands the application.
fn with<T>(
    application: &Application,
    node: &str,
    work: impl FnOnce(&mut Expander<'_>, &Context<'_>) -> Option<T>,
) -> Option<T> {
    let found = application.nodes.get(node)?;
    let (others, gaps, budget) = (Others::default(), Gaps::default(), Budget::default());
    let mut report = Report::default();
    let options = Options {
        others: &others,
        strict: false,
        explain: None,
    };
    let mut expander = Expander::new(application, &Disk, &options, &gaps, &mut report, &budget);
    let context = Context {
        scope: Scope {
            node: Some((node, &found.variables)),
            ..expander.app_scope()
        },
        who: "",
        instance: None,
    };
    work(&mut expander, &context)
}
