//! Admission: decides which queries are frequent enough to be worth a lookup in Redis.
//!
//! Using Redis for a query pays off only if the same query is expected again before the result is
//! too old. A table of fixed size therefore keeps two facts about each of the most recent queries:
//! the average gap between two requests, and the time at which the entry last seen in Redis was
//! current. The table counts the requests of this process only, and starts empty.
//!
//! The hash of a query selects one cache line of the processor, in which the query may use any of
//! four entries; a new query replaces the one that was requested longest ago. If two threads record
//! the same query at the same time, one of the two requests may be lost.
//!
//! **Invariant:** the table never grows, and recording a request neither waits nor allocates. A
//! wrong value in the table causes a useless lookup or prevents a useful one; no guarantee depends
//! on the table.
//! **Not here:** reads that are not admitted (`read_path`), the check that an entry is new enough
//! (`proof`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cache_key::Name;

/// Number of queries in one line of the table, which is one cache line of the processor.
const WAYS: usize = 4;
/// Number of lines of the table. With two words of 8 bytes for each query, the table takes 1 MiB.
const SETS: usize = 1 << 14;
/// Binary logarithm of the microseconds in one tick, the unit of all times in the table.
const TICK_SHIFT: u32 = 4;
/// Number of bits for the gap between two requests, in ticks. The longest gap is about 17 s. Longer
/// gaps need no distinction: no result may be older than 30 s, so for two uses of one result the
/// gap must be at most 15 s. A request after a longer gap counts as the first one.
const GAP_BITS: u32 = 20;
/// Number of bits for the time of the last request, in ticks. The time wraps around after about
/// five hours; a query that is repeated exactly then looks as if it were repeated at once.
const LAST_BITS: u32 = 30;
/// Number of bits of the tag, the part of the hash that distinguishes the queries of one line.
const TAG_BITS: u32 = 14;
/// Divisor of the moving average: each new gap moves the average by their difference divided by
/// this number.
const WEIGHT: u64 = 4;
/// Minimum number of ticks between two recorded requests of a query. An earlier request is not
/// recorded, so that threads that request one key very often do not contend for its cache line.
const FASTEST: u64 = 4;
/// An entry is recorded only if it is newer than the recorded one by more than this many
/// microseconds.
const NEWER_FROM: u64 = 1_000;

const GAP_MAX: u64 = (1 << GAP_BITS) - 1;
const LAST_MASK: u64 = (1 << LAST_BITS) - 1;
const SEEN_MASK: u64 = (1 << (GAP_BITS + LAST_BITS)) - 1;

/// Hash that identifies a query about one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question(u64);

impl Question {
    pub(super) fn of(name: &Name) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = name.field;
        // Both parts are hashes with a secret key, so a client cannot cause collisions.
        Self(name.key_hash as u64 ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    fn tag(self) -> u64 {
        // A tag of 0 marks an unused entry, so no query has it.
        (self.0 >> (u64::BITS - TAG_BITS)).max(1)
    }
}

/// Expected state of a query's entry in Redis, from the last time that this router saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Redis has an entry that is new enough.
    Enough,
    /// Redis has an entry that is too old.
    TooOld,
    /// No entry is known.
    Unknown,
}

/// Table entry of one query. Each of the two words begins with the tag of the query.
#[derive(Default)]
struct Slot {
    /// Time of the last request, and the average gap between requests, which is 0 after a single
    /// request.
    requests: AtomicU64,
    /// Time at which the entry last seen in Redis was current.
    seen: AtomicU64,
}

#[derive(Default)]
#[repr(align(64))]
struct Line([Slot; WAYS]);

/// Table of the frequencies of queries. The times that are passed to its methods are microseconds
/// of one clock.
pub(super) struct Admission {
    lines: Box<[Line]>,
    min_uses: u64,
}

/// Packs the tag, the time of the last request and the average gap into one word.
fn word(tag: u64, last: u64, gap: u64) -> u64 {
    tag << (LAST_BITS + GAP_BITS) | last << GAP_BITS | gap
}

fn tag_of(word: u64) -> u64 {
    word >> (LAST_BITS + GAP_BITS)
}

/// Returns the ticks from `last` to `now`; 0 if `now` is earlier. Threads may record their times
/// slightly out of order. A difference of almost the whole range therefore means that `now` is
/// earlier.
fn since(last: u64, now: u64) -> u64 {
    let passed = now.wrapping_sub(last) & LAST_MASK;
    if passed > LAST_MASK - GAP_MAX { 0 } else { passed }
}

impl Admission {
    /// Creates a table that admits a query if at least `min_uses` requests of it are expected while
    /// one result stays new enough. With 1, it admits all queries.
    pub(super) fn new(min_uses: usize) -> Self {
        Self { lines: (0..SETS).map(|_| Line::default()).collect(), min_uses: min_uses as u64 }
    }

    /// Records a request at the time `now`. Returns true if the query is frequent enough to look up
    /// its result in Redis and to store it there.
    pub(super) fn record_request(&self, question: Question, now: u64, age_max: Duration) -> bool {
        let gap = self.gap(question, (now >> TICK_SHIFT) & LAST_MASK);
        let within = age_max.as_micros() as u64;
        self.min_uses <= 1
            || gap.is_some_and(|gap| (gap << TICK_SHIFT).saturating_mul(self.min_uses) <= within)
    }

    /// Records a request; returns the average gap in ticks, if one is known.
    fn gap(&self, question: Question, now: u64) -> Option<u64> {
        let Line(slots) = self.line(question);
        let tag = question.tag();
        let Some(slot) = find(slots, tag) else {
            let idle = |slot: &&Slot| {
                let word = slot.requests.load(Ordering::Relaxed);
                if word == 0 { LAST_MASK } else { since(word >> GAP_BITS & LAST_MASK, now) }
            };
            if let Some(slot) = slots.iter().max_by_key(idle) {
                slot.requests.store(word(tag, now, 0), Ordering::Relaxed);
            }
            return None;
        };
        let known = slot.requests.load(Ordering::Relaxed);
        let (gap, passed) = (known & GAP_MAX, since(known >> GAP_BITS & LAST_MASK, now));
        if gap != 0 && passed < FASTEST {
            return Some(gap);
        }
        let gap = match gap {
            _ if passed >= GAP_MAX => 0,
            0 => passed.max(1),
            gap => ((WEIGHT - 1) * gap + passed + WEIGHT / 2) / WEIGHT,
        };
        let reported = word(tag, now, gap);
        let (set, seen) = (Ordering::Relaxed, Ordering::Relaxed);
        // The exchange fails if another thread has recorded a request at the same time; this
        // request is then not counted.
        let _ = slot.requests.compare_exchange(known, reported, set, seen);
        (gap != 0).then_some(gap)
    }

    /// Returns the expected state of a query's entry in Redis, for a client that accepts a result
    /// of this age.
    pub(super) fn expects(&self, question: Question, now: u64, age_max: Duration) -> Expected {
        let tag = question.tag();
        let word = find(&self.line(question).0, tag).map(|it| it.seen.load(Ordering::Relaxed));
        let Some(word) = word.filter(|word| tag_of(*word) == tag) else { return Expected::Unknown };
        let age = now.saturating_sub(word & SEEN_MASK);
        if age <= age_max.as_micros() as u64 { Expected::Enough } else { Expected::TooOld }
    }

    /// Records in the table that Redis has an entry, which was current at `as_of`.
    pub(super) fn record_entry(&self, question: Question, as_of: u64) {
        let tag = question.tag();
        let Some(slot) = find(&self.line(question).0, tag) else { return };
        let known = slot.seen.load(Ordering::Relaxed);
        if tag_of(known) == tag && as_of < (known & SEEN_MASK) + NEWER_FROM {
            return;
        }
        slot.seen.store(tag << (LAST_BITS + GAP_BITS) | as_of.min(SEEN_MASK), Ordering::Relaxed);
    }

    /// Records that Redis has no entry.
    pub(super) fn forget(&self, question: Question) {
        if let Some(slot) = find(&self.line(question).0, question.tag()) {
            slot.seen.store(0, Ordering::Relaxed);
        }
    }

    fn line(&self, Question(hash): Question) -> &Line {
        &self.lines[hash as usize % SETS]
    }
}

fn find(slots: &[Slot; WAYS], tag: u64) -> Option<&Slot> {
    slots.iter().find(|slot| tag_of(slot.requests.load(Ordering::Relaxed)) == tag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const AGE: Duration = Duration::from_secs(1);

    fn question(number: u64) -> Question {
        // The multiplication spreads the numbers over all bits, as a hash does.
        Question(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    #[test]
    fn the_second_request_soon_after_the_first_is_admitted() {
        let table = Admission::new(2);
        assert!(
            !table.record_request(question(1), 5 * SECOND, AGE),
            "a second request may never come"
        );
        assert!(table.record_request(question(1), 5 * SECOND + 400_000, AGE));
        assert!(
            !table.record_request(question(2), 5 * SECOND + 400_000, AGE),
            "it is another query"
        );
        assert!(!table.record_request(question(2), 5 * SECOND + 950_000, AGE), "too seldom");
    }

    #[test]
    fn the_allowed_age_decides_and_every_request_counts() {
        let table = Admission::new(2);
        let strict = Duration::from_millis(10);
        for number in 0..10 {
            let at = SECOND + number * 100_000;
            assert_eq!(table.record_request(question(1), at, AGE), number > 0);
            assert!(!table.record_request(question(1), at + 50_000, strict));
        }
        assert!(!table.record_request(question(1), 3 * SECOND, Duration::ZERO));
    }

    #[test]
    fn with_one_use_the_first_request_is_admitted() {
        let table = Admission::new(1);
        assert!(table.record_request(question(1), 0, Duration::ZERO));
    }

    #[test]
    fn a_query_not_requested_for_long_starts_over() {
        let table = Admission::new(2);
        for number in 0..100 {
            table.record_request(question(1), SECOND + number * 1_000, AGE);
        }
        assert!(!table.record_request(question(1), 60 * SECOND, AGE));
        assert!(table.record_request(question(1), 60 * SECOND + 1_000, AGE));
    }

    #[test]
    fn a_query_not_requested_for_hours_starts_over_and_is_replaced_first() {
        const HOUR: u64 = 3_600 * SECOND;
        let in_line = |tag: u64| Question((tag + 1) << (u64::BITS - TAG_BITS) | 7);
        for hours in [1, 2, 3, 4] {
            let table = Admission::new(2);
            for number in 0..10 {
                table.record_request(in_line(0), SECOND + number * 1_000, AGE);
            }
            let later = SECOND + hours * HOUR;
            assert!(!table.record_request(in_line(0), later, AGE), "{hours} h");
            assert!(table.record_request(in_line(0), later + 1_000, AGE), "{hours} h");
            for tag in 1..WAYS as u64 {
                table.record_request(in_line(tag), later + hours * HOUR, AGE);
            }
            table.record_request(in_line(9), later + hours * HOUR + 1_000, AGE);
            assert!(find(&table.line(in_line(0)).0, in_line(0).tag()).is_none(), "{hours} h");
        }
    }

    #[test]
    fn a_request_recorded_late_does_no_harm() {
        let table = Admission::new(2);
        for at in [SECOND, SECOND + 100_000, SECOND + 90_000, SECOND + 200_000] {
            table.record_request(question(1), at, AGE);
        }
        assert!(table.record_request(question(1), SECOND + 300_000, AGE));
    }

    #[test]
    fn the_entry_last_seen_decides_the_expectation() {
        let table = Admission::new(1);
        let expects = |now| table.expects(question(1), now, AGE);
        table.record_entry(question(1), SECOND);
        assert_eq!(expects(SECOND), Expected::Unknown, "it was never requested");
        table.record_request(question(1), SECOND, AGE);
        table.record_entry(question(1), SECOND);
        assert_eq!(expects(2 * SECOND), Expected::Enough);
        assert_eq!(expects(2 * SECOND + 1), Expected::TooOld);
        table.record_entry(question(1), SECOND / 2);
        assert_eq!(expects(2 * SECOND), Expected::Enough, "an older entry replaces no newer one");
        table.record_entry(question(1), 3 * SECOND);
        assert_eq!(expects(4 * SECOND), Expected::Enough);
        assert_eq!(expects(SECOND), Expected::Enough, "for a reader that began earlier");
        table.forget(question(1));
        assert_eq!(expects(4 * SECOND), Expected::Unknown);
    }

    #[test]
    fn the_query_of_a_line_requested_longest_ago_is_replaced() {
        let table = Admission::new(2);
        let in_line = |tag: u64| Question((tag + 1) << (u64::BITS - TAG_BITS) | 7);
        for tag in 0..WAYS as u64 {
            table.record_request(in_line(tag), SECOND + tag * 1_000, AGE);
        }
        table.record_request(in_line(0), SECOND + 10_000, AGE);
        table.record_entry(in_line(1), SECOND);
        table.record_request(in_line(9), SECOND + 20_000, AGE);
        assert!(table.record_request(in_line(0), SECOND + 30_000, AGE));
        assert_eq!(table.expects(in_line(1), SECOND, AGE), Expected::Unknown);
        assert_eq!(table.expects(in_line(9), SECOND, AGE), Expected::Unknown, "not another's");
        assert!(!table.record_request(in_line(1), SECOND + 40_000, AGE), "its slot was taken");
    }

    #[test]
    fn the_table_takes_exactly_one_megabyte() {
        let table = Admission::new(2);
        assert_eq!(size_of_val(&*table.lines), 1 << 20);
        for number in 0..300_000 {
            table.record_request(question(number), SECOND + number, AGE);
        }
        assert_eq!(size_of_val(&*table.lines), 1 << 20);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Each of several queries is admitted or not by its own frequency.
        #[test]
        fn a_steady_query_is_admitted_if_and_only_if_it_is_frequent_enough(
            gaps in prop::collection::vec(200_u64..5_000_000, 1..6),
            age in 1_000_u64..30_000_000,
            min_uses in 2_usize..=100,
            began in 0_u64..100_000_000_000,
        ) {
            let table = Admission::new(min_uses);
            let within = Duration::from_micros(age);
            let mut requests: Vec<(u64, usize)> = Vec::new();
            for (index, gap) in gaps.iter().enumerate() {
                requests.extend((0..20).map(|number| (began + number * gap, index)));
            }
            requests.sort_unstable();
            let mut last = vec![false; gaps.len()];
            for (at, index) in requests {
                last[index] = table.record_request(question(index as u64), at, within);
            }
            for (gap, admitted) in gaps.iter().zip(last) {
                let needed = gap * min_uses as u64;
                // A tick is 16 microseconds, and a gap is rounded to whole ticks.
                let slack = (min_uses as u64 * 4) << TICK_SHIFT;
                if needed + slack < age {
                    prop_assert!(admitted, "every {gap} within {age}");
                }
                if needed > age + slack {
                    prop_assert!(!admitted, "every {gap} within {age}");
                }
            }
        }

        #[test]
        fn no_input_overflows(
            requests in prop::collection::vec((0_u64..40, any::<u64>(), any::<u64>()), 0..60),
        ) {
            let table = Admission::new(usize::MAX);
            for (number, now, age) in requests {
                let age = Duration::from_micros(age);
                table.record_request(question(number), now, age);
                table.record_entry(question(number), now);
                table.expects(question(number), now, age);
            }
        }
    }
}
