//! What lives without a master: nodes, and servers of nodes that died. Shown by `status`, ended by `stop`.

use std::time::Duration;

use super::context::{Context, within};
use super::failure::{Failure, code};
use crate::ipc::message::node::{Assignment, NodeLink, Request};
use crate::ipc::{Address, Client, Hello, Role, RunDir};
use crate::master::{self, NodeProcess};
use crate::model::{NodeName, ServerId};
use crate::sys::marks;
use crate::sys::process::{PidFd, Table};
use crate::telemetry::chain;

/// What lives without a master.
pub(crate) struct Leftovers {
    /// Nodes that answer, with their pids.
    nodes: Vec<(NodeName, u32)>,
    /// Nodes that do not, although servers of theirs live: each with the ids and pids of those.
    orphans: Vec<(NodeName, Vec<(ServerId, u32)>)>,
}

impl Leftovers {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.orphans.is_empty()
    }

    /// Prints what lives and returns the failure to end with.
    pub(crate) fn describe(&self, context: &Context) -> Result<Failure, Failure> {
        let failure = Failure::new(code::NOT_THERE, "the grid has no master")
            .hint("`omero-grid start` adopts what is alive; `omero-grid stop` ends it");
        if context.is_json() {
            let nodes: Vec<_> = self
                .nodes
                .iter()
                .map(|(name, pid)| serde_json::json!({ "name": name, "pid": pid }))
                .collect();
            let servers: Vec<_> = self
                .orphans
                .iter()
                .flat_map(|(node, servers)| {
                    servers.iter().map(
                        move |(id, pid)| serde_json::json!({ "id": id, "node": node, "pid": pid }),
                    )
                })
                .collect();
            context.json(&serde_json::json!({ "master": null, "alive": { "nodes": nodes, "servers": servers } }))?;
            return Ok(failure);
        }
        for (name, pid) in &self.nodes {
            context.say(format!(
                "node {name} is alive (pid {pid}), and its servers with it"
            ))?;
        }
        for (node, servers) in &self.orphans {
            let list: Vec<_> = servers
                .iter()
                .map(|(id, pid)| format!("{id} (pid {pid})"))
                .collect();
            context.say(format!(
                "node {node} is dead; alive of its servers: {}",
                list.join(", ")
            ))?;
        }
        Ok(failure)
    }
}

/// Finds what lives without a master.
pub(crate) async fn find(context: &Context) -> Result<Leftovers, Failure> {
    let run_dir = RunDir::find(context.paths.state())?;
    let mut found = Leftovers {
        nodes: Vec::new(),
        orphans: Vec::new(),
    };
    let marked = marked(context);
    for name in node_names(context) {
        match connect(&run_dir, &name).await {
            Some((_, pid)) => found.nodes.push((name, pid)),
            None => {
                let servers = context.paths.node(&name).join("servers");
                let mut own: Vec<_> = marked
                    .iter()
                    .filter(|(id, _)| servers.join(id.as_str()).exists())
                    .cloned()
                    .collect();
                own.sort();
                own.dedup_by(|a, b| a.0 == b.0);
                if !own.is_empty() {
                    found.orphans.push((name, own));
                }
            }
        }
    }
    Ok(found)
}

/// Stops what lives without a master. Exit code 3 if nothing does.
pub(crate) async fn stop(context: &Context, limit: Option<Duration>) -> Result<(), Failure> {
    let found = find(context).await?;
    if found.is_empty() {
        return Err(Failure {
            hint: None,
            ..Failure::not_running()
        });
    }
    let run_dir = RunDir::find(context.paths.state())?;
    let bar = context.spinner();
    bar.set_message("stopping what an earlier master left");
    let stopping = async {
        for (name, _) in &found.nodes {
            stop_node(&run_dir, name, false).await?;
        }
        for (name, _) in &found.orphans {
            // A node is what knows how to end servers: it adopts them first.
            start_node(context, name).await?;
            stop_node(&run_dir, name, true).await?;
        }
        Ok::<(), Failure>(())
    };
    let ended = within(limit, stopping).await;
    bar.finish_and_clear();
    ended.ok_or_else(|| Failure::new(code::TIMED_OUT, "not everything has stopped yet"))??;
    let count = found.nodes.len() + found.orphans.len();
    context.say(format!(
        "stopped what an earlier master left: {count} node{}",
        if count == 1 { "" } else { "s" }
    ))
}

async fn connect(run_dir: &RunDir, name: &NodeName) -> Option<(Client<NodeLink>, u32)> {
    let socket = run_dir.socket(Address::Node(name));
    let (client, node, _) = Client::connect(&socket, &Hello::new(Role::Client, "omero-grid"))
        .await
        .ok()?;
    Some((client, node.pid))
}

async fn stop_node(run_dir: &RunDir, name: &NodeName, empty: bool) -> Result<(), Failure> {
    let Some((client, pid)) = connect(run_dir, name).await else {
        return Ok(());
    };
    let process = PidFd::of(pid);
    if empty {
        client
            .call(&Request::Configure(Assignment {
                generation: 1,
                servers: Vec::new(),
                not_ready_elsewhere: Vec::new(),
                settings: Default::default(),
                locator: None,
            }))
            .await?;
    }
    client.call(&Request::Stop).await?;
    client.closed().await;
    if let Some(process) = process {
        let _ = process.ended().await;
    }
    Ok(())
}

/// Starts a node and waits until it listens.
async fn start_node(context: &Context, name: &NodeName) -> Result<(), Failure> {
    match master::start_node(name, &context.paths, |process| process.start()).await {
        // One that has its name already does as well.
        Ok(NodeProcess::Ready { .. } | NodeProcess::NameTaken) => Ok(()),
        Err(error) => Err(Failure::new(
            code::FAILED,
            format!(
                "cannot start node {name}, which is to end its servers: {}",
                chain(&error)
            ),
        )
        .hint(format!("see {}", context.paths.node_log(name).display()))),
    }
}

/// Returns the nodes that ever ran here: those with a directory of servers.
fn node_names(context: &Context) -> Vec<NodeName> {
    let entries = std::fs::read_dir(context.paths.state().join("var"));
    let mut names: Vec<NodeName> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry
                .path()
                .join("servers")
                .is_dir()
                .then(|| entry.file_name().to_str()?.parse().ok())?
        })
        .collect();
    names.sort();
    names
}

/// Returns the living processes with a mark of this grid: server id and pid, oldest first.
fn marked(context: &Context) -> Vec<(ServerId, u32)> {
    let Ok(table) = Table::read() else {
        return Vec::new();
    };
    let mut found: Vec<_> = marks::carriers(&table, context.paths.dir())
        .map(|(stat, mark)| (stat.start_time, mark.server, stat.pid))
        .collect();
    found.sort();
    found.into_iter().map(|(_, id, pid)| (id, pid)).collect()
}
