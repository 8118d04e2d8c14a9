//! Stored move: a shard's record of a move (`MoveRow`) with the columns of the table that stores
//! it, for engines that read and write it as one JSON object.
//!
//! A leg is one direction of a move: the first leg goes from the original owner of the slots to the
//! destination, and each change of direction begins another leg. A mark is the set of changes that
//! a copy contains, in the numbering of the engine. A feed is the stream of changes within which
//! marks can be compared. A signpost is the reference to the new owner that a shard keeps for a
//! slot that it has given away.
//!
//! **Invariant:** a record that is written and read again is unchanged; a record that cannot be
//! read is an error.
//! **Not here:** the rules by which a record changes (crate `moves`), the tables (the engines).

use std::sync::Arc;

use diesel::result::Error as DieselError;
use model::keyspace::Slot;
use model::position::Position;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;
use moves::applied::{AppliedRows, Feed};
use moves::identity::{MoveId, MoveLeg, MoveRole, MoveTerm};
use moves::mark::Mark;
use moves::move_row::{CopyCursor, MoveRow};
use moves::slot_state::SlotState;

use super::move_record::{move_name, parse_move_name};

/// Error for a record that cannot be read or stored, with a description of the damage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DamagedMove(String);

impl DamagedMove {
    /// Creates the error from a description of the damage.
    pub fn new(cause: impl ToString) -> Self {
        Self(cause.to_string())
    }
}

impl From<DamagedMove> for DieselError {
    fn from(damage: DamagedMove) -> Self {
        Self::DeserializationError(damage.0.into())
    }
}

/// Restores the state of a slot from the name of the state. `until` is the end of a fence in
/// milliseconds.
///
/// # Errors
/// The name is not that of a state, or the state requires another owner and none is given.
pub fn slot_state(
    name: &str,
    until: u64,
    moved_to: Option<ShardNumber>,
) -> Result<SlotState, DamagedMove> {
    match (name, moved_to) {
        ("owned", _) => Ok(SlotState::Owned),
        ("fenced", _) => Ok(SlotState::Fenced { until }),
        ("moved", Some(to)) => Ok(SlotState::Moved { to }),
        ("importing", moved_to) => Ok(SlotState::Importing { moved_to }),
        (other, _) => Err(DamagedMove::new(format!("{other} is not a state of a slot"))),
    }
}

/// Mark in the form in which one engine stores it.
pub trait StoredMark: Sized {
    /// Converts a mark other than [`Mark::Nothing`].
    ///
    /// # Errors
    /// The mark has the form of another engine.
    fn of(mark: &Mark) -> Result<Self, DamagedMove>;

    /// Restores the mark.
    ///
    /// # Errors
    /// The stored contents are not a valid mark.
    fn mark(&self) -> Result<Mark, DamagedMove>;
}

/// Mark of an engine with a change log: the position in that log.
impl StoredMark for u64 {
    fn of(mark: &Mark) -> Result<Self, DamagedMove> {
        match mark {
            Mark::Entry(entry) => Ok(*entry),
            Mark::Nothing | Mark::Snapshot { .. } => {
                Err(DamagedMove::new("the mark is not one of a change log"))
            }
        }
    }

    fn mark(&self) -> Result<Mark, DamagedMove> {
        Ok(Mark::Entry(*self))
    }
}

/// A shard's record of a move, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredMove<M> {
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
    mark: Option<M>,
    cursor: String,
    copied_to: Option<String>,
    /// Position of the log after which changes of the slots are recorded; `None` if they are not.
    pub traced_after: Option<u64>,
    begun_timeline: u32,
    begun: u64,
    version: u64,
    home_timeline: Option<u32>,
    home: Option<u64>,
}

impl<M: StoredMark> StoredMove<M> {
    /// Converts a record of a move. `traced_after` is the position of the log after which changes
    /// are recorded; it is ignored if the record shows that no changes are recorded.
    ///
    /// # Errors
    /// The mark has the form of another engine.
    pub fn of(row: &MoveRow, traced_after: u64) -> Result<Self, DamagedMove> {
        let numbers: Vec<u16> = row.slots.iter().map(|slot| slot.number()).collect();
        let mark = match &row.applied.mark {
            Mark::Nothing => None,
            mark @ (Mark::Entry(_) | Mark::Snapshot { .. }) => Some(M::of(mark)?),
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
            id: move_name(row.id),
            role: role.to_owned(),
            other: row.other.0,
            slots: serde_json::to_string(&numbers).map_err(DamagedMove::new)?,
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
            home_timeline: row.signpost_min_position.map(|home| home.timeline),
            home: row.signpost_min_position.map(|home| home.sequence),
        })
    }

    /// Returns the identity of the move as a string.
    pub fn name(&self) -> &str {
        &self.id
    }

    /// Returns the record after the recording of changes was begun again at this position of the
    /// log. This begins a new feed, to which rows that were copied from the former feed do not
    /// belong.
    #[must_use]
    pub fn recording_restarted(self, position: u64) -> Self {
        Self { begun: position, traced_after: Some(position), ..self }
    }

    /// Restores the record.
    ///
    /// # Errors
    /// The stored contents are not a valid record.
    pub fn row(&self) -> Result<MoveRow, DamagedMove> {
        let role = match self.role.as_str() {
            "source" => MoveRole::Source,
            "target" => MoveRole::Target,
            other => return Err(DamagedMove::new(format!("{other} is not a role in a move"))),
        };
        let cursor = match (self.cursor.as_str(), &self.copied_to) {
            ("empty", None) => CopyCursor::Empty,
            ("whole", None) => CopyCursor::Whole,
            ("through", Some(key)) => CopyCursor::Through(key.as_str().into()),
            _ => {
                return Err(DamagedMove::new(format!("{} is not a cursor of a copy", self.cursor)));
            }
        };
        let position = |timeline, sequence| Position { timeline, sequence };
        let begun = position(self.feed_begun_timeline, self.feed_begun);
        let mover = self.mover.parse().map_err(DamagedMove::new)?;
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
                mark: self.mark.as_ref().map_or(Ok(Mark::Nothing), M::mark)?,
            },
            cursor,
            is_traced: self.traced_after.is_some(),
            begun: position(self.begun_timeline, self.begun),
            version: self.version,
            signpost_min_position: self
                .home_timeline
                .zip(self.home)
                .map(|(line, at)| position(line, at)),
        })
    }

    /// Returns the identity of the move.
    ///
    /// # Errors
    /// The stored identity is not a UUID.
    pub fn move_id(&self) -> Result<MoveId, DamagedMove> {
        parse_move_name(&self.id).ok_or_else(|| DamagedMove::new("the id of a move is not a UUID"))
    }

    /// Returns the slots of the move.
    ///
    /// # Errors
    /// Some of the stored slots do not exist.
    pub fn slots(&self) -> Result<Arc<[Slot]>, DamagedMove> {
        let numbers: Vec<u16> = serde_json::from_str(&self.slots).map_err(DamagedMove::new)?;
        let slots: Option<Arc<[Slot]>> = numbers.into_iter().map(Slot::new).collect();
        slots.ok_or_else(|| DamagedMove::new("a move has a slot that does not exist"))
    }

    /// Returns the slots of the move as a set.
    ///
    /// # Errors
    /// Some of the stored slots do not exist.
    pub fn slot_set(&self) -> Result<SlotSet, DamagedMove> {
        Ok(self.slots()?.iter().copied().collect())
    }
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
            signpost_min_position: home,
        }
    }

    #[test]
    fn the_name_of_a_state_is_read_with_its_values_and_an_unknown_one_is_an_error() {
        let to = ShardNumber(3);
        assert_eq!(slot_state("owned", 9, None), Ok(SlotState::Owned));
        assert_eq!(slot_state("fenced", 9, None), Ok(SlotState::Fenced { until: 9 }));
        assert_eq!(slot_state("moved", 0, Some(to)), Ok(SlotState::Moved { to }));
        let moved_to = Some(to);
        let importing = slot_state("importing", 0, moved_to);
        assert_eq!(importing, Ok(SlotState::Importing { moved_to }));
        for name in ["moved", "lost", ""] {
            let error = slot_state(name, 0, None).expect_err(name);
            assert_eq!(error.to_string(), format!("{name} is not a state of a slot"));
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
            let stored = StoredMove::<u64>::of(&row, 90).expect("a row of files");
            assert_eq!(stored.row().expect("a row"), row);
            assert_eq!(stored.traced_after, row.is_traced.then_some(90));
        }
        let running = Mark::Snapshot { end: 5, running: Arc::default() };
        assert!(StoredMove::<u64>::of(&row(running, CopyCursor::Whole, None), 0).is_err());
    }
}
