//! Copy pace: how many rows a move copies at once, and how long it pauses after each copy or
//! deletion.
//!
//! A chunk (the rows of one round) is stored in one transaction. Other writes of the target may
//! have to wait for that transaction, and it takes processor time on both shards. While clients
//! write, chunks are small, and the move may pause for longer than it works. Without other writes,
//! a copy pauses only if the operator has limited its rate, and a deletion pauses only briefly.
//!
//! **Invariant:** each pause for the sake of clients' writes has an upper limit, so that a move
//! ends however much clients write.
//! **Not here:** the numbers of rows (`engine::slot_move::RoundBudget`), rounds of a whole copy,
//! whose pace decides about the fence ([`super::move_round::RoundPace`]).

use std::time::{Duration, Instant};

use engine::slot_move::RoundBudget;

use super::copy_rate::CopyRate;

/// Time without a client's write after which a move no longer holds back. It is longer than the
/// time for which a large chunk delays a write.
const ALONE_AFTER: Duration = Duration::from_secs(1);
/// Longest pause after a round while clients write, as a multiple of the duration of the round.
const REST: u32 = 2;
/// Longest pause after a round while clients write, as a multiple of the time for which the round
/// kept clients' writes waiting. The time that the round itself waits in a lane (a queue of writes
/// of the shard) does not count.
const REST_OF_LANE: u32 = 5;
/// Shortest pause after a deletion: clients of other routers, whose writes this process does not
/// see, may be writing.
const DELETION_REST: Duration = Duration::from_millis(5);
/// Longest pause for the sake of clients' writes.
const REST_MAX: Duration = Duration::from_millis(100);

/// Clients' writes on both shards of a move, as this process sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OtherWrites {
    /// Number of writes that were carried out since the process started.
    pub(super) done: u64,
    /// True if writes wait or are being carried out.
    pub(super) are_waiting: bool,
    /// Limits of a chunk that is copied while clients write.
    pub(super) chunk: RoundBudget,
    /// Total time for which rounds have kept these writes waiting since the process started; `None`
    /// if rounds do not pass through the queue of these writes.
    pub(super) lane_time: Option<Duration>,
}

/// Duration of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundTime {
    /// Duration of the whole round.
    pub(super) took: Duration,
    /// Time for which the round kept clients' writes waiting, if it is known.
    pub(super) in_lane: Option<Duration>,
}

impl RoundTime {
    /// Returns the duration of a round, given the clients' writes before and after it.
    pub(super) fn between(before: OtherWrites, after: OtherWrites, took: Duration) -> Self {
        let lane_times = before.lane_time.zip(after.lane_time);
        Self { took, in_lane: lane_times.map(|(before, after)| after.saturating_sub(before)) }
    }

    /// Returns the pause after this round while clients write.
    fn rest(self) -> Duration {
        let rest = self.in_lane.map_or(REST_MAX, |time| time * REST_OF_LANE);
        rest.min(self.took * REST).min(REST_MAX)
    }
}

/// Pace of one move.
#[derive(Debug)]
pub(super) struct CopyPace {
    rate: CopyRate,
    /// Number of writes that had been carried out at the last round.
    done: Option<u64>,
    /// Time of the last round or deletion that found clients' writes.
    disturbed: Option<Instant>,
}

impl CopyPace {
    /// Creates the pace of a move with this limit in MiB/s.
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self { rate: CopyRate::new(limit), done: None, disturbed: None }
    }

    /// Returns the limits of the next chunk. The first chunk is small, because nothing is known
    /// yet.
    pub(super) fn budget(&mut self, others: OtherWrites, now: Instant) -> RoundBudget {
        let is_first = self.done.is_none();
        self.note(others, now);
        let is_alone = !is_first && self.is_alone(now);
        if is_alone { RoundBudget::ALONE } else { others.chunk }
    }

    /// Returns the pause after a round of this size and duration.
    pub(super) fn rest(&mut self, bytes: u64, time: RoundTime, now: Instant) -> Duration {
        self.rate.count(bytes, now).max(self.rest_beside_writes(time, now))
    }

    /// Returns the pause after a deletion of this duration.
    pub(super) fn rest_of_deletion(
        &mut self,
        others: OtherWrites,
        took: Duration,
        now: Instant,
    ) -> Duration {
        self.note(others, now);
        let time = RoundTime { took, in_lane: None };
        self.rest_beside_writes(time, now).max(DELETION_REST)
    }

    fn note(&mut self, others: OtherWrites, now: Instant) {
        let before = self.done.replace(others.done);
        if others.are_waiting || before.is_some_and(|done| done != others.done) {
            self.disturbed = Some(now);
        }
    }

    /// Returns the pause after a round of changes of this duration. The operator's rate limit does
    /// not apply to changes: if clients wrote more than the limit permits, the copy would fall
    /// further and further behind.
    pub(super) fn rest_beside_writes(&self, time: RoundTime, now: Instant) -> Duration {
        if self.is_alone(now) { Duration::ZERO } else { time.rest() }
    }

    fn is_alone(&self, now: Instant) -> bool {
        self.disturbed.is_none_or(|at| now.saturating_duration_since(at) >= ALONE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SMALL: RoundBudget = RoundBudget::BETWEEN_WRITES;

    fn whole(took: Duration) -> RoundTime {
        RoundTime { took, in_lane: None }
    }

    #[test]
    fn the_rest_after_a_round_depends_on_the_time_for_which_it_kept_other_writes_waiting() {
        let others = |lane_time: u32| OtherWrites {
            done: 0,
            are_waiting: true,
            chunk: SMALL,
            lane_time: Some(lane_time * MS),
        };
        let rest = |lane_time: u32, took: u32| {
            RoundTime::between(others(7), others(7 + lane_time), took * MS).rest()
        };
        assert_eq!(rest(4, 40), 20 * MS);
        assert_eq!(rest(4, 5), 10 * MS, "it waited for no other write");
        assert_eq!(rest(40, 80), REST_MAX);
        assert_eq!(rest(0, 40), Duration::ZERO, "another process stored it");
    }

    #[test]
    fn a_copy_rests_and_takes_small_chunks_only_beside_writes() {
        let (mut pace, begun) = (CopyPace::new(None), Instant::now());
        let budget = |pace: &mut CopyPace, done, are_waiting, now| {
            pace.budget(OtherWrites { done, are_waiting, chunk: SMALL, lane_time: None }, now)
        };
        let (small, large) = (SMALL, RoundBudget::ALONE);
        assert_eq!(budget(&mut pace, 7, false, begun), small, "nothing is known yet");
        assert_eq!(budget(&mut pace, 7, false, begun), large);
        assert_eq!(pace.rest(1 << 20, whole(10 * MS), begun), Duration::ZERO);
        assert_eq!(budget(&mut pace, 8, false, begun), small);
        assert_eq!(pace.rest(1 << 20, whole(10 * MS), begun), 20 * MS);
        assert_eq!(pace.rest(1 << 20, whole(10_000 * MS), begun), REST_MAX);
        assert_eq!(budget(&mut pace, 8, false, begun + 999 * MS), small);
        assert_eq!(budget(&mut pace, 8, false, begun + 1_000 * MS), large);
        assert_eq!(budget(&mut pace, 8, true, begun + 1_001 * MS), small);
    }

    #[test]
    fn a_deletion_rests_longer_beside_writes() {
        let (mut pace, begun) = (CopyPace::new(None), Instant::now());
        let mut rest = |done, now| {
            let others = OtherWrites { done, are_waiting: false, chunk: SMALL, lane_time: None };
            pace.rest_of_deletion(others, 10 * MS, now)
        };
        assert_eq!(rest(7, begun), DELETION_REST);
        assert_eq!(rest(8, begun), 20 * MS);
        assert_eq!(rest(8, begun + 999 * MS), 20 * MS);
        assert_eq!(rest(8, begun + 1_000 * MS), DELETION_REST);
    }

    #[test]
    fn the_limit_of_an_operator_holds_without_writes_as_well() {
        let (mut pace, now) = (CopyPace::new(Some(1)), Instant::now());
        assert!(pace.rest(2 << 20, whole(MS), now) > 1_900 * MS);
        assert_eq!(
            pace.rest_beside_writes(whole(MS), now),
            Duration::ZERO,
            "changes are not limited"
        );
    }
}
