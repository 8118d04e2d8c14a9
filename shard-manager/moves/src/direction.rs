//! Direction: after a move has reached its target, its direction can change. The next leg then
//! begins, with the roles of the two shards swapped.
//!
//! The new target changes its role first. Once a majority of its nodes has flushed this change, the
//! owner becomes the new source.

use crate::identity::{MoveRole, MoveTicket};
use crate::move_row::CopyCursor;
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::rules::MoveRule;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Gives a shard the other role, for the leg that follows the leg of the ticket.
pub(crate) fn reverse(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = shard.row(ticket.id).ok_or(MoveRefusal::UnknownMove)?;
    row.check_term(ticket.term)?;
    if row.leg == ticket.leg.next() {
        return Ok(MoveEffect::Repeated);
    }
    row.check(ticket)?;
    match row.role {
        MoveRole::Source => receive(shard, ticket, context),
        MoveRole::Target => give(shard, ticket),
    }
}

/// Makes the former source import the slots again. Its rows were kept up to date, so nothing is
/// copied. They must be complete, however: cleaning marks them as incomplete before it deletes the
/// first one.
fn receive(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = shard.row_mut(ticket.id)?;
    let (slots, to, is_whole) = (row.slots.clone(), row.other, row.cursor == CopyCursor::Whole);
    if !shard.all(&slots, |state| matches!(state, SlotState::Moved { .. })) {
        return Err(MoveRefusal::WrongState);
    }
    if !is_whole && context.rules.demand(MoveRule::CleaningMarked) {
        return Err(MoveRefusal::Incomplete);
    }
    shard.change_states(&slots, |_| Some(SlotState::Importing { moved_to: Some(to) }));
    let row = shard.row_mut(ticket.id)?;
    row.role = MoveRole::Target;
    row.leg = row.leg.next();
    Ok(MoveEffect::Changed(RowWork::None))
}

/// Makes the owner the source. The owner has recorded its changes since its activation.
fn give(shard: &mut ShardMetadata, ticket: &MoveTicket) -> Result<MoveEffect, MoveRefusal> {
    let slots = shard.row_mut(ticket.id)?.slots.clone();
    if !shard.all(&slots, SlotState::is_owned) {
        return Err(MoveRefusal::WrongState);
    }
    let row = shard.row_mut(ticket.id)?;
    row.role = MoveRole::Source;
    row.leg = row.leg.next();
    Ok(MoveEffect::Changed(RowWork::None))
}
