//! Queries: sends the same requests to the single database and to the shards.
//!
//! **Invariant:** both sides get the same requests, first one side and then the other.
//! **Not here:** the explanation of the differences (`reasons`).

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

/// Number of rows of one bulk write.
const BULK_ROWS: u64 = 1_000;
/// Number of requests for single rows for each request for several rows.
const FEW: u64 = 100;
/// Number of rows of an ordered page.
const PAGE: u32 = 20;

/// Kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// Read of one user by shard key.
    Point,
    /// Read of the users with ids in a range.
    Range,
    /// Insert of one new user.
    Insert,
    /// Bulk write of 1,000 new users.
    Bulk,
    /// Count of all users of a partition.
    Count,
    /// Read of the last 20 users in the order of a column.
    Order,
}

/// All kinds of requests, in the order in which they are tried.
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
        // A single client sends these requests, so that the times show the parallel work within one
        // request.
        Amount { clients: 1, requests: (options.operations / FEW).max(1), at_most }
    }
}

/// Results of one kind of request on both sides, and the explanation of their difference.
pub(super) struct Compared {
    pub(super) query: Query,
    pub(super) clients: usize,
    pub(super) one: Timings,
    pub(super) shards: Timings,
    pub(super) why: String,
}

impl Compared {
    /// Returns the request rate on the shards divided by that on the single database; 0 if no
    /// request succeeded on one side.
    pub(super) fn ratio(&self) -> f64 {
        let one = self.one.rate();
        if one > 0.0 { self.shards.rate() / one } else { 0.0 }
    }
}

/// Sends the requests of one kind to both sides, and compares the results.
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

/// Sends the requests of one kind to a cluster, and returns their durations. Returns an error if a
/// request fails.
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

/// Sender of requests to one side.
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

    /// Returns a range query for the users whose ids begin with the id of a random user.
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
        // The partition with the most users is chosen, because it is never empty.
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

/// Returns the report's table of all kinds of requests.
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
