//! `omero-grid jvmcfg`: the options that OMERO's Java servers are given.

use serde_json::json;

use super::context::Context;
use super::failure::{Failure, code};
use super::status::plain_table;
use crate::config::site;
use crate::telemetry::chain;

pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let all = site::jvm_options(context.paths.dir())
        .map_err(|error| Failure::new(code::INVALID, chain(&error)))?;
    if context.is_json() {
        let all: serde_json::Map<_, _> = all
            .into_iter()
            .map(|jvm| (jvm.kind, json!(jvm.options)))
            .collect();
        return context.json(&all);
    }
    let mut table = plain_table(&["KIND", "OPTIONS"]);
    for jvm in all {
        table.add_row([jvm.kind, jvm.options.join(" ")]);
    }
    context.table(&table)
}
