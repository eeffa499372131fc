//! `omero-grid node NAME start|stop|restart|status|drain`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::context::Context;
use super::drain::DrainOptions;
use super::failure::{Failure, code};
use super::{drain, start, status};
use crate::ipc::message::client::{GridStatus, NodeAction, NodeStatus, Request};
use crate::model::{NodeName, NodeState};

/// Arguments of `node`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "omero-grid node NAME start|stop|restart|status [--wait SECS]\n       omero-grid node NAME drain [--then stop|restart] [--deadline SECS] [--live SECS] [--plan] [--force] [--no-wait]"
)]
pub(crate) struct NodeArgs {
    /// The node's name
    name: String,
    /// start, stop, restart, status or drain; may also come first
    action: String,
    /// How long to wait until it is done, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    wait: u64,
    #[command(flatten)]
    drain: DrainOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verb {
    Start,
    Stop,
    Restart,
    Status,
    Drain,
}

/// Sorts two words into name and verb, whichever comes first; the name wins where both are verbs.
pub(crate) fn name_and_verb<V: ValueEnum>(
    what: &str,
    first: &str,
    second: &str,
) -> Result<(String, V), Failure> {
    let verb = |word: &str| V::from_str(word, false).ok();
    match (verb(second), verb(first)) {
        (Some(verb), _) => Ok((first.to_owned(), verb)),
        (None, Some(verb)) => Ok((second.to_owned(), verb)),
        (None, None) => {
            let verbs: Vec<_> = V::value_variants()
                .iter()
                .filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned()))
                .collect();
            Err(Failure::new(
                code::USAGE,
                format!(
                    "'{second}' is nothing to do with a {what}; choose one of {}",
                    verbs.join(", ")
                ),
            ))
        }
    }
}

pub(crate) async fn run(context: &Context, args: NodeArgs) -> Result<(), Failure> {
    let (name, verb) = name_and_verb::<Verb>("node", &args.name, &args.action)?;
    let name: NodeName = name
        .parse()
        .map_err(|e: crate::model::InvalidName| Failure::new(code::NOT_THERE, e.to_string()))?;
    if verb == Verb::Drain {
        return drain::run(context, vec![name.to_string()], true, &args.drain).await;
    }
    if args.drain.is_given() {
        return Err(Failure::new(
            code::USAGE,
            "--then, --deadline, --live, --plan, --force and --no-wait belong to drain",
        ));
    }
    let grid = context.grid().await?;
    let action = match verb {
        Verb::Start => NodeAction::Start,
        Verb::Stop => NodeAction::Stop,
        Verb::Restart => NodeAction::Restart,
        Verb::Status | Verb::Drain => return show(context, &grid.status().await?.1, &name),
    };
    let before = grid
        .status()
        .await?
        .1
        .nodes
        .into_iter()
        .find(|node| node.name == name)
        .and_then(|node| node.pid);
    grid.call(Request::Node {
        node: name.clone(),
        action,
    })
    .await?;
    let limit = Duration::from_secs(args.wait);
    let bar = context.spinner();
    let mut last = None;
    let done = grid
        .watch(Some(limit), |status| {
            let node = status.nodes.iter().find(|node| node.name == name)?;
            last = Some(node.clone());
            let left = start::pending_on(node);
            bar.set_message(format!(
                "node {name} is {}; {} to go",
                node.state,
                left.len()
            ));
            match verb {
                Verb::Start | Verb::Status | Verb::Drain => {
                    node.state == NodeState::Up && left.is_empty()
                }
                Verb::Stop => node.state == NodeState::Down,
                Verb::Restart => {
                    node.state == NodeState::Up && node.pid != before && left.is_empty()
                }
            }
            .then_some(())
        })
        .await;
    bar.finish_and_clear();
    let last = last.ok_or_else(|| no_such_node(&name))?;
    if done?.is_some() {
        if context.is_json() {
            return context.json(&status::node_document(&last));
        }
        return context.say(match verb {
            Verb::Stop => format!("node {name} has stopped"),
            _ => format!(
                "node {name} is up: {} active",
                start::count(status::active(&last), "server")
            ),
        });
    }
    let mut lines = vec![format!(
        "node {name} is {} after {} s",
        last.state, args.wait
    )];
    lines.extend(last.reason.iter().cloned());
    lines.extend(start::pending_on(&last).into_iter().flat_map(status::why));
    Err(Failure::new(code::TIMED_OUT, lines.join("\n  "))
        .hint("it goes on; `omero-grid status --watch` shows how"))
}

fn show(context: &Context, status: &GridStatus, name: &NodeName) -> Result<(), Failure> {
    let node: &NodeStatus = status
        .nodes
        .iter()
        .find(|node| node.name == *name)
        .ok_or_else(|| no_such_node(name))?;
    if context.is_json() {
        return context.json(&status::node_document(node));
    }
    context.say(status::node_page(node).trim_end())
}

fn no_such_node(name: &NodeName) -> Failure {
    Failure::new(code::NOT_THERE, format!("there is no node '{name}'"))
        .hint("`omero-grid status` shows them")
}
