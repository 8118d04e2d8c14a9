//! Tests of opening: a cluster is created once, is the same for every router that opens it, and is
//! refused if it does not match its description.

use std::thread;

use shard_manager::access::rights::Rights;
use shard_manager::manager::Manager;
use shard_manager::node_address::ClusterAddress;
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::topology::ShardNumber;
use shard_manager::value::ColumnType::{Bigint, Text, Timestamp};

use crate::cluster::{
    Databases, SideSession, address, cluster_of, connect, refused, shared, try_connect,
};
use crate::log;
use crate::rows::{rows, table, write};

const USER: &str = r#"{"name":"n","email":"e"}"#;

/// A cluster that was opened once and holds a row.
async fn made(shards: usize) -> Databases {
    let databases = Databases::blank(shards).await;
    let manager = connect(&databases.address());
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    manager.close();
    databases
}

/// Address of a cluster of these databases, in this order.
fn of(databases: &Databases, order: &[usize]) -> ClusterAddress {
    let place = |at: &usize| address(&databases.nodes[*at], &databases.names[*at]);
    cluster_of(order.iter().map(place))
}

fn ranges(manager: &Manager) -> Vec<u16> {
    let map = manager.map();
    map.topology()
        .numbers()
        .flat_map(|shard| map.slots_of(shard).take(3).collect::<Vec<_>>())
        .collect()
}

#[tokio::test]
async fn of_routers_that_open_a_new_cluster_concurrently_one_creates_it() {
    let databases = Databases::blank(3).await;
    let address = databases.address();
    let managers: Vec<Manager> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| connect(&address))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (number, manager) in managers.iter().enumerate() {
        assert_eq!(ranges(manager), ranges(&managers[0]));
        for key in 0..20 {
            let key = format!("k{number}-{key}");
            write(manager, "users", Insert, &key, USER).await.unwrap();
        }
    }
    assert_eq!(rows(&managers[0], "users", None).await.len(), 60);
    for (shard, name) in ["shard1", "shard2", "shard3"].into_iter().enumerate() {
        let mut direct = databases.direct_session(shard).await;
        assert_eq!(direct.texts("SELECT shard AS value FROM tessera_shard").await, [name]);
        let clusters = direct.texts("SELECT cluster_id AS value FROM tessera_shard").await;
        let mut first = databases.direct_session(0).await;
        assert_eq!(first.texts("SELECT cluster_id AS value FROM tessera_cluster").await, clusters);
    }
}

#[tokio::test]
async fn a_cluster_that_is_opened_again_is_the_same() {
    let databases = made(3).await;
    let manager = connect(&databases.address());
    assert_eq!(rows(&manager, "users", Some("u")).await.len(), 1);
    write(&manager, "users", Upsert, "v", USER).await.unwrap();
    assert_eq!(rows(&manager, "users", None).await.len(), 2);
}

#[tokio::test]
async fn shards_in_another_order_or_of_another_number_are_those_of_the_catalog() {
    log::listen();
    let databases = made(3).await;
    let map = connect(&databases.address()).map();
    // Each database says which shard it is; the first one of the new cluster holds the catalog.
    for order in [&[0, 2, 1][..], &[1, 0, 2], &[2, 1, 0], &[0, 1], &[0, 1, 2]] {
        let manager = connect(&of(&databases, order));
        assert_eq!(manager.map(), map, "{order:?}");
        assert_eq!(rows(&manager, "users", None).await.len(), 1, "{order:?}");
        for (shard, name) in ["shard1", "shard2", "shard3"].into_iter().enumerate() {
            assert_eq!(manager.shard_name(ShardNumber(shard as u16)), name);
        }
        manager.close();
    }
    log::check_logged(&["no address of shard3 is given", &databases.names[2]]);
    let said = refused(&of(&databases, &[0, 1, 1]));
    assert!(said.contains("shard2 and shard3 are the same database"), "{said}");
    connect(&databases.address()).close();
}

#[tokio::test]
async fn an_empty_database_in_the_settings_does_not_join_and_is_warned_of() {
    log::listen();
    let databases = made(2).await;
    let empty = Databases::blank(1).await;
    let mut more = databases.address();
    more.shards.extend(empty.address().shards);
    for order in [[0, 1, 2], [2, 0, 1]] {
        let shards = order.map(|place| more.shards[place].clone());
        let manager = connect(&ClusterAddress { shards: shards.to_vec(), ..more.clone() });
        assert_eq!(manager.map().topology().len(), 2);
        assert_eq!(rows(&manager, "users", None).await.len(), 1);
        manager.close();
    }
    let name = &*empty.names[0];
    log::check_logged(&[
        name,
        "is the database of no shard: `shard-manager shard add",
        "describe only new clusters",
    ]);
    let mut direct = empty.direct_session(0).await;
    let schemas = "SELECT count(*)::text AS value FROM pg_namespace WHERE nspname='tessera'";
    assert_eq!(direct.text(schemas).await, "0", "nothing was made there");
}

#[tokio::test]
async fn a_database_of_another_cluster_is_refused_and_left_as_it_is() {
    let (one, other) = (made(2).await, made(2).await);
    let mixed = cluster_of([
        address(&one.nodes[0], &one.names[0]),
        address(&other.nodes[1], &other.names[1]),
    ]);
    let said = refused(&mixed);
    assert!(
        said.contains("shard2-primary") && said.contains("belongs to another cluster"),
        "{said}"
    );
    for databases in [one, other] {
        assert_eq!(rows(&connect(&databases.address()), "users", None).await.len(), 1);
    }
}

#[tokio::test]
async fn an_empty_database_where_rows_were_is_refused() {
    let databases = made(2).await;
    let empty = Databases::blank(1).await;
    let replaced = cluster_of([
        address(&databases.nodes[0], &databases.names[0]),
        address(&empty.nodes[0], &empty.names[0]),
    ]);
    // The database of the second shard is where the catalog has it.
    let manager = connect(&replaced);
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    manager.close();
    let mut direct = SideSession::open(&databases.nodes[1], "postgres").await;
    let name = &databases.names[1];
    direct.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    direct.run(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    let lost = databases.address();
    let said = refused(&lost);
    assert!(said.contains("shard2-primary") && said.contains("is empty, and held rows"), "{said}");
    // The second attempt is refused as well, although the database is no longer quite empty.
    assert_eq!(refused(&lost), said);
    // Nor is a complete new cluster created beside the rest of an old one.
    let rest = made(2).await;
    let swapped = cluster_of([
        address(&empty.nodes[0], &empty.names[0]),
        address(&rest.nodes[1], &rest.names[1]),
    ]);
    let said = refused(&swapped);
    assert!(said.contains("shard2-primary") && said.contains("another cluster"), "{said}");
}

#[tokio::test]
async fn nodes_in_another_role_than_listed_are_refused() {
    let databases = made(1).await;
    let (name, replica) = (&databases.names[0], shared().replicas_of(0).next().unwrap());
    let good = databases.with_replicas().await;
    connect(&good).close();
    // A replica listed as primary, and a primary listed as replica.
    let said = refused(&cluster_of([address(replica, name)]));
    assert!(said.contains("shard1-primary") && said.contains("is in recovery"), "{said}");
    let primary = address(&databases.nodes[0], name);
    let mut named = databases.address();
    named.shards[0].replicas = vec![primary.clone()];
    let said = refused(&named);
    assert!(said.contains("shard1-replica1") && said.contains("it is a primary"), "{said}");
    let said = refused(&ClusterAddress { replicas: vec![primary], ..databases.address() });
    assert!(said.contains("it is a primary"), "{said}");
    // A replica of another database: the right server, but a database of another cluster.
    let foreign = Databases::blank(1).await;
    let foreign_replicas = foreign.with_replicas().await.replicas;
    let said =
        refused(&ClusterAddress { replicas: foreign_replicas.clone(), ..databases.address() });
    assert!(said.contains("a replica of none of the shards"), "{said}");
    let mut named = databases.address();
    named.shards[0].replicas = foreign_replicas;
    let said = refused(&named);
    assert!(said.contains("shard1-replica1") && said.contains("not a replica of shard1"), "{said}");
}

#[tokio::test]
async fn a_schema_that_drifted_is_refused_with_the_difference() {
    let databases = made(2).await;
    let mut direct = databases.direct_session(1).await;
    let stories = [
        (
            "ADD COLUMN extra TEXT",
            "users has a column `extra text` that is not declared",
            "DROP COLUMN extra",
        ),
        (
            "RENAME email TO mail",
            "users lacks the column `email text COLLATE \"C\" NOT NULL`",
            "RENAME mail TO email",
        ),
        (
            "ALTER partition_key TYPE varchar COLLATE \"C\"",
            "users lacks the column `partition_key text COLLATE \"C\"`",
            "ALTER partition_key TYPE text COLLATE \"C\"",
        ),
        (
            "ALTER name TYPE text COLLATE \"default\"",
            "users lacks the column `name text COLLATE \"C\" NOT NULL`",
            "ALTER name TYPE text COLLATE \"C\"",
        ),
        (
            "ALTER email DROP NOT NULL",
            "users lacks the column `email text COLLATE \"C\" NOT NULL`",
            "ALTER email SET NOT NULL",
        ),
        (
            "DROP CONSTRAINT users_pkey, ADD PRIMARY KEY (user_id)",
            "the primary key of users is (user_id), not (slot, shard_key, user_id)",
            "DROP CONSTRAINT users_pkey, ADD PRIMARY KEY (slot, shard_key, user_id)",
        ),
        (
            "DROP CONSTRAINT users_pkey",
            "the primary key of users is (), not (slot, shard_key, user_id)",
            "ADD PRIMARY KEY (slot, shard_key, user_id)",
        ),
        ("RENAME TO people", "the table users is declared and is not there", ""),
    ];
    for (change, reported, back) in stories {
        direct.run(&format!("ALTER TABLE users {change}")).await;
        let said = refused(&databases.address());
        assert!(said.contains("shard2-primary") && said.contains(reported), "{change}: {said}");
        let back = if back.is_empty() {
            "ALTER TABLE people RENAME TO users".to_owned()
        } else {
            format!("ALTER TABLE users {back}")
        };
        direct.run(&back).await;
    }
    connect(&databases.address()).close();
}

#[tokio::test]
async fn a_failed_migration_is_reported_and_resumes_after_repair() {
    let databases = Databases::blank(3).await;
    let mut direct = databases.direct_session(1).await;
    direct
        .run("CREATE TABLE public.users (mine TEXT); INSERT INTO users VALUES ('precious')")
        .await;
    for _ in 0..2 {
        let said = refused(&databases.address());
        let all = ["shard2-primary", "migration", "\"users\" already exists"];
        assert!(all.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(direct.texts("SELECT mine AS value FROM users").await, ["precious"]);
    }
    direct.run("ALTER TABLE users RENAME TO mine").await;
    let manager = connect(&databases.address());
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    assert_eq!(direct.texts("SELECT mine AS value FROM mine").await, ["precious"]);
}

#[tokio::test]
async fn the_catalog_may_be_a_database_of_its_own() {
    let (databases, catalog) = (Databases::blank(2).await, Databases::blank(1).await);
    let at = Some(address(&catalog.nodes[0], &catalog.names[0]));
    let apart = ClusterAddress { catalog: at, ..databases.address() };
    let manager = connect(&apart);
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    let notes = table("notes", &[("id", Text), ("n", Bigint), ("at", Timestamp)], 1, &["id"], None);
    crate::rows::make(&manager, &notes).await;
    manager.close();
    let mut direct = catalog.direct_session(0).await;
    assert_eq!(direct.text("SELECT count(*)::text AS value FROM tessera_cluster").await, "1");
    let tables =
        "SELECT count(*)::text AS value FROM pg_class WHERE relname IN ('users', 'tessera_slots')";
    assert_eq!(direct.text(tables).await, "0", "no rows are kept there");
    let mut first = databases.direct_session(0).await;
    let tables = "SELECT count(*)::text AS value FROM pg_class WHERE relname='tessera_cluster'";
    assert_eq!(first.text(tables).await, "0");
    let manager = connect(&apart);
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    assert!(manager.schema(Rights::ALL).table("notes").is_ok());
    // Without that catalog, the shards belong to an unknown cluster; with a catalog of another
    // cluster as well.
    let said = refused(&databases.address());
    assert!(said.contains("shard1-primary") && said.contains("MAINDB_URL"), "{said}");
    // The databases say which shards they are.
    let swapped = ClusterAddress { catalog: apart.catalog.clone(), ..of(&databases, &[1, 0]) };
    let manager = connect(&swapped);
    assert_eq!(rows(&manager, "users", None).await.len(), 1);
    manager.close();
    assert!(try_connect(&apart).is_ok());
}
