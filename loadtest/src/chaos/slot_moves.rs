//! Slot moves: begins, cancels and rolls back moves of slots over the router's HTTP interface,
//! while other faults go on.
//!
//! **Invariant:** once the router has accepted a move, it carries the move out without help from
//! the tester. The outcome of the move is evaluated at the end of the run.
//! **Not here:** the times of the moves (`schedule`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use loadtest::recorder::Recorder;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::operator_requests::{ShardMap, change, get, metric, refusal};
use super::schedule::{Fault, MoveAction, MovePlan, Schedule};
use super::{LIVENESS, ready};
use crate::http_client::{Answer, Pool};
use crate::move_summary::MoveSummary;
use crate::moving_slots::MovingSlots;
use crate::random::Random;

/// Maximum number of moves in progress at a time. Moves that have switched their slots and only
/// keep the copy of the source for a rollback do not count.
const OPEN_MAX: usize = 4;
/// Longest wait for a move that can be rolled back.
const KEPT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the ends of all moves after the last fault.
const END_MAX: Duration = Duration::from_secs(60);
/// Pause between two polls of the moves.
const POLL: Duration = Duration::from_millis(50);

/// Metric of the router for the longest time for which rows have waited for their slots.
const LONGEST_WAIT: &str = "tessera_parked_longest_seconds ";

#[derive(Deserialize)]
struct Listed {
    moves: Vec<SlotMove>,
}

/// Move as the router returns it.
#[derive(Clone, Deserialize)]
pub(super) struct SlotMove {
    id: String,
    slots: String,
    from: String,
    to: String,
    phase: String,
    rows: u64,
    longest_hold_ms: f64,
    reason: Option<String>,
    /// Id of the rebalance to which the move belongs, if any.
    rebalance: Option<String>,
    actions: Vec<String>,
}

impl SlotMove {
    fn takes(&self, order: &str) -> bool {
        self.actions.iter().any(|action| action == order)
    }

    fn describe(&self) -> String {
        let Self { id, from, to, phase, .. } = self;
        let reason = self.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        format!("the move {id} from {from} to {to}, {phase}{reason}")
    }
}

/// Moves of a run.
pub(super) struct SlotMoves {
    pool: Arc<Pool>,
    moving: Arc<MovingSlots>,
    /// Ids of the moves that have begun during the run, except moves of rebalances.
    begun: BTreeSet<String>,
    /// Moves of `begun` that have ended. They are kept here because a router lists only the most
    /// recent ones.
    ended: BTreeMap<String, SlotMove>,
    /// Longest time for which rows have waited for their slots at the first router, in seconds. The
    /// value is kept here, because the router loses its own when it is killed.
    longest_wait: f64,
}

/// Checks that there are at least two shards, so that slots can move.
///
/// # Errors
/// Fails if there is only one shard, or if the router does not respond.
pub(super) async fn check_shards(pool: &Pool) -> anyhow::Result<()> {
    let map: ShardMap = get(pool, "/api/shard-map").await?;
    let owners = map.owners();
    anyhow::ensure!(
        owners.len() > 1,
        "--faults move: slots move between two shards at least, and this cluster has {}: without --cluster add \
         --router-options \"--shards 2\"",
        owners.len()
    );
    Ok(())
}

impl SlotMoves {
    pub(super) fn new(pool: Arc<Pool>, moving: Arc<MovingSlots>) -> Self {
        Self { pool, moving, begun: BTreeSet::new(), ended: BTreeMap::new(), longest_wait: 0.0 }
    }

    /// Begins moves and rolls moves back until the task is stopped.
    pub(super) async fn run(
        mut self,
        mut schedule: Schedule,
        recorder: Arc<Recorder>,
        mut stopped: watch::Receiver<bool>,
    ) -> Self {
        while let Some(fault) = schedule.due(&mut stopped).await {
            // This schedule contains only moves and rollbacks.
            let Fault::Move { action } = fault else { continue };
            let described = fault.describe(&[], &[]);
            recorder.fault(&described);
            let outcome = match action {
                MoveAction::Begin(plan) => self.begin(plan).await,
                MoveAction::RollBack { seed } => self.roll_back(seed).await,
            };
            recorder.fault(&format!("over: {described} ({outcome})"));
            self.note_wait().await;
        }
        self
    }

    /// Begins a move, and cancels it if `plan` says so. Returns the outcome in words.
    async fn begin(&mut self, plan: MovePlan) -> String {
        match self.try_begin(plan).await {
            Ok(outcome) => outcome,
            Err(error) => format!("not begun: {error:#}"),
        }
    }

    async fn try_begin(&mut self, plan: MovePlan) -> anyhow::Result<String> {
        ready(&self.pool, LIVENESS).await?;
        let map: ShardMap = get(&self.pool, "/api/shard-map").await?;
        let open = self.look().await?;
        let under_way = open.iter().filter(|open| open.phase != "keeping").count();
        if under_way >= OPEN_MAX {
            return Ok(format!("not begun: {under_way} moves are under way"));
        }
        let busy: BTreeSet<u16> = open.iter().flat_map(|open| slots_of(&open.slots)).collect();
        let Some((from, to, slots)) = choose(&map, &busy, &self.moving.with_rows(), plan) else {
            return Ok("not begun: no slot is free".to_owned());
        };
        let body = json!({"slots": ranges(&slots), "from": from, "to": to, "keep": plan.keep});
        let answer = self.post("/api/moves", &body).await?;
        if answer.status != 202 {
            return Ok(format!("not begun: {}", refusal(&answer)));
        }
        let begun: SlotMove = serde_json::from_slice(&answer.body).context("no move")?;
        self.begun.insert(begun.id.clone());
        self.moving.set(&busy.union(&slots).copied().collect());
        let reported = format!("{} from {from} to {to}", begun.id);
        let Some(after) = plan.cancelled else { return Ok(reported) };
        tokio::time::sleep(after).await;
        let cancelled = self.order(&begun.id, "cancel").await;
        Ok(format!("{reported}, {}", cancelled.unwrap_or_else(|error| format!("{error:#}"))))
    }

    /// Rolls a move back as soon as there is one that can be rolled back. Returns the outcome in
    /// words.
    async fn roll_back(&mut self, seed: u32) -> String {
        match self.try_roll_back(seed).await {
            Ok(outcome) => outcome,
            Err(error) => format!("not rolled back: {error:#}"),
        }
    }

    async fn try_roll_back(&mut self, seed: u32) -> anyhow::Result<String> {
        ready(&self.pool, LIVENESS).await?;
        let began = Instant::now();
        loop {
            let open = self.look().await?;
            // A rebalance fails if one of its own moves is rolled back.
            let own = open.iter().filter(|open| open.rebalance.is_none());
            let kept: Vec<_> = own.filter(|open| open.takes("rollback")).collect();
            let drawn = Random::of_user(seed.into(), 0).below(kept.len() as u32);
            if let Some(kept) = kept.get(drawn as usize) {
                let ordered = self.order(&kept.id, "rollback").await?;
                return Ok(format!("{}, {ordered}", kept.id));
            }
            if began.elapsed() > KEPT_MAX || !open.iter().any(|open| open.takes("cancel")) {
                return Ok("no move can be rolled back".to_owned());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Settles the moves that still keep the copy of their source, waits until no move is in
    /// progress, and returns a summary.
    pub(super) async fn finish(&mut self) -> MoveSummary {
        let began = Instant::now();
        let mut left = Ok(Vec::new());
        while began.elapsed() < END_MAX {
            left = self.look().await;
            match &left {
                Ok(open) if open.is_empty() => break,
                Ok(open) => {
                    for kept in open.iter().filter(|open| open.takes("settle")) {
                        // An error is ignored: the move can still be settled, and the next round
                        // tries again.
                        let _ = self.order(&kept.id, "settle").await;
                    }
                }
                Err(_) => {}
            }
            tokio::time::sleep(POLL).await;
        }
        self.moving.set(&BTreeSet::new());
        self.note_wait().await;
        let (focused, longest_wait_ms) = (self.moving.focused(), self.longest_wait * 1e3);
        let mut summary = MoveSummary { focused, longest_wait_ms, ..MoveSummary::default() };
        match left {
            Ok(open) => summary.open.extend(open.iter().map(SlotMove::describe)),
            Err(error) => summary.open.push(format!("the moves are unknown: {error:#}")),
        }
        let mut slots = BTreeSet::new();
        for id in &self.begun {
            let shown: anyhow::Result<SlotMove> = match self.ended.get(id) {
                Some(ended) => Ok(ended.clone()),
                None => get(&self.pool, &format!("/api/moves/{id}")).await,
            };
            match shown {
                Ok(shown) => {
                    if shown.phase == "done" || shown.phase == "rolled_back" {
                        slots.extend(slots_of(&shown.slots));
                    }
                    count(&mut summary, &shown);
                }
                Err(error) => summary.open.push(format!("the move {id} is unknown: {error:#}")),
            }
        }
        summary.slots = slots.len();
        summary
    }

    /// Returns the open moves, and passes their slots to the workload.
    async fn look(&mut self) -> anyhow::Result<Vec<SlotMove>> {
        let listed: Listed = get(&self.pool, "/api/moves?state=open").await?;
        let own = listed.moves.iter().filter(|open| open.rebalance.is_none());
        self.begun.extend(own.map(|open| open.id.clone()));
        self.note_ends(&listed.moves).await;
        self.moving.set(&listed.moves.iter().flat_map(|open| slots_of(&open.slots)).collect());
        Ok(listed.moves)
    }

    /// Reads from the first router the longest time for which rows have waited, and keeps the
    /// maximum.
    async fn note_wait(&mut self) {
        let wait = metric(&self.pool, LONGEST_WAIT).await;
        self.longest_wait = self.longest_wait.max(wait.unwrap_or_default());
    }

    /// Records the final state of the moves that are no longer open.
    async fn note_ends(&mut self, open: &[SlotMove]) {
        let is_over = |id: &&String| {
            !self.ended.contains_key(*id) && !open.iter().any(|open| open.id == **id)
        };
        let over: Vec<String> = self.begun.iter().filter(is_over).cloned().collect();
        for id in over {
            let shown = get::<SlotMove>(&self.pool, &format!("/api/moves/{id}")).await;
            // After an error, the next poll tries again.
            if let Ok(shown) = shown.map(|shown| (id, shown)) {
                self.ended.insert(shown.0, shown.1);
            }
        }
    }

    async fn order(&self, id: &str, order: &str) -> anyhow::Result<String> {
        let answer = self.post(&format!("/api/moves/{id}/{order}"), &json!({})).await?;
        Ok(match answer.status {
            200 => format!("{order} ordered"),
            _ => format!("{order} refused: {}", refusal(&answer)),
        })
    }

    async fn post(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<Answer> {
        change(&self.pool, (Method::POST, path), body).await
    }
}

fn count(summary: &mut MoveSummary, shown: &SlotMove) {
    summary.begun += 1;
    summary.rows += shown.rows;
    summary.longest_hold_ms = summary.longest_hold_ms.max(shown.longest_hold_ms);
    match shown.phase.as_str() {
        "done" => summary.done += 1,
        "rolled_back" => summary.rolled_back += 1,
        "cancelled" => summary.cancelled += 1,
        "failed" => summary.failed.push(shown.describe()),
        // Moves in progress are in the summary's list of open moves already.
        _ => {}
    }
}

/// Chooses the shards and the slots of a move. Up to half of the slots are slots with rows of the
/// workload; the others are consecutive.
fn choose<'m>(
    map: &'m ShardMap,
    busy: &BTreeSet<u16>,
    with_rows: &BTreeSet<u16>,
    plan: MovePlan,
) -> Option<(&'m str, &'m str, BTreeSet<u16>)> {
    let mut random = Random::of_user(plan.seed.into(), 0);
    let mut owned: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for (first, last, shard) in &map.ranges {
        let free = (*first..=*last).filter(|slot| !busy.contains(slot));
        owned.entry(shard).or_default().extend(free);
    }
    let shards: Vec<&str> = owned.keys().copied().collect();
    let from = random.below(shards.len() as u32);
    let to = (from + 1 + random.below((shards.len() as u32).saturating_sub(1))) as usize;
    let (from, to) = (*shards.get(from as usize)?, *shards.get(to % shards.len())?);
    let free = owned.get(from).filter(|free| !free.is_empty() && from != to)?;
    let mut used: Vec<u16> = free.iter().copied().filter(|slot| with_rows.contains(slot)).collect();
    let mut slots = BTreeSet::new();
    while slots.len() < plan.slots as usize / 2 && !used.is_empty() {
        slots.insert(used.swap_remove(random.below(used.len() as u32) as usize));
    }
    let first = random.below(free.len() as u32) as usize;
    for slot in free[first..].iter().chain(&free[..first]) {
        if slots.len() >= plan.slots as usize {
            break;
        }
        slots.insert(*slot);
    }
    Some((from, to, slots))
}

/// Writes slots as ranges, such as `0-63,70`.
fn ranges(slots: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(slot) => *last = slot,
            Some(_) | None => ranges.push((slot, slot)),
        }
    }
    let texts = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// Parses ranges of slots, such as `0-63,70`.
fn slots_of(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_written_as_ranges_and_read_again() {
        let slots = BTreeSet::from([0, 1, 2, 7, 9, 10, 16_383]);
        assert_eq!(ranges(&slots), "0-2,7,9-10,16383");
        assert_eq!(slots_of(&ranges(&slots)), slots.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_move_is_of_free_slots_of_one_shard_and_half_of_them_have_rows() {
        let shard = |name: &str| name.to_owned();
        let map = ShardMap {
            ranges: vec![(0, 99, shard("a")), (100, 199, shard("b")), (200, 299, shard("a"))],
        };
        let busy: BTreeSet<u16> = (0..10).collect();
        let with_rows: BTreeSet<u16> = (0..300).step_by(3).collect();
        for seed in 0..50 {
            let plan = MovePlan { seed, slots: 32, keep: 0, cancelled: None };
            let (from, to, slots) = choose(&map, &busy, &with_rows, plan).unwrap();
            assert!(from != to && slots.len() == 32 && slots.is_disjoint(&busy), "{slots:?}");
            let is_of = |slot: &u16| ((100..200).contains(slot)) == (from == "b");
            assert!(slots.iter().all(is_of), "{from}: {slots:?}");
            assert!(slots.intersection(&with_rows).count() >= 16, "{slots:?}");
        }
        let one = ShardMap { ranges: vec![(0, 16_383, shard("a"))] };
        let plan = MovePlan { seed: 1, slots: 16, keep: 0, cancelled: None };
        assert!(choose(&one, &busy, &with_rows, plan).is_none());
    }
}
