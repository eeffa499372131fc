//! What a deployment says about where sessions go: the redirector, routes, weights, caps and times. Pure.
//!
//! Each Blitz has its own properties, into which the site's configuration was laid. What concerns the grid as a whole is taken from the
//! first Blitz, in the order of ids, that says it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::balance::Balancing;
use super::route::Route;
use crate::descriptor::{Deployment, PlacedServer};
use crate::model::{NodeName, ServerId};

/// The property that names the redirector (OMERO's own).
pub(crate) const REDIRECTOR: &str = "omero.cluster.redirector";
const ROUTE: &str = "omero.grid.route.";
const WEIGHT: &str = "omero.grid.weight";
const MAX_SESSIONS: &str = "omero.grid.sessions.max";
const CREATE_WAIT: &str = "omero.grid.create.wait";
const RESUME_GRACE: &str = "omero.grid.resume.grace";

/// The longest time that may be set, in seconds.
const MAX_SECONDS: u64 = 7 * 24 * 3600;

/// The largest weight, and by how much weights may differ.
const MAX_WEIGHT: f64 = 1000.0;

/// Who chooses the Blitz of a new session (`omero.cluster.redirector`, `omero.md` §1.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Redirector {
    /// The entry keeps it.
    #[default]
    Null,
    /// The one redirect of the grid.
    Config,
    /// The least loaded.
    Scale,
}

impl fmt::Display for Redirector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Null => "nullRedirector",
            Self::Config => "configRedirector",
            Self::Scale => "scaleRedirector",
        })
    }
}

impl FromStr for Redirector {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.trim() {
            "nullRedirector" => Ok(Self::Null),
            "configRedirector" => Ok(Self::Config),
            "scaleRedirector" => Ok(Self::Scale),
            _ => Err(()),
        }
    }
}

/// The adapters that answer as one, and how one of them is chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) balancing: Balancing,
    /// The Blitzes that have an adapter in it, by priority.
    pub(crate) servers: Vec<ServerId>,
}

/// What a deployment says about where sessions go.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Policy {
    pub(crate) redirector: Redirector,
    /// In the order in which they are tried.
    pub(crate) routes: Vec<Route>,
    /// Replica groups that have Blitzes, by id.
    pub(crate) groups: BTreeMap<String, Group>,
    /// The weight of each Blitz that has one.
    pub(crate) weights: BTreeMap<ServerId, f64>,
    /// The most user sessions of one Blitz.
    pub(crate) max_sessions: Option<u64>,
    /// How long a creation waits for a Blitz; by its start-up where absent.
    pub(crate) create_wait: Option<Duration>,
    /// How long a Blitz may be away before its sessions may be joined elsewhere.
    pub(crate) resume_grace: Duration,
    /// What two Blitzes say differently although it concerns the grid as a whole.
    pub(crate) warnings: Vec<String>,
}

/// A property that concerns where sessions go, and that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{server}: {name} is '{value}', {problem}")]
pub(crate) struct PolicyError {
    /// The server that has the property.
    server: ServerId,
    name: String,
    value: String,
    problem: String,
}

impl Policy {
    /// Reads what all deployments together say.
    pub(crate) fn of<'d>(
        deployments: impl Iterator<Item = &'d Deployment> + Clone,
    ) -> Result<Self, PolicyError> {
        let blitzes: BTreeMap<&ServerId, (&Deployment, &PlacedServer)> = deployments
            .clone()
            .flat_map(|d| d.servers.iter().map(move |(id, placed)| (id, (d, placed))))
            .filter(|(_, (_, placed))| placed.descriptor.is_blitz())
            .collect();
        let mut this = Self {
            resume_grace: Duration::from_secs(60),
            ..Self::default()
        };
        let mut firsts: BTreeMap<&str, (&ServerId, &str)> = BTreeMap::new();
        for (id, (deployment, placed)) in &blitzes {
            this.read_weight(id, deployment, placed)?;
            for (name, value) in grid_wide(placed) {
                match firsts.get(name) {
                    None => drop(firsts.insert(name, (id, value))),
                    Some((first, other)) if *other != value => this.warnings.push(format!(
                        "{name} is '{other}' at {first} and '{value}' at {id}; that of {first} counts for the whole grid"
                    )),
                    Some(_) => {}
                }
            }
        }
        for (name, (id, value)) in firsts {
            this.read(name, id, value)?;
        }
        this.routes.sort_by_key(|route| route.number);
        for deployment in deployments {
            this.read_groups(deployment);
        }
        for route in &this.routes {
            let unknown = route.unknown(|name| {
                this.groups.contains_key(name) || blitzes.keys().any(|id| id.as_str() == name)
            });
            if let Some(name) = unknown {
                this.warnings.push(format!(
                    "{ROUTE}{} names '{name}', which is neither a Blitz nor a replica group of Blitzes",
                    route.number
                ));
            }
        }
        Ok(this)
    }

    /// Returns how long a creation waits for a Blitz whose last start-up took so long.
    pub(crate) fn wait(&self, startup: Option<Duration>) -> Duration {
        const LEAST: Duration = Duration::from_secs(20);
        self.create_wait
            .unwrap_or_else(|| LEAST.max(startup.unwrap_or_default() * 2))
    }

    /// Returns whether an entry may depend on how busy the hosts are.
    pub(crate) fn asks_for_load(&self) -> bool {
        self.redirector != Redirector::Scale
            && (self.groups.is_empty() || self.groups.values().any(|g| g.balancing.is_adaptive()))
    }

    pub(crate) fn weight(&self, server: &ServerId) -> f64 {
        self.weights.get(server).copied().unwrap_or(1.0)
    }

    fn read(&mut self, name: &str, server: &ServerId, value: &str) -> Result<(), PolicyError> {
        let bad = |problem: String| PolicyError {
            server: server.clone(),
            name: name.to_owned(),
            value: value.to_owned(),
            problem,
        };
        let seconds = || {
            let number = value.trim().parse::<u64>().ok();
            number
                .filter(|seconds| *seconds <= MAX_SECONDS)
                .map(Duration::from_secs)
                .ok_or_else(|| bad("not a whole number of seconds, at most a week".to_owned()))
        };
        match name {
            REDIRECTOR => {
                self.redirector = value.parse().map_err(|()| {
                    bad("not nullRedirector, configRedirector or scaleRedirector".to_owned())
                })?;
            }
            MAX_SESSIONS => {
                let max = value.trim().parse::<u64>();
                let max = max.map_err(|_| bad("not a whole number; 0 is no maximum".to_owned()))?;
                self.max_sessions = (max > 0).then_some(max);
            }
            CREATE_WAIT => self.create_wait = Some(seconds()?),
            RESUME_GRACE => self.resume_grace = seconds()?,
            _ => {
                let number = name.strip_prefix(ROUTE).unwrap_or_default();
                let number = number
                    .parse::<u32>()
                    .map_err(|_| bad(format!("but '{number}' is no number of a route")))?;
                let route = Route::parse(number, value).map_err(|problem| {
                    bad(format!(
                        "but {problem}; for example: user=public -> read-only"
                    ))
                })?;
                self.routes.push(route);
            }
        }
        Ok(())
    }

    /// Reads the weight of a Blitz: its property, else the variable of its node, else that of its application.
    fn read_weight(
        &mut self,
        id: &ServerId,
        deployment: &Deployment,
        placed: &PlacedServer,
    ) -> Result<(), PolicyError> {
        let of_node = |node: &NodeName| deployment.nodes.get(node)?.variables.get(WEIGHT);
        let value = placed
            .descriptor
            .property_set
            .get(WEIGHT)
            .or_else(|| of_node(&placed.node).map(String::as_str))
            .or_else(|| deployment.variables.get(WEIGHT).map(String::as_str))
            .filter(|value| !value.trim().is_empty());
        let Some(value) = value else {
            return Ok(());
        };
        let weight = value.trim().parse::<f64>().ok();
        let weight = weight.filter(|w| (1.0 / MAX_WEIGHT..=MAX_WEIGHT).contains(w));
        let weight = weight.ok_or_else(|| PolicyError {
            server: id.clone(),
            name: WEIGHT.to_owned(),
            value: value.to_owned(),
            problem: "not a number from 0.001 to 1000".to_owned(),
        })?;
        self.weights.insert(id.clone(), weight);
        Ok(())
    }

    fn read_groups(&mut self, deployment: &Deployment) {
        for (name, described) in &deployment.replica_groups {
            let mut members: Vec<(i64, &ServerId)> = deployment
                .servers
                .iter()
                .filter(|(_, placed)| placed.descriptor.is_blitz())
                .flat_map(|(id, placed)| {
                    let mut adapters = placed.descriptor.adapters.iter();
                    let adapter = adapters.find(|adapter| adapter.replica_group_id == *name)?;
                    Some((adapter.priority.trim().parse().unwrap_or(0), id))
                })
                .collect();
            members.sort();
            if !members.is_empty() {
                let group = Group {
                    balancing: Balancing::from(&described.load_balancing),
                    servers: members.into_iter().map(|(_, id)| id.clone()).collect(),
                };
                self.groups.insert(name.clone(), group);
            }
        }
    }
}

/// Returns the properties of a server that concern the grid as a whole; an empty value unsets.
fn grid_wide(placed: &PlacedServer) -> BTreeMap<&str, &str> {
    const NAMES: [&str; 4] = [REDIRECTOR, MAX_SESSIONS, CREATE_WAIT, RESUME_GRACE];
    let set = &placed.descriptor.property_set;
    let properties = set.properties.iter();
    let mut all: BTreeMap<&str, &str> = properties
        .filter(|(name, _)| NAMES.contains(&name.as_str()) || name.starts_with(ROUTE))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    all.retain(|_, value| !value.trim().is_empty());
    all
}
