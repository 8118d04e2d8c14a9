//! Failures: counts failed operations in groups of similar failures.
//!
//! **Invariant:** there are at most [`GROUPS_MAX`] groups, and in addition one group for each
//! operation, which counts all of its other failures.

use std::collections::BTreeMap;

use super::{OTHERS, Operation};
use crate::response_check::Failure;

/// Maximum number of groups of failures.
const GROUPS_MAX: usize = 64;

/// Key of a group of failures: two failures are in the same group if all of these fields are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FailureGroup {
    pub(crate) operation: Operation,
    pub(crate) status: Option<u16>,
    pub(crate) code: String,
}

/// Number of failures of a group, and the message of the first one.
#[derive(Clone, Debug)]
pub(crate) struct FailureCount {
    pub(crate) count: u64,
    pub(crate) example: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(BTreeMap<FailureGroup, FailureCount>);

impl Failures {
    pub(super) fn add(&mut self, operation: Operation, failure: Failure) {
        let Failure { status, code, detail } = failure;
        let mut group = FailureGroup { operation, status, code };
        if !self.0.contains_key(&group) && self.0.len() >= GROUPS_MAX {
            group = FailureGroup { operation, status: None, code: OTHERS.to_owned() };
        }
        let fresh = FailureCount { count: 0, example: detail };
        self.0.entry(group).or_insert(fresh).count += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&FailureGroup, &FailureCount)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_example_of_a_group_stays_and_groups_have_an_end() {
        let mut failures = Failures::default();
        for detail in ["first", "second"] {
            failures.add(Operation::Write, Failure::new(None, "no answer", detail));
        }
        let (_, group) = failures.iter().next().unwrap();
        assert_eq!((group.count, group.example.as_str()), (2, "first"));
        (0..1_000).for_each(|n| {
            failures.add(Operation::Read, Failure::new(Some(500), &n.to_string(), ""));
        });
        assert!(failures.iter().count() <= GROUPS_MAX + 1);
        assert_eq!(failures.iter().map(|(_, group)| group.count).sum::<u64>(), 1_002);
    }
}
