//! `omero-grid describe`: the expanded deployment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;

use anstyle::Style;
use clap::Args;
use serde::Serialize;

use super::check::{CliError, DescriptorArgs, refuse, show, write_json};
use super::context::Format;
use crate::descriptor::{
    Application, Deployment, Diagnostics, NodeFacts, ObjectInfo, PlacedServer, Resolved,
    ServerDescriptor, command, environment, is_secret, node_stage,
};
use crate::model::{NodeName, ServerId};
use crate::sys::host::Host;

const TITLE: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// Arguments of `describe`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) descriptor: DescriptorArgs,
    /// Show this node only
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Show this server only
    #[arg(long, value_name = "ID")]
    pub(crate) server: Option<String>,
    /// Show too what a node makes of it on this host: final values, configuration files, commands
    #[arg(long)]
    pub(crate) deployed: bool,
    /// With --deployed, take this value instead of the host's own. NAME is node.os, node.hostname, node.release, node.version, node.machine,
    /// node.data, locator, output, env.NAME, or override.NAME for a property of every file (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) assume: Vec<String>,
}

#[derive(Serialize)]
struct Description<'d> {
    application: &'d Application,
    servers: BTreeMap<&'d ServerId, &'d PlacedServer>,
    adapters: &'d BTreeMap<String, Vec<(String, String)>>,
    objects: &'d BTreeMap<String, ObjectInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployed: Option<BTreeMap<&'d ServerId, Deployed<'d>>>,
}

#[derive(Serialize)]
struct Deployed<'d> {
    node: &'d NodeName,
    descriptor: ServerDescriptor,
    config: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dbs: BTreeMap<String, Option<Vec<String>>>,
    command: Vec<String>,
    /// Variables that differ from the node's own.
    environment: BTreeMap<String, String>,
}

/// Describes a descriptor.
pub(crate) fn run(
    args: &DescribeArgs,
    format: Format,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), CliError> {
    let assumed = Assumed::new(args)?;
    let loaded = match args.descriptor.load() {
        Ok(loaded) => loaded,
        Err(diagnostics) => return Err(refuse(&diagnostics, format, out, err)),
    };
    if format == Format::Text {
        show(&Diagnostics(loaded.warnings), err)?;
    }
    let deployment = &loaded.deployment;
    let servers = select(args, deployment)?;
    let mut deployed = args.deployed.then(BTreeMap::new);
    if let Some(deployed) = &mut deployed {
        for (id, placed) in &servers {
            deployed.insert(*id, deploy(placed, deployment, &assumed)?);
        }
    }
    match format {
        Format::Json => {
            let description = Description {
                application: &loaded.definition,
                servers,
                adapters: &deployment.adapters,
                objects: &deployment.objects,
                deployed,
            };
            write_json(out, &description)?;
        }
        Format::Text => text(args, deployment, &servers, deployed.as_ref(), out)?,
    }
    Ok(())
}

fn select<'d>(
    args: &DescribeArgs,
    deployment: &'d Deployment,
) -> Result<BTreeMap<&'d ServerId, &'d PlacedServer>, CliError> {
    let application = &deployment.application;
    if let Some(node) = &args.node
        && !deployment.nodes.keys().any(|n| n.as_str() == node)
    {
        let nodes: Vec<&str> = deployment.nodes.keys().map(NodeName::as_str).collect();
        return Err(CliError::NotThere(format!(
            "application {application} has no node '{node}'; it has {}",
            nodes.join(", ")
        )));
    }
    if let Some(server) = &args.server
        && !deployment.servers.keys().any(|id| id.as_str() == server)
    {
        return Err(CliError::NotThere(format!(
            "application {application} has no server '{server}'"
        )));
    }
    let wanted = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|w| w == name);
    Ok(deployment
        .servers
        .iter()
        .filter(|(id, s)| wanted(&args.server, id.as_str()) && wanted(&args.node, s.node.as_str()))
        .collect())
}

/// What stands in for the node.
struct Assumed {
    facts: NodeFacts,
    environment: BTreeMap<OsString, OsString>,
}

impl Assumed {
    fn new(args: &DescribeArgs) -> Result<Self, CliError> {
        // Without an assumed directory each node has its own.
        let mut facts = NodeFacts::default();
        if args.deployed
            && let Ok(host) = Host::read()
        {
            facts = NodeFacts {
                os: host.os,
                hostname: host.hostname,
                release: host.release,
                version: host.version,
                machine: host.machine,
                ..facts
            };
        }
        facts.as_icegrid = args.descriptor.strict;
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let mut own_environment = true;
        for assumption in &args.assume {
            let Some((key, value)) = assumption.split_once('=') else {
                return Err(CliError::Usage(format!(
                    "--assume {assumption}: it has the form NAME=VALUE"
                )));
            };
            let value = value.to_owned();
            match key {
                "node.os" => facts.os = value,
                "node.hostname" => facts.hostname = value,
                "node.release" => facts.release = value,
                "node.version" => facts.version = value,
                "node.machine" => facts.machine = value,
                "node.data" | "node.datadir" => facts.data_dir = value,
                "locator" => facts.locator = Some(value),
                "output" => facts.output = Some(value),
                _ => match key.split_once('.') {
                    Some(("env", name)) => {
                        // The first assumed variable makes the whole environment an assumed one.
                        if std::mem::take(&mut own_environment) {
                            environment.clear();
                        }
                        environment.insert(name.into(), value.into());
                    }
                    Some(("override", name)) => {
                        facts.properties_override.push((name.to_owned(), value))
                    }
                    _ => {
                        return Err(CliError::Usage(format!(
                            "--assume {key}: nothing of this name can be assumed"
                        )));
                    }
                },
            }
        }
        Ok(Self { facts, environment })
    }
}

fn deploy<'d>(
    placed: &'d PlacedServer,
    deployment: &Deployment,
    assumed: &Assumed,
) -> Result<Deployed<'d>, CliError> {
    let node = &placed.node;
    let mut facts = assumed.facts.clone();
    if facts.data_dir.is_empty() {
        facts.data_dir = format!("var/{node}");
    }
    let Resolved {
        descriptor,
        files,
        dbs,
    } = node_stage(
        &placed.descriptor,
        &deployment.application,
        node.as_str(),
        &facts,
    )
    .map_err(|error| CliError::NotThere(error.to_string()))?;
    let config_path = format!("{}/servers/{}/config/config", facts.data_dir, descriptor.id);
    let environment = environment(&descriptor.envs, &assumed.environment)
        .into_iter()
        .filter(|(name, value)| assumed.environment.get(name) != Some(value))
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    let command = command(&descriptor, &config_path);
    Ok(Deployed {
        node,
        descriptor,
        config: files,
        dbs,
        command,
        environment,
    })
}

fn text(
    args: &DescribeArgs,
    deployment: &Deployment,
    servers: &BTreeMap<&ServerId, &PlacedServer>,
    deployed: Option<&BTreeMap<&ServerId, Deployed<'_>>>,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    writeln!(
        out,
        "application {TITLE}{}{TITLE:#}",
        deployment.application
    )?;
    for group in deployment.replica_groups.values() {
        let members = deployment.adapters.get(&group.id).map_or(0, Vec::len);
        writeln!(
            out,
            "  replica group {}  {FAINT}{:?}, {members} adapters{FAINT:#}",
            group.id, group.load_balancing.policy
        )?;
    }
    for (name, node) in &deployment.nodes {
        if args.node.as_ref().is_some_and(|n| n != name.as_str()) {
            continue;
        }
        let manual = if node.is_manual() {
            "  started by name only"
        } else {
            ""
        };
        writeln!(out, "\nnode {TITLE}{name}{TITLE:#}{FAINT}{manual}{FAINT:#}")?;
        for (id, placed) in servers.iter().filter(|(_, p)| p.node == *name) {
            let deployed = deployed.and_then(|d| d.get(id));
            server(id, &placed.descriptor, deployed, out)?;
        }
    }
    Ok(())
}

fn server(
    id: &ServerId,
    server: &ServerDescriptor,
    deployed: Option<&Deployed<'_>>,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    writeln!(
        out,
        "  server {TITLE}{id}{TITLE:#}  {}",
        server.activation()
    )?;
    let mut line = |name: &str, value: &str| -> std::io::Result<()> {
        if value.is_empty() {
            Ok(())
        } else {
            writeln!(out, "    {FAINT}{name:<12}{FAINT:#} {value}")
        }
    };
    let shown = deployed.map_or(server, |d| &d.descriptor);
    let words: Vec<String> = match deployed {
        Some(deployed) => deployed.command.clone(),
        None => std::iter::once(shown.exe.clone())
            .chain(shown.options.iter().cloned())
            .collect(),
    };
    line("command", &words.join(" "))?;
    line("pwd", &shown.pwd)?;
    line("user", &shown.user)?;
    for env in &shown.envs {
        line("env", env)?;
    }
    for adapter in &shown.adapters {
        line(
            "adapter",
            &format!("{} {}", adapter.id, adapter.replica_group_id),
        )?;
    }
    for service in shown
        .services
        .iter()
        .flatten()
        .filter_map(|s| s.descriptor.as_ref())
    {
        line("service", &format!("{} ({})", service.name, service.entry))?;
    }
    for (name, value) in &shown.property_set.properties {
        let secret = is_secret(name);
        line(
            "property",
            &format!(
                "{name}={}",
                if secret && !value.is_empty() {
                    "***"
                } else {
                    value
                }
            ),
        )?;
    }
    Ok(())
}
