//! Steps while the former owner of the slots cannot be read: the new owner stops recording changes
//! as soon as no rollback needs them.
//!
//! The former owner has committed, so nothing that it does later can make it the owner again. When
//! it can be read again, the new owner has no record of the move. The mover then continues as after
//! a failover late in the cleaning, and deletes the rows of the former owner ([`super::next`]).
//!
//! **Invariant:** an owner deletes its record only if the catalog names it as owner, because then
//! its activation is confirmed.
//! **Not here:** the maximum number of recorded changes, beyond which the former owner is no longer
//! kept for a rollback.

use crate::identity::{MoveId, MoveRole, MoveSide, MoveTerm, MoveTicket};
use crate::observation::{MoveGoal, ShardObservation, SlotsState};
use crate::request::MoveRequest;

/// Facts from which the mover decides while the former owner cannot be read.
#[derive(Debug)]
pub struct OwnerObservation<'a> {
    /// The move.
    pub id: MoveId,
    /// Goal that the operator has set.
    pub goal: MoveGoal,
    /// Term of this mover.
    pub term: MoveTerm,
    /// Side of the new owner, which can be read.
    pub side: MoveSide,
    /// Facts about this side.
    pub owner: &'a ShardObservation,
    /// True if the catalog names this side as owner of the slots.
    pub is_published: bool,
}

/// Returns the next request to the new owner; `None` if the mover must wait for the former owner.
pub fn next_without_kept_source(seen: &OwnerObservation<'_>) -> Option<MoveRequest> {
    let row = seen.owner.row.as_ref()?;
    let is_owner = matches!(seen.owner.slots, SlotsState::Owned | SlotsState::Fenced);
    let has_arrived = is_owner && row.role == MoveRole::Target && row.leg.target() == seen.side;
    // If a rollback has brought the slots back to their origin, no second rollback follows.
    let is_back = seen.goal == MoveGoal::Back && seen.side == MoveSide::Origin;
    let is_over = seen.goal == MoveGoal::Settle || is_back;
    if !(has_arrived && is_over && seen.is_published) || row.term > seen.term {
        return None;
    }
    if row.term < seen.term {
        return Some(MoveRequest::Raise { id: seen.id, term: seen.term });
    }
    Some(MoveRequest::Forget(MoveTicket { id: seen.id, leg: row.leg, term: seen.term }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::keyspace::Slot;
    use model::position::Position;
    use model::topology::ShardNumber;

    use super::*;
    use crate::applied::AppliedRows;
    use crate::identity::MoveLeg;
    use crate::move_row::{CopyCursor, MoveRow};

    const ID: MoveId = MoveId(7);
    const POSITION: Position = Position { timeline: 1, sequence: 1 };

    fn term(number: u64) -> MoveTerm {
        MoveTerm { number, mover: 0 }
    }

    /// Returns the side to which the slots have moved in a leg.
    fn owner(leg: MoveLeg) -> ShardObservation {
        let row = MoveRow {
            id: ID,
            role: MoveRole::Target,
            other: ShardNumber(0),
            slots: Slot::new(3).into_iter().collect::<Arc<[Slot]>>(),
            leg,
            term: term(2),
            applied: AppliedRows::begin(1),
            cursor: CopyCursor::Whole,
            is_traced: true,
            begun: POSITION,
            version: 0,
            signpost_min_position: None,
        };
        ShardObservation {
            position: POSITION,
            row: Some(row),
            slots: SlotsState::Owned,
            is_confirmed: true,
            has_majority: true,
            has_rows: true,
        }
    }

    fn seen(owner: &ShardObservation, side: MoveSide, goal: MoveGoal) -> OwnerObservation<'_> {
        OwnerObservation { id: ID, goal, term: term(2), side, owner, is_published: true }
    }

    #[test]
    fn an_owner_ends_its_recording_alone_only_if_no_rollback_is_possible() {
        let (first, back) = (owner(MoveLeg::FIRST), owner(MoveLeg::FIRST.next()));
        let (there, here) = (MoveSide::Destination, MoveSide::Origin);
        let forget = |leg| MoveRequest::Forget(MoveTicket { id: ID, leg, term: term(2) });
        let next = |owner, side, goal| next_without_kept_source(&seen(owner, side, goal));
        assert_eq!(next(&first, there, MoveGoal::Settle), Some(forget(MoveLeg::FIRST)));
        assert_eq!(next(&back, here, MoveGoal::Back), Some(forget(MoveLeg::FIRST.next())));
        for (owner, side, goal) in [
            (&first, there, MoveGoal::Forward),
            (&first, there, MoveGoal::Back),
            (&back, here, MoveGoal::Forward),
        ] {
            assert_eq!(next(owner, side, goal), None, "{side:?} {goal:?}");
        }
    }

    #[test]
    fn an_owner_that_is_not_published_or_has_another_mover_keeps_its_recording() {
        let owner = owner(MoveLeg::FIRST);
        let settled = || seen(&owner, MoveSide::Destination, MoveGoal::Settle);
        let unpublished = OwnerObservation { is_published: false, ..settled() };
        assert_eq!(next_without_kept_source(&unpublished), None);
        let late = OwnerObservation { term: term(1), ..settled() };
        assert_eq!(next_without_kept_source(&late), None);
        let new = OwnerObservation { term: term(3), ..settled() };
        let raise = MoveRequest::Raise { id: ID, term: term(3) };
        assert_eq!(next_without_kept_source(&new), Some(raise));
        let importing = ShardObservation { slots: SlotsState::Importing, ..owner.clone() };
        let importing = OwnerObservation { owner: &importing, ..settled() };
        assert_eq!(next_without_kept_source(&importing), None);
    }
}
