//! Network: measures how latency, loss and cuts on the network between the router and the nodes
//! affect requests.
//!
//! The experiment sends writes and reads under one condition of the network after another. After
//! each condition the network is restored, and the experiment checks which of the writes were
//! stored.
//!
//! **Invariant:** the experiment fails if an acknowledged write is missing or a refused write was
//! stored.
//! **Not here:** disturbing the connections to the nodes (`disturbance`).

mod findings;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::manager::RequestOptions;
use engine::fault_injector::{NodeFault, NodeMode};
use model::consistency::Level;
use model::error::Outcome;
use model::query::ReadQuery;
use model::row_change::Operation;
use model::table::Table as DataTable;
use model::topology::Topology;

use crate::clients::{Amount, Timings, send};
use crate::databases::{report_of_files, report_of_servers};
use crate::dataset::new_user;
use crate::disturbance::{LinkedServers, disturb};
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, block_on, failure, options as request_options};
use crate::lab_error::LabError;
use crate::node_faults::{in_mode, until_well};
use crate::report::Report;
use crate::tcp_link::LinkState;
use crate::work_folder::WorkFolder;

/// Maximum number of latencies that one run tries.
pub const LATENCIES_MAX: usize = 8;
/// Maximum latency, in milliseconds.
pub const LATENCY_MS_MAX: u64 = 1_000;
/// Average number of chunks of data for each chunk that is lost.
const LOST_ONE_OF: u64 = 100;
/// Number of users that the reads choose from.
const READ_USERS: u64 = 64;
/// Time limit of a request.
const WAIT_MAX: Duration = Duration::from_millis(1_500);
/// Longest time for which the writes of one condition are sent, and likewise its reads.
const AT_MOST: Duration = Duration::from_secs(6);

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Number of shards.
    pub shards: usize,
    /// Number of replicas of each shard.
    pub replicas: usize,
    /// Number of writes under each condition; the number of reads is the same.
    pub operations: u64,
    /// Number of concurrent clients.
    pub clients: u16,
    /// Latencies to try one after another, in milliseconds.
    pub latencies_ms: Vec<u64>,
    /// Seed that selects the lost chunks. The rows do not depend on the seed.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
}

/// Condition of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NetworkCondition {
    /// The network is undisturbed.
    Calm,
    /// On servers, the responses of every node are delayed by this many milliseconds; with files,
    /// writes and the replay of changes on every node begin that much later.
    Latency(u64),
    /// One chunk in `LOST_ONE_OF` is lost and sent again; servers only.
    Loss,
    /// One replica of each shard cannot be reached.
    ReplicasCut,
    /// The primary of the first shard cannot be reached.
    PrimaryCut,
}

impl NetworkCondition {
    fn name(self) -> String {
        match self {
            Self::Calm => "calm".to_owned(),
            Self::Latency(ms) => format!("{ms} ms delay"),
            Self::Loss => format!("1 of {LOST_ONE_OF} chunks lost"),
            Self::ReplicasCut => "a replica of each shard cut off".to_owned(),
            Self::PrimaryCut => "primary of shard1 cut off".to_owned(),
        }
    }

    /// Returns true if the condition disturbs this node.
    fn is_about(self, node: &str) -> bool {
        match self {
            Self::Calm => false,
            Self::Latency(_) | Self::Loss => true,
            Self::ReplicasCut => node.ends_with("-replica1"),
            Self::PrimaryCut => node == "shard1-primary",
        }
    }

    fn fault(self) -> NodeFault {
        match self {
            Self::Latency(ms) => {
                NodeFault { delay: Duration::from_millis(ms), ..NodeFault::default() }
            }
            Self::ReplicasCut | Self::PrimaryCut => in_mode(NodeMode::Cut),
            Self::Calm | Self::Loss => NodeFault::default(),
        }
    }

    fn link(self) -> LinkState {
        match self {
            Self::Calm => LinkState::Open,
            Self::Latency(ms) => LinkState::Late(Duration::from_millis(ms)),
            Self::Loss => LinkState::Lossy(LOST_ONE_OF),
            Self::ReplicasCut | Self::PrimaryCut => LinkState::Cut,
        }
    }
}

/// Results of the requests under one condition.
struct Tried {
    condition: NetworkCondition,
    writes: Timings,
    reads: Timings,
    outcomes: Outcomes,
}

/// Number of writes by outcome, and of the writes with an unknown outcome that were found stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcomes {
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    unknown_stored: u64,
}

/// Carries out the experiment.
///
/// # Errors
/// [`LabError::Impossible`] before anything is created; otherwise the error of the step that
/// failed.
pub fn run(
    options: &NetworkOptions,
    servers: Option<&LinkedServers>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    check(options)?;
    let NetworkOptions { shards, replicas, operations, clients, .. } = *options;
    let (folder, cluster);
    let report = match servers {
        Some(servers) => {
            cluster = LabCluster::connected(&servers.cluster)?;
            report_of_servers((&servers.engine, &servers.notes), "network", options.seed)
        }
        None => {
            folder = WorkFolder::create(options.work_folder.as_deref())?;
            cluster = LabCluster::embedded(folder.join("network"), shards, replicas)?;
            report_of_files(&folder, "network", options.seed)?
        }
    };
    let trial = Trial { options, servers, users: cluster.table("users")?, cluster: &cluster };
    until_well(&cluster, observer)?;
    trial.store_users()?;
    let mut tried = Vec::new();
    for condition in trial.conditions() {
        observer.report(&condition.name());
        tried.push(trial.carry_out((tried.len(), condition), observer)?);
    }
    let latencies: Vec<String> = options.latencies_ms.iter().map(u64::to_string).collect();
    let mut report = report
        .set("shards", shards)
        .set("replicas", replicas)
        .set("operations", operations)
        .set("clients", clients)
        .set("latencies in ms", latencies.join(" "));
    if servers.is_none() {
        let note = "files are reached without a network: a node's work begins later instead, which delays writes and \
                    replicas and no reads, and nothing is lost on the way; --postgres has both";
        report.notes.push(note.to_owned());
    }
    report.tables.push(findings::table(&tried));
    report.charts.push(findings::chart(&tried));
    report.explanation = findings::explanation(&tried);
    Ok(report.ended(began.elapsed()))
}

/// Checks the settings before anything is created.
///
/// # Errors
/// [`LabError::Impossible`].
pub fn check(options: &NetworkOptions) -> Result<(), LabError> {
    let NetworkOptions { shards, replicas, latencies_ms, .. } = options;
    let line = if !(1..=Topology::SHARDS_MAX).contains(shards) {
        format!("there may be 1 to {} shards, not {shards}", Topology::SHARDS_MAX)
    } else if !(1..=Topology::REPLICAS_MAX).contains(replicas) {
        format!("there may be 1 to {} replicas, not {replicas}", Topology::REPLICAS_MAX)
    } else if latencies_ms.len() > LATENCIES_MAX {
        format!("there may be up to {LATENCIES_MAX} latencies, not {}", latencies_ms.len())
    } else if let Some(bad) = latencies_ms.iter().find(|ms| !(1..=LATENCY_MS_MAX).contains(*ms)) {
        format!("a latency is 1 to {LATENCY_MS_MAX} ms, not {bad}")
    } else {
        return Ok(());
    };
    Err(LabError::Impossible(line))
}

/// Experiment in progress: the cluster whose network is disturbed, and the settings.
struct Trial<'t> {
    options: &'t NetworkOptions,
    servers: Option<&'t LinkedServers>,
    cluster: &'t LabCluster,
    users: Arc<DataTable>,
}

impl Trial<'_> {
    fn conditions(&self) -> Vec<NetworkCondition> {
        let latencies = self.options.latencies_ms.iter();
        let latencies = latencies.map(|ms| NetworkCondition::Latency(*ms));
        let loss = self.servers.map(|_| NetworkCondition::Loss);
        let cuts = [NetworkCondition::ReplicasCut, NetworkCondition::PrimaryCut];
        [NetworkCondition::Calm].into_iter().chain(latencies).chain(loss).chain(cuts).collect()
    }

    /// Stores the users that the reads choose from.
    fn store_users(&self) -> Result<(), LabError> {
        for number in 0..READ_USERS {
            let id = format!("read_{number}");
            let placed = self.cluster.place(&self.users, Operation::Upsert, &id, new_user(&id));
            let placed = placed.map_err(LabError::failed)?;
            block_on(self.cluster.write(placed, &request_options())).map_err(failure)?;
        }
        Ok(())
    }

    fn carry_out(
        &self,
        (index, condition): (usize, NetworkCondition),
        observer: &dyn ExperimentObserver,
    ) -> Result<Tried, LabError> {
        let disturbed = disturb(
            (self.cluster, self.servers),
            |node| condition.is_about(node),
            (condition.fault(), condition.link()),
        )?;
        let (clients, requests) = (self.options.clients.into(), self.options.operations);
        let amount = Amount { clients, requests, at_most: AT_MOST };
        let written = Mutex::new(Vec::new());
        let writes = send(amount, observer, async |number| {
            let id = format!("write_{index}_{number}");
            let done = self.write(&id).await;
            let outcome = done.as_ref().err().map(|(outcome, _)| *outcome);
            written.lock().unwrap_or_else(PoisonError::into_inner).push((id, outcome));
            done.map_err(|(_, cause)| cause)
        });
        let reads = send(amount, observer, async |number| {
            let id = format!("read_{}", number % READ_USERS);
            let read = self.cluster.read(ReadQuery::all(&self.users), Some(&id), &asked()).await;
            read.map(drop).map_err(|failure| failure.error.to_string())
        });
        drop(disturbed);
        observer.check_cancelled()?;
        until_well(self.cluster, observer)?;
        let written = written.into_inner().unwrap_or_else(PoisonError::into_inner);
        let outcomes = self.look_for(&written, observer)?;
        Ok(Tried { condition, writes, reads, outcomes })
    }

    /// Writes a user. The error of a write that failed contains its outcome and the reason.
    async fn write(&self, id: &str) -> Result<(), (Outcome, String)> {
        let placed = self.cluster.place(&self.users, Operation::Insert, id, new_user(id));
        let placed = placed.map_err(|error| (Outcome::Rejected, error.to_string()))?;
        let written = self.cluster.write(placed, &asked()).await;
        written.map(drop).map_err(|failure| (failure.outcome, failure.error.to_string()))
    }

    /// Reads every written user after the network has been restored, and counts the writes by
    /// outcome.
    fn look_for(
        &self,
        written: &[(String, Option<Outcome>)],
        observer: &dyn ExperimentObserver,
    ) -> Result<Outcomes, LabError> {
        let mut outcomes = Outcomes::default();
        for (id, outcome) in written {
            observer.check_cancelled()?;
            let asked = RequestOptions { level: Level::All, ..request_options() };
            let read = self.cluster.read(ReadQuery::all(&self.users), Some(id), &asked);
            let is_stored = block_on(read).map_err(failure)?.rows.len() == 1;
            match outcome {
                None | Some(Outcome::Committed) if !is_stored => {
                    return Err(LabError::Failed(format!(
                        "the acknowledged write of {id} was lost"
                    )));
                }
                None | Some(Outcome::Committed) => outcomes.acknowledged += 1,
                Some(Outcome::Rejected) if is_stored => {
                    return Err(LabError::Failed(format!("a refused write of {id} was stored")));
                }
                Some(Outcome::Rejected) => outcomes.refused += 1,
                Some(Outcome::Unknown) => {
                    outcomes.unknown += 1;
                    outcomes.unknown_stored += u64::from(is_stored);
                }
            }
        }
        Ok(outcomes)
    }
}

/// Returns the options of a request that must end within `WAIT_MAX`.
fn asked() -> RequestOptions {
    RequestOptions::by(Instant::now() + WAIT_MAX)
}
