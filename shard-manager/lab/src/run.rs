//! Run: stores the same users in one database and on several shards, and compares the same queries
//! on both sides.
//!
//! Both sides are Tessera clusters: the single database is a cluster with one shard. So both sides
//! have the same tables, primary keys and durability, handle requests in the same way, and differ
//! only in the number of databases, unless one side is on a server and the other in files.
//!
//! **Invariant:** both sides have the same number of rows when the queries begin, or the experiment
//! fails.
//! **Not here:** the rows (`dataset`), the clients (`clients`).

mod distribution;
pub(crate) mod queries;
mod reasons;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use assembly::ConnectedCluster;
use import::demo_data::Plan;
use model::topology::Topology;

use self::queries::{Compared, QUERIES};
use crate::chart::{BarChart, Chart};
use crate::databases::{engine_of_files, report_of_files, report_of_servers};
use crate::dataset;
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, block_on};
use crate::lab_error::LabError;
use crate::machine::peak_memory_bytes;
use crate::report::{Cell, Report, ReportTable};
use crate::work_folder::WorkFolder;

/// Default number of users.
pub const USERS_DEFAULT: u64 = 10_000;
/// Maximum number of users.
pub const USERS_MAX: u64 = 100_000_000;
/// Maximum number of clients.
pub const CLIENTS_MAX: u16 = 256;
/// Time limit of each probe of a node.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Number of users, each with one order.
    pub users: u64,
    /// Number of shards of the sharded side.
    pub shards: usize,
    /// Number of concurrent clients that read and write single rows; one client sends the other
    /// queries.
    pub clients: u16,
    /// Number of reads, and also of writes, of single rows on each side. Each of the other queries
    /// is sent a hundredth as often.
    pub operations: u64,
    /// Longest time for which requests of each kind of query are sent on each side.
    pub at_most: Duration,
    /// Seed of the rows and of the keys that are read.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
    /// Databases on servers that are used instead of files, if any.
    pub servers: Option<ServerSides>,
}

/// Empty databases on servers, which the calling function removes afterwards.
#[derive(Clone, Debug)]
pub struct ServerSides {
    /// Cluster of the single database.
    pub one: ConnectedCluster,
    /// Cluster of the sharded side; `None` if its shards are files.
    pub shards: Option<ConnectedCluster>,
    /// Database engine and its version, for the report.
    pub engine: String,
    /// Notes for the report on conditions that make the comparison less fair.
    pub notes: Vec<String>,
}

/// Both sides of the comparison: the single database and the sharded cluster.
pub(crate) struct Sides {
    pub(crate) one: LabCluster,
    pub(crate) shards: LabCluster,
}

/// Carries out the experiment.
///
/// # Errors
/// [`LabError::Impossible`] before anything is created; otherwise the error of the step that
/// failed.
pub fn run(options: &RunOptions, observer: &dyn ExperimentObserver) -> Result<Report, LabError> {
    let began = Instant::now();
    check(options)?;
    let plan = dataset::plan(options.users, options.seed)?;
    // The folder is declared first, so that it is dropped last and its files are closed before it
    // is removed.
    let (_folder, sides, mut report) = open(options, observer)?;
    report = report
        .set("users", options.users)
        .set("shards", options.shards)
        .set("clients", options.clients)
        .set("operations", options.operations)
        .set("seconds", options.at_most.as_secs());
    report = compare(report, (options, &plan), &sides, observer)?;
    Ok(report.ended(began.elapsed()))
}

/// Opens both sides and creates the report. Returns the temporary folder as well if a side has
/// files.
fn open(
    options: &RunOptions,
    observer: &dyn ExperimentObserver,
) -> Result<(Option<WorkFolder>, Sides, Report), LabError> {
    let create = || WorkFolder::create(options.work_folder.as_deref());
    let files =
        |folder: &WorkFolder| LabCluster::embedded(folder.join("shards"), options.shards, 0);
    let Some(servers) = &options.servers else {
        let folder = create()?;
        let name = format!("tessera_lab_{}", folder.run());
        let one = LabCluster::embedded(folder.join(&name), 1, 0)?;
        let sides = Sides { one, shards: files(&folder)? };
        observer.report(&format!("the one database is {name}, removed at the end"));
        let report = report_of_files(&folder, "run", options.seed)?;
        return Ok((Some(folder), sides, report));
    };
    let one = LabCluster::connected(&servers.one)?;
    let report = |engine: &str| report_of_servers((engine, &servers.notes), "run", options.seed);
    let Some(shards) = &servers.shards else {
        let folder = create()?;
        let mut report = report(&format!("{}; shards: {}", servers.engine, engine_of_files()?));
        report.notes.extend(folder.notes());
        let sides = Sides { one, shards: files(&folder)? };
        return Ok((Some(folder), sides, report));
    };
    let sides = Sides { one, shards: LabCluster::connected(shards)? };
    Ok((None, sides, report(&servers.engine)))
}

/// Checks the settings before anything is created.
///
/// # Errors
/// [`LabError::Impossible`].
pub fn check(options: &RunOptions) -> Result<(), LabError> {
    let line = match options {
        RunOptions { users, .. } if !(1..=USERS_MAX).contains(users) => {
            format!("there may be 1 to {USERS_MAX} users, not {users}")
        }
        RunOptions { shards, .. } if !(1..=Topology::SHARDS_MAX).contains(shards) => {
            format!("there may be 1 to {} shards, not {shards}", Topology::SHARDS_MAX)
        }
        RunOptions { clients, .. } if !(1..=CLIENTS_MAX).contains(clients) => {
            format!("there may be 1 to {CLIENTS_MAX} clients, not {clients}")
        }
        RunOptions { .. } => return Ok(()),
    };
    Err(LabError::Impossible(line))
}

/// Carries out the four steps of the experiment on the open clusters.
fn compare(
    mut report: Report,
    (options, plan): (&RunOptions, &Plan),
    sides: &Sides,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    observer.report("1 of 4: connecting to every node");
    report.tables.push(probe(sides)?);
    observer.report("2 of 4: generating users into one database");
    let began = Instant::now();
    dataset::generate(&sides.one, plan, observer)?;
    let generated = began.elapsed();
    observer.report("3 of 4: distributing the rows over the shards");
    let began = Instant::now();
    let stored = distribution::distribute(sides, plan.rows(), observer)?;
    let distributed = began.elapsed();
    count(sides, plan)?;
    report.charts.push(stored_chart(&sides.shards, &stored));
    report.tables.push(stored_table(&sides.shards, &stored));
    observer.report("4 of 4: the same queries on one database and on the shards");
    let mut all = Vec::new();
    for query in QUERIES {
        all.push(queries::compare(query, (options, plan), sides, observer)?);
    }
    let mut phases = ReportTable::new("Phases", &["phase", "rows", "seconds", "rows/s"]);
    for (name, elapsed) in [("generated", generated), ("distributed", distributed)] {
        let rate = plan.rows() as f64 / elapsed.as_secs_f64();
        let seconds = Cell::Ratio(elapsed.as_secs_f64());
        phases.push([name.into(), Cell::Count(plan.rows()), seconds, Cell::Rate(rate)]);
    }
    report.tables.push(phases);
    report.tables.push(queries::table(&all));
    report.charts.extend(charts(&all));
    report.explanation = reasons::explanation(&all, options.shards);
    Ok(match peak_memory_bytes() {
        Some(bytes) => report.set("peak memory", format!("{} MiB", bytes >> 20)),
        None => report,
    })
}

/// Probes every node of both sides, and fails if one of them does not respond.
fn probe(sides: &Sides) -> Result<ReportTable, LabError> {
    let mut table = ReportTable::new("Nodes", &["side", "node", "state", "answered in"]);
    for (side, cluster) in [("one database", &sides.one), ("shards", &sides.shards)] {
        let health = cluster.manager().status().health(Instant::now() + PROBE_MAX);
        for node in block_on(health).into_iter().flat_map(|report| report.nodes) {
            if !node.up {
                return Err(LabError::Failed(format!("{} of {side} does not answer", node.node)));
            }
            let latency = Cell::Millis(node.latency.as_secs_f64() * 1_000.0);
            table.push([side.into(), node.node.into(), "up".into(), latency]);
        }
    }
    Ok(table)
}

/// Checks that both sides have all users and all orders.
fn count(sides: &Sides, plan: &Plan) -> Result<(), LabError> {
    for (side, cluster) in [("one database", &sides.one), ("shards", &sides.shards)] {
        for table in ["users", "orders"] {
            let found = block_on(cluster.count(&cluster.table(table)?))?;
            if found != plan.users() {
                let line = format!("{side}: {found} of {} {table} are there", plan.users());
                return Err(LabError::Failed(line));
            }
        }
    }
    Ok(())
}

fn stored_table(shards: &LabCluster, stored: &[u64]) -> ReportTable {
    let total: u64 = stored.iter().sum();
    let mut table = ReportTable::new("Distribution", &["shard", "rows", "share"]);
    for (shard, rows) in shards.names().into_iter().zip(stored) {
        let share = *rows as f64 / total.max(1) as f64;
        table.push([shard.into(), Cell::Count(*rows), Cell::Share(share)]);
    }
    table
}

fn stored_chart(shards: &LabCluster, stored: &[u64]) -> Chart {
    let rows = stored.iter().map(|rows| vec![*rows as f64]);
    Chart::Bars(BarChart {
        title: "Rows of each shard".to_owned(),
        unit: "rows",
        series: vec!["rows".to_owned()],
        groups: shards.names().into_iter().zip(rows).collect(),
    })
}

fn charts(all: &[Compared]) -> [Chart; 2] {
    let times = |one: &Compared| {
        let quantiles =
            [(&one.one, 0.5), (&one.shards, 0.5), (&one.one, 0.99), (&one.shards, 0.99)];
        quantiles.map(|(side, share)| side.quantile_ms(share)).to_vec()
    };
    let series = ["one database p50", "shards p50", "one database p99", "shards p99"];
    let name = |one: &Compared| one.query.name().to_owned();
    [
        Chart::Bars(BarChart {
            title: "Times of the queries".to_owned(),
            unit: "ms",
            series: series.map(ToOwned::to_owned).to_vec(),
            groups: all.iter().map(|one| (name(one), times(one))).collect(),
        }),
        Chart::Bars(BarChart {
            title: "Rate on the shards, as a multiple of that of one database".to_owned(),
            unit: "times",
            series: vec!["ratio".to_owned()],
            groups: all.iter().map(|one| (name(one), vec![one.ratio()])).collect(),
        }),
    ]
}
