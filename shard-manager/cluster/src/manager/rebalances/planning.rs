//! Planning: the plan of a rebalance for the present owners, sizes, requests and moves.
//!
//! **Invariant:** slots that move already are planned for the shard that they go to.
//! **Not here:** the choice of slots (`model::slot_plan`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use engine::move_record::MoveRecord;
use engine::rebalance_draft::{DraftGoal, RebalanceDraft};
use engine::rebalance_view::PlanView;
use model::advice::{self, Advice, BalanceBy, Observed, OpenMoves, ShardSize};
use model::shard_map::ShardMap;
use model::slot_plan::{
    PlanGoal, PlanScene, SlotPlan, plan_by_placement, plan_by_slots, plan_drain, plan_of_advice,
};
use model::slot_set::SlotSet;
use model::topology::ShardNumber;
use moves::limits::SLOTS_MAX;
use moves::observation::MoveGoal;

use super::{ObservedLoad, RebalancesError};
use crate::manager::mover::MOVES;
use crate::manager::{Manager, MovesError};

/// Bytes that a copy without a limit is assumed to take in a second, for estimates.
const BYTES_PER_S: f64 = 44e6;
/// Bytes of a mebibyte.
const MIB: f64 = 1_048_576.0;

/// Plan of a rebalance, with the map that it is about.
pub(super) struct Planned {
    pub(super) goal: PlanGoal,
    pub(super) plan: SlotPlan,
    pub(super) map: Arc<ShardMap>,
    /// Reasons why it cannot begin now.
    pub(super) refusals: Vec<String>,
    rate: Option<u32>,
}

impl Planned {
    /// Returns true if there is nothing to do. A drain retires its shard in any case.
    pub(super) fn is_settled(&self) -> bool {
        self.plan.steps.is_empty() && !matches!(self.goal, PlanGoal::Drain(_))
    }

    pub(super) fn view(&self) -> PlanView {
        let rate = self.rate.map_or(BYTES_PER_S, |rate| f64::from(rate) * MIB);
        let (topology, epoch) = (self.map.topology(), self.map.epoch());
        PlanView {
            seconds: self.plan.seconds(rate, MOVES),
            refusals: self.refusals.clone(),
            ..PlanView::of(&self.goal, &self.plan, topology, epoch)
        }
    }
}

/// Owners of the slots once the moves that go on have ended as they should.
#[derive(Clone, Debug)]
pub struct PlannedSlots {
    /// Owner of every slot, in slot order.
    pub(in crate::manager) owners: Vec<ShardNumber>,
    /// Slots of these moves.
    moving: SlotSet,
}

impl PlannedSlots {
    /// Derives the owners from a map and the listed moves.
    pub fn of(map: &ShardMap, moves: &[MoveRecord]) -> Self {
        let mut owners: Vec<ShardNumber> = map.owners().map(|owner| owner.shard).collect();
        let mut moving = SlotSet::empty();
        for open in moves.iter().filter(|open| !open.phase.has_ended()) {
            let owner = match open.goal {
                MoveGoal::Forward | MoveGoal::Settle => open.new.target,
                MoveGoal::Back => open.new.source,
            };
            for slot in open.new.slots.iter() {
                owners[slot.index()] = owner;
            }
            moving.unite(&open.new.slots);
        }
        Self { owners, moving }
    }

    /// Returns the moves for an advice; `None` if there are none.
    pub fn open(&self) -> Option<OpenMoves<'_>> {
        let open = OpenMoves { owners: &self.owners, moving: &self.moving };
        (!self.moving.is_empty()).then_some(open)
    }
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
        let sizes = self.sizes(&map, deadline).await;
        let scene = PlanScene {
            topology: map.topology(),
            owners: &slots.owners,
            moving: &slots.moving,
            sizes: &sizes,
            slots_max: SLOTS_MAX,
        };
        let (goal, plan) = self.choose(draft, (&map, &slots), &scene).await?;
        let refusals = self.refusals(&plan, &map)?;
        Ok(Planned { goal, plan, map, refusals, rate: draft.rate })
    }

    async fn choose(
        self,
        draft: &RebalanceDraft,
        (map, slots): (&ShardMap, &PlannedSlots),
        scene: &PlanScene<'_>,
    ) -> Result<(PlanGoal, SlotPlan), RebalancesError> {
        Ok(match &draft.goal {
            DraftGoal::Slots => (PlanGoal::Slots, plan_by_slots(scene)?),
            DraftGoal::Placement(placement) => {
                let placement = placement.as_ref().unwrap_or(map.placement()).clone();
                let plan = plan_by_placement(scene, map, &placement)?;
                (PlanGoal::Placement(placement), plan)
            }
            DraftGoal::Balance(balance_by) => {
                // Also if nothing weighs enough for an advice.
                let even = plan_by_slots(scene)?;
                let advice = self.advice(*balance_by, (map, slots.open()), scene.sizes).await?;
                let plan = plan_of_advice(scene, &advice);
                (PlanGoal::Balance(*balance_by), SlotPlan { needed: even.needed, ..plan })
            }
            DraftGoal::Drain(name) => {
                let missing = || RebalancesError::NoShard(name.clone());
                let shard = map.topology().find(name).ok_or_else(missing)?;
                if self.0.backend.holds_catalog(shard) {
                    return Err(RebalancesError::HoldsCatalog(name.clone()));
                }
                (PlanGoal::Drain(shard), plan_drain(scene, shard)?)
            }
        })
    }

    /// Returns the advice for the present owners.
    async fn advice(
        self,
        balance_by: BalanceBy,
        (map, open): (&ShardMap, Option<OpenMoves<'_>>),
        sizes: &[ShardSize],
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
        let observed = Observed { map, load: &load.slots, sizes, keys: &load.keys, open };
        Ok(advice::advise(&observed, balance_by))
    }

    /// Returns the requests of the last minutes; `None` if this process counts none.
    async fn load(self) -> Option<ObservedLoad> {
        let source = Arc::clone(self.0.load_source.get()?);
        tokio::task::spawn_blocking(move || source.observed()).await.ok()?
    }

    /// Returns the sizes of the shards, by number, as far as they are known.
    async fn sizes(self, map: &ShardMap, deadline: Instant) -> Vec<ShardSize> {
        let mut sizes = vec![ShardSize::default(); map.topology().len()];
        for (number, size) in self.0.status().size_estimates(deadline).await {
            if let (Some(known), Some(size)) = (sizes.get_mut(number.index()), size) {
                *known = ShardSize { rows: size.rows, bytes: Some(size.bytes) };
            }
        }
        sizes
    }

    /// Returns the reasons why the moves of a plan cannot begin now.
    fn refusals(self, plan: &SlotPlan, map: &ShardMap) -> Result<Vec<String>, RebalancesError> {
        let shards: BTreeSet<ShardNumber> =
            plan.steps.iter().flat_map(|step| [step.from, step.to]).collect();
        let mut refusals = Vec::new();
        for shard in shards {
            match self.0.moves().check_shard(shard, map) {
                Ok(()) => {}
                Err(MovesError::Unsupported) => return Err(RebalancesError::Unsupported),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        Ok(refusals)
    }

    /// Measures the skew by which a goal is judged; `None` if it cannot be measured.
    pub(in crate::manager) async fn skew(self, goal: &PlanGoal, deadline: Instant) -> Option<f64> {
        let map = self.0.shards().newest_map();
        match goal {
            PlanGoal::Balance(balance_by) => {
                let sizes = self.sizes(&map, deadline).await;
                Some(self.advice(*balance_by, (&map, None), &sizes).await.ok()?.skew)
            }
            PlanGoal::Slots | PlanGoal::Placement(_) | PlanGoal::Drain(_) => Some(slot_skew(&map)),
        }
    }
}

fn slot_skew(map: &ShardMap) -> f64 {
    let mut counts = vec![0; map.topology().len()];
    map.owners().for_each(|owner| counts[owner.shard.index()] += 1);
    model::slot_plan::skew(&counts, &map.topology().share_weights())
}
