//! Chaos: starts routers, and injects faults into them, their servers and their cache while the
//! verifying workload (`--verify`) runs.
//!
//! **Invariant:** two routers never use the same directory at the same time: a router is started
//! only after the process that used its directory before has ended. A seed determines the faults
//! and their order, independently of the router's behaviour; only their times vary.
//! **Not here:** checking the responses during the faults (`checker`).

mod cluster;
mod fence;
mod growth;
mod map_watch;
mod new_databases;
mod operator_requests;
mod process;
mod proxy;
mod redis;
mod schedule;
mod slot_moves;
mod urls;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use loadtest::recorder::Recorder;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use cluster::ClusterError;

use self::cluster::Cluster;
use self::fence::FenceCommand;
use self::growth::Growth;
use self::map_watch::MapWatch;
use self::new_databases::NewDatabases;
use self::operator_requests::Routers;
use self::process::RouterProcess;
use self::redis::RedisProcess;
use self::schedule::{Fault, RedisAction, Schedule};
use self::slot_moves::SlotMoves;
use crate::fault_kind::FaultKind;
use crate::growth_summary::GrowthSummary;
use crate::http_client::Pool;
use crate::move_summary::MoveSummary;
use crate::moving_slots::MovingSlots;
use crate::options::Load;

/// Longest time after the last fault until everything must work again.
pub(crate) const LIVENESS: Duration = Duration::from_secs(10);
/// Pause between two requests to a router that is starting.
const POLL: Duration = Duration::from_millis(10);
/// Bit in which the seed for moves differs from the seed of the run. Moves are drawn from a seed of
/// their own, so that the other faults are the same as in a run without moves.
const MOVES: u64 = 1 << 63;
/// Bit in which the seed for joins and drains of shards differs from the seed of the run.
const GROWTH: u64 = 1 << 62;
/// Flag that makes a router without access control carry out moves of slots.
const OPERATE: &str = "--operate";

/// Programs into which faults are injected: the routers that the load tester has started, and their
/// cluster and cache, if they have them.
pub(crate) struct ChaosTargets {
    /// Routers; the next router fault is injected into the first one in the queue.
    routers: VecDeque<RouterProcess>,
    urls: Vec<String>,
    cluster: Option<Cluster>,
    redis: Option<RedisProcess>,
    /// Command that fences slots (makes writes to them wait), if fences are among the faults.
    fence: Option<FenceCommand>,
    /// Summary of the moves of slots in the run, if there were any.
    move_summary: Option<MoveSummary>,
    /// Summary of the joins and drains of shards in the run, if there were any.
    growth_summary: Option<GrowthSummary>,
    kinds: Vec<FaultKind>,
}

impl ChaosTargets {
    /// Starts the routers that the options describe: one router with its own data directory, or
    /// several routers that reach a cluster through proxies.
    ///
    /// # Errors
    /// Fails if a program does not exist, or if the cluster is not suitable.
    pub(crate) async fn start(options: &Load) -> anyhow::Result<Self> {
        let router = program(options.router.as_ref())?;
        let flags = options.router_options.as_deref().unwrap_or_default();
        let mut flags: Vec<_> = flags.split_whitespace().map(str::to_owned).collect();
        let kinds = options.kinds();
        if kinds.iter().any(|kind| kind.needs_operate())
            && !flags.iter().any(|flag| flag == OPERATE)
        {
            flags.push(OPERATE.to_owned());
        }
        let cluster = match &options.cluster {
            Some(dir) => {
                let manager = cluster::program(options.shard_manager.as_ref())?;
                Some(Cluster::open(manager, dir, &kinds).await?)
            }
            None => None,
        };
        let servers = cluster.as_ref().map(|cluster| cluster.environment().to_vec());
        let servers = servers.unwrap_or_default();
        let manager = match kinds.contains(&FaultKind::Fence) {
            true => Some(cluster::program(options.shard_manager.as_ref())?),
            false => None,
        };
        let redis = match options.cache {
            true => Some(RedisProcess::new(options.redis_server.as_deref()).await?),
            false => None,
        };
        let cache = redis.as_ref().map(RedisProcess::url);
        let routers = (0..options.routers).map(|_| {
            RouterProcess::new(router.clone(), flags.clone(), servers.clone(), cache.clone())
        });
        let routers = routers.collect::<anyhow::Result<VecDeque<_>>>()?;
        let urls = routers.iter().map(RouterProcess::url).collect();
        let data_dir = routers.front().map(RouterProcess::data_dir).unwrap_or_default();
        let fence = manager.map(|program| FenceCommand::new(program, servers, data_dir));
        let (move_summary, growth_summary) = (None, None);
        Ok(Self { routers, urls, cluster, redis, fence, move_summary, growth_summary, kinds })
    }

    /// Returns the URLs of the routers.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Waits until the routers accept requests; `pools` contains one pool for each router, in the
    /// same order.
    ///
    /// # Errors
    /// Fails if a router is not ready within [`LIVENESS`], or has ended.
    pub(crate) async fn await_ready(&mut self, pools: &[Arc<Pool>]) -> anyhow::Result<()> {
        for (router, pool) in self.routers.iter_mut().zip(pools) {
            let mut ready = std::pin::pin!(ready(pool, LIVENESS));
            loop {
                tokio::select! {
                    answer = &mut ready => {
                        answer?;
                        break;
                    }
                    () = tokio::time::sleep(POLL) => {}
                }
                if let Some(status) = router.ended()? {
                    anyhow::bail!("the router is not ready: it has ended, {status}");
                }
            }
        }
        Ok(())
    }

    /// Checks that the cluster allows the faults of the run. The router must be ready.
    ///
    /// # Errors
    /// Fails if the cluster does not allow them, or if the router does not respond.
    pub(crate) async fn check(&self, pool: &Pool) -> anyhow::Result<()> {
        match self.kinds.iter().any(|kind| kind.is_of_moves()) {
            true => slot_moves::check_shards(pool).await,
            false => Ok(()),
        }
    }

    /// Returns a summary of the moves of slots, if they were among the faults.
    pub(crate) fn move_summary(&self) -> Option<&MoveSummary> {
        self.move_summary.as_ref()
    }

    /// Returns a summary of the joins and drains of shards, if they were among the faults.
    pub(crate) fn growth_summary(&self) -> Option<&GrowthSummary> {
        self.growth_summary.as_ref()
    }

    /// Returns databases for new shards; `None` if shards are files.
    fn new_databases(&self) -> Option<NewDatabases> {
        self.cluster.as_ref().map(|cluster| NewDatabases::new(cluster.servers()))
    }

    /// Keeps the directories of the routers after the run, and returns their paths.
    pub(crate) fn keep(&mut self) -> Vec<&Path> {
        self.routers.iter_mut().map(RouterProcess::keep).collect()
    }

    fn names(&self) -> (Vec<String>, Vec<String>) {
        let names = self.cluster.as_ref().map(|it| (it.names.clone(), it.shards.clone()));
        names.unwrap_or_default()
    }

    /// Injects the faults of a schedule until the task is stopped or the schedule ends.
    async fn break_by(
        mut self,
        mut schedule: Schedule,
        recorder: Arc<Recorder>,
        pool: Arc<Pool>,
        mut stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let (nodes, shards) = self.names();
        while let Some(fault) = schedule.due(&mut stopped).await {
            let reported = fault.describe(&nodes, &shards);
            recorder.fault(&reported);
            let more = self.commit(fault, &pool).await?;
            let more = more.map_or_else(String::new, |more| format!(" ({more})"));
            recorder.fault(&format!("over: {reported}{more}"));
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.mend().await?;
            recorder.fault("all nodes run and follow");
        }
        Ok(self)
    }

    /// Injects a fault into the next router, and ends the fault again.
    async fn break_router(&mut self, fault: Fault) -> anyhow::Result<()> {
        let Some(router) = self.routers.front_mut() else { return Ok(()) };
        match fault {
            Fault::Kill { down } => {
                router.kill()?;
                tokio::time::sleep(down).await;
                router.start()?;
            }
            Fault::Freeze { lasts } => {
                router.freeze()?;
                tokio::time::sleep(lasts).await;
                router.thaw()?;
            }
            Fault::Restart => {
                router.end().await?;
                router.start()?;
            }
            // These faults are not injected into a router.
            Fault::Node { .. }
            | Fault::LostAnswers { .. }
            | Fault::Promote { .. }
            | Fault::Fence { .. }
            | Fault::Move { .. }
            | Fault::Grow { .. }
            | Fault::Redis { .. } => return Ok(()),
        }
        self.routers.rotate_left(1);
        Ok(())
    }

    /// Injects a fault, and ends the fault again. Returns further details for the history.
    async fn commit(&mut self, fault: Fault, pool: &Pool) -> anyhow::Result<Option<String>> {
        match fault {
            Fault::Kill { .. } | Fault::Freeze { .. } | Fault::Restart => {
                self.break_router(fault).await?;
            }
            Fault::Redis { action } => {
                let Some(redis) = &mut self.redis else { return Ok(None) };
                break_cache(redis, action).await?;
            }
            Fault::Fence { first, last, lasts } => {
                let Some(fence) = &self.fence else { return Ok(None) };
                return fence.run(pool, (first, last), lasts).await;
            }
            // Moves, joins and drains are carried out by tasks of their own.
            Fault::Move { .. } | Fault::Grow { .. } => {}
            Fault::Node { .. } | Fault::LostAnswers { .. } | Fault::Promote { .. } => {
                let Some(cluster) = &mut self.cluster else { return Ok(None) };
                return commit_to(cluster, fault).await;
            }
        }
        Ok(None)
    }
}

async fn break_cache(redis: &mut RedisProcess, action: RedisAction) -> anyhow::Result<()> {
    match action {
        RedisAction::Empty => redis.empty().await,
        RedisAction::Freeze { lasts } => {
            redis.freeze()?;
            tokio::time::sleep(lasts).await;
            redis.thaw()
        }
        RedisAction::Kill { down } => {
            redis.kill()?;
            tokio::time::sleep(down).await;
            redis.start().await
        }
    }
}

async fn commit_to(cluster: &mut Cluster, fault: Fault) -> anyhow::Result<Option<String>> {
    match fault {
        Fault::Node { node, action, lasts } => {
            cluster.break_node(node, action, lasts).await?;
            Ok(None)
        }
        Fault::LostAnswers { shard, count, lasts } => {
            cluster.lose_answers(shard, count, lasts).await.map(Some)
        }
        Fault::Promote { shard, gone, lasts } => {
            cluster.promote(shard, gone, lasts).await.map(Some)
        }
        Fault::Kill { .. }
        | Fault::Freeze { .. }
        | Fault::Restart
        | Fault::Fence { .. }
        | Fault::Move { .. }
        | Fault::Grow { .. }
        | Fault::Redis { .. } => Ok(None),
    }
}

/// Tasks that inject faults until they are stopped.
pub(crate) struct Chaos {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<ChaosTargets>>,
    /// Task that moves slots while the other faults go on.
    moves: Option<JoinHandle<SlotMoves>>,
    /// Task that adds and drains shards while the other faults go on, and the tasks that read the
    /// shard maps meanwhile.
    growth: Option<(JoinHandle<Growth>, MapWatch)>,
    recorder: Arc<Recorder>,
}

impl Chaos {
    /// Starts injecting faults, in the order that the seed determines. `pools` has a pool for each
    /// router, at least one; `moving` passes the slots that are moving to the workload.
    pub(crate) fn start(
        targets: ChaosTargets,
        recorder: Arc<Recorder>,
        pools: &[Arc<Pool>],
        moving: Arc<MovingSlots>,
        seed: u64,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let pool = Arc::clone(&pools[0]);
        let (moves, others): (Vec<FaultKind>, Vec<FaultKind>) =
            targets.kinds.iter().copied().partition(|kind| kind.is_of_moves());
        let moves = (!moves.is_empty()).then(|| {
            let schedule = Schedule::new(seed ^ MOVES, &moves, 0, 0);
            let slot_moves = SlotMoves::new(Arc::clone(&pool), moving);
            tokio::spawn(slot_moves.run(schedule, Arc::clone(&recorder), stopped.clone()))
        });
        let (growing, others): (Vec<FaultKind>, Vec<FaultKind>) =
            others.into_iter().partition(|kind| kind.is_of_growth());
        let growth = (!growing.is_empty()).then(|| {
            let schedule = Schedule::new(seed ^ GROWTH, &growing, 0, 0);
            let drains = growing.contains(&FaultKind::Drain);
            let routers = Routers::new(pools.to_vec());
            let growth = Growth::new(routers, targets.new_databases(), drains);
            let maps = MapWatch::start(pools);
            let run = growth.run(schedule, Arc::clone(&recorder), stopped.clone());
            (tokio::spawn(run), maps)
        });
        let (nodes, shards) = targets.names();
        let schedule = Schedule::new(seed, &others, nodes.len(), shards.len());
        let task = targets.break_by(schedule, Arc::clone(&recorder), pool, stopped);
        Self { stop, task: tokio::spawn(task), moves, growth, recorder }
    }

    /// Stops injecting faults, and waits until the last fault and the moves have ended.
    ///
    /// # Errors
    /// Fails if a router could not be started again; with [`ClusterError`] if a node could not.
    pub(crate) async fn stop(self) -> anyhow::Result<ChaosTargets> {
        let Self { stop, task, moves, growth, recorder } = self;
        // Sending fails if the task has failed already; the result of the task then contains the
        // reason.
        let _ = stop.send(true);
        let mut targets = task.await.context("the task that injects faults failed")??;
        if let Some((growth, maps)) = growth {
            let mut growth = growth.await.context("the task that adds shards failed")?;
            growth.finish().await;
            for seen in maps.end().await? {
                growth.add_maps(seen);
            }
            let summary = growth.into_summary();
            recorder.fault(&summary.describe());
            targets.growth_summary = Some(summary);
        }
        if let Some(moves) = moves {
            let mut moves = moves.await.context("the task that moves slots failed")?;
            let summary = moves.finish().await;
            recorder.fault(&summary.describe());
            targets.move_summary = Some(summary);
        }
        Ok(targets)
    }
}

/// Waits until a router accepts requests, and returns how long that took.
///
/// # Errors
/// Fails if the router does not accept requests within `patience`.
pub(crate) async fn ready(pool: &Pool, patience: Duration) -> anyhow::Result<Duration> {
    let began = Instant::now();
    loop {
        match crate::http_client::check_ready(pool).await {
            Ok(()) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > patience => {
                return Err(error).context(format!("the router is not ready after {patience:?}"));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Returns the path of the router's program: the given one, or `api-router` beside this program.
///
/// # Errors
/// Fails if the program does not exist.
fn program(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .context("the path of this program is unknown")?
            .with_file_name("api-router"),
    };
    anyhow::ensure!(
        path.is_file(),
        "there is no router at {}: build one with `cargo build --release -p api-router`, or name it with --router",
        path.display()
    );
    Ok(path)
}
