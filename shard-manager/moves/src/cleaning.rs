//! Cleaning: after a leg has reached its target, the rows of the slots are deleted on the source,
//! and then the records of the move on both shards.
//!
//! **Invariant:** the slots stay `Moved` on the source, so that requests to it still find the new
//! owner.

use crate::identity::{MoveRole, MoveTicket};
use crate::limits::CLEANING_ROWS;
use crate::move_row::{CopyCursor, MoveRow};
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::rules::MoveRule;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Marks the source's rows as incomplete, before the first one is deleted.
pub(crate) fn begin(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    if moved(shard, ticket)?.cursor == CopyCursor::Empty {
        return Ok(MoveEffect::Repeated);
    }
    if context.rules.demand(MoveRule::CleaningMarked) {
        shard.row_mut(ticket.id)?.cursor = CopyCursor::Empty;
    }
    Ok(MoveEffect::Changed(RowWork::None))
}

/// Deletes some of the source's rows.
pub(crate) fn clean(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let is_marked = moved(shard, ticket)?.cursor == CopyCursor::Empty;
    if !is_marked && context.rules.demand(MoveRule::CleaningMarked) {
        return Err(MoveRefusal::WrongState);
    }
    Ok(MoveEffect::Changed(RowWork::DeleteBatch(CLEANING_ROWS)))
}

/// Deletes the record of the move: on the target if it owns the slots, on the source if its rows
/// are marked as incomplete. The mover sends this request to the source once no rows are left
/// there.
pub(crate) fn forget(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let Some(row) = shard.row(ticket.id) else { return Ok(MoveEffect::Repeated) };
    row.check(ticket)?;
    match row.role {
        MoveRole::Target if !shard.all(&row.slots, SlotState::is_owned) => {
            return Err(MoveRefusal::WrongState);
        }
        MoveRole::Target => {}
        MoveRole::Source => {
            let is_marked = moved(shard, ticket)?.cursor == CopyCursor::Empty;
            if !is_marked && context.rules.demand(MoveRule::CleaningMarked) {
                return Err(MoveRefusal::WrongState);
            }
        }
    }
    shard.remove_row(ticket.id);
    Ok(MoveEffect::Changed(RowWork::EndTraces))
}

fn moved<'s>(shard: &'s ShardMetadata, ticket: &MoveTicket) -> Result<&'s MoveRow, MoveRefusal> {
    let row = shard.row(ticket.id).ok_or(MoveRefusal::UnknownMove)?;
    row.check(ticket)?;
    let is_moved = shard.all(&row.slots, |state| matches!(state, SlotState::Moved { .. }));
    if row.role == MoveRole::Source && is_moved { Ok(row) } else { Err(MoveRefusal::WrongState) }
}
