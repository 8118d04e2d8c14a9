//! Planning: the plan of a rebalance, from the present owners of the slots, the sizes of the
//! shards, the observed load and the moves in progress.
//!
//! **Invariant:** a plan treats slots that are already moving as if they had reached their new
//! owner.
//! **Not here:** the choice of slots by number or placement (`model::slot_plan`), and by load or
//! size (`model::advice::load_plan`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use engine::move_record::MoveRecord;
use engine::rebalance_draft::{DraftGoal, RebalanceDraft};
use engine::rebalance_record::RebalanceRecord;
use engine::rebalance_view::{GoalView, PlanView};
use model::advice::{self, Advice, BalanceBy, Observed, OpenMoves, ShardSize};
use model::shard_map::ShardMap;
use model::slot_plan::by_group::{self, GroupScene};
use model::slot_plan::pace::MovePace;
use model::slot_plan::{
    PlanFault, PlanGoal, PlanScene, SlotPlan, plan_by_placement, plan_by_slots, plan_drain,
    plan_of_advice,
};
use model::slot_set::SlotSet;
use model::table_group::{GroupNumber, TableGroup};
use model::topology::ShardNumber;
use moves::limits::{MOVES_MAX, SLOTS_MAX};
use moves::observation::MoveGoal;

use super::{ObservedLoad, RebalancesError, connections, room};
use crate::manager::moves::NAME_SHOWN_MAX;
use crate::manager::time_limits::halfway;
use crate::manager::{Manager, MovesError};

/// Plan of a rebalance, with the map for which it was made.
pub(super) struct Planned {
    pub(super) goal: PlanGoal,
    /// Table group whose slots move; `None` for all table groups.
    pub(super) group: Option<GroupNumber>,
    pub(super) plan: SlotPlan,
    pub(super) map: Arc<ShardMap>,
    /// Reasons why the rebalance cannot begin now.
    pub(super) refusals: Vec<MovesError>,
    rate: Option<u32>,
}

impl Planned {
    /// Returns true if there is nothing to do. A drain always has something to do, because it
    /// retires its shard.
    pub(super) fn is_settled(&self) -> bool {
        self.plan.steps.is_empty() && !matches!(self.goal, PlanGoal::Drain(_))
    }

    pub(super) fn view(&self) -> PlanView {
        let (topology, epoch) = (self.map.topology(), self.map.epoch());
        let view = PlanView::of(&self.goal, &self.plan, topology, epoch);
        let group = self.group.map(|group| self.map.groups().name_of(group).to_owned());
        PlanView {
            goal: GoalView { group, ..view.goal },
            seconds: self.plan.seconds(MovePace::of(self.rate, MOVES_MAX)),
            refusals: self.refusals.iter().map(MovesError::to_string).collect(),
            ..view
        }
    }
}

/// Owners of the slots after all moves in progress have reached their goals.
#[derive(Clone, Debug)]
pub struct PlannedSlots {
    /// Owner of every slot, in slot order.
    pub(in crate::manager) owners: Vec<ShardNumber>,
    /// Slots of the moves in progress.
    moving: SlotSet,
}

impl PlannedSlots {
    /// Derives the owners from a map and the listed moves. If a slot moves to a shard that the map
    /// does not list, its present owner counts.
    pub fn of(map: &ShardMap, moves: &[MoveRecord]) -> Self {
        let mut owners: Vec<ShardNumber> = map.owners().map(|owner| owner.shard).collect();
        let mut moving = SlotSet::empty();
        for open in moves.iter().filter(|open| !open.phase.has_ended()) {
            let owner = match open.goal {
                MoveGoal::Forward | MoveGoal::Settle => open.new.target,
                MoveGoal::Back => open.new.source,
            };
            // Another router may have added the shard or the table group, which only a later map
            // lists.
            let is_listed = owner.index() < map.topology().len();
            for slot in open.new.slots.iter() {
                let Some(planned) = owners.get_mut(slot.index()) else { continue };
                if is_listed {
                    *planned = owner;
                }
                moving.insert(slot);
            }
        }
        Self { owners, moving }
    }

    /// Returns the input of a plan for the whole cluster.
    pub fn scene<'s>(&'s self, map: &'s ShardMap, sizes: &'s [ShardSize]) -> PlanScene<'s> {
        PlanScene {
            topology: map.topology(),
            owners: &self.owners,
            moving: &self.moving,
            sizes,
            slots_max: SLOTS_MAX,
        }
    }

    /// Returns the moves in progress, as input of an advice (the moves that would even out load or
    /// size); `None` if there are none.
    pub fn open(&self) -> Option<OpenMoves<'_>> {
        let open = OpenMoves { owners: &self.owners, moving: &self.moving };
        (!self.moving.is_empty()).then_some(open)
    }
}

/// Returns the table group of this name.
fn find_group(map: &ShardMap, name: &str) -> Result<GroupNumber, RebalancesError> {
    let unknown = || RebalancesError::NoGroup(name.chars().take(NAME_SHOWN_MAX).collect());
    map.groups().find(name).ok_or_else(unknown)
}

/// Returns true if a rebalance of the wanted group, or of all groups, covers a group.
fn covers(wanted: Option<GroupNumber>, group: GroupNumber) -> bool {
    wanted.is_none_or(|wanted| wanted == group)
}

/// Adds the name of the table group to the error of its plan, if no shard can take slots.
fn of_group(error: RebalancesError, group: &TableGroup) -> RebalancesError {
    if matches!(error, RebalancesError::Plan(PlanFault::NoTaker)) {
        return PlanFault::NoTakerOfGroup { group: group.name.clone() }.into();
    }
    error
}

/// Refuses a plan that assigns slots of a group to a shard outside it.
fn check_owners(
    plan: &SlotPlan,
    group: &TableGroup,
    map: &ShardMap,
) -> Result<(), RebalancesError> {
    let Some(step) = plan.steps.iter().find(|step| !group.allows(step.to)) else { return Ok(()) };
    let (shard, group) = (map.topology().name(step.to), &group.name);
    let cause =
        format!("the placement assigns slots to {shard}, which is not a shard of group {group}");
    Err(PlanFault::Keyspace(cause).into())
}

/// Plans of rebalances of a cluster.
#[derive(Clone, Copy)]
pub(in crate::manager) struct RebalancePlans<'m>(&'m Manager);

impl<'m> RebalancePlans<'m> {
    /// Returns the plans of a cluster.
    pub(in crate::manager) fn of(manager: &'m Manager) -> Self {
        Self(manager)
    }

    /// Plans a rebalance for the newest map, which must have the expected epoch.
    pub(super) async fn planned(
        self,
        draft: &RebalanceDraft,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<Planned, RebalancesError> {
        let moves = self.0.moves();
        let map = moves.map_of(expected_epoch, deadline).await?;
        if self.0.backend.rebalance_catalog().is_none() {
            return Err(RebalancesError::Unsupported);
        }
        let listed = moves.list().await?;
        let slots = PlannedSlots::of(&map, &listed);
        let sizes = self.sizes(&map, halfway(deadline)).await;
        let scene = slots.scene(&map, &sizes);
        let group = draft.group.as_deref().map(|name| find_group(&map, name)).transpose()?;
        let (goal, plan) = self.choose((draft, group), (&map, &slots), &scene).await?;
        let mut refusals = self.refusals(&plan, &map)?;
        let soon = halfway(deadline);
        // Connections and disk space are read one after the other, so that both reads of a primary
        // use one connection: a server without free connections accepts no second one.
        let without_connections = connections::refusals(self.0, &plan, &map, soon).await;
        refusals.extend(room::refusals(self.0, &plan, &map, soon).await);
        refusals.extend(without_connections);
        if !plan.steps.is_empty() {
            refusals.extend(moves.older_routers().await?);
        }
        Ok(Planned { goal, group, plan, map, refusals, rate: draft.rate })
    }

    async fn choose(
        self,
        (draft, wanted): (&RebalanceDraft, Option<GroupNumber>),
        (map, slots): (&ShardMap, &PlannedSlots),
        scene: &PlanScene<'_>,
    ) -> Result<(PlanGoal, SlotPlan), RebalancesError> {
        let goal = self.goal((&draft.goal, wanted), map)?;
        if !map.groups().are_several() {
            let whole = (scene, map, slots.open());
            let plan = self.plan_of(&goal, whole, None).await?;
            return Ok((goal, plan));
        }
        let mut plans = Vec::new();
        for (number, group) in map.groups().iter().filter(|group| covers(wanted, group.0)) {
            // A placement in the request applies to one group. Without a placement in the request,
            // each group keeps its own.
            let goal = match (&goal, &draft.goal) {
                (PlanGoal::Placement(_), DraftGoal::Placement(None)) => {
                    PlanGoal::Placement(group.placement.clone())
                }
                (PlanGoal::Placement(_), _) if number != wanted.unwrap_or(GroupNumber::MAIN) => {
                    continue;
                }
                (PlanGoal::Drain(shard), _)
                    if !by_group::on_shard(map, scene.owners, *shard).contains(&number) =>
                {
                    continue;
                }
                (goal, _) => goal.clone(),
            };
            let own = GroupScene::of(map, scene, number)?;
            let plan = self.plan_of(&goal, (&own.scene(), &own.map, own.open()), Some(&own)).await;
            let plan = plan.map_err(|error| of_group(error, group))?;
            check_owners(&plan, group, map)?;
            plans.push((group.name.as_str(), own.with_own_slots(plan)));
        }
        let plan = match by_group::joined(plans) {
            Some(plan) => plan,
            // A drained shard that has no slots needs no moves.
            None => self.plan_of(&goal, (scene, map, slots.open()), None).await?,
        };
        Ok((goal, plan))
    }

    fn goal(
        self,
        (goal, group): (&DraftGoal, Option<GroupNumber>),
        map: &ShardMap,
    ) -> Result<PlanGoal, RebalancesError> {
        Ok(match goal {
            DraftGoal::Slots => PlanGoal::Slots,
            DraftGoal::Placement(placement) => {
                let own = group.and_then(|group| map.groups().get(group));
                let own = own.map_or(map.placement(), |group| &group.placement);
                PlanGoal::Placement(placement.as_ref().unwrap_or(own).clone())
            }
            DraftGoal::Balance(balance_by) => PlanGoal::Balance(*balance_by),
            DraftGoal::Drain(name) => {
                let missing = || RebalancesError::NoShard(name.clone());
                let shard = map.topology().find(name).ok_or_else(missing)?;
                if self.0.backend.holds_catalog(shard) {
                    return Err(RebalancesError::HoldsCatalog(name.clone()));
                }
                PlanGoal::Drain(shard)
            }
        })
    }

    /// Plans one table group, or the whole cluster if it has one group.
    async fn plan_of(
        self,
        goal: &PlanGoal,
        (scene, map, open): (&PlanScene<'_>, &ShardMap, Option<OpenMoves<'_>>),
        group: Option<&GroupScene>,
    ) -> Result<SlotPlan, RebalancesError> {
        Ok(match goal {
            PlanGoal::Slots => plan_by_slots(scene)?,
            PlanGoal::Placement(placement) => plan_by_placement(scene, map, placement)?,
            PlanGoal::Balance(balance_by) => {
                // The plan by slots determines how many moves are needed, even if the load is too
                // small for an advice.
                let even = plan_by_slots(scene)?;
                let advice = self.advice(*balance_by, (map, open), (scene.sizes, group)).await?;
                SlotPlan { needed: even.needed, ..plan_of_advice(scene, &advice) }
            }
            PlanGoal::Drain(shard) => plan_drain(scene, *shard)?,
        })
    }

    /// Returns the advice for the present owners: the moves that would even out load or size.
    async fn advice(
        self,
        balance_by: BalanceBy,
        (map, open): (&ShardMap, Option<OpenMoves<'_>>),
        (sizes, group): (&[ShardSize], Option<&GroupScene>),
    ) -> Result<Advice, RebalancesError> {
        let load = match balance_by {
            BalanceBy::Load => self.load().await.ok_or(RebalancesError::NoLoad)?,
            BalanceBy::Size => {
                let members = map.topology().members();
                let unknown = members.filter(|(number, _)| sizes[number.index()].bytes.is_none());
                if let Some((_, shard)) = unknown.into_iter().next() {
                    return Err(RebalancesError::NoSize(shard.name.clone()));
                }
                ObservedLoad::default()
            }
        };
        if let Some(group) = group {
            let (load, keys) = (group.load(&load.slots), group.keys(&load.keys));
            return Ok(advice::advise(&group.observed(load, &keys), balance_by));
        }
        let observed =
            Observed { map, load: &load.slots, sizes, keys: &load.keys, open, first_slot: 0 };
        Ok(advice::advise(&observed, balance_by))
    }

    /// Returns the load of the last minutes; `None` if this process counts no requests.
    async fn load(self) -> Option<ObservedLoad> {
        let source = Arc::clone(self.0.load_source.get()?);
        tokio::task::spawn_blocking(move || source.observed()).await.ok()?
    }

    /// Returns the sizes of the shards in the order of their numbers, as far as the sizes are
    /// known.
    async fn sizes(self, map: &ShardMap, deadline: Instant) -> Vec<ShardSize> {
        let mut sizes = vec![ShardSize::default(); map.topology().len()];
        for (number, size) in self.0.status().size_estimates(deadline).await {
            if let (Some(known), Some(size)) = (sizes.get_mut(number.index()), size) {
                *known = ShardSize { rows: size.rows, bytes: Some(size.bytes) };
            }
        }
        sizes
    }

    /// Returns the reasons why the shards of a plan cannot take part in moves now.
    fn refusals(self, plan: &SlotPlan, map: &ShardMap) -> Result<Vec<MovesError>, RebalancesError> {
        let shards: BTreeSet<ShardNumber> =
            plan.steps.iter().flat_map(|step| [step.from, step.to]).collect();
        let mut refusals = Vec::new();
        for shard in shards {
            match self.0.moves().check_shard(shard, map) {
                Ok(()) => {}
                Err(MovesError::Unsupported) => return Err(RebalancesError::Unsupported),
                Err(error) => refusals.push(error),
            }
        }
        Ok(refusals)
    }

    /// Measures the skew that remains, in the unit of the rebalance's goal (slots, load or size);
    /// `None` if it cannot be measured.
    pub(in crate::manager) async fn skew(
        self,
        record: &RebalanceRecord,
        deadline: Instant,
    ) -> Option<f64> {
        let map = self.0.shards().newest_map();
        let groups = || map.groups().iter().filter(|group| covers(record.group, group.0));
        match &record.goal {
            PlanGoal::Balance(balance_by) => {
                let sizes = self.sizes(&map, deadline).await;
                if !map.groups().are_several() {
                    let advice = self.advice(*balance_by, (&map, None), (&sizes, None)).await;
                    return Some(advice.ok()?.skew);
                }
                let slots = PlannedSlots::of(&map, &[]);
                let scene = slots.scene(&map, &sizes);
                let mut skew = None;
                for (number, _) in groups() {
                    let own = GroupScene::of(&map, &scene, number).ok()?;
                    let seen = (own.scene().sizes, Some(&own));
                    let advice = self.advice(*balance_by, (&own.map, None), seen).await.ok()?;
                    skew = Some(skew.map_or(advice.skew, |most: f64| most.max(advice.skew)));
                }
                skew
            }
            PlanGoal::Slots | PlanGoal::Placement(_) | PlanGoal::Drain(_) => {
                Some(by_group::slot_skew(&map, groups().map(|(number, _)| number)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Utc;
    use engine::move_record::NewMove;
    use model::keyspace::{Keyspace, SLOT_COUNT, Slot};
    use model::placement::Placement;
    use model::topology::Topology;

    use super::*;

    #[test]
    fn moves_of_shards_and_slots_that_the_map_does_not_list_yet_are_planned_around() {
        let shards = Topology::with_weights(&[1; 2]).expect("good shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, shards).expect("it fits");
        let listed = |slot: u16, target: u16| {
            let slots: SlotSet = Slot::new(slot).into_iter().collect();
            let (source, target) = (ShardNumber(0), ShardNumber(target));
            let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
            MoveRecord::begin(new, Utc::now())
        };
        // A move to a shard of the map, one to a later shard, one of a later table group.
        let slots = PlannedSlots::of(&map, &[listed(0, 1), listed(1, 2), listed(SLOT_COUNT, 1)]);
        assert_eq!(slots.owners.len(), usize::from(SLOT_COUNT));
        assert_eq!(slots.owners[..3], [ShardNumber(1), ShardNumber(0), ShardNumber(0)]);
        let moving: Vec<u16> = slots.moving.iter().map(Slot::number).collect();
        assert_eq!(moving, [0, 1]);
        let plan = plan_by_slots(&slots.scene(&map, &[]));
        assert!(plan.is_ok(), "every owner is a shard of the map");
    }
}
