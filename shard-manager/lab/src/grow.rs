//! Grow: adds a shard while clients read and write, moves its share of the slots to it, and removes
//! it again.
//!
//! **Invariant:** the experiment fails if a request fails, or if an acknowledged write is missing
//! at the end.
//! **Not here:** adding and draining the shard (`growth`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::rebalance_view::RebalanceView;
use model::keyspace::SLOT_COUNT;
use model::query::ReadQuery;
use model::row_change::Operation;
use model::table::Table as DataTable;
use model::topology::Topology;

use crate::chart::{BarChart, Chart};
use crate::clients::Timings;
use crate::databases::{Databases, ServerDatabases};
use crate::dataset::{self, user_named};
use crate::experiment_observer::ExperimentObserver;
use crate::growth::{add_shard, drain_shard};
use crate::lab_cluster::{LabCluster, block_on, failure, options as request_options};
use crate::lab_error::LabError;
use crate::random::Random;
use crate::report::{Cell, Report, ReportTable};

/// Interval at which a phase without moves checks whether the experiment is cancelled.
const RECHECK_EVERY: Duration = Duration::from_millis(5);
/// Names of the phases of the experiment, in order.
const PHASES: [&str; 5] = ["before", "joining", "with it", "draining", "after"];

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct GrowOptions {
    /// Number of users that are generated.
    pub users: u64,
    /// Number of shards before the new one joins.
    pub shards: usize,
    /// Number of concurrent clients. Each client writes its own rows, and reads those of the
    /// others.
    pub clients: u16,
    /// Duration of each phase in which no slot moves: before, between and after the changes.
    pub quiet: Duration,
    /// Seed of the rows and of the keys that are read.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
}

/// Results of one client: the durations of its requests in each phase, and the last acknowledged
/// version of each row that it has written.
#[derive(Default)]
struct Traffic {
    phases: [Timings; PHASES.len()],
    written: BTreeMap<String, i64>,
}

/// State that all clients of the experiment share.
struct Clients<'c> {
    cluster: &'c LabCluster,
    /// URL of the database of the shard that joins; `None` if the cluster consists of files.
    joining: Option<&'c str>,
    users: Arc<DataTable>,
    options: &'c GrowOptions,
    phase: AtomicUsize,
    is_over: AtomicBool,
}

/// Carries out the experiment in the databases on servers, or in files if there are none.
///
/// # Errors
/// [`LabError::Impossible`] before anything is created; otherwise the error of the step that
/// failed.
pub fn run(
    options: &GrowOptions,
    servers: Option<&ServerDatabases>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    check(options)?;
    let plan = dataset::plan(options.users, options.seed)?;
    let databases = Databases::new(servers, options.work_folder.as_deref())?;
    let cluster = databases.open((0, options.shards), None)?;
    dataset::generate(&cluster, &plan, observer)?;
    let clients = Clients {
        cluster: &cluster,
        joining: databases.joining(),
        users: cluster.table("users")?,
        options,
        phase: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    };
    let (lengths, changes, traffic) = clients.serve_while(|| clients.grow(observer))?;
    clients.check(&traffic)?;
    let mut report = databases
        .report("grow", options.seed)?
        .set("users", options.users)
        .set("shards", options.shards)
        .set("clients", options.clients)
        .set("quiet", format!("{} ms", options.quiet.as_millis()));
    let phases = merged(traffic, lengths);
    report.tables.push(phase_table(&phases));
    report.tables.push(move_table(&changes));
    report.charts.push(chart(&phases));
    report.explanation = explanation(&phases, &changes, options.shards);
    Ok(report.ended(began.elapsed()))
}

/// Checks the settings before anything is created.
///
/// # Errors
/// [`LabError::Impossible`].
pub fn check(options: &GrowOptions) -> Result<(), LabError> {
    let most = Topology::SHARDS_MAX - 1;
    if !(1..=most).contains(&options.shards) {
        let line = format!("there may be 1 to {most} shards before, not {}", options.shards);
        return Err(LabError::Impossible(line));
    }
    dataset::plan(options.users, options.seed).map(drop)
}

/// Duration of each phase.
type Lengths = [Duration; PHASES.len()];
/// Results of the two rebalances: after the shard has joined, and when it is drained.
type Changes = [RebalanceView; 2];

impl Clients<'_> {
    /// Runs the clients while the function `change` changes the cluster.
    fn serve_while(
        &self,
        change: impl FnOnce() -> Result<(Lengths, Changes), LabError>,
    ) -> Result<(Lengths, Changes, Vec<Traffic>), LabError> {
        std::thread::scope(|scope| {
            let clients: Vec<_> =
                (0..self.options.clients).map(|own| scope.spawn(move || self.serve(own))).collect();
            let changed = change();
            self.is_over.store(true, Ordering::SeqCst);
            let ended = clients.into_iter().map(|client| {
                client.join().unwrap_or_else(|_| Err(LabError::failed("a client has ended")))
            });
            let traffic: Result<Vec<Traffic>, LabError> = ended.collect();
            let (lengths, changes) = changed?;
            Ok((lengths, changes, traffic?))
        })
    }

    /// Adds a shard and removes it again, with a phase without moves before, between and after.
    fn grow(&self, observer: &dyn ExperimentObserver) -> Result<(Lengths, Changes), LabError> {
        let mut lengths = [Duration::ZERO; PHASES.len()];
        let name = format!("shard{}", self.options.shards + 1);
        let mut changes = Vec::new();
        for (phase, length) in lengths.iter_mut().enumerate() {
            observer.report(PHASES[phase]);
            self.phase.store(phase, Ordering::SeqCst);
            let began = Instant::now();
            match phase {
                1 => changes.push(add_shard(self.cluster, (&name, self.joining), observer)?),
                3 => changes.push(drain_shard(self.cluster, &name, observer)?),
                _ => rest(self.options.quiet, observer)?,
            }
            *length = began.elapsed();
        }
        let changes = changes.try_into().map_err(|_| LabError::failed("a change is missing"))?;
        Ok((lengths, changes))
    }

    /// Sends the requests of one client, one after another, until the experiment is over.
    fn serve(&self, client: u16) -> Result<Traffic, LabError> {
        let mut random = Random::new(self.options.seed.wrapping_add(client.into()), "traffic");
        let plan = dataset::plan(self.options.users, self.options.seed)?;
        let mut traffic = Traffic::default();
        block_on(async {
            while !self.is_over.load(Ordering::SeqCst) {
                let number = random.below(plan.users());
                let user = plan.user(number).ok_or_else(|| LabError::failed("no such user"))?;
                let (phase, sent) = (self.phase.load(Ordering::SeqCst), Instant::now());
                let is_own = number % u64::from(self.options.clients) == u64::from(client);
                let done = if is_own {
                    self.write(&user.id, &mut traffic.written).await
                } else {
                    self.read(&user.id).await
                };
                traffic.phases[phase].add(sent, done);
            }
            Ok(traffic)
        })
    }

    async fn read(&self, id: &str) -> Result<(), String> {
        let query = ReadQuery::all(&self.users);
        let read = self.cluster.read(query, Some(id), &request_options()).await;
        let rows = read.map_err(|failure| failure.error.to_string())?.rows.len();
        if rows == 1 { Ok(()) } else { Err(format!("{rows} rows of {id} were found")) }
    }

    async fn write(&self, id: &str, written: &mut BTreeMap<String, i64>) -> Result<(), String> {
        let row = user_named(id, "a new name");
        let placed = self.cluster.place(&self.users, Operation::Upsert, id, row);
        let placed = placed.map_err(|error| error.to_string())?;
        let done = self.cluster.write(placed, &request_options()).await;
        let done = done.map_err(|failure| failure.error.to_string())?;
        written.insert(id.to_owned(), done.row.version);
        Ok(())
    }

    /// Checks that no request has failed, that every written row has at least its last acknowledged
    /// version, and that the number of rows is correct.
    fn check(&self, traffic: &[Traffic]) -> Result<(), LabError> {
        let failures = traffic.iter().flat_map(|own| &own.phases);
        if let Some(cause) = failures.filter_map(|phase| phase.first_failure.as_ref()).next() {
            return Err(LabError::Failed(format!(
                "a request failed while slots were moving: {cause}"
            )));
        }
        block_on(async {
            for (id, version) in traffic.iter().flat_map(|own| &own.written) {
                let query = ReadQuery::all(&self.users);
                let read = self.cluster.read(query, Some(id), &request_options()).await;
                let found = read.map_err(failure)?.version();
                if found.is_none_or(|found| found < *version) {
                    return Err(LabError::Failed(format!(
                        "an acknowledged write of {id} was lost"
                    )));
                }
            }
            let found = self.cluster.count(&self.users).await?;
            let users = self.options.users;
            let line = || LabError::Failed(format!("{found} of {users} rows are there"));
            if found == users { Ok(()) } else { Err(line()) }
        })
    }
}

/// Waits for this duration; returns an error once the experiment is cancelled.
fn rest(duration: Duration, observer: &dyn ExperimentObserver) -> Result<(), LabError> {
    let until = Instant::now() + duration;
    loop {
        observer.check_cancelled()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(RECHECK_EVERY.min(left));
    }
}

/// Merges the results of all clients into one for each phase.
fn merged(traffic: Vec<Traffic>, lengths: Lengths) -> Vec<Timings> {
    let mut all = vec![Timings::default(); PHASES.len()];
    for own in traffic {
        all.iter_mut().zip(own.phases).for_each(|(sum, own)| sum.merge(own));
    }
    all.into_iter().zip(lengths).map(|(phase, length)| phase.ended(length)).collect()
}

fn phase_table(phases: &[Timings]) -> ReportTable {
    let columns = ["phase", "seconds", "requests", "failed", "rate", "p50", "p99", "longest"];
    let mut table = ReportTable::new("Requests of all clients", &columns);
    for (name, phase) in PHASES.into_iter().zip(phases) {
        table.push([
            name.into(),
            Cell::Ratio(phase.elapsed.as_secs_f64()),
            Cell::Count(phase.count()),
            Cell::Count(phase.failed),
            Cell::Rate(phase.rate()),
            Cell::Millis(phase.quantile_ms(0.5)),
            Cell::Millis(phase.quantile_ms(0.99)),
            Cell::Millis(phase.quantile_ms(1.0)),
        ]);
    }
    table
}

/// Returns the number of slots that a rebalance has moved, and the number of rows that it has
/// copied.
fn moved(record: &RebalanceView) -> (u64, u64) {
    (record.slots_moved as u64, record.rows.unwrap_or_default())
}

fn move_table(changes: &Changes) -> ReportTable {
    let columns = ["change", "moves", "slots", "share of all slots", "rows copied"];
    let mut table = ReportTable::new("Slots that moved", &columns);
    for (name, record) in ["shard added", "shard removed"].into_iter().zip(changes) {
        let (slots, rows) = moved(record);
        table.push([
            name.into(),
            Cell::Count(record.move_count as u64),
            Cell::Count(slots),
            Cell::Share(slots as f64 / f64::from(SLOT_COUNT)),
            Cell::Count(rows),
        ]);
    }
    table
}

fn chart(phases: &[Timings]) -> Chart {
    let times = |phase: &Timings| vec![phase.quantile_ms(0.5), phase.quantile_ms(0.99)];
    let groups = PHASES.into_iter().zip(phases);
    Chart::Bars(BarChart {
        title: "Times of requests in each phase".to_owned(),
        unit: "ms",
        series: ["p50", "p99"].map(ToOwned::to_owned).to_vec(),
        groups: groups.map(|(name, phase)| (name.to_owned(), times(phase))).collect(),
    })
}

fn explanation(phases: &[Timings], changes: &Changes, shards: usize) -> String {
    let (slots, _) = moved(&changes[0]);
    let share = 100.0 * slots as f64 / f64::from(SLOT_COUNT);
    let p99 = |phase: usize| phases.get(phase).map_or(0.0, |phase| phase.quantile_ms(0.99));
    let requests: u64 = phases.iter().map(Timings::count).sum();
    format!(
        "The new shard took {share:.1} % of the slots, its share among {} shards, and gave them back when it was \
         removed, while none of {requests} requests failed and no acknowledged write was lost. The p99 was \
         {:.2} ms before, {:.2} ms while slots moved in and {:.2} ms while they moved out, because a write to a \
         slot waits while its last changes are copied.",
        shards + 1,
        p99(0),
        p99(1),
        p99(3)
    )
}
