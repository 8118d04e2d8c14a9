//! Contract of table groups, which the tests of each engine check.
//!
//! **Not here:** starts and restarts, which differ between the engines.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::declaration::Declaration;
use shard_manager::engine::move_record::{MovePhase, NewMove};
use shard_manager::engine::rebalance_draft::{DraftMembers, RebalanceDraft};
use shard_manager::keyspace::{Keyspace, ShardKey, Slot};
use shard_manager::manager::{Data, Manager, MovesError, Rebalances, RequestOptions, TableCreated};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_set::SlotSet;
use shard_manager::table::{Column, Table, in_group};
use shard_manager::table_group::{GroupNumber, GroupSpec};
use shard_manager::topology::ShardNumber;
use shard_manager::value::ColumnType;

/// Rows of each table in the tests.
const ROWS: usize = 40;

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Options of reads that show every acknowledged write, whichever node answers.
fn options() -> RequestOptions {
    RequestOptions { level: Level::Quorum, ..RequestOptions::by(deadline()) }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Group on a single shard: `main` has the first one, so each table is on one shard.
pub(crate) fn vertical() -> Vec<GroupSpec> {
    vec![
        GroupSpec {
            name: "ledger".to_owned(),
            shards: Some(names(&["shard2"])),
            tables: names(&["transactions", "accounts"]),
            ..GroupSpec::default()
        },
        GroupSpec {
            name: "main".to_owned(),
            shards: Some(names(&["shard1"])),
            ..GroupSpec::default()
        },
    ]
}

/// Group that is spread over two shards, with another keyspace than `main`.
pub(crate) fn hybrid() -> GroupSpec {
    GroupSpec {
        name: "events".to_owned(),
        keyspace: Some(Keyspace::Modulo),
        shards: Some(names(&["shard3", "shard2"])),
        tables: names(&["clicks"]),
        ..GroupSpec::default()
    }
}

fn group(manager: &Manager, name: &str) -> GroupNumber {
    manager.map().groups().find(name).expect("the group is there")
}

/// Creates a table that is routed by its id, in the group whose settings name it.
pub(crate) async fn create(manager: &Manager, name: &str) {
    let declaration = Declaration {
        name: name.to_owned(),
        columns: vec![
            Column::new("id", ColumnType::Text, false),
            Column::new("note", ColumnType::Text, true),
        ],
        id: vec!["id".to_owned()],
        routing: Some("id".to_owned()),
    };
    let table = declaration.check().expect("a good table");
    let table = in_group(table, manager.map().groups().of_new_table(name));
    let created = manager.schema(Rights::ALL).create_table(table, deadline()).await;
    assert!(matches!(created, Ok(TableCreated::New(_))), "{created:?}");
}

fn table(manager: &Manager, name: &str) -> std::sync::Arc<Table> {
    manager.schema(Rights::ALL).table(name).expect("the table is there")
}

/// Stores a row, and returns its slot and shard.
async fn store(manager: &Manager, name: &str, key: &str, json: &str) -> (Slot, ShardNumber) {
    let table = table(manager, name);
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).expect("an object");
    let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
    let key = ShardKey::parse(key).expect("a good key");
    let prepared = Data::prepare(&manager.map(), &table, Upsert, key, &fields);
    let (place, row) = prepared.expect("a row of the table");
    let written = manager.data(Rights::ALL).write(place, row, &options()).await;
    let place = written.expect("it is stored").receipt.place;
    (place.slot, place.shard)
}

/// Number of rows of a table that a read finds, of one key or of all.
pub(crate) async fn count(manager: &Manager, name: &str, key: Option<&str>) -> usize {
    let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table(manager, name)) };
    let key = key.map(|key| ShardKey::parse(key).expect("a good key"));
    let read = manager.data(Rights::ALL).read(query, key, &options()).await;
    read.expect("it is answered").rows.len()
}

const USER: &str = r#"{"name":"n","email":"e"}"#;

/// Stores rows of tables of `main` and of `ledger`, each of which has one shard.
pub(crate) async fn store_vertically(manager: &Manager) {
    create(manager, "accounts").await;
    for number in 0..ROWS {
        let key = format!("k{number}");
        let (slot, shard) = store(manager, "users", &key, USER).await;
        assert_eq!((GroupNumber::of(slot), shard), (GroupNumber::MAIN, ShardNumber(0)));
        let amount = format!(r#"{{"tx_id":"t{number}","amount":1}}"#);
        let paid = store(manager, "transactions", &key, &amount).await;
        let opened = store(manager, "accounts", &key, r#"{"note":"x"}"#).await;
        assert_eq!(paid, opened, "rows of a key in one group lie together");
        assert_eq!((GroupNumber::of(paid.0), paid.1), (group(manager, "ledger"), ShardNumber(1)));
        assert_eq!(paid.0.number() - 16_384, slot.number(), "both groups hash keys alike");
    }
    find_vertically(manager).await;
}

/// Finds the rows of [`store_vertically`], by key and all together.
pub(crate) async fn find_vertically(manager: &Manager) {
    for name in ["users", "transactions", "accounts"] {
        assert_eq!(count(manager, name, None).await, ROWS, "{name}");
        assert_eq!(count(manager, name, Some("k7")).await, 1, "{name}");
        assert_eq!(count(manager, name, Some("nobody")).await, 0, "{name}");
    }
}

/// Stores rows of a table that is spread over two shards.
pub(crate) async fn store_spread(manager: &Manager) {
    create(manager, "clicks").await;
    let mut shards = BTreeSet::new();
    for number in 0..ROWS {
        let key = format!("u{}", number * 400);
        let (slot, shard) = store(manager, "clicks", &key, r#"{"note":"x"}"#).await;
        assert_eq!(GroupNumber::of(slot), group(manager, "events"));
        let first = group(manager, "events").first_slot();
        assert_eq!(usize::from(slot.number() - first), number * 400 % 16_384, "keyspace modulo");
        shards.insert(shard);
    }
    assert_eq!(shards.into_iter().collect::<Vec<_>>(), [ShardNumber(1), ShardNumber(2)]);
    find_spread(manager).await;
}

/// Finds the rows of [`store_spread`].
pub(crate) async fn find_spread(manager: &Manager) {
    assert_eq!(count(manager, "clicks", None).await, ROWS);
    assert_eq!(count(manager, "clicks", Some("u400")).await, 1);
}

/// Moves slots of `events` with rows to the other shard of the group, and finds them there. Shards
/// outside the group get none.
pub(crate) async fn move_spread(manager: &Manager) {
    let first = group(manager, "events").first_slot();
    let slots: SlotSet = (first..first + 64).filter_map(Slot::new).collect();
    let source = manager.map().owner(Slot::new(first).expect("a slot"));
    let target = ShardNumber(3 - source.0);
    let new =
        |target| NewMove { slots: slots.clone(), source, target, rate: None, keep: Duration::ZERO };
    let refused = manager.moves().begin(new(ShardNumber(0)), None, deadline()).await;
    assert!(matches!(refused, Err(MovesError::OtherGroup { .. })), "{refused:?}");
    let moved = async {
        let limit = deadline();
        let begun = loop {
            // Replicas of a router that has just started follow soon.
            match manager.moves().begin(new(target), None, deadline()).await {
                Err(MovesError::NoMajority { .. }) if Instant::now() < limit => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                begun => break begun.expect("it begins"),
            }
        };
        loop {
            let now = manager.moves().get(begun.id).await.expect("it is listed");
            if now.phase.has_ended() {
                break assert_eq!(now.phase, MovePhase::Done, "{now:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match select(pin!(manager.shards().keep_up()), pin!(moved)).await {
        Either::Left(_) => panic!("the task never ends"),
        Either::Right(((), _)) => {}
    }
    assert!(slots.iter().all(|slot| manager.map().owner(slot) == target));
    assert_eq!(store(manager, "clicks", "u0", r#"{"note":"y"}"#).await.1, target);
    find_spread(manager).await;
}

/// Plans by group: an even plan leaves groups on their shards, and a shard that is the last one of
/// a group is not drained.
pub(crate) async fn plan_by_group(manager: &Manager) {
    let members = DraftMembers::default();
    let draft = RebalanceDraft::read(&members).expect("a draft");
    let plan = Rebalances::of(manager).plan(&draft, None, deadline()).await.expect("a plan");
    let map = manager.map();
    for step in &plan.moves {
        let slots: SlotSet = step.slots.parse().expect("slots");
        let to = map.topology().find(&step.to).expect("a shard");
        assert!(map.groups().forbids(&slots, to).is_none(), "{step:?}");
    }
    let drain = RebalanceDraft::drain("shard2".to_owned(), &members).expect("a draft");
    let refused =
        Rebalances::of(manager).plan(&drain, None, deadline()).await.expect_err("refused");
    let sentence = refused.to_string();
    assert!(sentence.contains("group ledger has no serving shard"), "{sentence}");
    let drain = RebalanceDraft::drain("shard3".to_owned(), &members).expect("a draft");
    let plan = Rebalances::of(manager).plan(&drain, None, deadline()).await.expect("a plan");
    assert!(plan.moves.iter().all(|step| step.to == "shard2"), "{plan:?}");
    let moved: usize = plan.moves.iter().map(|step| step.slot_count).sum();
    assert_eq!(moved, map.slots_of(ShardNumber(2)).count());
}
