//! A cluster on a watched disk, the answers that its clients received, and the conditions that must
//! hold after a power cut.
//!
//! Each key is changed by one client, one change after the other, and each change has a number. So
//! a row shows which change it is from, and whether a newer one was acknowledged.
//!
//! **Not here:** the moment of a power cut (`main`), the files after a power cut (`disk`).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::consistency::Level;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::error::{Error, Failure};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Data, Manager, RequestOptions};
use shard_manager::row_change::Operation;
use shard_manager::store::sqlite::digest::digest;
use shard_manager::table::{Column, Table};
use shard_manager::value::ColumnType;
use tempfile::TempDir;

use crate::chance::Chance;
use crate::disk::{Disk, Step};
use crate::moves::{beside_upkeep, end_moves};
use crate::vfs;

/// Period of removals: of this many changes of a key, the last one removes it.
const REMOVED_EVERY: u32 = 7;
/// Maximum number of images that wait to be checked: they are on the real disk, and some have tens
/// of megabytes.
const IMAGES_MAX: usize = 2;

/// The clients of a cluster, and its disk.
pub(crate) struct Story {
    pub(crate) disk: Arc<Disk>,
    dir: PathBuf,
    wanted: ClusterSpec,
    /// If true, a power cut also destroys the primaries' files, and replicas take their places.
    promote: AtomicBool,
    changes: Mutex<BTreeMap<String, Changes>>,
    seeds: Mutex<Chance>,
    judge: Mutex<Option<Judge>>,
}

/// The changes of one key, by number from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    asked: u32,
    acknowledged: u32,
}

/// The disk image after a power cut, with the state known to clients before and after it.
struct Cut {
    moment: CutMoment,
    image: TempDir,
    wanted: ClusterSpec,
    promote: bool,
    before: BTreeMap<String, Changes>,
    after: BTreeMap<String, Changes>,
}

/// The thread that starts the cluster again on each image.
struct Judge {
    cuts: SyncSender<Cut>,
    called: usize,
    thread: JoinHandle<Vec<Verdict>>,
}

/// The moment of a power cut.
#[derive(Clone, Copy)]
pub(crate) struct CutMoment {
    /// The step before which it happened; `None` if between steps.
    pub(crate) step: Option<Step>,
    /// Number of cuts of this story before this one.
    number: usize,
    seed: u64,
}

/// The result of a power cut.
pub(crate) struct Verdict {
    pub(crate) moment: CutMoment,
    pub(crate) harm: Option<BrokenPromise>,
}

/// A broken promise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenPromise {
    #[error("the cluster does not start or takes no more writes: {0}")]
    Refused(String),
    #[error("the cluster panicked when it was started")]
    Panicked,
    #[error("a file is not well: {0}")]
    Damaged(String),
    #[error("an acknowledged change is not there, nor a newer one: {0}")]
    Lost(String),
    #[error("a row is there that was never written: {0}")]
    Strange(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CutMoment { step, number, seed } = self.moment;
        write!(f, "cut {number}, seed {seed:#018x}, ")?;
        match step {
            Some(Step { kind, act }) => write!(f, "before {act:?} of {kind:?}: ")?,
            None => f.write_str("between steps: ")?,
        }
        match &self.harm {
            Some(harm) => harm.fmt(f),
            None => f.write_str("no harm"),
        }
    }
}

impl Story {
    /// Begins a story in this folder.
    pub(crate) fn begin(dir: &Path, wanted: ClusterSpec, seed: u64) -> Arc<Self> {
        Self::resume(dir, wanted, seed, BTreeMap::new())
    }

    fn resume(
        dir: &Path,
        wanted: ClusterSpec,
        seed: u64,
        changes: BTreeMap<String, Changes>,
    ) -> Arc<Self> {
        vfs::install();
        Arc::new(Self {
            disk: Disk::under(dir).expect("the folder is there"),
            dir: dir.to_owned(),
            wanted,
            promote: AtomicBool::new(false),
            changes: Mutex::new(changes),
            seeds: Mutex::new(Chance::new(seed)),
            judge: Mutex::new(Some(Judge::call())),
        })
    }

    /// Simulates a power cut and recovery: the same story continues in another folder.
    pub(crate) fn after_power_loss(&self, dir: &Path) -> Arc<Self> {
        let seed = self.seed();
        let changes = self.known();
        self.disk.power_loss(seed, dir).expect("an image");
        Self::resume(dir, self.wanted.clone(), seed, changes)
    }

    /// Starts the cluster.
    pub(crate) fn open(&self) -> Manager {
        open(&self.dir, &self.wanted).expect("the cluster starts on the running disk")
    }

    /// From now on a power cut also destroys the primaries' files, and replicas take their places.
    pub(crate) fn promote_replicas(&self) {
        self.promote.store(true, Ordering::SeqCst);
    }

    /// Makes the next change of a key and waits for the answer.
    pub(crate) async fn change(&self, manager: &Manager, key: &str) {
        let number = self.note(key, |changes| {
            changes.asked += 1;
            changes.asked
        });
        change(manager, key, number).await.expect("the running disk is well");
        self.note(key, |changes| changes.acknowledged = number);
    }

    /// Creates a table and waits for the answer.
    pub(crate) async fn make(&self, manager: &Manager, name: &str) {
        let key = format!("{TABLE}{name}");
        self.note(&key, |changes| changes.asked = 1);
        let column =
            Column { name: "id".into(), kind: ColumnType::Text, nullable: false, default: None };
        let table = Table::new(name, vec![column], &["id".into()], None).expect("a good table");
        let by = Instant::now() + Duration::from_secs(60);
        manager
            .schema(Rights::ALL)
            .create_table(table, by)
            .await
            .expect("the running disk is well");
        self.note(&key, |changes| changes.acknowledged = 1);
    }

    /// Cuts the power before each step for which `due`.
    pub(crate) fn cut_before(self: &Arc<Self>, mut due: impl FnMut(Step) -> bool + Send + 'static) {
        let story = Arc::clone(self);
        self.disk.before_each_step(move |step| {
            if due(step) {
                story.cut_at(Some(step));
            }
        });
    }

    /// Cuts the power now; the running cluster does not notice.
    pub(crate) fn cut(&self) {
        self.cut_at(None);
    }

    fn cut_at(&self, step: Option<Step>) {
        let seed = self.seed();
        let image = tempfile::tempdir().expect("a folder for the image");
        // The order matters: writes acknowledged before the cut must be in the image, and writes
        // requested until it is complete may be.
        let before = self.known();
        self.disk.power_loss(seed, image.path()).expect("an image");
        let after = self.known();
        if let Some(judge) = &mut *self.judge.lock().expect("not poisoned") {
            let moment = CutMoment { step, number: judge.called, seed };
            judge.called += 1;
            let (wanted, promote) = (self.wanted.clone(), self.promote.load(Ordering::SeqCst));
            let cut = Cut { moment, image, wanted, promote, before, after };
            judge.cuts.send(cut).expect("the judge looks at all");
        }
    }

    /// Ends the story; returns the verdict on each cut.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        self.disk.forget_watch();
        let judge = self.judge.lock().expect("not poisoned").take();
        let judge = judge.expect("asked once");
        drop(judge.cuts);
        judge.thread.join().expect("the judge does not panic")
    }

    fn seed(&self) -> u64 {
        self.seeds.lock().expect("not poisoned").next()
    }

    fn known(&self) -> BTreeMap<String, Changes> {
        self.changes.lock().expect("not poisoned").clone()
    }

    fn note<T>(&self, key: &str, note: impl FnOnce(&mut Changes) -> T) -> T {
        let mut changes = self.changes.lock().expect("not poisoned");
        note(changes.entry(key.to_owned()).or_default())
    }
}

impl Judge {
    fn call() -> Self {
        let (cuts, waiting): (_, Receiver<Cut>) = sync_channel(IMAGES_MAX);
        let thread = std::thread::spawn(move || {
            let judged = waiting.into_iter().map(|cut| {
                let judged = catch_unwind(AssertUnwindSafe(|| cut.judge()));
                let harm = judged.unwrap_or(Err(BrokenPromise::Panicked)).err();
                Verdict { moment: cut.moment, harm }
            });
            judged.collect()
        });
        Self { cuts, called: 0, thread }
    }
}

/// The value of a key after its change of this number; `None` before the first and after a removal.
fn value(key: &str, number: u32) -> Option<String> {
    if number.is_multiple_of(REMOVED_EVERY) {
        return None;
    }
    let seed = key.bytes().fold(u64::from(number), |seed, byte| (seed << 7) ^ u64::from(byte));
    let mut chance = Chance::new(seed);
    // Large values fill the WAL, small ones make many commits.
    let words = if chance.eighths(2) { chance.below(6_000) } else { chance.below(20) };
    let fill = format!("{:016x}", chance.next()).repeat(words as usize);
    Some(format!("{{\"number\":{number},\"fill\":\"{fill}\"}}"))
}

fn open(dir: &Path, wanted: &ClusterSpec) -> Result<Manager, String> {
    let cluster = EmbeddedCluster { data_dir: dir.to_owned(), wanted: wanted.clone() };
    assembly::open(&cluster).map_err(|error| error.to_string())
}

async fn change(manager: &Manager, key: &str, number: u32) -> Result<(), String> {
    let table = manager.schema(Rights::ALL).table("kv").map_err(|error| error.to_string())?;
    let raw = value(key, number).map(|value| RawValue::from_string(value).expect("JSON"));
    let operation = if raw.is_some() { Operation::Upsert } else { Operation::Delete };
    let fields: Vec<_> = raw.iter().map(|raw| (Cow::Borrowed("value"), &**raw)).collect();
    // Generous: a write that takes longer has found a defect.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shard_key = ShardKey::parse(key).expect("a good key");
        let (place, row) = Data::prepare(&manager.map(), &table, operation, shard_key, &fields)
            .map_err(|error| error.to_string())?;
        // Every node must confirm, so that each has to keep the write.
        let options = RequestOptions { level: Level::All, ..RequestOptions::by(deadline) };
        match manager.data(Rights::ALL).write(place, row, &options).await {
            // A start does not wait for replicas that take long to be built; a client retries.
            Err(Failure { error: Error::TooFewReplicas { .. }, .. })
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            written => return written.map(drop).map_err(|failure| failure.to_string()),
        }
    }
}

/// Prefix of a table's name where it is listed among the keys.
const TABLE: &str = "table ";
/// Key that is written after a power cut.
const AFTER: &str = "after";

impl Cut {
    /// Starts the cluster on the image, lets it accept a write, stops it and checks its files.
    fn judge(&self) -> Result<(), BrokenPromise> {
        // On a watched disk, so that no sync waits for the real one.
        let _disk = Disk::under(self.image.path()).expect("the image is there");
        if self.promote {
            promote(self.image.path())
                .map_err(|error| BrokenPromise::Refused(error.to_string()))?;
        }
        let manager = open(self.image.path(), &self.wanted).map_err(BrokenPromise::Refused)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let written = runtime.expect("a runtime").block_on(async {
            let written = change(&manager, AFTER, 1).await;
            beside_upkeep(&manager, end_moves(&manager)).await?;
            written
        });
        let tables = names(manager.schema(Rights::ALL).tables().tables().map(|table| table.name()));
        manager.close();
        drop(manager);
        written.map_err(BrokenPromise::Refused)?;
        self.compare_tables(&tables)?;
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(self.image.path()).expect("the image is there") {
            let path = entry.expect("a file").path();
            let name = path.to_string_lossy();
            if name.ends_with(".db") {
                sound(&path).map_err(BrokenPromise::Damaged)?;
            }
            if name.ends_with("-primary.db") {
                whole(&path).map_err(BrokenPromise::Damaged)?;
                has_all(&path, &tables).map_err(BrokenPromise::Damaged)?;
                found.extend(rows(&path).map_err(BrokenPromise::Damaged)?);
                for number in 1..=self.wanted.replicas.unwrap_or(0) {
                    let replica = name.replace("-primary.db", &format!("-replica{number}.db"));
                    equal(&path, Path::new(&replica)).map_err(BrokenPromise::Damaged)?;
                }
            }
        }
        self.compare(&found)
    }

    /// Asserts that acknowledged tables exist, and no others than requested. A table is
    /// acknowledged when every primary has it: if all primaries are lost it may be lost, but not on
    /// some shards only.
    fn compare_tables(&self, tables: &BTreeSet<String>) -> Result<(), BrokenPromise> {
        for (key, after) in &self.after {
            let Some(name) = key.strip_prefix(TABLE) else { continue };
            let acknowledged = self.before.get(key).map_or(0, |changes| changes.acknowledged);
            match (tables.contains(name), acknowledged, after.asked) {
                (false, 1.., _) if !self.promote => return Err(BrokenPromise::Lost(key.clone())),
                (true, _, 0) => return Err(BrokenPromise::Strange(key.clone())),
                (true, _, 1..) | (false, ..) => {}
            }
        }
        Ok(())
    }

    fn compare(&self, found: &BTreeMap<String, String>) -> Result<(), BrokenPromise> {
        let known = |key: &String| key == AFTER || self.after.contains_key(key);
        if let Some(key) = found.keys().find(|key| !known(key)) {
            return Err(BrokenPromise::Strange(format!("{key} was never written")));
        }
        let rows = self.after.iter().filter(|(key, _)| !key.starts_with(TABLE));
        for (key, after) in rows {
            let acknowledged = self.before.get(key).map_or(0, |changes| changes.acknowledged);
            let found = found.get(key);
            let is_from = |number: u32| value(key, number).as_ref() == found;
            if (acknowledged..=after.asked).any(is_from) {
                continue;
            }
            return Err(match (0..acknowledged).rev().find(|number| is_from(*number)) {
                Some(older) => BrokenPromise::Lost(format!(
                    "{key} is from change {older}, but {acknowledged} was acknowledged"
                )),
                None => BrokenPromise::Strange(format!("{key} has a value of none of its changes")),
            });
        }
        Ok(())
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(QueryableByName)]
struct Said {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

#[derive(QueryableByName)]
struct Apart {
    #[diesel(sql_type = BigInt)]
    apart: i64,
}

fn connect(path: &Path) -> Result<SqliteConnection, String> {
    let mut connection =
        SqliteConnection::establish(&path.to_string_lossy()).map_err(|error| error.to_string())?;
    // The cluster's pools close their last connections on another thread.
    connection.batch_execute("PRAGMA busy_timeout=10000").map_err(|error| error.to_string())?;
    Ok(connection)
}

fn sound(path: &Path) -> Result<(), String> {
    let said: Vec<Said> = diesel::sql_query("PRAGMA integrity_check")
        .load(&mut connect(path)?)
        .map_err(|error| error.to_string())?;
    let said: Vec<String> = said.into_iter().map(|said| said.integrity_check).collect();
    if said == ["ok"] { Ok(()) } else { Err(said.join("; ")) }
}

/// A transaction writes rows, their log and the counters of both: the file must have all of it or
/// nothing. A file that was a replica before has no log yet. Moves have ended, and left no rows.
fn whole(path: &Path) -> Result<(), String> {
    let sql = "SELECT abs((SELECT position FROM tessera_shard)
                          - (SELECT coalesce(max(tessera_log.position), tessera_shard.position)
                             FROM tessera_shard LEFT JOIN tessera_log))
                    + abs((SELECT rows FROM tessera_counts WHERE name = 'kv')
                          - (SELECT count(*) FROM kv))
                    + (SELECT count(*) FROM tessera_moves) AS apart";
    let apart: Apart = diesel::sql_query(sql)
        .get_result(&mut connect(path)?)
        .map_err(|error| error.to_string())?;
    if apart.apart == 0 {
        Ok(())
    } else {
        Err("rows, log and counters differ, or a move is left".to_owned())
    }
}

/// Replaces lost primaries by replicas, like an operator would.
fn promote(image: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(image)? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        if name.contains("-primary.db") {
            std::fs::remove_file(&path)?;
        }
    }
    for entry in std::fs::read_dir(image)? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        if name.contains("-replica1.db") {
            std::fs::rename(&path, name.replace("-replica1.db", "-primary.db"))?;
        }
    }
    Ok(())
}

fn names<'n>(tables: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
    tables.map(str::to_owned).collect()
}

/// Asserts that every shard has the tables that the cluster lists, and no incomplete table.
fn has_all(path: &Path, tables: &BTreeSet<String>) -> Result<(), String> {
    let digest = digest(path).map_err(|error| error.to_string())?;
    let own = digest.tables.iter().map(|(name, ..)| name.as_str());
    let own = names(own.filter(|name| !name.starts_with("tessera_")));
    if own == *tables { Ok(()) } else { Err(format!("{own:?} are not {tables:?}")) }
}

/// Asserts that a replica that was closed cleanly holds the same rows as its primary.
fn equal(primary: &Path, replica: &Path) -> Result<(), String> {
    let digest = |path| digest(path).map_err(|error| error.to_string());
    if digest(primary)? == digest(replica)? { Ok(()) } else { Err("a replica differs".to_owned()) }
}

fn rows(path: &Path) -> Result<Vec<(String, String)>, String> {
    let rows: Vec<Row> = diesel::sql_query("SELECT key, value FROM kv")
        .load(&mut connect(path)?)
        .map_err(|error| error.to_string())?;
    Ok(rows.into_iter().map(|row| (row.key, row.value)).collect())
}
