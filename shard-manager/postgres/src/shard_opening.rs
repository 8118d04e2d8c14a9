//! Shard opening: the steps by which one shard is opened, when a router starts and when a shard
//! joins later.
//!
//! **Invariant:** the readers and writers of a shard start after its database was claimed, migrated
//! and compared with its declarations.
//! **Not here:** the nodes of a shard (`discovery`), the shards of a cluster (`open`), the tables
//! that all shards have (`engine::schema_agreement`).

use std::sync::Arc;

use engine::index_builder::IndexBuilder;
use engine::open_error::OpenError;
use engine::replication::ReplicationState;
use engine::runtime_pool::RuntimePool;
use engine::slot_move::ShardMoves;
use engine::{
    LaneControls, OpenedReplica, OpenedShard, SchemaChange, WRITERS_MAX, WritePartitioner,
    WriterKind,
};
use model::position::TimelineHistory;

use super::citus::{Citus, setup};
use super::citus_watch;
use super::discovery::Members;
use super::hazards::Hazards;
use super::node::Node;
use super::node_address::{NodeAddress, ServerEngine, Timeouts};
use super::primary_tracker::PrimaryTracker;
use super::readers::Readers;
use super::replica::Replica;
use super::session::Session;
use super::shard_database::{Claim, Found, ShardDatabase};
use super::shard_indexes::PgIndexes;
use super::slot_moves::PgMoves;
use super::target::Target;
use super::timeline_file;
use super::writer::PgWriter;

/// Shard whose database was claimed, and in which some tables may be missing.
pub(super) struct ClaimedShard {
    /// The primary first.
    members: Vec<Node>,
    database: ShardDatabase,
    history: TimelineHistory,
    citus: Option<Arc<Citus>>,
}

/// Shard whose database was checked and prepared.
pub(super) struct PreparedShard {
    /// The primary first.
    members: Vec<Node>,
    position: u64,
    history: TimelineHistory,
    citus: Option<Arc<Citus>>,
    hazards: Hazards,
}

/// Shard whose readers and watchers run, with the parts that only this engine knows.
pub(super) struct ServerShard {
    pub(super) opened: OpenedShard,
    pub(super) leader: Arc<PrimaryTracker>,
    pub(super) replicas: Vec<Arc<Replica>>,
}

/// Checks that a server runs the engine that the operator has specified.
///
/// # Errors
/// [`OpenError`] with the difference.
pub(super) async fn check_engine(
    session: &Session,
    name: &str,
    engine: ServerEngine,
) -> Result<(), OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError::node(&format!("{name}-primary"), error);
    let mismatch = setup::mismatch(&session.connection, engine).await;
    match mismatch.map_err(|error| failed(&error))? {
        Some(cause) => Err(failed(&cause)),
        None => Ok(()),
    }
}

impl ClaimedShard {
    /// Migrates the database of a shard and claims it if it is new, and returns its tables.
    ///
    /// # Errors
    /// Errors of [`ShardDatabase::prepare`].
    pub(super) async fn claim(
        Members { session, nodes: members }: Members,
        claim: &Claim<'_>,
        engine: ServerEngine,
    ) -> Result<(Self, Found), OpenError> {
        let history = timeline_file::history(&session.connection, &session.identity).await;
        let citus = (engine == ServerEngine::Citus).then(Arc::<Citus>::default);
        let (name, connection) = (members[0].name.clone(), session.connection);
        let database = ShardDatabase::on(name, connection, session.identity, citus.clone());
        let (database, found) = database.prepare(claim).await?;
        Ok((Self { members, database, history, citus }, found))
    }

    /// Carries out changes of the tables that were begun, or that the shard lacks.
    ///
    /// # Errors
    /// [`OpenError`] if a change fails.
    pub(super) async fn settle(
        mut self,
        changes: &[SchemaChange],
    ) -> Result<PreparedShard, OpenError> {
        let failed = |error| OpenError::node(&self.members[0].name, error);
        self.database.settle(changes).await?;
        let position = self.database.position().await.map_err(failed)?;
        let hazards = self.database.hazards().await.map_err(failed)?;
        let Self { members, history, citus, .. } = self;
        Ok(PreparedShard { members, position, history, citus, hazards })
    }
}

impl PreparedShard {
    /// Returns the address of all nodes, without user and password.
    pub(super) fn location(&self) -> String {
        let nodes = self.members.iter();
        let hosts = nodes.flat_map(|node| node.address.hosts.iter().cloned()).collect();
        NodeAddress { hosts, ..self.members[0].address.clone() }.location()
    }

    /// Starts the readers and the watchers of the shard, on the current runtime. `disk_bytes` is
    /// the size to which its database may grow, if it is known.
    pub(super) fn start(
        self,
        name: &str,
        disk_bytes: Option<u64>,
        runtimes: &RuntimePool,
    ) -> ServerShard {
        let Self { members, position, history, citus, hazards } = self;
        let (identity, timeouts) = (members[0].identity.clone(), members[0].timeouts);
        let replication = ReplicationState::new(history, position, members.len());
        let replication = Arc::new(replication.with_shared_writers());
        replication.primary().record_schema_change(position);
        let leader = PrimaryTracker::new(members, &identity, Some(&replication), citus);
        leader.hazards().set(hazards);
        let writers = writers((name, &leader), timeouts, &replication, runtimes);
        if leader.citus().is_some() {
            tokio::spawn(citus_watch::watch(Arc::clone(&leader)));
        }
        let target = Target::Primary(Arc::clone(&leader));
        let readers = Readers::start(&target, name, &replication, runtimes);
        let primary = Arc::new(readers.with_disk_bytes(disk_bytes));
        let moves = leader.citus().is_none().then(|| {
            let moves = PgMoves::start(name, &leader, &replication);
            ShardMoves { reader: Arc::clone(&moves) as _, writer: Some(moves) }
        });
        let indexes = leader
            .citus()
            .is_none()
            .then(|| Arc::new(PgIndexes::new(name, &leader)) as Arc<dyn IndexBuilder>);
        let replicas: Vec<Arc<Replica>> = (0..leader.members().len())
            .map(|index| Replica::start(&leader, (index, &replication), (name, runtimes)))
            .collect();
        let node = |replica: &Arc<Replica>| OpenedReplica {
            node: Arc::clone(replica) as _,
            findings: Arc::default(),
        };
        let opened = OpenedShard {
            name: name.to_owned(),
            replication,
            writers,
            partitioner: leader.citus().map(|citus| Arc::clone(citus) as Arc<dyn WritePartitioner>),
            controls: LaneControls::default(),
            primary,
            findings: Arc::default(),
            copy_faults: Arc::default(),
            slot_news: Arc::clone(&leader.slot_news),
            moves,
            indexes,
            replicas: replicas.iter().map(node).collect(),
        };
        ServerShard { opened, leader, replicas }
    }
}

/// Returns the writers of a shard: one, or one for each group of workers of Citus.
fn writers(
    (name, leader): (&str, &Arc<PrimaryTracker>),
    timeouts: Timeouts,
    replication: &Arc<ReplicationState>,
    runtimes: &RuntimePool,
) -> Vec<WriterKind> {
    let groups = leader.citus().map_or(1, |citus| citus.parts().groups().len());
    let writers = (0..groups.clamp(1, WRITERS_MAX)).map(|_| {
        let writer = PgWriter::new(name, leader, timeouts, replication);
        WriterKind::Task(Box::new(writer), runtimes.handle())
    });
    writers.collect()
}
