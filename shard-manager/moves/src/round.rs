//! Rounds of the copy: the receiving shard stores the rows of each round, and the other shard
//! deletes the recorded changes that the receiving shard then has.
//!
//! **Invariant:** the target has exactly the rows that the source had at `applied`, up to `cursor`.
//! **Not here:** reading the rows of a round (the engines).

use crate::applied::AppliedRows;
use crate::identity::{MoveRole, MoveTicket};
use crate::move_row::{CopyCursor, MoveRow};
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::rules::MoveRule;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Round of the copy: rows that were read in one snapshot of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRound {
    /// State of the target that the round requires and continues.
    pub base: AppliedRows,
    /// Cursor of the target before the round. `base` alone does not identify the round, because two
    /// movers may read different chunks at the same mark.
    pub base_cursor: CopyCursor,
    /// State of the target after the round.
    pub next: AppliedRows,
    /// Cursor of the target after the round.
    pub cursor: CopyCursor,
    /// True if all rows up to the cursor were compared, and the round contains the differences.
    /// False if the round contains only recorded changes and the next chunk.
    pub is_comparison: bool,
}

/// Stores a round on the target while it imports the slots, or on the kept source while changes
/// flow back to it.
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

/// Begins the copy again, in the next pass. The target cannot see whether the source has committed,
/// so the mover makes sure that it has not and cannot: it sends this request only in a term in
/// which it has sent no commit, and takes its next term afterwards. Otherwise a late commit could
/// give the slots to an emptied target, or this request, if late, could empty a target to which the
/// slots were committed.
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

/// Deletes recorded changes that a majority of the receiving shard's nodes has.
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
