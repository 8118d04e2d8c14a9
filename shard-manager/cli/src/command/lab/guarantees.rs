//! `lab levels`, `replicas`, `crash` and `conflicts`: experiments about guarantees.

use std::path::{Path, PathBuf};

use ::lab::conflicts::{self, ConflictsOptions};
use ::lab::crash::{self, CrashOptions};
use ::lab::levels::{self, LevelsOptions};
use ::lab::replicas::{self, ReplicasOptions};
use clap::Args;

use super::lab_servers::{ClusterSizes, DatabaseServers, WorkPlace};
use super::linked_servers::ServersBehindLinks;
use super::{Common, writer_command};
use crate::command::CommandError;
use crate::terminal::Terminal;

/// Reason why `lab replicas` cannot use servers.
const REPLICAS_NEED_FILES: &str = "lab replicas delays each change on each replica, which it can do only in its own \
     process; servers send their changes to each other. `lab levels --postgres` and `lab network --postgres` have replicas \
     on servers";
/// Reason why `lab crash` cannot use servers.
const CRASH_NEEDS_FILES: &str = "lab crash kills the process that writes the files, and servers are processes of their \
     own. `loadtest --verify --chaos --cluster DIR` kills servers, and looks for each acknowledged row";

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
    place: FilePlace,
}

#[derive(Args, Debug)]
pub(super) struct Crash {
    #[command(flatten)]
    common: Common,
    /// Number of times that the process is killed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    kills: u32,
    /// Number of acknowledged rows after which the process is killed
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    acknowledged: u32,
    #[command(flatten)]
    place: FilePlace,
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

/// Place of the files of an experiment that cannot use servers.
#[derive(Args, Clone, Debug)]
struct FilePlace {
    /// Folder for the temporary folder of the databases [default: that of the system]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Refused with the reason
    #[arg(long, hide = true)]
    postgres: bool,
}

impl FilePlace {
    /// Refuses `--postgres`, with the reason why the experiment needs files.
    fn check(&self, reason: &str) -> Result<(), CommandError> {
        if self.postgres {
            return Err(CommandError::Refused(format!("--postgres: {reason}")));
        }
        Ok(())
    }
}

impl Levels {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let Self { common, replicas, operations, clients, place } = self;
        let (seed, work_folder) = (common.seed, place.work_dir.clone());
        let wanted = LevelsOptions { replicas, operations, clients, seed, work_folder };
        common.carry_out(terminal, |watcher| {
            levels::check(&wanted)?;
            let nodes = (levels::SHARDS, replicas, seed);
            // Dropped after the experiment.
            let servers = ServersBehindLinks::start(&place, nodes, watcher)?;
            let linked = servers.as_ref().map(ServersBehindLinks::linked);
            Ok(levels::run(&wanted, linked, watcher)?)
        })
    }
}

impl Replicas {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let Self { common, operations, place } = self;
        place.check(REPLICAS_NEED_FILES)?;
        let (seed, work_folder) = (common.seed, place.work_dir);
        let wanted = ReplicasOptions { operations, seed, work_folder };
        common.carry_out(terminal, |watcher| Ok(replicas::run(&wanted, watcher)?))
    }
}

impl Crash {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        self.place.check(CRASH_NEEDS_FILES)?;
        let program = std::env::current_exe();
        let program = program.map_err(|error| CommandError::Refused(error.to_string()))?;
        let seed = self.common.seed;
        let start_writer = |dir: &Path, first: u64| {
            let mut command = writer_command(&program, dir, seed);
            command.args(["--first", &first.to_string()]);
            command
        };
        let wanted = CrashOptions {
            rounds: self.kills,
            acknowledged: self.acknowledged as usize,
            seed,
            work_folder: self.place.work_dir,
            start_writer: &start_writer,
        };
        self.common.carry_out(terminal, |watcher| Ok(crash::run(&wanted, watcher)?))
    }
}

impl Conflicts {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let Self { common, clients, rounds, place } = self;
        let (seed, work_folder) = (common.seed, place.work_dir.clone());
        let wanted = ConflictsOptions { clients, rounds, seed, work_folder };
        common.carry_out(terminal, |watcher| {
            let sizes = ClusterSizes { shards: &[conflicts::SHARDS], grows: false };
            // Dropped after the experiment.
            let servers = place.start(&sizes, watcher)?;
            let databases = servers.as_ref().map(DatabaseServers::databases);
            Ok(conflicts::run(&wanted, databases, watcher)?)
        })
    }
}
