//! `application …` and templates: what is deployed.

use std::path::PathBuf;
use std::sync::Arc;

use super::describe;
use super::diff;
use super::fault::CommandError;
use super::output::Output;
use super::run::{Console, Result, list};
use crate::descriptor::{
    self, Application, DefaultTemplates, Diagnostic, Disk, NO_DEFAULT_TEMPLATES, Request,
};
use crate::ice::{Mode, Objects};
use crate::icegrid::client::{Admin, Fault, Raised};
use crate::icegrid::descriptors::{application_from_slice, application_to_slice};
use crate::icegrid::types::*;
use crate::telemetry::chain;

/// What stands behind `application add` and its like.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    /// The option of the command was given.
    option: bool,
    words: Vec<String>,
}

fn arguments(given: &[String], short: &str, long: &str, command: &str) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    for word in given {
        if word == short || word == long {
            arguments.option = true;
        } else if word.starts_with('-') && word.len() > 1 {
            return Err(CommandError::new(format!("invalid option: `{word}'")));
        } else {
            arguments.words.push(word.clone());
        }
    }
    if arguments.words.is_empty() {
        return Err(CommandError::new(format!(
            "`{command}' requires at least one argument\n(`{command} help' for more info)"
        )));
    }
    Ok(arguments)
}

/// Returns what to load for a file, targets and variables.
fn request(words: &[String]) -> Request {
    let (overrides, targets): (Vec<_>, Vec<_>) = words
        .iter()
        .skip(1)
        .cloned()
        .partition(|word| word.contains('='));
    let overrides = overrides.iter().filter_map(|word| word.split_once('='));
    Request {
        file: PathBuf::from(words.first().map_or("", String::as_str)),
        targets,
        overrides: overrides
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ..Request::default()
    }
}

/// Reads a descriptor: what it defines is sent, what it means is judged by the registry, which has the templates that it may take in.
async fn definition(admin: &Admin, words: &[String]) -> Result<Application> {
    let mut request = request(words);
    let faults = match descriptor::define(&Disk, &request) {
        Ok(application) => return Ok(application),
        Err(faults) => faults,
    };
    let wants_defaults = |fault: &Diagnostic| {
        let icegrid = fault.icegrid.as_ref();
        icegrid.is_some_and(|fault| fault.reason == NO_DEFAULT_TEMPLATES)
    };
    if !faults.errors().any(wants_defaults) {
        return Err(faults.into());
    }
    let (defaults, objects): (ApplicationDescriptor, _) = admin
        .call_for_classes(
            "getDefaultApplicationDescriptor",
            Mode::Nonmutating,
            (),
            DESCRIPTORS,
        )
        .await?;
    let defaults = application_from_slice(&defaults, &objects)
        .map_err(|error| CommandError::new(chain(&error)))?;
    request.default_templates = Some(DefaultTemplates::Given(Box::new(defaults)));
    Ok(descriptor::define(&Disk, &request)?)
}

fn sliced(application: &Application) -> (ApplicationDescriptor, Arc<Objects>) {
    let mut objects = Objects::default();
    let descriptor = application_to_slice(application, &mut objects);
    (descriptor, Arc::new(objects))
}

/// Fetches an application as it is deployed.
async fn info(admin: &Admin, name: &str) -> Result<(ApplicationInfo, Objects)> {
    Ok(admin
        .call_for_classes(
            "getApplicationInfo",
            Mode::Nonmutating,
            (name,),
            DESCRIPTORS,
        )
        .await?)
}

pub(super) async fn add(admin: &Admin, given: &[String]) -> Result<()> {
    let arguments = arguments(given, "-n", "--no-patch", "application add")?;
    let application = definition(admin, &arguments.words).await?;
    let (descriptor, objects) = sliced(&application);
    admin
        .call_with_classes::<()>("addApplication", &descriptor, &objects)
        .await?;
    if arguments.option {
        return Ok(());
    }
    let params = (application.name.as_str(), true);
    match admin
        .call::<()>("patchApplication", Mode::Normal, params)
        .await
    {
        // Nothing to fetch is no fault of what was added.
        Ok(()) | Err(Fault::Raised(Raised::Patch(_))) => Ok(()),
        Err(fault) => Err(fault.into()),
    }
}

pub(super) async fn update(admin: &Admin, given: &[String]) -> Result<()> {
    let arguments = arguments(given, "-n", "--no-restart", "application update")?;
    let (descriptor, objects) = sliced(&definition(admin, &arguments.words).await?);
    let operation = match arguments.option {
        true => "syncApplicationWithoutRestart",
        false => "syncApplication",
    };
    Ok(admin
        .call_with_classes(operation, &descriptor, &objects)
        .await?)
}

pub(super) async fn diff(admin: &Admin, console: &mut Console<'_>, given: &[String]) -> Result<()> {
    let arguments = arguments(given, "-s", "--servers", "application diff")?;
    let application = definition(admin, &arguments.words).await?;
    let (old, old_objects) = info(admin, &application.name).await?;
    let mut out = Output::default();
    if arguments.option {
        diff::servers(&mut out, &old.descriptor, &old_objects, application)?;
    } else {
        let (new, new_objects) = sliced(&application);
        diff::application(
            &mut out,
            (&old.descriptor, &old_objects),
            (&new, &new_objects),
        );
    }
    console.print(&out.end())
}

pub(super) async fn remove(admin: &Admin, name: &str) -> Result<()> {
    Ok(admin
        .call("removeApplication", Mode::Normal, (name,))
        .await?)
}

pub(super) async fn describe(admin: &Admin, console: &mut Console<'_>, name: &str) -> Result<()> {
    let (info, objects) = info(admin, name).await?;
    let mut out = Output::default();
    describe::application(&mut out, &info, &objects);
    console.print(&out.end())
}

/// Fetches files anew, of an application or of a server.
pub(super) async fn patch(
    admin: &Admin,
    given: &[String],
    operation: &str,
    command: &str,
) -> Result<()> {
    let arguments = arguments(given, "-f", "--force", command)?;
    let [name] = arguments.words.as_slice() else {
        return Err(CommandError::new(format!(
            "`{command}' requires exactly one argument\n(`{command} help' for more info)"
        )));
    };
    Ok(admin
        .call(operation, Mode::Normal, (name.as_str(), arguments.option))
        .await?)
}

pub(super) async fn list_all(admin: &Admin, console: &mut Console<'_>) -> Result<()> {
    let names: Vec<String> = admin
        .call("getAllApplicationNames", Mode::Nonmutating, ())
        .await?;
    list(console, names)
}

pub(super) async fn describe_template(
    admin: &Admin,
    console: &mut Console<'_>,
    kind: &str,
    application: &str,
    id: &str,
) -> Result<()> {
    let (info, objects) = info(admin, application).await?;
    let templates = match kind {
        "server" => &info.descriptor.server_templates,
        _ => &info.descriptor.service_templates,
    };
    let template = templates
        .get(id)
        .ok_or_else(|| CommandError::no_template(kind, id))?;
    let mut out = Output::default();
    describe::template(&mut out, kind, id, template, &objects);
    console.print(&out.end())
}

pub(super) async fn instantiate(admin: &Admin, given: &[String]) -> Result<()> {
    let [application, node, template, values @ ..] = given else {
        return Ok(());
    };
    let values = values.iter().filter_map(|value| value.split_once('='));
    let instance = ServerInstanceDescriptor {
        template: template.clone(),
        parameter_values: values
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        property_set: PropertySetDescriptor::default(),
        service_property_sets: PropertySets::default(),
    };
    let params = (application.as_str(), node.as_str(), instance);
    Ok(admin
        .call("instantiateServer", Mode::Normal, params)
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_a_file_targets_and_variables() {
        let words = ["-n", "f.xml", "t1", "a=b=c", "t2"].map(str::to_owned);
        let arguments = arguments(&words, "-n", "--no-patch", "application add").unwrap();
        assert!(arguments.option);
        let request = request(&arguments.words);
        assert_eq!(request.file, PathBuf::from("f.xml"));
        assert_eq!(request.targets, ["t1", "t2"]);
        assert_eq!(request.overrides, [("a".to_owned(), "b=c".to_owned())]);
    }

    #[test]
    fn other_options_and_nothing_are_refused() {
        let refused = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            arguments(&words, "-n", "--no-patch", "application add")
                .unwrap_err()
                .0
        };
        assert_eq!(refused(&["-x", "f"]), "invalid option: `-x'");
        assert!(refused(&["-n"]).contains("requires at least one argument"));
    }
}
