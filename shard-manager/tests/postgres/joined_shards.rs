//! Tests of shards that join a cluster of servers while it is open: their databases, the other
//! routers, joins that are cut off, and shards that retire.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::new_shard::NewShardRefusal;
use shard_manager::engine::slot_change::{SlotChange, SlotStep};
use shard_manager::engine::{OpenedCluster, OpenedShard, WriteGroup, WriterKind};
use shard_manager::error::Error;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::Data;
use shard_manager::map_change::{MapChange, MapChangeRefusal};
use shard_manager::node_address::ClusterAddress;
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::topology::{ShardNumber, ShardState};
use shard_manager::value::ColumnType::{Bigint, Text};

use crate::cluster::{Databases, SideSession, address, connect};
use crate::log;
use crate::new_shard::{
    change, check, enter, join, list, open_listed, refusal, router, try_open, until, url,
};
use crate::rows::{self, rows, table, write};

const USER: &str = r#"{"name":"n","email":"e"}"#;
const SECOND: ShardNumber = ShardNumber(1);

/// A cluster of one shard with the table `notes`, and an empty database with its URL.
async fn made() -> (Databases, Databases, String) {
    let databases = Databases::blank(1).await;
    let manager = connect(&databases.address());
    let notes = table("notes", &[("id", Text), ("n", Bigint)], 1, &["id"], None);
    rows::make(&manager, &notes).await;
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    manager.close();
    let empty = Databases::blank(1).await;
    let url = url(&empty.nodes[0], &empty.names[0]);
    (databases, empty, url)
}

/// Settings that also list the database of the new shard.
fn with_url(databases: &Databases, empty: &Databases) -> ClusterAddress {
    let mut all = databases.address();
    all.shards.extend(empty.address().shards);
    all
}

/// Names, states and addresses in the catalog.
async fn listed(databases: &Databases) -> Vec<String> {
    let shards = "SELECT name||' '||state||' '||coalesce(address,'') AS value
        FROM tessera_shards ORDER BY number";
    databases.direct_session(0).await.texts(shards).await
}

/// Takes a slot over with the writer of a shard, and inserts a user there.
async fn insert(router: &OpenedCluster, mut opened: OpenedShard) {
    let WriterKind::Task(mut writer, _) = opened.writers.remove(0) else {
        panic!("a server is written to by a task")
    };
    let users = Arc::clone(router.registry.load().find("users").unwrap());
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(USER).unwrap();
    let fields: Vec<_> =
        members.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect();
    let (map, key) = (router.map.load_full(), ShardKey::parse("u").unwrap());
    let (place, row) = Data::prepare(&map, &users, Upsert, key, &fields).unwrap();
    let (slot, row) = (place.slot, [row]);
    let group = || WriteGroup { rows: &row, atomic_rows: None };
    let refused = writer.apply(&[group()]).await.unwrap().rows.remove(0);
    assert!(matches!(refused, Err(Error::SlotRefused(_))), "{refused:?}");
    let slots = [slot].into_iter().collect();
    writer.change_slots(&SlotChange { slots, step: SlotStep::TakeOver }).await.unwrap();
    let done = writer.apply(&[group()]).await.unwrap().rows.remove(0);
    assert!(done.is_ok(), "{done:?}");
}

#[tokio::test]
async fn a_shard_joins_with_all_tables_and_without_slots_and_every_router_follows() {
    let (databases, empty, url) = made().await;
    let (one, other) = (router(&databases.address()), router(&databases.address()));
    let (number, opened) = join(&one, "new", &url).await;
    assert_eq!((number, one.map.load().topology().len()), (SECOND, 2));
    let mut direct = empty.direct_session(0).await;
    assert_eq!(direct.text("SELECT shard AS value FROM tessera_shard").await, "new");
    assert_eq!(direct.text("SELECT count(*)::text AS value FROM tessera_slots").await, "0");
    let tables = "SELECT count(*)::text AS value FROM pg_class
        WHERE relname IN ('notes', 'users') AND relnamespace = 'public'::regnamespace";
    assert_eq!(direct.text(tables).await, "2");
    assert_eq!(listed(&databases).await[1], format!("new serving {url}"));
    let tables = tables_of(&one);
    insert(&one, opened).await;
    assert_eq!(direct.text("SELECT count(*)::text AS value FROM users").await, "1");
    // The other router opens it and publishes the maps that name it.
    until("the epoch of the join", || other.map.load().epoch() == 3).await;
    let _opened = open_listed(&other, SECOND).await;
    change(&one, MapChange::Weight { shard: SECOND, weight: 5 }).await.unwrap();
    until("the new shard", || other.map.load().topology().len() == 2).await;
    let map = other.map.load_full();
    let shard = &map.topology().shards()[1];
    assert_eq!((shard.weight, shard.state), (5, ShardState::Serving));
    assert_eq!(tables_of(&other), tables, "every table is still known");
}

/// Names of the tables that a router knows.
fn tables_of(router: &OpenedCluster) -> Vec<String> {
    router.registry.load().tables().map(|table| table.name().to_owned()).collect()
}

#[tokio::test]
async fn routers_that_let_a_shard_join_at_once_make_one() {
    let (databases, empty, url) = made().await;
    let (one, other) = (router(&databases.address()), router(&databases.address()));
    let found = tokio::join!(check(&one, "new", &url), check(&other, "new", &url));
    let addresses = (found.0.unwrap(), found.1.unwrap());
    assert_eq!(addresses.0, addresses.1);
    let new = |address| MapChange::NewShard { name: "new".into(), weight: 1, address };
    let (first, second) =
        tokio::join!(change(&one, new(addresses.0)), change(&other, new(addresses.1)));
    let stale = [first, second].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(stale[..], [MapChangeError::Stale { .. }]), "{stale:?}");
    let (first, second) = tokio::join!(try_open(&one, SECOND), try_open(&other, SECOND));
    let (_first, _second) = (first.unwrap(), second.unwrap());
    let mut direct = empty.direct_session(0).await;
    assert_eq!(direct.texts("SELECT shard AS value FROM tessera_shard").await, ["new"]);
    assert_eq!(listed(&databases).await.len(), 2);
}

/// Step after which a join is cut off.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Listed,
    Begun,
    Claimed,
}

/// Begins a join and ends its router.
async fn cut_off(databases: &Databases, empty: &Databases, url: &str, cut: Cut) {
    let router = router(&databases.address());
    list(&router, "new", url).await;
    let mut direct = empty.direct_session(0).await;
    match cut {
        Cut::Listed => {}
        Cut::Begun => direct.run("CREATE SCHEMA tessera").await,
        Cut::Claimed => drop(try_open(&router, SECOND).await.unwrap()),
    }
}

#[tokio::test]
async fn a_start_finishes_a_join_that_was_cut_off() {
    for cut in [Cut::Listed, Cut::Begun, Cut::Claimed] {
        for is_listed in [false, true] {
            let (databases, empty, url) = made().await;
            cut_off(&databases, &empty, &url, cut).await;
            let settings =
                if is_listed { with_url(&databases, &empty) } else { databases.address() };
            let manager = connect(&settings);
            let map = manager.map();
            let state = map.topology().shards()[1].state;
            assert_eq!((map.epoch(), state), (3, ShardState::Serving), "{cut:?} {is_listed}");
            assert_eq!(listed(&databases).await[1], format!("new serving {url}"));
            assert_eq!(rows(&manager, "users", None).await.len(), 1);
            assert_eq!(rows(&manager, "notes", None).await.len(), 0);
            // A table is created on the new shard too.
            let more = table("more", &[("id", Text)], 1, &["id"], None);
            rows::make(&manager, &more).await;
            manager.close();
            let mut direct = empty.direct_session(0).await;
            let tables = "SELECT count(*)::text AS value FROM tessera_tables
                WHERE name IN ('more', 'notes')";
            assert_eq!(direct.text(tables).await, "2", "{cut:?} {is_listed}");
            assert_eq!(direct.text("SELECT count(*)::text AS value FROM tessera_slots").await, "0");
            connect(&settings).close();
        }
    }
}

#[tokio::test]
async fn a_join_that_was_cut_off_can_be_repeated() {
    for cut in [Cut::Listed, Cut::Begun, Cut::Claimed] {
        let (databases, empty, url) = made().await;
        let router = router(&databases.address());
        cut_off(&databases, &empty, &url, cut).await;
        until("the epoch of the join", || router.map.load().epoch() == 2).await;
        let found = check(&router, "new", &url).await.unwrap();
        assert_eq!(found.as_deref(), Some(&*url), "{cut:?}");
        let opened = open_listed(&router, SECOND).await;
        enter(&router, SECOND, ShardState::Serving).await;
        insert(&router, opened).await;
    }
}

#[tokio::test]
async fn a_start_leaves_a_joining_shard_out_whose_database_is_gone() {
    log::listen();
    let (databases, empty, url) = made().await;
    cut_off(&databases, &empty, &url, Cut::Claimed).await;
    let mut direct = SideSession::open(&empty.nodes[0], "postgres").await;
    let name = &empty.names[0];
    direct.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    for settings in [databases.address(), with_url(&databases, &empty)] {
        let manager = connect(&settings);
        write(&manager, "users", Upsert, "v", USER).await.unwrap();
        assert_eq!(rows(&manager, "users", None).await.len(), 2);
        manager.close();
    }
    log::check_logged(&["cannot be finished now", name, "there is no such database"]);
    assert_eq!(listed(&databases).await[1], format!("new joining {url}"));
    direct.run(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    let manager = connect(&databases.address());
    assert_eq!(manager.map().topology().shards()[1].state, ShardState::Serving);
    manager.close();
    assert_eq!(listed(&databases).await[1], format!("new serving {url}"));
}

#[tokio::test]
async fn a_shard_that_serves_is_opened_and_never_made_again() {
    let (databases, empty, url) = made().await;
    let (one, other) = (router(&databases.address()), router(&databases.address()));
    join(&one, "new", &url).await;
    let mut direct = empty.direct_session(0).await;
    direct.run("DELETE FROM tessera_tables WHERE name='notes'; DROP TABLE public.notes").await;
    let refused = try_open(&other, SECOND).await.err().unwrap();
    assert!(refused.to_string().contains("it lacks the table notes"), "{refused}");
    direct.run("TRUNCATE tessera_shard").await;
    let refused = try_open(&other, SECOND).await.err().unwrap();
    assert!(refused.to_string().contains("is empty, and held rows"), "{refused}");
    let nothing = try_open(&other, ShardNumber(7)).await.err().unwrap();
    assert!(nothing.to_string().contains("the catalog does not list it"), "{nothing}");
}

#[tokio::test]
async fn a_retired_shard_is_let_go_and_its_name_but_not_its_database_may_come_back() {
    let (databases, empty, url) = made().await;
    let one = router(&databases.address());
    let (number, opened) = join(&one, "new", &url).await;
    let retire = |shard| MapChange::State { shard, state: ShardState::Retired };
    change(&one, retire(number)).await.unwrap();
    opened.stop_replicas();
    drop(opened);
    one.backend.release_shard(number);
    one.map.remove_shard(number).unwrap();
    let mut direct = SideSession::open(&empty.nodes[0], "postgres").await;
    let name = &empty.names[0];
    let sessions =
        format!("SELECT count(*)::text AS value FROM pg_stat_activity WHERE datname='{name}'");
    direct.until(&sessions, "0").await;
    let refused = refusal(&one, "new", &url).await;
    assert!(matches!(refused, NewShardRefusal::NotEmpty { .. }), "{refused:?}");
    let refused = refusal(&one, "later", &url).await.to_string();
    assert!(refused.contains("it was the database of new, which has retired"), "{refused}");
    direct.run(&format!("DROP DATABASE {name}")).await;
    let manager = connect(&databases.address());
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    manager.close();
    direct.run(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    let (number, _opened) = join(&one, "new", &url).await;
    assert_eq!(number, ShardNumber(2), "a number is given once");
}

#[tokio::test]
async fn the_shard_of_the_catalog_and_the_last_one_are_not_retired() {
    let (databases, _empty, url) = made().await;
    let retire = |shard| MapChange::State { shard, state: ShardState::Retired };
    let first = ShardNumber(0);
    let holds = |shard: &str| {
        Err(MapChangeError::Refused(MapChangeRefusal::HoldsCatalog { shard: shard.to_owned() }))
    };
    let one = router(&databases.address());
    let _joined = join(&one, "new", &url).await;
    assert_eq!(change(&one, retire(first)).await, holds("shard1"));
    drop(one);
    // The address of the catalog is that of a shard.
    let catalog = Some(address(&databases.nodes[0], &databases.names[0]));
    let one = router(&ClusterAddress { catalog, ..databases.address() });
    assert_eq!(change(&one, retire(first)).await, holds("shard1"));
    // With a catalog of its own, a shard is kept only by its slots.
    let (shard, catalog) = (Databases::blank(1).await, Databases::blank(1).await);
    let catalog = Some(address(&catalog.nodes[0], &catalog.names[0]));
    let one = router(&ClusterAddress { catalog, ..shard.address() });
    let kept = change(&one, retire(first)).await;
    let has_slots = MapChangeRefusal::HasSlots { shard: "shard1".to_owned(), slots: 16_384 };
    assert_eq!(kept, Err(MapChangeError::Refused(has_slots)));
}
