//! Cached reads: compares the same reads without a cache, with a cache in the memory of the
//! process, and with Redis. Each is tried with evenly and with unevenly chosen keys, and with
//! concurrent writes.
//!
//! The session of every read contains the position of the last acknowledged write of the key that
//! is read. A result that is older than that write is *stale*, and must not be returned.
//!
//! **Invariant:** the experiment fails if a read is stale. The keys in Redis are derived from a
//! secret of the experiment's own cluster, and are removed at the end.
//! **Not here:** deciding whether a cached result is new enough (the crate `cache`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cache::{CacheAddress, CacheServer, CacheSettings, CacheUse};
use cluster::manager::{Receipt, RequestOptions};
use import::demo_data::Plan;
use model::query::ReadQuery;
use model::row_change::Operation;
use model::table::Table as DataTable;

use crate::chart::{BarChart, Chart};
use crate::clients::{Amount, Timings, send};
use crate::databases::{Databases, ServerDatabases};
use crate::dataset::{self, user_named};
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, block_on, options as request_options};
use crate::lab_error::LabError;
use crate::random::Random;
use crate::report::{Cell, Report, ReportTable};

/// Maximum number of users. The last write of each user is kept in memory.
pub const USERS_MAX: u64 = 1_000_000;
/// Number of shards of the cluster.
pub const SHARDS: usize = 3;
/// Average number of operations for each write; the others are reads.
const WRITE_EVERY: u64 = 20;
/// Longest time for which the operations of one condition are sent.
const AT_MOST: Duration = Duration::from_secs(20);
/// Size of the cache in the memory of the process, in bytes.
const MEMORY_BYTES: usize = 64 << 20;
/// Redis address for the condition that uses only the cache in memory. No server listens on this
/// port.
const NOWHERE: &str = "redis://127.0.0.1:1";

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct CachedReadsOptions {
    /// Number of users.
    pub users: u64,
    /// Number of operations of each condition. On average, one in 20 is a write.
    pub operations: u64,
    /// Number of concurrent clients.
    pub clients: u16,
    /// Address of the Redis server to try; `None` to omit the conditions with Redis.
    pub redis: Option<String>,
    /// Seed of the generated rows, and of the keys that the operations choose.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
}

/// Cache that a condition uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheKind {
    None,
    Memory,
    Redis,
}

impl CacheKind {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Memory => "memory",
            Self::Redis => "Redis",
        }
    }

    fn settings(self, redis: Option<&CacheAddress>) -> Result<Option<CacheSettings>, LabError> {
        let min_uses = CacheSettings::MIN_USES_LEAST;
        Ok(match (self, redis) {
            (Self::None, _) | (Self::Redis, None) => None,
            (Self::Memory, _) => {
                let nowhere = CacheSettings::at(NOWHERE.parse().map_err(LabError::failed)?);
                Some(CacheSettings { near_bytes: MEMORY_BYTES, min_uses, ..nowhere })
            }
            (Self::Redis, Some(address)) => {
                // With the default patience, a short stall of this machine could open the circuit
                // breaker, and the experiment would then measure reads without a cache.
                let patience = CacheSettings::PATIENCE_MAX;
                Some(CacheSettings { min_uses, patience, ..CacheSettings::at(address.clone()) })
            }
        })
    }
}

/// Distribution from which the key of an operation is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyChoice {
    /// All keys are equally likely.
    Even,
    /// The first key is twice as likely as the second, three times as likely as the third, and so
    /// on (Zipf's law).
    Skewed,
}

impl KeyChoice {
    const ALL: [Self; 2] = [Self::Even, Self::Skewed];

    fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Skewed => "skewed",
        }
    }

    /// Divides the range from 0 to 1 into one interval for each key, as wide as the key is likely,
    /// and returns the upper end of each interval.
    fn ends(self, users: u64) -> Vec<f64> {
        let weight = |rank: u64| match self {
            Self::Even => 1.0,
            Self::Skewed => 1.0 / (rank + 1) as f64,
        };
        let sum: f64 = (0..users).map(weight).sum();
        let mut end = 0.0;
        let ends = (0..users).map(|rank| {
            end += weight(rank) / sum;
            end
        });
        ends.collect()
    }
}

/// Results of one condition: a cache and a distribution of keys.
struct Tried {
    place: CacheKind,
    choice: KeyChoice,
    reads: Timings,
    hits: u64,
    writes: u64,
    stale: u64,
}

/// Carries out the experiment in the databases on servers, or in files if there are none.
///
/// # Errors
/// [`LabError::Impossible`] before anything is created; otherwise the error of the step that
/// failed.
pub fn run(
    options: &CachedReadsOptions,
    servers: Option<&ServerDatabases>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    let redis = check(options)?;
    let plan = dataset::plan(options.users, options.seed)?;
    let databases = Databases::new(servers, options.work_folder.as_deref())?;
    let address = redis.as_ref().map(|(address, _)| address);
    let places =
        [Some(CacheKind::None), Some(CacheKind::Memory), address.map(|_| CacheKind::Redis)];
    let (mut tried, mut left) = (Vec::new(), None);
    for place in places.into_iter().flatten() {
        // The conditions use the same rows one after another.
        let cluster = databases.open((0, SHARDS), place.settings(address)?)?;
        let of_place = try_place(place, (options, &plan), &cluster, observer);
        if place == CacheKind::Redis {
            left = remove_entries(cluster).err();
        }
        tried.extend(of_place?);
    }
    let mut report = databases
        .report("cache", options.seed)?
        .set("users", options.users)
        .set("shards", SHARDS)
        .set("operations", options.operations)
        .set("clients", options.clients)
        .set("writes", format!("1 of {WRITE_EVERY}"));
    match &redis {
        Some((_, server)) => report = report.set("redis", &server.version),
        None => report.notes.push("Redis was not tried: name one with --redis".to_owned()),
    }
    if let Some(cause) = left {
        report.notes.push(format!("entries are left in Redis for up to half a minute: {cause}"));
    }
    if servers.is_some() {
        let note = "on PostgreSQL, answers of a primary serve no session token, so a user that was written is read from \
                    its shard";
        report.notes.push(note.to_owned());
    }
    report.tables.push(table(&tried));
    report.charts.extend(charts(&tried));
    report.explanation = explanation(&tried);
    Ok(report.ended(began.elapsed()))
}

/// Carries out the operations with both distributions of keys. The first condition, which has no
/// cache, also generates the rows.
fn try_place(
    place: CacheKind,
    (options, plan): (&CachedReadsOptions, &Plan),
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<Vec<Tried>, LabError> {
    if place == CacheKind::None {
        dataset::generate(cluster, plan, observer)?;
    }
    let tried = KeyChoice::ALL.into_iter().map(|choice| {
        observer.report(&format!("cache: {}, keys: {}", place.name(), choice.name()));
        Condition::new(options, (plan, choice), cluster)?.carry_out(place, observer)
    });
    tried.collect()
}

/// Closes a cluster, and removes its cache entries from Redis.
fn remove_entries(cluster: LabCluster) -> Result<(), String> {
    let entries = cluster.manager().status().cached_entries();
    // The closed cluster stores no further entries.
    drop(cluster);
    entries.map_or(Ok(()), |entries| block_on(entries.remove()))
}

/// Checks the settings before anything is created, and returns the Redis server to be tried.
///
/// # Errors
/// [`LabError::Impossible`], also if the Redis server cannot be inspected.
pub fn check(
    options: &CachedReadsOptions,
) -> Result<Option<(CacheAddress, CacheServer)>, LabError> {
    if !(1..=USERS_MAX).contains(&options.users) {
        let line = format!("there may be 1 to {USERS_MAX} users, not {}", options.users);
        return Err(LabError::Impossible(line));
    }
    options.redis.as_deref().map(reach).transpose()
}

/// Returns the address of the Redis server, and its version and settings, if it responds.
fn reach(redis: &str) -> Result<(CacheAddress, CacheServer), LabError> {
    let address: CacheAddress = redis.parse().map_err(LabError::impossible)?;
    let failed = |cause| LabError::Impossible(format!("the Redis {address}: {cause}"));
    let server = block_on(cache::inspect(&address)).map_err(failed)?;
    Ok((address, server))
}

/// Condition in progress: a cluster, one distribution of keys, and the results so far.
struct Condition<'c> {
    options: &'c CachedReadsOptions,
    plan: &'c Plan,
    choice: KeyChoice,
    ends: Vec<f64>,
    cluster: &'c LabCluster,
    users: Arc<DataTable>,
    /// Row version and receipt of the last acknowledged write of each user.
    written: Mutex<Vec<Option<(i64, Receipt)>>>,
    reads: Mutex<Timings>,
    hits: AtomicU64,
    writes: AtomicU64,
    stale: AtomicU64,
}

impl<'c> Condition<'c> {
    fn new(
        options: &'c CachedReadsOptions,
        (plan, choice): (&'c Plan, KeyChoice),
        cluster: &'c LabCluster,
    ) -> Result<Self, LabError> {
        let (hits, writes, stale) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self {
            options,
            plan,
            choice,
            ends: choice.ends(plan.users()),
            cluster,
            users: cluster.table("users")?,
            written: Mutex::new(vec![None; plan.users() as usize]),
            reads: Mutex::default(),
            hits,
            writes,
            stale,
        })
    }

    fn carry_out(
        self,
        place: CacheKind,
        observer: &dyn ExperimentObserver,
    ) -> Result<Tried, LabError> {
        let clients = self.options.clients.into();
        let amount = Amount { clients, requests: self.options.operations, at_most: AT_MOST };
        let all = send(amount, observer, async |number| self.operate(number).await);
        observer.check_cancelled()?;
        if let Some(cause) = all.first_failure {
            return Err(LabError::Failed(format!("cache {}: {cause}", place.name())));
        }
        let reads = self.reads.into_inner().unwrap_or_else(PoisonError::into_inner);
        let tried = Tried {
            place,
            choice: self.choice,
            reads: reads.ended(all.elapsed),
            hits: self.hits.into_inner(),
            writes: self.writes.into_inner(),
            stale: self.stale.into_inner(),
        };
        match tried.stale {
            0 => Ok(tried),
            stale => Err(LabError::Failed(format!(
                "{stale} reads returned a row older than the last write of their session"
            ))),
        }
    }

    /// Reads or writes a user. The number of the operation determines the user and whether it is a
    /// write, so every condition has the same operations.
    async fn operate(&self, number: u64) -> Result<(), String> {
        let mut random = Random::new(self.options.seed.wrapping_add(number), "cached reads");
        let share = random.share();
        let index = self.ends.partition_point(|end| *end <= share).min(self.ends.len() - 1);
        let user = self.plan.user(index as u64).ok_or("there is no such user")?;
        if random.below(WRITE_EVERY) == 0 {
            return self.write(index, &user.id, number).await;
        }
        self.read(index, &user.id).await
    }

    async fn write(&self, index: usize, id: &str, number: u64) -> Result<(), String> {
        let row = user_named(id, &format!("name of {number}"));
        let placed = self.cluster.place(&self.users, Operation::Upsert, id, row);
        let placed = placed.map_err(|error| error.to_string())?;
        let done = self.cluster.write(placed, &request_options()).await;
        let done = done.map_err(|failure| failure.error.to_string())?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Of two concurrent writes, the one with the higher row version was the last.
        if written[index].is_none_or(|(version, _)| version < done.row.version) {
            written[index] = Some((done.row.version, done.receipt));
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn read(&self, index: usize, id: &str) -> Result<(), String> {
        let last = self.written.lock().unwrap_or_else(PoisonError::into_inner)[index];
        let mut asked: RequestOptions = request_options();
        if let Some((_, receipt)) = last {
            let sessions = self.cluster.manager().sessions();
            sessions.extend(&mut asked.session, receipt.place.shard, receipt.position);
        }
        let sent = Instant::now();
        let read = self.cluster.read(ReadQuery::all(&self.users), Some(id), &asked).await;
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read.map_err(|failure| failure.error.to_string())?;
        reads.add(sent, Ok(()));
        drop(reads);
        let found = read.version().ok_or_else(|| format!("{id} was not found"))?;
        self.hits.fetch_add(u64::from(read.cache == Some(CacheUse::Hit)), Ordering::Relaxed);
        let is_stale = last.is_some_and(|(version, _)| found < version);
        self.stale.fetch_add(u64::from(is_stale), Ordering::Relaxed);
        Ok(())
    }
}

fn hit_rate(one: &Tried) -> f64 {
    one.hits as f64 / one.reads.count().max(1) as f64
}

fn table(tried: &[Tried]) -> ReportTable {
    let columns = [
        "cache",
        "keys",
        "reads",
        "hits",
        "hit rate",
        "from shards",
        "writes",
        "stale",
        "read p50",
        "read p99",
    ];
    let mut table = ReportTable::new("Reads of users, with concurrent writes", &columns);
    for one in tried {
        table.push([
            one.place.name().into(),
            one.choice.name().into(),
            Cell::Count(one.reads.count()),
            Cell::Count(one.hits),
            Cell::Share(hit_rate(one)),
            Cell::Count(one.reads.count() - one.hits),
            Cell::Count(one.writes),
            Cell::Count(one.stale),
            Cell::Millis(one.reads.quantile_ms(0.5)),
            Cell::Millis(one.reads.quantile_ms(0.99)),
        ]);
    }
    table
}

fn charts(tried: &[Tried]) -> [Chart; 2] {
    let label = |one: &Tried| format!("{}, {}", one.place.name(), one.choice.name());
    let times = |one: &Tried| [0.5, 0.99].map(|share| one.reads.quantile_ms(share)).to_vec();
    [
        Chart::Bars(BarChart {
            title: "Reads that the cache answered".to_owned(),
            unit: "%",
            series: vec!["hit rate".to_owned()],
            groups: tried.iter().map(|one| (label(one), vec![100.0 * hit_rate(one)])).collect(),
        }),
        Chart::Bars(BarChart {
            title: "Times of reads".to_owned(),
            unit: "ms",
            series: ["p50", "p99"].map(ToOwned::to_owned).to_vec(),
            groups: tried.iter().map(|one| (label(one), times(one))).collect(),
        }),
    ]
}

fn explanation(tried: &[Tried]) -> String {
    let of = |place, choice| {
        tried.iter().find(move |one: &&Tried| one.place == place && one.choice == choice)
    };
    let percent = |place, choice| of(place, choice).map_or(0.0, |one| 100.0 * hit_rate(one));
    let p50 = |place| of(place, KeyChoice::Skewed).map_or(0.0, |one| one.reads.quantile_ms(0.5));
    let redis = match of(CacheKind::Redis, KeyChoice::Skewed) {
        Some(_) => format!(" and {:.3} ms with Redis", p50(CacheKind::Redis)),
        None => String::new(),
    };
    let reads: u64 = tried.iter().map(|one| one.reads.count()).sum();
    format!(
        "The cache in memory answers {:.0} % of the reads when a few keys are read often and {:.0} % when all are read equally often, and \
         none of {reads} reads is older than the last acknowledged write of its key, because an entry answers only a session that \
         has seen no later position. Half of the skewed reads take {:.3} ms from the shards, {:.3} ms with the cache in \
         memory{redis}: a hit always saves the shard its work, but is faster only if that work or the round trip to the \
         shard takes longer than the round trip to the cache.",
        percent(CacheKind::Memory, KeyChoice::Skewed),
        percent(CacheKind::Memory, KeyChoice::Even),
        p50(CacheKind::None),
        p50(CacheKind::Memory),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_choice_prefers_the_first_keys_by_zipfs_law() {
        let ends = KeyChoice::Skewed.ends(1_000);
        let part = |rank: usize| ends[rank] - if rank == 0 { 0.0 } else { ends[rank - 1] };
        assert!((part(0) / part(1) - 2.0).abs() < 1e-6 && (part(0) / part(9) - 10.0).abs() < 1e-6);
        let even = KeyChoice::Even.ends(4);
        assert!(even.iter().zip([0.25, 0.5, 0.75, 1.0]).all(|(a, b)| (a - b).abs() < 1e-9));
    }
}
