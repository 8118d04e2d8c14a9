//! Cluster status: returns the latest known state of the cluster without waiting for a node.
//!
//! State that is in memory is read directly. Nodes are probed at most once a second. The numbers of
//! rows and bytes are looked up at most every ten seconds, by one statement for each shard. Probes
//! and lookups run in the background, and only when clients request the status; a new one starts
//! only after the previous one of its kind has ended.
//!
//! **Invariant:** no probe of a node and no lookup of sizes runs on a thread that serves requests.
//! **Not here:** the recorded requests (`metrics_view`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use analytics::{
    CacheNow, ClusterNow, ComparedNow, LaneNow, MoveNow, MoveTotalsNow, NodeNow, ParkedNow,
    PoolNow, RebalanceNow, ShardNow, WaitBucket,
};
use chrono::{DateTime, Utc};
use shard_manager::cache::CacheStats;
use shard_manager::engine::move_record::MoveRecord;
use shard_manager::manager::{Manager, MoveTotals, Rebalances, ShardReport};
use shard_manager::shard_map::ShardMap;
use shard_manager::stats::{NodeStats, PARKED_WAITS_MS, ParkedStats, ShardStats, SizeEstimate};
use shard_manager::topology::{Role, ShardNumber};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Age of the last probe of the nodes at which a request starts a new one.
const PROBE_AGE_MAX: Duration = Duration::from_secs(1);
/// Maximum time for a node to respond to a probe.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// Age at which the result of a probe is no longer used.
const PROBE_TRUSTED: Duration = Duration::from_secs(5);
/// Age of the last lookup of rows and bytes at which a request starts a new one.
const SIZES_AGE_MAX: Duration = Duration::from_secs(10);
/// Maximum time for looking up the numbers of rows and bytes.
const SIZES_MAX: Duration = Duration::from_secs(10);
/// Maximum time for which a request waits for a running probe, so that a hanging node delays no
/// request for longer.
const PATIENCE: Duration = Duration::from_millis(250);

/// Estimated sizes of the open shards; `None` for a shard that did not respond.
type Sizes = Vec<(ShardNumber, Option<SizeEstimate>)>;

/// Latest known state of a cluster.
pub struct ClusterStatus {
    manager: Arc<Manager>,
    runtime: Handle,
    backend: &'static str,
    started: Instant,
    started_at: String,
    nodes: Arc<LatestValue<Vec<ShardReport>>>,
    sizes: Arc<LatestValue<Sizes>>,
}

/// Latest value that a background task has determined.
struct LatestValue<T> {
    found: watch::Sender<Option<(Instant, Arc<T>)>>,
    is_busy: AtomicBool,
    begun: Mutex<Option<Instant>>,
}

impl<T: Send + Sync + 'static> LatestValue<T> {
    fn new() -> Arc<Self> {
        let found = watch::Sender::new(None);
        Arc::new(Self { found, is_busy: AtomicBool::new(false), begun: Mutex::new(None) })
    }

    /// Starts a background task that determines the value again, unless the last one began less
    /// than `age_max` ago or is still running.
    fn refresh<F>(self: &Arc<Self>, runtime: &Handle, age_max: Duration, find: F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = begun.is_some_and(|begun| begun.elapsed() < age_max);
        if is_fresh || self.is_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        *begun = Some(Instant::now());
        drop(begun);
        let guard = RefreshGuard(Arc::clone(self));
        runtime.spawn(async move {
            let found = Arc::new(find.await);
            guard.0.found.send_replace(Some((Instant::now(), found)));
            drop(guard);
        });
    }

    fn get(&self) -> Option<(Instant, Arc<T>)> {
        self.found.borrow().clone()
    }

    /// Waits until a running background task has determined the value, but no longer than
    /// `patience`.
    async fn wait(&self, patience: Duration) {
        let mut found = self.found.subscribe();
        if self.is_busy.load(Ordering::Acquire) {
            // On a timeout the previous value is used.
            let _ = tokio::time::timeout(patience, found.changed()).await;
        }
    }
}

/// Marks the background task of a value as running until the guard is dropped, even by a panic.
struct RefreshGuard<T>(Arc<LatestValue<T>>);

impl<T> Drop for RefreshGuard<T> {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Release);
    }
}

impl ClusterStatus {
    /// Creates the status of this cluster; probes run on `runtime`.
    pub fn new(manager: Arc<Manager>, runtime: Handle, backend: &'static str) -> Self {
        let started_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let (nodes, sizes) = (LatestValue::new(), LatestValue::new());
        Self { manager, runtime, backend, started: Instant::now(), started_at, nodes, sizes }
    }

    /// Refreshes values that are too old, and waits for at most `PATIENCE` for the probes of the
    /// nodes.
    pub async fn refresh(&self) {
        let manager = Arc::clone(&self.manager);
        self.nodes.refresh(&self.runtime, PROBE_AGE_MAX, async move {
            manager.status().health(Instant::now() + PROBE_MAX).await
        });
        let manager = Arc::clone(&self.manager);
        self.sizes.refresh(&self.runtime, SIZES_AGE_MAX, async move {
            manager.status().size_estimates(Instant::now() + SIZES_MAX).await
        });
        self.nodes.wait(PATIENCE).await;
    }

    /// Returns the cluster as it is known now.
    pub fn now(&self, in_flight: u64) -> ClusterNow {
        let map = self.manager.map();
        let topology = map.topology();
        let ranges = map.ranges().into_iter();
        let ranges =
            ranges.map(|range| (range.first, range.last, topology.name(range.shard).to_owned()));
        let probes = self.nodes.get().filter(|(at, _)| at.elapsed() <= PROBE_TRUSTED);
        let sizes = self.sizes.get();
        let shards = self.manager.status().stats().into_iter().map(|stats| {
            let shard = stats.shard;
            let weight = topology.shards().get(shard.index()).map_or(0, |spec| spec.weight);
            let slots = map.slots_of(shard).count() as u32;
            let mut sizes = sizes.iter().flat_map(|(_, sizes)| &**sizes);
            let size = sizes.find(|(number, _)| *number == shard);
            let size = size.and_then(|(_, size)| size.as_ref());
            let mut reports = probes.iter().flat_map(|(_, reports)| &**reports);
            let nodes = nodes(&stats, reports.find(|report| report.shard == shard));
            ShardNow {
                shard: self.manager.shard_name(shard).to_owned(),
                up: nodes.iter().any(|node| node.up && node.role == Role::Primary.name()),
                weight,
                slots,
                rows: size.and_then(|size| size.rows),
                bytes: size.map(|size| size.bytes),
                pool: pool(&stats),
                lane: lane(&stats),
                compared: ComparedNow {
                    passes: stats.compared.passes,
                    differences: stats.compared.differences,
                },
                nodes,
            }
        });
        ClusterNow {
            epoch: map.epoch(),
            backend: self.backend.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started_at.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            in_flight,
            ranges: ranges.collect(),
            slots: map.groups().slot_count() as u32,
            groups: group_names(&map),
            shards: shards.collect(),
            cache: self.manager.status().cache_stats().map_or_else(CacheNow::default, cache),
            parked: parked(self.manager.status().parked_writes()),
            moves: self.moves(),
            moved: moved(self.manager.moves().totals()),
            rebalance: self.rebalance(),
        }
    }
}

/// Returns the names of the table groups; none if there is only one.
fn group_names(map: &ShardMap) -> Vec<String> {
    let groups = map.groups().iter().filter(|_| map.groups().count() > 1);
    groups.map(|(_, group)| group.name.clone()).collect()
}

impl ClusterStatus {
    fn moves(&self) -> Vec<MoveNow> {
        let moves = self.manager.moves();
        let show = |record: &MoveRecord| {
            let view = moves.view(record);
            MoveNow {
                id: view.id,
                slots: view.slots,
                slot_count: view.slot_count,
                from: view.from,
                to: view.to,
                phase: view.phase,
                rows: view.rows,
                changes_behind: view.changes_behind,
                lag_ms: view.lag_ms,
                stalled: view.stalled,
                reason: view.reason,
            }
        };
        moves.open_here().iter().map(show).collect()
    }

    fn rebalance(&self) -> Option<RebalanceNow> {
        let rebalances = Rebalances::of(&self.manager);
        let record = rebalances.latest_here()?;
        let view = rebalances.summary(&record);
        let now = chrono::Utc::now();
        let since = |end: DateTime<Utc>, begin: DateTime<Utc>| {
            (end - begin).to_std().unwrap_or_default().as_secs_f64()
        };
        Some(RebalanceNow {
            id: view.id,
            by: view.goal.by,
            state: view.state,
            stalled: view.stalled,
            reason: view.reason,
            moves: view.move_count as u64,
            moves_done: view.moved_count as u64,
            moves_failed: view.failed_count as u64,
            rows: view.rows.unwrap_or_default(),
            planned_rows: view.planned_rows,
            skew_before: record.skew_before,
            skew_planned: record.skew_planned,
            skew_measured: view.skew_measured,
            seconds: since(record.ended_at.unwrap_or(now), record.began_at),
            ended_s: record.ended_at.map(|ended| since(now, ended) as u64),
        })
    }
}

fn moved(totals: MoveTotals) -> MoveTotalsNow {
    let MoveTotals { rows, bytes, done, cancelled, rolled_back, failed, longest_hold } = totals;
    let longest_hold_s = longest_hold.as_secs_f64();
    MoveTotalsNow { rows, bytes, done, cancelled, rolled_back, failed, longest_hold_s }
}

/// Returns the nodes with the results of a recent probe, or else with their last known state.
fn nodes(stats: &ShardStats, probed: Option<&ShardReport>) -> Vec<NodeNow> {
    let milliseconds = |time: Duration| time.as_micros() as f64 / 1e3;
    let node = |node: &NodeStats| {
        let probe = probed.and_then(|report| report.nodes.iter().find(|it| it.node == node.node));
        let is_replica = node.role == Role::Replica;
        let lag = probe.map_or(node.lag, |probe| probe.lag).filter(|_| is_replica);
        // The last known state may be newer than the probe, and worse.
        let reasons = probe.map_or(node.reasons, |probe| probe.reasons.union(node.reasons));
        NodeNow {
            node: node.node.clone(),
            role: node.role.name().to_owned(),
            up: reasons.is_up(),
            reasons: reasons.iter().map(|reason| reason.sentence().to_owned()).collect(),
            lag_ms: lag.map(milliseconds),
            latency_ms: probe.filter(|probe| probe.up).map(|probe| milliseconds(probe.latency)),
        }
    };
    stats.nodes.iter().map(node).collect()
}

fn pool(stats: &ShardStats) -> PoolNow {
    let pool = stats.pool();
    PoolNow { in_use: pool.in_use as u64, max: pool.max as u64, waiting: pool.waiting as u64 }
}

fn cache(stats: CacheStats) -> CacheNow {
    CacheNow {
        enabled: true,
        hits: stats.hits,
        misses: stats.misses,
        stale: stats.stale,
        bypass: stats.bypass,
        fills: stats.fills,
        rejected: stats.rejected,
        errors: stats.errors,
        voids: stats.invalidations,
        near_hits: stats.local_hits,
        seldom: stats.too_infrequent,
        breaker: stats.breaker.name().to_owned(),
    }
}

fn parked(stats: ParkedStats) -> ParkedNow {
    let bounds = PARKED_WAITS_MS.into_iter().map(Some).chain([None]);
    let waits = bounds.zip(stats.waits).map(|(up_to_ms, rows)| WaitBucket { up_to_ms, rows });
    ParkedNow {
        rows: stats.rows as u64,
        bytes: stats.bytes as u64,
        total: stats.total,
        refused: stats.refused,
        longest_s: stats.longest.as_secs_f64(),
        waits: waits.collect(),
        waited_s: stats.waited.as_secs_f64(),
    }
}

fn lane(stats: &ShardStats) -> LaneNow {
    let lane = &stats.lane;
    LaneNow {
        waiting: lane.waiting as u64,
        waiting_bytes: lane.waiting_bytes as u64,
        batches: lane.batches,
        operations: lane.operations,
        largest_batch: lane.largest_batch,
    }
}
