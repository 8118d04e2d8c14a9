//! Tests of the catalog and of starting: a directory opens as the cluster it was created as, or the
//! start is refused with the reason.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use serde_json::json;
use shard_manager::engine::cluster_spec::{ClusterSpec, differences};
use shard_manager::keyspace::Keyspace;
use shard_manager::placement::Placement;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::store::sqlite::data_dir::DataDir;
use shard_manager::store::sqlite::offline_view::{Holder, holder};
use shard_manager::store::sqlite::shard_file::migrate_down_and_up;
use shard_manager::store::sqlite::{OpenError, check_version};

use crate::cluster::{Cluster, execute, ints, open, refusal, shard_file, shards, texts};
use crate::prerequisites::{Prerequisite, skip};
use crate::scratch;

/// A stopped cluster that holds one row.
async fn stopped(count: usize) -> tempfile::TempDir {
    let cluster = Cluster::with_shards(count);
    cluster.write("kv", Upsert, "k", r#"{"value":1}"#).await.expect("stored");
    cluster.stop()
}

fn catalog(dir: &Path) -> std::path::PathBuf {
    dir.join("catalog.db")
}

fn assert_contains(reported: &str, words: &[&str]) {
    for word in words {
        assert!(reported.contains(word), "{word:?} is missing in: {reported}");
    }
}

#[tokio::test]
async fn a_second_start_opens_the_same_cluster_with_or_without_settings() {
    let dir = scratch::folder();
    let wanted = ClusterSpec {
        keyspace: Some(Keyspace::Hash),
        placement: Some(Placement::Weighted),
        shards: Some(3),
        weights: Some(vec![50, 25, 25]),
        replicas: None,
        groups: Vec::new(),
    };
    let first = open(dir.path(), wanted.clone()).expect("a new cluster starts").map();
    let same = open(dir.path(), wanted).expect("the same starts").map();
    let silent = open(dir.path(), ClusterSpec::default()).expect("nothing asked").map();
    assert_eq!(first, same);
    assert_eq!(first, silent);
    assert_eq!((first.epoch(), first.topology().len()), (1, 3));
    assert_eq!(first.ranges()[0].last, 8191);
}

#[tokio::test]
async fn a_refused_start_leaves_a_directory_as_clean_or_unclean_as_it_was() {
    let dir = stopped(2).await;
    let (lock, primary) = (dir.path().join("tessera.lock"), shard_file(dir.path(), 2));
    let hidden = primary.with_extension("hidden");
    for noted in ["", "1"] {
        fs::write(&lock, noted).unwrap();
        // Refused by the catalog, and after the files of the first shard were opened.
        let other = ClusterSpec { keyspace: Some(Keyspace::Modulo), ..ClusterSpec::default() };
        open(dir.path(), other).err().expect("another keyspace");
        assert_eq!(fs::read(&lock).unwrap().is_empty(), noted.is_empty());
        fs::rename(&primary, &hidden).unwrap();
        open(dir.path(), ClusterSpec::default()).err().expect("a missing primary");
        assert_eq!(fs::read(&lock).unwrap().is_empty(), noted.is_empty());
        fs::rename(&hidden, &primary).unwrap();
    }
}

#[test]
fn a_new_cluster_has_three_equal_shards_by_default() {
    let dir = scratch::folder();
    let inner = dir.path().join("made/with/its/parents");
    let map = open(&inner, ClusterSpec::default()).expect("starts").map();
    assert_eq!((map.topology().len(), map.placement()), (3, &Placement::Even));
    assert_eq!(map.keyspace(), &Keyspace::Hash);
    let mut owned = ints(&shard_file(&inner, 2), "SELECT slot AS value FROM tessera_slots");
    owned.sort_unstable();
    assert_eq!(owned, (5462..=10_922).collect::<Vec<_>>(), "each file knows its slots");
}

#[tokio::test]
async fn other_settings_than_those_of_the_cluster_are_named_and_not_in_force() {
    let dir = scratch::folder();
    let made = ClusterSpec {
        weights: Some(vec![2, 1]),
        placement: Some(Placement::Weighted),
        ..ClusterSpec::default()
    };
    let map = open(dir.path(), made).expect("a new cluster starts").map();
    let weights =
        |weights: &[u32]| ClusterSpec { weights: Some(weights.to_vec()), ..ClusterSpec::default() };
    let even = ClusterSpec { placement: Some(Placement::Even), ..ClusterSpec::default() };
    for (wanted, words) in [
        (shards(4), ["shards is 4", "the cluster has 2", "shard add NAME"]),
        (shards(1), ["shards is 1", "the cluster has 2", "shard drain NAME"]),
        (even, ["placement is even", "weighted", "rebalance --by placement --placement 'even'`"]),
        (weights(&[1, 1]), ["weights is 1,1", "have 2,1", "shard weight NAME"]),
        (weights(&[2, 1, 1]), ["weights is 2,1,1", "have 2,1", "shard weight NAME"]),
    ] {
        let found = differences(&map, &wanted, "the data directory").expect("no refusal");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_contains(&found[0], &words);
        assert_eq!(open(dir.path(), wanted).expect("it starts").map(), map);
    }
    assert_eq!(differences(&map, &ClusterSpec::default(), "it").expect("none"), [""; 0]);
    assert_eq!(open(dir.path(), ClusterSpec::default()).expect("unchanged").map(), map);
}

#[test]
fn keyspace_and_placement_are_kept_with_their_parameters_and_another_keyspace_is_refused() {
    let dir = scratch::folder();
    let wanted = |keyspace: &str, placement: &str| ClusterSpec {
        keyspace: Some(keyspace.parse().expect("a good keyspace")),
        placement: Some(placement.parse().expect("a good placement")),
        ..shards(3)
    };
    let made = || wanted("list:A=2,B=1", "partitions:A=2>shard3,B=1>shard1");
    let map = open(dir.path(), made()).expect("a new cluster starts").map();
    for again in [made(), ClusterSpec::default()] {
        assert_eq!(open(dir.path(), again).expect("the same starts").map(), map);
    }
    for (keyspace, placement, words) in [
        ("hash", "even", ["keyspace hash", "list:A=2,B=1"]),
        ("list:A=1,B=1", "even", ["keyspace list:A=1,B=1", "list:A=2,B=1"]),
    ] {
        assert_contains(&refusal(dir.path(), wanted(keyspace, placement)), &words);
    }
    for placement in ["even", "partitions:A=2>shard1,B=1>shard3"] {
        let other = wanted("list:A=2,B=1", placement);
        let found = differences(&map, &other, "the data directory").expect("no refusal");
        assert_contains(&found.concat(), &[placement, "partitions:A=2>shard3,B=1>shard1"]);
        assert_eq!(open(dir.path(), other).expect("it starts").map(), map, "nothing moves");
    }
    let elsewhere = scratch::folder();
    let unfit = wanted("hash", "manual:0-16383=shard4");
    assert_contains(&refusal(elsewhere.path(), unfit), &["shard4", "3 shards"]);
    assert!(open(elsewhere.path(), shards(3)).is_ok(), "a refusal leaves nothing in the way");
}

#[test]
fn a_catalog_of_before_placements_had_parameters_is_the_cluster_it_was() {
    let cluster = Cluster::with_shards(2);
    let map = cluster.manager.map();
    let dir = cluster.stop();
    execute(
        &catalog(dir.path()),
        "ALTER TABLE tessera_cluster DROP COLUMN placement_parameters;
         DELETE FROM __diesel_schema_migrations WHERE version='20261121000004'",
    );
    assert_eq!(open(dir.path(), ClusterSpec::default()).expect("migrated").map(), map);
}

#[tokio::test]
async fn a_directory_of_another_keyspace_hash_or_number_of_slots_is_refused_and_names_both() {
    let dir = stopped(2).await;
    for (change, undo, words) in [
        ("keyspace='geo'", "keyspace='hash'", ["keyspace geo", "there are: hash, modulo"]),
        ("keyspace='range'", "keyspace='hash'", ["keyspace range", "no such keyspace"]),
        ("keyspace='modulo'", "keyspace='hash'", ["keyspace modulo", "they should be {}"]),
        ("parameters='{\"seed\":7}'", "parameters='{\"seed\":0}'", ["7", "{\"seed\":0}"]),
        ("hash='murmur3'", "hash='xxh3_64'", ["murmur3", "xxh3_64"]),
        ("slots=1024", "slots=16384", ["1024 slots", "16384 slots"]),
    ] {
        execute(&catalog(dir.path()), &format!("UPDATE tessera_cluster SET {change}"));
        assert_contains(&refusal(dir.path(), ClusterSpec::default()), &words);
        execute(&catalog(dir.path()), &format!("UPDATE tessera_cluster SET {undo}"));
    }
    assert!(open(dir.path(), ClusterSpec::default()).is_ok());
}

#[test]
fn an_impossible_new_cluster_is_refused_and_leaves_no_files() {
    let dir = scratch::folder();
    let reported = refusal(dir.path(), ClusterSpec { weights: Some(vec![1, 2]), ..shards(3) });
    assert_contains(&reported, &["2 weights", "3 shards"]);
    assert_contains(&refusal(dir.path(), shards(0)), &["1 to 256", "0"]);
    assert_contains(&refusal(dir.path(), shards(257)), &["1 to 256", "257"]);
    for (keyspace, placement) in [
        ("list:A=2,B=1", "partitions:A=2>shard1,C=1>shard2"),
        ("list:A=2,B=1", "partitions:A=1>shard1,B=1>shard2"),
        ("list:A=2,B=1", "partitions:A=2>shard1"),
        ("hash", "partitions:A=1>shard1,B=1>shard2"),
        ("range:10,20", "partitions:A=1>shard1"),
    ] {
        let wanted = ClusterSpec {
            keyspace: Some(keyspace.parse().expect("a good keyspace")),
            placement: Some(placement.parse().expect("a good placement")),
            ..shards(2)
        };
        let name = keyspace.split(':').next().unwrap_or(keyspace);
        assert_contains(&refusal(dir.path(), wanted), &["keyspace list", name, placement]);
    }
    let zero = ClusterSpec { weights: Some(vec![1, 0]), ..ClusterSpec::default() };
    assert_contains(&refusal(dir.path(), zero), &["shard2", "0"]);
    assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 0, "nothing was made");
    assert!(open(dir.path(), shards(2)).is_ok());
}

#[test]
fn a_directory_in_use_is_refused_with_the_process_that_uses_it() {
    let cluster = Cluster::with_shards(1);
    let refused = open(cluster.dir.path(), ClusterSpec::default()).err().expect("in use");
    let expected = std::process::id().to_string();
    assert!(matches!(&refused, OpenError::Locked { pid, .. } if *pid == expected), "{refused}");
    let dir = cluster.stop();
    let held = DataDir::open(dir.path()).expect("free again");
    assert!(matches!(DataDir::open(dir.path()), Err(OpenError::Locked { .. })));
    drop(held);
    assert!(DataDir::open(dir.path()).is_ok());
}

#[test]
fn a_directory_stays_held_when_its_lock_file_is_removed_or_replaced() {
    let dir = scratch::folder();
    let lock = dir.path().join("tessera.lock");
    let held = DataDir::open(dir.path()).expect("free");
    for replaced in [false, true] {
        fs::remove_file(&lock).expect("it is there");
        if replaced {
            fs::write(&lock, "4194304").expect("another lock");
        }
        let refused = DataDir::open(dir.path());
        assert!(matches!(refused, Err(OpenError::Locked { .. })), "{refused:?}");
        let holder = holder(dir.path()).expect("the holder is known");
        assert!(matches!(holder, Holder::Process { .. }), "{holder:?}");
        fs::write(&lock, "").expect("the next is removed");
    }
    drop(held);
    assert!(DataDir::open(dir.path()).is_ok(), "free again");
}

#[test]
fn a_lock_whose_process_died_does_not_stand_in_the_way() {
    let dir = scratch::folder();
    fs::write(dir.path().join("tessera.lock"), "4194304").expect("a stale lock");
    let held = DataDir::open(dir.path()).expect("the lock is free");
    let noted = fs::read_to_string(dir.path().join("tessera.lock")).expect("the lock");
    assert_eq!(noted, std::process::id().to_string());
    drop(held);
    // A lock holder that recorded no process id.
    fs::write(dir.path().join("tessera.lock"), "").expect("an empty lock");
    let lock = dir.path().join("tessera.lock");
    let mut other = Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "echo held; read x"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(other) = &mut other else { return skip(Prerequisite::Flock, "there is no flock(1)") };
    let mut text = String::new();
    let mut out = std::io::BufReader::new(other.stdout.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut out, &mut text).expect("the other holds it");
    let refused = DataDir::open(dir.path()).expect_err("held by another process");
    drop(other.stdin.take());
    other.wait().expect("the other ends");
    assert!(matches!(&refused, OpenError::Locked { pid, .. } if pid == "unknown"), "{refused}");
}

#[tokio::test]
async fn a_missing_shard_file_is_reported_as_lost_and_not_created() {
    let dir = stopped(3).await;
    fs::remove_file(shard_file(dir.path(), 2)).expect("a loss");
    assert_contains(
        &refusal(dir.path(), ClusterSpec::default()),
        &["shard2-primary.db", "missing"],
    );
    assert!(!shard_file(dir.path(), 2).exists(), "nor is one made in its place");
}

#[tokio::test]
async fn an_empty_shard_file_is_reported_as_lost() {
    let dir = stopped(1).await;
    fs::write(shard_file(dir.path(), 1), "").expect("a loss");
    assert_contains(&refusal(dir.path(), ClusterSpec::default()), &["shard1-primary.db"]);
}

#[tokio::test]
async fn swapped_files_of_two_shards_are_refused() {
    let dir = stopped(2).await;
    let (one, two) = (shard_file(dir.path(), 1), shard_file(dir.path(), 2));
    let aside = dir.path().join("aside");
    fs::rename(&one, &aside).expect("a swap");
    fs::rename(&two, &one).expect("a swap");
    fs::rename(&aside, &two).expect("a swap");
    assert_contains(
        &refusal(dir.path(), ClusterSpec::default()),
        &["shard1-primary.db", "shard2", "not of shard1"],
    );
}

#[tokio::test]
async fn a_file_of_another_cluster_is_refused() {
    let (dir, other) = (stopped(2).await, stopped(2).await);
    fs::copy(shard_file(other.path(), 2), shard_file(dir.path(), 2)).expect("a mistake");
    assert_contains(
        &refusal(dir.path(), ClusterSpec::default()),
        &["shard2-primary.db", "another cluster"],
    );
}

#[tokio::test]
async fn a_table_that_is_not_as_declared_is_refused_and_named() {
    for (change, words) in [
        ("ALTER TABLE users DROP COLUMN email", ["users", "email", "not there"]),
        ("ALTER TABLE users ADD COLUMN age INTEGER", ["users", "age", "not declared"]),
        ("ALTER TABLE orders RENAME COLUMN note TO notes", ["orders", "note", "not there"]),
        ("DROP TABLE products", ["products", "slot", "not there"]),
        ("UPDATE tessera_tables SET id='[]' WHERE name='kv'", ["kv", "id", "column"]),
        (
            "UPDATE tessera_tables SET column_list=replace(column_list,'bigint','text') WHERE name='orders'",
            ["orders", "amount", "not as declared"],
        ),
        (
            "UPDATE tessera_tables SET column_list=replace(column_list,'false','true') WHERE name='kv'",
            ["kv", "key", "not as declared"],
        ),
    ] {
        let dir = stopped(1).await;
        execute(&shard_file(dir.path(), 1), change);
        assert_contains(&refusal(dir.path(), ClusterSpec::default()), &words);
    }
}

#[tokio::test]
async fn shards_whose_tables_differ_are_refused() {
    let dir = stopped(2).await;
    let gone = "DELETE FROM tessera_tables WHERE name='kv'; DROP TABLE kv";
    execute(&shard_file(dir.path(), 2), gone);
    assert_contains(&refusal(dir.path(), ClusterSpec::default()), &["shard2", "shard1", "tables"]);
}

#[tokio::test]
async fn damaged_files_are_refused_and_named_and_never_a_panic() {
    let damage = |name: &'static str, bytes: Vec<u8>| async move {
        let dir = stopped(1).await;
        fs::write(dir.path().join(name), &bytes).expect("a damage");
        assert_contains(&refusal(dir.path(), ClusterSpec::default()), &[name]);
    };
    for name in ["catalog.db", "shard1-primary.db"] {
        damage(name, b"this is not a database, and long enough to be looked at ".repeat(100)).await;
        damage(name, b"SQLite format 3\0".iter().copied().chain([0xff; 8_000]).collect()).await;
        damage(name, b"SQLite".to_vec()).await;
    }
    for column in [
        "shards='[]'",
        "shards='{}'",
        "ranges='[]'",
        "ranges='[[0,16383,9]]'",
        "ranges='7'",
        "ranges='[[0,99,0],[101,16383,0]]'",
        "shards='[[\"a\",1],[\"a\",1]]'",
        "shards='[[\"a\",-1]]'",
        "placement='else'",
        "placement='ring'",
        "placement_parameters='{\"vnodes\":1}'",
    ] {
        let dir = stopped(1).await;
        execute(&catalog(dir.path()), &format!("UPDATE tessera_cluster SET {column}"));
        assert_contains(&refusal(dir.path(), ClusterSpec::default()), &["catalog.db", "damaged"]);
    }
    for (change, words) in [
        ("DELETE FROM tessera_owners WHERE slot=100", ["damaged", "slot 100"]),
        ("UPDATE tessera_owners SET shard=9 WHERE slot=5", ["slot 5", "number 9"]),
        ("UPDATE tessera_owners SET shard=99999 WHERE slot=5", ["tessera_owners", "out of range"]),
        ("UPDATE tessera_owners SET since=2 WHERE slot=5", ["slot 5", "epoch 2"]),
        ("DELETE FROM tessera_owners", ["damaged", "slot 0"]),
        ("DELETE FROM tessera_shards", ["damaged", "shards"]),
        ("UPDATE tessera_shards SET number=3", ["damaged", "number 0"]),
        ("UPDATE tessera_shards SET weight=0", ["damaged", "weight"]),
        ("UPDATE tessera_shards SET state='retired'", ["damaged", "retired"]),
    ] {
        let dir = stopped(1).await;
        execute(&catalog(dir.path()), change);
        let reported = refusal(dir.path(), ClusterSpec::default());
        assert_contains(&reported, &["catalog.db"]);
        assert_contains(&reported, &words);
    }
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_is_finished_by_the_next() {
    let cluster = Cluster::with_shards(3);
    let map = cluster.manager.map();
    let dir = cluster.stop();
    let id = "SELECT cluster_id AS value FROM tessera_cluster";
    let before = texts(&catalog(dir.path()), id);
    execute(&catalog(dir.path()), "UPDATE tessera_cluster SET ready=0");
    fs::remove_file(shard_file(dir.path(), 2)).expect("not made yet");
    // The creation of the third file was cut off while the file was still empty.
    fs::write(shard_file(dir.path(), 3), "").expect("made, and empty");
    let again = open(dir.path(), ClusterSpec::default()).expect("finished");
    assert_eq!(again.map(), map);
    drop(again);
    assert_eq!(texts(&catalog(dir.path()), id), before);
    assert_eq!(ints(&catalog(dir.path()), "SELECT ready AS value FROM tessera_cluster"), [1]);
    for shard in 1..=3 {
        let owned =
            ints(&shard_file(dir.path(), shard), "SELECT count(*) AS value FROM tessera_slots");
        assert!((5461..=5462).contains(&owned[0]), "shard{shard} owns {owned:?}");
    }
    fs::remove_file(shard_file(dir.path(), 2)).expect("a loss");
    assert_contains(&refusal(dir.path(), ClusterSpec::default()), &["missing"]);
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_does_not_take_another_clusters_file() {
    let (dir, other) = (stopped(1).await, stopped(1).await);
    execute(&catalog(dir.path()), "UPDATE tessera_cluster SET ready=0");
    fs::copy(shard_file(other.path(), 1), shard_file(dir.path(), 1)).expect("a mistake");
    assert_contains(&refusal(dir.path(), ClusterSpec::default()), &["another cluster"]);
}

#[test]
fn migrations_go_up_down_and_up_again() {
    let dir = scratch::folder();
    let (file, fresh) = (dir.path().join("scratch.db"), Cluster::with_shards(1));
    migrate_down_and_up(&file).expect("all of them");
    let schema = "SELECT sql AS value FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
    assert_eq!(texts(&file, schema), texts(&fresh.file(1), schema), "and the schema is the same");
    let counts = "SELECT name AS value FROM tessera_counts ORDER BY name";
    assert_eq!(texts(&file, counts), ["kv", "orders", "products", "transactions", "users"]);
}

#[test]
fn the_sqlite_that_is_linked_in_is_new_enough() {
    check_version().expect("bundled, 3.51.3 or later");
}

#[test]
fn a_directory_that_cannot_be_made_is_refused_and_named() {
    let dir = scratch::folder();
    let file = dir.path().join("a-file");
    fs::write(&file, "").expect("a file");
    assert_contains(&refusal(&file, ClusterSpec::default()), &["a-file: this is a file"]);
    assert_contains(&refusal(&file.join("below"), ClusterSpec::default()), &["a-file"]);
}

proptest! {
    #![proptest_config(crate::cases(24))]

    #[test]
    fn a_catalog_with_bytes_overwritten_is_refused_or_read_but_never_a_panic(
        at in 0_usize..16_384,
        bytes in proptest::collection::vec(any::<u8>(), 1..400),
    ) {
        static MADE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            fs::read(catalog(Cluster::with_shards(1).stop().path())).expect("a catalog")
        });
        let dir = scratch::folder();
        let mut damaged = MADE.clone();
        let end = damaged.len().min(at + bytes.len());
        damaged[at.min(end)..end].copy_from_slice(&bytes[..end - at.min(end)]);
        fs::write(catalog(dir.path()), damaged).expect("a damage");
        if let Err(error) = open(dir.path(), ClusterSpec::default()) {
            prop_assert!(json!(error.to_string()).as_str().is_some_and(|reported| !reported.is_empty()));
        }
    }
}
