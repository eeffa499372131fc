//! Descriptors through Slice: ours and recorded ones come back as they were, over bytes; recorded ones hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use omero_grid::descriptor::{
    Application, DefaultTemplates, Disk, Request, expand_application, load as load_descriptor,
};
use omero_grid::ice::{
    Decode, Encapsulation, Encode, Encoding, Format, Message, Objects, Outcome, Writer,
};
use omero_grid::icegrid::descriptors::{
    application_from_slice, application_to_slice, difference, update_application,
};
use omero_grid::icegrid::types::*;
use serde_json::Value;

use crate::descriptor::{cases, read_json, strings};
use crate::ice::{MAX, each, text};

/// Sends a value, and returns what arrives.
fn sent<T>(value: &T, objects: Objects) -> (T, Objects)
where
    T: Encode + for<'a> Decode<'a>,
{
    let mut writer = Writer::new(Encoding::V11);
    writer.with_classes(value, &Arc::new(objects), Format::Compact);
    let bytes = writer.into_bytes();
    let within = Encapsulation {
        version: [1, 1],
        bytes: &bytes,
    };
    within.decode_with(DESCRIPTORS).unwrap()
}

fn comes_back(application: &Application, place: &str) {
    let mut objects = Objects::default();
    let descriptor = application_to_slice(application, &mut objects);
    let (descriptor, objects) = sent(&descriptor, objects);
    let back = application_from_slice(&descriptor, &objects);
    let back = back.unwrap_or_else(|error| panic!("{place}: {error}"));
    assert_eq!(back, *application, "{place}");
}

/// Returns the request of a recorded case for its descriptor or the update of it.
fn request(case: &Path, args: &Value, file: &str) -> Request {
    let variables = args["variables"].as_object().into_iter().flatten();
    let templates = args["default_templates"].as_str();
    Request {
        file: case.join(file),
        targets: strings(&args["targets"]),
        overrides: variables
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect(),
        default_templates: templates.map(|templates| DefaultTemplates::File(case.join(templates))),
        ..Request::default()
    }
}

/// Lists in an order that does not depend on what came first.
fn sorted(mut application: Application) -> Application {
    application
        .replica_groups
        .sort_by_key(|group| format!("{group:?}"));
    for node in application.nodes.values_mut() {
        node.server_instances
            .sort_by_key(|instance| format!("{instance:?}"));
        node.servers.sort_by_key(|server| format!("{server:?}"));
    }
    application
}

fn updates(old: &Application, new: &Application, place: &str) {
    let mut objects = Objects::default();
    let update = difference(old, new, &mut objects);
    let (update, objects) = sent(&update, objects);
    let after = update_application(old, &update, &objects);
    let after = after.unwrap_or_else(|error| panic!("{place}: {error}"));
    assert_eq!(sorted(after), sorted(new.clone()), "{place}");
}

#[test]
fn every_descriptor_comes_back_over_bytes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("descriptors");
    let files = root.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<(PathBuf, Application)> = Vec::new();
    for file in files.filter(|file| file.extension().is_some_and(|e| e == "xml")) {
        let request = Request {
            file: file.clone(),
            ..Request::default()
        };
        // What is only included by others is no application.
        if let Ok(loaded) = load_descriptor(&Disk, &request) {
            all.push((file, loaded.definition));
        }
    }
    assert!(!all.is_empty());
    let mut pairs = 0;
    for case in cases() {
        let args = read_json(&case.join("args.json"));
        let of = |file: &Value| {
            let request = request(&case, &args, file.as_str()?);
            Some(load_descriptor(&Disk, &request).ok()?.definition)
        };
        let (first, second) = (of(&args["file"]), of(&args["update"]));
        // An update keeps the name of what it updates.
        if let (Some(first), Some(second)) = (&first, &second)
            && first.name == second.name
        {
            let place = case.display().to_string();
            updates(first, second, &place);
            updates(second, first, &place);
            pairs += 1;
        }
        all.extend(first.map(|application| (case.clone(), application)));
        all.extend(second.map(|application| (case.clone(), application)));
    }
    for (file, application) in &all {
        comes_back(application, &file.display().to_string());
    }
    for (file, new) in &all {
        // An update keeps the name of what it updates.
        let mut other = all[0].1.clone();
        other.name.clone_from(&new.name);
        updates(&other, new, &file.display().to_string());
        updates(new, &other, &file.display().to_string());
    }
    println!("{} applications, {pairs} updates", all.len());
}

fn decoded<T: for<'a> Decode<'a>>(within: &Encapsulation<'_>) -> (T, Objects) {
    within.decode_with(DESCRIPTORS).unwrap()
}

#[test]
fn recorded_applications_hold_and_are_written_to_the_byte() {
    let mut count = 0;
    let all = each(|bytes, known, place| {
        let (message, _) = Message::decode(bytes, MAX).unwrap();
        let (within, operation) = match &message {
            Message::Request(request) => (request.params, text(known, "op").to_owned()),
            Message::Reply(reply) => match &reply.outcome {
                Outcome::Done(within) => (*within, format!("{}'s result", text(known, "op"))),
                _ => return,
            },
            _ => return,
        };
        let application = |descriptor: &ApplicationDescriptor, objects: &Objects| {
            let application = application_from_slice(descriptor, objects)
                .unwrap_or_else(|error| panic!("{place}: {error}"));
            comes_back(&application, place);
            expand_application(application.clone(), &Disk, &Request::default())
                .unwrap_or_else(|error| panic!("{place}: {error}"));
            let mut objects = Objects::default();
            (application_to_slice(&application, &mut objects), objects)
        };
        let written = match operation.as_str() {
            "addApplication"
            | "syncApplication"
            | "syncApplicationWithoutRestart"
            | "getDefaultApplicationDescriptor's result" => {
                let (descriptor, objects) = decoded::<ApplicationDescriptor>(&within);
                let (descriptor, objects) = application(&descriptor, &objects);
                let mut writer = Writer::new(Encoding::V11);
                writer.with_classes(&descriptor, &Arc::new(objects), Format::Compact);
                writer.into_bytes()
            }
            "getApplicationInfo's result" => {
                let (mut info, objects) = decoded::<ApplicationInfo>(&within);
                let (descriptor, objects) = application(&info.descriptor, &objects);
                info.descriptor = descriptor;
                let mut writer = Writer::new(Encoding::V11);
                writer.with_classes(&info, &Arc::new(objects), Format::Compact);
                writer.into_bytes()
            }
            "applicationInit" => {
                let (infos, objects) = decoded::<(i32, Vec<ApplicationInfo>)>(&within);
                for info in &infos.1 {
                    application(&info.descriptor, &objects);
                    count += 1;
                }
                return;
            }
            _ => return,
        };
        assert_eq!(written.len(), within.bytes.len(), "{place}");
        // Dictionaries may come in any order, so the bytes are the same but for that.
        let sum = |bytes: &[u8]| bytes.iter().map(|b| usize::from(*b)).sum::<usize>();
        assert_eq!(sum(&written), sum(within.bytes), "{place}");
        count += 1;
    });
    assert!(all == 0 || count > 1, "{count} applications");
    println!("{count} applications");
}
