//! Steps after the commit, when the leg can no longer be cancelled: activate, publish, keep and
//! clean; or begin the next leg, in the other direction.

use super::Pair;
use crate::cutover::SlotActivation;
use crate::identity::MoveTicket;
use crate::move_row::{CopyCursor, MoveRow};
use crate::observation::{MoveGoal, SlotsState};
use crate::request::MoveRequest;
use crate::rules::MoveRule;
use crate::step::{MoveStep, WaitReason};

pub(super) fn next(pair: &Pair<'_>, source: &MoveRow) -> MoveStep {
    if pair.target.row.is_none() {
        return finish(pair, source);
    }
    match pair.target.slots {
        SlotsState::Importing => activate(pair, source),
        SlotsState::Owned | SlotsState::Fenced => owned(pair, source),
        SlotsState::Moved | SlotsState::Other => MoveStep::Rest(WaitReason::OutOfDate),
    }
}

/// Activates the target once no failover of the source can undo the commit.
fn activate(pair: &Pair<'_>, source: &MoveRow) -> MoveStep {
    if !pair.source.is_confirmed && pair.seen.rules.demand(MoveRule::CommitConfirmed) {
        return MoveStep::AwaitConfirmation(pair.leg.source());
    }
    let request = MoveRequest::Activate(SlotActivation::of(source, pair.source.position));
    MoveStep::Send(pair.leg.target(), Box::new(request))
}

fn owned(pair: &Pair<'_>, source: &MoveRow) -> MoveStep {
    let target = pair.leg.target();
    let is_published = pair.seen.published == target;
    let is_cleaned = pair.seen.goal == MoveGoal::Settle || source.cursor == CopyCursor::Empty;
    // While the source is kept, nothing waits for confirmation: the publication has already waited
    // for that of the activation. Replicas are always a little behind while clients write, and
    // during each wait no changes would flow back to the source.
    let is_kept = is_published && !is_cleaned && pair.is_wanted();
    let awaits = !pair.target.is_confirmed && !is_kept;
    if awaits && pair.seen.rules.demand(MoveRule::ActivationConfirmed) {
        return MoveStep::AwaitConfirmation(target);
    }
    if !is_published {
        return MoveStep::Publish(target);
    }
    if is_cleaned {
        return clean(pair, source);
    }
    if !pair.is_wanted() {
        return pair.to_source(MoveRequest::Reverse);
    }
    if pair.seen.is_paused {
        return MoveStep::Rest(WaitReason::Paused);
    }
    // On a busy shard there are always changes to copy, so those that were copied are deleted
    // first.
    if let Some(step) = trim(pair, source) {
        return step;
    }
    if pair.seen.is_behind {
        return MoveStep::CopyRound { from: target };
    }
    MoveStep::Rest(WaitReason::Keeping)
}

/// Deletes the owner's recorded changes that a majority of the kept source's nodes has.
fn trim(pair: &Pair<'_>, source: &MoveRow) -> Option<MoveStep> {
    let is_own = pair.target.feed() == Some(source.applied.feed);
    let is_new = pair.seen.progress.trimmed != Some(source.applied.round);
    let trim = |ticket: MoveTicket| MoveRequest::Trim(ticket, source.applied.clone());
    (is_own && is_new && pair.source.is_confirmed).then(|| pair.to_target(trim))
}

/// Deletes the source's rows, then the target's record of the move.
fn clean(pair: &Pair<'_>, source: &MoveRow) -> MoveStep {
    let is_marked =
        source.cursor == CopyCursor::Empty || !pair.seen.rules.demand(MoveRule::CleaningMarked);
    if !is_marked {
        return pair.to_source(MoveRequest::BeginCleaning);
    }
    if !pair.source.is_confirmed {
        return MoveStep::AwaitConfirmation(pair.leg.source());
    }
    if pair.source.has_rows {
        return pair.to_source(MoveRequest::Clean);
    }
    pair.to_target(MoveRequest::Forget)
}

/// Ends the move after the target has deleted its record. A node without a record may also be a
/// deposed primary from before the move, so the mover waits for confirmation.
fn finish(pair: &Pair<'_>, source: &MoveRow) -> MoveStep {
    if !pair.target.is_confirmed {
        return MoveStep::AwaitConfirmation(pair.leg.target());
    }
    if source.cursor != CopyCursor::Empty && pair.seen.rules.demand(MoveRule::CleaningMarked) {
        return pair.to_source(MoveRequest::BeginCleaning);
    }
    if pair.source.has_rows {
        return pair.to_source(MoveRequest::Clean);
    }
    // The rows may have been deleted on a deposed primary instead of its successor.
    if !pair.source.is_confirmed {
        return MoveStep::AwaitConfirmation(pair.leg.source());
    }
    pair.to_source(MoveRequest::Forget)
}
