//! Tests of catalogs of an earlier version, whose shards and owners are JSON in one row: they
//! become the cluster that they were, and are refused by older programs from then on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use shard_manager::engine::cluster_spec::{ClusterSpec, IN_OWN_TABLES};
use shard_manager::engine::move_record::NewMove;
use shard_manager::keyspace::Slot;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::shard_map::ShardMap;
use shard_manager::store::sqlite::offline_view::DirView;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, execute, open, refusal, texts};

/// The migrations of the version before, with their own versions.
const MIGRATIONS: [(&str, &str); 7] = [
    (
        "20261121000001",
        include_str!("../../../migrations/sqlite/catalog/2026-11-21-000001_cluster/up.sql"),
    ),
    (
        "20261121000002",
        include_str!("../../../migrations/sqlite/catalog/2026-11-21-000002_replicas/up.sql"),
    ),
    (
        "20261121000003",
        include_str!("../../../migrations/sqlite/catalog/2026-11-21-000003_intents/up.sql"),
    ),
    (
        "20261121000004",
        include_str!("../../../migrations/sqlite/catalog/2026-11-21-000004_placements/up.sql"),
    ),
    (
        "20261123000005",
        include_str!("../../../migrations/sqlite/catalog/2026-11-23-000005_access/up.sql"),
    ),
    (
        "20261123000008",
        include_str!("../../../migrations/sqlite/catalog/2026-11-23-000008_access_sessions/up.sql"),
    ),
    (
        "20261123000010",
        include_str!("../../../migrations/sqlite/catalog/2026-11-23-000010_audit/up.sql"),
    ),
];

/// Replaces the catalog of a stopped cluster by one that the version before would have made, with
/// these lists in its columns.
fn make_old(dir: &Path, shards: &str, ranges: &str) {
    let catalog = dir.join("catalog.db");
    let value = |column: &str| {
        let sql = format!("SELECT {column} || '' AS value FROM tessera_cluster");
        texts(&catalog, &sql).pop().expect("a cluster")
    };
    let kept = ["cluster_id", "created_at", "timelines", "secret"].map(value);
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(dir.join(name));
    }
    fs::write(&catalog, "").expect("an empty file");
    execute(
        &catalog,
        "PRAGMA journal_mode=WAL; CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL,
             run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    );
    for (version, sql) in MIGRATIONS {
        execute(&catalog, sql);
        execute(
            &catalog,
            &format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{version}')"),
        );
    }
    let [cluster_id, created_at, timelines, secret] = kept;
    let row = format!(
        r#"INSERT INTO tessera_cluster (id, cluster_id, epoch, keyspace, hash, parameters, slots, placement, shards,
               ranges, created_at, ready, replicas, timelines, secret, placement_parameters)
           VALUES (1, '{cluster_id}', 5, 'hash', 'xxh3_64', '{{"seed":0}}', 16384, 'weighted', '{shards}',
               '{ranges}', '{created_at}', 1, 0, '{timelines}', '{secret}', '{{}}')"#
    );
    execute(&catalog, &row);
}

const SHARDS: &str = r#"[["shard1",3],["shard2",1]]"#;
const RANGES: &str = "[[0,12287,0],[12288,16383,1]]";

/// A stopped cluster of the version before, which holds a row.
async fn old() -> tempfile::TempDir {
    let cluster = Cluster::with(ClusterSpec {
        weights: Some(vec![3, 1]),
        replicas: Some(0),
        ..ClusterSpec::default()
    });
    cluster.write("kv", Upsert, "k", r#"{"value":1}"#).await.expect("stored");
    let dir = cluster.stop();
    make_old(dir.path(), SHARDS, RANGES);
    dir
}

fn assert_is_as_before(map: &ShardMap) {
    let weights: Vec<(&str, u32)> =
        map.topology().shards().iter().map(|shard| (shard.name.as_str(), shard.weight)).collect();
    assert_eq!(weights, [("shard1", 3), ("shard2", 1)]);
    assert_eq!((map.epoch(), map.ranges().len()), (5, 2));
    assert_eq!(map.ranges()[0].last, 12_287);
    assert!((0..16_384).filter_map(Slot::new).all(|slot| map.since(slot) == 1));
}

#[tokio::test]
async fn a_catalog_of_the_version_before_keeps_map_weights_and_epoch() {
    let dir = old().await;
    let map = open(dir.path(), ClusterSpec::default()).expect("migrated").map();
    assert_is_as_before(&map);
    let catalog = dir.path().join("catalog.db");
    let columns =
        "SELECT shards AS value FROM tessera_cluster UNION ALL SELECT ranges FROM tessera_cluster";
    assert_eq!(texts(&catalog, columns), [IN_OWN_TABLES; 2]);
    let stored =
        "SELECT count(*) || ' ' || min(since) || ' ' || max(shard) AS value FROM tessera_owners";
    assert_eq!(texts(&catalog, stored), ["16384 1 1"]);
    assert_eq!(open(dir.path(), ClusterSpec::default()).expect("again").map(), map);
    assert_eq!(DirView::open(dir.path()).expect("readable").map, *map);
}

#[tokio::test]
async fn a_catalog_that_was_migrated_and_not_opened_yet_is_read_from_its_columns() {
    let dir = old().await;
    shard_manager::store::sqlite::migrate::migrate(dir.path(), |_| ()).expect("migrated");
    assert_is_as_before(&DirView::open(dir.path()).expect("readable").map);
    assert_is_as_before(&open(dir.path(), ClusterSpec::default()).expect("opened").map());
}

#[tokio::test]
async fn bad_lists_in_an_old_catalog_are_refused_with_a_sentence_and_stay_as_they_are() {
    for (shards, ranges) in [
        ("[]", RANGES),
        ("{}", RANGES),
        (r#"[["shard1",3],["shard1",1]]"#, RANGES),
        (r#"[["shard1",-3],["shard2",1]]"#, RANGES),
        (SHARDS, "[]"),
        (SHARDS, "7"),
        (SHARDS, "[[0,16383,9]]"),
        (SHARDS, "[[0,99,0],[101,16383,0]]"),
    ] {
        let dir = old().await;
        make_old(dir.path(), shards, ranges);
        let reported = refusal(dir.path(), ClusterSpec::default());
        assert!(reported.contains("catalog.db: the catalog is damaged: "), "{reported}");
        let catalog = dir.path().join("catalog.db");
        let kept = texts(&catalog, "SELECT shards AS value FROM tessera_cluster");
        assert_eq!(kept, [shards]);
    }
}

/// A program of an earlier version reads a list of names and weights from the column, and reports
/// the error of its parser.
#[test]
fn an_older_program_refuses_the_catalog_with_a_sentence() {
    let read: Result<Vec<(String, u32)>, serde_json::Error> = serde_json::from_str(IN_OWN_TABLES);
    let reported = read.expect_err("not a list").to_string();
    assert!(reported.contains("this catalog needs a newer version of Tessera"), "{reported}");
}

#[tokio::test]
async fn a_catalog_of_a_newer_program_is_refused_and_left_as_it_is() {
    let dir = Cluster::with_shards(1).stop();
    let catalog = dir.path().join("catalog.db");
    execute(&catalog, "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
    let reported = refusal(dir.path(), ClusterSpec::default());
    for word in ["catalog.db", "newer than this program", "99990101000000"] {
        assert!(reported.contains(word), "{reported}");
    }
}

/// Reverts the catalog of a stopped cluster to a schema without these migrations, the latest first.
fn revert(dir: &Path, migrations: &[(&str, &str)]) {
    let catalog = dir.join("catalog.db");
    for (version, down) in migrations {
        execute(&catalog, down);
        let forget = format!(
            "DELETE FROM __diesel_schema_migrations WHERE version='{version}' RETURNING version AS value"
        );
        assert_eq!(texts(&catalog, &forget), [*version]);
    }
}

/// The migrations that can be reverted, the latest first.
const REVERTED: [(&str, &str); 5] = [
    (
        "20261125000060",
        include_str!("../../../migrations/sqlite/catalog/2026-11-25-000060_groups/down.sql"),
    ),
    (
        "20261125000050",
        include_str!("../../../migrations/sqlite/catalog/2026-11-25-000050_indexes/down.sql"),
    ),
    (
        "20261124000045",
        include_str!("../../../migrations/sqlite/catalog/2026-11-24-000045_rebalances/down.sql"),
    ),
    (
        "20261124000030",
        include_str!("../../../migrations/sqlite/catalog/2026-11-24-000030_moves/down.sql"),
    ),
    (
        "20261123000020",
        include_str!("../../../migrations/sqlite/catalog/2026-11-23-000020_shards/down.sql"),
    ),
];

#[tokio::test]
async fn the_migrations_can_be_reverted() {
    let dir = old().await;
    let map = open(dir.path(), ClusterSpec::default()).expect("migrated").map();
    revert(dir.path(), &REVERTED);
    let names =
        texts(&dir.path().join("catalog.db"), "SELECT shards AS value FROM tessera_cluster");
    assert_eq!(names, [SHARDS]);
    assert_eq!(open(dir.path(), ClusterSpec::default()).expect("again").map(), map);
}

#[tokio::test]
async fn a_catalog_without_columns_for_moves_gets_them_and_lists_moves() {
    let dir = Cluster::with_shards(2).stop();
    revert(dir.path(), &REVERTED[..4]);
    let manager = open(dir.path(), ClusterSpec::default()).expect("migrated");
    assert_eq!(manager.moves().list().await, Ok(Vec::new()));
    let slot = manager.map().owners().next().expect("a slot").slot;
    let slots = Slot::new(slot).into_iter().collect();
    let source = manager.map().owner(Slot::new(slot).expect("a slot"));
    let (target, keep) = (ShardNumber(1 - source.0), Duration::from_secs(1));
    let new = NewMove { slots, source, target, rate: None, keep };
    let begun = manager.moves().begin(new, Some(1), deadline()).await.expect("it begins");
    assert_eq!(manager.moves().list().await, Ok(vec![begun]));
    manager.close();
}
