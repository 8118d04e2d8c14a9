//! Replicas: measures how often reads return outdated rows while replicas lag, and the cost of
//! reads that do not.
//!
//! Each operation is a write followed by a read of the same row. A read is *stale* if it returns a
//! row that is older than this write. Stale reads are permitted only at level `one` without a
//! session token.
//!
//! **Invariant:** the experiment fails if a read is stale and this is not permitted.
//! **Not here:** requests that are refused while nodes are unreachable (`levels`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use assembly::delay_replay;
use cluster::manager::RequestOptions;
use engine::fault_injector::NodeFault;
use model::consistency::Level;
use model::query::ReadQuery;
use model::row_change::Operation;

use crate::chart::{BarChart, Chart};
use crate::clients::Timings;
use crate::databases::{ServerNodes, report_of_files, report_of_servers};
use crate::dataset::{UserIds, user_named};
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, block_on, failure, options as request_options};
use crate::lab_error::LabError;
use crate::node_faults::{InjectedFault, inject, until_well};
use crate::report::{Cell, Report, ReportTable};
use crate::work_folder::WorkFolder;

/// Number of shards of the cluster.
pub const SHARDS: usize = 2;
/// Number of replicas of each shard.
pub const REPLICAS: usize = 2;
/// Delays, in milliseconds, with which each replica applies each change. They are tried one after
/// another.
pub const DELAYS_MS: [u64; 3] = [0, 20, 200];
/// Number of keys that the operations use in turn.
const KEYS: u64 = 16;

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct ReplicasOptions {
    /// Number of operations for each delay and kind of read.
    pub operations: u64,
    /// Seed of the ids of the rows.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
}

/// Kind of read, by the requirement on the node that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Level `one` without a session token: any node may serve the read.
    One,
    /// Level `one` with a session token: a node that has every change that the session has seen.
    Token,
    /// Level `quorum`: a node that has every write that was acknowledged before the read.
    Quorum,
    /// Level `all`: the primary.
    All,
}

impl Reading {
    const ALL: [Self; 4] = [Self::One, Self::Token, Self::Quorum, Self::All];

    fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Token => "one, with token",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }

    fn level(self) -> Level {
        match self {
            Self::One | Self::Token => Level::One,
            Self::Quorum => Level::Quorum,
            Self::All => Level::All,
        }
    }
}

/// Results of one kind of read with one delay of the replicas.
struct Tried {
    delay_ms: u64,
    reading: Reading,
    stale: u64,
    by_replica: u64,
    reads: Timings,
}

/// Carries out the experiment on the servers, or in files if there are none.
///
/// # Errors
/// [`LabError`] of the step that failed.
pub fn run(
    options: &ReplicasOptions,
    servers: Option<&ServerNodes>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    let (tried, report) = match servers {
        Some(servers) => {
            let cluster = LabCluster::connected(&servers.cluster)?;
            let tried = try_delays(options, (&cluster, Some(servers)), observer)?;
            let engine = (&*servers.engine, &*servers.notes);
            (tried, report_of_servers(engine, "replicas", options.seed))
        }
        None => {
            let folder = WorkFolder::create(options.work_folder.as_deref())?;
            let cluster = LabCluster::embedded(folder.join("replicas"), SHARDS, REPLICAS)?;
            let tried = try_delays(options, (&cluster, None), observer)?;
            (tried, report_of_files(&folder, "replicas", options.seed)?)
        }
    };
    let mut report = report
        .set("shards", SHARDS)
        .set("replicas", REPLICAS)
        .set("operations", options.operations);
    report.tables.push(table(&tried));
    report.charts.push(chart(&tried));
    report.explanation = explanation(&tried);
    Ok(report.ended(began.elapsed()))
}

fn try_delays(
    options: &ReplicasOptions,
    (cluster, servers): (&LabCluster, Option<&ServerNodes>),
    observer: &dyn ExperimentObserver,
) -> Result<Vec<Tried>, LabError> {
    until_well(cluster, observer)?;
    let mut tried = Vec::new();
    for delay_ms in DELAYS_MS {
        observer.report(&format!("each replica is {delay_ms} ms behind"));
        let delay = Duration::from_millis(delay_ms);
        // Dropping this value ends the delays in files.
        let _delayed = match servers {
            Some(servers) => {
                delay_servers(servers, delay)?;
                Vec::new()
            }
            None => delay_files(cluster, delay)?,
        };
        for reading in Reading::ALL {
            tried.push(try_reading((delay_ms, reading), options, cluster, observer)?);
        }
    }
    Ok(tried)
}

/// Makes each replica in files apply each change with this delay, until the result is dropped.
fn delay_files(cluster: &LabCluster, delay: Duration) -> Result<Vec<InjectedFault>, LabError> {
    let fault = NodeFault { delay, ..NodeFault::default() };
    let nodes = (1..=SHARDS).flat_map(|shard| {
        (1..=REPLICAS).map(move |replica| format!("shard{shard}-replica{replica}"))
    });
    nodes.map(|node| inject(cluster, &node, fault)).collect()
}

/// Makes each replica on a server apply each change with this delay, until another delay is set.
fn delay_servers(servers: &ServerNodes, delay: Duration) -> Result<(), LabError> {
    let mut replicas = servers.cluster.address.shards.iter().flat_map(|shard| &shard.replicas);
    replicas.try_for_each(|replica| delay_replay(replica, delay).map_err(LabError::failed))
}

fn try_reading(
    (delay_ms, reading): (u64, Reading),
    options: &ReplicasOptions,
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<Tried, LabError> {
    let began = Instant::now();
    let users = cluster.table("users")?;
    let ids = UserIds::new(options.seed, "replicas");
    let mut tried = Tried { delay_ms, reading, stale: 0, by_replica: 0, reads: Timings::default() };
    for number in 0..options.operations {
        observer.check_cancelled()?;
        let (id, name) = (ids.of(number % KEYS), format!("{} {delay_ms} {number}", reading.name()));
        let placed = cluster.place(&users, Operation::Upsert, &id, user_named(&id, &name));
        let placed = placed.map_err(LabError::failed)?;
        let written = block_on(cluster.write(placed, &request_options())).map_err(failure)?;
        let mut asked = RequestOptions { level: reading.level(), ..request_options() };
        if reading == Reading::Token {
            let receipt = written.receipt;
            let sessions = cluster.manager().sessions();
            sessions.extend(&mut asked.session, receipt.place.shard, receipt.position);
        }
        let sent = Instant::now();
        let read = block_on(cluster.read(ReadQuery::all(&users), Some(&id), &asked));
        let read = read.map_err(failure)?;
        tried.reads.add(sent, Ok(()));
        tried.by_replica += u64::from(read.served_by.name() == "replica");
        let is_fresh = read.version().is_some_and(|version| version >= written.row.version);
        tried.stale += u64::from(!is_fresh);
    }
    if tried.stale > 0 && reading != Reading::One {
        let line =
            format!("a read at {} returned a row older than the acknowledged one", reading.name());
        return Err(LabError::Failed(line));
    }
    tried.reads = tried.reads.ended(began.elapsed());
    Ok(tried)
}

fn table(tried: &[Tried]) -> ReportTable {
    let columns = ["delay", "read", "reads", "stale", "from replicas", "read p50", "read p99"];
    let mut table = ReportTable::new("Reads after a write of the same row", &columns);
    for one in tried {
        let count = one.reads.count();
        table.push([
            Cell::from(format!("{} ms", one.delay_ms)),
            one.reading.name().into(),
            Cell::Count(count),
            Cell::Share(one.stale as f64 / count.max(1) as f64),
            Cell::Share(one.by_replica as f64 / count.max(1) as f64),
            Cell::Millis(one.reads.quantile_ms(0.5)),
            Cell::Millis(one.reads.quantile_ms(0.99)),
        ]);
    }
    table
}

fn chart(tried: &[Tried]) -> Chart {
    let label = |one: &Tried| format!("{}, {} ms", one.reading.name(), one.delay_ms);
    let percent = |one: &Tried| 100.0 * one.stale as f64 / one.reads.count().max(1) as f64;
    let groups = tried.iter();
    let groups = groups.map(|one| (label(one), vec![percent(one), one.reads.quantile_ms(0.99)]));
    Chart::Bars(BarChart {
        title: "Stale reads in percent, and p99 of the time".to_owned(),
        unit: "",
        series: vec!["stale reads (%)".to_owned(), "p99 (ms)".to_owned()],
        groups: groups.collect(),
    })
}

fn explanation(tried: &[Tried]) -> String {
    let slowest = DELAYS_MS.iter().max().copied().unwrap_or(0);
    let of = |reading| tried.iter().find(|one| one.delay_ms == slowest && one.reading == reading);
    let percent = |one: &Tried| 100.0 * one.stale as f64 / one.reads.count().max(1) as f64;
    let stale = of(Reading::One).map_or(0.0, percent);
    let p99 = |reading| of(reading).map_or(0.0, |one| one.reads.quantile_ms(0.99));
    let by_replica = |reading| {
        let share = |one: &Tried| one.by_replica as f64 / one.reads.count().max(1) as f64;
        of(reading).map_or(0.0, |one| 100.0 * share(one))
    };
    format!(
        "With replicas {slowest} ms behind, {stale:.0} % of the reads at `one` return an older row than the one just \
         written, and no read with a session token, at `quorum` or at `all` does. A replica that has the row already \
         answers {:.0} % of the reads with a token and {:.0} % of those at `quorum`, and the primary the others; their \
         p99 is {:.1} ms with a token, {:.1} ms at `quorum`, and {:.1} ms at `all`, which always goes to the primary.",
        by_replica(Reading::Token),
        by_replica(Reading::Quorum),
        p99(Reading::Token),
        p99(Reading::Quorum),
        p99(Reading::All)
    )
}
