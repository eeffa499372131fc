//! What programs say of Ice, and which of its properties mean something here (`icegrid-glacier2.md` §9).

use super::Properties;

/// The version of Ice that the programs say they are, unless they are told another: what OMERO asks for.
pub const VERSION: &str = "3.6.5";

/// The environment variable that says another version.
pub const VERSION_VARIABLE: &str = "OMERO_GRID_ICE_VERSION";

/// The property that says another version.
pub const VERSION_PROPERTY: &str = "OmeroGrid.IceVersion";

/// Returns the version of Ice to report.
pub fn version(properties: &Properties) -> String {
    let set = std::env::var(VERSION_VARIABLE).ok();
    let set = set.filter(|version| !version.is_empty());
    set.or_else(|| properties.get(VERSION_PROPERTY).map(str::to_owned))
        .unwrap_or_else(|| VERSION.to_owned())
}

/// The properties of Ice and IceGrid that mean something here, or that ask for nothing that a grid of ours would not do anyhow. One that ends
/// in a dot stands for all that begin so.
const KNOWN: &[&str] = &[
    "Ice.ACM.",
    "Ice.Admin.",
    "Ice.ChangeUser",
    "Ice.Config",
    "Ice.Default.",
    "Ice.LogFile",
    "Ice.MessageSizeMax",
    "Ice.Nohup",
    "Ice.Override.",
    "Ice.ProgramName",
    "Ice.StdErr",
    "Ice.StdOut",
    "Ice.ThreadPool.",
    "Ice.Trace.",
    "Ice.Warn.",
    "IceGrid.InstanceName",
    "IceGrid.Node.AllowRunningServersAsRoot",
    "IceGrid.Node.CollocateRegistry",
    "IceGrid.Node.Data",
    "IceGrid.Node.DisableOnFailure",
    "IceGrid.Node.Endpoints",
    "IceGrid.Node.Name",
    "IceGrid.Node.Output",
    "IceGrid.Node.PrintServersReady",
    "IceGrid.Node.ProcessorSocketCount",
    "IceGrid.Node.PropertiesOverride",
    "IceGrid.Node.RedirectErrToOut",
    "IceGrid.Node.ThreadPool.",
    "IceGrid.Node.Trace.",
    "IceGrid.Node.UserAccounts",
    "IceGrid.Node.WaitTime",
    "IceGrid.Registry.AdminCryptPasswords",
    "IceGrid.Registry.AdminPermissionsVerifier",
    "IceGrid.Registry.AdminSessionManager.",
    "IceGrid.Registry.Client.",
    "IceGrid.Registry.CryptPasswords",
    "IceGrid.Registry.Data",
    "IceGrid.Registry.DefaultTemplates",
    "IceGrid.Registry.DynamicRegistration",
    "IceGrid.Registry.Internal.",
    "IceGrid.Registry.LMDB.",
    "IceGrid.Registry.PermissionsVerifier",
    "IceGrid.Registry.ReplicaName",
    "IceGrid.Registry.Server.",
    "IceGrid.Registry.SessionManager.",
    "IceGrid.Registry.SessionTimeout",
    "IceGrid.Registry.Trace.",
];

/// Returns the names of properties of Ice and IceGrid that mean nothing here.
pub fn unknown(properties: &Properties) -> Vec<String> {
    let is_known = |name: &str| {
        KNOWN.iter().any(|known| match known.ends_with('.') {
            true => name.starts_with(known),
            false => name == *known,
        })
    };
    properties
        .iter()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("Ice.") || name.starts_with("IceGrid."))
        .filter(|name| !is_known(name))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_named() {
        let mut properties = Properties::default();
        properties.add(
            "IceGrid.InstanceName=OMERO\n\
             IceGrid.Registry.Client.Endpoints=tcp -h 127.0.0.1 -p 4061\n\
             IceGrid.Registry.LMDB.Path=var/registry\n\
             IceGrid.Node.Frob=1\n\
             Ice.Trace.Network=2\n\
             IceSSL.DefaultDir=certs\n\
             omero.db.name=x\n\
             Ice.Frob=1\n",
        );
        assert_eq!(unknown(&properties), ["Ice.Frob", "IceGrid.Node.Frob"]);
    }

    #[test]
    fn the_version_can_be_set() {
        let mut properties = Properties::default();
        assert_eq!(version(&properties), VERSION);
        properties.set(VERSION_PROPERTY, "3.7.10");
        assert_eq!(version(&properties), "3.7.10");
    }
}
