//! Steps of tests that move slots between the shards of a cluster, whatever its engine.
//!
//! **Not here:** the clients that write meanwhile (`move_clients`).

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use shard_manager::access::rights::Rights;
use shard_manager::engine::move_record::{MoveOrder, MovePhase, MoveRecord, NewMove};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkRow, Manager, RequestOptions};
use shard_manager::moves::identity::MoveId;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardNumber;

pub(crate) use crate::begun_move::begin;
use crate::move_clients::{Client, deadline, prepare};

/// Shard that owns the slots at first.
pub(crate) const SOURCE: ShardNumber = ShardNumber(0);
/// Shard that is to own them.
pub(crate) const TARGET: ShardNumber = ShardNumber(1);
/// Time of keeping that no test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(3_600);

/// Runs a test beside the task that carries moves out.
pub(crate) async fn kept_up<T>(manager: &Manager, test: impl Future<Output = T>) -> T {
    match select(pin!(manager.shards().keep_up()), pin!(test)).await {
        Either::Left(_) => panic!("the task never ends"),
        Either::Right((done, _)) => done,
    }
}

/// Returns the move of these slots to the other shard.
pub(crate) fn new(slots: &SlotSet, keep: Duration) -> NewMove {
    NewMove { slots: slots.clone(), source: SOURCE, target: TARGET, rate: None, keep }
}

/// Returns the move of these slots to the other shard at the lowest rate, so that a test can act
/// while it copies.
pub(crate) fn slow(slots: &SlotSet) -> NewMove {
    NewMove { rate: Some(1), ..new(slots, LONG) }
}

/// Waits until a move is in one of these phases.
pub(crate) async fn until(manager: &Manager, id: MoveId, phases: &[MovePhase]) -> MoveRecord {
    let limit = deadline();
    loop {
        let record = manager.moves().get(id).await.expect("it is listed");
        if phases.contains(&record.phase) {
            return record;
        }
        assert!(!record.phase.has_ended() && Instant::now() < limit, "{record:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Gives an order that is taken.
pub(crate) async fn order(manager: &Manager, id: MoveId, order: MoveOrder) {
    manager.moves().order(id, order).await.expect("it is taken");
}

/// Returns clients with these keys.
pub(crate) fn clients<'m>(manager: &'m Manager, keys: &[Vec<String>]) -> Vec<Client<'m>> {
    keys.iter().map(|keys| Client::new(manager, keys.clone())).collect()
}

/// Returns the owners of slots.
pub(crate) fn owners(manager: &Manager, slots: &SlotSet) -> Vec<ShardNumber> {
    let mut owners: Vec<_> = slots.iter().map(|slot| manager.map().owner(slot)).collect();
    owners.dedup();
    owners
}

/// Stores rows of 100 KB under the keys of a shard, so that a copy takes several rounds. Returns
/// their slots.
pub(crate) async fn store_large(manager: &Manager, count: usize) -> SlotSet {
    let value = "x".repeat(100_000);
    let keys = (0..).map(|number| format!("large{number}"));
    let place = |key: &str| manager.map().place(ShardKey::parse(key).expect("a key"));
    let keys = keys.filter(|key| place(key).is_ok_and(|place| place.shard == SOURCE));
    let mut slots = SlotSet::empty();
    for (index, key) in keys.take(count).enumerate() {
        let json = format!(r#"{{"value":"{value}"}}"#);
        let (place, row) = prepare(manager, ("kv", Upsert), &key, &json);
        slots.insert(place.slot);
        let rows = vec![BulkRow { index, place, row }];
        let done =
            manager.data(Rights::ALL).write_bulk(rows, &RequestOptions::by(deadline())).await;
        assert!(done.rows[0].outcome.is_ok(), "{done:?}");
    }
    slots
}

/// Waits until a move rests on an order.
pub(crate) async fn until_paused(manager: &Manager, id: MoveId) {
    let limit = deadline();
    loop {
        let record = manager.moves().get(id).await.expect("listed");
        if record.progress.reason.as_deref() == Some("it is paused") {
            break;
        }
        assert!(Instant::now() < limit, "{record:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
