//! `lab run`: stores the same users in one database and in a cluster of shards, and sends the same
//! queries to both.

use std::path::PathBuf;
use std::time::Duration;

use ::lab::run::{CLIENTS_MAX, RunOptions, check, run as carry_out};
use clap::Args;

use super::lab_servers::{LabServers, WorkPlace};
use super::user_count::UserCount;
use super::{Common, MainServer};
use crate::command::CommandError;
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
The steps: connect to every node; generate users, each with an order, into one new database named
tessera_lab_RUN; distribute the rows over the shards; send the same queries to both, and explain
each difference in a sentence. All databases are removed at the end, even after Ctrl-C.

Examples:
  shard-manager lab run
  shard-manager lab run --users 1000000 --shards 4 --report ./run
  shard-manager lab run --postgres
  MAINDB_URL=postgres://tessera@db1/postgres shard-manager lab run
  MAX_GEN_USERS=50000 shard-manager lab run --clients 32 --work-dir /srv/disk";

#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    users: UserCount,
    /// Number of shards
    #[arg(long, value_name = "N", default_value_t = 3)]
    shards: usize,
    /// Number of clients that read and write single rows
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u16,
    /// Number of reads and of writes of single rows; other queries are sent a hundredth as often
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    operations: u64,
    /// Longest duration of each query on each side, in seconds
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Folder for the temporary folder of the databases [default: that of the system]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Use PostgreSQL servers, which are created for this run. If MAINDB_URL is set, the one
    /// database is always created on that server
    #[arg(long)]
    postgres: bool,
}

pub(super) fn run(options: Options, terminal: &Terminal) -> Result<(), CommandError> {
    let mut wanted = RunOptions {
        users: options.users.get()?,
        shards: options.shards,
        clients: options.clients,
        operations: options.operations,
        at_most: Duration::from_secs(options.seconds),
        seed: options.common.seed,
        work_folder: options.work_dir.clone(),
        servers: None,
    };
    let place = WorkPlace { work_dir: options.work_dir, postgres: options.postgres };
    options.common.carry_out_with(MainServer::Used, terminal, |watcher| {
        check(&wanted)?;
        // The servers are removed when this value is dropped, so it is kept until the experiment
        // has ended.
        let servers = LabServers::start(&place, wanted.shards, watcher)?;
        wanted.servers = servers.as_ref().map(|own| own.sides(wanted.shards)).transpose()?;
        Ok(carry_out(&wanted, watcher)?)
    })
}
