//! Lookout: the cluster as it is now, told without anybody waiting for a node.
//!
//! What costs nothing is read at once. Nodes are probed at most once a second, and rows and bytes, a statement for each
//! shard, are looked up at most every ten; both only while somebody asks, beside whoever asks, and one at a time.
//!
//! **Invariant:** nothing here is done on a thread that serves requests.
//! **Not here:** what was counted (`figures`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use analytics::{CacheNow, ClusterNow, ComparedNow, LaneNow, NodeNow, PoolNow, ShardNow};
use shard_manager::cache::CacheStats;
use shard_manager::keyspace::SLOT_COUNT;
use shard_manager::manager::{Manager, ShardReport};
use shard_manager::stats::{NodeStats, ShardStats, SizeEstimate};
use shard_manager::topology::Role;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How old a probe of the nodes may be.
const PROBE_AGE_MAX: Duration = Duration::from_secs(1);
/// How long a node may take to answer one.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// A probe that is older says nothing any more.
const PROBE_TRUSTED: Duration = Duration::from_secs(5);
/// How old rows and bytes may be.
const SIZES_AGE_MAX: Duration = Duration::from_secs(10);
/// How long it may take to look them up.
const SIZES_MAX: Duration = Duration::from_secs(10);
/// How long figures wait for a probe that has just begun: a node that hangs holds nobody up.
const PATIENCE: Duration = Duration::from_millis(250);

/// Who looks at the cluster.
pub struct Lookout {
    manager: Arc<Manager>,
    runtime: Handle,
    backend: &'static str,
    started: Instant,
    started_at: String,
    nodes: Arc<Latest<Vec<ShardReport>>>,
    sizes: Arc<Latest<Vec<Option<SizeEstimate>>>>,
}

/// What was found out last.
struct Latest<T> {
    found: watch::Sender<Option<(Instant, Arc<T>)>>,
    is_busy: AtomicBool,
    begun: Mutex<Option<Instant>>,
}

impl<T: Send + Sync + 'static> Latest<T> {
    fn new() -> Arc<Self> {
        let found = watch::Sender::new(None);
        Arc::new(Self { found, is_busy: AtomicBool::new(false), begun: Mutex::new(None) })
    }

    /// Finds it out anew, beside the caller, unless somebody did so a moment ago or is at it.
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
        let busy = Busy(Arc::clone(self));
        runtime.spawn(async move {
            let found = Arc::new(find.await);
            busy.0.found.send_replace(Some((Instant::now(), found)));
            drop(busy);
        });
    }

    fn get(&self) -> Option<(Instant, Arc<T>)> {
        self.found.borrow().clone()
    }

    /// Waits for what is being found out, but not for long.
    async fn settle(&self, patience: Duration) {
        let mut found = self.found.subscribe();
        if self.is_busy.load(Ordering::Acquire) {
            // Too late is what was known before.
            let _ = tokio::time::timeout(patience, found.changed()).await;
        }
    }
}

/// Somebody is at it, until this is dropped: also if he panics.
struct Busy<T>(Arc<Latest<T>>);

impl<T> Drop for Busy<T> {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Release);
    }
}

impl Lookout {
    /// Looks at this cluster from now on; probes run on `runtime`.
    pub fn new(manager: Arc<Manager>, runtime: Handle, backend: &'static str) -> Self {
        let started_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let (nodes, sizes) = (Latest::new(), Latest::new());
        Self { manager, runtime, backend, started: Instant::now(), started_at, nodes, sizes }
    }

    /// Looks again at what is too old, and waits a moment for how the nodes are.
    pub async fn look(&self) {
        let manager = Arc::clone(&self.manager);
        self.nodes.refresh(&self.runtime, PROBE_AGE_MAX, async move {
            manager.health(Instant::now() + PROBE_MAX).await
        });
        let manager = Arc::clone(&self.manager);
        self.sizes.refresh(&self.runtime, SIZES_AGE_MAX, async move {
            manager.size_estimates(Instant::now() + SIZES_MAX).await
        });
        self.nodes.settle(PATIENCE).await;
    }

    /// The cluster as it is known now.
    pub fn now(&self, in_flight: u64) -> ClusterNow {
        let map = self.manager.map();
        let topology = map.topology();
        let ranges = map.ranges().into_iter();
        let ranges =
            ranges.map(|range| (range.first, range.last, topology.name(range.shard).to_owned()));
        let probes = self.nodes.get().filter(|(at, _)| at.elapsed() <= PROBE_TRUSTED);
        let sizes = self.sizes.get();
        let shards = self.manager.vitals().into_iter().map(|vitals| {
            let shard = vitals.shard;
            let weight = topology.shards().get(shard.index()).map_or(0, |spec| spec.weight);
            let slots = map.slots_of(shard).count() as u32;
            let size = sizes.as_ref().and_then(|(_, sizes)| sizes.get(shard.index())?.as_ref());
            let probed = probes.as_ref().and_then(|(_, reports)| reports.get(shard.index()));
            let nodes = nodes(&vitals, probed);
            ShardNow {
                shard: topology.name(shard).to_owned(),
                up: nodes.iter().any(|node| node.up && node.role == Role::Primary.name()),
                weight,
                slots,
                rows: size.and_then(|size| size.rows),
                bytes: size.map(|size| size.bytes),
                pool: pool(&vitals),
                lane: lane(&vitals),
                compared: ComparedNow {
                    passes: vitals.compared.passes,
                    differences: vitals.compared.differences,
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
            slots: u32::from(SLOT_COUNT),
            shards: shards.collect(),
            cache: self.manager.cache_vitals().map_or_else(CacheNow::default, cache),
            moves: Vec::new(),
        }
    }
}

/// The nodes as they are believed to be, or better as they have just been found.
fn nodes(vitals: &ShardStats, probed: Option<&ShardReport>) -> Vec<NodeNow> {
    let milliseconds = |time: Duration| time.as_micros() as f64 / 1e3;
    let node = |node: &NodeStats| {
        let probe = probed.and_then(|report| report.nodes.iter().find(|it| it.node == node.node));
        let is_replica = node.role == Role::Replica;
        let lag = probe.map_or(node.lag, |probe| probe.lag).filter(|_| is_replica);
        // A belief that is newer than the probe may be worse than its result.
        let reasons = probe.map_or(node.reasons, |probe| probe.reasons.and(node.reasons));
        NodeNow {
            node: node.node.clone(),
            role: node.role.name().to_owned(),
            up: reasons.is_up(),
            reasons: reasons.iter().map(|reason| reason.sentence().to_owned()).collect(),
            lag_ms: lag.map(milliseconds),
            latency_ms: probe.filter(|probe| probe.up).map(|probe| milliseconds(probe.latency)),
        }
    };
    vitals.nodes.iter().map(node).collect()
}

fn pool(vitals: &ShardStats) -> PoolNow {
    let pool = vitals.pool();
    PoolNow { in_use: pool.in_use as u64, max: pool.max as u64, waiting: pool.waiting as u64 }
}

fn cache(vitals: CacheStats) -> CacheNow {
    let CacheStats {
        hits,
        misses,
        stale,
        bypass,
        fills,
        rejected,
        errors,
        voids,
        near_hits,
        seldom,
        breaker,
    } = vitals;
    CacheNow {
        enabled: true,
        hits,
        misses,
        stale,
        bypass,
        fills,
        rejected,
        errors,
        voids,
        near_hits,
        seldom,
        breaker: breaker.name().to_owned(),
    }
}

fn lane(vitals: &ShardStats) -> LaneNow {
    let lane = &vitals.lane;
    LaneNow {
        waiting: lane.waiting as u64,
        waiting_bytes: lane.waiting_bytes as u64,
        batches: lane.batches,
        operations: lane.operations,
        largest_batch: lane.largest_batch,
    }
}
