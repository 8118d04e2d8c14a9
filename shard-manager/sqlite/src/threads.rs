//! Threads: runs the reads of files, which may block.
//!
//! A plain read by key runs on the thread of the caller, where it is fastest: it reads one short
//! range of one index. All other reads run on a thread that may block.
//!
//! **Not here:** the reads (`reader`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::error::Error;
use model::keyspace::Slot;
use model::query::ReadQuery;

use super::reader::{NodeRows, ReaderPool, Scope};

/// Maximum number of rows of a point read on the thread of the caller.
const INLINE_ROWS_MAX: u32 = 100;
/// Share of the time left that a read may wait for a connection: the rest is for the read, or for
/// the error that no connection was free.
const POOL_WAIT: f64 = 0.75;

/// Reads the rows of one shard key.
pub(super) async fn read_key(
    readers: &Arc<ReaderPool>,
    query: &ReadQuery,
    (slot, key): (Slot, &str),
    deadline: Instant,
) -> Result<NodeRows, Error> {
    let inline = query.is_point_read() && query.limit <= INLINE_ROWS_MAX;
    if inline && let Some(rows) = readers.try_read(query, Scope::Key(slot, key)) {
        return rows;
    }
    let (readers, query, key) = (Arc::clone(readers), query.clone(), key.to_owned());
    blocking(deadline, move |wait| readers.read(&query, Scope::Key(slot, &key), (wait, deadline)))
        .await
}

/// Runs blocking work, and passes it the time that it may wait for a connection.
pub(super) async fn blocking<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce(Duration) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(move || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::DeadlinePassed) } else { work(left.mul_f64(POOL_WAIT)) }
    });
    match tokio::time::timeout_at(deadline.into(), task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => {
            tracing::error!(%panic, "a read did not finish");
            Err(Error::Internal)
        }
        Err(_elapsed) => Err(Error::DeadlinePassed),
    }
}
