//! Tests of the settings of a local cluster.

use std::fs;

use shard_manager::local::{LocalCluster, NodeState, Stop};

use crate::servers::{ClusterFolder, ask, until};

#[test]
fn a_setting_that_postgresql_refuses_is_named_and_not_stored() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 0);
    let manifest = || fs::read_to_string(place.dir().join("cluster.json")).unwrap();
    let before = manifest();
    for (name, value, reason) in [
        ("no_such_setting", "1", "unrecognized configuration parameter"),
        ("max_connections", "many", "invalid value"),
        ("shared_buffers", "12XB", "invalid value"),
        ("wal_level", "lots", "Available values: minimal, replica, logical"),
        ("block_size", "8192", "cannot be changed"),
        ("max_connections", "3", "must be more than the 3 connections that are reserved"),
        ("superuser_reserved_connections", "100", "(superuser_reserved_connections + reserved"),
        ("wal_level", "minimal", "needs max_wal_senders=0"),
    ] {
        let said = place.refused(&place.with_settings(0, &[("jit", "on"), (name, value)]));
        let is_reserve = name == "superuser_reserved_connections";
        let named = if is_reserve { "max_connections" } else { name };
        let named = format!("the setting {named}: PostgreSQL refuses it");
        assert!(said.contains(&named) && said.contains(reason), "{said}");
        assert_eq!(manifest(), before, "{name}");
    }
    cluster.down().unwrap();
    let cluster = place.up(1, 0);
    assert_eq!(ask(&cluster.nodes()[0], "SHOW jit"), "off");
}

#[test]
fn an_accepted_setting_is_in_force_after_the_next_start() {
    let place = ClusterFolder::new();
    let settings = [("work_mem", "7MB"), ("tessera.note", "it's 'a' \\ b")];
    let cluster = LocalCluster::up(&place.with_settings(0, &settings)).unwrap();
    for (name, value) in settings {
        assert_eq!(ask(&cluster.nodes()[0], &format!("SHOW {name}")), value, "{name}");
    }
}

#[test]
fn replicas_start_after_settings_were_lowered_and_apply_them_at_their_second_start() {
    const NOW: &str = "SELECT string_agg(setting, ',' ORDER BY name) FROM pg_settings WHERE name IN \
                       ('max_connections', 'max_locks_per_transaction', 'max_wal_senders')";
    let place = ClusterFolder::new();
    let cluster = place.up(1, 1);
    let [primary, replica] = [0, 1].map(|at| cluster.nodes()[at].clone());
    ask(&primary, "CREATE TABLE t (n int)");
    let lower = [
        ("max_connections", "0x28"),
        ("max_locks_per_transaction", "32"),
        ("max_wal_senders", "15"),
    ];
    let cluster = LocalCluster::up(&place.with_settings(1, &lower)).unwrap();
    for node in [&primary, &replica] {
        assert_eq!(ask(node, NOW), "100,64,20", "{} goes on as it runs", node.name);
    }
    for (restarts, of_replica) in [("1", "100,64,20"), ("1,2", "40,32,15")] {
        cluster.down().unwrap();
        let cluster = place.up(1, 1);
        assert!(cluster.nodes().iter().all(|node| node.state() == NodeState::Running));
        assert_eq!(ask(&primary, NOW), "40,32,15");
        assert_eq!(ask(&replica, NOW), of_replica);
        // The replica has replayed the start of its primary when it has this row.
        ask(&primary, "INSERT INTO t SELECT 1 + count(*) FROM t");
        until(&replica, "SELECT string_agg(n::text, ',' ORDER BY n) FROM t", restarts);
    }
}

#[test]
fn settings_with_which_servers_with_replicas_do_not_start_are_refused() {
    let minimal = [("wal_level", "minimal"), ("max_wal_senders", "0")];
    let wal_level = "the setting wal_level: PostgreSQL refuses it: servers with replicas need";
    let place = ClusterFolder::new();
    let slots = "the setting max_replication_slots: PostgreSQL refuses it: it must be at least 2";
    let few_slots = [("max_replication_slots", "1")];
    for (settings, reason) in [(&minimal[..], wal_level), (&few_slots[..], slots)] {
        let said = place.refused(&place.with_settings(2, settings));
        assert!(said.contains(reason), "{said}");
        assert!(!place.dir().exists(), "nothing is left of it");
    }
    // A cluster without replicas may have them, and then gets no replicas.
    LocalCluster::up(&place.with_settings(0, &minimal)).unwrap();
    let manifest = || fs::read_to_string(place.dir().join("cluster.json")).unwrap();
    let before = manifest();
    let said = place.refused(&place.wanted(1, 1));
    assert!(said.contains(wal_level), "{said}");
    assert_eq!(manifest(), before);
}

#[test]
fn a_former_primary_replays_the_log_of_a_replica_that_kept_higher_settings() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 1);
    let [former, promoted] = [0, 1].map(|at| cluster.nodes()[at].clone());
    cluster.down().unwrap();
    let mut cluster =
        LocalCluster::up(&place.with_settings(1, &[("max_connections", "40")])).unwrap();
    ask(&former, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    until(&promoted, "SELECT n FROM t", "1");
    let now = "SHOW max_connections";
    assert_eq!((ask(&former, now), ask(&promoted, now)), ("40".to_owned(), "100".to_owned()));
    // A planned failover: nothing is rewound, so the data of the former primary has its own values.
    cluster.commands().stop(&former.name, Stop::Fast).unwrap();
    cluster.commands().promote(&promoted.name).unwrap();
    cluster.commands().rejoin(&former.name).unwrap();
    assert_eq!(ask(&former, now), "100");
    ask(&promoted, "INSERT INTO t VALUES (2)");
    until(&former, "SELECT string_agg(n::text, ',' ORDER BY n) FROM t", "1,2");
}
