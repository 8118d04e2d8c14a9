//! Doubts: what comparing the copies of a shard has found wrong, and what follows for requests.
//!
//! **Invariant:** a copy is called wrong only if more than half of at least three copies agree on something else, or if
//! its file contradicts itself and another one does not.
//! **Not here:** comparing (`store/sqlite/compare`), what is done about it (`manager/comparing`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::reason::Reason;

/// What is wrong with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Another copy has other rows, and nothing tells which of them is right.
    Unsettled,
    /// Rows of it are wrong.
    Wrong,
}

impl Doubt {
    /// The doubt, as it is told of a copy.
    pub fn reason(self, copy: usize) -> Reason {
        match self {
            Self::Unsettled => Reason::CopiesDiffer,
            Self::Wrong if copy == 0 => Reason::RowsWrong,
            Self::Wrong => Reason::CopyWrong,
        }
    }
}

/// What rows of several copies tell of these.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More than half of them agree, and these are not among them.
    Wrong(Vec<usize>),
    /// Any of them may be wrong.
    Unsettled,
}

/// Judges what copies have of one row.
pub fn judge(copies: &[(usize, Option<u128>)]) -> Verdict {
    let having = |found: Option<u128>| copies.iter().filter(|(_, has)| *has == found).count();
    let right = copies.iter().map(|(_, has)| *has).find(|has| having(*has) * 2 > copies.len());
    match right {
        // Of two copies that differ none has more than half.
        Some(right) => {
            let wrong = copies.iter().filter(|(_, has)| *has != right);
            Verdict::Wrong(wrong.map(|(number, _)| *number).collect())
        }
        None => Verdict::Unsettled,
    }
}

/// The doubts about the copies of one shard: 0 is the primary, the others are its replicas, from 1.
#[derive(Debug, Default)]
pub struct Doubts {
    /// Whether rows of the primary are wrong: all that requests look at.
    primary_is_wrong: AtomicBool,
    copies: Mutex<BTreeMap<usize, Doubt>>,
    passes: AtomicU64,
    differences: AtomicU64,
}

impl Doubts {
    /// Whether rows of the primary are wrong, so that nothing may be read from it or build on what it has.
    pub fn is_primary_wrong(&self) -> bool {
        self.primary_is_wrong.load(Ordering::Acquire)
    }

    /// The doubt about a copy.
    pub fn about(&self, copy: usize) -> Option<Doubt> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).get(&copy).copied()
    }

    /// Takes note of what was found; what was known before is forgotten if `all` was looked at. Tells whether anything is
    /// new.
    pub fn note(&self, found: &BTreeMap<usize, Doubt>, all: bool) -> bool {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let before = copies.clone();
        if all {
            copies.clear();
        }
        for (&copy, &doubt) in found {
            let known = copies.entry(copy).or_insert(doubt);
            *known = doubt.max(*known);
        }
        let is_wrong = copies.get(&0) == Some(&Doubt::Wrong);
        self.primary_is_wrong.store(is_wrong, Ordering::Release);
        *copies != before
    }

    /// Counts a pass over all rows of all copies.
    pub fn count_pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts rows that are not the same everywhere.
    pub fn count_differences(&self, rows: u64) {
        self.differences.fetch_add(rows, Ordering::Relaxed);
    }

    /// How often all rows of all copies were compared, and how many of them were found to differ.
    pub fn counted(&self) -> (u64, u64) {
        (self.passes.load(Ordering::Relaxed), self.differences.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_of_the_copies_are_right() {
        let found = |hashes: &[u128]| -> Vec<(usize, Option<u128>)> {
            hashes.iter().map(|hash| Some(*hash).filter(|hash| *hash > 0)).enumerate().collect()
        };
        assert_eq!(judge(&found(&[1, 1, 2])), Verdict::Wrong(vec![2]));
        assert_eq!(judge(&found(&[2, 1, 1])), Verdict::Wrong(vec![0]));
        assert_eq!(judge(&found(&[0, 1, 1])), Verdict::Wrong(vec![0]), "a row may be missing");
        assert_eq!(judge(&found(&[3, 1, 2, 1, 1])), Verdict::Wrong(vec![0, 2]));
        for undecided in [&[1, 2][..], &[1, 0], &[1, 2, 3], &[1, 1, 2, 2]] {
            assert_eq!(judge(&found(undecided)), Verdict::Unsettled, "{undecided:?}");
        }
    }

    #[test]
    fn a_doubt_stays_until_all_was_looked_at_again() {
        let doubts = Doubts::default();
        assert!(doubts.note(&BTreeMap::from([(0, Doubt::Wrong)]), true));
        assert!(doubts.is_primary_wrong());
        assert!(!doubts.note(&BTreeMap::from([(0, Doubt::Unsettled)]), false));
        assert_eq!(doubts.about(0), Some(Doubt::Wrong));
        assert!(doubts.note(&BTreeMap::new(), true));
        assert!(!doubts.is_primary_wrong() && doubts.about(0).is_none());
    }
}
