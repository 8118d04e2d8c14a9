//! Progress: how far each node of a shard has come, and who waits for it.
//!
//! The primary's writer and the replicas' appliers tell it; reads and writes ask it. A position is told before
//! it can be seen (`begin`) and again when it has become visible (`commit`, `applied`): so what a reader may
//! have seen is bounded by a number that needs no second look into the database.
//!
//! **Invariant:** each node's positions only grow; `durable <= applied <= applying` on a replica.
//! **Not here:** which node answers a read (`replica_set`), how rows get to a replica (`store`).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::position::{Position, TimelineHistory};

/// How often it is looked whether a node that owes an answer was lost, and for how many looks it may owe it then.
const UNHEARD_LOOK: Duration = Duration::from_secs(1);
const UNHEARD_MAX: u32 = 3;

/// Whether a replica takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It is being made from a snapshot of the primary.
    Building,
    /// It applies what the primary logs.
    Following,
    /// It cannot be used; it is tried again.
    Down,
}

impl ReplicaState {
    const ALL: [Self; 3] = [Self::Building, Self::Following, Self::Down];
}

/// The nodes of one shard.
#[derive(Debug)]
pub struct Progress {
    history: ArcSwap<TimelineHistory>,
    /// Held while what is known of the nodes changes with the history.
    following: Mutex<()>,
    /// Which of the replicas is the primary now; more than there are, if none of them can be.
    leading: AtomicUsize,
    /// Whether the primary has not answered when it was asked last.
    silent: AtomicBool,
    /// Times are counted from here.
    epoch: Instant,
    begun: AtomicU64,
    committed: AtomicU64,
    /// Up to where strong reads of the primary have shown its changes.
    shown: AtomicU64,
    /// Where the last change of the tables stands.
    schema: AtomicU64,
    replicas: Box<[ReplicaProgress]>,
    /// The log is needed after this by something that is no replica; `u64::MAX` if by nothing.
    kept_after: AtomicU64,
    /// Told whenever a replica has come further.
    advanced: Notify,
    /// Told whenever one is found to be down.
    downs: Notify,
    /// Whether replicas are asked where they stand, now and then, instead of telling it: others may have written since.
    is_asked: bool,
    /// Writes that wait until replicas have made them durable.
    confirmations: AtomicUsize,
    /// Reads and writes that wait for a replica to come further.
    awaiting: AtomicUsize,
}

/// One replica's part of it.
#[derive(Debug)]
struct ReplicaProgress {
    state: AtomicU8,
    /// How often it was found to be down.
    losses: AtomicUsize,
    applying: AtomicU64,
    applied: AtomicU64,
    durable: AtomicU64,
    /// Microseconds since `epoch` at which it had all there was.
    current_at: AtomicU64,
    /// Wakes what follows it.
    waker: OnceLock<Waker>,
    /// Whether the applier gathers what comes, and is not woken for it.
    gathering: AtomicBool,
}

impl Progress {
    /// The progress of a shard whose primary has reached `position` and begun a timeline.
    pub fn new(history: TimelineHistory, position: u64, replicas: usize) -> Self {
        let replica = || ReplicaProgress {
            state: AtomicU8::new(ReplicaState::Down as u8),
            losses: AtomicUsize::new(0),
            applying: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            current_at: AtomicU64::new(0),
            waker: OnceLock::new(),
            gathering: AtomicBool::new(false),
        };
        Self {
            history: ArcSwap::from_pointee(history),
            following: Mutex::new(()),
            leading: AtomicUsize::new(usize::MAX),
            silent: AtomicBool::new(false),
            epoch: Instant::now(),
            begun: AtomicU64::new(position),
            committed: AtomicU64::new(position),
            shown: AtomicU64::new(position),
            schema: AtomicU64::new(0),
            replicas: (0..replicas).map(|_| replica()).collect(),
            kept_after: AtomicU64::new(u64::MAX),
            advanced: Notify::new(),
            downs: Notify::new(),
            is_asked: false,
            confirmations: AtomicUsize::new(0),
            awaiting: AtomicUsize::new(0),
        }
    }

    /// The same of a shard whose nodes are asked where they stand. Each can be the primary, and the first is: it counts
    /// among the replicas, but not as one.
    #[must_use]
    pub fn asked(self) -> Self {
        Self { is_asked: true, leading: AtomicUsize::new(0), ..self }
    }

    /// Whether replicas are asked where they stand: then others may have written what is not known here.
    pub fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// The timelines of the shard.
    pub fn history(&self) -> Arc<TimelineHistory> {
        self.history.load_full()
    }

    /// The timeline that goes on.
    pub fn life(&self) -> u32 {
        self.history.load().current()
    }

    /// Told when another node has become the primary: what it has, and how it came to it. Of the others nothing is known
    /// until they have told that they follow it.
    pub fn follow(&self, history: TimelineHistory, position: u64, leading: usize) {
        let _following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        self.leading.store(leading, Ordering::SeqCst);
        for positions in [&self.begun, &self.committed, &self.shown, &self.schema] {
            positions.store(position, Ordering::SeqCst);
        }
        for replica in &self.replicas {
            replica.state.store(ReplicaState::Down as u8, Ordering::SeqCst);
            for position in [&replica.applying, &replica.applied, &replica.durable] {
                position.store(0, Ordering::SeqCst);
            }
            replica.current_at.store(0, Ordering::SeqCst);
        }
        // Last: who finds the new timeline finds no position of the one before.
        self.history.store(Arc::new(history));
        self.silent.store(false, Ordering::SeqCst);
        self.advanced.notify_waiters();
        self.downs.notify_waiters();
    }

    /// Tells something that is so on this timeline only; not, if it is over.
    pub fn tell(&self, life: u32, tell: impl FnOnce(&Self)) {
        let _following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        if self.life() == life {
            tell(self);
        }
    }

    /// Which of the replicas is the primary now.
    pub fn leading(&self) -> Option<usize> {
        let leading = self.leading.load(Ordering::SeqCst);
        (leading < self.replicas.len()).then_some(leading)
    }

    /// Tells whether the primary answers who watches it.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// Whether the primary does not answer who watches it.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    /// A position of the timeline that goes on.
    pub fn position(&self, sequence: u64) -> Position {
        Position { timeline: self.life(), sequence }
    }

    /// Number of replicas, those that are down included.
    pub fn replicas(&self) -> usize {
        self.replicas.len() - usize::from(self.leading().is_some())
    }

    // --- the primary -----------------------------------------------------------------------------------------

    /// Told before a batch is committed.
    pub fn begin(&self, position: u64) {
        self.begun.store(position, Ordering::SeqCst);
    }

    /// Told after a batch is durable, before anyone is answered. `began` is when its commit began.
    pub fn commit(&self, position: u64, began: Instant) {
        let before = self.committed.load(Ordering::Acquire);
        for replica in &self.replicas {
            // A replica that had everything falls behind now, and not when it was last busy.
            if replica.applied.load(Ordering::Acquire) >= before {
                replica.current_at.fetch_max(self.micros(began), Ordering::AcqRel);
            }
        }
        self.committed.store(position, Ordering::SeqCst);
        let idle = |replica: &&ReplicaProgress| !replica.gathering.load(Ordering::SeqCst);
        self.replicas.iter().filter(idle).for_each(ReplicaProgress::wake);
    }

    /// Told after a batch is durable, and by who asks the primary where it stands, where others may write as well: it
    /// has at least this.
    pub fn observe(&self, position: u64) {
        self.begun.fetch_max(position, Ordering::SeqCst);
        self.committed.fetch_max(position, Ordering::SeqCst);
    }

    /// Told after a batch failed, or after the file was opened again: what the primary has.
    pub fn settle(&self, position: u64) {
        self.committed.store(position, Ordering::SeqCst);
        self.begun.store(position, Ordering::SeqCst);
        self.replicas.iter().for_each(ReplicaProgress::wake);
    }

    /// Told after a change of the tables is durable, before anyone learns of it; and at a start, of the last one.
    pub fn schema_changed(&self, position: u64) {
        self.schema.fetch_max(position, Ordering::SeqCst);
    }

    /// A node that has not come so far does not know every table.
    pub fn schema_position(&self) -> u64 {
        self.schema.load(Ordering::SeqCst)
    }

    /// Everything acknowledged is at or below this.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    /// Up to where a read of the primary that has ended may have seen; `None` while a commit runs that it may
    /// or may not have seen.
    pub fn seen_on_primary(&self) -> Option<u64> {
        // In this order: of a batch that the read saw, `begun` tells even if `committed` does not yet.
        let committed = self.committed();
        (self.begun.load(Ordering::SeqCst) == committed).then_some(committed)
    }

    /// Told before a strong read of the primary is answered: up to where it has seen. A commit can be seen a moment
    /// before the writer tells of it.
    pub fn show(&self, position: u64) {
        self.shown.fetch_max(position, Ordering::SeqCst);
    }

    /// What a strong read must not miss: everything acknowledged, and everything that a strong read before it has shown.
    pub fn strong_floor(&self) -> u64 {
        self.committed().max(self.shown.load(Ordering::SeqCst))
    }

    // --- replicas --------------------------------------------------------------------------------------------

    /// Sets whether a replica takes part.
    pub fn set_state(&self, replica: usize, state: ReplicaState) {
        self.replicas[replica].state.store(state as u8, Ordering::SeqCst);
        self.advanced.notify_waiters();
        if state == ReplicaState::Down {
            self.replicas[replica].losses.fetch_add(1, Ordering::SeqCst);
            self.downs.notify_waiters();
        }
    }

    /// Returns when a replica takes no part: who waits for its answer need not wait any more.
    pub async fn down(&self, replica: usize) {
        loop {
            let down = self.downs.notified();
            tokio::pin!(down);
            down.as_mut().enable();
            if self.state(replica) != ReplicaState::Following {
                return;
            }
            down.await;
        }
    }

    /// Returns some seconds after a node (a replica, or the primary) was not reached: what it was asked before, it may never
    /// answer, not even when it is back.
    pub async fn unheard(&self, replica: Option<usize>) {
        let losses = || {
            let node = replica.or_else(|| self.leading()).and_then(|node| self.replicas.get(node));
            node.map_or(0, |node| node.losses.load(Ordering::SeqCst))
        };
        let (before, mut looks) = (losses(), 0);
        while looks < UNHEARD_MAX {
            tokio::time::sleep(UNHEARD_LOOK).await;
            // Once it was not reached: a connection from before may be dead though it is reached again.
            looks += u32::from(losses() != before);
        }
    }

    /// Whether a replica takes part.
    pub fn state(&self, replica: usize) -> ReplicaState {
        let state = self.replicas[replica].state.load(Ordering::SeqCst);
        ReplicaState::ALL
            .into_iter()
            .find(|known| *known as u8 == state)
            .unwrap_or(ReplicaState::Down)
    }

    /// Registers how to wake what follows a replica, when there is something to apply or somebody waits.
    pub fn set_waker(&self, replica: usize, wake: impl Fn() + Send + Sync + 'static) {
        // Set once, by the one thread or task that a replica has.
        let _ = self.replicas[replica].waker.set(Waker(Box::new(wake)));
    }

    /// Told before a transaction of an applier is committed.
    pub fn applying(&self, replica: usize, position: u64) {
        self.replicas[replica].applying.store(position, Ordering::SeqCst);
    }

    /// Told after it. `had_all_at`: if this is all that the primary had at that time, the time.
    pub fn applied(&self, replica: usize, position: u64, had_all_at: Option<Instant>) {
        let replica = &self.replicas[replica];
        if let Some(at) = had_all_at {
            replica.current_at.fetch_max(self.micros(at), Ordering::AcqRel);
        }
        replica.applied.store(position, Ordering::SeqCst);
        self.advanced.notify_waiters();
    }

    /// Told when a replica is made anew, or opened: where it stands. It must be on disk: the snapshot is synced, and
    /// an applier syncs when it opens a file.
    pub fn restart(&self, replica: usize, position: u64) {
        let state = &self.replicas[replica];
        state.applying.store(position, Ordering::SeqCst);
        state.applied.store(position, Ordering::SeqCst);
        state.durable.store(position, Ordering::SeqCst);
        self.advanced.notify_waiters();
    }

    /// Told after everything up to here is on the replica's disk.
    pub fn durable(&self, replica: usize, position: u64) {
        self.replicas[replica].durable.store(position, Ordering::SeqCst);
        self.advanced.notify_waiters();
    }

    /// Told by an applier that lets work gather for a moment, and when it goes on. Only those who wait wake it.
    pub fn set_gathering(&self, replica: usize, gathering: bool) {
        self.replicas[replica].gathering.store(gathering, Ordering::SeqCst);
    }

    /// Whether somebody waits for a replica to come further.
    pub fn is_awaited(&self) -> bool {
        self.confirmations_wanted() || self.awaiting.load(Ordering::SeqCst) > 0
    }

    /// Up to where a replica shows the primary's changes.
    pub fn applied_by(&self, replica: usize) -> u64 {
        self.replicas[replica].applied.load(Ordering::SeqCst)
    }

    /// Up to where a replica keeps the primary's changes over a loss of power.
    pub fn durable_on(&self, replica: usize) -> u64 {
        self.replicas[replica].durable.load(Ordering::SeqCst)
    }

    /// Up to where a read of a replica that has ended may have seen. The primary has it all.
    pub fn seen_on(&self, replica: usize) -> u64 {
        self.replicas[replica].applying.load(Ordering::SeqCst)
    }

    /// How long ago a replica had everything that was committed; zero if it has it now.
    pub fn staleness(&self, replica: usize) -> Duration {
        let state = &self.replicas[replica];
        if !self.is_asked && state.applied.load(Ordering::SeqCst) >= self.committed() {
            return Duration::ZERO;
        }
        let current_at = Duration::from_micros(state.current_at.load(Ordering::Acquire));
        self.epoch.elapsed().saturating_sub(current_at)
    }

    /// The same for people: `None` if it has never had everything since the process began.
    pub fn lag(&self, replica: usize) -> Option<Duration> {
        let has_all = self.applied_by(replica) >= self.committed();
        let staleness = if has_all { Duration::ZERO } else { self.staleness(replica) };
        let known = self.replicas[replica].current_at.load(Ordering::Acquire) > 0;
        (known || staleness.is_zero()).then_some(staleness)
    }

    /// Up to where the log is no longer needed: every replica that can still catch up by it has it on disk.
    pub fn trimmable(&self) -> u64 {
        let kept = self.replicas.iter().map(|replica| replica.durable.load(Ordering::SeqCst));
        let kept_after = self.kept_after.load(Ordering::SeqCst);
        kept.min().unwrap_or(u64::MAX).min(kept_after).min(self.committed())
    }

    /// Keeps what the log gets from now on, until it is dropped. For one at a time.
    pub fn keep_log(&self) -> KeptLog<'_> {
        // What is trimmed meanwhile was trimmed for a position that had been committed before.
        self.kept_after.store(self.committed(), Ordering::SeqCst);
        KeptLog(self)
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }

    // --- those who wait --------------------------------------------------------------------------------------

    /// On how many replicas everything up to `position` is durable.
    pub fn confirmed(&self, position: u64) -> usize {
        let leading = self.leading();
        let others = self.replicas.iter().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != leading);
        let durable = others.map(|(_, replica)| replica.durable.load(Ordering::SeqCst));
        durable.filter(|durable| *durable >= position).count()
    }

    /// Makes appliers sync what they apply, until it is dropped.
    pub fn ask_for_confirmations(&self) -> Awaiting<'_> {
        self.confirmations.fetch_add(1, Ordering::SeqCst);
        self.replicas.iter().for_each(ReplicaProgress::wake);
        Awaiting(&self.confirmations)
    }

    /// Whether someone waits for what appliers sync.
    pub fn confirmations_wanted(&self) -> bool {
        self.confirmations.load(Ordering::SeqCst) > 0
    }

    /// Waits until `check` finds what it looks for, at most until `deadline`. Appliers hurry meanwhile.
    pub async fn until<T>(
        &self,
        deadline: Instant,
        check: impl Fn(&Self) -> Option<T>,
    ) -> Option<T> {
        self.awaiting.fetch_add(1, Ordering::SeqCst);
        let _awaiting = Awaiting(&self.awaiting);
        self.replicas.iter().for_each(ReplicaProgress::wake);
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            // Before the check, so that what happens after it is not missed.
            advanced.as_mut().enable();
            if let Some(found) = check(self) {
                return Some(found);
            }
            if tokio::time::timeout_at(deadline.into(), advanced).await.is_err() {
                return check(self);
            }
        }
    }
}

impl ReplicaProgress {
    fn wake(&self) {
        if let Some(Waker(wake)) = self.waker.get() {
            wake();
        }
    }
}

/// How what follows a replica is woken.
struct Waker(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// The log of a shard is not trimmed while this lives, unless it grows out of all bounds.
#[derive(Debug)]
pub struct KeptLog<'p>(&'p Progress);

impl Drop for KeptLog<'_> {
    fn drop(&mut self) {
        self.0.kept_after.store(u64::MAX, Ordering::SeqCst);
    }
}

/// One who waits, until it is dropped.
#[derive(Debug)]
pub struct Awaiting<'p>(&'p AtomicUsize);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
