//! Proof: checks from the metadata of a cached answer that the answer is new enough for a reader.
//!
//! **Invariant:** an answer that passes is of the shard's timeline, is not older than the reader
//! allows, and holds everything that the reader's session has seen. No other check applies,
//! wherever the entry was found.
//! **Not here:** the encoding of the metadata (`entry`), the requirements of a read on its shard
//! (`manager`).

use std::time::{Duration, Instant};

use model::sabotage::{Mutation, is_on};

/// Highest difference between the clocks of two routers. The age of an entry stored by another
/// router counts as higher by this much, and an entry further in the future than this proves
/// nothing. It equals the clock difference between nodes at which operators are warned.
pub const CLOCK_ALLOWANCE: Duration = Duration::from_millis(500);

/// Lower bound of how new the rows of a read are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessBound {
    /// The timeline of the shard, the same at the beginning and at the end of the read.
    pub timeline: u32,
    /// Every change up to this position is in the rows; 0 if nothing is known.
    pub min_position: u64,
    /// Moment at which the node that was read had every acknowledged change.
    pub as_of: Instant,
}

/// A moment, by the clock of its process and by the clock of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The process that counted `own`.
    pub process: u64,
    /// Microseconds since that process began, by a monotonic clock; negative for earlier moments.
    pub own: i64,
    /// Microseconds since 1970, by the clock of the machine.
    pub wall: i64,
}

impl ClockReading {
    /// Highest possible age at `now`; `None` if the moment is in the future.
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

/// Earliest moment at which a new enough answer was current, by the clock of this process and by
/// those of machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CurrentSince {
    /// The process to whose entries `own` applies; `wall` applies to the entries of all others.
    pub(super) process: u64,
    pub(super) own: i64,
    pub(super) wall: i64,
}

impl CurrentSince {
    /// Returns the bound for a reader that allows this age now.
    pub(super) fn of(now: &ClockReading, age_max: Duration) -> Self {
        let age = i64::try_from(age_max.as_micros()).unwrap_or(i64::MAX);
        let allowance = CLOCK_ALLOWANCE.as_micros() as i64;
        // The script reads the times of entries as unsigned numbers, for which a bound below 0
        // means the same as 0.
        let own = now.own.saturating_sub(age).max(0);
        let wall = now.wall.saturating_sub(age).saturating_add(allowance).max(0);
        Self { process: now.process, own, wall }
    }
}

/// Facts about an answer that prove how new it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryMetadata {
    /// The timeline of its shard.
    pub timeline: u32,
    /// Every change up to this position is in the answer.
    pub min_position: u64,
    /// No change after this position is in the answer: a session that received it has seen up to
    /// here.
    pub seen: u64,
    /// Moment at which it was current.
    pub as_of: ClockReading,
}

/// Requirement of a reader on the age and content of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessRequirement {
    /// The timeline of the shard, which holds what the reader's session has seen.
    pub timeline: u32,
    /// Position that the session has seen of the shard.
    pub seen: Option<u64>,
    /// Highest age of the answer.
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
        /// Checks answers against a model of a shard in which each change has a number and a time.
        /// A lagging node gives the answer, and a reader requests it later.
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
                // Every change that was acknowledged longer ago than the bound is in the answer.
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

        /// The entries that the Redis script skips are those that the reader would refuse.
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
