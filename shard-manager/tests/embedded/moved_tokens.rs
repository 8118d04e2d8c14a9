//! Tests of the tokens of responses about slots that have moved before the shard map names their
//! owners.

use shard_manager::access::rights::Rights;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::BulkRow;
use shard_manager::map_change::MapChange;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_set::SlotSet;
use shard_manager::token::SessionToken;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, options};

#[tokio::test]
async fn responses_of_a_new_owner_hold_the_position_at_which_the_former_one_gave_the_slot_up() {
    let cluster = Cluster::with_shards(2);
    let manager = &cluster.manager;
    let (place, row) = cluster.prepare("kv", Upsert, "a", r#"{"value":1}"#);
    let slots: SlotSet = [place.slot].into_iter().collect();
    let (from, to) = (place.shard, ShardNumber(1 - place.shard.0));
    manager.slots().hand_over(&slots, (from, to), deadline()).await.expect("handed over");
    let generation = "SELECT generation AS value FROM tessera_shard";
    let moved_at = crate::cluster::ints(&cluster.file(from.index() + 1), generation)[0] as u64;
    let holds_home = |session: &SessionToken| {
        assert!(session.seen(to).is_some(), "{session:?}");
        assert!(session.seen(from).is_some_and(|seen| seen.sequence >= moved_at), "{session:?}");
    };
    let (data, options) = (manager.data(Rights::ALL), options());
    let written = data.write(place, row.clone(), &options).await.expect("the new owner stores it");
    let mut session = SessionToken::empty();
    manager.sessions().extend(&mut session, written.receipt.place.shard, written.receipt.position);
    holds_home(&session);
    let table = manager.schema(Rights::ALL).table("kv").expect("it is there");
    let read = async || {
        let key = ShardKey::parse("a").expect("a key");
        data.read(ReadQuery::all(&table), Some(key), &options).await.expect("an answer")
    };
    let answer = read().await;
    assert_eq!((answer.rows.len(), &answer.shards[..]), (1, &[to][..]));
    holds_home(&answer.session);
    let bulk = data.write_bulk(vec![BulkRow { index: 0, place, row }], &options).await;
    assert!(bulk.rows[0].outcome.is_ok(), "{bulk:?}");
    holds_home(&bulk.session);

    // From then on the epoch of the token leads every router to the new owner.
    let owners = MapChange::Owners { slots, from, to, floor: None };
    let epoch = manager.map().epoch();
    let map = manager.shards().change_map(owners, epoch).await.expect("the catalog learns of it");
    let answer = read().await;
    assert_eq!((answer.session.epoch(), answer.session.seen(from)), (map.epoch(), None));
}
