//! Move draft: a move as an operator describes it, with shards by name and slots by number or by
//! one of their keys.
//!
//! **Not here:** resolving a draft to shards and slots (`cluster`), the limits of a move
//! (`move_record`).

use model::slot_set::{SlotSet, SlotSetError, parse_within};

/// Slots of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DraftSlots {
    /// The slots of a set.
    Set(SlotSet),
    /// The slot of a shard key.
    OfKey {
        /// The shard key.
        key: String,
        /// Name of a table, whose table group determines the slot; `None` for the group
        /// `main`.
        table: Option<String>,
        /// Value of the partition column in the row, if the keyspace maps a column of the row.
        partition: Option<String>,
    },
}

/// Move that an operator describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveDraft {
    /// Slots.
    pub slots: DraftSlots,
    /// Name of the shard that owns them; `None` stands for the present owner.
    pub from: Option<String>,
    /// Name of the shard that is to own them.
    pub to: String,
    /// Maximum rate of the copy in MiB/s; `None` without a limit.
    pub rate: Option<u32>,
    /// Time in seconds for which the source is kept for a rollback; `None` for the default.
    pub keep: Option<u64>,
}

/// Reason why a string does not describe the slots of a move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveSlotsFault {
    /// The string is not a list of slots.
    #[error(transparent)]
    Form(#[from] SlotSetError),
    /// The list contains some slots twice.
    #[error("{} given twice", named(.0))]
    Twice(SlotSet),
}

/// Returns some slots as the subject of a sentence, with its verb.
fn named(slots: &SlotSet) -> String {
    if slots.len() == 1 { format!("the slot {slots} is") } else { format!("the slots {slots} are") }
}

/// Parses the slots of a move in a cluster with this number of slots: ranges that do not overlap,
/// such as `0-63,100`.
///
/// # Errors
/// [`MoveSlotsFault`].
pub fn parse_slots(text: &str, slot_count: usize) -> Result<SlotSet, MoveSlotsFault> {
    let (mut all, mut twice) = (SlotSet::empty(), SlotSet::empty());
    for part in text.split(',') {
        for slot in parse_within(part, slot_count)?.iter() {
            if all.contains(slot) {
                twice.insert(slot);
            }
            all.insert(slot);
        }
    }
    if twice.is_empty() { Ok(all) } else { Err(MoveSlotsFault::Twice(twice)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_move_are_given_once_each() {
        assert_eq!(
            parse_slots("0-3, 9", 16_384).map(|slots| slots.to_string()),
            Ok("0-3,9".to_owned())
        );
        let twice = |slots: &str| MoveSlotsFault::Twice(slots.parse().expect("slots"));
        assert_eq!(parse_slots("0-9,4-5,9", 16_384), Err(twice("4-5,9")));
        assert_eq!(twice("9").to_string(), "the slot 9 is given twice");
        assert_eq!(twice("4-5").to_string(), "the slots 4-5 are given twice");
        for text in ["", "a", "5-4", "16384", "-1", "0-"] {
            assert!(matches!(parse_slots(text, 16_384), Err(MoveSlotsFault::Form(_))), "{text}");
        }
    }
}
