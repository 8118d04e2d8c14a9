//! Schema: describes the responses about rebalances for the OpenAPI document.
//!
//! **Not here:** the types that are sent (`engine::rebalance_view`).
#![expect(dead_code, reason = "describes the answers, which shard_manager writes")]

use utoipa::ToSchema;

/// Plan of a rebalance.
#[derive(ToSchema)]
#[schema(as = RebalancePlan, example = json!({
    "by": "slots", "placement": null, "shard": null, "epoch": 3, "slots": 4096,
    "needed_slots": 4096, "rows": 250_000, "bytes": 52_428_800, "seconds": 40.8,
    "skew_before": 1.33, "skew_planned": 1.0,
    "shards": [{"shard": "shard4", "state": "serving", "weight": 1, "slots": 0,
        "slots_after": 4096, "fair_slots": 4096.0}],
    "moves": [{"from": "shard1", "to": "shard4", "slots": "4096-4159", "slot_count": 64,
        "rows": 3900, "bytes": 819_200}],
    "note": null, "refusals": []
}))]
pub(crate) struct RebalancePlanAnswer {
    /// `slots`, `size`, `load`, `placement` or `drain`.
    by: String,
    /// Placement that slots go to; null for another goal.
    #[schema(required)]
    placement: Option<String>,
    /// Shard that is emptied; null for another goal.
    #[schema(required)]
    shard: Option<String>,
    /// Table group whose slots move; left out if the plan covers all groups.
    group: Option<String>,
    /// The version of the shard map on which the plan is based: if it is sent as If-Match, the
    /// rebalance begins only with the same map. Null with the engine citus, whose plans cannot be
    /// bound.
    #[schema(required)]
    epoch: Option<u64>,
    /// Number of slots that move. With the engine citus, Citus shards take the place of slots;
    /// those of co-located tables, which move together, count as one.
    slots: usize,
    /// Number of slots that have to move so that each shard has its share of the slots.
    needed_slots: usize,
    /// Estimated number of rows that move; null if unknown.
    #[schema(required)]
    rows: Option<u64>,
    /// Estimated number of bytes that move; null if unknown.
    #[schema(required)]
    bytes: Option<u64>,
    /// Estimated duration in seconds: of the copies, at `rate` or else at 44 MB/s, and 0.6 s for
    /// each move. Null if the bytes are not known.
    #[schema(required)]
    seconds: Option<f64>,
    /// The most that a shard has, as a multiple of its fair share. Shards that are to have nothing
    /// do not count.
    skew_before: f64,
    /// The most that a shard will have once all moves have ended, as a multiple of its fair share.
    skew_planned: f64,
    /// The shards, in their order.
    shards: Vec<PlanShardAnswer>,
    /// The moves, in the order in which they begin.
    moves: Vec<PlannedMoveAnswer>,
    /// Remark, as a sentence: the reason of an advice, or that a placement moves more slots than
    /// weights require.
    #[schema(required)]
    note: Option<String>,
    /// Reasons why it cannot begin now, as sentences.
    refusals: Vec<String>,
}

/// Slots of a shard before and after a plan.
#[derive(ToSchema)]
#[schema(as = PlanShard)]
pub(crate) struct PlanShardAnswer {
    /// Name of the shard.
    shard: String,
    /// `joining`, `serving` or `draining`.
    state: String,
    /// Relative share of the slots.
    weight: u32,
    /// Number of its slots.
    slots: usize,
    /// Number of its slots after all moves.
    slots_after: usize,
    /// Number of slots that its weight gives it.
    fair_slots: f64,
}

/// Move of a plan.
#[derive(ToSchema)]
#[schema(as = PlannedMove)]
pub(crate) struct PlannedMoveAnswer {
    /// Shard that owns the slots.
    from: String,
    /// Shard that is to own the slots.
    to: String,
    /// Slots, as ranges; with the engine citus, the id of one of its Citus shards.
    slots: String,
    /// Number of slots, at most 64.
    slot_count: usize,
    /// Estimated number of rows, from the mean of the shard; null if that is not known.
    #[schema(required)]
    rows: Option<u64>,
    /// Estimated number of bytes, from the mean of the shard; null if that is not known.
    #[schema(required)]
    bytes: Option<u64>,
}

/// A rebalance.
#[derive(ToSchema)]
#[schema(as = Rebalance, example = json!({
    "id": "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71", "by": "slots", "placement": null, "shard": null,
    "state": "running", "stalled": false, "rate": 20, "keep": 900, "slots": 4096,
    "slots_moved": 1344, "needed_slots": 4096, "move_count": 66, "moved_count": 21,
    "failed_count": 0, "rows": 82_000, "bytes": 17_203_200, "planned_rows": 250_000,
    "planned_bytes": 52_428_800, "skew_before": 1.33, "skew_planned": 1.0, "skew_measured": null,
    "reason": null, "began_at": "2026-11-24T12:00:00.000Z",
    "changed_at": "2026-11-24T12:00:21.000Z", "ended_at": null, "actions": ["pause", "cancel"],
    "moves": [{"from": "shard1", "to": "shard4", "slots": "4096-4159", "slot_count": 64,
        "rows": 3900, "bytes": 819_200, "state": "moved",
        "move": "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e", "copied_rows": 3904,
        "copied_bytes": 819_968, "reason": null}]
}))]
pub(crate) struct RebalanceAnswer {
    /// Identity: a UUID; with the engine citus, the id of the Citus job, or `session-` and the
    /// process id of the session that carries it out.
    id: String,
    /// `slots`, `size`, `load`, `placement` or `drain`; with the engine citus `engine` or `drain`,
    /// because Citus does not remember the goal.
    by: String,
    /// Placement that slots go to; null for another goal.
    #[schema(required)]
    placement: Option<String>,
    /// Shard that is emptied; null for another goal.
    #[schema(required)]
    shard: Option<String>,
    /// Table group whose slots move; left out if the rebalance covers all groups.
    group: Option<String>,
    /// `running`, `paused`, `cancelling`, or how it has ended: `done`, `cancelled`, `failed`.
    state: String,
    /// True if no move has changed for a minute although one could; with the engine citus, if a
    /// failed move is being retried.
    stalled: bool,
    /// Highest rate of the copy of each move in MiB/s; null without a limit.
    #[schema(required)]
    rate: Option<u32>,
    /// Seconds for which the source of each move is kept.
    keep: u64,
    /// Number of slots of the plan.
    slots: usize,
    /// Number of slots that have moved.
    slots_moved: usize,
    /// Number of slots that had to move so that each shard has its share of the slots.
    needed_slots: u64,
    /// Number of moves of the plan.
    move_count: usize,
    /// Number of moves whose target owns the slots.
    moved_count: usize,
    /// Number of moves that have ended in another way.
    failed_count: usize,
    /// Number of copied rows; a row counts each time that it is copied. Null with the engine citus.
    #[schema(required)]
    rows: Option<u64>,
    /// Bytes of these rows; null with the engine citus.
    #[schema(required)]
    bytes: Option<u64>,
    /// Estimated number of rows that the plan moves; null if that is not known.
    #[schema(required)]
    planned_rows: Option<u64>,
    /// Estimated number of bytes that the plan moves; null if that is not known.
    #[schema(required)]
    planned_bytes: Option<u64>,
    /// Skew before the first move; null with the engine citus.
    #[schema(required)]
    skew_before: Option<f64>,
    /// Skew after the last move, as planned; null with the engine citus.
    #[schema(required)]
    skew_planned: Option<f64>,
    /// Skew as measured at the end; null before, and if it could not be measured.
    #[schema(required)]
    skew_measured: Option<f64>,
    /// Reason why it waits or has ended without success; null if there is none.
    #[schema(required)]
    reason: Option<String>,
    /// Time of the request: RFC 3339. With the engine citus, the time at which its first move
    /// began; null before.
    #[schema(required)]
    began_at: Option<String>,
    /// Time of the last change of a move; null with the engine citus.
    #[schema(required)]
    changed_at: Option<String>,
    /// Time at which it ended; null before.
    #[schema(required)]
    ended_at: Option<String>,
    /// Commands that it accepts now.
    actions: Vec<String>,
    /// Moves of the rebalance; left out in a list of rebalances.
    moves: Option<Vec<RebalanceMoveAnswer>>,
}

/// Move of a rebalance.
#[derive(ToSchema)]
#[schema(as = RebalanceMove)]
pub(crate) struct RebalanceMoveAnswer {
    /// Shard that owned the slots.
    from: String,
    /// Shard that is to own the slots.
    to: String,
    /// Slots, as ranges; with the engine citus, the id of one of its Citus shards.
    slots: String,
    /// Number of slots.
    slot_count: usize,
    /// Estimated number of rows, from the mean of the shard; null if that is not known.
    #[schema(required)]
    rows: Option<u64>,
    /// Estimated number of bytes, from the mean of the shard; null if that is not known.
    #[schema(required)]
    bytes: Option<u64>,
    /// `planned`, `moving`, or how it has ended: `moved`, `cancelled`, `failed`, or `skipped` (its
    /// shard no longer owned the slots, or the target had retired).
    state: String,
    /// Id of the move in `/api/moves`; null before it has begun.
    #[schema(required)]
    r#move: Option<String>,
    /// Number of copied rows; a row counts each time that it is copied. Null with the engine citus.
    #[schema(required)]
    copied_rows: Option<u64>,
    /// Bytes of these rows. With the engine citus, the bytes at the target while it moves, and null
    /// otherwise.
    #[schema(required)]
    copied_bytes: Option<u64>,
    /// Reason why it waits or has ended without success; null if there is none.
    #[schema(required)]
    reason: Option<String>,
}
