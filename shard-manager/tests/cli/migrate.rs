//! Tests of `migrate`.

use std::fs;
use std::path::Path;

use crate::cluster::{Cluster, file, meddle, open, run_in, write_users};

/// Returns the shards and owners of a catalog to the columns that they had once.
pub(crate) const SHARDS_IN_COLUMNS: &str =
    include_str!("../../../migrations/sqlite/catalog/2026-11-23-000020_shards/down.sql");

/// Reverts a file to the schema of the first migration.
fn make_old(path: &Path) {
    meddle(
        path,
        "DROP TABLE tessera_idempotency; DROP TABLE tessera_timelines;
         ALTER TABLE tessera_shard DROP COLUMN syncs; ALTER TABLE tessera_shard DROP COLUMN timeline;
         DELETE FROM __diesel_schema_migrations WHERE version = '20261121000002'",
    );
}

/// Reverts a whole cluster to the schema of the first version.
fn make_oldest(dir: &Path) {
    for shard in 1..=3 {
        for node in ["primary", "replica1"] {
            let path = file(dir, &format!("shard{shard}-{node}"));
            make_old(&path);
            meddle(
                &path,
                "ALTER TABLE tessera_tables DROP COLUMN made_at;
                 ALTER TABLE tessera_tables DROP COLUMN group_number;
                 DROP TABLE tessera_moves; DROP TABLE tessera_move_counts;
                 DROP TABLE tessera_foreign_counts;
                 ALTER TABLE tessera_slots DROP COLUMN fenced_at;
                 ALTER TABLE tessera_shard DROP COLUMN generation;
                 DELETE FROM __diesel_schema_migrations WHERE version > '20261121000001'",
            );
        }
    }
    meddle(&file(dir, "catalog"), SHARDS_IN_COLUMNS);
    meddle(
        &file(dir, "catalog"),
        "DROP TABLE tessera_groups; DROP TABLE tessera_indexes;
         DROP TABLE tessera_access; DROP TABLE tessera_access_keys;
         DROP TABLE tessera_access_roles; DROP TABLE tessera_access_denials;
         DROP TABLE tessera_access_usage; DROP TABLE tessera_access_log;
         DROP TABLE tessera_audit; DROP TABLE tessera_audit_heads;
         DROP TABLE tessera_intents; ALTER TABLE tessera_cluster DROP COLUMN replicas;
         ALTER TABLE tessera_cluster DROP COLUMN timelines;
         ALTER TABLE tessera_cluster DROP COLUMN secret;
         ALTER TABLE tessera_cluster DROP COLUMN placement_parameters;
         DELETE FROM __diesel_schema_migrations WHERE version > '20261121000001'",
    );
}

#[test]
fn a_cluster_is_backed_up_before_it_is_migrated() {
    let dir = Cluster::filled().stop();
    make_oldest(dir.path());
    let names = ["catalog", "shard1-primary", "shard2-primary", "shard3-primary"];
    let files = || names.map(|name| fs::read(file(dir.path(), name)).unwrap());
    let (old, pending) = (files(), run_in(dir.path(), &["migrate", "--dry-run"]).expect(0).out);
    let copies = tempfile::tempdir().unwrap();
    let (copy, home) = (copies.path().join("copy"), copies.path().join("data"));
    run_in(dir.path(), &["backup", "--to", copy.to_str().unwrap()]).expect(0);
    assert!(files() == old, "no byte has changed");
    assert_eq!(run_in(dir.path(), &["migrate", "--dry-run"]).expect(0).out, pending);
    run_in(dir.path(), &["backup", "--verify", copy.to_str().unwrap()]).expect(0);
    run_in(&home, &["restore", "--from", copy.to_str().unwrap()]).expect(0);
    // The copy has the old schema; its first start migrates it.
    run_in(&home, &["status"]).refused("run `shard-manager migrate`");
    let manager = open(&home, 3, 1);
    write_users(&manager, 60..61);
    manager.close();
    let report = run_in(&home, &["check", "--json"]).expect(0).json();
    assert_eq!(report["findings"], serde_json::json!([]));
    let ended = run_in(&home, &["export", "--table", "users"]).expect(0);
    assert_eq!(ended.out.lines().count(), 61);
}

#[test]
fn pending_migrations_are_listed_then_run_and_then_there_are_none() {
    let dir = Cluster::filled().stop();
    make_old(&file(dir.path(), "shard1-primary"));
    make_old(&file(dir.path(), "shard2-replica1"));
    let old = fs::read(file(dir.path(), "shard1-primary")).unwrap();
    let plan = run_in(dir.path(), &["migrate", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(fs::read(file(dir.path(), "shard1-primary")).unwrap(), old, "nothing was done");
    let done = run_in(dir.path(), &["migrate", "--json"]).expect(0).json();
    assert_eq!(plan, done);
    let applied = |name: &str| {
        let files = done.as_array().unwrap();
        files.iter().find(|file| file["file"] == name).unwrap()["migrations"].clone()
    };
    assert_eq!(done.as_array().unwrap().len(), 7);
    assert_eq!(applied("shard1-primary.db"), serde_json::json!(["2026-11-21-000002_replicas"]));
    assert_eq!(applied("shard2-replica1.db"), serde_json::json!(["2026-11-21-000002_replicas"]));
    assert_eq!(applied("catalog.db"), serde_json::json!([]));
    let ended = run_in(dir.path(), &["migrate"]).expect(0);
    assert!(ended.out.contains("shard1-primary.db\tup to date"), "{ended:#?}");
    run_in(dir.path(), &["status"]).expect(0);
}

#[test]
fn the_cluster_of_a_running_router_is_not_migrated() {
    let cluster = Cluster::filled();
    run_in(cluster.path(), &["migrate"]).refused("is in use by another router or command");
    run_in(cluster.path(), &["migrate", "--dry-run"]).expect(0);
}

#[test]
fn nothing_is_migrated_while_a_file_is_newer_foreign_or_missing() {
    let dir = Cluster::filled().stop();
    make_old(&file(dir.path(), "shard1-primary"));
    let old = fs::read(file(dir.path(), "shard1-primary")).unwrap();
    let last = file(dir.path(), "shard3-replica1");
    let good = fs::read(&last).unwrap();
    meddle(&last, "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
    run_in(dir.path(), &["migrate"]).refused("newer than this program");
    fs::write(&last, &good).unwrap();
    meddle(&last, "UPDATE tessera_shard SET cluster_id = 'another'");
    run_in(dir.path(), &["migrate"]).refused("not the file of this shard");
    fs::remove_file(&last).unwrap();
    fs::remove_file(file(dir.path(), "shard3-primary")).unwrap();
    run_in(dir.path(), &["migrate"]).refused("missing or empty");
    assert_eq!(fs::read(file(dir.path(), "shard1-primary")).unwrap(), old);
}

#[test]
fn an_unclean_stop_is_still_recorded_after_a_migration() {
    let dir = Cluster::filled().stop();
    fs::write(dir.path().join("tessera.lock"), "1").unwrap();
    run_in(dir.path(), &["migrate"]).expect(0);
    let status = run_in(dir.path(), &["status", "--json"]).expect(0).json();
    assert_eq!(status["router"]["clean"], false);
}
