//! Reading descriptors, and making what they say durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Core;
use crate::config::{self, Paths, ProfileError, SiteFiles, site};
use crate::descriptor::Diagnostics;
use crate::ipc::message::client::{DeployMode, DeployReport, DescriptorSource, ServerChange};
use crate::ipc::message::node::ServerReport;
use crate::ipc::{Refusal, RefusalKind};
use crate::master::allocation::Policy;
use crate::master::desired::{Deployed, Desired, History};
use crate::master::plan::{self, DeployPlan, Liberty};
use crate::model::ServerId;
use crate::sys::clock;
use crate::telemetry::chain;

impl Core {
    pub(super) fn deploy(
        &mut self,
        source: DescriptorSource,
        dry_run: bool,
        mode: DeployMode,
        uid: u32,
    ) -> Result<DeployReport, Refusal> {
        let command = format!("deploy {}", source.shown);
        let (fresh, warnings) = self.load(source).map_err(|error| refuse(&error))?;
        let plan = self.plan(fresh, liberty(mode), &user(uid), true);
        self.carry_through(plan, warnings, dry_run, mode, uid, &command)
    }

    /// Makes a plan durable, or refuses it.
    pub(super) fn carry_through(
        &mut self,
        plan: DeployPlan,
        warnings: Vec<String>,
        dry_run: bool,
        mode: DeployMode,
        uid: u32,
        command: &str,
    ) -> Result<DeployReport, Refusal> {
        if mode == DeployMode::Rolling && self.desired.rollout.is_some() && !dry_run {
            return Err(Refusal::new(
                RefusalKind::Refused,
                "a rolling restart is under way already",
            )
            .hint("`omero-grid status` shows it; `restart --rolling --abort` gives it up"));
        }
        let DeployPlan {
            mut report,
            mut changes,
            in_the_way,
        } = plan;
        report.warnings = warnings;
        if dry_run {
            return Ok(report);
        }
        if mode == DeployMode::WithoutRestart
            && let Some(message) = would_stop(&report)
        {
            return Err(Refusal::new(RefusalKind::Refused, message)
                .hint("nothing was changed; a deploy without `--no-restart` restarts them"));
        }
        if !in_the_way.is_empty() {
            let blitzes: Vec<_> = in_the_way
                .iter()
                .map(|(id, n)| format!("{id} ({n})"))
                .collect();
            return Err(Refusal::new(
                RefusalKind::Refused,
                format!("this deploy would restart or stop Blitzes with live sessions: {}", blitzes.join(", ")),
            )
            .hint("--rolling restarts them one after another, each when its sessions have ended; --now restarts them at once; --dry-run shows the plan"));
        }
        let held: Vec<_> = report
            .changes
            .iter()
            .filter(|change| change.effect == "held")
            .map(|change| change.server.clone())
            .collect();
        if mode == DeployMode::Rolling && !held.is_empty() {
            changes.push(self.rollout_over(held, None));
        }
        self.commit(changes, uid, command)?;
        report.applied = true;
        Ok(report)
    }

    pub(super) fn reload(&mut self, spare: bool, uid: u32) -> Result<Vec<DeployReport>, Refusal> {
        let (liberty, word) = match spare {
            true => (Liberty::Spare, "config"),
            false => (Liberty::Hold, "reload"),
        };
        let sources: Vec<_> = self
            .desired
            .in_order()
            .iter()
            .map(|deployed| deployed.source.clone())
            .collect();
        let mut reports = Vec::new();
        let mut changes = Vec::new();
        // All are read before any is changed: a bad file changes nothing.
        for source in sources {
            let (fresh, warnings) = self.load(source).map_err(|error| refuse(&error))?;
            let plan = self.plan(fresh, liberty, &user(uid), false);
            changes.extend(plan.changes);
            reports.push(DeployReport {
                warnings,
                applied: true,
                ..plan.report
            });
        }
        self.commit(changes, uid, word)?;
        Ok(reports)
    }

    pub(super) fn load(
        &self,
        source: DescriptorSource,
    ) -> Result<(Deployed, Vec<String>), LoadError> {
        load(source, &self.desired, self.paths.dir())
    }

    /// Thinks through what was loaded. It counts as deployed anew if it differs, or in any case.
    pub(super) fn plan(
        &self,
        mut fresh: Deployed,
        liberty: Liberty,
        by: &str,
        in_any_case: bool,
    ) -> DeployPlan {
        let known = &self.desired.applications;
        let known = known.get(&fresh.deployment.application);
        if in_any_case || known.is_none_or(|known| known.differs(&fresh)) {
            fresh.history.go_on(by, clock::now().wall_ms);
        }
        plan::deploy(&self.desired, fresh, &self.reports(), liberty)
    }

    /// Returns what the nodes say of their servers.
    pub(super) fn reports(&self) -> BTreeMap<ServerId, ServerReport> {
        let reports = self.nodes.values().flat_map(|node| &node.reports);
        reports
            .map(|(id, report)| (id.clone(), report.clone()))
            .collect()
    }
}

/// Says, in IceGrid's words, which servers would have to be stopped; `None` if none.
fn would_stop(report: &DeployReport) -> Option<String> {
    let stops = |change: &&ServerChange| matches!(change.effect.as_str(), "restart" | "stop");
    let stopped: Vec<&str> = report
        .changes
        .iter()
        .filter(stops)
        .map(|change| change.server.as_str())
        .collect();
    let servers = match stopped.as_slice() {
        [] => return None,
        [one] => format!("server `{one}'"),
        more => format!("servers `{}'", more.join(", ")),
    };
    Some(format!(
        "check for application `{}' update failed:\nthe {servers} would need to be stopped",
        report.application
    ))
}

/// Returns what a deploy of this mode may do.
pub(super) fn liberty(mode: DeployMode) -> Liberty {
    match mode {
        DeployMode::Careful => Liberty::Careful,
        DeployMode::Now => Liberty::Now,
        DeployMode::Rolling => Liberty::Hold,
        DeployMode::WithoutRestart => Liberty::InPlace,
    }
}

/// Returns the name of a user of this host, or the number of one who has none.
pub(crate) fn user(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(uid.into());
    let name = user.ok().flatten().map(|user| user.name);
    name.unwrap_or_else(|| uid.to_string())
}

/// A descriptor that cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The descriptor has faults.
    #[error("{0}")]
    Descriptor(Diagnostics),
    /// What it says about where sessions go does not hold.
    #[error("{0}")]
    Policy(String),
    /// The site's configuration cannot be read.
    #[error("cannot use the site's configuration")]
    Configuration(#[source] ProfileError),
}

impl LoadError {
    /// Returns the first fault in IceGrid's words, where it has any for it; else every fault.
    pub(crate) fn reason(&self) -> String {
        let faults = match self {
            Self::Descriptor(diagnostics) => diagnostics.0.as_slice(),
            Self::Policy(_) | Self::Configuration(_) => &[],
        };
        let mut faults = faults.iter().filter_map(|fault| fault.icegrid.as_ref());
        match faults.next() {
            Some(fault) => fault.reason.clone(),
            None => self.in_full(),
        }
    }

    /// Returns every fault, with its place.
    pub(crate) fn in_full(&self) -> String {
        match self {
            Self::Descriptor(diagnostics) => {
                let lines: Vec<_> = diagnostics.0.iter().map(ToString::to_string).collect();
                lines.join("\n")
            }
            Self::Policy(error) => error.clone(),
            Self::Configuration(error) => chain(error),
        }
    }
}

/// Reads a descriptor beside what is deployed. Returns it, and the warnings about it. Its history is that of what is deployed.
pub(crate) fn load(
    source: DescriptorSource,
    desired: &Desired,
    omero_dir: &Path,
) -> Result<(Deployed, Vec<String>), LoadError> {
    let mut request = source.request();
    request.profile = config::active_profile(omero_dir).map_err(LoadError::Configuration)?;
    let loaded = source
        .load(&SiteFiles, &request)
        .map_err(LoadError::Descriptor)?;
    // The other applications have to be known for the check of ids, and which they are follows from the name.
    let name = loaded.deployment.application.clone();
    let others: Vec<_> = desired
        .applications
        .iter()
        .filter(|(other, _)| **other != name)
        .map(|(_, a)| a)
        .collect();
    let loaded = if others.is_empty() {
        loaded
    } else {
        for other in others {
            request.others.add(&other.deployment);
        }
        source
            .load(&SiteFiles, &request)
            .map_err(LoadError::Descriptor)?
    };
    let known = desired.applications.get(&name);
    let order = known.map(|deployed| deployed.order);
    let last = desired
        .applications
        .values()
        .map(|deployed| deployed.order)
        .max();
    let deployed = Deployed {
        order: order.unwrap_or_else(|| last.map_or(0, |last| last + 1)),
        definition: source.definition.is_none().then_some(loaded.definition),
        source,
        deployment: loaded.deployment,
        profile: request.profile.unwrap_or_default(),
        history: known.map_or_else(History::default, |known| known.history.clone()),
    };
    let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let others = desired
        .applications
        .iter()
        .filter(|(other, _)| **other != name);
    let all = others
        .map(|(_, a)| &a.deployment)
        .chain([&deployed.deployment]);
    let policy = Policy::of(all).map_err(|error| LoadError::Policy(error.to_string()))?;
    warnings.extend(policy.warnings);
    warnings.extend(site::traps(omero_dir));
    Ok((deployed, warnings))
}

fn refuse(error: &LoadError) -> Refusal {
    Refusal::new(RefusalKind::Invalid, error.in_full()).hint("nothing was changed")
}

/// The descriptor that is compiled in, as a file of its own.
pub(crate) fn builtin_descriptor(paths: &Paths) -> std::io::Result<PathBuf> {
    let dir = paths.grid().join("builtin");
    std::fs::create_dir_all(&dir)?;
    for (name, text) in [
        (
            "default.xml",
            include_str!("../../../descriptors/default.xml"),
        ),
        (
            "templates.xml",
            include_str!("../../../descriptors/templates.xml"),
        ),
    ] {
        std::fs::write(dir.join(name), text)?;
    }
    Ok(dir.join("default.xml"))
}
