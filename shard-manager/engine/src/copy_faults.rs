//! Copy faults: wrong rows found by comparing the copies of a shard, and the consequences for
//! requests.
//!
//! **Invariant:** a copy counts as wrong only if more than half of at least three copies agree on
//! other rows, or if its own file is inconsistent and the file of another copy is not.
//! **Not here:** the comparison and the repair (the engines).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use model::reason::Reason;

/// Fault of one copy, proven or possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyFault {
    /// Another copy has different rows, and it is unknown which copy is right.
    Unsettled,
    /// Some rows of this copy are wrong.
    Wrong,
}

impl CopyFault {
    /// Returns the reason that a health report gives for this fault.
    pub fn reason(self, copy: usize) -> Reason {
        match self {
            Self::Unsettled => Reason::CopiesDiffer,
            Self::Wrong if copy == 0 => Reason::RowsWrong,
            Self::Wrong => Reason::CopyWrong,
        }
    }
}

/// Verdict on the copies of one row.
#[derive(Debug, PartialEq, Eq)]
pub enum CopyVerdict {
    /// More than half of the copies agree; the listed copies differ from that majority.
    Wrong(Vec<usize>),
    /// No majority of the copies agrees, so any of them may be wrong.
    Unsettled,
}

/// Decides which copies of one row are wrong.
pub fn judge(copies: &[(usize, Option<u128>)]) -> CopyVerdict {
    let having = |found: Option<u128>| copies.iter().filter(|(_, has)| *has == found).count();
    let right = copies.iter().map(|(_, has)| *has).find(|has| having(*has) * 2 > copies.len());
    match right {
        // Half of two copies is not a majority.
        Some(right) => {
            let wrong = copies.iter().filter(|(_, has)| *has != right);
            CopyVerdict::Wrong(wrong.map(|(number, _)| *number).collect())
        }
        None => CopyVerdict::Unsettled,
    }
}

/// Faults of the copies of one shard: index 0 is the primary, replicas start at 1.
#[derive(Debug, Default)]
pub struct CopyFaults {
    /// True if rows of the primary are wrong. Requests read only this field.
    primary_is_wrong: AtomicBool,
    copies: Mutex<BTreeMap<usize, CopyFault>>,
    passes: AtomicU64,
    differences: AtomicU64,
}

impl CopyFaults {
    /// Returns true if rows of the primary are wrong: reads of it, and writes that depend on its
    /// rows, are refused.
    #[inline]
    pub fn is_primary_wrong(&self) -> bool {
        self.primary_is_wrong.load(Ordering::Acquire)
    }

    /// Returns the fault of a copy.
    pub fn about(&self, copy: usize) -> Option<CopyFault> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).get(&copy).copied()
    }

    /// Returns all faults, by copy.
    pub fn all(&self) -> BTreeMap<usize, CopyFault> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the faults that one comparison of the copies has found; if it covered `all` rows,
    /// they replace the earlier faults. Returns true if the recorded faults have changed.
    pub fn note(&self, found: &BTreeMap<usize, CopyFault>, all: bool) -> bool {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let before = copies.clone();
        if all {
            copies.clear();
        }
        for (&copy, &fault) in found {
            let known = copies.entry(copy).or_insert(fault);
            *known = fault.max(*known);
        }
        let is_wrong = copies.get(&0) == Some(&CopyFault::Wrong);
        self.primary_is_wrong.store(is_wrong, Ordering::Release);
        *copies != before
    }

    /// Counts one pass over all rows of all copies.
    pub fn count_pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts rows that differ between copies.
    pub fn count_differences(&self, rows: u64) {
        self.differences.fetch_add(rows, Ordering::Relaxed);
    }

    /// Returns the number of passes over all rows of all copies, and the number of rows that were
    /// found to differ.
    pub fn counts(&self) -> (u64, u64) {
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
        assert_eq!(judge(&found(&[1, 1, 2])), CopyVerdict::Wrong(vec![2]));
        assert_eq!(judge(&found(&[2, 1, 1])), CopyVerdict::Wrong(vec![0]));
        assert_eq!(judge(&found(&[0, 1, 1])), CopyVerdict::Wrong(vec![0]), "a row may be missing");
        assert_eq!(judge(&found(&[3, 1, 2, 1, 1])), CopyVerdict::Wrong(vec![0, 2]));
        for undecided in [&[1, 2][..], &[1, 0], &[1, 2, 3], &[1, 1, 2, 2]] {
            assert_eq!(judge(&found(undecided)), CopyVerdict::Unsettled, "{undecided:?}");
        }
    }

    #[test]
    fn a_fault_stays_until_all_rows_were_compared_again() {
        let faults = CopyFaults::default();
        assert!(faults.note(&BTreeMap::from([(0, CopyFault::Wrong)]), true));
        assert!(faults.is_primary_wrong());
        assert!(!faults.note(&BTreeMap::from([(0, CopyFault::Unsettled)]), false));
        assert_eq!(faults.about(0), Some(CopyFault::Wrong));
        assert!(faults.note(&BTreeMap::new(), true));
        assert!(!faults.is_primary_wrong() && faults.about(0).is_none());
    }
}
