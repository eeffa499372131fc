//! What an Ice server says of itself to the registry once it is up, and when that is all of it (`descriptors.md` §14.3).

use std::collections::BTreeSet;

use super::config_file::is_before_3_3;
use super::deployment::Ready;
use super::node::{is_icebox, services};
use super::types::{AdapterDescriptor, Property, ServerDescriptor};

/// What a server may register, and what it has to before it is active.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Whether it has to say where its process can be asked to end.
    pub process: bool,
    /// The adapters that it has to register.
    pub lifetime: BTreeSet<String>,
    /// All its adapters, those of its services too.
    pub adapters: BTreeSet<String>,
}

impl Expected {
    /// Returns whether it has to register anything.
    pub fn is_anything(&self) -> bool {
        self.process || !self.lifetime.is_empty()
    }

    /// Returns whether nothing is missing, given what it has registered.
    pub fn is_complete(&self, process: bool, adapter: impl Fn(&str) -> bool) -> bool {
        (process || !self.process) && self.lifetime.iter().all(|id| adapter(id))
    }
}

impl ServerDescriptor {
    /// Returns what the server registers by its definition.
    ///
    /// A process object is expected only where there is something to be found by clients, adapters or an icebox: a program that
    /// speaks no Ice has nothing of the kind. IceGrid expects it of every server unless `Ice.Admin` is turned off.
    pub fn expected(&self) -> Expected {
        let admin = has_admin(&self.property_set.properties);
        let icebox = is_icebox(self);
        let of_services = || services(self).flat_map(|service| &service.adapters);
        let ids = |adapters: &mut dyn Iterator<Item = &AdapterDescriptor>| -> BTreeSet<String> {
            adapters.map(|adapter| adapter.id.clone()).collect()
        };
        let adapters = ids(&mut self.adapters.iter().chain(of_services()));
        let process = if is_before_3_3(&self.ice_version) {
            icebox || self.adapters.iter().any(|a| a.register_process)
        } else {
            admin && (icebox || !adapters.is_empty())
        };
        // The services of an icebox that can be administrated may be stopped while it goes on.
        let of_services = of_services().filter(|_| !admin);
        let lifetime = self.adapters.iter().chain(of_services);
        Expected {
            process,
            lifetime: ids(&mut lifetime.filter(|a| a.server_lifetime && !a.id.is_empty())),
            adapters,
        }
    }

    /// Returns when the server counts as ready, where there is a registry that it can register with (`locator`), or none.
    ///
    /// This program itself says when it is ready, under whatever role.
    pub fn ready(&self, locator: bool) -> Ready {
        if locator && self.exe != "omero-grid" && self.expected().is_anything() {
            Ready::Registered
        } else {
            self.grid().ready
        }
    }
}

/// Returns whether a process of these properties has an admin object.
fn has_admin(properties: &[Property]) -> bool {
    let last = |name: &str| {
        let of_name = |(n, _): &&Property| n == name;
        properties.iter().rev().find(of_name).map(|(_, v)| v.trim())
    };
    match (last("Ice.Admin.Enabled"), last("Ice.Admin.Endpoints")) {
        (Some(enabled), _) => enabled.parse::<i32>().is_ok_and(|enabled| enabled > 0),
        // The node writes endpoints where there are none.
        (None, endpoints) => endpoints.is_none_or(|endpoints| !endpoints.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{ServerKind, ServiceDescriptor, ServiceInstanceDescriptor};
    use super::*;

    fn adapter(id: &str, server_lifetime: bool) -> AdapterDescriptor {
        AdapterDescriptor {
            name: id.to_owned(),
            id: id.to_owned(),
            server_lifetime,
            ..AdapterDescriptor::default()
        }
    }

    fn server(adapters: &[(&str, bool)], properties: &[(&str, &str)]) -> ServerDescriptor {
        let mut server = ServerDescriptor {
            exe: "python3".to_owned(),
            adapters: adapters.iter().map(|(id, l)| adapter(id, *l)).collect(),
            ..ServerDescriptor::default()
        };
        let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        server.property_set.properties = properties.iter().map(owned).collect();
        server
    }

    fn icebox(service_adapters: &[(&str, bool)], properties: &[(&str, &str)]) -> ServerDescriptor {
        let service = ServiceDescriptor {
            adapters: service_adapters
                .iter()
                .map(|(id, l)| adapter(id, *l))
                .collect(),
            ..ServiceDescriptor::default()
        };
        ServerDescriptor {
            kind: ServerKind::Icebox,
            services: Some(vec![ServiceInstanceDescriptor {
                descriptor: Some(service),
                ..ServiceInstanceDescriptor::default()
            }]),
            ..server(&[], properties)
        }
    }

    #[test]
    fn what_a_server_has_to_register_follows_from_its_definition() {
        const OFF: (&str, &str) = ("Ice.Admin.Enabled", "0");
        const EMPTY: (&str, &str) = ("Ice.Admin.Endpoints", "");
        let both = [("A", true), ("B", false)];
        for (server, process, lifetime) in [
            (server(&[], &[]), false, &[][..]),
            (server(&both, &[]), true, &["A"]),
            (server(&both, &[OFF]), false, &["A"]),
            (server(&both, &[EMPTY]), false, &["A"]),
            // The last of a name counts, and `Enabled` more than endpoints.
            (
                server(&both, &[EMPTY, ("Ice.Admin.Endpoints", "tcp")]),
                true,
                &["A"],
            ),
            (
                server(&both, &[EMPTY, ("Ice.Admin.Enabled", "1")]),
                true,
                &["A"],
            ),
            (
                server(&both, &[("Ice.Admin.Enabled", "yes")]),
                false,
                &["A"],
            ),
            (server(&[("B", false)], &[]), true, &[]),
            (server(&[("B", false)], &[OFF]), false, &[]),
            (icebox(&[], &[]), true, &[]),
            (icebox(&both, &[]), true, &[]),
            (icebox(&both, &[OFF]), false, &["A"]),
        ] {
            let expected = server.expected();
            let ids: Vec<&str> = expected.lifetime.iter().map(String::as_str).collect();
            assert_eq!(
                (expected.process, &ids[..]),
                (process, lifetime),
                "{server:#?}"
            );
        }
        let all = icebox(&both, &[]).expected().adapters;
        assert!(all.contains("A") && all.contains("B"));
    }

    #[test]
    fn before_ice_3_3_an_adapter_registers_the_process() {
        let mut old = server(&[("A", false)], &[]);
        old.ice_version = "3.2".to_owned();
        assert!(!old.expected().process);
        old.adapters[0].register_process = true;
        assert!(old.expected().process);
    }

    #[test]
    fn it_is_complete_when_nothing_is_missing() {
        let expected = server(&[("A", true), ("B", false)], &[]).expected();
        for (process, adapters, complete) in [
            (false, &[][..], false),
            (true, &[], false),
            (false, &["A"], false),
            (true, &["B"], false),
            (true, &["A"], true),
        ] {
            let has = |id: &str| adapters.contains(&id);
            assert_eq!(
                expected.is_complete(process, has),
                complete,
                "{process} {adapters:?}"
            );
        }
    }

    #[test]
    fn readiness_is_registration_only_for_ice_servers_that_can_register() {
        let plain = server(&[], &[("omero.grid.ready", "notify")]);
        let ice = server(&[("A", true)], &[("omero.grid.ready", "notify")]);
        let own = ServerDescriptor {
            exe: "omero-grid".to_owned(),
            ..ice.clone()
        };
        for (server, locator, ready) in [
            (&plain, true, Ready::Notify),
            (&ice, true, Ready::Registered),
            (&ice, false, Ready::Notify),
            (&own, true, Ready::Notify),
        ] {
            assert_eq!(server.ready(locator), ready);
        }
    }
}
