//! Rounds of the copy: stored on the receiving side; the recorded changes that it then has are
//! deleted on the other side.
//!
//! **Invariant:** the target has exactly the rows of the source up to `cursor` as of `applied`.
//! **Not here:** reading the rows of a round (the engines).

use crate::applied::AppliedRows;
use crate::identity::{MoveRole, MoveTicket};
use crate::move_row::{CopyCursor, MoveRow};
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::rules::MoveRule;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Round of the copy: rows read in one snapshot of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRound {
    /// State of the target that the round continues.
    pub base: AppliedRows,
    /// Extent of the target's rows before it. Two movers may read different chunks at one mark.
    pub base_cursor: CopyCursor,
    /// State of the target after it.
    pub next: AppliedRows,
    /// Extent of the rows after it.
    pub cursor: CopyCursor,
    /// True if all rows up to the cursor were compared and the differences are part of the round,
    /// false if it contains recorded changes only.
    pub is_comparison: bool,
}

/// Stores a round, on the target while it imports, or on the source while changes flow back to it.
pub(crate) fn store(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    round: &CopyRound,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = shard.row(ticket.id).ok_or(MoveRefusal::UnknownMove)?;
    row.check(ticket)?;
    if context.rules.demand(MoveRule::RoundWhileImporting) && !may_store(shard, row) {
        return Err(MoveRefusal::WrongState);
    }
    if row.applied == round.next && row.cursor == round.cursor {
        return Ok(MoveEffect::Repeated);
    }
    check_round(row, round, context)?;
    let row = shard.row_mut(ticket.id)?;
    row.applied = round.next.clone();
    row.cursor = round.cursor.clone();
    Ok(MoveEffect::Changed(RowWork::StoreRows))
}

fn may_store(shard: &ShardMetadata, row: &MoveRow) -> bool {
    match row.role {
        MoveRole::Target => {
            shard.all(&row.slots, |state| matches!(state, SlotState::Importing { .. }))
        }
        MoveRole::Source => {
            let is_moved = shard.all(&row.slots, |state| matches!(state, SlotState::Moved { .. }));
            is_moved && row.cursor == CopyCursor::Whole
        }
    }
}

fn check_round(
    row: &MoveRow,
    round: &CopyRound,
    context: &RequestContext<'_>,
) -> Result<(), MoveRefusal> {
    let is_next = round.next.pass == round.base.pass && round.next.round == round.base.round + 1;
    let follows = is_next && round.base == row.applied && round.base_cursor == row.cursor;
    if !follows && context.rules.demand(MoveRule::RoundInOrder) {
        return Err(MoveRefusal::OtherRound);
    }
    let is_older = round.next.feed.timeline < round.base.feed.timeline;
    if is_older && context.rules.demand(MoveRule::NoOlderTimeline) {
        return Err(MoveRefusal::OlderTimeline);
    }
    let is_first = row.applied.is_empty() && row.cursor == CopyCursor::Empty;
    let is_comparable = is_first || round.next.feed == round.base.feed || round.is_comparison;
    if !is_comparable && context.rules.demand(MoveRule::OwnFeed) {
        return Err(MoveRefusal::OtherFeed);
    }
    Ok(())
}

/// Begins the copy again, in the next pass. The target cannot see the source's commit, so the mover
/// excludes it: it sends this request only in a term without a commit, and then takes its next
/// term. Otherwise a late commit would find an emptied target, or a late request of this kind would
/// empty a target that has the slots.
pub(crate) fn copy_again(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = shard.row(ticket.id).ok_or(MoveRefusal::UnknownMove)?;
    row.check(ticket)?;
    let is_importing = shard.all(&row.slots, |state| matches!(state, SlotState::Importing { .. }));
    if row.role != MoveRole::Target || !is_importing {
        return Err(MoveRefusal::WrongState);
    }
    let row = shard.row_mut(ticket.id)?;
    let passes = u32::from(context.rules.demand(MoveRule::NextPass));
    row.applied = AppliedRows::begin(row.applied.pass + passes);
    row.cursor = CopyCursor::Empty;
    Ok(MoveEffect::Changed(RowWork::DeleteRows))
}

/// Deletes recorded changes that a majority of the target's nodes has.
pub(crate) fn trim(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    applied: &AppliedRows,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = shard.row(ticket.id).ok_or(MoveRefusal::UnknownMove)?;
    row.check(ticket)?;
    let is_own = applied.feed == row.feed(context.position.timeline);
    if !is_own && context.rules.demand(MoveRule::OwnFeed) {
        return Err(MoveRefusal::OtherFeed);
    }
    Ok(MoveEffect::Changed(RowWork::TrimTraces(applied.mark.clone())))
}
