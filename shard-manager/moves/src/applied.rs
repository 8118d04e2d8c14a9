//! Applied rows: the state of the source that the target's rows have reached.
//!
//! **Invariant:** this state is stored in the same transaction as the rows. The target therefore
//! has exactly the rows that the source had at `mark`, up to the cursor of the copy.

use model::position::Position;

use crate::mark::Mark;

/// Feed of changes: one uninterrupted recording of a shard's changes, on one timeline. Marks are
/// comparable only if they belong to the same feed.
///
/// A promotion ends the feed, because the new primary may give the ID of a lost transaction to
/// another transaction. The end of tracing (the recording of changes for a move) ends it too,
/// because later changes are not recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// Timeline of the shard that records the changes. The number grows with each promotion.
    pub timeline: u32,
    /// Position of that shard when it created its record of the move.
    pub begun: Position,
}

/// State of the source that the target's rows have reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedRows {
    /// Number of the copy. When the copy begins again, the next pass begins. Without this number, a
    /// late first round of an earlier copy would be accepted in the next copy.
    pub pass: u32,
    /// Number of the round within the pass.
    pub round: u64,
    /// Feed to which the mark belongs.
    pub feed: Feed,
    /// Set of the changes that the rows contain.
    pub mark: Mark,
}

impl AppliedRows {
    /// Returns the state before the first round of a pass.
    pub fn begin(pass: u32) -> Self {
        Self { pass, ..Self::default() }
    }

    /// Returns true if no round has been stored yet.
    pub fn is_empty(&self) -> bool {
        self.round == 0 && self.mark == Mark::Nothing && self.feed == Feed::default()
    }

    /// Returns the state after the next round of the pass.
    #[must_use]
    pub fn after_round(&self, feed: Feed, mark: Mark) -> Self {
        Self { pass: self.pass, round: self.round + 1, feed, mark }
    }
}
