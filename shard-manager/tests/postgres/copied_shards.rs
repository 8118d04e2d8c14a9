//! Tests of the shards of a copy: it has those that the catalog lists at its moment, whatever their
//! names.

use std::fs;

use futures_util::future::join;
use serde_json::Value;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::store::postgres::backup::{self, restore};
use shard_manager::topology::ShardState;

use crate::backing_up::{OBSERVER, keys_of_users, small_copy};
use crate::cluster::{Databases, connect, refused};
use crate::new_shard::{enter, list, open_listed, router, url};
use crate::rows::write;
use crate::scratch;

/// Number of sessions that wait for the lock of a change of tables.
const WAITING: &str = "SELECT count(*)::text AS value FROM pg_locks WHERE locktype = 'advisory'
    AND classid = 1950 AND objid = 4 AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_are_named_like_files_of_a_copy_are_restored() {
    let databases = Databases::new(2).await;
    let mut address = databases.address();
    for (shard, name) in address.shards.iter_mut().zip(["catalog", "manifest"]) {
        shard.name = Some(name.to_owned());
    }
    let manager = connect(&address);
    for number in 0..20 {
        let row = r#"{"name":"n","email":"e"}"#;
        write(&manager, "users", Upsert, &format!("user_{number}"), row).await.unwrap();
    }
    manager.close();
    drop(manager);
    let folder = scratch::folder();
    let copy = folder.path().join("copy");
    backup::save(&address, &copy, &OBSERVER).await.unwrap();
    let fresh = Databases::blank(2).await;
    restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
    assert_eq!(keys_of_users(&fresh).await, keys_of_users(&databases).await);
    connect(&fresh.address()).close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_a_shard_that_joined_after_its_sessions_began() {
    let (databases, empty) = (Databases::new(2).await, Databases::blank(1).await);
    let router = router(&databases.address());
    let number = list(&router, "new", &url(&empty.nodes[0], &empty.names[0])).await;
    let _opened = open_listed(&router, number).await;
    let mut first = databases.direct_session(0).await;
    first.run("SELECT pg_advisory_lock(1950, 4)").await;
    let (address, folder) = (databases.address(), scratch::folder());
    let copy = folder.path().join("copy");
    let joining = async {
        first.until(WAITING, "1").await;
        enter(&router, number, ShardState::Serving).await;
        first.run("SELECT pg_advisory_unlock(1950, 4)").await;
    };
    let (saved, ()) = join(backup::save(&address, &copy, &OBSERVER), joining).await;
    let saved = saved.unwrap();
    let names: Vec<&str> = saved.shards.iter().map(|shard| &*shard.shard).collect();
    assert_eq!(names, ["shard1", "shard2", "new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lacks_a_shard_of_its_catalog_is_refused() {
    let (_databases, _folder, copy) = small_copy().await;
    let path = copy.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["shards"].as_array_mut().unwrap().pop();
    fs::write(&path, manifest.to_string()).unwrap();
    let refused = restore::verify(&copy, &OBSERVER).unwrap_err().to_string();
    assert!(refused.contains("it lists the shard shard2, which the copy lacks"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_router_starts_while_a_shard_has_a_part_of_a_copy() {
    let databases = Databases::new(2).await;
    connect(&databases.address()).close();
    databases.direct_session(1).await.run("CREATE TABLE tessera.tessera_restore ()").await;
    let reason = refused(&databases.address());
    let parts = ["shard2", "is running or was interrupted: wait for it, or run it again"];
    assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
}
