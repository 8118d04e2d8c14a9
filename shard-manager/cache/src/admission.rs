//! Admission: which questions are asked often enough to be worth a visit to Redis.
//!
//! A visit pays only if what it brings or stores is asked for again before it is too old. So a
//! table of fixed size remembers of the questions that were asked last how long it usually is from
//! one ask to the next, and when the entry was current that this router last saw in Redis. It is of
//! this process: what others are asked does not count, and a router that starts knows nothing.
//!
//! A question has its place in one of four slots of one line of memory; the one that was asked
//! longest ago gives way. Two threads that ask the same at the same time may lose one of the two
//! asks.
//!
//! **Invariant:** the table never grows, and nobody waits for it or allocates for an ask. What it
//! has wrong costs a visit to Redis or saves one, and no promise rests on it.
//! **Not here:** what is done with a question that is not admitted (`read_path`), whether an entry
//! is enough (`proof`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cache_key::Name;

/// Slots of one line of memory.
const WAYS: usize = 4;
/// Lines: with two words a slot, the table takes 1 MiB.
const SETS: usize = 1 << 14;
/// Microseconds of one tick, in which asks are timed: as a shift.
const TICK_SHIFT: u32 = 4;
/// Bits of the gap between two asks, in ticks; the longest is about 17 s, more than half of the
/// oldest age that anybody allows. Who asks after a longer one is as if the first.
const GAP_BITS: u32 = 20;
/// Bits of the time of the last ask, in ticks: it comes round after about five hours. What is asked
/// again at just that time passes for asked just now.
const LAST_BITS: u32 = 30;
/// Bits of what tells two questions of one line apart.
const TAG_BITS: u32 = 14;
/// An ask moves the gap by one of so many parts.
const WEIGHT: u64 = 4;
/// Asks that follow each other faster than so many ticks count as one: threads that are asked for
/// the same key all the time do not take its line from each other.
const FASTEST: u64 = 4;
/// By how many microseconds an entry must be newer than the one that is known for that to be
/// written down.
const NEWER_FROM: u64 = 1_000;

const GAP_MAX: u64 = (1 << GAP_BITS) - 1;
const LAST_MASK: u64 = (1 << LAST_BITS) - 1;
const SEEN_MASK: u64 = (1 << (GAP_BITS + LAST_BITS)) - 1;

/// A question, as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question(u64);

impl Question {
    pub(super) fn of(name: &Name) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = name.field;
        // Both are keyed hashes.
        Self(name.key_hash as u64 ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    fn tag(self) -> u64 {
        // A slot that was never taken has none.
        (self.0 >> (u64::BITS - TAG_BITS)).max(1)
    }
}

/// Expectation about the entry of a question in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// One that is new enough.
    Enough,
    /// One that is too old.
    TooOld,
    /// Nothing.
    Unknown,
}

/// One question. Each word begins with its tag.
#[derive(Default)]
struct Slot {
    /// Time of the last request, and the gap between requests: 0 if there was one only.
    asks: AtomicU64,
    /// Time at which the entry last seen in Redis was current.
    seen: AtomicU64,
}

#[derive(Default)]
#[repr(align(64))]
struct Line([Slot; WAYS]);

/// Table of how often questions are asked. All times are microseconds of one clock.
pub(super) struct Admission {
    lines: Box<[Line]>,
    min_uses: u64,
}

/// The word of an ask.
fn word(tag: u64, last: u64, gap: u64) -> u64 {
    tag << (LAST_BITS + GAP_BITS) | last << GAP_BITS | gap
}

fn tag_of(word: u64) -> u64 {
    word >> (LAST_BITS + GAP_BITS)
}

/// Ticks from one time to a later one; 0 if it is not later. Threads are late by little: all but
/// the last part of the round has passed.
fn since(last: u64, now: u64) -> u64 {
    let passed = now.wrapping_sub(last) & LAST_MASK;
    if passed > LAST_MASK - GAP_MAX { 0 } else { passed }
}

impl Admission {
    /// A table that admits what is expected to be asked so often while its answer is new enough;
    /// all, if that is once.
    pub(super) fn new(min_uses: usize) -> Self {
        Self { lines: (0..SETS).map(|_| Line::default()).collect(), min_uses: min_uses as u64 }
    }

    /// Notes a request; returns true if the question is asked often enough to look for its answer
    /// in Redis and keep it there.
    pub(super) fn asked(&self, question: Question, now: u64, age_max: Duration) -> bool {
        let gap = self.gap(question, (now >> TICK_SHIFT) & LAST_MASK);
        let within = age_max.as_micros() as u64;
        self.min_uses <= 1
            || gap.is_some_and(|gap| (gap << TICK_SHIFT).saturating_mul(self.min_uses) <= within)
    }

    /// Writes down an ask, and tells the gap in ticks, if one is known.
    fn gap(&self, question: Question, now: u64) -> Option<u64> {
        let Line(slots) = self.line(question);
        let tag = question.tag();
        let Some(slot) = find(slots, tag) else {
            let idle = |slot: &&Slot| {
                let word = slot.asks.load(Ordering::Relaxed);
                if word == 0 { LAST_MASK } else { since(word >> GAP_BITS & LAST_MASK, now) }
            };
            if let Some(slot) = slots.iter().max_by_key(idle) {
                slot.asks.store(word(tag, now, 0), Ordering::Relaxed);
            }
            return None;
        };
        let known = slot.asks.load(Ordering::Relaxed);
        let (gap, passed) = (known & GAP_MAX, since(known >> GAP_BITS & LAST_MASK, now));
        if gap != 0 && passed < FASTEST {
            return Some(gap);
        }
        let gap = match gap {
            _ if passed >= GAP_MAX => 0,
            0 => passed.max(1),
            gap => ((WEIGHT - 1) * gap + passed + WEIGHT / 2) / WEIGHT,
        };
        let told = word(tag, now, gap);
        let (set, seen) = (Ordering::Relaxed, Ordering::Relaxed);
        // Another was asked at the same time: that one counts.
        let _ = slot.asks.compare_exchange(known, told, set, seen);
        (gap != 0).then_some(gap)
    }

    /// Returns the expectation of a reader who allows this age.
    pub(super) fn expects(&self, question: Question, now: u64, age_max: Duration) -> Expected {
        let tag = question.tag();
        let word = find(&self.line(question).0, tag).map(|it| it.seen.load(Ordering::Relaxed));
        let Some(word) = word.filter(|word| tag_of(*word) == tag) else { return Expected::Unknown };
        let age = now.saturating_sub(word & SEEN_MASK);
        if age <= age_max.as_micros() as u64 { Expected::Enough } else { Expected::TooOld }
    }

    /// Notes an entry in Redis, and the time at which it was current.
    pub(super) fn saw(&self, question: Question, as_of: u64) {
        let tag = question.tag();
        let Some(slot) = find(&self.line(question).0, tag) else { return };
        let known = slot.seen.load(Ordering::Relaxed);
        if tag_of(known) == tag && as_of < (known & SEEN_MASK) + NEWER_FROM {
            return;
        }
        slot.seen.store(tag << (LAST_BITS + GAP_BITS) | as_of.min(SEEN_MASK), Ordering::Relaxed);
    }

    /// Notes that there is no entry.
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
    slots.iter().find(|slot| tag_of(slot.asks.load(Ordering::Relaxed)) == tag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const AGE: Duration = Duration::from_secs(1);

    fn question(number: u64) -> Question {
        // As spread as hashes are.
        Question(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    #[test]
    fn the_second_ask_soon_after_the_first_is_admitted() {
        let table = Admission::new(2);
        assert!(
            !table.asked(question(1), 5 * SECOND, AGE),
            "nobody knows whether there is another"
        );
        assert!(table.asked(question(1), 5 * SECOND + 400_000, AGE));
        assert!(!table.asked(question(2), 5 * SECOND + 400_000, AGE), "it is another question");
        assert!(!table.asked(question(2), 5 * SECOND + 950_000, AGE), "too seldom");
    }

    #[test]
    fn what_a_reader_allows_decides_and_all_asks_count() {
        let table = Admission::new(2);
        let strict = Duration::from_millis(10);
        for number in 0..10 {
            let at = SECOND + number * 100_000;
            assert_eq!(table.asked(question(1), at, AGE), number > 0);
            assert!(!table.asked(question(1), at + 50_000, strict));
        }
        assert!(!table.asked(question(1), 3 * SECOND, Duration::ZERO));
    }

    #[test]
    fn where_one_use_is_enough_the_first_ask_is_admitted() {
        let table = Admission::new(1);
        assert!(table.asked(question(1), 0, Duration::ZERO));
    }

    #[test]
    fn what_nobody_asked_for_a_long_time_begins_anew() {
        let table = Admission::new(2);
        for number in 0..100 {
            table.asked(question(1), SECOND + number * 1_000, AGE);
        }
        assert!(!table.asked(question(1), 60 * SECOND, AGE));
        assert!(table.asked(question(1), 60 * SECOND + 1_000, AGE));
    }

    #[test]
    fn what_nobody_asked_for_hours_begins_anew_and_is_the_first_to_give_way() {
        const HOUR: u64 = 3_600 * SECOND;
        let in_line = |tag: u64| Question((tag + 1) << (u64::BITS - TAG_BITS) | 7);
        for hours in [1, 2, 3, 4] {
            let table = Admission::new(2);
            for number in 0..10 {
                table.asked(in_line(0), SECOND + number * 1_000, AGE);
            }
            let later = SECOND + hours * HOUR;
            assert!(!table.asked(in_line(0), later, AGE), "{hours} h");
            assert!(table.asked(in_line(0), later + 1_000, AGE), "{hours} h");
            for tag in 1..WAYS as u64 {
                table.asked(in_line(tag), later + hours * HOUR, AGE);
            }
            table.asked(in_line(9), later + hours * HOUR + 1_000, AGE);
            assert!(find(&table.line(in_line(0)).0, in_line(0).tag()).is_none(), "{hours} h");
        }
    }

    #[test]
    fn an_ask_that_is_told_late_harms_nothing() {
        let table = Admission::new(2);
        for at in [SECOND, SECOND + 100_000, SECOND + 90_000, SECOND + 200_000] {
            table.asked(question(1), at, AGE);
        }
        assert!(table.asked(question(1), SECOND + 300_000, AGE));
    }

    #[test]
    fn what_was_seen_last_tells_what_to_expect() {
        let table = Admission::new(1);
        let expects = |now| table.expects(question(1), now, AGE);
        table.saw(question(1), SECOND);
        assert_eq!(expects(SECOND), Expected::Unknown, "nobody asks for it");
        table.asked(question(1), SECOND, AGE);
        table.saw(question(1), SECOND);
        assert_eq!(expects(2 * SECOND), Expected::Enough);
        assert_eq!(expects(2 * SECOND + 1), Expected::TooOld);
        table.saw(question(1), SECOND / 2);
        assert_eq!(expects(2 * SECOND), Expected::Enough, "what is older is not what is there");
        table.saw(question(1), 3 * SECOND);
        assert_eq!(expects(4 * SECOND), Expected::Enough);
        assert_eq!(expects(SECOND), Expected::Enough, "from the view of who asked before");
        table.forget(question(1));
        assert_eq!(expects(4 * SECOND), Expected::Unknown);
    }

    #[test]
    fn of_a_line_the_one_that_was_asked_longest_ago_gives_way() {
        let table = Admission::new(2);
        let in_line = |tag: u64| Question((tag + 1) << (u64::BITS - TAG_BITS) | 7);
        for tag in 0..WAYS as u64 {
            table.asked(in_line(tag), SECOND + tag * 1_000, AGE);
        }
        table.asked(in_line(0), SECOND + 10_000, AGE);
        table.saw(in_line(1), SECOND);
        table.asked(in_line(9), SECOND + 20_000, AGE);
        assert!(table.asked(in_line(0), SECOND + 30_000, AGE));
        assert_eq!(table.expects(in_line(1), SECOND, AGE), Expected::Unknown);
        assert_eq!(table.expects(in_line(9), SECOND, AGE), Expected::Unknown, "not another's");
        assert!(!table.asked(in_line(1), SECOND + 40_000, AGE), "it has lost its place");
    }

    #[test]
    fn it_takes_a_megabyte_and_no_more() {
        let table = Admission::new(2);
        assert_eq!(size_of_val(&*table.lines), 1 << 20);
        for number in 0..300_000 {
            table.asked(question(number), SECOND + number, AGE);
        }
        assert_eq!(size_of_val(&*table.lines), 1 << 20);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Of several questions each is asked at its own pace.
        #[test]
        fn what_is_asked_steadily_is_admitted_if_and_only_if_it_is_asked_often_enough(
            gaps in prop::collection::vec(200_u64..5_000_000, 1..6),
            age in 1_000_u64..30_000_000,
            min_uses in 2_usize..=100,
            began in 0_u64..100_000_000_000,
        ) {
            let table = Admission::new(min_uses);
            let within = Duration::from_micros(age);
            let mut asks: Vec<(u64, usize)> = Vec::new();
            for (index, gap) in gaps.iter().enumerate() {
                asks.extend((0..20).map(|number| (began + number * gap, index)));
            }
            asks.sort_unstable();
            let mut last = vec![false; gaps.len()];
            for (at, index) in asks {
                last[index] = table.asked(question(index as u64), at, within);
            }
            for (gap, admitted) in gaps.iter().zip(last) {
                let needed = gap * min_uses as u64;
                // A tick is 16 microseconds, and a gap is rounded to one.
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
        fn nothing_that_it_is_told_overflows(
            asks in prop::collection::vec((0_u64..40, any::<u64>(), any::<u64>()), 0..60),
        ) {
            let table = Admission::new(usize::MAX);
            for (number, now, age) in asks {
                let age = Duration::from_micros(age);
                table.asked(question(number), now, age);
                table.saw(question(number), now);
                table.expects(question(number), now, age);
            }
        }
    }
}
