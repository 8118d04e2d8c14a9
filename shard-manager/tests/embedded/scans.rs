//! Tests of scans, which are reads that may visit many rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::error::Error;
use shard_manager::position::TimelineHistory;
use shard_manager::query::{Comparison, Condition, ReadQuery, Test};
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::store::sqlite::reader::{Housekeeping, ReaderPool, Scope, VisibleBound};
use shard_manager::value::Value;

use crate::cluster::{Cluster, deadline};

/// The column `name` of users.
const NAME: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_cancelled_scan_ends_and_its_connection_serves_the_next() {
    let cluster = Cluster::with_shards(1);
    let row = |n| {
        let json = format!(r#"{{"user_id":"u{n}","name":"N","email":"e"}}"#);
        cluster.prepare("users", Upsert, &format!("u{n}"), &json)
    };
    let done = cluster.write_all((0..2_000).map(row).collect()).await;
    assert!(done.iter().all(|row| row.outcome.is_ok()));
    let replication = Arc::new(ReplicationState::new(
        TimelineHistory::new(vec![(1, 0)]).expect("a history"),
        1,
        0,
    ));
    let (visible_bound, keeper) = (VisibleBound::primary(&replication), Housekeeping::start());
    let readers =
        ReaderPool::open("shard1", &cluster.file(1), visible_bound, &keeper).expect("a pool");
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("a table");
    let query = ReadQuery { counts: true, ..ReadQuery::all(&table) };
    let name =
        Condition::Column(NAME, Test::Compare(Comparison::NotEqual, Value::Text("x".into())));
    let query = ReadQuery { conditions: vec![name], limit: 1, ..query };
    for _ in 0..3 {
        // More scans than there are connections.
        for _ in 0..5 {
            let late = readers.read(&query, Scope::Shard, (PATIENCE, Instant::now()));
            assert_eq!(late.map(|_| ()), Err(Error::DeadlinePassed));
        }
        let read = readers.read(&query, Scope::Shard, (PATIENCE, deadline())).expect("in time");
        assert_eq!((read.rows.len(), read.rows.total), (1, Some(2_000)));
    }
}
