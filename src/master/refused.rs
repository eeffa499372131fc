//! Commands that were refused, as the list of events says it. Logins and questions are no commands.

use super::state::Happening;
use crate::ipc::Refusal;
use crate::ipc::message::blitz;
use crate::ipc::message::client::{DeployMode, NodeAction, RedirectChange, Request, RollAction};
use crate::ipc::message::data::{FileAction, ScriptAction, ValueAction};

/// The longest text of such an event, in characters: what was asked may be of any length.
const MAX_TEXT: usize = 1000;

/// Returns a command in words; `None` if it is no command.
pub(super) fn words(request: &Request) -> Option<String> {
    Some(match request {
        Request::Deploy { dry_run: true, .. } => return None,
        Request::Deploy { source, mode, .. } => {
            let how = match mode {
                DeployMode::Careful => "",
                DeployMode::Now => " --now",
                DeployMode::Rolling => " --rolling",
                DeployMode::WithoutRestart => " --no-restart",
            };
            format!("deploy {}{how}", source.shown)
        }
        Request::Reload { .. } => "reload".to_owned(),
        Request::Node { node, action } => {
            let action = match action {
                NodeAction::Start => "start",
                NodeAction::Stop => "stop",
                NodeAction::Restart => "restart",
            };
            format!("node {node} {action}")
        }
        Request::Server { server, action, .. } => {
            use crate::ipc::message::client::ServerAction::{Act, Disable, Enable};
            use crate::ipc::message::node::Action::{Restart, Signal, Start, Stop, TakeUp};
            let action = match action {
                Act { action: Start } => "start",
                Act { action: Stop } => "stop",
                Act { action: TakeUp } => "take-up",
                Act { action: Restart } => "restart",
                Act {
                    action: Signal { .. },
                } => "signal",
                Enable => "enable",
                Disable => "disable",
            };
            format!("server {server} {action}")
        }
        Request::Stop => "stop".to_owned(),
        Request::Upgrade { binary } => format!("upgrade --binary {}", binary.display()),
        Request::Redirect { change } => match change {
            RedirectChange::Set { to, .. } => format!("redirect set {to}"),
            RedirectChange::Clear { .. } => "redirect clear".to_owned(),
        },
        Request::Drain { drain } if drain.plan => return None,
        Request::Drain { drain } => format!("drain {}", drain.names.join(" ")),
        Request::Undrain { names, .. } => format!("undrain {}", names.join(" ")),
        Request::Roll { action } => match action {
            RollAction::Start { names, .. } => format!("restart --rolling {}", names.join(" ")),
            RollAction::Continue => "restart --rolling --continue".to_owned(),
            RollAction::Abort => "restart --rolling --abort".to_owned(),
        },
        Request::MoveSession { to, .. } => format!("session move to {to}"),
        Request::CloseUser { user, .. } => format!("session close --user {user}"),
        Request::Blitz { request } => match &**request {
            blitz::Request::AddUser { name, .. } => format!("user add {name}"),
            blitz::Request::SetPassword { name, .. } => format!("user passwd {name}"),
            blitz::Request::File { action, .. } => match action {
                FileAction::Import { name, .. } => format!("file import {name}"),
                FileAction::Delete { id } => format!("file delete {id}"),
                _ => return None,
            },
            blitz::Request::Script {
                action: ScriptAction::Run { path, .. },
                ..
            } => format!("script run {path}"),
            blitz::Request::Value {
                action: ValueAction::Set { key, .. } | ValueAction::SetIf { key, .. },
                ..
            } => format!("config service set {key}"),
            _ => return None,
        },
        Request::Status { .. }
        | Request::CreateSession { .. }
        | Request::JoinSession { .. }
        | Request::ListSessions { .. }
        | Request::KeepAlive { .. }
        | Request::CloseSession { .. }
        | Request::Events { .. }
        | Request::Outlook { .. }
        | Request::Route { .. } => return None,
    })
}

/// Makes the note of it.
pub(super) fn happening(uid: u32, words: &str, refusal: &Refusal) -> Happening {
    let text = format!("{}: {}", words.trim_end(), refusal.message);
    Happening {
        uid: Some(uid),
        kind: "refused",
        subject: String::new(),
        text: text.chars().take(MAX_TEXT).collect(),
    }
}
