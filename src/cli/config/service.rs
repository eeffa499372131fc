//! `omero-grid config service`: the values of a running Blitz, as its users see them.

use clap::Subcommand;

use super::super::context::{Context, strange};
use super::super::failure::{Failure, code};
use super::super::secret::SessionArgs;
use crate::ipc::message::blitz;
use crate::ipc::message::client::{Reply, Request};
use crate::ipc::message::data::ValueAction;

/// What is asked of the configuration service.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Service {
    /// Print a value; nothing if it is not set
    Get {
        /// The key
        key: String,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Print the values that may be seen
    List {
        /// Only keys that contain this
        #[arg(default_value = "", hide_default_value = true)]
        containing: String,
        #[command(flatten)]
        session: SessionArgs,
    },
    /// Set a value in one Blitz, until it ends; only for administrators
    Set {
        /// The key
        key: String,
        /// The value
        value: String,
        /// Only if the value is this now
        #[arg(long, value_name = "VALUE", conflicts_with = "if_unset")]
        if_equals: Option<String>,
        /// Only if there is no value now
        #[arg(long)]
        if_unset: bool,
        #[command(flatten)]
        session: SessionArgs,
    },
}

pub(super) async fn run(context: &Context, service: Service) -> Result<(), Failure> {
    let (action, session) = match service {
        Service::Get { key, session } => (ValueAction::Get { key }, session),
        Service::List {
            containing,
            session,
        } => (ValueAction::List { containing }, session),
        Service::Set {
            key,
            value,
            if_equals,
            if_unset,
            session,
        } => {
            let action = match if_unset || if_equals.is_some() {
                true => ValueAction::SetIf {
                    key,
                    value,
                    expected: if_equals,
                },
                false => ValueAction::Set { key, value },
            };
            (action, session)
        }
    };
    let one = matches!(action, ValueAction::Get { .. });
    let authority = session.authority(context)?;
    let request = Request::Blitz {
        request: Box::new(blitz::Request::Value { action, authority }),
    };
    let Reply::Blitz { reply } = context.grid().await?.call(request).await? else {
        return Err(strange());
    };
    match *reply {
        blitz::Reply::Values { values } if context.is_json() => {
            let values: serde_json::Map<String, serde_json::Value> = values
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect();
            context.json(&values)
        }
        blitz::Reply::Values { values } => {
            for (key, value) in values {
                match value {
                    Some(value) if one => context.say(value)?,
                    Some(value) => context.say(format!("{key}={value}"))?,
                    None => {}
                }
            }
            Ok(())
        }
        blitz::Reply::Changed { changed: true } => context.say("set"),
        blitz::Reply::Changed { changed: false } => Err(Failure::new(
            code::REFUSED,
            "the value is another one; nothing was changed",
        )),
        _ => Err(strange()),
    }
}
