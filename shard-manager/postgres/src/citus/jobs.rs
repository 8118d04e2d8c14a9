//! Jobs: the rebalances that Citus carries out in the background, and those that sessions carry out
//! themselves, as views.
//!
//! Citus stores the moves of a job and their states. It does not store the requested strategy, nor
//! the shards that the nodes had before.
//!
//! **Invariant:** a view shows what Citus reports at that moment; no message of a server is shown.
//! **Not here:** beginning and ending a job (`backend::nodes`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::rebalance_catalog::ENDED_MAX;
use engine::rebalance_record::{RebalanceOrder, RebalanceState, StepState};
use engine::rebalance_view::{GoalView, PlannedMoveView, RebalanceView, StepView};

use super::members::{Member, Members};
use crate::statement::{Bind, RowView, Statement, load};

/// Reads the last jobs, the latest first.
const JOBS: &str = r#"SELECT job_id, state::text,
        to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    FROM pg_dist_background_job WHERE job_type = 'rebalance' ORDER BY job_id DESC LIMIT $1"#;

/// Reads the tasks of the jobs from this one on.
const TASKS: &str = "SELECT t.job_id, t.task_id, t.status::text, t.command, coalesce(t.retry_count, 0)::bigint, t.pid::bigint
    FROM pg_dist_background_task AS t JOIN pg_dist_background_job AS j USING (job_id)
    WHERE j.job_type = 'rebalance' AND t.job_id >= $1 ORDER BY t.task_id";

/// Reads the moves in progress in this database, with the sessions that carry them out. Citus
/// reports those of all databases of the server.
const PROGRESS: &str = "SELECT sessionid::bigint, shardid, sourcename, sourceport::bigint, targetname, targetport::bigint,
        progress, target_shard_size
    FROM get_rebalance_progress() AS p
    WHERE EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = p.sessionid AND a.datname = current_database())
    ORDER BY sessionid, shardid";

/// Value of `by`: Citus does not store the goal.
const BY_ENGINE: &str = "engine";
/// First part of the identity of a rebalance that a session carries out itself.
const SESSION: &str = "session-";
/// Values of `progress` of a move that has not begun, and of one in progress.
const WAITING: i64 = 0;
const MOVING: i64 = 1;

/// Job of Citus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) id: i64,
    pub(crate) state: String,
    pub(crate) began_at: Option<String>,
    pub(crate) ended_at: Option<String>,
}

/// Task of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    job: i64,
    id: i64,
    status: String,
    command: String,
    retries: i64,
    /// Process that carries it out.
    process: i64,
}

/// Move of one shard that is in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardProgress {
    /// Process that carries it out.
    process: i64,
    shard: i64,
    from: (String, i64),
    to: (String, i64),
    progress: i64,
    copied: Option<u64>,
}

/// Report of Citus about its rebalances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Jobs {
    jobs: Vec<Job>,
    tasks: Vec<Task>,
    progress: Vec<ShardProgress>,
}

impl Jobs {
    /// Reads the jobs from the coordinator.
    ///
    /// # Errors
    /// The error of a query. Progress that the workers do not report is left out.
    pub(crate) async fn read(connection: &AsyncPgConnection) -> QueryResult<Self> {
        let binds = [Bind::bigint(ENDED_MAX as i64 + 1)];
        let rows = load(connection, Statement { sql: JOBS, binds: &binds, cached: false }).await?;
        let job = |row: &RowView| {
            let (began_at, ended_at) = (row.text(2), row.text(3));
            Some(Job { id: row.bigint(0)?, state: row.text(1)?, began_at, ended_at })
        };
        let jobs: Vec<Job> = rows.iter().filter_map(job).collect();
        let binds = [Bind::bigint(jobs.last().map_or(i64::MAX, |job| job.id))];
        let rows = load(connection, Statement { sql: TASKS, binds: &binds, cached: false }).await?;
        let task = |row: &RowView| {
            Some(Task {
                job: row.bigint(0)?,
                id: row.bigint(1)?,
                status: row.text(2)?,
                command: row.text(3)?,
                retries: row.bigint(4)?,
                process: row.bigint(5).unwrap_or(0),
            })
        };
        let tasks = rows.iter().filter_map(task).collect();
        Ok(Self { jobs, tasks, progress: read_progress(connection).await })
    }

    /// Returns the identity of a rebalance in progress.
    pub(crate) fn running(&self) -> Option<String> {
        let mut jobs = self.jobs.iter();
        let open = jobs.find(|job| !state_of(&job.state).has_ended()).map(|job| job.id.to_string());
        let session = || self.sessions().into_keys().next().map(session_name);
        open.or_else(session)
    }

    /// Returns the process of the session that carries this rebalance out itself.
    pub(crate) fn session_of(&self, id: &str) -> Option<i64> {
        self.sessions().into_keys().find(|process| session_name(*process) == id)
    }

    /// Returns the node that this rebalance empties, if it empties just one.
    pub(crate) fn drained<'m>(&self, id: &str, members: &'m Members) -> Option<&'m Member> {
        let job = self.jobs.iter().find(|job| job.id.to_string() == id)?;
        drained(self.moves_of(job.id), members)
    }

    /// Returns the views, the latest first.
    pub(crate) fn views(&self, members: &Members) -> Vec<RebalanceView> {
        let sessions = self.sessions().into_iter();
        let sessions = sessions.map(|(process, moves)| session_view(process, &moves, members));
        sessions.chain(self.jobs.iter().map(|job| self.view(job, members))).collect()
    }

    /// Returns the moves that no task carries out, by the process of their session.
    fn sessions(&self) -> BTreeMap<i64, Vec<&ShardProgress>> {
        let mut sessions = BTreeMap::<i64, Vec<&ShardProgress>>::new();
        let is_task = |process| self.tasks.iter().any(|task| task.process == process);
        for moved in self.progress.iter().filter(|moved| !is_task(moved.process)) {
            sessions.entry(moved.process).or_default().push(moved);
        }
        sessions
    }

    fn tasks_of(&self, job: i64) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(move |task| task.job == job)
    }

    fn moves_of(&self, job: i64) -> impl Iterator<Item = TaskMove> {
        self.tasks_of(job).filter_map(|task| TaskMove::parse(&task.command))
    }

    fn view(&self, job: &Job, members: &Members) -> RebalanceView {
        let state = state_of(&job.state);
        let steps = self.tasks_of(job.id).filter_map(|task| {
            let moved = TaskMove::parse(&task.command)?;
            Some(self.step(task, &moved, members))
        });
        let shard = drained(self.moves_of(job.id), members).map(Member::name);
        let by = if shard.is_some() { "drain" } else { BY_ENGINE };
        let can_end = matches!(state, RebalanceState::Running);
        let actions = can_end.then(|| RebalanceOrder::Cancel.name().to_owned());
        let is_retried = self.tasks_of(job.id).any(|task| task.is_repeated());
        RebalanceView {
            goal: GoalView { by: by.to_owned(), placement: None, shard, group: None },
            state: state.name().to_owned(),
            stalled: is_retried && !state.has_ended(),
            reason: self.tasks_of(job.id).find_map(Task::trouble),
            began_at: job.began_at.clone(),
            ended_at: job.ended_at.clone(),
            actions: actions.into_iter().collect(),
            ..with_counts(job.id.to_string(), steps.collect())
        }
    }

    fn step(&self, task: &Task, moved: &TaskMove, members: &Members) -> StepView {
        let name = |id| {
            members
                .numbered(id)
                .map_or_else(|| format!("node {id}, which was removed"), Member::name)
        };
        let state = step_state(&task.status);
        let copied =
            self.progress.iter().filter(|of| of.process == task.process && task.process > 0);
        let copied =
            (state == StepState::Moving).then(|| copied.map(|of| of.copied).sum()).flatten();
        StepView {
            planned: planned(moved.shard, name(moved.from), name(moved.to)),
            state: state.name().to_owned(),
            move_id: None,
            copied_rows: None,
            copied_bytes: copied,
            reason: task.trouble(),
        }
    }
}

async fn read_progress(connection: &AsyncPgConnection) -> Vec<ShardProgress> {
    let statement = Statement { sql: PROGRESS, binds: &[], cached: false };
    let rows = match load(connection, statement).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(%error, "Citus does not report the progress of its moves");
            return Vec::new();
        }
    };
    let moved = |row: &RowView| {
        Some(ShardProgress {
            process: row.bigint(0)?,
            shard: row.bigint(1)?,
            from: (row.text(2)?, row.bigint(3)?),
            to: (row.text(4)?, row.bigint(5)?),
            progress: row.bigint(6)?,
            copied: row.bigint(7).and_then(|bytes| u64::try_from(bytes).ok()),
        })
    };
    rows.iter().filter_map(moved).collect()
}

impl Task {
    /// Returns true if it failed and is being retried.
    fn is_repeated(&self) -> bool {
        self.retries > 0 && !step_state(&self.status).has_ended()
    }

    /// Returns a sentence about its failure that says where the message of the server is.
    fn trouble(&self) -> Option<String> {
        let has_failed = step_state(&self.status) == StepState::Failed;
        let what = match (has_failed, self.is_repeated()) {
            (true, _) => "has failed".to_owned(),
            (false, true) => format!("has failed {} times and is being retried", self.retries),
            (false, false) => return None,
        };
        let id = self.id;
        Some(format!(
            "a task of Citus {what}: SELECT message FROM pg_dist_background_task WHERE task_id = {id} \
             on the coordinator shows the reason"
        ))
    }
}

/// Move that a task carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskMove {
    shard: i64,
    /// Number of the source node.
    from: i64,
    /// Number of the target node.
    to: i64,
}

impl TaskMove {
    /// Reads the command of a task; `None` if it moves nothing, such as a copy of a reference
    /// table.
    fn parse(command: &str) -> Option<Self> {
        let (_, list) = command.split_once("citus_move_shard_placement(")?;
        let mut words = list.split(',').map(|word| word.trim().parse::<i64>().ok());
        let mut number = || words.next().flatten();
        Some(Self { shard: number()?, from: number()?, to: number()? })
    }
}

/// Returns the node that gives away all of these parts and receives none.
fn drained(mut moves: impl Iterator<Item = TaskMove>, members: &Members) -> Option<&Member> {
    let from = moves.next()?.from;
    let is_alone = moves.all(|moved| moved.from == from);
    members.numbered(from).filter(|member| is_alone && !member.gets_rows)
}

fn state_of(state: &str) -> RebalanceState {
    match state {
        "cancelling" => RebalanceState::Cancelling,
        "finished" => RebalanceState::Done,
        "cancelled" => RebalanceState::Cancelled,
        "failed" => RebalanceState::Failed,
        // `scheduled`, `running`, and `failing`, which ends as `failed`.
        _ => RebalanceState::Running,
    }
}

fn step_state(status: &str) -> StepState {
    match status {
        "running" | "cancelling" => StepState::Moving,
        "done" => StepState::Moved,
        "error" => StepState::Failed,
        // `unscheduled`: another task that it waited for has failed.
        "cancelled" | "unscheduled" => StepState::Cancelled,
        // `blocked`, which waits for other tasks, and `runnable`.
        _ => StepState::Planned,
    }
}

fn session_name(process: i64) -> String {
    format!("{SESSION}{process}")
}

fn session_view(process: i64, moves: &[&ShardProgress], members: &Members) -> RebalanceView {
    let name = |(host, port): &(String, i64)| {
        members.at(host, *port).map(Member::name).unwrap_or_default()
    };
    let steps = moves.iter().map(|moved| {
        let state = match moved.progress {
            WAITING => StepState::Planned,
            MOVING => StepState::Moving,
            _ => StepState::Moved,
        };
        StepView {
            planned: planned(moved.shard, name(&moved.from), name(&moved.to)),
            state: state.name().to_owned(),
            move_id: None,
            copied_rows: None,
            copied_bytes: moved.copied,
            reason: None,
        }
    });
    let reason = format!("a session of the coordinator carries it out, in process {process}");
    RebalanceView { reason: Some(reason), ..with_counts(session_name(process), steps.collect()) }
}

fn planned(shard: i64, from: String, to: String) -> PlannedMoveView {
    PlannedMoveView { from, to, slots: shard.to_string(), slot_count: 1, rows: None, bytes: None }
}

/// Returns the view of a rebalance in progress, with its moves counted.
fn with_counts(id: String, moves: Vec<StepView>) -> RebalanceView {
    let are = |state: StepState| moves.iter().filter(|step| step.state == state.name()).count();
    let (all, moved) = (moves.len(), are(StepState::Moved));
    RebalanceView {
        id,
        goal: GoalView { by: BY_ENGINE.to_owned(), placement: None, shard: None, group: None },
        state: RebalanceState::Running.name().to_owned(),
        stalled: false,
        rate: None,
        keep: 0,
        slots: all,
        slots_moved: moved,
        needed_slots: all as u64,
        move_count: all,
        moved_count: moved,
        failed_count: are(StepState::Failed) + are(StepState::Cancelled),
        rows: None,
        bytes: None,
        planned_rows: None,
        planned_bytes: None,
        skew_before: None,
        skew_planned: None,
        skew_measured: None,
        reason: None,
        began_at: None,
        changed_at: None,
        ended_at: None,
        actions: Vec::new(),
        moves: Some(moves),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(drained: i64) -> Members {
        let member = |group: i64| {
            let (host, port) = ("10.0.0.7".to_owned(), 5432 + group);
            let gets_rows = group > 0 && group != drained;
            Member { id: group + 10, group, host, port, is_active: true, gets_rows }
        };
        Members::of((0..4).map(member).collect())
    }

    fn task(id: i64, status: &str, command: &str) -> Task {
        let (status, command) = (status.to_owned(), command.to_owned());
        Task { job: 7, id, status, command, retries: 0, process: 0 }
    }

    fn jobs(state: &str, tasks: Vec<Task>) -> Jobs {
        let (state, began_at) = (state.to_owned(), Some("2026-11-24T12:00:00.000Z".to_owned()));
        let jobs = vec![Job { id: 7, state, began_at, ended_at: None }];
        Jobs { jobs, tasks, progress: Vec::new() }
    }

    const FIRST: &str = "SELECT pg_catalog.citus_move_shard_placement(102008,11,13,'auto')";
    const OTHER: &str = "SELECT pg_catalog.citus_move_shard_placement(102009,12,13,'auto')";
    const COPY: &str = "SELECT pg_catalog.replicate_reference_tables('auto')";

    #[test]
    fn what_a_task_moves_is_parsed_from_its_command() {
        let moved = TaskMove { shard: 102_008, from: 11, to: 13 };
        assert_eq!(TaskMove::parse(FIRST), Some(moved));
        for command in
            [COPY, "SELECT pg_catalog.citus_move_shard_placement(102008,'a',1,'b',2)", ""]
        {
            assert_eq!(TaskMove::parse(command), None, "{command}");
        }
    }

    #[test]
    fn a_view_counts_the_moves_by_their_states_and_names_the_nodes() {
        let mut moving = task(3, "running", OTHER);
        moving.process = 4_711;
        let mut reported =
            jobs("running", vec![task(1, "done", COPY), task(2, "done", FIRST), moving]);
        reported.progress.push(ShardProgress {
            process: 4_711,
            shard: 102_009,
            from: ("10.0.0.7".to_owned(), 5434),
            to: ("10.0.0.7".to_owned(), 5435),
            progress: MOVING,
            copied: Some(8_192),
        });
        let views = reported.views(&members(0));
        assert_eq!(views.len(), 1, "the session of a task is not listed again");
        let view = &views[0];
        assert_eq!((&*view.id, &*view.state, &*view.goal.by), ("7", "running", "engine"));
        assert_eq!((view.move_count, view.moved_count, view.failed_count), (2, 1, 0));
        assert_eq!(view.actions, ["cancel"]);
        let moves = view.moves.as_ref().expect("they are shown");
        let shown = |step: &StepView| (step.planned.from.clone(), step.state.clone());
        assert_eq!(shown(&moves[0]), ("worker1".to_owned(), "moved".to_owned()));
        assert_eq!(shown(&moves[1]), ("worker2".to_owned(), "moving".to_owned()));
        assert_eq!((&*moves[1].planned.to, moves[1].copied_bytes), ("worker3", Some(8_192)));
        assert_eq!(reported.running().as_deref(), Some("7"));
    }

    #[test]
    fn a_job_that_only_empties_a_node_without_a_share_is_its_drain() {
        let one = jobs("running", vec![task(2, "done", FIRST)]);
        assert_eq!(one.views(&members(1))[0].goal.shard.as_deref(), Some("worker1"));
        assert_eq!(one.drained("7", &members(1)).map(Member::name).as_deref(), Some("worker1"));
        assert_eq!(one.drained("7", &members(0)), None, "the node gets rows");
        let two = jobs("running", vec![task(2, "done", FIRST), task(3, "blocked", OTHER)]);
        assert_eq!(two.drained("7", &members(1)), None, "another node gives rows away, too");
    }

    #[test]
    fn a_failure_refers_to_its_message_without_showing_it() {
        let mut repeated = task(2, "runnable", FIRST);
        repeated.retries = 3;
        let stalled = &jobs("running", vec![repeated]).views(&members(0))[0];
        assert!(stalled.stalled);
        let reason = stalled.reason.as_deref().expect("there is one");
        assert!(reason.contains("failed 3 times") && reason.contains("task_id = 2"), "{reason}");
        let failed = jobs("failed", vec![task(2, "error", FIRST), task(3, "unscheduled", OTHER)]);
        let view = &failed.views(&members(0))[0];
        assert_eq!((&*view.state, view.failed_count, view.stalled), ("failed", 2, false));
        assert!(view.actions.is_empty() && failed.running().is_none());
    }

    #[test]
    fn states_of_citus_have_the_names_of_this_product() {
        for (state, name) in [
            ("scheduled", "running"),
            ("failing", "running"),
            ("cancelling", "cancelling"),
            ("finished", "done"),
            ("cancelled", "cancelled"),
        ] {
            assert_eq!(jobs(state, Vec::new()).views(&members(0))[0].state, name);
        }
        for (status, name) in
            [("blocked", "planned"), ("cancelled", "cancelled"), ("done", "moved")]
        {
            assert_eq!(step_state(status).name(), name);
        }
    }

    #[test]
    fn a_session_that_moves_shards_itself_is_listed_and_takes_no_orders() {
        let moved = |shard, progress| ShardProgress {
            process: 99,
            shard,
            from: ("10.0.0.7".to_owned(), 5433),
            to: ("10.0.0.7".to_owned(), 5435),
            progress,
            copied: None,
        };
        let progress = vec![moved(1, 2), moved(2, MOVING), moved(3, WAITING)];
        let reported = Jobs { progress, ..Jobs::default() };
        let view = &reported.views(&members(0))[0];
        assert_eq!((&*view.id, view.move_count, view.moved_count), ("session-99", 3, 1));
        assert!(view.actions.is_empty());
        assert_eq!(reported.running().as_deref(), Some("session-99"));
        assert_eq!(reported.session_of("session-99"), Some(99));
    }
}
