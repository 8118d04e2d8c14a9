//! Queries: the same requests to one database and to the shards.
//!
//! **Invariant:** both sides get the same requests in the same order, one side after the other.
//! **Not here:** the reasons of the differences (`reasons`).

use std::sync::Arc;

use import::demo_data::Plan;
use model::query::{Comparison, Condition, OrderBy, ReadQuery, Test};
use model::row_change::Operation;
use model::table::Table as DataTable;
use model::value::Value;

use super::reasons::Storage;
use super::{RunOptions, Sides};
use crate::clients::{Amount, Timings, send};
use crate::dataset::new_user;
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, options as request_options};
use crate::lab_error::LabError;
use crate::random::Random;
use crate::report::{Cell, ReportTable};

/// Rows of one bulk write.
const BULK_ROWS: u64 = 1_000;
/// Number of operations of single rows for each operation of several rows.
const FEW: u64 = 100;
/// Rows of an ordered page.
const PAGE: u32 = 20;

/// Kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// One user by its key.
    Point,
    /// Users between two ids.
    Range,
    /// One new user.
    Insert,
    /// Many new users.
    Bulk,
    /// All users of a partition.
    Count,
    /// The last users in the order of a column.
    Order,
}

/// All kinds, in the order in which they are tried.
pub(crate) const QUERIES: [Query; 6] =
    [Query::Point, Query::Range, Query::Count, Query::Order, Query::Insert, Query::Bulk];

impl Query {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Point => "point read",
            Self::Range => "range",
            Self::Insert => "insert",
            Self::Bulk => "bulk of 1,000",
            Self::Count => "count",
            Self::Order => "order with limit",
        }
    }

    /// Returns true if a request is about one row.
    pub(super) fn is_single(self) -> bool {
        match self {
            Self::Point | Self::Insert => true,
            Self::Range | Self::Bulk | Self::Count | Self::Order => false,
        }
    }

    fn amount(self, options: &RunOptions) -> Amount {
        let at_most = options.at_most;
        if self.is_single() {
            let clients = options.clients.into();
            return Amount { clients, requests: options.operations, at_most };
        }
        // One client, so that the parallel work within a request is visible.
        Amount { clients: 1, requests: (options.operations / FEW).max(1), at_most }
    }
}

/// Times of a query on both sides.
pub(super) struct Compared {
    pub(super) query: Query,
    pub(super) clients: usize,
    pub(super) one: Timings,
    pub(super) shards: Timings,
    pub(super) why: String,
}

impl Compared {
    /// Returns the rate on the shards, as a multiple of that of one database; 0 if one side has
    /// answered no request.
    pub(super) fn ratio(&self) -> f64 {
        let one = self.one.rate();
        if one > 0.0 { self.shards.rate() / one } else { 0.0 }
    }
}

/// Sends the requests of a query to both sides.
pub(super) fn compare(
    query: Query,
    (options, plan): (&RunOptions, &Plan),
    sides: &Sides,
    observer: &dyn ExperimentObserver,
) -> Result<Compared, LabError> {
    observer.report(&format!("  {}", query.name()));
    let one = measure(query, (options, plan), &sides.one, observer)?;
    let shards = measure(query, (options, plan), &sides.shards, observer)?;
    let clients = query.amount(options).clients;
    let mut compared = Compared { query, clients, one, shards, why: String::new() };
    let storage = match &options.servers {
        None => Storage::Files,
        Some(servers) if servers.shards.is_some() => Storage::Servers,
        Some(_) => Storage::FilesBesideServer,
    };
    compared.why = super::reasons::of(&compared, (options.shards, clients), storage);
    Ok(compared)
}

/// Sends the requests of a query to a cluster. A request that fails is an error.
pub(crate) fn measure(
    query: Query,
    (options, plan): (&RunOptions, &Plan),
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<Timings, LabError> {
    let requests = Requests { cluster, plan, users: cluster.table("users")?, seed: options.seed };
    let request = async |number| requests.send(query, number).await;
    let timings = send(query.amount(options), observer, request);
    observer.check_cancelled()?;
    match timings.first_failure {
        Some(cause) => Err(LabError::Failed(format!("{}: {cause}", query.name()))),
        None => Ok(timings),
    }
}

/// Requests to one side.
struct Requests<'r> {
    cluster: &'r LabCluster,
    plan: &'r Plan,
    users: Arc<DataTable>,
    seed: u64,
}

impl Requests<'_> {
    async fn send(&self, query: Query, number: u64) -> Result<(), String> {
        match query {
            Query::Point => self.read_point(number).await,
            Query::Range => self.read(self.range(number)?, 1).await,
            Query::Count => self.read(self.count()?, 0).await,
            Query::Order => self.read(self.order()?, 1).await,
            Query::Insert => self.insert(number).await,
            Query::Bulk => self.insert_bulk(number).await,
        }
    }

    fn random(&self, number: u64) -> Random {
        Random::new(self.seed.wrapping_add(number), "requests")
    }

    fn column(&self, name: &str) -> Result<usize, String> {
        self.users.find(name).ok_or_else(|| format!("users has no column {name}"))
    }

    async fn read_point(&self, number: u64) -> Result<(), String> {
        let user = self.random(number).below(self.plan.users());
        let user = self.plan.user(user).ok_or("there is no such user")?;
        let query = ReadQuery::all(&self.users);
        let read = self.cluster.read(query, Some(&user.id), &request_options()).await;
        let read = read.map_err(|failure| failure.error.to_string())?;
        match read.rows.len() {
            1 => Ok(()),
            found => Err(format!("{found} rows of {} were found", user.id)),
        }
    }

    async fn read(&self, query: ReadQuery, least: usize) -> Result<(), String> {
        let counts = query.counts;
        let read = self.cluster.read(query, None, &request_options()).await;
        let read = read.map_err(|failure| failure.error.to_string())?;
        let is_good = read.rows.len() >= least && (!counts || read.rows.total > Some(0));
        is_good.then_some(()).ok_or_else(|| "too few rows were found".to_owned())
    }

    /// Returns the query for the users whose ids begin with the id of a random user.
    fn range(&self, number: u64) -> Result<ReadQuery, String> {
        let column = self.column("user_id")?;
        let user = self.random(number).below(self.plan.users());
        let first = self.plan.user(user).ok_or("there is no such user")?.id;
        let bound = |comparison, id: String| {
            Condition::Column(column, Test::Compare(comparison, Value::Text(id)))
        };
        let last = format!("{first}~");
        let conditions =
            vec![bound(Comparison::GreaterOrEqual, first), bound(Comparison::Less, last)];
        Ok(ReadQuery { conditions, ..ReadQuery::all(&self.users) })
    }

    fn count(&self) -> Result<ReadQuery, String> {
        let parts = self.plan.parts();
        // The largest part of the plan is never empty.
        let part = parts.iter().max_by_key(|part| part.users).ok_or("there are no users")?;
        let test = Test::Compare(Comparison::Equal, Value::Text(part.name.clone()));
        let conditions = vec![Condition::Column(self.column("partition_key")?, test)];
        Ok(ReadQuery { conditions, limit: 0, counts: true, ..ReadQuery::all(&self.users) })
    }

    fn order(&self) -> Result<ReadQuery, String> {
        let order = vec![OrderBy { column: self.column("email")?, descending: true }];
        Ok(ReadQuery { order, limit: PAGE, ..ReadQuery::all(&self.users) })
    }

    async fn insert(&self, number: u64) -> Result<(), String> {
        let id = format!("new_{number}");
        let placed = self.cluster.place(&self.users, Operation::Insert, &id, new_user(&id));
        let placed = placed.map_err(|error| error.to_string())?;
        let written = self.cluster.write(placed, &request_options()).await;
        written.map(drop).map_err(|failure| failure.error.to_string())
    }

    async fn insert_bulk(&self, number: u64) -> Result<(), String> {
        let rows = (0..BULK_ROWS).map(|row| {
            let id = format!("bulk_{number}_{row}");
            self.cluster.place(&self.users, Operation::Insert, &id, new_user(&id))
        });
        let rows: Result<Vec<_>, _> = rows.collect();
        let stored = self.cluster.write_bulk(rows.map_err(|error| error.to_string())?).await;
        let is_complete = stored as u64 == BULK_ROWS;
        is_complete.then_some(()).ok_or_else(|| format!("{stored} of {BULK_ROWS} rows are stored"))
    }
}

/// Returns the table of all queries.
pub(super) fn table(all: &[Compared]) -> ReportTable {
    let columns = [
        "query",
        "clients",
        "one requests",
        "one p50",
        "one p99",
        "one rate",
        "shards requests",
        "shards p50",
        "shards p99",
        "shards rate",
        "ratio",
        "why",
    ];
    let mut table = ReportTable::new("One database and shards", &columns);
    for compared in all {
        let side = |timings: &Timings| {
            [
                Cell::Count(timings.count()),
                Cell::Millis(timings.quantile_ms(0.5)),
                Cell::Millis(timings.quantile_ms(0.99)),
                Cell::Rate(timings.rate()),
            ]
        };
        let begin = [compared.query.name().into(), Cell::Count(compared.clients as u64)];
        let sides = side(&compared.one).into_iter().chain(side(&compared.shards));
        let end = [Cell::Ratio(compared.ratio()), compared.why.clone().into()];
        table.push(begin.into_iter().chain(sides).chain(end));
    }
    table
}
