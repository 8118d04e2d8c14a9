//! Move row: the record that a shard stores about a move, authoritative for that side of the move.
//!
//! **Invariant:** the record changes only in the transactions of [`crate::request::MoveRequest`].

use std::sync::Arc;

use model::keyspace::Slot;
use model::position::Position;
use model::topology::ShardNumber;

use crate::applied::{AppliedRows, Feed};
use crate::identity::{MoveId, MoveLeg, MoveRole, MoveTerm, MoveTicket};
use crate::refusal::MoveRefusal;

/// Progress of the copy: the part of the slots' rows that a shard has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyCursor {
    /// No row counts as copied, because the copy has not begun or the rows are being deleted.
    Empty,
    /// The shard has all rows up to this one, in the order in which the engine copies them.
    Through(Arc<str>),
    /// The shard has all rows.
    Whole,
}

/// Record that a shard stores about a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveRow {
    /// The move.
    pub id: MoveId,
    /// Role of the shard in the current leg.
    pub role: MoveRole,
    /// The other shard.
    pub other: ShardNumber,
    /// Slots of the move.
    pub slots: Arc<[Slot]>,
    /// Current leg.
    pub leg: MoveLeg,
    /// Term of the mover that may change the record.
    pub term: MoveTerm,
    /// State of the other shard that the rows on this shard have reached. On a source the field
    /// matters only after the commit, when the target's changes flow back.
    pub applied: AppliedRows,
    /// Part of the slots' rows that this shard has. On a source it matters only after the commit.
    pub cursor: CopyCursor,
    /// True while changes of the slots are recorded.
    pub is_traced: bool,
    /// Position of this shard when it created the record.
    pub begun: Position,
    /// Version counter of the source at the commit. The target raises its own counter to at least
    /// this value, so that the version of a row only grows.
    pub version: u64,
    /// Minimum position that a node of the other shard must have reached before a signpost (the
    /// reference to the new owner of a slot) lets a client read it. On the source it is the
    /// position that the target had confirmed before the commit; on the target, the position of the
    /// commit.
    pub signpost_min_position: Option<Position>,
}

impl MoveRow {
    /// Returns the feed of this shard's changes on the given timeline, which is its current one.
    pub fn feed(&self, timeline: u32) -> Feed {
        Feed { timeline, begun: self.begun }
    }

    /// Checks that a request has the leg and the term of this record.
    ///
    /// # Errors
    /// [`MoveRefusal`] names the difference.
    pub fn check(&self, ticket: &MoveTicket) -> Result<(), MoveRefusal> {
        self.check_term(ticket.term)?;
        if ticket.leg != self.leg {
            return Err(MoveRefusal::OtherLeg { leg: self.leg });
        }
        Ok(())
    }

    pub(crate) fn check_term(&self, term: MoveTerm) -> Result<(), MoveRefusal> {
        if term < self.term {
            return Err(MoveRefusal::Superseded { term: self.term });
        }
        if term > self.term {
            return Err(MoveRefusal::TermNotRaised { term: self.term });
        }
        Ok(())
    }
}
