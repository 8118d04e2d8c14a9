//! `generate`: fills a cluster with demo users and their orders.
//!
//! **Not here:** generating rows (`import::demo_data`), storing rows (`import`, `upload`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ::import::demo_data::{DemoRow, DemoSpec, ORDERS_MAX, Plan, USERS_MAX, Weights, push_line};
use ::import::{DemoRows, FailedRow, ImportResult, store_rows};
use access::rights::Rights;
use assembly::{self, EmbeddedCluster};
use clap::Args;
use cluster::manager::Manager;
use engine::cluster_spec::ClusterSpec;
use indicatif::ProgressBar;
use model::keyspace::Keyspace;
use model::shard_map::partitions;
use model::topology::ShardNumber;
use serde_json::json;

use super::http_agent::RouterAddress;
use super::upload::{Router, UploadError};
use super::{CommandError, Destination, Store, interrupt};
use crate::terminal::{Terminal, Unwritten, say};

pub(super) const EXAMPLES: &str = "\
Rows are functions of the seed and their number: the same command makes the same rows, and
overwrites existing ones. Ids have the form that the cluster's keyspace requires: user_A_17, or
A:user_17 in a list, 17 in numeric ranges, @user_A_17:s3.example.org in a matrix. With --data-dir
no other process may use the directory; it is created if missing.

Examples:
  shard-manager generate --url http://127.0.0.1:3000
  shard-manager generate --users 1000000 --data-dir ./data
  shard-manager generate --users 50000 --orders-per-user 3 --weights 'A=70,B=30' --seed 7";

/// Table of the users. Its keyspace determines the form of the users' ids.
const USERS: &str = "users";
/// Environment variable that limits the number of users of `generate`, and sets the number of users
/// of experiments.
pub(super) const USERS_VARIABLE: &str = "MAX_GEN_USERS";
/// Maximum number of rows in one request to a router.
const REQUEST_ROWS: u64 = 20_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Number of users; the variable MAX_GEN_USERS limits it
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(..=USERS_MAX))]
    users: u64,
    /// Number of orders of each user
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=i64::from(ORDERS_MAX)))]
    orders_per_user: u32,
    /// Share of users of each partition key [default: A=30,B=20,C=15,D=25,E=10; in keyspace list,
    /// the weights of its partitions]
    #[arg(long, value_name = "KEY=SHARE,…")]
    weights: Option<Weights>,
    /// Seed; another seed makes other rows
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    destination: Destination,
    /// Number of concurrent requests, with --url
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
}

/// Generates and stores the rows.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    let wanted = DemoSpec {
        users: capped(options.users)?,
        weights: options.weights.clone(),
        orders_per_user: options.orders_per_user,
        seed: options.seed,
    };
    interrupt::watch();
    let began = Instant::now();
    let bars = Bars::new(terminal);
    let done = match options.destination.store() {
        Store::Files(data_dir) => {
            let cluster = EmbeddedCluster { data_dir, wanted: ClusterSpec::default() };
            let manager = assembly::open_primaries(&cluster);
            let manager = manager.map_err(|error| CommandError::Refused(error.to_string()))?;
            let done = keyspace_of(&manager)
                .and_then(|keyspace| planned(&wanted, &keyspace))
                .and_then(|plan| Ok((store_in_files(&manager, &plan, &bars)?, plan)));
            manager.close();
            done
        }
        Store::Router(address) => {
            let keyspace = Router::at(&address).and_then(|router| router.keyspace_of(USERS));
            let keyspace = keyspace.map_err(|error| CommandError::Refused(error.to_string()))?;
            planned(&wanted, &keyspace).and_then(|plan| {
                Ok((store_through_router(&address, options.connections, &plan, &bars)?, plan))
            })
        }
    };
    bars.end();
    let (done, plan) = done?;
    let shown = show(&done, &plan, began, terminal);
    done.check_complete(plan.rows(), terminal)?;
    Ok(shown?)
}

/// Returns the keyspace of the table of users.
fn keyspace_of(manager: &Manager) -> Result<Keyspace, CommandError> {
    let users = manager.schema(Rights::ALL).table(USERS);
    let users = users.map_err(|error| CommandError::Refused(error.to_string()))?;
    let map = manager.map();
    Ok(partitions::keyspace_of(&map, &users).cloned().unwrap_or_default())
}

/// Returns the plan of the rows to generate, with ids that fit this keyspace.
fn planned(wanted: &DemoSpec, keyspace: &Keyspace) -> Result<Plan, CommandError> {
    let plan = Plan::new(wanted, keyspace);
    plan.map_err(|error| CommandError::Refused(format!("--weights: {error}")))
}

fn capped(users: u64) -> Result<u64, CommandError> {
    let Some(cap) = users_of_variable()? else { return Ok(users) };
    if cap < users {
        say(format_args!("{USERS_VARIABLE} caps {users} users at {cap}"));
    }
    Ok(users.min(cap))
}

/// Returns the number of users in the variable `MAX_GEN_USERS`; `None` if it is not set.
///
/// # Errors
/// Fails if the value is not a whole number.
pub(super) fn users_of_variable() -> Result<Option<u64>, CommandError> {
    let value = std::env::var_os(USERS_VARIABLE).filter(|value| !value.is_empty());
    let Some(value) = value else { return Ok(None) };
    let text = value.to_string_lossy();
    text.parse::<u64>().map(Some).map_err(|_| {
        CommandError::Refused(format!("{USERS_VARIABLE} must be a whole number, not `{text}`"))
    })
}

/// Result of storing rows.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) shards: Vec<(String, u64)>,
    pub(super) failed: u64,
    pub(super) first_failed: Vec<FailedRow>,
    pub(super) cancelled: bool,
    /// True if the numbers of failed rows are those of input lines, from 1; otherwise they are
    /// those of rows, from 0.
    pub(super) by_line: bool,
}

impl Stored {
    pub(super) fn of(manager: &Manager, filled: ImportResult) -> Self {
        let map = manager.map();
        let stored = |number: ShardNumber| filled.stored.get(number.index()).copied();
        let shards = map.topology().members();
        let shards = shards.filter_map(|(number, spec)| Some((spec.name.clone(), stored(number)?)));
        let (shards, failed) = (shards.collect(), filled.failed);
        Self { shards, failed, first_failed: filled.first_failed, ..Self::default() }
    }

    pub(super) fn total(&self) -> u64 {
        self.shards.iter().map(|(_, rows)| rows).sum()
    }

    fn add(&mut self, shard: String, rows: u64) {
        match self.shards.iter_mut().find(|(name, _)| *name == shard) {
            Some((_, sum)) => *sum += rows,
            None => self.shards.push((shard, rows)),
        }
    }

    /// Checks that the number of stored rows is `wanted`. The absence of reported failures is not
    /// enough.
    pub(super) fn check_complete(
        &self,
        wanted: u64,
        terminal: &Terminal,
    ) -> Result<(), CommandError> {
        // With `--json`, the document lists these rows already.
        let what = if self.by_line { "line" } else { "row" };
        for row in self.first_failed.iter().filter(|_| !terminal.is_json()) {
            say(format_args!("{what} {}: {}", row.index, row.cause));
        }
        let stored = self.total();
        if self.cancelled {
            let text = format!("cancelled; {stored} of {wanted} rows are stored, and stay");
            return Err(CommandError::Refused(text));
        }
        if self.failed > 0 || stored != wanted {
            let failed = self.failed;
            let text = format!("{stored} of {wanted} rows are stored, and {failed} were refused");
            return Err(CommandError::Found(text));
        }
        Ok(())
    }
}

fn show(done: &Stored, plan: &Plan, began: Instant, terminal: &Terminal) -> Result<(), Unwritten> {
    let seconds = began.elapsed().as_secs_f64();
    let (stored, rows) = (done.total(), plan.rows());
    // The number of users is that of the plan, so it is shown only if all rows were stored.
    let complete = stored == rows && done.failed == 0;
    let per_second = |count: u64| (count as f64 / seconds).round();
    let shards: HashMap<&str, u64> =
        done.shards.iter().map(|(shard, rows)| (shard.as_str(), *rows)).collect();
    let parts: HashMap<&str, u64> =
        plan.parts().iter().map(|part| (part.name.as_str(), part.users)).collect();
    let document = json!({
        "wanted": {"users": plan.users(), "rows": rows, "partitions": parts},
        "stored": stored, "failed": done.failed, "first_failed": done.first_failed,
        "cancelled": done.cancelled, "shards": shards,
        "seconds": seconds, "rows_per_second": per_second(stored),
    });
    terminal.show(&document, |terminal| {
        let total = stored.max(1) as f64;
        let lines: Vec<Vec<String>> = done
            .shards
            .iter()
            .map(|(shard, rows)| {
                let share = *rows as f64 / total;
                let percent = format!("{:.1} %", share * 100.0);
                vec![shard.clone(), rows.to_string(), percent, terminal.bar(share, 30)]
            })
            .collect();
        let table = terminal.table(&["shard", "rows", "share", ""], &lines);
        let (users, speed) = (plan.users(), per_second(plan.users()));
        if complete {
            return format!("{table}\n{users} users in {seconds:.1} s: {speed} users/s");
        }
        format!("{table}\n{stored} of {rows} rows in {seconds:.1} s")
    })
}

/// Stores the rows directly in the files of a data directory.
fn store_in_files(manager: &Manager, plan: &Plan, bars: &Bars) -> Result<Stored, CommandError> {
    let refused = |error: model::error::Error| CommandError::Refused(error.to_string());
    let mut demo_rows = DemoRows::new(manager, plan).map_err(refused)?;
    for (shard, rows) in demo_rows.expected() {
        bars.expect(manager.shard_name(shard), rows);
    }
    let mut cancelled = false;
    let next = || {
        cancelled = interrupt::is_interrupted();
        if cancelled { Ok(None) } else { demo_rows.next_chunk() }
    };
    let count_rows = |shard, rows| bars.add(manager.shard_name(shard), rows);
    let (filled, made) = store_rows(manager, next, count_rows);
    made.map_err(refused)?;
    Ok(Stored { cancelled, ..Stored::of(manager, filled) })
}

/// Stores the rows through a router with concurrent requests, each of which holds either users or
/// orders.
fn store_through_router(
    address: &RouterAddress,
    connections: u16,
    plan: &Plan,
    bars: &Bars,
) -> Result<Stored, CommandError> {
    let refused = |error: UploadError| CommandError::Refused(error.to_string());
    let stored = Mutex::new(Stored::default());
    let failure = Mutex::new(None);
    // All users are stored before the first order.
    for orders in [false, true] {
        let per_user = if orders { u64::from(plan.orders_per_user) } else { 1 };
        if per_user == 0 {
            continue;
        }
        let next = AtomicU64::new(0);
        let users = (REQUEST_ROWS / per_user).max(1);
        let work = || -> Result<(), UploadError> {
            let router = Router::at(address)?;
            let mut lines = Vec::new();
            loop {
                let first = next.fetch_add(users, Ordering::SeqCst);
                let stopped = interrupt::is_interrupted() || locked(&failure).is_some();
                if first >= plan.users() || stopped {
                    return Ok(());
                }
                lines.clear();
                write_lines(plan, orders, first..(first + users).min(plan.users()), &mut lines);
                let answer = router.upsert(if orders { "orders" } else { USERS }, &lines)?;
                let (failed, first_failed) = answer.failures();
                let mut stored = locked(&stored);
                stored.failed += failed;
                let room = 10_usize.saturating_sub(stored.first_failed.len());
                stored.first_failed.extend(first_failed.into_iter().take(room));
                for shard in answer.shards {
                    bars.add(&shard.shard, shard.rows);
                    stored.add(shard.shard, shard.rows);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        locked(&failure).get_or_insert(error);
                    }
                });
            }
        });
    }
    let mut stored = stored.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(UploadError::Cancelled) => stored.cancelled = true,
        Some(error) if stored.total() == 0 => return Err(refused(error)),
        Some(error) => {
            let (rows, wanted) = (stored.total(), plan.rows());
            let text = format!("{error}; {rows} of {wanted} rows are stored, and stay");
            return Err(CommandError::Refused(text));
        }
        None => stored.cancelled = interrupt::is_interrupted() && stored.total() < plan.rows(),
    }
    stored.shards.sort();
    Ok(stored)
}

fn write_lines(plan: &Plan, orders: bool, numbers: std::ops::Range<u64>, lines: &mut Vec<u8>) {
    for user in numbers.map_while(|number| plan.user(number)) {
        if orders {
            user.orders(plan).for_each(|order: DemoRow| push_line(lines, &order));
        } else {
            push_line(lines, &user.row());
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Progress bars, one for each shard.
pub(super) struct Bars<'s> {
    terminal: &'s Terminal,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl<'s> Bars<'s> {
    pub(super) fn new(terminal: &'s Terminal) -> Self {
        Self { terminal, bars: Mutex::default() }
    }

    /// Sets the approximate number of rows that a shard will get.
    fn expect(&self, shard: &str, rows: u64) {
        locked(&self.bars).insert(shard.to_owned(), self.terminal.progress(shard, rows));
    }

    /// Adds a number of rows that a shard has stored.
    pub(super) fn add(&self, shard: &str, rows: u64) {
        let mut bars = locked(&self.bars);
        let bar = bars.entry(shard.to_owned()).or_insert_with(|| self.terminal.progress(shard, 0));
        bar.inc(rows);
        if bar.length().is_some_and(|length| length < bar.position()) {
            bar.set_length(bar.position());
        }
    }

    pub(super) fn end(&self) {
        locked(&self.bars).values().for_each(ProgressBar::finish_and_clear);
    }
}
