//! Plans: the moves that Citus would begin, as the view of a plan.
//!
//! **Invariant:** reading a plan changes nothing.
//! **Not here:** the choice of the moves, which is that of Citus' strategies.

use std::collections::BTreeMap;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::node_distributor::DistributorError;
use engine::rebalance_draft::{DraftGoal, RebalanceDraft};
use engine::rebalance_view::{GoalView, PlanShardView, PlanView, PlannedMoveView};
use model::advice::BalanceBy;
use model::value::{ColumnType, Value};

use super::members::{Members, MovableParts};
use crate::statement::{Bind, RowView, Statement, load};

/// Reads the parts that Citus would move, in the order of the moves: the shard that names the part,
/// and both addresses.
const MOVES: &str = "SELECT min(m.shardid)::bigint, m.sourcename, m.sourceport::bigint, m.targetname, m.targetport::bigint
    FROM get_rebalance_table_shards_plan(drain_only => $1, rebalance_strategy => $2::text::name) WITH ORDINALITY AS m
    JOIN pg_dist_shard AS s USING (shardid)
    JOIN pg_dist_partition AS t USING (logicalrelid)
    GROUP BY t.colocationid, s.shardminvalue, m.sourcename, m.sourceport, m.targetname, m.targetport
    ORDER BY min(m.ordinality)";

/// Strategy that gives each node the same number of shards.
const BY_COUNT: &str = "by_shard_count";
/// Strategy that gives each node the same number of bytes.
const BY_SIZE: &str = "by_disk_size";

/// Goal of a rebalance that Citus can carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CitusGoal {
    /// Each node has its share of the parts.
    Parts,
    /// Each node has its share of the bytes.
    Bytes,
    /// The node of this name has no parts.
    Drain(String),
}

impl CitusGoal {
    /// Returns the goal of a description.
    ///
    /// # Errors
    /// [`DistributorError::BadRebalance`], which names the member that Citus does not support.
    pub(crate) fn of(draft: &RebalanceDraft) -> Result<Self, DistributorError> {
        let bad = |member, cause: &str| {
            let cause = cause.to_owned();
            Err(DistributorError::BadRebalance { member, cause })
        };
        let goal = match &draft.goal {
            DraftGoal::Slots => Self::Parts,
            DraftGoal::Balance(BalanceBy::Size) => Self::Bytes,
            DraftGoal::Balance(BalanceBy::Load) => {
                return bad("by", "Citus does not count requests: use slots or size");
            }
            DraftGoal::Placement(_) => {
                return bad("by", "Citus places rows by its own hash: use slots or size");
            }
            DraftGoal::Drain(node) => Self::Drain(node.clone()),
        };
        if draft.group.is_some() {
            return bad("group", "a cluster of Citus has no table groups: leave it out");
        }
        if draft.rate.is_some() {
            return bad("rate", "Citus does not limit the rate of its moves: leave it out");
        }
        if draft.keep.is_some() {
            return bad("keep", "Citus deletes the rows on the source at once: leave it out");
        }
        Ok(goal)
    }

    /// Returns the value of `by`.
    fn name(&self) -> &'static str {
        match self {
            Self::Parts => "slots",
            Self::Bytes => "size",
            Self::Drain(_) => "drain",
        }
    }

    /// Returns the parameters by which Citus plans and begins a rebalance: true if it only empties
    /// nodes that get no rows, and the strategy.
    pub(crate) fn binds(&self) -> [Bind; 2] {
        let (drains, strategy) = match self {
            Self::Parts => (false, BY_COUNT),
            Self::Bytes => (false, BY_SIZE),
            Self::Drain(_) => (true, BY_COUNT),
        };
        [Bind::value(ColumnType::Boolean, &Value::Bool(drains)), Bind::text(strategy)]
    }
}

/// Move of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartMove {
    /// One of its shards, which names the part.
    pub(crate) shard: i64,
    /// Host and port of the source.
    pub(crate) from: (String, i64),
    /// Host and port of the target.
    pub(crate) to: (String, i64),
}

/// Reads the moves that Citus would begin now.
///
/// # Errors
/// The error of Citus.
pub(crate) async fn moves(
    connection: &AsyncPgConnection,
    goal: &CitusGoal,
) -> QueryResult<Vec<PartMove>> {
    let statement = Statement { sql: MOVES, binds: &goal.binds(), cached: false };
    let rows = load(connection, statement).await?;
    let planned = |row: &RowView| {
        let (from, to) = ((row.text(1)?, row.bigint(2)?), (row.text(3)?, row.bigint(4)?));
        Some(PartMove { shard: row.bigint(0)?, from, to })
    };
    Ok(rows.iter().filter_map(planned).collect())
}

/// Plan with everything that its view shows.
pub(crate) struct CitusPlan<'p> {
    pub(crate) goal: &'p CitusGoal,
    /// Nodes as they are when the plan begins.
    pub(crate) members: &'p Members,
    pub(crate) parts: &'p MovableParts,
    pub(crate) moves: &'p [PartMove],
}

impl CitusPlan<'_> {
    /// Returns the view of the plan. The skew is that of the bytes if the goal is to balance them.
    pub(crate) fn view(&self, refusals: Vec<String>) -> PlanView {
        let before = self.parts.counts();
        let after = self.after(&before, |_| 1);
        let getting = self.members.iter().filter(|member| member.gets_rows && member.is_active);
        let getting: Vec<i64> = getting.map(|member| member.group).collect();
        let total: usize = before.values().sum();
        let fair = total as f64 / getting.len().max(1) as f64;
        let count = |counts: &BTreeMap<i64, usize>, group| counts.get(&group).copied().unwrap_or(0);
        let shown = |group: &i64| getting.contains(group) || before.contains_key(group);
        let shards = self.members.iter().filter(|member| shown(&member.group)).map(|member| {
            let gets = getting.contains(&member.group);
            PlanShardView {
                shard: member.name(),
                state: member.state().name().to_owned(),
                weight: u32::from(gets),
                slots: count(&before, member.group),
                slots_after: count(&after, member.group),
                fair_slots: if gets { fair } else { 0.0 },
            }
        });
        let (skew_before, skew_planned) = self.skews(&before, &after, &getting);
        let bytes = self.moves.iter().map(|moved| self.parts.bytes_of(moved.shard)).sum();
        let shard = match self.goal {
            CitusGoal::Drain(node) => Some(node.clone()),
            CitusGoal::Parts | CitusGoal::Bytes => None,
        };
        PlanView {
            goal: GoalView { by: self.goal.name().to_owned(), placement: None, shard, group: None },
            epoch: None,
            slots: self.moves.len(),
            needed_slots: self.moves.len(),
            rows: None,
            bytes,
            seconds: None,
            skew_before,
            skew_planned,
            shards: shards.collect(),
            moves: self.moves.iter().map(|moved| self.move_view(moved)).collect(),
            note: None,
            refusals,
        }
    }

    fn move_view(&self, moved: &PartMove) -> PlannedMoveView {
        let name = |(host, port): &(String, i64)| {
            self.members.at(host, *port).map(super::members::Member::name).unwrap_or_default()
        };
        PlannedMoveView {
            from: name(&moved.from),
            to: name(&moved.to),
            slots: moved.shard.to_string(),
            slot_count: 1,
            rows: None,
            bytes: self.parts.bytes_of(moved.shard),
        }
    }

    fn skews(
        &self,
        before: &BTreeMap<i64, usize>,
        after: &BTreeMap<i64, usize>,
        getting: &[i64],
    ) -> (f64, f64) {
        if let (CitusGoal::Bytes, Some(bytes)) = (self.goal, self.parts.bytes()) {
            let size = |shard| self.parts.bytes_of(shard).unwrap_or(0);
            let after = self.after(&bytes, size);
            let float = |amounts: &BTreeMap<i64, u64>| {
                amounts.iter().map(|(group, amount)| (*group, *amount as f64)).collect()
            };
            return (skew(&float(&bytes), getting), skew(&float(&after), getting));
        }
        let float = |amounts: &BTreeMap<i64, usize>| {
            amounts.iter().map(|(group, amount)| (*group, *amount as f64)).collect()
        };
        (skew(&float(before), getting), skew(&float(after), getting))
    }

    /// Returns the amount of each group after all moves, by the amount of each part.
    fn after<N: Copy + Default + std::ops::AddAssign + std::ops::SubAssign>(
        &self,
        before: &BTreeMap<i64, N>,
        amount: impl Fn(i64) -> N,
    ) -> BTreeMap<i64, N> {
        let mut after = before.clone();
        for PartMove { shard, from, to } in self.moves {
            let group =
                |(host, port): &(String, i64)| self.members.at(host, *port).map(|at| at.group);
            let (Some(from), Some(to)) = (group(from), group(to)) else { continue };
            *after.entry(from).or_default() -= amount(*shard);
            *after.entry(to).or_default() += amount(*shard);
        }
        after
    }
}

/// Returns the most that one of these groups has, as a multiple of its fair share of the whole.
fn skew(amounts: &BTreeMap<i64, f64>, getting: &[i64]) -> f64 {
    let fair = amounts.values().sum::<f64>() / getting.len().max(1) as f64;
    let most = getting.iter().filter_map(|group| amounts.get(group)).copied().fold(0.0, f64::max);
    if fair > 0.0 { most / fair } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use engine::rebalance_draft::DraftMembers;

    use super::super::members::{Member, MovablePart};
    use super::*;

    fn members() -> Members {
        let member = |group: i64| {
            let (host, port) = ("10.0.0.7".to_owned(), 5432 + group);
            Member { id: group + 1, group, host, port, is_active: true, gets_rows: group > 0 }
        };
        Members::of((0..4).map(member).collect())
    }

    /// Six parts of ten bytes and one of a hundred on two of three workers.
    fn parts() -> MovableParts {
        let part = |shard: i64| {
            let bytes = if shard == 107 { 100 } else { 10 };
            MovablePart { group: 1 + shard % 2, shard, bytes: Some(bytes) }
        };
        MovableParts::of((101..=107).map(part).collect())
    }

    fn moved(shard: i64) -> PartMove {
        let at = |group: i64| ("10.0.0.7".to_owned(), 5432 + group);
        PartMove { shard, from: at(1 + shard % 2), to: at(3) }
    }

    fn plan(goal: &CitusGoal, members: &Members, moves: &[PartMove]) -> PlanView {
        CitusPlan { goal, members, parts: &parts(), moves }.view(Vec::new())
    }

    #[test]
    fn a_plan_shows_nodes_by_name_with_their_parts_before_and_after() {
        let view = plan(&CitusGoal::Parts, &members(), &[moved(101), moved(102)]);
        assert_eq!((&*view.goal.by, view.epoch, view.slots), ("slots", None, 2));
        assert_eq!(view.bytes, Some(20));
        let shown = |node: &PlanShardView| (node.shard.clone(), node.slots, node.slots_after);
        let shown: Vec<_> = view.shards.iter().map(shown).collect();
        let expected = [("worker1", 3, 2), ("worker2", 4, 3), ("worker3", 0, 2)];
        assert_eq!(shown, expected.map(|(name, before, after)| (name.to_owned(), before, after)));
        let first = &view.moves[0];
        assert_eq!((&*first.from, &*first.to, &*first.slots), ("worker2", "worker3", "101"));
        assert!((view.skew_before - 12.0 / 7.0).abs() < 1e-9, "{}", view.skew_before);
        assert!((view.skew_planned - 9.0 / 7.0).abs() < 1e-9, "{}", view.skew_planned);
    }

    #[test]
    fn the_skew_of_a_plan_by_size_is_that_of_the_bytes() {
        let view = plan(&CitusGoal::Bytes, &members(), &[moved(107)]);
        // 130 of 160 bytes, then 100: a fair share is a third.
        assert!((view.skew_before - 3.0 * 130.0 / 160.0).abs() < 1e-9, "{}", view.skew_before);
        assert!((view.skew_planned - 3.0 * 100.0 / 160.0).abs() < 1e-9, "{}", view.skew_planned);
    }

    #[test]
    fn a_node_that_is_drained_has_no_share() {
        let goal = CitusGoal::Drain("worker1".to_owned());
        let moves = [moved(102), moved(104), moved(106)];
        let view = plan(&goal, &members().draining(1), &moves);
        assert_eq!((&*view.goal.by, view.goal.shard.as_deref()), ("drain", Some("worker1")));
        let drained = &view.shards[0];
        assert_eq!((&*drained.state, drained.weight, drained.slots_after), ("draining", 0, 0));
        assert!(drained.fair_slots.abs() < 1e-9);
        assert!((view.shards[1].fair_slots - 3.5).abs() < 1e-9);
    }

    #[test]
    fn what_citus_lacks_is_refused_by_the_name_of_the_member() {
        let read = |by, rate, keep| {
            let members = DraftMembers { by, rate, keep, ..DraftMembers::default() };
            CitusGoal::of(&RebalanceDraft::read(&members).expect("within bounds"))
        };
        assert_eq!(read(None, None, None), Ok(CitusGoal::Parts));
        assert_eq!(read(Some("size"), None, None), Ok(CitusGoal::Bytes));
        let members = DraftMembers { group: Some("main"), ..DraftMembers::default() };
        let refused = CitusGoal::of(&RebalanceDraft::read(&members).expect("within bounds"));
        assert!(matches!(refused, Err(DistributorError::BadRebalance { member: "group", .. })));
        for (by, rate, keep, named) in [
            (Some("load"), None, None, "by"),
            (Some("placement"), None, None, "by"),
            (None, Some(20), None, "rate"),
            (None, None, Some(900), "keep"),
        ] {
            let refused = read(by, rate, keep);
            let member = match &refused {
                Err(DistributorError::BadRebalance { member, .. }) => Some(*member),
                _ => None,
            };
            assert_eq!(member, Some(named), "{refused:?}");
        }
    }
}
