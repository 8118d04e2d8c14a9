//! Rules on which the safety and the termination of a move depend, each of which prevents a fault.
//!
//! The product follows all of them. Tests remove one of them and show that the fault appears.
//!
//! **Not here:** rules of readers and their tokens, which other crates follow.

use model::sabotage::{Mutation, is_on};

/// Rule of the protocol, with the fault that it prevents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveRule {
    /// The commit demands that the target lacks no change of the slots. A fence alone is not
    /// enough: once it has ended, because of a clock or a slow mover, writes are accepted again.
    ChangesDecide,
    /// The commit demands that the target's rows come from the source's own feed. Otherwise, when a
    /// transaction id is reused after a failover, a lost change looks applied.
    OwnFeed,
    /// A round is never stored after one from a higher timeline. Otherwise a mover that takes a
    /// deposed node for the source would repair the target from it while the commit is in doubt.
    NoOlderTimeline,
    /// Rounds are stored only while the slots are imported. Otherwise a round that timed out would
    /// overwrite later writes of the owner. [`Self::RoundInOrder`] refuses such a round, too: the
    /// fault appears only without both rules.
    RoundWhileImporting,
    /// A round is stored only after the round that it continues. Otherwise rows of an earlier state
    /// would replace those of a later one.
    RoundInOrder,
    /// Cancelling a leg deletes the source's row together with the fence. Otherwise a late fence
    /// and a late commit leave the slots without an owner.
    LiftDeletesRow,
    /// Copying again begins the next pass. Otherwise the first round of the earlier copy is
    /// accepted, although the changes since then are deleted.
    NextPass,
    /// A mover that has sent the target a request to delete its copy, for good or to begin again,
    /// then takes its next term. Otherwise that request, if it is late, empties the target after
    /// the mover has decided to commit. A move that has ended begins again in the next term, too:
    /// otherwise late requests from before its end would be accepted.
    NextTerm,
    /// The copy begins again only in a term in which this mover has sent no commit. Otherwise a
    /// commit with an unknown outcome may be carried out after the mover has read the shards, and
    /// gives the slots to a target that is emptied.
    NoCommitInTerm,
    /// The term is confirmed on the source before the copy begins again. Otherwise a failover of
    /// the source could lose it, and a late commit of an earlier term would give the slots to a
    /// target that is emptied.
    TermConfirmed,
    /// Recorded changes are deleted only once a majority of the target's nodes has the rows.
    /// Otherwise a failover of the target could lose them.
    TrimConfirmed,
    /// The activation names its leg. Otherwise a delayed activation of an earlier leg would make a
    /// second owner.
    ActivationNamesLeg,
    /// The activation names the beginning of the source's row. Otherwise, when a move that has
    /// ended begins again with the first leg, a delayed activation from before its end would make a
    /// second owner.
    ActivationNamesBeginning,
    /// Cleaning first sets the cursor to `Empty`, and a change of direction demands `Whole`.
    /// Otherwise, if a failover of the catalog loses the order to clean, the slots could return to
    /// a shard whose rows are deleted.
    CleaningMarked,
    /// The rows on the target are confirmed before the commit, which nothing can undo.
    DrainConfirmed,
    /// The commit is confirmed before the activation. Otherwise the source could own the slots
    /// again after a failover.
    CommitConfirmed,
    /// The activation is confirmed before publication, cleaning or the next leg. Otherwise a
    /// failover of the target could leave the slots without an owner.
    ActivationConfirmed,
    /// A move has ended once the absence of its rows is confirmed on both shards. A leg that is
    /// cancelled may end on its origin alone: [`crate::next_step::without_destination`].
    EndConfirmed,
    /// A term that a failover has lost is raised again. Otherwise the mover's requests would be
    /// refused for ever.
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
