//! `lab network`: latency, loss and cuts between the router and the nodes.

use std::path::PathBuf;

use ::lab::experiment_observer::ExperimentObserver;
use ::lab::network::{LATENCY_MS_MAX, LinkedServers, NetworkOptions, check, run as carry_out};
use ::lab::tcp_link::TcpLink;
use ::lab::work_folder::WorkFolder;
use clap::Args;
use local_postgres::LocalNode;
use model::topology::Role;
use postgres::node_address::{Host, NodeAddress, ShardAddress};

use super::Common;
use super::lab_servers::{LocalServers, cluster_of, parsed};
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
    /// Folder for the temporary folder of the databases [default: that of the system]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Use PostgreSQL servers, which are created for this experiment
    #[arg(long)]
    postgres: bool,
}

/// Servers of the experiment, behind their links. Fields are dropped in the order of declaration.
struct NetworkServers {
    linked: LinkedServers,
    _local: LocalServers,
    _folder: WorkFolder,
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
            work_folder: self.work_dir,
        };
        self.common.carry_out(terminal, |watcher| {
            check(&wanted)?;
            let servers = self.postgres.then(|| NetworkServers::start(&wanted, watcher));
            // Dropped after the experiment.
            let servers = servers.transpose()?;
            Ok(carry_out(&wanted, servers.as_ref().map(|own| &own.linked), watcher)?)
        })
    }
}

impl NetworkServers {
    fn start(
        options: &NetworkOptions,
        observer: &dyn ExperimentObserver,
    ) -> Result<Self, CommandError> {
        let NetworkOptions { shards, replicas, seed, .. } = *options;
        let folder = WorkFolder::create(options.work_folder.as_deref())?;
        observer.report(&format!("starting {} PostgreSQL servers", shards * (replicas + 1)));
        let local = LocalServers::up(&folder, (shards, replicas))?;
        let mut links = Vec::new();
        let mut addresses = Vec::new();
        for shard in 0..shards {
            let of_shard = local.nodes().iter().filter(|node| node.shard == shard);
            let (mut primary, mut others) = (None, Vec::new());
            for node in of_shard {
                let link = TcpLink::to(node.port, seed);
                let link = link.map_err(|error| CommandError::Refused(error.to_string()))?;
                let address = through(node, &link)?;
                links.push((node.name.clone(), link));
                match node.role {
                    Role::Primary => primary = Some(address),
                    Role::Replica => others.push(address),
                }
            }
            let primary = primary
                .ok_or_else(|| CommandError::Refused("a shard has no primary".to_owned()))?;
            addresses.push(ShardAddress { name: None, weight: None, primary, replicas: others });
        }
        let engine = local.engine("a server for each node, behind a link");
        let linked = LinkedServers { cluster: cluster_of(addresses), links, engine };
        Ok(Self { linked, _local: local, _folder: folder })
    }
}

/// Returns the address of a node through a link.
fn through(node: &LocalNode, link: &TcpLink) -> Result<NodeAddress, CommandError> {
    let address = parsed(Some(node))?;
    let host = Host { host: "127.0.0.1".to_owned(), port: link.port() };
    Ok(NodeAddress { hosts: vec![host], ..address })
}
