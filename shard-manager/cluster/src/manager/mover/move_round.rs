//! Move round: reads the rows of a round from the sending side, and the digests of both sides for
//! their comparison.
//!
//! **Invariant:** rows are compared after a round that was read in the same snapshot as the digests
//! of the source, so a difference is never caused by a later write.
//! **Not here:** reading and storing rows (the engines), the decision to read a round
//! (`moves::next_step`), the rows in which both sides differ (`copy_difference`).

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use engine::slot_move::{RoundBudget, RoundError, RoundQuery, RoundRead, SlotDigest};
use moves::identity::MoveSide;
use moves::limits::{COMPARISON_MAX, FENCE_HOLD, SHORT_ROUND_CHANGES, SHORT_ROUND_TIME};
use moves::move_row::{CopyCursor, MoveRow};
use moves::observation::MovePlan;
use moves::round::CopyRound;

use super::move_sides::MoveSides;

/// Time limit for a round.
const ROUND_MAX: Duration = Duration::from_secs(30);

/// Failure of a round.
pub(super) enum RoundFailure {
    /// The source no longer records some changes that the copy lacks: the copy must begin again.
    LostChanges,
    /// The move cannot be carried out; the sentence says why.
    Impossible(String),
    /// The round cannot be read now, and the move waits; the sentence says why.
    Transient(String),
}

/// Returns the query for the next round. `receiver` is the receiving side's record of the move.
pub(super) fn query(plan: &MovePlan, receiver: &MoveRow, budget: RoundBudget) -> RoundQuery {
    RoundQuery {
        id: plan.id,
        slots: plan.slots.clone(),
        base: receiver.applied.clone(),
        base_cursor: receiver.cursor.clone(),
        wants_digests: false,
        budget,
    }
}

/// Round, with the time at which its read began.
#[derive(Debug)]
pub(super) struct TimedRound {
    pub(super) read: RoundRead,
    pub(super) begun_at: DateTime<Utc>,
}

impl TimedRound {
    /// Reads the next round.
    pub(super) async fn read(
        sides: &MoveSides,
        from: MoveSide,
        query: &RoundQuery,
    ) -> Result<Self, RoundFailure> {
        let time = if query.wants_digests { COMPARISON_MAX } else { ROUND_MAX };
        let reader = sides.reader(from).map_err(RoundFailure::Impossible)?;
        let begun_at = Utc::now();
        let read = reader.read_round(query, Instant::now() + time).await;
        let read = read.map_err(|error| match error {
            RoundError::LostChanges => RoundFailure::LostChanges,
            RoundError::RowTooLarge { .. } => RoundFailure::Impossible(error.to_string()),
            RoundError::Failed(_) => {
                let shard = sides.shard(from).name();
                RoundFailure::Transient(format!("the rows of {shard} cannot be read: {error}"))
            }
        })?;
        Ok(Self { read, begun_at })
    }
}

/// Round that is read ahead, while the previous round is still being stored.
///
/// The receiving shard stores a round only if it has the state for which the round was read. So it
/// would refuse a round whose predecessor was not stored, and such a round is dropped here.
#[derive(Debug, Default)]
pub(super) struct RoundAhead(Option<(MoveSide, TimedRound)>);

impl RoundAhead {
    /// Returns the round for this query, if it was read ahead.
    pub(super) fn take(&mut self, from: MoveSide, query: &RoundQuery) -> Option<TimedRound> {
        let (side, timed) = self.0.take()?;
        let CopyRound { base, base_cursor, .. } = &timed.read.round;
        let follows = *base == query.base && *base_cursor == query.base_cursor;
        (side == from && follows && !query.wants_digests).then_some(timed)
    }

    /// Returns true if a round was read.
    pub(super) fn has_round(&self) -> bool {
        self.0.is_some()
    }

    /// Reads the next round ahead; `None` as the query means that nothing is left to copy.
    pub(super) async fn read(
        &mut self,
        sides: &MoveSides,
        from: MoveSide,
        query: Option<RoundQuery>,
    ) {
        let Some(query) = query else { return };
        // If this read fails, the next round is read in the ordinary way, and that read reports the
        // failure.
        self.0 = TimedRound::read(sides, from, &query).await.ok().map(|timed| (from, timed));
    }
}

/// Returns the query for the round after `round`, if `round` leaves rows or changes to copy.
/// `has_all` is true if `round` has all changes of its snapshot.
pub(super) fn query_after(
    query: &RoundQuery,
    round: &CopyRound,
    has_all: bool,
) -> Option<RoundQuery> {
    let leaves_rows = matches!(round.cursor, CopyCursor::Through(_)) || !has_all;
    let is_copying = leaves_rows && !query.wants_digests;
    is_copying.then(|| RoundQuery {
        base: round.next.clone(),
        base_cursor: round.cursor.clone(),
        ..query.clone()
    })
}

/// Computes the digests of the rows of a side.
///
/// # Errors
/// A sentence that names the shard.
pub(super) async fn digests(
    sides: &MoveSides,
    plan: &MovePlan,
    side: MoveSide,
) -> Result<Vec<SlotDigest>, String> {
    let digests = sides.reader(side)?.digests(&plan.slots, Instant::now() + COMPARISON_MAX).await;
    digests.map_err(|error| {
        format!("the rows of {} cannot be compared: {error}", sides.shard(side).name())
    })
}

/// Limits under which a round counts as short. After some short rounds a fence begins, and the last
/// round is copied while writers wait.
///
/// On a busy machine, or with many writers, it is possible that no round is as short as the initial
/// limits require. So the limits grow with the time for which a complete copy has followed its
/// source, up to a maximum that keeps a fence within its time limit.
#[derive(Debug, Default)]
pub(super) struct RoundPace {
    /// Duration of the fastest round since the copy is complete.
    fastest: Option<Duration>,
    /// Time at which the first round after the copy was complete ended.
    since: Option<Instant>,
}

/// Time after which the limits of a short round double.
const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum number of times that each limit doubles: that on the duration, and that on the changes.
const TIME_DOUBLINGS: u32 = 5;
const CHANGES_DOUBLINGS: u32 = 3;

impl RoundPace {
    /// Returns true if a round that ends now was short. If even a round without changes takes long,
    /// because the shards are far away, twice the duration of the fastest round is the limit.
    ///
    /// A round that does not have all changes is never short. It may have few changes only because
    /// their rows are large, and a fence would last until all remaining changes are copied.
    pub(super) fn is_short(
        &mut self,
        cursor: &CopyCursor,
        (changes, has_all, time): (usize, bool, Duration),
        now: Instant,
    ) -> bool {
        if *cursor != CopyCursor::Whole {
            *self = Self::default();
            return false;
        }
        let fastest = self.fastest.map_or(time, |fastest| fastest.min(time));
        self.fastest = Some(fastest);
        let followed = now.saturating_duration_since(*self.since.get_or_insert(now));
        let doubled = u32::try_from(followed.as_secs() / PATIENCE.as_secs()).unwrap_or(u32::MAX);
        let time_max = SHORT_ROUND_TIME * (1 << doubled.min(TIME_DOUBLINGS));
        let time_max = time_max.max(fastest * 2).min(FENCE_HOLD / 4);
        let changes_max = SHORT_ROUND_CHANGES * (1 << doubled.min(CHANGES_DOUBLINGS));
        has_all && changes <= changes_max && time <= time_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_short_within_the_limits_or_beside_the_fastest_one() {
        let (ms, now) = (Duration::from_millis, Instant::now());
        let mut pace = RoundPace::default();
        let mut is_short = |cursor: &CopyCursor, changes, time| {
            pace.is_short(cursor, (changes, true, ms(time)), now)
        };
        let whole = CopyCursor::Whole;
        assert!(!is_short(&CopyCursor::Through("a".into()), 0, 1));
        assert!(is_short(&whole, SHORT_ROUND_CHANGES, 60), "it is the fastest");
        assert!(is_short(&whole, 0, 120) && !is_short(&whole, 0, 121));
        assert!(!is_short(&whole, SHORT_ROUND_CHANGES + 1, 1));
        assert!(!is_short(&whole, 0, 21));
        assert!(pace.is_short(&whole, (7, true, ms(1)), now));
        assert!(!pace.is_short(&whole, (7, false, ms(1)), now), "more changes are left");
    }

    #[test]
    fn the_limits_of_a_short_round_grow_until_a_move_can_end() {
        let (ms, begun) = (Duration::from_millis, Instant::now());
        let mut pace = RoundPace::default();
        let mut is_short = |changes, time, seconds| {
            let now = begun + Duration::from_secs(seconds);
            pace.is_short(&CopyCursor::Whole, (changes, true, ms(time)), now)
        };
        assert!(is_short(0, 1, 0));
        for (changes, time, first) in [(0, 21, 2), (0, 161, 8), (0, 500, 10), (1_600, 1, 6)] {
            assert!(!is_short(changes, time, first - 1) && is_short(changes, time, first));
        }
        for (changes, time) in [(0, 501), (1_601, 1)] {
            assert!(!is_short(changes, time, 1_000_000), "a fence is longer than writers may wait");
        }
    }
}
