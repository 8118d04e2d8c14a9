//! Levels: measures the cost of each consistency level, and which levels refuse requests while
//! replicas are unreachable.
//!
//! **Not here:** how old the rows of a read may be (`replicas`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::manager::RequestOptions;
use engine::fault_injector::NodeMode;
use model::consistency::Level;
use model::query::ReadQuery;
use model::row_change::Operation;
use model::table::Table as DataTable;
use model::topology::Topology;
use serde::Serialize;

use crate::chart::{BarChart, Chart};
use crate::clients::{Amount, Timings, send};
use crate::databases::{engine_of_files, report_of_files, report_of_servers};
use crate::dataset::{UserIds, new_user};
use crate::disturbance::{LinkedServers, disturb};
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, PATIENCE, block_on};
use crate::lab_error::LabError;
use crate::machine::Machine;
use crate::node_faults::{in_mode, until, until_well};
use crate::report::{Cell, Report, ReportTable};
use crate::tcp_link::LinkState;
use crate::work_folder::WorkFolder;

/// Number of shards of the cluster.
pub const SHARDS: usize = 3;
/// Longest time for which the writes of one level are sent, and likewise its reads.
const AT_MOST: Duration = Duration::from_secs(20);
/// Time limit of a request while replicas are cut off. It is shorter than usual, because a read at
/// `quorum` waits that long for them.
const PATIENCE_WITHOUT_NODES: Duration = Duration::from_secs(5);

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct LevelsOptions {
    /// Number of replicas of each shard.
    pub replicas: usize,
    /// Number of writes at each level; the number of reads is the same.
    pub operations: u64,
    /// Number of concurrent clients.
    pub clients: u16,
    /// Seed of the ids of the rows.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
}

/// Results of the requests at one level while this many replicas are cut off.
struct Tried {
    /// Number of replicas of each shard that are cut off.
    gone: usize,
    level: Level,
    writes: Timings,
    reads: Timings,
}

/// Results of a level while some replicas are unreachable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LevelFigures {
    /// Number of replicas of each shard that are cut off.
    pub replicas_gone: u64,
    /// Name of the consistency level.
    pub level: &'static str,
    /// Number of writes that were stored.
    pub writes: u64,
    /// Number of writes that were refused.
    pub writes_refused: u64,
    /// Time within which half of the writes were answered, in milliseconds.
    pub write_p50_ms: Option<f64>,
    /// Time within which 99 of 100 writes were answered, in milliseconds.
    pub write_p99_ms: Option<f64>,
    /// Number of reads that were answered.
    pub reads: u64,
    /// Number of reads that were refused.
    pub reads_refused: u64,
    /// Time within which half of the reads were answered, in milliseconds.
    pub read_p50_ms: Option<f64>,
    /// Time within which 99 of 100 reads were answered, in milliseconds.
    pub read_p99_ms: Option<f64>,
    /// Reason of the first refusal.
    pub first_refusal: Option<String>,
}

/// Result of the experiment, for programs that show it themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelsResult {
    /// Engine of the cluster and its version.
    pub engine: String,
    /// Machine and program.
    pub machine: Machine,
    /// Number of shards of the cluster.
    pub shards: usize,
    /// Results of each level, first with all replicas reachable.
    pub figures: Vec<LevelFigures>,
    /// Summary of the result.
    pub explanation: String,
}

impl Tried {
    fn figures(&self) -> LevelFigures {
        let time = |timings: &Timings, share| {
            let thousandth = |ms: f64| (ms * 1_000.0).round() / 1_000.0;
            (timings.count() > 0).then(|| thousandth(timings.quantile_ms(share)))
        };
        let (writes, reads) = (&self.writes, &self.reads);
        LevelFigures {
            replicas_gone: self.gone as u64,
            level: self.level.name(),
            writes: writes.count(),
            writes_refused: writes.failed,
            write_p50_ms: time(writes, 0.5),
            write_p99_ms: time(writes, 0.99),
            reads: reads.count(),
            reads_refused: reads.failed,
            read_p50_ms: time(reads, 0.5),
            read_p99_ms: time(reads, 0.99),
            first_refusal: writes.first_failure.clone().or_else(|| reads.first_failure.clone()),
        }
    }
}

/// Carries out the experiment on the servers, or in files if there are none, and returns its
/// report.
///
/// # Errors
/// [`LabError::Impossible`] before anything is created; otherwise the error of the step that
/// failed.
pub fn run(
    options: &LevelsOptions,
    servers: Option<&LinkedServers>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    check(options)?;
    let LevelsOptions { replicas, operations, clients, seed, .. } = *options;
    let (tried, report) = match servers {
        Some(servers) => {
            let cluster = LabCluster::connected(&servers.cluster)?;
            let tried = try_levels(options, (&cluster, Some(servers)), observer)?;
            (tried, report_of_servers((&servers.engine, &servers.notes), "levels", seed))
        }
        None => {
            let folder = WorkFolder::create(options.work_folder.as_deref())?;
            let cluster = LabCluster::embedded(folder.join("levels"), SHARDS, replicas)?;
            let tried = try_levels(options, (&cluster, None), observer)?;
            (tried, report_of_files(&folder, "levels", seed)?)
        }
    };
    let mut report = report
        .set("shards", SHARDS)
        .set("replicas", replicas)
        .set("operations", operations)
        .set("clients", clients);
    report.tables.push(table(&tried));
    report.charts.push(chart(&tried));
    report.explanation = explanation(&tried, replicas);
    Ok(report.ended(began.elapsed()))
}

/// Carries out the experiment in files, and returns its results without a report.
///
/// # Errors
/// Errors of [`run`].
pub fn measure(
    options: &LevelsOptions,
    observer: &dyn ExperimentObserver,
) -> Result<LevelsResult, LabError> {
    check(options)?;
    let folder = WorkFolder::create(options.work_folder.as_deref())?;
    let cluster = LabCluster::embedded(folder.join("levels"), SHARDS, options.replicas)?;
    let tried = try_levels(options, (&cluster, None), observer)?;
    Ok(LevelsResult {
        engine: engine_of_files()?,
        machine: Machine::here(),
        shards: SHARDS,
        figures: tried.iter().map(Tried::figures).collect(),
        explanation: explanation(&tried, options.replicas),
    })
}

/// Checks the settings before anything is created.
///
/// # Errors
/// [`LabError::Impossible`].
pub fn check(options: &LevelsOptions) -> Result<(), LabError> {
    let replicas = options.replicas;
    if (1..=Topology::REPLICAS_MAX).contains(&replicas) {
        return Ok(());
    }
    let line = format!("there may be 1 to {} replicas, not {replicas}", Topology::REPLICAS_MAX);
    Err(LabError::Impossible(line))
}

fn try_levels(
    options: &LevelsOptions,
    (cluster, servers): (&LabCluster, Option<&LinkedServers>),
    observer: &dyn ExperimentObserver,
) -> Result<Vec<Tried>, LabError> {
    let LevelsOptions { replicas, operations, clients, .. } = *options;
    until_well(cluster, observer)?;
    let amount = Amount { clients: clients.into(), requests: operations, at_most: AT_MOST };
    let ids = UserIds::new(options.seed, "levels");
    let mut tried = Vec::new();
    for gone in 0..=replicas {
        observer.report(&format!("{gone} of {replicas} replicas of each shard are cut off"));
        let is_gone =
            |node: &str| (1..=gone).any(|replica| node.ends_with(&format!("-replica{replica}")));
        let cut = (in_mode(NodeMode::Cut), LinkState::Cut);
        let cut = disturb((cluster, servers), is_gone, cut)?;
        until_down(gone * SHARDS, cluster, observer)?;
        for level in Level::ALL {
            tried.push(try_level((gone, level), (amount, &ids), cluster, observer)?);
        }
        drop(cut);
        until_well(cluster, observer)?;
    }
    Ok(tried)
}

/// Waits until the cluster considers exactly this number of nodes to be down. The cluster notices
/// that a server is cut off at the next request to it or the next probe.
fn until_down(
    nodes: usize,
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<(), LabError> {
    until(observer, "the nodes that are cut off are known to be down", || {
        let health = cluster.manager().status().health(Instant::now() + PATIENCE);
        let health = block_on(health);
        health.iter().flat_map(|shard| &shard.nodes).filter(|node| !node.up).count() == nodes
    })
}

fn try_level(
    (gone, level): (usize, Level),
    (amount, ids): (Amount, &UserIds),
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<Tried, LabError> {
    let users = cluster.table("users")?;
    let users: &Arc<DataTable> = &users;
    let patience = if gone == 0 { PATIENCE } else { PATIENCE_WITHOUT_NODES };
    let asked = || RequestOptions { level, ..RequestOptions::by(Instant::now() + patience) };
    let write = async |number| {
        let id = ids.of(number);
        let placed = cluster.place(users, Operation::Upsert, &id, new_user(&id));
        let placed = placed.map_err(|error| error.to_string())?;
        let written = cluster.write(placed, &asked()).await;
        written.map(drop).map_err(|failure| failure.error.to_string())
    };
    let read = async |number| {
        let read = cluster.read(ReadQuery::all(users), Some(&ids.of(number)), &asked()).await;
        read.map(drop).map_err(|failure| failure.error.to_string())
    };
    let (writes, reads) = (send(amount, observer, write), send(amount, observer, read));
    observer.check_cancelled()?;
    Ok(Tried { gone, level, writes, reads })
}

fn table(tried: &[Tried]) -> ReportTable {
    let columns = [
        "replicas gone",
        "level",
        "writes",
        "refused",
        "write p50",
        "write p99",
        "reads",
        "refused",
        "read p50",
        "read p99",
        "first refusal",
    ];
    let mut table = ReportTable::new("Levels while replicas of each shard are cut off", &columns);
    for one in tried {
        let side = |timings: &Timings| {
            let time = |share| match timings.count() {
                0 => Cell::Absent,
                _ => Cell::Millis(timings.quantile_ms(share)),
            };
            [Cell::Count(timings.count()), Cell::Count(timings.failed), time(0.5), time(0.99)]
        };
        let refusal = one.writes.first_failure.as_ref().or(one.reads.first_failure.as_ref());
        let refusal = refusal.map_or(Cell::Absent, |cause| cause.as_str().into());
        let begin = [Cell::Count(one.gone as u64), one.level.name().into()];
        let sides = side(&one.writes).into_iter().chain(side(&one.reads));
        table.push(begin.into_iter().chain(sides).chain([refusal]));
    }
    table
}

fn chart(tried: &[Tried]) -> Chart {
    let series = ["write p50", "write p99", "read p50", "read p99"];
    let values = |one: &Tried| {
        [(&one.writes, 0.5), (&one.writes, 0.99), (&one.reads, 0.5), (&one.reads, 0.99)]
            .map(|(timings, share)| timings.quantile_ms(share))
            .to_vec()
    };
    let label = |one: &Tried| format!("{}, {} gone", one.level.name(), one.gone);
    Chart::Bars(BarChart {
        title: "Times of the levels; no bar if all requests were refused".to_owned(),
        unit: "ms",
        series: series.map(ToOwned::to_owned).to_vec(),
        groups: tried.iter().map(|one| (label(one), values(one))).collect(),
    })
}

fn explanation(tried: &[Tried], replicas: usize) -> String {
    let p50 = |level| {
        let found = tried.iter().find(|one| one.gone == 0 && one.level == level);
        found.map_or(0.0, |one| one.writes.quantile_ms(0.5))
    };
    let costs = costs([p50(Level::One), p50(Level::Quorum), p50(Level::All)]);
    let quorum = replicas - Level::Quorum.replicas_needed(replicas);
    let only = match quorum {
        0 => "`quorum` and `all` refuse".to_owned(),
        more => format!("`all` refuses and `quorum` works, until more than {more} are cut off"),
    };
    format!(
        "{costs} While a replica is cut off, {only}; a refused write is stored nowhere, and `one` continues to work."
    )
}

/// Returns the sentence about the times of writes, in milliseconds, at `one`, `quorum` and `all`.
fn costs([one, quorum, all]: [f64; 3]) -> String {
    let reason = match one <= quorum && quorum <= all {
        true => "because each level waits for the disks of more nodes",
        false => {
            "although each level waits for the disks of more nodes: in these writes, chance and other work of this \
             machine had more effect"
        }
    };
    format!(
        "With every node there, half of the writes take at most {one:.2} ms at `one`, {quorum:.2} ms at `quorum` and \
         {all:.2} ms at `all`, {reason}."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_explained_by_the_number_of_disks_only_if_they_increase_with_it() {
        let because = "because each level waits";
        assert!(costs([1.0, 2.0, 3.0]).contains(because));
        for times in [[18.98, 7.27, 4.73], [1.0, 3.0, 2.0]] {
            let sentence = costs(times);
            assert!(!sentence.contains(because) && sentence.contains("chance"), "{sentence}");
        }
    }
}
