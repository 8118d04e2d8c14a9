//! Proof that a cached answer is new enough for a reader, from the metadata of its entry.
//!
//! **Invariant:** what passes is of the shard's timeline, not older than the reader allows, and
//! holds what the reader's session has seen. Nothing else is asked of an entry, however it came to
//! be where it was found.
//! **Not here:** how an answer spells it (`entry`), what a reader demands of its shard (`manager`).

use std::time::{Duration, Instant};

use model::sabotage::{Mutation, is_on};

/// By how much the clocks of two routers may differ. The age of what another router has stored
/// counts as so much more, and what is further in the future than this proves nothing. It is what
/// clocks of nodes may differ by before operators are warned.
pub const CLOCK_ALLOWANCE: Duration = Duration::from_millis(500);

/// Lower bound of how new the rows of a read are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessBound {
    /// The timeline of the shard when the read began, and when it had ended.
    pub timeline: u32,
    /// Every change up to here is in the rows; 0 if nothing is known.
    pub floor: u64,
    /// Moment at which the node that was read had every acknowledged change.
    pub as_of: Instant,
}

/// A moment, as the clock of its process and the clock of its machine show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The process whose clock counted `own`.
    pub process: u64,
    /// Microseconds of that process, which nobody sets; before its beginning they are negative.
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
    /// Whose entries `own` is for; `wall` is for those of all others.
    pub(super) process: u64,
    pub(super) own: i64,
    pub(super) wall: i64,
}

impl CurrentSince {
    /// For a reader who allows this age now.
    pub(super) fn of(now: &ClockReading, age_max: Duration) -> Self {
        let age = i64::try_from(age_max.as_micros()).unwrap_or(i64::MAX);
        let allowance = CLOCK_ALLOWANCE.as_micros() as i64;
        // Nothing is from before the clocks begin.
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
    /// Every change up to here is in it.
    pub floor: u64,
    /// No change after here is in it: a session that has been given it has seen so far.
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
    /// True if these facts fulfil the requirement, `now`.
    pub fn proves(&self, requirement: &FreshnessRequirement, now: &ClockReading) -> bool {
        if is_on(Mutation::CacheSetWithoutVersion) {
            return true;
        }
        self.timeline == requirement.timeline
            && requirement.seen.is_none_or(|seen| seen <= self.floor)
            && self.as_of.age(now).is_some_and(|age| age <= requirement.age_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metadata(timeline: u32, floor: u64, as_of: ClockReading) -> EntryMetadata {
        EntryMetadata { timeline, floor, seen: floor, as_of }
    }

    proptest! {
        /// A shard of which every change is numbered and timed; a read of a node that was behind; a
        /// reader who comes later.
        #[test]
        fn what_proves_itself_is_never_older_than_was_asked_for(
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
            // It had everything just before the first change that it has not applied.
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
                // Every change that was acknowledged longer ago than the bound is in it.
                let owed = times.iter().filter(|time| **time < now - age_max as i64).count();
                prop_assert!(owed <= applied, "{owed} of {times:?} at {now}, {applied} applied");
            }
        }

        #[test]
        fn another_timeline_proves_nothing(
            floor in any::<u64>(), seen in prop::option::of(any::<u64>()), timeline in 0_u32..3,
        ) {
            let now = ClockReading { process: 0, own: 0, wall: 0 };
            let requirement = FreshnessRequirement { timeline: 7, seen, age_max: Duration::MAX };
            prop_assert!(!metadata(timeline, floor, now).proves(&requirement, &now));
        }

        /// What Redis is told to pass over is what the reader would.
        #[test]
        fn what_is_older_than_the_oldest_is_what_is_too_old(
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
    fn what_serves_no_token_still_serves_those_who_have_none() {
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
    fn the_clock_of_another_is_trusted_as_far_as_clocks_may_differ() {
        let now = ClockReading { process: 1, own: 0, wall: 10_000_000 };
        let other = |wall| ClockReading { process: 2, own: 0, wall };
        assert_eq!(other(10_000_000).age(&now), Some(CLOCK_ALLOWANCE));
        assert_eq!(other(10_400_000).age(&now), Some(Duration::from_millis(100)));
        assert_eq!(other(10_500_001).age(&now), None, "it is from the future");
    }
}
