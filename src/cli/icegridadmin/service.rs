//! `service …`: the services of iceboxes.

use super::describe;
use super::fault::CommandError;
use super::output::Output;
use super::run::{Console, Result, admin_facet, list};
use super::server::{self, admin_of, unreached};
use crate::ice::{Mode, Objects};
use crate::icegrid::client::{Admin, Fault, Raised};
use crate::icegrid::types::*;

/// Fetches an icebox as it is deployed.
async fn icebox(admin: &Admin, id: &str) -> Result<(IceBoxDescriptor, Objects)> {
    let (info, objects) = server::info(admin, id).await?;
    match objects.find::<IceBoxDescriptor, _>(info.descriptor) {
        Some(icebox) => Ok((icebox.clone(), objects)),
        None => Err(CommandError::new(format!(
            "server `{id}' is not an IceBox server"
        ))),
    }
}

/// Refuses a service that the icebox does not have.
async fn find(admin: &Admin, id: &str, name: &str) -> Result<ServiceDescriptor> {
    let (icebox, objects) = icebox(admin, id).await?;
    let mut services = icebox.services.iter();
    let found = services.find_map(|service| {
        objects
            .find::<ServiceDescriptor, _>(service.descriptor)
            .filter(|service| service.name == name)
    });
    found.cloned().ok_or_else(|| not_found(name))
}

fn not_found(name: &str) -> CommandError {
    CommandError::new(format!("couldn't find service `{name}'"))
}

pub(super) async fn list_all(admin: &Admin, console: &mut Console<'_>, id: &str) -> Result<()> {
    let (icebox, objects) = icebox(admin, id).await?;
    let names = icebox
        .services
        .iter()
        .map(|service| describe::service_name(service, &objects));
    list(console, names)
}

pub(super) async fn describe(
    admin: &Admin,
    console: &mut Console<'_>,
    id: &str,
    name: &str,
) -> Result<()> {
    let service = find(admin, id, name).await?;
    let mut out = Output::default();
    describe::service(&mut out, &service);
    console.print(&out.end())
}

/// Starts or stops a service.
pub(super) async fn change(admin: &Admin, id: &str, name: &str, operation: &str) -> Result<()> {
    let manager = admin_facet(&admin_of(admin, id).await?, "IceBox.ServiceManager");
    let answer = admin
        .call_of(&manager, operation, Mode::Normal, (name,))
        .await;
    answer.map_err(|fault| match fault {
        Fault::Raised(Raised::Other(id)) => match id.as_str() {
            "::IceBox::NoSuchServiceException" => not_found(name),
            "::IceBox::AlreadyStartedException" => {
                CommandError::new(format!("the service `{name}' is already started"))
            }
            "::IceBox::AlreadyStoppedException" => {
                CommandError::new(format!("the service `{name}' is already stopped"))
            }
            _ => Fault::Raised(Raised::Other(id)).into(),
        },
        fault => unreached(fault),
    })
}

/// Prints the properties that a running service has, or one of them.
pub(super) async fn properties(
    admin: &Admin,
    console: &mut Console<'_>,
    id: &str,
    name: &str,
    property: Option<&str>,
) -> Result<()> {
    find(admin, id, name).await?;
    let facet = format!("IceBox.Service.{name}.Properties");
    let of = admin_facet(&admin_of(admin, id).await?, &facet);
    match property {
        None => server::properties(admin, console, &of).await,
        Some(property) => server::property(admin, console, &of, property).await,
    }
}
