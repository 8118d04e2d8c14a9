//! Tests of table groups in a cluster of files: each has a keyspace, a placement and slots of
//! its own.

use shard_manager::engine::cluster_spec::{ClusterSpec, differences};
use shard_manager::engine::new_shard::NewShard;
use shard_manager::keyspace::{Keyspace, Slot};
use shard_manager::shard_map::{ShardMap, with_group};
use shard_manager::slot_set::SlotSet;
use shard_manager::table_group::{GroupFault, GroupNumber, GroupSpec, TableGroup, check_specs};
use shard_manager::topology::{ShardNumber, Topology};

use crate::cluster::{
    Cluster, execute, findings, ints, open, refusal, shard_file, texts, with_replicas,
};
use crate::group_contract::{
    count, create, find_spread, find_vertically, hybrid, move_spread, plan_by_group, store_spread,
    store_vertically, vertical,
};
use crate::move_steps::kept_up;

fn with_groups(groups: Vec<GroupSpec>) -> ClusterSpec {
    ClusterSpec { groups, ..with_replicas(3, 1) }
}

#[tokio::test]
async fn a_group_of_a_new_cluster_has_its_tables_on_its_own_shard() {
    let cluster = Cluster::with(with_groups(vertical()));
    store_vertically(&cluster.manager).await;
    let map = cluster.manager.map();
    assert_eq!((map.epoch(), map.groups().count(), map.groups().slot_count()), (1, 2, 32_768));
    let cluster = cluster.restart_after(|dir| {
        assert_eq!(findings(dir), Vec::<String>::new());
        let rows = |shard| ints(&shard_file(dir, shard), "SELECT count(*) AS value FROM accounts");
        assert_eq!([rows(1), rows(2), rows(3)], [[0], [40], [0]]);
    });
    assert_eq!(cluster.manager.map(), map);
    find_vertically(&cluster.manager).await;
}

#[tokio::test]
async fn a_group_is_added_to_a_cluster_with_rows_and_its_slots_move_among_its_shards() {
    let cluster = Cluster::with(with_groups(vertical()));
    store_vertically(&cluster.manager).await;
    let dir = cluster.stop();
    let more = with_groups([vertical(), vec![hybrid()]].concat());
    let manager = open(dir.path(), more.clone()).expect("it gets the group");
    assert_eq!((manager.map().epoch(), manager.map().groups().count()), (2, 3));
    find_vertically(&manager).await;
    store_spread(&manager).await;
    move_spread(&manager).await;
    plan_by_group(&manager).await;
    let map = manager.map();
    manager.close();
    drop(manager);
    assert_eq!(findings(dir.path()), Vec::<String>::new());
    for wanted in [more, ClusterSpec::default()] {
        let again = open(dir.path(), wanted).expect("it starts again");
        assert_eq!(again.map(), map);
        find_vertically(&again).await;
        find_spread(&again).await;
        again.close();
    }
}

#[tokio::test]
async fn a_cluster_of_the_version_before_gets_groups_and_keeps_its_rows() {
    let cluster = Cluster::with(with_replicas(3, 1));
    create(&cluster.manager, "pupils").await;
    let before = cluster.manager.map();
    let dir = cluster.stop();
    let down = include_str!("../../../migrations/sqlite/catalog/2026-11-25-000060_groups/down.sql");
    let forget = "DELETE FROM __diesel_schema_migrations WHERE version=";
    let catalog = dir.path().join("catalog.db");
    execute(&catalog, down);
    execute(&catalog, &format!("{forget}'20261125000060'"));
    let down = include_str!("../../../migrations/sqlite/shard/2026-11-25-000006_groups/down.sql");
    for shard in 1..=3 {
        let file = shard_file(dir.path(), shard);
        execute(&file, down);
        execute(&file, &format!("{forget}'20261125000006'"));
    }
    let manager = open(dir.path(), with_groups(vec![hybrid()])).expect("it starts");
    assert_eq!(
        manager.map().groups().owners(GroupNumber::MAIN),
        before.groups().owners(GroupNumber::MAIN)
    );
    assert_eq!(count(&manager, "pupils", None).await, 0);
    store_spread(&manager).await;
    manager.close();
    assert_eq!(findings(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_start_that_died_before_the_shards_had_their_slots_is_finished_by_the_next_one() {
    let cluster = Cluster::with(with_groups(vec![hybrid()]));
    let dir = cluster.stop();
    let catalog = dir.path().join("catalog.db");
    execute(&catalog, "UPDATE tessera_groups SET ready = 0");
    for shard in 1..=3 {
        let file = shard_file(dir.path(), shard);
        execute(&file, "DELETE FROM tessera_slots WHERE slot >= 16384");
    }
    let manager = open(dir.path(), ClusterSpec::default()).expect("it starts");
    store_spread(&manager).await;
    manager.close();
    assert_eq!(texts(&catalog, "SELECT ready || '' AS value FROM tessera_groups"), ["1"]);
    assert_eq!(findings(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_shard_that_joins_later_has_the_tables_in_their_groups() {
    let cluster = Cluster::with(with_groups(vertical()));
    store_vertically(&cluster.manager).await;
    let manager = &cluster.manager;
    let shard = NewShard { name: "shard4".to_owned(), weight: 1, url: None };
    kept_up(manager, async {
        let deadline = crate::cluster::deadline();
        manager.shards().join(shard, None, deadline).await.expect("it joins");
    })
    .await;
    create(manager, "later").await;
    let cluster = cluster.restart_after(|dir| {
        let groups = "SELECT name || group_number AS value FROM tessera_tables ORDER BY name";
        let of = |shard| texts(&shard_file(dir, shard), groups);
        assert_eq!(of(4), of(1));
        assert!(of(4).contains(&"transactions1".to_owned()), "{:?}", of(4));
    });
    find_vertically(&cluster.manager).await;
}

#[tokio::test]
async fn settings_that_contradict_a_group_are_refused_or_not_in_force() {
    let cluster = Cluster::with(with_groups(vec![hybrid()]));
    let map = cluster.manager.map();
    let dir = cluster.stop();
    let spec = |change: fn(&mut GroupSpec)| {
        let mut group = hybrid();
        change(&mut group);
        with_groups(vec![group])
    };
    let other = spec(|group| group.keyspace = Some(Keyspace::Hash));
    let reported = refusal(dir.path(), other);
    assert!(reported.contains("has the group with modulo"), "{reported}");
    let rendezvous = "rendezvous".parse().expect("a placement");
    let group = GroupSpec { placement: Some(rendezvous), ..hybrid() };
    let found = differences(&map, &with_groups(vec![group]), "it").expect("no refusal").concat();
    let command = "rebalance --by placement --group events --placement 'rendezvous'`";
    assert!(found.contains(command), "{found}");
    for tolerated in [
        spec(|group| group.shards = None),
        spec(|group| group.shards = Some(vec!["shard9".to_owned()])),
        spec(|group| group.tables.push("users".to_owned())),
        spec(|group| group.placement = Some("rendezvous".parse().expect("a placement"))),
    ] {
        let manager = open(dir.path(), tolerated).expect("it starts as it is");
        assert_eq!(manager.map(), map);
        manager.close();
    }
}

#[test]
fn a_group_that_cannot_be_is_refused_before_anything_is_created() {
    let dir = crate::scratch::folder();
    let group = |name: &str| GroupSpec { name: name.to_owned(), ..GroupSpec::default() };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let on = |shard: &str| Some(names(&[shard]));
    let placed = |text: &str| Some(text.parse().expect("a placement"));
    let cases = [
        (vec![group("Bad")], "`Bad` is not the name of a group"),
        (
            vec![GroupSpec { keyspace: Some(Keyspace::Hash), ..group("main") }],
            "keyspace cannot be set for the group main",
        ),
        (
            vec![GroupSpec { shards: on("shard9"), ..group("a") }],
            "names the shard shard9, which does not exist; there are: shard1",
        ),
        (vec![GroupSpec { shards: Some(Vec::new()), ..group("a") }], "could own its slots"),
        (
            vec![GroupSpec { shards: Some(names(&["shard1", "shard2", "shard1"])), ..group("a") }],
            "group a names the shard shard1 twice: name each of its shards once",
        ),
        (
            vec![GroupSpec { shards: Some(names(&["shard2", "shard2"])), ..group("main") }],
            "group main names the shard shard2 twice",
        ),
        (
            vec![GroupSpec {
                shards: on("shard1"),
                placement: placed("manual:0-16383=shard2"),
                ..group("a")
            }],
            "assigns slots to shard2, which is not one of its shards",
        ),
        (
            vec![GroupSpec { placement: placed("partitions:A=1>shard1"), ..group("a") }],
            "keyspace hash has none",
        ),
        (
            vec![
                GroupSpec { tables: names(&["t"]), ..group("a") },
                GroupSpec { tables: names(&["t"]), ..group("b") },
            ],
            "the groups a and b both name the table t",
        ),
        (vec![GroupSpec { tables: names(&["A"]), ..group("a") }], "not a valid table name"),
        (["a", "b", "c", "d"].map(group).to_vec(), "at most 4 groups"),
    ];
    for (groups, expected) in cases {
        let reported = refusal(dir.path(), ClusterSpec { groups, ..with_replicas(2, 0) });
        assert!(reported.contains(expected), "{reported}");
        assert!(!dir.path().join("shard1-primary.db").exists(), "{expected}");
    }
    // Tables that come with each shard are in `main` once the cluster exists.
    open(dir.path(), with_replicas(2, 0)).expect("a new cluster starts").close();
    let users = GroupSpec { tables: names(&["users"]), ..group("a") };
    let reported = refusal(dir.path(), ClusterSpec { groups: vec![users], ..with_replicas(2, 0) });
    assert!(reported.contains("users, which already belongs to group main"), "{reported}");
    let manager = open(dir.path(), ClusterSpec::default()).expect("it is as before");
    assert_eq!((manager.map().epoch(), manager.map().groups().count()), (1, 1));
    manager.close();
}

#[test]
fn the_slots_of_a_map_belong_to_its_groups_and_no_others() {
    let topology = Topology::with_weights(&[1, 1]).expect("two shards");
    let map = ShardMap::first(Keyspace::Hash, "even".parse().expect("even"), topology);
    let map = map.expect("it fits");
    let group = TableGroup {
        name: "a".to_owned(),
        shards: Some([ShardNumber(1)].into()),
        ..TableGroup::default()
    };
    let next = with_group(&map, group.clone(), 2).expect("it fits");
    assert_eq!((next.epoch(), next.groups().count(), next.owners().count()), (2, 2, 32_768));
    let number = next.groups().find("a").expect("the group");
    assert_eq!(number.slots(), 16_384..=32_767);
    assert!(next.groups().owners(number).iter().all(|owner| *owner == ShardNumber(1)));
    assert_eq!(next.since(Slot::new(16_384).expect("a slot")), 2);
    assert_eq!(next.since(Slot::new(16_383).expect("a slot")), 1);
    assert_eq!(next.groups().ranges(GroupNumber::MAIN), map.ranges());
    let own = SlotSet::of_group(number);
    assert!(next.groups().forbids(&own, ShardNumber(0)).is_some());
    assert!(next.groups().forbids(&own, ShardNumber(1)).is_none());
    assert!(next.groups().forbids(&SlotSet::full(), ShardNumber(0)).is_none());
    let full = ["b", "c"].iter().try_fold(next, |map, name| {
        with_group(&map, TableGroup { name: (*name).to_owned(), ..group.clone() }, 3)
    });
    let full = full.expect("four groups fit");
    assert_eq!(full.owners().last().map(|owner| owner.slot), Some(u16::MAX));
    assert_eq!(with_group(&full, group, 4), Err(GroupFault::TooMany));
    assert_eq!(check_specs(&[]), Ok(()));
}
