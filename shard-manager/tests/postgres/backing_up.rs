//! Tests of `backup` and `restore` on servers: a copy is of one moment, a cluster goes on with it,
//! and what cannot be copied or restored changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shard_manager::access::rights::Rights;
use shard_manager::engine::audit_report::AuditOptions;
use shard_manager::engine::backup_folder::BackupFolder;
use shard_manager::engine::backup_id::BackupId;
use shard_manager::engine::backup_view::BackupState;
use shard_manager::engine::index_record::IndexState;
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::engine::new_shard::NewShard;
use shard_manager::engine::progress_observer::{ProgressObserver, Step};
use shard_manager::engine::save_error::SaveError;
use shard_manager::manager::{Backups, BackupsError, IndexDraft, Indexes, Manager};
use shard_manager::node_address::ClusterAddress;
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::slot_set::SlotSet;
use shard_manager::store::postgres::audit::audit;
use shard_manager::store::postgres::backup::{self, restore};

use crate::cluster::{Databases, connect, refused};
use crate::commands::{run_on, run_with, urls};
use crate::move_steps::{begin, kept_up, order, slow, store_large, until, until_paused};
use crate::random_changes::things;
use crate::rows::{deadline, make, prepare, rows, write};
use crate::scratch;

const USER: &str = r#"{"name":"n","email":"e"}"#;
pub(crate) const OBSERVER: ProgressObserver<'_> =
    ProgressObserver { step: &|_| (), cancelled: &|| false };

async fn fill(manager: &Manager, users: std::ops::Range<usize>) {
    for number in users {
        write(manager, "users", Upsert, &format!("user_{number}"), USER).await.unwrap();
    }
}

pub(crate) async fn keys_of_users(databases: &Databases) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for shard in 0..databases.names.len() {
        let sql = "SELECT shard_key AS value FROM users";
        keys.extend(databases.direct_session(shard).await.texts(sql).await);
    }
    keys
}

async fn is_sound(address: &ClusterAddress) {
    let options = AuditOptions { deep: false, threads: 2 };
    let report = audit(address, &options, &|_| ()).await.unwrap();
    assert_eq!(report.findings, []);
}

/// A small copy of two shards in a folder.
pub(crate) async fn small_copy() -> (Databases, tempfile::TempDir, PathBuf) {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    fill(&manager, 0..20).await;
    drop(manager);
    let folder = scratch::folder();
    let copy = folder.path().join("copy");
    backup::save(&databases.address(), &copy, &OBSERVER).await.unwrap();
    (databases, folder, copy)
}

/// Number of tables and views of a database.
const TABLES: &str = "SELECT count(*)::text AS value FROM pg_class
    WHERE relnamespace::regnamespace::text IN ('public', 'tessera')";

async fn is_untouched(databases: &Databases) {
    for shard in 0..databases.names.len() {
        assert_eq!(databases.direct_session(shard).await.text(TABLES).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_holds_no_effect_without_its_cause_and_a_cluster_goes_on_with_it() {
    let databases = Databases::new(3).await;
    let (address, manager) = (databases.address(), connect(&databases.address()));
    make(&manager, &things()).await;
    let thing = r#"{"id":"1","owner":"ключ","must":"m","n":-5,"x":0.1,"doc":{ "a" : [1] }}"#;
    write(&manager, "things", Insert, "ключ", thing).await.unwrap();
    fill(&manager, 0..40).await;
    let folder = scratch::folder();
    let copy = folder.path().join("copy");
    let (is_over, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let writing = async {
        while !is_over.load(Ordering::Relaxed) {
            let number = written.load(Ordering::Relaxed);
            for kind in ["cause", "effect"] {
                let key = format!("{kind}-{number}");
                write(&manager, "users", Insert, &key, USER).await.unwrap();
            }
            written.store(number + 1, Ordering::Relaxed);
        }
    };
    let saving = async {
        let saved = backup::save(&address, &copy, &OBSERVER).await;
        is_over.store(true, Ordering::Relaxed);
        saved.unwrap()
    };
    let (manifest, ()) = futures_util::future::join(saving, writing).await;
    assert!(written.load(Ordering::Relaxed) > 0, "nothing was written while it was copied");
    let highest = "SELECT max(version)::text AS value FROM users";
    let highest: i64 = databases.direct_session(0).await.text(highest).await.parse().unwrap();

    let fresh = Databases::blank(3).await;
    let restored = restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
    assert_eq!(restored, manifest);
    let keys = keys_of_users(&fresh).await;
    for number in 0..written.load(Ordering::Relaxed) {
        let has = |kind: &str| keys.contains(&format!("{kind}-{number}"));
        assert!(has("cause") || !has("effect"), "effect-{number} has no cause");
    }
    assert!((0..40).all(|number| keys.contains(&format!("user_{number}"))));
    let other = connect(&fresh.address());
    is_sound(&fresh.address()).await;
    assert_eq!(
        rows(&other, "things", Some("ключ")).await,
        rows(&manager, "things", Some("ключ")).await
    );
    let receipt = write(&other, "users", Upsert, "user_1", USER).await.unwrap();
    let versions = "SELECT max(version)::text AS value FROM users WHERE shard_key = 'user_1'";
    let shard = usize::from(receipt.receipt.place.shard.0);
    let version: i64 = fresh.direct_session(shard).await.text(versions).await.parse().unwrap();
    assert!(version > highest + (1 << 31), "{version} may have been given out before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_makes_a_backup_beside_its_writes_and_it_restores() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    fill(&manager, 0..40).await;
    let folder = scratch::folder();
    let backups = BackupFolder::open(&folder.path().join("backups"), None).unwrap();
    let made = Backups::open(&manager, backups.clone()).unwrap();
    let begun = made.begin().unwrap();
    let id = BackupId::parse(&begun.id).unwrap();
    let mut written = 40;
    let done = loop {
        let shown = made.get(&id).unwrap();
        if shown.state != BackupState::Running {
            break shown;
        }
        fill(&manager, written..written + 1).await;
        written += 1;
    };
    assert_eq!((done.state, &done.reason), (BackupState::Done, &None), "{done:?}");
    let fresh = Databases::blank(2).await;
    let restored =
        restore::restore(&backups.place(&id), &fresh.address(), &OBSERVER).await.unwrap();
    assert_eq!((Some(restored.rows()), Some(&restored.at)), (done.rows, done.as_of.as_ref()));
    let shards = done.shards.unwrap();
    let counted: Vec<Option<u64>> = shards.iter().map(|shard| shard.rows).collect();
    let rows = restored.shards.iter().map(|shard| Some(shard.rows.values().sum()));
    assert_eq!(counted, rows.collect::<Vec<_>>());
    let keys = keys_of_users(&fresh).await;
    assert!((0..40).all(|number| keys.contains(&format!("user_{number}"))));
    // One client wrote them, one after the other.
    assert!((0..keys.len()).all(|number| keys.contains(&format!("user_{number}"))));
    is_sound(&fresh.address()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_waits_for_a_lock_ends_as_soon_as_it_is_cancelled() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let folder = scratch::folder();
    let backups = BackupFolder::open(&folder.path().join("backups"), None).unwrap();
    let made = Backups::open(&manager, backups).unwrap();
    let mut direct = databases.direct_session(0).await;
    direct.run("SELECT pg_advisory_lock_shared(1950, 1)").await;
    let id = BackupId::parse(&made.begin().unwrap().id).unwrap();
    assert!(matches!(made.begin(), Err(BackupsError::Runs(runs)) if runs == id));
    made.cancel(&id).unwrap();
    made.wait();
    assert_eq!(made.get(&id).unwrap().state, BackupState::Cancelled);
    assert!(matches!(made.cancel(&id), Err(BackupsError::Ended(ended)) if ended == id));
    assert_eq!(fs::read_dir(folder.path().join("backups")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_suspended_and_tokens_are_signed_otherwise_on_a_server_of_the_copy() {
    let databases = Databases::new(2).await;
    drop(connect(&databases.address()));
    run_on(&databases, &["key", "create", "--role", "admin"]).expect(0);
    let folder = scratch::folder();
    let copy = folder.path().join("copy");
    let saved = run_on(&databases, &["backup", "--to", copy.to_str().unwrap()]).expect(0);
    assert!(saved.out.contains("rows of 2 shards as of"), "{saved:#?}");
    let verified = run_with(&[], &["backup", "--verify", copy.to_str().unwrap()]).expect(0);
    assert!(verified.out.contains("is complete"), "{verified:#?}");
    let fresh = Databases::blank(2).await;
    let restored = run_on(&fresh, &["restore", "--from", copy.to_str().unwrap()]).expect(0);
    assert!(restored.out.contains("start the router over it"), "{restored:#?}");
    let suspended =
        "SELECT bool_and(suspended = 1)::text AS value FROM tessera.tessera_access_keys";
    assert_eq!(fresh.direct_session(0).await.text(suspended).await, "true");
    let secret = "SELECT secret AS value FROM tessera.tessera_cluster";
    let secrets = [
        databases.direct_session(0).await.text(secret).await,
        fresh.direct_session(0).await.text(secret).await,
    ];
    assert_ne!(secrets[0], secrets[1], "positions of one server cannot be distinguished");
    let manager = connect(&fresh.address());
    fill(&manager, 0..3).await;
    run_on(&fresh, &["check"]).expect(0);
    run_on(&fresh, &["restore", "--from", copy.to_str().unwrap()]).refused("is not empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_of_its_own_is_copied_and_restored() {
    let databases = Databases::new(3).await;
    let mut address = databases.address();
    let own = address.shards.pop().unwrap().primary;
    let address = ClusterAddress { catalog: Some(own), ..address };
    let manager = connect(&address);
    fill(&manager, 0..10).await;
    drop(manager);
    let folder = scratch::folder();
    let copy = folder.path().join("copy");
    backup::save(&address, &copy, &OBSERVER).await.unwrap();
    let fresh = Databases::blank(3).await;
    let mut address = fresh.address();
    let own = address.shards.pop().unwrap().primary;
    let address = ClusterAddress { catalog: Some(own), ..address };
    restore::restore(&copy, &address, &OBSERVER).await.unwrap();
    let manager = connect(&address);
    assert_eq!(rows(&manager, "users", None).await.len(), 10);
    is_sound(&address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_the_rows_of_a_shard_that_has_joined() {
    let (databases, empty) = (Databases::new(2).await, Databases::blank(1).await);
    let manager = connect(&databases.address());
    let url = crate::new_shard::url(&empty.nodes[0], &empty.names[0]);
    let folder = scratch::folder();
    let manifest = kept_up(&manager, async {
        let shard = NewShard { name: "new".to_owned(), weight: 1, url: Some(url) };
        let joined = manager.shards().join(shard, None, deadline()).await.unwrap();
        let place = prepare(&manager, "users", Upsert, "ada", USER).0;
        let slots: SlotSet = [place.slot].into_iter().collect();
        let owners = (place.shard, joined.shard);
        manager.slots().hand_over(&slots, owners, deadline()).await.unwrap();
        write(&manager, "users", Upsert, "ada", USER).await.unwrap();
        backup::save(&databases.address(), &folder.path().join("copy"), &OBSERVER).await.unwrap()
    })
    .await;
    let counts = manifest.shards.iter().map(|shard| (&*shard.shard, shard.rows["users"]));
    assert_eq!(counts.collect::<Vec<_>>(), [("shard1", 0), ("shard2", 0), ("new", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_goes_on_in_a_restored_cluster() {
    let databases = Databases::new(2).await;
    let (address, manager) = (databases.address(), connect(&databases.address()));
    let slots = store_large(&manager, 60).await;
    let folder = scratch::folder();
    let copy = folder.path().join("copy");
    let id = kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        order(&manager, id, MoveOrder::Pause).await;
        until_paused(&manager, id).await;
        backup::save(&address, &copy, &OBSERVER).await.unwrap();
        id
    })
    .await;
    let fresh = Databases::blank(2).await;
    restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
    let other = connect(&fresh.address());
    is_sound(&fresh.address()).await;
    kept_up(&other, async {
        order(&other, id, MoveOrder::Resume).await;
        write(&other, "kv", Upsert, "beside", r#"{"value":1}"#).await.unwrap();
        until(&other, id, &[MovePhase::Keeping]).await;
        order(&other, id, MoveOrder::Settle).await;
        until(&other, id, &[MovePhase::Done]).await;
        assert_eq!(rows(&other, "kv", None).await.len(), 61);
    })
    .await;
    is_sound(&fresh.address()).await;
}

fn damage(copy: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let path = copy.join(name);
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_named_and_nothing_is_begun() {
    let (_databases, _folder, copy) = small_copy().await;
    let fresh = Databases::blank(2).await;
    let from = copy.to_str().unwrap();
    let refused = |part: &str| {
        for arguments in [&["restore", "--from", from][..], &["backup", "--verify", from]] {
            let ended = run_on(&fresh, arguments).expect(1);
            assert!(ended.err.contains(part), "{ended:#?}");
        }
    };
    let flip = |bytes: &mut Vec<u8>| bytes[40] ^= 1;
    for (name, part) in [
        ("shard1.users.rows", "its bytes differ from those that were saved"),
        ("catalog.json", "its bytes differ from those that were saved"),
    ] {
        let whole = damage(&copy, name, flip);
        refused(part);
        fs::write(copy.join(name), whole).unwrap();
    }
    let whole = damage(&copy, "shard2.users.rows", |bytes| bytes.truncate(10));
    refused("shard2.users.rows: its length differs");
    fs::remove_file(copy.join("shard2.users.rows")).unwrap();
    refused("shard2.users.rows: it is missing");
    fs::write(copy.join("shard2.users.rows"), whole).unwrap();
    let text = fs::read_to_string(copy.join("manifest.json")).unwrap();
    for (from, to, part) in [
        ("\"format\": 1", "\"format\": 2", "format 2 is not supported by this version"),
        ("\"schema\": [", "\"schema\": [\"29991231000001\", ", "no manifest"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(copy.join("manifest.json"), text.replacen(from, to, 1)).unwrap();
        refused(part);
    }
    let other: serde_json::Value = serde_json::from_str(&text).unwrap();
    let older = text.replacen(other["schema"][0].as_str().unwrap(), "20250101000001", 1);
    fs::write(copy.join("manifest.json"), older).unwrap();
    refused("wrote it with another schema");
    fs::remove_file(copy.join("manifest.json")).unwrap();
    let ended = run_on(&fresh, &["restore", "--from", from]);
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    is_untouched(&fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_into_empty_databases_only_one_for_each_shard() {
    let (databases, folder, copy) = small_copy().await;
    let from = copy.to_str().unwrap();
    let arguments = ["restore", "--from", from];
    run_on(&databases, &arguments).refused("the database is not empty, it has public.kv");
    let fresh = Databases::blank(2).await;
    fresh.direct_session(1).await.run("CREATE TABLE another ()").await;
    run_on(&fresh, &arguments).refused("it has public.another");
    fresh.direct_session(1).await.run("DROP TABLE another").await;
    let all = urls(&fresh);
    let one = all.split(',').next().unwrap();
    let with = |shards: &str| run_with(&[("SHARD_URLS", shards)], &arguments);
    with(one).refused("the copy has 2 shards, and SHARD_URLS names 1 databases");
    let twice = format!("{one},{one}");
    with(&twice).refused("shard1 and shard2 are the same database: give each its own");
    run_with(&[], &arguments).refused("name an empty database for each shard in SHARD_URLS");
    is_untouched(&fresh).await;
    run_on(&databases, &["backup", "--to", from]).refused("the folder is not empty");
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    run_on(&databases, &["backup", "--to", file.to_str().unwrap()]).refused("there is a file");
    run_on(&fresh, &["backup", "--to", "/tmp/never"]).refused("there is no cluster");
}

/// Restores a copy until it writes the first rows, and then cancels the restore.
pub(crate) async fn restore_in_part(copy: &Path, fresh: &Databases) {
    let is_late = AtomicBool::new(false);
    let step = |step: &Step| {
        if matches!(step, Step::Writing { .. }) {
            is_late.store(true, Ordering::Relaxed);
        }
    };
    let cancelled = || is_late.load(Ordering::Relaxed);
    let observer = ProgressObserver { step: &step, cancelled: &cancelled };
    let ended = restore::restore(copy, &fresh.address(), &observer).await;
    assert!(matches!(ended, Err(SaveError::Partial { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_restore_serves_no_router_and_can_be_repeated() {
    let (databases, _folder, copy) = small_copy().await;
    let fresh = Databases::blank(2).await;
    restore_in_part(&copy, &fresh).await;
    let reported = refused(&fresh.address());
    assert!(reported.contains("was interrupted: run the restore again"), "{reported}");
    run_on(&fresh, &["check"]).refused("was interrupted: wait for it, or run the restore again");
    // Even after that start the restore is repeated.
    restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
    assert_eq!(keys_of_users(&fresh).await, keys_of_users(&databases).await);
    is_sound(&fresh.address()).await;
    let manager = connect(&fresh.address());
    assert_eq!(rows(&manager, "users", None).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_cut_off_while_it_removed_its_marks_is_completed() {
    let (databases, _folder, copy) = small_copy().await;
    let fresh = Databases::blank(2).await;
    let address = fresh.address();
    restore::restore(&copy, &address, &OBSERVER).await.unwrap();
    // The mark of the catalog, which is in the first database, is removed last.
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(copy.join("manifest.json")).unwrap()).unwrap();
    let text = |name: &str| manifest[name].as_str().unwrap().to_owned();
    let mark = format!(
        "CREATE TABLE tessera.tessera_restore AS \
         SELECT '{}'::text AS cluster_id, '{}'::text AS at, 0::bigint AS version",
        text("cluster_id"),
        text("at")
    );
    let mut first = fresh.direct_session(0).await;
    first.run(&mark).await;
    let reason = refused(&address);
    assert!(reason.contains("was interrupted: run the restore again"), "{reason}");
    run_on(&fresh, &["check"]).refused("was interrupted: wait for it, or run the restore again");
    restore::restore(&copy, &address, &OBSERVER).await.unwrap();
    assert_eq!(keys_of_users(&fresh).await, keys_of_users(&databases).await);
    is_sound(&address).await;
    // Without the mark, the databases hold a cluster that no restore may replace.
    let again = restore::restore(&copy, &address, &OBSERVER).await.unwrap_err().to_string();
    assert!(again.contains("the database is not empty"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_cancelled_leaves_no_folder_and_no_lock() {
    let (databases, folder, _copy) = small_copy().await;
    let manager = connect(&databases.address());
    let is_late = AtomicBool::new(false);
    let step = |step: &Step| {
        if matches!(step, Step::Held { .. }) {
            is_late.store(true, Ordering::Relaxed);
        }
    };
    let cancelled = || is_late.load(Ordering::Relaxed);
    let observer = ProgressObserver { step: &step, cancelled: &cancelled };
    let to = folder.path().join("second");
    let ended = backup::save(&databases.address(), &to, &observer).await;
    assert!(matches!(ended, Err(SaveError::Cancelled)), "{ended:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the first copy is there");
    fill(&manager, 0..5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_writes_cannot_be_held_is_named_and_the_others_go_on() {
    let (databases, folder, _copy) = small_copy().await;
    let manager = connect(&databases.address());
    let mut direct = databases.direct_session(1).await;
    direct.run("BEGIN; SELECT pg_advisory_xact_lock_shared(1950, 1)").await;
    let to = folder.path().join("second");
    let ended = backup::save(&databases.address(), &to, &OBSERVER).await;
    assert!(
        matches!(&ended, Err(SaveError::WritesNotPaused { shard }) if shard == "shard2"),
        "{ended:?}"
    );
    direct.run("COMMIT").await;
    fill(&manager, 0..5).await;
    backup::save(&databases.address(), &to, &OBSERVER).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_has_the_indexes_of_its_copy() {
    let databases = Databases::new(2).await;
    let (address, manager) = (databases.address(), connect(&databases.address()));
    fill(&manager, 0..20).await;
    let indexes = Indexes::of(manager.schema(Rights::ALL));
    kept_up(&manager, async {
        for (name, is_unique) in [("by_name", false), ("one_email", true)] {
            let columns = vec![if is_unique { "email" } else { "name" }.to_owned()];
            let draft = IndexDraft { name: name.to_owned(), columns, is_unique, pause_max_ms: 0 };
            indexes.create("users", &draft, deadline()).await.unwrap();
        }
        let is_ready = async || {
            let records = indexes.list("users", deadline()).await.unwrap();
            records.iter().all(|record| record.state == IndexState::Ready)
        };
        while !is_ready().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let folder = scratch::folder();
    let copy = folder.path().join("copy");
    backup::save(&address, &copy, &OBSERVER).await.unwrap();
    let fresh = Databases::blank(2).await;
    restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
    // Before any router has started.
    let sql = "SELECT count(*)::text AS value FROM pg_index JOIN pg_class ON oid = indexrelid \
        WHERE relname LIKE 'tessera\\_ix\\_%' AND indisvalid";
    for shard in 0..2 {
        assert_eq!(fresh.direct_session(shard).await.text(sql).await, "2");
    }
    let other = connect(&fresh.address());
    let restored = Indexes::of(other.schema(Rights::ALL)).list("users", deadline()).await.unwrap();
    assert_eq!(restored, indexes.list("users", deadline()).await.unwrap());
    is_sound(&fresh.address()).await;
}
