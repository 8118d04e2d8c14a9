//! Move line: the format in which a change of a move is written to the change log.
//!
//! ```text
//! {"move":"018f…","row":{…},"slots":[{"ranges":[[0,63]],"state":"importing"}],"version":7313}
//! {"change":"removed","table":"users","slot":7,"key":"ada","version":0,"row":{"user_id":"ada"}}
//! {"change":"made","table":"users","slot":7,"key":"ada","row":{…}}
//! ```
//! A move line is the first line of its entry. The lines after it are about rows of slots that the
//! shard does not own, which the move has copied to this shard or deletes from it. Such rows are
//! counted separately, and are not changes by clients.
//!
//! **Invariant:** an entry that begins like a move line is one, or it cannot be read.
//! **Not here:** the effects of an entry on a file (`move_entry`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use model::keyspace::Slot;
use model::slot_set::SlotSet;

use super::declarations::unreadable;
use super::slot_line::Ranges;
use super::stored_move::StoredMove;

/// Beginning of a move line; other lines begin differently.
const LINE_START: &[u8] = b"{\"move\":";

/// Changed part of a shard's metadata, as it is after a change of a move.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MoveLine {
    /// Identity of the move.
    #[serde(rename = "move")]
    pub(super) id: String,
    /// Record of the move, if it has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) row: Option<StoredMove>,
    /// True if the record of the move was removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) forgotten: bool,
    /// True if the slots have no rows at all before the following lines are applied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) emptied: bool,
    /// Slots whose state has changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) slots: Vec<SlotGroup>,
    /// Number of rows, for each table that has some, in those slots that the shard begins or ceases
    /// to own, or of which it begins or ceases to have a record.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) counts: BTreeMap<String, i64>,
    /// The shard's counter of row versions after the change.
    pub(super) version: i64,
}

/// Slots that have the same state.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotGroup {
    pub(super) ranges: Ranges,
    /// State, as in `tessera_slots`; `None` if the shard has no record of the slots any more.
    pub(super) state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fenced_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) moved_to: Option<String>,
}

impl SlotGroup {
    /// Returns the slots.
    ///
    /// # Errors
    /// An error if some of the slots do not exist.
    pub(super) fn slots(&self) -> QueryResult<SlotSet> {
        let slots = self.ranges.iter().flat_map(|(first, last)| *first..=*last);
        let slots: Option<SlotSet> = slots.map(Slot::new).collect();
        slots.ok_or_else(|| unreadable(&"the change log names a slot that does not exist"))
    }

    /// Returns true if the shard owns the slots.
    pub(super) fn is_owned(&self) -> bool {
        matches!(self.state.as_deref(), Some("owned" | "fenced"))
    }
}

impl MoveLine {
    /// Formats the line.
    ///
    /// # Errors
    /// An error if the line cannot be serialised.
    pub(super) fn to_line(&self) -> QueryResult<Vec<u8>> {
        let mut line = serde_json::to_vec(self).map_err(|error| unreadable(&error))?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Returns true if an entry of the log is about a move.
pub(super) fn is_move(entry: &[u8]) -> bool {
    entry.starts_with(LINE_START)
}

/// Returns the move line of an entry and the lines about rows that follow it; `None` if the entry
/// is about something else.
///
/// # Errors
/// An error if the move line cannot be read.
pub(super) fn logged(entry: &[u8]) -> QueryResult<Option<(MoveLine, &[u8])>> {
    if !is_move(entry) {
        return Ok(None);
    }
    let end = entry.iter().position(|byte| *byte == b'\n').map_or(entry.len(), |end| end + 1);
    let (line, rows) = entry.split_at(end);
    let line = serde_json::from_slice(line);
    let line = line.map_err(|error| DieselError::DeserializationError(Box::new(error)))?;
    Ok(Some((line, rows)))
}

/// Returns the lines of an entry that are about rows: those after its move line, or all lines if it
/// has no move line.
pub(super) fn row_lines(entry: &[u8]) -> &[u8] {
    if !is_move(entry) {
        return entry;
    }
    let end = entry.iter().position(|byte| *byte == b'\n').map_or(entry.len(), |end| end + 1);
    &entry[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let importing = SlotGroup {
            ranges: vec![(3, 5)],
            state: Some("importing".to_owned()),
            fenced_at: None,
            until: None,
            moved_to: Some("2".to_owned()),
        };
        let counts = BTreeMap::from([("kv".to_owned(), 4)]);
        let line = MoveLine {
            id: "m".to_owned(),
            slots: vec![importing],
            counts,
            version: 9,
            ..MoveLine::default()
        };
        let mut entry = line.to_line().expect("a line");
        let rows = b"{\"change\":\"made\"}\n";
        entry.extend_from_slice(rows);
        let (read, after) = logged(&entry).expect("readable").expect("of a move");
        assert_eq!((read, after, row_lines(&entry)), (line, &rows[..], &rows[..]));
        assert_eq!((logged(rows).expect("of rows"), row_lines(rows)), (None, &rows[..]));
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error_and_not_left_out() {
        let unknown = [
            r#"{"move":"m","version":1,"halved":true}"#,
            r#"{"move":"m"}"#,
            r#"{"move":"m","version":1,"slots":[{"ranges":[[1,2]],"by":"night"}]}"#,
            r#"{"move":"m","version":1,"row":{"id":"m"}}"#,
        ];
        for line in unknown {
            assert!(logged(line.as_bytes()).is_err(), "{line}");
        }
    }
}
