//! `omero-grid redirect` and `route`: where new sessions go, and why.

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::{Context, strange};
use super::failure::Failure;
use crate::ipc::message::client::{RedirectChange, Reply, Request};
use crate::model::ServerId;

/// Arguments of `redirect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RedirectArgs {
    #[command(subcommand)]
    command: Option<RedirectCommand>,
}

#[derive(Debug, Clone, Subcommand)]
enum RedirectCommand {
    /// Send new sessions to this Blitz
    Set {
        /// The Blitz's id, or the UUID of its process
        #[arg(value_name = "ID")]
        to: String,
        /// Only if there is no redirect
        #[arg(long)]
        if_unset: bool,
    },
    /// Take the redirect away; the next Blitz to accept sessions sets it again
    Clear {
        /// Only if it is this one
        #[arg(long = "if", value_name = "ID")]
        if_is: Option<ServerId>,
    },
}

pub(crate) async fn redirect(context: &Context, args: RedirectArgs) -> Result<(), Failure> {
    let grid = context.grid().await?;
    let change = args.command.map(|command| match command {
        RedirectCommand::Set { to, if_unset } => RedirectChange::Set { to, if_unset },
        RedirectCommand::Clear { if_is } => RedirectChange::Clear { if_is },
    });
    let changed = change.is_some();
    if let Some(change) = change {
        grid.call(Request::Redirect { change }).await?;
    }
    let (_, status) = grid.status().await?;
    let redirector = status.redirector;
    if context.is_json() {
        return context.json(&json!({
            "policy": redirector.policy,
            "redirect": redirector.redirect,
        }));
    }
    let to = redirector
        .redirect
        .as_ref()
        .map_or("not set", ServerId::as_str);
    if changed || redirector.policy == "configRedirector" {
        context.say(to)?;
    } else {
        context.say(format!("{to} ({} does not use it)", redirector.policy))?;
        return Ok(());
    }
    if redirector.policy != "configRedirector" {
        let hint = "omero-grid config set omero.cluster.redirector configRedirector";
        context.say(format!(
            "  the redirector is {}, which does not use it: `{hint}`",
            redirector.policy
        ))?;
    }
    Ok(())
}

/// Arguments of `route`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RouteArgs {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum RouteCommand {
    /// List the routing rules in the order in which they are tried
    List,
    /// Say where a session would go, and why; opens none
    Test {
        /// The user
        #[arg(long, value_name = "NAME", default_value = "")]
        user: String,
        /// The group asked for
        #[arg(long, value_name = "NAME", default_value = "")]
        group: String,
        /// What the client calls itself
        #[arg(long, value_name = "TEXT", default_value = "")]
        agent: String,
        /// The client's address
        #[arg(long, value_name = "ADDRESS", default_value = "")]
        client: String,
    },
}

pub(crate) async fn route(context: &Context, args: RouteArgs) -> Result<(), Failure> {
    let grid = context.grid().await?;
    match args.command {
        RouteCommand::List => {
            let routes = grid.status().await?.1.redirector.routes;
            if context.is_json() {
                return context.json(&routes);
            }
            if routes.is_empty() {
                return context.say("no routes; omero.grid.route.1 is the first");
            }
            routes.iter().try_for_each(|route| context.say(route))
        }
        RouteCommand::Test {
            user,
            group,
            agent,
            client,
        } => {
            let request = Request::Route {
                user,
                group,
                agent,
                client,
            };
            let Reply::Route { server, steps } = grid.call(request).await? else {
                return Err(strange());
            };
            if context.is_json() {
                return context.json(&json!({ "server": server, "steps": steps }));
            }
            for step in &steps {
                context.say(format!("  {step}"))?;
            }
            context.say(match server {
                Some(server) => format!("goes to {server}"),
                None => "nobody would take it now".to_owned(),
            })
        }
    }
}
