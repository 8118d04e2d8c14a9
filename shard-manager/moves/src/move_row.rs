//! Move row: the metadata of one shard about one move, authoritative for that side of the move.
//!
//! **Invariant:** it changes only in the transactions of [`crate::request::MoveRequest`].

use std::sync::Arc;

use model::keyspace::Slot;
use model::position::Position;
use model::topology::ShardNumber;

use crate::applied::{AppliedRows, Feed};
use crate::identity::{MoveId, MoveLeg, MoveRole, MoveTerm, MoveTicket};
use crate::refusal::MoveRefusal;

/// Extent of the rows that a shard has of a move's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyCursor {
    /// No rows that count: the copy has not begun, or they are being deleted.
    Empty,
    /// All rows up to this one, in the order in which the engine copies.
    Through(Arc<str>),
    /// All rows.
    Whole,
}

/// Metadata of a shard about a move.
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
    /// Term of the mover that may change the row.
    pub term: MoveTerm,
    /// State of the other shard that the rows here have. On a source it matters after the commit,
    /// when the target's changes flow back.
    pub applied: AppliedRows,
    /// Extent of the rows here.
    pub cursor: CopyCursor,
    /// True while changes of the slots are recorded.
    pub is_traced: bool,
    /// Position of this shard when the row was made.
    pub begun: Position,
    /// Version counter at the commit. The target raises its own above it, so that versions of a
    /// row only grow.
    pub version: u64,
    /// Lowest position at which the other shard may be read through a signpost: on the source, the
    /// position that the target had confirmed before the commit; on the target, the position of the
    /// commit.
    pub signpost_min_position: Option<Position>,
}

impl MoveRow {
    /// Returns the stream of changes of this shard, on its current timeline.
    pub fn feed(&self, timeline: u32) -> Feed {
        Feed { timeline, begun: self.begun }
    }

    /// Checks that a request is of this row's leg and term.
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
