//! Steps of the tests of fairness, which are the same on every engine: one tenant has thousands of
//! writes in flight, and the writes of another one do not wait behind them.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{LocalBoxFuture, join_all, poll_fn};
use serde_json::value::RawValue;
use shard_manager::access::rights::{CompiledRole, Rights};
use shard_manager::access::role::AccessRole;
use shard_manager::access::tenant::Tenants;
use shard_manager::engine::fault_injector::{NodeFault, NodeMode};
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Data, Manager, RequestOptions, WriteReceipt};
use shard_manager::row_change::Operation;

/// Writes that the tenant with many of them has in flight.
const FLOOD: usize = 4_000;
/// Rows to which it writes.
const ROWS: usize = 40;
/// Batches after which the write of another tenant must be done.
const BATCHES_MAX: usize = 2;

type Write<'w> = LocalBoxFuture<'w, Result<WriteReceipt, Failure>>;

/// Rights of the tenant with this number on all rows.
pub(crate) fn tenant(number: u64) -> Rights {
    let role = r#"{"role":"shop","grants":[{"tables":["*"],"keys":"*",
        "may":["read","insert","update","delete"]}]}"#;
    let role = AccessRole::parse(role).expect("a role");
    Rights::of(Arc::new(CompiledRole::new(role)), Tenants::none()).with_number(number)
}

/// Sends a write of a value; the future yields its receipt.
async fn send<'w>(
    manager: &'w Manager,
    rights: &'w Rights,
    key: String,
    value: usize,
) -> Write<'w> {
    let mut write: Write<'w> = Box::pin(async move {
        let table = manager.schema(rights).table("kv").expect("the table of values");
        let json: Box<RawValue> =
            RawValue::from_string(format!(r#"{{"n":{value}}}"#)).expect("JSON");
        let fields = [(Cow::Borrowed("value"), &*json)];
        let shard_key = ShardKey::parse(&key).expect("a key");
        let (place, row) =
            Data::prepare(&manager.map(), &table, Operation::Upsert, shard_key, &fields)
                .expect("a row");
        let options = RequestOptions::by(Instant::now() + Duration::from_secs(120));
        manager.data(rights).write(place, row, &options).await
    });
    // A single poll queues the write.
    let now = poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
    match now {
        Poll::Ready(done) => Box::pin(std::future::ready(done)),
        Poll::Pending => write,
    }
}

/// Pauses the primary of the only shard while one tenant sends thousands of writes and another one
/// sends a few; then checks the order in which they were done.
pub(crate) async fn a_flood_does_not_delay_another_tenant(manager: &Manager) {
    let primary = manager.faults().node("shard1-primary").expect("the primary of the only shard");
    primary.set(NodeFault { mode: NodeMode::Paused, ..NodeFault::default() });
    let (many, few) = (tenant(11), tenant(12));
    let (mut flood, mut others) = (Vec::new(), Vec::new());
    for number in 0..FLOOD {
        flood.push(send(manager, &many, format!("many{}", number % ROWS), number).await);
    }
    for number in 0..3 {
        others.push(send(manager, &few, "few".to_owned(), number).await);
    }
    // It has more than half of the queue, and another tenant waits.
    let refused = send(manager, &many, "many0".to_owned(), FLOOD).await.await;
    let refused = refused.expect_err("refused");
    assert_eq!(refused.error, Error::QueueShareExceeded { shard: "shard1".to_owned() });
    assert_eq!(refused.outcome, Outcome::Rejected);
    assert_eq!(manager.status().stats()[0].lane.refused, 1);
    primary.set(NodeFault::default());
    let flood = join_all(flood).await;
    let others = join_all(others).await;

    let done = |receipts: Vec<Result<WriteReceipt, Failure>>| -> Vec<WriteReceipt> {
        receipts.into_iter().map(|receipt| receipt.expect("stored")).collect()
    };
    let (flood, others) = (done(flood), done(others));
    // Each batch is one transaction, after which the shard has a position of its own.
    let mut batches: Vec<_> = flood.iter().map(|done| done.receipt.position.sequence).collect();
    batches.dedup();
    assert!(batches.is_sorted(), "writes of one tenant are done in order");
    assert!(batches.len() >= 7, "a batch has at most 512: {}", batches.len());
    for other in &others {
        let before =
            batches.iter().filter(|batch| **batch < other.receipt.position.sequence).count();
        assert!(before < BATCHES_MAX, "{before} batches of the other tenant came first");
    }
    for row in 0..ROWS {
        let versions = flood.iter().skip(row).step_by(ROWS).map(|done| done.row.version);
        assert!(versions.is_sorted_by(|earlier, later| earlier < later), "row {row}");
    }
    assert!(others.iter().map(|done| done.row.version).is_sorted());
}
