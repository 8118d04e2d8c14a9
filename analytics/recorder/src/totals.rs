//! Totals: counts since the start of the process, with the labels of the Prometheus metrics.
//!
//! **Invariant:** the number of label sets is bounded by the numbers of routes, shards, operations
//! and roles, and by [`STATUSES_MAX`] statuses of a route.
//! **Not here:** counts of a window of time (`window_sums`). The counts here only grow.

use crate::bucket_counter::{BucketCounter, Example};
use crate::entry::{Detail, Entry, Shape};
use crate::sample::{Operation, Role};
use crate::shard_labels::{index_of, place_of};

/// Upper bounds of buckets in µs: those that OpenTelemetry's semantic conventions give for HTTP
/// servers, and finer ones below.
const HTTP_BOUNDS: &[u32] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
    750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
];
/// Upper bounds of buckets in µs: those that OpenTelemetry's semantic conventions give for database
/// clients, and finer ones below.
const DATABASE_BOUNDS: &[u32] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000,
    10_000_000,
];
/// Upper bounds of buckets for the number of contacted shards.
const FANOUT_BOUNDS: &[u32] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];
/// Maximum number of statuses of one route; further statuses are counted as [`STATUS_OTHER`].
const STATUSES_MAX: usize = 24;
/// Number that stands for all statuses beyond the first [`STATUSES_MAX`] of a route.
pub(crate) const STATUS_OTHER: u16 = 0;

/// Counts since the start.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    shape: Shape,
    /// Counters by route and operation, then by status.
    http: Vec<Vec<(u16, BucketCounter)>>,
    /// Counters by shard, operation and role. Those for requests to several shards or none come
    /// first. The vector grows when a shard gets its first request.
    database: Vec<Option<BucketCounter>>,
    /// Number of reads by shard and role; requests to several shards or none come first here, too.
    read_from: Vec<u64>,
    pub(crate) fanout: BucketCounter,
}

const OPERATIONS: [Operation; 2] = [Operation::Read, Operation::Write];
const ROLES: [Option<Role>; 4] =
    [None, Some(Role::Primary), Some(Role::Replica), Some(Role::Cache)];

impl Totals {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            http: vec![Vec::new(); (usize::from(shape.routes) + 1) * OPERATIONS.len()],
            database: vec![None; OPERATIONS.len() * ROLES.len()],
            read_from: vec![0; ROLES.len()],
            fanout: BucketCounter::new(FANOUT_BOUNDS),
        }
    }

    pub(crate) fn count(&mut self, entry: &Entry) {
        self.http(entry).count(entry.elapsed);
        let shard = place_of(entry.shard);
        if self.read_from.len() <= shard * ROLES.len() {
            self.database.resize((shard + 1) * OPERATIONS.len() * ROLES.len(), None);
            self.read_from.resize((shard + 1) * ROLES.len(), 0);
        }
        let role = role_index(entry.role);
        let operation = operation_index(entry.operation);
        if entry.database > 0 {
            let place = (shard * OPERATIONS.len() + operation) * ROLES.len() + role;
            let counter =
                self.database[place].get_or_insert_with(|| BucketCounter::new(DATABASE_BOUNDS));
            counter.count(entry.database);
        }
        if entry.operation == Operation::Read {
            self.read_from[shard * ROLES.len() + role] += 1;
        }
        if entry.fanout > 0 {
            self.fanout.count(u32::from(entry.fanout));
        }
    }

    pub(crate) fn exemplify(&mut self, detail: &Detail) {
        let Some(trace) = detail.trace else { return };
        let Entry { elapsed, second, .. } = detail.entry;
        self.http(&detail.entry).exemplify(Example { trace, value: elapsed, at: second });
    }

    /// Returns the durations of requests, in µs, by route (as an index), operation and status.
    pub(crate) fn requests(
        &self,
    ) -> impl Iterator<Item = (usize, Operation, u16, &BucketCounter)> + '_ {
        self.http.iter().enumerate().flat_map(|(place, by_status)| {
            let (route, operation) = (place / 2, OPERATIONS[place % 2]);
            by_status.iter().map(move |(status, counter)| (route, operation, *status, counter))
        })
    }

    /// Returns the durations inside the database in µs by shard (index, or none), operation and
    /// role.
    pub(crate) fn databases(
        &self,
    ) -> impl Iterator<Item = (Option<u16>, Operation, Option<Role>, &BucketCounter)> + '_ {
        let counters = self.database.iter().enumerate();
        let shards = counters.clone().skip(8).chain(counters.take(8));
        shards.filter_map(|(place, counter)| {
            let (shard, operation) = (index_of(place / 8), OPERATIONS[place / 4 % 2]);
            Some((shard, operation, ROLES[place % 4], counter.as_ref()?))
        })
    }

    /// Returns the reads that were answered, by shard (index, or none) and role.
    pub(crate) fn read_from(&self) -> impl Iterator<Item = (Option<u16>, Role, u64)> + '_ {
        let counts = self.read_from.iter().enumerate();
        let counts = counts.clone().skip(4).chain(counts.take(4)).filter(|&(_, &count)| count > 0);
        counts.filter_map(|(place, count)| Some((index_of(place / 4), ROLES[place % 4]?, *count)))
    }

    fn http(&mut self, entry: &Entry) -> &mut BucketCounter {
        let place = usize::from(entry.route) * OPERATIONS.len() + operation_index(entry.operation);
        debug_assert!(entry.route <= self.shape.routes, "entries are made for this shape");
        let by_status = &mut self.http[place];
        let known = |status: u16| by_status.iter().position(|(known, _)| *known == status);
        let found = known(entry.status).or_else(|| {
            let full = by_status.len() >= STATUSES_MAX;
            full.then(|| known(STATUS_OTHER)).flatten()
        });
        let found = found.unwrap_or_else(|| {
            let full = by_status.len() >= STATUSES_MAX;
            let status = if full { STATUS_OTHER } else { entry.status };
            by_status.push((status, BucketCounter::new(HTTP_BOUNDS)));
            by_status.len() - 1
        });
        &mut by_status[found].1
    }
}

fn operation_index(operation: Operation) -> usize {
    match operation {
        Operation::Read => 0,
        Operation::Write => 1,
    }
}

fn role_index(role: Option<Role>) -> usize {
    match role {
        None => 0,
        Some(Role::Primary) => 1,
        Some(Role::Replica) => 2,
        Some(Role::Cache) => 3,
    }
}
