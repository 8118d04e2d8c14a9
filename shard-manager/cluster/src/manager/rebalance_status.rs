//! Rebalance status: keeps the latest rebalance in memory while this process carries rebalances
//! out, so that reports need no query to the catalog.
//!
//! **Invariant:** the status is the one that was last read from the catalog. It is unknown while
//! another process carries rebalances out.
//! **Not here:** carrying out a rebalance (`rebalancer`), the reports of other processes.

use std::sync::{Mutex, PoisonError};

use engine::rebalance_record::RebalanceRecord;

/// Latest rebalance, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct RebalanceStatus(Mutex<Latest>);

#[derive(Debug, Default)]
enum Latest {
    /// Another process carries rebalances out, or the catalog was not read yet.
    #[default]
    Unknown,
    /// The catalog lists no rebalance.
    Never,
    /// The latest rebalance in the catalog, which is in progress or has ended.
    Listed(Box<RebalanceRecord>),
}

impl RebalanceStatus {
    /// Records the latest rebalance that the catalog lists; `None` if it lists none.
    pub(super) fn note(&self, latest: Option<RebalanceRecord>) {
        self.set(latest.map_or(Latest::Never, |record| Latest::Listed(Box::new(record))));
    }

    /// Records that another process carries out rebalances.
    pub(super) fn forget(&self) {
        self.set(Latest::Unknown);
    }

    /// Returns true if this process does not know yet how the latest rebalance ended. Once no
    /// rebalance is in progress, that must be read from the catalog.
    pub(super) fn lacks_end(&self) -> bool {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Latest::Unknown => true,
            Latest::Never => false,
            Latest::Listed(record) => !record.state.has_ended(),
        }
    }

    /// Returns the latest rebalance, if it is known.
    pub(super) fn latest(&self) -> Option<RebalanceRecord> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Latest::Unknown | Latest::Never => None,
            Latest::Listed(record) => Some(record.as_ref().clone()),
        }
    }

    fn set(&self, latest: Latest) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = latest;
    }
}
