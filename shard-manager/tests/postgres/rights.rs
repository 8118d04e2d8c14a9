//! Tests of privileges: what a router's user must be allowed to see of replicas, and the message if
//! it is not; moves of slots by a user without special attributes.

use std::time::{Duration, Instant};

use shard_manager::consistency::Level;
use shard_manager::doctor::{self, Severity};
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::node_address::ClusterAddress;

use crate::cluster::{cluster_of, connect, refused};
use crate::log;
use crate::move_clients::{beside, keys_of};
use crate::move_steps::{LONG, SOURCE, TARGET, begin, clients, kept_up, new, order, owners, until};
use crate::read_write_steps::{at, put, until_replicas};
use crate::server::{ADMIN, Server, run};

/// A primary and its replicas, with the privileges that a router has after its first start.
fn owned(replicas: usize) -> Option<(Server, Vec<Server>)> {
    let primary = Server::start("")?;
    primary.perform(&["CREATE ROLE tessera LOGIN", "CREATE DATABASE shard1 OWNER tessera"]);
    let replicas = (0..replicas).map(|_| primary.replica()).collect();
    Some((primary, replicas))
}

/// One address that lists all of them.
fn listed<'s>(servers: impl IntoIterator<Item = &'s Server>) -> ClusterAddress {
    let hosts: Vec<String> =
        servers.into_iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let address = format!("postgres://tessera@{}/shard1", hosts.join(","));
    cluster_of([address.parse().unwrap()])
}

#[test]
fn hosts_of_one_address_are_checked_for_the_privileges_of_replicas_too() {
    let Some((primary, replicas)) = owned(1) else { return };
    let cluster = listed([&primary, &replicas[0]]);
    let said = refused(&cluster);
    assert!(said.contains("GRANT pg_monitor TO tessera"), "{said}");
    primary.perform(&["GRANT pg_monitor TO tessera"]);
    let manager = connect(&cluster);
    run(async {
        until_replicas(&manager, 1).await;
        put(&manager, "k", &at(Level::All)).await.unwrap();
    });
    manager.close();
}

/// The privilege may be lost later, for example by restoring a dump.
#[test]
fn a_replica_that_hides_its_wal_receiver_is_reported_with_the_statement_that_fixes_it() {
    log::listen();
    let Some((primary, replicas)) = owned(2) else { return };
    primary.perform(&["GRANT pg_monitor TO tessera"]);
    let manager = connect(&listed([&primary, &replicas[0], &replicas[1]]));
    run(async {
        until_replicas(&manager, 2).await;
        put(&manager, "k", &at(Level::All)).await.unwrap();
    });
    primary.perform(&["REVOKE pg_monitor FROM tessera"]);
    run(async { put(&manager, "k", &at(Level::One)).await.unwrap() });
    let end = primary.text("SELECT pg_current_wal_flush_lsn()::text AS value");
    for replica in &replicas {
        let has = format!("SELECT (pg_last_wal_replay_lsn()>='{end}')::text AS value");
        while replica.text(&has) != "true" {}
    }
    primary.stop();
    replicas[0].perform(&["SELECT pg_promote()"]);
    let source = format!("host=127.0.0.1 port={} user={ADMIN}", replicas[0].port);
    replicas[1].perform(&[
        &format!("ALTER SYSTEM SET primary_conninfo = '{source}'"),
        "SELECT pg_reload_conf()",
    ]);
    run(async { put(&manager, "k", &at(Level::One)).await.unwrap() });
    let words = ["WARN", "GRANT pg_monitor", &format!("at=127.0.0.1:{}/", replicas[1].port)];
    let deadline = Instant::now() + Duration::from_secs(60);
    while log::said(&words).is_empty() {
        assert!(Instant::now() < deadline, "{words:?} is not said");
        std::thread::sleep(Duration::from_millis(10));
    }
    replicas[0].perform(&["GRANT pg_monitor TO tessera"]);
    run(async {
        until_replicas(&manager, 1).await;
        put(&manager, "k", &at(Level::Quorum)).await.unwrap();
    });
    manager.close();
}

/// Attributes of the user `tessera`, the number of roles whose privileges it has, and a setting of
/// the server.
const ATTRIBUTES: &str = "SELECT concat_ws(' ', rolsuper, rolreplication, rolcreatedb,
    rolcreaterole, rolbypassrls,
    (SELECT count(*) FROM pg_auth_members WHERE member = pg_roles.oid),
    current_setting('wal_level')) AS value FROM pg_roles WHERE rolname = 'tessera'";

#[test]
fn slots_move_there_and_back_for_a_user_that_only_owns_its_databases_at_wal_level_replica() {
    let Some(server) = Server::start("wal_level = replica\n") else { return };
    server.perform(&[
        "CREATE ROLE tessera LOGIN NOSUPERUSER NOREPLICATION NOCREATEDB NOCREATEROLE NOBYPASSRLS",
        "CREATE DATABASE shard1 OWNER tessera",
        "CREATE DATABASE shard2 OWNER tessera",
    ]);
    let shards = ["shard1", "shard2"].map(|name| server.address("tessera", name));
    let manager = connect(&cluster_of(shards));
    let (keys, slots) = keys_of(&manager, SOURCE, 4);
    let mut clients = clients(&manager, &keys);
    run(kept_up(&manager, async {
        beside(&mut clients, async |rounds| {
            let id = begin(&manager, new(&slots, LONG)).await;
            until(&manager, id, &[MovePhase::Keeping]).await;
            assert_eq!(owners(&manager, &slots), [TARGET]);
            rounds.more(12).await;
            order(&manager, id, MoveOrder::Rollback).await;
            until(&manager, id, &[MovePhase::RolledBack]).await;
            assert_eq!(owners(&manager, &slots), [SOURCE]);
            rounds.more(12).await;
            let id = begin(&manager, new(&slots, Duration::ZERO)).await;
            until(&manager, id, &[MovePhase::Done]).await;
            assert_eq!(owners(&manager, &slots), [TARGET]);
        })
        .await;
    }));
    manager.close();
    assert_eq!(server.text(ATTRIBUTES), "f f f f f 0 replica");
}

/// A user that may not see replicas is sufficient where there are none.
#[test]
fn the_doctor_does_not_mistake_a_separate_catalog_server_for_a_replica() {
    let (Some((shard, _)), Some((apart, _))) = (owned(0), owned(0)) else { return };
    let catalog = format!("postgres://tessera@127.0.0.1:{}/shard1", apart.port);
    let cluster = ClusterAddress { catalog: Some(catalog.parse().unwrap()), ..listed([&shard]) };
    let examined = || run(doctor::servers(&cluster));
    let is_fit = |found: &[doctor::Finding]| {
        found.iter().all(|finding| {
            finding.severity < Severity::Fault && !finding.text.contains("pg_monitor")
        })
    };
    let found = examined();
    assert!(is_fit(&found), "{found:#?}");
    connect(&cluster).close();
    let found = examined();
    let each = found.iter().any(|finding| finding.text.contains("each has one primary"));
    assert!(is_fit(&found) && each, "{found:#?}");
    for port in [shard.port, apart.port] {
        let about = format!("127.0.0.1:{port}/");
        assert!(found.iter().any(|finding| finding.about.contains(&about)), "{found:#?}");
    }
    apart.stop();
    let found = examined();
    let gone = format!("127.0.0.1:{}/", apart.port);
    let faults: Vec<_> =
        found.iter().filter(|finding| finding.severity == Severity::Fault).collect();
    assert!(!faults.is_empty(), "{found:#?}");
    assert!(faults.iter().all(|finding| finding.about.contains(&gone)), "{found:#?}");
}
