//! What of a Blitz is read-only, and why (DESIGN.md §8, `omero.md` §4.1). Pure: it is told what probes found.
//!
//! Each of the two resources is read-only by a property, because the system refuses a write, or because writes have failed several times
//! in a row. A property is never probed against. A refusal holds until the Blitz is started again, unless
//! `omero.grid.read_only.recover` lets it end by itself: who mounts a repository read-only to move it does not want it written as soon as
//! it can be. Other failures end with the first write that succeeds.

use serde::{Deserialize, Serialize};

/// Writes that fail in a row, for another reason than a refusal, before the resource counts as read-only.
const TOLERATED: u32 = 3;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "found", content = "reason", rename_all = "snake_case")]
pub enum Finding {
    /// It can be written.
    Writable,
    /// The system does not let this user write it.
    Refused(String),
    /// A write failed for another reason.
    Failed(String),
}

/// What is known of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    state: State,
    /// A refusal ends by itself.
    recovers: bool,
    failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Writable,
    /// A property says so.
    Set(String),
    Refused {
        reason: String,
        /// It could be written again.
        over: bool,
    },
    Failing(String),
}

/// What a finding changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The resource is read-only from now on.
    ReadOnly,
    /// The resource can be written from now on.
    Writable,
    /// The resource could be written, and is not until the Blitz is started again.
    CouldBeWritten,
    /// A write failed, which is tolerated so far.
    Tolerated(String),
}

impl Resource {
    /// Begins; `set` is the property that makes it read-only, if one does.
    pub(super) fn new(set: Option<String>, recovers: bool) -> Self {
        Self {
            state: set.map_or(State::Writable, State::Set),
            recovers,
            failures: 0,
        }
    }

    /// Returns whether it is to be probed: what is read-only by a property never is.
    pub(super) fn is_probed(&self) -> bool {
        !matches!(self.state, State::Set(_))
    }

    /// Returns why it is read-only; `None` if it is not.
    pub(super) fn reason(&self) -> Option<String> {
        match &self.state {
            State::Writable => None,
            State::Set(property) => Some(format!("{property} is true")),
            State::Refused { reason, over } => Some(if *over {
                format!("{reason} (over by now; a restart of the server takes it up)")
            } else {
                reason.clone()
            }),
            State::Failing(reason) => Some(reason.clone()),
        }
    }

    /// Returns whether the last write did not succeed, so that the next probe should come soon.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Takes note of what a probe found.
    pub(super) fn note(&mut self, finding: Finding) -> Change {
        if let State::Set(_) = self.state {
            return Change::None;
        }
        match finding {
            Finding::Writable => {
                self.failures = 0;
                match &mut self.state {
                    State::Writable | State::Set(_) => Change::None,
                    State::Refused { over, .. } if !self.recovers => {
                        match std::mem::replace(over, true) {
                            true => Change::None,
                            false => Change::CouldBeWritten,
                        }
                    }
                    State::Refused { .. } | State::Failing(_) => {
                        self.state = State::Writable;
                        Change::Writable
                    }
                }
            }
            Finding::Refused(reason) => {
                self.failures = 0;
                let state = State::Refused {
                    reason,
                    over: false,
                };
                let before = std::mem::replace(&mut self.state, state);
                match before == State::Writable {
                    true => Change::ReadOnly,
                    false => Change::None,
                }
            }
            Finding::Failed(reason) => {
                self.failures = self.failures.saturating_add(1);
                match &mut self.state {
                    State::Writable if self.failures >= TOLERATED => {
                        self.state = State::Failing(reason);
                        Change::ReadOnly
                    }
                    State::Writable => Change::Tolerated(reason),
                    State::Failing(known) => {
                        *known = reason;
                        Change::None
                    }
                    State::Refused { .. } | State::Set(_) => Change::None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused() -> Finding {
        Finding::Refused("/data: EROFS".to_owned())
    }

    fn failed() -> Finding {
        Finding::Failed("/data: EIO".to_owned())
    }

    #[test]
    fn a_refusal_counts_at_once_and_until_the_next_start() {
        let mut resource = Resource::new(None, false);
        assert_eq!(resource.note(refused()), Change::ReadOnly);
        assert_eq!(resource.reason().unwrap(), "/data: EROFS");
        assert_eq!(resource.note(refused()), Change::None);
        assert_eq!(resource.note(Finding::Writable), Change::CouldBeWritten);
        assert!(resource.reason().unwrap().contains("restart"));
        assert_eq!(resource.note(Finding::Writable), Change::None);
        assert_eq!(resource.note(refused()), Change::None);
        assert_eq!(resource.reason().unwrap(), "/data: EROFS");
    }

    #[test]
    fn a_refusal_ends_by_itself_where_that_is_wanted() {
        let mut resource = Resource::new(None, true);
        assert_eq!(resource.note(refused()), Change::ReadOnly);
        assert_eq!(resource.note(Finding::Writable), Change::Writable);
        assert_eq!(resource.reason(), None);
    }

    #[test]
    fn other_failures_count_from_the_third_in_a_row_until_a_write_succeeds() {
        let mut resource = Resource::new(None, false);
        for _ in 0..2 {
            for _ in 0..2 {
                assert!(matches!(resource.note(failed()), Change::Tolerated(_)));
            }
            assert_eq!(resource.note(Finding::Writable), Change::None);
        }
        let changes = [failed(), failed(), failed(), failed()].map(|found| resource.note(found));
        assert_eq!(changes[2..], [Change::ReadOnly, Change::None]);
        assert_eq!(resource.note(Finding::Writable), Change::Writable);
        assert_eq!(resource.reason(), None);
    }

    #[test]
    fn a_property_is_stronger_than_any_probe() {
        let mut resource = Resource::new(Some("omero.cluster.read_only.db".to_owned()), true);
        assert!(!resource.is_probed());
        for found in [Finding::Writable, refused(), failed()] {
            assert_eq!(resource.note(found), Change::None);
        }
        assert_eq!(
            resource.reason().unwrap(),
            "omero.cluster.read_only.db is true"
        );
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_changed(
            recovers in any::<bool>(),
            findings in proptest::collection::vec(0..3, 0..40),
        ) {
            let mut resource = Resource::new(None, recovers);
            let mut refused_ever = false;
            for finding in findings {
                let before = resource.reason().is_some();
                let finding = [Finding::Writable, refused(), failed()][finding as usize].clone();
                refused_ever |= finding == refused();
                let change = resource.note(finding.clone());
                let after = resource.reason().is_some();
                prop_assert_eq!(change == Change::ReadOnly, !before && after);
                prop_assert_eq!(change == Change::Writable, before && !after);
                prop_assert!(after || finding != refused());
                prop_assert!(recovers || !refused_ever || after);
            }
        }
    }
}
