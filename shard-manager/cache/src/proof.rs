//! Proof: checks from the metadata of a cached result that the result is new enough for a reader.
//!
//! **Invariant:** a result that passes belongs to the shard's current timeline, is not older than
//! the reader allows, and contains every change that the reader's session has seen. The same check
//! applies to entries in Redis and in the memory of the process.
//! **Not here:** the encoding of the metadata (`entry`), the requirements of a read on its shard
//! (`manager`).

use std::time::{Duration, Instant};

use model::sabotage::{Mutation, is_on};

/// Maximum assumed difference between the clocks of two routers. It is added to the age of an entry
/// that another router stored, and such an entry is not used if its time is further in the future
/// than this. It equals the clock difference between nodes at which operators are warned.
pub const CLOCK_ALLOWANCE: Duration = Duration::from_millis(500);

/// Facts that prove how new the rows of a read are at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessBound {
    /// Timeline of the shard, which was the same at the beginning and at the end of the read.
    pub timeline: u32,
    /// Position up to which the rows contain every change; 0 if no position is known.
    pub min_position: u64,
    /// Moment at which the node that was read had every acknowledged change.
    pub as_of: Instant,
}

/// Moment in time, by the monotonic clock of a process and by the system clock of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Random id of the process whose clock `own` is.
    pub process: u64,
    /// Microseconds since the clock of that process was created, by a monotonic clock; negative for
    /// earlier moments.
    pub own: i64,
    /// Microseconds since 1970, by the system clock of the machine.
    pub wall: i64,
}

impl ClockReading {
    /// Returns the highest possible age of this moment at the time `now`; `None` if the moment is
    /// in the future, for another process by more than [`CLOCK_ALLOWANCE`].
    pub fn age(&self, now: &Self) -> Option<Duration> {
        if self.process == now.process {
            let age = now.own.checked_sub(self.own)?;
            return u64::try_from(age).ok().map(Duration::from_micros);
        }
        let allowance = CLOCK_ALLOWANCE.as_micros() as i64;
        let age = now.wall.checked_sub(self.wall)?.checked_add(allowance)?;
        u64::try_from(age).ok().map(Duration::from_micros)
    }
}

/// Earliest moment at which a result must have been current to be new enough for a reader, by both
/// clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CurrentSince {
    /// Id of this process: `own` applies to its entries, and `wall` to the entries of all other
    /// processes.
    pub(super) process: u64,
    pub(super) own: i64,
    pub(super) wall: i64,
}

impl CurrentSince {
    /// Returns the earliest moment for a reader that allows this age at the time `now`.
    pub(super) fn of(now: &ClockReading, age_max: Duration) -> Self {
        let age = i64::try_from(age_max.as_micros()).unwrap_or(i64::MAX);
        let allowance = CLOCK_ALLOWANCE.as_micros() as i64;
        // The Redis script reads the times of entries as unsigned numbers, so a limit below 0 means
        // the same as 0.
        let own = now.own.saturating_sub(age).max(0);
        let wall = now.wall.saturating_sub(age).saturating_add(allowance).max(0);
        Self { process: now.process, own, wall }
    }
}

/// Facts that prove how new a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryMetadata {
    /// Timeline of the shard that returned the result.
    pub timeline: u32,
    /// Position up to which the result contains every change.
    pub min_position: u64,
    /// Position after which the result contains no change. A session that received the result
    /// counts as having seen this position.
    pub seen: u64,
    /// Moment at which the result was current.
    pub as_of: ClockReading,
}

/// Requirement of a reader on the age and the content of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessRequirement {
    /// Current timeline of the shard. Its history contains everything that the reader's session has
    /// seen.
    pub timeline: u32,
    /// Position of the shard that the session has seen; `None` if it has seen none.
    pub seen: Option<u64>,
    /// Maximum age of the result.
    pub age_max: Duration,
}

impl EntryMetadata {
    /// Returns true if these facts fulfil the requirement at the time `now`.
    pub fn proves(&self, requirement: &FreshnessRequirement, now: &ClockReading) -> bool {
        if is_on(Mutation::CacheSetWithoutVersion) {
            return true;
        }
        self.timeline == requirement.timeline
            && requirement.seen.is_none_or(|seen| seen <= self.min_position)
            && self.as_of.age(now).is_some_and(|age| age <= requirement.age_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metadata(timeline: u32, min_position: u64, as_of: ClockReading) -> EntryMetadata {
        EntryMetadata { timeline, min_position, seen: min_position, as_of }
    }

    proptest! {
        /// Compares the check with a model of a shard in which each change has a number and a time.
        /// A lagging node returns the result, and a reader uses it later.
        #[test]
        fn a_proven_answer_is_never_older_than_allowed(
            times in prop::collection::vec(0_i64..10_000_000, 1..20),
            applied in 0_usize..20,
            later in 0_i64..10_000_000,
            seen in prop::option::of(0_u64..20),
            age_max in 0_u64..5_000_000,
            foreign in any::<bool>(),
            skew in -500_000_i64..=500_000,
        ) {
            let mut times = times;
            times.sort_unstable();
            let applied = applied.min(times.len());
            // The node had every change just before the first change that it has not applied.
            let as_of = times.get(applied).map_or(10_000_000, |time| time - 1);
            let now = as_of + later;
            let process = u64::from(foreign);
            let made = ClockReading { process, own: as_of, wall: as_of + if foreign { skew } else { 0 } };
            let now_moment = ClockReading { process: 0, own: now, wall: now };
            let requirement = FreshnessRequirement { timeline: 1, seen, age_max: Duration::from_micros(age_max) };
            if metadata(1, applied as u64, made).proves(&requirement, &now_moment) {
                if let Some(seen) = seen {
                    prop_assert!(seen <= applied as u64);
                }
                // The result contains every change that was acknowledged longer ago than the
                // maximum age.
                let owed = times.iter().filter(|time| **time < now - age_max as i64).count();
                prop_assert!(owed <= applied, "{owed} of {times:?} at {now}, {applied} applied");
            }
        }

        #[test]
        fn another_timeline_proves_nothing(
            min_position in any::<u64>(), seen in prop::option::of(any::<u64>()),
            timeline in 0_u32..3,
        ) {
            let now = ClockReading { process: 0, own: 0, wall: 0 };
            let requirement = FreshnessRequirement { timeline: 7, seen, age_max: Duration::MAX };
            prop_assert!(!metadata(timeline, min_position, now).proves(&requirement, &now));
        }

        /// Checks that the Redis script treats as too old exactly the entries that the reader would
        /// refuse as too old.
        #[test]
        fn the_script_and_the_reader_agree_on_what_is_too_old(
            age in -1_000_000_i64..3_000_000, age_max in 0_u64..2_000_000, foreign in any::<bool>(),
        ) {
            let now = ClockReading { process: 0, own: 5_000_000, wall: 9_000_000 };
            let made = ClockReading { process: u64::from(foreign), own: now.own - age, wall: now.wall - age };
            let age_max = Duration::from_micros(age_max);
            let oldest = CurrentSince::of(&now, age_max);
            let is_passed_over =
                if foreign { made.wall < oldest.wall } else { made.own < oldest.own };
            let is_too_old = made.age(&now).is_some_and(|age| age > age_max);
            prop_assert_eq!(is_passed_over, is_too_old);
        }

        #[test]
        fn no_moment_of_a_forged_or_broken_clock_overflows(
            a in any::<(u64, i64, i64)>(), b in any::<(u64, i64, i64)>(),
        ) {
            let moment = |(process, own, wall)| ClockReading { process, own, wall };
            let _ = moment(a).age(&moment(b));
        }
    }

    #[test]
    fn an_answer_refused_to_a_session_still_serves_reads_without_one() {
        let now = ClockReading { process: 3, own: 5, wall: 5 };
        let requirement =
            |seen| FreshnessRequirement { timeline: 1, seen, age_max: Duration::ZERO };
        assert!(metadata(1, 0, now).proves(&requirement(None), &now));
        assert!(!metadata(1, 0, now).proves(&requirement(Some(1)), &now));
        assert!(
            metadata(1, 0, now).proves(&requirement(Some(0)), &now),
            "that session has seen nothing"
        );
    }

    #[test]
    fn the_clock_of_another_router_is_trusted_within_the_allowed_difference() {
        let now = ClockReading { process: 1, own: 0, wall: 10_000_000 };
        let other = |wall| ClockReading { process: 2, own: 0, wall };
        assert_eq!(other(10_000_000).age(&now), Some(CLOCK_ALLOWANCE));
        assert_eq!(other(10_400_000).age(&now), Some(Duration::from_millis(100)));
        assert_eq!(other(10_500_001).age(&now), None, "it is from the future");
    }
}
