//! Scatter budget: limits the memory for the rows of reads of several shards, from the moment at
//! which a shard has returned them until they are merged. Rows that a shard is still sending are
//! limited only by the number of connections to it.
//!
//! **Invariant:** all charges together are at most [`Rows::SCATTER_BYTES_MAX`] bytes, unless a
//! single read holds all of them; dropping a charge returns its bytes.
//! **Not here:** the maximum size of the response of one shard (`model::result_rows`), reads of one
//! shard, whose rows do not wait to be merged.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use model::error::Error;
use model::result_rows::Rows;

/// Maximum size in bytes of a shard's response that is not charged.
const SMALL_BYTES_MAX: usize = 64 << 10;

/// Budget for the rows of all running reads of several shards.
#[derive(Debug, Default)]
pub struct ScatterBudget {
    held: AtomicUsize,
    /// Number of refused charges. A read ends with its first refused charge, so this is also the
    /// number of refused reads.
    refused: AtomicU64,
}

/// Share of one read in the budget.
#[derive(Debug)]
pub struct ScatterShare<'b> {
    budget: &'b ScatterBudget,
    own: AtomicUsize,
}

/// Charge for the rows of one shard. It ends when this value is dropped.
#[derive(Debug)]
pub struct RowsCharge<'s> {
    share: &'s ScatterShare<'s>,
    bytes: usize,
}

impl ScatterBudget {
    /// Opens the share of a read, to which nothing is charged yet.
    pub fn open_share(&self) -> ScatterShare<'_> {
        ScatterShare { budget: self, own: AtomicUsize::new(0) }
    }

    /// Returns the number of reads that were refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl ScatterShare<'_> {
    /// Charges the rows that a shard has returned.
    ///
    /// # Errors
    /// [`Error::ScatterMemoryFull`] if other reads leave too little; nothing is charged then.
    pub fn charge(&self, rows: &Rows) -> Result<RowsCharge<'_>, Error> {
        let bytes = Some(rows.bytes()).filter(|bytes| *bytes > SMALL_BYTES_MAX).unwrap_or(0);
        if bytes > 0 {
            let own = self.own.load(Ordering::Relaxed);
            let more = |held: usize| {
                let fits = held + bytes <= Rows::SCATTER_BYTES_MAX || held == own;
                fits.then_some(held + bytes)
            };
            let charged = self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            if charged.is_err() {
                self.budget.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Error::ScatterMemoryFull);
            }
            self.own.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(RowsCharge { share: self, bytes })
    }
}

impl Drop for RowsCharge<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.own.fetch_sub(self.bytes, Ordering::Relaxed);
            self.share.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: usize) -> Rows {
        Rows::from_parts(vec![b' '; bytes], vec![bytes]).expect("one row")
    }

    #[test]
    fn a_read_beside_others_gets_no_more_than_they_leave_and_one_alone_gets_all_it_needs() {
        let budget = ScatterBudget::default();
        let (first, second) = (budget.open_share(), budget.open_share());
        let largest = rows(Rows::BYTES_MAX);
        let fit = Rows::SCATTER_BYTES_MAX / Rows::BYTES_MAX;
        let held: Vec<_> = (0..=fit).map(|_| first.charge(&largest)).collect();
        assert!(held.iter().all(Result::is_ok), "it runs alone");
        assert_eq!(second.charge(&largest).err(), Some(Error::ScatterMemoryFull));
        assert_eq!(second.own.load(Ordering::Relaxed), 0, "a refused charge takes nothing");
        assert_eq!(budget.refused(), 1);
        assert_eq!(budget.held.load(Ordering::Relaxed), held.len() * Rows::BYTES_MAX);
        assert!(second.charge(&rows(SMALL_BYTES_MAX)).is_ok(), "small answers are not charged");
        drop(held);
        assert!(second.charge(&largest).is_ok());
        assert_eq!((budget.held.load(Ordering::Relaxed), budget.refused()), (0, 1));
    }
}
