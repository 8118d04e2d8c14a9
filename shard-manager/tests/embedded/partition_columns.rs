//! Tests of keyspaces by a column: golden vectors, refused columns, tables that have partitions,
//! and properties of any key and partition.

use std::collections::BTreeSet;

use proptest::prelude::*;
use shard_manager::keyspace::partition_column::PartitionError;
use shard_manager::keyspace::routing_step::RoutingStep;
use shard_manager::keyspace::{KeyError, Keyspace, SLOT_COUNT, ShardKey};
use shard_manager::placement::{Placement, contradiction};
use shard_manager::shard_map::partitions::{
    divided_partition, explain, partition_column, partition_of, partition_slots,
};
use shard_manager::shard_map::{ShardMap, with_group};
use shard_manager::stored_location::{checked_location, stored_location};
use shard_manager::table::{Column, Table, in_group};
use shard_manager::table_group::{GroupNumber, TableGroup};
use shard_manager::topology::Topology;
use shard_manager::value::{ColumnType, Value};

/// Five partitions with their weights.
const PARTITIONS: &str = "list(partition_key):A=30,B=20,C=15,D=25,E=10";
const PARTITIONS_PLACEMENT: &str =
    "partitions:A=30>shard1,B=20>shard1,C=15>shard3,D=25>shard2,E=10>shard3";

fn keyspace(text: &str) -> Keyspace {
    text.parse().expect("a good keyspace")
}

fn key(text: &str) -> ShardKey<'_> {
    ShardKey::parse(text).expect("a good key")
}

fn map(keyspace: &str, placement: &str) -> ShardMap {
    let placement: Placement = placement.parse().expect("a good placement");
    let topology = Topology::with_weights(&[1, 1, 1]).expect("three shards");
    ShardMap::first(keyspace.parse().expect("a good keyspace"), placement, topology).expect("fits")
}

fn table(name: &str, columns: &[(&str, ColumnType)]) -> Table {
    let column = |(name, kind): &(&str, ColumnType)| Column {
        name: (*name).to_owned(),
        kind: *kind,
        nullable: true,
        default: None,
    };
    let id = [columns[0].0.to_owned()];
    let columns: Vec<Column> = columns.iter().map(column).collect();
    Table::new(name, columns, &id, Some(&id[0])).expect("a good table")
}

fn divided(map: &ShardMap) -> Option<String> {
    divided_partition(map, GroupNumber::MAIN)
}

fn users() -> Table {
    table("users", &[("user_id", ColumnType::Text), ("partition_key", ColumnType::Text)])
}

#[test]
fn the_column_picks_the_block_and_the_hash_of_the_key_the_slot_inside() {
    // Computed independently: Python 3, package xxhash: first slot + xxh3_64(key) % size.
    for (partition, user, omega) in [
        ("A", 3613, 4336),
        ("B", 6461, 7984),
        ("C", 9347, 10_070),
        ("D", 14_071, 14_386),
        ("E", 16_291, 16_176),
    ] {
        for (text, golden) in [("user_123", user), ("Ω", omega)] {
            let slot = keyspace(PARTITIONS).slot_in(Some(partition), key(text)).expect("a slot");
            assert_eq!(slot.number(), golden, "{partition} {text}");
        }
    }
    // The blocks are those of the keyspace `list` without a column.
    let Keyspace::List(by_column) = keyspace(PARTITIONS) else { panic!("a list") };
    let Keyspace::List(by_key) = keyspace(&PARTITIONS.replace("(partition_key)", "")) else {
        panic!("a list")
    };
    assert_eq!(by_column.partitions(), by_key.partitions());
}

#[test]
fn the_value_of_the_column_picks_the_range() {
    let ranges = keyspace("range(year):1990,2010");
    for (value, slot) in [("-5", 0), ("1989", 0), ("1990", 5462), ("2009", 5462), ("2010", 10_923)]
    {
        let found = ranges.slot_in(Some(value), key("any"));
        assert_eq!(found.map(|slot| slot.number()), Ok(slot), "{value}");
    }
    let refused = ranges.slot_in(Some("new"), key("1")).expect_err("no integer");
    assert!(matches!(&refused, KeyError::Partition(_)), "{refused:?}");
    assert!(refused.to_string().starts_with("year must be an integer"), "{refused}");
    let texts = keyspace("range-text(city):g,n");
    let number = |city| texts.slot_in(Some(city), key("any")).map(|slot| slot.number());
    assert_eq!((number("Berlin"), number("hanoi"), number("paris")), (Ok(0), Ok(5462), Ok(10_923)));
}

#[test]
fn the_parameters_name_the_column_and_those_without_one_are_as_before() {
    for (text, parameters) in [
        (
            PARTITIONS,
            r#"{"partitions":[["A",30],["B",20],["C",15],["D",25],["E",10]],"seed":0,"column":"partition_key"}"#,
        ),
        ("list:A=2,B=1", r#"{"partitions":[["A",2],["B",1]],"seed":0}"#),
        (
            "range(year):10",
            r#"{"order":"numeric","splits":["10"],"slots":[0,8192],"column":"year"}"#,
        ),
        ("range-text:g", r#"{"order":"text","splits":["g"],"slots":[0,8192]}"#),
    ] {
        let keyspace = keyspace(text);
        assert_eq!(keyspace.to_string(), text);
        assert_eq!(keyspace.parameters(), parameters);
        assert_eq!(Keyspace::restore(keyspace.name(), parameters), Ok(keyspace), "{text}");
    }
    // A column of another name is another keyspace.
    assert_ne!(keyspace("list(a):A=1"), keyspace("list(b):A=1"));
}

#[test]
fn a_column_that_no_row_can_name_is_refused_with_the_reason() {
    for (text, reason) in [
        ("list():A=1", "is not the name of a column"),
        ("list(Partition):A=1", "is not the name of a column"),
        ("list(a b):A=1", "is not the name of a column"),
        ("range(1a):5", "is not the name of a column"),
        ("range-text(x;):g", "is not the name of a column"),
        ("list(slot):A=1", "the server sets slot"),
        ("list(shard_key):A=1", "the server sets shard_key"),
        ("range(created_at):5", "the server sets created_at"),
        ("hash(partition_key)", "only list, range and range-text take a column"),
        ("modulo(partition_key)", "only list, range and range-text take a column"),
        ("matrix(partition_key):id", "only list, range and range-text take a column"),
        ("list(partition_key)", "NAME=WEIGHT"),
    ] {
        let error = text.parse::<Keyspace>().expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let stored = r#"{"partitions":[["A",1]],"seed":0,"column":"slot"}"#;
    assert!(Keyspace::restore("list", stored).is_err());
}

#[test]
fn a_key_alone_has_no_slot_and_the_error_names_the_column() {
    let error = keyspace(PARTITIONS).slot_of(key("A:1")).expect_err("no slot");
    assert!(error.to_string().contains("by the column partition_key"), "{error}");
    let missing =
        keyspace(PARTITIONS).slot_in(None, key("u")).expect_err("no partition").to_string();
    assert!(missing.starts_with("partition_key is missing"), "{missing}");
    assert!(missing.ends_with("there are: A, B, C, D, E"), "{missing}");
    let unknown =
        keyspace(PARTITIONS).slot_in(Some("a"), key("u")).expect_err("unknown").to_string();
    assert_eq!(
        unknown,
        "partition_key does not name an existing partition; there are: A, B, C, D, E"
    );
}

#[test]
fn only_tables_with_a_comparable_column_of_this_name_have_partitions() {
    let map = map(PARTITIONS, PARTITIONS_PLACEMENT);
    let (text, json) = (ColumnType::Text, ColumnType::Json);
    assert_eq!(partition_column(&map, &users()), Some(3));
    for (table, why) in [
        (table("orders", &[("order_id", text)]), "it has no such column"),
        (table("files", &[("id", text), ("partition_key", json)]), "json is not compared"),
        (table("kv", &[("key", text), ("partition_key", text)]), "kv is read by key alone"),
    ] {
        assert_eq!(partition_column(&map, &table), None, "{why}");
        // A golden vector of the keyspace `hash`.
        let place = map.locate(&table, key("user_123"), None).expect("a place");
        assert_eq!(place.slot.number(), 3421, "{why}");
    }
    let values = [(2, Value::Text("user_123".into())), (3, Value::Text("C".into()))];
    assert_eq!(partition_of(&map, &users(), &values).as_deref(), Some("C"));
    let null = [(3, Value::Null)];
    assert_eq!(partition_of(&map, &users(), &null), None);
    assert!(map.locate(&users(), key("user_123"), None).is_err());
}

#[test]
fn a_table_that_routes_by_the_partition_column_has_the_key_as_its_partition() {
    let map = map("list(region):eu=1,us=1", "partitions:eu=1>shard1,us=1>shard2");
    let regions = table("regions", &[("region", ColumnType::Text)]);
    let shard = |text| map.locate(&regions, key(text), None).expect("a place").shard.0;
    assert_eq!((shard("eu"), shard("us")), (0, 1));
    assert!(map.locate(&regions, key("asia"), None).is_err());
}

#[test]
fn the_five_partitions_lie_on_three_shards() {
    let map = map(PARTITIONS, PARTITIONS_PLACEMENT);
    for (partition, shard) in
        [("A", "shard1"), ("B", "shard1"), ("C", "shard3"), ("D", "shard2"), ("E", "shard3")]
    {
        for number in 0..100 {
            let id = format!("user_{number}");
            let place = map.locate(&users(), key(&id), Some(partition)).expect("a place");
            assert_eq!(map.topology().name(place.shard), shard, "{partition} {id}");
        }
    }
}

#[test]
fn a_placement_that_divides_a_partition_is_refused_with_the_partition_and_its_shards() {
    for placement in ["even", "weighted", "modulo", "ring:100", "rendezvous", "jump"] {
        let reason = divided(&map(PARTITIONS, placement)).expect(placement);
        for words in
            [placement, "the partition ", PARTITIONS, " and shard", "partitions:A=30>shard1"]
        {
            assert!(reason.contains(words), "{placement}: {reason}");
        }
    }
    assert_eq!(divided(&map(PARTITIONS, PARTITIONS_PLACEMENT)), None);
    // Three equal partitions are the three equal parts of `even`.
    assert_eq!(divided(&map("list(region):a=1,b=1,c=1", "even")), None);
    // A range has one slot, and a partition of keys may lie anywhere, as before.
    assert_eq!(divided(&map("range(year):10,20", "modulo")), None);
    assert_eq!(divided(&map("list:A=30,B=20", "even")), None);
    let other = map(PARTITIONS, "partitions:A=30>shard1,X=70>shard2");
    assert!(
        contradiction(other.keyspace(), other.placement())
            .is_some_and(|reason| reason.contains("other partitions"))
    );
}

#[test]
fn a_stored_row_belongs_into_the_slot_of_its_partition_and_a_record_beside_its_row() {
    let map = map(PARTITIONS, PARTITIONS_PLACEMENT);
    let users = users();
    let found = |slot, partition| stored_location(&map, (&users, slot), "user_123", partition);
    assert_eq!(found(3613, Some("A")).map(|place| place.slot.number()), Ok(3613));
    assert_eq!(found(3613, Some("B")).map(|place| place.slot.number()), Ok(6461));
    assert!(found(3613, None).is_err());
    let records = &shard_manager::idempotency::TABLE;
    for (stored, expected) in [(3613, 3613), (16_291, 16_291), (3421, 3421), (7, 3421), (-1, 3421)]
    {
        let place = stored_location(&map, (records, stored), "user_123", None).expect("a place");
        assert_eq!(place.slot.number(), expected, "{stored}");
    }
}

#[test]
fn a_row_stored_in_a_slot_other_than_that_of_its_key_and_partition_is_reported() {
    let map = map(PARTITIONS, PARTITIONS_PLACEMENT);
    let users = users();
    let checked = |slot, partition| {
        let (place, misplaced) = checked_location(&map, (&users, slot), "user_123", partition);
        let slot = place.map(|place| place.slot.number());
        (slot, misplaced.map(|row| (row.found, row.expected)))
    };
    assert_eq!(checked(3613, Some("A")), (Some(3613), None));
    let found = "its slot column says 3613".to_owned();
    let expected = "6461, as its key and partition say".to_owned();
    assert_eq!(checked(3613, Some("B")), (Some(6461), Some((found, expected))));
    let (place, misplaced) = checked(3613, None);
    let expected = misplaced.map(|(_, expected)| expected);
    assert_eq!((place, expected.as_deref()), (None, Some("a key of the keyspace")));
}

#[test]
fn a_group_has_partitions_in_its_own_slots_beside_a_hashed_main() {
    let main = map("hash", "even");
    let group = |placement: &str| TableGroup {
        name: "people".to_owned(),
        keyspace: keyspace(PARTITIONS),
        placement: placement.parse().expect("a good placement"),
        ..TableGroup::default()
    };
    let refused = with_group(&main, group("even"), 2).expect_err("even divides a partition");
    assert!(refused.to_string().contains("puts the partition B"), "{refused}");
    let map = with_group(&main, group(PARTITIONS_PLACEMENT), 2).expect("it fits");
    let number = map.groups().find("people").expect("the group");
    let of_group = in_group(users(), number);
    assert_eq!(partition_column(&map, &of_group), Some(3));
    assert_eq!(partition_column(&map, &users()), None, "that of `main` is hashed");
    let slot = |table: &Table, partition| {
        map.locate(table, key("user_123"), partition).map(|place| place.slot.number())
    };
    // The golden vectors of the partitions, behind the slots of `main`.
    assert_eq!(slot(&of_group, Some("A")), Ok(16_384 + 3613));
    assert_eq!(slot(&of_group, Some("E")), Ok(16_384 + 16_291));
    assert!(slot(&of_group, None).is_err());
    assert_eq!(slot(&users(), Some("A")), Ok(3421));
    let of_a = partition_slots(&map, &of_group, ["A", "none"]);
    assert_eq!(of_a.to_string(), "16384-21299");
    assert!(partition_slots(&map, &users(), ["A"]).is_empty());
    // Records of idempotency keys lie beside rows of either group.
    let records = &shard_manager::idempotency::TABLE;
    for (stored, expected) in
        [(3421, 3421), (19_997, 19_997), (19_805, 19_805), (3613, 3421), (19_998, 3421)]
    {
        let place = stored_location(&map, (records, stored), "user_123", None).expect("a place");
        assert_eq!(place.slot.number(), expected, "{stored}");
    }
    let unknown = main.locate(&of_group, key("user_123"), Some("A"));
    assert_eq!(unknown, Err(KeyError::UnknownGroup), "an older map");
}

#[test]
fn rows_of_every_group_are_located_where_the_steps_for_people_lead() {
    let region = ("region", ColumnType::Text);
    let group = TableGroup {
        name: "accounts".to_owned(),
        keyspace: keyspace("list(region):eu=2,us=1"),
        placement: "partitions:eu=2>shard2,us=1>shard3".parse().expect("a good placement"),
        ..TableGroup::default()
    };
    let map = with_group(&map("modulo", "even"), group, 2).expect("it fits");
    let accounts = map.groups().find("accounts").expect("the group");
    let plain = || table("logins", &[("id", ColumnType::Text)]);
    let divided = || table("accounts", &[("id", ColumnType::Text), region]);
    for (table, partition) in [
        (plain(), None),
        (in_group(plain(), accounts), None),
        (divided(), None),
        (in_group(divided(), accounts), Some("us")),
        (in_group(divided(), accounts), None),
        (in_group(divided(), accounts), Some("asia")),
        (in_group(plain(), GroupNumber::new(2).expect("a number")), None),
    ] {
        for number in 0..100 {
            let text = format!("key_{number}");
            let located = map.locate(&table, key(&text), partition).map(|place| place.slot);
            let explained = explain(&map, Some(&table), key(&text), partition);
            assert_eq!(located, explained.map(|found| found.slot), "{table:?} {text}");
        }
    }
}

#[test]
fn an_explanation_has_the_block_of_the_partition_and_the_hash_of_the_key() {
    let keyspace = keyspace(PARTITIONS);
    let explained = keyspace.explain_in(Some("A"), key("user_123")).expect("a slot");
    assert_eq!(explained.slot.number(), 3613);
    let [RoutingStep::Partition { name, first, last }, RoutingStep::Hash(hash)] =
        &explained.steps[..]
    else {
        panic!("{explained:?}")
    };
    assert_eq!((&**name, first.number(), last.number()), ("A", 0, 4915));
    assert_eq!(*hash, 0x6b32_cffc_057a_0d5d);
    assert!(keyspace.explain_in(None, key("user_123")).is_err());
    assert_eq!(keyspace.explain_key(key("user_123")).expect("a slot").slot.number(), 3421);
}

fn partitions() -> impl Strategy<Value = Vec<(String, u32)>> {
    let names = proptest::collection::btree_set("[A-Za-zΩ]{1,8}", 1..12);
    let weights = proptest::collection::vec(1..1_000_u32, 12);
    (names, weights).prop_map(|(names, weights)| names.into_iter().zip(weights).collect())
}

fn spelled(partitions: &[(String, u32)]) -> String {
    let parts: Vec<String> =
        partitions.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
    format!("list(place):{}", parts.join(","))
}

proptest! {
    #[test]
    fn each_partition_of_a_key_has_a_slot_of_its_own_in_the_block_of_the_partition(
        partitions in partitions(),
        text in "[ -~Ω]{1,40}",
    ) {
        let Ok(keyspace) = spelled(&partitions).parse::<Keyspace>() else { return Ok(()) };
        let parameters = keyspace.parameters();
        prop_assert_eq!(&Keyspace::restore("list", &parameters).expect("restored"), &keyspace);
        let mut all = BTreeSet::new();
        for (name, _) in &partitions {
            let slot = keyspace.slot_in(Some(name), key(&text)).expect("a slot");
            let block = keyspace.slots_in(name).expect("a block");
            prop_assert!(block.contains(&slot.number()));
            prop_assert!(all.insert(slot), "no other partition has the slot");
        }
        let listed = keyspace.slots_of_key(key(&text), partitions.len()).expect("few partitions");
        prop_assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all);
        prop_assert_eq!(keyspace.slots_of_key(key(&text), partitions.len() - 1), None);
        let slots: usize =
            partitions.iter().map(|(name, _)| keyspace.slots_in(name).expect("a block").count()).sum();
        prop_assert_eq!(slots, usize::from(SLOT_COUNT), "the blocks are all slots");
    }

    #[test]
    fn a_range_of_a_column_is_that_of_the_same_key(value in any::<i64>(), text in "[a-z]{1,20}") {
        let (by_key, by_column) = (keyspace("range:-9,0,1000"), keyspace("range(n):-9,0,1000"));
        let value = value.to_string();
        let expected = by_key.slot_of(key(&value));
        prop_assert_eq!(by_column.slot_in(Some(&value), key(&text)), expected.clone());
        let only = expected.expect("a slot").number();
        prop_assert_eq!(by_column.slots_in(&value), Ok(only..=only));
    }
}

#[test]
fn a_fault_of_a_partition_is_not_one_of_the_shard_key() {
    let error = KeyError::from(PartitionError::Hidden);
    let said = shard_manager::error::Error::from(error).to_string();
    assert!(said.starts_with("this table is partitioned"), "{said}");
    let said = shard_manager::error::Error::from(KeyError::Empty).to_string();
    assert!(said.starts_with("shard key: "), "{said}");
}
