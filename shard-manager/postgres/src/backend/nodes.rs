//! Nodes: carries out commands for the nodes of a Citus cluster, with Citus' own functions.
//!
//! Steps that belong together are one transaction on the coordinator: a drain marks its node and
//! schedules the moves, or does neither. Citus carries the moves out in the background, so they
//! continue without a router, and each report is read from Citus.
//!
//! **Invariant:** nothing begins before all requirements are met; no client receives a message of
//! Citus.
//! **Not here:** the needs, the plans and the views (`citus`).

use std::sync::Arc;
use std::time::Instant;

use diesel_async::AsyncPgConnection;
use engine::new_shard::NewShard;
use engine::node_distributor::{
    DistributorError, DistributorFuture, MemberState, NodeChanged, NodeDistributor,
};
use engine::rebalance_catalog::RebalanceListError;
use engine::rebalance_draft::RebalanceDraft;
use engine::rebalance_record::{RebalanceOrder, RebalanceOrderFault, RebalanceState};
use engine::rebalance_view::{PlanView, RebalanceBegun, RebalanceView};
use model::error::{Error, Outcome};
use model::value::{ColumnType, Value};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::node_failures::{after_commit, failed, internal, unknown};
use crate::citus::jobs::Jobs;
use crate::citus::joining::{JoinCheck, JoiningNode};
use crate::citus::members::{Member, Members, MovableParts};
use crate::citus::needs;
use crate::citus::plans::{self, CitusGoal, CitusPlan, PartMove};
use crate::primary_tracker::PrimaryTracker;
use crate::statement::{Bind, Statement, load, run};

/// Maximum number of sessions with the coordinator for changes.
const CHANGES_MAX: usize = 2;
/// Maximum number of sessions with the coordinator for plans and lists.
const READS_MAX: usize = 2;
/// Name of these sessions.
const PURPOSE: &str = "nodes";

/// Begins a transaction. The wait for locks is short, because a cancelled move releases its locks
/// at once; the statement timeout is long, because it takes long to create the tables on a new
/// node.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '10min'";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// Sets whether a node receives rows.
const SET_GETS_ROWS: &str = "SELECT citus_set_node_property($1, $2, 'shouldhaveshards', $3)";
/// Schedules the moves of a rebalance, and returns the number of its job.
const START: &str =
    "SELECT citus_rebalance_start(drain_only => $1, rebalance_strategy => $2::text::name)";
/// Ends this job only, in the same way as `citus_rebalance_stop`.
const STOP: &str = "SELECT citus_job_cancel($1)";
/// Adds a node, and returns its number. The row of the node is visible only to the next statement.
const ADD: &str = "SELECT citus_add_node($1, $2)::bigint";
const REMOVE: &str = "SELECT citus_remove_node($1, $2)";

/// Control of the nodes of a Citus cluster.
pub(super) struct CitusNodes {
    client: Arc<CoordinatorClient>,
    /// Permits for changes, each of which uses a session with the coordinator.
    changes: Arc<Semaphore>,
    /// Permits for plans and lists, each of which uses a session with the coordinator.
    reads: Semaphore,
    /// Runtime of changes, which continue if a request is dropped.
    runtime: Handle,
}

/// Carries out requests by sessions with the coordinator.
struct CoordinatorClient {
    coordinator: Arc<PrimaryTracker>,
}

impl CitusNodes {
    /// Creates the distributor on this runtime.
    pub(super) fn new(coordinator: Arc<PrimaryTracker>, runtime: Handle) -> Self {
        let changes = Arc::new(Semaphore::new(CHANGES_MAX));
        let reads = Semaphore::new(READS_MAX);
        Self { client: Arc::new(CoordinatorClient { coordinator }), changes, reads, runtime }
    }

    /// Waits for a change until the deadline; a change in progress continues after it. A change
    /// that has not begun by then, because other changes take long, never begins.
    async fn changed<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, DistributorError>> + Send + 'static,
        deadline: Instant,
    ) -> Result<T, DistributorError> {
        let place = Arc::clone(&self.changes).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout_at(deadline.into(), place).await else {
            let (error, outcome) = (Error::DeadlinePassed, Outcome::Rejected);
            return Err(DistributorError::Failed { error, outcome });
        };
        let change = async move {
            let _place = place;
            change.await
        };
        let unknown = |error| Err(DistributorError::Failed { error, outcome: Outcome::Unknown });
        match tokio::time::timeout_at(deadline.into(), self.runtime.spawn(change)).await {
            Ok(Ok(changed)) => changed,
            Ok(Err(_ended)) => unknown(Error::Internal),
            Err(_elapsed) => unknown(Error::DeadlinePassed),
        }
    }
    /// Waits for a read, which is cancelled at the deadline.
    async fn read_with_deadline<T>(
        &self,
        look: impl Future<Output = Result<T, DistributorError>>,
        deadline: Instant,
    ) -> Result<T, DistributorError> {
        let failed = |error| DistributorError::Failed { error, outcome: Outcome::Rejected };
        let look = async {
            let _place = self.reads.acquire().await.map_err(|_closed| internal())?;
            look.await
        };
        match tokio::time::timeout_at(deadline.into(), look).await {
            Ok(Err(DistributorError::Failed { error, .. })) => Err(failed(error)),
            Ok(seen) => seen,
            Err(_elapsed) => Err(failed(Error::DeadlinePassed)),
        }
    }
}

impl NodeDistributor for CitusNodes {
    fn plan_rebalance<'a>(
        &'a self,
        draft: &'a RebalanceDraft,
        deadline: Instant,
    ) -> DistributorFuture<'a, PlanView> {
        Box::pin(self.read_with_deadline(self.client.plan(draft), deadline))
    }

    fn begin_rebalance<'a>(
        &'a self,
        draft: &'a RebalanceDraft,
        deadline: Instant,
    ) -> DistributorFuture<'a, RebalanceBegun> {
        let (client, draft) = (Arc::clone(&self.client), draft.clone());
        Box::pin(self.changed(async move { client.begin(&draft).await }, deadline))
    }

    fn rebalances(&self, deadline: Instant) -> DistributorFuture<'_, Vec<RebalanceView>> {
        Box::pin(self.read_with_deadline(self.client.list(), deadline))
    }

    fn order_rebalance<'a>(
        &'a self,
        id: &'a str,
        order: RebalanceOrder,
        deadline: Instant,
    ) -> DistributorFuture<'a, RebalanceView> {
        let (client, id) = (Arc::clone(&self.client), id.to_owned());
        Box::pin(self.changed(async move { client.order(&id, order).await }, deadline))
    }

    fn add_node<'a>(
        &'a self,
        node: &'a NewShard,
        deadline: Instant,
    ) -> DistributorFuture<'a, NodeChanged> {
        let (client, node) = (Arc::clone(&self.client), node.clone());
        Box::pin(self.changed(async move { client.add(&node).await }, deadline))
    }

    fn remove_node<'a>(
        &'a self,
        name: &'a str,
        deadline: Instant,
    ) -> DistributorFuture<'a, NodeChanged> {
        let (client, name) = (Arc::clone(&self.client), name.to_owned());
        Box::pin(self.changed(async move { client.remove(&name).await }, deadline))
    }
}

impl CoordinatorClient {
    /// Works on a session with the coordinator.
    async fn with_session<T>(
        &self,
        work: impl AsyncFnOnce(&AsyncPgConnection) -> Result<T, DistributorError>,
    ) -> Result<T, DistributorError> {
        let opened = self.coordinator.connect(PURPOSE).await.map_err(|error| {
            tracing::warn!(%error, "the coordinator cannot be reached");
            let shard = self.coordinator.name().to_owned();
            let error = Error::ShardUnavailable { shard };
            DistributorError::Failed { error, outcome: Outcome::Rejected }
        })?;
        work(&opened.session.connection).await
    }

    async fn plan(&self, draft: &RebalanceDraft) -> Result<PlanView, DistributorError> {
        let goal = CitusGoal::of(draft)?;
        self.with_session(async |connection| {
            let state = ClusterState::read(connection, &goal).await?;
            let runs = state.runs.map(|id| RebalanceListError::AlreadyRunning(id).to_string());
            let refusals = runs.into_iter().chain(state.unmet).collect();
            run(connection, BEGIN).await.map_err(failed)?;
            let (members, parts, moves) = choose(connection, &goal, &state.members).await?;
            run(connection, ROLLBACK).await.map_err(failed)?;
            let plan = CitusPlan { goal: &goal, members: &members, parts: &parts, moves: &moves };
            Ok(plan.view(refusals))
        })
        .await
    }

    async fn begin(&self, draft: &RebalanceDraft) -> Result<RebalanceBegun, DistributorError> {
        let goal = CitusGoal::of(draft)?;
        self.with_session(async |connection| {
            let state = ClusterState::read(connection, &goal).await?;
            if let Some(id) = state.runs {
                return Err(RebalanceListError::AlreadyRunning(id).into());
            }
            if let Some(need) = state.unmet.into_iter().next() {
                return Err(DistributorError::Need(need));
            }
            run(connection, BEGIN).await.map_err(failed)?;
            let (members, parts, moves) = choose(connection, &goal, &state.members).await?;
            let statement = Statement { sql: START, binds: &goal.binds(), cached: false };
            let job = if moves.is_empty() {
                None
            } else {
                let rows = load(connection, statement).await.map_err(failed)?;
                rows.first().and_then(|row| row.bigint(0))
            };
            run(connection, COMMIT).await.map_err(unknown)?;
            let Some(job) = job else {
                let plan = CitusPlan { goal: &goal, members: &members, parts: &parts, moves: &[] };
                let note = settled_note(&goal);
                let view = PlanView { note, ..plan.view(Vec::new()) };
                return Ok(RebalanceBegun::Settled(Box::new(view)));
            };
            tracing::info!(job, ?goal, "a rebalance of Citus has begun");
            let view = shown(connection, &job.to_string()).await.map_err(after_commit)?;
            Ok(RebalanceBegun::Begun(Box::new(view)))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<RebalanceView>, DistributorError> {
        self.with_session(async |connection| {
            let members = Members::read(connection).await.map_err(failed)?;
            Ok(Jobs::read(connection).await.map_err(failed)?.views(&members))
        })
        .await
    }

    async fn order(
        &self,
        id: &str,
        order: RebalanceOrder,
    ) -> Result<RebalanceView, DistributorError> {
        self.with_session(async |connection| {
            let members = Members::read(connection).await.map_err(failed)?;
            let jobs = Jobs::read(connection).await.map_err(failed)?;
            let mut views = jobs.views(&members).into_iter();
            let view = views.find(|view| view.id == id).ok_or(RebalanceListError::NoRebalance)?;
            let job = check_order(&view, order, jobs.session_of(id))?;
            run(connection, BEGIN).await.map_err(failed)?;
            let binds = [Bind::bigint(job)];
            let stop = Statement { sql: STOP, binds: &binds, cached: false };
            load(connection, stop).await.map_err(failed)?;
            if let Some(drained) = jobs.drained(id, &members) {
                set_gets_rows(connection, drained, true).await?;
            }
            run(connection, COMMIT).await.map_err(unknown)?;
            tracing::info!(job, "a rebalance of Citus was cancelled");
            shown(connection, id).await.map_err(after_commit)
        })
        .await
    }

    async fn add(&self, node: &NewShard) -> Result<NodeChanged, DistributorError> {
        let node = JoiningNode::read(node)?;
        self.with_session(async |connection| {
            let members = Members::read(connection).await.map_err(failed)?;
            if node.is_listed(&members)? {
                let listed = members.find(&crate::citus::members::name_of(node.group));
                return described(connection, listed, false).await;
            }
            JoinCheck::read(connection, &node).await.map_err(failed)?.judge(&node)?;
            run(connection, BEGIN).await.map_err(failed)?;
            let binds = [Bind::text(&node.host.host), Bind::integer(node.host.port.into())];
            let add = Statement { sql: ADD, binds: &binds, cached: false };
            let rows = load(connection, add).await.map_err(failed)?;
            let id = rows.first().and_then(|row| row.bigint(0)).ok_or_else(internal)?;
            let members = Members::read(connection).await.map_err(failed)?;
            let added = members.numbered(id);
            if added.is_none_or(|added| added.group != node.group) {
                run(connection, ROLLBACK).await.map_err(failed)?;
                let cause = "another node was added meanwhile: use the next number";
                return Err(DistributorError::NodeState(cause.to_owned()));
            }
            run(connection, COMMIT).await.map_err(unknown)?;
            tracing::info!(group = node.group, "a node was added to Citus");
            described(connection, added, true).await.map_err(after_commit)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<NodeChanged, DistributorError> {
        self.with_session(async |connection| {
            let members = Members::read(connection).await.map_err(failed)?;
            let member = members.find(name);
            let member = member.ok_or_else(|| DistributorError::NoNode(name.to_owned()))?;
            let parts = MovableParts::read(connection).await.map_err(failed)?.count(member.group);
            check_removal(member, parts)?;
            load(connection, Statement { sql: REMOVE, binds: &place(member), cached: false })
                .await
                .map_err(failed)?;
            tracing::info!(node = name, "a node was removed from Citus");
            let number = u32::try_from(member.group).unwrap_or(u32::MAX);
            let (name, state) = (name.to_owned(), MemberState::Retired);
            Ok(NodeChanged { name, number, state, parts: 0, is_new: true })
        })
        .await
    }
}

/// State of the cluster before a rebalance is planned.
struct ClusterState {
    members: Members,
    /// Identity of the rebalance in progress.
    runs: Option<String>,
    /// Unmet requirements.
    unmet: Vec<String>,
}

impl ClusterState {
    async fn read(
        connection: &AsyncPgConnection,
        goal: &CitusGoal,
    ) -> Result<Self, DistributorError> {
        let members = Members::read(connection).await.map_err(failed)?;
        check_goal(goal, &members)?;
        let runs = Jobs::read(connection).await.map_err(failed)?.running();
        let unmet = needs::unmet(connection, &members).await.map_err(failed)?;
        Ok(Self { members, runs, unmet })
    }
}

/// Lets Citus choose the moves, in the open transaction. In that transaction, a node that is to be
/// drained already receives no more rows.
async fn choose(
    connection: &AsyncPgConnection,
    goal: &CitusGoal,
    members: &Members,
) -> Result<(Members, MovableParts, Vec<PartMove>), DistributorError> {
    let drained = match goal {
        CitusGoal::Drain(name) => members.find(name),
        CitusGoal::Parts | CitusGoal::Bytes => None,
    };
    if let Some(drained) = drained.filter(|member| member.gets_rows) {
        set_gets_rows(connection, drained, false).await?;
    }
    let members = drained.map_or_else(|| members.clone(), |member| members.draining(member.group));
    let parts = MovableParts::read(connection).await.map_err(failed)?;
    let moves = plans::moves(connection, goal).await.map_err(failed)?;
    Ok((members, parts, moves))
}

/// Checks that the node of a drain exists, and that another one is left.
fn check_goal(goal: &CitusGoal, members: &Members) -> Result<(), DistributorError> {
    let CitusGoal::Drain(name) = goal else { return Ok(()) };
    let drained = members.find(name).ok_or_else(|| DistributorError::NoNode(name.clone()))?;
    let takes = |member: &&Member| member.gets_rows && member.is_active && *member != drained;
    if members.iter().find(takes).is_none() {
        let cause = format!("no node except {name} receives rows: add one first");
        return Err(DistributorError::NodeState(cause));
    }
    Ok(())
}

/// Checks that a rebalance accepts a command, and returns its job.
fn check_order(
    view: &RebalanceView,
    order: RebalanceOrder,
    session: Option<i64>,
) -> Result<i64, DistributorError> {
    if order != RebalanceOrder::Cancel {
        let order = order.name();
        return Err(DistributorError::NoSuchOrder(format!(
            "Citus cannot {order} a rebalance: cancel it, and begin another one later"
        )));
    }
    if let Some(process) = session {
        return Err(DistributorError::NoSuchOrder(format!(
            "a session of the coordinator carries this rebalance out itself: SELECT \
             pg_cancel_backend({process}) there ends it"
        )));
    }
    let state = RebalanceState::parse(&view.state).unwrap_or(RebalanceState::Running);
    if state.has_ended() {
        return Err(RebalanceListError::Order(RebalanceOrderFault::Ended(state)).into());
    }
    view.id.parse().map_err(|_| RebalanceListError::NoRebalance.into())
}

/// Checks that a node with this number of parts may be removed.
fn check_removal(member: &Member, parts: usize) -> Result<(), DistributorError> {
    let name = member.name();
    let cause = if member.coordinates() {
        format!("{name} coordinates the cluster and cannot be removed")
    } else if parts > 0 {
        format!("{name} has {parts} of Citus' shards: drain it first")
    } else {
        return Ok(());
    };
    Err(DistributorError::NodeState(cause))
}

fn settled_note(goal: &CitusGoal) -> Option<String> {
    let CitusGoal::Drain(name) = goal else { return None };
    Some(format!("{name} receives no more rows and has none: it can be removed"))
}

async fn set_gets_rows(
    connection: &AsyncPgConnection,
    member: &Member,
    gets_rows: bool,
) -> Result<(), DistributorError> {
    let [host, port] = place(member);
    let binds = [host, port, Bind::value(ColumnType::Boolean, &Value::Bool(gets_rows))];
    let set = Statement { sql: SET_GETS_ROWS, binds: &binds, cached: false };
    load(connection, set).await.map(drop).map_err(failed)
}

fn place(member: &Member) -> [Bind; 2] {
    let port = i32::try_from(member.port).unwrap_or(0);
    [Bind::text(&member.host), Bind::integer(port)]
}

/// Returns a rebalance as Citus reports it now.
async fn shown(
    connection: &AsyncPgConnection,
    id: &str,
) -> Result<RebalanceView, DistributorError> {
    let members = Members::read(connection).await.map_err(failed)?;
    let views = Jobs::read(connection).await.map_err(failed)?.views(&members);
    let found = views.into_iter().find(|view| view.id == id);
    found.ok_or_else(|| RebalanceListError::NoRebalance.into())
}

async fn described(
    connection: &AsyncPgConnection,
    member: Option<&Member>,
    is_new: bool,
) -> Result<NodeChanged, DistributorError> {
    let member = member.ok_or_else(internal)?;
    let parts = MovableParts::read(connection).await.map_err(failed)?.count(member.group);
    let number = u32::try_from(member.group).unwrap_or(u32::MAX);
    Ok(NodeChanged { name: member.name(), number, state: member.state(), parts, is_new })
}
