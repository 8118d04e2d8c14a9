//! Coverage: the events that have occurred in a simulated world. Runs prove nothing about an event
//! that never occurs in them.

use model::keyspace::Slot;

use crate::identity::{MoveId, MoveLeg};
use crate::move_row::MoveRow;
use crate::observation::{SlotsState, state_of};
use crate::request::MoveRequest;
use crate::shard_metadata::ShardMetadata;

/// Event that must occur in the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurrence {
    /// Several slots were committed by one transaction.
    CommitOfSeveralSlots,
    /// Several slots were activated by one transaction.
    ActivationOfSeveralSlots,
    /// A shard of three nodes failed over.
    FailoverOfThree,
    /// A shard of four nodes failed over.
    FailoverOfFour,
    /// A mover waited because only one of three replicas had flushed a position, so that the
    /// primary and this replica were not a majority.
    WaitForSecondOfThree,
    /// A failover lost a fence.
    FenceLost,
    /// A failover lost a commit.
    CommitLost,
    /// A failover lost an activation.
    ActivationLost,
    /// A failover lost the term of a mover.
    TermLost,
    /// A failover of the target lost rounds.
    RoundLost,
    /// A failover of the catalog lost a publication.
    PublicationLost,
    /// A failover of the catalog lost a goal that the operator had set.
    GoalLost,
    /// A failover of the catalog lost the end of the move.
    EndLost,
    /// Two movers had the same term number.
    TermGivenTwice,
    /// A deposed primary committed.
    CommitOfDeposed,
    /// A late fence was carried out.
    LateFence,
    /// A late commit was carried out.
    LateCommit,
    /// A late activation, of a mover or a router, was carried out.
    LateActivation,
    /// A late round was stored.
    LateRound,
    /// A fence ended by itself, and a write was accepted.
    WriteAfterFence,
    /// The target's rows, from an earlier history of the source, were compared with the source.
    Comparison,
    /// A copy began again.
    CopyAgain,
    /// A leg was cancelled before its commit.
    Cancel,
    /// The slots went back to the origin.
    SecondLeg,
    /// The slots went to the destination again.
    ThirdLeg,
    /// Rows were deleted by the cleaning.
    Cleaning,
    /// A shard without replicas took part.
    NoReplicas,
}

impl Occurrence {
    pub(super) const ALL: [Self; 27] = [
        Self::CommitOfSeveralSlots,
        Self::ActivationOfSeveralSlots,
        Self::FailoverOfThree,
        Self::FailoverOfFour,
        Self::WaitForSecondOfThree,
        Self::FenceLost,
        Self::CommitLost,
        Self::ActivationLost,
        Self::TermLost,
        Self::RoundLost,
        Self::PublicationLost,
        Self::GoalLost,
        Self::EndLost,
        Self::TermGivenTwice,
        Self::CommitOfDeposed,
        Self::LateFence,
        Self::LateCommit,
        Self::LateActivation,
        Self::LateRound,
        Self::WriteAfterFence,
        Self::Comparison,
        Self::CopyAgain,
        Self::Cancel,
        Self::SecondLeg,
        Self::ThirdLeg,
        Self::Cleaning,
        Self::NoReplicas,
    ];
}

/// Set of the events that have occurred in a world, as bits.
#[derive(Clone, Copy, Default)]
pub(super) struct Coverage(u64);

impl Coverage {
    pub(super) fn note(&mut self, event: Occurrence) {
        self.0 |= 1 << (event as u32);
    }

    pub(super) fn note_if(&mut self, is_so: bool, event: Occurrence) {
        self.0 |= u64::from(is_so) << (event as u32);
    }

    pub(super) fn has(self, event: Occurrence) -> bool {
        self.0 >> (event as u32) & 1 == 1
    }

    /// Records the events of a request that has changed a shard.
    pub(super) fn note_change(&mut self, request: &MoveRequest, row: Option<&MoveRow>) {
        let is_of_several = row.is_some_and(|row| row.slots.len() > 1);
        match request {
            MoveRequest::Commit(..) => {
                self.note_if(is_of_several, Occurrence::CommitOfSeveralSlots);
            }
            MoveRequest::Activate(activation) => {
                self.note_if(is_of_several, Occurrence::ActivationOfSeveralSlots);
                self.note_if(activation.leg == MoveLeg(2), Occurrence::SecondLeg);
                self.note_if(activation.leg == MoveLeg(3), Occurrence::ThirdLeg);
            }
            MoveRequest::Store(_, round) => {
                self.note_if(round.is_comparison, Occurrence::Comparison);
            }
            MoveRequest::CopyAgain(_) => self.note(Occurrence::CopyAgain),
            MoveRequest::Lift(_) => self.note(Occurrence::Cancel),
            MoveRequest::Clean(_) => self.note(Occurrence::Cleaning),
            MoveRequest::Prepare(_)
            | MoveRequest::Trace(_)
            | MoveRequest::Raise { .. }
            | MoveRequest::Trim(..)
            | MoveRequest::Fence(_)
            | MoveRequest::Reverse(_)
            | MoveRequest::Discard(_)
            | MoveRequest::BeginCleaning(_)
            | MoveRequest::Forget(_) => {}
        }
    }

    /// Records the event of a late request that has changed a shard.
    pub(super) fn note_late(&mut self, request: &MoveRequest) {
        self.note_if(matches!(request, MoveRequest::Fence(_)), Occurrence::LateFence);
        self.note_if(matches!(request, MoveRequest::Commit(..)), Occurrence::LateCommit);
        self.note_if(matches!(request, MoveRequest::Activate(_)), Occurrence::LateActivation);
        self.note_if(matches!(request, MoveRequest::Store(..)), Occurrence::LateRound);
    }

    /// Records what a failover has lost, from the metadata before and after it.
    pub(super) fn note_failover(
        &mut self,
        (before, after): (&ShardMetadata, &ShardMetadata),
        (id, slots): (MoveId, &[Slot]),
        nodes: usize,
    ) {
        self.note_if(nodes == 3, Occurrence::FailoverOfThree);
        self.note_if(nodes == 4, Occurrence::FailoverOfFour);
        let had = state_of(before, slots);
        let is_lost = had != state_of(after, slots);
        self.note_if(is_lost && had == SlotsState::Fenced, Occurrence::FenceLost);
        self.note_if(is_lost && had == SlotsState::Moved, Occurrence::CommitLost);
        self.note_if(is_lost && had == SlotsState::Owned, Occurrence::ActivationLost);
        if let (Some(before), Some(after)) = (before.row(id), after.row(id)) {
            self.note_if(before.term > after.term, Occurrence::TermLost);
            self.note_if(before.applied != after.applied && !is_lost, Occurrence::RoundLost);
        }
    }
}

/// Number of seeds in which each event occurred.
#[derive(Default)]
pub(super) struct CoverageSum([u64; Occurrence::ALL.len()]);

impl CoverageSum {
    pub(super) fn add(&mut self, coverage: Coverage) {
        for event in Occurrence::ALL {
            self.0[event as usize] += u64::from(coverage.has(event));
        }
    }

    /// Returns the events that occurred in fewer than this number of seeds, each with its number of
    /// seeds.
    pub(super) fn below(&self, seeds: u64) -> Vec<(Occurrence, u64)> {
        let counts = Occurrence::ALL.into_iter().map(|event| (event, self.0[event as usize]));
        counts.filter(|(_, count)| *count < seeds).collect()
    }
}
