//! Ending: one leg of a move (a transfer of its slots in one direction) is cancelled before its
//! commit. The source keeps the slots, and then the target deletes its copy.
//!
//! **Invariant:** the target deletes nothing before a majority of the source's nodes has flushed
//! the deletion of the source's record. Otherwise a failover of the source could restore the record
//! and the fence, and the source could still commit.

use crate::identity::{MoveRole, MoveTicket};
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::rules::MoveRule;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Removes the fence and deletes the source's record in one transaction. A request to fence or to
/// commit that arrives later is refused, because the record is gone.
pub(crate) fn lift(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let Some(row) = shard.row(ticket.id) else { return Ok(MoveEffect::Repeated) };
    row.check(ticket)?;
    let slots = row.slots.clone();
    if row.role != MoveRole::Source || !shard.all(&slots, SlotState::is_owned) {
        return Err(MoveRefusal::WrongState);
    }
    for slot in slots.iter() {
        shard.slots.insert(*slot, SlotState::Owned);
    }
    if context.rules.demand(MoveRule::LiftDeletesRow) {
        shard.remove_row(ticket.id);
    } else {
        shard.row_mut(ticket.id)?.is_traced = false;
    }
    Ok(MoveEffect::Changed(RowWork::EndTraces))
}

/// Deletes the copy and the target's record. Slots that were `Moved` before the copy get this state
/// back. After this request the mover continues only in a higher term, so that a late copy of the
/// request is refused. Otherwise it could empty a target to which the slots have been committed.
pub(crate) fn discard(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
) -> Result<MoveEffect, MoveRefusal> {
    let Some(row) = shard.row(ticket.id) else { return Ok(MoveEffect::Repeated) };
    row.check(ticket)?;
    let slots = row.slots.clone();
    let is_importing = shard.all(&slots, |state| matches!(state, SlotState::Importing { .. }));
    if row.role != MoveRole::Target || !is_importing {
        return Err(MoveRefusal::WrongState);
    }
    shard.change_states(&slots, |state| match state {
        Some(SlotState::Importing { moved_to: Some(to) }) => Some(SlotState::Moved { to }),
        Some(_) | None => None,
    });
    shard.remove_row(ticket.id);
    Ok(MoveEffect::Changed(RowWork::DeleteRows))
}
