//! What of a server's troubles is worth an event: that it failed, that it is back, how many sessions it took up, and that something of
//! it became read-only or could be written again. Pure.
//!
//! A crash loop does not fill the list of events: a failure for the same cause as the one before is noted at most once in
//! [`QUIET`], with the number of those that were not.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ipc::message::blitz::ReadOnlyReason;
use crate::ipc::message::node::ServerReport;
use crate::model::{FailureCause, ServerId, ServerState};

/// How long failures for the same cause are only counted after one was noted.
const QUIET: Duration = Duration::from_secs(600);

/// The troubles of the servers, as far as this master has seen them.
#[derive(Debug, Default)]
pub(crate) struct Incidents(BTreeMap<ServerId, Incident>);

#[derive(Debug, Default)]
struct Incident {
    /// The last failure that was noted, and when, since the master began.
    noted: Option<(String, Duration)>,
    /// Failures since then that were only counted.
    counted: u64,
    /// Whether that it is back is still to be noted.
    owed: bool,
    /// The Blitz process that was last seen, by its UUID.
    life: Option<String>,
    /// Why what it could not write it could not, when it was last seen.
    read_only: ReadOnlyReason,
}

impl Incidents {
    /// Hears how a server is now, after `before`, and returns what is to be noted of it. `at` is since the master began, which it did at `begun_ms`.
    pub(crate) fn hear(
        &mut self,
        before: Option<&ServerReport>,
        report: &ServerReport,
        at: Duration,
        begun_ms: u64,
    ) -> Vec<String> {
        let incident = self.0.entry(report.id.clone()).or_default();
        let mut notes = Vec::new();
        if let Some(cause) = failed(before, report) {
            notes.extend(incident.failed(cause.to_string(), at));
        }
        if incident.owed && report.is_ready() {
            incident.owed = false;
            notes.push("is back".to_owned());
        }
        if let Some(blitz) = &report.blitz
            && incident.life.as_ref() != Some(&blitz.uuid)
        {
            // A process that this master found was noted by the one before.
            let new = incident.life.is_some() || report.started_ms.is_some_and(|at| at >= begun_ms);
            incident.life = Some(blitz.uuid.clone());
            if new && blitz.resumed > 0 && incident.counted == 0 {
                let s = if blitz.resumed == 1 { "" } else { "s" };
                let text = format!("took up {} session{s} of the process before", blitz.resumed);
                notes.push(text);
            }
            // What a property says is no news.
            if !new {
                incident.read_only = blitz.read_only_reason.clone();
            }
        }
        if let Some(blitz) = &report.blitz {
            let now = &blitz.read_only_reason;
            let before = std::mem::replace(&mut incident.read_only, now.clone());
            notes.extend(turned("db", before.db.as_deref(), now.db.as_deref()));
            notes.extend(turned("repo", before.repo.as_deref(), now.repo.as_deref()));
        }
        notes
    }

    /// Forgets a server that is no more.
    pub(crate) fn forget(&mut self, id: &ServerId) {
        self.0.remove(id);
    }
}

impl Incident {
    fn failed(&mut self, cause: String, at: Duration) -> Option<String> {
        if let Some((noted, since)) = &self.noted
            && *noted == cause
            && at.saturating_sub(*since) < QUIET
        {
            self.counted += 1;
            return None;
        }
        let mut text = format!("failed: {cause}");
        if self.counted > 0 {
            text.push_str(&format!(
                "; {} times more since the last note",
                self.counted
            ));
        }
        *self = Self {
            noted: Some((cause, at)),
            counted: 0,
            owed: true,
            life: self.life.take(),
            read_only: std::mem::take(&mut self.read_only),
        };
        Some(text)
    }
}

/// Says in words that a resource became read-only, for another reason than before, or can be written again. What a property says is no
/// news.
fn turned(what: &str, before: Option<&str>, now: Option<&str>) -> Option<String> {
    let found_out = |reason: &&str| !reason.ends_with(" is true");
    match (before.filter(found_out), now.filter(found_out)) {
        (before, now) if before == now => None,
        (_, Some(reason)) => Some(format!("{what} is read-only: {reason}")),
        (Some(_), None) if now.is_none() => Some(format!("{what} can be written again")),
        (_, None) => None,
    }
}

/// Returns why a server failed between two reports. The last failure stays in them while the server runs again.
fn failed<'r>(before: Option<&ServerReport>, report: &'r ServerReport) -> Option<&'r FailureCause> {
    let cause = &report.failure.as_ref()?.cause;
    let timed_out = |report: &ServerReport| report.state == ServerState::ActivationTimedOut;
    let Some(before) = before else {
        // Known to this master as failing from the first.
        return (timed_out(report) || report.state == ServerState::Inactive).then_some(cause);
    };
    let another = before.failure.as_ref().map(|failure| &failure.cause) != Some(cause);
    let ended = before.last_exit != report.last_exit;
    // Who is stopped by command ends otherwise than the failure says.
    let so = match cause {
        FailureCause::Exited { status } => {
            report.last_exit.is_some_and(|(last, _)| last == *status)
        }
        FailureCause::OutOfMemory => true,
        _ => false,
    };
    let again = (ended && so) || (timed_out(report) && !timed_out(before));
    (another || again).then_some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ExitStatus, Failure};

    #[test]
    fn what_turns_is_told_and_what_a_property_says_is_not() {
        let set = Some("omero.cluster.read_only.db is true");
        let refused = Some("/data: EROFS");
        for (before, now, expected) in [
            (None, refused, Some("repo is read-only: /data: EROFS")),
            (refused, refused, None),
            (refused, None, Some("repo can be written again")),
            (None, set, None),
            (set, None, None),
            (refused, set, None),
            (None, None, None),
        ] {
            assert_eq!(turned("repo", before, now).as_deref(), expected);
        }
    }

    fn report(state: &str, exit: Option<(ExitStatus, u64)>) -> ServerReport {
        let report = serde_json::json!({
            "id": "s", "activation": "always", "enabled": true, "state": state, "restarts": 0,
        });
        let failure = exit.map(|(status, _)| Failure {
            cause: FailureCause::Exited { status },
            last_lines: Vec::new(),
        });
        ServerReport {
            last_exit: exit,
            failure,
            ..serde_json::from_value(report).unwrap()
        }
    }

    #[test]
    fn a_crash_loop_is_noted_once_in_a_while_with_its_count() {
        let mut incidents = Incidents::default();
        let mut before = report("active", None);
        let mut all = Vec::new();
        for n in 0..1000_u64 {
            let crashed = report("inactive", Some((ExitStatus::Code(3), n)));
            let at = Duration::from_secs(n);
            all.extend(incidents.hear(Some(&before), &crashed, at, 0));
            before = report("active", crashed.last_exit);
            all.extend(incidents.hear(Some(&crashed), &before, at, 0));
        }
        let failed = "failed: exited with code 3";
        let again = format!("{failed}; 599 times more since the last note");
        assert_eq!(all, [failed, "is back", &again, "is back"]);
    }

    #[test]
    fn another_cause_is_noted_at_once() {
        let mut incidents = Incidents::default();
        let fine = report("active", None);
        let first = report("inactive", Some((ExitStatus::Code(3), 1)));
        let second = report("inactive", Some((ExitStatus::Signal(9), 2)));
        let mut hear = |a: &_, b: &_| incidents.hear(Some(a), b, Duration::ZERO, 0).len();
        assert_eq!((hear(&fine, &first), hear(&first, &second)), (1, 1));
    }

    #[test]
    fn a_stop_by_command_after_a_failure_is_no_failure() {
        let mut incidents = Incidents::default();
        let running = report("active", Some((ExitStatus::Signal(9), 1)));
        let stopped = ServerReport {
            last_exit: Some((ExitStatus::Code(0), 2)),
            state: ServerState::Inactive,
            ..running.clone()
        };
        let at = Duration::from_secs(7200);
        assert_eq!(incidents.hear(None, &running, at, 0), [""; 0]);
        assert_eq!(incidents.hear(Some(&running), &stopped, at, 0), [""; 0]);
    }
}
