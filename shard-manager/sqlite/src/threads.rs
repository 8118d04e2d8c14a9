//! Threads: chooses the threads on which file reads and catalog changes run, because they may
//! block.
//!
//! A simple read by key runs directly on the thread of the request, which is fastest, because it
//! reads only one short range of one index. All other reads run on a thread that may block.
//!
//! **Not here:** the reads (`reader`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{KeyRead, read_task};
use model::error::Error;

use super::reader::{NodeRows, POOL_WAIT, ReaderPool, Scope};

/// Maximum number of rows of a read that runs on the thread of the request.
const INLINE_ROWS_MAX: u32 = 100;
/// Reads the rows of one shard key.
pub(super) async fn read_key(
    readers: &Arc<ReaderPool>,
    read: KeyRead<'_>,
) -> Result<NodeRows, Error> {
    let KeyRead { query, slot, key, deadline, share, min_position: _ } = read;
    let inline = query.is_point_read() && query.limit <= INLINE_ROWS_MAX;
    if inline && let Some(rows) = readers.try_read(query, Scope::Key(slot, key)) {
        return rows;
    }
    let place = readers.enter((query, Scope::Key(slot, key)), share, deadline).await?;
    let (readers, query, key) = (Arc::clone(readers), query.clone(), key.to_owned());
    let read = move |wait| {
        let _place = place;
        readers.read(&query, Scope::Key(slot, &key), (wait, deadline))
    };
    blocking(deadline, read).await
}

/// Executes work on a thread that may block, without a time limit.
pub(super) async fn run_to_end<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Internal.into()))
}

/// Executes blocking work, and passes it the time for which it may wait for a connection.
pub(super) async fn blocking<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce(Duration) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(move || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::DeadlinePassed) } else { work(left.mul_f64(POOL_WAIT)) }
    });
    read_task::result_of(task, deadline).await
}
