//! Contract of shards that join an open cluster, which the tests of each engine check.
//!
//! **Not here:** starts, crashes and several routers, which differ between the engines.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::declaration::Declaration;
use shard_manager::engine::new_shard::NewShard;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Data, Manager, ReadDone, RequestOptions, ShardChangeError};
use shard_manager::map_change::MapChange;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_set::SlotSet;
use shard_manager::table::{Column, Table};
use shard_manager::topology::{ShardNumber, ShardState};
use shard_manager::value::ColumnType;

/// Deadline of requests. Generous: a test that reaches it has found a defect.
fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Options of reads that show every acknowledged write, whichever node answers.
fn options() -> RequestOptions {
    RequestOptions { level: Level::Quorum, ..RequestOptions::by(deadline()) }
}

/// Returns a table of clients whose rows are routed by their id.
pub(crate) fn table(name: &str) -> Table {
    let declaration = Declaration {
        name: name.to_owned(),
        columns: vec![
            Column::new("id", ColumnType::Text, false),
            Column::new("grade", ColumnType::Text, true),
        ],
        id: vec!["id".to_owned()],
        routing: Some("id".to_owned()),
    };
    declaration.check().expect("a good table")
}

async fn create(manager: &Manager, name: &str) {
    let created = manager.schema(Rights::ALL).create_table(table(name), deadline()).await;
    created.expect("it is created on every shard");
}

/// Stores a row, and returns its shard.
pub(crate) async fn store(manager: &Manager, table: &str, id: &str, grade: &str) -> ShardNumber {
    let table = manager.schema(Rights::ALL).table(table).expect("the table is there");
    let json = format!(r#"{{"grade":"{grade}"}}"#);
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(&json).expect("an object");
    let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
    let key = ShardKey::parse(id).expect("a good key");
    let prepared = Data::prepare(&manager.map(), &table, Upsert, key, &fields);
    let (place, row) = prepared.expect("a row of the table");
    let written = manager.data(Rights::ALL).write(place, row, &options()).await;
    written.expect("it is stored").receipt.place.shard
}

async fn read(manager: &Manager, table: &str, key: Option<&str>) -> ReadDone {
    let table = manager.schema(Rights::ALL).table(table).expect("the table is there");
    let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table) };
    let key = key.map(|key| ShardKey::parse(key).expect("a good key"));
    let read = manager.data(Rights::ALL).read(query, key, &options()).await;
    read.expect("it is answered")
}

/// Returns the ids and the grades of the rows of a table.
pub(crate) async fn rows(
    manager: &Manager,
    table: &str,
    key: Option<&str>,
) -> BTreeMap<String, String> {
    let done = read(manager, table, key).await;
    let json = format!("[{}]", std::str::from_utf8(done.rows.json()).expect("UTF-8"));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).expect("rows");
    assert_eq!(rows.len(), done.rows.len());
    let text =
        |row: &serde_json::Value, member: &str| row[member].as_str().unwrap_or_default().to_owned();
    let pairs: Vec<_> = rows.iter().map(|row| (text(row, "id"), text(row, "grade"))).collect();
    let by_id: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(by_id.len(), pairs.len(), "no row is read twice");
    by_id
}

async fn join(manager: &Manager, shard: &NewShard) -> Result<ShardNumber, ShardChangeError> {
    let joined = manager.shards().join(shard.clone(), None, deadline()).await;
    joined.map(|changed| changed.shard)
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = deadline();
    while !holds() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Writes rows of one client and reads them again until the flag is set. Returns the number of
/// rows.
async fn exercise(manager: &Manager, client: usize, ended: &AtomicBool, rounds: &AtomicU64) -> u64 {
    let mut round = 0;
    while !ended.load(Ordering::Acquire) {
        let id = format!("c{client}-{round}");
        store(manager, "pupils", &id, "a").await;
        let own = rows(manager, "pupils", Some(&id)).await;
        assert_eq!(own.get(&id).map(String::as_str), Some("a"), "an acknowledged row is read");
        if round % 8 == 0 {
            let all = rows(manager, "pupils", None).await;
            let begin = format!("c{client}-");
            let found = all.keys().filter(|id| id.starts_with(&begin)).count();
            let is_cut = all.len() == ReadQuery::LIMIT_MAX as usize;
            assert!(is_cut || found as u64 == round + 1, "{found} of {}", round + 1);
        }
        round += 1;
        rounds.fetch_add(1, Ordering::AcqRel);
    }
    round
}

/// A shard joins while rows are written and read and while tables are created. All acknowledged
/// rows are there afterwards, and each table is on every shard. The shard has the next number.
pub(crate) async fn join_beside_requests(manager: &Manager, shard: &NewShard) -> ShardNumber {
    create(manager, "pupils").await;
    let before = manager.map();
    let (ended, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let enough = async |more: u64| {
        let target = rounds.load(Ordering::Acquire) + more;
        until("the clients stand still", || rounds.load(Ordering::Acquire) >= target).await;
    };
    let clients = (0..4).map(|client| exercise(manager, client, &ended, &rounds));
    let operator = async {
        enough(8).await;
        let creations = join_all((0..4).map(|i| async move {
            create(manager, &format!("beside{i}")).await;
        }));
        let (joined, _) = futures_util::future::join(join(manager, shard), creations).await;
        let number = joined.expect("it joins");
        enough(8).await;
        create(manager, "afterwards").await;
        enough(8).await;
        ended.store(true, Ordering::Release);
        number
    };
    let (counts, number) = futures_util::future::join(join_all(clients), operator).await;
    assert_eq!(number.index(), before.topology().len(), "numbers are given in order");
    let map = manager.map();
    let spec = &map.topology().shards()[number.index()];
    assert_eq!((&*spec.name, spec.weight), (&*shard.name, shard.weight));
    assert_eq!(spec.state, ShardState::Serving);
    assert_eq!(map.slots_of(number).count(), 0, "it owns no slots");
    for (client, count) in counts.into_iter().enumerate() {
        for round in 0..count {
            let id = format!("c{client}-{round}");
            assert_eq!(rows(manager, "pupils", Some(&id)).await.len(), 1, "{id}");
        }
    }
    for name in ["beside0", "beside1", "beside2", "beside3", "afterwards"] {
        let done = read(manager, name, None).await;
        assert!(done.shards.contains(&number) && done.rows.is_empty(), "{name}: {done:?}");
    }
    number
}

/// A slot that is handed to the shard is written and read there, alone and among all slots, and
/// back again.
pub(crate) async fn hand_slots_over(manager: &Manager, from: ShardNumber, to: ShardNumber) {
    create(manager, "moved").await;
    let id = (0..).map(|number| format!("m{number}")).find(|id| {
        let place = manager.map().place(ShardKey::parse(id).expect("a key"));
        place.is_ok_and(|place| place.shard == from)
    });
    let id = id.expect("one of them is there");
    let place = manager.map().place(ShardKey::parse(&id).expect("a key")).expect("a slot");
    let slots: SlotSet = [place.slot].into_iter().collect();
    for (round, (from, to)) in [(from, to), (to, from)].into_iter().enumerate() {
        manager.slots().hand_over(&slots, (from, to), deadline()).await.expect("handed over");
        let change = MapChange::Owners { slots: slots.clone(), from, to, floor: None };
        let map = manager.shards().change_map(change, manager.map().epoch()).await;
        assert_eq!(map.expect("published").owner(place.slot), to);
        let grade = format!("g{round}");
        assert_eq!(store(manager, "moved", &id, &grade).await, to);
        let done = read(manager, "moved", Some(&id)).await;
        assert_eq!((&done.shards[..], done.rows.len()), (&[to][..], 1));
        for key in [Some(&*id), None] {
            let found = rows(manager, "moved", key).await;
            assert_eq!(found.get(&id), Some(&grade), "{key:?}");
        }
    }
}

/// Names, weights and states decide about changes of shards; refused changes change nothing.
pub(crate) async fn refuse_impossible_changes(manager: &Manager, shard: &NewShard) {
    let before = manager.map();
    let shards = manager.shards();
    let first = before.topology().name(ShardNumber(0)).to_owned();
    let named = |name: &str| NewShard { name: name.to_owned(), ..shard.clone() };
    for name in ["", "../shard9", "9th", "shard 9"] {
        let refused = join(manager, &named(name)).await.expect_err("no name of a shard");
        assert!(matches!(refused, ShardChangeError::Map(_)), "{refused:?}");
    }
    let heavy = NewShard { weight: 2_000_000, ..named("heavy") };
    assert!(matches!(join(manager, &heavy).await, Err(ShardChangeError::Map(_))));
    let other = NewShard { weight: 77, ..named(&first) };
    assert!(matches!(join(manager, &other).await, Err(ShardChangeError::Exists { .. })));
    let stale = shards.join(named("late"), Some(before.epoch() + 1), deadline()).await;
    assert!(matches!(stale, Err(ShardChangeError::Map(_))), "{stale:?}");
    let owner = shards.remove(&first, None).await.expect_err("it owns slots");
    assert!(owner.to_string().contains("slots"), "{owner}");
    for refused in [
        shards.remove("nowhere", None).await.expect_err("there is none"),
        shards.set_weight("nowhere", 1, None).await.expect_err("there is none"),
    ] {
        assert!(matches!(refused, ShardChangeError::NoShard { .. }), "{refused:?}");
    }
    assert_eq!(manager.map(), before);
    let members: BTreeSet<_> = before.topology().numbers().collect();
    assert_eq!(manager.status().stats().len(), members.len());
}

/// A shard without slots gets another weight and retires; its number is not given again.
pub(crate) async fn weigh_and_remove(manager: &Manager, name: &str) {
    let shards = manager.shards();
    let weighed = shards.set_weight(name, 5, None).await.expect("another weight");
    assert_eq!(weighed.map.topology().shards()[weighed.shard.index()].weight, 5);
    let removed = shards.remove(name, None).await.expect("it owns no slots");
    assert_eq!(removed.shard, weighed.shard);
    let state = |map: &shard_manager::shard_map::ShardMap| {
        map.topology().shards()[removed.shard.index()].state
    };
    assert_eq!(state(&removed.map), ShardState::Retired);
    assert_eq!(state(&manager.map()), ShardState::Retired);
    let again = shards.remove(name, None).await;
    assert!(matches!(again, Err(ShardChangeError::NoShard { .. })), "{again:?}");
    create(manager, "remaining").await;
    let done = read(manager, "remaining", None).await;
    assert!(!done.shards.contains(&removed.shard), "{done:?}");
}
