//! Steps while the source owns the slots: prepare, copy, follow, verify, fence, drain (copy the
//! last changes) and commit; or cancel; or end a recording of changes that has become too long.

use model::sabotage::{Mutation, is_on};

use super::Pair;
use crate::cutover::SlotCommit;
use crate::identity::MoveTicket;
use crate::limits::SHORT_ROUNDS;
use crate::move_row::{CopyCursor, MoveRow};
use crate::observation::SlotsState;
use crate::request::MoveRequest;
use crate::rules::MoveRule;
use crate::step::{MoveStep, WaitReason};

pub(super) fn next(pair: &Pair<'_>) -> MoveStep {
    // If the source has recorded too many changes, it ends this recording and begins another one,
    // and the copy begins again.
    if !pair.is_wanted() || pair.seen.progress.has_too_many_changes {
        return pair.to_source(MoveRequest::Lift);
    }
    if pair.seen.is_paused {
        return MoveStep::Rest(WaitReason::Paused);
    }
    let Some(target) = &pair.target.row else {
        let new = pair.new_row(pair.leg.target());
        return MoveStep::Send(pair.leg.target(), Box::new(MoveRequest::Prepare(new)));
    };
    if pair.target.slots != SlotsState::Importing {
        return MoveStep::Rest(WaitReason::OutOfDate);
    }
    copy(pair, target).unwrap_or_else(|| cut_over(pair, target))
}

/// Returns the next step until the rows on the target are complete, verified, and follow the source
/// closely; `None` after that.
fn copy(pair: &Pair<'_>, target: &MoveRow) -> Option<MoveStep> {
    let feed = pair.source.feed()?;
    let applied = &target.applied;
    let is_older = feed.timeline < applied.feed.timeline;
    if is_older && pair.seen.rules.demand(MoveRule::NoOlderTimeline) {
        return Some(MoveStep::Rest(WaitReason::OutOfDate));
    }
    if pair.seen.must_copy_again {
        return Some(copy_again(pair));
    }
    let is_foreign = applied.feed != feed && pair.seen.rules.demand(MoveRule::OwnFeed);
    let round = MoveStep::CopyRound { from: pair.leg.source() };
    if is_foreign {
        return Some(round);
    }
    // Otherwise the source would keep all changes since the beginning of a long copy.
    if let Some(step) = trim(pair, target) {
        return Some(step);
    }
    if target.cursor != CopyCursor::Whole {
        return Some(round);
    }
    let is_fenced = pair.source.slots == SlotsState::Fenced && pair.seen.progress.is_fenced;
    if !is_fenced && pair.seen.progress.short_rounds < SHORT_ROUNDS {
        return Some(round);
    }
    let is_verified = pair.seen.progress.verified == Some((feed, applied.pass));
    if !is_verified && !is_fenced && !is_on(Mutation::Unverified) {
        return Some(MoveStep::Verify { from: pair.leg.source() });
    }
    None
}

/// Empties the target, once no commit can be carried out any more: this mover has sent none in its
/// term, and the source refuses commits of earlier terms even after a failover, because the term is
/// confirmed.
///
/// The source's state alone proves nothing. A commit that is still in transit may be carried out
/// after the mover has read the state, and then the slots would belong to a target without their
/// rows.
fn copy_again(pair: &Pair<'_>) -> MoveStep {
    let demands = |rule| pair.seen.rules.demand(rule);
    if pair.seen.progress.sends_commit && demands(MoveRule::NoCommitInTerm) {
        return MoveStep::NextTerm;
    }
    if !pair.source.is_confirmed && demands(MoveRule::TermConfirmed) {
        return MoveStep::AwaitConfirmation(pair.leg.source());
    }
    pair.to_target(MoveRequest::CopyAgain)
}

/// Deletes the source's recorded changes that a majority of the target's nodes has, so that no
/// failover of the target can make them necessary again.
fn trim(pair: &Pair<'_>, target: &MoveRow) -> Option<MoveStep> {
    let is_new = pair.seen.progress.trimmed != Some(target.applied.round);
    let may = pair.target.is_confirmed || !pair.seen.rules.demand(MoveRule::TrimConfirmed);
    let trim = |ticket: MoveTicket| MoveRequest::Trim(ticket, target.applied.clone());
    (is_new && may).then(|| pair.to_source(trim))
}

/// Fences the slots, copies the last changes and commits. The fence is renewed when it may have
/// expired.
fn cut_over(pair: &Pair<'_>, target: &MoveRow) -> MoveStep {
    if pair.source.slots == SlotsState::Owned || !pair.seen.progress.is_fenced {
        let has_majorities = pair.source.has_majority && pair.target.has_majority;
        return if has_majorities {
            pair.to_source(MoveRequest::Fence)
        } else {
            MoveStep::Rest(WaitReason::NoMajority)
        };
    }
    if pair.seen.is_behind && pair.seen.rules.demand(MoveRule::ChangesDecide) {
        return MoveStep::CopyRound { from: pair.leg.source() };
    }
    if !pair.target.is_confirmed && pair.seen.rules.demand(MoveRule::DrainConfirmed) {
        return MoveStep::AwaitConfirmation(pair.leg.target());
    }
    let commit = SlotCommit {
        applied: target.applied.clone(),
        signpost_min_position: pair.target.position,
        way_back: target.feed(pair.target.position.timeline),
    };
    pair.to_source(|ticket| MoveRequest::Commit(ticket, commit))
}
