//! `omero-grid config explain`: where the value of a key comes from, for each server.
//!
//! The chain, weakest first: the default, the active profile of `config.xml`, what the descriptor's property sets and the server itself say
//! in the order of the descriptor, `KEY.KIND` for this kind of server. What runs may have an older value: its
//! properties file says.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::context::Context;
use super::super::failure::{Failure, code};
use super::is_secret;
use crate::config::SiteFiles;
use crate::config::{self, active_profile, keys};
use crate::descriptor::{self, KINDS, Origin};
use crate::ipc::message::client::DescriptorSource;
use crate::model::{NodeName, ServerId};

/// One step of a chain.
struct Step {
    /// What gives the value.
    from: String,
    key: String,
    value: String,
}

/// A server and the steps to its value, the last of which counts.
struct Chain {
    server: ServerId,
    node: NodeName,
    steps: Vec<Step>,
}

pub(super) async fn explain(
    context: &Context,
    key: &str,
    only: Option<&ServerId>,
    show_password: bool,
) -> Result<(), Failure> {
    config::check_name(key).map_err(|error| Failure::new(code::INVALID, error.to_string()))?;
    let dir = context.paths.dir();
    let profile = active_profile(dir)
        .map_err(|error| Failure::new(code::INVALID, crate::telemetry::chain(&error)))?;
    let configured = profile.iter().flatten().rev().find(|(name, _)| name == key);
    let configured = configured.map(|(_, value)| value.clone());
    let mut chains = Vec::new();
    for source in sources(context).await? {
        let mut request = source.request();
        request.profile = profile.clone();
        request.explain = Some(key.to_owned());
        let loaded = descriptor::load(&SiteFiles, &request)
            .map_err(|diagnostics| Failure::new(code::INVALID, diagnostics.to_string()))?;
        for (id, placed) in &loaded.deployment.servers {
            if only.is_none_or(|only| only == id) {
                let origins = loaded.origins.iter().filter(|origin| origin.server == *id);
                chains.push(Chain {
                    server: id.clone(),
                    node: placed.node.clone(),
                    steps: steps(key, id, origins),
                });
            }
        }
    }
    if let Some(only) = only
        && chains.is_empty()
    {
        return Err(
            Failure::new(code::NOT_THERE, format!("there is no server '{only}'"))
                .hint("`omero-grid server list` shows them"),
        );
    }
    let mask = |value: &str| match is_secret(key) && !show_password {
        true => super::MASK.to_owned(),
        false => value.to_owned(),
    };
    let known = keys::lookup(key);
    let default = known
        .map(|known| known.default)
        .filter(|value| !value.is_empty());
    let running = |chain: &Chain| running(context, &chain.node, &chain.server, key);
    if context.is_json() {
        let servers: Vec<_> = chains
            .iter()
            .map(|chain| {
                json!({
                    "server": chain.server,
                    "value": chain.steps.last().map(|step| mask(&step.value)).or(default.map(mask)),
                    "running": running(chain).map(|value| value.as_deref().map(mask)),
                    "chain": chain.steps.iter().map(|step| json!({
                        "from": step.from, "key": step.key, "value": mask(&step.value),
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        return context.json(&json!({
            "key": key,
            "default": default,
            "configured": configured.as_deref().map(mask),
            "live": known.map(|known| known.live),
            "servers": servers,
        }));
    }
    context.say(key)?;
    if let Some(known) = known {
        context.say(format!("  {}", known.about))?;
        let effect = if known.live {
            "a change takes effect at once"
        } else {
            "a change takes effect at the next start of a server"
        };
        context.say(format!("  {}; {effect}", known.kind.words()))?;
    }
    context.say(format!("  default      {}", default.unwrap_or("(nothing)")))?;
    let shown = configured.as_deref().map(mask);
    context.say(format!(
        "  config.xml   {}",
        shown.unwrap_or_else(|| "(not set)".to_owned())
    ))?;
    for chain in &chains {
        context.say(format!("{}", chain.server))?;
        let last = chain.steps.len().wrapping_sub(1);
        for (number, step) in chain.steps.iter().enumerate() {
            let mark = if number == last { "→" } else { " " };
            let name = if step.key == key {
                String::new()
            } else {
                format!("{} = ", step.key)
            };
            context.say(format!("{mark} {name}{}  {}", mask(&step.value), step.from))?;
        }
        if chain.steps.is_empty() {
            context.say(format!("→ {}  default", default.unwrap_or("(nothing)")))?;
        }
        let counts = chain.steps.last().map(|step| step.value.as_str());
        if let Some(runs) = running(chain)
            && runs.as_deref() != counts
            && !known.is_some_and(|known| known.live)
        {
            let runs = runs.as_deref().map_or("(nothing)".to_owned(), mask);
            context.say(format!(
                "  runs with {runs}, from its last start; `omero-grid server {} restart` takes the value above",
                chain.server
            ))?;
        }
    }
    Ok(())
}

/// Orders what a server has: its own kind's values come last, because they count.
fn steps<'o>(key: &str, server: &ServerId, origins: impl Iterator<Item = &'o Origin>) -> Vec<Step> {
    let own = kind(server).map(|kind| format!("{key}.{kind}"));
    let (mut steps, mut of_kind) = (Vec::new(), Vec::new());
    for origin in origins {
        let from = match (&origin.set, &origin.place) {
            (Some(_), None) => "config.xml, laid into property set Profile".to_owned(),
            (Some(set), Some(place)) => format!("property set {set}, {place}"),
            (None, Some(place)) => format!("the server's own, {place}"),
            (None, None) => "the server's own".to_owned(),
        };
        let step = Step {
            from,
            key: origin.name.clone(),
            value: origin.value.clone(),
        };
        if origin.name == key {
            steps.push(step);
        } else if Some(&origin.name) == own.as_ref() {
            of_kind.push(step);
        }
    }
    steps.extend(of_kind);
    steps
}

/// Returns what kind of server this is by its id, as OMERO names them: `Blitz-0`, `PixelData-0`.
fn kind(server: &ServerId) -> Option<&'static str> {
    let name = server.as_str().split('-').next()?.to_ascii_lowercase();
    KINDS.into_iter().find(|kind| *kind == name)
}

/// Returns what a server was started with, from the properties that its node has written for it; `None` if there are none.
fn running(
    context: &Context,
    node: &NodeName,
    server: &ServerId,
    key: &str,
) -> Option<Option<String>> {
    let path = context
        .paths
        .node(node)
        .join("servers")
        .join(server.as_str())
        .join("config/config");
    let text = std::fs::read_to_string(path).ok()?;
    let own = kind(server).map(|kind| format!("{key}.{kind}"));
    let value = |key: &str| {
        let mut lines = text.lines().rev();
        lines.find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim().replace("\\#", "#").replace("\\\\", "\\"))
        })
    };
    Some(own.and_then(|own| value(&own)).or_else(|| value(key)))
}

/// Returns where the descriptors are: those of the running grid, else the one that `start` would take.
async fn sources(context: &Context) -> Result<Vec<DescriptorSource>, Failure> {
    match context.grid().await {
        Ok(grid) => {
            let (_, status) = grid.status().await?;
            let sources = status.applications.into_iter().map(|a| a.source);
            // What came over Ice is not said again.
            Ok(sources.filter(DescriptorSource::is_file).collect())
        }
        Err(failure) if failure.code == code::NOT_THERE => {
            let path = config::site::default_descriptor(context.paths.dir());
            Ok(path.iter().map(|path| source(path)).collect())
        }
        Err(failure) => Err(failure),
    }
}

fn source(path: &Path) -> DescriptorSource {
    DescriptorSource {
        path: PathBuf::from(path),
        ..DescriptorSource::default()
    }
}
