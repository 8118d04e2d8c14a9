//! Slot set: a set of slots, one bit for each of the 16 384.
//!
//! The bytes have the layout of PostgreSQL's `get_bit` on a `bytea`: slot n is bit n mod 8 of byte
//! n / 8, so a set is compared and sent as it is stored.
//!
//! **Invariant:** bit n is set if and only if slot n is in the set.
//! **Not here:** the owner of a slot (`shard_map`), the state of a slot on a shard
//! (`slot_refusal`).

use std::fmt;
use std::str::FromStr;

use crate::keyspace::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT as usize / 64;

/// Set of slots. It takes 2 KiB, so it is shared rather than copied.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet {
    words: Box<[u64; WORDS]>,
}

impl SlotSet {
    /// Bytes of a stored set.
    pub const BYTES: usize = WORDS * 8;

    /// Creates a set without slots.
    pub fn empty() -> Self {
        Self { words: Box::new([0; WORDS]) }
    }

    /// Creates the set of all slots.
    pub fn full() -> Self {
        Self { words: Box::new([u64::MAX; WORDS]) }
    }

    /// Restores a set from its bytes; `None` if there are not exactly [`SlotSet::BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES {
            return None;
        }
        let mut set = Self::empty();
        for (word, bytes) in set.words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(set)
    }

    /// Returns the bytes of the set, [`SlotSet::BYTES`] of them.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Adds a slot.
    pub fn insert(&mut self, slot: Slot) {
        self.words[slot.index() / 64] |= 1 << (slot.index() % 64);
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: Slot) {
        self.words[slot.index() / 64] &= !(1 << (slot.index() % 64));
    }

    /// Returns true if the slot is in the set.
    #[inline]
    pub fn contains(&self, slot: Slot) -> bool {
        self.words[slot.index() / 64] >> (slot.index() % 64) & 1 == 1
    }

    /// Adds all slots of another set.
    pub fn unite(&mut self, other: &Self) {
        self.words.iter_mut().zip(other.words.iter()).for_each(|(word, other)| *word |= other);
    }

    /// Returns true if no slot is in both sets.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.words.iter().zip(other.words.iter()).all(|(word, other)| word & other == 0)
    }

    /// Returns the slots that are in this set and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.words.iter_mut().zip(other.words.iter()).for_each(|(word, other)| *word &= !other);
        left
    }

    /// Returns the number of slots.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns true if there are no slots.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Returns true if all slots are in the set.
    pub fn is_full(&self) -> bool {
        self.words.iter().all(|word| *word == u64::MAX)
    }

    /// Returns the slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let next = |slot: &u16| find(&self.words, usize::from(*slot) + 1, true);
        std::iter::successors(find(&self.words, 0, true), next).filter_map(Slot::new)
    }

    /// Returns the slots as consecutive ranges, each with its first and last slot.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let mut next = 0;
        while let Some(first) = find(&self.words, next, true) {
            let end = find(&self.words, usize::from(first), false).unwrap_or(SLOT_COUNT);
            ranges.push((first, end - 1));
            next = usize::from(end);
        }
        ranges
    }
}

/// Returns the first slot from this number on that is in the set, or the first that is not. Whole
/// words are skipped: most sets have long ranges.
fn find(words: &[u64; WORDS], from: usize, is_in: bool) -> Option<u16> {
    let mut rest = words.iter().enumerate().skip(from / 64).map(|(index, word)| {
        let word = if is_in { *word } else { !*word };
        let seen = if index == from / 64 { (1 << (from % 64)) - 1 } else { 0 };
        (index, word & !seen)
    });
    let (index, word) = rest.find(|(_, word)| *word != 0)?;
    u16::try_from(index * 64 + word.trailing_zeros() as usize).ok()
}

/// Reads the ranges that [`fmt::Display`] writes: `0-63,100`.
impl FromStr for SlotSet {
    type Err = SlotSetError;

    fn from_str(text: &str) -> Result<Self, SlotSetError> {
        let mut set = Self::empty();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let read = |number: &str| {
                let number: u32 =
                    number.trim().parse().map_err(|_| SlotSetError::Form(shortened(part)))?;
                let slot = u16::try_from(number).ok().and_then(Slot::new);
                slot.ok_or(SlotSetError::NoSuchSlot { number })
            };
            let (first, last) = (read(first)?, read(last)?);
            if first > last {
                return Err(SlotSetError::Backwards(shortened(part)));
            }
            (first.number()..=last.number())
                .filter_map(Slot::new)
                .for_each(|slot| set.insert(slot));
        }
        Ok(set)
    }
}

fn shortened(part: &str) -> String {
    part.chars().take(40).collect()
}

/// Reason why a text is not a list of slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotSetError {
    /// A part is neither a number nor a range.
    #[error("`{0}` is not a slot or a range of slots: write 0-63,100")]
    Form(String),
    /// The number is not one of a slot.
    #[error("there is no slot {number}: slots are 0 to {last}", last = SLOT_COUNT - 1)]
    NoSuchSlot {
        /// The number.
        number: u32,
    },
    /// A range ends before it begins.
    #[error("the range `{0}` ends before it begins")]
    Backwards(String),
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::empty();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// Formats the ranges: `0-63,100`.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{SlotSet, SlotSetError};
    use crate::keyspace::{SLOT_COUNT, Slot};

    fn set(numbers: &BTreeSet<u16>) -> SlotSet {
        numbers.iter().filter_map(|number| Slot::new(*number)).collect()
    }

    proptest! {
        #[test]
        fn a_set_behaves_like_a_set_of_numbers(
            a in prop::collection::btree_set(0..SLOT_COUNT, 0..200),
            b in prop::collection::btree_set(0..SLOT_COUNT, 0..200),
        ) {
            let (left, right) = (set(&a), set(&b));
            prop_assert_eq!(left.len(), a.len());
            prop_assert_eq!(left.is_disjoint(&right), a.is_disjoint(&b));
            prop_assert_eq!(left.without(&right), set(&a.difference(&b).copied().collect()));
            let mut both = left.clone();
            both.unite(&right);
            prop_assert_eq!(&both, &set(&a.union(&b).copied().collect()));
            prop_assert_eq!(SlotSet::from_bytes(&both.to_bytes()), Some(both));
            let ranges = left.ranges();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{ranges:?}");
            let listed: Vec<u16> =
                ranges.into_iter().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(&listed, &left.iter().map(Slot::number).collect::<Vec<_>>());
            prop_assert_eq!(listed, a.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_list_of_slots_is_read_as_it_is_written() {
        for text in ["0", "0-2,9,11-12", "0-16383"] {
            assert_eq!(text.parse::<SlotSet>().map(|set| set.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            " 1 - 3 , 2".parse::<SlotSet>().map(|set| set.to_string()),
            Ok("1-3".to_owned())
        );
        assert_eq!("16384".parse::<SlotSet>(), Err(SlotSetError::NoSuchSlot { number: 16_384 }));
        assert_eq!("3-1".parse::<SlotSet>(), Err(SlotSetError::Backwards("3-1".to_owned())));
        for text in ["", "a", "1-", "-1", "1,,2", "1-2-3"] {
            assert!(matches!(text.parse::<SlotSet>(), Err(SlotSetError::Form(_))), "{text}");
        }
    }

    #[test]
    fn ranges_are_listed_as_an_operator_writes_them() {
        assert_eq!(set(&[0, 1, 2, 9, 11, 12].into()).to_string(), "0-2,9,11-12");
        assert_eq!(SlotSet::full().to_string(), "0-16383");
        assert_eq!(SlotSet::empty().to_string(), "");
        assert!(SlotSet::full().is_full() && SlotSet::empty().is_empty());
    }
}
