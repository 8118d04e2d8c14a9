//! Rules on which the safety and the termination of a move depend, each of which prevents a fault.
//!
//! The product follows all of them. Tests remove a rule and show that its fault appears. A state or
//! a change is *confirmed* once a majority of the shard's nodes has flushed it, so that no failover
//! can undo it. *Late* requests are those that a shard receives long after they were sent.
//!
//! **Not here:** rules of readers and their tokens, which other crates follow.

use model::sabotage::{Mutation, is_on};

/// Rule of the protocol for moves. Its description names the fault that it prevents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveRule {
    /// The commit is refused if the target lacks a change of the slots. A fence alone is not
    /// enough: it may have expired, because of a wrong clock or a slow mover, and then writes are
    /// accepted again.
    ChangesDecide,
    /// The target's rows must come from the source's present [`crate::applied::Feed`]. Otherwise,
    /// when a transaction ID is reused after a failover, the target seems to have a change that it
    /// lacks.
    OwnFeed,
    /// A round is never stored after a round from a higher timeline. Otherwise a mover that
    /// mistakes a deposed primary for the source would overwrite rows on the target with those of
    /// the deposed primary, although a commit that is still in transit may make the target the
    /// owner of these rows.
    NoOlderTimeline,
    /// A shard stores rounds only while it does not own the slots: a target while it imports them,
    /// and a source while it is kept for a rollback. Otherwise a late round would overwrite newer
    /// writes of the owner. [`Self::RoundInOrder`] refuses such a round, too, so the fault appears
    /// only without both rules.
    RoundWhileImporting,
    /// A round is stored only directly after the round that it continues. Otherwise rows of an
    /// earlier state would replace those of a later one.
    RoundInOrder,
    /// Cancelling a leg deletes the source's record in the transaction that removes the fence.
    /// Otherwise a late fence and a late commit could leave the slots without an owner.
    LiftDeletesRow,
    /// A copy that begins again has a new pass number. Otherwise a late first round of the earlier
    /// copy would be accepted, although the changes since that round are no longer recorded.
    NextPass,
    /// A mover takes its next term after it has sent the target a request to delete its copy,
    /// either for good or to copy again. Otherwise that request, if it is late, could empty the
    /// target after the mover has decided to commit. If a move begins again after its end, it also
    /// does so in the next term: otherwise late requests from before its end would be accepted.
    NextTerm,
    /// The copy begins again only in a term in which this mover has sent no commit. Otherwise a
    /// commit with an unknown outcome could be carried out after the mover has read the shards, and
    /// would give the slots to a target that has been emptied.
    NoCommitInTerm,
    /// The term is confirmed on the source before the copy begins again. Otherwise a failover of
    /// the source could lose the term, and a late commit of an earlier term would give the slots to
    /// a target that has been emptied.
    TermConfirmed,
    /// The source deletes recorded changes only once a majority of the target's nodes has the rows
    /// with these changes. Otherwise a failover of the target could lose the changes for good.
    TrimConfirmed,
    /// An activation contains the number of its leg. Otherwise a late activation of an earlier leg
    /// would create a second owner.
    ActivationNamesLeg,
    /// An activation contains the position at which the source's record of the move was created.
    /// Otherwise, when a move that has ended begins again with the first leg, a late activation
    /// from before its end would create a second owner.
    ActivationNamesBeginning,
    /// Cleaning sets the source's cursor to `Empty` before it deletes a row, and a change of
    /// direction requires the cursor `Whole`. Otherwise, if a failover of the catalog lost the
    /// operator's order to clean the source, the slots could return to a shard whose rows are
    /// deleted.
    CleaningMarked,
    /// The rows on the target are confirmed before the commit, because a failover of the target
    /// could lose them and the commit cannot be undone.
    DrainConfirmed,
    /// The commit is confirmed before the activation. Otherwise, after a failover of the source,
    /// both shards could own the slots.
    CommitConfirmed,
    /// The activation is confirmed before publication, cleaning or the next leg. Otherwise a
    /// failover of the target could leave the slots without an owner.
    ActivationConfirmed,
    /// A move ends only once it is confirmed on both shards that they have no record of it. A
    /// cancelled leg may end on the origin alone: [`crate::next_step::without_destination`].
    EndConfirmed,
    /// If a failover has lost the mover's term, the mover stores it on the shard again. Otherwise
    /// the shard would refuse all further requests of the mover.
    RaiseAgain,
}

/// Rules that are in force: all of them, except in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveRules(u32);

impl MoveRules {
    /// All rules.
    pub const ALL: Self = Self(u32::MAX);

    /// Returns true if the rule is in force.
    #[inline]
    pub fn demand(self, rule: MoveRule) -> bool {
        self.0 >> (rule as u32) & 1 == 1
    }

    /// Returns the rules that the product follows: all of them, except those that a mutation of the
    /// feature `sabotage` removes.
    pub fn in_force() -> Self {
        let violated = [
            (Mutation::ForgetLastChanges, MoveRule::ChangesDecide),
            (Mutation::ActivateUnconfirmed, MoveRule::CommitConfirmed),
        ];
        let violated = violated.into_iter().filter(|(mutation, _)| is_on(*mutation));
        violated.fold(Self::ALL, |rules, (_, rule)| rules.without(rule))
    }

    /// Returns these rules without one of them.
    pub(crate) fn without(self, rule: MoveRule) -> Self {
        Self(self.0 & !(1 << (rule as u32)))
    }
}
