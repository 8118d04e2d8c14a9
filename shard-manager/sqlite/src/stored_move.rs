//! Stored move: the row of a move as a file stores it, in `tessera_moves` and in the change log.
//!
//! **Invariant:** a row is read as it was written; one that cannot be read is an error.
//! **Not here:** the rules by which a row changes (crate `moves`), the transaction (`move_change`).

use std::sync::Arc;

use diesel::sqlite::SqliteConnection;
use diesel::{QueryResult, RunQueryDsl};
use model::keyspace::Slot;
use model::position::Position;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;
use moves::applied::{AppliedRows, Feed};
use moves::identity::{MoveId, MoveLeg, MoveRole, MoveTerm};
use moves::mark::Mark;
use moves::move_row::{CopyCursor, MoveRow};
use uuid::Uuid;

use super::connection::{Bind, Statement, for_each_row};
use super::declarations::unreadable;
use super::sql;

/// Timeline of every feed and position that moves see of a file.
///
/// Each opening of a primary begins a timeline with a random id, but the positions of its log go
/// on, and no other node becomes the primary. So the changes of a file are one stream.
pub(super) const FEED_TIMELINE: u32 = 1;

/// Row of a move, with the columns of `tessera_moves`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredMove {
    id: String,
    role: String,
    other: u16,
    /// JSON array of numbers.
    slots: String,
    leg: u32,
    term: u64,
    mover: String,
    pass: u32,
    round: u64,
    feed_timeline: u32,
    feed_begun_timeline: u32,
    feed_begun: u64,
    mark: Option<u64>,
    cursor: String,
    copied_to: Option<String>,
    /// Position of the log after which changes of the slots are recorded, while they are.
    pub(super) traced_after: Option<u64>,
    begun_timeline: u32,
    begun: u64,
    version: u64,
    home_timeline: Option<u32>,
    home: Option<u64>,
}

impl StoredMove {
    /// Converts a row of a move. Its changes are recorded after this position of the log, if they
    /// are.
    ///
    /// # Errors
    /// The mark is not one of a change log.
    pub(super) fn of(row: &MoveRow, traced_after: u64) -> QueryResult<Self> {
        let numbers: Vec<u16> = row.slots.iter().map(|slot| slot.number()).collect();
        let mark = match &row.applied.mark {
            Mark::Nothing => None,
            Mark::Entry(entry) => Some(*entry),
            Mark::Snapshot { .. } => {
                return Err(unreadable(&"the mark is not one of a change log"));
            }
        };
        let (cursor, copied_to) = match &row.cursor {
            CopyCursor::Empty => ("empty", None),
            CopyCursor::Through(key) => ("through", Some(key.to_string())),
            CopyCursor::Whole => ("whole", None),
        };
        let role = match row.role {
            MoveRole::Source => "source",
            MoveRole::Target => "target",
        };
        let feed = row.applied.feed;
        Ok(Self {
            id: name(row.id),
            role: role.to_owned(),
            other: row.other.0,
            slots: serde_json::to_string(&numbers).map_err(|error| unreadable(&error))?,
            leg: row.leg.0,
            term: row.term.number,
            mover: row.term.mover.to_string(),
            pass: row.applied.pass,
            round: row.applied.round,
            feed_timeline: feed.timeline,
            feed_begun_timeline: feed.begun.timeline,
            feed_begun: feed.begun.sequence,
            mark,
            cursor: cursor.to_owned(),
            copied_to,
            traced_after: row.is_traced.then_some(traced_after),
            begun_timeline: row.begun.timeline,
            begun: row.begun.sequence,
            version: row.version,
            home_timeline: row.home.map(|home| home.timeline),
            home: row.home.map(|home| home.sequence),
        })
    }

    /// Returns the row.
    ///
    /// # Errors
    /// The contents are not those of a row.
    pub(super) fn row(&self) -> QueryResult<MoveRow> {
        let role = match self.role.as_str() {
            "source" => MoveRole::Source,
            "target" => MoveRole::Target,
            other => return Err(unreadable(&format!("{other} is not a role in a move"))),
        };
        let cursor = match (self.cursor.as_str(), &self.copied_to) {
            ("empty", None) => CopyCursor::Empty,
            ("whole", None) => CopyCursor::Whole,
            ("through", Some(key)) => CopyCursor::Through(key.as_str().into()),
            _ => return Err(unreadable(&format!("{} is not a cursor of a copy", self.cursor))),
        };
        let position = |timeline, sequence| Position { timeline, sequence };
        let begun = position(self.feed_begun_timeline, self.feed_begun);
        let mover = self.mover.parse().map_err(|error| unreadable(&error))?;
        Ok(MoveRow {
            id: self.move_id()?,
            role,
            other: ShardNumber(self.other),
            slots: self.slots()?,
            leg: MoveLeg(self.leg),
            term: MoveTerm { number: self.term, mover },
            applied: AppliedRows {
                pass: self.pass,
                round: self.round,
                feed: Feed { timeline: self.feed_timeline, begun },
                mark: self.mark.map_or(Mark::Nothing, Mark::Entry),
            },
            cursor,
            is_traced: self.traced_after.is_some(),
            begun: position(self.begun_timeline, self.begun),
            version: self.version,
            home: self.home_timeline.zip(self.home).map(|(line, at)| position(line, at)),
        })
    }

    /// Returns the identity of the move.
    ///
    /// # Errors
    /// It is not a UUID.
    pub(super) fn move_id(&self) -> QueryResult<MoveId> {
        let id = Uuid::try_parse(&self.id).map_err(|error| unreadable(&error))?;
        Ok(MoveId(id.as_u128()))
    }

    /// Returns the slots of the move.
    ///
    /// # Errors
    /// Some do not exist.
    pub(super) fn slots(&self) -> QueryResult<Arc<[Slot]>> {
        let numbers: Vec<u16> =
            serde_json::from_str(&self.slots).map_err(|error| unreadable(&error))?;
        let slots: Option<Arc<[Slot]>> = numbers.into_iter().map(Slot::new).collect();
        slots.ok_or_else(|| unreadable(&"a move has a slot that does not exist"))
    }

    /// Returns the slots of the move as a set.
    ///
    /// # Errors
    /// Some do not exist.
    pub(super) fn slot_set(&self) -> QueryResult<SlotSet> {
        Ok(self.slots()?.iter().copied().collect())
    }
}

/// Returns the identity of a move as text.
pub(super) fn name(id: MoveId) -> String {
    Uuid::from_u128(id.0).to_string()
}

/// Returns the rows of all moves, by id.
pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<Vec<StoredMove>> {
    let statement = Statement { sql: sql::MOVES, binds: &[], cached: true };
    let mut rows = Vec::new();
    for_each_row(connection, statement, |row| {
        let read = row.text(0, |json| serde_json::from_str::<StoredMove>(json));
        let read = read.ok_or_else(|| unreadable(&"a row of a move is missing"))?;
        rows.push(read.map_err(|error| unreadable(&error))?);
        Ok(())
    })?;
    Ok(rows)
}

/// Stores the row of a move.
pub(super) fn store(connection: &mut SqliteConnection, row: &StoredMove) -> QueryResult<()> {
    let json = serde_json::to_string(row).map_err(|error| unreadable(&error))?;
    let binds = [Bind::Text(&json)];
    Statement { sql: sql::STORE_MOVE, binds: &binds, cached: true }.execute(connection).map(drop)
}

/// Removes the row of a move.
pub(super) fn remove(connection: &mut SqliteConnection, id: &str) -> QueryResult<()> {
    let binds = [Bind::Text(id)];
    Statement { sql: sql::REMOVE_MOVE, binds: &binds, cached: true }.execute(connection).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mark: Mark, cursor: CopyCursor, home: Option<Position>) -> MoveRow {
        let position = |sequence| Position { timeline: 1, sequence };
        MoveRow {
            id: MoveId(u128::MAX - 7),
            role: MoveRole::Target,
            other: ShardNumber(3),
            slots: [7, 16_383].into_iter().filter_map(Slot::new).collect(),
            leg: MoveLeg(2),
            term: MoveTerm { number: 5, mover: u64::MAX },
            applied: AppliedRows {
                pass: 2,
                round: 9,
                feed: Feed { timeline: 1, begun: position(40) },
                mark,
            },
            cursor,
            is_traced: home.is_some(),
            begun: position(33),
            version: 12,
            home,
        }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let home = Some(Position { timeline: 1, sequence: 77 });
        let rows = [
            row(Mark::Nothing, CopyCursor::Empty, None),
            row(Mark::Entry(17), CopyCursor::Through("[\"kv\"]".into()), None),
            row(Mark::Entry(0), CopyCursor::Whole, home),
        ];
        for row in rows {
            let stored = StoredMove::of(&row, 90).expect("a row of files");
            assert_eq!(stored.row().expect("a row"), row);
            assert_eq!(stored.traced_after, row.is_traced.then_some(90));
        }
        let running = Mark::Snapshot { end: 5, running: Arc::default() };
        assert!(StoredMove::of(&row(running, CopyCursor::Whole, None), 0).is_err());
    }
}
