//! Steps while the destination cannot be read: the mover can still cancel a leg to the destination,
//! and end a recording of changes that has become too long, on the origin alone.
//!
//! The decisive step is to delete the origin's record: no commit can be carried out after that, so
//! the destination never owns the slots. The destination's copy serves no request, and is deleted
//! once the destination can be read again.
//!
//! **Invariant:** the mover ends the move without the destination only if the origin owns the slots
//! and has no record of the move, and only once both facts are confirmed.
//! **Not here:** moves that have reached the destination, which wait until it can be read; the
//! deletion of the copy ([`super::next`]).

use crate::identity::{MoveId, MoveLeg, MoveRole, MoveTerm, MoveTicket};
use crate::observation::{MoveGoal, ShardObservation, SlotsState};
use crate::request::MoveRequest;

/// Facts from which the mover decides while the destination cannot be read.
#[derive(Debug)]
pub struct OriginObservation<'a> {
    /// The move.
    pub id: MoveId,
    /// Goal that the operator has set.
    pub goal: MoveGoal,
    /// Term of this mover.
    pub term: MoveTerm,
    /// Facts about the origin.
    pub origin: &'a ShardObservation,
    /// True if the origin has recorded more changes than it keeps.
    pub has_too_many_changes: bool,
    /// True if the catalog names the origin as owner of the slots.
    pub is_published: bool,
    /// True once the destination has been unreadable for so long that the move may end without it.
    pub is_given_up: bool,
    /// True if the destination has owned the slots at some time, so that it may have more than an
    /// unused copy.
    pub has_reached_destination: bool,
}

/// Next action of a mover that can read only the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginStep {
    /// The mover sends the request to the origin.
    Send(Box<MoveRequest>),
    /// The mover waits until a majority of the origin's nodes has flushed the facts that the mover
    /// has read.
    AwaitConfirmation,
    /// The mover waits until the destination can be read.
    AwaitDestination,
    /// Another mover has taken over.
    Superseded,
    /// The move has ended. The origin owns the slots, and does not record their changes.
    End,
}

/// Returns the next step of a move whose destination cannot be read.
pub fn next_without_destination(seen: &OriginObservation<'_>) -> OriginStep {
    let is_owner = matches!(seen.origin.slots, SlotsState::Owned | SlotsState::Fenced);
    let is_cancelled = seen.goal == MoveGoal::Back;
    if !is_owner || !(is_cancelled || seen.has_too_many_changes) {
        return OriginStep::AwaitDestination;
    }
    let Some(row) = &seen.origin.row else {
        return if is_cancelled { end(seen) } else { OriginStep::AwaitDestination };
    };
    if row.term > seen.term {
        return OriginStep::Superseded;
    }
    if row.leg != MoveLeg::FIRST || row.role != MoveRole::Source {
        return OriginStep::AwaitDestination;
    }
    let request = if row.term < seen.term {
        MoveRequest::Raise { id: seen.id, term: seen.term }
    } else {
        MoveRequest::Lift(MoveTicket { id: seen.id, leg: row.leg, term: seen.term })
    };
    OriginStep::Send(Box::new(request))
}

/// Ends the move once no failover of the origin can restore its record and the fence.
fn end(seen: &OriginObservation<'_>) -> OriginStep {
    if !seen.is_published || !seen.is_given_up || seen.has_reached_destination {
        return OriginStep::AwaitDestination;
    }
    if seen.origin.is_confirmed { OriginStep::End } else { OriginStep::AwaitConfirmation }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::keyspace::Slot;
    use model::position::Position;
    use model::topology::ShardNumber;

    use super::*;
    use crate::applied::AppliedRows;
    use crate::move_row::{CopyCursor, MoveRow};

    const ID: MoveId = MoveId(7);
    const POSITION: Position = Position { timeline: 1, sequence: 1 };

    fn term(number: u64) -> MoveTerm {
        MoveTerm { number, mover: 0 }
    }

    fn row(number: u64) -> MoveRow {
        MoveRow {
            id: ID,
            role: MoveRole::Source,
            other: ShardNumber(1),
            slots: Slot::new(3).into_iter().collect::<Arc<[Slot]>>(),
            leg: MoveLeg::FIRST,
            term: term(number),
            applied: AppliedRows::begin(1),
            cursor: CopyCursor::Empty,
            is_traced: true,
            begun: POSITION,
            version: 0,
            signpost_min_position: None,
        }
    }

    fn origin(row: Option<MoveRow>, slots: SlotsState) -> ShardObservation {
        ShardObservation {
            position: POSITION,
            row,
            slots,
            is_confirmed: true,
            has_majority: true,
            has_rows: true,
        }
    }

    fn seen(origin: &ShardObservation) -> OriginObservation<'_> {
        let (is_published, is_given_up) = (true, true);
        OriginObservation {
            id: ID,
            goal: MoveGoal::Back,
            term: term(2),
            origin,
            has_too_many_changes: false,
            is_published,
            is_given_up,
            has_reached_destination: false,
        }
    }

    #[test]
    fn a_cancelled_leg_ends_on_the_origin_alone() {
        for slots in [SlotsState::Owned, SlotsState::Fenced] {
            let earlier = origin(Some(row(1)), slots);
            let raise = MoveRequest::Raise { id: ID, term: term(2) };
            let step = next_without_destination(&seen(&earlier));
            assert_eq!(step, OriginStep::Send(Box::new(raise)));

            let raised = origin(Some(row(2)), slots);
            let ticket = MoveTicket { id: ID, leg: MoveLeg::FIRST, term: term(2) };
            let step = next_without_destination(&seen(&raised));
            assert_eq!(step, OriginStep::Send(Box::new(MoveRequest::Lift(ticket))));
        }
        let lifted = origin(None, SlotsState::Owned);
        assert_eq!(next_without_destination(&seen(&lifted)), OriginStep::End);
    }

    #[test]
    fn an_end_without_the_destination_is_confirmed_and_waits_for_it_first() {
        let lifted = origin(None, SlotsState::Owned);
        let early = OriginObservation { is_given_up: false, ..seen(&lifted) };
        assert_eq!(next_without_destination(&early), OriginStep::AwaitDestination);
        let unpublished = OriginObservation { is_published: false, ..seen(&lifted) };
        assert_eq!(next_without_destination(&unpublished), OriginStep::AwaitDestination);
        let unconfirmed = ShardObservation { is_confirmed: false, ..lifted };
        let step = next_without_destination(&seen(&unconfirmed));
        assert_eq!(step, OriginStep::AwaitConfirmation);
    }

    #[test]
    fn a_move_whose_origin_has_committed_or_that_goes_forward_waits_for_the_destination() {
        for slots in [SlotsState::Moved, SlotsState::Importing, SlotsState::Other] {
            for row in [Some(row(2)), None] {
                let origin = origin(row, slots);
                let step = next_without_destination(&seen(&origin));
                assert_eq!(step, OriginStep::AwaitDestination, "{slots:?}");
            }
        }
        let owner = origin(Some(row(2)), SlotsState::Owned);
        for goal in [MoveGoal::Forward, MoveGoal::Settle] {
            let other = OriginObservation { goal, ..seen(&owner) };
            let step = next_without_destination(&other);
            assert_eq!(step, OriginStep::AwaitDestination, "{goal:?}");
        }
        let later = MoveRow { leg: MoveLeg(2), role: MoveRole::Target, ..row(2) };
        let back = origin(Some(later), SlotsState::Owned);
        assert_eq!(next_without_destination(&seen(&back)), OriginStep::AwaitDestination);
    }

    #[test]
    fn a_rollback_waits_for_the_destination_after_the_origin_has_forgotten_it() {
        let forgotten = origin(None, SlotsState::Owned);
        let back = OriginObservation { has_reached_destination: true, ..seen(&forgotten) };
        assert_eq!(next_without_destination(&back), OriginStep::AwaitDestination);
        let unconfirmed = ShardObservation { is_confirmed: false, ..forgotten.clone() };
        let back = OriginObservation { has_reached_destination: true, ..seen(&unconfirmed) };
        assert_eq!(next_without_destination(&back), OriginStep::AwaitDestination);
    }

    #[test]
    fn a_recording_that_is_too_long_ends_without_the_destination_and_the_move_stays_open() {
        let behind = origin(Some(row(2)), SlotsState::Owned);
        let forward = |origin| OriginObservation {
            goal: MoveGoal::Forward,
            has_too_many_changes: true,
            ..seen(origin)
        };
        let ticket = MoveTicket { id: ID, leg: MoveLeg::FIRST, term: term(2) };
        let lift = OriginStep::Send(Box::new(MoveRequest::Lift(ticket)));
        assert_eq!(next_without_destination(&forward(&behind)), lift);
        let lifted = origin(None, SlotsState::Owned);
        let step = next_without_destination(&forward(&lifted));
        assert_eq!(step, OriginStep::AwaitDestination);
        let moved = origin(Some(row(2)), SlotsState::Moved);
        assert_eq!(next_without_destination(&forward(&moved)), OriginStep::AwaitDestination);
    }

    #[test]
    fn a_mover_whose_term_is_over_changes_nothing_without_the_destination() {
        let taken = origin(Some(row(3)), SlotsState::Fenced);
        assert_eq!(next_without_destination(&seen(&taken)), OriginStep::Superseded);
    }
}
