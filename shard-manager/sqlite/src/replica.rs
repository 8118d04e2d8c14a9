//! Replica: one replica of an embedded shard, and the thread that maintains it.
//!
//! The thread attaches (opens the file, or creates it from a snapshot of the primary), catches up,
//! and then applies new entries of the primary's change log. Failed work is retried after
//! increasing pauses.
//!
//! **Invariant:** the state of the replica becomes `Following` only after the replica has caught up
//! once.
//! **Not here:** applying an entry (`applier`), the choice of a replica for a read (`replica_set`).

mod delay;
mod failure;
mod node;
mod pauses;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::OpenError;
use super::applier::{Applier, ApplyError};
use super::file_reader::FileReader;
use super::open_file_check::{Inode, OpenFileCheck};
use super::reader::{Housekeeping, ReaderPool, ReaderSource, VisibleBound};
use super::{check, snapshot};

use engine::fault_injector::{FaultInjector, NodeMode};
use engine::replication::{ReplicaState, ReplicationState};

use delay::Delay;
use failure::{ReplicaFailure, is_lost};
use pauses::RETRY_FIRST;

/// Longest time for which a replica has applied entries without a sync. The primary's log keeps
/// entries that were applied but not yet synced.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Number of unsynced batches after which a replica is synced even if [`SYNC_EVERY`] has not
/// passed.
const SYNC_EVERY_BATCHES: u64 = 256;
/// Longest time for which a router that is shutting down lets a replica catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);
/// Pause after each transaction while no request waits for the replica. New batches accumulate
/// meanwhile, so that under load several are applied in one transaction, at half the cost. The
/// first batch after an idle period is applied at once.
const GATHER: Duration = Duration::from_millis(10);
/// Interval at which a paused or delayed replica checks whether it may continue.
const PAUSED_POLL: Duration = Duration::from_millis(5);

/// Settings of a replica.
pub struct ReplicaSpec {
    /// Name of the node, such as `shard1-replica1`.
    pub node: String,
    /// Name of the shard.
    pub shard: String,
    /// Path of the primary's file.
    pub primary: PathBuf,
    /// Check that the path of the primary still leads to the file that is open.
    pub file_check: Arc<OpenFileCheck>,
    /// Path of the replica's file.
    pub file: PathBuf,
    /// True if the replica's file may be used; otherwise it is rebuilt.
    pub usable: bool,
    /// Index of the replica in its shard, from 0.
    pub index: usize,
    /// True if the replica's rows are known to be wrong, so that they must not be read.
    pub condemned: bool,
    /// True if rows of the primary may be wrong, so that the replica must not be rebuilt from the
    /// primary.
    pub source_in_doubt: bool,
}

/// A running replica.
pub struct FileReplica {
    node: String,
    /// Injects faults: pauses, delays or cuts off the replica.
    pub fault_injector: Arc<FaultInjector>,
    readers: ArcSwapOption<FileReader>,
    /// True after a failed read, until the file has been checked.
    suspected: AtomicBool,
    /// True if the replica's rows are known to be wrong, so that they must not be read.
    condemned: AtomicBool,
    /// True if a rebuild was requested and has not begun.
    rebuild_requested: AtomicBool,
    /// True if rows of the primary may be wrong, so that no replica may be rebuilt from it.
    source_in_doubt: AtomicBool,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl FileReplica {
    /// Starts the thread of a replica.
    ///
    /// # Errors
    /// The error of the system, if it cannot start a thread.
    pub fn start(
        spec: ReplicaSpec,
        replication: &Arc<ReplicationState>,
        housekeeping: &Housekeeping,
    ) -> std::io::Result<Arc<Self>> {
        let replica = Arc::new(Self {
            node: spec.node.clone(),
            fault_injector: Arc::default(),
            readers: ArcSwapOption::empty(),
            suspected: AtomicBool::new(false),
            condemned: AtomicBool::new(spec.condemned),
            rebuild_requested: AtomicBool::new(false),
            source_in_doubt: AtomicBool::new(spec.source_in_doubt),
            stopping: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        replication.replicas().set_state(spec.index, ReplicaState::Building);
        let replica_thread = ReplicaThread {
            usable: spec.usable,
            spec,
            replica: Arc::clone(&replica),
            replication: Arc::clone(replication),
            housekeeping: housekeeping.clone(),
            applier: None,
            retry: RETRY_FIRST,
            not_before: Instant::now(),
            synced_at: Instant::now(),
            looked_at: Instant::now(),
            attached_to: [None; 2],
            delay: Delay::default(),
        };
        let thread = std::thread::Builder::new()
            .name(replica_thread.spec.node.clone())
            .spawn(move || replica_thread.run())?;
        *replica.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(replica)
    }

    /// Returns the name of the node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Returns the connections to the file; `None` while it cannot be read.
    pub fn readers(&self) -> Option<Arc<FileReader>> {
        self.readers.load_full()
    }

    /// Records a failed read. The replica's thread then checks the file, and rebuilds it if it is
    /// damaged.
    pub fn suspect(&self) {
        self.suspected.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Stops reads from the replica because its rows are wrong. The replica continues to follow its
    /// primary.
    pub fn stop_reads(&self) {
        self.condemned.store(true, Ordering::SeqCst);
    }

    /// Allows reads from the replica again because its rows are no longer known to be wrong.
    pub fn allow_reads(&self) {
        self.condemned.store(false, Ordering::SeqCst);
    }

    /// Requests a rebuild from a snapshot of the primary.
    pub fn request_rebuild(&self) {
        self.rebuild_requested.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Records if rows of the primary may be wrong. As long as they may be, the replica is not
    /// rebuilt, because its own rows may be the right ones.
    pub fn set_source_in_doubt(&self, in_doubt: bool) {
        if self.source_in_doubt.swap(in_doubt, Ordering::SeqCst) != in_doubt {
            self.wake();
        }
    }

    fn wake(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = &*thread {
            thread.thread().unpark();
        }
    }

    /// Returns true if the replica is not cut off, its file needs no check, and its rows are not
    /// known to be wrong.
    pub fn is_reachable(&self) -> bool {
        !self.suspected.load(Ordering::SeqCst)
            && !self.condemned.load(Ordering::SeqCst)
            && self.fault_injector.fault().mode != NodeMode::Cut
    }

    /// Lets the replica catch up for a short time, closes its file and ends its thread. Blocks
    /// until the thread has ended.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.stopping.store(true, Ordering::SeqCst);
            thread.thread().unpark();
            // An error means that the thread has panicked, and the panic was already logged.
            let _ = thread.join();
        }
    }
}

/// State of a replica's thread.
struct ReplicaThread {
    spec: ReplicaSpec,
    usable: bool,
    replica: Arc<FileReplica>,
    replication: Arc<ReplicationState>,
    housekeeping: Housekeeping,
    applier: Option<Applier>,
    retry: Duration,
    /// Time before which no work is attempted after a failure, even if the thread is woken.
    not_before: Instant,
    synced_at: Instant,
    /// Time of the last check that the replica's path still leads to the file that is open.
    looked_at: Instant,
    /// Inodes of the open file and its WAL.
    attached_to: [Option<Inode>; 2],
    delay: Delay,
}

/// Next action of a replica's thread.
enum Next {
    /// Continues at once.
    Work,
    /// Waits briefly for more entries, unless a request waits for the replica.
    Gather,
    /// Waits for at most this time, unless it is woken earlier.
    Rest(Duration),
}

impl ReplicaThread {
    fn run(mut self) {
        let applier = std::thread::current();
        self.replication.waiters().set_waker(self.spec.index, move || applier.unpark());
        while !self.replica.stopping.load(Ordering::SeqCst) {
            match self.turn() {
                Next::Work => {}
                Next::Gather => self.gather(),
                Next::Rest(pause) => std::thread::park_timeout(pause),
            }
        }
        let deadline = Instant::now() + CATCH_UP_MAX;
        while Instant::now() < deadline && matches!(self.turn(), Next::Work | Next::Gather) {}
        self.replication.replicas().set_state(self.spec.index, ReplicaState::Down);
        if let Some(applier) = self.applier.take() {
            applier.close();
        }
    }

    fn gather(&self) {
        let (index, until) = (self.spec.index, Instant::now() + GATHER);
        self.replication.waiters().set_gathering(index, true);
        while !self.replication.waiters().has_waiters()
            && !self.replica.stopping.load(Ordering::SeqCst)
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        self.replication.waiters().set_gathering(index, false);
    }

    fn turn(&mut self) -> Next {
        let replica = Arc::clone(&self.replica);
        let pause = self.not_before.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            return Next::Rest(pause);
        }
        let Ok(turn) = replica.fault_injector.enter() else { return Next::Rest(PAUSED_POLL) };
        let done = self.work();
        drop(turn);
        done.unwrap_or_else(|failure| self.fail(&failure))
    }

    fn work(&mut self) -> Result<Next, ReplicaFailure> {
        if self.spec.file_check.loss().is_some() {
            // The primary's path may now lead to a different file.
            return Ok(Next::Rest(SYNC_EVERY));
        }
        if self.replica.suspected.load(Ordering::SeqCst) {
            self.examine();
            self.replica.suspected.store(false, Ordering::SeqCst);
        }
        if self.replica.rebuild_requested.swap(false, Ordering::SeqCst) {
            self.detach();
        }
        if self.applier.is_none() {
            if self.replica.stopping.load(Ordering::SeqCst) {
                return Ok(Next::Rest(PAUSED_POLL));
            }
            if !self.usable && self.replica.source_in_doubt.load(Ordering::SeqCst) {
                let replicas = self.replication.replicas();
                if replicas.state(self.spec.index) != ReplicaState::Down {
                    let file = self.spec.file.display();
                    tracing::warn!(%file, "not rebuilt, because rows of the primary may be wrong: stop the router and remove the file of the wrong copy");
                }
                replicas.set_state(self.spec.index, ReplicaState::Down);
                return Ok(Next::Rest(SYNC_EVERY));
            }
            self.attach().map_err(ReplicaFailure::Attach)?;
            return Ok(Next::Work);
        }
        if self.looked_at.elapsed() >= SYNC_EVERY {
            self.looked_at = Instant::now();
            if inodes(&self.spec.file) != self.attached_to {
                return Ok(self.leave());
            }
        }
        let next = self.apply().map_err(ReplicaFailure::Apply)?;
        if self.replication.replicas().state(self.spec.index) == ReplicaState::Following {
            self.retry = RETRY_FIRST;
        }
        Ok(next)
    }

    /// Abandons the open file after its path has come to lead to another file or to none. Changes
    /// applied to such a file are lost when the process ends.
    fn leave(&mut self) -> Next {
        let node = &self.spec.node;
        tracing::error!(%node, "the file of a replica was removed or replaced; it is rebuilt");
        self.detach();
        Next::Work
    }

    /// Opens the replica's file, and rebuilds it first if it cannot be used.
    fn attach(&mut self) -> Result<(), OpenError> {
        let spec = &self.spec;
        spec.file_check.check()?;
        if !self.usable {
            self.replication.replicas().set_state(spec.index, ReplicaState::Building);
            self.close_readers();
            if self.replica.stopping.load(Ordering::SeqCst) {
                return Ok(());
            }
            tracing::info!(node = %spec.node, "a replica is rebuilt from a snapshot of its primary");
            snapshot::make(&spec.primary, &spec.file)?;
            self.usable = true;
            self.replica.allow_reads();
        }
        let current = self.replication.timeline().history().current();
        let applier = Applier::open(&spec.primary, &spec.file, current)?;
        self.replication.replicas().reset_to(spec.index, applier.position());
        let visible_bound = VisibleBound::replica(&self.replication, spec.index);
        let source =
            ReaderSource { file_check: None, ownership: Arc::clone(applier.slot_ownership()) };
        let place = (&*spec.shard, &*spec.file);
        let readers = ReaderPool::open_on(source, place, visible_bound, &self.housekeeping)?;
        self.replica.readers.store(Some(Arc::new(FileReader::new(readers))));
        self.applier = Some(applier);
        self.attached_to = inodes(&spec.file);
        Ok(())
    }

    /// Waits until no reader has the old file open. SQLite finds the WAL of a file by the file's
    /// path, and the new file will have the same path. Returns early if the replica is stopped.
    fn close_readers(&self) {
        let Some(readers) = self.replica.readers.swap(None) else { return };
        let readers = {
            let watched = Arc::downgrade(readers.readers());
            drop(readers);
            watched
        };
        let stopping = || self.replica.stopping.load(Ordering::SeqCst);
        while readers.strong_count() > 0 && !stopping() {
            std::thread::sleep(PAUSED_POLL);
        }
    }

    /// Applies the next entries in one transaction; if there are none, syncs the file if that is
    /// due.
    fn apply(&mut self) -> Result<Next, ApplyError> {
        let Self { spec, replication, applier, attached_to, .. } = self;
        let Some(applier) = applier else { return Ok(Next::Work) };
        let asked_at = Instant::now();
        let committed = replication.primary().committed();
        let delay = self.replica.fault_injector.fault().delay;
        let due = self.delay.due(asked_at, committed, delay);
        let (mut worked, mut position) = (false, applier.position());
        if committed > position {
            let unsynced = position - replication.replicas().durable(spec.index);
            let sync = replication.waiters().awaits_confirmations()
                || unsynced >= SYNC_EVERY_BATCHES
                || self.synced_at.elapsed() >= SYNC_EVERY;
            let last = (!delay.is_zero()).then_some(due);
            let begin = |position| replication.replicas().begin_apply(spec.index, position);
            worked = applier.step(sync, last, begin)?;
            position = applier.position();
            if worked {
                let had_all_at = (position >= committed).then_some(asked_at);
                replication.replicas().record_applied(spec.index, position, had_all_at);
                if sync && inodes(&spec.file) != *attached_to {
                    return Ok(self.leave());
                }
                if sync {
                    replication.replicas().record_durable(spec.index, position);
                    self.synced_at = Instant::now();
                }
            }
        }
        if position >= committed
            && replication.replicas().state(spec.index) != ReplicaState::Following
        {
            replication.replicas().set_state(spec.index, ReplicaState::Following);
        }
        if worked {
            let hurry = replication.waiters().has_waiters() || position < committed;
            return Ok(if hurry { Next::Work } else { Next::Gather });
        }
        self.rest(position, !delay.is_zero())
    }

    /// Syncs the file if that is due, and otherwise returns how long the thread may rest. Called
    /// when there is nothing to apply.
    fn rest(&mut self, position: u64, delayed: bool) -> Result<Next, ApplyError> {
        let Self { spec, replication, applier, attached_to, .. } = self;
        let since = self.synced_at.elapsed();
        let unsynced = position > replication.replicas().durable(spec.index);
        if unsynced && (replication.waiters().awaits_confirmations() || since >= SYNC_EVERY) {
            if let Some(applier) = applier {
                applier.sync()?;
            }
            if inodes(&spec.file) != *attached_to {
                return Ok(self.leave());
            }
            replication.replicas().record_durable(spec.index, position);
            self.synced_at = Instant::now();
            return Ok(Next::Work);
        }
        Ok(Next::Rest(match (delayed, unsynced) {
            (true, _) => PAUSED_POLL,
            (false, true) => SYNC_EVERY.saturating_sub(since),
            (false, false) => SYNC_EVERY,
        }))
    }

    /// Checks the file after a failed read, and closes it for a rebuild if it is damaged.
    fn examine(&mut self) {
        let Err(cause) = check::quick(&self.spec.file) else { return };
        let node = &self.spec.node;
        if is_lost(&cause, &self.spec.file) {
            tracing::error!(%node, %cause, "a replica is damaged and is rebuilt");
            self.detach();
        } else {
            // The file is checked again after the next failed read.
            tracing::warn!(%node, %cause, "a replica could not be checked after a failed read");
        }
    }

    /// Closes the file so that it is rebuilt.
    fn detach(&mut self) {
        self.replication.replicas().set_state(self.spec.index, ReplicaState::Building);
        self.applier = None;
        self.usable = false;
    }
}

/// Returns the inodes of the file at a path and of its WAL; `None` for a file that does not exist.
fn inodes(path: &Path) -> [Option<Inode>; 2] {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [Inode::at(path), Inode::at(Path::new(&wal))]
}
