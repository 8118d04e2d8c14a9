//! `lab shards`, `grow`, `indexes` and `cache`: run the experiments with different numbers of
//! shards, and with and without indexes or a cache.

use std::time::Duration;

use ::lab::cached_reads::{self, CachedReadsOptions};
use ::lab::grow::{self, GrowOptions};
use ::lab::indexes::{self, IndexesOptions};
use ::lab::run::{CLIENTS_MAX, RunOptions};
use ::lab::shard_counts;
use clap::Args;

use super::Common;
use super::lab_servers::{ClusterSizes, DatabaseServers, WorkPlace};
use super::user_count::UserCount;
use crate::command::CommandError;
use crate::terminal::Terminal;

#[derive(Args, Debug)]
pub(super) struct Shards {
    #[command(flatten)]
    common: Common,
    /// Numbers of shards, which are tried one after another
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "1,2,4,8")]
    counts: Vec<usize>,
    #[command(flatten)]
    users: UserCount,
    /// Number of clients that read and write single rows
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u16,
    /// Number of reads and of writes of single rows; other queries are sent a hundredth as often
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    operations: u64,
    #[command(flatten)]
    place: WorkPlace,
}

#[derive(Args, Debug)]
pub(super) struct Grow {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    users: UserCount,
    /// Number of shards before
    #[arg(long, value_name = "N", default_value_t = 3)]
    shards: usize,
    /// Number of clients that read and write meanwhile
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u16,
    /// Duration of the phases before, between and after the changes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    quiet_ms: u64,
    #[command(flatten)]
    place: WorkPlace,
}

#[derive(Args, Debug)]
pub(super) struct IndexTrial {
    #[command(flatten)]
    common: Common,
    /// Numbers of users, which are tried one after another
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "1000,5000,25000")]
    users: Vec<u64>,
    /// Number of shards
    #[arg(long, value_name = "N", default_value_t = 3)]
    shards: usize,
    /// Number of queries, and of writes, with and without the index
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    operations: u64,
    /// Number of clients that write; one client queries
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u16,
    #[command(flatten)]
    place: WorkPlace,
}

#[derive(Args, Debug)]
pub(super) struct CacheTrial {
    #[command(flatten)]
    common: Common,
    /// Number of users
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    users: u64,
    /// Number of operations of each condition, one of 20 of which is a write
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    operations: u64,
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u16,
    /// A Redis to try too: redis://HOST:PORT/NUMBER. Other users of this machine can see flags:
    /// give a password in REDIS_URL
    #[arg(long, value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    redis: Option<String>,
    #[command(flatten)]
    place: WorkPlace,
}

/// Longest duration of each query for each number of shards.
const AT_MOST: Duration = Duration::from_secs(20);

impl Shards {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let wanted = RunOptions {
            users: self.users.get()?,
            shards: 1,
            clients: self.clients,
            operations: self.operations,
            at_most: AT_MOST,
            seed: self.common.seed,
            work_folder: self.place.work_dir.clone(),
            servers: None,
        };
        let counts = self.counts;
        self.common.carry_out(terminal, |watcher| {
            shard_counts::check(&wanted, &counts)?;
            let sizes = ClusterSizes { shards: &counts, grows: false };
            // The servers are removed when this value is dropped, so it is kept until the
            // experiment has ended.
            let servers = self.place.start(&sizes, watcher)?;
            let databases = servers.as_ref().map(DatabaseServers::databases);
            Ok(shard_counts::run(&wanted, &counts, databases, watcher)?)
        })
    }
}

impl Grow {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let wanted = GrowOptions {
            users: self.users.get()?,
            shards: self.shards,
            clients: self.clients,
            quiet: Duration::from_millis(self.quiet_ms),
            seed: self.common.seed,
            work_folder: self.place.work_dir.clone(),
        };
        self.common.carry_out(terminal, |watcher| {
            grow::check(&wanted)?;
            let sizes = ClusterSizes { shards: &[wanted.shards], grows: true };
            let servers = self.place.start(&sizes, watcher)?;
            let databases = servers.as_ref().map(DatabaseServers::databases);
            Ok(grow::run(&wanted, databases, watcher)?)
        })
    }
}

impl IndexTrial {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let wanted = IndexesOptions {
            counts: self.users,
            shards: self.shards,
            operations: self.operations,
            clients: self.clients,
            seed: self.common.seed,
            work_folder: self.place.work_dir.clone(),
        };
        self.common.carry_out(terminal, |watcher| {
            indexes::check(&wanted)?;
            let shards = vec![wanted.shards; wanted.counts.len()];
            let sizes = ClusterSizes { shards: &shards, grows: false };
            let servers = self.place.start(&sizes, watcher)?;
            let databases = servers.as_ref().map(DatabaseServers::databases);
            Ok(indexes::run(&wanted, databases, watcher)?)
        })
    }
}

impl CacheTrial {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let wanted = CachedReadsOptions {
            users: self.users,
            operations: self.operations,
            clients: self.clients,
            // An empty value and `none` mean that there is no cache, as in the settings of a
            // router.
            redis: self.redis.filter(|redis| !redis.is_empty() && redis != "none"),
            seed: self.common.seed,
            work_folder: self.place.work_dir.clone(),
        };
        self.common.carry_out(terminal, |watcher| {
            cached_reads::check(&wanted)?;
            let sizes = ClusterSizes { shards: &[cached_reads::SHARDS], grows: false };
            let servers = self.place.start(&sizes, watcher)?;
            let databases = servers.as_ref().map(DatabaseServers::databases);
            Ok(cached_reads::run(&wanted, databases, watcher)?)
        })
    }
}
