//! Checks over the whole application: ids, replica groups, and what our own properties name.

use std::collections::{BTreeMap, HashSet};

use super::properties::Prop;
use super::{Context, Defined, Expander};
use crate::descriptor::deployment::{Deployment, split_list};
use crate::descriptor::diagnostic::Fault;
use crate::descriptor::text::{Pos, Text};
use crate::descriptor::types::AdapterDescriptor;
use crate::model::ServerId;

/// What the other applications of the grid have; ids are unique over all of them.
#[derive(Debug, Clone, Default)]
pub struct Others {
    /// Names of applications.
    pub applications: HashSet<String>,
    /// Ids of servers.
    pub servers: HashSet<String>,
    /// Ids of adapters.
    pub adapters: HashSet<String>,
    /// Ids of replica groups.
    pub replica_groups: HashSet<String>,
    /// Identities of objects.
    pub objects: HashSet<String>,
}

impl Others {
    /// Adds what an application has.
    pub fn add(&mut self, deployment: &Deployment) {
        self.applications.insert(deployment.application.clone());
        self.servers
            .extend(deployment.servers.keys().map(|id| id.as_str().to_owned()));
        self.replica_groups
            .extend(deployment.replica_groups.keys().cloned());
        let is_adapter = |id: &&String| !deployment.replica_groups.contains_key(*id);
        self.adapters
            .extend(deployment.adapters.keys().filter(is_adapter).cloned());
        self.objects.extend(deployment.objects.keys().cloned());
    }
}

/// What has been defined so far, and where.
#[derive(Default)]
pub(super) struct Known {
    pub(super) servers: Defined,
    pub(super) adapters: Defined,
    pub(super) groups: Defined,
    pub(super) objects: Defined,
    /// Replica groups that adapters name.
    uses: Vec<(String, Pos)>,
    /// The lists of ids in `omero.grid.*` properties, by server.
    pub(super) lists: Vec<(ServerId, Prop)>,
}

impl Expander<'_> {
    /// Makes an adapter known.
    pub(super) fn add_adapter(
        &mut self,
        id: &str,
        group: &str,
        text: &AdapterDescriptor<Text>,
        context: &Context<'_>,
    ) {
        let at = text.id.at();
        if let Some(first) = self.known.groups.get(id) {
            let note = self
                .report
                .place(*first)
                .map(|place| format!("the replica group is at {place}"));
            let fault = Fault::new(
                at,
                format!("adapter id '{id}' is the id of a replica group"),
            )
            .note(note);
            self.report
                .error(fault.registry(format!("duplicate replica group `{id}'")));
            return;
        }
        if let Some(first) = self.known.adapters.get(id) {
            let note = self
                .report
                .place(*first)
                .map(|place| format!("the first is at {place}"));
            let reason = format!("application `{}':\nduplicate adapter `{id}'", self.app.name);
            // Two instances of one template have their adapter at one place; the server is what tells them apart.
            let server = context.scope.server.unwrap_or_default();
            let message = format!("duplicate adapter '{id}' in server '{server}'");
            self.report
                .error(Fault::new(at, message).note(note).registry(reason));
            return;
        }
        self.known.adapters.insert(id.to_owned(), at);
        if self.others.adapters.contains(id) {
            let reason = format!("adapter `{id}' is already registered");
            self.report.error(
                Fault::new(at, format!("adapter '{id}' exists in another application"))
                    .registry(reason),
            );
        }
        let pair = (id.to_owned(), group.to_owned());
        if !group.is_empty() {
            self.known
                .uses
                .push((group.to_owned(), text.replica_group_id.at()));
            self.deployment
                .adapters
                .entry(group.to_owned())
                .or_default()
                .push(pair.clone());
        }
        self.deployment.adapters.insert(id.to_owned(), vec![pair]);
    }

    /// Checks what can only be checked once everything is expanded.
    pub(super) fn check(&mut self) {
        for (id, at) in &self.known.groups {
            if self.others.replica_groups.contains(id) {
                let reason = format!("adapter `{id}' is already registered");
                let message = format!("replica group '{id}' exists in another application");
                self.report.error(Fault::new(*at, message).registry(reason));
            }
        }
        for (group, at) in std::mem::take(&mut self.known.uses) {
            let exists = self.known.groups.contains_key(&group)
                || self.others.replica_groups.contains(&group);
            if !exists {
                // The entry was made for the pair; without a group it stands for nothing.
                self.deployment.adapters.remove(&group);
                if !self.gaps.may_explain(&group) {
                    let fault = Fault::new(at, format!("unknown replica group '{group}'"));
                    let names = self.known.groups.keys().map(String::as_str);
                    self.report.error(
                        fault
                            .near(&group, names)
                            .registry(format!("couldn't find replica group `{group}'")),
                    );
                }
            }
        }
        self.check_lists();
        self.check_start();
    }

    /// Checks the ids in `omero.grid.after` and `omero.grid.required`, and that nobody waits for himself.
    fn check_lists(&mut self) {
        let lists = std::mem::take(&mut self.known.lists);
        let servers = &self.deployment.servers;
        let names = || servers.keys().map(ServerId::as_str);
        let mut unknown =
            |report: &mut crate::descriptor::diagnostic::Report, list: &str, id: &str, at: Pos| {
                let exists =
                    self.known.servers.contains_key(id) || self.others.servers.contains(id);
                if !exists && !self.gaps.may_explain(id) {
                    report.error(
                        Fault::new(at, format!("{list} names an unknown server '{id}'"))
                            .near(id, names()),
                    );
                }
            };
        for (_, list) in &lists {
            for id in split_list(&list.value) {
                unknown(self.report, &list.name, id, list.at);
            }
        }
        if let Some(value) = self.deployment.variables.get("omero.grid.required") {
            let at = self
                .app
                .variables
                .get("omero.grid.required")
                .map_or(Pos::NONE, Text::at);
            for id in split_list(value) {
                unknown(self.report, "omero.grid.required", id, at);
            }
        }
        let after: BTreeMap<&str, (&Prop, Vec<&str>)> = lists
            .iter()
            .filter(|(_, list)| list.name == "omero.grid.after")
            .map(|(id, list)| (id.as_str(), (list, split_list(&list.value).collect())))
            .collect();
        if let Some(chain) = find_loop(&after) {
            let at = after.get(chain[0]).map_or(Pos::NONE, |(list, _)| list.at);
            let message = format!(
                "servers wait for each other (omero.grid.after): {}",
                chain.join(" → ")
            );
            self.report.error(Fault::new(at, message));
        }
    }

    /// Warns of a start mode that nobody knows.
    fn check_start(&mut self) {
        for (name, node) in &self.app.nodes {
            if let Some(text) = node.variables.get("omero.grid.start")
                && !matches!(text.as_str(), "manual" | "auto")
                && !text.as_str().contains("${")
            {
                let message = format!(
                    "omero.grid.start of node '{name}' is '{text}', neither 'manual' nor 'auto'"
                );
                self.report
                    .warn(Fault::new(text.at(), message).near(text.as_str(), ["manual", "auto"]));
            }
        }
    }
}

/// Finds servers that wait for each other; the first again at the end.
fn find_loop<'l>(after: &BTreeMap<&'l str, (&Prop, Vec<&'l str>)>) -> Option<Vec<&'l str>> {
    let mut done: HashSet<&str> = HashSet::new();
    for start in after.keys() {
        // Depth first without recursion: the path, and how far each of its servers has been looked through.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_path: HashSet<&str> = HashSet::from([*start]);
        while let Some((server, next)) = path.last_mut() {
            let following = after
                .get(server)
                .and_then(|(_, list)| list.get(*next))
                .copied();
            *next += 1;
            match following {
                None => {
                    on_path.remove(server);
                    done.insert(server);
                    path.pop();
                }
                Some(id) if on_path.contains(id) => {
                    let first = path.iter().position(|(s, _)| *s == id).unwrap_or(0);
                    return Some(path[first..].iter().map(|(s, _)| *s).chain([id]).collect());
                }
                Some(id) if done.contains(id) || !after.contains_key(id) => {}
                Some(id) => {
                    on_path.insert(id);
                    path.push((id, 0));
                }
            }
        }
    }
    None
}
