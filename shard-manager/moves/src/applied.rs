//! Applied rows: the state of the source that the rows on the target have.
//!
//! **Invariant:** it is stored in the transaction that stores the rows, so the target has exactly
//! the rows of the source up to the cursor, as of `mark`.

use model::position::Position;

use crate::mark::Mark;

/// Stream of changes of a source: its marks are comparable with each other and with no others.
///
/// A promotion ends it, because the new primary may give the number of a lost transaction to
/// another one. So does the end of tracing, because changes after it are not recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// Timeline of the source, a number that grows with each promotion.
    pub timeline: u32,
    /// Position of the source when its row of the move was made and tracing began.
    pub begun: Position,
}

/// State of the source that the target has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedRows {
    /// Number of the copy: copying again begins the next pass. Without it, the first round of an
    /// earlier copy would be accepted in the next one.
    pub pass: u32,
    /// Number of the round within the pass.
    pub round: u64,
    /// Stream of changes that the mark belongs to.
    pub feed: Feed,
    /// Changes that the rows contain.
    pub mark: Mark,
}

impl AppliedRows {
    /// Returns the state before the first round of a pass.
    pub fn begin(pass: u32) -> Self {
        Self { pass, ..Self::default() }
    }

    /// Returns true before the first round.
    pub fn is_empty(&self) -> bool {
        self.round == 0 && self.mark == Mark::Nothing && self.feed == Feed::default()
    }

    /// Returns the state after the next round of the pass.
    #[must_use]
    pub fn after_round(&self, feed: Feed, mark: Mark) -> Self {
        Self { pass: self.pass, round: self.round + 1, feed, mark }
    }
}
