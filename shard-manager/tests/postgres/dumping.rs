//! Tests of `docs/dump.sh`: a dump shows all shards at one moment, and a cluster can be restored
//! from it.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::keyspace::ShardKey;
use shard_manager::local::LocalNode;
use shard_manager::manager::Manager;
use shard_manager::node_address::ClusterAddress;
use shard_manager::row_change::Operation::Insert;
use tokio::sync::oneshot::{Sender, channel};

use crate::cluster::{Databases, connect, mortal, shared};
use crate::move_steps::{begin, kept_up, order, slow, store_large, until};
use crate::rows::{rows, write};
use crate::server::runtime;

const USER: &str = r#"{"name":"n","email":"e"}"#;
/// Number of rows that are acknowledged before the dump begins.
const BEFORE: usize = 30;
/// Number of large rows whose slots move while a dump is made.
const MOVED: usize = 60;

fn urls(databases: &Databases) -> Vec<String> {
    let places = databases.nodes.iter().zip(&databases.names);
    places.map(|(node, name)| node.url(name)).collect()
}

fn dump(urls: &[String], target: &Path) -> Output {
    dump_with(urls, &[], target)
}

/// Runs the dump with additional environment variables.
fn dump_with(urls: &[String], variables: &[(&str, &str)], target: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dump.sh");
    let mut command = Command::new(script);
    command.env("SHARD_URLS", urls.join(",")).env_remove("MAINDB_URL").arg(target);
    command.envs(variables.iter().copied());
    command.env("TESSERA_PG_BIN", &shared().programs().bin).output().unwrap()
}

/// Names of the files of a dump.
fn files(target: &Path) -> Vec<String> {
    let names = std::fs::read_dir(target).unwrap().map(|file| file.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn restore(url: &str, dump: &Path) {
    let mut command = Command::new(shared().programs().bin.join("pg_restore"));
    let output = command.args(["--exit-on-error", "--dbname", url]).arg(dump).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Writes causes, and after the acknowledgement of each its effect, usually on another shard.
/// Announces when the first ones are written.
async fn keep_writing(address: &ClusterAddress, over: &AtomicBool, begun: Sender<()>) -> usize {
    let manager = connect(address);
    let (mut number, mut begun) = (BEFORE, Some(begun));
    while !over.load(Ordering::Relaxed) {
        for kind in ["cause", "effect"] {
            write(&manager, "users", Insert, &format!("{kind}-{number}"), USER).await.unwrap();
        }
        number += 1;
        if let Some(begun) = begun.take() {
            begun.send(()).unwrap();
        }
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
    let (sender, begun) = channel();
    let writer = tokio::spawn(async move { keep_writing(&address, &ends, sender).await });
    begun.await.unwrap();
    let (places, made) = (urls(&databases), target.clone());
    let output = tokio::task::spawn_blocking(move || dump(&places, &made)).await.unwrap();
    over.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(written > BEFORE + 1, "nothing was written while it was dumped");
    assert!(target.join("moment").exists());

    let copy = Databases::blank(3).await;
    for (url, name) in urls(&copy).iter().zip(["shard1", "shard2", "shard3"]) {
        restore(url, &target.join(format!("{name}.dump")));
    }
    let mut keys = HashSet::new();
    for shard in 0..3 {
        keys.extend(
            copy.direct_session(shard).await.texts("SELECT shard_key AS value FROM users").await,
        );
    }
    for number in BEFORE..written {
        let has = |kind: &str| keys.contains(&format!("{kind}-{number}"));
        assert!(has("cause") || !has("effect"), "effect-{number} has no cause");
    }
    let restored = connect(&copy.address());
    assert_eq!(rows(&restored, "users", Some("before-7")).await.len(), 1);
    write(&restored, "users", Insert, "after", USER).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_ends_beside_a_dump_and_goes_on_in_the_cluster_that_is_restored_from_it() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.with_replicas().await);
    let slots = store_large(&manager, MOVED).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("dump");
    let id = kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        let (places, made) = (urls(&databases), target.clone());
        let output = tokio::task::spawn_blocking(move || dump(&places, &made)).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        until(&manager, id, &[MovePhase::Keeping]).await;
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
        id
    })
    .await;
    assert_eq!(rows(&manager, "kv", None).await.len(), MOVED);

    let copy = Databases::blank(2).await;
    for (url, name) in urls(&copy).iter().zip(["shard1", "shard2"]) {
        restore(url, &target.join(format!("{name}.dump")));
    }
    let restored = connect(&copy.address());
    kept_up(&restored, async {
        until(&restored, id, &[MovePhase::Keeping]).await;
        order(&restored, id, MoveOrder::Settle).await;
        until(&restored, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!(rows(&restored, "kv", None).await.len(), MOVED);
}

#[tokio::test]
async fn a_dump_that_fails_leaves_no_lock_and_no_file() {
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

/// Holds the lock that excludes all writers of a shard.
const HELD: &str =
    "SELECT count(*)::text AS value FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND (classid, objid) = (1950, 1)
    AND mode = 'ExclusiveLock' AND granted";

/// Keeps a server frozen until it is dropped.
struct Frozen<'n>(&'n LocalNode);

impl<'n> Frozen<'n> {
    fn new(node: &'n LocalNode) -> Self {
        node.freeze().unwrap();
        Self(node)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw().unwrap();
    }
}

/// A key that lies on the first shard.
fn key_of_first(manager: &Manager, prefix: &str) -> String {
    let map = manager.map();
    let mut keys = (0..).map(|number| format!("{prefix}{number}"));
    let place = |key: &String| map.place(ShardKey::parse(key).unwrap()).unwrap();
    keys.find(|key| place(key).shard.index() == 0).unwrap()
}

#[test]
fn a_server_that_freezes_during_a_dump_does_not_block_other_shards() {
    let servers = mortal();
    let nodes: Vec<&LocalNode> = servers.primaries().take(2).collect();
    runtime().block_on(async {
        let databases = Databases::on(&nodes).await;
        let address = databases.address();
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (places, target) = (urls(&databases), folder.path().join("dump"));
        let dumping = |variables: &'static [(&str, &str)]| {
            let (places, target) = (places.clone(), target.clone());
            tokio::task::spawn_blocking(move || dump_with(&places, variables, &target))
        };
        // A batch runs on the second shard: the dump waits for it, and holds the lock of the first.
        let mut batch = databases.direct_session(1).await;
        batch.run("SELECT pg_advisory_lock_shared(1950, 1)").await;
        let mut first = databases.direct_session(0).await;
        let ended = dumping(&[]);
        first.until(HELD, "1").await;
        let frozen = Frozen::new(nodes[1]);
        write(&manager, "users", Insert, &key_of_first(&manager, "a"), USER).await.unwrap();
        let reported = ended.await.unwrap();
        let said = String::from_utf8_lossy(&reported.stderr).into_owned();
        assert!(!reported.status.success() && said.contains("shard2 could not be asked"), "{said}");

        // The dump does not even connect to a server that was frozen before: no writes wait for it.
        let ended = dumping(&[("PGCONNECT_TIMEOUT", "5")]);
        while !ended.is_finished() {
            assert_eq!(first.text(HELD).await, "0");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let reported = ended.await.unwrap();
        let said = String::from_utf8_lossy(&reported.stderr).into_owned();
        assert!(!reported.status.success() && said.contains("shard2 could not be asked"), "{said}");
        write(&manager, "users", Insert, &key_of_first(&manager, "b"), USER).await.unwrap();
        assert!(!target.exists());
        drop((frozen, batch));
        tokio::task::spawn_blocking(move || manager.close()).await.unwrap();
    });
}

#[tokio::test]
async fn a_catalog_in_a_shard_is_dumped_with_it_and_a_separate_one_by_itself() {
    let databases = Databases::new(3).await;
    let places = urls(&databases);
    let address = ClusterAddress {
        shards: databases.address().shards[..2].to_vec(),
        catalog: Some(places[2].parse().unwrap()),
        ..databases.address()
    };
    let manager = connect(&address);
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (apart, within) = (folder.path().join("apart"), folder.path().join("within"));
    let output = dump_with(&places[..2], &[("MAINDB_URL", &places[2])], &apart);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(files(&apart), ["catalog.dump", "moment", "shard1.dump", "shard2.dump"]);
    // The lock of a shared database is taken only once: taking it twice would deadlock.
    let output = dump_with(&places[..2], &[("MAINDB_URL", &places[1])], &within);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(files(&within), ["moment", "shard1.dump", "shard2.dump"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("holds 2 databases as they were at"));
}

#[tokio::test]
async fn a_dump_without_a_shard_that_the_catalog_lists_is_refused_with_its_name() {
    let databases = Databases::new(3).await;
    let places = urls(&databases);
    let manager = connect(&databases.address());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("dump");
    let dumped = |places: &[String]| {
        let output = dump(places, &target);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (is_made, said) = dumped(&places[..2]);
    assert!(!is_made && !target.exists(), "{said}");
    assert!(said.contains("SHARD_URLS does not name: shard3; add"), "{said}");
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    let mut catalog = databases.direct_session(0).await;
    let retired = "UPDATE tessera.tessera_shards SET state='retired' WHERE name='shard3'";
    catalog.run(retired).await;
    let (is_made, said) = dumped(&places[..2]);
    assert!(is_made && target.exists(), "a retired shard has no rows: {said}");
}

#[tokio::test]
async fn without_maindb_url_the_catalog_is_found_in_any_shard_and_a_missing_one_is_an_error() {
    let databases = Databases::blank(3).await;
    let places = urls(&databases);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("dump");
    let dumped = |places: &[String]| {
        let output = dump(places, &target);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let [first, second, third] = &places[..] else { panic!("three databases: {places:?}") };
    let manager = connect(&databases.address());
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    let (is_made, said) = dumped(&[second.clone(), first.clone()]);
    assert!(!is_made && !target.exists(), "{said}");
    assert!(said.contains("SHARD_URLS does not name: shard3; add"), "{said}");
    let (is_made, said) = dumped(&[second.clone(), third.clone()]);
    assert!(!is_made && !target.exists(), "{said}");
    assert!(said.contains("has the catalog: name its address in MAINDB_URL"), "{said}");
    let (is_made, said) = dumped(&[third.clone(), second.clone(), first.clone()]);
    assert!(is_made && target.exists(), "{said}");
}

#[tokio::test]
async fn a_password_is_read_from_the_file_in_the_address_and_never_printed() {
    let databases = Databases::new(2).await;
    let places = urls(&databases);
    let manager = connect(&databases.address());
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_, tail) = places[0].split_once("://tessera:").unwrap();
    let (password, _) = tail.split_once('@').unwrap();
    let file = folder.path().join("password");
    let without = |url: &String| {
        let url = url.replace(&format!(":{password}@"), "@");
        assert!(!url.contains(password), "{url}");
        url
    };
    let apart: Vec<String> = places
        .iter()
        .map(|url| format!("{}?password_file={}", without(url), file.display()))
        .collect();
    for (written, works) in [(format!("{password}\n"), true), ("another".to_owned(), false)] {
        std::fs::write(&file, written).unwrap();
        let target = folder.path().join(format!("dump-{works}"));
        let nothing = [("PGPASSFILE", "/dev/null"), ("PGPASSWORD", "")];
        let output = dump_with(&apart, &nothing, &target);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!((output.status.success(), target.exists()), (works, works), "{said}");
        assert!(!said.contains(password) && !said.contains("another"), "{said}");
    }
    let seen = format!("{}?password={password}", without(&places[0]));
    let output = dump(&[seen], &folder.path().join("seen"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("put it before the @") && !said.contains(password), "{said}");
}
