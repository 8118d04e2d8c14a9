//! Next step: the mover's decision about a move, from the metadata of both shards.
//!
//! A mover that has just taken over decides as its predecessor would have, because everything that
//! matters is in the records of the shards.
//!
//! **Not here:** reading the facts, sending the requests.

mod after_commit;
mod before_commit;
mod without_source;

pub mod without_destination;
pub mod without_kept_source;

use crate::beginning::NewMoveRow;
use crate::identity::{MoveLeg, MoveRole, MoveSide, MoveTicket};
use crate::move_row::MoveRow;
use crate::observation::{MoveObservation, ShardObservation, SlotsState};
use crate::request::MoveRequest;
use crate::rules::MoveRule;
use crate::step::{MoveStep, WaitReason};

/// Returns the next step of a move.
pub fn next(seen: &MoveObservation<'_>) -> MoveStep {
    if let Some(step) = raise(seen) {
        return step;
    }
    let pair = Pair::new(seen);
    if let Some(step) = remove_stray_row(&pair) {
        return step;
    }
    let Some(row) = &pair.source.row else { return without_source::next(&pair) };
    if row.leg < pair.leg {
        return reverse_source(&pair, row);
    }
    match pair.source.slots {
        SlotsState::Owned | SlotsState::Fenced => before_commit::next(&pair),
        SlotsState::Moved => after_commit::next(&pair, row),
        SlotsState::Importing | SlotsState::Other => MoveStep::Rest(WaitReason::OutOfDate),
    }
}

/// Stores the term of this mover on both shards. The source comes first, because it is the shard on
/// which an earlier mover could still commit.
fn raise(seen: &MoveObservation<'_>) -> Option<MoveStep> {
    if seen.progress.empties_target && seen.rules.demand(MoveRule::NextTerm) {
        return Some(MoveStep::NextTerm);
    }
    let leg = seen.leg();
    for side in [leg.source(), leg.target()] {
        let Some(row) = &seen.shard(side).row else { continue };
        if row.term > seen.term {
            return Some(MoveStep::Rest(WaitReason::Superseded));
        }
        let again = !seen.progress.raised[side.index()] || seen.rules.demand(MoveRule::RaiseAgain);
        if row.term < seen.term && again {
            let request = MoveRequest::Raise { id: row.id, term: seen.term };
            return Some(MoveStep::Send(side, Box::new(request)));
        }
    }
    None
}

/// Removes a record that a late request of another leg has created on the owner. When the direction
/// changes, the receiving side changes its leg first, so an owner with the role of the source
/// always has the same leg as the other side. A record for which this is not true is stray. If it
/// stayed, the slots could be committed to a target that refuses the activation because of its leg.
fn remove_stray_row(pair: &Pair<'_>) -> Option<MoveStep> {
    [pair.leg.source(), pair.leg.target()].into_iter().find_map(|side| {
        let shard = pair.seen.shard(side);
        let (row, other) = (shard.row.as_ref()?, pair.seen.shard(side.other()).row.as_ref()?);
        let is_owner = matches!(shard.slots, SlotsState::Owned | SlotsState::Fenced);
        let is_stray = row.leg != other.leg && row.role == MoveRole::Source && is_owner;
        let ticket = MoveTicket { leg: row.leg, ..pair.ticket() };
        is_stray.then(|| MoveStep::Send(side, Box::new(MoveRequest::Lift(ticket))))
    })
}

/// Makes the owner the source of the next leg once the change of the new target is confirmed.
/// Otherwise a failover could leave the slots without a side that imports them.
fn reverse_source(pair: &Pair<'_>, row: &MoveRow) -> MoveStep {
    if !pair.target.is_confirmed {
        return MoveStep::AwaitConfirmation(pair.leg.target());
    }
    let ticket = MoveTicket { leg: row.leg, ..pair.ticket() };
    MoveStep::Send(pair.leg.source(), Box::new(MoveRequest::Reverse(ticket)))
}

/// Facts about both shards, by their roles in the current leg.
struct Pair<'a> {
    seen: &'a MoveObservation<'a>,
    leg: MoveLeg,
    source: &'a ShardObservation,
    target: &'a ShardObservation,
}

impl<'a> Pair<'a> {
    fn new(seen: &'a MoveObservation<'a>) -> Self {
        let leg = seen.leg();
        let (source, target) = (seen.shard(leg.source()), seen.shard(leg.target()));
        Self { seen, leg, source, target }
    }

    fn ticket(&self) -> MoveTicket {
        MoveTicket { id: self.seen.plan.id, leg: self.leg, term: self.seen.term }
    }

    /// Returns the record that a side is to create.
    fn new_row(&self, side: MoveSide) -> NewMoveRow {
        let other = self.seen.plan.shards[side.other().index()];
        NewMoveRow { ticket: self.ticket(), other, slots: self.seen.plan.slots.clone() }
    }

    fn to_source(&self, request: impl FnOnce(MoveTicket) -> MoveRequest) -> MoveStep {
        MoveStep::Send(self.leg.source(), Box::new(request(self.ticket())))
    }

    fn to_target(&self, request: impl FnOnce(MoveTicket) -> MoveRequest) -> MoveStep {
        MoveStep::Send(self.leg.target(), Box::new(request(self.ticket())))
    }

    /// Returns true if the leg takes the slots to the side where the operator wants them.
    fn is_wanted(&self) -> bool {
        self.seen.goal.agrees_with(self.leg)
    }
}
