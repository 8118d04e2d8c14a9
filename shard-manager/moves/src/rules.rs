//! Rules: the sentences on which the safety and the end of a move rest, each of which prevents a
//! fault.
//!
//! The product follows all of them. Tests take one away and show that the fault appears.
//!
//! **Not here:** rules of readers and their tokens, which other crates carry out.

use model::sabotage::{Mutation, is_on};

/// Sentence of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveRule {
    /// The commit demands that the target lacks no change of the slots. A fence that has ended, by
    /// a clock or by the time a mover needs, lets writers go on.
    ChangesDecide,
    /// The commit demands that the target's rows come from the source's own feed. After a failover
    /// a transaction id is given again, and a lost change looks applied.
    OwnFeed,
    /// A round is never stored after one from a higher timeline. A mover that still believes in a
    /// deposed source would repair the target from it while the commit is in doubt.
    NoOlderTimeline,
    /// Rounds are stored only while the slots are imported. One that timed out would overwrite
    /// later writes of the owner. [`Self::RoundInOrder`] refuses it, too: the fault appears without
    /// both.
    RoundWhileImporting,
    /// A round is stored only after the round from which it goes on. Otherwise rows of an earlier
    /// state would replace those of a later one.
    RoundInOrder,
    /// Giving up a leg deletes the source's row together with the fence. Otherwise a late fence
    /// and a late commit leave the slot without an owner.
    LiftDeletesRow,
    /// Copying again begins the next pass. Otherwise the first round of the earlier copy fits,
    /// although the changes since it are deleted.
    NextPass,
    /// A mover that has asked the target to delete its copy, for good or to begin again, goes on in
    /// its next term. Otherwise the request, if it is late, empties the target after the mover has
    /// decided to commit. A move that has ended begins again in the next term, too: late requests
    /// of the time before would fit.
    NextTerm,
    /// The copy begins again only in a term in which this mover has sent no commit. One with an
    /// unknown outcome may be carried out after the mover has looked, and the slots would go to a
    /// target that is emptied.
    NoCommitInTerm,
    /// The term is confirmed on the source before the copy begins again. A failover of the source
    /// would lose it, and a late commit of an earlier term would give the slots to a target that
    /// is emptied.
    TermConfirmed,
    /// Recorded changes are deleted once a majority of the target's nodes has the rows. A failover
    /// of the target would lose them.
    TrimConfirmed,
    /// The activation names its leg. A delayed one of an earlier leg would make a second owner.
    ActivationNamesLeg,
    /// The activation names the beginning of the source's row. A move that has ended may begin
    /// again, with the first leg, and a delayed activation of the time before would make a second
    /// owner.
    ActivationNamesBeginning,
    /// Cleaning first empties the cursor, and changing the direction needs it whole. A catalog that
    /// has forgotten the cleaning would return to deleted rows.
    CleaningMarked,
    /// The rows on the target are confirmed before the commit, which nothing can undo.
    DrainConfirmed,
    /// The commit is confirmed before the activation. A failover of the source would own the slots
    /// again.
    CommitConfirmed,
    /// The activation is confirmed before publication, cleaning or the next leg. A failover of the
    /// target would leave the slots without an owner.
    ActivationConfirmed,
    /// A move has ended once the absence of its rows is confirmed on both shards.
    EndConfirmed,
    /// A term that a failover has lost is raised again. The mover's requests would be refused for
    /// ever.
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
    /// feature `sabotage` takes away.
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
