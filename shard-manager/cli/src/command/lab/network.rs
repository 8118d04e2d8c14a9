//! `lab network`: runs the experiment with latency, loss and cuts between the router and the nodes.

use ::lab::network::{LATENCY_MS_MAX, NetworkOptions, check, run as carry_out};
use clap::Args;

use super::Common;
use super::lab_servers::WorkPlace;
use super::linked_servers::ServersBehindLinks;
use crate::command::CommandError;
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
Writes and reads are sent to an undisturbed cluster, with a delay on every node, with a replica of
each shard cut off, and with the primary of the first shard cut off. Then the network is restored,
and every write is looked for. With PostgreSQL, the cluster reaches each server through a proxy of
the experiment, which also delays some chunks as the loss of packets does.

Examples:
  shard-manager lab network
  shard-manager lab network --latency-ms 1,10,100 --operations 500
  shard-manager lab network --postgres --report ./network";

#[derive(Args, Debug)]
pub(super) struct Network {
    #[command(flatten)]
    common: Common,
    /// Number of shards
    #[arg(long, value_name = "N", default_value_t = 2)]
    shards: usize,
    /// Replicas of each shard
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: usize,
    /// Number of writes, and of reads, of each condition
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    operations: u64,
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: u16,
    /// Latencies to try, in milliseconds
    #[arg(long, value_name = "MS,MS,…", value_delimiter = ',', default_value = "5,25", value_parser = clap::value_parser!(u64).range(1..=LATENCY_MS_MAX))]
    latency_ms: Vec<u64>,
    #[command(flatten)]
    place: WorkPlace,
}

impl Network {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), CommandError> {
        let wanted = NetworkOptions {
            shards: self.shards,
            replicas: self.replicas,
            operations: self.operations,
            clients: self.clients,
            latencies_ms: self.latency_ms,
            seed: self.common.seed,
            work_folder: self.place.work_dir.clone(),
        };
        self.common.carry_out(terminal, |watcher| {
            check(&wanted)?;
            let nodes = (wanted.shards, wanted.replicas, wanted.seed);
            // The servers are removed when this value is dropped, so it is kept until the
            // experiment has ended.
            let servers = ServersBehindLinks::start(&self.place, nodes, watcher)?;
            let linked = servers.as_ref().map(ServersBehindLinks::linked);
            Ok(carry_out(&wanted, linked, watcher)?)
        })
    }
}
