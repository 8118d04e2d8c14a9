//! Tests of readers: connections in use, and reads that wait for one.

use std::time::Duration;

use engine::replication::ReplicationState;
use model::position::TimelineHistory;
use model::stats::PoolStats;

use super::{Housekeeping, READERS_MAX, ReaderPool, VisibleBound};

#[test]
fn a_read_without_a_free_connection_is_counted_as_waiting_until_it_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let replication = std::sync::Arc::new(ReplicationState::new(
        TimelineHistory::new(vec![(1, 0)]).unwrap(),
        0,
        0,
    ));
    let visible_bound = VisibleBound::primary(&replication);
    let file = dir.path().join("shard1.db");
    // Readers open an existing file, and create none.
    std::fs::File::create(&file).unwrap();
    let readers = ReaderPool::open("shard1", &file, visible_bound, &Housekeeping::start()).unwrap();
    let max = 2 * READERS_MAX as usize;
    // One connection is opened at once, for reads by key.
    assert_eq!(readers.stats(), PoolStats { in_use: 0, open: 1, max, waiting: 0 });
    let long = Duration::from_secs(60);
    let mut taken: Vec<_> = (0..READERS_MAX)
        .map(|_| readers.checkout(&readers.by_key, long).unwrap_or_else(|error| panic!("{error}")))
        .collect();
    let busy = READERS_MAX as usize;
    assert_eq!(readers.stats(), PoolStats { in_use: busy, open: busy, max, waiting: 0 });
    std::thread::scope(|scope| {
        let late = scope.spawn(|| readers.probe(long));
        while readers.stats().waiting == 0 {
            assert!(!late.is_finished(), "it did not wait");
            std::thread::yield_now();
        }
        assert_eq!(readers.stats(), PoolStats { in_use: busy, open: busy, max, waiting: 1 });
        taken.pop();
        assert_eq!(late.join().unwrap(), Ok(()));
    });
    drop(taken);
    assert_eq!(readers.stats(), PoolStats { in_use: 0, open: busy, max, waiting: 0 });
}
