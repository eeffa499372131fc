//! Descriptors: loaded, or refused with a reason.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use omero_grid::descriptor::{Deployment, NodeFacts, Request, load, node_stage};

const DEFAULT: &[u8] = include_bytes!("../../descriptors/default.xml");
const TEMPLATES: &[u8] = include_bytes!("../../descriptors/templates.xml");

fuzz_target!(|data: &[u8]| {
    let Some((first, text)) = data.split_first() else {
        return;
    };
    let (default, templates) = match first & 1 {
        0 => (text, TEMPLATES),
        _ => (DEFAULT, text),
    };
    let files: BTreeMap<PathBuf, Vec<u8>> =
        [("default.xml", default), ("templates.xml", templates)]
            .into_iter()
            .map(|(name, text)| (PathBuf::from(name), text.to_vec()))
            .collect();
    let request = Request {
        file: PathBuf::from("default.xml"),
        strict: first & 2 != 0,
        ..Request::default()
    };
    match load(&files, &request) {
        Ok(loaded) => {
            let stored = serde_json::to_string(&loaded.deployment).expect("it is stored");
            let again: Deployment = serde_json::from_str(&stored).expect("it is read");
            assert_eq!(again, loaded.deployment);
            for (id, server) in &loaded.deployment.servers {
                let facts = NodeFacts::default();
                let _ = (id, node_stage(&server.descriptor, "A", "n", &facts));
            }
        }
        Err(diagnostics) => {
            assert!(diagnostics.errors().count() > 0);
            for diagnostic in &diagnostics.0 {
                assert!(!diagnostic.to_string().is_empty());
            }
        }
    }
});
