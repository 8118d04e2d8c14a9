//! Queued: a read of one key that waits for a connection, and the limits of the queue.
//!
//! **Not here:** the queue (`engine::fair_channel`), its connections (`key_reads`).

use std::time::Instant;

use engine::NodeRows;
use engine::fair_channel::{FairLimits, Queued};
use model::error::Error;
use model::fair_share::FairShare;
use model::keyspace::Slot;
use model::query::ReadQuery;
use tokio::sync::oneshot;

/// Maximum number of reads that may wait for one node. More would only wait past their deadlines.
const QUEUE_MAX: usize = 4_096;
/// Maximum number of reads of one statement: enough to share its cost, few enough to return soon.
const BATCH_MAX: usize = 128;
/// Limits of the queue of one node. Reads have no rows whose bytes would be counted.
pub(super) const LIMITS: FairLimits =
    FairLimits { operations: QUEUE_MAX, bytes: 0, batch_operations: BATCH_MAX, batch_bytes: 0 };

/// A read that waits.
pub(in super::super) struct QueuedKeyRead {
    pub(in super::super) query: ReadQuery,
    pub(in super::super) slot: Slot,
    pub(in super::super) key: String,
    pub(in super::super) deadline: Instant,
    /// Minimum position that the node must show.
    pub(in super::super) floor: u64,
    /// Tenant for whom the rows are read.
    pub(in super::super) share: FairShare,
    pub(in super::super) reply: oneshot::Sender<Result<NodeRows, Error>>,
}

impl Queued for QueuedKeyRead {
    fn share(&self) -> Option<(FairShare, usize)> {
        Some((self.share, 0))
    }
}
