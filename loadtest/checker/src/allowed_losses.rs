//! Allowed losses: a promotion may lose changes made at level `one`, which is not a violation.
//!
//! A write at `one` is acknowledged when the primary has stored it. If another node is promoted,
//! such a write may be lost, even if a read has returned it before. Therefore a contradiction
//! counts as a loss and not as a violation if it appears after a promotion and involves a change at
//! `one` that began before the promotion was over. A change that no replica has confirmed
//! ([`Outcome::Committed`]) may exist only on its primary, so it counts as a change at `one` even
//! if a higher level was requested. Every other contradiction is a violation; in particular, every
//! change that was acknowledged at `quorum` or `all` must be kept.
//!
//! **Invariant:** without a promotion, or without changes at `one`, every contradiction is a
//! violation. Losses are always counted.
//! **Not here:** finding contradictions (the checks).
//!
//! Not detected: a real violation on a row that had a change at `one` before a promotion, if the
//! loss of this change could explain the contradiction. For example, a change at `one` that was
//! executed twice around a promotion cannot be distinguished from one that was lost, sent again and
//! then executed.

use std::collections::{HashMap, HashSet};

use crate::history::{
    Key, Kind, Ledger, Level, NEVER, Operation, OperationHistory, Outcome, Value,
};
use crate::violation::{Check, Evidence, Violation};

/// Prefixes of the descriptions with which the beginning and the end of a promotion are recorded.
const BEGUN: &str = "promotion";
const OVER: &str = "over: promotion";

/// Changes that a promotion may have lost, in a history with promotions.
#[derive(Debug)]
pub(crate) struct AllowedLosses<'h> {
    history: &'h OperationHistory,
    /// Start of the first promotion.
    since: u64,
    /// Changes at `one` that were not refused and began before the last promotion was over. A
    /// change that a read at the end of the run returned is not included, unless it was lost and
    /// executed again.
    may_be_gone: HashSet<(Key, Value)>,
    /// True if there was any such change at `one`, even if it was read at the end.
    is_any_at_one: bool,
    /// Changes of each row that were acknowledged at higher levels.
    kept: HashMap<Key, Vec<&'h Operation>>,
}

impl<'h> AllowedLosses<'h> {
    /// Collects the changes that a promotion may have lost; `None` for a history without a
    /// promotion.
    pub(crate) fn of(history: &'h OperationHistory) -> Option<Self> {
        let at = |word| {
            let faults = history.faults.iter();
            faults.filter(move |fault| fault.what.starts_with(word)).map(|fault| fault.at)
        };
        let since = at(BEGUN).min()?;
        // A promotion whose end was not recorded may also lose changes that began after its start.
        let is_over = at(BEGUN).count() == at(OVER).count();
        let until = if is_over { at(OVER).max().unwrap_or(NEVER) } else { NEVER };
        let mut may_be_gone = HashSet::new();
        let mut kept: HashMap<_, Vec<_>> = HashMap::new();
        for one in history.operations.iter().filter(|one| one.changes()) {
            if one.level == Level::One || one.outcome == Outcome::Committed {
                // A change without a response is included, because a read may have returned it
                // before the promotion.
                if one.start < until && one.outcome != Outcome::Rejected {
                    may_be_gone.insert((one.key, one.value));
                }
            } else if one.outcome == Outcome::Ok {
                kept.entry(one.key).or_default().push(one);
            }
        }
        let is_any_at_one = !may_be_gone.is_empty();
        let again = executed_again(history, &may_be_gone);
        // A change that a read at the end returned was not lost, unless it was lost and then
        // executed again.
        for read in history.operations.iter().filter(|one| one.last && one.is_answered_read()) {
            let change = (read.key, read.value);
            if !again.contains(&change) {
                may_be_gone.remove(&change);
            }
        }
        Some(Self { history, since, may_be_gone, is_any_at_one, kept })
    }

    /// Returns true if a contradiction is a loss that a promotion may cause.
    pub(crate) fn covers(&self, violation: &Violation) -> bool {
        if violation.at < self.since {
            return false;
        }
        match violation.check {
            // A promotion cannot make a read return a value that was never sent, or half of a
            // transaction.
            Check::Corruption | Check::Bank => false,
            Check::FinalState => self.has_gone(violation) && !self.lacks_kept(violation),
            Check::Ledger if violation.key.is_none() => self.lacks_entries(violation),
            Check::Identity
            | Check::Linearizable
            | Check::Sessions
            | Check::Bounded
            | Check::Sets
            | Check::Ledger => self.has_gone(violation),
        }
    }

    fn operations(&self, violation: &Violation) -> impl Iterator<Item = &'h Operation> {
        let history = self.history;
        let operation = |evidence: &Evidence| match evidence {
            Evidence::Operation(index) => Some(*index),
            Evidence::Total(_) | Evidence::Ledger(_) | Evidence::Page(_) => None,
        };
        let indices: Vec<_> = violation.evidence.iter().filter_map(operation).collect();
        indices.into_iter().map(move |index| &history.operations[index as usize])
    }

    /// Returns true if the evidence contains a change that may be lost, or a read of such a change.
    fn has_gone(&self, violation: &Violation) -> bool {
        self.operations(violation).any(|one| self.may_be_gone.contains(&(one.key, one.value)))
    }

    /// Returns true if the last read of a row also lacks a change acknowledged at a higher level.
    fn lacks_kept(&self, violation: &Violation) -> bool {
        let Some(read) = self.operations(violation).filter(|one| one.last).last() else {
            return false;
        };
        let kept = self.kept.get(&read.key).map_or(&[][..], Vec::as_slice);
        let earlier = || kept.iter().filter(|one| one.end < read.start);
        if !read.is_absent_read() {
            return earlier().any(|one| one.version > read.version);
        }
        let of_key = self.history.operations.iter().filter(|one| one.key == read.key);
        let deleted = of_key
            .filter(|one| one.kind == Kind::Delete && one.is_acknowledged())
            .map(|one| one.version)
            .max();
        earlier().any(|one| one.kind == Kind::Write && Some(one.version) > deleted)
    }

    /// Returns true if a ledger lacks entries made at `one` and is otherwise correct.
    fn lacks_entries(&self, violation: &Violation) -> bool {
        let ledgers = violation.evidence.iter().filter_map(|evidence| match evidence {
            Evidence::Ledger(index) => self.history.ledgers.get(*index as usize),
            Evidence::Operation(_) | Evidence::Total(_) | Evidence::Page(_) => None,
        });
        let lacks =
            |ledger: &Ledger| ledger.counter == ledger.rows && ledger.rows < ledger.acknowledged;
        self.is_any_at_one && ledgers.into_iter().all(lacks)
    }
}

/// Returns the changes for which several versions are known: they were lost, sent again with their
/// idempotency key, and executed again.
fn executed_again(
    history: &OperationHistory,
    changes: &HashSet<(Key, Value)>,
) -> HashSet<(Key, Value)> {
    let mut first = HashMap::new();
    let mut again = HashSet::new();
    for one in history.operations.iter().filter(|one| one.version != 0) {
        let change = (one.key, one.value);
        let is_answered = one.is_acknowledged() || (!one.changes() && one.outcome == Outcome::Ok);
        if is_answered
            && changes.contains(&change)
            && *first.entry(change).or_insert(one.version) != one.version
        {
            again.insert(change);
        }
    }
    again
}
