//! Applications: as they are described, added, changed and removed over Ice.

use std::sync::Arc;

use nix::unistd::geteuid;

use super::admin::Admin;
use super::descriptors::{
    DescriptorError, application_from_slice, application_to_slice, instantiate_server,
    server_to_slice, update_application,
};
use super::face::Grid;
use super::operation::{Outcome, Raised, WithObjects, failed, later, now, params, params_with};
use super::types::{
    AccessDeniedException, ApplicationDescriptor, ApplicationInfo, ApplicationNotExistException,
    ApplicationUpdateDescriptor, DESCRIPTORS, DeploymentException, ServerInfo,
    ServerInstanceDescriptor, ServerNotExistException,
};
use crate::descriptor::{self, Application, Disk, NO_DEFAULT_TEMPLATES};
use crate::ice::net::{Incoming, Responder, Served};
use crate::ice::{Missing, Objects};
use crate::ipc::message::client::DeployMode;
use crate::ipc::{Refusal, RefusalKind};
use crate::master::{Deployed, Edit, Edition};
use crate::model::ServerId;

/// Carries out an operation that has to do with descriptors.
pub(super) fn dispatch(
    admin: &Admin,
    operation: &str,
    incoming: &Incoming<'_>,
    responder: Responder<'_>,
) -> Served {
    let grid = admin.grid.clone();
    let restarting = DeployMode::Careful;
    let edit = match operation {
        "addApplication" => {
            described(incoming).map(|new| (new.name.clone(), Edit::Add(new), restarting))
        }
        "syncApplication" => {
            described(incoming).map(|new| (new.name.clone(), Edit::Replace(new), restarting))
        }
        "syncApplicationWithoutRestart" => described(incoming).map(|new| {
            (
                new.name.clone(),
                Edit::Replace(new),
                DeployMode::WithoutRestart,
            )
        }),
        "updateApplication" => update(incoming).map(|(name, edit)| (name, edit, restarting)),
        "updateApplicationWithoutRestart" => {
            update(incoming).map(|(name, edit)| (name, edit, DeployMode::WithoutRestart))
        }
        "removeApplication" => {
            params::<String>(incoming).map(|name| (name, Edit::Remove, restarting))
        }
        "instantiateServer" => instance(incoming).map(|(name, edit)| (name, edit, restarting)),
        "getAllApplicationNames" => {
            let status = grid.handle.status();
            let names = status.applications.iter().map(|a| a.name.clone());
            let mut names: Vec<String> = names.collect();
            names.sort();
            return now(responder, Ok(names));
        }
        "getApplicationInfo" => {
            return match params::<String>(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok(name) => later(responder, async move { info(&grid, name).await }),
            };
        }
        "getServerInfo" => {
            return match params::<String>(incoming) {
                Err(raised) => now::<()>(responder, Err(raised)),
                Ok(id) => later(responder, async move { server(&grid, id).await }),
            };
        }
        "patchApplication" => {
            // There is nothing to distribute: its files are where they are.
            let patched = params::<(&str, bool)>(incoming).and_then(|(name, _)| {
                let status = grid.handle.status();
                let mut names = status.applications.iter().map(|a| a.name.as_str());
                match names.any(|other| other == name) {
                    true => Ok(()),
                    false => Err(not_there(name)),
                }
            });
            return now(responder, patched);
        }
        "getDefaultApplicationDescriptor" => {
            return later(responder, async move { default_templates(&grid).await });
        }
        _ => return responder.missing(Missing::Operation),
    };
    let (name, edit, mode) = match edit {
        Ok(edit) => edit,
        Err(raised) => return now::<()>(responder, Err(raised)),
    };
    if let Some(lock_user_id) = grid.sessions.locked_by_other(&admin.session) {
        return now::<()>(
            responder,
            Err(AccessDeniedException { lock_user_id }.into()),
        );
    }
    let edition = Edition {
        name: name.clone(),
        edit,
        mode,
        by: admin.user.clone(),
        uid: geteuid().as_raw(),
    };
    later(responder, async move {
        let edited = grid.handle.edit(edition).await;
        edited.map_err(|refusal| refused(&name, &refusal))?;
        grid.nodes_run().await;
        grid.told().await;
        Ok(())
    })
}

/// Reads what applications take in that want default templates: tools put it into the descriptors that they send.
async fn default_templates(grid: &Grid) -> Outcome<WithObjects<ApplicationDescriptor>> {
    let refuse = |reason: String| Raised::from(DeploymentException { reason });
    let Some(file) = grid.settings.default_templates.clone() else {
        return Err(refuse(NO_DEFAULT_TEMPLATES.to_owned()));
    };
    let file = grid.handle.paths().dir().join(file);
    let read = move || descriptor::default_templates(&Disk, &file);
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.map_err(|error| Raised::Failed(error.to_string()))?;
    let application = read.map_err(|faults| {
        let lines: Vec<String> = faults.errors().map(ToString::to_string).collect();
        refuse(format!(
            "can't parse default templates:\n{}",
            lines.join("\n")
        ))
    })?;
    let mut objects = Objects::default();
    let descriptor = application_to_slice(&application, &mut objects);
    Ok(WithObjects(descriptor, objects))
}

fn not_there(name: &str) -> Raised {
    ApplicationNotExistException {
        name: name.to_owned(),
    }
    .into()
}

fn refused(name: &str, refusal: &Refusal) -> Raised {
    match refusal.kind {
        RefusalKind::NotFound => not_there(name),
        _ => DeploymentException {
            reason: refusal.message.clone(),
        }
        .into(),
    }
}

impl From<DescriptorError> for Raised {
    fn from(error: DescriptorError) -> Self {
        error.exception().into()
    }
}

fn described(incoming: &Incoming<'_>) -> Outcome<Box<Application>> {
    let (new, objects) = params_with::<ApplicationDescriptor>(incoming, DESCRIPTORS)?;
    Ok(Box::new(application_from_slice(&new, &objects)?))
}

fn update(incoming: &Incoming<'_>) -> Outcome<(String, Edit)> {
    let (update, objects) = params_with::<ApplicationUpdateDescriptor>(incoming, DESCRIPTORS)?;
    let name = update.name.clone();
    let make = move |old: &Application| {
        update_application(old, &update, &objects).map_err(|error| error.exception().reason)
    };
    Ok((name, Edit::Change(Box::new(make))))
}

fn instance(incoming: &Incoming<'_>) -> Outcome<(String, Edit)> {
    let (application, node, instance) =
        params::<(String, String, ServerInstanceDescriptor)>(incoming)?;
    let make = move |old: &Application| {
        instantiate_server(old, &node, &instance).map_err(|error| error.exception().reason)
    };
    Ok((application, Edit::Change(Box::new(make))))
}

async fn info(grid: &Grid, name: String) -> Outcome<WithObjects<ApplicationInfo>> {
    let all = grid.handle.applications().await.map_err(failed)?;
    let found = all.iter().find(|a| a.deployment.application == name);
    let found = found.ok_or_else(|| not_there(&name))?;
    let mut objects = Objects::default();
    let info = application_info(found, &mut objects)?;
    Ok(WithObjects(info, objects))
}

/// Returns an application as it is told to administrators and observers.
pub(super) fn application_info(of: &Deployed, objects: &mut Objects) -> Outcome<ApplicationInfo> {
    let definition = of.definition().ok_or_else(|| {
        Raised::Failed("it is not known how the application is described: reload it".to_owned())
    })?;
    let history = &of.history;
    let number = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
    Ok(ApplicationInfo {
        uuid: history.uuid.clone(),
        create_time: number(history.created_ms),
        create_user: history.created_by.clone(),
        update_time: number(history.updated_ms),
        update_user: history.updated_by.clone(),
        revision: i32::try_from(history.revision).unwrap_or(i32::MAX),
        descriptor: application_to_slice(definition, objects),
    })
}

async fn server(grid: &Arc<Grid>, id: String) -> Outcome<WithObjects<ServerInfo>> {
    let unknown = || Raised::from(ServerNotExistException { id: id.clone() });
    let server: ServerId = id.parse().map_err(|_| unknown())?;
    let found = grid.handle.server(&server).await.map_err(failed)?;
    let (application, node, descriptor) = found.ok_or_else(unknown)?;
    let all = grid.handle.applications().await.map_err(failed)?;
    let history = all
        .into_iter()
        .find(|deployed| deployed.deployment.application == application)
        .map(|deployed| deployed.history)
        .unwrap_or_default();
    let mut objects = Objects::default();
    let info = ServerInfo {
        application,
        uuid: history.uuid,
        revision: i32::try_from(history.revision).unwrap_or(i32::MAX),
        node: node.to_string(),
        descriptor: server_to_slice(&descriptor, &mut objects),
        session_id: String::new(),
    };
    Ok(WithObjects(info, objects))
}
