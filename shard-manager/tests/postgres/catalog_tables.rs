//! Tests of the shards and owners in the catalog: those of an earlier version, changes that all
//! routers follow, and addresses that are only there.

use std::time::{Duration, Instant};

use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::cluster_spec::IN_OWN_TABLES;
use shard_manager::keyspace::Slot;
use shard_manager::manager::Manager;
use shard_manager::map_change::MapChange;
use shard_manager::node_address::ClusterAddress;
use shard_manager::row_change::Operation::{Insert, Update};
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::{ShardNumber, ShardState};

use crate::cluster::{Databases, SideSession, connect, refused};
use crate::rows::{rows, write};

const USER: &str = r#"{"name":"n","email":"e"}"#;

/// Version of a migration, and the statements that revert it.
type Reverted = (&'static str, &'static str);

/// The migrations of the catalog that can be reverted, the latest first.
const OF_CATALOG: [Reverted; 6] = [
    (
        "20261125900060",
        include_str!("../../../migrations/postgres/catalog/2026-11-25-900060_groups/down.sql"),
    ),
    (
        "20261125900050",
        include_str!("../../../migrations/postgres/catalog/2026-11-25-900050_indexes/down.sql"),
    ),
    (
        "20261124900045",
        include_str!("../../../migrations/postgres/catalog/2026-11-24-900045_rebalances/down.sql"),
    ),
    (
        "20261124900030",
        include_str!("../../../migrations/postgres/catalog/2026-11-24-900030_moves/down.sql"),
    ),
    (
        "20261123900020",
        include_str!("../../../migrations/postgres/catalog/2026-11-23-900020_shards/down.sql"),
    ),
    (
        "20261123900014",
        include_str!(
            "../../../migrations/postgres/catalog/2026-11-23-900014_access_changes/down.sql"
        ),
    ),
];

/// The migrations of a shard that can be reverted, the latest first.
const OF_SHARD: [Reverted; 6] = [
    (
        "20261126000009",
        include_str!("../../../migrations/postgres/shard/2026-11-26-000009_timelines/down.sql"),
    ),
    (
        "20261126000008",
        include_str!("../../../migrations/postgres/shard/2026-11-26-000008_left_changes/down.sql"),
    ),
    (
        "20261126000007",
        include_str!("../../../migrations/postgres/shard/2026-11-26-000007_activation/down.sql"),
    ),
    (
        "20261125000006",
        include_str!("../../../migrations/postgres/shard/2026-11-25-000006_groups/down.sql"),
    ),
    (
        "20261124000005",
        include_str!("../../../migrations/postgres/shard/2026-11-24-000005_moves/down.sql"),
    ),
    (
        "20261123000002",
        include_str!("../../../migrations/postgres/shard/2026-11-23-000002_slot_changes/down.sql"),
    ),
];

/// Numbers of the migrations of catalog and shards that a version did not have: one before slots
/// moved, and one before the catalog had tables for shards and owners.
const BEFORE_MOVES: (usize, usize) = (4, 4);
const BEFORE_SHARDS: (usize, usize) = (OF_CATALOG.len(), OF_SHARD.len());

/// Returns a stopped cluster, whose first database has the catalog, to the schema of a version
/// without these migrations.
async fn revert(databases: &Databases, direct: &mut SideSession, (catalog, shard): (usize, usize)) {
    undo(direct, &OF_CATALOG[..catalog]).await;
    undo(direct, &OF_SHARD[..shard]).await;
    for number in 1..databases.names.len() {
        undo(&mut databases.direct_session(number).await, &OF_SHARD[..shard]).await;
    }
}

async fn undo(direct: &mut SideSession, migrations: &[Reverted]) {
    direct.run("SET search_path = tessera, public").await;
    for (version, down) in migrations {
        direct.run(down).await;
        direct
            .run(&format!("DELETE FROM __diesel_schema_migrations WHERE version='{version}'"))
            .await;
    }
}

/// Returns a stopped cluster to the schema of the version that had these lists in columns of its
/// catalog, with a later epoch.
async fn make_old(databases: &Databases, direct: &mut SideSession, shards: &str, ranges: &str) {
    revert(databases, direct, BEFORE_SHARDS).await;
    direct
        .run(&format!("UPDATE tessera_cluster SET epoch=5, shards='{shards}', ranges='{ranges}'"))
        .await;
}

/// A dump of the version before shards and owners had tables. Later versions must open what that
/// version stored, so it does not follow changes of the migrations.
const DUMP: &str = include_str!("before_shards.sql");

const SHARDS: &str = r#"[["shard1",3],["shard2",1]]"#;
const RANGES: &str = "[[0,8191,0],[8192,16383,1]]";

/// A cluster of two shards that was opened once and holds a row.
async fn made() -> Databases {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    manager.close();
    databases
}

fn slot(number: u16) -> Slot {
    Slot::new(number).unwrap()
}

async fn until_epoch(manager: &Manager, epoch: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while manager.map().epoch() < epoch {
        assert!(Instant::now() < deadline, "epoch {epoch} is never seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_catalog_of_the_version_before_keeps_map_weights_and_epoch() {
    let databases = made().await;
    let mut direct = databases.direct_session(0).await;
    revert(&databases, &mut direct, BEFORE_SHARDS).await;
    let reverted = direct.text("SELECT shards AS value FROM tessera_cluster").await;
    assert_eq!(reverted, r#"[["shard1", 1], ["shard2", 1]]"#, "the migrations can be reverted");
    connect(&databases.address()).close();
    make_old(&databases, &mut direct, SHARDS, RANGES).await;
    let manager = connect(&databases.address());
    let map = manager.map();
    assert_eq!(map.epoch(), 5);
    let weights: Vec<u32> = map.topology().shards().iter().map(|shard| shard.weight).collect();
    assert_eq!(weights, [3, 1]);
    assert_eq!((map.ranges().len(), map.ranges()[0].last), (2, 8_191));
    assert!((0..16_384).map(slot).all(|slot| map.since(slot) == 1));
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    assert_eq!(direct.text("SELECT ranges AS value FROM tessera_cluster").await, IN_OWN_TABLES);
    let addresses = "SELECT address AS value FROM tessera_shards ORDER BY number";
    let addresses = direct.texts(addresses).await;
    for (address, name) in addresses.iter().zip(&databases.names) {
        assert!(address.ends_with(name.as_str()) && !address.contains('@'), "{address}");
    }
}

#[tokio::test]
async fn a_dump_of_an_earlier_version_opens_with_its_map_and_rows() {
    let databases = Databases::blank(1).await;
    databases.direct_session(0).await.run(DUMP).await;
    let manager = connect(&databases.address());
    let map = manager.map();
    let names: Vec<&str> =
        map.topology().shards().iter().map(|shard| shard.name.as_str()).collect();
    assert_eq!((map.epoch(), names), (1, vec!["shard1"]));
    assert!((0..16_384).map(slot).all(|slot| map.owner(slot) == ShardNumber(0)));
    let user = rows(&manager, "users", Some("user_123")).await;
    assert!(
        user[0].contains(r#""name":"Ada","#) && user[0].contains(r#""version":1,"#),
        "{user:?}"
    );
    assert_eq!(rows(&manager, "kv", Some("key with space")).await.len(), 1);
    write(&manager, "users", Update, "user_123", r#"{"name":"Ada L."}"#).await.unwrap();
    write(&manager, "users", Insert, "new", USER).await.unwrap();
    manager.close();
    let again = connect(&databases.address());
    assert_eq!(rows(&again, "users", None).await.len(), 2);
}

#[tokio::test]
async fn bad_lists_in_an_old_catalog_are_refused_with_a_sentence() {
    let databases = made().await;
    let mut direct = databases.direct_session(0).await;
    make_old(&databases, &mut direct, SHARDS, RANGES).await;
    for (shards, ranges) in [
        ("[]", RANGES),
        ("{}", RANGES),
        (SHARDS, "7"),
        (SHARDS, "[[0,16383,9]]"),
        (SHARDS, "[[0,99,0],[101,16383,0]]"),
    ] {
        let damage = format!("UPDATE tessera_cluster SET shards='{shards}', ranges='{ranges}'");
        direct.run(&damage).await;
        let said = refused(&databases.address());
        assert!(said.contains("the catalog is damaged: "), "{shards} {ranges}: {said}");
    }
    direct.run(&format!("UPDATE tessera_cluster SET shards='{SHARDS}', ranges='{RANGES}'")).await;
    connect(&databases.address()).close();
    direct.run("DELETE FROM tessera_owners WHERE slot=100").await;
    let said = refused(&databases.address());
    assert!(said.contains("the catalog is damaged: ") && said.contains("slot 100"), "{said}");
}

#[tokio::test]
async fn a_catalog_of_a_newer_program_is_refused() {
    let databases = made().await;
    let mut direct = databases.direct_session(0).await;
    direct.run("SET search_path = tessera, public").await;
    // Those of shards and of analytics may be in the same table.
    for version in ["20991231000001", "20991231950001"] {
        let migration = "INSERT INTO __diesel_schema_migrations (version) VALUES";
        direct.run(&format!("{migration} ('{version}')")).await;
        connect(&databases.address()).close();
    }
    direct.run("INSERT INTO __diesel_schema_migrations (version) VALUES ('20991231900001')").await;
    let said = refused(&databases.address());
    assert!(said.contains("newer than this program") && said.contains("20991231900001"), "{said}");
}

#[tokio::test]
async fn a_change_of_owners_is_seen_by_every_router_with_its_epoch() {
    let databases = Databases::new(2).await;
    let (one, other) = (connect(&databases.address()), connect(&databases.address()));
    let slots: SlotSet = (100..164).map(slot).collect();
    let (from, to) = (ShardNumber(0), ShardNumber(1));
    let change = MapChange::Owners { slots: slots.clone(), from, to, floor: None };
    let next = one.shards().change_map(change.clone(), 1).await.unwrap();
    assert_eq!((next.epoch(), one.map()), (2, next.clone()));
    until_epoch(&other, 2).await;
    assert_eq!(other.map(), next);
    for (number, owner, since) in [(99, from, 1), (100, to, 2), (163, to, 2), (164, from, 1)] {
        let map = other.map();
        assert_eq!((map.owner(slot(number)), map.since(slot(number))), (owner, since));
    }
    // The second router changes what the first has changed, and only once.
    let stale = other.shards().change_map(change, 1).await;
    assert_eq!(stale, Err(MapChangeError::Stale { expected: 1, epoch: 2 }));
    let back = MapChange::Owners { slots, from: to, to: from, floor: None };
    let third = other.shards().change_map(back, 2).await.unwrap();
    until_epoch(&one, 3).await;
    assert_eq!((one.map().since(slot(100)), one.map()), (3, third));
    // A shard that joins is known to the catalog; routers that run have not opened it.
    let join = MapChange::NewShard { name: "shard3".into(), weight: 1, address: None };
    let joined = one.shards().change_map(join, 3).await.unwrap();
    assert_eq!(joined.topology().shards()[2].state, ShardState::Joining);
    until_epoch(&other, 4).await;
    assert_eq!(other.map().topology().len(), 2);
    let weight = MapChange::Weight { shard: to, weight: 7 };
    other.shards().change_map(weight, 4).await.unwrap();
    until_epoch(&one, 5).await;
    assert_eq!(one.map().topology().shards()[1].weight, 7);
}

#[tokio::test]
async fn a_catalog_without_columns_for_moves_gets_them() {
    let databases = made().await;
    let mut direct = databases.direct_session(0).await;
    revert(&databases, &mut direct, BEFORE_MOVES).await;
    let manager = connect(&databases.address());
    assert_eq!(manager.moves().list().await, Ok(Vec::new()));
    let phase = "SELECT count(*)::text AS value FROM information_schema.columns
        WHERE table_name = 'tessera_moves' AND column_name = 'phase'";
    assert_eq!(direct.text(phase).await, "1");
}

#[tokio::test]
async fn an_address_of_the_catalog_needs_a_user_for_its_host_and_port() {
    let databases = made().await;
    let whole = databases.address();
    let shards = vec![whole.shards[0].clone()];
    let fewer = ClusterAddress { shards, ..whole.clone() };
    connect(&fewer).close();
    let mut direct = databases.direct_session(0).await;
    direct.run("SET search_path = tessera, public").await;
    let elsewhere = "postgres://192.0.2.1:5499/there";
    direct.run(&format!("UPDATE tessera_shards SET address='{elsewhere}' WHERE number=1")).await;
    let said = refused(&fewer);
    assert!(said.contains("shard2") && said.contains("192.0.2.1:5499/there"), "{said}");
    assert!(said.contains("user") && said.contains("SHARD_URLS"), "{said}");
    // The address of the settings wins, and is the one of the catalog from then on.
    connect(&whole).close();
    connect(&fewer).close();
    direct.run("UPDATE tessera_shards SET address=NULL WHERE number=1").await;
    let said = refused(&fewer);
    assert!(said.contains("shard2") && said.contains("neither in the settings nor in"), "{said}");
}
