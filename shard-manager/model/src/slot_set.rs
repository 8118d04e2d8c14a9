//! Slot set: a set of slots, stored as one bit for each of the 16 384 slots of a table group.
//!
//! A set has bits only up to the last group whose slots were added, so that the sets of a cluster
//! with one group take no more memory than necessary.
//!
//! The bytes have the layout of PostgreSQL's `get_bit` on a `bytea`: slot n is bit n mod 8 of byte
//! n / 8, so a set needs no conversion before it is sent to PostgreSQL or compared there.
//!
//! **Invariant:** bit n is set if and only if slot n is in the set.
//! **Not here:** the owner of a slot (`shard_map`), the state of a slot on a shard
//! (`slot_refusal`).

use std::fmt;
use std::str::FromStr;

use crate::group_number::GroupNumber;
use crate::keyspace::{GROUPS_MAX, SLOT_COUNT, Slot};

/// Number of 64-bit words for the slots of one group.
const WORDS: usize = SLOT_COUNT as usize / 64;

/// Set of slots. It takes 2 KiB for each group, so it should be shared rather than cloned.
#[derive(Clone)]
pub struct SlotSet {
    /// Bits of the groups from number 0 on, [`WORDS`] words for each. The set has no slots of
    /// groups beyond the end.
    words: Box<[u64]>,
}

impl SlotSet {
    /// Number of bytes of a stored set for each group.
    pub const BYTES: usize = WORDS * 8;

    /// Creates a set without slots.
    pub fn empty() -> Self {
        Self { words: Box::new([0; WORDS]) }
    }

    /// Creates the set of all slots of a cluster that has only the group `main`.
    pub fn full() -> Self {
        Self { words: Box::new([u64::MAX; WORDS]) }
    }

    /// Creates the set of all slots of a group.
    pub fn of_group(group: GroupNumber) -> Self {
        let before = WORDS * group.index();
        let words = std::iter::repeat_n(0, before).chain(std::iter::repeat_n(u64::MAX, WORDS));
        Self { words: words.collect() }
    }

    /// Restores a set from its bytes; `None` if their number is not [`SlotSet::BYTES`] times a
    /// possible number of groups, at least 1.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let groups = bytes.len() / Self::BYTES;
        if groups * Self::BYTES != bytes.len() || !(1..=GROUPS_MAX).contains(&groups) {
            return None;
        }
        let words = bytes.chunks_exact(8).map(|bytes| bytes.try_into().ok());
        let words: Option<Box<[u64]>> = words.map(|word| word.map(u64::from_le_bytes)).collect();
        Some(Self { words: words? })
    }

    /// Returns the bytes of the set, [`SlotSet::BYTES`] for each group for which it has bits.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Adds a slot.
    pub fn insert(&mut self, slot: Slot) {
        let index = slot.index() / 64;
        make_room(&mut self.words, index + 1);
        self.words[index] |= 1 << (slot.index() % 64);
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(word) = self.words.get_mut(slot.index() / 64) {
            *word &= !(1 << (slot.index() % 64));
        }
    }

    /// Returns true if the slot is in the set.
    #[inline]
    pub fn contains(&self, slot: Slot) -> bool {
        let word = self.words.get(slot.index() / 64).copied().unwrap_or_default();
        word >> (slot.index() % 64) & 1 == 1
    }

    /// Adds all slots of another set to this one.
    pub fn unite(&mut self, other: &Self) {
        make_room(&mut self.words, other.words.len());
        self.words.iter_mut().zip(other.words.iter()).for_each(|(word, other)| *word |= other);
    }

    /// Returns true if no slot is in both sets.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.words.iter().zip(other.words.iter()).all(|(word, other)| word & other == 0)
    }

    /// Returns the slots that are in this set but not in the other.
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

    /// Returns true if no slot is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
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
            let end = find(&self.words, usize::from(first), false);
            let end = end.map_or(self.words.len() * 64, usize::from);
            ranges.push((first, (end - 1) as u16));
            next = end;
        }
        ranges
    }
}

/// Extends the bits to at least this many words, rounded up to whole groups.
fn make_room(words: &mut Box<[u64]>, needed: usize) {
    if needed > words.len() {
        let mut more = std::mem::take(words).into_vec();
        more.resize(needed.next_multiple_of(WORDS), 0);
        *words = more.into_boxed_slice();
    }
}

/// Returns the first slot number, from `from` on, that is in the set, or that is not in the set if
/// `is_in` is false. The search skips whole words, because most sets consist of long ranges.
fn find(words: &[u64], from: usize, is_in: bool) -> Option<u16> {
    let mut rest = words.iter().enumerate().skip(from / 64).map(|(index, word)| {
        let word = if is_in { *word } else { !*word };
        let seen = if index == from / 64 { (1 << (from % 64)) - 1 } else { 0 };
        (index, word & !seen)
    });
    let (index, word) = rest.find(|(_, word)| *word != 0)?;
    u16::try_from(index * 64 + word.trailing_zeros() as usize).ok()
}

/// Parses comma-separated slots and ranges such as `0-63,100`, the form that [`fmt::Display`]
/// writes.
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
                slot.ok_or(SlotSetError::NoSuchSlot { number, last: u16::MAX })
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

/// Reason why a string is not a list of slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotSetError {
    /// A part is neither a number nor a range.
    #[error("`{0}` is not a slot or a range of slots: write 0-63,100")]
    Form(String),
    /// The cluster has no slot with this number.
    #[error("there is no slot {number}: slots are 0 to {last}")]
    NoSuchSlot {
        /// The number.
        number: u32,
        /// Highest slot number.
        last: u16,
    },
    /// A range ends before it begins.
    #[error("the range `{0}` ends before it begins")]
    Backwards(String),
}

/// Parses slots like [`SlotSet::from_str`] and checks that a cluster with this many slots has them.
///
/// # Errors
/// [`SlotSetError`] if the text is not a list of slots, or the cluster does not have all of them.
pub fn parse_within(text: &str, slot_count: usize) -> Result<SlotSet, SlotSetError> {
    let last = u16::try_from(slot_count - 1).unwrap_or(u16::MAX);
    let slots = text.parse::<SlotSet>().map_err(|mut error| {
        if let SlotSetError::NoSuchSlot { last: known, .. } = &mut error {
            *known = last;
        }
        error
    })?;
    check_known(&slots, slot_count)?;
    Ok(slots)
}

/// Checks that a cluster with this many slots has all slots of the set.
///
/// # Errors
/// [`SlotSetError::NoSuchSlot`] with the first slot that the cluster does not have.
pub fn check_known(slots: &SlotSet, slot_count: usize) -> Result<(), SlotSetError> {
    let last = u16::try_from(slot_count - 1).unwrap_or(u16::MAX);
    match slots.iter().find(|slot| slot.number() > last) {
        Some(slot) => Err(SlotSetError::NoSuchSlot { number: slot.number().into(), last }),
        None => Ok(()),
    }
}

impl PartialEq for SlotSet {
    /// Returns true if both sets have the same slots, even if they have bits for different numbers
    /// of groups.
    fn eq(&self, other: &Self) -> bool {
        let both = self.words.len().min(other.words.len());
        let rest = self.words[both..].iter().chain(&other.words[both..]);
        self.words[..both] == other.words[..both] && rest.into_iter().all(|word| *word == 0)
    }
}

impl Eq for SlotSet {}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::empty();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// Formats the slots as comma-separated slots and ranges, such as `0-63,100`.
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

    use super::{SlotSet, SlotSetError, parse_within};
    use crate::group_number::GroupNumber;
    use crate::keyspace::{SLOT_COUNT, Slot};

    fn set(numbers: &BTreeSet<u16>) -> SlotSet {
        numbers.iter().filter_map(|number| Slot::new(*number)).collect()
    }

    proptest! {
        #[test]
        fn a_set_behaves_like_a_set_of_numbers(
            a in prop::collection::btree_set(0..=u16::MAX, 0..200),
            b in prop::collection::btree_set(0..=SLOT_COUNT * 2, 0..200),
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
        for text in ["0", "0-2,9,11-12", "0-16383", "16000-40000", "0-65535"] {
            assert_eq!(text.parse::<SlotSet>().map(|set| set.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            " 1 - 3 , 2".parse::<SlotSet>().map(|set| set.to_string()),
            Ok("1-3".to_owned())
        );
        for (text, slot_count, number, last) in [
            ("16384", 16_384, 16_384, 16_383),
            ("9,65536", 16_384, 65_536, 16_383),
            ("0-40000", 32_768, 32_768, 32_767),
        ] {
            let refused = Err(SlotSetError::NoSuchSlot { number, last });
            assert_eq!(parse_within(text, slot_count), refused, "{text}");
        }
        assert_eq!(parse_within("16384", 32_768), "16384".parse());
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
        assert!(SlotSet::empty().is_empty());
    }

    #[test]
    fn the_set_of_a_group_has_its_slots_and_no_others() {
        let of = |group| SlotSet::of_group(GroupNumber::new(group).expect("a group"));
        assert_eq!(of(0), SlotSet::full());
        assert_eq!(of(1).to_string(), "16384-32767");
        assert_eq!(of(3).to_string(), "49152-65535");
        assert!(of(1).is_disjoint(&of(0)) && of(0).is_disjoint(&of(3)));
        assert_eq!(of(0).without(&of(1)), of(0));
        let mut both = of(2);
        both.unite(&of(0));
        assert_eq!(both.without(&of(2)), of(0));
        assert_ne!(both, of(0));
        assert!(!SlotSet::empty().contains(Slot::new(65_535).expect("a slot")));
    }

    #[test]
    fn a_stored_set_has_the_bytes_of_whole_groups() {
        assert_eq!(SlotSet::from_bytes(&[0; 2_048]), Some(SlotSet::empty()));
        assert_eq!(SlotSet::from_bytes(&[0; 8_192]), Some(SlotSet::empty()));
        for bytes in [0, 1, 2_047, 2_049, 10_240] {
            assert_eq!(SlotSet::from_bytes(&vec![0; bytes]), None, "{bytes}");
        }
    }
}
