//! Dumping: what `docs/dump.sh` makes is of one moment over all shards, and a cluster can be made of it.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use shard_manager::address::ClusterAddress;
use shard_manager::row::Operation::Insert;

use crate::cluster::{Databases, connect, shared};
use crate::rows::{rows, write};

const USER: &str = r#"{"name":"n","email":"e"}"#;
/// Rows that are acknowledged before the dump begins.
const BEFORE: usize = 30;

fn urls(databases: &Databases) -> Vec<String> {
    let places = databases.nodes.iter().zip(&databases.names);
    places.map(|(node, name)| node.url(name)).collect()
}

fn dump(urls: &[String], target: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dump.sh");
    let mut command = Command::new(script);
    command.env("SHARD_URLS", urls.join(",")).env_remove("MAINDB_URL").arg(target);
    command.env("TESSERA_PG_BIN", &shared().programs().bin).output().unwrap()
}

fn restore(url: &str, dump: &Path) {
    let mut command = Command::new(shared().programs().bin.join("pg_restore"));
    let output = command.args(["--exit-on-error", "--dbname", url]).arg(dump).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Causes, and effects that are written once their cause is acknowledged; in another shard, mostly.
async fn keep_writing(address: &ClusterAddress, over: &AtomicBool) -> usize {
    let manager = connect(address);
    let mut number = BEFORE;
    while !over.load(Ordering::Relaxed) {
        for kind in ["cause", "effect"] {
            write(&manager, "users", Insert, &format!("{kind}-{number}"), USER).await.unwrap();
        }
        number += 1;
    }
    manager.close();
    number
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_holds_no_effect_without_its_cause_and_a_cluster_goes_on_with_it() {
    let databases = Databases::new(3).await;
    let manager = connect(&databases.address());
    for number in 0..BEFORE {
        write(&manager, "users", Insert, &format!("before-{number}"), USER).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("dump");
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let (address, ends) = (databases.address(), over.clone());
    let writer = tokio::spawn(async move { keep_writing(&address, &ends).await });
    let (places, made) = (urls(&databases), target.clone());
    let output = tokio::task::spawn_blocking(move || dump(&places, &made)).await.unwrap();
    over.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(written > BEFORE, "nobody wrote while it was dumped");
    assert!(target.join("moment").exists());

    let copy = Databases::new(3).await;
    for (url, name) in urls(&copy).iter().zip(["shard1", "shard2", "shard3"]) {
        restore(url, &target.join(format!("{name}.dump")));
    }
    let mut keys = HashSet::new();
    for shard in 0..3 {
        keys.extend(copy.door(shard).await.texts("SELECT shard_key AS value FROM users").await);
    }
    for number in BEFORE..written {
        let has = |kind: &str| keys.contains(&format!("{kind}-{number}"));
        assert!(has("cause") || !has("effect"), "effect-{number} has no cause");
    }
    let restored = connect(&copy.address());
    assert_eq!(rows(&restored, "users", Some("before-7")).await.len(), 1);
    write(&restored, "users", Insert, "after", USER).await.unwrap();
}

#[tokio::test]
async fn a_dump_that_fails_leaves_no_lock_and_nothing_of_its_name() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("dump");
    let mut places = urls(&databases);
    places.push("postgres://nobody:canary-5521@127.0.0.1:1/nowhere".to_owned());
    let output = dump(&places, &target);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("shard3 could not be asked") && !said.contains("canary"), "{said}");
    assert!(!target.exists());
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    std::fs::create_dir(&target).unwrap();
    let output = dump(&urls(&databases), &target);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"));
}
