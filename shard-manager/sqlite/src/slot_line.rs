//! Slot line: the format in which a change of slots is written to the change log.
//!
//! ```text
//! {"slots":"fenced","ranges":[[0,63],[100,100]],"since":"2026-…","until":"2026-…"}
//! {"slots":"owned","ranges":[[0,63]],"version":7313}
//! {"slots":"moved","ranges":[[0,63]],"to":2}
//! ```
//! A slot line is the only line of its entry. It lists only slots whose state has changed, with
//! their new state.
//!
//! **Invariant:** an entry that begins like a slot line is one, or it cannot be read.
//! **Not here:** the effects of a line on a file (`slot_change`).

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;

/// Beginning of a slot line; lines about rows and tables begin differently.
const LINE_START: &[u8] = b"{\"slots\":";

/// First and last slot of each range.
pub(super) type Ranges = Vec<(u16, u16)>;

/// New state of some slots, which they have from this entry of the log on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(tag = "slots", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum SlotLine {
    /// The shard owns the slots, but accepts no writes of them from `since` until `until`.
    Fenced {
        /// The slots.
        ranges: Ranges,
        /// Time at which the fence began.
        since: String,
        /// Time at which the fence ends by itself.
        until: String,
    },
    /// The shard owns the slots and accepts writes of them.
    Owned {
        /// The slots.
        ranges: Ranges,
        /// Minimum for the shard's counter of row versions: no row of the slots has a higher
        /// version.
        version: i64,
    },
    /// The slots belong to another shard.
    Moved {
        /// The slots.
        ranges: Ranges,
        /// Number of that shard.
        to: u16,
    },
}

/// Values of the columns that a line sets in `tessera_slots`.
pub(super) struct SlotColumns {
    pub(super) state: &'static str,
    pub(super) fenced_at: Option<String>,
    pub(super) until: Option<String>,
    pub(super) moved_to: Option<String>,
}

impl SlotLine {
    /// Creates the line for slots that belong to another shard from now on.
    pub(super) fn moved(slots: &SlotSet, to: ShardNumber) -> Self {
        Self::Moved { ranges: slots.ranges(), to: to.0 }
    }

    /// Returns the slots of the line; fails if one of the numbers is not that of a slot.
    pub(super) fn slots(&self) -> QueryResult<SlotSet> {
        let (Self::Fenced { ranges, .. } | Self::Owned { ranges, .. } | Self::Moved { ranges, .. }) =
            self;
        let slots = ranges.iter().flat_map(|(first, last)| *first..=*last);
        let slots: Option<SlotSet> = slots.map(Slot::new).collect();
        slots.ok_or_else(|| unreadable("the change log names a slot that does not exist"))
    }

    /// Returns the minimum for the shard's counter of row versions; 0 if the line has none.
    pub(super) fn version(&self) -> i64 {
        match self {
            Self::Owned { version, .. } => *version,
            Self::Fenced { .. } | Self::Moved { .. } => 0,
        }
    }

    /// Returns true if the shard owns the slots after the line.
    pub(super) fn is_owned(&self) -> bool {
        !matches!(self, Self::Moved { .. })
    }

    /// Returns the values of the columns of `tessera_slots` for the slots of the line.
    pub(super) fn columns(&self) -> SlotColumns {
        let (fenced_at, until, moved_to) = (None, None, None);
        match self {
            Self::Fenced { since, until, .. } => SlotColumns {
                state: "fenced",
                fenced_at: Some(since.clone()),
                until: Some(until.clone()),
                moved_to,
            },
            Self::Owned { .. } => SlotColumns { state: "owned", fenced_at, until, moved_to },
            Self::Moved { to, .. } => {
                SlotColumns { state: "moved", fenced_at, until, moved_to: Some(to.to_string()) }
            }
        }
    }

    /// Formats the line.
    pub(super) fn to_line(&self) -> String {
        serde_json::to_string(self).expect("numbers and times always serialise") + "\n"
    }
}

/// Returns true if an entry of the log is about slots.
pub(super) fn is_slots(entry: &[u8]) -> bool {
    entry.starts_with(LINE_START)
}

/// Returns the change of slots in an entry of the log; `None` if the entry is about rows or tables.
pub(super) fn logged(entry: &[u8]) -> QueryResult<Option<SlotLine>> {
    if !is_slots(entry) {
        return Ok(None);
    }
    let line = serde_json::from_slice(entry);
    line.map(Some).map_err(|error| DieselError::DeserializationError(Box::new(error)))
}

fn unreadable(cause: &str) -> DieselError {
    DieselError::DeserializationError(cause.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_is_read_as_it_was_written(
            slots in prop::collection::btree_set(0..=u16::MAX, 1..50),
            kind in 0..3_u8,
            number in any::<u16>(),
        ) {
            let slots: SlotSet = slots.into_iter().filter_map(Slot::new).collect();
            let ranges = slots.ranges();
            let line = match kind {
                0 => SlotLine::Fenced { ranges, since: "a".into(), until: "b".into() },
                1 => SlotLine::Owned { ranges, version: i64::from(number) },
                _ => SlotLine::moved(&slots, ShardNumber(number)),
            };
            let read = logged(line.to_line().as_bytes()).expect("a line").expect("of slots");
            prop_assert_eq!(read.slots().expect("slots"), slots);
            prop_assert_eq!(read, line);
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error_and_not_left_out() {
        let unknown = [
            r#"{"slots":"halved","ranges":[[0,1]]}"#,
            r#"{"slots":"moved","ranges":[[0,1]],"to":2,"by":"night"}"#,
            r#"{"slots":"moved","ranges":[[0,1]]}"#,
        ];
        for line in unknown {
            assert!(logged(line.as_bytes()).is_err(), "{line}");
        }
        let of_row = br#"{"change":"made","table":"kv","slot":1,"key":"a","row":{}}"#;
        assert_eq!(logged(of_row).expect("another entry"), None);
    }
}
