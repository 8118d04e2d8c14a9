//! `lab levels`, `replicas`, `crash` and `conflicts`: run the experiments about consistency,
//! durability and concurrent changes.

use std::path::Path;

use ::lab::conflicts::{self, ConflictsOptions};
use ::lab::crash::{self, CrashOptions, KilledServers};
use ::lab::levels::{self, LevelsOptions};
use ::lab::replicas::{self, ReplicasOptions};
use clap::Args;

use super::lab_servers::{ClusterSizes, DatabaseServers, WorkPlace};
use super::linked_servers::ServersBehindLinks;
use super::node_servers::NodeServers;
use super::{Common, writer_command};
use crate::command::CommandError;
use crate::terminal::Terminal;

#[derive(Args, Debug)]
pub(super) struct Levels {
    #[command(flatten)]
    common: Common,
    /// Number of replicas of each shard, which are cut off one after another
    #[arg(long, value_name = "N", default_value_t = 2)]
    replicas: usize,
    /// Number of writes, and of reads, of each level
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    operations: u64,
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    #[command(flatten)]
    place: WorkPlace,
}

#[derive(Args, Debug)]
pub(super) struct Replicas {
    #[command(flatten)]
    common: Common,
    /// Number of operations of each kind of read
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    operations: u64,
    #[command(flatten)]
    place: WorkPlace,
}

#[derive(Args, Debug)]
pub(super) struct Crash {
    #[command(flatten)]
    common: Common,
    /// Number of times that the process, and with --postgres its servers, are killed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    kills: u32,
    /// Number of acknowledged rows after which they are killed
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    acknowledged: u32,
    #[command(flatten)]
    place: WorkPlace,
}

#[derive(Args, Debug)]
pub(super) struct Conflicts {
    #[command(flatten)]
    common: Common,
    /// Number of clients that change the same row
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=64))]
    clients: u16,
    /// Number of rounds in which they do so
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    #[command(flatten)]
    place: WorkPlace,
}

impl Levels {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let Self { common, replicas, operations, clients, place } = self;
        let (seed, work_folder) = (common.seed, place.work_dir.clone());
        let wanted = LevelsOptions { replicas, operations, clients, seed, work_folder };
        common.carry_out(terminal, |watcher| {
            levels::check(&wanted)?;
            let nodes = (levels::SHARDS, replicas, seed);
            // The servers are removed when this value is dropped, so it is kept until the
            // experiment has ended.
            let servers = ServersBehindLinks::start(&place, nodes, watcher)?;
            let linked = servers.as_ref().map(ServersBehindLinks::linked);
            Ok(levels::run(&wanted, linked, watcher)?)
        })
    }
}

impl Replicas {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let Self { common, operations, place } = self;
        let (seed, work_folder) = (common.seed, place.work_dir.clone());
        let wanted = ReplicasOptions { operations, seed, work_folder };
        common.carry_out(terminal, |watcher| {
            let nodes = (replicas::SHARDS, replicas::REPLICAS);
            // The servers are removed when this value is dropped, so it is kept until the
            // experiment has ended.
            let servers = NodeServers::start(&place, nodes, watcher)?;
            let nodes = servers.as_ref().map(NodeServers::nodes);
            Ok(replicas::run(&wanted, nodes, watcher)?)
        })
    }
}

impl Crash {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let Self { common, kills, acknowledged, place } = self;
        let program = std::env::current_exe();
        let program = program.map_err(|error| CommandError::Refused(error.to_string()))?;
        let seed = common.seed;
        let start_writer = |dir: &Path, first: u64| {
            let mut command = writer_command(&program, (dir, place.postgres), seed);
            command.args(["--first", &first.to_string()]);
            command
        };
        let wanted = CrashOptions {
            rounds: kills,
            acknowledged: acknowledged as usize,
            seed,
            work_folder: place.work_dir.clone(),
            start_writer: &start_writer,
        };
        common.carry_out(terminal, |watcher| {
            // The servers are removed when this value is dropped, so it is kept until the
            // experiment has ended.
            let servers = NodeServers::start(&place, (crash::SHARDS, 0), watcher)?;
            let Some(servers) = &servers else { return Ok(crash::run(&wanted, None, watcher)?) };
            let killed = KilledServers {
                nodes: servers.nodes(),
                dir: servers.local().dir()?.to_owned(),
                kill: &|| servers.local().kill(),
                start: &|| servers.local().start_again(),
            };
            Ok(crash::run(&wanted, Some(&killed), watcher)?)
        })
    }
}

impl Conflicts {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let Self { common, clients, rounds, place } = self;
        let (seed, work_folder) = (common.seed, place.work_dir.clone());
        let wanted = ConflictsOptions { clients, rounds, seed, work_folder };
        common.carry_out(terminal, |watcher| {
            let sizes = ClusterSizes { shards: &[conflicts::SHARDS], grows: false };
            // The servers are removed when this value is dropped, so it is kept until the
            // experiment has ended.
            let servers = place.start(&sizes, watcher)?;
            let databases = servers.as_ref().map(DatabaseServers::databases);
            Ok(conflicts::run(&wanted, databases, watcher)?)
        })
    }
}
