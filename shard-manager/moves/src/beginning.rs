//! Beginning: the shards create their records of a move, and accept the term of the mover that may
//! change these records.
//!
//! **Not here:** the copy (`round`).

use std::sync::Arc;

use model::keyspace::Slot;
use model::topology::ShardNumber;

use crate::applied::AppliedRows;
use crate::identity::{MoveId, MoveRole, MoveTerm, MoveTicket};
use crate::limits::SLOTS_MAX;
use crate::move_row::{CopyCursor, MoveRow};
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Record of a move that a shard is to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMoveRow {
    /// Move, leg and term of the request.
    pub ticket: MoveTicket,
    /// The other shard.
    pub other: ShardNumber,
    /// Slots of the move.
    pub slots: Arc<[Slot]>,
}

/// Creates the target's record and begins to import the slots. If the state of a slot is `Moved`,
/// which names its owner, that owner is kept within `Importing`, so that the state can be restored
/// if the copy is abandoned.
pub(crate) fn prepare(
    shard: &mut ShardMetadata,
    new: &NewMoveRow,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    if let Some(row) = shard.row(new.ticket.id) {
        return repeat(row, new, MoveRole::Target);
    }
    check_slots(shard, &new.slots)?;
    let is_free = |slot: &Slot| matches!(shard.state(*slot), None | Some(SlotState::Moved { .. }));
    if !new.slots.iter().all(is_free) {
        return Err(MoveRefusal::WrongState);
    }
    shard.change_states(&new.slots, |state| {
        let Some(SlotState::Moved { to }) = state else {
            return Some(SlotState::Importing { moved_to: None });
        };
        Some(SlotState::Importing { moved_to: Some(to) })
    });
    shard.moves.push(row(new, MoveRole::Target, context));
    Ok(MoveEffect::Changed(RowWork::DeleteRows))
}

/// Creates the source's record. The same transaction, which holds the fence lock, begins the
/// recording of changes, so no later change is missed.
pub(crate) fn trace(
    shard: &mut ShardMetadata,
    new: &NewMoveRow,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    if let Some(row) = shard.row(new.ticket.id) {
        return repeat(row, new, MoveRole::Source);
    }
    check_slots(shard, &new.slots)?;
    if !shard.all(&new.slots, SlotState::is_owned) {
        return Err(MoveRefusal::WrongState);
    }
    shard.moves.push(MoveRow { is_traced: true, ..row(new, MoveRole::Source, context) });
    Ok(MoveEffect::Changed(RowWork::BeginTraces))
}

/// Raises the term of a record to the term of a mover that takes over.
pub(crate) fn raise(
    shard: &mut ShardMetadata,
    id: MoveId,
    term: MoveTerm,
) -> Result<MoveEffect, MoveRefusal> {
    let row = shard.row_mut(id)?;
    if row.term > term {
        return Err(MoveRefusal::Superseded { term: row.term });
    }
    if row.term == term {
        return Ok(MoveEffect::Repeated);
    }
    row.term = term;
    Ok(MoveEffect::Changed(RowWork::None))
}

fn repeat(row: &MoveRow, new: &NewMoveRow, role: MoveRole) -> Result<MoveEffect, MoveRefusal> {
    row.check(&new.ticket)?;
    if row.role == role { Ok(MoveEffect::Repeated) } else { Err(MoveRefusal::WrongState) }
}

fn check_slots(shard: &ShardMetadata, slots: &[Slot]) -> Result<(), MoveRefusal> {
    if slots.is_empty() || slots.len() > SLOTS_MAX {
        return Err(MoveRefusal::OutOfBounds);
    }
    let is_taken = |slot: &Slot| shard.moves.iter().any(|row| row.slots.contains(slot));
    if slots.iter().any(is_taken) { Err(MoveRefusal::SlotTaken) } else { Ok(()) }
}

fn row(new: &NewMoveRow, role: MoveRole, context: &RequestContext<'_>) -> MoveRow {
    MoveRow {
        id: new.ticket.id,
        role,
        other: new.other,
        slots: new.slots.clone(),
        leg: new.ticket.leg,
        term: new.ticket.term,
        applied: AppliedRows::begin(1),
        cursor: CopyCursor::Empty,
        is_traced: false,
        begun: context.position,
        version: 0,
        signpost_min_position: None,
    }
}
