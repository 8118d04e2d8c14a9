//! Indexes: measures a filtered query with and without an index on increasing numbers of rows, and
//! how much the index slows down writes.
//!
//! The query looks up the user with a given e-mail address. It contains no shard key, so it is sent
//! to every shard.
//!
//! **Invariant:** the experiment fails if a query does not find exactly one row.
//! **Not here:** building an index (`cluster`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::rights::Rights;
use cluster::manager::{IndexDraft, Indexes};
use engine::index_record::IndexState;
use import::demo_data::Plan;
use model::query::{Comparison, Condition, ReadQuery, Test};
use model::row_change::Operation;
use model::table::Table as DataTable;
use model::topology::Topology;

use crate::chart::{BarChart, Chart};
use crate::clients::{Amount, Timings, send};
use crate::databases::{Databases, ServerDatabases};
use crate::dataset::{self, new_user};
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, PATIENCE, options as request_options};
use crate::lab_error::LabError;
use crate::random::Random;
use crate::report::{Cell, Report, ReportTable};

/// Maximum number of users.
pub const USERS_MAX: u64 = 10_000_000;
/// Maximum number of user counts that one run tries.
pub const COUNTS_MAX: usize = 12;
/// Indexed column.
const COLUMN: &str = "email";
/// Longest time for which the queries are sent for one number of users, with or without the index,
/// and likewise the writes.
const AT_MOST: Duration = Duration::from_secs(20);
/// Interval at which the state of an index that is being built is polled.
const LOOK: Duration = Duration::from_millis(5);

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct IndexesOptions {
    /// Numbers of users. Each is tried on a new cluster, in this order.
    pub counts: Vec<u64>,
    /// Number of shards.
    pub shards: usize,
    /// Number of queries for each number of users, with and without the index; the number of writes
    /// is the same.
    pub operations: u64,
    /// Number of concurrent clients that write; a single client sends the queries.
    pub clients: u16,
    /// Seed of the generated rows and of the queries.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
}

/// Results of the queries and the writes for one number of users, with or without the index.
struct Tried {
    users: u64,
    /// Time that building the index took; `None` without an index.
    built: Option<Duration>,
    queries: Timings,
    writes: Timings,
}

/// Carries out the experiment in the databases on servers, or in files if there are none.
///
/// # Errors
/// [`LabError::Impossible`] before anything is created; otherwise the error of the step that
/// failed.
pub fn run(
    options: &IndexesOptions,
    servers: Option<&ServerDatabases>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    check(options)?;
    let databases = Databases::new(servers, options.work_folder.as_deref())?;
    let mut tried = Vec::new();
    for (number, users) in options.counts.iter().enumerate() {
        observer.report(&format!("{users} users"));
        let plan = dataset::plan(*users, options.seed)?;
        let cluster = databases.open((number, options.shards), None)?;
        dataset::generate(&cluster, &plan, observer)?;
        let trial = Trial { options, plan: &plan, cluster: &cluster };
        tried.push(trial.carry_out(None, observer)?);
        let built = Some(trial.build(observer)?);
        tried.push(trial.carry_out(built, observer)?);
    }
    let counts: Vec<String> = options.counts.iter().map(u64::to_string).collect();
    let mut report = databases
        .report("indexes", options.seed)?
        .set("users", counts.join(" "))
        .set("shards", options.shards)
        .set("operations", options.operations)
        .set("clients", options.clients);
    report.tables.push(table(&tried));
    report.charts.extend(charts(&tried));
    report.explanation = explanation(&tried);
    Ok(report.ended(began.elapsed()))
}

/// Checks the settings before anything is created.
///
/// # Errors
/// [`LabError::Impossible`].
pub fn check(options: &IndexesOptions) -> Result<(), LabError> {
    let IndexesOptions { counts, shards, .. } = options;
    let line = if !(1..=COUNTS_MAX).contains(&counts.len()) {
        format!("--users accepts 1 to {COUNTS_MAX} numbers, not {}", counts.len())
    } else if let Some(bad) = counts.iter().find(|users| !(1..=USERS_MAX).contains(*users)) {
        format!("there may be 1 to {USERS_MAX} users, not {bad}")
    } else if !(1..=Topology::SHARDS_MAX).contains(shards) {
        format!("there may be 1 to {} shards, not {shards}", Topology::SHARDS_MAX)
    } else {
        return Ok(());
    };
    Err(LabError::Impossible(line))
}

/// Experiment in progress: a cluster with one number of users, and the settings.
struct Trial<'t> {
    options: &'t IndexesOptions,
    plan: &'t Plan,
    cluster: &'t LabCluster,
}

impl Trial<'_> {
    /// Builds the index on every shard, and returns how long that took.
    fn build(&self, observer: &dyn ExperimentObserver) -> Result<Duration, LabError> {
        let began = Instant::now();
        let indexes = Indexes::of(self.cluster.manager().schema(Rights::ALL));
        // No writes run meanwhile, so the building may pause writes for any time.
        let draft = IndexDraft {
            name: "by_email".to_owned(),
            columns: vec![COLUMN.to_owned()],
            is_unique: false,
            pause_max_ms: u64::from(u32::MAX),
        };
        self.cluster.beside_upkeep(async {
            let deadline = Instant::now() + PATIENCE;
            indexes.create("users", &draft, deadline).await.map_err(LabError::failed)?;
            loop {
                observer.check_cancelled()?;
                let listed = indexes.list("users", Instant::now() + PATIENCE).await;
                let listed = listed.map_err(LabError::failed)?;
                match listed.first().map(|record| (record.state, record.reason.clone())) {
                    Some((IndexState::Ready, _)) => return Ok(began.elapsed()),
                    Some((IndexState::Undoing | IndexState::Failed, reason)) => {
                        return Err(LabError::Failed(reason.unwrap_or_default()));
                    }
                    Some(_) | None => tokio::time::sleep(LOOK).await,
                }
            }
        })
    }

    fn carry_out(
        &self,
        built: Option<Duration>,
        observer: &dyn ExperimentObserver,
    ) -> Result<Tried, LabError> {
        let users = self.cluster.table("users")?;
        let IndexesOptions { operations, clients, .. } = *self.options;
        let amount = |clients| Amount { clients, requests: operations, at_most: AT_MOST };
        let queries = send(amount(1), observer, async |number| self.query(&users, number).await);
        let phase = if built.is_some() { "with" } else { "without" };
        let writes = send(amount(clients.into()), observer, async |number| {
            self.write(&users, &format!("{phase}_{number}")).await
        });
        observer.check_cancelled()?;
        for timings in [&queries, &writes] {
            if let Some(cause) = &timings.first_failure {
                return Err(LabError::Failed(format!("{phase} an index: {cause}")));
            }
        }
        Ok(Tried { users: self.plan.users(), built, queries, writes })
    }

    /// Finds a random user by e-mail address.
    async fn query(&self, users: &Arc<DataTable>, number: u64) -> Result<(), String> {
        let mut random = Random::new(self.options.seed.wrapping_add(number), "queries");
        let user = self.plan.user(random.below(self.plan.users()));
        let mut row = user.ok_or("there is no such user")?.row().into_iter();
        let email = row.find(|(column, _)| *column == COLUMN).ok_or("there is no address")?.1;
        let column = users.find(COLUMN).ok_or("users has no addresses")?;
        let test = Test::Compare(Comparison::Equal, email);
        let query = ReadQuery {
            conditions: vec![Condition::Column(column, test)],
            ..ReadQuery::all(users)
        };
        let read = self.cluster.read(query, None, &request_options()).await;
        let found = read.map_err(|failure| failure.error.to_string())?.rows.len();
        if found == 1 { Ok(()) } else { Err(format!("{found} users have one address")) }
    }

    async fn write(&self, users: &Arc<DataTable>, id: &str) -> Result<(), String> {
        let placed = self.cluster.place(users, Operation::Insert, id, new_user(id));
        let placed = placed.map_err(|error| error.to_string())?;
        let written = self.cluster.write(placed, &request_options()).await;
        written.map(drop).map_err(|failure| failure.error.to_string())
    }
}

fn table(tried: &[Tried]) -> ReportTable {
    let columns = [
        "users",
        "index",
        "built in",
        "queries",
        "query p50",
        "query p99",
        "writes",
        "write p50",
        "write p99",
        "write rate",
    ];
    let mut table = ReportTable::new("A user by e-mail address, and new users", &columns);
    for Tried { users, built, queries, writes } in tried {
        let built_in = built.map_or(Cell::Absent, |time| Cell::Millis(time.as_secs_f64() * 1e3));
        table.push([
            Cell::Count(*users),
            name(built.is_some()).into(),
            built_in,
            Cell::Count(queries.count()),
            Cell::Millis(queries.quantile_ms(0.5)),
            Cell::Millis(queries.quantile_ms(0.99)),
            Cell::Count(writes.count()),
            Cell::Millis(writes.quantile_ms(0.5)),
            Cell::Millis(writes.quantile_ms(0.99)),
            Cell::Rate(writes.rate()),
        ]);
    }
    table
}

fn name(is_built: bool) -> &'static str {
    if is_built { "email" } else { "none" }
}

fn charts(tried: &[Tried]) -> [Chart; 2] {
    let label = |one: &Tried| {
        format!("{}, {}", one.users, if one.built.is_some() { "index" } else { "no index" })
    };
    let chart = |title: &str, of: fn(&Tried) -> &Timings| {
        let times = |one: &Tried| [0.5, 0.99].map(|share| of(one).quantile_ms(share)).to_vec();
        Chart::Bars(BarChart {
            title: title.to_owned(),
            unit: "ms",
            series: ["p50", "p99"].map(ToOwned::to_owned).to_vec(),
            groups: tried.iter().map(|one| (label(one), times(one))).collect(),
        })
    };
    [
        chart("Times of the query, by users", |one| &one.queries),
        chart("Times of a write, by users", |one| &one.writes),
    ]
}

fn explanation(tried: &[Tried]) -> String {
    let of = |is_built: bool| tried.iter().filter(move |one| one.built.is_some() == is_built);
    let p50 = |one: Option<&Tried>| one.map_or(0.0, |one| one.queries.quantile_ms(0.5));
    let write = |is_built| of(is_built).next_back().map_or(0.0, |one| one.writes.quantile_ms(0.5));
    let users = |one: Option<&Tried>| one.map_or(0, |one| one.users);
    let (fewest, most) = (users(of(false).next()), users(of(false).next_back()));
    // One time, or the first and the last one if several numbers of users were tried.
    let time = |is_built| match (p50(of(is_built).next()), p50(of(is_built).next_back())) {
        (first, last) if fewest != most => format!("{first:.2} and then {last:.2} ms"),
        (_, last) => format!("{last:.2} ms"),
    };
    let range = if fewest == most {
        format!("With {most} users")
    } else {
        format!("From {fewest} to {most} users")
    };
    format!(
        "{range} half of the queries take {} without an index, because every shard reads all of its rows, and {} with \
         one, which leads to the row. Each write of a row also writes its entry in the index: half of the last writes \
         take {:.2} ms with it and {:.2} ms without, and the disk is synced once in both cases.",
        time(false),
        time(true),
        write(true),
        write(false)
    )
}
