//! Backups of a cluster under concurrent writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;

use shard_manager::access::rights::Rights;
use shard_manager::backup::manifest::Manifest;
use shard_manager::backup::restore::verify;
use shard_manager::backup::{BackupSource, ProgressObserver, SaveError, Step};
use shard_manager::row_change::Operation;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, ints, texts};
use crate::command::{fail, program, succeed, text};
use crate::scratch;

/// Progress callback that ignores the progress and never cancels.
pub(crate) const ALONE: ProgressObserver<'_> =
    ProgressObserver { step: &|_| {}, cancelled: &|| false };

fn source(cluster: &Cluster) -> &BackupSource {
    cluster.source.as_deref().expect("its files")
}

pub(crate) fn save(cluster: &Cluster, to: &Path) -> Manifest {
    source(cluster).save(to, &ALONE).expect("a backup is made")
}

/// Number of shards. Their positions are read one after the other; with this many shards there is
/// time for a transfer between the first read and the last.
const SHARDS: u16 = 6;

/// Moves money from an account on the first shard to one on the last, one transfer after the other.
struct Mover {
    from: String,
    to: String,
    /// Transfers whose first half was acknowledged, and transfers whose second half was.
    acknowledged: (AtomicU64, AtomicU64),
}

impl Mover {
    fn new(cluster: &Cluster, number: usize) -> Self {
        let account = |shard: u16, name: &str| {
            let map = cluster.manager.map();
            let names = (0..).map(|at| format!("{name}-{number}-{at}"));
            let lies = |key: &String| {
                let key = shard_manager::keyspace::ShardKey::parse(key).expect("a good key");
                map.place(key).expect("a place").shard == ShardNumber(shard)
            };
            names.into_iter().find(lies).expect("a key of every shard")
        };
        let (from, to) = (account(0, "from"), account(SHARDS - 1, "to"));
        Self { from, to, acknowledged: (AtomicU64::new(0), AtomicU64::new(0)) }
    }

    async fn book(&self, cluster: &Cluster, account: &str, number: u64, amount: i64) {
        let row = format!(r#"{{"tx_id":"{number:09}","account":"{account}","amount":{amount}}}"#);
        let written = cluster.write("transactions", Operation::Insert, account, &row).await;
        written.expect("a new transfer is stored");
    }

    async fn transfer(&self, cluster: &Cluster) {
        let number = self.acknowledged.1.load(Ordering::SeqCst) + 1;
        self.book(cluster, &self.from, number, -7).await;
        self.acknowledged.0.store(number, Ordering::SeqCst);
        self.book(cluster, &self.to, number, 7).await;
        self.acknowledged.1.store(number, Ordering::SeqCst);
    }

    fn seen(&self) -> (u64, u64) {
        // The second half is read first: a transfer counted there is also counted in the first.
        let second = self.acknowledged.1.load(Ordering::SeqCst);
        (self.acknowledged.0.load(Ordering::SeqCst), second)
    }

    /// Number of first halves and of second halves that a copy holds.
    fn in_copy(&self, folder: &Path) -> (u64, u64) {
        let count = |account: &str| {
            let sql = format!("SELECT tx_id AS value FROM transactions WHERE account='{account}'");
            let shard = if account.starts_with("from") { 1 } else { SHARDS };
            let found = texts(&folder.join(format!("shard{shard}-primary.db")), &sql);
            let expected: Vec<String> = (1..=found.len()).map(|tx| format!("{tx:09}")).collect();
            assert_eq!(found, expected, "no transfer of {account} is skipped");
            found.len() as u64
        };
        (count(&self.from), count(&self.to))
    }
}

#[test]
fn a_copy_never_holds_an_effect_without_its_cause() {
    let cluster = Cluster::with_shards(usize::from(SHARDS));
    let copies = scratch::folder();
    let movers: Vec<Mover> = (0..6).map(|number| Mover::new(&cluster, number)).collect();
    let ended = AtomicBool::new(false);
    let (warm, warmed) = channel();
    std::thread::scope(|scope| {
        for mover in &movers {
            let (cluster, ended, warm) = (&cluster, &ended, warm.clone());
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    while !ended.load(Ordering::SeqCst) {
                        mover.transfer(cluster).await;
                        if mover.seen().1 == 30 {
                            warm.send(()).expect("a receiver waits");
                        }
                    }
                });
            });
        }
        // Stops the movers even if an assertion fails.
        let _end = Ends(&ended);
        movers.iter().for_each(|_| warmed.recv().expect("a mover is warm"));
        for round in 0..4 {
            let folder = copies.path().join(round.to_string());
            let before: Vec<_> = movers.iter().map(Mover::seen).collect();
            save(&cluster, &folder);
            let after: Vec<_> = movers.iter().map(Mover::seen).collect();
            verify(&folder, &ALONE).expect("the copy is whole");
            let mut sums = 0;
            for ((mover, before), after) in movers.iter().zip(before).zip(after) {
                let (first, second) = mover.in_copy(&folder);
                assert!(first == second || first == second + 1, "{first} causes, {second} effects");
                assert!(first >= before.0 && second >= before.1, "what was acknowledged is there");
                // Of each half, one write may have been stored but not yet acknowledged when the
                // counters were read.
                assert!(first <= after.0 + 1 && second <= after.1 + 1, "and nothing of later");
                sums += (second as i64 - first as i64) * 7;
            }
            let sql = "SELECT coalesce(sum(amount),0) AS value FROM transactions";
            let files = [1, SHARDS].map(|shard| folder.join(format!("shard{shard}-primary.db")));
            let booked: i64 = files.iter().map(|file| ints(file, sql)[0]).sum();
            assert_eq!(booked, sums, "only what was under way is missing");
        }
    });
}

struct Ends<'e>(&'e AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn all_lanes_are_held_at_the_same_instant() {
    let cluster = Cluster::with_shards(3);
    let copies = scratch::folder();
    let to = copies.path().join("copy");
    let shards = source(&cluster).shards();
    // Simulates a slow batch on the last shard: the other lanes are paused and wait for it.
    let batch = shards[2].pause_barrier.enter();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| save(&cluster, &to));
        while !shards.iter().all(|shard| shard.pause_barrier.is_closed()) {
            assert!(!saving.is_finished(), "it cannot be done before the batch is");
            std::thread::yield_now();
        }
        assert!(!to.exists());
        drop(batch);
        saving.join().expect("a backup is made");
    });
    assert!(shards.iter().all(|shard| !shard.pause_barrier.is_closed()), "nothing stays held");
}

#[test]
fn nothing_is_written_to_the_disk_of_the_copy_while_lanes_are_held() {
    let cluster = Cluster::with_shards(2);
    let copies = scratch::folder();
    let names = || -> BTreeSet<String> {
        let unfinished = copies.path().join("copy-unfinished");
        let entries = std::fs::read_dir(unfinished).expect("a folder that is filled");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let (before, after) = (Mutex::new(None), Mutex::new(None));
    let step = |step: &Step| match step {
        Step::Following { .. } => *before.lock().expect("not poisoned") = Some(names()),
        // The callback runs as soon as the lanes are released.
        Step::Held { .. } => *after.lock().expect("not poisoned") = Some(names()),
        Step::Copying { .. } | Step::Checking { .. } | Step::Writing { .. } => {}
    };
    let observer = ProgressObserver { step: &step, cancelled: &|| false };
    source(&cluster).save(&copies.path().join("copy"), &observer).expect("a backup is made");
    let seen = |names: Mutex<Option<_>>| names.into_inner().expect("not poisoned");
    let (before, after) = (seen(before), seen(after));
    assert!(before.is_some() && before == after, "{before:?} {after:?}");
    verify(&copies.path().join("copy"), &ALONE).expect("the catalog is written afterwards");
}

#[tokio::test]
async fn a_lane_that_is_held_stores_nothing_and_then_goes_on() {
    let cluster = Cluster::with_shards(1);
    let shards = source(&cluster).shards();
    let shard = &shards[0];
    let row = r#"{"user_id":"a","name":"n","email":"e"}"#;
    cluster.write("users", Operation::Insert, "a", row).await.expect("a write");
    let closed = shard.pause_barrier.close();
    assert!(closed.wait_until(crate::cluster::deadline()));
    let before = shard.replication.primary().committed();
    let (place, change) = cluster.prepare("users", Operation::Delete, "a", r#"{"user_id":"a"}"#);
    let until = std::time::Instant::now() + std::time::Duration::from_millis(50);
    let options = shard_manager::manager::RequestOptions::by(until);
    let shown = cluster
        .manager
        .data(Rights::ALL)
        .write(place, change.clone(), &options)
        .await
        .expect_err("it is held");
    assert_eq!(shown.outcome, shard_manager::error::Outcome::Rejected, "it will never be stored");
    assert_eq!(shard.replication.primary().committed(), before);
    drop(closed);
    let options = crate::cluster::options();
    cluster
        .manager
        .data(Rights::ALL)
        .write(place, change, &options)
        .await
        .expect("the lane goes on");
    assert_eq!(shard.replication.primary().committed(), before + 1);
}

#[tokio::test]
async fn a_copy_stands_exactly_where_its_shards_stood() {
    let cluster = Cluster::with_shards(2);
    for number in 0..200 {
        let key = format!("user_{number}");
        let row = format!(r#"{{"user_id":"{key}","name":"n","email":"e"}}"#);
        cluster.write("users", Operation::Upsert, &key, &row).await.expect("a write");
    }
    let copies = scratch::folder();
    let manifest = save(&cluster, &copies.path().join("copy"));
    assert_eq!(manifest.rows(), 200);
    for (shard, saved) in (1..).zip(&manifest.shards) {
        let digest = |file: PathBuf| shard_manager::store::sqlite::digest::digest(&file);
        let primary = digest(cluster.file(shard)).expect("the primary can be read");
        assert_eq!(primary.position, saved.position);
        let copy = copies.path().join("copy").join(&saved.file.file);
        assert_eq!(digest(copy).expect("the copy can be read"), primary);
    }
}

#[test]
fn a_backup_that_is_cancelled_leaves_nothing() {
    let cluster = Cluster::with_shards(2);
    let copies = scratch::folder();
    let to = copies.path().join("copy");
    for cancelled_at in ["copying", "following", "held", "checking"] {
        let reached = AtomicBool::new(false);
        let seen = Mutex::new(Vec::new());
        let step = |step: &Step| {
            let name = match step {
                Step::Copying { .. } => "copying",
                Step::Following { .. } => "following",
                Step::Held { .. } => "held",
                Step::Checking { .. } => "checking",
                Step::Writing { .. } => "writing",
            };
            seen.lock().expect("not poisoned").push(name);
            reached.fetch_or(name == cancelled_at, Ordering::SeqCst);
        };
        let cancelled = || reached.load(Ordering::SeqCst);
        let saved =
            source(&cluster).save(&to, &ProgressObserver { step: &step, cancelled: &cancelled });
        assert!(matches!(saved, Err(SaveError::Cancelled)), "{cancelled_at}: {saved:?}");
        assert_eq!(std::fs::read_dir(copies.path()).expect("a folder").count(), 0);
    }
    save(&cluster, &to);
}

#[test]
fn a_command_that_is_killed_leaves_nothing_under_the_final_name() {
    let dir = Cluster::with_shards(3).stop();
    let copies = scratch::folder();
    let (to, half) = (copies.path().join("copy"), copies.path().join("copy-unfinished"));
    let mut killed = 0;
    for _ in 0..5 {
        let arguments = ["backup", "--data-dir", text(dir.path()), "--to", text(&to)];
        let mut child = program()
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        while !half.exists() && child.try_wait().expect("a status").is_none() {
            std::thread::yield_now();
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        if to.exists() {
            // The command may have finished before the signal; then the copy must be complete.
            verify(&to, &ALONE).expect("a copy under the final name is whole");
            std::fs::remove_dir_all(&to).expect("it can be removed");
        } else {
            killed += 1;
        }
    }
    assert!(killed > 0, "at least one was cut off");
    succeed(&["backup", "--data-dir", text(dir.path()), "--to", text(&to)]);
    verify(&to, &ALONE).expect("the next backup is whole");
    assert!(!half.exists(), "what was left is gone");
}

#[test]
fn an_empty_folder_that_a_killed_backup_left_is_reused_and_a_filled_one_is_refused() {
    let dir = Cluster::with_shards(1).stop();
    let copies = scratch::folder();
    let (to, half) = (copies.path().join("copy"), copies.path().join("copy-unfinished"));
    std::fs::create_dir(&half).expect("a folder");
    std::fs::write(half.join("mine"), "text").expect("a file");
    let arguments = ["backup", "--data-dir", text(dir.path()), "--to", text(&to)];
    let (_, reported) = fail(&arguments);
    assert!(reported.contains("the folder is in the way"), "{reported}");
    std::fs::remove_file(half.join("mine")).expect("the file is still there");
    succeed(&arguments);
    verify(&to, &ALONE).expect("the backup is whole");
    assert!(!half.exists(), "nothing is left");
}

#[test]
fn two_backups_at_a_time_are_refused() {
    let cluster = Cluster::with_shards(1);
    let copies = scratch::folder();
    let second = Mutex::new(None);
    let step = |_: &Step| {
        let mut second = second.lock().expect("not poisoned");
        second.get_or_insert_with(|| source(&cluster).save(&copies.path().join("second"), &ALONE));
    };
    let observer = ProgressObserver { step: &step, cancelled: &|| false };
    source(&cluster).save(&copies.path().join("first"), &observer).expect("the first is made");
    let second = second.into_inner().expect("not poisoned").expect("it was tried");
    assert!(matches!(second, Err(SaveError::Busy)), "{second:?}");
    assert!(!copies.path().join("second").exists());
}
