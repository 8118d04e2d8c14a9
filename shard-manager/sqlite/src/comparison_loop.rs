//! Comparison loop: continuously compares all rows in all copies of a shard, the primary and its
//! replicas, and acts on differences.
//!
//! Disks can flip bits, and SQLite keeps no checksums that would reveal this. Comparing the copies
//! of a shard finds such damage. It runs slowly in the background, so that it hardly delays
//! requests, in *looks*, each of which reads a range of rows from new snapshots of all copies.
//!
//! A replica that is proven wrong is no longer read. It is rebuilt from the primary once all rows
//! were compared, or at once if its file is malformed, but not while the primary itself is in
//! doubt. A primary that is proven wrong is reported (`copy_faults`), but not changed.
//!
//! **Invariant:** a difference has consequences only if a second look, at new snapshots, confirms
//! it.
//! **Not here:** reading and comparing the copies (`compare`), refusing requests (`shard`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use engine::copy_faults::{CopyFault, CopyFaults, CopyVerdict, judge};
use engine::fault_injector::NodeMode;
use engine::replication::{ReplicaState, ReplicationState};
use model::idempotency;
use model::reason::{Findings, Reason};
use model::table::{Registry, Table};

use super::check;
use super::compare::{self, CopyFile, Obstacle, RowApart, Stretch, WalkPosition, WalkSettings};
use super::doubt_record::DoubtRecord;
use super::file_reader::FileReader;
use super::open_file_check::OpenFileCheck;
use super::replica::FileReplica;

/// Delay of the first pass, so that the first requests of clients are not slowed down.
const BEGINS_AFTER: Duration = Duration::from_millis(500);
/// Pause after each pass over all shards.
const PASS_PAUSE: Duration = Duration::from_secs(5);
/// Maximum number of bytes that are read per second, over all copies.
const BYTES_PER_SECOND: f64 = (4 << 20) as f64;
/// Ratio of the pause after each look to its duration: looks use about 1/50 of a CPU core.
const PAUSE_FACTOR: u32 = 50;
/// The longest pause after a look.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Pause before a second look, and before a retry.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Interval at which a check of a whole file tests whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);
/// Number of failed attempts after which the loop proceeds to the next shard.
const TRIES_MAX: u32 = 5;

/// A shard whose copies are compared.
pub(super) struct ComparedShard {
    /// Name of the shard.
    pub(super) name: String,
    /// Faults that were found in the copies of the shard.
    pub(super) copy_faults: Arc<CopyFaults>,
    /// Record that keeps the faults for the next start.
    pub(super) record: Arc<DoubtRecord>,
    /// Replication state of its nodes.
    pub(super) replication: Arc<ReplicationState>,
    /// Findings of each copy, the primary first, to which faults are added.
    pub(super) findings: Vec<Arc<Findings>>,
    /// The primary's file.
    pub(super) primary: PathBuf,
    /// Check that the primary's path still leads to the file that is open.
    pub(super) file_check: Option<Arc<OpenFileCheck>>,
    /// The replicas and their files.
    pub(super) replicas: Vec<(Arc<FileReplica>, PathBuf)>,
}

/// Handle of the thread that compares the copies of all shards.
pub(super) struct ComparisonLoop {
    registry: Arc<ArcSwap<Registry>>,
    stop: Arc<AtomicBool>,
    /// Shards that the thread adds or removes before its next pass.
    changes: Arc<Mutex<Changes>>,
    /// The thread; `None` while there is nothing to compare.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Shards to add or to remove before the next pass.
#[derive(Default)]
struct Changes {
    added: Vec<Walker>,
    removed: Vec<Arc<OpenFileCheck>>,
}

impl ComparisonLoop {
    /// Creates the loop without shards.
    pub(super) fn new(registry: &Arc<ArcSwap<Registry>>) -> Self {
        let (stop, changes, thread) = (Arc::default(), Arc::default(), Mutex::default());
        Self { registry: Arc::clone(registry), stop, changes, thread }
    }

    /// Compares the copies of a shard from the next pass on, if it has replicas.
    ///
    /// # Errors
    /// The error of the system, if it cannot start the thread.
    pub(super) fn add(&self, shard: ComparedShard) -> std::io::Result<()> {
        if shard.replicas.is_empty() {
            return Ok(());
        }
        locked(&self.changes).added.push(Walker {
            shard,
            registry: Arc::clone(&self.registry),
            stop: Arc::clone(&self.stop),
            walk: Walk::default(),
            sound: BTreeSet::new(),
            malformed: BTreeSet::new(),
        });
        let mut thread = locked(&self.thread);
        if thread.is_none() && !self.stop.load(Ordering::Acquire) {
            let (changes, stop) = (Arc::clone(&self.changes), Arc::clone(&self.stop));
            let work = move || run(&changes, &stop);
            *thread = Some(std::thread::Builder::new().name("compare".to_owned()).spawn(work)?);
        }
        Ok(())
    }

    /// Stops comparing the copies of a shard, from the next pass on.
    pub(super) fn remove(&self, file_check: &Arc<OpenFileCheck>) {
        locked(&self.changes).removed.push(Arc::clone(file_check));
    }

    /// Ends the thread. Blocks for some milliseconds.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let thread = locked(&self.thread).take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            // An error means that the thread has panicked, and the panic was already logged.
            let _ = thread.join();
        }
    }
}

impl Drop for ComparisonLoop {
    fn drop(&mut self) {
        self.stop();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(changes: &Mutex<Changes>, stop: &AtomicBool) {
    let mut shards = Vec::new();
    rest(BEGINS_AFTER, stop);
    while !stop.load(Ordering::Acquire) {
        let Changes { mut added, removed } = std::mem::take(&mut *locked(changes));
        shards.append(&mut added);
        shards.retain(|walker: &Walker| !removed.iter().any(|gone| walker.shard.is_of(gone)));
        shards.iter_mut().for_each(Walker::visit);
        rest(PASS_PAUSE, stop);
    }
}

fn rest(pause: Duration, stop: &AtomicBool) {
    let until = Instant::now() + pause;
    while !stop.load(Ordering::Acquire) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// State of the comparison of one shard, including the position that it has reached.
struct Walker {
    shard: ComparedShard,
    registry: Arc<ArcSwap<Registry>>,
    stop: Arc<AtomicBool>,
    walk: Walk,
    /// Copies that may be wrong, but whose files were checked and are consistent.
    sound: BTreeSet<usize>,
    /// Copies whose files were found malformed since the start.
    malformed: BTreeSet<usize>,
}

/// State of one walk over all rows of the shard.
#[derive(Default)]
struct Walk {
    place: WalkPosition,
    /// True if a copy was missing in a part of the walk, or a difference was not confirmed.
    has_gaps: bool,
    wrong: BTreeSet<usize>,
    unsettled: BTreeSet<usize>,
}

/// Copies that can be read now. Their files are not replaced as long as this value exists.
struct Held<'s> {
    files: Vec<CopyFile<'s>>,
    readers: Vec<Arc<FileReader>>,
}

/// Result of a look.
enum Step {
    /// Rows were compared, and more rows follow.
    Looked,
    /// The last rows were compared.
    Ended,
    /// Fewer than two copies can be compared.
    Alone,
}

impl Walker {
    /// Continues where the last visit ended, up to the last row if possible.
    fn visit(&mut self) {
        let mut tries = 0;
        while tries < TRIES_MAX && !self.stop.load(Ordering::Acquire) {
            let began = Instant::now();
            match self.step() {
                Ok((step, bytes)) => {
                    tries = 0;
                    let pause = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
                    let pause = pause.max(began.elapsed() * PAUSE_FACTOR).min(PAUSE_MAX);
                    rest(pause, &self.stop);
                    match step {
                        Step::Looked => {}
                        Step::Ended => return self.conclude(),
                        Step::Alone => return,
                    }
                }
                Err(Obstacle::Stopped) => return,
                Err(Obstacle::Unreadable { number, damaged: true, cause }) => {
                    return self.meet_damage(number, &cause);
                }
                Err(Obstacle::Unreadable { .. } | Obstacle::Apart) => {
                    tries += 1;
                    rest(AGAIN_AFTER, &self.stop);
                }
            }
        }
    }

    /// Compares the next range of rows, and returns the result and the number of bytes read.
    fn step(&mut self) -> Result<(Step, u64), Obstacle> {
        let tables = self.tables();
        let held = self.shard.hold();
        if held.files.len() < 2 {
            return Ok((Step::Alone, 0));
        }
        let history = self.shard.replication.timeline().history();
        let terms = WalkSettings { history: &history, stop: &self.stop };
        let looked = compare::look(&held.files, &tables, &self.walk.place, terms)?;
        drop(held);
        let found: Result<Vec<_>, Obstacle> =
            looked.differing.iter().map(|stretch| self.confirm(stretch)).collect();
        for rows in found? {
            self.add(&rows);
        }
        self.walk.has_gaps |= looked.copies <= self.shard.replicas.len();
        let step = if looked.next.is_some() { Step::Looked } else { Step::Ended };
        self.walk.place = looked.next.unwrap_or_default();
        Ok((step, looked.bytes))
    }

    /// Returns all tables, in the order of their names.
    fn tables(&self) -> Vec<Arc<Table>> {
        let registry = self.registry.load();
        let mut tables: Vec<_> =
            registry.tables().chain([&*idempotency::TABLE]).map(Arc::clone).collect();
        tables.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        tables
    }

    /// Returns those rows of a range that differ in the same way in two successive looks; usually
    /// none.
    fn confirm(&self, stretch: &Stretch) -> Result<HashSet<RowApart>, Obstacle> {
        let first = self.rows_apart(stretch)?;
        if first.is_empty() {
            return Ok(first);
        }
        rest(AGAIN_AFTER, &self.stop);
        let again = self.rows_apart(stretch)?;
        Ok(first.into_iter().filter(|row| again.contains(row)).collect())
    }

    fn rows_apart(&self, stretch: &Stretch) -> Result<HashSet<RowApart>, Obstacle> {
        let held = self.shard.hold();
        let history = self.shard.replication.timeline().history();
        let terms = WalkSettings { history: &history, stop: &self.stop };
        Ok(compare::rows_apart(&held.files, stretch, terms)?.into_iter().collect())
    }

    /// Records rows that differ, and stops reads from copies that are wrong.
    fn add(&mut self, rows: &HashSet<RowApart>) {
        if rows.is_empty() {
            // The second look did not find the same difference.
            self.walk.has_gaps = true;
            return;
        }
        for RowApart { copies, .. } in rows {
            match judge(copies) {
                CopyVerdict::Wrong(wrong) => self.walk.wrong.extend(wrong),
                CopyVerdict::Unsettled => {
                    self.walk.unsettled.extend(copies.iter().map(|(number, _)| *number));
                }
            }
        }
        self.settle();
        self.act();
        self.report(false);
        // Counted last, so that every counted difference has been reported and acted on.
        self.shard.copy_faults.count_differences(rows.len() as u64);
    }

    /// Checks the structure of the files of copies that differ. A file with an inconsistent
    /// structure is declared wrong if another of these files is consistent.
    fn settle(&mut self) {
        let Walk { wrong, unsettled, .. } = &mut self.walk;
        if !unsettled.is_disjoint(wrong) {
            unsettled.clear();
        }
        if unsettled.is_subset(&self.sound) {
            return;
        }
        let (mut sound, mut contradicting) = (BTreeSet::new(), BTreeSet::new());
        for number in unsettled.clone() {
            match self.shard.contradicts(number, &self.stop) {
                Some(false) => sound.insert(number),
                Some(true) => contradicting.insert(number),
                None => continue,
            };
        }
        if !sound.is_empty() && !contradicting.is_empty() {
            wrong.extend(contradicting);
            unsettled.clear();
        }
        self.sound = sound;
    }

    /// Declares a file wrong that SQLite has reported as malformed, if a check of the whole file
    /// confirms this.
    fn meet_damage(&mut self, number: usize, cause: &str) {
        let is_known = self.shard.copy_faults.about(number) == Some(CopyFault::Wrong);
        if is_known && self.malformed.contains(&number) {
            return;
        }
        if self.shard.contradicts(number, &self.stop) == Some(true) {
            tracing::error!(node = %self.shard.node(number), cause, "a file is damaged");
            self.malformed.insert(number);
            self.walk.wrong.insert(number);
            self.walk.has_gaps = true;
            self.act();
            self.conclude();
        }
    }

    /// Returns true if the primary, from which replicas are rebuilt, may be wrong.
    fn is_source_in_doubt(&self) -> bool {
        let known = self.shard.copy_faults.about(0).is_some() && self.walk.has_gaps;
        known || self.walk.wrong.contains(&0) || !self.walk.unsettled.is_empty()
    }

    /// Stops reads from copies that are wrong.
    fn act(&self) {
        let in_doubt = self.is_source_in_doubt();
        for (number, (replica, _)) in (1..).zip(&self.shard.replicas) {
            if in_doubt {
                replica.set_source_in_doubt(true);
            }
            if self.walk.wrong.contains(&number) {
                replica.stop_reads();
            }
        }
    }

    /// Ends a walk: repairs copies where possible and, if all rows were compared, withdraws faults
    /// that no longer hold.
    fn conclude(&mut self) {
        let (in_doubt, all) = (self.is_source_in_doubt(), !self.walk.has_gaps);
        for (number, (replica, _)) in (1..).zip(&self.shard.replicas) {
            if all {
                replica.set_source_in_doubt(in_doubt);
            }
            if !self.walk.wrong.contains(&number) {
                if all {
                    replica.allow_reads();
                }
            } else if !in_doubt {
                tracing::error!(
                    node = replica.node(),
                    "rows of a replica are wrong; it is rebuilt"
                );
                replica.request_rebuild();
            }
        }
        self.report(all);
        if all {
            // Recorded even without a new finding, because files may have been replaced meanwhile.
            self.shard.keep_doubts();
            self.shard.copy_faults.count_pass();
            if self.walk.unsettled.is_empty() {
                self.sound.clear();
            }
        }
        self.walk = Walk::default();
    }

    /// Reports the findings in `/api/health` and, if they are new, in the log.
    fn report(&self, all: bool) {
        let wrong = self.walk.wrong.iter().map(|number| (*number, CopyFault::Wrong));
        let unsettled = self.walk.unsettled.iter().map(|number| (*number, CopyFault::Unsettled));
        let found: BTreeMap<usize, CopyFault> = unsettled.chain(wrong).collect();
        if !self.shard.copy_faults.note(&found, all) {
            return;
        }
        self.shard.keep_doubts();
        for (number, findings) in self.shard.findings.iter().enumerate() {
            let reported = self.shard.copy_faults.about(number).map(|fault| fault.reason(number));
            for reason in [Reason::RowsWrong, Reason::CopyWrong, Reason::CopiesDiffer] {
                if reported != Some(reason) {
                    findings.withdraw(reason);
                } else if findings.raise(reason) {
                    let node = self.shard.node(number);
                    tracing::error!(%node, "copies of a shard differ: {}", reason.sentence());
                }
            }
        }
        if found.is_empty() {
            tracing::info!(shard = %self.shard.name, "the copies of a shard are the same again");
        }
    }
}

impl ComparedShard {
    fn is_of(&self, file_check: &Arc<OpenFileCheck>) -> bool {
        self.file_check.as_ref().is_some_and(|own| Arc::ptr_eq(own, file_check))
    }

    /// Records the faults for the next start.
    fn keep_doubts(&self) {
        let replicas = self.replicas.iter().map(|(_, file)| file.clone());
        let files: Vec<PathBuf> = std::iter::once(self.primary.clone()).chain(replicas).collect();
        self.record.replace(&self.name, &files, &self.copy_faults.all());
    }

    /// Returns the copies that can be read now, the primary first; none if another file may have
    /// taken the primary's place, because SQLite would replay the WAL of one file into the other.
    fn hold(&self) -> Held<'_> {
        if self.file_check.as_ref().is_some_and(|file_check| file_check.check().is_err()) {
            return Held { files: Vec::new(), readers: Vec::new() };
        }
        let mut files = vec![CopyFile { number: 0, path: &self.primary }];
        let mut held = Vec::new();
        for (index, (replica, path)) in self.replicas.iter().enumerate() {
            let follows = self.replication.replicas().state(index) == ReplicaState::Following;
            let runs = replica.fault_injector.fault().mode == NodeMode::Running;
            if let Some(readers) = replica.readers().filter(|_| follows && runs) {
                files.push(CopyFile { number: index + 1, path });
                held.push(readers);
            }
        }
        Held { files, readers: held }
    }

    /// Returns true if the structure of a copy's file is inconsistent; `None` if the check could
    /// not finish. The check reads the whole file, on a thread for which a shutdown does not wait.
    fn contradicts(&self, number: usize, stop: &AtomicBool) -> Option<bool> {
        let held = self.hold();
        let place = held.files.iter().position(|file| file.number == number)?;
        let path = held.files[place].path.to_owned();
        // Keeping the readers prevents the file from being replaced while it is checked.
        let readers = held.readers;
        let (done, found) = mpsc::channel();
        let work = move || {
            let _ = done.send(check::contradiction(&path));
            drop(readers);
        };
        std::thread::Builder::new().name("check".to_owned()).spawn(work).ok()?;
        loop {
            match found.recv_timeout(LOOK) {
                Ok(found) => return found.ok().map(|defect| defect.is_some()),
                Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::Acquire) => {}
                Err(_ended) => return None,
            }
        }
    }

    fn node(&self, number: usize) -> String {
        match number.checked_sub(1).and_then(|index| self.replicas.get(index)) {
            Some((replica, _)) => replica.node().to_owned(),
            None => format!("{}-primary", self.name),
        }
    }
}
